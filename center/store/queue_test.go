package store

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/drover/drover/center/store/storetest"
	"github.com/drover/drover/events"
	"github.com/drover/drover/smc"
)

// jobs creates as many jobs, each of a source of its own.
func (f *fixture) jobs(n int) (ids []string) {
	f.t.Helper()
	for i := range n {
		ids = append(ids, f.create(spec(f.source(fmt.Sprintf("web-%02d", i)).SourceID)))
	}
	return ids
}

// place is what a job shows of its place in the queue: "3/7", or "" when it is not queued.
func (f *fixture) place(id string) string {
	f.t.Helper()
	return placeIn(f.job(id).Info())
}

func placeIn(info string) string {
	if m := regexp.MustCompile(`^queued to run: place (\d+) of (\d+), `).FindStringSubmatch(info); m != nil {
		return m[1] + "/" + m[2]
	}
	return ""
}

// admissible are the ids of the jobs whose turn it is, in order.
func (f *fixture) admissible() (ids []string) {
	f.t.Helper()
	turns, err := f.Admissible(f.ctx)
	require.NoError(f.t, err)
	for _, turn := range turns {
		ids = append(ids, turn.JobID)
	}
	return ids
}

// admit tells a job of its turn, as an entity does.
func (f *fixture) admit(id string) *RunStart {
	f.t.Helper()
	start, err := f.Admit(f.ctx, id, f.job(id).Queue.Ticket)
	require.NoError(f.t, err)
	return start
}

func (f *fixture) running(ids ...string) (running []string) {
	f.t.Helper()
	for _, id := range ids {
		if f.job(id).Status == smc.StatusRunning {
			running = append(running, id)
		}
	}
	return running
}

// Sixty start at once, through two processes: the quota holds to the job, and the others stand in the order of the database.
func TestRunningQuotaHoldsAgainstManyAtOnce(t *testing.T) {
	f := newFixture(t)
	ids := f.jobs(60)
	other := f.open()
	var group sync.WaitGroup
	queued := make([]int64, len(ids))
	for i, id := range ids {
		s := []*Store{f.Store, other}[i%2]
		group.Go(func() {
			start, err := s.StartRun(f.ctx, id, "start", smc.TriggerStart, smc.RunManual, CutOverNone)
			if err != nil {
				t.Error(err)
				return
			}
			queued[i] = start.Queued
		})
	}
	group.Wait()
	running := f.running(ids...)
	require.Len(t, running, DefaultRunningQuota)
	waiting := slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return slices.Contains(running, id) })
	slices.SortFunc(waiting, func(a, b string) int { return int(f.job(a).Queue.Number - f.job(b).Queue.Number) })
	for i, id := range waiting {
		require.Equal(t, fmt.Sprintf("%d/10", i+1), f.place(id))
		require.Equal(t, smc.StatusReady, f.job(id).Status, "it keeps its resting status")
		require.Contains(t, f.job(id).Info(), "the account runs 50 jobs of 50 allowed")
		require.Equal(t, f.job(id).Queue.Ticket, queued[slices.Index(ids, id)])
	}
	require.Empty(t, f.admissible())

	// Three slots are freed: the first three run, whoever is told, and however often and by whom.
	for i, id := range running[:3] {
		require.NoError(t, f.BeginSync(f.ctx, id, "sync", 1, hostURL, 1))
		if i == 0 {
			require.NoError(t, f.Fail(f.ctx, id, "fail", 1, smc.CodeInternalError, "why"))
		} else {
			require.NoError(t, f.Stop(f.ctx, id, "stop"))
		}
	}
	require.Equal(t, waiting[:3], f.admissible())
	tickets := map[string]int64{}
	for _, id := range waiting {
		tickets[id] = f.job(id).Queue.Ticket
	}
	for _, id := range waiting {
		for _, s := range []*Store{f.Store, other, f.Store} {
			group.Go(func() {
				if _, err := s.Admit(f.ctx, id, tickets[id]); err != nil {
					t.Error(err)
				}
			})
		}
	}
	group.Wait()
	require.Equal(t, waiting[:3], f.running(waiting...))
	require.Len(t, f.running(ids...), DefaultRunningQuota)
	for i, id := range waiting[3:] {
		require.Equal(t, fmt.Sprintf("%d/7", i+1), f.place(id), "the others move up")
	}
	f.requireEvents(waiting[0], "Ready", "Ready", "Running/Preparing")
}

