package replica

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// openTarget opens a target for as long as the test lasts.
func openTarget(tb testing.TB, path string) *Target {
	tb.Helper()
	target, err := OpenTarget(path)
	require.NoError(tb, err)
	tb.Cleanup(func() { target.Close() })
	return target
}

// blank makes a file without data to deliver to.
func blank(tb testing.TB, size int64) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "target.raw")
	require.NoError(tb, os.WriteFile(path, nil, 0o600))
	require.NoError(tb, os.Truncate(path, size))
	return path
}

// image makes an image of a disk; the run must be new.
func (s *site) image(id string, run int, size int64, disk SourceDisk) {
	s.t.Helper()
	s.run("j-1", run, DefaultParams(), disk)
	_, err := s.host.MakeImage(s.t.Context(), ImageSpec{ImageID: id, JobID: "j-1", Run: run, Disks: []ImageDisk{{DeliveredSizeBytes: size}}}, nil)
	require.NoError(s.t, err)
}

func (s *site) delivery(image string, targets ...*Target) DeliverConfig {
	cfg := DeliverConfig{HostURL: s.url, Token: s.ticket(image), ImageID: image}
	for i, target := range targets {
		cfg.Disks = append(cfg.Disks, DeliverDisk{Index: i, Target: target})
	}
	return cfg
}

// deliver delivers an image to one disk and returns the last progress.
func (s *site) deliver(image string, target *Target) (last DeliverProgress) {
	s.t.Helper()
	roots, err := Deliver(s.t.Context(), s.delivery(image, target), func(p DeliverProgress) {
		if p.BytesDone < last.BytesDone || p.BytesFetched < last.BytesFetched {
			s.t.Errorf("%+v after %+v", p, last)
		}
		last = p
	})
	require.NoError(s.t, err)
	require.Equal(s.t, target.Size(), last.BytesDone)
	require.Equal(s.t, last.BytesTotal, last.BytesDone)
	root, err := s.host.ArtifactRoot(s.t.Context(), image, 0, ArtifactDelivered)
	require.NoError(s.t, err)
	require.Equal(s.t, []Hash{root}, roots)
	requireSame(s.t, s.download(image, 0, ArtifactDelivered), target.Path())
	return last
}

// What is on the target is overwritten with the image, also by zeros, and what is there already does not come again.
func TestDeliver(t *testing.T) {
	for _, direct := range []bool{true, false} {
		t.Run(fmt.Sprintf("direct %v", direct), func(t *testing.T) {
			s := newSite(t)
			path := makeGPT(t, 80<<20, 512)
			rng := rand.New(rand.NewPCG(3, 3))
			data := make([]byte, 9<<20+17)
			randomize(rng, data)
			overwrite(t, path, 3<<20, data)
			disk := SourceDisk{Path: path}
			const size = 150<<20 + 4096 // of several segments, the last grain short
			s.image("m-1", 1, size, disk)

			file := blank(t, size)
			junk := make([]byte, 2<<20)
			randomize(rng, junk)
			for _, off := range []int64{40<<20 + 100, 5 << 20, 120 << 20, size - 2<<20} {
				overwrite(t, file, off, junk)
			}
			target := openTarget(t, file)
			if !direct && target.direct != nil {
				target.direct.Close()
				target.direct = nil
			}
			first := s.deliver("m-1", target)
			require.Equal(t, nonZeroBytes(t, file), first.BytesFetched)
			require.Zero(t, s.deliver("m-1", target).BytesFetched)

			overwrite(t, path, 4<<20+10, []byte("changed"))
			overwrite(t, path, 70<<20+10, []byte("new"))
			overwrite(t, path, 8<<20, make([]byte, 1<<20)) // to be zeros there
			s.image("m-2", 2, size, disk)
			require.Equal(t, int64(2*GrainSize), s.deliver("m-2", target).BytesFetched)
		})
	}
}

func TestDeliverSeveralDisks(t *testing.T) {
	s := newSite(t)
	a, b := makeDisk(t, 5<<20+17, 1), makeDisk(t, 3<<20, 2)
	b.Index = 1
	s.run("j-1", 1, DefaultParams(), a, b)
	_, err := s.host.MakeImage(t.Context(), ImageSpec{ImageID: "m-1", JobID: "j-1", Run: 1}, nil)
	require.NoError(t, err)
	x, y := openTarget(t, blank(t, 5<<20+17)), openTarget(t, blank(t, 3<<20))
	roots, err := Deliver(t.Context(), s.delivery("m-1", x, y), nil)
	require.NoError(t, err)
	require.Len(t, roots, 2)
	requireSame(t, a.Path, x.Path())
	requireSame(t, b.Path, y.Path())
}

