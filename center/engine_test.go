package center

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"google.golang.org/grpc"

	"github.com/drover/drover/activities"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/workflows"
)

// temporalClient answers the calls of TemporalEngine; any other call panics.
type temporalClient struct {
	client.Client
	started  []client.StartWorkflowOptions
	inputs   []workflows.JobInput
	startErr error
	updates  []client.UpdateWorkflowOptions
	updated  func(n int) // may be nil
	service  *workflowService
	// outcomes are what the updates end with, in order: an error of the call, or one of the handler.
	calls, handlers []error
}

func (c *temporalClient) ExecuteWorkflow(_ context.Context, options client.StartWorkflowOptions, _ any, args ...any) (client.WorkflowRun, error) {
	c.started = append(c.started, options)
	c.inputs = append(c.inputs, args[0].(workflows.JobInput))
	return nil, c.startErr
}

func next(queue *[]error) (err error) {
	if len(*queue) > 0 {
		err, *queue = (*queue)[0], (*queue)[1:]
	}
	return err
}

func (c *temporalClient) UpdateWorkflow(_ context.Context, options client.UpdateWorkflowOptions) (client.WorkflowUpdateHandle, error) {
	c.updates = append(c.updates, options)
	if c.updated != nil {
		c.updated(len(c.updates))
	}
	if err := next(&c.calls); err != nil {
		return nil, err
	}
	return updateHandle{err: next(&c.handlers)}, nil
}

type updateHandle struct {
	client.WorkflowUpdateHandle
	err error
}

func (h updateHandle) Get(context.Context, any) error { return h.err }

// workflowService is Temporal's API beneath the client.
type workflowService struct {
	workflowservice.WorkflowServiceClient
	reset    *workflowservice.ResetActivityRequest
	resetErr error
}

func (c *temporalClient) WorkflowService() workflowservice.WorkflowServiceClient { return c.service }

func (s *workflowService) ResetActivity(_ context.Context, request *workflowservice.ResetActivityRequest, _ ...grpc.CallOption) (*workflowservice.ResetActivityResponse, error) {
	s.reset = request
	return nil, s.resetErr
}

func TestEngineWakesADueStart(t *testing.T) {
	service := &workflowService{}
	engine := &TemporalEngine{Client: &temporalClient{service: service}, Namespace: "drover"}
	require.NoError(t, engine.WakeDueStart(t.Context(), "j-1"))
	require.Equal(t, "drover", service.reset.GetNamespace())
	require.Equal(t, "job/j-1", service.reset.GetExecution().GetWorkflowId())
	_, known := reflect.TypeFor[*activities.Jobs]().MethodByName(service.reset.GetType())
	require.True(t, known, "%s is an activity", service.reset.GetType())

	service.resetErr = serviceerror.NewNotFound("no such activity")
	require.NoError(t, engine.WakeDueStart(t.Context(), "j-1"), "it moved meanwhile")
	service.resetErr = serviceerror.NewUnimplemented("unknown method")
	require.ErrorContains(t, engine.WakeDueStart(t.Context(), "j-1"), "older than 1.28")
	service.resetErr = errors.New("no connection")
	require.ErrorContains(t, engine.WakeDueStart(t.Context(), "j-1"), "job j-1")
}

func newTemporalEngine(f *fixture) (*TemporalEngine, *temporalClient) {
	c := &temporalClient{}
	return &TemporalEngine{Client: c, Store: f.store}, c
}

func TestBegin(t *testing.T) {
	f := newFixture(t)
	source, _ := f.agent("web")
	job := f.create(source)
	require.NoError(t, f.store.ForgetWorkflows(t.Context()))
	engine, c := newTemporalEngine(f)
	require.NoError(t, engine.Begin(t.Context(), job))
	require.Equal(t, "job/"+job, c.started[0].ID)
	require.Equal(t, activities.QueueCenter, c.started[0].TaskQueue)
	require.Equal(t, workflows.JobInput{JobID: job, Status: smc.StatusReady, Lap: 1, Schedule: c.inputs[0].Schedule}, c.inputs[0])
	missing, err := f.store.JobsWithoutWorkflow(t.Context())
	require.NoError(t, err)
	require.Empty(t, missing)

	c.startErr = serviceerror.NewWorkflowExecutionAlreadyStarted("closed", "", "")
	require.NoError(t, engine.Begin(t.Context(), job), "an entity that closed is that of a job that is gone")
	c.startErr = errors.New("no connection")
	require.ErrorContains(t, engine.Begin(t.Context(), job), "no connection")
	require.ErrorIs(t, engine.Begin(t.Context(), "j-none"), store.ErrNotFound)
}

