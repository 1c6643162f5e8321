package center

import (
	"context"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
)

// Anyone can send a wrong signature: such refusals are recorded up to this rate, all of them are logged.
const (
	forgedPerSecond rate.Limit = 5
	forgedBurst     int        = 100
)

// auditTimeout is how long the record of a call may hold up its answer.
const auditTimeout = 5 * time.Second

// audit records a call whose outcome is known: every call of an operation that changes something, and every call that was
// refused because of who made it. Throttled calls leave no record: that would be work too. A record that cannot be written
// is logged and changes nothing for the caller.
func (e *Endpoint) audit(ctx context.Context, c *call, operation smc.AnyOperation, outcome error) {
	code := smc.OutcomeOK
	if outcome != nil {
		code = smc.AsError(outcome).Code
	}
	switch {
	case code == smc.CodeThrottlingUser:
		return
	case !c.verified && (c.key.AccessKeyID == "" || !e.forged.Allow()):
		return
	case c.verified && code != smc.CodeForbiddenUnauthorized && (operation == nil || operation.ReadOnly()):
		return
	}
	record := store.AuditRecord{
		RequestID: c.requestID, At: c.now, AccountID: c.accountID, AccessKeyID: c.key.AccessKeyID, Resources: c.resources, Remote: c.remote, Outcome: code,
	}
	if operation != nil {
		record.Action = operation.Name()
	}
	// The caller may be gone; what it did is done.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), auditTimeout)
	defer cancel()
	if err := e.Store.Audit(ctx, record); err != nil {
		c.log.Error("call not in the audit log", zap.String("action", record.Action), zap.String("account_id", record.AccountID), zap.String("access_key_id", record.AccessKeyID),
			zap.Strings("resources", record.Resources), zap.String("outcome", code), zap.Error(err))
	}
}
