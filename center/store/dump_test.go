package store

import (
	"bytes"
	"database/sql"
	"errors"
	"io"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/center/store/storetest"
	"github.com/drover/drover/events"
	"github.com/drover/drover/smc"
)

// dumped is a dump in memory.
type dumped map[string]*bytes.Buffer

type closer struct{ io.Writer }

func (closer) Close() error { return nil }

func (d dumped) write(table string) (io.WriteCloser, error) {
	d[table] = new(bytes.Buffer)
	return closer{d[table]}, nil
}

func (d dumped) read(table string) (io.ReadCloser, error) {
	b, ok := d[table]
	if !ok {
		return nil, errors.New("not dumped")
	}
	return io.NopCloser(bytes.NewReader(b.Bytes())), nil
}

// inhabited is a store with something in most of its tables.
func inhabited(t *testing.T) (f *fixture, jobID, sourceID string) {
	t.Helper()
	f = newFixture(t)
	source := f.source("中文 \"quoted\" \\ name")
	id := f.create(incremental(source.SourceID, 3))
	require.Equal(t, smc.StatusWaiting, f.run(id, smc.TriggerStart))
	require.NoError(t, f.PutAccessKey(f.ctx, AccessKey{AccessKeyID: "key", Secret: "secret", AccountID: account}))
	require.NoError(t, f.Audit(f.ctx, AuditRecord{RequestID: "R", At: f.clock.read(), AccountID: account, Action: "X", Outcome: smc.OutcomeOK}))
	_, err := f.UseNonce(f.ctx, "key", "nonce", f.clock.read().Add(time.Hour))
	require.NoError(t, err)
	return f, id, source.SourceID
}

