package events

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/drover/drover/fleet"
)

var began = testTime.Add(123 * time.Nanosecond)

func migration(life time.Time, seq uint64) MigrationChanged {
	return MigrationChanged{
		AccountID: "1001", Fleet: "dc-exit", Wave: "pilot", SourceID: "s-1", Name: "web-1", Began: life, Sequence: seq,
		Phase: fleet.PhaseReplicate, PreviousPhase: fleet.PhaseStarting, JobID: "j-1", JobStatus: "Running", Runs: 1,
		Time: life.Add(time.Duration(seq) * time.Second),
	}
}

func TestMigrationEventOnTheWire(t *testing.T) {
	rec, err := NewRecord(migration(began, 7))
	require.NoError(t, err)
	require.Equal(t, "drover.v1.1001.migration.dc-exit.s-1", rec.Subject)
	require.JSONEq(t, `{
		"specversion": "1.0",
		"id": "1001/dc-exit/s-1/1772359200000000123/7",
		"source": "/drover/1001",
		"type": "drover.migration.phase.v1",
		"subject": "dc-exit/s-1",
		"time": "2026-03-01T10:00:07.000000123Z",
		"datacontenttype": "application/json",
		"dataschema": "https://raw.githubusercontent.com/drover/drover/main/events/schemas/drover.migration.phase.v1.json#data",
		"sequence": "00000000000000000007",
		"life": "01772359200000000123",
		"data": {
			"AccountId": "1001", "Fleet": "dc-exit", "Wave": "pilot", "SourceId": "s-1", "Name": "web-1",
			"Began": "2026-03-01T10:00:00.000000123Z", "Sequence": 7, "Phase": "Replicating", "PreviousPhase": "Starting",
			"JobId": "j-1", "JobStatus": "Running", "Runs": 1, "Attempts": 0, "Time": "2026-03-01T10:00:07.000000123Z"
		}
	}`, string(rec.Data))
	require.Equal(t, map[string]string{
		"Content-Type": "application/cloudevents+json", "Nats-Msg-Id": "1001/dc-exit/s-1/1772359200000000123/7",
		"Drover-Phase": "Replicating", "Drover-Life": "1772359200000000123", "Drover-Sequence": "7",
	}, rec.Headers)

	ce, err := Decode(rec.Data)
	require.NoError(t, err)
	out, err := Event{CloudEvent: ce}.MigrationChanged()
	require.NoError(t, err)
	require.Equal(t, migration(began, 7), out)
}

func TestFleetEventOnTheWire(t *testing.T) {
	in := FleetChanged{
		AccountID: "1001", Fleet: "dc-exit", Began: began, Sequence: 2, Status: fleet.Paused, PreviousStatus: fleet.Running,
		Wave: "pilot", Reason: "2 of at most 1 migrations failed", Done: 3, Failed: 2, Open: 4, Time: testTime,
	}
	rec, err := NewRecord(in)
	require.NoError(t, err)
	require.Equal(t, "drover.v1.1001.fleet.dc-exit", rec.Subject)
	require.Equal(t, "1001/dc-exit/1772359200000000123/2", rec.ID)
	require.Equal(t, "Paused", rec.Headers[HeaderFleetStatus])
	require.NotContains(t, rec.Headers, HeaderStatus)
	ce, err := Decode(rec.Data)
	require.NoError(t, err)
	require.Equal(t, "drover.fleet.status.v1", ce.Type())
	out, err := Event{CloudEvent: ce}.FleetChanged()
	require.NoError(t, err)
	require.Equal(t, in, out)
}

func TestIncompleteFleetEventsAreRefused(t *testing.T) {
	for name, spoil := range map[string]func(*MigrationChanged){
		"account": func(d *MigrationChanged) { d.AccountID = "" }, "fleet": func(d *MigrationChanged) { d.Fleet = "" },
		"source": func(d *MigrationChanged) { d.SourceID = "" }, "phase": func(d *MigrationChanged) { d.Phase = "" },
		"sequence": func(d *MigrationChanged) { d.Sequence = 0 }, "time": func(d *MigrationChanged) { d.Time = time.Time{} },
		"beginning": func(d *MigrationChanged) { d.Began = time.Time{} },
	} {
		d := migration(began, 1)
		spoil(&d)
		err := PublishOnce(t.Context(), nil, d)
		require.ErrorIs(t, err, ErrInvalidEvent, name)
		require.ErrorContains(t, err, name)
		require.True(t, Permanent(err))
	}
	_, err := NewRecord(FleetChanged{AccountID: "1", Fleet: "f", Began: began, Sequence: 1, Time: testTime})
	require.ErrorContains(t, err, "no status")
}

