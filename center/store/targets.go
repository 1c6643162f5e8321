package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/smc"
)

// Target is one row of target_instances: a machine whose disks take delivered images.
type Target struct {
	InstanceID, AccountID, RegionID string
	Name                            string
	Target                          agentapi.Target // as it described itself last
	HeartbeatAt, CreatedAt          time.Time
	ClockAhead                      time.Duration // of its machine, to its center's
	JobID                           string        // the unfinished job that migrates to it; empty when none does
}

// State is whether the target is heard of. CONTRACT says when a source is offline; a target is by the same rule.
func (t *Target) State(now time.Time) smc.InstanceState {
	if t.HeartbeatAt.Before(now.Add(-smc.OfflineAfter)) {
		return smc.InstanceUnavailable
	}
	return smc.InstanceAvailable
}

// Delivery is one row of deliveries: the last image that was to be put on the disks of a target instance.
type Delivery struct {
	InstanceID string
	DeliverySpec
	Open       bool  // it is to be made; else it is over, and its generation fences what is still reported of it
	Generation int64 // by which the target knows it
	State      smc.DeliveryState
	// Code and Message say why it failed, in the target's words.
	Code, Message string
	// BytesTotal is the size of the disks, of which BytesDone were read back and are as the image; BytesFetched is what differed and was transferred.
	BytesTotal, BytesDone, BytesFetched int64
	// Read are the disks as the target read them back, when it is done.
	Read                 []agentapi.DeliveredDisk
	OpenedAt, ReportedAt time.Time // ReportedAt is zero until the target has reported of it
}

// DeliverySpec says which image is to be put on the disks of a target instance.
type DeliverySpec struct {
	JobID          string
	Run            int
	ImageID        string
	HostURL        string // where the target reaches the transition host that has the image
	BandwidthLimit int64  // kbit/s; 0 for none
	Disks          []agentapi.DeliveryDisk
}

const selectTarget = `SELECT instance_id, account_id, region_id, name, target, heartbeat_at, clock_ahead, created_at,
	COALESCE((SELECT j.job_id FROM replication_jobs j WHERE j.target_id = target_instances.instance_id AND j.target_id <> '' AND j.` + unfinished + `), '') FROM target_instances`

func scanTarget(row rowScanner) (*Target, error) {
	var target Target
	var description string
	var heartbeat, ahead, created int64
	err := row.Scan(&target.InstanceID, &target.AccountID, &target.RegionID, &target.Name, &description, &heartbeat, &ahead, &created, &target.JobID)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal([]byte(description), &target.Target); err != nil {
		return nil, fmt.Errorf("target instance %s: %w", target.InstanceID, err)
	}
	target.HeartbeatAt, target.CreatedAt, target.ClockAhead = fromMillis(heartbeat), fromMillis(created), time.Duration(ahead)*time.Millisecond
	return &target, nil
}

