package app

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.uber.org/zap"

	"github.com/drover/drover/center"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/events"
	"github.com/drover/drover/fleet"
	"github.com/drover/drover/monitor"
	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
)

// docs/operations.md has a table of all of these, which TestDocumentedMetrics holds against them.

// How old figures may be that cost something to get: a scrape of every few seconds costs no more than one of every now and then.
const (
	figuresFresh  = 5 * time.Second
	countsFresh   = time.Minute
	usageFresh    = time.Minute
	figuresWithin = 5 * time.Second // a scrape waits no longer
)

// transitionMetrics count what this process writes to the record.
type transitionMetrics struct {
	transitions, runs, troubles, errors *prometheus.CounterVec
	runTook, phaseTook                  *prometheus.HistogramVec
}

// durations, in seconds, of runs and phases: from a second to three days.
var durations = []float64{1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 14400, 28800, 86400, 259200}

func newTransitionMetrics(p *monitor.Process) *transitionMetrics {
	m := &transitionMetrics{
		transitions: monitor.Register(p, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "drover_job_transitions_total", Help: "Transitions of jobs that this process wrote, by what the job was afterwards.",
		}, []string{"status", "business_status"})),
		runs: monitor.Register(p, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "drover_runs_ended_total", Help: "Runs whose end this process wrote, by the run's type and outcome. A run that is resumed ends once more.",
		}, []string{"type", "outcome"})),
		troubles: monitor.Register(p, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "drover_run_retries_total", Help: "Attempts of phases of runs that failed and are made again, by error code.",
		}, []string{"code"})),
		errors: monitor.Register(p, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "drover_job_errors_total", Help: "Jobs that became InError, by error code.",
		}, []string{"code"})),
		runTook: monitor.Register(p, prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "drover_run_duration_seconds", Help: "How long runs took that succeeded, from their first start, by type.", Buckets: durations,
		}, []string{"type"})),
		phaseTook: monitor.Register(p, prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "drover_run_phase_duration_seconds", Help: "How long phases of runs took, by phase. A phase that is resumed counts again.", Buckets: durations,
		}, []string{"phase"})),
	}
	for _, runType := range []smc.RunType{smc.RunManual, smc.RunSchedule} {
		for _, outcome := range []smc.RunStatus{smc.RunSucceeded, smc.RunFailed, smc.RunStopped} {
			m.runs.WithLabelValues(string(runType), string(outcome))
		}
	}
	return m
}

// JobMoved implements store.Observer.
func (m *transitionMetrics) JobMoved(move store.JobMove) {
	m.transitions.WithLabelValues(string(move.Status), string(move.BusinessStatus)).Inc()
	if move.ErrorCode != "" {
		m.errors.WithLabelValues(move.ErrorCode).Inc()
	}
	if move.Phase != "" {
		m.phaseTook.WithLabelValues(string(move.Phase)).Observe(move.PhaseTook.Seconds())
	}
	if move.RunEnd == "" {
		return
	}
	m.runs.WithLabelValues(string(move.RunType), string(move.RunEnd)).Inc()
	if move.RunEnd == smc.RunSucceeded {
		m.runTook.WithLabelValues(string(move.RunType)).Observe(move.RunTook.Seconds())
	}
}

// RunTroubled implements store.Observer.
func (m *transitionMetrics) RunTroubled(code string) { m.troubles.WithLabelValues(code).Inc() }

// registerPools exposes the pools of connections to the database.
func registerPools(p *monitor.Process, record *store.Store, part string) {
	for use, pool := range record.Pools() {
		monitor.Register(p, collectors.NewDBStatsCollector(pool, part+"-"+use))
	}
}

// callMetrics count the calls of the endpoint.
type callMetrics struct {
	calls, agents *prometheus.CounterVec
	took          *prometheus.HistogramVec
}

