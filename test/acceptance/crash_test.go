package acceptance

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/smc"
	"github.com/drover/drover/test/stack"
)

// slowSync is a bandwidth limit under which the crash tests' disks take about 12 seconds, and a disk to go with it.
const (
	slowSync     = `{"bandwidth_limit":100000}`
	slowSyncData = 150 * mib
)

// requireBetween checks that a job stands well within Syncing.
func requireBetween(t *testing.T, d *smc.DescribeReplicationJobDetailsResult) {
	t.Helper()
	require.Equal(t, smc.BusinessSyncing, d.BusinessStatus)
	require.InDelta(t, 0.5, float64(d.BytesRead)/float64(d.BytesTotal), 0.45, "share of the disk that was read")
}

// requireLittleTwice checks what a run sent against what it had to send: no more than a window per stream and interruption
// went twice. The center's figure is held against what the kernel saw the agent write.
func requireLittleTwice(t *testing.T, a *agent, run smc.JobRun, needed, interruptions int64) {
	t.Helper()
	bound := needed + interruptions*streams*window
	t.Logf("sent %d bytes (%d on the wire, the agent wrote %d) of %d: %.1f MiB twice, at most %d MiB allowed",
		run.BytesSentRaw, run.BytesSent, a.allWritten(), needed, float64(run.BytesSentRaw-needed)/mib, interruptions*streams*window/mib)
	assert.GreaterOrEqual(t, run.BytesSentRaw, needed, "everything was sent")
	assert.LessOrEqual(t, run.BytesSentRaw, bound, "bytes sent")
	// Frame headers and hashes are 0.1 %, logs and requests little.
	assert.LessOrEqual(t, a.allWritten(), bound+bound/500+2*mib, "bytes the agent wrote")
	// The center's figure forgets nothing. It counts a window whole once the agent has begun to send it: what was still
	// to come of it when the agent was killed is counted as well.
	assert.GreaterOrEqual(t, run.BytesSent, a.allWritten()-run.BytesSent/500-2*mib, "BytesSent against what the agent wrote")
	assert.LessOrEqual(t, run.BytesSent, a.allWritten()+interruptions*streams*window, "BytesSent against what the agent wrote")
}

// A drover-dev killed in the middle of a sync and started again goes on by itself.
func TestCenterKilledWhileSyncing(t *testing.T) {
	t.Parallel()
	s := newCenter(t)
	heard := s.follow()
	small := makeDisk(t, filepath.Join(s.Dir, "small.raw"), 8*mib, mib, 4, 1)
	ready := s.createJob(s.startAgent("ready", small))
	finished := s.createJob(s.startAgent("finished", small), "--start")
	disk := makeDisk(t, filepath.Join(s.Dir, "big.raw"), gib, slowSyncData, 16, 2)
	a := s.startAgent("big", disk)
	s.awaitStatus(finished, smc.StatusFinished)
	job := s.createJob(a, "--replication-parameters", slowSync, "--start")

	// Somebody watches, and should not have to notice.
	watch, err := s.Spawn("watch", "drover", "job", "watch", job)
	require.NoError(t, err)
	t.Cleanup(watch.Kill)
	before := s.awaitSyncing(job, 0.4)
	requireBetween(t, before)
	env := s.env
	s.again()
	require.Equal(t, env, s.env, "addresses and keys are those of the first start")

	after, err := s.details(job)
	require.NoError(t, err)
	assert.GreaterOrEqual(t, after.BytesRead, before.BytesRead, "BytesRead goes backwards")
	assert.GreaterOrEqual(t, after.BytesSent, before.BytesSent, "BytesSent goes backwards")
	assert.GreaterOrEqual(t, after.Progress, before.Progress, "Progress goes backwards")
	var jobs []smc.ReplicationJob
	s.droverJSON(&jobs, "job", "list")
	statuses := map[string]smc.JobStatus{}
	for _, j := range jobs {
		statuses[j.JobID] = j.Status
	}
	assert.Equal(t, map[string]smc.JobStatus{ready: smc.StatusReady, finished: smc.StatusFinished, job: smc.StatusRunning}, statuses)

	done := s.awaitStatus(job, smc.StatusFinished)
	code, err := watch.Wait(within(t, 30*time.Second))
	require.NoError(t, err)
	assert.Equal(t, 0, code, "exit code of job watch")
	require.Len(t, done.Runs, 1)
	requireLittleTwice(t, a, done.Runs[0], nonZero(t, disk), 1)
	s.exportSynced(done.Runs[0].ImageID, disk)
	heard.requireStory(t, job, chain("Ready", oneRun, "Finished"))
	heard.requireStory(t, finished, chain("Ready", oneRun, "Finished"))
	heard.requireStory(t, ready, chain("Ready"))
}

// An agent killed in the middle of a sync and started with nothing but its state goes on.
func TestAgentKilledWhileSyncing(t *testing.T) {
	t.Parallel()
	s := newCenter(t)
	heard := s.follow()
	disk := makeDisk(t, filepath.Join(s.Dir, "big.raw"), gib, slowSyncData, 16, 3)
	a := s.startAgent("big", disk)
	job := s.createJob(a, "--replication-parameters", slowSync, "--start")
	requireBetween(t, s.awaitSyncing(job, 0.4))
	a.killAgain()
	done := s.awaitStatus(job, smc.StatusFinished)
	require.Len(t, done.Runs, 1)
	requireLittleTwice(t, a, done.Runs[0], nonZero(t, disk), 1)
	s.exportSynced(done.Runs[0].ImageID, disk)
	heard.requireStory(t, job, chain("Ready", oneRun, "Finished"))
}

// A drover-dev killed whenever a job enters a phase: nothing is lost, done twice or left behind.
func TestCenterKilledInEveryPhase(t *testing.T) {
	t.Parallel()
	s := newCenter(t)
	heard := s.follow()
	disk := makeDisk(t, filepath.Join(s.Dir, "disk.raw"), 96*mib, 48*mib, 8, 4)
	a := s.startAgent("web-1", disk)
	job := s.createJob(a, "--start")
	for i, status := range oneRun {
		stack.Eventually(t, slow, "the event "+status, func() (bool, any) {
			story := heard.story(job)
			return len(story) > i+1, story
		})
		s.again()
	}
	done := s.awaitStatus(job, smc.StatusFinished)
	require.Len(t, done.Runs, 1)
	images := s.images(job)
	require.Len(t, images, 1)
	assert.Equal(t, []string{images[0].ImageID}, s.imageDirs(), "images on the transition host")
	assert.Empty(t, s.stagingDirs(), "staging areas after the last run")
	requireLittleTwice(t, a, done.Runs[0], nonZero(t, disk), int64(len(oneRun)))
	s.drover("image", "verify", images[0].ImageID)
	s.exportSynced(images[0].ImageID, disk)
	heard.requireStory(t, job, chain("Ready", oneRun, "Finished"))
}
