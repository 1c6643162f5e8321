package workflows

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/drover/drover/activities"
	"github.com/drover/drover/fleet"
	"github.com/drover/drover/smc"
)

const (
	testFleet  = "exit"
	testSource = "s-1"
	// pollTime is how often migrations poll here.
	pollTime = 2 * time.Minute
	// transferTime is how long a run takes.
	transferTime = time.Hour
	gridTime     = 12 * time.Hour
)

// epoch is when migrations and fleets begin here.
var epoch = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// outside stands between a workflow and the other workflows, which are played. It also lets activities be retried for as
// long as their policies say: the test environment gives up after ten attempts.
type outside struct {
	interceptor.WorkerInterceptorBase
	// signal takes a signal to another workflow; start the start of a child, and returns its run id; cancel a cancellation.
	signal func(workflowID, name string, argument any) error
	start  func(workflowID string, input any) (runID string, err error)
	cancel func(workflowID string) error
}

type outsideInbound struct {
	interceptor.WorkflowInboundInterceptorBase
	outside *outside
}

type outsideOutbound struct {
	interceptor.WorkflowOutboundInterceptorBase
	outside *outside
}

func (o *outside) InterceptWorkflow(_ workflow.Context, next interceptor.WorkflowInboundInterceptor) interceptor.WorkflowInboundInterceptor {
	in := &outsideInbound{outside: o}
	in.Next = next
	return in
}

func (in *outsideInbound) Init(next interceptor.WorkflowOutboundInterceptor) error {
	out := &outsideOutbound{outside: in.outside}
	out.Next = next
	return in.Next.Init(out)
}

func (out *outsideOutbound) ExecuteActivity(ctx workflow.Context, activity string, args ...any) workflow.Future {
	options := workflow.GetActivityOptions(ctx)
	policy := *options.RetryPolicy
	policy.MaximumAttempts = 1 << 30
	options.RetryPolicy = &policy
	return out.Next.ExecuteActivity(workflow.WithActivityOptions(ctx, options), activity, args...)
}

func (out *outsideOutbound) SignalExternalWorkflow(ctx workflow.Context, workflowID, _, name string, argument any) workflow.Future {
	future, settable := workflow.NewFuture(ctx)
	settable.SetError(out.outside.signal(workflowID, name, argument))
	return future
}

func (out *outsideOutbound) RequestCancelExternalWorkflow(ctx workflow.Context, workflowID, _ string) workflow.Future {
	future, settable := workflow.NewFuture(ctx)
	settable.SetError(out.outside.cancel(workflowID))
	return future
}

// startedChild is a child that was started, or not; nothing comes of it here.
type startedChild struct{ workflow.Future }

func (c startedChild) GetChildWorkflowExecution() workflow.Future { return c.Future }

func (c startedChild) SignalChildWorkflow(workflow.Context, string, any) workflow.Future {
	panic("children are signalled by their ids")
}

func (out *outsideOutbound) ExecuteChildWorkflow(ctx workflow.Context, _ string, args ...any) workflow.ChildWorkflowFuture {
	future, settable := workflow.NewFuture(ctx)
	id := workflow.GetChildWorkflowOptions(ctx).WorkflowID
	runID, err := out.outside.start(id, args[0])
	settable.Set(workflow.Execution{ID: id, RunID: runID}, err)
	return startedChild{future}
}

// timed is something that happens at a time of the workflow's clock.
type timed struct {
	at   time.Time
	do   func()
	done bool
}

// timeline is what happens when. It outlives the run of the workflow that it was planned in.
type timeline struct {
	t    *testing.T
	env  *testsuite.TestWorkflowEnvironment
	plan []*timed
}

// at has something happen after the workflow's start.
func (l *timeline) at(after time.Duration, do func()) { l.when(epoch.Add(after), do) }

func (l *timeline) when(at time.Time, do func()) {
	item := &timed{at: at, do: do}
	l.plan = append(l.plan, item)
	if l.env != nil {
		l.arm(item)
	}
}

func (l *timeline) arm(item *timed) {
	l.env.RegisterDelayedCallback(func() {
		if !item.done {
			item.done = true
			item.do()
		}
	}, max(item.at.Sub(l.env.Now()), time.Nanosecond))
}

// begin makes the environment of the next run of the workflow.
func (l *timeline) begin(start time.Time, o *outside) {
	suite := new(testsuite.WorkflowTestSuite)
	suite.SetLogger(quietLogger{testLogger{l.t}})
	l.env = suite.NewTestWorkflowEnvironment()
	l.env.SetStartTime(start)
	l.env.SetTestTimeout(stepLimit)
	l.env.SetWorkerOptions(worker.Options{Interceptors: []interceptor.WorkerInterceptor{o}, DeadlockDetectionTimeout: stepLimit})
	l.env.OnUpsertTypedSearchAttributes(mock.Anything).Return(nil).Maybe()
	for _, item := range l.plan {
		if !item.done {
			l.arm(item)
		}
	}
}

// again returns the input of the next run when the workflow has continued as new.
func again[Input any](l *timeline) (next Input, ok bool) {
	require.True(l.t, l.env.IsWorkflowCompleted())
	var continued *workflow.ContinueAsNewError
	if !errors.As(l.env.GetWorkflowError(), &continued) {
		return next, false
	}
	require.NoError(l.t, converter.GetDefaultDataConverter().FromPayloads(continued.Input, &next))
	return next, true
}

// migrationTest runs a migration against an endpoint and a fleet that are played. The endpoint has one source server and
// at most one job; its methods that are exported are the activities of a migration.
type migrationTest struct {
	timeline
	input MigrationInput
	runs  int // of the workflow
	err   error

	mu sync.Mutex
	// The endpoint.
	silent   bool // it tells of no change
	vendor   bool // it has no extensions
	source   smc.SourceState
	outcomes []string // error codes that the next runs end with; empty or none: they do not fail
	job      *activities.JobView
	created  []activities.CreateJobInput
	sequence uint64 // of the job's transitions
	lap      int    // counts starts and stops: what a run does after it was stopped does not count
	images   int
	final    bool // the run that is going is the last one
	crowded  bool // it runs as many jobs as it may: one that is started is queued
	calls    []string
	times    map[string][]time.Time
	polls    int
	failures map[string][]error // what the next calls of an activity fail with; the call is not carried out
	lost     map[string]int     // how many of the next answers of an activity get lost after it was carried out
	// The fleet and the world.
	busy     bool // there is no slot to be had
	granted  int
	reports  []migrationReport
	offline  bool // NATS is away
	events   []activities.MigrationEvent
	holdings []holding
}

// holding is when a migration took its slot, or gave it back.
type holding struct {
	at   time.Time
	held bool
}

