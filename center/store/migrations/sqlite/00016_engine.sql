-- +goose Up

-- How often the entity of a queued job was told that its turn has come and did not answer: it is passed over then.
ALTER TABLE replication_jobs ADD COLUMN queue_unanswered BIGINT NOT NULL DEFAULT 0;

-- 1: the image was over its job's limit after a run and stayed because it was in use.
ALTER TABLE images ADD COLUMN over_limit BIGINT NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE images DROP COLUMN over_limit;
ALTER TABLE replication_jobs DROP COLUMN queue_unanswered;
