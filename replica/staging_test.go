package replica

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func openTestDisk(t *testing.T, size int64) *stagedDisk {
	t.Helper()
	d, err := openStagedDisk(t.Context(), t.TempDir(), Disk{SizeBytes: size})
	require.NoError(t, err)
	t.Cleanup(d.closeFiles)
	return d
}

// unsyncable is a file whose sync fails.
func unsyncable(t *testing.T) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() { r.Close(); w.Close() })
	return w
}

func testFrame(grain int64, fill byte) frame {
	data := bytes.Repeat([]byte{fill}, GrainSize)
	return frame{frameHeader: frameHeader{offset: grain * GrainSize, raw: GrainSize}, hashes: []Hash{GrainHash(data)}, data: data}
}

// A sync that fails is told once, and the kernel has forgotten by then what it could not write: nothing that was written before it
// may pass for durable with a sync that succeeds after it.
func TestNothingIsCommittedAfterASyncThatFailed(t *testing.T) {
	d := openTestDisk(t, 4<<20)
	_, err := d.write(t.Context(), []frame{testFrame(0, 1)})
	require.NoError(t, err)
	good := d.raw
	d.raw = unsyncable(t)
	require.ErrorContains(t, d.commit([]mapWrite{{grain: 1, hashes: testFrame(1, 1).hashes}}), "sync")
	d.raw = good
	_, err = d.write(t.Context(), []frame{testFrame(2, 1)})
	requireCode(t, err, CodeStorageError)
	h, err := d.hash(2)
	require.NoError(t, err)
	require.Equal(t, unknownHash, h)
	require.NoError(t, d.close())

	// Who opens it next looks for itself.
	d, err = openStagedDisk(t.Context(), filepath.Dir(good.Name()), d.Disk)
	require.NoError(t, err)
	defer d.closeFiles()
	h, err = d.hash(2)
	require.NoError(t, err)
	require.Equal(t, testFrame(2, 1).hashes[0], h)
}

// An intent that could not be made durable does not let the next writer of its region in.
func TestNothingIsWrittenAfterAnIntentThatFailed(t *testing.T) {
	d := openTestDisk(t, 4<<20)
	good := d.intent.f
	d.intent.f = unsyncable(t)
	_, err := d.write(t.Context(), []frame{testFrame(0, 1)})
	requireCode(t, err, CodeStorageError)
	d.intent.f = good
	_, err = d.write(t.Context(), []frame{testFrame(0, 1)})
	requireCode(t, err, CodeStorageError)
	b := make([]byte, GrainSize)
	_, err = d.raw.ReadAt(b, 0)
	require.NoError(t, err)
	require.True(t, isZero(b))
}

// A zero run that could not be written is marked as unknown to its last grain, and no further.
func TestLongZeroRunThatFails(t *testing.T) {
	d := openTestDisk(t, 65<<30)
	good := d.raw
	d.raw = unsyncable(t)
	_, err := d.write(t.Context(), []frame{{frameHeader: frameHeader{codec: codecZero, raw: 64 << 30}}})
	d.raw = good
	requireCode(t, err, CodeStorageError)
	for _, g := range []int64{0, 1<<20 - 1} {
		h, err := d.hash(g)
		require.NoError(t, err)
		require.Equal(t, unknownHash, h)
	}
	h, err := d.hash(1 << 20)
	require.NoError(t, err)
	require.Equal(t, ZeroHash, h)
}

// Half of a staging area, as a removal that was cut off leaves it, is no disk that need not be sent.
func TestHalfAStagingArea(t *testing.T) {
	for _, lost := range []func(string, int) string{rawPath, mapPath} {
		s := newSite(t)
		disk := makeDisk(t, 3<<20+100, 8)
		s.run("j-1", 1, DefaultParams(), disk)
		dir := s.host.stagingDir("j-1")
		require.NoError(t, os.Remove(statePath(dir)))
		require.NoError(t, os.Remove(lost(dir, 0)))
		require.NoError(t, s.host.Prepare(t.Context(), "j-1", sizes(t, []SourceDisk{disk})))
		overwrite(t, disk.Path, 1<<20, make([]byte, 1<<20)) // zeros now, which need not be sent where there is nothing
		s.run("j-1", 1, DefaultParams(), disk)
		s.requireStaged("j-1", disk)
	}
}

// What says that a run is complete goes before what it says so of.
func TestRemovalBeginsWithTheState(t *testing.T) {
	s := newSite(t)
	s.run("j-1", 1, DefaultParams(), makeDisk(t, 1<<20, 1))
	dir := s.host.stagingDir("j-1")
	require.NoError(t, os.Remove(statePath(dir)))
	require.NoError(t, os.MkdirAll(filepath.Join(statePath(dir), "stays"), 0o700))
	requireCode(t, s.host.ReleaseStaging(t.Context(), "j-1"), CodeStorageError)
	require.FileExists(t, rawPath(dir, 0))
	require.FileExists(t, mapPath(dir, 0))
}

// What is read back is what the disk holds, not what the memory of the host does.
func TestDropCached(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	require.NoError(t, err)
	defer f.Close()
	const size = 1 << 20
	require.NoError(t, fill(f, bytes.Repeat([]byte{1}, GrainSize), 0, size))
	require.NoError(t, f.Sync())
	m, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	require.NoError(t, err)
	defer unix.Munmap(m)
	resident := func() (n int) {
		pages := make([]byte, size/os.Getpagesize())
		_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), size, uintptr(unsafe.Pointer(&pages[0])))
		require.Zero(t, errno)
		for _, page := range pages {
			n += int(page & 1)
		}
		return n
	}
	require.Positive(t, resident())
	dropCached(f, 0, size)
	var in unix.Statfs_t
	require.NoError(t, unix.Fstatfs(int(f.Fd()), &in))
	if in.Type != unix.TMPFS_MAGIC {
		require.Zero(t, resident())
	}
}