func newMigrationTest(t *testing.T, parameters map[string]string, options fleet.Options) *migrationTest {
	t.Helper()
	if options.Retry == (fleet.Retry{}) {
		options.Retry = fleet.DefaultRetry()
	}
	return &migrationTest{
		timeline: timeline{t: t}, source: smc.SourceAvailable, failures: map[string][]error{}, lost: map[string]int{}, times: map[string][]time.Time{},
		input: MigrationInput{
			Fleet: testFleet, Wave: "pilot", SourceID: testSource, PollInterval: pollTime,
			Server: fleet.Server{Name: "web-1", Parameters: parameters, Options: options},
		},
	}
}

// incremental are the parameters of a job with a rhythm.
func incremental() map[string]string {
	return map[string]string{"RunOnce": "false", "Frequency": "12", "MaxNumberOfImageToKeep": "3"}
}

// run runs the migration to its end, through all its runs, and returns its last status.
func (m *migrationTest) run() fleet.MigrationStatus {
	m.t.Helper()
	start := epoch
	for m.runs = 1; ; m.runs++ {
		m.begin(start, &outside{signal: m.signalled})
		m.env.RegisterActivity(&endpointActivities{m})
		m.env.ExecuteWorkflow(Migration, m.input)
		next, ok := again[MigrationInput](&m.timeline)
		if !ok {
			break
		}
		start, m.input = m.env.Now(), next
	}
	m.err = m.env.GetWorkflowError()
	encoded, err := m.env.QueryWorkflow(fleet.QueryStatus)
	require.NoError(m.t, err)
	var status fleet.MigrationStatus
	require.NoError(m.t, encoded.Get(&status))
	last := m.reports[len(m.reports)-1]
	require.Equal(m.t, status.Phase, last.Status.Phase, "the fleet knows how it ended")
	require.Equal(m.t, last.Requested, last.Released, "no slot is left behind")
	for i, report := range m.reports {
		require.Equal(m.t, i+1, report.Number)
	}
	if !m.offline {
		for i, event := range m.events {
			require.Equal(m.t, uint64(i+1), event.Sequence, "every event once, in order")
			require.Equal(m.t, m.events[0].Began, event.Began)
		}
		require.Equal(m.t, status.Phase, m.events[len(m.events)-1].Status.Phase)
	}
	return status
}

// signalled plays the fleet: it grants the slots that are asked for.
func (m *migrationTest) signalled(workflowID, name string, argument any) error {
	assert.Equal(m.t, fleet.WorkflowID(testFleet), workflowID)
	assert.Equal(m.t, signalMigrationChanged, name)
	report := argument.(migrationReport)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reports = append(m.reports, report)
	if m.held() && report.Released >= m.granted {
		m.holdings = append(m.holdings, holding{m.env.Now().UTC(), false})
	}
	m.grant()
	return nil
}

func (m *migrationTest) held() bool {
	return len(m.holdings) > 0 && m.holdings[len(m.holdings)-1].held
}

func (m *migrationTest) grant() {
	last := m.reports[len(m.reports)-1]
	if m.busy || last.Requested <= m.granted || last.Requested <= last.Released {
		return
	}
	m.granted = last.Requested
	m.holdings = append(m.holdings, holding{m.env.Now().UTC(), true})
	m.env.SignalWorkflow(signalSlotGranted, m.granted)
}

// free has the fleet give the slot that was asked for.
func (m *migrationTest) free() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.busy = false
	m.grant()
}

// refuse has the next calls of an activity fail.
func (m *migrationTest) refuse(activity string, failures ...error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failures[activity] = append(m.failures[activity], failures...)
}

func (m *migrationTest) phases() []fleet.Phase {
	var phases []fleet.Phase
	for _, report := range m.reports {
		if phase := report.Status.Phase; len(phases) == 0 || phases[len(phases)-1] != phase {
			phases = append(phases, phase)
		}
	}
	return phases
}

// count is how often an activity was called.
func (m *migrationTest) count(activity string) int {
	n := 0
	for _, call := range m.calls {
		if call == activity {
			n++
		}
	}
	return n
}

// move is a transition of the job.
func (m *migrationTest) move(status smc.JobStatus) {
	m.sequence++
	m.job.Status = status
	if m.silent {
		return
	}
	m.env.SignalWorkflow(fleet.SignalJobChanged, fleet.JobChanged{JobID: m.job.JobID, Sequence: m.sequence, Status: string(status)})
}

// startRun starts a run of the job, or queues it.
func (m *migrationTest) startRun(final bool) {
	if m.crowded {
		m.final, m.job.Queued = final, true
		m.move(m.job.Status)
		return
	}
	m.job.Queued = false
	m.lap++
	lap := m.lap
	m.final = final
	m.move(smc.StatusRunning)
	m.when(m.env.Now().Add(transferTime), func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.lap == lap && m.job != nil && m.job.Status == smc.StatusRunning {
			m.finish()
		}
	})
}

// finish ends the run as it is to end.
func (m *migrationTest) finish() {
	var code string
	if len(m.outcomes) > 0 {
		code, m.outcomes = m.outcomes[0], m.outcomes[1:]
	}
	if code != "" {
		m.job.ErrorCode, m.job.StatusInfo = code, "a run failed"
		m.move(smc.StatusInError)
		return
	}
	m.images++
	m.job.ErrorCode, m.job.StatusInfo = "", ""
	m.job.ImageID = fmt.Sprint("m-", m.images)
	m.job.Images = append(m.job.Images, m.job.ImageID)
	if m.final {
		m.move(smc.StatusFinished)
		return
	}
	m.move(smc.StatusWaiting)
	lap := m.lap
	m.when(m.env.Now().Add(gridTime-transferTime), func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.lap == lap && m.job != nil && m.job.Status == smc.StatusWaiting {
			m.startRun(false)
		}
	})
}

func (m *migrationTest) once() bool { return m.input.Server.Parameters["RunOnce"] != "false" }

// byHand is what someone else does to the job.
func (m *migrationTest) byHand(after time.Duration, do func()) {
	m.at(after, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		do()
	})
}

// endpointActivities are the activities of a migration.
type endpointActivities struct{ m *migrationTest }

// called notes a call; the caller holds the lock.
func (e *endpointActivities) called(name string) error {
	e.m.calls = append(e.m.calls, name)
	e.m.times[name] = append(e.m.times[name], e.m.env.Now())
	if queue := e.m.failures[name]; len(queue) > 0 {
		e.m.failures[name] = queue[1:]
		return queue[0]
	}
	return nil
}

// answered loses an answer that is to get lost; the caller holds the lock.
func (e *endpointActivities) answered(name string) error {
	if e.m.lost[name] > 0 {
		e.m.lost[name]--
		return temporal.NewApplicationError("no answer", smc.CodeInternalError)
	}
	return nil
}

