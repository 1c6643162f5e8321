package store

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/drover/drover/smc"
)

func noReader(string) bool { return false }

func at(hours float64) time.Time {
	return time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC).Add(time.Duration(hours * float64(time.Hour)))
}

func TestGridPoints(t *testing.T) {
	s := Schedule{Frequency: 6 * time.Hour, FirstStartAt: at(0), Phase: time.Hour}
	for _, test := range []struct{ after, point float64 }{
		{-12, -11}, {-11, -5}, {-5.5, -5}, {0, 1}, {0.5, 1}, {1, 7}, {1.5, 7}, {6.99, 7}, {7, 13}, {100, 103},
	} {
		require.Equal(t, at(test.point), s.pointAfter(at(test.after)), "%v", test.after)
	}
	for _, test := range []struct {
		from, to float64
		n        int
		last     float64
	}{
		{1, 6.9, 0, 1}, {1, 7, 1, 7}, {1, 13, 2, 13}, {0.9, 13.1, 3, 13}, {7, 25, 3, 25},
	} {
		n, last := s.points(at(test.from), at(test.to))
		require.Equal(t, test.n, n, "%v to %v", test.from, test.to)
		require.Equal(t, at(test.last), last)
	}
	n, _ := s.points(at(7), at(7))
	require.Zero(t, n)
	n, _ = Schedule{}.points(at(0), at(100))
	require.Zero(t, n, "a one-time job has no grid")
}

func TestDueAndLapse(t *testing.T) {
	s := Schedule{
		Frequency: 6 * time.Hour, ScheduledStartAt: at(1), FirstStartAt: at(0), Through: at(6.5), ValidUntil: at(48), ClearAt: at(72),
	}
	due := map[smc.JobStatus]time.Time{smc.StatusReady: at(1), smc.StatusWaiting: at(12)}
	lapse := map[smc.JobStatus]time.Time{
		smc.StatusReady: at(48), smc.StatusStopped: at(48), smc.StatusInError: at(48), smc.StatusWaiting: at(48), smc.StatusExpired: at(72),
	}
	for _, status := range smc.JobStatuses() {
		got, ok := s.Due(status)
		require.Equal(t, due[status], got, status)
		require.Equal(t, !due[status].IsZero(), ok)
		got, ok = s.Lapse(status)
		require.Equal(t, lapse[status], got, status)
		require.Equal(t, !lapse[status].IsZero(), ok)
	}
	s.Queued = 7
	_, ok := s.Due(smc.StatusWaiting)
	require.False(t, ok, "a job that is queued runs when it is admitted")
	for _, status := range smc.JobStatuses() {
		_, ok := Schedule{}.Due(status)
		require.False(t, ok)
		_, ok = Schedule{}.Lapse(status)
		require.False(t, ok)
	}
}

// dueRun attempts a start that was due.
func (f *fixture) dueRun(id string, due time.Time) error {
	f.t.Helper()
	_, err := f.StartDueRun(f.ctx, id, "due/"+due.String(), due)
	return err
}

// alive keeps the host alive over a step of the clock, and the source too when it is given.
func (f *fixture) step(d time.Duration) {
	f.t.Helper()
	f.clock.advance(d)
	require.NoError(f.t, f.HostHeartbeat(f.ctx, hostID, hostURL))
}

func (f *fixture) offline() {
	f.t.Helper()
	_, err := f.MarkOffline(f.ctx, f.clock.read().Add(time.Second))
	require.NoError(f.t, err)
}

func (f *fixture) due(id string) time.Time {
	f.t.Helper()
	job := f.job(id)
	due, ok := job.Schedule().Due(job.Status)
	require.True(f.t, ok)
	return due
}

