package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/pflag"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/drover/drover/events"
	"github.com/drover/drover/monitor"
)

// DefaultShutdownTimeout bounds the time from the first signal to the end of a process when nobody says otherwise: it is less than the
// 10 seconds after which a container is killed.
const DefaultShutdownTimeout = 9 * time.Second

// Process is what the parts of a process share. The zero value is a process of its own with DefaultShutdownTimeout.
type Process struct {
	// Monitor collects the metrics of all parts and whether they are ready.
	Monitor *monitor.Process
	// ShutdownTimeout bounds the time from the end of a Run function's context to its return. Default DefaultShutdownTimeout.
	ShutdownTimeout time.Duration
}

// orDefault fills in what is not given.
func (p Process) orDefault() Process {
	if p.Monitor == nil {
		p.Monitor = monitor.New(Version())
	}
	if p.ShutdownTimeout <= 0 {
		p.ShutdownTimeout = DefaultShutdownTimeout
	}
	return p
}

// What each step of a shutdown may take of its whole time. The steps of a transition host come one after the other: activities,
// requests, NATS. What is left is for what has no limit of its own, such as closing the database.
const (
	activitiesShare = 0.40
	requestsShare   = 0.30
	drainShare      = 0.10
)

func (p Process) share(s float64) time.Duration {
	return time.Duration(float64(p.orDefault().ShutdownTimeout) * s)
}

// group runs parts of a process side by side and remembers which of them have not ended.
type group struct {
	*errgroup.Group
	process Process
}

func (p Process) group(ctx context.Context) (group, context.Context) {
	g, ctx := errgroup.WithContext(ctx)
	return group{g, p}, ctx
}

// run starts a part under the name by which it is reported when it does not end in time.
func (g group) run(part string, do func() error) {
	ended := g.process.Monitor.Part(part)
	g.Go(func() error {
		defer ended()
		return do()
	})
}

// closing returns what closes something at the end of a part, under the name by which it is reported when it does not end in time.
func (p Process) closing(name string, closer func() error) func() {
	return func() {
		defer p.Monitor.Part(name)()
		_ = closer() // it is the end, and what was acknowledged is on disk
	}
}

// drain ends a connection to NATS once what was published is sent.
func (p Process) drain(nc *nats.Conn, log *zap.Logger) {
	defer p.Monitor.Part("nats")()
	ctx, cancel := context.WithTimeout(context.Background(), p.share(drainShare))
	defer cancel()
	if err := events.Close(ctx, nc); err != nil {
		log.Warn("what was published last may not have been sent; the outbox has it", zap.Error(err))
	}
}

// ErrStopped is the cause of a context that a signal ended.
var ErrStopped = errors.New("stopped by a signal")

// exit is os.Exit outside tests.
var exit = os.Exit

// UntilSignal returns a context that is done at the first SIGINT or SIGTERM; the process is not ready from then on. It has its
// ShutdownTimeout to end then: after that, or at a second signal, it is ended at once with ExitFailed and a line that names the parts
// which still run. Both are safe, nothing that was acknowledged is lost. stop ends the watch.
func (p Process) UntilSignal(parent context.Context, log *zap.Logger) (ctx context.Context, stop func()) {
	p = p.orDefault()
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		select {
		case <-done:
			return
		case sig := <-signals:
			log.Info("stopping; a second signal ends the process at once", zap.Stringer("signal", sig), zap.Duration("limit", p.ShutdownTimeout))
			p.Monitor.Stopping()
			cancel(ErrStopped)
		}
		began := time.Now()
		deadline := time.NewTimer(p.ShutdownTimeout)
		defer deadline.Stop()
		select {
		case <-done:
			return
		case sig := <-signals:
			log.Warn("ended by a second signal", zap.Stringer("signal", sig), zap.Strings("unfinished", p.Monitor.Parts()), zap.Duration("after", time.Since(began)))
		case <-deadline.C:
			log.Error("ended: the shutdown took too long; what was acknowledged is kept", zap.Strings("unfinished", p.Monitor.Parts()),
				zap.Duration("limit", p.ShutdownTimeout))
		}
		_ = log.Sync()
		exit(ExitFailed)
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		cancel(nil)
	}
}

// EnvShutdownTimeout is the variable that --shutdown-timeout has for its default.
const EnvShutdownTimeout = "DROVER_SHUTDOWN_TIMEOUT"

// minShutdownTimeout leaves each step of a shutdown a moment.
const minShutdownTimeout = time.Second

// MetricsOff is the address of a process that serves no metrics.
const MetricsOff = "off"

