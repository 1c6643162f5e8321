package activities

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
)

// targetSize is larger than the disk of the source.
const targetSize = 16 << 20

func disksOf(size int64) agentapi.Target {
	return agentapi.Target{Disks: []agentapi.TargetDisk{{Path: "/dev/sdx", SizeBytes: size}}}
}

// migrate starts a job that migrates to a target instance, and syncs it.
func (f *fixture) migrate() (in PhaseInput, instanceID string) {
	f.t.Helper()
	require.NoError(f.t, f.record.CreateAccessToken(f.t.Context(), store.AccessToken{AccessTokenID: store.NewID("at"), AccountID: account, RegionID: region, Count: 1, TTLDays: 1}, "target"))
	target, err := f.record.RegisterTarget(f.t.Context(), "target", "token", "instance", "rack-7", disksOf(targetSize), 10)
	require.NoError(f.t, err)
	kind := "TargetInstance"
	id, err := f.record.CreateJob(f.t.Context(), account, smc.CreateReplicationJobRequest{RegionID: region, SourceID: f.sourceID, TargetType: &kind, InstanceID: &target.InstanceID}, 10)
	require.NoError(f.t, err)
	in = f.run(id, smc.TriggerStart)
	f.sync(in)
	return in, target.InstanceID
}

// answering reports of each delivery what say makes of it, until the test ends.
func (f *fixture) answering(instanceID string, say func(*store.Delivery) agentapi.DeliveryReport) {
	done := make(chan struct{})
	f.t.Cleanup(func() { <-done })
	ctx := f.t.Context()
	go func() {
		defer close(done)
		for have := int64(0); ; {
			changed, stop := f.record.WorkChanged(instanceID)
			if d, err := f.record.Delivery(ctx, instanceID); err == nil && d.Open && d.Generation != have {
				have = d.Generation
				report := say(d)
				report.Generation, report.JobID, report.Run = d.Generation, d.JobID, d.Run
				if _, err := f.record.ReportDelivery(context.WithoutCancel(ctx), instanceID, report); !assert.NoError(f.t, err) {
					return
				}
			}
			select {
			case <-changed:
			case <-ctx.Done():
				stop()
				return
			}
			stop()
		}
	}()
}

// well is the report of a target that has made a delivery.
func (f *fixture) well(d *store.Delivery) agentapi.DeliveryReport {
	root, err := f.host.ArtifactRoot(context.WithoutCancel(f.t.Context()), d.ImageID, 0, replica.ArtifactDelivered)
	assert.NoError(f.t, err)
	return agentapi.DeliveryReport{
		State: agentapi.DeliveryDone, BytesTotal: d.Disks[0].SizeBytes, BytesDone: d.Disks[0].SizeBytes, BytesFetched: 1, Disks: []agentapi.DeliveredDisk{{Root: root.String()}},
	}
}

// The image of a job that migrates to a target instance is as large as the target's disk, and the run ends when it is on it.
func TestImagesAreDelivered(t *testing.T) {
	f := newFixture(t)
	in, instance := f.migrate()
	f.answering(instance, f.well)
	require.NoError(t, f.do(f.a.Process, in))
	job := f.job(in.JobID)
	require.Equal(t, smc.BusinessCleaning, job.BusinessStatus)
	image, err := f.record.Image(t.Context(), account, job.ImageID)
	require.NoError(t, err)
	require.Equal(t, int64(targetSize), image.Disks[0].DeliveredSizeBytes)
	f.requireImage(job.ImageID, true)
	delivery, err := f.record.Delivery(t.Context(), instance)
	require.NoError(t, err)
	require.Equal(t, smc.DeliveryDone, delivery.State)
	require.False(t, delivery.Open)
	require.Equal(t, f.url, delivery.HostURL)
	f.requireNoOp(f.a.Process, in)
	require.NoError(t, f.do(f.a.Clean, in))
	require.Equal(t, smc.StatusFinished, f.job(in.JobID).Status)
}

