// Command drover-agent runs on a source server. It registers the server at a center and copies its disks
// when the center wants them copied. As `drover-agent target` it runs on a machine whose disks take the
// images that the center delivers. It only dials out.
package main

import (
	"context"
	"os"

	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/drover/drover/app"
)

const usage = `Usage: drover-agent --endpoint URL --code CODE --name NAME --state DIR --disk FILE-OR-DEVICE [--disk ...]
       drover-agent target --help

Serves the disks of this server to a Drover center. The first --disk is the system disk.
Once registered it needs only --state: all else is kept there.

Flags:
`

const targetUsage = `Usage: drover-agent target --endpoint URL --code CODE --name NAME --state DIR --disk FILE-OR-DEVICE [--disk ...]

Makes this machine a target instance: the images of jobs that name it are written to its disks. The first --disk takes the
system disk of the source, the next one its data disk 1, and so on. ALL THAT IS ON THESE DISKS IS LOST.
A disk that holds anything is refused without --overwrite; one that is mounted or otherwise in use always is.
Once registered it needs only --state: all else is kept there.

Flags:
`

func main() { os.Exit(program(os.Getenv).Main(os.Args[1:], os.Stdout, os.Stderr)) }

func program(getenv func(string) string) app.Program {
	config := app.AgentConfig{Version: app.Version()}
	p := agentProgram(&config, getenv, "source server", "`FILE-OR-DEVICE` to serve, the system disk first; may be repeated")
	p.Name, p.Usage = "drover-agent", usage
	p.Run = func(ctx context.Context, process app.Process, log *zap.Logger) error {
		config.Process = process
		return app.RunAgent(ctx, config, log)
	}
	p.Commands = []app.Program{targetProgram(getenv)}
	return p
}

func targetProgram(getenv func(string) string) app.Program {
	config := app.TargetConfig{AgentConfig: app.AgentConfig{Version: app.Version()}}
	p := agentProgram(&config.AgentConfig, getenv, "target instance",
		"`FILE-OR-DEVICE` to overwrite, the one that takes the system disk first; may be repeated")
	p.Name, p.Usage = "drover-agent target", targetUsage
	define := p.Define
	p.Define = func(flags *pflag.FlagSet) {
		define(flags)
		flags.BoolVar(&config.Overwrite, "overwrite", false, "overwrite disks also when they hold something that no delivery to this target put there")
	}
	p.Run = func(ctx context.Context, process app.Process, log *zap.Logger) error {
		config.Process = process
		return app.RunTarget(ctx, config, log)
	}
	return p
}

// agentProgram is what both have: the flags go to config.
func agentProgram(config *app.AgentConfig, getenv func(string) string, noun, disks string) app.Program {
	return app.Program{
		Check: func() error { return nil }, // it takes what was kept at the first start, so that it knows only then
		Define: func(flags *pflag.FlagSet) {
			flags.StringVar(&config.Endpoint, "endpoint", getenv("DROVER_ENDPOINT"), "`URL` of the center (DROVER_ENDPOINT)")
			flags.StringVar(&config.Code, "code", "", "activation `CODE`, from \"drover token create\"; needed once")
			flags.StringVar(&config.CAFile, "ca-file", "", "PEM `FILE` of the center's certificate authority, where neither the code nor this machine knows it")
			flags.StringVar(&config.Name, "name", "", "`NAME` of the "+noun+"; needed once")
			flags.StringVar(&config.StateDir, "state", "", "`DIR` where the agent keeps its identity; one agent each")
			flags.StringArrayVar(&config.Disks, "disk", nil, disks)
		},
		// On a machine that is somebody else's it opens no port by itself.
		Metrics: func() string { return app.MetricsOff }, MetricsWhere: app.MetricsOff, Getenv: getenv,
	}
}
