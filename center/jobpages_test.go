package center

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/center/store/storetest"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/test/property"
)

// What is answered from kept jobs and pages is what somebody answers who keeps nothing, whoever changed what.
func TestJobPagesAreNeverStale(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	other, err := store.Open(ctx, f.database)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, other.Close()) })
	db := storetest.DB(t, f.database)
	var sources, jobs []string
	for i := range 6 {
		source, _ := f.agent(fmt.Sprint("server", i))
		sources = append(sources, source)
		jobs = append(jobs, f.create(source))
	}
	kept := newJobPages(f.store)
	// Statements of another process, on job $1 with something new in $2.
	statements := []string{
		`UPDATE replication_jobs SET status_info = $2 WHERE job_id = $1`,
		`UPDATE replication_jobs SET name = $2 WHERE job_id = $1`,
		`UPDATE replication_jobs SET status = CASE status WHEN 'Stopped' THEN 'Running' ELSE 'Stopped' END, error_code = $2 WHERE job_id = $1`,
		`UPDATE source_servers SET state = CASE state WHEN 'Available' THEN 'Unavailable' ELSE 'Available' END WHERE job_id = $1 AND name <> $2`,
		`UPDATE replication_jobs SET queue_number = CASE queue_number WHEN 0 THEN (SELECT MAX(queue_number) + 1 FROM replication_jobs) ELSE 0 END, error_code = $2
			WHERE job_id = $1`,
		`INSERT INTO replication_runs (job_id, number, type, status, started_at, image_id) SELECT $1, COALESCE(MAX(number), 0) + 1, 'Manual', 'Running', 1000, $2
			FROM replication_runs WHERE job_id = $1`,
		`UPDATE replication_runs SET image_id = $2 WHERE job_id = $1`,
		`DELETE FROM replication_runs WHERE job_id = $1 AND image_id <> $2`,
		`INSERT INTO tags (account_id, resource_type, resource_id, tag_key, tag_value) VALUES ('` + account + `', 'replicationjob', $1, 'wave', $2)
			ON CONFLICT (resource_id, tag_key) DO UPDATE SET tag_value = excluded.tag_value`,
		`UPDATE tags SET tag_value = $2 WHERE resource_id = $1`,
		`DELETE FROM tags WHERE resource_id = $1 AND tag_value <> $2`,
		`INSERT INTO run_troubles (job_id, code, sequence, info, since, noted_at) SELECT job_id, 'Trouble', sequence, $2, 1000, 1000 FROM replication_jobs WHERE job_id = $1
			ON CONFLICT (job_id, code) DO UPDATE SET info = excluded.info, sequence = excluded.sequence`,
		`DELETE FROM run_troubles WHERE job_id = $1 AND info <> $2`,
		`UPDATE run_troubles SET info = $2 WHERE job_id = $1`,
		`UPDATE replication_jobs SET instance_id = CASE instance_id WHEN '' THEN 'i-1' ELSE '' END, error_code = $2 WHERE job_id = $1`,
		`UPDATE replication_jobs SET resource_group_id = CASE resource_group_id WHEN '' THEN 'rg-1' ELSE '' END, error_code = $2 WHERE job_id = $1`,
		`UPDATE replication_jobs SET business_status = CASE business_status WHEN 'Preparing' THEN 'Syncing' ELSE 'Preparing' END, status = 'Running', error_code = $2
			WHERE job_id = $1`,
		`UPDATE replication_jobs SET created_at = created_at + 1, error_code = $2 WHERE job_id = $1`,
		`UPDATE replication_jobs SET account_id = CASE account_id WHEN '` + account + `' THEN '456' ELSE '` + account + `' END, queue_number = 0, error_code = $2
			WHERE job_id = $1`,
		`UPDATE replication_runs SET job_id = $1, image_id = $2 WHERE job_id <> $1 AND job_id = (SELECT MAX(job_id) FROM replication_runs)
			AND number > (SELECT COALESCE(MAX(number), 0) FROM replication_runs WHERE job_id = $1)`,
		`UPDATE tags SET resource_id = $1, tag_value = $2 WHERE resource_id <> $1 AND NOT EXISTS (SELECT 1 FROM tags WHERE resource_id = $1)
			AND resource_id = (SELECT MAX(resource_id) FROM tags)`,
		`UPDATE run_troubles SET job_id = $1, info = $2 WHERE job_id <> $1 AND NOT EXISTS (SELECT 1 FROM run_troubles WHERE job_id = $1)
			AND job_id = (SELECT MAX(job_id) FROM run_troubles)`,
		`INSERT INTO replication_jobs (job_id, account_id, region_id, source_id, name, image_name, spec, status, created_at)
			SELECT 'j-' || $2, account_id, region_id, source_id, '', '', '{}', 'Finished', created_at + 1 FROM replication_jobs WHERE job_id = $1`,
		`DELETE FROM replication_jobs WHERE job_id <> $1 AND name <> $2 AND spec = '{}'`,
	}
	changes := 0
	property.Check(t, func(t *rapid.T) {
		for range rapid.IntRange(1, 12).Draw(t, "changes") {
			changes++
			fresh := fmt.Sprint("new-", changes)
			i := rapid.IntRange(0, len(jobs)-1).Draw(t, "job")
			record := rapid.SampledFrom([]*store.Store{f.store, other}).Draw(t, "process")
			key := fmt.Sprint("key", changes)
			// What is refused, because the job is not in that state, changes nothing.
			switch change := rapid.IntRange(0, 20).Draw(t, "change"); change {
			case 0:
				_ = record.TagResources(ctx, account, smc.ResourceTypeReplicationJob, []string{jobs[i]}, []smc.Tag{{Key: "wave", Value: fresh}})
			case 1:
				_ = record.UntagResources(ctx, account, smc.ResourceTypeReplicationJob, []string{jobs[i]}, nil)
			case 2:
				_, _ = record.StartRun(ctx, jobs[i], key, smc.TriggerStart, smc.RunManual, store.CutOverNone)
			case 3:
				_ = record.Fail(ctx, jobs[i], key, 1, "Failure", fresh)
			case 4:
				_ = record.UpdateProgress(ctx, jobs[i], 1, store.SyncProgress{BytesTotal: 1 << 20, BytesRead: int64(changes)})
			case 5:
				_, _ = record.ModifyJob(ctx, smc.ModifyReplicationJobAttributeRequest{JobID: jobs[i], Description: &fresh})
			case 6: // deleted, and another job of the source made
				if record.BeginDelete(ctx, jobs[i], key) == nil && record.EndDelete(ctx, jobs[i], key+"/end") == nil {
					if id, err := record.CreateJob(ctx, account, smc.CreateReplicationJobRequest{RegionID: region, SourceID: sources[i]}, 1000); err == nil {
						jobs[i] = id
					}
				}
			default:
				n := rapid.IntRange(0, len(statements)-1).Draw(t, "statement")
				tx, err := db.BeginTx(ctx, nil)
				require.NoError(t, err)
				if _, err = tx.ExecContext(ctx, statements[n], jobs[i], fresh); err != nil {
					_ = tx.Rollback()
					require.NoError(t, err, statements[n])
				}
				if rapid.Bool().Draw(t, "committed") {
					require.NoError(t, tx.Commit())
				} else {
					require.NoError(t, tx.Rollback())
				}
			}
			one := rapid.SampledFrom([]smc.DescribeReplicationJobsRequest{
				{Status: pointer("Stopped")},
				{JobID: []string{jobs[i]}},
				{Tag: []smc.TagFilter{{Key: pointer("wave")}}},
				{BusinessStatus: pointer("Preparing")},
				{InstanceID: []string{"i-1"}},
				{ResourceGroupID: pointer("rg-1")},
			}).Draw(t, "request")
			for _, r := range []smc.DescribeReplicationJobsRequest{{}, one} {
				for page := range 3 {
					page := store.Page{Number: page + 1, Size: 3}
					r.PageNumber, r.PageSize = &page.Number, &page.Size
					require.Equal(t, shownBy(t, newJobPages(other), account, &r, page), shownBy(t, kept, account, &r, page))
				}
			}
		}
	})
}

