package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"golang.org/x/sync/errgroup"

	"github.com/drover/drover/activities"
	"github.com/drover/drover/center"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/workflows"
)

const (
	// atOnce is how many requests to Temporal are under way at once.
	atOnce = 8
	// attended is how long ago a worker may have asked for work: it asks for a minute at a time.
	attended = 2 * time.Minute
	// stuckAttempts is how often a workflow's code may fail before it is said to.
	stuckAttempts = 3
	// queryTimeout is how long an entity may take to answer.
	queryTimeout = 5 * time.Second
)

// waiting are activities whose failures are how they wait, or that the job's StatusInfo tells of.
var waiting = []string{activities.NameStartDueRun, "AwaitJob", "WatchMigrations", "Prepare", "Sync", "Process", "Clean"}

// temporal examines the workflows of the center and of fleets, and the queues of their workers.
func (x *examination) temporal(ctx context.Context, known bool) {
	var open map[string]*workflowpb.WorkflowExecutionInfo
	stuck := map[string]bool{}
	attends := map[string]bool{}
	listed := x.look(ctx, "workflows", func(ctx context.Context) (err error) {
		if open, err = center.OpenWorkflows(ctx, x.Temporal, "ReplicationJob", "ReplicationRun", "Fleet", "Migration"); err != nil {
			return err
		}
		stuck, err = x.workflows(ctx, open)
		return err
	})
	if !listed {
		return // the rest would fail with the same
	}
	x.look(ctx, "task queues", func(ctx context.Context) (err error) {
		attends, err = x.queues(ctx, open, known)
		return err
	})
	if !known {
		return
	}
	x.look(ctx, "entities", func(ctx context.Context) error {
		missing, err := x.entities(ctx, open)
		if err != nil || !attends[activities.QueueCenter] {
			return err // nobody would answer
		}
		return x.states(ctx, func(jobID string) bool { return missing[jobID] || stuck[workflows.JobID(jobID)] })
	})
}

// workflows looks at what each open workflow waits for, and returns those that do not get on.
func (x *examination) workflows(ctx context.Context, open map[string]*workflowpb.WorkflowExecutionInfo) (map[string]bool, error) {
	stuck := map[string]bool{}
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for id := range open {
		group.Go(func() error {
			is, err := x.workflow(ctx, id)
			var gone *serviceerror.NotFound
			if errors.As(err, &gone) {
				return nil // the list is a moment behind
			}
			mu.Lock()
			defer mu.Unlock()
			stuck[id] = is
			return err
		})
	}
	return stuck, group.Wait()
}

func (x *examination) workflow(ctx context.Context, id string) (stuck bool, err error) {
	described, err := x.Temporal.DescribeWorkflowExecution(ctx, id, "")
	if err != nil {
		return false, fmt.Errorf("describe workflow %s: %w", id, err)
	}
	if described.WorkflowExecutionInfo.Status != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
		return false, nil
	}
	if task := described.PendingWorkflowTask; task != nil {
		waits := x.now().Sub(task.OriginalScheduledTime.AsTime())
		switch {
		case task.Attempt >= stuckAttempts:
			why, unanswered, err := x.lastFailure(ctx, described.WorkflowExecutionInfo.Execution)
			if err != nil {
				return false, err
			}
			what := "its code has failed"
			if unanswered {
				what = "a worker with the queue " + described.WorkflowExecutionInfo.TaskQueue + " has taken its next step and not answered,"
			}
			x.find(workflowStuck, id, "%s %d times in a row, since %s%s", what, task.Attempt-1, smc.FormatTime(task.OriginalScheduledTime.AsTime()), why)
			stuck = true
		case waits > x.Limits.WorkflowTask:
			x.find(workflowStuck, id, "its next step has waited for %s for a worker with the queue %s", short(waits), described.WorkflowExecutionInfo.TaskQueue)
			stuck = true
		}
	}
	for _, activity := range described.PendingActivities {
		name := activity.ActivityType.Name
		if activity.Attempt > x.Limits.Attempts && activity.LastFailure != nil && !slices.Contains(waiting, name) {
			x.find(activityFailing, id, "%s has failed %d times: %s", name, activity.Attempt-1, activity.LastFailure.Message)
		}
	}
	return stuck, nil
}

// lastFailure returns what the code of a workflow failed with, to be put at the end of a text, or that its worker did not answer. Temporal tells of
// the first in a row.
func (x *examination) lastFailure(ctx context.Context, execution *commonpb.WorkflowExecution) (why string, unanswered bool, err error) {
	history, err := x.Temporal.WorkflowService().GetWorkflowExecutionHistoryReverse(ctx, &workflowservice.GetWorkflowExecutionHistoryReverseRequest{
		Namespace: x.Namespace, Execution: execution, MaximumPageSize: 20,
	})
	if err != nil {
		return "", false, fmt.Errorf("read the history of workflow %s: %w", execution.WorkflowId, err)
	}
	for _, event := range history.History.Events {
		if failed := event.GetWorkflowTaskFailedEventAttributes(); failed != nil {
			return ": " + failed.GetFailure().GetMessage(), false, nil
		}
		if event.GetWorkflowTaskTimedOutEventAttributes() != nil {
			return "", true, nil
		}
	}
	return "", false, nil
}

