package center

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/workflows"
)

// memoryTemporal holds workflows by id: true while one is open.
type memoryTemporal struct {
	client.Client
	mu      sync.Mutex
	open    map[string]bool
	inputs  map[string]workflows.JobInput
	ended   []string
	failing string          // the workflow whose start fails
	ending  func(id string) // is told of a workflow that is about to be ended; may be nil
}

func (m *memoryTemporal) ListWorkflow(_ context.Context, request *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := slices.DeleteFunc(slices.Sorted(maps.Keys(m.open)), func(id string) bool { return !m.open[id] })
	// A page a workflow: the token is the last one's id.
	i, found := slices.BinarySearch(all, string(request.NextPageToken))
	if found {
		i++
	}
	response := &workflowservice.ListWorkflowExecutionsResponse{}
	if i < len(all) {
		response.Executions = []*workflowpb.WorkflowExecutionInfo{{Execution: &commonpb.WorkflowExecution{WorkflowId: all[i]}}}
		response.NextPageToken = []byte(all[i])
	}
	return response, nil
}

func (m *memoryTemporal) ExecuteWorkflow(_ context.Context, options client.StartWorkflowOptions, _ any, args ...any) (client.WorkflowRun, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	open, known := m.open[options.ID]
	completed := known && !open
	if open || completed && options.WorkflowIDReusePolicy == enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY {
		return nil, serviceerror.NewWorkflowExecutionAlreadyStarted("there", "", "")
	}
	if options.ID == m.failing {
		return nil, errors.New("no connection")
	}
	m.open[options.ID], m.inputs[options.ID] = true, args[0].(workflows.JobInput)
	return nil, nil
}

func (m *memoryTemporal) TerminateWorkflow(_ context.Context, id, _, _ string, _ ...any) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.open[id] {
		return serviceerror.NewNotFound("not found")
	}
	if m.ending != nil {
		m.ending(id)
	}
	delete(m.open, id)
	m.ended = append(m.ended, id)
	return nil
}

func TestRebuild(t *testing.T) {
	f := newFixture(t)
	var jobs []string
	for _, name := range []string{"web-a", "web-b", "web-c"} {
		source, _ := f.agent(name)
		jobs = append(jobs, f.create(source))
	}
	slices.Sort(jobs)
	entity := workflows.JobID
	m := &memoryTemporal{open: map[string]bool{entity(jobs[0]): true, entity("j-unknown"): true}, inputs: map[string]workflows.JobInput{}, failing: entity(jobs[2])}
	engine := &TemporalEngine{Client: m, Store: f.store}

	_, err := engine.Rebuild(t.Context(), RebuildOptions{})
	require.ErrorContains(t, err, "no connection")
	missing, err := f.store.JobsWithoutWorkflow(t.Context())
	require.NoError(t, err)
	require.Contains(t, missing, jobs[2], "a sweep goes on where a rebuild was cut off")

	m.failing = ""
	total := 0
	rebuilt, err := engine.Rebuild(t.Context(), RebuildOptions{Progress: func(_, of int) { total = of }})
	require.NoError(t, err)
	require.Equal(t, 3, total)
	require.Equal(t, 3, rebuilt.Started+rebuilt.There)
	require.NotContains(t, m.inputs, entity(jobs[0]), "what is there is left alone")
	require.Empty(t, m.ended)
	job, err := f.store.JobByID(t.Context(), jobs[2])
	require.NoError(t, err)
	require.Equal(t, entityInput(job), m.inputs[entity(jobs[2])])
	missing, err = f.store.JobsWithoutWorkflow(t.Context())
	require.NoError(t, err)
	require.Empty(t, missing)

	rebuilt, err = engine.Rebuild(t.Context(), RebuildOptions{})
	require.NoError(t, err)
	require.Equal(t, Rebuilt{There: 3}, rebuilt, "doing it again starts nothing")

	// After a restore entities are of another past, and one that came to its end says nothing of a job that is back.
	prepared := false
	options := RebuildOptions{Restored: true, Prepare: func(context.Context) error { prepared = true; return nil }}
	_, err = engine.Rebuild(t.Context(), options)
	require.ErrorIs(t, err, ErrEntities)
	require.False(t, prepared)
	m.open[entity(jobs[1])] = false
	options.Replace = true
	rebuilt, err = engine.Rebuild(t.Context(), options)
	require.NoError(t, err)
	require.True(t, prepared)
	require.Equal(t, Rebuilt{Started: 1, Replaced: 2, Ended: 1}, rebuilt)
	require.ElementsMatch(t, []string{entity(jobs[0]), entity(jobs[2]), entity("j-unknown")}, m.ended)
	require.True(t, m.open[entity(jobs[1])])
}

// An entity may move its job until it is ended: the new one takes the job for what it is after that, and the run that was begun is ended too.
func TestRebuildReplacesAnEntityAtWork(t *testing.T) {
	f := newFixture(t)
	source, _ := f.agent("web")
	id := f.create(source)
	run := workflows.RunID(id, 1)
	m := &memoryTemporal{open: map[string]bool{workflows.JobID(id): true, run: true}, inputs: map[string]workflows.JobInput{}}
	m.ending = func(ended string) {
		if ended == workflows.JobID(id) {
			_, err := f.store.StartRun(t.Context(), id, "start", smc.TriggerStart, smc.RunManual, store.CutOverNone)
			require.NoError(t, err)
		}
	}
	engine := &TemporalEngine{Client: m, Store: f.store}
	_, err := engine.Rebuild(t.Context(), RebuildOptions{Replace: true})
	require.NoError(t, err)
	require.Equal(t, []string{workflows.JobID(id), run}, m.ended)
	job, err := f.store.JobByID(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, smc.StatusRunning, job.Status)
	require.Equal(t, entityInput(job), m.inputs[workflows.JobID(id)])
}
