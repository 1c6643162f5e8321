// Package orphans finds what a transition host has on its disk that belongs to nothing in the record, and removes what nobody
// can want any more.
//
// Staging and images are removed in their order by the runs and by the entities of their jobs. What is left over all the same
// is left by crashes between two steps, by attempts that hung and came to themselves after their job was gone, and by a record
// that was restored from a backup. The rules, which the record holds (store.StagingOrphan, store.ImageOrphan):
//
//   - What a job may still use is never touched. The record is asked once more when the host has the thing for itself.
//   - What certainly nobody wants goes after a time of grace: staging of jobs that were deleted, that have ended, or that another
//     host holds; directories without a manifest; images over their job's limit whose deletion was cut off.
//   - What the record knows nothing of stays, and is told of: a record that was restored from an older backup does not know what
//     came after it, and this may be the only copy. A person can approve of its removal.
//   - An image of the record whose files are gone is told of, and stays in the record until a person approves of its removal: it
//     may be in a backup.
package orphans

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/replica"
)

// DefaultGrace is how long what belongs to nothing is left where it is.
const DefaultGrace = time.Hour

// Interval is how often a transition host looks when its time of grace is grace.
func Interval(grace time.Duration) time.Duration {
	return min(max(grace/6, time.Second), 10*time.Minute)
}

// Sweeper looks over one transition host.
type Sweeper struct {
	Store  *store.Store
	Host   *replica.Host
	HostID string
	// Grace is how long after it was found first something is removed. Default DefaultGrace.
	Grace time.Duration
	Log   *zap.Logger
	// Now is time.Now outside tests.
	Now func() time.Time
}

