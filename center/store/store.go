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
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pressly/goose/v3"
	"golang.org/x/sys/unix"
	_ "modernc.org/sqlite" // registers the database/sql driver "sqlite"
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
	db *sql.DB
	// writer admits one write transaction of this process at a time. SQLite has a single writer anyway; queueing
	// here is fair and wakes at once, its busy handler polls.
	writer chan struct{}
	now    func() time.Time
	// outboxChanged tells of commits that wrote to the outbox, workChanged of commits that gave a source's agent
	// something new to do.
	outboxChanged notifier
	workChanged   keyedNotifier
}

// Option changes how Open makes a Store.
type Option func(*Store)

// WithClock replaces time.Now, for tests.
func WithClock(now func() time.Time) Option { return func(s *Store) { s.now = now } }

// Open opens the database named by databaseURL and brings its schema up to date.
// The form is sqlite:///absolute/path; the file and its folder are made when absent.
func Open(ctx context.Context, databaseURL string, options ...Option) (*Store, error) {
	path, err := sqlitePath(databaseURL)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the database: %w", err)
	}
	query := url.Values{"_txlock": {"immediate"}, "_pragma": {
		"busy_timeout(15000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(ON)",
	}}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+query.Encode())
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	db.SetMaxOpenConns(8)
	db.SetMaxIdleConns(8)
	s := &Store{db: db, writer: make(chan struct{}, 1), now: time.Now, outboxChanged: newNotifier()}
	for _, option := range options {
		option(s)
	}
	if err := s.migrate(ctx, path+".migration"); err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("migrate database %s: %w", path, err)
	}
	return s, nil
}

func sqlitePath(databaseURL string) (string, error) {
	u, err := url.Parse(databaseURL)
	if err != nil {
		return "", fmt.Errorf("DATABASE_URL: %w", err)
	}
	if u.Scheme != "sqlite" || u.Host != "" || !filepath.IsAbs(u.Path) {
		return "", fmt.Errorf("DATABASE_URL %q: want sqlite:///absolute/path", u.Redacted())
	}
	return u.Path, nil
}

// migrate brings the schema up to date. Processes that open a database at the same moment take turns: SQLite lets a
// migration run in a transaction, but not two at once.
func (s *Store) migrate(ctx context.Context, lockPath string) error {
	lock, err := os.OpenFile(lockPath, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }() // and with it the lock
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", lockPath, err)
	}
	folder, err := fs.Sub(migrations, "migrations/sqlite")
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, s.db, folder)
	if err != nil {
		return err
	}
	_, err = provider.Up(ctx)
	return err
}

// Close closes the database.
func (s *Store) Close() error { return s.db.Close() }

// Ping reports whether the database answers.
func (s *Store) Ping(ctx context.Context) error { return s.db.PingContext(ctx) }

// OutboxChanged returns a channel that is closed at the next commit that wrote an event: of this process at once, of
// another one as soon as Follow sees it.
func (s *Store) OutboxChanged() <-chan struct{} { return s.outboxChanged.wait() }

// WorkChanged returns a channel that is closed at the next commit that changed what the agent of a source should do, and
// a function that ends the wait. A commit of another process is noticed as soon as Follow sees it.
func (s *Store) WorkChanged(sourceID string) (changed <-chan struct{}, done func()) {
	return s.workChanged.wait(sourceID)
}

// writeEvents runs fn, which writes events, in a write transaction, and wakes the relay.
func (s *Store) writeEvents(ctx context.Context, fn func(*sql.Tx) error) error {
	if err := s.write(ctx, fn); err != nil {
		return err
	}
	s.outboxChanged.notify()
	return nil
}

// write runs fn in a write transaction.
func (s *Store) write(ctx context.Context, fn func(*sql.Tx) error) error {
	select {
	case s.writer <- struct{}{}:
		defer func() { <-s.writer }()
	case <-ctx.Done():
		return ctx.Err()
	}
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	if err := fn(tx); err != nil {
		_ = tx.Rollback()
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// Setting returns the stored value of name; when there is none it stores what generate returns, once for all
// processes on the database.
func (s *Store) Setting(ctx context.Context, name string, generate func() string) (string, error) {
	var value string
	err := s.db.QueryRowContext(ctx, `SELECT value FROM settings WHERE name = ?`, name).Scan(&value)
	if err == nil || !errors.Is(err, sql.ErrNoRows) {
		return value, err
	}
	err = s.write(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING`, name, generate()); err != nil {
			return err
		}
		return tx.QueryRowContext(ctx, `SELECT value FROM settings WHERE name = ?`, name).Scan(&value)
	})
	return value, err
}

// DataPlaneKey returns the key that the center and the transition hosts sign session tokens and image tickets with.
// It is made at first use and lives in the database.
func (s *Store) DataPlaneKey(ctx context.Context) ([]byte, error) {
	value, err := s.Setting(ctx, "data_plane_key", func() string {
		key := make([]byte, 32)
		_, _ = rand.Read(key)
		return hex.EncodeToString(key)
	})
	if err != nil {
		return nil, fmt.Errorf("data plane key: %w", err)
	}
	return hex.DecodeString(value)
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
