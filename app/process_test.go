package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/drover/drover/monitor"
	"github.com/drover/drover/tcp/port"
)

// signalled is a process of this test that gets real signals. ended gets the exit code if it ends itself.
type signalled struct {
	t      *testing.T
	ctx    context.Context
	ended  chan int
	logs   *observer.ObservedLogs
	parts  *monitor.Process
	finish func()
}

func untilSignal(t *testing.T, timeout time.Duration) *signalled {
	t.Helper()
	core, logs := observer.New(zapcore.InfoLevel)
	s := &signalled{t: t, ended: make(chan int, 1), logs: logs, parts: monitor.New("test")}
	exit = func(code int) { s.ended <- code }
	t.Cleanup(func() { exit = os.Exit })
	s.ctx, s.finish = Process{Monitor: s.parts, ShutdownTimeout: timeout}.UntilSignal(t.Context(), zap.New(core))
	return s
}

func (s *signalled) kill() {
	s.t.Helper()
	require.NoError(s.t, syscall.Kill(os.Getpid(), syscall.SIGTERM))
}

func (s *signalled) stops() {
	s.t.Helper()
	s.kill()
	<-s.ctx.Done()
	require.ErrorIs(s.t, context.Cause(s.ctx), ErrStopped)
	_, ready := s.parts.Ready(s.t.Context())
	require.False(s.t, ready, "it was not ready before anything stopped")
}

func (s *signalled) exits(message string, unfinished ...any) {
	s.t.Helper()
	select {
	case code := <-s.ended:
		require.Equal(s.t, ExitFailed, code)
	case <-time.After(20 * time.Second):
		require.Fail(s.t, "it goes on")
	}
	last := s.logs.All()[s.logs.Len()-1]
	require.Contains(s.t, last.Message, message)
	require.Equal(s.t, unfinished, last.ContextMap()["unfinished"])
}

func TestSignal(t *testing.T) {
	s := untilSignal(t, time.Hour)
	s.stops()
	s.finish()
	require.Empty(t, s.ended, "it has ended by itself")
	require.Equal(t, 1, s.logs.Len())
}

func TestSecondSignal(t *testing.T) {
	s := untilSignal(t, time.Hour)
	defer s.finish()
	s.stops()
	defer s.parts.Part("relay")()
	s.kill()
	s.exits("second signal", "relay")
}

// A part that hangs does not hold the process longer than its time, and is named.
func TestShutdownTimeout(t *testing.T) {
	s := untilSignal(t, 10*time.Millisecond)
	defer s.finish()
	defer s.parts.Part("database")()
	defer s.parts.Part("worker-center")()
	s.stops()
	s.exits("took too long", "database", "worker-center")
}

func TestProcessSettings(t *testing.T) {
	for _, c := range []struct {
		name, variable string
		args           []string
		timeout        time.Duration
		says           string
	}{
		{"nothing is given", "", nil, DefaultShutdownTimeout, ""},
		{"the variable", "20s", nil, 20 * time.Second, ""},
		{"the flag before the variable", "20s", []string{"--shutdown-timeout", "5s"}, 5 * time.Second, ""},
		{"the flag before a wrong variable", "soon", []string{"--shutdown-timeout", "5s"}, 5 * time.Second, ""},
		{"a wrong variable", "soon", nil, 0, `DROVER_SHUTDOWN_TIMEOUT is "soon"`},
		{"too short", "", []string{"--shutdown-timeout", "10ms"}, 0, "--shutdown-timeout"},
		{"no metrics", "", []string{"--metrics-listen", "off"}, DefaultShutdownTimeout, ""},
		{"no address", "", []string{"--metrics-listen", "7710"}, 0, "--metrics-listen 7710"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var settings ProcessSettings
			flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
			settings.Flags(flags, DefaultServerMetrics, func(string) string { return c.variable })
			require.NoError(t, flags.Parse(c.args))
			err := settings.Check()
			if c.says != "" {
				require.ErrorContains(t, err, c.says)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.timeout, settings.ShutdownTimeout)
		})
	}
}

// Metrics are served while the process works, and until it has ended.
func TestServe(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	other := taken.Addr().String()
	address := port.ForTest(t)
	fails := errors.New("it fails")

	settings := ProcessSettings{ShutdownTimeout: time.Minute, MetricsListen: address}
	require.ErrorIs(t, settings.Serve(t.Context(), other, zap.NewNop(), func(ctx context.Context, p Process) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", http.NoBody)
		require.NoError(t, err)
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		require.Contains(t, string(body), "drover_build_info")
		require.Equal(t, time.Minute, p.ShutdownTimeout)
		return fails
	}), fails)
	_, err = net.Dial("tcp", address)
	require.Error(t, err)

	// The default of somebody else who was first is not worth the process; what was asked for is.
	worked := false
	works := func(context.Context, Process) error { worked = true; return nil }
	settings.MetricsListen = ""
	require.NoError(t, settings.Serve(t.Context(), other, zap.NewNop(), works))
	require.True(t, worked)
	settings.MetricsListen = other
	require.ErrorContains(t, settings.Serve(t.Context(), DefaultServerMetrics, zap.NewNop(), works), other)
}

// That a signal ended what a process waited for is no failure of it; another failure is.
func TestServeUntilSignal(t *testing.T) {
	fails := errors.New("it fails")
	settings := ProcessSettings{ShutdownTimeout: time.Minute, MetricsListen: MetricsOff}
	for _, c := range []struct{ ends, want error }{{context.Canceled, nil}, {fails, fails}} {
		err := settings.Serve(t.Context(), MetricsOff, zap.NewNop(), func(ctx context.Context, _ Process) error {
			require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGTERM))
			<-ctx.Done()
			return fmt.Errorf("wait for the database: %w", c.ends)
		})
		require.ErrorIs(t, err, c.want)
	}
}

func TestDefaultMetrics(t *testing.T) {
	for address, roles := range map[string][]string{
		DefaultCenterMetrics:       {RoleOrchestrator, RoleCenter},
		DefaultTransitionMetrics:   {RoleTransition},
		DefaultOrchestratorMetrics: {RoleOrchestrator},
	} {
		require.Equal(t, address, (&WorkerConfig{Roles: roles}).DefaultMetrics())
	}
}

// A process that is not given its monitor has one of its own, so that nothing need ask.
func TestProcessOrDefault(t *testing.T) {
	p := Process{}.orDefault()
	require.NotNil(t, p.Monitor)
	require.Equal(t, DefaultShutdownTimeout, p.ShutdownTimeout)
	record := filepath.Join(t.TempDir(), "gone")
	p.closing("record", func() error {
		require.Equal(t, []string{"record"}, p.Monitor.Parts())
		return os.Remove(record)
	})()
	require.Empty(t, p.Monitor.Parts())
}
