package events

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// Event is an event as a subscriber gets it.
type Event struct {
	// CloudEvent is the decoded event.
	CloudEvent cloudevents.Event
	// Subject is the NATS subject it came on.
	Subject string
	// Life is which life of the resource it belongs to (see [Life]); 0 for jobs and source servers.
	Life uint64
	// Sequence is its number within its resource, or within that life.
	Sequence uint64
	// StreamSeq is its number in the stream.
	StreamSeq uint64
	// Stored is when the stream stored it.
	Stored time.Time
	// Data is the event as it was stored, in structured JSON.
	Data []byte
}

// JobStatusChanged decodes the data of an event of type [TypeJobStatus].
func (e Event) JobStatusChanged() (JobStatusChanged, error) {
	return dataAs[JobStatusChanged](e, TypeJobStatus)
}

// SourceStateChanged decodes the data of an event of type [TypeSourceState].
func (e Event) SourceStateChanged() (SourceStateChanged, error) {
	return dataAs[SourceStateChanged](e, TypeSourceState)
}

// MigrationChanged decodes the data of an event of type [TypeMigrationPhase].
func (e Event) MigrationChanged() (MigrationChanged, error) {
	return dataAs[MigrationChanged](e, TypeMigrationPhase)
}

// FleetChanged decodes the data of an event of type [TypeFleetStatus].
func (e Event) FleetChanged() (FleetChanged, error) {
	return dataAs[FleetChanged](e, TypeFleetStatus)
}

func dataAs[T any](e Event, typ string) (data T, err error) {
	if e.CloudEvent.Type() != typ {
		return data, fmt.Errorf("event %q has type %s, not %s: %w", e.CloudEvent.ID(), e.CloudEvent.Type(), typ, ErrInvalidEvent)
	}
	if err := e.CloudEvent.DataAs(&data); err != nil {
		return data, fmt.Errorf("event %q: data: %w: %w", e.CloudEvent.ID(), ErrInvalidEvent, err)
	}
	return data, nil
}

// Start says where a new subscription begins.
type Start int

const (
	// StartAll begins with the first event the stream has.
	StartAll Start = iota
	// StartNew begins with the first event stored after the subscription was made.
	StartNew
	// StartSequence begins at [SubscribeConfig.StartSequence].
	StartSequence
	// StartTime begins with the first event that was stored at [SubscribeConfig.StartTime] or later.
	StartTime
)

// SubscribeConfig says what to subscribe to. The zero value is an ephemeral subscription to all
// events of the stream from the first.
type SubscribeConfig struct {
	// Stream defaults to [StreamName].
	Stream string
	// Durable names a position that the server keeps: the next subscription of that name goes on
	// where the last one stopped, and several at once share the events. Empty = ordered and
	// ephemeral, nothing is kept and nothing is acknowledged.
	Durable string
	// Bound has the durable used as it is, as [AddObserver] made it: nothing else of the stream is asked for, which such a user may
	// not do. Filters and Start are the durable's then.
	Bound bool
	// Filters are the subjects wanted (see [JobFilter]); none = all of the stream.
	Filters []string
	// Start is where to begin. An existing durable goes on where it is.
	Start Start
	// StartSequence is the stream sequence to begin with for [StartSequence].
	StartSequence uint64
	// StartTime is when to begin for [StartTime].
	StartTime time.Time
	// MaxAckPending is how many events of a durable may be on their way at once. The default of 1
	// keeps the order of each resource whatever happens, also when the subscriber is killed or
	// several share the durable; an event whose handler fails holds up those behind it. With more,
	// an event whose handler fails holds up its own resource only, but after a kill or with several
	// subscribers an older event of a resource may come after a newer one and is then dropped.
	MaxAckPending int
	// AckWait is how long the server waits for a subscriber that vanished before it hands the event
	// to another. A handler may take longer. Default 10 s.
	AckWait time.Duration
	// MinRetry and MaxRetry bound the wait before an event whose handler failed comes again; it
	// doubles with every failure. Default 500 ms and 30 s.
	MinRetry, MaxRetry time.Duration
	// MaxDeliver is how many times an event of a durable is handed out before it is given up: it is logged, ended with
	// [HandlerFailed] in the advisory that NATS publishes of it, told to GivenUp, and the next one of its resource follows. 0 = never:
	// an event whose handler fails comes again until it is handled, and with MaxAckPending 1 nothing passes it.
	MaxDeliver int
	// GivenUp is told of an event that was handed out MaxDeliver times, with the last error: the place for a dead letter. When it
	// returns an error it is told again, as a handler would be. Optional.
	GivenUp func(ctx context.Context, ev Event, cause error) error
	// Heartbeat is how often the server shows that it still serves the subscription; after two that
	// did not come the subscription is made again. At least 500 ms, default 2 s.
	Heartbeat time.Duration
	// Log may be nil.
	Log *zap.Logger
	// Ready is called whenever the subscription stands: at the start and after it had to be made again. Optional.
	Ready func()
}

