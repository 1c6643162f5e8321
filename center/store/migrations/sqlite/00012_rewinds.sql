-- +goose Up

-- How often an event was made one to be published again. Who published it before that may not mark it.
ALTER TABLE outbox ADD COLUMN rewinds BIGINT NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE outbox DROP COLUMN rewinds;
