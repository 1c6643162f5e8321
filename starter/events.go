package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/drover/drover/events"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/starter/table"
)

// envNATS names the event stream.
const (
	envNATS = "NATS_URL"
	// envNATSPrefix begins the subjects of JetStream's API for a user of another NATS account than the streams'.
	envNATSPrefix = "NATS_JS_API_PREFIX"
)

// since is the value of --since: all, now, or a time.
type since struct {
	text string
	at   time.Time // zero for all and now
}

// String implements pflag.Value.
func (s *since) String() string { return s.text }

// Type implements pflag.Value.
func (s *since) Type() string { return "WHEN" }

// Set implements pflag.Value.
func (s *since) Set(text string) error {
	s.text, s.at = text, time.Time{}
	if text == "all" || text == "now" {
		return nil
	}
	at, err := parsePast(text, time.Now())
	if err != nil {
		return fmt.Errorf("must be all, now, %w", err)
	}
	s.at = at
	return nil
}

type tailFlags struct {
	subject, job, source, fleet string
	consumer                    string
	since                       since
	from                        uint64
	follow                      bool
}

// stream is the stream that the flags ask for.
func (f tailFlags) stream() string {
	if f.fleet != "" || strings.HasPrefix(f.subject, "drover.") {
		return events.DroverStreamName
	}
	return events.StreamName
}

// begin says where a subscription begins.
func (f tailFlags) begin(cfg *events.SubscribeConfig) {
	switch {
	case f.from > 0:
		cfg.Start, cfg.StartSequence = events.StartSequence, f.from
	case !f.since.at.IsZero():
		cfg.Start, cfg.StartTime = events.StartTime, f.since.at
	case f.since.text == "now":
		cfg.Start = events.StartNew
	}
}

func (c *cli) eventsCommand() *cobra.Command {
	f := tailFlags{since: since{text: "all"}, follow: true}
	tail := &cobra.Command{
		Use:   "tail [--subject SUBJECT | --job JOB | --source SOURCE | --fleet FLEET | --consumer NAME] [--since WHEN | --from SEQUENCE] [--follow=false]",
		Short: "Print the events of jobs and source servers, or of a fleet, as they happen",
		Long: `Print what became of jobs and source servers, or of a fleet and its migrations: first what the stream has, then what
happens, until Ctrl-C. With --follow=false it ends with what the stream has. -o json prints the CloudEvents, one a line.

A user who may see one account only has a consumer made for him ("drover events observer add") and reads through it with
--consumer: tail goes on there where the last one stopped.

It reads the stream at NATS_URL; the center is asked only to find a job or a source server by name.`,
		Example: `  drover events tail
  drover events tail --job web-1 --follow=false -o json
  drover events tail --since 90m
  drover events tail --fleet spring
  drover events tail --subject 'smc.v1.*.*.source.>' --since now`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("since") && cmd.Flags().Changed("from") {
				return usagef("--since and --from exclude each other")
			}
			for _, name := range []string{"since", "from", "follow"} {
				if f.consumer != "" && cmd.Flags().Changed(name) {
					return usagef("--consumer and --%s exclude each other: a consumer goes on where it is, and waits for more", name)
				}
			}
			err := c.tailEvents(cmd.Context(), f)
			if cmd.Context().Err() != nil && errors.Is(err, context.Canceled) {
				return nil // Ctrl-C is how it ends
			}
			return err
		},
	}
	flags := tail.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.subject, "subject", "", "only events on this `SUBJECT`, with NATS wildcards")
	flags.StringVar(&f.job, "job", "", "only events of this `JOB`, by id or name")
	flags.StringVar(&f.source, "source", "", "only events of this `SOURCE` server, by id or name")
	flags.StringVar(&f.fleet, "fleet", "", "only events of this `FLEET` and its migrations")
	flags.StringVar(&f.consumer, "consumer", "", "only what the consumer `NAME` has, which was made for this user")
	flags.Var(&f.since, "since", "`WHEN` to begin: all that the stream has, now, "+pastForms)
	flags.Uint64Var(&f.from, "from", 0, "begin at this `SEQUENCE` of the stream")
	flags.BoolVar(&f.follow, "follow", true, "wait for more")
	return group("events", "Events: what changed, from the event stream", tail, c.progressCommand(), c.consumersCommand(), c.schemaCommand(), c.replayCommand(), c.observerCommand())
}