// shownBy is what jobPages answers.
func shownBy(t require.TestingT, pages *jobPages, accountID string, r *smc.DescribeReplicationJobsRequest, page store.Page) string {
	changes, err := pages.store.JobChanges(context.Background(), accountID)
	require.NoError(t, err)
	jobs, total, err := pages.page(context.Background(), accountID, changes, r, page)
	require.NoError(t, err)
	shown, err := json.Marshal(jobs)
	require.NoError(t, err)
	return strconv.Itoa(total) + string(shown)
}

// An answer is not older than its call, while others write: each job shows the number it had when the call began, or a later one.
func TestJobPagesWhileJobsChange(t *testing.T) {
	f := newFixture(t)
	other, err := store.Open(t.Context(), f.database)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, other.Close()) })
	const jobs, changes = 4, 40
	ids, index := make([]string, jobs), map[string]int{}
	for i := range ids {
		source, _ := f.agent(fmt.Sprint("server", i))
		ids[i] = f.create(source)
		index[ids[i]] = i
	}
	var committed [jobs]atomic.Int64
	pages := newJobPages(f.store)
	var writers, readers errgroup.Group
	var over atomic.Bool
	for i, id := range ids {
		writers.Go(func() error {
			for n := range changes {
				record := []*store.Store{f.store, other}[n%2]
				value := strconv.Itoa(n + 1)
				if err := record.TagResources(t.Context(), account, smc.ResourceTypeReplicationJob, []string{id}, []smc.Tag{{Key: "n", Value: value}}); err != nil {
					return err
				}
				committed[i].Store(int64(n + 1))
			}
			return nil
		})
	}
	for range 4 {
		readers.Go(func() error {
			for !over.Load() {
				var before [jobs]int64
				for i := range before {
					before[i] = committed[i].Load()
				}
				changes, err := f.store.JobChanges(t.Context(), account)
				if err != nil {
					return err
				}
				shown, total, err := pages.page(t.Context(), account, changes, &smc.DescribeReplicationJobsRequest{}, store.Page{Number: 1, Size: 10})
				if err != nil {
					return err
				}
				if total != jobs || len(shown) != jobs {
					return fmt.Errorf("%d of %d jobs", len(shown), total)
				}
				for _, one := range shown {
					var job smc.ReplicationJob
					data, err := one.MarshalJSON()
					if err != nil {
						return err
					}
					if err := json.Unmarshal(data, &job); err != nil {
						return err
					}
					n := 0
					for _, tag := range job.Tags {
						if n, err = strconv.Atoi(tag.Value); err != nil {
							return err
						}
					}
					if want := before[index[job.JobID]]; int64(n) < want {
						return fmt.Errorf("job %s shows %d, it had %d", job.JobID, n, want)
					}
				}
			}
			return nil
		})
	}
	require.NoError(t, writers.Wait())
	over.Store(true)
	require.NoError(t, readers.Wait())
}

