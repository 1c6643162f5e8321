package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.uber.org/zap"

	"github.com/drover/drover/activities"
	"github.com/drover/drover/center/orphans"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/durable"
	"github.com/drover/drover/events"
	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/workflows"
)

// The roles of a worker.
const (
	RoleCenter     = "center"     // the workflows of jobs and the activities that write the store
	RoleTransition = "transition" // a transition host: receives disks, keeps images
	// RoleOrchestrator takes fleets through an SMC endpoint; it needs no database.
	RoleOrchestrator = "orchestrator"
)

// Roles lists the roles of a worker.
func Roles() []string { return []string{RoleCenter, RoleTransition, RoleOrchestrator} }

// WorkerConfig is what RunWorker needs.
type WorkerConfig struct {
	Connections
	// Process is the process that the worker is part of.
	Process Process
	// Roles are any of RoleCenter, RoleTransition and RoleOrchestrator.
	Roles []string
	// DataDir is the root of the transition host's staging and images.
	DataDir string
	// TransitionListen is where the transition host listens for agents, host:port.
	TransitionListen string
	// TLS says how TransitionListen shows who it is.
	TLS TLSConfig
	// TransitionURL is how agents reach it. Default http://<TransitionListen>, or https:// with TLS.
	TransitionURL string
	// TransitionPrivateURL is how the agents of jobs with NetMode 2 reach it. Default TransitionURL.
	TransitionPrivateURL string
	// SourceWait is how long a run that is Syncing on the transition host waits for a silent source. Default smc.DefaultSourceWait.
	SourceWait time.Duration
	// TargetWait is how long a run that has an image to deliver waits on the transition host for a silent target instance. Default smc.DefaultTargetWait.
	TargetWait time.Duration
	// OrphanGrace is how long the transition host leaves what belongs to nothing where it is. Default orphans.DefaultGrace.
	OrphanGrace time.Duration
	// Orchestrator is needed by RoleOrchestrator only.
	Orchestrator OrchestratorConfig
}

// Check reports what is missing or contradictory.
func (c *WorkerConfig) Check() error {
	if len(c.Roles) == 0 {
		return fmt.Errorf("no role is given: --role takes any of %s", strings.Join(Roles(), ", "))
	}
	for _, role := range c.Roles {
		if !slices.Contains(Roles(), role) {
			return fmt.Errorf("role %q: want any of %s", role, strings.Join(Roles(), ", "))
		}
	}
	if slices.Contains(c.Roles, RoleTransition) {
		if c.DataDir == "" || c.TransitionListen == "" {
			return errors.New("the role transition needs --data, where it keeps images, and --transition-listen, where agents reach it")
		}
		if c.SourceWait < 0 {
			return fmt.Errorf("--source-wait or %s: want a positive duration, such as 30m", envSourceWait)
		}
		if c.TargetWait < 0 {
			return fmt.Errorf("--target-wait or %s: want a positive duration, such as 30m", envTargetWait)
		}
		if c.OrphanGrace < 0 {
			return fmt.Errorf("--orphan-grace or %s: want a positive duration, such as 1h", envOrphanGrace)
		}
		if err := c.TLS.check("transition-listen", c.TransitionListen); err != nil {
			return err
		}
		if err := c.checkTransitionURL("--transition-url", c.TransitionURL); err != nil {
			return err
		}
		if err := c.checkTransitionURL("--transition-private-url", c.TransitionPrivateURL); err != nil {
			return err
		}
	}
	if slices.Contains(c.Roles, RoleOrchestrator) {
		if _, err := smc.NewClient(c.Orchestrator.SMC); err != nil {
			return fmt.Errorf("the role orchestrator drives an endpoint: set %s, %s and %s: %w", smc.EnvEndpoint, smc.EnvAccessKeyID, smc.EnvAccessKeySecret, err)
		}
		if c.Orchestrator.SMC.RegionID == "" {
			return fmt.Errorf("the role orchestrator needs the region of its endpoint: set %s", smc.EnvRegion)
		}
	}
	connections := c.Connections
	if !c.keepsRecord() {
		connections.DatabaseURL, connections.SecretKeyFile = "none", "none" // an orchestrator speaks to the endpoint alone
	}
	return connections.Check()
}

