package activities

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/center/store/storetest"
	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
)

const (
	account = "123"
	region  = "cn-test"
	hostID  = "i-test"
	// diskSize is more than one window, and no whole number of grains.
	diskSize = 9<<20 + 512
)

var key = []byte("0123456789abcdef0123456789abcdef")

// epochs lets the host fence writers by the store, as app does.
type epochs struct{ *store.Store }

func (e epochs) RaiseEpoch(ctx context.Context, jobID string, run int) (int64, error) {
	epoch, err := e.Store.RaiseEpoch(ctx, jobID, run)
	if errors.Is(err, store.ErrSessionClosed) {
		err = fmt.Errorf("%w: %w", replica.ErrSessionClosed, err)
	}
	return epoch, err
}

func (e epochs) CheckEpoch(ctx context.Context, jobID string, epoch int64) error {
	err := e.Store.CheckEpoch(ctx, jobID, epoch)
	if errors.Is(err, store.ErrFenced) {
		err = fmt.Errorf("%w: %w", replica.ErrFenced, err)
	}
	return err
}

// fixture is a store, a transition host that listens, and a source server with one disk.
type fixture struct {
	t        *testing.T
	record   *store.Store
	host     *replica.Host
	a        *Replication
	url      string
	root     string
	disk     string
	database string
	sourceID string
	log      *zap.Logger
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, root: t.TempDir(), disk: filepath.Join(t.TempDir(), "disk.raw"), log: zaptest.NewLogger(t, zaptest.Level(zapcore.ErrorLevel))}
	var err error
	f.database = storetest.Migrated(t, store.Open)
	f.record, err = store.Open(t.Context(), f.database)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, f.record.Close()) })
	f.host, err = replica.NewHost(replica.HostConfig{Root: f.root, ID: hostID, Key: key, Epochs: epochs{f.record}, Logger: f.log})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, f.host.Close()) })
	server := httptest.NewServer(f.host.Handler())
	t.Cleanup(server.Close)
	f.url = server.URL
	f.a = &Replication{Store: f.record, Host: f.host, HostURL: f.url, Logger: f.log}
	f.fill(1)
	require.NoError(t, f.record.HostHeartbeat(t.Context(), hostID, f.url))
	require.NoError(t, f.record.CreateAccessToken(t.Context(), store.AccessToken{
		AccessTokenID: store.NewID("at"), AccountID: account, RegionID: region, Count: 1, TTLDays: 1,
	}, "code"))
	source, err := f.record.RegisterSource(t.Context(), "code", "token", "instance", "web",
		agentapi.Server{Disks: []agentapi.Disk{{Path: f.disk, SizeBytes: diskSize}}}, 10)
	require.NoError(t, err)
	f.sourceID = source.SourceID
	return f
}

// fill writes other contents to the disk.
func (f *fixture) fill(seed uint64) {
	f.t.Helper()
	contents := make([]byte, diskSize)
	random := rand.New(rand.NewPCG(seed, 0))
	for i := 0; i < len(contents)/2; i += 64 {
		contents[i] = byte(random.Uint32())
	}
	require.NoError(f.t, os.WriteFile(f.disk, contents, 0o600))
}

// start makes a Running job; keep images when it is incremental, 0 when it runs once.
func (f *fixture) start(keep int) PhaseInput {
	f.t.Helper()
	spec := smc.CreateReplicationJobRequest{RegionID: region, SourceID: f.sourceID}
	if keep > 0 {
		once, frequency := false, 24
		spec.RunOnce, spec.Frequency, spec.MaxNumberOfImageToKeep = &once, &frequency, &keep
	}
	id, err := f.record.CreateJob(f.t.Context(), account, spec, 10)
	require.NoError(f.t, err)
	return f.run(id, smc.TriggerStart)
}

func (f *fixture) run(id string, trigger smc.Trigger) PhaseInput {
	f.t.Helper()
	start, err := f.record.StartRun(f.t.Context(), id, store.NewID("key"), trigger, smc.RunManual, store.CutOverNone)
	require.NoError(f.t, err)
	return PhaseInput{JobID: id, Run: start.Run, Lap: start.Lap}
}

// env is an environment of one attempt of an activity.
func (f *fixture) env() *testsuite.TestActivityEnvironment {
	suite := new(testsuite.WorkflowTestSuite)
	suite.SetLogger(quiet{})
	env := suite.NewTestActivityEnvironment()
	env.RegisterActivity(f.a)
	env.SetTestTimeout(2 * time.Minute)
	return env
}

// quiet drops what the SDK logs: that activities fail is what these tests want.
type quiet struct{}

