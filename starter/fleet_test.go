package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	failurepb "go.temporal.io/api/failure/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/serviceerror"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	updatepb "go.temporal.io/api/update/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/converter"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/drover/drover/fleet"
	"github.com/drover/drover/tcp/port"
	"github.com/drover/drover/temporalenv"
	"github.com/drover/drover/workflows"
)

// life is one workflow of a fleet at the frontend.
type life struct {
	name, runID string
	state       enumspb.WorkflowExecutionStatus
	started     time.Time
	memo        *commonpb.Memo
	// statuses are the answers to queries, one after the other; the last one stays, and is the result.
	statuses []fleet.Status
	// onLast is what becomes of it once the last status was told; running when zero.
	onLast  enumspb.WorkflowExecutionStatus
	failure string
	noQuery bool // no worker answers
	closed  chan struct{}
}

// frontend is a Temporal service that knows fleets. It speaks gRPC, so that the commands are tested as they are.
type frontend struct {
	workflowservice.UnimplementedWorkflowServiceServer
	address string
	pollers int
	refuse  string // every update, with this message
	denied  error  // every describe

	mu       sync.Mutex
	lives    []*life // oldest first
	starts   []*workflowservice.StartWorkflowExecutionRequest
	signals  []string
	updates  []fleet.ResumeRequest
	onCancel func(*life)
}

func newFrontend(t *testing.T, lives ...*life) *frontend {
	t.Helper()
	f := &frontend{pollers: 1}
	for _, l := range lives {
		f.add(l)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f.address = listener.Addr().String()
	server := grpc.NewServer()
	workflowservice.RegisterWorkflowServiceServer(server, f)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		assert.NoError(t, <-served)
	})
	return f
}

func (f *frontend) add(l *life) {
	l.runID = fmt.Sprintf("run-%d", len(f.lives)+1)
	l.closed = make(chan struct{})
	if l.state == 0 {
		l.state = enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING
	}
	if l.state != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
		close(l.closed)
	}
	if l.started.IsZero() {
		l.started = time.Unix(1_800_000_000+int64(len(f.lives)), 0)
	}
	f.lives = append(f.lives, l)
}

func (l *life) end(state enumspb.WorkflowExecutionStatus) {
	l.state = state
	close(l.closed)
}

// memoOf is the memo of a fleet whose manifest has that digest.
func memoOf(t *testing.T, sum string) *commonpb.Memo {
	t.Helper()
	payload, err := converter.GetDefaultDataConverter().ToPayload(sum)
	require.NoError(t, err)
	return &commonpb.Memo{Fields: map[string]*commonpb.Payload{memoManifest: payload}}
}

func (f *frontend) env() map[string]string {
	return map[string]string{temporalenv.Address: f.address}
}

func (f *frontend) drover(t *testing.T, args ...string) outcomeOf {
	t.Helper()
	return droverWith(t, f.env(), args...)
}

// find needs f.mu.
func (f *frontend) find(execution *commonpb.WorkflowExecution) (*life, error) {
	for i := len(f.lives) - 1; i >= 0; i-- {
		l := f.lives[i]
		if fleet.WorkflowID(l.name) == execution.WorkflowId && (execution.RunId == "" || execution.RunId == l.runID) {
			return l, nil
		}
	}
	return nil, serviceerror.ToStatus(serviceerror.NewNotFound("workflow not found for ID: " + execution.WorkflowId)).Err()
}

func (l *life) info() *workflowpb.WorkflowExecutionInfo {
	info := &workflowpb.WorkflowExecutionInfo{
		Execution: &commonpb.WorkflowExecution{WorkflowId: fleet.WorkflowID(l.name), RunId: l.runID},
		Status:    l.state, StartTime: timestamppb.New(l.started), Memo: l.memo,
	}
	if l.state != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
		info.CloseTime = timestamppb.New(l.started.Add(time.Hour))
	}
	return info
}

func payloads(value any) *commonpb.Payloads {
	p, err := converter.GetDefaultDataConverter().ToPayloads(value)
	if err != nil {
		panic(err)
	}
	return p
}

