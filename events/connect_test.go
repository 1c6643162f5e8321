package events

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// A connection outlives a server that refuses it for a while, as one whose accounts are changed does: it is let in again when the server
// takes its password again, and that it is refused is logged once.
func TestConnectionThatIsRefused(t *testing.T) {
	s := newNATS(t)
	s.opts.Username, s.opts.Password = "center", "right"
	s.start()
	core, logs := observer.New(zap.WarnLevel)
	options := []nats.Option{nats.UserInfo("center", "right"), nats.ReconnectWait(time.Millisecond), nats.ReconnectJitter(0, 0)}
	nc, err := Connect(s.url(), t.Name(), zap.New(core), options...)
	require.NoError(t, err)
	defer nc.Close()
	require.True(t, nc.IsConnected())

	s.stop()
	s.opts.Password = "another"
	s.start()
	refusals := nc.Stats().Reconnects
	require.Eventually(t, func() bool { return nc.Stats().Reconnects >= refusals+5 || nc.IsClosed() }, patience, time.Millisecond)
	require.False(t, nc.IsClosed(), "%v", nc.LastError())
	late, err := Connect(s.url(), t.Name(), zap.NewNop(), options...)
	require.NoError(t, err)
	defer late.Close()
	said := func() int {
		return logs.Filter(func(e observer.LoggedEntry) bool {
			err, _ := e.ContextMap()["error"].(string)
			return err == nats.ErrAuthorization.Error()
		}).Len()
	}
	require.Eventually(t, func() bool { return said() > 0 }, patience, time.Millisecond, "it is told a little later")
	require.Equal(t, 1, said(), "%v", logs.All())

	s.stop()
	s.opts.Password = "right"
	s.start()
	require.Eventually(t, nc.IsConnected, patience, time.Millisecond)
	require.Eventually(t, late.IsConnected, patience, time.Millisecond, "one that was refused from the start")
}
