package center

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/smc"
)

// partEngine starts the entities of some jobs only.
type partEngine struct {
	*engine
	mutex  sync.Mutex
	broken []string
	tries  map[string]int
}

func (e *partEngine) Begin(ctx context.Context, jobID string) error {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	e.tries[jobID]++
	if slices.Contains(e.broken, jobID) {
		return errors.New("the row is broken")
	}
	return e.engine.Begin(ctx, jobID)
}

// Jobs whose entities cannot be started, however many and however early they come, hold up no other; each is logged once and tried
// again until it works.
func TestBeginMissing(t *testing.T) {
	f := newFixture(t)
	const broken = 3 * rebuildParallel
	f.engine.fail = errors.New("Temporal is away")
	var ids []string
	for i := range broken + 2 {
		source, _ := f.agent(fmt.Sprint("web-", i))
		ids = append(ids, f.create(source))
	}
	f.engine.fail = nil
	e := &partEngine{engine: f.engine, broken: ids[:broken], tries: map[string]int{}}
	core, logs := observer.New(zap.InfoLevel)
	now := time.Now()
	begins := newRounds(longestBeginPause)
	begins.now = func() time.Time { return now }
	sweep := func() { beginMissing(t.Context(), begins, f.store, e, zap.New(core)) }
	missing := func() []string {
		t.Helper()
		ids, err := f.store.JobsWithoutWorkflow(t.Context())
		require.NoError(t, err)
		return ids
	}

	sweeps := func() { // no time passes
		for range broken/rebuildParallel + 1 {
			sweep()
		}
	}
	sweeps()
	require.ElementsMatch(t, ids[:broken], missing())
	for _, id := range ids {
		require.Equal(t, 1, e.tries[id], "those that failed are left alone for a while")
	}

	late, _ := f.agent("late")
	f.engine.fail = errors.New("Temporal is away")
	job := f.create(late)
	f.engine.fail = nil
	now = now.Add(longestBeginPause)
	sweeps()
	require.ElementsMatch(t, ids[:broken], missing(), "a new job goes before those that failed")
	require.Equal(t, 1, e.tries[job])
	for _, id := range ids[:broken] {
		require.Equal(t, 2, e.tries[id])
		said := logs.FilterField(zap.String("job_id", id)).All()
		require.Len(t, said, 1, "it is logged once")
		require.Contains(t, said[0].Message, "drover doctor")
		require.Equal(t, "the row is broken", said[0].ContextMap()["error"])
	}

	sweep()
	require.Equal(t, 2, e.tries[ids[0]])
	e.broken = nil
	now = now.Add(longestBeginPause)
	sweep()
	require.Empty(t, missing())
	sweep()
	require.Empty(t, begins.tried, "nothing is kept of jobs that have their entities")
}

// While nothing can be started a sweep does not try every job there is.
func TestBeginMissingWithoutTemporal(t *testing.T) {
	f := newFixture(t)
	f.engine.fail = errors.New("Temporal is away")
	const jobs = 6 * rebuildParallel
	for i := range jobs {
		source, _ := f.agent(fmt.Sprint("web-", i))
		f.create(source)
	}
	e := &partEngine{engine: f.engine, tries: map[string]int{}}
	begins := newRounds(longestBeginPause)
	sweep := func() { beginMissing(t.Context(), begins, f.store, e, zap.NewNop()) }
	sweep()
	require.Less(t, len(e.tries), jobs/2)
	f.engine.fail = nil
	sweep()
	missing, err := f.store.JobsWithoutWorkflow(t.Context())
	require.NoError(t, err)
	require.Less(t, len(missing), jobs/2, "those that did not fail before are started at once")
}

