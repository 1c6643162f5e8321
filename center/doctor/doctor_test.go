package doctor

import (
	"context"
	"database/sql"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/center/ca"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/center/store/storetest"
	"github.com/drover/drover/events"
	"github.com/drover/drover/smc"
)

const (
	hostID  = "i-host"
	account = "1"
	region  = "local"
)

// fixture is a center without Temporal: a record whose events a relay moves to a stream.
type fixture struct {
	*store.Store
	t   *testing.T
	url string
	js  jetstream.JetStream
	// later is by how much the clock of the doctor and of the store is moved.
	later time.Duration
	n     int
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, url: storetest.Migrated(t, store.Open)}
	record, err := store.Open(t.Context(), f.url, store.WithClock(f.now))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, record.Close()) })
	f.Store = record
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true, JetStream: true, StoreDir: t.TempDir()})
	require.NoError(t, err)
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	const patience = 15 * time.Second
	require.True(t, srv.ReadyForConnections(patience))
	nc, err := nats.Connect(fmt.Sprintf("nats://127.0.0.1:%d", srv.Addr().(*net.TCPAddr).Port))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	f.js, err = jetstream.New(nc)
	require.NoError(t, err)
	f.live()
	require.NoError(t, f.CreateAccessToken(t.Context(), store.AccessToken{AccessTokenID: store.NewID("at"), AccountID: account, RegionID: region, Count: 100, TTLDays: 1}, "code"))
	return f
}

func (f *fixture) now() time.Time { return time.Now().Add(f.later) }

// live has the processes and the host report themselves.
func (f *fixture) live() {
	f.t.Helper()
	ctx := f.t.Context()
	for _, program := range []string{"drover-server", "drover-worker --role center,transition"} {
		require.NoError(f.t, f.ReportProcess(ctx, store.Process{ProcessID: "p-" + program, Program: program, Machine: "here", Version: "v1.1.0"}))
	}
	require.NoError(f.t, f.HostHeartbeat(ctx, hostID, "http://127.0.0.1:1"))
	require.NoError(f.t, f.ReportVolume(ctx, hostID, 90, 100))
	_, err := f.RecordOrphans(ctx, hostID, nil)
	require.NoError(f.t, err)
}

func (f *fixture) job() *store.Job {
	f.t.Helper()
	f.n++
	name := fmt.Sprintf("server-%d", f.n)
	source, err := f.RegisterSource(f.t.Context(), "code", "token of "+name, "instance of "+name, name,
		agentapi.Server{AgentVersion: "v1.1.0", Disks: []agentapi.Disk{{SizeBytes: 1 << 20}}}, 1000)
	require.NoError(f.t, err)
	once, frequency, keep := false, 24, 3
	id, err := f.CreateJob(f.t.Context(), account, smc.CreateReplicationJobRequest{
		RegionID: region, SourceID: source.SourceID, RunOnce: &once, Frequency: &frequency, MaxNumberOfImageToKeep: &keep,
	}, 1000)
	require.NoError(f.t, err)
	job, err := f.JobByID(f.t.Context(), id)
	require.NoError(f.t, err)
	return job
}

func (f *fixture) start(jobID string) *store.RunStart {
	f.t.Helper()
	start, err := f.StartRun(f.t.Context(), jobID, store.NewID("key"), smc.TriggerStart, smc.RunManual, store.CutOverNone)
	require.NoError(f.t, err)
	return start
}

// relay publishes what waits.
func (f *fixture) relay() {
	f.t.Helper()
	ctx, stop := context.WithCancel(f.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- events.NewRelay(f.js, f.Store, events.RelayConfig{}, zaptest.NewLogger(f.t)).Run(ctx) }()
	require.Eventually(f.t, func() bool {
		pending, _, err := f.Backlog(ctx)
		return err == nil && pending == 0
	}, 15*time.Second, 5*time.Millisecond)
	stop()
	require.NoError(f.t, <-ended)
}

func (f *fixture) db() *sql.DB { return storetest.DB(f.t, f.url) }

func (f *fixture) exec(statement string, args ...any) {
	f.t.Helper()
	_, err := f.db().ExecContext(f.t.Context(), statement, args...)
	require.NoError(f.t, err)
}

