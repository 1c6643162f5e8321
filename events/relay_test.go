package events

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// quick makes a relay that does not wait long for anything.
func quick(cfg RelayConfig) RelayConfig {
	cfg.MinBackoff, cfg.MaxBackoff = time.Millisecond, 20*time.Millisecond
	if cfg.Interval == 0 {
		cfg.Interval = 20 * time.Millisecond
	}
	return cfg
}

// fill adds n events of each job, in turn, as jobs that run side by side do.
func fill(t *testing.T, o *memOutbox, jobs int, n uint64) int {
	t.Helper()
	for seq := uint64(1); seq <= n; seq++ {
		for job := range jobs {
			o.add(jobRecord(t, job, seq))
		}
	}
	return jobs * int(n)
}

func TestRelayMovesTheOutboxOnce(t *testing.T) {
	_, js := startNATS(t).connect(testLog(t))
	o := newOutbox()
	total := fill(t, o, 50, 40)
	relay := NewRelay(js, o, quick(RelayConfig{Interval: time.Hour}), testLog(t))
	start := time.Now()
	stop := goRun(t, relay.Run)
	o.await(t, total)
	t.Logf("%d records in %v", total, time.Since(start))
	requireEachOnceInOrder(t, readStream(t, js), 50, 40)
	require.Zero(t, o.waiting())

	// With an hour between looks, only a nudge makes it look.
	o.add(jobRecord(t, 50, 1))
	relay.Wake()
	o.await(t, total+1)
	require.Equal(t, RelayStats{Published: uint64(total + 1)}, relay.Stats())
	stop()

	for _, msg := range readStream(t, js) {
		meta, err := msg.Metadata()
		require.NoError(t, err)
		require.Equal(t, meta.Sequence.Stream, o.streamSeq(msg.Headers().Get(HeaderMsgID)))
	}
}

func TestRelaySurvivesAnOutage(t *testing.T) {
	srv := startNATS(t)
	core, logs := observer.New(zap.WarnLevel)
	_, js := srv.connect(zap.NewNop())
	o := newOutbox()
	total := fill(t, o, 20, 30)
	reached, proceed := make(chan struct{}), make(chan struct{})
	o.beforeMark = func(_ string, n int) error {
		if n == 200 {
			close(reached)
		}
		if n >= 200 {
			<-proceed // hold everything until the server is gone
		}
		return nil
	}
	relay := NewRelay(js, o, quick(RelayConfig{}), zap.New(core))
	goRun(t, relay.Run)
	<-reached
	srv.stop()
	close(proceed)
	require.Eventually(t, func() bool { return relay.Stats().Down }, patience, time.Millisecond)
	srv.start()
	o.await(t, total)
	require.Eventually(t, func() bool { return !relay.Stats().Down }, patience, time.Millisecond)
	requireEachOnceInOrder(t, readStream(t, js), 20, 30)
	require.Equal(t, uint64(1), relay.Stats().Outages)
	require.Equal(t, 1, logs.Len(), "one outage, one warning: %v", logs.All())
}

func TestRelayWaitsForTheFirstConnection(t *testing.T) {
	srv := startNATS(t)
	srv.stop()
	_, js := srv.connect(zap.NewNop())
	o := newOutbox()
	total := fill(t, o, 3, 3)
	relay := NewRelay(js, o, quick(RelayConfig{}), zap.NewNop())
	stop := goRun(t, relay.Run)
	require.Eventually(t, func() bool { return relay.Stats().Down }, patience, time.Millisecond)
	srv.start()
	o.await(t, total)
	requireEachOnceInOrder(t, readStream(t, js), 3, 3)
	stop()

	js.Conn().Close()
	require.ErrorContains(t, relay.Run(t.Context()), "connection closed")
}

func TestRelaysCompete(t *testing.T) {
	srv := startNATS(t)
	o := newOutbox()
	total := fill(t, o, 25, 20)
	var relays []*Relay
	for range 3 {
		_, js := srv.connect(testLog(t))
		relay := NewRelay(js, o, quick(RelayConfig{Batch: 60}), testLog(t))
		// Without the help of ids: compare and set alone must do.
		relay.pub = &unreliable{Publisher: NewPublisher(js, ""), freshIDs: true}
		relays = append(relays, relay)
		goRun(t, relay.Run)
	}
	o.await(t, total)
	_, js := srv.connect(testLog(t))
	requireEachOnceInOrder(t, readStream(t, js), 25, 20)
	var published uint64
	for _, relay := range relays {
		s := relay.Stats()
		t.Logf("%+v", s)
		published += s.Published
		require.Zero(t, s.Superseded)
	}
	require.EqualValues(t, total, published)
}

