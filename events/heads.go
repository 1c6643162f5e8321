package events

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// Head is the last event of a job or a source server in the stream. One of Job and Source is set.
type Head struct {
	StreamSeq uint64
	Job       *JobStatusChanged
	Source    *SourceStateChanged
}

// Heads calls each with the last event of every job and source server of a region that the stream holds. An event that
// cannot be read ends it with an error that names it. A stream that does not exist holds none.
func Heads(ctx context.Context, js jetstream.JetStream, region string, each func(Head) error) error {
	filters := []string{JobFilter("", region, ""), SourceFilter("", region, "")}
	stream, err := js.Stream(ctx, StreamName)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stream %s: %w", StreamName, err)
	}
	consumer, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		FilterSubjects: filters, DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy, AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true,
		// What is done with a batch may take long; by itself the server gives a consumer up that asks for nothing for 5 s.
		InactiveThreshold: abandoned,
	})
	if err != nil {
		return fmt.Errorf("read the last events of stream %s: %w", StreamName, err)
	}
	defer func() { _ = stream.DeleteConsumer(context.WithoutCancel(ctx), consumer.CachedInfo().Name) }()
	left := consumer.CachedInfo().NumPending
	for left > 0 {
		batch, err := consumer.FetchNoWait(500)
		if err != nil {
			return fmt.Errorf("read the last events of stream %s: %w", StreamName, err)
		}
		got := false
		for msg := range batch.Messages() {
			got = true
			head, err := headOf(msg)
			if err == nil {
				err = each(head)
			}
			if err != nil {
				return err
			}
			left--
			if left == 0 {
				break
			}
		}
		if err := batch.Error(); err != nil {
			return fmt.Errorf("read the last events of stream %s: %w", StreamName, err)
		}
		if !got {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("read the last events of stream %s: %w", StreamName, err)
			}
			info, err := consumer.Info(ctx)
			if err != nil {
				return fmt.Errorf("read the last events of stream %s: %w", StreamName, err)
			}
			left = info.NumPending // what was superseded meanwhile does not come
		}
	}
	return nil
}

func headOf(msg jetstream.Msg) (head Head, err error) {
	if meta, err := msg.Metadata(); err == nil {
		head.StreamSeq = meta.Sequence.Stream
	}
	event, err := Decode(msg.Data())
	if err != nil {
		return head, fmt.Errorf("message %d of stream %s, %s: %w", head.StreamSeq, StreamName, msg.Subject(), err)
	}
	switch event.Type() {
	case TypeJobStatus:
		head.Job = new(JobStatusChanged)
		err = event.DataAs(head.Job)
	case TypeSourceState:
		head.Source = new(SourceStateChanged)
		err = event.DataAs(head.Source)
	default:
		err = fmt.Errorf("its type %s is not known: %w", event.Type(), ErrInvalidEvent)
	}
	if err != nil {
		return head, fmt.Errorf("message %d of stream %s, %s: %w", head.StreamSeq, StreamName, msg.Subject(), err)
	}
	return head, nil
}
