// Package events tells the world what changed, as CloudEvents 1.0 on NATS
// JetStream: status changes of jobs and source servers on the stream SMC, and
// those of migrations and fleets on the stream DROVER.
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
// [PublishOnce] is for those who have no outbox, such as an activity that may run more
// than once: it stores an event unless the stream has it, or a later one, already.
//
// A [Bridge] tells the migrations of a fleet what became of their jobs.
//
// # Sequences and lives
//
// The sequence of a job or source server starts at 1 and grows by one with every
// transition. Those of a migration or fleet start at 1 with every life of its: the name of
// a fleet may be used again once the fleet has ended, and a failed server be migrated
// again. A life is named by the time it began ([Life], and Began in the data), which is
// part of the event's id; of two events of a subject that one is newer that belongs to
// the later life or, in the same life, has the larger sequence.
package events