// RegisterTarget registers a target instance with an activation code, as RegisterSource does a source server. Errors are *smc.Error:
// InvalidActivationCode, TargetInstanceName.Duplicate, QuotaExceeded.TargetInstance.
func (s *Store) RegisterTarget(ctx context.Context, code, token, instance, name string, described agentapi.Target, quota int) (*Target, error) {
	description, err := json.Marshal(described)
	if err != nil {
		return nil, err
	}
	var target *Target
	err = s.write(ctx, func(tx *transaction) error {
		activation, err := s.activation(ctx, tx, code)
		if err != nil {
			return err
		}
		target, err = scanTarget(tx.QueryRowContext(ctx, selectTarget+` WHERE account_id = ? AND instance = ?`, activation.AccountID, instance))
		switch {
		case err == nil && target.Name != name:
			return smc.Errorf(smc.CodeTargetInstanceNameDuplicate, "this target instance is registered as %q already, not as %q: start it with that name", target.Name, name)
		case err == nil:
			_, err = tx.ExecContext(ctx, `UPDATE target_instances SET token_hash = ? WHERE instance_id = ?`, hashSecret(token), target.InstanceID)
			return err
		case !errors.Is(err, ErrNotFound):
			return err
		}
		if err := useUp(ctx, tx, activation); err != nil {
			return err
		}
		var targets int
		if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM target_instances WHERE account_id = ?`, activation.AccountID).Scan(&targets); err != nil {
			return err
		}
		if targets >= quota {
			return smc.Errorf(smc.CodeQuotaExceededTargetInstance, "account %s has %d target instances, as many as it may: delete one first", activation.AccountID, targets)
		}
		now := s.now().UTC()
		target = &Target{
			InstanceID: NewID("i"), AccountID: activation.AccountID, RegionID: activation.RegionID, Name: name, Target: described, HeartbeatAt: now, CreatedAt: now,
		}
		n, err := rowsAffected(tx.ExecContext(ctx, `INSERT INTO target_instances
			(instance_id, account_id, region_id, name, target, token_hash, instance, heartbeat_at, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (account_id, name) DO NOTHING`,
			target.InstanceID, target.AccountID, target.RegionID, name, string(description), hashSecret(token), instance, millis(now), millis(now)))
		if err != nil {
			return fmt.Errorf("insert target instance: %w", err)
		}
		if n == 0 {
			return smc.Errorf(smc.CodeTargetInstanceNameDuplicate, "a target instance named %q is registered already: give this one another --name, or start it with the --state folder it had", name)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return target, nil
}

// TargetFilter narrows Targets; empty fields do not filter, the others must all match.
type TargetFilter struct {
	InstanceIDs []string
	Name        string
	State       smc.InstanceState
}

// Targets lists the target instances of an account, newest first, and how many match in all.
func (s *Store) Targets(ctx context.Context, accountID string, filter TargetFilter, page Page) ([]*Target, int, error) {
	where := ofAccount(accountID)
	where.in("instance_id", filter.InstanceIDs)
	where.equal("name", filter.Name)
	if filter.State != "" {
		heard := map[smc.InstanceState]string{smc.InstanceAvailable: "heartbeat_at >= ?", smc.InstanceUnavailable: "heartbeat_at < ?"}
		where.clauses, where.args = append(where.clauses, heard[filter.State]), append(where.args, millis(s.now().Add(-smc.OfflineAfter)))
	}
	return list(ctx, s.db, selectTarget, "target_instances", "created_at DESC, instance_id", where, page, scanTarget)
}

// AllTargets returns every target instance there is, of all accounts.
func (s *Store) AllTargets(ctx context.Context) ([]*Target, error) {
	rows, err := s.db.QueryContext(ctx, selectTarget+` ORDER BY name, instance_id`)
	if err != nil {
		return nil, err
	}
	return collect(rows, scanTarget)
}

// Target returns one target instance of an account, or ErrNotFound.
func (s *Store) Target(ctx context.Context, accountID, instanceID string) (*Target, error) {
	return scanTarget(s.db.QueryRowContext(ctx, selectTarget+` WHERE account_id = ? AND instance_id = ?`, accountID, instanceID))
}

// TargetByToken returns the target instance that a token belongs to, or ErrNotFound.
func (s *Store) TargetByToken(ctx context.Context, token string) (*Target, error) {
	return scanTarget(s.db.QueryRowContext(ctx, selectTarget+` WHERE token_hash = ?`, hashSecret(token)))
}

// TargetHeartbeat records that a target instance lives and what its machine looks like. Error: ErrNotFound.
func (s *Store) TargetHeartbeat(ctx context.Context, instanceID string, described agentapi.Target) error {
	description, err := json.Marshal(described)
	if err != nil {
		return err
	}
	return s.write(ctx, func(tx *transaction) error {
		n, err := rowsAffected(tx.ExecContext(ctx, `UPDATE target_instances SET heartbeat_at = ?, target = ? WHERE instance_id = ?`,
			millis(s.now()), string(description), instanceID))
		if err == nil && n == 0 {
			err = fmt.Errorf("target instance %s: %w", instanceID, ErrNotFound)
		}
		return err
	})
}

// DeleteTarget forgets a target instance. Errors: InvalidInstanceId.NotFound; InvalidInstanceId.InUse while an unfinished job migrates to it.
func (s *Store) DeleteTarget(ctx context.Context, accountID, instanceID string) error {
	// In the turn of those who create jobs; who modifies one writes the row that is read here for update.
	return s.db.writeInTurn(ctx, turnOfJobs(accountID), func(tx *transaction) error {
		var name, holder string
		err := tx.QueryRowContext(ctx, `SELECT name FROM target_instances WHERE account_id = ? AND instance_id = ?`+tx.forUpdate(), accountID, instanceID).Scan(&name)
		if errors.Is(err, sql.ErrNoRows) {
			return noTarget(instanceID)
		}
		if err != nil {
			return err
		}
		err = tx.QueryRowContext(ctx, holderOfTarget, instanceID, "").Scan(&holder)
		if err == nil {
			return smc.Errorf(smc.CodeInvalidInstanceIDInUse, "the unfinished job %s migrates to target instance %s (%s): delete that job first", holder, instanceID, name)
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		for _, statement := range []string{`DELETE FROM deliveries WHERE instance_id = ?`, `DELETE FROM target_instances WHERE instance_id = ?`} {
			if _, err := tx.ExecContext(ctx, statement, instanceID); err != nil {
				return err
			}
		}
		return nil
	})
}

func noTarget(instanceID string) error {
	return smc.Errorf(smc.CodeInvalidInstanceIDNotFound, "target instance %s does not exist: DescribeTargetInstances lists those there are", instanceID)
}

// holderOfTarget finds the unfinished job that migrates to a target instance, but for one job.
const holderOfTarget = `SELECT job_id FROM replication_jobs WHERE target_id = ? AND target_id <> '' AND job_id <> ? AND ` + unfinished

// targetID is the target instance that the job migrates to; empty for a job of another target type.
func (j *Job) targetID() string {
	if j.Spec.Target() != smc.TargetInstance {
		return ""
	}
	return value(j.Spec.InstanceID)
}

// freeTarget asks for the target instance that a job migrates to, and whether its disks take those of the job: it exists, no other
// unfinished job migrates to it, and it has a disk for each of the job's. A job of another target type asks for nothing.
func freeTarget(a *asking, job *Job) (answer func(*Source) error) {
	id := job.targetID()
	if id == "" {
		return func(*Source) error { return nil }
	}
	var target *Target
	// Written, so that who deletes it meanwhile is seen.
	a.ask(nil, `UPDATE target_instances SET instance_id = instance_id WHERE account_id = ? AND instance_id = ?`, job.AccountID, id)
	a.ask(func(row rowScanner) (err error) {
		target, err = scanTarget(row)
		return err
	}, selectTarget+` WHERE account_id = ? AND instance_id = ?`, job.AccountID, id)
	var holder string
	a.ask(func(row rowScanner) error { return row.Scan(&holder) }, holderOfTarget, id, job.JobID)
	return func(source *Source) error {
		switch {
		case target == nil:
			return noTarget(id)
		case holder != "":
			return smc.Errorf(smc.CodeInvalidInstanceIDInUse, "the unfinished job %s migrates to target instance %s (%s): name another one, or delete that job first", holder, id, target.Name)
		}
		return target.Fits(job.Disks(source))
	}
}

// Fits refuses, with InvalidInstanceId.DiskMismatch, a target whose disks do not take those of a job.
func (t *Target) Fits(disks []JobDisk) error {
	for _, disk := range disks {
		refuse := func(format string, args ...any) error {
			return smc.Errorf(smc.CodeInvalidInstanceIDDiskMismatch, "disk %d of target instance %s (%s) does not do: %s", disk.Index, t.InstanceID, t.Name, fmt.Sprintf(format, args...))
		}
		own, ok := t.Disk(disk.Index)
		switch {
		case !ok:
			return refuse("it has none of that index; start drover-agent target there with a disk for it, or leave the disk out with DataDisk")
		case own.SizeBytes == 0:
			return refuse("%s cannot be opened there; the log of drover-agent target says why", own.Path)
		case own.SizeBytes < disk.SizeBytes:
			return refuse("%s has %d bytes, that of the source server %d", own.Path, own.SizeBytes, disk.SizeBytes)
		case own.SizeBytes < disk.DeliveredSizeBytes:
			return refuse("%s has %d bytes, the image is to have %d", own.Path, own.SizeBytes, disk.DeliveredSizeBytes)
		case own.HoldsData:
			return refuse("%s holds data that nobody gave leave to overwrite; start drover-agent target there with --overwrite", own.Path)
		}
	}
	return nil
}

// Disk returns the disk of the target that takes the source's disk of an index.
func (t *Target) Disk(index int) (agentapi.TargetDisk, bool) {
	for _, disk := range t.Target.Disks {
		if disk.Index == index {
			return disk, true
		}
	}
	return agentapi.TargetDisk{}, false
}

const deliveryColumns = `instance_id, job_id, run, image_id, host_url, bandwidth, disks, open, generation, state, code, message,
	bytes_total, bytes_done, bytes_fetched, roots, opened_at, reported_at`

const selectDelivery = `SELECT ` + deliveryColumns + ` FROM deliveries`

func scanDelivery(row rowScanner) (*Delivery, error) {
	var d Delivery
	var disks, read string
	var open int
	var opened, reported int64
	err := row.Scan(&d.InstanceID, &d.JobID, &d.Run, &d.ImageID, &d.HostURL, &d.BandwidthLimit, &disks, &open, &d.Generation, &d.State, &d.Code, &d.Message,
		&d.BytesTotal, &d.BytesDone, &d.BytesFetched, &read, &opened, &reported)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	d.Open, d.OpenedAt, d.ReportedAt = open != 0, fromMillis(opened), fromMillis(reported)
	err = json.Unmarshal([]byte(disks), &d.Disks)
	if err == nil && read != "" {
		err = json.Unmarshal([]byte(read), &d.Read)
	}
	if err != nil {
		return nil, fmt.Errorf("delivery to %s: %w", d.InstanceID, err)
	}
	return &d, nil
}

// Delivery returns the last delivery to a target instance, or ErrNotFound.
func (s *Store) Delivery(ctx context.Context, instanceID string) (*Delivery, error) {
	return scanDelivery(s.db.QueryRowContext(ctx, selectDelivery+` WHERE instance_id = ?`, instanceID))
}

// Deliveries returns the last deliveries to target instances, by their ids.
func (s *Store) Deliveries(ctx context.Context, instanceIDs []string) (map[string]*Delivery, error) {
	found := map[string]*Delivery{}
	if len(instanceIDs) == 0 {
		return found, nil
	}
	where := &conditions{}
	where.in("instance_id", instanceIDs)
	rows, err := s.db.QueryContext(toEnd(ctx), selectDelivery+where.String(), where.args...)
	if err != nil {
		return nil, err
	}
	_, err = collect(rows, func(row rowScanner) (struct{}, error) {
		d, err := scanDelivery(row)
		if err == nil {
			found[d.InstanceID] = d
		}
		return struct{}{}, err
	})
	return found, err
}

// OpenDelivery has the target instance of a job be told to put an image on its disks, and returns the delivery. One that is being made
// of the same image goes on, where the transition host is now; one that is done stays done; one that failed is made again under a new generation.
// It returns ErrSuperseded when the job is not Processing that run, or the guards say so.
func (s *Store) OpenDelivery(ctx context.Context, instanceID string, spec DeliverySpec, guards ...Guard) (*Delivery, error) {
	disks, err := json.Marshal(spec.Disks)
	if err != nil {
		return nil, err
	}
	var delivery *Delivery
	err = s.write(ctx, func(tx *transaction) error {
		job, err := scanJob(tx.QueryRowContext(ctx, selectJob+` WHERE job_id = ?`, spec.JobID))
		if errors.Is(err, ErrNotFound) {
			return fmt.Errorf("job %s is gone: %w", spec.JobID, ErrSuperseded)
		}
		if err != nil {
			return err
		}
		if err := inPhase(spec.Run, smc.BusinessProcessing, guards)(job); err != nil {
			return fmt.Errorf("job %s: %w", spec.JobID, err)
		}
		delivery, err = scanDelivery(tx.QueryRowContext(ctx, selectDelivery+` WHERE instance_id = ?`, instanceID))
		switch {
		case errors.Is(err, ErrNotFound):
		case err != nil:
			return err
		case delivery.of(spec) && (delivery.State == smc.DeliveryDone || delivery.HostURL == spec.HostURL && delivery.State != smc.DeliveryFailed):
			return nil
		}
		delivery, err = scanDelivery(tx.QueryRowContext(ctx, `INSERT INTO deliveries
			(instance_id, job_id, run, image_id, host_url, bandwidth, disks, open, generation, change, state, opened_at)
			VALUES (?, ?, ?, ?, ?, ?, ?, 1, 2, `+tx.nextChange(deliveries)+`, ?, ?)
			ON CONFLICT (instance_id) DO UPDATE SET job_id = excluded.job_id, run = excluded.run, image_id = excluded.image_id, host_url = excluded.host_url,
			bandwidth = excluded.bandwidth, disks = excluded.disks, open = 1, generation = deliveries.generation + 1, change = excluded.change, state = excluded.state,
			code = '', message = '', bytes_total = 0, bytes_done = 0, bytes_fetched = 0, roots = '', opened_at = excluded.opened_at, reported_at = 0
			RETURNING `+deliveryColumns, instanceID, spec.JobID, spec.Run, spec.ImageID, spec.HostURL, spec.BandwidthLimit, string(disks), string(smc.DeliveryPending), millis(s.now())))
		return err
	})
	if err != nil {
		return nil, err
	}
	s.workChanged.notify(instanceID)
	return delivery, nil
}

// of says whether an open delivery is that of an image.
func (d *Delivery) of(spec DeliverySpec) bool {
	return d.Open && d.JobID == spec.JobID && d.Run == spec.Run && d.ImageID == spec.ImageID
}

// ReportDelivery records what a target instance says of a delivery, and that it lives. superseded tells it to end: the delivery is not the one
// that is wanted. What is done or has failed stays so. Error: ErrNotFound, for a target instance that is gone.
func (s *Store) ReportDelivery(ctx context.Context, instanceID string, report agentapi.DeliveryReport) (superseded bool, err error) {
	read, err := json.Marshal(report.Disks)
	if err != nil {
		return false, err
	}
	err = s.write(ctx, func(tx *transaction) error {
		now := millis(s.now())
		heard, err := rowsAffected(tx.ExecContext(ctx, `UPDATE target_instances SET heartbeat_at = ? WHERE instance_id = ?`, now, instanceID))
		if err == nil && heard == 0 {
			err = fmt.Errorf("target instance %s: %w", instanceID, ErrNotFound)
		}
		if err != nil {
			return err
		}
		wanted, err := rowsAffected(tx.ExecContext(ctx, `UPDATE deliveries SET reported_at = ? WHERE instance_id = ? AND generation = ? AND open = 1`,
			now, instanceID, report.Generation))
		if superseded = wanted == 0; err != nil || superseded {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE deliveries SET state = ?, code = ?, message = ?, bytes_total = ?, bytes_done = ?, bytes_fetched = ?, roots = ?
			WHERE instance_id = ? AND state NOT IN (?, ?)`,
			string(report.State), report.Code, report.Message, report.BytesTotal, report.BytesDone, report.BytesFetched, string(read),
			instanceID, string(smc.DeliveryDone), string(smc.DeliveryFailed))
		return err
	})
	return superseded, err
}

// closeDelivery ends the delivery of a job: its generation is raised, so that its target ends what it still does.
func closeDelivery(ctx context.Context, tx *transaction, jobID, why string) error {
	_, err := tx.ExecContext(ctx, endDeliveries(tx)+` AND job_id = ?`, why, jobID)
	return err
}

// endDeliveries ends those of the open deliveries that the rest of the statement says. One that was not done has failed, for the reason that is the
// first argument unless its target gave one.
func endDeliveries(tx *transaction) string {
	const done, failed = string(smc.DeliveryDone), string(smc.DeliveryFailed)
	return `UPDATE deliveries SET open = 0, generation = generation + 1, change = ` + tx.nextChange(deliveries) + `,
		message = CASE WHEN state IN ('` + done + `', '` + failed + `') THEN message ELSE CAST(? AS TEXT) END,
		state = CASE WHEN state = '` + done + `' THEN state ELSE '` + failed + `' END WHERE open = 1`
}
