package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/drover/drover/center/ca"
	"github.com/drover/drover/center/store"
)

func TestTLSSettingsAreChecked(t *testing.T) {
	for name, test := range map[string]struct {
		config  TLSConfig
		address string
		want    string
	}{
		"plain on loopback":        {TLSConfig{}, "127.0.0.1:7700", ""},
		"plain on localhost":       {TLSConfig{Mode: TLSOff}, "localhost:7700", ""},
		"plain on IPv6 loopback":   {TLSConfig{}, "[::1]:7700", ""},
		"plain everywhere":         {TLSConfig{}, "0.0.0.0:7700", "--listen 0.0.0.0:7700 is reached from other machines, and there is no TLS: give --tls self"},
		"plain on all, short":      {TLSConfig{}, ":7700", "--insecure-plaintext"},
		"plain on a name":          {TLSConfig{}, "center.example:7700", "--tls-cert"},
		"plain as was asked for":   {TLSConfig{InsecurePlaintext: true}, "0.0.0.0:7700", ""},
		"own authority":            {TLSConfig{Mode: TLSSelf}, "0.0.0.0:7700", ""},
		"files":                    {TLSConfig{CertFile: "c", KeyFile: "k"}, "0.0.0.0:7700", ""},
		"a certificate alone":      {TLSConfig{CertFile: "c"}, "127.0.0.1:7700", "go together"},
		"a key alone":              {TLSConfig{KeyFile: "k"}, "127.0.0.1:7700", "go together"},
		"files and own authority":  {TLSConfig{Mode: TLSSelf, CertFile: "c", KeyFile: "k"}, "127.0.0.1:7700", "exclude each other"},
		"files and off":            {TLSConfig{Mode: TLSOff, CertFile: "c", KeyFile: "k"}, "127.0.0.1:7700", "exclude each other"},
		"a mode that is not there": {TLSConfig{Mode: "on"}, "127.0.0.1:7700", `--tls "on": want self or off`},
	} {
		t.Run(name, func(t *testing.T) {
			err := test.config.check("listen", test.address)
			if test.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, test.want)
		})
	}
}

func TestNamesOfAListener(t *testing.T) {
	loopback := []string{"127.0.0.1", "::1", "localhost"}
	assert.Equal(t, loopback, reachedBy([]string{"127.0.0.1:7700", ""}))
	assert.Equal(t, append(loopback, "t.example"), reachedBy([]string{"localhost:7701", "https://t.example:7701"}))
	assert.Equal(t, []string{"192.0.2.1", "a.example", "fe80::1"}, reachedBy([]string{"192.0.2.1:7700", "a.example", "[fe80::1]:1"}))
	assert.Equal(t, []string{"10.0.0.1", "t.example"}, reachedBy([]string{"https://t.example:7701", "https://10.0.0.1:7701"}), "the public and the private address")
	assert.Equal(t, []string{"2001:db8::1", "t.example"}, reachedBy([]string{"https://t.example", "https://[2001:db8::1]/drover"}), "the port that https has")
	host, err := os.Hostname()
	require.NoError(t, err)
	for _, listen := range []string{"0.0.0.0:7700", "[::]:7700", ":7700"} {
		assert.Subset(t, reachedBy([]string{listen}), append(loopback, host), listen)
	}
}

// site is a server whose certificate comes from files.
type site struct {
	t         *testing.T
	cert, key string
	identity  *identity
	listener  net.Listener
}

// newSite serves handler with a certificate for 127.0.0.1 of an authority.
func newSite(t *testing.T, authority *ca.Authority, handler http.Handler) *site {
	t.Helper()
	dir := t.TempDir()
	s := &site{t: t, cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem")}
	s.write(authority)
	var err error
	s.identity, err = newIdentity(t.Context(), TLSConfig{CertFile: s.cert, KeyFile: s.key}, nil, nil, zap.NewNop())
	require.NoError(t, err)
	s.listener, err = net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- serveListener(ctx, s.listener, s.identity, handler, time.Second, zap.NewNop()) }()
	t.Cleanup(func() { cancel(); require.NoError(t, <-served) })
	return s
}

func (s *site) url() string { return "https://" + s.listener.Addr().String() }

// write has the authority sign a new certificate and puts it into the files.
func (s *site) write(authority *ca.Authority, more ...*x509.Certificate) *tls.Certificate {
	s.t.Helper()
	pair, err := authority.Issue([]string{"127.0.0.1"}, time.Now())
	require.NoError(s.t, err)
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	require.NoError(s.t, err)
	chain := ca.EncodeCertificates(append([]*x509.Certificate{pair.Leaf, authority.Certificate}, more...)...)
	require.NoError(s.t, os.WriteFile(s.cert, []byte(chain), 0o600))
	require.NoError(s.t, os.WriteFile(s.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600))
	return pair
}

// shows returns the certificate of a connection made now.
func (s *site) shows() *x509.Certificate {
	s.t.Helper()
	conn, err := tls.Dial("tcp", s.listener.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	require.NoError(s.t, err)
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0]
}

func newAuthority(t *testing.T) *ca.Authority {
	t.Helper()
	authority, err := ca.New(time.Now())
	require.NoError(t, err)
	return authority
}

