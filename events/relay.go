package events

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

// Outbox holds the records that were written in one transaction with the transitions they tell of.
// Both methods are safe for concurrent use.
type Outbox interface {
	// Pending returns up to limit records that are not marked published, oldest first. For any
	// subject they are in the order of their sequence, and none before them is left out.
	Pending(ctx context.Context, limit int) ([]Record, error)
	// MarkPublished notes the stream sequence of a record that Pending returned. It may be called again for
	// the same record, with the same or another sequence, also by another relay. streamSeq is 0 for a
	// record that the stream does not have and can no longer take in order. Error: [ErrRewound].
	MarkPublished(ctx context.Context, rec Record, streamSeq uint64) error
}

// Rewinder is an Outbox that can be published again. With it a lost stream is filled again by the relay that notices the
// loss, before anything newer is published; without it new events go on in what is left of the stream.
type Rewinder interface {
	// RewindAll makes every record one that is not marked published, and whose predecessor has no place in the stream.
	// When it returns, no call of Pending returns a record of before.
	RewindAll(ctx context.Context) error
}

// ErrRewound says that the outbox was rewound: what was read of it before is void. What was published of it may be in a
// stream that is lost.
var ErrRewound = errors.New("the outbox was rewound")

// RelayConfig holds a relay's settings. The zero value of each is its default.
type RelayConfig struct {
	// Stream is created when it is missing, and brought to these settings when it is there, unless KeepStream is set.
	Stream     StreamConfig
	KeepStream bool
	// Batch is how many records are read at once. Default 500.
	Batch int
	// Parallel is how many subjects are published at once. Default 32.
	Parallel int
	// Interval is how often the outbox is read when nothing wakes the relay. Default 5 s.
	Interval time.Duration
	// AckTimeout is how long to wait for the stream's answer to one record. Default 5 s.
	AckTimeout time.Duration
	// MinBackoff and MaxBackoff bound the waits while NATS or the outbox fails. Default 200 ms and 15 s.
	MinBackoff, MaxBackoff time.Duration
}

// RelayStats counts what a relay did since it was made.
type RelayStats struct {
	// Published counts the records this relay stored.
	Published uint64
	// Found counts the records that were in the stream already: an ack was lost, or another relay was faster.
	Found uint64
	// Superseded counts the records that the stream had no place for any more.
	Superseded uint64
	// Outages counts the times NATS or the outbox stopped answering.
	Outages uint64
	// StreamLosses counts the streams that no longer held what was published: they were deleted and made again, or restored
	// from an older copy. See [Rewinder].
	StreamLosses uint64
	// Down is true while NATS or the outbox does not answer.
	Down bool
}

// Relay moves an outbox to the stream: every record once, and those of one subject in order.
//
// Each record is stored only if the last message of its subject is the record before it. On a
// conflict the relay looks at the subject's last message: if it is the record itself or a later
// one, an earlier try or another relay has stored it; if it is an earlier one, the record follows
// it. So no lock, no clock and no duplicate window is needed for several relays to work side by
// side. While NATS is away the relay waits, and goes on when the connection is back.
type Relay struct {
	js     jetstream.JetStream
	outbox Outbox
	pub    interface {
		Publish(ctx context.Context, r Record) (uint64, error)
		Next(ctx context.Context, subject string, streamSeq uint64) (*Stored, error)
	}
	cfg  RelayConfig
	log  *zap.Logger
	wake chan struct{}

	published, found, superseded, outages, losses atomic.Uint64
	down                                          atomic.Bool

	mu sync.Mutex
	// lossSeen is when the stream that was last reported as lost was created.
	lossSeen time.Time
	// refused holds the records the stream does not take, so that each is reported once.
	refused map[string]bool
	// rewinding is held while the outbox is rewound.
	rewinding sync.Mutex

	// Used by Run alone.
	streamReady bool
	downSince   time.Time
	failures    int
}

// NewRelay returns a relay; Run does the work.
func NewRelay(js jetstream.JetStream, outbox Outbox, cfg RelayConfig, log *zap.Logger) *Relay {
	orDefault(&cfg.Batch, 500)
	orDefault(&cfg.Parallel, 32)
	orDefault(&cfg.Interval, 5*time.Second)
	orDefault(&cfg.AckTimeout, 5*time.Second)
	orDefault(&cfg.MinBackoff, 200*time.Millisecond)
	orDefault(&cfg.MaxBackoff, 15*time.Second)
	return &Relay{
		js: js, outbox: outbox, pub: NewPublisher(js, cfg.Stream.name()), cfg: cfg,
		log:  log.With(zap.String("stream", cfg.Stream.name())),
		wake: make(chan struct{}, 1), refused: map[string]bool{},
	}
}

