package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/drover/drover/smc"
)

const selectImage = `SELECT image_id, account_id, region_id, image_name, job_id, source_id, run, host_id, status, disks, created_at,
	verification, verification_info, verified_at FROM images`

func scanImage(row rowScanner) (*Image, error) {
	var image Image
	var disks string
	var created, verified int64
	err := row.Scan(&image.ImageID, &image.AccountID, &image.RegionID, &image.ImageName, &image.JobID, &image.SourceID, &image.Run, &image.HostID,
		&image.Status, &disks, &created, &image.Verification, &image.VerificationInfo, &verified)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	image.CreatedAt, image.VerifiedAt = fromMillis(created), fromMillis(verified)
	if err := json.Unmarshal([]byte(disks), &image.Disks); err != nil {
		return nil, fmt.Errorf("image %s: %w", image.ImageID, err)
	}
	return &image, nil
}

// ImageFilter narrows Images; empty fields do not filter, the others must all match.
type ImageFilter struct {
	ImageIDs    []string
	JobID, Name string
}

// Images lists the images of an account, newest first, and how many match in all.
func (s *Store) Images(ctx context.Context, accountID string, filter ImageFilter, page Page) ([]*Image, int, error) {
	where := ofAccount(accountID)
	where.in("image_id", filter.ImageIDs)
	where.equal("job_id", filter.JobID)
	where.equal("image_name", filter.Name)
	return list(ctx, s.db, selectImage, "images", "created_at DESC, image_id", where, page, scanImage)
}

// Image returns one image of an account, or ErrNotFound.
func (s *Store) Image(ctx context.Context, accountID, imageID string) (*Image, error) {
	return scanImage(s.db.QueryRowContext(ctx, selectImage+` WHERE account_id = ? AND image_id = ?`, accountID, imageID))
}

// ImagesOverLimit returns the earliest images of a job beyond the newest keep (CONTRACT: MaxNumberOfImageToKeep).
func (s *Store) ImagesOverLimit(ctx context.Context, jobID string, keep int) ([]*Image, error) {
	rows, err := s.db.QueryContext(ctx, selectImage+` WHERE job_id = ? ORDER BY run DESC LIMIT 1000000 OFFSET ?`, jobID, keep)
	if err != nil {
		return nil, err
	}
	return collect(rows, scanImage)
}

// RecordVerification records the outcome of an image's verification; info says what is wrong with it. One that is gone
// meanwhile needs none.
func (s *Store) RecordVerification(ctx context.Context, imageID string, outcome smc.ImageVerification, info string) error {
	return s.write(ctx, func(tx *transaction) error {
		_, err := tx.ExecContext(ctx, `UPDATE images SET verification = ?, verification_info = ?, verified_at = ? WHERE image_id = ?`,
			string(outcome), info, millis(s.now()), imageID)
		return err
	})
}

// DeleteImage forgets an image; its files go first.
func (s *Store) DeleteImage(ctx context.Context, imageID string) error {
	return s.write(ctx, func(tx *transaction) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM images WHERE image_id = ?`, imageID)
		return err
	})
}