// Handler handles one event. A durable subscription hands the event out again when it returns an
// error, unless that wraps [ErrDiscard]; an ephemeral one ends. An event may be handed out twice,
// after a crash or a lost acknowledgement.
type Handler func(ctx context.Context, ev Event) error

// ErrDiscard is wrapped by a handler's error to say that the event can never be handled: it is
// logged and not handed out again.
var ErrDiscard = errors.New("event discarded")

// Subscribe hands events to handler, one at a time and those of one resource in order, until ctx
// ends; then it returns nil. It returns a [Handler]'s error as it is for an ephemeral subscription,
// and an error when the connection was closed or the server refuses the configuration. While there
// is no server or no stream it waits. A stream that was made again is read from its beginning;
// events that are not newer than the last one handed out for their resource are dropped.
func Subscribe(ctx context.Context, js jetstream.JetStream, cfg SubscribeConfig, handler Handler) error {
	if cfg.Stream == "" {
		cfg.Stream = StreamName
	}
	orDefault(&cfg.MaxAckPending, 1)
	orDefault(&cfg.AckWait, 10*time.Second)
	orDefault(&cfg.MinRetry, 500*time.Millisecond)
	orDefault(&cfg.MaxRetry, 30*time.Second)
	orDefault(&cfg.Heartbeat, 2*time.Second)
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	s := &subscriber{
		js: js, cfg: cfg, handler: handler, handled: map[string]position{}, held: map[string]hold{},
		log: cfg.Log.With(zap.String("stream", cfg.Stream), zap.String("durable", cfg.Durable)),
	}
	return s.run(ctx)
}

type subscriber struct {
	js      jetstream.JetStream
	cfg     SubscribeConfig
	handler Handler
	log     *zap.Logger

	// origin is where the first consumer began, so that one made again does not skip anything.
	origin uint64
	// position is the last stream sequence received.
	position uint64
	// delivered is the consumer's number of the last message received, to notice a gap.
	delivered uint64
	// created is when the stream was made that origin and position belong to.
	created time.Time
	// handled holds the last event handed out, by subject.
	handled map[string]position
	held    map[string]hold
}

// hold is an event whose handler failed: later ones of its subject wait for it.
type hold struct {
	at       position
	failures int
	// expires is when the event should long have come again. Then it is gone from the stream.
	expires time.Time
}

// handlerError is an error of an ephemeral subscription's handler.
type handlerError struct{ error }

func (e handlerError) Unwrap() error { return e.error }

