package smc

import (
	"slices"
	"strings"
	"time"
)

// JobStatus is the main status of a replication job.
type JobStatus string

// The statuses of a job.
const (
	StatusReady    JobStatus = "Ready"
	StatusRunning  JobStatus = "Running"
	StatusStopped  JobStatus = "Stopped"
	StatusWaiting  JobStatus = "Waiting"
	StatusInError  JobStatus = "InError"
	StatusFinished JobStatus = "Finished"
	StatusExpired  JobStatus = "Expired"
	StatusDeleting JobStatus = "Deleting"
)

// JobStatuses lists every JobStatus.
func JobStatuses() []JobStatus {
	return []JobStatus{
		StatusReady, StatusRunning, StatusStopped, StatusWaiting,
		StatusInError, StatusFinished, StatusExpired, StatusDeleting,
	}
}

// Unfinished reports whether a job of this status holds its source: a source has at most one such job
// (CONTRACT: Unfinished). A job being deleted holds it no longer.
func Unfinished(s JobStatus) bool {
	switch s {
	case StatusReady, StatusRunning, StatusStopped, StatusWaiting, StatusInError, StatusExpired:
		return true
	case StatusFinished, StatusDeleting:
		return false
	}
	return false
}

// BusinessStatus is the phase of a run; it has a meaning while the job is Running.
type BusinessStatus string

// The phases of a run, in their order.
const (
	BusinessPreparing  BusinessStatus = "Preparing"
	BusinessSyncing    BusinessStatus = "Syncing"
	BusinessProcessing BusinessStatus = "Processing"
	BusinessCleaning   BusinessStatus = "Cleaning"
)

// BusinessStatuses lists the phases of a run in their order.
func BusinessStatuses() []BusinessStatus {
	return []BusinessStatus{BusinessPreparing, BusinessSyncing, BusinessProcessing, BusinessCleaning}
}

// SourceState is the state of a source server.
type SourceState string

// The states of a source server. It is InUse while a job of it is Running.
const (
	SourceUnavailable SourceState = "Unavailable"
	SourceAvailable   SourceState = "Available"
	SourceInUse       SourceState = "InUse"
	SourceDeleting    SourceState = "Deleting"
)

const (
	// HeartbeatRate is the interval of an agent's heartbeats.
	HeartbeatRate = 30 * time.Second
	// OfflineAfter is how long a source may be silent before it is Unavailable with SourceServer.Offline.
	OfflineAfter = 3 * HeartbeatRate
)

// RunType says what began a run.
type RunType string

// The types of runs. A run begun by StartReplicationJob, CutOverReplicationJob or RunReplicationJob is Manual;
// one begun by ScheduledStartTime or by the grid of an incremental job is Schedule.
const (
	RunManual   RunType = "Manual"
	RunSchedule RunType = "Schedule"
)

// TargetType is what a job delivers.
type TargetType string

// The target types.
const (
	TargetImage          TargetType = "Image"
	TargetContainerImage TargetType = "ContainerImage"
	TargetInstance       TargetType = "TargetInstance"
)

// ParseTargetType reads a target type in any case; "Instance" is the older name of TargetInstance, and an empty
// text is Image (CONTRACT: TargetType).
func ParseTargetType(s string) (TargetType, error) {
	switch strings.ToLower(s) {
	case "", "image":
		return TargetImage, nil
	case "containerimage":
		return TargetContainerImage, nil
	case "targetinstance", "instance":
		return TargetInstance, nil
	}
	return "", Errorf(CodeInvalidParameter, "TargetType: %s is not allowed; it must be Image, ContainerImage or TargetInstance", quote(s))
}

// Trigger is what moves a job from one status to another.
type Trigger string

// Triggers that a client sends.
const (
	TriggerStart   Trigger = "Start"
	TriggerStop    Trigger = "Stop"
	TriggerCutOver Trigger = "CutOver"
	TriggerDelete  Trigger = "Delete"
	// TriggerRun is the manual run of an incremental job, an extension outside the vendor's API.
	TriggerRun Trigger = "Run"
	// The parts of Modify differ in when they are allowed. They move no job.
	TriggerModifyName      Trigger = "Modify Name or Description"
	TriggerModifyRhythm    Trigger = "Modify Frequency or MaxNumberOfImageToKeep"
	TriggerModifyValidTime Trigger = "Modify ValidTime"
	TriggerModifyOther     Trigger = "Modify"
)

// Triggers that come from the job itself or from time.
const (
	TriggerSchedule Trigger = "Schedule" // ScheduledStartTime or a point of the grid is reached
	TriggerFail     Trigger = "Fail"     // a phase fails for good
	TriggerDone     Trigger = "Done"     // the last phase of a run is done
	TriggerExpire   Trigger = "Expire"   // ValidTime passes
)