// count counts the rows of every table.
func count(t *testing.T, databaseURL string, tables []DumpedTable) []DumpedTable {
	t.Helper()
	db := storetest.DB(t, databaseURL)
	var counted []DumpedTable
	for _, table := range tables {
		var n int64
		require.NoError(t, db.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM `+quoted(table.Name)).Scan(&n))
		counted = append(counted, DumpedTable{table.Name, n})
	}
	return counted
}

// A record that was loaded is the one that was dumped, goes on counting where it was, and is in another term.
func TestDumpAndLoad(t *testing.T) {
	f, jobID, sourceID := inhabited(t)
	d := dumped{}
	dump, err := f.Dump(f.ctx, d.write)
	require.NoError(t, err)
	require.Equal(t, f.clock.read(), dump.TakenAt)
	require.Equal(t, []DumpedImage{{imageName(jobID, 1), hostID}}, dump.Images)
	require.Empty(t, dump.KeyIDs, "this store seals nothing")
	position, err := f.OutboxPosition(f.ctx)
	require.NoError(t, err)
	require.Equal(t, position, dump.Outbox)
	require.Equal(t, int(position.LastID), position.Pending)
	before := count(t, f.url, dump.Tables)
	require.Equal(t, before, dump.Tables)
	want, epoch := f.job(jobID), f.epoch(sourceID)

	url := storetest.URL(t)
	require.NoError(t, Load(f.ctx, url, dump, nil, d.read))
	g := &fixture{t: t, ctx: f.ctx, clock: f.clock, url: url}
	g.Store = g.open()
	require.Equal(t, want, g.job(jobID))
	restored, err := g.Restored(g.ctx)
	require.NoError(t, err)
	require.Equal(t, dump.TakenAt, restored.BackupAt)
	term, err := g.Term(g.ctx)
	require.NoError(t, err)
	require.Equal(t, 1, term)
	require.Equal(t, epoch+epochLeap, g.epoch(sourceID), "no writer of before is the current one")
	for i, table := range count(t, url, dump.Tables) {
		if table.Name == "settings" {
			table.Rows -= 2 // the mark and the term
		}
		require.Equal(t, before[i], table)
	}
	require.Equal(t, smc.StatusWaiting, g.run(jobID, smc.TriggerRun))
	require.Equal(t, 2, g.job(jobID).Run)
	require.NoError(t, g.EndRestoration(g.ctx))
	restored, err = g.Restored(g.ctx)
	require.NoError(t, err)
	require.Nil(t, restored)

	// Once more, of what was restored.
	dump, err = g.Dump(g.ctx, d.write)
	require.NoError(t, err)
	url = storetest.URL(t)
	require.NoError(t, Load(g.ctx, url, dump, nil, d.read))
	g.url = url
	g.Store = g.open()
	term, err = g.Term(g.ctx)
	require.NoError(t, err)
	require.Equal(t, 2, term)
}

// epoch is the epoch of a source's session.
func (f *fixture) epoch(sourceID string) (epoch int64) {
	f.t.Helper()
	require.NoError(f.t, storetest.DB(f.t, f.url).QueryRowContext(f.ctx, `SELECT epoch FROM sync_sessions WHERE source_id = $1`, sourceID).Scan(&epoch))
	return epoch
}

// A run that was going is taken up again from the beginning of its preparation: there is no staging in a backup.
func TestLoadOfARunThatIsGoing(t *testing.T) {
	f := newFixture(t)
	running := f.create(spec(f.source("running").SourceID))
	start := f.start(running, "1", smc.TriggerStart)
	require.NoError(t, f.BeginSync(f.ctx, running, "2", start.Run, hostURL, 1))
	epoch, err := f.RaiseEpoch(f.ctx, running, start.Run)
	require.NoError(t, err)
	failed := f.create(spec(f.source("failed").SourceID))
	start = f.start(failed, "1", smc.TriggerStart)
	require.NoError(t, f.BeginSync(f.ctx, failed, "2", start.Run, hostURL, 1))
	require.NoError(t, f.EndSync(f.ctx, failed, "3", start.Run))
	require.NoError(t, f.Fail(f.ctx, failed, "4", start.Run, smc.CodeInternalError, "why"))
	d := dumped{}
	dump, err := f.Dump(f.ctx, d.write)
	require.NoError(t, err)

	f.url = storetest.URL(t)
	require.NoError(t, Load(f.ctx, f.url, dump, nil, d.read))
	f.Store = f.open()
	require.Equal(t, smc.StatusRunning, f.job(running).Status)
	require.Equal(t, smc.BusinessPreparing, f.job(running).BusinessStatus)
	require.Error(t, f.CheckEpoch(f.ctx, running, epoch))
	require.Equal(t, smc.StatusInError, f.job(failed).Status)
	require.Equal(t, smc.BusinessPreparing, f.job(failed).BusinessStatus)
	require.Equal(t, smc.StatusFinished, f.finish(running, "after", 1))
}

// What a target was told since the backup is fenced, and the image that was being delivered is made anew, of another term.
func TestLoadOfADeliveryThatIsGoing(t *testing.T) {
	f := newFixture(t)
	target := f.target("rack", 25<<30, 40<<30).InstanceID
	id := f.create(onto(f.source("web").SourceID, target))
	start := f.start(id, "1", smc.TriggerStart)
	require.NoError(t, f.BeginSync(f.ctx, id, "2", start.Run, hostURL, 1))
	require.NoError(t, f.EndSync(f.ctx, id, "3", start.Run))
	require.NoError(t, f.RecordImage(f.ctx, id, start.Run, "m-before", nil))
	before, err := f.OpenDelivery(f.ctx, target, DeliverySpec{JobID: id, Run: start.Run, ImageID: "m-before", Disks: []agentapi.DeliveryDisk{}})
	require.NoError(t, err)
	d := dumped{}
	dump, err := f.Dump(f.ctx, d.write)
	require.NoError(t, err)

	f.url = storetest.URL(t)
	require.NoError(t, Load(f.ctx, f.url, dump, nil, d.read))
	f.Store = f.open()
	superseded, err := f.ReportDelivery(f.ctx, target, agentapi.DeliveryReport{Generation: before.Generation, State: agentapi.DeliveryDone})
	require.NoError(t, err)
	require.True(t, superseded)
	require.NoError(t, f.BeginSync(f.ctx, id, "again 2", start.Run, hostURL, 1))
	require.NoError(t, f.EndSync(f.ctx, id, "again 3", start.Run))
	require.NoError(t, f.RecordImage(f.ctx, id, start.Run, "m-after", nil))
	after, err := f.OpenDelivery(f.ctx, target, DeliverySpec{JobID: id, Run: start.Run, ImageID: "m-after", Disks: []agentapi.DeliveryDisk{}})
	require.NoError(t, err)
	require.Greater(t, after.Generation, before.Generation+epochLeap-1)
}

// What is refused changes nothing.
func TestLoadRefuses(t *testing.T) {
	f, _, _ := inhabited(t)
	d := dumped{}
	dump, err := f.Dump(f.ctx, d.write)
	require.NoError(t, err)
	require.ErrorIs(t, Load(f.ctx, f.url, dump, nil, d.read), ErrNotEmpty)
	restored, err := f.Restored(f.ctx)
	require.NoError(t, err)
	require.Nil(t, restored)

	url := storetest.URL(t)
	newer := *dump
	newer.Schema = 99999
	require.ErrorContains(t, Load(f.ctx, url, &newer, nil, d.read), "newer Drover")
	sealed := *dump
	sealed.KeyIDs = []string{"12345678"}
	err = Load(f.ctx, url, &sealed, nil, d.read)
	require.ErrorIs(t, err, ErrNotOpened)
	require.ErrorContains(t, err, "12345678")

	// All of it or nothing: the last table is cut off.
	last := dump.Tables[len(dump.Tables)-1].Name
	whole := d[last]
	d[last] = bytes.NewBuffer(whole.Bytes()[:whole.Len()-3])
	require.ErrorContains(t, Load(f.ctx, url, dump, nil, d.read), last)
	d[last] = whole
	require.NoError(t, Load(f.ctx, url, dump, nil, d.read), "the database is still empty")
}

// A database that a process works on is not restored into, whatever it holds; one that opens it meanwhile waits, and finds it restored.
func TestLoadIsAlone(t *testing.T) {
	if !storetest.Postgres() {
		t.Skipf("%s names no PostgreSQL server", storetest.Variable)
	}
	f, _, _ := inhabited(t)
	d := dumped{}
	dump, err := f.Dump(f.ctx, d.write)
	require.NoError(t, err)
	target := storetest.URL(t)
	other, err := Open(f.ctx, target)
	require.NoError(t, err)
	require.ErrorIs(t, RequireEmpty(f.ctx, target), ErrInUse)
	require.ErrorIs(t, Load(f.ctx, target, dump, nil, d.read), ErrInUse)
	require.NoError(t, other.Close())
	require.Eventually(t, func() bool { return RequireEmpty(f.ctx, target) == nil }, 30*time.Second, 10*time.Millisecond, "the server notices that its client has gone")

	opened := make(chan *Store)
	waits := storetest.DB(t, target)
	err = Load(f.ctx, target, dump, nil, func(table string) (io.ReadCloser, error) {
		if table == dump.Tables[0].Name {
			go func() {
				s, err := Open(f.ctx, target)
				assert.NoError(t, err)
				opened <- s
			}()
			require.Eventually(t, func() bool {
				var n int
				err := waits.QueryRowContext(f.ctx, `SELECT COUNT(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
					AND (classid::BIGINT << 32) + objid::BIGINT = `+recordLock).Scan(&n)
				return err == nil && n > 0
			}, 20*time.Second, 10*time.Millisecond)
		}
		return d.read(table)
	})
	require.NoError(t, err)
	other = <-opened
	restored, err := other.Restored(f.ctx)
	require.NoError(t, err)
	require.NotNil(t, restored)
	require.NoError(t, other.Close())
}

// The record moves from one database to the other.
func TestLoadIntoTheOtherDatabase(t *testing.T) {
	if !storetest.Postgres() {
		t.Skipf("%s names no PostgreSQL server", storetest.Variable)
	}
	sqliteURL := func() string {
		return (&url.URL{Scheme: "sqlite", Path: filepath.Join(t.TempDir(), "center.db")}).String()
	}
	f, jobID, _ := inhabited(t)
	want := f.job(jobID)
	for run, target := range []string{sqliteURL(), storetest.URL(t), sqliteURL()} {
		d := dumped{}
		dump, err := f.Dump(f.ctx, d.write)
		require.NoError(t, err)
		require.NoError(t, Load(f.ctx, target, dump, nil, d.read))
		f.url = target
		f.Store = f.open()
		got := f.job(jobID)
		require.Equal(t, want.Sequence, got.Sequence)
		require.Equal(t, want.Runs, got.Runs)
		require.Equal(t, smc.StatusWaiting, f.run(jobID, smc.TriggerRun), "after move %d", run)
		want = f.job(jobID)
	}
	require.Equal(t, 4, want.Run)
}

// Secrets go sealed, with the names of their keys.
func TestDumpOfSealedSecrets(t *testing.T) {
	sealer, err := NewSealer(bytes.Repeat([]byte{1}, 32))
	require.NoError(t, err)
	other, err := NewSealer(bytes.Repeat([]byte{2}, 32))
	require.NoError(t, err)
	s, err := Open(t.Context(), storetest.URL(t), WithSealer(sealer))
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	require.NoError(t, s.PutAccessKey(t.Context(), AccessKey{AccessKeyID: "key", Secret: "very secret", AccountID: account}))
	key, err := s.DataPlaneKey(t.Context())
	require.NoError(t, err)
	d := dumped{}
	dump, err := s.Dump(t.Context(), d.write)
	require.NoError(t, err)
	require.Equal(t, []string{sealer.keys[0].id}, dump.KeyIDs)
	for table, text := range d {
		require.NotContains(t, text.String(), "very secret", table)
	}
	target := storetest.URL(t)
	require.ErrorIs(t, Load(t.Context(), target, dump, other, d.read), ErrNotOpened)
	require.NoError(t, Load(t.Context(), target, dump, sealer, d.read))
	g, err := Open(t.Context(), target, WithSealer(sealer))
	require.NoError(t, err)
	t.Cleanup(func() { _ = g.Close() })
	again, err := g.DataPlaneKey(t.Context())
	require.NoError(t, err)
	require.Equal(t, key, again)
}

// What consumers saw since the backup is overtaken, not repeated under other words.
func TestCatchUp(t *testing.T) {
	f := newFixture(t)
	source := f.source("web")
	id := f.create(spec(source.SourceID))
	restored := &Restoration{BackupAt: f.clock.read()}
	last := events.JobStatusChanged{AccountID: account, RegionID: region, JobID: id, Sequence: 9, Status: "Finished", Run: 1}
	for range 2 {
		_, err := f.CatchUp(f.ctx, events.Head{Job: &last}, restored)
		require.NoError(t, err)
		records, err := f.Events(f.ctx, id)
		require.NoError(t, err)
		require.Len(t, records, 2)
		require.Equal(t, uint64(10), records[1].Sequence)
		event, err := events.Decode(records[1].Data)
		require.NoError(t, err)
		var data events.JobStatusChanged
		require.NoError(t, event.DataAs(&data))
		require.Equal(t, "Ready", data.Status)
		require.Equal(t, "Finished", data.PreviousStatus)
	}
	caught, err := f.CatchUp(f.ctx, events.Head{Source: &events.SourceStateChanged{AccountID: account, RegionID: region, SourceID: source.SourceID, Sequence: 4, State: "Unavailable"}}, restored)
	require.NoError(t, err)
	require.Equal(t, Caught{Advanced: 1}, caught)
	caught, err = f.CatchUp(f.ctx, events.Head{Source: &events.SourceStateChanged{AccountID: account, RegionID: region, SourceID: source.SourceID, Sequence: 5, State: "Available"}}, restored)
	require.NoError(t, err)
	require.Zero(t, caught)

	lost := events.JobStatusChanged{AccountID: account, RegionID: region, JobID: "j-lost", SourceID: "s-lost", Sequence: 3, Status: "Running"}
	for _, want := range []Caught{{Gone: 1}, {}} {
		caught, err = f.CatchUp(f.ctx, events.Head{Job: &lost}, restored)
		require.NoError(t, err)
		require.Equal(t, want, caught)
	}
	records, err := f.Events(f.ctx, "j-lost")
	require.NoError(t, err)
	require.Len(t, records, 1)
	require.Contains(t, string(records[0].Data), "restored from a backup")
	require.Contains(t, string(records[0].Data), "Deleted")
	lost.Sequence, lost.Status = 4, "Deleted"
	caught, err = f.CatchUp(f.ctx, events.Head{Job: &lost}, restored)
	require.NoError(t, err)
	require.Zero(t, caught)
	require.Equal(t, int64(10), f.job(id).Sequence)
}

// publish marks what is pending as published, in order from a sequence on, and returns the next.
func (f *fixture) publish(from uint64) uint64 {
	f.t.Helper()
	pending, err := f.Pending(f.ctx, 100000)
	require.NoError(f.t, err)
	for _, record := range pending {
		require.NoError(f.t, f.MarkPublished(f.ctx, record, from))
		from++
	}
	return from
}

func TestRewind(t *testing.T) {
	f := newFixture(t)
	id := f.create(incremental(f.source("web").SourceID, 3))
	f.run(id, smc.TriggerStart)
	middle := f.publish(1)
	f.clock.advance(time.Hour)
	f.run(id, smc.TriggerRun)
	later := f.clock.read()
	end := f.publish(middle)
	total := int(end - 1)
	pending := func() []events.Record {
		records, err := f.Pending(f.ctx, 1000)
		require.NoError(t, err)
		return records
	}
	for _, c := range []struct {
		name string
		from RewindFrom
		want int
	}{
		{"all", RewindFrom{}, total},
		{"since a time", RewindFrom{Since: later}, int(end - middle)},
		{"from a sequence", RewindFrom{StreamSequence: middle + 2}, int(end - middle - 2)},
		{"from a sequence into a new stream", RewindFrom{StreamSequence: middle + 2, NewStream: true}, int(end - middle - 2)},
		{"from behind the end", RewindFrom{StreamSequence: end + 1}, 0},
		{"from a time to come", RewindFrom{Since: later.Add(time.Hour)}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.NoError(t, f.RewindAll(f.ctx))
			f.publish(1)
			n, err := f.Rewind(f.ctx, c.from)
			require.NoError(t, err)
			require.Equal(t, c.want, n)
			records := pending()
			require.Len(t, records, c.want)
			if c.want > 0 {
				require.Equal(t, records[0].Sequence > 1 && !c.from.NewStream, records[0].PrevStreamSeq > 0, "what is not published again has its place, unless the stream is new")
			}
		})
	}

	// What was published before the outbox was rewound, and is marked after it, may be in the stream of before.
	require.NoError(t, f.RewindAll(f.ctx))
	stale := pending()
	require.NoError(t, f.RewindAll(f.ctx))
	require.ErrorIs(t, f.MarkPublished(f.ctx, stale[0], 1), events.ErrRewound)
	require.Len(t, pending(), total)
	require.NoError(t, f.MarkPublished(f.ctx, pending()[0], 1))
	require.Len(t, pending(), total-1)

	// One that was interrupted is finished by whoever reads events next.
	require.NoError(t, f.write(f.ctx, func(tx *transaction) error {
		return writeRewind(f.ctx, tx, rewind{From: 1, Next: 1, Until: int64(total)})
	}))
	require.Len(t, pending(), total)
	var left string
	err := storetest.DB(t, f.url).QueryRowContext(f.ctx, `SELECT value FROM settings WHERE name = $1`, rewindSetting).Scan(&left)
	require.ErrorIs(t, err, sql.ErrNoRows)
	backlog, oldest, err := f.Backlog(f.ctx)
	require.NoError(t, err)
	require.Equal(t, total, backlog)
	require.False(t, oldest.IsZero())
}
