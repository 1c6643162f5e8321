package containerimage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/google/uuid"

	"github.com/drover/drover/replica/ext4"
)

// Errors of [Build], besides those of [ext4]; use [errors.Is].
var (
	// ErrNoRoot says that no root file system of a Linux server was found.
	ErrNoRoot = errors.New("there is no root file system of a Linux server")
	// ErrFileSystem says that files which belong into the image are in a file system that cannot be read here.
	ErrFileSystem = errors.New("a file system cannot be read here")
	// ErrFile says that a file cannot be in the image of a container.
	ErrFile = errors.New("a file cannot be in the image of a container")
)

// Volume is what a file system can be on: a partition, or a whole disk without any.
type Volume struct {
	// Device is the name that the server's kernel gives it, as /dev/vda1, and Place says for a person where it is.
	Device, Place string
	// PartUUID and PartLabel are the names that its partition table gives it.
	PartUUID, PartLabel string
	// System says that it is on the system disk, where the root file system is.
	System bool
	// Bytes are its contents, Size bytes long.
	Bytes io.ReaderAt
	Size  int64
}

// volume is a volume and what is on it.
type volume struct {
	Volume
	kind        string // for a person; empty: nothing that is known
	uuid, label string
	hides       bool // volumes of other names are in it
	fs          *ext4.FS
	damage      error // of an ext file system that cannot be opened
}

func (v *volume) String() string {
	if v.kind == "" {
		return v.Place
	}
	return v.Place + " (" + v.kind + ")"
}

// signature is how a kind of contents is known, and where it has its names.
type signature struct {
	kind                   string
	offset                 int
	magic                  string
	uuid, label, labelSize int
	hides                  bool
}

var signatures = []signature{
	{kind: "XFS", magic: "XFSB", uuid: 32, label: 108, labelSize: 12},
	{kind: "Btrfs", offset: 0x10040, magic: "_BHRfS_M", uuid: 0x10020, label: 0x1012b, labelSize: 256},
	{kind: "encrypted, LUKS", magic: "LUKS\xba\xbe", hides: true},
	{kind: "LVM", magic: "LABELONE", hides: true},
	{kind: "LVM", offset: 512, magic: "LABELONE", hides: true},
	{kind: "RAID", offset: 4096, magic: "\xfc\x4e\x2b\xa9", hides: true},
	{kind: "RAID", magic: "\xfc\x4e\x2b\xa9", hides: true},
	{kind: "swap", offset: 4086, magic: "SWAPSPACE2", uuid: 1036, label: 1052, labelSize: 16},
	{kind: "NTFS", offset: 3, magic: "NTFS    "},
	{kind: kindFAT, offset: 82, magic: "FAT32"},
	{kind: kindFAT, offset: 54, magic: "FAT1"},
	{kind: "F2FS", offset: 1024, magic: "\x10\x20\xf5\xf2", uuid: 1024 + 0x6c},
	{kind: "EROFS", offset: 1024, magic: "\xe2\xe1\xf5\xe0", uuid: 1024 + 48, label: 1024 + 64, labelSize: 16},
	{kind: "SquashFS", magic: "hsqs"},
	{kind: "ReiserFS", offset: 0x10034, magic: "ReIsEr", uuid: 0x10054, label: 0x10064, labelSize: 16},
	{kind: "JFS", offset: 0x8000, magic: "JFS1", uuid: 0x8088, label: 0x8098, labelSize: 16},
}

const (
	kindExt   = "ext4"
	kindFAT   = "FAT"
	probeSize = 0x10000 + 4096 // up to where the signatures reach
)

// probe finds out what is on a volume.
func probe(v Volume) (*volume, error) {
	p := &volume{Volume: v}
	fs, err := ext4.Open(v.Bytes, v.Size)
	switch {
	case err == nil:
		p.kind, p.fs, p.uuid, p.label = kindExt, fs, fs.UUID, fs.Label
		return p, nil
	case errors.Is(err, ext4.ErrDamaged) || errors.Is(err, ext4.ErrUnsupported):
		p.kind, p.damage = kindExt, err
		return p, nil
	case !errors.Is(err, ext4.ErrNotExt):
		return nil, fmt.Errorf("%s: %w", v.Place, err)
	}
	b := make([]byte, probeSize)
	if n, err := v.Bytes.ReadAt(b[:min(probeSize, v.Size)], 0); err != nil && int64(n) < min(probeSize, v.Size) {
		return nil, fmt.Errorf("%s: %w", v.Place, err)
	}
	for _, s := range signatures {
		if !bytes.HasPrefix(b[s.offset:], []byte(s.magic)) {
			continue
		}
		p.kind, p.hides = s.kind, s.hides
		if s.uuid > 0 {
			id, err := uuid.FromBytes(b[s.uuid : s.uuid+16])
			if err != nil {
				return nil, err
			}
			p.uuid = id.String()
		}
		label, _, _ := bytes.Cut(b[s.label:s.label+s.labelSize], []byte{0})
		p.label = strings.TrimRight(string(label), " ")
		if s.kind == kindFAT {
			serial := binary.LittleEndian.Uint32(b[s.offset-15:]) // both kinds have it at the same distance
			p.uuid = fmt.Sprintf("%04X-%04X", serial>>16, serial&0xffff)
		}
		break
	}
	return p, nil
}

