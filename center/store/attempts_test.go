package store

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/events"
	"github.com/drover/drover/smc"
)

// eventsOf returns the events of a resource, in order.
func (f *fixture) eventsOf(id string) []events.Record {
	f.t.Helper()
	list, err := f.Events(f.ctx, id)
	require.NoError(f.t, err)
	return list
}

func TestTroubles(t *testing.T) {
	f := newFixture(t)
	id := f.create(spec(f.source("web").SourceID))
	_, err := f.NoteTrouble(f.ctx, id, 1, smc.CodeInternalError, "x")
	require.ErrorIs(t, err, ErrSuperseded, "it is not Running")
	f.start(id, "start", smc.TriggerStart)
	require.NoError(t, f.BeginSync(f.ctx, id, "sync", 1, hostURL, 100))
	require.NoError(t, f.UpdateProgress(f.ctx, id, 1, SyncProgress{BytesTotal: 100, BytesRead: 10, Rate: 5}))
	_, err = f.NoteTrouble(f.ctx, id, 2, smc.CodeInternalError, "x")
	require.ErrorIs(t, err, ErrSuperseded, "it is another run")
	job := f.job(id)
	told := len(f.eventsOf(id))
	require.Empty(t, job.Info())

	began := f.clock.read()
	first, err := f.NoteTrouble(f.ctx, id, 1, smc.CodeTransitionHostStorageError, "EIO")
	require.NoError(t, err)
	require.Equal(t, began, first.Since)
	f.clock.advance(time.Minute)
	again, err := f.NoteTrouble(f.ctx, id, 1, smc.CodeTransitionHostStorageError, "EIO again")
	require.NoError(t, err)
	require.Equal(t, began, again.Since, "since the first failure")
	job = f.job(id)
	require.Equal(t, "since 2026-05-01T12:00:00Z: EIO again ("+smc.CodeTransitionHostStorageError+")", job.Info())
	require.Zero(t, job.Runs[0].Rate, "what does not get on has no rate")
	require.Len(t, f.eventsOf(id), told, "no transition, no event")

	// Another failure has its own time, and the first one's goes on.
	f.clock.advance(time.Minute)
	other, err := f.NoteTrouble(f.ctx, id, 1, smc.CodeSourceServerOffline, "away")
	require.NoError(t, err)
	require.Equal(t, began.Add(2*time.Minute), other.Since)
	require.Equal(t, smc.CodeSourceServerOffline, f.job(id).Trouble.Code, "the last one is shown")
	f.clock.advance(time.Minute)
	again, err = f.NoteTrouble(f.ctx, id, 1, smc.CodeTransitionHostStorageError, "EIO")
	require.NoError(t, err)
	require.Equal(t, began, again.Since)
	require.Equal(t, smc.CodeTransitionHostStorageError, f.job(id).Trouble.Code)

	page, err := f.JobPage(f.ctx, account, JobFilter{}, Page{Number: 1, Size: 10}, nil, unknown)
	require.NoError(t, err)
	require.Equal(t, f.job(id).Info(), page.Unknown[id].Info())
	require.NoError(t, f.ClearTroubles(f.ctx, id, 1))
	cleared, err := f.JobPage(f.ctx, account, JobFilter{}, Page{Number: 1, Size: 10}, nil, unknown)
	require.NoError(t, err)
	require.Empty(t, cleared.Unknown[id].Info())
	require.NotEqual(t, page.Jobs[0].Revision, cleared.Jobs[0].Revision, "a listing that is kept does not show it any more")
	require.NoError(t, f.ClearTroubles(f.ctx, id, 1))

	// A transition ends every trouble.
	f.clock.advance(time.Minute)
	_, err = f.NoteTrouble(f.ctx, id, 1, smc.CodeTransitionHostStorageError, "EIO")
	require.NoError(t, err)
	require.NoError(t, f.Fail(f.ctx, id, "fail", 1, smc.CodeTransitionHostStorageError, "Syncing failed"))
	require.Equal(t, "Syncing failed", f.job(id).Info())
	f.start(id, "again", smc.TriggerStart)
	require.Empty(t, f.job(id).Info())
	_, troubled, err := f.Trouble(f.ctx, f.job(id))
	require.NoError(t, err)
	require.False(t, troubled)
	f.clock.advance(time.Minute)
	anew, err := f.NoteTrouble(f.ctx, id, 1, smc.CodeTransitionHostStorageError, "EIO")
	require.NoError(t, err)
	require.Equal(t, f.clock.read(), anew.Since, "its time begins anew")
}

func TestSpaceIsReserved(t *testing.T) {
	f := newFixture(t)
	var ids []string
	for i := range 3 {
		id := f.create(spec(f.source(fmt.Sprint("web", i)).SourceID))
		f.start(id, "start", smc.TriggerStart)
		ids = append(ids, id)
	}
	reserve := func(id string, bytes, free, wantOthers int64, wantFits bool) {
		t.Helper()
		others, fits, err := f.ReserveSpace(f.ctx, id, hostID, bytes, free)
		require.NoError(t, err)
		require.Equal(t, wantOthers, others)
		require.Equal(t, wantFits, fits)
	}
	reserve(ids[0], 60, 100, 0, true)
	reserve(ids[0], 60, 100, 0, true) // another attempt does not count its own
	reserve(ids[1], 60, 100, 60, false)
	reserve(ids[1], 40, 100, 60, true)
	reserve(ids[2], 1, 100, 100, false)
	reserve(ids[2], 0, 0, 100, true)
	require.NoError(t, f.UpdateReservation(f.ctx, ids[0], hostID, 10))
	reserve(ids[2], 50, 100, 50, true)

	// A run that rests takes nothing, and what it has stored is not free any more.
	require.NoError(t, f.Fail(f.ctx, ids[1], "fail", 1, smc.CodeInternalError, "x"))
	reserve(ids[2], 90, 100, 10, true)
	others, fits, err := f.ReserveSpace(f.ctx, ids[2], "i-other", 90, 100)
	require.NoError(t, err)
	require.True(t, fits)
	require.Zero(t, others, "another host")
}

