package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
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
		"DROVER_REGION": "local", "ALIBABA_CLOUD_ACCESS_KEY_ID": "key", "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "secret",
	}
	for _, c := range []struct {
		name    string
		args    []string
		without string
		code    int
		says    string
	}{
		{"all is there, and the database is refused", nil, "", app.ExitFailed, "mysql://refused"},
		{"no region", nil, "DROVER_REGION", app.ExitUsage, "--region"},
		{"the region as a flag", []string{"--region", "local"}, "DROVER_REGION", app.ExitFailed, "mysql://refused"},
		{"no secret", nil, "ALIBABA_CLOUD_ACCESS_KEY_SECRET", app.ExitUsage, "ALIBABA_CLOUD_ACCESS_KEY_SECRET"},
		{"no NATS", nil, "NATS_URL", app.ExitUsage, "--nats-url"},
		{"a rate limit below none", []string{"--rate-limit", "-1"}, "", app.ExitUsage, "--rate-limit"},
		{"a rate limit that admits nothing", []string{"--rate-burst", "0"}, "", app.ExitUsage, "--rate-burst"},
		{"no rate limit", []string{"--rate-limit", "0", "--rate-burst", "0"}, "", app.ExitFailed, "mysql://refused"},
		{"a quota below none", []string{"--job-quota", "-1"}, "", app.ExitUsage, "--job-quota"},
		{"a running quota below none", []string{"--running-quota", "-1"}, "", app.ExitUsage, "--running-quota"},
		{"unknown flag", []string{"--regoin", "x"}, "", app.ExitUsage, "regoin"},
		{"an argument", []string{"start"}, "", app.ExitUsage, "start"},
		{"no secret key", nil, "DROVER_SECRET_KEY_FILE", app.ExitUsage, "openssl rand -base64 32"},
		{"a secret key file that is not there", []string{"--secret-key-file", "/missing/secret.key"}, "", app.ExitFailed, "/missing/secret.key"},
		{"help", []string{"--help"}, "", app.ExitOK, "--database-url"},
		{"version", []string{"--version"}, "", app.ExitOK, "drover-server"},
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

// An authority is shown, followed by another, and replaced.
func TestAuthorityCommands(t *testing.T) {
	keyFile := filepath.Join(t.TempDir(), "secret.key")
	require.NoError(t, store.MakeKeyFile(keyFile))
	env := map[string]string{"DROVER_SECRET_KEY_FILE": keyFile, "DATABASE_URL": "sqlite://" + filepath.Join(t.TempDir(), "center.db")}
	run := func(code int, args ...string) (certificates []*x509.Certificate, stderr string) {
		t.Helper()
		var out, errOut bytes.Buffer
		require.Equal(t, code, program(func(name string) string { return env[name] }).Main(append([]string{"ca"}, args...), &out, &errOut), errOut.String())
		for rest := out.Bytes(); ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				return certificates, errOut.String()
			}
			require.Equal(t, "CERTIFICATE", block.Type, "the key is not shown")
			certificate, err := x509.ParseCertificate(block.Bytes)
			require.NoError(t, err)
			certificates = append(certificates, certificate)
		}
	}
	first, _ := run(app.ExitOK, "show")
	require.Len(t, first, 1)
	_, says := run(app.ExitFailed, "use")
	require.Contains(t, says, "ca add first")
	both, _ := run(app.ExitOK, "add")
	require.Len(t, both, 2)
	require.Equal(t, first[0].Raw, both[0].Raw, "the old one signs on")
	_, says = run(app.ExitFailed, "add")
	require.Contains(t, says, "two certificate authorities already")
	used, _ := run(app.ExitOK, "use")
	require.Equal(t, both[1].Raw, used[0].Raw)
	require.Equal(t, both[0].Raw, used[1].Raw)
	last, _ := run(app.ExitOK, "drop")
	require.Len(t, last, 1)
	require.Equal(t, both[1].Raw, last[0].Raw)
	_, says = run(app.ExitUsage, "sign")
	require.Contains(t, says, `no command is called "ca sign"`)
	run(app.ExitUsage)
	delete(env, "DATABASE_URL")
	_, says = run(app.ExitUsage, "show")
	require.Contains(t, says, "DATABASE_URL")
}
