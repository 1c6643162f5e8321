package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/events"
	"github.com/drover/drover/smc"
)

// eventStream is a NATS server with the stream of events.
type eventStream struct {
	url       string
	publisher *events.Publisher
	last      map[string]uint64
}

func newEventStream(t *testing.T) *eventStream {
	t.Helper()
	srv, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
	})
	require.NoError(t, err)
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	require.True(t, srv.ReadyForConnections(time.Minute))
	nc, err := nats.Connect(srv.ClientURL())
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	_, err = events.EnsureStream(t.Context(), js, events.StreamConfig{})
	require.NoError(t, err)
	return &eventStream{url: srv.ClientURL(), publisher: events.NewPublisher(js, ""), last: map[string]uint64{}}
}

func (s *eventStream) publish(t *testing.T, p events.Payload) {
	t.Helper()
	r, err := events.NewRecord(p)
	require.NoError(t, err)
	r.PrevStreamSeq = s.last[r.Subject]
	s.last[r.Subject], err = s.publisher.Publish(t.Context(), r)
	require.NoError(t, err)
}

func (s *eventStream) job(t *testing.T, id string, seq uint64, status, phase string) {
	t.Helper()
	s.publish(t, events.JobStatusChanged{
		AccountID: "1", RegionID: "local-1", JobID: id, Name: "web", Run: 1, Sequence: seq, Change: events.JobPhase, Status: status, BusinessStatus: phase, Time: time.Unix(int64(seq), 0),
	})
}

// screen is where a command that goes on writes.
type screen struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestEventsTail(t *testing.T) {
	e, s := newEndpoint(t), newEventStream(t)
	e.jobs = []smc.ReplicationJob{{JobID: "j-0123456789", Name: "web"}}
	env := e.env()
	env["NATS_URL"] = s.url

	o := droverWith(t, env, "events", "tail", "--follow=false")
	require.Equal(t, exitOK, o.code, o.stderr)
	assert.Empty(t, o.stdout, "the stream has nothing, and nothing is waited for")

	s.job(t, "j-0123456789", 1, "Ready", "")
	s.publish(t, events.SourceStateChanged{AccountID: "1", RegionID: "local-1", SourceID: "s-1", Sequence: 1, Change: events.SourceTaken, State: "InUse", Name: "web-1", Time: time.Unix(1, 0)})
	s.job(t, "j-0123456789", 2, "Running", "Syncing")
	s.job(t, "j-9876543210", 1, "Ready", "")

	o = droverWith(t, env, "events", "tail", "--follow=false")
	require.Equal(t, exitOK, o.code, o.stderr)
	assert.Equal(t, 5, strings.Count(o.stdout, "\n"), "a header and all events")
	assert.Regexp(t, `(?m)job +j-0123456789 +2  Phase +Running/Syncing +web  run 1$`, o.stdout)
	assert.Regexp(t, `(?m)source +s-1 +1  Taken +InUse +web-1$`, o.stdout)

	for _, args := range [][]string{{"--job", "web"}, {"--job", "j-0123456789"}, {"--subject", "smc.v1.*.*.job.j-0123456789"}} {
		o = droverWith(t, env, append([]string{"events", "tail", "--follow=false", "-o", "json"}, args...)...)
		require.Equal(t, exitOK, o.code, o.stderr)
		lines := strings.Split(strings.TrimSpace(o.stdout), "\n")
		require.Len(t, lines, 2, args)
		for i, line := range lines {
			var ev map[string]any
			require.NoError(t, json.Unmarshal([]byte(line), &ev), line)
			assert.Equal(t, "1.0", ev["specversion"], "a CloudEvent")
			assert.Equal(t, "j-0123456789", ev["subject"])
			assert.Equal(t, float64(i+1), ev["data"].(map[string]any)["Sequence"])
		}
	}
	for _, args := range [][]string{{"--from", "3"}, {"--since", time.Now().Add(time.Hour).Format(time.RFC3339)}, {"--since", "1h"}} {
		o = droverWith(t, env, append([]string{"events", "tail", "--follow=false", "-o", "json"}, args...)...)
		require.Equal(t, exitOK, o.code, o.stderr)
		assert.Equal(t, map[string]int{"3": 2, "1h": 4}[args[1]], strings.Count(o.stdout, "\n"), args)
	}
	for _, args := range [][]string{{"--since", "yesterday"}, {"--since", "1h", "--from", "3"}, {"--job", "web", "--fleet", "spring"}} {
		assert.Equal(t, exitUsage, droverWith(t, env, append([]string{"events", "tail"}, args...)...).code, args)
	}
	o = droverWith(t, env, "events", "tail", "--follow=false", "--job", "j-0000000000")
	assert.Equal(t, exitOK, o.code, o.stderr)
	assert.Empty(t, o.stdout)
}

// tailing is an events tail that goes on.
type tailing struct {
	out    screen
	cancel context.CancelFunc
	ended  chan int
}