// What an entity is rebuilt from follows from the store alone.
func TestEntityInput(t *testing.T) {
	at := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	once, frequency := false, 6
	job := &store.Job{
		JobID: "j-1", Status: smc.StatusWaiting, BusinessStatus: smc.BusinessCleaning, Run: 2, Sequence: 9, HostID: hostID, StartedAt: at,
		Spec: smc.CreateReplicationJobRequest{RunOnce: &once, Frequency: &frequency},
	}
	require.Equal(t, workflows.JobInput{
		JobID: "j-1", Status: smc.StatusWaiting, BusinessStatus: smc.BusinessCleaning, Run: 2, Lap: 9, HostID: hostID,
		Schedule: *job.Schedule(),
	}, entityInput(job))
	for _, status := range []smc.JobStatus{smc.StatusFinished, smc.StatusExpired, smc.StatusDeleting} {
		job.Status = status
		input := entityInput(job)
		require.Empty(t, input.HostID)
		require.Equal(t, hostID, input.ReleaseHost, "what was to be released still is")
	}
}

func TestUpdate(t *testing.T) {
	f := newFixture(t)
	source, _ := f.agent("web")
	job := f.create(source)
	missing := serviceerror.NewNotFound("workflow not found")
	continuing := temporal.NewApplicationError("ask again", workflows.TypeContinuesAsNew)
	refused := temporal.NewApplicationError("the job is Running", smc.CodeReplicationJobInvalidStatus)
	for _, test := range []struct {
		name, update    string
		calls, handlers []error
		code, message   string // of the *smc.Error; "" is success
		starts, updates int
	}{
		{name: "done", updates: 1},
		{name: "refused by the validator", update: workflows.UpdateStop, calls: []error{refused}, code: smc.CodeReplicationJobInvalidStatus, message: "the job is Running", updates: 1},
		{name: "refused by the handler", update: workflows.UpdateStop, handlers: []error{fmt.Errorf("update: %w", refused)}, code: smc.CodeReplicationJobInvalidStatus, message: "the job is Running", updates: 1},
		{name: "entity behind the store", calls: []error{refused, refused}, handlers: []error{refused}, updates: 4},
		{name: "entity continues as new", calls: []error{continuing, continuing}, handlers: []error{continuing}, updates: 4},
		{name: "entity not started yet", calls: []error{missing}, starts: 1, updates: 2},
		{name: "entity being replaced", calls: []error{missing, missing}, starts: 1, updates: 3},
		{name: "no Temporal", calls: []error{errors.New("connection refused")}, code: smc.CodeInternalError, updates: 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			engine, c := newTemporalEngine(f)
			c.calls, c.handlers = test.calls, test.handlers
			if test.update == "" {
				test.update = workflows.UpdateStart // which the job, being Ready, allows
			}
			err := engine.Update(t.Context(), job, test.update, "R1", struct{}{})
			require.Len(t, c.started, test.starts)
			require.Len(t, c.updates, test.updates)
			for _, options := range c.updates {
				require.Equal(t, workflows.JobID(job), options.WorkflowID)
				require.Equal(t, test.update, options.UpdateName)
				require.Equal(t, "R1", options.UpdateID)
				require.Equal(t, client.WorkflowUpdateStageCompleted, options.WaitForStage)
			}
			if test.code == "" {
				require.NoError(t, err)
				return
			}
			refusal := smc.AsError(err)
			require.Equal(t, test.code, refusal.Code)
			require.Contains(t, refusal.Message, test.message)
		})
	}
}

func TestUpdateThatIsNotAnswered(t *testing.T) {
	f := newFixture(t)
	engine, c := newTemporalEngine(f)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c.calls = []error{client.NewWorkflowUpdateServiceTimeoutOrCanceledError(ctx.Err())}
	err := engine.Update(ctx, "j-1", workflows.UpdateStop, "R1", struct{}{})
	require.Equal(t, smc.CodeServiceUnavailable, smc.CodeOf(err))
	require.Equal(t, http.StatusServiceUnavailable, smc.AsError(err).HTTPStatus)
	require.ErrorIs(t, err, context.Canceled)
}

