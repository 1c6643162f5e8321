package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"

	"github.com/drover/drover/replica"
	"github.com/drover/drover/test/disks"
)

// snapshot is what a disk held at a moment: its size and the SHA-256 of each grain.
type snapshot struct {
	size   int64
	grains [][sha256.Size]byte
}

// zeroGrain is the hash of a grain of zeros.
var zeroGrain = sha256.Sum256(make([]byte, replica.GrainSize))

// take reads a file from its beginning to its end.
func take(name string) (*snapshot, error) {
	f, err := os.Open(name) //nolint:gosec // a disk of the run
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s := &snapshot{}
	for buf := make([]byte, replica.GrainSize); ; {
		n, err := io.ReadFull(f, buf)
		if n > 0 {
			s.size += int64(n)
			s.grains = append(s.grains, sha256.Sum256(buf[:n]))
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return s, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
	}
}

func takeAll(names []string) (all []*snapshot, err error) {
	for _, name := range names {
		s, err := take(name)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// compare says how got differs from s; nil when it does not.
func (s *snapshot) compare(got *snapshot) error {
	if s.size != got.size {
		return fmt.Errorf("it has %d bytes in place of %d", got.size, s.size)
	}
	differ, first := 0, 0
	for i := range s.grains {
		if s.grains[i] != got.grains[i] {
			if differ == 0 {
				first = i
			}
			differ++
		}
	}
	if differ > 0 {
		return fmt.Errorf("%d of %d grains of 64 KiB differ, the first at byte %d", differ, len(s.grains), first*replica.GrainSize)
	}
	return nil
}

// needed is how many bytes have to be sent to a host that holds before, nil when it holds nothing: grains that differ and are not zero.
func (s *snapshot) needed(before *snapshot) (n int64) {
	for i, grain := range s.grains {
		if grain == zeroGrain || before != nil && before.grains[i] == grain {
			continue
		}
		n += min(replica.GrainSize, s.size-int64(i)*replica.GrainSize)
	}
	return n
}

func neededOf(now, before []*snapshot) (n int64) {
	for i, s := range now {
		if before == nil {
			n += s.needed(nil)
			continue
		}
		n += s.needed(before[i])
	}
	return n
}

// makeData makes a data disk: random bytes in stretches with holes between them.
func makeData(name string, size, filled int64, r *rand.Rand) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600) //nolint:gosec // a disk of the run
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	const stretches = 8
	for i := range int64(stretches) {
		if err := writeRandom(f, i*(size/stretches), filled/stretches, r); err != nil {
			return err
		}
	}
	return f.Sync()
}

// writeRandom fills a range of a file with random bytes.
func writeRandom(f *os.File, offset, n int64, r *rand.Rand) error {
	buf := make([]byte, n)
	for i := range buf {
		buf[i] = byte(r.Uint32()) //nolint:gosec // any byte
	}
	_, err := f.WriteAt(buf, offset)
	return err
}

// mutate changes about n bytes of the disks of a source: files of its system disk, and places of its data disk, some of which become zero.
func mutate(names []string, n int64, r *rand.Rand) error {
	if n == 0 {
		return nil
	}
	if len(names) > 1 {
		f, err := os.OpenFile(names[1], os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		const places = 8
		each := n / 2 / places
		for i := range places {
			offset := r.Int64N(info.Size() - each)
			if i == 0 {
				_, err = f.WriteAt(make([]byte, each), offset)
			} else {
				err = writeRandom(f, offset, each, r)
			}
			if err != nil {
				return err
			}
		}
		if err := f.Sync(); err != nil {
			return err
		}
		n /= 2
	}
	return disks.Mutate(names[0], r.Uint64(), n)
}

// breakDisk takes the last MiB of a disk away; the function it returns puts it back.
func breakDisk(name string) (mend func() error, err error) {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	end := make([]byte, mib)
	if _, err := f.ReadAt(end, info.Size()-mib); err != nil {
		return nil, err
	}
	if err := f.Truncate(info.Size() - mib); err != nil {
		return nil, err
	}
	return func() error {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.WriteAt(end, info.Size()-mib); err != nil {
			return err
		}
		return f.Sync()
	}, nil
}
