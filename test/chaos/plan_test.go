package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/test/disks"
)

func printed(p *plan) string {
	var b bytes.Buffer
	p.print(&b)
	next := p.randomStrikes()
	for range 100 {
		pause, s := next()
		fmt.Fprintln(&b, pause, s, s.pick)
	}
	return b.String()
}

// A seed decides everything, and another seed something else.
func TestPlanFollowsItsSeed(t *testing.T) {
	t.Parallel()
	once, again, other := printed(draw(7, fullJobs)), printed(draw(7, fullJobs)), printed(draw(8, fullJobs))
	assert.Equal(t, once, again)
	assert.NotEqual(t, once, other)
}

// Whatever the seed, a run has jobs of all kinds, a strike for nearly every pair of process and boundary, and both outages; only the last job of
// a source leaves something that holds it.
func TestPlans(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		for _, jobs := range []int{4, 8, fullJobs, 47} {
			p := draw(seed, jobs)
			require.Equal(t, jobs >= fullJobs, p.full)
			made, kinds, placed, free := len(p.fleet), map[bool]int{}, map[pair]bool{}, 0
			for _, s := range p.sources {
				require.NotEmpty(t, s.jobs, "jobs of a source, seed %d, %d jobs", seed, jobs)
				require.LessOrEqual(t, s.fillMiB, s.systemMiB*3/4)
				for i, j := range s.jobs {
					made++
					kinds[j.incremental]++
					last := i == len(s.jobs)-1
					left := j.ending == leftReady || j.ending == leftStopped || j.ending == leftWaiting
					require.True(t, last || !left, "%s of seed %d holds its source", j.name, seed)
					if last && !left {
						free++
					}
					moments := map[moment]bool{}
					for _, m := range j.moments() {
						require.False(t, moments[m])
						moments[m] = true
					}
					for m, s := range j.strikes {
						require.True(t, moments[m], "%s is struck at %v, which it does not enter", j.name, m)
						placed[pair{s.target, m.boundary}] = true
					}
				}
			}
			require.Equal(t, jobs, made, "seed %d", seed)
			if p.full {
				require.Positive(t, kinds[true])
				require.Positive(t, kinds[false])
				require.Greater(t, len(placed), len(targets)*len(boundaries)*3/4, "seed %d", seed)
				require.Positive(t, free, "seed %d: no source is left for closing jobs", seed)
			}
			away, hung := map[string]int{}, map[bool]int{}
			for _, o := range p.outages {
				require.Positive(t, o.lasts)
				away[o.of]++
				hung[o.hang]++
			}
			require.Len(t, away, 2)
			if p.full {
				require.Len(t, hung, 2)
			}
		}
	}
}

// A closing job is struck wherever a job can be.
func TestClosingJobPassesEveryBoundary(t *testing.T) {
	t.Parallel()
	passed := map[boundary]bool{}
	for _, m := range closing(1, 0).moments() {
		passed[m.boundary] = true
	}
	for _, b := range boundaries {
		assert.True(t, passed[b], b)
	}
}

// A story is told exactly: nothing less, nothing more, in order.
func TestStory(t *testing.T) {
	t.Parallel()
	j := &job{id: "j-1"}
	j.tell("Ready", "Preparing", "Syncing", "InError")
	j.story.WriteString("(ps?E)*")
	j.tell("Preparing", "Syncing", "Processing", "Cleaning", "Finished")
	run := []boundary{"Preparing", "Syncing", "Processing", "Cleaning", "Finished"}
	begun := []boundary{"Ready", "Preparing", "Syncing", "InError"}
	require.NoError(t, j.checkStory(append(begun[:4:4], run...)))
	require.NoError(t, j.checkStory(append(append(begun[:4:4], "Preparing", "InError"), run...)))
	for _, wrong := range [][]boundary{nil, begun, run, append(begun[:4:4], run[:4]...), append(append(begun[:4:4], run...), "Finished"), append(begun[:3:3], run...)} {
		require.Error(t, j.checkStory(wrong), "%v", wrong)
	}
}

// A snapshot tells one changed byte, and how much has to be sent.
func TestSnapshots(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	dir := t.TempDir()
	names := []string{filepath.Join(dir, "system.raw"), filepath.Join(dir, "data.raw")}
	require.NoError(t, disks.Make(names[0], disks.Spec{SizeBytes: disks.MinSizeBytes}))
	require.NoError(t, makeData(names[1], 16*mib, 4*mib, r))
	before, err := takeAll(names)
	require.NoError(t, err)
	assert.Equal(t, int64(4*mib), before[1].needed(nil))
	assert.Zero(t, neededOf(before, before))

	require.NoError(t, mutate(names, 2*mib, r))
	after, err := takeAll(names)
	require.NoError(t, err)
	assert.Positive(t, after[0].needed(before[0]))
	assert.Positive(t, after[1].needed(before[1]))
	require.Error(t, before[1].compare(after[1]))

	f, err := os.OpenFile(names[1], os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte{1}, 15*mib)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	again, err := take(names[1])
	require.NoError(t, err)
	require.ErrorContains(t, after[1].compare(again), fmt.Sprintf("1 of 256 grains of 64 KiB differ, the first at byte %d", 15*mib))
	assert.LessOrEqual(t, again.needed(after[1]), int64(64<<10))

	mend, err := breakDisk(names[1])
	require.NoError(t, err)
	cut, err := take(names[1])
	require.NoError(t, err)
	require.ErrorContains(t, again.compare(cut), "bytes in place of")
	require.NoError(t, mend())
	whole, err := take(names[1])
	require.NoError(t, err)
	require.NoError(t, again.compare(whole))
	require.Error(t, sameBytes(names[0], names[1]))
	require.NoError(t, sameBytes(names[0], names[0]))
}
