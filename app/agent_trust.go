package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/center/ca"
	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
)

// trustingTransport sends requests to servers that certificate authorities vouch for, which may be replaced at any time.
type trustingTransport struct {
	open    func(*tls.Config) *http.Transport
	current atomic.Pointer[http.Transport]
}

// trust replaces the authorities; nil stands for those that this machine knows. Requests under way end as they began.
func (t *trustingTransport) trust(authorities *x509.CertPool) {
	old := t.current.Swap(t.open(&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: authorities}))
	if old != nil {
		old.CloseIdleConnections()
	}
}

// RoundTrip implements http.RoundTripper.
func (t *trustingTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	return t.current.Load().RoundTrip(r)
}

// agentTrust is whom an agent believes: one list of authorities, for the center and for the transition hosts.
type agentTrust struct {
	center, data trustingTransport
	// follow has the list follow what the center says. An agent that goes by a file or by what its machine knows does not.
	follow bool
}

func newAgentTrust() *agentTrust {
	return &agentTrust{
		center: trustingTransport{open: agentapi.NewTransport},
		data: trustingTransport{open: func(config *tls.Config) *http.Transport {
			return replica.NewClient(config).Transport.(*http.Transport)
		}},
	}
}

// trust replaces the authorities by those in a PEM text; empty stands for those that this machine knows.
func (t *agentTrust) trust(certificates string) error {
	var pool *x509.CertPool
	if certificates != "" {
		pool = x509.NewCertPool()
		if !pool.AppendCertsFromPEM([]byte(certificates)) {
			return errors.New("there is no certificate in PEM form in it")
		}
	}
	t.center.trust(pool)
	t.data.trust(pool)
	return nil
}

// dataClient is what transition hosts are called with.
func (a *agent) dataClient() *http.Client {
	if a.cfg.HTTPClient != nil {
		return a.cfg.HTTPClient
	}
	return &http.Client{Transport: &a.trust.data}
}

// settleTrust finds out whom to believe: the file of --ca-file, else what is in the state, else the authority whose
// fingerprint the activation code carries, else those that this machine knows.
func (a *agent) settleTrust(ctx context.Context) error {
	if a.cfg.HTTPClient != nil {
		return nil
	}
	a.trust = newAgentTrust()
	_, fingerprint, err := agentapi.ParseCode(a.cfg.Code)
	if err != nil {
		return agentUsage("--code: %v", err)
	}
	secure := strings.HasPrefix(a.endpoint(), "https://")
	known := a.state.CACertificates
	switch {
	case a.cfg.CAFile != "":
		certificates, err := smc.ReadCAFile(a.cfg.CAFile)
		if err != nil {
			return agentUsage("--ca-file: %v", err)
		}
		known = certificates
	case known != "" && !secure:
		return agentUsage("--endpoint %s: this agent knows its center by a certificate, and does not speak to it in the clear: give an https:// URL", a.endpoint())
	case known != "":
		a.trust.follow = true
	case fingerprint != nil && !secure:
		return agentUsage("--endpoint %s: the activation code names the certificate authority of a center that serves https: give an https:// URL", a.endpoint())
	case fingerprint != nil:
		authority, err := a.fetchAuthority(ctx, *fingerprint)
		if err != nil {
			return err
		}
		a.log.Info("the center is the one that the activation code names", zap.String("endpoint", a.endpoint()), zap.Stringer("authority_sha256", fingerprint))
		known, a.trust.follow = ca.EncodeCertificates(authority), true
	}
	a.state.CACertificates = known
	if err := a.trust.trust(known); err != nil {
		return fmt.Errorf("the certificate authorities of the center: %w", err)
	}
	return nil
}

// fetchAuthority asks the center for its certificate until it answers, and returns the authority of that fingerprint.
func (a *agent) fetchAuthority(ctx context.Context, fingerprint ca.Fingerprint) (*x509.Certificate, error) {
	outage := outage{log: a.log, what: "question for its certificate", after: a.after}
	for {
		authority, err := authorityAt(ctx, a.endpoint(), fingerprint)
		if err == nil {
			return authority, nil
		}
		var other *ca.OtherAuthorityError
		var invalid x509.CertificateInvalidError
		switch {
		case errors.As(err, &other):
			return nil, fmt.Errorf("the center at %s shows a certificate of another authority than the activation code names: %w; "+
				"use a code of that center, or correct --endpoint", a.endpoint(), other)
		case errors.As(err, &invalid):
			return nil, fmt.Errorf("the certificate of the center at %s: %w; are the clocks of both machines right?", a.endpoint(), err)
		}
		if err := outage.failed(ctx, err); err != nil {
			return nil, err
		}
	}
}

// authorityAt returns the certificate of that fingerprint in the chain that a server shows. Names are looked at later,
// with every request.
func authorityAt(ctx context.Context, endpoint string, fingerprint ca.Fingerprint) (*x509.Certificate, error) {
	const patience = 15 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var found *x509.Certificate
	transport := agentapi.NewTransport(&tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, //nolint:gosec // the chain is verified here, against the fingerprint
		VerifyConnection: func(state tls.ConnectionState) (err error) {
			found, err = ca.Find(state.PeerCertificates, fingerprint, time.Now())
			return err
		},
	})
	defer transport.CloseIdleConnections()
	address, err := url.JoinPath(endpoint, "healthz")
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 1<<10)) // what it says does not matter
	return found, nil
}

// explain says what to do about a certificate that the agent does not accept; other errors stay as they are. final is true
// when trying again does not help an agent that has not registered yet.
func (a *agent) explain(err error) (final bool, explained error) {
	var failed *tls.CertificateVerificationError
	if !errors.As(err, &failed) {
		return false, err
	}
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	switch {
	case errors.As(err, &unknown) && a.state.CACertificates != "":
		return true, fmt.Errorf("%w; the center at %s shows a certificate of another authority than those this agent trusts: when the center has a new one, "+
			"give it by --ca-file", err, a.endpoint())
	case errors.As(err, &unknown):
		return true, fmt.Errorf("%w; give the center's authority by --ca-file, or an activation code of `drover token create`, which names it", err)
	case errors.As(err, &name):
		return true, fmt.Errorf("%w; use one of these in --endpoint, or have the center's certificate made for this one too (--tls-name)", err)
	}
	return true, fmt.Errorf("%w; are the clocks of both machines right?", err)
}

// followTrust takes over the authorities that the center names. A text that is no list of them changes nothing.
func (a *agent) followTrust(certificates string) {
	if a.trust == nil || !a.trust.follow || certificates == "" || certificates == a.state.CACertificates {
		return
	}
	if err := a.trust.trust(certificates); err != nil {
		a.log.Warn("the center's list of certificate authorities cannot be read, the old one stays", zap.Error(err))
		return
	}
	a.state.CACertificates = certificates
	a.log.Info("the center has other certificate authorities now")
}
