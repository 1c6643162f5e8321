package events

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/drover/drover/fleet"
)

// MigrationChanged says that the migration of a server is in a new phase.
type MigrationChanged struct {
	// AccountID is the account of the endpoint that the server is migrated by.
	AccountID string `json:"AccountId"`
	// Fleet is the name of the fleet.
	Fleet string `json:"Fleet"`
	// Wave is the wave of the fleet that the server is in.
	Wave string `json:"Wave,omitempty"`
	// SourceID is the source server.
	SourceID string `json:"SourceId"`
	// Name is the source server's.
	Name string `json:"Name,omitempty"`
	// Began is when the workflow of the migration began: the time of its first run, kept over continue-as-new. A server
	// may be migrated again, by the same fleet or by another of the same name; each time is a life of its own (see
	// [Life]) and Began tells them apart.
	Began time.Time `json:"Began"`
	// Sequence numbers the transitions of this life, from 1.
	Sequence uint64 `json:"Sequence"`
	// Phase is where the migration is.
	Phase fleet.Phase `json:"Phase"`
	// PreviousPhase is where it was; it is empty for the first event of a life.
	PreviousPhase fleet.Phase `json:"PreviousPhase,omitempty"`
	// JobID is the replication job, once there is one.
	JobID string `json:"JobId,omitempty"`
	// JobStatus is what the migration last knew of it.
	JobStatus string `json:"JobStatus,omitempty"`
	// ImageID is the newest image, once there is one.
	ImageID string `json:"ImageId,omitempty"`
	// Runs counts the runs that made an image.
	Runs int `json:"Runs"`
	// Attempts counts the starts of the current run after it failed.
	Attempts int `json:"Attempts"`
	// Reason says what the migration waits for.
	Reason string `json:"Reason,omitempty"`
	// Error says why it failed, or what the last failure was.
	Error string `json:"Error,omitempty"`
	// Time is when the transition happened.
	Time time.Time `json:"Time"`
}

// FleetChanged says that a fleet has a new status, or has come to another wave.
type FleetChanged struct {
	// AccountID is the account of the endpoint that its servers are migrated by.
	AccountID string `json:"AccountId"`
	// Fleet is the name of the fleet.
	Fleet string `json:"Fleet"`
	// Began is when the workflow of the fleet began: the time of its first run, kept over continue-as-new. The name may be
	// used again once the fleet has ended; Began tells the fleets of one name apart (see [Life]).
	Began time.Time `json:"Began"`
	// Sequence numbers the transitions of this life, from 1.
	Sequence uint64 `json:"Sequence"`
	// Status is how the fleet is.
	Status fleet.State `json:"Status"`
	// PreviousStatus is how it was; it is empty for the first event of a life.
	PreviousStatus fleet.State `json:"PreviousStatus,omitempty"`
	// Wave is the wave that is going on, or the last one.
	Wave string `json:"Wave,omitempty"`
	// Reason says why the fleet is Paused or waits.
	Reason string `json:"Reason,omitempty"`
	// Done counts the migrations that have ended well.
	Done int `json:"Done"`
	// Failed counts those that have ended otherwise.
	Failed int `json:"Failed"`
	// Open counts those that have not ended.
	Open int `json:"Open"`
	// Time is when the transition happened.
	Time time.Time `json:"Time"`
}

// Subject implements [Payload].
func (d MigrationChanged) Subject() Subject {
	return Subject{Kind: KindMigration, Account: d.AccountID, Fleet: d.Fleet, ID: d.SourceID}
}

// CloudEvent implements [Payload].
func (d MigrationChanged) CloudEvent() (cloudevents.Event, error) {
	d.Time, d.Began = d.Time.UTC(), d.Began.UTC()
	return droverEvent(TypeMigrationPhase, d.AccountID, d.Fleet+"/"+d.SourceID, d.Began, d.Sequence, d.Time, d, []field{
		{"fleet", d.Fleet == ""}, {"source id", d.SourceID == ""}, {"phase", d.Phase == ""},
	})
}

// Subject implements [Payload].
func (d FleetChanged) Subject() Subject {
	return Subject{Kind: KindFleet, Account: d.AccountID, Fleet: d.Fleet}
}

