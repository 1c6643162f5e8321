package store

import (
	"context"
	"database/sql"
	"errors"
)

const selectSetting = `SELECT value FROM settings WHERE name = ?`

// readSetting returns what is stored under a name; ok is false when there is nothing.
func readSetting(ctx context.Context, from reader, name string) (value string, ok bool, err error) {
	err = from.QueryRowContext(ctx, selectSetting, name).Scan(&value)
	if errors.Is(err, sql.ErrNoRows) {
		return "", false, nil
	}
	return value, err == nil, err
}

// writeSetting stores a value under a name, in the place of what is there.
func writeSetting(ctx context.Context, tx *transaction, name, value string) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, value)
	return err
}

// deleteSetting removes what is stored under a name; that there is nothing is no error.
func deleteSetting(ctx context.Context, tx *transaction, name string) error {
	_, err := tx.ExecContext(ctx, `DELETE FROM settings WHERE name = ?`, name)
	return err
}

// setting returns the stored value of name; when there is none it stores what generate returns, once for all
// processes on the database.
func (s *Store) setting(ctx context.Context, name string, generate func() (string, error)) (string, error) {
	value, ok, err := readSetting(ctx, s.db, name)
	if err != nil || ok {
		return value, err
	}
	generated, err := generate()
	if err != nil {
		return "", err
	}
	err = s.write(ctx, func(tx *transaction) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING`, name, generated); err != nil {
			return err
		}
		return tx.QueryRowContext(ctx, selectSetting, name).Scan(&value)
	})
	return value, err
}

// secretSetting is setting for a value that is sealed. Error: ErrNotOpened.
func (s *Store) secretSetting(ctx context.Context, name string, generate func() (string, error)) (string, error) {
	place := secretPlace{settingValue, name}
	stored, err := s.setting(ctx, name, func() (string, error) {
		value, err := generate()
		if err != nil {
			return "", err
		}
		return s.seal(place, value)
	})
	if err != nil {
		return "", err
	}
	return s.unseal(place, stored)
}
