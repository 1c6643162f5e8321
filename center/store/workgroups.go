package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/drover/drover/smc"
)

// Workgroup is one row of workgroups.
type Workgroup struct {
	WorkgroupID, AccountID string
	Name, Description      string
	CreatedAt              time.Time
}

const selectWorkgroup = `SELECT workgroup_id, account_id, name, description, created_at FROM workgroups`

func scanWorkgroup(row rowScanner) (*Workgroup, error) {
	var group Workgroup
	var created int64
	err := row.Scan(&group.WorkgroupID, &group.AccountID, &group.Name, &group.Description, &created)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNotFound
	}
	group.CreatedAt = fromMillis(created)
	return &group, err
}

// workgroupToken sets the client tokens of workgroups apart from those of jobs.
const workgroupToken = "workgroup/"

// CreateWorkgroup stores a workgroup with its tags and returns its id. The client token of an earlier call gives the id it
// made, when the digest of the parameters is the same; what became of the workgroup since does not matter. Errors: InvalidParameter for a name that is taken, IdempotentParameterMismatch.
func (s *Store) CreateWorkgroup(ctx context.Context, group Workgroup, clientToken, digest string, tags []smc.Tag) (string, error) {
	group.WorkgroupID = NewID("w")
	id := group.WorkgroupID
	err := s.write(ctx, func(tx *transaction) error {
		id = group.WorkgroupID
		if clientToken != "" {
			a := asking{ctx: ctx, tx: tx}
			before := s.madeBefore(&a, group.AccountID, workgroupToken+clientToken, digest)
			if err := a.answered(); err != nil {
				return err
			}
			if made, known, err := before(); err != nil || known {
				id = made
				return err
			}
			if err := s.rememberToken(ctx, tx, group.AccountID, workgroupToken+clientToken, digest, id); err != nil {
				return err
			}
		}
		if err := freeWorkgroupName(ctx, tx, group.AccountID, group.WorkgroupID, group.Name); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO workgroups (workgroup_id, account_id, name, description, created_at) VALUES (?, ?, ?, ?, ?)`,
			group.WorkgroupID, group.AccountID, group.Name, group.Description, millis(s.now())); err != nil {
			return err
		}
		return putTags(ctx, tx, group.AccountID, resourceTypeWorkgroup, group.WorkgroupID, tags)
	})
	return id, err
}

func freeWorkgroupName(ctx context.Context, tx *transaction, accountID, id, name string) error {
	var holder string
	err := tx.QueryRowContext(ctx, `SELECT workgroup_id FROM workgroups WHERE account_id = ? AND name = ? AND workgroup_id <> ?`, accountID, name, id).Scan(&holder)
	if err == nil {
		return smc.Errorf(smc.CodeInvalidParameter, "Name: workgroup %s is called %q already: choose another", holder, name)
	}
	if !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	return nil
}

// requireWorkgroup returns a workgroup of an account, or InvalidWorkgroupId.NotFound.
func requireWorkgroup(ctx context.Context, tx *transaction, accountID, id string) (*Workgroup, error) {
	group, err := scanWorkgroup(tx.QueryRowContext(ctx, selectWorkgroup+` WHERE account_id = ? AND workgroup_id = ?`, accountID, id))
	if errors.Is(err, ErrNotFound) {
		return nil, smc.Errorf(smc.CodeInvalidWorkgroupIDNotFound, "workgroup %s does not exist: DescribeWorkgroups lists those there are", id)
	}
	return group, err
}

// ModifyWorkgroup renames or describes a workgroup; nil leaves a field as it is.
func (s *Store) ModifyWorkgroup(ctx context.Context, accountID, id string, name, description *string) error {
	name = given(name)
	return s.write(ctx, func(tx *transaction) error {
		group, err := requireWorkgroup(ctx, tx, accountID, id)
		if err != nil {
			return err
		}
		if name != nil {
			if err := freeWorkgroupName(ctx, tx, accountID, id, *name); err != nil {
				return err
			}
			group.Name = *name
		}
		if description != nil {
			group.Description = *description
		}
		_, err = tx.ExecContext(ctx, `UPDATE workgroups SET name = ?, description = ? WHERE workgroup_id = ?`, group.Name, group.Description, id)
		return err
	})
}

// DeleteWorkgroup deletes a workgroup; its sources stay.
func (s *Store) DeleteWorkgroup(ctx context.Context, accountID, id string) error {
	return s.write(ctx, func(tx *transaction) error {
		if _, err := requireWorkgroup(ctx, tx, accountID, id); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE source_servers SET workgroup_id = '' WHERE workgroup_id = ?`, id); err != nil {
			return err
		}
		if err := forgetTags(ctx, tx, id); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM workgroups WHERE workgroup_id = ?`, id)
		return err
	})
}

// Associate puts sources into a workgroup, all or none. A source is in one workgroup at most.
func (s *Store) Associate(ctx context.Context, accountID, id string, sourceIDs []string) error {
	return s.write(ctx, func(tx *transaction) error {
		if _, err := requireWorkgroup(ctx, tx, accountID, id); err != nil {
			return err
		}
		for _, sourceID := range sourceIDs {
			var current string
			err := tx.QueryRowContext(ctx, `SELECT workgroup_id FROM source_servers WHERE account_id = ? AND source_id = ?`, accountID, sourceID).Scan(&current)
			switch {
			case errors.Is(err, sql.ErrNoRows):
				return smc.Errorf(smc.CodeInvalidSourceIDNotFound, "source server %s does not exist", sourceID)
			case err != nil:
				return err
			case current != "" && current != id:
				return smc.Errorf(smc.CodeInvalidParameter, "SourceId: source server %s is in workgroup %s already: disassociate it there first", sourceID, current)
			}
			if _, err := tx.ExecContext(ctx, `UPDATE source_servers SET workgroup_id = ? WHERE source_id = ?`, id, sourceID); err != nil {
				return err
			}
		}
		var n int
		if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM source_servers WHERE workgroup_id = ?`, id).Scan(&n); err != nil {
			return err
		}
		if n > smc.MaxWorkgroupSources {
			return smc.Errorf(smc.CodeInvalidParameter, "SourceId: workgroup %s would have %d source servers; %d are allowed", id, n, smc.MaxWorkgroupSources)
		}
		return nil
	})
}

