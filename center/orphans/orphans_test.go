package orphans_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/center/orphans"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/center/store/storetest"
	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
)

const (
	hostID, otherHost = "i-here", "i-there"
	account, region   = "1", "local"
)

// noEpochs is for a host nobody syncs to.
type noEpochs struct{}

func (noEpochs) RaiseEpoch(context.Context, string, int) (int64, error) { return 1, nil }
func (noEpochs) CheckEpoch(context.Context, string, int64) error        { return nil }

// fixture is a transition host and its record, on a clock of its own.
type fixture struct {
	*orphans.Sweeper
	t    *testing.T
	root string
	url  string
	now  time.Time
	n    int
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, root: t.TempDir(), url: storetest.Migrated(t, store.Open), now: time.Now().UTC().Truncate(time.Millisecond)}
	clock := func() time.Time { return f.now }
	record, err := store.Open(t.Context(), f.url, store.WithClock(clock))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, record.Close()) })
	host, err := replica.NewHost(replica.HostConfig{Root: f.root, ID: hostID, Key: make([]byte, 32), Epochs: noEpochs{}})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, host.Close()) })
	require.NoError(t, record.HostHeartbeat(t.Context(), hostID, "http://here"))
	require.NoError(t, record.CreateAccessToken(t.Context(), store.AccessToken{AccessTokenID: store.NewID("at"), AccountID: account, RegionID: region, Count: 100, TTLDays: 1}, "code"))
	f.Sweeper = &orphans.Sweeper{Store: record, Host: host, HostID: hostID, Grace: time.Hour, Log: zaptest.NewLogger(t), Now: clock}
	return f
}

// job makes a job of a new source; keep images when it is incremental, 0 when it runs once.
func (f *fixture) job(keep int) string {
	f.t.Helper()
	f.n++
	name := fmt.Sprintf("server-%d", f.n)
	source, err := f.Store.RegisterSource(f.t.Context(), "code", "token of "+name, "instance of "+name, name, agentapi.Server{Disks: []agentapi.Disk{{SizeBytes: 1 << 20}}}, 1000)
	require.NoError(f.t, err)
	spec := smc.CreateReplicationJobRequest{RegionID: region, SourceID: source.SourceID}
	if keep > 0 {
		once, frequency := false, 24
		spec.RunOnce, spec.Frequency, spec.MaxNumberOfImageToKeep = &once, &frequency, &keep
	}
	id, err := f.Store.CreateJob(f.t.Context(), account, spec, 1000)
	require.NoError(f.t, err)
	return id
}

// start makes a job Running and takes it to a phase, with staging on the host.
func (f *fixture) start(id string, phase smc.BusinessStatus) (run int) {
	f.t.Helper()
	ctx := f.t.Context()
	start, err := f.Store.StartRun(ctx, id, store.NewID("key"), smc.TriggerStart, smc.RunManual, store.CutOverNone)
	require.NoError(f.t, err)
	f.stage(id)
	for _, step := range []struct {
		phase smc.BusinessStatus
		do    func() error
	}{
		{smc.BusinessSyncing, func() error { return f.Store.BeginSync(ctx, id, "sync", start.Run, "http://here", 1<<20) }},
		{smc.BusinessProcessing, func() error { return f.Store.EndSync(ctx, id, "process", start.Run) }},
		{smc.BusinessCleaning, func() error {
			return f.Store.EndProcessing(ctx, id, "clean", start.Run, "m-"+id[2:], []store.ImageDisk{{SizeBytes: 1 << 20}})
		}},
	} {
		if f.phase(id) == phase {
			break
		}
		require.NoError(f.t, step.do())
	}
	return start.Run
}

func (f *fixture) phase(id string) smc.BusinessStatus {
	job, err := f.Store.JobByID(f.t.Context(), id)
	require.NoError(f.t, err)
	return job.BusinessStatus
}

func (f *fixture) stage(id string) {
	require.NoError(f.t, f.Host.Prepare(f.t.Context(), id, []replica.Disk{{SizeBytes: 1 << 20}}))
}

