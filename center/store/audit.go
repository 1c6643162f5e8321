package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// AuditRecord is one row of audit: who did what, to which resources, with what outcome.
type AuditRecord struct {
	RequestID   string
	At          time.Time
	AccountID   string // empty when the caller is not known
	AccessKeyID string
	Action      string
	Resources   []string
	Remote      string
	Outcome     string // smc.OutcomeOK or an error code
}

// Audit appends to the audit log.
func (s *Store) Audit(ctx context.Context, record AuditRecord) error {
	if record.Resources == nil {
		record.Resources = []string{}
	}
	resources, err := json.Marshal(record.Resources)
	if err != nil {
		return err
	}
	return s.write(ctx, func(tx *transaction) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO audit (request_id, at, account_id, access_key_id, action, resources, remote, outcome) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
			record.RequestID, millis(record.At), record.AccountID, record.AccessKeyID, record.Action, string(resources), record.Remote, record.Outcome)
		return err
	})
}

// AuditFilter narrows AuditLog; empty fields do not filter, the others must all match.
type AuditFilter struct {
	AccessKeyID, Action, Outcome string
	Since, Until                 time.Time // Until is not included
}

// AuditLog lists the audit log of an account, newest first, and how many records match in all.
func (s *Store) AuditLog(ctx context.Context, accountID string, filter AuditFilter, page Page) ([]AuditRecord, int, error) {
	where := ofAccount(accountID)
	where.equal("access_key_id", filter.AccessKeyID)
	where.equal("action", filter.Action)
	where.equal("outcome", filter.Outcome)
	if !filter.Since.IsZero() {
		where.clauses, where.args = append(where.clauses, "at >= ?"), append(where.args, millis(filter.Since))
	}
	if !filter.Until.IsZero() {
		where.clauses, where.args = append(where.clauses, "at < ?"), append(where.args, millis(filter.Until))
	}
	return list(ctx, s.db, `SELECT request_id, at, account_id, access_key_id, action, resources, remote, outcome FROM audit`, "audit", "at DESC, request_id",
		where, page, func(row rowScanner) (record AuditRecord, err error) {
			var at int64
			var resources string
			if err := row.Scan(&record.RequestID, &at, &record.AccountID, &record.AccessKeyID, &record.Action, &resources, &record.Remote, &record.Outcome); err != nil {
				return record, err
			}
			record.At = fromMillis(at)
			if err := json.Unmarshal([]byte(resources), &record.Resources); err != nil {
				return record, fmt.Errorf("audit record %s: %w", record.RequestID, err)
			}
			return record, nil
		})
}
