package smc

// Operations on tags.
var (
	// TagResources attaches tags; a key that is there already takes the new value.
	TagResources = declare[TagResourcesRequest, TagResourcesResult]("TagResources",
		answers(CodeDuplicateResourceID, CodeInvalidResourceIDNotFound, CodeInvalidParameterTagValue))
	// ListTagResources lists tags by resource or by tag.
	ListTagResources = declare[ListTagResourcesRequest, ListTagResourcesResult]("ListTagResources", reads,
		answers(CodeDuplicateResourceID, CodeInvalidResourceIDNotFound, CodeInvalidParameterTagValue))
	// UntagResources takes tags away: the keys given, or all when All is set and no key is given.
	UntagResources = declare[UntagResourcesRequest, UntagResourcesResult]("UntagResources",
		answers(CodeDuplicateResourceID, CodeInvalidResourceIDNotFound))
)

// Resource types in requests. Answers spell them as TagResource says.
const (
	ResourceTypeSourceServer   = "sourceserver"
	ResourceTypeReplicationJob = "replicationjob"
)

// TagResourcesRequest names resources of one type and the tags to attach.
type TagResourcesRequest struct {
	ResourceType string         `smc:"ResourceType,required,missing=MissingParameter.ResourceType,enum=sourceserver|replicationjob,fold,invalid=InvalidResourceType.NotFound"`
	ResourceID   []string       `smc:"ResourceId,required,list=50,over=NumberExceed.ResourceIds"`
	Tag          []TagParameter `smc:"Tag,required,list=20,over=NumberExceed.Tags"`
}

// TagResourcesResult says nothing but that it is done.
type TagResourcesResult struct{ Answer }

// ListTagResourcesRequest filters by resource, by tag, or both.
type ListTagResourcesRequest struct {
	ResourceType string      `smc:"ResourceType,required,missing=MissingParameter.ResourceType,enum=sourceserver|replicationjob,fold,invalid=InvalidResourceType.NotFound"`
	NextToken    *string     `smc:"NextToken,maxlen=1024"`
	ResourceID   []string    `smc:"ResourceId,list=50,over=NumberExceed.ResourceIds,filter"`
	Tag          []TagFilter `smc:"Tag,list=20,over=NumberExceed.Tags,filter"`
}

// ListTagResourcesResult is a page of tags; NextToken is empty on the last.
type ListTagResourcesResult struct {
	Answer
	NextToken    string            `json:"NextToken"`
	TagResources List[TagResource] `json:"TagResources"`
}

// TagResource is one tag of one resource.
type TagResource struct {
	ResourceID string `json:"ResourceId"`
	// ResourceType is ALIYUN::SMC::SOURCESERVER or ALIYUN::SMC::REPLICATIONJOB.
	ResourceType string `json:"ResourceType"`
	TagKey       string `json:"TagKey"`
	TagValue     string `json:"TagValue"`
}

func (TagResource) itemName() string { return "TagResource" }

// UntagResourcesRequest names resources of one type and the keys to take away.
type UntagResourcesRequest struct {
	ResourceType string `smc:"ResourceType,required,missing=MissingParameter.ResourceType,enum=sourceserver|replicationjob,fold,invalid=InvalidResourceType.NotFound"`
	// All (default false) counts only when no TagKey is given.
	All        *bool    `smc:"All,default=false"`
	ResourceID []string `smc:"ResourceId,required,list=50,over=NumberExceed.ResourceIds"`
	// TagKey is needed unless All is true.
	TagKey []string `smc:"TagKey,list=20,over=NumberExceed.Tags,maxlen=128"`
}

// UntagResourcesResult says nothing but that it is done.
type UntagResourcesResult struct{ Answer }
