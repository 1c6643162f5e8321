-- +goose Up

-- The servers and workers of the center: what version they are and how far their clocks are from the database's, in milliseconds. They report
-- themselves by the database's clock.
CREATE TABLE processes (
    process_id   TEXT PRIMARY KEY,
    program      TEXT NOT NULL,
    machine      TEXT NOT NULL,
    host_id      TEXT NOT NULL,
    version      TEXT NOT NULL,
    clock_ahead  BIGINT NOT NULL,
    started_at   BIGINT NOT NULL,
    heartbeat_at BIGINT NOT NULL
);

-- How far the clock of an agent's machine is from its center's, in milliseconds.
ALTER TABLE source_servers ADD COLUMN clock_ahead BIGINT NOT NULL DEFAULT 0;

-- The room on a transition host's volume, and when the host looked last for what belongs to nothing; 0: not yet.
ALTER TABLE hosts ADD COLUMN free_bytes BIGINT NOT NULL DEFAULT 0;
ALTER TABLE hosts ADD COLUMN total_bytes BIGINT NOT NULL DEFAULT 0;
ALTER TABLE hosts ADD COLUMN swept_at BIGINT NOT NULL DEFAULT 0;

-- What a transition host has on its disk that belongs to nothing in the record, or lacks.
CREATE TABLE orphans (
    host_id  TEXT NOT NULL,
    kind     TEXT NOT NULL,
    name     TEXT NOT NULL,
    job_id   TEXT NOT NULL,
    bytes    BIGINT NOT NULL,
    info     TEXT NOT NULL,
    since    BIGINT NOT NULL,
    approved INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (host_id, kind, name)
);

-- +goose Down
DROP TABLE orphans;
ALTER TABLE hosts DROP COLUMN swept_at;
ALTER TABLE hosts DROP COLUMN total_bytes;
ALTER TABLE hosts DROP COLUMN free_bytes;
ALTER TABLE source_servers DROP COLUMN clock_ahead;
DROP TABLE processes;
