package store

import (
	"context"
	"maps"
	"slices"
	"strings"
)

// JobRevision names a job as it was at a time: Revision changes, and never comes back, with whatever a Job holds, its runs and
// tags too. The database sees to that, so it holds whoever writes. Only the place of a queued job is not of its own: such a
// job is known at no revision.
type JobRevision struct {
	JobID    string
	Revision int64
}

// JobsRevision counts the changes of an account's jobs. Numbers that are the same were read of the same jobs.
type JobsRevision struct {
	// Changes counts every change of what a Job holds.
	Changes int64
	// Membership counts those after which a listing may have other jobs, or the same ones in another order.
	Membership int64
}

// JobPage is a page of a listing of jobs.
type JobPage struct {
	// Jobs are the jobs of the page, newest first; Total is how many match on all pages.
	Jobs  []JobRevision
	Total int
	// Unknown are those of Jobs, by JobID, that the caller does not know at their revision.
	Unknown map[string]*Job
	// Revision is the account's.
	Revision JobsRevision
}

// jobChanges is JobsRevision.Changes of an account.
const jobChanges = `SELECT CAST(COALESCE(SUM(revision), 0) AS BIGINT) FROM job_changes WHERE account_id = ?`

// JobChanges returns JobsRevision.Changes of an account as it is now.
func (s *Store) JobChanges(ctx context.Context, accountID string) (changes int64, err error) {
	err = s.db.QueryRowContext(toEnd(ctx), jobChanges, accountID).Scan(&changes)
	return changes, err
}

// JobPage lists the jobs of an account and reads those that known does not report as known, with their runs and tags. All of
// it is of one moment after the call began. before is the page as an earlier call returned it, for the same arguments, or nil:
// it spares listing the account's jobs while they are the same ones.
func (s *Store) JobPage(ctx context.Context, accountID string, filter JobFilter, page Page, before *JobPage, known func(JobRevision) bool) (JobPage, error) {
	ctx = toEnd(ctx)
	unknown := func(jobs []JobRevision) (ids []string) {
		for _, job := range jobs {
			if !known(job) {
				ids = append(ids, job.JobID)
			}
		}
		return ids
	}
	if before != nil {
		// One statement, and no transaction, tells that of what the caller knows nothing changed.
		result, same, err := samePage(ctx, s.db, s.db.dialect, accountID, before)
		if err != nil || same && len(unknown(result.Jobs)) == 0 {
			return result, err
		}
	}
	var result JobPage
	err := s.db.read(ctx, func(tx *transaction) (err error) {
		same := false
		if before != nil {
			if result, same, err = samePage(ctx, tx, s.db.dialect, accountID, before); err != nil {
				return err
			}
		}
		if !same {
			if result, err = listPage(ctx, tx, accountID, filter.of(accountID), page); err != nil {
				return err
			}
		}
		if result.Unknown, err = readJobs(ctx, tx, unknown(result.Jobs)); err != nil {
			return err
		}
		return s.fillQueue(ctx, tx, slices.Collect(maps.Values(result.Unknown))...)
	})
	return result, err
}

const jobsRevision = `SELECT CAST(COALESCE(SUM(revision), 0) AS BIGINT) AS revision, CAST(COALESCE(SUM(membership), 0) AS BIGINT) AS membership
	FROM job_changes WHERE account_id = ?`

// samePage reads the revisions that the jobs of a page have now, all in one statement and so at one moment. same is false when the
// page has to be listed again.
func samePage(ctx context.Context, from reader, d dialect, accountID string, before *JobPage) (result JobPage, same bool, err error) {
	changed := d.changedJobs(accountID, before)
	rows, err := from.QueryContext(ctx, `SELECT r.revision, r.membership, COALESCE(j.job_id, ''), COALESCE(j.revision, 0) FROM (`+jobsRevision+`) r
		LEFT JOIN replication_jobs j ON`+strings.TrimPrefix(changed.String(), " WHERE"), append([]any{accountID}, changed.args...)...)
	if err != nil {
		return JobPage{}, false, err
	}
	revisions := make(map[string]int64)
	_, err = collect(rows, func(row rowScanner) (job JobRevision, err error) {
		err = row.Scan(&result.Revision.Changes, &result.Revision.Membership, &job.JobID, &job.Revision)
		revisions[job.JobID] = job.Revision
		return job, err
	})
	if err != nil || result.Revision.Membership != before.Revision.Membership {
		return JobPage{}, false, err
	}
	result.Total, result.Jobs = before.Total, slices.Clone(before.Jobs)
	for i, job := range result.Jobs {
		if revision, ok := revisions[job.JobID]; ok {
			result.Jobs[i].Revision = revision
		}
	}
	return result, true, nil
}

// listPage lists jobs, newest first, and counts all that match.
func listPage(ctx context.Context, tx *transaction, accountID string, where *conditions, page Page) (result JobPage, err error) {
	if err := tx.QueryRowContext(ctx, jobsRevision, accountID).Scan(&result.Revision.Changes, &result.Revision.Membership); err != nil {
		return JobPage{}, err
	}
	if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM replication_jobs`+where.String(), where.args...).Scan(&result.Total); err != nil {
		return JobPage{}, err
	}
	rows, err := tx.QueryContext(ctx, `SELECT job_id, revision FROM replication_jobs`+where.String()+` ORDER BY created_at DESC, job_id LIMIT ? OFFSET ?`,
		append(where.args, page.Size, (page.Number-1)*page.Size)...)
	if err != nil {
		return JobPage{}, err
	}
	result.Jobs, err = collect(rows, func(row rowScanner) (job JobRevision, err error) { return job, row.Scan(&job.JobID, &job.Revision) })
	return result, err
}

// readJobs reads jobs with their runs and tags.
func readJobs(ctx context.Context, tx *transaction, ids []string) (map[string]*Job, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	where := &conditions{}
	where.in("job_id", ids)
	rows, err := tx.QueryContext(ctx, selectJob+where.String(), where.args...)
	if err != nil {
		return nil, err
	}
	jobs, err := collect(rows, scanJob)
	if err != nil {
		return nil, err
	}
	tags, err := tagsOf(ctx, tx, ids)
	if err != nil {
		return nil, err
	}
	byID := make(map[string]*Job, len(jobs))
	for _, job := range jobs {
		job.Tags = tags[job.JobID]
		byID[job.JobID] = job
	}
	if err := fillRuns(ctx, tx, jobs...); err != nil {
		return nil, err
	}
	return byID, fillTroubles(ctx, tx, jobs...)
}
