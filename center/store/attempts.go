package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/drover/drover/smc"
)

// Trouble is what keeps a Running job from getting on while its run tries again.
type Trouble struct {
	Code string
	Info string
	// Since is when it first failed so after the last progress.
	Since time.Time
}

// String is what StatusInfo shows of a trouble; empty when there is none.
func (t Trouble) String() string {
	if t.Code == "" {
		return ""
	}
	return fmt.Sprintf("since %s: %s (%s)", smc.FormatTime(t.Since), t.Info, t.Code)
}

// NoteTrouble records that a Running run fails with code and tries again, and returns since when it does. It is told
// ErrSuperseded when the job is not Running that run.
func (s *Store) NoteTrouble(ctx context.Context, jobID string, run int, code, info string) (Trouble, error) {
	trouble := Trouble{Code: code, Info: info}
	err := s.write(ctx, func(tx *transaction) error {
		job, err := scanJob(tx.QueryRowContext(ctx, selectJob+` WHERE job_id = ?`, jobID))
		if errors.Is(err, ErrNotFound) || err == nil && (job.Status != smc.StatusRunning || job.Run != run) {
			return fmt.Errorf("job %s, run %d: %w", jobID, run, ErrSuperseded)
		}
		if err != nil {
			return err
		}
		now := millis(s.now())
		var since int64
		// A trouble from before the last transition is over: this one begins now.
		if err := tx.QueryRowContext(ctx, `INSERT INTO run_troubles (job_id, code, sequence, info, since, noted_at) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (job_id, code) DO UPDATE SET info = excluded.info, noted_at = excluded.noted_at, sequence = excluded.sequence,
			since = CASE WHEN run_troubles.sequence = excluded.sequence THEN run_troubles.since ELSE excluded.since END
			RETURNING since`, jobID, code, job.Sequence, info, now, now).Scan(&since); err != nil {
			return err
		}
		trouble.Since = fromMillis(since)
		// What does not get on has no rate, and no time at which it ends.
		_, err = tx.ExecContext(ctx, `UPDATE replication_runs SET rate = 0 WHERE job_id = ? AND number = ?`, jobID, run)
		return err
	})
	if err == nil && s.observer != nil {
		s.observer.RunTroubled(code)
	}
	return trouble, err
}

// ClearTroubles records that the run of a job gets on.
func (s *Store) ClearTroubles(ctx context.Context, jobID string, run int) error {
	return s.write(ctx, func(tx *transaction) error {
		cleared, err := tx.ExecContext(ctx, `DELETE FROM run_troubles WHERE job_id = ?`, jobID)
		if err != nil {
			return err
		}
		if n, err := cleared.RowsAffected(); err != nil || n == 0 {
			return err
		}
		// A listing shows troubles with their run: its revision is to change (migration 00009).
		_, err = tx.ExecContext(ctx, `UPDATE replication_runs SET rate = rate WHERE job_id = ? AND number = ?`, jobID, run)
		return err
	})
}

// Trouble returns what keeps a job from getting on; false when it is not Running, or gets on.
func (s *Store) Trouble(ctx context.Context, job *Job) (Trouble, bool, error) {
	shown := Job{JobID: job.JobID, Status: job.Status, Sequence: job.Sequence}
	err := fillTroubles(ctx, s.db, &shown)
	return shown.Trouble, shown.Trouble.Code != "", err
}

// fillTroubles gives those of the jobs that are Running what keeps them from getting on.
func fillTroubles(ctx context.Context, from reader, jobs ...*Job) error {
	running := map[string]*Job{}
	var ids []string
	for _, job := range jobs {
		if job.Status == smc.StatusRunning {
			ids, running[job.JobID] = append(ids, job.JobID), job
		}
	}
	if len(ids) == 0 {
		return nil
	}
	where := &conditions{}
	where.in("job_id", ids)
	rows, err := from.QueryContext(toEnd(ctx), `SELECT `+troubleColumns+`, job_id FROM run_troubles`+where.String()+` ORDER BY noted_at`, where.args...)
	if err != nil {
		return err
	}
	_, err = collect(rows, func(row rowScanner) (struct{}, error) {
		var id string
		trouble, sequence, err := scanTrouble(row, &id)
		if err == nil {
			running[id].troubled(trouble, sequence)
		}
		return struct{}{}, err
	})
	return err
}

const troubleColumns = `code, sequence, info, since`

func scanTrouble(row rowScanner, more ...any) (trouble Trouble, sequence int64, err error) {
	var since int64
	err = row.Scan(append([]any{&trouble.Code, &sequence, &trouble.Info, &since}, more...)...)
	trouble.Since = fromMillis(since)
	return trouble, sequence, err
}

// troubled tells a job of its troubles, the one that was noted last as the last: that holds while it is Running and has made no
// transition since.
func (j *Job) troubled(trouble Trouble, sequence int64) {
	if j.Status == smc.StatusRunning && j.Sequence == sequence {
		j.Trouble = trouble
	}
}

