package app

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/drover/drover/center"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/events"
	"github.com/drover/drover/monitor"
	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
)

var update = flag.Bool("update", false, "write the table of metrics in docs/operations.md anew")

// ofProcess are the metrics of each process, by the name that the documentation has for it.
var ofProcess = map[string]func(*monitor.Process){
	"server": func(p *monitor.Process) {
		newTransitionMetrics(p)
		newCallMetrics(p)
		registerFigures(p, nil, zap.NewNop())
		registerRelay(p, nil)
	},
	"center":     func(p *monitor.Process) { newTransitionMetrics(p) },
	"transition": func(p *monitor.Process) { newTransitionMetrics(p); registerHost(p, nil, zap.NewNop()) },
	"orchestrator": func(p *monitor.Process) {
		registerFleets(p, nil, "", zap.NewNop())
		registerBridge(p, nil)
	},
	"agent":  func(p *monitor.Process) { newAgentMetrics(p) },
	"target": func(p *monitor.Process) { newTargetMetrics(p) },
}

var description = regexp.MustCompile(`^Desc{fqName: "(drover_\w+)", help: "(.*)", constLabels: {(.*)}, variableLabels: {(.*)}}$`)

// describedMetric is a metric as it describes itself.
type describedMetric struct {
	help, labels string
	processes    []string
}

func describe(t *testing.T) map[string]*describedMetric {
	t.Helper()
	found := map[string]*describedMetric{}
	for process, register := range ofProcess {
		p := monitor.New("v1")
		register(p)
		descs := make(chan *prometheus.Desc)
		go func() {
			defer close(descs)
			p.Gatherer().(prometheus.Collector).Describe(descs)
		}()
		for desc := range descs {
			match := description.FindStringSubmatch(desc.String())
			if match == nil {
				require.NotContains(t, desc.String(), `"drover_`)
				continue
			}
			var labels []string
			for _, label := range strings.Split(match[3]+","+match[4], ",") {
				if name, _, _ := strings.Cut(label, "="); name != "" {
					labels = append(labels, "`"+name+"`")
				}
			}
			m := found[match[1]]
			if m == nil {
				m = &describedMetric{help: match[2], labels: strings.Join(labels, ", ")}
				found[match[1]] = m
			}
			require.Equal(t, m.help, match[2], match[1])
			m.processes = append(m.processes, process)
		}
	}
	return found
}

// kind is the type of a metric, which its name tells.
func kind(name string) string {
	switch {
	case strings.HasSuffix(name, "_total"):
		return "counter"
	case strings.HasSuffix(name, "_duration_seconds"):
		return "histogram"
	}
	return "gauge"
}

const (
	tableBegins = "<!-- Metrics: made by go test ./app -run TestDocumentedMetrics -update -->\n"
	tableEnds   = "<!-- End of the metrics. -->\n"
)

// The documented metrics are those there are, with the labels and the words they describe themselves with.
func TestDocumentedMetrics(t *testing.T) {
	var table strings.Builder
	table.WriteString("| metric | type | labels | process | what |\n| --- | --- | --- | --- | --- |\n")
	found := describe(t)
	for _, name := range slices.Sorted(maps.Keys(found)) {
		m := found[name]
		slices.Sort(m.processes)
		processes := strings.Join(m.processes, ", ")
		if len(m.processes) == len(ofProcess) {
			processes = "every"
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s | %s |\n", name, kind(name), m.labels, processes, strings.TrimSuffix(m.help, "."))
	}
	const file = "../docs/operations.md"
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	before, rest, ok := strings.Cut(string(text), tableBegins)
	require.True(t, ok, "%s has no place for the metrics", file)
	documented, after, ok := strings.Cut(rest, tableEnds)
	require.True(t, ok, "%s has no end of the metrics", file)
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(before+tableBegins+table.String()+tableEnds+after), 0o600)) //nolint:gosec // its mode stays
		return
	}
	require.Equal(t, table.String(), documented, "%s is not current: go test ./app -run TestDocumentedMetrics -update", file)
}

