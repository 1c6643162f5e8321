package center

import (
	"context"
	"errors"
	"fmt"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/drover/drover/activities"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/workflows"
)

// updateTimeout is how long a call waits for a job's entity to move it.
const updateTimeout = 20 * time.Second

// TemporalEngine moves jobs through their entity workflows.
type TemporalEngine struct {
	Client client.Client
	// Namespace is that of Client.
	Namespace string
	Store     *store.Store
}

var _ Engine = (*TemporalEngine)(nil)

// Begin implements Engine.
func (t *TemporalEngine) Begin(ctx context.Context, jobID string) error {
	job, err := t.Store.JobByID(ctx, jobID)
	if err != nil {
		return fmt.Errorf("begin job %s: %w", jobID, err)
	}
	options := startOptions(job)
	options.WorkflowIDConflictPolicy = enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING
	// JobIds are never reused: an entity that closed is that of a job that is gone.
	options.WorkflowIDReusePolicy = enumspb.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE
	_, err = t.Client.ExecuteWorkflow(ctx, options, workflows.ReplicationJob, entityInput(job))
	var closed *serviceerror.WorkflowExecutionAlreadyStarted
	if err != nil && !errors.As(err, &closed) {
		return fmt.Errorf("start the entity of job %s: %w", jobID, err)
	}
	return t.Store.MarkWorkflowStarted(ctx, jobID)
}

// entityInput is what the entity of a job starts from, also in a Temporal that knows nothing of the job.
func entityInput(job *store.Job) workflows.JobInput {
	input := workflows.JobInput{
		JobID: job.JobID, Status: job.Status, BusinessStatus: job.BusinessStatus, Run: job.Run, Lap: job.RunLap(),
		HostID: job.HostID, Schedule: *job.Schedule(),
	}
	if job.Status == smc.StatusFinished || job.Status == smc.StatusExpired || job.Status == smc.StatusDeleting {
		input.HostID, input.ReleaseHost = "", job.HostID
	}
	return input
}

// Update implements Engine. The end of a run is in the store a moment before the entity knows of it: an entity that
// refuses what the store allows is asked again until it does.
func (t *TemporalEngine) Update(ctx context.Context, jobID, update, requestID string, argument any) error {
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	var why string
	late := func() error {
		return fmt.Errorf("%w: %w", ctx.Err(), smc.Errorf(smc.CodeServiceUnavailable,
			"%s of job %s was not carried out: %s within %s; send it again", update, jobID, why, updateTimeout))
	}
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		err := t.ask(ctx, jobID, update, requestID, argument)
		switch smc.CodeOf(err) {
		case workflows.TypeContinuesAsNew:
			why = "its workflow has not taken it" // its next run takes the request
		case typeNotReady:
			why = "the steps of its workflow fail, or the worker that takes them hangs (drover doctor tells which), and it has not taken it"
		case typeNoEntity:
			why = "its workflow was ended from outside, or is just being replaced (drover doctor tells which), and there was no other one"
		case smc.CodeReplicationJobInvalidStatus:
			job, lookErr := t.Store.JobByID(ctx, jobID)
			switch {
			case errors.Is(lookErr, store.ErrNotFound):
				return smc.Errorf(smc.CodeInvalidJobIDNotFound, "replication job %s is gone", jobID)
			case lookErr != nil && ctx.Err() != nil && why != "":
				return late()
			case lookErr != nil:
				// Whether the entity is right or behind, only the record could tell.
				return fmt.Errorf("%s of job %s was not carried out, and its record cannot be read: %w", update, jobID, lookErr)
			}
			state := smc.JobState{Status: job.Status, BusinessStatus: job.BusinessStatus, Queued: job.Queued()}
			if refusal := smc.Allowed(smc.Trigger(update), state); refusal != nil {
				if code := smc.CodeOf(refusal); code != smc.CodeReplicationJobInvalidStatus { // the entity does not know yet that the job runs
					return smc.Errorf(code, "job %s: %s", jobID, smc.AsError(refusal).Message)
				}
				return err
			}
			if state.Queued { // an entity that does not know of it learns so
				_ = t.ask(ctx, jobID, workflows.UpdateAdmit, newRequestID(), workflows.AdmitRequest{Ticket: job.Queue.Ticket})
			}
			why = fmt.Sprintf("the job is %s, and its workflow has not heard of it", job.Status)
		default:
			if err != nil && smc.CodeOf(err) == "" && ctx.Err() != nil && why != "" {
				return late() // which cut the last try off
			}
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return late()
		}
	}
}

