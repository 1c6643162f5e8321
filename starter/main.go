// Command drover is the command line of a Server Migration Center: it registers source servers, makes and drives
// replication jobs, and fetches their images. It speaks the SMC API, so it drives a self-hosted center as well as
// the vendor's; what only a center of our own offers (live progress, images, events) says so when it is not there.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
)

// version is set when the binary is built.
var version = ""

// Exit codes.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130 // as shells report a process that SIGINT ended
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	code := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// usageError is a mistake in how the command was called.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// inputError is a mistake in what a command was given beside its arguments: the environment, a file, a name that several
// things have. How the command is called does not help with it.
type inputError struct{ error }

func (e inputError) Unwrap() error { return e.error }

func inputf(format string, args ...any) error { return inputError{fmt.Errorf(format, args...)} }

// cli is what the commands share. Its fields are set before a command runs.
type cli struct {
	getenv  func(string) string
	out     io.Writer
	errOut  io.Writer
	caFile  string
	output  outputFormat
	verbose bool
	log     *zap.Logger
}

// run is the whole program but for the end of the process; its result is the exit code.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	c := &cli{getenv: getenv, out: stdout, errOut: stderr, output: outputTable, log: zap.NewNop()}
	root := newRootCommand(c)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	called, err := root.ExecuteContextC(ctx)
	var usage usageError
	var input inputError
	var ended serverError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &ended):
		return ended.code
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "%s: %v\n\n%s", called.CommandPath(), err, usageOf(called))
		return exitUsage
	case errors.As(err, &input):
		fmt.Fprintln(stderr, "drover:", err)
		return exitUsage
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		fmt.Fprintln(stderr, "drover: interrupted")
		return exitInterrupted
	}
	fmt.Fprintln(stderr, "drover:", err)
	return exitFailed
}

// usageOf is the usage of a command in short, so that the mistake above it stays in sight: of one that holds others, these.
func usageOf(cmd *cobra.Command) string {
	if cmd.HasAvailableSubCommands() {
		return cmd.UsageString()
	}
	return fmt.Sprintf("Usage:\n  %s\n\n%q tells its flags, with examples.\n", cmd.UseLine(), cmd.CommandPath()+" --help")
}

func newRootCommand(c *cli) *cobra.Command {
	root := &cobra.Command{
		Use:   "drover",
		Short: "Move servers: sources, replication jobs, images and events of a migration center",
		Long: `Drover moves servers: it drives replication jobs of a Server Migration Center.

The center and the access key come from the environment, as drover-dev writes it to dev.env:

  DROVER_ENDPOINT                   address of the center
  ALIBABA_CLOUD_ACCESS_KEY_ID       access key
  ALIBABA_CLOUD_ACCESS_KEY_SECRET   its secret
  ALIBABA_CLOUD_PROFILE             without these two: a profile of the vendor's CLI (default: the current one)
  DROVER_REGION                     region of the jobs
  DROVER_CA_FILE                    PEM file of the authority of the center's certificate, where this machine does not know it
  NATS_URL                          event stream (events only); NATS_USER and NATS_PASSWORD, NATS_CREDS, NATS_CA, NATS_CERT, NATS_KEY

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.`,
		Example: `  . data/dev.env
  drover token create
  drover source list
  drover job create --source web-1 --name web-1 --image-name web-1 --system-disk-size 40 --start
  drover job watch web-1
  drover image export web-1 ./out --synced`,
		Version:       versionText(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs, // RunE says that there is no such command
		RunE:          needsCommand,

		SuggestionsMinimumDistance: suggestionDistance,

		PersistentPreRunE: func(*cobra.Command, []string) error {
			c.log = newLogger(c.errOut, c.verbose)
			return nil
		},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.SetVersionTemplate("drover {{.Version}}\n")
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetHelpCommand(helpCommand(root))
	flags := root.PersistentFlags()
	flags.VarP(choice[outputFormat]{&c.output, []outputFormat{outputTable, outputJSON}}, "output", "o", "`FORMAT` of the output: table or json")
	flags.StringVar(&c.caFile, "ca-file", "", "PEM `FILE` of the authority of the center's certificate (DROVER_CA_FILE)")
	flags.BoolVar(&c.verbose, "verbose", false, "log every call to standard error")
	root.AddCommand(c.tokenCommand(), c.sourceCommand(), c.jobCommand(), c.fleetCommand(), c.imageCommand(), c.targetCommand(), c.eventsCommand(),
		c.tagCommand(), c.workgroupCommand(), c.keyCommand(), c.auditCommand(), c.doctorCommand(), c.apiCommand())
	return root
}

// helpCommand is cobra's, but that a command there is not is a mistake.
func helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]...",
		Short:   "Help about any command",
		Example: "  drover help job create",
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return needsCommand(cmd, rest)
			}
			cmd.InitDefaultHelpFlag() // it is in the help that --help prints
			return cmd.Help()
		},
	}
}