func (quiet) Debug(string, ...any) {}
func (quiet) Info(string, ...any)  {}
func (quiet) Warn(string, ...any)  {}
func (quiet) Error(string, ...any) {}

func (f *fixture) do(activity, in any) error {
	_, err := f.env().ExecuteActivity(activity, in)
	return err
}

// requireNoOp demands that another attempt of an activity succeeds and changes nothing.
func (f *fixture) requireNoOp(activity any, in PhaseInput) {
	f.t.Helper()
	before := f.snapshot(in.JobID)
	require.NoError(f.t, f.do(activity, in))
	require.Equal(f.t, before, f.snapshot(in.JobID))
}

// snapshot is a job with its number of events and the number of images there are.
func (f *fixture) snapshot(id string) string {
	f.t.Helper()
	job := f.job(id)
	events, err := f.record.Events(f.t.Context(), id)
	require.NoError(f.t, err)
	images, err := f.host.ImageIDs()
	require.NoError(f.t, err)
	return fmt.Sprintf("%s/%s, %d events, images %v", job.Status, job.BusinessStatus, len(events), images)
}

func (f *fixture) job(id string) *store.Job {
	f.t.Helper()
	job, err := f.record.Job(f.t.Context(), account, id)
	require.NoError(f.t, err)
	return job
}

// agent syncs the source's disk until the host has it, as the agent does.
func (f *fixture) agent(ctx context.Context, id string, open func(replica.SourceDisk) (replica.DiskReader, error)) <-chan error {
	done := make(chan error, 1)
	go func() {
		done <- replica.Sync(ctx, replica.SyncConfig{
			HostURL: f.url, Token: replica.SignToken(key, replica.TokenSession, id, time.Now().Add(time.Hour)), JobID: id,
			Instance: store.NewID("agent"), Disks: []replica.SourceDisk{{Path: f.disk}}, Open: open, Logger: f.log, ReadPatience: -1,
		}, nil)
	}()
	return done
}

// sync does Prepare and Sync with an agent that is well.
func (f *fixture) sync(in PhaseInput) {
	f.t.Helper()
	require.NoError(f.t, f.do(f.a.Prepare, in))
	done := f.agent(f.t.Context(), in.JobID, nil)
	require.NoError(f.t, f.do(f.a.Sync, in))
	require.NoError(f.t, <-done)
}

func (f *fixture) requireImage(id string, verified bool) {
	f.t.Helper()
	want, err := os.ReadFile(f.disk)
	require.NoError(f.t, err)
	got, err := os.ReadFile(filepath.Join(f.root, "images", id, "disk-0.raw"))
	require.NoError(f.t, err)
	require.Equal(f.t, verified, bytes.Equal(want, got))
}

func (f *fixture) staging() []string {
	f.t.Helper()
	ids, err := f.host.StagingIDs()
	require.NoError(f.t, err)
	return ids
}

// applicationFailure returns the application error an activity ended with.
func applicationFailure(t *testing.T, err error) *temporal.ApplicationError {
	t.Helper()
	var failure *temporal.ApplicationError
	require.ErrorAs(t, err, &failure)
	return failure
}

// A whole run; every phase is tried again after it has ended.
func TestPhases(t *testing.T) {
	f := newFixture(t)
	var reported []Progress
	f.a.OnProgress = func(_ *store.Job, p Progress) { reported = append(reported, p) }
	in := f.start(0)

	require.NoError(t, f.do(f.a.Prepare, in))
	require.Equal(t, smc.BusinessSyncing, f.job(in.JobID).BusinessStatus)
	work, err := f.record.Work(t.Context(), f.sourceID)
	require.NoError(t, err)
	require.Equal(t, in.JobID, work.JobID)
	require.Equal(t, f.url, work.HostURL)
	f.requireNoOp(f.a.Prepare, in)

	done := f.agent(t.Context(), in.JobID, nil)
	require.NoError(t, f.do(f.a.Sync, in))
	require.NoError(t, <-done)
	job := f.job(in.JobID)
	require.Equal(t, smc.BusinessProcessing, job.BusinessStatus)
	require.Equal(t, int64(diskSize), job.Runs[0].BytesTotal)
	require.Equal(t, int64(diskSize), job.Runs[0].BytesRead)
	require.Positive(t, job.Runs[0].BytesSent)
	require.NotEmpty(t, reported)
	require.Equal(t, int64(diskSize), reported[len(reported)-1].BytesRead)
	f.requireNoOp(f.a.Sync, in)

	require.NoError(t, f.do(f.a.Process, in))
	job = f.job(in.JobID)
	require.Equal(t, smc.BusinessCleaning, job.BusinessStatus)
	f.requireImage(job.ImageID, true)
	image, err := f.record.Image(t.Context(), account, job.ImageID)
	require.NoError(t, err)
	require.Equal(t, int64(diskSize), image.Disks[0].SizeBytes)
	require.Equal(t, int64(20<<30), image.Disks[0].DeliveredSizeBytes)
	require.Len(t, image.Disks[0].Root, 64)
	f.requireNoOp(f.a.Process, in)

	var end CleanResult
	value, err := f.env().ExecuteActivity(f.a.Clean, in)
	require.NoError(t, err)
	require.NoError(t, value.Get(&end))
	require.Equal(t, smc.StatusFinished, end.Status)
	require.Empty(t, f.staging())
	require.Empty(t, f.job(in.JobID).HostID)
	f.requireNoOp(f.a.Clean, in)
	f.requireImage(job.ImageID, true)
}

