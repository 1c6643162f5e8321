-- +goose Up

-- Jobs whose start is due and waits, or that missed points: the few among which a sweep looks for starts that may go on.
CREATE INDEX replication_jobs_missed ON replication_jobs (source_id) WHERE missed <> '';

-- +goose Down
DROP INDEX replication_jobs_missed;
