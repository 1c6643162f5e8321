package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/drover/drover/smc"
)

// DefaultRunningQuota is how many jobs of an account may be Running at once when nothing else was set (CONTRACT: Quotas).
const DefaultRunningQuota = 50

// Queue is the place of a job that was started while its account had no running slot left (CONTRACT: Over the running
// quota). There is no counter of slots: they are the rows that are Running, so that no crash can lose one. The zero
// value is a job that is not queued; every change of a job's status makes it so.
type Queue struct {
	Number  int64       `json:"-"` // order within the account: the lowest comes first
	Ticket  int64       // number of the transition that queued the job: it names this entry among all of the job's
	Trigger smc.Trigger // what started the job
	Type    smc.RunType // of the run it is to have
	CutOver CutOver     `json:",omitempty"` // intent to record, if any
	Since   time.Time
	Due     time.Time `json:",omitzero"` // when the start was due; zero: it was asked for

	// Unanswered is how often the job's entity was told that its turn has come and did not answer.
	Unanswered int `json:"-"`

	// Info says which place the job has, as of the moment it was read. It follows from other jobs too, so that only JobPage
	// and Job fill it.
	Info string `json:"-"`
}

// Queued reports whether the job was started and waits for a running slot.
func (j *Job) Queued() bool { return j.Queue.Number > 0 }

// Info is the job's StatusInfo as it is to be shown: what the queue says comes first, then what keeps its run from getting on,
// and what was missed last.
func (j *Job) Info() string {
	said := make([]string, 0, 4)
	for _, text := range []string{j.Queue.Info, j.StatusInfo, j.Trouble.String(), j.timing()} {
		if text != "" {
			said = append(said, text)
		}
	}
	return strings.Join(said, "; ")
}

// encode is the form in which a queue entry is stored, beside its number.
func (q Queue) encode() (string, error) {
	if q.Number == 0 {
		return "", nil
	}
	text, err := json.Marshal(q)
	return string(text), err
}

func (q *Queue) decode(text string) error {
	if text == "" {
		return nil
	}
	return json.Unmarshal([]byte(text), q)
}

// joined is the entry once it was asked for again: it keeps its place. What a person asks for goes before what was due by
// itself, and a cutover before a run.
func (q Queue) joined(asked Queue) Queue {
	if asked.Trigger == smc.TriggerSchedule || asked.CutOver == CutOverNone && q.CutOver != CutOverNone {
		return q
	}
	q.Trigger, q.Type, q.CutOver = asked.Trigger, asked.Type, asked.CutOver
	return q
}

// runningQuotaName is the setting that holds the quota of running jobs.
const runningQuotaName = "running_quota"

