package app

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/drover/drover/monitor"
	"github.com/drover/drover/smc"
)

const (
	// probeEvery is how often an endpoint that answers is asked whether it does. One that does not is asked after probeAgain, and then
	// after twice as long each time, up to probeEvery.
	probeEvery = 30 * time.Second
	probeAgain = time.Second
	// probeLimit bounds one question.
	probeLimit = 5 * time.Second
	// probeFailures is how many questions in a row an endpoint leaves unanswered before it is said to be away.
	probeFailures = 3
)

var errNotAsked = errors.New("it has not answered yet")

// endpointProbe finds out now and then whether an SMC endpoint answers. Whatever it says counts, but for what a proxy says in place of an
// endpoint that is away: the question is not signed, and costs the endpoint next to nothing.
type endpointProbe struct {
	url     string
	client  *http.Client
	again   time.Duration // probeAgain outside tests
	log     *zap.Logger
	trouble atomic.Pointer[error]
}

func newEndpointProbe(client *smc.Client, config smc.Config, log *zap.Logger) (*endpointProbe, error) {
	transport, err := config.Transport()
	if err != nil {
		return nil, err
	}
	p := &endpointProbe{
		url: client.Endpoint() + "healthz", again: probeAgain, log: log,
		client: &http.Client{Transport: transport, Timeout: probeLimit, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}
	p.trouble.Store(&errNotAsked)
	return p, nil
}

// require has the process need the endpoint.
func (p *endpointProbe) require(m *monitor.Process) (remove func()) {
	return m.Require("endpoint", func(context.Context) error { return *p.trouble.Load() })
}

// run asks until ctx is done.
func (p *endpointProbe) run(ctx context.Context) error {
	pause, failures := p.again, 0
	for {
		err := p.ask(ctx)
		switch known := *p.trouble.Load(); {
		case err == nil:
			if failures >= probeFailures {
				p.log.Info("the endpoint answers again")
			}
			p.trouble.Store(&err)
			pause, failures = p.again, 0
		case ctx.Err() == nil:
			if failures++; failures == probeFailures {
				p.log.Warn("the endpoint does not answer; fleets wait for it", zap.Error(err))
			}
			if known != nil || failures >= probeFailures {
				p.trouble.Store(&err)
			}
		}
		wait := probeEvery
		if err != nil {
			wait = pause
			pause = min(2*pause, probeEvery)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

func (p *endpointProbe) ask(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url, http.NoBody)
	if err != nil {
		return err
	}
	answer, err := p.client.Do(request)
	if err != nil {
		return err
	}
	_ = answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return fmt.Errorf("%s: %s", p.url, answer.Status)
	}
	return nil
}