func (e *endpointActivities) Preflight(_ context.Context, in activities.PreflightInput) (*activities.PreflightResult, error) {
	e.m.mu.Lock()
	defer e.m.mu.Unlock()
	assert.Equal(e.m.t, activities.PreflightInput{SourceID: testSource, JobName: "exit:web-1"}, in)
	if err := e.called("Preflight"); err != nil {
		return nil, err
	}
	if e.m.job != nil {
		return &activities.PreflightResult{Job: e.view()}, nil
	}
	if e.m.source != smc.SourceAvailable {
		return nil, refusal(smc.CodeSourceServerStateInvalid, "the source is "+string(e.m.source))
	}
	return &activities.PreflightResult{}, nil
}

func (e *endpointActivities) CreateJob(_ context.Context, in activities.CreateJobInput) (string, error) {
	e.m.mu.Lock()
	defer e.m.mu.Unlock()
	if err := e.called("CreateJob"); err != nil {
		return "", err
	}
	if e.m.job == nil {
		e.m.created = append(e.m.created, in)
		e.m.job = &activities.JobView{JobID: fmt.Sprint("j-", len(e.m.created))}
		e.m.sequence = 0
		e.m.move(smc.StatusReady)
		if at := in.Server.Parameters["ScheduledStartTime"]; at != "" {
			due, err := smc.ParseTime(at)
			assert.NoError(e.m.t, err)
			e.m.when(due, func() {
				e.m.mu.Lock()
				defer e.m.mu.Unlock()
				e.m.startRun(e.m.once())
			})
		}
	} else if in.ClientToken != e.m.created[len(e.m.created)-1].ClientToken {
		return "", refusal(smc.CodeReplicationJobNameDuplicate, "the name is taken")
	}
	return e.m.job.JobID, e.answered("CreateJob")
}

func (e *endpointActivities) view() *activities.JobView {
	if e.m.job == nil {
		return &activities.JobView{}
	}
	view := *e.m.job
	view.Images = slices.Clone(view.Images)
	return &view
}

func (e *endpointActivities) DescribeJob(context.Context, string) (*activities.JobView, error) {
	e.m.mu.Lock()
	defer e.m.mu.Unlock()
	return e.view(), e.called("DescribeJob")
}

func (e *endpointActivities) AwaitJob(_ context.Context, in activities.AwaitJobInput) (*activities.JobView, error) {
	e.m.mu.Lock()
	defer e.m.mu.Unlock()
	e.m.polls++
	view := e.view()
	news := slices.ContainsFunc(view.Images, func(image string) bool { return !slices.Contains(in.Images, image) })
	if slices.Contains(in.While, view.Status) && (view.Queued || !in.Queued) && !news {
		return nil, temporal.NewApplicationError("no change", activities.TypeUnchanged)
	}
	return view, nil
}

func (e *endpointActivities) StartJob(context.Context, string) error {
	e.m.mu.Lock()
	defer e.m.mu.Unlock()
	if err := e.called("StartJob"); err != nil {
		return err
	}
	switch e.m.job.Status {
	case smc.StatusReady, smc.StatusInError, smc.StatusStopped:
		e.m.startRun(e.m.once() || e.m.final)
	}
	return e.answered("StartJob")
}

func (e *endpointActivities) CutOver(_ context.Context, in activities.CutOverInput) error {
	e.m.mu.Lock()
	defer e.m.mu.Unlock()
	if err := e.called(fmt.Sprint("CutOver ", in.SyncData)); err != nil {
		return err
	}
	switch {
	case e.m.job.Status != smc.StatusWaiting:
		return refusal(smc.CodeReplicationJobInvalidStatus, "not Waiting")
	case in.SyncData:
		e.m.startRun(true)
	default:
		e.m.move(smc.StatusFinished)
	}
	return e.answered("CutOver")
}

func (e *endpointActivities) RemoveJob(context.Context, string) ([]string, error) {
	e.m.mu.Lock()
	defer e.m.mu.Unlock()
	if err := e.called("RemoveJob"); err != nil {
		return nil, err
	}
	var images []string
	if e.m.job != nil {
		images = e.m.job.Images
	}
	e.m.job = nil
	return images, nil
}

func (e *endpointActivities) VerifyImage(_ context.Context, in activities.VerifyImageInput) (*activities.VerifyImageResult, error) {
	e.m.mu.Lock()
	defer e.m.mu.Unlock()
	if err := e.called("VerifyImage"); err != nil {
		return nil, err
	}
	assert.Equal(e.m.t, e.m.job.ImageID, in.ImageID)
	if e.m.vendor {
		return &activities.VerifyImageResult{}, nil
	}
	return &activities.VerifyImageResult{Verified: true, BytesRead: 100, BytesSent: 50}, nil
}

func (e *endpointActivities) PublishMigration(_ context.Context, events []activities.MigrationEvent) error {
	e.m.mu.Lock()
	defer e.m.mu.Unlock()
	if e.m.offline {
		return errors.New("there is no NATS")
	}
	for _, event := range events {
		if n := len(e.m.events); n > 0 && event.Sequence <= e.m.events[n-1].Sequence {
			continue // PublishOnce drops what was published before
		}
		e.m.events = append(e.m.events, event)
	}
	return nil
}

func TestMigrationOneTime(t *testing.T) {
	m := newMigrationTest(t, map[string]string{"TargetType": "Image"}, fleet.Options{})
	status := m.run()
	require.NoError(t, m.err)
	require.Equal(t, []fleet.Phase{
		fleet.PhasePreflight, fleet.PhaseCreating, fleet.PhaseQueued, fleet.PhaseStarting, fleet.PhaseReplicate,
		fleet.PhaseVerifying, fleet.PhaseCleaningUp, fleet.PhaseDone,
	}, m.phases())
	require.Equal(t, fleet.MigrationStatus{
		Name: "web-1", SourceID: testSource, Wave: "pilot", Phase: fleet.PhaseDone, Status: "Finished", JobID: "j-1", ImageID: "m-1", Runs: 1,
		BytesRead: 100, BytesSent: 50, StartedAt: epoch, EndedAt: epoch.Add(transferTime), Verified: true, Images: []string{"m-1"},
	}, truncated(status))
	require.Nil(t, m.job, "the job is deleted, its image stays")
	require.Equal(t, 1, m.count("StartJob"))
	require.Equal(t, 3, m.count("DescribeJob"), "after create, start and end: events of what it did itself are no reason to look")
	require.Len(t, m.holdings, 2)
	require.Equal(t, transferTime, m.holdings[1].at.Sub(m.holdings[0].at).Truncate(time.Minute), "one slot, while the job runs")
	created := m.created[0]
	require.Equal(t, "exit:web-1", created.JobName)
	require.NotEmpty(t, created.ClientToken)
	require.Equal(t, epoch.Add(smc.DefaultValidity), created.ValidTime)
}

