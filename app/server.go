package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.temporal.io/sdk/client"
	"go.uber.org/zap"

	"github.com/drover/drover/center"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/events"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/temporalenv"
)

// Connections are the servers that the processes of the center work on.
type Connections struct {
	// DatabaseURL is sqlite:///absolute/path or postgres://user:password@host/database (DATABASE_URL).
	DatabaseURL string
	// SecretKeyFile holds the keys that seal what is secret in the database, see store.LoadSealer (DROVER_SECRET_KEY_FILE).
	SecretKeyFile string
	// NATSURL may be a list separated by commas (NATS_URL).
	NATSURL string
	// TemporalAddress is host:port (TEMPORAL_ADDRESS).
	TemporalAddress string
	// TemporalNamespace must exist (TEMPORAL_NAMESPACE).
	TemporalNamespace string
	// NATSSecurity and TemporalSecurity are how these servers and this process know each other (NATS_... and TEMPORAL_...).
	NATSSecurity     events.Security
	TemporalSecurity temporalenv.Security
}

// ConnectionsFromEnv reads the variables the fields name. getenv is os.Getenv outside tests.
func ConnectionsFromEnv(getenv func(string) string) Connections {
	c := Connections{
		DatabaseURL: getenv("DATABASE_URL"), SecretKeyFile: getenv("DROVER_SECRET_KEY_FILE"), NATSURL: getenv("NATS_URL"),
		TemporalAddress: getenv(temporalenv.Address), TemporalNamespace: getenv(temporalenv.Namespace),
		NATSSecurity: events.SecurityFromEnv(getenv), TemporalSecurity: temporalenv.SecurityFromEnv(getenv),
	}
	if c.TemporalNamespace == "" {
		c.TemporalNamespace = client.DefaultNamespace
	}
	return c
}

// Check reports which connection is not named, and where it is to be named.
func (c Connections) Check() error {
	if err := c.checkRecord(); err != nil {
		return err
	}
	for _, setting := range []struct{ name, flag, value string }{
		{"NATS_URL", "nats-url", c.NATSURL},
		{temporalenv.Address, "temporal-address", c.TemporalAddress},
	} {
		if setting.value == "" {
			return fmt.Errorf("%s is not set: set it, or give --%s", setting.name, setting.flag)
		}
	}
	if err := c.TemporalSecurity.Apply(&client.Options{}); err != nil {
		return err
	}
	_, err := c.NATSSecurity.Options()
	return err
}

// forEveryone are the permissions of those who have nothing to do with a file.
const forEveryone = 0o007

// openRecord opens the center's database with its secret keys.
func (c Connections) openRecord(ctx context.Context, log *zap.Logger, more ...store.Option) (*store.Store, error) {
	sealer, err := store.LoadSealer(c.SecretKeyFile)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(c.SecretKeyFile); err == nil && info.Mode()&forEveryone != 0 {
		log.Warn("the secret key file is open to every user of this machine: chmod 0600 it", zap.String("file", c.SecretKeyFile))
	}
	return store.Open(ctx, c.DatabaseURL, append(more, store.WithSealer(sealer))...)
}

// ServerConfig is what RunServer needs.
type ServerConfig struct {
	Connections
	// Process is the process that the server is part of.
	Process Process
	// Listen is the address of the endpoint and the agent API, host:port.
	Listen string
	// TLS says how Listen shows who it is.
	TLS TLSConfig
	// RegionID is the one region of the center (DROVER_REGION).
	RegionID string
	// AccountID, AccessKeyID and AccessKeySecret are stored at the start: the first key pair, with which all else is
	// done. Without AccessKeyID the keys already in the store are all there are.
	AccountID, AccessKeyID, AccessKeySecret string
	// RateLimit is how many calls a second each access key may make, 0 for any number; RateBurst how many at once.
	RateLimit float64
	RateBurst int
	// SourceQuota and JobQuota are how many source servers and jobs an account may have; 0 for 1,000.
	SourceQuota, JobQuota int
	// RunningQuota is how many jobs of an account may be Running at once. It is kept in the database: where several servers
	// give different ones, that of the last one to start holds. 0 leaves what is there, which is 50 at first.
	RunningQuota int
	// VSwitchesFile is a JSON file of VSwitchIds and their VpcIds, which jobs are then held against; empty for none.
	VSwitchesFile string
	// RebuildEntities starts the entity of every job in the store, as Rebuild does: Temporal is empty.
	RebuildEntities bool
	// Retention says how long what is no longer needed is kept; the zero value keeps it for ever.
	Retention center.Retention
	// Stream says how long and how much of the events the stream keeps; the zero value all of them for ever.
	Stream events.StreamConfig
}

