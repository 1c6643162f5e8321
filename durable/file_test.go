package durable_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/drover/drover/durable"
)

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	require.NoError(t, durable.WriteFile(path, []byte("old"), 0o640))
	require.NoError(t, durable.WriteFile(path, []byte("new"), 0o600))
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "new", string(content))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	requireOnly(t, dir, "state")
}

// A write that cannot be done leaves what was there, and nothing beside it.
func TestWriteFileFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	require.NoError(t, os.Mkdir(path, 0o700)) // a folder cannot be replaced by a file
	require.NoError(t, os.WriteFile(filepath.Join(path, "kept"), nil, 0o600))
	require.ErrorContains(t, durable.WriteFile(path, []byte("new"), 0o600), path)
	requireOnly(t, dir, "state")
	require.FileExists(t, filepath.Join(path, "kept"))
	require.Error(t, durable.WriteFile(filepath.Join(dir, "missing", "state"), nil, 0o600))
}

func requireOnly(t *testing.T, dir, name string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1)
	require.Equal(t, name, entries[0].Name())
}
