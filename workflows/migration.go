package workflows

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/drover/drover/activities"
	"github.com/drover/drover/fleet"
	"github.com/drover/drover/smc"
)

// Search attributes of migrations and fleets. The orchestrator's worker registers them.
var (
	AttributeFleet    = temporal.NewSearchAttributeKeyKeyword("DroverFleet")
	AttributePhase    = temporal.NewSearchAttributeKeyKeyword("DroverPhase")
	AttributeReason   = temporal.NewSearchAttributeKeyKeyword("DroverReason")
	AttributeJobID    = temporal.NewSearchAttributeKeyKeyword("DroverJobId")
	AttributeRuns     = temporal.NewSearchAttributeKeyInt64("DroverRuns")
	AttributeAttempts = temporal.NewSearchAttributeKeyInt64("DroverAttempts")
)

// Signals between a fleet and its migrations.
const (
	signalMigrationChanged = "migration-changed" // to the fleet, a migrationReport
	signalSlotGranted      = "slot-granted"      // to a migration, the number of the request
)

// migrationReport is the whole state of a migration that its fleet needs; a newer one replaces an older one.
type migrationReport struct {
	Life   string // of the migration
	Number int    // counts the reports of a life
	Status fleet.MigrationStatus
	// A migration asks for slots by numbers that grow. It holds the slot of a request from the fleet's grant until it
	// releases that number.
	Requested, Released int
}

// MigrationInput is what a migration starts from.
type MigrationInput struct {
	Fleet        string
	Wave         string
	Server       fleet.Server // with its name resolved
	SourceID     string
	PollInterval time.Duration
	// State is carried over continue-as-new.
	State *migrationState `json:",omitempty"`
}

// migrationState is what a migration knows of itself.
type migrationState struct {
	Life     string    // run id of its first execution: it tells the lives of a name apart
	Began    time.Time // of that execution
	Status   fleet.MigrationStatus
	Report   int
	Sequence uint64 // of the events it published
	JobSeen  uint64 // sequence of the newest event of the job
	Granted  int
	Request  int
	Released int
	CutOver  bool // asked for by hand
	// Events are those that are not published yet. While NATS is away they are carried over continue-as-new.
	Events []activities.MigrationEvent
}

// migration takes one server through an SMC endpoint.
type migration struct {
	MigrationInput
	migrationState
	job *activities.JobView
	// news counts what came from outside; seen is what it was at the latest look at the job. Who waits looks again when
	// the two differ.
	news, seen int
	told       string // the status that the latest event of the job told of
	sending    bool
	// reported is the last signal to the fleet. Temporal drops those that a workflow has sent and not delivered when it closes.
	reported workflow.Future
}

// migrationFailed is the type of the error a failed migration ends with.
const migrationFailed = "MigrationFailed"

// failure ends a migration; its message is for a person.
type failure struct{ message string }

func (f failure) Error() string { return f.message }

// Migration takes one server from preflight to a verified image: through the SMC API alone, woken by events, with a
// slow poll as its safety net. It ends with the migration's status; a failed one ends with an error of type
// MigrationFailed, a cancelled one as cancelled, after it has removed what it made.
func Migration(ctx workflow.Context, in MigrationInput) (*fleet.MigrationStatus, error) {
	m := &migration{MigrationInput: in}
	if in.State != nil {
		m.migrationState = *in.State
	} else {
		m.Life, m.Began = workflow.GetInfo(ctx).WorkflowExecution.RunID, workflow.Now(ctx).UTC()
		m.Status = fleet.MigrationStatus{Name: in.Server.Name, SourceID: in.SourceID, Wave: in.Wave}
	}
	if m.PollInterval <= 0 {
		m.PollInterval = fleet.DefaultPollInterval
	}
	if err := m.serve(ctx); err != nil {
		return nil, err
	}
	m.send(ctx)
	err := m.migrate(ctx)
	var again *workflow.ContinueAsNewError
	if errors.As(err, &again) {
		return nil, err
	}
	after, cancel := workflow.NewDisconnectedContext(ctx)
	defer cancel()
	var failed failure
	switch {
	case err == nil:
		m.end(after, fleet.PhaseDone, "")
	case temporal.IsCanceledError(err) || ctx.Err() != nil:
		m.undo(after)
		m.end(after, fleet.PhaseCancelled, "")
		err = temporal.NewCanceledError()
	case errors.As(err, &failed):
		m.remains()
		m.end(after, fleet.PhaseFailed, failed.message)
		err = temporal.NewNonRetryableApplicationError(failed.message, migrationFailed, nil, m.Status)
	default:
		m.remains()
		_, message := explain(err)
		m.end(after, fleet.PhaseFailed, message)
		err = temporal.NewNonRetryableApplicationError(message, migrationFailed, err, m.Status)
	}
	m.drain(after)
	return &m.Status, err
}

