package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/drover/drover/events"
	"github.com/drover/drover/smc"
)

// change describes one transition of a job: where it may start from, and what it writes.
type change struct {
	jobID string
	key   string // idempotency: the same key of the same job is written once
	// from says whether the transition may happen; nil error means yes. It sees the row as it is in the transaction.
	from func(*Job) error
	// apply changes the job; what it sets is written, and further rows may be written with tx.
	apply func(tx *transaction, job *Job) error
}

// changeOf says what a transition that moved a job was. What leaves its status, phase and place in the queue as they are is not
// one of these: its writer knows what it was.
func changeOf(previous, job *Job) events.JobChange {
	switch {
	case job.Status != previous.Status:
		return statusChange(previous.Status, job.Status)
	case job.Status == smc.StatusRunning:
		return events.JobPhase
	case job.Queued():
		return events.JobQueued
	}
	return events.JobWithdrawn
}

func statusChange(from, to smc.JobStatus) events.JobChange {
	switch to {
	case smc.StatusRunning:
		if from == smc.StatusStopped || from == smc.StatusInError {
			return events.JobResumed
		}
		return events.JobStarted
	case smc.StatusStopped:
		return events.JobStopped
	case smc.StatusWaiting:
		return events.JobRested
	case smc.StatusInError:
		return events.JobFailed
	case smc.StatusFinished:
		return events.JobFinished
	case smc.StatusExpired:
		return events.JobExpired
	case smc.StatusDeleting:
		return events.JobDeleting
	case statusDeleted:
		return events.JobDeleted
	case smc.StatusReady: // no job comes back to it
	}
	return events.JobCreated
}

// transition writes a change of a job, its event and the state of its source in one transaction, and returns the job
// as it is afterwards. A key that was written before makes it a no-op.
func (s *Store) transition(ctx context.Context, c change) (*Job, error) {
	var job *Job
	var move *JobMove
	err := s.writeEvents(ctx, func(tx *transaction) error {
		var err error
		move = nil
		job, err = scanJob(tx.QueryRowContext(ctx, selectJob+` WHERE job_id = ?`, c.jobID))
		if errors.Is(err, ErrNotFound) {
			return smc.Errorf(smc.CodeInvalidJobIDNotFound, "replication job %s does not exist", c.jobID)
		}
		if err != nil {
			return err
		}
		if done, err := written(ctx, tx, c.jobID, c.key); err != nil || done {
			return err // done: by an earlier attempt
		}
		if err := c.from(job); err != nil {
			return err
		}
		previous := *job
		if err := c.apply(tx, job); err != nil {
			return err
		}
		if move, err = s.jobMove(ctx, tx, &previous, job); err != nil {
			return err
		}
		return s.writeTransition(ctx, tx, &previous, job, c.key)
	})
	if errors.Is(err, errAsItIs) {
		return job, nil
	}
	if err != nil {
		return nil, fmt.Errorf("job %s, transition %s: %w", c.jobID, c.key, err)
	}
	if move != nil {
		s.observer.JobMoved(*move)
	}
	s.workChanged.notify(job.SourceID)
	if id := job.targetID(); id != "" {
		s.workChanged.notify(id)
	}
	return job, nil
}

// errAsItIs ends a transition that has nothing to change.
var errAsItIs = errors.New("the job stays as it is")