func (f *frontend) GetSystemInfo(context.Context, *workflowservice.GetSystemInfoRequest) (*workflowservice.GetSystemInfoResponse, error) {
	return &workflowservice.GetSystemInfoResponse{Capabilities: &workflowservice.GetSystemInfoResponse_Capabilities{}}, nil
}

func (f *frontend) StartWorkflowExecution(_ context.Context, r *workflowservice.StartWorkflowExecutionRequest) (*workflowservice.StartWorkflowExecutionResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.starts = append(f.starts, r)
	if l, err := f.find(&commonpb.WorkflowExecution{WorkflowId: r.WorkflowId}); err == nil && l.state == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
		return nil, serviceerror.ToStatus(serviceerror.NewWorkflowExecutionAlreadyStarted("already started", r.RequestId, l.runID)).Err()
	}
	l := &life{name: strings.TrimPrefix(r.WorkflowId, "fleet/"), memo: r.Memo}
	f.add(l)
	return &workflowservice.StartWorkflowExecutionResponse{RunId: l.runID, Started: true}, nil
}

func (f *frontend) DescribeWorkflowExecution(_ context.Context, r *workflowservice.DescribeWorkflowExecutionRequest) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.denied != nil {
		return nil, serviceerror.ToStatus(f.denied).Err()
	}
	l, err := f.find(r.Execution)
	if err != nil {
		return nil, err
	}
	return &workflowservice.DescribeWorkflowExecutionResponse{WorkflowExecutionInfo: l.info()}, nil
}

func (f *frontend) QueryWorkflow(_ context.Context, r *workflowservice.QueryWorkflowRequest) (*workflowservice.QueryWorkflowResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l, err := f.find(r.Execution)
	if err != nil {
		return nil, err
	}
	if l.noQuery || r.Query.QueryType != fleet.QueryStatus {
		return nil, serviceerror.ToStatus(serviceerror.NewQueryFailed("no worker answers")).Err()
	}
	status := l.statuses[0]
	if len(l.statuses) > 1 {
		l.statuses = l.statuses[1:]
	} else if l.onLast != 0 && l.state == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
		l.end(l.onLast)
	}
	return &workflowservice.QueryWorkflowResponse{QueryResult: payloads(status)}, nil
}