func (s *subscriber) run(ctx context.Context) error {
	status := s.js.Conn().StatusChanged(nats.CONNECTED, nats.CLOSED)
	defer s.js.Conn().RemoveStatusListener(status)
	failures := 0
	for {
		for len(status) > 0 {
			<-status // what happened while a handler worked is over
		}
		messages, err := s.open(ctx)
		if err == nil {
			if failures > 0 {
				s.log.Info("subscription stands again")
			}
			failures = 0
			if s.cfg.Ready != nil {
				s.cfg.Ready()
			}
			err = s.consume(ctx, messages, status)
		}
		var fromHandler handlerError
		switch {
		case errors.As(err, &fromHandler):
			return fromHandler.error
		case ctx.Err() != nil:
			return nil
		case s.js.Conn().IsClosed():
			return fmt.Errorf("subscription to stream %s: %w", s.cfg.Stream, nats.ErrConnectionClosed)
		case isMisconfigured(err):
			return fmt.Errorf("subscription to stream %s: %w", s.cfg.Stream, err)
		case errors.Is(err, errReconnected):
			continue
		}
		if failures == 0 {
			s.log.Warn("subscription interrupted, making it again", zap.Error(err))
		}
		failures++
		waitForStatus(ctx, min(10*time.Second, 100*time.Millisecond<<min(failures, 8)), status)
	}
}

func waitForStatus(ctx context.Context, d time.Duration, status <-chan nats.Status) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-status:
	case <-ctx.Done():
	}
}

// isMisconfigured knows the answers that trying again does not change.
func isMisconfigured(err error) bool {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return api.Code == 400
	}
	return errors.Is(err, jetstream.ErrInvalidConsumerName) || errors.Is(err, jetstream.ErrInvalidSubject) ||
		errors.Is(err, jetstream.ErrInvalidOption)
}

// open makes the consumer, or finds it, and begins to read.
func (s *subscriber) open(ctx context.Context) (jetstream.MessagesContext, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if !s.js.Conn().IsConnected() {
		return nil, nats.ErrDisconnected
	}
	if s.cfg.Bound {
		consumer, err := s.js.Consumer(ctx, s.cfg.Stream, s.cfg.Durable)
		if err != nil {
			return nil, fmt.Errorf("consumer %s: %w", s.cfg.Durable, err)
		}
		return s.read(consumer)
	}
	stream, err := s.js.Stream(ctx, s.cfg.Stream)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", s.cfg.Stream, err)
	}
	info := stream.CachedInfo()
	switch {
	case s.created.IsZero():
		s.created = info.Created
		switch s.cfg.Start {
		case StartNew:
			s.origin = info.State.LastSeq + 1
		case StartSequence:
			s.origin = s.cfg.StartSequence
		case StartTime:
			if s.origin, err = sequenceAt(ctx, stream, s.cfg.StartTime); err != nil {
				s.created = time.Time{} // it is asked again
				return nil, err
			}
		}
	case !s.created.Equal(info.Created):
		s.log.Warn("the stream was made again, reading it from its beginning", zap.Time("stream_created", info.Created))
		s.created, s.origin, s.position = info.Created, 0, 0
	}
	var consumer jetstream.Consumer
	made := true
	if s.cfg.Durable == "" {
		consumer, err = s.ephemeral(ctx, stream)
	} else {
		consumer, made, err = s.durable(ctx, stream)
	}
	if err != nil {
		return nil, err
	}
	// Where the consumer begins is a number of the stream that was looked at: in one made again meanwhile it would wait for events that
	// may never come.
	now, err := stream.Info(ctx)
	if err == nil && !now.Created.Equal(info.Created) {
		err = errMadeAgain
	}
	if err != nil {
		if made {
			_ = stream.DeleteConsumer(ctx, consumer.CachedInfo().Name)
		}
		return nil, fmt.Errorf("stream %s: %w", s.cfg.Stream, err)
	}
	if s.cfg.Durable != "" {
		return s.read(consumer)
	}
	s.delivered = 0
	messages, err := consumer.Messages(jetstream.PullHeartbeat(s.cfg.Heartbeat))
	if err != nil {
		return nil, fmt.Errorf("read the ephemeral consumer: %w", err)
	}
	return messages, nil
}