// writeTransition updates the job's row, writes its event and moves its source along. A job whose status changes is no
// longer queued.
func (s *Store) writeTransition(ctx context.Context, tx *transaction, previous, job *Job, key string) error {
	if job.Status != previous.Status {
		job.Queue = Queue{}
		if job.Status == smc.StatusRunning {
			job.Lap = job.Sequence + 1 // the number that this transition gets
		}
	}
	queue, err := job.Queue.encode()
	if err != nil {
		return err
	}
	missed, err := job.Missed.encode()
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `UPDATE replication_jobs SET status = ?, business_status = ?, run = ?, run_type = ?, cutover = ?, host_id = ?,
		image_id = ?, progress = ?, error_code = ?, status_info = ?, started_at = ?, ended_at = ?, queue_number = ?, queue = ?,
		queue_unanswered = 0, grid_phase = ?, grid_through = ?, missed = ?, lap = ? WHERE job_id = ?`,
		string(job.Status), string(job.BusinessStatus), job.Run, string(job.RunType), string(job.CutOver), job.HostID,
		job.ImageID, job.Progress, job.ErrorCode, job.StatusInfo, millis(job.StartedAt), millis(job.EndedAt), job.Queue.Number, queue,
		job.GridPhase.Milliseconds(), millis(job.GridThrough), missed, job.Lap, job.JobID); err != nil {
		return err
	}
	if err := s.fillQueue(ctx, tx, job); err != nil {
		return err
	}
	if err := s.jobEvent(ctx, tx, changeOf(previous, job), previous, job, key); err != nil {
		return err
	}
	if (previous.Status == smc.StatusRunning) == (job.Status == smc.StatusRunning) {
		return nil
	}
	if job.Status != smc.StatusRunning {
		// What the run had yet to store it stores no more, or a later start reserves anew.
		if _, err := tx.ExecContext(ctx, `DELETE FROM space_reservations WHERE job_id = ?`, job.JobID); err != nil {
			return err
		}
	}
	source, err := scanSource(tx.QueryRowContext(ctx, selectSource+` WHERE source_id = ?`, job.SourceID))
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if source.State == smc.SourceUnavailable {
		return nil // it stays so until it is heard of
	}
	return s.moveSource(ctx, tx, source, "")
}

// jobEvent numbers a transition of a job and puts its event into the outbox.
func (s *Store) jobEvent(ctx context.Context, tx *transaction, what events.JobChange, previous, job *Job, key string) error {
	job.Sequence++
	if err := tx.later(ctx, nil, `UPDATE replication_jobs SET sequence = ? WHERE job_id = ?`, job.Sequence, job.JobID); err != nil {
		return err
	}
	return s.enqueueJob(ctx, tx, what, previous, job, key)
}

// enqueueJob puts the event of a transition that has its number into the outbox.
func (s *Store) enqueueJob(ctx context.Context, tx *transaction, what events.JobChange, previous, job *Job, key string) error {
	data := events.JobStatusChanged{
		AccountID: job.AccountID, RegionID: job.RegionID, JobID: job.JobID, SourceID: job.SourceID, Name: job.Name,
		Sequence: uint64(job.Sequence), Change: what, Status: string(job.Status), BusinessStatus: businessStatus(job),
		Run: job.Run, RunType: string(job.RunType), ImageID: job.ImageID,
		ErrorCode: job.ErrorCode, StatusInfo: job.Info(), Queued: job.Queued(), Progress: job.Progress, Time: s.now().UTC(),
	}
	if previous != nil {
		data.PreviousStatus, data.PreviousBusinessStatus = string(previous.Status), businessStatus(previous)
	}
	return s.enqueue(ctx, tx, job.JobID, key, data)
}

// jobStays writes the event of a transition that leaves the status of a job, its phase and its place in the queue as they are.
func (s *Store) jobStays(ctx context.Context, tx *transaction, what events.JobChange, job *Job) error {
	before := job.Sequence
	if err := s.fillQueue(ctx, tx, job); err != nil {
		return err
	}
	if err := s.jobEvent(ctx, tx, what, job, job, fmt.Sprintf("%s/%d", what, before+1)); err != nil {
		return err
	}
	// What kept the run from getting on before still does.
	_, err := tx.ExecContext(ctx, `UPDATE run_troubles SET sequence = ? WHERE job_id = ? AND sequence = ?`, job.Sequence, job.JobID, before)
	return err
}

// businessStatus is what the API and the events show: a phase means something only while the job is Running.
func businessStatus(job *Job) string {
	if job.Status != smc.StatusRunning {
		return ""
	}
	return string(job.BusinessStatus)
}