func (f *frontend) GetWorkflowExecutionHistory(ctx context.Context, r *workflowservice.GetWorkflowExecutionHistoryRequest) (*workflowservice.GetWorkflowExecutionHistoryResponse, error) {
	f.mu.Lock()
	l, err := f.find(r.Execution)
	f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	select {
	case <-l.closed:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	event := &historypb.HistoryEvent{EventId: 9}
	switch l.state {
	case enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED:
		event.EventType = enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED
		event.Attributes = &historypb.HistoryEvent_WorkflowExecutionCompletedEventAttributes{WorkflowExecutionCompletedEventAttributes: &historypb.WorkflowExecutionCompletedEventAttributes{
			Result: payloads(l.statuses[len(l.statuses)-1]),
		}}
	case enumspb.WORKFLOW_EXECUTION_STATUS_FAILED:
		event.EventType = enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED
		event.Attributes = &historypb.HistoryEvent_WorkflowExecutionFailedEventAttributes{WorkflowExecutionFailedEventAttributes: &historypb.WorkflowExecutionFailedEventAttributes{
			Failure: &failurepb.Failure{Message: l.failure, FailureInfo: &failurepb.Failure_ApplicationFailureInfo{ApplicationFailureInfo: &failurepb.ApplicationFailureInfo{}}},
		}}
	case enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED:
		event.EventType = enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED
		event.Attributes = &historypb.HistoryEvent_WorkflowExecutionTerminatedEventAttributes{WorkflowExecutionTerminatedEventAttributes: &historypb.WorkflowExecutionTerminatedEventAttributes{}}
	default:
		event.EventType = enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED
		event.Attributes = &historypb.HistoryEvent_WorkflowExecutionCanceledEventAttributes{WorkflowExecutionCanceledEventAttributes: &historypb.WorkflowExecutionCanceledEventAttributes{}}
	}
	return &workflowservice.GetWorkflowExecutionHistoryResponse{History: &historypb.History{Events: []*historypb.HistoryEvent{event}}}, nil
}

func (f *frontend) RequestCancelWorkflowExecution(_ context.Context, r *workflowservice.RequestCancelWorkflowExecutionRequest) (*workflowservice.RequestCancelWorkflowExecutionResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l, err := f.find(r.WorkflowExecution)
	if err != nil {
		return nil, err
	}
	f.onCancel(l)
	return &workflowservice.RequestCancelWorkflowExecutionResponse{}, nil
}

func (f *frontend) SignalWorkflowExecution(_ context.Context, r *workflowservice.SignalWorkflowExecutionRequest) (*workflowservice.SignalWorkflowExecutionResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if strings.HasSuffix(r.WorkflowExecution.WorkflowId, "/s-gone") {
		return nil, serviceerror.ToStatus(serviceerror.NewNotFound("workflow execution already completed")).Err()
	}
	f.signals = append(f.signals, r.SignalName+" "+r.WorkflowExecution.WorkflowId)
	return &workflowservice.SignalWorkflowExecutionResponse{}, nil
}

func (f *frontend) UpdateWorkflowExecution(_ context.Context, r *workflowservice.UpdateWorkflowExecutionRequest) (*workflowservice.UpdateWorkflowExecutionResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var request fleet.ResumeRequest
	if err := converter.GetDefaultDataConverter().FromPayloads(r.Request.Input.Args, &request); err != nil {
		return nil, err
	}
	f.updates = append(f.updates, request)
	outcome := &updatepb.Outcome{Value: &updatepb.Outcome_Success{Success: &commonpb.Payloads{}}}
	if f.refuse != "" {
		outcome.Value = &updatepb.Outcome_Failure{Failure: &failurepb.Failure{
			Message: f.refuse, FailureInfo: &failurepb.Failure_ApplicationFailureInfo{ApplicationFailureInfo: &failurepb.ApplicationFailureInfo{Type: "NotPaused", NonRetryable: true}},
		}}
	}
	return &workflowservice.UpdateWorkflowExecutionResponse{
		UpdateRef: &updatepb.UpdateRef{WorkflowExecution: r.WorkflowExecution, UpdateId: r.Request.Meta.UpdateId},
		Stage:     enumspb.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED, Outcome: outcome,
	}, nil
}

// ListWorkflowExecutions hands out one a page, newest first.
func (f *frontend) ListWorkflowExecutions(_ context.Context, r *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.Query != "WorkflowType = 'Fleet' AND ExecutionStatus != 'ContinuedAsNew'" {
		return nil, serviceerror.ToStatus(serviceerror.NewInvalidArgument("unexpected query " + r.Query)).Err()
	}
	if len(f.lives) == 0 {
		return &workflowservice.ListWorkflowExecutionsResponse{}, nil
	}
	i := len(f.lives) - 1
	if len(r.NextPageToken) > 0 {
		i = int(r.NextPageToken[0])
	}
	response := &workflowservice.ListWorkflowExecutionsResponse{Executions: []*workflowpb.WorkflowExecutionInfo{f.lives[i].info()}}
	if i > 0 {
		response.NextPageToken = []byte{byte(i - 1)}
	}
	return response, nil
}

func (f *frontend) DescribeTaskQueue(_ context.Context, r *workflowservice.DescribeTaskQueueRequest) (*workflowservice.DescribeTaskQueueResponse, error) {
	if r.TaskQueue.Name != fleet.Queue {
		return nil, serviceerror.ToStatus(serviceerror.NewInvalidArgument("unexpected queue")).Err()
	}
	return &workflowservice.DescribeTaskQueueResponse{Pollers: make([]*taskqueuepb.PollerInfo, f.pollers)}, nil
}

const example = "../fleet/testdata/dc-exit.yaml"

// manifest writes a manifest into a file.
func manifest(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "fleet.yaml")
	require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
	return name
}

