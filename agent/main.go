// Command drover-agent runs on a source server. It registers the server at a center and copies its disks
// when the center wants them copied. It only dials out.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/drover/drover/app"
)

const usage = `Usage: drover-agent --endpoint URL --code CODE --name NAME --state DIR --disk FILE-OR-DEVICE [--disk ...]

Serves the disks of this server to a Drover center. The first --disk is the system disk.
Once registered it needs only --state: all else is kept there.

Flags:
`

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run returns the exit code: 0, 1 for a failure, 2 for wrong usage.
func run(args []string, stdout, stderr io.Writer) int {
	var (
		cfg         app.AgentConfig
		level       string
		format      string
		showVersion bool
	)
	flags := pflag.NewFlagSet("drover-agent", pflag.ContinueOnError)
	flags.SortFlags = false
	flags.SetOutput(stderr)
	flags.Usage = func() { _, _ = fmt.Fprint(stderr, usage, flags.FlagUsages()) }
	flags.StringVar(&cfg.Endpoint, "endpoint", os.Getenv("DROVER_ENDPOINT"), "`URL` of the center (DROVER_ENDPOINT)")
	flags.StringVar(&cfg.Code, "code", "", "activation `CODE`, from \"drover token create\"; needed once")
	flags.StringVar(&cfg.CAFile, "ca-file", "", "PEM `FILE` of the center's certificate authority, where neither the code nor this machine knows it")
	flags.StringVar(&cfg.Name, "name", "", "`NAME` of the source server; needed once")
	flags.StringVar(&cfg.StateDir, "state", "", "`DIR` where the agent keeps its identity; one agent each")
	flags.StringArrayVar(&cfg.Disks, "disk", nil, "`FILE-OR-DEVICE` to serve, the system disk first; may be repeated")
	flags.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	flags.StringVar(&format, "log-format", "auto", "auto, json or console; auto is console on a terminal")
	flags.BoolVar(&showVersion, "version", false, "print the version and exit")
	switch err := flags.Parse(args); {
	case errors.Is(err, pflag.ErrHelp):
		return 0
	case err != nil:
		return misused(stderr, err)
	case flags.NArg() > 0:
		return misused(stderr, fmt.Errorf("unexpected argument %q", flags.Arg(0)))
	}
	if showVersion {
		_, _ = fmt.Fprintln(stdout, "drover-agent", app.Version())
		return 0
	}
	log, err := app.NewLogger(level, format)
	if err != nil {
		return misused(stderr, err)
	}
	defer func() { _ = log.Sync() }()
	cfg.Version = app.Version()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once

	err = app.RunAgent(ctx, cfg, log)
	var wrong *app.AgentUsageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &wrong):
		return misused(stderr, err)
	}
	_, _ = fmt.Fprintln(stderr, "drover-agent:", err)
	return 1
}

func misused(stderr io.Writer, err error) int {
	_, _ = fmt.Fprintf(stderr, "drover-agent: %v\nRun drover-agent --help for how it is called.\n", err)
	return 2
}