func newCallMetrics(p *monitor.Process) *callMetrics {
	return &callMetrics{
		calls: monitor.Register(p, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "drover_api_requests_total", Help: "Calls of the SMC API, by operation and outcome: OK, an error code, or Abandoned by the caller.",
		}, []string{"operation", "code"})),
		agents: monitor.Register(p, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "drover_agent_api_requests_total", Help: "Calls of agents, by operation (register, heartbeat, work; of target instances: register target, target heartbeat, target work, delivery) and outcome.",
		}, []string{"operation", "code"})),
		took: monitor.Register(p, prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "drover_api_request_duration_seconds", Help: "How long calls of the SMC API took, by operation.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"operation"})),
	}
}

// unknownOperation stands for whatever is not served.
const unknownOperation = "unknown"

func (m *callMetrics) observe(c center.Call) {
	operation := c.Operation
	if operation == "" {
		operation = unknownOperation
	}
	if c.API == center.APIAgent {
		m.agents.WithLabelValues(operation, c.Code).Inc()
		return
	}
	m.calls.WithLabelValues(operation, c.Code).Inc()
	m.took.WithLabelValues(operation).Observe(c.Took.Seconds())
}

// snapshot is something that is read when it is scraped, and kept for a moment. While it cannot be read there is nothing of it; why says
// the readiness of the process.
type snapshot[T any] struct {
	read  func(context.Context) (T, error)
	fresh time.Duration
	what  string
	log   *zap.Logger

	mutex sync.Mutex
	at    time.Time
	value T
	ok    bool
}

func (s *snapshot[T]) get() (value T, ok bool) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if !s.at.IsZero() && time.Since(s.at) < s.fresh {
		return s.value, s.ok
	}
	ctx, cancel := context.WithTimeout(context.Background(), figuresWithin)
	defer cancel()
	read, err := s.read(ctx)
	if s.value, s.ok, s.at = read, err == nil, time.Now(); err != nil {
		s.log.Debug("cannot read figures for metrics", zap.String("of", s.what), zap.Error(err))
	}
	return s.value, s.ok
}

// described is a collector of metrics that are made at a scrape.
type described struct {
	descs   []*prometheus.Desc
	collect func(chan<- prometheus.Metric)
}

func (d *described) desc(name, help string, labels ...string) *prometheus.Desc {
	desc := prometheus.NewDesc(name, help, labels, nil)
	d.descs = append(d.descs, desc)
	return desc
}

// Describe implements prometheus.Collector.
func (d *described) Describe(descs chan<- *prometheus.Desc) {
	for _, desc := range d.descs {
		descs <- desc
	}
}

// Collect implements prometheus.Collector.
func (d *described) Collect(metrics chan<- prometheus.Metric) { d.collect(metrics) }

func gauge[N int | int64 | float64](metrics chan<- prometheus.Metric, desc *prometheus.Desc, value N, labels ...string) {
	metrics <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(value), labels...)
}

func counter[N int | int64 | uint64](metrics chan<- prometheus.Metric, desc *prometheus.Desc, value N, labels ...string) {
	metrics <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(value), labels...)
}

// age is how long ago something was; 0 when it was never.
func age(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return max(0, time.Since(t).Seconds())
}

// figures is what the record holds.
type figures struct {
	*store.Figures
	backlog int
	oldest  time.Time
}

