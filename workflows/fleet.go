package workflows

import (
	"fmt"
	"slices"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/drover/drover/activities"
	"github.com/drover/drover/fleet"
)

// FleetInput is what a fleet starts from.
type FleetInput struct {
	Fleet fleet.Fleet
	// State is carried over continue-as-new.
	State *fleetState `json:",omitempty"`
}

// fleetState is what a fleet knows of itself.
type fleetState struct {
	Began      time.Time // its first execution
	Status     fleet.State
	Wave       int // index of the wave that is going on
	Reason     string
	Sequence   uint64 // of the events it published
	Migrations []*fleetMigration
	// Events are those that are not published yet. While NATS is away they are carried over continue-as-new.
	Events []activities.FleetEvent
}

// fleetMigration is what a fleet knows of one of its migrations.
type fleetMigration struct {
	Server   fleet.Server
	SourceID string
	Wave     int
	Status   fleet.MigrationStatus
	Started  bool // its workflow was started
	// Life is the run its workflow began with; only that one's reports are taken. Those of FormerLife, which a retry
	// replaced, come too late.
	Life, FormerLife string
	Report           int // number of the newest report
	// The slot of request n is held from the grant of n until the release of n.
	Requested, Granted, Released int
	// Forgiven: its failure no longer counts against the wave's limit.
	Forgiven bool
	// restarting: it is started as soon as its former life has closed.
	restarting bool
}

// neverStarted is the Life of a migration whose workflow could not be started: another one has its id.
const neverStarted = "never started"

func (f *fleetMigration) holdsSlot() bool { return f.Granted > f.Released }

// open reports whether its workflow was started and has not ended.
func (f *fleetMigration) open() bool { return f.Started && !f.Status.Phase.Ended() }

// fleetWorkflow takes a fleet through its waves.
type fleetWorkflow struct {
	FleetInput
	fleetState
	cancelling bool
	// news counts what came from outside that the fleet may have to act on.
	news    int
	sending bool
	// starting counts the starts whose outcome is not known.
	starting  int
	finishing bool
	stopWatch workflow.CancelFunc
	// rewatch has the watch look after those that were started since it began.
	rewatch workflow.CancelFunc
}

// Fleet migrates the servers of a manifest, wave after wave. It admits running jobs by slots, pauses a wave that fails
// too often, and ends when every migration has ended. Its migrations are workflows of their own that outlive its runs:
// they report to it by its id.
func Fleet(ctx workflow.Context, in FleetInput) (*fleet.Status, error) {
	f := &fleetWorkflow{FleetInput: in}
	if in.State != nil {
		f.fleetState = *in.State
	} else {
		f.Began, f.Status = workflow.Now(ctx).UTC(), fleet.Running
	}
	if err := f.serve(ctx); err != nil {
		return nil, err
	}
	// What is done for a fleet that is cancelled is done all the same.
	work, cancel := workflow.NewDisconnectedContext(ctx)
	defer cancel()
	if in.State == nil {
		if err := f.resolve(ctx); err != nil {
			return nil, f.fail(work, err)
		}
		f.publish(ctx, "")
	}
	workflow.Go(ctx, func(ctx workflow.Context) {
		ctx.Done().Receive(ctx, nil)
		f.cancelling = true
		f.news++
	})
	f.send(work)
	f.watch(work)
	for {
		// A step takes time: what comes meanwhile needs another one.
		before := f.news
		f.step(work)
		if f.ended() {
			break
		}
		err := workflow.Await(work, func() bool {
			return f.news != before || f.historyFull(ctx)
		})
		if err != nil {
			return nil, err
		}
		if f.news != before {
			continue
		}
		// A cancellation that has come is not known to a next run; that of the context is there before it is news.
		if turn(work); f.news == before && ctx.Err() == nil {
			return nil, f.continueAsNew(ctx)
		}
	}
	f.finish(work)
	status := f.status()
	if f.Status == fleet.Cancelled {
		return &status, temporal.NewCanceledError()
	}
	return &status, nil
}

