package center

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/drover/drover/center/store"
)

// longestBeginPause is how long an entity that could not be started is left alone, at most, before it is tried again.
const longestBeginPause = time.Minute

// beginner starts the entities of jobs that are in the store and not in Temporal. A job whose entity cannot be started is tried again
// at growing intervals and holds up no other.
type beginner struct {
	store  *store.Store
	engine Engine
	log    *zap.Logger
	now    func() time.Time

	mutex  sync.Mutex
	failed map[string]failedBegin // by JobID
}

// failedBegin is what is known of a job whose entity could not be started.
type failedBegin struct {
	pause time.Duration // before the next try
	next  time.Time
}

func newBeginner(record *store.Store, engine Engine, log *zap.Logger) *beginner {
	return &beginner{store: record, engine: engine, log: log, now: time.Now, failed: map[string]failedBegin{}}
}

// sweep tries the jobs that have no entity, those last that failed before and then only when their time has come. It ends early while
// nothing at all can be started, as when Temporal is away: the next sweep goes on with the others.
func (b *beginner) sweep(ctx context.Context) {
	ids, err := b.store.JobsWithoutWorkflow(ctx)
	if err != nil {
		if ctx.Err() == nil {
			b.log.Warn("jobs without an entity not found", zap.Error(err))
		}
		return
	}
	var group errgroup.Group
	group.SetLimit(rebuildParallel)
	var started, failed atomic.Int64
	for _, id := range b.due(ids) {
		if ctx.Err() != nil || started.Load() == 0 && failed.Load() >= rebuildParallel {
			break
		}
		group.Go(func() error {
			if b.begin(ctx, id) {
				started.Add(1)
			} else {
				failed.Add(1)
			}
			return nil
		})
	}
	_ = group.Wait()
}

// due returns which of the jobs without an entity are to be tried now, in this order. It forgets those that have one, or are gone.
func (b *beginner) due(ids []string) []string {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	known := make(map[string]failedBegin, len(b.failed))
	for _, id := range ids {
		if f, ok := b.failed[id]; ok {
			known[id] = f
		}
	}
	b.failed = known
	now := b.now()
	ids = slices.DeleteFunc(ids, func(id string) bool { return known[id].next.After(now) })
	slices.SortStableFunc(ids, func(x, y string) int { return known[x].next.Compare(known[y].next) })
	return ids
}

// begin starts the entity of a job, and reports whether that is done with. The first failure is logged.
func (b *beginner) begin(ctx context.Context, jobID string) bool {
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	err := b.engine.Begin(ctx, jobID)
	if err == nil {
		b.log.Info("entity started by the sweep", zap.String("job_id", jobID))
		return true
	}
	if errors.Is(err, store.ErrNotFound) { // deleted meanwhile
		return true
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return false
	}
	b.mutex.Lock()
	defer b.mutex.Unlock()
	f, again := b.failed[jobID]
	f.pause = min(max(2*f.pause, entitySweep), longestBeginPause)
	f.next = b.now().Add(f.pause)
	b.failed[jobID] = f
	if !again {
		b.log.Warn("the entity of a job was not started: nothing moves the job until it is. It is tried again up to once a minute, and other jobs do not wait for it. "+
			"While Temporal answers, mend what the error says of this job; drover doctor tells whether its entity is still missing",
			zap.String("job_id", jobID), zap.Error(err))
	}
	return false
}
