package store

import (
	"context"
	"time"

	"github.com/drover/drover/smc"
)

// clientTokenLife is how long a client token is remembered (CONTRACT: ClientToken), also past the deletion of what it made.
const clientTokenLife = 7 * 24 * time.Hour

// madeBefore asks for the id of what a client token made in the last 7 days; known is false for a token that is new, or
// that is old enough to be new again, and for an empty one. The error for a token that came with other parameters is
// IdempotentParameterMismatch.
func (s *Store) madeBefore(a *asking, accountID, token, digest string) (answer func() (id string, known bool, err error)) {
	var id, before string
	known := false
	if token != "" {
		a.ask(func(row rowScanner) error {
			known = true
			return row.Scan(&id, &before)
		}, `SELECT job_id, digest FROM client_tokens WHERE account_id = ? AND token = ? AND created_at > ?`, accountID, token, millis(s.now().Add(-clientTokenLife)))
	}
	return func() (string, bool, error) {
		if known && before != digest {
			return "", false, smc.Errorf(smc.CodeIdempotentParameterMismatch, "ClientToken: this token made %s, with other parameters: use a new token for a new call", id)
		}
		return id, known, nil
	}
}

// rememberToken records what a client token made. Of two that use a token at once the database lets one through; the
// other then finds it known.
func (s *Store) rememberToken(ctx context.Context, tx *transaction, accountID, token, digest, id string) error {
	now := s.now()
	if err := tx.later(ctx, nil, `DELETE FROM client_tokens WHERE account_id = ? AND token = ? AND created_at <= ?`,
		accountID, token, millis(now.Add(-clientTokenLife))); err != nil {
		return err
	}
	return tx.later(ctx, nil, `INSERT INTO client_tokens (account_id, token, digest, job_id, created_at) VALUES (?, ?, ?, ?, ?)`,
		accountID, token, digest, id, millis(now))
}

// ForgetClientTokens drops the client tokens that are no longer remembered, and returns how many. A lookup does not find
// them anyway.
func (s *Store) ForgetClientTokens(ctx context.Context) (int64, error) {
	return s.deleteAll(ctx, `DELETE FROM client_tokens WHERE (account_id, token) IN (SELECT account_id, token FROM client_tokens WHERE created_at <= ?
		ORDER BY created_at LIMIT ?)`, millis(s.now().Add(-clientTokenLife)))
}
