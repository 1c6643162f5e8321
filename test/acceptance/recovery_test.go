package acceptance

import (
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/center/doctor"
	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/test/process"
	"github.com/drover/drover/test/stack"
)

// server runs a command of drover-server and demands an exit code.
func (s *center) server(code int, args ...string) process.Result {
	s.t.Helper()
	r, err := s.Run(within(s.t, slow), "drover-server", args...)
	require.NoError(s.t, err)
	require.Equal(s.t, code, r.Code, "drover-server %s\n%s%s", strings.Join(args, " "), r.Stdout, r.Stderr)
	return r
}

// killCenter kills every process but the agents.
func (s *center) killCenter() {
	for _, p := range s.Processes() {
		if !slices.ContainsFunc(s.Agents, func(a *stack.Agent) bool { return a.Process == p }) {
			p.Kill()
		}
	}
}

// start starts processes that were killed and waits until they are ready.
func (s *center) start(processes ...*process.Process) {
	s.t.Helper()
	for _, p := range processes {
		require.NoError(s.t, p.Restart(within(s.t, stack.StartLimit)))
	}
}

// loseTemporal deletes all that Temporal knows and starts it again.
func (s *center) loseTemporal() {
	s.t.Helper()
	s.Temporal.Kill()
	require.NoError(s.t, os.RemoveAll(filepath.Join(s.Data, "temporal")))
	s.start(s.Temporal)
}

// describe returns a job as the API shows it.
func (s *center) describe(job string) smc.ReplicationJob {
	s.t.Helper()
	var j smc.ReplicationJob
	s.droverJSON(&j, "job", "show", job)
	return j
}

// incrementalJob makes an incremental job of a new source server and waits for its first run.
func (s *center) incrementalJob(name string, seed uint64) (a *agent, disk, job string) {
	s.t.Helper()
	disk = makeDisk(s.t, filepath.Join(s.Dir, name+".raw"), 16*mib, 4*mib, 2, seed)
	a = s.startAgent(name, disk)
	job = s.createJob(a, "--run-once=false", "--frequency", "24", "--max-images", "3", "--start")
	s.awaitStatus(job, smc.StatusWaiting)
	return a, disk, job
}

// A transition host loses its disk for good. Another one takes its place: first with the images of a backup, then with nothing.
func TestTransitionHostThatIsGone(t *testing.T) {
	t.Parallel()
	s := newSpread(t, "DROVER_ORPHAN_GRACE=6s")
	backups, data := filepath.Join(s.Dir, "backups"), s.TransitionHosts[0].Data
	_, disk, job := s.incrementalJob("db", 95)
	first := copyDisk(t, filepath.Join(s.Dir, "first.raw"), disk)
	s.server(0, "backup", "--to", backups, "--data", data)
	change(t, disk, 2, 100_000, 96)
	s.drover("job", "run", job)
	s.awaitStatus(job, smc.StatusWaiting)
	once := s.createJob(s.startAgent("once", makeDisk(t, filepath.Join(s.Dir, "once.raw"), 8*mib, 2*mib, 2, 97)), "--start")
	s.awaitStatus(once, smc.StatusFinished)
	host := s.host()
	lose := func() {
		t.Helper()
		s.TransitionHosts[0].Kill()
		require.NoError(t, os.RemoveAll(data))
	}

	lose()
	s.server(0, "restore", "--images-only", "--from", backups, "--data", host+"="+data)
	s.start(s.TransitionHosts[0].Process)
	look := func() doctor.Report {
		report, _ := s.examine()
		return report
	}
	for _, image := range []string{s.describe(job).ImageID, s.describe(once).ImageID} {
		awaitFound(t, look, "image-lost", image, "is in the record")
		require.Contains(t, s.try("doctor", "--remove", image).Stderr, "forget")
	}
	stack.Eventually(t, slow, "what is lost is forgotten", func() (bool, any) {
		report := look()
		return report.Sound(), report.Findings
	})
	s.exportSynced("db_CYCLE_1", first)
	change(t, disk, 2, 100_000, 98)
	s.drover("job", "run", job)
	s.awaitStatus(job, smc.StatusWaiting)
	s.exportSynced("db_CYCLE_3", disk)

	// What waits for the host is done when it is back, also by one that has nothing.
	lose()
	s.drover("job", "delete", job)
	require.NoError(t, os.MkdirAll(data, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(data, replica.HostIDFile), []byte(host+"\n"), 0o600))
	s.start(s.TransitionHosts[0].Process)
	stack.Eventually(t, slow, "the job is gone", func() (bool, any) {
		r := s.try("job", "show", job)
		return strings.Contains(r.Stderr, smc.CodeInvalidJobIDNotFound), r.Stdout
	})
}

