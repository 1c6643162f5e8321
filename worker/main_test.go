package main

import (
	"bytes"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/drover/drover/app"
	"github.com/drover/drover/center/store"
)

// The settings that are checked are those that the flags and the environment gave.
func TestSettings(t *testing.T) {
	keyFile := filepath.Join(t.TempDir(), "secret.key")
	require.NoError(t, store.MakeKeyFile(keyFile))
	complete := map[string]string{
		"DROVER_SECRET_KEY_FILE": keyFile,
		"DATABASE_URL":           "mysql://refused", "NATS_URL": "nats://127.0.0.1:1", "TEMPORAL_ADDRESS": "127.0.0.1:1",
		"DROVER_REGION": "local", "DROVER_ENDPOINT": "http://127.0.0.1:1", "ALIBABA_CLOUD_ACCESS_KEY_ID": "key", "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "secret",
	}
	for _, c := range []struct {
		name    string
		args    []string
		without string
		code    int
		says    string
	}{
		{"no role", nil, "", app.ExitUsage, "--role"},
		{"unknown role", []string{"--role", "centre"}, "", app.ExitUsage, "centre"},
		{"center", []string{"--role", "center"}, "", app.ExitFailed, "mysql://refused"},
		{"center without a database", []string{"--role", "center"}, "DATABASE_URL", app.ExitUsage, "--database-url"},
		{"transition without a folder", []string{"--role", "transition"}, "", app.ExitUsage, "--data"},
		{"transition", []string{"--role", "center,transition", "--data", "unused"}, "", app.ExitFailed, "mysql://refused"},
		{"no address of the transition host", []string{"--role", "transition", "--data", "unused", "--transition-url", "host:7701"}, "", app.ExitUsage, "--transition-url host:7701: want a URL"},
		{"no private address of it", []string{"--role", "transition", "--data", "unused", "--transition-private-url", "10.0.0.1"}, "", app.ExitUsage, "--transition-private-url 10.0.0.1: want a URL"},
		{"a private address without TLS", []string{"--role", "transition", "--data", "unused", "--tls", "self", "--transition-private-url", "http://10.0.0.1:7701"}, "", app.ExitUsage, "--transition-private-url http://10.0.0.1:7701: the transition host serves https"},
		{"orchestrator without an endpoint", []string{"--role", "orchestrator"}, "DROVER_ENDPOINT", app.ExitUsage, "DROVER_ENDPOINT"},
		{"orchestrator without Temporal", []string{"--role", "orchestrator"}, "TEMPORAL_ADDRESS", app.ExitUsage, "--temporal-address"},
		{"center without a secret key", []string{"--role", "center"}, "DROVER_SECRET_KEY_FILE", app.ExitUsage, "--secret-key-file"},
		{"orchestrator without a secret key and Temporal", []string{"--role", "orchestrator", "--temporal-address", ""}, "DROVER_SECRET_KEY_FILE", app.ExitUsage, "TEMPORAL_ADDRESS"},
		{"help", []string{"--help"}, "", app.ExitOK, "--transition-url"},
		{"version", []string{"--version"}, "", app.ExitOK, "drover-worker"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := program(func(name string) string {
				if name == c.without {
					return ""
				}
				return complete[name]
			}).Main(c.args, &stdout, &stderr)
			require.Contains(t, stdout.String()+stderr.String(), c.says)
			require.Equal(t, c.code, code)
		})
	}
}