// versionText is the version set at build time, else the one Go stamps into the binary.
func versionText() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

// suggestionDistance is how many letters of a command may be wrong for it to be the one that was meant.
const suggestionDistance = 2

// group makes a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs, RunE: needsCommand, SuggestionsMinimumDistance: suggestionDistance}
	cmd.AddCommand(commands...)
	return cmd
}

func needsCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usagef("a command is missing")
	}
	if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
		return usagef("no command is called %q; did you mean %s?", args[0], strings.Join(like, " or "))
	}
	return usagef("no command is called %q", args[0])
}

// exactArgs demands that many arguments, named for the message.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usagef("%s is missing", names[len(args)])
		case len(args) > len(names):
			return usagef("unexpected argument %q", args[len(names)])
		}
		for i, arg := range args {
			if arg == "" {
				return usagef("%s is empty", names[i])
			}
		}
		return nil
	}
}

// leastArgs demands that many arguments, named for the message; the last may be repeated.
func leastArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) <= len(names) {
			return exactArgs(names...)(cmd, args)
		}
		for _, arg := range args {
			if arg == "" {
				return usagef("an argument is empty")
			}
		}
		return nil
	}
}

// optionalArgs demands what args does once there is an argument.
func optionalArgs(args cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, given []string) error {
		if len(given) == 0 {
			return nil
		}
		return args(cmd, given)
	}
}

// newLogger logs diagnostics: warnings, and with verbose every call.
func newLogger(w io.Writer, verbose bool) *zap.Logger {
	level := zapcore.WarnLevel
	if verbose {
		level = zapcore.DebugLevel
	}
	encoding := zap.NewDevelopmentEncoderConfig()
	encoding.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000")
	return zap.New(zapcore.NewCore(zapcore.NewConsoleEncoder(encoding), zapcore.Lock(zapcore.AddSync(w)), level))
}

// config is what the environment says of the endpoint.
func (c *cli) config() (smc.Config, error) {
	cfg, err := smc.ConfigFromEnv(c.getenv)
	if err != nil {
		return cfg, inputError{err}
	}
	if c.caFile != "" {
		cfg.CAFile = c.caFile
	}
	return cfg, nil
}

// client makes a client of the endpoint the environment names.
func (c *cli) client() (*smc.Client, error) {
	cfg, err := c.config()
	if err != nil {
		return nil, err
	}
	transport, err := cfg.Transport()
	if err != nil {
		return nil, inputError{err}
	}
	cfg.HTTPClient = &http.Client{
		Transport:     loggingTransport{transport, c.log},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	client, err := smc.NewClient(cfg)
	if err != nil {
		return nil, inputError{err}
	}
	return client, nil
}

// hostClient makes a client of the transition hosts that the endpoint names.
func (c *cli) hostClient() (*http.Client, error) {
	cfg, err := c.config()
	if err != nil {
		return nil, err
	}
	config, err := cfg.TLS()
	if err != nil {
		return nil, inputError{err}
	}
	return replica.NewClient(config), nil
}

// clientWithRegion is client for what takes a region.
func (c *cli) clientWithRegion() (*smc.Client, error) {
	client, err := c.client()
	if err != nil {
		return nil, err
	}
	if client.RegionID() == "" { // neither the environment nor the profile names one
		return nil, inputf("not set in the environment: %s, the region that the job is to be in; drover-dev writes it to dev.env in its data directory", smc.EnvRegion)
	}
	return client, nil
}
