package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/drover/drover/smc"
)

// OrphanKind says what a transition host has found on its disk.
type OrphanKind string

// The kinds of orphans. The first three hold nothing that anybody could want: the host removes them after a time of grace. The
// others are told of, and removed only when a person approves of it: a record that was restored from an older backup does not
// know what came after it, and a lost image may be in a backup.
const (
	// OrphanStaging is the staging of a job that is gone, has no more runs, or is held by another host.
	OrphanStaging OrphanKind = "staging"
	// OrphanHalfImage is a directory without a manifest: an image whose making or deletion was cut off.
	OrphanHalfImage OrphanKind = "half-image"
	// OrphanCondemnedImage is an image, over its job's limit or not wanted any more, whose deletion was not carried to its end.
	OrphanCondemnedImage OrphanKind = "condemned-image"
	// OrphanUnknownStaging is the staging of a job of which the record knows nothing.
	OrphanUnknownStaging OrphanKind = "unknown-staging"
	// OrphanUnknownImage is a complete image that is not in the record, or in it as that of another host.
	OrphanUnknownImage OrphanKind = "unknown-image"
	// OrphanLostImage is an image of the record whose files the host does not have.
	OrphanLostImage OrphanKind = "lost-image"
)

// Expendable reports whether the host removes it by itself.
func (k OrphanKind) Expendable() bool {
	return k == OrphanStaging || k == OrphanHalfImage || k == OrphanCondemnedImage
}

// Orphan is one finding of a transition host.
type Orphan struct {
	HostID   string
	Kind     OrphanKind
	Name     string // the job of a staging area, the id of an image
	JobID    string // the job of the image, where that is known
	Bytes    int64  // on the disk; 0 when that was not measured
	Info     string // why it is one, and why it could not be removed
	Since    time.Time
	Approved bool
}

// KeyDeleted is the key of the last transition of a job that was deleted. A job that only the stream still knows after a restore has another one.
const KeyDeleted = "deleted"

// StagingOrphan says whether the staging of a job that a host has belongs to nothing, and why; kind is empty while the job may
// still use it. What it says holds from then on: a job that is gone or has ended never runs again, and one that another host
// holds never comes back. Only a restore from a backup, for which the hosts are stopped, can change it.
func (s *Store) StagingOrphan(ctx context.Context, jobID, hostID string) (kind OrphanKind, why string, err error) {
	err = s.db.read(ctx, func(tx *transaction) error {
		kind, why = "", ""
		job, err := scanJob(tx.QueryRowContext(ctx, selectJob+` WHERE job_id = ?`, jobID))
		if errors.Is(err, ErrNotFound) {
			deleted, err := written(ctx, tx, jobID, KeyDeleted)
			if err != nil {
				return err
			}
			if deleted {
				kind, why = OrphanStaging, "its job was deleted"
			} else {
				kind, why = OrphanUnknownStaging, "the record knows nothing of its job"
			}
			return nil
		}
		if err != nil {
			return err
		}
		switch {
		case job.ended():
			kind, why = OrphanStaging, fmt.Sprintf("its job is %s", job.Status)
		case job.HostID != "" && job.HostID != hostID:
			kind, why = OrphanStaging, fmt.Sprintf("its job is held by the transition host %s", job.HostID)
		}
		return nil
	})
	return kind, why, err
}

// ended reports whether the job has no more runs: its transition resources are to be released.
func (j *Job) ended() bool {
	return j.Status == smc.StatusFinished || j.Status == smc.StatusExpired || j.Status == smc.StatusDeleting
}

// FoundImage is an image directory on a transition host.
type FoundImage struct {
	ImageID  string
	Complete bool   // it has a manifest
	JobID    string // of the manifest
	Run      int
}

// ImageOrphan says whether an image directory that a host has belongs to nothing, and why; kind is empty while it is an image
// of the record, or is about to become one.
func (s *Store) ImageOrphan(ctx context.Context, found FoundImage, hostID string) (kind OrphanKind, why string, err error) {
	err = s.db.read(ctx, func(tx *transaction) error {
		kind, why = "", ""
		image, err := scanImage(tx.QueryRowContext(ctx, selectImage+` WHERE image_id = ?`, found.ImageID))
		if err == nil {
			kind, why, err = imageOfRecord(ctx, tx, image, found, hostID)
			return err
		}
		if !errors.Is(err, ErrNotFound) {
			return err
		}
		if !found.Complete {
			kind, why = OrphanHalfImage, "its making or its deletion was cut off"
			return nil
		}
		job, err := scanJob(tx.QueryRowContext(ctx, selectJob+` WHERE job_id = ?`, found.JobID))
		switch {
		case err == nil && !job.ended() && job.HostID == hostID && job.Run == found.Run && job.BusinessStatus == smc.BusinessProcessing:
			return nil // the run that made it records it next
		case err != nil && !errors.Is(err, ErrNotFound):
			return err
		}
		kind, why = OrphanUnknownImage, "it is not in the record"
		return nil
	})
	return kind, why, err
}

