package app

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/drover/drover/center/store"
)

func TestOpenRecord(t *testing.T) {
	dir := t.TempDir()
	c := Connections{DatabaseURL: "sqlite://" + filepath.Join(dir, "center.db"), SecretKeyFile: filepath.Join(dir, "secret.key")}
	core, logs := observer.New(zap.WarnLevel)
	log := zap.New(core)
	_, err := c.openRecord(t.Context(), log)
	require.ErrorContains(t, err, c.SecretKeyFile+" does not exist")
	require.NoFileExists(t, filepath.Join(dir, "center.db"), "nothing is made without a key")

	require.NoError(t, store.MakeKeyFile(c.SecretKeyFile))
	record, err := c.openRecord(t.Context(), log)
	require.NoError(t, err)
	require.NoError(t, record.PutAccessKey(t.Context(), store.AccessKey{AccessKeyID: "ak", Secret: "secret", AccountID: "1"}))
	require.NoError(t, record.Close())
	require.Zero(t, logs.Len())

	require.NoError(t, os.Chmod(c.SecretKeyFile, 0o644))
	record, err = c.openRecord(t.Context(), log)
	require.NoError(t, err)
	require.NoError(t, record.Close())
	require.Equal(t, 1, logs.FilterMessageSnippet("chmod 0600").Len())

	require.NoError(t, os.Remove(c.SecretKeyFile))
	require.NoError(t, store.MakeKeyFile(c.SecretKeyFile))
	_, err = c.openRecord(t.Context(), log)
	require.ErrorIs(t, err, store.ErrNotOpened)
}
