package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.uber.org/zap"
)

// The environment that names Temporal: the names of Temporal's own tools.
const (
	envTemporalAddress   = "TEMPORAL_ADDRESS"
	envTemporalNamespace = "TEMPORAL_NAMESPACE" // default "default"
	envTemporalAPIKey    = "TEMPORAL_API_KEY"   // turns TLS on
	// TEMPORAL_TLS is true or false; by default TLS is on when any of the others is set.
	envTemporalTLS           = "TEMPORAL_TLS"
	envTemporalTLSCA         = "TEMPORAL_TLS_SERVER_CA_CERT" // each of the three with _PATH or _DATA
	envTemporalTLSCert       = "TEMPORAL_TLS_CLIENT_CERT"
	envTemporalTLSKey        = "TEMPORAL_TLS_CLIENT_KEY"
	envTemporalTLSServerName = "TEMPORAL_TLS_SERVER_NAME"
	envTemporalTLSNoVerify   = "TEMPORAL_TLS_DISABLE_HOST_VERIFICATION"
)

// How long Temporal may take to answer before a person is told that it does not.
const (
	temporalDialTimeout  = 10 * time.Second
	temporalQueryTimeout = 5 * time.Second // a query needs a worker
	temporalTryTimeout   = 30 * time.Second
)

// temporalOptions reads the environment. Its errors are of usage.
func temporalOptions(getenv func(string) string) (client.Options, error) {
	options := client.Options{HostPort: getenv(envTemporalAddress), Namespace: getenv(envTemporalNamespace)}
	if options.HostPort == "" {
		return options, usagef("not set in the environment: %s; drover-dev writes it to dev.env in its data directory, source that file", envTemporalAddress)
	}
	if options.Namespace == "" {
		options.Namespace = client.DefaultNamespace
	}
	config, err := temporalTLS(getenv)
	if err != nil {
		return options, usageError{err}
	}
	key := getenv(envTemporalAPIKey)
	on := config != nil || key != ""
	if text := getenv(envTemporalTLS); text != "" {
		if on, err = strconv.ParseBool(text); err != nil {
			return options, usagef("%s: %q is neither true nor false", envTemporalTLS, text)
		}
	}
	if on && config == nil {
		config = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if on {
		options.ConnectionOptions.TLS = config
	} else {
		options.ConnectionOptions.TLSDisabled = true
	}
	if key != "" {
		options.Credentials = client.NewAPIKeyStaticCredentials(key)
	}
	return options, nil
}

// temporalTLS is nil when the environment says nothing of TLS.
func temporalTLS(getenv func(string) string) (*tls.Config, error) {
	ca, err := envOrFile(getenv, envTemporalTLSCA)
	if err != nil {
		return nil, err
	}
	cert, err := envOrFile(getenv, envTemporalTLSCert)
	if err != nil {
		return nil, err
	}
	key, err := envOrFile(getenv, envTemporalTLSKey)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: getenv(envTemporalTLSServerName)}
	if text := getenv(envTemporalTLSNoVerify); text != "" {
		if config.InsecureSkipVerify, err = strconv.ParseBool(text); err != nil {
			return nil, fmt.Errorf("%s: %q is neither true nor false", envTemporalTLSNoVerify, text)
		}
	}
	if len(ca)+len(cert)+len(key) == 0 && config.ServerName == "" && !config.InsecureSkipVerify {
		return nil, nil //nolint:nilnil // no TLS is no error
	}
	if len(ca) > 0 {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(ca) {
			return nil, fmt.Errorf("%s: there is no certificate in PEM form in it", envTemporalTLSCA)
		}
	}
	if len(cert)+len(key) > 0 {
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("%s and %s: %w", envTemporalTLSCert, envTemporalTLSKey, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// envOrFile reads NAME_DATA, or the file that NAME_PATH names.
func envOrFile(getenv func(string) string, name string) ([]byte, error) {
	data, path := getenv(name+"_DATA"), getenv(name+"_PATH")
	switch {
	case data != "" && path != "":
		return nil, fmt.Errorf("%s_DATA and %s_PATH are both set; one is enough", name, name)
	case path == "":
		return []byte(data), nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s_PATH: %w", name, err)
	}
	return content, nil
}

// dialTemporal connects, and says at once when nothing answers.
func (c *cli) dialTemporal(ctx context.Context) (client.Client, error) {
	options, err := temporalOptions(c.getenv)
	if err != nil {
		return nil, err
	}
	options.Logger = temporalLog{c.log.Sugar()}
	dialing, cancel := context.WithTimeout(ctx, temporalDialTimeout)
	defer cancel()
	connection, err := client.DialContext(dialing, options)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("Temporal at %s does not answer: %w", options.HostPort, c.temporalError(err)) //nolint:staticcheck // a name
	}
	return connection, nil
}

// temporalError says what to do about an error of Temporal's that is not about one fleet.
func (c *cli) temporalError(err error) error {
	var namespace *serviceerror.NamespaceNotFound
	var denied *serviceerror.PermissionDenied
	switch {
	case errors.As(err, &namespace):
		return fmt.Errorf("namespace %s does not exist there; set %s: %w", namespace.Namespace, envTemporalNamespace, err)
	case errors.As(err, &denied):
		return fmt.Errorf("not allowed there; set %s, or a client certificate: %w", envTemporalAPIKey, err)
	}
	return err
}

// isTimeout reports that nobody answered in time: an update or a query needs a worker.
func isTimeout(err error) bool {
	var deadline *serviceerror.DeadlineExceeded
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &deadline)
}

func isNotFound(err error) bool {
	var notFound *serviceerror.NotFound
	return errors.As(err, &notFound)
}

// temporalLog takes the SDK's diagnostics: a person sees them with --verbose only, since errors are returned as well.
type temporalLog struct{ log *zap.SugaredLogger }

func (l temporalLog) Debug(msg string, keyvals ...any) { l.log.Debugw(msg, keyvals...) }
func (l temporalLog) Info(msg string, keyvals ...any)  { l.log.Debugw(msg, keyvals...) }
func (l temporalLog) Warn(msg string, keyvals ...any)  { l.log.Debugw(msg, keyvals...) }
func (l temporalLog) Error(msg string, keyvals ...any) { l.log.Debugw(msg, keyvals...) }
