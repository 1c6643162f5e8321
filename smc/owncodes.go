package smc

import (
	"slices"
	"strings"
	"time"
)

// OwnCode describes a code that no document of the vendor's names, or that a job can be InError with. docs/errors.md is
// written from these.
type OwnCode struct {
	// Code is one of the Code constants.
	Code string
	// Status is the HTTP status an answer with this code has.
	Status int
	Class  Class
	// Message is the default message.
	Message string
	// Cause says what has happened.
	Cause string
	// ByItself says what the center, the transition host and the agent do about it without being asked.
	ByItself string
	// ToDo says what a person has to do.
	ToDo string
	// InError says that a job can be InError with this code.
	InError bool
	// RetryFor is for how long a run goes on trying by itself before its job is InError. It counts from the first failure since
	// the last progress; 0 is not at all.
	RetryFor time.Duration
	// SyncAgain says that a run which is InError with the code syncs its disks again when it is started, wherever it was.
	SyncAgain bool
}

// DefaultSourceWait is how long a run that is Syncing waits for a source that is silent, unless the transition host was told
// otherwise.
const DefaultSourceWait = 30 * time.Minute

// DefaultTargetWait is how long a run that has an image to deliver waits for a target instance that is silent, unless the transition
// host was told otherwise.
const DefaultTargetWait = 30 * time.Minute

// OwnCodes returns the codes of our own and those a job can be InError with, sorted by code.
func OwnCodes() []OwnCode {
	list := slices.Clone(ownCodes)
	slices.SortFunc(list, func(a, b OwnCode) int { return strings.Compare(a.Code, b.Code) })
	return list
}

// RetryFor returns for how long a run goes on trying by itself when it fails with a code (see [OwnCode]). A code that no run
// fails with has no time.
func RetryFor(code string) time.Duration {
	for i := range ownCodes {
		if ownCodes[i].Code == code {
			return ownCodes[i].RetryFor
		}
	}
	return 0
}

// SyncAgain says whether a run that is InError with a code syncs its disks again when it is started (see [OwnCode]).
func SyncAgain(code string) bool {
	return slices.ContainsFunc(ownCodes, func(c OwnCode) bool { return c.Code == code && c.SyncAgain })
}

// withOwn adds the codes of our own to the table of codes.
func withOwn(table map[string]codeInfo) map[string]codeInfo {
	for _, c := range ownCodes {
		if _, known := table[c.Code]; !known {
			table[c.Code] = codeInfo{c.Status, c.Class, c.Message}
		}
	}
	return table
}

// What happens by itself, and what to do, in the words that several codes share.
const (
	nothingChanged = "Nothing: the request changed nothing."
	runRetries     = "The run tries again, first after a second and at most every minute. StatusInfo says what fails and since when. " +
		"When it has failed for the time below without progress, the job is InError. What was copied stays."
	runFails    = "The job is InError at once: trying again would not help. What was copied stays."
	startResume = "start the job. It goes on where it was."
	syncAgain   = "start the job. It sends what has changed since and makes the image of that."
)