// Temporal loses everything while jobs are in every sort of state; rebuild has all of them go on where they were.
func TestRebuildOfALostTemporal(t *testing.T) {
	t.Parallel()
	s := newSpread(t)
	heard := s.follow()
	_, waitingDisk, waiting := s.incrementalJob("waiting", 71)
	cut, cutDisk, failed := s.incrementalJob("failed", 72)
	_, _, deleting := s.incrementalJob("deleting", 73)
	finishedDisk := makeDisk(t, filepath.Join(s.Dir, "finished.raw"), 8*mib, mib, 2, 74)
	finished := s.createJob(s.startAgent("finished", finishedDisk), "--start")
	s.awaitStatus(finished, smc.StatusFinished)

	// A cutover that fails: its disk has lost its end.
	whole := copyDisk(t, filepath.Join(s.Dir, "whole.raw"), cutDisk)
	cut.Kill()
	require.NoError(t, os.Truncate(cutDisk, 12*mib))
	require.NoError(t, cut.Restart(within(t, slow)))
	s.drover("job", "cutover", failed, "--sync-data")
	s.await(failed, "InError", func(d *smc.DescribeReplicationJobDetailsResult) bool { return d.Status == smc.StatusInError })

	runner, runningDisk, running := s.syncing("running", 256*mib, 48*mib, 75, 100_000)
	s.TransitionHosts[0].Kill() // so that what is deleted is not gone
	s.drover("job", "delete", deleting)
	require.Equal(t, smc.StatusDeleting, s.describe(deleting).Status)

	s.killCenter()
	s.start(s.NATS)
	s.loseTemporal()
	require.Contains(t, s.server(0, "rebuild").Stderr, "entities: 5 started, 0 were there")
	require.Contains(t, s.server(0, "rebuild").Stderr, "entities: 0 started, 5 were there")
	for _, p := range []*process.Process{s.Servers[0].Process, s.CenterWorkers[0], s.TransitionHosts[0].Process} {
		s.start(p)
	}

	done := s.awaitStatus(running, smc.StatusFinished)
	require.Len(t, done.Runs, 1, "the run goes on")
	requireLittleTwice(t, runner, done.Runs[0], nonZero(t, runningDisk), 1)
	s.exportSynced(done.Runs[0].ImageID, runningDisk)
	stack.Eventually(t, slow, "the job that was Deleting is gone", func() (bool, any) {
		r := s.try("job", "show", deleting)
		return r.Code == 1 && strings.Contains(r.Stderr, smc.CodeInvalidJobIDNotFound), r
	})
	heard.requireStory(t, deleting, chain("Ready", oneRun, "Waiting", "Deleting", "Deleted"))

	require.Equal(t, smc.StatusWaiting, s.describe(waiting).Status)
	change(t, waitingDisk, 2, 100_000, 76)
	s.drover("job", "run", waiting)
	s.awaitStatus(waiting, smc.StatusWaiting)
	s.exportSynced("waiting_CYCLE_2", waitingDisk)

	// The intent of the cutover is kept: what is started is its run, and the job is then Finished.
	cut.Kill()
	copyDisk(t, cutDisk, whole)
	require.NoError(t, cut.Restart(within(t, slow)))
	s.drover("job", "start", failed)
	s.awaitStatus(failed, smc.StatusFinished)
	s.exportSynced("failed_CYCLE_2", whole)

	require.Equal(t, smc.StatusFinished, s.describe(finished).Status)
	s.drover("job", "delete", finished)
	heard.requireStory(t, finished, chain("Ready", oneRun, "Finished", "Deleting", "Deleted"))

	// Entities that hang can be replaced while everything runs.
	require.Contains(t, s.server(0, "rebuild", "--replace").Stderr, "3 replaced")
	s.drover("job", "delete", waiting)
	heard.requireStory(t, waiting, chain("Ready", oneRun, "Waiting", oneRun, "Waiting", "Deleting", "Deleted"))
}

