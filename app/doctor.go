package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/pflag"
	"go.temporal.io/sdk/client"
	"go.uber.org/zap"

	"github.com/drover/drover/center/doctor"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/events"
	"github.com/drover/drover/smc"
)

// DoctorConfig is what Doctor needs.
type DoctorConfig struct {
	Connections
	// CertFile and Endpoint are a certificate file, and an https URL, to look at besides what the record names
	// (DROVER_TLS_CERT, DROVER_ENDPOINT).
	CertFile, Endpoint string
	// Output is table or json.
	Output string
	// Fix mends what can be mended without risk.
	Fix bool
	// Remove are the names of orphans whose removal is approved.
	Remove []string
	// MinFree is how much of a transition host's volume is to be free, in percent.
	MinFree float64
	// Timeout bounds the look as a whole.
	Timeout time.Duration
}

// Exit codes of the doctor.
const (
	doctorFound    = 1 // something is wrong
	doctorNotSeen  = 2 // a part could not be looked at
	reachTimeout   = 5 * time.Second
	defaultMinFree = 5
)

// DoctorFromEnv reads the variables the fields name. getenv is os.Getenv outside tests.
func DoctorFromEnv(getenv func(string) string) DoctorConfig {
	return DoctorConfig{Connections: ConnectionsFromEnv(getenv), CertFile: getenv("DROVER_TLS_CERT"), Endpoint: getenv(smc.EnvEndpoint)}
}

// DoctorFlags defines the flags of c.
func DoctorFlags(flags *pflag.FlagSet, c *DoctorConfig) {
	ConnectionFlags(flags, &c.Connections)
	flags.StringVarP(&c.Output, "output", "o", "table", "`FORMAT` of the output: table or json")
	flags.BoolVar(&c.Fix, "fix", false, "mend what can be mended without risk: start missing entities, release sessions and room of no run")
	flags.StringArrayVar(&c.Remove, "remove", nil, "`NAME` of what orphan-unknown or image-lost lists: its host removes it at its next look;\nmay be repeated")
	flags.Float64Var(&c.MinFree, "min-free", defaultMinFree, "`PERCENT` of a transition host's volume that are to be free")
	flags.DurationVar(&c.Timeout, "timeout", 2*time.Minute, "`DURATION` that the look may take")
}

// Check reports what is wrong with the settings. What is not named is not looked at.
func (c *DoctorConfig) Check() error {
	switch {
	case c.Output != "table" && c.Output != "json":
		return fmt.Errorf("--output %q: want table or json", c.Output)
	case c.Timeout <= 0:
		return errors.New("--timeout must be a positive duration, such as 2m")
	case c.MinFree < 0 || c.MinFree > 100:
		return errors.New("--min-free must be 0 to 100 percent")
	}
	return nil
}

// ExitError ends a program with an exit code of its own; what there is to say was said.
type ExitError int

// Error implements error.
func (e ExitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// Doctor looks over a center and prints what is wrong. Its error is an ExitError: 1 when something is, 2 when a part could not be
// looked at.
func Doctor(ctx context.Context, config DoctorConfig, stdout, stderr io.Writer, log *zap.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, config.Timeout)
	defer cancel()
	examined := doctor.Config{
		Version: Version(), Fix: config.Fix, Namespace: config.TemporalNamespace,
		Limits: doctor.Limits{FreePercent: config.MinFree},
	}
	if config.MinFree == 0 {
		examined.Limits.FreePercent = -1
	}
	if config.CertFile != "" {
		examined.Certificates = append(examined.Certificates, config.CertFile)
	}
	if strings.HasPrefix(config.Endpoint, "https:") {
		examined.Certificates = append(examined.Certificates, config.Endpoint)
	}
	var unreached []doctor.NotSeen
	unreachable := func(part string, err error) {
		unreached = append(unreached, doctor.NotSeen{Part: part, Why: err.Error()})
	}

	record, key, err := config.lookAtRecord(ctx)
	if err != nil {
		unreachable("database", err)
	} else {
		defer func() { _ = record.Close() }()
		examined.Record = record
		for _, name := range config.Remove {
			approved, err := record.ApproveOrphan(ctx, name)
			if errors.Is(err, store.ErrNotFound) {
				return fmt.Errorf("--remove %s: no transition host has found anything of that name that belongs to nothing: the findings orphan-unknown and image-lost name what may be removed", name)
			}
			if err != nil {
				return fmt.Errorf("--remove %s: %w", name, err)
			}
			for _, o := range approved {
				does := "removes it within 10 minutes, if the record does not know it by then"
				if o.Kind == store.OrphanLostImage {
					does = "has the record forget it within 10 minutes, if its files are not back by then"
				}
				_, _ = fmt.Fprintf(stderr, "%s %s: the transition host %s %s\n", o.Kind, o.Name, o.HostID, does)
			}
		}
	}
	if closeNATS, err := config.lookAtNATS(ctx, &examined, log); err != nil {
		unreachable("NATS", err)
	} else {
		defer closeNATS()
	}
	if closeTemporal, err := config.lookAtTemporal(ctx, &examined, log); err != nil {
		unreachable("Temporal", err)
	} else {
		defer closeTemporal()
	}
	report := doctor.Examine(ctx, examined)
	report.NotSeen = append(unreached, report.NotSeen...)
	if key != nil {
		report.Findings = append([]doctor.Finding{*key}, report.Findings...)
	}
	if err := printReport(stdout, report, config.Output); err != nil {
		return err
	}
	switch {
	case len(report.NotSeen) > 0:
		return ExitError(doctorNotSeen)
	case !report.Sound():
		return ExitError(doctorFound)
	}
	return nil
}

