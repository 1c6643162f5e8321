package events

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestJobEventOnTheWire(t *testing.T) {
	rec := jobRecord(t, 7, 3)
	require.Equal(t, "smc.v1.1001.local.job."+jobID(7), rec.Subject)
	require.JSONEq(t, `{
		"specversion": "1.0",
		"id": "j-000000000000000007/3",
		"source": "/smc/1001/local",
		"type": "smc.job.status.v1",
		"subject": "j-000000000000000007",
		"time": "2026-03-01T10:00:03Z",
		"datacontenttype": "application/json",
		"dataschema": "https://raw.githubusercontent.com/drover/drover/main/events/schemas/smc.job.status.v1.json#data",
		"sequence": "00000000000000000003",
		"data": {
			"AccountId": "1001", "RegionId": "local", "JobId": "j-000000000000000007", "SourceId": "s-1", "Name": "web",
			"Sequence": 3, "Change": "Phase", "Status": "Running", "BusinessStatus": "Syncing", "PreviousStatus": "Running",
			"Run": 1, "RunType": "Manual", "Progress": 12.5, "Time": "2026-03-01T10:00:03Z"
		}
	}`, string(rec.Data))
	require.Equal(t, map[string]string{
		"Content-Type": "application/cloudevents+json", "Smc-Status": "Running", "Smc-Business-Status": "Syncing",
		"Smc-Sequence": "3", "Nats-Msg-Id": "j-000000000000000007/3",
	}, rec.Headers)
	again := jobRecord(t, 7, 3)
	require.Equal(t, rec, again, "the same transition must always give the same event")
}

func TestSourceEventRoundTrip(t *testing.T) {
	in := SourceStateChanged{
		AccountID: "acme/eu", RegionID: "local", SourceID: "s-9", Name: "db", Sequence: 12, Change: SourceOffline, State: "Unavailable",
		PreviousState: "Available", ErrorCode: "SourceServer.Offline", StatusInfo: "three heartbeats missed",
		Time: time.Date(2026, 3, 1, 12, 0, 0, 5, time.FixedZone("", 7200)),
	}
	rec, err := NewRecord(in)
	require.NoError(t, err)
	require.Equal(t, "Unavailable", rec.Headers[HeaderStatus])
	require.NotContains(t, rec.Headers, HeaderBusinessStatus)

	ce, err := Decode(rec.Data)
	require.NoError(t, err)
	require.Equal(t, "/smc/acme%2Feu/local", ce.Source())
	seq, err := Sequence(ce)
	require.NoError(t, err)
	require.Equal(t, uint64(12), seq)
	out, err := Event{CloudEvent: ce}.SourceStateChanged()
	require.NoError(t, err)
	in.Time = in.Time.UTC()
	require.Equal(t, in, out)
	_, err = Event{CloudEvent: ce}.JobStatusChanged()
	require.ErrorIs(t, err, ErrInvalidEvent)
}

func TestIncompleteEventsAreRefused(t *testing.T) {
	for name, spoil := range map[string]func(*JobStatusChanged){
		"account": func(d *JobStatusChanged) { d.AccountID = "" }, "region": func(d *JobStatusChanged) { d.RegionID = "" },
		"id": func(d *JobStatusChanged) { d.JobID = "" }, "change": func(d *JobStatusChanged) { d.Change = "" }, "status": func(d *JobStatusChanged) { d.Status = "" },
		"sequence": func(d *JobStatusChanged) { d.Sequence = 0 }, "time": func(d *JobStatusChanged) { d.Time = time.Time{} },
	} {
		d := jobEvent(1, 1)
		spoil(&d)
		_, err := NewRecord(d)
		require.ErrorIs(t, err, ErrInvalidEvent, name)
		require.ErrorContains(t, err, name)
	}
	for _, data := range []string{"", "{}", `{"specversion":"1.0","id":"x"}`, "[]"} {
		_, err := Decode([]byte(data))
		require.ErrorIs(t, err, ErrInvalidEvent, data)
	}
}
