package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
)

const grown = 8 << 20 // size of the delivered system disk

// openEpochs lets everybody attach: there is one writer in these tests.
type openEpochs struct{}

func (openEpochs) RaiseEpoch(context.Context, string, int) (int64, error) { return 1, nil }
func (openEpochs) CheckEpoch(context.Context, string, int64) error        { return nil }

// transitionHost makes an image of two disks on a real transition host, and an endpoint that gives out tickets for it.
func transitionHost(t *testing.T) (e *endpoint, disks []string, root string) {
	t.Helper()
	ctx, dir, root := t.Context(), t.TempDir(), t.TempDir()
	key := []byte("01234567890123456789012345678901")
	e = newEndpoint(t)
	host, err := replica.NewHost(replica.HostConfig{Root: root, ID: "i-test", Key: key, Epochs: openEpochs{}, OnVerified: e.onVerified})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, host.Close()) })
	server := httptest.NewServer(host.Handler())
	t.Cleanup(server.Close)

	spec := replica.SessionSpec{JobID: "j-0123456789", Run: 1, Params: replica.DefaultParams()}
	sync := replica.SyncConfig{
		HostURL: server.URL, JobID: spec.JobID, Instance: "test",
		Token: replica.SignToken(key, replica.TokenSession, spec.JobID, time.Now().Add(time.Hour)),
	}
	image := replica.ImageSpec{ImageID: "m-0123456789", JobID: spec.JobID, Run: 1, Final: true}
	e.images = []smc.Image{{ImageID: image.ImageID, ImageName: "web-1", JobID: spec.JobID, Run: 1, Status: smc.ImageAvailable, SizeBytes: grown}}
	e.ticket = smc.GetImageTicketResult{
		ImageID: image.ImageID, URL: server.URL, Token: replica.SignToken(key, replica.TokenImage, image.ImageID, time.Now().Add(time.Hour)),
	}
	for i, size := range []int64{4 << 20, 1 << 20} {
		data := make([]byte, size)
		random := rand.NewChaCha8([32]byte{byte(i)})
		_, _ = random.Read(data[:size/2]) // never fails; the other half is zero
		name := filepath.Join(dir, "source.raw")
		if i > 0 {
			name = filepath.Join(dir, "data.raw")
		}
		require.NoError(t, os.WriteFile(name, data, 0o600))
		disks = append(disks, name)
		delivered := int64(0)
		if i == 0 {
			delivered = grown
		}
		spec.Disks = append(spec.Disks, replica.Disk{Index: i, SizeBytes: size})
		sync.Disks = append(sync.Disks, replica.SourceDisk{Index: i, Path: name})
		image.Disks = append(image.Disks, replica.ImageDisk{Index: i, DeliveredSizeBytes: delivered})
		e.ticket.Disks = append(e.ticket.Disks, smc.ImageDisk{Index: i, SizeBytes: size, DeliveredSizeBytes: max(delivered, size)})
	}
	e.images[0].Disks = e.ticket.Disks
	require.NoError(t, host.Prepare(ctx, spec.JobID, spec.Disks))
	session, err := host.OpenSession(ctx, spec)
	require.NoError(t, err)
	sent := make(chan error, 1)
	go func() { sent <- replica.Sync(ctx, sync, nil) }()
	_, err = session.Wait(ctx, time.Second, func(replica.Progress) {})
	require.NoError(t, err)
	require.NoError(t, <-sent)
	_, err = host.MakeImage(ctx, image, func(replica.Progress) {})
	require.NoError(t, err)
	return e, disks, root
}

// onVerified keeps the outcome of a verification, as a center does.
func (e *endpoint) onVerified(_ context.Context, imageID string, result *replica.VerifyResult) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.failVerified != nil {
		return e.failVerified
	}
	for i := range e.images {
		if image := &e.images[i]; image.ImageID == imageID {
			image.Verification, image.VerificationInfo = smc.VerificationPassed, result.Problems()
			if !result.OK {
				image.Verification = smc.VerificationNotPassed
			}
		}
	}
	return nil
}

func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

