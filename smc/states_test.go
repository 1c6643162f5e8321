package smc

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestAllowed walks every trigger through every status and phase. The expectation is written out here once more,
// from the document, so that a slip in the table shows.
func TestAllowed(t *testing.T) {
	allowed := map[Trigger]string{
		TriggerStart:           "Ready Stopped InError",
		TriggerStop:            "Running/Syncing",
		TriggerCutOver:         "Waiting",
		TriggerRun:             "Waiting",
		TriggerDelete:          "Ready Stopped Waiting InError Finished Expired",
		TriggerModifyName:      "Ready Running/* Stopped Waiting InError Finished Expired Deleting",
		TriggerModifyRhythm:    "Ready Waiting",
		TriggerModifyValidTime: "Ready Running/* Stopped InError Waiting",
		TriggerModifyOther:     "Ready",
		TriggerSchedule:        "Ready Waiting",
		TriggerFail:            "Running/*",
		TriggerDone:            "Running/Cleaning",
		TriggerExpire:          "Ready Stopped InError Waiting",
	}
	if len(allowed) != len(transitions) {
		t.Fatalf("the table has %d rows, %d are expected here", len(transitions), len(allowed))
	}
	for trigger, list := range allowed {
		ok := strings.Fields(list)
		for _, status := range JobStatuses() {
			for _, phase := range BusinessStatuses() {
				name := string(status)
				want := slices.Contains(ok, name)
				wantCode := CodeReplicationJobInvalidStatus
				if status == StatusRunning {
					name += "/" + string(phase)
					want = slices.Contains(ok, name) || slices.Contains(ok, "Running/*")
					if strings.Contains(list, "Running/") {
						wantCode = CodeReplicationJobInvalidBusinessStatus
					}
				}
				err := Allowed(trigger, JobState{Status: status, BusinessStatus: phase})
				switch {
				case want && err != nil:
					t.Errorf("%s in %s: %v", trigger, name, err)
				case !want && CodeOf(err) != wantCode:
					t.Errorf("%s in %s: got %v, want %s", trigger, name, err, wantCode)
				}
			}
		}
	}
}

func TestAllowedSaysWhatIsAndWhatMustBe(t *testing.T) {
	for _, c := range []struct {
		by    Trigger
		state JobState
		want  string
	}{
		{TriggerStart, JobState{Status: StatusWaiting}, "ReplicationJob.InvalidStatus: Start is refused: the job is Waiting; it must be Ready, Stopped or InError"},
		{
			TriggerStop,
			JobState{Status: StatusRunning, BusinessStatus: BusinessCleaning},
			"ReplicationJob.InvalidBusinessStatus: Stop is refused: the job is Running and Cleaning; it must be Syncing",
		},
		{TriggerCutOver, JobState{Status: StatusReady}, "ReplicationJob.InvalidStatus: CutOver is refused: the job is Ready; it must be Waiting"},
	} {
		if got := fmt.Sprint(Allowed(c.by, c.state)); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func TestQueuedJobs(t *testing.T) {
	queued := JobState{Status: StatusReady, Queued: true}
	for trigger, want := range map[Trigger]string{
		TriggerStop:     "",
		TriggerDelete:   "",
		TriggerStart:    "",
		TriggerRun:      CodeReplicationJobInvalidStatus,
		TriggerCutOver:  CodeReplicationJobInvalidStatus,
		TriggerSchedule: "",
	} {
		if got := CodeOf(Allowed(trigger, queued)); got != want {
			t.Errorf("%s on a queued job: %q, want %q", trigger, got, want)
		}
	}
}

func TestUnfinished(t *testing.T) {
	for _, s := range JobStatuses() {
		want := s != StatusFinished && s != StatusDeleting
		if Unfinished(s) != want {
			t.Errorf("Unfinished(%s) = %v", s, !want)
		}
	}
}

func TestTransitionsAreACopy(t *testing.T) {
	rows := Transitions()
	if len(rows) != len(transitions) {
		t.Fatalf("%d rows, want %d", len(rows), len(transitions))
	}
	rows[0].From[0] = "Broken"
	if Transitions()[0].From[0] == "Broken" {
		t.Error("a caller can change the table")
	}
}

func TestParseTargetType(t *testing.T) {
	for text, want := range map[string]TargetType{
		"": TargetImage, "Image": TargetImage, "image": TargetImage, "CONTAINERIMAGE": TargetContainerImage,
		"Instance": TargetInstance, "targetInstance": TargetInstance,
	} {
		if got, err := ParseTargetType(text); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
	if _, err := ParseTargetType("Disk"); CodeOf(err) != CodeInvalidParameter {
		t.Errorf("Disk: %v", err)
	}
}
