package store

import (
	"context"
	"database/sql"
	"errors"

	"github.com/drover/drover/smc"
)

const selectAccessKey = `SELECT access_key_id, secret, account_id, description, policy, disabled, created_at FROM access_keys`

// scanAccessKey leaves the secret as it is stored.
func scanAccessKey(row rowScanner) (AccessKey, error) {
	var key AccessKey
	var disabled int
	var created int64
	err := row.Scan(&key.AccessKeyID, &key.Secret, &key.AccountID, &key.Description, &key.Policy, &disabled, &created)
	if errors.Is(err, sql.ErrNoRows) {
		return AccessKey{}, ErrNotFound
	}
	key.Disabled, key.CreatedAt = disabled != 0, fromMillis(created)
	return key, err
}

const insertAccessKey = `INSERT INTO access_keys (access_key_id, secret, account_id, description, policy, created_at) VALUES (?, ?, ?, ?, ?, ?)`

// PutAccessKey stores the first key pair of a center. One of the same id gets the secret and the account; that it was
// disabled, and its policy, stay.
func (s *Store) PutAccessKey(ctx context.Context, key AccessKey) error {
	return s.insertAccessKey(ctx, insertAccessKey+` ON CONFLICT (access_key_id) DO UPDATE SET secret = excluded.secret, account_id = excluded.account_id`, key)
}

// CreateAccessKey stores a new key pair.
func (s *Store) CreateAccessKey(ctx context.Context, key AccessKey) error {
	return s.insertAccessKey(ctx, insertAccessKey, key)
}

func (s *Store) insertAccessKey(ctx context.Context, statement string, key AccessKey) error {
	secret, err := s.seal(secretPlace{accessKeySecret, key.AccessKeyID}, key.Secret)
	if err != nil {
		return err
	}
	return s.write(ctx, func(tx *transaction) error {
		_, err := tx.ExecContext(ctx, statement, key.AccessKeyID, secret, key.AccountID, key.Description, key.Policy, millis(s.now()))
		return err
	})
}

// AccessKey returns the key pair of an id, disabled or not. Errors: ErrNotFound, ErrNotOpened.
func (s *Store) AccessKey(ctx context.Context, id string) (AccessKey, error) {
	key, err := scanAccessKey(s.db.QueryRowContext(ctx, selectAccessKey+` WHERE access_key_id = ?`, id))
	if err != nil {
		return AccessKey{}, err
	}
	key.stored = key.Secret
	if key.Secret, err = s.unseal(secretPlace{accessKeySecret, key.AccessKeyID}, key.stored); err != nil {
		return AccessKey{}, err
	}
	return key, nil
}

// AccessKeys lists the access keys of an account, without their secrets, newest first, and how many there are in all.
func (s *Store) AccessKeys(ctx context.Context, accountID string, page Page) ([]AccessKey, int, error) {
	return list(ctx, s.db, selectAccessKey, "access_keys", "created_at DESC, access_key_id", ofAccount(accountID), page, func(row rowScanner) (AccessKey, error) {
		key, err := scanAccessKey(row)
		key.Secret = ""
		return key, err
	})
}

// DisableAccessKey ends an access key for good. Error: InvalidAccessKeyId.NotFound.
func (s *Store) DisableAccessKey(ctx context.Context, accountID, id string) error {
	return s.write(ctx, func(tx *transaction) error {
		n, err := rowsAffected(tx.ExecContext(ctx, `UPDATE access_keys SET disabled = 1 WHERE account_id = ? AND access_key_id = ?`, accountID, id))
		if err == nil && n == 0 {
			err = smc.Errorf(smc.CodeInvalidAccessKeyIDNotFound, "access key %s does not exist: ListAccessKeys lists those there are", id)
		}
		return err
	})
}