// A center is backed up while it runs, goes on, and loses its database, its images and Temporal. What is restored is the
// center of the backup; who hears its events sees no number twice.
func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	s := newSpread(t)
	backups, data := filepath.Join(s.Dir, "backups"), s.TransitionHosts[0].Data
	onceDisk := makeDisk(t, filepath.Join(s.Dir, "once.raw"), 8*mib, 2*mib, 2, 81)
	once := s.createJob(s.startAgent("once", onceDisk), "--start")
	s.awaitStatus(once, smc.StatusFinished)
	_, disk, job := s.incrementalJob("db", 82)
	s.server(0, "backup", "--to", backups, "--data", data)
	change(t, disk, 2, 100_000, 83)
	s.drover("job", "run", job)
	s.awaitStatus(job, smc.StatusWaiting)
	second := copyDisk(t, filepath.Join(s.Dir, "second.raw"), disk)

	taken := s.server(0, "backup", "--to", backups, "--data", data)
	require.Contains(t, taken.Stderr, "images: 1 new, 2 of earlier backups")
	require.Contains(t, taken.Stderr, "is not in the backup")
	backup := strings.TrimSpace(taken.Stdout)
	before := s.describe(job)
	s.server(0, "restore", "--from", backup, "--verify")

	// What the backup does not know: another run, and another job.
	change(t, disk, 2, 100_000, 84)
	s.drover("job", "run", job)
	s.awaitStatus(job, smc.StatusWaiting)
	after, err := s.details(job)
	require.NoError(t, err)
	lost, _, lostJob := s.incrementalJob("lost", 85)

	// All but NATS and the agents' states is gone.
	s.killCenter()
	lost.Kill()
	database, err := url.Parse(s.env["DATABASE_URL"])
	require.NoError(t, err)
	require.NoError(t, os.RemoveAll(filepath.Dir(database.Path)))
	require.NoError(t, os.RemoveAll(data))
	s.start(s.NATS)
	require.Contains(t, s.server(2, "restore").Stderr, "--from")
	restored := s.server(0, "restore", "--from", backup, "--data", data)
	require.Contains(t, restored.Stderr, "images: 3 of the transition host")
	require.Contains(t, restored.Stderr, "drover-server rebuild")
	require.Contains(t, s.server(1, "restore", "--from", backup).Stderr, "not empty")
	require.Contains(t, s.server(1, "--listen", "127.0.0.1:0").Stderr, "run drover-server rebuild")

	// Entities that know what came after the backup are not taken over.
	s.start(s.Temporal)
	require.Contains(t, s.server(1, "rebuild").Stderr, "--replace")
	s.loseTemporal()
	rebuilt := s.server(0, "rebuild").Stderr
	require.Contains(t, rebuilt, "entities: 2 started")
	require.Contains(t, rebuilt, "events: 2 jobs and source servers go on after what the stream has of them, 2 that the backup does not know")
	for _, p := range []*process.Process{s.Servers[0].Process, s.CenterWorkers[0], s.TransitionHosts[0].Process} {
		s.start(p)
	}
	for _, a := range s.Agents[:2] {
		require.NoError(t, a.Restart(within(t, slow)))
	}

	require.Equal(t, smc.StatusFinished, s.describe(once).Status)
	require.Equal(t, before, s.describe(job))
	s.exportSynced("once", onceDisk)
	s.exportSynced("db_CYCLE_2", second)
	s.refused(smc.CodeInvalidJobIDNotFound, nil, "job", "show", lostJob)
	now, err := s.details(job)
	require.NoError(t, err)
	require.Equal(t, after.Sequence+1, now.Sequence, "one event tells what is true again")

	// The run that is made again is of its own time, and has the number after those that are known to the backup.
	change(t, disk, 2, 100_000, 86)
	s.drover("job", "run", job)
	d := s.awaitStatus(job, smc.StatusWaiting)
	require.Equal(t, 3, d.Run)
	require.NotEqual(t, runOf(t, after, 3).ImageID, runOf(t, d, 3).ImageID)
	s.exportSynced("db_CYCLE_3", disk)

	// An agent of a source server that the backup does not know is told so.
	require.NoError(t, lost.Start())
	code, err := lost.Wait(within(t, slow))
	require.NoError(t, err)
	require.Equal(t, 1, code)
	require.Contains(t, lost.Tail(2), "restored from")

	// Consumers see every number once, in order, and at last what is true.
	var stream []streamed
	stack.Eventually(t, slow, "the last event is in the stream", func() (bool, any) {
		stream = s.events()
		return slices.ContainsFunc(stream, func(e streamed) bool { return e.Subject == job && e.Data.Sequence == d.Sequence }), len(stream)
	})
	requireNumbered(t, stream)
	requireLast(t, stream, job, d.Sequence, "Waiting")
	requireLast(t, stream, lostJob, 0, "Deleted")
	requireLast(t, stream, lost.SourceID, 0, "Deleted")

	// The stream is lost, too: the outbox fills it again, once. What came after the backup is in no outbox any more.
	nc, err := s.ConnectNATS()
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	require.NoError(t, js.DeleteStream(within(t, slow), "SMC"))
	require.Contains(t, s.server(0, "events", "replay", "--from", "beginning").Stderr, " 0 were in the stream already")
	again := s.events()
	requireNumbered(t, again)
	requireLast(t, again, job, d.Sequence, "Waiting")
	requireLast(t, again, lostJob, 0, "Deleted")
	s.server(0, "events", "replay", "--from", "beginning")
	s.server(0, "events", "replay", "--from", "1")
	replay, err := s.Drover(within(t, slow), "events", "replay", "--from", "1h")
	require.NoError(t, err)
	require.Equal(t, 0, replay.Code, replay.Stderr)
	require.Len(t, s.events(), len(again), "doing it again adds nothing")
	s.server(0, "events", "replay", "--from", "beginning", "--new-stream")
	require.Len(t, s.events(), len(again))
	s.server(2, "events", "replay", "--from", "yesterday")
}

