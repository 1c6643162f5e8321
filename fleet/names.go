package fleet

import (
	"strings"

	"github.com/drover/drover/smc"
)

// maxJobName is the most characters a name may have, of jobs as of source servers (CONTRACT: Jobs: parameters).
const maxJobName = 128

// JobName is the name of a migration's job: <fleet>:<server>, or <fleet>:<SourceId> when a job cannot be called that:
// it would be too long, or the endpoint allows names of servers that it does not allow for jobs. Events carry the name of
// their job, so the fleet in it and the SourceId lead from an event to its migration with no table between.
func JobName(fleet, server, sourceID string) string {
	name := fleet + ":" + server
	if smc.CheckName("Name", name) != nil {
		return fleet + ":" + sourceID
	}
	return name
}

// OfJob returns the fleet that a job of this name belongs to; ok is false for a job that no fleet made.
func OfJob(jobName string) (fleet string, ok bool) {
	fleet, _, ok = strings.Cut(jobName, ":")
	return fleet, ok && namePattern.MatchString(fleet)
}

// WorkflowID is the id of a fleet's workflow.
func WorkflowID(fleet string) string { return "fleet/" + fleet }

// MigrationID is the id of the workflow of one server's migration.
func MigrationID(fleet, sourceID string) string { return "migration/" + fleet + "/" + sourceID }

// Names that clients and workflows share.
const (
	// Queue is the task queue of fleets, of migrations and of their activities.
	Queue = "orchestrator"
	// WorkflowType is the type of a fleet's workflow.
	WorkflowType = "Fleet"
	// QueryStatus asks a fleet for its Status, a migration for its MigrationStatus.
	QueryStatus = "status"
	// SignalJobChanged tells a migration of a JobChanged.
	SignalJobChanged = "job-changed"
	// SignalCutOver asks a migration to cut its incremental job over as soon as it rests.
	SignalCutOver = "cut-over"
	// UpdateResume has a Paused fleet go on; its argument is a ResumeRequest.
	UpdateResume = "resume"
)

// JobChanged is what an event says of a migration's job.
type JobChanged struct {
	JobID string `json:"jobId"`
	// Sequence numbers the transitions of the job; a change that is not newer is old news.
	Sequence  uint64 `json:"sequence"`
	Status    string `json:"status"`
	ErrorCode string `json:"errorCode,omitempty"`
}

// ResumeRequest has a Paused fleet go on.
type ResumeRequest struct {
	// RetryFailed migrates the failed servers again; otherwise they stay failed.
	RetryFailed bool `json:"retryFailed"`
}
