package acceptance

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/drover/drover/activities"
	"github.com/drover/drover/center/doctor"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/test/process"
	"github.com/drover/drover/test/stack"
	"github.com/drover/drover/workflows"
)

// ofBuilds are findings about binaries that were not built together, as on the machine of somebody who works on them.
var ofBuilds = []string{"versions-mixed", "agent-version"}

// examine runs drover-server doctor and returns what it says, and its exit code.
func (s *center) examine(args ...string) (report doctor.Report, code int) {
	s.t.Helper()
	r, err := s.Run(within(s.t, slow), "drover-server", append([]string{"doctor", "-o", "json", "--min-free", "0"}, args...)...)
	require.NoError(s.t, err)
	require.NoError(s.t, json.Unmarshal([]byte(r.Stdout), &report), "%s%s", r.Stdout, r.Stderr)
	report.Findings = slices.DeleteFunc(report.Findings, func(f doctor.Finding) bool { return slices.Contains(ofBuilds, f.Kind) })
	return report, r.Code
}

func found(report doctor.Report, kind, thing, text string) bool {
	return slices.ContainsFunc(report.Findings, func(f doctor.Finding) bool {
		return f.Kind == kind && f.Thing == thing && strings.Contains(f.Text, text)
	})
}

// awaitFound waits until the doctor finds something.
func awaitFound(t *testing.T, look func() doctor.Report, kind, thing, text string) {
	t.Helper()
	stack.Eventually(t, slow, kind+" about "+thing, func() (bool, any) {
		report := look()
		return found(report, kind, thing, text), fmt.Sprintf("%+v", report)
	})
}