// What is kept is bounded by its bytes, and what was kept longest without use goes first.
func TestJobPagesAreBounded(t *testing.T) {
	pages := newJobPages(nil)
	keep := func(id string, revision int64, size int) {
		t.Helper()
		encoded, err := smc.Encode(&smc.ReplicationJob{Description: strings.Repeat("x", size)})
		require.NoError(t, err)
		job := store.JobRevision{JobID: id, Revision: revision}
		pages.keep(pageKey{parameters: id}, store.JobPage{Jobs: []store.JobRevision{job}, Unknown: map[string]*store.Job{id: {}}}, encodedJobs{encoded})
	}
	const size = maxJobBytes / 4
	for i := range 10 {
		keep(fmt.Sprint(i), 1, size)
		require.LessOrEqual(t, pages.bytes, maxJobBytes)
	}
	require.Equal(t, 3, pages.jobs.Len())
	for revision := range int64(10) { // one that changes takes the place of what it was
		keep("9", revision, size)
	}
	require.Equal(t, 3, pages.jobs.Len())
	kept, _ := pages.jobs.Get("9")
	require.Equal(t, int64(9), kept.revision)
	for i := range maxPages + 10 {
		keep("page"+strconv.Itoa(i), 1, 1)
	}
	require.Equal(t, maxPages, pages.pages.Len())
}

// An answer with kept jobs is on the wire the declared result.
func TestJobsAnswer(t *testing.T) {
	declared := smc.DescribeReplicationJobsResult{Page: smc.Page{TotalCount: 3, PageNumber: 2, PageSize: 1}, ReplicationJobs: smc.List[smc.ReplicationJob]{{
		JobID: "j-1", Description: `"<ü`, Tags: smc.List[smc.Tag]{{Key: "a", Value: "b"}}, DataDisks: smc.List[smc.DataDisk]{{Index: 1}},
	}}}
	encoded, err := smc.Encode(&declared.ReplicationJobs[0])
	require.NoError(t, err)
	for _, format := range []smc.Format{smc.FormatJSON, smc.FormatXML} {
		for _, pair := range [][2]smc.Result{
			{&declared, &jobsAnswer{Page: declared.Page, ReplicationJobs: encodedJobs{encoded}}}, {&smc.DescribeReplicationJobsResult{}, &jobsAnswer{}},
		} {
			want, got := httptest.NewRecorder(), httptest.NewRecorder()
			require.NoError(t, smc.WriteResult(want, format, "DescribeReplicationJobs", "id", pair[0]))
			require.NoError(t, smc.WriteResult(got, format, "DescribeReplicationJobs", "id", pair[1]))
			require.Equal(t, want.Body.String(), got.Body.String())
		}
	}
}
