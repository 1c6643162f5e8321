// Package ca is the certificate authority that a center makes for itself: it signs the certificates of the center's
// endpoint and of its transition hosts, and agents know it by its fingerprint, which the activation code carries.
package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"time"
)

const (
	// Life is how long an authority is good for.
	Life = 10 * 365 * 24 * time.Hour
	// LeafLife is how long a certificate it signs is good for. Whoever shows one takes a new one long before.
	LeafLife = 7 * 24 * time.Hour
	// skew is how far the clocks of a center and of who looks at its certificates may be apart.
	skew = time.Hour
)

const (
	blockCertificate = "CERTIFICATE"
	blockKey         = "PRIVATE KEY"
)

// Authority is a certificate with the key that signs for it.
type Authority struct {
	Certificate *x509.Certificate
	key         crypto.Signer
}

// New makes an authority: ECDSA P-256, good for [Life], for certificates of servers only.
//
// It has no name constraints: a center does not know beforehand by which names and addresses it will be reached, and
// nobody trusts the authority but those who were told to, for this center.
func New(now time.Time) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key of a certificate authority: %w", err)
	}
	serial := serialNumber()
	template := &x509.Certificate{
		SerialNumber: serial,
		// The name differs from one authority to the next: a chain is found by it.
		Subject:               pkix.Name{Organization: []string{"Drover"}, CommonName: "Drover center " + hex.EncodeToString(serial.Bytes()[:4])},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(Life),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	certificate, err := sign(template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate authority: %w", err)
	}
	return &Authority{Certificate: certificate, key: key}, nil
}

