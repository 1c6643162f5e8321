package store

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/center/store/storetest"
	"github.com/drover/drover/events"
	"github.com/drover/drover/smc"
)

const (
	account = "123"
	region  = "cn-test"
	hostID  = "i-host"
	hostURL = "http://host"
)

// clock is a clock that stands still until it is moved.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) read() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// fixture is a store on a file of its own.
type fixture struct {
	*Store
	t     *testing.T
	ctx   context.Context
	clock *clock
	url   string
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{
		t: t, ctx: t.Context(), clock: &clock{now: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)},
		url: storetest.Migrated(t, Open),
	}
	f.Store = f.open()
	require.NoError(t, f.HostHeartbeat(f.ctx, hostID, hostURL))
	return f
}

// open opens another handle on the same file, as another process would.
func (f *fixture) open() *Store {
	f.t.Helper()
	s, err := Open(f.ctx, f.url, WithClock(f.clock.read))
	require.NoError(f.t, err)
	f.t.Cleanup(func() { assert.NoError(f.t, s.Close()) })
	s.db.writing.rehearse = !s.db.isPostgres() // what is run there is the same, and takes its time
	return s
}

func diskServer(sizes ...int64) agentapi.Server {
	server := agentapi.Server{Hostname: "web"}
	for i, size := range sizes {
		server.Disks = append(server.Disks, agentapi.Disk{Index: i, Path: fmt.Sprint("/dev/vd", i), SizeBytes: size})
	}
	return server
}

// code makes an activation code.
func (f *fixture) code(count int) string {
	f.t.Helper()
	id := NewID("at")
	require.NoError(f.t, f.CreateAccessToken(f.ctx, AccessToken{
		AccessTokenID: id, AccountID: account, RegionID: region, Count: count, TTLDays: 30,
	}, "code of "+id))
	return "code of " + id
}

// source registers a source server with a system disk of 25 GiB and a data disk of 40.
func (f *fixture) source(name string) *Source {
	f.t.Helper()
	source, err := f.RegisterSource(f.ctx, f.code(1), "token of "+name, "instance of "+name, name, diskServer(25<<30, 40<<30), 1000)
	require.NoError(f.t, err)
	return source
}

func spec(sourceID string) smc.CreateReplicationJobRequest {
	return smc.CreateReplicationJobRequest{RegionID: region, SourceID: sourceID}
}

func incremental(sourceID string, keep int) smc.CreateReplicationJobRequest {
	s, once, frequency := spec(sourceID), false, 24
	s.RunOnce, s.Frequency, s.MaxNumberOfImageToKeep = &once, &frequency, &keep
	return s
}

func (f *fixture) create(spec smc.CreateReplicationJobRequest) string {
	f.t.Helper()
	id, err := f.CreateJob(f.ctx, account, spec, 1000)
	require.NoError(f.t, err)
	return id
}

func (f *fixture) job(id string) *Job {
	f.t.Helper()
	job, err := f.Job(f.ctx, account, id)
	require.NoError(f.t, err)
	return job
}

func (f *fixture) state(sourceID string) smc.SourceState {
	f.t.Helper()
	source, err := f.Source(f.ctx, account, sourceID)
	require.NoError(f.t, err)
	return source.State
}

// requireEvents demands the statuses of a resource's events, numbered without gaps.
func (f *fixture) requireEvents(resource string, statuses ...string) {
	f.t.Helper()
	records, err := f.Events(f.ctx, resource)
	require.NoError(f.t, err)
	var got []string
	for i, record := range records {
		require.Equal(f.t, uint64(i+1), record.Sequence)
		require.Equal(f.t, events.EventID(resource, record.Sequence), record.ID)
		event, err := events.Decode(record.Data)
		require.NoError(f.t, err)
		var data struct{ Status, State, BusinessStatus string }
		require.NoError(f.t, event.DataAs(&data))
		got = append(got, strings.TrimSuffix(data.Status+data.State+"/"+data.BusinessStatus, "/"))
	}
	require.Equal(f.t, statuses, got)
}

func (f *fixture) start(id, key string, trigger smc.Trigger) *RunStart {
	f.t.Helper()
	require.NoError(f.t, f.HostHeartbeat(f.ctx, hostID, hostURL))
	start, err := f.StartRun(f.ctx, id, key, trigger, smc.RunManual, CutOverNone)
	require.NoError(f.t, err)
	return start
}

// run makes a whole run and returns the status it ends with.
func (f *fixture) run(id string, trigger smc.Trigger) smc.JobStatus {
	f.t.Helper()
	key := NewID("run")
	start := f.start(id, key, trigger)
	return f.finish(id, key, start.Run)
}

func imageName(id string, run int) string { return fmt.Sprintf("m-%s-%d", id, run) }

func (f *fixture) finish(id, key string, run int) smc.JobStatus {
	f.t.Helper()
	require.NoError(f.t, f.BeginSync(f.ctx, id, key+"/sync", run, hostURL, 65<<30))
	require.NoError(f.t, f.EndSync(f.ctx, id, key+"/process", run))
	require.NoError(f.t, f.EndProcessing(f.ctx, id, key+"/clean", run, imageName(id, run), []ImageDisk{{SizeBytes: 1}}))
	job := f.job(id)
	status, err := f.EndRun(f.ctx, id, key+"/end", run, job.Final())
	require.NoError(f.t, err)
	return status
}

func TestOneTimeJob(t *testing.T) {
	f := newFixture(t)
	source := f.source("web")
	id := f.create(spec(source.SourceID))
	require.Equal(t, smc.StatusFinished, f.run(id, smc.TriggerStart))
	require.NoError(t, f.BeginDelete(f.ctx, id, "delete"))
	require.NoError(t, f.EndDelete(f.ctx, id, "deleted"))
	_, err := f.Job(f.ctx, account, id)
	require.ErrorIs(t, err, ErrNotFound)
	f.requireEvents(id, "Ready", "Running/Preparing", "Running/Syncing", "Running/Processing", "Running/Cleaning", "Finished", "Deleting", "Deleted")
	f.requireEvents(source.SourceID, "Available", "InUse", "Available")
	images, total, err := f.Images(f.ctx, account, ImageFilter{JobID: id}, Page{1, 10})
	require.NoError(t, err)
	require.Equal(t, 1, total, "images outlive their job")
	require.Equal(t, "web_"+id, images[0].ImageName)
	got, err := f.Source(f.ctx, account, source.SourceID)
	require.NoError(t, err)
	require.Empty(t, got.JobID)
}

