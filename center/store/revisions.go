package store

import (
	"context"
	"fmt"
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

// JobsSeen is how far the changes of an account's jobs were seen. The zero value is that of who has seen nothing.
type JobsSeen struct {
	JobsRevision
	slots map[int64]int64 // of job_changes, by slot
}

// JobMark stands for a job, and for a few others too: the end of its id.
type JobMark string

// markLength is that of migration 00018, in characters.
const markLength = 6

// MarkOf returns the mark of a job.
func MarkOf(jobID string) JobMark {
	id := []rune(jobID)
	return JobMark(fmt.Sprintf("%*s", markLength, string(id[max(0, len(id)-markLength):])))
}

// ChangedJobs returns which jobs of an account changed since, and how far their changes are seen then, which is at one moment
// after the call began. all is true when there were too many changes to say.
func (s *Store) ChangedJobs(ctx context.Context, accountID string, since JobsSeen) (now JobsSeen, changed []JobMark, all bool, err error) {
	return s.db.changedSince(toEnd(ctx), s.db, accountID, since)
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

// JobPage lists the jobs of an account and reads those that the caller does not know as they are, with their runs and tags. All of
// it is of one moment after the call began. known tells the revision at which the caller knows a job. before is the page as an
// earlier call returned it, for the same arguments, or nil: it spares listing the account's jobs while they are the same ones.
func (s *Store) JobPage(ctx context.Context, accountID string, filter JobFilter, page Page, before *JobPage, known func(jobID string) (revision int64, ok bool)) (JobPage, error) {
	ctx = toEnd(ctx)
	if before != nil {
		// One statement, and no transaction.
		result, same, err := samePage(ctx, s.db, s.db.dialect, accountID, before, known)
		if err != nil || same && !slices.ContainsFunc(result.unknown(), (*Job).Queued) {
			return result, err
		}
	}
	var result JobPage
	err := s.db.read(ctx, func(tx *transaction) error {
		listed, err := listPage(ctx, tx, accountID, filter.of(accountID), page)
		if err != nil {
			return err
		}
		if result, _, err = samePage(ctx, tx, s.db.dialect, accountID, &listed, known); err != nil {
			return err
		}
		return s.fillQueue(ctx, tx, result.unknown()...)
	})
	return result, err
}

func (p *JobPage) unknown() []*Job { return slices.Collect(maps.Values(p.Unknown)) }

func (p *JobPage) ids() []string {
	ids := make([]string, len(p.Jobs))
	for i, job := range p.Jobs {
		ids[i] = job.JobID
	}
	return ids
}

// unknownRevision is less than any revision.
const unknownRevision int64 = -1

const jobsRevision = `SELECT CAST(COALESCE(SUM(revision), 0) AS BIGINT) AS revision, CAST(COALESCE(SUM(membership), 0) AS BIGINT) AS membership
	FROM job_changes WHERE account_id = ?`

// samePage reads the revisions that an account has now, and the jobs of a page that are not known as they are now, all in one statement
// and so at one moment. same is false when the page has to be listed again.
func samePage(ctx context.Context, from reader, d dialect, accountID string, before *JobPage, known func(string) (int64, bool)) (result JobPage, same bool, err error) {
	result.Total, result.Jobs, result.Unknown = before.Total, slices.Clone(before.Jobs), map[string]*Job{}
	revisions, index := make([]int64, len(result.Jobs)), make(map[string]int, len(result.Jobs))
	for i := range result.Jobs {
		job := &result.Jobs[i]
		index[job.JobID], revisions[i] = i, unknownRevision
		if revision, ok := known(job.JobID); ok {
			job.Revision, revisions[i] = revision, revision
		}
	}
	changed := d.changedJobs(accountID, before, revisions)
	rows, err := from.QueryContext(ctx, `SELECT r.revision, r.membership, COALESCE(j.job_id, ''), COALESCE(j.revision, 0), CASE WHEN j.job_id IS NULL THEN '' ELSE `+
		d.wholeJob()+` END FROM (`+jobsRevision+`) r LEFT JOIN replication_jobs j ON`+strings.TrimPrefix(changed.String(), " WHERE"), append([]any{accountID}, changed.args...)...)
	if err != nil {
		return JobPage{}, false, err
	}
	_, err = collect(rows, func(row rowScanner) (_ struct{}, err error) {
		var id, whole string
		var revision int64
		if err := row.Scan(&result.Revision.Changes, &result.Revision.Membership, &id, &revision, &whole); err != nil || id == "" {
			return struct{}{}, err
		}
		result.Jobs[index[id]].Revision = revision
		result.Unknown[id], err = decodeJob(whole)
		return struct{}{}, err
	})
	return result, err == nil && result.Revision.Membership == before.Revision.Membership, err
}

// listPage lists jobs, newest first, and counts all that match.
func listPage(ctx context.Context, tx *transaction, accountID string, where *conditions, page Page) (result JobPage, err error) {
	a := asking{ctx: ctx, tx: tx}
	a.ask(func(row rowScanner) error { return row.Scan(&result.Revision.Changes, &result.Revision.Membership) }, jobsRevision, accountID)
	a.ask(func(row rowScanner) error { return row.Scan(&result.Total) }, `SELECT COUNT(*) FROM replication_jobs`+where.String(), where.args...)
	a.ask(func(row rowScanner) error {
		var job JobRevision
		defer func() { result.Jobs = append(result.Jobs, job) }()
		return row.Scan(&job.JobID, &job.Revision)
	}, `SELECT job_id, revision FROM replication_jobs`+where.String()+` ORDER BY created_at DESC, job_id LIMIT ? OFFSET ?`,
		append(where.args, page.Size, (page.Number-1)*page.Size)...)
	return result, a.answered()
}
