package events

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// feed publishes events of jobs one after the other.
type feed struct {
	t    *testing.T
	pub  *Publisher
	prev map[int]uint64
}

func newFeed(t *testing.T, js jetstream.JetStream) *feed {
	t.Helper()
	_, err := EnsureStream(testContext(t), js, StreamConfig{})
	require.NoError(t, err)
	return &feed{t: t, pub: NewPublisher(js, ""), prev: map[int]uint64{}}
}

func (f *feed) publish(job int, sequences ...uint64) {
	f.t.Helper()
	for _, seq := range sequences {
		rec := jobRecord(f.t, job, seq)
		rec.PrevStreamSeq = f.prev[job]
		var err error
		f.prev[job], err = f.pub.Publish(testContext(f.t), rec)
		require.NoError(f.t, err)
	}
}

func brief(ev Event) string { return fmt.Sprintf("%s/%d", ev.CloudEvent.Subject()[18:], ev.Sequence) }

func expect(t *testing.T, got <-chan string, want ...string) {
	t.Helper()
	for i, w := range want {
		select {
		case g := <-got:
			require.Equal(t, w, g, "event %d", i)
		case <-time.After(patience):
			require.FailNow(t, "event missing", "%s", w)
		}
	}
}

func collect(got chan<- string) Handler {
	return func(_ context.Context, ev Event) error {
		got <- brief(ev)
		return nil
	}
}

func TestDurableDropsTheOldAndResumes(t *testing.T) {
	ctx := testContext(t)
	srv := startNATS(t)
	nc, js := srv.connect(zap.NewNop())
	f := newFeed(t, js)
	got := make(chan string, 100)
	cfg := SubscribeConfig{Durable: "bridge", Filters: []string{JobFilter("", "", "")}, Heartbeat: 500 * time.Millisecond}
	run := func(h Handler) (stop func()) {
		return goRun(t, func(ctx context.Context) error { return Subscribe(ctx, js, cfg, h) })
	}

	f.publish(1, 1, 2)
	f.publish(2, 1)
	source, err := NewRecord(SourceStateChanged{AccountID: "1001", RegionID: "local", SourceID: "s-1", Sequence: 1, Change: SourceFreed, State: "Available", Time: testTime})
	require.NoError(t, err)
	_, err = f.pub.Publish(ctx, source)
	require.NoError(t, err)
	stop := run(collect(got))
	expect(t, got, "01/1", "01/2", "02/1")

	// The same transition told twice, an older one, and something that is no event.
	for _, old := range []uint64{2, 1} {
		rec := jobRecord(t, 1, old)
		_, err = js.PublishMsg(ctx, &nats.Msg{Subject: rec.Subject, Data: rec.Data})
		require.NoError(t, err)
	}
	_, err = js.Publish(ctx, jobSubject(1), []byte("nonsense"))
	require.NoError(t, err)
	last, err := f.pub.Last(ctx, jobSubject(1))
	require.NoError(t, err)
	f.prev[1] = last.StreamSeq
	f.publish(1, 3)
	expect(t, got, "01/3")
	stop()
	require.NoError(t, nc.Flush())

	f.publish(1, 4)
	f.publish(2, 2)
	stop = run(collect(got))
	expect(t, got, "01/4", "02/2")

	srv.restart(nc)
	f.publish(2, 3)
	expect(t, got, "02/3")

	// The consumer, then the whole stream, is deleted under the subscriber.
	require.NoError(t, js.DeleteConsumer(ctx, StreamName, "bridge"))
	f.publish(2, 4)
	expect(t, got, "02/4")
	require.NoError(t, js.DeleteStream(ctx, StreamName))
	f = newFeed(t, js)
	f.publish(2, 4, 5)
	expect(t, got, "02/5")
	stop()
	require.Empty(t, got)
}