// An endpoint that runs as many jobs as it may queues a start: the migration waits for it, and neither starts the job again nor
// takes it for a failure.
func TestMigrationQueuedByTheEndpoint(t *testing.T) {
	queued := 5 * time.Hour
	admitted := func(m *migrationTest, after time.Duration) {
		m.byHand(after, func() {
			m.crowded = false
			m.startRun(m.final)
		})
	}
	t.Run("the first start", func(t *testing.T) {
		for _, silent := range []bool{false, true} {
			m := newMigrationTest(t, nil, fleet.Options{})
			m.crowded, m.silent = true, silent
			admitted(m, queued)
			status := m.run()
			require.NoError(t, m.err)
			require.Equal(t, 1, m.count("StartJob"))
			require.Less(t, m.count("DescribeJob"), 6)
			require.Equal(t, 1, m.runs)
			require.True(t, slices.ContainsFunc(m.reports, func(r migrationReport) bool {
				return r.Status.Phase == fleet.PhaseStarting && strings.Contains(r.Status.Reason, "queued by the endpoint")
			}))
			require.WithinDuration(t, epoch.Add(queued), status.StartedAt, pollTime+time.Minute)
			require.Len(t, m.holdings, 2, "one slot, kept while the job is queued")
		}
	})
	t.Run("a retry", func(t *testing.T) {
		m := newMigrationTest(t, nil, fleet.Options{})
		m.outcomes = []string{smc.CodeSourceDiskReadError}
		m.byHand(30*time.Minute, func() { m.crowded = true })
		admitted(m, queued)
		status := m.run()
		require.NoError(t, m.err)
		require.Equal(t, 2, m.count("StartJob"))
		require.Equal(t, 1, status.Attempts, "a queued job uses up no retry")
	})
	t.Run("a cutover", func(t *testing.T) {
		m := newMigrationTest(t, incremental(), fleet.Options{CutOver: &fleet.CutOver{AfterRuns: 2}})
		m.byHand(30*time.Minute, func() { m.crowded = true })
		admitted(m, queued)
		status := m.run()
		require.NoError(t, m.err)
		require.Equal(t, 1, m.count("CutOver true"))
		require.Equal(t, 2, status.Runs)
		require.NotContains(t, m.phases()[slices.Index(m.phases(), fleet.PhaseCuttingOver):], fleet.PhaseWaiting)
	})
	t.Run("a run of its own rhythm", func(t *testing.T) {
		m := newMigrationTest(t, incremental(), fleet.Options{CutOver: &fleet.CutOver{AfterRuns: 3}})
		m.byHand(2*time.Hour, func() { m.crowded = true })
		admitted(m, gridTime+queued)
		status := m.run()
		require.NoError(t, m.err)
		require.Equal(t, 3, status.Runs)
		require.Less(t, m.count("DescribeJob"), 15, "it waits, it does not spin")
	})
	t.Run("withdrawn by hand", func(t *testing.T) {
		m := newMigrationTest(t, nil, fleet.Options{})
		m.crowded = true
		m.byHand(time.Hour, func() {
			m.job.Queued = false
			m.move(m.job.Status)
		})
		m.byHand(2*time.Hour, func() {
			assert.Equal(t, 1, m.count("StartJob"), "it was withdrawn on purpose")
			last := m.reports[len(m.reports)-1].Status
			assert.Equal(t, fleet.PhaseWaiting, last.Phase)
			assert.Contains(t, last.Reason, "withdrawn by hand")
			assert.False(t, m.held(), "who waits for a person holds no slot")
		})
		admitted(m, queued)
		status := m.run()
		require.NoError(t, m.err)
		require.Equal(t, fleet.PhaseDone, status.Phase)
	})
	t.Run("cancelled", func(t *testing.T) {
		m := newMigrationTest(t, nil, fleet.Options{})
		m.crowded = true
		m.at(time.Hour, func() { m.env.CancelWorkflow() })
		require.Equal(t, fleet.PhaseCancelled, m.run().Phase)
		require.Nil(t, m.job)
	})
}

// truncated drops what the clock of the test environment adds.
func truncated(status fleet.MigrationStatus) fleet.MigrationStatus {
	status.StartedAt, status.EndedAt = status.StartedAt.Truncate(time.Minute), status.EndedAt.Truncate(time.Minute)
	return status
}

func TestMigrationKeepsJob(t *testing.T) {
	m := newMigrationTest(t, nil, fleet.Options{KeepJob: true})
	require.Equal(t, fleet.PhaseDone, m.run().Phase)
	require.NotNil(t, m.job)
	require.Zero(t, m.count("RemoveJob"))
}

// The endpoint starts a job that has a ScheduledStartTime; the migration takes its slot before and never calls Start.
func TestMigrationScheduledByTheEndpoint(t *testing.T) {
	due := epoch.Add(6 * time.Hour)
	m := newMigrationTest(t, map[string]string{"ScheduledStartTime": smc.FormatTime(due)}, fleet.Options{})
	m.busy = true
	m.at(time.Hour, func() {
		assert.Empty(t, m.created, "no job before there is a slot: nobody could keep it from starting")
		m.free()
	})
	status := m.run()
	require.NoError(t, m.err)
	require.Zero(t, m.count("StartJob"))
	require.Contains(t, m.phases(), fleet.PhaseScheduled)
	require.Equal(t, due.Add(transferTime), status.EndedAt.Truncate(time.Minute))
}

func TestMigrationWindow(t *testing.T) {
	opens := epoch.Add(3 * time.Hour)
	window := &fleet.Window{NotBefore: opens, NotAfter: epoch.Add(5 * time.Hour)}
	t.Run("not before", func(t *testing.T) {
		m := newMigrationTest(t, nil, fleet.Options{Window: window})
		status := m.run()
		require.NoError(t, m.err)
		require.Equal(t, opens, status.StartedAt.Truncate(time.Minute))
		require.Equal(t, opens, m.holdings[0].at.Truncate(time.Minute), "who waits for the window holds no slot")
	})
	t.Run("not after", func(t *testing.T) {
		m := newMigrationTest(t, nil, fleet.Options{Window: window})
		m.busy = true
		status := m.run()
		require.Equal(t, migrationFailed, errorType(m.err))
		require.Equal(t, fleet.PhaseFailed, status.Phase)
		require.Equal(t, window.NotAfter, status.EndedAt.Truncate(time.Minute), "it does not wait for a slot that comes too late")
		require.Contains(t, status.Error, "the window closed")
		require.Contains(t, status.Remains, "job j-1, Ready")
		require.Zero(t, m.count("StartJob"))
	})
	t.Run("started by hand before it opens", func(t *testing.T) {
		m := newMigrationTest(t, nil, fleet.Options{Window: window})
		m.byHand(time.Hour, func() { m.startRun(true) })
		status := m.run()
		require.NoError(t, m.err)
		require.Equal(t, epoch.Add(time.Hour), status.StartedAt.Truncate(time.Minute))
		require.Zero(t, m.count("StartJob"))
	})
}