// The agent of a job with NetMode 2 is told the private address, and follows it when the host comes back at another one.
func TestNetModeChoosesTheAddress(t *testing.T) {
	for _, test := range []struct {
		name          string
		netMode       int
		private, want string
	}{
		{"public", 0, "http://10.0.0.1:7701", ""},
		{"private", 2, "http://10.0.0.1:7701", "http://10.0.0.1:7701"},
		{"the host has none", 2, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t)
			f.a.PrivateURL = test.private
			vSwitch := "vsw-1"
			id, err := f.record.CreateJob(t.Context(), account, smc.CreateReplicationJobRequest{
				RegionID: region, SourceID: f.sourceID, NetMode: &test.netMode, VSwitchID: &vSwitch,
			}, 10)
			require.NoError(t, err)
			in := f.run(id, smc.TriggerStart)
			require.NoError(t, f.do(f.a.Prepare, in))
			work, err := f.record.Work(t.Context(), f.sourceID)
			require.NoError(t, err)
			require.Equal(t, cmp.Or(test.want, f.url), work.HostURL)

			if test.want == "" {
				return
			}

			// The worker is restarted with another address.
			f.a.PrivateURL = "http://10.0.0.2:7701"
			changed, stop := f.record.WorkChanged(f.sourceID)
			defer stop()
			synced := make(chan error, 1)
			go func() { synced <- f.do(f.a.Sync, in) }()
			<-changed
			work, err = f.record.Work(t.Context(), f.sourceID)
			require.NoError(t, err)
			require.Equal(t, f.a.PrivateURL, work.HostURL)
			require.NoError(t, <-f.agent(t.Context(), id, nil))
			require.NoError(t, <-synced)
		})
	}
}

// A worker may die between what an activity does to the disks and the transition that says so.
func TestAttemptAfterACrash(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	in := f.start(0)
	disks := []replica.Disk{{Index: 0, SizeBytes: diskSize}}

	require.NoError(t, f.host.Prepare(ctx, in.JobID, disks))
	require.NoError(t, f.do(f.a.Prepare, in))

	// The host has the synced state, the store does not know it.
	session, err := f.host.OpenSession(ctx, replica.SessionSpec{JobID: in.JobID, Run: 1, Disks: disks, Params: replica.DefaultParams()})
	require.NoError(t, err)
	require.NoError(t, <-f.agent(ctx, in.JobID, nil))
	result, err := session.Wait(ctx, time.Second, nil)
	require.NoError(t, err)
	require.NoError(t, f.do(f.a.Sync, in), "without an agent: there is nothing left to sync")
	require.Equal(t, result.Progress.BytesSent, f.job(in.JobID).Runs[0].BytesSent)

	_, err = f.host.MakeImage(ctx, replica.ImageSpec{ImageID: imageID(in.JobID, 1), JobID: in.JobID, Run: 1, Final: true, Disks: []replica.ImageDisk{{DeliveredSizeBytes: 20 << 30}}}, nil)
	require.NoError(t, err)
	require.NoError(t, f.do(f.a.Process, in))
	images, err := f.host.ImageIDs()
	require.NoError(t, err)
	require.Equal(t, []string{imageID(in.JobID, 1)}, images)

	require.NoError(t, f.host.ReleaseStaging(ctx, in.JobID))
	require.NoError(t, f.do(f.a.Clean, in))
	require.Equal(t, smc.StatusFinished, f.job(in.JobID).Status)
	f.requireImage(imageID(in.JobID, 1), true)
}

