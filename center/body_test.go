package center

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/drover/drover/center/agentapi"
)

// Who sends the body of a call and does not go on is cut off; a call that waits for its answer is not.
func TestBodiesComeInTime(t *testing.T) {
	const limit = time.Second
	f := newFixture(t, func(c *Config) { c.BodyTimeout = limit })
	address := strings.TrimPrefix(f.url, "http://")
	for _, path := range []string{"/", agentapi.PathRegister} {
		connection, err := net.Dial("tcp", address)
		require.NoError(t, err)
		t.Cleanup(func() { _ = connection.Close() })
		_, err = fmt.Fprintf(connection, "POST %s HTTP/1.1\r\nHost: center\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\nAction=", path)
		require.NoError(t, err)
		require.NoError(t, connection.SetReadDeadline(time.Now().Add(30*time.Second)))
		in := bufio.NewReader(connection)
		answer, err := http.ReadResponse(in, nil)
		require.NoError(t, err, path)
		require.Equal(t, http.StatusBadRequest, answer.StatusCode)
		_, err = io.Copy(io.Discard, answer.Body)
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
		_, err = in.ReadByte()
		require.ErrorIs(t, err, io.EOF, "the connection is closed")
	}

	_, client := f.agent("web")
	_, err := client.Work(t.Context(), agentapi.WorkQuery{Instance: "instance-of-web", Have: 1, Wait: 3 * limit})
	require.NoError(t, err, "its wait is longer than the time for a body")
}
