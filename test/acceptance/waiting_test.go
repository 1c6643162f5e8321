package acceptance

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"

	"github.com/drover/drover/activities"
	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/test/process"
	"github.com/drover/drover/test/stack"
	"github.com/drover/drover/workflows"
)

// awaitInfo waits until the StatusInfo of a Running job has all of the words.
func (s *center) awaitInfo(job string, words ...string) *smc.DescribeReplicationJobDetailsResult {
	s.t.Helper()
	return s.await(job, "Running and saying "+words[0], func(d *smc.DescribeReplicationJobDetailsResult) bool {
		require.Equal(s.t, smc.StatusRunning, d.Status, "%s: %s", d.ErrorCode, d.StatusInfo)
		return containsAll(d.StatusInfo, words)
	})
}

// awaitInError waits until a job is InError with a code and words.
func (s *center) awaitInError(job, code string, words ...string) {
	s.t.Helper()
	d := s.await(job, "InError", func(d *smc.DescribeReplicationJobDetailsResult) bool {
		require.NotEqual(s.t, smc.StatusFinished, d.Status, "the job does not notice")
		return d.Status == smc.StatusInError
	})
	assert.Equal(s.t, code, d.ErrorCode, d.StatusInfo)
	for _, word := range words {
		assert.Contains(s.t, d.StatusInfo, word)
	}
}

// pauseBetweenWrites hangs a process at a moment at which it does not hold SQLite's one lock: only the end of a process frees that
// one. On PostgreSQL the server takes a transaction away from who hangs in it, which the store's tests show.
func (s *center) pauseBetweenWrites(p *process.Process) {
	s.t.Helper()
	db, err := s.Database.Open()
	require.NoError(s.t, err)
	defer db.Close()
	stack.Eventually(s.t, slow, p.Name+" hangs without the lock of the database", func() (bool, any) {
		require.NoError(s.t, p.Pause())
		ctx, cancel := context.WithTimeout(s.t.Context(), time.Second)
		defer cancel()
		_, err := db.ExecContext(ctx, `UPDATE settings SET name = name`)
		if err != nil {
			p.Continue()
		}
		return err == nil, err
	})
}

// Stop takes effect at once also when the transition host hangs: what that host was about when it hung is all that it writes when
// it comes to itself.
func TestStopWhileTheTransitionHostHangs(t *testing.T) {
	t.Parallel()
	s := newSpread(t)
	heard := s.follow()
	a, disk, job := s.syncing("db-1", 512*mib, 96*mib, 31, 50_000)

	host := s.TransitionHosts[0]
	s.pauseBetweenWrites(host.Process)
	s.stopIn(job)
	stopped, err := s.details(job)
	require.NoError(t, err)
	staged := filepath.Join(host.Data, "staging", job, "disk-0.raw")
	before := copyDisk(t, filepath.Join(s.Dir, "staged.raw"), staged)
	host.Continue()
	a.still(slow)
	assert.LessOrEqual(t, differing(t, before, staged), int64(4*replica.WindowSize), "what was in flight, of four streams")
	after, err := s.details(job)
	require.NoError(t, err)
	assert.Equal(t, smc.StatusStopped, after.Status)
	assert.Equal(t, stopped.Sequence, after.Sequence, "the host that came to itself moves the job no more")
	entries, err := os.ReadDir(filepath.Join(host.Data, "images"))
	require.NoError(t, err)
	assert.Empty(t, entries, "images of a job that was stopped")

	s.requireGoesOn(job, a, disk, 2)
	heard.requireStory(t, job, chain("Ready", begun, "Stopped", oneRun, "Finished"))
}

// A source that goes away in the middle of a sync is waited for, and the run goes on when it is back; one that stays away makes its
// job InError. Start goes on from there.
func TestSourceThatGoesAway(t *testing.T) {
	t.Parallel()
	s := newSpread(t, "DROVER_SOURCE_WAIT=15s")
	heard := s.follow()
	a, disk, job := s.syncing("web-1", 256*mib, 48*mib, 32, 50_000)
	require.NoError(t, a.Pause())
	waiting := s.awaitInfo(job, "source server web-1 has not been heard of since", "since ", smc.CodeSourceServerOffline, "15s")
	assert.Equal(t, int64(-1), waiting.EtaSeconds, "what waits has no end in sight")
	assert.Zero(t, waiting.BytesPerSecond)
	a.Continue()
	s.await(job, "getting on", func(d *smc.DescribeReplicationJobDetailsResult) bool {
		return d.BytesSent > waiting.BytesSent && d.StatusInfo == ""
	})

	a.Kill()
	s.awaitInError(job, smc.CodeSourceServerOffline, "Syncing failed", "source server web-1", "start its agent")
	require.NoError(t, a.Restart(within(t, slow)))
	s.drover("job", "start", job)
	done := s.awaitStatus(job, smc.StatusFinished)
	require.Len(t, done.Runs, 1)
	assert.LessOrEqual(t, done.Runs[0].BytesSentRaw, nonZero(t, disk)+2*4*replica.WindowSize, "bytes sent, all counted")
	s.exportSynced(done.Runs[0].ImageID, disk)
	heard.requireStory(t, job, chain("Ready", begun, "InError", oneRun, "Finished"))
}

