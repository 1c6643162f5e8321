package events

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

func TestEnsureStream(t *testing.T) {
	ctx := testContext(t)
	_, js := startNATS(t).connect(testLog(t))
	stream, err := EnsureStream(ctx, js, StreamConfig{})
	require.NoError(t, err)
	got := stream.CachedInfo().Config
	require.Equal(t, "SMC", got.Name)
	require.Equal(t, []string{"smc.v1.>"}, got.Subjects)
	require.Equal(t, jetstream.FileStorage, got.Storage)
	require.Equal(t, 1, got.Replicas)
	require.True(t, got.AllowDirect)
	require.True(t, got.DenyDelete)
	require.EqualValues(t, -1, got.MaxMsgsPerSubject)

	_, err = NewPublisher(js, "").Publish(ctx, jobRecord(t, 1, 1))
	require.NoError(t, err)
	stream, err = EnsureStream(ctx, js, StreamConfig{MaxAge: time.Minute, MaxBytes: 1 << 20, MaxMsgs: 1000})
	require.NoError(t, err)
	info := stream.CachedInfo()
	require.Equal(t, time.Minute, info.Config.MaxAge)
	require.Equal(t, time.Minute, info.Config.Duplicates)
	require.EqualValues(t, 1<<20, info.Config.MaxBytes)
	require.EqualValues(t, 1, info.State.Msgs, "an update keeps the events")

	_, err = EnsureStream(ctx, js, StreamConfig{Replicas: 2})
	require.ErrorContains(t, err, "use 1, or 3")
}

// slowStorage is a server whose storage is not ready for its first answer.
type slowStorage struct {
	jetstream.JetStream
	errs []error
}

func (s *slowStorage) CreateOrUpdateStream(ctx context.Context, cfg jetstream.StreamConfig) (jetstream.Stream, error) {
	stream, err := s.JetStream.CreateOrUpdateStream(ctx, cfg)
	s.errs = append(s.errs, err)
	return stream, err
}

// A server that still tidies away the folders of a deleted stream cannot make it again yet.
func TestStreamIsMadeWhenStorageIsReady(t *testing.T) {
	ctx := testContext(t)
	srv := startNATS(t)
	_, js := srv.connect(testLog(t))
	streams := filepath.Join(srv.opts.StoreDir, "jetstream", "$G", "streams")
	require.NoError(t, os.MkdirAll(streams, 0o700))
	// The server removes what is in its way once it failed.
	require.NoError(t, os.WriteFile(filepath.Join(streams, StreamName), nil, 0o600))
	slow := &slowStorage{JetStream: js}
	stream, err := EnsureStream(ctx, slow, StreamConfig{})
	require.NoError(t, err)
	require.Equal(t, StreamName, stream.CachedInfo().Config.Name)
	require.Len(t, slow.errs, 2)
	var api *jetstream.APIError
	require.ErrorAs(t, slow.errs[0], &api)
	require.Equal(t, storeNotMade, api.ErrorCode)
}

func TestPublishConflictCarriesTheLastMessage(t *testing.T) {
	ctx := testContext(t)
	_, js := startNATS(t).connect(testLog(t))
	_, err := EnsureStream(ctx, js, StreamConfig{})
	require.NoError(t, err)
	pub := NewPublisher(js, "")

	first := jobRecord(t, 1, 1)
	seq, err := pub.Publish(ctx, first)
	require.NoError(t, err)
	_, err = pub.Publish(ctx, first)
	var conflict *ConflictError
	require.ErrorAs(t, err, &conflict)
	require.Equal(t, seq, conflict.Last.StreamSeq, "the same event is stored once")

	second := jobRecord(t, 1, 2)
	_, err = pub.Publish(ctx, second)
	require.ErrorAs(t, err, &conflict)
	require.Equal(t, second.Subject, conflict.Subject)
	require.Equal(t, seq, conflict.Last.StreamSeq)
	require.Equal(t, uint64(1), conflict.Last.Sequence)
	require.Equal(t, first.ID, conflict.Last.ID)
	require.Equal(t, first.Data, conflict.Last.Data)
	require.Equal(t, "Running", conflict.Last.Headers[HeaderStatus])

	other := jobRecord(t, 2, 5)
	other.PrevStreamSeq = 77
	_, err = pub.Publish(ctx, other)
	require.ErrorAs(t, err, &conflict)
	require.Nil(t, conflict.Last)

	second.PrevStreamSeq, second.Headers = seq, nil
	_, err = pub.Publish(ctx, second)
	require.NoError(t, err)
	last, err := pub.Last(ctx, second.Subject)
	require.NoError(t, err)
	require.Equal(t, "Syncing", last.Headers[HeaderBusinessStatus], "headers are made from the event")
	require.Equal(t, ContentType, last.Headers[HeaderContentType])
}

