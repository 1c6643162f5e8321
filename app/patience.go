package app

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/monitor"
)

// tryEvery is how often a process looks whether something is back that it needs to start.
const tryEvery = time.Second

// until calls try until it succeeds, fails for good or ctx is done, and returns what it returned last. The first failure that may pass is
// logged with message, as is its end.
func until(ctx context.Context, log *zap.Logger, message string, passing func(error) bool, try func() error) error {
	var since time.Time
	for {
		err := try()
		switch {
		case err == nil && !since.IsZero():
			log.Info("it is over: "+message, zap.Duration("after", time.Since(since)))
			return nil
		case err == nil || ctx.Err() != nil || !passing(err):
			return err
		case since.IsZero():
			since = time.Now()
			log.Warn(message, zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(tryEvery):
		}
	}
}

var errNotOpen = errors.New("it is not open yet")

// awaitRecord is openRecord for a process that serves: while the database server is away it waits, and is not ready. The requirement stays
// until remove is called.
func (c Connections) awaitRecord(ctx context.Context, p *monitor.Process, log *zap.Logger, more ...store.Option) (record *store.Store, remove func(), err error) {
	var trouble atomic.Pointer[error]
	fails := func(err error) { trouble.Store(&err) }
	fails(errNotOpen)
	remove = p.Require("database", func(context.Context) error { return *trouble.Load() })
	err = until(ctx, log, "the database does not answer: this process waits for it", store.Away, func() (err error) {
		if record, err = c.openRecord(ctx, log, more...); err != nil {
			fails(err)
		}
		return err
	})
	return record, remove, err
}
