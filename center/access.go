package center

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"golang.org/x/time/rate"

	"github.com/drover/drover/center/ram"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
)

// Types of resources that policies name. CONTRACT knows the first two; the others are ours, for our own operations and
// for the audit log.
const (
	typeSource    = smc.ResourceTypeSourceServer
	typeJob       = smc.ResourceTypeReplicationJob
	typeKey       = "accesskey"
	typeAudit     = "auditrecord"
	typeToken     = "accesstoken"
	typeWorkgroup = "workgroup"
	typeTarget    = "targetinstance"
)

// anyID stands for every resource of a type.
const anyID = "*"

// resource names a resource of the caller's account as policies do.
func (e *Endpoint) resource(c *call, kind, id string) string {
	return "acs:smc:" + e.RegionID + ":" + c.accountID + ":" + kind + "/" + id
}

// concern is what a call is about.
type concern struct {
	// needs are the resources on which the caller must be allowed the operation.
	needs []string
	// about is what the audit log names beside them, where access rules have no resource of their own.
	about []string
}

// concernOf says what a request is about (CONTRACT: Access rules). An operation on no single resource needs all of its
// type. Activation codes and workgroups are of source servers. A request this does not know is nobody's to make. What it finds in the record of
// a job, because the request leaves it open, it writes into the request: that is what is then done.
func (e *Endpoint) concernOf(ctx context.Context, c *call, request any) (concern, error) {
	each := func(kind string, ids ...string) concern {
		if len(ids) == 0 {
			ids = []string{anyID}
		}
		var names concern
		for _, id := range ids {
			names.needs = append(names.needs, e.resource(c, kind, id))
		}
		return names
	}
	ofWorkgroup := func(id string, sourceIDs ...string) concern {
		names := each(typeSource, sourceIDs...)
		names.about = []string{e.resource(c, typeWorkgroup, id)}
		return names
	}
	ofToken := func(id string) concern {
		names := each(typeSource)
		names.about = []string{e.resource(c, typeToken, id)}
		return names
	}
	switch r := request.(type) {
	case *smc.DescribeSourceServersRequest:
		return each(typeSource, r.SourceID...), nil
	case *smc.ModifySourceServerAttributeRequest:
		return each(typeSource, r.SourceID), nil
	case *smc.DeleteSourceServerRequest:
		return each(typeSource, r.SourceID), nil

	case *smc.CreateReplicationJobRequest:
		return e.onTarget(c, concern{needs: []string{e.resource(c, typeJob, anyID), e.resource(c, typeSource, r.SourceID)}}, r.Target(), value(r.InstanceID)), nil
	case *smc.DescribeReplicationJobsRequest:
		return each(typeJob, r.JobID...), nil
	case *smc.DescribeReplicationJobDetailsRequest:
		return each(typeJob, r.JobID), nil
	case *smc.ModifyReplicationJobAttributeRequest:
		names := each(typeJob, r.JobID)
		target := value(r.TargetType) // empty: that of the job stays
		if target == "" && r.InstanceID == nil {
			return names, nil
		}
		job, err := e.Store.Job(ctx, c.accountID, r.JobID)
		if errors.Is(err, store.ErrNotFound) {
			return names, nil
		}
		if err != nil {
			return concern{}, err
		}
		spec := job.Spec
		if target != "" {
			spec.TargetType = r.TargetType
		}
		if r.InstanceID != nil {
			spec.InstanceID = r.InstanceID
		}
		// What is allowed is what is asked for, whatever else modifies the job before this does.
		kind, instance := string(spec.Target()), value(spec.InstanceID)
		r.TargetType = &kind
		if spec.Target() == smc.TargetInstance {
			r.InstanceID = &instance
		}
		return e.onTarget(c, names, spec.Target(), instance), nil
	case *smc.StartReplicationJobRequest:
		return each(typeJob, r.JobID), nil
	case *smc.StopReplicationJobRequest:
		return each(typeJob, r.JobID), nil
	case *smc.CutOverReplicationJobRequest:
		return each(typeJob, r.JobID), nil
	case *smc.DeleteReplicationJobRequest:
		return each(typeJob, r.JobID), nil
	case *smc.RunReplicationJobRequest:
		return each(typeJob, r.JobID), nil
	case *smc.CreateCrossZoneMigrationJobRequest:
		return each(typeJob), nil
	case *smc.DescribeImagesRequest:
		if id := value(r.JobID); id != "" {
			return each(typeJob, id), nil
		}
		return each(typeJob), nil
	case *smc.DescribeTargetInstancesRequest:
		return each(typeTarget, r.InstanceID...), nil
	case *smc.DeleteTargetInstanceRequest:
		return each(typeTarget, r.InstanceID), nil
	case *smc.GetImageTicketRequest:
		jobs, err := e.jobOfImage(ctx, c, r.ImageID)
		return each(typeJob, jobs...), err
	case *smc.DeleteImageRequest:
		jobs, err := e.jobOfImage(ctx, c, r.ImageID)
		return each(typeJob, jobs...), err

	case *smc.TagResourcesRequest:
		return each(strings.ToLower(r.ResourceType), r.ResourceID...), nil
	case *smc.UntagResourcesRequest:
		return each(strings.ToLower(r.ResourceType), r.ResourceID...), nil
	case *smc.ListTagResourcesRequest:
		return each(strings.ToLower(r.ResourceType), r.ResourceID...), nil

	case *smc.CreateAccessTokenRequest, *smc.ListAccessTokensRequest, *smc.CreateWorkgroupRequest, *smc.DescribeWorkgroupsRequest:
		return each(typeSource), nil
	case *smc.DisableAccessTokenRequest:
		return ofToken(r.AccessTokenID), nil
	case *smc.DeleteAccessTokenRequest:
		return ofToken(r.AccessTokenID), nil
	case *smc.ModifyWorkgroupAttributeRequest:
		return ofWorkgroup(r.WorkgroupID), nil
	case *smc.DeleteWorkgroupRequest:
		return ofWorkgroup(r.WorkgroupID), nil
	case *smc.AssociateSourceServersRequest:
		return ofWorkgroup(r.WorkgroupID, r.SourceID...), nil
	case *smc.DisassociateSourceServersRequest:
		return ofWorkgroup(r.WorkgroupID, r.SourceID...), nil

	case *smc.CreateAccessKeyRequest, *smc.ListAccessKeysRequest:
		return each(typeKey), nil
	case *smc.DisableAccessKeyRequest:
		return each(typeKey, r.KeyID), nil
	case *smc.DescribeAuditLogRequest:
		return each(typeAudit), nil
	}
	return concern{}, smc.Errorf(smc.CodeForbiddenUnauthorized, "no access rule is known for a %T", request)
}