// sourceEvent writes a source's State, numbers the transition and puts its event into the outbox.
func (s *Store) sourceEvent(ctx context.Context, tx *transaction, what events.SourceChange, source *Source, previous smc.SourceState) error {
	source.Sequence++
	key := fmt.Sprintf("%s/%d", what, source.Sequence)
	if _, err := tx.ExecContext(ctx, `UPDATE source_servers SET state = ?, error_code = ?, status_info = ?, sequence = ? WHERE source_id = ?`,
		string(source.State), source.ErrorCode, source.StatusInfo, source.Sequence, source.SourceID); err != nil {
		return err
	}
	return s.enqueue(ctx, tx, source.SourceID, key, events.SourceStateChanged{
		AccountID: source.AccountID, RegionID: source.RegionID, SourceID: source.SourceID, Name: source.Name, Sequence: uint64(source.Sequence),
		Change: what, State: string(source.State), PreviousState: string(previous), ErrorCode: source.ErrorCode, StatusInfo: source.StatusInfo, Time: s.now().UTC(),
	})
}

// RunStart tells what a start of a job's run set in motion.
type RunStart struct {
	Run            int
	Type           smc.RunType
	BusinessStatus smc.BusinessStatus // the phase to go on from
	HostID         string             // transition host that does the work
	Lap            int64              // number of this transition: it sets a resumed run apart from its earlier laps
	// Queued is the ticket of a job that does not run: its account has no running slot left, and it waits for one. What
	// else stands here is then of its last run. It is 0 when the job runs.
	Queued int64
	// Over says that the job neither runs nor is queued: the start was carried out by an earlier attempt, and has ended since.
	Over bool
	// Schedule is when the job moves by itself from now on.
	Schedule Schedule
}

func (j *Job) runStart() *RunStart {
	return &RunStart{
		Run: j.Run, Type: j.RunType, BusinessStatus: j.BusinessStatus, HostID: j.HostID, Lap: j.RunLap(),
		Queued: j.Queue.Ticket, Over: j.Status != smc.StatusRunning && !j.Queued(), Schedule: *j.Schedule(),
	}
}

// RunLap is the lap of the current run. That of a run older than the record of laps is the number of the job's last transition: it
// sets the run apart from all that was before.
func (j *Job) RunLap() int64 {
	if j.Lap == 0 {
		return j.Sequence
	}
	return j.Lap
}

// StartRun makes a job Running. From Stopped and InError it resumes its run in the phase it had reached; from Ready
// and Waiting it begins the next run. cutOver, when not CutOverNone, is kept as the job's intent: the run is its last.
// When its account has no running slot left the job is queued instead, in the status it has; one that is queued already keeps
// its place. Errors: SourceServerState.Invalid when the source is Unavailable; ReplicationJob.InvalidStatus when another
// operation moved the job; TransitionHost.Unavailable when the host that holds the staging of the job is not alive, or, for a job that
// holds none, when none is.
func (s *Store) StartRun(ctx context.Context, jobID, key string, trigger smc.Trigger, runType smc.RunType, cutOver CutOver) (*RunStart, error) {
	return s.start(ctx, jobID, key, Queue{Trigger: trigger, Type: runType, CutOver: cutOver})
}

func (s *Store) start(ctx context.Context, jobID, key string, asked Queue) (*RunStart, error) {
	job, err := s.transition(ctx, change{
		jobID: jobID, key: key,
		from: func(job *Job) error {
			if err := smc.Allowed(asked.Trigger, job.state()); err != nil {
				return err
			}
			if !asked.Due.IsZero() && job.lapsed(s.now()) {
				return errLapsed
			}
			if job.Queued() && job.Queue.joined(asked) == job.Queue {
				return errAsItIs
			}
			return nil
		},
		apply: func(tx *transaction, job *Job) error {
			if err := s.requireSource(ctx, tx, job.SourceID); err != nil {
				return err
			}
			if job.Queued() {
				job.Queue = job.Queue.joined(asked)
				return nil
			}
			free, err := s.slotFree(ctx, tx, job.AccountID, lastNumber)
			if err != nil {
				return err
			}
			if !free {
				return s.enqueueRun(ctx, tx, job, asked)
			}
			return s.startRun(ctx, tx, job, asked)
		},
	})
	if err != nil {
		return nil, err
	}
	return job.runStart(), nil
}