func TestDurableHandsOutAgainInOrder(t *testing.T) {
	for _, pending := range []int{1, 20} {
		t.Run(fmt.Sprint("MaxAckPending=", pending), func(t *testing.T) {
			_, js := startNATS(t).connect(testLog(t))
			f := newFeed(t, js)
			f.publish(1, 1, 2, 3)
			f.publish(2, 1, 2)
			f.publish(1, 4)
			got := make(chan string, 100)
			fails := map[string]int{"01/1": 3, "01/3": 1, "02/2": 2}
			cfg := SubscribeConfig{
				Durable: "bridge", MaxAckPending: pending, Log: zap.NewNop(),
				MinRetry: time.Millisecond, MaxRetry: 10 * time.Millisecond,
			}
			goRun(t, func(ctx context.Context) error {
				return Subscribe(ctx, js, cfg, func(_ context.Context, ev Event) error {
					if fails[brief(ev)]--; fails[brief(ev)] >= 0 {
						return errors.New("the engine is away")
					}
					got <- brief(ev)
					return nil
				})
			})
			order := map[byte]string{}
			for range 6 {
				select {
				case g := <-got:
					order[g[1]] += g[2:]
				case <-time.After(patience):
					require.FailNow(t, "events missing", "%v", order)
				}
			}
			require.Equal(t, map[byte]string{'1': "/1/2/3/4", '2': "/1/2"}, order)
		})
	}
}

// A handler that is cut short by a shutdown has not handled its event; the next subscriber gets it
// at once, without waiting for AckWait.
func TestDurableGivesBackOnShutdown(t *testing.T) {
	_, js := startNATS(t).connect(testLog(t))
	f := newFeed(t, js)
	f.publish(1, 1, 2, 3)
	cfg := SubscribeConfig{Durable: "bridge", MaxAckPending: 3, AckWait: time.Hour}
	began := make(chan struct{})
	stop := goRun(t, func(ctx context.Context) error {
		return Subscribe(ctx, js, cfg, func(ctx context.Context, _ Event) error {
			close(began)
			<-ctx.Done()
			return ctx.Err()
		})
	})
	<-began
	stop()
	got := make(chan string, 10)
	cfg.MaxAckPending = 1
	goRun(t, func(ctx context.Context) error { return Subscribe(ctx, js, cfg, collect(got)) })
	expect(t, got, "01/1", "01/2", "01/3")
}

func TestDurableDiscardsAndKeepsSlowOnes(t *testing.T) {
	_, js := startNATS(t).connect(testLog(t))
	f := newFeed(t, js)
	f.publish(1, 1, 2)
	core, logs := observer.New(zap.ErrorLevel)
	got := make(chan string, 10)
	// The handler of the second event takes longer than AckWait; it must not be handed out twice.
	cfg := SubscribeConfig{Durable: "bridge", AckWait: 3 * time.Second, Log: zap.New(core)}
	goRun(t, func(ctx context.Context) error {
		return Subscribe(ctx, js, cfg, func(ctx context.Context, ev Event) error {
			got <- brief(ev)
			if ev.Sequence == 1 {
				return fmt.Errorf("no such job: %w", ErrDiscard)
			}
			if ev.Sequence == 2 {
				info, err := js.Consumer(ctx, StreamName, "bridge")
				if err != nil {
					return err
				}
				timer := time.NewTimer(cfg.AckWait + cfg.AckWait/2)
				defer timer.Stop()
				<-timer.C
				latest, err := info.Info(ctx)
				if err != nil {
					return err
				}
				got <- fmt.Sprint("redelivered ", latest.NumRedelivered)
			}
			return nil
		})
	})
	expect(t, got, "01/1", "01/2", "redelivered 0")
	f.publish(1, 3)
	expect(t, got, "01/3")
	require.Empty(t, got)
	require.Equal(t, 1, logs.FilterMessage("event discarded").Len())
}

