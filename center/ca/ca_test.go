package ca

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func newAuthority(t *testing.T, now time.Time) *Authority {
	t.Helper()
	authority, err := New(now)
	require.NoError(t, err)
	return authority
}

func chainOf(t *testing.T, certificate *tls.Certificate) []*x509.Certificate {
	t.Helper()
	var chain []*x509.Certificate
	for _, der := range certificate.Certificate {
		c, err := x509.ParseCertificate(der)
		require.NoError(t, err)
		chain = append(chain, c)
	}
	return chain
}

func TestIssuedCertificatesAreGoodForTheirNames(t *testing.T) {
	now := time.Now()
	authority := newAuthority(t, now)
	certificate, err := authority.Issue([]string{"center.example", "192.0.2.7", "::1"}, now)
	require.NoError(t, err)
	chain := chainOf(t, certificate)
	require.Len(t, chain, 2, "the authority is shown too")
	assert.Equal(t, authority.Certificate.Raw, chain[1].Raw)

	roots := x509.NewCertPool()
	roots.AddCert(authority.Certificate)
	verify := func(name string, at time.Time) error {
		_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: name, CurrentTime: at})
		return err
	}
	for _, name := range []string{"center.example", "192.0.2.7", "::1"} {
		require.NoError(t, verify(name, now), name)
	}
	require.ErrorContains(t, verify("other.example", now), "other.example")
	require.NoError(t, verify("center.example", now.Add(-skew/2)), "clocks are a little apart")
	require.Error(t, verify("center.example", now.Add(LeafLife+time.Minute)))
	_, err = chain[0].Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	require.Error(t, err, "it is no client's")
	assert.WithinDuration(t, now.Add(Life), authority.Certificate.NotAfter, time.Minute)

	last, err := authority.Issue([]string{"center.example"}, authority.Certificate.NotAfter.Add(-time.Hour))
	require.NoError(t, err)
	assert.Equal(t, authority.Certificate.NotAfter, last.Leaf.NotAfter, "not longer than its authority")
	_, err = authority.Issue(nil, now)
	require.Error(t, err)
}

func TestAuthoritiesAreKeptWithTheirKeys(t *testing.T) {
	now := time.Now()
	kept := Authorities{newAuthority(t, now), newAuthority(t, now)}
	text, err := kept.Encode()
	require.NoError(t, err)
	read, err := Parse(text)
	require.NoError(t, err)
	require.Len(t, read, 2)
	trust := read.Trust()
	assert.Equal(t, FingerprintOf(kept[0].Certificate), *trust.Fingerprint())
	assert.Equal(t, kept[1].Certificate.Raw, trust.Authorities[1].Raw)
	for i, authority := range read {
		certificate, err := authority.Issue([]string{"a"}, now)
		require.NoError(t, err)
		require.NoError(t, verify(chainOf(t, certificate), kept[i].Certificate, now), "it has its own key")
	}

	blocks := strings.SplitAfter(text, "-----\n") // BEGIN, END of: certificate, key, certificate, key
	require.Len(t, blocks, 9)
	certificate, err := kept[0].Issue([]string{"a"}, now)
	require.NoError(t, err)
	for name, bad := range map[string]string{
		"nothing":           "",
		"no PEM":            "x",
		"a certificate":     strings.Join(blocks[:2], ""),
		"a key":             strings.Join(blocks[2:4], ""),
		"keys exchanged":    strings.Join(blocks[:2], "") + strings.Join(blocks[6:8], ""),
		"a server's":        EncodeCertificates(certificate.Leaf) + strings.Join(blocks[2:4], ""),
		"not a certificate": string(pem.EncodeToMemory(&pem.Block{Type: blockCertificate, Bytes: []byte("x")})) + strings.Join(blocks[2:4], ""),
	} {
		_, err := Parse(bad)
		require.Error(t, err, name)
	}
}

func TestFind(t *testing.T) {
	now := time.Now()
	authority, other := newAuthority(t, now), newAuthority(t, now)
	certificate, err := authority.Issue([]string{"a"}, now)
	require.NoError(t, err)
	chain := chainOf(t, certificate)
	found, err := Find(chain, FingerprintOf(authority.Certificate), now)
	require.NoError(t, err)
	assert.Equal(t, authority.Certificate.Raw, found.Raw)

	_, err = Find(chain, FingerprintOf(other.Certificate), now)
	var stranger *OtherAuthorityError
	require.ErrorAs(t, err, &stranger)
	assert.Equal(t, FingerprintOf(authority.Certificate), stranger.Got)
	assert.ErrorContains(t, err, FingerprintOf(other.Certificate).String())

	// A stranger shows the authority that is looked for, but cannot have it sign.
	forged, err := other.Issue([]string{"a"}, now)
	require.NoError(t, err)
	_, err = Find(append(chainOf(t, forged)[:1], authority.Certificate), FingerprintOf(authority.Certificate), now)
	require.ErrorAs(t, err, new(x509.UnknownAuthorityError))
	_, err = Find(chain, FingerprintOf(authority.Certificate), now.Add(2*LeafLife))
	require.ErrorAs(t, err, new(x509.CertificateInvalidError))
	_, err = Find(nil, FingerprintOf(authority.Certificate), now)
	require.ErrorAs(t, err, &stranger)
}

func TestTrustOfAFile(t *testing.T) {
	now := time.Now()
	authority, next := newAuthority(t, now), newAuthority(t, now)
	certificate, err := authority.Issue([]string{"a"}, now)
	require.NoError(t, err)
	chain := chainOf(t, certificate)
	assert.Nil(t, TrustOf(chain[:1]).Fingerprint(), "its authority is one that every machine knows")
	assert.Equal(t, FingerprintOf(authority.Certificate), *TrustOf(chain).Fingerprint())
	assert.Nil(t, TrustOf([]*x509.Certificate{chain[0], next.Certificate}).Fingerprint(), "an authority that has not signed it")
	trust := TrustOf([]*x509.Certificate{chain[0], next.Certificate, authority.Certificate})
	assert.Equal(t, FingerprintOf(authority.Certificate), *trust.Fingerprint())
	assert.Len(t, trust.Authorities, 2, "the next one is made known beforehand")
	alone := TrustOf([]*x509.Certificate{authority.Certificate})
	assert.Equal(t, FingerprintOf(authority.Certificate), *alone.Fingerprint(), "a server that signed its own")
}

// The form is that of openssl, so that a person can compare.
func TestFingerprintIsReadable(t *testing.T) {
	assert.Equal(t, "00:AB:"+strings.Repeat("00:", 29)+"01", Fingerprint{1: 0xab, 31: 1}.String())
}
