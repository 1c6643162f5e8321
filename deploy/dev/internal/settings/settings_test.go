package settings

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var everything = Serves{Endpoint: true, Temporal: true, NATS: true, Transition: true}

func TestSettingsAreKept(t *testing.T) {
	dir := t.TempDir()
	first, err := Load(dir, "127.0.0.1:0", everything)
	require.NoError(t, err)
	info, err := os.Stat(filepath.Join(dir, "dev.json"))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode())

	for _, listen := range []string{"", "127.0.0.1:0", first.Listen} {
		again, err := Load(dir, listen, everything)
		require.NoError(t, err)
		assert.Equal(t, first, again, "with --listen %q", listen)
	}
	other, err := Load(t.TempDir(), "127.0.0.1:0", everything)
	require.NoError(t, err)
	assert.NotEqual(t, first.AccessKeySecret, other.AccessKeySecret, "secrets are made, never fixed")
	assert.Regexp(t, `^[0-9]{16}$`, first.AccountID)
}

func TestListenReplacesTheKeptAddress(t *testing.T) {
	dir := t.TempDir()
	first, err := Load(dir, "127.0.0.1:0", everything)
	require.NoError(t, err)
	moved, err := Load(dir, "localhost:0", everything)
	require.NoError(t, err)
	assert.NotEqual(t, first.Listen, moved.Listen)
	assert.Equal(t, first.Ports, moved.Ports)
	kept, err := Load(dir, "", everything)
	require.NoError(t, err)
	assert.Equal(t, moved, kept)
}

func TestPortTakenMeanwhile(t *testing.T) {
	dir := t.TempDir()
	s, err := Load(dir, "127.0.0.1:0", everything)
	require.NoError(t, err)
	taken, err := net.Listen("tcp", s.TemporalAddress())
	require.NoError(t, err)
	defer taken.Close()
	_, err = Load(dir, "", everything)
	require.ErrorContains(t, err, "port "+strconv.Itoa(s.Ports.Temporal)+" of Temporal")
	require.ErrorContains(t, err, filepath.Join(dir, "dev.json"))
}

// Processes that share a data directory agree on every port, whoever starts first, and check only their own.
func TestPartsShareTheSettings(t *testing.T) {
	dir := t.TempDir()
	servers, err := Load(dir, "", Serves{Temporal: true, NATS: true})
	require.NoError(t, err)
	assert.Empty(t, servers.Listen, "the endpoint's address is for who serves it to choose")
	assert.Equal(t, "http://"+DefaultListen, servers.Endpoint())
	taken, err := net.Listen("tcp", servers.TemporalAddress())
	require.NoError(t, err)
	defer taken.Close()
	rest, err := Load(dir, "127.0.0.1:0", Serves{Endpoint: true, Transition: true})
	require.NoError(t, err)
	assert.NotEqual(t, DefaultListen, rest.Listen, "a free port was asked for")
	assert.Equal(t, servers.Ports, rest.Ports)
	assert.Equal(t, servers.AccessKeySecret, rest.AccessKeySecret)
	_, err = Load(dir, "", Serves{Temporal: true})
	require.ErrorContains(t, err, "of Temporal")
}

func TestBrokenSettings(t *testing.T) {
	for name, text := range map[string]string{
		"cut off":       `{"listen": "127.0.0.1:77`,
		"unknown field": `{"lisen": "127.0.0.1:7700"}`,
		"no address":    `{"listen": "7700"}`,
		"no port":       `{"listen": "127.0.0.1:http"}`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "dev.json")
			require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
			_, err := Load(dir, "", everything)
			require.Error(t, err)
			kept, err := os.ReadFile(path)
			require.NoError(t, err)
			assert.Equal(t, text, string(kept), "a file that is not understood is left alone")
		})
	}
}

func TestEndpointIsReachable(t *testing.T) {
	for listen, want := range map[string]string{
		"127.0.0.1:7700": "http://127.0.0.1:7700",
		"0.0.0.0:7700":   "http://127.0.0.1:7700",
		"[::]:7700":      "http://127.0.0.1:7700",
		":7700":          "http://127.0.0.1:7700",
		"[::1]:7700":     "http://[::1]:7700",
		"center:80":      "http://center:80",
	} {
		assert.Equal(t, want, (&Settings{Listen: listen}).Endpoint(), listen)
	}
}

func TestEnvironmentIsWhatTheShellReads(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dev.env")
	for _, value := range []string{"", "plain", "http://127.0.0.1:7700", "it's", `$HOME "\`, "a b\tc", "line\nline", "~"} {
		require.NoError(t, WriteEnvironment(path, []Variable{{Name: "V", Value: value}}))
		out, err := exec.CommandContext(t.Context(), "sh", "-c", `. "$0" && sh -c 'printf %s "$V"'`, path).Output()
		require.NoError(t, err)
		assert.Equal(t, value, string(out))
	}
}

func TestTLSIsKept(t *testing.T) {
	dir := t.TempDir()
	on, off := true, false
	for _, step := range []struct {
		asked  *bool
		scheme string
	}{{nil, "http://"}, {&on, "https://"}, {nil, "https://"}, {&off, "http://"}, {nil, "http://"}} {
		set, err := Load(dir, "127.0.0.1:0", Serves{Endpoint: true, TLS: step.asked})
		require.NoError(t, err)
		assert.True(t, strings.HasPrefix(set.Endpoint(), step.scheme+"127.0.0.1:"), set.Endpoint())
	}
}
