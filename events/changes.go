package events

// JobChange says what a transition of a job was. Several leave the Status as it is; so whoever wants to know what happened
// reads this, and whoever wants to know how things are reads the Status. More of them may come: take one you do not know for a
// reason to look at the rest of the event.
type JobChange string

// The transitions of a job.
const (
	// JobCreated is a job that CreateReplicationJob made.
	JobCreated JobChange = "Created"
	// JobQueued is a start over the account's quota of running jobs: the Status stays and the job waits for its turn. A queued job
	// that is asked for in another way, such as a cutover, has another one.
	JobQueued JobChange = "Queued"
	// JobWithdrawn is a queued start that was taken back by a stop, or by another ScheduledStartTime.
	JobWithdrawn JobChange = "Withdrawn"
	// JobStarted is the beginning of a run.
	JobStarted JobChange = "Started"
	// JobResumed is a run that goes on where it was stopped or failed.
	JobResumed JobChange = "Resumed"
	// JobPhase is a run that came to its next phase, the BusinessStatus.
	JobPhase JobChange = "Phase"
	// JobStopped is a run that was stopped.
	JobStopped JobChange = "Stopped"
	// JobFailed is a run that failed for good: ErrorCode says why and StatusInfo what to do.
	JobFailed JobChange = "Failed"
	// JobRested is a run that ended well and is not the last: the job is Waiting for the next.
	JobRested JobChange = "Rested"
	// JobMissed is a point of the rhythm that passed while the start due before it waited for the source server or for a transition
	// host: StatusInfo says for what, and how many were missed. Points that were missed otherwise, because a run went on or the
	// center was down, are told by the next Rested or Started.
	JobMissed JobChange = "Missed"
	// JobModified is a change of what the job is to do, or of its name.
	JobModified JobChange = "Modified"
	// JobFinished is the end of the last run, or a cutover without one.
	JobFinished JobChange = "Finished"
	// JobExpired is a job whose ValidTime passed.
	JobExpired JobChange = "Expired"
	// JobDeleting is a job that is being deleted: it was asked for, or it has been Expired for 7 days.
	JobDeleting JobChange = "Deleting"
	// JobDeleted is the last event of a job: it is gone.
	JobDeleted JobChange = "Deleted"
	// JobRestored is a job as a restored center knows it, after which the stream had later events.
	JobRestored JobChange = "Restored"
)

// SourceChange says what a transition of a source server was; see [JobChange].
type SourceChange string

// The transitions of a source server.
const (
	// SourceRegistered is a source server whose agent registered for the first time.
	SourceRegistered SourceChange = "Registered"
	// SourceTaken is a source server of which a job began to run.
	SourceTaken SourceChange = "Taken"
	// SourceFreed is a source server of which no job runs any more.
	SourceFreed SourceChange = "Freed"
	// SourceOffline is a source server that was not heard of for three heartbeats.
	SourceOffline SourceChange = "Offline"
	// SourceBack is a source server that is heard of again.
	SourceBack SourceChange = "Back"
	// SourceModified is another name or description.
	SourceModified SourceChange = "Modified"
	// SourceDeleting is a source server that is being deleted, after its jobs.
	SourceDeleting SourceChange = "Deleting"
	// SourceDeleted is the last event of a source server: it is gone.
	SourceDeleted SourceChange = "Deleted"
	// SourceRestored is a source server as a restored center knows it, after which the stream had later events.
	SourceRestored SourceChange = "Restored"
)

// Deleted is the Status of a job, and the State of a source server, in its last event. No API call shows it.
const Deleted = "Deleted"
