package workflows

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/events"
	"github.com/drover/drover/smc"
)

// How many events of an entity's history each thing it does takes at most, the workflow task that follows included.
// TestHistoriesAreNoLongerThanCounted holds them against the recorded histories.
const (
	eventsOfStart    = 5 // started, and the first task; the last event
	eventsOfActivity = 6 // scheduled, started, completed; a task
	eventsOfTimer    = 5 // started, fired or canceled; a task
	eventsOfChild    = 9 // initiated, started, completed; a task each
	eventsOfUpdate   = 8 // a task, accepted; completed, a task
)

// historyCount is an upper bound of the length of an entity's history.
type historyCount struct{ activities, timers, children, updates int }

func (c historyCount) events() int {
	return eventsOfStart + c.activities*eventsOfActivity + c.timers*eventsOfTimer + c.children*eventsOfChild + c.updates*eventsOfUpdate
}

// The bound that the ninety days are counted by is one: no recorded history of an entity is longer.
func TestHistoriesAreNoLongerThanCounted(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "*-entity*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		var recorded struct{ Events []struct{ EventType string } }
		require.NoError(t, json.Unmarshal(text, &recorded))
		var count historyCount
		for _, event := range recorded.Events {
			switch strings.TrimPrefix(event.EventType, "EVENT_TYPE_") {
			case "ACTIVITY_TASK_SCHEDULED":
				count.activities++
			case "TIMER_STARTED":
				count.timers++
			case "START_CHILD_WORKFLOW_EXECUTION_INITIATED":
				count.children++
			case "WORKFLOW_EXECUTION_UPDATE_ACCEPTED":
				count.updates++
			}
		}
		assert.LessOrEqual(t, len(recorded.Events), count.events(), "%s: %+v", file, count)
	}
}

// counter counts the history of an entity as it grows, for the entity to see.
type counter struct {
	interceptor.WorkerInterceptorBase
	historyCount
	grown func(events int)
}

func (c *counter) InterceptWorkflow(ctx workflow.Context, next interceptor.WorkflowInboundInterceptor) interceptor.WorkflowInboundInterceptor {
	if workflow.GetInfo(ctx).ParentWorkflowExecution != nil {
		return next // a run has a history of its own
	}
	return &countedInbound{interceptor.WorkflowInboundInterceptorBase{Next: next}, c}
}

func (c *counter) add(kind *int) {
	*kind++
	c.grown(c.events())
}

type countedInbound struct {
	interceptor.WorkflowInboundInterceptorBase
	*counter
}

func (c *countedInbound) Init(next interceptor.WorkflowOutboundInterceptor) error {
	return c.Next.Init(&countedOutbound{interceptor.WorkflowOutboundInterceptorBase{Next: next}, c.counter})
}

func (c *countedInbound) ExecuteUpdate(ctx workflow.Context, in *interceptor.UpdateInput) (any, error) {
	c.add(&c.updates)
	return c.Next.ExecuteUpdate(ctx, in)
}

type countedOutbound struct {
	interceptor.WorkflowOutboundInterceptorBase
	*counter
}

func (c *countedOutbound) ExecuteActivity(ctx workflow.Context, name string, args ...any) workflow.Future {
	c.add(&c.activities)
	return c.Next.ExecuteActivity(ctx, name, args...)
}

func (c *countedOutbound) NewTimer(ctx workflow.Context, d time.Duration) workflow.Future {
	return c.NewTimerWithOptions(ctx, d, workflow.TimerOptions{})
}

func (c *countedOutbound) NewTimerWithOptions(ctx workflow.Context, d time.Duration, options workflow.TimerOptions) workflow.Future {
	if d > 0 && ctx.Err() == nil {
		c.add(&c.timers)
	}
	return c.Next.NewTimerWithOptions(ctx, d, options)
}

func (c *countedOutbound) ExecuteChildWorkflow(ctx workflow.Context, name string, args ...any) workflow.ChildWorkflowFuture {
	c.add(&c.children)
	return c.Next.ExecuteChildWorkflow(ctx, name, args...)
}

