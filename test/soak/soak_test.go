package soak

import (
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
)

// window is how long a stack at rest is measured: long enough for every sweep and, with agents, for one heartbeat of each.
const window = 30 * time.Second

// BenchmarkJobsAtRest measures, with 0, 500 and 2,000 jobs Waiting, the processor time of the stack in percent of a core and its memory:
// without agents, whose sources are then Unavailable, and with an agent of every source that reports every 30 seconds and waits for work.
// The slopes are against the stack without jobs.
func BenchmarkJobsAtRest(b *testing.B) {
	type figures struct{ percent, rss, agentsPercent, agentsRSS float64 }
	var empty *figures
	for _, jobs := range []int{0, 500, 2000} {
		b.Run(fmt.Sprintf("jobs=%d", jobs), func(b *testing.B) {
			c := newCenter(b)
			c.restart(func(record *store.Store, _ *sql.DB) { c.fill(record, jobs) })
			var f figures
			f.percent, f.rss = c.idle(window)
			stop := c.startAgents(smc.HeartbeatRate) // evenly, as those of many servers do
			f.agentsPercent, f.agentsRSS = c.idle(window)
			stop()
			b.ReportMetric(0, "ns/op") // says nothing here
			b.ReportMetric(f.percent, "cpu-%")
			b.ReportMetric(f.rss, "rss-MiB")
			b.ReportMetric(f.agentsPercent, "agents-cpu-%")
			b.ReportMetric(f.agentsRSS, "agents-rss-MiB")
			if jobs == 0 {
				empty = &f
				return
			}
			if empty == nil {
				return // -bench has left it out
			}
			slope := func(with, without float64) float64 { return (with - without) * 1000 / float64(jobs) }
			b.ReportMetric(slope(f.percent, empty.percent), "cpu-%/1000jobs")
			b.ReportMetric(slope(f.rss, empty.rss), "rss-MiB/1000jobs")
			b.ReportMetric(slope(f.agentsPercent, empty.agentsPercent), "agents-cpu-%/1000jobs")
			b.ReportMetric(slope(f.agentsRSS, empty.agentsRSS), "agents-rss-MiB/1000jobs")
		})
	}
}
