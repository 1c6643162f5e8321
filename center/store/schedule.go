package store

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"time"

	"github.com/drover/drover/events"
	"github.com/drover/drover/smc"
)

// Schedule is when a job moves by itself: what its entity waits for. It follows from the job's row.
type Schedule struct {
	Frequency        time.Duration // 0: a one-time job
	ScheduledStartAt time.Time     // zero: started by hand
	FirstStartAt     time.Time     // origin of the grid; zero before the first start
	Phase            time.Duration // of the job's grid, fixed at its first start
	// Through is the time up to which the grid's points are dealt with: the next run is due at the first point after it, and
	// at once when that is past.
	Through    time.Time
	ValidUntil time.Time // zero: never expires
	ClearAt    time.Time // when an Expired job is cleared; zero while it is not Expired
	Queued     int64     // ticket of the job's place in the queue, which comes before any start that is due; 0: it is not queued
}

// Schedule returns when the job moves by itself.
func (j *Job) Schedule() *Schedule {
	schedule := &Schedule{
		ScheduledStartAt: j.ScheduledStartAt, FirstStartAt: j.StartedAt, Phase: j.GridPhase, Through: j.GridThrough, ValidUntil: j.ValidUntil,
		Queued: j.Queue.Ticket,
	}
	schedule.Frequency = time.Duration(j.hours()) * time.Hour
	if j.Status == smc.StatusExpired {
		schedule.ClearAt = j.EndedAt.Add(smc.ExpiredRetention)
	}
	return schedule
}

// hours is the Frequency of an incremental job; a one-time job has none.
func (j *Job) hours() int {
	if j.RunOnce() {
		return 0
	}
	return value(j.Spec.Frequency)
}

// Due returns when a job of that status is to be started by itself: at its ScheduledStartTime, or at the next point of the
// grid (CONTRACT: Grid). A time that is past means at once. A job that is queued runs when it is admitted.
func (s Schedule) Due(status smc.JobStatus) (at time.Time, ok bool) {
	switch {
	case s.Queued != 0:
	case status == smc.StatusReady && !s.ScheduledStartAt.IsZero():
		return s.ScheduledStartAt, true
	case status == smc.StatusWaiting && s.Frequency > 0 && !s.FirstStartAt.IsZero():
		return s.pointAfter(s.Through), true
	}
	return time.Time{}, false
}

// Lapse returns when a job of that status expires, or is cleared after it did.
func (s Schedule) Lapse(status smc.JobStatus) (at time.Time, ok bool) {
	switch status {
	case smc.StatusReady, smc.StatusStopped, smc.StatusInError, smc.StatusWaiting:
		return s.ValidUntil, !s.ValidUntil.IsZero()
	case smc.StatusExpired:
		return s.ClearAt, !s.ClearAt.IsZero()
	case smc.StatusRunning, smc.StatusFinished, smc.StatusDeleting:
	}
	return time.Time{}, false
}

// pointAfter returns the first point of the grid after t. The points are first start + phase + k × Frequency.
func (s Schedule) pointAfter(t time.Time) time.Time {
	origin := s.FirstStartAt.Add(s.Phase)
	since := t.Sub(origin)
	into := since % s.Frequency // how far t lies behind the last point
	if into < 0 {
		into += s.Frequency
	}
	return t.Add(s.Frequency - into)
}

// points returns how many points of the grid lie after from and not after to, and the last of them.
func (s Schedule) points(from, to time.Time) (n int, last time.Time) {
	if s.Frequency == 0 || s.FirstStartAt.IsZero() || !to.After(from) {
		return 0, time.Time{}
	}
	first, beyond := s.pointAfter(from), s.pointAfter(to)
	return int(beyond.Sub(first) / s.Frequency), beyond.Add(-s.Frequency)
}

// phaseShare is the part of its Frequency by which a job's grid is shifted at most.
const phaseShare = 4

