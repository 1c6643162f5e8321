package acceptance

import (
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/smc"
	"github.com/drover/drover/test/disks"
	"github.com/drover/drover/test/process"
	"github.com/drover/drover/test/stack"
)

// metricsOf is what a process exposes.
type metricsOf map[string]*dto.MetricFamily

// ask gets a path of the address with a process's metrics.
func ask(ctx context.Context, p *process.Process, path string) (status int, body string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, stack.MetricsURL(p)+path, http.NoBody)
	if err != nil {
		return 0, "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}

func scrape(t *testing.T, p *process.Process) metricsOf {
	t.Helper()
	status, body, err := ask(t.Context(), p, "/metrics")
	require.NoError(t, err, p.Name)
	require.Equal(t, http.StatusOK, status, "%s: %s", p.Name, body)
	var parser expfmt.TextParser
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	require.NoError(t, err, p.Name)
	problems, err := promlint.New(strings.NewReader(body)).Lint()
	require.NoError(t, err)
	for _, problem := range problems {
		require.True(t, strings.HasPrefix(problem.Metric, "go_"), "%s: %s: %s", p.Name, problem.Metric, problem.Text)
	}
	return families
}

// sum adds up a metric over the labels that are not given, NAME, VALUE, …
func (m metricsOf) sum(name string, labels ...string) (sum float64) {
	for _, metric := range m[name].GetMetric() {
		has := map[string]string{}
		for _, label := range metric.GetLabel() {
			has[label.GetName()] = label.GetValue()
		}
		wanted := true
		for i := 0; i < len(labels); i += 2 {
			wanted = wanted && has[labels[i]] == labels[i+1]
		}
		if wanted {
			sum += metric.GetCounter().GetValue() + metric.GetGauge().GetValue() + float64(metric.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

// Every process says what it does and whether it is ready, in words and types that are documented; what a job does shows; and all of them
// stop when they are told to.
func TestMetricsOfEveryProcess(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := stack.ForTest(t, stack.Options{Metrics: true, Orchestrators: 1})
	disk := filepath.Join(s.Dir, "disk.raw")
	require.NoError(t, disks.Make(disk, disks.Spec{SizeBytes: 32 << 20, Seed: 1}))
	agent, err := s.StartAgent(ctx, "web-1", disk)
	require.NoError(t, err)

	documented := map[string]string{}
	text, err := os.ReadFile("../../docs/operations.md")
	require.NoError(t, err)
	for _, match := range regexp.MustCompile("(?m)^\\| `(drover_\\w+)` \\| (\\w+) \\|").FindAllStringSubmatch(string(text), -1) {
		documented[match[1]] = match[2]
	}
	expects := map[string][]string{ // one of what only this process knows
		"temporal": {"go_goroutines"}, "nats": {"go_goroutines"}, "agent-web-1": {"drover_agent_heartbeats_total"},
		"server-1":       {"drover_jobs", "drover_agent_api_requests_total", "drover_relay_up", "go_sql_open_connections", "temporal_request_total"},
		"center-1":       {"drover_runs_ended_total", "temporal_num_pollers", "go_sql_open_connections"},
		"transition-1":   {"drover_transition_filesystem_free_bytes", "temporal_num_pollers"},
		"orchestrator-1": {"drover_migrations", "drover_fleets", "drover_bridge_up", "temporal_num_pollers"},
	}
	seen := 0
	for _, p := range s.Processes() {
		stack.Eventually(t, slow, p.Name+" is ready", func() (bool, any) {
			status, body, err := ask(ctx, p, "/readyz")
			return err == nil && status == http.StatusOK, body
		})
		status, _, err := ask(ctx, p, "/healthz")
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, status, p.Name)
		metrics := scrape(t, p)
		for _, name := range append(expects[p.Name], "drover_build_info", "process_resident_memory_bytes") {
			require.Contains(t, metrics, name, p.Name)
		}
		for name, family := range metrics {
			if strings.HasPrefix(name, "drover_") {
				require.Equal(t, documented[name], strings.ToLower(family.GetType().String()), "%s of %s", name, p.Name)
			}
		}
		seen++
	}
	require.Len(t, expects, seen, "every process was asked")

	job, err := s.Client.CreateReplicationJob(ctx, &smc.CreateReplicationJobRequest{RegionID: s.Env()[smc.EnvRegion], SourceID: agent.SourceID})
	require.NoError(t, err)
	_, err = s.Client.StartReplicationJob(ctx, &smc.StartReplicationJobRequest{JobID: job.JobID})
	require.NoError(t, err)
	server, host := s.Servers[0].Process, s.TransitionHosts[0].Process
	stack.Eventually(t, slow, "the job is Finished and its events are in the stream", func() (bool, any) {
		m := scrape(t, server)
		return m.sum("drover_jobs", "status", "Finished") == 1 && m.sum("drover_outbox_pending_events") == 0, m["drover_jobs"].String()
	})
	m := scrape(t, server)
	require.InDelta(t, 1, m.sum("drover_api_requests_total", "operation", "CreateReplicationJob", "code", "OK"), 0)
	require.InDelta(t, 1, m.sum("drover_api_request_duration_seconds", "operation", "CreateReplicationJob"), 0)
	require.Positive(t, m.sum("drover_agent_api_requests_total", "operation", "heartbeat", "code", "OK"))
	require.GreaterOrEqual(t, m.sum("drover_relay_events_total", "outcome", "published"), 7.0, "the job was seven things")
	require.InDelta(t, 1, m.sum("drover_source_servers"), 0)
	require.InDelta(t, 1, m.sum("drover_images"), 0)
	require.Zero(t, m.sum("drover_sync_sessions_open"))
	stack.Eventually(t, slow, "one process tells of the end, once, and the agent of its own", func() (bool, any) { // each a moment after it did it
		var ended, finished float64
		for _, p := range s.Processes() {
			m := scrape(t, p)
			ended += m.sum("drover_runs_ended_total", "type", "Manual", "outcome", "Succeeded")
			finished += m.sum("drover_job_transitions_total", "status", "Finished")
		}
		complete := scrape(t, agent.Process).sum("drover_agent_syncs_total", "outcome", "complete")
		return ended == 1 && finished == 1 && complete == 1, []float64{ended, finished, complete}
	})
	m = scrape(t, host)
	require.Positive(t, m.sum("drover_transition_written_bytes_total"))
	require.InDelta(t, 4, m.sum("drover_run_phase_duration_seconds"), 1, "the phases that it ended")
	received := m.sum("drover_transition_received_bytes_total")
	m = scrape(t, agent.Process)
	require.GreaterOrEqual(t, m.sum("drover_agent_sent_bytes_total"), received)
	require.InDelta(t, 32<<20, m.sum("drover_agent_read_bytes_total"), 0)

	// What is away is named; an endpoint that does without is ready without.
	s.NATS.Kill()
	stack.Eventually(t, slow, "the server misses NATS", func() (bool, any) {
		status, body, err := ask(ctx, server, "/readyz")
		return err == nil && status == http.StatusServiceUnavailable && strings.Contains(body, "\nnats: "), body
	})
	status, body, err := ask(ctx, server, "/readyz?exclude=nats")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status, body)
	require.Zero(t, scrape(t, server).sum("drover_dependency_up", "dependency", "nats"))
	require.NoError(t, s.NATS.Restart(ctx))
	stack.Eventually(t, slow, "NATS is back", func() (bool, any) {
		status, body, err := ask(ctx, server, "/readyz")
		return err == nil && status == http.StatusOK, body
	})
	require.NoError(t, s.Stop(slow))
}