// serve answers queries and takes signals for as long as the workflow runs.
func (m *migration) serve(ctx workflow.Context) error {
	workflow.Go(ctx, func(ctx workflow.Context) {
		changed := workflow.GetSignalChannel(ctx, fleet.SignalJobChanged)
		granted := workflow.GetSignalChannel(ctx, signalSlotGranted)
		cutOver := workflow.GetSignalChannel(ctx, fleet.SignalCutOver)
		selector := workflow.NewSelector(ctx)
		selector.AddReceive(changed, func(c workflow.ReceiveChannel, _ bool) {
			var change fleet.JobChanged
			c.Receive(ctx, &change)
			m.jobChanged(change)
		})
		selector.AddReceive(granted, func(c workflow.ReceiveChannel, _ bool) {
			var request int
			c.Receive(ctx, &request)
			m.Granted = max(m.Granted, request)
		})
		selector.AddReceive(cutOver, func(c workflow.ReceiveChannel, _ bool) {
			c.Receive(ctx, nil)
			m.CutOver = true
			m.news++
		})
		for {
			selector.Select(ctx)
		}
	})
	return workflow.SetQueryHandler(ctx, fleet.QueryStatus, func() (fleet.MigrationStatus, error) { return m.Status, nil })
}

// jobChanged takes an event of the job as a reason to look; what is true is read from the endpoint.
func (m *migration) jobChanged(change fleet.JobChanged) {
	switch {
	case m.Status.JobID == "":
		// The answer to create is on the way; or it is a job of an earlier migration, whose numbers say nothing of ours.
	case change.JobID != m.Status.JobID || change.Sequence <= m.JobSeen:
		return
	default:
		m.JobSeen = change.Sequence
		if change.Status == m.Status.Status {
			return // we have seen it: mostly it is what we did ourselves
		}
	}
	m.told = change.Status
	m.news++
}

// migrate is the life of a migration up to its image.
func (m *migration) migrate(ctx workflow.Context) error {
	if m.Status.JobID == "" {
		if err := m.create(ctx); err != nil {
			return err
		}
	}
	for {
		if err := m.look(ctx); err != nil {
			return err
		}
		status := m.job.Status
		if m.startQueued() {
			status = statusQueued
		}
		switch status {
		case statusQueued:
			if err := m.queued(ctx); err != nil {
				return err
			}
		case smc.StatusFinished:
			m.release(ctx)
			return m.deliver(ctx)
		case smc.StatusRunning:
			if err := m.follow(ctx); err != nil {
				return err
			}
		case smc.StatusReady:
			if err := m.start(ctx); err != nil {
				return err
			}
		case smc.StatusInError:
			if err := m.retry(ctx); err != nil {
				return err
			}
		case smc.StatusWaiting:
			if err := m.between(ctx); err != nil {
				return err
			}
		case smc.StatusStopped:
			m.release(ctx)
			m.enter(ctx, fleet.PhaseWaiting, "the job was stopped by hand: start it (drover job start "+m.Status.JobID+") to go on, or cancel the fleet")
			if err := m.await(ctx, smc.StatusStopped); err != nil {
				return err
			}
		case smc.StatusExpired:
			return failure{fmt.Sprintf("job %s expired: its ValidTime passed before it was finished", m.Status.JobID)}
		default:
			return failure{fmt.Sprintf("job %s is gone: someone deleted it", m.Status.JobID)}
		}
		if m.historyFull(ctx) {
			if err := m.continueAsNew(ctx); err != nil {
				return err
			}
		}
	}
}

// create checks the ground, and creates the job or takes over the one an earlier life of this migration left.
func (m *migration) create(ctx workflow.Context) error {
	m.enter(ctx, fleet.PhasePreflight, "")
	if err := m.insist(ctx, func() error { return m.preflight(ctx) }); err != nil {
		return m.because(err, "preflight")
	}
	if m.Status.JobID != "" {
		return nil
	}
	if !m.scheduledStart().IsZero() {
		// The endpoint starts the job at its time, whatever the fleet says: its slot is taken before.
		for granted := false; !granted; m.seen = m.news { // no news is of a job that is not there
			var err error
			if granted, err = m.acquire(ctx, time.Time{}); err != nil {
				return err
			}
		}
	}
	m.enter(ctx, fleet.PhaseCreating, "")
	attempt := 0
	// A cancellation waits for the answer: what was created must be known to be removed.
	options := workflow.GetActivityOptions(onEndpoint(ctx))
	options.WaitForCancellation = true
	createCtx := workflow.WithActivityOptions(ctx, options)
	err := m.insist(ctx, func() error {
		if attempt++; attempt > 1 {
			// The attempt before may have made the job all the same.
			if err := m.preflight(ctx); err != nil || m.Status.JobID != "" {
				return err
			}
		}
		var smcActivities *activities.SMC
		return workflow.ExecuteActivity(createCtx, smcActivities.CreateJob, activities.CreateJobInput{
			Server: m.Server, SourceID: m.SourceID, JobName: m.jobName(), ClientToken: m.clientToken(ctx, attempt),
			ValidTime: workflow.Now(ctx).Add(smc.DefaultValidity).UTC().Truncate(time.Second),
		}).Get(ctx, &m.Status.JobID)
	})
	if err != nil {
		return m.because(err, "create")
	}
	return nil
}

