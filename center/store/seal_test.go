package store

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/drover/drover/center/store/storetest"
)

// theSecret is looked for in the files of databases.
const theSecret = "S3cretOfTheAccessKeyThatNobodyMayRead"

func secretKey(t *testing.T) []byte {
	t.Helper()
	key := make([]byte, secretKeySize)
	_, err := rand.Read(key)
	require.NoError(t, err)
	return key
}

func sealerOf(t *testing.T, keys ...[]byte) *Sealer {
	t.Helper()
	sealer, err := NewSealer(keys...)
	require.NoError(t, err)
	return sealer
}

// openSealed opens a database as a process with these keys does; without keys it seals nothing.
func openSealed(t *testing.T, url string, keys ...[]byte) (*Store, error) {
	t.Helper()
	var sealer *Sealer
	if len(keys) > 0 {
		sealer = sealerOf(t, keys...)
	}
	s, err := Open(t.Context(), url, WithSealer(sealer))
	if err == nil {
		t.Cleanup(func() { assert.NoError(t, s.Close()) })
	}
	return s, err
}

func mustOpenSealed(t *testing.T, url string, keys ...[]byte) *Store {
	t.Helper()
	s, err := openSealed(t, url, keys...)
	require.NoError(t, err)
	return s
}

// putSecrets stores what is secret and returns the data plane key.
func putSecrets(t *testing.T, s *Store) []byte {
	t.Helper()
	require.NoError(t, s.PutAccessKey(t.Context(), AccessKey{AccessKeyID: "first", Secret: theSecret, AccountID: account}))
	require.NoError(t, s.CreateAccessKey(t.Context(), AccessKey{AccessKeyID: "second", Secret: theSecret + "2", AccountID: account}))
	_, err := s.CertificateAuthorities(t.Context(), func() (string, error) { return theSecret + "3", nil })
	require.NoError(t, err)
	key, err := s.DataPlaneKey(t.Context())
	require.NoError(t, err)
	return key
}

func requireSecrets(t *testing.T, s *Store, dataPlaneKey []byte) {
	t.Helper()
	for id, secret := range map[string]string{"first": theSecret, "second": theSecret + "2"} {
		key, err := s.AccessKey(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, secret, key.Secret)
	}
	got, err := s.DataPlaneKey(t.Context())
	require.NoError(t, err)
	require.Equal(t, dataPlaneKey, got)
	authorities, err := s.CertificateAuthorities(t.Context(), func() (string, error) { return "", errors.New("they are there") })
	require.NoError(t, err)
	require.Equal(t, theSecret+"3", authorities)
}

// stored returns the secrets as they are stored, by their places.
func stored(t *testing.T, s *Store) map[secretPlace]string {
	t.Helper()
	var values map[secretPlace]string
	require.NoError(t, s.write(t.Context(), func(tx *transaction) (err error) {
		values, err = storedSecrets(t.Context(), tx)
		return err
	}))
	return values
}

