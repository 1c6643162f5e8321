package workflows

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"

	"github.com/drover/drover/activities"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
)

// newRun is a scenario of a run by itself; the job is Running and Preparing.
func newRun(t *testing.T) (*scenario, RunInput) {
	t.Helper()
	s := newScenario(t, 0)
	start, err := s.StartRun(t.Context(), s.jobID, "start", smc.TriggerStart, smc.RunManual, store.CutOverNone)
	require.NoError(t, err)
	return s, RunInput{JobID: s.jobID, Run: start.Run, Lap: start.Lap, Phase: start.BusinessStatus, HostID: start.HostID}
}

func (s *scenario) result() (result RunResult) {
	s.t.Helper()
	require.NoError(s.t, s.env.GetWorkflowError())
	require.NoError(s.t, s.env.GetWorkflowResult(&result))
	return result
}

func TestRunDoesItsPhases(t *testing.T) {
	s, in := newRun(t)
	s.env.ExecuteWorkflow(ReplicationRun, in)
	require.Equal(t, RunResult{Status: smc.StatusFinished}, s.result())
	require.Equal(t, oneRun, s.done())
}

func TestRunIDs(t *testing.T) {
	require.Equal(t, "job/j-1", JobID("j-1"))
	require.Equal(t, "job/j-1/run/3", RunID("j-1", 3))
}

func TestPhasesAreThoseOfTheContract(t *testing.T) {
	var statuses []smc.BusinessStatus
	for _, p := range phases() {
		statuses = append(statuses, p.status)
	}
	require.Equal(t, smc.BusinessStatuses(), statuses)
}

func TestRunOfAnUnknownPhase(t *testing.T) {
	s, in := newRun(t)
	in.Phase = "Sleeping"
	s.env.ExecuteWorkflow(ReplicationRun, in)
	require.ErrorContains(t, s.env.GetWorkflowError(), "Sleeping")
	require.Empty(t, s.done())
}

// Another operation moved the job: what the run leaves it in is not the run's to say.
func TestRunIsSuperseded(t *testing.T) {
	s, in := newRun(t)
	s.at(syncTime/2, func() { require.NoError(t, s.Stop(t.Context(), s.jobID, "stop")) })
	s.env.ExecuteWorkflow(ReplicationRun, in)
	require.Equal(t, RunResult{}, s.result())
	require.Equal(t, smc.StatusStopped, s.job().Status)
	require.NotContains(t, s.attempts, "Fail")
}

func TestRunIsSupersededWhileItFails(t *testing.T) {
	s, in := newRun(t)
	s.fail("Sync", refusal(smc.CodeSourceDiskReadError, "unreadable"))
	s.at(syncTime/2, func() { require.NoError(t, s.Stop(t.Context(), s.jobID, "stop")) })
	s.env.ExecuteWorkflow(ReplicationRun, in)
	require.Equal(t, RunResult{}, s.result())
	require.Equal(t, smc.StatusStopped, s.job().Status)
	require.Empty(t, s.job().ErrorCode)
}

func TestRunThatFails(t *testing.T) {
	for _, test := range []struct {
		name       string
		failure    error
		code, info string
	}{
		{"with a code", refusal(smc.CodeSourceDiskReadError, "disk 0 at byte 4096"), smc.CodeSourceDiskReadError, "Syncing failed: disk 0 at byte 4096"},
		{"in time", temporal.NewTimeoutError(0, nil), smc.CodeTransitionHostUnavailable, "did not answer in time"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, in := newRun(t)
			for range 10 { // the most the test environment tries
				s.fail("Sync", test.failure)
			}
			s.env.ExecuteWorkflow(ReplicationRun, in)
			require.Equal(t, RunResult{Status: smc.StatusInError}, s.result())
			require.Equal(t, test.code, s.job().ErrorCode)
			require.Contains(t, s.job().StatusInfo, test.info)
			require.Equal(t, smc.BusinessSyncing, s.job().BusinessStatus, "the phase to go on from is kept")
		})
	}
}

// A host that does not take the work is waited for, and the job says so; not for ever.
func TestRunWaitsForItsHost(t *testing.T) {
	silence := temporal.NewTimeoutError(enumspb.TIMEOUT_TYPE_SCHEDULE_TO_START, nil)
	for _, back := range []bool{true, false} {
		t.Run(fmt.Sprint("back ", back), func(t *testing.T) {
			s, in := newRun(t)
			s.env.OnActivity("Process", mock.Anything, mock.Anything).After(time.Hour).Return(s.host.Process)
			s.fail("Process", silence)
			if !back {
				s.fail("Process", silence)
			}
			waiting := s.sees(90 * time.Minute) // within the second try
			s.env.ExecuteWorkflow(ReplicationRun, in)
			require.Equal(t, 1, s.attempts["NoteSilentHost"])
			require.Equal(t, smc.StatusRunning, (*waiting).Status)
			require.Contains(t, (*waiting).Info(), "transition host "+testHost+" does not take the work")
			require.Contains(t, (*waiting).Info(), "start its worker")
			if back {
				require.Equal(t, RunResult{Status: smc.StatusFinished}, s.result())
				return
			}
			require.Equal(t, RunResult{Status: smc.StatusInError}, s.result())
			require.Equal(t, smc.CodeTransitionHostUnavailable, s.job().ErrorCode)
			require.Contains(t, s.job().StatusInfo, "has not taken the work for 30m0s: start its worker")
			require.Equal(t, smc.BusinessProcessing, s.job().BusinessStatus, "the phase to go on from is kept")
		})
	}
}

func TestCancelEndsARunAtOnce(t *testing.T) {
	s, in := newRun(t)
	s.env.OnActivity("Process", mock.Anything, mock.Anything).After(time.Hour).Return(s.host.Process)
	s.at(syncTime/2, s.env.CancelWorkflow)
	begin := s.env.Now()
	s.env.ExecuteWorkflow(ReplicationRun, in)
	require.True(t, temporal.IsCanceledError(s.env.GetWorkflowError()))
	require.WithinDuration(t, begin.Add(syncTime/2), s.env.Now(), time.Second, "it waits for no heartbeat")
	require.NotContains(t, s.attempts, "Fail")
}

func TestPhasesAreDoneByTheJobsHost(t *testing.T) {
	s, in := newRun(t)
	queues := map[string]string{}
	s.env.SetOnActivityStartedListener(onStarted(queues))
	s.fail("Clean", refusal(smc.CodeInternalError, "broken"))
	s.env.ExecuteWorkflow(ReplicationRun, in)
	require.Equal(t, RunResult{Status: smc.StatusInError}, s.result())
	for _, name := range oneRun {
		require.Equal(t, activities.QueueTransition(testHost), queues[name], name)
	}
	require.Equal(t, activities.QueueCenter, queues["Fail"])
}

func TestExplainsFailuresWithoutACode(t *testing.T) {
	code, message := explain(errors.New("nobody knows"))
	require.Equal(t, smc.CodeInternalError, code)
	require.Equal(t, "nobody knows", message)
}
