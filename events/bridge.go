package events

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/drover/drover/fleet"
)

// DefaultBridgeDurable is the durable consumer that bridges share.
const DefaultBridgeDurable = "drover-bridge"

// ErrNoSuchMigration is returned, wrapped, by a [Signaler] when there is no such migration, or it has
// ended. The event is not handed out again.
var ErrNoSuchMigration = errors.New("no such migration")

// Signaler tells the migration of a source server what became of its job. An error that wraps [ErrDiscard] says that this migration
// can never be told of it: it finds out by polling. Any other but [ErrNoSuchMigration] has the event handed out again, and those
// behind it wait, so it may be told twice; and the stream may still hold events of a job that an earlier migration of the same server made under the same fleet name. The migration leaves out what
// is not of its own job, by JobID, or not newer than what it knows, by Sequence.
type Signaler interface {
	Signal(ctx context.Context, fleetName, sourceID string, change fleet.JobChanged) error
}

// SignalerFunc is a function that is a [Signaler].
type SignalerFunc func(ctx context.Context, fleetName, sourceID string, change fleet.JobChanged) error

// Signal implements [Signaler].
func (f SignalerFunc) Signal(ctx context.Context, fleetName, sourceID string, change fleet.JobChanged) error {
	return f(ctx, fleetName, sourceID, change)
}

// BridgeConfig holds a bridge's settings. The zero value of each is its default.
type BridgeConfig struct {
	// Stream defaults to [StreamName].
	Stream string
	// Durable is the consumer that keeps the bridge's position. Bridges of one orchestrator share it; orchestrators
	// that share a stream have one each. Default [DefaultBridgeDurable].
	Durable string
	// Account and Region narrow the jobs to those of the orchestrator. Empty = all.
	Account, Region string
	// SignalTimeout bounds one call of the signaler. Default 10 s.
	SignalTimeout time.Duration
	// MinRetry and MaxRetry bound the wait before an event that could not be signalled is tried again;
	// it doubles with every failure. Default 500 ms and 10 s.
	MinRetry, MaxRetry time.Duration
	// AckWait and Heartbeat are those of [SubscribeConfig].
	AckWait, Heartbeat time.Duration
}

// BridgeStats counts what a bridge did since it was made. Every event is counted once for each time it was handed to
// this bridge.
type BridgeStats struct {
	// Signalled counts the events that a migration was told of.
	Signalled uint64
	// Foreign counts the events of jobs that no fleet made.
	Foreign uint64
	// Unchanged counts the events in which the Status is the one before.
	Unchanged uint64
	// Orphaned counts the events whose migration is not there any more.
	Orphaned uint64
	// Failed counts the failed tries to signal; the events are tried again.
	Failed uint64
	// Discarded counts the events that cannot be read, or that their migration does not take.
	Discarded uint64
	// Down is true while signals fail.
	Down bool
	// LastStreamSeq is the newest event of the stream that this bridge has dealt with.
	LastStreamSeq uint64
}

// Bridge tells the migrations of fleets what became of their jobs: from the event stream to the
// workflows. An event leads to its migration by the name of its job and its SourceId (see [fleet.OfJob]).
//
// Only events with a new Status are signalled. A migration acts on nothing else: the BusinessStatus says how far a run is, which is
// data for those who watch, while every signal is history of the workflow that it is kept with, many times over for an
// incremental job.
//
// The position is kept by the server, so a bridge goes on where it, or another, stopped. While signals fail, or
// are slow, events wait in the stream. They are signalled one after the other, in the order of the stream, also by several bridges at
// once: one of them works and the others take over. When it has to be told again, an event may arrive
// after a later one, and the migration drops it.
type Bridge struct {
	js       jetstream.JetStream
	signaler Signaler
	cfg      BridgeConfig
	log      *zap.Logger

	signalled, foreign, unchanged, orphaned, failed, discarded, last atomic.Uint64
	down                                                             atomic.Bool

	// downSince is used by the handler alone.
	downSince time.Time
}