func TestPhase(t *testing.T) {
	f := newFixture(t)
	alone := f.create(incremental(f.source("web0").SourceID, 1))
	f.run(alone, smc.TriggerStart)
	require.Zero(t, f.job(alone).GridPhase, "a single job has none")
	require.Equal(t, f.clock.read().Add(24*time.Hour), f.due(alone))

	var jobs []string
	for _, name := range []string{"web1", "web2", "web3", "web4"} {
		jobs = append(jobs, f.create(incremental(f.source(name).SourceID, 1)))
	}
	phases := map[time.Duration]bool{}
	for _, id := range jobs {
		f.start(id, "start", smc.TriggerStart)
		job := f.job(id)
		phases[job.GridPhase] = true
		require.Less(t, job.GridPhase, 6*time.Hour)
		require.Zero(t, job.GridPhase%time.Second)
		require.Equal(t, job.StartedAt.Add(job.GridPhase), job.GridThrough, "the first interval is the longer one")
		require.Equal(t, smc.StatusWaiting, f.finish(id, "start", 1))
		require.Equal(t, job.StartedAt.Add(24*time.Hour+job.GridPhase), f.due(id))
	}
	require.Greater(t, len(phases), 1, "a fleet is spread")

	// Another rhythm, another account of the world: no other job has it.
	hourly := incremental(f.source("web5").SourceID, 1)
	one := 1
	hourly.Frequency = &one
	id := f.create(hourly)
	f.start(id, "start", smc.TriggerStart)
	require.Zero(t, f.job(id).GridPhase)
	once := f.create(spec(f.source("web6").SourceID))
	f.start(once, "start", smc.TriggerStart)
	require.Zero(t, f.job(once).GridPhase)
}

func TestFirstPointOfAResumedFirstRun(t *testing.T) {
	f := newFixture(t)
	id := f.create(incremental(f.source("web").SourceID, 1))
	f.start(id, "start", smc.TriggerStart)
	require.NoError(t, f.Fail(f.ctx, id, "fail", 1, smc.CodeInternalError, "why"))
	f.step(30 * time.Hour)
	f.start(id, "resume", smc.TriggerStart)
	job := f.job(id)
	require.Equal(t, at(0), job.StartedAt, "the origin is the first start")
	require.Equal(t, smc.StatusWaiting, f.finish(id, "resume", 1))
	require.Equal(t, at(48), f.due(id), "a point at which the job was InError is none of its grid")
	require.Empty(t, f.job(id).Info())
}

func TestPointsThatARunGoesOnOver(t *testing.T) {
	f := newFixture(t)
	id := f.create(incremental(f.source("web").SourceID, 1))
	f.start(id, "start", smc.TriggerStart)
	f.step(50 * time.Hour)
	require.Equal(t, smc.StatusWaiting, f.finish(id, "start", 1))
	require.Equal(t, at(24), f.due(id), "past: one run at once")
	info := f.job(id).Info()
	require.Equal(t, "missed 2 of the points for a run (2 while a run was still going on), the last at 2026-05-03T12:00:00Z; the next point is at 2026-05-04T12:00:00Z", info)

	require.NoError(t, f.dueRun(id, at(24)))
	job := f.job(id)
	require.Equal(t, info, job.Info(), "it stays visible until that run ends")
	require.Equal(t, smc.RunSchedule, job.RunType)
	require.Equal(t, smc.StatusWaiting, f.finish(id, "second", 2))
	require.Empty(t, f.job(id).Info())
	require.Equal(t, at(72), f.due(id), "then the grid again")
}

