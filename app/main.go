package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/drover/drover/center"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/events"
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
	// Run does the program's work until ctx is done, as a part of the process.
	Run func(ctx context.Context, process Process, log *zap.Logger) error
	// Metrics is where Run's process serves its metrics unless its flag says otherwise, once the settings are checked; MetricsWhere says
	// that in words. getenv is os.Getenv outside tests.
	Metrics      func() string
	MetricsWhere string
	Getenv       func(string) string
	// Command takes the place of Run in a command that does one thing and ends: it prints, logs warnings only, and serves no metrics.
	Command func(ctx context.Context, stdout, stderr io.Writer, log *zap.Logger) error
	// Commands are what the program does beside Run. The words of their names follow the program's on the command line.
	Commands []Program
}

// command returns the program that the command line asks for, and what is left of the line.
func (p Program) command(args []string) (Program, []string) {
	for _, c := range p.Commands {
		words := strings.Fields(strings.TrimPrefix(c.Name, p.Name))
		if len(args) >= len(words) && slices.Equal(args[:len(words)], words) {
			return c, args[len(words):]
		}
	}
	return p, args
}

// Main is the body of a server process: it parses the command line, checks the settings, and runs until a signal or a
// failure. It returns the exit code.
func (p Program) Main(args []string, stdout, stderr io.Writer) int {
	p, args = p.command(args)
	name, lowest := p.Name, "info"
	if p.Command != nil {
		lowest = "warn"
	}
	flags := pflag.NewFlagSet(name, pflag.ContinueOnError)
	flags.SortFlags = false
	flags.SetOutput(stderr)
	flags.Usage = func() { _, _ = fmt.Fprint(stderr, p.Usage, flags.FlagUsages()) }
	p.Define(flags)
	var settings ProcessSettings
	if p.Command == nil {
		settings.Flags(flags, p.MetricsWhere, p.Getenv)
	}
	level := flags.String("log-level", lowest, "debug, info, warn or error")
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
	case flags.NArg() > 0 && len(p.Commands) > 0:
		return misused(fmt.Errorf("no command is called %q", strings.Join(flags.Args(), " ")))
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
	if p.Command != nil {
		err = p.interruptible(stdout, stderr, log)
	} else if err = settings.Check(); err != nil {
		return misused(err)
	} else {
		err = settings.Serve(context.Background(), p.Metrics(), log, func(ctx context.Context, process Process) error { return p.Run(ctx, process, log) })
	}
	var wrong *AgentUsageError
	var exit ExitError
	switch {
	case errors.As(err, &exit):
		return int(exit)
	case errors.As(err, &wrong):
		return misused(err)
	case err != nil:
		_, _ = fmt.Fprintf(stderr, "%s: %v\n", name, err)
		return ExitFailed
	}
	return ExitOK
}

// interruptible runs a command until it ends or a signal comes; a second signal ends the process at once.
func (p Program) interruptible(stdout, stderr io.Writer, log *zap.Logger) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	return p.Command(ctx, stdout, stderr, log)
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

// RecordFlags defines the flags of the center's database.
func RecordFlags(flags *pflag.FlagSet, c *Connections) {
	flags.StringVar(&c.DatabaseURL, "database-url", c.DatabaseURL, "`URL` of the database, sqlite:///absolute/path or postgres://user:password@host/database (DATABASE_URL)")
	flags.StringVar(&c.SecretKeyFile, "secret-key-file", c.SecretKeyFile, "`FILE` of the keys that seal what is secret in the database, a key a line, the first one seals (DROVER_SECRET_KEY_FILE)")
}

// ConnectionFlags defines the flags of the servers a process works on.
func ConnectionFlags(flags *pflag.FlagSet, c *Connections) {
	RecordFlags(flags, c)
	flags.StringVar(&c.NATSURL, "nats-url", c.NATSURL, "`URL` of NATS with JetStream (NATS_URL)")
	flags.StringVar(&c.TemporalAddress, "temporal-address", c.TemporalAddress, "`HOST:PORT` of Temporal (TEMPORAL_ADDRESS)")
	flags.StringVar(&c.TemporalNamespace, "temporal-namespace", c.TemporalNamespace, "`NAMESPACE` in Temporal (TEMPORAL_NAMESPACE)")
}

// day is the unit of what is kept.
const day = 24 * time.Hour

// DefaultRetention is what a center keeps when nobody says otherwise: jobs for ever, what tells of their past for a time
// that their owners still ask about it.
func DefaultRetention() center.Retention {
	return center.Retention{Runs: 1000, Audit: 365 * day, Outbox: 90 * day}
}

// DefaultStream is how long the stream keeps events when nobody says otherwise.
func DefaultStream() events.StreamConfig { return events.StreamConfig{MaxAge: 90 * day} }

// daysValue is a flag of whole days.
type daysValue struct{ d *time.Duration }

