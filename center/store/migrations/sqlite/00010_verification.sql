-- +goose Up

-- The outcome of an image's last verification: Passed or NotPassed; empty until it is verified.
ALTER TABLE images ADD COLUMN verification TEXT NOT NULL DEFAULT '';
ALTER TABLE images ADD COLUMN verification_info TEXT NOT NULL DEFAULT '';
ALTER TABLE images ADD COLUMN verified_at BIGINT NOT NULL DEFAULT 0;

CREATE INDEX client_tokens_created_at ON client_tokens (created_at);

-- +goose Down
DROP INDEX client_tokens_created_at;
ALTER TABLE images DROP COLUMN verified_at;
ALTER TABLE images DROP COLUMN verification_info;
ALTER TABLE images DROP COLUMN verification;
