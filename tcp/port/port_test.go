package port

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// A held port is that of who knows it, again and again, and of nobody else.
func TestHold(t *testing.T) {
	address := ForTest(t)
	for range 3 {
		_, err := net.Dial("tcp", address)
		require.ErrorContains(t, err, "refused")
		listener, err := net.Listen("tcp", address)
		require.NoError(t, err)
		client, err := net.Dial("tcp", address)
		require.NoError(t, err)
		server, err := listener.Accept()
		require.NoError(t, err)
		require.NoError(t, server.Close()) // the system remembers this end of the connection for a while
		require.NoError(t, client.Close())
		require.NoError(t, listener.Close())
	}
	held := map[string]bool{address: true}
	for range 500 {
		other := ForTest(t)
		require.False(t, held[other], other)
		held[other] = true
	}
	h, err := Hold()
	require.NoError(t, err)
	_, err = hold(h.Number())
	require.Error(t, err, "it is held")
	h.Close()
	h.Close()
	again, err := hold(h.Number())
	require.NoError(t, err)
	again.Close()
}
