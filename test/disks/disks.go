// Package disks makes raw disk images for the demo and the acceptance tests: a GPT, a Linux file
// system with real files in it, zeroes and holes. It needs neither root nor any tool on the machine.
//
// What the files hold, and the ids of disk, partitions and file system, follow from a seed. Time
// stamps inside the file system are the time of making, so two images of one seed hold the same files
// but are not the same bytes.
package disks

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"strings"

	"github.com/diskfs/go-diskfs/backend"
	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/ext4"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/google/uuid"
)

const (
	sectorSize  = 512
	mib         = 1 << 20
	blockSize   = 4096    // of the file system
	mostChanges = 8       // that leave files of their own on a disk
	chunkSize   = 4 * mib // one write: a large file is written in such pieces

	// MinSizeBytes is the size of the smallest disk Make makes.
	MinSizeBytes = 32 * mib
)

// Layout says how a disk is partitioned.
type Layout int

const (
	// System is a BIOS boot partition of 1 MiB and a root file system in the rest. It is the default.
	// The file system is that of a server, by its etc/os-release and etc/fstab.
	System Layout = iota
	// Data is one file system in the whole disk.
	Data
)

// Spec says what disk to make. Its zero value, but for SizeBytes, is a system disk filled to a quarter.
type Spec struct {
	SizeBytes int64  // size of the disk, a whole number of MiB, at least MinSizeBytes
	Seed      uint64 // decides the contents of all files
	Layout    Layout // System when zero
	Label     string // of the file system, at most 16 bytes; "root" or "data" when empty

	// FillBytes is roughly what the files hold together; 0 means a quarter of the disk, and at most three
	// quarters of it are possible.
	FillBytes int64
	// CompressiblePercent of FillBytes is text; the rest is random bytes. 0 means 50, -1 means none.
	CompressiblePercent int
}

func (s Spec) withDefaults() (Spec, error) {
	if s.SizeBytes < MinSizeBytes || s.SizeBytes%mib != 0 {
		return s, fmt.Errorf("size of %d bytes: want a whole number of MiB, at least %d", s.SizeBytes, MinSizeBytes/mib)
	}
	if s.Layout != System && s.Layout != Data {
		return s, fmt.Errorf("unknown layout %d", s.Layout)
	}
	if s.Label == "" {
		s.Label = map[Layout]string{System: "root", Data: "data"}[s.Layout]
	}
	if len(s.Label) > 16 {
		return s, fmt.Errorf("label %q is longer than the 16 bytes a file system holds", s.Label)
	}
	switch {
	case s.FillBytes == 0:
		s.FillBytes = s.SizeBytes / 4
	case s.FillBytes < 0 || s.FillBytes > s.SizeBytes/4*3:
		return s, fmt.Errorf("fill of %d bytes: want at most three quarters of the disk, %d", s.FillBytes, s.SizeBytes/4*3)
	}
	switch {
	case s.CompressiblePercent == 0:
		s.CompressiblePercent = 50
	case s.CompressiblePercent == -1:
		s.CompressiblePercent = 0
	case s.CompressiblePercent < 0 || s.CompressiblePercent > 100:
		return s, fmt.Errorf("compressible percentage %d: want 1 to 100, or -1 for none", s.CompressiblePercent)
	}
	return s, nil
}

