package workflows

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/events"
	"github.com/drover/drover/smc"
)

// How many events of an entity's history each thing it does takes at most, the workflow task that follows included.
// TestHistoriesAreNoLongerThanCounted holds them against the recorded histories.
const (
	eventsOfStart    = 5 // started, and the first task; the last event
	eventsOfActivity = 6 // scheduled, started, completed; a task
	eventsOfTimer    = 5 // started, fired or canceled; a task
	eventsOfChild    = 9 // initiated, started, completed; a task each
	eventsOfUpdate   = 8 // a task, accepted; completed, a task
)

// historyCount is an upper bound of the length of an entity's history.
type historyCount struct{ activities, timers, children, updates int }

func (c historyCount) events() int {
	return eventsOfStart + c.activities*eventsOfActivity + c.timers*eventsOfTimer + c.children*eventsOfChild + c.updates*eventsOfUpdate
}

// The bound that the ninety days are counted by is one: no recorded history of an entity is longer.
func TestHistoriesAreNoLongerThanCounted(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "*-entity*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		var recorded struct{ Events []struct{ EventType string } }
		require.NoError(t, json.Unmarshal(text, &recorded))
		var count historyCount
		for _, event := range recorded.Events {
			switch strings.TrimPrefix(event.EventType, "EVENT_TYPE_") {
			case "ACTIVITY_TASK_SCHEDULED":
				count.activities++
			case "TIMER_STARTED":
				count.timers++
			case "START_CHILD_WORKFLOW_EXECUTION_INITIATED":
				count.children++
			case "WORKFLOW_EXECUTION_UPDATE_ACCEPTED":
				count.updates++
			}
		}
		assert.LessOrEqual(t, len(recorded.Events), count.events(), "%s: %+v", file, count)
	}
}

// follow runs the entity of a job from a time on, through its runs, each continued as the next, on one clock and one store,
// until it ends. Their histories are as long as the entity's activities, timers, children and updates make them; follow
// returns the lengths.
func (r *record) follow(start time.Time, begin func(*scenario)) (lengths []int) {
	r.t.Helper()
	for input := r.input(); ; {
		s := newScenarioOf(r, input)
		s.env.SetStartTime(start)
		var count historyCount
		grown := func() { s.env.SetCurrentHistoryLength(count.events()) }
		s.env.SetOnActivityStartedListener(func(info *activity.Info, _ context.Context, _ converter.EncodedValues) {
			if info.Attempt == 1 && !slices.Contains(oneRun, info.ActivityType.Name) { // those are of the run's history
				count.activities++
				grown()
			}
			s.started(info)
		})
		s.env.SetOnTimerScheduledListener(func(string, time.Duration) { count.timers++; grown() })
		s.env.SetOnChildWorkflowStartedListener(func(*workflow.Info, workflow.Context, converter.EncodedValues) { count.children++; grown() })
		if begin != nil {
			begin(s)
			count.updates++
			begin = nil
		}
		s.env.ExecuteWorkflow(ReplicationJob, input)
		require.True(r.t, s.env.IsWorkflowCompleted())
		lengths = append(lengths, count.events())
		start = s.env.Now()
		err := s.env.GetWorkflowError()
		if err == nil {
			return lengths
		}
		input = requireContinuesAsNew(r.t, err)
	}
}

// A user makes an incremental job with Frequency 12, starts it, and does not think of it again.
func TestIncrementalNinetyDays(t *testing.T) {
	const keep, runs = 3, 180
	created := time.Now().UTC().Truncate(time.Second)
	r := newRecord(t, 12, func(spec *smc.CreateReplicationJobRequest) {
		name, keep, until := "golden", keep, smc.FormatTime(created.Add(90*day))
		spec.ImageName, spec.MaxNumberOfImageToKeep, spec.ValidTime = &name, &keep, &until
	})
	first := created.Add(time.Minute)
	lengths := r.follow(created, func(s *scenario) { s.update(time.Minute, UpdateStart) })
	require.Nil(t, r.job(), "it is cleared")
	t.Logf("the entity had %d runs, the longest of %d events", len(lengths), slices.Max(lengths))
	for _, length := range lengths {
		require.LessOrEqual(t, length, 200)
	}

	var started, waiting int
	var ends []events.JobStatusChanged
	for _, change := range r.changes() {
		switch {
		case change.Status == string(smc.StatusRunning) && change.PreviousStatus != string(smc.StatusRunning):
			require.WithinDuration(t, first.Add(time.Duration(started)*12*time.Hour), change.Time, time.Second, "run %d", started+1)
			started++
			require.Equal(t, started, change.Run)
			require.Equal(t, started == 1, change.RunType == string(smc.RunManual))
			require.Empty(t, change.StatusInfo, "no point was missed")
		case change.Status == string(smc.StatusWaiting):
			waiting++
		case change.Status != string(smc.StatusReady) && change.Status != string(smc.StatusRunning):
			ends = append(ends, change)
		}
	}
	require.Equal(t, runs, started)
	require.Equal(t, runs, waiting)
	require.Len(t, ends, 3)
	for i, want := range []struct {
		status smc.JobStatus
		at     time.Time
	}{{smc.StatusExpired, created.Add(90 * day)}, {smc.StatusDeleting, created.Add(97 * day)}, {"Deleted", created.Add(97 * day)}} {
		require.Equal(t, string(want.status), ends[i].Status)
		require.WithinDuration(t, want.at, ends[i].Time, time.Second)
	}

	images, total, err := r.Images(t.Context(), testAccount, store.ImageFilter{JobID: r.jobID}, store.Page{Number: 1, Size: 50})
	require.NoError(t, err)
	require.Equal(t, keep, total, "the newest stay, also when their job is gone")
	for i, image := range images {
		require.Equal(t, fmt.Sprintf("golden_CYCLE_%d", runs-i), image.ImageName)
	}
	require.Equal(t, slices.Repeat([]int{keep}, runs-keep), r.kept[keep:], "after every run")
	require.Equal(t, []int{1, 2, 3}, r.kept[:keep])
}
