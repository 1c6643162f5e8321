package events

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
)

// Types of events. A type names the shape of the data; a shape that changes so that old readers
// fail gets a new version, and the old one stays.
const (
	// TypeJobStatus is the type of [JobStatusChanged].
	TypeJobStatus = "smc.job.status.v1"
	// TypeSourceState is the type of [SourceStateChanged].
	TypeSourceState = "smc.source.state.v1"
	// TypeMigrationPhase is the type of [MigrationChanged].
	TypeMigrationPhase = "drover.migration.phase.v1"
	// TypeFleetStatus is the type of [FleetChanged].
	TypeFleetStatus = "drover.fleet.status.v1"
)

// ContentType is the value of the Content-Type header of every message: CloudEvents in structured JSON.
const ContentType = "application/cloudevents+json"

// Headers of a message. They repeat what is in the event, for those who filter without decoding.
const (
	// HeaderContentType is always [ContentType].
	HeaderContentType = "Content-Type"
	// HeaderStatus is the Status of a job or the State of a source server.
	HeaderStatus = "Smc-Status"
	// HeaderBusinessStatus is the BusinessStatus of a job. It is absent while there is none.
	HeaderBusinessStatus = "Smc-Business-Status"
	// HeaderSequence is the decimal sequence of the event within its job or source server.
	HeaderSequence = "Smc-Sequence"
	// HeaderFleetStatus is the status of a fleet.
	HeaderFleetStatus = "Drover-Status"
	// HeaderPhase is the phase of a migration.
	HeaderPhase = "Drover-Phase"
	// HeaderLife is the life of a migration or fleet in decimal: see [Life].
	HeaderLife = "Drover-Life"
	// HeaderFleetSequence is the decimal sequence of the event within that life.
	HeaderFleetSequence = "Drover-Sequence"
	// HeaderMsgID is the id of the event; the stream drops a second message of the same id within its window.
	HeaderMsgID = "Nats-Msg-Id"
)

const (
	// extSequence is the attribute of the CloudEvents sequence extension.
	extSequence = "sequence"
	// extLife is an attribute of our own: see [Life].
	extLife = "life"
)

// ErrInvalidEvent is returned, wrapped, for an event that lacks what every event must have.
var ErrInvalidEvent = errors.New("invalid event")

// Payload is the data of an event that can be published.
type Payload interface {
	// Subject is where the event goes.
	Subject() Subject
	// CloudEvent wraps the data. The error wraps [ErrInvalidEvent].
	CloudEvent() (cloudevents.Event, error)
}

// JobStatusChanged says what became of a replication job: every transition of its is one. The names and values are those of the
// contract.
type JobStatusChanged struct {
	// AccountID is the account the job belongs to.
	AccountID string `json:"AccountId"`
	// RegionID is its region.
	RegionID string `json:"RegionId"`
	// JobID is never used again, also when the job is gone.
	JobID string `json:"JobId"`
	// SourceID is the source server it replicates.
	SourceID string `json:"SourceId"`
	// Name is the name of the job.
	Name string `json:"Name,omitempty"`
	// Sequence numbers the transitions of the job, from 1, without gaps.
	Sequence uint64 `json:"Sequence"`
	// Change is what happened.
	Change JobChange `json:"Change"`
	// Status is what the API shows, or Deleted.
	Status string `json:"Status"`
	// BusinessStatus is the phase of the run while the Status is Running.
	BusinessStatus string `json:"BusinessStatus,omitempty"`
	// PreviousStatus is the Status of the event before; it is empty for the first event of a job.
	PreviousStatus string `json:"PreviousStatus,omitempty"`
	// PreviousBusinessStatus is the BusinessStatus of the event before.
	PreviousBusinessStatus string `json:"PreviousBusinessStatus,omitempty"`
	// Run is the number of the run, from 1; 0 before the first.
	Run int `json:"Run,omitempty"`
	// RunType says what began the run. It is empty before the first.
	RunType string `json:"RunType,omitempty"`
	// ImageID is set once a run has made an image.
	ImageID string `json:"ImageId,omitempty"`
	// ErrorCode is set while something is wrong: docs/errors.md lists the codes.
	ErrorCode string `json:"ErrorCode,omitempty"`
	// StatusInfo is set while there is something to know: text for a person.
	StatusInfo string `json:"StatusInfo,omitempty"`
	// Queued says that the job was started and waits, in the Status it has, for a running slot of its account.
	Queued bool `json:"Queued,omitempty"`
	// Progress is in percent, 0 to 100.
	Progress float64 `json:"Progress"`
	// Time is when the transition happened.
	Time time.Time `json:"Time"`
}