func TestEphemeralFollowsTheStream(t *testing.T) {
	ctx := testContext(t)
	srv := startNATS(t)
	nc, js := srv.connect(zap.NewNop())
	f := newFeed(t, js)
	f.publish(1, 1, 2, 3)

	type tail struct {
		got  chan string
		stop func()
	}
	follow := func(cfg SubscribeConfig) tail {
		got, ready := make(chan string, 100), make(chan struct{}, 100)
		cfg.Ready = func() { ready <- struct{}{} }
		cfg.Heartbeat = 500 * time.Millisecond
		stop := goRun(t, func(ctx context.Context) error { return Subscribe(ctx, js, cfg, collect(got)) })
		<-ready
		return tail{got, stop}
	}
	all := follow(SubscribeConfig{})
	some := follow(SubscribeConfig{Start: StartSequence, StartSequence: 3})
	fresh := follow(SubscribeConfig{Start: StartNew, Filters: []string{JobFilter("1001", "local", jobID(1))}})
	expect(t, all.got, "01/1", "01/2", "01/3")
	expect(t, some.got, "01/3")
	f.publish(2, 1)
	f.publish(1, 4)
	expect(t, fresh.got, "01/4")

	srv.restart(nc)
	f.publish(1, 5)
	require.NoError(t, js.DeleteStream(ctx, StreamName))
	f = newFeed(t, js)
	f.publish(1, 5, 6)
	expect(t, fresh.got, "01/5", "01/6")
	expect(t, all.got, "02/1", "01/4", "01/5", "01/6")
	for _, tl := range []tail{all, some, fresh} {
		tl.stop()
	}
	require.Empty(t, all.got)
	require.Empty(t, fresh.got)
}

// lateLook lets the stream be made again right after it was looked at.
type lateLook struct {
	jetstream.JetStream
	then func()
}

func (l *lateLook) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	stream, err := l.JetStream.Stream(ctx, name)
	if then := l.then; err == nil && then != nil {
		l.then = nil
		then()
	}
	return stream, err
}

// A stream made again between the look at it and the making of the consumer: the consumer's first number would be one of the old stream.
func TestStreamMadeAgainUnderSubscriber(t *testing.T) {
	for _, durable := range []string{"", "fresh"} {
		t.Run("durable="+durable, func(t *testing.T) {
			ctx := testContext(t)
			_, js := startNATS(t).connect(zap.NewNop())
			newFeed(t, js).publish(1, 1, 2, 3, 4)
			late := &lateLook{js, func() {
				require.NoError(t, js.DeleteStream(ctx, StreamName))
				newFeed(t, js).publish(1, 5)
			}}
			got := make(chan string, 10)
			stop := goRun(t, func(ctx context.Context) error {
				return Subscribe(ctx, late, SubscribeConfig{Start: StartNew, Durable: durable}, collect(got))
			})
			expect(t, got, "01/5")
			stop()
			require.Empty(t, got)
		})
	}
}

func TestEphemeralEndsWithItsHandlersError(t *testing.T) {
	ctx := testContext(t)
	_, js := startNATS(t).connect(testLog(t))
	newFeed(t, js).publish(1, 1, 2)
	enough := errors.New("enough")
	err := Subscribe(ctx, js, SubscribeConfig{}, func(_ context.Context, ev Event) error {
		d, err := ev.JobStatusChanged()
		if err != nil {
			return err
		}
		if d != jobEvent(1, ev.Sequence) {
			return fmt.Errorf("got %+v", d)
		}
		if ev.Sequence == 2 {
			return enough
		}
		return nil
	})
	require.Equal(t, enough, err)

	err = Subscribe(ctx, js, SubscribeConfig{Durable: "a b"}, collect(nil))
	require.ErrorIs(t, err, jetstream.ErrInvalidConsumerName)
	js.Conn().Close()
	err = Subscribe(ctx, js, SubscribeConfig{}, collect(nil))
	require.ErrorIs(t, err, nats.ErrConnectionClosed)
}

