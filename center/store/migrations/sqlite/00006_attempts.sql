-- +goose Up

-- What keeps a Running job from getting on, a row per code. It holds while the job has made neither a transition (sequence) nor
-- progress since; the row noted last is what StatusInfo shows.
CREATE TABLE run_troubles (
    job_id   TEXT NOT NULL,
    code     TEXT NOT NULL,
    sequence BIGINT NOT NULL,
    info     TEXT NOT NULL,
    since    BIGINT NOT NULL,
    noted_at BIGINT NOT NULL,
    PRIMARY KEY (job_id, code)
);

-- What the run of a job has yet to store on its transition host. It holds while the job is Running there, up to Processing.
CREATE TABLE space_reservations (
    job_id  TEXT PRIMARY KEY,
    host_id TEXT NOT NULL,
    bytes   BIGINT NOT NULL
);
CREATE INDEX space_reservations_host ON space_reservations (host_id);
