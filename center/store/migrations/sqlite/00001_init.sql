-- +goose Up

-- Times are Unix milliseconds (UTC); 0 or NULL means "not set". JSON columns hold text.

CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE access_keys (
    access_key_id TEXT PRIMARY KEY,
    secret        TEXT NOT NULL,
    account_id    TEXT NOT NULL,
    created_at    BIGINT NOT NULL
);

CREATE TABLE nonces (
    access_key_id TEXT NOT NULL,
    nonce         TEXT NOT NULL,
    expires_at    BIGINT NOT NULL,
    PRIMARY KEY (access_key_id, nonce)
);
CREATE INDEX nonces_expires_at ON nonces (expires_at);

CREATE TABLE access_tokens (
    access_token_id  TEXT PRIMARY KEY,
    account_id       TEXT NOT NULL,
    region_id        TEXT NOT NULL,
    name             TEXT NOT NULL,
    description      TEXT NOT NULL,
    code_hash        TEXT NOT NULL UNIQUE,
    max_count        INTEGER NOT NULL,
    registered_count INTEGER NOT NULL DEFAULT 0,
    ttl_days         INTEGER NOT NULL,
    disabled         INTEGER NOT NULL DEFAULT 0,
    created_at       BIGINT NOT NULL
);

CREATE TABLE source_servers (
    source_id     TEXT PRIMARY KEY,
    account_id    TEXT NOT NULL,
    region_id     TEXT NOT NULL,
    name          TEXT NOT NULL,
    description   TEXT NOT NULL DEFAULT '',
    state         TEXT NOT NULL,
    error_code    TEXT NOT NULL DEFAULT '',
    status_info   TEXT NOT NULL DEFAULT '',
    server        TEXT NOT NULL,
    token_hash    TEXT NOT NULL UNIQUE,
    instance      TEXT NOT NULL,
    heartbeat_at  BIGINT NOT NULL,
    created_at    BIGINT NOT NULL,
    sequence      BIGINT NOT NULL DEFAULT 0,
    job_id        TEXT NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX source_servers_name ON source_servers (account_id, name);
CREATE UNIQUE INDEX source_servers_instance ON source_servers (account_id, instance);

CREATE TABLE hosts (
    host_id      TEXT PRIMARY KEY,
    url          TEXT NOT NULL,
    heartbeat_at BIGINT NOT NULL
);

CREATE TABLE replication_jobs (
    job_id               TEXT PRIMARY KEY,
    account_id           TEXT NOT NULL,
    region_id            TEXT NOT NULL,
    source_id            TEXT NOT NULL,
    name                 TEXT NOT NULL,
    image_name           TEXT NOT NULL,
    spec                 TEXT NOT NULL,
    status               TEXT NOT NULL,
    business_status      TEXT NOT NULL DEFAULT '',
    sequence             BIGINT NOT NULL DEFAULT 0,
    run                  INTEGER NOT NULL DEFAULT 0,
    run_type             TEXT NOT NULL DEFAULT '',
    cutover              TEXT NOT NULL DEFAULT '',
    host_id              TEXT NOT NULL DEFAULT '',
    image_id             TEXT NOT NULL DEFAULT '',
    progress             DOUBLE PRECISION NOT NULL DEFAULT 0,
    error_code           TEXT NOT NULL DEFAULT '',
    status_info          TEXT NOT NULL DEFAULT '',
    created_at           BIGINT NOT NULL,
    started_at           BIGINT NOT NULL DEFAULT 0,
    ended_at             BIGINT NOT NULL DEFAULT 0,
    valid_until          BIGINT NOT NULL DEFAULT 0,
    scheduled_start_at   BIGINT NOT NULL DEFAULT 0,
    workflow_started     INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX replication_jobs_account ON replication_jobs (account_id, created_at DESC, job_id);
CREATE INDEX replication_jobs_workflow ON replication_jobs (workflow_started);
-- CONTRACT: one unfinished job per source; the database holds it, not the code.
CREATE UNIQUE INDEX replication_jobs_source_unfinished ON replication_jobs (source_id)
    WHERE status IN ('Ready', 'Running', 'Stopped', 'Waiting', 'InError', 'Expired');
CREATE UNIQUE INDEX replication_jobs_name ON replication_jobs (account_id, name) WHERE name <> '';
CREATE UNIQUE INDEX replication_jobs_image_name ON replication_jobs (account_id, region_id, image_name)
    WHERE status IN ('Ready', 'Running', 'Stopped', 'Waiting', 'InError', 'Expired');

CREATE TABLE replication_runs (
    job_id         TEXT NOT NULL,
    number         INTEGER NOT NULL,
    type           TEXT NOT NULL,
    status         TEXT NOT NULL,
    started_at     BIGINT NOT NULL,
    ended_at       BIGINT NOT NULL DEFAULT 0,
    image_id       TEXT NOT NULL DEFAULT '',
    bytes_total    BIGINT NOT NULL DEFAULT 0,
    bytes_read     BIGINT NOT NULL DEFAULT 0,
    bytes_sent     BIGINT NOT NULL DEFAULT 0,
    bytes_sent_raw BIGINT NOT NULL DEFAULT 0,
    rate           BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (job_id, number)
);

-- One row per source: the sync its agent should be doing, and the epoch that fences it (DESIGN: Fencing).
-- generation changes whenever the agent has something new to learn; change numbers those changes over all sources, so
-- that a process can ask what others changed.
CREATE TABLE sync_sessions (
    source_id   TEXT PRIMARY KEY,
    job_id      TEXT NOT NULL,
    run         INTEGER NOT NULL,
    epoch       BIGINT NOT NULL,
    open        INTEGER NOT NULL,
    generation  BIGINT NOT NULL,
    host_url    TEXT NOT NULL,
    parameters  TEXT NOT NULL,
    change      BIGINT NOT NULL
);
CREATE INDEX sync_sessions_change ON sync_sessions (change);
CREATE INDEX sync_sessions_job ON sync_sessions (job_id);

CREATE TABLE images (
    image_id   TEXT PRIMARY KEY,
    account_id TEXT NOT NULL,
    region_id  TEXT NOT NULL,
    image_name TEXT NOT NULL,
    job_id     TEXT NOT NULL,
    source_id  TEXT NOT NULL,
    run        INTEGER NOT NULL,
    host_id    TEXT NOT NULL,
    status     TEXT NOT NULL,
    disks      TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX images_name ON images (account_id, region_id, image_name);
CREATE UNIQUE INDEX images_run ON images (job_id, run);

CREATE TABLE client_tokens (
    account_id  TEXT NOT NULL,
    token       TEXT NOT NULL,
    digest      TEXT NOT NULL,
    job_id      TEXT NOT NULL,
    created_at  BIGINT NOT NULL,
    PRIMARY KEY (account_id, token)
);

-- Every transition, once: resource_id + sequence is its number, resource_id + key makes a retried write a no-op.
CREATE TABLE outbox (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id        TEXT NOT NULL UNIQUE,
    resource_id     TEXT NOT NULL,
    sequence        BIGINT NOT NULL,
    transition_key  TEXT NOT NULL,
    subject         TEXT NOT NULL,
    event           TEXT NOT NULL,
    created_at      BIGINT NOT NULL,
    stream_sequence BIGINT NOT NULL DEFAULT 0,
    published       INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX outbox_sequence ON outbox (resource_id, sequence);
CREATE UNIQUE INDEX outbox_key ON outbox (resource_id, transition_key);
CREATE INDEX outbox_pending ON outbox (id) WHERE published = 0;
CREATE INDEX outbox_subject ON outbox (subject, id);

-- +goose Down
DROP TABLE outbox;
DROP TABLE client_tokens;
DROP TABLE images;
DROP TABLE sync_sessions;
DROP TABLE replication_runs;
DROP TABLE replication_jobs;
DROP TABLE hosts;
DROP TABLE source_servers;
DROP TABLE access_tokens;
DROP TABLE nonces;
DROP TABLE access_keys;
DROP TABLE settings;
