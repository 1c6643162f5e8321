package smc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// Error is a failure in the terms of the API. It is what an endpoint answers with and what the client returns
// (wrapped in a CallError).
type Error struct {
	// Code is one of the Code constants, or a code of the vendor's that is not named here.
	Code string
	// HTTPStatus is the status the error was, or is to be, answered with.
	HTTPStatus int
	// Message says what happened, to which thing, and what to do next.
	Message string
	// RequestID is the id of the request that failed; empty until the error was answered.
	RequestID string
	// HostID names the endpoint that answered; empty until the error was answered.
	HostID string
}

// Error returns the code and the message, and the request id when there is one.
func (e *Error) Error() string {
	if e.RequestID == "" {
		return e.Code + ": " + e.Message
	}
	return e.Code + ": " + e.Message + " (RequestId " + e.RequestID + ")"
}

// Is reports whether target is an *Error of the same code, so that errors.Is(err, &Error{Code: c}) works.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// Errorf returns an Error of the code, with the HTTP status the table gives it. An empty format takes the
// code's default message.
func Errorf(code, format string, args ...any) *Error {
	info := lookupCode(code)
	message := info.message
	if format != "" {
		message = fmt.Sprintf(format, args...)
	}
	return &Error{Code: code, HTTPStatus: info.status, Message: message}
}

// AsError returns the *Error that err is or wraps. Any other error, nil excepted, becomes an InternalError
// whose message tells the caller nothing of the inside; log err itself.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return Errorf(CodeInternalError, "")
}

// CodeOf returns the code of the *Error that err is or wraps, and "" when there is none.
func CodeOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// Class says what is to be done about an error.
type Class string

// The classes of errors.
const (
	// Retryable errors pass by themselves: the same request may be sent again.
	Retryable Class = "Retryable"
	// Operator errors wait for a person: a permission, a quota, a source that is away, a state someone else set.
	Operator Class = "Operator"
	// Fatal errors stay: the same request will always fail.
	Fatal Class = "Fatal"
)

// ClassOf returns the class of err: by its code when it has one. An error without a code never reached an
// endpoint that could judge it, and is Retryable, unless it is the caller's own cancellation, which is Fatal.
func ClassOf(err error) Class {
	var e *Error
	if errors.As(err, &e) {
		return classOf(e.Code, e.HTTPStatus)
	}
	if errors.Is(err, context.Canceled) {
		return Fatal
	}
	return Retryable
}

// ClassOfCode returns the class of a code, known or not.
func ClassOfCode(code string) Class { return classOf(code, lookupCode(code).status) }

func classOf(code string, status int) Class {
	if info, ok := codes[code]; ok {
		return info.class
	}
	switch {
	case strings.HasPrefix(code, "Throttling"), status >= http.StatusInternalServerError:
		return Retryable
	case strings.HasPrefix(code, "QuotaExceeded"), status == http.StatusForbidden, status == http.StatusUnauthorized:
		return Operator
	}
	return Fatal
}

// Codes that any operation may answer with.
const (
	CodeMissingParameter           = "MissingParameter"
	CodeInvalidParameter           = "InvalidParameter"
	CodeInvalidVersion             = "InvalidVersion"
	CodeInvalidActionNotFound      = "InvalidAction.NotFound"
	CodeInvalidTimeStampExpired    = "InvalidTimeStamp.Expired"
	CodeSignatureNonceUsed         = "SignatureNonceUsed"
	CodeSignatureDoesNotMatch      = "SignatureDoesNotMatch"
	CodeInvalidAccessKeyIDNotFound = "InvalidAccessKeyId.NotFound"
	CodeForbiddenUnauthorized      = "Forbidden.Unauthorized"
	CodeThrottlingUser             = "Throttling.User"
	CodeInternalError              = "InternalError"
	// CodeInternalServerError is how some of the vendor's documents spell InternalError; it is never sent.
	CodeInternalServerError = "InternalServerError"
)