// What a target fails with is told in its words. The image is there; a disk that does not do waits for a person, whose start delivers
// anew, to the sizes that there are then.
func TestDeliveriesThatFail(t *testing.T) {
	f := newFixture(t)
	in, instance := f.migrate()
	var report agentapi.DeliveryReport
	f.answering(instance, func(d *store.Delivery) agentapi.DeliveryReport {
		if report.State == "" {
			return f.well(d)
		}
		return report
	})
	report = agentapi.DeliveryReport{State: agentapi.DeliveryFailed, Code: agentapi.DeliveryCodeImage, Message: "the host refuses the ticket"}
	failed := applicationFailure(t, f.do(f.a.Process, in))
	require.Equal(t, smc.CodeTargetInstanceImageUnavailable, failed.Type())
	require.False(t, failed.NonRetryable())
	require.Contains(t, f.job(in.JobID).Info(), "rack-7 ("+instance+"): the host refuses the ticket")
	image, err := f.record.Image(t.Context(), account, imageID(in.JobID, 1))
	require.NoError(t, err)
	require.Equal(t, int64(targetSize), image.Disks[0].DeliveredSizeBytes)

	report = agentapi.DeliveryReport{State: agentapi.DeliveryFailed, Code: agentapi.DeliveryCodeDisk, Message: "disk 0 (/dev/sdx) is mounted"}
	failed = applicationFailure(t, f.do(f.a.Process, in))
	require.Equal(t, smc.CodeTargetInstanceDiskFailed, failed.Type())
	require.True(t, failed.NonRetryable())
	require.Contains(t, failed.Message(), "is mounted")
	fail := func() {
		t.Helper()
		require.NoError(t, f.record.Fail(t.Context(), in.JobID, store.NewID("fail"), 1, failed.Type(), failed.Message()))
		in = f.run(in.JobID, smc.TriggerStart)
		require.Equal(t, smc.BusinessProcessing, f.job(in.JobID).BusinessStatus, "nothing is synced again")
	}
	fail()

	// The disk was replaced by one that is too small, by one with data, and then by a larger one.
	report = agentapi.DeliveryReport{}
	require.NoError(t, f.record.TargetHeartbeat(t.Context(), instance, disksOf(diskSize-1)))
	failed = applicationFailure(t, f.do(f.a.Process, in))
	require.Equal(t, smc.CodeTargetInstanceDiskFailed, failed.Type())
	require.Contains(t, failed.Message(), "/dev/sdx has 9437695 bytes")
	fail()
	large := disksOf(2 * targetSize)
	large.Disks[0].HoldsData = true
	require.NoError(t, f.record.TargetHeartbeat(t.Context(), instance, large))
	failed = applicationFailure(t, f.do(f.a.Process, in))
	require.Equal(t, smc.CodeTargetInstanceDiskFailed, failed.Type())
	require.Contains(t, failed.Message(), "--overwrite")
	fail()
	large.Disks[0].HoldsData = false
	require.NoError(t, f.record.TargetHeartbeat(t.Context(), instance, large))
	require.NoError(t, f.do(f.a.Process, in))
	require.Equal(t, smc.BusinessCleaning, f.job(in.JobID).BusinessStatus)
	image, err = f.record.Image(t.Context(), account, image.ImageID)
	require.NoError(t, err)
	require.Equal(t, int64(2*targetSize), image.Disks[0].DeliveredSizeBytes, "the image was made anew for the disk")
	f.requireImage(image.ImageID, true)
}

// What a target has read back is held against the image, whatever the target thinks of it.
func TestDeliveryOfSomethingElse(t *testing.T) {
	f := newFixture(t)
	in, instance := f.migrate()
	f.answering(instance, func(d *store.Delivery) agentapi.DeliveryReport {
		report := f.well(d)
		report.Disks[0].Root = "0000"
		return report
	})
	failed := applicationFailure(t, f.do(f.a.Process, in))
	require.Equal(t, smc.CodeTargetInstanceDiskFailed, failed.Type())
	require.Contains(t, failed.Message(), "disk 0")
}