func TestPointsWhileTheSourceIsAway(t *testing.T) {
	f := newFixture(t)
	source := f.source("web")
	id := f.create(incremental(source.SourceID, 1))
	f.run(id, smc.TriggerStart)
	f.offline()
	f.step(24 * time.Hour)
	require.Equal(t, smc.CodeSourceServerStateInvalid, smc.CodeOf(f.dueRun(id, at(24))))
	require.Equal(t, "the run due at 2026-05-02T12:00:00Z waits: the source server is Unavailable; the run starts by itself when the agent is back",
		f.job(id).Info(), "nothing is missed before the next point")
	events, err := f.Events(f.ctx, id)
	require.NoError(t, err)

	for range 24 * 2 * 60 { // two points more, attempted every minute
		f.step(time.Minute)
		require.Error(t, f.dueRun(id, at(24)))
	}
	info := f.job(id).Info()
	require.Contains(t, info, "the run due at 2026-05-04T12:00:00Z waits")
	require.Contains(t, info, "missed 2 of the points for a run (2 while the source server was Unavailable), the last at 2026-05-03T12:00:00Z; the next point is at 2026-05-05T12:00:00Z")
	again, err := f.Events(f.ctx, id)
	require.NoError(t, err)
	require.Len(t, again, len(events)+2, "to wait is no transition, to miss a point is one")

	f.step(time.Hour)
	require.NoError(t, f.Heartbeat(f.ctx, source.SourceID, source.Server))
	require.NoError(t, f.dueRun(id, at(24)))
	require.NoError(t, f.dueRun(id, at(24)), "a second attempt finds the first one's run")
	job := f.job(id)
	require.Equal(t, smc.StatusRunning, job.Status)
	require.Contains(t, job.Info(), "missed 2 of the points")
	require.NotContains(t, job.Info(), "waits")
	require.Len(t, job.Runs, 2, "one run, whatever was missed")
	require.Equal(t, smc.StatusWaiting, f.finish(id, "second", 2))
	require.Equal(t, at(96), f.due(id))
	require.Empty(t, f.job(id).Info())
}

func TestPointsWhileEverythingIsDown(t *testing.T) {
	for _, test := range []struct {
		name   string
		down   time.Duration
		missed string // empty: the run is late, and no point was missed
	}{
		{"a little late", 24*time.Hour + time.Minute, ""},
		{"over one point", 30 * time.Hour, "missed 1 of the points for a run (1 while the center was down), the last at 2026-05-02T12:00:00Z; the next point is at 2026-05-03T12:00:00Z"},
		{"over three points", 80 * time.Hour, "missed 3 of the points for a run (3 while the center was down), the last at 2026-05-04T12:00:00Z"},
		{"until a point", 72*time.Hour + time.Second, "missed 2 of the points for a run (2 while the center was down), the last at 2026-05-03T12:00:00Z"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t)
			id := f.create(incremental(f.source("web").SourceID, 1))
			f.run(id, smc.TriggerStart)
			f.step(test.down)
			require.NoError(t, f.dueRun(id, f.due(id)))
			info := f.job(id).Info()
			if test.missed == "" {
				require.Empty(t, info)
			} else {
				require.Contains(t, info, test.missed)
			}
		})
	}
}

func TestMissedForSeveralReasons(t *testing.T) {
	f := newFixture(t)
	source := f.source("web")
	id := f.create(incremental(source.SourceID, 1))
	f.start(id, "start", smc.TriggerStart)
	f.step(25 * time.Hour)
	f.finish(id, "start", 1) // over the first point
	f.offline()
	require.Error(t, f.dueRun(id, f.due(id)), "the run that makes up for it waits")
	require.Contains(t, f.job(id).Info(), "the run due at 2026-05-02T12:00:00Z waits")
	f.step(23 * time.Hour)
	require.Error(t, f.dueRun(id, f.due(id)), "the second point waits")
	f.step(50 * time.Hour) // and everything is down over two more
	require.Error(t, f.dueRun(id, f.due(id)))
	require.Contains(t, f.job(id).Info(), "missed 4 of the points for a run (1 while a run was still going on, 1 while the source server was Unavailable, 2 while the center was down), the last at 2026-05-05T12:00:00Z")
	// A run by hand ends it too.
	require.NoError(t, f.Heartbeat(f.ctx, source.SourceID, source.Server))
	require.Equal(t, smc.StatusWaiting, f.run(id, smc.TriggerRun))
	require.Empty(t, f.job(id).Info())
	require.Equal(t, at(120), f.due(id))
}