func TestQueueIsKeptPerAccount(t *testing.T) {
	f := newFixture(t)
	require.NoError(t, f.SetRunningQuota(f.ctx, 1))
	ids := f.jobs(2)
	f.start(ids[0], "start", smc.TriggerStart)
	f.start(ids[1], "start", smc.TriggerStart)
	id := NewID("at")
	require.NoError(t, f.CreateAccessToken(f.ctx, AccessToken{AccessTokenID: id, AccountID: "456", RegionID: region, Count: 1, TTLDays: 1}, "theirs"))
	source, err := f.RegisterSource(f.ctx, "theirs", "their token", "their instance", "web", diskServer(25<<30), 10)
	require.NoError(t, err)
	theirs, err := f.CreateJob(f.ctx, "456", spec(source.SourceID), 10)
	require.NoError(t, err)
	require.Zero(t, f.start(theirs, "start", smc.TriggerStart).Queued)
	require.Equal(t, "1/1", f.place(ids[1]))
}

// full is a fixture whose only slot is taken by blocker.
func full(t *testing.T) (f *fixture, blocker string) {
	t.Helper()
	f = newFixture(t)
	require.NoError(t, f.SetRunningQuota(f.ctx, 1))
	blocker = f.create(spec(f.source("blocker").SourceID))
	f.start(blocker, "start", smc.TriggerStart)
	require.NoError(t, f.BeginSync(f.ctx, blocker, "sync", 1, hostURL, 1))
	return f, blocker
}

// What leaves the queue otherwise than by its turn: the others move up, and nothing admits it any more.
func TestQueuedStartIsWithdrawn(t *testing.T) {
	for name, withdraw := range map[string]func(f *fixture, id string) error{
		"Stop":   func(f *fixture, id string) error { return f.Stop(f.ctx, id, "withdraw") },
		"Delete": func(f *fixture, id string) error { return f.BeginDelete(f.ctx, id, "withdraw") },
	} {
		t.Run(name, func(t *testing.T) {
			f, blocker := full(t)
			ids := f.jobs(3)
			for _, id := range ids {
				f.start(id, "start", smc.TriggerStart)
			}
			ticket := f.job(ids[1]).Queue.Ticket
			for range 2 {
				require.NoError(t, withdraw(f, ids[1]))
			}
			require.Empty(t, f.place(ids[1]))
			require.Equal(t, []string{"1/2", "2/2"}, []string{f.place(ids[0]), f.place(ids[2])})
			require.NoError(t, f.Stop(f.ctx, blocker, "stop"))
			_, err := f.Admit(f.ctx, ids[1], ticket)
			require.ErrorIs(t, err, ErrSuperseded)
			require.Equal(t, ids[:1], f.admissible())
			if name == "Stop" {
				require.Equal(t, smc.StatusReady, f.job(ids[1]).Status)
				again := f.start(ids[1], "again", smc.TriggerStart)
				require.NotZero(t, again.Queued)
				require.Equal(t, "3/3", f.place(ids[1]), "it stands at the end")
				_, err := f.Admit(f.ctx, ids[1], ticket)
				require.ErrorIs(t, err, ErrSuperseded, "a ticket is good for one place")
			}
		})
	}
}

