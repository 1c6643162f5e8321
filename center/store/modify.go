package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/drover/drover/events"
	"github.com/drover/drover/smc"
)

// ModifyJob changes what the request gives, all of it or nothing, and returns when the job moves by itself from now on. What
// may change depends on the job's status (CONTRACT: Modify). Errors are those CONTRACT lists for Modify.
func (s *Store) ModifyJob(ctx context.Context, r smc.ModifyReplicationJobAttributeRequest) (*Schedule, error) {
	var schedule *Schedule
	err := s.writeEvents(ctx, func(tx *transaction) error {
		job, err := scanJob(tx.QueryRowContext(ctx, selectJob+` WHERE job_id = ?`, r.JobID))
		if errors.Is(err, ErrNotFound) {
			return smc.Errorf(smc.CodeInvalidJobIDNotFound, "replication job %s does not exist", r.JobID)
		}
		if err != nil {
			return err
		}
		previous := *job
		before, err := encodeSpec(&job.Spec)
		if err != nil {
			return err
		}
		if err := s.modify(ctx, tx, job, r); err != nil {
			return err
		}
		spec, err := encodeSpec(&job.Spec)
		if err != nil {
			return err
		}
		missed, err := job.Missed.encode()
		if err != nil {
			return err
		}
		if _, err = tx.ExecContext(ctx, `UPDATE replication_jobs SET name = ?, image_name = ?, spec = ?, valid_until = ?, scheduled_start_at = ?, instance_id = ?, target_id = ?,
			frequency = ?, grid_through = ?, missed = ? WHERE job_id = ?`,
			job.Name, job.ImageName, spec, millis(job.ValidUntil), millis(job.ScheduledStartAt), value(job.Spec.InstanceID), job.targetID(),
			job.hours(), millis(job.GridThrough), missed, job.JobID); err != nil {
			return err
		}
		if r.ScheduledStartTime != nil && job.Queue.Trigger == smc.TriggerSchedule {
			// It was queued because the time had come that is no longer the time.
			job.Queue = Queue{}
			if err := s.writeTransition(ctx, tx, &previous, job, fmt.Sprintf("withdrawn/%d", previous.Queue.Ticket)); err != nil {
				return err
			}
		} else if spec != before || job.Name != previous.Name || job.ImageName != previous.ImageName || !job.ValidUntil.Equal(previous.ValidUntil) {
			if err := s.jobStays(ctx, tx, events.JobModified, job); err != nil {
				return err
			}
		}
		schedule = job.Schedule()
		return nil
	})
	return schedule, err
}