// Every transition under one key is made once, whatever the job has become since.
func TestTransitionsAreMadeOnce(t *testing.T) {
	f := newFixture(t)
	id := f.create(incremental(f.source("web").SourceID, 3))
	disks := []ImageDisk{{SizeBytes: 1}}
	steps := []struct {
		name string
		do   func() error
	}{
		{"StartRun", func() error {
			start, err := f.StartRun(f.ctx, id, "k1", smc.TriggerStart, smc.RunManual, CutOverNone)
			if err == nil {
				require.Equal(t, 1, start.Run)
				require.Equal(t, hostID, start.HostID)
			}
			return err
		}},
		{"BeginSync", func() error { return f.BeginSync(f.ctx, id, "k2", 1, hostURL, 1) }},
		{"Stop", func() error { return f.Stop(f.ctx, id, "k3") }},
		{"resume", func() error {
			_, err := f.StartRun(f.ctx, id, "k4", smc.TriggerStart, smc.RunManual, CutOverNone)
			return err
		}},
		{"Fail", func() error { return f.Fail(f.ctx, id, "k5", 1, smc.CodeInternalError, "why") }},
		{"resume after a failure", func() error {
			_, err := f.StartRun(f.ctx, id, "k6", smc.TriggerStart, smc.RunManual, CutOverNone)
			return err
		}},
		{"BeginSync again", func() error { return f.BeginSync(f.ctx, id, "k7", 1, hostURL, 1) }},
		{"EndSync", func() error { return f.EndSync(f.ctx, id, "k8", 1) }},
		{"EndProcessing", func() error { return f.EndProcessing(f.ctx, id, "k9", 1, "m-1", disks) }},
		{"EndRun", func() error {
			status, err := f.EndRun(f.ctx, id, "k10", 1, false)
			if err == nil {
				require.Equal(t, smc.StatusWaiting, status)
			}
			return err
		}},
		{"FinishCutOver", func() error { return f.FinishCutOver(f.ctx, id, "k11") }},
		{"BeginDelete", func() error { return f.BeginDelete(f.ctx, id, "k12") }},
		{"EndDelete", func() error { return f.EndDelete(f.ctx, id, "k13") }},
	}
	for i, step := range steps {
		for range 2 {
			require.NoError(t, step.do(), step.name)
			records, err := f.Events(f.ctx, id)
			require.NoError(t, err)
			require.Len(t, records, i+2, step.name)
		}
	}
	_, total, err := f.Images(f.ctx, account, ImageFilter{}, Page{1, 10})
	require.NoError(t, err)
	require.Equal(t, 1, total)
}

func TestTransitionsOfAPhaseThatIsOverAreSuperseded(t *testing.T) {
	f := newFixture(t)
	id := f.create(spec(f.source("web").SourceID))
	f.start(id, "start", smc.TriggerStart)
	require.NoError(t, f.BeginSync(f.ctx, id, "sync", 1, hostURL, 1))
	require.NoError(t, f.Stop(f.ctx, id, "stop"))
	for name, err := range map[string]error{
		"BeginSync":     f.BeginSync(f.ctx, id, "late 1", 1, hostURL, 1),
		"EndSync":       f.EndSync(f.ctx, id, "late 2", 1),
		"EndProcessing": f.EndProcessing(f.ctx, id, "late 3", 1, "m-1", nil),
		"Fail":          f.Fail(f.ctx, id, "late 4", 1, "Code", "info"),
		"EndDelete":     f.EndDelete(f.ctx, id, "late 5"),
	} {
		require.ErrorIs(t, err, ErrSuperseded, name)
	}
	_, err := f.EndRun(f.ctx, id, "late 6", 1, true)
	require.ErrorIs(t, err, ErrSuperseded)
	f.start(id, "resume", smc.TriggerStart)
	require.ErrorIs(t, f.Fail(f.ctx, id, "late 7", 2, "Code", "info"), ErrSuperseded, "another run")
	f.requireEvents(id, "Ready", "Running/Preparing", "Running/Syncing", "Stopped", "Running/Preparing")
}

func TestTransitionsOfAnEarlierLapAreSuperseded(t *testing.T) {
	f := newFixture(t)
	id := f.create(spec(f.source("web").SourceID))
	first := f.start(id, "start", smc.TriggerStart).Lap
	require.NoError(t, f.BeginSync(f.ctx, id, "sync", 1, hostURL, 1, InLap(first)))
	require.NoError(t, f.Stop(f.ctx, id, "stop"))
	resumed := f.start(id, "resume", smc.TriggerStart)
	require.Equal(t, resumed.Lap, f.start(id, "resume", smc.TriggerStart).Lap, "a repeated start is of the same lap")
	second := resumed.Lap
	require.NotEqual(t, first, second)
	require.ErrorIs(t, f.BeginSync(f.ctx, id, "late sync", 1, hostURL, 1, InLap(first)), ErrSuperseded)
	require.NoError(t, f.BeginSync(f.ctx, id, "sync again", 1, hostURL, 1, InLap(second)))
	require.Equal(t, second, f.start(id, "resume", smc.TriggerStart).Lap, "also when the run has gone on")

	require.ErrorIs(t, f.EndSync(f.ctx, id, "late process", 1, InLap(first)), ErrSuperseded)
	require.ErrorIs(t, f.Fail(f.ctx, id, "late fail", 1, "Code", "info", InLap(first)), ErrSuperseded)
	require.NoError(t, f.EndSync(f.ctx, id, "process", 1, InLap(second)))
	require.ErrorIs(t, f.EndProcessing(f.ctx, id, "late clean", 1, "m-1", nil, InLap(first)), ErrSuperseded)
	require.NoError(t, f.EndProcessing(f.ctx, id, "clean", 1, "m-1", nil, InLap(second)))
	_, err := f.EndRun(f.ctx, id, "late end", 1, true, InLap(first))
	require.ErrorIs(t, err, ErrSuperseded)
	_, err = f.EndRun(f.ctx, id, "end", 1, true, InLap(second))
	require.NoError(t, err)
	require.Equal(t, smc.StatusFinished, f.job(id).Status)
}

func TestTransitionsOfTheWrongStatusCarryTheirCode(t *testing.T) {
	f := newFixture(t)
	id := f.create(spec(f.source("web").SourceID))
	require.Equal(t, smc.CodeReplicationJobInvalidStatus, smc.CodeOf(f.Stop(f.ctx, id, "1")))
	require.Equal(t, smc.CodeReplicationJobInvalidStatus, smc.CodeOf(f.FinishCutOver(f.ctx, id, "2")))
	f.start(id, "start", smc.TriggerStart)
	require.Equal(t, smc.CodeReplicationJobInvalidBusinessStatus, smc.CodeOf(f.Stop(f.ctx, id, "3")))
	require.Equal(t, smc.CodeReplicationJobInvalidStatus, smc.CodeOf(f.BeginDelete(f.ctx, id, "4")))
	_, err := f.StartRun(f.ctx, id, "5", smc.TriggerStart, smc.RunManual, CutOverNone)
	require.Equal(t, smc.CodeReplicationJobInvalidStatus, smc.CodeOf(err))
	require.Equal(t, smc.CodeInvalidJobIDNotFound, smc.CodeOf(f.Stop(f.ctx, "j-none", "6")))
	f.requireEvents(id, "Ready", "Running/Preparing")
}

func TestStartNeedsASourceAndAHost(t *testing.T) {
	f := newFixture(t)
	source := f.source("web")
	id := f.create(spec(source.SourceID))
	f.clock.advance(hostAlive + time.Second)
	_, err := f.StartRun(f.ctx, id, "1", smc.TriggerStart, smc.RunManual, CutOverNone)
	require.Equal(t, smc.CodeTransitionHostUnavailable, smc.CodeOf(err))
	require.NoError(t, f.HostHeartbeat(f.ctx, hostID, hostURL))
	_, err = f.MarkOffline(f.ctx, f.clock.read())
	require.NoError(t, err)
	_, err = f.StartRun(f.ctx, id, "1", smc.TriggerStart, smc.RunManual, CutOverNone)
	require.Equal(t, smc.CodeSourceServerStateInvalid, smc.CodeOf(err))
	require.NoError(t, f.Heartbeat(f.ctx, source.SourceID, source.Server))
	f.start(id, "1", smc.TriggerStart)
	require.Equal(t, 1, f.job(id).Run, "what was refused left nothing")
}

