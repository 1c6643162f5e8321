// Package replica is Drover's data plane: it copies the disks of a source
// server to a transition host, grain by grain, and turns the copy into images.
//
// # Model
//
// A disk is cut into grains of [GrainSize] bytes (the last may be short). The
// map of a disk holds one BLAKE3-256 hash per grain; 32 zero bytes stand for a
// grain that is all zero. The transition host owns the truth: its staging
// directory holds, per disk, the bytes and the map of what is verified and
// durable. A sender asks for that map, reads its disk, and sends only the
// grains whose hash differs. A first run, a run that resumes after any crash
// and an incremental run are therefore one code path.
//
// # Parts
//
//   - [Host] is the receiving side: staging, sessions, images, and the HTTP
//     handler that senders and exporters talk to.
//   - [Sync] is the sending side, run by the agent on the source server.
//   - [Download] fetches one disk of an image.
//   - [Deliver] makes the disks of another machine hold an image, and fetches only what differs there.
//   - [ProbeDisk] describes a disk for registration.
//
// # Fencing
//
// Every attachment of a sender raises an epoch in an [EpochStore]; the host
// checks at every commit that the epoch of the request is current. Whoever
// attached last is the only writer, and a session that was stopped elsewhere
// takes no more data even when nobody could tell the sender.
//
// The package knows nothing of Temporal, SQL or NATS.
package replica