// A source that is silent is Unavailable after three heartbeats. Sources that could not be heard, because the center had no database, stood
// still or had its clock set, have as long to report.
func TestMarkOffline(t *testing.T) {
	f := newFixture(t)
	source, agent := f.agent("web")
	away, goAway := context.WithCancel(t.Context())
	goAway()
	now := time.Now()
	heard := &hearing{now: func() time.Time { return now }}
	sweep := func(ctx context.Context) []string {
		now = now.Add(offlineSweep)
		offline, err := heard.markOffline(ctx, f.store)
		require.Equal(t, ctx.Err(), err)
		return offline
	}
	silent := func() time.Duration { // until the source is called offline
		for began := now; ; {
			if offline := sweep(t.Context()); len(offline) > 0 {
				require.Equal(t, []string{source}, offline)
				return now.Sub(began)
			}
			require.Less(t, now.Sub(began), 2*smc.OfflineAfter)
		}
	}
	back := func() {
		t.Helper()
		_, err := agent.Heartbeat(t.Context(), agentapi.HeartbeatRequest{Instance: "instance-of-web", Server: described})
		require.NoError(t, err)
		now = time.Now()
	}
	least := smc.OfflineAfter
	require.GreaterOrEqual(t, silent(), least, "the center was down")

	back()
	heard.last, heard.since = now, now.Add(-time.Hour)
	require.LessOrEqual(t, silent(), least+offlineSweep, "the center has heard others for an hour")

	back()
	heard.last, heard.since = now, now.Add(-time.Hour)
	for range 2 * least / offlineSweep {
		require.Empty(t, sweep(away))
	}
	require.GreaterOrEqual(t, silent(), least, "the center had no database")

	back()
	heard.last, heard.since = now, now.Add(-time.Hour)
	now = now.Add(time.Hour)
	require.GreaterOrEqual(t, silent(), least, "the center stood still")

	back()
	heard.last, heard.since = now, now.Add(-time.Hour)
	require.Empty(t, sweep(t.Context()))
	heard.last = now.Add(time.Hour)
	require.GreaterOrEqual(t, silent(), least, "the clock was set back")
}

// A due start is woken as soon as its source is back; one that is woken and does not start is left alone for longer and longer.
func TestWakeDueStarts(t *testing.T) {
	f := newFixture(t)
	source, agent := f.agent("web")
	request := &smc.CreateReplicationJobRequest{SourceID: source, ScheduledStartTime: pointer(smc.FormatTime(time.Now().Add(time.Hour)))}
	created, err := f.client.CreateReplicationJob(t.Context(), request)
	require.NoError(t, err)
	job := created.JobID
	_, err = f.store.MarkOffline(t.Context(), time.Now().Add(time.Hour))
	require.NoError(t, err)
	due := time.Now().Add(time.Hour)
	_, err = f.store.StartDueRun(t.Context(), job, "due", due)
	require.Equal(t, smc.CodeSourceServerStateInvalid, smc.CodeOf(err))

	core, logs := observer.New(zap.InfoLevel)
	starts, now, failing := newRounds(longestWakePause), time.Now(), new(atomic.Bool)
	starts.now = func() time.Time { return now }
	sweep := func() []string {
		f.engine.updates = nil
		wakeDueStarts(t.Context(), starts, failing, f.store, f.engine, zap.New(core))
		return f.engine.updates
	}
	require.Empty(t, sweep())
	_, err = agent.Heartbeat(t.Context(), agentapi.HeartbeatRequest{Instance: "instance-of-web", Server: described})
	require.NoError(t, err)
	f.engine.fail = errors.New("Temporal is away")
	woken := []string{"WakeDueStart " + job}
	require.Equal(t, woken, sweep())
	require.Empty(t, sweep())
	now = now.Add(leastPause)
	require.Equal(t, woken, sweep())
	require.Equal(t, 1, logs.FilterField(zap.String("job_id", job)).Len(), "that it fails is logged once")
	f.engine.fail = nil
	now = now.Add(2 * leastPause)
	require.Equal(t, woken, sweep())
	now = now.Add(2 * leastPause)
	require.Empty(t, sweep(), "it has been woken three times")

	_, err = f.store.StartDueRun(t.Context(), job, "due", due)
	require.NoError(t, err)
	now = now.Add(longestWakePause)
	require.Empty(t, sweep())
	require.Empty(t, starts.tried)
}