// SourceStateChanged says what became of a source server: every transition of its is one.
type SourceStateChanged struct {
	// AccountID is the account the source server belongs to.
	AccountID string `json:"AccountId"`
	// RegionID is its region.
	RegionID string `json:"RegionId"`
	// SourceID is never used again, also when the source server is gone.
	SourceID string `json:"SourceId"`
	// Name is the name of the source server.
	Name string `json:"Name,omitempty"`
	// Sequence numbers the transitions of the source server, from 1, without gaps.
	Sequence uint64 `json:"Sequence"`
	// Change is what happened.
	Change SourceChange `json:"Change"`
	// State is what the API shows, or Deleted.
	State string `json:"State"`
	// PreviousState is the State of the event before; it is empty for the first event of a source server.
	PreviousState string `json:"PreviousState,omitempty"`
	// ErrorCode is set while the source server is Unavailable: docs/errors.md lists the codes.
	ErrorCode string `json:"ErrorCode,omitempty"`
	// StatusInfo is set with it: a JSON object of error_code and error_msg, as the API shows it.
	StatusInfo string `json:"StatusInfo,omitempty"`
	// Time is when the transition happened.
	Time time.Time `json:"Time"`
}

// Subject implements [Payload].
func (d JobStatusChanged) Subject() Subject {
	return Subject{Kind: KindJob, Account: d.AccountID, Region: d.RegionID, ID: d.JobID}
}

// CloudEvent implements [Payload].
func (d JobStatusChanged) CloudEvent() (cloudevents.Event, error) {
	d.Time = d.Time.UTC()
	return newCloudEvent(TypeJobStatus, d.AccountID, d.RegionID, d.JobID, string(d.Change), d.Status, d.Sequence, d.Time, d)
}

// Subject implements [Payload].
func (d SourceStateChanged) Subject() Subject {
	return Subject{Kind: KindSource, Account: d.AccountID, Region: d.RegionID, ID: d.SourceID}
}

// CloudEvent implements [Payload].
func (d SourceStateChanged) CloudEvent() (cloudevents.Event, error) {
	d.Time = d.Time.UTC()
	return newCloudEvent(TypeSourceState, d.AccountID, d.RegionID, d.SourceID, string(d.Change), d.State, d.Sequence, d.Time, d)
}

func newCloudEvent(typ, account, region, id, change, status string, seq uint64, at time.Time, data any) (cloudevents.Event, error) {
	err := complete(typ, id, seq, []field{
		{"account id", account == ""}, {"region id", region == ""}, {"resource id", id == ""}, {"change", change == ""}, {"status", status == ""}, {"time", at.IsZero()},
	})
	if err != nil {
		return cloudevents.Event{}, err
	}
	return wrap(envelope{
		ID: EventID(id, seq), Source: Source(account, region), Type: typ, Subject: id, Sequence: seq, Time: at,
	}, data)
}

// field is a part of an event that must not be empty.
type field struct {
	name  string
	empty bool
}

// complete refuses an event that lacks one of the fields, or has no sequence.
func complete(typ, resource string, seq uint64, fields []field) error {
	for _, f := range append(fields, field{"sequence", seq == 0}) {
		if f.empty {
			return fmt.Errorf("event %s of %q (sequence %d): no %s: %w", typ, resource, seq, f.name, ErrInvalidEvent)
		}
	}
	return nil
}

// envelope is what an event says beside its data.
type envelope struct {
	ID, Source, Type, Subject string
	// Life is 0 for a resource that has one life only.
	Life, Sequence uint64
	Time           time.Time
}

func wrap(e envelope, data any) (cloudevents.Event, error) {
	ev := cloudevents.New()
	ev.SetID(e.ID)
	ev.SetSource(e.Source)
	ev.SetType(e.Type)
	ev.SetSubject(e.Subject)
	ev.SetTime(e.Time)
	ev.SetDataSchema(SchemaURI(e.Type) + "#data")
	ev.SetExtension(extSequence, fmt.Sprintf("%020d", e.Sequence))
	if e.Life > 0 {
		ev.SetExtension(extLife, fmt.Sprintf("%020d", e.Life))
	}
	if err := ev.SetData(cloudevents.ApplicationJSON, data); err != nil {
		return ev, fmt.Errorf("event %s: %w", ev.ID(), err)
	}
	if err := ev.Validate(); err != nil {
		return ev, fmt.Errorf("event %s: %w: %w", ev.ID(), ErrInvalidEvent, err)
	}
	return ev, nil
}

// EventID is the id of an event: the same transition always has the same one.
func EventID(resource string, sequence uint64) string {
	return resource + "/" + strconv.FormatUint(sequence, 10)
}

// Source is the CloudEvents source of the events of an account in a region.
func Source(account, region string) string {
	return "/smc/" + url.PathEscape(account) + "/" + url.PathEscape(region)
}

// Sequence reads the sequence extension of an event. It is written with leading zeros, as the
// extension asks for, so that it also sorts as text.
func Sequence(ev cloudevents.Event) (uint64, error) {
	return number(ev, extSequence)
}

// Life reads which life of its resource an event belongs to. A fleet's name may be used again once the fleet has ended,
// and a failed server be migrated again; each time the workflow is a new one and counts from 1. So sequences are compared
// within a life, and a life is the time it began, in nanoseconds since 1970: a later life is newer whatever its sequence.
// It is 0 for jobs and source servers, whose ids are never used again.
func Life(ev cloudevents.Event) (uint64, error) {
	if _, ok := ev.Extensions()[extLife]; !ok {
		return 0, nil
	}
	return number(ev, extLife)
}