func (s *Store) modify(ctx context.Context, tx *transaction, job *Job, r smc.ModifyReplicationJobAttributeRequest) error {
	r.Name, r.ImageName, r.TargetType = given(r.Name), given(r.ImageName), given(r.TargetType)
	allowed := func(trigger smc.Trigger, given ...bool) error {
		for _, is := range given {
			if is {
				return smc.Allowed(trigger, job.state())
			}
		}
		return nil
	}
	if err := errors.Join(
		allowed(smc.TriggerModifyRhythm, r.Frequency != nil, r.MaxNumberOfImageToKeep != nil),
		allowed(smc.TriggerModifyValidTime, r.ValidTime != nil),
		allowed(smc.TriggerModifyOther, r.TargetType != nil, r.ScheduledStartTime != nil, r.ImageName != nil, r.InstanceID != nil, r.SystemDiskSize != nil,
			r.InstanceType != nil, r.LaunchTemplateID != nil, r.LaunchTemplateVersion != nil, r.InstanceRAMRole != nil, r.ContainerNamespace != nil,
			r.ContainerRepository != nil, r.ContainerTag != nil, r.SystemDiskPart != nil, r.DataDisk != nil, r.NetMode != nil, r.VSwitchID != nil,
			r.VpcID != nil, r.ReplicationParameters != nil),
	); err != nil {
		return smc.AsError(err)
	}
	if job.RunOnce() && (r.Frequency != nil || r.MaxNumberOfImageToKeep != nil) {
		return smc.Errorf(smc.CodeInvalidParameter, "Frequency and MaxNumberOfImageToKeep belong to incremental jobs; job %s runs once", job.JobID)
	}
	spec := &job.Spec
	if r.Frequency != nil && *r.Frequency != job.hours() {
		// The origin stays, the points are those of the new rhythm, and the next one is in the future.
		job.GridThrough = s.now().UTC().Truncate(time.Millisecond)
		job.Missed.DueAt, job.Missed.WaitsFor = time.Time{}, ""
	}
	if r.ScheduledStartTime != nil {
		job.Missed.DueAt, job.Missed.WaitsFor = time.Time{}, ""
	}
	set := func(to **string, from *string) {
		if from != nil {
			*to = from
		}
	}
	before := spec.Target()
	set(&spec.Name, r.Name)
	set(&spec.Description, r.Description)
	set(&spec.TargetType, r.TargetType)
	set(&spec.ScheduledStartTime, r.ScheduledStartTime)
	set(&spec.ValidTime, r.ValidTime)
	set(&spec.ImageName, r.ImageName)
	set(&spec.InstanceID, r.InstanceID)
	set(&spec.InstanceType, r.InstanceType)
	set(&spec.LaunchTemplateID, r.LaunchTemplateID)
	set(&spec.LaunchTemplateVersion, r.LaunchTemplateVersion)
	set(&spec.InstanceRAMRole, r.InstanceRAMRole)
	set(&spec.ContainerNamespace, r.ContainerNamespace)
	set(&spec.ContainerRepository, r.ContainerRepository)
	set(&spec.ContainerTag, r.ContainerTag)
	set(&spec.VSwitchID, r.VSwitchID)
	set(&spec.VpcID, r.VpcID)
	set(&spec.ReplicationParameters, r.ReplicationParameters)
	for _, number := range []struct{ to, from **int }{
		{&spec.SystemDiskSize, &r.SystemDiskSize},
		{&spec.Frequency, &r.Frequency},
		{&spec.MaxNumberOfImageToKeep, &r.MaxNumberOfImageToKeep},
		{&spec.NetMode, &r.NetMode},
	} {
		if *number.from != nil {
			*number.to = *number.from
		}
	}
	if r.SystemDiskPart != nil {
		spec.SystemDiskPart = r.SystemDiskPart
	}
	if r.DataDisk != nil {
		spec.DataDisk = r.DataDisk
	}
	if spec.Target() == smc.TargetInstance && before != smc.TargetInstance {
		// Sizes from before may be what the center filled in: those of the target's disks hold, but for what is asked for now.
		spec.SystemDiskSize = r.SystemDiskSize
		if r.DataDisk == nil {
			spec.DataDisk = slices.Clone(spec.DataDisk)
			for i := range spec.DataDisk {
				spec.DataDisk[i].Size = nil
			}
		}
	}
	if spec.Target() == smc.TargetInstance && value(spec.InstanceID) == "" {
		return smc.Errorf("MissingInstanceId", "InstanceId is missing: TargetType TargetInstance needs the instance to migrate to")
	}
	if value(spec.NetMode) == 2 && value(spec.VSwitchID) == "" {
		return smc.Errorf("MissingVSwitchId", "VSwitchId is missing: NetMode 2 needs it")
	}
	if r.ValidTime != nil {
		if err := smc.ValidateValidTime(r.ValidTime, job.CreatedAt); err != nil {
			return err
		}
		until, now := spec.Expiry(job.CreatedAt), s.now().UTC()
		if !until.IsZero() && !until.After(now) {
			return smc.Errorf(smc.CodeInvalidParameter, "ValidTime: %s is not allowed; it has passed: give a time after %s, or an empty one for a job that never expires",
				*r.ValidTime, smc.FormatTime(now))
		}
		job.ValidUntil = until
	}
	job.ScheduledStartAt = spec.ScheduledStart()
	if r.VSwitchID != nil || r.VpcID != nil {
		if r.VpcID == nil { // it was that of the VSwitch before
			spec.VpcID = nil
		}
		a := asking{ctx: ctx, tx: tx}
		place := placeInNetwork(&a, spec)
		if err := a.answered(); err != nil {
			return err
		}
		if err := place(); err != nil {
			return err
		}
	}
	return s.refit(ctx, tx, job, r)
}