// Codes of jobs and their sources.
const (
	CodeSourceServerStateInvalid              = "SourceServerState.Invalid"
	CodeSourceServerNameDuplicate             = "SourceServerName.Duplicate"
	CodeSourceServerWithRunningReplicationJob = "SourceServer.WithRunningReplicationJob"
	CodeReplicationJobRelated                 = "ReplicationJob.Related"
	CodeReplicationJobInvalidStatus           = "ReplicationJob.InvalidStatus"
	CodeReplicationJobInvalidBusinessStatus   = "ReplicationJob.InvalidBusinessStatus"
	CodeReplicationJobDataDiskIndexInvalid    = "ReplicationJobDataDiskIndex.Invalid"
	CodeReplicationJobNameDuplicate           = "ReplicationJobName.Duplicate"
	CodeDataDiskDuplicateIndex                = "DataDisk.DuplicateIndex"
	CodeImageNameUsedByReplicationJob         = "ImageName.UsedByReplicationJob"
	CodeVSwitchIDVpcIDMismatch                = "VSwitchIdVpcId.Mismatch"
	CodeInvalidSecurityGroupIncorrectNetwork  = "InvalidSecurityGroupId.IncorrectNetworkType"
	CodeInvalidSecurityGroupVPCMismatch       = "InvalidSecurityGroupId.VPCMismatch"
	CodeInvalidOsMigrationTypeNotMatched      = "InvalidOsMigrationType.NotMatched"
	CodeQuotaExceededReplicationJob           = "QuotaExceeded.ReplicationJob"
	CodeEntityNotExistRole                    = "EntityNotExist.Role"
	CodeRealNameAuthenticationError           = "RealNameAuthenticationError"
	CodeIdempotentParameterMismatch           = "IdempotentParameterMismatch"
	CodeNumberExceedTags                      = "NumberExceed.Tags"
	CodeNumberExceedResourceIDs               = "NumberExceed.ResourceIds"
	CodeMissingParameterResourceType          = "MissingParameter.ResourceType"
	CodeInvalidResourceTypeNotFound           = "InvalidResourceType.NotFound"
	CodeDuplicateResourceID                   = "Duplicate.ResourceId"
	CodeInvalidResourceIDNotFound             = "InvalidResourceId.NotFound"
	CodeInvalidParameterTagValue              = "InvalidParameter.TagValue"
)

