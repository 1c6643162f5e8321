package center

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
)

// How often the sweeps look.
const (
	entitySweep  = 5 * time.Second
	dueSweep     = 5 * time.Second
	offlineSweep = 10 * time.Second
	nonceSweep   = 5 * time.Minute
)

// How long, at most, an entity that could not be started is left alone, and a due start that was woken and still waits.
const (
	longestBeginPause = time.Minute
	longestWakePause  = 5 * time.Minute
)

// Sweep keeps the record true until ctx is done: it starts entities that are missing, has queued jobs run when their turn comes and due
// starts tried when what they wait for is back, makes sources Unavailable that have fallen silent, forgets nonces that have expired, and releases sessions and reserved room of no run. Any number of centers on one store may sweep at once.
func Sweep(ctx context.Context, record *store.Store, engine Engine, log *zap.Logger) error {
	group, ctx := errgroup.WithContext(ctx)
	begins, starts := newRounds(longestBeginPause), newRounds(longestWakePause)
	group.Go(func() error {
		return every(ctx, entitySweep, func() { beginMissing(ctx, begins, record, engine, log) })
	})
	group.Go(func() error { return every(ctx, entitySweep, func() { removeDeleting(ctx, record, engine, log) }) })
	var failing atomic.Bool
	group.Go(func() error {
		return every(ctx, dueSweep, func() { wakeDueStarts(ctx, starts, &failing, record, engine, log) })
	})
	group.Go(func() error { return newAdmission(record, engine, log).run(ctx) })
	group.Go(func() error {
		return every(ctx, nonceSweep, func() {
			if err := record.ForgetNonces(ctx); err != nil && ctx.Err() == nil {
				log.Warn("expired nonces not forgotten", zap.Error(err))
			}
			n, err := record.CloseStraySessions(ctx)
			if err != nil && ctx.Err() == nil {
				log.Warn("sessions and reserved room of no run not looked for", zap.Error(err))
			}
			if n > 0 {
				log.Warn("sessions and reserved room of no run were released", zap.Int64("count", n))
			}
		})
	})
	heard := &hearing{now: time.Now}
	group.Go(func() error {
		return every(ctx, offlineSweep, func() {
			offline, err := heard.markOffline(ctx, record)
			if err != nil && ctx.Err() == nil {
				log.Warn("offline sources not found", zap.Error(err))
			}
			for _, id := range offline {
				log.Warn("source server offline", zap.String("source_id", id))
			}
		})
	})
	return group.Wait()
}

// hearing is since when a center can hear agents, as far as it knows: not while it was down, stood still, or had no database.
type hearing struct {
	now         func() time.Time // time.Now outside tests
	since, last time.Time
}

// deafAfter is how long a center may have looked at nothing before agents get the full time again to report.
const deafAfter = smc.HeartbeatRate

// markOffline makes sources Unavailable that have fallen silent. Those that could not be heard get the full time to report before they are
// called offline. It returns their ids.
func (h *hearing) markOffline(ctx context.Context, record *store.Store) (offline []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, deafAfter)
	defer cancel()
	if err := record.Ping(ctx); err != nil {
		return nil, err
	}
	now := h.now().Round(0) // heartbeats have the clock on the wall: one that is set, or a machine that was suspended, is seen by it alone
	if gap := now.Sub(h.last); gap < 0 || gap > deafAfter {
		h.since = now
	}
	if now.Sub(h.since) >= smc.OfflineAfter {
		if offline, err = record.MarkOffline(ctx, now.Add(-smc.OfflineAfter)); err != nil {
			return nil, err
		}
	}
	h.last = now
	return offline, nil
}

// beginMissing starts the entities of jobs that are in the store and not in Temporal.
func beginMissing(ctx context.Context, begins *rounds, record *store.Store, engine Engine, log *zap.Logger) {
	ids, err := record.JobsWithoutWorkflow(ctx)
	if err != nil {
		if ctx.Err() == nil {
			log.Warn("jobs without an entity not found", zap.Error(err))
		}
		return
	}
	begins.round(ctx, ids, func(ctx context.Context, jobID string, again bool) error {
		err := engine.Begin(ctx, jobID)
		switch {
		case err == nil:
			log.Info("entity started by the sweep", zap.String("job_id", jobID))
		case errors.Is(err, store.ErrNotFound): // deleted meanwhile
			return nil
		case !again && !errors.Is(ctx.Err(), context.Canceled):
			log.Warn("the entity of a job was not started: nothing moves the job until it is. It is tried again, at least once a minute, and other jobs do not wait for it. "+
				"If Temporal answers, mend what the error says of this job; drover doctor tells whether its entity is still missing",
				zap.String("job_id", jobID), zap.Error(err))
		}
		return err
	})
}

// wakeDueStarts has starts tried that are due and waited for what is back now: by themselves they are tried more and more seldom. failing
// is whether the last could not be woken.
func wakeDueStarts(ctx context.Context, starts *rounds, failing *atomic.Bool, record *store.Store, engine Engine, log *zap.Logger) {
	ids, err := record.DueStartsToWake(ctx)
	if err != nil {
		if ctx.Err() == nil {
			log.Warn("due starts that may go on not found", zap.Error(err))
		}
		return
	}
	starts.round(ctx, ids, func(ctx context.Context, jobID string, _ bool) error {
		err := engine.WakeDueStart(ctx, jobID)
		if err == nil {
			failing.Store(false)
		} else if !errors.Is(ctx.Err(), context.Canceled) && !failing.Swap(true) {
			log.Warn("due starts that may go on cannot be woken: each is tried by itself within 10 minutes", zap.String("job_id", jobID), zap.Error(err))
		}
		return err
	})
}

// removeDeleting goes on with the deletion of source servers whose jobs had to go first.
func removeDeleting(ctx context.Context, record *store.Store, engine Engine, log *zap.Logger) {
	sources, err := record.DeletingSources(ctx)
	if err != nil && ctx.Err() == nil {
		log.Warn("source servers that are being deleted not found", zap.Error(err))
	}
	for _, source := range sources {
		if err := removeSource(ctx, record, engine, source.SourceID, newRequestID()); err != nil && ctx.Err() == nil {
			log.Warn("source server not removed, the next sweep tries again", zap.String("source_id", source.SourceID), zap.Error(err))
		}
	}
}

// every calls do now and then at every interval, until ctx is done.
func every(ctx context.Context, interval time.Duration, do func()) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		do()
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}
