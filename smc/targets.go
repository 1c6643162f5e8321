package smc

// Operations on target instances: machines whose disks take the images of TargetInstance jobs. They are ours, as the vendor's are
// instances of its cloud.
var (
	// DescribeTargetInstances lists target instances, newest first.
	DescribeTargetInstances = declare[DescribeTargetInstancesRequest, DescribeTargetInstancesResult]("DescribeTargetInstances", extension, reads)
	// DeleteTargetInstance forgets a target instance that no unfinished job migrates to. What is on its disks stays there.
	DeleteTargetInstance = declare[DeleteTargetInstanceRequest, DeleteTargetInstanceResult]("DeleteTargetInstance", extension,
		answers(CodeInvalidInstanceIDNotFound, CodeInvalidInstanceIDInUse))
)

// DescribeTargetInstancesRequest filters target instances; filters that are given must all match.
type DescribeTargetInstancesRequest struct {
	InstanceID []string `smc:"InstanceId,list=50,filter"`
	Name       *string  `smc:"Name,maxlen=128"`
	State      *string  `smc:"State,enum=Available|Unavailable"`
	PageNumber *int     `smc:"PageNumber,min=1,max=2147483647,default=1"`
	PageSize   *int     `smc:"PageSize,min=1,max=50,default=10"`
}

// DescribeTargetInstancesResult is a page of target instances.
type DescribeTargetInstancesResult struct {
	Answer
	Page
	TargetInstances List[Instance] `json:"TargetInstances"`
}

// InstanceState says whether a target instance is heard of.
type InstanceState string

// The states of target instances.
const (
	InstanceAvailable   InstanceState = "Available"
	InstanceUnavailable InstanceState = "Unavailable"
)

// DeliveryState says how far the delivery of an image to a target instance is.
type DeliveryState string

// The states of deliveries.
const (
	DeliveryPending    DeliveryState = "Pending"
	DeliveryDelivering DeliveryState = "Delivering"
	DeliveryDone       DeliveryState = "Done"
	DeliveryFailed     DeliveryState = "Failed"
)

// Instance is a target instance: a machine on which `drover-agent target` runs, with the disks that it may overwrite.
type Instance struct {
	InstanceID string `json:"InstanceId"`
	Name       string `json:"Name"`
	RegionID   string `json:"RegionId"`
	// State is Unavailable when nothing was heard of it for three heartbeats.
	State InstanceState `json:"State"`
	// JobID is the unfinished job that migrates to it; empty when none does.
	JobID string `json:"JobId"`
	// CreationTime is when it registered.
	CreationTime string `json:"CreationTime"`
	// HeartbeatTime is when it was last heard of.
	HeartbeatTime string `json:"HeartbeatTime"`
	Hostname      string `json:"Hostname"`
	Platform      string `json:"Platform"`
	Architecture  string `json:"Architecture"`
	AgentVersion  string `json:"AgentVersion"`
	// SystemInfo is a JSON object of at most 1 KiB.
	SystemInfo string             `json:"SystemInfo"`
	Disks      List[InstanceDisk] `json:"Disks"`
	// DeliveryState says how far the last delivery is: Pending until the target reports of it, then Delivering, Done or Failed. Empty when there
	// was none.
	DeliveryState DeliveryState `json:"DeliveryState"`
	// DeliveryInfo says why the last delivery failed.
	DeliveryInfo string `json:"DeliveryInfo"`
	// DeliveryTime is when its target last reported of it.
	DeliveryTime string `json:"DeliveryTime"`
	// ImageID is the image of the last delivery; with DeliveryState Done it is on the disks.
	ImageID string `json:"ImageId"`
	// BytesTotal is the size of the disks of the last delivery.
	BytesTotal int64 `json:"BytesTotal"`
	// BytesDone is what of it was read back and is as the image has it.
	BytesDone int64 `json:"BytesDone"`
	// BytesFetched is what differed and was transferred.
	BytesFetched int64 `json:"BytesFetched"`
}

func (Instance) itemName() string { return "TargetInstance" }

// InstanceDisk is a disk of a target instance that deliveries may overwrite.
type InstanceDisk struct {
	// Index is that of the source's disk that it takes: 0 is the system disk.
	Index int    `json:"Index"`
	Path  string `json:"Path"`
	// SizeBytes is 0 while the disk cannot be opened.
	SizeBytes int64 `json:"SizeBytes"`
	// HoldsData says that a delivery would be refused: the disk holds something that no delivery put there, and the target was not started with leave
	// to overwrite it.
	HoldsData bool `json:"HoldsData"`
}

func (InstanceDisk) itemName() string { return "Disk" }

// DeleteTargetInstanceRequest names the target instance.
type DeleteTargetInstanceRequest struct {
	InstanceID string `smc:"InstanceId,required"`
}

// DeleteTargetInstanceResult says nothing but that it is done.
type DeleteTargetInstanceResult struct{ Answer }
