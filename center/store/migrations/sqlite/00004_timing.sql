-- +goose Up

-- The grid of an incremental job: frequency in hours (0: a one-time job), its phase in milliseconds, and the time up to which its points
-- are dealt with. missed is a JSON object: the points that had no run, and what a due start waits for.
ALTER TABLE replication_jobs ADD COLUMN frequency INTEGER NOT NULL DEFAULT 0;
ALTER TABLE replication_jobs ADD COLUMN grid_phase BIGINT NOT NULL DEFAULT 0;
ALTER TABLE replication_jobs ADD COLUMN grid_through BIGINT NOT NULL DEFAULT 0;
ALTER TABLE replication_jobs ADD COLUMN missed TEXT NOT NULL DEFAULT '';
UPDATE replication_jobs SET frequency = COALESCE(json_extract(spec, '$.Frequency'), 0),
    grid_through = COALESCE((SELECT MAX(started_at) FROM replication_runs WHERE replication_runs.job_id = replication_jobs.job_id), 0)
    WHERE json_extract(spec, '$.RunOnce') = 0;

-- Until when somebody may read an image with a ticket: till then it is in use, and not pruned.
ALTER TABLE images ADD COLUMN in_use_until BIGINT NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE images DROP COLUMN in_use_until;
ALTER TABLE replication_jobs DROP COLUMN missed;
ALTER TABLE replication_jobs DROP COLUMN grid_through;
ALTER TABLE replication_jobs DROP COLUMN grid_phase;
ALTER TABLE replication_jobs DROP COLUMN frequency;