// ReserveSpace records that the run of a job has yet to store so many bytes on its transition host, if they fit into what is
// free there less what the other runs have yet to store; others is what those have. A run that does not fit reserves nothing.
func (s *Store) ReserveSpace(ctx context.Context, jobID, hostID string, bytes, free int64) (others int64, fits bool, err error) {
	err = s.write(ctx, func(tx *transaction) error {
		// One after the other on one host: two that look at once would both see room for one.
		if _, err := tx.ExecContext(ctx, `UPDATE hosts SET host_id = host_id WHERE host_id = ?`, hostID); err != nil {
			return err
		}
		if err := tx.QueryRowContext(ctx, `SELECT COALESCE(SUM(r.bytes), 0) FROM space_reservations r JOIN replication_jobs j ON j.job_id = r.job_id
			WHERE r.host_id = ? AND r.job_id <> ? AND j.host_id = r.host_id AND j.status = ? AND j.business_status IN (?, ?, ?)`,
			hostID, jobID, string(smc.StatusRunning), string(smc.BusinessPreparing), string(smc.BusinessSyncing), string(smc.BusinessProcessing)).Scan(&others); err != nil {
			return err
		}
		reserved := bytes
		if fits = bytes == 0 || bytes <= free-others; !fits {
			reserved = 0
		}
		return setReservation(ctx, tx, jobID, hostID, reserved)
	})
	return others, fits, err
}

// UpdateReservation records how much the run of a job has yet to store. A run that is over reserves nothing any more.
func (s *Store) UpdateReservation(ctx context.Context, jobID, hostID string, bytes int64) error {
	return s.write(ctx, func(tx *transaction) error {
		_, err := tx.ExecContext(ctx, `UPDATE space_reservations SET bytes = ? WHERE job_id = ? AND host_id = ?`, bytes, jobID, hostID)
		return err
	})
}

func setReservation(ctx context.Context, tx *transaction, jobID, hostID string, bytes int64) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO space_reservations (job_id, host_id, bytes) VALUES (?, ?, ?)
		ON CONFLICT (job_id) DO UPDATE SET host_id = excluded.host_id, bytes = excluded.bytes`, jobID, hostID, bytes)
	return err
}

// UpdateProcessing records how far a run is in Processing, as a share of 1. It never goes backwards.
func (s *Store) UpdateProcessing(ctx context.Context, jobID string, run int, share float64) error {
	return s.write(ctx, func(tx *transaction) error {
		_, err := tx.ExecContext(ctx, `UPDATE replication_jobs SET progress = `+tx.greatest("progress", "?")+` WHERE job_id = ? AND run = ? AND status = ? AND business_status = ?`,
			ProcessingPercent(share), jobID, run, string(smc.StatusRunning), string(smc.BusinessProcessing))
		return err
	})
}

// ProcessingPercent is how far a job is as a whole when its run is so far in Processing, as a share of 1.
func ProcessingPercent(share float64) float64 {
	return progressSynced + (progressProcessed-progressSynced)*min(1, max(0, share))
}

// SecondsLeft is when a run will have read total bytes, of which it has read some, at rate bytes per second; -1 when that cannot
// be said: nothing is left to read, or nothing gets on.
func SecondsLeft(total, read, rate int64) int64 {
	if rate <= 0 || read >= total {
		return -1
	}
	return (total - read + rate - 1) / rate
}

// Host returns a transition host, or ErrNotFound.
func (s *Store) Host(ctx context.Context, hostID string) (*Host, error) {
	host := Host{HostID: hostID}
	var heartbeat int64
	err := s.db.QueryRowContext(ctx, `SELECT url, private_url, heartbeat_at FROM hosts WHERE host_id = ?`, hostID).Scan(&host.URL, &host.PrivateURL, &heartbeat)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("transition host %s: %w", hostID, ErrNotFound)
	}
	host.HeartbeatAt = fromMillis(heartbeat)
	return &host, err
}

// MoveSession tells the agent of an open session where its transition host listens now, if that has changed since the session was
// opened: a host may come back at another address.
func (s *Store) MoveSession(ctx context.Context, jobID string, run int, hostURL string) error {
	var sourceID string
	err := s.write(ctx, func(tx *transaction) error {
		sourceID = ""
		err := tx.QueryRowContext(ctx, `UPDATE sync_sessions SET host_url = ?, generation = generation + 1, change = `+tx.nextChange(syncSessions)+`
			WHERE job_id = ? AND run = ? AND open = 1 AND host_url <> ? RETURNING source_id`, hostURL, jobID, run, hostURL).Scan(&sourceID)
		if errors.Is(err, sql.ErrNoRows) {
			return nil // it is where it was, or over
		}
		return err
	})
	if err == nil && sourceID != "" {
		s.workChanged.notify(sourceID)
	}
	return err
}
