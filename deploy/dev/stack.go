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
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/deploy/dev/internal/natsserver"
	"github.com/drover/drover/deploy/dev/internal/settings"
	"github.com/drover/drover/deploy/dev/internal/temporalserver"
)

const (
	defaultListen = settings.DefaultListen

	// startTimeout bounds the start of all servers: a small machine under load needs a fraction of it.
	startTimeout = 2 * time.Minute

	// How long each may take to stop, in this order; together less than shutdownTimeout.
	stopCenterTimeout   = 6 * time.Second
	stopTemporalTimeout = 2500 * time.Millisecond
	stopNATSTimeout     = 750 * time.Millisecond
)

// errStopped is the cause of a context that a signal ended.
var errStopped = errors.New("stopped by a signal")

type stackConfig struct {
	dir    string
	listen string // empty: as at the last start
	roles  []string
}

// droverFunc runs the center and the transition host in this process until ctx is done, and returns when both have drained.
type droverFunc func(ctx context.Context, cfg droverConfig, logger *zap.Logger) error

// droverConfig is what Drover needs to know of the servers it runs on.
type droverConfig struct {
	Settings *settings.Settings
	// DatabaseURL, SecretKeyFile, NATSURL, TemporalAddress and TemporalNamespace have the form of the environment variables of that name.
	DatabaseURL       string
	SecretKeyFile     string
	NATSURL           string
	TemporalAddress   string
	TemporalNamespace string
	// Roles are those of the worker in this process.
	Roles []string
	// ImagesDir is the root of the transition host's data.
	ImagesDir string
	// RebuildEntities says that Temporal's database is new: the workflows of the jobs in the store have to be started again. That has to
	// be done before the endpoint answers.
	RebuildEntities bool
}

// environment is what the other programs need to reach this stack.
func (c droverConfig) environment() []settings.Variable {
	return []settings.Variable{
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
	lock, err := lockDir(dir)
	if err != nil {
		return err
	}
	defer lock.Close()

	// A signal while it starts is no failure.
	defer func() {
		if errors.Is(context.Cause(ctx), errStopped) && errors.Is(err, errStopped) {
			err = nil
		}
	}()
	set, err := settings.Load(dir, cfg.listen)
	if err != nil {
		return err
	}
	if host, _, _ := net.SplitHostPort(set.Listen); !net.ParseIP(host).IsLoopback() && host != "localhost" {
		logger.Warn("the endpoint listens beyond loopback, without TLS: whoever can listen in sees tokens and data",
			zap.String("listen", set.Listen))
	}

	startCtx, cancelStart := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("not up after %v", startTimeout))
	defer cancelStart()
	var nats *natsserver.Server
	var temporal *temporalserver.Server
	group, groupCtx := errgroup.WithContext(startCtx)
	group.Go(func() (err error) {
		nats, err = natsserver.Start(groupCtx, natsserver.Options{
			Dir:  filepath.Join(dir, "nats"),
			Port: set.Ports.NATS,
		}, logger.Named("nats"))
		return err
	})
	group.Go(func() (err error) {
		temporal, err = temporalserver.Start(groupCtx, temporalserver.Options{
			Dir:  filepath.Join(dir, "temporal"),
			Port: set.Ports.Temporal,
		}, logger.Named("temporal"))
		return err
	})
	startErr := group.Wait()
	// Deferred calls run last to first: Temporal stops before NATS.
	if nats != nil {
		defer func() { err = errors.Join(err, within(stopNATSTimeout, nats.Stop)) }()
	}
	if temporal != nil {
		defer func() { err = errors.Join(err, within(stopTemporalTimeout, temporal.Stop)) }()
	}
	if startErr != nil {
		return startErr
	}

	dc := droverConfig{
		Settings:          set,
		DatabaseURL:       (&url.URL{Scheme: "sqlite", Path: filepath.Join(dir, "center", "center.db")}).String(),
		SecretKeyFile:     filepath.Join(dir, "secret.key"),
		NATSURL:           nats.URL(),
		TemporalAddress:   temporal.Address(),
		TemporalNamespace: temporalserver.DefaultNamespace,
		Roles:             cfg.roles,
		ImagesDir:         filepath.Join(dir, "images"),
		RebuildEntities:   temporal.Fresh(),
	}
	for _, d := range []string{filepath.Join(dir, "center"), dc.ImagesDir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fmt.Errorf("make the data directory: %w", err)
		}
	}
	// Not in the folder of the database: who takes that away has not the key.
	if err := store.MakeKeyFile(dc.SecretKeyFile); err != nil {
		return fmt.Errorf("make the secret key: %w", err)
	}
	c := startCenter(ctx, drover, dc, logger)
	defer func() { err = errors.Join(err, within(stopCenterTimeout, c.stop)) }()
	if err := c.awaitReady(startCtx, set); err != nil {
		return err
	}
	if err := temporal.Settle(); err != nil {
		return err
	}
	envFile := filepath.Join(dir, "dev.env")
	if err := settings.WriteEnvironment(envFile, dc.environment()); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "drover-dev ready: endpoint %s, data %s, environment %s\n", set.Endpoint(), dir, envFile)

	select {
	case <-ctx.Done():
		return nil
	case <-c.ended:
		return c.unexpectedEnd(ctx)
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

// awaitReady returns when the transition host accepts connections and the endpoint says that it is ready.
func (c *center) awaitReady(ctx context.Context, set *settings.Settings) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready(ctx, set)
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
func ready(ctx context.Context, set *settings.Settings) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", set.TransitionListen())
	if err != nil {
		return err
	}
	conn.Close()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, set.Endpoint()+"/readyz", http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
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