// historyFull reports whether the workflow should, and can, go on in a new run.
func (f *fleetWorkflow) historyFull(ctx workflow.Context) bool {
	return workflow.GetInfo(ctx).GetContinueAsNewSuggested() && ctx.Err() == nil && f.starting == 0 && workflow.AllHandlersFinished(ctx)
}

// fail ends a fleet that could not begin.
func (f *fleetWorkflow) fail(ctx workflow.Context, err error) error {
	_, f.Reason = explain(err)
	f.Status = fleet.CompletedWithFailures
	if temporal.IsCanceledError(err) {
		f.Status, f.Reason = fleet.Cancelled, ""
	}
	f.publish(ctx, "")
	f.drain(ctx)
	return err
}

// serve answers queries and takes the reports of migrations for as long as the workflow runs.
func (f *fleetWorkflow) serve(ctx workflow.Context) error {
	workflow.Go(ctx, func(ctx workflow.Context) {
		reports := workflow.GetSignalChannel(ctx, signalMigrationChanged)
		for {
			var report migrationReport
			reports.Receive(ctx, &report)
			f.take(report)
		}
	})
	if err := workflow.SetQueryHandler(ctx, fleet.QueryStatus, func() (fleet.Status, error) { return f.status(), nil }); err != nil {
		return err
	}
	return workflow.SetUpdateHandlerWithOptions(ctx, fleet.UpdateResume, func(ctx workflow.Context, request fleet.ResumeRequest) error {
		f.resume(ctx, request)
		return nil
	}, workflow.UpdateHandlerOptions{Validator: func(_ workflow.Context, request fleet.ResumeRequest) error {
		if !f.cancelling && !f.finishing && (f.Status == fleet.Paused || request.RetryFailed && slices.ContainsFunc(f.Migrations, failed)) {
			return nil
		}
		return temporal.NewNonRetryableApplicationError(fmt.Sprintf("fleet %s is %s, not Paused: there is nothing to resume", f.Fleet.Name, f.Status), "NotPaused", nil)
	}})
}

func failed(migration *fleetMigration) bool { return migration.Status.Phase == fleet.PhaseFailed }

// take takes over what a migration reports, unless it is old news.
func (f *fleetWorkflow) take(report migrationReport) {
	for _, migration := range f.Migrations {
		foreign := report.Life == migration.FormerLife || migration.Life != "" && report.Life != migration.Life
		if migration.SourceID != report.Status.SourceID || !migration.Started || foreign || report.Number <= migration.Report {
			continue
		}
		migration.Life = report.Life
		migration.Report, migration.Status = report.Number, report.Status
		migration.Requested = max(migration.Requested, report.Requested)
		migration.Released = max(migration.Released, report.Released)
		f.news++
	}
}

// resume forgives the failures there were; those that are to be tried again become pending.
func (f *fleetWorkflow) resume(ctx workflow.Context, request fleet.ResumeRequest) {
	for _, migration := range f.Migrations {
		if !failed(migration) {
			continue
		}
		migration.Forgiven = true
		if request.RetryFailed {
			*migration = fleetMigration{Server: migration.Server, SourceID: migration.SourceID, Wave: migration.Wave, FormerLife: migration.Life}
			migration.Status = f.pending(migration)
			f.Wave = min(f.Wave, migration.Wave)
		}
	}
	previous := f.Status
	f.Status, f.Reason = fleet.Running, ""
	f.news++
	if previous != f.Status {
		f.publish(ctx, previous)
	}
}

func (f *fleetWorkflow) pending(migration *fleetMigration) fleet.MigrationStatus {
	return fleet.MigrationStatus{
		Name: migration.Server.Name, SourceID: migration.SourceID, Wave: f.Fleet.Waves[migration.Wave].Name, Phase: fleet.PhasePending,
	}
}

