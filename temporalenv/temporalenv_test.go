package temporalenv

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/drover/drover/center/ca"
)

// certificate makes the certificate of a client and its key, signed by itself unless an authority is given.
func certificate(t *testing.T, authority *tls.Certificate) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: authority == nil, BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	parent, signer := template, any(private)
	if authority != nil {
		parent, signer = authority.Leaf, authority.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &private.PublicKey, signer)
	require.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}

func TestOptions(t *testing.T) {
	cert, key := certificate(t, nil)
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
		"half a client":       {map[string]string{"TEMPORAL_TLS_CLIENT_CERT_PATH": file}, false, "TEMPORAL_TLS_CLIENT_CERT and TEMPORAL_TLS_CLIENT_KEY go together"},
	} {
		t.Run(name, func(t *testing.T) {
			test.env[Address] = "host:1"
			options, err := Options(func(name string) string { return test.env[name] })
			if test.want != "" {
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

// frontend is a Temporal frontend that says what it can do to clients that show a certificate of an authority.
type frontend struct {
	workflowservice.UnimplementedWorkflowServiceServer
	address string
	headers chan metadata.MD
}

func (f *frontend) GetSystemInfo(ctx context.Context, _ *workflowservice.GetSystemInfoRequest) (*workflowservice.GetSystemInfoResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	f.headers <- md
	return &workflowservice.GetSystemInfoResponse{}, nil
}

func startFrontend(t *testing.T, shows *tls.Certificate, clients *x509.CertPool) *frontend {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f := &frontend{address: listener.Addr().String(), headers: make(chan metadata.MD, 10)}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{*shows}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients, MinVersion: tls.VersionTLS12,
	})))
	workflowservice.RegisterWorkflowServiceServer(server, f)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	return f
}

// A client of the SDK reaches a frontend that wants certificates, and takes no other for it.
func TestMutualTLS(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	servers, err := ca.New(time.Now())
	require.NoError(t, err)
	strangers, err := ca.New(time.Now())
	require.NoError(t, err)
	shows, err := servers.Issue([]string{"temporal.example"}, time.Now())
	require.NoError(t, err)
	clientCA, clientCAKey := certificate(t, nil)
	authority, err := tls.X509KeyPair([]byte(clientCA), []byte(clientCAKey))
	require.NoError(t, err)
	clients := x509.NewCertPool()
	clients.AddCert(authority.Leaf)
	f := startFrontend(t, shows, clients)

	cert, key := certificate(t, &authority)
	certFile := write("client.pem", cert)
	env := map[string]string{
		Address: f.address, APIKey: "api-key", ServerName: "temporal.example", MetaPrefix + "X_TEAM": "movers",
		ServerCA + "_PATH":   write("ca.pem", ca.EncodeCertificates(servers.Certificate)),
		ClientCert + "_PATH": certFile, ClientKey + "_PATH": write("client.key", key),
	}
	t.Setenv(MetaPrefix+"X_TEAM", "movers")
	dial := func(change map[string]string) error {
		options, err := Options(func(name string) string {
			if value, ok := change[name]; ok {
				return value
			}
			return env[name]
		})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		c, err := client.DialContext(ctx, options)
		if err == nil {
			c.Close()
		}
		return err
	}
	require.NoError(t, dial(nil))
	sent := <-f.headers
	assert.Equal(t, []string{"movers"}, sent.Get("x-team"))
	assert.Equal(t, []string{"Bearer api-key"}, sent.Get("authorization"))

	require.ErrorContains(t, dial(map[string]string{ServerCA + "_PATH": write("other.pem", ca.EncodeCertificates(strangers.Certificate))}), "unknown authority")
	require.ErrorContains(t, dial(map[string]string{ServerName: "elsewhere.example"}), "elsewhere.example")
	require.Error(t, dial(map[string]string{ClientCert + "_PATH": "", ClientKey + "_PATH": ""}), "a client without a certificate")
	require.Error(t, dial(map[string]string{TLS: "false", APIKey: ""}), "plain text")

	// The certificate is exchanged under a program that runs.
	options, err := Options(func(name string) string { return env[name] })
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(certFile, []byte(strings.Repeat("x", 10)), 0o600))
	_, err = options.ConnectionOptions.TLS.GetClientCertificate(nil)
	require.ErrorContains(t, err, ClientCert)
	require.NoError(t, os.WriteFile(certFile, []byte(cert), 0o600))
	shown, err := options.ConnectionOptions.TLS.GetClientCertificate(nil)
	require.NoError(t, err)
	assert.NotEmpty(t, shown.Certificate)
}
