package smc

import "context"

// DescribeSourceServers calls the operation of that name; see Do for retries and errors.
func (c *Client) DescribeSourceServers(ctx context.Context, req *DescribeSourceServersRequest) (*DescribeSourceServersResult, error) {
	return Do(ctx, c, DescribeSourceServers, req)
}

// ModifySourceServerAttribute calls the operation of that name; see Do for retries and errors.
func (c *Client) ModifySourceServerAttribute(ctx context.Context, req *ModifySourceServerAttributeRequest) (*ModifySourceServerAttributeResult, error) {
	return Do(ctx, c, ModifySourceServerAttribute, req)
}

// DeleteSourceServer calls the operation of that name; see Do for retries and errors.
func (c *Client) DeleteSourceServer(ctx context.Context, req *DeleteSourceServerRequest) (*DeleteSourceServerResult, error) {
	return Do(ctx, c, DeleteSourceServer, req)
}

// CreateReplicationJob calls the operation of that name; see Do for retries and errors.
func (c *Client) CreateReplicationJob(ctx context.Context, req *CreateReplicationJobRequest) (*CreateReplicationJobResult, error) {
	return Do(ctx, c, CreateReplicationJob, req)
}

// DescribeReplicationJobs calls the operation of that name; see Do for retries and errors.
func (c *Client) DescribeReplicationJobs(ctx context.Context, req *DescribeReplicationJobsRequest) (*DescribeReplicationJobsResult, error) {
	return Do(ctx, c, DescribeReplicationJobs, req)
}

// ModifyReplicationJobAttribute calls the operation of that name; see Do for retries and errors.
func (c *Client) ModifyReplicationJobAttribute(ctx context.Context, req *ModifyReplicationJobAttributeRequest) (*ModifyReplicationJobAttributeResult, error) {
	return Do(ctx, c, ModifyReplicationJobAttribute, req)
}

// StartReplicationJob calls the operation of that name; see Do for retries and errors.
func (c *Client) StartReplicationJob(ctx context.Context, req *StartReplicationJobRequest) (*StartReplicationJobResult, error) {
	return Do(ctx, c, StartReplicationJob, req)
}

// StopReplicationJob calls the operation of that name; see Do for retries and errors.
func (c *Client) StopReplicationJob(ctx context.Context, req *StopReplicationJobRequest) (*StopReplicationJobResult, error) {
	return Do(ctx, c, StopReplicationJob, req)
}

// CutOverReplicationJob calls the operation of that name; see Do for retries and errors.
func (c *Client) CutOverReplicationJob(ctx context.Context, req *CutOverReplicationJobRequest) (*CutOverReplicationJobResult, error) {
	return Do(ctx, c, CutOverReplicationJob, req)
}

// DeleteReplicationJob calls the operation of that name; see Do for retries and errors.
func (c *Client) DeleteReplicationJob(ctx context.Context, req *DeleteReplicationJobRequest) (*DeleteReplicationJobResult, error) {
	return Do(ctx, c, DeleteReplicationJob, req)
}

// CreateCrossZoneMigrationJob calls the operation of that name; see Do for retries and errors.
func (c *Client) CreateCrossZoneMigrationJob(ctx context.Context, req *CreateCrossZoneMigrationJobRequest) (*CreateCrossZoneMigrationJobResult, error) {
	return Do(ctx, c, CreateCrossZoneMigrationJob, req)
}

// CreateAccessToken calls the operation of that name; see Do for retries and errors.
func (c *Client) CreateAccessToken(ctx context.Context, req *CreateAccessTokenRequest) (*CreateAccessTokenResult, error) {
	return Do(ctx, c, CreateAccessToken, req)
}

// ListAccessTokens calls the operation of that name; see Do for retries and errors.
func (c *Client) ListAccessTokens(ctx context.Context, req *ListAccessTokensRequest) (*ListAccessTokensResult, error) {
	return Do(ctx, c, ListAccessTokens, req)
}

// DisableAccessToken calls the operation of that name; see Do for retries and errors.
func (c *Client) DisableAccessToken(ctx context.Context, req *DisableAccessTokenRequest) (*DisableAccessTokenResult, error) {
	return Do(ctx, c, DisableAccessToken, req)
}

// DeleteAccessToken calls the operation of that name; see Do for retries and errors.
func (c *Client) DeleteAccessToken(ctx context.Context, req *DeleteAccessTokenRequest) (*DeleteAccessTokenResult, error) {
	return Do(ctx, c, DeleteAccessToken, req)
}

// TagResources calls the operation of that name; see Do for retries and errors.
func (c *Client) TagResources(ctx context.Context, req *TagResourcesRequest) (*TagResourcesResult, error) {
	return Do(ctx, c, TagResources, req)
}

// ListTagResources calls the operation of that name; see Do for retries and errors.
func (c *Client) ListTagResources(ctx context.Context, req *ListTagResourcesRequest) (*ListTagResourcesResult, error) {
	return Do(ctx, c, ListTagResources, req)
}

