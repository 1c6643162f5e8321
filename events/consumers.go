package events

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Consumer is how far a durable consumer of an event stream is.
type Consumer struct {
	Stream, Name string
	// Filters are the subjects it wants; none are all.
	Filters []string
	// Waiting counts the events that it has not been given yet.
	Waiting uint64
	// Unhandled counts the events that it was given and has not acknowledged.
	Unhandled int
	// Redelivered counts those of them that it was given more than once.
	Redelivered int
	// LastHandled is when it acknowledged the last one; zero if it never did.
	LastHandled time.Time `json:",omitzero"`
}

// Consumers returns the durable consumers of the event streams. A stream that is not there has none.
func Consumers(ctx context.Context, js jetstream.JetStream) ([]Consumer, error) {
	all := []Consumer{}
	for _, name := range []string{StreamName, DroverStreamName} {
		stream, err := js.Stream(ctx, name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("stream %s: %w", name, err)
		}
		list := stream.ListConsumers(ctx)
		for info := range list.Info() {
			if info.Config.Durable == "" {
				continue
			}
			consumer := Consumer{
				Stream: name, Name: info.Name, Filters: info.Config.FilterSubjects,
				Waiting: info.NumPending, Unhandled: info.NumAckPending, Redelivered: info.NumRedelivered,
			}
			if info.Config.FilterSubject != "" {
				consumer.Filters = []string{info.Config.FilterSubject}
			}
			if info.AckFloor.Last != nil {
				consumer.LastHandled = *info.AckFloor.Last
			}
			all = append(all, consumer)
		}
		if err := list.Err(); err != nil {
			return nil, fmt.Errorf("consumers of stream %s: %w", name, err)
		}
	}
	return all, nil
}