// startRun makes a job Running as it was asked for.
func (s *Store) startRun(ctx context.Context, tx *transaction, job *Job, asked Queue) error {
	if job.HostID != "" {
		if err := s.requireHost(ctx, tx, job.HostID); err != nil {
			return err
		}
	} else {
		host, err := s.pickHost(ctx, tx, job)
		if err != nil {
			return err
		}
		job.HostID = host
	}
	now := s.now().UTC().Truncate(time.Millisecond) // as the row has it
	if job.Queued() {
		job.endOfQueue(now)
	}
	if err := onGrid(ctx, tx, job, now, later(now, asked.Due)); err != nil {
		return err
	}
	if job.Status == smc.StatusReady || job.Status == smc.StatusWaiting {
		job.Run++
		job.RunType, job.BusinessStatus, job.Progress = asked.Type, smc.BusinessPreparing, 0
		if _, err := tx.ExecContext(ctx, `INSERT INTO replication_runs (job_id, number, type, status, started_at) VALUES (?, ?, ?, ?, ?)`,
			job.JobID, job.Run, string(asked.Type), string(smc.RunRunning), millis(now)); err != nil {
			return err
		}
	} else {
		if job.BusinessStatus == smc.BusinessSyncing || smc.SyncAgain(job.ErrorCode) {
			// Preparing opens the sync session; what it finds done it does not do again. A synced state that turned out to be damaged,
			// or that no container image can be made of, is to be synced again.
			job.BusinessStatus = smc.BusinessPreparing
		}
		if err := setRun(ctx, tx, job, smc.RunRunning, time.Time{}); err != nil {
			return err
		}
	}
	if asked.CutOver != CutOverNone {
		job.CutOver = asked.CutOver
	}
	job.Status, job.ErrorCode, job.StatusInfo = smc.StatusRunning, "", ""
	return nil
}

func (s *Store) requireSource(ctx context.Context, tx *transaction, sourceID string) error {
	source, err := scanSource(tx.QueryRowContext(ctx, selectSource+` WHERE source_id = ?`, sourceID))
	if errors.Is(err, ErrNotFound) {
		return smc.Errorf(smc.CodeSourceServerStateInvalid, "source server %s does not exist any more", sourceID)
	}
	if err != nil {
		return err
	}
	switch source.State {
	case smc.SourceUnavailable:
		return smc.Errorf(smc.CodeSourceServerStateInvalid, "source server %s (%s) is Unavailable: start its agent and try again", sourceID, source.Name)
	case smc.SourceDeleting:
		return smc.Errorf(smc.CodeSourceServerStateInvalid, "source server %s (%s) is Deleting, and its jobs with it", sourceID, source.Name)
	case smc.SourceAvailable, smc.SourceInUse:
	}
	return nil
}

// setRun writes the status of the job's current run.
func setRun(ctx context.Context, tx *transaction, job *Job, status smc.RunStatus, ended time.Time) error {
	_, err := tx.ExecContext(ctx, `UPDATE replication_runs SET status = ?, ended_at = ? WHERE job_id = ? AND number = ?`,
		string(status), millis(ended), job.JobID, job.Run)
	return err
}

// Guard narrows when a transition of a run may happen.
type Guard func(*Job) error