// Disassociate takes sources out of a workgroup; one that is not in it is refused.
func (s *Store) Disassociate(ctx context.Context, accountID, id string, sourceIDs []string) error {
	return s.write(ctx, func(tx *transaction) error {
		if _, err := requireWorkgroup(ctx, tx, accountID, id); err != nil {
			return err
		}
		for i, sourceID := range sourceIDs {
			if slices.Contains(sourceIDs[:i], sourceID) {
				continue // it is out of it already
			}
			n, err := rowsAffected(tx.ExecContext(ctx, `UPDATE source_servers SET workgroup_id = '' WHERE account_id = ? AND source_id = ? AND workgroup_id = ?`, accountID, sourceID, id))
			if err != nil {
				return err
			}
			if n == 0 {
				return smc.Errorf(smc.CodeInvalidSourceIDNotFound, "source server %s is not in workgroup %s", sourceID, id)
			}
		}
		return nil
	})
}

// WorkgroupMember is a source of a workgroup with its newest job.
type WorkgroupMember struct {
	WorkgroupID, SourceID string
	// JobStatus is empty when the source has no job.
	JobStatus smc.JobStatus
	Run       int
	CutOver   CutOver
	// NotPassed: the verification of an image of the job failed.
	NotPassed bool
}

// Workgroups lists an account's workgroups, newest first, that have an id of ids (when given), the name (when given) and
// all tags.
func (s *Store) Workgroups(ctx context.Context, accountID string, ids []string, name string, tags []smc.TagFilter) ([]*Workgroup, error) {
	where := ofAccount(accountID)
	where.in("workgroup_id", ids)
	where.equal("name", name)
	where.tagged("workgroup_id", tags)
	rows, err := s.db.QueryContext(ctx, selectWorkgroup+where.String()+` ORDER BY created_at DESC, workgroup_id`, where.args...)
	if err != nil {
		return nil, err
	}
	return collect(rows, scanWorkgroup)
}

// WorkgroupMembers returns the members of all workgroups of an account.
func (s *Store) WorkgroupMembers(ctx context.Context, accountID string) ([]WorkgroupMember, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT s.workgroup_id, s.source_id, COALESCE(j.status, ''), COALESCE(j.run, 0), COALESCE(j.cutover, ''),
		(SELECT COUNT(*) FROM images i WHERE i.job_id = s.job_id AND i.verification = ?)
		FROM source_servers s LEFT JOIN replication_jobs j ON j.job_id = s.job_id WHERE s.account_id = ? AND s.workgroup_id <> '' ORDER BY s.source_id`,
		string(smc.VerificationNotPassed), accountID)
	if err != nil {
		return nil, fmt.Errorf("members of workgroups: %w", err)
	}
	return collect(rows, func(row rowScanner) (m WorkgroupMember, err error) {
		var notPassed int
		err = row.Scan(&m.WorkgroupID, &m.SourceID, &m.JobStatus, &m.Run, &m.CutOver, &notPassed)
		m.NotPassed = notPassed > 0
		return m, err
	})
}
