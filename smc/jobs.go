package smc

import "time"

// Operations on replication jobs.
var (
	// CreateReplicationJob makes a job, in status Ready.
	CreateReplicationJob = declare[CreateReplicationJobRequest, CreateReplicationJobResult]("CreateReplicationJob",
		answers(CodeInvalidSourceIDNotFound, CodeSourceServerStateInvalid, CodeReplicationJobDataDiskIndexInvalid, CodeDataDiskDuplicateIndex, CodeReplicationJobNameDuplicate, CodeImageNameUsedByReplicationJob, CodeVSwitchIDVpcIDMismatch, CodeInvalidSecurityGroupIncorrectNetwork, CodeInvalidSecurityGroupVPCMismatch, CodeInvalidOsMigrationTypeNotMatched, CodeQuotaExceededReplicationJob, CodeIdempotentParameterMismatch, CodeInvalidParameterTagValue, CodeEntityNotExistRole, CodeRealNameAuthenticationError, CodeUnsupportedFeature,
			CodeInvalidInstanceIDNotFound, CodeInvalidInstanceIDDiskMismatch, CodeInvalidInstanceIDInUse))
	// DescribeReplicationJobs lists jobs, newest first.
	DescribeReplicationJobs = declare[DescribeReplicationJobsRequest, DescribeReplicationJobsResult]("DescribeReplicationJobs", reads)
	// ModifyReplicationJobAttribute changes a job; what may change depends on its status.
	ModifyReplicationJobAttribute = declare[ModifyReplicationJobAttributeRequest, ModifyReplicationJobAttributeResult]("ModifyReplicationJobAttribute",
		answers(CodeInvalidJobIDNotFound, CodeReplicationJobInvalidStatus, CodeReplicationJobInvalidBusinessStatus, CodeDataDiskDuplicateIndex, CodeReplicationJobDataDiskIndexInvalid, CodeReplicationJobNameDuplicate, CodeImageNameUsedByReplicationJob, CodeVSwitchIDVpcIDMismatch, CodeInvalidOsMigrationTypeNotMatched, CodeUnsupportedFeature,
			CodeInvalidInstanceIDNotFound, CodeInvalidInstanceIDDiskMismatch, CodeInvalidInstanceIDInUse))
	// StartReplicationJob starts a job or resumes it.
	StartReplicationJob = declare[StartReplicationJobRequest, StartReplicationJobResult]("StartReplicationJob",
		answers(CodeInvalidJobIDNotFound, CodeReplicationJobInvalidStatus, CodeSourceServerStateInvalid, CodeTransitionHostUnavailable))
	// StopReplicationJob stops a job that is Syncing.
	StopReplicationJob = declare[StopReplicationJobRequest, StopReplicationJobResult]("StopReplicationJob",
		answers(CodeInvalidJobIDNotFound, CodeReplicationJobInvalidStatus, CodeReplicationJobInvalidBusinessStatus))
	// CutOverReplicationJob ends a Waiting incremental job, with or without a last run.
	CutOverReplicationJob = declare[CutOverReplicationJobRequest, CutOverReplicationJobResult]("CutOverReplicationJob",
		answers(CodeInvalidJobIDNotFound, CodeReplicationJobInvalidStatus, CodeReplicationJobInvalidBusinessStatus, CodeSourceServerStateInvalid, CodeTransitionHostUnavailable))
	// DeleteReplicationJob deletes a job that is not Running; its images stay.
	DeleteReplicationJob = declare[DeleteReplicationJobRequest, DeleteReplicationJobResult]("DeleteReplicationJob",
		answers(CodeInvalidJobIDNotFound, CodeReplicationJobInvalidStatus))
	// CreateCrossZoneMigrationJob moves instances between zones of the vendor's cloud; only the vendor can.
	CreateCrossZoneMigrationJob = declare[CreateCrossZoneMigrationJobRequest, CreateCrossZoneMigrationJobResult]("CreateCrossZoneMigrationJob",
		answers(CodeUnsupportedFeature))
)