// once runs one run of the entity of a job from a time on, as begin has it. The run sees its history grow as long as its
// activities, timers, children and updates make it; that is counted in the answer.
func (r *record) once(start time.Time, input JobInput, begin func(*scenario), outside ...interceptor.WorkerInterceptor) (*scenario, historyCount) {
	r.t.Helper()
	s := newScenarioOf(r, input)
	count := &counter{grown: s.env.SetCurrentHistoryLength}
	s.env.SetWorkerOptions(worker.Options{
		Interceptors:             append(outside, count), // the last one is asked first
		DeadlockDetectionTimeout: stepLimit,
	})
	s.env.SetStartTime(start)
	begin(s)
	s.env.ExecuteWorkflow(ReplicationJob, input)
	require.True(r.t, s.env.IsWorkflowCompleted())
	return s, count.historyCount
}

// follow runs the entity of a job from a time on, through its runs, each continued as the next, on one clock and one store,
// until it ends. It returns how long their histories were.
func (r *record) follow(start time.Time, begin func(*scenario)) (lengths []int) {
	r.t.Helper()
	for input := r.input(); ; {
		s, count := r.once(start, input, begin)
		lengths = append(lengths, count.events())
		err := s.env.GetWorkflowError()
		if err == nil {
			return lengths
		}
		input, start, begin = requireContinuesAsNew(r.t, err), s.env.Now(), func(*scenario) {}
	}
}

// A user makes an incremental job with Frequency 12, starts it, and does not think of it again.
func TestIncrementalNinetyDays(t *testing.T) {
	const keep, runs = 3, 180
	created := time.Now().UTC().Truncate(time.Second)
	r := newRecord(t, 12, func(spec *smc.CreateReplicationJobRequest) {
		name, keep, until := "golden", keep, smc.FormatTime(created.Add(90*day))
		spec.ImageName, spec.MaxNumberOfImageToKeep, spec.ValidTime = &name, &keep, &until
	})
	first := created.Add(time.Minute)
	lengths := r.follow(created, func(s *scenario) { s.update(time.Minute, UpdateStart) })
	require.Nil(t, r.job(), "it is cleared")
	t.Logf("the entity had %d runs, the longest of %d events", len(lengths), slices.Max(lengths))
	for _, length := range lengths {
		require.LessOrEqual(t, length, 200)
	}

	var started, waiting int
	var ends []events.JobStatusChanged
	for _, change := range r.changes() {
		switch {
		case change.Status == string(smc.StatusRunning) && change.PreviousStatus != string(smc.StatusRunning):
			require.WithinDuration(t, first.Add(time.Duration(started)*12*time.Hour), change.Time, time.Second, "run %d", started+1)
			started++
			require.Equal(t, started, change.Run)
			require.Equal(t, started == 1, change.RunType == string(smc.RunManual))
			require.Empty(t, change.StatusInfo, "no point was missed")
		case change.Status == string(smc.StatusWaiting):
			waiting++
		case change.Status != string(smc.StatusReady) && change.Status != string(smc.StatusRunning):
			ends = append(ends, change)
		}
	}
	require.Equal(t, runs, started)
	require.Equal(t, runs, waiting)
	require.Len(t, ends, 3)
	for i, want := range []struct {
		status smc.JobStatus
		at     time.Time
	}{{smc.StatusExpired, created.Add(90 * day)}, {smc.StatusDeleting, created.Add(97 * day)}, {"Deleted", created.Add(97 * day)}} {
		require.Equal(t, string(want.status), ends[i].Status)
		require.WithinDuration(t, want.at, ends[i].Time, time.Second)
	}

	images, total, err := r.Images(t.Context(), testAccount, store.ImageFilter{JobID: r.jobID}, store.Page{Number: 1, Size: 50})
	require.NoError(t, err)
	require.Equal(t, keep, total, "the newest stay, also when their job is gone")
	for i, image := range images {
		require.Equal(t, fmt.Sprintf("golden_CYCLE_%d", runs-i), image.ImageName)
	}
	require.Equal(t, slices.Repeat([]int{keep}, runs-keep), r.kept[keep:], "after every run")
	require.Equal(t, []int{1, 2, 3}, r.kept[:keep])
}
