package app

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/center/store/storetest"
)

// The network list is of the server that started last, and a list that cannot be read keeps it from starting.
func TestNetworkList(t *testing.T) {
	ctx := t.Context()
	url := storetest.URL(t)
	record, err := store.Open(ctx, url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = record.Close() })
	stored := func() (list string) {
		t.Helper()
		require.NoError(t, storetest.DB(t, url).QueryRowContext(ctx, `SELECT COALESCE(MAX(value), '') FROM settings WHERE name = 'vswitches'`).Scan(&list))
		return list
	}
	file := filepath.Join(t.TempDir(), "vswitches.json")
	config := ServerConfig{VSwitchesFile: file}
	require.ErrorContains(t, config.setVSwitches(ctx, record), file)
	require.NoError(t, os.WriteFile(file, []byte("vsw-1: vpc-1"), 0o600))
	require.ErrorContains(t, config.setVSwitches(ctx, record), "not a JSON object")
	require.NoError(t, os.WriteFile(file, []byte(`{"vsw-1": "vpc-1"}`), 0o600))
	require.NoError(t, config.setVSwitches(ctx, record))
	require.JSONEq(t, `{"vsw-1": "vpc-1"}`, stored())
	require.NoError(t, ServerConfig{}.setVSwitches(ctx, record))
	require.Empty(t, stored())
}
