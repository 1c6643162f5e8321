package workflows

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	failurepb "go.temporal.io/api/failure/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"github.com/drover/drover/activities"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
)

// world is what is around the entity of one job: its source, its transition host, the account's quota, and whoever does the
// activities. It does them itself, on the workflow's clock and one after the other, so that what is drawn once happens the same way
// again. What the test environment leaves out of Temporal it has: activities that are tried again for as long as it takes, that are
// let finish when their workflow wants to know how they ended, and that lie in the queue of a host that does not take them.
type world struct {
	*record
	interceptor.WorkerInterceptorBase
	ctx  context.Context // of an activity
	host *host
	row  *store.Job // as the last call left it; nil: the job is gone
	// called is told of every call: the row before it is still in row.
	called func(name string, in any, after *store.Job, err error)
	// failing is told of every phase that ends for good without having been done.
	failing func()
	// change is when the world changes next.
	change time.Time

	online, full, hostUp bool
	beat                 time.Time // the last one of the host
	up, there            time.Time // when it came last, and when it was there last; whoever goes at once takes no work
	durations            map[string]time.Duration
	centerFaults         []fault // of the next attempts of the center's activities
	hostFaults           []fault // of the next attempts of a run's phases
	slow, late           string  // activities of the center that always are
}

// fault is what happens to one attempt of an activity.
type fault string

const (
	faultNone     fault = "none"
	faultBefore   fault = "fails before it did anything"
	faultAfter    fault = "done, and its answer is lost"
	faultKilled   fault = "done, and its worker is killed"
	faultSlow     fault = "slow to begin"
	faultLate     fault = "slow to answer"
	faultForGood  fault = "refused for good"
	slowness            = 7 * time.Second
	centerLatency       = 5 * time.Millisecond
)

func next(faults *[]fault) fault {
	if len(*faults) == 0 {
		return faultNone
	}
	first := (*faults)[0]
	*faults = (*faults)[1:]
	return first
}

// activityContext is one in which activities can be done.
func activityContext() (ctx context.Context) {
	env := new(testsuite.WorkflowTestSuite).NewTestActivityEnvironment()
	hold := func(within context.Context) error {
		ctx = context.WithoutCancel(within)
		return nil
	}
	env.RegisterActivityWithOptions(hold, activity.RegisterOptions{Name: "hold"})
	if _, err := env.ExecuteActivity(hold); err != nil {
		panic(err)
	}
	return ctx
}

// alive says whether the center knows of a host that is there.
func (w *world) alive() bool { return w.hostUp || w.now().Sub(w.beat) <= 30*time.Second }

func (w *world) heartbeat() {
	if w.hostUp {
		w.beat = w.now()
		if err := w.HostHeartbeat(context.Background(), testHost, "http://host"); err != nil {
			panic(err)
		}
	}
}

// read returns the job's row, nil when it is gone.
func (w *world) read() *store.Job {
	job, err := w.JobByID(context.Background(), w.jobID)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		panic(err)
	}
	return job
}

// call does an activity.
//
//workflowcheck:ignore it stands in for a worker
func (w *world) call(name string, payload *commonpb.Payloads) (*commonpb.Payloads, error) {
	w.heartbeat()
	method := reflect.ValueOf(&activities.Jobs{Store: w.Store}).MethodByName(name)
	if !method.IsValid() {
		method = reflect.ValueOf(w.host).MethodByName(name)
	}
	in := reflect.New(method.Type().In(1))
	if err := converter.GetDefaultDataConverter().FromPayloads(payload, in.Interface()); err != nil {
		return nil, err
	}
	out := method.Call([]reflect.Value{reflect.ValueOf(w.ctx), in.Elem()})
	err, _ := out[len(out)-1].Interface().(error)
	after := w.read()
	w.called(name, in.Elem().Interface(), after, err)
	w.row = after
	if err != nil || len(out) == 1 {
		return nil, err
	}
	return converter.GetDefaultDataConverter().ToPayloads(out[0].Interface())
}

func (w *world) InterceptWorkflow(_ workflow.Context, next interceptor.WorkflowInboundInterceptor) interceptor.WorkflowInboundInterceptor {
	return &worldInbound{interceptor.WorkflowInboundInterceptorBase{Next: next}, w}
}

