package tcp

import (
	"io"
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What the other side takes no more of ends the connection, as what it does not acknowledge would.
func TestSilenceEndsAConnection(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	accepted := make(chan net.Conn, 2)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			accepted <- conn // nothing is read of it
		}
	}()

	conn, err := Dialer(200*time.Millisecond).DialContext(t.Context(), "tcp", listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	_, err = io.Copy(conn, endless{})
	require.ErrorIs(t, err, syscall.ETIMEDOUT)
	(<-accepted).Close()

	conn, err = Dialer(time.Minute).DialContext(t.Context(), "tcp", listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	server := <-accepted
	t.Cleanup(func() { server.Close() })
	go func() { _, _ = io.Copy(server, server) }()
	_, err = conn.Write([]byte("heard"))
	require.NoError(t, err)
	answer := make([]byte, 5)
	_, err = io.ReadFull(conn, answer)
	require.NoError(t, err)
	require.Equal(t, "heard", string(answer))
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// Sockets of the machine have no such option.
func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	listener, err := net.Listen("unix", path)
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	conn, err := Dialer(time.Second).DialContext(t.Context(), "unix", path)
	require.NoError(t, err)
	require.NoError(t, conn.Close())
}
