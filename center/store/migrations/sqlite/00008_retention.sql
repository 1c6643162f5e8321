-- +goose Up

-- What the sweeps of retention look for.
CREATE INDEX audit_time ON audit (at);
CREATE INDEX replication_jobs_finished ON replication_jobs (ended_at) WHERE status = 'Finished';

-- +goose Down
DROP INDEX replication_jobs_finished;
DROP INDEX audit_time;
