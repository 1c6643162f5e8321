//go:build record

package workflows

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/smc"
)

// TestRecordTroubles is TestRecord for runs that fail in each of their phases, that wait, and that are resumed. The transition host
// is a process of its own, so that it can be killed.
func TestRecordTroubles(t *testing.T) {
	s := newStack(t, "--parts", "temporal,nats,server")
	center := &workerProcess{s: s, args: []string{"--role", "center"}}
	center.start()
	t.Cleanup(center.kill)
	for _, scenario := range []struct {
		name string
		play func(*stack, *workerProcess, *agent) (jobID string)
	}{
		{"no-space-and-resumed", (*stack).noSpaceAndResumed},
		{"processing-failed-and-resumed", (*stack).processingFailedAndResumed},
		{"cleaning-failed-and-resumed", (*stack).cleaningFailedAndResumed},
		{"source-silent-and-back", (*stack).sourceSilentAndBack},
		{"source-offline-and-resumed", (*stack).sourceOfflineAndResumed},
		{"host-away-and-back", (*stack).hostAwayAndBack},
	} {
		t.Run(scenario.name, func(t *testing.T) {
			s := s.in(t)
			host := s.transitionHost()
			s.write(scenario.name, scenario.play(s, host, s.register(scenario.name)))
		})
	}
}

// workerProcess is a drover-worker.
type workerProcess struct {
	s       *stack
	args    []string
	command *exec.Cmd
	log     bytes.Buffer
	data    string // of a transition host
}

// sourceWait is how long runs wait for a silent source in these recordings.
const sourceWait = 10 * time.Second

// transitionHost starts the transition host; it lives as long as the test.
func (s *stack) transitionHost() *workerProcess {
	s.t.Helper()
	data := filepath.Join(s.dir, "host")
	h := &workerProcess{s: s, data: data, args: []string{
		"--role", "transition", "--data", data, "--transition-listen", "127.0.0.1:0", "--source-wait", sourceWait.String(),
	}}
	s.t.Cleanup(func() {
		h.kill()
		if s.t.Failed() {
			s.t.Log(h.log.String())
		}
	})
	h.start()
	return h
}

func (h *workerProcess) start() {
	h.s.t.Helper()
	program, err := filepath.Abs("../bin/drover-worker")
	require.NoError(h.s.t, err)
	require.FileExists(h.s.t, program, "run make drover-worker first")
	h.command = exec.Command(program, h.args...)
	for name, value := range h.s.env {
		h.command.Env = append(h.command.Env, name+"="+value)
	}
	h.command.Stdout, h.command.Stderr = &h.log, &h.log
	h.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(h.s.t, h.command.Start())
}

func (h *workerProcess) kill() {
	assert.NoError(h.s.t, h.command.Process.Kill())
	_ = h.command.Wait() // it was killed
}

// begin starts a job as soon as there is a transition host.
func (s *stack) begin(id string) {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		_, err := s.client.StartReplicationJob(s.t.Context(), &smc.StartReplicationJobRequest{JobID: id})
		return err == nil
	}, time.Minute, 50*time.Millisecond)
}

// awaitInfo waits until the StatusInfo of a job has the words.
func (s *stack) awaitInfo(id, words string) {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		jobs, err := s.client.DescribeReplicationJobs(s.t.Context(), &smc.DescribeReplicationJobsRequest{JobID: []string{id}})
		return err == nil && len(jobs.ReplicationJobs) == 1 && strings.Contains(jobs.ReplicationJobs[0].StatusInfo, words)
	}, 3*time.Minute, 50*time.Millisecond, words)
}

// resume demands that a job is InError with a code, starts it and waits for its end.
func (s *stack) resume(id, code string, mend func()) string {
	s.t.Helper()
	failed := s.await(id, smc.StatusInError)
	require.Equal(s.t, code, failed.ErrorCode, failed.StatusInfo)
	mend()
	s.begin(id)
	s.await(id, smc.StatusFinished)
	return id
}

func (s *stack) noSpaceAndResumed(_ *workerProcess, a *agent) string {
	id := s.create(a, smc.CreateReplicationJobRequest{})
	describe := func(size int64) {
		_, err := a.api.Heartbeat(s.t.Context(), agentapi.HeartbeatRequest{Instance: a.name, Server: agentapi.Server{
			Disks: []agentapi.Disk{{Path: a.path, SizeBytes: size, UsedBytes: size}},
		}})
		require.NoError(s.t, err)
	}
	describe(1 << 50)
	s.begin(id)
	return s.resume(id, smc.CodeTransitionHostNoSpace, func() {
		info, err := os.Stat(a.path)
		require.NoError(s.t, err)
		describe(info.Size())
		s.present(a)
	})
}

func (s *stack) processingFailedAndResumed(h *workerProcess, a *agent) string {
	images := filepath.Join(h.data, "images")
	id := s.create(a, smc.CreateReplicationJobRequest{})
	s.begin(id)
	require.Eventually(s.t, func() bool { _, err := os.Stat(filepath.Join(h.data, "staging", id)); return err == nil }, time.Minute, 20*time.Millisecond)
	require.NoError(s.t, os.Rename(images, images+".away"))
	require.NoError(s.t, os.WriteFile(images, nil, 0o600))
	s.present(a)
	return s.resume(id, smc.CodeTransitionHostStorageError, func() {
		require.NoError(s.t, os.Remove(images))
		require.NoError(s.t, os.Rename(images+".away", images))
	})
}

func (s *stack) cleaningFailedAndResumed(h *workerProcess, a *agent) string {
	id := s.create(a, smc.CreateReplicationJobRequest{})
	s.begin(id)
	stuck := filepath.Join(h.data, "staging", id, "stuck")
	require.Eventually(s.t, func() bool { return os.WriteFile(stuck, nil, 0o600) == nil }, time.Minute, 20*time.Millisecond)
	immutable(s.t, stuck, true)
	s.present(a)
	return s.resume(id, smc.CodeTransitionHostStorageError, func() { immutable(s.t, stuck, false) })
}

// immutable makes a file one that nobody can remove, root neither; or an ordinary one again.
func immutable(t *testing.T, path string, on bool) {
	t.Helper()
	const flag = 0x10 // FS_IMMUTABLE_FL
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	require.NoError(t, err)
	if flags &^= flag; on {
		flags |= flag
	}
	require.NoError(t, unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags), "this takes root, and a file system that has the flag")
}

func (s *stack) sourceSilentAndBack(_ *workerProcess, a *agent) string {
	id := s.create(a, smc.CreateReplicationJobRequest{})
	s.begin(id)
	s.awaitInfo(id, "has not been heard of since")
	s.present(a)
	s.await(id, smc.StatusFinished)
	return id
}

func (s *stack) sourceOfflineAndResumed(_ *workerProcess, a *agent) string {
	id := s.create(a, smc.CreateReplicationJobRequest{})
	s.begin(id)
	return s.resume(id, smc.CodeSourceServerOffline, func() { s.present(a) })
}

func (s *stack) hostAwayAndBack(h *workerProcess, a *agent) string {
	a.hang()
	s.present(a)
	id := s.create(a, smc.CreateReplicationJobRequest{})
	s.begin(id)
	<-a.hanging
	h.kill()
	s.awaitInfo(id, "does not take the work")
	a.heal()
	h.start()
	s.await(id, smc.StatusFinished)
	return id
}