func orDefault[T int | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

// Wake says that there are new records. It does not block.
func (r *Relay) Wake() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Stats returns the relay's counters.
func (r *Relay) Stats() RelayStats {
	return RelayStats{
		Published: r.published.Load(), Found: r.found.Load(), Superseded: r.superseded.Load(),
		Outages: r.outages.Load(), StreamLosses: r.losses.Load(), Down: r.down.Load(),
	}
}

// Run relays until ctx ends, and then returns nil. It returns an error only when the connection was
// closed for good.
func (r *Relay) Run(ctx context.Context) error {
	status := r.js.Conn().StatusChanged(nats.CONNECTED, nats.DISCONNECTED, nats.RECONNECTING, nats.CLOSED)
	defer r.js.Conn().RemoveStatusListener(status)
	limit := r.cfg.Batch
	for ctx.Err() == nil {
		if r.js.Conn().IsClosed() {
			return fmt.Errorf("relay to stream %s: %w", r.cfg.Stream.name(), nats.ErrConnectionClosed)
		}
		read, moved, err := r.round(ctx, limit, status)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, ErrRewound) {
			continue
		}
		if err != nil {
			r.noteFailure(err)
			pause := r.backoff()
			if isStreamMissing(err) {
				pause = max(pause, deletion)
			}
			r.wait(ctx, pause, status, false)
			continue
		}
		r.noteSuccess()
		switch {
		case read < limit:
			limit = r.cfg.Batch
			r.wait(ctx, r.cfg.Interval, status, true)
		case moved == 0 && limit < 64*r.cfg.Batch:
			// A whole batch of records the stream does not take must not hide those behind it.
			limit *= 2
		case moved == 0:
			r.wait(ctx, r.cfg.Interval, status, true)
		}
	}
	return nil
}

// deletion is how long a relay leaves a stream alone that is not there. A stream that is made again while the server still deletes
// the one of before loses its directory with it, and takes nothing until the server is started again (nats-server 2.15).
const deletion = time.Second

// wait returns after d, when the connection is back, when ctx ends, or, if asked, when the relay is woken.
func (r *Relay) wait(ctx context.Context, d time.Duration, status <-chan nats.Status, wakeable bool) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	wake := r.wake
	if !wakeable {
		wake = nil
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case <-wake:
			return
		case s, open := <-status:
			if !open || s == nats.CONNECTED || s == nats.CLOSED {
				return
			}
		}
	}
}

func (r *Relay) backoff() time.Duration {
	d := r.cfg.MaxBackoff
	if shift := r.failures - 1; shift < 16 {
		d = min(d, r.cfg.MinBackoff<<shift)
	}
	return d/2 + rand.N(d/2+1)
}

func (r *Relay) noteFailure(err error) {
	r.failures++
	if r.down.Swap(true) {
		return
	}
	r.downSince = time.Now()
	r.outages.Add(1)
	r.log.Warn("events are delayed: they wait in the outbox until this is over", zap.Error(err))
}

func (r *Relay) noteSuccess() {
	r.failures = 0
	if r.down.Swap(false) {
		r.log.Info("events flow again", zap.Duration("delayed_for", time.Since(r.downSince)))
	}
}

// round publishes what is pending, at most limit records. The error says that NATS or the outbox
// did not answer. moved counts the records that were marked published.
func (r *Relay) round(ctx context.Context, limit int, status <-chan nats.Status) (read, moved int, err error) {
	if !r.js.Conn().IsConnected() {
		err := fmt.Errorf("no connection to NATS: %w", nats.ErrDisconnected)
		if why := r.js.Conn().LastError(); why != nil {
			err = fmt.Errorf("%w: %w", err, why)
		}
		return 0, 0, err
	}
	if !r.streamReady {
		setup, cancel := context.WithTimeout(ctx, r.cfg.AckTimeout)
		defer cancel()
		if err := r.ensureStream(setup); err != nil {
			return 0, 0, err
		}
		r.streamReady = true
	}
	records, err := r.outbox.Pending(ctx, limit)
	if err != nil {
		return 0, 0, fmt.Errorf("read the outbox: %w", err)
	}
	if len(records) == 0 {
		return 0, 0, nil
	}
	var subjects []string
	queues := map[string][]Record{}
	for _, rec := range records {
		if queues[rec.Subject] == nil {
			subjects = append(subjects, rec.Subject)
		}
		queues[rec.Subject] = append(queues[rec.Subject], rec)
	}

	// No answer comes to what was asked before the connection broke: do not wait for it.
	rctx, cancel := context.WithCancelCause(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() {
		for {
			select {
			case s, open := <-status:
				if !open || s != nats.CONNECTED {
					cancel(nats.ErrDisconnected)
					return
				}
			case <-rctx.Done():
				return
			}
		}
	})

	var done atomic.Int64
	group, gctx := errgroup.WithContext(rctx)
	group.SetLimit(r.cfg.Parallel)
	for _, subject := range subjects {
		group.Go(func() error {
			n, err := r.drain(gctx, queues[subject])
			done.Add(int64(n))
			return err
		})
	}
	err = group.Wait()
	if cause := context.Cause(rctx); err != nil && cause != nil && ctx.Err() == nil {
		err = cause
	}
	cancel(nil)
	watcher.Wait()
	if isStreamMissing(err) {
		r.streamReady = false
	}
	return len(records), int(done.Load()), err
}