// scheduledStart is when the endpoint starts the job by itself; zero: it does not. The manifest was checked.
func (m *migration) scheduledStart() time.Time {
	at, err := smc.ParseTime(m.Server.Parameters["ScheduledStartTime"])
	if err != nil {
		return time.Time{}
	}
	return at
}

func (m *migration) jobName() string { return fleet.JobName(m.Fleet, m.Server.Name, m.SourceID) }

// preflight checks the ground. It takes over the job that an earlier life or attempt of this migration left, if there is one.
func (m *migration) preflight(ctx workflow.Context) error {
	var smcActivities *activities.SMC
	var found activities.PreflightResult
	err := workflow.ExecuteActivity(onEndpoint(ctx), smcActivities.Preflight, activities.PreflightInput{
		SourceID: m.SourceID, JobName: m.jobName(),
	}).Get(ctx, &found)
	if err == nil && found.Job != nil {
		m.Status.JobID = found.Job.JobID
	}
	return err
}

// clientToken is the same for every try of one attempt, and differs between attempts and between lives.
func (m *migration) clientToken(ctx workflow.Context, attempt int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%s/%d", workflow.GetInfo(ctx).WorkflowExecution.ID, m.Life, attempt))
	return "drover-" + hex.EncodeToString(sum[:20])
}

// start starts a Ready job when its time has come and a slot is free; one that the endpoint starts by its own schedule
// it leaves alone (exactly one of the two starts the job).
func (m *migration) start(ctx workflow.Context) error {
	if at := m.scheduledStart(); !at.IsZero() {
		if granted, err := m.acquire(ctx, time.Time{}); err != nil || !granted { // one taken over may have none
			return err
		}
		m.enter(ctx, fleet.PhaseScheduled, "the endpoint starts the job at "+smc.FormatTime(at))
		return m.await(ctx, smc.StatusReady)
	}
	var closes time.Time
	if window := m.Server.Window; window != nil {
		closes = window.NotAfter
		if wait := window.NotBefore.Sub(workflow.Now(ctx)); wait > 0 {
			m.enter(ctx, fleet.PhaseScheduled, "the window opens at "+window.NotBefore.Format(time.RFC3339))
			if changed, err := m.pause(ctx, wait); err != nil || changed {
				return err
			}
		}
	}
	granted, err := m.acquire(ctx, closes)
	if err != nil {
		return err
	}
	if !closes.IsZero() && !workflow.Now(ctx).Before(closes) {
		m.release(ctx)
		return failure{fmt.Sprintf("the window closed at %s before the job could be started: start job %s by hand, or delete it and apply the fleet with another window", closes.Format(time.RFC3339), m.Status.JobID)}
	}
	if !granted {
		return nil
	}
	if err := m.startJob(ctx); err != nil {
		return err
	}
	return m.settle(ctx, smc.StatusReady, "the start was accepted and the job is still Ready: the endpoint starts it when it can")
}

// startJob calls Start; its answer means that the job runs, or will as soon as the endpoint has room for it.
func (m *migration) startJob(ctx workflow.Context) error {
	m.job = nil
	if m.Status.Phase != fleet.PhaseStarting {
		m.enter(ctx, fleet.PhaseStarting, "")
	}
	var smcActivities *activities.SMC
	err := m.insist(ctx, func() error {
		return workflow.ExecuteActivity(onEndpoint(ctx), smcActivities.StartJob, m.Status.JobID).Get(ctx, nil)
	})
	if err != nil && errorType(err) != smc.CodeReplicationJobInvalidStatus {
		m.release(ctx)
		return m.because(err, "start")
	}
	return nil // with InvalidStatus: the job moved meanwhile, or was started already; look again
}