// Make makes a new disk image at name. A file that is there already is an error; a file half made is removed.
func Make(name string, spec Spec) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("make the disk %s: %w", name, err)
		}
	}()
	spec, err = spec.withDefaults()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			err = errors.Join(err, os.Remove(name))
		}
	}()
	if err := f.Truncate(spec.SizeBytes); err != nil {
		return err
	}

	rng := newRand(spec.Seed)
	table := partition(spec, rng)
	if err := table.Write(f, spec.SizeBytes); err != nil {
		return fmt.Errorf("write the partition table: %w", err)
	}
	if spec.Layout == System {
		// What stands where a boot loader would: random bytes, so that a copy that misses them shows.
		if _, err := f.WriteAt(rng.bytes(440), 0); err != nil {
			return fmt.Errorf("write the boot sector: %w", err)
		}
		if _, err := f.WriteAt(rng.bytes(256<<10), int64(table.Partitions[0].Start)*sectorSize); err != nil {
			return fmt.Errorf("write the boot partition: %w", err)
		}
	}
	root := table.Partitions[len(table.Partitions)-1]
	fsys, err := ext4.Create(file.New(f, false), partitionBytes(root), int64(root.Start)*sectorSize, sectorSize, &ext4.Params{
		UUID:            rng.uuid(),
		SectorsPerBlock: blockSize / sectorSize,
		VolumeName:      spec.Label,
		Features:        []ext4.FeatureOpt{ext4.WithFeatureReservedGDTBlocksForExpansion(false)},
	})
	if err != nil {
		return fmt.Errorf("make the file system: %w", err)
	}
	if err := fill(tree{fsys}, spec, rng); err != nil {
		return err
	}
	if err := fsys.Close(); err != nil {
		return fmt.Errorf("close the file system: %w", err)
	}
	return nil
}