// Where programs serve their metrics unless they are told otherwise: each its own port, so that all of them may run on one machine. A
// worker with several roles takes the first one's.
const (
	DefaultDevMetrics          = "127.0.0.1:7709"
	DefaultServerMetrics       = "127.0.0.1:7710"
	DefaultCenterMetrics       = "127.0.0.1:7711"
	DefaultTransitionMetrics   = "127.0.0.1:7712"
	DefaultOrchestratorMetrics = "127.0.0.1:7713"
)

// ProcessSettings are what every program that serves has for flags.
type ProcessSettings struct {
	// MetricsListen is where /metrics, /healthz and /readyz are served; MetricsOff for nowhere, empty for the program's default.
	MetricsListen string
	// ShutdownTimeout is that of Process (DROVER_SHUTDOWN_TIMEOUT).
	ShutdownTimeout time.Duration
	environment     string // what is wrong with the variable
}

// Flags defines the flags of s. metrics says in words where metrics are served by default. getenv is os.Getenv outside tests.
func (s *ProcessSettings) Flags(flags *pflag.FlagSet, metrics string, getenv func(string) string) {
	timeout := DefaultShutdownTimeout
	if text := getenv(EnvShutdownTimeout); text != "" {
		var err error
		if timeout, err = time.ParseDuration(text); err != nil {
			s.environment = fmt.Sprintf("%s is %q: want a duration such as 20s", EnvShutdownTimeout, text)
		}
	}
	flags.StringVar(&s.MetricsListen, "metrics-listen", "", "`ADDRESS` of /metrics, /healthz and /readyz, without TLS; "+MetricsOff+" for none (default "+metrics+")")
	flags.DurationVar(&s.ShutdownTimeout, "shutdown-timeout", timeout, "how long the process may take to end after the first signal, a `DURATION` ("+EnvShutdownTimeout+")")
}

// Check reports what is wrong with the settings.
func (s *ProcessSettings) Check() error {
	if s.environment != "" && s.ShutdownTimeout <= 0 {
		return errors.New(s.environment)
	}
	if s.ShutdownTimeout < minShutdownTimeout {
		return fmt.Errorf("--shutdown-timeout or %s: want %s or more", EnvShutdownTimeout, minShutdownTimeout)
	}
	if s.MetricsListen != "" && s.MetricsListen != MetricsOff {
		if _, _, err := net.SplitHostPort(s.MetricsListen); err != nil {
			return fmt.Errorf("--metrics-listen %s: want HOST:PORT, or %s", s.MetricsListen, MetricsOff)
		}
	}
	return nil
}

// Serve runs a program until a signal or its end: do gets a context that the first signal ends. Metrics are served at the settings'
// address, else at defaultMetrics.
func (s *ProcessSettings) Serve(parent context.Context, defaultMetrics string, log *zap.Logger, do func(context.Context, Process) error) error {
	p := Process{ShutdownTimeout: s.ShutdownTimeout}.orDefault()
	closeMetrics, err := s.serveMetrics(parent, p, defaultMetrics, log.Named("metrics"))
	if err != nil {
		return err
	}
	defer closeMetrics() // last: a process that stops says so until it has
	ctx, stop := p.UntilSignal(parent, log)
	defer stop()
	return untilStopped(ctx, do(ctx, p))
}

// untilStopped drops an error that is only that of the stop itself.
func untilStopped(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = nil
	}
	return err
}

// serveMetrics serves until closeMetrics is called. A default address that is taken is not worth the process: others of its kind run here.
func (s *ProcessSettings) serveMetrics(ctx context.Context, p Process, address string, log *zap.Logger) (closeMetrics func(), err error) {
	given := s.MetricsListen != ""
	if given {
		address = s.MetricsListen
	}
	if address == MetricsOff {
		return func() {}, nil
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) && !given {
		log.Warn("no metrics: another process has the default address; give this one its own with --metrics-listen", zap.String("address", address))
		return func() {}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("--metrics-listen: listen on %s: %w", address, err)
	}
	server := &http.Server{
		Handler: p.Monitor.Handler(log), ErrorLog: zap.NewStdLog(log),
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
	}
	log.Info("metrics", zap.String("url", "http://"+listener.Addr().String()+"/metrics"))
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("metrics are no longer served", zap.Error(err))
		}
	}()
	return func() { _ = server.Close() }, nil
}

// DefaultMetrics is where a worker of these roles serves its metrics unless it is told otherwise.
func (c *WorkerConfig) DefaultMetrics() string {
	for _, of := range []struct{ role, address string }{
		{RoleCenter, DefaultCenterMetrics}, {RoleTransition, DefaultTransitionMetrics}, {RoleOrchestrator, DefaultOrchestratorMetrics},
	} {
		if slices.Contains(c.Roles, of.role) {
			return of.address
		}
	}
	return MetricsOff
}
