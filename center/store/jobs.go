package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/drover/drover/events"
	"github.com/drover/drover/smc"
)

const jobColumns = `job_id, account_id, region_id, source_id, name, image_name, spec, status, business_status, sequence, run, run_type, cutover,
	host_id, image_id, progress, error_code, status_info, created_at, started_at, ended_at, valid_until, scheduled_start_at, queue_number, queue,
	queue_unanswered, grid_phase, grid_through, missed, lap`

const selectJob = `SELECT ` + jobColumns + ` FROM replication_jobs`

func scanJob(row rowScanner) (*Job, error) {
	var job Job
	var spec, queue, missed string
	var created, started, ended, valid, scheduled, unanswered, phase, through int64
	err := row.Scan(&job.JobID, &job.AccountID, &job.RegionID, &job.SourceID, &job.Name, &job.ImageName, &spec, &job.Status, &job.BusinessStatus,
		&job.Sequence, &job.Run, &job.RunType, &job.CutOver, &job.HostID, &job.ImageID, &job.Progress, &job.ErrorCode, &job.StatusInfo,
		&created, &started, &ended, &valid, &scheduled, &job.Queue.Number, &queue, &unanswered, &phase, &through, &missed, &job.Lap)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal([]byte(spec), &job.Spec); err != nil {
		return nil, fmt.Errorf("job %s: %w", job.JobID, err)
	}
	if err := job.Queue.decode(queue); err != nil {
		return nil, fmt.Errorf("job %s: its place in the queue: %w", job.JobID, err)
	}
	job.Queue.Unanswered = int(unanswered)
	if err := job.Missed.decode(missed); err != nil {
		return nil, fmt.Errorf("job %s: its missed runs: %w", job.JobID, err)
	}
	job.CreatedAt, job.StartedAt, job.EndedAt = fromMillis(created), fromMillis(started), fromMillis(ended)
	job.ValidUntil, job.ScheduledStartAt = fromMillis(valid), fromMillis(scheduled)
	job.GridPhase, job.GridThrough = time.Duration(phase)*time.Millisecond, fromMillis(through)
	return &job, nil
}

// encodeSpec is the form in which a job's request is stored: what it does not give is left out, so that listing jobs does
// not read dozens of nulls of each.
func encodeSpec(spec *smc.CreateReplicationJobRequest) (string, error) {
	v := reflect.ValueOf(spec).Elem()
	given := make(map[string]any)
	for i := range v.NumField() {
		if !v.Field(i).IsZero() {
			given[v.Type().Field(i).Name] = v.Field(i).Interface()
		}
	}
	encoded, err := json.Marshal(given)
	return string(encoded), err
}

// JobFilter narrows JobPage; empty fields do not filter, the others must all match.
type JobFilter struct {
	JobIDs, SourceIDs []string
	Name, RegionID    string
	Status            smc.JobStatus
	BusinessStatus    smc.BusinessStatus
	InstanceIDs       []string
	ResourceGroupID   string
	Tags              []smc.TagFilter
}

// of are the conditions that the filter sets to the jobs of an account.
func (filter JobFilter) of(accountID string) *conditions {
	where := ofAccount(accountID)
	where.in("job_id", filter.JobIDs)
	where.in("source_id", filter.SourceIDs)
	where.equal("name", filter.Name)
	where.equal("region_id", filter.RegionID)
	where.equal("status", string(filter.Status))
	where.in("instance_id", filter.InstanceIDs)
	where.equal("resource_group_id", filter.ResourceGroupID)
	where.tagged("job_id", filter.Tags)
	if filter.BusinessStatus != "" {
		where.equal("status", string(smc.StatusRunning)) // a phase is shown only of a Running job
		where.equal("business_status", string(filter.BusinessStatus))
	}
	return where
}

// Job returns one job of an account with its runs and tags, or ErrNotFound.
func (s *Store) Job(ctx context.Context, accountID, jobID string) (*Job, error) {
	var whole string
	err := s.db.QueryRowContext(ctx, `SELECT `+s.db.wholeJob()+` FROM replication_jobs j WHERE account_id = ? AND job_id = ?`, accountID, jobID).Scan(&whole)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	job, err := decodeJob(whole)
	if err != nil {
		return nil, err
	}
	return job, s.fillQueue(ctx, s.db, job)
}