// refit holds changed disks, targets and names against the source, the target instance and the other jobs.
func (s *Store) refit(ctx context.Context, tx *transaction, job *Job, r smc.ModifyReplicationJobAttributeRequest) error {
	if r.TargetType != nil || r.InstanceID != nil || r.ContainerNamespace != nil || r.ContainerRepository != nil || r.ContainerTag != nil || r.SystemDiskSize != nil ||
		r.SystemDiskPart != nil || r.DataDisk != nil {
		source, err := scanSource(tx.QueryRowContext(ctx, selectSource+` WHERE source_id = ?`, job.SourceID))
		if err != nil {
			return err
		}
		if err := offered(job, source); err != nil {
			return err
		}
		name := job.ImageName
		if err := fitToSource(job, source); err != nil {
			return err
		}
		job.ImageName = name
		a := asking{ctx: ctx, tx: tx}
		fits := freeTarget(&a, job)
		if err := a.answered(); err != nil {
			return err
		}
		if err := fits(source); err != nil {
			return err
		}
	}
	renamed := *job
	if r.Name != nil {
		renamed.Name = *r.Name
	}
	if r.ImageName != nil {
		renamed.ImageName = *r.ImageName
	}
	a := asking{ctx: ctx, tx: tx}
	free := freeNames(&a, &renamed)
	if err := a.answered(); err != nil {
		return err
	}
	if err := free(); err != nil {
		return err
	}
	job.Name, job.ImageName = renamed.Name, renamed.ImageName
	return nil
}

// given returns nil for an empty text that cannot be cleared: it counts as absent, for nothing is called nothing, and nothing is of no type.
func given(text *string) *string {
	if value(text) == "" {
		return nil
	}
	return text
}

// ModifySource renames or describes a source server, in any state; nil leaves a field as it is.
func (s *Store) ModifySource(ctx context.Context, accountID, sourceID string, name, description *string) error {
	name = given(name)
	return s.writeEvents(ctx, func(tx *transaction) error {
		source, err := requireOwnSource(ctx, tx, accountID, sourceID)
		if err != nil {
			return err
		}
		before := *source
		if name != nil {
			var holder string
			err := tx.QueryRowContext(ctx, `SELECT source_id FROM source_servers WHERE account_id = ? AND name = ? AND source_id <> ?`, accountID, *name, sourceID).Scan(&holder)
			if err == nil {
				return smc.Errorf(smc.CodeSourceServerNameDuplicate, "the name %q belongs to source server %s: choose another", *name, holder)
			}
			if !errors.Is(err, sql.ErrNoRows) {
				return err
			}
			source.Name = *name
		}
		if description != nil {
			source.Description = *description
		}
		if source.Name == before.Name && source.Description == before.Description {
			return nil
		}
		if _, err = tx.ExecContext(ctx, `UPDATE source_servers SET name = ?, description = ? WHERE source_id = ?`, source.Name, source.Description, sourceID); err != nil {
			return err
		}
		return s.sourceEvent(ctx, tx, events.SourceModified, source, source.State)
	})
}

