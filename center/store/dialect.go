package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
	"golang.org/x/sys/unix"
	_ "modernc.org/sqlite" // registers the database/sql driver "sqlite"
)

// The tables that count what agents have to learn (nextChange).
const (
	syncSessions = "sync_sessions"
	deliveries   = "deliveries"
)

// dialect is what differs between the databases. Statements are written for both, with ? for arguments.
type dialect interface {
	// rebind gives a statement the arguments' form of the database.
	rebind(query string) string
	// greatest is the larger of two expressions.
	greatest(a, b string) string
	// clock is the database's time in Unix milliseconds.
	clock() string
	// nextChange numbers a change in one of the tables that count what agents have to learn.
	nextChange(table string) string
	// wholeJob is the expression of wholeJob.
	wholeJob() string
	// changedJobs finds those jobs j of a page that are not as they are known, or may not be: known are the revisions of its jobs, and
	// unknownRevision of those that are not known.
	changedJobs(accountID string, page *JobPage, known []int64) *conditions
	// changedSince is Store.ChangedJobs.
	changedSince(ctx context.Context, from reader, accountID string, since JobsSeen) (now JobsSeen, changed []JobMark, all bool, err error)
	// start begins a transaction.
	start(ctx context.Context, db *sql.DB, prepared *statements, options *sql.TxOptions) (session, error)
	// limit bounds one question to the database, until done is called.
	limit(ctx context.Context) (limited context.Context, done context.CancelFunc)
	// begin are the options of a write transaction.
	begin() *sql.TxOptions
	// takeTurn has a write transaction wait for those that took the turn of its argument before, and forUpdate, behind a SELECT, for those
	// that write the row; both are empty where a write transaction has no other beside it anyway.
	takeTurn() string
	forUpdate() string
	// takeRecord tells a transaction whether nobody has the record open, and has who opens it then wait until the transaction ends; empty where
	// that is not known.
	takeRecord() string
	// conflict reports whether a transaction failed only because of another one, so that it is to be run again.
	conflict(err error) bool
	// provider makes what brings the schema up to date; unlock is called afterwards.
	provider(db *sql.DB) (provider *goose.Provider, unlock func(), err error)
	// scrub rewrites the database's files, so that nothing is left in them of what was there before.
	scrub(ctx context.Context, db *sql.DB) error
}

// option is how a database of PostgreSQL is opened.
type option func(*postgresOptions)

type postgresOptions struct {
	holdRecord bool
	limits     limits
}

// holdRecord has every connection hold the lock of the record, for who uses it: nobody restores another one into the database meanwhile, and
// while that is done the connection waits.
func holdRecord(o *postgresOptions) { o.holdRecord = true }

// open opens the database a URL names: sqlite:///absolute/path, or postgres://user:password@host/database.
func open(databaseURL string, options ...option) (*database, error) {
	u, err := url.Parse(databaseURL)
	if err != nil {
		return nil, errors.New("DATABASE_URL is no URL: want sqlite:///absolute/path or postgres://user:password@host:port/database")
	}
	switch u.Scheme {
	case "sqlite":
		return openSQLite(u)
	case "postgres", "postgresql":
		return openPostgres(databaseURL, options...)
	}
	return nil, fmt.Errorf("DATABASE_URL %s: want sqlite:///absolute/path or postgres://user:password@host:port/database", u.Redacted())
}

// sqlite is one file on this machine, shared by its processes.
type sqlite struct{ path string }

func openSQLite(u *url.URL) (*database, error) {
	if u.Host != "" || !filepath.IsAbs(u.Path) {
		return nil, fmt.Errorf("DATABASE_URL %s: want sqlite:///absolute/path", u.Redacted())
	}
	u.Path = filepath.Clean(u.Path) // SQLite takes two slashes at the beginning for a host
	if err := os.MkdirAll(filepath.Dir(u.Path), 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the database: %w", err)
	}
	query := url.Values{"_txlock": {"immediate"}, "_pragma": {
		"busy_timeout(15000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(ON)",
	}}
	source := "file:" + (&url.URL{Path: u.Path}).EscapedPath() + "?" + query.Encode()
	db, err := sql.Open("sqlite", source)
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", u.Path, err)
	}
	db.SetMaxOpenConns(8)
	db.SetMaxIdleConns(8)
	writer, err := sql.Open("sqlite", source)
	if err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("open database %s: %w", u.Path, err)
	}
	// Writes have a connection to themselves: it keeps the pages it knows, where one that others write beside would have to read them
	// again.
	writer.SetMaxOpenConns(1)
	// SQLite has a single writer anyway; queueing in the process is fair and wakes at once, its busy handler polls.
	return &database{
		DB: db, dialect: sqlite{u.Path}, statements: &statements{db: db},
		writing: &writing{DB: writer, statements: &statements{db: writer}, turn: make(chan struct{}, 1), share: true},
	}, nil
}

func (sqlite) rebind(query string) string  { return query }
func (sqlite) greatest(a, b string) string { return "MAX(" + a + ", " + b + ")" }

