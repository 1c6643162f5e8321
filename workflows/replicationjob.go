// Package workflows holds the deterministic half of the center: what happens when to a replication job. Every side
// effect is an activity; the store, not a workflow, is the record (DESIGN: Decisions).
package workflows

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/drover/drover/activities"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
)

// Names of the updates an entity takes. Each is one operation of the API.
const (
	UpdateStart   = "Start"
	UpdateStop    = "Stop"
	UpdateCutOver = "CutOver"
	UpdateRun     = "Run"
	UpdateDelete  = "Delete"
	UpdateModify  = "Modify"
)

// QueryState asks an entity for its JobInput: what it takes its job to be. It is for drover doctor, which compares it with the record.
const QueryState = "State"

// UpdateAdmit tells a job that is queued that a running slot may be free for it. It comes from the center itself.
const UpdateAdmit = "Admit"

// AdmitRequest is the argument of UpdateAdmit: the ticket of the job's place in the queue.
type AdmitRequest struct{ Ticket int64 }

// UpdateID returns the id of an update for an attempt at a request that is sent again under one name. Attempts have ids of their own because
// Temporal gives every update of one id the first one's outcome, also a refusal whose cause has passed.
func UpdateID(request, attempt string) string { return request + "#" + attempt }

// RequestOf returns the request that an update carries out: it is carried out once. An id that names no attempt is the request.
func RequestOf(updateID string) string {
	if at := strings.LastIndexByte(updateID, '#'); at >= 0 {
		return updateID[:at]
	}
	return updateID
}

// JobID returns the workflow id of a job's entity: job/<JobId>.
func JobID(jobID string) string { return "job/" + jobID }

// JobInput is the state of an entity: what it starts from, continues as new with, and is rebuilt with from the store.
type JobInput struct {
	JobID          string
	Status         smc.JobStatus
	BusinessStatus smc.BusinessStatus // the phase to go on from
	Run            int
	Lap            int64 // number of the transition that started or resumed the run
	HostID         string
	// ReleaseHost is the host whose staging of the job is still to be removed.
	ReleaseHost string
	// Schedule is when the job moves by itself.
	Schedule store.Schedule
	// Requests are the ids of the latest updates that were carried out. Temporal deduplicates update ids within one
	// run of a workflow only; these carry it over continue-as-new.
	Requests []string
}

// How many request ids an entity remembers. A client that got no answer asks again within its retries, so a few are
// enough; the store's transition keys catch the rest.
const rememberedRequests = 32

// An entity continues as new when it rests and its history has grown to this many events, or when the server
// suggests it.
const restingHistory = 120

// maxUpdates is how many updates one run of an entity takes before it refuses those that change nothing but a job's
// attributes. Temporal takes 2,000, and a job that is Running cannot continue as new: the rest is for Stop and whatever else
// moves the job.
const maxUpdates = 1500

// TypeContinuesAsNew is the type of the refusal of an update that came as the entity was about to continue as new: it left no
// trace, and is to be sent again under the same id. Without it a job that gets updates all the time would never get to it.
const TypeContinuesAsNew = "ContinuesAsNew"

// CutOverRequest is the argument of UpdateCutOver.
type CutOverRequest struct{ SyncData bool }

// entity is a job that is not gone.
type entity struct {
	JobInput
	// mutex lets one handler at a time move the job.
	mutex workflow.Mutex
	// cancelRun ends the run that is going, if one is.
	cancelRun workflow.CancelFunc
	// due is the start that is awaited or attempted, if one is.
	due *dueStart
	// changed says that what the job waits for may have changed.
	changed bool
	// updates counts the updates that this run of the entity has taken.
	updates int
}

// dueStart is a start by itself, from the wait for its time to the outcome of the attempt.
type dueStart struct {
	cancel workflow.CancelFunc
	done   bool
}