// SetRunningQuota sets how many jobs of an account may be Running at once. It is kept in the store, where every process of
// the center decides by it: the server that started last has the last word.
func (s *Store) SetRunningQuota(ctx context.Context, quota int) error {
	return s.write(ctx, func(tx *transaction) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`,
			runningQuotaName, strconv.Itoa(quota))
		return err
	})
}

// slots returns how many jobs of an account are Running, and how many may be.
func slots(ctx context.Context, q reader, accountID string) (running, quota int, err error) {
	if err := q.QueryRowContext(ctx, `SELECT COUNT(*) FROM replication_jobs WHERE account_id = ? AND status = 'Running'`, accountID).Scan(&running); err != nil {
		return 0, 0, err
	}
	var text string
	err = q.QueryRowContext(ctx, `SELECT value FROM settings WHERE name = ?`, runningQuotaName).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return running, DefaultRunningQuota, nil
	}
	if err != nil {
		return 0, 0, err
	}
	quota, err = strconv.Atoi(text)
	return running, quota, err
}

// able are the jobs whose source and transition host are there; a job that has begun needs the host that holds its staging. Its
// argument is the time since when a host must have reported.
const able = ` FROM replication_jobs j JOIN source_servers s ON s.source_id = j.source_id
	WHERE s.state IN ('Available', 'InUse') AND EXISTS (SELECT 1 FROM hosts h WHERE h.heartbeat_at >= ? AND (j.host_id = '' OR j.host_id = h.host_id))`

// ready are the queued jobs that could run at once. One that is not able keeps its place and is passed over.
const ready = able + ` AND j.queue_number > 0`

// mostUnanswered is how often the entity of a queued job may leave unanswered that its turn has come before those behind it go first.
const mostUnanswered = 3

// slotFree reports whether an account has a running slot for whoever stands at a number of its queue: those before, if they
// can run and answer, go first.
func (s *Store) slotFree(ctx context.Context, tx *transaction, accountID string, number int64) (bool, error) {
	running, quota, err := slots(ctx, tx, accountID)
	if err != nil || running >= quota {
		return false, err
	}
	var before int
	err = tx.QueryRowContext(ctx, `SELECT COUNT(*)`+ready+` AND j.account_id = ? AND j.queue_number < ? AND j.queue_unanswered < ?`,
		millis(s.now().Add(-hostAlive)), accountID, number, mostUnanswered).Scan(&before)
	return running+before < quota, err
}

// lastNumber is the number of who is not in the queue yet.
const lastNumber = math.MaxInt64

// enqueueRun puts a job at the end of its account's queue. Its status stays.
func (s *Store) enqueueRun(ctx context.Context, tx *transaction, job *Job, asked Queue) error {
	now := s.now().UTC().Truncate(time.Millisecond) // as the row has it
	asOf := later(now, asked.Due)
	// The points up to now are dealt with: the run that is queued is that of the newest, and waits for nothing else.
	job.reckon(asOf)
	job.Missed.DueAt, job.Missed.WaitsFor = time.Time{}, ""
	if !job.StartedAt.IsZero() {
		job.GridThrough = later(job.GridThrough, asOf)
	}
	job.Queue = asked
	job.Queue.Ticket, job.Queue.Since = job.Sequence+1, now // the transition that is being written
	// Two that ask at once read the same number; the index lets one of them have it, the other reads again.
	return tx.QueryRowContext(ctx, `SELECT COALESCE(MAX(queue_number), 0) + 1 FROM replication_jobs WHERE account_id = ? AND queue_number > 0`,
		job.AccountID).Scan(&job.Queue.Number)
}

// Admit makes a queued job Running if a slot is free and no other job comes before it; else the job stays queued, as the
// answer says. ticket names the entry. Error: ErrSuperseded when the job is no longer queued by it.
func (s *Store) Admit(ctx context.Context, jobID string, ticket int64) (*RunStart, error) {
	job, err := s.transition(ctx, change{
		jobID: jobID, key: fmt.Sprintf("admitted/%d", ticket),
		from: func(job *Job) error {
			if !job.Queued() || job.Queue.Ticket != ticket {
				return fmt.Errorf("%w: it is %s, queued by transition %d", ErrSuperseded, job.Status, job.Queue.Ticket)
			}
			return nil
		},
		apply: func(tx *transaction, job *Job) error {
			var able int
			err := tx.QueryRowContext(ctx, `SELECT COUNT(*)`+ready+` AND j.job_id = ?`, millis(s.now().Add(-hostAlive)), jobID).Scan(&able)
			if err != nil {
				return err
			}
			free, err := s.slotFree(ctx, tx, job.AccountID, job.Queue.Number)
			if err != nil {
				return err
			}
			if able == 0 || !free {
				return errAsItIs
			}
			return s.startRun(ctx, tx, job, job.Queue)
		},
	})
	if err != nil {
		return nil, err
	}
	if job.Queue.Unanswered > 0 { // it has answered
		if err := s.setUnanswered(ctx, jobID, ticket, func(int) int { return 0 }); err != nil {
			return nil, err
		}
	}
	return job.runStart(), nil
}

// NoteUnanswered records that the entity of a queued job was told of its turn and did not answer. After some times the job is
// passed over: those behind it go first, and it is told again when they leave a slot free.
func (s *Store) NoteUnanswered(ctx context.Context, jobID string, ticket int64) error {
	return s.setUnanswered(ctx, jobID, ticket, func(n int) int { return min(n+1, mostUnanswered) })
}

func (s *Store) setUnanswered(ctx context.Context, jobID string, ticket int64, next func(int) int) error {
	return s.write(ctx, func(tx *transaction) error {
		job, err := scanJob(tx.QueryRowContext(ctx, selectJob+` WHERE job_id = ?`, jobID))
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil || !job.Queued() || job.Queue.Ticket != ticket || job.Queue.Unanswered == next(job.Queue.Unanswered) {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE replication_jobs SET queue_unanswered = ? WHERE job_id = ?`, next(job.Queue.Unanswered), jobID)
		return err
	})
}

// Admission is a queued job whose turn has come.
type Admission struct {
	JobID  string
	Ticket int64
}

