package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/drover/drover/center/ca"
	"github.com/drover/drover/smc"
)

// A query at its limit is read, one over it is refused with a code, and only one that no client sends by mistake gets a bare 431.
func TestLongQueries(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := smc.ReadRequest(w, r)
		_, _ = io.WriteString(w, r.Proto+" "+smc.CodeOf(err))
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- serveListener(ctx, listener, nil, handler, time.Second, zap.NewNop()) }()
	t.Cleanup(func() { cancel(); assert.NoError(t, <-served) })

	authority, err := ca.New(time.Now())
	require.NoError(t, err)
	trusted := x509.NewCertPool()
	trusted.AddCert(authority.Certificate)
	secure := newSite(t, authority, handler)

	plainClient := &http.Client{Transport: &http.Transport{}}
	secureClient := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted}, ForceAttemptHTTP2: true}}
	t.Cleanup(plainClient.CloseIdleConnections)
	t.Cleanup(secureClient.CloseIdleConnections)
	for _, test := range []struct {
		name   string
		client *http.Client
		url    string
		query  int
		status int
		body   string
	}{
		{"at the limit", plainClient, "http://" + listener.Addr().String(), smc.MaxBody, http.StatusOK, "HTTP/1.1 "},
		{"over it", plainClient, "http://" + listener.Addr().String(), smc.MaxBody + 1, http.StatusOK, "HTTP/1.1 InvalidParameter"},
		{"far over it", plainClient, "http://" + listener.Addr().String(), smc.MaxBody + 60<<10, http.StatusOK, "HTTP/1.1 InvalidParameter"},
		{"too far", plainClient, "http://" + listener.Addr().String(), maxHeader + 8<<10, http.StatusRequestHeaderFieldsTooLarge, "431"},
		{"HTTP/2, at the limit", secureClient, secure.url(), smc.MaxBody, http.StatusOK, "HTTP/2.0 "},
		{"HTTP/2, far over it", secureClient, secure.url(), smc.MaxBody + 60<<10, http.StatusOK, "HTTP/2.0 InvalidParameter"},
	} {
		t.Run(test.name, func(t *testing.T) {
			answer, err := test.client.Get(test.url + "/?" + strings.Repeat("a", test.query))
			require.NoError(t, err)
			body, err := io.ReadAll(answer.Body)
			require.NoError(t, err)
			require.NoError(t, answer.Body.Close())
			require.Equal(t, test.status, answer.StatusCode)
			if test.status == http.StatusOK {
				require.Equal(t, test.body, string(body))
			} else {
				require.Contains(t, string(body), test.body)
			}
		})
	}
}