// Limits of jobs (CONTRACT: Jobs: parameters).
const (
	// MinDiskSizeGiB is how small a disk of an image may be: smaller ones of the source grow to it.
	MinDiskSizeGiB   = 20
	MaxDataDisks     = 16
	MinValidity      = 7 * 24 * time.Hour
	MaxValidity      = 90 * 24 * time.Hour
	DefaultValidity  = 30 * 24 * time.Hour
	MaxScheduleAhead = 30 * 24 * time.Hour
	// ExpiredRetention is how long an Expired job is kept before it is cleared.
	ExpiredRetention = 7 * 24 * time.Hour
)

// CreateReplicationJobRequest describes a job. Only RegionId and SourceId are required.
type CreateReplicationJobRequest struct {
	RegionID string `smc:"RegionId,required"`
	// ClientToken makes the request idempotent for 7 days; the client sets one when there is none.
	ClientToken *string `smc:"ClientToken,maxlen=64,rule=ascii"`
	// Name is unique among the account's jobs.
	Name        *string `smc:"Name,rule=name"`
	Description *string `smc:"Description,rule=name"`
	SourceID    string  `smc:"SourceId,required"`
	// TargetType is Image, ContainerImage or TargetInstance, in any case.
	TargetType *string `smc:"TargetType,maxlen=64,default=Image"`
	// ScheduledStartTime is in the future and within 30 days; absent means started by hand only.
	ScheduledStartTime *string `smc:"ScheduledStartTime,rule=time"`
	// ValidTime lies 7 to 90 days after the creation. Sent empty it means that the job never expires.
	ValidTime *string `smc:"ValidTime,alias=VaildTime,rule=time,default=30 days after the creation"`
	ImageName *string `smc:"ImageName,rule=name,default=<name of the source>_<JobId>"`
	// InstanceID is the target instance that a TargetInstance job migrates to.
	InstanceID *string `smc:"InstanceId"`
	// SystemDiskSize is in GiB. Absent, a TargetInstance job takes the target's disk as it is.
	SystemDiskSize *int    `smc:"SystemDiskSize,min=20,max=2048,default=the size at the source and at least 20"`
	VpcID          *string `smc:"VpcId"`
	VSwitchID      *string `smc:"VSwitchId"`
	// ReplicationParameters is a JSON object with the keys bandwidth_limit, compress_level and checksum.
	ReplicationParameters *string `smc:"ReplicationParameters,maxlen=2048"`
	// NetMode is 0 (default) or 2, which needs VSwitchID.
	NetMode *int `smc:"NetMode,enum=0|2,default=0"`
	// RunOnce is true by default. False makes the job incremental and needs Frequency and MaxNumberOfImageToKeep.
	RunOnce *bool `smc:"RunOnce,default=true"`
	// Frequency is in hours.
	Frequency              *int             `smc:"Frequency,min=1,max=168"`
	MaxNumberOfImageToKeep *int             `smc:"MaxNumberOfImageToKeep,min=1,max=10"`
	InstanceType           *string          `smc:"InstanceType"`
	LaunchTemplateID       *string          `smc:"LaunchTemplateId"`
	LaunchTemplateVersion  *string          `smc:"LaunchTemplateVersion"`
	InstanceRAMRole        *string          `smc:"InstanceRamRole"`
	ContainerNamespace     *string          `smc:"ContainerNamespace"`
	ContainerRepository    *string          `smc:"ContainerRepository"`
	ContainerTag           *string          `smc:"ContainerTag"`
	LicenseType            *string          `smc:"LicenseType"`
	DataDisk               []DataDiskTarget `smc:"DataDisk,list=16"`
	Tag                    []TagParameter   `smc:"Tag,list=20,over=NumberExceed.Tags"`
	SystemDiskPart         []PartTarget     `smc:"SystemDiskPart,list=32"`
	// JobType 0 (default) migrates a server; 1, 2 and 3 are kinds only the vendor offers.
	JobType         *int    `smc:"JobType,enum=0|1|2|3,default=0"`
	ResourceGroupID *string `smc:"ResourceGroupId"`
	// Disks is the vendor's newer way to lay out disks; a self-hosted center refuses it.
	Disks *DiskLayout `smc:"Disks"`
}

