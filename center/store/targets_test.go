package store

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/smc"
)

func targetDisks(sizes ...int64) agentapi.Target {
	var target agentapi.Target
	for i, size := range sizes {
		target.Disks = append(target.Disks, agentapi.TargetDisk{Index: i, Path: "/dev/sd", SizeBytes: size})
	}
	return target
}

// target registers a target instance whose disks have these sizes.
func (f *fixture) target(name string, sizes ...int64) *Target {
	f.t.Helper()
	target, err := f.RegisterTarget(f.ctx, f.code(1), "token of "+name, "instance of "+name, name, targetDisks(sizes...), 100)
	require.NoError(f.t, err)
	return target
}

// onto asks for a job that migrates a source to a target instance.
func onto(sourceID, instanceID string) smc.CreateReplicationJobRequest {
	r := spec(sourceID)
	r.TargetType, r.InstanceID = pointer("TargetInstance"), &instanceID
	return r
}

// A job takes a target instance whose disks take its own, and no other; sizes that nobody asked for stay open.
func TestJobsFitTheirTargets(t *testing.T) {
	f := newFixture(t)
	source := f.source("web") // 25 and 40 GiB
	for name, test := range map[string]struct {
		sizes  []int64
		change func(*smc.CreateReplicationJobRequest)
		code   string
		words  string
	}{
		"just as large":       {[]int64{25 << 30, 40 << 30}, nil, "", ""},
		"too small":           {[]int64{25<<30 - 1, 40 << 30}, nil, smc.CodeInvalidInstanceIDDiskMismatch, "disk 0"},
		"a data disk missing": {[]int64{25 << 30}, nil, smc.CodeInvalidInstanceIDDiskMismatch, "disk 1"},
		"not opened":          {[]int64{25 << 30, 0}, nil, smc.CodeInvalidInstanceIDDiskMismatch, "cannot be opened"},
		"less than asked for": {[]int64{30 << 30, 40 << 30}, func(r *smc.CreateReplicationJobRequest) { r.SystemDiskSize = pointer(31) }, smc.CodeInvalidInstanceIDDiskMismatch, "33285996544"},
		"as asked for": {[]int64{31 << 30, 50 << 30}, func(r *smc.CreateReplicationJobRequest) {
			r.SystemDiskSize, r.DataDisk = pointer(31), []smc.DataDiskTarget{{Index: pointer(1), Size: pointer(50)}}
		}, "", ""},
		"less than the source": {[]int64{31 << 30, 50 << 30}, func(r *smc.CreateReplicationJobRequest) { r.SystemDiskSize = pointer(20) }, smc.CodeUnsupportedFeature, "at least 25"},
	} {
		t.Run(name, func(t *testing.T) {
			target := f.target(name+"-target", test.sizes...)
			r := onto(source.SourceID, target.InstanceID)
			if test.change != nil {
				test.change(&r)
			}
			id, err := f.CreateJob(f.ctx, account, r, 1000)
			require.Equal(t, test.code, smc.CodeOf(err), "%v", err)
			if test.code != "" {
				require.ErrorContains(t, err, test.words)
				return
			}
			job := f.job(id)
			require.Equal(t, r.SystemDiskSize, job.Spec.SystemDiskSize)
			require.Len(t, job.Spec.DataDisk, 1)
			if test.change == nil {
				require.Nil(t, job.Spec.DataDisk[0].Size)
			}
			require.NoError(t, f.BeginDelete(f.ctx, id, "delete"))
			require.NoError(t, f.EndDelete(f.ctx, id, "deleted"))
		})
	}
	holding := f.target("holding", 25<<30, 40<<30)
	holding.Target.Disks[1].HoldsData = true
	require.NoError(t, f.TargetHeartbeat(f.ctx, holding.InstanceID, holding.Target))
	_, err := f.CreateJob(f.ctx, account, onto(source.SourceID, holding.InstanceID), 1000)
	require.Equal(t, smc.CodeInvalidInstanceIDDiskMismatch, smc.CodeOf(err))
	require.ErrorContains(t, err, "--overwrite")
	_, err = f.CreateJob(f.ctx, account, onto(source.SourceID, "i-none"), 1000)
	require.Equal(t, smc.CodeInvalidInstanceIDNotFound, smc.CodeOf(err))

	// One that is silent is needed at the end only.
	away := f.target("away", 25<<30, 40<<30)
	f.clock.advance(time.Hour)
	require.NoError(t, f.Heartbeat(f.ctx, source.SourceID, source.Server))
	found, _, err := f.Targets(f.ctx, account, TargetFilter{State: smc.InstanceUnavailable, Name: "away"}, Page{1, 10})
	require.NoError(t, err)
	require.Len(t, found, 1)
	f.create(onto(source.SourceID, away.InstanceID))
}