func TestHostWithTheFewestJobsIsPicked(t *testing.T) {
	f := newFixture(t)
	require.NoError(t, f.HostHeartbeat(f.ctx, "i-other", "http://other"))
	hosts := map[string]int{}
	for i := range 4 {
		id := f.create(spec(f.source(fmt.Sprint("web", i)).SourceID))
		hosts[f.start(id, "start", smc.TriggerStart).HostID]++
	}
	require.Equal(t, map[string]int{hostID: 2, "i-other": 2}, hosts)
	url, err := f.HostURL(f.ctx, "i-other")
	require.NoError(t, err)
	require.Equal(t, "http://other", url)
	_, err = f.HostURL(f.ctx, "i-none")
	require.ErrorIs(t, err, ErrNotFound)
}

// NetMode chooses among the addresses of transition hosts, and hosts with a private one come first for the jobs that are to use it.
func TestPrivateAddressesOfHosts(t *testing.T) {
	f := newFixture(t)
	start := func(name string, netMode int) string {
		s := spec(f.source(name).SourceID)
		s.NetMode, s.VSwitchID = &netMode, pointer("vsw-1")
		return f.start(f.create(s), "start", smc.TriggerStart).HostID
	}
	require.Equal(t, hostID, start("no host has one", 2))

	require.NoError(t, f.HostHeartbeat(f.ctx, "i-private", "http://other", WithPrivateURL("http://10.0.0.1")))
	host, err := f.Host(f.ctx, "i-private")
	require.NoError(t, err)
	require.Equal(t, "http://other", host.URL)
	require.Equal(t, "http://10.0.0.1", host.PrivateURL)
	url, err := f.HostURL(f.ctx, "i-private")
	require.NoError(t, err)
	require.Equal(t, "http://other", url, "images are fetched by the public one")
	for i := range 3 {
		require.Equal(t, "i-private", start(fmt.Sprint("private", i), 2), "also when it has more jobs")
	}
	require.Equal(t, hostID, start("public", 0), "the one with the fewest jobs")

	require.NoError(t, f.HostHeartbeat(f.ctx, "i-private", "http://other"))
	require.Equal(t, hostID, start("it has none any more", 2))
}

func TestResumeKeepsTheRun(t *testing.T) {
	for reached, resumed := range map[smc.BusinessStatus]smc.BusinessStatus{
		smc.BusinessPreparing:  smc.BusinessPreparing,
		smc.BusinessSyncing:    smc.BusinessPreparing, // which opens the session
		smc.BusinessProcessing: smc.BusinessProcessing,
		smc.BusinessCleaning:   smc.BusinessCleaning,
	} {
		t.Run(string(reached), func(t *testing.T) {
			f := newFixture(t)
			id := f.create(spec(f.source("web").SourceID))
			first := f.start(id, "start", smc.TriggerStart)
			steps := []func() error{
				func() error { return f.BeginSync(f.ctx, id, "sync", 1, hostURL, 1) },
				func() error { return f.EndSync(f.ctx, id, "process", 1) },
				func() error { return f.EndProcessing(f.ctx, id, "clean", 1, "m-1", nil) },
			}
			for _, step := range steps {
				if f.job(id).BusinessStatus == reached {
					break
				}
				require.NoError(t, step())
			}
			require.NoError(t, f.Fail(f.ctx, id, "fail", 1, smc.CodeInternalError, "why"))
			job := f.job(id)
			require.Equal(t, smc.StatusInError, job.Status)
			require.Equal(t, "why", job.StatusInfo)
			require.Equal(t, smc.RunFailed, job.Runs[0].Status)
			require.False(t, job.Runs[0].EndedAt.IsZero())
			second := f.start(id, "resume", smc.TriggerStart)
			require.Equal(t, resumed, second.BusinessStatus)
			require.Equal(t, first.Run, second.Run)
			require.Greater(t, second.Lap, first.Lap)
			job = f.job(id)
			require.Empty(t, job.ErrorCode+job.StatusInfo)
			require.Equal(t, smc.RunRunning, job.Runs[0].Status)
			require.True(t, job.Runs[0].EndedAt.IsZero())
			require.Len(t, job.Runs, 1)
		})
	}
}

func TestCutOverIntentIsKept(t *testing.T) {
	f := newFixture(t)
	id := f.create(incremental(f.source("web").SourceID, 3))
	require.Equal(t, smc.StatusWaiting, f.run(id, smc.TriggerStart))
	require.Equal(t, hostID, f.job(id).HostID, "the staging stays between runs")
	_, err := f.StartRun(f.ctx, id, "cutover", smc.TriggerCutOver, smc.RunManual, CutOverSyncData)
	require.NoError(t, err)
	require.NoError(t, f.Fail(f.ctx, id, "fail", 2, smc.CodeInternalError, "why"))
	f.start(id, "resume", smc.TriggerStart)
	require.True(t, f.job(id).Final())
	require.Equal(t, smc.StatusFinished, f.finish(id, "last", 2))
	job := f.job(id)
	require.Empty(t, job.HostID)
	require.False(t, job.EndedAt.IsZero())
}

func TestFinishCutOverKeepsTheHostUntilItReleased(t *testing.T) {
	f := newFixture(t)
	id := f.create(incremental(f.source("web").SourceID, 3))
	f.run(id, smc.TriggerStart)
	require.NoError(t, f.FinishCutOver(f.ctx, id, "cutover"))
	job := f.job(id)
	require.Equal(t, smc.StatusFinished, job.Status)
	require.Equal(t, hostID, job.HostID)
	require.NoError(t, f.MarkReleased(f.ctx, id, "i-other"))
	require.Equal(t, hostID, f.job(id).HostID, "another host has released what it had")
	require.NoError(t, f.MarkReleased(f.ctx, id, hostID))
	require.Empty(t, f.job(id).HostID)
}

// A job that has runs to come is not released, whoever says so.
func TestMarkReleasedOfAJobWithRunsToCome(t *testing.T) {
	f := newFixture(t)
	id := f.create(incremental(f.source("web").SourceID, 3))
	f.run(id, smc.TriggerStart)
	require.NoError(t, f.MarkReleased(f.ctx, id, hostID))
	require.Equal(t, hostID, f.job(id).HostID)
}

// A run that made no image shows none, also when an earlier run of its job made one.
func TestRunShowsItsOwnImage(t *testing.T) {
	f := newFixture(t)
	id := f.create(incremental(f.source("web").SourceID, 3))
	f.run(id, smc.TriggerStart)
	f.start(id, "second", smc.TriggerRun)
	require.NoError(t, f.Fail(f.ctx, id, "fail", 2, smc.CodeInternalError, "why"))
	job := f.job(id)
	require.Equal(t, imageName(id, 1), job.Runs[0].ImageID)
	require.Empty(t, job.Runs[1].ImageID)
	require.Equal(t, imageName(id, 1), job.ImageID, "the job shows its newest image")
}

