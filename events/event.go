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
	// HeaderSequence is the decimal sequence of the event within its resource.
	HeaderSequence = "Smc-Sequence"
	// HeaderMsgID is the id of the event; the stream drops a second message of the same id within its window.
	HeaderMsgID = "Nats-Msg-Id"
)

// extSequence is the attribute of the CloudEvents sequence extension.
const extSequence = "sequence"

// ErrInvalidEvent is returned, wrapped, for an event that lacks what every event must have.
var ErrInvalidEvent = errors.New("invalid event")

// Payload is the data of an event that can be published.
type Payload interface {
	// Subject is where the event goes.
	Subject() Subject
	// CloudEvent wraps the data. The error wraps [ErrInvalidEvent].
	CloudEvent() (cloudevents.Event, error)
}

// JobStatusChanged says that a replication job has a new Status or BusinessStatus.
// The names and values are those of the contract.
type JobStatusChanged struct {
	AccountID string `json:"AccountId"`
	RegionID  string `json:"RegionId"`
	JobID     string `json:"JobId"`
	SourceID  string `json:"SourceId"`
	Name      string `json:"Name,omitempty"`
	// Sequence numbers the transitions of the job, from 1, without gaps.
	Sequence       uint64 `json:"Sequence"`
	Status         string `json:"Status"`
	BusinessStatus string `json:"BusinessStatus,omitempty"`
	// PreviousStatus is empty for the first event of a job.
	PreviousStatus         string `json:"PreviousStatus,omitempty"`
	PreviousBusinessStatus string `json:"PreviousBusinessStatus,omitempty"`
	// Run is the number of the run, from 1; 0 before the first.
	Run int `json:"Run,omitempty"`
	// RunType says what began the run. It is empty before the first.
	RunType string `json:"RunType,omitempty"`
	// ImageID is set once a run has made an image.
	ImageID string `json:"ImageId,omitempty"`
	// ErrorCode and StatusInfo are set while something is wrong.
	ErrorCode  string `json:"ErrorCode,omitempty"`
	StatusInfo string `json:"StatusInfo,omitempty"`
	// Progress is in percent, 0 to 100.
	Progress float64 `json:"Progress"`
	// Time is when the transition happened.
	Time time.Time `json:"Time"`
}

// SourceStateChanged says that a source server has a new State.
type SourceStateChanged struct {
	AccountID string `json:"AccountId"`
	RegionID  string `json:"RegionId"`
	SourceID  string `json:"SourceId"`
	Name      string `json:"Name,omitempty"`
	// Sequence numbers the transitions of the source server, from 1, without gaps.
	Sequence uint64 `json:"Sequence"`
	State    string `json:"State"`
	// PreviousState is empty for the first event of a source server.
	PreviousState string `json:"PreviousState,omitempty"`
	// ErrorCode and StatusInfo are set while something is wrong.
	ErrorCode  string `json:"ErrorCode,omitempty"`
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
	return newCloudEvent(TypeJobStatus, d.AccountID, d.RegionID, d.JobID, d.Status, d.Sequence, d.Time, d)
}

// Subject implements [Payload].
func (d SourceStateChanged) Subject() Subject {
	return Subject{Kind: KindSource, Account: d.AccountID, Region: d.RegionID, ID: d.SourceID}
}

// CloudEvent implements [Payload].
func (d SourceStateChanged) CloudEvent() (cloudevents.Event, error) {
	d.Time = d.Time.UTC()
	return newCloudEvent(TypeSourceState, d.AccountID, d.RegionID, d.SourceID, d.State, d.Sequence, d.Time, d)
}

func newCloudEvent(typ, account, region, id, status string, seq uint64, at time.Time, data any) (cloudevents.Event, error) {
	ev := cloudevents.New()
	for _, field := range []struct {
		name  string
		empty bool
	}{
		{"account id", account == ""},
		{"region id", region == ""},
		{"resource id", id == ""},
		{"status", status == ""},
		{"sequence", seq == 0},
		{"time", at.IsZero()},
	} {
		if field.empty {
			return ev, fmt.Errorf("event %s of %q (sequence %d): no %s: %w", typ, id, seq, field.name, ErrInvalidEvent)
		}
	}
	ev.SetID(EventID(id, seq))
	ev.SetSource(Source(account, region))
	ev.SetType(typ)
	ev.SetSubject(id)
	ev.SetTime(at)
	ev.SetExtension(extSequence, fmt.Sprintf("%020d", seq))
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
	text, ok := ev.Extensions()[extSequence].(string)
	if !ok {
		return 0, fmt.Errorf("event %q: no sequence: %w", ev.ID(), ErrInvalidEvent)
	}
	seq, err := strconv.ParseUint(text, 10, 64)
	if err != nil || seq == 0 {
		return 0, fmt.Errorf("event %q: sequence %q is not a positive number: %w", ev.ID(), text, ErrInvalidEvent)
	}
	return seq, nil
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
}

// Headers gives the headers of the message that carries an event.
func Headers(ev cloudevents.Event) (map[string]string, error) {
	seq, err := Sequence(ev)
	if err != nil {
		return nil, err
	}
	var fields statusFields
	if err := ev.DataAs(&fields); err != nil {
		return nil, fmt.Errorf("event %q: data: %w: %w", ev.ID(), ErrInvalidEvent, err)
	}
	h := map[string]string{
		HeaderContentType: ContentType,
		HeaderSequence:    strconv.FormatUint(seq, 10),
		HeaderMsgID:       ev.ID(),
	}
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
	// Sequence is the event's number within its resource.
	Sequence uint64
	// Data is the event in structured JSON.
	Data []byte
	// Headers are those of the message. When nil they are made from Data.
	Headers map[string]string
	// PrevStreamSeq is the stream sequence of the previous record of this subject, which must be
	// the subject's last message for this one to be stored. 0 = it is the first, or not known.
	PrevStreamSeq uint64
	// Time is when the transition happened. It is used for the relay's lag only.
	Time time.Time
}

// NewRecord makes the record of an event. PrevStreamSeq is left 0.
func NewRecord(p Payload) (Record, error) {
	ev, err := p.CloudEvent()
	if err != nil {
		return Record{}, err
	}
	seq, err := Sequence(ev)
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
		ID: ev.ID(), Subject: p.Subject().String(), Sequence: seq,
		Data: data, Headers: headers, Time: ev.Time(),
	}, nil
}
