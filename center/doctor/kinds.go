package doctor

import "slices"

// Severity says how much a finding matters.
type Severity string

// The severities. What is of Info needs nobody: it goes by itself, or is good to know.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
	Info    Severity = "info"
)

// Kind is something that the doctor finds. docs/operations.md lists all of them.
type Kind struct {
	Name     string
	Severity Severity
	// Means says what it means when this is found, Do what to do about it. In a finding, THING stands for its thing.
	Means, Do string
}

func kindOf(name string) Kind {
	i := slices.IndexFunc(kinds, func(k Kind) bool { return k.Name == name })
	return kinds[i] // a test holds every name against the table
}

// The names of the kinds.
const (
	secretKey         = "secret-key"
	schemaBehind      = "schema-behind"
	schemaAhead       = "schema-ahead"
	restored          = "restored"
	backupUnknown     = "backup-unknown"
	backupOld         = "backup-old"
	certificateEnds   = "certificate-ends"
	processMissing    = "process-missing"
	versionsMixed     = "versions-mixed"
	agentVersion      = "agent-version"
	clockSkew         = "clock-skew"
	hostOffline       = "host-offline"
	hostNotSwept      = "host-not-swept"
	diskLow           = "disk-low"
	orphan            = "orphan"
	orphanStuck       = "orphan-stuck"
	orphanUnknown     = "orphan-unknown"
	imageLost         = "image-lost"
	sessionStray      = "session-stray"
	sourceOffline     = "source-offline"
	targetOffline     = "target-offline"
	jobInError        = "job-in-error"
	jobInTrouble      = "job-in-trouble"
	jobQueued         = "job-queued"
	jobNotAdmitted    = "job-not-admitted"
	eventsWaiting     = "events-waiting"
	eventsGap         = "events-gap"
	eventsNotInStream = "events-not-in-stream"
	consumerStalled   = "consumer-stalled"
	queueUnattended   = "queue-unattended"
	workflowStuck     = "workflow-stuck"
	activityFailing   = "activity-failing"
	entityMissing     = "entity-missing"
	entityUnknown     = "entity-unknown"
	entityDiffers     = "entity-differs"
)

