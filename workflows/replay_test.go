package workflows

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/worker"

	"github.com/drover/drover/test/changed"
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

// releases has the histories of each release, in a folder of its version.
var releases = filepath.Join("testdata", "releases")

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
	released, err := filepath.Glob(filepath.Join(releases, "*", "*.json"))
	require.NoError(t, err)
	for _, file := range append(files, released...) {
		name, err := filepath.Rel("testdata", strings.TrimSuffix(file, ".json"))
		require.NoError(t, err)
		t.Run(name, func(t *testing.T) { require.NoError(t, replay(t, file)) })
	}
}

// replay replays a history with the workflows of now, changed by interceptors.
func replay(t *testing.T, file string, interceptors ...interceptor.WorkerInterceptor) error {
	t.Helper()
	replayer, err := worker.NewWorkflowReplayerWithOptions(worker.WorkflowReplayerOptions{Interceptors: interceptors})
	require.NoError(t, err)
	for _, definition := range []any{ReplicationJob, ReplicationRun, Migration, Fleet} {
		replayer.RegisterWorkflow(definition)
	}
	return replayer.ReplayWorkflowHistoryFromJSONFile(testLogger{t}, file)
}

// TestReplay finds a change that open workflows would not survive, in a history of every workflow, and takes the same change when it
// is made with workflow.GetVersion.
func TestReplayFindsChanges(t *testing.T) {
	for _, history := range []string{"one-time-entity", "stopped-and-resumed-run-1", "migration-one-time", "fleet-two-waves"} {
		t.Run(history, func(t *testing.T) {
			file := filepath.Join("testdata", history+".json")
			err := replay(t, file, changed.Unguarded())
			require.ErrorContains(t, err, "TMPRL1100") // the SDK's number of nondeterminism
			require.NoError(t, replay(t, file, changed.Guarded()))
		})
	}
}

// Histories of a release are those of workflows that are open somewhere: every release has them, and they stay as they were.
func TestReleasesHaveTheirHistories(t *testing.T) {
	changelog, err := os.ReadFile(filepath.Join("..", "CHANGELOG.md"))
	require.NoError(t, err)
	var want []string
	for _, heading := range regexp.MustCompile(`(?m)^## \[?(v?[0-9][^\s\]]*)`).FindAllSubmatch(changelog, -1) {
		want = append(want, string(heading[1]))
	}
	have, err := os.ReadDir(releases)
	if !errors.Is(err, fs.ErrNotExist) {
		require.NoError(t, err)
	}
	var kept []string
	for _, release := range have {
		kept = append(kept, release.Name())
	}
	require.ElementsMatch(t, want, kept, "the releases of CHANGELOG.md, and the folders of their histories: make freeze RELEASE=version makes one")
	for _, release := range kept {
		dir := filepath.Join(releases, release)
		sums, err := os.ReadFile(filepath.Join(dir, "SHA256SUMS"))
		require.NoError(t, err)
		listed := 0
		for line := range strings.Lines(string(sums)) {
			sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
			text, err := os.ReadFile(filepath.Join(dir, name))
			require.NoError(t, err)
			require.Equal(t, sum, fmt.Sprintf("%x", sha256.Sum256(text)), "%s of release %s was changed: what was released is never recorded again", name, release)
			listed++
		}
		files, err := filepath.Glob(filepath.Join(dir, "*.json"))
		require.NoError(t, err)
		require.Len(t, files, listed, "SHA256SUMS of release %s has them all", release)
		require.NotEmpty(t, files, "release %s", release)
	}
}