type worldInbound struct {
	interceptor.WorkflowInboundInterceptorBase
	world *world
}

func (i *worldInbound) Init(next interceptor.WorkflowOutboundInterceptor) error {
	return i.Next.Init(&worldOutbound{interceptor.WorkflowOutboundInterceptorBase{Next: next}, i.world})
}

type worldOutbound struct {
	interceptor.WorkflowOutboundInterceptorBase
	world *world
}

// ExecuteActivity does an activity as Temporal would.
func (o *worldOutbound) ExecuteActivity(ctx workflow.Context, name string, args ...any) workflow.Future {
	future, settable := workflow.NewFuture(ctx)
	if ctx.Err() != nil {
		settable.SetError(temporal.NewCanceledError())
		return future
	}
	payload, err := converter.GetDefaultDataConverter().ToPayloads(args...)
	if err != nil {
		panic(err)
	}
	free, _ := workflow.NewDisconnectedContext(ctx)
	a := &attempts{worldOutbound: o, asked: ctx, name: name, payload: payload, options: workflow.GetActivityOptions(ctx)}
	workflow.Go(free, func(free workflow.Context) {
		result, err := a.all(free)
		if !future.IsReady() {
			settable.Set(result, asActivityError(name, err))
		}
	})
	if !a.options.WaitForCancellation {
		workflow.Go(free, func(free workflow.Context) {
			ctx.Done().Receive(free, nil)
			if !future.IsReady() {
				settable.SetError(temporal.NewCanceledError())
			}
		})
	}
	return future
}

// asActivityError is the form in which a workflow gets an activity's error.
func asActivityError(name string, err error) error {
	if err == nil || temporal.IsCanceledError(err) {
		return err
	}
	form := temporal.GetDefaultFailureConverter()
	return form.FailureToError(&failurepb.Failure{
		Message: "activity error", Cause: form.ErrorToFailure(err),
		FailureInfo: &failurepb.Failure_ActivityFailureInfo{ActivityFailureInfo: &failurepb.ActivityFailureInfo{ActivityType: &commonpb.ActivityType{Name: name}}},
	})
}

// attempts is one activity, from being scheduled to its end.
type attempts struct {
	*worldOutbound
	asked   workflow.Context // cancelled when it is no longer wanted
	name    string
	payload *commonpb.Payloads
	options workflow.ActivityOptions
}

// all tries until it is done, refused for good, or no longer wanted.
func (a *attempts) all(ctx workflow.Context) (*commonpb.Payloads, error) {
	onHost := strings.HasPrefix(a.options.TaskQueue, activities.QueueTransition(""))
	for n := 0; ; n++ {
		attempt := a.onCenter
		if onHost {
			attempt = a.onHost
		}
		result, err := attempt(ctx)
		if err == nil {
			return result, nil
		}
		var application *temporal.ApplicationError
		if errors.As(err, &application) && application.NonRetryable() || nobodyTookIt(err) {
			if slices.Contains(oneRun, a.name) && errorType(err) != activities.TypeSuperseded {
				a.world.failing()
			}
			return nil, err
		}
		if a.asked.Err() != nil {
			return nil, err
		}
		timer := a.Next.NewTimer(ctx, a.pause(n, application))
		selector := workflow.NewSelector(ctx)
		canceled := false
		selector.AddFuture(timer, func(workflow.Future) {})
		selector.AddReceive(a.asked.Done(), func(workflow.ReceiveChannel, bool) { canceled = true })
		selector.Select(ctx)
		if canceled {
			return nil, temporal.NewCanceledError()
		}
	}
}

// pause is how long it is to the next attempt after n that failed, the last with an error.
func (a *attempts) pause(n int, last *temporal.ApplicationError) time.Duration {
	policy := a.options.RetryPolicy
	longest := policy.MaximumInterval
	if longest == 0 {
		longest = 100 * policy.InitialInterval
	}
	pause := time.Duration(min(float64(policy.InitialInterval)*math.Pow(policy.BackoffCoefficient, float64(min(n, 20))), float64(longest)))
	if last == nil || last.NextRetryDelay() == 0 {
		return pause
	}
	// It waits. As long as nothing changes it is refused again: most of those attempts are left out. When something does the center has
	// it tried at once.
	return max(last.NextRetryDelay(), min(a.world.untilChange()+time.Second, a.world.untilPoint()+time.Second, 10*time.Minute))
}