// lookAtRecord opens the database as it is. A secret key file that is not as it should be is a finding, and what needs no key
// is looked at all the same.
func (c DoctorConfig) lookAtRecord(ctx context.Context) (*store.Store, *doctor.Finding, error) {
	if c.DatabaseURL == "" {
		return nil, nil, errors.New("DATABASE_URL is not set: set it, or give --database-url")
	}
	var options []store.Option
	var finding *doctor.Finding
	sealer, err := store.LoadSealer(c.SecretKeyFile)
	if err == nil {
		options = append(options, store.WithSealer(sealer))
		if info, statErr := os.Stat(c.SecretKeyFile); statErr == nil && info.Mode()&forEveryone != 0 {
			err = fmt.Errorf("it is open to every user of this machine, its mode is %s", info.Mode().Perm())
		}
	}
	if err != nil {
		found := doctor.SecretKeyFile(c.SecretKeyFile, err)
		finding = &found
	}
	record, err := store.OpenAsIs(c.DatabaseURL, options...)
	if err != nil {
		return nil, nil, err
	}
	reaching, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	if err := record.Ping(reaching); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("it does not answer: %w", err), record.Close())
	}
	return record, finding, nil
}

func (c DoctorConfig) lookAtNATS(ctx context.Context, examined *doctor.Config, log *zap.Logger) (closeNATS func(), err error) {
	if c.NATSURL == "" {
		return nil, errors.New("NATS_URL is not set: set it, or give --nats-url")
	}
	nc, err := c.nats("drover-doctor", zap.NewNop()) // that it does not answer is said once, below
	if err != nil {
		return nil, err
	}
	reaching, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	if err := nc.FlushWithContext(reaching); err != nil {
		nc.Close()
		return nil, fmt.Errorf("%s does not answer: %w", events.Redacted(c.NATSURL), err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("JetStream: %w", err)
	}
	log.Debug("reached NATS", zap.String("server", nc.ConnectedServerName()))
	examined.JetStream = js
	return nc.Close, nil
}

func (c DoctorConfig) lookAtTemporal(ctx context.Context, examined *doctor.Config, log *zap.Logger) (closeTemporal func(), err error) {
	if c.TemporalAddress == "" {
		return nil, errors.New("TEMPORAL_ADDRESS is not set: set it, or give --temporal-address")
	}
	options, err := c.temporalOptions(nil, log)
	if err != nil {
		return nil, err
	}
	reaching, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	temporal, err := client.DialContext(reaching, options)
	if err != nil {
		return nil, fmt.Errorf("%s does not answer: %w", c.TemporalAddress, err)
	}
	examined.Temporal = temporal
	return temporal.Close, nil
}

// printReport writes a report for a person or a program.
func printReport(out io.Writer, report *doctor.Report, format string) error {
	if format == "json" {
		encoder := json.NewEncoder(out)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		return encoder.Encode(report)
	}
	var b strings.Builder
	counts := map[doctor.Severity]int{}
	fixed := 0
	for _, f := range report.Findings {
		mark := ""
		if f.Fixed {
			fixed++
			mark = "  (mended)"
		} else {
			counts[f.Severity]++
		}
		fmt.Fprintf(&b, "%-8s %s  %s%s\n         %s\n         %s\n", f.Severity, f.Kind, f.Thing, mark, f.Text, f.Means)
		if !f.Fixed {
			fmt.Fprintf(&b, "         -> %s\n", f.Do)
		}
		b.WriteString("\n")
	}
	for _, part := range report.NotSeen {
		fmt.Fprintf(&b, "not seen %s\n         %s\n\n", part.Part, part.Why)
	}
	if len(report.Seen) > 0 {
		fmt.Fprintf(&b, "looked at: %s\n", strings.Join(report.Seen, ", "))
	}
	fmt.Fprintf(&b, "errors: %d, warnings: %d, notes: %d, mended: %d, parts not seen: %d\n",
		counts[doctor.Error], counts[doctor.Warning], counts[doctor.Info], fixed, len(report.NotSeen))
	_, err := io.WriteString(out, b.String())
	return err
}