// A subscription begins where a time falls in the stream.
func TestSubscribeFromATime(t *testing.T) {
	ctx := testContext(t)
	_, js := startNATS(t).connect(testLog(t))
	f := newFeed(t, js)
	f.publish(1, 1, 2)
	last, err := f.pub.Last(ctx, jobSubject(1))
	require.NoError(t, err)
	f.publish(1, 3)
	got := make(chan string, 10)
	for _, at := range []time.Time{last.Time, last.Time.Add(time.Hour)} {
		ready := make(chan struct{})
		cfg := SubscribeConfig{Start: StartTime, StartTime: at, Ready: func() { close(ready) }, Filters: []string{JobFilter("", "", "")}}
		stop := goRun(t, func(ctx context.Context) error { return Subscribe(ctx, js, cfg, collect(got)) })
		<-ready
		if at.Equal(last.Time) {
			expect(t, got, "01/2", "01/3")
		} else {
			f.publish(1, 4)
			expect(t, got, "01/4")
		}
		stop()
	}
	require.Empty(t, got)
}

// An event that no try handles does not hold up the others for ever: it is given up, told, and what follows goes on.
func TestDurableGivesUp(t *testing.T) {
	for _, pending := range []int{1, 20} {
		t.Run(fmt.Sprint("MaxAckPending=", pending), func(t *testing.T) {
			_, js := startNATS(t).connect(testLog(t))
			newFeed(t, js).publish(1, 1, 2, 3)
			core, logs := observer.New(zap.ErrorLevel)
			got := make(chan string, 10)
			advisory := make(chan string, 1)
			_, err := js.Conn().Subscribe("$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.>", func(msg *nats.Msg) { advisory <- string(msg.Data) })
			require.NoError(t, err)
			tries, deadLetters := 0, 0
			cfg := SubscribeConfig{
				Durable: "notifier", MaxAckPending: pending, MaxDeliver: 3, Log: zap.New(core), MinRetry: time.Millisecond, MaxRetry: 5 * time.Millisecond,
				GivenUp: func(_ context.Context, ev Event, cause error) error {
					if deadLetters++; deadLetters == 1 {
						return errors.New("nor is there a place for it yet")
					}
					got <- brief(ev) + " given up: " + cause.Error()
					return nil
				},
			}
			goRun(t, func(ctx context.Context) error {
				return Subscribe(ctx, js, cfg, func(_ context.Context, ev Event) error {
					if ev.Sequence == 2 {
						tries++
						return fmt.Errorf("poison, try %d", tries)
					}
					got <- brief(ev)
					return nil
				})
			})
			expect(t, got, "01/1", "01/2 given up: poison, try 4", "01/3")
			require.Equal(t, 1, logs.FilterMessage("event given up").Len())
			select {
			case text := <-advisory:
				require.Contains(t, text, HandlerFailed)
			case <-time.After(patience):
				require.FailNow(t, "no advisory")
			}
		})
	}
}

// Connections that were lost and back again while a handler worked have the subscription made again once, not once each: what was
// received is handed out again every time.
func TestReconnectsDuringAHandlerCountOnce(t *testing.T) {
	srv := startNATS(t)
	nc, js := srv.connect(zap.NewNop())
	f := newFeed(t, js)
	working, free, got := make(chan struct{}), make(chan struct{}), make(chan string, 100)
	stands := 0
	goRun(t, func(ctx context.Context) error {
		cfg := SubscribeConfig{Durable: "d", Heartbeat: 10 * time.Second, Ready: func() { stands++ }}
		return Subscribe(ctx, js, cfg, func(ctx context.Context, ev Event) error {
			if ev.Sequence == 1 {
				close(working)
				<-free
			}
			if ev.Sequence == 2 {
				got <- fmt.Sprint(stands, " times")
			}
			return collect(got)(ctx, ev)
		})
	})
	f.publish(1, 1)
	<-working
	for range 4 {
		srv.restart(nc)
	}
	close(free)
	expect(t, got, "01/1")
	f.publish(1, 2)
	expect(t, got, "2 times", "01/2")
}
