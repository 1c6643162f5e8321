package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.uber.org/zap"

	"github.com/drover/drover/temporalenv"
)

// How long Temporal may take to answer before a person is told that it does not.
const (
	temporalDialTimeout  = 10 * time.Second
	temporalQueryTimeout = 5 * time.Second // a query needs a worker
	temporalTryTimeout   = 30 * time.Second
)

// dialTemporal connects, and says at once when nothing answers.
func (c *cli) dialTemporal(ctx context.Context) (client.Client, error) {
	options, err := temporalenv.Options(c.getenv)
	if errors.Is(err, temporalenv.ErrNoAddress) {
		return nil, inputf("%w; drover-dev writes it to dev.env in its data directory, source that file", err)
	}
	if err != nil {
		return nil, inputError{err}
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
		return fmt.Errorf("namespace %s does not exist there; set %s: %w", namespace.Namespace, temporalenv.Namespace, err)
	case errors.As(err, &denied):
		return fmt.Errorf("not allowed there; set %s, or a client certificate: %w", temporalenv.APIKey, err)
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