// registerFigures exposes how much there is of everything in the center. Each server of a center says the same.
func registerFigures(p *monitor.Process, record *store.Store, log *zap.Logger) {
	kept := &snapshot[figures]{what: "the record", fresh: figuresFresh, log: log, read: func(ctx context.Context) (f figures, err error) {
		if f.Figures, err = record.Figures(ctx); err == nil {
			f.backlog, f.oldest, err = record.Backlog(ctx)
		}
		return f, err
	}}
	d := &described{}
	jobs := d.desc("drover_jobs", "Jobs of the center by status; business_status is the phase of those that are Running.", "status", "business_status")
	failed := d.desc("drover_jobs_in_error", "Jobs that are InError, by error code.", "code")
	troubled := d.desc("drover_jobs_retrying", "Running jobs that do not get on at present, by the code of what keeps them.", "code")
	sources := d.desc("drover_source_servers", "Source servers by state; Unavailable are those whose agent has not been heard of.", "state")
	queued := d.desc("drover_queued_jobs", "Jobs that were started and wait for a running slot of their account.")
	queuedAge := d.desc("drover_queued_oldest_age_seconds", "How long the job that has waited longest for a running slot has; 0 when none does.")
	pending := d.desc("drover_outbox_pending_events", "Events that are not in the stream yet.")
	pendingAge := d.desc("drover_outbox_oldest_age_seconds", "How old the oldest event is that is not in the stream yet; 0 when all are.")
	sessions := d.desc("drover_sync_sessions_open", "Jobs whose agent is told to sync.")
	rate := d.desc("drover_sync_rate_bytes_per_second", "How much of their disks all syncing jobs cover in a second, lately, unchanged parts included.")
	hosts := d.desc("drover_transition_hosts", "Transition hosts, alive or silent for 30 seconds and more.", "state")
	images := d.desc("drover_images", "Images of the center.")
	d.collect = func(metrics chan<- prometheus.Metric) {
		f, ok := kept.get()
		if !ok {
			return
		}
		byStatus, byCode := map[[2]string]int{}, map[string]int{}
		for _, status := range []smc.JobStatus{
			smc.StatusReady, smc.StatusRunning, smc.StatusStopped, smc.StatusWaiting, smc.StatusInError, smc.StatusFinished, smc.StatusExpired, smc.StatusDeleting,
		} {
			if status != smc.StatusRunning {
				byStatus[[2]string{string(status), ""}] = 0
			}
		}
		for _, phase := range []smc.BusinessStatus{smc.BusinessPreparing, smc.BusinessSyncing, smc.BusinessProcessing, smc.BusinessCleaning} {
			byStatus[[2]string{string(smc.StatusRunning), string(phase)}] = 0
		}
		for state, n := range f.Jobs {
			byStatus[[2]string{string(state.Status), string(state.BusinessStatus)}] += n
			if state.Status == smc.StatusInError {
				byCode[state.ErrorCode] += n
			}
		}
		for state, n := range byStatus {
			gauge(metrics, jobs, n, state[0], state[1])
		}
		for code, n := range byCode {
			gauge(metrics, failed, n, code)
		}
		for code, n := range f.Troubled {
			gauge(metrics, troubled, n, code)
		}
		for _, state := range []smc.SourceState{smc.SourceUnavailable, smc.SourceAvailable, smc.SourceInUse, smc.SourceDeleting} {
			gauge(metrics, sources, f.Sources[state], string(state))
		}
		gauge(metrics, queued, f.Queued)
		gauge(metrics, queuedAge, age(f.QueuedSince))
		gauge(metrics, pending, f.backlog)
		gauge(metrics, pendingAge, age(f.oldest))
		gauge(metrics, sessions, f.OpenSessions)
		gauge(metrics, rate, f.SyncRate)
		gauge(metrics, hosts, f.HostsAlive, "alive")
		gauge(metrics, hosts, f.HostsSilent, "silent")
		gauge(metrics, images, f.Images)
	}
	monitor.Register(p, d)
}

// registerRelay exposes what a relay did.
func registerRelay(p *monitor.Process, relay *events.Relay) {
	d := &described{}
	moved := d.desc("drover_relay_events_total", "Events that this relay dealt with: stored, found in the stream already, or superseded by a later one there.", "outcome")
	outages := d.desc("drover_relay_outages_total", "Times that NATS or the database stopped answering the relay.")
	losses := d.desc("drover_relay_stream_losses_total", "Times that the stream turned out to have lost what it held.")
	up := d.desc("drover_relay_up", "Whether NATS and the database answer the relay: 1, or 0.")
	d.collect = func(metrics chan<- prometheus.Metric) {
		stats := relay.Stats()
		counter(metrics, moved, stats.Published, "published")
		counter(metrics, moved, stats.Found, "found")
		counter(metrics, moved, stats.Superseded, "superseded")
		counter(metrics, outages, stats.Outages)
		counter(metrics, losses, stats.StreamLosses)
		gauge(metrics, up, upOrNot(!stats.Down))
	}
	monitor.Register(p, d)
}

