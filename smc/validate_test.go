package smc

import (
	"maps"
	"strings"
	"testing"
	"time"
)

var fixedNow = time.Date(2026, 3, 1, 12, 0, 0, 250_000_000, time.UTC)

// in renders a time so far from fixedNow.
func in(d time.Duration) string { return FormatTime(fixedNow.Truncate(time.Second).Add(d)) }

const day = 24 * time.Hour

func TestCreateReplicationJobValidation(t *testing.T) {
	base := map[string]string{"RegionId": "local", "SourceId": "s-1"}
	invalid := CodeInvalidParameter
	part := func(disk, bytes string) map[string]string {
		return map[string]string{"DataDisk.1.Index": "1", "DataDisk.1.Size": disk, "DataDisk.1.Part.1.Device": "1_0", "DataDisk.1.Part.1.SizeBytes": bytes}
	}
	incremental := func(frequency, keep string) map[string]string {
		return map[string]string{"RunOnce": "false", "Frequency": frequency, "MaxNumberOfImageToKeep": keep}
	}
	one := func(name, value string) map[string]string { return map[string]string{name: value} }
	for _, c := range []struct {
		name  string
		query map[string]string
		code  string // "" when allowed
		says  string
	}{
		{"the least", nil, "", ""},
		{"no region", one("RegionId", ""), "MissingRegionId", "RegionId is missing"},
		{"no source", one("SourceId", ""), "MissingSourceId", "SourceId is missing"},

		{"name of 1", one("Name", "a"), invalid, "Name"},
		{"name of 2", one("Name", "ab"), "", ""},
		{"name of 128", one("Name", strings.Repeat("a", 128)), "", ""},
		{"name of 129", one("Name", strings.Repeat("a", 129)), invalid, "Name"},
		{"Chinese name", one("Name", "迁移任务:1_2-3"), "", ""},
		{"Chinese name of 128", one("Name", strings.Repeat("迁", 128)), "", ""},
		{"Chinese name of 129", one("Name", strings.Repeat("迁", 129)), invalid, "Name"},
		{"name with a digit first", one("Name", "1ab"), invalid, "a letter or Chinese character first"},
		{"name with a dot", one("Name", "a.b"), invalid, "Name"},
		{"name like a URL", one("Name", "http://a"), invalid, "Name"},
		{"name in Cyrillic", one("Name", "миграция"), invalid, "Name"},
		{"empty name", one("Name", ""), "", ""},
		{"description with a blank", one("Description", "a b"), invalid, "Description"},
		{"image name", one("ImageName", "web-01:golden"), "", ""},
		{"image name of 1", one("ImageName", "w"), invalid, "ImageName"},

		{"client token of 64", one("ClientToken", strings.Repeat("x", 64)), "", ""},
		{"client token of 65", one("ClientToken", strings.Repeat("x", 65)), invalid, "ClientToken has 65 characters"},
		{"client token not ASCII", one("ClientToken", "tökén"), invalid, "ASCII"},

		{"system disk of 19", one("SystemDiskSize", "19"), invalid, "SystemDiskSize: 19 is not allowed; allowed: 20 to 2048"},
		{"system disk of 20", one("SystemDiskSize", "20"), "", ""},
		{"system disk of 2048", one("SystemDiskSize", "2048"), "", ""},
		{"system disk of 2049", one("SystemDiskSize", "2049"), invalid, "SystemDiskSize"},
		{"negative system disk", one("SystemDiskSize", "-20"), invalid, "SystemDiskSize"},

		{"data disk index 0", one("DataDisk.1.Index", "0"), invalid, "DataDisk.1.Index"},
		{"data disk index 1", one("DataDisk.1.Index", "1"), "", ""},
		{"data disk index 16", one("DataDisk.1.Index", "16"), "", ""},
		{"data disk index 17", one("DataDisk.1.Index", "17"), invalid, "DataDisk.1.Index"},
		{"data disk without index", one("DataDisk.1.Size", "40"), CodeMissingParameter, "DataDisk.1.Index is missing"},
		{"data disk of 19", map[string]string{"DataDisk.1.Index": "1", "DataDisk.1.Size": "19"}, invalid, "DataDisk.1.Size"},
		{"data disk of 32768", map[string]string{"DataDisk.1.Index": "1", "DataDisk.1.Size": "32768"}, "", ""},
		{"data disk of 32769", map[string]string{"DataDisk.1.Index": "1", "DataDisk.1.Size": "32769"}, invalid, "DataDisk.1.Size"},
		{
			"repeated index",
			map[string]string{"DataDisk.1.Index": "3", "DataDisk.2.Index": "3"},
			CodeDataDiskDuplicateIndex, "DataDisk.2.Index: 3 is the index of DataDisk.1 already",
		},

		{"partition as large as the disk", part("20", "21474836480"), "", ""},
		{"partition larger than the disk", part("20", "21474836481"), invalid, "DataDisk.1.Part.1.SizeBytes"},
		{"partition near the largest number", part("20", "9223372036854775807"), invalid, "DataDisk.1.Part.1.SizeBytes"},
		{
			"partitions together too large",
			map[string]string{
				"SystemDiskSize": "20", "SystemDiskPart.1.Device": "0_0", "SystemDiskPart.1.SizeBytes": "21474836480",
				"SystemDiskPart.2.Device": "0_1", "SystemDiskPart.2.SizeBytes": "1",
			},
			invalid, "SystemDiskPart.2.SizeBytes",
		},
		{"device without size", one("SystemDiskPart.1.Device", "0_0"), CodeMissingParameter, "SystemDiskPart.1.SizeBytes is missing"},
		{"size without device", one("SystemDiskPart.1.SizeBytes", "1"), CodeMissingParameter, "SystemDiskPart.1.Device is missing"},
		{
			"repeated device",
			map[string]string{"SystemDiskPart.1.Device": "0_0", "SystemDiskPart.1.SizeBytes": "1", "SystemDiskPart.2.Device": "0_0", "SystemDiskPart.2.SizeBytes": "2"},
			invalid, `SystemDiskPart.2.Device: "0_0" is the device of SystemDiskPart.1 already`,
		},
		{"neither", one("SystemDiskPart.1.Block", "false"), "", ""},
		{"partition of 0", map[string]string{"SystemDiskPart.1.Device": "0_0", "SystemDiskPart.1.SizeBytes": "0"}, invalid, "SystemDiskPart.1.SizeBytes"},

		{"target in another case", one("TargetType", "containerimage"), "", ""},
		{"unknown target", one("TargetType", "Tape"), invalid, `TargetType: "Tape"`},
		{"instance without its id", one("TargetType", "Instance"), "MissingInstanceId", "InstanceId"},
		{"instance with its id", map[string]string{"TargetType": "Instance", "InstanceId": "i-1"}, "", ""},

		{"net mode 0", one("NetMode", "0"), "", ""},
		{"net mode 1", one("NetMode", "1"), invalid, `NetMode: "1" is not allowed; it must be 0 or 2`},
		{"net mode 2 without switch", one("NetMode", "2"), "MissingVSwitchId", "VSwitchId"},
		{"net mode 2", map[string]string{"NetMode": "2", "VSwitchId": "vsw-1"}, "", ""},

		{"incremental at the least", incremental("1", "1"), "", ""},
		{"incremental at the most", incremental("168", "10"), "", ""},
		{"frequency 0", incremental("0", "1"), invalid, "Frequency"},
		{"frequency 169", incremental("169", "1"), invalid, "Frequency"},
		{"keep 0", incremental("1", "0"), invalid, "MaxNumberOfImageToKeep"},
		{"keep 11", incremental("1", "11"), invalid, "MaxNumberOfImageToKeep"},
		{"incremental without frequency", map[string]string{"RunOnce": "false", "MaxNumberOfImageToKeep": "1"}, "MissingFrequency", "1 to 168"},
		{"incremental without keep", map[string]string{"RunOnce": "false", "Frequency": "1"}, "MissingMaxNumberOfImageToKeep", "1 to 10"},

		{"parameters of the driver", one("ReplicationParameters", `{"bandwidth_limit":0,"compress_level":1,"checksum":true}`), "", ""},
		{"parameters in the old form", one("ReplicationParameters", "BandWidthLimit:0"), invalid, "ReplicationParameters"},
		{"parameters over 2048", one("ReplicationParameters", `{"x":"`+strings.Repeat("x", 2048)+`"}`), invalid, "ReplicationParameters"},

		{"start now", one("ScheduledStartTime", in(0)), invalid, "ScheduledStartTime"},
		{"start in a second", one("ScheduledStartTime", in(time.Second)), "", ""},
		{"start in 30 days", one("ScheduledStartTime", in(30*day)), "", ""},
		{"start later", one("ScheduledStartTime", in(30*day+time.Second)), invalid, "ScheduledStartTime"},
		{"start in the past", one("ScheduledStartTime", in(-day)), invalid, "ScheduledStartTime"},
		{"start without a time", one("ScheduledStartTime", ""), "", ""},
		{"start in another form", one("ScheduledStartTime", "2026-03-02 12:00:00"), invalid, "must be a UTC time"},
		{"start with an offset", one("ScheduledStartTime", "2026-03-02T12:00:00+08:00"), invalid, "must be a UTC time"},
		{"start with a fraction", one("ScheduledStartTime", "2026-03-02T12:00:00.5Z"), invalid, "must be a UTC time"},

		{"valid for 7 days less a second", one("ValidTime", in(7*day-time.Second)), invalid, "7 to 90 days"},
		{"valid for 7 days", one("ValidTime", in(7*day)), "", ""},
		{"valid for 90 days", one("ValidTime", in(90*day)), "", ""},
		{"valid for 90 days and a second", one("ValidTime", in(90*day+time.Second)), invalid, "7 to 90 days"},
		{"valid for ever", one("ValidTime", ""), "", ""},
		{"valid time spelled as in the documents", one("VaildTime", in(day)), invalid, "ValidTime"},

		{"job type 0", one("JobType", "0"), "", ""},
		{"job type 1", one("JobType", "1"), CodeUnsupportedFeature, "JobType: 1"},
		{"job type 3", one("JobType", "3"), CodeUnsupportedFeature, "JobType: 3"},
		{"job type 4", one("JobType", "4"), invalid, "JobType"},
		{"disks", one("Disks.System.Size", "40"), CodeUnsupportedFeature, "Disks"},

		{"tag", map[string]string{"Tag.1.Key": "k", "Tag.1.Value": "v"}, "", ""},
		{"tag without value", one("Tag.1.Key", "k"), "", ""},
		{"tag without key", one("Tag.1.Value", "v"), CodeInvalidParameterTagValue, "Tag.1.Value"},
		{"tag key of 129", one("Tag.1.Key", strings.Repeat("k", 129)), invalid, "Tag.1.Key"},
		{"tag key of the vendor", one("Tag.1.Key", "ACS:x"), invalid, "Tag.1.Key"},
		{"tag key twice", map[string]string{"Tag.1.Key": "k", "Tag.2.Key": "k"}, invalid, "Tag.2.Key"},
		{"id of 257", one("SourceId", strings.Repeat("s", 257)), invalid, "SourceId has 257 characters"},
		{"control characters", one("InstanceType", "a\x00b"), invalid, "InstanceType: control characters"},
	} {
		t.Run(c.name, func(t *testing.T) {
			query := maps.Clone(base)
			maps.Copy(query, c.query)
			req, err := CreateReplicationJob.Decode(flat(query))
			if err == nil {
				err = CreateReplicationJob.Validate(req, fixedNow)
			}
			if err == nil {
				err = req.ValidateTimes(fixedNow)
			}
			if CodeOf(err) != c.code || (err != nil && c.code == "") {
				t.Fatalf("got %v, want %q", err, c.code)
			}
			if err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %q, want it to say %q", err, c.says)
			}
		})
	}
}

