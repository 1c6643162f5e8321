package app

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/drover/drover/center/ca"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/durable"
)

// The values of TLSConfig.Mode.
const (
	// TLSOff serves plain http, unless certificate files are given.
	TLSOff = "off"
	// TLSSelf serves certificates of the center's own authority, which is made at the first start and kept in the database.
	TLSSelf = "self"
)

// TLSConfig says how the listeners of a process show who they are. The zero value is plain http on loopback.
type TLSConfig struct {
	// Mode is TLSSelf, or TLSOff or empty (DROVER_TLS).
	Mode string
	// CertFile and KeyFile are PEM files with a certificate, what leads from it to its authority, and its key. They are read again when
	// they change (DROVER_TLS_CERT, DROVER_TLS_KEY).
	CertFile, KeyFile string
	// Names are further names and addresses that a certificate of the center's own authority is good for (DROVER_TLS_NAMES, with commas).
	Names []string
	// CAFile is written with the authorities that clients have to trust, and again when they change. Optional.
	CAFile string
	// InsecurePlaintext lets plain http be served beyond loopback.
	InsecurePlaintext bool
}

// TLSFromEnv reads the variables the fields name. getenv is os.Getenv outside tests.
func TLSFromEnv(getenv func(string) string) TLSConfig {
	return TLSConfig{
		Mode: getenv("DROVER_TLS"), CertFile: getenv("DROVER_TLS_CERT"), KeyFile: getenv("DROVER_TLS_KEY"),
		Names: strings.FieldsFunc(getenv("DROVER_TLS_NAMES"), func(r rune) bool { return r == ',' || r == ' ' }),
	}
}

// TLSFlags defines the flags of c.
func TLSFlags(flags *pflag.FlagSet, c *TLSConfig) {
	flags.StringVar(&c.Mode, "tls", c.Mode, "`MODE`: self serves https with certificates of the center's own authority; off (DROVER_TLS)")
	flags.StringVar(&c.CertFile, "tls-cert", c.CertFile, "PEM `FILE` of a certificate and its chain: serves https with it; read again when it changes (DROVER_TLS_CERT)")
	flags.StringVar(&c.KeyFile, "tls-key", c.KeyFile, "PEM `FILE` of the certificate's key (DROVER_TLS_KEY)")
	flags.StringSliceVar(&c.Names, "tls-name", c.Names, "further `NAME` or address that certificates of --tls self are good for; may be repeated (DROVER_TLS_NAMES)")
	flags.BoolVar(&c.InsecurePlaintext, "insecure-plaintext", c.InsecurePlaintext, "serve plain http also beyond loopback: whoever is on the way can read it")
}

// Enabled reports whether https is served.
func (c *TLSConfig) Enabled() bool { return c.Mode == TLSSelf || c.CertFile != "" }

// scheme is that of the URLs of what is served.
func (c *TLSConfig) scheme() string {
	if c.Enabled() {
		return "https"
	}
	return "http"
}

// check reports what is wrong with the settings for a listener at an address, which a flag named.
func (c *TLSConfig) check(flag, address string) error {
	switch {
	case c.Mode != "" && c.Mode != TLSOff && c.Mode != TLSSelf:
		return fmt.Errorf("--tls %q: want %s or %s", c.Mode, TLSSelf, TLSOff)
	case (c.CertFile == "") != (c.KeyFile == ""):
		return errors.New("--tls-cert and --tls-key go together: only one is given")
	case c.Mode == TLSSelf && c.CertFile != "":
		return errors.New("--tls self and --tls-cert exclude each other: leave one out")
	case c.Mode == TLSOff && c.CertFile != "":
		return errors.New("--tls off and --tls-cert exclude each other: leave one out")
	case !c.Enabled() && !c.InsecurePlaintext && !onLoopback(address):
		return fmt.Errorf("--%s %s is reached from other machines, and there is no TLS: give --tls self, or --tls-cert and --tls-key "+
			"(--insecure-plaintext serves plain http all the same, as behind a proxy that ends TLS)", flag, address)
	}
	return nil
}

// onLoopback reports whether an address to listen at is reached from this machine alone.
func onLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

const (
	// fileCheck is how often certificate files are looked at, and ownCheck how often the center's own authorities.
	fileCheck = 10 * time.Second
	ownCheck  = time.Minute
	// leafRenewal is how old a certificate of the center's own authority becomes before it is exchanged.
	leafRenewal = 24 * time.Hour
	// caNotice and certNotice are how long before the end of an authority and of a certificate file it is warned about.
	caNotice   = 180 * 24 * time.Hour
	certNotice = 7 * 24 * time.Hour
)

