package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/drover/drover/app"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/deploy/dev/internal/natsserver"
	"github.com/drover/drover/deploy/dev/internal/settings"
	"github.com/drover/drover/deploy/dev/internal/temporalserver"
	"github.com/drover/drover/smc"
)

const (
	defaultListen = settings.DefaultListen
	secretKeyFile = "secret.key"
	caFile        = "ca.pem"

	// startTimeout bounds the start of all servers: a small machine under load needs a fraction of it.
	startTimeout = 2 * time.Minute

	// What share of the shutdown's time each may take to stop, in this order.
	stopCenterShare   = 0.64
	stopTemporalShare = 0.26
	stopNATSShare     = 0.08
)

// The parts of a stack. One process serves all of them, or several share a data directory.
const (
	partTemporal = "temporal"
	partNATS     = "nats"
	partServer   = "server"
	partWorker   = "worker"
)

func parts() []string { return []string{partTemporal, partNATS, partServer, partWorker} }

type stackConfig struct {
	dir    string
	listen string   // empty: as at the last start
	tls    *bool    // nil: as at the last start
	parts  []string // that this process serves
	roles  []string // of the worker
	// limits has what an account may have and what is kept how long, and nothing else; limitFlags are the flags that say so.
	limits     app.ServerConfig
	limitFlags []string

	process app.Process
}

// share is a share of the time that the process has to stop.
func (c *stackConfig) share(s float64) time.Duration {
	return time.Duration(s * float64(c.process.ShutdownTimeout))
}

// check reports what is wrong with the flags; given tells which of them the user gave.
func (c *stackConfig) check(given func(flag string) bool) error {
	if c.dir == "" {
		return errors.New("--data DIR is required: the directory to keep everything in")
	}
	if len(c.parts) == 0 {
		return fmt.Errorf("--parts: name at least one of %s", strings.Join(parts(), ", "))
	}
	for _, part := range c.parts {
		if !slices.Contains(parts(), part) {
			return fmt.Errorf("--parts: there is no part %q, only %s", part, strings.Join(parts(), ", "))
		}
	}
	if given("listen") && !c.serves(partServer) {
		return fmt.Errorf("--listen is the address of the endpoint, which the part %s serves: leave it out, or add that to --parts", partServer)
	}
	for _, flag := range c.limitFlags {
		if given(flag) && !c.serves(partServer) {
			return fmt.Errorf("--%s is for the part %s: leave it out, or add that to --parts", flag, partServer)
		}
	}
	if err := c.limits.CheckLimits(); err != nil {
		return err
	}
	if !c.serves(partWorker) {
		if given("roles") {
			return fmt.Errorf("--roles are those of the part %s: leave it out, or add that to --parts", partWorker)
		}
		c.roles = nil
		return nil
	}
	for _, role := range []string{app.RoleCenter, app.RoleTransition} {
		if !slices.Contains(c.roles, role) {
			return fmt.Errorf("--roles: the role %s is needed; only %s may be left to a worker of its own", role, app.RoleOrchestrator)
		}
	}
	for _, role := range c.roles {
		if !slices.Contains(app.Roles(), role) {
			return fmt.Errorf("--roles: there is no role %q", role)
		}
	}
	return nil
}

func (c *stackConfig) serves(part string) bool { return slices.Contains(c.parts, part) }

// droverFunc runs the server, the worker or both in this process until ctx is done, and returns when both have drained.
type droverFunc func(ctx context.Context, cfg droverConfig, logger *zap.Logger) error

// droverConfig is what Drover needs to know of the servers it runs on.
type droverConfig struct {
	Settings *settings.Settings
	// Process is the one that all of it runs in, with the time that Drover has to end.
	Process app.Process `json:"-"`
	// DatabaseURL, SecretKeyFile, NATSURL, TemporalAddress and TemporalNamespace have the form of the environment variables of that name.
	DatabaseURL   string
	SecretKeyFile string
	// CAFile has the authority of the certificates of the endpoint and the transition host; empty without TLS.
	CAFile            string
	NATSURL           string
	TemporalAddress   string
	TemporalNamespace string
	// Server says that the server is wanted, and Limits what its accounts may have and what it keeps how long.
	Server bool
	Limits app.ServerConfig `json:"-"`
	// Roles are those of the worker in this process; without any there is none.
	Roles []string
	// ImagesDir is the root of the transition host's data.
	ImagesDir string
	// RebuildEntities says that Temporal's database is new: the workflows of the jobs in the store have to be started again. That has to
	// be done before the endpoint answers.
	RebuildEntities bool
}