func TestOtherValidation(t *testing.T) {
	for _, c := range []struct {
		op    AnyOperation
		query map[string]string
		code  string
	}{
		{StartReplicationJob, nil, "MissingJobId"},
		{StartReplicationJob, map[string]string{"JobId": "j-1"}, ""},
		{CutOverReplicationJob, map[string]string{"JobId": "j-1", "SyncData": "yes"}, CodeInvalidParameter},
		{DescribeReplicationJobs, map[string]string{"PageNumber": "0"}, CodeInvalidParameter},
		{DescribeReplicationJobs, map[string]string{"PageSize": "50", "PageNumber": "1"}, ""},
		{DescribeReplicationJobs, map[string]string{"PageSize": "51"}, CodeInvalidParameter},
		{DescribeReplicationJobs, map[string]string{"PageSize": "0"}, CodeInvalidParameter},
		{DescribeReplicationJobs, map[string]string{"Status": "running"}, CodeInvalidParameter},
		{DescribeReplicationJobs, map[string]string{"Status": ""}, ""},
		{DescribeReplicationJobs, map[string]string{"JobId.1": ""}, ""},
		{DescribeReplicationJobs, map[string]string{"JobId.51": "j"}, CodeInvalidParameter},
		{DescribeSourceServers, map[string]string{"State": "InUse", "Tag.1.Value": "v"}, ""},
		{CreateAccessToken, map[string]string{"Count": "1", "TimeToLiveInDays": "1"}, ""},
		{CreateAccessToken, map[string]string{"Count": "1000", "TimeToLiveInDays": "90"}, ""},
		{CreateAccessToken, map[string]string{"Count": "1001"}, CodeInvalidParameter},
		{CreateAccessToken, map[string]string{"Count": "0"}, CodeInvalidParameter},
		{CreateAccessToken, map[string]string{"TimeToLiveInDays": "91"}, CodeInvalidParameter},
		{ModifySourceServerAttribute, map[string]string{"SourceId": "s", "Description": strings.Repeat("d", 256)}, ""},
		{ModifySourceServerAttribute, map[string]string{"SourceId": "s", "Description": strings.Repeat("d", 257)}, CodeInvalidParameter},
		{ModifySourceServerAttribute, map[string]string{"SourceId": "s", "Description": "HTTPS://x"}, CodeInvalidParameter},
		{CreateWorkgroup, map[string]string{"Name": "wave.1"}, ""},
		{CreateWorkgroup, map[string]string{"Name": strings.Repeat("w", 65)}, CodeInvalidParameter},
		{CreateWorkgroup, map[string]string{"Description": "d"}, CodeInvalidParameter},
		{AssociateSourceServers, map[string]string{"WorkgroupId": "w"}, "MissingSourceId"},
		{TagResources, map[string]string{"ResourceId.1": "s", "Tag.1.Key": "k"}, CodeMissingParameterResourceType},
		{TagResources, map[string]string{"ResourceType": "SourceServer", "ResourceId.1": "s", "Tag.1.Key": "k"}, ""},
		{TagResources, map[string]string{"ResourceType": "image", "ResourceId.1": "s", "Tag.1.Key": "k"}, CodeInvalidResourceTypeNotFound},
		{TagResources, map[string]string{"ResourceType": "sourceserver", "ResourceId.1": "s"}, "MissingTag"},
		{TagResources, map[string]string{"ResourceType": "sourceserver", "ResourceId.1": "s", "Tag.1.Value": "v"}, CodeInvalidParameterTagValue},
		{UntagResources, map[string]string{"ResourceType": "sourceserver", "ResourceId.1": "s", "ResourceId.2": "s"}, CodeDuplicateResourceID},
		{UntagResources, map[string]string{"ResourceType": "sourceserver", "ResourceId.1": "s", "TagKey.1": strings.Repeat("k", 128)}, ""},
		{UntagResources, map[string]string{"ResourceType": "sourceserver", "ResourceId.1": "s", "TagKey.1": strings.Repeat("k", 129)}, CodeInvalidParameter},
		{ListTagResources, map[string]string{"ResourceType": "replicationjob", "Tag.1.Value": "v"}, CodeInvalidParameterTagValue},
		{CreateCrossZoneMigrationJob, map[string]string{"RegionId": "r"}, CodeUnsupportedFeature},
		{ModifyReplicationJobAttribute, map[string]string{"JobId": "j", "DataDisk.1.Index": "1", "DataDisk.2.Index": "1"}, CodeDataDiskDuplicateIndex},
		{ModifyReplicationJobAttribute, map[string]string{"JobId": "j", "ScheduledStartTime": in(-day)}, CodeInvalidParameter},
		{GetImageTicket, nil, "MissingImageId"},
		{DeleteImage, nil, "MissingImageId"},
	} {
		req, err := c.op.DecodeRequest(flat(c.query))
		if err == nil {
			err = c.op.ValidateRequest(req, fixedNow)
		}
		if CodeOf(err) != c.code || (err != nil && c.code == "") {
			t.Errorf("%s %v: got %v, want %q", c.op.Name(), c.query, err, c.code)
		}
	}
}