// InLap admits a transition only in the lap that began with that transition of the job. An activity that hung while its job was
// stopped and started again cannot end the phase of the later lap: what it waited for is not what that one waits for.
func InLap(lap int64) Guard {
	return func(job *Job) error {
		if job.Lap != 0 && job.Lap != lap {
			return fmt.Errorf("%w: its run was resumed by transition %d, this is of the lap of transition %d", ErrSuperseded, job.Lap, lap)
		}
		return nil
	}
}

// inPhase admits a transition only while the given run of the job is Running in the given phase, and the guards agree.
func inPhase(run int, phase smc.BusinessStatus, guards []Guard) func(*Job) error {
	return func(job *Job) error {
		if job.Status != smc.StatusRunning || job.Run != run || job.BusinessStatus != phase {
			return fmt.Errorf("%w: it is %s %s, run %d", ErrSuperseded, job.Status, job.BusinessStatus, job.Run)
		}
		for _, guard := range guards {
			if err := guard(job); err != nil {
				return err
			}
		}
		return nil
	}
}

// BeginSync moves a run from Preparing to Syncing and opens its session: from now on the agent of the source is told
// to sync to hostURL. It returns ErrSuperseded when the run is no longer Preparing.
func (s *Store) BeginSync(ctx context.Context, jobID, key string, run int, hostURL string, bytesTotal int64, guards ...Guard) error {
	_, err := s.transition(ctx, change{
		jobID: jobID, key: key, from: inPhase(run, smc.BusinessPreparing, guards),
		apply: func(tx *transaction, job *Job) error {
			job.BusinessStatus = smc.BusinessSyncing
			parameters, err := json.Marshal(job.Parameters())
			if err != nil {
				return err
			}
			if err := tx.later(ctx, nil, `UPDATE replication_runs SET bytes_total = ? WHERE job_id = ? AND number = ?`, bytesTotal, jobID, run); err != nil {
				return err
			}
			_, err = tx.ExecContext(ctx, `INSERT INTO sync_sessions (source_id, job_id, run, epoch, open, generation, host_url, parameters, change)
				VALUES (?, ?, ?, 1, 1, 2, ?, ?, `+tx.nextChange(syncSessions)+`)
				ON CONFLICT (source_id) DO UPDATE SET job_id = excluded.job_id, run = excluded.run, epoch = sync_sessions.epoch + 1, open = 1,
				generation = sync_sessions.generation + 1, host_url = excluded.host_url, parameters = excluded.parameters, change = excluded.change`,
				job.SourceID, jobID, run, hostURL, string(parameters))
			return err
		},
	})
	return err
}

// closeSession ends the session of a job: its epoch is raised, so that no writer is left, and its agent is told to stop.
func closeSession(ctx context.Context, tx *transaction, jobID string) error {
	_, err := tx.ExecContext(ctx, `UPDATE sync_sessions SET open = 0, epoch = epoch + 1, generation = generation + 1, change = `+tx.nextChange(syncSessions)+` WHERE job_id = ? AND open = 1`, jobID)
	return err
}

// EndSync moves a run from Syncing to Processing and closes its session.
func (s *Store) EndSync(ctx context.Context, jobID, key string, run int, guards ...Guard) error {
	_, err := s.transition(ctx, change{
		jobID: jobID, key: key, from: inPhase(run, smc.BusinessSyncing, guards),
		apply: func(tx *transaction, job *Job) error {
			job.BusinessStatus = smc.BusinessProcessing
			job.Progress = max(job.Progress, progressSynced)
			return closeSession(ctx, tx, jobID)
		},
	})
	return err
}

// RecordImage records the image of a run that has more to do with it before Processing ends; EndProcessing finds it there. It returns ErrSuperseded
// when the run is no longer Processing.
func (s *Store) RecordImage(ctx context.Context, jobID string, run int, imageID string, disks []ImageDisk, guards ...Guard) error {
	return s.write(ctx, func(tx *transaction) error {
		job, err := scanJob(tx.QueryRowContext(ctx, selectJob+` WHERE job_id = ?`, jobID))
		if errors.Is(err, ErrNotFound) {
			return fmt.Errorf("job %s is gone: %w", jobID, ErrSuperseded)
		}
		if err == nil {
			err = inPhase(run, smc.BusinessProcessing, guards)(job)
		}
		if err != nil {
			return fmt.Errorf("job %s: %w", jobID, err)
		}
		return s.insertImage(ctx, tx, job, &Image{ImageID: imageID, Disks: disks})
	})
}

