package acceptance

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/drover/drover/smc"
)

const (
	mib = 1 << 20
	gib = 1 << 30

	// startLimit bounds the start of a stack; a small machine under load needs a few seconds.
	startLimit = 90 * time.Second
	// slow bounds everything else that has no limit of its own.
	slow = 2 * time.Minute
)

// stack is a drover-dev and what belongs to it.
type stack struct {
	t      *testing.T
	dir    string
	data   string // of drover-dev
	logs   string
	dev    *process
	env    map[string]string
	client *smc.Client
}

// newStack starts a drover-dev.
func newStack(t *testing.T) *stack {
	t.Helper()
	s := &stack{t: t, dir: t.TempDir()}
	s.data, s.logs = filepath.Join(s.dir, "data"), filepath.Join(s.dir, "logs")
	require.NoError(t, os.Mkdir(s.logs, 0o700))
	t.Cleanup(func() { showLogs(t, s.logs) })
	s.up("--listen", "127.0.0.1:0")
	cfg, err := smc.ConfigFromEnv(func(name string) string { return s.env[name] })
	require.NoError(t, err)
	s.client, err = smc.NewClient(cfg)
	require.NoError(t, err)
	return s
}

// up starts drover-dev, at first or again.
func (s *stack) up(args ...string) {
	s.t.Helper()
	s.dev = start(s.t, s.logs, "drover-dev", "drover-dev", append([]string{"--data", s.data}, args...)...)
	s.dev.awaitLine(s.t, "drover-dev ready", startLimit)
	s.env = readEnvironment(s.t, filepath.Join(s.data, "dev.env"))
}

// readEnvironment reads a dev.env the way its users do: with a shell.
func readEnvironment(t *testing.T, path string) map[string]string {
	t.Helper()
	cmd := exec.Command("sh", "-c", `. "$0" && env`, path)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	out, err := cmd.Output()
	require.NoError(t, err)
	env := map[string]string{}
	for line := range strings.Lines(string(out)) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if !slices.Contains([]string{"PATH", "PWD", "OLDPWD", "SHLVL", "_"}, name) {
			env[name] = value
		}
	}
	return env
}

func (s *stack) environ() []string {
	var env []string
	for name, value := range s.env {
		env = append(env, name+"="+value)
	}
	return env
}

// try runs a drover command.
func (s *stack) try(args ...string) result {
	s.t.Helper()
	return run(s.t, s.environ(), "drover", args...)
}

// drover runs a drover command that must succeed, and returns what it prints.
func (s *stack) drover(args ...string) string {
	s.t.Helper()
	r := s.try(args...)
	require.Equal(s.t, 0, r.code, "drover %s\n%s", strings.Join(args, " "), r.stderr)
	return r.stdout
}

// droverJSON decodes what a drover command prints with -o json.
func (s *stack) droverJSON(into any, args ...string) {
	s.t.Helper()
	out := s.drover(append(args, "-o", "json")...)
	require.NoError(s.t, json.Unmarshal([]byte(out), into), "drover %s prints\n%s", strings.Join(args, " "), out)
}

// refused runs a drover command that must fail with a code of the API and say all of the words.
func (s *stack) refused(code string, words []string, args ...string) {
	s.t.Helper()
	r := s.try(args...)
	line := "drover " + strings.Join(args, " ")
	require.Equal(s.t, 1, r.code, "exit code of %s\n%s%s", line, r.stdout, r.stderr)
	require.Contains(s.t, r.stderr, code, line)
	for _, word := range words {
		require.Contains(s.t, r.stderr, word, line)
	}
}

// agent is a source server.
type agent struct {
	*process
	s        *stack
	name     string
	state    string
	disks    []string
	sourceID string
	before   int64 // bytes written by processes that were killed
}

func (s *stack) code() string {
	s.t.Helper()
	var token struct{ AccessTokenCode string }
	s.droverJSON(&token, "token", "create")
	return token.AccessTokenCode
}