// DataDiskTarget asks for a data disk of the image.
type DataDiskTarget struct {
	// Index is the data disk of the source, from 1.
	Index *int `smc:"Index,required,min=1,max=16"`
	// Size is in GiB; absent means the size at the source, and for a TargetInstance job that of the target's disk.
	Size *int         `smc:"Size,min=20,max=32768,default=the size at the source"`
	Part []PartTarget `smc:"Part,list=32"`
}

// PartTarget asks for a size of a partition. Device and SizeBytes are given both or neither.
type PartTarget struct {
	Device    *string `smc:"Device,maxlen=64"`
	SizeBytes *int64  `smc:"SizeBytes,min=1,max=9223372036854775807"`
	// Block (default true) replicates the partition by blocks.
	Block *bool `smc:"Block,default=true"`
}

// DiskLayout is the parameter Disks.
type DiskLayout struct {
	System *SystemDiskLayout `smc:"System"`
	Data   []DataDiskLayout  `smc:"Data,list=64"`
}

// SystemDiskLayout is the parameter Disks.System.
type SystemDiskLayout struct {
	Size *int         `smc:"Size"`
	LVM  *bool        `smc:"LVM"`
	Part []PartLayout `smc:"Part,list=128"`
}

// DataDiskLayout is the parameter Disks.Data.N.
type DataDiskLayout struct {
	DiskID *string      `smc:"DiskId"`
	Size   *int         `smc:"Size"`
	LVM    *bool        `smc:"LVM"`
	Part   []PartLayout `smc:"Part,list=128"`
}

// PartLayout is a partition of the parameter Disks.
type PartLayout struct {
	Path      *string `smc:"Path,maxlen=4096"`
	SizeBytes *int64  `smc:"SizeBytes"`
	Block     *bool   `smc:"Block"`
}

// CreateReplicationJobResult names the new job, or the job made before with the same ClientToken.
type CreateReplicationJobResult struct {
	Answer
	JobID string `json:"JobId"`
}

// DescribeReplicationJobsRequest filters jobs; filters that are given must all match.
type DescribeReplicationJobsRequest struct {
	Name            *string     `smc:"Name,maxlen=128"`
	RegionID        *string     `smc:"RegionId"`
	Status          *string     `smc:"Status,enum=Ready|Running|Stopped|Waiting|InError|Finished|Expired|Deleting"`
	BusinessStatus  *string     `smc:"BusinessStatus,enum=Preparing|Syncing|Processing|Cleaning"`
	PageNumber      *int        `smc:"PageNumber,min=1,max=2147483647,default=1"`
	PageSize        *int        `smc:"PageSize,min=1,max=50,default=10"`
	SourceID        []string    `smc:"SourceId,list=50,filter"`
	JobID           []string    `smc:"JobId,list=50,filter"`
	JobType         *int        `smc:"JobType,enum=0|1|2|3"`
	InstanceID      []string    `smc:"InstanceId,list=20,filter"`
	ResourceGroupID *string     `smc:"ResourceGroupId"`
	Tag             []TagFilter `smc:"Tag,list=20,filter"`
}

// DescribeReplicationJobsResult is a page of jobs.
type DescribeReplicationJobsResult struct {
	Answer
	Page
	ReplicationJobs List[ReplicationJob] `json:"ReplicationJobs"`
}