var kinds = []Kind{
	{
		secretKey, Error, "The secret key file is missing, open to others, or does not have the key that the database is sealed with. No process of the center can start.",
		"Give the file back from where you keep its copy; `chmod 0600` it when it is open to others.",
	},
	{
		schemaBehind, Warning, "The database's tables are older than this program: no process of this version has opened the database yet. What else is in it is not looked at.",
		"Go on with the upgrade: start one process of this version; it brings the tables up to date.",
	},
	{
		schemaAhead, Error, "The database's tables are newer than this program. What else is in it is not looked at.",
		"Run the doctor, and all processes, of the version that runs already.",
	},
	{
		restored, Error, "The database was restored from a backup and is not in line with Temporal and the stream yet. Servers refuse to start, workers wait.",
		"`drover-server rebuild`",
	},
	{
		backupUnknown, Info, "The database knows of no backup taken by Drover.",
		"`drover-server backup --to FOLDER --data FOLDER`, unless you back up by other means.",
	},
	{
		backupOld, Warning, "The last backup taken by Drover is more than 7 days old.",
		"Look why it is no longer taken: run `drover-server backup` as the timer does.",
	},
	{
		certificateEnds, Warning, "A certificate ends soon, or has ended. After that, agents and clients refuse the connection.",
		"Own authority: `drover-server ca add`, and days later `ca use` and `ca drop`. A certificate file: renew it; it is read again by itself.",
	},
	{
		processMissing, Error, "No process of this sort has reported itself in the last 90 seconds.",
		"Start it. When it runs, look in its log why it does not reach the database.",
	},
	{
		versionsMixed, Warning, "Processes of different versions work on one database. That is right during an upgrade, and not for long.",
		"Restart those of the older version with the new binaries: workers, then servers.",
	},
	{
		agentVersion, Warning, "An agent, or a target instance, has another version than the servers.",
		"Install the center's version of `drover-agent` there and restart it. What is copied stays.",
	},
	{
		clockSkew, Warning, "A clock is more than 5 seconds off. Schedules and time-outs are judged by several clocks; requests that are 15 minutes off are refused.",
		"Synchronize that machine's clock: `timedatectl set-ntp true`, or chrony.",
	},
	{
		hostOffline, Error, "A transition host has not reported itself in the last 30 seconds. Its jobs wait for it; its images cannot be exported.",
		"Start its worker with the same `--data`, or restart the one that hangs. One that is gone for good, with its disk: put another in its place; docs/operations.md, A transition host that is gone.",
	},
	{
		hostNotSwept, Warning, "A transition host that is there has not looked for what belongs to nothing for more than an hour.",
		"Look in its worker's log for `sweep`.",
	},
	{
		diskLow, Warning, "The volume of a transition host is nearly full. Runs whose data does not fit are InError with TransitionHost.NoSpace.",
		"Make room: `drover image delete`, lower MaxNumberOfImageToKeep of its jobs, look at what `orphan-unknown` lists, or enlarge the volume.",
	},
	{
		orphan, Info, "A transition host has something on its disk that nobody can want any more.",
		"Nothing: the host removes it when its time of grace is over (`--orphan-grace`, an hour).",
	},
	{
		orphanStuck, Warning, "What nobody can want any more is on a transition host's disk for more than a day: it could not be removed.",
		"Look in its worker's log for `sweep`; look at the permissions and the health of the volume.",
	},
	{
		orphanUnknown, Warning, "A transition host has staging or an image that the record knows nothing of: it came after the backup that the record was restored from, or somebody put it there. It may be the only copy, and stays.",
		"Copy what you need of it. Then: `drover doctor --remove THING`",
	},
	{
		imageLost, Error, "An image is in the record, and its files are gone or cannot be read.",
		"Where it is in a backup: stop the host's worker, `drover-server restore --images-only --image THING --from BACKUP --data FOLDER`, start it again. Where it is in none: `drover doctor --remove THING`, and the record forgets it.",
	},
	{
		sessionStray, Warning, "A sync session or a delivery is open, or room on a host reserved, for a job that does not run.",
		"Servers release it within 5 minutes; `drover doctor --fix` does so at once.",
	},
	{
		sourceOffline, Warning, "A source server with an unfinished job is Unavailable. Its runs wait for it, or are missed.",
		"Start its agent: `systemctl start drover-agent` there; its log says what fails.",
	},
	{
		targetOffline, Warning, "A target instance that an unfinished job migrates to is Unavailable. Runs make their images and wait for it to deliver them.",
		"Start `drover-agent target` there with the same `--state`; its log says what fails.",
	},
	{
		jobInError, Error, "A job has failed and waits for a person.",
		"Do what its StatusInfo and docs/errors.md say of the code. Then: `drover job start THING`",
	},
	{
		jobInTrouble, Warning, "A Running job has not got on for more than 10 minutes. It goes on trying by itself.",
		"Do what its StatusInfo says: `drover job show THING`",
	},
	{
		jobQueued, Warning, "A job has waited for a running slot for more than an hour.",
		"Wait, raise `--running-quota`, or stop a job that matters less: `drover job stop JOB`",
	},
	{
		jobNotAdmitted, Error, "A job's turn has come, and its entity does not take it. Its slot is held for it meanwhile.",
		"See `entity-missing`, `workflow-stuck` and `queue-unattended`; with none of them: `drover-server rebuild --replace`",
	},
	{
		eventsWaiting, Error, "Events have waited for more than a minute to be published. Jobs go on; consumers learn of it late.",
		"Start a drover-server, and NATS; the server's log says what fails (`relay`).",
	},
	{
		eventsGap, Error, "The numbers of a resource's events have a gap, or a number comes twice. That is a defect.",
		"Keep a backup as it is now and report it. Consumers: read the resource from the API.",
	},
	{
		eventsNotInStream, Error, "The stream lacks events that were published: it was deleted, or restored from an older copy.",
		"`drover events replay --from beginning`",
	},
	{
		consumerStalled, Warning, "A durable consumer has had events to read for more than 10 minutes and has not got on.",
		"Start the program that reads it, or look in its log. One that nobody needs any more: `nats consumer rm STREAM CONSUMER`",
	},
	{
		queueUnattended, Error, "No worker asks for the work of a task queue.",
		"Start `drover-worker` with the role: center; transition, with the host's `--data`; or orchestrator.",
	},
	{
		workflowStuck, Error, "A workflow's code fails, or no worker takes the workflow's next step, or one takes it and hangs.",
		"With no failure: see `queue-unattended`, or restart the worker that does not answer. With a failure: put the version back that ran before; docs/operations.md, When a replay fails.",
	},
	{
		activityFailing, Warning, "A step of a workflow has failed ten times or more and is tried again.",
		"The message says what fails. It goes on by itself when that is mended.",
	},
	{
		entityMissing, Error, "A job has no entity in Temporal: nothing moves it.",
		"Servers start it within seconds where none was started. One that was ended from outside: `drover doctor --fix`, or `drover-server rebuild`",
	},
	{
		entityUnknown, Warning, "There is an entity in Temporal whose job is not in the record. It cannot move anything.",
		"`temporal workflow terminate --workflow-id THING`",
	},
	{
		entityDiffers, Error, "An entity takes its job to have another status than the record.",
		"`drover-server rebuild --replace` starts all entities from the record, while everything runs.",
	},
}
