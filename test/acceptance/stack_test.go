package acceptance

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/drover/drover/smc"
	"github.com/drover/drover/test/process"
	"github.com/drover/drover/test/stack"
)

const (
	mib = 1 << 20
	gib = 1 << 30

	// slow bounds everything that has no limit of its own.
	slow = 4 * time.Minute
)

// center is a drover-dev and what belongs to it.
type center struct {
	*stack.Stack
	t   *testing.T
	env map[string]string // as its dev.env has it
}

// newCenter starts a drover-dev.
func newCenter(t *testing.T) *center {
	t.Helper()
	return newCenterWith(t, stack.Options{})
}

// newCenterWith starts a drover-dev that is special.
func newCenterWith(t *testing.T, options stack.Options) *center {
	t.Helper()
	options.Embedded = true
	return newStack(t, options)
}

// newSpread starts a center of one process for each part, with variables of its own.
func newSpread(t *testing.T, env ...string) *center {
	t.Helper()
	return newStack(t, stack.Options{Env: env})
}

func newStack(t *testing.T, options stack.Options) *center {
	t.Helper()
	s := &center{Stack: stack.ForTest(t, options), t: t}
	s.env = s.Env()
	return s
}

// again starts drover-dev once more, killing it first when it runs.
func (s *center) again() {
	s.t.Helper()
	require.NoError(s.t, s.Dev.Restart(within(s.t, stack.StartLimit)))
	var err error
	s.env, err = stack.ReadEnvironment(filepath.Join(s.Data, "dev.env"))
	require.NoError(s.t, err)
}

// try runs a drover command.
func (s *center) try(args ...string) process.Result {
	s.t.Helper()
	r, err := s.Drover(within(s.t, slow), args...)
	require.NoError(s.t, err)
	return r
}

// drover runs a drover command that must succeed, and returns what it prints.
func (s *center) drover(args ...string) string {
	s.t.Helper()
	r := s.try(args...)
	require.Equal(s.t, 0, r.Code, "drover %s\n%s", strings.Join(args, " "), r.Stderr)
	return r.Stdout
}

// droverJSON decodes what a drover command prints with -o json.
func (s *center) droverJSON(into any, args ...string) {
	s.t.Helper()
	out := s.drover(append(args, "-o", "json")...)
	require.NoError(s.t, json.Unmarshal([]byte(out), into), "drover %s prints\n%s", strings.Join(args, " "), out)
}

// refused runs a drover command that must fail with a code of the API and say all of the words.
func (s *center) refused(code string, words []string, args ...string) {
	s.t.Helper()
	r := s.try(args...)
	line := "drover " + strings.Join(args, " ")
	require.Equal(s.t, 1, r.Code, "exit code of %s\n%s%s", line, r.Stdout, r.Stderr)
	require.Contains(s.t, r.Stderr, code, line)
	for _, word := range words {
		require.Contains(s.t, r.Stderr, word, line)
	}
}

// agent is a source server.
type agent struct {
	*stack.Agent
	s      *center
	name   string
	before int64 // bytes written by processes that were killed
}

func (s *center) code() string {
	s.t.Helper()
	var token struct{ AccessTokenCode string }
	s.droverJSON(&token, "token", "create")
	return token.AccessTokenCode
}

// startAgent registers a source server with its disks and waits until it is Available.
func (s *center) startAgent(name string, disks ...string) *agent {
	s.t.Helper()
	a, err := s.StartAgentWithCode(within(s.t, slow), s.code(), name, disks...)
	require.NoError(s.t, err)
	return &agent{Agent: a, s: s, name: name}
}

// killAgain kills the agent and starts it again with nothing but its state.
func (a *agent) killAgain() {
	a.before = a.allWritten()
	a.Kill()
	require.NoError(a.s.t, a.Start())
}

// allWritten is what the kernel saw all processes of this agent write.
func (a *agent) allWritten() int64 {
	n, err := a.BytesWritten()
	require.NoError(a.s.t, err)
	return a.before + n
}

// createJob makes a job, named as its source and image.
func (s *center) createJob(a *agent, args ...string) string {
	s.t.Helper()
	var job smc.ReplicationJob
	s.droverJSON(&job, append([]string{
		"job", "create", "--source", a.name, "--name", a.name, "--image-name", a.name, "--system-disk-size", "20",
	}, args...)...)
	require.NotEmpty(s.t, job.JobID)
	return job.JobID
}