// gridPhase fixes the phase of a job's grid at its first start: 0 while it is the only unfinished incremental job of that
// Frequency in its account, else what its JobId says, in whole seconds below a quarter of the Frequency (CONTRACT: Grid).
func gridPhase(ctx context.Context, tx *transaction, job *Job) (time.Duration, error) {
	schedule := job.Schedule()
	if schedule.Frequency == 0 {
		return 0, nil
	}
	var others int
	err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM replication_jobs WHERE account_id = ? AND frequency = ? AND job_id <> ?
		AND status IN ('Ready', 'Running', 'Stopped', 'Waiting', 'InError')`, job.AccountID, job.hours(), job.JobID).Scan(&others)
	if err != nil || others == 0 {
		return 0, err
	}
	sum := sha256.Sum256([]byte(job.JobID))
	seconds := uint64(schedule.Frequency / phaseShare / time.Second)
	return time.Duration(binary.BigEndian.Uint64(sum[:8])%seconds) * time.Second, nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// onGrid takes the start of a run into the job's grid: its first start is the origin, and the points up to now are dealt
// with. asOf is now, or the time at which the start was due when the clocks of two machines disagree about which is later.
func onGrid(ctx context.Context, tx *transaction, job *Job, now, asOf time.Time) error {
	job.reckon(asOf)
	job.Missed.DueAt, job.Missed.WaitsFor = time.Time{}, ""
	if !job.StartedAt.IsZero() {
		job.GridThrough = later(job.GridThrough, asOf)
		return nil
	}
	job.StartedAt = now
	var err error
	job.GridPhase, err = gridPhase(ctx, tx, job)
	job.GridThrough = now.Add(job.GridPhase) // the first interval is the one that is longer by the phase
	return err
}

// lapsed reports whether the job is to expire: ValidTime has passed while it rests.
func (j *Job) lapsed(now time.Time) bool {
	at, ok := j.Schedule().Lapse(j.Status)
	return ok && j.Status != smc.StatusExpired && !at.After(now)
}

// errLapsed is returned for a start that is due when the job is to expire (CONTRACT: expiry beats a due run).
var errLapsed = errors.New("the job's ValidTime has passed: it expires instead of running")

// StartDueRun makes a job Running because its time has come: it was due at the given time. While the source is Unavailable, no
// transition host lives, or the job is about to expire, it does nothing but keep account of what is missed (CONTRACT: Grid):
// it is to be called again and again. Errors: those of StartRun; WaitError.
func (s *Store) StartDueRun(ctx context.Context, jobID, key string, due time.Time) (*RunStart, error) {
	start, err := s.start(ctx, jobID, key, Queue{Trigger: smc.TriggerSchedule, Type: smc.RunSchedule, Due: due})
	if code := smc.CodeOf(err); code != smc.CodeSourceServerStateInvalid && code != smc.CodeTransitionHostUnavailable {
		return start, err
	}
	waits := &WaitError{Err: err}
	waits.UntilPoint, err = s.dueStartWaits(ctx, jobID, due, smc.CodeOf(err))
	return nil, errors.Join(waits, err)
}

// WaitError says that a start that is due waits.
type WaitError struct {
	// Err is an *smc.Error that says for what: the source server, or a transition host.
	Err error
	// UntilPoint is how long it is until the next point of the job's grid, at which what waits changes; 0 when it has none.
	UntilPoint time.Duration
}

// Error implements error.
func (e *WaitError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *WaitError) Unwrap() error { return e.Err }

// DueStartsToWake returns the jobs with a start that is due and was found waiting, and whose source server and transition host are there
// now.
func (s *Store) DueStartsToWake(ctx context.Context) ([]string, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT j.job_id`+able+` AND j.missed <> '' AND j.missed LIKE '%"WaitsFor"%' AND j.queue_number = 0
		AND j.status IN ('Ready', 'Waiting')`, millis(s.now().Add(-hostAlive)))
	if err != nil {
		return nil, err
	}
	return collect(rows, scanText)
}

// dueStartWaits records what a due start waits for, and the points that are missed by now. It writes only what is new, and
// returns WaitError's UntilPoint.
func (s *Store) dueStartWaits(ctx context.Context, jobID string, due time.Time, code string) (untilPoint time.Duration, err error) {
	err = s.write(ctx, func(tx *transaction) error {
		job, err := scanJob(tx.QueryRowContext(ctx, selectJob+` WHERE job_id = ?`, jobID))
		if err != nil {
			return err
		}
		if moved := smc.Allowed(smc.TriggerSchedule, job.state()) != nil || job.Queued(); moved {
			return nil
		}
		before, known := job.Missed, job.Missed.points()
		now := later(s.now().UTC(), due)
		job.reckon(now)
		if schedule := job.Schedule(); job.Status == smc.StatusWaiting && schedule.Frequency > 0 {
			untilPoint = schedule.pointAfter(now).Sub(now)
		}
		// What waits is the newest point, or, when that counts as missed already, the run that makes up for it.
		job.Missed.DueAt, job.Missed.WaitsFor = due, code
		if _, last := job.Schedule().points(job.GridThrough, now); !last.IsZero() {
			job.Missed.DueAt = last
		}
		if job.Missed == before {
			return nil
		}
		missed, err := job.Missed.encode()
		if err != nil {
			return err
		}
		if _, err = tx.ExecContext(ctx, `UPDATE replication_jobs SET missed = ? WHERE job_id = ?`, missed, jobID); err != nil || job.Missed.points() == known {
			return err // to wait is no transition, to miss a point is one
		}
		return s.jobStays(ctx, tx, events.JobMissed, job)
	})
	return untilPoint, err
}