// A start by hand comes from the schedule's hands, and goes back into them only when the schedule has not passed.
func TestQueuedScheduledStartIsWithdrawn(t *testing.T) {
	scheduled := func(f *fixture) string {
		request := spec(f.source("scheduled").SourceID)
		at := smc.FormatTime(f.clock.read().Add(time.Hour))
		request.ScheduledStartTime = &at
		id := f.create(request)
		f.clock.advance(2 * time.Hour)
		require.NoError(f.t, f.HostHeartbeat(f.ctx, hostID, hostURL))
		_, err := f.StartRun(f.ctx, id, "due", smc.TriggerSchedule, smc.RunSchedule, CutOverNone)
		require.NoError(f.t, err)
		require.Equal(f.t, "1/1", f.place(id))
		return id
	}
	modify := func(f *fixture, id, at string) {
		_, err := f.ModifyJob(f.ctx, smc.ModifyReplicationJobAttributeRequest{JobID: id, ScheduledStartTime: &at})
		require.NoError(f.t, err)
	}
	t.Run("Stop", func(t *testing.T) {
		f, _ := full(t)
		id := scheduled(f)
		require.NoError(t, f.Stop(f.ctx, id, "stop"))
		require.Zero(t, f.job(id).ScheduledStartAt, "the time that has passed does not start it again")
		name := "renamed"
		_, err := f.ModifyJob(f.ctx, smc.ModifyReplicationJobAttributeRequest{JobID: id, Name: &name})
		require.NoError(t, err)
		require.Zero(t, f.job(id).ScheduledStartAt)
	})
	t.Run("another time", func(t *testing.T) {
		f, _ := full(t)
		id := scheduled(f)
		later := f.clock.read().Add(24 * time.Hour)
		modify(f, id, smc.FormatTime(later))
		require.Empty(t, f.place(id))
		require.Equal(t, later, f.job(id).ScheduledStartAt)
		f.requireEvents(id, "Ready", "Ready", "Ready")
	})
	t.Run("no time", func(t *testing.T) {
		f, _ := full(t)
		id := scheduled(f)
		modify(f, id, "")
		require.Empty(t, f.place(id))
	})
	t.Run("not when it was started by hand since", func(t *testing.T) {
		f, _ := full(t)
		id := scheduled(f)
		require.NotZero(t, f.start(id, "by hand", smc.TriggerStart).Queued)
		modify(f, id, smc.FormatTime(f.clock.read().Add(24*time.Hour)))
		require.Equal(t, "1/1", f.place(id))
	})
}

// A second start keeps the place of the first. What a person asks for, and what asks for more, is what will run.
func TestQueuedJobIsStartedAgain(t *testing.T) {
	f, blocker := full(t)
	id := f.create(incremental(f.source("web").SourceID, 3))
	behind := f.create(spec(f.source("behind").SourceID))
	require.NoError(t, f.Stop(f.ctx, blocker, "stop"))
	require.Equal(t, smc.StatusWaiting, f.run(id, smc.TriggerStart))
	f.start(blocker, "again", smc.TriggerStart)

	start := func(key string, trigger smc.Trigger, runType smc.RunType, cutOver CutOver) {
		t.Helper()
		for range 2 {
			start, err := f.StartRun(f.ctx, id, key, trigger, runType, cutOver)
			require.NoError(t, err)
			require.NotZero(t, start.Queued)
			require.False(t, start.Over)
		}
		require.Equal(t, "1", strings.Split(f.place(id), "/")[0])
	}
	start("due", smc.TriggerSchedule, smc.RunSchedule, CutOverNone)
	ticket := f.job(id).Queue.Ticket
	f.start(behind, "start", smc.TriggerStart)
	start("due again", smc.TriggerSchedule, smc.RunSchedule, CutOverNone)
	require.Equal(t, smc.RunSchedule, f.job(id).Queue.Type)
	start("run", smc.TriggerRun, smc.RunManual, CutOverNone)
	require.Equal(t, smc.RunManual, f.job(id).Queue.Type)
	start("cutover", smc.TriggerCutOver, smc.RunManual, CutOverSyncData)
	start("run again", smc.TriggerRun, smc.RunManual, CutOverNone)
	require.Equal(t, CutOverSyncData, f.job(id).Queue.CutOver, "a run does not take back a cutover")
	require.Equal(t, ticket, f.job(id).Queue.Ticket)

	require.NoError(t, f.Fail(f.ctx, blocker, "fail", 1, smc.CodeInternalError, "why"))
	require.Equal(t, 2, f.admit(id).Run)
	job := f.job(id)
	require.Equal(t, CutOverSyncData, job.CutOver)
	require.True(t, job.Final())
	require.Equal(t, smc.StatusFinished, f.finish(id, "last", 2))
}

func TestQueuedJobIsCutOverAsItIs(t *testing.T) {
	f, blocker := full(t)
	id := f.create(incremental(f.source("web").SourceID, 3))
	require.NoError(t, f.Stop(f.ctx, blocker, "stop"))
	f.run(id, smc.TriggerStart)
	f.start(blocker, "again", smc.TriggerStart)
	_, err := f.StartRun(f.ctx, id, "sync", smc.TriggerCutOver, smc.RunManual, CutOverSyncData)
	require.NoError(t, err)
	require.Equal(t, "1/1", f.place(id))
	require.NoError(t, f.FinishCutOver(f.ctx, id, "as it is"))
	require.Equal(t, smc.StatusFinished, f.job(id).Status)
	require.False(t, f.job(id).Queued())
}