// dcExit is a fleet in the middle of its work.
func dcExit() fleet.Status {
	return fleet.Status{Name: "dc-exit", Status: fleet.Running, Wave: "rest", Servers: []fleet.MigrationStatus{
		{Name: "web-1", SourceID: "s-1", Wave: "pilot", Phase: fleet.PhaseDone, Status: "Finished", JobID: "j-1", ImageID: "m-1", Runs: 1},
		{Name: "web-2", SourceID: "s-2", Wave: "pilot", Phase: fleet.PhaseWaiting, Status: "Waiting", JobID: "j-2", ImageID: "m-2", Runs: 1, Reason: "run 1 of 2 is done"},
		{Name: "db-1", SourceID: "s-3", Wave: "rest", Phase: fleet.PhaseReplicate, Status: "Running", JobID: "j-3"},
		{Name: "db-2", SourceID: "s-4", Wave: "rest", Phase: fleet.PhaseFailed, Status: "InError", JobID: "j-4", Attempts: 5, Error: "job j-4 is InError", Remains: "job j-4, InError"},
		{Name: "db-3", SourceID: "s-5", Wave: "rest", Phase: fleet.PhaseQueued, Status: "Ready", JobID: "j-5", Reason: "waits for a slot"},
	}}
}

// dcExitEnds is the end of that fleet.
func dcExitEnds(state fleet.State) fleet.Status {
	status := dcExit()
	status.Status = state
	for i := range status.Servers {
		s := &status.Servers[i]
		s.Phase, s.Status, s.Reason, s.Error, s.Remains, s.Runs, s.ImageID = fleet.PhaseDone, "Finished", "", "", "", 1, "m-"+s.JobID[2:]
	}
	return status
}

func TestFleetWrongUsage(t *testing.T) {
	f := newFrontend(t, &life{name: "dc-exit", statuses: []fleet.Status{dcExit()}})
	for _, test := range []struct{ args, want string }{
		{"fleet", "drover fleet: a command is missing"},
		{"fleet nope", `no command is called "nope"`},
		{"fleet apply", "-f FILE is missing"},
		{"fleet apply -f /does/not/exist", "no such file"},
		{"fleet apply -f - --watch --dry-run", "exclude each other"},
		{"fleet status", "NAME is missing"},
		{"fleet status a b", `unexpected argument "b"`},
		{"fleet cutover", "NAME is missing"},
		{"fleet staus dc-exit", "did you mean status?"},
		{"fleet cutover dc-exit nobody", `fleet dc-exit has no server "nobody"`},
		{"fleet list --bogus", "unknown flag"},
	} {
		o := f.drover(t, strings.Fields(test.args)...)
		assert.Equal(t, exitUsage, o.code, "drover %s: %s", test.args, o.stderr)
		assert.Contains(t, o.stderr, test.want, "drover %s", test.args)
	}
	assert.Empty(t, f.signals)
	o := droverWith(t, nil, "fleet", "list")
	assert.Equal(t, exitUsage, o.code)
	assert.Contains(t, o.stderr, "not set in the environment: TEMPORAL_ADDRESS")
}

func TestManifestMistakesAreNamedByFileAndLine(t *testing.T) {
	name := manifest(t, "name: f\nwave: 1\nwaves:\n- name: w\n  servers: [{name: a,\n   frequency: 0}]\n")
	o := droverWith(t, nil, "fleet", "apply", "-f", name)
	assert.Equal(t, exitUsage, o.code)
	assert.Equal(t, "drover: the manifest cannot be used:\n"+
		name+`:2: unknown key "wave" in the manifest; known are name, defaults, pollInterval, waves`+"\n"+
		name+":6: Frequency: 0 is not allowed; allowed: 1 to 168\n", o.stderr, "and nothing on how the command is called")
	_, err := readManifest("-", strings.NewReader("a:\n\t"))
	assert.ErrorContains(t, err, "standard input:2: this is not YAML")
	_, err = readManifest("-", strings.NewReader(""))
	assert.ErrorContains(t, err, "\nstandard input: the manifest is empty")
}

const shown = `fleet dc-exit, 2 waves
  wave pilot, 1 at a time
    web-1  once, to Image
    web-2  every 12 h, cut over after 2 runs, to Image
  wave rest, 8 at a time
    db-*  once, to Image
`