// Codes of ours, where no document names one.
const (
	CodeInvalidJobIDNotFound         = "InvalidJobId.NotFound"
	CodeInvalidSourceIDNotFound      = "InvalidSourceId.NotFound"
	CodeInvalidWorkgroupIDNotFound   = "InvalidWorkgroupId.NotFound"
	CodeInvalidAccessTokenIDNotFound = "InvalidAccessTokenId.NotFound"
	CodeInvalidImageIDNotFound       = "InvalidImageId.NotFound"
	CodeInvalidInstanceIDNotFound    = "InvalidInstanceId.NotFound"
	// CodeInvalidInstanceIDDiskMismatch: the disks of a target instance do not take those of the job.
	CodeInvalidInstanceIDDiskMismatch = "InvalidInstanceId.DiskMismatch"
	// CodeInvalidInstanceIDInUse: another unfinished job migrates to the target instance.
	CodeInvalidInstanceIDInUse      = "InvalidInstanceId.InUse"
	CodeUnsupportedFeature          = "UnsupportedFeature"
	CodeUnsupportedHTTPMethod       = "UnsupportedHTTPMethod"
	CodeQuotaExceededSourceServer   = "QuotaExceeded.SourceServer"
	CodeQuotaExceededTargetInstance = "QuotaExceeded.TargetInstance"
	CodeTargetInstanceNameDuplicate = "TargetInstanceName.Duplicate"
	// CodeInvalidPolicy: a policy document is not one that an endpoint understands.
	CodeInvalidPolicy = "InvalidParameter.Policy"
	// CodeInvalidActivationCode: an agent registered with a code that is unknown, used up, disabled or expired.
	CodeInvalidActivationCode = "InvalidActivationCode"
	// CodeInvalidAgentToken: an agent called with a token the center does not know (any more).
	CodeInvalidAgentToken = "InvalidAgentToken"
	// CodeSourceServerOffline: no heartbeat for OfflineAfter.
	CodeSourceServerOffline = "SourceServer.Offline"
	// CodeSourceServerUnreachable: the agent reaches the center and not the transition host.
	CodeSourceServerUnreachable = "SourceServer.Unreachable"
	// CodeSourceServerFailing: the agent reports failures that are none of its disks'.
	CodeSourceServerFailing = "SourceServer.Failing"
	// CodeSourceServerDamagedData: what the agent sends arrives damaged, again and again.
	CodeSourceServerDamagedData = "SourceServer.DamagedData"
	// CodeSourceDiskReadError: the agent cannot read a disk.
	CodeSourceDiskReadError = "SourceDisk.ReadError"
	// CodeSourceDiskChanged: a disk of the source is gone or has another size than when the job was made.
	CodeSourceDiskChanged = "SourceDisk.Changed"
	// CodeReplicationDiverged: source and transition host do not agree about a disk.
	CodeReplicationDiverged = "Replication.Diverged"
	// CodeRootFileSystemNotFound: the system disk has no root file system to make a container image of.
	CodeRootFileSystemNotFound = "RootFileSystem.NotFound"
	// CodeFileSystemUnsupported: files of a container image are in a file system that the transition host cannot read.
	CodeFileSystemUnsupported = "FileSystem.Unsupported"
	// CodeFileSystemDamaged: a file system that a container image is made of contradicts itself.
	CodeFileSystemDamaged = "FileSystem.Damaged"
	// CodeFileSystemFileUnsupported: a file cannot be in a container image.
	CodeFileSystemFileUnsupported = "FileSystem.FileUnsupported"
	// CodeTransitionHostNoSpace: the transition host has no room for the disks or the image.
	CodeTransitionHostNoSpace = "TransitionHost.NoSpace"
	// CodeTransitionHostStorageError: the transition host cannot read or write its store.
	CodeTransitionHostStorageError = "TransitionHost.StorageError"
	// CodeTransitionHostUnavailable: no transition host takes the work.
	CodeTransitionHostUnavailable = "TransitionHost.Unavailable"
	// CodeTargetInstanceOffline: nothing is heard of the target instance that an image is to be delivered to.
	CodeTargetInstanceOffline = "TargetInstance.Offline"
	// CodeTargetInstanceDiskFailed: a disk of the target instance does not take the image.
	CodeTargetInstanceDiskFailed = "TargetInstance.DiskFailed"
	// CodeTargetInstanceImageUnavailable: the target instance does not get the image from the transition host.
	CodeTargetInstanceImageUnavailable = "TargetInstance.ImageUnavailable"
	// CodeImageVerificationFailed: the bytes of an image are not the bytes its manifest names.
	CodeImageVerificationFailed = "Image.VerificationFailed"
	// CodeServiceUnavailable: something in front of the endpoint answered in its place (5xx without an SMC body).
	CodeServiceUnavailable = "ServiceUnavailable"
	// CodeInvalidAnswer: what answered does not speak this API.
	CodeInvalidAnswer = "InvalidAnswer"
)

// codeInfo is what the table knows of a code.
type codeInfo struct {
	status  int
	class   Class
	message string
}