// Admissible returns, in order, the queued jobs of all accounts for which a slot is free. When nothing is queued it costs
// one look at an empty index.
func (s *Store) Admissible(ctx context.Context) ([]Admission, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT DISTINCT account_id FROM replication_jobs WHERE queue_number > 0`)
	if err != nil {
		return nil, err
	}
	accounts, err := collect(rows, func(row rowScanner) (id string, err error) { return id, row.Scan(&id) })
	if err != nil {
		return nil, err
	}
	var admissible []Admission
	for _, accountID := range accounts {
		running, quota, err := slots(ctx, s.db, accountID)
		if err != nil {
			return nil, err
		}
		if running >= quota {
			continue
		}
		rows, err := s.db.QueryContext(ctx, `SELECT j.job_id, j.queue`+ready+` AND j.account_id = ?
			ORDER BY CASE WHEN j.queue_unanswered < ? THEN 0 ELSE 1 END, j.queue_number LIMIT ?`,
			millis(s.now().Add(-hostAlive)), accountID, mostUnanswered, quota-running)
		if err != nil {
			return nil, err
		}
		turns, err := collect(rows, func(row rowScanner) (Admission, error) {
			var turn Admission
			var text string
			if err := row.Scan(&turn.JobID, &text); err != nil {
				return turn, err
			}
			var queue Queue
			err := queue.decode(text)
			turn.Ticket = queue.Ticket
			return turn, err
		})
		if err != nil {
			return nil, err
		}
		admissible = append(admissible, turns...)
	}
	return admissible, nil
}

// withdraw takes back the queued start of a job, whose status stays. A ScheduledStartTime that has passed is withdrawn
// with it: else it would start the job again at once.
func (s *Store) withdraw(ctx context.Context, tx *transaction, job *Job) error {
	now := later(s.now().UTC(), job.Queue.Due) // the clock by which it was due may be ahead of this one
	job.Queue = Queue{}
	job.GridThrough = later(job.GridThrough, now) // the point that was due is given up: the next one counts
	if job.ScheduledStartAt.IsZero() || job.ScheduledStartAt.After(now) {
		return nil
	}
	job.ScheduledStartAt, job.Spec.ScheduledStartTime = time.Time{}, nil
	spec, err := encodeSpec(&job.Spec)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `UPDATE replication_jobs SET scheduled_start_at = 0, spec = ? WHERE job_id = ?`, spec, job.JobID)
	return err
}

// fillQueue says of the jobs of one account that are queued which place they have.
func (s *Store) fillQueue(ctx context.Context, q reader, jobs ...*Job) error {
	queued := map[string]*Job{}
	accountID := ""
	for _, job := range jobs {
		if job.Queued() {
			queued[job.JobID], accountID = job, job.AccountID
		}
	}
	if len(queued) == 0 {
		return nil
	}
	running, quota, err := slots(ctx, q, accountID)
	if err != nil {
		return err
	}
	alive, err := s.hostsAlive(ctx, q)
	if err != nil {
		return err
	}
	rows, err := q.QueryContext(ctx, `SELECT j.job_id, j.source_id, COALESCE(s.state, '') FROM replication_jobs j
		LEFT JOIN source_servers s ON s.source_id = j.source_id WHERE j.account_id = ? AND j.queue_number > 0 ORDER BY j.queue_number`, accountID)
	if err != nil {
		return err
	}
	type entry struct {
		jobID, sourceID string
		state           smc.SourceState
	}
	entries, err := collect(rows, func(row rowScanner) (e entry, err error) { return e, row.Scan(&e.jobID, &e.sourceID, &e.state) })
	if err != nil {
		return err
	}
	for i, e := range entries {
		job := queued[e.jobID]
		if job == nil {
			continue
		}
		job.Queue.Info = fmt.Sprintf(smc.QueuedInfo+": place %d of %d, the account runs %d jobs of %d allowed", i+1, len(entries), running, quota)
		switch {
		case e.state != smc.SourceAvailable && e.state != smc.SourceInUse:
			job.Queue.Info += fmt.Sprintf("; it is passed over until its source server %s is back: start its agent", e.sourceID)
		case job.HostID == "" && len(alive) == 0:
			job.Queue.Info += "; it is passed over until a transition host is back: start a worker with the role transition"
		case job.HostID != "" && !slices.Contains(alive, job.HostID):
			job.Queue.Info += fmt.Sprintf("; it is passed over until transition host %s, which holds its staging, is back: start its worker, with the same --data", job.HostID)
		case job.Queue.Unanswered >= mostUnanswered:
			job.Queue.Info += "; its workflow has not answered that its turn has come, and those behind it go first until it does: drover doctor tells what is wrong with it"
		}
	}
	return nil
}