// image puts an image directory on the host, with a manifest when it is complete.
func (f *fixture) image(id, jobID string, run int, complete bool) {
	f.t.Helper()
	dir := filepath.Join(f.root, "images", id)
	require.NoError(f.t, os.Mkdir(dir, 0o700))
	require.NoError(f.t, os.WriteFile(filepath.Join(dir, "disk-0.raw"), []byte("data"), 0o600))
	if complete {
		manifest, err := json.Marshal(replica.Manifest{Version: 1, ImageID: id, JobID: jobID, Run: run})
		require.NoError(f.t, err)
		require.NoError(f.t, os.WriteFile(filepath.Join(dir, replica.ManifestFile), manifest, 0o600))
	}
}

func (f *fixture) sweep(after time.Duration) {
	f.t.Helper()
	f.now = f.now.Add(after)
	require.NoError(f.t, f.Sweep(f.t.Context()))
}

func (f *fixture) requireStaging(ids ...string) {
	f.t.Helper()
	there, err := f.Host.StagingIDs()
	require.NoError(f.t, err)
	require.ElementsMatch(f.t, ids, there)
}

func (f *fixture) requireImages(ids ...string) {
	f.t.Helper()
	there, err := f.Host.ImageIDs()
	require.NoError(f.t, err)
	require.ElementsMatch(f.t, ids, there)
}

// requireFound checks what is recorded, by the names of the things.
func (f *fixture) requireFound(want map[string]store.OrphanKind) {
	f.t.Helper()
	all, err := f.Store.Orphans(f.t.Context())
	require.NoError(f.t, err)
	found := map[string]store.OrphanKind{}
	for _, o := range all {
		require.Equal(f.t, hostID, o.HostID)
		require.NotEmpty(f.t, o.Info)
		found[o.Name] = o.Kind
	}
	require.Equal(f.t, want, found)
}

func (f *fixture) exec(statement string, args ...any) {
	f.t.Helper()
	_, err := storetest.DB(f.t, f.url).ExecContext(f.t.Context(), statement, args...)
	require.NoError(f.t, err)
}

// What a job may still use stays in every state of the job; what it has left behind goes after the time of grace.
func TestStagingGoesWithItsJob(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	ready, syncing, processing, failed, stopped, finished, deleting, deleted, moved := f.job(0), f.job(0), f.job(0), f.job(0), f.job(0), f.job(3), f.job(0), f.job(0), f.job(0)
	f.stage(ready) // left by a past that a restore took back: the next run goes on with it
	f.start(syncing, smc.BusinessSyncing)
	f.start(processing, smc.BusinessProcessing)
	require.NoError(t, f.Store.Fail(ctx, failed, "fail", f.start(failed, smc.BusinessSyncing), smc.CodeInternalError, "broken"))
	f.start(stopped, smc.BusinessSyncing)
	require.NoError(t, f.Store.Stop(ctx, stopped, "stop"))
	run := f.start(finished, smc.BusinessCleaning)
	f.image("m-"+finished[2:], finished, run, true)
	_, err := f.Store.EndRun(ctx, finished, "end", run, false)
	require.NoError(t, err)
	live := []string{ready, syncing, processing, failed, stopped, finished}
	f.sweep(0)
	f.sweep(48 * time.Hour)
	f.requireStaging(live...)
	f.requireFound(map[string]store.OrphanKind{})

	require.NoError(t, f.Store.FinishCutOver(ctx, finished, "cutover"))
	for _, id := range []string{deleting, deleted} {
		require.NoError(t, f.Store.BeginDelete(ctx, id, "delete"))
		f.stage(id) // an attempt that hung has come to itself
	}
	require.NoError(t, f.Store.EndDelete(ctx, deleted, store.KeyDeleted))
	f.stage(moved)
	require.NoError(t, f.Store.HostHeartbeat(ctx, otherHost, "http://there"))
	f.exec(`UPDATE replication_jobs SET host_id = $1 WHERE job_id = $2`, otherHost, moved)
	gone := map[string]store.OrphanKind{finished: store.OrphanStaging, deleting: store.OrphanStaging, deleted: store.OrphanStaging, moved: store.OrphanStaging}
	f.sweep(0)
	f.requireFound(gone)
	f.sweep(time.Hour - time.Millisecond)
	f.requireStaging(append(live, deleting, deleted, moved)...)
	f.requireFound(gone)
	f.sweep(time.Millisecond)
	f.requireStaging(live[:5]...)
	f.requireFound(map[string]store.OrphanKind{})
	f.requireImages("m-" + finished[2:])
	job, err := f.Store.JobByID(ctx, finished)
	require.NoError(t, err)
	require.Empty(t, job.HostID, "what the entity did not release is released")
	job, err = f.Store.JobByID(ctx, moved)
	require.NoError(t, err)
	require.Equal(t, otherHost, job.HostID)
	hosts, err := f.Store.HostStates(ctx)
	require.NoError(t, err)
	require.Equal(t, f.now, hosts[0].SweptAt)
}

