package workflows

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/activities"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
)

// A due start was carried out, its answer was lost, and an update comes before it is attempted again: the run that the store has
// is done all the same, at once.
func TestUpdateAfterADueStartWhoseAnswerWasLost(t *testing.T) {
	for name, update := range map[string]func(*scenario, time.Duration) *answer{
		"Modify": func(s *scenario, at time.Duration) *answer {
			description := "of the fleet"
			return s.modify(at, smc.ModifyReplicationJobAttributeRequest{Description: &description})
		},
		"CutOver": func(s *scenario, at time.Duration) *answer { return s.update(at, UpdateCutOver, CutOverRequest{}) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newScenario(t, 24)
			jobs := &activities.Jobs{Store: s.Store}
			s.env.OnActivity(jobs.StartDueRun, mock.Anything, mock.Anything).Return(func(ctx context.Context, in activities.StartDueRunInput) (*store.RunStart, error) {
				start, err := jobs.StartDueRun(ctx, in)
				if err == nil && s.attempts["StartDueRun"] == 1 {
					return nil, errors.New("the worker was killed after the commit")
				}
				return start, err
			})
			s.update(0, UpdateStart)
			answer := update(s, day+10*time.Second)
			after := s.sees(day + time.Hour)
			require.NoError(t, s.runUntil(day+2*time.Hour))
			if name == "Modify" {
				answer.requireDone()
			} else {
				answer.requireFailed(smc.CodeReplicationJobInvalidStatus)
			}
			require.Equal(t, smc.StatusWaiting, (*after).Status, "the run of the grid has been done")
			require.Len(t, (*after).Runs, 2)
			require.Len(t, s.children, 2)
		})
	}
}

// A change that is refused while a run goes on leaves the run alone.
func TestRefusedChangeOfARunningJob(t *testing.T) {
	s := newScenario(t, 24)
	s.update(0, UpdateStart)
	frequency := 12
	refused := s.modify(5*time.Minute, smc.ModifyReplicationJobAttributeRequest{Frequency: &frequency})
	require.NoError(t, s.runUntil(2*time.Hour))
	refused.requireFailed(smc.CodeReplicationJobInvalidStatus)
	require.Equal(t, smc.StatusWaiting, s.job().Status)
	require.Len(t, s.children, 1)
	require.NotContains(t, s.attempts, "Fail")
}

// An update may come with the first task of a run of the entity, and take longer than it is until the next start that is due: that
// start comes after it, if it is still due.
func TestUpdateOfTheFirstTaskHoldsBackADueStart(t *testing.T) {
	r := newRecord(t, 2)
	first := newScenarioOf(r, r.input())
	first.update(0, UpdateStart)
	first.at(time.Minute, func() { first.env.SetCurrentHistoryLength(restingHistory + 1) })
	input := requireContinuesAsNew(t, first.runUntil(100*time.Hour))

	next := newScenarioOf(r, input)
	next.env.SetStartTime(input.Schedule.FirstStartAt.Add(2*time.Hour - time.Second))
	jobs := &activities.Jobs{Store: r.Store}
	next.env.OnActivity(jobs.Modify, mock.Anything, mock.Anything).After(time.Minute).Return(jobs.Modify)
	frequency := 24
	modified := next.modify(0, smc.ModifyReplicationJobAttributeRequest{Frequency: &frequency})
	require.NoError(t, next.runUntil(3*time.Hour))
	modified.requireDone()
	require.Len(t, r.job().Runs, 1, "the run that was due was one of the old rhythm")
}
