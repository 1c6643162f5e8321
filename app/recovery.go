package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.temporal.io/sdk/client"
	"go.uber.org/zap"

	"github.com/drover/drover/center"
	"github.com/drover/drover/center/backup"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/events"
)

// RebuildConfig is what Rebuild needs.
type RebuildConfig struct {
	Connections
	// RegionID is the region of the center (DROVER_REGION).
	RegionID string
	// Replace ends the entities there are.
	Replace bool
}

// Check reports what is missing.
func (c *RebuildConfig) Check() error {
	if c.RegionID == "" {
		return errors.New("DROVER_REGION is not set: set it, or give --region")
	}
	return c.Connections.Check()
}

// Rebuild starts the entities of the record in Temporal, after it has brought a record that was restored in line with the
// stream of events.
func Rebuild(ctx context.Context, config RebuildConfig, out io.Writer, log *zap.Logger) error {
	record, err := config.openRecord(ctx, log)
	if err != nil {
		return err
	}
	defer func() { _ = record.Close() }()
	options, err := config.temporalOptions(nil, log)
	if err != nil {
		return err
	}
	temporal, err := client.DialContext(ctx, options)
	if err != nil {
		return fmt.Errorf("reach Temporal at %s, namespace %s: %w", config.TemporalAddress, config.TemporalNamespace, err)
	}
	defer temporal.Close()
	return config.rebuild(ctx, record, &center.TemporalEngine{Client: temporal, Namespace: config.TemporalNamespace, Store: record}, newReporter(out), log)
}

// rebuild is Rebuild with what a server has open already.
func (c *RebuildConfig) rebuild(ctx context.Context, record *store.Store, engine *center.TemporalEngine, report *reporter, log *zap.Logger) error {
	restored, err := record.Restored(ctx)
	if err != nil {
		return fmt.Errorf("read whether the record was restored: %w", err)
	}
	rebuilt, err := engine.Rebuild(ctx, center.RebuildOptions{
		Replace: c.Replace, Restored: restored != nil,
		Prepare: func(ctx context.Context) error {
			if restored == nil {
				return nil
			}
			return c.catchUp(ctx, record, restored, report, log)
		},
		Progress: func(done, total int) { report.progress("start entities", int64(done), int64(total)) },
	})
	if errors.Is(err, center.ErrEntities) {
		return fmt.Errorf("%w. The database was restored from a backup of %s, and they know what came after it. "+
			"Rebuild into an empty namespace (--temporal-namespace), or end them all with --replace; with drover-dev, remove the folder temporal in its data", err, restored.BackupAt.Format(time.RFC3339))
	}
	if err != nil {
		return fmt.Errorf("%w: run it again, it goes on where it was", err)
	}
	if restored != nil {
		if err := record.EndRestoration(ctx); err != nil {
			return fmt.Errorf("end the restore: %w", err)
		}
	}
	report.line("entities: %d started, %d were there, %d replaced, %d ended whose jobs are not in the record", rebuilt.Started, rebuilt.There, rebuilt.Replaced, rebuilt.Ended)
	log.Info("entities rebuilt", zap.Int("started", rebuilt.Started), zap.Int("there", rebuilt.There),
		zap.Int("replaced", rebuilt.Replaced), zap.Int("ended", rebuilt.Ended))
	return nil
}

// catchUp brings a restored record and the stream in line: numbers go on after those that consumers have seen, and a stream
// that has less than the record is filled.
func (c *RebuildConfig) catchUp(ctx context.Context, record *store.Store, restored *store.Restoration, report *reporter, log *zap.Logger) error {
	nc, err := c.nats("drover-server", log)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("JetStream: %w", err)
	}
	var all store.Caught
	err = events.Heads(ctx, js, c.RegionID, func(head events.Head) error {
		caught, err := record.CatchUp(ctx, head, restored)
		all.Advanced, all.Gone = all.Advanced+caught.Advanced, all.Gone+caught.Gone
		return err
	})
	if err != nil {
		return fmt.Errorf("bring the restored record in line with the stream of events: %w; check that NATS runs at %s, and run this again", err, c.NATSURL)
	}
	report.line("events: %d jobs and source servers go on after what the stream has of them, %d that the backup does not know are told to be gone", all.Advanced, all.Gone)
	lost, err := isNewStream(ctx, js, record)
	if err != nil {
		return err
	}
	if lost {
		n, err := record.Rewind(ctx, store.RewindFrom{NewStream: true})
		if err != nil {
			return err
		}
		report.line("events: the stream has less than the record; the server's relay publishes %d events again", n)
	}
	return nil
}

