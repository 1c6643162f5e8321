package store

import (
	"time"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/smc"
)

// Job is one row of replication_jobs: a replication job that is not gone.
type Job struct {
	JobID, AccountID, RegionID string
	SourceID, Name, ImageName  string
	// Spec is the request that created the job, with defaults filled in.
	Spec                 smc.CreateReplicationJobRequest
	Status               smc.JobStatus
	BusinessStatus       smc.BusinessStatus // the phase reached, also while Stopped or InError
	Sequence             int64              // number of the job's last transition
	Lap                  int64              // number of the transition that started or resumed its current run; 0: not known
	Run                  int                // number of the current or last run, from 1; 0 before the first
	RunType              smc.RunType
	CutOver              CutOver
	HostID               string // transition host that holds the staging of the job; empty when released
	ImageID              string // of the last run
	Progress             float64
	ErrorCode            string
	StatusInfo           string
	CreatedAt, StartedAt time.Time
	EndedAt              time.Time
	ValidUntil           time.Time     // zero: never expires
	ScheduledStartAt     time.Time     // zero: started by hand
	GridPhase            time.Duration // shift of its grid, fixed at the first start
	GridThrough          time.Time     // points of the grid up to this time are dealt with
	Missed               Missed
	Queue                Queue     // where it waits for a running slot
	Runs                 []Run     // filled by JobPage and Job
	Trouble              Trouble   // what keeps a Running job from getting on; filled by JobPage and Job
	Tags                 []smc.Tag // filled by JobPage and Job
}

// RunOnce reports whether the job is a one-time job.
func (j *Job) RunOnce() bool { return j.Spec.RunsOnce() }

// Final reports whether the current run is the last one: a one-time job, or the last run of a cutover.
func (j *Job) Final() bool { return j.RunOnce() || j.CutOver != CutOverNone }

// CutOver is the intent of a CutOverReplicationJob call, kept until the job is Finished (CONTRACT: CutOver).
type CutOver string

// The intents.
const (
	CutOverNone     CutOver = ""
	CutOverSyncData CutOver = "sync" // one last run, then Finished
	CutOverAsIs     CutOver = "asis" // Finished with the images there are
)

// Run is one run of a job.
type Run struct {
	Number             int
	Type               smc.RunType
	Status             smc.RunStatus
	StartedAt, EndedAt time.Time
	ImageID            string
	BytesTotal         int64 // bytes of the source's disks
	BytesRead          int64 // of those, covered so far (holes count)
	BytesSent          int64 // on the wire: frames as coded, what was sent twice included
	BytesSentRaw       int64 // the same before compression
	Rate               int64 // bytes covered per second, lately
}

// Source is one row of source_servers.
type Source struct {
	SourceID, AccountID, RegionID string
	Name, Description             string
	State                         smc.SourceState
	ErrorCode, StatusInfo         string
	Server                        agentapi.Server // as the agent described it last
	HeartbeatAt, CreatedAt        time.Time
	Sequence                      int64
	JobID                         string // the latest job of the source
	WorkgroupID                   string // empty: in none
}

// Image is one row of images.
type Image struct {
	ImageID, AccountID, RegionID string
	ImageName, JobID, SourceID   string
	Run                          int
	HostID                       string
	Status                       smc.ImageStatus
	Disks                        []ImageDisk
	Container                    *ImageContainer // nil for an image of disks
	CreatedAt                    time.Time
	// Verification is empty, and VerifiedAt zero, until the image is verified; VerificationInfo says what is wrong with it.
	Verification     smc.ImageVerification
	VerificationInfo string
	VerifiedAt       time.Time
	InUseUntil       time.Time // somebody may read it until then
}

// ImageDisk describes one disk of an image.
type ImageDisk struct {
	Index              int
	SizeBytes          int64 // of the synced state, the source's size
	DeliveredSizeBytes int64
	Root               string // BLAKE3 over the grain hashes of the synced state, hex
}

// ImageContainer describes a container image.
type ImageContainer struct {
	Reference string // namespace/repository:tag
	Digest    string // of its manifest, sha256:…
	SizeBytes int64  // of its files
	LeftOut   []string
}

// AccessKey is a key pair that signs requests.
type AccessKey struct {
	AccessKeyID, Secret, AccountID string
	Description                    string
	Policy                         string // a policy document; empty: everything in the account is allowed
	Disabled                       bool
	CreatedAt                      time.Time

	stored string // the secret as the row has it, sealed or not; filled by Store.AccessKey
}

// AccessToken is an activation code's record; the code itself is not kept, only its hash.
type AccessToken struct {
	AccessTokenID, AccountID, RegionID string
	Name, Description                  string
	Count, RegisteredCount, TTLDays    int
	Disabled                           bool
	CreatedAt                          time.Time
}

// Status is what the activation code is good for at a time.
func (t *AccessToken) Status(now time.Time) smc.AccessTokenStatus {
	switch {
	case t.Disabled:
		return smc.AccessTokenUnactivated
	case now.After(t.CreatedAt.AddDate(0, 0, t.TTLDays)):
		return smc.AccessTokenExpired
	}
	return smc.AccessTokenActivated
}

// Host is a transition host.
type Host struct {
	HostID, URL string
	PrivateURL  string // by which agents of jobs with NetMode 2 reach it; empty: by URL
	HeartbeatAt time.Time
}

// Work is what the agent of a source should be doing; a zero JobID means nothing.
type Work struct {
	Generation int64
	JobID      string
	Run        int
	HostURL    string
	Parameters agentapi.Params
}

// JobDisk is one disk a job replicates.
type JobDisk struct {
	Index              int
	SizeBytes          int64 // at the source
	DeliveredSizeBytes int64 // of the delivered image
}

// Disks returns the disks a job replicates: the system disk and the data disks its request names (all, when it named
// none: CreateJob filled them in). A disk that the source no longer has is reported with the size 0.
func (j *Job) Disks(source *Source) []JobDisk {
	sizes := map[int]int64{}
	for _, disk := range source.Server.Disks {
		sizes[disk.Index] = disk.SizeBytes
	}
	disks := []JobDisk{{Index: 0, SizeBytes: sizes[0], DeliveredSizeBytes: int64(value(j.Spec.SystemDiskSize)) * gib}}
	for _, target := range j.Spec.DataDisk {
		disk := JobDisk{Index: *target.Index, SizeBytes: sizes[*target.Index]}
		disk.DeliveredSizeBytes = disk.SizeBytes
		if target.Size != nil {
			disk.DeliveredSizeBytes = int64(*target.Size) * gib
		}
		disks = append(disks, disk)
	}
	return disks
}