func TestImageNames(t *testing.T) {
	f := newFixture(t)
	source, name := f.source("web"), "golden"
	names := func(id string) (names []string) {
		images, _, err := f.Images(f.ctx, account, ImageFilter{JobID: id}, Page{1, 10})
		require.NoError(t, err)
		for _, image := range images {
			names = append(names, image.ImageName)
		}
		return names
	}
	once := spec(source.SourceID)
	once.ImageName = &name
	first := f.create(once)
	f.run(first, smc.TriggerStart)
	require.Equal(t, []string{"golden"}, names(first))

	second := f.create(once)
	f.run(second, smc.TriggerStart)
	require.Equal(t, []string{"golden_" + second}, names(second), "an image of that name exists already")

	cycles := incremental(source.SourceID, 3)
	cycles.ImageName = &name
	third := f.create(cycles)
	f.run(third, smc.TriggerStart)
	f.run(third, smc.TriggerRun)
	require.ElementsMatch(t, []string{"golden_CYCLE_1", "golden_CYCLE_2"}, names(third))
	require.NoError(t, f.FinishCutOver(f.ctx, third, "cutover"))

	fourth := f.create(cycles)
	f.run(fourth, smc.TriggerStart)
	require.Equal(t, []string{"golden_" + fourth + "_CYCLE_1"}, names(fourth))
}

func TestImagesOverTheLimit(t *testing.T) {
	f := newFixture(t)
	id := f.create(incremental(f.source("web").SourceID, 2))
	f.run(id, smc.TriggerStart)
	for range 3 {
		f.run(id, smc.TriggerRun)
	}
	over, held, err := f.CondemnImages(f.ctx, id, 2, noReader)
	require.NoError(t, err)
	require.Zero(t, held)
	require.Len(t, over, 2)
	require.Equal(t, 1, over[0].Run)
	require.Equal(t, 2, over[1].Run)
	again, _, err := f.CondemnImages(f.ctx, id, 2, noReader)
	require.NoError(t, err)
	require.Equal(t, over, again, "what a crash left is taken up again")
	for _, image := range over {
		require.NoError(t, f.DeleteImage(f.ctx, image.ImageID))
		require.NoError(t, f.DeleteImage(f.ctx, image.ImageID), "again")
	}
	over, _, err = f.CondemnImages(f.ctx, id, 2, noReader)
	require.NoError(t, err)
	require.Empty(t, over)
	left := imageName(id, 4)
	_, err = f.Image(f.ctx, account, left)
	require.NoError(t, err)
	_, err = f.Image(f.ctx, account, imageName(id, 1))
	require.ErrorIs(t, err, ErrNotFound)
	_, err = f.Image(f.ctx, "another account", left)
	require.ErrorIs(t, err, ErrNotFound)
}

func TestProgressNeverGoesBack(t *testing.T) {
	f := newFixture(t)
	id := f.create(spec(f.source("web").SourceID))
	f.start(id, "start", smc.TriggerStart)
	require.NoError(t, f.BeginSync(f.ctx, id, "sync", 1, hostURL, 1000))
	require.NoError(t, f.UpdateProgress(f.ctx, id, 1, SyncProgress{BytesTotal: 1000, BytesRead: 500, BytesSent: 90, BytesSentRaw: 100, Rate: 7}))
	ahead := f.job(id)
	require.InDelta(t, 45.5, ahead.Progress, 0.01)
	require.NoError(t, f.UpdateProgress(f.ctx, id, 1, SyncProgress{BytesTotal: 1000, BytesRead: 400, BytesSent: 80, BytesSentRaw: 90, Rate: 3}))
	behind := f.job(id)
	require.Equal(t, ahead.Progress, behind.Progress)
	ahead.Runs[0].Rate = 3 // the rate is what it is
	require.Equal(t, ahead.Runs, behind.Runs)

	require.NoError(t, f.Stop(f.ctx, id, "stop"))
	f.start(id, "resume", smc.TriggerStart)
	require.Equal(t, ahead.Progress, f.job(id).Progress, "a resumed run goes on from where it was")
	require.NoError(t, f.BeginSync(f.ctx, id, "sync again", 1, hostURL, 1000))
	require.NoError(t, f.EndSync(f.ctx, id, "process", 1))
	require.NoError(t, f.UpdateProgress(f.ctx, id, 1, SyncProgress{BytesTotal: 1000, BytesRead: 600}))
	require.Equal(t, progressSynced, f.job(id).Progress)
	require.Equal(t, progressPrepared, SyncProgress{}.Percent())
	require.Equal(t, progressSynced, SyncProgress{BytesTotal: 1, BytesRead: 9}.Percent())
}

func TestEpochs(t *testing.T) {
	f := newFixture(t)
	id := f.create(spec(f.source("web").SourceID))
	require.ErrorIs(t, f.CheckEpoch(f.ctx, id, 1), ErrSessionClosed)
	_, err := f.RaiseEpoch(f.ctx, id, 1)
	require.ErrorIs(t, err, ErrSessionClosed)
	f.start(id, "start", smc.TriggerStart)
	require.NoError(t, f.BeginSync(f.ctx, id, "sync", 1, hostURL, 1))

	first, err := f.RaiseEpoch(f.ctx, id, 1)
	require.NoError(t, err)
	require.NoError(t, f.CheckEpoch(f.ctx, id, first))
	second, err := f.RaiseEpoch(f.ctx, id, 1)
	require.NoError(t, err)
	require.Greater(t, second, first)
	require.ErrorIs(t, f.CheckEpoch(f.ctx, id, first), ErrFenced, "whoever attached last is the only writer")
	require.NoError(t, f.CheckEpoch(f.ctx, id, second))
	_, err = f.RaiseEpoch(f.ctx, id, 2)
	require.ErrorIs(t, err, ErrSessionClosed, "another run")

	require.NoError(t, f.Stop(f.ctx, id, "stop"))
	require.ErrorIs(t, f.CheckEpoch(f.ctx, id, second), ErrFenced, "no writer is left when Stop returns")
	_, err = f.RaiseEpoch(f.ctx, id, 1)
	require.ErrorIs(t, err, ErrSessionClosed)
	f.start(id, "resume", smc.TriggerStart)
	require.NoError(t, f.BeginSync(f.ctx, id, "sync again", 1, hostURL, 1))
	require.ErrorIs(t, f.CheckEpoch(f.ctx, id, second), ErrFenced)
	third, err := f.RaiseEpoch(f.ctx, id, 1)
	require.NoError(t, err)
	require.Greater(t, third, second)
}

func TestWork(t *testing.T) {
	f := newFixture(t)
	source := f.source("web")
	job := spec(source.SourceID)
	parameters := `{"bandwidth_limit": 100, "compress_level": 3, "checksum": false}`
	job.ReplicationParameters = &parameters
	id := f.create(job)
	var last int64
	expect := func(jobID string) Work {
		t.Helper()
		work, err := f.Work(f.ctx, source.SourceID)
		require.NoError(t, err)
		require.Equal(t, jobID, work.JobID)
		require.Greater(t, work.Generation, last, "a generation is never used twice")
		last = work.Generation
		return work
	}
	expect("")
	f.start(id, "start", smc.TriggerStart)
	changed, done := f.WorkChanged(source.SourceID)
	defer done()
	require.NoError(t, f.BeginSync(f.ctx, id, "sync", 1, hostURL, 1))
	<-changed
	work := expect(id)
	require.Equal(t, Work{
		Generation: work.Generation, JobID: id, Run: 1, HostURL: hostURL,
		Parameters: agentapi.Params{BandwidthLimit: 100, CompressLevel: 3},
	}, work)
	require.NoError(t, f.Fail(f.ctx, id, "fail", 1, smc.CodeInternalError, "why"))
	expect("")
	f.start(id, "resume", smc.TriggerStart)
	require.NoError(t, f.BeginSync(f.ctx, id, "sync again", 1, hostURL, 1))
	expect(id)
	require.NoError(t, f.EndSync(f.ctx, id, "process", 1))
	expect("")
}

