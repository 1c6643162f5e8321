-- +goose Up

-- The changes of an account's jobs are counted: revision counts every change of what a listing shows, membership those after which
-- a listing may have other jobs, or the same ones in another order: jobs that come and go, and what a listing is filtered and ordered by. A run
-- that gets on is no such change. What counts is the sum of an account's rows: PostgreSQL has several (slot), SQLite one.
CREATE TABLE job_changes (
    account_id TEXT NOT NULL,
    slot       INTEGER NOT NULL,
    revision   BIGINT NOT NULL,
    membership BIGINT NOT NULL,
    PRIMARY KEY (account_id, slot)
) WITHOUT ROWID;
INSERT INTO job_changes (account_id, slot, revision, membership)
    SELECT account_id, 0, MAX(revision), 0 FROM (SELECT account_id, revision FROM job_revisions UNION ALL SELECT account_id, revision FROM replication_jobs)
    GROUP BY account_id;
-- What changed since a number.
CREATE INDEX replication_jobs_revision ON replication_jobs (account_id, revision);

DROP TRIGGER replication_jobs_inserted;
DROP TRIGGER replication_jobs_updated;
DROP TRIGGER replication_jobs_deleted;
DROP TRIGGER replication_runs_updated;
DROP TRIGGER tags_inserted;
DROP TRIGGER tags_updated;
DROP TRIGGER tags_deleted;
DROP TABLE job_revisions;

-- +goose StatementBegin
CREATE TRIGGER replication_jobs_inserted AFTER INSERT ON replication_jobs BEGIN
    INSERT INTO job_changes (account_id, slot, revision, membership) VALUES (NEW.account_id, 0, 1, 1)
        ON CONFLICT (account_id, slot) DO UPDATE SET revision = revision + 1, membership = membership + 1;
    UPDATE replication_jobs SET revision = (SELECT revision FROM job_changes WHERE account_id = NEW.account_id AND slot = 0) WHERE job_id = NEW.job_id;
END;
-- +goose StatementEnd
-- Its own update is known by the revision, which nobody else sets.
-- +goose StatementBegin
CREATE TRIGGER replication_jobs_updated AFTER UPDATE ON replication_jobs WHEN NEW.revision = OLD.revision BEGIN
    INSERT INTO job_changes (account_id, slot, revision, membership) VALUES (NEW.account_id, 0, 1, 1)
        ON CONFLICT (account_id, slot) DO UPDATE SET revision = revision + 1, membership = membership + (
            NEW.job_id <> OLD.job_id OR NEW.account_id <> OLD.account_id OR NEW.created_at <> OLD.created_at OR NEW.source_id <> OLD.source_id
            OR NEW.name <> OLD.name OR NEW.region_id <> OLD.region_id OR NEW.status <> OLD.status OR NEW.business_status <> OLD.business_status
            OR NEW.instance_id <> OLD.instance_id OR NEW.resource_group_id <> OLD.resource_group_id);
    UPDATE replication_jobs SET revision = (SELECT revision FROM job_changes WHERE account_id = NEW.account_id AND slot = 0) WHERE job_id = NEW.job_id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER replication_jobs_moved AFTER UPDATE OF account_id ON replication_jobs WHEN NEW.account_id <> OLD.account_id BEGIN
    UPDATE job_changes SET revision = revision + 1, membership = membership + 1 WHERE account_id = OLD.account_id AND slot = 0;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER replication_jobs_deleted AFTER DELETE ON replication_jobs BEGIN
    UPDATE job_changes SET revision = revision + 1, membership = membership + 1 WHERE account_id = OLD.account_id AND slot = 0;
END;
-- +goose StatementEnd