func TestFleetApply(t *testing.T) {
	f := newFrontend(t)
	o := f.drover(t, "fleet", "apply", "-f", example)
	require.Equal(t, outcomeOf{0, shown + "fleet dc-exit is started\n", ""}, o)
	require.Len(t, f.starts, 1)
	start := f.starts[0]
	assert.Equal(t, "fleet/dc-exit", start.WorkflowId)
	assert.Equal(t, "Fleet", start.WorkflowType.Name)
	assert.Equal(t, "orchestrator", start.TaskQueue.Name)
	assert.Equal(t, "default", start.Namespace)
	assert.Equal(t, enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE, start.WorkflowIdReusePolicy)
	assert.Equal(t, enumspb.WORKFLOW_ID_CONFLICT_POLICY_FAIL, start.WorkflowIdConflictPolicy)

	want, err := readManifest(example, nil)
	require.NoError(t, err)
	var input workflows.FleetInput
	require.NoError(t, converter.GetDefaultDataConverter().FromPayloads(start.Input, &input), "the workflow reads what the command writes")
	assert.Empty(t, cmp.Diff(*want, input.Fleet))
	assert.Nil(t, input.State)

	f.pollers = 0
	o = f.drover(t, "fleet", "apply", "-f", example)
	assert.Equal(t, outcomeOf{
		0, "fleet dc-exit is running already, with this manifest\n",
		"drover: no worker of role orchestrator is there now; the fleet goes on when one is started\n",
	}, o)
	f.pollers = 1
	again := parse[applied](t, f.drover(t, "fleet", "apply", "-f", example, "-o", "json"))
	assert.Equal(t, applied{Name: "dc-exit", WorkflowID: "fleet/dc-exit", RunID: "run-1"}, again)

	text, err := os.ReadFile(example)
	require.NoError(t, err)
	o = f.drover(t, "fleet", "apply", "-f", manifest(t, "# the same\n"+string(text)))
	assert.Zero(t, o.code, "comments do not make it another: %s", o.stderr)
	o = f.drover(t, "fleet", "apply", "-f", manifest(t, strings.Replace(string(text), "40", "50", 1)))
	assert.Equal(t, exitFailed, o.code)
	assert.Equal(t, `drover: fleet dc-exit runs already, with another manifest: let it end, cancel it with "drover fleet cancel dc-exit --wait", or name this one otherwise`+"\n", o.stderr)

	f.lives[0].end(enumspb.WORKFLOW_EXECUTION_STATUS_CANCELED)
	again = parse[applied](t, f.drover(t, "fleet", "apply", "-f", example, "-o", "json"))
	assert.Equal(t, applied{Name: "dc-exit", WorkflowID: "fleet/dc-exit", RunID: "run-2", Started: true}, again, "one that has ended is started anew")
}

func TestFleetDryRun(t *testing.T) {
	o := droverWith(t, nil, "fleet", "apply", "-f", example, "--dry-run")
	assert.Equal(t, outcomeOf{0, shown, ""}, o, "it needs neither Temporal nor an endpoint")
	f := parse[fleet.Fleet](t, droverWith(t, nil, "fleet", "apply", "-f", example, "--dry-run", "-o", "json"))
	assert.Equal(t, "dc-exit", f.Name)

	o = droverWith(t, nil, "fleet", "apply", "--dry-run", "-f", manifest(t, `
name: f
waves:
  - {name: w, maxFailures: 1, servers: [{name: 数据库, keepJob: true, runOnce: false, frequency: 1, maxNumberOfImageToKeep: 2}, {name: web, targetType: ContainerImage}]}
`))
	assert.Equal(t, "fleet f, 1 wave\n  wave w, pauses at 2 failures\n    数据库  every 1 h, cut over by hand, to Image, the job stays\n    web     once, to ContainerImage\n", o.stdout)
}

