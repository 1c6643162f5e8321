package app

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/replica"
)

// finalCodes are failures of a sync that the agent does not try again by itself: the transition host
// knows of them, the run fails, and a person sees to the disk. What shall be tried again after that comes
// as a new generation. Only when the run does not fail within failedAgain does the agent sync again, and
// fail again: the host may have died before it could record the failure.
var finalCodes = map[string]bool{
	replica.CodeSourceReadError:    true,
	replica.CodeSourceSizeChanged:  true,
	replica.CodeSourceDiskNotFound: true,
	replica.CodeSyncDiverged:       true,
}

// failedAgain is how long the agent waits for a run to fail whose host it has told of a failure.
const failedAgain = 10 * time.Second

// task is a sync, or a delivery, under way.
type task struct {
	generation int64
	cancel     context.CancelFunc
	done       chan struct{} // closed when it has returned

	// Valid once done is closed.
	result outcome
	lasted time.Duration
}

// outcome is what a task came to.
type outcome int

// Outcomes.
const (
	// taskLost has lost its session, its ticket or its order: the center is asked anew, and its generation served again if that is
	// still wanted.
	taskLost outcome = iota
	// taskServed has served its generation.
	taskServed
	// taskFailed has failed for good and told the transition host: its run should fail too.
	taskFailed
)

func (t *task) finished() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

// end cancels the task and waits for it: there are never two of this agent on one disk.
func (t *task) end() {
	t.cancel()
	<-t.done
}

// stop cancels the task and waits for it, but no longer than timeout: a read that hangs in the kernel
// cannot be cancelled, and shall not keep the process from ending.
func (t *task) stop(timeout time.Duration) bool {
	t.cancel()
	select {
	case <-t.done:
		return true
	case <-time.After(timeout):
		return false
	}
}

// work asks the center again and again what to do, and does it: one thing at a time.
func (a *agent) work(ctx context.Context) error {
	var (
		have     int64 // generation last received
		served   int64 // generation last started
		current  *task // the work of it, until its outcome was seen
		failures int   // tasks of it in a row that were lost
		words    = a.role.words()
		outage   = outage{log: a.log, what: "request for work", after: a.after, answers: a.answers}
	)
	unheard := ctx // is done when the run of a sync that failed should have failed too; ctx when none has failed
	defer func() {
		if current != nil && !current.stop(a.cfg.Process.share(activitiesShare)) {
			a.log.Warn("the " + words.task + " does not end; leaving it to the end of the process")
		}
	}()
	for {
		if current != nil && current.finished() {
			lost := current
			current = nil
			switch lost.result {
			case taskServed:
			case taskFailed:
				unheard = a.untilHeard(ctx)
			case taskLost:
				if lost.lasted >= lastPause {
					failures = 0
				}
				// The session went away: another attachment, a stop, a host that lost it, a token that expired.
				// Ask anew, and serve this generation again if it is still wanted.
				have = 0
				failures++
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-a.after(pause(failures)):
				}
			}
		}

		desired, err := a.poll(ctx, have, current, unheard.Done())
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case unheard.Err() != nil:
			a.log.Warn("the run that failed here has not failed at the center; syncing again")
			have, unheard = 0, ctx
			continue
		case current != nil && current.finished():
			continue // its end interrupted the request; what came is asked for again
		case err != nil:
			if err := a.deleted(err); err != nil {
				return err
			}
			if err := outage.failed(ctx, err); err != nil {
				return err
			}
			continue
		}
		outage.over()
		if desired.generation == have {
			continue
		}
		have = desired.generation
		if current != nil {
			if current.generation == desired.generation {
				continue
			}
			a.log.Info("the center withdrew or replaced the work; ending the "+words.task, zap.Int64("generation", desired.generation))
			current.end()
			current = nil
		}
		if desired.generation != served {
			served, failures, unheard = desired.generation, 0, ctx
		}
		if desired.begin != nil {
			current = desired.begin(ctx)
		}
	}
}

// untilHeard returns a context that is done when the run of a sync that has just failed should have failed too.
func (a *agent) untilHeard(ctx context.Context) context.Context {
	ctx, cancel := context.WithTimeout(ctx, a.failedAgain)
	context.AfterFunc(ctx, cancel)
	return ctx
}

// poll asks for work. It returns early, with an error, when the current task ends or unheard is closed.
func (a *agent) poll(ctx context.Context, have int64, current *task, unheard <-chan struct{}) (desired, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var ended <-chan struct{}
	if current != nil {
		ended = current.done
	}
	go func() {
		select {
		case <-ended:
			cancel()
		case <-unheard:
			cancel()
		case <-ctx.Done():
		}
	}()
	return a.role.ask(ctx, agentapi.WorkQuery{Instance: a.instance, Have: have, Wait: a.wait})
}

// reported tells a failure for good, of which the host was told, from a session that was lost.
func reported(err error) bool {
	var failure *replica.Error
	return errors.As(err, &failure) && finalCodes[failure.Code]
}

// start begins a sync and returns at once.
func (a *agent) start(ctx context.Context, generation int64, work agentapi.Work) *task {
	ctx, cancel := context.WithCancel(ctx)
	t := &task{generation: generation, cancel: cancel, done: make(chan struct{})}
	log := a.log.With(zap.String("job_id", work.JobID), zap.Int("run", work.Run))
	cfg := replica.SyncConfig{
		HostURL:  work.HostURL,
		Token:    work.Token,
		JobID:    work.JobID,
		Instance: a.instance,
		Client:   a.dataClient(),
		Logger:   a.log.With(zap.Int("run", work.Run)), // Sync adds the job itself
	}
	for i, path := range a.state.Disks {
		cfg.Disks = append(cfg.Disks, replica.SourceDisk{Index: i, Path: path})
	}
	log.Info("sync started", zap.String("host", work.HostURL), zap.Int64("generation", generation),
		zap.Int64("bandwidth_limit_kbps", work.Parameters.BandwidthLimit),
		zap.Int("compress_level", work.Parameters.CompressLevel), zap.Bool("checksum", work.Parameters.Checksum))

	go func() {
		defer close(t.done)
		defer cancel()
		begin := time.Now()
		var progress atomic.Pointer[replica.Progress]
		progress.Store(&replica.Progress{})
		count := a.metrics.progress()
		a.metrics.syncing.Set(1)
		defer a.metrics.syncing.Set(0)
		err := a.sync(ctx, cfg, func(p replica.Progress) { progress.Store(&p); count(p) })
		last := progress.Load()
		t.lasted = time.Since(begin)
		fields := []zap.Field{
			zap.Int64("bytes_read", last.BytesRead),
			zap.Int64("bytes_sent", last.BytesSent),
			zap.Duration("duration", t.lasted),
		}
		outcome := outcomeComplete
		switch {
		case err == nil:
			t.result = taskServed
			log.Info("sync complete", fields...)
		case ctx.Err() != nil:
			outcome = outcomeEnded
			log.Info("sync ended", fields...)
		case reported(err):
			t.result = taskFailed
			outcome = outcomeFailed
			log.Error("sync failed; waiting for the center", append(fields, zap.Error(err))...)
		default:
			outcome = outcomeLost
			log.Warn("sync lost its session; asking the center again", append(fields, zap.Error(err))...)
		}
		a.metrics.syncs.WithLabelValues(outcome).Inc()
	}()
	return t
}