-- What runs report is written most of all: it takes the short way, not that over an update of the job that changes nothing.
-- +goose StatementBegin
CREATE TRIGGER replication_runs_updated AFTER UPDATE ON replication_runs BEGIN
    UPDATE job_changes SET revision = revision + 1
        WHERE account_id = (SELECT account_id FROM replication_jobs WHERE job_id = NEW.job_id) AND slot = 0;
    UPDATE replication_jobs SET revision = (SELECT c.revision FROM job_changes c WHERE c.account_id = replication_jobs.account_id AND c.slot = 0)
        WHERE job_id = NEW.job_id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER replication_runs_moved AFTER UPDATE OF job_id ON replication_runs WHEN NEW.job_id <> OLD.job_id BEGIN
    UPDATE replication_jobs SET revision = revision WHERE job_id = OLD.job_id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER run_troubles_moved AFTER UPDATE OF job_id ON run_troubles WHEN NEW.job_id <> OLD.job_id BEGIN
    UPDATE replication_jobs SET revision = revision WHERE job_id = OLD.job_id;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER tags_inserted AFTER INSERT ON tags BEGIN
    UPDATE job_changes SET membership = membership + 1 WHERE account_id = (SELECT account_id FROM replication_jobs WHERE job_id = NEW.resource_id) AND slot = 0;
    UPDATE replication_jobs SET revision = revision WHERE job_id = NEW.resource_id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER tags_updated AFTER UPDATE ON tags BEGIN
    UPDATE job_changes SET membership = membership + 1
        WHERE account_id IN (SELECT account_id FROM replication_jobs WHERE job_id IN (OLD.resource_id, NEW.resource_id)) AND slot = 0;
    UPDATE replication_jobs SET revision = revision WHERE job_id IN (OLD.resource_id, NEW.resource_id);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER tags_deleted AFTER DELETE ON tags BEGIN
    UPDATE job_changes SET membership = membership + 1 WHERE account_id = (SELECT account_id FROM replication_jobs WHERE job_id = OLD.resource_id) AND slot = 0;
    UPDATE replication_jobs SET revision = revision WHERE job_id = OLD.resource_id;
END;
-- +goose StatementEnd

-- +goose Down
DROP TRIGGER tags_deleted;
DROP TRIGGER tags_updated;
DROP TRIGGER tags_inserted;
DROP TRIGGER run_troubles_moved;
DROP TRIGGER replication_runs_moved;
DROP TRIGGER replication_runs_updated;
DROP TRIGGER replication_jobs_deleted;
DROP TRIGGER replication_jobs_moved;
DROP TRIGGER replication_jobs_updated;
DROP TRIGGER replication_jobs_inserted;
DROP INDEX replication_jobs_revision;
CREATE TABLE job_revisions (
    account_id TEXT PRIMARY KEY,
    revision   BIGINT NOT NULL
);
INSERT INTO job_revisions (account_id, revision) SELECT account_id, SUM(revision) FROM job_changes GROUP BY account_id;
DROP TABLE job_changes;
-- +goose StatementBegin
CREATE TRIGGER replication_jobs_inserted AFTER INSERT ON replication_jobs BEGIN
    INSERT INTO job_revisions (account_id, revision) VALUES (NEW.account_id, 1) ON CONFLICT (account_id) DO UPDATE SET revision = revision + 1;
    UPDATE replication_jobs SET revision = (SELECT revision FROM job_revisions WHERE account_id = NEW.account_id) WHERE job_id = NEW.job_id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER replication_jobs_updated AFTER UPDATE ON replication_jobs WHEN NEW.revision = OLD.revision BEGIN
    INSERT INTO job_revisions (account_id, revision) VALUES (NEW.account_id, 1) ON CONFLICT (account_id) DO UPDATE SET revision = revision + 1;
    UPDATE replication_jobs SET revision = (SELECT revision FROM job_revisions WHERE account_id = NEW.account_id) WHERE job_id = NEW.job_id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER replication_jobs_deleted AFTER DELETE ON replication_jobs BEGIN
    INSERT INTO job_revisions (account_id, revision) VALUES (OLD.account_id, 1) ON CONFLICT (account_id) DO UPDATE SET revision = revision + 1;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER replication_runs_updated AFTER UPDATE ON replication_runs BEGIN
    UPDATE replication_jobs SET revision = revision WHERE job_id = NEW.job_id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER tags_inserted AFTER INSERT ON tags BEGIN
    UPDATE replication_jobs SET revision = revision WHERE job_id = NEW.resource_id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER tags_updated AFTER UPDATE ON tags BEGIN
    UPDATE replication_jobs SET revision = revision WHERE job_id = NEW.resource_id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER tags_deleted AFTER DELETE ON tags BEGIN
    UPDATE replication_jobs SET revision = revision WHERE job_id = OLD.resource_id;
END;
-- +goose StatementEnd
