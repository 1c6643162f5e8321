-- +goose Up

-- PostgreSQL's, here so that the record is the same table in both: SQLite finds what changed by the index of the revisions.
ALTER TABLE job_changes ADD COLUMN recent TEXT NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE job_changes DROP COLUMN recent;
