// Command drover-server is the endpoint of a center: the SMC API, the agents' API, the relay of events and the sweeps.
package main

import (
	"context"
	"os"

	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/drover/drover/app"
	"github.com/drover/drover/smc"
)

const usage = `Usage: drover-server [flags]
       drover-server doctor|rebuild|backup|restore|events replay [flags]
       drover-server ca show|add|use|drop [flags]

Serves the Server Migration Center API, and the API its agents speak. Any number of servers may share one database.

Commands, each with its own --help:
  doctor         look over the center and list what is wrong, with what to do
  rebuild        start the entities of the database's jobs in Temporal: a new one, after a loss, after a restore
  backup         copy the database and the images into a folder, while everything runs
  restore        give back what is in a backup
  events replay  publish events again that the stream has lost
  ca             show and change the certificate authority that --tls self makes

NATS_USER and NATS_PASSWORD, NATS_CREDS, NATS_CA, NATS_CERT and NATS_KEY say how NATS and this program know each other; TEMPORAL_API_KEY,
TEMPORAL_TLS and the other variables of Temporal's own tools do so for Temporal: docs/security.md.

Flags (the variable in brackets is read when the flag is not given):
`

func main() { os.Exit(program(os.Getenv).Main(os.Args[1:], os.Stdout, os.Stderr)) }

func program(getenv func(string) string) app.Program {
	config := &app.ServerConfig{Connections: app.ConnectionsFromEnv(getenv), TLS: app.TLSFromEnv(getenv), AccessKeySecret: getenv(smc.EnvAccessKeySecret)}
	return app.Program{
		Name: "drover-server", Usage: usage, Check: config.Check, Commands: append(commands(getenv), app.AuthorityCommands(app.ConnectionsFromEnv(getenv))...),
		Define: func(flags *pflag.FlagSet) {
			app.ConnectionFlags(flags, &config.Connections)
			flags.StringVar(&config.Listen, "listen", "127.0.0.1:7700", "`ADDRESS` of the endpoint and the agents' API")
			app.TLSFlags(flags, &config.TLS)
			flags.StringVar(&config.TLS.CAFile, "ca-out", "", "`FILE` to write the certificate authorities to that clients have to trust; it is kept current")
			flags.StringVar(&config.RegionID, "region", getenv(smc.EnvRegion), "the `REGION` this center is (DROVER_REGION)")
			flags.StringVar(&config.AccountID, "account", app.AccountFromEnv(getenv), "`ACCOUNT` that the first access key belongs to (DROVER_ACCOUNT)")
			flags.StringVar(&config.AccessKeyID, "access-key-id", getenv(smc.EnvAccessKeyID),
				"the first access `KEY` (ALIBABA_CLOUD_ACCESS_KEY_ID); its secret is read from ALIBABA_CLOUD_ACCESS_KEY_SECRET")
			app.LimitFlags(flags, config, 100, getenv)
			app.RetentionFlags(flags, config)
		},
		Metrics: func() string { return app.DefaultServerMetrics }, MetricsWhere: app.DefaultServerMetrics, Getenv: getenv,
		Run: func(ctx context.Context, process app.Process, log *zap.Logger) error {
			config.Process = process
			return app.RunServer(ctx, *config, log)
		},
	}
}
