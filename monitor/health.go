package monitor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// checkTimeout bounds the look at one dependency: probes and scrapes do not wait longer.
	checkTimeout = 3 * time.Second
	// checkFresh is for how long what was seen of a dependency is told again, however many ask.
	checkFresh = time.Second
)

// errStopping is what every process says from its first signal on.
var errStopping = errors.New("the process is stopping")

// dependency is something that a process needs.
type dependency struct {
	check func(context.Context) error

	mutex   sync.Mutex
	at      time.Time     // when it was looked at last
	err     error         // what was seen then
	looking chan struct{} // closed when the look that is under way ends; nil: none is
}

// look returns what was seen a moment ago, or looks. However many ask, and however long the look takes, there is one at a time, and
// who no longer wants to know does not end it.
func (d *dependency) look(ctx context.Context) error {
	d.mutex.Lock()
	if d.looking == nil {
		if time.Since(d.at) < checkFresh {
			defer d.mutex.Unlock()
			return d.err
		}
		d.looking = make(chan struct{})
		go d.see(d.looking)
	}
	looking := d.looking
	d.mutex.Unlock()
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	// Not every client listens to its context while it dials.
	select {
	case <-looking:
		d.mutex.Lock()
		defer d.mutex.Unlock()
		return d.err
	case <-ctx.Done():
		return fmt.Errorf("no answer: %w", ctx.Err())
	}
}

func (d *dependency) see(done chan<- struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	err := d.check(ctx)
	d.mutex.Lock()
	defer d.mutex.Unlock()
	d.at, d.err, d.looking = time.Now(), err, nil
	close(done)
}

// Require adds something that the process needs to be ready, until remove is called. check returns nil when it is there; it is
// called by probes and scrapes and must return when its context is done.
func (p *Process) Require(name string, check func(context.Context) error) (remove func()) {
	d := &dependency{check: check}
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.dependencies[name] = d
	return func() {
		p.mutex.Lock()
		defer p.mutex.Unlock()
		if p.dependencies[name] == d {
			delete(p.dependencies, name)
		}
	}
}

// Stopping has the process not ready from now on.
func (p *Process) Stopping() {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.stopping = true
}

// State is what a process found of something it needs.
type State struct {
	// Name is the dependency's.
	Name string
	// Err says what is wrong; nil: it is there.
	Err error
}

// Ready looks at everything the process needs but what is excluded, sorted by name. ready is false when something is not there, and
// from the moment on that the process is told to stop.
func (p *Process) Ready(ctx context.Context, exclude ...string) (states []State, ready bool) {
	p.mutex.Lock()
	known, stopping := maps.Clone(p.dependencies), p.stopping
	p.mutex.Unlock()
	for _, name := range slices.Sorted(maps.Keys(known)) {
		if !slices.Contains(exclude, name) {
			states = append(states, State{Name: name})
		}
	}
	var group sync.WaitGroup
	for i := range states {
		group.Go(func() { states[i].Err = known[states[i].Name].look(ctx) })
	}
	group.Wait()
	if stopping {
		states = append([]State{{Name: "process", Err: errStopping}}, states...)
	}
	return states, !slices.ContainsFunc(states, func(s State) bool { return s.Err != nil })
}

// Health serves /healthz, which answers as long as the process lives, and /readyz: 200 when everything the process needs is there,
// else 503. Its answer has a line for each dependency. /readyz?exclude=NAME leaves a dependency out; it may be repeated.
func (p *Process) Health() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		states, ready := p.Ready(r.Context(), r.URL.Query()["exclude"]...)
		var text strings.Builder
		for _, s := range states {
			if s.Err != nil {
				fmt.Fprintf(&text, "%s: %v\n", s.Name, s.Err)
			} else {
				fmt.Fprintf(&text, "%s: ok\n", s.Name)
			}
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		verdict := "ready"
		if !ready {
			verdict = "not ready"
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = fmt.Fprintf(w, "%s\n%s", verdict, text.String())
	})
	return mux
}

// dependencyCollector tells of each dependency whether it is there.
type dependencyCollector struct{ p *Process }

var dependencyUp = prometheus.NewDesc("drover_dependency_up", "Whether something that the process needs is there: 1, or 0.", []string{"dependency"}, nil)

// Describe implements prometheus.Collector.
func (dependencyCollector) Describe(descs chan<- *prometheus.Desc) { descs <- dependencyUp }

// Collect implements prometheus.Collector.
func (c dependencyCollector) Collect(metrics chan<- prometheus.Metric) {
	states, _ := c.p.Ready(context.Background())
	for _, s := range states {
		if errors.Is(s.Err, errStopping) {
			continue
		}
		up := 1.0
		if s.Err != nil {
			up = 0
		}
		metrics <- prometheus.MustNewConstMetric(dependencyUp, prometheus.GaugeValue, up, s.Name)
	}
}