// checkTransitionURL refuses an address, given by a flag, at which no agent could reach the transition host.
func (c *WorkerConfig) checkTransitionURL(flag, address string) error {
	if address == "" {
		return nil
	}
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return fmt.Errorf("%s %s: want a URL such as https://host.example:7701", flag, address)
	case c.TLS.Enabled() && u.Scheme == "http":
		return fmt.Errorf("%s %s: the transition host serves https, so the URL begins with https://", flag, address)
	}
	return nil
}

const (
	envSourceWait  = "DROVER_SOURCE_WAIT"
	envTargetWait  = "DROVER_TARGET_WAIT"
	envOrphanGrace = "DROVER_ORPHAN_GRACE"
)

// SourceWaitFromEnv reads DROVER_SOURCE_WAIT, a duration; smc.DefaultSourceWait when it is not set, and -1, which Check refuses, when it
// is no positive one. getenv is os.Getenv outside tests.
func SourceWaitFromEnv(getenv func(string) string) time.Duration {
	return durationFromEnv(getenv(envSourceWait), smc.DefaultSourceWait)
}

// TargetWaitFromEnv reads DROVER_TARGET_WAIT in the same manner; smc.DefaultTargetWait when it is not set.
func TargetWaitFromEnv(getenv func(string) string) time.Duration {
	return durationFromEnv(getenv(envTargetWait), smc.DefaultTargetWait)
}

// OrphanGraceFromEnv reads DROVER_ORPHAN_GRACE in the same manner; orphans.DefaultGrace when it is not set.
func OrphanGraceFromEnv(getenv func(string) string) time.Duration {
	return durationFromEnv(getenv(envOrphanGrace), orphans.DefaultGrace)
}

func durationFromEnv(text string, otherwise time.Duration) time.Duration {
	if text == "" {
		return otherwise
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return -1
	}
	return d
}

// keepsRecord reports whether a role of the worker uses the center's database.
func (c *WorkerConfig) keepsRecord() bool {
	return slices.Contains(c.Roles, RoleCenter) || slices.Contains(c.Roles, RoleTransition)
}

const (
	// hostHeartbeat is well below the time after which the store no longer counts a host as alive.
	hostHeartbeat = 8 * time.Second
)

// RunWorker hosts the task queues of its roles until ctx is done or a part fails. It ends in that order: polls for tasks, activities, the
// transition host's requests, the connection to NATS, the database.
func RunWorker(ctx context.Context, config WorkerConfig, log *zap.Logger) error {
	if err := config.Check(); err != nil {
		return err
	}
	config.Process = config.Process.orDefault()
	metrics := config.Process.Monitor
	for _, role := range config.Roles { // until hostQueue, which takes its place, knows better
		metrics.Require(workerPart(role), func(context.Context) error { return errNotPolling })
	}
	var record *store.Store
	if config.keepsRecord() {
		var opened func()
		var err error
		record, opened, err = config.awaitRecord(ctx, metrics, log, store.WithObserver(newTransitionMetrics(metrics)))
		defer opened()
		if err != nil {
			return err
		}
		defer config.Process.closing("database", record.Close)()
		registerPools(metrics, record, "worker")
		defer requireRecord(metrics, record)()
		if err := awaitRebuild(ctx, record, log); err != nil {
			return err
		}
	}
	options, err := config.temporalOptions(metrics, log)
	if err != nil {
		return err
	}
	temporal, err := client.NewLazyClient(options)
	if err != nil {
		return fmt.Errorf("temporal client: %w", err)
	}
	defer temporal.Close()
	defer requireTemporal(metrics, temporal)()

	group, ctx := config.Process.group(ctx)
	if record != nil {
		hostID := ""
		if slices.Contains(config.Roles, RoleTransition) {
			if hostID, err = loadHostID(config.DataDir); err != nil {
				return err
			}
		}
		group.run("presence", func() error {
			return reportPresence(ctx, record, "drover-worker --role "+strings.Join(config.Roles, ","), hostID, log)
		})
	}
	if slices.Contains(config.Roles, RoleCenter) {
		group.Go(func() error { return runCenterWorker(ctx, config.Process, temporal, record, log.Named("center")) })
	}
	if slices.Contains(config.Roles, RoleTransition) {
		group.Go(func() error { return runTransitionHost(ctx, config, temporal, record, log.Named("transition")) })
	}
	if slices.Contains(config.Roles, RoleOrchestrator) {
		group.Go(func() error { return runOrchestrator(ctx, config, temporal, log.Named("orchestrator")) })
	}
	return group.Wait()
}