// Who follows is told of a change also when the sessions with the newest changes before it are gone.
func TestFollowPastSessionsThatAreGone(t *testing.T) {
	f := newFixture(t)
	var seen followed
	for _, name := range []string{"web-1", "web-2", "web-3"} {
		source := f.source(name)
		id := f.create(spec(source.SourceID))
		f.start(id, "start "+name, smc.TriggerStart)
		require.NoError(t, f.BeginSync(f.ctx, id, "sync "+name, 1, hostURL, 1))
		told, done := f.WorkChanged(source.SourceID)
		require.NoError(t, f.follow(f.ctx, &seen))
		select {
		case <-told:
		default:
			t.Errorf("nobody is told of the session of %s", name)
		}
		done()
		_, err := f.db.ExecContext(f.ctx, `DELETE FROM sync_sessions`)
		require.NoError(t, err)
	}
}

func TestSourcesFollowTheirJobsAndTheirHeartbeats(t *testing.T) {
	f := newFixture(t)
	source := f.source("web")
	id := f.create(spec(source.SourceID))
	require.Equal(t, smc.SourceAvailable, f.state(source.SourceID), "a job at rest takes no source")
	f.start(id, "start", smc.TriggerStart)
	require.Equal(t, smc.SourceInUse, f.state(source.SourceID))
	require.NoError(t, f.BeginSync(f.ctx, id, "sync", 1, hostURL, 1))

	f.clock.advance(smc.OfflineAfter)
	offline, err := f.MarkOffline(f.ctx, f.clock.read().Add(-smc.OfflineAfter))
	require.NoError(t, err)
	require.Empty(t, offline, "not before the third heartbeat is missed")
	f.clock.advance(time.Second)
	offline, err = f.MarkOffline(f.ctx, f.clock.read().Add(-smc.OfflineAfter))
	require.NoError(t, err)
	require.Equal(t, []string{source.SourceID}, offline)
	offline, err = f.MarkOffline(f.ctx, f.clock.read().Add(-smc.OfflineAfter))
	require.NoError(t, err)
	require.Empty(t, offline, "once")
	away, err := f.Source(f.ctx, account, source.SourceID)
	require.NoError(t, err)
	require.Equal(t, smc.SourceUnavailable, away.State)
	require.Equal(t, smc.CodeSourceServerOffline, away.ErrorCode)
	var info map[string]string
	require.NoError(t, json.Unmarshal([]byte(away.StatusInfo), &info))
	require.Equal(t, smc.CodeSourceServerOffline, info["error_code"])
	require.NotEmpty(t, info["error_msg"])

	require.NoError(t, f.Stop(f.ctx, id, "stop"))
	require.Equal(t, smc.SourceUnavailable, f.state(source.SourceID), "it stays so until it is heard of")
	require.NoError(t, f.Heartbeat(f.ctx, source.SourceID, diskServer(30<<30)))
	back, err := f.Source(f.ctx, account, source.SourceID)
	require.NoError(t, err)
	require.Equal(t, smc.SourceAvailable, back.State)
	require.Empty(t, back.ErrorCode+back.StatusInfo)
	require.Equal(t, int64(30<<30), back.Server.Disks[0].SizeBytes, "a heartbeat says what the server looks like now")
	require.NoError(t, f.Heartbeat(f.ctx, source.SourceID, diskServer(30<<30)))
	f.requireEvents(source.SourceID, "Available", "InUse", "Unavailable", "Available")
	require.ErrorIs(t, f.Heartbeat(f.ctx, "s-none", diskServer(1)), ErrNotFound)
}

func TestReturnOfASourceThatIsInUse(t *testing.T) {
	f := newFixture(t)
	source := f.source("web")
	f.start(f.create(spec(source.SourceID)), "start", smc.TriggerStart)
	f.clock.advance(time.Hour)
	_, err := f.MarkOffline(f.ctx, f.clock.read())
	require.NoError(t, err)
	require.NoError(t, f.Heartbeat(f.ctx, source.SourceID, source.Server))
	f.requireEvents(source.SourceID, "Available", "InUse", "Unavailable", "InUse")
}

func TestRegistration(t *testing.T) {
	f := newFixture(t)
	register := func(code, instance, name string, quota int) (*Source, error) {
		return f.RegisterSource(f.ctx, code, "token of "+instance, instance, name, diskServer(1<<30), quota)
	}
	requireCode := func(want string, err error) {
		t.Helper()
		require.Equal(t, want, smc.CodeOf(err), "%v", err)
	}
	_, err := register("unknown", "i1", "web1", 10)
	requireCode(smc.CodeInvalidActivationCode, err)

	code := f.code(2)
	first, err := register(code, "i1", "web1", 10)
	require.NoError(t, err)
	require.Equal(t, smc.SourceAvailable, first.State)
	require.Equal(t, account, first.AccountID)
	require.Equal(t, region, first.RegionID)
	_, err = register(code, "i2", "web1", 10)
	requireCode(smc.CodeSourceServerNameDuplicate, err)
	_, err = register(code, "i2", "web2", 1)
	requireCode(smc.CodeQuotaExceededSourceServer, err)
	_, err = register(code, "i2", "web2", 10)
	require.NoError(t, err, "what was refused did not use the code up")
	_, err = register(code, "i3", "web3", 10)
	requireCode(smc.CodeInvalidActivationCode, err)
	require.ErrorContains(t, err, "has made its 2 registrations")

	// An answer was lost: the same instance gets its source again, with a new token, from a code that is used up.
	again, err := f.RegisterSource(f.ctx, code, "a new token", "i1", "web1", diskServer(1<<30), 10)
	require.NoError(t, err)
	require.Equal(t, first.SourceID, again.SourceID)
	got, err := f.SourceByToken(f.ctx, "a new token")
	require.NoError(t, err)
	require.Equal(t, first.SourceID, got.SourceID)
	_, err = f.SourceByToken(f.ctx, "token of i1")
	require.ErrorIs(t, err, ErrNotFound)
	_, err = register(code, "i1", "other name", 10)
	requireCode(smc.CodeSourceServerNameDuplicate, err)
	f.requireEvents(first.SourceID, "Available")

	old := f.code(5)
	f.clock.advance(30*24*time.Hour + time.Second)
	_, err = register(old, "i4", "web4", 10)
	requireCode(smc.CodeInvalidActivationCode, err)
	require.ErrorContains(t, err, "expired")

	disabled := f.code(5)
	require.NoError(t, f.write(f.ctx, func(tx *transaction) error {
		_, err := tx.ExecContext(f.ctx, `UPDATE access_tokens SET disabled = 1 WHERE code_hash = ?`, hashSecret(disabled))
		return err
	}))
	_, err = register(disabled, "i5", "web5", 10)
	requireCode(smc.CodeInvalidActivationCode, err)
	require.ErrorContains(t, err, "disabled")

	sources, total, err := f.Sources(f.ctx, account, SourceFilter{}, Page{1, 10})
	require.NoError(t, err)
	require.Equal(t, 2, total)
	require.Len(t, sources, 2)
}