func imageOfRecord(ctx context.Context, tx *transaction, image *Image, found FoundImage, hostID string) (OrphanKind, string, error) {
	switch {
	case image.HostID != hostID && found.Complete:
		return OrphanUnknownImage, fmt.Sprintf("the record has it at the transition host %s", image.HostID), nil
	case image.HostID != hostID:
		return OrphanHalfImage, fmt.Sprintf("it has no manifest, and the record has it at the transition host %s", image.HostID), nil
	case image.Status != smc.ImageDeleting && !found.Complete:
		return OrphanLostImage, fmt.Sprintf("%s is in the record, and the host has no manifest of it", image.ImageName), nil
	case image.Status != smc.ImageDeleting:
		return "", "", nil
	}
	job, err := scanJob(tx.QueryRowContext(ctx, selectJob+` WHERE job_id = ?`, image.JobID))
	if err != nil && !errors.Is(err, ErrNotFound) {
		return "", "", err
	}
	if err == nil && job.Status == smc.StatusRunning {
		return "", "", nil // its run deletes it
	}
	return OrphanCondemnedImage, "its deletion was cut off, or somebody still reads it", nil
}

// HostImages returns the images that a transition host holds by the record, those that are being deleted included.
func (s *Store) HostImages(ctx context.Context, hostID string) ([]*Image, error) {
	rows, err := s.db.QueryContext(ctx, selectImage+` WHERE host_id = ? ORDER BY image_id`, hostID)
	if err != nil {
		return nil, err
	}
	return collect(rows, scanImage)
}

// RecordOrphans replaces what a transition host has found by what it finds now, and says when it looked. What was found
// before keeps the time since when, and whether a person has approved of its removal. The returned orphans have both.
func (s *Store) RecordOrphans(ctx context.Context, hostID string, found []Orphan) (known []Orphan, err error) {
	err = s.write(ctx, func(tx *transaction) error {
		now := millis(s.now())
		before, err := orphans(ctx, tx, ` WHERE host_id = ?`, hostID)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM orphans WHERE host_id = ?`, hostID); err != nil {
			return err
		}
		known = make([]Orphan, 0, len(found))
		for _, o := range found {
			o.HostID, o.Since, o.Approved = hostID, fromMillis(now), false
			for _, b := range before {
				if b.Kind == o.Kind && b.Name == o.Name {
					o.Since, o.Approved = b.Since, b.Approved
				}
			}
			if _, err := tx.ExecContext(ctx, `INSERT INTO orphans (host_id, kind, name, job_id, bytes, info, since, approved) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
				hostID, string(o.Kind), o.Name, o.JobID, o.Bytes, o.Info, millis(o.Since), flag(o.Approved)); err != nil {
				return err
			}
			known = append(known, o)
		}
		_, err = tx.ExecContext(ctx, `UPDATE hosts SET swept_at = ? WHERE host_id = ?`, now, hostID)
		return err
	})
	return known, err
}

func flag(set bool) int {
	if set {
		return 1
	}
	return 0
}

// Orphans returns what all transition hosts have found at their last look, the oldest first.
func (s *Store) Orphans(ctx context.Context) ([]Orphan, error) { return orphans(ctx, s.db, ``) }

func orphans(ctx context.Context, from reader, where string, args ...any) ([]Orphan, error) {
	rows, err := from.QueryContext(ctx, `SELECT host_id, kind, name, job_id, bytes, info, since, approved FROM orphans`+where+` ORDER BY since, host_id, kind, name`, args...)
	if err != nil {
		return nil, err
	}
	return collect(rows, func(row rowScanner) (o Orphan, err error) {
		var since int64
		var approved int
		err = row.Scan(&o.HostID, &o.Kind, &o.Name, &o.JobID, &o.Bytes, &o.Info, &since, &approved)
		o.Since, o.Approved = fromMillis(since), approved != 0
		return o, err
	})
}

