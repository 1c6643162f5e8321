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
	driver, source := "pgx", databaseURL
	if file, ok := strings.CutPrefix(databaseURL, "sqlite://"); ok {
		driver, source = "sqlite", "file:"+file+"?_txlock=immediate&_pragma=busy_timeout(15000)"
	}
	db, err := sql.Open(driver, source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// URL returns the DATABASE_URL of an empty database that goes with the test.
func URL(t testing.TB) string {
	t.Helper()
	server := os.Getenv(Variable)
	if server == "" {
		return (&url.URL{Scheme: "sqlite", Path: filepath.Join(t.TempDir(), "folder", "center.db")}).String()
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
	return u.String()
}