// NewBridge returns a bridge; Run does the work.
func NewBridge(js jetstream.JetStream, signaler Signaler, cfg BridgeConfig, log *zap.Logger) *Bridge {
	if cfg.Stream == "" {
		cfg.Stream = StreamName
	}
	if cfg.Durable == "" {
		cfg.Durable = DefaultBridgeDurable
	}
	orDefault(&cfg.SignalTimeout, 10*time.Second)
	orDefault(&cfg.MinRetry, 500*time.Millisecond)
	orDefault(&cfg.MaxRetry, 10*time.Second)
	return &Bridge{js: js, signaler: signaler, cfg: cfg, log: log}
}

// Stats returns the bridge's counters.
func (b *Bridge) Stats() BridgeStats {
	return BridgeStats{
		Signalled: b.signalled.Load(), Foreign: b.foreign.Load(), Unchanged: b.unchanged.Load(),
		Orphaned: b.orphaned.Load(), Failed: b.failed.Load(), Discarded: b.discarded.Load(),
		Down: b.down.Load(), LastStreamSeq: b.last.Load(),
	}
}

// Run bridges until ctx ends, and then returns nil. While there is no NATS, no stream or no Temporal it waits. It
// returns an error when the connection was closed for good or the server refuses the configuration.
func (b *Bridge) Run(ctx context.Context) error {
	err := Subscribe(ctx, b.js, SubscribeConfig{
		Stream: b.cfg.Stream, Durable: b.cfg.Durable, Filters: []string{JobFilter(b.cfg.Account, b.cfg.Region, "")},
		// From the first event: what a migration was to be told before there was a bridge is told late, not never.
		Start:    StartAll,
		MinRetry: b.cfg.MinRetry, MaxRetry: b.cfg.MaxRetry, AckWait: b.cfg.AckWait, Heartbeat: b.cfg.Heartbeat,
		Log: b.log,
	}, b.handle)
	if err != nil {
		return fmt.Errorf("bridge: %w", err)
	}
	return nil
}

func (b *Bridge) handle(ctx context.Context, ev Event) error {
	job, err := ev.JobStatusChanged()
	if err != nil {
		b.discarded.Add(1)
		b.last.Store(ev.StreamSeq)
		return fmt.Errorf("bridge: %w: %w", ErrDiscard, err)
	}
	name, ofFleet := fleet.OfJob(job.Name)
	switch {
	case !ofFleet:
		b.foreign.Add(1)
	case job.Status == job.PreviousStatus:
		b.unchanged.Add(1)
	default:
		if err := b.signal(ctx, name, job); err != nil {
			return err
		}
	}
	b.last.Store(ev.StreamSeq)
	return nil
}

func (b *Bridge) signal(ctx context.Context, name string, job JobStatusChanged) error {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.SignalTimeout)
	defer cancel()
	log := b.log.With(zap.String("fleet", name), zap.String("source_id", job.SourceID), zap.String("job_id", job.JobID),
		zap.Uint64("sequence", job.Sequence), zap.String("status", job.Status))
	err := b.signaler.Signal(ctx, name, job.SourceID, fleet.JobChanged{
		JobID: job.JobID, Sequence: job.Sequence, Status: job.Status, ErrorCode: job.ErrorCode,
	})
	switch {
	case err == nil:
		b.signalled.Add(1)
		log.Debug("migration signalled")
	case errors.Is(err, ErrNoSuchMigration):
		b.orphaned.Add(1)
		log.Debug("no migration for this event")
	case errors.Is(err, ErrDiscard):
		b.discarded.Add(1)
		log.Warn("the migration does not take this event: it finds out by polling", zap.Error(err))
	default:
		b.failed.Add(1)
		if !b.down.Swap(true) {
			b.downSince = time.Now()
			log.Warn("migrations are not signalled: events wait in the stream until this is over", zap.Error(err))
		}
		return fmt.Errorf("signal migration %s: %w", fleet.MigrationID(name, job.SourceID), err)
	}
	if b.down.Swap(false) {
		log.Info("migrations are signalled again", zap.Duration("delayed_for", time.Since(b.downSince)))
	}
	return nil
}
