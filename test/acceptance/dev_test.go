package acceptance

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/smc"
)

// drover-dev alone on its directory, stopped in the middle of a sync as an operator does, and started again.
func TestCenterStoppedAndStarted(t *testing.T) {
	t.Parallel()
	s := newCenter(t)
	heard := s.follow()
	assert.Subset(t, slices.Collect(maps.Keys(s.env)), []string{
		"DROVER_ENDPOINT", "DROVER_REGION", "DROVER_ACCOUNT", "ALIBABA_CLOUD_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_SECRET",
		"NATS_URL", "TEMPORAL_ADDRESS", "TEMPORAL_NAMESPACE",
	})
	for name, value := range s.env {
		assert.NotEmpty(t, value, name)
	}
	info, err := os.Stat(filepath.Join(s.Data, "dev.env"))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode(), "dev.env holds a secret")

	r := run(t, nil, "drover-dev", "--data", s.Data)
	assert.Equal(t, 1, r.Code, "exit code of a second drover-dev")
	assert.Contains(t, r.Stderr, s.Data)
	assert.Contains(t, r.Stderr, "process "+strconv.Itoa(s.Dev.PID()))
	assert.Empty(t, r.Stdout)

	disk := makeDisk(t, filepath.Join(s.Dir, "disk.raw"), 128*mib, 40*mib, 8, 41)
	a := s.startAgent("web-1", disk)
	job := s.createJob(a, "--replication-parameters", slowSync, "--start")
	s.awaitSyncing(job, 0.3)
	env := s.env
	terminate(t, s.Dev)
	s.Dev.Args = append(s.Dev.Args, "--listen", "127.0.0.1:0") // port 0 keeps the one it took
	s.again()
	assert.Equal(t, env, s.env, "addresses and keys are those of the first start")
	done := s.awaitStatus(job, smc.StatusFinished)
	requireLittleTwice(t, a, done.Runs[0], nonZero(t, disk), 1)
	s.exportSynced(done.Runs[0].ImageID, disk)
	heard.requireStory(t, job, chain("Ready", oneRun, "Finished"))

	terminate(t, a.Process)
	terminate(t, s.Dev)
	s.again()
	assert.Equal(t, env, s.env)
	d, err := s.details(job)
	require.NoError(t, err)
	assert.Equal(t, smc.StatusFinished, d.Status)
	s.drover("image", "verify", done.Runs[0].ImageID)
	terminate(t, s.Dev)
}

// Two stacks never share a secret or a port.
func TestStacksAreApart(t *testing.T) {
	t.Parallel()
	one, two := newCenter(t), newCenter(t)
	for _, name := range []string{"DROVER_ENDPOINT", "ALIBABA_CLOUD_ACCESS_KEY_SECRET", "NATS_URL", "TEMPORAL_ADDRESS"} {
		assert.NotEqual(t, one.env[name], two.env[name], name)
	}
	stolen := append(two.Environ(), "DROVER_ENDPOINT="+one.env["DROVER_ENDPOINT"])
	r := run(t, stolen, "drover", "job", "list")
	assert.Equal(t, 1, r.Code)
	assert.Contains(t, r.Stderr, smc.CodeInvalidAccessKeyIDNotFound)
}
