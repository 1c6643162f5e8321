package events

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Stored is a message as the stream has it.
type Stored struct {
	// StreamSeq is its number in the stream.
	StreamSeq uint64
	// Life is which life of the resource it belongs to; 0 for jobs and source servers.
	Life uint64
	// Sequence is its number within its resource or that life; 0 if it does not say.
	Sequence uint64
	// ID is the id of the event.
	ID string
	// Headers are those of the message, the first value of each.
	Headers map[string]string
	Data    []byte
	// Time is when the stream stored it.
	Time time.Time
}

// ConflictError says that a record was not stored, because the last message of its subject is not
// the one the record expects before it.
type ConflictError struct {
	Subject string
	// ExpectedSeq is the stream sequence that the record expected; 0 = no message.
	ExpectedSeq uint64
	// Last is the last message of the subject, read after the conflict; nil if there is none.
	Last *Stored
}

// Error implements error.
func (e *ConflictError) Error() string {
	if e.Last == nil {
		return fmt.Sprintf("subject %s: expected its last message to be %d, it has none", e.Subject, e.ExpectedSeq)
	}
	return fmt.Sprintf("subject %s: expected its last message to be %d, it is %d (event %s)",
		e.Subject, e.ExpectedSeq, e.Last.StreamSeq, e.Last.ID)
}

// Publisher stores records in the stream. It is safe for concurrent use.
type Publisher struct {
	js   jetstream.JetStream
	name string
	// config is how the stream is made when it is missing; nil = it is not made.
	config *StreamConfig
	mu     sync.Mutex
	stream jetstream.Stream
	// made is true once the stream was made, or brought to config.
	made bool
}

// NewPublisher returns a publisher to the stream of that name; empty = [StreamName].
func NewPublisher(js jetstream.JetStream, stream string) *Publisher {
	if stream == "" {
		stream = StreamName
	}
	return &Publisher{js: js, name: stream}
}

// NewStreamPublisher returns a publisher to the stream of cfg, which [PublishOnce] makes when it is missing.
func NewStreamPublisher(js jetstream.JetStream, cfg StreamConfig) *Publisher {
	return &Publisher{js: js, name: cfg.name(), config: &cfg}
}

// Publish stores a record and returns its sequence in the stream. It is stored only if the last
// message of its subject is r.PrevStreamSeq; else the error is a [*ConflictError]. After any other
// error the record may have been stored or not; publishing it again is safe: if it was stored, the
// conflict's last message is that record or a later one.
func (p *Publisher) Publish(ctx context.Context, r Record) (streamSeq uint64, err error) {
	if r.Headers == nil {
		ev, err := Decode(r.Data)
		if err != nil {
			return 0, fmt.Errorf("publish %s on %s: %w", r.ID, r.Subject, err)
		}
		if r.Headers, err = Headers(ev); err != nil {
			return 0, fmt.Errorf("publish %s on %s: %w", r.ID, r.Subject, err)
		}
	}
	msg := &nats.Msg{Subject: r.Subject, Data: r.Data, Header: nats.Header{}}
	for name, value := range r.Headers {
		msg.Header.Set(name, value)
	}
	msg.Header.Set(HeaderContentType, ContentType)
	if r.Sequence > 0 && r.Life == 0 && msg.Header.Get(HeaderLife) == "" {
		msg.Header.Set(HeaderSequence, strconv.FormatUint(r.Sequence, 10))
	}
	// The client does not try again by itself: when the stream is there again it may be another one, that has gone on.
	ack, err := p.js.PublishMsg(ctx, msg, jetstream.WithMsgID(r.ID), jetstream.WithExpectStream(p.name),
		jetstream.WithExpectLastSequencePerSubject(r.PrevStreamSeq), jetstream.WithRetryAttempts(0))
	if err == nil {
		return ack.Sequence, nil
	}
	if !isWrongLastSequence(err) {
		return 0, fmt.Errorf("publish %s on %s: %w", r.ID, r.Subject, err)
	}
	last, err := p.Last(ctx, r.Subject)
	if err != nil {
		return 0, fmt.Errorf("publish %s: conflict: %w", r.ID, err)
	}
	return 0, &ConflictError{Subject: r.Subject, ExpectedSeq: r.PrevStreamSeq, Last: last}
}

// Last reads the last message of a subject; nil if it has none.
func (p *Publisher) Last(ctx context.Context, subject string) (*Stored, error) {
	stream, err := p.handle(ctx)
	if err != nil {
		return nil, err
	}
	raw, err := stream.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the last message of %s: %w", subject, err)
	}
	return stored(raw), nil
}

// Next reads the first message of a subject that has at least that stream sequence; nil if there is none.
func (p *Publisher) Next(ctx context.Context, subject string, streamSeq uint64) (*Stored, error) {
	stream, err := p.handle(ctx)
	if err != nil {
		return nil, err
	}
	raw, err := stream.GetMsg(ctx, max(streamSeq, 1), jetstream.WithGetMsgSubject(subject))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the message of %s from %d on: %w", subject, streamSeq, err)
	}
	return stored(raw), nil
}

// handle returns the stream's handle. It holds no state of the stream that can go stale, except
// whether direct reads are allowed.
func (p *Publisher) handle(ctx context.Context) (jetstream.Stream, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stream == nil {
		stream, err := p.js.Stream(ctx, p.name)
		if err != nil {
			return nil, fmt.Errorf("stream %s: %w", p.name, err)
		}
		p.stream = stream
	}
	return p.stream, nil
}

// ensure makes the stream, or brings it to its settings, once.
func (p *Publisher) ensure(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.config == nil || p.made {
		return nil
	}
	stream, err := EnsureStream(ctx, p.js, *p.config)
	if err != nil {
		return err
	}
	p.stream, p.made = stream, true
	return nil
}

// forget says that the stream is not there any more.
func (p *Publisher) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stream, p.made = nil, false
}

// errCodeDuplicateInProcess is the server's answer of a replicated stream to an id that is just
// being stored. The client library has no name for it.
const errCodeDuplicateInProcess jetstream.ErrorCode = 10158

// isWrongLastSequence also knows the codes of replicated streams for a conflict with a message that
// is being stored at the same time.
func isWrongLastSequence(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
		api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant ||
		api.ErrorCode == errCodeDuplicateInProcess)
}

func stored(raw *jetstream.RawStreamMsg) *Stored {
	s := &Stored{
		StreamSeq: raw.Sequence, ID: raw.Header.Get(HeaderMsgID), Data: raw.Data,
		Time: raw.Time, Headers: make(map[string]string, len(raw.Header)),
	}
	for name := range raw.Header {
		s.Headers[name] = raw.Header.Get(name)
	}
	at := positionOf(s.Headers)
	s.Life, s.Sequence = at.life, at.sequence
	return s
}

// positionOf reads where a message stands among those of its resource; what the headers do not say is 0.
func positionOf(headers map[string]string) (at position) {
	sequence := HeaderSequence
	if life, ok := headers[HeaderLife]; ok {
		at.life, _ = strconv.ParseUint(life, 10, 64)
		sequence = HeaderFleetSequence
	}
	at.sequence, _ = strconv.ParseUint(headers[sequence], 10, 64)
	return at
}
