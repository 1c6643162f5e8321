// Package events tells the world what changed: status changes of jobs and
// source servers, as CloudEvents 1.0 on a NATS JetStream stream.
//
// # Subjects
//
// Every resource has a subject of its own, so that its events are ordered and
// the last one can be read by itself:
//
//	smc.v1.<account>.<region>.job.<JobId>
//	smc.v1.<account>.<region>.source.<SourceId>
//	drover.v1.<account>.migration.<fleet>.<SourceId>
//	drover.v1.<account>.fleet.<fleet>
//
// The progress of a running job is no event. It goes, unstored, over core NATS on
// smc.progress.v1.<account>.<region>.job.<JobId>, which the stream does not capture.
//
// # Guarantees
//
// A [Relay] moves the outbox of the store to the stream exactly once and in order per
// resource, however long NATS was away, with several relays at work, and with acks lost:
// each message is stored only if the last message of its subject is the one that came
// before it. [Subscribe] hands events to a handler at least once and in order per
// resource, and drops what is not newer than what it has handed out.
//
// The sequence of a resource starts at 1 and grows by one with every transition.
package events
