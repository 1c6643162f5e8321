package workflows

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"pgregory.net/rapid"

	"github.com/drover/drover/activities"
	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/center/store/storetest"
	"github.com/drover/drover/smc"
)

const (
	testAccount = "123"
	testRegion  = "cn-test"
	testHost    = "i-test"
)

var server = agentapi.Server{Disks: []agentapi.Disk{{Index: 0, Path: "/dev/vda", SizeBytes: 1 << 30}}}

// record is a store with one source, one transition host and one job.
type record struct {
	*store.Store
	t               rapid.TB
	account         string
	sourceID, jobID string
	kept            []int // how many images there were after each run
	// clock is that of the scenario, once there is one.
	clock *atomic.Pointer[func() time.Time]
}

// now is the workflow's time, once there is one.
//
//workflowcheck:ignore
func (r *record) now() time.Time {
	if clock := r.clock.Load(); clock != nil {
		return (*clock)()
	}
	return time.Now()
}

// openRecord opens a store that has no job yet.
func openRecord(t *testing.T) *record {
	t.Helper()
	r := &record{t: t, account: testAccount, clock: &atomic.Pointer[func() time.Time]{}}
	var err error
	r.Store, err = store.Open(t.Context(), storetest.Migrated(t, store.Open), store.WithClock(r.now))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	return r
}

// newRecord makes a job that is incremental when frequency, in hours, is not 0.
func newRecord(t *testing.T, frequency int, changes ...func(*smc.CreateReplicationJobRequest)) *record {
	t.Helper()
	r := openRecord(t)
	r.create(frequency, changes...)
	return r
}

// create makes the job, with its source and its transition host.
func (r *record) create(frequency int, changes ...func(*smc.CreateReplicationJobRequest)) {
	r.t.Helper()
	ctx := context.Background()
	require.NoError(r.t, r.HostHeartbeat(ctx, testHost, "http://host"))
	r.sourceID = r.register("code", "web")
	spec := smc.CreateReplicationJobRequest{RegionID: testRegion, SourceID: r.sourceID}
	if frequency > 0 {
		once, keep := false, 2
		spec.RunOnce, spec.Frequency, spec.MaxNumberOfImageToKeep = &once, &frequency, &keep
	}
	for _, change := range changes {
		change(&spec)
	}
	var err error
	r.jobID, err = r.CreateJob(ctx, r.account, spec, 10)
	require.NoError(r.t, err)
}

// register makes a source of the account.
func (r *record) register(code, name string) (sourceID string) {
	r.t.Helper()
	ctx := context.Background()
	code += " of " + r.account
	require.NoError(r.t, r.CreateAccessToken(ctx, store.AccessToken{
		AccessTokenID: store.NewID("at"), AccountID: r.account, RegionID: testRegion, Count: 1, TTLDays: 1,
	}, code))
	source, err := r.RegisterSource(ctx, code, "token of "+code, "instance of "+code, name, server, 10)
	require.NoError(r.t, err)
	return source.SourceID
}

// input is what the job's entity starts from, also in a Temporal that knows nothing of it.
func (r *record) input() JobInput {
	r.t.Helper()
	job := r.job()
	input := JobInput{
		JobID: job.JobID, Status: job.Status, BusinessStatus: job.BusinessStatus, Run: job.Run, Lap: job.RunLap(), HostID: job.HostID, Schedule: *job.Schedule(),
	}
	if job.Status == smc.StatusFinished || job.Status == smc.StatusExpired || job.Status == smc.StatusDeleting {
		input.HostID, input.ReleaseHost = "", job.HostID
	}
	return input
}

// job returns the job as the API would show it, or nil when it is gone.
func (r *record) job() *store.Job {
	r.t.Helper()
	job, err := r.Job(context.Background(), r.account, r.jobID)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	require.NoError(r.t, err)
	return job
}

// host stands in for activities.Replication: it makes the transitions of the phases and moves no byte.
type host struct {
	store *record

	mu       sync.Mutex
	calls    []string           // what was done, in order
	failures map[string][]error // what the next calls of an activity fail with
	lap      int64              // the lap whose session is open
}

func (h *host) begin(name string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, name)
	if queue := h.failures[name]; len(queue) > 0 {
		h.failures[name] = queue[1:]
		return queue[0]
	}
	return nil
}

// fail has the next calls of an activity fail.
func (h *host) fail(name string, failures ...error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failures[name] = append(h.failures[name], failures...)
}

func (h *host) done() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.calls)
}

func superseded(err error) error {
	if errors.Is(err, store.ErrSuperseded) {
		return temporal.NewNonRetryableApplicationError(err.Error(), activities.TypeSuperseded, nil)
	}
	return err
}

func (h *host) Prepare(ctx context.Context, in activities.PhaseInput) error {
	if err := h.begin("Prepare"); err != nil {
		return err
	}
	h.mu.Lock()
	h.lap = in.Lap
	h.mu.Unlock()
	return superseded(h.store.BeginSync(ctx, in.JobID, fmt.Sprint("sync", in.Lap), in.Run, "http://host", 1<<30))
}