// noise makes the image m-1 of a disk that nothing can be spared of.
func (s *site) noise(size int) (path string, data []byte) {
	s.t.Helper()
	path, data = filepath.Join(s.t.TempDir(), "d"), make([]byte, size)
	randomize(rand.New(rand.NewPCG(1, 2)), data)
	require.NoError(s.t, os.WriteFile(path, data, 0o600))
	s.image("m-1", 1, 0, SourceDisk{Path: path})
	return path, data
}

// A delivery goes on over kills of the host and cut connections, and one that was given up is gone on with by the next.
func TestDeliveryGoesOn(t *testing.T) {
	s := newSite(t)
	path, data := s.noise(100 << 20)
	target := openTarget(t, blank(t, int64(len(data))))

	ctx, giveUp := context.WithCancel(t.Context())
	var answers atomic.Int64
	f := func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost {
			return false
		}
		if answers.Add(1) == 6 {
			giveUp()
		}
		s.host.Handler().ServeHTTP(&cutWriter{ResponseWriter: w, left: 9 << 20}, r)
		return true
	}
	s.intercept.Store(&f)
	var first DeliverProgress
	_, err := Deliver(ctx, s.delivery("m-1", target), func(p DeliverProgress) { first = p })
	require.ErrorIs(t, err, context.Canceled)
	require.Positive(t, first.BytesFetched)
	require.Less(t, first.BytesFetched, int64(len(data)))

	asked := make(chan struct{}, 100)
	f = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost {
			return false
		}
		_, _ = io.Copy(io.Discard, r.Body) // else the server does not notice that its peer is gone
		asked <- struct{}{}
		<-r.Context().Done()
		return true
	}
	s.intercept.Store(&f)
	done := make(chan error, 1)
	var second DeliverProgress
	go func() {
		_, err := Deliver(t.Context(), s.delivery("m-1", target), func(p DeliverProgress) { second = p })
		done <- err
	}()
	<-asked
	s.kill()
	s.intercept.Store(nil)
	s.start()
	require.NoError(t, <-done)
	requireSame(t, path, target.Path())
	require.Equal(t, int64(len(data)), first.BytesFetched+second.BytesFetched)
}

func TestDeliverRefusals(t *testing.T) {
	s := newSite(t)
	disk := makeDisk(t, 4<<20, 1)
	s.image("m-1", 1, 0, disk)
	target := openTarget(t, blank(t, 4<<20))

	_, err := Deliver(t.Context(), DeliverConfig{HostURL: s.url, Token: s.ticket("m-2"), ImageID: "m-1", Disks: s.delivery("m-1", target).Disks}, nil)
	require.ErrorIs(t, err, ErrRefused)
	_, err = Deliver(t.Context(), s.delivery("m-2", target), nil)
	require.ErrorIs(t, err, ErrImageNotFound)
	_, err = Deliver(t.Context(), s.delivery("m-1", openTarget(t, blank(t, 4<<20)), target), nil)
	requireCode(t, err, CodeInvalidRequest)
	require.ErrorContains(t, err, "has no disk 1")
	for _, size := range []int64{4<<20 - 512, 5 << 20} {
		_, err = Deliver(t.Context(), s.delivery("m-1", openTarget(t, blank(t, size))), nil)
		requireCode(t, err, CodeTargetDiskFailed)
		require.ErrorContains(t, err, fmt.Sprintf("has %d bytes, and the image has %d", size, 4<<20))
	}
	for _, query := range []string{"?from=2&to=1", "?from=-1", "?to=-1", "?from=x"} {
		_, err := newImageClient(nil, s.url, s.ticket("m-1")).stream(t.Context(), http.MethodGet, "/images/m-1/disks/0/hashes"+query, nil)
		requireCode(t, err, CodeInvalidRequest)
	}
	for _, wanted := range [][][2]int64{{{0, 65}}, {{3, 4}, {2, 3}}, {{5, 5}}, {{-1, 2}}} {
		_, err := newImageClient(nil, s.url, s.ticket("m-1")).stream(t.Context(), http.MethodPost, "/images/m-1/disks/0/grains", grainsRequest{Grains: wanted})
		requireCode(t, err, CodeInvalidRequest)
	}
}