func TestDueStartWithoutAHost(t *testing.T) {
	f := newFixture(t)
	scheduled := spec(f.source("web").SourceID)
	start := smc.FormatTime(at(1))
	scheduled.ScheduledStartTime = &start
	id := f.create(scheduled)
	require.Equal(t, at(1), f.due(id))
	f.clock.advance(2 * time.Hour)
	require.Equal(t, smc.CodeTransitionHostUnavailable, smc.CodeOf(f.dueRun(id, at(1))))
	require.Equal(t, "the run due at 2026-05-01T13:00:00Z waits: no transition host that could do it has reported lately; the run starts by itself when its worker with the role transition is back",
		f.job(id).Info())
	require.NoError(t, f.HostHeartbeat(f.ctx, hostID, hostURL))
	require.NoError(t, f.dueRun(id, at(1)))
	require.Empty(t, f.job(id).Info())
}

// A start that waits is found as soon as what it waits for is there, and not before; one that is not due, or not known to wait, is not.
func TestDueStartsToWake(t *testing.T) {
	f := newFixture(t)
	wakes := func() []string {
		t.Helper()
		ids, err := f.DueStartsToWake(f.ctx)
		require.NoError(t, err)
		return ids
	}
	scheduled := spec(f.source("web").SourceID)
	start := smc.FormatTime(at(1))
	scheduled.ScheduledStartTime = &start
	source := f.source("db")
	once, grid := f.create(scheduled), f.create(incremental(source.SourceID, 1))
	f.run(grid, smc.TriggerStart)
	require.Empty(t, wakes(), "nothing is due")
	f.offline()
	f.step(24 * time.Hour)
	var waits *WaitError
	require.ErrorAs(t, f.dueRun(once, at(1)), &waits)
	require.Zero(t, waits.UntilPoint)
	require.ErrorAs(t, f.dueRun(grid, f.due(grid)), &waits)
	require.Equal(t, f.job(grid).Schedule().pointAfter(f.clock.read()).Sub(f.clock.read()), waits.UntilPoint)
	require.Empty(t, wakes(), "their sources are away")

	require.NoError(t, f.HostHeartbeat(f.ctx, hostID, hostURL))
	require.NoError(t, f.Heartbeat(f.ctx, source.SourceID, source.Server))
	require.Equal(t, []string{grid}, wakes())
	f.clock.advance(2 * hostAlive)
	require.NoError(t, f.HostHeartbeat(f.ctx, "i-other", hostURL))
	require.Empty(t, wakes(), "the host that holds its staging is away")
	require.NoError(t, f.HostHeartbeat(f.ctx, hostID, hostURL))
	require.Equal(t, []string{grid}, wakes())
	require.NoError(t, f.dueRun(grid, f.due(grid)))
	require.Empty(t, wakes(), "it runs")
}

// A run of the grid needs the host that holds the staging of the job: it waits for it, as it does for the source.
func TestDueStartWithoutItsHost(t *testing.T) {
	f := newFixture(t)
	id := f.create(incremental(f.source("web").SourceID, 1))
	f.run(id, smc.TriggerStart)
	f.clock.advance(24*time.Hour + time.Minute)
	require.NoError(t, f.HostHeartbeat(f.ctx, "i-other", hostURL))
	require.Equal(t, smc.CodeTransitionHostUnavailable, smc.CodeOf(f.dueRun(id, f.due(id))))
	require.Equal(t, smc.StatusWaiting, f.job(id).Status)
	require.Contains(t, f.job(id).Info(), "waits: no transition host that could do it has reported lately")
	_, err := f.StartRun(f.ctx, id, "by hand", smc.TriggerRun, smc.RunManual, CutOverNone)
	require.ErrorContains(t, err, "transition host "+hostID+", which holds the staging of the job, has not reported")
	require.NoError(t, f.HostHeartbeat(f.ctx, hostID, hostURL))
	require.NoError(t, f.dueRun(id, f.due(id)))
	require.Equal(t, smc.StatusRunning, f.job(id).Status)
	require.Empty(t, f.job(id).Info())
}

