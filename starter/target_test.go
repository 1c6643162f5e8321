package main

import (
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/smc"
)

func TestTargets(t *testing.T) {
	e := newEndpoint(t)
	e.targets = []smc.Instance{
		{
			InstanceID: "i-1", Name: "rack-7", State: smc.InstanceAvailable, JobID: "j-1", Platform: "Debian", Architecture: "x86_64",
			Disks:         smc.List[smc.InstanceDisk]{{Path: "/dev/sda", SizeBytes: 1 << 30}, {Index: 1, Path: "/dev/sdb", SizeBytes: 2 << 30, HoldsData: true}, {Index: 2, Path: "/dev/sdc"}},
			DeliveryState: smc.DeliveryDelivering, BytesTotal: 4 << 30, BytesDone: 1 << 30, BytesFetched: 1 << 20, ImageID: "m-1",
		},
		{InstanceID: "i-2", Name: "rack-8", State: smc.InstanceUnavailable, DeliveryState: smc.DeliveryFailed, DeliveryInfo: "disk 0 is mounted"},
	}
	o := e.drover(t, "target", "list")
	require.Equal(t, exitOK, o.code, o.stderr)
	assert.Regexp(t, `i-1 +rack-7 +Available +Debian +1\.0 GiB, 2\.0 GiB\*, 0 B +j-1 +Delivering 25%`, o.stdout)
	assert.Regexp(t, `i-2 +rack-8 +Unavailable +- +Failed`, o.stdout)
	o = e.drover(t, "target", "show", "rack-7")
	require.Equal(t, exitOK, o.code, o.stderr)
	for _, words := range []string{"/dev/sda, 1.0 GiB", "/dev/sdb, 2.0 GiB, holds data", "/dev/sdc, cannot be opened", "1.0 MiB of 4.0 GiB", "Debian x86_64"} {
		assert.Contains(t, o.stdout, words)
	}
	o = e.drover(t, "target", "show", "i-2")
	require.Equal(t, exitOK, o.code, o.stderr)
	assert.Contains(t, o.stdout, "disk 0 is mounted")
	o = e.drover(t, "target", "delete", "rack-8")
	require.Equal(t, exitOK, o.code, o.stderr)
	assert.Equal(t, "target instance i-2 (rack-8) deleted\n", o.stdout)
	assert.Equal(t, "i-2", e.called("DeleteTargetInstance")[0].Get("InstanceId"))
	o = e.drover(t, "target", "show", "rack-9")
	assert.NotEqual(t, exitOK, o.code)
	assert.Contains(t, o.stderr, `no target instance has the id or name "rack-9"`)
}

// A job that migrates to a target instance names its data disks without sizes, and shows whose they are.
func TestJobsOfTargets(t *testing.T) {
	e := newEndpoint(t)
	e.sources = []smc.SourceServer{{SourceID: "s-1", Name: "web-1"}}
	e.jobs = []smc.ReplicationJob{{JobID: "j-1", Name: "web-1", Status: smc.StatusReady, RunOnce: true, TargetType: smc.TargetInstance, InstanceID: "i-1", DataDisks: smc.List[smc.DataDisk]{{Index: 1}}}}
	e.handlers["CreateReplicationJob"] = func(url.Values) (smc.Result, error) { return &smc.CreateReplicationJobResult{JobID: "j-1"}, nil }
	o := e.drover(t, "job", "create", "--source", "web-1", "--target-type", "TargetInstance", "--instance-id", "i-1", "--data-disk", "1")
	require.Equal(t, exitOK, o.code, o.stderr)
	created := e.called("CreateReplicationJob")[0]
	assert.Equal(t, "1", created.Get("DataDisk.1.Index"))
	assert.False(t, created.Has("DataDisk.1.Size"))
	o = e.drover(t, "job", "show", "j-1")
	require.Equal(t, exitOK, o.code, o.stderr)
	assert.Regexp(t, `System disk: +that of the target instance`, o.stdout)
	assert.Regexp(t, `Data disk 1: +that of the target instance`, o.stdout)
}
