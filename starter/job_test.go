package main

import (
	"encoding/json"
	"io"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/smc"
	"github.com/drover/drover/starter/progress"
)

func TestJobCreate(t *testing.T) {
	e := newEndpoint(t)
	e.sources = []smc.SourceServer{{SourceID: "s-1", Name: "db-1"}}
	e.handlers["CreateReplicationJob"] = func(form url.Values) (smc.Result, error) {
		e.jobs = []smc.ReplicationJob{{JobID: "j-0123456789", Name: form.Get("Name"), SourceID: form.Get("SourceId"), Status: smc.StatusReady}}
		return &smc.CreateReplicationJobResult{JobID: "j-0123456789"}, nil
	}
	e.handlers["StartReplicationJob"] = func(url.Values) (smc.Result, error) {
		e.jobs[0].Status, e.jobs[0].BusinessStatus = smc.StatusRunning, smc.BusinessPreparing
		return &smc.StartReplicationJobResult{}, nil
	}

	o := e.drover(t, "job", "create", "--source", "db-1", "--name", "db", "--image-name", "db-image", "--system-disk-size", "40",
		"--data-disk", "1=200", "--data-disk", "2=300", "--run-once=false", "--frequency", "12", "--max-images", "3",
		"--replication-parameters", `{"bandwidth_limit":5}`, "--start")
	require.Equal(t, exitOK, o.code, o.stderr)
	assert.Equal(t, "job j-0123456789 (db) created and started: Running/Preparing\n", o.stdout)
	sent := e.called("CreateReplicationJob")[0]
	for name, want := range map[string]string{
		"RegionId": "local-1", "SourceId": "s-1", "Name": "db", "ImageName": "db-image", "SystemDiskSize": "40",
		"DataDisk.1.Index": "1", "DataDisk.1.Size": "200", "DataDisk.2.Index": "2", "DataDisk.2.Size": "300",
		"RunOnce": "false", "Frequency": "12", "MaxNumberOfImageToKeep": "3", "ReplicationParameters": `{"bandwidth_limit":5}`,
	} {
		assert.Equal(t, want, sent.Get(name), name)
	}
	assert.NotEmpty(t, sent.Get("ClientToken"))
	assert.Equal(t, "j-0123456789", e.called("StartReplicationJob")[0].Get("JobId"))

	job := parse[map[string]any](t, e.drover(t, "job", "create", "--source", "s-1", "--schedule", "2030-01-31T02:00:00+01:00", "--valid-time", "never", "-o", "json"))
	assert.Equal(t, "j-0123456789", job["JobId"])
	assert.Equal(t, "Ready", job["Status"])
	sent = e.called("CreateReplicationJob")[1]
	assert.Equal(t, "2030-01-31T01:00:00Z", sent.Get("ScheduledStartTime"))
	assert.True(t, sent.Has("ValidTime") && sent.Get("ValidTime") == "", "empty means never, absent the default")
	for _, absent := range []string{"Name", "ImageName", "SystemDiskSize", "RunOnce", "Frequency", "MaxNumberOfImageToKeep", "ReplicationParameters", "DataDisk.1.Index"} {
		assert.False(t, sent.Has(absent), "%s was not given", absent)
	}

	e.handlers["StartReplicationJob"] = func(url.Values) (smc.Result, error) {
		return nil, smc.Errorf(smc.CodeSourceServerStateInvalid, "the source is Unavailable")
	}
	o = e.drover(t, "job", "create", "--source", "s-1", "--start")
	assert.Equal(t, exitFailed, o.code)
	assert.Contains(t, o.stderr, "job j-0123456789 is created but not started")
	assert.Contains(t, o.stderr, "SourceServerState.Invalid")
}

func TestParseTime(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	at, err := parseTime("+2h30m", now)
	require.NoError(t, err)
	assert.Equal(t, "2030-01-01T02:30:00Z", at)
	for _, bad := range []string{"+-2h", "2030-01-01", "", "+"} {
		_, err := parseTime(bad, now)
		assert.Error(t, err, bad)
	}
}

func TestJobActions(t *testing.T) {
	e := newEndpoint(t)
	e.jobs = []smc.ReplicationJob{{JobID: "j-0123456789", Name: "db", Status: smc.StatusWaiting}}
	for _, test := range []struct{ args, action, says string }{
		{"start db", "StartReplicationJob", "started"},
		{"stop db", "StopReplicationJob", "stopped"},
		{"run db", "RunReplicationJob", "is running"},
		{"cutover db", "CutOverReplicationJob", "cut over"},
		{"cutover db --sync-data", "CutOverReplicationJob", "cut over"},
		{"delete db", "DeleteReplicationJob", "deleted"},
	} {
		o := e.drover(t, append([]string{"job"}, strings.Fields(test.args)...)...)
		require.Equal(t, exitOK, o.code, o.stderr)
		assert.Contains(t, o.stdout, "job j-0123456789")
		assert.Contains(t, o.stdout, test.says)
		calls := e.called(test.action)
		assert.Equal(t, "j-0123456789", calls[len(calls)-1].Get("JobId"))
	}
	cutovers := e.called("CutOverReplicationJob")
	assert.Equal(t, "false", cutovers[0].Get("SyncData"))
	assert.Equal(t, "true", cutovers[1].Get("SyncData"))

	assert.Equal(t, "Waiting", parse[map[string]any](t, e.drover(t, "job", "run", "db", "-o", "json"))["Status"])
	assert.Equal(t, map[string]any{"JobId": "j-0123456789"}, parse[map[string]any](t, e.drover(t, "job", "delete", "db", "-o", "json")))
}