// shown is what a listener shows who it is.
type shown struct {
	certificate *tls.Certificate
	trust       ca.Trust
	issued      time.Time
	files       [][]byte // what was read, when it comes from files
	names       []string // what it is good for, when the center's own authority made it
}

// youngAt reports whether a certificate of the center's own authority need not be exchanged yet. One of a later time was made before the clock was
// set right, and may not be good for long.
func (s *shown) youngAt(now time.Time) bool {
	age := now.Sub(s.issued)
	return age >= 0 && age < leafRenewal
}

// identity is what the listeners of a process show who they are. It is renewed, and exchanged when files or authorities
// change, while connections come and go. A nil identity is plain http.
type identity struct {
	// load returns what is to be shown now; it returns old itself when that is still right.
	load    func(ctx context.Context, old *shown) (*shown, error)
	every   time.Duration
	caFile  string
	log     *zap.Logger
	now     func() time.Time
	current atomic.Pointer[shown]
	written string // to caFile
	failing bool
	warned  time.Time
}

// newIdentity returns the identity of a process that is reached at the addresses and URLs, nil for plain http. It ends
// with an error when there is no certificate to begin with.
func newIdentity(ctx context.Context, config TLSConfig, record *store.Store, reached []string, log *zap.Logger) (*identity, error) {
	id := &identity{caFile: config.CAFile, log: log, now: time.Now}
	switch {
	case config.Mode == TLSSelf:
		id.every, id.load = ownCheck, id.ownAuthority(record, append(slices.Clone(config.Names), reached...))
	case config.CertFile != "":
		id.every, id.load = fileCheck, id.files(config.CertFile, config.KeyFile)
	default:
		return nil, nil //nolint:nilnil // no TLS is no error
	}
	if err := id.refresh(ctx); err != nil {
		return nil, err
	}
	return id, nil
}

// run keeps the identity current until ctx is done.
func (id *identity) run(ctx context.Context) error {
	if id == nil {
		return nil
	}
	ticker := time.NewTicker(id.every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		err := id.refresh(ctx)
		switch {
		case err == nil && id.failing:
			id.log.Info("the certificate is current again")
		case err != nil && !id.failing && ctx.Err() == nil:
			id.log.Error("the certificate cannot be renewed, the old one is shown", zap.Error(err),
				zap.Time("not_after", id.current.Load().certificate.Leaf.NotAfter))
		}
		id.failing = err != nil
	}
}

func (id *identity) refresh(ctx context.Context) error {
	old := id.current.Load()
	next, err := id.load(ctx, old)
	if err != nil {
		return err
	}
	leaf := next.certificate.Leaf
	if next != old {
		id.current.Store(next)
		fields := []zap.Field{
			zap.Strings("names", names(leaf)), zap.String("issuer", leaf.Issuer.String()), zap.Time("not_after", leaf.NotAfter),
		}
		if fingerprint := next.trust.Fingerprint(); fingerprint != nil {
			fields = append(fields, zap.Stringer("authority_sha256", fingerprint))
		}
		id.log.Info("showing a certificate", fields...)
	}
	id.warn(next)
	if text := ca.EncodeCertificates(next.trust.Authorities...); id.caFile != "" && text != id.written && text != "" {
		if err := durable.WriteFile(id.caFile, []byte(text), 0o644); err != nil {
			return fmt.Errorf("write the certificate authorities: %w", err)
		}
		id.written = text
	}
	return nil
}

// warn tells once a day that something expires which does not renew itself.
func (id *identity) warn(s *shown) {
	now := id.now()
	if now.Sub(id.warned) < 24*time.Hour {
		return
	}
	leaf, root := s.certificate.Leaf, s.trust.Root
	switch {
	case s.files != nil && now.After(leaf.NotAfter.Add(-certNotice)):
		id.log.Warn("the certificate expires: renew the files of --tls-cert and --tls-key", zap.Time("not_after", leaf.NotAfter))
	case root != nil && now.After(root.NotAfter.Add(-caNotice)):
		id.log.Warn("the certificate authority expires: change it as docs/security.md says", zap.Time("not_after", root.NotAfter))
	default:
		return
	}
	id.warned = now
}

// trust is whom the clients of this process have to trust.
func (id *identity) trust() ca.Trust {
	if id == nil {
		return ca.Trust{}
	}
	return id.current.Load().trust
}