// ReplicationJob is a replication job from its creation until it is gone. It serves the updates of the API, starts a
// run when one is asked for or due, and waits.
func ReplicationJob(ctx workflow.Context, in JobInput) error {
	e := &entity{JobInput: in, mutex: workflow.NewMutex(ctx)}
	if err := e.serve(ctx); err != nil {
		return err
	}
	for {
		switch {
		case e.Status == smc.StatusRunning:
			if err := e.run(ctx); err != nil {
				return err
			}
		case e.released():
			return e.endDelete(ctx)
		case e.lapsed(ctx):
			if err := e.lapse(ctx); err != nil {
				return err
			}
		case e.continues(ctx):
			if err := workflow.Await(ctx, func() bool { return workflow.AllHandlersFinished(ctx) }); err != nil {
				return err
			}
			if e.continues(ctx) {
				return workflow.NewContinueAsNewError(ctx, ReplicationJob, e.JobInput)
			}
		default:
			if err := e.rest(ctx); err != nil {
				return err
			}
		}
	}
}

// released reports whether nothing is left of a job that is being deleted but its row.
func (e *entity) released() bool { return e.Status == smc.StatusDeleting && e.ReleaseHost == "" }

// continues reports whether the entity is about to continue as new. It takes no update any more: the next run does.
func (e *entity) continues(ctx workflow.Context) bool {
	return e.Status != smc.StatusRunning && !e.released() && e.historyFull(ctx)
}

func (e *entity) historyFull(ctx workflow.Context) bool {
	info := workflow.GetInfo(ctx)
	return info.GetContinueAsNewSuggested() || info.GetCurrentHistoryLength() > restingHistory
}

// rest waits until there is something to do. Meanwhile a start that is due is attempted and the staging that is to go is
// released, both without history while they wait: for the source, or for the host.
func (e *entity) rest(ctx workflow.Context) error {
	e.changed = false
	resting, cancel := workflow.WithCancel(ctx)
	defer cancel()
	e.awaitDue(resting)
	var lapse workflow.Future
	if at, ok := e.Schedule.Lapse(e.Status); ok {
		lapse = workflow.NewTimer(resting, at.Sub(workflow.Now(ctx)))
	}
	if e.ReleaseHost != "" {
		e.release(resting)
	}
	err := workflow.Await(ctx, func() bool {
		if e.Status == smc.StatusRunning || e.released() || lapse != nil && lapse.IsReady() || e.historyFull(ctx) {
			return true
		}
		return e.changed && !e.mutex.IsLocked()
	})
	cancel()
	e.withdrawDue(ctx)
	return err
}

// awaitDue starts the next due run when its time comes, in the background. While the source is Unavailable the start
// is attempted again and again by the activity's retries, which leave no history; how often, the activity says.
func (e *entity) awaitDue(ctx workflow.Context) {
	at, ok := e.Schedule.Due(e.Status)
	if !ok {
		return
	}
	ctx, cancel := workflow.WithCancel(ctx)
	due := &dueStart{cancel: cancel}
	e.due = due
	workflow.Go(ctx, func(ctx workflow.Context) {
		defer func() { due.done = true }()
		if err := workflow.Sleep(ctx, at.Sub(workflow.Now(ctx))); err != nil {
			return
		}
		// An update that came with the entity's first task is at work since before this start was set, and could not withdraw it. What is due
		// after it, the next rest looks at.
		if err := workflow.Await(ctx, func() bool { return !e.mutex.IsLocked() }); err != nil || e.changed {
			return
		}
		if e.lapsed(ctx) {
			return // expiry beats a due run
		}
		options := workflow.GetActivityOptions(onCenter(ctx))
		options.WaitForCancellation = true // a start that is under way is let finish: its outcome must be known
		options.RetryPolicy = &temporal.RetryPolicy{InitialInterval: 30 * time.Second, BackoffCoefficient: 1}
		var jobs *activities.Jobs
		var start store.RunStart
		err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, options), jobs.StartDueRun, activities.StartDueRunInput{
			JobID: e.JobID, Key: "due/" + at.UTC().Format(time.RFC3339), Due: at,
		}).Get(ctx, &start)
		if err == nil {
			e.started(start)
			return
		}
		if !temporal.IsCanceledError(err) {
			workflow.GetLogger(ctx).Error("a due run was not started", "due", at, "error", err)
		}
		// The store knows better than the entity what may be started, or has started it for an attempt whose answer was lost. One
		// that was withdrawn may have been, too.
		ctx, cancel := workflow.NewDisconnectedContext(ctx)
		defer cancel()
		if err := e.adopt(ctx); err == nil {
			e.changed = true
		}
	})
}

