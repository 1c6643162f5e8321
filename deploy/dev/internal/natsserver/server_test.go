package natsserver

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"
)

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func TestStreamsOutliveTheServer(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	opts := Options{Dir: t.TempDir(), Port: freePort(t)}
	for _, count := range []uint64{1, 2} {
		s, err := Start(ctx, opts, zaptest.NewLogger(t))
		require.NoError(t, err)
		nc, err := nats.Connect(s.URL())
		require.NoError(t, err)
		js, err := jetstream.New(nc)
		require.NoError(t, err)
		_, err = js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}})
		require.NoError(t, err)
		ack, err := js.Publish(ctx, "s", nil)
		require.NoError(t, err)
		assert.Equal(t, count, ack.Sequence)
		nc.Close()
		require.NoError(t, s.Stop(ctx))
	}
}

func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = Start(ctx, Options{Dir: t.TempDir(), Port: l.Addr().(*net.TCPAddr).Port}, zaptest.NewLogger(t))
	require.ErrorContains(t, err, "address already in use")
	require.NoError(t, ctx.Err(), "it fails at once")
}