// Points that pass while a job waits for a running slot are missed for that, and not because the center was down.
func TestPointsThatPassInTheQueue(t *testing.T) {
	for _, byHand := range []bool{false, true} {
		t.Run(fmt.Sprint("by hand ", byHand), func(t *testing.T) {
			f := newFixture(t)
			id := f.create(incremental(f.source("web").SourceID, 1))
			f.run(id, smc.TriggerStart)
			require.NoError(t, f.SetRunningQuota(f.ctx, 1))
			blocker := f.create(spec(f.source("blocker").SourceID))
			f.start(blocker, "start", smc.TriggerStart)
			require.NoError(t, f.BeginSync(f.ctx, blocker, "sync", 1, hostURL, 1))
			missed, last := 2, at(48)
			f.clock.advance(23 * time.Hour)
			if byHand {
				f.start(id, "by hand", smc.TriggerRun)
				missed, last = 3, at(72)
			} else {
				f.clock.advance(time.Hour + time.Minute)
				require.NoError(t, f.HostHeartbeat(f.ctx, hostID, hostURL))
				require.NoError(t, f.dueRun(id, f.due(id)))
			}
			require.True(t, f.job(id).Queued())
			f.clock.advance(50 * time.Hour)
			require.NotContains(t, f.job(id).Info(), "center was down")
			require.NoError(t, f.Stop(f.ctx, blocker, "stop"))
			require.NoError(t, f.HostHeartbeat(f.ctx, hostID, hostURL))
			require.Zero(t, f.admit(id).Queued)
			require.Equal(t, fmt.Sprintf("missed %d of the points for a run (%d while the job waited for a running slot), the last at %s; the next point is at %s",
				missed, missed, last.Format(time.RFC3339), at(96).Format(time.RFC3339)), f.job(id).Info())
			f.finish(id, "admitted", 2)
			require.Equal(t, at(96), f.due(id))
		})
	}
}

// A start by itself is withdrawn on a machine whose clock is behind that of the machine which found it due: it is not due again.
func TestQueuedStartIsWithdrawnByAClockThatIsBehind(t *testing.T) {
	f, _ := full(t)
	scheduled := spec(f.source("web").SourceID)
	start := smc.FormatTime(at(1))
	scheduled.ScheduledStartTime = &start
	id := f.create(scheduled)
	f.clock.advance(time.Hour - 5*time.Second)
	require.NoError(t, f.HostHeartbeat(f.ctx, hostID, hostURL))
	require.NoError(t, f.dueRun(id, at(1)))
	require.True(t, f.job(id).Queued())
	require.NoError(t, f.Stop(f.ctx, id, "stop"))
	_, due := f.job(id).Schedule().Due(smc.StatusReady)
	require.False(t, due)
}

func TestModifiedFrequency(t *testing.T) {
	f := newFixture(t)
	source := f.source("web")
	id := f.create(incremental(source.SourceID, 1))
	f.run(id, smc.TriggerStart)
	f.step(7 * time.Hour)
	modify := func(hours int) *Schedule {
		schedule, err := f.ModifyJob(f.ctx, smc.ModifyReplicationJobAttributeRequest{JobID: id, Frequency: &hours})
		require.NoError(t, err)
		return schedule
	}
	schedule := modify(2)
	require.Equal(t, f.job(id).Schedule(), schedule)
	require.Equal(t, at(8), f.due(id), "the points stay on the first start")
	modify(5)
	require.Equal(t, at(10), f.due(id))
	f.step(3 * time.Hour)
	f.offline()
	require.Error(t, f.dueRun(id, at(10)))
	modify(5)
	require.Contains(t, f.job(id).Info(), "waits", "the same Frequency changes nothing")
	modify(6)
	require.Empty(t, f.job(id).Info())
	require.Equal(t, at(12), f.due(id), "the point that waited was one of the old rhythm")
}

