// Package changed plays a later version of the workflows for tests: it takes one step more before every activity. With it tests show
// what becomes of open workflows when such a change is put in, with and without workflow.GetVersion.
package changed

import (
	"time"

	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/workflow"
)

// ID is the change id that Guarded takes its step under.
const ID = "changed-step"

// Guarded returns a worker interceptor that changes all workflows as a change has to be made (docs/operations.md, Deploying a change): runs
// of workflows that began without the step go on without it.
func Guarded() interceptor.WorkerInterceptor { return &change{guarded: true} }

// Unguarded returns a worker interceptor that changes all workflows without regard to those that are open.
func Unguarded() interceptor.WorkerInterceptor { return &change{} }

type change struct {
	interceptor.WorkerInterceptorBase
	guarded bool
}

func (c *change) InterceptWorkflow(_ workflow.Context, next interceptor.WorkflowInboundInterceptor) interceptor.WorkflowInboundInterceptor {
	return &inbound{WorkflowInboundInterceptorBase: interceptor.WorkflowInboundInterceptorBase{Next: next}, change: c}
}

type inbound struct {
	interceptor.WorkflowInboundInterceptorBase
	change *change
}

func (i *inbound) Init(next interceptor.WorkflowOutboundInterceptor) error {
	return i.Next.Init(&outbound{WorkflowOutboundInterceptorBase: interceptor.WorkflowOutboundInterceptorBase{Next: next}, change: i.change})
}

type outbound struct {
	interceptor.WorkflowOutboundInterceptorBase
	change *change
}

// ExecuteActivity takes the step, a timer, before the activity.
func (o *outbound) ExecuteActivity(ctx workflow.Context, name string, args ...any) workflow.Future {
	if !o.change.guarded || workflow.GetVersion(ctx, ID, workflow.DefaultVersion, 1) >= 1 {
		disconnected, _ := workflow.NewDisconnectedContext(ctx) // the step is no part of what may be cancelled
		_ = workflow.Sleep(disconnected, time.Millisecond)
	}
	return o.Next.ExecuteActivity(ctx, name, args...)
}
