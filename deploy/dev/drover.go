package main

import (
	"context"
	"os"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/drover/drover/app"
	"github.com/drover/drover/smc"
)

// runDrover runs the server and the worker in this process, or the one of them that is wanted.
func runDrover(ctx context.Context, cfg droverConfig, logger *zap.Logger) error {
	connections := app.Connections{
		DatabaseURL: cfg.DatabaseURL, SecretKeyFile: cfg.SecretKeyFile, NATSURL: cfg.NATSURL,
		TemporalAddress: cfg.TemporalAddress, TemporalNamespace: cfg.TemporalNamespace,
	}
	mode := app.TLSOff
	if cfg.Settings.TLS {
		mode = app.TLSSelf
	}
	group, ctx := errgroup.WithContext(ctx)
	if cfg.Server {
		group.Go(func() error {
			server := cfg.Limits
			server.Connections, server.Process, server.Listen = connections, cfg.Process, cfg.Settings.Listen
			server.RegionID, server.AccountID = cfg.Settings.Region, cfg.Settings.AccountID
			server.AccessKeyID, server.AccessKeySecret = cfg.Settings.AccessKeyID, cfg.Settings.AccessKeySecret
			server.RebuildEntities, server.TLS = cfg.RebuildEntities, app.TLSConfig{Mode: mode, CAFile: cfg.CAFile}
			return app.RunServer(ctx, server, logger.Named("server"))
		})
	}
	if len(cfg.Roles) > 0 {
		group.Go(func() error {
			return app.RunWorker(ctx, app.WorkerConfig{
				Connections: connections, Process: cfg.Process, Roles: cfg.Roles, DataDir: cfg.ImagesDir, TransitionListen: cfg.Settings.TransitionListen(), TLS: app.TLSConfig{Mode: mode},
				SourceWait: app.SourceWaitFromEnv(os.Getenv), TargetWait: app.TargetWaitFromEnv(os.Getenv), OrphanGrace: app.OrphanGraceFromEnv(os.Getenv),
				Orchestrator: app.OrchestratorConfig{
					SMC: smc.Config{
						Endpoint: cfg.Settings.Endpoint(), RegionID: cfg.Settings.Region,
						AccessKeyID: cfg.Settings.AccessKeyID, AccessKeySecret: cfg.Settings.AccessKeySecret,
						CAFile: cfg.CAFile,
					},
					AccountID: cfg.Settings.AccountID, Bridge: os.Getenv("DROVER_BRIDGE") != "off",
				},
			}, logger.Named("worker"))
		})
	}
	return group.Wait()
}
