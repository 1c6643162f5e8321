// Package monitor is what a process tells of itself: its metrics in Prometheus' format, whether it is ready, and which of its
// parts run.
package monitor

import (
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
)

// Process is one process. Its methods are safe for concurrent use.
type Process struct {
	registry *prometheus.Registry
	temporal *temporalMetrics

	mutex        sync.Mutex
	dependencies map[string]*dependency
	stopping     bool
	parts        map[string]int
}

// New returns the monitor of a process that was built from the given version. A process has one, whatever runs in it.
func New(version string) *Process {
	p := &Process{
		registry: prometheus.NewRegistry(), temporal: newTemporalMetrics(),
		dependencies: map[string]*dependency{}, parts: map[string]int{},
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "drover_build_info", Help: "What the process was built from; the value is always 1.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	})
	build.Set(1)
	p.registry.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		build, dependencyCollector{p}, p.temporal,
	)
	return p
}

// Register adds a metric to those of p and returns it. If p has one of that description it returns that one: parts of a process
// that count the same count together. It panics when a description contradicts another one.
func Register[C prometheus.Collector](p *Process, metric C) C {
	err := p.registry.Register(metric)
	if known, ok := err.(prometheus.AlreadyRegisteredError); ok { //nolint:errorlint // it is never wrapped
		return known.ExistingCollector.(C)
	}
	if err != nil {
		panic(fmt.Sprintf("register a metric: %v", err))
	}
	return metric
}

// Gatherer gives what the process exposes.
func (p *Process) Gatherer() prometheus.Gatherer { return p.registry }

// Handler serves /metrics, /healthz and /readyz.
func (p *Process) Handler(log *zap.Logger) http.Handler {
	mux := http.NewServeMux()
	// A metric that cannot be told leaves the others as they are.
	mux.Handle("GET /metrics", promhttp.HandlerFor(p.registry, promhttp.HandlerOpts{
		ErrorLog: zap.NewStdLog(log), ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4,
	}))
	health := p.Health()
	mux.Handle("GET /healthz", health)
	mux.Handle("GET /readyz", health)
	return mux
}

// Part notes that a part of the process runs, until ended is called. What runs when a process is made to end is what held it.
func (p *Process) Part(name string) (ended func()) {
	p.count(name, 1)
	return sync.OnceFunc(func() { p.count(name, -1) })
}

func (p *Process) count(part string, n int) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if p.parts[part] += n; p.parts[part] == 0 {
		delete(p.parts, part)
	}
}

// Parts names what runs, sorted.
func (p *Process) Parts() []string {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	names := make([]string, 0, len(p.parts))
	for name := range p.parts {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
