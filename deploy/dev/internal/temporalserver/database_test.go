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
			fresh, err := prepareDatabase(dir, db, ns, zaptest.NewLogger(t))
			require.NoError(t, err)
			assert.True(t, fresh)

			// It stays fresh over restarts until what that means is done.
			fresh, err = prepareDatabase(dir, db, ns, zaptest.NewLogger(t))
			require.NoError(t, err)
			assert.True(t, fresh)
			require.NoError(t, (&Server{dir: dir, fresh: true}).Settle())
			fresh, err = prepareDatabase(dir, db, ns, zaptest.NewLogger(t))
			require.NoError(t, err)
			assert.False(t, fresh)
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
