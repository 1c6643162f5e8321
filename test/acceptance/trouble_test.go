package acceptance

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/drover/drover/smc"
	"github.com/drover/drover/test/stack"
)

// Bad input is refused with the code of the API, and nothing comes of it.
func TestRefusals(t *testing.T) {
	t.Parallel()
	s := newCenter(t)
	disk := makeDisk(t, filepath.Join(s.Dir, "disk.raw"), 8*mib, mib, 2, 21)
	a := s.startAgent("web-1", disk)
	job := s.createJob(a)

	s.refused(smc.CodeSourceServerStateInvalid, []string{job}, "job", "create", "--source", "web-1", "--name", "second",
		"--image-name", "second", "--system-disk-size", "20")
	s.refused(smc.CodeInvalidSourceIDNotFound, []string{"s-nosuchsource"}, "job", "create", "--source", "s-nosuchsource",
		"--name", "third", "--image-name", "third", "--system-disk-size", "20")
	s.refused(smc.CodeInvalidSourceIDNotFound, []string{"nobody"}, "source", "show", "nobody")
	for _, verb := range []string{"show", "start", "stop", "cutover", "run", "delete", "watch"} {
		s.refused(smc.CodeInvalidJobIDNotFound, []string{"j-nosuchjob"}, "job", verb, "j-nosuchjob")
	}
	s.refused(smc.CodeInvalidImageIDNotFound, []string{"m-nosuchimage"}, "image", "export", "m-nosuchimage", filepath.Join(s.Dir, "none"))
	s.refused(smc.CodeReplicationJobInvalidStatus, []string{"Ready"}, "job", "stop", job)
	s.refused(smc.CodeReplicationJobInvalidStatus, []string{"Ready"}, "job", "cutover", job)

	// Not by the command line, which looks the source up first: by the API itself.
	name, size := "fourth", 20
	_, err := s.Client.CreateReplicationJob(t.Context(), &smc.CreateReplicationJobRequest{SourceID: "s-nosuchsource", Name: &name, ImageName: &name, SystemDiskSize: &size})
	assert.Equal(t, smc.CodeInvalidSourceIDNotFound, smc.CodeOf(err), "%v", err)

	env := slices.Clone(s.Environ())
	for i := range env {
		if strings.HasPrefix(env[i], smc.EnvAccessKeySecret+"=") {
			env[i] = smc.EnvAccessKeySecret + "=wrong"
		}
	}
	r := run(t, env, "drover", "job", "list")
	assert.Equal(t, 1, r.Code, "exit code with a wrong secret")
	assert.Contains(t, r.Stderr, smc.CodeSignatureDoesNotMatch)

	r = run(t, nil, "drover-agent", "--endpoint", s.env["DROVER_ENDPOINT"], "--code", "wrong", "--name", "web-2",
		"--state", filepath.Join(s.Dir, "agent-web-2"), "--disk", disk)
	assert.Equal(t, 1, r.Code, "exit code of an agent with a wrong activation code")
	assert.Contains(t, r.Stderr, smc.CodeInvalidActivationCode)
	r = run(t, nil, "drover-agent", "--state", a.State)
	assert.Equal(t, 1, r.Code, "exit code of a second agent with one state")
	assert.Contains(t, r.Stderr, a.State)
	r = run(t, nil, "drover-agent", "--endpoint", s.env["DROVER_ENDPOINT"], "--code", s.code(), "--name", "web-3",
		"--state", filepath.Join(s.Dir, "agent-web-3"), "--disk", filepath.Join(s.Dir, "absent.raw"))
	assert.Equal(t, 1, r.Code, "exit code of an agent without its disk")
	assert.Contains(t, r.Stderr, "absent.raw")

	var jobs []smc.ReplicationJob
	s.droverJSON(&jobs, "job", "list")
	require.Len(t, jobs, 1, "jobs after all the refusals")
	var sources []smc.SourceServer
	s.droverJSON(&sources, "source", "list")
	require.Len(t, sources, 1, "source servers after all the refusals")
	assert.Empty(t, s.images(job))
	assert.Empty(t, s.imageDirs())
}