// resolve finds the source servers the manifest names.
func (f *fleetWorkflow) resolve(ctx workflow.Context) error {
	var smcActivities *activities.SMC
	var servers []activities.ResolvedServer
	if err := workflow.ExecuteActivity(onEndpoint(ctx), smcActivities.ResolveServers, f.Fleet).Get(ctx, &servers); err != nil {
		return err
	}
	for _, server := range servers {
		migration := &fleetMigration{Server: server.Server, SourceID: server.SourceID, Wave: server.Wave}
		migration.Status = f.pending(migration)
		f.Migrations = append(f.Migrations, migration)
	}
	if err := workflow.UpsertTypedSearchAttributes(ctx, AttributeFleet.ValueSet(f.Fleet.Name)); err != nil {
		workflow.GetLogger(ctx).Warn("search attributes not set", "error", err)
	}
	return nil
}

// step does all there is to do now.
func (f *fleetWorkflow) step(ctx workflow.Context) {
	if f.cancelling {
		f.cancel(ctx)
		return
	}
	f.checkFailures(ctx)
	for f.Status == fleet.Running {
		f.begin(ctx)
		f.checkFailures(ctx)
		if f.Status != fleet.Running || f.Wave+1 >= len(f.Fleet.Waves) || !f.settled() {
			break
		}
		f.Wave++
		f.publish(ctx, f.Status)
	}
	if f.Status == fleet.Running {
		f.admit(ctx)
	}
}

// startsAtOnce is how many migrations are started in one step.
const startsAtOnce = 50

// begin starts migrations of the waves up to the current one that were not started yet: as many as go in a step.
func (f *fleetWorkflow) begin(ctx workflow.Context) {
	began := map[*fleetMigration]workflow.Future{}
	var order []*fleetMigration
	for _, migration := range f.Migrations {
		switch {
		case migration.Started || migration.restarting || migration.Wave > f.Wave:
			continue
		case migration.FormerLife != "":
			f.restart(ctx, migration)
			continue
		case len(order) == startsAtOnce:
			f.news++ // the others with the next step
			continue
		}
		began[migration] = f.start(ctx, migration)
		order = append(order, migration)
	}
	for _, migration := range order {
		f.started(ctx, migration, began[migration])
	}
}

// start starts the workflow of a migration.
func (f *fleetWorkflow) start(ctx workflow.Context, migration *fleetMigration) workflow.Future {
	if f.rewatch != nil {
		f.rewatch()
	}
	migration.Started = true
	f.starting++
	child := workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID:        fleet.MigrationID(f.Fleet.Name, migration.SourceID),
		ParentClosePolicy: enumspb.PARENT_CLOSE_POLICY_ABANDON, // it applies at continue-as-new, too
		TypedSearchAttributes: temporal.NewSearchAttributes(
			AttributeFleet.ValueSet(f.Fleet.Name), AttributePhase.ValueSet(string(fleet.PhasePending)),
		),
		StaticSummary: migration.Server.Name,
	})
	return workflow.ExecuteChildWorkflow(child, Migration, MigrationInput{
		Fleet: f.Fleet.Name, Wave: f.Fleet.Waves[migration.Wave].Name, Server: migration.Server, SourceID: migration.SourceID,
		PollInterval: f.Fleet.PollInterval,
	}).GetChildWorkflowExecution()
}

// started waits until the start is done, or has failed.
func (f *fleetWorkflow) started(ctx workflow.Context, migration *fleetMigration, start workflow.Future) {
	var execution workflow.Execution
	err := start.Get(ctx, &execution)
	f.starting--
	migration.Life = execution.RunID
	if err == nil {
		return
	}
	migration.Life = neverStarted
	migration.Status.Phase = fleet.PhaseFailed
	migration.Status.Error = fmt.Sprintf("the migration could not be started: %v. Is one of an earlier fleet of this name still going on?", err)
	f.news++
}

