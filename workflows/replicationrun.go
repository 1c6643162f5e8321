package workflows

import (
	"errors"
	"fmt"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/drover/drover/activities"
	"github.com/drover/drover/smc"
)

// RunID returns the workflow id of a run: job/<JobId>/run/<n>.
func RunID(jobID string, run int) string { return fmt.Sprintf("%s/run/%d", JobID(jobID), run) }

// RunInput says which run to do, from which phase, on which transition host.
type RunInput struct {
	JobID  string
	Run    int
	Lap    int64 // number of the transition that started or resumed the run
	Phase  smc.BusinessStatus
	HostID string
}

// RunResult is the status the run left its job in: Waiting, Finished or InError. It is empty when another operation
// (Stop, Delete) moved the job first: that operation's status holds.
type RunResult struct {
	Status smc.JobStatus
}

// phase is one step of a run: an activity on the transition host that ends with the transition to the next.
type phase struct {
	status smc.BusinessStatus
	// activity does the phase; it is a method of activities.Replication.
	activity any
	// limit bounds one attempt.
	limit time.Duration
}

// phases are a run's steps in order (CONTRACT: BusinessStatus).
func phases() []phase {
	var replication *activities.Replication
	return []phase{
		{smc.BusinessPreparing, replication.Prepare, 30 * time.Minute},
		{smc.BusinessSyncing, replication.Sync, 90 * 24 * time.Hour}, // the longest a job is valid
		{smc.BusinessProcessing, replication.Process, 48 * time.Hour},
		{smc.BusinessCleaning, replication.Clean, time.Hour},
	}
}

// hostSilence is how long a phase may lie in the queue of its host before the run says that it waits for the host. A host that is
// there takes it within a second.
const hostSilence = 30 * time.Second

// doPhase does a phase on the host that holds the job's staging. While the host does not take it, the job's StatusInfo says so;
// when that has lasted as long as it may, the phase fails.
func doPhase(ctx workflow.Context, in RunInput, p phase, result any) error {
	input := activities.PhaseInput{JobID: in.JobID, Run: in.Run, Lap: in.Lap}
	options := workflow.GetActivityOptions(onHost(ctx, in.HostID, p.limit))
	options.ScheduleToStartTimeout = hostSilence
	err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, options), p.activity, input).Get(ctx, result)
	if !nobodyTookIt(err) {
		return err
	}
	wait := smc.RetryFor(smc.CodeTransitionHostUnavailable)
	var jobs *activities.Jobs
	err = workflow.ExecuteActivity(onCenter(ctx), jobs.NoteSilentHost, activities.SilentHostInput{
		JobID: in.JobID, Run: in.Run, HostID: in.HostID, Wait: wait,
	}).Get(ctx, nil)
	if err != nil {
		return err
	}
	options.ScheduleToStartTimeout = wait - hostSilence
	err = workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, options), p.activity, input).Get(ctx, result)
	if nobodyTookIt(err) {
		return temporal.NewNonRetryableApplicationError(fmt.Sprintf(
			"transition host %s has not taken the work for %s: start its worker, with the same --data, then start the job", in.HostID, wait),
			smc.CodeTransitionHostUnavailable, nil)
	}
	return err
}

// nobodyTookIt says whether an activity failed because it was not taken from its queue in time. That is not retried by Temporal.
func nobodyTookIt(err error) bool {
	var timeout *temporal.TimeoutError
	return errors.As(err, &timeout) && timeout.TimeoutType() == enumspb.TIMEOUT_TYPE_SCHEDULE_TO_START
}

// onHost schedules activities on a transition host. They heartbeat every two seconds: a host that dies is noticed
// within heartbeatTimeout. The host holds the only copy of the staging, so the work waits for that host.
func onHost(ctx workflow.Context, hostID string, limit time.Duration) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		TaskQueue:           activities.QueueTransition(hostID),
		StartToCloseTimeout: limit,
		HeartbeatTimeout:    heartbeatTimeout,
		RetryPolicy: &temporal.RetryPolicy{
			InitialInterval: time.Second, BackoffCoefficient: 2, MaximumInterval: hostRetry,
		},
	})
}

const (
	heartbeatTimeout = 10 * time.Second
	// hostRetry is the longest pause after an attempt that died with its host; one that could tell why names its own.
	hostRetry = 10 * time.Second
)

// ReplicationRun does one run of a job: Preparing, Syncing, Processing, Cleaning. A phase that fails for good leaves
// the job InError; a later start goes on with that phase. Cancellation (Stop) ends it at once: fencing, not this
// workflow, keeps a late writer out.
func ReplicationRun(ctx workflow.Context, in RunInput) (RunResult, error) {
	log := workflow.GetLogger(ctx)
	var end activities.CleanResult
	started := false
	for _, p := range phases() {
		started = started || p.status == in.Phase
		if !started {
			continue
		}
		var result any
		if p.status == smc.BusinessCleaning {
			result = &end
		}
		err := doPhase(ctx, in, p, result)
		switch {
		case err == nil:
			continue
		case temporal.IsCanceledError(err):
			return RunResult{}, err
		case errorType(err) == activities.TypeSuperseded:
			log.Info("run superseded", "phase", p.status)
			return RunResult{}, nil
		}
		log.Warn("phase failed", "phase", p.status, "error", err)
		return fail(ctx, in, p.status, err)
	}
	if end.Status == "" {
		return RunResult{}, fmt.Errorf("run %d of job %s: phase %q is none of a run's phases", in.Run, in.JobID, in.Phase)
	}
	return RunResult{Status: end.Status}, nil
}

// fail makes the job InError, with what the failed activity said.
func fail(ctx workflow.Context, in RunInput, phase smc.BusinessStatus, cause error) (RunResult, error) {
	code, info := explain(cause)
	var jobs *activities.Jobs
	err := workflow.ExecuteActivity(onCenter(ctx), jobs.Fail, activities.FailInput{
		JobID: in.JobID, Run: in.Run, Lap: in.Lap, Code: code,
		Key:  fmt.Sprintf("run/%d/%d/fail", in.Run, in.Lap),
		Info: fmt.Sprintf("%s failed: %s", phase, info),
	}).Get(ctx, nil)
	if errorType(err) == activities.TypeSuperseded {
		return RunResult{}, nil
	}
	if err != nil {
		return RunResult{}, err
	}
	return RunResult{Status: smc.StatusInError}, nil
}

// explain returns the SMC code and the message of an activity's failure.
func explain(err error) (code, message string) {
	var application *temporal.ApplicationError
	if errors.As(err, &application) {
		return application.Type(), application.Message()
	}
	var timeout *temporal.TimeoutError
	if errors.As(err, &timeout) {
		return smc.CodeTransitionHostUnavailable, "the transition host did not answer in time; start the job again when it is back"
	}
	return smc.CodeInternalError, err.Error()
}

// errorType returns the type of the application error in err, or "".
func errorType(err error) string {
	var application *temporal.ApplicationError
	if errors.As(err, &application) {
		return application.Type()
	}
	return ""
}