// jobOfImage returns the id of the job that made an image, whose name stands for the image's; none when there is no such image.
func (e *Endpoint) jobOfImage(ctx context.Context, c *call, imageID string) ([]string, error) {
	image, err := e.Store.Image(ctx, c.accountID, imageID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return []string{image.JobID}, nil
}

// onTarget adds the target instance that a job is to migrate to: its disks are overwritten.
func (e *Endpoint) onTarget(c *call, names concern, target smc.TargetType, instanceID string) concern {
	if target == smc.TargetInstance {
		names.needs = append(names.needs, e.resource(c, typeTarget, instanceID))
	}
	return names
}

// authorize refuses what the policy of the caller's key does not allow. A key without a policy may do everything in its
// account.
func (e *Endpoint) authorize(ctx context.Context, c *call, operation string, request any) error {
	names, err := e.concernOf(ctx, c, request)
	if err != nil {
		return err
	}
	c.resources = slices.Concat(names.about, names.needs)
	if c.key.Policy == "" {
		return nil
	}
	policy, err := ram.Parse(c.key.Policy)
	if err != nil { // it was understood when it was stored
		return smc.Errorf(smc.CodeForbiddenUnauthorized, "the policy of access key %s is not valid: %v", c.key.AccessKeyID, err)
	}
	action := "smc:" + operation
	for _, name := range names.needs {
		if decision := policy.Decide(action, name); decision != ram.Granted {
			return smc.Errorf(smc.CodeForbiddenUnauthorized, "access key %s may not do %s on %s: %s in its policy; ask for a key that may", c.key.AccessKeyID, action, name, decision)
		}
	}
	return nil
}

// checkPolicy refuses a policy document that is not understood, and one that names an operation there is none of: a
// misspelt Deny would deny nothing.
func checkPolicy(document string) error {
	policy, err := ram.Parse(document)
	if err != nil {
		return smc.Errorf(smc.CodeInvalidPolicy, "Policy: %v", err)
	}
	for _, pattern := range policy.ActionPatterns() {
		if !slices.ContainsFunc(smc.Operations(), func(o smc.AnyOperation) bool { return ram.Match(pattern, "smc:"+o.Name()) }) {
			return smc.Errorf(smc.CodeInvalidPolicy, "Policy: the action %q is that of no operation", pattern)
		}
	}
	return nil
}

// throttle limits how often each access key calls.
type throttle struct {
	perSecond rate.Limit
	burst     int

	mutex sync.Mutex
	// keys holds only keys whose signature was right: nobody fills it from outside.
	keys map[string]*rate.Limiter
}

func newThrottle(perSecond float64, burst int) *throttle {
	return &throttle{perSecond: rate.Limit(perSecond), burst: max(burst, 1), keys: map[string]*rate.Limiter{}}
}

// admit counts a call of an access key, or refuses it with Throttling.User.
func (t *throttle) admit(accessKeyID string) error {
	if t.perSecond <= 0 {
		return nil
	}
	t.mutex.Lock()
	limiter, ok := t.keys[accessKeyID]
	if !ok {
		limiter = rate.NewLimiter(t.perSecond, t.burst)
		t.keys[accessKeyID] = limiter
	}
	t.mutex.Unlock()
	if limiter.Allow() {
		return nil
	}
	return smc.Errorf(smc.CodeThrottlingUser, "access key %s makes more than %v calls a second (%d at once): wait a moment and send the call again", accessKeyID, float64(t.perSecond), t.burst)
}
