package workflows

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/activities"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
)

// crowd is another job of the account, which has its one running slot. leave gives it back.
func (r *record) crowd() (leave func()) {
	r.t.Helper()
	ctx := context.Background()
	require.NoError(r.t, r.SetRunningQuota(ctx, 1))
	require.NoError(r.t, r.HostHeartbeat(ctx, testHost, "http://host"))
	other, err := r.CreateJob(ctx, r.account, smc.CreateReplicationJobRequest{RegionID: testRegion, SourceID: r.register("another code", "crowd")}, 10)
	require.NoError(r.t, err)
	_, err = r.StartRun(ctx, other, "start", smc.TriggerStart, smc.RunManual, store.CutOverNone)
	require.NoError(r.t, err)
	require.NoError(r.t, r.BeginSync(ctx, other, "sync", 1, "http://host", 1))
	return func() { require.NoError(r.t, r.Stop(ctx, other, "stop")) }
}

// tell sends UpdateAdmit with the ticket that the job has then.
func (s *scenario) tell(after time.Duration) *answer {
	request := &AdmitRequest{}
	s.at(after, func() {
		if job := s.job(); job.Queued() {
			request.Ticket = job.Queue.Ticket
		}
	})
	return s.request(after+time.Second, UpdateAdmit, fmt.Sprint("tell at ", after), request)
}

func TestQueuedStart(t *testing.T) {
	s := newScenario(t, 0)
	leave := s.crowd()
	start := s.update(time.Minute, UpdateStart)
	queued := s.sees(2 * time.Minute)
	early := s.tell(3 * time.Minute)
	again := s.update(5*time.Minute, UpdateStart)
	still := s.sees(6 * time.Minute)
	s.at(time.Hour, leave)
	admitted := s.tell(time.Hour)
	running := s.sees(time.Hour + time.Minute)
	late := s.tell(time.Hour + 2*time.Minute)
	require.NoError(t, s.runUntil(3*time.Hour))
	start.requireDone()
	early.requireDone()
	again.requireDone()
	admitted.requireDone()
	require.Equal(t, smc.StatusReady, (*queued).Status)
	require.True(t, (*queued).Queued())
	require.Equal(t, (*queued).Queue, (*still).Queue, "a tell that comes too early and a second start change nothing")
	require.Equal(t, smc.StatusRunning, (*running).Status)
	late.requireRejected(activities.TypeSuperseded)
	require.Equal(t, smc.StatusFinished, s.job().Status)
	require.Equal(t, oneRun, s.done())
	require.Len(t, s.children, 1)
}

func TestQueuedStartIsWithdrawn(t *testing.T) {
	t.Run("by Stop", func(t *testing.T) {
		s := newScenario(t, 0)
		leave := s.crowd()
		s.update(time.Minute, UpdateStart)
		stop := s.update(2*time.Minute, UpdateStop)
		again := s.update(3*time.Minute, UpdateStop)
		s.at(time.Hour, leave)
		start := s.update(2*time.Hour, UpdateStart)
		before := s.sees(2*time.Hour - time.Minute)
		require.NoError(t, s.runUntil(4*time.Hour))
		stop.requireDone()
		again.requireRejected(smc.CodeReplicationJobInvalidStatus)
		start.requireDone()
		require.Equal(t, smc.StatusReady, (*before).Status)
		require.False(t, (*before).Queued())
		require.Equal(t, smc.StatusFinished, s.job().Status)
	})
	t.Run("by Delete", func(t *testing.T) {
		s := newScenario(t, 0)
		leave := s.crowd()
		s.update(time.Minute, UpdateStart)
		s.at(time.Hour, leave)
		remove := s.update(2*time.Hour, UpdateDelete)
		require.NoError(t, s.runUntil(4*time.Hour))
		remove.requireDone()
		require.Nil(t, s.job())
		require.Empty(t, s.children)
	})
	t.Run("by its end of validity", func(t *testing.T) {
		s := newScenario(t, 0, validDays(7))
		s.crowd()
		s.update(time.Minute, UpdateStart)
		stop := s.update(8*day, UpdateStop)
		late := s.request(8*day, UpdateAdmit, "late", AdmitRequest{Ticket: 2})
		require.NoError(t, s.runUntil(9*day))
		require.Equal(t, smc.StatusExpired, s.job().Status)
		require.False(t, s.job().Queued())
		stop.requireRejected(smc.CodeReplicationJobInvalidStatus)
		late.requireRejected(activities.TypeSuperseded)
	})
	t.Run("by CutOver as it is", func(t *testing.T) {
		s := newScenario(t, 6)
		s.update(0, UpdateStart)
		s.at(time.Hour, func() { s.crowd() })
		s.update(2*time.Hour, UpdateRun)
		queued := s.sees(3 * time.Hour)
		finish := s.update(4*time.Hour, UpdateCutOver, CutOverRequest{})
		require.NoError(t, s.runUntil(20*time.Hour))
		finish.requireDone()
		require.True(t, (*queued).Queued())
		require.Equal(t, smc.StatusFinished, s.job().Status)
		require.Len(t, s.job().Runs, 1)
	})
}

