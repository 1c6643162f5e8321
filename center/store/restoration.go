package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/drover/drover/events"
	"github.com/drover/drover/smc"
)

// Restoration says that the record was restored from a backup, and is yet to be brought in line with the world: nothing may
// move a job before that.
type Restoration struct {
	// BackupAt is the moment the backup shows, RestoredAt when it was restored.
	BackupAt   time.Time `json:"backupAt"`
	RestoredAt time.Time `json:"restoredAt"`
}

const (
	restoredSetting = "restored"
	termSetting     = "term"
	rewindSetting   = "outbox_rewind"
)

// epochLeap is how far a restore raises the epochs of sync sessions: what was given out since the backup is below it.
const epochLeap = 1 << 32

// markRestored makes a record that was just loaded one that may go on. The past it comes from is another one than that of
// the agents, hosts and consumers out there:
//   - epochs leap, so that no writer of a session opened since the backup is taken for a later one;
//   - the term rises, so that no host takes what it staged since the backup for the result of a run of the same number;
//   - no session and no delivery is open, and a run that was Syncing or Processing prepares again: staging is not in a backup. What a host
//     has staged all the same is not sent again. The image that it was delivering when the backup was taken is made anew.
func (d *database) markRestored(ctx context.Context, tx *sql.Tx, backupAt time.Time) error {
	mark, err := json.Marshal(Restoration{BackupAt: backupAt, RestoredAt: time.Now().UTC()})
	if err != nil {
		return err
	}
	run := func(statement string, args ...any) {
		if err == nil {
			_, err = tx.ExecContext(ctx, d.rebind(statement), args...)
		}
	}
	term := 0
	if err := scanTerm(tx.QueryRowContext(ctx, d.rebind(selectSetting), termSetting), &term); err != nil {
		return err
	}
	run(`DELETE FROM settings WHERE name IN (?, ?, ?)`, restoredSetting, termSetting, rewindSetting)
	run(`INSERT INTO settings (name, value) VALUES (?, ?)`, restoredSetting, string(mark))
	run(`INSERT INTO settings (name, value) VALUES (?, ?)`, termSetting, strconv.Itoa(term+1))
	run(`UPDATE sync_sessions SET open = 0, epoch = epoch + ?, generation = generation + ?, change = `+d.nextChange(syncSessions), epochLeap, epochLeap)
	run(`UPDATE deliveries SET open = 0, generation = generation + ?, change = `+d.nextChange(deliveries), epochLeap)
	run(`DELETE FROM images WHERE EXISTS (SELECT 1 FROM replication_jobs j WHERE j.job_id = images.job_id AND j.run = images.run AND j.business_status = ?)`,
		string(smc.BusinessProcessing))
	run(`UPDATE replication_jobs SET business_status = ? WHERE business_status IN (?, ?)`,
		string(smc.BusinessPreparing), string(smc.BusinessSyncing), string(smc.BusinessProcessing))
	return err
}

func scanTerm(row rowScanner, term *int) error {
	var text string
	err := row.Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err == nil {
		*term, err = strconv.Atoi(text)
	}
	return err
}

// Term is how often this record was restored from a backup. Numbers of runs may have come twice if it is not 0, in
// different terms.
func (s *Store) Term(ctx context.Context) (term int, err error) {
	return term, scanTerm(s.db.QueryRowContext(ctx, selectSetting, termSetting), &term)
}

// Restored returns what is known of a restore that EndRestoration has not ended; nil when there is none.
func (s *Store) Restored(ctx context.Context) (*Restoration, error) {
	text, ok, err := readSetting(ctx, s.db, restoredSetting)
	if err != nil || !ok {
		return nil, err
	}
	r := new(Restoration)
	return r, json.Unmarshal([]byte(text), r)
}

// EndRestoration says that a restored record is in line with the world.
func (s *Store) EndRestoration(ctx context.Context) error {
	return s.write(ctx, func(tx *transaction) error {
		return deleteSetting(ctx, tx, restoredSetting)
	})
}