// EndProcessing moves a run from Processing to Cleaning and records its image.
func (s *Store) EndProcessing(ctx context.Context, jobID, key string, run int, imageID string, disks []ImageDisk, guards ...Guard) error {
	return s.endProcessing(ctx, jobID, key, run, &Image{ImageID: imageID, Disks: disks}, guards)
}

// EndContainer is EndProcessing for a run that made a container image.
func (s *Store) EndContainer(ctx context.Context, jobID, key string, run int, imageID string, container ImageContainer, guards ...Guard) error {
	return s.endProcessing(ctx, jobID, key, run, &Image{ImageID: imageID, Disks: []ImageDisk{}, Container: &container}, guards)
}

func (s *Store) endProcessing(ctx context.Context, jobID, key string, run int, image *Image, guards []Guard) error {
	_, err := s.transition(ctx, change{
		jobID: jobID, key: key, from: inPhase(run, smc.BusinessProcessing, guards),
		apply: func(tx *transaction, job *Job) error {
			if err := s.insertImage(ctx, tx, job, image); err != nil {
				return err
			}
			job.BusinessStatus, job.ImageID = smc.BusinessCleaning, image.ImageID
			job.Progress = max(job.Progress, progressProcessed)
			if err := closeDelivery(ctx, tx, jobID, ""); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, `UPDATE replication_runs SET image_id = ? WHERE job_id = ? AND number = ?`, image.ImageID, jobID, run)
			return err
		},
	})
	return err
}

// insertImage writes the image of the current run of a job. One that is recorded already has the disks that it has now.
func (s *Store) insertImage(ctx context.Context, tx *transaction, job *Job, image *Image) error {
	var recorded int
	if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM images WHERE image_id = ? AND job_id = ? AND run = ?`, image.ImageID, job.JobID, job.Run).Scan(&recorded); err != nil {
		return err
	}
	disks, err := json.Marshal(image.Disks)
	if err != nil {
		return err
	}
	if recorded > 0 {
		_, err := tx.ExecContext(ctx, `UPDATE images SET disks = ? WHERE image_id = ?`, string(disks), image.ImageID)
		return err
	}
	var container []byte
	if image.Container != nil {
		if container, err = json.Marshal(image.Container); err != nil {
			return err
		}
	}
	name, err := s.freeImageName(ctx, tx, job, image.ImageID)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO images (image_id, account_id, region_id, image_name, job_id, source_id, run, host_id, status, disks, container, created_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		image.ImageID, job.AccountID, job.RegionID, name, job.JobID, job.SourceID, job.Run, job.HostID, string(smc.ImageAvailable), string(disks), string(container), millis(s.now()))
	return err
}

// freeImageName names the image of the current run: ImageName, with _CYCLE_<n> for an incremental job, and with
// _<JobId> when an image of that name exists (CONTRACT: Jobs: states). Should somebody have called an image just that, the
// image's own id sets it apart.
func (s *Store) freeImageName(ctx context.Context, tx *transaction, job *Job, imageID string) (string, error) {
	suffix := ""
	if !job.RunOnce() {
		suffix = fmt.Sprintf("_CYCLE_%d", job.Run)
	}
	ours := job.ImageName + "_" + job.JobID + suffix
	for _, name := range []string{job.ImageName + suffix, ours} {
		var taken int
		err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM images WHERE account_id = ? AND region_id = ? AND image_name = ?`, job.AccountID, job.RegionID, name).Scan(&taken)
		if err != nil || taken == 0 {
			return name, err
		}
	}
	return ours + "_" + imageID, nil
}

