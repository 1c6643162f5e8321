package store

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/drover/drover/durable"
)

// secretKeySize is the size of a key in bytes: AES-256.
const secretKeySize = 32

// sealedPrefix marks a sealed value: sealed:v1:KEY:DATA. KEY names the key, DATA is base64 of the nonce and what AES-GCM
// made of the text. A value without the prefix is plain.
const sealedPrefix = "sealed:v1:"

// ErrNotOpened is returned when a secret of the database cannot be opened with the keys at hand.
var ErrNotOpened = errors.New("a secret in the database cannot be opened")

// Sealer encrypts what is secret in the database, with keys that are kept elsewhere. The first key seals, all open.
type Sealer struct {
	keys []sealingKey
}

type sealingKey struct {
	id   string // tells keys apart, and tells nothing of the key
	aead cipher.AEAD
}

// NewSealer makes a Sealer of one or more keys of 32 bytes.
func NewSealer(keys ...[]byte) (*Sealer, error) {
	if len(keys) == 0 {
		return nil, errors.New("no secret key is given")
	}
	s := &Sealer{}
	for i, key := range keys {
		if len(key) != secretKeySize {
			return nil, fmt.Errorf("secret key %d has %d bytes, want %d", i+1, len(key), secretKeySize)
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, err
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return nil, err
		}
		name := hmac.New(sha256.New, key)
		name.Write([]byte("drover: name of a secret key"))
		s.keys = append(s.keys, sealingKey{id: hex.EncodeToString(name.Sum(nil)[:4]), aead: aead})
	}
	return s, nil
}

// LoadSealer reads a key file: a key a line, 32 bytes in base64 or hexadecimal; empty lines and those that begin with #
// do not count. The first key seals, all open.
func LoadSealer(path string) (*Sealer, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the secret key file %s does not exist: put the center's key there; for a new center make one with: openssl rand -base64 32 > %[1]s", path)
	}
	if err != nil {
		return nil, fmt.Errorf("read the secret key file: %w", err)
	}
	var keys [][]byte
	n := 0
	for line := range bytes.Lines(text) {
		n++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		key, err := decodeKey(string(line))
		if err != nil { // it may hold part of a key: the message shows nothing of it
			return nil, fmt.Errorf("the secret key file %s, line %d: want %d bytes in base64 or hexadecimal, as openssl rand -base64 %[3]d makes them", path, n, secretKeySize)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("the secret key file %s holds no key: put the center's key there; for a new center make one with: openssl rand -base64 32 > %[1]s", path)
	}
	return NewSealer(keys...)
}

func decodeKey(text string) ([]byte, error) {
	var key []byte
	var err error
	if len(text) == hex.EncodedLen(secretKeySize) {
		key, err = hex.DecodeString(text)
	} else {
		key, err = base64.StdEncoding.DecodeString(text)
	}
	if err == nil && len(key) != secretKeySize {
		err = errors.New("of another size")
	}
	return key, err
}

// MakeKeyFile makes a key file with a new key at path, readable by its owner only, unless there is a file already.
func MakeKeyFile(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	key := make([]byte, secretKeySize)
	_, _ = rand.Read(key)
	return durable.WriteFile(path, []byte(base64.StdEncoding.EncodeToString(key)+"\n"), 0o600)
}

// WithSealer has what is secret in the database sealed. Open then seals what is plain, and what is sealed with another
// key than the first. Without a Sealer secrets are stored plain, and a database with sealed ones does not open.
func WithSealer(sealer *Sealer) Option { return func(s *Store) { s.sealer = sealer } }

// secretPlace says where in the database a secret is.
type secretPlace struct {
	column string // accessKeySecret or settingValue
	row    string // the row's primary key
}

const (
	accessKeySecret = "access_keys.secret"
	settingValue    = "settings.value"
)

// The settings that are secret.
const (
	dataPlaneKeyName           = "data_plane_key"
	certificateAuthoritiesName = "certificate_authorities"
)

func (p secretPlace) String() string { return p.column + " of " + p.row }

// bound is authenticated with a secret: moved to another place it does not open.
func (p secretPlace) bound() []byte { return []byte(p.column + "\x00" + p.row) }

// seal returns a secret as it is stored.
func (s *Store) seal(place secretPlace, text string) (string, error) {
	if s.sealer == nil {
		if strings.HasPrefix(text, sealedPrefix) {
			return "", fmt.Errorf("%v: a secret must not begin with %s", place, sealedPrefix)
		}
		return text, nil
	}
	key := s.sealer.keys[0]
	nonce := make([]byte, key.aead.NonceSize())
	_, _ = rand.Read(nonce)
	return sealedPrefix + key.id + ":" + base64.StdEncoding.EncodeToString(key.aead.Seal(nonce, nonce, []byte(text), place.bound())), nil
}

