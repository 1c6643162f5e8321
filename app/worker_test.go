package app

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/worker"
	"go.uber.org/zap"
)

// memoizing is a worker as the SDK's: what its first Start returned, all of them return.
type memoizing struct {
	worker.Worker
	start   func() error
	stopped chan struct{}
}

func (m *memoizing) Start() error { return m.start() }
func (m *memoizing) Stop()        { close(m.stopped) }

// A worker that is started while Temporal is away works once it is back.
func TestHostQueueWhileTemporalIsAway(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var workers []*memoizing
	started, ended := make(chan struct{}), make(chan error)
	go func() {
		ended <- hostQueue(ctx, Process{}.orDefault(), RoleCenter, func(worker.Options) worker.Worker {
			away := len(workers) < 2
			w := &memoizing{stopped: make(chan struct{}), start: sync.OnceValue(func() error {
				if away {
					return errors.New("connection refused")
				}
				close(started)
				return nil
			})}
			workers = append(workers, w)
			return w
		}, zap.NewNop())
	}()
	select {
	case <-started:
	case <-ctx.Done():
		require.Fail(t, "the worker does not start")
	}
	cancel()
	require.NoError(t, <-ended)
	require.Len(t, workers, 3)
	select {
	case <-workers[2].stopped:
	default:
		assert.Fail(t, "the worker was not stopped")
	}
}
