package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/drover/drover/smc"
)

// Observer is told what this process has written, once it is committed. A transition that was written before, by another attempt, is
// not told again. Its methods must not block.
type Observer interface {
	// JobMoved tells of a transition of a job.
	JobMoved(JobMove)
	// RunTroubled tells that an attempt of a run failed with the code and that the run goes on trying.
	RunTroubled(code string)
}

// WithObserver has an observer told what is written.
func WithObserver(observer Observer) Option { return func(s *Store) { s.observer = observer } }

// JobMove is one transition of a job.
type JobMove struct {
	// Status and BusinessStatus are what the job is now; BusinessStatus is empty unless it is Running.
	Status         smc.JobStatus
	BusinessStatus smc.BusinessStatus
	// ErrorCode says why it is InError.
	ErrorCode string
	// Phase is the one that the transition ended, and PhaseTook how long it was; empty when the job did not run.
	Phase     smc.BusinessStatus
	PhaseTook time.Duration
	// RunEnd is how the run ended; empty when none did. A run that is resumed ends once more.
	RunEnd smc.RunStatus
	// RunType is that of the run, and RunTook how long it was since its first start, with all the time that it was not resumed.
	RunType smc.RunType
	RunTook time.Duration
}

// jobMove describes a transition for the observer.
func (s *Store) jobMove(ctx context.Context, tx *transaction, previous, job *Job) (*JobMove, error) {
	if s.observer == nil || job.Status == previous.Status && job.BusinessStatus == previous.BusinessStatus {
		return nil, nil //nolint:nilnil // there is nothing to tell
	}
	move := &JobMove{Status: job.Status, BusinessStatus: smc.BusinessStatus(businessStatus(job))}
	if job.Status == smc.StatusInError {
		move.ErrorCode = job.ErrorCode
	}
	if previous.Status != smc.StatusRunning {
		return move, nil
	}
	now := s.now()
	since := func(query string, args ...any) (time.Duration, error) {
		var at int64
		err := tx.QueryRowContext(ctx, query, args...).Scan(&at)
		if errors.Is(err, sql.ErrNoRows) {
			return 0, nil
		}
		return max(0, now.Sub(fromMillis(at))), err
	}
	var err error
	move.Phase = previous.BusinessStatus
	if move.PhaseTook, err = since(`SELECT created_at FROM outbox WHERE resource_id = ? AND sequence = ?`, job.JobID, previous.Sequence); err != nil {
		return nil, err
	}
	switch job.Status {
	case smc.StatusWaiting, smc.StatusFinished:
		move.RunEnd = smc.RunSucceeded
	case smc.StatusInError:
		move.RunEnd = smc.RunFailed
	case smc.StatusStopped:
		move.RunEnd = smc.RunStopped
	default:
		return move, nil
	}
	move.RunType = job.RunType
	move.RunTook, err = since(`SELECT started_at FROM replication_runs WHERE job_id = ? AND number = ?`, job.JobID, job.Run)
	return move, err
}

// JobState is what jobs are counted by.
type JobState struct {
	Status         smc.JobStatus
	BusinessStatus smc.BusinessStatus // empty unless Running
	ErrorCode      string             // empty unless InError
}

// Figures are how much there is of everything in a center, of all accounts.
type Figures struct {
	Jobs    map[JobState]int
	Sources map[smc.SourceState]int
	// Queued is how many jobs wait for a running slot, and QueuedSince since when the first of them does; zero when there is none.
	Queued      int
	QueuedSince time.Time
	// Troubled is how many Running jobs do not get on at present, by the code of what keeps them.
	Troubled map[string]int
	// OpenSessions is how many jobs have an agent told to sync, and SyncRate how many bytes a second they cover together.
	OpenSessions int
	SyncRate     int64
	// HostsAlive and HostsSilent are the transition hosts that have reported lately and those that have not.
	HostsAlive, HostsSilent int
	Images                  int
}

