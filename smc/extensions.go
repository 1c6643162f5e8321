package smc

// Operations of ours, outside the vendor's API: same endpoint, same signature, marked as extensions.
var (
	// RunReplicationJob makes one run of an incremental job in Waiting now; the grid stays as it is.
	RunReplicationJob = declare[RunReplicationJobRequest, RunReplicationJobResult]("RunReplicationJob", extension,
		answers(CodeInvalidJobIDNotFound, CodeReplicationJobInvalidStatus, CodeSourceServerStateInvalid, CodeTransitionHostUnavailable))
	// DescribeReplicationJobDetails shows the live progress of one job.
	DescribeReplicationJobDetails = declare[DescribeReplicationJobDetailsRequest, DescribeReplicationJobDetailsResult]("DescribeReplicationJobDetails", extension, reads,
		answers(CodeInvalidJobIDNotFound))
	// DescribeImages lists images, newest first.
	DescribeImages = declare[DescribeImagesRequest, DescribeImagesResult]("DescribeImages", extension, reads)
	// GetImageTicket gives a short-lived permission to read an image at its transition host, which keeps the image until then.
	GetImageTicket = declare[GetImageTicketRequest, GetImageTicketResult]("GetImageTicket", extension,
		answers(CodeInvalidImageIDNotFound))
	// DeleteImage deletes an image, also one that somebody has a ticket for. Its transition host removes it within 10 minutes, or when nobody reads it any
	// more; it is Deleting until then.
	DeleteImage = declare[DeleteImageRequest, DeleteImageResult]("DeleteImage", extension, answers(CodeInvalidImageIDNotFound))
)

// RunReplicationJobRequest names the job.
type RunReplicationJobRequest struct {
	JobID string `smc:"JobId,required"`
	// ClientToken makes the request idempotent: however often it is sent, there is one run. The client sets one when there is none.
	ClientToken *string `smc:"ClientToken,maxlen=64,rule=ascii"`
}

// RunReplicationJobResult says nothing but that it is done.
type RunReplicationJobResult struct{ Answer }

// DescribeReplicationJobDetailsRequest names the job.
type DescribeReplicationJobDetailsRequest struct {
	JobID string `smc:"JobId,required"`
}

// DescribeReplicationJobDetailsResult is the live detail of a job. Byte figures are of the current run, or of
// the last one when none is going.
type DescribeReplicationJobDetailsResult struct {
	Answer
	JobID          string         `json:"JobId"`
	Status         JobStatus      `json:"Status"`
	BusinessStatus BusinessStatus `json:"BusinessStatus"`
	// Run is the number of the current or last run, from 1; 0 before the first.
	Run int `json:"Run"`
	// Progress is in percent.
	Progress float64 `json:"Progress"`
	// BytesTotal is the size of all disks of the source.
	BytesTotal int64 `json:"BytesTotal"`
	// BytesRead is how far the disks were read, holes counted as read.
	BytesRead int64 `json:"BytesRead"`
	// BytesSent is what went over the wire, compressed, repeated attempts included.
	BytesSent int64 `json:"BytesSent"`
	// BytesPerSecond is the recent rate at which the disks are read.
	BytesPerSecond int64 `json:"BytesPerSecond"`
	// EtaSeconds is how long the phase will take at that rate; -1 when that cannot be said.
	EtaSeconds int64        `json:"EtaSeconds"`
	Runs       List[JobRun] `json:"Runs"`
	ErrorCode  string       `json:"ErrorCode"`
	StatusInfo string       `json:"StatusInfo"`
	// Sequence is the number of the job's last transition.
	Sequence int64 `json:"Sequence"`
}

// JobRun is a run of a job in detail.
type JobRun struct {
	// Number counts from 1.
	Number    int     `json:"Number"`
	Type      RunType `json:"Type"`
	StartTime string  `json:"StartTime"`
	// EndTime is empty while the run goes on.
	EndTime   string `json:"EndTime"`
	ImageID   string `json:"ImageId"`
	BytesRead int64  `json:"BytesRead"`
	// BytesSent is what went over the wire.
	BytesSent int64 `json:"BytesSent"`
	// BytesSentRaw is what BytesSent was before compression.
	BytesSentRaw    int64     `json:"BytesSentRaw"`
	DurationSeconds float64   `json:"DurationSeconds"`
	Status          RunStatus `json:"Status"`
}

func (JobRun) itemName() string { return "Run" }

