package store

import (
	"context"
	"strings"
	"time"

	"github.com/drover/drover/smc"
)

// deleteBatch is how many rows one transaction of a sweep deletes: others get their turn in between.
const deleteBatch = 500

// deleteAll runs a statement that deletes at most deleteBatch rows, its last argument, until it finds none. It returns how
// many rows it deleted.
func (s *Store) deleteAll(ctx context.Context, statement string, args ...any) (int64, error) {
	ctx = patiently(ctx)
	args = append(args, deleteBatch)
	for total := int64(0); ; {
		var n int64
		err := s.write(ctx, func(tx *transaction) (err error) {
			n, err = rowsAffected(tx.ExecContext(ctx, statement, args...))
			return err
		})
		total += n
		if err != nil || n < deleteBatch {
			return total, err
		}
	}
}

// ForgetAudit deletes the records of the audit log from before a time, and returns how many.
func (s *Store) ForgetAudit(ctx context.Context, before time.Time) (int64, error) {
	return s.deleteAll(ctx, `DELETE FROM audit WHERE request_id IN (SELECT request_id FROM audit WHERE at < ? ORDER BY at LIMIT ?)`, millis(before))
}

// JobsFinishedBefore returns the ids of up to limit jobs that have been Finished since before a time, oldest first.
func (s *Store) JobsFinishedBefore(ctx context.Context, before time.Time, limit int) ([]string, error) {
	ctx = patiently(ctx)
	rows, err := s.db.QueryContext(ctx, `SELECT job_id FROM replication_jobs WHERE status = '`+string(smc.StatusFinished)+`' AND ended_at > 0 AND ended_at < ?
		ORDER BY ended_at LIMIT ?`, millis(before), limit)
	if err != nil {
		return nil, err
	}
	return collect(rows, scanText)
}

func scanText(row rowScanner) (string, error) {
	var text string
	return text, row.Scan(&text)
}

// ForgetRuns deletes the runs of each job beyond its newest keep, and returns how many. keep is at least 1: the current
// run, or the last one, is never deleted.
func (s *Store) ForgetRuns(ctx context.Context, keep int) (int64, error) {
	return s.forgetRuns(ctx, keep, `DELETE FROM replication_runs WHERE job_id = ? AND number <= ?`)
}

// ForgetRunsBefore deletes the runs that ended before a time, except the newest keep of each job, and returns how many.
func (s *Store) ForgetRunsBefore(ctx context.Context, before time.Time, keep int) (int64, error) {
	return s.forgetRuns(ctx, keep, `DELETE FROM replication_runs WHERE job_id = ? AND number <= ? AND ended_at > 0 AND ended_at < ?`, millis(before))
}

// forgetRuns runs a statement for every job that may have too many runs. Each job is a transaction of its own, and the
// primary key finds its runs.
func (s *Store) forgetRuns(ctx context.Context, keep int, statement string, more ...any) (int64, error) {
	ctx = patiently(ctx)
	type job struct {
		id  string
		run int
	}
	rows, err := s.db.QueryContext(ctx, `SELECT job_id, run FROM replication_jobs WHERE run > ?`, keep)
	if err != nil {
		return 0, err
	}
	jobs, err := collect(rows, func(row rowScanner) (j job, err error) { return j, row.Scan(&j.id, &j.run) })
	if err != nil {
		return 0, err
	}
	total := int64(0)
	for _, j := range jobs {
		var first int
		if err := s.db.QueryRowContext(ctx, `SELECT COALESCE(MIN(number), 0) FROM replication_runs WHERE job_id = ?`, j.id).Scan(&first); err != nil {
			return total, err
		}
		if first == 0 || first > j.run-keep {
			continue // most jobs, most of the time: nothing is written
		}
		var n int64
		err := s.write(ctx, func(tx *transaction) (err error) {
			n, err = rowsAffected(tx.ExecContext(ctx, statement, append([]any{j.id, j.run - keep}, more...)...))
			return err
		})
		if err != nil {
			return total, err
		}
		total += n
	}
	return total, nil
}

// TrimOutbox deletes the events from before a time that the stream no longer holds, and returns how many. heldFrom is the
// sequence of the first message that the stream holds. Kept are events that are not published yet, and the last one of each
// job and source server there is: its place in the stream is what the next one follows.
func (s *Store) TrimOutbox(ctx context.Context, before time.Time, heldFrom uint64) (int64, error) {
	ctx = patiently(ctx)
	const chunk = `SELECT o.id, o.created_at, o.published, o.stream_sequence, CASE
			WHEN EXISTS (SELECT 1 FROM outbox l WHERE l.resource_id = o.resource_id AND l.sequence > o.sequence) THEN 1
			WHEN EXISTS (SELECT 1 FROM replication_jobs j WHERE j.job_id = o.resource_id) THEN 0
			WHEN EXISTS (SELECT 1 FROM source_servers s WHERE s.source_id = o.resource_id) THEN 0
			ELSE 1 END
		FROM outbox o WHERE o.id > ? ORDER BY o.id LIMIT ?`
	type event struct {
		id, created           int64
		published, expendable int
		streamSequence        uint64
	}
	total, after := int64(0), int64(0)
	for {
		rows, err := s.db.QueryContext(ctx, chunk, after, deleteBatch)
		if err != nil {
			return total, err
		}
		read, err := collect(rows, func(row rowScanner) (e event, err error) {
			return e, row.Scan(&e.id, &e.created, &e.published, &e.streamSequence, &e.expendable)
		})
		if err != nil {
			return total, err
		}
		var ids []any
		young := false
		for _, e := range read {
			if young = e.created >= millis(before); young {
				break // events are numbered in the order of time
			}
			if e.published != 0 && e.expendable != 0 && e.streamSequence < heldFrom {
				ids = append(ids, e.id)
			}
			after = e.id
		}
		if len(ids) > 0 {
			var n int64
			err := s.write(ctx, func(tx *transaction) (err error) {
				n, err = rowsAffected(tx.ExecContext(ctx, `DELETE FROM outbox WHERE published = 1 AND id IN (?`+strings.Repeat(", ?", len(ids)-1)+`)`, ids...))
				return err
			})
			if err != nil {
				return total, err
			}
			total += n
		}
		if young || len(read) < deleteBatch {
			return total, nil
		}
	}
}
