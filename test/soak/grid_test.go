package soak

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/test/stack"
)

// BenchmarkGridPoint has jobs due all at once, 10 and 40 times the running quota of 50: a center sees that when it comes back after it was away
// for a while. It reports how long it takes until each of them is Running or queued, and until each has made its run (of a disk of 1 MiB: what is
// measured is the center, not the copying), the processor time and the memory meanwhile, how fast the endpoint answers DescribeReplicationJobs of
// 50 jobs, and by how much Temporal's data grows with each run.
func BenchmarkGridPoint(b *testing.B) {
	for _, jobs := range []int{500, 2000} {
		b.Run(fmt.Sprintf("jobs=%d", jobs), func(b *testing.B) { gridPoint(b, jobs) })
	}
}

func gridPoint(b *testing.B, jobs int) {
	b.Helper()
	c, due := newDueCenter(b, jobs)
	stop := c.startAgents(5 * time.Second)
	defer stop()
	db, err := c.Database.Open()
	require.NoError(b, err)
	defer db.Close()
	temporalBefore := c.temporalSize()

	c.wait(time.Until(due))
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	describes := c.describe(ctx)
	from, peak := c.usage(), 0.0
	await := func(what, condition string) (took time.Duration) {
		stack.Eventually(b, 2*slow, what, func() (bool, any) {
			var left int
			err := db.QueryRowContext(ctx, `SELECT COUNT(*) FROM replication_jobs WHERE NOT (`+condition+`)`).Scan(&left)
			peak = max(peak, c.usage().rss)
			return left == 0 && err == nil, fmt.Sprint(left, " are not, ", err)
		})
		return time.Since(due)
	}
	decided := await("every job is Running, queued or through", `run = 2 OR queue_number > 0`)
	done := await("every job has made its run", `run = 2 AND status = 'Waiting'`)
	to := c.usage()
	cancel()
	took := <-describes

	b.ReportMetric(0, "ns/op")
	b.ReportMetric(decided.Seconds(), "decided-s")
	b.ReportMetric(done.Seconds(), "done-s")
	b.ReportMetric(float64(jobs)/done.Seconds(), "runs/s")
	b.ReportMetric(from.percent(to), "cpu-%")
	b.ReportMetric(peak, "rss-peak-MiB")
	b.ReportMetric(milliseconds(took, 50), "describe-p50-ms")
	b.ReportMetric(milliseconds(took, 99), "describe-p99-ms")
	b.ReportMetric((c.temporalSize()-temporalBefore)/float64(jobs), "temporal-KiB/run")
}

// BenchmarkGridPointMissed has jobs due all at once whose sources are silent, and reports what it costs to wait for them.
func BenchmarkGridPointMissed(b *testing.B) {
	c, due := newDueCenter(b, 500)
	c.wait(time.Until(due))
	percent, rss := c.idle(window)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(percent, "cpu-%")
	b.ReportMetric(rss, "rss-MiB")
}

// newDueCenter starts a stack with jobs that are all due at the time it returns.
func newDueCenter(b *testing.B, jobs int) (*center, time.Time) {
	b.Helper()
	began := time.Now()
	c := newCenter(b)
	// To start the entities and the agents: the machine has shown how fast it is.
	lead := 30*time.Second + time.Since(began)*time.Duration(jobs)/40
	var due time.Time
	c.restart(func(record *store.Store, db *sql.DB) {
		c.fill(record, jobs)
		due = time.Now().Add(lead).Truncate(time.Second)
		last := due.Add(-168 * time.Hour) // the point of the grid before
		_, err := db.ExecContext(b.Context(), `UPDATE replication_jobs SET started_at = $1, grid_phase = 0, grid_through = $1`, last.UnixMilli())
		require.NoError(b, err)
	})
	require.Greater(b, time.Until(due), time.Duration(0), "the entities were started before their time")
	return c, due
}

// describe asks for a page of jobs again and again, until ctx is done, and then sends how long each answer took.
func (c *center) describe(ctx context.Context) <-chan []time.Duration {
	result := make(chan []time.Duration, 1)
	size := smc.MaxPageSize
	go func() {
		var took []time.Duration
		defer func() { result <- took }()
		for page := 1; ctx.Err() == nil; page = 1 + page%(len(c.sources)/size) {
			start := time.Now()
			_, err := c.Client.DescribeReplicationJobs(ctx, &smc.DescribeReplicationJobsRequest{PageNumber: &page, PageSize: &size})
			if err == nil {
				took = append(took, time.Since(start))
			} else if ctx.Err() == nil {
				c.b.Error(err)
			}
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}()
	return result
}

func milliseconds(took []time.Duration, percent int) float64 {
	slices.Sort(took)
	return float64(took[(len(took)-1)*percent/100]) / float64(time.Millisecond)
}

// temporalSize is what Temporal keeps on disk, in KiB.
func (c *center) temporalSize() (kib float64) {
	c.b.Helper()
	err := filepath.WalkDir(filepath.Join(c.Data, "temporal"), func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			kib += float64(info.Size()) / 1024
		}
		return err
	})
	require.NoError(c.b, err)
	return kib
}
