package events

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// StreamName is the name of the stream that holds the events of jobs and source servers.
	StreamName = "SMC"
	// DroverStreamName is the name of the stream that holds the events of migrations and fleets.
	DroverStreamName = "DROVER"
)

// DroverStream says how the events of migrations and fleets are kept: like those of jobs, in a stream of their own.
func DroverStream() StreamConfig {
	return StreamConfig{
		Name: DroverStreamName, Subjects: []string{AllDrover},
		Description: "Phases of migrations and status changes of fleets, as CloudEvents",
	}
}

// DefaultDuplicateWindow is how long the stream remembers message ids. Exactly-once does not rest on
// it (see [Relay]): it guards against publishers that expect nothing of the subject's last message.
const DefaultDuplicateWindow = 10 * time.Minute

// StreamConfig says how the stream is kept. The zero value is good for one machine: everything is
// kept for ever in files.
//
// A server with one replica acknowledges before data is on disk unless it runs with
// sync_interval: always.
type StreamConfig struct {
	// Name defaults to [StreamName].
	Name string
	// Description is shown by the server.
	Description string
	// Subjects default to [AllSMC].
	Subjects []string
	// Replicas is 1 or 3. 0 keeps what the stream has, and makes a new one with 1.
	Replicas int
	// MaxAge drops older events. 0 = never.
	MaxAge time.Duration
	// MaxBytes bounds the stream; the oldest events are dropped first. 0 = no bound.
	MaxBytes int64
	// MaxMsgs bounds the number of events. 0 = no bound.
	MaxMsgs int64
	// DuplicateWindow defaults to [DefaultDuplicateWindow], or MaxAge if that is shorter.
	DuplicateWindow time.Duration
}

func (c StreamConfig) name() string {
	if c.Name == "" {
		return StreamName
	}
	return c.Name
}

// jetStream gives the server's form of c. replicas is what the existing stream has, or 0.
func (c StreamConfig) jetStream(replicas int) jetstream.StreamConfig {
	orUnlimited := func(n int64) int64 {
		if n == 0 {
			return -1
		}
		return n
	}
	if c.Subjects == nil {
		c.Subjects = []string{AllSMC}
	}
	if c.Description == "" {
		c.Description = "Status changes of replication jobs and source servers, as CloudEvents"
	}
	if c.Replicas == 0 {
		c.Replicas = max(replicas, 1)
	}
	if c.DuplicateWindow == 0 {
		c.DuplicateWindow = DefaultDuplicateWindow
		if c.MaxAge > 0 {
			c.DuplicateWindow = min(c.DuplicateWindow, c.MaxAge)
		}
	}
	return jetstream.StreamConfig{
		Name:              c.name(),
		Description:       c.Description,
		Subjects:          c.Subjects,
		Storage:           jetstream.FileStorage,
		Retention:         jetstream.LimitsPolicy,
		Discard:           jetstream.DiscardOld,
		Replicas:          c.Replicas,
		MaxAge:            c.MaxAge,
		MaxBytes:          orUnlimited(c.MaxBytes),
		MaxMsgs:           orUnlimited(c.MaxMsgs),
		MaxMsgsPerSubject: -1,
		MaxConsumers:      -1,
		MaxMsgSize:        -1,
		Duplicates:        c.DuplicateWindow,
		AllowDirect:       true,
		// A hole in a resource's events would look like a lost one. A stream can still be
		// deleted as a whole, and be filled again from the outbox.
		DenyDelete: true,
		DenyPurge:  true,
	}
}

// EnsureStream creates the stream, or brings an existing one to cfg. It may be called at any time
// and by several processes at once. An existing stream must keep its events in files.
func EnsureStream(ctx context.Context, js jetstream.JetStream, cfg StreamConfig) (jetstream.Stream, error) {
	if cfg.Replicas < 0 || cfg.Replicas > 5 || cfg.Replicas > 0 && cfg.Replicas%2 == 0 {
		return nil, fmt.Errorf("stream %s: %d replicas: use 1, or 3 in a cluster", cfg.name(), cfg.Replicas)
	}
	replicas := 0
	if cfg.Replicas == 0 {
		if existing, err := js.Stream(ctx, cfg.name()); err == nil {
			replicas = existing.CachedInfo().Config.Replicas
		}
	}
	stream, err := MakeStream(ctx, js, cfg.jetStream(replicas))
	if err != nil {
		return nil, fmt.Errorf("create or update stream %s: %w", cfg.name(), err)
	}
	return stream, nil
}

// storeNotMade is the server's error code for a stream whose storage could not be made.
const storeNotMade jetstream.ErrorCode = 10049

// MakeStream creates a stream, or brings an existing one to cfg. A server goes on tidying away the folders of a stream after it said that it
// was deleted, and cannot make another in them meanwhile: so that answer is asked for again, for about a second.
func MakeStream(ctx context.Context, js jetstream.JetStream, cfg jetstream.StreamConfig) (jetstream.Stream, error) {
	for wait := 10 * time.Millisecond; ; wait *= 2 {
		stream, err := js.CreateOrUpdateStream(ctx, cfg)
		var api *jetstream.APIError
		if !errors.As(err, &api) || api.ErrorCode != storeNotMade || wait > time.Second {
			return stream, err
		}
		pause(ctx, wait)
	}
}