// stickyTimeout is how long the next step of a job waits for the worker that did the one before, which has its state, until any worker takes
// it. Stop takes effect within 5 seconds also when that worker has just died; Temporal's default is 5 seconds.
const stickyTimeout = 2 * time.Second

func runCenterWorker(ctx context.Context, process Process, temporal client.Client, record *store.Store, log *zap.Logger) error {
	return hostQueue(ctx, process, RoleCenter, func(options worker.Options) worker.Worker {
		options.StickyScheduleToStartTimeout = stickyTimeout
		w := worker.New(temporal, activities.QueueCenter, options)
		w.RegisterWorkflow(workflows.ReplicationJob)
		w.RegisterWorkflow(workflows.ReplicationRun)
		w.RegisterActivity(&activities.Jobs{Store: record})
		return w
	}, log)
}

// runTransitionHost receives disks over HTTP and does the phases of runs. The listener is open before the host reports
// itself, and closes after its activities have ended.
func runTransitionHost(ctx context.Context, config WorkerConfig, temporal client.Client, record *store.Store, log *zap.Logger) error {
	hostID, err := loadHostID(config.DataDir)
	if err != nil {
		return err
	}
	key, err := record.DataPlaneKey(ctx)
	if err != nil {
		return err
	}
	host, err := replica.NewHost(replica.HostConfig{Root: config.DataDir, ID: hostID, Key: key, Epochs: epochs{record}, OnVerified: verifications(record), Logger: log})
	if err != nil {
		return err
	}
	log = log.With(zap.String("host_id", hostID)) // as the host's own lines have it
	defer config.Process.closing("image store", host.Close)()
	registerHost(config.Process.Monitor, host, log.Named("metrics"))
	shows, err := newIdentity(ctx, config.TLS, record, []string{config.TransitionListen, config.TransitionURL, config.TransitionPrivateURL}, log.Named("tls"))
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", config.TransitionListen)
	if err != nil {
		return fmt.Errorf("transition host: listen on %s: %w", config.TransitionListen, err)
	}
	address := config.TransitionURL
	if address == "" {
		address = config.TLS.scheme() + "://" + listener.Addr().String()
	}
	nc, err := config.nats("drover-worker", log)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	defer config.Process.drain(nc, log)
	defer requireNATS(config.Process.Monitor, nc)()

	newWorker := func(options worker.Options) worker.Worker {
		w := worker.New(temporal, activities.QueueTransition(hostID), options)
		w.RegisterActivity(&activities.Replication{
			Store: record, Host: host, HostURL: address, PrivateURL: config.TransitionPrivateURL, SourceWait: config.SourceWait, TargetWait: config.TargetWait, OnProgress: progressPublisher(nc), Logger: log,
		})
		return w
	}
	httpCtx, stopHTTP := context.WithCancel(context.WithoutCancel(ctx))
	defer stopHTTP()
	group, ctx := config.Process.group(ctx)
	sweeper := &orphans.Sweeper{Store: record, Host: host, HostID: hostID, Grace: config.OrphanGrace, Log: log.Named("sweep")}
	reported := make(chan struct{}) // closed when the record knows the host
	group.run("sweep", func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-reported:
		}
		group.run("presence", func() error { return reportVolume(ctx, record, host, log) })
		return sweeper.Run(ctx)
	})
	group.run("certificates", func() error { return shows.run(ctx) })
	group.run("transition host", func() error {
		err := serveListener(httpCtx, listener, shows, host.Handler(), config.Process.share(requestsShare), log)
		if httpCtx.Err() == nil && err == nil {
			err = errors.New("the transition host's listener ended")
		}
		return err
	})
	group.Go(func() error {
		defer stopHTTP()
		return hostQueue(ctx, config.Process, RoleTransition, newWorker, log)
	})
	group.run("heartbeats", func() error {
		ticker := time.NewTicker(hostHeartbeat)
		defer ticker.Stop()
		for known := false; ; {
			err := record.HostHeartbeat(ctx, hostID, address, store.WithPrivateURL(config.TransitionPrivateURL))
			if err != nil && ctx.Err() == nil {
				log.Warn("the transition host could not report itself", zap.Error(err))
			}
			if err == nil && !known {
				known = true
				close(reported)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-ticker.C:
			}
		}
	})
	return group.Wait()
}

var errNotPolling = errors.New("it does not poll for tasks yet")

// workerPart names the worker of a role among the parts of a process and what it needs to be ready.
func workerPart(role string) string { return "worker-" + role }