// The doctor finds nothing wrong with a center that works, what a transition host has left over, what is wrong in Temporal, and
// what it cannot look at.
func TestDoctor(t *testing.T) {
	t.Parallel()
	s := newSpread(t, "DROVER_ORPHAN_GRACE=6s")
	_, disk, job := s.incrementalJob("web", 91)
	data := s.TransitionHosts[0].Data
	look := func() doctor.Report {
		report, _ := s.examine()
		return report
	}

	report := look()
	require.True(t, report.Sound(), "%+v", report.Findings)
	require.Empty(t, report.NotSeen)
	require.Subset(t, report.Seen, []string{"database", "secrets", "processes", "transition hosts", "stream", "consumers of SMC", "workflows", "task queues", "entities"})
	text := s.try("doctor")
	require.Contains(t, text.Stdout, "looked at: database", text.Stderr)

	// What the host has left over: the one goes by itself, the other when a person says so.
	unknown, half := filepath.Join(data, "staging", "j-unknown"), filepath.Join(data, "images", "m-half")
	for _, dir := range []string{unknown, half} {
		require.NoError(t, os.Mkdir(dir, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "disk-0.raw"), []byte("data"), 0o600))
	}
	awaitFound(t, look, "orphan-unknown", "j-unknown", "the record knows nothing of its job")
	gone := func(dir string) func() (bool, any) {
		return func() (bool, any) {
			_, err := os.Stat(dir)
			return os.IsNotExist(err), err
		}
	}
	stack.Eventually(t, slow, "the half of an image is gone", gone(half))
	require.DirExists(t, unknown)
	require.Contains(t, s.server(1, "doctor", "--remove", "j-none").Stderr, "--remove j-none")
	require.Contains(t, s.try("doctor", "--remove", "j-unknown").Stderr, "unknown-staging j-unknown")
	stack.Eventually(t, slow, "the staging of an unknown job is gone", gone(unknown))
	require.DirExists(t, filepath.Join(data, "staging", job), "what a job holds stays")

	// An entity that was ended from outside is started again.
	temporal, err := s.ConnectTemporal(within(t, slow))
	require.NoError(t, err)
	defer temporal.Close()
	ctx := within(t, slow)
	require.NoError(t, temporal.TerminateWorkflow(ctx, workflows.JobID(job), "", "by the test"))
	s.db(`UPDATE replication_jobs SET created_at = created_at - 120000 WHERE job_id = $1`, job) // a young job may have no entity yet
	awaitFound(t, look, "entity-missing", job, "it ended as Terminated")
	report, code := s.examine("--fix")
	require.True(t, found(report, "entity-missing", job, ""), "%+v", report.Findings)
	require.True(t, report.Sound(), "%+v", report.Findings)
	require.Contains(t, []int{0, 1}, code) // 1: of the builds
	change(t, disk, 1, 100_000, 92)
	s.drover("job", "run", job)
	s.awaitStatus(job, smc.StatusWaiting)

	// Workflows that do not get on.
	for id, queue := range map[string]string{"fleet/nobody": "nobody", "fleet/broken": activities.QueueCenter} {
		_, err := temporal.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: id, TaskQueue: queue}, "Fleet")
		require.NoError(t, err)
	}
	// A worker that hangs takes work and does not answer.
	_, err = temporal.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: "fleet/hung", TaskQueue: "hung", WorkflowTaskTimeout: time.Second}, "Fleet")
	require.NoError(t, err)
	go func() {
		for ctx.Err() == nil {
			_, _ = temporal.WorkflowService().PollWorkflowTaskQueue(ctx, &workflowservice.PollWorkflowTaskQueueRequest{
				Namespace: s.env["TEMPORAL_NAMESPACE"], TaskQueue: &taskqueuepb.TaskQueue{Name: "hung"}, Identity: "hung",
			})
		}
	}()
	ghost := workflows.JobInput{JobID: "no id", Status: smc.StatusDeleting, ReleaseHost: s.host()}
	_, err = temporal.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: "job/no id", TaskQueue: activities.QueueCenter}, workflows.ReplicationJob, ghost)
	require.NoError(t, err)
	s.db(`UPDATE replication_jobs SET status = 'Stopped' WHERE job_id = $1`, job)
	sealer, err := store.LoadSealer(s.env["DROVER_SECRET_KEY_FILE"])
	require.NoError(t, err)
	record, err := store.OpenAsIs(s.env["DATABASE_URL"], store.WithSealer(sealer))
	require.NoError(t, err)
	defer record.Close()
	soon := func() doctor.Report {
		return *doctor.Examine(ctx, doctor.Config{
			Record: record, Temporal: temporal, Namespace: s.env["TEMPORAL_NAMESPACE"],
			Limits: doctor.Limits{WorkflowTask: time.Second, Attempts: 1, Fresh: time.Millisecond, Settle: time.Second, FreePercent: -1},
		})
	}
	awaitFound(t, soon, "workflow-stuck", "fleet/nobody", "for a worker with the queue nobody")
	awaitFound(t, soon, "queue-unattended", "nobody", "1 need it")
	awaitFound(t, soon, "workflow-stuck", "fleet/broken", "unable to find workflow type")
	awaitFound(t, soon, "workflow-stuck", "fleet/hung", "a worker with the queue hung has taken its next step and not answered")
	awaitFound(t, soon, "activity-failing", "job/no id", "Release has failed")
	awaitFound(t, soon, "entity-unknown", "job/no id", "it runs since")
	awaitFound(t, soon, "entity-differs", job, "is Stopped in the record, and Waiting for its entity")
	s.db(`UPDATE replication_jobs SET status = 'Waiting' WHERE job_id = $1`, job)

	// What does not answer is told of, and the rest is looked at.
	for _, p := range []*process.Process{s.NATS, s.Temporal} {
		p.Kill()
	}
	report, code = s.examine()
	require.Equal(t, 2, code)
	require.Len(t, report.NotSeen, 2, "%+v", report.NotSeen)
	require.Contains(t, report.Seen, "transition hosts")
	s.start(s.NATS, s.Temporal)
	require.Equal(t, 2, s.server(2, "doctor", "--output", "yaml").Code)
}

// db changes the database past its rules.
func (s *center) db(statement string, args ...any) {
	s.t.Helper()
	db, err := s.Database.Open()
	require.NoError(s.t, err)
	defer db.Close()
	_, err = db.ExecContext(within(s.t, slow), statement, args...)
	require.NoError(s.t, err)
}

// host returns the id of the transition host.
func (s *center) host() (id string) {
	s.t.Helper()
	db, err := s.Database.Open()
	require.NoError(s.t, err)
	defer db.Close()
	require.NoError(s.t, db.QueryRowContext(within(s.t, slow), `SELECT host_id FROM hosts`).Scan(&id))
	return id
}
