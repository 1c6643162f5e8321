package replica

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Target is a disk that is opened to be overwritten: a file or a block device, for this process alone.
type Target struct {
	fileDisk
	path string
}

// ErrDiskInUse says that a disk is mounted, part of something that is, or open in another process for its use alone.
var ErrDiskInUse = errors.New("it is in use")

// OpenTarget opens a disk to be overwritten. A block device that is mounted or otherwise held, as is the whole of one with a partition
// that is, gives [ErrDiskInUse], and so does a file that a loop device shows or that another process has opened by OpenTarget.
func OpenTarget(path string) (*Target, error) {
	f, size, sparse, err := openExclusive(path)
	if err != nil {
		return nil, fmt.Errorf("open the disk %s to write: %w", path, err)
	}
	t := &Target{fileDisk: fileDisk{buffered: f, size: size, sparse: sparse}, path: path}
	// By its descriptor: the name may have become another disk's.
	if fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0); err == nil {
		t.direct = os.NewFile(uintptr(fd), path)
	}
	return t, nil
}

func openExclusive(path string) (f *os.File, size int64, regular bool, err error) {
	// For a block device O_EXCL without O_CREAT means: unless somebody holds it. To a file it says nothing.
	f, err = os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0)
	var reason *os.PathError
	switch {
	case errors.Is(err, unix.EBUSY):
		return nil, 0, false, fmt.Errorf("%w: mounted, swap, part of a volume or an array, or open elsewhere", ErrDiskInUse)
	case errors.As(err, &reason):
		return nil, 0, false, reason.Err
	case err != nil:
		return nil, 0, false, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	size, device, err := diskSize(f)
	if err == nil && size <= 0 {
		err = errors.New("it is empty: give the file the size of the disk first (truncate --size)")
	}
	if err != nil || device {
		return f, size, !device, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return nil, 0, false, fmt.Errorf("%w: open elsewhere", ErrDiskInUse)
	case err != nil:
		return nil, 0, false, fmt.Errorf("lock it: %w", err)
	}
	if loop := loopOf(path); loop != "" {
		return nil, 0, false, fmt.Errorf("%w: %s shows it", ErrDiskInUse, loop)
	}
	return f, size, true, nil
}

// loopOf returns the loop device that shows a file; empty when none does.
func loopOf(path string) string {
	want, err := os.Stat(path)
	if err != nil {
		return ""
	}
	const found = "/sys/block/"
	blocks, err := os.ReadDir(found)
	if err != nil {
		return ""
	}
	for _, b := range blocks {
		if !strings.HasPrefix(b.Name(), "loop") {
			continue
		}
		name, err := os.ReadFile(found + b.Name() + "/loop/backing_file")
		if err != nil {
			continue // it shows nothing
		}
		if have, err := os.Stat(strings.TrimSuffix(string(name), "\n")); err == nil && os.SameFile(want, have) {
			return "/dev/" + b.Name()
		}
	}
	return ""
}

// Path is what the disk was opened by.
func (t *Target) Path() string { return t.path }

// Content returns in words what the disk seems to hold, as [DiskContent] does.
func (t *Target) Content() (string, error) { return content(&t.fileDisk) }

// WriteAt writes past the page cache where it can. It is not durable before sync.
func (t *Target) WriteAt(p []byte, off int64) (int, error) {
	if t.direct == nil || len(p)%directAlign != 0 || off%directAlign != 0 || !aligned(p) {
		return t.buffered.WriteAt(p, off)
	}
	n, err := t.direct.WriteAt(p, off)
	if errors.Is(err, unix.EINVAL) {
		return t.buffered.WriteAt(p, off) // it has O_DIRECT but wants more than we align to
	}
	return n, err
}

// readBack reads what the disk holds, not what the page cache has of it. What was written must be synced.
func (t *Target) readBack(p []byte, off int64) error {
	dropCached(t.buffered, off, int64(len(p))) // for what is not read past it
	n, err := t.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = errDiskCut
	}
	return err
}

// reread has the kernel read the partition table anew, so that the partitions can be mounted. It is best effort: that takes nothing
// but a block device, and next time it starts the kernel reads it anyway.
func (t *Target) reread() {
	if !t.sparse {
		_, _ = unix.IoctlRetInt(int(t.buffered.Fd()), unix.BLKRRPART)
	}
}

// What is looked at of a disk to find out whether it holds anything.
const (
	contentEnds    = 1 << 20 // at its beginning and at its end: tables and superblocks
	contentSamples = 256     // grains between
)

// DiskContent returns in words what a disk seems to hold, empty when it seems blank: a partition table, or anything but zeros in its
// first and last MiB or in 256 grains between. It reads no more than that.
func DiskContent(path string) (string, error) {
	d, err := OpenDisk(path)
	if err != nil {
		return "", err
	}
	defer d.Close()
	return content(d)
}

func content(d DiskReader) (string, error) {
	size := d.Size()
	if table, err := readPartitionTable(d, size); err == nil && table.kind != "" {
		return fmt.Sprintf("a partition table (%s, partitions: %d)", table.kind, len(table.partitions)), nil
	}
	buf := alignedBuffer(contentEnds)
	look := func(off, length int64) (string, error) {
		for end := min(off+length, size); off < end; {
			start, dataEnd, err := d.NextData(off)
			if err != nil {
				return "", err
			}
			if start >= end {
				return "", nil
			}
			off = max(off, start-start%directAlign)
			b := buf[:min(end, max(dataEnd, off+1), off+contentEnds)-off]
			if _, err := d.ReadAt(b, off); err != nil && !errors.Is(err, io.EOF) {
				return "", fmt.Errorf("read at %d: %w", off, err)
			}
			if !isZero(b) {
				for b[0] == 0 {
					off, b = off+1, b[1:]
				}
				return fmt.Sprintf("data at byte %d", off), nil
			}
			off += int64(len(b))
		}
		return "", nil
	}
	last := max(0, size-contentEnds)
	if found, err := look(0, contentEnds); found != "" || err != nil {
		return found, err
	}
	if found, err := look(last-last%directAlign, 2*contentEnds); found != "" || err != nil {
		return found, err
	}
	step := max(size/(contentSamples+1)/GrainSize, 1) * GrainSize
	for off := step; off < size; off += step {
		if found, err := look(off, GrainSize); found != "" || err != nil {
			return found, err
		}
	}
	return "", nil
}