func TestJobListAndShow(t *testing.T) {
	e := newEndpoint(t)
	e.jobs = []smc.ReplicationJob{{
		JobID: "j-0123456789", Name: "db", SourceID: "s-1", Status: smc.StatusRunning, BusinessStatus: smc.BusinessSyncing, Progress: 99.7,
		ImageID: "m-1", ImageName: "db-image", Frequency: 12, MaxNumberOfImageToKeep: 2, SystemDiskSize: 40,
	}}
	e.handlers["DescribeReplicationJobDetails"] = func(url.Values) (smc.Result, error) {
		return &smc.DescribeReplicationJobDetailsResult{
			JobID: "j-0123456789", Run: 2, BytesTotal: 4 << 30, BytesRead: 3 << 30, BytesSent: 1 << 30, BytesPerSecond: 100 << 20, EtaSeconds: 10, Sequence: 9,
			Runs: smc.List[smc.JobRun]{{Number: 1, Type: smc.RunManual, Status: smc.RunSucceeded, BytesRead: 4 << 30, DurationSeconds: 61, ImageID: "m-1"}},
		}, nil
	}
	o := e.drover(t, "job", "list")
	assert.Regexp(t, `j-0123456789  db    Running/Syncing       99%  100\.0 MiB/s   10s     0  s-1        m-1`, o.stdout)
	list := parse[[]map[string]any](t, e.drover(t, "job", "list", "--status", "Running", "-o", "json"))
	require.Len(t, list, 1)
	for _, field := range []string{"JobId", "Status", "BusinessStatus", "Progress", "ImageId", "SourceId", "Name", "ReplicationJobRuns"} {
		assert.Contains(t, list[0], field)
	}
	calls := e.called("DescribeReplicationJobs")
	assert.Equal(t, "Running", calls[len(calls)-1].Get("Status"))

	o = e.drover(t, "job", "show", "db")
	for _, want := range []string{
		"Status:       Running/Syncing\n", "Read:         3.0 GiB of 4.0 GiB\n", "Rate:         100.0 MiB/s\n", "Time left:    10s\n",
		"Rhythm:       every 12 h, the last 2 images are kept\n", "1  Manual  Succeeded",
	} {
		assert.Contains(t, o.stdout, want)
	}
	shown := parse[map[string]any](t, e.drover(t, "job", "show", "j-0123456789", "-o", "json"))
	for field, want := range map[string]any{"JobId": "j-0123456789", "Status": "Running", "Run": 2.0, "BytesSent": float64(1 << 30), "Sequence": 9.0} {
		assert.Equal(t, want, shown[field], field)
	}

	e.handlers["DescribeReplicationJobDetails"] = notKnown
	shown = parse[map[string]any](t, e.drover(t, "job", "show", "db", "-o", "json"))
	assert.NotContains(t, shown, "BytesSent", "an endpoint without our extensions")
	assert.Equal(t, "m-1", shown["ImageId"])
	e.handlers["DescribeReplicationJobDetails"] = func(url.Values) (smc.Result, error) {
		return nil, smc.Errorf(smc.CodeForbiddenUnauthorized, "")
	}
	for _, args := range []string{"list", "show db"} {
		o = e.drover(t, append([]string{"job"}, strings.Fields(args)...)...)
		assert.Equal(t, exitOK, o.code, "a key that may see jobs sees them: %s", o.stderr)
	}
}

func TestPatience(t *testing.T) {
	var out strings.Builder
	view := progress.NewView(io.Discard, progress.Lines)
	p := newPatience()
	require.NoError(t, p.bear(&out, view, io.EOF))
	assert.Empty(t, out.String(), "a moment is nothing to tell")
	for range 2 {
		p.heard = time.Now().Add(-time.Minute)
		require.NoError(t, p.bear(&out, view, io.EOF))
		assert.Equal(t, "drover: EOF; still trying\n", out.String(), "told once")
	}
	p.heard = time.Now().Add(-time.Hour)
	require.ErrorIs(t, p.bear(&out, view, io.EOF), io.EOF)
	p.answered()
	require.NoError(t, p.bear(&out, view, io.EOF))
}

func notKnown(url.Values) (smc.Result, error) {
	return nil, smc.Errorf(smc.CodeInvalidActionNotFound, "")
}

// watch makes DescribeReplicationJobDetails answer one detail after the other, the last for ever.
func (e *endpoint) watch(details ...smc.DescribeReplicationJobDetailsResult) {
	e.handlers["DescribeReplicationJobDetails"] = func(url.Values) (smc.Result, error) {
		d := details[0]
		if len(details) > 1 {
			details = details[1:]
		}
		return &d, nil
	}
}