// errMadeAgain says that the stream is another one than when its consumer was thought out.
var errMadeAgain = errors.New("it was made again meanwhile")

// sequenceAt is the sequence of the first event that was stored at a time or later; where the next one will be if there is none.
func sequenceAt(ctx context.Context, stream jetstream.Stream, at time.Time) (uint64, error) {
	consumer, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &at, AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1,
		InactiveThreshold: time.Second,
	})
	if err != nil {
		return 0, fmt.Errorf("find the event at %s: %w", at.Format(time.RFC3339), err)
	}
	info := consumer.CachedInfo()
	_ = stream.DeleteConsumer(ctx, info.Name) // else the server does, in a second
	return info.Delivered.Stream + 1, nil
}

// abandoned is how long nobody reads a consumer that has no name until the server removes it.
const abandoned = time.Minute

// ephemeral does what the client library's ordered consumer does, but sees when the stream was
// made again: the library would wait for a sequence that the new stream may never reach.
func (s *subscriber) ephemeral(ctx context.Context, stream jetstream.Stream) (jetstream.Consumer, error) {
	consumer, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		FilterSubjects: s.cfg.Filters,
		DeliverPolicy:  jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:    max(s.origin, s.position+1, 1),
		AckPolicy:      jetstream.AckNonePolicy,
		MemoryStorage:  true,
		Replicas:       1,

		InactiveThreshold: abandoned,
	})
	if err != nil {
		return nil, fmt.Errorf("ephemeral consumer: %w", err)
	}
	return consumer, nil
}

// durable finds the consumer, or makes it, and says which.
func (s *subscriber) durable(ctx context.Context, stream jetstream.Stream) (consumer jetstream.Consumer, made bool, err error) {
	cfg := jetstream.ConsumerConfig{
		Durable:           s.cfg.Durable,
		FilterSubjects:    s.cfg.Filters,
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       max(s.origin, 1),
		AckPolicy:         jetstream.AckExplicitPolicy,
		AckWait:           s.cfg.AckWait,
		MaxAckPending:     s.cfg.MaxAckPending,
		MaxDeliver:        -1,
		InactiveThreshold: 0,
	}
	existing, err := stream.Consumer(ctx, s.cfg.Durable)
	switch {
	case err == nil:
		// Where a consumer began cannot be changed, and does not matter any more.
		began := existing.CachedInfo().Config
		cfg.DeliverPolicy, cfg.OptStartSeq, cfg.OptStartTime = began.DeliverPolicy, began.OptStartSeq, began.OptStartTime
	case !errors.Is(err, jetstream.ErrConsumerNotFound):
		return nil, false, fmt.Errorf("consumer %s: %w", s.cfg.Durable, err)
	default:
		made = true
	}
	consumer, err = stream.CreateOrUpdateConsumer(ctx, cfg)
	if err != nil {
		return nil, false, fmt.Errorf("consumer %s: %w", s.cfg.Durable, err)
	}
	return consumer, made, nil
}

// read begins to read a durable.
func (s *subscriber) read(consumer jetstream.Consumer) (jetstream.MessagesContext, error) {
	messages, err := consumer.Messages(jetstream.PullMaxMessages(min(s.cfg.MaxAckPending, 64)),
		jetstream.PullHeartbeat(s.cfg.Heartbeat))
	if err != nil {
		return nil, fmt.Errorf("read consumer %s: %w", s.cfg.Durable, err)
	}
	return messages, nil
}

// errReconnected ends the reading of a consumer: the server that is there now knows nothing of what
// was asked before, and its stream may be another one.
var errReconnected = errors.New("reconnected to NATS")

