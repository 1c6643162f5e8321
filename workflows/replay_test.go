package workflows

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/worker"
)

// recordedScenarios are the jobs whose histories are in testdata: <scenario>-entity.json and, for every child that did a
// run or a part of it, <scenario>-run-<n>.json. TestRecord writes them.
var recordedScenarios = []string{"one-time", "stopped-and-resumed", "in-error-and-resumed", "incremental-with-cutover", "deleted"}

// recordedMigrations are the migrations and fleets whose histories are in testdata. TestRecordMigrations writes them.
var recordedMigrations = []string{
	"migration-one-time", "migration-incremental-with-cutover", "migration-in-error-retried", "migration-in-error-given-up",
	"migration-cancelled", "fleet-two-waves", "fleet-cancelled",
}

// A workflow that was started by an earlier version goes on with this one: every recorded history is replayed.
func TestReplay(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "*.json"))
	require.NoError(t, err)
	for _, scenario := range recordedScenarios {
		var entity, runs int
		for _, file := range files {
			switch name := filepath.Base(file); {
			case name == scenario+"-entity.json":
				entity++
			case strings.HasPrefix(name, scenario+"-run-"):
				runs++
			}
		}
		assert.Equal(t, 1, entity, "the scenario %s has no history of its entity in testdata", scenario)
		assert.Positive(t, runs, "the scenario %s has no history of a run in testdata", scenario)
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
