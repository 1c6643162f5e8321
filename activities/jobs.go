// Package activities holds the side effects of the workflows, one struct per collaborator: Jobs writes the store,
// Replication works the data plane of a transition host.
//
// Activities do; they do not decide. Every one may be run again after a crash at any point: what it wrote is keyed, so
// that the second attempt finds it done.
package activities

import (
	"context"
	"errors"

	"go.temporal.io/sdk/temporal"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
)

// QueueCenter is the task queue of the center's workflows and of the activities of Jobs.
const QueueCenter = "center"

// Jobs holds the activities that move a job in the store.
type Jobs struct{ Store *store.Store }

// StartRunInput asks for a job to become Running.
type StartRunInput struct {
	JobID   string
	Key     string      // idempotency key of the transition
	Trigger smc.Trigger // what starts it: decides from which statuses it may
	Type    smc.RunType
	CutOver store.CutOver // intent to record, if any
}

// StartRun makes a job Running and says which run goes on from which phase, on which host.
func (a *Jobs) StartRun(ctx context.Context, in StartRunInput) (*store.RunStart, error) {
	start, err := a.Store.StartRun(ctx, in.JobID, in.Key, in.Trigger, in.Type, in.CutOver)
	return start, applicationError(err)
}

// StartDueRun is StartRun at a time that has come. A source that is Unavailable is waited for (CONTRACT: a start that is
// due while the source is Unavailable): that failure is retried.
func (a *Jobs) StartDueRun(ctx context.Context, in StartRunInput) (*store.RunStart, error) {
	start, err := a.Store.StartRun(ctx, in.JobID, in.Key, in.Trigger, in.Type, in.CutOver)
	if code := smc.CodeOf(err); code == smc.CodeSourceServerStateInvalid || code == smc.CodeTransitionHostUnavailable {
		return nil, temporal.NewApplicationError(err.Error(), code)
	}
	return start, applicationError(err)
}

// MoveInput names a job and the idempotency key of its transition.
type MoveInput struct {
	JobID string
	Key   string
}

// Stop makes a Syncing job Stopped; no writer is left when it returns.
func (a *Jobs) Stop(ctx context.Context, in MoveInput) error {
	return applicationError(a.Store.Stop(ctx, in.JobID, in.Key))
}

// FinishCutOver makes a Waiting job Finished with the images it has.
func (a *Jobs) FinishCutOver(ctx context.Context, in MoveInput) error {
	return applicationError(a.Store.FinishCutOver(ctx, in.JobID, in.Key))
}

// BeginDelete makes a job Deleting.
func (a *Jobs) BeginDelete(ctx context.Context, in MoveInput) error {
	return applicationError(a.Store.BeginDelete(ctx, in.JobID, in.Key))
}

// EndDelete removes a job whose transition resources are released.
func (a *Jobs) EndDelete(ctx context.Context, in MoveInput) error {
	return applicationError(a.Store.EndDelete(ctx, in.JobID, in.Key))
}

// Modify changes what a ModifyReplicationJobAttribute call gives and returns when the job is due from now on.
func (a *Jobs) Modify(ctx context.Context, in smc.ModifyReplicationJobAttributeRequest) (*store.Schedule, error) {
	schedule, err := a.Store.ModifyJob(ctx, in)
	return schedule, applicationError(err)
}

// FailInput says why a run failed for good.
type FailInput struct {
	JobID string
	Key   string
	Run   int
	Code  string // SMC code
	Info  string // what a person can do about it
}

// Fail makes a Running job InError.
func (a *Jobs) Fail(ctx context.Context, in FailInput) error {
	return applicationError(a.Store.Fail(ctx, in.JobID, in.Key, in.Run, in.Code, in.Info))
}

// JobState is what the store holds of a job's course.
type JobState struct {
	Status         smc.JobStatus
	BusinessStatus smc.BusinessStatus // the phase reached
	Run            int
	Lap            int64  // number of the job's last transition
	HostID         string // transition host that holds its staging; empty when released
}

// State reads a job. A job that is gone is Deleting: nothing is left but to end.
func (a *Jobs) State(ctx context.Context, jobID string) (*JobState, error) {
	job, err := a.Store.JobByID(ctx, jobID)
	if errors.Is(err, store.ErrNotFound) {
		return &JobState{Status: smc.StatusDeleting}, nil
	}
	if err != nil {
		return nil, applicationError(err)
	}
	return &JobState{Status: job.Status, BusinessStatus: job.BusinessStatus, Run: job.Run, Lap: job.Sequence, HostID: job.HostID}, nil
}
