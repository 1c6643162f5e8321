// Command drover-agent runs on a source server. It registers the server at a center and copies its disks
// when the center wants them copied. It only dials out.
package main

import (
	"context"
	"os"

	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/drover/drover/app"
)

const usage = `Usage: drover-agent --endpoint URL --code CODE --name NAME --state DIR --disk FILE-OR-DEVICE [--disk ...]

Serves the disks of this server to a Drover center. The first --disk is the system disk.
Once registered it needs only --state: all else is kept there.

Flags:
`

func main() { os.Exit(program(os.Getenv).Main(os.Args[1:], os.Stdout, os.Stderr)) }

func program(getenv func(string) string) app.Program {
	config := app.AgentConfig{Version: app.Version()}
	return app.Program{
		Name: "drover-agent", Usage: usage,
		Check: func() error { return nil }, // it takes what was kept at the first start, so that it knows only then
		Define: func(flags *pflag.FlagSet) {
			flags.StringVar(&config.Endpoint, "endpoint", getenv("DROVER_ENDPOINT"), "`URL` of the center (DROVER_ENDPOINT)")
			flags.StringVar(&config.Code, "code", "", "activation `CODE`, from \"drover token create\"; needed once")
			flags.StringVar(&config.CAFile, "ca-file", "", "PEM `FILE` of the center's certificate authority, where neither the code nor this machine knows it")
			flags.StringVar(&config.Name, "name", "", "`NAME` of the source server; needed once")
			flags.StringVar(&config.StateDir, "state", "", "`DIR` where the agent keeps its identity; one agent each")
			flags.StringArrayVar(&config.Disks, "disk", nil, "`FILE-OR-DEVICE` to serve, the system disk first; may be repeated")
		},
		// On a server that is somebody else's it opens no port by itself.
		Metrics: func() string { return app.MetricsOff }, MetricsWhere: app.MetricsOff, Getenv: getenv,
		Run: func(ctx context.Context, process app.Process, log *zap.Logger) error {
			config.Process = process
			return app.RunAgent(ctx, config, log)
		},
	}
}