func TestMigrationIncremental(t *testing.T) {
	for runs, ended := range map[int]time.Duration{
		1: transferTime,              // the first run is the last one
		2: 2 * transferTime,          // cut over as soon as it rests
		3: gridTime + 2*transferTime, // one run by the endpoint's rhythm between
	} {
		t.Run(fmt.Sprint("cut over after ", runs), func(t *testing.T) {
			m := newMigrationTest(t, incremental(), fleet.Options{CutOver: &fleet.CutOver{AfterRuns: runs}})
			status := m.run()
			require.NoError(t, m.err)
			require.Equal(t, runs, status.Runs)
			require.Len(t, status.Images, runs)
			require.Equal(t, status.Images[runs-1], status.ImageID)
			require.Equal(t, epoch.Add(ended), status.EndedAt.Truncate(time.Minute))
			require.Equal(t, 1, m.count("StartJob"))
			require.Equal(t, runs > 1, m.count("CutOver true") == 1)
			require.Equal(t, runs == 1, m.count("CutOver false") == 1)
			if runs == 3 { // one slot for the first run, one for the last; between them it holds none
				require.Len(t, m.holdings, 4)
				require.Contains(t, m.phases(), fleet.PhaseWaiting)
			}
		})
	}
}

func TestMigrationCutOverByHand(t *testing.T) {
	m := newMigrationTest(t, incremental(), fleet.Options{})
	m.at(30*time.Hour, func() { m.env.SignalWorkflow(fleet.SignalCutOver, nil) })
	status := m.run()
	require.NoError(t, m.err)
	require.Equal(t, 4, status.Runs, "three by the rhythm, one by the cutover")
	require.Equal(t, epoch.Add(30*time.Hour+transferTime), status.EndedAt.Truncate(time.Minute))
}

// A cutover that is asked for while a run is going is done when that run is over.
func TestMigrationCutOverByHandDuringARun(t *testing.T) {
	m := newMigrationTest(t, incremental(), fleet.Options{})
	m.at(30*time.Minute, func() { m.env.SignalWorkflow(fleet.SignalCutOver, nil) })
	require.Equal(t, 2, m.run().Runs)
	require.NoError(t, m.err)
}

// The answer of a cutover gets lost; the second try finds the job no longer Waiting.
func TestMigrationCutOverAnswerLost(t *testing.T) {
	m := newMigrationTest(t, incremental(), fleet.Options{CutOver: &fleet.CutOver{AfterRuns: 2}})
	m.lost["CutOver"] = 1
	require.Equal(t, 2, m.run().Runs)
	require.NoError(t, m.err)
}

// A run by the endpoint's rhythm begins while the cutover is queued: it is followed, and the cutover comes after it.
func TestMigrationRunBeginsWhileCutOverIsQueued(t *testing.T) {
	m := newMigrationTest(t, incremental(), fleet.Options{CutOver: &fleet.CutOver{AfterRuns: 3}})
	m.byHand(gridTime+transferTime/2, func() { m.busy = true })
	m.at(2*gridTime+transferTime/2, func() {
		assert.Equal(t, fleet.PhaseReplicate, m.reports[len(m.reports)-1].Status.Phase)
		m.free()
	})
	status := m.run()
	require.NoError(t, m.err)
	require.Equal(t, 3, status.Runs, "the run that began by itself was the third: there is nothing left to copy")
	require.Equal(t, 1, m.count("CutOver false"))
}

func TestMigrationRetries(t *testing.T) {
	retry := fleet.Retry{Limit: 3, Interval: time.Minute, MaxInterval: time.Hour}
	code := smc.CodeSourceServerOffline
	t.Run("then succeeds", func(t *testing.T) {
		m := newMigrationTest(t, nil, fleet.Options{Retry: retry})
		m.outcomes = []string{code, code, code}
		status := m.run()
		require.NoError(t, m.err)
		require.Equal(t, fleet.PhaseDone, status.Phase)
		require.Empty(t, status.Error)
		require.Equal(t, 3, status.Attempts)
		starts := m.times["StartJob"]
		require.Len(t, starts, 4)
		for i, wait := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute} {
			require.Equal(t, transferTime+wait, starts[i+1].Sub(starts[i]).Truncate(time.Minute))
		}
		require.Len(t, m.holdings, 8, "who waits to try again holds no slot")
	})
	t.Run("then gives up", func(t *testing.T) {
		m := newMigrationTest(t, nil, fleet.Options{Retry: retry})
		m.outcomes = []string{code, code, code, code}
		status := m.run()
		require.Equal(t, migrationFailed, errorType(m.err))
		require.Equal(t, fleet.PhaseFailed, status.Phase)
		require.Contains(t, status.Error, "after 3 retries: "+code)
		require.Contains(t, status.Remains, "job j-1, InError")
		require.NotNil(t, m.job, "a failed job can be gone on with")
		require.Equal(t, 4, m.count("StartJob"))
	})
	t.Run("never what no retry mends", func(t *testing.T) {
		m := newMigrationTest(t, nil, fleet.Options{Retry: retry})
		m.outcomes = []string{smc.CodeUnsupportedFeature}
		status := m.run()
		require.Equal(t, fleet.PhaseFailed, status.Phase)
		require.Contains(t, status.Error, "which no retry mends")
		require.Equal(t, 1, m.count("StartJob"))
	})
	t.Run("what nobody knows", func(t *testing.T) {
		m := newMigrationTest(t, nil, fleet.Options{Retry: retry})
		m.outcomes = []string{"Vendor.Internal.Trouble"}
		require.Equal(t, fleet.PhaseDone, m.run().Phase)
	})
	t.Run("and a run that succeeds starts the count anew", func(t *testing.T) {
		m := newMigrationTest(t, incremental(), fleet.Options{Retry: retry, CutOver: &fleet.CutOver{AfterRuns: 2}})
		m.outcomes = []string{code, code, "", code, code, code}
		status := m.run()
		require.NoError(t, m.err)
		require.Equal(t, 2, status.Runs)
		require.Equal(t, 6, m.count("StartJob"))
	})
	t.Run("unless the operator was faster", func(t *testing.T) {
		m := newMigrationTest(t, nil, fleet.Options{Retry: fleet.Retry{Limit: 3, Interval: time.Hour, MaxInterval: time.Hour}})
		m.outcomes = []string{code}
		m.byHand(transferTime+time.Minute, func() { m.startRun(true) })
		status := m.run()
		require.NoError(t, m.err)
		require.Equal(t, 1, m.count("StartJob"))
		require.Equal(t, epoch.Add(2*transferTime+time.Minute), status.EndedAt.Truncate(time.Minute))
	})
	t.Run("and the operator is faster than the slot", func(t *testing.T) {
		m := newMigrationTest(t, nil, fleet.Options{Retry: retry})
		m.outcomes = []string{code}
		m.byHand(transferTime/2, func() { m.busy = true })
		m.byHand(transferTime+10*time.Minute, func() { m.startRun(true) })
		require.Equal(t, fleet.PhaseDone, m.run().Phase)
		require.Equal(t, 1, m.count("StartJob"))
	})
	t.Run("at its time, whatever is told twice", func(t *testing.T) {
		m := newMigrationTest(t, nil, fleet.Options{Retry: fleet.Retry{Limit: 3, Interval: time.Hour, MaxInterval: time.Hour}})
		m.outcomes = []string{code}
		m.byHand(transferTime+30*time.Minute, func() { m.move(smc.StatusInError) })
		m.run()
		starts := m.times["StartJob"]
		require.Equal(t, transferTime+time.Hour, starts[1].Sub(starts[0]).Truncate(time.Minute))
	})
}

