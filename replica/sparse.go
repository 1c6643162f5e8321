package replica

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/drover/drover/durable"
)

// nextData returns the first stretch of data of f at or after off, within
// size. No more data is (size, size). Where the file system cannot tell, all
// of it is data.
func nextData(f *os.File, off, size int64) (start, end int64, err error) {
	start, err = unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return size, size, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ESPIPE):
		return off, size, nil
	case err != nil:
		return 0, 0, fmt.Errorf("find data in %s: %w", f.Name(), err)
	}
	end, err = unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, fmt.Errorf("find a hole in %s: %w", f.Name(), err)
	}
	return min(start, size), min(end, size), nil
}

// punch makes a range of f read as zeros, giving its blocks back where it can.
func punch(f *os.File, off, length int64) error {
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("punch a hole in %s: %w", f.Name(), err)
	}
	return fill(f, zeroGrain[:], off, length)
}

// fill writes a pattern over and over into a range of f.
func fill(f *os.File, pattern []byte, off, length int64) error {
	for length > 0 {
		n := min(length, int64(len(pattern)))
		if _, err := f.WriteAt(pattern[:n], off); err != nil {
			return err
		}
		off, length = off+n, length-n
	}
	return nil
}

// dropCached has a range of f read from the disk again, but for what is not synced. It is best effort: not every file system has
// a disk.
func dropCached(f *os.File, off, length int64) {
	_ = unix.Fadvise(int(f.Fd()), off, length, unix.FADV_DONTNEED)
}

// fdatasync makes the data of f durable.
func fdatasync(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if !errors.Is(err, unix.EINTR) {
			if err != nil {
				return fmt.Errorf("sync %s: %w", f.Name(), err)
			}
			return nil
		}
	}
}

// clone makes dst a copy of src that shares its blocks.
func clone(dst, src *os.File) error { return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) }

// copySparse copies the data of src, of that size, to the empty dst and
// leaves holes where src has them. report is told of every stretch covered.
func copySparse(dst, src *os.File, size int64, report func(covered int64) error) error {
	if err := dst.Truncate(size); err != nil {
		return err
	}
	const step = 8 << 20
	buf := []byte(nil)
	for off := int64(0); off < size; {
		start, end, err := nextData(src, off, size)
		if err != nil {
			return err
		}
		if err := report(start - off); err != nil {
			return err
		}
		for off = start; off < end; {
			n := int(min(step, end-off))
			in, out := off, off
			copied, err := unix.CopyFileRange(int(src.Fd()), &in, int(dst.Fd()), &out, n, 0)
			if err != nil || copied == 0 {
				// Not between these file systems: through memory.
				if buf == nil {
					buf = make([]byte, 1<<20)
				}
				n = min(n, len(buf))
				if copied, err = src.ReadAt(buf[:n], off); copied == 0 {
					return fmt.Errorf("read %s at %d: %w", src.Name(), off, errors.Join(err, io.ErrUnexpectedEOF))
				}
				if _, err := dst.WriteAt(buf[:copied], off); err != nil {
					return err
				}
			}
			off += int64(copied)
			if err := report(int64(copied)); err != nil {
				return err
			}
		}
	}
	return nil
}

// volume returns what an unprivileged writer can still store under dir, and the size of the volume that it is on.
func volume(dir string) (free, total int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, fmt.Errorf("ask for the free space of %s: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, int64(st.Blocks) * st.Bsize, nil
}

// freeBytes is the first that volume returns.
func freeBytes(dir string) (int64, error) {
	free, _, err := volume(dir)
	return free, err
}

// allocatedAndLinks returns the allocated bytes and the links of a file.
func allocatedAndLinks(f *os.File) (allocated int64, links uint64, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, 0, fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	return st.Blocks * 512, uint64(st.Nlink), nil //nolint:unconvert // narrower on other architectures
}

// makeDir makes a directory whose entry survives a loss of power.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(dir))
}