// unreliable stores every record and loses some of the acknowledgements.
type unreliable struct {
	*Publisher
	n atomic.Int64
	// lose says which acknowledgements are lost.
	lose func(n int64) bool
	// freshIDs hides from the stream that it has an event already.
	freshIDs bool
}

func (u *unreliable) Publish(ctx context.Context, r Record) (uint64, error) {
	n := u.n.Add(1)
	if u.freshIDs {
		r.ID = fmt.Sprintf("%s#%p#%d", r.ID, u, n)
	}
	seq, err := u.Publisher.Publish(ctx, r)
	if err == nil && u.lose != nil && u.lose(n) {
		return 0, fmt.Errorf("publish %s: the answer was lost: %w", r.ID, context.DeadlineExceeded)
	}
	return seq, err
}

func TestRelayLosesAcks(t *testing.T) {
	for name, freshIDs := range map[string]bool{"known by id": false, "known by the last message": true} {
		t.Run(name, func(t *testing.T) {
			_, js := startNATS(t).connect(testLog(t))
			o := newOutbox()
			total := fill(t, o, 10, 12)
			o.beforeMark = func(_ string, n int) error {
				if n%7 == 0 {
					return errors.New("the database is locked")
				}
				return nil
			}
			relay := NewRelay(js, o, quick(RelayConfig{}), zap.NewNop())
			relay.pub = &unreliable{Publisher: NewPublisher(js, ""), freshIDs: freshIDs, lose: func(n int64) bool { return n%3 == 0 }}
			goRun(t, relay.Run)
			o.await(t, total)
			requireEachOnceInOrder(t, readStream(t, js), 10, 12)
			require.NotZero(t, relay.Stats().Found)
		})
	}
}

// Nothing of a whole queue was marked, though all of it is in the stream.
func TestRelayFindsWhatIsThereAlready(t *testing.T) {
	ctx := testContext(t)
	_, js := startNATS(t).connect(testLog(t))
	_, err := EnsureStream(ctx, js, StreamConfig{})
	require.NoError(t, err)
	o := newOutbox()
	pub := &unreliable{Publisher: NewPublisher(js, ""), freshIDs: true}
	stored := map[string]uint64{}
	var prev uint64
	for seq := uint64(1); seq <= 5; seq++ {
		rec := jobRecord(t, 0, seq)
		o.add(rec)
		rec.PrevStreamSeq = prev
		prev, err = pub.Publish(ctx, rec)
		require.NoError(t, err)
		stored[rec.ID] = prev
	}
	o.add(jobRecord(t, 0, 6))
	relay := NewRelay(js, o, quick(RelayConfig{}), testLog(t))
	relay.pub = pub
	goRun(t, relay.Run)
	o.await(t, 6)
	for id, seq := range stored {
		require.Equal(t, seq, o.streamSeq(id))
	}
	require.Equal(t, RelayStats{Published: 1, Found: 5}, relay.Stats())
	requireEachOnceInOrder(t, readStream(t, js), 1, 6)
}

func TestRelayGivesUpWhatCameTooLate(t *testing.T) {
	ctx := testContext(t)
	_, js := startNATS(t).connect(testLog(t))
	_, err := EnsureStream(ctx, js, StreamConfig{})
	require.NoError(t, err)
	_, err = NewPublisher(js, "").Publish(ctx, jobRecord(t, 0, 5))
	require.NoError(t, err)

	core, logs := observer.New(zap.ErrorLevel)
	o := newOutbox()
	o.add(jobRecord(t, 0, 4), jobRecord(t, 0, 6))
	relay := NewRelay(js, o, quick(RelayConfig{}), zap.New(core))
	goRun(t, relay.Run)
	o.await(t, 2)
	require.Zero(t, o.streamSeq(jobRecord(t, 0, 4).ID))
	require.Equal(t, RelayStats{Published: 1, Superseded: 1}, relay.Stats())
	require.Equal(t, 1, logs.Len())
	require.Len(t, readStream(t, js), 2)
}