// ApproveOrphan has the hosts that have found something of that name remove it at their next look, if it still belongs to
// nothing then, and returns what that is. Error: ErrNotFound when there is nothing of that name that may be removed.
func (s *Store) ApproveOrphan(ctx context.Context, name string) (approved []Orphan, err error) {
	err = s.write(ctx, func(tx *transaction) error {
		if _, err := tx.ExecContext(ctx, `UPDATE orphans SET approved = 1 WHERE name = ?`, name); err != nil {
			return err
		}
		var err error
		approved, err = orphans(ctx, tx, ` WHERE name = ? AND approved = 1`, name)
		if err == nil && len(approved) == 0 {
			err = fmt.Errorf("%s: %w", name, ErrNotFound)
		}
		return err
	})
	return approved, err
}

// ForgetOrphan says that an orphan was removed.
func (s *Store) ForgetOrphan(ctx context.Context, o Orphan) error {
	return s.write(ctx, func(tx *transaction) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM orphans WHERE host_id = ? AND kind = ? AND name = ?`, o.HostID, string(o.Kind), o.Name)
		return err
	})
}

// StraySession is a sync session that is open although its job is not Syncing that run, or a delivery to a target instance that is although its
// job is not Processing it.
type StraySession struct {
	SourceID   string // of a session
	InstanceID string // of a delivery
	JobID      string
	Run        int
}

const (
	straySessions = ` FROM sync_sessions WHERE open = 1 AND NOT EXISTS (SELECT 1 FROM replication_jobs j WHERE j.job_id = sync_sessions.job_id
		AND j.run = sync_sessions.run AND j.status = '` + string(smc.StatusRunning) + `' AND j.business_status = '` + string(smc.BusinessSyncing) + `')`
	strayDeliveries = ` FROM deliveries WHERE open = 1 AND NOT EXISTS (SELECT 1 FROM replication_jobs j WHERE j.job_id = deliveries.job_id
		AND j.run = deliveries.run AND j.status = '` + string(smc.StatusRunning) + `' AND j.business_status = '` + string(smc.BusinessProcessing) + `')`
	strayReservations = ` FROM space_reservations WHERE NOT EXISTS (SELECT 1 FROM replication_jobs j WHERE j.job_id = space_reservations.job_id
		AND j.host_id = space_reservations.host_id AND j.status = '` + string(smc.StatusRunning) + `')`
)

// StraySessions returns the open sessions of jobs that are not Syncing, the open deliveries of jobs that are not Processing, and the jobs that reserve room on a host without a
// run that needs it. There are none, unless something has written past the rules.
func (s *Store) StraySessions(ctx context.Context) (sessions []StraySession, reservations []string, err error) {
	err = s.db.read(ctx, func(tx *transaction) error {
		rows, err := tx.QueryContext(ctx, `SELECT source_id, '' AS instance_id, job_id, run`+straySessions+
			` UNION ALL SELECT '', instance_id, job_id, run`+strayDeliveries+` ORDER BY job_id`)
		if err != nil {
			return err
		}
		sessions, err = collect(rows, func(row rowScanner) (x StraySession, err error) {
			return x, row.Scan(&x.SourceID, &x.InstanceID, &x.JobID, &x.Run)
		})
		if err != nil {
			return err
		}
		if rows, err = tx.QueryContext(ctx, `SELECT job_id`+strayReservations+` ORDER BY job_id`); err != nil {
			return err
		}
		reservations, err = collect(rows, scanText)
		return err
	})
	return sessions, reservations, err
}

// CloseStraySessions closes the sessions and deliveries and gives back the room that StraySessions returns, and says how many there were.
// The rule is asked in the transaction that writes: a job that begins to sync meanwhile keeps what is its own.
func (s *Store) CloseStraySessions(ctx context.Context) (n int64, err error) {
	sessions, reservations, err := s.StraySessions(ctx)
	if err != nil || len(sessions)+len(reservations) == 0 {
		return 0, err
	}
	err = s.write(ctx, func(tx *transaction) error {
		closed, err := rowsAffected(tx.ExecContext(ctx, `UPDATE sync_sessions SET open = 0, epoch = epoch + 1, generation = generation + 1, change = `+tx.nextChange(syncSessions)+
			` WHERE source_id IN (SELECT source_id`+straySessions+`)`))
		if err != nil {
			return err
		}
		ended, err := rowsAffected(tx.ExecContext(ctx, endDeliveries(tx)+` AND instance_id IN (SELECT instance_id`+strayDeliveries+`)`, "its job does not run"))
		if err != nil {
			return err
		}
		given, err := rowsAffected(tx.ExecContext(ctx, `DELETE`+strayReservations))
		n = closed + ended + given
		return err
	})
	for _, session := range sessions {
		s.workChanged.notify(session.SourceID + session.InstanceID) // it has one of them
	}
	return n, err
}
