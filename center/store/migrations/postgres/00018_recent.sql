-- +goose Up

-- The jobs that changed last, the latest first: the last six characters of the id of each, one for each change that the row has counted, 32 at
-- most. Who knows what the row had counted before sees which jobs changed since, and takes a few others for changed that end alike. A change
-- that is of no job has six blanks. It is short because the rows are summed up at every call.
ALTER TABLE job_changes ADD COLUMN recent TEXT NOT NULL DEFAULT '';

-- +goose StatementBegin
CREATE FUNCTION count_job_change(account TEXT, members BOOLEAN, job TEXT) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO job_changes (account_id, slot, revision, membership, recent) VALUES (account, pg_backend_pid() % 64, 1, members::integer, lpad(right(job, 6), 6))
        ON CONFLICT (account_id, slot) DO UPDATE SET revision = job_changes.revision + 1, membership = job_changes.membership + members::integer,
            recent = left(excluded.recent || job_changes.recent, 32 * 6);
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION revise_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM count_job_change(OLD.account_id, true, OLD.job_id);
        RETURN OLD;
    END IF;
    NEW.revision := nextval('job_revisions');
    IF TG_OP = 'INSERT' THEN
        PERFORM count_job_change(NEW.account_id, true, NEW.job_id);
        RETURN NEW;
    END IF;
    PERFORM count_job_change(NEW.account_id,
        NEW.job_id <> OLD.job_id OR NEW.account_id <> OLD.account_id OR NEW.created_at <> OLD.created_at OR NEW.source_id <> OLD.source_id
        OR NEW.name <> OLD.name OR NEW.region_id <> OLD.region_id OR NEW.status <> OLD.status OR NEW.business_status <> OLD.business_status
        OR NEW.instance_id <> OLD.instance_id OR NEW.resource_group_id <> OLD.resource_group_id, NEW.job_id);
    IF NEW.account_id <> OLD.account_id THEN
        PERFORM count_job_change(OLD.account_id, true, OLD.job_id);
    END IF;
    RETURN NEW;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION revise_job_of_tag() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    account TEXT;
BEGIN
    FOR account IN UPDATE replication_jobs SET revision = 0 WHERE job_id IN (OLD.resource_id, NEW.resource_id) RETURNING account_id LOOP
        PERFORM count_job_change(account, true, '');
    END LOOP;
    RETURN NULL;
END
$$;
-- +goose StatementEnd
DROP FUNCTION count_job_change(TEXT, BOOLEAN);

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION revise_all_jobs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE replication_jobs SET revision = 0;
    UPDATE job_changes SET revision = revision + 1, membership = membership + 1, recent = '';
    RETURN NULL;
END
$$;
-- +goose StatementEnd
