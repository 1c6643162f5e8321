package smc

// Operations on source servers.
var (
	// DescribeSourceServers lists source servers, newest first.
	DescribeSourceServers = declare[DescribeSourceServersRequest, DescribeSourceServersResult]("DescribeSourceServers", reads)
	// ModifySourceServerAttribute renames or describes a source server, in any state.
	ModifySourceServerAttribute = declare[ModifySourceServerAttributeRequest, ModifySourceServerAttributeResult]("ModifySourceServerAttribute",
		answers(CodeInvalidSourceIDNotFound, CodeSourceServerStateInvalid, CodeSourceServerNameDuplicate))
	// DeleteSourceServer deletes a source server, with Force its resting job too.
	DeleteSourceServer = declare[DeleteSourceServerRequest, DeleteSourceServerResult]("DeleteSourceServer",
		answers(CodeInvalidSourceIDNotFound, CodeSourceServerStateInvalid, CodeSourceServerWithRunningReplicationJob, CodeReplicationJobRelated))
)

// DescribeSourceServersRequest filters source servers; filters that are given must all match.
type DescribeSourceServersRequest struct {
	// JobID is any job of the source, also one that is not its newest.
	JobID           *string     `smc:"JobId"`
	State           *string     `smc:"State,enum=Unavailable|Available|InUse|Deleting"`
	Name            *string     `smc:"Name,maxlen=128"`
	PageNumber      *int        `smc:"PageNumber,min=1,max=2147483647,default=1"`
	PageSize        *int        `smc:"PageSize,min=1,max=50,default=10"`
	SourceID        []string    `smc:"SourceId,list=100,filter"`
	ResourceGroupID *string     `smc:"ResourceGroupId"`
	Tag             []TagFilter `smc:"Tag,list=20,filter"`
	RelatedJobType  []string    `smc:"RelatedJobType,list=100,filter"`
	WorkgroupID     *string     `smc:"WorkgroupId"`
}

// DescribeSourceServersResult is a page of source servers.
type DescribeSourceServersResult struct {
	Answer
	Page
	SourceServers List[SourceServer] `json:"SourceServers"`
}

// SourceServer is a registered source server.
type SourceServer struct {
	SourceID    string      `json:"SourceId"`
	Name        string      `json:"Name"`
	Description string      `json:"Description"`
	State       SourceState `json:"State"`
	// ErrorCode says why the source is abnormal; empty while it is not.
	ErrorCode string `json:"ErrorCode"`
	// StatusInfo is JSON {"error_code", "error_msg"} while the source is abnormal, else empty.
	StatusInfo string `json:"StatusInfo"`
	// JobID is the newest job of the source.
	JobID string `json:"JobId"`
	// CreationTime is when the source registered.
	CreationTime string `json:"CreationTime"`
	// HeartbeatRate is in seconds.
	HeartbeatRate int    `json:"HeartbeatRate"`
	Platform      string `json:"Platform"`
	Architecture  string `json:"Architecture"`
	KernelLevel   int    `json:"KernelLevel"`
	AgentVersion  string `json:"AgentVersion"`
	// ReplicationDriver is always SMT.
	ReplicationDriver string `json:"ReplicationDriver"`
	// SystemInfo is a JSON object of at most 1 KiB.
	SystemInfo string `json:"SystemInfo"`
	// SystemDiskSize is in GiB.
	SystemDiskSize  int                        `json:"SystemDiskSize"`
	SystemDiskParts List[SourceSystemDiskPart] `json:"SystemDiskParts"`
	DataDisks       List[SourceDataDisk]       `json:"DataDisks"`
	ResourceGroupID string                     `json:"ResourceGroupId"`
	WorkgroupID     string                     `json:"WorkgroupId"`
	Tags            List[Tag]                  `json:"Tags"`
}

func (SourceServer) itemName() string { return "SourceServer" }

// ReplicationDriver is the one replication driver there is.
const ReplicationDriver = "SMT"

// SourceDataDisk is a data disk of a source server.
type SourceDataDisk struct {
	// Index counts data disks from 1; disk 0 is the system disk.
	Index int    `json:"Index"`
	Path  string `json:"Path"`
	// Size is in GiB, rounded up.
	Size  int              `json:"Size"`
	Parts List[SourcePart] `json:"Parts"`
}

func (SourceDataDisk) itemName() string { return "DataDisk" }

// SourcePart is a partition of a source server's data disk.
type SourcePart struct {
	// Device is <disk>_<n>, "1_0".
	Device    string `json:"Device"`
	Path      string `json:"Path"`
	SizeBytes int64  `json:"SizeBytes"`
	// CanBlock says that the partition can be replicated by blocks.
	CanBlock bool `json:"CanBlock"`
	// Need says that the partition cannot be left out.
	Need bool `json:"Need"`
}

func (SourcePart) itemName() string { return "Part" }

// SourceSystemDiskPart is a partition of a source server's system disk.
type SourceSystemDiskPart SourcePart

func (SourceSystemDiskPart) itemName() string { return "SystemDiskPart" }

// ModifySourceServerAttributeRequest changes what is given; an empty Description clears it.
type ModifySourceServerAttributeRequest struct {
	SourceID    string  `smc:"SourceId,required"`
	Name        *string `smc:"Name,rule=name"`
	Description *string `smc:"Description,maxlen=256,rule=nourl"`
}

// ModifySourceServerAttributeResult says nothing but that it is done.
type ModifySourceServerAttributeResult struct{ Answer }

// DeleteSourceServerRequest names the source; Force (default false) deletes its job and what the job keeps too.
type DeleteSourceServerRequest struct {
	SourceID string `smc:"SourceId,required"`
	Force    *bool  `smc:"Force,default=false"`
}

// DeleteSourceServerResult says nothing but that it is done.
type DeleteSourceServerResult struct{ Answer }
