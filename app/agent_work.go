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

// task is a sync under way.
type task struct {
	generation int64
	cancel     context.CancelFunc
	done       chan struct{} // closed when the sync has returned

	// Valid once done is closed.
	err    error
	lasted time.Duration
}

func (t *task) finished() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

// end cancels the sync and waits for it: there are never two of this agent on one disk.
func (t *task) end() {
	t.cancel()
	<-t.done
}

// stop cancels the sync and waits for it, but no longer than timeout: a read that hangs in the kernel
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

// work asks the center again and again what to do, and does it: one sync at a time.
func (a *agent) work(ctx context.Context) error {
	var (
		have     int64 // generation last received
		served   int64 // generation last started
		current  *task // the sync of it, until its outcome was seen
		failures int   // syncs of it in a row that lost their session
		outage   = outage{log: a.log, what: "request for work", after: a.after, answers: a.answers}
	)
	unheard := ctx // is done when the run of a sync that failed should have failed too; ctx when none has failed
	defer func() {
		if current != nil && !current.stop(a.cfg.Process.share(activitiesShare)) {
			a.log.Warn("the sync does not end; leaving it to the end of the process")
		}
	}()
	for {
		if current != nil && current.finished() {
			lost := current
			current = nil
			if lost.err != nil && finished(lost.err) {
				unheard = a.untilHeard(ctx)
			}
			if !finished(lost.err) {
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
		if desired.Generation == have {
			continue
		}
		have = desired.Generation
		if current != nil {
			if current.generation == desired.Generation {
				continue
			}
			a.log.Info("the center withdrew or replaced the work; ending the sync", zap.Int64("generation", desired.Generation))
			current.end()
			current = nil
		}
		if desired.Generation != served {
			served, failures, unheard = desired.Generation, 0, ctx
		}
		if desired.Work != nil {
			current = a.start(ctx, desired.Generation, *desired.Work)
		}
	}
}

// untilHeard returns a context that is done when the run of a sync that has just failed should have failed too.
func (a *agent) untilHeard(ctx context.Context) context.Context {
	ctx, cancel := context.WithTimeout(ctx, a.failedAgain)
	context.AfterFunc(ctx, cancel)
	return ctx
}

// poll asks for work. It returns early, with an error, when the current sync ends or unheard is closed.
func (a *agent) poll(ctx context.Context, have int64, current *task, unheard <-chan struct{}) (agentapi.Desired, error) {
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
	return a.client.Work(ctx, agentapi.WorkQuery{Instance: a.instance, Have: have, Wait: a.wait})
}

// finished tells an outcome (all copied, or failed for good and reported to the host) from a session
// that was lost.
func finished(err error) bool {
	if err == nil {
		return true
	}
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
		t.err = a.sync(ctx, cfg, func(p replica.Progress) { progress.Store(&p); count(p) })
		last := progress.Load()
		t.lasted = time.Since(begin)
		fields := []zap.Field{
			zap.Int64("bytes_read", last.BytesRead),
			zap.Int64("bytes_sent", last.BytesSent),
			zap.Duration("duration", t.lasted),
		}
		outcome := outcomeComplete
		switch {
		case t.err == nil:
			log.Info("sync complete", fields...)
		case ctx.Err() != nil:
			outcome = outcomeEnded
			log.Info("sync ended", fields...)
		case finished(t.err):
			outcome = outcomeFailed
			log.Error("sync failed; waiting for the center", append(fields, zap.Error(t.err))...)
		default:
			outcome = outcomeLost
			log.Warn("sync lost its session; asking the center again", append(fields, zap.Error(t.err))...)
		}
		a.metrics.syncs.WithLabelValues(outcome).Inc()
	}()
	return t
}
