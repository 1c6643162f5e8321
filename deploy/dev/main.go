// Command drover-dev is Drover on one machine, in one process: a Temporal server in a SQLite file, NATS with JetStream in a directory, the
// center's endpoint and database, and a transition host with its images, all under one data directory and all on loopback.
//
// It is for development, demonstrations and small moves. Whatever it acknowledged is on disk: killed at any moment and started again it
// continues, under the same addresses. It uses the same code as drover-server and drover-worker, which run against servers of their own.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/drover/drover/app"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr, runDrover))
}

// usageError is a mistake in how the command was called.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// run is the whole program but for the end of the process; its result is the exit code.
func run(args []string, stdout, stderr io.Writer, drover droverFunc) int {
	cmd := newCommand(drover)
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(context.Background())
	var usage usageError
	switch {
	case err == nil:
		return app.ExitOK
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "drover-dev: %v\n\n%s", err, cmd.UsageString())
		return app.ExitUsage
	default:
		fmt.Fprintf(stderr, "drover-dev: %v\n", err)
		return app.ExitFailed
	}
}

func newCommand(drover droverFunc) *cobra.Command {
	var cfg stackConfig
	var logLevel, logFormat string
	var tls bool
	var process app.ProcessSettings
	cmd := &cobra.Command{
		Use:   "drover-dev --data DIR [--listen HOST:PORT] [--parts PARTS]",
		Short: "Drover on one machine: Temporal, NATS, the center and a transition host in one process",
		Long: `Drover on one machine: Temporal, NATS, the center and a transition host in one process.

Everything is kept under DIR and survives a restart, even after a kill. When it is up it prints one line and
has written DIR/dev.env, which makes the drover command work:

  drover-dev --data ./data &
  . ./data/dev.env
  drover source list

Any number of drover-dev may share one DIR when each serves other parts of it; they find each other there. The
servers alone, for a drover-server and a drover-worker of your own:

  drover-dev --data ./data --parts temporal,nats &
  . ./data/dev.env
  drover-server & drover-worker --role center,transition --data ./data/images &

SIGTERM or Ctrl-C stops it; a second Ctrl-C ends it at once.`,
		Version:       app.Version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := cobra.NoArgs(cmd, args); err != nil {
				return usageError{err}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("tls") {
				cfg.tls = &tls
			}
			if err := cfg.check(cmd.Flags().Changed); err != nil {
				return usageError{err}
			}
			if err := process.Check(); err != nil {
				return usageError{err}
			}
			logger, err := app.NewLogger(logLevel, logFormat)
			if err != nil {
				return usageError{err}
			}
			defer func() { _ = logger.Sync() }()

			return process.Serve(cmd.Context(), app.DefaultDevMetrics, logger, func(ctx context.Context, process app.Process) error {
				cfg.process = process
				return runStack(ctx, cfg, drover, cmd.OutOrStdout(), logger)
			})
		},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	cmd.SetVersionTemplate("drover-dev {{.Version}}\n")
	cmd.CompletionOptions.DisableDefaultCmd = true

	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&cfg.dir, "data", "", "keep everything in `DIR` (made when absent)")
	flags.StringVar(&cfg.listen, "listen", "", "address of the endpoint, `HOST:PORT`; port 0 takes a free one and keeps it\n(default: that of the last start, at first "+defaultListen+")")
	flags.BoolVar(&tls, "tls", false, "the endpoint and the transition host serve https, with certificates of an authority that the center makes\nitself; needed beyond loopback (default: as at the last start)")
	flags.StringSliceVar(&cfg.parts, "parts", parts(), "serve only these `PARTS`: the servers temporal and nats, what a drover-server does, and what\na drover-worker does; the others are served by other processes")
	flags.StringSliceVar(&cfg.roles, "roles", app.Roles(), "`ROLES` of the worker in this process; without orchestrator, a drover-worker of its own\nwith that role takes the fleets")
	limits := pflag.NewFlagSet("", pflag.ContinueOnError)
	limits.SortFlags = false
	app.LimitFlags(limits, &cfg.limits, 0, os.Getenv)
	app.RetentionFlags(limits, &cfg.limits)
	limits.VisitAll(func(f *pflag.Flag) { cfg.limitFlags = append(cfg.limitFlags, f.Name) })
	flags.AddFlagSet(limits)
	process.Flags(flags, app.DefaultDevMetrics, os.Getenv)
	flags.StringVar(&logLevel, "log-level", "info", "least `LEVEL` logged to standard error: debug, info, warn or error")
	flags.StringVar(&logFormat, "log-format", "auto", "console, json, or auto: console on a terminal, json elsewhere")
	return cmd
}
