package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/sdk/converter"
)

func memoOf(t *testing.T, sum string) *commonpb.Memo {
	t.Helper()
	payload, err := converter.GetDefaultDataConverter().ToPayload(sum)
	require.NoError(t, err)
	return &commonpb.Memo{Fields: map[string]*commonpb.Payload{memoManifest: payload}}
}

// certificate makes a self-signed certificate and its key.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	require.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}

func TestTemporalOptions(t *testing.T) {
	cert, key := certificate(t)
	file := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(file, []byte(cert), 0o600))
	for name, test := range map[string]struct {
		env  map[string]string
		tls  bool
		want string // error
	}{
		"plain":               {map[string]string{}, false, ""},
		"by an API key":       {map[string]string{"TEMPORAL_API_KEY": "k"}, true, ""},
		"an API key in clear": {map[string]string{"TEMPORAL_API_KEY": "k", "TEMPORAL_TLS": "false"}, false, ""},
		"asked for":           {map[string]string{"TEMPORAL_TLS": "true"}, true, ""},
		"neither":             {map[string]string{"TEMPORAL_TLS": "maybe"}, false, `TEMPORAL_TLS: "maybe" is neither true nor false`},
		"a server name":       {map[string]string{"TEMPORAL_TLS_SERVER_NAME": "t"}, true, ""},
		"no verification":     {map[string]string{"TEMPORAL_TLS_DISABLE_HOST_VERIFICATION": "true"}, true, ""},
		"verification":        {map[string]string{"TEMPORAL_TLS_DISABLE_HOST_VERIFICATION": "x"}, false, `TEMPORAL_TLS_DISABLE_HOST_VERIFICATION: "x" is neither`},
		"a CA":                {map[string]string{"TEMPORAL_TLS_SERVER_CA_CERT_PATH": file}, true, ""},
		"no CA":               {map[string]string{"TEMPORAL_TLS_SERVER_CA_CERT_PATH": file + "x"}, false, "TEMPORAL_TLS_SERVER_CA_CERT_PATH: open"},
		"no certificate":      {map[string]string{"TEMPORAL_TLS_SERVER_CA_CERT_DATA": "x"}, false, "TEMPORAL_TLS_SERVER_CA_CERT: there is no certificate in PEM form"},
		"both":                {map[string]string{"TEMPORAL_TLS_SERVER_CA_CERT_DATA": "x", "TEMPORAL_TLS_SERVER_CA_CERT_PATH": "x"}, false, "are both set"},
		"a client":            {map[string]string{"TEMPORAL_TLS_CLIENT_CERT_DATA": cert, "TEMPORAL_TLS_CLIENT_KEY_DATA": key}, true, ""},
		"half a client":       {map[string]string{"TEMPORAL_TLS_CLIENT_CERT_PATH": file}, false, "TEMPORAL_TLS_CLIENT_CERT and TEMPORAL_TLS_CLIENT_KEY"},
	} {
		t.Run(name, func(t *testing.T) {
			test.env[envTemporalAddress] = "host:1"
			options, err := temporalOptions(func(name string) string { return test.env[name] })
			if test.want != "" {
				var usage usageError
				assert.ErrorAs(t, err, &usage)
				assert.ErrorContains(t, err, test.want)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, "host:1", options.HostPort)
			assert.Equal(t, "default", options.Namespace)
			assert.Equal(t, test.tls, options.ConnectionOptions.TLS != nil)
			assert.Equal(t, !test.tls, options.ConnectionOptions.TLSDisabled)
		})
	}
}
