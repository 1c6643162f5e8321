package app

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/drover/drover/monitor"
	"github.com/drover/drover/smc"
)

// The orchestrator is ready when its endpoint answers, whatever that says. A question or two without an answer do not change that, and
// scrapes ask nothing.
func TestEndpointProbe(t *testing.T) {
	var status, asked atomic.Int64
	status.Store(http.StatusServiceUnavailable)
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		require.Empty(t, r.URL.RawQuery, "the question is not signed")
		w.WriteHeader(int(status.Load()))
	}))
	defer site.Close()
	config := smc.Config{Endpoint: site.URL, AccessKeyID: "key", AccessKeySecret: "secret"}
	client, err := smc.NewClient(config)
	require.NoError(t, err)
	core, logs := observer.New(zap.InfoLevel)
	probe, err := newEndpointProbe(client, config, zap.New(core))
	require.NoError(t, err)
	probe.again = 10 * time.Millisecond
	m := monitor.New("test")
	defer probe.require(m)()
	_, ready := m.Ready(t.Context())
	require.False(t, ready)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- probe.run(ctx) }()
	awaitState(t, m, "endpoint", "503")
	status.Store(http.StatusForbidden) // an answer all the same
	awaitState(t, m, "endpoint", "")
	before := asked.Load()
	for range 20 {
		_, ready = m.Ready(t.Context())
		require.True(t, ready)
	}
	require.Equal(t, before, asked.Load())
	cancel()
	require.NoError(t, <-ended)
	require.LessOrEqual(t, logs.Len(), 2)

	// One that has answered is away only after several questions.
	site.Close()
	require.Error(t, probe.ask(t.Context()))
	ctx, cancel = context.WithCancel(t.Context())
	probe.again = 100 * time.Millisecond
	began := time.Now()
	go func() { ended <- probe.run(ctx) }()
	awaitState(t, m, "endpoint", "refused")
	require.GreaterOrEqual(t, time.Since(began), 3*probe.again, "after the third question")
	cancel()
	require.NoError(t, <-ended)
}