// String, Set and Type implement pflag.Value.
func (v daysValue) String() string { return strconv.Itoa(int(*v.d / day)) }

// Set implements pflag.Value.
func (v daysValue) Set(text string) error {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return fmt.Errorf("want a number of days, 0 for ever, up to %d", math.MaxUint16)
	}
	*v.d = time.Duration(n) * day
	return nil
}

// Type implements pflag.Value.
func (daysValue) Type() string { return "days" }

// RetentionFlags defines the flags of what is kept how long.
func RetentionFlags(flags *pflag.FlagSet, c *ServerConfig) {
	c.Retention, c.Stream = DefaultRetention(), DefaultStream()
	flags.Var(daysValue{&c.Retention.FinishedJobs}, "keep-finished-jobs", "`DAYS` after which a Finished job is deleted with its runs, its images stay; 0 for never")
	flags.IntVar(&c.Retention.Runs, "keep-runs", c.Retention.Runs, "`RUNS` that are kept of an incremental job; 0 for all")
	flags.Var(daysValue{&c.Retention.RunAge}, "keep-runs-days", "`DAYS` after which a run is forgotten, but for the last ten of a job; 0 for never")
	flags.Var(daysValue{&c.Retention.Audit}, "keep-audit", "`DAYS` that the audit log goes back; 0 for ever")
	flags.Var(daysValue{&c.Retention.Outbox}, "keep-outbox", "`DAYS` that events are kept in the database beyond the time that the stream holds them; 0 for ever")
	flags.Var(daysValue{&c.Stream.MaxAge}, "stream-max-age", "`DAYS` that the stream keeps events; 0 for ever")
	flags.Int64Var(&c.Stream.MaxBytes, "stream-max-bytes", 0, "`BYTES` of events that the stream keeps, the oldest go first; 0 for any number")
}

// LimitFlags defines the flags of what accounts and keys may have and do; rateLimit is the default of the one. getenv is os.Getenv outside
// tests.
func LimitFlags(flags *pflag.FlagSet, c *ServerConfig, rateLimit float64, getenv func(string) string) {
	flags.Float64Var(&c.RateLimit, "rate-limit", rateLimit, "`CALLS` a second that each access key may make at this server; 0 for any number. Servers count apart: behind a\nbalancer give each its share")
	flags.IntVar(&c.RateBurst, "rate-burst", 200, "`CALLS` that each access key may make at once at this server")
	flags.IntVar(&c.SourceQuota, "source-quota", 1000, "source `SERVERS` an account may have")
	flags.IntVar(&c.JobQuota, "job-quota", 1000, "replication `JOBS` an account may have")
	flags.IntVar(&c.RunningQuota, "running-quota", store.DefaultRunningQuota,
		"replication `JOBS` of an account that may be Running at once; the others are queued. Give all servers of a center the same")
	flags.StringVar(&c.VSwitchesFile, "vswitches", getenv("DROVER_VSWITCHES"),
		"JSON `FILE` of VSwitchIds and their VpcIds, {\"vsw-1\": \"vpc-1\"}, that jobs are held against; the same for every server (DROVER_VSWITCHES)")
}

// CheckLimits reports what is wrong with what LimitFlags and RetentionFlags define.
func (c *ServerConfig) CheckLimits() error {
	switch {
	case !(c.RateLimit >= 0): // nor is it NaN
		return errors.New("--rate-limit must be 0 or more calls a second")
	case c.RateLimit > 0 && c.RateBurst < 1:
		return errors.New("--rate-burst must be 1 or more calls")
	case c.Retention.FinishedJobs < 0 || c.Retention.Runs < 0 || c.Retention.RunAge < 0 || c.Retention.Audit < 0 || c.Retention.Outbox < 0 ||
		c.Stream.MaxAge < 0 || c.Stream.MaxBytes < 0:
		return errors.New("what is kept is counted from 1, and 0 keeps all of it for ever: see the --keep and --stream flags")
	case c.Retention.Runs > 0 && c.Retention.Runs < center.MinRuns:
		return fmt.Errorf("--keep-runs must be %d or more, as many as may have an image; or 0 for all", center.MinRuns)
	case c.SourceQuota < 0 || c.JobQuota < 0 || c.RunningQuota < 0:
		return errors.New("--source-quota, --job-quota and --running-quota must be 1 or more")
	}
	return nil
}

// Check reports what is missing.
func (c *ServerConfig) Check() error {
	if c.RegionID == "" {
		return errors.New("DROVER_REGION is not set: set it, or give --region")
	}
	if c.AccessKeyID != "" && c.AccessKeySecret == "" {
		return errors.New("ALIBABA_CLOUD_ACCESS_KEY_SECRET is not set: the access key needs its secret")
	}
	if err := c.CheckLimits(); err != nil {
		return err
	}
	if err := c.TLS.check("listen", c.Listen); err != nil {
		return err
	}
	return c.Connections.Check()
}
