package center

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

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
