// Package workflows holds the deterministic half of the center: what happens when to a replication job. Every side
// effect is an activity; the store, not a workflow, is the record (DESIGN: Decisions).
package workflows

import (
	"errors"
	"fmt"
	"slices"
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
	ReleaseHost      string
	Frequency        time.Duration // 0: a one-time job
	ScheduledStartAt time.Time     // zero: started by hand
	FirstStartAt     time.Time     // origin of the grid; zero before the first start
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

// CutOverRequest is the argument of UpdateCutOver.
type CutOverRequest struct{ SyncData bool }

// entity is a job that is not gone.
type entity struct {
	JobInput
	// mutex lets one handler at a time move the job.
	mutex workflow.Mutex
	// cancelRun ends the run that is going, if one is.
	cancelRun workflow.CancelFunc
	// due is the scheduled start that is being attempted, if one is.
	due *dueStart
	// rescheduled says that the times of due starts have changed.
	rescheduled bool
}

// dueStart is an attempt to start a run because its time has come.
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
		case e.ReleaseHost != "":
			if err := e.release(ctx); err != nil {
				return err
			}
		case e.Status == smc.StatusDeleting:
			return e.endDelete(ctx)
		case e.historyFull(ctx):
			e.withdrawDue(ctx)
			if err := workflow.Await(ctx, func() bool { return workflow.AllHandlersFinished(ctx) }); err != nil {
				return err
			}
			if e.resting() {
				return workflow.NewContinueAsNewError(ctx, ReplicationJob, e.JobInput)
			}
		default:
			if err := e.rest(ctx); err != nil {
				return err
			}
		}
	}
}

// resting reports whether there is nothing to do but wait.
func (e *entity) resting() bool {
	return e.Status != smc.StatusRunning && e.Status != smc.StatusDeleting && e.ReleaseHost == ""
}

func (e *entity) historyFull(ctx workflow.Context) bool {
	info := workflow.GetInfo(ctx)
	return info.GetContinueAsNewSuggested() || info.GetCurrentHistoryLength() > restingHistory
}

// rest waits until there is something to do; a start that is due meanwhile is attempted.
func (e *entity) rest(ctx workflow.Context) error {
	e.rescheduled = false
	e.awaitDue(ctx)
	armed := e.due != nil
	err := workflow.Await(ctx, func() bool {
		// An update that came to nothing (a refusal of the store, a request seen before) has withdrawn the due start all
		// the same: it is set again once no update is at work.
		withdrawn := armed && e.due == nil && !e.mutex.IsLocked()
		return !e.resting() || e.historyFull(ctx) || withdrawn || e.rescheduled && !e.mutex.IsLocked()
	})
	e.withdrawDue(ctx)
	return err
}

// nextDue returns when the job is to be started by itself: at its ScheduledStartTime, or at the next point of the grid
// (CONTRACT: Grid).
func (e *entity) nextDue(now time.Time) (time.Time, bool) {
	switch {
	case e.Status == smc.StatusReady && !e.ScheduledStartAt.IsZero():
		return e.ScheduledStartAt, true
	case e.Status == smc.StatusWaiting && e.Frequency > 0 && !e.FirstStartAt.IsZero():
		points := int64(now.Sub(e.FirstStartAt)/e.Frequency) + 1
		return e.FirstStartAt.Add(time.Duration(points) * e.Frequency), true
	}
	return time.Time{}, false
}