// JobByID is Job for the center's own workers, which act for every account.
func (s *Store) JobByID(ctx context.Context, jobID string) (*Job, error) {
	return scanJob(s.db.QueryRowContext(ctx, selectJob+` WHERE job_id = ?`, jobID))
}

// CreateJob checks the rules of CreateReplicationJob that need the world, fills in the defaults that follow from the
// source, and writes the job as Ready with its first event, all in one transaction. A ClientToken seen before gives
// the JobId it made (CONTRACT: ClientToken). quota is the most jobs an account may have.
//
// Errors are *smc.Error with the codes CONTRACT.md lists for Create.
func (s *Store) CreateJob(ctx context.Context, accountID string, spec smc.CreateReplicationJobRequest, quota int) (jobID string, err error) {
	now := s.now().UTC()
	token, digest := value(spec.ClientToken), smc.CreateReplicationJob.Fingerprint(&spec)
	err = s.db.writeInTurn(ctx, turnOfJobs(accountID), func(tx *transaction) error {
		job := &Job{
			JobID: NewID("j"), AccountID: accountID, RegionID: spec.RegionID, SourceID: spec.SourceID, Name: value(spec.Name), ImageName: value(spec.ImageName),
			Status: smc.StatusReady, Sequence: 1, CreatedAt: now, ValidUntil: spec.Expiry(now), ScheduledStartAt: spec.ScheduledStart(), Spec: spec,
		}
		a := asking{ctx: ctx, tx: tx}
		before := s.madeBefore(&a, accountID, token, digest)
		free := freeSource(&a, job)
		fitsTarget := freeTarget(&a, job)
		names := freeNames(&a, job)
		place := placeInNetwork(&a, &job.Spec)
		jobs := 0
		a.ask(func(row rowScanner) error { return row.Scan(&jobs) }, `SELECT COUNT(*) FROM replication_jobs WHERE account_id = ?`, accountID)
		if err := a.answered(); err != nil {
			return err
		}
		made, known, err := before()
		if err != nil || known {
			jobID = made
			return err
		}
		jobID = job.JobID
		if err := spec.ValidateTimes(now); err != nil {
			return err
		}
		source, err := free()
		if err != nil {
			return err
		}
		if err := offered(job, source); err != nil {
			return err
		}
		if err := fitToSource(job, source); err != nil {
			return err
		}
		if err := fitsTarget(source); err != nil {
			return err
		}
		if err := names(); err != nil {
			return err
		}
		if err := place(); err != nil {
			return err
		}
		if jobs >= quota {
			return smc.Errorf(smc.CodeQuotaExceededReplicationJob, "account %s has %d replication jobs and may have %d: delete one first", accountID, jobs, quota)
		}
		return s.insertJob(ctx, tx, job, token, digest)
	})
	if err == nil {
		s.outboxChanged.notify()
	}
	return jobID, err
}

// turnOfJobs is the turn (writeInTurn) of those who create the jobs of an account, and who delete what a new job may name.
func turnOfJobs(accountID string) string { return "jobs of " + accountID }

