// Package natsserver runs a NATS server with JetStream inside this process, on loopback, with its data in one directory.
package natsserver

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/zap"
)

const (
	loopback = "127.0.0.1"

	// readyInterval is how often a server that is coming up is asked whether it has failed. Readiness is noticed sooner.
	readyInterval = 100 * time.Millisecond
)

// Options says where the server runs.
type Options struct {
	// Dir holds the streams. It is created when absent, and must not be used by another process.
	Dir string
	// Port is the client port on 127.0.0.1. Required.
	Port int
}

// Server is a running NATS server.
type Server struct {
	server *server.Server
}

// Start starts the server and returns once clients can connect and JetStream is up, or when ctx is done.
//
// Each message is synced to disk before its publisher is answered (sync_interval: always): on one node nothing else keeps what was
// acknowledged over a power cut. The server's own messages below warning are dropped.
func Start(ctx context.Context, opts Options, logger *zap.Logger) (*Server, error) {
	dir, err := filepath.Abs(opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("nats: resolve %s: %w", opts.Dir, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("nats: make the data directory: %w", err)
	}
	srv, err := server.NewServer(&server.Options{
		ServerName: "drover-dev",
		Host:       loopback,
		Port:       opts.Port,
		JetStream:  true,
		StoreDir:   dir,
		SyncAlways: true,
		NoSigs:     true, // signals are the process's
	})
	if err != nil {
		return nil, fmt.Errorf("nats: assemble the server: %w", err)
	}
	fatal := &fatalLogger{
		zapLogger: zapLogger{logger.WithOptions(zap.IncreaseLevel(zap.WarnLevel)).Sugar()},
		failed:    make(chan struct{}),
	}
	srv.SetLoggerV2(fatal, false, false, false)
	go srv.Start()

	for !srv.ReadyForConnections(readyInterval) || !srv.JetStreamEnabled() {
		select {
		case <-ctx.Done():
			srv.Shutdown()
			return nil, fmt.Errorf("nats: start on %s:%d: %w", loopback, opts.Port, context.Cause(ctx))
		case <-fatal.failed:
			srv.Shutdown()
			return nil, fmt.Errorf("nats: start on %s:%d: %w", loopback, opts.Port, fatal.err)
		default:
		}
	}
	return &Server{server: srv}, nil
}

// URL is what clients connect to.
func (s *Server) URL() string { return s.server.ClientURL() }

// Stop closes the connections, flushes the streams and waits for that, but not longer than ctx.
func (s *Server) Stop(ctx context.Context) error {
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.server.Shutdown()
		s.server.WaitForShutdown()
	}()
	select {
	case <-stopped:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("nats: stop: %w", context.Cause(ctx))
	}
}

// zapLogger makes a zap logger of the server's.
type zapLogger struct{ log *zap.SugaredLogger }

func (l zapLogger) Noticef(format string, v ...any) { l.log.Infof(format, v...) }
func (l zapLogger) Warnf(format string, v ...any)   { l.log.Warnf(format, v...) }
func (l zapLogger) Errorf(format string, v ...any)  { l.log.Errorf(format, v...) }
func (l zapLogger) Debugf(format string, v ...any)  { l.log.Debugf(format, v...) }
func (l zapLogger) Tracef(format string, v ...any)  { l.log.Debugf(format, v...) }

// fatalLogger keeps the first message the server calls fatal. The server reports a failed start in no other way, and expects its logger
// to end the process, which is not its to end.
type fatalLogger struct {
	zapLogger
	once   sync.Once
	failed chan struct{} // closed once err is set
	err    error
}

func (l *fatalLogger) Fatalf(format string, v ...any) {
	l.once.Do(func() {
		l.err = fmt.Errorf(format, v...)
		close(l.failed)
	})
	l.log.Errorf(format, v...)
}

var _ server.Logger = (*fatalLogger)(nil)