// awaitRebuild returns once the record is not one that was restored and waits for its rebuild.
func awaitRebuild(ctx context.Context, record *store.Store, log *zap.Logger) error {
	for told := false; ; {
		restored, err := record.Restored(ctx)
		if err != nil {
			return fmt.Errorf("read whether the record was restored: %w", err)
		}
		if restored == nil {
			return nil
		}
		if !told {
			log.Warn("the database was restored from a backup: waiting for drover-server rebuild", zap.Time("backup_at", restored.BackupAt))
			told = true
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// requireRebuilt refuses to serve a record that was restored.
func requireRebuilt(ctx context.Context, record *store.Store) error {
	restored, err := record.Restored(ctx)
	if err != nil {
		return fmt.Errorf("read whether the record was restored: %w", err)
	}
	if restored != nil {
		return fmt.Errorf("the database was restored from a backup of %s, and its jobs have no entities yet: run drover-server rebuild; with drover-dev, remove the folder temporal in its data",
			restored.BackupAt.Format(time.RFC3339))
	}
	return nil
}

// BackupConfig is what Backup needs.
type BackupConfig struct {
	Connections
	// To is the folder of backups.
	To string
	// DataDirs are the roots of transition hosts on this machine.
	DataDirs []string
	// ImagesOnly leaves the record out.
	ImagesOnly bool
}

// Check reports what is missing.
func (c *BackupConfig) Check() error {
	switch {
	case c.To == "":
		return errors.New("--to is not given: it names the folder of backups")
	case c.ImagesOnly && len(c.DataDirs) == 0:
		return errors.New("--images-only needs --data, the data folder of a transition host")
	case c.ImagesOnly:
		return nil
	}
	return c.checkRecord()
}

// Backup takes a backup. It prints its folder to stdout, and how it goes on to stderr.
func Backup(ctx context.Context, config BackupConfig, stdout, stderr io.Writer, log *zap.Logger) error {
	report := newReporter(stderr)
	options := backup.Options{To: config.To, DataDirs: config.DataDirs, Version: Version(), Progress: report.progress}
	if !config.ImagesOnly {
		record, err := config.openRecord(ctx, log)
		if err != nil {
			return err
		}
		defer func() { _ = record.Close() }()
		options.Record = record
	}
	result, err := backup.Take(ctx, options)
	if err != nil {
		return err
	}
	m := result.Manifest
	if m.Record != nil {
		rows := int64(0)
		for _, table := range m.Record.Tables {
			rows += table.Rows
		}
		report.line("record: %d rows in %d tables, as of %s; secrets are sealed with %s, which is not in the backup: keep a copy of %s elsewhere",
			rows, len(m.Record.Tables), m.TakenAt.Format(time.RFC3339), keyNames(m.Record.KeyIDs), config.SecretKeyFile)
	}
	if options.Record != nil {
		if err := options.Record.NoteBackup(ctx, m.TakenAt); err != nil {
			log.Warn("the backup is complete; that it was taken is not noted, and drover doctor does not know of it", zap.Error(err))
		}
	}
	report.line("images: %d new, %d of earlier backups", result.Copied, result.Linked)
	if len(result.Elsewhere) > 0 {
		var hosts []string
		for _, image := range result.Elsewhere {
			if !slices.Contains(hosts, image.HostID) {
				hosts = append(hosts, image.HostID)
			}
		}
		report.line("images: %d are not in this backup, those of the transition hosts %s: back them up there with --images-only --data", len(result.Elsewhere), strings.Join(hosts, ", "))
	}
	if _, err := fmt.Fprintln(stdout, result.Dir); err != nil {
		return err
	}
	for _, host := range m.Hosts {
		if len(host.Damaged) > 0 {
			return fmt.Errorf("the backup is complete but for %d images whose files on the transition host %s are damaged or gone: %s. Look at them with drover image verify; those of earlier backups are still there",
				len(host.Damaged), host.HostID, strings.Join(host.Damaged, ", "))
		}
	}
	return nil
}

func keyNames(ids []string) string {
	if len(ids) == 0 {
		return "no key"
	}
	return "the key " + strings.Join(ids, ", ")
}

// RestoreConfig is what Restore needs.
type RestoreConfig struct {
	Connections
	// From is a backup, or the folder of backups.
	From string
	// DataDirs are the roots of transition hosts on this machine: DIR when the backup has one host, else HOST=DIR.
	DataDirs []string
	// ImagesOnly leaves the record out, and gives hosts the images back that they lack; VerifyOnly leaves out everything.
	ImagesOnly, VerifyOnly bool
	// Images, with ImagesOnly, are those to give back; none: all that are lacking.
	Images []string
}

// Check reports what is missing.
func (c *RestoreConfig) Check() error {
	switch {
	case c.From == "":
		return errors.New("--from is not given: it names a backup, or the folder of backups whose newest is meant")
	case c.VerifyOnly:
		return nil
	case c.ImagesOnly && len(c.DataDirs) == 0:
		return errors.New("--images-only needs --data, the data folder of a transition host")
	case c.ImagesOnly:
		return nil
	case len(c.Images) > 0:
		return errors.New("--image names an image to give back with --images-only; a restore of the record takes all of them")
	}
	return c.checkRecord()
}

// Restore gives back what is in a backup.
func Restore(ctx context.Context, config RestoreConfig, out io.Writer) error {
	report := newReporter(out)
	b, err := backup.Open(config.From)
	if err != nil {
		return err
	}
	report.line("backup: %s, taken at %s by Drover %s", b.Dir, b.Manifest.TakenAt.Format(time.RFC3339), b.Manifest.Drover)
	if config.VerifyOnly {
		if err := b.Verify(ctx, report.progress); err != nil {
			return err
		}
		report.line("backup: everything in it is what it was")
		return nil
	}
	dirs, err := hostDirs(b.Manifest.Hosts, config.DataDirs)
	if err != nil {
		return err
	}
	if config.ImagesOnly {
		given, err := b.GiveBack(ctx, dirs, config.Images, report.progress)
		for _, g := range given {
			report.line("images: %d of the transition host %s were given back to %s, %d were there. Next: start its worker with it as --data", len(g.Images), g.HostID, dirs[g.HostID], len(g.There))
		}
		return err
	}
	target := backup.Target{Progress: report.progress, DatabaseURL: config.DatabaseURL, DataDirs: dirs}
	if target.Sealer, err = store.LoadSealer(config.SecretKeyFile); err != nil {
		return err
	}
	if err := b.Restore(ctx, target); err != nil {
		return err
	}
	for _, host := range b.Manifest.Hosts {
		switch dir, ok := target.DataDirs[host.HostID]; {
		case ok:
			report.line("images: %d of the transition host %s are in %s", len(host.Images), host.HostID, dir)
		case len(host.Images) > 0:
			report.line("images: %d of the transition host %s are in the backup and were not restored: give --data for them if the host has lost them", len(host.Images), host.HostID)
		}
	}
	report.line("record: restored. Next: drover-server rebuild, then start the servers and workers")
	return nil
}

// hostDirs reads the --data flags of a restore.
func hostDirs(hosts []backup.Host, flags []string) (map[string]string, error) {
	dirs := map[string]string{}
	for _, flag := range flags {
		id, dir, named := strings.Cut(flag, "=")
		if !named {
			if len(hosts) != 1 {
				var ids []string
				for _, host := range hosts {
					ids = append(ids, host.HostID)
				}
				return nil, fmt.Errorf("--data %s: the backup has the images of %d transition hosts (%s): say of which, as --data HOST=%[1]s", flag, len(hosts), strings.Join(ids, ", "))
			}
			id, dir = hosts[0].HostID, flag
		}
		if !slices.ContainsFunc(hosts, func(h backup.Host) bool { return h.HostID == id }) {
			return nil, fmt.Errorf("--data %s: the backup has no images of the transition host %s", flag, id)
		}
		dirs[id] = dir
	}
	return dirs, nil
}

// ReplayConfig is what Replay needs.
type ReplayConfig struct {
	Connections
	// From is "beginning", a sequence of the stream, a time (RFC 3339), or how long ago (such as 36h).
	From string
	// NewStream deletes the stream first, with the consumers on it.
	NewStream bool
}

// Check reports what is missing.
func (c *ReplayConfig) Check() error {
	if c.From == "" {
		return errors.New("--from is not given: it is beginning, a sequence of the stream, a time like 2026-05-01T12:00:00Z, or how long ago, like 36h")
	}
	if _, err := parseFrom(c.From, time.Now()); err != nil {
		return err
	}
	if c.NATSURL == "" {
		return errors.New("NATS_URL is not set: set it, or give --nats-url")
	}
	return c.checkRecord()
}

func parseFrom(text string, now time.Time) (store.RewindFrom, error) {
	if text == "beginning" {
		return store.RewindFrom{}, nil
	}
	if n, err := strconv.ParseUint(text, 10, 64); err == nil && n > 0 {
		return store.RewindFrom{StreamSequence: n}, nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return store.RewindFrom{Since: t}, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return store.RewindFrom{Since: now.Add(-d)}, nil
	}
	return store.RewindFrom{}, fmt.Errorf("--from %q: want beginning, a sequence of the stream from 1, a time like 2026-05-01T12:00:00Z, or how long ago, like 36h", text)
}

// replayLook is how often Replay looks how far it is.
const replayLook = 100 * time.Millisecond

// Replay publishes events of the outbox again that the stream lacks, and returns when all are dealt with. A center may run
// meanwhile.
func Replay(ctx context.Context, config ReplayConfig, out io.Writer, log *zap.Logger) error {
	from, err := parseFrom(config.From, time.Now())
	if err != nil {
		return err
	}
	record, err := config.openRecord(ctx, log)
	if err != nil {
		return err
	}
	defer func() { _ = record.Close() }()
	nc, err := config.nats("drover-server", log)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("JetStream: %w", err)
	}
	report := newReporter(out)
	if config.NewStream {
		if err := renewStream(ctx, js, report); err != nil {
			return err
		}
	}
	if from.NewStream, err = isNewStream(ctx, js, record); err != nil {
		return err
	}
	total, err := record.Rewind(ctx, from)
	if err != nil {
		return err
	}
	report.line("events: %d to go through", total)
	relay := events.NewRelay(js, record, events.RelayConfig{KeepStream: true}, log)
	relayCtx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- relay.Run(relayCtx) }()
	err = awaitRelayed(ctx, record, total, report)
	stop()
	if err = errors.Join(err, <-ended); err != nil {
		return err
	}
	lost, err := record.NotInStream(ctx)
	if err != nil {
		return err
	}
	stats := relay.Stats()
	report.line("events: %d published, %d were in the stream already (a server that runs may have done more)", stats.Published, stats.Found)
	if config.From == "beginning" && lost > 0 {
		return fmt.Errorf("%d events have no place in the stream: it has later ones of their resources. To have all of them, make the stream anew with --new-stream; its consumers go with it", lost)
	}
	return nil
}

// isNewStream reports whether the stream is not the one that the events of the record were published to, as far as that
// can be seen: it has not got that far.
func isNewStream(ctx context.Context, js jetstream.JetStream, record *store.Store) (bool, error) {
	position, err := record.OutboxPosition(ctx)
	if err != nil {
		return false, err
	}
	stream, err := js.Stream(ctx, events.StreamName)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return position.StreamSequence > 0, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at stream %s: %w; check that NATS runs", events.StreamName, err)
	}
	return stream.CachedInfo().State.LastSeq < position.StreamSequence, nil
}

