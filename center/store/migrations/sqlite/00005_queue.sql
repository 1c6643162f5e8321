-- +goose Up

-- The place of a job that was started over its account's quota of running jobs; 0: it is not queued. Lower numbers come first.
ALTER TABLE replication_jobs ADD COLUMN queue_number BIGINT NOT NULL DEFAULT 0;
-- What was asked for, as JSON.
ALTER TABLE replication_jobs ADD COLUMN queue TEXT NOT NULL DEFAULT '';
CREATE UNIQUE INDEX replication_jobs_queue ON replication_jobs (account_id, queue_number) WHERE queue_number > 0;
-- The quota is held against the rows themselves.
CREATE INDEX replication_jobs_running ON replication_jobs (account_id) WHERE status = 'Running';

-- +goose Down
DROP INDEX replication_jobs_running;
DROP INDEX replication_jobs_queue;
ALTER TABLE replication_jobs DROP COLUMN queue;
ALTER TABLE replication_jobs DROP COLUMN queue_number;
