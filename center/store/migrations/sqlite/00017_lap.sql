-- +goose Up

-- Number of the transition that started or resumed the current run. What an activity of an earlier lap still does is refused by
-- it. 0: the run was started before there was this column.
ALTER TABLE replication_jobs ADD COLUMN lap BIGINT NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE replication_jobs DROP COLUMN lap;
