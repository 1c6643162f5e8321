// Package store is the center's record: what the API reads, where uniqueness is held, and the outbox of events.
//
// A change of a job or source and the event that tells of it are written in one transaction (DESIGN: one
// transition, one record, one event). Every transition carries a key chosen by its caller, so that a retried
// activity finds its own write and does not repeat it.
package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"strings"
	"time"
)

//go:embed migrations
var migrations embed.FS

// ErrNotFound is returned when a row asked for by id does not exist.
var ErrNotFound = errors.New("not found")

// ErrSuperseded is returned by a transition whose job is no longer in the state the caller set out from: something
// else (Stop, Delete, another attempt of the run) moved the job first. The caller must not act further.
var ErrSuperseded = errors.New("superseded: the job was moved by another operation")

// Store is the center's database. It is safe for concurrent use, also by several processes on one database.
type Store struct {
	db     *database
	now    func() time.Time
	sealer *Sealer // nil: secrets are stored plain
	// outboxChanged tells of commits that wrote to the outbox, workChanged of commits that gave a source's agent
	// or a target instance something new to do.
	outboxChanged notifier
	workChanged   keyedNotifier
	observer      Observer // nil: none
}

// Option changes how Open makes a Store.
type Option func(*Store)

// WithClock replaces time.Now, for tests.
func WithClock(now func() time.Time) Option { return func(s *Store) { s.now = now } }

// Open opens the database named by databaseURL and brings its schema and its secrets up to date: sqlite:///absolute/path, whose file and
// folder are made when absent, or postgres://user:password@host:port/database. Error: ErrNotOpened.
func Open(ctx context.Context, databaseURL string, options ...Option) (*Store, error) {
	return openWithin(ctx, databaseURL, serverLimits, options...)
}

// openWithin is Open with limits of the caller's.
func openWithin(ctx context.Context, databaseURL string, within limits, options ...Option) (*Store, error) {
	db, err := open(databaseURL, holdRecord, func(o *postgresOptions) { o.limits = within })
	if err != nil {
		return nil, err
	}
	s := &Store{db: db, now: time.Now, outboxChanged: newNotifier()}
	for _, option := range options {
		option(s)
	}
	if err := s.migrate(ctx); err != nil {
		_ = db.Close()
		return nil, err
	}
	return s, nil
}

func (s *Store) migrate(ctx context.Context) error {
	provider, unlock, err := s.db.provider(s.db.DB)
	if err != nil {
		return fmt.Errorf("bring the database's schema up to date: %w", err)
	}
	defer unlock()
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("bring the database's schema up to date: %w", err)
	}
	return s.sealSecrets(ctx)
}

// migrationsOf returns the schema's history for a database.
func migrationsOf(name string) fs.FS {
	folder, err := fs.Sub(migrations, "migrations/"+name)
	if err != nil {
		panic(err) // the folder is embedded
	}
	return folder
}

// Close closes the database.
func (s *Store) Close() error { return s.db.Close() }

// Ping reports whether the database answers.
func (s *Store) Ping(ctx context.Context) error { return s.db.PingContext(ctx) }

// OutboxChanged returns a channel that is closed at the next commit that wrote an event: of this process at once, of
// another one as soon as Follow sees it.
func (s *Store) OutboxChanged() <-chan struct{} { return s.outboxChanged.wait() }

// WorkChanged returns a channel that is closed at the next commit that changed what the agent of a source server, or a target instance, should
// do, and a function that ends the wait. A commit of another process is noticed as soon as Follow sees it.
func (s *Store) WorkChanged(id string) (changed <-chan struct{}, done func()) {
	return s.workChanged.wait(id)
}

// writeEvents runs fn, which writes events, in a write transaction, and wakes the relay.
func (s *Store) writeEvents(ctx context.Context, fn func(*transaction) error) error {
	if err := s.write(ctx, fn); err != nil {
		return err
	}
	s.outboxChanged.notify()
	return nil
}

// write runs fn in a write transaction; it may run several times.
func (s *Store) write(ctx context.Context, fn func(*transaction) error) error {
	return s.db.write(ctx, fn)
}

// DataPlaneKey returns the key that the center and the transition hosts sign session tokens and image tickets with.
// It is made at first use and lives in the database, sealed. Error: ErrNotOpened.
func (s *Store) DataPlaneKey(ctx context.Context) ([]byte, error) {
	value, err := s.secretSetting(ctx, dataPlaneKeyName, func() (string, error) {
		key := make([]byte, 32)
		_, _ = rand.Read(key)
		return hex.EncodeToString(key), nil
	})
	if err != nil {
		return nil, fmt.Errorf("data plane key: %w", err)
	}
	return hex.DecodeString(value)
}

// CertificateAuthorities returns the center's own certificate authorities with their keys, in the form generate gives
// them; when there are none it stores what generate returns. They live in the database, sealed. Error: ErrNotOpened.
func (s *Store) CertificateAuthorities(ctx context.Context, generate func() (string, error)) (string, error) {
	value, err := s.secretSetting(ctx, certificateAuthoritiesName, generate)
	if err != nil {
		return "", fmt.Errorf("certificate authorities: %w", err)
	}
	return value, nil
}

// ChangeCertificateAuthorities replaces the center's certificate authorities by what change makes of them. It makes
// none where there are none. Error: ErrNotFound.
func (s *Store) ChangeCertificateAuthorities(ctx context.Context, change func(string) (string, error)) error {
	place := secretPlace{settingValue, certificateAuthoritiesName}
	err := s.write(ctx, func(tx *transaction) error {
		stored, ok, err := readSetting(ctx, tx, place.row)
		if err != nil {
			return err
		}
		if !ok {
			return ErrNotFound
		}
		value, err := s.unseal(place, stored)
		if err != nil {
			return err
		}
		if value, err = change(value); err != nil {
			return err
		}
		if stored, err = s.seal(place, value); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, updateSecret[settingValue], stored, place.row)
		return err
	})
	if err != nil {
		return fmt.Errorf("change the certificate authorities: %w", err)
	}
	return nil
}

// NewID returns a new resource id: the prefix ("j", "s", "m", "at", "i"), a hyphen and 18 lower-case base-36 digits
// from crypto/rand (93 bits: ids are never reused).
func NewID(prefix string) string {
	const digits = "0123456789abcdefghijklmnopqrstuvwxyz"
	var b strings.Builder
	b.WriteString(prefix)
	b.WriteByte('-')
	limit := big.NewInt(int64(len(digits)))
	for range 18 {
		n, err := rand.Int(rand.Reader, limit)
		if err != nil {
			panic(err) // crypto/rand does not fail on the platforms Go supports
		}
		b.WriteByte(digits[n.Int64()])
	}
	return b.String()
}

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

func rowsAffected(result sql.Result, err error) (int64, error) {
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}