// EndRun ends a run that was Cleaning: the job is Finished when it was the last one, else Waiting. released says that
// the staging of the job is gone.
func (s *Store) EndRun(ctx context.Context, jobID, key string, run int, released bool, guards ...Guard) (smc.JobStatus, error) {
	job, err := s.transition(ctx, change{
		jobID: jobID, key: key, from: inPhase(run, smc.BusinessCleaning, guards),
		apply: func(tx *transaction, job *Job) error {
			now := s.now().UTC()
			job.Status = smc.StatusWaiting
			if job.Final() {
				job.Status, job.EndedAt = smc.StatusFinished, now
			}
			if released {
				job.HostID = ""
			}
			job.BusinessStatus, job.Progress = "", 100
			job.endOfRun(now)
			return setRun(ctx, tx, job, smc.RunSucceeded, now)
		},
	})
	if err != nil {
		return "", err
	}
	return job.Status, nil
}

// Fail makes a Running job InError, with the code and what a person can do about it; Start resumes it.
func (s *Store) Fail(ctx context.Context, jobID, key string, run int, code, info string, guards ...Guard) error {
	_, err := s.transition(ctx, change{
		jobID: jobID, key: key,
		from: func(job *Job) error { return inPhase(run, job.BusinessStatus, guards)(job) },
		apply: func(tx *transaction, job *Job) error {
			job.Status, job.ErrorCode, job.StatusInfo = smc.StatusInError, code, info
			if err := setRun(ctx, tx, job, smc.RunFailed, s.now().UTC()); err != nil {
				return err
			}
			if err := closeDelivery(ctx, tx, jobID, info); err != nil {
				return err
			}
			return closeSession(ctx, tx, jobID)
		},
	})
	return err
}

// Stop makes a job that is Running and Syncing Stopped. When it returns, no writer is left: the epoch was raised in the
// same transaction (DESIGN: Fencing). A job that is queued keeps its status, and its start is withdrawn. Errors:
// ReplicationJob.InvalidStatus, ReplicationJob.InvalidBusinessStatus.
func (s *Store) Stop(ctx context.Context, jobID, key string) error {
	_, err := s.transition(ctx, change{
		jobID: jobID, key: key,
		from: func(job *Job) error { return smc.Allowed(smc.TriggerStop, job.state()) },
		apply: func(tx *transaction, job *Job) error {
			if job.Queued() {
				return s.withdraw(ctx, tx, job)
			}
			job.Status = smc.StatusStopped
			if err := setRun(ctx, tx, job, smc.RunStopped, s.now().UTC()); err != nil {
				return err
			}
			return closeSession(ctx, tx, jobID)
		},
	})
	return err
}

// FinishCutOver makes a Waiting job Finished with the images it has (CutOver with SyncData=false).
func (s *Store) FinishCutOver(ctx context.Context, jobID, key string) error {
	_, err := s.transition(ctx, change{
		jobID: jobID, key: key,
		from: func(job *Job) error { return smc.Allowed(smc.TriggerCutOver, job.state()) },
		apply: func(_ *transaction, job *Job) error {
			job.Status, job.CutOver, job.EndedAt = smc.StatusFinished, CutOverAsIs, s.now().UTC()
			return nil
		},
	})
	return err
}

// BeginDelete makes a job Deleting. Error: ReplicationJob.InvalidStatus.
func (s *Store) BeginDelete(ctx context.Context, jobID, key string) error {
	_, err := s.transition(ctx, change{
		jobID: jobID, key: key,
		from: func(job *Job) error { return smc.Allowed(smc.TriggerDelete, job.state()) },
		apply: func(tx *transaction, job *Job) error {
			job.Status = smc.StatusDeleting
			return closeSession(ctx, tx, jobID)
		},
	})
	return err
}

