-- +goose Up

-- Machines whose disks take the images of jobs with TargetType TargetInstance. target is what its agent says of it, as JSON.
CREATE TABLE target_instances (
    instance_id  TEXT PRIMARY KEY,
    account_id   TEXT NOT NULL,
    region_id    TEXT NOT NULL,
    name         TEXT NOT NULL,
    target       TEXT NOT NULL,
    token_hash   TEXT NOT NULL UNIQUE,
    instance     TEXT NOT NULL,
    heartbeat_at BIGINT NOT NULL,
    clock_ahead  BIGINT NOT NULL DEFAULT 0,
    created_at   BIGINT NOT NULL
);
CREATE UNIQUE INDEX target_instances_name ON target_instances (account_id, name);
CREATE UNIQUE INDEX target_instances_instance ON target_instances (account_id, instance);

-- One row per target instance: the image that shall be on its disks, and how far that is. generation fences it: what a target reports of
-- an earlier one is refused. change numbers what targets have to learn over all of them, as in sync_sessions.
CREATE TABLE deliveries (
    instance_id   TEXT PRIMARY KEY,
    job_id        TEXT NOT NULL,
    run           INTEGER NOT NULL,
    image_id      TEXT NOT NULL,
    host_url      TEXT NOT NULL,
    bandwidth     BIGINT NOT NULL,
    disks         TEXT NOT NULL,
    open          INTEGER NOT NULL,
    generation    BIGINT NOT NULL,
    change        BIGINT NOT NULL,
    state         TEXT NOT NULL,
    code          TEXT NOT NULL DEFAULT '',
    message       TEXT NOT NULL DEFAULT '',
    bytes_total   BIGINT NOT NULL DEFAULT 0,
    bytes_done    BIGINT NOT NULL DEFAULT 0,
    bytes_fetched BIGINT NOT NULL DEFAULT 0,
    roots         TEXT NOT NULL DEFAULT '',
    opened_at     BIGINT NOT NULL,
    reported_at   BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX deliveries_change ON deliveries (change);
CREATE INDEX deliveries_job ON deliveries (job_id);

-- The target instance that a job migrates to; empty for a job of another target type, whatever InstanceId it echoes. One unfinished job per
-- target instance: the database holds it, not the code.
ALTER TABLE replication_jobs ADD COLUMN target_id TEXT NOT NULL DEFAULT '';
CREATE UNIQUE INDEX replication_jobs_target_unfinished ON replication_jobs (target_id)
    WHERE target_id <> '' AND status IN ('Ready', 'Running', 'Stopped', 'Waiting', 'InError', 'Expired');

-- +goose Down
DROP INDEX replication_jobs_target_unfinished;
ALTER TABLE replication_jobs DROP COLUMN target_id;
DROP TABLE deliveries;
DROP TABLE target_instances;