// A queued job that cannot run keeps its place and holds up nobody; when it can again, it is the first.
func TestQueuedJobIsPassedOver(t *testing.T) {
	f, blocker := full(t)
	ids := f.jobs(3)
	for _, id := range ids {
		f.start(id, "start", smc.TriggerStart)
	}
	first := f.job(ids[0]).SourceID
	f.clock.advance(time.Hour)
	require.NoError(t, f.HostHeartbeat(f.ctx, hostID, hostURL))
	for _, id := range append(ids[1:], blocker) {
		require.NoError(t, f.Heartbeat(f.ctx, f.job(id).SourceID, diskServer(25<<30, 40<<30)))
	}
	offline, err := f.MarkOffline(f.ctx, f.clock.read().Add(-time.Minute))
	require.NoError(t, err)
	require.Equal(t, []string{first}, offline)
	require.Equal(t, "1/3", f.place(ids[0]))
	require.Contains(t, f.job(ids[0]).Info(), "passed over until its source server "+first+" is back")

	require.NoError(t, f.Stop(f.ctx, blocker, "stop"))
	require.Equal(t, ids[1:2], f.admissible())
	require.NotZero(t, f.admit(ids[0]).Queued)
	require.Zero(t, f.admit(ids[1]).Queued)
	require.NoError(t, f.Heartbeat(f.ctx, first, diskServer(25<<30, 40<<30)))
	require.NoError(t, f.BeginSync(f.ctx, ids[1], "sync", 1, hostURL, 1))
	require.NoError(t, f.Stop(f.ctx, ids[1], "stop"))
	require.Equal(t, ids[:1], f.admissible(), "before the third, which came later")
	require.NotZero(t, f.start(blocker, "again", smc.TriggerStart).Queued, "who comes while others wait stands behind them")

	f.clock.advance(time.Hour)
	require.Empty(t, f.admissible(), "there is no transition host")
	require.Contains(t, f.job(ids[0]).Info(), "passed over until a transition host is back")
	require.Contains(t, f.job(blocker).Info(), "passed over until transition host "+hostID+", which holds its staging, is back")
	require.NoError(t, f.HostHeartbeat(f.ctx, "i-other", hostURL))
	require.Equal(t, ids[:1], f.admissible(), "any will do for a job that has not begun")
	f.clock.advance(time.Hour)
	require.NoError(t, f.HostHeartbeat(f.ctx, hostID, hostURL))
	require.Equal(t, ids[:1], f.admissible())
}

// An entity that does not answer must not keep the slot from all the others of its account for ever.
func TestQueuedJobThatDoesNotAnswer(t *testing.T) {
	f, blocker := full(t)
	ids := f.jobs(3)
	for _, id := range ids {
		f.start(id, "start", smc.TriggerStart)
	}
	require.NoError(t, f.Stop(f.ctx, blocker, "stop"))
	ticket := f.job(ids[0]).Queue.Ticket
	require.NoError(t, f.NoteUnanswered(f.ctx, ids[0], ticket+1), "of another entry")
	for range mostUnanswered {
		require.Equal(t, ids[:1], f.admissible())
		require.NotZero(t, f.admit(ids[1]).Queued, "the first may answer yet")
		require.NoError(t, f.NoteUnanswered(f.ctx, ids[0], ticket))
	}
	require.Equal(t, ids[1:2], f.admissible())
	require.Equal(t, "1/3", f.place(ids[0]), "it keeps its place")
	require.Contains(t, f.job(ids[0]).Info(), "its workflow has not answered")
	require.Zero(t, f.admit(ids[1]).Queued)
	require.NotZero(t, f.admit(ids[0]).Queued, "it answers, and the slot is taken")
	require.NotContains(t, f.job(ids[0]).Info(), "answered")
	require.NoError(t, f.BeginSync(f.ctx, ids[1], "sync", 1, hostURL, 1))
	require.NoError(t, f.Stop(f.ctx, ids[1], "stop"))
	require.Equal(t, ids[:1], f.admissible(), "it comes first again")

	for range mostUnanswered {
		require.NoError(t, f.NoteUnanswered(f.ctx, ids[0], ticket))
	}
	require.NoError(t, f.SetRunningQuota(f.ctx, 3))
	require.Equal(t, []string{ids[2], ids[0]}, f.admissible(), "it is told again when those behind it leave a slot")
	require.Zero(t, f.admit(ids[0]).Queued)
}