// ReplicationJob is a job as Describe shows it. Times are in the form of FormatTime, empty when there is none.
type ReplicationJob struct {
	JobID       string     `json:"JobId"`
	SourceID    string     `json:"SourceId"`
	Name        string     `json:"Name"`
	Description string     `json:"Description"`
	RegionID    string     `json:"RegionId"`
	Status      JobStatus  `json:"Status"`
	TargetType  TargetType `json:"TargetType"`
	// BusinessStatus has a meaning while Status is Running.
	BusinessStatus BusinessStatus `json:"BusinessStatus"`
	// Progress is in percent of the current or last run; it never goes back within a run.
	Progress float64 `json:"Progress"`
	// ErrorCode says why the job is InError; empty when it is not.
	ErrorCode string `json:"ErrorCode"`
	// StatusInfo explains the status to a person.
	StatusInfo         string `json:"StatusInfo"`
	CreationTime       string `json:"CreationTime"`
	ScheduledStartTime string `json:"ScheduledStartTime"`
	StartTime          string `json:"StartTime"`
	EndTime            string `json:"EndTime"`
	// ValidTime is when the job expires; empty means never.
	ValidTime string `json:"ValidTime"`
	ImageName string `json:"ImageName"`
	// ImageID is the newest image delivered.
	ImageID string `json:"ImageId"`
	RunOnce bool   `json:"RunOnce"`
	// Frequency is in hours; 0, and left out, when RunOnce.
	Frequency int `json:"Frequency,omitempty"`
	// MaxNumberOfImageToKeep is 0, and left out, when RunOnce.
	MaxNumberOfImageToKeep int `json:"MaxNumberOfImageToKeep,omitempty"`
	// SystemDiskSize is in GiB; 0 for a TargetInstance job that asked for no size.
	SystemDiskSize        int                     `json:"SystemDiskSize"`
	SystemDiskParts       List[SystemDiskPart]    `json:"SystemDiskParts"`
	DataDisks             List[DataDisk]          `json:"DataDisks"`
	ReplicationJobRuns    List[ReplicationJobRun] `json:"ReplicationJobRuns"`
	ReplicationParameters string                  `json:"ReplicationParameters"`
	NetMode               int                     `json:"NetMode"`
	VpcID                 string                  `json:"VpcId"`
	VSwitchID             string                  `json:"VSwitchId"`
	InstanceID            string                  `json:"InstanceId"`
	InstanceType          string                  `json:"InstanceType"`
	InstanceRAMRole       string                  `json:"InstanceRamRole"`
	LaunchTemplateID      string                  `json:"LaunchTemplateId"`
	LaunchTemplateVersion string                  `json:"LaunchTemplateVersion"`
	// TransitionInstanceID is the transition host that holds the job's resources.
	TransitionInstanceID string    `json:"TransitionInstanceId"`
	ContainerNamespace   string    `json:"ContainerNamespace"`
	ContainerRepository  string    `json:"ContainerRepository"`
	ContainerTag         string    `json:"ContainerTag"`
	LicenseType          string    `json:"LicenseType"`
	JobType              int       `json:"JobType"`
	ResourceGroupID      string    `json:"ResourceGroupId"`
	Tags                 List[Tag] `json:"Tags"`
}

func (ReplicationJob) itemName() string { return "ReplicationJob" }

// DataDisk is a data disk of a job's image.
type DataDisk struct {
	// Index counts from 1.
	Index int `json:"Index"`
	// Size is in GiB; 0 for a TargetInstance job that asked for no size.
	Size  int        `json:"Size"`
	Parts List[Part] `json:"Parts"`
}

func (DataDisk) itemName() string { return "DataDisk" }

// Part is a partition of a job's data disk.
type Part struct {
	Device    string `json:"Device"`
	SizeBytes int64  `json:"SizeBytes"`
	Block     bool   `json:"Block"`
}

func (Part) itemName() string { return "Part" }

// SystemDiskPart is a partition of a job's system disk.
type SystemDiskPart Part

func (SystemDiskPart) itemName() string { return "SystemDiskPart" }

// ReplicationJobRun is a run of a job.
type ReplicationJobRun struct {
	Type      RunType `json:"Type"`
	StartTime string  `json:"StartTime"`
	EndTime   string  `json:"EndTime"`
	ImageID   string  `json:"ImageId"`
}

func (ReplicationJobRun) itemName() string { return "ReplicationJobRun" }