// What names a metric the linter of Prometheus accepts.
func TestMetricsAreLinted(t *testing.T) {
	p := monitor.New("v1")
	m := newTransitionMetrics(p)
	m.JobMoved(store.JobMove{
		Status: smc.StatusInError, ErrorCode: "Disk.ReadError", Phase: smc.BusinessSyncing, PhaseTook: time.Minute, RunEnd: smc.RunFailed, RunType: smc.RunManual, RunTook: time.Hour,
	})
	m.JobMoved(store.JobMove{
		Status: smc.StatusFinished, Phase: smc.BusinessCleaning, PhaseTook: time.Second, RunEnd: smc.RunSucceeded, RunType: smc.RunManual, RunTook: time.Hour,
	})
	m.RunTroubled("Disk.ReadError")
	calls := newCallMetrics(p)
	calls.observe(center.Call{API: center.APISMC, Operation: "DescribeReplicationJobs", Code: smc.OutcomeOK, Took: time.Millisecond})
	calls.observe(center.Call{API: center.APISMC, Code: smc.CodeThrottlingUser})
	calls.observe(center.Call{API: center.APIAgent, Operation: "heartbeat", Code: smc.OutcomeOK})
	registerRelay(p, events.NewRelay(nil, nil, events.RelayConfig{}, zap.NewNop()))
	agent := newAgentMetrics(p)
	count := agent.progress()
	count(replica.Progress{BytesRead: 10, BytesSent: 5})
	count(replica.Progress{BytesRead: 30, BytesSent: 5})
	agent.progress()(replica.Progress{BytesRead: 1, BytesSent: 1})

	problems, err := testutil.GatherAndLint(p.Gatherer())
	require.NoError(t, err)
	for _, problem := range problems {
		require.True(t, strings.HasPrefix(problem.Metric, "go_"), "%s: %s", problem.Metric, problem.Text)
	}
	require.NoError(t, testutil.GatherAndCompare(p.Gatherer(), strings.NewReader(`
# HELP drover_agent_read_bytes_total Bytes of its disks that the agent has covered, holes included.
# TYPE drover_agent_read_bytes_total counter
drover_agent_read_bytes_total 31
# HELP drover_agent_sent_bytes_total Bytes that the agent has sent to transition hosts, as they were coded, with what was sent again.
# TYPE drover_agent_sent_bytes_total counter
drover_agent_sent_bytes_total 6
# HELP drover_api_requests_total Calls of the SMC API, by operation and outcome: OK, an error code, or Abandoned by the caller.
# TYPE drover_api_requests_total counter
drover_api_requests_total{code="OK",operation="DescribeReplicationJobs"} 1
drover_api_requests_total{code="Throttling.User",operation="unknown"} 1
# HELP drover_job_errors_total Jobs that became InError, by error code.
# TYPE drover_job_errors_total counter
drover_job_errors_total{code="Disk.ReadError"} 1
# HELP drover_run_retries_total Attempts of phases of runs that failed and are made again, by error code.
# TYPE drover_run_retries_total counter
drover_run_retries_total{code="Disk.ReadError"} 1
# HELP drover_runs_ended_total Runs whose end this process wrote, by the run's type and outcome. A run that is resumed ends once more.
# TYPE drover_runs_ended_total counter
drover_runs_ended_total{outcome="Failed",type="Manual"} 1
drover_runs_ended_total{outcome="Failed",type="Schedule"} 0
drover_runs_ended_total{outcome="Stopped",type="Manual"} 0
drover_runs_ended_total{outcome="Stopped",type="Schedule"} 0
drover_runs_ended_total{outcome="Succeeded",type="Manual"} 1
drover_runs_ended_total{outcome="Succeeded",type="Schedule"} 0
`), "drover_agent_read_bytes_total", "drover_agent_sent_bytes_total", "drover_api_requests_total", "drover_job_errors_total", "drover_run_retries_total", "drover_runs_ended_total"))
}

// What cannot be read is asked for again after its time, and not at every scrape.
func TestSnapshot(t *testing.T) {
	reads, fail := 0, errors.New("the database does not answer")
	s := &snapshot[int]{what: "test", fresh: time.Hour, log: zap.NewNop(), read: func(ctx context.Context) (int, error) {
		_, limited := ctx.Deadline()
		require.True(t, limited)
		reads++
		return reads, fail
	}}
	for range 3 {
		_, ok := s.get()
		require.False(t, ok)
	}
	require.Equal(t, 1, reads)
	s.at, fail = time.Now().Add(-2*time.Hour), nil
	for range 3 {
		value, ok := s.get()
		require.True(t, ok)
		require.Equal(t, 2, value)
	}
}