// environment is what the other programs need to reach this stack.
func (c droverConfig) environment() []settings.Variable {
	variables := []settings.Variable{
		{Name: "DROVER_ENDPOINT", Value: c.Settings.Endpoint()},
		{Name: "DROVER_REGION", Value: c.Settings.Region},
		{Name: "DROVER_ACCOUNT", Value: c.Settings.AccountID},
		{Name: "ALIBABA_CLOUD_ACCESS_KEY_ID", Value: c.Settings.AccessKeyID},
		{Name: "ALIBABA_CLOUD_ACCESS_KEY_SECRET", Value: c.Settings.AccessKeySecret},
		{Name: "NATS_URL", Value: c.NATSURL},
		{Name: "TEMPORAL_ADDRESS", Value: c.TemporalAddress},
		{Name: "TEMPORAL_NAMESPACE", Value: c.TemporalNamespace},
		{Name: "DATABASE_URL", Value: c.DatabaseURL},
		{Name: "DROVER_SECRET_KEY_FILE", Value: c.SecretKeyFile},
	}
	if c.CAFile != "" {
		variables = append(variables, settings.Variable{Name: "DROVER_CA_FILE", Value: c.CAFile}, settings.Variable{Name: "DROVER_TLS", Value: app.TLSSelf})
	}
	return variables
}

// runStack starts everything, says so on stdout, and stops everything in order when ctx is done or a part fails.
func runStack(ctx context.Context, cfg stackConfig, drover droverFunc, stdout io.Writer, logger *zap.Logger) (err error) {
	dir, err := filepath.Abs(cfg.dir)
	if err != nil {
		return fmt.Errorf("resolve the data directory %s: %w", cfg.dir, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	lock, err := lockParts(dir, cfg.parts)
	if err != nil {
		return err
	}
	defer lock.Close()

	// A signal while it starts is no failure.
	defer func() {
		if errors.Is(context.Cause(ctx), app.ErrStopped) && errors.Is(err, app.ErrStopped) {
			err = nil
		}
	}()
	dc, err := cfg.setUp(ctx, dir, logger)
	if err != nil {
		return err
	}
	dc.Process = app.Process{Monitor: cfg.process.Monitor, ShutdownTimeout: cfg.share(stopCenterShare)}
	set := dc.Settings

	startCtx, cancelStart := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("not up after %v", startTimeout))
	defer cancelStart()
	var nats *natsserver.Server
	var temporal *temporalserver.Server
	temporalDir := filepath.Join(dir, "temporal")
	group, groupCtx := errgroup.WithContext(startCtx)
	if cfg.serves(partNATS) {
		group.Go(func() (err error) {
			nats, err = natsserver.Start(groupCtx, natsserver.Options{Dir: filepath.Join(dir, "nats"), Port: set.Ports.NATS}, logger.Named("nats"))
			return err
		})
	}
	if cfg.serves(partTemporal) {
		group.Go(func() (err error) {
			temporal, err = temporalserver.Start(groupCtx, temporalserver.Options{Dir: temporalDir, Port: set.Ports.Temporal}, logger.Named("temporal"))
			return err
		})
	}
	startErr := group.Wait()
	// Deferred calls run last to first: Temporal stops before NATS.
	if nats != nil {
		defer func() { err = errors.Join(err, within(cfg.share(stopNATSShare), cfg.part("nats server", nats.Stop))) }()
	}
	if temporal != nil {
		defer func() {
			err = errors.Join(err, within(cfg.share(stopTemporalShare), cfg.part("temporal server", temporal.Stop)))
		}()
	}
	if startErr != nil {
		return startErr
	}

	envFile := filepath.Join(dir, "dev.env")
	say := func(what string) error {
		if err := settings.WriteEnvironment(envFile, dc.environment()); err != nil {
			return err
		}
		fmt.Fprintf(stdout, "drover-dev ready: %s, data %s, environment %s\n", what, dir, envFile)
		return nil
	}
	if !dc.Server && len(dc.Roles) == 0 {
		if err := say(strings.Join(cfg.parts, " and ")); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	}

	if dc.Server {
		if dc.RebuildEntities, err = freshTemporal(startCtx, set, temporalDir, logger); err != nil {
			return err
		}
	}
	c := startCenter(ctx, drover, dc, logger)
	defer func() { err = errors.Join(err, within(cfg.share(stopCenterShare), c.stop)) }()
	if err := c.awaitReady(startCtx, dc); err != nil {
		return err
	}
	what := "worker of " + set.Endpoint()
	if dc.Server {
		what = "endpoint " + set.Endpoint()
		if err := temporalserver.Settle(temporalDir); err != nil {
			return err
		}
	}
	if err := say(what); err != nil {
		return err
	}

	select {
	case <-ctx.Done():
		return nil
	case <-c.ended:
		return c.unexpectedEnd(ctx)
	}
}

// setUp makes what is in the data directory before any part runs. Processes that share it take turns.
func (c *stackConfig) setUp(ctx context.Context, dir string, logger *zap.Logger) (droverConfig, error) {
	turn, err := takeTurn(dir)
	if err != nil {
		return droverConfig{}, err
	}
	defer turn.Close()
	set, err := settings.Load(dir, c.listen, settings.Serves{
		Endpoint: c.serves(partServer), Temporal: c.serves(partTemporal), NATS: c.serves(partNATS), Transition: c.serves(partWorker), TLS: c.tls,
	})
	if err != nil {
		return droverConfig{}, err
	}
	if host, _, _ := net.SplitHostPort(set.Listen); !set.TLS && c.serves(partServer) && !net.ParseIP(host).IsLoopback() && host != "localhost" {
		return droverConfig{}, fmt.Errorf("the endpoint is to listen at %s, which is reached from other machines: give --tls", set.Listen)
	}
	for _, d := range []string{"center", "images"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return droverConfig{}, fmt.Errorf("make the data directory: %w", err)
		}
	}
	dc := droverConfig{
		Settings:          set,
		DatabaseURL:       (&url.URL{Scheme: "sqlite", Path: filepath.Join(dir, "center", "center.db")}).String(),
		SecretKeyFile:     filepath.Join(dir, secretKeyFile),
		NATSURL:           set.NATSURL(),
		TemporalAddress:   set.TemporalAddress(),
		TemporalNamespace: temporalserver.DefaultNamespace,
		Server:            c.serves(partServer),
		Limits:            c.limits,
		Roles:             c.roles,
		ImagesDir:         filepath.Join(dir, "images"),
	}
	// Not in the folder of the database: who takes that away has not the key.
	if err := store.MakeKeyFile(dc.SecretKeyFile); err != nil {
		return droverConfig{}, fmt.Errorf("make the secret key: %w", err)
	}
	if set.TLS {
		dc.CAFile = filepath.Join(dir, caFile)
		record := app.Connections{DatabaseURL: dc.DatabaseURL, SecretKeyFile: dc.SecretKeyFile}
		if err := app.WriteAuthorities(ctx, record, dc.CAFile, logger); err != nil {
			return droverConfig{}, err
		}
	}
	return dc, nil
}

