package activities

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
)

func (f *fixture) doJob(activity, in any) error {
	suite := new(testsuite.WorkflowTestSuite)
	suite.SetLogger(quiet{})
	env := suite.NewTestActivityEnvironment()
	env.RegisterActivity(&Jobs{Store: f.record})
	_, err := env.ExecuteActivity(activity, in)
	return err
}

func TestJobsLife(t *testing.T) {
	f := newFixture(t)
	jobs := &Jobs{Store: f.record}
	id, err := f.record.CreateJob(t.Context(), account, smc.CreateReplicationJobRequest{RegionID: region, SourceID: f.sourceID}, 10)
	require.NoError(t, err)
	start := StartRunInput{JobID: id, Key: "start", Trigger: smc.TriggerStart, Type: smc.RunManual}
	failure := applicationFailure(t, f.doJob(jobs.Stop, MoveInput{JobID: id, Key: "early"}))
	require.Equal(t, smc.CodeReplicationJobInvalidStatus, failure.Type())
	require.True(t, failure.NonRetryable(), "a refusal stays one")
	for range 2 { // every activity may be run again
		require.NoError(t, f.doJob(jobs.StartRun, start))
	}
	require.NoError(t, f.doJob(jobs.Fail, FailInput{JobID: id, Key: "fail", Run: 1, Lap: 2, Code: "Code", Info: "info"}))
	state, err := jobs.State(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, &JobState{Status: smc.StatusInError, BusinessStatus: smc.BusinessPreparing, Run: 1, Lap: 2, HostID: hostID, Schedule: *f.job(id).Schedule()}, state)
	require.NoError(t, f.doJob(jobs.BeginDelete, MoveInput{JobID: id, Key: "delete"}))
	require.Equal(t, TypeSuperseded, applicationFailure(t, f.doJob(jobs.Fail, FailInput{JobID: id, Key: "late", Run: 1, Lap: 2})).Type())
	for range 2 {
		require.NoError(t, f.doJob(jobs.EndDelete, MoveInput{JobID: id, Key: "deleted"}))
	}
	state, err = jobs.State(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, &JobState{Status: smc.StatusDeleting}, state, "a job that is gone has nothing left but to end")
}

// Whoever starts a job by hand is told that its source is away; a start that is due waits for it.
func TestStartWhileTheSourceIsAway(t *testing.T) {
	f := newFixture(t)
	jobs := &Jobs{Store: f.record}
	id, err := f.record.CreateJob(t.Context(), account, smc.CreateReplicationJobRequest{RegionID: region, SourceID: f.sourceID}, 10)
	require.NoError(t, err)
	_, err = f.record.MarkOffline(t.Context(), time.Now().Add(time.Hour))
	require.NoError(t, err)
	in := StartRunInput{JobID: id, Key: "start", Trigger: smc.TriggerStart, Type: smc.RunManual}
	failure := applicationFailure(t, f.doJob(jobs.StartRun, in))
	require.Equal(t, smc.CodeSourceServerStateInvalid, failure.Type())
	require.True(t, failure.NonRetryable())
	due := StartDueRunInput{JobID: id, Key: "due", Due: time.Now()}
	failure = applicationFailure(t, f.doJob(jobs.StartDueRun, due))
	require.Equal(t, smc.CodeSourceServerStateInvalid, failure.Type())
	require.False(t, failure.NonRetryable())
	require.Equal(t, firstDuePause, failure.NextRetryDelay())
	require.Contains(t, f.job(id).Info(), "waits")
	due.JobID = "j-none"
	require.True(t, applicationFailure(t, f.doJob(jobs.StartDueRun, due)).NonRetryable())
	failure = applicationFailure(t, f.doJob(jobs.Expire, ExpireInput{JobID: id, Key: "expired", AsOf: time.Now()}))
	require.Equal(t, TypeSuperseded, failure.Type(), "its ValidTime has not passed")
	require.NoError(t, f.doJob(jobs.Expire, ExpireInput{JobID: id, Key: "expired", AsOf: time.Now().Add(smc.DefaultValidity)}))
	require.Equal(t, smc.StatusExpired, f.job(id).Status)
}

// A start that waits for weeks is tried more and more seldom, and at each point of the grid.
func TestTriesOfADueStart(t *testing.T) {
	for try, want := range map[int32]time.Duration{1: 30 * time.Second, 2: time.Minute, 5: 8 * time.Minute, 6: 10 * time.Minute, 100_000: 10 * time.Minute} {
		require.Equal(t, want, untilNextTry(try, 0))
		require.Equal(t, want, untilNextTry(try, time.Hour))
		require.Equal(t, 21*time.Second, untilNextTry(try, 20*time.Second), "a moment after the point")
	}
}

func TestFinishCutOver(t *testing.T) {
	f := newFixture(t)
	in := f.start(1)
	f.sync(in)
	require.NoError(t, f.do(f.a.Process, in))
	require.NoError(t, f.do(f.a.Clean, in))
	require.NoError(t, f.doJob((&Jobs{Store: f.record}).FinishCutOver, MoveInput{JobID: in.JobID, Key: "cutover"}))
	require.Equal(t, smc.StatusFinished, f.job(in.JobID).Status)
}

func TestApplicationErrors(t *testing.T) {
	require.NoError(t, applicationError(nil))
	for _, test := range []struct {
		err          error
		code         string
		nonRetryable bool
	}{
		{fmt.Errorf("job: %w", store.ErrSuperseded), TypeSuperseded, true},
		{fmt.Errorf("job: %w", store.ErrSessionClosed), TypeSuperseded, true},
		{fmt.Errorf("job: %w", replica.ErrFenced), TypeSuperseded, true},
		{fmt.Errorf("job: %w", smc.Errorf(smc.CodeQuotaExceededReplicationJob, "full")), smc.CodeQuotaExceededReplicationJob, true},
		{errors.New("the database is locked"), smc.CodeInternalError, false},
	} {
		failure := applicationFailure(t, applicationError(test.err))
		require.Equal(t, test.code, failure.Type(), "%v", test.err)
		require.Equal(t, test.nonRetryable, failure.NonRetryable(), "%v", test.err)
	}
	// A cancel stays one: Temporal tells it from a failure.
	require.Equal(t, context.Canceled, applicationError(context.Canceled))
	var canceled *temporal.ApplicationError
	require.NotErrorAs(t, applicationError(context.Canceled), &canceled)
}