// unseal returns what seal was given. Error: ErrNotOpened.
func (s *Store) unseal(place secretPlace, stored string) (string, error) {
	sealed, ok := strings.CutPrefix(stored, sealedPrefix)
	switch {
	case s.sealer == nil && ok:
		return "", fmt.Errorf("%w: %v is sealed, and no key is given: set DROVER_SECRET_KEY_FILE to the center's key file", ErrNotOpened, place)
	case s.sealer == nil:
		return stored, nil
	case !ok: // Open has sealed all there were
		return "", fmt.Errorf("%w: %v was written without sealing it: make sure that every process of the center has the key file, and start this one again", ErrNotOpened, place)
	}
	id, data, _ := strings.Cut(sealed, ":")
	known := false
	for _, key := range s.sealer.keys {
		if key.id != id {
			continue
		}
		known = true
		raw, err := base64.StdEncoding.DecodeString(data)
		if err != nil || len(raw) < key.aead.NonceSize() {
			break
		}
		if text, err := key.aead.Open(nil, raw[:key.aead.NonceSize()], raw[key.aead.NonceSize():], place.bound()); err == nil {
			return string(text), nil
		}
	}
	if !known {
		return "", fmt.Errorf("%w: %v is sealed with the key %q, and the key file holds %s: give the key file the center was run with, or add that key to it; docs/access.md says what to do when it is lost",
			ErrNotOpened, place, id, s.sealer.names())
	}
	return "", fmt.Errorf("%w: %v is damaged, or belongs to another row", ErrNotOpened, place)
}

func (s *Sealer) names() string {
	names := make([]string, len(s.keys))
	for i, key := range s.keys {
		names[i] = fmt.Sprintf("%q", key.id)
	}
	return strings.Join(names, ", ")
}

// current reports whether a stored value is sealed with the key that seals.
func (s *Sealer) current(stored string) bool {
	return strings.HasPrefix(stored, sealedPrefix+s.keys[0].id+":")
}

const selectSecrets = `SELECT '` + accessKeySecret + `', access_key_id, secret FROM access_keys
	UNION ALL SELECT '` + settingValue + `', name, value FROM settings WHERE name IN ('` + dataPlaneKeyName + `', '` + certificateAuthoritiesName + `')`

var updateSecret = map[string]string{
	accessKeySecret: `UPDATE access_keys SET secret = ? WHERE access_key_id = ?`,
	settingValue:    `UPDATE settings SET value = ? WHERE name = ?`,
}

// scrubSetting is there from the sealing of a plain secret until the database's files are free of the plain text.
const scrubSetting = "scrub_plain_secrets"

// sealSecrets seals what is plain or sealed with an old key, all of it or nothing, and fails when a secret cannot be opened.
func (s *Store) sealSecrets(ctx context.Context) error {
	var scrub int
	err := s.write(ctx, func(tx *transaction) error {
		stored, err := storedSecrets(ctx, tx)
		if err != nil {
			return err
		}
		for place, value := range stored {
			text, plain := value, !strings.HasPrefix(value, sealedPrefix)
			if !plain {
				if text, err = s.unseal(place, value); err != nil {
					return err
				}
			}
			if s.sealer == nil || s.sealer.current(value) {
				continue
			}
			sealed, err := s.seal(place, text)
			if err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, updateSecret[place.column], sealed, place.row); err != nil {
				return err
			}
			if !plain {
				continue
			}
			if _, err := tx.ExecContext(ctx, `INSERT INTO settings (name, value) VALUES (?, '') ON CONFLICT DO NOTHING`, scrubSetting); err != nil {
				return err
			}
		}
		return tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM settings WHERE name = ?`, scrubSetting).Scan(&scrub)
	})
	if err != nil || scrub == 0 {
		return err
	}
	if err := s.db.scrub(ctx, s.db.DB); err != nil {
		return fmt.Errorf("secrets were sealed, but their plain text may still be in the database's files: stop all processes of the center, then start one: %w", err)
	}
	return s.write(ctx, func(tx *transaction) error {
		return deleteSetting(ctx, tx, scrubSetting)
	})
}

func storedSecrets(ctx context.Context, tx *transaction) (map[secretPlace]string, error) {
	rows, err := tx.QueryContext(ctx, selectSecrets)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	stored := map[secretPlace]string{}
	for rows.Next() {
		var place secretPlace
		var value string
		if err := rows.Scan(&place.column, &place.row, &value); err != nil {
			return nil, err
		}
		stored[place] = value
	}
	return stored, rows.Err()
}
