package center

import (
	"context"
	"crypto/rand"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
)

func (e *Endpoint) registerAccessKeys() {
	serve(e, smc.CreateAccessKey, e.createAccessKey)
	serve(e, smc.ListAccessKeys, e.listAccessKeys)
	serve(e, smc.DisableAccessKey, func(ctx context.Context, c *call, r *smc.DisableAccessKeyRequest) (*smc.DisableAccessKeyResult, error) {
		if r.KeyID == c.key.AccessKeyID {
			return nil, smc.Errorf(smc.CodeInvalidParameter, "KeyId: %s signs this very call; disable it with another key, so that one is left", r.KeyID)
		}
		return &smc.DisableAccessKeyResult{}, e.Store.DisableAccessKey(ctx, c.accountID, r.KeyID)
	})
	serve(e, smc.DescribeAuditLog, e.describeAuditLog)
}

// createAccessKey makes a key of the caller's account. Who may call it may do everything, by a key without a policy:
// policies grant smc:CreateAccessKey, and smc:*, with that in mind.
func (e *Endpoint) createAccessKey(ctx context.Context, c *call, r *smc.CreateAccessKeyRequest) (*smc.CreateAccessKeyResult, error) {
	key := store.AccessKey{
		AccessKeyID: "AK" + rand.Text(), Secret: newSecret(), AccountID: c.accountID, Description: value(r.Description), Policy: value(r.Policy),
	}
	if r.Policy != nil { // one that is sent empty is a mistake: no policy would allow everything
		if err := checkPolicy(key.Policy); err != nil {
			return nil, err
		}
	}
	if err := e.Store.CreateAccessKey(ctx, key); err != nil {
		return nil, err
	}
	c.touched(e.resource(c, typeKey, key.AccessKeyID))
	return &smc.CreateAccessKeyResult{AccessKeyID: key.AccessKeyID, AccessKeySecret: key.Secret}, nil
}

func (e *Endpoint) listAccessKeys(ctx context.Context, c *call, r *smc.ListAccessKeysRequest) (*smc.ListAccessKeysResult, error) {
	number, size := smc.PageOf(r.PageNumber, r.PageSize)
	keys, total, err := e.Store.AccessKeys(ctx, c.accountID, store.Page{Number: number, Size: size})
	if err != nil {
		return nil, err
	}
	result := &smc.ListAccessKeysResult{Page: smc.Page{TotalCount: total, PageNumber: number, PageSize: size}}
	for _, key := range keys {
		shown := smc.AccessKey{
			AccessKeyID: key.AccessKeyID, Description: key.Description, Status: smc.AccessKeyActive, Policy: key.Policy, CreationTime: smc.FormatTime(key.CreatedAt),
		}
		if key.Disabled {
			shown.Status = smc.AccessKeyDisabled
		}
		result.AccessKeys = append(result.AccessKeys, shown)
	}
	return result, nil
}

func (e *Endpoint) describeAuditLog(ctx context.Context, c *call, r *smc.DescribeAuditLogRequest) (*smc.DescribeAuditLogResult, error) {
	number, size := smc.PageOf(r.PageNumber, r.PageSize)
	e.records.flush(ctx) // who asks sees what it did before
	filter := store.AuditFilter{AccessKeyID: value(r.KeyID), Action: value(r.Operation), Outcome: value(r.Outcome), Since: r.Since(), Until: r.Until()}
	if value(r.Changes) {
		for _, operation := range smc.Operations() {
			if operation.ReadOnly() {
				filter.NotActions = append(filter.NotActions, operation.Name())
			}
		}
	}
	records, total, err := e.Store.AuditLog(ctx, c.accountID, filter, store.Page{Number: number, Size: size})
	if err != nil {
		return nil, err
	}
	result := &smc.DescribeAuditLogResult{Page: smc.Page{TotalCount: total, PageNumber: number, PageSize: size}}
	for _, record := range records {
		shown := smc.AuditRecord{
			CallID: record.RequestID, Time: smc.FormatTime(record.At), KeyID: record.AccessKeyID, Operation: record.Action,
			RemoteAddress: record.Remote, Outcome: record.Outcome,
		}
		for _, name := range record.Resources {
			shown.Resources = append(shown.Resources, smc.ResourceName(name))
		}
		result.AuditRecords = append(result.AuditRecords, shown)
	}
	return result, nil
}
