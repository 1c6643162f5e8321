package events

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// rewindable is a memOutbox that can be published again.
type rewindable struct{ *memOutbox }

func (o *rewindable) RewindAll(context.Context) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rewinds++
	clear(o.published)
	return nil
}

// lookedAt is a rewindable that tells when it is looked at: whoever looks has seen to the stream.
type lookedAt struct {
	*rewindable
	looked chan struct{}
}

func (o lookedAt) Pending(ctx context.Context, limit int) ([]Record, error) {
	select {
	case o.looked <- struct{}{}:
	default:
	}
	return o.rewindable.Pending(ctx, limit)
}

// Whoever notices that the stream is lost fills it again, in order, while several relays work and new events come.
func TestRelayFillsALostStreamAgain(t *testing.T) {
	ctx := testContext(t)
	srv := startNATS(t)
	_, js := srv.connect(testLog(t))
	core, logs := observer.New(zap.ErrorLevel)
	o := &rewindable{newOutbox()}
	const jobs, before, after = 12, 20, 25
	total := fill(t, o.memOutbox, jobs, before)
	for range 3 {
		_, js := srv.connect(zap.NewNop())
		outbox := lookedAt{o, make(chan struct{}, 1)}
		goRun(t, NewRelay(js, outbox, quick(RelayConfig{Batch: 40}), zap.New(core)).Run)
		<-outbox.looked
	}
	o.await(t, total)

	require.NoError(t, js.DeleteStream(ctx, StreamName))
	for seq := uint64(before + 1); seq <= after; seq++ {
		for job := range jobs {
			o.add(jobRecord(t, job, seq))
		}
	}
	require.Eventually(t, func() bool {
		stream, err := js.Stream(ctx, StreamName)
		return err == nil && stream.CachedInfo().State.Msgs == jobs*after
	}, patience, 10*time.Millisecond)
	o.await(t, jobs*after)
	requireEachOnceInOrder(t, readStream(t, js), jobs, after)
	require.NotZero(t, o.rewinds)
	require.NotZero(t, logs.FilterMessageSnippet("published again").Len())
	require.Zero(t, logs.FilterMessageSnippet("a later event of this resource and not this one").Len())
}

// What is published again is found where it is.
func TestRelayAddsNothingToAStreamThatIsThere(t *testing.T) {
	_, js := startNATS(t).connect(testLog(t))
	o := &rewindable{newOutbox()}
	total := fill(t, o.memOutbox, 5, 10)
	_, err := EnsureStream(t.Context(), js, StreamConfig{MaxBytes: 1 << 30})
	require.NoError(t, err)
	relay := NewRelay(js, o, quick(RelayConfig{KeepStream: true}), testLog(t))
	goRun(t, relay.Run)
	o.await(t, total)
	stream, err := js.Stream(t.Context(), StreamName)
	require.NoError(t, err)
	require.EqualValues(t, 1<<30, stream.CachedInfo().Config.MaxBytes, "its settings are left alone")
	for n := range uint64(2) {
		require.NoError(t, o.RewindAll(t.Context()))
		o.await(t, total)
		require.Equal(t, RelayStats{Published: uint64(total), Found: (n + 1) * uint64(total)}, relay.Stats())
	}
	requireEachOnceInOrder(t, readStream(t, js), 5, 10)
}

func TestHeads(t *testing.T) {
	ctx := testContext(t)
	_, js := startNATS(t).connect(testLog(t))
	heads := func(region string) map[string]uint64 {
		got := map[string]uint64{}
		require.NoError(t, Heads(ctx, js, region, func(h Head) error {
			switch {
			case h.Job != nil:
				got[h.Job.JobID] = h.Job.Sequence
			case h.Source != nil:
				got[h.Source.SourceID] = h.Source.Sequence
			}
			require.NotZero(t, h.StreamSeq)
			return nil
		}))
		return got
	}
	require.Empty(t, heads("local"), "no stream")
	_, err := EnsureStream(ctx, js, StreamConfig{})
	require.NoError(t, err)
	require.Empty(t, heads("local"), "nothing in it")
	const jobs = 700 // more than a batch
	o := newOutbox()
	total := fill(t, o, jobs, 2)
	source, err := NewRecord(SourceStateChanged{AccountID: "1", RegionID: "local", SourceID: "s-1", Sequence: 7, Change: SourceFreed, State: "Available", Time: testTime})
	require.NoError(t, err)
	elsewhere, err := NewRecord(SourceStateChanged{AccountID: "1", RegionID: "elsewhere", SourceID: "s-2", Sequence: 8, Change: SourceFreed, State: "Available", Time: testTime})
	require.NoError(t, err)
	o.add(source, elsewhere)
	goRun(t, NewRelay(js, o, quick(RelayConfig{}), testLog(t)).Run)
	o.await(t, total+2)
	got := heads("local")
	require.Len(t, got, jobs+1)
	for id, sequence := range got {
		if id == "s-1" {
			require.Equal(t, uint64(7), sequence)
			continue
		}
		require.Equal(t, uint64(2), sequence, id)
	}
	require.Equal(t, map[string]uint64{"s-2": 8}, heads("elsewhere"))

	// Each of a batch may be a write to a database.
	require.NoError(t, Heads(ctx, js, "elsewhere", func(Head) error {
		stream, err := js.Stream(ctx, StreamName)
		require.NoError(t, err)
		list := stream.ListConsumers(ctx)
		info := <-list.Info()
		require.NoError(t, list.Err())
		require.GreaterOrEqual(t, info.Config.InactiveThreshold, time.Minute)
		return nil
	}))
}