// hostQueue runs the worker that newWorker makes for a role until ctx is done. While Temporal is away, and after Temporal refused it for
// good, it tries again, with a worker made anew: one that could not start says so for ever after, whatever has become of Temporal. The
// process is not ready while it does not poll.
func hostQueue(ctx context.Context, process Process, role string, newWorker func(worker.Options) worker.Worker, log *zap.Logger) error {
	part := workerPart(role)
	defer process.Monitor.Part(part)()
	var trouble atomic.Pointer[error]
	polls := func(err error) { trouble.Store(&err) }
	polls(errNotPolling)
	defer process.Monitor.Require(part, func(context.Context) error { return *trouble.Load() })()

	limit := process.share(activitiesShare)
	for told := false; ; {
		refused := make(chan error, 1)
		w := newWorker(worker.Options{WorkerStopTimeout: limit, OnFatalError: func(err error) {
			select {
			case refused <- err:
			default:
			}
		}})
		err := w.Start()
		if err == nil {
			polls(nil)
			told = false
			log.Info("working", zap.String("role", role))
			select {
			case <-ctx.Done():
				polls(errors.New("it is stopping"))
				began := time.Now()
				w.Stop()
				if took := time.Since(began); took >= limit {
					log.Warn("activities did not end in time; Temporal has them tried again", zap.String("role", role), zap.Duration("limit", limit))
				}
				return nil
			case err = <-refused: // and it has stopped by itself
			}
		}
		polls(fmt.Errorf("it does not poll for tasks: %w", err))
		if !told {
			told = true
			log.Warn("the worker does not work; it is tried again until it does", zap.String("role", role), zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(tryEvery):
		}
	}
}

// progressPublisher tells whoever listens on NATS how far a job is; nothing is kept of it.
func progressPublisher(nc *nats.Conn) activities.ProgressFunc {
	return func(job *store.Job, p activities.Progress) {
		progress := events.Progress{
			AccountID: job.AccountID, RegionID: job.RegionID, JobID: job.JobID, SourceID: job.SourceID, Run: job.Run,
			Status: string(job.Status), BusinessStatus: string(job.BusinessStatus), Percent: p.Percent,
			BytesTotal: p.BytesTotal, BytesRead: p.BytesRead, BytesSent: p.BytesSent, BytesPerSecond: float64(p.Rate),
			ETASeconds: float64(max(0, p.SecondsLeft)), Time: time.Now().UTC(),
		}
		_ = events.PublishProgress(nc, progress) // the next one makes up for it
	}
}

// verifications records what the transition host finds as it verifies images.
func verifications(record *store.Store) func(context.Context, string, *replica.VerifyResult) error {
	return func(ctx context.Context, imageID string, result *replica.VerifyResult) error {
		outcome := smc.VerificationPassed
		if !result.OK {
			outcome = smc.VerificationNotPassed
		}
		return record.RecordVerification(context.WithoutCancel(ctx), imageID, outcome, result.Problems()) // who asked may be gone
	}
}

// epochs lets the transition host fence writers by the store.
type epochs struct{ store *store.Store }

func (e epochs) RaiseEpoch(ctx context.Context, jobID string, run int) (int64, error) {
	epoch, err := e.store.RaiseEpoch(ctx, jobID, run)
	return epoch, fenceError(err)
}

func (e epochs) CheckEpoch(ctx context.Context, jobID string, epoch int64) error {
	return fenceError(e.store.CheckEpoch(ctx, jobID, epoch))
}

// fenceError gives the store's refusals the form the data plane knows them by.
func fenceError(err error) error {
	switch {
	case errors.Is(err, store.ErrFenced):
		return fmt.Errorf("%w: %w", replica.ErrFenced, err)
	case errors.Is(err, store.ErrSessionClosed):
		return fmt.Errorf("%w: %w", replica.ErrSessionClosed, err)
	}
	return err
}

// loadHostID returns the id of the transition host that keeps its data in dir; a new one at its first start.
func loadHostID(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the transition host's folder: %w", err)
	}
	path := filepath.Join(dir, replica.HostIDFile)
	data, err := os.ReadFile(path)
	if err == nil {
		return strings.TrimSpace(string(data)), nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read the transition host's id: %w", err)
	}
	id := store.NewID("i")
	if err := durable.WriteFile(path, []byte(id+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("keep the transition host's id: %w", err)
	}
	return id, nil
}
