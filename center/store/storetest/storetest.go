// Package storetest gives tests a database of their own: a SQLite file, or a schema in the PostgreSQL server that
// DROVER_TEST_POSTGRES names. The same tests run on both.
package storetest

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
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
// written with $1 in both dialects. What it writes has no events, and so such a database is not held against them in the end.
func DB(t testing.TB, databaseURL string) *sql.DB {
	t.Helper()
	tampered.Store(databaseURL, true)
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

// template is a SQLite database with a schema that is up to date, made once for a process: to bring one there takes most of the time of a small
// test, under the race detector a second.
var template struct {
	mu   sync.Mutex
	file []byte
}

// Migrated is URL with the schema that open, which is store.Open, gives an empty database. On PostgreSQL it is empty.
func Migrated[S io.Closer, O any](t testing.TB, open func(context.Context, string, ...O) (S, error)) string {
	t.Helper()
	made := URL(t)
	file, ok := strings.CutPrefix(made, "sqlite://")
	if !ok {
		return made
	}
	template.mu.Lock()
	defer template.mu.Unlock()
	if template.file == nil {
		record, err := open(t.Context(), made)
		if err == nil {
			err = record.Close() // the last connection leaves all of it in the one file
		}
		if err == nil {
			template.file, err = os.ReadFile(file) //nolint:gosec // the test's own
		}
		if err != nil {
			t.Fatalf("make the template of databases: %v", err)
		}
		return made
	}
	err := os.MkdirAll(filepath.Dir(file), 0o700)
	if err == nil {
		err = os.WriteFile(file, template.file, 0o600)
	}
	if err != nil {
		t.Fatalf("copy the template of databases: %v", err)
	}
	return made
}

// tampered are the databases that were opened beside their store: what was written there has no events.
var tampered sync.Map

// checkEvents holds what is in the outbox of a database against the schemas, the numbers of each resource against their order, and
// each resource as it is in the record against its last event: nothing that an event tells may change without one.
func checkEvents(t testing.TB, databaseURL string) {
	t.Helper()
	driver, source := connection(databaseURL)
	db, err := sql.Open(driver, source)
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = db.Close() }()
	_, beside := tampered.LoadAndDelete(databaseURL)
	last, err := lastEvents(t, db, beside)
	if err != nil {
		t.Logf("the events are not checked: %v", err) // a database that was never migrated, or is broken on purpose
		return
	}
	if beside {
		return
	}
	for _, query := range []string{
		`SELECT job_id, sequence, name, status, CASE WHEN status = 'Running' THEN business_status ELSE '' END, CASE WHEN queue_number > 0 THEN 1 ELSE 0 END FROM replication_jobs`,
		`SELECT source_id, sequence, name, state, '', 0 FROM source_servers`,
	} {
		if err := compare(t, db, query, last); err != nil {
			t.Error(err)
		}
	}
}

// compare holds the resources that a query reads against their last events.
func compare(t testing.TB, db *sql.DB, query string, last map[string]told) error {
	t.Helper()
	rows, err := db.QueryContext(context.Background(), query)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var id string
		var queued int
		var now told
		if err := rows.Scan(&id, &now.Sequence, &now.Name, &now.Status, &now.BusinessStatus, &queued); err != nil {
			return err
		}
		now.Queued = queued > 0
		if was, ok := last[id]; ok && was != now {
			t.Errorf("%s is %+v, and its last event says %+v", id, now, was)
		}
	}
	return rows.Err()
}

// told is what an event tells of how its resource is.
type told struct {
	Sequence       int64
	Name           string
	Status         string
	BusinessStatus string
	Queued         bool
}

// lastEvents checks the events of a database one by one and returns what the last one of each resource tells. beside says that
// the resources were also changed without events.
func lastEvents(t testing.TB, db *sql.DB, beside bool) (map[string]told, error) {
	t.Helper()
	rows, err := db.QueryContext(context.Background(), `SELECT resource_id, sequence, event FROM outbox ORDER BY id`)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	last := map[string]told{}
	for rows.Next() {
		var id, event string
		var sequence int64
		if err := rows.Scan(&id, &sequence, &event); err != nil {
			return nil, err
		}
		if err := eventstest.Check([]byte(event)); err != nil {
			t.Errorf("event %d of %s: %v", sequence, id, err)
			continue
		}
		var content struct {
			Data struct {
				told
				Change, State, PreviousStatus, PreviousState, PreviousBusinessStatus string
			} `json:"data"`
		}
		if err := json.Unmarshal([]byte(event), &content); err != nil {
			t.Errorf("event %d of %s: %v", sequence, id, err)
			continue
		}
		data := content.Data
		data.Status += data.State
		before, known := last[id]
		switch {
		case data.Sequence != sequence:
			t.Errorf("event %d of %s says that it is number %d", sequence, id, data.Sequence)
		case known && data.Change != "Restored" && sequence != before.Sequence+1:
			t.Errorf("event %d of %s comes after %d", sequence, id, before.Sequence)
		case known && !beside && data.Change != "Restored" && data.PreviousStatus+data.PreviousState != before.Status:
			t.Errorf("event %d of %s says that it was %s%s before, and the event before says %s", sequence, id, data.PreviousStatus, data.PreviousState, before.Status)
		}
		last[id] = data.told
	}
	return last, rows.Err()
}

// connection is a database URL as database/sql takes it.
func connection(databaseURL string) (driver, source string) {
	if file, ok := strings.CutPrefix(databaseURL, "sqlite://"); ok {
		return "sqlite", "file:" + file + "?_txlock=immediate&_pragma=busy_timeout(15000)"
	}
	return "pgx", databaseURL
}