func TestFleetList(t *testing.T) {
	broken := dcExit()
	broken.Servers = nil
	f := newFrontend(t,
		&life{name: "dc-exit", state: enumspb.WORKFLOW_EXECUTION_STATUS_FAILED, failure: "no", statuses: []fleet.Status{broken}},
		&life{name: "old", state: enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED, noQuery: true, statuses: []fleet.Status{dcExitEnds(fleet.Completed)}},
		&life{name: "wrong", state: enumspb.WORKFLOW_EXECUTION_STATUS_FAILED, failure: "no source server matches db-*", statuses: []fleet.Status{broken}},
		&life{name: "silent", noQuery: true},
		&life{name: "dc-exit", statuses: []fleet.Status{dcExit()}},
	)
	o := f.drover(t, "fleet", "list")
	assert.Zero(t, o.code)
	at := func(i int, d time.Duration) string { return clock(f.lives[i].started.Add(d)) }
	assert.Equal(t, "NAME     STATUS                 WAVE  SERVERS  DONE  FAILED  OPEN  STARTED              ENDED\n"+
		"dc-exit  Running                rest        5     1       1     3  "+at(4, 0)+"  -\n"+
		"silent   Running                -           -     -       -     -  "+at(3, 0)+"  -\n"+
		"wrong    CompletedWithFailures  rest        0     0       0     0  "+at(2, 0)+"  "+at(2, time.Hour)+"\n"+
		"old      Completed              rest        5     5       0     0  "+at(1, 0)+"  "+at(1, time.Hour)+"\n", o.stdout)
	assert.Contains(t, o.stderr, "drover: fleet silent: ")
	list := parse[[]listed](t, f.drover(t, "fleet", "list", "-o", "json"))
	require.Len(t, list, 4)
	assert.Equal(t, listed{Name: "dc-exit", Status: fleet.Running, Wave: "rest", Servers: 5, Done: 1, Failed: 1, Open: 3, StartedAt: list[0].StartedAt}, list[0])
	assert.NotEmpty(t, list[1].Error)

	o = newFrontend(t).drover(t, "fleet", "list", "-o", "json")
	assert.Equal(t, "[]\n", o.stdout)
}

func TestFleetStatus(t *testing.T) {
	paused := dcExit()
	paused.Status, paused.Reason = fleet.Paused, "too many failures"
	f := newFrontend(t, &life{name: "dc-exit", statuses: []fleet.Status{paused}})
	o := f.drover(t, "fleet", "status", "dc-exit")
	assert.Equal(t, outcomeOf{0, `Fleet:    dc-exit
Status:   Paused
Reason:   too many failures
Wave:     rest
Servers:  5: 1 done, 1 failed, 3 to go

WAVE   SERVER  PHASE        JOB STATUS  RUNS  ATTEMPTS  JOB ID  IMAGE ID  NOTE
pilot  web-1   Done         Finished       1         0  j-1     m-1
pilot  web-2   Waiting      Waiting        1         0  j-2     m-2       run 1 of 2 is done
rest   db-1    Replicating  Running        0         0  j-3     -
rest   db-2    Failed       InError        0         5  j-4     -         job j-4 is InError; remains: job j-4, InError
rest   db-3    Queued       Ready          0         0  j-5     -         waits for a slot
`, ""}, o)
	o = f.drover(t, "fleet", "status", "dc-exit", "-o", "json")
	assert.Empty(t, cmp.Diff(paused, parse[fleet.Status](t, o)))
	for _, key := range []string{"name", "status", "servers", "sourceId", "wave", "phase", "jobId", "imageId", "runs", "attempts", "error"} {
		assert.Contains(t, o.stdout, `"`+key+`": `)
	}
}

func TestFleetStatusAfterTheEnd(t *testing.T) {
	running := dcExit()
	for _, test := range []struct {
		life   life
		status fleet.State
		reason string
	}{
		{life{state: enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED, noQuery: true, statuses: []fleet.Status{dcExitEnds(fleet.Completed)}}, fleet.Completed, ""},
		{life{state: enumspb.WORKFLOW_EXECUTION_STATUS_CANCELED, statuses: []fleet.Status{running}}, fleet.Cancelled, ""},
		{life{state: enumspb.WORKFLOW_EXECUTION_STATUS_CANCELED, noQuery: true}, fleet.Cancelled, "no worker answers"},
		{life{state: enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED, statuses: []fleet.Status{running}}, fleet.Cancelled, "terminated from outside"},
		{life{state: enumspb.WORKFLOW_EXECUTION_STATUS_FAILED, statuses: []fleet.Status{running}, failure: "no source server is called web-9"}, fleet.CompletedWithFailures, "no source server is called web-9"},
	} {
		test.life.name = "dc-exit"
		f := newFrontend(t, &test.life)
		o := f.drover(t, "fleet", "status", "dc-exit", "-o", "json")
		got := parse[fleet.Status](t, o)
		assert.Equal(t, test.status, got.Status)
		assert.Contains(t, got.Reason, test.reason)
		assert.NotContains(t, o.stdout, "null")
	}
}