// answers says whether a volume is the one that a field of /etc/fstab names.
func (v *volume) answers(spec string) bool {
	for prefix, path := range map[string]string{
		"UUID=": "/dev/disk/by-uuid/", "LABEL=": "/dev/disk/by-label/", "PARTUUID=": "/dev/disk/by-partuuid/", "PARTLABEL=": "/dev/disk/by-partlabel/",
	} {
		name, is := strings.CutPrefix(spec, prefix)
		if !is {
			name, is = strings.CutPrefix(spec, path)
		}
		if !is || name == "" {
			continue
		}
		switch prefix {
		case "UUID=":
			return strings.EqualFold(name, v.uuid)
		case "LABEL=":
			return name == v.label
		case "PARTUUID=":
			return strings.EqualFold(name, v.PartUUID)
		default:
			return name == v.PartLabel
		}
	}
	return spec != "" && spec == v.Device
}

// has says whether a file system has a name at a path, whatever it is.
func has(fs *ext4.FS, path string) (bool, error) {
	_, err := fs.Find(path, false)
	if errors.Is(err, errNotExist) {
		return false, nil
	}
	return err == nil, err
}

// isRoot says whether a file system is the root of a Linux server: it has two of what every such has.
func isRoot(fs *ext4.FS) (bool, error) {
	signs := 0
	for _, paths := range [][]string{{"/etc/os-release", "/usr/lib/os-release"}, {"/sbin/init", "/usr/lib/systemd/systemd"}, {"/etc/fstab"}} {
		for _, path := range paths {
			is, err := has(fs, path)
			if err != nil {
				return false, err
			}
			if is {
				signs++
				break
			}
		}
	}
	return signs >= 2, nil
}

// findRoot returns the volume that holds the root file system, and its /etc/fstab.
func findRoot(volumes []*volume) (*volume, []mount, error) {
	var roots []*volume
	var damage error
	for _, v := range volumes {
		if !v.System || v.kind != kindExt {
			continue
		}
		is, err := false, v.damage
		if err == nil {
			is, err = isRoot(v.fs)
		}
		if err != nil {
			damage = errors.Join(damage, fmt.Errorf("%s: %w", v, err))
		}
		if is {
			roots = append(roots, v)
		}
	}
	var mounts []mount
	for i, v := range roots {
		table, err := readTable(v.fs)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", v, err)
		}
		if len(roots) == 1 {
			return v, table, nil
		}
		// Of several, as a second system or a rescue system makes them, the one that says of itself that it is the root.
		for _, m := range table {
			if m.path == "/" && v.answers(m.spec) {
				if mounts != nil {
					return nil, nil, fmt.Errorf("%w: %s and %s both call themselves the root", ErrNoRoot, roots[0], v)
				}
				roots[0], mounts = roots[i], table
			}
		}
	}
	switch {
	case mounts != nil:
		return roots[0], mounts, nil
	case len(roots) > 1:
		return nil, nil, fmt.Errorf("%w: %d partitions of the system disk look like one, and none calls itself the root in its /etc/fstab", ErrNoRoot, len(roots))
	case damage != nil:
		return nil, nil, damage
	}
	return nil, nil, noRoot(volumes)
}

// noRoot says what there is instead of a root file system.
func noRoot(volumes []*volume) error {
	var there []string
	kind := ErrNoRoot
	for _, v := range volumes {
		if !v.System {
			continue
		}
		there = append(there, v.String())
		if v.kind != "" && v.kind != kindExt && v.kind != kindFAT && v.kind != "swap" {
			kind = ErrFileSystem // it is there, in all likelihood
		}
	}
	if len(there) == 0 {
		there = []string{"nothing"}
	}
	return fmt.Errorf("%w: the system disk has %s", kind, strings.Join(there, ", "))
}
