-- +goose Up

-- What a listing shows of a job has a number that changes with it, whoever changes it: who holds what was read under a
-- number may show it as long as the job still has that number. The numbers of an account never come twice.
ALTER TABLE replication_jobs ADD COLUMN revision BIGINT NOT NULL DEFAULT 0;

-- The last number of each account: while it stands, no job of the account has changed, come or gone.
CREATE TABLE job_revisions (
    account_id TEXT PRIMARY KEY,
    revision   BIGINT NOT NULL
);

-- +goose StatementBegin
CREATE TRIGGER replication_jobs_inserted AFTER INSERT ON replication_jobs BEGIN
    INSERT INTO job_revisions (account_id, revision) VALUES (NEW.account_id, 1) ON CONFLICT (account_id) DO UPDATE SET revision = revision + 1;
    UPDATE replication_jobs SET revision = (SELECT revision FROM job_revisions WHERE account_id = NEW.account_id) WHERE job_id = NEW.job_id;
END;
-- +goose StatementEnd
-- Its own update is known by the revision, which nobody else sets.
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

-- Runs, their troubles and tags are shown with their job. An update that sets what is there already is what the trigger above waits for.
-- +goose StatementBegin
CREATE TRIGGER replication_runs_inserted AFTER INSERT ON replication_runs BEGIN
    UPDATE replication_jobs SET revision = revision WHERE job_id = NEW.job_id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER replication_runs_updated AFTER UPDATE ON replication_runs BEGIN
    UPDATE replication_jobs SET revision = revision WHERE job_id = NEW.job_id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER replication_runs_deleted AFTER DELETE ON replication_runs BEGIN
    UPDATE replication_jobs SET revision = revision WHERE job_id = OLD.job_id;
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
-- +goose StatementBegin
CREATE TRIGGER run_troubles_inserted AFTER INSERT ON run_troubles BEGIN
    UPDATE replication_jobs SET revision = revision WHERE job_id = NEW.job_id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER run_troubles_updated AFTER UPDATE ON run_troubles BEGIN
    UPDATE replication_jobs SET revision = revision WHERE job_id = NEW.job_id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER run_troubles_deleted AFTER DELETE ON run_troubles BEGIN
    UPDATE replication_jobs SET revision = revision WHERE job_id = OLD.job_id;
END;
-- +goose StatementEnd

-- +goose Down
DROP TRIGGER run_troubles_deleted;
DROP TRIGGER run_troubles_updated;
DROP TRIGGER run_troubles_inserted;
DROP TRIGGER tags_deleted;
DROP TRIGGER tags_updated;
DROP TRIGGER tags_inserted;
DROP TRIGGER replication_runs_deleted;
DROP TRIGGER replication_runs_updated;
DROP TRIGGER replication_runs_inserted;
DROP TRIGGER replication_jobs_deleted;
DROP TRIGGER replication_jobs_updated;
DROP TRIGGER replication_jobs_inserted;
DROP TABLE job_revisions;
ALTER TABLE replication_jobs DROP COLUMN revision;
