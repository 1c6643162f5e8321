package deploy_test

import (
	"context"
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/drover/drover/center/ca"
	"github.com/drover/drover/events"
	"github.com/drover/drover/fleet"
)

// natsPasswords are what the configuration takes from its environment.
var natsPasswords = map[string]string{
	"NATS_CENTER_PASSWORD": "of-center", "NATS_ORCHESTRATOR_PASSWORD": "of-orchestrator", "NATS_OBSERVER_PASSWORD": "of-observer-1",
}

// natsSite is a server with the very configuration of deploy/nats, and TLS.
type natsSite struct {
	t   *testing.T
	url string
	ca  string
}

func startNATS(t *testing.T) *natsSite {
	t.Helper()
	options := natsOptions(t)
	authority, err := ca.New(time.Now())
	require.NoError(t, err)
	certificate, err := authority.Issue([]string{"127.0.0.1"}, time.Now())
	require.NoError(t, err)
	options.TLSConfig = &tls.Config{Certificates: []tls.Certificate{*certificate}, MinVersion: tls.VersionTLS12}
	options.TLSTimeout = 5
	options.StoreDir, options.Port, options.HTTPPort = t.TempDir(), server.RANDOM_PORT, 0
	options.NoLog, options.NoSigs = true, true
	srv, err := server.NewServer(options)
	require.NoError(t, err)
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	require.True(t, srv.ReadyForConnections(patience))
	s := &natsSite{t: t, url: srv.ClientURL(), ca: filepath.Join(t.TempDir(), "ca.pem")}
	require.NoError(t, os.WriteFile(s.ca, []byte(ca.EncodeCertificates(authority.Certificate)), 0o600))
	return s
}

// natsUser is a connection as Drover's programs make it.
type natsUser struct {
	*nats.Conn
	js jetstream.JetStream
	t  *testing.T

	mu      sync.Mutex
	refused []string
}

func (s *natsSite) user(name string) *natsUser {
	s.t.Helper()
	security := events.SecurityFromEnv(func(variable string) string {
		return map[string]string{"NATS_USER": name, "NATS_PASSWORD": "of-" + name, "NATS_CA": s.ca}[variable]
	})
	options, err := security.Options()
	require.NoError(s.t, err)
	u := &natsUser{t: s.t}
	options = append(options, nats.RetryOnFailedConnect(false), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.refused = append(u.refused, err.Error())
	}))
	u.Conn, err = events.Connect(s.url, name, zap.NewNop(), options...)
	require.NoError(s.t, err)
	s.t.Cleanup(u.Close)
	prefix := ""
	if strings.HasPrefix(name, "observer") {
		prefix = "JS.center.API"
	}
	u.js, err = events.JetStream(u.Conn, prefix)
	require.NoError(s.t, err)
	return u
}

// requireRefused has the server refuse something because of who asks.
func (u *natsUser) requireRefused(subject string, do func(ctx context.Context) error) {
	u.t.Helper()
	u.mu.Lock()
	u.refused = nil
	u.mu.Unlock()
	ctx, cancel := context.WithTimeout(u.t.Context(), patience)
	defer cancel()
	failed := make(chan error, 1)
	go func() { failed <- do(ctx) }()
	require.Eventually(u.t, func() bool {
		u.mu.Lock()
		defer u.mu.Unlock()
		for _, message := range u.refused {
			if strings.Contains(strings.ToLower(message), "permissions violation") && strings.Contains(message, subject) {
				return true
			}
		}
		return false
	}, patience, time.Millisecond, "%s is not refused", subject)
	cancel() // nobody answers what was refused
	require.Error(u.t, <-failed, subject)
}

func jobRecord(t *testing.T, account, job string, sequence uint64) events.Record {
	t.Helper()
	record, err := events.NewRecord(events.JobStatusChanged{
		AccountID: account, RegionID: "local", JobID: job, SourceID: "s-1", Name: "dc-exit:web", Sequence: sequence,
		Change: events.JobStarted, Status: "Running", PreviousStatus: "Ready", Time: time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC),
	})
	require.NoError(t, err)
	return record
}