// restart starts a migration again once its former life has closed: that one may still have events to publish.
func (f *fleetWorkflow) restart(ctx workflow.Context, migration *fleetMigration) {
	migration.restarting = true
	workflow.Go(ctx, func(ctx workflow.Context) {
		var orchestration *activities.Orchestration
		err := workflow.ExecuteActivity(onNotification(ctx), orchestration.WatchMigrations, activities.WatchMigrationsInput{
			Fleet: f.Fleet.Name, SourceIDs: []string{migration.SourceID},
		}).Get(ctx, nil)
		if err != nil {
			workflow.GetLogger(ctx).Error("the former migration was not found closed", "source", migration.SourceID, "error", err)
		}
		// It may have been cancelled meanwhile; when the fleet is paused, the next step after that restarts it.
		if migration.Status.Phase == fleet.PhasePending && f.Status == fleet.Running && !f.cancelling {
			f.started(ctx, migration, f.start(ctx, migration))
		}
		migration.restarting = false
		f.news++
	})
}

// settled reports whether every migration of the waves so far has ended or rests.
func (f *fleetWorkflow) settled() bool {
	return !slices.ContainsFunc(f.Migrations, func(m *fleetMigration) bool { return m.Wave <= f.Wave && !m.Status.Phase.Settled() })
}

// admit grants free slots to those who asked, in the order of the manifest.
func (f *fleetWorkflow) admit(ctx workflow.Context) {
	type grant struct {
		migration *fleetMigration
		life      string
		sent      workflow.Future
	}
	var granted []grant
	for w, wave := range f.Fleet.Waves {
		held := 0
		for _, migration := range f.Migrations {
			if migration.Wave == w && migration.holdsSlot() {
				held++
			}
		}
		for _, migration := range f.Migrations {
			if migration.Wave != w || migration.Requested <= max(migration.Granted, migration.Released) || migration.Status.Phase.Ended() {
				continue
			}
			if wave.MaxConcurrent > 0 && held >= wave.MaxConcurrent {
				break
			}
			migration.Granted = migration.Requested
			held++
			granted = append(granted, grant{migration, migration.Life, workflow.SignalExternalWorkflow(
				ctx, fleet.MigrationID(f.Fleet.Name, migration.SourceID), "", signalSlotGranted, migration.Granted,
			)})
		}
	}
	for _, g := range granted {
		err := g.sent.Get(ctx, nil)
		if err == nil || g.migration.Life != g.life {
			continue
		}
		workflow.GetLogger(ctx).Warn("slot not granted: the migration is gone", "source", g.migration.SourceID, "error", err)
		g.migration.Released = g.migration.Granted
		f.news++
	}
}

// checkFailures pauses the fleet when a wave fails more often than it may.
func (f *fleetWorkflow) checkFailures(ctx workflow.Context) {
	if f.Status != fleet.Running {
		return
	}
	for w, wave := range f.Fleet.Waves {
		if wave.MaxFailures == nil {
			continue
		}
		var names []string
		for _, migration := range f.Migrations {
			if migration.Wave == w && failed(migration) && !migration.Forgiven {
				names = append(names, migration.Server.Name)
			}
		}
		unfinished := slices.ContainsFunc(f.Migrations, func(m *fleetMigration) bool { return !m.Status.Phase.Ended() })
		if len(names) > *wave.MaxFailures && unfinished {
			f.Status = fleet.Paused
			f.Reason = fmt.Sprintf("%d migrations of wave %s failed (%s), %d may: nothing new is started. Resume with drover fleet resume %s, or cancel",
				len(names), wave.Name, strings.Join(names, ", "), *wave.MaxFailures, f.Fleet.Name)
			f.publish(ctx, fleet.Running)
			return
		}
	}
}