// followInterval is how late, at most, an event or an agent learns of what another process committed.
const followInterval = 200 * time.Millisecond

// RunServer serves the endpoint, the agent API, the relay and the sweeps until ctx is done or a part fails. It ends in that order: what
// accepts calls, long polls and other calls, the connection to NATS, the database.
func RunServer(ctx context.Context, config ServerConfig, log *zap.Logger) error {
	process := config.Process.orDefault()
	metrics := process.Monitor
	record, opened, err := config.awaitRecord(ctx, metrics, log, store.WithObserver(newTransitionMetrics(metrics)))
	defer opened()
	if err != nil {
		return err
	}
	defer process.closing("database", record.Close)()
	registerPools(metrics, record, "server")
	registerFigures(metrics, record, log.Named("metrics"))
	defer requireRecord(metrics, record)()
	if config.AccessKeyID != "" {
		key := store.AccessKey{AccessKeyID: config.AccessKeyID, Secret: config.AccessKeySecret, AccountID: config.AccountID}
		if err := record.PutAccessKey(ctx, key); err != nil {
			return fmt.Errorf("store the first access key: %w", err)
		}
	}
	if err := config.setVSwitches(ctx, record); err != nil {
		return err
	}
	if config.RebuildEntities {
		if err := record.ForgetWorkflows(ctx); err != nil {
			return fmt.Errorf("prepare to rebuild the entities: %w", err)
		}
	}
	if config.RunningQuota > 0 {
		if err := record.SetRunningQuota(ctx, config.RunningQuota); err != nil {
			return fmt.Errorf("set the quota of running jobs: %w", err)
		}
	}
	dataPlaneKey, err := record.DataPlaneKey(ctx)
	if err != nil {
		return err
	}
	shows, err := newIdentity(ctx, config.TLS, record, []string{config.Listen}, log.Named("tls"))
	if err != nil {
		return err
	}
	// Lazy: the endpoint answers what the store can answer also while Temporal is away.
	options, err := config.temporalOptions(metrics, log)
	if err != nil {
		return err
	}
	temporal, err := client.NewLazyClient(options)
	if err != nil {
		return fmt.Errorf("temporal client: %w", err)
	}
	defer temporal.Close()
	engine := &center.TemporalEngine{Client: temporal, Namespace: config.TemporalNamespace, Store: record}
	if config.RebuildEntities {
		rebuild := RebuildConfig{Connections: config.Connections, RegionID: config.RegionID}
		if err := rebuild.rebuild(ctx, record, engine, newReporter(io.Discard), log.Named("rebuild")); err != nil {
			return fmt.Errorf("rebuild the entities: %w", err)
		}
	} else if err := requireRebuilt(ctx, record); err != nil {
		return err
	}
	endpoint := center.NewEndpoint(center.Config{
		Store: record, Engine: engine, DataPlaneKey: dataPlaneKey, Trust: shows.trust, RegionID: config.RegionID, Logger: log.Named("endpoint"),
		RateLimit: config.RateLimit, RateBurst: config.RateBurst, SourceQuota: config.SourceQuota, JobQuota: config.JobQuota,
		Health: metrics.Health(), Observe: newCallMetrics(metrics).observe,
	})
	defer requireTemporal(metrics, temporal)()
	defer endpoint.Close()
	nc, err := config.nats("drover-server", log)
	if err != nil {
		return err
	}
	defer process.drain(nc, log)
	defer requireNATS(metrics, nc)()
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("JetStream: %w", err)
	}
	relay := events.NewRelay(js, record, events.RelayConfig{Stream: config.Stream}, log.Named("relay"))
	registerRelay(metrics, relay)

	group, ctx := process.group(ctx)
	group.run("relay", func() error { return relay.Run(ctx) })
	group.run("relay", func() error { return wakeRelay(ctx, record, relay) })
	group.run("follow", func() error {
		return record.Follow(ctx, followInterval, func(err error) { log.Warn("the database does not answer", zap.Error(err)) })
	})
	group.run("retention", func() error {
		return center.Retain(ctx, record, engine, config.Retention, firstInStream(js), log.Named("retention"))
	})
	group.run("sweep", func() error { return center.Sweep(ctx, record, engine, log.Named("sweep")) })
	group.run("presence", func() error { return reportPresence(ctx, record, "drover-server", "", log) })
	group.run("certificates", func() error { return shows.run(ctx) })
	group.run("endpoint", func() error {
		return serveHTTP(ctx, config.Listen, shows, endpoint.Handler(), process.share(requestsShare), log.Named("endpoint"))
	})
	return group.Wait()
}