// withdrawDue ends the attempt at a due start and waits until its outcome is known.
func (e *entity) withdrawDue(ctx workflow.Context) {
	if e.due == nil {
		return
	}
	due := e.due
	due.cancel()
	_ = workflow.Await(ctx, func() bool { return due.done }) // ends only with the workflow itself
	if e.due == due {
		e.due = nil
	}
}

// lapsed reports whether the job's time is over: it is to expire, or to be cleared after it did.
func (e *entity) lapsed(ctx workflow.Context) bool {
	at, ok := e.Schedule.Lapse(e.Status)
	return ok && !at.After(workflow.Now(ctx))
}

// lapse expires a job whose ValidTime has passed, and clears one that has been Expired for long enough (CONTRACT: ValidTime).
func (e *entity) lapse(ctx workflow.Context) error {
	if err := e.mutex.Lock(ctx); err != nil {
		return err
	}
	defer e.mutex.Unlock()
	switch {
	case !e.lapsed(ctx):
		return nil
	case e.Status != smc.StatusExpired:
		return e.expire(ctx)
	}
	var jobs *activities.Jobs
	err := workflow.ExecuteActivity(onCenter(ctx), jobs.BeginDelete, activities.MoveInput{JobID: e.JobID, Key: "cleared"}).Get(ctx, nil)
	if errorType(err) != "" {
		return e.adopt(ctx)
	}
	if err != nil {
		return err
	}
	e.end(smc.StatusDeleting)
	return nil
}

// expire makes the job Expired. Its caller holds the mutex.
func (e *entity) expire(ctx workflow.Context) error {
	var jobs *activities.Jobs
	var schedule store.Schedule
	err := workflow.ExecuteActivity(onCenter(ctx), jobs.Expire, activities.ExpireInput{
		JobID: e.JobID, Key: "expired", AsOf: workflow.Now(ctx),
	}).Get(ctx, &schedule)
	if errorType(err) != "" {
		return e.adopt(ctx) // another ValidTime holds, or the job is Running: the store is right
	}
	if err != nil {
		return err
	}
	e.Schedule = schedule
	e.end(smc.StatusExpired)
	return nil
}

// end takes over a status in which the job has no more runs: its transition resources are released.
func (e *entity) end(status smc.JobStatus) {
	e.Status, e.Schedule.Queued = status, 0
	if e.HostID != "" {
		e.ReleaseHost, e.HostID = e.HostID, ""
	}
}

