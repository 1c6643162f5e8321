package center

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
)

// What is no id of an agent process is the agent's mistake, on every database, and no failure of the center.
func TestInstancesThatAreNone(t *testing.T) {
	f := newFixture(t, quiet)
	client, err := agentapi.NewClient(f.url, "")
	require.NoError(t, err)
	code := f.code()
	for _, instance := range []string{"", "a\x00b", "a\nb", strings.Repeat("x", agentapi.MaxInstanceBytes+1)} {
		_, err := client.Register(t.Context(), agentapi.RegisterRequest{Code: code, Name: "web", Instance: instance, Server: described})
		f.requireCode(smc.CodeInvalidParameter, err)
	}
	_, err = client.Register(t.Context(), agentapi.RegisterRequest{Code: code, Name: "web", Instance: strings.Repeat("x", agentapi.MaxInstanceBytes), Server: described})
	require.NoError(t, err)
}

// An agent whose source server is deleted while it calls is told so, as at its next call.
func TestAgentOfASourceThatGoes(t *testing.T) {
	f := newFixture(t, quiet)
	client, err := agentapi.NewClient(f.url, "")
	require.NoError(t, err)
	registered, err := client.Register(t.Context(), agentapi.RegisterRequest{Code: f.code(), Name: "web", Instance: "i", Server: described})
	require.NoError(t, err)
	e := NewEndpoint(Config{Store: f.store, Engine: f.engine, RegionID: region, Logger: zap.NewNop()})
	t.Cleanup(e.Close)
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, agentapi.PathHeartbeat, http.NoBody)
	r.Header.Set("Authorization", "Bearer "+registered.Token)
	_, err = e.authenticated(func(r *http.Request, source *store.Source) (any, error) {
		_, err := f.client.DeleteSourceServer(r.Context(), &smc.DeleteSourceServerRequest{SourceID: source.SourceID})
		require.NoError(t, err)
		require.ErrorIs(t, f.store.NoteAgentClock(r.Context(), source.SourceID, time.Hour), store.ErrNotFound)
		return nil, f.store.Heartbeat(r.Context(), source.SourceID, described)
	})(r)
	require.Equal(t, smc.CodeInvalidAgentToken, smc.CodeOf(err), "%v", err)
}

// The log has an error where the center failed, and none where the caller was refused or went away.
func TestWhatIsLoggedOfCallsThatFail(t *testing.T) {
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for _, test := range []struct {
		ctx  context.Context
		err  error
		want zapcore.Level
		text string
	}{
		{t.Context(), errors.New("disk full"), zap.ErrorLevel, "call failed"},
		{t.Context(), smc.Errorf(smc.CodeServiceUnavailable, ""), zap.ErrorLevel, "call failed"},
		{t.Context(), smc.Errorf(smc.CodeInvalidParameter, "Name: no"), zap.InfoLevel, "call refused"},
		{gone, context.Canceled, zap.InfoLevel, "call refused"},
	} {
		core, logged := observer.New(zap.DebugLevel)
		logRefused(test.ctx, zap.New(core), "call", test.err)
		require.Equal(t, 1, logged.Len())
		require.Equal(t, test.want, logged.All()[0].Level, "%v", test.err)
		require.Equal(t, test.text, logged.All()[0].Message)
	}
}