// A certificate that is renewed in its files is shown to new connections; those that are there stay.
func TestCertificateFilesAreReadAgain(t *testing.T) {
	authority := newAuthority(t)
	s := newSite(t, authority, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.RemoteAddr) }))
	s.identity.every = time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go s.identity.run(ctx)

	roots := x509.NewCertPool()
	roots.AddCert(authority.Certificate)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	get := func() string {
		resp, err := client.Get(s.url())
		require.NoError(t, err)
		defer resp.Body.Close()
		from, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return string(from)
	}
	from, first := get(), s.shows()
	second := s.write(authority)
	eventually(t, "the new certificate", func() bool { return s.shows().Equal(second.Leaf) })
	assert.False(t, first.Equal(second.Leaf))
	assert.Equal(t, from, get(), "the connection stays")

	// Half of a renewal, and one that went wrong: what was there is shown on.
	require.NoError(t, os.WriteFile(s.key, []byte("not a key"), 0o600))
	require.ErrorContains(t, s.identity.refresh(t.Context()), s.key)
	require.NoError(t, os.Remove(s.cert))
	require.ErrorContains(t, s.identity.refresh(t.Context()), "--tls-cert")
	assert.True(t, s.shows().Equal(second.Leaf))
	third := s.write(newAuthority(t))
	eventually(t, "the next certificate", func() bool { return s.shows().Equal(third.Leaf) })
}

func TestCertificateFilesMustBeThere(t *testing.T) {
	_, err := newIdentity(t.Context(), TLSConfig{CertFile: "nowhere.pem", KeyFile: "nowhere.key"}, nil, nil, zap.NewNop())
	require.ErrorContains(t, err, "--tls-cert: open nowhere.pem")
}

func openStore(t *testing.T) *store.Store {
	t.Helper()
	record, err := store.Open(t.Context(), "sqlite://"+filepath.Join(t.TempDir(), "center.db"))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, record.Close()) })
	return record
}

// Certificates of the center's own authority renew themselves, are known by it in every process, and follow its change.
func TestOwnAuthority(t *testing.T) {
	record := openStore(t)
	out := filepath.Join(t.TempDir(), "ca.pem")
	newOne := func(caFile string) *identity {
		id, err := newIdentity(t.Context(), TLSConfig{Mode: TLSSelf, CAFile: caFile, Names: []string{"center.example"}}, record, []string{"127.0.0.1:1"}, zap.NewNop())
		require.NoError(t, err)
		return id
	}
	server, host := newOne(out), newOne("")
	now := time.Now()
	verify := func(id *identity) {
		text, err := os.ReadFile(out)
		require.NoError(t, err)
		roots := x509.NewCertPool()
		require.True(t, roots.AppendCertsFromPEM(text))
		for _, name := range []string{"center.example", "127.0.0.1", "localhost"} {
			_, err := id.current.Load().certificate.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name, CurrentTime: now})
			require.NoError(t, err, name)
		}
	}
	verify(server)
	verify(host)
	assert.Equal(t, server.trust().Fingerprint(), host.trust().Fingerprint(), "one authority for all processes")

	server.now = func() time.Time { return now }
	host.now = server.now
	first := server.current.Load()
	now = now.Add(leafRenewal - time.Hour)
	require.NoError(t, server.refresh(t.Context()))
	assert.Same(t, first, server.current.Load())
	now = now.Add(2 * time.Hour)
	require.NoError(t, server.refresh(t.Context()))
	assert.NotEqual(t, first.certificate.Leaf.SerialNumber, server.current.Load().certificate.Leaf.SerialNumber)
	verify(server)

	// The clock is set, or stood still while the machine was suspended: what counts is the clock on the wall.
	assert.Equal(t, now.Round(0), server.current.Load().issued, "nothing of the clock that stands still then is in it")
	now = now.AddDate(0, 1, 0)
	require.NoError(t, server.refresh(t.Context()))
	verify(server)
	now = now.AddDate(0, -1, 0)
	require.NoError(t, server.refresh(t.Context()))
	verify(server)

	// A name that comes, as the address of a machine does, is in the next certificate.
	names := []string{"127.0.0.1:1", ""}
	load := server.ownAuthority(record, names)
	shown, err := load(t.Context(), nil)
	require.NoError(t, err)
	names[1] = "new.example"
	again, err := load(t.Context(), shown)
	require.NoError(t, err)
	require.NoError(t, again.certificate.Leaf.VerifyHostname("new.example"))
	names[0], names[1] = names[1], names[0]
	same, err := load(t.Context(), again)
	require.NoError(t, err)
	assert.Same(t, again, same)

	// A second authority becomes known, then signs, then is the only one.
	change := func(edit func(ca.Authorities) (ca.Authorities, error)) {
		require.NoError(t, changeAuthorities(t.Context(), record, edit))
		for _, id := range []*identity{server, host} {
			require.NoError(t, id.refresh(t.Context()))
			verify(id)
		}
	}
	old := server.trust()
	change(addAuthority)
	assert.Equal(t, old.Fingerprint(), server.trust().Fingerprint())
	assert.Len(t, server.trust().Authorities, 2)
	change(useLastAuthority)
	assert.NotEqual(t, old.Fingerprint(), server.trust().Fingerprint())
	assert.Len(t, host.trust().Authorities, 2)
	change(dropOtherAuthorities)
	assert.Len(t, server.trust().Authorities, 1)
	assert.NotEqual(t, old.Fingerprint(), host.trust().Fingerprint())
	require.ErrorContains(t, changeAuthorities(t.Context(), record, useLastAuthority), "ca add")
	require.ErrorContains(t, changeAuthorities(t.Context(), record, dropOtherAuthorities), "one")
}

func TestAbsentTLSIsPlain(t *testing.T) {
	id, err := newIdentity(t.Context(), TLSConfig{}, nil, nil, zap.NewNop())
	require.NoError(t, err)
	assert.Nil(t, id)
	assert.Nil(t, id.config())
	assert.Nil(t, id.trust().Fingerprint())
	require.NoError(t, id.run(t.Context()))
}