func startTail(t *testing.T, s *eventStream, since string) *tailing {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	p := &tailing{cancel: cancel, ended: make(chan int, 1)}
	env := map[string]string{"NATS_URL": s.url}
	go func() {
		p.ended <- run(ctx, []string{"events", "tail", "--since", since, "-o", "json"}, func(n string) string { return env[n] }, &p.out, io.Discard)
	}()
	return p
}

// sequences are those of the events printed so far.
func (p *tailing) sequences() (all []int) {
	for line := range strings.Lines(p.out.String()) {
		var ev struct{ Data struct{ Sequence int } }
		if json.Unmarshal([]byte(line), &ev) == nil {
			all = append(all, ev.Data.Sequence)
		}
	}
	return all
}

func (p *tailing) interrupt(t *testing.T) {
	t.Helper()
	p.cancel()
	assert.Equal(t, exitOK, <-p.ended, "Ctrl-C is how it ends")
}

func TestEventsTailFollows(t *testing.T) {
	s := newEventStream(t)
	s.job(t, "j-0123456789", 1, "Ready", "")

	all := startTail(t, s, "all")
	require.Eventually(t, func() bool { return slices.Equal(all.sequences(), []int{1}) }, time.Minute, 10*time.Millisecond)
	s.job(t, "j-0123456789", 2, "Running", "Preparing")
	require.Eventually(t, func() bool { return slices.Equal(all.sequences(), []int{1, 2}) }, time.Minute, 10*time.Millisecond)
	all.interrupt(t)

	// That the subscription stands shows in that something comes through; until then what is published is before it.
	now, seq := startTail(t, s, "now"), uint64(2)
	require.Eventually(t, func() bool {
		seq++
		s.job(t, "j-0123456789", seq, "Running", "Preparing")
		return len(now.sequences()) > 0
	}, time.Minute, 50*time.Millisecond)
	assert.Greater(t, now.sequences()[0], 2, "what was there before is not shown")
	now.interrupt(t)
}

func TestEventsProgress(t *testing.T) {
	e, s := newEndpoint(t), newEventStream(t)
	e.jobs = []smc.ReplicationJob{{JobID: "j-0123456789", Name: "web"}}
	env := e.env()
	env["NATS_URL"] = s.url
	nc, err := nats.Connect(s.url)
	require.NoError(t, err)
	defer nc.Close()
	tell := func(job string, percent float64) {
		require.NoError(t, events.PublishProgress(nc, events.Progress{
			AccountID: "1", RegionID: "local-1", JobID: job, SourceID: "s-1", Run: 2, Status: "Running", BusinessStatus: "Syncing",
			Percent: percent, BytesTotal: 64 << 20, BytesRead: 16 << 20, BytesPerSecond: 4 << 20, ETASeconds: 12,
		}))
	}
	for _, args := range []string{"", "--job web", "--account 1 --job j-0123456789 -o json"} {
		ctx, cancel := context.WithCancel(t.Context())
		var out screen
		ended := make(chan int, 1)
		go func() {
			ended <- run(ctx, append([]string{"events", "progress"}, strings.Fields(args)...), func(name string) string { return env[name] }, &out, &out)
		}()
		// Nothing is kept: what is published before it listens is not shown.
		require.Eventually(t, func() bool {
			tell("j-9876543210", 10)
			tell("j-0123456789", 38.4)
			return strings.Contains(out.String(), "j-0123456789")
		}, 10*time.Second, 20*time.Millisecond)
		cancel()
		assert.Equal(t, exitOK, <-ended, "Ctrl-C is how it ends")
		assert.Equal(t, args == "", strings.Contains(out.String(), "j-9876543210"), out.String())
		if strings.Contains(args, "json") {
			var p events.Progress
			require.NoError(t, json.Unmarshal([]byte(strings.SplitN(out.String(), "\n", 2)[0]), &p))
			assert.InDelta(t, 38.4, p.Percent, 0)
			continue
		}
		assert.Regexp(t, `(?m)^j-0123456789 +Syncing +38% +16.0 MiB/ *64.0 MiB +4.0 MiB/s +ETA 12s +run 2  s-1$`, out.String())
	}
	assert.Equal(t, exitFailed, droverWith(t, env, "events", "progress", "--job", "nothing").code)
}

func TestProgressBoardForgetsTheSilent(t *testing.T) {
	var board progressBoard
	now := time.Unix(1000, 0)
	board.tell(now, events.Progress{JobID: "j-1", BusinessStatus: "Syncing", ETASeconds: 9})
	board.tell(now.Add(progressSilence), events.Progress{JobID: "j-2"})
	board.tell(now, events.Progress{JobID: "j-1", BusinessStatus: "Processing", ETASeconds: 9})
	states := board.states()
	require.Len(t, states, 2)
	assert.Equal(t, "Processing", states[0].Phase)
	assert.Negative(t, states[0].ETA, "the time left is that of the sync")
	assert.False(t, board.forget(now.Add(progressSilence)))
	assert.True(t, board.forget(now.Add(progressSilence+time.Second)))
	require.Len(t, board.states(), 1)
	assert.Equal(t, "j-2", board.states()[0].Name)
}