func TestProgressIsSentAndNotStored(t *testing.T) {
	ctx := testContext(t)
	nc, js := startNATS(t).connect(testLog(t))
	stream, err := EnsureStream(ctx, js, StreamConfig{})
	require.NoError(t, err)

	got := make(chan Progress, 4)
	sub, err := SubscribeProgress(nc, ProgressFilter("1001", "", ""), func(p Progress) { got <- p })
	require.NoError(t, err)
	require.NoError(t, nc.Publish(ProgressSubject("1001", "local", "j-1"), []byte("not JSON")))
	want := Progress{
		AccountID: "1001", RegionID: "local", JobID: "j-1", Run: 2, Percent: 41.5,
		BytesTotal: 1 << 30, BytesRead: 1 << 29, BytesSent: 1 << 20, BytesPerSecond: 1e6, ETASeconds: 30, Time: testTime,
	}
	require.NoError(t, PublishProgress(nc, Progress{AccountID: "other", RegionID: "local", JobID: "j-2"}))
	require.NoError(t, PublishProgress(nc, want))
	select {
	case p := <-got:
		require.Equal(t, want, p)
	case <-time.After(patience):
		require.FailNow(t, "no progress came")
	}
	require.NoError(t, sub.Unsubscribe())
	info, err := stream.Info(ctx)
	require.NoError(t, err)
	require.Zero(t, info.State.Msgs, "the stream captured progress")
}

func TestConnect(t *testing.T) {
	env := map[string]string{"NATS_CREDS": "user.creds", "NATS_CA": "ca.pem", "NATS_CERT": "c.pem"}
	security := SecurityFromEnv(func(name string) string { return env[name] })
	require.Equal(t, Security{Credentials: "user.creds", CA: "ca.pem", Cert: "c.pem"}, security)
	_, err := security.Options()
	require.ErrorContains(t, err, "NATS_KEY")
	security.Key = "k.pem"
	opts, err := security.Options()
	require.NoError(t, err)
	require.Len(t, opts, 3)

	srv := startNATS(t)
	srv.stop()
	nc, _ := srv.connect(testLog(t))
	require.False(t, nc.IsConnected())
	require.ErrorIs(t, PublishProgress(nc, Progress{JobID: "j-1"}), nats.ErrDisconnected, "nothing is kept while NATS is away")
	require.NoError(t, Close(testContext(t), nc))
	require.True(t, nc.IsClosed())

	srv.start()
	nc, _ = srv.connect(testLog(t))
	handled := make(chan struct{})
	sub, err := nc.Subscribe("x", func(*nats.Msg) { close(handled) })
	require.NoError(t, err)
	require.NoError(t, nc.Publish("x", nil))
	require.NoError(t, nc.Flush())
	require.NoError(t, Close(testContext(t), nc))
	require.True(t, nc.IsClosed())
	require.False(t, sub.IsValid())
	select {
	case <-handled:
	default:
		require.Fail(t, "Close did not wait for what was received")
	}
	require.ErrorIs(t, nc.Publish("x", nil), nats.ErrConnectionClosed)
}