func TestCreateFillsInDefaults(t *testing.T) {
	f := newFixture(t)
	source := f.source("web")
	job := f.job(f.create(spec(source.SourceID)))
	require.Equal(t, smc.StatusReady, job.Status)
	require.Equal(t, "web_"+job.JobID, job.ImageName)
	require.Equal(t, 25, *job.Spec.SystemDiskSize)
	require.Equal(t, []JobDisk{
		{Index: 0, SizeBytes: 25 << 30, DeliveredSizeBytes: 25 << 30}, {Index: 1, SizeBytes: 40 << 30, DeliveredSizeBytes: 40 << 30},
	}, job.Disks(source))
	require.Equal(t, f.clock.read().Add(smc.DefaultValidity), job.ValidUntil)
	require.True(t, job.RunOnce())
	require.Equal(t, agentapi.Params{CompressLevel: 1, Checksum: true}, job.Parameters())
	got, err := f.Source(f.ctx, account, source.SourceID)
	require.NoError(t, err)
	require.Equal(t, job.JobID, got.JobID)

	small, err := f.RegisterSource(f.ctx, f.code(1), "t", "i", "small", diskServer(1<<30), 10)
	require.NoError(t, err)
	require.Equal(t, 20, *f.job(f.create(spec(small.SourceID))).Spec.SystemDiskSize, "at least 20 GiB")
}

func pointer[T any](v T) *T { return &v }

func TestCreateRules(t *testing.T) {
	f := newFixture(t)
	held := f.source("held")
	holder := spec(held.SourceID)
	holder.Name, holder.ImageName = pointer("taken"), pointer("golden")
	holderID := f.create(holder)
	away := f.source("away")
	_, err := storetest.DB(t, f.url).ExecContext(f.ctx, `UPDATE source_servers SET state = 'Unavailable' WHERE source_id = $1`, away.SourceID)
	require.NoError(t, err)
	free := f.source("free")
	for _, test := range []struct {
		name    string
		change  func(*smc.CreateReplicationJobRequest)
		code    string
		message string
	}{
		{"unknown source", func(r *smc.CreateReplicationJobRequest) { r.SourceID = "s-none" }, smc.CodeInvalidSourceIDNotFound, "s-none"},
		{"source with a job", func(r *smc.CreateReplicationJobRequest) { r.SourceID = held.SourceID }, smc.CodeSourceServerStateInvalid, holderID},
		{"source that is away", func(r *smc.CreateReplicationJobRequest) { r.SourceID = away.SourceID }, smc.CodeSourceServerStateInvalid, "Unavailable"},
		{"name of another job", func(r *smc.CreateReplicationJobRequest) { r.Name = pointer("taken") }, smc.CodeReplicationJobNameDuplicate, holderID},
		{"image name of another job", func(r *smc.CreateReplicationJobRequest) { r.ImageName = pointer("golden") }, smc.CodeImageNameUsedByReplicationJob, holderID},
		{"unknown data disk", func(r *smc.CreateReplicationJobRequest) {
			r.DataDisk = []smc.DataDiskTarget{{Index: pointer(2)}}
		}, smc.CodeReplicationJobDataDiskIndexInvalid, "DataDisk.1.Index 2"},
		{"system disk too small", func(r *smc.CreateReplicationJobRequest) { r.SystemDiskSize = pointer(24) }, smc.CodeUnsupportedFeature, "at least 25"},
		{"data disk too small", func(r *smc.CreateReplicationJobRequest) {
			r.DataDisk = []smc.DataDiskTarget{{Index: pointer(1), Size: pointer(39)}}
		}, smc.CodeUnsupportedFeature, "at least 40"},
		{"partitions larger than the source's disk", func(r *smc.CreateReplicationJobRequest) {
			r.SystemDiskPart = []smc.PartTarget{{Device: pointer("0_0"), SizeBytes: pointer(int64(26 << 30))}}
		}, smc.CodeInvalidParameter, "SystemDiskPart.1.SizeBytes"},
		{"partitions larger than a data disk without a size", func(r *smc.CreateReplicationJobRequest) {
			r.DataDisk = []smc.DataDiskTarget{{Index: pointer(1), Part: []smc.PartTarget{{Device: pointer("1_0"), SizeBytes: pointer(int64(41 << 30))}}}}
		}, smc.CodeInvalidParameter, "DataDisk.1.Part.1.SizeBytes"},
		{"container image of another architecture", func(r *smc.CreateReplicationJobRequest) { r.TargetType = pointer("ContainerImage") }, smc.CodeInvalidOsMigrationTypeNotMatched, "x86_64"},
		{"unknown target instance", func(r *smc.CreateReplicationJobRequest) {
			r.TargetType, r.InstanceID = pointer("Instance"), pointer("i-1")
		}, smc.CodeInvalidInstanceIDNotFound, "i-1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := spec(free.SourceID)
			test.change(&r)
			_, err := f.CreateJob(f.ctx, account, r, 1000)
			require.Equal(t, test.code, smc.CodeOf(err), "%v", err)
			require.ErrorContains(t, err, test.message)
		})
	}
	_, err = f.CreateJob(f.ctx, account, spec(free.SourceID), 1)
	require.Equal(t, smc.CodeQuotaExceededReplicationJob, smc.CodeOf(err))
	_, err = f.CreateJob(f.ctx, "another account", spec(free.SourceID), 1000)
	require.Equal(t, smc.CodeInvalidSourceIDNotFound, smc.CodeOf(err))
	_, total, err := f.Jobs(f.ctx, account, JobFilter{}, Page{1, 50})
	require.NoError(t, err)
	require.Equal(t, 1, total, "what is refused leaves nothing")
	require.Len(t, f.pending(50), 4, "nor an event")

	// Names that differ only by their account, and images of another region, are free.
	r := spec(free.SourceID)
	r.RegionID, r.ImageName = "cn-other", pointer("golden")
	_, err = f.CreateJob(f.ctx, account, r, 1000)
	require.NoError(t, err)
}

// A source is free again, and so are the names, when its job is finished or on its way out.
func TestFinishedJobFreesItsSource(t *testing.T) {
	f := newFixture(t)
	source := f.source("web")
	r := spec(source.SourceID)
	r.ImageName = pointer("golden")
	first := f.create(r)
	require.NoError(t, f.BeginDelete(f.ctx, first, "delete"))
	second := f.create(r)
	f.run(second, smc.TriggerStart)
	f.create(r)
	require.NoError(t, f.EndDelete(f.ctx, first, "deleted"))
}

func TestClientToken(t *testing.T) {
	f := newFixture(t)
	source := f.source("web")
	r := spec(source.SourceID)
	r.ClientToken = pointer("token")
	id := f.create(r)
	require.Equal(t, id, f.create(r))
	other := r
	other.Name = pointer("other")
	_, err := f.CreateJob(f.ctx, account, other, 1000)
	require.Equal(t, smc.CodeIdempotentParameterMismatch, smc.CodeOf(err))
	require.NoError(t, f.BeginDelete(f.ctx, id, "delete"))
	require.NoError(t, f.EndDelete(f.ctx, id, "deleted"))
	require.Equal(t, id, f.create(r), "remembered past the job's deletion")
	_, total, err := f.Jobs(f.ctx, account, JobFilter{}, Page{1, 10})
	require.NoError(t, err)
	require.Zero(t, total)
}