func upOrNot(up bool) int {
	if up {
		return 1
	}
	return 0
}

// registerHost exposes what a transition host does and what its store takes.
func registerHost(p *monitor.Process, host *replica.Host, log *zap.Logger) {
	kept := &snapshot[replica.Usage]{what: "the transition host's store", fresh: usageFresh, log: log, read: func(context.Context) (replica.Usage, error) { return host.Usage() }}
	d := &described{}
	received := d.desc("drover_transition_received_bytes_total", "Bytes of disks that agents sent to this transition host, as they were coded.")
	written := d.desc("drover_transition_written_bytes_total", "Bytes of disks that this transition host has verified and made durable.")
	fenced := d.desc("drover_transition_fencing_refusals_total", "Requests that were refused because another sender, or a stop, had taken their place.")
	sessions := d.desc("drover_transition_sessions_open", "Sync sessions that are open on this transition host.")
	staging := d.desc("drover_transition_staging_bytes", "What the staging of this transition host has allocated. Blocks that files share count in each of them.")
	imageBytes := d.desc("drover_transition_image_bytes", "What the images of this transition host have allocated. Blocks that files share count in each of them.")
	images := d.desc("drover_transition_images", "Images that are on this transition host.")
	free := d.desc("drover_transition_filesystem_free_bytes", "Free space of the file system with staging and images.")
	size := d.desc("drover_transition_filesystem_size_bytes", "Size of the file system with staging and images.")
	d.collect = func(metrics chan<- prometheus.Metric) {
		f := host.Figures()
		counter(metrics, received, f.BytesReceived)
		counter(metrics, written, f.BytesWritten)
		counter(metrics, fenced, f.Fenced)
		gauge(metrics, sessions, f.Sessions)
		usage, ok := kept.get()
		if !ok {
			return
		}
		gauge(metrics, staging, usage.StagingBytes)
		gauge(metrics, imageBytes, usage.ImageBytes)
		gauge(metrics, images, usage.Images)
		gauge(metrics, free, usage.FreeBytes)
		gauge(metrics, size, usage.SizeBytes)
	}
	monitor.Register(p, d)
}

// registerBridge exposes what a bridge did.
func registerBridge(p *monitor.Process, bridge *events.Bridge) {
	d := &described{}
	dealt := d.desc("drover_bridge_events_total",
		"Events that this bridge dealt with: signalled to a migration, of a job that no fleet made, without a new status, of a migration that is gone, or unreadable.", "outcome")
	failed := d.desc("drover_bridge_failures_total", "Signals that failed; the events are tried again.")
	up := d.desc("drover_bridge_up", "Whether Temporal takes the signals of the bridge: 1, or 0.")
	d.collect = func(metrics chan<- prometheus.Metric) {
		stats := bridge.Stats()
		counter(metrics, dealt, stats.Signalled, "signalled")
		counter(metrics, dealt, stats.Foreign, "foreign")
		counter(metrics, dealt, stats.Unchanged, "unchanged")
		counter(metrics, dealt, stats.Orphaned, "orphaned")
		counter(metrics, dealt, stats.Discarded, "discarded")
		counter(metrics, failed, stats.Failed)
		gauge(metrics, up, upOrNot(!stats.Down))
	}
	monitor.Register(p, d)
}

// workflowCounts are how many workflows of the orchestrator there are.
type workflowCounts struct {
	migrations map[fleet.Phase]int64
	fleets     map[string]int64
}

// fleetStatuses are what a fleet is counted by.
var fleetStatuses = []enumspb.WorkflowExecutionStatus{
	enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING, enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED, enumspb.WORKFLOW_EXECUTION_STATUS_FAILED,
	enumspb.WORKFLOW_EXECUTION_STATUS_CANCELED, enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED, enumspb.WORKFLOW_EXECUTION_STATUS_TIMED_OUT,
}

