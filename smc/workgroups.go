package smc

// Operations on workgroups.
var (
	// CreateWorkgroup makes a workgroup.
	CreateWorkgroup = declare[CreateWorkgroupRequest, CreateWorkgroupResult]("CreateWorkgroup",
		answers(CodeIdempotentParameterMismatch, CodeInvalidParameterTagValue))
	// DescribeWorkgroups lists workgroups with their computed status, newest first.
	DescribeWorkgroups = declare[DescribeWorkgroupsRequest, DescribeWorkgroupsResult]("DescribeWorkgroups", reads)
	// ModifyWorkgroupAttribute renames or describes a workgroup.
	ModifyWorkgroupAttribute = declare[ModifyWorkgroupAttributeRequest, ModifyWorkgroupAttributeResult]("ModifyWorkgroupAttribute",
		answers(CodeInvalidWorkgroupIDNotFound))
	// DeleteWorkgroup deletes a workgroup; its sources stay.
	DeleteWorkgroup = declare[DeleteWorkgroupRequest, DeleteWorkgroupResult]("DeleteWorkgroup",
		answers(CodeInvalidWorkgroupIDNotFound))
	// AssociateSourceServers puts sources into a workgroup.
	AssociateSourceServers = declare[AssociateSourceServersRequest, AssociateSourceServersResult]("AssociateSourceServers",
		answers(CodeInvalidWorkgroupIDNotFound, CodeInvalidSourceIDNotFound))
	// DisassociateSourceServers takes sources out of a workgroup.
	DisassociateSourceServers = declare[DisassociateSourceServersRequest, DisassociateSourceServersResult]("DisassociateSourceServers",
		answers(CodeInvalidWorkgroupIDNotFound, CodeInvalidSourceIDNotFound))
)

// MaxWorkgroupSources is how many sources a workgroup holds.
const MaxWorkgroupSources = 50

// WorkgroupStatus is the status of a workgroup, computed from its jobs.
type WorkgroupStatus string

// The statuses of workgroups.
const (
	WorkgroupNotStarted WorkgroupStatus = "NotStarted"
	WorkgroupInProgress WorkgroupStatus = "InProgress"
	WorkgroupCutover    WorkgroupStatus = "Cutover"
	WorkgroupCompleted  WorkgroupStatus = "Completed"
)

// WarningType is a kind of trouble in a workgroup.
type WarningType string

// The warnings of workgroups.
const (
	WarningInError   WarningType = "InError"   // a job failed
	WarningUnRelated WarningType = "UnRelated" // a source has no job
	WarningNotPassed WarningType = "NotPassed" // the verification of an image failed
)

// CreateWorkgroupRequest describes a workgroup.
type CreateWorkgroupRequest struct {
	// ClientToken makes the request idempotent for 7 days; the client sets one when there is none.
	ClientToken *string `smc:"ClientToken,maxlen=64,rule=ascii"`
	// Name is needed, though the vendor does not call it required, and unique among the account's workgroups.
	Name        *string        `smc:"Name,rule=workgroupname"`
	Description *string        `smc:"Description,minlen=2,maxlen=256,rule=nourl"`
	Tag         []TagParameter `smc:"Tag,list=20,over=NumberExceed.Tags"`
}

// CreateWorkgroupResult names the new workgroup.
type CreateWorkgroupResult struct {
	Answer
	WorkgroupID string `json:"WorkgroupId"`
}

// DescribeWorkgroupsRequest filters workgroups; filters that are given must all match.
type DescribeWorkgroupsRequest struct {
	WorkgroupID []string    `smc:"WorkgroupId,list=100,filter"`
	Name        *string     `smc:"Name,maxlen=128"`
	Status      *string     `smc:"Status,enum=NotStarted|InProgress|Cutover|Completed"`
	PageNumber  *int        `smc:"PageNumber,min=1,max=2147483647,default=1"`
	PageSize    *int        `smc:"PageSize,min=1,max=50,default=10"`
	Tag         []TagFilter `smc:"Tag,list=20,filter"`
}

// DescribeWorkgroupsResult is a page of workgroups.
type DescribeWorkgroupsResult struct {
	Answer
	Page
	Workgroups List[Workgroup] `json:"Workgroups"`
}

// Workgroup is a workgroup as Describe shows it.
type Workgroup struct {
	WorkgroupID string          `json:"WorkgroupId"`
	Name        string          `json:"Name"`
	Description string          `json:"Description"`
	Status      WorkgroupStatus `json:"Status"`
	Tags        List[Tag]       `json:"Tags"`
	Warnings    List[Warning]   `json:"Warnings"`
}

func (Workgroup) itemName() string { return "Workgroup" }

// Warning names the sources of a workgroup that have one kind of trouble.
type Warning struct {
	WarningType WarningType     `json:"WarningType"`
	SourceIDs   List[SourceRef] `json:"SourceIds"`
}

func (Warning) itemName() string { return "Warning" }

// SourceRef is the id of a source server in a list.
type SourceRef string

func (SourceRef) itemName() string { return "SourceId" }

// ModifyWorkgroupAttributeRequest changes what is given.
type ModifyWorkgroupAttributeRequest struct {
	WorkgroupID string  `smc:"WorkgroupId,required"`
	Name        *string `smc:"Name,rule=workgroupname"`
	Description *string `smc:"Description,minlen=2,maxlen=256,rule=nourl"`
}

// ModifyWorkgroupAttributeResult says nothing but that it is done.
type ModifyWorkgroupAttributeResult struct{ Answer }

// DeleteWorkgroupRequest names the workgroup.
type DeleteWorkgroupRequest struct {
	WorkgroupID string `smc:"WorkgroupId,required"`
}

// DeleteWorkgroupResult says nothing but that it is done.
type DeleteWorkgroupResult struct{ Answer }

// AssociateSourceServersRequest names the workgroup and the sources.
type AssociateSourceServersRequest struct {
	WorkgroupID string `smc:"WorkgroupId,required"`
	// SourceID is in no other workgroup. A workgroup holds 50 at most, counted with those that it has.
	SourceID []string `smc:"SourceId,required,list=50"`
}

// AssociateSourceServersResult says nothing but that it is done.
type AssociateSourceServersResult struct{ Answer }

// DisassociateSourceServersRequest names the workgroup and the sources.
type DisassociateSourceServersRequest struct {
	WorkgroupID string   `smc:"WorkgroupId,required"`
	SourceID    []string `smc:"SourceId,required,list=50"`
}

// DisassociateSourceServersResult says nothing but that it is done.
type DisassociateSourceServersResult struct{ Answer }
