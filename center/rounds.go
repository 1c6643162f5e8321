package center

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// leastPause is how long a job is left alone after the first try.
const leastPause = 5 * time.Second

// rounds does something for each job of a set in turns, until the job is no longer in the set. One that stays is tried again at growing
// intervals, and holds up no other.
type rounds struct {
	longest time.Duration    // that a job is left alone after a try
	now     func() time.Time // time.Now outside tests

	mutex sync.Mutex
	tried map[string]tried // by JobID
}

// tried is a job that is still in the set after a try.
type tried struct {
	pause time.Duration // before the next one
	next  time.Time
}

func newRounds(longest time.Duration) *rounds {
	return &rounds{longest: longest, now: time.Now, tried: map[string]tried{}}
}

// round calls do for the jobs of the set that are due, several at once and new ones first; again says that a job was tried before. It
// ends early while do fails for all, as when Temporal is away: the next round goes on with the others.
func (r *rounds) round(ctx context.Context, set []string, do func(ctx context.Context, jobID string, again bool) error) {
	var group errgroup.Group
	group.SetLimit(rebuildParallel)
	var done, failed atomic.Int64
	for _, id := range r.due(set) {
		if ctx.Err() != nil || done.Load() == 0 && failed.Load() >= rebuildParallel {
			break
		}
		group.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, updateTimeout)
			defer cancel()
			if do(ctx, id, r.note(id)) == nil {
				done.Add(1)
			} else {
				failed.Add(1)
			}
			return nil
		})
	}
	_ = group.Wait()
}

// due returns which jobs of the set are to be tried now, in this order. It forgets those that are no longer in it.
func (r *rounds) due(set []string) []string {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	known := make(map[string]tried, len(r.tried))
	for _, id := range set {
		if before, ok := r.tried[id]; ok {
			known[id] = before
		}
	}
	r.tried = known
	now := r.now()
	set = slices.DeleteFunc(set, func(id string) bool { return known[id].next.After(now) })
	slices.SortStableFunc(set, func(x, y string) int { return known[x].next.Compare(known[y].next) })
	return set
}

// note records a try, and reports whether it is not the first.
func (r *rounds) note(jobID string) (again bool) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	before, again := r.tried[jobID]
	pause := min(max(2*before.pause, leastPause), r.longest)
	r.tried[jobID] = tried{pause: pause, next: r.now().Add(pause)}
	return again
}
