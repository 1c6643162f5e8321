package workflows

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/worker"
)

// recordedScenarios are the jobs whose histories are in testdata, and how many children did a run, or a part of one, in each:
// <scenario>-entity.json, -entity-2.json and so on when the entity continued as new, and <scenario>-run-<n>.json. TestRecord
// writes them.
var recordedScenarios = map[string]int{
	"one-time": 1, "stopped-and-resumed": 2, "in-error-and-resumed": 2, "incremental-with-cutover": 3, "continued-as-new": 0,
	// The times of a job.
	"scheduled": 1, "schedule-modified": 1, "schedule-cleared": 0,
	"grid": 2, "grid-missed": 2, "grid-modified": 2, "source-away": 2,
	"expired-ready": 0, "expired-stopped": 1, "expired-in-error": 1, "expired-waiting": 1, "valid-time-modified": 1,
	// Runs that fail, in each of their phases, and that wait. TestRecordTroubles writes them.
	"no-space-and-resumed": 2, "processing-failed-and-resumed": 2, "cleaning-failed-and-resumed": 2,
	"source-silent-and-back": 1, "source-offline-and-resumed": 2, "host-away-and-back": 1,
	// A start over the running quota. TestRecordQueued writes it.
	"queued": 1,
	// The ends of a job.
	"cutover-as-is": 1, "cutover-failed": 3, "cutover-stopped": 3,
	"deleted": 1, "deleted-ready": 0, "deleted-in-error": 1, "deleted-waiting": 1, "deleted-finished": 1, "deleted-expired": 0,
}

// history is how the file of a job's history is called.
var history = regexp.MustCompile(`^(.+)-(entity|run)(-[0-9]+)?\.json$`)

// recordedMigrations are the migrations and fleets whose histories are in testdata. TestRecordMigrations writes them.
var recordedMigrations = []string{
	"migration-one-time", "migration-incremental-with-cutover", "migration-in-error-retried", "migration-in-error-given-up",
	"migration-cancelled", "fleet-two-waves", "fleet-cancelled",
}

// A workflow that was started by an earlier version goes on with this one: every recorded history is replayed.
func TestReplay(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "*.json"))
	require.NoError(t, err)
	runs, entities := map[string]int{}, map[string]int{}
	for _, file := range files {
		name := filepath.Base(file)
		switch part := history.FindStringSubmatch(name); {
		case part == nil:
			assert.Contains(t, recordedMigrations, strings.TrimSuffix(name, ".json"), "no scenario has this history")
		case part[2] == "entity":
			entities[part[1]]++
		default:
			runs[part[1]]++
		}
	}
	for scenario, n := range recordedScenarios {
		assert.Positive(t, entities[scenario], "the scenario %s has no history of its entity in testdata", scenario)
		assert.Equal(t, n, runs[scenario], "the scenario %s has not as many histories of runs in testdata", scenario)
	}
	for scenario := range entities {
		assert.Contains(t, recordedScenarios, scenario, "no scenario has this history")
	}
	for _, name := range recordedMigrations {
		assert.Contains(t, files, filepath.Join("testdata", name+".json"))
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			replayer := worker.NewWorkflowReplayer()
			replayer.RegisterWorkflow(ReplicationJob)
			replayer.RegisterWorkflow(ReplicationRun)
			replayer.RegisterWorkflow(Migration)
			replayer.RegisterWorkflow(Fleet)
			require.NoError(t, replayer.ReplayWorkflowHistoryFromJSONFile(testLogger{t}, file))
		})
	}
}