func TestEventsTailWithoutAServer(t *testing.T) {
	o := droverWith(t, map[string]string{"NATS_URL": "nats://127.0.0.1:1"}, "events", "tail")
	assert.Equal(t, exitFailed, o.code)
	assert.Contains(t, o.stderr, "nats://127.0.0.1:1")
	assert.Empty(t, o.stdout)
}

func TestEventsObserver(t *testing.T) {
	s := newEventStream(t)
	s.job(t, "j-0123456789", 1, "Ready", "")
	env := map[string]string{"NATS_URL": s.url}
	o := droverWith(t, env, "events", "observer", "add", "observer-1", "--account", "1")
	require.Equal(t, exitOK, o.code, o.stderr)
	assert.Equal(t, "observer observer-1 made on SMC\n", o.stdout, "the other stream is not there yet")

	ctx, cancel := context.WithCancel(t.Context())
	var out screen
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"events", "tail", "--consumer", "observer-1"}, func(name string) string { return env[name] }, &out, &out)
	}()
	require.Eventually(t, func() bool { return strings.Contains(out.String(), "j-0123456789") }, time.Minute, time.Millisecond)
	cancel()
	<-ended

	o = droverWith(t, env, "events", "observer", "remove", "observer-1")
	require.Equal(t, exitOK, o.code, o.stderr)
	o = droverWith(t, env, "events", "observer", "remove", "observer-1")
	assert.Equal(t, exitFailed, o.code)
	assert.Contains(t, o.stderr, "there is no observer observer-1")
	o = droverWith(t, env, "events", "tail", "--consumer", "observer-1")
	assert.Equal(t, exitFailed, o.code, "one that is not there is not waited for")
	assert.Contains(t, o.stderr, "stream SMC has no consumer observer-1")
	o = droverWith(t, env, "events", "tail", "--fleet", "spring", "--follow=false")
	assert.Equal(t, exitFailed, o.code)
	assert.Contains(t, o.stderr, "there is no event stream DROVER yet")
	for _, args := range []string{"observer add x", "observer add --account 1", "tail --consumer x --since now", "tail --consumer x --job y"} {
		assert.Equal(t, exitUsage, droverWith(t, env, append([]string{"events"}, strings.Fields(args)...)...).code, args)
	}
}

func TestEventsTailOfAFleet(t *testing.T) {
	s := newEventStream(t)
	nc, err := nats.Connect(s.url)
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	publisher := events.NewStreamPublisher(js, events.DroverStream())
	for _, name := range []string{"spring", "autumn"} {
		require.NoError(t, events.PublishOnce(t.Context(), publisher, events.FleetChanged{
			AccountID: "1", Fleet: name, Began: time.Unix(1, 0), Sequence: 1, Status: "Running", Wave: "pilot", Open: 2, Time: time.Unix(1, 0),
		}))
		require.NoError(t, events.PublishOnce(t.Context(), publisher, events.MigrationChanged{
			AccountID: "1", Fleet: name, SourceID: "s-1", Name: "web-1", Began: time.Unix(1, 0), Sequence: 1, Phase: "Failed", Error: "no room", Time: time.Unix(1, 0),
		}))
	}
	o := droverWith(t, map[string]string{"NATS_URL": s.url}, "events", "tail", "--follow=false", "--fleet", "spring")
	require.Equal(t, exitOK, o.code, o.stderr)
	assert.Regexp(t, `(?m)fleet +spring +1 +Running +wave pilot  0 done, 0 failed, 2 open$`, o.stdout)
	assert.Regexp(t, `(?m)migration +spring/s-1 +1 +Failed +web-1  no room$`, o.stdout)
	assert.NotContains(t, o.stdout, "autumn")
}

func TestEventsConsumers(t *testing.T) {
	s := newEventStream(t)
	s.job(t, "j-0123456789", 1, "Ready", "")
	env := map[string]string{"NATS_URL": s.url}
	require.Equal(t, exitOK, droverWith(t, env, "events", "observer", "add", "observer-1", "--account", "1").code)
	o := droverWith(t, env, "events", "consumers")
	require.Equal(t, exitOK, o.code, o.stderr)
	assert.Regexp(t, `(?m)^SMC +observer-1 +1 +0 +0 +- +smc\.v1\.1\.>$`, o.stdout)
	o = droverWith(t, env, "events", "consumers", "-o", "json")
	assert.Contains(t, o.stdout, `"Waiting": 1`)
}

func TestEventsSchema(t *testing.T) {
	o := droverWith(t, nil, "events", "schema")
	require.Equal(t, exitOK, o.code, o.stderr)
	types := strings.Fields(o.stdout)
	require.Contains(t, types, events.TypeJobStatus)
	for _, typ := range types {
		o = droverWith(t, nil, "events", "schema", typ)
		require.Equal(t, exitOK, o.code, o.stderr)
		var schema map[string]any
		require.NoError(t, json.Unmarshal([]byte(o.stdout), &schema))
		assert.Equal(t, events.SchemaURI(typ), schema["$id"])
	}
	assert.Equal(t, exitUsage, droverWith(t, nil, "events", "schema", "smc.nothing.v1").code)
}