// ensureStream makes the stream, or brings it to its settings.
func (r *Relay) ensureStream(ctx context.Context) error {
	if r.cfg.KeepStream {
		_, err := r.js.Stream(ctx, r.cfg.Stream.name())
		if !errors.Is(err, jetstream.ErrStreamNotFound) {
			return err
		}
	}
	_, err := EnsureStream(ctx, r.js, r.cfg.Stream)
	return err
}

// drain publishes the records of one subject, one after the other. It stops at the first that the
// stream does not take; an error means that nothing was answered.
func (r *Relay) drain(ctx context.Context, queue []Record) (moved int, err error) {
	var prev uint64
	for _, rec := range queue {
		if prev > 0 {
			if rec.PrevStreamSeq > 0 {
				// Between this record and the one before it in the queue is one that is marked published: the outbox was
				// rewound, and another relay marked what it had published before.
				return moved, ErrRewound
			}
			rec.PrevStreamSeq = prev
		}
		if ctx.Err() != nil {
			return moved, ctx.Err()
		}
		seq, err := r.publish(ctx, rec)
		if err != nil {
			if isRefusal(err) {
				r.noteRefusal(rec, err)
				return moved, nil
			}
			return moved, err
		}
		if err := r.mark(ctx, rec, seq); err != nil {
			return moved, err
		}
		moved++
		prev = seq
	}
	return moved, nil
}

// mark also works while the relay shuts down: what is stored and not marked costs a conflict later.
func (r *Relay) mark(ctx context.Context, rec Record, streamSeq uint64) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.cfg.AckTimeout)
	defer cancel()
	if err := r.outbox.MarkPublished(ctx, rec, streamSeq); err != nil {
		return fmt.Errorf("mark %s published: %w", rec.ID, err)
	}
	return nil
}

// maxTurns bounds how often one record is tried again at once after a conflict; the next round goes
// on. Several in a row need several relays on a replicated stream, or a replica that lags.
const maxTurns = 8

// publish stores one record, or finds it stored. The stream sequence is 0 if it has been superseded.
func (r *Relay) publish(ctx context.Context, rec Record) (streamSeq uint64, err error) {
	for turn := range maxTurns {
		if turn > 1 {
			pause(ctx, 5*time.Millisecond<<(turn-2))
		}
		streamSeq, err = r.try(ctx, rec)
		if err == nil {
			r.published.Add(1)
			return streamSeq, nil
		}
		var conflict *ConflictError
		if !errors.As(err, &conflict) {
			return 0, err
		}
		last := conflict.Last
		missing, err := r.misses(ctx, rec, last)
		if err != nil {
			return 0, err
		}
		if missing {
			lost, err := r.checkLoss(ctx, rec)
			if err != nil {
				return 0, err
			}
			if rewinder, ok := r.outbox.(Rewinder); ok && lost {
				if err := r.rewind(ctx, rewinder); err != nil {
					return 0, err
				}
				return 0, ErrRewound
			}
		}
		switch {
		case last == nil:
			rec.PrevStreamSeq = 0
		case last.Sequence == rec.Sequence:
			r.found.Add(1)
			return last.StreamSeq, nil
		case last.Sequence < rec.Sequence:
			rec.PrevStreamSeq = last.StreamSeq
		default:
			seq, known, err := r.find(ctx, rec, last)
			if err != nil {
				return 0, err
			}
			if known {
				return seq, nil
			}
		}
	}
	return 0, err
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func (r *Relay) try(ctx context.Context, rec Record) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.AckTimeout)
	defer cancel()
	return r.pub.Publish(ctx, rec)
}

