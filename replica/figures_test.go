package replica

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestFigures(t *testing.T) {
	s := newSite(t)
	disk := makeDisk(t, 8<<20, 5)
	require.Equal(t, Figures{}, s.host.Figures())
	session := s.open("j-1", 1, DefaultParams(), disk)
	require.Equal(t, 1, s.host.Figures().Sessions)
	require.NoError(t, s.sync(t.Context(), "j-1", disk))
	result, err := session.Wait(t.Context(), time.Second, nil)
	require.NoError(t, err)
	figures := s.host.Figures()
	require.Zero(t, figures.Sessions)
	require.Zero(t, figures.Fenced)
	require.Equal(t, result.Progress.BytesWritten, figures.BytesWritten)
	require.Equal(t, result.Progress.BytesSent, figures.BytesReceived, "every window came through at once")

	before, err := s.host.Usage()
	require.NoError(t, err)
	require.GreaterOrEqual(t, before.StagingBytes, result.Progress.BytesWritten)
	require.Zero(t, before.Images)
	require.Positive(t, before.FreeBytes)
	require.GreaterOrEqual(t, before.SizeBytes, before.FreeBytes)
	_, err = s.host.MakeImage(t.Context(), ImageSpec{ImageID: "m-1", JobID: "j-1", Run: 1, Final: false}, nil)
	require.NoError(t, err)
	after, err := s.host.Usage()
	require.NoError(t, err)
	require.Equal(t, 1, after.Images)
	require.GreaterOrEqual(t, after.ImageBytes, result.Progress.BytesWritten)
}

func TestFencedIsCounted(t *testing.T) {
	s := newSite(t)
	disk := makeDisk(t, 32<<20, 5)
	session := s.open("j-1", 1, Params{BandwidthLimitKbps: 8000}, disk)
	first := startSync(s.config("j-1", disk))
	require.Eventually(t, func() bool { return session.Progress().BytesWritten > 0 }, 20*time.Second, time.Millisecond)
	second := startSync(s.config("j-1", disk))
	require.ErrorIs(t, <-first.done, ErrFenced)
	require.Positive(t, s.host.Figures().Fenced)
	if err := second.stop(); !errors.Is(err, context.Canceled) {
		require.NoError(t, err)
	}
}
