-- +goose Up
ALTER TABLE access_keys ADD COLUMN description TEXT NOT NULL DEFAULT '';
CREATE INDEX access_keys_account ON access_keys (account_id, created_at DESC, access_key_id);

-- +goose Down
DROP INDEX access_keys_account;
ALTER TABLE access_keys DROP COLUMN description;