// statusQueued is what a migration makes of the status of a job that startQueued reports.
const statusQueued smc.JobStatus = "Queued"

// startQueued reports whether the job was started and has to wait for its endpoint, which runs as many jobs as it may. The run
// of an incremental job's own rhythm is no start of ours: a cutover need not wait for it, and takes its place in the queue.
func (m *migration) startQueued() bool {
	return m.job.Queued && (m.job.Status != smc.StatusWaiting || m.Status.Phase == fleet.PhaseCuttingOver)
}

// queued waits until the endpoint runs the job that was started. The job keeps its slot, and is not started again: it has its
// place in the endpoint's queue.
func (m *migration) queued(ctx workflow.Context) error {
	status, images := m.job.Status, m.Status.Runs
	phase := fleet.PhaseStarting
	if m.Status.Phase == fleet.PhaseCuttingOver {
		phase = fleet.PhaseCuttingOver
	}
	m.enter(ctx, phase, "the job is started, and queued by the endpoint: it runs when its turn comes")
	if err := m.awaitQueued(ctx, status); err != nil {
		return err
	}
	if err := m.look(ctx); err != nil {
		return err
	}
	ran := m.Status.Runs > images || status == smc.StatusInError // which it may be again
	if m.job.Status != status || m.job.Queued || ran {
		return nil
	}
	m.release(ctx)
	m.enter(ctx, fleet.PhaseWaiting, "the start was withdrawn by hand: start the job (drover job start "+m.Status.JobID+") to go on, or cancel the fleet")
	return m.await(ctx, status)
}

// settle looks at a job that was told to leave a status. While it is still shown there it is given some time.
func (m *migration) settle(ctx workflow.Context, status smc.JobStatus, reason string) error {
	if err := m.look(ctx); err != nil || m.job.Status != status || m.job.Queued {
		return err
	}
	m.enter(ctx, m.Status.Phase, reason)
	_, err := m.pause(ctx, min(m.PollInterval, settleTime))
	return err
}

// settleTime is how long an endpoint is given to show what it was told.
const settleTime = 30 * time.Second

// follow waits while the job runs.
func (m *migration) follow(ctx workflow.Context) error {
	if m.Status.StartedAt.IsZero() {
		m.Status.StartedAt = workflow.Now(ctx).UTC()
	}
	if m.Status.Phase != fleet.PhaseCuttingOver {
		m.enter(ctx, fleet.PhaseReplicate, "")
	}
	return m.await(ctx, smc.StatusRunning)
}

// retry starts a job that is InError again, by the error's class and the limits the manifest sets.
func (m *migration) retry(ctx workflow.Context) error {
	m.release(ctx)
	m.Status.Error = strings.TrimSpace(m.job.ErrorCode + ": " + m.job.StatusInfo)
	// A code that is in no table says nothing against another try: it has the class of a failure of the endpoint's own.
	if smc.ClassOf(&smc.Error{Code: m.job.ErrorCode, HTTPStatus: 500}) == smc.Fatal {
		return failure{fmt.Sprintf("job %s is InError with %s, which no retry mends", m.Status.JobID, m.Status.Error)}
	}
	if m.Status.Attempts >= m.Server.Retry.Limit {
		return failure{fmt.Sprintf("job %s is InError after %d retries: %s", m.Status.JobID, m.Status.Attempts, m.Status.Error)}
	}
	wait := m.Server.Retry.Wait(m.Status.Attempts + 1)
	m.enter(ctx, fleet.PhaseBackoff, fmt.Sprintf("the job is started again in %s (retry %d of %d)", wait, m.Status.Attempts+1, m.Server.Retry.Limit))
	for until := workflow.Now(ctx).Add(wait); ; {
		changed, err := m.pause(ctx, until.Sub(workflow.Now(ctx)))
		if err != nil {
			return err
		}
		if !changed {
			break
		}
		if err := m.look(ctx); err != nil || m.job.Status != smc.StatusInError {
			return err // someone else moved the job
		}
	}
	if granted, err := m.acquire(ctx, time.Time{}); err != nil || !granted {
		return err
	}
	m.Status.Attempts++
	return m.startJob(ctx)
}

// between is the rest of an incremental job between two runs: it is cut over when that was asked for, or when it has
// made its runs; else it waits for the endpoint's rhythm.
func (m *migration) between(ctx workflow.Context) error {
	m.Status.Attempts, m.Status.Error = 0, ""
	after := 0
	if m.Server.CutOver != nil {
		after = m.Server.CutOver.AfterRuns
	}
	switch {
	case after > 0 && m.Status.Runs >= after:
		return m.cutOver(ctx, false)
	case m.CutOver || after > 0 && m.Status.Runs == after-1:
		return m.cutOver(ctx, true)
	}
	m.release(ctx)
	reason := "the next run is the endpoint's to start; cut over by hand with drover fleet cutover"
	if after > 0 {
		reason = fmt.Sprintf("run %d of %d is done; the next run is the endpoint's to start", m.Status.Runs, after)
	}
	m.enter(ctx, fleet.PhaseWaiting, reason)
	return m.await(ctx, smc.StatusWaiting)
}