// The clock carries the number past those that went away with their rows: who follows looks for greater ones only.
func (sqlite) nextChange(table string) string {
	return `(SELECT MAX(COALESCE(MAX(change), 0) + 1, CAST(unixepoch('subsec') * 1000 AS INTEGER)) FROM ` + table + `)`
}

func (sqlite) clock() string { return `CAST(unixepoch('subsec') * 1000 AS INTEGER)` }

var sqliteJob = wholeJob("json_array", "json_group_array", "json")

func (sqlite) wholeJob() string { return sqliteJob }

// Jobs are given the number of their account's change (migration 00015), and writes come one after the other.
func (sqlite) changedJobs(accountID string, page *JobPage, known []int64) *conditions {
	since := page.Revision.Changes
	for i, revision := range known {
		if revision < page.Jobs[i].Revision { // it is not known as the page has it
			since = unknownRevision
		}
	}
	where := &conditions{}
	switch {
	case len(page.Jobs) == 0:
		where.clauses = []string{"false"}
	case since == unknownRevision:
		where.in("j.job_id", page.ids())
	default:
		where.clauses, where.args = []string{"j.account_id = ?", "j.revision > ?"}, []any{accountID, since}
		where.in("+j.job_id", page.ids()) // the index to use is that of the revisions
	}
	return where
}

func (sqlite) changedSince(ctx context.Context, from reader, accountID string, since JobsSeen) (now JobsSeen, changed []JobMark, all bool, err error) {
	rows, err := from.QueryContext(ctx, `SELECT r.revision, r.membership, COALESCE(j.job_id, '') FROM (`+jobsRevision+`) r
		LEFT JOIN replication_jobs j ON j.account_id = ? AND j.revision > ?`, accountID, accountID, since.Changes)
	if err != nil {
		return now, nil, false, err
	}
	changed, err = collect(rows, func(row rowScanner) (JobMark, error) {
		var id string
		err := row.Scan(&now.Changes, &now.Membership, &id)
		return MarkOf(id), err
	})
	return now, changed, false, err
}

func (sqlite) begin() *sql.TxOptions { return nil }
func (sqlite) takeTurn() string      { return "" }
func (sqlite) forUpdate() string     { return "" }
func (sqlite) takeRecord() string    { return "" }
func (sqlite) conflict(error) bool   { return false } // a transaction is immediate: it has no other beside it

func (d sqlite) provider(db *sql.DB) (*goose.Provider, func(), error) {
	// Processes that open a database at the same moment take turns.
	path := d.path + ".migration"
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, nil, err
	}
	unlock := func() { _ = file.Close() } // and with it the lock
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
		unlock()
		return nil, nil, fmt.Errorf("lock %s: %w", path, err)
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, db, migrationsOf("sqlite"))
	if err != nil {
		unlock()
	}
	return provider, unlock, err
}