// cancel asks every open migration to undo what it did.
func (f *fleetWorkflow) cancel(ctx workflow.Context) {
	const reason = "the fleet is being cancelled"
	if f.Reason == reason {
		return
	}
	f.Reason = reason
	f.publish(ctx, f.Status)
	asked := map[*fleetMigration]workflow.Future{}
	for _, migration := range f.Migrations {
		switch {
		case migration.open():
			asked[migration] = workflow.RequestCancelExternalWorkflow(ctx, fleet.MigrationID(f.Fleet.Name, migration.SourceID), "")
		case !migration.Started:
			migration.Status.Phase = fleet.PhaseCancelled
		}
	}
	for _, migration := range f.Migrations {
		if asked[migration] == nil {
			continue
		}
		if err := asked[migration].Get(ctx, nil); err != nil {
			workflow.GetLogger(ctx).Warn("migration not cancelled: it is gone", "source", migration.SourceID, "error", err)
		}
	}
}

// ended reports whether there is nothing left to wait for.
func (f *fleetWorkflow) ended() bool {
	return !slices.ContainsFunc(f.Migrations, func(m *fleetMigration) bool { return !m.Status.Phase.Ended() })
}

// finish gives the fleet its last state and waits until the world was told.
func (f *fleetWorkflow) finish(ctx workflow.Context) {
	previous := f.Status
	f.Reason, f.finishing = "", true
	switch {
	case f.cancelling:
		f.Status = fleet.Cancelled
	case slices.ContainsFunc(f.Migrations, func(m *fleetMigration) bool { return m.Status.Phase != fleet.PhaseDone }):
		f.Status = fleet.CompletedWithFailures
	default:
		f.Status = fleet.Completed
	}
	f.publish(ctx, previous)
	if f.stopWatch != nil {
		f.stopWatch()
	}
	f.drain(ctx)
}

// drain waits until every event is published and every handler has answered.
func (f *fleetWorkflow) drain(ctx workflow.Context) {
	_ = workflow.Await(ctx, func() bool { return len(f.Events) == 0 && !f.sending && workflow.AllHandlersFinished(ctx) })
}

// watch finds migrations whose workflow was ended from outside, so that they could not report it.
func (f *fleetWorkflow) watch(ctx workflow.Context) {
	ctx, f.stopWatch = workflow.WithCancel(ctx)
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		TaskQueue: fleet.Queue, StartToCloseTimeout: 5 * time.Minute, HeartbeatTimeout: heartbeatTimeout,
		RetryPolicy: &temporal.RetryPolicy{InitialInterval: watchInterval, BackoffCoefficient: 1, MaximumInterval: watchInterval},
	})
	workflow.Go(ctx, func(ctx workflow.Context) {
		for ctx.Err() == nil {
			// What ends in the usual way reports before it closes; this only has to find what does not.
			if workflow.Sleep(ctx, watchInterval) != nil || workflow.Await(ctx, func() bool { return slices.ContainsFunc(f.Migrations, (*fleetMigration).open) }) != nil {
				return
			}
			input := activities.WatchMigrationsInput{Fleet: f.Fleet.Name}
			lives := map[string]string{}
			for _, migration := range f.Migrations {
				if migration.open() {
					input.SourceIDs = append(input.SourceIDs, migration.SourceID)
					lives[migration.SourceID] = migration.Life
				}
			}
			var orchestration *activities.Orchestration
			var closed map[string]string
			var watchCtx workflow.Context
			watchCtx, f.rewatch = workflow.WithCancel(ctx)
			err := workflow.ExecuteActivity(watchCtx, orchestration.WatchMigrations, input).Get(ctx, &closed)
			f.rewatch = nil
			if err != nil {
				continue
			}
			for _, migration := range f.Migrations {
				how, ok := closed[migration.SourceID]
				if !ok || !migration.open() || migration.Life != lives[migration.SourceID] {
					continue
				}
				migration.Status.Phase = fleet.PhaseFailed
				migration.Status.Error = fmt.Sprintf("its workflow ended from outside (%s); job %s may still be there", how, migration.Status.JobID)
				migration.Released = migration.Granted
				f.news++
			}
		}
	})
}

// watchInterval is how often a fleet looks after migrations that do not report.
const watchInterval = time.Minute

