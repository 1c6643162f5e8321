package main

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/drover/drover/events"
	"github.com/drover/drover/smc"
)

// envNATS names the event stream.
const (
	envNATS = "NATS_URL"
	// envNATSPrefix begins the subjects of JetStream's API for a user of another NATS account than the streams'.
	envNATSPrefix = "NATS_JS_API_PREFIX"
)

// since is the value of --since.
type since string

// String implements pflag.Value.
func (s *since) String() string { return string(*s) }

// Type implements pflag.Value.
func (s *since) Type() string { return "WHEN" }

// Set implements pflag.Value.
func (s *since) Set(text string) error {
	if text != "all" && text != "now" {
		return errors.New("must be all or now")
	}
	*s = since(text)
	return nil
}

type tailFlags struct {
	subject, job, source string
	consumer             string
	since                since
	follow               bool
}

func (c *cli) eventsCommand() *cobra.Command {
	f := tailFlags{since: "all", follow: true}
	tail := &cobra.Command{
		Use:   "tail [--subject SUBJECT | --job JOB | --source SOURCE | --consumer NAME] [--since all|now] [--follow=false]",
		Short: "Print the events of jobs and source servers as they happen",
		Long: `Print the status changes of jobs and source servers: first what the stream has, then what happens, until Ctrl-C.
With --follow=false it ends with what the stream has. -o json prints the CloudEvents, one a line.

A user who may see one account only has a consumer made for him ("drover events observer add") and reads through it with
--consumer: tail goes on there where the last one stopped.

It reads the stream at NATS_URL; the center is asked only to find a job or a source server by name.`,
		Example: `  drover events tail
  drover events tail --job web-1 --follow=false -o json
  drover events tail --subject 'smc.v1.*.*.source.>' --since now`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, name := range []string{"since", "follow"} {
				if f.consumer != "" && cmd.Flags().Changed(name) {
					return usagef("--consumer and --%s exclude each other: a consumer goes on where it is, and waits for more", name)
				}
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT)
			defer stop()
			err := c.tailEvents(ctx, f)
			if ctx.Err() != nil && errors.Is(err, context.Canceled) {
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
	flags.StringVar(&f.consumer, "consumer", "", "only what the consumer `NAME` has, which was made for this user")
	flags.Var(&f.since, "since", "`WHEN` to begin: all that the stream has, or now")
	flags.BoolVar(&f.follow, "follow", true, "wait for more")
	return group("events", "Events: what changed, from the event stream", tail, c.replayCommand(), c.observerCommand())
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
				return usagef("%s: --account is missing", cmd.CommandPath())
			}
			return c.changeObserver(cmd.Context(), args[0], "made on", func(ctx context.Context, js jetstream.JetStream) ([]string, error) {
				return events.AddObserver(ctx, js, args[0], account)
			})
		},
	}
	add.Flags().StringVar(&account, "account", "", "the `ACCOUNT` of the center")
	remove := &cobra.Command{
		Use:   "remove NAME",
		Short: "Delete the consumers of an observer",
		Args:  exactArgs("NAME"),
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
		return nil, nil, usagef("not set in the environment: %s; drover-dev writes it to dev.env in its data directory, source that file", envNATS)
	}
	security, err := events.SecurityFromEnv(c.getenv).Options()
	if err != nil {
		return nil, nil, usageError{err}
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
		return readEvents(ctx, js, filter, f.since, p.print)
	}
	cfg := events.SubscribeConfig{Log: c.log, Durable: f.consumer, Bound: f.consumer != ""}
	if filter != "" {
		cfg.Filters = []string{filter}
	}
	if f.since == "now" {
		cfg.Start = events.StartNew
	}
	return events.Subscribe(ctx, js, cfg, func(_ context.Context, ev events.Event) error { return p.print(ev) })
}

// eventFilter makes one subject of the flags.
func (c *cli) eventFilter(ctx context.Context, f tailFlags) (string, error) {
	given := 0
	for _, s := range []string{f.subject, f.job, f.source, f.consumer} {
		if s != "" {
			given++
		}
	}
	switch {
	case given > 1:
		return "", usagef("--subject, --job, --source and --consumer exclude each other")
	case f.subject != "":
		return f.subject, nil
	case f.job != "":
		if jobIDForm.MatchString(f.job) {
			return events.JobFilter("", "", f.job), nil // also of a job that is gone
		}
		client, err := c.client()
		if err != nil {
			return "", err
		}
		job, err := findJob(ctx, client, f.job)
		return events.JobFilter("", "", job.JobID), err
	case f.source != "":
		client, err := c.client()
		if err != nil {
			return "", err
		}
		source, err := findSource(ctx, client, f.source)
		return events.SourceFilter("", "", source.SourceID), err
	}
	return "", nil
}

// readEvents hands out what the stream has now and returns.
func readEvents(ctx context.Context, js jetstream.JetStream, filter string, from since, handle func(events.Event) error) error {
	if from == "now" {
		return nil
	}
	stream, err := js.Stream(ctx, events.StreamName)
	if err != nil {
		return fmt.Errorf("event stream %s: %w", events.StreamName, err)
	}
	cfg := jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy}
	if filter != "" {
		cfg.FilterSubjects = []string{filter}
	}
	consumer, err := stream.OrderedConsumer(ctx, cfg)
	if err != nil {
		return fmt.Errorf("event stream %s: %w", events.StreamName, err)
	}
	info, err := consumer.Info(ctx)
	if err != nil {
		return fmt.Errorf("event stream %s: %w", events.StreamName, err)
	}
	// Pending on the server or on its way here already: both are still to come.
	if info.NumPending == 0 && info.Delivered.Consumer == 0 {
		return nil
	}
	messages, err := consumer.Messages()
	if err != nil {
		return fmt.Errorf("event stream %s: %w", events.StreamName, err)
	}
	defer messages.Stop()
	for {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("event stream %s: %w", events.StreamName, err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("event stream %s: %w", events.StreamName, err)
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

const eventRow = "%-23s  %-6s  %-20s  %4s  %-19s  %s\n"

func (p *eventPrinter) print(ev events.Event) error {
	if p.cli.json() {
		return p.cli.printf("%s\n", ev.Data)
	}
	if !p.header {
		p.header = true
		if err := p.cli.printf(eventRow, "TIME", "KIND", "ID", "SEQ", "STATUS", "DETAIL"); err != nil {
			return err
		}
	}
	kind, status, detail := describeEvent(ev)
	line := fmt.Sprintf(eventRow, ev.CloudEvent.Time().Local().Format("2006-01-02 15:04:05.000"), kind,
		ev.CloudEvent.Subject(), fmt.Sprint(ev.Sequence), status, detail)
	return p.cli.printf("%s\n", strings.TrimRight(line, " \n"))
}

func describeEvent(ev events.Event) (kind, status, detail string) {
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
			return "job", "?", err.Error()
		}
		note("%s", data.Name)
		if data.Run > 0 {
			note("run %s", fmt.Sprint(data.Run))
		}
		note("image %s", data.ImageID)
		note("%s", data.ErrorCode)
		note("%s", data.StatusInfo)
		return "job", phaseOf(smc.JobStatus(data.Status), smc.BusinessStatus(data.BusinessStatus)), strings.Join(details, "  ")
	case events.TypeSourceState:
		data, err := ev.SourceStateChanged()
		if err != nil {
			return "source", "?", err.Error()
		}
		note("%s", data.Name)
		note("%s", data.ErrorCode)
		return "source", data.State, strings.Join(details, "  ")
	}
	return "other", "", ev.CloudEvent.Type() + " " + ev.Stored.Format(time.DateTime)
}