// consume handles messages until ctx ends, the connection was lost, or the consumer fails.
func (s *subscriber) consume(ctx context.Context, messages jetstream.MessagesContext, status <-chan nats.Status) error {
	defer s.giveBack(messages)
	// A handler at work is not disturbed by a reconnect.
	reading, cancel := context.WithCancelCause(ctx)
	var watcher sync.WaitGroup
	defer watcher.Wait()
	defer cancel(nil)
	watcher.Go(func() {
		select {
		case <-status:
			cancel(errReconnected)
		case <-reading.Done():
		}
	})
	for {
		msg, err := messages.Next(jetstream.NextContext(reading))
		if err != nil {
			if context.Cause(reading) != nil {
				err = context.Cause(reading)
			}
			return fmt.Errorf("next event: %w", err)
		}
		if err := s.handle(ctx, msg); err != nil {
			return err
		}
	}
}

// giveBack ends the reading; what was received and not handled is handed out again at once.
func (s *subscriber) giveBack(messages jetstream.MessagesContext) {
	if s.cfg.Durable == "" {
		messages.Stop()
		return
	}
	messages.Drain()
	for {
		msg, err := messages.Next(jetstream.NextMaxWait(time.Second))
		if err != nil {
			break
		}
		_ = msg.Nak()
	}
	messages.Stop()
	// The last acknowledgements are still in the connection's buffer, and the process may be ending.
	_ = s.js.Conn().FlushTimeout(time.Second)
}

// handle does all that is to be done with one message. An error ends the subscription.
func (s *subscriber) handle(ctx context.Context, msg jetstream.Msg) error {
	meta, err := msg.Metadata()
	if err != nil {
		return fmt.Errorf("message on %s: %w", msg.Subject(), err)
	}
	if s.cfg.Durable == "" {
		if meta.Sequence.Consumer != s.delivered+1 {
			return fmt.Errorf("message %d of the consumer came after %d", meta.Sequence.Consumer, s.delivered)
		}
		s.delivered = meta.Sequence.Consumer
	}
	s.position = max(s.position, meta.Sequence.Stream)
	log := s.log.With(zap.String("subject", msg.Subject()), zap.Uint64("stream_seq", meta.Sequence.Stream))
	ev, err := receive(msg, meta)
	if err != nil {
		log.Error("left out a message that is no event", zap.Error(err))
		s.settle(log, func() error { return msg.TermWithReason("not an event: " + err.Error()) })
		return nil //nolint:nilerr // the subscription goes on with the next message
	}
	log = log.With(zap.String("event_id", ev.CloudEvent.ID()))

	at := position{ev.Life, ev.Sequence}
	if !at.after(s.handled[ev.Subject]) {
		s.confirm(ctx, log, msg)
		return nil
	}
	if held, ok := s.held[ev.Subject]; ok && at.after(held.at) && time.Now().Before(held.expires) {
		s.settle(log, func() error { return msg.NakWithDelay(s.retryDelay(meta.NumDelivered)) })
		return nil
	}

	err = s.call(ctx, msg, ev)
	switch {
	case err == nil:
		s.confirm(ctx, log, msg)
	case errors.Is(err, ErrDiscard):
		log.Error("event discarded", zap.Error(err))
		s.settle(log, func() error { return msg.TermWithReason(err.Error()) })
	case s.cfg.Durable == "":
		return handlerError{err}
	case ctx.Err() != nil:
		// Shutting down: another subscriber may take it at once.
		s.settle(log, msg.Nak)
		return ctx.Err()
	case s.exhausted(ev.Subject, at, meta) && s.giveUp(ctx, ev, err) == nil:
		log.Error("event given up", zap.Uint64("handed_out", meta.NumDelivered), zap.Error(err))
		s.settle(log, func() error { return msg.TermWithReason(HandlerFailed + ": " + err.Error()) })
	default:
		delay := s.retryDelay(meta.NumDelivered)
		if meta.NumDelivered == 1 {
			log.Warn("event not handled, it comes again", zap.Duration("in", delay), zap.Error(err))
		}
		s.held[ev.Subject] = hold{at: at, failures: s.failures(ev.Subject, at) + 1, expires: time.Now().Add(2 * (s.cfg.MaxRetry + s.cfg.AckWait))}
		s.settle(log, func() error { return msg.NakWithDelay(delay) })
		return nil
	}
	s.handled[ev.Subject] = at
	delete(s.held, ev.Subject)
	return nil
}

