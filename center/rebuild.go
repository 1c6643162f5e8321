package center

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"golang.org/x/sync/errgroup"

	"github.com/drover/drover/activities"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/workflows"
)

// RebuildOptions say how to rebuild the entities.
type RebuildOptions struct {
	// Replace ends the entities there are, those of jobs that the record does not know among them, and starts all from the
	// record.
	Replace bool
	// Restored says that the record was restored from a backup: entities that are there know another past, and without
	// Replace they are an error; those that came to their end tell nothing of the jobs in the record.
	Restored bool
	// Prepare, which may be nil, is called before the first entity is started, when nothing stands in the way.
	Prepare func(context.Context) error
	// Progress, which may be nil, is told how many jobs of how many are done.
	Progress func(done, total int)
}

// Rebuilt counts what Rebuild did with the jobs of the record.
type Rebuilt struct {
	// Started had no entity. There had one, which goes on. Replaced had one that was ended for the new one.
	Started, There, Replaced int
	// Ended are entities of jobs that the record does not know.
	Ended int
}

// ErrEntities is returned by Rebuild when there are entities where there should be none.
var ErrEntities = errors.New("there are entities of another past in Temporal")

// rebuildParallel is how many entities are started at once.
const rebuildParallel = 8

// Rebuild starts the entity of every job in the record that has none: in a new Temporal, after its history was lost, or
// after a restore. An entity starts where its job is: at rest, or in the phase that its run had reached, which is done
// again from what the transition host has. Doing it again starts nothing twice.
func (t *TemporalEngine) Rebuild(ctx context.Context, options RebuildOptions) (Rebuilt, error) {
	var rebuilt Rebuilt
	open, err := t.openEntities(ctx)
	if err != nil {
		return rebuilt, err
	}
	if options.Restored && len(open) > 0 && !options.Replace {
		return rebuilt, fmt.Errorf("%w: %d of them, such as %s", ErrEntities, len(open), workflows.JobID(anyOf(open)))
	}
	if options.Prepare != nil {
		if err := options.Prepare(ctx); err != nil {
			return rebuilt, err
		}
	}
	// Should this be cut off, the sweep of a server goes on with it.
	if err := t.Store.ForgetWorkflows(ctx); err != nil {
		return rebuilt, fmt.Errorf("rebuild the entities: %w", err)
	}
	ids, err := t.Store.JobIDs(ctx)
	if err != nil {
		return rebuilt, fmt.Errorf("rebuild the entities: %w", err)
	}
	var mutex sync.Mutex
	done := 0
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(rebuildParallel)
	for _, id := range ids {
		replace := options.Replace && open[id]
		delete(open, id)
		group.Go(func() error {
			started, err := t.rebuildOne(groupCtx, id, replace, options.Restored)
			if errors.Is(err, store.ErrNotFound) {
				return nil // deleted meanwhile
			}
			if err != nil {
				return err
			}
			mutex.Lock()
			defer mutex.Unlock()
			switch {
			case replace:
				rebuilt.Replaced++
			case started:
				rebuilt.Started++
			default:
				rebuilt.There++
			}
			done++
			if options.Progress != nil {
				options.Progress(done, len(ids))
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return rebuilt, err
	}
	if !options.Replace {
		return rebuilt, nil
	}
	for id := range open {
		if _, err := t.Store.JobByID(ctx, id); !errors.Is(err, store.ErrNotFound) {
			if err != nil {
				return rebuilt, err
			}
			continue // created meanwhile
		}
		if err := t.end(ctx, workflows.JobID(id)); err != nil {
			return rebuilt, err
		}
		rebuilt.Ended++
	}
	return rebuilt, nil
}

func anyOf(set map[string]bool) string {
	for id := range set {
		return id
	}
	return ""
}

// openEntities returns the jobs whose entities are open.
func (t *TemporalEngine) openEntities(ctx context.Context) (map[string]bool, error) {
	executions, err := OpenWorkflows(ctx, t.Client, "ReplicationJob")
	if err != nil {
		return nil, err
	}
	open := map[string]bool{}
	for id := range executions {
		open[strings.TrimPrefix(id, workflows.JobID(""))] = true
	}
	return open, nil
}

// OpenWorkflows returns the open workflows of some types by their ids. Temporal's list of them is a moment behind.
func OpenWorkflows(ctx context.Context, temporal client.Client, types ...string) (map[string]*workflowpb.WorkflowExecutionInfo, error) {
	open := map[string]*workflowpb.WorkflowExecutionInfo{}
	request := &workflowservice.ListWorkflowExecutionsRequest{
		Query: `WorkflowType IN ('` + strings.Join(types, `', '`) + `') AND ExecutionStatus = 'Running'`,
	}
	for {
		page, err := temporal.ListWorkflow(ctx, request)
		if err != nil {
			return nil, fmt.Errorf("list the workflows in Temporal: %w", err)
		}
		for _, execution := range page.Executions {
			open[execution.Execution.WorkflowId] = execution
		}
		if request.NextPageToken = page.NextPageToken; len(request.NextPageToken) == 0 {
			return open, nil
		}
	}
}

// rebuildOne starts the entity of a job, and reports whether there was none.
func (t *TemporalEngine) rebuildOne(ctx context.Context, jobID string, replace, restored bool) (started bool, err error) {
	if replace {
		// Before the row is read: what the entity does until then is to be in it.
		if err := t.end(ctx, workflows.JobID(jobID)); err != nil {
			return false, err
		}
	}
	job, err := t.Store.JobByID(ctx, jobID)
	if err != nil {
		return false, fmt.Errorf("rebuild job %s: %w", jobID, err)
	}
	options := startOptions(job)
	options.WorkflowExecutionErrorWhenAlreadyStarted = true
	// An entity that was ended from outside, or failed, is started again. One that came to its end is that of a job that is
	// gone, unless the record is older than it.
	options.WorkflowIDReusePolicy = enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE_FAILED_ONLY
	if restored {
		options.WorkflowIDReusePolicy = enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE
	}
	if replace {
		// Temporal ends the child of an entity a little later: the new one would find it.
		if err := t.end(ctx, workflows.RunID(jobID, job.Run)); err != nil {
			return false, err
		}
	}
	_, err = t.Client.ExecuteWorkflow(ctx, options, workflows.ReplicationJob, entityInput(job))
	var there *serviceerror.WorkflowExecutionAlreadyStarted
	if err != nil && !errors.As(err, &there) {
		return false, fmt.Errorf("start the entity of job %s: %w", jobID, err)
	}
	return err == nil, t.Store.MarkWorkflowStarted(ctx, jobID)
}

// end terminates a workflow; one that is not open is no error.
func (t *TemporalEngine) end(ctx context.Context, workflowID string) error {
	err := t.Client.TerminateWorkflow(ctx, workflowID, "", "replaced from the record by drover-server rebuild")
	var missing *serviceerror.NotFound
	if err != nil && !errors.As(err, &missing) {
		return fmt.Errorf("end workflow %s: %w", workflowID, err)
	}
	return nil
}

// startOptions are those of a job's entity, however it is started.
func startOptions(job *store.Job) client.StartWorkflowOptions {
	return client.StartWorkflowOptions{
		ID:            workflows.JobID(job.JobID),
		TaskQueue:     activities.QueueCenter,
		StaticSummary: fmt.Sprintf("%s (source %s)", job.Name, job.SourceID),
	}
}
