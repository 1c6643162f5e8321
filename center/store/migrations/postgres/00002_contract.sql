-- +goose Up

ALTER TABLE access_keys ADD COLUMN disabled INTEGER NOT NULL DEFAULT 0;
-- A RAM policy document; empty: the key may do everything in its account.
ALTER TABLE access_keys ADD COLUMN policy TEXT NOT NULL DEFAULT '';

ALTER TABLE source_servers ADD COLUMN workgroup_id TEXT NOT NULL DEFAULT '';
CREATE INDEX source_servers_workgroup ON source_servers (workgroup_id);

ALTER TABLE replication_jobs ADD COLUMN resource_group_id TEXT NOT NULL DEFAULT '';
ALTER TABLE replication_jobs ADD COLUMN instance_id TEXT NOT NULL DEFAULT '';

CREATE TABLE tags (
    account_id    TEXT NOT NULL,
    resource_type TEXT NOT NULL,
    resource_id   TEXT NOT NULL,
    tag_key       TEXT NOT NULL,
    tag_value     TEXT NOT NULL,
    PRIMARY KEY (resource_id, tag_key)
);
CREATE INDEX tags_tag ON tags (account_id, resource_type, tag_key, tag_value);

CREATE TABLE workgroups (
    workgroup_id TEXT PRIMARY KEY,
    account_id   TEXT NOT NULL,
    name         TEXT NOT NULL,
    description  TEXT NOT NULL,
    created_at   BIGINT NOT NULL
);
CREATE UNIQUE INDEX workgroups_name ON workgroups (account_id, name);

-- Who did what, to which resource, with what outcome; never deleted by Drover.
CREATE TABLE audit (
    request_id    TEXT PRIMARY KEY,
    at            BIGINT NOT NULL,
    account_id    TEXT NOT NULL,
    access_key_id TEXT NOT NULL,
    action        TEXT NOT NULL,
    resources     TEXT NOT NULL,
    remote        TEXT NOT NULL,
    outcome       TEXT NOT NULL
);
CREATE INDEX audit_at ON audit (account_id, at);

-- +goose Down
DROP TABLE audit;
DROP TABLE workgroups;
DROP TABLE tags;
DROP INDEX source_servers_workgroup;
ALTER TABLE replication_jobs DROP COLUMN instance_id;
ALTER TABLE replication_jobs DROP COLUMN resource_group_id;
ALTER TABLE source_servers DROP COLUMN workgroup_id;
ALTER TABLE access_keys DROP COLUMN policy;
ALTER TABLE access_keys DROP COLUMN disabled;
