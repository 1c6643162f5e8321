package acceptance

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const (
	// grainSize is the unit in which disks are compared and sent.
	grainSize = 64 << 10
	// window is the most one stream has to send again after a kill, and streams is how many there are.
	window  = 4 * mib
	streams = 4
)

// makeDisk makes a disk of pseudo-random bytes and holes: count stretches of data, evenly spread.
func makeDisk(t *testing.T, path string, size, data int64, count int, seed uint64) string {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, f.Truncate(size))
	random := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1})
	buf := make([]byte, data/int64(count))
	for i := range int64(count) {
		_, _ = random.Read(buf) // never fails
		_, err := f.WriteAt(buf, i*(size/int64(count)))
		require.NoError(t, err)
	}
	return path
}

// change overwrites count places of a disk, each of n bytes.
func change(t *testing.T, path string, count, n int, seed uint64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	info, err := f.Stat()
	require.NoError(t, err)
	random := rand.NewChaCha8([32]byte{byte(seed), 2})
	offsets := rand.New(random)
	buf := make([]byte, n)
	for range count {
		_, _ = random.Read(buf) // never fails
		_, err := f.WriteAt(buf, offsets.Int64N(info.Size()-int64(n)))
		require.NoError(t, err)
	}
}

// copyDisk copies a file and its holes.
func copyDisk(t *testing.T, to, from string) string {
	t.Helper()
	src, err := os.Open(from)
	require.NoError(t, err)
	defer src.Close()
	info, err := src.Stat()
	require.NoError(t, err)
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	defer dst.Close()
	require.NoError(t, dst.Truncate(info.Size()))
	for at := int64(0); at < info.Size(); {
		begin, err := src.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // a hole up to the end
		}
		require.NoError(t, err)
		end, err := src.Seek(begin, unix.SEEK_HOLE)
		require.NoError(t, err)
		_, err = io.Copy(io.NewOffsetWriter(dst, begin), io.NewSectionReader(src, begin, end-begin))
		require.NoError(t, err)
		at = end
	}
	return to
}

// eachGrain calls do with every grain of a disk. The buffer is used again.
func eachGrain(t *testing.T, path string, do func(offset int64, grain []byte)) {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	buf := make([]byte, mib)
	for offset := int64(0); ; offset += mib {
		n, err := io.ReadFull(f, buf)
		for at := 0; at < n; at += grainSize {
			do(offset+int64(at), buf[at:min(at+grainSize, n)])
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return
		}
		require.NoError(t, err)
	}
}

// nonZero counts the bytes of the grains that are not all zero: what a first run has to send.
func nonZero(t *testing.T, disks ...string) (n int64) {
	t.Helper()
	zero := make([]byte, grainSize)
	for _, disk := range disks {
		eachGrain(t, disk, func(_ int64, grain []byte) {
			if !bytes.Equal(grain, zero[:len(grain)]) {
				n += int64(len(grain))
			}
		})
	}
	return n
}

// differing counts the bytes of the grains in which two disks of one size differ: what an incremental run has to send.
func differing(t *testing.T, a, b string) (n int64) {
	t.Helper()
	f, err := os.Open(b)
	require.NoError(t, err)
	defer f.Close()
	other := make([]byte, grainSize)
	eachGrain(t, a, func(offset int64, grain []byte) {
		_, err := f.ReadAt(other[:len(grain)], offset)
		require.NoError(t, err)
		if !bytes.Equal(grain, other[:len(grain)]) {
			n += int64(len(grain))
		}
	})
	return n
}

// requireSameBytes compares two files byte for byte.
func requireSameBytes(t *testing.T, want, got string) {
	t.Helper()
	w, err := os.Stat(want)
	require.NoError(t, err)
	g, err := os.Stat(got)
	require.NoError(t, err)
	require.Equal(t, w.Size(), g.Size(), "size of %s, compared with %s", filepath.Base(got), filepath.Base(want))
	f, err := os.Open(got)
	require.NoError(t, err)
	defer f.Close()
	other := make([]byte, grainSize)
	differ, first := 0, int64(-1)
	eachGrain(t, want, func(offset int64, grain []byte) {
		_, err := f.ReadAt(other[:len(grain)], offset)
		require.NoError(t, err)
		if bytes.Equal(grain, other[:len(grain)]) {
			return
		}
		if differ++; first < 0 {
			for i := range grain {
				if grain[i] != other[i] {
					first = offset + int64(i)
					break
				}
			}
		}
	})
	require.Zero(t, differ, "grains in which %s differs from %s; the first byte is %d", got, want, first)
}

// requireBackupGPT checks that a disk has a valid primary header, and the backup it names in its very last sector.
func requireBackupGPT(t *testing.T, path string) {
	t.Helper()
	const sector = 512
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	info, err := f.Stat()
	require.NoError(t, err)
	last := uint64(info.Size()/sector - 1)
	header := func(lba uint64) []byte {
		buf := make([]byte, sector)
		_, err := f.ReadAt(buf, int64(lba)*sector)
		require.NoError(t, err)
		require.Equal(t, "EFI PART", string(buf[:8]), "signature of the GPT header in sector %d", lba)
		size := binary.LittleEndian.Uint32(buf[12:])
		require.LessOrEqual(t, size, uint32(sector))
		sum := binary.LittleEndian.Uint32(buf[16:])
		body := bytes.Clone(buf[:size])
		clear(body[16:20])
		require.Equal(t, crc32.ChecksumIEEE(body), sum, "checksum of the GPT header in sector %d", lba)
		require.Equal(t, lba, binary.LittleEndian.Uint64(buf[24:]), "own sector of the GPT header in sector %d", lba)
		entries := make([]byte, binary.LittleEndian.Uint32(buf[80:])*binary.LittleEndian.Uint32(buf[84:]))
		_, err = f.ReadAt(entries, int64(binary.LittleEndian.Uint64(buf[72:]))*sector)
		require.NoError(t, err)
		require.Equal(t, crc32.ChecksumIEEE(entries), binary.LittleEndian.Uint32(buf[88:]), "checksum of the entries of the GPT header in sector %d", lba)
		return buf
	}
	primary := header(1)
	require.Equal(t, last, binary.LittleEndian.Uint64(primary[32:]), "sector of the backup, as the primary header names it")
	backup := header(last)
	require.Equal(t, uint64(1), binary.LittleEndian.Uint64(backup[32:]), "sector of the primary header, as the backup names it")
	require.Less(t, binary.LittleEndian.Uint64(primary[48:]), last, "last usable sector")
	require.Equal(t, primary[88:92], backup[88:92], "both have the same entries")
}

// requireBegins checks that a file begins with the bytes of another.
func requireBegins(t *testing.T, want, file string) {
	t.Helper()
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	other := make([]byte, grainSize)
	eachGrain(t, want, func(offset int64, grain []byte) {
		_, err := f.ReadAt(other[:len(grain)], offset)
		require.NoError(t, err)
		if !bytes.Equal(grain, other[:len(grain)]) {
			require.FailNow(t, "the files differ", "%s and %s, in the 64 KiB at %d", want, file, offset)
		}
	})
}
