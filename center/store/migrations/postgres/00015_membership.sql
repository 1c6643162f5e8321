-- +goose Up

-- The changes of an account's jobs are counted: revision counts every change of what a listing shows, membership those after which
-- a listing may have other jobs, or the same ones in another order: jobs that come and go, and what a listing is filtered and ordered by. A run
-- that gets on is no such change.
--
-- What counts is the sum of an account's rows. Transactions that change jobs of one account at the same time are of different
-- server processes, and write different rows (slot): they seldom wait for or fail because of each other. A later snapshot holds
-- every commit that an earlier one holds, and each commit adds to the sum: where the sums are equal, so is all else.
CREATE TABLE job_changes (
    account_id TEXT NOT NULL,
    slot       INTEGER NOT NULL,
    revision   BIGINT NOT NULL,
    membership BIGINT NOT NULL,
    PRIMARY KEY (account_id, slot)
) WITH (fillfactor = 50);

-- +goose StatementBegin
CREATE FUNCTION count_job_change(account TEXT, members BOOLEAN) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO job_changes (account_id, slot, revision, membership) VALUES (account, pg_backend_pid() % 64, 1, 1)
        ON CONFLICT (account_id, slot) DO UPDATE SET revision = job_changes.revision + 1, membership = job_changes.membership + members::integer;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION revise_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM count_job_change(OLD.account_id, true);
        RETURN OLD;
    END IF;
    NEW.revision := nextval('job_revisions');
    IF TG_OP = 'INSERT' THEN
        PERFORM count_job_change(NEW.account_id, true);
        RETURN NEW;
    END IF;
    PERFORM count_job_change(NEW.account_id,
        NEW.job_id <> OLD.job_id OR NEW.account_id <> OLD.account_id OR NEW.created_at <> OLD.created_at OR NEW.source_id <> OLD.source_id
        OR NEW.name <> OLD.name OR NEW.region_id <> OLD.region_id OR NEW.status <> OLD.status OR NEW.business_status <> OLD.business_status
        OR NEW.instance_id <> OLD.instance_id OR NEW.resource_group_id <> OLD.resource_group_id);
    IF NEW.account_id <> OLD.account_id THEN
        PERFORM count_job_change(OLD.account_id, true);
    END IF;
    RETURN NEW;
END
$$;
-- +goose StatementEnd
DROP TRIGGER replication_jobs_written ON replication_jobs;
CREATE TRIGGER replication_jobs_written BEFORE INSERT OR UPDATE OR DELETE ON replication_jobs FOR EACH ROW EXECUTE FUNCTION revise_job();

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION revise_job_of_run() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE replication_jobs SET revision = 0 WHERE job_id = COALESCE(NEW.job_id, OLD.job_id);
    IF TG_OP = 'UPDATE' AND NEW.job_id <> OLD.job_id THEN
        UPDATE replication_jobs SET revision = 0 WHERE job_id = OLD.job_id;
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION revise_job_of_tag() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    account TEXT;
BEGIN
    FOR account IN UPDATE replication_jobs SET revision = 0 WHERE job_id IN (OLD.resource_id, NEW.resource_id) RETURNING account_id LOOP
        PERFORM count_job_change(account, true);
    END LOOP;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION revise_all_jobs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE replication_jobs SET revision = 0;
    UPDATE job_changes SET revision = revision + 1, membership = membership + 1;
    RETURN NULL;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER replication_jobs_truncated AFTER TRUNCATE ON replication_jobs FOR EACH STATEMENT EXECUTE FUNCTION revise_all_jobs();
CREATE TRIGGER replication_runs_truncated AFTER TRUNCATE ON replication_runs FOR EACH STATEMENT EXECUTE FUNCTION revise_all_jobs();
CREATE TRIGGER run_troubles_truncated AFTER TRUNCATE ON run_troubles FOR EACH STATEMENT EXECUTE FUNCTION revise_all_jobs();
CREATE TRIGGER tags_truncated AFTER TRUNCATE ON tags FOR EACH STATEMENT EXECUTE FUNCTION revise_all_jobs();

-- +goose Down
DROP TRIGGER tags_truncated ON tags;
DROP TRIGGER run_troubles_truncated ON run_troubles;
DROP TRIGGER replication_runs_truncated ON replication_runs;
DROP TRIGGER replication_jobs_truncated ON replication_jobs;
DROP FUNCTION revise_all_jobs();
DROP TRIGGER replication_jobs_written ON replication_jobs;
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION revise_job_of_tag() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE replication_jobs SET revision = 0 WHERE job_id = COALESCE(NEW.resource_id, OLD.resource_id);
    RETURN NULL;
END
$$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION revise_job_of_run() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE replication_jobs SET revision = 0 WHERE job_id = COALESCE(NEW.job_id, OLD.job_id);
    RETURN NULL;
END
$$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION revise_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.revision := nextval('job_revisions');
    RETURN NEW;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER replication_jobs_written BEFORE INSERT OR UPDATE ON replication_jobs FOR EACH ROW EXECUTE FUNCTION revise_job();
DROP FUNCTION count_job_change(TEXT, BOOLEAN);
DROP TABLE job_changes;