// TestClientTokenPastItsTimes: a call that is sent again is answered as it was, though the times that it names have passed.
func TestClientTokenPastItsTimes(t *testing.T) {
	f := newFixture(t)
	source := f.source("web")
	r := spec(source.SourceID)
	r.ClientToken = pointer("token")
	r.ScheduledStartTime = pointer(smc.FormatTime(f.clock.read().Add(time.Minute)))
	r.ValidTime = pointer(smc.FormatTime(f.clock.read().Add(smc.MinValidity + time.Minute)))
	id := f.create(r)
	f.clock.advance(time.Hour)
	require.Equal(t, id, f.create(r))
	r.ClientToken = pointer("another")
	_, err := f.CreateJob(f.ctx, account, r, 1000)
	require.Equal(t, smc.CodeInvalidParameter, smc.CodeOf(err))
	require.ErrorContains(t, err, "ScheduledStartTime")
	r.ScheduledStartTime = nil
	_, err = f.CreateJob(f.ctx, account, r, 1000)
	require.Equal(t, smc.CodeInvalidParameter, smc.CodeOf(err))
	require.ErrorContains(t, err, "ValidTime")
}

const creators = 50

func TestConcurrentCreators(t *testing.T) {
	f := newFixture(t)
	other := f.open() // half of them in another process
	source := f.source("web")
	var mu sync.Mutex
	var won []string
	var group errgroup.Group
	for i := range creators {
		s := []*Store{f.Store, other}[i%2]
		group.Go(func() error {
			id, err := s.CreateJob(f.ctx, account, spec(source.SourceID), 1000)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won = append(won, id)
			} else if smc.CodeOf(err) != smc.CodeSourceServerStateInvalid {
				return err
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
	require.Len(t, won, 1)
	f.requireEvents(won[0], "Ready")
}

func TestConcurrentCreatorsWithOneClientToken(t *testing.T) {
	f := newFixture(t)
	other := f.open()
	r := spec(f.source("web").SourceID)
	r.ClientToken = pointer("token")
	ids := make([]string, creators)
	var group errgroup.Group
	for i := range ids {
		s := []*Store{f.Store, other}[i%2]
		group.Go(func() (err error) {
			ids[i], err = s.CreateJob(f.ctx, account, r, 1000)
			return err
		})
	}
	require.NoError(t, group.Wait())
	for _, id := range ids {
		require.Equal(t, ids[0], id)
	}
	f.requireEvents(ids[0], "Ready")
}

// Two processes write at once: neither is refused by the other's lock.
func TestTwoProcessesWrite(t *testing.T) {
	f := newFixture(t)
	other := f.open()
	const jobs, rounds = 4, 10
	var ids []string
	for i := range jobs {
		id := f.create(spec(f.source(fmt.Sprint("web", i)).SourceID))
		f.start(id, "start", smc.TriggerStart)
		ids = append(ids, id)
	}
	var group errgroup.Group
	for _, id := range ids {
		for _, s := range []*Store{f.Store, other} {
			group.Go(func() error {
				for range rounds {
					if err := s.UpdateProgress(f.ctx, id, 1, SyncProgress{BytesTotal: 10, BytesRead: 5}); err != nil {
						return err
					}
				}
				for i := range rounds { // both try every transition: each is made once
					if err := s.BeginSync(f.ctx, id, fmt.Sprint("sync", i), 1, hostURL, 1); err != nil {
						return err
					}
					if err := s.Stop(f.ctx, id, fmt.Sprint("stop", i)); err != nil {
						return err
					}
					if _, err := s.StartRun(f.ctx, id, fmt.Sprint("start", i), smc.TriggerStart, smc.RunManual, CutOverNone); err != nil {
						return err
					}
				}
				return nil
			})
		}
	}
	require.NoError(t, group.Wait())
	for _, id := range ids {
		records, err := f.Events(f.ctx, id)
		require.NoError(t, err)
		require.Len(t, records, 2+3*rounds)
		for i, record := range records {
			require.Equal(t, uint64(i+1), record.Sequence)
		}
	}
}

func (f *fixture) pending(limit int) []events.Record {
	f.t.Helper()
	records, err := f.Pending(f.ctx, limit)
	require.NoError(f.t, err)
	return records
}

func TestOutbox(t *testing.T) {
	f := newFixture(t)
	changed := f.OutboxChanged()
	source := f.source("web")
	<-changed
	id := f.create(spec(source.SourceID))
	f.start(id, "start", smc.TriggerStart)
	ids := func(records []events.Record) (ids []string) {
		for _, record := range records {
			ids = append(ids, record.ID)
		}
		return ids
	}
	all := []string{source.SourceID + "/1", id + "/1", id + "/2", source.SourceID + "/2"}
	require.Equal(t, all, ids(f.pending(10)), "in the order they were written")
	require.Equal(t, all[:2], ids(f.pending(2)))
	for _, record := range f.pending(10) {
		require.Zero(t, record.PrevStreamSeq)
		require.Equal(t, f.clock.read(), record.Time)
	}
	require.NoError(t, f.MarkPublished(f.ctx, f.pending(1)[0], 7))
	require.NoError(t, f.MarkPublished(f.ctx, f.pending(1)[0], 8))
	left := f.pending(10)
	require.Equal(t, all[2:], ids(left))
	require.Equal(t, uint64(8), left[0].PrevStreamSeq, "the one before it of its subject")
	require.Equal(t, uint64(7), left[1].PrevStreamSeq)
	require.ErrorIs(t, f.MarkPublished(f.ctx, events.Record{ID: "none/1"}, 9), ErrNotFound)
	records, err := f.Events(f.ctx, id)
	require.NoError(t, err)
	require.Len(t, records, 2, "the outbox is kept")
}

// A transition that fails half-way leaves neither row nor event.
func TestTransitionIsAllOrNothing(t *testing.T) {
	f := newFixture(t)
	first := f.create(spec(f.source("web").SourceID))
	f.run(first, smc.TriggerStart)
	second := f.create(spec(f.source("db").SourceID))
	f.start(second, "start", smc.TriggerStart)
	require.NoError(t, f.BeginSync(f.ctx, second, "sync", 1, hostURL, 1))
	require.NoError(t, f.EndSync(f.ctx, second, "process", 1))
	require.Error(t, f.EndProcessing(f.ctx, second, "clean", 1, imageName(first, 1), nil), "the image id is taken")
	f.requireEvents(second, "Ready", "Running/Preparing", "Running/Syncing", "Running/Processing")
	require.Equal(t, smc.BusinessProcessing, f.job(second).BusinessStatus)
	require.NoError(t, f.EndProcessing(f.ctx, second, "clean", 1, "m-own", nil))
}

func TestListings(t *testing.T) {
	f := newFixture(t)
	var ids []string
	for i := range 5 {
		r := spec(f.source(fmt.Sprint("web", i)).SourceID)
		r.Name = pointer(fmt.Sprint("job", i))
		ids = append(ids, f.create(r))
		f.clock.advance(time.Second)
	}
	require.NoError(t, f.HostHeartbeat(f.ctx, hostID, hostURL))
	f.start(ids[3], "start", smc.TriggerStart)
	list := func(filter JobFilter, page Page) (found []string, total int) {
		t.Helper()
		jobs, total, err := f.Jobs(f.ctx, account, filter, page)
		require.NoError(t, err)
		for _, job := range jobs {
			found = append(found, job.JobID)
		}
		return found, total
	}
	for _, test := range []struct {
		filter JobFilter
		page   Page
		want   []string
		total  int
	}{
		{JobFilter{}, Page{1, 2}, []string{ids[4], ids[3]}, 5},
		{JobFilter{}, Page{3, 2}, []string{ids[0]}, 5},
		{JobFilter{}, Page{4, 2}, nil, 5},
		{JobFilter{JobIDs: []string{ids[0], ids[2], "j-none"}}, Page{1, 10}, []string{ids[2], ids[0]}, 2},
		{JobFilter{JobIDs: ids, Name: "job1"}, Page{1, 10}, []string{ids[1]}, 1},
		{JobFilter{Status: smc.StatusRunning}, Page{1, 10}, []string{ids[3]}, 1},
		{JobFilter{BusinessStatus: smc.BusinessPreparing}, Page{1, 10}, []string{ids[3]}, 1},
		{JobFilter{RegionID: "cn-other"}, Page{1, 10}, nil, 0},
		{JobFilter{SourceIDs: []string{f.job(ids[1]).SourceID}}, Page{1, 10}, []string{ids[1]}, 1},
	} {
		found, total := list(test.filter, test.page)
		require.Equal(t, test.want, found, "%+v", test)
		require.Equal(t, test.total, total, "%+v", test)
	}
	_, total, err := f.Jobs(f.ctx, "another account", JobFilter{}, Page{1, 10})
	require.NoError(t, err)
	require.Zero(t, total)
	_, err = f.Job(f.ctx, "another account", ids[0])
	require.ErrorIs(t, err, ErrNotFound)
}

func TestJobsWithoutAWorkflow(t *testing.T) {
	f := newFixture(t)
	first, second := f.create(spec(f.source("web").SourceID)), f.create(spec(f.source("db").SourceID))
	missing := func() []string {
		ids, err := f.JobsWithoutWorkflow(f.ctx)
		require.NoError(t, err)
		return ids
	}
	require.ElementsMatch(t, []string{first, second}, missing())
	require.NoError(t, f.MarkWorkflowStarted(f.ctx, first))
	require.Equal(t, []string{second}, missing())
	require.NoError(t, f.ForgetWorkflows(f.ctx))
	require.ElementsMatch(t, []string{first, second}, missing())
}

func TestKeysAndNonces(t *testing.T) {
	f := newFixture(t)
	_, err := f.AccessKey(f.ctx, "ak")
	require.ErrorIs(t, err, ErrNotFound)
	require.NoError(t, f.PutAccessKey(f.ctx, AccessKey{AccessKeyID: "ak", Secret: "old", AccountID: account}))
	require.NoError(t, f.PutAccessKey(f.ctx, AccessKey{AccessKeyID: "ak", Secret: "new", AccountID: account}))
	key, err := f.AccessKey(f.ctx, "ak")
	require.NoError(t, err)
	key.CreatedAt = time.Time{}
	require.Equal(t, AccessKey{AccessKeyID: "ak", Secret: "new", AccountID: account, stored: "new"}, key)

	use := func(s *Store, nonce string) bool {
		fresh, err := s.UseNonce(f.ctx, "ak", nonce, f.clock.read().Add(time.Minute))
		require.NoError(t, err)
		return fresh
	}
	require.True(t, use(f.Store, "n1"))
	require.False(t, use(f.open(), "n1"), "by every process")
	require.True(t, use(f.Store, "n2"))
	f.clock.advance(2 * time.Minute)
	require.NoError(t, f.ForgetNonces(f.ctx))
	require.True(t, use(f.Store, "n1"))
}

func TestSettingIsMadeOnce(t *testing.T) {
	f := newFixture(t)
	first, err := f.DataPlaneKey(f.ctx)
	require.NoError(t, err)
	require.Len(t, first, 32)
	second, err := f.open().DataPlaneKey(f.ctx)
	require.NoError(t, err)
	require.Equal(t, first, second)
}

func TestOpenRefusesOtherURLs(t *testing.T) {
	for _, url := range []string{"mysql://host/db", "sqlite://relative.db", "center.db", "sqlite:///a%zz", ""} {
		_, err := Open(t.Context(), url)
		require.ErrorContains(t, err, "DATABASE_URL", url)
	}
}

// The path of a URL may be written as paths are.
func TestOpenTakesAnyAbsolutePath(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a b?", "center.db")
	s, err := Open(t.Context(), (&url.URL{Scheme: "sqlite", Path: "//" + filepath.Dir(file) + "/./center.db"}).String())
	require.NoError(t, err)
	require.NoError(t, s.Close())
	require.FileExists(t, file)
}

func TestProcessesOpenAtOnce(t *testing.T) {
	url := storetest.URL(t)
	var group errgroup.Group
	for range 6 {
		group.Go(func() error {
			s, err := Open(t.Context(), url)
			if err != nil {
				return err
			}
			return s.Close()
		})
	}
	require.NoError(t, group.Wait())
}

// killedEnv names the job and the database in which the process of TestKilledProcess writes until it is killed.
const killedEnv = "DROVER_TEST_KILLED_DATABASE"

// What a killed process committed is there, whole, and what it had not committed is not.
func TestKilledProcess(t *testing.T) {
	if what := os.Getenv(killedEnv); what != "" {
		writeUntilKilled(t, what)
		return
	}
	f := newFixture(t)
	id := f.create(spec(f.source("web").SourceID))
	f.start(id, "start", smc.TriggerStart)
	command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledProcess$")
	command.Env = append(os.Environ(), killedEnv+"="+id+" "+f.url)
	out, err := command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	// It says when it has committed something and has a transaction open.
	buffer := make([]byte, 1)
	_, err = out.Read(buffer)
	require.NoError(t, err)
	require.NoError(t, command.Process.Kill())
	require.Error(t, command.Wait())

	s := f.open()
	job, err := s.JobByID(f.ctx, id)
	require.NoError(t, err)
	require.Equal(t, smc.BusinessSyncing, job.BusinessStatus, "committed")
	f.requireEvents(id, "Ready", "Running/Preparing", "Running/Syncing")
	require.NoError(t, s.EndSync(f.ctx, id, "process", 1), "its lock died with it")
}

func writeUntilKilled(t *testing.T, what string) {
	t.Helper()
	id, url, _ := strings.Cut(what, " ")
	s, err := Open(t.Context(), url)
	require.NoError(t, err)
	require.NoError(t, s.BeginSync(t.Context(), id, "sync", 1, hostURL, 1))
	require.NoError(t, s.write(t.Context(), func(tx *transaction) error {
		_, err := tx.ExecContext(t.Context(), `UPDATE replication_jobs SET business_status = 'Cleaning', sequence = 99`)
		require.NoError(t, err)
		_, err = os.Stdout.WriteString(".")
		require.NoError(t, err)
		<-t.Context().Done() // killed here
		return t.Context().Err()
	}))
}