func TestMigrationStoppedByHand(t *testing.T) {
	m := newMigrationTest(t, nil, fleet.Options{})
	m.byHand(10*time.Minute, func() { m.lap++; m.move(smc.StatusStopped) })
	m.at(20*time.Minute, func() {
		last := m.reports[len(m.reports)-1]
		assert.Equal(t, fleet.PhaseWaiting, last.Status.Phase)
		assert.Contains(t, last.Status.Reason, "stopped by hand")
		assert.Equal(t, last.Requested, last.Released, "it holds no slot")
	})
	m.byHand(time.Hour, func() { m.startRun(true) })
	require.Equal(t, fleet.PhaseDone, m.run().Phase)
}

func TestMigrationJobIsNoMore(t *testing.T) {
	for name, c := range map[string]struct {
		do      func(m *migrationTest)
		message string
		remains string
	}{
		"expired":       {func(m *migrationTest) { m.lap++; m.move(smc.StatusExpired) }, "expired", "job j-1, Expired, with its staging"},
		"deleted":       {func(m *migrationTest) { m.job = nil }, "someone deleted it", ""},
		"being deleted": {func(m *migrationTest) { m.move(smc.StatusDeleting) }, "someone deleted it", ""},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMigrationTest(t, nil, fleet.Options{})
			m.byHand(10*time.Minute, func() { c.do(m) })
			status := m.run()
			require.Equal(t, fleet.PhaseFailed, status.Phase)
			require.Contains(t, status.Error, c.message)
			require.Equal(t, c.remains, status.Remains)
		})
	}
}

func TestMigrationSourceUnavailable(t *testing.T) {
	t.Run("then Available", func(t *testing.T) {
		m := newMigrationTest(t, nil, fleet.Options{Retry: fleet.Retry{Limit: 3, Interval: time.Hour, MaxInterval: time.Hour}})
		m.source = smc.SourceUnavailable
		m.byHand(90*time.Minute, func() {
			assert.Contains(t, m.reports[len(m.reports)-1].Status.Reason, "retry 2 of 3")
			m.source = smc.SourceAvailable
		})
		require.Equal(t, fleet.PhaseDone, m.run().Phase)
		require.Equal(t, 3, m.count("Preflight"))
	})
	t.Run("for good", func(t *testing.T) {
		m := newMigrationTest(t, nil, fleet.Options{})
		m.source = smc.SourceUnavailable
		status := m.run()
		require.Equal(t, fleet.PhaseFailed, status.Phase)
		require.Contains(t, status.Error, "preflight: "+smc.CodeSourceServerStateInvalid)
		require.Empty(t, status.Remains)
	})
}

func TestMigrationTakesOverAnExistingJob(t *testing.T) {
	for status, starts := range map[smc.JobStatus]int{smc.StatusReady: 1, smc.StatusInError: 1, smc.StatusFinished: 0} {
		t.Run(string(status), func(t *testing.T) {
			m := newMigrationTest(t, nil, fleet.Options{})
			m.job = &activities.JobView{JobID: "j-old", Status: status, ErrorCode: smc.CodeSourceServerOffline, ImageID: "m-old"}
			m.created = []activities.CreateJobInput{{}}
			got := m.run()
			require.NoError(t, m.err)
			require.Equal(t, "j-old", got.JobID)
			require.Zero(t, m.count("CreateJob"))
			require.Equal(t, starts, m.count("StartJob"))
		})
	}
}

// Without events the poll finds everything, also a run that begins and ends between two polls.
func TestMigrationPolls(t *testing.T) {
	m := newMigrationTest(t, incremental(), fleet.Options{CutOver: &fleet.CutOver{AfterRuns: 3}})
	m.silent = true
	m.byHand(2*transferTime+30*time.Second, func() {
		m.startRun(false)
		m.finish()
	})
	status := m.run()
	require.NoError(t, m.err)
	require.Equal(t, 3, status.Runs)
	require.WithinDuration(t, epoch.Add(3*transferTime), status.EndedAt, 3*pollTime)
}

// With events, a migration does not wait for a poll.
func TestMigrationIsWokenByEvents(t *testing.T) {
	m := newMigrationTest(t, nil, fleet.Options{})
	m.input.PollInterval = 24 * time.Hour
	require.Equal(t, epoch.Add(transferTime), m.run().EndedAt.Truncate(time.Minute))
	require.Equal(t, 1, m.polls, "the one that follows the start")
}

// Events of another job, and those that were seen before, are no reason to look.
func TestMigrationDropsOldNews(t *testing.T) {
	m := newMigrationTest(t, nil, fleet.Options{})
	m.input.PollInterval = 24 * time.Hour
	m.at(10*time.Minute, func() {
		looks := m.count("DescribeJob")
		m.env.SignalWorkflow(fleet.SignalJobChanged, fleet.JobChanged{JobID: "j-other", Sequence: 99})
		m.env.SignalWorkflow(fleet.SignalJobChanged, fleet.JobChanged{JobID: "j-1", Sequence: 1})
		m.env.SignalWorkflow(fleet.SignalJobChanged, fleet.JobChanged{JobID: "j-1", Sequence: 2})
		m.at(20*time.Minute, func() { assert.Equal(t, looks, m.count("DescribeJob")) })
	})
	require.Equal(t, fleet.PhaseDone, m.run().Phase)
}

