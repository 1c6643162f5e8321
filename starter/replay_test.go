package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// The command line hands a replay to the program that knows the database, and ends as that does.
func TestEventsReplay(t *testing.T) {
	var stdout, stderr bytes.Buffer
	call := func(args ...string) int {
		stdout.Reset()
		stderr.Reset()
		return run(t.Context(), append([]string{"events", "replay"}, args...), os.Getenv, &stdout, &stderr)
	}
	path := t.TempDir()
	t.Setenv("PATH", path)
	require.Equal(t, exitFailed, call("--from", "beginning"))
	require.Contains(t, stderr.String(), "where the center is installed")

	script := "#!/bin/sh\necho \"$@\"\necho why >&2\nexit $CODE\n"
	require.NoError(t, os.WriteFile(filepath.Join(path, "drover-server"), []byte(script), 0o700))
	for _, code := range []string{"0", "1", "2"} {
		t.Setenv("CODE", code)
		require.Equal(t, int(code[0]-'0'), call("--from", "beginning", "--new-stream"))
		require.Equal(t, "events replay --from beginning --new-stream\n", stdout.String())
		require.Equal(t, "why\n", stderr.String(), "told once")
	}
}
