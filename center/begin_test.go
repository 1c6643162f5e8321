package center

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// partEngine starts the entities of some jobs only.
type partEngine struct {
	*engine
	mutex  sync.Mutex
	broken []string
	tries  map[string]int
}

func (e *partEngine) Begin(ctx context.Context, jobID string) error {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	e.tries[jobID]++
	if slices.Contains(e.broken, jobID) {
		return errors.New("the row is broken")
	}
	return e.engine.Begin(ctx, jobID)
}

// Jobs whose entities cannot be started, however many and however early they come, hold up no other; each is logged once and tried
// again until it works.
func TestBeginMissing(t *testing.T) {
	f := newFixture(t)
	const broken = 3 * rebuildParallel
	f.engine.fail = errors.New("Temporal is away")
	var ids []string
	for i := range broken + 2 {
		source, _ := f.agent(fmt.Sprint("web-", i))
		ids = append(ids, f.create(source))
	}
	f.engine.fail = nil
	e := &partEngine{engine: f.engine, broken: ids[:broken], tries: map[string]int{}}
	core, logs := observer.New(zap.InfoLevel)
	now := time.Now()
	b := newBeginner(f.store, e, zap.New(core))
	b.now = func() time.Time { return now }
	missing := func() []string {
		t.Helper()
		ids, err := f.store.JobsWithoutWorkflow(t.Context())
		require.NoError(t, err)
		return ids
	}

	sweeps := func() { // no time passes
		for range broken/rebuildParallel + 1 {
			b.sweep(t.Context())
		}
	}
	sweeps()
	require.ElementsMatch(t, ids[:broken], missing())
	for _, id := range ids {
		require.Equal(t, 1, e.tries[id], "those that failed are left alone for a while")
	}

	late, _ := f.agent("late")
	f.engine.fail = errors.New("Temporal is away")
	job := f.create(late)
	f.engine.fail = nil
	now = now.Add(longestBeginPause)
	sweeps()
	require.ElementsMatch(t, ids[:broken], missing(), "a new job goes before those that failed")
	require.Equal(t, 1, e.tries[job])
	for _, id := range ids[:broken] {
		require.Equal(t, 2, e.tries[id])
		said := logs.FilterField(zap.String("job_id", id)).All()
		require.Len(t, said, 1, "it is logged once")
		require.Contains(t, said[0].Message, "drover doctor")
		require.Equal(t, "the row is broken", said[0].ContextMap()["error"])
	}

	b.sweep(t.Context())
	require.Equal(t, 2, e.tries[ids[0]])
	e.broken = nil
	now = now.Add(longestBeginPause)
	b.sweep(t.Context())
	require.Empty(t, missing())
	b.sweep(t.Context())
	require.Empty(t, b.failed, "nothing is kept of jobs that have their entities")
}

// While nothing can be started a sweep does not try every job there is.
func TestBeginMissingWithoutTemporal(t *testing.T) {
	f := newFixture(t)
	f.engine.fail = errors.New("Temporal is away")
	const jobs = 4 * rebuildParallel
	for i := range jobs {
		source, _ := f.agent(fmt.Sprint("web-", i))
		f.create(source)
	}
	e := &partEngine{engine: f.engine, tries: map[string]int{}}
	b := newBeginner(f.store, e, zap.NewNop())
	b.sweep(t.Context())
	require.Less(t, len(e.tries), jobs)
	f.engine.fail = nil
	b.sweep(t.Context())
	missing, err := f.store.JobsWithoutWorkflow(t.Context())
	require.NoError(t, err)
	require.Len(t, missing, len(b.failed), "all that did not fail before are started")
}