// Wrong usage exits with 2 and says how it is done, without any center.
func TestWrongUsage(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"drover"},
		{"drover", "job"},
		{"drover", "job", "fly"},
		{"drover", "job", "show"},
		{"drover", "job", "list", "--no-such-flag"},
		{"drover", "job", "list", "-o", "yaml"},
		{"drover", "job", "create", "--name", "x"},
		{"drover", "job", "create", "--source", "x", "--start", "--schedule", "+1h"},
		{"drover", "job", "list"}, // no environment
		{"drover-agent"},
		{"drover-agent", "--no-such-flag"},
		{"drover-agent", "--state", filepath.Join(t.TempDir(), "state")},
		{"drover-dev"},
		{"drover-dev", "--no-such-flag"},
	} {
		r := run(t, []string{smc.EnvEndpoint + "="}, args[0], args[1:]...)
		assert.Equal(t, 2, r.Code, "exit code of %q\n%s", args, r.Stderr)
		assert.Contains(t, r.Stderr, args[0], "%q", args)
		assert.Empty(t, r.Stdout, "%q", args)
	}
}

// stopIn stops a job, and it must take effect within 5 seconds: the command is back, the job is Stopped, and what is
// staged does not change any more. What waited for somebody would take 20 seconds and more; a machine that is busy may take a while.
func (s *center) stopIn(job string) {
	s.t.Helper()
	began := time.Now()
	s.drover("job", "stop", job)
	assert.Less(s.t, time.Since(began), 15*time.Second, "time that job stop took")
	d, err := s.details(job)
	require.NoError(s.t, err)
	require.Equal(s.t, smc.StatusStopped, d.Status, "a client reads its own writes")
	require.Empty(s.t, d.BusinessStatus)
}

// still waits until the agent writes no disk data any more, at most until the limit.
func (a *agent) still(limit time.Duration) {
	a.s.t.Helper()
	last, since := a.allWritten(), time.Now()
	stack.Eventually(a.s.t, limit, "the agent sends nothing any more", func() (bool, any) {
		now := a.allWritten()
		if now-last > 32<<10 {
			last, since = now, time.Now()
		}
		return time.Since(since) > 500*time.Millisecond, now
	})
}

// Stop takes effect at once whatever the agent does, and Start goes on from there.
func TestStopAndResume(t *testing.T) {
	t.Parallel()
	s := newCenter(t)
	heard := s.follow()
	a, disk, job := s.syncing("db-1", 512*mib, 96*mib, 22, 50_000)
	s.stopIn(job)
	a.still(slow)
	stopped, err := s.details(job)
	require.NoError(t, err)
	s.refused(smc.CodeSourceServerStateInvalid, []string{job}, "job", "create", "--source", "db-1", "--name", "second",
		"--image-name", "second", "--system-disk-size", "20") // a Stopped job holds its source
	s.refused(smc.CodeReplicationJobInvalidStatus, []string{"Stopped"}, "job", "stop", job)
	r := s.try("job", "watch", job)
	assert.Equal(t, 1, r.Code, "exit code of job watch for a job that is Stopped")
	assert.Empty(t, s.imageDirs(), "images of a job that was stopped")

	s.drover("job", "start", job)
	s.awaitSyncing(job, 0.5)
	require.NoError(t, a.Pause()) // an agent that cannot even hear of it
	s.stopIn(job)
	a.Continue()
	a.still(slow)

	run := s.requireGoesOn(job, a, disk, 2)
	assert.Greater(t, run.BytesSent, stopped.BytesSent)
	heard.requireStory(t, job, chain("Ready", begun, "Stopped", begun, "Stopped", oneRun, "Finished"))
}