func TestQueuedJobResumes(t *testing.T) {
	f, blocker := full(t)
	require.NoError(t, f.Stop(f.ctx, blocker, "stop"))
	id := f.create(spec(f.source("web").SourceID))
	f.start(id, "start", smc.TriggerStart)
	require.NoError(t, f.BeginSync(f.ctx, id, "sync", 1, hostURL, 1))
	require.NoError(t, f.Fail(f.ctx, id, "fail", 1, smc.CodeSourceDiskReadError, "disk 0 cannot be read"))
	f.start(blocker, "again", smc.TriggerStart)
	f.start(id, "resume", smc.TriggerStart)
	job := f.job(id)
	require.Equal(t, smc.StatusInError, job.Status)
	require.Equal(t, smc.CodeSourceDiskReadError, job.ErrorCode)
	require.Equal(t, "1/1", placeIn(job.Info()))
	require.Contains(t, job.Info(), "; disk 0 cannot be read", "why it is InError is not lost")
	require.NoError(t, f.BeginDelete(f.ctx, f.create(spec(f.source("other").SourceID)), "delete"))
	require.NoError(t, f.BeginSync(f.ctx, blocker, "sync again", 1, hostURL, 1))
	require.NoError(t, f.Stop(f.ctx, blocker, "stop again"))
	start := f.admit(id)
	require.Equal(t, 1, start.Run, "a resumed run is the same run")
	require.Empty(t, f.job(id).Info())
}

// The quota of the server that started last holds for all processes.
func TestRunningQuotaIsChanged(t *testing.T) {
	f := newFixture(t)
	other := f.open()
	require.NoError(t, f.SetRunningQuota(f.ctx, 3))
	ids := f.jobs(5)
	for _, id := range ids {
		f.start(id, "start", smc.TriggerStart)
	}
	require.Equal(t, ids[:3], f.running(ids...))
	require.NoError(t, other.SetRunningQuota(f.ctx, 4))
	require.Equal(t, ids[3:4], f.admissible())
	require.NoError(t, other.SetRunningQuota(f.ctx, 2))
	require.Empty(t, f.admissible())
	require.Contains(t, f.job(ids[4]).Info(), "the account runs 3 jobs of 2 allowed", "what runs is left alone")
}

func TestQueuedEvents(t *testing.T) {
	f, _ := full(t)
	id := f.jobs(1)[0]
	f.start(id, "start", smc.TriggerStart)
	require.NoError(t, f.Stop(f.ctx, id, "withdraw"))
	records, err := f.Events(f.ctx, id)
	require.NoError(t, err)
	var got []events.JobStatusChanged
	for _, record := range records {
		event, err := events.Decode(record.Data)
		require.NoError(t, err)
		var data events.JobStatusChanged
		require.NoError(t, event.DataAs(&data))
		got = append(got, data)
	}
	require.Len(t, got, 3)
	require.True(t, got[1].Queued)
	require.Equal(t, "Ready", got[1].Status)
	require.Equal(t, "Ready", got[1].PreviousStatus)
	require.Equal(t, "1/1", placeIn(got[1].StatusInfo))
	require.False(t, got[2].Queued)
	require.Empty(t, got[2].StatusInfo)
}

// A thousand jobs in the queue cost a look whose work does not grow with them.
func TestAdmissibleLooksAtIndexes(t *testing.T) {
	if storetest.Postgres() {
		t.Skip("the planner of PostgreSQL goes by the size of tables")
	}
	f := newFixture(t)
	for _, query := range []string{
		`SELECT DISTINCT account_id FROM replication_jobs WHERE queue_number > 0`,
		`SELECT COUNT(*) FROM replication_jobs WHERE account_id = '1' AND status = 'Running'`,
		`SELECT j.job_id` + strings.Replace(ready, "?", "0", 1) + ` AND j.account_id = '1' ORDER BY j.queue_number LIMIT 1`,
	} {
		rows, err := f.db.QueryContext(context.Background(), `EXPLAIN QUERY PLAN `+query)
		require.NoError(t, err)
		plan, err := collect(rows, func(row rowScanner) (detail string, err error) {
			var id, parent, unused int
			return detail, row.Scan(&id, &parent, &unused, &detail)
		})
		require.NoError(t, err)
		require.Regexp(t, `replication_jobs_(queue|running)`, strings.Join(plan, "\n"), query)
		require.NotContains(t, strings.Join(plan, "\n"), "TEMP B-TREE", query)
	}
}