// cutOver ends an incremental job, with one last run or without.
func (m *migration) cutOver(ctx workflow.Context, syncData bool) error {
	if syncData {
		if granted, err := m.acquire(ctx, time.Time{}); err != nil || !granted {
			return err
		}
	}
	m.job = nil
	if m.Status.Phase != fleet.PhaseCuttingOver {
		m.enter(ctx, fleet.PhaseCuttingOver, "")
	}
	var smcActivities *activities.SMC
	err := m.insist(ctx, func() error {
		return workflow.ExecuteActivity(onEndpoint(ctx), smcActivities.CutOver, activities.CutOverInput{JobID: m.Status.JobID, SyncData: syncData}).Get(ctx, nil)
	})
	if err != nil && errorType(err) != smc.CodeReplicationJobInvalidStatus {
		m.release(ctx)
		return m.because(err, "cutover")
	}
	// With InvalidStatus the job moved meanwhile, or the answer to an earlier try was lost: look again.
	return m.settle(ctx, smc.StatusWaiting, "the cutover was accepted and the job is still Waiting")
}

// deliver verifies the image and cleans up.
func (m *migration) deliver(ctx workflow.Context) error {
	m.Status.ImageID = m.job.ImageID
	if m.Status.ImageID == "" {
		return failure{fmt.Sprintf("job %s is Finished and names no image", m.Status.JobID)}
	}
	m.enter(ctx, fleet.PhaseVerifying, "")
	var smcActivities *activities.SMC
	var verified activities.VerifyImageResult
	verifyCtx := workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		TaskQueue: fleet.Queue, StartToCloseTimeout: 48 * time.Hour, HeartbeatTimeout: heartbeatTimeout, RetryPolicy: endpointRetries,
	})
	err := m.insist(ctx, func() error {
		return workflow.ExecuteActivity(verifyCtx, smcActivities.VerifyImage, activities.VerifyImageInput{JobID: m.Status.JobID, ImageID: m.Status.ImageID}).Get(ctx, &verified)
	})
	if err != nil {
		return m.because(err, "verification")
	}
	m.Status.Verified, m.Status.BytesRead, m.Status.BytesSent = verified.Verified, verified.BytesRead, verified.BytesSent
	if m.Server.KeepJob {
		return nil
	}
	m.enter(ctx, fleet.PhaseCleaningUp, "")
	if err := m.removeJob(ctx); err != nil {
		return m.because(err, "clean-up")
	}
	return nil
}

// undo removes what a cancelled migration made.
func (m *migration) undo(ctx workflow.Context) {
	if m.Status.JobID == "" && m.Status.Phase != fleet.PhaseCreating {
		return
	}
	if m.Status.JobID == "" {
		// A create whose answer never came may have made a job all the same.
		err := m.preflight(ctx)
		switch errorType(err) {
		case smc.CodeReplicationJobNameDuplicate, smc.CodeSourceServerStateInvalid, smc.CodeInvalidSourceIDNotFound:
			err = nil // another's job has the name, or there is none
		}
		if err != nil {
			code, message := explain(err)
			m.Status.Remains = fmt.Sprintf("job %s, if it was created: it could not be looked up (%s: %s)", m.jobName(), code, message)
		}
		if m.Status.JobID == "" {
			return
		}
	}
	m.enter(ctx, fleet.PhaseCancelling, "job "+m.Status.JobID+" is stopped and deleted")
	if err := m.removeJob(ctx); err != nil {
		_, message := explain(err)
		m.Status.Error = message
		m.Status.Remains = fmt.Sprintf("job %s could not be deleted: %s", m.Status.JobID, message)
		return
	}
	m.Status.Status = ""
	if len(m.Status.Images) > 0 {
		m.Status.Remains = "images " + strings.Join(m.Status.Images, ", ")
	}
}

// remains says what a failed migration leaves: its job, so that it can be looked at and gone on with.
func (m *migration) remains() {
	var left []string
	if m.Status.JobID != "" && m.Status.Status != "" && m.Status.Status != string(smc.StatusDeleting) {
		left = append(left, fmt.Sprintf("job %s, %s, with its staging", m.Status.JobID, m.Status.Status))
	}
	if len(m.Status.Images) > 0 {
		left = append(left, "images "+strings.Join(m.Status.Images, ", "))
	}
	m.Status.Remains = strings.Join(left, "; ")
}

