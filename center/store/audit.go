package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
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

// auditRows is how many records a statement writes; SQLite and PostgreSQL bound the arguments of one.
const auditRows = 100

// Audit appends to the audit log: all of the records or none.
func (s *Store) Audit(ctx context.Context, records ...AuditRecord) error {
	return s.write(ctx, func(tx *transaction) error {
		for rows := range slices.Chunk(records, auditRows) {
			const row = "(?, ?, ?, ?, ?, ?, ?, ?)"
			args := make([]any, 0, len(rows)*strings.Count(row, "?"))
			for _, record := range rows {
				if record.Resources == nil {
					record.Resources = []string{}
				}
				resources, err := json.Marshal(record.Resources)
				if err != nil {
					return err
				}
				args = append(args, record.RequestID, millis(record.At), record.AccountID, record.AccessKeyID, record.Action, string(resources), record.Remote, record.Outcome)
			}
			if err := tx.later(ctx, nil, `INSERT INTO audit (request_id, at, account_id, access_key_id, action, resources, remote, outcome) VALUES `+
				row+strings.Repeat(", "+row, len(rows)-1), args...); err != nil {
				return err
			}
		}
		return nil
	})
}

// AuditFilter narrows AuditLog; empty fields do not filter, the others must all match.
type AuditFilter struct {
	AccessKeyID, Action, Outcome string
	NotActions                   []string
	Since, Until                 time.Time // Until is not included
}

// AuditLog lists the audit log of an account, newest first, and how many records match in all.
func (s *Store) AuditLog(ctx context.Context, accountID string, filter AuditFilter, page Page) ([]AuditRecord, int, error) {
	where := ofAccount(accountID)
	where.equal("access_key_id", filter.AccessKeyID)
	where.equal("action", filter.Action)
	where.equal("outcome", filter.Outcome)
	where.notIn("action", filter.NotActions)
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