// ownCodes is the one table of the codes of our own.
var ownCodes = []OwnCode{
	{
		Code: CodeInvalidJobIDNotFound, Status: 404, Class: Fatal, Message: "There is no such job.",
		Cause: "A request names a replication job that does not exist in the account, or not any more.", ByItself: nothingChanged,
		ToDo: "Look the id up with `drover job list`.",
	},
	{
		Code: CodeInvalidSourceIDNotFound, Status: 404, Class: Fatal, Message: "There is no such source server.",
		Cause:    "A request names a source server that does not exist in the account; or the source server of a job was deleted while the job ran.",
		ByItself: "A request changes nothing. A job that runs is InError.",
		ToDo:     "Look the id up with `drover source list`. Delete a job whose source is gone; its images stay.",
		InError:  true,
	},
	{
		Code: CodeInvalidWorkgroupIDNotFound, Status: 404, Class: Fatal, Message: "There is no such workgroup.",
		Cause: "A request names a workgroup that does not exist in the account.", ByItself: nothingChanged,
		ToDo: "Look the id up with `drover workgroup list`.",
	},
	{
		Code: CodeInvalidAccessTokenIDNotFound, Status: 404, Class: Fatal, Message: "There is no such activation code.",
		Cause: "A request names an activation code that does not exist in the account.", ByItself: nothingChanged,
		ToDo: "Look the id up with `drover token list`.",
	},
	{
		Code: CodeInvalidImageIDNotFound, Status: 404, Class: Fatal, Message: "There is no such image.",
		Cause:    "A request names an image that does not exist in the account. An incremental job deletes its earliest unused images.",
		ByItself: nothingChanged, ToDo: "Look the id up with `drover image list`.",
	},
	{
		Code: CodeInvalidInstanceIDNotFound, Status: 404, Class: Fatal, Message: "There is no such target instance.",
		Cause:    "A request names a target instance that does not exist in the account; or that of a job was removed from the record while the job ran.",
		ByItself: "A request changes nothing. A job that runs is InError.",
		ToDo: "Look the id up with `drover target list`. A machine becomes a target instance when `drover-agent target` registers on it. For a job whose target is gone: " +
			"delete it and make a new one.",
		InError: true,
	},
	{
		Code: CodeInvalidInstanceIDDiskMismatch, Status: 400, Class: Operator, Message: "The disks of the target instance do not take those of the job.",
		Cause: "A request names a target instance that lacks a disk of the job, or whose disk is smaller than that of the source or than the size asked for, or cannot be " +
			"opened there, or holds data that nobody gave leave to overwrite. The message names the disk.",
		ByItself: nothingChanged,
		ToDo: "Start `drover-agent target` with a --disk for each disk of the job, each at least as large; with --overwrite when what a disk holds may go. Or leave data disks " +
			"out with DataDisk, or ask for a smaller size. Then send the request again.",
	},
	{
		Code: CodeInvalidInstanceIDInUse, Status: 400, Class: Operator, Message: "An unfinished job migrates to the target instance.",
		Cause: "A request names a target instance that an unfinished job migrates to; the message names the job.", ByItself: nothingChanged,
		ToDo: "Wait for that job, or delete it; or register another target instance.",
	},
	{
		Code: CodeUnsupportedFeature, Status: 400, Class: Fatal, Message: "A self-hosted center does not offer this.",
		Cause:    "A parameter asks for what only the vendor's cloud has, or for what is not built yet, as a disk smaller than that of the source.",
		ByItself: "A request changes nothing. A run that finds it out, because a disk of the source grew meanwhile, makes its job InError.",
		ToDo:     "Leave the parameter out, or ask for what is offered (docs/api.md). For a disk that grew: delete the job and make one with larger disks.",
		InError:  true,
	},
	{
		Code: CodeUnsupportedHTTPMethod, Status: 405, Class: Fatal, Message: "Only GET and POST are served.",
		Cause: "A request to the endpoint has another HTTP method.", ByItself: nothingChanged, ToDo: "Send it with GET or POST.",
	},
	{
		Code: CodeQuotaExceededSourceServer, Status: 400, Class: Operator,
		Message: "The account has as many source servers as it may. Delete some or raise the quota.",
		Cause:   "An agent registered, and the account has as many source servers as its quota allows.", ByItself: nothingChanged,
		ToDo: "Delete source servers that are not needed, or raise the quota of the center, and start the agent again.",
	},
	{
		Code: CodeQuotaExceededTargetInstance, Status: 400, Class: Operator,
		Message: "The account has as many target instances as it may. Delete some or raise the quota.",
		Cause:   "A target registered, and the account has as many target instances as it may have source servers.", ByItself: nothingChanged,
		ToDo: "Delete target instances that are not needed (`drover target delete`), or raise the quota of the center, and start the target again.",
	},
	{
		Code: CodeTargetInstanceNameDuplicate, Status: 400, Class: Fatal, Message: "Another target instance has this name. Choose another.",
		Cause: "A target registered with a name that another target instance of the account has.", ByItself: "The target ends.",
		ToDo: "Start it with another --name, or with the --state folder it had; or delete the one that is gone (`drover target delete`).",
	},
	{
		Code: CodeInvalidPolicy, Status: 400, Class: Fatal, Message: "The policy document is not one an endpoint understands.",
		Cause: "The policy of an access key is not valid (docs/access.md).", ByItself: "No access key is made or changed.", ToDo: "Correct what the message names.",
	},
	{
		Code: CodeInvalidActivationCode, Status: 403, Class: Operator,
		Message: "The activation code is unknown, used up, disabled or expired. Make a new one.",
		Cause:   "An agent or a target registered with a code that is unknown, used up, disabled or expired.", ByItself: "It ends.",
		ToDo: "Make a code with `drover token create` and start it with that.",
	},
	{
		Code: CodeInvalidAgentToken, Status: 401, Class: Operator,
		Message:  "The agent is not known to this center. Register it again with an activation code.",
		Cause:    "The source server of the agent, or the target instance, was deleted, or it asks another center than the one it registered at.",
		ByItself: "It ends.", ToDo: "Correct its --endpoint; or remove its state and register it anew with an activation code.",
	},
	{
		Code: CodeSourceServerOffline, Status: 400, Class: Operator, Message: "The source server sends no heartbeat. Start its agent.",
		Cause: "The center has not heard of the agent of a source server for three heartbeats.",
		ByItself: "The source is Unavailable, and Available or InUse again with the next heartbeat. A run that is Syncing waits for it and says so in " +
			"StatusInfo; it goes on at once when the agent is back. When the agent stays away for the time below (--source-wait of the transition host), " +
			"the job is InError. A run that is in a later phase does not need the source.",
		ToDo:    "Start the agent, or mend its way to the center. Then, if the job is InError, " + startResume,
		InError: true, RetryFor: DefaultSourceWait,
	},
	{
		Code: CodeSourceServerUnreachable, Status: 400, Class: Operator,
		Message: "The agent of the source server does not reach the transition host. Open its way.",
		Cause: "The center hears the agent, and the transition host does not: a firewall, a wrong --transition-url or --transition-private-url, a proxy, or a certificate that the " +
			"agent does not trust.",
		ByItself: "The run waits as for a source that is offline, and says so in StatusInfo. When that lasts for the time below (--source-wait), the job is InError.",
		ToDo:     "From the source server, open a connection to the address in StatusInfo; the agent's log says what fails. Then, if the job is InError, " + startResume,
		InError:  true, RetryFor: DefaultSourceWait,
	},
	{
		Code: CodeSourceServerFailing, Status: 500, Class: Retryable,
		Message: "The agent of the source server fails. Look at its log.",
		Cause:   "The agent reported a failure that is none of its disks', or one that this center does not know: agent and center may be of different versions.",
		ByItself: "The agent attaches again and goes on. " +
			runRetries,
		ToDo:    "Look at the agent's log; bring agent and center to one version. Then " + startResume,
		InError: true, RetryFor: 10 * time.Minute,
	},
	{
		Code: CodeSourceServerDamagedData, Status: 500, Class: Operator,
		Message:  "What the source server sends arrives damaged, again and again.",
		Cause:    "Blocks do not have the hash they were sent with. A damaged line is rare under TLS: bad memory of the source server or of the transition host is more likely.",
		ByItself: "Damaged blocks are never stored. They are sent again, five times in a row; then the session ends. " + runRetries,
		ToDo:     "Test the memory of both machines and the network between them. Then " + startResume,
		InError:  true, RetryFor: 10 * time.Minute,
	},
	{
		Code: CodeSourceDiskReadError, Status: 500, Class: Operator,
		Message:  "A disk of the source server cannot be read. Repair it and start the job again.",
		Cause:    "Reading a disk of the source failed. StatusInfo names the disk, the byte, and the partition it lies in.",
		ByItself: "The agent reads the place again for 15 seconds. When that fails, the job is InError. What was copied stays.",
		ToDo: "Look at the source's kernel log. Mend the path to the disk, or repair the disk: rewrite or remap the bad sectors, or replace it by a copy. " +
			"Then " + startResume,
		InError: true,
	},
	{
		Code: CodeSourceDiskChanged, Status: 400, Class: Operator,
		Message:  "A disk of the source server is gone or has another size. Delete the job and make a new one.",
		Cause:    "A disk of the source is gone, or it is smaller than when the job was made, or it changed its size while it was read.",
		ByItself: "The job is InError. A run that begins waits 10 seconds before that for the agent to report another size. What was copied stays.",
		ToDo: "Start the agent with the disk again, or mend the disk, and start the job: agents report another size within 3 seconds. A disk that shrank for good " +
			"needs a new job.",
		InError: true,
	},
	{
		Code: CodeReplicationDiverged, Status: 500, Class: Operator,
		Message:  "Source server and transition host do not agree about a disk.",
		Cause:    "After five passes the two sides still hold other hashes of a disk. One of them does not read what was written.",
		ByItself: runFails,
		ToDo:     "Test memory and disks of both machines. Then " + startResume,
		InError:  true,
	},
	{
		Code: CodeRootFileSystemNotFound, Status: 400, Class: Operator,
		Message: "The system disk has no root file system to make a container image of. Ask for an Image.",
		Cause: "A job with TargetType ContainerImage has copied a system disk on which no partition, nor the disk as a whole, holds the root file system of a Linux server: " +
			"two of /etc/os-release, /sbin/init and /etc/fstab. Or several do, and not one alone calls itself the root in its /etc/fstab. StatusInfo says what there is.",
		ByItself: runFails,
		ToDo:     "Delete the job and make one with TargetType Image, or correct the partitions and their /etc/fstab at the source. Then " + syncAgain,
		InError:  true, SyncAgain: true,
	},
	{
		Code: CodeFileSystemUnsupported, Status: 400, Class: Operator,
		Message: "A file system of the source server cannot be read for a container image. Ask for an Image.",
		Cause: "The root file system, or one that its /etc/fstab mounts from the disks of the job, is not ext2, ext3 or ext4, or uses a feature of it that is not known; or " +
			"it is in LVM, RAID or LUKS. StatusInfo names it.",
		ByItself: runFails,
		ToDo: "Delete the job and make one with TargetType Image. Or leave the file system out: its data disk by DataDisk of a new job, or by the option noauto " +
			"in /etc/fstab of the source. Then " + syncAgain,
		InError: true, SyncAgain: true,
	},
	{
		Code: CodeFileSystemDamaged, Status: 500, Class: Operator,
		Message: "A file system of the source server contradicts itself. Start the job again when the server is quiet.",
		Cause: "A container image is made of files, and a file system does not hang together after its journal has been replayed: a checksum is wrong, or a " +
			"directory names what is not there. The server wrote to it while it was copied; or it is damaged at the source. StatusInfo says where.",
		ByItself: runFails,
		ToDo:     "Stop the services that write most, or freeze the file system, and " + syncAgain + " When that does not help, check the file system at the source (fsck).",
		InError:  true, SyncAgain: true,
	},
	{
		Code: CodeFileSystemFileUnsupported, Status: 400, Class: Operator,
		Message: "A file of the source server cannot be in a container image. Remove it or ask for an Image.",
		Cause: "A file cannot be in a layer as it is: its name begins with .wh., which would delete another; it is encrypted; it has an extended attribute with a = in its " +
			"name; it is sparse and larger than its file system; or its path is longer than Linux unpacks. StatusInfo names it.",
		ByItself: runFails,
		ToDo:     "Remove or rename the file at the source. Then " + syncAgain + " Or delete the job and make one with TargetType Image.",
		InError:  true, SyncAgain: true,
	},
	{
		Code: CodeTransitionHostNoSpace, Status: 500, Class: Operator,
		Message: "The transition host has too little room. Free some and start the job again.",
		Cause: "Before it starts, a run compares what it has yet to store with what is free, less what the other runs on the same host have yet to store. " +
			"StatusInfo gives the figures. Or the space ran out in the middle of a run.",
		ByItself: "The job is InError at once. Staging and images stay as they are.",
		ToDo:     "Free as much as StatusInfo says, by deleting images (`drover image delete`), jobs that are not needed or other files, or enlarge the file system. Then " + startResume,
		InError:  true,
	},
	{
		Code: CodeTransitionHostStorageError, Status: 500, Class: Operator,
		Message:  "The transition host cannot read or write its store.",
		Cause:    "The file system of the transition host's --data answers with an error. StatusInfo names the file and the error.",
		ByItself: runRetries + " An error that no retry mends, a file system that is read-only or denies access, makes the job InError at once.",
		ToDo:     "Look at the kernel log of the transition host, mend the disk or the file system. Then " + startResume,
		InError:  true, RetryFor: 10 * time.Minute,
	},
	{
		Code: CodeTransitionHostUnavailable, Status: 500, Class: Retryable, Message: "No transition host takes the work.",
		Cause: "The transition host that holds the staging of the job is down, hung or cut off from Temporal; or it died again and again in the middle of " +
			"the work. At a start: that host has not reported within 30 seconds, or, for a job that has no staging yet, no host has.",
		ByItself: "A start that was asked for is refused; one by ScheduledStartTime or of the grid waits for the host, and a queued job is passed over until it is back. A run waits for its host, says so in StatusInfo, and goes on when the host is back. When that lasts for the time below, " +
			"the job is InError. Its staging stays on that host, so no other takes the run over.",
		ToDo:    "Start the worker with the role transition and the same --data. Then, if the job is InError, " + startResume,
		InError: true, RetryFor: 30 * time.Minute,
	},
	{
		Code: CodeTargetInstanceOffline, Status: 400, Class: Operator, Message: "Nothing is heard of the target instance. Start drover-agent target on it.",
		Cause: "A run has made its image and is to deliver it, and the center hears nothing of the target instance.",
		ByItself: "The run waits for it in Processing and says so in StatusInfo; it goes on at once when the target is back, and what its disks hold already is not transferred again. " +
			"When the target stays away for the time below (--target-wait of the transition host), the job is InError. The image is there.",
		ToDo:    "Start `drover-agent target` on it with the same --state, or mend its way to the center. Then, if the job is InError, " + startResume,
		InError: true, RetryFor: DefaultTargetWait,
	},
	{
		Code: CodeTargetInstanceDiskFailed, Status: 500, Class: Operator, Message: "A disk of the target instance does not take the image.",
		Cause: "A disk of the target is gone, in use, smaller than it was or than the image; it holds data that nobody gave leave to overwrite; or it fails to take or to keep what " +
			"is written. StatusInfo has the words of the target.",
		ByItself: runFails + " The image is there.",
		ToDo: "Do what StatusInfo says: unmount or replace the disk, or start `drover-agent target` with --overwrite. Then " + startResume + " A disk that is smaller for good needs a new job; " +
			"`drover image export` fetches the image meanwhile.",
		InError: true,
	},
	{
		Code: CodeTargetInstanceImageUnavailable, Status: 500, Class: Operator, Message: "The target instance does not get the image from the transition host.",
		Cause: "The target reports to the center, and what it asks the transition host for it does not get: a firewall, a wrong --transition-url, a proxy, a certificate that it does not " +
			"trust, or an image that the host cannot read.",
		ByItself: runRetries,
		ToDo: "From the target, open a connection to the address in its log; its log says what fails. `drover image verify` tells whether the image is whole. Then, if the job is InError, " +
			startResume,
		InError: true, RetryFor: DefaultTargetWait,
	},
	{
		Code: CodeImageVerificationFailed, Status: 500, Class: Operator, Message: "The image does not hold the bytes it should.",
		Cause:    "Before an image is made, and when it is verified, every block is read back and compared with its hash. One is not what was received.",
		ByItself: runFails + " No image is made. The damaged blocks are marked.",
		ToDo: "Test disk and memory of the transition host. Then start the job: it sends the damaged blocks anew. " +
			"An image that no longer passes its verification: use another one.",
		InError: true, SyncAgain: true,
	},
	{
		Code: CodeInternalError, Status: 500, Class: Retryable,
		Message: "The request failed inside the center. Send it again; if it keeps failing, look up the request id in the log.",
		Cause:   "A failure that has no code of its own: a defect; of a run also that the database is away.",
		ByItself: "A request may be sent again. " + runRetries + " While the database is away the run waits for it however long: nobody could be told " +
			"anything else.",
		ToDo:    "Look up the job or the request id in the logs of server and workers. Then " + startResume,
		InError: true, RetryFor: 30 * time.Minute,
	},
	{
		Code: CodeServiceUnavailable, Status: 503, Class: Retryable, Message: "The endpoint is not available.",
		Cause: "Something in front of the endpoint answered in its place, as a proxy does while the center starts. Or the endpoint answered itself: a request " +
			"that moves a job was not taken by the job's workflow in time, or the database does not answer. Whether it was carried out is not known then.",
		ByItself: "The client sends the request again, a few times, with the same ClientToken: what was carried out is not done twice.",
		ToDo: "Look whether drover-server runs, whether the proxy knows where, and what `/readyz` of drover-server says. When the message names a job: whether a drover-worker with the role center runs, " +
			"and what `drover doctor` says.",
	},
	{
		Code: CodeInvalidAnswer, Status: 502, Class: Operator, Message: "The answer is not one of this API. Check the endpoint's address.",
		Cause: "What answered does not speak this API.", ByItself: "Nothing.", ToDo: "Check the endpoint's address.",
	},
}