// Two runs that look at the same moment do not both see the same room.
func TestSpaceIsReservedOnce(t *testing.T) {
	f := newFixture(t)
	const runs = 6
	stores := []*Store{f.Store, f.open(), f.open()}
	var ids []string
	for i := range runs {
		id := f.create(spec(f.source(fmt.Sprint("web", i)).SourceID))
		f.start(id, "start", smc.TriggerStart)
		ids = append(ids, id)
	}
	var mu sync.Mutex
	fitting := 0
	var group sync.WaitGroup
	for i, id := range ids {
		group.Go(func() {
			_, fits, err := stores[i%len(stores)].ReserveSpace(f.ctx, id, hostID, 40, 100)
			if assert.NoError(t, err) && fits {
				mu.Lock()
				fitting++
				mu.Unlock()
			}
		})
	}
	group.Wait()
	require.Equal(t, 2, fitting)
}

// The event that a source is offline is published once, however many centers look.
func TestOfflineIsToldOnce(t *testing.T) {
	f := newFixture(t)
	const sources = 8
	for i := range sources {
		f.source(fmt.Sprint("web", i))
	}
	stores := []*Store{f.Store, f.open(), f.open(), f.open()}
	f.clock.advance(2 * smc.OfflineAfter)
	var mu sync.Mutex
	marked := map[string]int{}
	var group sync.WaitGroup
	for _, s := range stores {
		for range 3 {
			group.Go(func() {
				ids, err := s.MarkOffline(f.ctx, f.clock.read().Add(-smc.OfflineAfter))
				if assert.NoError(t, err) {
					mu.Lock()
					defer mu.Unlock()
					for _, id := range ids {
						marked[id]++
					}
				}
			})
		}
	}
	group.Wait()
	require.Len(t, marked, sources)
	for id, times := range marked {
		require.Equal(t, 1, times, "%s was marked by one", id)
		require.Len(t, f.eventsOf(id), 2, "registered, offline")
	}
}

func TestProcessingProgress(t *testing.T) {
	f := newFixture(t)
	id := f.create(spec(f.source("web").SourceID))
	f.start(id, "start", smc.TriggerStart)
	require.NoError(t, f.BeginSync(f.ctx, id, "sync", 1, hostURL, 100))
	require.NoError(t, f.UpdateProcessing(f.ctx, id, 1, 0.5))
	require.Less(t, f.job(id).Progress, 5.0, "not its phase")
	require.NoError(t, f.EndSync(f.ctx, id, "process", 1))
	require.NoError(t, f.UpdateProcessing(f.ctx, id, 1, 0.5))
	require.InDelta(t, 94.5, f.job(id).Progress, 0.01)
	require.NoError(t, f.UpdateProcessing(f.ctx, id, 1, 0.1))
	require.InDelta(t, 94.5, f.job(id).Progress, 0.01, "never backwards")
	require.NoError(t, f.UpdateProcessing(f.ctx, id, 1, 7))
	require.Less(t, f.job(id).Progress, 100.0, "the end of the run is what is 100")
}

func TestSecondsLeft(t *testing.T) {
	for _, test := range []struct{ total, read, rate, want int64 }{
		{100, 0, 10, 10}, {100, 95, 10, 1}, {100, 0, 0, -1}, {100, 100, 10, -1}, {0, 0, 10, -1},
	} {
		require.Equal(t, test.want, SecondsLeft(test.total, test.read, test.rate))
	}
}

func TestSessionFollowsItsHost(t *testing.T) {
	f := newFixture(t)
	source := f.source("web")
	id := f.create(spec(source.SourceID))
	f.start(id, "start", smc.TriggerStart)
	require.NoError(t, f.BeginSync(f.ctx, id, "sync", 1, hostURL, 100))
	before, err := f.Work(f.ctx, source.SourceID)
	require.NoError(t, err)
	changed, done := f.WorkChanged(source.SourceID)
	defer done()
	require.NoError(t, f.MoveSession(f.ctx, id, 1, hostURL))
	same, err := f.Work(f.ctx, source.SourceID)
	require.NoError(t, err)
	require.Equal(t, before, same, "it is where it was")
	require.NoError(t, f.MoveSession(f.ctx, id, 1, "http://moved"))
	<-changed
	moved, err := f.Work(f.ctx, source.SourceID)
	require.NoError(t, err)
	require.Equal(t, "http://moved", moved.HostURL)
	require.Greater(t, moved.Generation, before.Generation)
	require.NoError(t, f.Stop(f.ctx, id, "stop"))
	require.NoError(t, f.MoveSession(f.ctx, id, 1, "http://again"), "it is over")
}
