package smc

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"
)

// ReadCAFile reads a PEM file of certificate authorities and checks that there is one in it.
func ReadCAFile(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("certificate authorities: %w", err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(text) {
		return "", fmt.Errorf("certificate authorities: there is no certificate in PEM form in %s", path)
	}
	return string(text), nil
}

// TLS returns what connections to the endpoint, and to what its answers name, are made with: CAFile's authorities and no
// others. It is nil without CAFile: then servers are known by the authorities of this machine.
func (c Config) TLS() (*tls.Config, error) {
	if c.CAFile == "" {
		return nil, nil //nolint:nilnil // the standard settings are nil
	}
	text, err := ReadCAFile(c.CAFile)
	if err != nil {
		return nil, fmt.Errorf("%w (%s)", err, EnvCAFile)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool()}
	config.RootCAs.AppendCertsFromPEM([]byte(text))
	return config, nil
}

// Transport returns the transport that a client of c sends its requests with, for who wraps it in a Config.HTTPClient.
func (c Config) Transport() (*http.Transport, error) {
	config, err := c.TLS()
	if err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = config
	NoticeSilence(transport)
	return transport, nil
}

// NoticeSilence has connections of HTTP/2 end that nobody answers on: those that something on the way has forgotten, or whose server hangs.
// All calls of a client share one, and those that are given up leave it as it is: without this each call would time out for a quarter of an
// hour after the server is back.
func NoticeSilence(transport *http.Transport) {
	transport.HTTP2 = &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 10 * time.Second}
}

// explainTLS says what to do about an endpoint that TLS does not get on with. Other errors stay as they are.
func explainTLS(err error) error {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("%w; name the file of the endpoint's authority in %s", err, EnvCAFile)
	case errors.As(err, &name):
		return fmt.Errorf("%w; call the endpoint by one of these, or have its certificate made for this name too", err)
	case errors.Is(err, http.ErrSchemeMismatch):
		return fmt.Errorf("%w: the endpoint serves http, without TLS: begin its address with http://", err)
	}
	return err
}

// isTLSMistake reports that the server's certificate was not accepted or that it serves no TLS, which trying again does not
// change.
func isTLSMistake(err error) bool {
	var failed *tls.CertificateVerificationError
	return errors.As(err, &failed) || errors.Is(err, http.ErrSchemeMismatch)
}