// A run waits for a target that is silent, says so, and gives up when that has lasted. A later attempt goes on with the time of the first.
func TestTargetThatStaysAway(t *testing.T) {
	f := newFixture(t)
	in, instance := f.migrate()
	f.a.TargetQuiet, f.a.TargetWait = 50*time.Millisecond, time.Hour
	ended := make(chan error, 1)
	go func() { ended <- f.do(f.a.Process, in) }()
	job := f.awaitInfo(in.JobID, smc.CodeTargetInstanceOffline, "rack-7", "drover-agent target")
	require.Equal(t, smc.StatusRunning, job.Status)
	f.answering(instance, f.well)
	require.NoError(t, <-ended, "it goes on when the target is there")
	require.Empty(t, f.job(in.JobID).Info())
	require.NoError(t, f.do(f.a.Clean, in))
}

func TestTargetThatNeverComes(t *testing.T) {
	f := newFixture(t)
	in, instance := f.migrate()
	f.a.TargetQuiet, f.a.TargetWait = 50*time.Millisecond, 10*time.Minute
	f.troubledFor(11*time.Minute, in, smc.CodeTargetInstanceOffline)
	failed := applicationFailure(t, f.do(f.a.Process, in))
	require.Equal(t, smc.CodeTargetInstanceOffline, failed.Type())
	require.True(t, failed.NonRetryable())
	require.Contains(t, failed.Message(), "has waited 10m0s")
	require.NoError(t, f.record.Fail(t.Context(), in.JobID, "fail", 1, failed.Type(), failed.Message()))
	delivery, err := f.record.Delivery(t.Context(), instance)
	require.NoError(t, err)
	require.False(t, delivery.Open)
	require.Equal(t, smc.DeliveryFailed, delivery.State)
	f.answering(instance, f.well)
	in = f.run(in.JobID, smc.TriggerStart)
	require.NoError(t, f.do(f.a.Process, in))
}

// A target that reports and does not get on cannot reach the transition host: it waits for it by itself.
func TestTargetThatReachesTheCenterOnly(t *testing.T) {
	f := newFixture(t)
	in, instance := f.migrate()
	target, err := f.record.Target(t.Context(), account, instance)
	require.NoError(t, err)
	now := time.Now()
	watch := &deliveryWatch{a: f.a, in: in, target: target, spec: store.DeliverySpec{HostURL: f.url}, log: zap.NewNop(), heard: now, moved: now}
	delivery := &store.Delivery{}
	for range 5 {
		now = now.Add(deliveryStall / 4)
		delivery.ReportedAt = now
		require.NoError(t, watch.look(t.Context(), now, delivery))
	}
	trouble := f.job(in.JobID).Trouble
	require.Equal(t, smc.CodeTargetInstanceImageUnavailable, trouble.Code)
	require.Contains(t, trouble.Info, f.url)
	delivery.BytesFetched, delivery.ReportedAt = 1, now.Add(time.Second)
	require.NoError(t, watch.look(t.Context(), now.Add(time.Second), delivery))
	require.Empty(t, f.job(in.JobID).Trouble, "it gets on")

	delivery.ReportedAt = now.Add(deliveryStall + 2*time.Second)
	require.NoError(t, watch.look(t.Context(), delivery.ReportedAt, delivery))
	delivery.ReportedAt = time.Now().Add(smc.DefaultTargetWait + time.Hour)
	err = watch.look(t.Context(), delivery.ReportedAt, delivery)
	require.Equal(t, smc.CodeTargetInstanceImageUnavailable, smc.CodeOf(err), "%v", err)
}

// A job that was moved while its image is delivered is let go.
func TestDeliveryOfAJobThatMoved(t *testing.T) {
	f := newFixture(t)
	in, instance := f.migrate()
	ended := make(chan error, 1)
	go func() { ended <- f.do(f.a.Process, in) }()
	require.Eventually(t, func() bool {
		d, err := f.record.Delivery(t.Context(), instance)
		return err == nil && d.Open
	}, 20*time.Second, 10*time.Millisecond)
	require.NoError(t, f.record.Fail(t.Context(), in.JobID, "fail", 1, smc.CodeInternalError, "somebody else"))
	require.Equal(t, TypeSuperseded, applicationFailure(t, <-ended).Type())
	require.Equal(t, smc.StatusInError, f.job(in.JobID).Status)
}