// CloudEvent implements [Payload].
func (d FleetChanged) CloudEvent() (cloudevents.Event, error) {
	d.Time, d.Began = d.Time.UTC(), d.Began.UTC()
	return droverEvent(TypeFleetStatus, d.AccountID, d.Fleet, d.Began, d.Sequence, d.Time, d, []field{
		{"fleet", d.Fleet == ""}, {"status", d.Status == ""},
	})
}

func droverEvent(typ, account, resource string, began time.Time, seq uint64, at time.Time, data any, fields []field) (cloudevents.Event, error) {
	fields = append(fields, field{"account id", account == ""}, field{"beginning", began.UnixNano() <= 0}, field{"time", at.IsZero()})
	if err := complete(typ, resource, seq, fields); err != nil {
		return cloudevents.Event{}, err
	}
	life := uint64(began.UnixNano())
	return wrap(envelope{
		// The stream drops a second message of the same id, whatever its subject: so the account is part of it.
		ID:     EventID(url.PathEscape(account)+"/"+resource+"/"+strconv.FormatUint(life, 10), seq),
		Source: DroverSource(account), Type: typ, Subject: resource, Life: life, Sequence: seq, Time: at,
	}, data)
}

// DroverSource is the CloudEvents source of the events of an account's migrations and fleets.
func DroverSource(account string) string { return "/drover/" + url.PathEscape(account) }

// publishTimeout bounds one call of [PublishOnce] whose context has no earlier end.
const publishTimeout = 10 * time.Second

// PublishOnce stores an event, unless the stream has it, or a later one of its resource, already. So it may be called again after any
// error, and several times at once: the event is stored at most once, and the subject stays in order. An event that comes
// too late is left out, which is no error: its resource has gone on.
//
// Later is what belongs to a later life, or has a larger sequence in the same (see [Life]). The stream is made when it
// is missing, if the publisher knows how (see [NewStreamPublisher]).
//
// An error says that NATS did not answer, or not as expected; calling again later may succeed, unless [Permanent] says
// otherwise. It returns after 10 s at most.
func PublishOnce(ctx context.Context, publisher *Publisher, p Payload) error {
	rec, err := NewRecord(p)
	if err != nil {
		return err
	}
	if !publisher.js.Conn().IsConnected() {
		// What is asked of a connection that is not there would only wait in its buffer.
		return fmt.Errorf("publish %s on %s: no connection to NATS: %w", rec.ID, rec.Subject, nats.ErrDisconnected)
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	if err := publisher.ensure(ctx); err != nil {
		return fmt.Errorf("publish %s on %s: %w", rec.ID, rec.Subject, err)
	}
	err = publisher.publishNewer(ctx, rec)
	if isStreamMissing(err) {
		publisher.forget()
	}
	return err
}

// Permanent reports whether an error of [PublishOnce] will come again for the same event, however often it is tried.
func Permanent(err error) bool {
	return errors.Is(err, ErrInvalidEvent) || errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, nats.ErrBadSubject)
}

// publishNewer stores a record behind the last of its subject, if that one is older.
func (p *Publisher) publishNewer(ctx context.Context, rec Record) error {
	last, err := p.Last(ctx, rec.Subject)
	if err != nil {
		return fmt.Errorf("publish %s: %w", rec.ID, err)
	}
	at := position{rec.Life, rec.Sequence}
	for turn := range maxTurns {
		if turn > 1 { // a replica that lags was asked, or others are quicker
			pause(ctx, 5*time.Millisecond<<(turn-2))
		}
		rec.PrevStreamSeq = 0
		if last != nil {
			if !at.after(position{last.Life, last.Sequence}) {
				return nil
			}
			rec.PrevStreamSeq = last.StreamSeq
		}
		_, err = p.Publish(ctx, rec)
		var conflict *ConflictError
		if !errors.As(err, &conflict) {
			return err
		}
		last = conflict.Last
	}
	return err
}

func isStreamMissing(err error) bool {
	return errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, jetstream.ErrStreamNotFound) ||
		errors.Is(err, nats.ErrNoResponders)
}