// registerFleets exposes how many fleets and migrations there are, as Temporal counts them: each orchestrator of a namespace says the
// same. Those that are over are counted for as long as Temporal keeps them.
func registerFleets(p *monitor.Process, temporal client.Client, namespace string, log *zap.Logger) {
	count := func(ctx context.Context, query string) (int64, error) {
		answer, err := temporal.CountWorkflow(ctx, &workflowservice.CountWorkflowExecutionsRequest{Namespace: namespace, Query: query})
		return answer.GetCount(), err
	}
	kept := &snapshot[workflowCounts]{what: "fleets", fresh: countsFresh, log: log, read: func(ctx context.Context) (counts workflowCounts, err error) {
		counts = workflowCounts{migrations: map[fleet.Phase]int64{}, fleets: map[string]int64{}}
		for _, phase := range fleet.Phases() {
			// A migration that went on in another run is that one.
			if counts.migrations[phase], err = count(ctx, fmt.Sprintf("WorkflowType = 'Migration' AND DroverPhase = '%s' AND ExecutionStatus != 'ContinuedAsNew'", phase)); err != nil {
				return counts, err
			}
		}
		for _, status := range fleetStatuses {
			if counts.fleets[status.String()], err = count(ctx, fmt.Sprintf("WorkflowType = 'Fleet' AND ExecutionStatus = '%s'", status)); err != nil {
				return counts, err
			}
		}
		return counts, nil
	}}
	d := &described{}
	migrations := d.desc("drover_migrations", "Migrations by phase, with those that are over and that Temporal still knows.", "phase")
	fleets := d.desc("drover_fleets", "Fleets by the status of their workflow, with those that are over and that Temporal still knows.", "status")
	d.collect = func(metrics chan<- prometheus.Metric) {
		counts, ok := kept.get()
		if !ok {
			return
		}
		for phase, n := range counts.migrations {
			gauge(metrics, migrations, n, string(phase))
		}
		for status, n := range counts.fleets {
			gauge(metrics, fleets, n, status)
		}
	}
	monitor.Register(p, d)
}

// agentMetrics are those of an agent: the heartbeats, and what it has by its role.
type agentMetrics struct {
	heartbeats *prometheus.CounterVec
	heard      prometheus.Gauge

	// of a source server
	read, sent prometheus.Counter
	syncing    prometheus.Gauge
	syncs      *prometheus.CounterVec

	// of a target instance
	done, fetched, received prometheus.Counter
	delivering              prometheus.Gauge
	deliveries              *prometheus.CounterVec
}

// What a heartbeat and a sync came to.
const (
	outcomeOK       = "ok"
	outcomeFailed   = "failed"
	outcomeComplete = "complete"
	outcomeEnded    = "ended"
	outcomeLost     = "lost"
)

// newHeartbeatMetrics registers what every agent counts.
func newHeartbeatMetrics(p *monitor.Process) *agentMetrics {
	m := &agentMetrics{
		heartbeats: monitor.Register(p, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "drover_agent_heartbeats_total", Help: "Heartbeats of the agent, by whether the center took them.",
		}, []string{"outcome"})),
		heard: monitor.Register(p, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "drover_agent_last_heartbeat_timestamp_seconds", Help: "When the center took the agent's last heartbeat; 0 before the first.",
		})),
	}
	for _, outcome := range []string{outcomeOK, outcomeFailed} {
		m.heartbeats.WithLabelValues(outcome)
	}
	return m
}

