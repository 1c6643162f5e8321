package app

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/center/ca"
)

// secureCenter is a fake center that serves https with a certificate of an authority.
type secureCenter struct {
	*fakeCenter
	*site
	heartbeats func() int
}

func newSecureCenter(t *testing.T, authority *ca.Authority) *secureCenter {
	t.Helper()
	c := &secureCenter{fakeCenter: newFakeCenter(t)}
	c.site = newSite(t, authority, c.Config.Handler)
	c.heartbeats = c.count(func(c *fakeCenter) int { return len(c.heartbeats) })
	return c
}

// config is that of an agent with a code of the center that names an authority.
func (c *secureCenter) config(t *testing.T, authority *ca.Authority) AgentConfig {
	t.Helper()
	cfg := firstStart(t, c.fakeCenter)
	fingerprint := ca.FingerprintOf(authority.Certificate)
	cfg.Endpoint, cfg.Code = c.url(), agentapi.FormatCode(goodCode, &fingerprint)
	return cfg
}

// awaitHeartbeats waits until the agent is known to get on with the center.
func (c *secureCenter) awaitHeartbeats(t *testing.T) {
	t.Helper()
	before := c.heartbeats()
	eventually(t, "two heartbeats", func() bool { return c.heartbeats() > before+1 })
}

func keptState(t *testing.T, cfg AgentConfig) agentState {
	t.Helper()
	var state agentState
	data, err := os.ReadFile(filepath.Join(cfg.StateDir, agentStateFile))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &state))
	return state
}

// The code is all an agent needs to know its center: at first, and later without it.
func TestAgentKnowsTheCenterByItsCode(t *testing.T) {
	t.Parallel()
	authority := newAuthority(t)
	center := newSecureCenter(t, authority)
	cfg := center.config(t, authority)
	r := newAgent(t, cfg).start()
	center.awaitHeartbeats(t)

	// The transition host is known by the same authority.
	host := newSite(t, authority, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	center.want(someWork("j-1"))
	sync := r.sync.next()
	get := func(url string) (int, error) {
		resp, err := sync.cfg.Client.Get(url)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		return resp.StatusCode, nil
	}
	status, err := get(host.url())
	require.NoError(t, err)
	assert.Equal(t, http.StatusTeapot, status)
	_, err = get(newSite(t, newAuthority(t), http.NotFoundHandler()).url())
	require.ErrorContains(t, err, "unknown authority")
	r.stop()

	assert.Equal(t, goodCode, center.registrations()[0].Code, "the center gets its secret alone")
	assert.Equal(t, ca.EncodeCertificates(authority.Certificate), keptState(t, cfg).CACertificates)
	r = newAgent(t, AgentConfig{StateDir: cfg.StateDir}).start()
	center.awaitHeartbeats(t)
	r.stop()
	assert.Len(t, center.registrations(), 1)

	// It never falls back to the clear.
	var wrong *AgentUsageError
	require.ErrorAs(t, newAgent(t, AgentConfig{StateDir: cfg.StateDir, Endpoint: center.URL}).start().wait(), &wrong)
	assert.Contains(t, wrong.Message, "https://")
}

func TestAgentRefusesAnotherCenter(t *testing.T) {
	mine, theirs := newAuthority(t), newAuthority(t)
	center := newSecureCenter(t, theirs)
	refused := func(cfg AgentConfig) error {
		err := newAgent(t, cfg).start().wait()
		require.Error(t, err)
		assert.Empty(t, center.registrations(), "the code was not sent")
		assert.NoFileExists(t, filepath.Join(cfg.StateDir, agentStateFile))
		return err
	}
	err := refused(center.config(t, mine))
	require.ErrorContains(t, err, "shows a certificate of another authority than the activation code names")
	require.ErrorContains(t, err, ca.FingerprintOf(mine.Certificate).String())
	require.ErrorContains(t, err, ca.FingerprintOf(theirs.Certificate).String())

	cfg := center.config(t, theirs)
	cfg.Code = goodCode // of a center without TLS
	require.ErrorContains(t, refused(cfg), "--ca-file")

	cfg = center.config(t, mine)
	cfg.CAFile = filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(cfg.CAFile, []byte(ca.EncodeCertificates(mine.Certificate)), 0o600))
	require.ErrorContains(t, refused(cfg), "another authority than those this agent trusts")

	var wrong *AgentUsageError
	cfg.CAFile += "x"
	require.ErrorAs(t, refused(cfg), &wrong)
	assert.Contains(t, wrong.Message, "--ca-file")
	cfg = center.config(t, theirs)
	cfg.Code = cfg.Code[:len(cfg.Code)-3]
	require.ErrorAs(t, refused(cfg), &wrong)
	assert.Contains(t, wrong.Message, "copy it again")
	cfg = center.config(t, theirs)
	cfg.Endpoint = center.URL
	require.ErrorAs(t, refused(cfg), &wrong)
	assert.Contains(t, wrong.Message, "https://")
}