// codes is the one table of codes (CONTRACT: Common codes, Error codes by operation); ownCodes holds the rest of it.
var codes = withOwn(map[string]codeInfo{
	CodeMissingParameter:           {400, Fatal, "A required parameter is missing."},
	CodeInvalidParameter:           {400, Fatal, "A parameter has a value that is not allowed."},
	CodeInvalidVersion:             {400, Fatal, "The Version parameter must be " + Version + "."},
	CodeInvalidActionNotFound:      {404, Fatal, "There is no such operation."},
	CodeInvalidTimeStampExpired:    {400, Operator, "The request's timestamp is too far from the endpoint's clock. Set the clocks."},
	CodeSignatureNonceUsed:         {400, Retryable, "The signature nonce was used before. Sign the request anew."},
	CodeSignatureDoesNotMatch:      {400, Operator, "The signature is wrong. Check the access key secret."},
	CodeInvalidAccessKeyIDNotFound: {404, Operator, "There is no such access key. Check the access key id."},
	CodeForbiddenUnauthorized:      {403, Operator, "The access key has no permission for this operation on this resource."},
	CodeThrottlingUser:             {400, Retryable, "Too many requests. Wait a little and send the request again."},
	CodeInternalServerError:        {500, Retryable, "The request failed inside the center. Send it again."},

	CodeSourceServerStateInvalid:              {400, Operator, "The state of the source server does not allow this."},
	CodeSourceServerNameDuplicate:             {400, Fatal, "Another source server has this name. Choose another."},
	CodeSourceServerWithRunningReplicationJob: {400, Operator, "A job of the source server is running. Stop it or wait for its end."},
	CodeReplicationJobRelated:                 {400, Operator, "The source server has a job. Delete the job first, or delete with Force."},
	CodeReplicationJobInvalidStatus:           {400, Operator, "The status of the job does not allow this."},
	CodeReplicationJobInvalidBusinessStatus:   {400, Operator, "The phase of the job does not allow this."},
	CodeReplicationJobDataDiskIndexInvalid:    {400, Fatal, "The source server has no data disk of this index."},
	CodeReplicationJobNameDuplicate:           {400, Fatal, "Another job has this name. Choose another."},
	CodeDataDiskDuplicateIndex:                {400, Fatal, "A data disk index is given twice."},
	CodeImageNameUsedByReplicationJob:         {400, Fatal, "An unfinished job in the region has this image name. Choose another."},
	CodeVSwitchIDVpcIDMismatch:                {400, Fatal, "The VSwitch is not in the VPC."},
	CodeInvalidSecurityGroupIncorrectNetwork:  {400, Fatal, "The security group is of another network type."},
	CodeInvalidSecurityGroupVPCMismatch:       {400, Fatal, "The security group and the VSwitch are in different VPCs."},
	CodeInvalidOsMigrationTypeNotMatched:      {400, Fatal, "The operating system of the source does not allow this kind of migration."},
	CodeQuotaExceededReplicationJob:           {400, Operator, "The account has as many jobs as it may. Delete some or raise the quota."},
	CodeEntityNotExistRole:                    {403, Operator, "The account lacks a role the service needs."},
	CodeRealNameAuthenticationError:           {403, Operator, "The account is not authenticated by real name."},
	CodeIdempotentParameterMismatch:           {400, Fatal, "The client token was used before with other parameters. Use a new one."},
	CodeNumberExceedTags:                      {400, Fatal, "More than 20 tags are given."},
	CodeNumberExceedResourceIDs:               {400, Fatal, "More than 50 resource ids are given."},
	CodeMissingParameterResourceType:          {400, Fatal, "The ResourceType parameter is missing."},
	CodeInvalidResourceTypeNotFound:           {400, Fatal, "ResourceType must be sourceserver or replicationjob."},
	CodeDuplicateResourceID:                   {400, Fatal, "A resource id is given twice."},
	CodeInvalidResourceIDNotFound:             {400, Fatal, "There is no such resource."},
	CodeInvalidParameterTagValue:              {400, Fatal, "A tag value is given without a key."},
})

// lookupCode returns what is known of a code. Missing<Name> and members of the InvalidParameter family need no
// entry of their own; an unknown code counts as a client's mistake (400), as the vendor's do.
func lookupCode(code string) codeInfo {
	if info, ok := codes[code]; ok {
		return info
	}
	return codeInfo{status: http.StatusBadRequest, class: Fatal, message: "The request was refused."}
}