// A due start that is attempted by a clock that is behind must not be due again.
func TestPointsOfAClockThatIsBehind(t *testing.T) {
	f := newFixture(t)
	id := f.create(incremental(f.source("web").SourceID, 1))
	f.run(id, smc.TriggerStart)
	f.step(24*time.Hour - 2*time.Second)
	require.NoError(t, f.dueRun(id, at(24)))
	f.finish(id, "second", 2)
	require.Equal(t, at(48), f.due(id))
}

func (f *fixture) expire(id string) error {
	_, err := f.Expire(f.ctx, id, "expired", f.clock.read())
	return err
}

func TestExpire(t *testing.T) {
	for _, test := range []struct {
		from  smc.JobStatus
		reach func(*fixture, string)
		info  string
	}{
		{smc.StatusReady, func(*fixture, string) {}, ""},
		{smc.StatusStopped, func(f *fixture, id string) {
			f.start(id, "start", smc.TriggerStart)
			require.NoError(f.t, f.BeginSync(f.ctx, id, "sync", 1, hostURL, 1))
			require.NoError(f.t, f.Stop(f.ctx, id, "stop"))
		}, ""},
		{smc.StatusInError, func(f *fixture, id string) {
			f.start(id, "start", smc.TriggerStart)
			require.NoError(f.t, f.Fail(f.ctx, id, "fail", 1, smc.CodeTransitionHostNoSpace, "the volume is full"))
		}, "; the error was TransitionHost.NoSpace: the volume is full"},
		{smc.StatusWaiting, func(f *fixture, id string) { f.run(id, smc.TriggerStart) }, ""},
	} {
		t.Run(string(test.from), func(t *testing.T) {
			f := newFixture(t)
			source := f.source("web")
			id := f.create(incremental(source.SourceID, 1))
			test.reach(f, id)
			require.Equal(t, test.from, f.job(id).Status)
			f.step(30*24*time.Hour - time.Second)
			require.ErrorIs(t, f.expire(id), ErrSuperseded, "not before its time")
			f.step(time.Second)
			before, err := f.Events(f.ctx, id)
			require.NoError(t, err)
			for range 2 {
				require.NoError(t, f.expire(id))
			}
			after, err := f.Events(f.ctx, id)
			require.NoError(t, err)
			require.Len(t, after, len(before)+1, "told once")
			job := f.job(id)
			require.Equal(t, smc.StatusExpired, job.Status)
			require.Equal(t, f.clock.read(), job.EndedAt)
			require.Empty(t, job.ErrorCode)
			require.Equal(t, "ValidTime 2026-05-31T12:00:00Z passed while the job was "+string(test.from)+"; it is cleared at 2026-06-07T12:00:00Z, its images stay"+test.info, job.Info())
			require.Equal(t, f.clock.read().Add(7*24*time.Hour), job.Schedule().ClearAt)
			require.Equal(t, smc.SourceAvailable, f.state(source.SourceID))
			_, err = f.CreateJob(f.ctx, account, spec(source.SourceID), 10)
			require.Equal(t, smc.CodeSourceServerStateInvalid, smc.CodeOf(err), "an Expired job is unfinished: it holds its source")
			require.NoError(t, f.BeginDelete(f.ctx, id, "cleared"))
			f.create(spec(source.SourceID))
			require.NoError(t, f.EndDelete(f.ctx, id, "deleted"))
		})
	}
}

func TestJobsThatDoNotExpire(t *testing.T) {
	f := newFixture(t)
	running := f.create(incremental(f.source("web0").SourceID, 1))
	finished := f.create(spec(f.source("web1").SourceID))
	forever, never := spec(f.source("web2").SourceID), ""
	forever.ValidTime = &never
	kept := f.create(forever)
	f.run(finished, smc.TriggerStart)
	f.start(running, "start", smc.TriggerStart)
	f.step(365 * 24 * time.Hour)
	for _, id := range []string{running, finished, kept} {
		require.ErrorIs(t, f.expire(id), ErrSuperseded)
	}
	require.Equal(t, smc.StatusWaiting, f.finish(running, "start", 1))
	require.ErrorIs(t, f.dueRun(running, f.due(running)), errLapsed, "expiry beats a due run")
	require.NoError(t, f.expire(running), "when it rests it does")
}