// awaitRelayed returns when nothing waits to be published.
func awaitRelayed(ctx context.Context, record *store.Store, total int, report *reporter) error {
	ticker := time.NewTicker(replayLook)
	defer ticker.Stop()
	for {
		pending, _, err := record.Backlog(ctx)
		if err != nil {
			return err
		}
		report.progress("publish events", int64(max(0, total-pending)), int64(total))
		if pending == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d events are left: a server's relay goes on with them, or this command when it is run again: %w", pending, ctx.Err())
		case <-ticker.C:
		}
	}
}

// renewStream deletes the stream and makes it anew with the settings it had.
func renewStream(ctx context.Context, js jetstream.JetStream, report *reporter) error {
	stream, err := js.Stream(ctx, events.StreamName)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil // the relay makes it
	}
	if err != nil {
		return fmt.Errorf("look at stream %s: %w", events.StreamName, err)
	}
	var consumers []string
	names := stream.ConsumerNames(ctx)
	for name := range names.Name() {
		consumers = append(consumers, name)
	}
	if err := names.Err(); err != nil {
		return fmt.Errorf("list the consumers of stream %s: %w", events.StreamName, err)
	}
	config := stream.CachedInfo().Config
	if err := js.DeleteStream(ctx, events.StreamName); err != nil {
		return fmt.Errorf("delete stream %s: %w", events.StreamName, err)
	}
	if _, err := events.MakeStream(ctx, js, config); err != nil {
		return fmt.Errorf("make stream %s anew: %w; run this again", events.StreamName, err)
	}
	slices.Sort(consumers)
	report.line("stream: %s is new; its consumers are gone (%s): start what reads it again", events.StreamName, strings.Join(consumers, ", "))
	return nil
}

// checkRecord reports what is missing of the database's settings.
func (c Connections) checkRecord() error {
	if c.DatabaseURL == "" {
		return errors.New("DATABASE_URL is not set: set it, or give --database-url")
	}
	if c.SecretKeyFile == "" {
		return errors.New("DROVER_SECRET_KEY_FILE is not set: set it, or give --secret-key-file; for a new center make the file with: openssl rand -base64 32 > FILE")
	}
	return nil
}

// reporter writes lines for a person, and how far something is about once a second.
type reporter struct {
	out  io.Writer
	last time.Time
}

func newReporter(out io.Writer) *reporter { return &reporter{out: out, last: time.Now()} }

func (r *reporter) line(format string, args ...any) {
	_, _ = fmt.Fprintf(r.out, format+"\n", args...)
}

// progress tells how far something is.
func (r *reporter) progress(what string, done, total int64) {
	if time.Since(r.last) < time.Second {
		return
	}
	r.last = time.Now()
	if total == 0 {
		r.line("%s", what)
		return
	}
	r.line("%s: %.0f %%", what, 100*float64(done)/float64(total))
}
