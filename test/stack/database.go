package stack

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"

	_ "github.com/jackc/pgx/v5/stdlib" // registers the database/sql driver "pgx"
	_ "modernc.org/sqlite"             // registers the database/sql driver "sqlite"

	"github.com/drover/drover/test/proxy"
)

// Database is the one of a stack. It can be taken away from every process for a while.
type Database struct {
	// URL is what the processes use, in the form of DATABASE_URL.
	URL string

	direct string       // the same, past the proxy of PostgreSQL
	proxy  *proxy.Proxy // nil for SQLite
	server string       // URL of the PostgreSQL server, name the database there
	name   string

	mu   sync.Mutex
	lock *sql.DB // whose one connection has SQLite locked
}

// newPostgres makes a database on a PostgreSQL server, behind a proxy.
func newPostgres(ctx context.Context, server string) (*Database, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return nil, errors.New("the PostgreSQL server of the stack: want postgres://user:password@host:port/database")
	}
	address := u.Host
	if u.Port() == "" {
		address = net.JoinHostPort(u.Hostname(), "5432")
	}
	d := &Database{server: server, name: "drover_" + strings.ToLower(rand.Text())}
	if err := d.onServer(ctx, "CREATE DATABASE "+d.name); err != nil {
		return nil, fmt.Errorf("make a database on the PostgreSQL server: %w", err)
	}
	if d.proxy, err = proxy.New(address); err != nil {
		return nil, errors.Join(err, d.close())
	}
	u.Path = "/" + d.name
	d.direct = u.String()
	u.Host = d.proxy.Address()
	d.URL = u.String()
	return d, nil
}

// onServer runs a statement in the database that the server's URL names.
func (d *Database) onServer(ctx context.Context, statement string) error {
	db, err := sql.Open("pgx", d.server)
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.ExecContext(ctx, statement)
	return err
}

// Postgres reports whether the database is PostgreSQL; else it is SQLite.
func (d *Database) Postgres() bool { return d.server != "" }

// Open opens the database for looking into it, also while it is cut off. Statements are written with $1 in both dialects. The caller closes it.
func (d *Database) Open() (*sql.DB, error) {
	if file, ok := strings.CutPrefix(d.direct, "sqlite://"); ok {
		return sql.Open("sqlite", "file:"+file+"?_txlock=immediate&_pragma=busy_timeout(15000)")
	}
	return sql.Open("pgx", d.direct)
}

// Cut makes the database unreachable until Mend. Connections to PostgreSQL are broken off and new ones refused. SQLite is locked by a
// transaction of its own, which begins when those under way have ended: others can still read, but what writes waits, and fails after the 15
// seconds of the store's busy timeout.
func (d *Database) Cut(ctx context.Context) error {
	if d.proxy != nil {
		d.proxy.Cut()
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lock != nil {
		return nil
	}
	db, err := d.Open()
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(ctx, "BEGIN EXCLUSIVE"); err != nil {
		return errors.Join(fmt.Errorf("cut the database off: %w", err), db.Close())
	}
	d.lock = db
	return nil
}

// Hang has the database say nothing until Mend, as a server that is stopped: connections stay, new ones are taken, and none is answered. What
// was asked meanwhile is carried out after it. SQLite has no server: it is cut.
func (d *Database) Hang(ctx context.Context) error {
	if d.proxy == nil {
		return d.Cut(ctx)
	}
	d.proxy.Hang()
	return nil
}

// Mend makes the database reachable again.
func (d *Database) Mend() error {
	if d.proxy != nil {
		return d.proxy.Mend()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lock == nil {
		return nil
	}
	err := d.lock.Close() // the lock goes with the connection
	d.lock = nil
	return err
}

// close gives back what the stack made: the lock, or the proxy and the database.
func (d *Database) close() error {
	if !d.Postgres() {
		return d.Mend()
	}
	if d.proxy != nil {
		d.proxy.Close()
	}
	if err := d.onServer(context.Background(), "DROP DATABASE IF EXISTS "+d.name+" WITH (FORCE)"); err != nil {
		return fmt.Errorf("drop the stack's database: %w", err)
	}
	return nil
}
