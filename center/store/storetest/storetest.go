// Package storetest gives tests a database of their own: a SQLite file, or a schema in the PostgreSQL server that
// DROVER_TEST_POSTGRES names. The same tests run on both.
package storetest

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib" // registers the database/sql driver "pgx"
	_ "modernc.org/sqlite"             // registers the database/sql driver "sqlite"

	"github.com/drover/drover/events/eventstest"
)

// Variable is the environment variable that names the PostgreSQL server of the tests:
// postgres://user:password@host:port/database. When it is not set, they use SQLite.
const Variable = "DROVER_TEST_POSTGRES"

// Postgres reports whether the tests use PostgreSQL.
func Postgres() bool { return os.Getenv(Variable) != "" }

// DB opens the database of a URL beside its store, for tests that must see or set what the store shows to nobody. SQL is
// written with $1 in both dialects.
func DB(t testing.TB, databaseURL string) *sql.DB {
	t.Helper()
	driver, source := connection(databaseURL)
	db, err := sql.Open(driver, source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// URL returns the DATABASE_URL of an empty database that goes with the test. When the test ends, every event that was written to
// its outbox is held against its schema.
func URL(t testing.TB) string {
	t.Helper()
	server := os.Getenv(Variable)
	if server == "" {
		file := filepath.Join(t.TempDir(), "folder", "center.db")
		made := (&url.URL{Scheme: "sqlite", Path: file}).String()
		t.Cleanup(func() {
			if _, err := os.Stat(file); err == nil {
				checkEvents(t, made)
			}
		})
		return made
	}
	u, err := url.Parse(server)
	if err != nil {
		t.Fatalf("%s: %v", Variable, err)
	}
	db, err := sql.Open("pgx", server)
	if err != nil {
		t.Fatalf("%s: %v", Variable, err)
	}
	suffix := make([]byte, 8)
	_, _ = rand.Read(suffix)
	schema := "test_" + hex.EncodeToString(suffix)
	if _, err := db.ExecContext(t.Context(), "CREATE SCHEMA "+schema); err != nil {
		t.Fatalf("make a schema in the server that %s names: %v", Variable, err)
	}
	t.Cleanup(func() {
		if _, err := db.ExecContext(context.Background(), "DROP SCHEMA "+schema+" CASCADE"); err != nil {
			t.Errorf("drop the test's schema: %v", err)
		}
		_ = db.Close()
	})
	query := u.Query()
	query.Set("search_path", schema)
	u.RawQuery = query.Encode()
	made := u.String()
	t.Cleanup(func() { checkEvents(t, made) })
	return made
}

// checkEvents holds what is in the outbox of a database against the schemas, and the numbers of each resource against their order.
func checkEvents(t testing.TB, databaseURL string) {
	t.Helper()
	driver, source := connection(databaseURL)
	db, err := sql.Open(driver, source)
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = db.Close() }()
	rows, err := db.QueryContext(context.Background(), `SELECT resource_id, sequence, event FROM outbox ORDER BY id`)
	if err != nil {
		t.Logf("the events are not checked: %v", err) // a database that was never migrated, or is broken on purpose
		return
	}
	defer func() { _ = rows.Close() }()
	last := map[string]int64{}
	for rows.Next() {
		var resource, event string
		var sequence int64
		if err := rows.Scan(&resource, &sequence, &event); err != nil {
			t.Error(err)
			return
		}
		if sequence <= last[resource] {
			t.Errorf("event %d of %s was written after %d", sequence, resource, last[resource])
		}
		last[resource] = sequence
		if err := eventstest.Check([]byte(event)); err != nil {
			t.Errorf("event %d of %s: %v", sequence, resource, err)
		}
	}
	if err := rows.Err(); err != nil {
		t.Error(err)
	}
}

// connection is a database URL as database/sql takes it.
func connection(databaseURL string) (driver, source string) {
	if file, ok := strings.CutPrefix(databaseURL, "sqlite://"); ok {
		return "sqlite", "file:" + file + "?_txlock=immediate&_pragma=busy_timeout(15000)"
	}
	return "pgx", databaseURL
}