func requireOwnSource(ctx context.Context, tx *transaction, accountID, sourceID string) (*Source, error) {
	source, err := scanSource(tx.QueryRowContext(ctx, selectSource+` WHERE account_id = ? AND source_id = ?`, accountID, sourceID))
	if errors.Is(err, ErrNotFound) {
		return nil, smc.Errorf(smc.CodeInvalidSourceIDNotFound, "source server %s does not exist: DescribeSourceServers lists those there are", sourceID)
	}
	return source, err
}

// BeginDeleteSource makes a source server Deleting; its jobs are to be deleted before it is gone. Errors:
// SourceServer.WithRunningReplicationJob, also with force; ReplicationJob.Related without force.
func (s *Store) BeginDeleteSource(ctx context.Context, accountID, sourceID string, force bool) error {
	return s.writeEvents(ctx, func(tx *transaction) error {
		source, err := requireOwnSource(ctx, tx, accountID, sourceID)
		if err != nil {
			return err
		}
		rows, err := tx.QueryContext(ctx, `SELECT job_id, status FROM replication_jobs WHERE source_id = ? ORDER BY created_at`, sourceID)
		if err != nil {
			return err
		}
		running := ""
		jobIDs, err := collect(rows, func(row rowScanner) (id string, err error) {
			var status smc.JobStatus
			err = row.Scan(&id, &status)
			if status == smc.StatusRunning {
				running = id
			}
			return id, err
		})
		if err != nil {
			return err
		}
		switch {
		case running != "":
			return smc.Errorf(smc.CodeSourceServerWithRunningReplicationJob, "job %s of source server %s is Running: stop it, or wait for its end", running, sourceID)
		case len(jobIDs) > 0 && !force:
			return smc.Errorf(smc.CodeReplicationJobRelated, "source server %s has the job %s: delete it first, or delete the source server with Force", sourceID, jobIDs[0])
		case source.State == smc.SourceDeleting:
			return nil
		}
		previous := source.State
		source.State, source.ErrorCode, source.StatusInfo = smc.SourceDeleting, "", ""
		return s.sourceEvent(ctx, tx, events.SourceDeleting, source, previous)
	})
}

// stateDeleted stands in the last event of a source server: it is gone. No API call shows it.
const stateDeleted smc.SourceState = events.Deleted

// EndDeleteSource removes a source server that is Deleting and has no job left; any other stays.
func (s *Store) EndDeleteSource(ctx context.Context, sourceID string) error {
	return s.writeEvents(ctx, func(tx *transaction) error {
		source, err := scanSource(tx.QueryRowContext(ctx, selectSource+` WHERE source_id = ?`, sourceID))
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		var jobs int
		if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM replication_jobs WHERE source_id = ?`, sourceID).Scan(&jobs); err != nil {
			return err
		}
		if jobs > 0 || source.State != smc.SourceDeleting {
			return nil
		}
		source.State = stateDeleted
		if err := s.sourceEvent(ctx, tx, events.SourceDeleted, source, smc.SourceDeleting); err != nil {
			return err
		}
		for _, statement := range []string{
			`DELETE FROM sync_sessions WHERE source_id = ?`, `DELETE FROM tags WHERE resource_id = ?`, `DELETE FROM source_servers WHERE source_id = ?`,
		} {
			if _, err := tx.ExecContext(ctx, statement, sourceID); err != nil {
				return err
			}
		}
		return nil
	})
}

// DeletingSources returns the source servers that are Deleting.
func (s *Store) DeletingSources(ctx context.Context) ([]*Source, error) {
	rows, err := s.db.QueryContext(ctx, selectSource+` WHERE state = ?`, string(smc.SourceDeleting))
	if err != nil {
		return nil, err
	}
	return collect(rows, scanSource)
}

// JobIDsOfSource returns the ids of the jobs of a source server.
func (s *Store) JobIDsOfSource(ctx context.Context, sourceID string) ([]string, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT job_id FROM replication_jobs WHERE source_id = ?`, sourceID)
	if err != nil {
		return nil, err
	}
	return collect(rows, scanText)
}
