-- +goose Up

-- Where a transition host is reached from the private network, by agents of jobs with NetMode 2; empty: by url, like all others.
ALTER TABLE hosts ADD COLUMN private_url TEXT NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE hosts DROP COLUMN private_url;
