package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// targetClaimsFile holds which disks a target instance has begun to deliver to.
const targetClaimsFile = "claims.json"

// diskClaim is a disk that deliveries of this target instance have written to: what it holds is theirs.
type diskClaim struct {
	Path      string `json:"path"`
	SizeBytes int64  `json:"sizeBytes"`
	// Identity tells the disk from another one that has its name at the next start.
	Identity string `json:"identity"`
}

type diskClaims []diskClaim

// claims reads what was claimed.
func (d *agentDir) claims() (claims diskClaims, err error) {
	name := filepath.Join(d.path, targetClaimsFile)
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &claims)
	}
	if err != nil {
		return nil, fmt.Errorf("read which disks were delivered to: %w; remove %s to have them looked at as new ones", err, name)
	}
	return claims, nil
}

// saveClaims replaces what is claimed, durably.
func (d *agentDir) saveClaims(claims diskClaims) error {
	data, err := json.MarshalIndent(claims, "", "  ")
	if err != nil {
		return err
	}
	return d.replace(targetClaimsFile, append(data, '\n'))
}

// cover says whether a disk was claimed, and is still the same one.
func (c diskClaims) cover(path string, size int64) bool {
	for _, claim := range c {
		if claim.Path == path {
			return claim.SizeBytes == size && claim.Identity == diskIdentity(path)
		}
	}
	return false
}

// add claims a disk.
func (c *diskClaims) add(path string, size int64) {
	fresh := diskClaim{Path: path, SizeBytes: size, Identity: diskIdentity(path)}
	for i := range *c {
		if (*c)[i].Path == path {
			(*c)[i] = fresh
			return
		}
	}
	*c = append(*c, fresh)
}

// diskIdentity tells a disk from others that may have its name. A block device is known by what its maker or its volume manager calls
// it; one that nobody calls anything is the same until the machine starts again, for then names are given anew. A file is known by its
// place.
func diskIdentity(path string) string {
	info, err := os.Stat(path)
	if err != nil || info.Mode()&os.ModeDevice == 0 {
		return "file"
	}
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return "unknown"
	}
	number := fmt.Sprintf("%d:%d", unix.Major(uint64(stat.Rdev)), unix.Minor(uint64(stat.Rdev))) //nolint:unconvert // narrower on other architectures
	read := func(name string) string {
		data, err := os.ReadFile(name)
		if err != nil {
			return ""
		}
		return strings.TrimSpace(strings.Trim(string(data), "\x00"))
	}
	if dir, err := filepath.EvalSymlinks("/sys/dev/block/" + number); err == nil {
		part := read(filepath.Join(dir, "partition"))
		if part != "" {
			dir = filepath.Dir(dir)
		}
		for _, name := range []string{"wwid", "device/wwid", "dm/uuid", "md/uuid", "serial", "device/serial"} {
			if value := read(filepath.Join(dir, name)); value != "" {
				return strings.TrimSpace(name + " " + value + " " + part)
			}
		}
	}
	return "until restart " + read("/proc/sys/kernel/random/boot_id") + " " + number
}