// RunStatus is the status of a run.
type RunStatus string

// The statuses of runs.
const (
	RunRunning   RunStatus = "Running"
	RunStopped   RunStatus = "Stopped"
	RunFailed    RunStatus = "Failed"
	RunSucceeded RunStatus = "Succeeded"
)

// DescribeImagesRequest filters images; filters that are given must all match.
type DescribeImagesRequest struct {
	ImageID    []string `smc:"ImageId,list=50,filter"`
	JobID      *string  `smc:"JobId"`
	Name       *string  `smc:"Name,maxlen=256"`
	PageNumber *int     `smc:"PageNumber,min=1,max=2147483647,default=1"`
	PageSize   *int     `smc:"PageSize,min=1,max=50,default=10"`
}

// DescribeImagesResult is a page of images.
type DescribeImagesResult struct {
	Answer
	Page
	Images List[Image] `json:"Images"`
}

// ImageStatus is the status of an image.
type ImageStatus string

// The statuses of images.
const (
	ImageCreating  ImageStatus = "Creating"
	ImageAvailable ImageStatus = "Available"
	ImageDeleting  ImageStatus = "Deleting"
)

// ImageVerification is the outcome of an image's last verification.
type ImageVerification string

// The outcomes of verifications.
const (
	VerificationPassed    ImageVerification = "Passed"
	VerificationNotPassed ImageVerification = "NotPassed"
)

// Image is an image that a run delivered.
type Image struct {
	ImageID   string `json:"ImageId"`
	ImageName string `json:"ImageName"`
	JobID     string `json:"JobId"`
	SourceID  string `json:"SourceId"`
	// Run is the number of the run that made it, from 1.
	Run          int         `json:"Run"`
	Status       ImageStatus `json:"Status"`
	CreationTime string      `json:"CreationTime"`
	RegionID     string      `json:"RegionId"`
	// HostID is the transition host that holds the image.
	HostID string `json:"HostId"`
	// TargetType is Image or ContainerImage.
	TargetType TargetType `json:"TargetType"`
	// SizeBytes is the sum of the delivered sizes of its disks, or of the files of a container image.
	SizeBytes int64 `json:"SizeBytes"`
	// Disks are none for a container image.
	Disks List[ImageDisk] `json:"Disks"`
	// ContainerReference is what a container image is called, namespace/repository:tag; empty for another.
	ContainerReference string `json:"ContainerReference"`
	// ContainerDigest names the manifest of a container image, as sha256:….
	ContainerDigest string `json:"ContainerDigest"`
	// ContainerInfo says what of the server is not in a container image, and why, a line each.
	ContainerInfo string `json:"ContainerInfo"`
	// Verification is Passed or NotPassed, as the transition host found when the image was verified last; empty when it never was.
	Verification ImageVerification `json:"Verification"`
	// VerificationTime is when that was.
	VerificationTime string `json:"VerificationTime"`
	// VerificationInfo says what is wrong with an image that did not pass.
	VerificationInfo string `json:"VerificationInfo"`
}

func (Image) itemName() string { return "Image" }

// ImageDisk is a disk of an image.
type ImageDisk struct {
	// Index is 0 for the system disk.
	Index int `json:"Index"`
	// SizeBytes is the size of the synced state, which is the size at the source.
	SizeBytes int64 `json:"SizeBytes"`
	// DeliveredSizeBytes is the size of the delivered disk.
	DeliveredSizeBytes int64 `json:"DeliveredSizeBytes"`
	// Root is the hash, in hexadecimal, over the grain hashes of the synced state.
	Root string `json:"Root"`
}

func (ImageDisk) itemName() string { return "Disk" }

// GetImageTicketRequest names the image.
type GetImageTicketRequest struct {
	ImageID string `smc:"ImageId,required"`
}

// GetImageTicketResult says where and how to read the image.
type GetImageTicketResult struct {
	Answer
	ImageID string `json:"ImageId"`
	// URL is the base of the transition host's HTTP API.
	URL string `json:"Url"`
	// Token is a bearer token for this image alone.
	Token string `json:"Token"`
	// ExpirationTime is when the token ends.
	ExpirationTime string          `json:"ExpirationTime"`
	Disks          List[ImageDisk] `json:"Disks"`
}

// DeleteImageRequest names the image.
type DeleteImageRequest struct {
	ImageID string `smc:"ImageId,required"`
}

// DeleteImageResult says nothing but that it is done.
type DeleteImageResult struct{ Answer }
