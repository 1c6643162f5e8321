package events_test

import (
	"context"
	"fmt"
	"os/signal"
	"syscall"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/drover/drover/events"
)

// A consumer that survives restarts of its own and of NATS: the server keeps its position under the name of the durable.
func ExampleSubscribe() {
	log := zap.Must(zap.NewProduction())
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := pager(ctx, log); err != nil {
		log.Error("the pager ends", zap.Error(err))
	}
}

func pager(ctx context.Context, log *zap.Logger) error {
	nc, err := events.Connect("nats://localhost:4222", "pager", log)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	config := events.SubscribeConfig{
		Durable: "pager", Filters: []string{events.JobFilter("", "", "")}, Log: log,
		Start:      events.StartNew, // what happened before the pager existed wakes nobody
		MaxDeliver: 20,              // a page that cannot be sent does not hold up the others for ever
	}
	return events.Subscribe(ctx, js, config, func(_ context.Context, ev events.Event) error {
		job, err := ev.JobStatusChanged()
		if err != nil {
			return fmt.Errorf("%w: %w", events.ErrDiscard, err)
		}
		if job.Change != events.JobFailed && job.Change != events.JobMissed {
			return nil
		}
		// An event may come twice: the id of the event lets the receiver tell.
		return page(ev.CloudEvent.ID(), fmt.Sprintf("%s %s: %s", job.JobID, job.Change, job.StatusInfo))
	})
}

func page(id, text string) error {
	_, err := fmt.Println(id, text)
	return err
}
