package events

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/drover/drover/fleet"
)

// engine is what a bridge signals: it keeps what it was told, and fails as told.
type engine struct {
	mu    sync.Mutex
	told  []string
	calls int
	// answer may be nil. It is called without the lock.
	answer  func(ctx context.Context, call int, fleetName, sourceID string, change fleet.JobChanged) error
	changed chan struct{}
}

func newEngine() *engine { return &engine{changed: make(chan struct{})} }

func (e *engine) Signal(ctx context.Context, fleetName, sourceID string, change fleet.JobChanged) error {
	e.mu.Lock()
	e.calls++
	call, answer := e.calls, e.answer
	e.mu.Unlock()
	var err error
	if answer != nil {
		err = answer(ctx, call, fleetName, sourceID, change)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err == nil {
		e.told = append(e.told, fmt.Sprintf("%s/%s %s/%d %s", fleetName, sourceID, change.JobID[18:], change.Sequence, change.Status))
	}
	close(e.changed)
	e.changed = make(chan struct{})
	return err
}

// await waits until the condition holds of what was told, and of the number of calls.
func (e *engine) await(t *testing.T, what string, ok func(told []string, calls int) bool) []string {
	t.Helper()
	deadline := time.After(patience)
	for {
		e.mu.Lock()
		told, calls, changed := append([]string(nil), e.told...), e.calls, e.changed
		e.mu.Unlock()
		if ok(told, calls) {
			return told
		}
		select {
		case <-changed:
		case <-deadline:
			require.FailNow(t, "the bridge did not signal", "%s: %v in %d calls", what, told, calls)
		}
	}
}

func (e *engine) awaitTold(t *testing.T, n int) []string {
	t.Helper()
	return e.await(t, fmt.Sprint(n, " signals"), func(told []string, _ int) bool { return len(told) >= n })
}

// jobs publishes the events of the jobs of a fleet, each with a new status unless told otherwise.
type jobs struct {
	t    *testing.T
	pub  *Publisher
	last map[int]JobStatusChanged
}

func newJobs(t *testing.T, js jetstream.JetStream) *jobs {
	t.Helper()
	_, err := EnsureStream(testContext(t), js, StreamConfig{})
	require.NoError(t, err)
	return &jobs{t: t, pub: NewPublisher(js, ""), last: map[int]JobStatusChanged{}}
}

func (j *jobs) to(job int, statuses ...string) {
	j.t.Helper()
	for _, status := range statuses {
		d := jobEvent(job, j.last[job].Sequence+1)
		d.SourceID = fmt.Sprintf("s-%d", job)
		d.Name = fleet.JobName("dc-exit", fmt.Sprintf("web-%d", job), d.SourceID)
		d.PreviousStatus, d.Status = j.last[job].Status, status
		j.publish(job, d)
	}
}

func (j *jobs) publish(job int, d JobStatusChanged) {
	j.t.Helper()
	j.last[job] = d
	require.Eventually(j.t, func() bool { return PublishOnce(j.t.Context(), j.pub, d) == nil }, patience, 10*time.Millisecond)
}

// quickly is a bridge that waits no longer than a test needs.
func quickly() BridgeConfig {
	return BridgeConfig{
		MinRetry: time.Millisecond, MaxRetry: 10 * time.Millisecond, AckWait: 2 * time.Second, Heartbeat: 500 * time.Millisecond,
	}
}

func bridge(t *testing.T, js jetstream.JetStream, e *engine) (b *Bridge, stop func()) {
	t.Helper()
	b = NewBridge(js, e, quickly(), zap.NewNop())
	return b, goRun(t, b.Run)
}

func TestBridgeSignalsWhatConcernsAMigration(t *testing.T) {
	ctx := testContext(t)
	_, js := startNATS(t).connect(testLog(t))
	j := newJobs(t, js)
	j.to(1, "Ready", "Running")
	syncing := j.last[1]
	syncing.Sequence, syncing.PreviousStatus, syncing.BusinessStatus = 3, "Running", "Processing"
	j.publish(1, syncing)
	for job, name := range map[int]string{7: "web", 8: "2024:web", 9: ""} { // made by hand
		d := jobEvent(job, 1)
		d.Name = name
		j.publish(job, d)
	}
	_, err := js.PublishMsg(ctx, &nats.Msg{ // the same transition once more
		Subject: jobSubject(1), Data: jobRecord(t, 1, 2).Data,
	})
	require.NoError(t, err)
	source, err := NewRecord(SourceStateChanged{AccountID: "1001", RegionID: "local", SourceID: "s-1", Sequence: 1, Change: SourceFreed, State: "Available", Time: testTime})
	require.NoError(t, err)
	_, err = js.Publish(ctx, jobSubject(6), source.Data) // of another type than its subject says
	require.NoError(t, err)

	e := newEngine()
	b, stop := bridge(t, js, e)
	j.last[1] = syncing
	failed := syncing
	failed.Sequence, failed.PreviousStatus, failed.Status, failed.ErrorCode = 4, "Running", "InError", "SourceDisk.ReadError"
	var got fleet.JobChanged
	e.mu.Lock()
	e.answer = func(_ context.Context, _ int, _, _ string, change fleet.JobChanged) error {
		got = change
		return nil
	}
	e.mu.Unlock()
	last, err := j.pub.Last(ctx, jobSubject(1))
	require.NoError(t, err)
	rec, err := NewRecord(failed)
	require.NoError(t, err)
	rec.PrevStreamSeq = last.StreamSeq
	_, err = j.pub.Publish(ctx, rec)
	require.NoError(t, err)

	require.Equal(t, []string{"dc-exit/s-1 01/1 Ready", "dc-exit/s-1 01/2 Running", "dc-exit/s-1 01/4 InError"}, e.awaitTold(t, 3))
	stop()
	require.Equal(t, fleet.JobChanged{JobID: jobID(1), Sequence: 4, Status: "InError", ErrorCode: "SourceDisk.ReadError"}, got)
	require.Equal(t, BridgeStats{Signalled: 3, Foreign: 3, Unchanged: 1, Discarded: 1, LastStreamSeq: 9}, b.Stats())
}

func TestBridgeWaitsForTheEngine(t *testing.T) {
	_, js := startNATS(t).connect(testLog(t))
	j := newJobs(t, js)
	e := newEngine()
	e.answer = func(ctx context.Context, call int, _, _ string, _ fleet.JobChanged) error {
		switch {
		case call == 1: // slow: it does not answer in time
			<-ctx.Done()
			return ctx.Err()
		case call < 8:
			return errors.New("the engine is away")
		}
		return nil
	}
	cfg := quickly()
	cfg.SignalTimeout = 20 * time.Millisecond
	b := NewBridge(js, e, cfg, zap.NewNop())
	goRun(t, b.Run)
	j.to(1, "Ready", "Running")
	j.to(2, "Ready")
	e.await(t, "failures", func(_ []string, calls int) bool { return calls >= 3 })
	require.Eventually(t, func() bool { return b.Stats().Down }, patience, time.Millisecond)
	j.to(1, "Finished")
	require.Equal(t, []string{
		"dc-exit/s-1 01/1 Ready", "dc-exit/s-1 01/2 Running", "dc-exit/s-2 02/1 Ready", "dc-exit/s-1 01/3 Finished",
	}, e.awaitTold(t, 4))
	require.Eventually(t, func() bool { return b.Stats().Signalled == 4 }, patience, time.Millisecond)
	require.Equal(t, uint64(7), b.Stats().Failed)
	require.False(t, b.Stats().Down)
}

// What no migration takes holds up nobody.
func TestBridgePassesByWhatIsNotTaken(t *testing.T) {
	for _, c := range []struct {
		answer error
		stats  BridgeStats
	}{
		{ErrNoSuchMigration, BridgeStats{Signalled: 1, Orphaned: 2, LastStreamSeq: 3}},
		{ErrDiscard, BridgeStats{Signalled: 1, Discarded: 2, LastStreamSeq: 3}},
	} {
		t.Run(c.answer.Error(), func(t *testing.T) {
			_, js := startNATS(t).connect(testLog(t))
			j := newJobs(t, js)
			j.to(1, "Ready", "Running")
			j.to(2, "Ready")
			e := newEngine()
			e.answer = func(_ context.Context, _ int, _, sourceID string, _ fleet.JobChanged) error {
				if sourceID == "s-1" {
					return fmt.Errorf("signal: %w", c.answer)
				}
				return nil
			}
			b, stop := bridge(t, js, e)
			require.Equal(t, []string{"dc-exit/s-2 02/1 Ready"}, e.awaitTold(t, 1))
			stop()
			require.Equal(t, c.stats, b.Stats())
		})
	}
}

// The bridge is stopped while it signals, NATS is restarted while there is no bridge: every event is signalled, in order.
func TestBridgeGoesOnAfterRestarts(t *testing.T) {
	srv := startNATS(t)
	nc, js := srv.connect(zap.NewNop())
	j := newJobs(t, js)
	j.to(1, "Ready", "Running", "InError")
	j.to(2, "Ready")
	e := newEngine()
	e.answer = func(ctx context.Context, call int, _, _ string, _ fleet.JobChanged) error {
		if call == 3 {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	_, stop := bridge(t, js, e)
	require.Eventually(t, func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.calls == 3
	}, patience, time.Millisecond)
	// The server that is stopped next may forget that the event was given back, and waits for AckWait.
	stop()
	srv.restart(nc)
	j.to(1, "Running")
	_, stop = bridge(t, js, e)
	e.awaitTold(t, 5)
	srv.restart(nc) // under the bridge
	j.to(2, "Running")
	require.Equal(t, []string{
		"dc-exit/s-1 01/1 Ready", "dc-exit/s-1 01/2 Running", "dc-exit/s-1 01/3 InError", "dc-exit/s-2 02/1 Ready",
		"dc-exit/s-1 01/4 Running", "dc-exit/s-2 02/2 Running",
	}, e.awaitTold(t, 6))
	stop()
}

// Two bridges share one position; one is stopped in the middle.
func TestBridgesShareTheirWork(t *testing.T) {
	srv := startNATS(t)
	_, js := srv.connect(zap.NewNop())
	j := newJobs(t, js)
	const migrations, changes = 5, 8
	e := newEngine()
	cfg := quickly()
	cfg.AckWait = 10 * patience // a bridge that a busy machine holds up is not one that is gone
	stopFirst := goRun(t, NewBridge(js, e, cfg, zap.NewNop()).Run)
	_, other := srv.connect(zap.NewNop())
	goRun(t, NewBridge(other, e, cfg, zap.NewNop()).Run)
	statuses := []string{"Ready", "Running", "InError", "Running", "Waiting", "Running", "Waiting", "Finished"}
	for i, status := range statuses {
		for job := range migrations {
			j.to(job+1, status)
		}
		if i == changes/2 {
			stopFirst()
		}
	}
	told := e.awaitTold(t, migrations*changes)
	next := map[string]int{}
	for _, line := range told {
		var to, job, status string
		var seq int
		_, err := fmt.Sscanf(line, "%s %2s/%d %s", &to, &job, &seq, &status)
		require.NoError(t, err, line)
		require.Equal(t, next[to]+1, seq, line)
		require.Equal(t, statuses[seq-1], status, line)
		next[to] = seq
	}
	require.Len(t, next, migrations)
	require.Len(t, told, migrations*changes, "no signal is made twice when nothing goes wrong")
}

func TestBridgeIsToldWhenItsConnectionIsClosed(t *testing.T) {
	nc, js := startNATS(t).connect(testLog(t))
	newJobs(t, js)
	b := NewBridge(js, newEngine(), quickly(), zap.NewNop())
	nc.Close()
	require.ErrorIs(t, b.Run(testContext(t)), nats.ErrConnectionClosed)
}
