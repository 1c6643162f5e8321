package temporalserver

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"
)

// What a crash leaves behind while a database is made must never be taken for one.
func TestHalfMadeDatabaseIsReplaced(t *testing.T) {
	ns := namespace{name: DefaultNamespace, retention: time.Hour}
	for name, leave := range map[string]func(t *testing.T, dir string){
		"before the stamp": func(t *testing.T, dir string) {
			t.Helper()
			require.NoError(t, os.WriteFile(filepath.Join(dir, databaseFile), []byte("half"), 0o600))
		},
		"an empty stamp": func(t *testing.T, dir string) {
			t.Helper()
			require.NoError(t, os.WriteFile(filepath.Join(dir, databaseFile), []byte("half"), 0o600))
			require.NoError(t, os.WriteFile(filepath.Join(dir, versionFile), nil, 0o600))
		},
		"a stamp without a database": func(t *testing.T, dir string) {
			t.Helper()
			require.NoError(t, writeStamp(dir))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			leave(t, dir)
			db := databaseConfig(filepath.Join(dir, databaseFile))
			requireFresh := func(want bool) {
				t.Helper()
				require.NoError(t, prepareDatabase(dir, db, ns, zaptest.NewLogger(t)))
				fresh, err := Fresh(dir)
				require.NoError(t, err)
				assert.Equal(t, want, fresh)
			}
			requireFresh(true)
			requireFresh(true) // over restarts, until what that means is done
			require.NoError(t, Settle(dir))
			requireFresh(false)
		})
	}
}

func TestMovedDatabaseKeepsItsLog(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	for _, suffix := range []string{"", "-wal"} {
		require.NoError(t, os.WriteFile(from+suffix, []byte("x"+suffix), 0o600))
	}
	require.NoError(t, moveDatabase(from, to))
	for _, suffix := range []string{"", "-wal"} {
		content, err := os.ReadFile(to + suffix)
		require.NoError(t, err)
		assert.Equal(t, "x"+suffix, string(content))
		assert.NoFileExists(t, from+suffix)
	}
}