// ModifyReplicationJobAttributeRequest changes what is given. What may change when: see the Modify triggers.
type ModifyReplicationJobAttributeRequest struct {
	JobID                  string           `smc:"JobId,required"`
	Name                   *string          `smc:"Name,rule=name"`
	Description            *string          `smc:"Description,rule=name"`
	TargetType             *string          `smc:"TargetType,maxlen=64"`
	ScheduledStartTime     *string          `smc:"ScheduledStartTime,rule=time"`
	ImageName              *string          `smc:"ImageName,rule=name"`
	InstanceID             *string          `smc:"InstanceId"`
	SystemDiskSize         *int             `smc:"SystemDiskSize,min=20,max=2048"`
	Frequency              *int             `smc:"Frequency,min=1,max=168"`
	MaxNumberOfImageToKeep *int             `smc:"MaxNumberOfImageToKeep,min=1,max=10"`
	InstanceType           *string          `smc:"InstanceType"`
	LaunchTemplateID       *string          `smc:"LaunchTemplateId"`
	LaunchTemplateVersion  *string          `smc:"LaunchTemplateVersion"`
	InstanceRAMRole        *string          `smc:"InstanceRamRole"`
	ContainerNamespace     *string          `smc:"ContainerNamespace"`
	ContainerRepository    *string          `smc:"ContainerRepository"`
	ContainerTag           *string          `smc:"ContainerTag"`
	ValidTime              *string          `smc:"ValidTime,alias=VaildTime,rule=time"`
	SystemDiskPart         []PartTarget     `smc:"SystemDiskPart,list=32"`
	DataDisk               []DataDiskTarget `smc:"DataDisk,list=16"`
	NetMode                *int             `smc:"NetMode,enum=0|2"`
	VSwitchID              *string          `smc:"VSwitchId"`
	VpcID                  *string          `smc:"VpcId"`
	ReplicationParameters  *string          `smc:"ReplicationParameters,maxlen=2048"`
}

// ModifyReplicationJobAttributeResult says nothing but that it is done.
type ModifyReplicationJobAttributeResult struct{ Answer }

// StartReplicationJobRequest names the job.
type StartReplicationJobRequest struct {
	JobID string `smc:"JobId,required"`
}

// StartReplicationJobResult says nothing but that it is done.
type StartReplicationJobResult struct{ Answer }

// StopReplicationJobRequest names the job.
type StopReplicationJobRequest struct {
	JobID string `smc:"JobId,required"`
}

// StopReplicationJobResult says nothing but that it is done.
type StopReplicationJobResult struct{ Answer }

// CutOverReplicationJobRequest names the job; SyncData (default false) asks for one last run.
type CutOverReplicationJobRequest struct {
	JobID    string `smc:"JobId,required"`
	SyncData *bool  `smc:"SyncData,default=false"`
}

// CutOverReplicationJobResult says nothing but that it is done.
type CutOverReplicationJobResult struct{ Answer }

// DeleteReplicationJobRequest names the job.
type DeleteReplicationJobRequest struct {
	JobID string `smc:"JobId,required"`
}

// DeleteReplicationJobResult says nothing but that it is done.
type DeleteReplicationJobResult struct{ Answer }

// CreateCrossZoneMigrationJobRequest is passed to the vendor; a self-hosted center refuses it.
type CreateCrossZoneMigrationJobRequest struct {
	RegionID           string          `smc:"RegionId,required"`
	ClientToken        *string         `smc:"ClientToken,maxlen=64,rule=ascii"`
	InstanceID         *string         `smc:"InstanceId"`
	TargetVSwitchID    *string         `smc:"TargetVSwitchId"`
	TargetZoneID       *string         `smc:"TargetZoneId"`
	TargetInstanceType *string         `smc:"TargetInstanceType"`
	AutoPay            *bool           `smc:"AutoPay"`
	Disk               []CrossZoneDisk `smc:"Disk,list=100"`
	ResourceGroupID    *string         `smc:"ResourceGroupId"`
}

// CrossZoneDisk is a disk of CreateCrossZoneMigrationJob.
type CrossZoneDisk struct {
	DiskID           *string `smc:"DiskId"`
	Category         *string `smc:"Category"`
	PerformanceLevel *string `smc:"PerformanceLevel"`
}

// CreateCrossZoneMigrationJobResult names the new job.
type CreateCrossZoneMigrationJobResult struct {
	Answer
	JobID string `json:"JobId"`
}
