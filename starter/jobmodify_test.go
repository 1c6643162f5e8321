package main

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/smc"
)

func TestJobModify(t *testing.T) {
	e := newEndpoint(t)
	e.jobs = []smc.ReplicationJob{{JobID: "j-0123456789", Name: "db", Status: smc.StatusReady}}
	o := e.drover(t, "job", "modify", "db", "--name", "db-2", "--description", "", "--image-name", "db-image", "--system-disk-size", "60",
		"--data-disk", "2=300", "--part", "0_0=1000", "--part", "2_0=2000,block=false", "--part", "1_1=3000", "--part", "2_1=4000,block=true",
		"--frequency", "6", "--max-images", "5", "--replication-parameters", `{"checksum":false}`,
		"--schedule", "2030-01-31T02:00:00+01:00", "--valid-time", "never", "--target-type", "Image", "--instance-id", "i-1",
		"--instance-type", "small", "--instance-ram-role", "role", "--launch-template-id", "lt-1", "--launch-template-version", "2",
		"--container-namespace", "ns", "--container-repository", "repo", "--container-tag", "latest", "--net-mode", "2",
		"--vswitch-id", "vsw-1", "--vpc-id", "vpc-1")
	require.Equal(t, exitOK, o.code, o.stderr)
	assert.Equal(t, "job j-0123456789 (db) modified: Ready\n", o.stdout)
	sent := e.called("ModifyReplicationJobAttribute")[0]
	for name, want := range map[string]string{
		"JobId": "j-0123456789", "Name": "db-2", "Description": "", "ImageName": "db-image", "SystemDiskSize": "60",
		"SystemDiskPart.1.Device": "0_0", "SystemDiskPart.1.SizeBytes": "1000",
		"DataDisk.1.Index": "2", "DataDisk.1.Size": "300", "DataDisk.1.Part.1.Device": "2_0", "DataDisk.1.Part.1.SizeBytes": "2000",
		"DataDisk.1.Part.1.Block": "false", "DataDisk.1.Part.2.Device": "2_1", "DataDisk.1.Part.2.Block": "true",
		"DataDisk.2.Index": "1", "DataDisk.2.Part.1.Device": "1_1", "DataDisk.2.Part.1.SizeBytes": "3000",
		"Frequency": "6", "MaxNumberOfImageToKeep": "5", "ReplicationParameters": `{"checksum":false}`,
		"ScheduledStartTime": "2030-01-31T01:00:00Z", "ValidTime": "", "TargetType": "Image", "InstanceId": "i-1", "InstanceType": "small",
		"InstanceRamRole": "role", "LaunchTemplateId": "lt-1", "LaunchTemplateVersion": "2", "ContainerNamespace": "ns",
		"ContainerRepository": "repo", "ContainerTag": "latest", "NetMode": "2", "VSwitchId": "vsw-1", "VpcId": "vpc-1",
	} {
		assert.True(t, sent.Has(name), name)
		assert.Equal(t, want, sent.Get(name), name)
	}
	assert.False(t, sent.Has("DataDisk.2.Size"), "a disk of which only a part is given keeps its own size")

	// Whatever the contract lets one modify has its flag.
	var reached []string
	for name := range sent {
		reached = append(reached, regexp.MustCompile(`\.[0-9]+`).ReplaceAllString(name, ".N"))
	}
	for _, p := range smc.ModifyReplicationJobAttribute.Parameters() {
		if !strings.HasPrefix(p.Name, "SystemDiskPart.N.Block") {
			assert.True(t, slices.Contains(reached, p.Name), "no flag for %s", p.Name)
		}
	}
}

func TestJobModifySendsWhatIsGiven(t *testing.T) {
	e := newEndpoint(t)
	e.jobs = []smc.ReplicationJob{{JobID: "j-0123456789", Name: "db", Status: smc.StatusReady}}
	job := parse[map[string]any](t, e.drover(t, "job", "modify", "db", "--schedule", "never", "-o", "json"))
	assert.Equal(t, "j-0123456789", job["JobId"])
	sent := e.called("ModifyReplicationJobAttribute")[0]
	assert.True(t, sent.Has("ScheduledStartTime") && sent.Get("ScheduledStartTime") == "", "by hand only")
	for _, p := range smc.ModifyReplicationJobAttribute.Parameters() {
		assert.Equal(t, p.Name == "JobId" || p.Name == "ScheduledStartTime", sent.Has(p.Name), p.Name)
	}
	for _, test := range []struct{ args, want string }{
		{"job modify db", "nothing to change is given"},
		{"job modify db --frequency x", "must be a whole number"},
		{"job modify db --schedule tomorrow", "--schedule"},
		{"job modify db --valid-time tomorrow", "--valid-time"},
		{"job modify db --data-disk x", "is not INDEX=GIB"},
		{"job modify db --part 1_0", "is not DEVICE=BYTES"},
		{"job modify db --part sda1=5", "is not DEVICE=BYTES"},
		{"job modify db --part 1_0=5,block=no", "is not DEVICE=BYTES"},
		{"job modify db --part 1_0=99999999999999999999", "more than any disk has"},
		{"job modify --name db", "JOB is missing"},
	} {
		o := e.drover(t, strings.Fields(test.args)...)
		assert.Equal(t, exitUsage, o.code, test.args)
		assert.Contains(t, o.stderr, test.want, test.args)
	}
	assert.Len(t, e.called("ModifyReplicationJobAttribute"), 1)
}