func TestIncrementalRuns(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	in := f.start(2)
	id := in.JobID
	var sent []int64
	for run := 1; run <= 4; run++ {
		if run > 1 {
			in = f.run(id, smc.TriggerRun)
		}
		if run == 2 {
			change, err := os.OpenFile(f.disk, os.O_WRONLY, 0)
			require.NoError(t, err)
			_, err = change.WriteAt([]byte("changed"), 1<<20)
			require.NoError(t, errors.Join(err, change.Close()))
		}
		f.sync(in)
		require.NoError(t, f.do(f.a.Process, in))
		if run == 4 {
			// The worker dies after the files of the image over the limit and before its record.
			require.NoError(t, f.host.DeleteImage(ctx, imageID(id, 2)))
		}
		require.NoError(t, f.do(f.a.Clean, in))
		require.Equal(t, smc.StatusWaiting, f.job(id).Status)
		require.Equal(t, []string{id}, f.staging(), "the staging stays for the next run")
		sent = append(sent, f.job(id).Runs[run-1].BytesSentRaw)
		f.requireImage(imageID(id, run), true)
	}
	require.Equal(t, int64(replica.GrainSize), sent[1], "one grain changed")
	require.Zero(t, sent[2])
	images, total, err := f.record.Images(ctx, account, store.ImageFilter{JobID: id}, store.Page{Number: 1, Size: 10})
	require.NoError(t, err)
	require.Equal(t, 2, total)
	require.Equal(t, 4, max(images[0].Run, images[1].Run))
	kept, err := f.host.ImageIDs()
	require.NoError(t, err)
	require.ElementsMatch(t, []string{imageID(id, 3), imageID(id, 4)}, kept)

	require.Error(t, f.do(f.a.Release, id))
	require.Equal(t, []string{id}, f.staging(), "a job that has runs to come keeps its staging, whoever asks")
	require.NoError(t, f.record.FinishCutOver(ctx, id, "cutover"))
	require.NoError(t, f.do(f.a.Release, id))
	require.Empty(t, f.staging())
	require.Empty(t, f.job(id).HostID)
	require.NoError(t, f.do(f.a.Release, id), "again")
}

// stuck is a disk whose reads wait until the test lets them go.
type stuck struct {
	replica.DiskReader
	reading chan<- struct{}
	release <-chan struct{}
	err     error
}

func (d stuck) ReadAt(p []byte, off int64) (int, error) {
	select {
	case d.reading <- struct{}{}:
	default:
	}
	if d.release != nil {
		<-d.release
	}
	if d.err != nil {
		return 0, d.err
	}
	return d.DiskReader.ReadAt(p, off)
}

// stick returns a way to open disks whose reads wait for release, or fail with err when that is not nil.
func stick(release <-chan struct{}, err error) (open func(replica.SourceDisk) (replica.DiskReader, error), reading <-chan struct{}) {
	started := make(chan struct{}, 1)
	return func(disk replica.SourceDisk) (replica.DiskReader, error) {
		reader, openErr := replica.OpenDisk(disk.Path)
		return stuck{reader, started, release, err}, openErr
	}, started
}

func TestDiskThatCannotBeRead(t *testing.T) {
	f := newFixture(t)
	in := f.start(0)
	require.NoError(t, f.do(f.a.Prepare, in))
	open, _ := stick(nil, errors.New("input/output error"))
	done := f.agent(t.Context(), in.JobID, open)
	failure := applicationFailure(t, f.do(f.a.Sync, in))
	require.Equal(t, smc.CodeSourceDiskReadError, failure.Type())
	require.True(t, failure.NonRetryable(), "a person has to see to the disk")
	require.Contains(t, failure.Message(), "disk 0")
	require.Contains(t, failure.Message(), "input/output error")
	require.Error(t, <-done)
	images, err := f.host.ImageIDs()
	require.NoError(t, err)
	require.Empty(t, images)

	// Started again, it finishes.
	require.NoError(t, f.record.Fail(t.Context(), in.JobID, "fail", 1, failure.Type(), failure.Message()))
	in = f.run(in.JobID, smc.TriggerStart)
	f.sync(in)
	require.NoError(t, f.do(f.a.Process, in))
	f.requireImage(imageID(in.JobID, 1), true)
}

