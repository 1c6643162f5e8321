package monitor

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

func get(t *testing.T, p *Process, path string) (status int, body string) {
	t.Helper()
	answer := httptest.NewRecorder()
	p.Handler(zap.NewNop()).ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, http.NoBody))
	return answer.Code, answer.Body.String()
}

func TestReadiness(t *testing.T) {
	p := New("v1")
	status, body := get(t, p, "/readyz")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "ready\n", body)

	p.Require("database", func(context.Context) error { return nil })
	remove := p.Require("nats", func(context.Context) error { return errors.New("not connected") })
	status, body = get(t, p, "/readyz")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Equal(t, "not ready\ndatabase: ok\nnats: not connected\n", body)
	status, body = get(t, p, "/readyz?exclude=nats")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "ready\ndatabase: ok\n", body)
	require.NoError(t, testutil.GatherAndCompare(p.Gatherer(), strings.NewReader(`
# HELP drover_dependency_up Whether something that the process needs is there: 1, or 0.
# TYPE drover_dependency_up gauge
drover_dependency_up{dependency="database"} 1
drover_dependency_up{dependency="nats"} 0
`), "drover_dependency_up"))
	remove()
	status, _ = get(t, p, "/readyz")
	require.Equal(t, http.StatusOK, status)

	p.Stopping()
	status, body = get(t, p, "/readyz")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Equal(t, "not ready\nprocess: the process is stopping\ndatabase: ok\n", body)
	status, body = get(t, p, "/healthz")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "ok\n", body)
}

// A dependency that does not answer, nor listens to its context, holds neither the probe nor the others.
func TestReadinessOfWhatHangs(t *testing.T) {
	p := New("v1")
	free := make(chan struct{})
	defer close(free)
	p.Require("database", func(context.Context) error { <-free; return nil })
	p.Require("temporal", func(context.Context) error { return nil })
	ctx, cancel := context.WithTimeout(t.Context(), time.Second) // the other one answers within it on a busy machine too
	defer cancel()
	states, ready := p.Ready(ctx)
	require.False(t, ready)
	require.Len(t, states, 2)
	require.ErrorIs(t, states[0].Err, context.DeadlineExceeded)
	require.NoError(t, states[1].Err)
}

// A look that hangs is the only one, and one that a prober did not wait for is told to the next.
func TestReadinessLooksOnceAtWhatHangs(t *testing.T) {
	p := New("v1")
	var looks atomic.Int64
	free := make(chan struct{})
	p.Require("database", func(ctx context.Context) error {
		looks.Add(1)
		select {
		case <-free:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for range 3 {
		_, ready := p.Ready(gone)
		require.False(t, ready)
	}
	require.LessOrEqual(t, looks.Load(), int64(1))
	close(free)
	_, ready := p.Ready(t.Context())
	require.True(t, ready)
}

// However many ask at once, a dependency is looked at once.
func TestReadinessIsLookedAtOnce(t *testing.T) {
	p := New("v1")
	looks, began := 0, time.Now()
	p.Require("database", func(context.Context) error { looks++; return nil })
	for range 5 {
		_, ready := p.Ready(t.Context())
		require.True(t, ready)
	}
	require.LessOrEqual(t, looks, 1+int(time.Since(began)/checkFresh))
}

func TestParts(t *testing.T) {
	p := New("v1")
	relay, first := p.Part("relay"), p.Part("queue center")
	second := p.Part("queue center")
	require.Equal(t, []string{"queue center", "relay"}, p.Parts())
	first()
	first()
	require.Equal(t, []string{"queue center", "relay"}, p.Parts())
	second()
	relay()
	require.Empty(t, p.Parts())
}

func TestRegisterTwice(t *testing.T) {
	p := New("v1")
	counter := func(help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "drover_tests_total", Help: help}, []string{"code"})
	}
	Register(p, counter("Tests.")).WithLabelValues("a").Inc()
	Register(p, counter("Tests.")).WithLabelValues("a").Inc()
	require.NoError(t, testutil.GatherAndCompare(p.Gatherer(), strings.NewReader(
		"# HELP drover_tests_total Tests.\n# TYPE drover_tests_total counter\ndrover_tests_total{code=\"a\"} 2\n"), "drover_tests_total"))
	require.Panics(t, func() { Register(p, counter("Other tests.")) })
}

// What Temporal's SDK tells is exposed under Prometheus' names, also when it tells one name with different tags.
func TestTemporal(t *testing.T) {
	p := New("v1")
	handler := p.Temporal().WithTags(map[string]string{"client_name": "temporal_go", "namespace": "default"})
	handler.Counter("temporal_worker_start").Inc(2)
	polls := handler.WithTags(map[string]string{"operation": "PollWorkflowTaskQueue"})
	polls.Counter("temporal_request").Inc(1)
	polls.Counter("temporal_request").Inc(1)
	polls.WithTags(map[string]string{"status_code": "UNAVAILABLE"}).Counter("temporal_request").Inc(1)
	polls.Timer("temporal_request_latency").Record(20 * time.Millisecond)
	handler.Gauge("temporal_num_pollers").Update(5)
	handler.Gauge("temporal_num_pollers").Update(3)

	status, body := get(t, p, "/metrics")
	require.Equal(t, http.StatusOK, status)
	var parser expfmt.TextParser
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	require.NoError(t, err)
	require.InDelta(t, 2, families["temporal_worker_start_total"].GetMetric()[0].GetCounter().GetValue(), 0)
	require.Len(t, families["temporal_request_total"].GetMetric(), 2)
	require.InDelta(t, 3, families["temporal_num_pollers"].GetMetric()[0].GetGauge().GetValue(), 0)
	require.EqualValues(t, 1, families["temporal_request_latency_seconds"].GetMetric()[0].GetHistogram().GetSampleCount())
	require.Contains(t, body, fmt.Sprintf("temporal_request_total{operation=%q} 2", "PollWorkflowTaskQueue"))
	require.Contains(t, body, `drover_build_info{goversion="go`)
	require.Contains(t, body, "process_resident_memory_bytes")

	problems, err := promlint.New(strings.NewReader(body)).Lint()
	require.NoError(t, err)
	for _, problem := range problems {
		require.True(t, strings.HasPrefix(problem.Metric, "go_"), "%s: %s", problem.Metric, problem.Text)
	}
}