// insertJob writes a new job with its tags, the client token that it was made with, if any, and its first event.
func (s *Store) insertJob(ctx context.Context, tx *transaction, job *Job, token, digest string) error {
	filled, err := encodeSpec(&job.Spec)
	if err != nil {
		return err
	}
	if err := tx.later(ctx, nil, `INSERT INTO replication_jobs
		(job_id, account_id, region_id, source_id, name, image_name, spec, status, sequence, created_at, valid_until, scheduled_start_at, instance_id, target_id, resource_group_id, frequency)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		job.JobID, job.AccountID, job.RegionID, job.SourceID, job.Name, job.ImageName, filled, string(job.Status), job.Sequence,
		millis(job.CreatedAt), millis(job.ValidUntil), millis(job.ScheduledStartAt), value(job.Spec.InstanceID), job.targetID(), value(job.Spec.ResourceGroupID), job.hours()); err != nil {
		return err
	}
	var tags []smc.Tag
	for _, tag := range job.Spec.Tag {
		tags = append(tags, smc.Tag{Key: value(tag.Key), Value: value(tag.Value)})
	}
	if err := putTags(ctx, tx, job.AccountID, smc.ResourceTypeReplicationJob, job.JobID, tags); err != nil {
		return err
	}
	if err := tx.later(ctx, nil, `UPDATE source_servers SET job_id = ? WHERE source_id = ?`, job.JobID, job.SourceID); err != nil {
		return err
	}
	if token != "" {
		if err := s.rememberToken(ctx, tx, job.AccountID, token, digest, job.JobID); err != nil {
			return err
		}
	}
	return s.enqueueJob(ctx, tx, events.JobCreated, nil, job, "created")
}

// unfinished are the jobs that hold their source and the name of their image.
const unfinished = `status IN ('Ready', 'Running', 'Stopped', 'Waiting', 'InError', 'Expired')`

// freeSource asks for the job's source, and whether it can be given a job: it exists, no unfinished job holds it, it is Available.
func freeSource(a *asking, job *Job) (answer func() (*Source, error)) {
	var source *Source
	a.ask(func(row rowScanner) (err error) {
		source, err = scanSource(row)
		return err
	}, selectSource+` WHERE account_id = ? AND source_id = ?`+a.tx.forUpdate(), job.AccountID, job.SourceID)
	var holder, status string
	a.ask(func(row rowScanner) error { return row.Scan(&holder, &status) },
		`SELECT job_id, status FROM replication_jobs WHERE source_id = ? AND `+unfinished, job.SourceID)
	return func() (*Source, error) {
		switch {
		case source == nil:
			return nil, smc.Errorf(smc.CodeInvalidSourceIDNotFound, "source server %s does not exist: DescribeSourceServers lists those there are", job.SourceID)
		case holder != "":
			return nil, smc.Errorf(smc.CodeSourceServerStateInvalid, "source server %s (%s) has the unfinished job %s, which is %s: finish or delete that job first", source.SourceID, source.Name, holder, status)
		case source.State != smc.SourceAvailable:
			return nil, smc.Errorf(smc.CodeSourceServerStateInvalid, "source server %s (%s) is %s, not Available: %s", source.SourceID, source.Name, source.State, "check its agent")
		}
		return source, nil
	}
}

// offered refuses a target that the source's system cannot be migrated to (CONTRACT: TargetType).
func offered(job *Job, source *Source) error {
	target := job.Spec.Target()
	if target == smc.TargetImage {
		return nil
	}
	platform, architecture := source.Server.Platform, strings.ToLower(source.Server.Architecture)
	if strings.Contains(strings.ToLower(platform), "windows") {
		return smc.Errorf(smc.CodeInvalidOsMigrationTypeNotMatched, "TargetType %s: source server %s runs %s, which can be migrated to an Image only", target, source.SourceID, platform)
	}
	if target == smc.TargetContainerImage && !slices.Contains([]string{"x86_64", "amd64", "x86-64"}, architecture) {
		return smc.Errorf(smc.CodeInvalidOsMigrationTypeNotMatched, "TargetType %s: source server %s is %q; container images are made of x86_64 servers only: ask for an Image", target, source.SourceID, architecture)
	}
	if target == smc.TargetContainerImage {
		_, err := job.Spec.ContainerReference(source.Name)
		return err
	}
	return nil
}

const gib = 1 << 30

// fitToSource fills in what follows from the source's disks and refuses what does not fit them. The sizes of a job that migrates to a target
// instance are those of the target's disks: what was not asked for stays open.
func fitToSource(job *Job, source *Source) error {
	if job.ImageName = value(job.Spec.ImageName); job.ImageName == "" {
		job.ImageName = source.Name + "_" + job.JobID
	}
	sizes := map[int]int64{}
	for _, disk := range source.Server.Disks {
		sizes[disk.Index] = disk.SizeBytes
	}
	inGiB := func(size int64) int { return int((size + gib - 1) / gib) }
	open := job.Spec.Target() == smc.TargetInstance
	own := func(size int64) *int {
		if open {
			return nil
		}
		return new(max(smc.MinDiskSizeGiB, inGiB(size)))
	}
	if job.Spec.SystemDiskSize == nil {
		job.Spec.SystemDiskSize = own(sizes[0])
	}
	if asked := job.Spec.SystemDiskSize; asked != nil && int64(*asked)*gib < sizes[0] {
		return smc.Errorf(smc.CodeUnsupportedFeature, "SystemDiskSize %d GiB is less than the system disk of source server %s (%d bytes): this center does not shrink disks, ask for at least %d",
			*job.Spec.SystemDiskSize, source.SourceID, sizes[0], inGiB(sizes[0]))
	}
	if len(job.Spec.DataDisk) == 0 {
		for _, disk := range source.Server.Disks[1:] {
			job.Spec.DataDisk = append(job.Spec.DataDisk, smc.DataDiskTarget{Index: new(disk.Index), Size: own(disk.SizeBytes)})
		}
	}
	for n := range job.Spec.DataDisk {
		disk := &job.Spec.DataDisk[n]
		size, ok := sizes[*disk.Index]
		if !ok || *disk.Index == 0 {
			return smc.Errorf(smc.CodeReplicationJobDataDiskIndexInvalid, "DataDisk.%d.Index %d: source server %s has %d data disks", n+1, *disk.Index, source.SourceID, len(sizes)-1)
		}
		if disk.Size == nil {
			disk.Size = own(size)
		}
		if disk.Size != nil && int64(*disk.Size)*gib < size {
			return smc.Errorf(smc.CodeUnsupportedFeature, "DataDisk.%d.Size %d GiB is less than data disk %d of source server %s (%d bytes): this center does not shrink disks, ask for at least %d",
				n+1, *disk.Size, *disk.Index, source.SourceID, size, inGiB(size))
		}
	}
	// Sizes that were left out are known only now: the partitions of a disk fit it (CONTRACT: Part).
	return smc.FitParts(&job.Spec)
}

// freeNames asks whether another job holds the job's name or image name, where it has one. The unique indexes hold the same
// rule; asking first gives the better message.
func freeNames(a *asking, job *Job) (answer func() error) {
	var named, imaged string
	if job.Name != "" {
		a.ask(func(row rowScanner) error { return row.Scan(&named) },
			`SELECT job_id FROM replication_jobs WHERE account_id = ? AND name = ? AND name <> '' AND job_id <> ?`, job.AccountID, job.Name, job.JobID)
	}
	if job.ImageName != "" {
		a.ask(func(row rowScanner) error { return row.Scan(&imaged) },
			`SELECT job_id FROM replication_jobs WHERE account_id = ? AND region_id = ? AND image_name = ? AND job_id <> ? AND `+unfinished,
			job.AccountID, job.RegionID, job.ImageName, job.JobID)
	}
	return func() error {
		switch {
		case named != "":
			return smc.Errorf(smc.CodeReplicationJobNameDuplicate, "the name %q belongs to replication job %s: choose another", job.Name, named)
		case imaged != "":
			return smc.Errorf(smc.CodeImageNameUsedByReplicationJob, "the image name %q is held by the unfinished replication job %s: choose another", job.ImageName, imaged)
		}
		return nil
	}
}

// JobsWithoutWorkflow returns the ids of all jobs whose entity workflow was not seen to start, the oldest first.
func (s *Store) JobsWithoutWorkflow(ctx context.Context) ([]string, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT job_id FROM replication_jobs WHERE workflow_started = 0 ORDER BY created_at`)
	if err != nil {
		return nil, err
	}
	return collect(rows, scanText)
}