// setVSwitches stores the network list for all processes of the center.
func (c ServerConfig) setVSwitches(ctx context.Context, record *store.Store) error {
	var list smc.VSwitches
	if c.VSwitchesFile != "" {
		data, err := os.ReadFile(c.VSwitchesFile)
		if err != nil {
			return fmt.Errorf("read the network list: %w", err)
		}
		if list, err = smc.ParseVSwitches(data); err != nil {
			return fmt.Errorf("network list %s: %w", c.VSwitchesFile, err)
		}
	}
	if err := record.SetVSwitches(ctx, list); err != nil {
		return fmt.Errorf("store the network list: %w", err)
	}
	return nil
}

// firstInStream returns what tells the sequence of the first event that the stream holds.
func firstInStream(js jetstream.JetStream) func(context.Context) (uint64, error) {
	return func(ctx context.Context) (uint64, error) {
		stream, err := js.Stream(ctx, events.StreamName)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return 0, nil // it may be on its way; until then no event is in excess
		}
		if err != nil {
			return 0, fmt.Errorf("stream %s: %w", events.StreamName, err)
		}
		return stream.CachedInfo().State.FirstSeq, nil
	}
}

// wakeRelay has events on their way as soon as they are committed in this process.
func wakeRelay(ctx context.Context, record *store.Store, relay *events.Relay) error {
	for {
		changed := record.OutboxChanged()
		relay.Wake()
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// serveHTTP serves until ctx is done, then lets the requests under way end.
func serveHTTP(ctx context.Context, address string, shows *identity, handler http.Handler, grace time.Duration, log *zap.Logger) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", address, err)
	}
	return serveListener(ctx, listener, shows, handler, grace, log)
}

// maxHeader is how long the line and the headers of a request may be. It lets through a query somewhat longer than one may be, for the
// endpoint to refuse it with a code and a RequestId; what is longer still gets net/http's bare 431, so that nobody without a key fills the
// memory.
const maxHeader = smc.MaxBody + 64<<10

// serveListener serves https with what shows shows, and plain http when that is nil. When ctx is done, requests under way have grace to
// end; those that only wait for something, a third of it.
func serveListener(ctx context.Context, listener net.Listener, shows *identity, handler http.Handler, grace time.Duration, log *zap.Logger) error {
	requests, cancelRequests := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelRequests()
	server := &http.Server{
		Handler: handler, ErrorLog: zap.NewStdLog(log), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: maxHeader,
		BaseContext: func(net.Listener) context.Context { return requests }, TLSConfig: shows.config(),
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		// Long polls have nothing to finish: they end as soon as the others have had a moment.
		time.AfterFunc(grace/3, cancelRequests)
		ending, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		if server.Shutdown(ending) != nil {
			log.Warn("requests did not end in time and were cut off", zap.Duration("limit", grace))
			_ = server.Close()
		}
	}()
	log.Info("listening", zap.String("address", listener.Addr().String()), zap.Bool("tls", shows != nil))
	serve := server.Serve
	if shows != nil {
		serve = func(listener net.Listener) error { return server.ServeTLS(listener, "", "") }
	} else if !onLoopback(listener.Addr().String()) {
		log.Warn("plain http beyond loopback: whoever is on the way can read tokens and data", zap.String("address", listener.Addr().String()))
	}
	err := serve(listener)
	if errors.Is(err, http.ErrServerClosed) {
		<-stopped
		return nil
	}
	return fmt.Errorf("serve %s: %w", listener.Addr(), err)
}