// schemaCommand prints what is published of the form of events.
func (c *cli) schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema [TYPE]",
		Short: "Print the JSON Schema of a type of event, or list the types",
		Long: `Print the JSON Schema (2020-12) of a type of event: of the whole CloudEvent, with that of its data under the anchor "data".
Without TYPE it lists the types. docs/events.md explains them.`,
		Example: "  drover events schema smc.job.status.v1",
		Args:    optionalArgs(exactArgs("TYPE")),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				if c.json() {
					return c.printJSON(events.Types())
				}
				return c.printf("%s\n", strings.Join(events.Types(), "\n"))
			}
			schema, err := events.Schema(args[0])
			if errors.Is(err, events.ErrUnknownType) {
				return usagef("no type of event is called %s; there are %s", args[0], strings.Join(events.Types(), ", "))
			}
			if err != nil {
				return err
			}
			return c.printf("%s", schema)
		},
	}
}

// consumersCommand shows who is behind.
func (c *cli) consumersCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "consumers",
		Short: "List the durable consumers of the event streams, and how far behind they are",
		Long: `List the durable consumers of the event streams. WAITING counts the events that a consumer has not been given yet, UNHANDLED
those it was given and has not handled, AGAIN those of them that it was given more than once. One that waits for long with
something to do is stalled: its program does not run, or fails at one event, which its log names.`,
		Example: "  drover events consumers\n  drover events consumers -o json | jq '.[] | select(.Waiting > 100) | .Name'",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			nc, js, err := c.eventStream("drover events consumers")
			if err != nil {
				return err
			}
			defer nc.Close()
			ctx, cancel := context.WithTimeout(cmd.Context(), 10*time.Second)
			defer cancel()
			consumers, err := events.Consumers(ctx, js)
			if err != nil {
				return err
			}
			if c.json() {
				return c.printJSON(consumers)
			}
			t := table.New("STREAM", "CONSUMER", ">WAITING", ">UNHANDLED", ">AGAIN", "LAST HANDLED", "EVENTS")
			for _, consumer := range consumers {
				t.Add(consumer.Stream, consumer.Name, fmt.Sprint(consumer.Waiting), fmt.Sprint(consumer.Unhandled), fmt.Sprint(consumer.Redelivered),
					clock(consumer.LastHandled), strings.Join(consumer.Filters, " "))
			}
			return t.Write(c.out, "")
		},
	}
}

// observerCommand makes the consumers that users who may see one account only read through.
func (c *cli) observerCommand() *cobra.Command {
	account := ""
	add := &cobra.Command{
		Use:   "add NAME --account ACCOUNT",
		Short: "Make consumers with the events of one account",
		Long: `Make a consumer NAME on each event stream, with the events of one account of the center, from the first on. A NATS user
who may use these consumers and nothing else sees that account alone: deploy/nats/accounts.conf shows such a user.`,
		Example: "  drover events observer add observer-1 --account 1",
		Args:    exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if account == "" {
				return usagef("--account is missing")
			}
			return c.changeObserver(cmd.Context(), args[0], "made on", func(ctx context.Context, js jetstream.JetStream) ([]string, error) {
				return events.AddObserver(ctx, js, args[0], account)
			})
		},
	}
	add.Flags().StringVar(&account, "account", "", "the `ACCOUNT` of the center")
	remove := &cobra.Command{
		Use:     "remove NAME",
		Short:   "Delete the consumers of an observer",
		Example: "  drover events observer remove observer-1",
		Args:    exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.changeObserver(cmd.Context(), args[0], "deleted on", func(ctx context.Context, js jetstream.JetStream) ([]string, error) {
				return events.RemoveObserver(ctx, js, args[0])
			})
		},
	}
	return group("observer", "Consumers for users who may see one account only", add, remove)
}

func (c *cli) changeObserver(ctx context.Context, name, what string, change func(context.Context, jetstream.JetStream) ([]string, error)) error {
	nc, js, err := c.eventStream("drover events observer")
	if err != nil {
		return err
	}
	defer nc.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	streams, err := change(ctx, js)
	if err != nil {
		return err
	}
	if c.json() {
		return c.printJSON(map[string]any{"Name": name, "Streams": streams})
	}
	return c.printf("observer %s %s %s\n", name, what, strings.Join(streams, ", "))
}