func (h *host) Sync(ctx context.Context, in activities.PhaseInput) error {
	if err := h.begin("Sync"); err != nil {
		return err
	}
	h.mu.Lock()
	current := h.lap == in.Lap
	h.mu.Unlock()
	if !current {
		return errors.New("the session was replaced")
	}
	return superseded(h.store.EndSync(ctx, in.JobID, fmt.Sprint("process", in.Lap), in.Run))
}

func (h *host) Process(ctx context.Context, in activities.PhaseInput) error {
	if err := h.begin("Process"); err != nil {
		return err
	}
	return superseded(h.store.EndProcessing(ctx, in.JobID, fmt.Sprint("clean", in.Lap), in.Run, fmt.Sprintf("m-%s-%d", in.JobID, in.Run), nil))
}

func (h *host) Clean(ctx context.Context, in activities.PhaseInput) (*activities.CleanResult, error) {
	if err := h.begin("Clean"); err != nil {
		return nil, err
	}
	job, err := h.store.JobByID(ctx, in.JobID)
	if err != nil {
		return nil, err
	}
	if !job.RunOnce() {
		condemned, _, err := h.store.CondemnImages(ctx, in.JobID, *job.Spec.MaxNumberOfImageToKeep, func(string) bool { return false })
		if err != nil {
			return nil, err
		}
		for _, image := range condemned {
			if err := h.store.DeleteImage(ctx, image.ImageID); err != nil {
				return nil, err
			}
		}
	}
	status, err := h.store.EndRun(ctx, in.JobID, fmt.Sprint("end", in.Lap), in.Run, job.Final())
	if err == nil {
		_, images, err := h.store.Images(ctx, h.store.account, store.ImageFilter{JobID: in.JobID}, store.Page{Number: 1, Size: 1})
		if err != nil {
			return nil, err
		}
		h.mu.Lock()
		h.store.kept = append(h.store.kept, images)
		h.mu.Unlock()
	}
	return &activities.CleanResult{Status: status}, superseded(err)
}

func (h *host) Release(ctx context.Context, jobID string) error {
	if err := h.begin("Release"); err != nil {
		return err
	}
	return h.store.MarkReleased(ctx, jobID, testHost)
}

// testLogger gives the SDK's warnings to the test.
type testLogger struct{ t rapid.TB }

func (l testLogger) Debug(string, ...any) {}
func (l testLogger) Info(string, ...any)  {}

func (l testLogger) Warn(message string, fields ...any) {
	l.t.Log(append([]any{message}, fields...)...)
}

func (l testLogger) Error(message string, fields ...any) {
	l.t.Log(append([]any{message}, fields...)...)
}

// How long an activity, and a step of a workflow, may take on a machine that is busy with other tests and whose disk is slow. The SDK's own
// limits are 3 seconds and 1.
const stepLimit = 2 * time.Minute

// syncTime is how long a sync takes on the workflow's clock.
const syncTime = 10 * time.Minute

// scenario runs the entity of a job in the SDK's test environment, against a real store and a host that moves no byte.
type scenario struct {
	*record
	*host
	env   *testsuite.TestWorkflowEnvironment
	input JobInput
	// activities counts the attempts of each activity.
	attempts map[string]int
	ids      map[string]map[string]bool // of each activity, those that were scheduled
	children []RunInput
	// hostGone keeps the transition host from reporting.
	hostGone bool
	mu       sync.Mutex
}

func newScenario(t *testing.T, frequency int, changes ...func(*smc.CreateReplicationJobRequest)) *scenario {
	t.Helper()
	r := newRecord(t, frequency, changes...)
	return newScenarioOf(r, r.input())
}

func newScenarioOf(r *record, input JobInput) *scenario {
	s := &scenario{
		record: r, host: &host{store: r, failures: map[string][]error{}}, input: input, attempts: map[string]int{}, ids: map[string]map[string]bool{},
	}
	suite := new(testsuite.WorkflowTestSuite)
	suite.SetLogger(testLogger{r.t})
	s.env = suite.NewTestWorkflowEnvironment()
	s.env.SetTestTimeout(stepLimit)
	s.env.SetWorkerOptions(worker.Options{DeadlockDetectionTimeout: stepLimit})
	clock := s.env.Now
	r.clock.Store(&clock)
	s.env.RegisterWorkflow(ReplicationJob)
	s.env.RegisterWorkflow(ReplicationRun)
	s.env.RegisterActivity(&activities.Jobs{Store: r.Store})
	s.env.RegisterActivity(s.host.Prepare)
	s.env.RegisterActivity(s.host.Sync)
	s.env.RegisterActivity(s.host.Process)
	s.env.RegisterActivity(s.host.Clean)
	s.env.RegisterActivity(s.host.Release)
	s.env.OnActivity("Sync", mock.Anything, mock.Anything).After(syncTime).Return(s.host.Sync)
	s.env.SetOnActivityStartedListener(func(info *activity.Info, _ context.Context, _ converter.EncodedValues) { s.started(info) })
	s.env.SetOnChildWorkflowStartedListener(func(_ *workflow.Info, _ workflow.Context, args converter.EncodedValues) {
		var in RunInput
		require.NoError(s.t, args.Get(&in))
		s.children = append(s.children, in)
	})
	return s
}

