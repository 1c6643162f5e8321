package smc

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A client knows its endpoint by the authority of a file, and says what to do when it does not.
func TestClientGoesByItsCAFile(t *testing.T) {
	var calls atomic.Int64
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"RequestId":"R","TotalCount":3}`))
	}))
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600))
	env := map[string]string{EnvEndpoint: server.URL, EnvAccessKeyID: "key", EnvAccessKeySecret: "secret", EnvCAFile: file}
	call := func() error {
		cfg, err := ConfigFromEnv(func(name string) string { return env[name] })
		require.NoError(t, err)
		client, err := NewClient(cfg)
		if err != nil {
			return err
		}
		_, err = Do(t.Context(), client, DescribeReplicationJobs, &DescribeReplicationJobsRequest{})
		return err
	}
	require.NoError(t, call())

	delete(env, EnvCAFile)
	err := call()
	require.ErrorContains(t, err, EnvCAFile)
	var failed *CallError
	require.ErrorAs(t, err, &failed)
	assert.Equal(t, 1, failed.Attempts, "it does not get better")
	assert.EqualValues(t, 1, calls.Load())

	env[EnvCAFile] = file + "x"
	require.ErrorContains(t, call(), file+"x")
	require.NoError(t, os.WriteFile(file, []byte("x"), 0o600))
	env[EnvCAFile] = file
	require.ErrorContains(t, call(), "no certificate in PEM form")

	env[EnvEndpoint] = "smc.aliyuncs.com"
	cfg, err := ConfigFromEnv(func(name string) string { return env[name] })
	require.NoError(t, err)
	assert.Empty(t, cfg.CAFile, "the vendor's certificates are not of that authority")
}

// An address without a scheme is one of https: a client says so at once when that is the mistake.
func TestClientNamesTheScheme(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	client, err := NewClient(Config{Endpoint: server.Listener.Addr().String(), AccessKeyID: "key", AccessKeySecret: "secret"})
	require.NoError(t, err)
	_, err = Do(t.Context(), client, DescribeReplicationJobs, &DescribeReplicationJobsRequest{})
	require.ErrorContains(t, err, "begin its address with http://")
	var failed *CallError
	require.ErrorAs(t, err, &failed)
	assert.Equal(t, 1, failed.Attempts)
}
