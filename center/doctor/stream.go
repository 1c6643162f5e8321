package doctor

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/drover/drover/events"
)

// stream compares the stream of events with the outbox: every resource's numbers without gap, and what was published is there.
func (x *examination) stream(ctx context.Context) error {
	// The outbox first: what it says to be in the stream has been put there before.
	heads, restored, err := x.Record.PublishedHeads(ctx)
	if err != nil {
		return err
	}
	before := x.now()
	stream, err := x.JetStream.Stream(ctx, events.StreamName)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if len(heads) > 0 {
			x.find(eventsNotInStream, events.StreamName, "the stream does not exist, and %d resources have events that were published", len(heads))
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("stream %s: %w", events.StreamName, err)
	}
	info := stream.CachedInfo()
	if !info.TimeStamp.IsZero() {
		half := x.now().Sub(before) / 2
		x.clock("NATS", info.TimeStamp.Sub(before.Add(half)), "this machine's")
	}
	last := map[string]uint64{}
	if info.State.Msgs > 0 {
		if err := numbers(ctx, x.JetStream, func(subject string, number uint64) {
			had, known := last[subject]
			last[subject] = max(had, number)
			switch {
			case !known || number == had+1 || number > had && restored[subject][number]:
			case number > had:
				x.find(eventsGap, subject, "event %d follows event %d in stream %s", number, had, events.StreamName)
			default:
				x.find(eventsGap, subject, "event %d comes after event %d in stream %s", number, had, events.StreamName)
			}
		}); err != nil {
			return fmt.Errorf("read the numbers in stream %s: %w", events.StreamName, err)
		}
	}
	missing, example := 0, ""
	for _, head := range heads {
		if head.StreamSequence >= info.State.FirstSeq && last[head.Subject] < head.Sequence {
			missing++
			example = fmt.Sprintf("%s has event %d in the outbox and %d in the stream", head.ResourceID, head.Sequence, last[head.Subject])
		}
	}
	if missing > 0 {
		x.find(eventsNotInStream, events.StreamName, "events of %d resources are missing at the end: %s", missing, example)
	}
	lost, err := x.Record.NotInStream(ctx)
	if err != nil {
		return err
	}
	if lost > 0 {
		x.find(eventsNotInStream, events.StreamName, "%d events have no place in it: it has later ones of their resources. To have all of them, add --new-stream; consumers go with it", lost)
	}
	return nil
}

// numbers calls each with the number of every event that the stream holds, in its order. Only headers are read.
func numbers(ctx context.Context, js jetstream.JetStream, each func(subject string, number uint64)) error {
	consumer, err := js.OrderedConsumer(ctx, events.StreamName, jetstream.OrderedConsumerConfig{HeadersOnly: true})
	if err != nil {
		return err
	}
	info, err := consumer.Info(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = js.DeleteConsumer(context.WithoutCancel(ctx), events.StreamName, info.Name) }()
	if info.NumPending == 0 {
		return nil
	}
	messages, err := consumer.Messages()
	if err != nil {
		return err
	}
	defer messages.Stop()
	for {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return err
		}
		meta, err := msg.Metadata()
		if err != nil {
			return err
		}
		number, err := strconv.ParseUint(msg.Headers().Get(events.HeaderSequence), 10, 64)
		if err != nil {
			return fmt.Errorf("message %d, %s: header %s: %w", meta.Sequence.Stream, msg.Subject(), events.HeaderSequence, err)
		}
		each(msg.Subject(), number)
		if meta.NumPending == 0 {
			return nil
		}
	}
}

// consumers finds durable consumers of a stream that have something to read and do not get on.
func (x *examination) consumers(ctx context.Context, name string) error {
	stream, err := x.JetStream.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stream %s: %w", name, err)
	}
	list := stream.ListConsumers(ctx)
	for info := range list.Info() {
		if err := x.consumer(ctx, stream, info); err != nil {
			return fmt.Errorf("consumer %s of stream %s: %w", info.Name, name, err)
		}
	}
	if err := list.Err(); err != nil {
		return fmt.Errorf("list the consumers of stream %s: %w", name, err)
	}
	return nil
}

func (x *examination) consumer(ctx context.Context, stream jetstream.Stream, info *jetstream.ConsumerInfo) error {
	unsettled := info.NumPending + uint64(max(0, info.NumAckPending))
	if info.Config.Durable == "" || unsettled == 0 {
		return nil
	}
	moved := info.Created
	if at := info.AckFloor.Last; at != nil && at.After(moved) {
		moved = *at
	}
	limit := x.now().Add(-x.Limits.Stalled)
	if moved.After(limit) {
		return nil
	}
	oldest, err := oldestFrom(ctx, stream, info)
	if err != nil {
		return err
	}
	if oldest.IsZero() || oldest.After(limit) {
		return nil
	}
	reads := "its program reads, and does not settle what it gets"
	if info.NumWaiting == 0 && !info.PushBound {
		reads = "nobody reads it"
	}
	x.find(consumerStalled, info.Stream+" "+info.Name, "%d events wait, the oldest for %s, and %d were delivered and not confirmed (%d more than once); the last progress was %s ago; %s",
		info.NumPending, short(x.now().Sub(oldest)), info.NumAckPending, info.NumRedelivered, short(x.now().Sub(moved)), reads)
	return nil
}

// oldestFrom returns when the first message came that a consumer has not settled; the zero time when it is no longer there.
func oldestFrom(ctx context.Context, stream jetstream.Stream, info *jetstream.ConsumerInfo) (oldest time.Time, err error) {
	filters := info.Config.FilterSubjects
	if len(filters) == 0 {
		filters = []string{info.Config.FilterSubject}
	}
	for _, filter := range filters {
		if filter == "" {
			filter = ">"
		}
		msg, err := stream.GetMsg(ctx, info.AckFloor.Stream+1, jetstream.WithGetMsgSubject(filter))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return time.Time{}, err
		}
		if oldest.IsZero() || msg.Time.Before(oldest) {
			oldest = msg.Time
		}
	}
	return oldest, nil
}