// The entity's clock and the store's may differ.
func TestExpiryOfAClockThatIsBehind(t *testing.T) {
	f := newFixture(t)
	id := f.create(spec(f.source("web").SourceID))
	until := f.job(id).ValidUntil
	f.step(until.Sub(f.clock.read()) - 2*time.Second)
	_, err := f.Expire(f.ctx, id, "expired", until)
	require.NoError(t, err)
}

func TestModifiedValidTime(t *testing.T) {
	f := newFixture(t)
	id := f.create(spec(f.source("web").SourceID))
	modify := func(validTime string) (*Schedule, error) {
		return f.ModifyJob(f.ctx, smc.ModifyReplicationJobAttributeRequest{JobID: id, ValidTime: &validTime})
	}
	for _, until := range []time.Time{at(0).AddDate(0, 0, 60), at(0).AddDate(0, 0, 8)} {
		schedule, err := modify(smc.FormatTime(until))
		require.NoError(t, err)
		require.Equal(t, until, schedule.ValidUntil)
	}
	schedule, err := modify("")
	require.NoError(t, err)
	require.Zero(t, schedule.ValidUntil)
	f.step(20 * 24 * time.Hour)
	_, err = modify(smc.FormatTime(at(0).AddDate(0, 0, 8)))
	require.Equal(t, smc.CodeInvalidParameter, smc.CodeOf(err), "7 to 90 days after the creation, but past")
	require.Contains(t, err.Error(), "it has passed")
	require.Zero(t, f.job(id).ValidUntil)
}

func TestImagesInUseAreKept(t *testing.T) {
	f := newFixture(t)
	id := f.create(incremental(f.source("web").SourceID, 2))
	f.run(id, smc.TriggerStart)
	for range 3 {
		f.run(id, smc.TriggerRun)
	}
	condemned := func(keep int, reading ...int) (runs []int, held int) {
		images, held, err := f.CondemnImages(f.ctx, id, keep, func(imageID string) bool {
			for _, run := range reading {
				if imageID == imageName(id, run) {
					return true
				}
			}
			return false
		})
		require.NoError(t, err)
		for _, image := range images {
			runs = append(runs, image.Run)
			require.NoError(t, f.DeleteImage(f.ctx, image.ImageID))
		}
		return runs, held
	}
	_, err := f.HoldImage(f.ctx, account, imageName(id, 1), f.clock.read().Add(24*time.Hour))
	require.NoError(t, err)
	_, err = f.HoldImage(f.ctx, account, imageName(id, 1), f.clock.read().Add(time.Hour))
	require.NoError(t, err, "a later ticket for less does not shorten the first")
	_, err = f.HoldImage(f.ctx, "another account", imageName(id, 1), f.clock.read())
	require.ErrorIs(t, err, ErrNotFound)
	runs, held := condemned(3)
	require.Equal(t, []int{2}, runs, "the earliest that is not in use")
	require.Zero(t, held)
	runs, held = condemned(1, 3)
	require.Empty(t, runs)
	require.Equal(t, 2, held, "a ticket for the first, a reader of the third, and the newest is never deleted")
	f.clock.advance(24 * time.Hour)
	runs, held = condemned(1, 3)
	require.Equal(t, []int{1}, runs)
	require.Equal(t, 1, held)
	runs, _ = condemned(1)
	require.Equal(t, []int{3}, runs)
}