// awaitDue starts the next due run when its time comes, in the background. While the source is Unavailable the start
// is attempted again and again by the activity's retries, which leave no history.
func (e *entity) awaitDue(ctx workflow.Context) {
	at, ok := e.nextDue(workflow.Now(ctx))
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
		options := workflow.GetActivityOptions(onCenter(ctx))
		options.WaitForCancellation = true // a start that is under way is let finish: its outcome must be known
		options.RetryPolicy = &temporal.RetryPolicy{InitialInterval: 30 * time.Second, BackoffCoefficient: 1}
		var jobs *activities.Jobs
		var start store.RunStart
		err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, options), jobs.StartDueRun, activities.StartRunInput{
			JobID: e.JobID, Trigger: smc.TriggerSchedule, Type: smc.RunSchedule, Key: "due/" + at.UTC().Format(time.RFC3339),
		}).Get(ctx, &start)
		switch {
		case err == nil:
			e.started(ctx, start)
		case temporal.IsCanceledError(err):
		default:
			workflow.GetLogger(ctx).Error("a due run was not started", "due", at, "error", err)
			// The store knows better than the entity what may be started, or has started it for an attempt whose answer was
			// lost.
			if err := e.adopt(ctx); err == nil {
				e.rescheduled = e.Status == smc.StatusWaiting
			}
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
	start := func(trigger smc.Trigger, cutOver store.CutOver) func(workflow.Context, string) error {
		return func(ctx workflow.Context, key string) error {
			var start store.RunStart
			err := workflow.ExecuteActivity(onCenter(ctx), jobs.StartRun, activities.StartRunInput{
				JobID: e.JobID, Key: key, Trigger: trigger, Type: smc.RunManual, CutOver: cutOver,
			}).Get(ctx, &start)
			if err == nil {
				e.started(ctx, start)
			}
			return err
		}
	}
	stop := move(jobs.Stop, func() {
		e.Status = smc.StatusStopped
		if e.cancelRun != nil {
			e.cancelRun()
		}
	})
	finish := move(jobs.FinishCutOver, func() { e.Status, e.ReleaseHost, e.HostID = smc.StatusFinished, e.HostID, "" })
	remove := move(jobs.BeginDelete, func() { e.Status, e.ReleaseHost, e.HostID = smc.StatusDeleting, e.HostID, "" })

	return errors.Join(
		handle(ctx, e, UpdateStart, smc.TriggerStart, func(ctx workflow.Context, key string, _ struct{}) error {
			return start(smc.TriggerStart, store.CutOverNone)(ctx, key)
		}),
		handle(ctx, e, UpdateRun, smc.TriggerRun, func(ctx workflow.Context, key string, _ struct{}) error {
			return start(smc.TriggerRun, store.CutOverNone)(ctx, key)
		}),
		handle(ctx, e, UpdateStop, smc.TriggerStop, func(ctx workflow.Context, key string, _ struct{}) error { return stop(ctx, key) }),
		handle(ctx, e, UpdateCutOver, smc.TriggerCutOver, func(ctx workflow.Context, key string, in CutOverRequest) error {
			if in.SyncData {
				return start(smc.TriggerCutOver, store.CutOverSyncData)(ctx, key)
			}
			return finish(ctx, key)
		}),
		// Name and Description may change in any status; what else may, the store knows, which holds the job's parameters.
		handle(ctx, e, UpdateModify, smc.TriggerModifyName, func(ctx workflow.Context, _ string, in smc.ModifyReplicationJobAttributeRequest) error {
			var schedule store.Schedule
			if err := workflow.ExecuteActivity(onCenter(ctx), jobs.Modify, in).Get(ctx, &schedule); err != nil {
				return err
			}
			e.Frequency, e.ScheduledStartAt, e.rescheduled = schedule.Frequency, schedule.ScheduledStartAt, true
			return nil
		}),
		handle(ctx, e, UpdateDelete, smc.TriggerDelete, func(ctx workflow.Context, key string, _ struct{}) error { return remove(ctx, key) }),
	)
}

// handle registers the handler of one update. do gets the key its transition is written under.
func handle[In any](ctx workflow.Context, e *entity, name string, trigger smc.Trigger, do func(workflow.Context, string, In) error) error {
	validate := func(ctx workflow.Context, _ In) error {
		if slices.Contains(e.Requests, workflow.GetCurrentUpdateInfo(ctx).ID) {
			return nil
		}
		return e.allowed(trigger)
	}
	return workflow.SetUpdateHandlerWithOptions(ctx, name, func(ctx workflow.Context, in In) error {
		request := workflow.GetCurrentUpdateInfo(ctx).ID
		if err := e.mutex.Lock(ctx); err != nil {
			return err
		}
		defer e.mutex.Unlock()
		e.withdrawDue(ctx)
		if slices.Contains(e.Requests, request) {
			return nil
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

// allowed applies the table of job states. The phase of a run is the store's to judge: the entity does not follow it.
func (e *entity) allowed(trigger smc.Trigger) error {
	state := smc.JobState{Status: e.Status, BusinessStatus: smc.BusinessSyncing}
	err := smc.Allowed(trigger, state)
	if err == nil {
		return nil
	}
	refusal := smc.AsError(err)
	return temporal.NewNonRetryableApplicationError("job "+e.JobID+": "+refusal.Message, refusal.Code, nil)
}

// started takes over what a start set in motion.
func (e *entity) started(ctx workflow.Context, start store.RunStart) {
	e.Status, e.BusinessStatus, e.Run, e.Lap, e.HostID = smc.StatusRunning, start.BusinessStatus, start.Run, start.Lap, start.HostID
	if e.FirstStartAt.IsZero() {
		e.FirstStartAt = workflow.Now(ctx).UTC()
	}
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
			JobID: e.JobID, Run: e.Run, Code: smc.CodeInternalError, Key: fmt.Sprintf("run/%d/%d/broken", e.Run, lap),
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
	e.Status, e.BusinessStatus, e.Run, e.Lap, e.HostID = state.Status, state.BusinessStatus, state.Run, state.Lap, state.HostID
	if e.Status == smc.StatusFinished || e.Status == smc.StatusDeleting {
		e.ReleaseHost, e.HostID = e.HostID, ""
	}
	return nil
}

// release removes the staging of the job from the host that held it. It waits for that host as long as it takes.
func (e *entity) release(ctx workflow.Context) error {
	var replication *activities.Replication
	err := workflow.ExecuteActivity(onHost(ctx, e.ReleaseHost, time.Hour), replication.Release, e.JobID).Get(ctx, nil)
	if err != nil {
		return err
	}
	e.ReleaseHost = ""
	return nil
}

// endDelete removes the job from the store; the entity ends with it.
func (e *entity) endDelete(ctx workflow.Context) error {
	var jobs *activities.Jobs
	err := workflow.ExecuteActivity(onCenter(ctx), jobs.EndDelete, activities.MoveInput{JobID: e.JobID, Key: "deleted"}).Get(ctx, nil)
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