// A record that was restored from an older backup does not know what came after it. That stays until a person approves.
func TestWhatTheRecordDoesNotKnowStays(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	f.stage("j-lost")
	f.image("m-lost", "j-lost", 1, true)
	f.image("m-other", "j-lost", 1, true)
	unknown := map[string]store.OrphanKind{"j-lost": store.OrphanUnknownStaging, "m-lost": store.OrphanUnknownImage, "m-other": store.OrphanUnknownImage}
	f.sweep(0)
	f.sweep(365 * 24 * time.Hour)
	f.requireStaging("j-lost")
	f.requireImages("m-lost", "m-other")
	f.requireFound(unknown)

	_, err := f.Store.ApproveOrphan(ctx, "m-none")
	require.ErrorIs(t, err, store.ErrNotFound)
	for _, name := range []string{"j-lost", "m-lost"} {
		approved, err := f.Store.ApproveOrphan(ctx, name)
		require.NoError(t, err)
		require.Len(t, approved, 1)
	}
	// What was approved as unknown is not removed when the record knows it by then.
	f.exec(`INSERT INTO images (image_id, account_id, region_id, image_name, job_id, source_id, run, host_id, status, disks, created_at)
		VALUES ('m-lost', '1', 'local', 'web', 'j-lost', 's-1', 1, $1, 'Available', '[]', 1)`, hostID)
	f.sweep(0)
	f.requireStaging()
	f.requireImages("m-lost", "m-other")
	f.requireFound(map[string]store.OrphanKind{"m-other": store.OrphanUnknownImage})
}

// The job of a staging area becomes known between the look and the removal, and so does an image.
func TestWhatBecomesKnownMeanwhileStays(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	id := f.job(0)
	f.start(id, smc.BusinessSyncing)
	f.stage("j-lost")
	f.sweep(0)
	_, err := f.Store.ApproveOrphan(ctx, "j-lost")
	require.NoError(t, err)
	// The look has seen what the record said then; the removal asks again, with the staging to itself.
	removed, err := f.Host.RemoveStaging(ctx, "j-lost", func(ctx context.Context) (bool, error) {
		f.exec(`UPDATE replication_jobs SET job_id = 'j-lost' WHERE job_id = $1`, id)
		kind, _, err := f.Store.StagingOrphan(ctx, "j-lost", hostID)
		return kind == store.OrphanUnknownStaging, err
	})
	require.NoError(t, err)
	require.False(t, removed)
	f.requireStaging("j-lost", id)
	f.sweep(0)
	f.requireStaging("j-lost", id)
	f.requireFound(map[string]store.OrphanKind{id: store.OrphanUnknownStaging})
}