func TestJobWatch(t *testing.T) {
	syncing := smc.DescribeReplicationJobDetailsResult{
		JobID: "j-0123456789", Status: smc.StatusRunning, BusinessStatus: smc.BusinessSyncing, Run: 1, Progress: 40,
		BytesTotal: 100 << 20, BytesRead: 40 << 20, BytesPerSecond: 20 << 20, EtaSeconds: 3,
	}
	rest := func(status smc.JobStatus) smc.DescribeReplicationJobDetailsResult {
		d := syncing
		d.Status, d.BusinessStatus = status, ""
		return d
	}
	inError := rest(smc.StatusInError)
	inError.ErrorCode, inError.StatusInfo = smc.CodeSourceDiskReadError, "disk 0 cannot be read"
	for _, test := range []struct {
		last   smc.DescribeReplicationJobDetailsResult
		code   int
		stderr string
	}{
		{rest(smc.StatusFinished), exitOK, ""},
		{rest(smc.StatusWaiting), exitOK, ""},
		{inError, exitFailed, "InError: SourceDisk.ReadError: disk 0 cannot be read"},
		{rest(smc.StatusStopped), exitFailed, "is Stopped"},
		{rest(smc.StatusExpired), exitFailed, "is Expired"},
	} {
		t.Run(string(test.last.Status), func(t *testing.T) {
			t.Parallel()
			e := newEndpoint(t)
			e.jobs = []smc.ReplicationJob{{JobID: "j-0123456789", Name: "web-1", SourceID: "s-1"}}
			e.watch(rest(smc.StatusReady), syncing, test.last)
			o := e.drover(t, "job", "watch", "web-1")
			assert.Equal(t, test.code, o.code)
			assert.Contains(t, o.stderr, test.stderr)
			lines := strings.Split(strings.TrimSpace(o.stdout), "\n")
			require.Len(t, lines, 3, o.stdout)
			assert.Regexp(t, `^web-1  Ready `, lines[0])
			assert.Regexp(t, `^web-1  Syncing      40%   40.0 MiB/100.0 MiB   20.0 MiB/s  ETA 3s      run 1$`, lines[1])
			assert.Regexp(t, `^web-1  `+string(test.last.Status), lines[2])
		})
	}
	t.Run("json", func(t *testing.T) {
		t.Parallel()
		e := newEndpoint(t)
		e.jobs = []smc.ReplicationJob{{JobID: "j-0123456789", Name: "web-1", SourceID: "s-1"}}
		e.watch(syncing, syncing, rest(smc.StatusFinished))
		o := e.drover(t, "job", "watch", "web-1", "-o", "json")
		require.Equal(t, exitOK, o.code, o.stderr)
		lines := strings.Split(strings.TrimSpace(o.stdout), "\n")
		require.Len(t, lines, 2, "a line for each change: %s", o.stdout)
		var first map[string]any
		require.NoError(t, json.Unmarshal([]byte(lines[0]), &first))
		for field, want := range map[string]any{
			"JobId": "j-0123456789", "Name": "web-1", "SourceId": "s-1", "Status": "Running", "BusinessStatus": "Syncing", "Progress": 40.0, "EtaSeconds": 3.0,
		} {
			assert.Equal(t, want, first[field], field)
		}
	})
	t.Run("gone", func(t *testing.T) {
		t.Parallel()
		e := newEndpoint(t)
		e.jobs = []smc.ReplicationJob{{JobID: "j-0123456789", Name: "web-1"}}
		e.handlers["DescribeReplicationJobDetails"] = func(url.Values) (smc.Result, error) {
			return nil, smc.Errorf(smc.CodeInvalidJobIDNotFound, "the job is gone")
		}
		o := e.drover(t, "job", "watch", "web-1")
		assert.Equal(t, exitFailed, o.code)
		assert.Contains(t, o.stderr, "the job is gone")
	})
	t.Run("without a name", func(t *testing.T) {
		t.Parallel()
		e := newEndpoint(t)
		e.jobs = []smc.ReplicationJob{{JobID: "j-0123456789", Status: smc.StatusInError}}
		e.watch(inError)
		o := e.drover(t, "job", "watch", "j-0123456789")
		assert.Regexp(t, `^j-0123456789  InError `, o.stdout)
		assert.Contains(t, o.stderr, "drover: job j-0123456789 is InError: ")
		assert.Contains(t, e.drover(t, "job", "list").stdout, "j-0123456789  -     InError")
	})
	t.Run("endpoint without live detail", func(t *testing.T) {
		t.Parallel()
		e := newEndpoint(t)
		e.jobs = []smc.ReplicationJob{{JobID: "j-0123456789", Name: "web-1", Status: smc.StatusFinished, Progress: 100}}
		e.handlers["DescribeReplicationJobDetails"] = notKnown
		o := e.drover(t, "job", "watch", "web-1")
		assert.Equal(t, exitOK, o.code, o.stderr)
		assert.Regexp(t, `^web-1  Finished    100%`, o.stdout)
	})
}
