package monitor

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.temporal.io/sdk/client"
)

// Temporal has the metrics of Temporal's SDK collected with those of the process. A counter has the suffix _total and a timer
// _seconds; the rest of the names and the labels are the SDK's.
func (p *Process) Temporal() client.MetricsHandler { return temporalHandler{metrics: p.temporal} }

// temporalBuckets, in seconds, go from a call to a workflow that runs for days.
var temporalBuckets = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60, 600, 3600, 86400}

// temporalMetrics are the metrics that the SDK made so far. It makes them as it goes, those of one name with different labels, so
// that they cannot be described beforehand.
type temporalMetrics struct {
	mutex sync.RWMutex
	known map[string]prometheus.Collector
}

func newTemporalMetrics() *temporalMetrics {
	return &temporalMetrics{known: map[string]prometheus.Collector{}}
}

// Describe implements prometheus.Collector: nothing is known beforehand.
func (*temporalMetrics) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (m *temporalMetrics) Collect(metrics chan<- prometheus.Metric) {
	m.mutex.RLock()
	known := slices.Collect(maps.Values(m.known))
	m.mutex.RUnlock()
	for _, c := range known {
		c.Collect(metrics)
	}
}

// vector returns the metrics of a name and a set of labels.
func vector[V prometheus.Collector](m *temporalMetrics, name string, labels []string, create func() V) V {
	key := name + " " + strings.Join(labels, " ")
	m.mutex.RLock()
	found, ok := m.known[key]
	m.mutex.RUnlock()
	if !ok {
		m.mutex.Lock()
		defer m.mutex.Unlock()
		if found, ok = m.known[key]; !ok {
			found = create()
			m.known[key] = found
		}
	}
	return found.(V)
}

// temporalHandler is what the SDK tells, with the tags that it has set.
type temporalHandler struct {
	metrics *temporalMetrics
	tags    map[string]string
}

// leftOut are tags that say nothing: there is one client in these programs, and one namespace.
var leftOut = []string{"client_name", "namespace"}

// WithTags implements client.MetricsHandler.
func (h temporalHandler) WithTags(tags map[string]string) client.MetricsHandler {
	merged := maps.Clone(h.tags)
	if merged == nil {
		merged = map[string]string{}
	}
	for name, value := range tags {
		if !slices.Contains(leftOut, name) {
			merged[name] = value
		}
	}
	return temporalHandler{metrics: h.metrics, tags: merged}
}

// labels are the names and values of the tags, in the order of the names.
func (h temporalHandler) labels() (names, values []string) {
	names = slices.Sorted(maps.Keys(h.tags))
	for _, name := range names {
		values = append(values, h.tags[name])
	}
	return names, values
}

const temporalHelp = "Of Temporal's SDK: "

// Counter implements client.MetricsHandler.
func (h temporalHandler) Counter(name string) client.MetricsCounter {
	names, values := h.labels()
	full := strings.TrimSuffix(name, "_total") + "_total"
	counter := vector(h.metrics, full, names, func() *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: full, Help: temporalHelp + name}, names)
	}).WithLabelValues(values...)
	return counterFunc(func(n int64) { counter.Add(float64(n)) })
}

// Gauge implements client.MetricsHandler.
func (h temporalHandler) Gauge(name string) client.MetricsGauge {
	names, values := h.labels()
	gauge := vector(h.metrics, name, names, func() *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: temporalHelp + name}, names)
	}).WithLabelValues(values...)
	return gaugeFunc(gauge.Set)
}

// Timer implements client.MetricsHandler.
func (h temporalHandler) Timer(name string) client.MetricsTimer {
	names, values := h.labels()
	full := name + "_seconds"
	timer := vector(h.metrics, full, names, func() *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: full, Help: temporalHelp + name, Buckets: temporalBuckets}, names)
	}).WithLabelValues(values...)
	return timerFunc(func(d time.Duration) { timer.Observe(d.Seconds()) })
}

// These are the functions of the SDK's internal package, which it does not export.
type (
	counterFunc func(int64)
	gaugeFunc   func(float64)
	timerFunc   func(time.Duration)
)

// Inc implements client.MetricsCounter.
func (f counterFunc) Inc(n int64) { f(n) }

// Update implements client.MetricsGauge.
func (f gaugeFunc) Update(v float64) { f(v) }

// Record implements client.MetricsTimer.
func (f timerFunc) Record(d time.Duration) { f(d) }
