-- +goose Up

-- What a listing shows of a job has a number that changes with it, whoever changes it: who holds what was read under a
-- number may show it as long as the job still has that number. The numbers never come twice.
--
-- There is no number of the account beside them, as SQLite has: transactions that change different jobs of an account would
-- all have to write its row, and wait for and fail because of each other.
CREATE SEQUENCE job_revisions;
ALTER TABLE replication_jobs ADD COLUMN revision BIGINT NOT NULL DEFAULT 0;

-- +goose StatementBegin
CREATE FUNCTION revise_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.revision := nextval('job_revisions');
    RETURN NEW;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER replication_jobs_written BEFORE INSERT OR UPDATE ON replication_jobs FOR EACH ROW EXECUTE FUNCTION revise_job();

-- Runs, their troubles and tags are shown with their job. Its update is numbered by the trigger above.
-- +goose StatementBegin
CREATE FUNCTION revise_job_of_run() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE replication_jobs SET revision = 0 WHERE job_id = COALESCE(NEW.job_id, OLD.job_id);
    RETURN NULL;
END
$$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE FUNCTION revise_job_of_tag() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE replication_jobs SET revision = 0 WHERE job_id = COALESCE(NEW.resource_id, OLD.resource_id);
    RETURN NULL;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER replication_runs_written AFTER INSERT OR UPDATE OR DELETE ON replication_runs FOR EACH ROW EXECUTE FUNCTION revise_job_of_run();
CREATE TRIGGER tags_written AFTER INSERT OR UPDATE OR DELETE ON tags FOR EACH ROW EXECUTE FUNCTION revise_job_of_tag();
CREATE TRIGGER run_troubles_written AFTER INSERT OR UPDATE OR DELETE ON run_troubles FOR EACH ROW EXECUTE FUNCTION revise_job_of_run();

-- +goose Down
DROP TRIGGER run_troubles_written ON run_troubles;
DROP TRIGGER tags_written ON tags;
DROP TRIGGER replication_runs_written ON replication_runs;
DROP TRIGGER replication_jobs_written ON replication_jobs;
DROP FUNCTION revise_job_of_tag();
DROP FUNCTION revise_job_of_run();
DROP FUNCTION revise_job();
ALTER TABLE replication_jobs DROP COLUMN revision;
DROP SEQUENCE job_revisions;