// started notes that an activity was attempted, and keeps the host alive.
func (s *scenario) started(info *activity.Info) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := info.ActivityType.Name
	s.attempts[name]++
	if s.ids[name] == nil {
		s.ids[name] = map[string]bool{}
	}
	s.ids[name][info.ActivityID] = true
	if !s.hostGone {
		require.NoError(s.t, s.record.HostHeartbeat(context.Background(), testHost, "http://host"))
	}
}

// answer is what became of an update.
type answer struct {
	t        rapid.TB
	rejected error // by the validator
	complete bool
	err      error // of the handler
}

func (a *answer) requireDone() {
	a.t.Helper()
	require.NoError(a.t, a.rejected)
	require.True(a.t, a.complete, "the update is not complete")
	require.NoError(a.t, a.err)
}

// requireRejected demands that the validator refused, with an SMC code as the error's type.
func (a *answer) requireRejected(code string) {
	a.t.Helper()
	require.Error(a.t, a.rejected)
	require.Equal(a.t, code, errorType(a.rejected))
	require.False(a.t, a.complete)
}

// requireFailed demands that the handler refused, with an SMC code as the error's type.
func (a *answer) requireFailed(code string) {
	a.t.Helper()
	require.NoError(a.t, a.rejected)
	require.True(a.t, a.complete, "the update is not complete")
	require.Equal(a.t, code, errorType(a.err))
}

// at has something happen after the entity's start, on its clock.
func (s *scenario) at(after time.Duration, do func()) { s.env.RegisterDelayedCallback(do, after) }

// update sends an update at a time, under a request id of its own.
func (s *scenario) update(after time.Duration, name string, argument ...any) *answer {
	return s.request(after, name, fmt.Sprintf("%s at %s", name, after), argument...)
}

func (s *scenario) request(after time.Duration, name, id string, argument ...any) *answer {
	a := &answer{t: s.t}
	if len(argument) == 0 {
		argument = []any{struct{}{}}
	}
	s.at(after, func() {
		s.env.UpdateWorkflow(name, id, &testsuite.TestUpdateCallback{
			OnAccept: func() {},
			OnReject: func(err error) { a.rejected = err },
			OnComplete: func(_ any, err error) {
				a.complete, a.err = true, err
			},
		}, argument...)
	})
	return a
}

// runUntil runs the entity until a time on its clock, or its end if that comes first, and returns the error it ended with.
func (s *scenario) runUntil(end time.Duration) error {
	s.t.Helper()
	s.at(end, s.env.CancelWorkflow)
	s.env.ExecuteWorkflow(ReplicationJob, s.input)
	require.True(s.t, s.env.IsWorkflowCompleted())
	err := s.env.GetWorkflowError()
	if temporal.IsCanceledError(err) {
		return nil
	}
	return err
}

var oneRun = []string{"Prepare", "Sync", "Process", "Clean"}

func TestOneTimeJob(t *testing.T) {
	s := newScenario(t, 0)
	start := s.update(time.Minute, UpdateStart)
	remove := s.update(time.Hour, UpdateDelete)
	require.NoError(t, s.runUntil(2*time.Hour))
	start.requireDone()
	remove.requireDone()
	require.Equal(t, oneRun, s.done(), "a final run has released the staging: nothing is left to release")
	require.Nil(t, s.job())
	require.Equal(t, []RunInput{{JobID: s.jobID, Run: 1, Lap: 2, Phase: smc.BusinessPreparing, HostID: testHost}}, s.children)
	require.NotContains(t, s.attempts, "Fail")
}

func TestFinishedJobStaysUntilItIsDeleted(t *testing.T) {
	s := newScenario(t, 0)
	s.update(0, UpdateStart)
	again := s.update(time.Hour, UpdateStart)
	require.NoError(t, s.runUntil(24*time.Hour))
	again.requireRejected(smc.CodeReplicationJobInvalidStatus)
	job := s.job()
	require.Equal(t, smc.StatusFinished, job.Status)
	require.Equal(t, 100.0, job.Progress)
	require.NotEmpty(t, job.ImageID)
}

func TestStopAndResume(t *testing.T) {
	s := newScenario(t, 0)
	s.update(0, UpdateStart)
	stop := s.update(5*time.Minute, UpdateStop)
	var stopped *store.Job
	s.at(6*time.Minute, func() { stopped = s.job() })
	resume := s.update(time.Hour, UpdateStart)
	require.NoError(t, s.runUntil(3*time.Hour))
	stop.requireDone()
	resume.requireDone()
	require.Equal(t, smc.StatusStopped, stopped.Status)
	require.Equal(t, smc.StatusFinished, s.job().Status)
	require.Len(t, s.job().Runs, 1, "a resumed run is the same run")
	require.Len(t, s.children, 2)
	require.Less(t, s.children[0].Lap, s.children[1].Lap)
	require.Equal(t, 1, s.children[1].Run)
}

