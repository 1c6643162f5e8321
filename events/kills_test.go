package events

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"pgregory.net/rapid"

	"github.com/drover/drover/test/property"
)

// errKilled is what a process that was killed would have seen if it had lived.
var errKilled = errors.New("killed")

// life is one life of a process with a relay. It is killed at its n-th step, a call of the outbox or of the stream: before the
// step, or when the step is done and its answer not yet there. From then on nothing that the process still does has an effect.
type life struct {
	*rewindable
	*Publisher
	cancel context.CancelFunc
	left   atomic.Int64
	after  bool
	dead   atomic.Bool
}

func (l *life) step(do func() error) error {
	n := l.left.Add(-1)
	if l.dead.Load() || n == 0 && !l.after {
		l.kill()
		return errKilled
	}
	err := do()
	if n == 0 {
		l.kill()
	}
	if l.dead.Load() {
		return errKilled
	}
	return err
}

func (l *life) kill() {
	l.dead.Store(true)
	l.cancel()
}

func (l *life) Pending(ctx context.Context, limit int) (records []Record, err error) {
	err = l.step(func() error { records, err = l.rewindable.Pending(ctx, limit); return err })
	return records, err
}

func (l *life) MarkPublished(ctx context.Context, rec Record, seq uint64) error {
	return l.step(func() error { return l.rewindable.MarkPublished(ctx, rec, seq) })
}

func (l *life) RewindAll(ctx context.Context) error {
	return l.step(func() error { return l.rewindable.RewindAll(ctx) })
}

func (l *life) Publish(ctx context.Context, rec Record) (seq uint64, err error) {
	err = l.step(func() error { seq, err = l.Publisher.Publish(ctx, rec); return err })
	return seq, err
}

// plan says how the life of a process ends; steps 0: it is not killed.
type plan struct {
	steps int
	after bool
}

func plans(t *rapid.T, name string) (all []plan) {
	for i := range rapid.IntRange(0, 6).Draw(t, name+" lives") {
		all = append(all, plan{rapid.IntRange(1, 25).Draw(t, fmt.Sprint(name, " steps ", i)), rapid.Bool().Draw(t, fmt.Sprint(name, " after ", i))})
	}
	return append(all, plan{})
}

// live runs one life after the other until ctx ends.
func live(ctx context.Context, js jetstream.JetStream, o *rewindable, lives []plan) {
	for _, p := range lives {
		inner, cancel := context.WithCancel(ctx)
		l := &life{rewindable: o, Publisher: NewPublisher(js, ""), cancel: cancel, after: p.after}
		l.left.Store(int64(p.steps))
		relay := NewRelay(js, l, quick(RelayConfig{Batch: 7, Parallel: 3, Interval: 2 * time.Millisecond, AckTimeout: 500 * time.Millisecond}), zap.NewNop())
		relay.pub = l
		_ = relay.Run(inner)
		cancel()
	}
}

// Whatever is killed, between whichever two steps, and whatever becomes of NATS meanwhile: in the end the stream holds what the
// outbox holds, each once, in order.
func TestStreamIsTheOutboxWhateverIsKilled(t *testing.T) {
	// Each check is a server or two: as many as the package's other properties have would take minutes.
	property.Checks(t, 15)
	whole := t
	property.Check(t, func(t *rapid.T) {
		srv := startNATS(whole) // one that deletes a stream may still be asked for it by a relay that was killed
		defer srv.stop()
		nc, js := srv.connect(zap.NewNop())
		defer nc.Close()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, err := EnsureStream(ctx, js, StreamConfig{})
		require.NoError(t, err)

		o := &rewindable{newOutbox()}
		jobs := rapid.IntRange(1, 4).Draw(t, "jobs")
		written := make([]uint64, jobs)
		write := func(job int) {
			written[job]++
			o.add(jobRecord(t, job, written[job]))
		}
		var relays sync.WaitGroup
		defer relays.Wait()
		defer cancel()
		for i := range rapid.IntRange(1, 3).Draw(t, "relays") {
			lives := plans(t, fmt.Sprint("relay ", i))
			nc, js := srv.connect(zap.NewNop())
			relays.Go(func() {
				defer nc.Close()
				live(ctx, js, o, lives)
			})
		}
		for i := range rapid.IntRange(1, 6).Draw(t, "turns") {
			for range rapid.IntRange(0, 10).Draw(t, fmt.Sprint("events ", i)) {
				write(rapid.IntRange(0, jobs-1).Draw(t, "job"))
			}
			switch rapid.SampledFrom([]string{"nothing", "nothing", "NATS is killed", "NATS loses its data", "the outbox is rewound"}).Draw(t, fmt.Sprint("turn ", i)) {
			case "NATS is killed":
				srv.restart(nc)
			case "NATS loses its data":
				srv.stop()
				require.NoError(t, os.RemoveAll(srv.opts.StoreDir))
				srv.restart(nc)
			case "the outbox is rewound":
				require.NoError(t, o.RewindAll(ctx))
			}
		}
		// A loss is noticed by what comes after it.
		for job := range jobs {
			write(job)
		}
		var got map[string][]uint64
		complete := func() bool {
			got = sequences(ctx, js)
			for job, n := range written {
				if uint64(len(got[jobSubject(job)])) < n {
					return false
				}
			}
			pending, err := o.Pending(ctx, 1)
			return err == nil && len(pending) == 0
		}
		for !complete() {
			if ctx.Err() != nil {
				require.FailNow(t, "events are missing", "written %v, stream %v", written, got)
			}
			pause(ctx, 2*time.Millisecond)
		}
		for job, n := range written {
			var want []uint64
			for seq := range n {
				want = append(want, seq+1)
			}
			require.Equal(t, want, got[jobSubject(job)], "job %d", job)
		}
	})
}

// sequences are the numbers of the events that the stream holds, by subject; nil when it cannot be read.
func sequences(ctx context.Context, js jetstream.JetStream) map[string][]uint64 {
	stream, err := js.Stream(ctx, StreamName)
	if err != nil {
		return nil
	}
	all := map[string][]uint64{}
	state := stream.CachedInfo().State
	for seq := max(state.FirstSeq, 1); seq <= state.LastSeq; seq++ {
		msg, err := stream.GetMsg(ctx, seq)
		if err != nil {
			return nil
		}
		all[msg.Subject] = append(all[msg.Subject], stored(msg).Sequence)
	}
	return all
}

// A server whose disk quota is used up takes no event. They wait, jobs do not, and when there is room all follow in order.
func TestRelayWaitsForRoom(t *testing.T) {
	srv := newNATS(t)
	srv.opts.JetStreamMaxStore = 16 << 10
	srv.start()
	nc, js := srv.connect(zap.NewNop())
	o := newOutbox()
	total := fill(t, o, 5, 30)
	relay := NewRelay(js, o, quick(RelayConfig{}), zap.NewNop())
	goRun(t, relay.Run)
	require.Eventually(t, func() bool { return relay.Stats().Down }, patience, time.Millisecond)
	require.NotZero(t, o.waiting())
	require.NotZero(t, relay.Stats().Published)
	srv.opts.JetStreamMaxStore = 1 << 30
	srv.restart(nc)
	o.await(t, total)
	requireEachOnceInOrder(t, readStream(t, js), 5, 30)
	require.Zero(t, relay.Stats().StreamLosses)
}
