package app

import (
	"context"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/center/store/storetest"
	"github.com/drover/drover/monitor"
	"github.com/drover/drover/tcp/port"
)

// soon bounds the waits of these tests; on a loaded machine too they take a fraction of it.
const soon = 30 * time.Second

// serveAt has serve answer each connection to address until the test ends.
func serveAt(t *testing.T, address string, serve func(net.Conn)) {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				serve(conn)
			}()
		}
	}()
}

// refusal answers as PostgreSQL does that refuses a connection with a code.
func refusal(conn net.Conn, code, message string) {
	backend := pgproto3.NewBackend(conn, conn)
	for {
		asked, err := backend.ReceiveStartupMessage()
		if err != nil {
			return
		}
		if _, tls := asked.(*pgproto3.SSLRequest); !tls {
			break
		}
		_, _ = conn.Write([]byte{'N'})
	}
	backend.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: code, Message: message})
	_ = backend.Flush()
}

// awaitState waits until a process says of something it needs what is wanted: "" that it is there.
func awaitState(t *testing.T, p *monitor.Process, name, want string) {
	t.Helper()
	require.Eventually(t, func() bool {
		states, _ := p.Ready(t.Context())
		for _, s := range states {
			if s.Name == name {
				return want == "" && s.Err == nil || want != "" && s.Err != nil && strings.Contains(s.Err.Error(), want)
			}
		}
		return false
	}, soon, 20*time.Millisecond, "%s: %s", name, want)
}

// A process waits for a database server that is away, starts or goes down, and is not ready meanwhile; what lasts, such as a wrong password,
// ends it at once.
func TestAwaitRecord(t *testing.T) {
	t.Parallel()
	address := port.ForTest(t)
	c := Connections{DatabaseURL: "postgres://drover:wrong@" + address + "/drover", SecretKeyFile: filepath.Join(t.TempDir(), "secret.key")}
	require.NoError(t, store.MakeKeyFile(c.SecretKeyFile))
	core, logs := observer.New(zap.InfoLevel)
	p := monitor.New("test")
	ended := make(chan error, 1)
	go func() {
		_, remove, err := c.awaitRecord(t.Context(), p, zap.New(core))
		remove()
		ended <- err
	}()
	awaitState(t, p, "database", "refused")
	var lasting atomic.Bool
	serveAt(t, address, func(conn net.Conn) {
		if lasting.Load() {
			refusal(conn, "28P01", "password authentication failed")
			return
		}
		refusal(conn, "57P03", "the database system is starting up")
	})
	awaitState(t, p, "database", "starting up")
	require.Empty(t, ended)
	lasting.Store(true)
	select {
	case err := <-ended:
		require.ErrorContains(t, err, "password authentication failed")
	case <-time.After(soon):
		require.Fail(t, "it goes on waiting")
	}
	require.Equal(t, 1, logs.Len(), "it is logged once: %v", logs.All())
	require.Contains(t, logs.All()[0].Message, "the database does not answer")

	// A signal ends the wait.
	ctx, cancel := context.WithCancel(t.Context())
	c.DatabaseURL = "postgres://drover:wrong@" + port.ForTest(t) + "/drover"
	go func() {
		_, remove, err := c.awaitRecord(ctx, p, zap.NewNop())
		remove()
		ended <- err
	}()
	awaitState(t, p, "database", "refused")
	cancel()
	select {
	case err := <-ended:
		require.ErrorIs(t, err, context.Canceled)
	case <-time.After(soon):
		require.Fail(t, "it goes on waiting")
	}
}

// Servers and workers that are started before their database, NATS and Temporal wait for them.
func TestProcessesWaitForTheirDatabase(t *testing.T) {
	if !storetest.Postgres() {
		t.Skip("needs " + storetest.Variable)
	}
	t.Parallel()
	for name, run := range map[string]func(context.Context, Connections, Process) error{
		"server": func(ctx context.Context, c Connections, p Process) error {
			return RunServer(ctx, ServerConfig{Connections: c, Process: p, Listen: "127.0.0.1:0", RegionID: "local"}, zap.NewNop())
		},
		"worker": func(ctx context.Context, c Connections, p Process) error {
			return RunWorker(ctx, WorkerConfig{Connections: c, Process: p, Roles: []string{RoleCenter}}, zap.NewNop())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u, err := url.Parse(storetest.URL(t))
			require.NoError(t, err)
			there := u.Host
			u.Host = port.ForTest(t)
			c := Connections{
				DatabaseURL: u.String(), SecretKeyFile: filepath.Join(t.TempDir(), "secret.key"), NATSURL: "nats://" + port.ForTest(t),
				TemporalAddress: port.ForTest(t), TemporalNamespace: "default",
			}
			require.NoError(t, store.MakeKeyFile(c.SecretKeyFile))
			p := Process{}.orDefault()
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- run(ctx, c, p) }()
			awaitState(t, p.Monitor, "database", "refused")

			serveAt(t, u.Host, func(conn net.Conn) {
				server, err := (&net.Dialer{}).DialContext(ctx, "tcp", there)
				if err != nil {
					return
				}
				defer server.Close()
				go func() { _, _ = io.Copy(server, conn); _ = server.Close() }()
				_, _ = io.Copy(conn, server)
			})
			awaitState(t, p.Monitor, "database", "")
			require.Empty(t, ended)
			cancel()
			select {
			case err := <-ended:
				require.NoError(t, untilStopped(ctx, err))
			case <-time.After(soon):
				require.Fail(t, "it does not end")
			}
		})
	}
}
