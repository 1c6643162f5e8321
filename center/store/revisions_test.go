package store

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/drover/drover/center/store/storetest"
	"github.com/drover/drover/smc"
)

// unknown makes JobPage read every job.
func unknown(string) (int64, bool) { return 0, false }

// Jobs is JobPage for who knows nothing.
func (f *fixture) Jobs(ctx context.Context, accountID string, filter JobFilter, page Page) (jobs []*Job, total int, err error) {
	found, err := f.JobPage(ctx, accountID, filter, page, nil, unknown)
	for _, job := range found.Jobs {
		jobs = append(jobs, found.Unknown[job.JobID])
	}
	return jobs, found.Total, err
}

type keptJob struct {
	revision int64
	*Job
}

// keeper asks for a listing again and again, and keeps what it was given.
type keeper struct {
	accountID string
	filter    JobFilter
	before    *JobPage
	jobs      map[string]keptJob
}

func (k *keeper) show(f *fixture) (shown []*Job) {
	f.t.Helper()
	page, err := f.JobPage(f.ctx, k.accountID, k.filter, Page{1, 10}, k.before, func(jobID string) (int64, bool) {
		kept, ok := k.jobs[jobID]
		return kept.revision, ok
	})
	require.NoError(f.t, err)
	k.before = &page
	for _, job := range page.Jobs {
		if read := page.Unknown[job.JobID]; read != nil {
			k.jobs[job.JobID] = keptJob{job.Revision, read}
		}
		require.Equal(f.t, job.Revision, k.jobs[job.JobID].revision)
		shown = append(shown, k.jobs[job.JobID].Job)
	}
	return shown
}

// Whatever one statement changes of what a listing shows, who keeps an earlier page is shown: each of them is what one trigger of migrations
// 00009 and 00015 is there for.
func TestEveryWriteRevises(t *testing.T) {
	const stranger = "456"
	tagged := JobFilter{Tags: []smc.TagFilter{{Key: pointer("wave")}}}
	for name, write := range map[string]struct {
		statement string // of job $1, which has all there is, and job $2, which runs and has nothing else
		accountID string
		filter    JobFilter
	}{
		"job inserted": {statement: `INSERT INTO replication_jobs (job_id, account_id, region_id, source_id, name, image_name, spec, status, created_at)
			SELECT 'j-new', account_id, region_id, source_id, '', '', '{}', 'Finished', created_at + 1 FROM replication_jobs WHERE job_id = $1 AND job_id <> $2`},
		"job updated":                      {statement: `UPDATE replication_jobs SET progress = 50 WHERE job_id = $1 AND job_id <> $2`},
		"job leaves the listing":           {statement: `UPDATE replication_jobs SET status = 'Stopped' WHERE job_id = $1 AND job_id <> $2`, filter: JobFilter{Status: smc.StatusRunning}},
		"job deleted":                      {statement: `DELETE FROM replication_jobs WHERE job_id = $1 AND job_id <> $2`},
		"job moved to another account":     {statement: `UPDATE replication_jobs SET account_id = '` + stranger + `' WHERE job_id = $1 AND job_id <> $2`},
		"job moved from another account":   {statement: `UPDATE replication_jobs SET account_id = '` + stranger + `' WHERE job_id = $1 AND job_id <> $2`, accountID: stranger},
		"run inserted":                     {statement: `INSERT INTO replication_runs (job_id, number, type, status, started_at) SELECT job_id, 2, 'Manual', 'Running', 1 FROM replication_jobs WHERE job_id = $1 AND job_id <> $2`},
		"run updated":                      {statement: `UPDATE replication_runs SET rate = 7 WHERE job_id = $1 AND job_id <> $2`},
		"run deleted":                      {statement: `DELETE FROM replication_runs WHERE job_id = $1 AND job_id <> $2`},
		"run moved from a job":             {statement: `UPDATE replication_runs SET job_id = 'j-none' WHERE job_id = $1 AND job_id <> $2`},
		"run moved to a job":               {statement: `UPDATE replication_runs SET job_id = $2, number = 2 WHERE job_id = $1`},
		"tag inserted":                     {statement: `INSERT INTO tags (account_id, resource_type, resource_id, tag_key, tag_value) SELECT account_id, 'replicationjob', job_id, 'more', '' FROM replication_jobs WHERE job_id = $1 AND job_id <> $2`},
		"tag inserted that a filter asks":  {statement: `INSERT INTO tags (account_id, resource_type, resource_id, tag_key, tag_value) SELECT account_id, 'replicationjob', job_id, 'wave', '' FROM replication_jobs WHERE job_id = $2 AND job_id <> $1`, filter: tagged},
		"tag updated":                      {statement: `UPDATE tags SET tag_value = 'other' WHERE resource_id = $1 AND resource_id <> $2`},
		"tag updated that a filter asks":   {statement: `UPDATE tags SET tag_key = 'other' WHERE resource_id = $1 AND resource_id <> $2`, filter: tagged},
		"tag moved":                        {statement: `UPDATE tags SET resource_id = $2 WHERE resource_id = $1`},
		"tag moved that a filter asks":     {statement: `UPDATE tags SET resource_id = $2 WHERE resource_id = $1`, filter: tagged},
		"tag deleted":                      {statement: `DELETE FROM tags WHERE resource_id = $1 AND resource_id <> $2`},
		"tag deleted that a filter asks":   {statement: `DELETE FROM tags WHERE resource_id = $1 AND resource_id <> $2`, filter: tagged},
		"trouble inserted":                 {statement: `INSERT INTO run_troubles (job_id, code, sequence, info, since, noted_at) SELECT job_id, 'New', sequence, 'why', 1, 9000000000000 FROM replication_jobs WHERE job_id = $1 AND job_id <> $2`},
		"trouble updated":                  {statement: `UPDATE run_troubles SET info = 'other' WHERE job_id = $1 AND job_id <> $2`},
		"trouble deleted":                  {statement: `DELETE FROM run_troubles WHERE job_id = $1 AND job_id <> $2`},
		"trouble moved from a job":         {statement: `UPDATE run_troubles SET job_id = 'j-none' WHERE job_id = $1 AND job_id <> $2`},
		"trouble moved to a job that runs": {statement: `UPDATE run_troubles SET job_id = $2 WHERE job_id = $1`},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			var ids []any
			for _, source := range []string{"one", "two"} {
				id := f.create(spec(f.source(source).SourceID))
				f.start(id, "start", smc.TriggerStart)
				ids = append(ids, id)
			}
			first := ids[0].(string)
			require.NoError(t, f.TagResources(f.ctx, account, smc.ResourceTypeReplicationJob, []string{first}, []smc.Tag{{Key: "wave", Value: "1"}}))
			_, err := f.NoteTrouble(f.ctx, first, 1, "Code", "info")
			require.NoError(t, err)

			k := &keeper{accountID: account, filter: write.filter, jobs: map[string]keptJob{}}
			if write.accountID != "" {
				k.accountID = write.accountID
			}
			before := k.show(f)
			require.Equal(t, before, k.show(f))
			_, err = storetest.DB(t, f.url).ExecContext(f.ctx, write.statement, ids...)
			require.NoError(t, err)
			now, _, err := f.Jobs(f.ctx, k.accountID, write.filter, Page{1, 10})
			require.NoError(t, err)
			require.NotEqual(t, before, now, "the statement changes what is shown")
			require.Equal(t, now, k.show(f))
		})
	}
}

