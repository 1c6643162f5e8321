// Package temporalenv reads from the environment how Temporal is to be reached: the variables, and their meaning, are those
// of Temporal's own command line and SDKs, and every program of Drover reads them with it.
package temporalenv

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"go.temporal.io/sdk/client"
)

// The variables.
const (
	Address   = "TEMPORAL_ADDRESS"
	Namespace = "TEMPORAL_NAMESPACE" // default "default"
	// TLS is true or false. By default TLS is on when there is an API key or any other setting of TLS.
	TLS    = "TEMPORAL_TLS"
	APIKey = "TEMPORAL_API_KEY"
	// ServerCA, ClientCert and ClientKey are the beginnings of two names each: with _PATH that of a file, with _DATA the PEM text itself.
	ServerCA   = "TEMPORAL_TLS_SERVER_CA_CERT"
	ClientCert = "TEMPORAL_TLS_CLIENT_CERT"
	ClientKey  = "TEMPORAL_TLS_CLIENT_KEY"
	// ServerName is the name that the server's certificate must be good for, where it is not that of its address.
	ServerName = "TEMPORAL_TLS_SERVER_NAME"
	// NoVerification, true, has any certificate of the server accepted.
	NoVerification = "TEMPORAL_TLS_DISABLE_HOST_VERIFICATION"
	// MetaPrefix begins the names of variables that are sent as gRPC headers: TEMPORAL_GRPC_META_X_TEAM is x-team.
	MetaPrefix = "TEMPORAL_GRPC_META_"
)

// PEM is a text, or the file that has it; not both.
type PEM struct{ Data, Path string }

func (p PEM) set() bool { return p.Data != "" || p.Path != "" }

// read returns the text. name is the beginning of the two variables' names.
func (p PEM) read(name string) ([]byte, error) {
	switch {
	case p.Data != "" && p.Path != "":
		return nil, fmt.Errorf("%s_DATA and %s_PATH are both set; one is enough", name, name)
	case p.Path == "":
		return []byte(p.Data), nil
	}
	text, err := os.ReadFile(p.Path)
	if err != nil {
		return nil, fmt.Errorf("%s_PATH: %w", name, err)
	}
	return text, nil
}

// Security is how a client and Temporal know each other. The zero value is plain text without credentials.
type Security struct {
	TLS                             string
	ServerCA, ClientCert, ClientKey PEM
	ServerName                      string
	NoVerification                  string
	APIKey                          string
	// Meta are gRPC headers, by their names in lower case.
	Meta map[string]string
}

// SecurityFromEnv reads the variables. getenv is os.Getenv outside tests.
func SecurityFromEnv(getenv func(string) string) Security {
	pem := func(name string) PEM { return PEM{Data: getenv(name + "_DATA"), Path: getenv(name + "_PATH")} }
	s := Security{
		TLS: getenv(TLS), ServerCA: pem(ServerCA), ClientCert: pem(ClientCert), ClientKey: pem(ClientKey),
		ServerName: getenv(ServerName), NoVerification: getenv(NoVerification), APIKey: getenv(APIKey),
	}
	for _, assignment := range os.Environ() {
		name, _, _ := strings.Cut(assignment, "=")
		header, ok := strings.CutPrefix(name, MetaPrefix)
		if value := getenv(name); ok && header != "" && value != "" {
			if s.Meta == nil {
				s.Meta = map[string]string{}
			}
			s.Meta[strings.ReplaceAll(strings.ToLower(header), "_", "-")] = value
		}
	}
	return s
}

// Apply completes the options of a client. Its errors name the variable that is wrong.
func (s Security) Apply(options *client.Options) error {
	config, err := s.config()
	if err != nil {
		return err
	}
	on := config != nil || s.APIKey != ""
	if s.TLS != "" {
		if on, err = boolean(TLS, s.TLS); err != nil {
			return err
		}
	}
	switch {
	case !on:
		options.ConnectionOptions.TLSDisabled = true
	case config == nil:
		options.ConnectionOptions.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	default:
		options.ConnectionOptions.TLS = config
	}
	if s.APIKey != "" {
		options.Credentials = client.NewAPIKeyStaticCredentials(s.APIKey)
	}
	if len(s.Meta) > 0 {
		options.HeadersProvider = headers(s.Meta)
	}
	return nil
}

// config is nil when nothing is said of TLS.
func (s Security) config() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: s.ServerName}
	if s.NoVerification != "" {
		var err error
		if config.InsecureSkipVerify, err = boolean(NoVerification, s.NoVerification); err != nil {
			return nil, err
		}
	}
	if !s.ServerCA.set() && !s.ClientCert.set() && !s.ClientKey.set() && config.ServerName == "" && !config.InsecureSkipVerify {
		return nil, nil //nolint:nilnil // no TLS is no error
	}
	if s.ServerCA.set() {
		text, err := s.ServerCA.read(ServerCA)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s: there is no certificate in PEM form in it", ServerCA)
		}
	}
	if s.ClientCert.set() || s.ClientKey.set() {
		if _, err := s.clientCertificate(); err != nil {
			return nil, err
		}
		// Read for each connection: a certificate is renewed while programs run for months.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return s.clientCertificate() }
	}
	return config, nil
}

func (s Security) clientCertificate() (*tls.Certificate, error) {
	if !s.ClientCert.set() || !s.ClientKey.set() {
		return nil, fmt.Errorf("%s and %s go together: only one is set", ClientCert, ClientKey)
	}
	cert, err := s.ClientCert.read(ClientCert)
	if err != nil {
		return nil, err
	}
	key, err := s.ClientKey.read(ClientKey)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("%s and %s: %w", ClientCert, ClientKey, err)
	}
	return &pair, nil
}

func boolean(name, text string) (bool, error) {
	value, err := strconv.ParseBool(text)
	if err != nil {
		return false, fmt.Errorf("%s: %q is neither true nor false", name, text)
	}
	return value, nil
}

// headers go with every request.
type headers map[string]string

// GetHeaders implements client.HeadersProvider.
func (h headers) GetHeaders(context.Context) (map[string]string, error) { return h, nil }

// Options reads all that a client needs. getenv is os.Getenv outside tests.
func Options(getenv func(string) string) (client.Options, error) {
	options := client.Options{HostPort: getenv(Address), Namespace: getenv(Namespace)}
	if options.HostPort == "" {
		return options, ErrNoAddress
	}
	if options.Namespace == "" {
		options.Namespace = client.DefaultNamespace
	}
	return options, SecurityFromEnv(getenv).Apply(&options)
}

// ErrNoAddress says that the environment does not name Temporal.
var ErrNoAddress = errors.New("not set in the environment: " + Address)