// removeJob deletes the job, and learns which images it leaves: the last may have come while it was waited for.
func (m *migration) removeJob(ctx workflow.Context) error {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		TaskQueue: fleet.Queue, StartToCloseTimeout: callTimeout, HeartbeatTimeout: heartbeatTimeout,
		RetryPolicy: &temporal.RetryPolicy{InitialInterval: time.Second, BackoffCoefficient: 1.5, MaximumInterval: 15 * time.Second},
	})
	var smcActivities *activities.SMC
	var images []string
	if err := workflow.ExecuteActivity(ctx, smcActivities.RemoveJob, m.Status.JobID).Get(ctx, &images); err != nil {
		return err
	}
	m.keep(images)
	return nil
}

// look reads the job as it is now.
func (m *migration) look(ctx workflow.Context) error {
	if m.job != nil { // await has just read it
		return nil
	}
	seen := m.news
	var smcActivities *activities.SMC
	var view activities.JobView
	err := m.insist(ctx, func() error {
		return workflow.ExecuteActivity(onEndpoint(ctx), smcActivities.DescribeJob, m.Status.JobID).Get(ctx, &view)
	})
	if err != nil && !temporal.IsCanceledError(err) {
		// The job goes on without us: a key that was withdrawn is no reason to give it up, nor the slot that it has.
		code, message := explain(err)
		m.enter(ctx, m.Status.Phase, fmt.Sprintf("the job cannot be looked at (%s: %s); tried again every %s", code, message, m.PollInterval))
		err = workflow.ExecuteActivity(m.polling(ctx), smcActivities.AwaitJob, activities.AwaitJobInput{JobID: m.Status.JobID}).Get(ctx, &view)
	}
	if err != nil {
		return m.because(err, "describe")
	}
	m.saw(&view, seen)
	return nil
}

// polling schedules an activity that is tried, every PollInterval, until it finds what it looks for.
func (m *migration) polling(ctx workflow.Context) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		TaskQueue: fleet.Queue, StartToCloseTimeout: callTimeout, HeartbeatTimeout: heartbeatTimeout,
		RetryPolicy: &temporal.RetryPolicy{InitialInterval: m.PollInterval, BackoffCoefficient: 1, MaximumInterval: m.PollInterval},
	})
}

// saw takes over what the endpoint said of the job when it was asked, which was after that much news.
func (m *migration) saw(view *activities.JobView, seen int) {
	m.job, m.seen = view, seen
	if m.told == string(view.Status) { // what came while we looked is what we saw
		m.seen = m.news
	}
	m.Status.Status = string(view.Status)
	if view.ImageID != "" {
		m.Status.ImageID = view.ImageID
	}
	m.keep(view.Images)
	m.Status.Runs = len(m.Status.Images)
}

// keep notes images that were not known yet.
func (m *migration) keep(images []string) {
	for _, image := range images {
		if !slices.Contains(m.Status.Images, image) {
			m.Status.Images = append(m.Status.Images, image)
		}
	}
}

// await returns once the job is no longer in that status: an event says so, or the poll finds out. The next look is at
// what it found.
func (m *migration) await(ctx workflow.Context, status smc.JobStatus) error {
	return m.awaitNews(ctx, activities.AwaitJobInput{While: []smc.JobStatus{status}})
}

// awaitQueued returns once the job is no longer queued in that status.
func (m *migration) awaitQueued(ctx workflow.Context, status smc.JobStatus) error {
	return m.awaitNews(ctx, activities.AwaitJobInput{While: []smc.JobStatus{status}, Queued: true})
}

func (m *migration) awaitNews(ctx workflow.Context, in activities.AwaitJobInput) error {
	in.JobID, in.Images = m.Status.JobID, m.Status.Images
	m.job = nil
	pollCtx, stop := workflow.WithCancel(m.polling(ctx))
	defer stop()
	seen := m.news
	var smcActivities *activities.SMC
	poll := workflow.ExecuteActivity(pollCtx, smcActivities.AwaitJob, in)
	if err := workflow.Await(ctx, func() bool { return poll.IsReady() || m.news != m.seen }); err != nil {
		return err
	}
	if m.news != m.seen {
		return nil
	}
	var view activities.JobView
	if err := poll.Get(ctx, &view); err != nil {
		return m.because(err, "poll")
	}
	m.saw(&view, seen)
	return nil
}