func (f *fixture) examine(changes ...func(*Config)) *Report {
	f.t.Helper()
	config := Config{Record: f.Store, JetStream: f.js, Version: "v1.1.0", Now: f.now, Limits: Limits{Settle: time.Millisecond}}
	for _, change := range changes {
		change(&config)
	}
	report := Examine(f.t.Context(), config)
	for _, finding := range report.Findings {
		require.NotEmpty(f.t, finding.Thing)
		require.NotEmpty(f.t, finding.Text)
		require.NotContains(f.t, finding.Do, "THING")
	}
	return report
}

// requireFound demands one finding of a kind about a thing, and returns it.
func requireFound(t *testing.T, r *Report, kind, thing, text string) Finding {
	t.Helper()
	i := slices.IndexFunc(r.Findings, func(f Finding) bool { return f.Kind == kind && f.Thing == thing })
	require.GreaterOrEqual(t, i, 0, "no %s about %s: %+v", kind, thing, r)
	require.Contains(t, r.Findings[i].Text, text)
	return r.Findings[i]
}

func requireNone(t *testing.T, r *Report, kind string) {
	t.Helper()
	require.False(t, slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Kind == kind }), "%+v", r.Findings)
}

func TestHealthy(t *testing.T) {
	f := newFixture(t)
	job := f.job()
	f.start(job.JobID)
	f.relay()
	require.NoError(t, f.NoteBackup(t.Context(), f.now()))
	report := f.examine()
	require.Empty(t, report.Findings)
	require.Empty(t, report.NotSeen)
	require.True(t, report.Sound())
	require.Equal(t, []string{
		"database", "secrets", "backups", "processes", "source servers", "transition hosts", "jobs", "sessions", "events", "certificates", "stream", "consumers of SMC", "consumers of DROVER",
	}, report.Seen)
}

func TestProcesses(t *testing.T) {
	f := newFixture(t)
	job := f.job()
	f.relay()
	ctx := t.Context()
	require.NoError(t, f.ReportProcess(ctx, store.Process{ProcessID: "p-old", Program: "drover-server", Machine: "there", Version: "v1.0.0"}))
	f.exec(`UPDATE source_servers SET server = $1`, `{"agentVersion":"v1.0.9","disks":[{"index":0}]}`)
	require.NoError(t, f.NoteAgentClock(ctx, job.SourceID, -time.Minute))
	require.NoError(t, f.NoteAgentClock(ctx, job.SourceID, -time.Minute+time.Millisecond)) // not worth a write
	f.later = 10 * time.Second
	require.NoError(t, f.ReportProcess(ctx, store.Process{ProcessID: "p-fast", Program: "drover-worker --role center", Machine: "fast", Version: "v1.1.0"}))
	f.later = 0
	report := f.examine()
	requireFound(t, report, versionsMixed, "center", "v1.0.0: drover-server on there; v1.1.0: ")
	requireFound(t, report, agentVersion, job.SourceID, "is v1.0.9, an older version than the center's v1.1.0")
	requireFound(t, report, clockSkew, "drover-worker --role center on fast", "10s ahead of the database's")
	requireFound(t, report, clockSkew, "source server "+job.SourceID+" (server-1)", "1m0s behind its center's")
	requireFound(t, report, backupUnknown, "database", "none")
	require.False(t, report.Sound())
	require.NoError(t, f.EndProcess(ctx, "p-old"))
	requireNone(t, f.examine(), versionsMixed)

	f.exec(`UPDATE processes SET heartbeat_at = heartbeat_at - 600000`)
	report = f.examine()
	requireFound(t, report, processMissing, "drover-server", "")
	requireFound(t, report, processMissing, "drover-worker --role center", "")

	f.later = time.Hour
	report = f.examine()
	requireFound(t, report, clockSkew, "this machine", "1h0m0s ahead of the database's")
	requireFound(t, report, clockSkew, "NATS", "")
}