// queues finds task queues that have work and nobody who asks for it, and returns those that are attended.
func (x *examination) queues(ctx context.Context, open map[string]*workflowpb.WorkflowExecutionInfo, known bool) (map[string]bool, error) {
	needed := map[string]int{}
	for _, execution := range open {
		needed[execution.TaskQueue]++
	}
	if known {
		hosts, err := x.Record.HostStates(ctx)
		if err != nil {
			return nil, err
		}
		for _, h := range hosts {
			if h.Alive && h.Jobs > 0 { // one that is offline is a finding of its own
				needed[activities.QueueTransition(h.HostID)] = h.Jobs
			}
		}
	}
	attends := map[string]bool{}
	for queue, n := range needed {
		sort := enumspb.TASK_QUEUE_TYPE_WORKFLOW
		if strings.HasPrefix(queue, activities.QueueTransition("")) {
			sort = enumspb.TASK_QUEUE_TYPE_ACTIVITY
		}
		described, err := x.Temporal.DescribeTaskQueue(ctx, queue, sort)
		if err != nil {
			return nil, fmt.Errorf("describe task queue %s: %w", queue, err)
		}
		var last time.Time
		for _, poller := range described.Pollers {
			if at := poller.LastAccessTime.AsTime(); at.After(last) {
				last = at
			}
		}
		// Temporal does not tell its time. What it says to have happened later than now shows that it is ahead.
		if ahead := last.Sub(x.now()); ahead > x.Limits.Skew {
			x.clock("Temporal", ahead, "this machine's")
		}
		if attends[queue] = x.now().Sub(last) <= attended; attends[queue] {
			continue
		}
		since := "nobody has asked for its work lately"
		if !last.IsZero() {
			since = "its work was asked for last at " + smc.FormatTime(last)
		}
		x.find(queueUnattended, queue, "%s; %d need it", since, n)
	}
	return attends, nil
}

// entities compares the jobs of the record with the open entities, and returns the jobs without one.
func (x *examination) entities(ctx context.Context, open map[string]*workflowpb.WorkflowExecutionInfo) (missing map[string]bool, err error) {
	missing = map[string]bool{}
	for id, job := range x.jobs {
		if open[workflows.JobID(id)] != nil || x.now().Sub(job.CreatedAt) < x.Limits.Fresh {
			continue
		}
		// The list may be behind, and the job may be gone by now.
		described, err := x.Temporal.DescribeWorkflowExecution(ctx, workflows.JobID(id), "")
		var none *serviceerror.NotFound
		if err != nil && !errors.As(err, &none) {
			return nil, fmt.Errorf("describe workflow %s: %w", workflows.JobID(id), err)
		}
		how := "there is none"
		if err == nil {
			if described.WorkflowExecutionInfo.Status == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
				continue
			}
			how = "it ended as " + described.WorkflowExecutionInfo.Status.String()
		}
		if _, err := x.Record.JobByID(ctx, id); errors.Is(err, store.ErrNotFound) {
			continue
		} else if err != nil {
			return nil, err
		}
		missing[id] = true
		started := false
		if x.Fix {
			if started, err = x.engine().Revive(ctx, id); err != nil {
				return nil, err
			}
		}
		x.add(entityMissing, id, started, "%s, the job is %s: %s", job.Name, job.Status, how)
	}
	for id, execution := range open {
		jobID, is := strings.CutPrefix(id, workflows.JobID(""))
		if !is || execution.Type.Name != "ReplicationJob" || x.jobs[jobID] != nil || x.now().Sub(execution.StartTime.AsTime()) < x.Limits.Fresh {
			continue
		}
		if _, err := x.Record.JobByID(ctx, jobID); err == nil || !errors.Is(err, store.ErrNotFound) {
			if err != nil {
				return nil, err
			}
			continue // created meanwhile
		}
		described, err := x.Temporal.DescribeWorkflowExecution(ctx, id, "")
		if err == nil && described.WorkflowExecutionInfo.Status == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
			x.find(entityUnknown, id, "it runs since %s", smc.FormatTime(execution.StartTime.AsTime()))
		}
	}
	return missing, nil
}

// states asks every entity what it takes its job to be. The record is ahead of the entity for a moment at every transition, so
// those that differ are asked twice.
func (x *examination) states(ctx context.Context, skip func(jobID string) bool) error {
	var suspects []string
	for id := range x.jobs {
		if !skip(id) {
			suspects = append(suspects, id)
		}
	}
	suspects, err := x.differing(ctx, suspects)
	if err != nil || len(suspects) == 0 {
		return err
	}
	if err := wait(ctx, x.Limits.Settle); err != nil {
		return err
	}
	if suspects, err = x.differing(ctx, suspects); err != nil {
		return err
	}
	for _, id := range suspects {
		job, err := x.Record.JobByID(ctx, id)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		state, err := x.engine().EntityState(ctx, id)
		if err != nil || state.Status == job.Status {
			continue
		}
		x.find(entityDiffers, id, "%s is %s in the record, and %s for its entity", job.Name, job.Status, state.Status)
	}
	return nil
}

// differing returns the jobs whose entities take them to have another status than the record.
func (x *examination) differing(ctx context.Context, ids []string) (differ []string, err error) {
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for _, id := range ids {
		group.Go(func() error {
			asking, cancel := context.WithTimeout(ctx, queryTimeout)
			defer cancel()
			state, err := x.engine().EntityState(asking, id)
			if err != nil {
				return nil // it ended, does not know the question yet, or is stuck, which is a finding of its own
			}
			job, err := x.Record.JobByID(ctx, id)
			if errors.Is(err, store.ErrNotFound) {
				return nil
			}
			if err == nil && job.Status != state.Status {
				mu.Lock()
				defer mu.Unlock()
				differ = append(differ, id)
			}
			return err
		})
	}
	err = group.Wait()
	slices.Sort(differ)
	return differ, err
}