// Figures counts what there is. It reads a few indexes and passes once over the jobs and sources.
func (s *Store) Figures(ctx context.Context) (*Figures, error) {
	f := &Figures{Jobs: map[JobState]int{}, Sources: map[smc.SourceState]int{}, Troubled: map[string]int{}}
	type group struct {
		names [3]string
		n     int
	}
	groups := func(query string, columns int, add func(group)) error {
		rows, err := s.db.QueryContext(ctx, query)
		if err != nil {
			return err
		}
		_, err = collect(rows, func(row rowScanner) (struct{}, error) {
			var g group
			into := []any{&g.names[0], &g.names[1], &g.names[2]}[:columns]
			err := row.Scan(append(into, &g.n)...)
			if err == nil {
				add(g)
			}
			return struct{}{}, err
		})
		return err
	}
	err := errors.Join(
		groups(`SELECT status, CASE WHEN status = 'Running' THEN business_status ELSE '' END, CASE WHEN status = 'InError' THEN error_code ELSE '' END, COUNT(*)
			FROM replication_jobs GROUP BY 1, 2, 3`, 3, func(g group) {
			f.Jobs[JobState{smc.JobStatus(g.names[0]), smc.BusinessStatus(g.names[1]), g.names[2]}] = g.n
		}),
		groups(`SELECT state, COUNT(*) FROM source_servers GROUP BY state`, 1, func(g group) { f.Sources[smc.SourceState(g.names[0])] = g.n }),
		groups(`SELECT t.code, COUNT(*) FROM run_troubles t JOIN replication_jobs j ON j.job_id = t.job_id AND j.sequence = t.sequence
			WHERE j.status = 'Running' GROUP BY t.code`, 1, func(g group) { f.Troubled[g.names[0]] = g.n }),
	)
	if err != nil {
		return nil, err
	}
	// Numbers grow within an account: who came first there has the lowest.
	rows, err := s.db.QueryContext(ctx, `SELECT queue FROM replication_jobs j WHERE queue_number > 0 AND queue_number =
		(SELECT MIN(queue_number) FROM replication_jobs f WHERE f.account_id = j.account_id AND f.queue_number > 0)`)
	if err != nil {
		return nil, err
	}
	first, err := collect(rows, scanText)
	if err != nil {
		return nil, err
	}
	for _, text := range first {
		var queue Queue
		if err := queue.decode(text); err != nil {
			return nil, err
		}
		if f.QueuedSince.IsZero() || queue.Since.Before(f.QueuedSince) {
			f.QueuedSince = queue.Since
		}
	}
	alive := millis(s.now().Add(-hostAlive))
	return f, s.db.QueryRowContext(ctx, `SELECT
		(SELECT COUNT(*) FROM replication_jobs WHERE queue_number > 0),
		(SELECT COUNT(*) FROM sync_sessions WHERE open = 1),
		(SELECT COALESCE(SUM(r.rate), 0) FROM replication_jobs j JOIN replication_runs r ON r.job_id = j.job_id AND r.number = j.run
			WHERE j.status = 'Running' AND j.business_status = 'Syncing'),
		(SELECT COUNT(*) FROM hosts WHERE heartbeat_at >= ?), (SELECT COUNT(*) FROM hosts WHERE heartbeat_at < ?),
		(SELECT COUNT(*) FROM images)`, alive, alive).Scan(&f.Queued, &f.OpenSessions, &f.SyncRate, &f.HostsAlive, &f.HostsSilent, &f.Images)
}

// Pools returns the connection pools of the database by what they are for; on PostgreSQL there is one.
func (s *Store) Pools() map[string]*sql.DB {
	if s.db.writing.DB == s.db.DB {
		return map[string]*sql.DB{"all": s.db.DB}
	}
	return map[string]*sql.DB{"reads": s.db.DB, "writes": s.db.writing.DB}
}
