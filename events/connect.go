package events

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// Security is how a connection and its server know each other. Empty fields are not used.
type Security struct {
	// User and Password stand for those that the URL may have.
	User, Password string
	// Credentials is a .creds file with a user's JWT and key.
	Credentials string
	// CA is a PEM file with the authorities that may have signed the server's certificate.
	CA string
	// Cert and Key are PEM files with the client's certificate and key; both or none.
	Cert, Key string
	// InboxPrefix begins the subjects that answers come on, in place of _INBOX: for users who may not listen to the answers of
	// others.
	InboxPrefix string
}

// SecurityFromEnv reads NATS_USER, NATS_PASSWORD, NATS_CREDS, NATS_CA, NATS_CERT, NATS_KEY and NATS_INBOX_PREFIX, the names
// that the nats command uses too. getenv is os.Getenv outside tests.
func SecurityFromEnv(getenv func(string) string) Security {
	return Security{
		User: getenv("NATS_USER"), Password: getenv("NATS_PASSWORD"), InboxPrefix: getenv("NATS_INBOX_PREFIX"),
		Credentials: getenv("NATS_CREDS"), CA: getenv("NATS_CA"),
		Cert: getenv("NATS_CERT"), Key: getenv("NATS_KEY"),
	}
}

// Options gives s as options of [Connect].
func (s Security) Options() ([]nats.Option, error) {
	if (s.Cert == "") != (s.Key == "") {
		return nil, errors.New("NATS client certificate: NATS_CERT and NATS_KEY go together, only one is set")
	}
	if s.Password != "" && s.User == "" {
		return nil, errors.New("NATS_PASSWORD is set without NATS_USER: set both")
	}
	var opts []nats.Option
	if s.User != "" {
		opts = append(opts, nats.UserInfo(s.User, s.Password))
	}
	if s.InboxPrefix != "" {
		opts = append(opts, nats.CustomInboxPrefix(s.InboxPrefix))
	}
	if s.Credentials != "" {
		opts = append(opts, nats.UserCredentials(s.Credentials))
	}
	if s.CA != "" {
		opts = append(opts, nats.RootCAs(s.CA))
	}
	if s.Cert != "" {
		opts = append(opts, nats.ClientCert(s.Cert, s.Key))
	}
	return opts, nil
}

// JetStream returns the stream interface of a connection. apiPrefix begins the subjects of its API where they are not the
// usual ones: for users of another NATS account than the streams', see deploy/nats (NATS_JS_API_PREFIX).
func JetStream(nc *nats.Conn, apiPrefix string) (js jetstream.JetStream, err error) {
	if apiPrefix == "" {
		js, err = jetstream.New(nc)
	} else {
		js, err = jetstream.NewWithAPIPrefix(nc, apiPrefix)
	}
	if err != nil {
		return nil, fmt.Errorf("JetStream: %w", err)
	}
	return js, nil
}

// Redacted returns the addresses of servers without the passwords in them, for messages.
func Redacted(addresses string) string {
	parts := strings.Split(addresses, ",")
	for i, part := range parts {
		u, err := url.Parse(strings.TrimSpace(part))
		switch at := strings.LastIndex(part, "@"); {
		case err == nil && u.Host != "":
			parts[i] = u.Redacted()
		case at >= 0: // host:port, with a user before it
			parts[i] = "xxxxx" + part[at:]
		}
	}
	return strings.Join(parts, ",")
}

// Connect opens a connection that never gives up: it also succeeds while no server answers, and
// reconnects for ever, also while a server refuses it: its accounts may be changed, or a credentials
// file renewed, before the other one. url may be a list separated by commas; name is shown by the
// server. opts come last and win.
//
// It fails for an address that cannot be read or a credentials file that cannot be used.
func Connect(url, name string, log *zap.Logger, opts ...nats.Option) (*nats.Conn, error) {
	log = log.With(zap.String("nats_client", name))
	var refused atomic.Bool // since it was let in last
	all := append([]nats.Option{
		nats.Name(name),
		nats.MaxReconnects(-1),
		nats.RetryOnFailedConnect(true),
		nats.IgnoreAuthErrorAbort(),
		nats.ReconnectWait(500 * time.Millisecond),
		nats.ReconnectJitter(500*time.Millisecond, 2*time.Second),
		// A server that hangs, or went away without closing its connections, is noticed within 15 s.
		nats.PingInterval(5 * time.Second),
		nats.MaxPingsOutstanding(2),
		// Who publishes waits for nobody longer than that, when what is to be sent fills its buffers.
		nats.FlusherTimeout(5 * time.Second),
		nats.ConnectHandler(func(nc *nats.Conn) {
			refused.Store(false)
			log.Info("connected to NATS", zap.String("url", nc.ConnectedUrlRedacted()))
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("connection to NATS lost, reconnecting", zap.Error(err))
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			refused.Store(false)
			log.Info("reconnected to NATS", zap.String("url", nc.ConnectedUrlRedacted()))
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			switch {
			case sub != nil:
				log.Error("NATS reported an error", zap.String("subject", sub.Subject), zap.Error(err))
			case !isRefused(err):
				log.Error("NATS reported an error", zap.Error(err))
			case !refused.Swap(true):
				log.Error("NATS does not let this program in; it is tried again until it does: look at its user, password or credentials file", zap.Error(err))
			}
		}),
	}, opts...)
	nc, err := nats.Connect(url, all...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	return nc, nil
}

// isRefused reports whether an error says that NATS does not take who a program says it is.
func isRefused(err error) bool {
	for _, refusal := range []error{nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired} {
		if errors.Is(err, refusal) {
			return true
		}
	}
	return false
}

// Close drains a connection: what was received is handled and what was published is sent, then it
// is closed. When ctx ends first, or there is no server to drain to, it is closed at once.
func Close(ctx context.Context, nc *nats.Conn) error {
	closed := nc.StatusChanged(nats.CLOSED)
	defer nc.RemoveStatusListener(closed)
	if !nc.IsConnected() || nc.Drain() != nil {
		nc.Close()
		return nil
	}
	select {
	case <-closed:
		return nil
	case <-ctx.Done():
		nc.Close()
		return fmt.Errorf("drain connection to NATS: %w", ctx.Err())
	}
}