// status is what the fleet shows.
func (f *fleetWorkflow) status() fleet.Status {
	status := fleet.Status{Name: f.Fleet.Name, Status: f.Status, Reason: f.Reason, Servers: []fleet.MigrationStatus{}}
	if f.Wave < len(f.Fleet.Waves) {
		status.Wave = f.Fleet.Waves[f.Wave].Name
	}
	for _, migration := range f.Migrations {
		shown := migration.Status
		if shown.Phase == fleet.PhasePending {
			shown.Reason = "waits for wave " + f.Fleet.Waves[max(0, migration.Wave-1)].Name
			if migration.Wave <= f.Wave {
				shown.Reason = "is being started"
			}
		}
		if shown.Phase == fleet.PhaseQueued && migration.Requested > migration.Granted {
			shown.Reason = f.whyQueued(migration)
		}
		status.Servers = append(status.Servers, shown)
	}
	return status
}

// whyQueued says what a migration waits for that has asked for a slot.
func (f *fleetWorkflow) whyQueued(migration *fleetMigration) string {
	wave := f.Fleet.Waves[migration.Wave]
	switch {
	case f.Status == fleet.Paused:
		return "the fleet is paused"
	case f.cancelling:
		return "the fleet is being cancelled"
	case wave.MaxConcurrent == 0:
		return "is being given a slot"
	}
	var holders []string
	ahead := 0
	before := true
	for _, other := range f.Migrations {
		if other.Wave != migration.Wave {
			continue
		}
		if other == migration {
			before = false
		}
		if other.holdsSlot() {
			holders = append(holders, other.Server.Name)
		} else if before && other.Requested > other.Granted {
			ahead++
		}
	}
	return fmt.Sprintf("waits for one of the %d slots of wave %s, held by %s; %d ahead of it",
		wave.MaxConcurrent, wave.Name, strings.Join(holders, ", "), ahead)
}

// publish tells the world how the fleet is, in the background and in order.
func (f *fleetWorkflow) publish(ctx workflow.Context, previous fleet.State) {
	f.Sequence++
	status := f.status()
	event := activities.FleetEvent{Began: f.Began, Sequence: f.Sequence, Previous: previous, Time: workflow.Now(ctx).UTC()}
	event.Done, event.Failed, event.Open = status.Counts()
	status.Servers = nil
	event.Status = status
	f.Events = append(f.Events, event)
	f.send(ctx)
}

// send publishes events in the background. While NATS is away they wait; the fleet does not.
func (f *fleetWorkflow) send(ctx workflow.Context) {
	if f.sending || len(f.Events) == 0 {
		return
	}
	f.sending = true
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	workflow.Go(ctx, func(ctx workflow.Context) {
		defer func() { f.sending = false }()
		for len(f.Events) > 0 {
			batch := slices.Clone(f.Events[:min(len(f.Events), eventBatch)])
			var notification *activities.Notification
			if err := workflow.ExecuteActivity(onNotification(ctx), notification.PublishFleet, batch).Get(ctx, nil); err != nil {
				workflow.GetLogger(ctx).Error("events not published", "error", err)
			}
			f.Events = f.Events[len(batch):]
		}
	})
}

// turn returns after every other coroutine had its turn. A signal is handed to the coroutine that waits for it before that
// one runs: it is no longer in the channel then, and would be lost at continue-as-new.
func turn(ctx workflow.Context) {
	others, ran := workflow.NewFuture(ctx)
	workflow.Go(ctx, func(workflow.Context) { ran.Set(nil, nil) }) // the last in line
	_ = others.Get(ctx, nil)
}

// continueAsNew goes on in a new run with all that came until now. Nothing in it may block.
func (f *fleetWorkflow) continueAsNew(ctx workflow.Context) error {
	f.stopWatch()
	reports := workflow.GetSignalChannel(ctx, signalMigrationChanged)
	for {
		var report migrationReport
		if !reports.ReceiveAsync(&report) {
			break
		}
		f.take(report)
	}
	next := f.FleetInput
	state := f.fleetState
	next.State = &state
	return workflow.NewContinueAsNewError(ctx, Fleet, next)
}