// A Start may come while the child of the stopped lap has not closed: the new lap begins after it has.
func TestResumeWhileTheStoppedRunCloses(t *testing.T) {
	s := newScenario(t, 0)
	s.env.OnWorkflow(ReplicationRun, mock.Anything, mock.Anything).Return(func(ctx workflow.Context, in RunInput) (RunResult, error) {
		result, err := ReplicationRun(ctx, in)
		if temporal.IsCanceledError(err) {
			ctx, _ := workflow.NewDisconnectedContext(ctx)
			_ = workflow.Sleep(ctx, 10*time.Minute)
		}
		return result, err
	})
	s.update(0, UpdateStart)
	stop := s.update(5*time.Minute, UpdateStop)
	resume := s.update(6*time.Minute, UpdateStart)
	var between *store.Job
	s.at(10*time.Minute, func() { between = s.job() })
	require.NoError(t, s.runUntil(3*time.Hour))
	stop.requireDone()
	resume.requireDone()
	require.Equal(t, smc.StatusRunning, between.Status)
	require.Equal(t, smc.StatusFinished, s.job().Status)
	require.Len(t, s.children, 2)
}

func TestStopIsRefusedOutsideSyncing(t *testing.T) {
	s := newScenario(t, 0)
	s.env.OnActivity("Prepare", mock.Anything, mock.Anything).After(10 * time.Minute).Return(s.host.Prepare)
	early := s.update(time.Minute, UpdateStop)
	s.update(2*time.Minute, UpdateStart)
	preparing := s.update(5*time.Minute, UpdateStop)
	require.NoError(t, s.runUntil(time.Hour))
	early.requireRejected(smc.CodeReplicationJobInvalidStatus)
	preparing.requireFailed(smc.CodeReplicationJobInvalidBusinessStatus)
	require.Equal(t, smc.StatusFinished, s.job().Status, "a refused Stop disturbs nothing")
}

// The answer of Stop's activity may be slower than the run that ends because of it.
func TestRunEndsBeforeItsStopIsAnswered(t *testing.T) {
	s := newScenario(t, 0)
	jobs := &activities.Jobs{Store: s.Store}
	s.env.OnActivity(jobs.Stop, mock.Anything, mock.Anything).Return(func(ctx context.Context, in activities.MoveInput) error {
		if err := jobs.Stop(ctx, in); err != nil || s.attempts["Stop"] > 1 {
			return err
		}
		return errors.New("the worker was killed after the commit")
	})
	s.update(0, UpdateStart)
	stop := s.update(syncTime-50*time.Millisecond, UpdateStop)
	resume := s.update(time.Hour, UpdateStart)
	require.NoError(t, s.runUntil(3*time.Hour))
	stop.requireDone()
	resume.requireDone()
	require.NotContains(t, s.attempts, "Fail")
	require.Equal(t, smc.StatusFinished, s.job().Status)
}

func refusal(code, message string) error {
	return temporal.NewNonRetryableApplicationError(message, code, nil)
}

func TestResumesInThePhaseThatFailed(t *testing.T) {
	for phase, resumed := range map[string][]string{
		"Prepare": oneRun,
		"Sync":    oneRun, // preparing opens the session
		"Process": {"Process", "Clean"},
		"Clean":   {"Clean"},
	} {
		t.Run(phase, func(t *testing.T) {
			s := newScenario(t, 0)
			s.fail(phase, refusal(smc.CodeTransitionHostNoSpace, "the volume is full"))
			s.update(0, UpdateStart)
			var failed *store.Job
			var before int
			s.at(time.Hour, func() { failed, before = s.job(), len(s.done()) })
			resume := s.update(2*time.Hour, UpdateStart)
			require.NoError(t, s.runUntil(4*time.Hour))
			resume.requireDone()
			require.Equal(t, smc.StatusInError, failed.Status)
			require.Equal(t, smc.CodeTransitionHostNoSpace, failed.ErrorCode)
			require.Contains(t, failed.StatusInfo, "the volume is full")
			require.Equal(t, smc.RunFailed, failed.Runs[0].Status)
			require.Equal(t, resumed, s.done()[before:])
			job := s.job()
			require.Equal(t, smc.StatusFinished, job.Status)
			require.Empty(t, job.ErrorCode)
			require.Empty(t, job.StatusInfo)
			require.Len(t, job.Runs, 1)
		})
	}
}

func TestFailuresThatPassAreRetried(t *testing.T) {
	s := newScenario(t, 0)
	s.fail("Prepare", errors.New("the database is busy"))
	s.fail("Process", errors.New("the worker is shutting down"), errors.New("the worker is shutting down"))
	s.update(0, UpdateStart)
	require.NoError(t, s.runUntil(2*time.Hour))
	require.Equal(t, smc.StatusFinished, s.job().Status)
	require.Equal(t, []string{"Prepare", "Prepare", "Sync", "Process", "Process", "Process", "Clean"}, s.done())
}