// number reads an extension that is written with leading zeros.
func number(ev cloudevents.Event, extension string) (uint64, error) {
	text, ok := ev.Extensions()[extension].(string)
	if !ok {
		return 0, fmt.Errorf("event %q: no %s: %w", ev.ID(), extension, ErrInvalidEvent)
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("event %q: %s %q is not a positive number: %w", ev.ID(), extension, text, ErrInvalidEvent)
	}
	return n, nil
}

// positionIn reads where an event stands among those of its resource.
func positionIn(ev cloudevents.Event) (position, error) {
	seq, err := Sequence(ev)
	if err != nil {
		return position{}, err
	}
	life, err := Life(ev)
	return position{life, seq}, err
}

// position is an event's place among those of its resource.
type position struct{ life, sequence uint64 }

// after reports whether p is newer than q.
func (p position) after(q position) bool {
	return p.life > q.life || p.life == q.life && p.sequence > q.sequence
}

// Encode writes an event as structured JSON.
func Encode(ev cloudevents.Event) ([]byte, error) {
	data, err := json.Marshal(ev)
	if err != nil {
		return nil, fmt.Errorf("encode event %q: %w", ev.ID(), err)
	}
	return data, nil
}

// Decode reads an event from structured JSON. The error wraps [ErrInvalidEvent].
func Decode(data []byte) (cloudevents.Event, error) {
	var ev cloudevents.Event
	if err := json.Unmarshal(data, &ev); err != nil {
		return cloudevents.Event{}, fmt.Errorf("decode event: %w: %w", ErrInvalidEvent, err)
	}
	if err := ev.Validate(); err != nil {
		return cloudevents.Event{}, fmt.Errorf("decode event %q: %w: %w", ev.ID(), ErrInvalidEvent, err)
	}
	return ev, nil
}

// statusFields are the members of the data that the headers repeat.
type statusFields struct {
	Status         string
	State          string
	BusinessStatus string
	Phase          string
}

// Headers gives the headers of the message that carries an event.
func Headers(ev cloudevents.Event) (map[string]string, error) {
	at, err := positionIn(ev)
	if err != nil {
		return nil, err
	}
	var fields statusFields
	if err := ev.DataAs(&fields); err != nil {
		return nil, fmt.Errorf("event %q: data: %w: %w", ev.ID(), ErrInvalidEvent, err)
	}
	h := map[string]string{HeaderContentType: ContentType, HeaderMsgID: ev.ID()}
	if at.life > 0 {
		h[HeaderLife] = strconv.FormatUint(at.life, 10)
		h[HeaderFleetSequence] = strconv.FormatUint(at.sequence, 10)
		if fields.Status != "" {
			h[HeaderFleetStatus] = fields.Status
		}
		if fields.Phase != "" {
			h[HeaderPhase] = fields.Phase
		}
		return h, nil
	}
	h[HeaderSequence] = strconv.FormatUint(at.sequence, 10)
	if fields.Status == "" {
		fields.Status = fields.State
	}
	if fields.Status != "" {
		h[HeaderStatus] = fields.Status
	}
	if fields.BusinessStatus != "" {
		h[HeaderBusinessStatus] = fields.BusinessStatus
	}
	return h, nil
}

// Record is one event on its way to the stream: an entry of the outbox.
type Record struct {
	// ID is the id of the event. It names the record in the outbox and is the message's Nats-Msg-Id.
	ID string
	// Subject is the resource's subject.
	Subject string
	// Life is which life of the resource the event belongs to (see [Life]); 0 for jobs and source servers.
	Life uint64
	// Sequence is the event's number within its resource, or within that life.
	Sequence uint64
	// Data is the event in structured JSON.
	Data []byte
	// Headers are those of the message. When nil they are made from Data.
	Headers map[string]string
	// PrevStreamSeq is the stream sequence of the previous record of this subject, which must be
	// the subject's last message for this one to be stored. 0 = it is the first, or not known.
	PrevStreamSeq uint64
	// Rewinds is how often the outbox had made the record one to be published again when it was read.
	Rewinds uint64
	// Time is when the transition happened. It tells how long a record has waited.
	Time time.Time
}

// NewRecord makes the record of an event. PrevStreamSeq is left 0.
func NewRecord(p Payload) (Record, error) {
	ev, err := p.CloudEvent()
	if err != nil {
		return Record{}, err
	}
	at, err := positionIn(ev)
	if err != nil {
		return Record{}, err
	}
	headers, err := Headers(ev)
	if err != nil {
		return Record{}, err
	}
	data, err := Encode(ev)
	if err != nil {
		return Record{}, err
	}
	return Record{
		ID: ev.ID(), Subject: p.Subject().String(), Life: at.life, Sequence: at.sequence,
		Data: data, Headers: headers, Time: ev.Time(),
	}, nil
}
