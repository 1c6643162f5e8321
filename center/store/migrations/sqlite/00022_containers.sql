-- +goose Up

-- What a container image is called, its digest and what is not in it, as JSON; empty for an image of disks.
ALTER TABLE images ADD COLUMN container TEXT NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE images DROP COLUMN container;