func TestIncrementalJobUntilCutOver(t *testing.T) {
	for _, syncData := range []bool{false, true} {
		t.Run(fmt.Sprintf("SyncData=%t", syncData), func(t *testing.T) {
			s := newScenario(t, 24)
			early := s.update(time.Minute, UpdateRun)
			s.update(2*time.Minute, UpdateStart)
			var waiting *store.Job
			s.at(time.Hour, func() { waiting = s.job() })
			start := s.update(time.Hour, UpdateStart)
			run := s.update(2*time.Hour, UpdateRun)
			cutOver := s.update(4*time.Hour, UpdateCutOver, CutOverRequest{SyncData: syncData})
			require.NoError(t, s.runUntil(100*time.Hour))
			early.requireRejected(smc.CodeReplicationJobInvalidStatus)
			require.Equal(t, smc.StatusWaiting, waiting.Status)
			start.requireRejected(smc.CodeReplicationJobInvalidStatus) // CONTRACT: Start is refused in Waiting
			run.requireDone()
			cutOver.requireDone()
			job := s.job()
			require.Equal(t, smc.StatusFinished, job.Status)
			require.Empty(t, job.HostID, "the staging is released")
			for _, run := range job.Runs {
				require.Equal(t, smc.RunManual, run.Type)
			}
			if syncData {
				require.Len(t, job.Runs, 3)
				require.NotContains(t, s.done(), "Release", "the last run's Cleaning releases")
			} else {
				require.Len(t, job.Runs, 2)
				require.Equal(t, append(slices.Concat(oneRun, oneRun), "Release"), s.done())
			}
		})
	}
}

func TestCutOverIsKeptThroughInError(t *testing.T) {
	s := newScenario(t, 24)
	s.update(0, UpdateStart)
	s.at(time.Hour, func() { s.fail("Sync", refusal(smc.CodeSourceDiskReadError, "disk 0 at byte 4096")) })
	cutOver := s.update(2*time.Hour, UpdateCutOver, CutOverRequest{SyncData: true})
	var failed *store.Job
	s.at(3*time.Hour, func() { failed = s.job() })
	again := s.update(4*time.Hour, UpdateCutOver, CutOverRequest{SyncData: true})
	resume := s.update(5*time.Hour, UpdateStart)
	require.NoError(t, s.runUntil(100*time.Hour))
	cutOver.requireDone()
	again.requireRejected(smc.CodeReplicationJobInvalidStatus)
	resume.requireDone()
	require.Equal(t, smc.StatusInError, failed.Status)
	require.Equal(t, store.CutOverSyncData, failed.CutOver)
	job := s.job()
	require.Equal(t, smc.StatusFinished, job.Status, "Start from InError finishes the cutover, not the rhythm")
	require.Len(t, job.Runs, 2)
}

func TestCutOverOfAOneTimeJobIsRefused(t *testing.T) {
	s := newScenario(t, 0)
	cutOver := s.update(time.Minute, UpdateCutOver, CutOverRequest{})
	require.NoError(t, s.runUntil(time.Hour))
	cutOver.requireRejected(smc.CodeReplicationJobInvalidStatus)
}

// resting is a status in which a job rests, and how it gets there.
type resting struct {
	from      smc.JobStatus
	frequency int
	reach     func(*scenario)
	releases  bool // its staging is released when it ends
}

// unfinished are the statuses in which a job rests and may go on; the one that waits is of that Frequency.
func unfinished(frequency int) []resting {
	return []resting{
		{from: smc.StatusReady, reach: func(*scenario) {}},
		{from: smc.StatusStopped, releases: true, reach: func(s *scenario) {
			s.update(0, UpdateStart)
			s.update(5*time.Minute, UpdateStop)
		}},
		{from: smc.StatusInError, releases: true, reach: func(s *scenario) {
			s.fail("Process", refusal(smc.CodeTransitionHostNoSpace, "full"))
			s.update(0, UpdateStart)
		}},
		{from: smc.StatusWaiting, frequency: frequency, releases: true, reach: func(s *scenario) { s.update(0, UpdateStart) }},
	}
}

func TestDelete(t *testing.T) {
	finished := resting{from: smc.StatusFinished, reach: func(s *scenario) { s.update(0, UpdateStart) }}
	for _, test := range append(unfinished(24), finished) {
		t.Run(string(test.from), func(t *testing.T) {
			s := newScenario(t, test.frequency)
			test.reach(s)
			var before, deleting *store.Job
			s.at(2*time.Hour-time.Second, func() { before = s.job() })
			remove := s.update(2*time.Hour, UpdateDelete)
			s.env.OnActivity("Release", mock.Anything, mock.Anything).After(10 * time.Minute).Return(s.host.Release).Maybe()
			s.at(2*time.Hour+5*time.Minute, func() { deleting = s.job() })
			require.NoError(t, s.runUntil(4*time.Hour))
			require.NotNil(t, before)
			require.Equal(t, test.from, before.Status)
			remove.requireDone()
			require.Nil(t, s.job(), "the job is gone")
			if test.releases {
				require.NotNil(t, deleting)
				require.Equal(t, smc.StatusDeleting, deleting.Status, "released before it is gone")
				require.Equal(t, "Release", s.done()[len(s.done())-1])
			} else {
				require.NotContains(t, s.done(), "Release")
			}
			source, err := s.Source(t.Context(), testAccount, s.sourceID)
			require.NoError(t, err)
			require.Equal(t, smc.SourceAvailable, source.State)
		})
	}
}

