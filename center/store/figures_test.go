package store

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/smc"
)

// told is an observer that keeps what it is told.
type told struct {
	moves    []JobMove
	troubles []string
}

func (o *told) JobMoved(move JobMove)   { o.moves = append(o.moves, move) }
func (o *told) RunTroubled(code string) { o.troubles = append(o.troubles, code) }

func (f *fixture) observe() *told {
	f.t.Helper()
	o := &told{}
	s, err := Open(f.ctx, f.url, WithClock(f.clock.read), WithObserver(o))
	require.NoError(f.t, err)
	f.t.Cleanup(func() { assert.NoError(f.t, s.Close()) })
	f.Store = s
	return o
}

// Every transition is told once, with how long the phase was that it ended, and how the run ended.
func TestObserver(t *testing.T) {
	f := newFixture(t)
	o := f.observe()
	id := f.create(spec(f.source("web").SourceID))
	f.start(id, "start", smc.TriggerStart)
	f.clock.advance(time.Second)
	require.NoError(t, f.BeginSync(f.ctx, id, "sync", 1, hostURL, 1))
	require.NoError(t, f.BeginSync(f.ctx, id, "sync", 1, hostURL, 1), "the same once more")
	_, err := f.NoteTrouble(f.ctx, id, 1, smc.CodeSourceServerOffline, "silent")
	require.NoError(t, err)
	_, err = f.NoteTrouble(f.ctx, id, 2, smc.CodeSourceServerOffline, "of a run that is not there")
	require.ErrorIs(t, err, ErrSuperseded)
	f.clock.advance(time.Minute)
	require.NoError(t, f.Fail(f.ctx, id, "fail", 1, "Disk.ReadError", "disk 0"))
	f.clock.advance(time.Hour)
	f.start(id, "again", smc.TriggerStart)
	f.finish(id, "again", 1)

	lasted := time.Hour + time.Minute + time.Second
	require.Equal(t, []JobMove{
		{Status: smc.StatusRunning, BusinessStatus: smc.BusinessPreparing},
		{Status: smc.StatusRunning, BusinessStatus: smc.BusinessSyncing, Phase: smc.BusinessPreparing, PhaseTook: time.Second},
		{
			Status: smc.StatusInError, ErrorCode: "Disk.ReadError", Phase: smc.BusinessSyncing, PhaseTook: time.Minute,
			RunEnd: smc.RunFailed, RunType: smc.RunManual, RunTook: time.Minute + time.Second,
		},
		{Status: smc.StatusRunning, BusinessStatus: smc.BusinessPreparing},
		{Status: smc.StatusRunning, BusinessStatus: smc.BusinessSyncing, Phase: smc.BusinessPreparing},
		{Status: smc.StatusRunning, BusinessStatus: smc.BusinessProcessing, Phase: smc.BusinessSyncing},
		{Status: smc.StatusRunning, BusinessStatus: smc.BusinessCleaning, Phase: smc.BusinessProcessing},
		{Status: smc.StatusFinished, Phase: smc.BusinessCleaning, RunEnd: smc.RunSucceeded, RunType: smc.RunManual, RunTook: lasted},
	}, o.moves)
	require.Equal(t, []string{smc.CodeSourceServerOffline}, o.troubles)
}

func TestFigures(t *testing.T) {
	f := newFixture(t)
	empty, err := f.Figures(f.ctx)
	require.NoError(t, err)
	require.Equal(t, &Figures{Jobs: map[JobState]int{}, Sources: map[smc.SourceState]int{}, Troubled: map[string]int{}, HostsAlive: 1}, empty)

	require.NoError(t, f.SetRunningQuota(f.ctx, 2))
	ids := f.jobs(5)
	for _, id := range ids[:2] {
		f.start(id, "start", smc.TriggerStart)
		require.NoError(t, f.BeginSync(f.ctx, id, "sync", 1, hostURL, 100))
	}
	require.NoError(t, f.UpdateProgress(f.ctx, ids[0], 1, SyncProgress{BytesTotal: 100, BytesRead: 10, Rate: 7}))
	_, err = f.NoteTrouble(f.ctx, ids[1], 1, smc.CodeSourceServerOffline, "silent")
	require.NoError(t, err)
	queued := f.clock.read()
	f.start(ids[2], "start", smc.TriggerStart)
	f.clock.advance(time.Second)
	f.start(ids[3], "start", smc.TriggerStart)
	_, err = f.MarkOffline(f.ctx, f.clock.read().Add(time.Second))
	require.NoError(t, err)
	f.clock.advance(time.Hour)

	figures, err := f.Figures(f.ctx)
	require.NoError(t, err)
	require.Equal(t, &Figures{
		Jobs:    map[JobState]int{{Status: smc.StatusReady}: 3, {Status: smc.StatusRunning, BusinessStatus: smc.BusinessSyncing}: 2},
		Sources: map[smc.SourceState]int{smc.SourceUnavailable: 5},
		Queued:  2, QueuedSince: queued, Troubled: map[string]int{smc.CodeSourceServerOffline: 1},
		OpenSessions: 2, SyncRate: 7, HostsSilent: 1,
	}, figures)

	require.NoError(t, f.Fail(f.ctx, ids[0], "fail", 1, "Disk.ReadError", "disk 0"))
	figures, err = f.Figures(f.ctx)
	require.NoError(t, err)
	require.Equal(t, 1, figures.Jobs[JobState{Status: smc.StatusInError, ErrorCode: "Disk.ReadError"}])
	for use, pool := range f.Pools() {
		require.NoError(t, pool.PingContext(f.ctx), use)
	}
}
