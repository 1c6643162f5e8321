package replica

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func always(is bool) func(context.Context) (bool, error) {
	return func(context.Context) (bool, error) { return is, nil }
}

// What is removed is asked for again while nothing else can touch it, and what is in use is left alone.
func TestRemoveStaging(t *testing.T) {
	s := newSite(t)
	disk := makeDisk(t, 2<<20, 1)
	s.run("j-1", 1, DefaultParams(), disk)
	require.Positive(t, s.host.StagedBytes("j-1"))

	removed, err := s.host.RemoveStaging(t.Context(), "j-1", always(false))
	require.NoError(t, err)
	require.False(t, removed)
	s.requireStaged("j-1", disk)
	_, err = s.host.RemoveStaging(t.Context(), "j-1", func(context.Context) (bool, error) { return true, errors.New("no database") })
	require.ErrorContains(t, err, "no database")
	s.requireStaged("j-1", disk)
	_, err = s.host.RemoveStaging(t.Context(), "../j-1", always(true))
	requireCode(t, err, CodeInvalidRequest)

	// A preparation that comes in between waits, and begins anew.
	asked, prepared := make(chan struct{}), make(chan error, 1)
	removed, err = s.host.RemoveStaging(t.Context(), "j-1", func(ctx context.Context) (bool, error) {
		go func() {
			close(asked)
			prepared <- s.host.Prepare(ctx, "j-1", sizes(t, []SourceDisk{disk}))
		}()
		<-asked
		inner, err := s.host.RemoveStaging(ctx, "j-1", always(true))
		require.NoError(t, err)
		require.False(t, inner, "another operation has it")
		return true, nil
	})
	require.NoError(t, err)
	require.True(t, removed)
	require.NoError(t, <-prepared)
	require.FileExists(t, s.staged("j-1", 0))
	s.run("j-1", 2, DefaultParams(), disk)
	s.requireStaged("j-1", disk)

	// A session that is open ends with its staging area.
	session := s.open("j-2", 1, DefaultParams(), disk)
	removed, err = s.host.RemoveStaging(t.Context(), "j-2", always(true))
	require.NoError(t, err)
	require.True(t, removed)
	_, err = session.Wait(t.Context(), 0, nil)
	require.ErrorIs(t, err, ErrSessionReplaced)
	ids, err := s.host.StagingIDs()
	require.NoError(t, err)
	require.Equal(t, []string{"j-1"}, ids)
}

func TestRemoveImage(t *testing.T) {
	s := newSite(t)
	s.run("j-1", 1, DefaultParams(), makeDisk(t, 2<<20, 1))
	_, err := s.host.MakeImage(t.Context(), ImageSpec{ImageID: "m-1", JobID: "j-1", Run: 1}, nil)
	require.NoError(t, err)
	require.Positive(t, s.host.ImageBytes("m-1"))

	end := s.host.readers.begin("m-1")
	removed, err := s.host.RemoveImage(t.Context(), "m-1", always(true))
	require.NoError(t, err)
	require.False(t, removed, "somebody reads it")
	end()
	require.False(t, s.host.InMaking("m-1"))
	removed, err = s.host.RemoveImage(t.Context(), "m-1", func(context.Context) (bool, error) {
		require.True(t, s.host.InMaking("m-1"))
		return true, nil
	})
	require.NoError(t, err)
	require.True(t, removed)
	_, err = s.host.Image("m-1")
	require.ErrorIs(t, err, ErrImageNotFound)
}

// Only what a write leaves that was cut off goes, and only when it is old.
func TestRemoveTemporary(t *testing.T) {
	s := newSite(t)
	s.run("j-1", 1, DefaultParams(), makeDisk(t, 1<<20, 1))
	root, staging := s.host.cfg.Root, filepath.Dir(s.staged("j-1", 0))
	image := filepath.Join(root, "images", "m-1")
	require.NoError(t, os.Mkdir(image, 0o700))
	old := time.Now().Add(-2 * time.Hour)
	put := func(path string, at time.Time) string {
		require.NoError(t, os.WriteFile(path, []byte("x"), 0o600))
		require.NoError(t, os.Chtimes(path, at, at))
		return path
	}
	gone := []string{
		put(filepath.Join(staging, "session.json.123456"), old), put(filepath.Join(staging, "disk-0.raw.tmp"), old),
		put(filepath.Join(image, "manifest.json.77"), old), put(filepath.Join(image, "disk-12.map.77"), old), put(filepath.Join(image, "disk-0.patch.1"), old),
		put(filepath.Join(root, "reflink-998"), old), put(filepath.Join(root, "host-id.5"), old),
	}
	kept := []string{
		put(filepath.Join(staging, "session.json.99"), time.Now()), put(filepath.Join(staging, "disk-9.raw"), old), put(filepath.Join(root, "host-id"), old),
		put(filepath.Join(image, "manifest.json"), old), put(filepath.Join(root, "notes.1"), old),
	}
	removed, err := s.host.RemoveTemporary(t.Context(), time.Now().Add(-time.Hour))
	require.NoError(t, err)
	require.Equal(t, len(gone), removed)
	for _, path := range gone {
		require.NoFileExists(t, path)
	}
	for _, path := range kept {
		require.FileExists(t, path)
	}
	free, total, err := s.host.Volume()
	require.NoError(t, err)
	require.Greater(t, total, free)
}