// A scheduled start that was queued and withdrawn is not made again by the schedule; one that is modified is.
func TestQueuedScheduledStart(t *testing.T) {
	t.Run("stopped", func(t *testing.T) {
		s := scheduled(t)
		s.at(time.Minute, func() { s.crowd() })
		queued := s.sees(2 * time.Hour)
		stop := s.update(3*time.Hour, UpdateStop)
		require.NoError(t, s.runUntil(10*time.Hour))
		stop.requireDone()
		require.True(t, (*queued).Queued())
		require.Equal(t, 1, s.attempts["StartDueRun"], "a queued job waits without asking again")
		require.Equal(t, smc.StatusReady, s.job().Status)
		require.False(t, s.job().Queued())
	})
	t.Run("modified", func(t *testing.T) {
		s := scheduled(t)
		var leave func()
		s.at(time.Minute, func() { leave = s.crowd() })
		modified := s.modify(3*time.Hour, smc.ModifyReplicationJobAttributeRequest{ScheduledStartTime: apiTime(time.Now().Add(6 * time.Hour))})
		between := s.sees(4 * time.Hour)
		s.at(5*time.Hour, func() { leave() })
		require.NoError(t, s.runUntil(10*time.Hour))
		modified.requireDone()
		require.False(t, (*between).Queued())
		require.Equal(t, smc.StatusFinished, s.job().Status)
		require.Equal(t, smc.RunSchedule, s.job().Runs[0].Type)
	})
}

// A point of the grid that is queued is one run, however many points pass; a cutover takes its place.
func TestQueuedRunOfTheGrid(t *testing.T) {
	for _, cutOver := range []bool{false, true} {
		t.Run(fmt.Sprint("cutover ", cutOver), func(t *testing.T) {
			s := newScenario(t, 6)
			s.update(0, UpdateStart)
			var leave func()
			s.at(time.Hour, func() { leave = s.crowd() })
			queued := s.sees(7 * time.Hour)
			still := s.sees(20 * time.Hour)
			if cutOver {
				s.update(20*time.Hour+time.Minute, UpdateCutOver, CutOverRequest{SyncData: true})
			}
			s.at(21*time.Hour, func() { leave() })
			admitted := s.tell(21 * time.Hour)
			require.NoError(t, s.runUntil(23*time.Hour))
			admitted.requireDone()
			require.True(t, (*queued).Queued())
			require.Equal(t, (*queued).Queue, (*still).Queue)
			job := s.job()
			require.Len(t, job.Runs, 2)
			if cutOver {
				require.Equal(t, smc.StatusFinished, job.Status)
				require.Equal(t, smc.RunManual, job.Runs[1].Type)
			} else {
				require.Equal(t, smc.StatusWaiting, job.Status)
				require.Equal(t, smc.RunSchedule, job.Runs[1].Type)
			}
		})
	}
}

// Continue-as-new between the tells, two tells at once, an answer that is lost: one run.
func TestQueuedStartIsAdmittedOnce(t *testing.T) {
	r := newRecord(t, 24)
	leave := r.crowd()
	first := newScenarioOf(r, r.input())
	first.update(0, UpdateStart)
	first.at(time.Minute, func() { first.env.SetCurrentHistoryLength(restingHistory + 1) })
	input := requireContinuesAsNew(t, first.runUntil(100*time.Hour))
	require.NotZero(t, input.Schedule.Queued)
	leave()

	s := newScenarioOf(r, input)
	jobs := &activities.Jobs{Store: r.Store}
	s.env.OnActivity(jobs.Admit, mock.Anything, mock.Anything).Return(func(ctx context.Context, in activities.AdmitInput) (*store.RunStart, error) {
		start, err := jobs.Admit(ctx, in)
		if err == nil && s.attempts["Admit"] == 1 {
			return nil, errors.New("the worker was killed after the commit")
		}
		return start, err
	})
	one, two := s.tell(time.Minute), s.request(time.Minute+time.Second, UpdateAdmit, "of another server", AdmitRequest{Ticket: input.Schedule.Queued})
	require.NoError(t, s.runUntil(3*time.Hour))
	one.requireDone()
	two.requireDone()
	require.Len(t, s.children, 1)
	require.Equal(t, smc.StatusWaiting, r.job().Status)
	require.Len(t, r.job().Runs, 1)
}

// An entity that is rebuilt knows of its place; one that does not learns of it when it is told.
func TestQueuedEntityIsRebuilt(t *testing.T) {
	for _, knows := range []bool{true, false} {
		t.Run(fmt.Sprint("knows ", knows), func(t *testing.T) {
			r := newRecord(t, 0)
			leave := r.crowd()
			input := r.input()
			_, err := r.StartRun(t.Context(), r.jobID, "start", smc.TriggerStart, smc.RunManual, store.CutOverNone)
			require.NoError(t, err)
			if knows {
				input = r.input()
			}
			s := newScenarioOf(r, input)
			early := s.tell(time.Minute)
			if knows {
				early = s.update(2*time.Minute, UpdateStart)
			}
			s.at(time.Hour, leave)
			admitted := s.tell(time.Hour)
			require.NoError(t, s.runUntil(3*time.Hour))
			early.requireDone()
			admitted.requireDone()
			require.Equal(t, smc.StatusFinished, r.job().Status)
		})
	}
}