func TestRelayGoesOnAfterTheStreamIsLost(t *testing.T) {
	ctx := testContext(t)
	_, js := startNATS(t).connect(testLog(t))
	core, logs := observer.New(zap.ErrorLevel)
	o := newOutbox()
	before := fill(t, o, 5, 4)
	relay := NewRelay(js, o, quick(RelayConfig{}), zap.New(core))
	goRun(t, relay.Run)
	o.await(t, before)

	require.NoError(t, js.DeleteStream(ctx, StreamName))
	for seq := uint64(5); seq <= 6; seq++ {
		for job := range 5 {
			o.add(jobRecord(t, job, seq))
		}
	}
	o.await(t, before+10)
	msgs := readStream(t, js)
	require.Len(t, msgs, 10)
	next := map[string]string{}
	for _, msg := range msgs {
		require.Equal(t, map[string]string{"": "5", "5": "6"}[next[msg.Subject()]], msg.Headers().Get(HeaderSequence))
		next[msg.Subject()] = msg.Headers().Get(HeaderSequence)
	}
	require.Equal(t, uint64(1), relay.Stats().StreamLosses)
	losses := logs.FilterMessageSnippet("lost events").All()
	require.Len(t, losses, 1, "a lost stream is reported once")
	loss := losses[0].ContextMap()
	require.Equal(t, StreamName, loss["stream"])
	require.Greater(t, loss["recorded_seq"], loss["stream_last_seq"])
}

// What the stream's limits dropped is not a loss.
func TestRelayFollowsAnEventThatAgedOut(t *testing.T) {
	_, js := startNATS(t).connect(testLog(t))
	o := newOutbox()
	o.add(jobRecord(t, 0, 1))
	for seq := uint64(1); seq <= 6; seq++ {
		o.add(jobRecord(t, 1, seq))
	}
	relay := NewRelay(js, o, quick(RelayConfig{Stream: StreamConfig{MaxMsgs: 3}, Parallel: 1}), testLog(t))
	goRun(t, relay.Run)
	o.await(t, 7)
	o.add(jobRecord(t, 0, 2))
	o.await(t, 8)
	require.Equal(t, RelayStats{Published: 8}, relay.Stats())
	last, err := NewPublisher(js, "").Last(testContext(t), jobSubject(0))
	require.NoError(t, err)
	require.Equal(t, uint64(2), last.Sequence)
}

func TestRelayLetsOthersPassARefusedEvent(t *testing.T) {
	_, js := startNATS(t).connect(testLog(t))
	core, logs := observer.New(zap.ErrorLevel)
	o := newOutbox()
	tooBig := jobRecord(t, 0, 1)
	tooBig.Data = bytes.Repeat([]byte{' '}, 2<<20)
	o.add(tooBig, jobRecord(t, 0, 2), jobRecord(t, 0, 3))
	for job := 1; job <= 5; job++ {
		o.add(jobRecord(t, job, 1))
	}
	// The batch holds nothing but what cannot be published.
	relay := NewRelay(js, o, quick(RelayConfig{Batch: 2}), zap.New(core))
	goRun(t, relay.Run)
	o.await(t, 5)
	require.Equal(t, 3, o.waiting())
	require.False(t, relay.Stats().Down)
	require.Equal(t, 1, logs.Len(), "reported once: %v", logs.All())
	last, err := NewPublisher(js, "").Last(testContext(t), jobSubject(0))
	require.NoError(t, err)
	require.Nil(t, last, "nothing overtakes within a resource")
}

// A reader that knows nothing of this package gets every status change once and in order, while
// they are being published and through a restart of the server.
func TestPlainOrderedConsumer(t *testing.T) {
	ctx := testContext(t)
	srv := startNATS(t)
	_, js := srv.connect(zap.NewNop())
	_, err := EnsureStream(ctx, js, StreamConfig{})
	require.NoError(t, err)
	consumer, err := js.OrderedConsumer(ctx, "SMC", jetstream.OrderedConsumerConfig{FilterSubjects: []string{"smc.v1.>"}})
	require.NoError(t, err)
	const jobs, each = 6, 20
	got := make(chan jetstream.Msg, 10*jobs*each)
	consuming, err := consumer.Consume(func(msg jetstream.Msg) { got <- msg })
	require.NoError(t, err)
	defer consuming.Stop()

	o := newOutbox()
	relay := NewRelay(js, o, quick(RelayConfig{}), zap.NewNop())
	goRun(t, relay.Run)
	for seq := uint64(1); seq <= each; seq++ {
		for job := range jobs {
			o.add(jobRecord(t, job, seq))
		}
		relay.Wake()
		if seq == each/2 {
			o.await(t, jobs*each/2)
			srv.stop()
			srv.start()
		}
	}
	o.await(t, jobs*each)
	var all []jetstream.Msg
	for len(all) < jobs*each {
		select {
		case msg := <-got:
			all = append(all, msg)
		case <-ctx.Done():
			require.FailNow(t, "events missing", "%d of %d", len(all), jobs*each)
		}
	}
	requireEachOnceInOrder(t, all, jobs, each)
	require.Empty(t, got)
}