// Transition is one row of the table of job states.
type Transition struct {
	By Trigger
	// From are the statuses the trigger is allowed in.
	From []JobStatus
	// Phases narrows Running to these phases; empty means any.
	Phases []BusinessStatus
	// To are the statuses the job may go to. Empty means it keeps its status.
	To []JobStatus
}

// transitions is the table of CONTRACT "Jobs: states", the only place that knows it.
var transitions = []Transition{
	{By: TriggerStart, From: []JobStatus{StatusReady, StatusStopped, StatusInError}, To: []JobStatus{StatusRunning}},
	{By: TriggerStop, From: []JobStatus{StatusRunning}, Phases: []BusinessStatus{BusinessSyncing}, To: []JobStatus{StatusStopped}},
	{By: TriggerCutOver, From: []JobStatus{StatusWaiting}, To: []JobStatus{StatusRunning, StatusFinished}},
	{By: TriggerRun, From: []JobStatus{StatusWaiting}, To: []JobStatus{StatusRunning}},
	{
		By:   TriggerDelete,
		From: []JobStatus{StatusReady, StatusStopped, StatusWaiting, StatusInError, StatusFinished, StatusExpired},
		To:   []JobStatus{StatusDeleting},
	},
	{By: TriggerModifyName, From: JobStatuses()},
	{By: TriggerModifyRhythm, From: []JobStatus{StatusReady, StatusWaiting}},
	{By: TriggerModifyValidTime, From: []JobStatus{StatusReady, StatusRunning, StatusStopped, StatusInError, StatusWaiting}},
	{By: TriggerModifyOther, From: []JobStatus{StatusReady}},

	{By: TriggerSchedule, From: []JobStatus{StatusReady, StatusWaiting}, To: []JobStatus{StatusRunning}},
	{By: TriggerFail, From: []JobStatus{StatusRunning}, To: []JobStatus{StatusInError}},
	{
		By: TriggerDone, From: []JobStatus{StatusRunning}, Phases: []BusinessStatus{BusinessCleaning},
		To: []JobStatus{StatusFinished, StatusWaiting},
	},
	{
		By:   TriggerExpire,
		From: []JobStatus{StatusReady, StatusStopped, StatusInError, StatusWaiting},
		To:   []JobStatus{StatusExpired},
	},
}

// Transitions returns a copy of the table of job states.
func Transitions() []Transition {
	rows := slices.Clone(transitions)
	for i := range rows {
		rows[i].From = slices.Clone(rows[i].From)
		rows[i].Phases = slices.Clone(rows[i].Phases)
		rows[i].To = slices.Clone(rows[i].To)
	}
	return rows
}

// JobState is as much of a job as decides what may be done to it.
type JobState struct {
	Status         JobStatus
	BusinessStatus BusinessStatus
	// Queued: the job was started and waits for a running slot in its resting Status. Stop and Delete withdraw it; what its
	// Status allows is allowed, and another start leaves it where it is (CONTRACT: Over the running quota).
	Queued bool
}

// QueuedInfo is how a center's StatusInfo of a job begins that is queued: started over its account's running quota, and waiting
// in its resting Status (CONTRACT: Over the running quota). The vendor's contract has no field for it.
const QueuedInfo = "queued to run"

// Allowed reports whether the trigger is allowed in the state, as an error that says which status the job has
// and which ones are allowed: ReplicationJob.InvalidStatus, or ReplicationJob.InvalidBusinessStatus when only
// the phase is wrong. It is pure, so a workflow's update validator may call it.
func Allowed(by Trigger, s JobState) error {
	if s.Queued && by == TriggerStop {
		return nil
	}
	for _, row := range transitions {
		if row.By != by {
			continue
		}
		if !slices.Contains(row.From, s.Status) {
			return Errorf(CodeReplicationJobInvalidStatus, "%s is refused: the job is %s; it must be %s", by, s.Status, orList(row.From))
		}
		if s.Status == StatusRunning && len(row.Phases) > 0 && !slices.Contains(row.Phases, s.BusinessStatus) {
			return Errorf(CodeReplicationJobInvalidBusinessStatus, "%s is refused: the job is Running and %s; it must be %s", by, s.BusinessStatus, orList(row.Phases))
		}
		return nil
	}
	return Errorf(CodeReplicationJobInvalidStatus, "%s is not a thing one can do to a job", by)
}

// orList renders "A", "A or B", "A, B or C".
func orList[S ~string](items []S) string {
	switch len(items) {
	case 0:
		return ""
	case 1:
		return string(items[0])
	}
	texts := make([]string, len(items))
	for i, item := range items {
		texts[i] = string(item)
	}
	last := len(texts) - 1
	return strings.Join(texts[:last], ", ") + " or " + texts[last]
}
