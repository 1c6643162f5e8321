package store

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"slices"
)

// JobRevision names a job as it was at a time: Revision changes, and never comes back, with whatever a Job holds, its runs and
// tags too. The database sees to that, so it holds whoever writes. Only the place of a queued job is not of its own: such a
// job is known at no revision.
type JobRevision struct {
	JobID    string
	Revision int64
}

// JobPage is a page of a listing of jobs.
type JobPage struct {
	// Jobs are the jobs of the page, newest first; Total is how many match on all pages.
	Jobs  []JobRevision
	Total int
	// Unknown are those of Jobs, by JobID, that the caller does not know at their revision.
	Unknown map[string]*Job
	// Revision is the account's, as JobsRevision gives it; 0 when it gives none.
	Revision int64
}

// JobsRevision returns a number that is another one as soon as any job of the account has changed, come or gone. kept is false
// where the database keeps no such number.
func (s *Store) JobsRevision(ctx context.Context, accountID string) (revision int64, kept bool, err error) {
	if !s.db.jobsRevision() {
		return 0, false, nil
	}
	revision, err = jobsRevision(ctx, s.db, accountID)
	return revision, true, err
}

func jobsRevision(ctx context.Context, from reader, accountID string) (revision int64, err error) {
	err = from.QueryRowContext(toEnd(ctx), `SELECT revision FROM job_revisions WHERE account_id = ?`, accountID).Scan(&revision)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil // no job of it was written since this is counted
	}
	return revision, err
}

// JobPage lists the jobs of an account and reads those that known does not report as known, with their runs and tags. All of
// it is of one moment after the call began.
func (s *Store) JobPage(ctx context.Context, accountID string, filter JobFilter, page Page, known func(JobRevision) bool) (JobPage, error) {
	ctx = toEnd(ctx)
	where := filter.of(accountID)
	var result JobPage
	var unknown []string
	listing := func(from reader) (err error) {
		unknown = nil
		result.Jobs, result.Total, err = jobRevisions(ctx, from, where, page)
		for _, job := range result.Jobs {
			if !known(job) {
				unknown = append(unknown, job.JobID)
			}
		}
		return err
	}
	if !s.db.jobsRevision() { // then the listing is what tells that nothing changed
		if err := listing(s.db); err != nil || len(unknown) == 0 {
			return result, err
		}
	}
	err := s.db.read(ctx, func(tx *transaction) (err error) {
		if s.db.jobsRevision() {
			if result.Revision, err = jobsRevision(ctx, tx, accountID); err != nil {
				return err
			}
		}
		if err := listing(tx); err != nil {
			return err
		}
		if result.Unknown, err = readJobs(ctx, tx, unknown); err != nil {
			return err
		}
		return s.fillQueue(ctx, tx, slices.Collect(maps.Values(result.Unknown))...)
	})
	return result, err
}

// jobRevisions lists jobs, newest first, and counts all that match, in one statement and so at one moment.
func jobRevisions(ctx context.Context, from reader, where *conditions, page Page) (jobs []JobRevision, total int, err error) {
	count := `SELECT COUNT(*) FROM replication_jobs` + where.String()
	args := append(append([]any{}, where.args...), where.args...)
	rows, err := from.QueryContext(ctx, `SELECT job_id, revision, (`+count+`) FROM replication_jobs`+where.String()+` ORDER BY created_at DESC, job_id LIMIT ? OFFSET ?`,
		append(args, page.Size, (page.Number-1)*page.Size)...)
	if err != nil {
		return nil, 0, err
	}
	jobs, err = collect(rows, func(row rowScanner) (job JobRevision, err error) {
		return job, row.Scan(&job.JobID, &job.Revision, &total)
	})
	if err == nil && len(jobs) == 0 && page.Number > 1 {
		err = from.QueryRowContext(ctx, count, where.args...).Scan(&total)
	}
	return jobs, total, err
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