// Everybody can do with NATS what Drover has him do, and nothing else.
func TestNATSUsers(t *testing.T) {
	s := startNATS(t)
	center, orchestrator, observer := s.user("center"), s.user("orchestrator"), s.user("observer-1")

	// The center makes its stream and fills it, one account beside the other.
	_, err := events.EnsureStream(t.Context(), center.js, events.StreamConfig{})
	require.NoError(t, err)
	publisher := events.NewPublisher(center.js, "")
	publish := func(account, job string) {
		t.Helper()
		_, err := publisher.Publish(t.Context(), jobRecord(t, account, job, 1))
		require.NoError(t, err)
		last, err := publisher.Last(t.Context(), events.JobSubject(account, "local", job))
		require.NoError(t, err)
		require.NotNil(t, last)
	}
	publish("1", "j-1")
	publish("2", "j-2")

	// The orchestrator's events have a stream of their own; its bridge reads the center's.
	_, err = events.EnsureStream(t.Context(), orchestrator.js, events.DroverStream())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	bridge := events.NewBridge(orchestrator.js, events.SignalerFunc(func(context.Context, string, string, fleet.JobChanged) error { return nil }),
		events.BridgeConfig{}, zap.NewNop())
	go bridge.Run(ctx)
	require.Eventually(t, func() bool { return bridge.Stats().LastStreamSeq == 2 }, patience, time.Millisecond)
	_, err = orchestrator.js.Publish(t.Context(), events.FleetSubject("1", "dc-exit"), []byte("{}"))
	require.NoError(t, err)
	_, err = orchestrator.js.Publish(t.Context(), events.FleetSubject("2", "dc-exit"), []byte("{}"))
	require.NoError(t, err)

	// The observer of account 1 gets its events: the stored ones, those that happen, progress.
	streams, err := events.AddObserver(t.Context(), orchestrator.js, "observer-1", "1")
	require.NoError(t, err)
	require.Equal(t, []string{events.StreamName, events.DroverStreamName}, streams)
	heard := make(chan string, 100)
	go events.Subscribe(ctx, observer.js, events.SubscribeConfig{Durable: "observer-1", Bound: true}, func(_ context.Context, ev events.Event) error {
		heard <- ev.Subject
		return nil
	})
	live := make(chan string, 100)
	for _, subject := range []string{"smc.v1.1.>", "drover.v1.1.>"} {
		_, err = observer.Subscribe(subject, func(m *nats.Msg) { live <- m.Subject })
		require.NoError(t, err)
	}
	_, err = events.SubscribeProgress(observer.Conn, events.ProgressFilter("1", "", ""), func(p events.Progress) { live <- p.JobID })
	require.NoError(t, err)
	require.NoError(t, observer.Flush())
	next := func(from chan string) string {
		t.Helper()
		select {
		case subject := <-from:
			return subject
		case <-time.After(patience):
			require.FailNow(t, "nothing was heard")
			return ""
		}
	}
	require.Equal(t, events.JobSubject("1", "local", "j-1"), next(heard))
	publish("2", "j-20")
	require.NoError(t, events.PublishProgress(center.Conn, events.Progress{AccountID: "2", RegionID: "local", JobID: "j-20"}))
	publish("1", "j-10")
	require.NoError(t, events.PublishProgress(center.Conn, events.Progress{AccountID: "1", RegionID: "local", JobID: "j-10"}))
	require.Equal(t, events.JobSubject("1", "local", "j-10"), next(heard), "and nothing of account 2 before it")
	require.Equal(t, events.JobSubject("1", "local", "j-10"), next(live))
	require.Equal(t, "j-10", next(live))
	fleets, err := observer.js.Consumer(t.Context(), events.DroverStreamName, "observer-1")
	require.NoError(t, err)
	message, err := fleets.Next(jetstream.FetchMaxWait(patience))
	require.NoError(t, err)
	require.Equal(t, events.FleetSubject("1", "dc-exit"), message.Subject())
	require.NoError(t, message.DoubleAck(t.Context()))

	// What is none of his business.
	core := func(subject string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := observer.RequestWithContext(ctx, subject, nil)
			return err
		}
	}
	for _, subject := range []string{
		events.JobSubject("1", "local", "j-1"), "smc.progress.v1.1.local.job.j-1", events.FleetSubject("1", "dc-exit"), // forgery
		"$JS.API.STREAM.INFO.SMC", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.DELETE.SMC", "$JS.API.STREAM.PURGE.SMC", "$JS.API.STREAM.UPDATE.SMC",
		"$JS.API.STREAM.CREATE.MINE", "$JS.API.STREAM.MSG.GET.SMC", "$JS.API.STREAM.MSG.DELETE.SMC",
		"$JS.API.DIRECT.GET.SMC", "$JS.API.DIRECT.GET.SMC.smc.v1.2.local.job.j-2",
		"$JS.API.CONSUMER.CREATE.SMC", "$JS.API.CONSUMER.CREATE.SMC.observer-1", "$JS.API.CONSUMER.CREATE.SMC.mine.smc.v1.2.>",
		"$JS.API.CONSUMER.CREATE.SMC.observer-1.smc.v1.1.>", "$JS.API.CONSUMER.DURABLE.CREATE.SMC.observer-1",
		"$JS.API.CONSUMER.LIST.SMC", "$JS.API.CONSUMER.DELETE.SMC.observer-1",
		"$JS.API.CONSUMER.INFO.SMC.drover-bridge", "$JS.API.CONSUMER.MSG.NEXT.SMC.drover-bridge", "$JS.ACK.SMC.drover-bridge.1.1.1.1.1",
	} {
		observer.requireRefused(subject, core(subject))
	}
	// By the prefix that he has there is nothing but his own consumers.
	for _, request := range []string{
		"STREAM.INFO.SMC", "STREAM.MSG.GET.SMC", "STREAM.DELETE.SMC", "DIRECT.GET.SMC.smc.v1.2.local.job.j-2", "CONSUMER.CREATE.SMC.mine.smc.v1.2.>",
		"CONSUMER.CREATE.SMC.observer-1.smc.v1.2.>", "CONSUMER.MSG.NEXT.SMC.drover-bridge", "CONSUMER.DELETE.SMC.observer-1", "CONSUMER.LIST.SMC",
	} {
		_, err := observer.Request("JS.center.API."+request, []byte("{}"), patience)
		require.ErrorIs(t, err, nats.ErrNoResponders, request)
	}
	for _, subject := range []string{"smc.v1.2.>", "smc.v1.>", ">", "drover.v1.>", "$JS.>"} {
		observer.requireRefused(subject, func(ctx context.Context) error {
			sub, err := observer.SubscribeSync(subject)
			if err == nil {
				_, err = sub.NextMsgWithContext(ctx)
			}
			return err
		})
	}

	// Nor may Drover's own programs do each other's work, or lose events.
	center.requireRefused("drover.v1.1.fleet.x", func(ctx context.Context) error {
		_, err := center.js.Publish(ctx, "drover.v1.1.fleet.x", nil)
		return err
	})
	orchestrator.requireRefused("smc.v1.1.local.job.j-1", func(ctx context.Context) error {
		_, err := orchestrator.js.Publish(ctx, "smc.v1.1.local.job.j-1", nil)
		return err
	})
	for _, user := range []*natsUser{center, orchestrator} {
		user.requireRefused("STREAM.DELETE", func(ctx context.Context) error { return user.js.DeleteStream(ctx, events.StreamName) })
	}

	// An answer sent elsewhere goes nowhere but in his own account.
	require.NoError(t, observer.PublishRequest("JS.center.API.CONSUMER.INFO.SMC.observer-1", "smc.v1.2.local.job.forged", nil))
	require.NoError(t, observer.PublishRequest("JS.center.API.CONSUMER.MSG.NEXT.DROVER.observer-1", "smc.v1.2.local.job.forged", nil))
	require.NoError(t, observer.Flush())
	publish("1", "j-11")
	require.Equal(t, events.JobSubject("1", "local", "j-11"), next(heard))
	last, err := publisher.Last(t.Context(), "smc.v1.2.local.job.forged")
	require.NoError(t, err)
	require.Nil(t, last)

	removed, err := events.RemoveObserver(t.Context(), orchestrator.js, "observer-1")
	require.NoError(t, err)
	require.Equal(t, streams, removed)
	_, err = events.RemoveObserver(t.Context(), orchestrator.js, events.DefaultBridgeDurable)
	require.ErrorContains(t, err, "no observer's")
}

func TestNATSWantsTheRightPassword(t *testing.T) {
	s := startNATS(t)
	for _, security := range []events.Security{
		{CA: s.ca}, {CA: s.ca, User: "center", Password: "wrong"}, {User: "center", Password: "of-center"},
	} {
		options, err := security.Options()
		require.NoError(t, err)
		_, err = events.Connect(s.url, "stranger", zap.NewNop(), append(options, nats.RetryOnFailedConnect(false))...)
		require.Error(t, err, "%+v", security)
	}
	_, err := events.Security{Password: "x"}.Options()
	require.ErrorContains(t, err, "NATS_USER")
}