func TestUnknownFleet(t *testing.T) {
	f := newFrontend(t)
	for _, command := range []string{"status", "watch", "cancel", "resume", "cutover"} {
		o := f.drover(t, "fleet", command, "nobody")
		assert.Equal(t, outcomeOf{
			1, "", `drover: no fleet is called "nobody": "drover fleet list" lists them, and "drover fleet apply -f FILE" starts one` + "\n",
		}, o, command)
	}
}

func TestTemporalRefuses(t *testing.T) {
	f := newFrontend(t)
	f.denied = serviceerror.NewNamespaceNotFound("nowhere")
	o := f.drover(t, "fleet", "status", "dc-exit")
	assert.Equal(t, exitFailed, o.code)
	assert.Contains(t, o.stderr, "namespace nowhere does not exist there; set TEMPORAL_NAMESPACE")
	f.denied = serviceerror.NewPermissionDenied("no", "")
	assert.Contains(t, f.drover(t, "fleet", "status", "dc-exit").stderr, "not allowed there; set TEMPORAL_API_KEY")

	nobody := port.ForTest(t)
	o = droverWith(t, map[string]string{temporalenv.Address: nobody}, "fleet", "list")
	assert.Equal(t, exitFailed, o.code)
	assert.Contains(t, o.stderr, "drover: Temporal at "+nobody+" does not answer: ")
}

func TestFleetCancel(t *testing.T) {
	f := newFrontend(t, &life{name: "dc-exit", statuses: []fleet.Status{dcExit()}})
	f.onCancel = func(*life) {}
	o := f.drover(t, "fleet", "cancel", "dc-exit")
	assert.Equal(t, outcomeOf{0, `fleet dc-exit is being cancelled; "drover fleet watch dc-exit" shows how far it is` + "\n", ""}, o)

	cancelled := dcExit()
	cancelled.Status = fleet.Cancelled
	for i := 1; i < 5; i++ {
		cancelled.Servers[i].Phase, cancelled.Servers[i].Error, cancelled.Servers[i].Remains = fleet.PhaseCancelled, "", ""
	}
	cancelled.Servers[1].Remains = "images m-2"
	f.onCancel = func(l *life) {
		l.statuses = []fleet.Status{cancelled}
		l.end(enumspb.WORKFLOW_EXECUTION_STATUS_CANCELED)
	}
	o = f.drover(t, "fleet", "cancel", "dc-exit", "--wait")
	assert.Equal(t, outcomeOf{0, `fleet dc-exit: Cancelled
SERVER  PHASE      JOB ID  IMAGE ID  REMAINS
web-1   Done       j-1     m-1       its image
web-2   Cancelled  j-2     m-2       images m-2
db-1    Cancelled  j-3     -         -
db-2    Cancelled  j-4     -         -
db-3    Cancelled  j-5     -         -
`, ""}, o)
	o = f.drover(t, "fleet", "cancel", "dc-exit", "-o", "json")
	assert.Equal(t, fleet.Cancelled, parse[fleet.Status](t, o).Status, "to cancel it again is no error")

	f.lives[0].statuses[0].Servers[2].Error = "job j-3 could not be deleted"
	o = f.drover(t, "fleet", "cancel", "dc-exit")
	assert.Equal(t, exitFailed, o.code)
	assert.Equal(t, "drover: fleet dc-exit is cancelled, but not all could be removed: db-1\n", o.stderr)

	f.add(&life{name: "dc-exit", state: enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED, statuses: []fleet.Status{dcExitEnds(fleet.Completed)}})
	o = f.drover(t, "fleet", "cancel", "dc-exit")
	assert.Equal(t, exitFailed, o.code)
	assert.Equal(t, "drover: fleet dc-exit had ended before it was cancelled: it is Completed\n", o.stderr)
}