// What changed since an earlier look is named, or too much did.
func TestChangedJobs(t *testing.T) {
	f := newFixture(t)
	one, two := f.create(spec(f.source("one").SourceID)), f.create(spec(f.source("two").SourceID))
	f.start(one, "start", smc.TriggerStart)
	var seen JobsSeen
	look := func() (changed []JobMark, all bool) {
		t.Helper()
		now, changed, all, err := f.ChangedJobs(f.ctx, account, seen)
		require.NoError(t, err)
		changes, err := f.JobChanges(f.ctx, account)
		require.NoError(t, err)
		require.Equal(t, changes, now.Changes)
		seen = now
		return changed, all
	}
	report := func() {
		t.Helper()
		require.NoError(t, f.UpdateProgress(f.ctx, one, 1, SyncProgress{BytesTotal: 1 << 30, BytesRead: 1}))
	}
	look()
	changed, all := look()
	require.False(t, all)
	require.NotContains(t, changed, MarkOf(one))
	report()
	changed, all = look()
	require.False(t, all)
	require.Contains(t, changed, MarkOf(one))
	require.NotContains(t, changed, MarkOf(two))
	for range 40 { // more than a row of job_changes names
		report()
	}
	changed, all = look()
	require.True(t, all || len(changed) > 0)
	require.NotContains(t, changed, MarkOf(two))
	require.Equal(t, JobMark("   j-1"), MarkOf("j-1"))
	_, err := storetest.DB(t, f.url).ExecContext(f.ctx, `UPDATE replication_jobs SET job_id = 'ü-1' WHERE job_id = $1`, two)
	require.NoError(t, err)
	changed, all = look()
	require.False(t, all)
	require.Contains(t, changed, MarkOf("ü-1"))
}
