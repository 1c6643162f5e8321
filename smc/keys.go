package smc

import "time"

// Operations of ours on access keys and the audit log. They concern the account of the key that signs.
var (
	// CreateAccessKey makes an access key, whose secret is shown this once.
	CreateAccessKey = declare[CreateAccessKeyRequest, CreateAccessKeyResult]("CreateAccessKey", extension, once,
		answers(CodeInvalidPolicy))
	// ListAccessKeys lists the account's access keys without their secrets, newest first.
	ListAccessKeys = declare[ListAccessKeysRequest, ListAccessKeysResult]("ListAccessKeys", extension, reads)
	// DisableAccessKey ends an access key for good.
	DisableAccessKey = declare[DisableAccessKeyRequest, DisableAccessKeyResult]("DisableAccessKey", extension,
		answers(CodeInvalidAccessKeyIDNotFound))
	// DescribeAuditLog lists who called what, newest first.
	DescribeAuditLog = declare[DescribeAuditLogRequest, DescribeAuditLogResult]("DescribeAuditLog", extension, reads)
)

// CreateAccessKeyRequest describes an access key.
type CreateAccessKeyRequest struct {
	Description *string `smc:"Description,maxlen=256,rule=nourl"`
	// Policy is a JSON document (CONTRACT: Access rules). Without one the key may do everything in its account.
	Policy *string `smc:"Policy,maxlen=6144,invalid=InvalidParameter.Policy"`
}

// CreateAccessKeyResult is the only answer that ever holds the secret.
type CreateAccessKeyResult struct {
	Answer
	AccessKeyID     string `json:"AccessKeyId"`
	AccessKeySecret string `json:"AccessKeySecret"`
}

// ListAccessKeysRequest asks for a page of access keys.
type ListAccessKeysRequest struct {
	PageNumber *int `smc:"PageNumber,min=1,max=2147483647,default=1"`
	PageSize   *int `smc:"PageSize,min=1,max=50,default=10"`
}

// ListAccessKeysResult is a page of access keys.
type ListAccessKeysResult struct {
	Answer
	Page
	AccessKeys List[AccessKey] `json:"AccessKeys"`
}

// AccessKeyStatus is the status of an access key.
type AccessKeyStatus string

// The statuses of access keys.
const (
	AccessKeyActive   AccessKeyStatus = "Active"
	AccessKeyDisabled AccessKeyStatus = "Disabled"
)

// AccessKey is an access key without its secret.
type AccessKey struct {
	AccessKeyID string          `json:"AccessKeyId"`
	Description string          `json:"Description"`
	Status      AccessKeyStatus `json:"Status"`
	// Policy is empty when the key may do everything in its account.
	Policy       string `json:"Policy"`
	CreationTime string `json:"CreationTime"`
}

func (AccessKey) itemName() string { return "AccessKey" }

// DisableAccessKeyRequest names the access key. It is KeyId, for AccessKeyId is the key that signs the request.
type DisableAccessKeyRequest struct {
	KeyID string `smc:"KeyId,required,maxlen=128"`
}

// DisableAccessKeyResult says nothing but that it is done.
type DisableAccessKeyResult struct{ Answer }

// DescribeAuditLogRequest filters the audit log; filters that are given must all match.
type DescribeAuditLogRequest struct {
	// KeyID is the access key that signed.
	KeyID *string `smc:"KeyId,maxlen=128"`
	// Operation is the operation called.
	Operation *string `smc:"Operation,maxlen=128"`
	// Outcome is OK or an error code.
	Outcome *string `smc:"Outcome,maxlen=128"`
	// Changes leaves out the calls of operations that only read.
	Changes *bool `smc:"Changes,default=false"`
	// StartTime and EndTime bound the time of the call; the end is not included.
	StartTime  *string `smc:"StartTime,rule=time"`
	EndTime    *string `smc:"EndTime,rule=time"`
	PageNumber *int    `smc:"PageNumber,min=1,max=2147483647,default=1"`
	PageSize   *int    `smc:"PageSize,min=1,max=50,default=10"`
}

// Since returns StartTime; the zero time means from the beginning. The request must be valid.
func (r *DescribeAuditLogRequest) Since() time.Time { return optionalTime(r.StartTime) }

// Until returns EndTime; the zero time means to the end. The request must be valid.
func (r *DescribeAuditLogRequest) Until() time.Time { return optionalTime(r.EndTime) }

func optionalTime(text *string) time.Time {
	t, err := ParseTime(deref(text))
	if err != nil {
		return time.Time{}
	}
	return t
}

// DescribeAuditLogResult is a page of the audit log.
type DescribeAuditLogResult struct {
	Answer
	Page
	AuditRecords List[AuditRecord] `json:"AuditRecords"`
}

// OutcomeOK is the outcome of a call that did its work.
const OutcomeOK = "OK"

// AuditRecord is one call: who did what, to which resources, with what outcome.
type AuditRecord struct {
	// CallID is the RequestId of the call.
	CallID string `json:"CallId"`
	Time   string `json:"Time"`
	// KeyID is the access key the call named; when Outcome says that the signature was wrong, that is a claim.
	KeyID     string `json:"KeyId"`
	Operation string `json:"Operation"`
	// Resources are what the call was about, as policies name them.
	Resources List[ResourceName] `json:"Resources"`
	// RemoteAddress is the address the call came from.
	RemoteAddress string `json:"RemoteAddress"`
	// Outcome is OutcomeOK or an error code.
	Outcome string `json:"Outcome"`
}

func (AuditRecord) itemName() string { return "AuditRecord" }

// ResourceName names a resource as policies do, "acs:smc:<region>:<account>:replicationjob/<id>".
type ResourceName string

func (ResourceName) itemName() string { return "Resource" }
