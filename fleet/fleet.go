// Package fleet describes a fleet: the manifest that an operator writes, and the status that the orchestrator reports.
// It knows nothing of how a fleet is run.
package fleet

import (
	"time"
)

// Fleet is a manifest that was read and checked.
type Fleet struct {
	Name  string `json:"name"`
	Waves []Wave `json:"waves"`
	// PollInterval is how often a migration asks the endpoint when no event comes. Default DefaultPollInterval.
	PollInterval time.Duration `json:"pollInterval,omitempty"`
}

// DefaultPollInterval is the safety net for lost events: minutes, since events are what a migration reacts to.
const DefaultPollInterval = 2 * time.Minute

// Wave is a step of a fleet. The next one begins when every migration of this one has ended, or rests between the runs of
// an incremental job with nothing to do but wait.
type Wave struct {
	Name string `json:"name"`
	// MaxConcurrent is how many jobs of the wave may be Running at once; 0 means no limit.
	MaxConcurrent int `json:"maxConcurrent,omitempty"`
	// MaxFailures is how many migrations of the wave may fail before the fleet pauses; nil means any number.
	MaxFailures *int     `json:"maxFailures,omitempty"`
	Servers     []Server `json:"servers"`
}

// Server names one source server, or several with Match, and says how they are migrated.
type Server struct {
	// Name is the source server's name.
	Name string `json:"name,omitempty"`
	// Match is a pattern for names (path.Match: * ? [a-z]). Servers named by another entry are left out.
	Match string `json:"match,omitempty"`
	// Parameters are those of CreateReplicationJob, flat and under the API's names: "DataDisk.1.Size".
	Parameters map[string]string `json:"parameters,omitempty"`
	Options
}

// Options are what the orchestrator decides about a migration, beside the parameters of its job.
type Options struct {
	// CutOver says when an incremental job is cut over by itself; nil means by hand.
	CutOver *CutOver `json:"cutover,omitempty"`
	// Window is when the job may be started; nil means at any time. It excludes the parameter ScheduledStartTime: one of
	// the two starts the job, never both.
	Window *Window `json:"window,omitempty"`
	// Retry says what is done about a job that is InError.
	Retry Retry `json:"retry"`
	// KeepJob leaves the finished job in place; by default it is deleted and its images stay.
	KeepJob bool `json:"keepJob,omitempty"`
}

// CutOver ends the rhythm of an incremental job.
type CutOver struct {
	// AfterRuns is the number of runs the job makes in all, at least 1. The last of them is the cutover's own, with the
	// newest data; with 1 the first run is also the last.
	AfterRuns int `json:"afterRuns"`
}

// Window is a time in which a job may be started.
type Window struct {
	// NotBefore is when it opens.
	NotBefore time.Time `json:"notBefore"`
	// NotAfter is when it closes; zero means never. A migration that could not start by then fails.
	NotAfter time.Time `json:"notAfter,omitzero"`
}

// Retry is how often, and how patiently, a job that is InError is started again.
type Retry struct {
	// Limit is how often in a row; 0 gives up at once. A run that succeeds starts the count anew.
	Limit int `json:"limit"`
	// Interval is the wait before the first; each further wait is twice as long, up to MaxInterval.
	Interval    time.Duration `json:"interval"`
	MaxInterval time.Duration `json:"maxInterval"`
}

// DefaultRetry gives up after about five minutes.
func DefaultRetry() Retry {
	return Retry{Limit: 5, Interval: 10 * time.Second, MaxInterval: 5 * time.Minute}
}

// Wait returns the wait before retry n, counted from 1.
func (r Retry) Wait(n int) time.Duration {
	wait := r.Interval
	for i := 1; i < n && wait > 0 && wait < r.MaxInterval; i++ {
		if wait > r.MaxInterval/2 {
			return r.MaxInterval
		}
		wait *= 2
	}
	return min(wait, r.MaxInterval)
}

// State is the state of a fleet as a whole.
type State string

// The states of a fleet.
const (
	Running               State = "Running"
	Paused                State = "Paused" // more failures than a wave allows: nothing new is started until it is resumed
	Completed             State = "Completed"
	CompletedWithFailures State = "CompletedWithFailures"
	Cancelled             State = "Cancelled"
)