// What an entity says that stays behind the record is not what the caller is told: it would be told that a job is Running which it sees at rest.
func TestUpdateOfAnEntityThatStaysBehind(t *testing.T) {
	f := newFixture(t)
	source, _ := f.agent("web")
	job := f.create(source)
	engine, c := newTemporalEngine(f)
	refused := temporal.NewApplicationError("the job is Running", smc.CodeReplicationJobInvalidStatus)
	for range 100 {
		c.calls = append(c.calls, refused)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err := engine.Update(ctx, job, workflows.UpdateStart, "R1", struct{}{})
	require.Equal(t, smc.CodeServiceUnavailable, smc.CodeOf(err))
	require.Contains(t, err.Error(), "the job is Ready")
}

// Temporal takes no update for an entity whose steps fail: the caller waits for one that succeeds, and is told to ask again.
func TestUpdateOfAnEntityWhoseStepsFail(t *testing.T) {
	f := newFixture(t)
	engine, c := newTemporalEngine(f)
	notReady := serviceerror.NewWorkflowNotReady("Workflow Task in failed state")
	c.calls = []error{notReady, notReady}
	require.NoError(t, engine.Update(t.Context(), "j-1", workflows.UpdateStop, "R1", struct{}{}), "it has come to itself")
	require.Len(t, c.updates, 3)
	for range 100 {
		c.calls = append(c.calls, notReady)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err := engine.Update(ctx, "j-1", workflows.UpdateStop, "R1", struct{}{})
	require.Equal(t, smc.CodeServiceUnavailable, smc.CodeOf(err), "so is a queued job passed over, too")
	require.ErrorContains(t, err, "drover doctor")
}

// An entity that has not heard of a start yet refuses Stop for the job's status; what is in its way is the phase.
func TestUpdateOfAnEntityBehindAStart(t *testing.T) {
	f := newFixture(t)
	source, _ := f.agent("web")
	job := f.create(source)
	require.NoError(t, f.store.HostHeartbeat(t.Context(), "i-host", "http://host"))
	_, err := f.store.StartRun(t.Context(), job, "start", smc.TriggerStart, smc.RunManual, store.CutOverNone)
	require.NoError(t, err)
	engine, c := newTemporalEngine(f)
	c.calls = []error{temporal.NewApplicationError("the job is Ready", smc.CodeReplicationJobInvalidStatus)}
	err = engine.Update(t.Context(), job, workflows.UpdateStop, "R1", struct{}{})
	require.Equal(t, smc.CodeReplicationJobInvalidBusinessStatus, smc.CodeOf(err))
	require.Contains(t, err.Error(), "Running and Preparing")
}

// An entity that goes on continuing as new does not keep the caller for longer than he waits.
func TestUpdateOfAnEntityThatContinuesAsNew(t *testing.T) {
	f := newFixture(t)
	engine, c := newTemporalEngine(f)
	for range 100 {
		c.calls = append(c.calls, temporal.NewApplicationError("ask again", workflows.TypeContinuesAsNew))
	}
	ctx, cancel := context.WithCancel(t.Context())
	c.updated = func(n int) {
		if n == 2 {
			cancel()
		}
	}
	err := engine.Update(ctx, "j-1", workflows.UpdateStart, "R1", struct{}{})
	require.Equal(t, smc.CodeServiceUnavailable, smc.CodeOf(err))
	require.ErrorIs(t, err, context.Canceled, "a caller that went away is told from a center that did not answer")
}

// A job whose entity was ended from outside is not gone. Whoever waits for it is told to ask again, and a queued job is passed over.
func TestUpdateOfAnEntityThatWasEnded(t *testing.T) {
	f := newFixture(t)
	source, _ := f.agent("web")
	job := f.create(source)
	engine, c := newTemporalEngine(f)
	c.startErr = serviceerror.NewWorkflowExecutionAlreadyStarted("closed", "", "")
	for range 100 {
		c.calls = append(c.calls, serviceerror.NewNotFound("workflow execution already completed"))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err := engine.Update(ctx, job, workflows.UpdateStart, "R1", struct{}{})
	require.Equal(t, smc.CodeServiceUnavailable, smc.CodeOf(err))
	require.ErrorContains(t, err, "drover doctor")
}

func TestUpdateOfAJobThatIsGone(t *testing.T) {
	f := newFixture(t)
	engine, c := newTemporalEngine(f)
	c.calls = []error{serviceerror.NewNotFound("workflow execution already completed")}
	err := engine.Update(t.Context(), "j-none", workflows.UpdateDelete, "R1", struct{}{})
	require.Equal(t, smc.CodeInvalidJobIDNotFound, smc.CodeOf(err))
}

// The names of the updates are those of the triggers whose rules the store applies.
func TestUpdatesAreTriggers(t *testing.T) {
	for update, trigger := range map[string]smc.Trigger{
		workflows.UpdateStart: smc.TriggerStart, workflows.UpdateStop: smc.TriggerStop, workflows.UpdateCutOver: smc.TriggerCutOver,
		workflows.UpdateRun: smc.TriggerRun, workflows.UpdateDelete: smc.TriggerDelete,
	} {
		require.Equal(t, trigger, smc.Trigger(update))
	}
}