// Issue makes a key and a certificate for a server that is reached by names, which are host names and IP addresses. The
// chain has the authority's own certificate last, so that who knows its fingerprint finds it there.
func (a *Authority) Issue(names []string, now time.Time) (*tls.Certificate, error) {
	if len(names) == 0 {
		return nil, errors.New("a certificate needs a name or an address")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key of a certificate: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:          serialNumber(),
		Subject:               pkix.Name{Organization: []string{"Drover"}, CommonName: "Drover server"},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(LeafLife),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	if template.NotAfter.After(a.Certificate.NotAfter) {
		template.NotAfter = a.Certificate.NotAfter
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	leaf, err := sign(template, a.Certificate, key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate for %s: %w", strings.Join(names, ", "), err)
	}
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw, a.Certificate.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

func sign(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// serialNumber returns 127 random bits, never with a leading zero byte.
func serialNumber() *big.Int {
	raw := make([]byte, 16)
	_, _ = rand.Read(raw)
	raw[0] = raw[0]&0x7f | 0x40
	return new(big.Int).SetBytes(raw)
}

// Authorities are those of one center: the first signs, all are trusted.
type Authorities []*Authority

// Certificates returns the certificates, the one that signs first.
func (a Authorities) Certificates() []*x509.Certificate {
	certificates := make([]*x509.Certificate, len(a))
	for i, authority := range a {
		certificates[i] = authority.Certificate
	}
	return certificates
}

// Encode writes the authorities with their keys as PEM: a certificate, its key, the next certificate, its key.
func (a Authorities) Encode() (string, error) {
	var text bytes.Buffer
	for _, authority := range a {
		key, err := x509.MarshalPKCS8PrivateKey(authority.key)
		if err != nil {
			return "", fmt.Errorf("write the key of a certificate authority: %w", err)
		}
		text.WriteString(EncodeCertificates(authority.Certificate))
		_ = pem.Encode(&text, &pem.Block{Type: blockKey, Bytes: key}) // a buffer takes everything
	}
	return text.String(), nil
}

// Parse reads what [Authorities.Encode] wrote.
func Parse(text string) (Authorities, error) {
	var authorities Authorities
	for rest := []byte(text); ; {
		var certificate, key *pem.Block
		if certificate, rest = pem.Decode(rest); certificate == nil {
			break
		}
		if key, rest = pem.Decode(rest); key == nil || certificate.Type != blockCertificate || key.Type != blockKey {
			return nil, errors.New("the certificate authorities are not certificates with their keys")
		}
		pair, err := tls.X509KeyPair(pem.EncodeToMemory(certificate), pem.EncodeToMemory(key))
		if err != nil { // also when they do not belong together
			return nil, fmt.Errorf("read certificate authority %d: %w", len(authorities)+1, err)
		}
		signer, ok := pair.PrivateKey.(crypto.Signer)
		if !ok || !pair.Leaf.IsCA {
			return nil, fmt.Errorf("certificate authority %d is none", len(authorities)+1)
		}
		authorities = append(authorities, &Authority{Certificate: pair.Leaf, key: signer})
	}
	if len(authorities) == 0 {
		return nil, errors.New("there is no certificate authority")
	}
	return authorities, nil
}

// EncodeCertificates writes certificates as PEM.
func EncodeCertificates(certificates ...*x509.Certificate) string {
	var text bytes.Buffer
	for _, certificate := range certificates {
		_ = pem.Encode(&text, &pem.Block{Type: blockCertificate, Bytes: certificate.Raw}) // a buffer takes everything
	}
	return text.String()
}

// FingerprintSize is the size of a fingerprint in bytes.
const FingerprintSize = sha256.Size

// Fingerprint is the SHA-256 of a certificate, by which it is known.
type Fingerprint [FingerprintSize]byte

// FingerprintOf returns the fingerprint of a certificate.
func FingerprintOf(certificate *x509.Certificate) Fingerprint { return sha256.Sum256(certificate.Raw) }

// String writes the fingerprint as openssl x509 -fingerprint -sha256 does: hexadecimal, with colons.
func (f Fingerprint) String() string {
	pairs := make([]string, len(f))
	for i, b := range f {
		pairs[i] = fmt.Sprintf("%02X", b)
	}
	return strings.Join(pairs, ":")
}

// Trust is whom the clients of a center have to trust, where that are not the authorities that every machine knows.
type Trust struct {
	// Root has signed the certificate that the center shows; nil when nothing is known of it.
	Root *x509.Certificate
	// Authorities are Root and those that may take its place.
	Authorities []*x509.Certificate
}

// Fingerprint returns that of the root, or nil.
func (t Trust) Fingerprint() *Fingerprint {
	if t.Root == nil {
		return nil
	}
	f := FingerprintOf(t.Root)
	return &f
}

// Trust returns whom to trust: the first of the authorities is the root.
func (a Authorities) Trust() Trust {
	certificates := a.Certificates()
	return Trust{Root: certificates[0], Authorities: certificates}
}

// TrustOf returns whom to trust according to a file of certificates that begins with that of a server: the certificates
// in it that signed themselves are authorities, and the root is the one that leads to the first certificate. Without
// such a root nobody: then the chain ends with an authority that every machine knows.
func TrustOf(chain []*x509.Certificate) Trust {
	var trust Trust
	for _, certificate := range chain {
		if !bytes.Equal(certificate.RawIssuer, certificate.RawSubject) {
			continue
		}
		trust.Authorities = append(trust.Authorities, certificate)
		if trust.Root == nil && verify(chain, certificate, halfway(chain[0])) == nil {
			trust.Root = certificate
		}
	}
	if trust.Root == nil {
		return Trust{}
	}
	return trust
}

// halfway is a moment at which a certificate is good.
func halfway(c *x509.Certificate) time.Time { return c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 2) }

// Find returns the certificate of a chain that has the fingerprint, if the chain leads to it from the certificate of a
// server, its first. Names are not looked at.
func Find(chain []*x509.Certificate, fingerprint Fingerprint, now time.Time) (*x509.Certificate, error) {
	for _, certificate := range chain {
		if FingerprintOf(certificate) == fingerprint {
			return certificate, verify(chain, certificate, now)
		}
	}
	other := &OtherAuthorityError{Want: fingerprint}
	if len(chain) > 0 {
		last := chain[len(chain)-1]
		other.Got, other.Name = FingerprintOf(last), last.Subject.String()
	}
	return nil, other
}

// OtherAuthorityError says that a server shows a certificate of another authority than the one it is known by.
type OtherAuthorityError struct {
	Want Fingerprint
	// Got and Name are those of the last certificate that the server shows.
	Got  Fingerprint
	Name string
}

// Error names both authorities.
func (e *OtherAuthorityError) Error() string {
	return fmt.Sprintf("want the certificate authority %v, not %v (%s)", e.Want, e.Got, e.Name)
}

// verify checks that a chain leads from its first certificate, that of a server, to root.
func verify(chain []*x509.Certificate, root *x509.Certificate, now time.Time) error {
	options := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now}
	options.Roots.AddCert(root)
	for _, certificate := range chain[1:] {
		options.Intermediates.AddCert(certificate)
	}
	_, err := chain[0].Verify(options)
	return err
}