func TestWorkerStops(t *testing.T) {
	f := newFixture(t)
	in := f.start(0)
	require.NoError(t, f.do(f.a.Prepare, in))
	release := make(chan struct{})
	open, reading := stick(release, nil)
	done := f.agent(t.Context(), in.JobID, open)
	env := f.env()
	stop := make(chan struct{})
	env.SetWorkerStopChannel(stop)
	result := make(chan error, 1)
	go func() {
		_, err := env.ExecuteActivity(f.a.Sync, in)
		result <- err
	}()
	<-reading
	close(stop)
	failure := applicationFailure(t, <-result)
	require.False(t, failure.NonRetryable())
	require.Contains(t, failure.Message(), "shutting down")
	require.Equal(t, smc.BusinessSyncing, f.job(in.JobID).BusinessStatus)

	// The next attempt goes on with the agent that is still there.
	close(release)
	require.NoError(t, f.do(f.a.Sync, in))
	require.NoError(t, <-done)
	require.Equal(t, smc.BusinessProcessing, f.job(in.JobID).BusinessStatus)
}

func TestStopEndsASync(t *testing.T) {
	f := newFixture(t)
	in := f.start(0)
	require.NoError(t, f.do(f.a.Prepare, in))
	release := make(chan struct{})
	open, reading := stick(release, nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := f.agent(ctx, in.JobID, open)
	result := make(chan error, 1)
	go func() { result <- f.do(f.a.Sync, in) }()
	<-reading
	require.NoError(t, f.record.Stop(ctx, in.JobID, "stop"))
	close(release) // what the agent sends now is refused
	failure := applicationFailure(t, <-result)
	require.Equal(t, TypeSuperseded, failure.Type())
	require.True(t, failure.NonRetryable())
	cancel()
	require.Error(t, <-done)
	failure = applicationFailure(t, f.do(f.a.Sync, in))
	require.Equal(t, TypeSuperseded, failure.Type())
}

func TestPhasesOfAJobThatMoved(t *testing.T) {
	f := newFixture(t)
	in := f.start(0)
	f.sync(in)
	require.Equal(t, TypeSuperseded, applicationFailure(t, f.do(f.a.Clean, in)).Type(), "it is not its turn yet")
	gone := PhaseInput{JobID: "j-none", Run: 1}
	for name, activity := range map[string]any{"Prepare": f.a.Prepare, "Sync": f.a.Sync, "Process": f.a.Process} {
		require.Equal(t, TypeSuperseded, applicationFailure(t, f.do(activity, gone)).Type(), name)
	}
}

// A disk that changed its size since the last run is not silently cut off. Its size may be from before it was repaired: the run that is
// started then waits a little for another.
func TestDiskThatShrank(t *testing.T) {
	f := newFixture(t)
	report := func(ctx context.Context, size int64) error {
		return f.record.Heartbeat(ctx, f.sourceID, agentapi.Server{Disks: []agentapi.Disk{{Path: f.disk, SizeBytes: size}}})
	}
	in := f.start(2)
	f.sync(in)
	require.NoError(t, f.do(f.a.Process, in))
	require.NoError(t, f.do(f.a.Clean, in))
	require.NoError(t, report(t.Context(), diskSize/2))
	in = f.run(in.JobID, smc.TriggerRun)
	f.a.SizeWait = 2 * sizeCheck
	failure := applicationFailure(t, f.do(f.a.Prepare, in))
	require.Equal(t, smc.CodeSourceDiskChanged, failure.Type())
	require.True(t, failure.NonRetryable())

	f.a.SizeWait = time.Minute
	reported := make(chan error, 1)
	time.AfterFunc(2*sizeCheck, func() { reported <- report(context.Background(), diskSize) })
	require.NoError(t, f.do(f.a.Prepare, in))
	require.NoError(t, <-reported)
	require.Equal(t, smc.BusinessSyncing, f.job(in.JobID).BusinessStatus)
}

func TestImageIDs(t *testing.T) {
	require.NotEqual(t, imageID("j-1", 1), imageID("j-1", 2))
	require.NotEqual(t, imageID("j-1", 11), imageID("j-11", 1))
	require.Regexp(t, `^m-[0-9a-z]{18}$`, imageID("j-1", 1))
}

func TestRateMeter(t *testing.T) {
	at := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	var m rateMeter
	require.Zero(t, m.rate(at, 1000))
	require.Equal(t, int64(500), m.rate(at.Add(2*time.Second), 2000))
	require.Equal(t, int64(500), m.rate(at.Add(2100*time.Millisecond), 9000), "too soon to say")
	smoothed := m.rate(at.Add(4*time.Second), 4000)
	require.Greater(t, smoothed, int64(500))
	require.Less(t, smoothed, int64(650), "on the way to 1,000")
	require.Less(t, m.rate(at.Add(6*time.Second), 0), smoothed, "never negative")
	require.Positive(t, m.rate(at.Add(8*time.Second), 4000))
	require.Zero(t, m.rate(at.Add(30*time.Second), 4000), "what stands still has no rate")
	require.Positive(t, m.rate(at.Add(31*time.Second), 5000))
}