// Modify is held to the rules of Create, and the sizes of a job are those of its target type.
func TestModifyOfTargets(t *testing.T) {
	f := newFixture(t)
	source := f.source("web")
	first, second := f.target("first", 25<<30, 40<<30), f.target("second", 60<<30, 60<<30)
	id := f.create(spec(source.SourceID))
	modify := func(r smc.ModifyReplicationJobAttributeRequest) error {
		r.JobID = id
		_, err := f.ModifyJob(f.ctx, r)
		return err
	}
	require.Equal(t, 25, *f.job(id).Spec.SystemDiskSize)
	require.NoError(t, modify(smc.ModifyReplicationJobAttributeRequest{InstanceID: pointer("i-label")}), "it is echoed")
	require.Equal(t, smc.CodeInvalidInstanceIDNotFound, smc.CodeOf(modify(smc.ModifyReplicationJobAttributeRequest{TargetType: pointer("TargetInstance")})))
	require.NoError(t, modify(smc.ModifyReplicationJobAttributeRequest{TargetType: pointer("TargetInstance"), InstanceID: &first.InstanceID}))
	job := f.job(id)
	require.Nil(t, job.Spec.SystemDiskSize)
	require.Nil(t, job.Spec.DataDisk[0].Size)
	target, err := f.Target(f.ctx, account, first.InstanceID)
	require.NoError(t, err)
	require.Equal(t, id, target.JobID)
	require.Equal(t, smc.CodeInvalidInstanceIDDiskMismatch, smc.CodeOf(modify(smc.ModifyReplicationJobAttributeRequest{SystemDiskSize: pointer(50)})))
	require.NoError(t, modify(smc.ModifyReplicationJobAttributeRequest{SystemDiskSize: pointer(50), InstanceID: &second.InstanceID}))
	require.NoError(t, f.DeleteTarget(f.ctx, account, first.InstanceID))
	require.Equal(t, smc.CodeInvalidInstanceIDInUse, smc.CodeOf(f.DeleteTarget(f.ctx, account, second.InstanceID)))
	require.Equal(t, smc.CodeInvalidInstanceIDNotFound, smc.CodeOf(f.DeleteTarget(f.ctx, "another", second.InstanceID)))

	// Another job finds it held, until this one is no longer its.
	other := f.create(spec(f.source("db").SourceID))
	_, err = f.ModifyJob(f.ctx, smc.ModifyReplicationJobAttributeRequest{JobID: other, TargetType: pointer("TargetInstance"), InstanceID: &second.InstanceID})
	require.Equal(t, smc.CodeInvalidInstanceIDInUse, smc.CodeOf(err))
	require.ErrorContains(t, err, id)
	require.NoError(t, modify(smc.ModifyReplicationJobAttributeRequest{TargetType: pointer("Image")}))
	require.Equal(t, 50, *f.job(id).Spec.SystemDiskSize)
	require.Equal(t, 40, *f.job(id).Spec.DataDisk[0].Size)
	_, err = f.ModifyJob(f.ctx, smc.ModifyReplicationJobAttributeRequest{JobID: other, TargetType: pointer("TargetInstance"), InstanceID: &second.InstanceID})
	require.NoError(t, err)
}

// Of many jobs that would migrate to one target instance one does, whoever creates and whoever modifies; none is left without its target by a
// deletion at the same moment.
func TestConcurrentTargets(t *testing.T) {
	f := newFixture(t)
	const n = 20
	var sources, jobs [n]string
	for i := range n {
		sources[i] = f.source(NewID("web")).SourceID
		if i%2 == 1 {
			jobs[i] = f.create(spec(sources[i]))
		}
	}
	name := func(s *Store, i int, target string) error {
		if i%2 == 1 {
			_, err := s.ModifyJob(f.ctx, smc.ModifyReplicationJobAttributeRequest{JobID: jobs[i], TargetType: pointer("TargetInstance"), InstanceID: &target})
			return err
		}
		_, err := s.CreateJob(f.ctx, account, onto(sources[i], target), 1000)
		return err
	}
	target := f.target("rack", 1<<40, 1<<40).InstanceID
	require.Equal(t, map[string]int{"": 1, smc.CodeInvalidInstanceIDInUse: n - 1}, f.together(n, func(s *Store, i int) error { return name(s, i, target) }))

	gone := f.target("gone", 1<<40, 1<<40).InstanceID
	count := f.together(n, func(s *Store, i int) error {
		if i >= n/2 {
			return s.DeleteTarget(f.ctx, account, gone)
		}
		err := name(s, i, gone)
		if smc.CodeOf(err) == smc.CodeSourceServerStateInvalid {
			return smc.Errorf(smc.CodeInvalidInstanceIDInUse, "the source is taken")
		}
		return err
	})
	holders := 0
	for _, id := range f.jobIDs() {
		if f.job(id).targetID() == gone {
			holders++
		}
	}
	_, err := f.Target(f.ctx, account, gone)
	if holders == 0 {
		require.ErrorIs(t, err, ErrNotFound, "%v", count)
	} else {
		require.NoError(t, err, "%v", count)
		require.Equal(t, 1, holders)
	}
}