// An event of a job of an earlier life, which comes before this one's job is known, must not make its events old news.
func TestMigrationEventBeforeTheJobIsKnown(t *testing.T) {
	m := newMigrationTest(t, nil, fleet.Options{Retry: fleet.Retry{Limit: 1, Interval: time.Hour, MaxInterval: time.Hour}})
	m.input.PollInterval = 24 * time.Hour
	m.refuse("Preflight", refusal(smc.CodeForbiddenUnauthorized, "no permission"))
	m.at(time.Minute, func() {
		m.env.SignalWorkflow(fleet.SignalJobChanged, fleet.JobChanged{JobID: "j-earlier", Sequence: 99, Status: "Deleting"})
	})
	require.Equal(t, epoch.Add(time.Hour+transferTime), m.run().EndedAt.Truncate(time.Minute))
}

// The endpoint has taken the start, and shows it later.
func TestMigrationStartIsShownLate(t *testing.T) {
	m := newMigrationTest(t, nil, fleet.Options{})
	m.refuse("StartJob", refusal(smc.CodeReplicationJobInvalidStatus, "started already and queued for a running slot"))
	m.byHand(10*time.Second, func() { m.startRun(true) })
	require.Equal(t, fleet.PhaseDone, m.run().Phase)
	require.Equal(t, 1, m.count("StartJob"))
}

func TestMigrationCreateAnswerLost(t *testing.T) {
	m := newMigrationTest(t, nil, fleet.Options{})
	m.lost["CreateJob"] = 2
	require.Equal(t, fleet.PhaseDone, m.run().Phase)
	require.Len(t, m.created, 1)
}

// The answer gets lost, and then the key is withdrawn for a while: the next attempt takes over what the first one made.
func TestMigrationCreateAnswerLostThenRefused(t *testing.T) {
	m := newMigrationTest(t, nil, fleet.Options{})
	m.lost["CreateJob"] = 1
	m.at(500*time.Millisecond, func() { m.refuse("CreateJob", refusal(smc.CodeForbiddenUnauthorized, "no permission")) })
	require.Equal(t, fleet.PhaseDone, m.run().Phase)
	require.Len(t, m.created, 1)
	require.Equal(t, 2, m.count("Preflight"))
}

func TestMigrationCreateRefused(t *testing.T) {
	m := newMigrationTest(t, nil, fleet.Options{})
	m.refuse("CreateJob", refusal(smc.CodeInvalidParameter, "SystemDiskSize"), refusal(smc.CodeInvalidParameter, "SystemDiskSize"))
	status := m.run()
	require.Equal(t, fleet.PhaseFailed, status.Phase)
	require.Contains(t, status.Error, "create: InvalidParameter: SystemDiskSize")
	require.Empty(t, status.Remains)
}

// What is to be done about a code that is in no table is said by the endpoint's answer.
func TestMigrationWaitsForTheOperator(t *testing.T) {
	m := newMigrationTest(t, nil, fleet.Options{})
	m.refuse("CreateJob", temporal.NewNonRetryableApplicationError("no", "Forbidden.RAM", nil, smc.Operator))
	require.Equal(t, fleet.PhaseDone, m.run().Phase)
	require.Equal(t, 2, m.count("CreateJob"))
}

// While nobody may look at the job it goes on, and so does its migration.
func TestMigrationOutlivesAWithdrawnKey(t *testing.T) {
	m := newMigrationTest(t, nil, fleet.Options{Retry: fleet.Retry{Limit: 1, Interval: time.Minute, MaxInterval: time.Minute}})
	m.at(transferTime/2, func() {
		for range 2 {
			m.refuse("DescribeJob", refusal(smc.CodeForbiddenUnauthorized, "no permission"))
		}
	})
	require.Equal(t, fleet.PhaseDone, m.run().Phase)
	require.True(t, slices.ContainsFunc(m.reports, func(r migrationReport) bool {
		return strings.Contains(r.Status.Reason, "the job cannot be looked at")
	}))
}

func TestMigrationVerification(t *testing.T) {
	t.Run("fails", func(t *testing.T) {
		m := newMigrationTest(t, nil, fleet.Options{})
		m.refuse("VerifyImage", refusal(smc.CodeImageVerificationFailed, "disk 0 differs"))
		status := m.run()
		require.Equal(t, fleet.PhaseFailed, status.Phase)
		require.Contains(t, status.Error, "verification: "+smc.CodeImageVerificationFailed+": disk 0 differs")
		require.False(t, status.Verified)
		require.Equal(t, "job j-1, Finished, with its staging; images m-1", status.Remains)
		require.Equal(t, 1, m.count("VerifyImage"), "bytes that are wrong do not get right")
		require.NotNil(t, m.job)
	})
	t.Run("is not offered", func(t *testing.T) {
		m := newMigrationTest(t, nil, fleet.Options{})
		m.vendor = true
		status := m.run()
		require.Equal(t, fleet.PhaseDone, status.Phase)
		require.False(t, status.Verified)
		require.Equal(t, "m-1", status.ImageID)
	})
	t.Run("has no image", func(t *testing.T) {
		m := newMigrationTest(t, nil, fleet.Options{})
		m.job = &activities.JobView{JobID: "j-old", Status: smc.StatusFinished}
		require.Contains(t, m.run().Error, "names no image")
	})
}