// statusDeleted stands in the last event of a job: the job is gone. No API call shows it.
const statusDeleted smc.JobStatus = events.Deleted

// EndDelete removes a job that is Deleting and whose staging was released, and tells the world so. Its images stay.
// A job that is gone already is no error.
func (s *Store) EndDelete(ctx context.Context, jobID, key string) error {
	return s.writeEvents(ctx, func(tx *transaction) error {
		job, err := scanJob(tx.QueryRowContext(ctx, selectJob+` WHERE job_id = ?`, jobID))
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if job.Status != smc.StatusDeleting {
			return fmt.Errorf("job %s: %w: it is %s", jobID, ErrSuperseded, job.Status)
		}
		previous := *job
		job.Status = statusDeleted
		if err := s.jobEvent(ctx, tx, events.JobDeleted, &previous, job, key); err != nil {
			return err
		}
		for _, statement := range []string{
			`DELETE FROM replication_runs WHERE job_id = ?`,
			`DELETE FROM run_troubles WHERE job_id = ?`,
			`DELETE FROM space_reservations WHERE job_id = ?`,
			`DELETE FROM replication_jobs WHERE job_id = ?`,
			`UPDATE source_servers SET job_id = COALESCE((SELECT job_id FROM replication_jobs j WHERE j.source_id = source_servers.source_id
				ORDER BY created_at DESC, job_id LIMIT 1), '') WHERE job_id = ?`, // the newest that is left
			`DELETE FROM tags WHERE resource_id = ?`,
		} {
			if _, err := tx.ExecContext(ctx, statement, jobID); err != nil {
				return err
			}
		}
		return nil
	})
}

// MarkReleased records that the staging of a job that has no more runs is gone from the host that held it.
func (s *Store) MarkReleased(ctx context.Context, jobID, hostID string) error {
	return s.write(ctx, func(tx *transaction) error {
		_, err := tx.ExecContext(ctx, `UPDATE replication_jobs SET host_id = '' WHERE job_id = ? AND host_id = ? AND status IN (?, ?, ?)`, jobID, hostID,
			string(smc.StatusFinished), string(smc.StatusExpired), string(smc.StatusDeleting))
		return err
	})
}

// What share of a job's Progress the end of a phase stands for, in percent.
const (
	progressPrepared  = 1.0
	progressSynced    = 90.0
	progressProcessed = 99.0
)

// SyncProgress is what a transition host reports of a run while it syncs.
type SyncProgress struct {
	BytesTotal, BytesRead, BytesSent, BytesSentRaw, Rate int64
}

// Percent is how far the job is as a whole.
func (p SyncProgress) Percent() float64 {
	if p.BytesTotal == 0 {
		return progressPrepared
	}
	return progressPrepared + (progressSynced-progressPrepared)*min(1, float64(p.BytesRead)/float64(p.BytesTotal))
}

// UpdateProgress records how far a run is. No figure but the rate ever goes backwards (DESIGN: Progress is data).
func (s *Store) UpdateProgress(ctx context.Context, jobID string, run int, p SyncProgress) error {
	return s.write(ctx, func(tx *transaction) error {
		if err := tx.later(ctx, nil, `UPDATE replication_runs SET bytes_total = `+tx.greatest("bytes_total", "?")+`, bytes_read = `+tx.greatest("bytes_read", "?")+`,
			bytes_sent = `+tx.greatest("bytes_sent", "?")+`, bytes_sent_raw = `+tx.greatest("bytes_sent_raw", "?")+`, rate = ? WHERE job_id = ? AND number = ?`,
			p.BytesTotal, p.BytesRead, p.BytesSent, p.BytesSentRaw, p.Rate, jobID, run); err != nil {
			return err
		}
		return tx.later(ctx, nil, `UPDATE replication_jobs SET progress = `+tx.greatest("progress", "?")+` WHERE job_id = ? AND run = ? AND status = ?`,
			p.Percent(), jobID, run, string(smc.StatusRunning))
	})
}
