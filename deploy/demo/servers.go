package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/drover/drover/test/disks"
	"github.com/drover/drover/test/stack"
)

const (
	mib       = 1 << 20
	grainSize = 64 << 10 // what is compared and sent is a multiple of this
)

// server is a source server of the demo.
type server struct {
	name  string
	specs []disks.Spec // the system disk first
	wave  string
	// incremental: its job runs twice, and its disks change in between.
	incremental bool
	// killed: its agent is killed in the middle of the sync, and comes back.
	killed bool
	// changeBytes is about how much of each disk changes.
	changeBytes int64

	dir   string
	agent *stack.Agent // nil until it is started
	// states holds, per run from the first, copies of the disks as they were at that run.
	states [][]string
}

// manifest is the fleet of the demo. Jobs are kept so that there is something to look at in the end; without keepJob they
// are deleted when their image is verified.
var manifest = fmt.Sprintf(`name: %s
defaults:
  targetType: Image
  systemDiskSize: %d
  runOnce: true
  keepJob: true
  replicationParameters: {bandwidth_limit: %d} # without one the bars would be gone before anybody sees them
waves:
  - name: pilot
    maxConcurrent: 1
    maxFailures: 0
    servers:
      - name: web-1
      - {name: db-1, runOnce: false, frequency: 12, maxNumberOfImageToKeep: 2} # cut over by hand
  - name: rest
    maxConcurrent: 2
    servers:
      - match: app-*
`, fleetName, systemDiskGiB, pace)

// slots is how many jobs of each wave may be Running at once, as the manifest has it.
var slots = []struct {
	wave string
	most int
}{{"pilot", 1}, {"rest", 2}}

// servers are the source servers of the demo. Small, so that all of it takes well under a minute; real, so that it
// means something: GPT, ext4, text and random files, zeroes and holes.
func servers() []*server {
	return []*server{
		{name: "web-1", wave: "pilot", specs: []disks.Spec{{SizeBytes: 96 * mib, Seed: 101, FillBytes: 24 * mib}}},
		{
			name: "db-1", wave: "pilot", incremental: true, changeBytes: 3 * mib,
			specs: []disks.Spec{
				{SizeBytes: 96 * mib, Seed: 103, FillBytes: 24 * mib},
				{SizeBytes: 64 * mib, Seed: 104, FillBytes: 24 * mib, CompressiblePercent: 20, Layout: disks.Data},
			},
		},
		{name: "app-1", wave: "rest", specs: []disks.Spec{{SizeBytes: 96 * mib, Seed: 102, FillBytes: 32 * mib, CompressiblePercent: 80}}},
		{name: "app-2", wave: "rest", killed: true, specs: []disks.Spec{{SizeBytes: 128 * mib, Seed: 105, FillBytes: 64 * mib, CompressiblePercent: 20}}},
		{name: "app-3", wave: "rest", specs: []disks.Spec{{SizeBytes: 64 * mib, Seed: 106, FillBytes: 24 * mib}}},
	}
}

func (s *server) disk(i int) string { return filepath.Join(s.dir, fmt.Sprintf("disk-%d.raw", i)) }

func (s *server) sizeBytes() (n int64) {
	for _, spec := range s.specs {
		n += spec.SizeBytes
	}
	return n
}

// makeDisks makes the disks of the server.
func (s *server) makeDisks() error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	for i, spec := range s.specs {
		if err := disks.Make(s.disk(i), spec); err != nil {
			return err
		}
	}
	return nil
}

// change changes the disks, as a server at work would.
func (s *server) change() error {
	for i := range s.specs {
		if err := disks.Mutate(s.disk(i), uint64(1000+i), s.changeBytes); err != nil { //nolint:gosec // small
			return err
		}
	}
	return nil
}

// remember keeps copies of the disks as they are now: what the next run will find.
func (s *server) remember() error {
	dir := filepath.Join(s.dir, fmt.Sprintf("at-run-%d", len(s.states)+1))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var copies []string
	for i := range s.specs {
		to := filepath.Join(dir, fmt.Sprintf("disk-%d.raw", i))
		if err := copySparse(to, s.disk(i)); err != nil {
			return fmt.Errorf("keep disk %d of %s as it is: %w", i, s.name, err)
		}
		copies = append(copies, to)
	}
	s.states = append(s.states, copies)
	return nil
}

// copySparse copies a file and its holes.
func copySparse(to, from string) (err error) {
	src, err := os.Open(from) //nolint:gosec // our own disks
	if err != nil {
		return err
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return err
	}
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600) //nolint:gosec // our own directory
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	if err := dst.Truncate(info.Size()); err != nil {
		return err
	}
	for at := int64(0); at < info.Size(); {
		begin, err := src.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // a hole up to the end
		}
		if err != nil {
			return err
		}
		end, err := src.Seek(begin, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(dst, begin), io.NewSectionReader(src, begin, end-begin)); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// difference is how two files differ.
type difference struct {
	// grains is the number of grains that differ.
	grains int64
	// first is the offset of the first byte that differs.
	first int64
}

// compare compares two files byte for byte. Files of different sizes are an error.
func compare(a, b string) (d difference, err error) {
	fa, err := os.Open(a) //nolint:gosec // our own files
	if err != nil {
		return d, err
	}
	defer fa.Close()
	fb, err := os.Open(b) //nolint:gosec // our own files
	if err != nil {
		return d, err
	}
	defer fb.Close()
	ia, err := fa.Stat()
	if err != nil {
		return d, err
	}
	ib, err := fb.Stat()
	if err != nil {
		return d, err
	}
	if ia.Size() != ib.Size() {
		return d, fmt.Errorf("%s has %d bytes and %s has %d", a, ia.Size(), b, ib.Size())
	}
	bufA, bufB := make([]byte, mib), make([]byte, mib)
	for at := int64(0); at < ia.Size(); at += mib {
		n := min(mib, ia.Size()-at)
		pa, pb := bufA[:n], bufB[:n]
		if _, err := io.ReadFull(fa, pa); err != nil {
			return d, err
		}
		if _, err := io.ReadFull(fb, pb); err != nil {
			return d, err
		}
		if bytes.Equal(pa, pb) {
			continue
		}
		for g := int64(0); g < n; g += grainSize {
			ga, gb := pa[g:min(g+grainSize, n)], pb[g:min(g+grainSize, n)]
			if bytes.Equal(ga, gb) {
				continue
			}
			if d.grains == 0 {
				for i := range ga {
					if ga[i] != gb[i] {
						d.first = at + g + int64(i)
						break
					}
				}
			}
			d.grains++
		}
	}
	return d, nil
}

// nonZero counts the bytes of the grains of a file that are not all zero: what a first run has to send.
func nonZero(name string) (n int64, err error) {
	f, err := os.Open(name) //nolint:gosec // our own files
	if err != nil {
		return 0, err
	}
	defer f.Close()
	grain, zero := make([]byte, grainSize), make([]byte, grainSize)
	for {
		got, err := io.ReadFull(f, grain)
		if !bytes.Equal(grain[:got], zero[:got]) {
			n += int64(got)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}