// find looks for a record in the stream that has a later one of its subject already. A replica that
// answers may lag; so a record is given up only when a later one is seen and it is not.
func (r *Relay) find(ctx context.Context, rec Record, last *Stored) (streamSeq uint64, known bool, err error) {
	from := rec.PrevStreamSeq + 1
	if last.StreamSeq < from {
		from = 1
	}
	for {
		msg, err := r.pub.Next(ctx, rec.Subject, from)
		switch {
		case err != nil:
			return 0, false, err
		case msg == nil:
			return 0, false, nil
		case msg.Sequence == rec.Sequence:
			r.found.Add(1)
			return msg.StreamSeq, true, nil
		case msg.Sequence > rec.Sequence:
			r.superseded.Add(1)
			r.log.Error("the stream has a later event of this resource and not this one; events replay --new-stream makes a stream that has it",
				zap.String("event_id", rec.ID), zap.String("subject", rec.Subject),
				zap.Uint64("sequence", rec.Sequence), zap.Uint64("later_sequence", msg.Sequence))
			return 0, true, nil
		}
		from = msg.StreamSeq + 1
	}
}

// misses reports whether the stream does not have the record before rec, whose subject's last message is last, at its place.
func (r *Relay) misses(ctx context.Context, rec Record, last *Stored) (bool, error) {
	switch {
	case rec.PrevStreamSeq == 0:
		return false, nil
	case last == nil || last.StreamSeq < rec.PrevStreamSeq:
		return true, nil
	case last.StreamSeq == rec.PrevStreamSeq || last.Sequence >= rec.Sequence:
		return false, nil
	}
	// An earlier event of the subject stands behind the record before this one: another stream, that has grown since.
	msg, err := r.pub.Next(ctx, rec.Subject, rec.PrevStreamSeq)
	return err == nil && (msg == nil || msg.StreamSeq != rec.PrevStreamSeq), err
}

// rewind has the whole outbox published again. Several subjects of one round notice a loss; once is enough for them, and
// once more does no harm.
func (r *Relay) rewind(ctx context.Context, outbox Rewinder) error {
	r.rewinding.Lock()
	defer r.rewinding.Unlock()
	if ctx.Err() != nil {
		return ErrRewound // another subject's loss ended the round
	}
	if err := outbox.RewindAll(ctx); err != nil {
		return fmt.Errorf("rewind the outbox: %w", err)
	}
	return nil
}

// checkLoss finds out why the message before rec is not in the stream: it has aged out, or the
// stream is not the one it was published to, which is a loss.
func (r *Relay) checkLoss(ctx context.Context, rec Record) (lost bool, err error) {
	stream, err := r.js.Stream(ctx, r.cfg.Stream.name())
	if err != nil {
		return false, fmt.Errorf("stream %s: %w", r.cfg.Stream.name(), err)
	}
	info := stream.CachedInfo()
	state := info.State
	if rec.PrevStreamSeq <= state.LastSeq && rec.PrevStreamSeq < state.FirstSeq {
		return false, nil
	}
	r.mu.Lock()
	seen := r.lossSeen.Equal(info.Created)
	r.lossSeen = info.Created
	r.mu.Unlock()
	if seen {
		return true, nil
	}
	r.losses.Add(1)
	follows := "new events go on without those of before"
	if _, ok := r.outbox.(Rewinder); ok {
		follows = "all that the outbox still has is published again"
	}
	r.log.Error("the stream lost events that were published: it was made again or restored from an older copy; "+follows,
		zap.Time("stream_created", info.Created), zap.Uint64("stream_first_seq", state.FirstSeq),
		zap.Uint64("stream_last_seq", state.LastSeq), zap.Uint64("recorded_seq", rec.PrevStreamSeq),
		zap.String("subject", rec.Subject))
	return true, nil
}

func (r *Relay) noteRefusal(rec Record, err error) {
	r.mu.Lock()
	seen := r.refused[rec.ID]
	r.refused[rec.ID] = true
	r.mu.Unlock()
	if !seen {
		r.log.Error("the stream does not take this event; later events of the resource wait behind it, the relay keeps trying",
			zap.String("event_id", rec.ID), zap.String("subject", rec.Subject), zap.Error(err))
	}
}

// isRefusal tells an answer that concerns one record from one that concerns all.
func isRefusal(err error) bool {
	if Permanent(err) {
		return true
	}
	var conflict *ConflictError
	if errors.As(err, &conflict) {
		return true
	}
	var api *jetstream.APIError
	if !errors.As(err, &api) || api.ErrorCode == jetstream.JSErrCodeStreamNotFound {
		return false
	}
	return api.Code == 400
}
