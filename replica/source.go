package replica

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// DiskReader reads a source disk. ReadAt may be called concurrently.
type DiskReader interface {
	io.ReaderAt
	io.Closer
	// Size is the size of the disk in bytes.
	Size() int64
	// NextData returns the first stretch at or after off that may hold
	// anything but zeros; (Size, Size) when there is none.
	NextData(off int64) (start, end int64, err error)
}

// errDiskCut says that a disk has become smaller since it was opened.
var errDiskCut = errors.New("the disk was cut short")

// directAlign is what O_DIRECT asks of buffers, offsets and lengths.
const directAlign = 4096

// OpenDisk opens a file or a block device for reading. It reads past the page
// cache where it can: a disk read once must not push everything else out.
func OpenDisk(path string) (DiskReader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the disk: %w", err)
	}
	size, device, err := diskSize(f)
	if err == nil && size <= 0 {
		err = fmt.Errorf("the disk %s is empty", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	d := &fileDisk{buffered: f, size: size, sparse: !device}
	if direct, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0); err == nil {
		d.direct = direct
	}
	return d, nil
}

// DiskSize returns how many bytes a disk has, a regular file or a block device.
func DiskSize(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("open the disk: %w", err)
	}
	defer f.Close()
	size, _, err := diskSize(f)
	return size, err
}

// diskSize returns the size of a regular file or block device.
func diskSize(f *os.File) (size int64, device bool, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, false, fmt.Errorf("look at the disk: %w", err)
	}
	switch mode := info.Mode(); {
	case mode.IsRegular():
		return info.Size(), false, nil
	case mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0:
		// The end of a block device is its size (what BLKGETSIZE64 says).
		size, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			return 0, true, fmt.Errorf("ask for the size of %s: %w", f.Name(), err)
		}
		return size, true, nil
	default:
		return 0, false, fmt.Errorf("%s is neither a file nor a block device", f.Name())
	}
}

type fileDisk struct {
	buffered *os.File
	direct   *os.File // nil when the file system has no O_DIRECT
	size     int64
	sparse   bool
}

func (d *fileDisk) Size() int64 { return d.size }

func (d *fileDisk) Close() error {
	if d.direct != nil {
		d.direct.Close()
	}
	return d.buffered.Close()
}

func (d *fileDisk) NextData(off int64) (start, end int64, err error) {
	if !d.sparse {
		return off, d.size, nil
	}
	start, end, err = nextData(d.buffered, off, d.size)
	if err != nil || start < d.size {
		return start, end, err
	}
	// Behind the end of a file there is no data either: one that was cut short must not pass for zeros.
	info, err := d.buffered.Stat()
	if err == nil && info.Size() < d.size {
		err = fmt.Errorf("%w: it ends at %d instead of %d bytes", errDiskCut, info.Size(), d.size)
	}
	return start, end, err
}

func (d *fileDisk) ReadAt(p []byte, off int64) (int, error) {
	whole := len(p) &^ (directAlign - 1)
	if d.direct == nil || whole == 0 || off%directAlign != 0 || !aligned(p) {
		return d.buffered.ReadAt(p, off)
	}
	n, err := d.direct.ReadAt(p[:whole], off)
	if errors.Is(err, unix.EINVAL) {
		// It has O_DIRECT but wants more than we align to.
		n, err = d.buffered.ReadAt(p[:whole], off)
	}
	if err != nil || whole == len(p) {
		return n, err
	}
	tail, err := d.buffered.ReadAt(p[whole:], off+int64(whole))
	return n + tail, err
}

func aligned(p []byte) bool { return uintptr(unsafe.Pointer(unsafe.SliceData(p)))%directAlign == 0 }

// alignedBuffer returns n bytes that O_DIRECT takes.
func alignedBuffer(n int) []byte {
	b := make([]byte, n+directAlign)
	skip := 0
	if r := int(uintptr(unsafe.Pointer(unsafe.SliceData(b))) % directAlign); r != 0 {
		skip = directAlign - r
	}
	return b[skip : skip+n : skip+n]
}