// startAgent registers a source server with its disks and waits until it is Available.
func (s *stack) startAgent(name string, disks ...string) *agent {
	s.t.Helper()
	a := &agent{s: s, name: name, state: filepath.Join(s.dir, "agent-"+name), disks: disks}
	args := []string{"--endpoint", s.env["DROVER_ENDPOINT"], "--code", s.code(), "--name", name, "--state", a.state}
	for _, disk := range disks {
		args = append(args, "--disk", disk)
	}
	a.process = start(s.t, s.logs, "agent-"+name, "drover-agent", args...)
	eventually(s.t, slow, name+" is Available", func() (bool, any) {
		res, err := s.client.DescribeSourceServers(s.t.Context(), &smc.DescribeSourceServersRequest{Name: &name})
		if err != nil || len(res.SourceServers) != 1 || !a.running() {
			return false, fmt.Sprint(err, res)
		}
		a.sourceID = res.SourceServers[0].SourceID
		return res.SourceServers[0].State == smc.SourceAvailable, res.SourceServers[0].State
	})
	return a
}

// killAgain kills the agent and starts it again with nothing but its state.
func (a *agent) killAgain() {
	a.before += a.bytesWritten(a.s.t)
	a.kill()
	a.process = start(a.s.t, a.s.logs, "agent-"+a.name, "drover-agent", "--state", a.state)
}

// allWritten is what the kernel saw all processes of this agent write.
func (a *agent) allWritten() int64 { return a.before + a.bytesWritten(a.s.t) }

// createJob makes a job, named as its source and image.
func (s *stack) createJob(a *agent, args ...string) string {
	s.t.Helper()
	var job smc.ReplicationJob
	s.droverJSON(&job, append([]string{
		"job", "create", "--source", a.name, "--name", a.name, "--image-name", a.name, "--system-disk-size", "20",
	}, args...)...)
	require.NotEmpty(s.t, job.JobID)
	return job.JobID
}

// details are the live details of a job.
func (s *stack) details(jobID string) (*smc.DescribeReplicationJobDetailsResult, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	return s.client.DescribeReplicationJobDetails(ctx, &smc.DescribeReplicationJobDetailsRequest{JobID: jobID})
}

// await waits until ready holds of a job. No figure of a run may go backwards meanwhile.
func (s *stack) await(jobID, what string, ready func(*smc.DescribeReplicationJobDetailsResult) bool) *smc.DescribeReplicationJobDetailsResult {
	s.t.Helper()
	var last smc.DescribeReplicationJobDetailsResult
	eventually(s.t, slow, fmt.Sprintf("job %s is %s", jobID, what), func() (bool, any) {
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
func (s *stack) awaitStatus(jobID string, status smc.JobStatus) *smc.DescribeReplicationJobDetailsResult {
	s.t.Helper()
	return s.await(jobID, string(status), func(d *smc.DescribeReplicationJobDetailsResult) bool {
		if d.Status != status {
			require.NotEqual(s.t, smc.StatusInError, d.Status, "%s: %s", d.ErrorCode, d.StatusInfo)
		}
		return d.Status == status
	})
}

// awaitSyncing waits until so much of the disks has been read, as a share of the whole, while the job is Syncing.
func (s *stack) awaitSyncing(jobID string, share float64) *smc.DescribeReplicationJobDetailsResult {
	s.t.Helper()
	return s.await(jobID, fmt.Sprintf("Syncing at %.0f %%", 100*share), func(d *smc.DescribeReplicationJobDetailsResult) bool {
		if d.Status == smc.StatusRunning && (d.BusinessStatus == smc.BusinessPreparing || d.BusinessStatus == smc.BusinessSyncing && d.BytesTotal == 0) {
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
func (s *stack) images(jobID string) []smc.Image {
	s.t.Helper()
	var images []smc.Image
	s.droverJSON(&images, "image", "list", "--job", jobID)
	return images
}

// imageDirs lists what the transition host keeps under images/.
func (s *stack) imageDirs() []string { return s.list("images") }

// stagingDirs lists what the transition host keeps under staging/.
func (s *stack) stagingDirs() []string { return s.list("staging") }

func (s *stack) list(dir string) []string {
	s.t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.data, "images", dir))
	require.NoError(s.t, err)
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// exportSynced exports the synced state of an image and compares it with the disks of the source.
func (s *stack) exportSynced(image string, disks ...string) {
	s.t.Helper()
	dir := filepath.Join(s.dir, "export-"+image)
	s.drover("image", "export", image, dir, "--synced")
	entries, err := os.ReadDir(dir)
	require.NoError(s.t, err)
	require.Len(s.t, entries, len(disks), "files of the export")
	for i, disk := range disks {
		requireSameBytes(s.t, disk, filepath.Join(dir, fmt.Sprintf("disk-%d.raw", i)))
	}
	require.NoError(s.t, os.RemoveAll(dir))
}
