package smc

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/drover/drover/test/proxy"
)

// A connection of HTTP/2 that something on the way has forgotten is given up: calls that time out on it would leave it as it is, and all that
// follow would take it again.
func TestConnectionThatIsForgotten(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	between, err := proxy.New(server.Listener.Addr().String())
	require.NoError(t, err)
	defer between.Close()
	transport, err := Config{}.Transport()
	require.NoError(t, err)
	require.Positive(t, transport.HTTP2.SendPingTimeout)
	require.LessOrEqual(t, transport.HTTP2.SendPingTimeout+transport.HTTP2.PingTimeout, 20*time.Second)
	transport.HTTP2.SendPingTimeout, transport.HTTP2.PingTimeout = 100*time.Millisecond, 500*time.Millisecond
	transport.TLSClientConfig = &tls.Config{RootCAs: server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, ServerName: "example.com", MinVersion: tls.VersionTLS12}
	client := &http.Client{Transport: transport}
	call := func(limit time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+between.Address(), http.NoBody)
		require.NoError(t, err)
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		require.Equal(t, 2, response.ProtoMajor)
		return response.Body.Close()
	}
	require.NoError(t, call(10*time.Second))
	between.Strand()
	require.ErrorIs(t, call(50*time.Millisecond), context.DeadlineExceeded)
	require.Eventually(t, func() bool { return call(2*time.Second) == nil }, 20*time.Second, 10*time.Millisecond)
}