func TestDeleteOfARunningJobIsRefused(t *testing.T) {
	s := newScenario(t, 0)
	s.update(0, UpdateStart)
	remove := s.update(5*time.Minute, UpdateDelete)
	require.NoError(t, s.runUntil(time.Hour))
	remove.requireRejected(smc.CodeReplicationJobInvalidStatus)
	require.Contains(t, remove.rejected.Error(), "Running")
	require.Equal(t, smc.StatusFinished, s.job().Status)
}

// scheduled is a scenario of a job that is to start by itself an hour from now.
func scheduled(t *testing.T, changes ...func(*smc.CreateReplicationJobRequest)) *scenario {
	t.Helper()
	return newScenario(t, 0, append(changes, startsAt(time.Now().Add(time.Hour)))...)
}

// startsAt sets ScheduledStartTime, up to a second later: times of the API have no fractions.
func startsAt(at time.Time) func(*smc.CreateReplicationJobRequest) {
	return func(spec *smc.CreateReplicationJobRequest) { spec.ScheduledStartTime = apiTime(at) }
}

func apiTime(at time.Time) *string {
	text := smc.FormatTime(at.Add(time.Second))
	return &text
}

func TestScheduledStart(t *testing.T) {
	s := scheduled(t)
	var before *store.Job
	s.at(time.Hour-time.Second, func() { before = s.job() })
	require.NoError(t, s.runUntil(3*time.Hour))
	require.Equal(t, smc.StatusReady, before.Status)
	job := s.job()
	require.Equal(t, smc.StatusFinished, job.Status)
	require.Equal(t, smc.RunSchedule, job.Runs[0].Type)
	require.Equal(t, 1, s.attempts["StartDueRun"])
}

func TestScheduledStartIsWithdrawn(t *testing.T) {
	t.Run("by Delete", func(t *testing.T) {
		s := scheduled(t)
		remove := s.update(time.Minute, UpdateDelete)
		require.NoError(t, s.runUntil(3*time.Hour))
		remove.requireDone()
		require.Nil(t, s.job())
		require.NotContains(t, s.attempts, "StartDueRun")
	})
	t.Run("by Start", func(t *testing.T) {
		s := scheduled(t)
		start := s.update(time.Minute, UpdateStart)
		require.NoError(t, s.runUntil(3*time.Hour))
		start.requireDone()
		require.NotContains(t, s.attempts, "StartDueRun")
		require.Equal(t, smc.RunManual, s.job().Runs[0].Type)
	})
}

func (s *scenario) offline() {
	_, err := s.MarkOffline(context.Background(), s.env.Now().Add(time.Hour))
	require.NoError(s.t, err)
}

func (s *scenario) online() {
	require.NoError(s.t, s.Heartbeat(context.Background(), s.sourceID, server))
}

func TestDueStartWaitsForItsSource(t *testing.T) {
	s := scheduled(t)
	s.offline()
	var waiting *store.Job
	// The test environment ends an activity after its tenth attempt, which Temporal does not.
	s.at(time.Hour+4*time.Minute-10*time.Second, func() { waiting = s.job(); s.online() })
	require.NoError(t, s.runUntil(5*time.Hour))
	require.Equal(t, smc.StatusReady, waiting.Status)
	require.Equal(t, 5, s.attempts["StartDueRun"], "after half a minute, and then more and more seldom")
	require.Len(t, s.ids["StartDueRun"], 1, "attempts of one activity: they leave no history")
	require.Equal(t, smc.StatusFinished, s.job().Status)
}

func TestDueStartThatIsRetriedIsWithdrawnByDelete(t *testing.T) {
	s := scheduled(t)
	s.offline()
	remove := s.update(time.Hour+2*time.Minute, UpdateDelete)
	require.NoError(t, s.runUntil(5*time.Hour))
	remove.requireDone()
	require.Nil(t, s.job())
	require.Greater(t, s.attempts["StartDueRun"], 1)
}

// A refused update must not lose the start that was due.
func TestDueStartOutlivesARefusedUpdate(t *testing.T) {
	s := scheduled(t)
	s.offline()
	start := s.update(time.Minute, UpdateStart)
	s.at(2*time.Minute, s.online)
	require.NoError(t, s.runUntil(3*time.Hour))
	start.requireFailed(smc.CodeSourceServerStateInvalid)
	require.Equal(t, smc.StatusFinished, s.job().Status)
	require.Equal(t, smc.RunSchedule, s.job().Runs[0].Type)
}

