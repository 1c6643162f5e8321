//go:build record

package workflows

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/sdk/client"

	"github.com/drover/drover/fleet"
)

// TestRecordMigrations writes the histories of migrations and fleets, as TestRecord does those of jobs; the command there
// runs both. A migration's is that of the scenario's only server.
func TestRecordMigrations(t *testing.T) {
	s := newStack(t)
	for _, scenario := range []struct {
		name    string
		options fleet.Options
		play    func(*stack, *agent, fleet.Fleet)
	}{
		{"migration-one-time", fleet.Options{}, func(s *stack, _ *agent, f fleet.Fleet) {
			s.apply(f)
			s.ends(f, fleet.Completed)
		}},
		{"migration-incremental-with-cutover", fleet.Options{CutOver: &fleet.CutOver{AfterRuns: 2}}, func(s *stack, _ *agent, f fleet.Fleet) {
			once := map[string]string{"RunOnce": "false", "Frequency": "12", "MaxNumberOfImageToKeep": "2"}
			f.Waves[0].Servers[0].Parameters = once
			s.apply(f)
			s.ends(f, fleet.Completed)
		}},
		{
			"migration-in-error-retried",
			fleet.Options{Retry: fleet.Retry{Limit: 100, Interval: 200 * time.Millisecond, MaxInterval: 200 * time.Millisecond}},
			func(s *stack, a *agent, f fleet.Fleet) {
				a.fail()
				s.apply(f)
				s.reaches(f, fleet.PhaseBackoff)
				a.heal()
				s.ends(f, fleet.Completed)
			},
		},
		{
			"migration-in-error-given-up",
			fleet.Options{Retry: fleet.Retry{Limit: 1, Interval: 200 * time.Millisecond, MaxInterval: 200 * time.Millisecond}},
			func(s *stack, a *agent, f fleet.Fleet) {
				a.fail()
				s.apply(f)
				s.ends(f, fleet.CompletedWithFailures)
			},
		},
		{"migration-cancelled", fleet.Options{}, func(s *stack, a *agent, f fleet.Fleet) {
			a.hang()
			s.apply(f)
			<-a.hanging
			s.reaches(f, fleet.PhaseReplicate)
			require.NoError(s.t, s.temporal.CancelWorkflow(s.t.Context(), fleet.WorkflowID(f.Name), ""))
			s.reaches(f, fleet.PhaseCancelling)
			a.heal()
			s.ends(f, fleet.Cancelled)
		}},
	} {
		t.Run(scenario.name, func(t *testing.T) {
			s := s.in(t)
			a := s.agent(scenario.name)
			server := fleet.Server{Name: scenario.name, Options: scenario.options}
			if server.Retry == (fleet.Retry{}) {
				server.Retry = fleet.DefaultRetry()
			}
			f := fleet.Fleet{Name: scenario.name, PollInterval: time.Second, Waves: []fleet.Wave{{Name: "pilot", Servers: []fleet.Server{server}}}}
			scenario.play(s, a, f)
			s.saveWorkflow(scenario.name, fleet.MigrationID(f.Name, a.sourceID))
			if scenario.name == "migration-cancelled" {
				s.saveWorkflow("fleet-cancelled", fleet.WorkflowID(f.Name))
			}
		})
	}
	t.Run("fleet-two-waves", func(t *testing.T) {
		s := s.in(t)
		f := fleet.Fleet{Name: "fleet-two-waves", PollInterval: time.Second}
		for _, wave := range []string{"pilot", "rest"} {
			w := fleet.Wave{Name: wave, MaxConcurrent: 1}
			for _, name := range []string{wave + "-1", wave + "-2"} {
				s.agent(name)
				w.Servers = append(w.Servers, fleet.Server{Name: name, Options: fleet.Options{Retry: fleet.DefaultRetry()}})
			}
			f.Waves = append(f.Waves, w)
		}
		s.apply(f)
		s.ends(f, fleet.Completed)
		s.saveWorkflow("fleet-two-waves", fleet.WorkflowID(f.Name))
	})
}

// apply starts a fleet.
func (s *stack) apply(f fleet.Fleet) {
	s.t.Helper()
	_, err := s.temporal.ExecuteWorkflow(s.t.Context(), client.StartWorkflowOptions{ID: fleet.WorkflowID(f.Name), TaskQueue: fleet.Queue}, Fleet, FleetInput{Fleet: f})
	require.NoError(s.t, err)
}

// ends waits until a fleet has ended so.
func (s *stack) ends(f fleet.Fleet, state fleet.State) {
	s.t.Helper()
	err := s.temporal.GetWorkflow(s.t.Context(), fleet.WorkflowID(f.Name), "").Get(s.t.Context(), nil)
	if state != fleet.Cancelled {
		require.NoError(s.t, err)
	}
	require.Equal(s.t, state, s.fleet(f).Status)
	for _, server := range s.fleet(f).Servers { // a migration reports its end before it closes
		_ = s.temporal.GetWorkflow(s.t.Context(), fleet.MigrationID(f.Name, server.SourceID), "").Get(s.t.Context(), nil)
	}
}

func (s *stack) fleet(f fleet.Fleet) (status fleet.Status) {
	s.t.Helper()
	encoded, err := s.temporal.QueryWorkflow(s.t.Context(), fleet.WorkflowID(f.Name), "", fleet.QueryStatus)
	require.NoError(s.t, err)
	require.NoError(s.t, encoded.Get(&status))
	return status
}

// reaches waits until a migration of the fleet is in that phase.
func (s *stack) reaches(f fleet.Fleet, phase fleet.Phase) {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		return slices.ContainsFunc(s.fleet(f).Servers, func(m fleet.MigrationStatus) bool { return m.Phase == phase })
	}, time.Minute, 5*time.Millisecond, "no migration of %s is %s", f.Name, phase)
}

func (s *stack) saveWorkflow(name, workflowID string) {
	s.t.Helper()
	s.save(name, s.history(&commonpb.WorkflowExecution{WorkflowId: workflowID}))
}