// pause waits, and returns early, with true, when something came from outside.
func (m *migration) pause(ctx workflow.Context, wait time.Duration) (changed bool, err error) {
	m.job = nil
	return workflow.AwaitWithTimeout(ctx, wait, func() bool { return m.news != m.seen })
}

// acquire waits for a slot of the wave. A migration holds at most one. It withdraws its request, and returns false, when
// something came from outside that has to be looked at first, or when it is too late; a zero time means never.
func (m *migration) acquire(ctx workflow.Context, tooLate time.Time) (granted bool, err error) {
	if m.Granted > m.Released {
		return true, nil
	}
	m.job = nil
	m.Request++
	if !m.enter(ctx, fleet.PhaseQueued, "waits for a slot of wave "+m.Wave) {
		m.report(ctx) // of the new request
	}
	ready := func() bool { return m.Granted >= m.Request || m.news != m.seen }
	if tooLate.IsZero() {
		err = workflow.Await(ctx, ready)
	} else {
		_, err = workflow.AwaitWithTimeout(ctx, tooLate.Sub(workflow.Now(ctx)), ready)
	}
	if err != nil || m.Granted >= m.Request {
		return err == nil, err
	}
	m.Released = m.Request
	m.report(ctx)
	return false, nil
}

// release gives the slot back, if there is one. It is called when the job rests, not before.
func (m *migration) release(ctx workflow.Context) {
	if m.Granted > m.Released {
		m.Released = m.Granted
		m.report(ctx)
	}
}

// insist tries a call again that failed for a reason that an operator may mend meanwhile, within the manifest's limits.
// What Temporal retries by itself does not get here, and what no retry mends ends it.
func (m *migration) insist(ctx workflow.Context, call func() error) error {
	for attempt := 1; ; attempt++ {
		err := call()
		if err == nil || temporal.IsCanceledError(err) {
			return err
		}
		code, message := explain(err)
		// The status of a job is looked at instead; bytes that are wrong do not get right.
		final := code == smc.CodeReplicationJobInvalidStatus || code == smc.CodeImageVerificationFailed
		if final || errorClass(err) != smc.Operator || attempt > m.Server.Retry.Limit {
			return err
		}
		wait := m.Server.Retry.Wait(attempt)
		m.Status.Error = code + ": " + message
		m.enter(ctx, m.Status.Phase, fmt.Sprintf("%s; tried again in %s (retry %d of %d)", m.Status.Error, wait, attempt, m.Server.Retry.Limit))
		if err := workflow.Sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// errorClass is the class that an activity's error has: what the endpoint said of it, or what its code says.
func errorClass(err error) smc.Class {
	var application *temporal.ApplicationError
	if !errors.As(err, &application) {
		return smc.Retryable
	}
	var class smc.Class
	if application.HasDetails() && application.Details(&class) == nil {
		return class
	}
	return smc.ClassOfCode(application.Type())
}

// because turns an error into the failure of the migration; a cancellation stays one.
func (m *migration) because(err error, step string) error {
	if temporal.IsCanceledError(err) {
		return err
	}
	code, message := explain(err)
	return failure{fmt.Sprintf("%s: %s: %s", step, code, message)}
}

// enter moves the migration to a phase and tells its fleet and the world; it returns false when there is nothing to tell.
func (m *migration) enter(ctx workflow.Context, phase fleet.Phase, reason string) bool {
	previous := m.Status.Phase
	if previous == phase && m.Status.Reason == reason {
		return false
	}
	m.Status.Phase, m.Status.Reason = phase, reason
	attributes := []temporal.SearchAttributeUpdate{
		AttributePhase.ValueSet(string(phase)), AttributeReason.ValueSet(clip(reason)),
		AttributeRuns.ValueSet(int64(m.Status.Runs)), AttributeAttempts.ValueSet(int64(m.Status.Attempts)),
	}
	if m.Status.JobID != "" {
		attributes = append(attributes, AttributeJobID.ValueSet(m.Status.JobID))
	}
	if err := workflow.UpsertTypedSearchAttributes(ctx, attributes...); err != nil {
		workflow.GetLogger(ctx).Warn("search attributes not set", "error", err)
	}
	m.report(ctx)
	m.Sequence++
	m.Events = append(m.Events, activities.MigrationEvent{
		Fleet: m.Fleet, Began: m.Began, Sequence: m.Sequence, Previous: previous, Status: m.Status, Time: workflow.Now(ctx).UTC(),
	})
	m.send(ctx)
	return true
}

// clip bounds what stands in a search attribute.
func clip(text string) string {
	const most = 200
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most])
	}
	return text
}