// A crash between the steps of making and of deleting an image.
func TestImages(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	kept, making, condemned, gone := f.job(3), f.job(0), f.job(3), f.job(3)
	for _, id := range []string{kept, condemned, gone} {
		run := f.start(id, smc.BusinessCleaning)
		f.image("m-"+id[2:], id, run, true)
		_, err := f.Store.EndRun(ctx, id, "end", run, false)
		require.NoError(t, err)
	}
	f.image("m-made", making, f.start(making, smc.BusinessProcessing), true) // its row comes with the end of Processing
	f.image("m-half", making, 1, false)
	f.exec(`UPDATE images SET status = 'Deleting' WHERE job_id IN ($1, $2)`, condemned, gone)
	require.NoError(t, os.RemoveAll(filepath.Join(f.root, "images", "m-"+gone[2:])))
	lost := f.job(3)
	f.start(lost, smc.BusinessCleaning) // an image in the record without files

	want := map[string]store.OrphanKind{
		"m-half": store.OrphanHalfImage, "m-" + condemned[2:]: store.OrphanCondemnedImage, "m-" + gone[2:]: store.OrphanCondemnedImage, "m-" + lost[2:]: store.OrphanLostImage,
	}
	f.sweep(0)
	f.requireFound(want)
	f.sweep(time.Hour)
	f.requireImages("m-"+kept[2:], "m-made")
	f.requireFound(map[string]store.OrphanKind{"m-" + lost[2:]: store.OrphanLostImage})
	rows, err := f.Store.HostImages(ctx, hostID)
	require.NoError(t, err)
	require.Len(t, rows, 2, "the rows of what was condemned are gone, that of what is lost stays")

	// Its job was deleted before the run could record it; the image is all there is of it.
	require.NoError(t, f.Store.Fail(ctx, making, "fail", 1, smc.CodeInternalError, "broken"))
	f.sweep(0)
	f.requireFound(map[string]store.OrphanKind{"m-" + lost[2:]: store.OrphanLostImage})
	require.NoError(t, f.Store.BeginDelete(ctx, making, "delete"))
	f.sweep(0)
	f.requireFound(map[string]store.OrphanKind{"m-" + lost[2:]: store.OrphanLostImage, "m-made": store.OrphanUnknownImage, making: store.OrphanStaging})

	// A manifest that cannot be read keeps nothing else from being looked at, and costs nothing.
	require.NoError(t, os.WriteFile(filepath.Join(f.root, "images", "m-"+kept[2:], replica.ManifestFile), []byte("{"), 0o600))
	f.sweep(time.Hour)
	f.requireImages("m-"+kept[2:], "m-made")
	f.requireFound(map[string]store.OrphanKind{"m-" + lost[2:]: store.OrphanLostImage, "m-made": store.OrphanUnknownImage, "m-" + kept[2:]: store.OrphanLostImage})

	// What is lost for good is forgotten when a person says so; one that is back by then stays.
	for _, id := range []string{lost, kept} {
		_, err := f.Store.ApproveOrphan(ctx, "m-"+id[2:])
		require.NoError(t, err)
	}
	require.NoError(t, os.RemoveAll(filepath.Join(f.root, "images", "m-"+kept[2:])))
	f.image("m-"+kept[2:], kept, 1, true)
	f.sweep(0)
	f.requireImages("m-"+kept[2:], "m-made")
	f.requireFound(map[string]store.OrphanKind{"m-made": store.OrphanUnknownImage})
	rows, err = f.Store.HostImages(ctx, hostID)
	require.NoError(t, err)
	require.Len(t, rows, 1)
	require.Equal(t, "m-"+kept[2:], rows[0].ImageID)
}