func TestImageExport(t *testing.T) {
	e, disks, _ := transitionHost(t)
	out := filepath.Join(t.TempDir(), "new", "dir")
	type result struct {
		ImageID string `json:"ImageId"`
		Synced  bool
		Files   []struct {
			Index     int
			Path      string
			SizeBytes int64
		}
	}
	done := parse[result](t, e.drover(t, "image", "export", "web-1", out, "--synced", "-o", "json"))
	assert.Equal(t, "m-0123456789", done.ImageID)
	assert.True(t, done.Synced)
	require.Len(t, done.Files, 2)
	assert.Equal(t, []string{"disk-0.raw", "disk-1.raw"}, files(t, out), "and nothing else")
	for i, original := range disks {
		want, err := os.ReadFile(original)
		require.NoError(t, err)
		got, err := os.ReadFile(done.Files[i].Path)
		require.NoError(t, err)
		assert.Equal(t, want, got, "disk %d", i)
		assert.Equal(t, int64(len(want)), done.Files[i].SizeBytes)
	}

	o := e.drover(t, "image", "export", "m-0123456789", out)
	require.Equal(t, exitOK, o.code, o.stderr)
	assert.Equal(t, filepath.Join(out, "disk-0.raw")+"  8.0 MiB\n"+filepath.Join(out, "disk-1.raw")+"  1.0 MiB\n", o.stdout)
	info, err := os.Stat(filepath.Join(out, "disk-0.raw"))
	require.NoError(t, err)
	assert.Equal(t, int64(grown), info.Size(), "the delivered image takes the place of the synced state")
}

func TestImageExportLeavesNoHalfFiles(t *testing.T) {
	e, _, _ := transitionHost(t)
	// The second disk is refused when the first is here already.
	e.ticket.Disks[1].Index = 7
	out := t.TempDir()
	o := e.drover(t, "image", "export", "web-1", out, "--synced")
	assert.Equal(t, exitFailed, o.code)
	assert.Contains(t, o.stderr, "export disk 7 of image m-0123456789")
	assert.Empty(t, files(t, out))

	e.ticket.Token += "x"
	o = e.drover(t, "image", "export", "web-1", out)
	assert.Equal(t, exitFailed, o.code)
	assert.Contains(t, o.stderr, "Unauthorized")
	assert.Empty(t, files(t, out))
}

// fakeQEMU puts a qemu-img on the path that does what the script says.
func fakeQEMU(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "qemu-img"), []byte("#!/bin/sh\n"+script), 0o700)) //nolint:gosec // to be run
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestImageExportQCOW2(t *testing.T) {
	e, _, _ := transitionHost(t)
	out := t.TempDir()

	t.Run("converts", func(t *testing.T) {
		args := filepath.Join(t.TempDir(), "args")
		fakeQEMU(t, `echo "$@" >> "`+args+`"; for last; do :; done; echo qcow2 > "$last"`)
		o := e.drover(t, "image", "export", "web-1", out, "--format", "qcow2")
		require.Equal(t, exitOK, o.code, o.stderr)
		assert.Equal(t, []string{"disk-0.qcow2", "disk-1.qcow2"}, files(t, out), "the raw files were on the way only")
		assert.Contains(t, o.stdout, "disk-0.qcow2  8.0 MiB\n", "the size is the disk's")
		called, err := os.ReadFile(args)
		require.NoError(t, err)
		assert.Equal(t, 2, strings.Count(string(called), "convert -f raw -O qcow2 -W -c -o compression_type=zstd "))
	})
	t.Run("fails", func(t *testing.T) {
		fakeQEMU(t, `echo "no space left" >&2; exit 1`)
		empty := t.TempDir()
		o := e.drover(t, "image", "export", "web-1", empty, "--format", "qcow2")
		assert.Equal(t, exitFailed, o.code)
		assert.Contains(t, o.stderr, "no space left")
		assert.Empty(t, files(t, empty))
	})
	t.Run("is not installed", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		o := e.drover(t, "image", "export", "web-1", out, "--format", "qcow2")
		assert.Equal(t, exitFailed, o.code)
		assert.Contains(t, o.stderr, "qemu-img is not installed")
	})
}