// An image that is damaged at the host does not get onto the disk as if it were whole.
func TestDamagedImageIsNotDelivered(t *testing.T) {
	t.Parallel() // it waits between attempts
	s := newSite(t)
	disk := makeDisk(t, 4<<20, 1)
	data := bytes.Repeat([]byte("whole"), GrainSize)
	overwrite(t, disk.Path, 1<<20, data)
	s.image("m-1", 1, 0, disk)
	overwrite(t, rawPath(s.host.imageDir("m-1"), 0), 1<<20+5, []byte("rot"))
	_, err := Deliver(t.Context(), s.delivery("m-1", openTarget(t, blank(t, 4<<20))), nil)
	requireCode(t, err, CodeGrainHashMismatch)
	overwrite(t, mapPath(s.host.imageDir("m-1"), 0), 5, []byte("rot"))
	_, err = s.host.ArtifactRoot(t.Context(), "m-1", 0, ArtifactDelivered)
	requireCode(t, err, CodeSyncedStateCorrupt)
}

// What a host gives that was not asked for is not written.
func TestDeliverTakesOnlyWhatItAsksFor(t *testing.T) {
	t.Parallel() // it waits between attempts
	s := newSite(t)
	path := filepath.Join(t.TempDir(), "d")
	data := make([]byte, 4<<20)
	randomize(rand.New(rand.NewPCG(1, 2)), data)
	require.NoError(t, os.WriteFile(path, data, 0o600))
	s.image("m-1", 1, 0, SourceDisk{Path: path})
	file := blank(t, int64(len(data)))
	overwrite(t, file, 0, data[:2<<20])
	overwrite(t, file, 1<<20, make([]byte, GrainSize))
	before, err := os.ReadFile(file)
	require.NoError(t, err)
	src, err := s.host.artifact("m-1", 0, ArtifactDelivered)
	require.NoError(t, err)
	defer src.Close()

	for name, answer := range map[string]struct {
		says string
		body []byte
	}{
		"another grain": {"not the one that was asked for", func() []byte {
			b, err := io.ReadAll(&artifactReader{src: src, ctx: t.Context(), wanted: []span{{18, 19}}})
			require.NoError(t, err)
			return b
		}()},
		"zeros":   {"was not asked for", appendEnd(appendZeroRun(nil, 1<<20, GrainSize), 4<<20)},
		"nothing": {"did not come", appendEnd(nil, 4<<20)},
		"no end":  {"cut off", nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodPost {
					_, _ = w.Write(answer.body)
				}
				return r.Method == http.MethodPost
			}
			s.intercept.Store(&f)
			_, err := Deliver(t.Context(), s.delivery("m-1", openTarget(t, file)), nil)
			require.ErrorContains(t, err, answer.says)
			after, err := os.ReadFile(file)
			require.NoError(t, err)
			require.True(t, bytes.Equal(before, after))
		})
	}
}

// A disk that takes what is written and gives back something else is found out.
func TestDiskThatDoesNotKeepWhatIsWritten(t *testing.T) {
	s := newSite(t)
	disk := SourceDisk{Path: blank(t, 4<<20)}
	overwrite(t, disk.Path, 0, []byte("something"))
	s.image("m-1", 1, 0, disk)
	target := openTarget(t, blank(t, 4<<20))
	other := blank(t, 4<<20)
	overwrite(t, other, 0, bytes.Repeat([]byte("kept"), 1<<20))
	var err error
	if target.direct != nil {
		require.NoError(t, target.direct.Close())
	}
	target.direct, err = os.Open(other) // what is read comes from there, zeros go elsewhere
	require.NoError(t, err)
	target.sparse = false
	overwrite(t, other, 0, []byte("something"))
	overwrite(t, other, 9, make([]byte, GrainSize-9))
	_, err = Deliver(t.Context(), s.delivery("m-1", target), nil)
	failure := requireCode(t, err, CodeTargetDiskFailed)
	require.Equal(t, int64(GrainSize), failure.Offset)
	require.ErrorContains(t, err, "reads back something else")

	overwrite(t, other, 0, []byte("anything else"))
	_, err = Deliver(t.Context(), s.delivery("m-1", target), nil)
	requireCode(t, err, CodeTargetDiskFailed)
	require.ErrorContains(t, err, "cannot be written at byte")
}

func TestDeliveryHoldsItsBandwidth(t *testing.T) {
	s := newSite(t)
	_, data := s.noise(3 << 20)
	cfg := s.delivery("m-1", openTarget(t, blank(t, int64(len(data)))))
	cfg.BandwidthLimitKbps = 16000 // 2 MB/s
	var last DeliverProgress
	began := time.Now()
	_, err := Deliver(t.Context(), cfg, func(p DeliverProgress) { last = p })
	took := time.Since(began)
	require.NoError(t, err)
	require.Equal(t, int64(len(data)), last.BytesFetched)
	want := time.Duration(float64(last.BytesReceived) * 8 / 16e6 * float64(time.Second))
	require.Greater(t, took, want*95/100)
	require.Less(t, took, want*2+5*time.Second)
}