// Run looks now and then again, until ctx is done.
func (s *Sweeper) Run(ctx context.Context) error {
	ticker := time.NewTicker(Interval(s.grace()))
	defer ticker.Stop()
	for {
		if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.Log.Warn("what belongs to nothing on this transition host was not all found or removed, the next look tries again", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (s *Sweeper) grace() time.Duration {
	if s.Grace > 0 {
		return s.Grace
	}
	return DefaultGrace
}

func (s *Sweeper) now() time.Time {
	if s.Now != nil {
		return s.Now()
	}
	return time.Now()
}

// Sweep looks once: it records what it finds, and removes what is to go.
func (s *Sweeper) Sweep(ctx context.Context) error {
	if err := s.prune(ctx); err != nil {
		return err
	}
	found, err := s.look(ctx)
	if err != nil {
		return err
	}
	known, err := s.Store.RecordOrphans(ctx, s.HostID, found)
	if err != nil {
		return fmt.Errorf("record what was found: %w", err)
	}
	before := s.now().Add(-s.grace())
	var failures []error
	for _, orphan := range known {
		due := orphan.Kind.Expendable() && !orphan.Since.After(before) || orphan.Approved
		if !due || ctx.Err() != nil {
			continue
		}
		if err := s.remove(ctx, orphan); err != nil {
			failures = append(failures, fmt.Errorf("remove %s %s: %w", orphan.Kind, orphan.Name, err))
		}
	}
	n, err := s.Host.RemoveTemporary(ctx, before)
	if n > 0 {
		s.Log.Info("files removed that interrupted writes left", zap.Int("count", n))
	}
	return errors.Join(errors.Join(failures...), err)
}

// prune deletes the images that were over the limit of their job after its last run and are no longer in use, and those whose deletion was asked for.
func (s *Sweeper) prune(ctx context.Context) error {
	images, err := s.Store.CondemnHeld(ctx, s.HostID, s.Host.Reading)
	if err != nil {
		return fmt.Errorf("find images that are to be deleted: %w", err)
	}
	for _, image := range images { // one whose deletion is cut off is an orphan
		if err := s.Host.DeleteImage(ctx, image.ImageID); err != nil {
			return fmt.Errorf("delete image %s: %w", image.ImageID, err)
		}
		if err := s.Store.DeleteImage(ctx, image.ImageID); err != nil {
			return fmt.Errorf("delete image %s: %w", image.ImageID, err)
		}
		s.Log.Info("image deleted that was over the limit and had been in use, or is not wanted any more", zap.String("job_id", image.JobID), zap.String("image_id", image.ImageID))
	}
	return nil
}

// look finds what belongs to nothing, and what is missing.
func (s *Sweeper) look(ctx context.Context) (found []store.Orphan, err error) {
	// The rows first: an image that is recorded or deleted meanwhile is taken for what it is.
	rows, err := s.Store.HostImages(ctx, s.HostID)
	if err != nil {
		return nil, fmt.Errorf("read which images this host has by the record: %w", err)
	}
	jobs, err := s.Host.StagingIDs()
	if err != nil {
		return nil, err
	}
	for _, jobID := range jobs {
		kind, why, err := s.Store.StagingOrphan(ctx, jobID, s.HostID)
		if err != nil {
			return nil, fmt.Errorf("ask whose the staging %s is: %w", jobID, err)
		}
		if kind != "" {
			found = append(found, store.Orphan{Kind: kind, Name: jobID, JobID: jobID, Bytes: s.Host.StagedBytes(jobID), Info: why})
		}
	}
	images, err := s.Host.ImageIDs()
	if err != nil {
		return nil, err
	}
	for _, imageID := range images {
		kind, why, jobID, err := s.image(ctx, imageID)
		if err != nil {
			return nil, err
		}
		if kind != "" {
			found = append(found, store.Orphan{Kind: kind, Name: imageID, JobID: jobID, Bytes: s.Host.ImageBytes(imageID), Info: why})
		}
	}
	for _, row := range rows {
		if slices.Contains(images, row.ImageID) {
			continue
		}
		// Its run may have deleted it since: the record is asked as it is now.
		kind, why, err := s.Store.ImageOrphan(ctx, store.FoundImage{ImageID: row.ImageID}, s.HostID)
		if err != nil {
			return nil, fmt.Errorf("ask about image %s: %w", row.ImageID, err)
		}
		if kind == store.OrphanCondemnedImage || kind == store.OrphanLostImage {
			found = append(found, store.Orphan{Kind: kind, Name: row.ImageID, JobID: row.JobID, Info: why})
		}
	}
	return found, nil
}

// image says whether an image directory belongs to nothing. One that is being made or deleted is left to that.
func (s *Sweeper) image(ctx context.Context, imageID string) (kind store.OrphanKind, why, jobID string, err error) {
	if s.Host.InMaking(imageID) {
		return "", "", "", nil
	}
	return s.judge(ctx, imageID)
}

func (s *Sweeper) judge(ctx context.Context, imageID string) (kind store.OrphanKind, why, jobID string, err error) {
	found := store.FoundImage{ImageID: imageID}
	manifest, unread := s.Host.Image(imageID)
	switch {
	case unread == nil:
		found.Complete, found.JobID, found.Run = true, manifest.JobID, manifest.Run
	case errors.Is(unread, replica.ErrImageNotFound):
		unread = nil
	default:
		found.Complete = true // what cannot be read is no reason to remove anything
	}
	kind, why, err = s.Store.ImageOrphan(ctx, found, s.HostID)
	if err != nil {
		return "", "", "", fmt.Errorf("ask about image %s: %w", imageID, err)
	}
	if kind == "" && unread != nil {
		kind, why = store.OrphanLostImage, unread.Error()
	}
	return kind, why, found.JobID, nil
}

// remove removes what was found if it is still what it was found to be.
func (s *Sweeper) remove(ctx context.Context, orphan store.Orphan) error {
	still := func(kind store.OrphanKind, err error) (bool, error) { return kind == orphan.Kind, err }
	var removed bool
	var err error
	switch orphan.Kind {
	case store.OrphanStaging, store.OrphanUnknownStaging:
		removed, err = s.Host.RemoveStaging(ctx, orphan.Name, func(ctx context.Context) (bool, error) {
			kind, _, err := s.Store.StagingOrphan(ctx, orphan.Name, s.HostID)
			return still(kind, err)
		})
		if removed && err == nil {
			err = s.Store.MarkReleased(ctx, orphan.Name, s.HostID)
		}
	case store.OrphanHalfImage, store.OrphanCondemnedImage, store.OrphanUnknownImage, store.OrphanLostImage:
		removed, err = s.Host.RemoveImage(ctx, orphan.Name, func(ctx context.Context) (bool, error) {
			kind, _, _, err := s.judge(ctx, orphan.Name)
			return still(kind, err)
		})
		if removed && err == nil && (orphan.Kind == store.OrphanCondemnedImage || orphan.Kind == store.OrphanLostImage) {
			err = s.Store.DeleteImage(ctx, orphan.Name)
		}
	}
	if err != nil || !removed {
		return err
	}
	s.Log.Info("removed what belongs to nothing", zap.String("kind", string(orphan.Kind)), zap.String("name", orphan.Name), zap.String("job_id", orphan.JobID),
		zap.Int64("bytes", orphan.Bytes), zap.String("why", orphan.Info), zap.Time("since", orphan.Since), zap.Bool("approved", orphan.Approved))
	return s.Store.ForgetOrphan(ctx, orphan)
}
