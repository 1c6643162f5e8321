package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/drover/drover/smc"
)

const selectImage = `SELECT image_id, account_id, region_id, image_name, job_id, source_id, run, host_id, status, disks, created_at,
	verification, verification_info, verified_at, in_use_until, container FROM images`

func scanImage(row rowScanner) (*Image, error) {
	var image Image
	var disks, container string
	var created, verified, inUse int64
	err := row.Scan(&image.ImageID, &image.AccountID, &image.RegionID, &image.ImageName, &image.JobID, &image.SourceID, &image.Run, &image.HostID,
		&image.Status, &disks, &created, &image.Verification, &image.VerificationInfo, &verified, &inUse, &container)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	image.CreatedAt, image.VerifiedAt, image.InUseUntil = fromMillis(created), fromMillis(verified), fromMillis(inUse)
	if err := json.Unmarshal([]byte(disks), &image.Disks); err != nil {
		return nil, fmt.Errorf("image %s: %w", image.ImageID, err)
	}
	if container != "" {
		if err := json.Unmarshal([]byte(container), &image.Container); err != nil {
			return nil, fmt.Errorf("image %s: %w", image.ImageID, err)
		}
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

// HoldImage returns an image of an account and keeps it from being pruned until a time: somebody is about to read it.
// Error: ErrNotFound, also for an image that is being deleted.
func (s *Store) HoldImage(ctx context.Context, accountID, imageID string, until time.Time) (*Image, error) {
	var image *Image
	err := s.write(ctx, func(tx *transaction) error {
		var err error
		image, err = scanImage(tx.QueryRowContext(ctx, selectImage+` WHERE account_id = ? AND image_id = ?`, accountID, imageID))
		if err == nil && image.Status == smc.ImageDeleting {
			err = ErrNotFound
		}
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE images SET in_use_until = `+tx.greatest("in_use_until", "?")+` WHERE image_id = ?`, millis(until), imageID)
		return err
	})
	return image, err
}

// CondemnImages makes the images of a job that are over its limit Deleting, and returns all that are, those of an earlier
// attempt too: their files are to be removed, and then DeleteImage called. Over the limit are the earliest that are not in
// use, until no more than keep are left (CONTRACT: MaxNumberOfImageToKeep). In use is an image that somebody holds a ticket
// for, or that busy says is being read; held is how many are kept over the limit because of that: a later run condemns them, or
// CondemnHeld. The newest image is never condemned.
func (s *Store) CondemnImages(ctx context.Context, jobID string, keep int, busy func(imageID string) bool) (condemned []*Image, held int, err error) {
	err = s.write(ctx, func(tx *transaction) error {
		condemned, held = nil, 0
		rows, err := tx.QueryContext(ctx, selectImage+` WHERE job_id = ? ORDER BY run`, jobID)
		if err != nil {
			return err
		}
		images, err := collect(rows, scanImage)
		if err != nil {
			return err
		}
		var kept []*Image
		for _, image := range images {
			if image.Status == smc.ImageDeleting {
				condemned = append(condemned, image)
				continue
			}
			kept = append(kept, image)
		}
		held = max(0, len(kept)-keep)
		var used []*Image
		for _, image := range kept[:max(0, len(kept)-1)] {
			if held == 0 {
				break
			}
			if image.InUseUntil.After(s.now()) || busy(image.ImageID) {
				used = append(used, image)
				continue
			}
			if err := condemn(ctx, tx, image); err != nil {
				return err
			}
			condemned = append(condemned, image)
			held--
		}
		if _, err := tx.ExecContext(ctx, `UPDATE images SET over_limit = 0 WHERE job_id = ? AND over_limit <> 0`, jobID); err != nil {
			return err
		}
		for _, image := range used[:min(held, len(used))] {
			if _, err := tx.ExecContext(ctx, `UPDATE images SET over_limit = 1 WHERE image_id = ?`, image.ImageID); err != nil {
				return err
			}
		}
		return nil
	})
	return condemned, held, err
}

// unwanted is the value of over_limit of an image whose deletion was asked for.
const unwanted = 2

// CondemnImage makes an image of an account Deleting because somebody wants it gone: the next run of its job, or CondemnHeld, has it removed.
// Done again it changes nothing. Error: ErrNotFound.
func (s *Store) CondemnImage(ctx context.Context, accountID, imageID string) error {
	return s.write(ctx, func(tx *transaction) error {
		image, err := scanImage(tx.QueryRowContext(ctx, selectImage+` WHERE account_id = ? AND image_id = ?`, accountID, imageID))
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE images SET status = ?, over_limit = ? WHERE image_id = ?`, string(smc.ImageDeleting), unwanted, image.ImageID)
		return err
	})
}

func condemn(ctx context.Context, tx *transaction, image *Image) error {
	image.Status = smc.ImageDeleting
	_, err := tx.ExecContext(ctx, `UPDATE images SET status = ?, over_limit = 0 WHERE image_id = ?`, string(image.Status), image.ImageID)
	return err
}

// CondemnHeld makes those images on a transition host Deleting that were over their job's limit after its last run and stayed
// because they were in use, which they are no longer, and returns them; before the last run it is for the runs to do. It also
// returns those that CondemnImage was called for.
func (s *Store) CondemnHeld(ctx context.Context, hostID string, busy func(imageID string) bool) (condemned []*Image, err error) {
	const held = ` WHERE host_id = ? AND over_limit <> 0 AND (over_limit = ? OR status <> ? AND in_use_until <= ? AND job_id IN (SELECT job_id FROM replication_jobs WHERE status IN (?, ?)))`
	find := func(from reader) ([]*Image, error) {
		rows, err := from.QueryContext(ctx, selectImage+held, hostID, unwanted, string(smc.ImageDeleting), millis(s.now()), string(smc.StatusFinished), string(smc.StatusExpired))
		if err != nil {
			return nil, err
		}
		return collect(rows, scanImage)
	}
	if images, err := find(s.db); err != nil || len(images) == 0 {
		return nil, err
	}
	err = s.write(ctx, func(tx *transaction) error {
		condemned = nil
		images, err := find(tx) // somebody may have begun to use one
		if err != nil {
			return err
		}
		for _, image := range images {
			if busy(image.ImageID) {
				continue
			}
			if err := condemn(ctx, tx, image); err != nil {
				return err
			}
			condemned = append(condemned, image)
		}
		return nil
	})
	return condemned, err
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
