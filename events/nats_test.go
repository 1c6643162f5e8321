package events

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/drover/drover/tcp/port"
)

// patience bounds every wait for a condition; it is never waited out by a test that passes.
const patience = time.Minute

// natsServer is a real server that can be stopped and started again on its files and its port.
type natsServer struct {
	t    *testing.T
	opts server.Options
	srv  *server.Server
}

func startNATS(t *testing.T) *natsServer {
	t.Helper()
	s := newNATS(t)
	s.start()
	return s
}

func newNATS(t *testing.T) *natsServer {
	t.Helper()
	_, text, err := net.SplitHostPort(port.ForTest(t))
	require.NoError(t, err)
	number, err := strconv.Atoi(text)
	require.NoError(t, err)
	s := &natsServer{t: t, opts: server.Options{
		Host: "127.0.0.1", Port: number, NoLog: true, NoSigs: true,
		JetStream: true, StoreDir: t.TempDir(),
	}}
	t.Cleanup(s.stop)
	return s
}

func (s *natsServer) start() {
	s.t.Helper()
	opts := s.opts
	srv, err := server.NewServer(&opts)
	require.NoError(s.t, err)
	srv.Start()
	require.True(s.t, srv.ReadyForConnections(patience), "the NATS server did not start")
	s.srv = srv
}

func (s *natsServer) stop() {
	if s.srv != nil {
		s.srv.Shutdown()
		s.srv.WaitForShutdown()
		s.srv = nil
	}
}

// restart returns once nc is connected to the new server.
func (s *natsServer) restart(nc *nats.Conn) {
	s.t.Helper()
	before := nc.Stats().Reconnects
	s.stop()
	s.start()
	require.Eventually(s.t, func() bool { return nc.Stats().Reconnects > before && nc.IsConnected() }, patience, time.Millisecond)
}

func (s *natsServer) url() string { return fmt.Sprintf("nats://127.0.0.1:%d", s.opts.Port) }

// connect opens a connection as the processes do, only with shorter waits.
func (s *natsServer) connect(log *zap.Logger) (*nats.Conn, jetstream.JetStream) {
	s.t.Helper()
	nc, err := Connect(s.url(), s.t.Name(), log, nats.ReconnectWait(10*time.Millisecond),
		nats.ReconnectJitter(0, 0))
	require.NoError(s.t, err)
	s.t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(s.t, err)
	return nc, js
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	t.Cleanup(cancel)
	return ctx
}

func jobID(i int) string { return fmt.Sprintf("j-%018d", i) }

var testTime = time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)

func jobEvent(job int, seq uint64) JobStatusChanged {
	return JobStatusChanged{
		AccountID: "1001", RegionID: "local", JobID: jobID(job), SourceID: "s-1", Name: "web",
		Sequence: seq, Change: JobPhase, Status: "Running", BusinessStatus: "Syncing", PreviousStatus: "Running",
		Run: 1, RunType: "Manual", Progress: 12.5, Time: testTime.Add(time.Duration(seq) * time.Second),
	}
}

func jobRecord(t require.TestingT, job int, seq uint64) Record {
	rec, err := NewRecord(jobEvent(job, seq))
	require.NoError(t, err)
	return rec
}

func jobSubject(job int) string { return JobSubject("1001", "local", jobID(job)) }

// memOutbox is an outbox as the store keeps it, in memory.
type memOutbox struct {
	mu        sync.Mutex
	records   []Record
	published map[string]uint64
	rewinds   uint64
	marks     int
	changed   chan struct{}
	// beforeMark may fail a mark. Called without the lock.
	beforeMark func(rec string, n int) error
}

func newOutbox() *memOutbox {
	return &memOutbox{published: map[string]uint64{}, changed: make(chan struct{})}
}

func (o *memOutbox) add(records ...Record) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.records = append(o.records, records...)
}

func (o *memOutbox) Pending(_ context.Context, limit int) ([]Record, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var pending []Record
	before := map[string]uint64{} // where the record before it of the same subject stands
	for _, rec := range o.records {
		prev := before[rec.Subject]
		seq, done := o.published[rec.ID]
		if before[rec.Subject] = seq; done {
			continue
		}
		rec.PrevStreamSeq, rec.Rewinds = prev, o.rewinds
		if pending = append(pending, rec); len(pending) == limit {
			break
		}
	}
	return pending, nil
}

func (o *memOutbox) MarkPublished(_ context.Context, marked Record, seq uint64) error {
	o.mu.Lock()
	o.marks++
	n, hook := o.marks, o.beforeMark
	o.mu.Unlock()
	if hook != nil {
		if err := hook(marked.ID, n); err != nil {
			return err
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if marked.Rewinds != o.rewinds {
		return ErrRewound
	}
	o.published[marked.ID] = seq
	close(o.changed)
	o.changed = make(chan struct{})
	return nil
}

// waiting is how many records are not marked published.
func (o *memOutbox) waiting() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.records) - len(o.published)
}

// await waits until so many records are marked published.
func (o *memOutbox) await(t *testing.T, n int) {
	t.Helper()
	deadline := time.After(patience)
	for {
		o.mu.Lock()
		have, changed := len(o.published), o.changed
		o.mu.Unlock()
		if have >= n {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			require.FailNow(t, "records not published", "%d of %d", have, n)
		}
	}
}

func (o *memOutbox) streamSeq(id string) uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.published[id]
}

// goRun runs f until the returned stop is called or the test ends, and checks that it ends without an error.
func goRun(t *testing.T, f func(ctx context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-done:
				require.NoError(t, err)
			case <-time.After(patience):
				require.FailNow(t, "did not end with its context")
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

// readStream reads the whole stream with nothing of this package: an ordered consumer of nats.go.
func readStream(t *testing.T, js jetstream.JetStream) []jetstream.Msg {
	t.Helper()
	ctx := testContext(t)
	stream, err := js.Stream(ctx, "SMC")
	require.NoError(t, err)
	n := int(stream.CachedInfo().State.Msgs)
	if n == 0 {
		return nil
	}
	consumer, err := js.OrderedConsumer(ctx, "SMC", jetstream.OrderedConsumerConfig{})
	require.NoError(t, err)
	messages, err := consumer.Messages()
	require.NoError(t, err)
	defer messages.Stop()
	var all []jetstream.Msg
	for len(all) < n {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		require.NoError(t, err)
		all = append(all, msg)
	}
	return all
}

// requireEachOnceInOrder checks that every job has the events 1 to n, each once, in this order.
func requireEachOnceInOrder(t *testing.T, msgs []jetstream.Msg, jobs int, n uint64) {
	t.Helper()
	next := map[string]uint64{}
	for _, msg := range msgs {
		ev, err := Decode(msg.Data())
		require.NoError(t, err)
		seq, err := Sequence(ev)
		require.NoError(t, err)
		require.Equal(t, next[msg.Subject()]+1, seq, "sequence of %s", msg.Subject())
		require.Equal(t, fmt.Sprint(seq), msg.Headers().Get("Smc-Sequence"))
		next[msg.Subject()] = seq
	}
	require.Len(t, next, jobs)
	for subject, last := range next {
		require.Equal(t, n, last, "last event of %s", subject)
	}
}

func testLog(t *testing.T) *zap.Logger {
	t.Helper()
	return zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel))
}
