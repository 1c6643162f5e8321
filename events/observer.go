package events

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// AddObserver makes, or brings up to date, a consumer of that name on each of the streams, with the events of one account
// from the first on, and returns the names of the streams. Whoever may use these consumers and make none of their own
// sees that account alone (see [SubscribeConfig.Bound]). A stream that is not there yet is left out.
func AddObserver(ctx context.Context, js jetstream.JetStream, name, account string) ([]string, error) {
	if account == "" {
		return nil, errors.New("an observer is of one account: name it")
	}
	var made []string
	for _, stream := range observed(account) {
		_, err := js.CreateOrUpdateConsumer(ctx, stream.name, jetstream.ConsumerConfig{
			Durable: name, FilterSubject: stream.filter, Description: "events of account " + account + " for an observer",
			DeliverPolicy: jetstream.DeliverAllPolicy, AckPolicy: jetstream.AckExplicitPolicy, AckWait: 10 * time.Second,
			MaxAckPending: 1, MaxDeliver: -1, // in order, see SubscribeConfig
		})
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue
		}
		if err != nil {
			return made, fmt.Errorf("consumer %s of stream %s: %w", name, stream.name, err)
		}
		made = append(made, stream.name)
	}
	if len(made) == 0 {
		return nil, fmt.Errorf("none of the streams %s and %s is there: drover-server makes the first one when it starts", StreamName, DroverStreamName)
	}
	return made, nil
}

// RemoveObserver deletes the consumers of that name that [AddObserver] made, and returns the names of their streams.
func RemoveObserver(ctx context.Context, js jetstream.JetStream, name string) ([]string, error) {
	var removed []string
	for _, stream := range observed("*") {
		consumer, err := js.Consumer(ctx, stream.name, name)
		if err == nil && !ofObserver(stream.filter, consumer.CachedInfo().Config) {
			return removed, fmt.Errorf("consumer %s of stream %s is no observer's: it is left alone", name, stream.name)
		}
		if err == nil {
			err = js.DeleteConsumer(ctx, stream.name, name)
		}
		switch {
		case err == nil:
			removed = append(removed, stream.name)
		case !errors.Is(err, jetstream.ErrConsumerNotFound) && !errors.Is(err, jetstream.ErrStreamNotFound):
			return removed, fmt.Errorf("consumer %s of stream %s: %w", name, stream.name, err)
		}
	}
	if len(removed) == 0 {
		return nil, fmt.Errorf("there is no observer %s", name)
	}
	return removed, nil
}

// observedStream is a stream and what of it an observer sees.
type observedStream struct{ name, filter string }

// observed lists what the observer of an account sees; * stands for any account.
func observed(account string) []observedStream {
	token := account
	if account != "*" {
		token = EncodeToken(account)
	}
	return []observedStream{{StreamName, smcPrefix + "." + token + ".>"}, {DroverStreamName, droverPrefix + "." + token + ".>"}}
}

// ofObserver tells a consumer that AddObserver made from those of the programs.
func ofObserver(filter string, config jetstream.ConsumerConfig) bool {
	before, after, _ := strings.Cut(filter, "*")
	token, ok := strings.CutPrefix(strings.TrimSuffix(config.FilterSubject, after), before)
	return ok && token != "" && !strings.ContainsAny(token, ".*>") && strings.HasSuffix(config.FilterSubject, after)
}