// The name of the server counts too.
func TestAgentRefusesACertificateForAnotherName(t *testing.T) {
	authority := newAuthority(t)
	center := newSecureCenter(t, authority)
	cfg := center.config(t, authority)
	cfg.Endpoint = "https://localhost:" + cfg.Endpoint[len("https://127.0.0.1:"):]
	require.ErrorContains(t, newAgent(t, cfg).start().wait(), "--tls-name")
	assert.Empty(t, center.registrations())
}

// The authority of a center changes while its agents run.
func TestAgentFollowsTheCentersAuthorities(t *testing.T) {
	t.Parallel()
	old, next := newAuthority(t), newAuthority(t)
	center := newSecureCenter(t, old)
	cfg := center.config(t, old)
	r := newAgent(t, cfg).start()
	center.awaitHeartbeats(t)
	both := ca.EncodeCertificates(old.Certificate, next.Certificate)
	center.set(func(c *fakeCenter) { c.authority = "what is no certificate" })
	center.awaitHeartbeats(t)
	center.set(func(c *fakeCenter) { c.authority = both })
	eventually(t, "both authorities are kept", func() bool { return keptState(t, cfg).CACertificates == both })

	center.write(next)
	require.NoError(t, center.identity.refresh(t.Context()))
	center.set(func(c *fakeCenter) { c.authority = ca.EncodeCertificates(next.Certificate) })
	eventually(t, "the old one is dropped", func() bool { return keptState(t, cfg).CACertificates == ca.EncodeCertificates(next.Certificate) })
	center.awaitHeartbeats(t)
	r.stop()
	assert.Len(t, center.registrations(), 1)
}

// An agent that registered in the clear takes the authority of a code.
func TestAgentMovesToTLS(t *testing.T) {
	t.Parallel()
	authority := newAuthority(t)
	center := newSecureCenter(t, authority)
	cfg := firstStart(t, center.fakeCenter)
	r := newAgent(t, cfg).start()
	center.awaitHeartbeats(t)
	r.stop()
	assert.Empty(t, keptState(t, cfg).CACertificates)

	secure := center.config(t, authority)
	r = newAgent(t, AgentConfig{StateDir: cfg.StateDir, Endpoint: secure.Endpoint, Code: secure.Code}).start()
	eventually(t, "the authority is kept", func() bool { return keptState(t, cfg).CACertificates != "" })
	r.stop()
	r = newAgent(t, AgentConfig{StateDir: cfg.StateDir}).start()
	center.awaitHeartbeats(t)
	r.stop()
	assert.Equal(t, secure.Endpoint, keptState(t, cfg).Endpoint)
	assert.Len(t, center.registrations(), 1)
}

// An agent with --ca-file goes by that file alone.
func TestAgentGoesByItsFile(t *testing.T) {
	t.Parallel()
	authority := newAuthority(t)
	center := newSecureCenter(t, authority)
	cfg := center.config(t, authority)
	cfg.Code = goodCode
	cfg.CAFile = filepath.Join(t.TempDir(), "ca.pem")
	certificates := ca.EncodeCertificates(authority.Certificate)
	require.NoError(t, os.WriteFile(cfg.CAFile, []byte(certificates), 0o600))
	center.set(func(c *fakeCenter) { c.authority = ca.EncodeCertificates(newAuthority(t).Certificate) })
	r := newAgent(t, cfg).start()
	center.awaitHeartbeats(t)
	r.stop()
	assert.Equal(t, certificates, keptState(t, cfg).CACertificates)
}