// Caught counts what CatchUp did.
type Caught struct {
	// Advanced is how many jobs and source servers the stream was ahead of: each has a new event that shows its state as
	// it is in the record, numbered after the stream's last.
	Advanced int
	// Gone is how many the stream knows and the record does not: each has an event that says it is gone.
	Gone int
}

// CatchUp brings a restored record in line with the last event of one subject in the stream, which is of a later time
// than the record may be. Consumers drop what is not newer than what they saw, so the numbers of a resource go on after
// the stream's last one, and the next event tells what is true now. Doing it again changes nothing.
func (s *Store) CatchUp(ctx context.Context, last events.Head, restored *Restoration) (caught Caught, err error) {
	err = s.writeEvents(ctx, func(tx *transaction) error {
		caught = Caught{}
		if last.Job != nil {
			return s.catchUpJob(ctx, tx, last.Job, restored, &caught)
		}
		return s.catchUpSource(ctx, tx, last.Source, restored, &caught)
	})
	return caught, err
}

func restoredKey(sequence uint64) string { return fmt.Sprintf("restored/%d", sequence) }

func (s *Store) catchUpJob(ctx context.Context, tx *transaction, last *events.JobStatusChanged, restored *Restoration, caught *Caught) error {
	job, err := scanJob(tx.QueryRowContext(ctx, selectJob+` WHERE job_id = ?`, last.JobID))
	switch {
	case errors.Is(err, ErrNotFound):
		return s.gone(ctx, tx, last.JobID, last.Sequence, last.Status == string(statusDeleted), caught, events.JobStatusChanged{
			AccountID: last.AccountID, RegionID: last.RegionID, JobID: last.JobID, SourceID: last.SourceID, Name: last.Name,
			Sequence: last.Sequence + 1, Change: events.JobDeleted, Status: string(statusDeleted), PreviousStatus: last.Status, Run: last.Run,
			StatusInfo: lostWords(restored), Time: s.now().UTC(),
		})
	case err != nil:
		return err
	case job.Sequence >= int64(last.Sequence):
		return nil
	}
	caught.Advanced++
	previous := *job
	previous.Status, previous.BusinessStatus = smc.JobStatus(last.Status), smc.BusinessStatus(last.BusinessStatus)
	job.Sequence = int64(last.Sequence)
	return s.jobEvent(ctx, tx, events.JobRestored, &previous, job, restoredKey(last.Sequence))
}

func (s *Store) catchUpSource(ctx context.Context, tx *transaction, last *events.SourceStateChanged, restored *Restoration, caught *Caught) error {
	source, err := scanSource(tx.QueryRowContext(ctx, selectSource+` WHERE source_id = ?`, last.SourceID))
	switch {
	case errors.Is(err, ErrNotFound):
		return s.gone(ctx, tx, last.SourceID, last.Sequence, last.State == string(stateDeleted), caught, events.SourceStateChanged{
			AccountID: last.AccountID, RegionID: last.RegionID, SourceID: last.SourceID, Name: last.Name,
			Sequence: last.Sequence + 1, Change: events.SourceDeleted, State: string(stateDeleted), PreviousState: last.State, StatusInfo: lostWords(restored), Time: s.now().UTC(),
		})
	case err != nil:
		return err
	case source.Sequence >= int64(last.Sequence):
		return nil
	}
	caught.Advanced++
	source.Sequence = int64(last.Sequence)
	return s.sourceEvent(ctx, tx, events.SourceRestored, source, smc.SourceState(last.State))
}

// gone tells of a resource that came after the backup: the record does not know it.
func (s *Store) gone(ctx context.Context, tx *transaction, id string, last uint64, told bool, caught *Caught, event events.Payload) error {
	if told {
		return nil
	}
	if done, err := written(ctx, tx, id, restoredKey(last)); err != nil || done {
		return err
	}
	caught.Gone++
	return s.enqueue(ctx, tx, id, restoredKey(last), event)
}

func lostWords(restored *Restoration) string {
	return "the center was restored from a backup of " + restored.BackupAt.Format(time.RFC3339) + ", which does not know it"
}