// A transition host that is down is waited for, and the run goes on where it was.
func TestTransitionHostThatGoesAway(t *testing.T) {
	t.Parallel()
	s := newSpread(t)
	heard := s.follow()
	a, disk, job := s.syncing("web-1", 256*mib, 48*mib, 33, 50_000)
	host := s.TransitionHosts[0]
	host.Kill()
	s.awaitInfo(job, "does not take the work", "has reported last at", smc.CodeTransitionHostUnavailable)
	require.NoError(t, host.Restart(within(t, slow)))
	done := s.awaitStatus(job, smc.StatusFinished)
	require.Len(t, done.Runs, 1)
	assert.Empty(t, done.StatusInfo)
	requireLittleTwice(t, a, done.Runs[0], nonZero(t, disk), 1)
	s.exportSynced(done.Runs[0].ImageID, disk)
	heard.requireStory(t, job, chain("Ready", oneRun, "Finished"))
}

// A start that is due while its source is away is tried by itself after half a minute, and more and more seldom; it is woken as soon as the
// source is back. Neither leaves anything in the job's history.
func TestDueStartIsWoken(t *testing.T) {
	t.Parallel()
	s := newCenter(t)
	a := s.startAgent("web-1", makeDisk(t, filepath.Join(s.Dir, "disk.raw"), 8*mib, mib, 2, 34))
	job := s.createJob(a, "--schedule", "+10s")
	a.Kill()
	s.db(`UPDATE source_servers SET state = 'Unavailable'`)
	s.await(job, "waiting for its source", func(d *smc.DescribeReplicationJobDetailsResult) bool {
		return strings.Contains(d.StatusInfo, "waits: the source server is Unavailable")
	})
	require.NoError(t, a.Restart(within(t, slow)))
	s.awaitStatus(job, smc.StatusFinished)

	temporal, err := s.ConnectTemporal(t.Context())
	require.NoError(t, err)
	defer temporal.Close()
	history := temporal.GetWorkflowHistory(t.Context(), workflows.JobID(job), "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	starts := 0
	var scheduled int64
	for history.HasNext() {
		event, err := history.Next()
		require.NoError(t, err)
		if event.GetActivityTaskScheduledEventAttributes().GetActivityType().GetName() == activities.NameStartDueRun {
			scheduled = event.GetEventId()
		}
		if started := event.GetActivityTaskStartedEventAttributes(); started.GetScheduledEventId() == scheduled && scheduled != 0 {
			starts++
			assert.EqualValues(t, 1, started.GetAttempt(), "it was woken: a try of its own would be the second")
		}
	}
	assert.Equal(t, 1, starts)
}

// A run that does not fit is refused before it copies anything, with what is missing; with the room it needs it goes on. The agent is
// played by the test: no machine has such a disk.
func TestRunThatDoesNotFit(t *testing.T) {
	t.Parallel()
	s := newCenter(t)
	api, err := agentapi.NewClient(s.env[smc.EnvEndpoint], "")
	require.NoError(t, err)
	disks := func(used int64) agentapi.Server {
		return agentapi.Server{Disks: []agentapi.Disk{
			{Index: 0, Path: "/dev/vda", SizeBytes: 8 * gib, UsedBytes: mib}, {Index: 1, Path: "/dev/vdb", SizeBytes: used, UsedBytes: used},
		}}
	}
	registered, err := api.Register(t.Context(), agentapi.RegisterRequest{Code: s.code(), Name: "large", Instance: "played", Server: disks(30 << 40)})
	require.NoError(t, err)
	job := s.createJob(&agent{s: s, name: "large"}, "--start")
	s.awaitInError(job, smc.CodeTransitionHostNoSpace, "Preparing failed", "needs 30.1 TiB at "+filepath.Join(s.Data, "images"), "are free there", "other runs still need 0 MiB", "free ")
	assert.Empty(t, s.stagingDirs(), "staging of a run that does not fit")

	_, err = api.WithToken(registered.Token).Heartbeat(t.Context(), agentapi.HeartbeatRequest{Instance: "played", Server: disks(8 * mib)})
	require.NoError(t, err)
	s.drover("job", "start", job)
	s.awaitSyncing(job, 0)
	s.drover("job", "stop", job)
}

func containsAll(text string, words []string) bool {
	return !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(text, word) })
}