// serve registers the handlers. The status rules are their validators, so that a refusal writes no history; the
// rules that need the store are in the store's transitions.
func (e *entity) serve(ctx workflow.Context) error {
	var jobs *activities.Jobs
	move := func(activity any, done func()) func(workflow.Context, string) error {
		return func(ctx workflow.Context, key string) error {
			err := workflow.ExecuteActivity(onCenter(ctx), activity, activities.MoveInput{JobID: e.JobID, Key: key}).Get(ctx, nil)
			if err == nil {
				done()
			}
			return err
		}
	}
	start := func(ctx workflow.Context, key string, trigger smc.Trigger, cutOver store.CutOver) error {
		var start store.RunStart
		err := workflow.ExecuteActivity(onCenter(ctx), jobs.StartRun, activities.StartRunInput{
			JobID: e.JobID, Key: key, Trigger: trigger, Type: smc.RunManual, CutOver: cutOver,
		}).Get(ctx, &start)
		if err == nil {
			e.started(start)
		}
		return err
	}
	stop := move(jobs.Stop, func() {
		if e.Status != smc.StatusRunning {
			return // a start that was queued is withdrawn
		}
		e.Status = smc.StatusStopped
		if e.cancelRun != nil {
			e.cancelRun()
		}
	})
	finish := move(jobs.FinishCutOver, func() { e.end(smc.StatusFinished) })
	remove := move(jobs.BeginDelete, func() { e.end(smc.StatusDeleting) })

	return errors.Join(
		workflow.SetQueryHandler(ctx, QueryState, func() (JobInput, error) { return e.JobInput, nil }),
		handle(ctx, e, UpdateStart, smc.TriggerStart, func(ctx workflow.Context, key string, _ struct{}) error {
			return start(ctx, key, smc.TriggerStart, store.CutOverNone)
		}),
		handle(ctx, e, UpdateRun, smc.TriggerRun, func(ctx workflow.Context, key string, _ struct{}) error {
			return start(ctx, key, smc.TriggerRun, store.CutOverNone)
		}),
		handle(ctx, e, UpdateStop, smc.TriggerStop, func(ctx workflow.Context, key string, _ struct{}) error {
			queued := e.Schedule.Queued != 0
			if err := stop(ctx, key); err != nil || !queued {
				return err
			}
			return e.adopt(ctx) // what it waits for without it, the store knows
		}),
		e.takeAdmissions(ctx),
		handle(ctx, e, UpdateCutOver, smc.TriggerCutOver, func(ctx workflow.Context, key string, in CutOverRequest) error {
			if in.SyncData {
				return start(ctx, key, smc.TriggerCutOver, store.CutOverSyncData)
			}
			return finish(ctx, key)
		}),
		// Name and Description may change in any status; what else may, the store knows, which holds the job's parameters.
		handle(ctx, e, UpdateModify, smc.TriggerModifyName, func(ctx workflow.Context, _ string, in smc.ModifyReplicationJobAttributeRequest) error {
			var schedule store.Schedule
			if err := workflow.ExecuteActivity(onCenter(ctx), jobs.Modify, in).Get(ctx, &schedule); err != nil {
				return err
			}
			e.Schedule = schedule
			return nil
		}),
		handle(ctx, e, UpdateDelete, smc.TriggerDelete, func(ctx workflow.Context, key string, _ struct{}) error { return remove(ctx, key) }),
	)
}

// handle registers the handler of one update. do gets the key its transition is written under.
func handle[In any](ctx workflow.Context, e *entity, name string, trigger smc.Trigger, do func(workflow.Context, string, In) error) error {
	validate := func(ctx workflow.Context, _ In) error {
		if slices.Contains(e.Requests, RequestOf(workflow.GetCurrentUpdateInfo(ctx).ID)) {
			return nil
		}
		if e.continues(ctx) {
			return temporal.NewNonRetryableApplicationError("job "+e.JobID+": its entity continues as new, ask again", TypeContinuesAsNew, nil)
		}
		if err := e.hasRoom(name); err != nil {
			return err
		}
		return e.allowed(trigger)
	}
	return workflow.SetUpdateHandlerWithOptions(ctx, name, func(ctx workflow.Context, in In) error {
		request := RequestOf(workflow.GetCurrentUpdateInfo(ctx).ID)
		e.updates++
		if err := e.mutex.Lock(ctx); err != nil {
			return err
		}
		defer e.leave()
		e.withdrawDue(ctx)
		if slices.Contains(e.Requests, request) {
			return nil
		}
		if e.lapsed(ctx) && e.Status != smc.StatusExpired {
			if err := e.expire(ctx); err != nil {
				return err
			}
		}
		// The job may have moved while this request waited for its turn.
		if err := e.allowed(trigger); err != nil {
			return err
		}
		if err := do(ctx, "update/"+request, in); err != nil {
			var application *temporal.ApplicationError
			if errors.As(err, &application) {
				if application.Type() == smc.CodeReplicationJobInvalidStatus {
					// The entity allowed what the store refused: the store is right.
					if err := e.adopt(ctx); err != nil {
						return err
					}
				}
				return application // without the wrapping of the activity: its type is the SMC code
			}
			return err
		}
		e.Requests = append(e.Requests, request)
		e.Requests = e.Requests[max(0, len(e.Requests)-rememberedRequests):]
		return nil
	}, workflow.UpdateHandlerOptions{Validator: validate})
}