// Mutate changes about n bytes of the files on the disk image at name, as a server at work would: half
// of them by rewriting scattered places of its large files, half in new files. One seed can be used once
// per disk.
func Mutate(name string, seed uint64, n int64) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("change the disk %s: %w", name, err)
		}
	}()
	if n <= 0 {
		return fmt.Errorf("%d bytes: want at least 1", n)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	fsys, err := open(f, file.New(f, false))
	if err != nil {
		return err
	}
	t, rng := tree{fsys}, newRand(seed)
	inNew := n - n/2
	changes, err := t.changes()
	if err != nil {
		return err
	}
	if changes >= mostChanges {
		inNew = 0
	}
	if err := rewrite(t, rng, n-inNew); err != nil {
		return err
	}
	if inNew == 0 {
		return fsys.Close()
	}
	dir := fmt.Sprintf("srv/changes-%016x", seed)
	if _, err := t.Stat(dir); err == nil {
		return fmt.Errorf("seed %d has changed this disk before; use another", seed)
	}
	if err := t.Mkdir(dir); err != nil {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	for i, left := 0, inNew; left > 0; i++ {
		size := min(left, 64<<10+rng.Int64N(mib))
		if err := t.write(fmt.Sprintf("%s/%04d", dir, i), size, rng.fill(i%2 == 0)); err != nil {
			return err
		}
		left -= size
	}
	if err := fsys.Close(); err != nil {
		return fmt.Errorf("close the file system: %w", err)
	}
	return nil
}

// Contents reads every file on the disk image at name and returns the hex SHA-256 of each by its path.
func Contents(name string) (map[string]string, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fsys, err := open(f, file.New(f, true))
	if err != nil {
		return nil, fmt.Errorf("read the disk %s: %w", name, err)
	}
	sums := map[string]string{}
	err = tree{fsys}.walk(".", func(p string, _ int64) error {
		r, err := fsys.OpenFile(p, os.O_RDONLY)
		if err != nil {
			return err
		}
		defer r.Close()
		sums[p], err = sum(r)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the disk %s: %w", name, err)
	}
	return sums, nil
}

// ArchiveContents reads every file in a tar archive and returns what [Contents] does of a disk.
func ArchiveContents(r io.Reader) (map[string]string, error) {
	sums := map[string]string{}
	for archive := tar.NewReader(r); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return sums, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the archive: %w", err)
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		if sums[header.Name], err = sum(archive); err != nil {
			return nil, fmt.Errorf("read %s in the archive: %w", header.Name, err)
		}
	}
}

func sum(r io.Reader) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// partition lays out the disk: everything starts on a whole MiB, and the last one is left to the backup header.
func partition(spec Spec, rng *source) *gpt.Table {
	const perMiB = mib / sectorSize
	last := uint64(spec.SizeBytes/mib-1)*perMiB - 1
	table := &gpt.Table{
		LogicalSectorSize:  sectorSize,
		PhysicalSectorSize: sectorSize,
		ProtectiveMBR:      true,
		GUID:               rng.uuid().String(),
	}
	add := func(first, last uint64, typ gpt.Type, name string) {
		table.Partitions = append(table.Partitions, &gpt.Partition{
			Index: len(table.Partitions) + 1,
			Start: first, End: last, Type: typ, Name: name, GUID: rng.uuid().String(),
		})
	}
	first := uint64(perMiB)
	if spec.Layout == System {
		add(first, first+perMiB-1, gpt.BIOSBoot, "boot")
		first += perMiB
	}
	add(first, last, gpt.LinuxFilesystem, spec.Label)
	return table
}

func partitionBytes(p *gpt.Partition) int64 { return int64(p.End-p.Start+1) * sectorSize }

// open opens the file system of a disk made by Make.
func open(f *os.File, storage backend.Storage) (*ext4.FileSystem, error) {
	table, err := gpt.Read(f, sectorSize, sectorSize)
	if err != nil {
		return nil, fmt.Errorf("read the partition table: %w", err)
	}
	for _, p := range table.Partitions {
		if p.Type != gpt.LinuxFilesystem {
			continue
		}
		fsys, err := ext4.Read(storage, partitionBytes(p), int64(p.Start)*sectorSize, sectorSize)
		if err != nil {
			return nil, fmt.Errorf("open the file system of partition %d: %w", p.Index, err)
		}
		return fsys, nil
	}
	return nil, errors.New("there is no Linux partition on it; only disks of this package can be opened")
}

// fill writes the files: a tenth of the bytes in many small ones, the rest in large ones, and one file
// of zeroes that are allocated, not a hole.
func fill(t tree, spec Spec, rng *source) error {
	for _, dir := range []string{"etc", "home", "srv", "var/lib", "var/log"} {
		if err := t.Mkdir(dir); err != nil {
			return fmt.Errorf("make %s: %w", dir, err)
		}
	}
	if err := t.write("etc/hostname", 12, rng.fill(true)); err != nil {
		return err
	}
	if spec.Layout == System {
		for _, f := range []struct{ name, text string }{
			{"etc/os-release", "ID=disks\n"}, {"etc/fstab", "LABEL=" + spec.Label + " / ext4 defaults 0 1\n"},
		} {
			if err := t.write(f.name, int64(len(f.text)), func(p []byte) { copy(p, f.text) }); err != nil {
				return err
			}
		}
	}

	small := min(spec.FillBytes/10, 16*mib)
	for i := 0; small > 0; i++ {
		if i%64 == 0 {
			if err := t.Mkdir(fmt.Sprintf("home/u%02d", i/64)); err != nil {
				return fmt.Errorf("make home/u%02d: %w", i/64, err)
			}
		}
		size := 1 + rng.Int64N(32<<10)
		if err := t.write(fmt.Sprintf("home/u%02d/f%02d", i/64, i%64), size, rng.fill(i%2 == 0)); err != nil {
			return err
		}
		small -= size
	}

	large := spec.FillBytes - min(spec.FillBytes/10, 16*mib)
	text := large / 100 * int64(spec.CompressiblePercent)
	for _, kind := range []struct {
		name  string
		bytes int64
		text  bool
	}{{"var/log/messages", text, true}, {"var/lib/database", large - text, false}} {
		for i := 0; kind.bytes > 0; i++ {
			size := min(kind.bytes, 64*mib)
			if err := t.write(fmt.Sprintf("%s.%d", kind.name, i), size, rng.fill(kind.text)); err != nil {
				return err
			}
			kind.bytes -= size
		}
	}
	return t.write("var/lib/zeroes", spec.SizeBytes/64, func(p []byte) { clear(p) })
}

// rewrite changes n bytes in pieces of 4 to 128 KiB scattered over the large files. Each begins with a block: go-diskfs panics when it is to write
// into the middle of the first block of an extent.
func rewrite(t tree, rng *source, n int64) error {
	type large struct {
		path string
		size int64
	}
	var files []large
	err := t.walk(".", func(p string, size int64) error {
		if size >= 256<<10 {
			files = append(files, large{p, size})
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return errors.New("there is no large file to change")
	}
	for n > 0 {
		f := files[rng.IntN(len(files))]
		piece := min(n, 4<<10+rng.Int64N(124<<10))
		w, err := t.OpenFile(f.path, os.O_RDWR)
		if err != nil {
			return fmt.Errorf("open %s: %w", f.path, err)
		}
		if _, err := w.Seek(rng.Int64N(f.size-piece)/blockSize*blockSize, io.SeekStart); err != nil {
			return fmt.Errorf("change %s: %w", f.path, err)
		}
		if _, err := w.Write(rng.bytes(int(piece))); err != nil {
			return fmt.Errorf("change %s: %w", f.path, err)
		}
		if err := w.Close(); err != nil {
			return fmt.Errorf("change %s: %w", f.path, err)
		}
		n -= piece
	}
	return nil
}

// tree adds to the file system what this package does with it.
type tree struct{ *ext4.FileSystem }

func (t tree) write(name string, size int64, fillWith func([]byte)) error {
	w, err := t.OpenFile(name, os.O_CREATE|os.O_RDWR)
	if err != nil {
		return fmt.Errorf("make %s: %w", name, err)
	}
	buf := make([]byte, min(size, chunkSize))
	for size > 0 {
		p := buf[:min(size, int64(len(buf)))]
		fillWith(p)
		if _, err := w.Write(p); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		size -= int64(len(p))
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("close %s: %w", name, err)
	}
	return nil
}

// changes counts the changes whose files the disk has.
func (t tree) changes() (n int64, err error) {
	entries, err := t.ReadDir("srv")
	if err != nil {
		return 0, fmt.Errorf("list srv: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "changes-") {
			n++
		}
	}
	return n, nil
}

// walk visits the regular files under dir in the order of their directories.
func (t tree) walk(dir string, visit func(p string, size int64) error) error {
	entries, err := t.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list %s: %w", dir, err)
	}
	for _, e := range entries {
		p := path.Join(dir, e.Name())
		info, err := fs.Stat(t, p)
		if err != nil {
			return fmt.Errorf("look at %s: %w", p, err)
		}
		switch {
		case info.IsDir():
			err = t.walk(p, visit)
		case info.Mode().IsRegular():
			err = visit(p, info.Size())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// source is the randomness of one seed.
type source struct {
	*rand.Rand
	stream *rand.ChaCha8
}

func newRand(seed uint64) *source {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	stream := rand.NewChaCha8(key)
	return &source{Rand: rand.New(stream), stream: stream}
}

func (s *source) bytes(n int) []byte {
	p := make([]byte, n)
	_, _ = s.stream.Read(p) // never fails
	return p
}

func (s *source) uuid() *uuid.UUID {
	id := uuid.UUID(s.bytes(16))
	id[6] = id[6]&0x0f | 0x40 // version 4
	id[8] = id[8]&0x3f | 0x80 // RFC 9562 variant
	return &id
}

var words = [...]string{
	"accepted", "closed", "connection", "daemon", "disk", "error", "failed", "from", "kernel", "login", "opened",
	"port", "process", "queued", "request", "retry", "root", "server", "session", "started", "stopped", "timeout",
	"user", "warning", "written",
}

// fill returns what fills buffers with text, or with random bytes.
func (s *source) fill(text bool) func([]byte) {
	if !text {
		return func(p []byte) { _, _ = s.stream.Read(p) } // never fails
	}
	line := 0
	return func(p []byte) {
		for len(p) > 0 {
			line++
			n := copy(p, fmt.Sprintf("%08d %s[%d]: %s %s %s\n", line, words[s.IntN(len(words))], s.IntN(1<<16),
				words[s.IntN(len(words))], words[s.IntN(len(words))], words[s.IntN(len(words))]))
			p = p[n:]
		}
	}
}