func TestGrid(t *testing.T) {
	s := newScenario(t, 6)
	s.update(0, UpdateStart)
	// Between two points; the grid stays where the first start put it.
	run := s.update(8*time.Hour, UpdateRun)
	require.NoError(t, s.runUntil(13*time.Hour))
	run.requireDone()
	job := s.job()
	require.Equal(t, smc.StatusWaiting, job.Status)
	var types []smc.RunType
	for _, run := range job.Runs {
		types = append(types, run.Type)
	}
	require.Equal(t, []smc.RunType{smc.RunManual, smc.RunSchedule, smc.RunManual, smc.RunSchedule}, types)
}

func TestGridSkipsPointsOfARunThatGoesOn(t *testing.T) {
	s := newScenario(t, 1)
	s.env.OnActivity("Process", mock.Anything, mock.Anything).After(150 * time.Minute).Return(s.host.Process)
	s.update(0, UpdateStart)
	var made, next *store.Job
	s.at(3*time.Hour, func() { made = s.job() })
	s.at(5*time.Hour+30*time.Minute, func() { next = s.job() })
	require.NoError(t, s.runUntil(6*time.Hour))
	require.Len(t, made.Runs, 2, "the first took 2 h 40: what was missed is made up for at once, by one run")
	require.WithinDuration(t, made.StartedAt.Add(160*time.Minute), made.Runs[1].StartedAt, time.Minute)
	require.Equal(t, smc.RunSchedule, made.Runs[1].Type)
	require.Contains(t, made.Info(), "missed 2 of the points for a run (2 while a run was still going on)")
	require.Contains(t, next.Info(), "missed 3 of the points", "what the second run missed, and no longer what the first did")
}

func TestRequestIsCarriedOutOnce(t *testing.T) {
	r := newRecord(t, 24)
	first := newScenarioOf(r, r.input())
	started := first.request(0, UpdateStart, "R1")
	run := first.request(time.Hour, UpdateRun, "R2")
	first.at(time.Hour+time.Minute, func() { first.env.SetCurrentHistoryLength(restingHistory + 1) })
	input := requireContinuesAsNew(t, first.runUntil(100*time.Hour))
	started.requireDone()
	run.requireDone()
	require.Equal(t, []string{"R1", "R2"}, input.Requests)

	// The next workflow run knows them: Temporal's own memory of update ids does not reach that far.
	next := newScenarioOf(r, input)
	again := next.request(0, UpdateRun, "R2")
	fresh := next.request(2*time.Hour, UpdateRun, "R3")
	require.NoError(t, next.runUntil(10*time.Hour))
	again.requireDone()
	fresh.requireDone()
	require.Len(t, r.job().Runs, 3, "R2 made its run once")
	require.Equal(t, 1, next.attempts["StartRun"])
}

// A request under a name of the caller's may be refused for a cause that passes, is carried out once then, and never again.
func TestNamedRequestIsCarriedOutOnce(t *testing.T) {
	r := newRecord(t, 24)
	s := newScenarioOf(r, r.input())
	s.request(0, UpdateStart, "R1")
	s.at(time.Hour, s.offline)
	refused := s.request(time.Hour+time.Minute, UpdateRun, UpdateID("token/a#b", "1"))
	s.at(time.Hour+2*time.Minute, s.online)
	done := s.request(time.Hour+3*time.Minute, UpdateRun, UpdateID("token/a#b", "2"))
	again := s.request(2*time.Hour, UpdateRun, UpdateID("token/a#b", "3"))
	require.NoError(t, s.runUntil(3*time.Hour))
	refused.requireFailed(smc.CodeSourceServerStateInvalid)
	done.requireDone()
	again.requireDone()
	require.Len(t, r.job().Runs, 2)
	require.Equal(t, "R1", RequestOf("R1"))
}

// A request seen before changes nothing, and so must not withdraw the grid's next point.
func TestRepeatedRequestKeepsTheGrid(t *testing.T) {
	r := newRecord(t, 6)
	first := newScenarioOf(r, r.input())
	first.request(0, UpdateStart, "R1")
	first.at(time.Minute, func() { first.env.SetCurrentHistoryLength(restingHistory + 1) })
	input := requireContinuesAsNew(t, first.runUntil(100*time.Hour))

	next := newScenarioOf(r, input)
	next.env.SetStartTime(input.Schedule.FirstStartAt.Add(time.Hour))
	repeated := next.request(time.Minute, UpdateStart, "R1")
	require.NoError(t, next.runUntil(7*time.Hour))
	repeated.requireDone()
	require.Len(t, r.job().Runs, 2)
	require.Equal(t, smc.RunSchedule, r.job().Runs[1].Type)
}

func requireContinuesAsNew(t rapid.TB, err error) (input JobInput) {
	t.Helper()
	var next *workflow.ContinueAsNewError
	require.ErrorAs(t, err, &next)
	require.NoError(t, converter.GetDefaultDataConverter().FromPayloads(next.Input, &input))
	return input
}