// streamed is an event as the stream has it.
type streamed struct {
	Subject string `json:"subject"`
	Data    struct{ Sequence int64 }
	Status  string
}

// events reads the whole stream.
func (s *center) events() (all []streamed) {
	s.t.Helper()
	nc, err := s.ConnectNATS()
	require.NoError(s.t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(s.t, err)
	ctx := within(s.t, slow)
	stream, err := js.Stream(ctx, "SMC")
	require.NoError(s.t, err)
	n := stream.CachedInfo().State.Msgs
	consumer, err := js.OrderedConsumer(ctx, "SMC", jetstream.OrderedConsumerConfig{})
	require.NoError(s.t, err)
	messages, err := consumer.Messages()
	require.NoError(s.t, err)
	defer messages.Stop()
	for range n {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		require.NoError(s.t, err)
		var e streamed
		require.NoError(s.t, json.Unmarshal(msg.Data(), &e))
		e.Status = msg.Headers().Get("Smc-Status")
		all = append(all, e)
	}
	return all
}

// requireNumbered checks that the events of each resource are in order and that none comes twice.
func requireNumbered(t *testing.T, all []streamed) {
	t.Helper()
	last := map[string]int64{}
	for _, e := range all {
		assert.Greater(t, e.Data.Sequence, last[e.Subject], "event of %s", e.Subject)
		last[e.Subject] = e.Data.Sequence
	}
	assert.NotEmpty(t, last)
}

// requireLast checks the last event of a resource; sequence 0 is any.
func requireLast(t *testing.T, all []streamed, resource string, sequence int64, status string) {
	t.Helper()
	for _, e := range slices.Backward(all) {
		if e.Subject == resource {
			assert.Equal(t, status, e.Status, "last event of %s", resource)
			if sequence > 0 {
				assert.Equal(t, sequence, e.Data.Sequence, "last event of %s", resource)
			}
			return
		}
	}
	require.FailNow(t, "no event of "+resource)
}
