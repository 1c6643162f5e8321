package replica

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// mountSmall returns a file system of its own with so much room. Nobody sees it but through a file that the test has open: the kernel takes it
// away with the test's process, however that ends.
func mountSmall(t *testing.T, size string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting a file system of a limited size needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); errors.Is(err, unix.EPERM) {
		t.Skip("root may not mount here")
	} else {
		require.NoError(t, err)
	}
	root, err := os.Open(dir)
	require.NoError(t, errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH)))
	t.Cleanup(func() { require.NoError(t, root.Close()) })
	return fmt.Sprintf("/proc/self/fd/%d", root.Fd())
}

// A disk that runs full in the middle of a run: the run is told so, what was stored stays, and once there is room again it goes on
// without sending it again.
func TestRunThatFillsItsDisk(t *testing.T) {
	const disk, filler = 32 << 20, 24 << 20
	s := &site{t: t, root: mountSmall(t, "50m"), epochs: newEpochs(), addr: "127.0.0.1:0"}
	s.start()
	t.Cleanup(s.kill)
	data := make([]byte, disk)
	randomize(rand.New(rand.NewPCG(1, 2)), data)
	source := SourceDisk{Path: filepath.Join(t.TempDir(), "source.raw")}
	require.NoError(t, os.WriteFile(source.Path, data, 0o600))
	other := filepath.Join(s.root, "something else")
	require.NoError(t, os.WriteFile(other, make([]byte, filler), 0o600))

	session := s.open("j-1", 1, DefaultParams(), source)
	ctx, stop := context.WithCancel(t.Context())
	synced := make(chan error, 1)
	go func() { synced <- s.sync(ctx, "j-1", source) }()
	result, err := session.Wait(t.Context(), time.Second, nil)
	stop() // as the center tells the agent of a job that is InError
	var failed *Error
	require.ErrorAs(t, err, &failed)
	require.Equal(t, CodeInsufficientStorage, failed.Code)
	require.Error(t, <-synced)
	stored := result.Progress
	require.Positive(t, stored.BytesWritten, "it had begun")
	require.Less(t, stored.BytesWritten, int64(disk))

	// Full still: another attempt fails as well, also after a restart of the host, and loses nothing.
	for range 2 {
		_, err = s.host.OpenSession(t.Context(), SessionSpec{JobID: "j-1", Run: 1, Disks: sizes(t, []SourceDisk{source}), Params: DefaultParams()})
		require.ErrorAs(t, err, &failed)
		require.Equal(t, CodeInsufficientStorage, failed.Code)
		s.kill()
		s.start()
	}

	require.NoError(t, os.Remove(other))
	var sent atomic.Int64
	count := func(_ http.ResponseWriter, r *http.Request) bool {
		sent.Add(max(0, r.ContentLength))
		return false
	}
	s.intercept.Store(&count)
	s.run("j-1", 1, DefaultParams(), source)
	s.requireStaged("j-1", source)
	t.Logf("%d MiB were stored when the disk was full, %d KiB were sent after that", stored.BytesWritten>>20, sent.Load()>>10)
	require.LessOrEqual(t, sent.Load(), disk-stored.BytesWritten+4*WindowSize, "what was stored is not sent again, but for what was under way")
}