// untilPoint is how long it is to the next point of the job's grid.
func (w *world) untilPoint() time.Duration {
	schedule := w.row.Schedule()
	if w.row.Status != smc.StatusWaiting || schedule.Frequency == 0 {
		return math.MaxInt64 / 2
	}
	return schedule.Frequency - w.now().Sub(schedule.FirstStartAt.Add(schedule.Phase))%schedule.Frequency
}

func (a *attempts) sleep(ctx workflow.Context, d time.Duration) {
	if d > 0 {
		_ = a.Next.NewTimer(ctx, d).Get(ctx, nil)
	}
}

func (a *attempts) onCenter(ctx workflow.Context) (*commonpb.Payloads, error) {
	f := next(&a.world.centerFaults)
	a.sleep(ctx, centerLatency)
	if f == faultSlow || a.name == a.world.slow {
		a.sleep(ctx, slowness)
	}
	if f == faultBefore {
		return nil, errors.New("the database is away")
	}
	result, err := a.world.call(a.name, a.payload)
	if f == faultLate || a.name == a.world.late {
		a.sleep(ctx, slowness)
	}
	switch f {
	case faultAfter:
		return nil, errors.New("the database went away after the commit")
	case faultKilled:
		a.sleep(ctx, a.options.StartToCloseTimeout)
		return nil, temporal.NewTimeoutError(enumspb.TIMEOUT_TYPE_START_TO_CLOSE, nil)
	}
	return result, err
}

// untilChange is how long the world stays as it is. While it changes it is looked at again before long.
func (w *world) untilChange() time.Duration {
	if wait := w.change.Sub(w.now()); wait > 0 {
		return wait + time.Millisecond
	}
	return time.Minute
}

// until waits for a condition of the world.
func (a *attempts) until(ctx workflow.Context, condition func() bool, limit time.Duration) bool {
	for deadline := a.world.now().Add(limit); !condition(); {
		left := deadline.Sub(a.world.now())
		if left <= 0 {
			return false
		}
		a.sleep(ctx, min(left, a.world.untilChange()))
	}
	return true
}

var errHostDied = errors.New("the transition host died in the middle of the work")

func (a *attempts) onHost(ctx workflow.Context) (*commonpb.Payloads, error) {
	w := a.world
	limit := a.options.ScheduleToStartTimeout
	if limit == 0 {
		limit = math.MaxInt64 / 2
	}
	if !a.until(ctx, func() bool { return w.hostUp }, min(limit, 365*24*time.Hour)) {
		return nil, temporal.NewTimeoutError(enumspb.TIMEOUT_TYPE_SCHEDULE_TO_START, nil)
	}
	f := next(&w.hostFaults)
	for end := w.now().Add(w.durations[a.name]); w.now().Before(end); {
		a.sleep(ctx, min(end.Sub(w.now()), w.untilChange()))
		if !w.hostUp {
			a.sleep(ctx, heartbeatTimeout)
			return nil, errHostDied
		}
		if a.name == "Sync" && !a.until(ctx, func() bool { return w.online }, smc.DefaultSourceWait) {
			return nil, temporal.NewNonRetryableApplicationError("the run has waited for its source", smc.CodeSourceServerOffline, nil)
		}
	}
	switch f {
	case faultForGood:
		return nil, temporal.NewNonRetryableApplicationError("the image store is damaged", smc.CodeTransitionHostStorageError, nil)
	case faultBefore:
		return nil, errors.New("the disk is slow")
	}
	result, err := w.call(a.name, a.payload)
	if f == faultAfter {
		a.sleep(ctx, heartbeatTimeout)
		return nil, errHostDied
	}
	return result, err
}

func (w *world) String() string {
	return fmt.Sprintf("source online %t, host up %t, quota full %t", w.online, w.hostUp, w.full)
}