func newAgentMetrics(p *monitor.Process) *agentMetrics {
	m := newHeartbeatMetrics(p)
	m.read = monitor.Register(p, prometheus.NewCounter(prometheus.CounterOpts{
		Name: "drover_agent_read_bytes_total", Help: "Bytes of its disks that the agent has covered, holes included.",
	}))
	m.sent = monitor.Register(p, prometheus.NewCounter(prometheus.CounterOpts{
		Name: "drover_agent_sent_bytes_total", Help: "Bytes that the agent has sent to transition hosts, as they were coded, with what was sent again.",
	}))
	m.syncing = monitor.Register(p, prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "drover_agent_syncing", Help: "Whether the agent copies its disks: 1, or 0.",
	}))
	m.syncs = monitor.Register(p, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "drover_agent_syncs_total", Help: "Syncs that are over: complete, ended by the center or the agent's end, lost with their session, or failed for good.",
	}, []string{"outcome"}))
	for _, outcome := range []string{outcomeComplete, outcomeEnded, outcomeLost, outcomeFailed} {
		m.syncs.WithLabelValues(outcome)
	}
	return m
}

func newTargetMetrics(p *monitor.Process) *agentMetrics {
	m := newHeartbeatMetrics(p)
	m.done = monitor.Register(p, prometheus.NewCounter(prometheus.CounterOpts{
		Name: "drover_target_done_bytes_total", Help: "Bytes of its disks that the target has read and found to be what the image has, written or not.",
	}))
	m.fetched = monitor.Register(p, prometheus.NewCounter(prometheus.CounterOpts{
		Name: "drover_target_fetched_bytes_total", Help: "Bytes that differed and were fetched and written, as they lie on the disks.",
	}))
	m.received = monitor.Register(p, prometheus.NewCounter(prometheus.CounterOpts{
		Name: "drover_target_received_bytes_total", Help: "Bytes that the target has received of transition hosts, as they were coded, with the hashes.",
	}))
	m.delivering = monitor.Register(p, prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "drover_target_delivering", Help: "Whether an image is being written to the target's disks: 1, or 0.",
	}))
	m.deliveries = monitor.Register(p, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "drover_target_deliveries_total",
		Help: "Deliveries that are over: complete, ended by the center or the target's end, lost with their ticket, or failed.",
	}, []string{"outcome"}))
	for _, outcome := range []string{outcomeComplete, outcomeEnded, outcomeLost, outcomeFailed} {
		m.deliveries.WithLabelValues(outcome)
	}
	return m
}

// delivered returns what counts the bytes of one delivery.
func (m *agentMetrics) delivered() func(replica.DeliverProgress) {
	var last replica.DeliverProgress
	return func(p replica.DeliverProgress) {
		m.done.Add(float64(p.BytesDone - last.BytesDone))
		m.fetched.Add(float64(p.BytesFetched - last.BytesFetched))
		m.received.Add(float64(p.BytesReceived - last.BytesReceived))
		last = p
	}
}

// progress returns what counts the bytes of one sync.
func (m *agentMetrics) progress() func(replica.Progress) {
	var last replica.Progress
	return func(p replica.Progress) {
		m.read.Add(float64(max(0, p.BytesRead-last.BytesRead)))
		m.sent.Add(float64(max(0, p.BytesSent-last.BytesSent)))
		last = p
	}
}

// requireRecord has the process need the database.
func requireRecord(p *monitor.Process, record *store.Store) (remove func()) {
	return p.Require("database", record.Ping)
}

// requireTemporal has the process need Temporal.
func requireTemporal(p *monitor.Process, temporal client.Client) (remove func()) {
	return p.Require("temporal", func(ctx context.Context) error {
		_, err := temporal.CheckHealth(ctx, &client.CheckHealthRequest{})
		return err
	})
}

// requireNATS has the process need NATS.
func requireNATS(p *monitor.Process, nc *nats.Conn) (remove func()) {
	return p.Require("nats", func(ctx context.Context) error {
		if nc.IsConnected() {
			if err := nc.FlushWithContext(ctx); err != nil { // a server that hangs stays connected for a while
				return fmt.Errorf("no answer: %w", err)
			}
			return nil
		}
		if err := nc.LastError(); err != nil {
			return fmt.Errorf("not connected: %w", err)
		}
		return fmt.Errorf("not connected: it is %s", nc.Status())
	})
}