func TestImageVerify(t *testing.T) {
	e, _, root := transitionHost(t)
	o := e.drover(t, "image", "verify", "web-1")
	require.Equal(t, exitOK, o.code, o.stderr)
	assert.Equal(t, "image m-0123456789 disk 0: verified\nimage m-0123456789 disk 1: verified\n", o.stdout)
	verified := parse[map[string]any](t, e.drover(t, "image", "verify", "web-1", "-o", "json"))
	assert.Equal(t, true, verified["Verified"])
	assert.Equal(t, "m-0123456789", verified["ImageId"])

	assert.Regexp(t, `Verification: +Passed`, e.drover(t, "image", "show", "web-1").stdout)

	damage(t, filepath.Join(root, "images", "m-0123456789", "disk-1.raw"))
	o = e.drover(t, "image", "verify", "web-1")
	assert.Equal(t, exitFailed, o.code)
	assert.Contains(t, o.stdout, "disk 0: verified\n")
	assert.Contains(t, o.stdout, "disk 1: NOT VERIFIED\n")
	assert.Contains(t, o.stderr, "Image.VerificationFailed: image m-0123456789 (web-1): disk 1: damaged grains of 64 KiB: 1, the first at byte ")

	assert.Regexp(t, `Verification: +NotPassed\nVerification info: +disk 1: damaged grains of 64 KiB: 1, the first at byte `, e.drover(t, "image", "show", "web-1").stdout)
	e.failVerified = errors.New("the database is away")
	o = e.drover(t, "image", "verify", "web-1")
	assert.Equal(t, exitFailed, o.code)
	assert.Contains(t, o.stderr, "the outcome could not be recorded")

	e.ticket.Token = "x"
	o = e.drover(t, "image", "verify", "web-1")
	assert.Equal(t, exitFailed, o.code)
	assert.Contains(t, o.stderr, "Unauthorized")
}

// damage changes one byte.
func damage(t *testing.T, name string) {
	t.Helper()
	require.NoError(t, os.Chmod(name, 0o600))
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	require.NoError(t, err)
	b := make([]byte, 1)
	_, err = f.ReadAt(b, 1000)
	require.NoError(t, err)
	b[0] ^= 1
	_, err = f.WriteAt(b, 1000)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

func TestImageVerifyOfAHostThatBreaksOff(t *testing.T) {
	e := newEndpoint(t)
	host := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"progress":{"bytesTotal":10,"bytesRead":5}}` + "\n"))
	}))
	t.Cleanup(host.Close)
	e.images = []smc.Image{{ImageID: "m-1", ImageName: "web-1"}}
	e.ticket = smc.GetImageTicketResult{ImageID: "m-1", URL: host.URL, Token: "t"}
	o := e.drover(t, "image", "verify", "m-1")
	assert.Equal(t, exitFailed, o.code)
	assert.Contains(t, o.stderr, "the transition host broke off")
	assert.Empty(t, o.stdout)
}

func TestImageDelete(t *testing.T) {
	e := newEndpoint(t)
	e.images = []smc.Image{{ImageID: "m-0123456789", ImageName: "web-1"}}
	assert.Equal(t, "image m-0123456789 (web-1) is being deleted\n", e.drover(t, "image", "delete", "web-1").stdout)
	assert.Equal(t, "m-0123456789", e.called("DeleteImage")[0].Get("ImageId"))
	assert.Equal(t, map[string]any{"ImageId": "m-0123456789"}, parse[map[string]any](t, e.drover(t, "image", "delete", "m-0123456789", "-o", "json")))
}

func TestImageListAndShow(t *testing.T) {
	e := newEndpoint(t)
	e.images = []smc.Image{{
		ImageID: "m-1", ImageName: "web-1", JobID: "j-1", Run: 2, Status: smc.ImageAvailable, SizeBytes: 40 << 30, HostID: "i-1",
		Disks: smc.List[smc.ImageDisk]{{SizeBytes: 20 << 30, DeliveredSizeBytes: 40 << 30, Root: "abc"}},
	}}
	e.jobs = []smc.ReplicationJob{{JobID: "j-0123456789", Name: "web"}}
	assert.Regexp(t, `m-1 +web-1  Available +1  40.0 GiB    2  j-1`, e.drover(t, "image", "list").stdout)
	list := parse[[]map[string]any](t, e.drover(t, "image", "list", "--job", "web", "-o", "json"))
	assert.Equal(t, "m-1", list[0]["ImageId"])
	assert.Equal(t, "j-0123456789", e.called("DescribeImages")[1].Get("JobId"))
	assert.Contains(t, e.drover(t, "image", "show", "web-1").stdout, "0  20.0 GiB   40.0 GiB  abc\n")
	assert.Equal(t, "j-1", parse[map[string]any](t, e.drover(t, "image", "show", "m-1", "-o", "json"))["JobId"])
}
