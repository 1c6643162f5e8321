// Package temporalserver runs a Temporal server inside this process, on loopback, with its data in one SQLite file.
//
// It is meant for development and demonstrations: one machine, one shard, no authentication. Everything the server has acknowledged is
// in the file before it answers, so a process that is killed continues where it was when it is started again.
package temporalserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/server/common/authorization"
	"go.temporal.io/server/common/cluster"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/dynamicconfig"
	"go.temporal.io/server/common/headers"
	"go.temporal.io/server/common/log"
	"go.temporal.io/server/common/membership/static"
	sqliteplugin "go.temporal.io/server/common/persistence/sql/sqlplugin/sqlite"
	"go.temporal.io/server/common/primitives"
	"go.temporal.io/server/temporal"
	"go.uber.org/zap"

	"github.com/drover/drover/tcp/port"
)

// Version is the version of the embedded Temporal server. A database is only ever used by the version that made it.
const Version = headers.ServerVersion

const (
	loopback    = "127.0.0.1"
	clusterName = "active"

	// DefaultNamespace is the namespace made when Options names none.
	DefaultNamespace = "drover"
	// DefaultRetention is how long the history of a closed workflow can still be looked at: long enough to ask on Monday what happened
	// on Friday, short enough to keep the file small.
	DefaultRetention = 7 * 24 * time.Hour
)

// Options says where and how the server runs.
type Options struct {
	// Dir holds the database and its version stamp. It is created when absent, and must not be used by another process.
	Dir string
	// Port is the frontend's port on 127.0.0.1. Required; the other services take free ports at each start.
	Port int
	// Namespace is created when absent. Default: DefaultNamespace.
	Namespace string
	// Retention of closed workflows in Namespace; also applied to a namespace that is there already. Default: DefaultRetention.
	Retention time.Duration
	// SearchAttributes are the custom search attributes of a namespace that has to be created.
	SearchAttributes map[string]enumspb.IndexedValueType
}

// Server is a running Temporal server.
type Server struct {
	server  temporal.Server
	address string
	level   zap.AtomicLevel // least level of the server's messages that are logged
}

// Start starts the server and returns once its frontend answers and the namespace can be used, or when ctx is done.
//
// Of the server's own messages only warnings and errors are logged, at info they would bury those of Drover; and only errors while it
// starts and stops, when its services always warn that they miss one another.
func Start(ctx context.Context, opts Options, logger *zap.Logger) (*Server, error) {
	if opts.Namespace == "" {
		opts.Namespace = DefaultNamespace
	}
	if opts.Retention == 0 {
		opts.Retention = DefaultRetention
	}
	dir, err := filepath.Abs(opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("temporal: resolve %s: %w", opts.Dir, err)
	}
	opts.Dir = dir

	db := databaseConfig(filepath.Join(dir, databaseFile))
	err = prepareDatabase(dir, db, namespace{
		name:             opts.Namespace,
		retention:        opts.Retention,
		searchAttributes: opts.SearchAttributes,
	}, logger)
	if err != nil {
		return nil, err
	}

	// The services are given numbers of ports, and take them one after the other: until then nobody else gets them.
	var inner [3]int
	var all []*port.Held
	defer func() {
		for _, held := range all {
			held.Close()
		}
	}()
	for i := range inner {
		held, err := port.Hold()
		if err != nil {
			return nil, fmt.Errorf("temporal: %w", err)
		}
		inner[i], all = held.Number(), append(all, held)
	}
	cfg := serverConfig(opts.Port, inner, db)
	level := zap.NewAtomicLevelAt(zap.ErrorLevel)
	srvLog := log.NewZapLogger(logger.WithOptions(zap.IncreaseLevel(level)))
	srv, err := temporal.NewServer(
		temporal.WithConfig(cfg),
		temporal.ForServices(temporal.DefaultServices),
		temporal.WithStaticHosts(staticHosts(cfg)),
		temporal.WithLogger(srvLog),
		temporal.WithAuthorizer(authorization.NewNoopAuthorizer()),
		temporal.WithClaimMapper(func(*config.Config) authorization.ClaimMapper { return authorization.NewNoopClaimMapper() }),
		temporal.WithDynamicConfigClient(dynamicConfig()),
	)
	if err != nil {
		return nil, fmt.Errorf("temporal: assemble the server: %w", err)
	}
	s := &Server{server: srv, address: cfg.PublicClient.HostPort, level: level}

	if err := s.start(ctx); err != nil {
		return nil, err
	}
	if err := ensureNamespace(ctx, s.address, opts.Namespace, opts.Retention); err != nil {
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		return nil, errors.Join(err, s.Stop(stopCtx))
	}
	level.SetLevel(zap.WarnLevel)
	return s, nil
}