// takeAdmissions registers the handler of UpdateAdmit. A tell that comes too early, too late or twice changes nothing: the
// store admits each place in the queue once, when its turn has come.
func (e *entity) takeAdmissions(ctx workflow.Context) error {
	stale := func(in AdmitRequest) bool {
		switch e.Status {
		case smc.StatusReady, smc.StatusStopped, smc.StatusInError, smc.StatusWaiting:
			return e.Schedule.Queued > in.Ticket
		case smc.StatusRunning, smc.StatusFinished, smc.StatusExpired, smc.StatusDeleting:
		}
		return true
	}
	return workflow.SetUpdateHandlerWithOptions(ctx, UpdateAdmit, func(ctx workflow.Context, in AdmitRequest) error {
		e.updates++
		if err := e.mutex.Lock(ctx); err != nil {
			return err
		}
		defer e.leave()
		e.withdrawDue(ctx)
		if stale(in) {
			return nil
		}
		if e.lapsed(ctx) {
			return e.expire(ctx)
		}
		var jobs *activities.Jobs
		var start store.RunStart
		err := workflow.ExecuteActivity(onCenter(ctx), jobs.Admit, activities.AdmitInput{JobID: e.JobID, Ticket: in.Ticket}).Get(ctx, &start)
		if errorType(err) == activities.TypeSuperseded {
			return e.adopt(ctx)
		}
		if err == nil {
			e.started(start)
		}
		return err
	}, workflow.UpdateHandlerOptions{Validator: func(_ workflow.Context, in AdmitRequest) error {
		if stale(in) { // a refusal leaves no history
			return temporal.NewNonRetryableApplicationError(fmt.Sprintf("job %s is %s and does not wait for a running slot", e.JobID, e.Status), activities.TypeSuperseded, nil)
		}
		return nil
	}})
}

// leave ends a handler. What the job waits for is looked at again, also when the update came to nothing: the start that it
// withdrew is to be set again.
func (e *entity) leave() {
	e.changed = true
	e.mutex.Unlock()
}

// hasRoom refuses a change of attributes that would take the room of what moves the job.
func (e *entity) hasRoom(update string) error {
	if update != UpdateModify || e.updates < maxUpdates || e.Status != smc.StatusRunning {
		return nil
	}
	return temporal.NewNonRetryableApplicationError(fmt.Sprintf(
		"job %s was changed %d times since its run began: change it again when the run has ended; Stop works", e.JobID, e.updates), smc.CodeThrottlingUser, nil)
}

// allowed applies the table of job states. The phase of a run is the store's to judge: the entity does not follow it.
func (e *entity) allowed(trigger smc.Trigger) error {
	state := smc.JobState{Status: e.Status, BusinessStatus: smc.BusinessSyncing, Queued: e.Schedule.Queued != 0}
	err := smc.Allowed(trigger, state)
	if err == nil {
		return nil
	}
	refusal := smc.AsError(err)
	return temporal.NewNonRetryableApplicationError("job "+e.JobID+": "+refusal.Message, refusal.Code, nil)
}

// started takes over what a start set in motion.
func (e *entity) started(start store.RunStart) {
	e.Schedule = start.Schedule
	if start.Queued != 0 || start.Over {
		e.changed = true
		return
	}
	e.Status, e.BusinessStatus, e.Run, e.Lap, e.HostID = smc.StatusRunning, start.BusinessStatus, start.Run, start.Lap, start.HostID
}

