package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"
	"go.uber.org/zap"
)

// Exit codes of every program.
const (
	ExitOK     = 0
	ExitFailed = 1 // the program could not do its work
	ExitUsage  = 2 // it was called wrongly
)

// Program is a server process.
type Program struct {
	Name  string
	Usage string // what --help prints before the flags
	// Define adds the program's flags; their values go to its settings.
	Define func(*pflag.FlagSet)
	// Check reports what is wrong with the settings once the flags are parsed.
	Check func() error
	// Run does the program's work until ctx is done.
	Run func(ctx context.Context, log *zap.Logger) error
}

// Main is the body of a server process: it parses the command line, checks the settings, and runs until a signal or a
// failure. It returns the exit code.
func (p Program) Main(args []string, stdout, stderr io.Writer) int {
	name := p.Name
	flags := pflag.NewFlagSet(name, pflag.ContinueOnError)
	flags.SortFlags = false
	flags.SetOutput(stderr)
	flags.Usage = func() { _, _ = fmt.Fprint(stderr, p.Usage, flags.FlagUsages()) }
	p.Define(flags)
	level := flags.String("log-level", "info", "debug, info, warn or error")
	format := flags.String("log-format", "auto", "auto, json or console; auto is console on a terminal")
	version := flags.Bool("version", false, "print the version and exit")
	misused := func(err error) int {
		_, _ = fmt.Fprintf(stderr, "%s: %v\nRun %s --help for how it is called.\n", name, err, name)
		return ExitUsage
	}
	switch err := flags.Parse(args); {
	case errors.Is(err, pflag.ErrHelp):
		return ExitOK
	case err != nil:
		return misused(err)
	case flags.NArg() > 0:
		return misused(fmt.Errorf("unexpected argument %q", flags.Arg(0)))
	case *version:
		_, _ = fmt.Fprintln(stdout, name, Version())
		return ExitOK
	}
	log, err := NewLogger(*level, *format)
	if err != nil {
		return misused(err)
	}
	defer func() { _ = log.Sync() }()
	if err := p.Check(); err != nil {
		return misused(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if err := p.Run(ctx, log); err != nil {
		_, _ = fmt.Fprintf(stderr, "%s: %v\n", name, err)
		return ExitFailed
	}
	return ExitOK
}

// DefaultAccount is the account of a center that serves one.
const DefaultAccount = "1"

// AccountFromEnv reads DROVER_ACCOUNT; DefaultAccount when it is not set. getenv is os.Getenv outside tests.
func AccountFromEnv(getenv func(string) string) string {
	if account := getenv("DROVER_ACCOUNT"); account != "" {
		return account
	}
	return DefaultAccount
}

// ConnectionFlags defines the flags of the servers a process works on.
func ConnectionFlags(flags *pflag.FlagSet, c *Connections) {
	flags.StringVar(&c.DatabaseURL, "database-url", c.DatabaseURL, "`URL` of the database, sqlite:///absolute/path or postgres://user:password@host/database (DATABASE_URL)")
	flags.StringVar(&c.SecretKeyFile, "secret-key-file", c.SecretKeyFile, "`FILE` of the keys that seal what is secret in the database, a key a line, the first one seals (DROVER_SECRET_KEY_FILE)")
	flags.StringVar(&c.NATSURL, "nats-url", c.NATSURL, "`URL` of NATS with JetStream (NATS_URL)")
	flags.StringVar(&c.TemporalAddress, "temporal-address", c.TemporalAddress, "`HOST:PORT` of Temporal (TEMPORAL_ADDRESS)")
	flags.StringVar(&c.TemporalNamespace, "temporal-namespace", c.TemporalNamespace, "`NAMESPACE` in Temporal (TEMPORAL_NAMESPACE)")
}

// Check reports what is missing.
func (c *ServerConfig) Check() error {
	if c.RegionID == "" {
		return errors.New("DROVER_REGION is not set: set it, or give --region")
	}
	if c.AccessKeyID != "" && c.AccessKeySecret == "" {
		return errors.New("ALIBABA_CLOUD_ACCESS_KEY_SECRET is not set: the access key needs its secret")
	}
	switch {
	case !(c.RateLimit >= 0): // nor is it NaN
		return errors.New("--rate-limit must be 0 or more calls a second")
	case c.RateLimit > 0 && c.RateBurst < 1:
		return errors.New("--rate-burst must be 1 or more calls")
	case c.SourceQuota < 0 || c.JobQuota < 0 || c.RunningQuota < 0:
		return errors.New("--source-quota, --job-quota and --running-quota must be 1 or more")
	}
	return c.Connections.Check()
}