func TestRecord(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	require.NoError(t, f.NoteBackup(ctx, f.now().Add(-8*24*time.Hour)))
	f.exec(`INSERT INTO settings (name, value) VALUES ('restored', '{"backupAt":"2026-05-01T00:00:00Z","restoredAt":"2026-05-02T00:00:00Z"}')`)
	report := f.examine()
	requireFound(t, report, backupOld, "database", "8 days ago")
	requireFound(t, report, restored, "database", "of 2026-05-01T00:00:00Z")

	// The authority of the center, a file, and secrets that another key sealed.
	old, err := ca.New(f.now().Add(-20 * 365 * 24 * time.Hour))
	require.NoError(t, err)
	text, err := ca.Authorities{old}.Encode()
	require.NoError(t, err)
	_, err = f.CertificateAuthorities(ctx, func() (string, error) { return text, nil })
	require.NoError(t, err)
	leaf, err := old.Issue([]string{"localhost"}, f.now().Add(-20*365*24*time.Hour))
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "tls.pem")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Certificate[0]}), 0o600))
	report = f.examine(func(c *Config) { c.Certificates = []string{file, filepath.Join(t.TempDir(), "none.pem")} })
	requireFound(t, report, certificateEnds, "the center's certificate authority", "it ended at")
	requireFound(t, report, certificateEnds, file, "it ended at")
	require.Len(t, report.NotSeen, 1)
	require.Equal(t, "certificates", report.NotSeen[0].Part)
	f.exec(`UPDATE settings SET value = 'sealed:v1:00000000:AAAA' WHERE name = 'certificate_authorities'`)
	requireFound(t, f.sealed(), secretKey, "database", "00000000")

	// Tables of another version are told of, and nothing else is read.
	f.exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (99999, TRUE)`)
	report = f.examine()
	requireFound(t, report, schemaAhead, "database", "version 99999")
	require.Equal(t, []string{"database", "certificates", "consumers of SMC", "consumers of DROVER"}, report.Seen)
	f.exec(`DELETE FROM goose_db_version WHERE version_id > 3`)
	requireFound(t, f.examine(), schemaBehind, "database", "version 3")

	require.Equal(t, secretKey, SecretKeyFile("/key", os.ErrNotExist).Kind)
	empty, err := store.OpenAsIs(storetest.URL(t))
	if !storetest.Postgres() {
		require.ErrorIs(t, err, os.ErrNotExist, "a database that is not there is not made")
		return
	}
	require.NoError(t, err)
	defer empty.Close()
	report = f.examine(func(c *Config) { c.Record = empty })
	require.Equal(t, "database", report.NotSeen[0].Part)
}

// sealed examines the record with a key that it was not sealed with.
func (f *fixture) sealed() *Report {
	f.t.Helper()
	key := filepath.Join(f.t.TempDir(), "key")
	require.NoError(f.t, store.MakeKeyFile(key))
	sealer, err := store.LoadSealer(key)
	require.NoError(f.t, err)
	other, err := store.OpenAsIs(f.url, store.WithSealer(sealer))
	require.NoError(f.t, err)
	defer other.Close()
	return f.examine(func(c *Config) { c.Record = other })
}

func TestHosts(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	job := f.job()
	f.start(job.JobID)
	require.NoError(t, f.ReportVolume(ctx, hostID, 4, 100))
	found := []store.Orphan{
		{Kind: store.OrphanStaging, Name: "j-gone", Info: "its job was deleted", Bytes: 3 << 20},
		{Kind: store.OrphanUnknownImage, Name: "m-unknown", Info: "it is not in the record"},
		{Kind: store.OrphanUnknownStaging, Name: "j-unknown", Info: "the record knows nothing of its job"},
		{Kind: store.OrphanLostImage, Name: "m-lost", Info: "its files are gone"},
	}
	_, err := f.RecordOrphans(ctx, hostID, found)
	require.NoError(t, err)
	report := f.examine()
	requireFound(t, report, diskLow, hostID, "4.0 %")
	require.Equal(t, Info, requireFound(t, report, orphan, "j-gone", "3.0 MiB").Severity)
	require.Contains(t, requireFound(t, report, orphanUnknown, "m-unknown", hostID).Do, "drover doctor --remove m-unknown")
	requireFound(t, report, imageLost, "m-lost", "its files are gone")
	_, err = f.ApproveOrphan(ctx, "j-unknown")
	require.NoError(t, err)
	requireFound(t, f.examine(), orphan, "j-unknown", "approved")

	f.exec(`UPDATE orphans SET since = since - 90000000`)
	f.exec(`UPDATE hosts SET swept_at = 0`)
	report = f.examine()
	requireFound(t, report, orphanStuck, "j-gone", "")
	requireFound(t, report, hostNotSwept, hostID, "it never has")

	f.exec(`UPDATE hosts SET heartbeat_at = heartbeat_at - 60000`)
	f.exec(`UPDATE source_servers SET state = 'Unavailable'`)
	report = f.examine()
	requireFound(t, report, hostOffline, hostID, "1 jobs and 0 images: "+job.JobID+" Running")
	requireFound(t, report, sourceOffline, job.SourceID, "its job "+job.JobID+" is Running")
	requireNone(t, report, hostNotSwept)
}

// A target instance that is silent matters once a job migrates to it.
func TestTargetInstances(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	disks := []agentapi.TargetDisk{{Path: "/dev/sda", SizeBytes: 1 << 20}}
	target, err := f.RegisterTarget(ctx, "code", "token of rack-7", "instance of rack-7", "rack-7", agentapi.Target{AgentVersion: "v1.0.0", Disks: disks}, 10)
	require.NoError(t, err)
	require.NoError(t, f.NoteTargetClock(ctx, target.InstanceID, time.Minute))
	report := f.examine()
	requireFound(t, report, agentVersion, target.InstanceID, "v1.0.0, an older version")
	requireFound(t, report, clockSkew, "target instance "+target.InstanceID+" (rack-7)", "")
	f.later = time.Hour
	f.live()
	report = f.examine()
	requireNone(t, report, agentVersion)
	requireNone(t, report, targetOffline)
	job := f.job()
	kind := "TargetInstance"
	_, err = f.ModifyJob(ctx, smc.ModifyReplicationJobAttributeRequest{JobID: job.JobID, TargetType: &kind, InstanceID: &target.InstanceID})
	require.NoError(t, err)
	requireFound(t, f.examine(), targetOffline, target.InstanceID, job.JobID+", which migrates to it, is Ready")
}

func TestJobs(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	failed, troubled, queued, turn := f.job(), f.job(), f.job(), f.job()
	require.NoError(t, f.Fail(ctx, failed.JobID, "fail", f.start(failed.JobID).Run, smc.CodeInternalError, "Preparing failed"))
	f.start(troubled.JobID)
	require.NoError(t, f.SetRunningQuota(ctx, 1))
	f.start(queued.JobID)
	f.start(turn.JobID)
	_, err := f.NoteTrouble(ctx, troubled.JobID, 1, smc.CodeInternalError, "the disk is slow")
	require.NoError(t, err)
	report := f.examine()
	requireFound(t, report, jobInError, failed.JobID, "InternalError: Preparing failed")
	requireNone(t, report, jobInTrouble)
	requireNone(t, report, jobQueued)
	requireNone(t, report, jobNotAdmitted)
	f.later = 2 * time.Hour
	f.live()
	report = f.examine()
	requireFound(t, report, jobInTrouble, troubled.JobID, "the disk is slow")
	requireFound(t, report, jobQueued, queued.JobID, "place 1 of 2")
	require.NoError(t, f.SetRunningQuota(ctx, 2))
	report = f.examine()
	requireFound(t, report, jobNotAdmitted, queued.JobID, "a slot is free")
	require.False(t, slices.ContainsFunc(report.Findings, func(x Finding) bool { return x.Kind == jobNotAdmitted && x.Thing == turn.JobID }))

	require.NoError(t, f.BeginSync(ctx, troubled.JobID, "sync", 1, "http://host", 1))
	f.exec(`UPDATE replication_jobs SET status = 'Stopped' WHERE job_id = $1`, troubled.JobID) // past the rules
	requireFound(t, f.examine(), sessionStray, troubled.JobID, "for run 1 is open")
	fixed := f.examine(func(c *Config) { c.Fix = true })
	require.True(t, requireFound(t, fixed, sessionStray, troubled.JobID, "").Fixed)
	requireNone(t, f.examine(), sessionStray)
}

func TestEvents(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	one, other := f.job(), f.job()
	f.start(one.JobID)
	requireNone(t, f.examine(), eventsWaiting)
	f.later = 2 * time.Minute
	requireFound(t, f.examine(), eventsWaiting, "outbox", "events wait, the oldest for 2m0s")
	f.later = 0
	requireNone(t, f.examine(), eventsNotInStream)
	f.relay()
	requireNone(t, f.examine(), eventsGap)

	// A number that a restore has left out is none.
	f.exec(`UPDATE outbox SET sequence = sequence + 5, transition_key = 'restored/1' WHERE resource_id = $1 AND sequence = (SELECT MAX(sequence) FROM outbox WHERE resource_id = $1)`, one.JobID)
	f.exec(`UPDATE replication_jobs SET sequence = sequence + 5 WHERE job_id = $1`, one.JobID)
	requireNone(t, f.examine(), eventsGap)
	f.exec(`UPDATE outbox SET transition_key = 'start' WHERE transition_key = 'restored/1'`)
	f.exec(`UPDATE replication_jobs SET sequence = sequence + 1 WHERE job_id = $1`, other.JobID)
	report := f.examine()
	requireFound(t, report, eventsGap, one.JobID, "event 7 follows event 1 in the outbox")
	requireFound(t, report, eventsGap, other.JobID, "its row has another number")
	requireFound(t, report, eventsNotInStream, events.StreamName, one.JobID+" has event 7 in the outbox and 2 in the stream")

	// The stream itself: a gap, a number twice, a loss.
	subject := events.JobSubject(account, region, "j-elsewhere")
	for _, number := range []string{"1", "3", "3"} {
		msg := nats.NewMsg(subject)
		msg.Header.Set(events.HeaderSequence, number)
		_, err := f.js.PublishMsg(ctx, msg)
		require.NoError(t, err)
	}
	report = f.examine()
	requireFound(t, report, eventsGap, subject, "event 3 follows event 1 in stream SMC")
	require.Contains(t, fmt.Sprint(report.Findings), "event 3 comes after event 3 in stream SMC")
	f.exec(`UPDATE outbox SET stream_sequence = 0 WHERE resource_id = $1`, other.JobID)
	requireFound(t, f.examine(), eventsNotInStream, events.StreamName, "")
	require.NoError(t, f.js.DeleteStream(ctx, events.StreamName))
	requireFound(t, f.examine(), eventsNotInStream, events.StreamName, "the stream does not exist")
	f.exec(`DELETE FROM outbox`) // what was changed here is not to be taken for the store's work
}

func TestConsumers(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	f.job()
	f.relay()
	consumer := func(name, filter string) jetstream.Consumer {
		c, err := f.js.CreateConsumer(ctx, events.StreamName, jetstream.ConsumerConfig{Durable: name, FilterSubject: filter, AckPolicy: jetstream.AckExplicitPolicy})
		require.NoError(t, err)
		return c
	}
	consumer("nobody", "")
	consumer("nothing", "smc.v1.none.>")
	for name, confirm := range map[string]bool{"careless": false, "careful": true} {
		batch, err := consumer(name, events.JobFilter("", "", "")).FetchNoWait(10)
		require.NoError(t, err)
		for msg := range batch.Messages() {
			if confirm {
				require.NoError(t, msg.DoubleAck(ctx))
			}
		}
	}
	_, err := f.js.CreateConsumer(ctx, events.StreamName, jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy})
	require.NoError(t, err)
	requireNone(t, f.examine(), consumerStalled)
	f.later = 15 * time.Minute
	report := f.examine()
	require.Contains(t, requireFound(t, report, consumerStalled, "SMC nobody", "2 events wait, the oldest for 15m0s").Text, "nobody reads it")
	requireFound(t, report, consumerStalled, "SMC careless", "1 were delivered and not confirmed")
	stalled := 0
	for _, finding := range report.Findings {
		if finding.Kind == consumerStalled {
			stalled++
		}
	}
	require.Equal(t, 2, stalled, "%+v", report.Findings)
}

func TestNothingToLookAt(t *testing.T) {
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	f := newFixture(t)
	report := Examine(gone, Config{Record: f.Store, JetStream: f.js})
	require.NotEmpty(t, report.NotSeen)
	require.Contains(t, report.NotSeen[0].Why, "it took too long")
}
