// Package activities holds the side effects of the workflows, one struct per collaborator: Jobs writes the store,
// Replication works the data plane of a transition host.
//
// Activities do; they do not decide. Every one may be run again after a crash at any point: what it wrote is keyed, so
// that the second attempt finds it done.
package activities

import (
	"context"
	"errors"
	"time"

	"go.temporal.io/sdk/activity"
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

// StartDueRunInput asks for a job to become Running because its time has come.
type StartDueRunInput struct {
	JobID string
	Key   string    // idempotency key of the transition
	Due   time.Time // when the start was due
}

// NameStartDueRun is the name of StartDueRun in Temporal.
const NameStartDueRun = "StartDueRun"

// StartDueRun is StartRun at a time that has come. A source that is Unavailable and a transition host that is not there are
// waited for (CONTRACT: a start that is due while the source is Unavailable): these failures are retried, at intervals that this activity
// chooses. The center has it tried at once when what it waits for is back.
func (a *Jobs) StartDueRun(ctx context.Context, in StartDueRunInput) (*store.RunStart, error) {
	start, err := a.Store.StartDueRun(ctx, in.JobID, in.Key, in.Due)
	var waits *store.WaitError
	if errors.As(err, &waits) {
		// Benign: it is no failure that is to be logged at every try of every job.
		return nil, temporal.NewApplicationErrorWithOptions(err.Error(), smc.CodeOf(err), temporal.ApplicationErrorOptions{
			Category: temporal.ApplicationErrorCategoryBenign, NextRetryDelay: untilNextTry(activity.GetInfo(ctx).Attempt, waits.UntilPoint),
		})
	}
	return start, applicationError(err)
}

// How long a due start that waits is left alone after a try: it doubles from the first to the last.
const (
	firstDuePause = 30 * time.Second
	lastDuePause  = 10 * time.Minute
)

// untilNextTry is how long a due start waits after its nth try. The next point of the grid is not slept over: what waits changes there,
// and is not to be taken for a point that nobody looked at.
func untilNextTry(n int32, untilPoint time.Duration) time.Duration {
	pause := lastDuePause
	if doublings := n - 1; doublings < 5 {
		pause = min(firstDuePause<<doublings, lastDuePause)
	}
	if untilPoint > 0 {
		pause = min(pause, untilPoint+time.Second)
	}
	return pause
}

// AdmitInput names a place in the queue of jobs that wait for a running slot.
type AdmitInput struct {
	JobID  string
	Ticket int64
}

// Admit makes a queued job Running if its turn has come; else it stays queued, as the answer says. A job that no longer has
// that place is Superseded.
func (a *Jobs) Admit(ctx context.Context, in AdmitInput) (*store.RunStart, error) {
	start, err := a.Store.Admit(ctx, in.JobID, in.Ticket)
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

// Modify changes what a ModifyReplicationJobAttribute call gives and returns when the job moves by itself from now on.
func (a *Jobs) Modify(ctx context.Context, in smc.ModifyReplicationJobAttributeRequest) (*store.Schedule, error) {
	schedule, err := a.Store.ModifyJob(ctx, in)
	return schedule, applicationError(err)
}

// ExpireInput names a job whose ValidTime has passed.
type ExpireInput struct {
	JobID string
	Key   string    // idempotency key of the transition
	AsOf  time.Time // when its entity saw that it had
}

// Expire makes a job Expired and returns when it is cleared. A job that is not to expire (any more) is Superseded.
func (a *Jobs) Expire(ctx context.Context, in ExpireInput) (*store.Schedule, error) {
	schedule, err := a.Store.Expire(ctx, in.JobID, in.Key, in.AsOf)
	return schedule, applicationError(err)
}

// FailInput says why a run failed for good.
type FailInput struct {
	JobID string
	Key   string
	Run   int
	Lap   int64  // number of the transition that started or resumed the run
	Code  string // SMC code
	Info  string // what a person can do about it
}

// Fail makes a Running job InError.
func (a *Jobs) Fail(ctx context.Context, in FailInput) error {
	return applicationError(a.Store.Fail(ctx, in.JobID, in.Key, in.Run, in.Code, in.Info, store.InLap(in.Lap)))
}

// JobState is what the store holds of a job's course.
type JobState struct {
	Status         smc.JobStatus
	BusinessStatus smc.BusinessStatus // the phase reached
	Run            int
	Lap            int64  // number of the transition that started or resumed the run
	HostID         string // transition host that holds its staging; empty when released
	Schedule       store.Schedule
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
	return &JobState{Status: job.Status, BusinessStatus: job.BusinessStatus, Run: job.Run, Lap: job.RunLap(), HostID: job.HostID, Schedule: *job.Schedule()}, nil
}
