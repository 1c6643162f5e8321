package app

import (
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"go.temporal.io/sdk/client"
	temporallog "go.temporal.io/sdk/log"
	"go.uber.org/zap"

	"github.com/drover/drover/events"
	"github.com/drover/drover/monitor"
)

// temporalOptions are those of every Temporal client of a process. p, which may be nil, gets what the client counts.
func (c Connections) temporalOptions(p *monitor.Process, log *zap.Logger) (client.Options, error) {
	machine, err := os.Hostname()
	if err != nil {
		machine = "unknown"
	}
	options := client.Options{
		HostPort: c.TemporalAddress, Namespace: c.TemporalNamespace,
		// What it does is in the histories of workflows under this name: of which version it was, too.
		Identity: fmt.Sprintf("drover %s, process %d on %s", Version(), os.Getpid(), machine),
		Logger:   newTemporalLogger(log.Named("temporal")),
		// A server that hangs, or that something on the way has forgotten, is noticed within 25 seconds. Temporal takes pings every 10.
		ConnectionOptions: client.ConnectionOptions{KeepAliveTime: 15 * time.Second, KeepAliveTimeout: 10 * time.Second},
	}
	if p != nil {
		options.MetricsHandler = p.Temporal()
	}
	return options, c.TemporalSecurity.Apply(&options)
}

// nats connects to NATS; it does so also while no server answers.
func (c Connections) nats(name string, log *zap.Logger) (*nats.Conn, error) {
	options, err := c.NATSSecurity.Options()
	if err != nil {
		return nil, err
	}
	nc, err := events.Connect(c.NATSURL, name, log.Named("nats"), options...)
	if err != nil {
		return nil, fmt.Errorf("NATS_URL %s: %w", events.Redacted(c.NATSURL), err)
	}
	return nc, nil
}

// temporalLogger lets Temporal's SDK log through zap.
type temporalLogger struct{ *zap.SugaredLogger }

var (
	_ temporallog.Logger          = temporalLogger{}
	_ temporallog.WithLogger      = temporalLogger{}
	_ temporallog.WithSkipCallers = temporalLogger{}
)

func newTemporalLogger(log *zap.Logger) temporallog.Logger {
	return temporalLogger{log.WithOptions(zap.AddCallerSkip(1)).Sugar()}
}

// Debug, Info, Warn and Error implement log.Logger.
func (l temporalLogger) Debug(msg string, keyvals ...any) { l.Debugw(msg, keyvals...) }
func (l temporalLogger) Info(msg string, keyvals ...any)  { l.Infow(msg, keyvals...) }
func (l temporalLogger) Warn(msg string, keyvals ...any)  { l.Warnw(msg, keyvals...) }
func (l temporalLogger) Error(msg string, keyvals ...any) { l.Errorw(msg, keyvals...) }

// With implements log.WithLogger.
func (l temporalLogger) With(keyvals ...any) temporallog.Logger {
	return temporalLogger{l.SugaredLogger.With(keyvals...)}
}

// WithCallerSkip implements log.WithSkipCallers.
func (l temporalLogger) WithCallerSkip(depth int) temporallog.Logger {
	return temporalLogger{l.WithOptions(zap.AddCallerSkip(depth))}
}