// Phase is where a migration stands.
type Phase string

// The phases of a migration, in their order; the last three end it.
const (
	PhasePending     Phase = "Pending" // its wave has not begun
	PhasePreflight   Phase = "Preflight"
	PhaseCreating    Phase = "Creating"
	PhaseQueued      Phase = "Queued"    // waits for a slot
	PhaseScheduled   Phase = "Scheduled" // waits for its time
	PhaseStarting    Phase = "Starting"
	PhaseReplicate   Phase = "Replicating" // the job is Running
	PhaseBackoff     Phase = "Backoff"     // the job is InError and will be started again
	PhaseWaiting     Phase = "Waiting"     // between the runs of an incremental job
	PhaseCuttingOver Phase = "CuttingOver"
	PhaseVerifying   Phase = "Verifying"
	PhaseCleaningUp  Phase = "CleaningUp"
	PhaseCancelling  Phase = "Cancelling"
	PhaseDone        Phase = "Done"
	PhaseFailed      Phase = "Failed"
	PhaseCancelled   Phase = "Cancelled"
)

// Phases lists the phases of a migration.
func Phases() []Phase {
	return []Phase{
		PhasePending, PhasePreflight, PhaseCreating, PhaseQueued, PhaseScheduled, PhaseStarting, PhaseReplicate, PhaseBackoff,
		PhaseWaiting, PhaseCuttingOver, PhaseVerifying, PhaseCleaningUp, PhaseCancelling, PhaseDone, PhaseFailed, PhaseCancelled,
	}
}

// Ended reports whether a migration in this phase is over.
func (p Phase) Ended() bool { return p == PhaseDone || p == PhaseFailed || p == PhaseCancelled }

// Settled reports whether a wave need not wait for a migration in this phase.
func (p Phase) Settled() bool { return p.Ended() || p == PhaseWaiting }

// MigrationStatus is what is known of one migration.
type MigrationStatus struct {
	Name     string `json:"name"`
	SourceID string `json:"sourceId"`
	Wave     string `json:"wave"`
	Phase    Phase  `json:"phase"`
	// Status is the status of the job, as last seen; empty when there is none.
	Status  string `json:"status"`
	JobID   string `json:"jobId"`
	ImageID string `json:"imageId"`
	// Runs counts the runs that made an image.
	Runs int `json:"runs"`
	// Attempts counts the starts of the current run after it failed.
	Attempts int `json:"attempts"`
	// Error says why the migration failed, or what the last failure was.
	Error string `json:"error"`
	// Reason says what the migration waits for.
	Reason string `json:"reason,omitempty"`
	// Remains says what a cancelled or failed migration leaves behind.
	Remains string `json:"remains,omitempty"`
	// BytesRead and BytesSent are those of all runs, where the endpoint tells them.
	BytesRead int64 `json:"bytesRead,omitempty"`
	BytesSent int64 `json:"bytesSent,omitempty"`
	// StartedAt is the first start of the job, EndedAt the end of the migration.
	StartedAt time.Time `json:"startedAt,omitzero"`
	EndedAt   time.Time `json:"endedAt,omitzero"`
	// Verified says that the image was verified at the endpoint.
	Verified bool `json:"verified,omitempty"`
	// Images are the images of its runs that were seen, in order.
	Images []string `json:"images,omitempty"`
}

// Status is what is known of a fleet.
type Status struct {
	Name   string `json:"name"`
	Status State  `json:"status"`
	// Wave is the wave that is going on, or the last one.
	Wave string `json:"wave"`
	// Reason says why the fleet is Paused or waits.
	Reason  string            `json:"reason,omitempty"`
	Servers []MigrationStatus `json:"servers"`
}

// Counts returns how many migrations have ended well, failed, and not ended yet.
func (s Status) Counts() (done, failed, open int) {
	for _, server := range s.Servers {
		switch {
		case server.Phase == PhaseDone:
			done++
		case server.Phase.Ended():
			failed++
		default:
			open++
		}
	}
	return done, failed, open
}