// requireGoesOn starts a job whose first run was stopped or failed, and returns that run once it has ended with what the disk
// holds. What was sent before is not sent again, but for what the interruptions allow.
func (s *center) requireGoesOn(job string, a *agent, disk string, interruptions int64) smc.JobRun {
	s.t.Helper()
	s.drover("job", "start", job)
	done := s.awaitStatus(job, smc.StatusFinished)
	require.Len(s.t, done.Runs, 1, "it goes on with the run it had")
	requireLittleTwice(s.t, a, done.Runs[0], nonZero(s.t, disk), interruptions)
	s.exportSynced(done.Runs[0].ImageID, disk)
	return done.Runs[0]
}

// requireInError waits for a job to be InError with a code and words, and checks that nothing half made is left.
func (s *center) requireInError(job, code string, words ...string) {
	t := s.t
	t.Helper()
	s.awaitInError(job, code, words...)
	s.refused(code, words, "job", "watch", job)
	assert.Empty(t, s.images(job), "images of a job that is InError")
	assert.Empty(t, s.imageDirs(), "what is left of an image")
}

// A disk that loses its end in the middle of a sync is an error, not zeros; with its end back the job goes on.
func TestTruncatedDisk(t *testing.T) {
	t.Parallel()
	s := newCenter(t)
	heard := s.follow()
	disk := makeDisk(t, filepath.Join(s.Dir, "disk.raw"), 256*mib, 48*mib, 16, 23)
	whole := copyDisk(t, filepath.Join(s.Dir, "whole.raw"), disk)
	a := s.startAgent("cut", disk)
	job := s.createJob(a, "--replication-parameters", slowSync, "--start")
	s.awaitSyncing(job, 0.2)
	require.NoError(t, os.Truncate(disk, 200*mib+mib)) // in a hole
	s.requireInError(job, smc.CodeSourceDiskChanged, "disk 0")

	copyDisk(t, disk, whole)
	s.requireGoesOn(job, a, disk, 1)
	heard.requireStory(t, job, chain("Ready", begun, "InError", oneRun, "Finished"))
}

// A disk with a read error: a loop device whose file was cut short answers EIO behind the cut, as a disk with bad
// sectors does. That takes a loop device, and so root; nothing an ordinary user can make answers EIO.
func TestDiskWithReadError(t *testing.T) {
	t.Parallel()
	backing := makeDisk(t, filepath.Join(t.TempDir(), "backing.raw"), 64*mib, 32*mib, 4, 24)
	device := attachLoop(t, backing)
	s := newCenter(t)
	heard := s.follow()
	whole := copyDisk(t, filepath.Join(s.Dir, "whole.raw"), backing)
	a := s.startAgent("bad", device)
	require.NoError(t, os.Truncate(backing, 20*mib))
	job := s.createJob(a, "--start")
	s.requireInError(job, smc.CodeSourceDiskReadError, "disk 0", "input/output error")

	require.NoError(t, os.Truncate(backing, 64*mib))
	copyDisk(t, backing, whole)
	s.drover("job", "start", job)
	done := s.awaitStatus(job, smc.StatusFinished)
	s.exportSynced(done.Runs[0].ImageID, whole)
	heard.requireStory(t, job, chain("Ready", begun, "InError", oneRun, "Finished"))
}

// attachLoop makes a file a block device until the test ends. The kernel takes it off by itself when this process dies.
func attachLoop(t *testing.T, path string) string {
	t.Helper()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Skip("only root can make a disk that fails to be read:", err)
	}
	defer control.Close()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer file.Close()
	for range 10 { // another process may take the number just found
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			t.Skip("this machine has no loop devices to give:", err)
		}
		name := "/dev/loop" + strconv.Itoa(number)
		device, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Skip("this machine has no loop devices to give:", err)
		}
		cfg := unix.LoopConfig{Fd: uint32(file.Fd())}
		cfg.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
		err = unix.IoctlLoopConfigure(int(device.Fd()), &cfg)
		if err == nil {
			t.Cleanup(func() { assert.NoError(t, device.Close()) })
			return name
		}
		device.Close()
		require.ErrorIs(t, err, unix.EBUSY, "attach %s", name)
	}
	t.Skip("no loop device was free")
	return ""
}
