package acceptance

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/worker"

	"github.com/drover/drover/activities"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/test/changed"
	"github.com/drover/drover/test/stack"
	"github.com/drover/drover/workflows"
)

// deployment is a center whose worker is put in anew, with workflows that were changed.
type deployment struct {
	*center
	temporal client.Client
	record   *store.Store
	worker   worker.Worker
}

func newDeployment(t *testing.T) *deployment {
	t.Helper()
	d := &deployment{center: newSpread(t)}
	var err error
	d.temporal, err = d.ConnectTemporal(within(t, slow))
	require.NoError(t, err)
	t.Cleanup(d.temporal.Close)
	sealer, err := store.LoadSealer(d.env["DROVER_SECRET_KEY_FILE"])
	require.NoError(t, err)
	d.record, err = store.Open(within(t, slow), d.Database.URL, store.WithSealer(sealer))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, d.record.Close()) })
	t.Cleanup(func() { d.worker.Stop() })
	return d
}

// deploy stops the center's worker and starts another, whose workflows are changed by interceptors. Like every new process it knows no
// workflow yet: it replays each that it works on.
func (d *deployment) deploy(interceptors ...interceptor.WorkerInterceptor) {
	d.t.Helper()
	if d.worker == nil {
		require.NoError(d.t, d.CenterWorkers[0].Stop(slow))
	} else {
		d.worker.Stop()
	}
	worker.PurgeStickyWorkflowCache()
	d.worker = worker.New(d.temporal, activities.QueueCenter, worker.Options{Interceptors: interceptors, WorkerStopTimeout: time.Second, DeadlockDetectionTimeout: slow})
	d.worker.RegisterWorkflow(workflows.ReplicationJob)
	d.worker.RegisterWorkflow(workflows.ReplicationRun)
	d.worker.RegisterActivity(&activities.Jobs{Store: d.record})
	require.NoError(d.t, d.worker.Start())
}

// history returns the events of a workflow's latest run.
func (d *deployment) history(workflowID string) (events []*historypb.HistoryEvent) {
	d.t.Helper()
	iterator := d.temporal.GetWorkflowHistory(within(d.t, slow), workflowID, "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for iterator.HasNext() {
		event, err := iterator.Next()
		require.NoError(d.t, err)
		events = append(events, event)
	}
	return events
}

// takesStep reports whether a workflow takes the step that the change brought. It demands that no workflow task of it failed.
func (d *deployment) takesStep(workflowID string) (takes bool) {
	d.t.Helper()
	for _, event := range d.history(workflowID) {
		require.Nil(d.t, event.GetWorkflowTaskFailedEventAttributes(), "%s: %v", workflowID, event)
		takes = takes || event.GetMarkerRecordedEventAttributes().GetMarkerName() == "Version"
	}
	return takes
}

// Jobs that an earlier version began go on with a later one whose change is made with workflow.GetVersion, those at rest and those in the
// middle of a run. What began before keeps to the old way to the end of its run of the workflow; what begins after takes the new one.
func TestDeployAChange(t *testing.T) {
	t.Parallel()
	d := newDeployment(t)
	d.deploy() // the version that begins them
	job := func(name string, seed uint64, args ...string) string {
		disk := makeDisk(t, filepath.Join(d.Dir, name+".raw"), 256*mib, 48*mib, 16, seed)
		return d.createJob(d.startAgent(name, disk), args...)
	}
	atRest := job("at-rest", 41, "--run-once=false", "--frequency", "12", "--max-images", "2", "--start")
	fresh := job("fresh", 42)
	running := job("running", 43, "--replication-parameters", `{"bandwidth_limit":50000}`, "--start")
	d.awaitStatus(atRest, smc.StatusWaiting)
	d.awaitSyncing(running, 0.2)

	d.deploy(changed.Guarded())
	d.drover("job", "run", atRest)
	d.drover("job", "start", fresh)
	for id, status := range map[string]smc.JobStatus{atRest: smc.StatusWaiting, fresh: smc.StatusFinished, running: smc.StatusFinished} {
		d.await(id, string(status), func(details *smc.DescribeReplicationJobDetailsResult) bool {
			require.NotEqual(t, smc.StatusInError, details.Status, "%s: %s", details.ErrorCode, details.StatusInfo)
			return details.Status == status && (id != atRest || details.Run == 2)
		})
	}
	for workflow, takes := range map[string]bool{
		workflows.JobID(atRest): false, workflows.RunID(atRest, 2): true, // the entity is as old as it was, its next run is new
		workflows.JobID(running): false, workflows.RunID(running, 1): false,
		workflows.JobID(fresh): true, workflows.RunID(fresh, 1): true, // it had done nothing yet
	} {
		assert.Equal(t, takes, d.takesStep(workflow), workflow)
	}

	// With its next continue-as-new an entity is new.
	before := d.history(workflows.JobID(atRest))[0].GetWorkflowExecutionStartedEventAttributes().GetOriginalExecutionRunId()
	changes := 0
	stack.Eventually(t, slow, "the entity continues as new", func() (bool, any) {
		changes++
		d.drover("job", "modify", atRest, "--description", fmt.Sprintf("change-%d", changes))
		now := d.history(workflows.JobID(atRest))[0].GetWorkflowExecutionStartedEventAttributes().GetOriginalExecutionRunId()
		return now != before, now
	})
	d.drover("job", "modify", atRest, "--description", "last-change")
	assert.True(t, d.takesStep(workflows.JobID(atRest)))
}

// A change that open workflows do not survive stops them, and nothing else: their tasks fail and are tried again. With the version of
// before they go on where they were, and what was asked of them meanwhile is done.
func TestDeployAChangeThatBreaks(t *testing.T) {
	t.Parallel()
	d := newDeployment(t)
	d.deploy()
	disk := makeDisk(t, filepath.Join(d.Dir, "disk.raw"), 256*mib, 32*mib, 16, 44)
	job := d.createJob(d.startAgent("web-1", disk), "--run-once=false", "--frequency", "12", "--max-images", "2", "--start")
	before := d.awaitStatus(job, smc.StatusWaiting)

	d.deploy(changed.Unguarded())
	asked := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), slow)
		defer cancel()
		_, err := d.Client.RunReplicationJob(ctx, &smc.RunReplicationJobRequest{JobID: job})
		asked <- err
	}()
	stack.Eventually(t, slow, "the entity's task fails and is tried again", func() (bool, any) {
		stuck, err := d.temporal.DescribeWorkflowExecution(within(t, slow), workflows.JobID(job), "")
		require.NoError(t, err)
		require.Equal(t, enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING, stuck.WorkflowExecutionInfo.Status, "a change never fails a job")
		return stuck.PendingWorkflowTask.GetAttempt() > 1, stuck.PendingWorkflowTask.String()
	})
	failed := false
	for _, event := range d.history(workflows.JobID(job)) {
		failure := event.GetWorkflowTaskFailedEventAttributes()
		failed = failed || failure.GetCause() == enumspb.WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR
	}
	assert.True(t, failed, "the history says why")
	meanwhile, err := d.details(job)
	require.NoError(t, err)
	assert.Equal(t, smc.StatusWaiting, meanwhile.Status, "the record stands")
	assert.Equal(t, before.Sequence, meanwhile.Sequence)

	d.deploy() // rolled back
	require.NoError(t, <-asked, "what was asked meanwhile is done")
	d.await(job, "Waiting after its second run", func(details *smc.DescribeReplicationJobDetailsResult) bool {
		return details.Status == smc.StatusWaiting && details.Run == 2
	})
}