// UntagResources calls the operation of that name; see Do for retries and errors.
func (c *Client) UntagResources(ctx context.Context, req *UntagResourcesRequest) (*UntagResourcesResult, error) {
	return Do(ctx, c, UntagResources, req)
}

// CreateWorkgroup calls the operation of that name; see Do for retries and errors.
func (c *Client) CreateWorkgroup(ctx context.Context, req *CreateWorkgroupRequest) (*CreateWorkgroupResult, error) {
	return Do(ctx, c, CreateWorkgroup, req)
}

// DescribeWorkgroups calls the operation of that name; see Do for retries and errors.
func (c *Client) DescribeWorkgroups(ctx context.Context, req *DescribeWorkgroupsRequest) (*DescribeWorkgroupsResult, error) {
	return Do(ctx, c, DescribeWorkgroups, req)
}

// ModifyWorkgroupAttribute calls the operation of that name; see Do for retries and errors.
func (c *Client) ModifyWorkgroupAttribute(ctx context.Context, req *ModifyWorkgroupAttributeRequest) (*ModifyWorkgroupAttributeResult, error) {
	return Do(ctx, c, ModifyWorkgroupAttribute, req)
}

// DeleteWorkgroup calls the operation of that name; see Do for retries and errors.
func (c *Client) DeleteWorkgroup(ctx context.Context, req *DeleteWorkgroupRequest) (*DeleteWorkgroupResult, error) {
	return Do(ctx, c, DeleteWorkgroup, req)
}

// AssociateSourceServers calls the operation of that name; see Do for retries and errors.
func (c *Client) AssociateSourceServers(ctx context.Context, req *AssociateSourceServersRequest) (*AssociateSourceServersResult, error) {
	return Do(ctx, c, AssociateSourceServers, req)
}

// DisassociateSourceServers calls the operation of that name; see Do for retries and errors.
func (c *Client) DisassociateSourceServers(ctx context.Context, req *DisassociateSourceServersRequest) (*DisassociateSourceServersResult, error) {
	return Do(ctx, c, DisassociateSourceServers, req)
}

// RunReplicationJob calls the operation of that name; see Do for retries and errors.
func (c *Client) RunReplicationJob(ctx context.Context, req *RunReplicationJobRequest) (*RunReplicationJobResult, error) {
	return Do(ctx, c, RunReplicationJob, req)
}

// DescribeReplicationJobDetails calls the operation of that name; see Do for retries and errors.
func (c *Client) DescribeReplicationJobDetails(ctx context.Context, req *DescribeReplicationJobDetailsRequest) (*DescribeReplicationJobDetailsResult, error) {
	return Do(ctx, c, DescribeReplicationJobDetails, req)
}

// DescribeImages calls the operation of that name; see Do for retries and errors.
func (c *Client) DescribeImages(ctx context.Context, req *DescribeImagesRequest) (*DescribeImagesResult, error) {
	return Do(ctx, c, DescribeImages, req)
}

// GetImageTicket calls the operation of that name; see Do for retries and errors.
func (c *Client) GetImageTicket(ctx context.Context, req *GetImageTicketRequest) (*GetImageTicketResult, error) {
	return Do(ctx, c, GetImageTicket, req)
}

// DescribeTargetInstances calls the operation of that name; see Do for retries and errors.
func (c *Client) DescribeTargetInstances(ctx context.Context, req *DescribeTargetInstancesRequest) (*DescribeTargetInstancesResult, error) {
	return Do(ctx, c, DescribeTargetInstances, req)
}

// DeleteTargetInstance calls the operation of that name; see Do for retries and errors.
func (c *Client) DeleteTargetInstance(ctx context.Context, req *DeleteTargetInstanceRequest) (*DeleteTargetInstanceResult, error) {
	return Do(ctx, c, DeleteTargetInstance, req)
}

// DeleteImage calls the operation of that name; see Do for retries and errors.
func (c *Client) DeleteImage(ctx context.Context, req *DeleteImageRequest) (*DeleteImageResult, error) {
	return Do(ctx, c, DeleteImage, req)
}

// CreateAccessKey calls the operation of that name; see Do for retries and errors.
func (c *Client) CreateAccessKey(ctx context.Context, req *CreateAccessKeyRequest) (*CreateAccessKeyResult, error) {
	return Do(ctx, c, CreateAccessKey, req)
}

// ListAccessKeys calls the operation of that name; see Do for retries and errors.
func (c *Client) ListAccessKeys(ctx context.Context, req *ListAccessKeysRequest) (*ListAccessKeysResult, error) {
	return Do(ctx, c, ListAccessKeys, req)
}

// DisableAccessKey calls the operation of that name; see Do for retries and errors.
func (c *Client) DisableAccessKey(ctx context.Context, req *DisableAccessKeyRequest) (*DisableAccessKeyResult, error) {
	return Do(ctx, c, DisableAccessKey, req)
}

// DescribeAuditLog calls the operation of that name; see Do for retries and errors.
func (c *Client) DescribeAuditLog(ctx context.Context, req *DescribeAuditLogRequest) (*DescribeAuditLogResult, error) {
	return Do(ctx, c, DescribeAuditLog, req)
}
