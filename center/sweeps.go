package center

import (
	"context"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
)

// How often the sweeps look.
const (
	entitySweep  = 5 * time.Second
	offlineSweep = 10 * time.Second
	nonceSweep   = 5 * time.Minute
)

// Sweep keeps the record true until ctx is done: it starts entities that are missing, has queued jobs run when their turn comes,
// makes sources Unavailable that have fallen silent, forgets nonces that have expired, and releases sessions and reserved room of no run. Any number of centers on one store may sweep at once.
func Sweep(ctx context.Context, record *store.Store, engine Engine, log *zap.Logger) error {
	group, ctx := errgroup.WithContext(ctx)
	begins := newBeginner(record, engine, log)
	group.Go(func() error { return every(ctx, entitySweep, func() { begins.sweep(ctx) }) })
	group.Go(func() error { return every(ctx, entitySweep, func() { removeDeleting(ctx, record, engine, log) }) })
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
	group.Go(func() error {
		// Agents could not be heard while this center was down: they get the full time to report before they are
		// called offline.
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(smc.OfflineAfter):
		}
		return every(ctx, offlineSweep, func() {
			offline, err := record.MarkOffline(ctx, time.Now().Add(-smc.OfflineAfter))
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