func requireScrubbed(t *testing.T, s *Store) {
	t.Helper()
	var left int
	require.NoError(t, s.db.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM settings WHERE name = ?`, scrubSetting).Scan(&left))
	require.Zero(t, left)
}

// files returns all that the database keeps on disk: its file and its log of writes. Of PostgreSQL it is what a dump has.
func files(t *testing.T, url string) []byte {
	t.Helper()
	var all []byte
	if storetest.Postgres() {
		rows, err := storetest.DB(t, url).QueryContext(t.Context(), selectSecrets)
		require.NoError(t, err)
		defer func() { require.NoError(t, rows.Close()) }()
		for rows.Next() {
			var column, row, value string
			require.NoError(t, rows.Scan(&column, &row, &value))
			all = append(all, value+"\n"...)
		}
		require.NoError(t, rows.Err())
		return all
	}
	names, err := filepath.Glob(strings.TrimPrefix(url, "sqlite://") + "*")
	require.NoError(t, err)
	for _, name := range names {
		content, err := os.ReadFile(name)
		require.NoError(t, err)
		all = append(all, content...)
	}
	return all
}

// holdSecrets reports whether any secret can be read in the files.
func holdSecrets(content, dataPlaneKey []byte) bool {
	return bytes.Contains(content, []byte(theSecret)) || bytes.Contains(content, dataPlaneKey) ||
		bytes.Contains(content, []byte(hex.EncodeToString(dataPlaneKey)))
}

func TestSecretsAreNotInTheFiles(t *testing.T) {
	url, key := storetest.URL(t), secretKey(t)
	s := mustOpenSealed(t, url, key)
	dataPlaneKey := putSecrets(t, s)
	content := files(t, url)
	require.GreaterOrEqual(t, bytes.Count(content, []byte(sealedPrefix+s.sealer.keys[0].id+":")), 3, "what is looked for is where it is looked for")
	require.False(t, holdSecrets(content, dataPlaneKey))
	requireSecrets(t, s, dataPlaneKey)

	// Sealed again it differs: nothing shows that two are the same.
	before := stored(t, s)
	require.NoError(t, s.PutAccessKey(t.Context(), AccessKey{AccessKeyID: "first", Secret: theSecret, AccountID: account}))
	first := secretPlace{accessKeySecret, "first"}
	require.NotEqual(t, before[first], stored(t, s)[first])
}

// A database of a version that did not seal is sealed by the first process that opens it, and nothing of the plain text is left in its files.
func TestPlainSecretsAreSealed(t *testing.T) {
	url, key := storetest.URL(t), secretKey(t)
	plain := mustOpenSealed(t, url)
	dataPlaneKey := putSecrets(t, plain)
	for range 3 { // old versions of the row, in the file and in the log of writes
		require.NoError(t, plain.PutAccessKey(t.Context(), AccessKey{AccessKeyID: "first", Secret: theSecret + "0", AccountID: account}))
		require.NoError(t, plain.PutAccessKey(t.Context(), AccessKey{AccessKeyID: "first", Secret: theSecret, AccountID: account}))
	}
	requireSecrets(t, plain, dataPlaneKey)
	require.True(t, holdSecrets(files(t, url), dataPlaneKey))

	var group errgroup.Group // processes that start at the same time
	for range 4 {
		group.Go(func() error {
			s, err := openSealed(t, url, key)
			if err != nil {
				return err
			}
			_, err = s.AccessKey(t.Context(), "first")
			return err
		})
	}
	require.NoError(t, group.Wait())
	require.False(t, holdSecrets(files(t, url), dataPlaneKey))
	s := mustOpenSealed(t, url, key)
	requireScrubbed(t, s)
	requireSecrets(t, s, dataPlaneKey)
	sealed := stored(t, s)
	require.Equal(t, sealed, stored(t, mustOpenSealed(t, url, key)), "opening it again changes nothing")

	_, err := plain.AccessKey(t.Context(), "first")
	require.ErrorIs(t, err, ErrNotOpened, "the old process cannot go on")
	_, err = openSealed(t, url)
	require.ErrorIs(t, err, ErrNotOpened)
	require.ErrorContains(t, err, "DROVER_SECRET_KEY_FILE")
}

// A process that sealed, and was killed before it had removed the plain text, is made up for by the next one.
func TestPlainTextIsRemovedAtTheNextStart(t *testing.T) {
	url, key := storetest.URL(t), secretKey(t)
	dataPlaneKey := putSecrets(t, mustOpenSealed(t, url))
	s := mustOpenSealed(t, url, key)
	place := secretPlace{accessKeySecret, "first"}
	set := func(value string) {
		require.NoError(t, s.write(t.Context(), func(tx *transaction) error {
			_, err := tx.ExecContext(t.Context(), updateSecret[place.column], value, place.row)
			return err
		}))
	}
	sealed := stored(t, s)[place]
	set(theSecret)
	set(sealed)
	require.NoError(t, s.write(t.Context(), func(tx *transaction) error {
		_, err := tx.ExecContext(t.Context(), `INSERT INTO settings (name, value) VALUES (?, '')`, scrubSetting)
		return err
	}))
	require.True(t, storetest.Postgres() || holdSecrets(files(t, url), dataPlaneKey))

	s = mustOpenSealed(t, url, key)
	requireScrubbed(t, s)
	requireSecrets(t, s, dataPlaneKey)
	require.False(t, holdSecrets(files(t, url), dataPlaneKey))
}

func TestWrongSecretKey(t *testing.T) {
	url, key, other := storetest.URL(t), secretKey(t), secretKey(t)
	s := mustOpenSealed(t, url, key)
	dataPlaneKey := putSecrets(t, s)
	_, err := openSealed(t, url, other)
	require.ErrorIs(t, err, ErrNotOpened)
	require.ErrorContains(t, err, s.sealer.keys[0].id, "which key it wants")
	require.ErrorContains(t, err, sealerOf(t, other).keys[0].id, "which key there is")
	requireSecrets(t, s, dataPlaneKey)

	// Two processes that make a new database with different keys: one of them learns of it.
	url = storetest.URL(t)
	first, second := mustOpenSealed(t, url, key), mustOpenSealed(t, url, other)
	_, err = first.DataPlaneKey(t.Context())
	require.NoError(t, err)
	_, err = second.DataPlaneKey(t.Context())
	require.ErrorIs(t, err, ErrNotOpened)
}

func TestSecretKeyRotation(t *testing.T) {
	url, old, next := storetest.URL(t), secretKey(t), secretKey(t)
	running := mustOpenSealed(t, url, old, next) // first every process learns of the new key
	dataPlaneKey := putSecrets(t, running)
	rotated := mustOpenSealed(t, url, next, old) // then it is the one that seals
	requireSecrets(t, rotated, dataPlaneKey)
	requireSecrets(t, running, dataPlaneKey)
	requireSecrets(t, mustOpenSealed(t, url, next), dataPlaneKey) // then the old one may go
	_, err := openSealed(t, url, old)
	require.ErrorIs(t, err, ErrNotOpened)
}

// Who can write the database cannot make a secret of his own that of another key.
func TestSealedSecretsStayWhereTheyAre(t *testing.T) {
	url, key := storetest.URL(t), secretKey(t)
	s := mustOpenSealed(t, url, key)
	putSecrets(t, s)
	db := storetest.DB(t, url)
	for _, statement := range []string{
		`UPDATE access_keys SET secret = (SELECT secret FROM access_keys WHERE access_key_id = 'second') WHERE access_key_id = 'first'`,
		`UPDATE access_keys SET secret = (SELECT value FROM settings WHERE name = 'data_plane_key') WHERE access_key_id = 'first'`,
		`UPDATE access_keys SET secret = 'known' WHERE access_key_id = 'first'`,
		`UPDATE access_keys SET secret = 'sealed:v1:' WHERE access_key_id = 'first'`,
		`UPDATE access_keys SET secret = 'sealed:v1:` + s.sealer.keys[0].id + `:AAAA' WHERE access_key_id = 'first'`,
		`UPDATE access_keys SET secret = 'sealed:v1:` + s.sealer.keys[0].id + `:%' WHERE access_key_id = 'first'`,
	} {
		_, err := db.ExecContext(t.Context(), statement)
		require.NoError(t, err)
		_, err = s.AccessKey(t.Context(), "first")
		require.ErrorIs(t, err, ErrNotOpened, statement)
		require.NotContains(t, err.Error(), "known")
	}
}

// What docs/access.md says of a lost key.
func TestLostSecretKey(t *testing.T) {
	url := storetest.URL(t)
	putSecrets(t, mustOpenSealed(t, url, secretKey(t)))
	for _, statement := range []string{`DELETE FROM access_keys`, `DELETE FROM settings WHERE name IN ('data_plane_key', 'certificate_authorities')`} {
		_, err := storetest.DB(t, url).ExecContext(t.Context(), statement)
		require.NoError(t, err)
	}
	s := mustOpenSealed(t, url, secretKey(t))
	requireSecrets(t, s, putSecrets(t, s))
}

func TestPlainSecretLikeASealedOne(t *testing.T) {
	key := AccessKey{AccessKeyID: "ak", Secret: "sealed:v1:mine", AccountID: account}
	require.ErrorContains(t, mustOpenSealed(t, storetest.URL(t)).PutAccessKey(t.Context(), key), "must not begin")
	s := mustOpenSealed(t, storetest.URL(t), secretKey(t))
	require.NoError(t, s.PutAccessKey(t.Context(), key))
	got, err := s.AccessKey(t.Context(), "ak")
	require.NoError(t, err)
	require.Equal(t, key.Secret, got.Secret)
}

// sealedEnv names the key file and the database of the process of TestTwoProcessesSeal.
const sealedEnv = "DROVER_TEST_SEALED_DATABASE"

func TestTwoProcessesSeal(t *testing.T) {
	if what := os.Getenv(sealedEnv); what != "" {
		keyFile, url, _ := strings.Cut(what, " ")
		sealer, err := LoadSealer(keyFile)
		require.NoError(t, err)
		s, err := Open(t.Context(), url, WithSealer(sealer))
		require.NoError(t, err)
		putSecrets(t, s)
		require.NoError(t, s.Close())
		return
	}
	url, keyFile := storetest.URL(t), filepath.Join(t.TempDir(), "secret.key")
	require.NoError(t, MakeKeyFile(keyFile))
	sealer, err := LoadSealer(keyFile)
	require.NoError(t, err)
	s, err := Open(t.Context(), url, WithSealer(sealer))
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	dataPlaneKey, err := s.DataPlaneKey(t.Context())
	require.NoError(t, err)
	command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestTwoProcessesSeal$")
	command.Env = append(os.Environ(), sealedEnv+"="+keyFile+" "+url)
	out, err := command.CombinedOutput()
	require.NoError(t, err, string(out))
	requireSecrets(t, s, dataPlaneKey)
}

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret.key")
	_, err := LoadSealer(path)
	require.ErrorContains(t, err, "openssl rand -base64 32 > "+path)

	first, second := secretKey(t), secretKey(t)
	require.NoError(t, os.WriteFile(path, []byte("# made in May\n"+base64.StdEncoding.EncodeToString(first)+"\r\n\n  "+hex.EncodeToString(second)+"\n"), 0o600))
	sealer, err := LoadSealer(path)
	require.NoError(t, err)
	require.Equal(t, sealerOf(t, first, second).names(), sealer.names())

	require.NoError(t, MakeKeyFile(path))
	again, err := LoadSealer(path)
	require.NoError(t, err)
	require.Equal(t, sealer.names(), again.names(), "a file that is there stays")

	for _, text := range []string{"", "\n# none\n", "c2hvcnQ=", strings.Repeat("zz", 32), "not base64", base64.StdEncoding.EncodeToString(append(first, 1))} {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		_, err = LoadSealer(path)
		require.ErrorContains(t, err, path, text)
		if text = strings.TrimSpace(text); text != "" && text[0] != '#' {
			require.NotContains(t, err.Error(), text)
			require.ErrorContains(t, err, "line 1")
		}
	}

	made := filepath.Join(t.TempDir(), "made.key")
	require.NoError(t, MakeKeyFile(made))
	info, err := os.Stat(made)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
	_, err = LoadSealer(made)
	require.NoError(t, err)

	_, err = NewSealer()
	require.Error(t, err)
	_, err = NewSealer(first[:16])
	require.ErrorContains(t, err, "16 bytes")
}

func TestCertificateAuthoritiesChange(t *testing.T) {
	s := mustOpenSealed(t, storetest.URL(t), secretKey(t))
	change := func(old string) (string, error) { return old + "+", nil }
	require.ErrorIs(t, s.ChangeCertificateAuthorities(t.Context(), change), ErrNotFound, "there are none")
	putSecrets(t, s)
	require.NoError(t, s.ChangeCertificateAuthorities(t.Context(), change))
	require.ErrorContains(t, s.ChangeCertificateAuthorities(t.Context(), func(string) (string, error) { return "", errors.New("no") }), "no")
	got, err := s.CertificateAuthorities(t.Context(), nil)
	require.NoError(t, err)
	require.Equal(t, theSecret+"3+", got)
	for place, value := range stored(t, s) {
		require.True(t, s.sealer.current(value), "%v is sealed", place)
	}
}