func TestContinuesAsNewAtRest(t *testing.T) {
	s := newScenario(t, 24)
	s.request(0, UpdateStart, "R1")
	begin := s.env.Now().UTC()
	s.at(5*time.Minute, func() { s.env.SetCurrentHistoryLength(restingHistory + 1) })
	input := requireContinuesAsNew(t, s.runUntil(100*time.Hour))
	require.Equal(t, smc.StatusWaiting, s.job().Status, "not before the run has ended")
	require.WithinDuration(t, begin, input.Schedule.FirstStartAt, time.Second)
	require.Equal(t, *s.job().Schedule(), input.Schedule)
	require.Equal(t, JobInput{
		JobID: s.jobID, Status: smc.StatusWaiting, BusinessStatus: smc.BusinessPreparing, Run: 1, Lap: 2, HostID: testHost,
		Schedule: input.Schedule, Requests: []string{"R1"},
	}, input)
}

func TestRequestsThatAreRememberedAreBounded(t *testing.T) {
	s := newScenario(t, 0)
	s.input.Requests = make([]string, rememberedRequests)
	for i := range s.input.Requests {
		s.input.Requests[i] = fmt.Sprint("old ", i)
	}
	s.request(0, UpdateStart, "new")
	s.at(time.Minute, func() { s.env.SetContinueAsNewSuggested(true) })
	input := requireContinuesAsNew(t, s.runUntil(100*time.Hour))
	require.Len(t, input.Requests, rememberedRequests)
	require.Equal(t, "old 1", input.Requests[0])
	require.Equal(t, "new", input.Requests[rememberedRequests-1])
}

// The store can rebuild an entity in an empty Temporal, in the middle of a run too.
func TestEntityIsRebuiltFromTheStore(t *testing.T) {
	r := newRecord(t, 0)
	start, err := r.StartRun(t.Context(), r.jobID, "k1", smc.TriggerStart, smc.RunManual, store.CutOverNone)
	require.NoError(t, err)
	require.NoError(t, r.BeginSync(t.Context(), r.jobID, "k2", 1, "http://host", 1<<30))
	require.NoError(t, r.EndSync(t.Context(), r.jobID, "k3", 1))
	s := newScenarioOf(r, JobInput{
		JobID: r.jobID, Status: smc.StatusRunning, BusinessStatus: smc.BusinessProcessing, Run: 1, Lap: start.Lap + 2, HostID: testHost,
	})
	require.NoError(t, s.runUntil(time.Hour))
	require.Equal(t, []string{"Process", "Clean"}, s.done())
	require.Equal(t, smc.StatusFinished, r.job().Status)
}

func TestBrokenRunMakesTheJobInError(t *testing.T) {
	s := newScenario(t, 0)
	broken := true
	s.env.OnWorkflow(ReplicationRun, mock.Anything, mock.Anything).Return(func(ctx workflow.Context, in RunInput) (RunResult, error) {
		if broken {
			broken = false
			return RunResult{}, errors.New("terminated by hand")
		}
		return ReplicationRun(ctx, in)
	})
	s.update(0, UpdateStart)
	var failed *store.Job
	s.at(time.Hour, func() { failed = s.job() })
	resume := s.update(2*time.Hour, UpdateStart)
	require.NoError(t, s.runUntil(4*time.Hour))
	require.Equal(t, smc.StatusInError, failed.Status)
	require.Equal(t, smc.CodeInternalError, failed.ErrorCode)
	require.Contains(t, failed.StatusInfo, "Start the job to resume it")
	resume.requireDone()
	require.Equal(t, smc.StatusFinished, s.job().Status)
}

// A run that breaks after its last transition has done its work: the store knows, and the entity asks it.
func TestRunThatBreaksAfterItsLastTransition(t *testing.T) {
	s := newScenario(t, 24)
	s.env.OnWorkflow(ReplicationRun, mock.Anything, mock.Anything).Return(func(ctx workflow.Context, in RunInput) (RunResult, error) {
		if _, err := ReplicationRun(ctx, in); err != nil {
			return RunResult{}, err
		}
		return RunResult{}, errors.New("terminated by hand")
	})
	s.update(0, UpdateStart)
	cutOver := s.update(2*time.Hour, UpdateCutOver, CutOverRequest{})
	require.NoError(t, s.runUntil(4*time.Hour))
	cutOver.requireDone()
	require.Equal(t, smc.StatusFinished, s.job().Status)
	require.Equal(t, "Release", s.done()[len(s.done())-1])
}

func TestStartIsRefusedWhileTheSourceIsAway(t *testing.T) {
	s := newScenario(t, 0)
	s.offline()
	start := s.update(time.Minute, UpdateStart)
	require.NoError(t, s.runUntil(time.Hour))
	start.requireFailed(smc.CodeSourceServerStateInvalid)
	require.Equal(t, smc.StatusReady, s.job().Status)
	require.Empty(t, s.done())
}

// onStarted notes the task queue of every activity.
func onStarted(queues map[string]string) func(*activity.Info, context.Context, converter.EncodedValues) {
	var mu sync.Mutex
	return func(info *activity.Info, _ context.Context, _ converter.EncodedValues) {
		mu.Lock()
		defer mu.Unlock()
		queues[info.ActivityType.Name] = info.TaskQueue
	}
}