// A delivery that is open without a run that makes it.
func TestStrayDeliveries(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	id := f.job(0)
	f.start(id, smc.BusinessProcessing)
	target, err := f.Store.RegisterTarget(ctx, "code", "token of a target", "instance of a target", "rack", agentapi.Target{Disks: []agentapi.TargetDisk{{SizeBytes: 1}}}, 1)
	require.NoError(t, err)
	_, err = f.Store.OpenDelivery(ctx, target.InstanceID, store.DeliverySpec{JobID: id, Run: 1, ImageID: "m-1"})
	require.NoError(t, err)
	n, err := f.Store.CloseStraySessions(ctx)
	require.NoError(t, err)
	require.Zero(t, n)
	f.exec(`UPDATE replication_jobs SET business_status = 'Cleaning' WHERE job_id = $1`, id) // past the rules
	strays, _, err := f.Store.StraySessions(ctx)
	require.NoError(t, err)
	require.Equal(t, []store.StraySession{{InstanceID: target.InstanceID, JobID: id, Run: 1}}, strays)
	n, err = f.Store.CloseStraySessions(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	delivery, err := f.Store.Delivery(ctx, target.InstanceID)
	require.NoError(t, err)
	require.False(t, delivery.Open)
	require.Equal(t, smc.DeliveryFailed, delivery.State)
}

// A session that is open, and room that is reserved, without a run.
func TestStraySessions(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	syncing, stray := f.job(0), f.job(0)
	for _, id := range []string{syncing, stray} {
		f.start(id, smc.BusinessSyncing)
		_, fits, err := f.Store.ReserveSpace(ctx, id, hostID, 100, 1000)
		require.NoError(t, err)
		require.True(t, fits)
	}
	n, err := f.Store.CloseStraySessions(ctx)
	require.NoError(t, err)
	require.Zero(t, n)

	f.exec(`UPDATE replication_jobs SET status = 'Stopped' WHERE job_id = $1`, stray) // past the rules
	sessions, reservations, err := f.Store.StraySessions(ctx)
	require.NoError(t, err)
	require.Len(t, sessions, 1)
	require.Equal(t, stray, sessions[0].JobID)
	require.Equal(t, []string{stray}, reservations)
	n, err = f.Store.CloseStraySessions(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 2, n)
	for id, open := range map[string]bool{syncing: true, stray: false} {
		is, err := f.Store.SessionOpen(ctx, id, 1)
		require.NoError(t, err)
		require.Equal(t, open, is)
	}

	// By the rules: a run that ends gives its room back at once, and a late report does not take it again.
	require.NoError(t, f.Store.Stop(ctx, syncing, "stop"))
	require.NoError(t, f.Store.UpdateReservation(ctx, syncing, hostID, 50))
	sessions, reservations, err = f.Store.StraySessions(ctx)
	require.NoError(t, err)
	require.Empty(t, sessions)
	require.Empty(t, reservations)
}

// An image that stayed over the limit because it was being read goes when it is read no longer, also when no run follows.
func TestImagesThatWereInUseArePruned(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	id := f.job(1)
	var images []string
	for run := range 2 {
		trigger := smc.TriggerStart
		if run > 0 {
			trigger = smc.TriggerRun
		}
		key := store.NewID("key")
		start, err := f.Store.StartRun(ctx, id, key, trigger, smc.RunManual, store.CutOverNone)
		require.NoError(t, err)
		image := "m-" + key[4:]
		require.NoError(t, f.Store.BeginSync(ctx, id, key+"sync", start.Run, "http://here", 1<<20))
		require.NoError(t, f.Store.EndSync(ctx, id, key+"process", start.Run))
		require.NoError(t, f.Store.EndProcessing(ctx, id, key+"clean", start.Run, image, []store.ImageDisk{{SizeBytes: 1 << 20}}))
		f.image(image, id, start.Run, true)
		images = append(images, image)
		_, held, err := f.Store.CondemnImages(ctx, id, 1, func(string) bool { return true })
		require.NoError(t, err)
		require.Equal(t, run, held)
		_, err = f.Store.EndRun(ctx, id, key+"end", start.Run, false)
		require.NoError(t, err)
	}
	f.sweep(time.Hour)
	f.requireImages(images...)
	require.NoError(t, f.Store.FinishCutOver(ctx, id, "finish"))
	f.sweep(0)
	f.requireImages(images[1])
	_, total, err := f.Store.Images(ctx, account, store.ImageFilter{JobID: id}, store.Page{Number: 1, Size: 10})
	require.NoError(t, err)
	require.Equal(t, 1, total)

	// One that somebody wants gone goes whoever has a ticket for it, once nobody reads it; there is no time of grace.
	_, err = f.Store.HoldImage(ctx, account, images[1], time.Now().Add(time.Hour))
	require.NoError(t, err)
	require.ErrorIs(t, f.Store.CondemnImage(ctx, "other", images[1]), store.ErrNotFound)
	require.NoError(t, f.Store.CondemnImage(ctx, account, images[1]))
	pruned, err := f.Store.CondemnHeld(ctx, hostID, func(string) bool { return true })
	require.NoError(t, err)
	require.Empty(t, pruned)
	f.requireImages(images[1])
	f.sweep(0)
	f.requireImages()
	_, total, err = f.Store.Images(ctx, account, store.ImageFilter{JobID: id}, store.Page{Number: 1, Size: 10})
	require.NoError(t, err)
	require.Zero(t, total)
}