func TestDiskContent(t *testing.T) {
	const size = 64 << 20
	for name, test := range map[string]struct {
		off  int64
		says string
	}{
		"blank":     {-1, ""},
		"beginning": {1024, "data at byte 1024"},
		"end":       {size - 3, fmt.Sprintf("data at byte %d", size-3)},
		"between":   {size / 2, "data at byte"},
	} {
		t.Run(name, func(t *testing.T) {
			path := blank(t, size)
			if test.off >= 0 {
				overwrite(t, path, test.off, bytes.Repeat([]byte("x"), int(min(size/2, size-test.off))))
			}
			found, err := DiskContent(path)
			require.NoError(t, err)
			if test.says == "" {
				require.Empty(t, found)
			} else {
				require.Contains(t, found, test.says)
			}
		})
	}
	found, err := DiskContent(makeGPT(t, 16<<20, 512))
	require.NoError(t, err)
	require.Contains(t, found, "partition table (gpt")
	_, err = DiskContent(filepath.Join(t.TempDir(), "absent"))
	require.ErrorIs(t, err, os.ErrNotExist)

	allocated := blank(t, 4<<20)
	overwrite(t, allocated, 0, make([]byte, 4<<20))
	found, err = DiskContent(allocated)
	require.NoError(t, err)
	require.Empty(t, found, "zeros that are stored are no data")
}

func TestTargetIsForOneAlone(t *testing.T) {
	path := blank(t, 1<<20)
	first, err := OpenTarget(path)
	require.NoError(t, err)
	_, err = OpenTarget(path)
	require.ErrorIs(t, err, ErrDiskInUse)
	require.NoError(t, first.Close())
	again := openTarget(t, path)
	require.Equal(t, int64(1<<20), again.Size())

	_, err = OpenTarget(blank(t, 0))
	require.ErrorContains(t, err, "it is empty")
	_, err = OpenTarget(t.TempDir())
	require.Error(t, err)
	absent := filepath.Join(t.TempDir(), "absent")
	_, err = OpenTarget(absent)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoFileExists(t, absent)
}

// loopDevice shows a file as a block device, where the test may.
func loopDevice(t *testing.T, path string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("loop devices need root")
	}
	out, err := exec.Command("losetup", "--find", "--show", path).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device to be had: %s", out)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		out, err := exec.Command("losetup", "--detach", device).CombinedOutput()
		require.NoError(t, err, string(out))
	})
	return device
}

func TestDeliverToABlockDevice(t *testing.T) {
	s := newSite(t)
	disk := makeDisk(t, 16<<20, 7)
	s.image("m-1", 1, 24<<20, disk)
	file := blank(t, 24<<20)
	overwrite(t, file, 0, bytes.Repeat([]byte("junk"), 5<<20))
	device := loopDevice(t, file)

	_, err := OpenTarget(file)
	require.ErrorIs(t, err, ErrDiskInUse)
	require.ErrorContains(t, err, device)
	target, err := OpenTarget(device)
	require.NoError(t, err)
	t.Cleanup(func() { target.Close() })
	_, err = OpenTarget(device)
	require.ErrorIs(t, err, ErrDiskInUse)
	s.deliver("m-1", target)
	require.NoError(t, target.Close())

	// One that is mounted.
	if out, err := exec.Command("mkfs.ext4", "-q", device).CombinedOutput(); err != nil {
		t.Skipf("no file system to mount: %s", out)
	}
	found, err := DiskContent(device)
	require.NoError(t, err)
	require.Contains(t, found, "data at byte")
	dir := t.TempDir()
	if out, err := exec.Command("mount", device, dir).CombinedOutput(); err != nil {
		t.Skipf("cannot mount: %s", out)
	}
	_, err = OpenTarget(device)
	out, unmountErr := exec.Command("umount", dir).CombinedOutput()
	require.NoError(t, unmountErr, string(out))
	require.ErrorIs(t, err, ErrDiskInUse)
}

// A proxy whose backend is away is waited for, however often it says so.
func TestDeliverBearsWithAProxy(t *testing.T) {
	t.Parallel() // it waits between attempts
	s := newSite(t)
	disk := makeDisk(t, 2<<20, 1)
	s.image("m-1", 1, 0, disk)
	var asked atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) <= maxAttempts+1 {
			http.Error(w, "the backend is away", http.StatusBadGateway)
			return
		}
		s.host.Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(proxy.Close)
	target := openTarget(t, blank(t, 2<<20))
	cfg := s.delivery("m-1", target)
	cfg.HostURL = proxy.URL
	_, err := Deliver(t.Context(), cfg, nil)
	require.NoError(t, err)
	requireSame(t, disk.Path, target.Path())
}