// eventStream connects to the event stream that the environment names.
func (c *cli) eventStream(name string) (*nats.Conn, jetstream.JetStream, error) {
	address := c.getenv(envNATS)
	if address == "" {
		return nil, nil, inputf("not set in the environment: %s; drover-dev writes it to dev.env in its data directory, source that file", envNATS)
	}
	security, err := events.SecurityFromEnv(c.getenv).Options()
	if err != nil {
		return nil, nil, inputError{err}
	}
	// A person waits: say at once that there is no server, rather than keep trying.
	nc, err := events.Connect(address, name, c.log, append(security, nats.RetryOnFailedConnect(false))...)
	if err != nil {
		return nil, nil, fmt.Errorf("event stream at %s: %w", events.Redacted(address), err)
	}
	js, err := events.JetStream(nc, c.getenv(envNATSPrefix))
	if err != nil {
		nc.Close()
		return nil, nil, fmt.Errorf("event stream at %s: %w", events.Redacted(address), err)
	}
	return nc, js, nil
}

func (c *cli) tailEvents(ctx context.Context, f tailFlags) error {
	filter, err := c.eventFilter(ctx, f)
	if err != nil {
		return err
	}
	nc, js, err := c.eventStream("drover events tail")
	if err != nil {
		return err
	}
	defer nc.Close()
	p := &eventPrinter{cli: c}
	if !f.follow {
		return readEvents(ctx, js, filter, f, p.print)
	}
	cfg := events.SubscribeConfig{Stream: f.stream(), Log: c.log, Durable: f.consumer, Bound: f.consumer != "", Filters: filter}
	f.begin(&cfg)
	if f.consumer != "" { // a subscription would wait for it for ever
		_, err := js.Consumer(ctx, cfg.Stream, f.consumer)
		if errors.Is(err, jetstream.ErrConsumerNotFound) {
			return fmt.Errorf("stream %s has no consumer %s: %q makes one, %q lists them (%w)", cfg.Stream, f.consumer, "drover events observer add", "drover events consumers", err)
		}
	}
	return events.Subscribe(ctx, js, cfg, func(_ context.Context, ev events.Event) error { return p.print(ev) })
}

// eventFilter makes subjects of the flags; none are all.
func (c *cli) eventFilter(ctx context.Context, f tailFlags) ([]string, error) {
	given := 0
	for _, s := range []string{f.subject, f.job, f.source, f.fleet, f.consumer} {
		if s != "" {
			given++
		}
	}
	switch {
	case given > 1:
		return nil, usagef("--subject, --job, --source, --fleet and --consumer exclude each other")
	case f.subject != "":
		return []string{f.subject}, nil
	case f.job != "":
		id, err := c.jobID(ctx, f.job)
		return []string{events.JobFilter("", "", id)}, err
	case f.fleet != "":
		return []string{events.FleetFilter("", f.fleet), events.MigrationFilter("", f.fleet, "")}, nil
	case f.source != "":
		client, err := c.client()
		if err != nil {
			return nil, err
		}
		source, err := findSource(ctx, client, f.source)
		return []string{events.SourceFilter("", "", source.SourceID)}, err
	}
	return nil, nil
}

// jobID returns the id of a job that is given by id or name; empty when none is given.
func (c *cli) jobID(ctx context.Context, ref string) (string, error) {
	if ref == "" || jobIDForm.MatchString(ref) {
		return ref, nil // also of a job that is gone
	}
	client, err := c.client()
	if err != nil {
		return "", err
	}
	job, err := findJob(ctx, client, ref)
	return job.JobID, err
}

