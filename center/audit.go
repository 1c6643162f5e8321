package center

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
)

const (
	// forgedPerSecond and forgedBurst bound how often calls are recorded that cost their sender nothing: those that are
	// not genuine, and those that are throttled. All of them are logged.
	forgedPerSecond rate.Limit = 5
	forgedBurst     int        = 100

	// auditTimeout is how long the record of a call may hold up its answer.
	auditTimeout = 5 * time.Second
	// auditDelay is how long the record of a call that changed nothing waits for others to be written with it, and
	// auditBatch how many wait at most.
	auditDelay = 200 * time.Millisecond
	auditBatch = 200
)

// audit records a call whose outcome is known. The record of a call that may have changed something is in the database
// before the call is answered; the others follow together. A record that cannot be written is logged and changes nothing
// for the caller.
func (e *Endpoint) audit(ctx context.Context, c *call, operation smc.AnyOperation, outcome error) {
	code := smc.OutcomeOK
	if outcome != nil {
		code = smc.AsError(outcome).Code
	}
	throttled := code == smc.CodeThrottlingUser
	if (!c.verified || throttled) && !e.forged.Allow() {
		return
	}
	record := store.AuditRecord{
		RequestID: c.requestID, At: c.now, AccountID: c.accountID, AccessKeyID: c.key.AccessKeyID, Resources: c.resources, Remote: c.remote, Outcome: code,
	}
	if operation != nil {
		record.Action = operation.Name()
	}
	if c.verified && !throttled && operation != nil && !operation.ReadOnly() {
		e.records.write(ctx, []store.AuditRecord{record})
		return
	}
	e.records.keep(ctx, record)
}

// auditRecords writes the audit log. Records of calls that changed nothing, which are most, are written together: one
// transaction for each would cost more than such a call does.
type auditRecords struct {
	store *store.Store
	log   *zap.Logger

	mutex   sync.Mutex
	waiting []store.AuditRecord
	timer   *time.Timer // runs while records wait

	flushing sync.Mutex // held while records are written: who flushes next finds them written
}

// keep has a record written soon. Who brings one too many waits for them to be written, so that there are never more.
func (r *auditRecords) keep(ctx context.Context, record store.AuditRecord) {
	r.mutex.Lock()
	r.waiting = append(r.waiting, record)
	full := len(r.waiting) >= auditBatch
	if r.timer == nil {
		r.timer = time.AfterFunc(auditDelay, func() { r.flush(context.Background()) })
	}
	r.mutex.Unlock()
	if full {
		r.flush(ctx)
	}
}

// flush writes the records that wait.
func (r *auditRecords) flush(ctx context.Context) {
	r.flushing.Lock()
	defer r.flushing.Unlock()
	r.mutex.Lock()
	records := r.waiting
	r.waiting = nil
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
	r.mutex.Unlock()
	if len(records) > 0 {
		r.write(ctx, records)
	}
}

// write has records in the database, whatever becomes of the caller who waits for it: they may be of others.
func (r *auditRecords) write(ctx context.Context, records []store.AuditRecord) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), auditTimeout)
	defer cancel()
	if err := r.store.Audit(ctx, records...); err != nil {
		for _, record := range records {
			r.log.Error("call not in the audit log", zap.String("request_id", record.RequestID), zap.String("action", record.Action), zap.String("account_id", record.AccountID),
				zap.String("access_key_id", record.AccessKeyID), zap.Strings("resources", record.Resources), zap.String("outcome", record.Outcome), zap.Error(err))
		}
	}
}