// syncing starts a job of a new source server, held back to so many kilobits a second, and waits until a fifth of its disk has been read.
func (s *center) syncing(name string, size, data int64, seed uint64, bandwidth int) (a *agent, disk, job string) {
	s.t.Helper()
	disk = makeDisk(s.t, filepath.Join(s.Dir, name+".raw"), size, data, 16, seed)
	a = s.startAgent(name, disk)
	job = s.createJob(a, "--replication-parameters", fmt.Sprintf(`{"bandwidth_limit":%d}`, bandwidth), "--start")
	s.awaitSyncing(job, 0.2)
	return a, disk, job
}

// details are the live details of a job.
func (s *center) details(jobID string) (*smc.DescribeReplicationJobDetailsResult, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	return s.Client.DescribeReplicationJobDetails(ctx, &smc.DescribeReplicationJobDetailsRequest{JobID: jobID})
}

// await waits until ready holds of a job. No figure of a run may go backwards meanwhile.
func (s *center) await(jobID, what string, ready func(*smc.DescribeReplicationJobDetailsResult) bool) *smc.DescribeReplicationJobDetailsResult {
	s.t.Helper()
	var last smc.DescribeReplicationJobDetailsResult
	stack.Eventually(s.t, slow, fmt.Sprintf("job %s is %s", jobID, what), func() (bool, any) {
		d, err := s.details(jobID)
		if err != nil {
			return false, err
		}
		if d.Run == last.Run {
			require.GreaterOrEqual(s.t, d.BytesRead, last.BytesRead, "BytesRead goes backwards")
			require.GreaterOrEqual(s.t, d.BytesSent, last.BytesSent, "BytesSent goes backwards")
			require.GreaterOrEqual(s.t, d.Progress, last.Progress, "Progress goes backwards")
		}
		last = *d
		return ready(d), fmt.Sprintf("%+v", *d)
	})
	return &last
}

// awaitStatus waits until a job rests in a status. InError, where it is not waited for, ends the wait.
func (s *center) awaitStatus(jobID string, status smc.JobStatus) *smc.DescribeReplicationJobDetailsResult {
	s.t.Helper()
	return s.await(jobID, string(status), func(d *smc.DescribeReplicationJobDetailsResult) bool {
		if d.Status != status {
			require.NotEqual(s.t, smc.StatusInError, d.Status, "%s: %s", d.ErrorCode, d.StatusInfo)
		}
		return d.Status == status
	})
}

// awaitSyncing waits until so much of the disks has been read, as a share of the whole, while the job is Syncing.
func (s *center) awaitSyncing(jobID string, share float64) *smc.DescribeReplicationJobDetailsResult {
	s.t.Helper()
	return s.await(jobID, fmt.Sprintf("Syncing at %.0f %%", 100*share), func(d *smc.DescribeReplicationJobDetailsResult) bool {
		if d.Status == smc.StatusReady || d.Status == smc.StatusRunning && (d.BusinessStatus == smc.BusinessPreparing || d.BusinessStatus == smc.BusinessSyncing && d.BytesTotal == 0) {
			return false
		}
		require.Equal(s.t, smc.BusinessSyncing, d.BusinessStatus, "%s, %s: %s", d.Status, d.ErrorCode, d.StatusInfo)
		return share == 0 || d.BytesRead >= int64(share*float64(d.BytesTotal))
	})
}

// runOf returns a run of a job.
func runOf(t *testing.T, d *smc.DescribeReplicationJobDetailsResult, number int) smc.JobRun {
	t.Helper()
	for _, r := range d.Runs {
		if r.Number == number {
			return r
		}
	}
	require.FailNow(t, "there is no such run", "run %d of %+v", number, d.Runs)
	return smc.JobRun{}
}

// images lists the images of a job, newest first.
func (s *center) images(jobID string) []smc.Image {
	s.t.Helper()
	var images []smc.Image
	s.droverJSON(&images, "image", "list", "--job", jobID)
	return images
}

// imageDirs lists what the transition host keeps under images/.
func (s *center) imageDirs() []string { return s.list("images") }

// stagingDirs lists what the transition host keeps under staging/.
func (s *center) stagingDirs() []string { return s.list("staging") }

func (s *center) list(dir string) []string {
	s.t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.Data, "images", dir))
	require.NoError(s.t, err)
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// exportSynced exports the synced state of an image and compares it with the disks of the source.
func (s *center) exportSynced(image string, disks ...string) {
	s.t.Helper()
	dir := filepath.Join(s.Dir, "export-"+image)
	s.drover("image", "export", image, dir, "--synced")
	entries, err := os.ReadDir(dir)
	require.NoError(s.t, err)
	require.Len(s.t, entries, len(disks), "files of the export")
	for i, disk := range disks {
		requireSameBytes(s.t, disk, filepath.Join(dir, fmt.Sprintf("disk-%d.raw", i)))
	}
	require.NoError(s.t, os.RemoveAll(dir))
}