// freshTemporal reports whether the Temporal database in dir is a new one. It waits for the server, which may be another process's.
func freshTemporal(ctx context.Context, set *settings.Settings, dir string, logger *zap.Logger) (bool, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for said := false; ; said = true {
		err := dial(ctx, set.TemporalAddress())
		if err == nil {
			return temporalserver.Fresh(dir)
		}
		if !said {
			logger.Info("waiting for Temporal, which another drover-dev of this data directory serves", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return false, fmt.Errorf("temporal does not answer; does another drover-dev with --parts %s use this data directory? %w",
				partTemporal, errors.Join(context.Cause(ctx), err))
		case <-tick.C:
		}
	}
}

func dial(ctx context.Context, address string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err == nil {
		conn.Close()
	}
	return err
}

// part has a step of the shutdown reported when it does not end.
func (c *stackConfig) part(name string, stop func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		defer c.process.Monitor.Part(name)()
		return stop(ctx)
	}
}

// within calls stop with a context of its own that ends after d: the one that said to stop is done already.
func within(d time.Duration, stop func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), d, fmt.Errorf("gave up after %v", d))
	defer cancel()
	return stop(ctx)
}

// center is Drover itself, running in this process.
type center struct {
	cancel context.CancelFunc
	ended  chan struct{} // closed once err is set
	err    error
}

func startCenter(ctx context.Context, drover droverFunc, cfg droverConfig, logger *zap.Logger) *center {
	ctx, cancel := context.WithCancel(ctx)
	c := &center{cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(c.ended)
		c.err = drover(ctx, cfg, logger)
	}()
	return c
}

// awaitReady returns when the transition host accepts connections and the endpoint says that it is ready, as far as they are wanted.
func (c *center) awaitReady(ctx context.Context, cfg droverConfig) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready(ctx, cfg)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the center is not ready: %w", errors.Join(context.Cause(ctx), err))
		case <-c.ended:
			return c.unexpectedEnd(ctx)
		case <-tick.C:
		}
	}
}

// ready reports why the center is not ready; nil means that it is.
func ready(ctx context.Context, cfg droverConfig) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if len(cfg.Roles) > 0 {
		if err := dial(ctx, cfg.Settings.TransitionListen()); err != nil {
			return err
		}
	}
	if !cfg.Server {
		return nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, cfg.Settings.Endpoint()+"/readyz?exclude=nats", http.NoBody)
	if err != nil {
		return err
	}
	transport, err := smc.Config{CAFile: cfg.CAFile}.Transport()
	if err != nil {
		return err
	}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return fmt.Errorf("%s answers %s: %s", req.URL, resp.Status, bytes.TrimSpace(text))
	}
	return nil
}

// unexpectedEnd is the error for a center that has ended while ctx, unless it is done, wants it to run.
func (c *center) unexpectedEnd(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errors.New("the center ended although nobody asked it to") // stop adds what it ended with
}

// stop drains the center and returns what it ended with, or gives up when ctx is done.
func (c *center) stop(ctx context.Context) error {
	c.cancel()
	select {
	case <-c.ended:
		if errors.Is(c.err, context.Canceled) {
			return nil
		}
		return c.err
	case <-ctx.Done():
		return fmt.Errorf("the center has not drained: %w", context.Cause(ctx))
	}
}