// places reads where the events of the stream stand: life, counted from the first one there is, and sequence.
func places(t *testing.T, js jetstream.JetStream, cfg SubscribeConfig) (next func() string, stop func()) {
	t.Helper()
	got := make(chan string, 100)
	cfg.Stream = DroverStreamName
	stop = goRun(t, func(ctx context.Context) error {
		return Subscribe(ctx, js, cfg, func(_ context.Context, ev Event) error {
			d, err := ev.MigrationChanged()
			got <- fmt.Sprintf("%d.%d", int(d.Began.Sub(began).Hours())+1, ev.Sequence)
			return err
		})
	})
	return func() string {
		select {
		case at := <-got:
			return at
		case <-time.After(patience):
			require.FailNow(t, "event missing")
			return ""
		}
	}, stop
}

func TestPublishOnceKeepsOrderWithinAndAcrossLives(t *testing.T) {
	ctx := testContext(t)
	_, js := startNATS(t).connect(testLog(t))
	pub := NewStreamPublisher(js, DroverStream())
	first, second := began, began.Add(time.Hour)
	for _, d := range []MigrationChanged{
		migration(first, 1), migration(first, 2), migration(first, 2), migration(first, 1), // retries
		migration(first, 4), migration(first, 3), // overtaken
		migration(second, 1), // the name is used again: it counts from 1
		migration(first, 5),  // a straggler of the fleet that has ended
		migration(second, 1), migration(second, 2),
	} {
		require.NoError(t, PublishOnce(ctx, pub, d))
	}
	stream, err := js.Stream(ctx, DroverStreamName)
	require.NoError(t, err)
	require.Equal(t, uint64(5), stream.CachedInfo().State.Msgs)
	require.Equal(t, []string{"drover.v1.>"}, stream.CachedInfo().Config.Subjects)
	for _, durable := range []string{"", "console"} {
		next, _ := places(t, js, SubscribeConfig{Durable: durable})
		for _, want := range []string{"1.1", "1.2", "1.4", "2.1", "2.2"} {
			require.Equal(t, want, next())
		}
	}
}

func TestPublishOnceSeveralAtOnce(t *testing.T) {
	ctx := testContext(t)
	srv := startNATS(t)
	var group errgroup.Group
	for range 4 {
		_, js := srv.connect(zap.NewNop())
		pub := NewStreamPublisher(js, DroverStream())
		group.Go(func() error {
			for seq := range uint64(25) {
				if err := PublishOnce(ctx, pub, migration(began, seq+1)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
	_, js := srv.connect(zap.NewNop())
	next, _ := places(t, js, SubscribeConfig{})
	for seq := range 25 { // each publisher stored what was not there, so none is missing
		require.Equal(t, fmt.Sprintf("1.%d", seq+1), next())
	}
	stream, err := js.Stream(ctx, DroverStreamName)
	require.NoError(t, err)
	require.Equal(t, uint64(25), stream.CachedInfo().State.Msgs)
}

func TestPublishOnceWhileNATSIsAway(t *testing.T) {
	ctx := testContext(t)
	srv := startNATS(t)
	nc, js := srv.connect(zap.NewNop())
	pub := NewStreamPublisher(js, DroverStream())
	require.NoError(t, PublishOnce(ctx, pub, migration(began, 1)))
	srv.stop()
	require.Eventually(t, func() bool { return !nc.IsConnected() }, patience, time.Millisecond)
	err := PublishOnce(ctx, pub, migration(began, 2))
	require.Error(t, err)
	require.False(t, Permanent(err))

	srv.start()
	retry := func(d MigrationChanged) {
		require.Eventually(t, func() bool { return PublishOnce(ctx, pub, d) == nil }, patience, 10*time.Millisecond)
	}
	retry(migration(began, 2))
	require.NoError(t, js.DeleteStream(ctx, DroverStreamName))
	retry(migration(began, 3)) // the stream is made again
	last, err := pub.Last(ctx, migration(began, 3).Subject().String())
	require.NoError(t, err)
	require.Equal(t, uint64(3), last.Sequence)
	require.Equal(t, uint64(began.UnixNano()), last.Life)
	require.Equal(t, uint64(1), last.StreamSeq)
}