// end is the last phase of a migration.
func (m *migration) end(ctx workflow.Context, phase fleet.Phase, message string) {
	if message != "" {
		m.Status.Error = message
	} else if phase == fleet.PhaseDone {
		m.Status.Error = ""
	}
	m.Status.EndedAt = workflow.Now(ctx).UTC()
	m.Released = max(m.Granted, m.Request)
	m.enter(ctx, phase, "")
}

// report tells the fleet. A fleet that is gone no longer needs to know.
func (m *migration) report(ctx workflow.Context) {
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	m.Report++
	m.reported = workflow.SignalExternalWorkflow(ctx, fleet.WorkflowID(m.Fleet), "", signalMigrationChanged, migrationReport{
		Life: m.Life, Number: m.Report, Status: m.Status, Requested: m.Request, Released: m.Released,
	})
}

// send publishes events in the background, in order. While NATS is away they wait; the migration does not.
func (m *migration) send(ctx workflow.Context) {
	if m.sending || len(m.Events) == 0 {
		return
	}
	m.sending = true
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	workflow.Go(ctx, func(ctx workflow.Context) {
		defer func() { m.sending = false }()
		for len(m.Events) > 0 {
			batch := slices.Clone(m.Events[:min(len(m.Events), eventBatch)])
			var notification *activities.Notification
			if err := workflow.ExecuteActivity(onNotification(ctx), notification.PublishMigration, batch).Get(ctx, nil); err != nil {
				workflow.GetLogger(ctx).Error("events not published", "error", err)
			}
			m.Events = m.Events[len(batch):]
		}
	})
}

// eventBatch is how many events one activity publishes at most.
const eventBatch = 100

// drain waits until every event is published and the fleet has the last report.
func (m *migration) drain(ctx workflow.Context) {
	ctx, cancel := workflow.NewDisconnectedContext(ctx)
	defer cancel()
	_ = workflow.Await(ctx, func() bool {
		return len(m.Events) == 0 && !m.sending && m.delivered()
	})
}

// delivered reports whether the fleet has the last report.
func (m *migration) delivered() bool { return m.reported == nil || m.reported.IsReady() }

// historyFull reports whether the workflow should go on in a new run.
func (m *migration) historyFull(ctx workflow.Context) bool {
	info := workflow.GetInfo(ctx)
	return info.GetContinueAsNewSuggested() || info.GetCurrentHistoryLength() > migrationHistory
}

// migrationHistory is the length at which a migration continues as new.
const migrationHistory = 1000

func (m *migration) continueAsNew(ctx workflow.Context) error {
	// Events that are not published yet go with it; a report that is on its way would be lost.
	if err := workflow.Await(ctx, m.delivered); err != nil {
		return err
	}
	if turn(ctx); ctx.Err() != nil { // the next run would not know of it
		return ctx.Err()
	}
	// Signals that are here already must not be left behind. Nothing may block from here on.
	changed := workflow.GetSignalChannel(ctx, fleet.SignalJobChanged)
	for {
		var change fleet.JobChanged
		if !changed.ReceiveAsync(&change) {
			break
		}
		m.jobChanged(change)
	}
	granted := workflow.GetSignalChannel(ctx, signalSlotGranted)
	for {
		var request int
		if !granted.ReceiveAsync(&request) {
			break
		}
		m.Granted = max(m.Granted, request)
	}
	if workflow.GetSignalChannel(ctx, fleet.SignalCutOver).ReceiveAsync(nil) {
		m.CutOver = true
	}
	next := m.MigrationInput
	state := m.migrationState
	next.State = &state
	return workflow.NewContinueAsNewError(ctx, Migration, next)
}

// endpointRetries are those of calls to the endpoint: what a later attempt may mend is tried until it is mended.
var endpointRetries = &temporal.RetryPolicy{InitialInterval: time.Second, BackoffCoefficient: 2, MaximumInterval: time.Minute}

// callTimeout bounds one try of a call. What a worker was about when it was killed is taken up again after
// heartbeatTimeout.
const callTimeout = 30 * time.Second

// onEndpoint schedules calls to the SMC endpoint.
func onEndpoint(ctx workflow.Context) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		TaskQueue: fleet.Queue, StartToCloseTimeout: callTimeout, HeartbeatTimeout: heartbeatTimeout, RetryPolicy: endpointRetries,
	})
}

// onNotification schedules the publishing of events; it is tried until NATS answers.
func onNotification(ctx workflow.Context) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		TaskQueue: fleet.Queue, StartToCloseTimeout: callTimeout, HeartbeatTimeout: heartbeatTimeout,
		RetryPolicy: &temporal.RetryPolicy{InitialInterval: 500 * time.Millisecond, BackoffCoefficient: 2, MaximumInterval: 30 * time.Second},
	})
}