// run does the current run as a child workflow and takes over the status it ends with.
func (e *entity) run(ctx workflow.Context) error {
	lap := e.Lap
	childCtx, cancel := workflow.WithCancel(workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID: RunID(e.JobID, e.Run),
	}))
	defer cancel()
	e.cancelRun = cancel
	var result RunResult
	err := workflow.ExecuteChildWorkflow(childCtx, ReplicationRun, RunInput{
		JobID: e.JobID, Run: e.Run, Lap: lap, Phase: e.BusinessStatus, HostID: e.HostID,
	}).Get(ctx, &result)
	e.cancelRun = nil
	// An update may have moved the job in the store without knowing it yet (its activity's answer is on the way): a run
	// that ended because of it is judged after it.
	if err := e.mutex.Lock(ctx); err != nil {
		return err
	}
	defer e.mutex.Unlock()
	if e.Status != smc.StatusRunning || e.Lap != lap {
		return nil // stopped meanwhile, and perhaps started again
	}
	if err == nil && result.Status == "" {
		err = errors.New("the run was superseded, and nothing superseded it")
	}
	if err != nil {
		// The run's workflow itself broke (terminated, or a defect): its job must not look as if it went on.
		workflow.GetLogger(ctx).Error("run broke", "run", e.Run, "error", err)
		var jobs *activities.Jobs
		err := workflow.ExecuteActivity(onCenter(ctx), jobs.Fail, activities.FailInput{
			JobID: e.JobID, Run: e.Run, Lap: lap, Code: smc.CodeInternalError, Key: fmt.Sprintf("run/%d/%d/broken", e.Run, lap),
			Info: fmt.Sprintf("the workflow of run %d ended unexpectedly: %v. Start the job to resume it.", e.Run, err),
		}).Get(ctx, nil)
		if errorType(err) == activities.TypeSuperseded {
			return e.adopt(ctx) // it ended after its last transition
		}
		if err != nil {
			return err
		}
		result.Status = smc.StatusInError
	}
	e.Status = result.Status
	if e.Status == smc.StatusFinished {
		e.HostID = ""
	}
	return nil
}

// adopt takes over what the store holds of the job: the store is the record.
func (e *entity) adopt(ctx workflow.Context) error {
	var jobs *activities.Jobs
	var state activities.JobState
	if err := workflow.ExecuteActivity(onCenter(ctx), jobs.State, e.JobID).Get(ctx, &state); err != nil {
		return err
	}
	e.Schedule = state.Schedule
	if going := e.cancelRun != nil && e.Status == smc.StatusRunning; going && state.Status == smc.StatusRunning && state.Run == e.Run {
		return nil // the run that goes on is the one that the store has: only the entity resumes one
	}
	e.Status, e.BusinessStatus, e.Run, e.Lap, e.HostID = state.Status, state.BusinessStatus, state.Run, state.Lap, state.HostID
	if e.Status == smc.StatusFinished || e.Status == smc.StatusExpired || e.Status == smc.StatusDeleting {
		e.end(e.Status)
	}
	return nil
}

// release removes the staging of the job from the host that held it, in the background. It waits for that host as long as it
// takes, until ctx is done.
func (e *entity) release(ctx workflow.Context) {
	workflow.Go(ctx, func(ctx workflow.Context) {
		var replication *activities.Replication
		for {
			err := workflow.ExecuteActivity(onHost(ctx, e.ReleaseHost, time.Hour), replication.Release, e.JobID).Get(ctx, nil)
			if err == nil {
				e.ReleaseHost, e.changed = "", true
				return
			}
			if ctx.Err() != nil {
				return // the next rest begins it again: what is released already is no error
			}
			workflow.GetLogger(ctx).Error("the staging was not released, it is tried again", "host", e.ReleaseHost, "error", err)
			if workflow.Sleep(ctx, releaseAgain) != nil {
				return
			}
		}
	})
}

// releaseAgain is how long an entity waits after its host refused to release the staging.
const releaseAgain = time.Hour

// endDelete removes the job from the store; the entity ends with it.
func (e *entity) endDelete(ctx workflow.Context) error {
	var jobs *activities.Jobs
	err := workflow.ExecuteActivity(onCenter(ctx), jobs.EndDelete, activities.MoveInput{JobID: e.JobID, Key: store.KeyDeleted}).Get(ctx, nil)
	if err != nil {
		return err
	}
	return workflow.Await(ctx, func() bool { return workflow.AllHandlersFinished(ctx) })
}

// onCenter schedules activities that write the store. They are retried until the database answers.
func onCenter(ctx workflow.Context) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		TaskQueue:           activities.QueueCenter,
		StartToCloseTimeout: 30 * time.Second,
		RetryPolicy: &temporal.RetryPolicy{
			InitialInterval: 200 * time.Millisecond, BackoffCoefficient: 2, MaximumInterval: 30 * time.Second,
		},
	})
}
