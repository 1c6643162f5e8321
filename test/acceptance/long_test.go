//go:build long

package acceptance

import (
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/drover/drover/smc"
)

// Agent and drover-dev killed again and again, now one, now the other, while a job of three runs is syncing.
func TestKilledAgainAndAgain(t *testing.T) {
	s := newCenter(t)
	heard := s.follow()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	disk := makeDisk(t, filepath.Join(s.Dir, "big.raw"), gib, 200*mib, 16, 5)
	a := s.startAgent("big", disk)
	job := s.createJob(a, "--run-once=false", "--frequency", "12", "--max-images", "3", "--replication-parameters", slowSync, "--start")
	states := []string{copyDisk(t, filepath.Join(s.Dir, "run-1.raw"), disk)}
	const runs = 3
	for run := 1; ; run++ {
		var kills int64
		needed := nonZero(t, disk)
		if run > 1 {
			needed = differing(t, states[run-2], states[run-1])
		}
		before := a.allWritten()
		for share := 0.02 + random.Float64()/5; share < 0.95; share += 0.02 + random.Float64()/5 {
			d := s.await(job, "further", func(d *smc.DescribeReplicationJobDetailsResult) bool {
				return d.Run == run && (d.Status != smc.StatusRunning || d.BytesTotal > 0 && float64(d.BytesRead) >= share*float64(d.BytesTotal))
			})
			if d.BusinessStatus != smc.BusinessSyncing {
				break
			}
			kills++
			if random.IntN(2) == 0 {
				a.killAgain()
			} else {
				s.again()
			}
		}
		rests := smc.StatusWaiting
		if run == runs {
			rests = smc.StatusFinished
		}
		d := s.awaitStatus(job, rests)
		t.Logf("run %d: %d kills; the agent wrote %d of %d", run, kills, a.allWritten()-before, needed)
		require.LessOrEqual(t, runOf(t, d, run).BytesSentRaw, needed+kills*streams*window)
		s.exportSynced(runOf(t, d, run).ImageID, states[run-1])
		if run == runs {
			break
		}
		change(t, disk, 300, 200_000, uint64(run))
		states = append(states, copyDisk(t, filepath.Join(s.Dir, filepath.Base(t.Name())+string(rune('a'+run))), disk))
		if run+1 == runs {
			s.drover("job", "cutover", job, "--sync-data")
		} else {
			s.drover("job", "run", job)
		}
	}
	heard.requireStory(t, job, chain("Ready", oneRun, "Waiting", oneRun, "Waiting", oneRun, "Finished"))
}