func TestFleetResume(t *testing.T) {
	f := newFrontend(t, &life{name: "dc-exit", statuses: []fleet.Status{dcExit()}})
	o := f.drover(t, "fleet", "resume", "dc-exit", "--retry-failed")
	assert.Equal(t, outcomeOf{0, "fleet dc-exit goes on: 3 servers to go, 1 stay failed\n", ""}, o)
	o = f.drover(t, "fleet", "resume", "dc-exit", "-o", "json")
	assert.Equal(t, "dc-exit", parse[fleet.Status](t, o).Name)
	assert.Equal(t, []fleet.ResumeRequest{{RetryFailed: true}, {}}, f.updates)

	f.refuse = "fleet dc-exit is Running, not Paused: there is nothing to resume"
	o = f.drover(t, "fleet", "resume", "dc-exit")
	assert.Equal(t, outcomeOf{1, "", "drover: " + f.refuse + "\n"}, o)

	f.lives[0].statuses = []fleet.Status{dcExitEnds(fleet.CompletedWithFailures)}
	f.lives[0].end(enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED)
	o = f.drover(t, "fleet", "resume", "dc-exit")
	assert.Equal(t, outcomeOf{
		1, "", "drover: fleet dc-exit has ended (CompletedWithFailures): to migrate anew what is not migrated, apply its manifest again\n",
	}, o)
}

func TestFleetCutOver(t *testing.T) {
	status := dcExit()
	status.Servers = append(status.Servers, fleet.MigrationStatus{Name: "db-4", SourceID: "s-gone", Wave: "rest", Phase: fleet.PhaseReplicate})
	f := newFrontend(t, &life{name: "dc-exit", statuses: []fleet.Status{status}})
	o := f.drover(t, "fleet", "cutover", "dc-exit")
	assert.Equal(t, outcomeOf{0, "server web-2 is cut over now\n", ""}, o)
	o = f.drover(t, "fleet", "cutover", "dc-exit", "db-1", "s-2", "-o", "json")
	assert.Equal(t, []cutOverAsked{{"db-1", "s-3", "j-3", fleet.PhaseReplicate}, {"web-2", "s-2", "j-2", fleet.PhaseWaiting}}, parse[[]cutOverAsked](t, o))
	assert.Equal(t, []string{
		"cut-over migration/dc-exit/s-2", "cut-over migration/dc-exit/s-3", "cut-over migration/dc-exit/s-2",
	}, f.signals)
	o = f.drover(t, "fleet", "cutover", "dc-exit", "db-1")
	assert.Equal(t, "server db-1 is cut over when its job is Waiting; it is Replicating\n", o.stdout)

	signals := len(f.signals)
	o = f.drover(t, "fleet", "cutover", "dc-exit", "web-2", "db-2")
	assert.Equal(t, outcomeOf{1, "", "drover: server db-2 cannot be cut over: its migration is Failed\n"}, o)
	assert.Len(t, f.signals, signals, "all or none")
	o = f.drover(t, "fleet", "cutover", "dc-exit", "db-4")
	assert.Equal(t, outcomeOf{1, "", "drover: server db-4 is not cut over: its migration has ended\n"}, o)

	f.lives[0].statuses[0].Servers[1] = fleet.MigrationStatus{Name: "web-2", SourceID: "s-2", Phase: fleet.PhaseWaiting, Status: "Stopped", JobID: "j-2"}
	o = f.drover(t, "fleet", "cutover", "dc-exit")
	assert.Equal(t, outcomeOf{1, "", "drover: no incremental job of fleet dc-exit has made a run: there is nothing to cut over\n"}, o, "one that was stopped by hand rests, too")
}

func TestInputIsThatOfTheWorkflow(t *testing.T) {
	f, err := readManifest(example, nil)
	require.NoError(t, err)
	ours, err := json.Marshal(fleetInput{*f})
	require.NoError(t, err)
	theirs, err := json.Marshal(workflows.FleetInput{Fleet: *f})
	require.NoError(t, err)
	assert.JSONEq(t, string(theirs), string(ours))
}