func TestMigrationCancelled(t *testing.T) {
	due := smc.FormatTime(epoch.Add(10 * time.Hour))
	cases := map[string]struct {
		phase      fleet.Phase
		parameters map[string]string
		options    fleet.Options
		prepare    func(m *migrationTest)
		after      time.Duration
		remains    string
		noJob      bool
	}{
		"in preflight": {
			phase: fleet.PhasePreflight, prepare: func(m *migrationTest) { m.source = smc.SourceUnavailable }, after: 5 * time.Second, noJob: true,
		},
		"before it is created, while queued": {
			phase: fleet.PhaseQueued, parameters: map[string]string{"ScheduledStartTime": due}, prepare: func(m *migrationTest) { m.busy = true },
			after: time.Minute, noJob: true,
		},
		"while it is created, the answer lost": {
			phase: fleet.PhaseCreating, prepare: func(m *migrationTest) { m.lost["CreateJob"] = 100 }, after: time.Minute,
		},
		"while it is created, and it cannot be": {
			phase: fleet.PhaseCreating, prepare: func(m *migrationTest) {
				m.refuse("CreateJob", refusal(smc.CodeQuotaExceededReplicationJob, "too many jobs"))
			}, after: 5 * time.Second, noJob: true,
		},
		"while queued": {phase: fleet.PhaseQueued, prepare: func(m *migrationTest) { m.busy = true }, after: time.Minute},
		"while it waits for the endpoint's time": {
			phase: fleet.PhaseScheduled, parameters: map[string]string{"ScheduledStartTime": due}, after: time.Hour,
		},
		"while it waits for the window": {
			phase: fleet.PhaseScheduled, options: fleet.Options{Window: &fleet.Window{NotBefore: epoch.Add(time.Hour)}}, after: time.Minute,
		},
		"while it is started": {
			phase: fleet.PhaseStarting, prepare: func(m *migrationTest) { m.lost["StartJob"] = 100 }, after: 30 * time.Second,
		},
		"while it runs": {phase: fleet.PhaseReplicate, after: transferTime / 2},
		"in backoff": {
			phase: fleet.PhaseBackoff, prepare: func(m *migrationTest) { m.outcomes = []string{smc.CodeSourceServerOffline} },
			after: transferTime + 5*time.Second,
		},
		"between runs": {
			phase: fleet.PhaseWaiting, parameters: incremental(), after: 2 * transferTime, remains: "images m-1",
		},
		"while it is cut over": {
			phase: fleet.PhaseCuttingOver, parameters: incremental(), options: fleet.Options{CutOver: &fleet.CutOver{AfterRuns: 2}},
			after: transferTime + transferTime/2, remains: "images m-1",
		},
		"while it is verified": {
			phase: fleet.PhaseVerifying, prepare: func(m *migrationTest) {
				m.refuse("VerifyImage", refusal(smc.CodeForbiddenUnauthorized, "no permission"))
			}, after: transferTime + 5*time.Second, remains: "images m-1",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			m := newMigrationTest(t, c.parameters, c.options)
			if c.prepare != nil {
				c.prepare(m)
			}
			m.at(c.after, func() {
				assert.Equal(t, c.phase, m.reports[len(m.reports)-1].Status.Phase, "the phase it is cancelled in")
				m.mu.Lock()
				m.lost, m.lap = map[string]int{}, m.lap+1
				m.mu.Unlock()
				m.env.CancelWorkflow()
			})
			status := m.run()
			require.True(t, temporal.IsCanceledError(m.err), "%v", m.err)
			require.Equal(t, fleet.PhaseCancelled, status.Phase)
			require.Nil(t, m.job, "the job is removed")
			require.Equal(t, c.noJob, m.count("RemoveJob") == 0)
			require.Equal(t, c.remains, status.Remains)
			require.WithinDuration(t, epoch.Add(c.after), status.EndedAt, 2*time.Minute)
		})
	}
	t.Run("and the job cannot be removed", func(t *testing.T) {
		m := newMigrationTest(t, nil, fleet.Options{})
		m.refuse("RemoveJob", refusal(smc.CodeForbiddenUnauthorized, "no permission"))
		m.at(transferTime/2, func() { m.env.CancelWorkflow() })
		status := m.run()
		require.Equal(t, fleet.PhaseCancelled, status.Phase)
		require.Equal(t, "job j-1 could not be deleted: no permission", status.Remains)
	})
	t.Run("and nobody knows whether there is a job", func(t *testing.T) {
		m := newMigrationTest(t, nil, fleet.Options{})
		m.lost["CreateJob"] = 100
		m.at(time.Minute, func() {
			m.refuse("Preflight", refusal(smc.CodeForbiddenUnauthorized, "no permission"))
			m.env.CancelWorkflow()
		})
		require.Contains(t, m.run().Remains, "job exit:web-1, if it was created")
	})
}

// full has the history be too long from a time on; each new run begins with a short one.
func (m *migrationTest) full(after time.Duration) {
	m.at(after, func() { m.env.SetCurrentHistoryLength(migrationHistory + 1) })
}

func TestMigrationContinuesAsNew(t *testing.T) {
	m := newMigrationTest(t, incremental(), fleet.Options{CutOver: &fleet.CutOver{AfterRuns: 3}})
	m.input.PollInterval = 24 * time.Hour
	m.full(transferTime / 2)                         // continues when the first run is over
	m.full(gridTime + transferTime + 10*time.Minute) // and when the second is, with the request for the last one
	status := m.run()
	require.NoError(t, m.err)
	require.Greater(t, m.runs, 1)
	require.Equal(t, 3, status.Runs)
	require.Equal(t, []string{"m-1", "m-2", "m-3"}, status.Images)
	require.Equal(t, epoch, status.StartedAt.Truncate(time.Minute))
	require.Len(t, m.created, 1)
	for _, report := range m.reports {
		require.Equal(t, m.reports[0].Life, report.Life)
	}
}

// NATS is away while a migration continues as new: it does not wait, and its events are published later.
func TestMigrationContinuesAsNewWithoutNATS(t *testing.T) {
	m := newMigrationTest(t, nil, fleet.Options{})
	m.offline = true
	m.full(transferTime / 2)
	m.byHand(3*transferTime, func() {
		last := m.reports[len(m.reports)-1]
		assert.Equal(t, fleet.PhaseDone, last.Status.Phase, "it does not wait for NATS")
		assert.Greater(t, m.runs, 1)
		m.offline = false
	})
	m.byHand(transferTime/2, func() { m.move(smc.StatusRunning) }) // a reason to look, and to continue as new
	status := m.run()
	require.Equal(t, fleet.PhaseDone, status.Phase)
}

func TestMigrationCancelledAtContinueAsNew(t *testing.T) {
	m := newMigrationTest(t, nil, fleet.Options{})
	m.at(transferTime/2, func() {
		m.env.SetCurrentHistoryLength(migrationHistory + 1)
		m.env.SignalWorkflowSkippingWorkflowTask(fleet.SignalJobChanged, fleet.JobChanged{JobID: "j-1", Sequence: 50})
		m.env.CancelWorkflow()
	})
	require.Equal(t, fleet.PhaseCancelled, m.run().Phase)
	require.Equal(t, 1, m.runs)
	require.Nil(t, m.job)
}

func TestMigrationKeepsItsSlotAtContinueAsNew(t *testing.T) {
	m := newMigrationTest(t, nil, fleet.Options{})
	m.full(0)
	require.Equal(t, fleet.PhaseDone, m.run().Phase)
	require.Equal(t, 1, m.count("StartJob"))
	require.Equal(t, 2, m.runs)
	require.Len(t, m.holdings, 2, "one slot, taken and given back once")
}

// quietLogger leaves out what polls say.
type quietLogger struct{ testLogger }

func (l quietLogger) Error(message string, fields ...any) {
	if !slices.Contains(fields, any("AwaitJob")) && !slices.Contains(fields, any("WatchMigrations")) {
		l.testLogger.Error(message, fields...)
	}
}