// How long Update waits for an entity that is behind the store, at first and at most.
const (
	firstPause   = 10 * time.Millisecond
	longestPause = 500 * time.Millisecond
)

// typeNotReady is the code of what Temporal says of an entity whose steps have failed, or were not answered, several times: it takes no update
// until one succeeds.
const typeNotReady = "NotReady"

// typeNoEntity is the code of what is asked of the entity of a job that was ended before its job is gone.
const typeNoEntity = "NoEntity"

// ask asks the entity of a job once, and starts the entity if it is missing.
func (t *TemporalEngine) ask(ctx context.Context, jobID, update, requestID string, argument any) error {
	err := t.update(ctx, jobID, update, requestID, argument)
	var missing *serviceerror.NotFound
	if errors.As(err, &missing) {
		// The job is in the store, its entity is not in Temporal yet: what the sweep would do is done now.
		switch err = t.Begin(ctx, jobID); {
		case errors.Is(err, store.ErrNotFound): // deleted meanwhile
			return smc.Errorf(smc.CodeInvalidJobIDNotFound, "replication job %s is gone", jobID)
		case err != nil:
			return err
		}
		err = t.update(ctx, jobID, update, requestID, argument)
	}
	var refusal *temporal.ApplicationError
	var notReady *serviceerror.WorkflowNotReady
	switch {
	case err == nil:
		return nil
	case errors.As(err, &notReady):
		return smc.Errorf(typeNotReady, "%s of job %s: %s", update, jobID, notReady.Message)
	case errors.As(err, &refusal):
		return smc.Errorf(refusal.Type(), "%s", refusal.Message())
	case errors.As(err, &missing):
		switch _, err := t.Store.JobByID(ctx, jobID); {
		case errors.Is(err, store.ErrNotFound):
			return smc.Errorf(smc.CodeInvalidJobIDNotFound, "replication job %s is gone", jobID)
		case err != nil:
			return fmt.Errorf("%s of job %s: %w", update, jobID, err)
		}
		return smc.Errorf(typeNoEntity, "%s of job %s: its workflow is closed", update, jobID)
	case ctx.Err() != nil:
		return fmt.Errorf("%w: %w", err, smc.Errorf(smc.CodeServiceUnavailable,
			"%s of job %s was not answered within %s: check that a worker with the role center runs; DescribeReplicationJobs tells what became of it", update, jobID, updateTimeout))
	}
	return fmt.Errorf("%s of job %s: %w", update, jobID, err)
}

func (t *TemporalEngine) update(ctx context.Context, jobID, update, requestID string, argument any) error {
	handle, err := t.Client.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{
		WorkflowID: workflows.JobID(jobID), UpdateName: update, UpdateID: requestID, Args: []any{argument},
		WaitForStage: client.WorkflowUpdateStageCompleted,
	})
	if err != nil {
		return err
	}
	return handle.Get(ctx, nil)
}

// WakeDueStart implements Engine. It leaves nothing in the entity's history.
func (t *TemporalEngine) WakeDueStart(ctx context.Context, jobID string) error {
	_, err := t.Client.WorkflowService().ResetActivity(ctx, &workflowservice.ResetActivityRequest{
		Namespace: t.Namespace, Execution: &commonpb.WorkflowExecution{WorkflowId: workflows.JobID(jobID)},
		Activity: &workflowservice.ResetActivityRequest_Type{Type: activities.NameStartDueRun},
	})
	var none *serviceerror.NotFound
	var old *serviceerror.Unimplemented
	switch {
	case errors.As(err, &none): // it moved meanwhile
		return nil
	case errors.As(err, &old):
		return fmt.Errorf("the Temporal server is older than 1.28 and cannot have an activity tried early: %w", err)
	case err != nil:
		return fmt.Errorf("wake the due start of job %s: %w", jobID, err)
	}
	return nil
}