func TestCreateReplicationJobDefaults(t *testing.T) {
	var r CreateReplicationJobRequest
	created := fixedNow.Truncate(time.Second)
	if got := r.Expiry(fixedNow); !got.Equal(created.Add(30 * day)) {
		t.Errorf("ValidTime absent: %v", got)
	}
	r.ValidTime = new("")
	if got := r.Expiry(fixedNow); !got.IsZero() {
		t.Errorf("ValidTime empty: %v", got)
	}
	r.ValidTime = new(in(8 * day))
	if got := r.Expiry(fixedNow); !got.Equal(created.Add(8 * day)) {
		t.Errorf("ValidTime given: %v", got)
	}
	if !r.RunsOnce() || r.Target() != TargetImage || !r.ScheduledStart().IsZero() || !(PartTarget{}).BlockOrDefault() {
		t.Errorf("defaults: %v %v %v", r.RunsOnce(), r.Target(), r.ScheduledStart())
	}
	if n, s := PageOf(nil, nil); n != 1 || s != 10 {
		t.Errorf("page %d of %d", n, s)
	}
}

func TestTimes(t *testing.T) {
	if got := FormatTime(time.Date(2026, 1, 2, 11, 4, 5, 999, time.FixedZone("", 8*3600))); got != "2026-01-02T03:04:05Z" {
		t.Errorf("got %s", got)
	}
	if got := FormatTime(time.Time{}); got != "" {
		t.Errorf("zero time: %q", got)
	}
}