// start runs the server's own Start, which ignores most of a context, so that ctx is still obeyed.
func (s *Server) start(ctx context.Context) error {
	started := make(chan error, 1)
	go func() { started <- s.server.Start() }()
	select {
	case err := <-started:
		if err != nil {
			return fmt.Errorf("temporal: start on %s: %w", s.address, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("temporal: start on %s: %w", s.address, context.Cause(ctx))
	}
}

// Address is the host and port of the frontend.
func (s *Server) Address() string { return s.address }

// Stop stops the server. It gives up waiting when ctx is done; the database is consistent then, too.
func (s *Server) Stop(ctx context.Context) error {
	s.level.SetLevel(zap.ErrorLevel)
	stopped := make(chan error, 1)
	go func() { stopped <- s.server.Stop() }()
	select {
	case err := <-stopped:
		if err != nil {
			return fmt.Errorf("temporal: stop: %w", err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("temporal: stop: %w", context.Cause(ctx))
	}
}

// databaseConfig tells Temporal's SQLite plugin how to open the file.
//
// In WAL mode a commit is one append to the log, written before the server answers: a killed process loses nothing. synchronous=FULL
// also syncs the log at each commit, so that a power cut does not leave Temporal behind the store, which syncs its commits as well; it
// costs a fraction of a millisecond on an SSD. There is one connection: the plugin's transactions start as readers, and two of them
// that both turn writer would fail with SQLITE_BUSY no matter how long they waited.
func databaseConfig(path string) *config.SQL {
	return &config.SQL{
		PluginName:   sqliteplugin.PluginName,
		DatabaseName: path,
		ConnectAttributes: map[string]string{
			"mode":         "rwc",
			"busy_timeout": "10000",
			"journal_mode": "wal",
			"synchronous":  "full",
		},
		MaxConns: 1,
	}
}

// serverConfig is the configuration of a server whose frontend has a port, and its other services each one of inner.
func serverConfig(port int, inner [3]int, db *config.SQL) *config.Config {
	frontend := net.JoinHostPort(loopback, strconv.Itoa(port))
	services := map[string]config.Service{
		string(primitives.FrontendService): {RPC: config.RPC{GRPCPort: port, BindOnIP: loopback}},
	}
	for i, name := range []primitives.ServiceName{primitives.HistoryService, primitives.MatchingService, primitives.WorkerService} {
		services[string(name)] = config.Service{RPC: config.RPC{GRPCPort: inner[i], BindOnIP: loopback}}
	}

	const disabled = "disabled"
	return &config.Config{
		Global: config.Global{
			Membership: config.Membership{MaxJoinDuration: 30 * time.Second, BroadcastAddress: loopback},
		},
		Persistence: config.Persistence{
			DefaultStore:     db.PluginName,
			VisibilityStore:  db.PluginName,
			NumHistoryShards: 1,
			DataStores:       map[string]config.DataStore{db.PluginName: {SQL: db}},
		},
		ClusterMetadata: &cluster.Config{
			FailoverVersionIncrement: 10,
			MasterClusterName:        clusterName,
			CurrentClusterName:       clusterName,
			ClusterInformation: map[string]cluster.ClusterInformation{
				clusterName: {Enabled: true, InitialFailoverVersion: 1, RPCAddress: frontend},
			},
		},
		DCRedirectionPolicy: config.DCRedirectionPolicy{Policy: "noop"},
		Services:            services,
		Archival: config.Archival{
			History:    config.HistoryArchival{State: disabled},
			Visibility: config.VisibilityArchival{State: disabled},
		},
		NamespaceDefaults: config.NamespaceDefaults{
			Archival: config.ArchivalNamespaceDefaults{
				History:    config.HistoryArchivalNamespaceDefaults{State: disabled},
				Visibility: config.VisibilityArchivalNamespaceDefaults{State: disabled},
			},
		},
		PublicClient: config.PublicClient{HostPort: frontend},
	}
}

// staticHosts tells each service where the others are. Without it they would find each other by gossip, which takes seconds and ports.
func staticHosts(cfg *config.Config) map[primitives.ServiceName]static.Hosts {
	hosts := make(map[primitives.ServiceName]static.Hosts, len(cfg.Services))
	for name, svc := range cfg.Services {
		hosts[primitives.ServiceName(name)] = static.SingleLocalHost(net.JoinHostPort(loopback, strconv.Itoa(svc.RPC.GRPCPort)))
	}
	return hosts
}

// queueWorkers is how many tasks of each of Temporal's queues are worked on at once: enough to keep the database busy.
const queueWorkers = 16

// dynamicConfig holds what differs from the defaults, which are made for a cluster.
func dynamicConfig() dynamicconfig.StaticClient {
	return dynamicconfig.StaticClient{
		// One partition: a task never waits for the forwarding between partitions.
		dynamicconfig.MatchingNumTaskqueueReadPartitions.Key():  1,
		dynamicconfig.MatchingNumTaskqueueWritePartitions.Key(): 1,
		// One process serves all: the default cache would hold 128,000 workflows.
		dynamicconfig.HistoryCacheHostLevelMaxSize.Key(): 8192,
		// One connection to the database: of 512 tasks at once, the default, nearly all would wait for it until their 3 seconds are over, and
		// be tried again. A thousand timers that fire at the same moment are worked off as fast as the database takes them.
		dynamicconfig.TimerProcessorSchedulerWorkerCount.Key():      queueWorkers,
		dynamicconfig.TransferProcessorSchedulerWorkerCount.Key():   queueWorkers,
		dynamicconfig.VisibilityProcessorSchedulerWorkerCount.Key(): queueWorkers,
		// The limits for one tenant of many make no sense for the only one.
		dynamicconfig.FrontendMaxNamespaceVisibilityRPSPerInstance.Key(): 100,
		dynamicconfig.WorkflowExecutionMaxInFlightUpdates.Key():          100,
	}
}