// JobIDs returns the ids of all jobs.
func (s *Store) JobIDs(ctx context.Context) ([]string, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT job_id FROM replication_jobs ORDER BY created_at, job_id`)
	if err != nil {
		return nil, err
	}
	return collect(rows, scanText)
}

// MarkWorkflowStarted records that a job's entity workflow runs.
func (s *Store) MarkWorkflowStarted(ctx context.Context, jobID string) error {
	return s.write(ctx, func(tx *transaction) error {
		_, err := tx.ExecContext(ctx, `UPDATE replication_jobs SET workflow_started = 1 WHERE job_id = ? AND workflow_started = 0`, jobID)
		return err
	})
}

// ForgetWorkflows records that no entity workflow runs, because Temporal starts empty: the sweep starts them again
// from the store (DESIGN: Temporal is the engine, the store is the record).
func (s *Store) ForgetWorkflows(ctx context.Context) error {
	return s.write(ctx, func(tx *transaction) error {
		_, err := tx.ExecContext(ctx, `UPDATE replication_jobs SET workflow_started = 0`)
		return err
	})
}

// state is as much of the job as decides what may be done to it.
func (j *Job) state() smc.JobState {
	return smc.JobState{Status: j.Status, BusinessStatus: j.BusinessStatus, Queued: j.Queued()}
}

func value[T any](p *T) T {
	var zero T
	if p == nil {
		return zero
	}
	return *p
}