// readEvents hands out what the stream has now and returns.
func readEvents(ctx context.Context, js jetstream.JetStream, filters []string, f tailFlags, handle func(events.Event) error) error {
	if f.since.text == "now" {
		return nil
	}
	name := f.stream()
	stream, err := js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("there is no event stream %s yet: it is made for the first event; is %s the one of this center? (%w)", name, envNATS, err)
	}
	if err != nil {
		return fmt.Errorf("event stream %s: %w", name, err)
	}
	cfg := jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy, FilterSubjects: filters}
	switch {
	case f.from > 0:
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, f.from
	case !f.since.at.IsZero():
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &f.since.at
	}
	consumer, err := stream.OrderedConsumer(ctx, cfg)
	if err != nil {
		return fmt.Errorf("event stream %s: %w", name, err)
	}
	info, err := consumer.Info(ctx)
	if err != nil {
		return fmt.Errorf("event stream %s: %w", name, err)
	}
	// Pending on the server or on its way here already: both are still to come.
	if info.NumPending == 0 && info.Delivered.Consumer == 0 {
		return nil
	}
	messages, err := consumer.Messages()
	if err != nil {
		return fmt.Errorf("event stream %s: %w", name, err)
	}
	defer messages.Stop()
	for {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("event stream %s: %w", name, err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("event stream %s: %w", name, err)
		}
		ce, err := events.Decode(msg.Data())
		if err != nil {
			return fmt.Errorf("message %d: %w", meta.Sequence.Stream, err)
		}
		seq, err := events.Sequence(ce)
		if err != nil {
			return err
		}
		if err := handle(events.Event{
			CloudEvent: ce, Subject: msg.Subject(), Sequence: seq,
			StreamSeq: meta.Sequence.Stream, Stored: meta.Timestamp, Data: msg.Data(),
		}); err != nil {
			return err
		}
		if meta.NumPending == 0 {
			return nil
		}
	}
}

// eventPrinter prints events one by one. Its columns have fixed widths: nobody knows what will come.
type eventPrinter struct {
	cli    *cli
	header bool
}

const eventRow = "%-23s  %-9s  %-20s  %4s  %-10s  %-19s  %s\n"

func (p *eventPrinter) print(ev events.Event) error {
	if p.cli.json() {
		return p.cli.printf("%s\n", ev.Data)
	}
	if !p.header {
		p.header = true
		if err := p.cli.printf(eventRow, "TIME", "KIND", "ID", "SEQ", "CHANGE", "STATUS", "DETAIL"); err != nil {
			return err
		}
	}
	kind, change, status, detail := describeEvent(ev)
	line := fmt.Sprintf(eventRow, ev.CloudEvent.Time().Local().Format("2006-01-02 15:04:05.000"), kind,
		ev.CloudEvent.Subject(), fmt.Sprint(ev.Sequence), change, status, detail)
	return p.cli.printf("%s\n", strings.TrimRight(line, " \n"))
}

func describeEvent(ev events.Event) (kind, change, status, detail string) {
	var details []string
	note := func(format, value string) {
		if value != "" {
			details = append(details, fmt.Sprintf(format, value))
		}
	}
	switch ev.CloudEvent.Type() {
	case events.TypeJobStatus:
		data, err := ev.JobStatusChanged()
		if err != nil {
			return "job", "?", "?", err.Error()
		}
		note("%s", data.Name)
		if data.Run > 0 {
			note("run %s", fmt.Sprint(data.Run))
		}
		note("image %s", data.ImageID)
		note("%s", data.ErrorCode)
		note("%s", data.StatusInfo)
		return "job", string(data.Change), phaseOf(smc.JobStatus(data.Status), smc.BusinessStatus(data.BusinessStatus)), strings.Join(details, "  ")
	case events.TypeSourceState:
		data, err := ev.SourceStateChanged()
		if err != nil {
			return "source", "?", "?", err.Error()
		}
		note("%s", data.Name)
		note("%s", data.ErrorCode)
		return "source", string(data.Change), data.State, strings.Join(details, "  ")
	case events.TypeMigrationPhase:
		data, err := ev.MigrationChanged()
		if err != nil {
			return "migration", "?", "?", err.Error()
		}
		note("%s", data.Name)
		note("%s", data.JobID)
		note("%s", data.Reason)
		note("%s", data.Error)
		return "migration", "", string(data.Phase), strings.Join(details, "  ")
	case events.TypeFleetStatus:
		data, err := ev.FleetChanged()
		if err != nil {
			return "fleet", "?", "?", err.Error()
		}
		note("wave %s", data.Wave)
		details = append(details, fmt.Sprintf("%d done, %d failed, %d open", data.Done, data.Failed, data.Open))
		note("%s", data.Reason)
		return "fleet", "", string(data.Status), strings.Join(details, "  ")
	}
	return "other", "", "", ev.CloudEvent.Type() + " " + ev.Stored.Format(time.DateTime)
}