// HandlerFailed begins the reason with which an event is ended that was handed out [SubscribeConfig.MaxDeliver] times.
const HandlerFailed = "its handler failed"

// failures is how often the handler of an event failed here.
func (s *subscriber) failures(subject string, at position) int {
	if held, ok := s.held[subject]; ok && held.at == at {
		return held.failures
	}
	return 0
}

// exhausted reports whether an event whose handler failed just now is not to be handed out again. The server's count also knows of
// subscribers that died of the event, but counts an event too that only waited for another of its resource.
func (s *subscriber) exhausted(subject string, at position, meta *jetstream.MsgMetadata) bool {
	tries := s.failures(subject, at) + 1
	if s.cfg.MaxAckPending == 1 {
		tries = max(tries, int(min(meta.NumDelivered, math.MaxInt32)))
	}
	return s.cfg.MaxDeliver > 0 && tries >= s.cfg.MaxDeliver
}

func (s *subscriber) giveUp(ctx context.Context, ev Event, cause error) error {
	if s.cfg.GivenUp == nil {
		return nil
	}
	return s.cfg.GivenUp(ctx, ev, cause)
}

// call runs the handler and keeps the event from being handed to another while it works.
func (s *subscriber) call(ctx context.Context, msg jetstream.Msg, ev Event) error {
	if s.cfg.Durable == "" {
		return s.handler(ctx, ev)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		ticker := time.NewTicker(s.cfg.AckWait / 3)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				_ = msg.InProgress()
			case <-stop:
				return
			}
		}
	}()
	defer func() { close(stop); <-stopped }()
	return s.handler(ctx, ev)
}

// confirm acknowledges an event and waits for the server to say so. A lost acknowledgement would
// hold up those behind it for AckWait; so it is sent again, also after a reconnect. When it cannot be
// sent the event comes again, and is dropped as not newer.
func (s *subscriber) confirm(ctx context.Context, log *zap.Logger, msg jetstream.Msg) {
	if s.cfg.Durable == "" {
		return
	}
	const pause = 100 * time.Millisecond
	deadline := time.Now().Add(s.cfg.AckWait)
	unanswered := 0
	for {
		try, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		err := msg.DoubleAck(try)
		cancel()
		if err == nil {
			return
		}
		if errors.Is(err, nats.ErrNoResponders) {
			unanswered++ // the consumer is gone, or it is being started
		}
		if ctx.Err() != nil || unanswered > 10 || errors.Is(err, nats.ErrConnectionClosed) || time.Now().After(deadline) {
			log.Debug("acknowledgement not confirmed, the event comes again", zap.Error(err))
			return
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// settle tells the server what else becomes of an event. When that fails it comes again after AckWait.
func (s *subscriber) settle(log *zap.Logger, ack func() error) {
	if s.cfg.Durable == "" {
		return
	}
	if err := ack(); err != nil {
		log.Debug("answer not sent, the event comes again", zap.Error(err))
	}
}

func (s *subscriber) retryDelay(delivered uint64) time.Duration {
	if delivered == 0 || delivered > 16 {
		return s.cfg.MaxRetry
	}
	return min(s.cfg.MaxRetry, s.cfg.MinRetry<<(delivered-1))
}

func receive(msg jetstream.Msg, meta *jetstream.MsgMetadata) (Event, error) {
	ce, err := Decode(msg.Data())
	if err != nil {
		return Event{}, err
	}
	at, err := positionIn(ce)
	if err != nil {
		return Event{}, err
	}
	return Event{
		CloudEvent: ce, Subject: msg.Subject(), Life: at.life, Sequence: at.sequence,
		StreamSeq: meta.Sequence.Stream, Stored: meta.Timestamp, Data: msg.Data(),
	}, nil
}