func (f *fixture) jobIDs() []string {
	f.t.Helper()
	ids, err := f.JobIDs(f.ctx)
	require.NoError(f.t, err)
	return ids
}

// A delivery goes on, is done, or is made again under another generation; what is reported of an earlier one is refused.
func TestDeliveries(t *testing.T) {
	f := newFixture(t)
	target := f.target("rack", 25<<30, 40<<30).InstanceID
	id := f.create(onto(f.source("web").SourceID, target))
	f.start(id, "start", smc.TriggerStart)
	spec := DeliverySpec{JobID: id, Run: 1, ImageID: "m-1", HostURL: hostURL, Disks: []agentapi.DeliveryDisk{{SizeBytes: 25 << 30}}}
	_, err := f.OpenDelivery(f.ctx, target, spec)
	require.ErrorIs(t, err, ErrSuperseded, "it is Preparing")
	require.NoError(t, f.BeginSync(f.ctx, id, "sync", 1, hostURL, 1))
	require.NoError(t, f.EndSync(f.ctx, id, "process", 1))
	told, done := f.open().WorkChanged(target)
	defer done()
	var seen followed
	other := f.open()
	require.NoError(t, other.follow(f.ctx, &seen))
	require.ErrorIs(t, f.RecordImage(f.ctx, id, 2, "m-2", nil), ErrSuperseded)
	require.NoError(t, f.RecordImage(f.ctx, id, 1, "m-1", []ImageDisk{{SizeBytes: 1, DeliveredSizeBytes: 2}}))
	require.NoError(t, f.RecordImage(f.ctx, id, 1, "m-1", []ImageDisk{{SizeBytes: 1, DeliveredSizeBytes: 3}}), "made anew")
	open := func() *Delivery {
		t.Helper()
		d, err := f.OpenDelivery(f.ctx, target, spec)
		require.NoError(t, err)
		return d
	}
	first := open()
	require.Equal(t, smc.DeliveryPending, first.State)
	require.Equal(t, first, open(), "another attempt goes on")
	waiting, ended := other.WorkChanged(target)
	require.NoError(t, other.follow(f.ctx, &seen))
	ended()
	select {
	case <-waiting:
	default:
		t.Error("who follows is not told")
	}
	select {
	case <-told:
		t.Error("a store that does not follow is told")
	default:
	}
	report := func(generation int64, state agentapi.DeliveryState, code string) bool {
		t.Helper()
		superseded, err := f.ReportDelivery(f.ctx, target, agentapi.DeliveryReport{Generation: generation, State: state, Code: code, Message: code, BytesTotal: 8, BytesDone: 4})
		require.NoError(t, err)
		return superseded
	}
	require.False(t, report(first.Generation, agentapi.DeliveryDelivering, ""))
	require.EqualValues(t, 4, open().BytesDone)
	spec.HostURL = "http://elsewhere"
	moved := open()
	require.Greater(t, moved.Generation, first.Generation, "its host is elsewhere")
	require.True(t, report(first.Generation, agentapi.DeliveryDone, ""))
	require.False(t, report(moved.Generation, agentapi.DeliveryFailed, "Full"))
	require.False(t, report(moved.Generation, agentapi.DeliveryDelivering, ""), "late, and of no effect")
	failed, err := f.Delivery(f.ctx, target)
	require.NoError(t, err)
	require.Equal(t, smc.DeliveryFailed, failed.State)
	again := open()
	require.Greater(t, again.Generation, moved.Generation)
	require.False(t, report(again.Generation, agentapi.DeliveryDone, ""))
	require.Equal(t, again.Generation, open().Generation, "what is done stays done")
	require.NoError(t, f.EndProcessing(f.ctx, id, "clean", 1, "m-1", []ImageDisk{{SizeBytes: 1, DeliveredSizeBytes: 3}}))
	require.True(t, report(again.Generation, agentapi.DeliveryDone, ""))
	last, err := f.Delivery(f.ctx, target)
	require.NoError(t, err)
	require.False(t, last.Open)
	require.Equal(t, smc.DeliveryDone, last.State)
	image, err := f.Image(f.ctx, account, "m-1")
	require.NoError(t, err)
	require.EqualValues(t, 3, image.Disks[0].DeliveredSizeBytes)
	_, err = f.ReportDelivery(f.ctx, "i-none", agentapi.DeliveryReport{})
	require.ErrorIs(t, err, ErrNotFound)

	_, err = f.EndRun(f.ctx, id, "end", 1, true)
	require.NoError(t, err)
	require.NoError(t, f.DeleteTarget(f.ctx, account, target), "its job is Finished")
	_, err = f.Delivery(f.ctx, target)
	require.ErrorIs(t, err, ErrNotFound)
}