// scrub rewrites the file, and empties the log of writes, which has the old pages.
func (sqlite) scrub(ctx context.Context, db *sql.DB) error {
	if _, err := db.ExecContext(ctx, `VACUUM`); err != nil {
		return err
	}
	var busy, pages, written int
	if err := db.QueryRowContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`).Scan(&busy, &pages, &written); err != nil {
		return err
	}
	if busy != 0 {
		return errors.New("another process is reading the database")
	}
	return nil
}

// postgres serves processes on any number of machines.
type postgres struct{ limits limits }

// recordLock is the number of the lock that every connection to a record holds: one for each schema of a database.
const recordLock = `hashtextextended('drover record in ' || current_schema(), 0)`

func openPostgres(databaseURL string, options ...option) (*database, error) {
	chosen := postgresOptions{limits: serverLimits}
	for _, option := range options {
		option(&chosen)
	}
	config, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	pool := chosen.limits.bounded(config, chosen.holdRecord)
	db := stdlib.OpenDB(*config, pool...)
	const connections = 16
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	db.SetConnMaxIdleTime(5 * time.Minute)
	return &database{DB: db, dialect: &postgres{chosen.limits}, writing: &writing{DB: db, turn: make(chan struct{}, connections/2)}}, nil
}

var rebound sync.Map // statements by their form with ?

func (*postgres) rebind(query string) string {
	if known, ok := rebound.Load(query); ok {
		return known.(string)
	}
	var b strings.Builder
	n := 0
	for _, part := range strings.SplitAfter(query, "?") {
		text, marked := strings.CutSuffix(part, "?")
		b.WriteString(text)
		if marked {
			n++
			b.WriteString("$" + strconv.Itoa(n))
		}
	}
	rebound.Store(query, b.String())
	return b.String()
}

func (*postgres) greatest(a, b string) string { return "GREATEST(" + a + ", " + b + ")" }

// changesOf are the sequences that number the changes in a table.
var changesOf = map[string]string{syncSessions: "sync_changes", deliveries: "delivery_changes"}

func (*postgres) nextChange(table string) string { return `nextval('` + changesOf[table] + `')` }
func (*postgres) clock() string                  { return `(EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::BIGINT` }

var postgresJob = wholeJob("json_build_array", "json_agg", "to_json")

func (*postgres) wholeJob() string { return postgresJob }

// Which numbers are greater says nothing of which jobs changed later, where writes overlap.
func (*postgres) changedJobs(_ string, page *JobPage, known []int64) *conditions {
	ids := page.ids()
	return &conditions{
		clauses: []string{"j.job_id = ANY(?)", "(j.job_id, j.revision) NOT IN (SELECT * FROM unnest(CAST(? AS TEXT[]), CAST(? AS BIGINT[])))"},
		args:    []any{ids, ids, known},
	}
}

// Each row of an account has counted changes, and names those that it counted last (migration 00018).
func (*postgres) changedSince(ctx context.Context, from reader, accountID string, since JobsSeen) (now JobsSeen, changed []JobMark, all bool, err error) {
	var slots, counted []int64
	for slot, n := range since.slots {
		slots, counted = append(slots, slot), append(counted, n)
	}
	rows, err := from.QueryContext(ctx, `SELECT c.slot, c.revision, c.membership, c.revision - COALESCE(k.counted, 0), CASE WHEN c.revision = k.counted THEN '' ELSE c.recent END
		FROM job_changes c LEFT JOIN unnest(CAST(? AS BIGINT[]), CAST(? AS BIGINT[])) k(slot, counted) ON k.slot = c.slot WHERE c.account_id = ?`,
		slots, counted, accountID)
	if err != nil {
		return now, nil, false, err
	}
	now.slots = map[int64]int64{}
	_, err = collect(rows, func(row rowScanner) (struct{}, error) {
		var slot, revision, membership, count int64
		var recent string
		err := row.Scan(&slot, &revision, &membership, &count, &recent)
		now.Changes, now.Membership, now.slots[slot] = now.Changes+revision, now.Membership+membership, revision
		marks := []rune(recent)
		if count < 0 || count*markLength > int64(len(marks)) {
			all = true
			return struct{}{}, err
		}
		for mark := range slices.Chunk(marks[:count*markLength], markLength) {
			changed = append(changed, JobMark(mark))
		}
		return struct{}{}, err
	})
	return now, changed, all, err
}

// Transactions are serializable, as they are in SQLite: the rules that a transaction checks before it writes hold.
func (*postgres) begin() *sql.TxOptions { return &sql.TxOptions{Isolation: sql.LevelSerializable} }

// The lock is let go with the transaction. Its number is of this database's schema only in that the names are: two that fall on one
// number wait for each other for nothing.
func (*postgres) takeTurn() string   { return `SELECT pg_advisory_xact_lock(hashtextextended(?, 0))` }
func (*postgres) forUpdate() string  { return ` FOR UPDATE` }
func (*postgres) takeRecord() string { return `SELECT pg_try_advisory_xact_lock(` + recordLock + `)` }

func (*postgres) conflict(err error) bool {
	var failure *pgconn.PgError
	if !errors.As(err, &failure) {
		return false
	}
	switch failure.Code {
	case "40001", "40P01": // serialization failure, deadlock
		return true
	case "23505": // a unique index: the other transaction is seen the next time, and refused with its reason
		return true
	}
	return false
}

func (*postgres) provider(db *sql.DB) (*goose.Provider, func(), error) {
	// Processes that start together take turns within a second, not within goose's five; for five minutes, as goose would.
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300), lock.WithUnlockTimeout(1, 60))
	if err != nil {
		return nil, nil, err
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, migrationsOf("postgres"), goose.WithSessionLocker(locker))
	return provider, func() {}, err
}

// scrub rewrites the tables that hold secrets. The server's write-ahead log keeps the old pages until it is recycled.
func (*postgres) scrub(ctx context.Context, db *sql.DB) error {
	for _, table := range []string{"access_keys", "settings"} {
		if _, err := db.ExecContext(ctx, `VACUUM FULL `+table); err != nil {
			return err
		}
	}
	return nil
}

// database is a pool of connections whose statements are written with ?.
type database struct {
	*sql.DB
	dialect
	// statements are kept prepared; nil where the driver does it.
	statements *statements
	writing    *writing
}

// Close closes the connections.
func (d *database) Close() error {
	if d.writing.DB == d.DB {
		return d.DB.Close()
	}
	return errors.Join(d.writing.DB.Close(), d.DB.Close())
}

// read runs fn in a transaction that sees the database as it is at its first statement.
func (d *database) read(ctx context.Context, fn func(*transaction) error) error {
	return d.within(ctx, d.DB, d.statements, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}, fn)
}

// errNotBegun says that a transaction could not begin, whatever was to be done in it.
var errNotBegun = errors.New("begin")

// within runs fn in a transaction, and undoes what fn does not commit.
func (d *database) within(ctx context.Context, db *sql.DB, prepared *statements, options *sql.TxOptions, fn func(*transaction) error) error {
	session, err := d.start(ctx, db, prepared, options)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotBegun, err)
	}
	defer session.end(ctx)
	err = fn(&transaction{session, d.dialect})
	if errors.Is(err, sql.ErrTxDone) && ctx.Err() != nil {
		// database/sql undid it because ctx was done, and said only that it was over.
		return fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return err
}