// config is what a listener needs; nil for plain http.
func (id *identity) config() *tls.Config {
	if id == nil {
		return nil
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS12, // clients choose 1.3 where they know it
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return id.current.Load().certificate, nil },
	}
}

// files loads a certificate and its key from files.
func (id *identity) files(certFile, keyFile string) func(context.Context, *shown) (*shown, error) {
	return func(_ context.Context, old *shown) (*shown, error) {
		cert, err := os.ReadFile(certFile)
		if err != nil {
			return nil, fmt.Errorf("--tls-cert: %w", err)
		}
		key, err := os.ReadFile(keyFile)
		if err != nil {
			return nil, fmt.Errorf("--tls-key: %w", err)
		}
		if old != nil && bytes.Equal(old.files[0], cert) && bytes.Equal(old.files[1], key) {
			return old, nil
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("--tls-cert %s and --tls-key %s: %w", certFile, keyFile, err)
		}
		chain := make([]*x509.Certificate, len(pair.Certificate))
		for i, der := range pair.Certificate {
			if chain[i], err = x509.ParseCertificate(der); err != nil {
				return nil, fmt.Errorf("--tls-cert %s: certificate %d: %w", certFile, i+1, err)
			}
		}
		return &shown{certificate: &pair, trust: ca.TrustOf(chain), issued: id.now(), files: [][]byte{cert, key}}, nil
	}
}

// ownAuthority has the center's own authority sign a certificate.
func (id *identity) ownAuthority(record *store.Store, reached []string) func(context.Context, *shown) (*shown, error) {
	return func(ctx context.Context, old *shown) (*shown, error) {
		authorities, err := loadAuthorities(ctx, record)
		if err != nil {
			return nil, err
		}
		// By the clock on the wall, as those judge who are shown it: while a machine is suspended the one that runs evenly stands still.
		now, trust, names := id.now().Round(0), authorities.Trust(), reachedBy(reached)
		if old != nil && old.youngAt(now) && slices.Equal(names, old.names) && // which may be addresses that come and go
			slices.EqualFunc(trust.Authorities, old.trust.Authorities, (*x509.Certificate).Equal) {
			return old, nil
		}
		certificate, err := authorities[0].Issue(names, now)
		if err != nil {
			return nil, err
		}
		return &shown{certificate: certificate, trust: trust, issued: now, names: names}, nil
	}
}

// loadAuthorities returns the center's own certificate authorities, which are made at first use.
func loadAuthorities(ctx context.Context, record *store.Store) (ca.Authorities, error) {
	text, err := record.CertificateAuthorities(ctx, func() (string, error) {
		authority, err := ca.New(time.Now())
		if err != nil {
			return "", err
		}
		return ca.Authorities{authority}.Encode()
	})
	if err != nil {
		return nil, err
	}
	return ca.Parse(text)
}

// reachedBy returns the names and addresses in a list of names, addresses to listen at and URLs. An address that means all
// interfaces stands for the host's name and all its addresses.
func reachedBy(reached []string) []string {
	found := map[string]bool{}
	for _, name := range reached {
		if name == "" {
			continue
		}
		if u, err := url.Parse(name); err == nil && u.Host != "" {
			name = u.Hostname()
		} else if host, _, err := net.SplitHostPort(name); err == nil {
			name = host
		}
		ip := net.ParseIP(name)
		switch {
		case name == "" || ip.IsUnspecified():
			for _, name := range ownNames() {
				found[name] = true
			}
		case name == "localhost" || ip.IsLoopback():
			found[name], found["localhost"], found["127.0.0.1"], found["::1"] = true, true, true, true
		default:
			found[name] = true
		}
	}
	all := make([]string, 0, len(found))
	for name := range found {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// ownNames are the name and the addresses of this machine.
func ownNames() []string {
	all := []string{"localhost", "127.0.0.1", "::1"}
	if host, err := os.Hostname(); err == nil && host != "" {
		all = append(all, host)
	}
	addresses, _ := net.InterfaceAddrs() // what cannot be found out can be given by --tls-name
	for _, address := range addresses {
		if network, ok := address.(*net.IPNet); ok && network.IP.IsGlobalUnicast() {
			all = append(all, network.IP.String())
		}
	}
	return all
}

// names are those a certificate is good for.
func names(c *x509.Certificate) []string {
	all := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		all = append(all, ip.String())
	}
	return all
}
