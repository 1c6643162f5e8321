package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/drover/drover/app"
	"github.com/drover/drover/center/store"
)

// Each command checks what it needs, does its work without the others' settings, and says what to do next.
func TestCommands(t *testing.T) {
	dir := t.TempDir()
	keyFile, backups := filepath.Join(dir, "secret.key"), filepath.Join(dir, "backups")
	require.NoError(t, store.MakeKeyFile(keyFile))
	env := map[string]string{"DROVER_SECRET_KEY_FILE": keyFile, "DATABASE_URL": "sqlite://" + filepath.Join(dir, "center.db")}
	call := func(code int, args ...string) (stdout, stderr string) {
		t.Helper()
		var out, errOut bytes.Buffer
		require.Equal(t, code, program(func(name string) string { return env[name] }).Main(args, &out, &errOut), "%q\n%s", args, &errOut)
		return out.String(), errOut.String()
	}
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"rebuild"}, "--region"},
		{[]string{"rebuild", "--region", "local"}, "NATS_URL"},
		{[]string{"backup"}, "--to"},
		{[]string{"backup", "--to", backups, "--images-only"}, "--data"},
		{[]string{"backup", "--to", backups, "--database-url", ""}, "DATABASE_URL"},
		{[]string{"restore"}, "--from"},
		{[]string{"restore", "--from", backups, "--secret-key-file", ""}, "openssl rand"},
		{[]string{"events", "replay"}, "--from"},
		{[]string{"events", "replay", "--from", "0"}, "36h"},
		{[]string{"events", "replay", "--from", "beginning"}, "NATS_URL"},
		{[]string{"events"}, "events"},
		{[]string{"backup", "extra"}, "extra"},
		{[]string{"--keep-audit", "-1"}, "number of days"},
		{[]string{"--keep-runs", "3", "--region", "local"}, "--keep-runs"},
	} {
		_, stderr := call(app.ExitUsage, c.args...)
		require.Contains(t, stderr, c.says, "%q", c.args)
	}
	for _, command := range commands(func(string) string { return "" }) {
		_, stderr := call(app.ExitOK, append(strings.Fields(command.Name)[1:], "--help")...)
		require.Contains(t, stderr, "Usage: "+command.Name)
	}

	_, stderr := call(app.ExitFailed, "restore", "--from", backups)
	require.Contains(t, stderr, "there is no backup")
	stdout, stderr := call(app.ExitOK, "backup", "--to", backups)
	require.Contains(t, stderr, "record:")
	require.DirExists(t, strings.TrimSpace(stdout))
	call(app.ExitOK, "restore", "--from", backups, "--verify")
	_, stderr = call(app.ExitFailed, "restore", "--from", backups, "--data", dir)
	require.Contains(t, stderr, "0 transition hosts")
	_, stderr = call(app.ExitOK, "restore", "--from", backups, "--database-url", "sqlite://"+filepath.Join(dir, "other.db"))
	require.Contains(t, stderr, "drover-server rebuild")
}