// After the last run there is no later one to delete the images over the limit that were in use: they are condemned when they are
// in use no longer.
func TestHeldImagesAfterTheLastRun(t *testing.T) {
	f := newFixture(t)
	id := f.create(incremental(f.source("web").SourceID, 1))
	for _, trigger := range []smc.Trigger{smc.TriggerStart, smc.TriggerRun, smc.TriggerRun} {
		f.run(id, trigger)
	}
	_, err := f.HoldImage(f.ctx, account, imageName(id, 1), f.clock.read().Add(time.Hour))
	require.NoError(t, err)
	reading := true
	busy := func(imageID string) bool { return reading && imageID == imageName(id, 2) }
	_, held, err := f.CondemnImages(f.ctx, id, 1, busy)
	require.NoError(t, err)
	require.Equal(t, 2, held)
	condemned := func() (runs []int) {
		for _, host := range []string{hostID, "i-other"} {
			images, err := f.CondemnHeld(f.ctx, host, busy)
			require.NoError(t, err)
			for _, image := range images {
				require.Equal(t, hostID, host)
				require.Equal(t, smc.ImageDeleting, image.Status)
				runs = append(runs, image.Run)
			}
		}
		return runs
	}
	reading = false
	require.Empty(t, condemned(), "a later run may follow, and the limit be raised before it")
	require.NoError(t, f.FinishCutOver(f.ctx, id, "finish"))
	require.Equal(t, []int{2}, condemned(), "the first has a ticket")
	require.Empty(t, condemned())
	f.clock.advance(time.Hour)
	require.Equal(t, []int{1}, condemned())
	_, total, err := f.Images(f.ctx, account, ImageFilter{JobID: id}, Page{1, 10})
	require.NoError(t, err)
	require.Equal(t, 3, total, "their files go first")
}

// A raised limit counts, not the one under which an image was held.
func TestHeldImagesAreKeptByARaisedLimit(t *testing.T) {
	f := newFixture(t)
	id := f.create(incremental(f.source("web").SourceID, 1))
	f.run(id, smc.TriggerStart)
	f.run(id, smc.TriggerRun)
	_, held, err := f.CondemnImages(f.ctx, id, 1, func(string) bool { return true })
	require.NoError(t, err)
	require.Equal(t, 1, held)
	_, held, err = f.CondemnImages(f.ctx, id, 2, noReader)
	require.NoError(t, err)
	require.Zero(t, held)
	require.NoError(t, f.FinishCutOver(f.ctx, id, "finish"))
	images, err := f.CondemnHeld(f.ctx, hostID, noReader)
	require.NoError(t, err)
	require.Empty(t, images)
}

func TestNoTicketForAnImageThatGoes(t *testing.T) {
	f := newFixture(t)
	id := f.create(incremental(f.source("web").SourceID, 1))
	f.run(id, smc.TriggerStart)
	f.run(id, smc.TriggerRun)
	_, _, err := f.CondemnImages(f.ctx, id, 1, noReader)
	require.NoError(t, err)
	_, err = f.HoldImage(f.ctx, account, imageName(id, 1), f.clock.read().Add(time.Hour))
	require.ErrorIs(t, err, ErrNotFound)
	image, err := f.Image(f.ctx, account, imageName(id, 1))
	require.NoError(t, err)
	require.Equal(t, smc.ImageDeleting, image.Status)
}

// A name that another image took in the form of ours is no reason for a run to fail.
func TestImageNameThatIsTakenTwice(t *testing.T) {
	f := newFixture(t)
	source, name := f.source("web"), "golden"
	s := spec(source.SourceID)
	s.ImageName = &name
	f.run(f.create(s), smc.TriggerStart)
	second := f.create(s)
	other := spec(f.source("db").SourceID)
	taken := name + "_" + second
	other.ImageName = &taken
	f.run(f.create(other), smc.TriggerStart)
	f.run(second, smc.TriggerStart)
	images, _, err := f.Images(f.ctx, account, ImageFilter{JobID: second}, Page{1, 10})
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(images[0].ImageName, taken+"_"), images[0].ImageName)
}
