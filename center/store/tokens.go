package store

import (
	"context"
	"database/sql"
	"errors"

	"github.com/drover/drover/smc"
)

const selectAccessToken = `SELECT access_token_id, account_id, region_id, name, description, max_count, registered_count, ttl_days, disabled, created_at FROM access_tokens`

func scanAccessToken(row rowScanner) (*AccessToken, error) {
	var token AccessToken
	var disabled int
	var created int64
	err := row.Scan(&token.AccessTokenID, &token.AccountID, &token.RegionID, &token.Name, &token.Description, &token.Count, &token.RegisteredCount,
		&token.TTLDays, &disabled, &created)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNotFound
	}
	token.Disabled, token.CreatedAt = disabled != 0, fromMillis(created)
	return &token, err
}

// AccessTokens lists the activation codes of an account, newest first, that have an id of ids and the name, when given.
func (s *Store) AccessTokens(ctx context.Context, accountID string, ids []string, name string) ([]*AccessToken, error) {
	where := ofAccount(accountID)
	where.in("access_token_id", ids)
	where.equal("name", name)
	rows, err := s.db.QueryContext(ctx, selectAccessToken+where.String()+` ORDER BY created_at DESC, access_token_id`, where.args...)
	if err != nil {
		return nil, err
	}
	return collect(rows, scanAccessToken)
}

// DisableAccessToken ends an activation code for good; sources that registered with it stay.
func (s *Store) DisableAccessToken(ctx context.Context, accountID, id string) error {
	return s.changeAccessToken(ctx, `UPDATE access_tokens SET disabled = 1 WHERE account_id = ? AND access_token_id = ?`, accountID, id)
}

// DeleteAccessToken deletes an activation code; sources that registered with it stay.
func (s *Store) DeleteAccessToken(ctx context.Context, accountID, id string) error {
	return s.changeAccessToken(ctx, `DELETE FROM access_tokens WHERE account_id = ? AND access_token_id = ?`, accountID, id)
}

func (s *Store) changeAccessToken(ctx context.Context, statement, accountID, id string) error {
	return s.write(ctx, func(tx *transaction) error {
		n, err := rowsAffected(tx.ExecContext(ctx, statement, accountID, id))
		if err == nil && n == 0 {
			err = smc.Errorf(smc.CodeInvalidAccessTokenIDNotFound, "activation code %s does not exist: ListAccessTokens lists those there are", id)
		}
		return err
	})
}
