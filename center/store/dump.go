package store

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/drover/drover/smc"
)

// Dump describes what Store.Dump wrote: the record as it was at one moment. It is the same for both databases, so that what
// was in one can be loaded into the other.
type Dump struct {
	// Schema is the version of the tables' layout.
	Schema int64 `json:"schema"`
	// TakenAt is the moment.
	TakenAt time.Time `json:"takenAt"`
	// Tables are all tables of the record.
	Tables []DumpedTable `json:"tables"`
	// KeyIDs name the secret keys that secrets in the record are sealed with; without them it is of no use.
	KeyIDs []string `json:"keyIds"`
	// Outbox is how far events had got.
	Outbox OutboxPosition `json:"outbox"`
	// Images are the images of the record, but for those that are being deleted.
	Images []DumpedImage `json:"images"`
}

// DumpedTable is one table of a dump.
type DumpedTable struct {
	Name string `json:"name"`
	Rows int64  `json:"rows"`
}

// DumpedImage says which image the record has, and where its files are.
type DumpedImage struct {
	ImageID string `json:"imageId"`
	HostID  string `json:"hostId"`
}

// OutboxPosition is how far the events of the outbox have got.
type OutboxPosition struct {
	// LastID is the number of the last event in the outbox; 0 when there is none.
	LastID int64 `json:"lastId"`
	// StreamSequence is the greatest sequence in the stream that an event of the outbox was given.
	StreamSequence uint64 `json:"streamSequence"`
	// Pending is how many events are not published.
	Pending int `json:"pending"`
}

// Backlog returns how many events of the outbox are not published, and when the oldest of them happened.
func (s *Store) Backlog(ctx context.Context) (pending int, oldest time.Time, err error) {
	var at int64
	err = s.db.QueryRowContext(ctx, `SELECT COUNT(*), COALESCE(MIN(created_at), 0) FROM outbox WHERE published = 0`).Scan(&pending, &at)
	return pending, fromMillis(at), err
}

// selectOutboxPosition reads an OutboxPosition.
const selectOutboxPosition = `SELECT COALESCE(MAX(id), 0), COALESCE(MAX(stream_sequence), 0), COUNT(CASE WHEN published = 0 THEN 1 END) FROM outbox`

// OutboxPosition returns how far the events have got.
func (s *Store) OutboxPosition(ctx context.Context) (p OutboxPosition, err error) {
	return p, s.db.QueryRowContext(ctx, selectOutboxPosition).Scan(&p.LastID, &p.StreamSequence, &p.Pending)
}

// Dump writes every table, as all of them are at one moment, while the center goes on: a line with the names of the columns,
// then a line a row, each a JSON array. write makes the file of a table. Secrets stay sealed as they are.
func (s *Store) Dump(ctx context.Context, write func(table string) (io.WriteCloser, error)) (*Dump, error) {
	// SQLite: a transaction that only reads sees one moment and holds nobody up. PostgreSQL: repeatable read.
	options := &sql.TxOptions{ReadOnly: true}
	if s.db.isPostgres() {
		options.Isolation = sql.LevelRepeatableRead
	}
	tx, err := s.db.BeginTx(ctx, options)
	if err != nil {
		return nil, fmt.Errorf("dump: begin: %w", err)
	}
	defer func() { _ = tx.Rollback() }()
	dump := &Dump{KeyIDs: []string{}, Images: []DumpedImage{}}
	if err := tx.QueryRowContext(ctx, `SELECT COALESCE(MAX(version_id), 0) FROM goose_db_version`).Scan(&dump.Schema); err != nil {
		return nil, fmt.Errorf("dump: the version of the schema: %w", err)
	}
	dump.TakenAt = s.now().UTC()
	if err := tx.QueryRowContext(ctx, selectOutboxPosition).Scan(&dump.Outbox.LastID, &dump.Outbox.StreamSequence, &dump.Outbox.Pending); err != nil {
		return nil, fmt.Errorf("dump: the position of the outbox: %w", err)
	}
	rows, err := tx.QueryContext(ctx, `SELECT image_id, host_id FROM images WHERE status <> '`+string(smc.ImageDeleting)+`' ORDER BY image_id`) //nolint:rowserrcheck // collect does
	if err != nil {
		return nil, fmt.Errorf("dump: the images: %w", err)
	}
	images, err := collect(rows, func(row rowScanner) (i DumpedImage, err error) { return i, row.Scan(&i.ImageID, &i.HostID) })
	if err != nil {
		return nil, fmt.Errorf("dump: the images: %w", err)
	}
	dump.Images = append(dump.Images, images...)
	secrets, err := s.db.texts(ctx, tx, `SELECT secret FROM access_keys UNION ALL SELECT value FROM settings WHERE name IN (?, ?)`,
		dataPlaneKeyName, certificateAuthoritiesName)
	if err != nil {
		return nil, fmt.Errorf("dump: the secrets: %w", err)
	}
	for _, secret := range secrets {
		if sealed, ok := strings.CutPrefix(secret, sealedPrefix); ok {
			if id, _, _ := strings.Cut(sealed, ":"); !slices.Contains(dump.KeyIDs, id) {
				dump.KeyIDs = append(dump.KeyIDs, id)
			}
		}
	}
	slices.Sort(dump.KeyIDs)
	tables, err := s.db.texts(ctx, tx, s.db.catalog().tables)
	if err != nil {
		return nil, fmt.Errorf("dump: list the tables: %w", err)
	}
	for _, table := range tables {
		n, err := s.dumpTable(ctx, tx, table, write)
		if err != nil {
			return nil, fmt.Errorf("dump table %s: %w", table, err)
		}
		dump.Tables = append(dump.Tables, DumpedTable{Name: table, Rows: n})
	}
	return dump, nil
}

func (s *Store) dumpTable(ctx context.Context, tx *sql.Tx, table string, write func(string) (io.WriteCloser, error)) (n int64, err error) {
	columns, err := s.db.texts(ctx, tx, s.db.catalog().columns, table)
	if err != nil {
		return 0, err
	}
	w, err := write(table)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	if err := out.Encode(columns); err != nil {
		return 0, err
	}
	names := make([]string, len(columns))
	for i, column := range columns {
		names[i] = quoted(column)
	}
	rows, err := tx.QueryContext(ctx, `SELECT `+strings.Join(names, ", ")+` FROM `+quoted(table))
	if err != nil {
		return 0, err
	}
	defer func() { _ = rows.Close() }()
	values, into := make([]any, len(columns)), make([]any, len(columns))
	for i := range values {
		into[i] = &values[i]
	}
	for ; rows.Next(); n++ {
		if err := rows.Scan(into...); err != nil {
			return n, err
		}
		for i, value := range values {
			if b, ok := value.([]byte); ok {
				values[i] = string(b)
			}
		}
		if err := out.Encode(values); err != nil {
			return n, err
		}
	}
	return n, rows.Err()
}

// ErrNotEmpty is returned by Load for a database that holds something.
var ErrNotEmpty = errors.New("the database is not empty")

// ErrInUse is returned by Load for an empty database that a process of the center works on. It is known of PostgreSQL.
var ErrInUse = errors.New("a process of the center works on the database")

// ErrLoaded is returned by Load when the record is in the database, and cannot be opened there.
var ErrLoaded = errors.New("the record is restored and cannot be opened yet")

// Load fills the empty database of a URL with a dump, all of it or nothing, and brings the schema up to date. read opens
// the file of a table. The record is then one that was restored: see Restoration. sealer must hold the keys the dump's
// secrets are sealed with. Errors: ErrNotEmpty, ErrInUse, ErrNotOpened, ErrLoaded.
func Load(ctx context.Context, databaseURL string, dump *Dump, sealer *Sealer, read func(table string) (io.ReadCloser, error)) error {
	if missing := sealer.missing(dump.KeyIDs); len(missing) > 0 {
		return fmt.Errorf("%w: the backup's secrets are sealed with the keys %s, and the key file lacks %s: give the key file that the center had then",
			ErrNotOpened, strings.Join(dump.KeyIDs, ", "), strings.Join(missing, ", "))
	}
	db, err := open(databaseURL)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	if err := db.loadSchema(ctx, dump.Schema); err != nil {
		return err
	}
	tx, err := db.DB.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("restore the record: %w", err)
	}
	defer func() { _ = tx.Rollback() }()
	if err := db.requireFree(ctx, tx); err != nil {
		return err
	}
	there, err := db.texts(ctx, tx, db.catalog().tables)
	if err != nil {
		return fmt.Errorf("restore the record: %w", err)
	}
	err = db.withoutTriggers(ctx, tx, func() error {
		for _, table := range dump.Tables {
			if table.Name == jobRevisions && !slices.Contains(there, table.Name) {
				continue // PostgreSQL numbers with a sequence
			}
			if err := db.loadTable(ctx, tx, table, read); err != nil {
				return fmt.Errorf("restore table %s: %w", table.Name, err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := db.restoreNumbers(ctx, tx); err != nil {
		return fmt.Errorf("restore the record: %w", err)
	}
	if err := db.markRestored(ctx, tx, dump.TakenAt); err != nil {
		return fmt.Errorf("restore the record: %w", err)
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("restore the record: %w", err)
	}
	// The migrations since, which may also move data, and a look at the secrets.
	var options []Option
	if sealer != nil {
		options = append(options, WithSealer(sealer))
	}
	s, err := Open(ctx, databaseURL, options...)
	if err != nil {
		return fmt.Errorf("%w: %w; when that is mended, go on: do not restore again", ErrLoaded, err)
	}
	return s.Close()
}

// RequireEmpty returns ErrNotEmpty when the database of a URL holds anything, and ErrInUse when a process works on it.
func RequireEmpty(ctx context.Context, databaseURL string) error {
	db, err := open(databaseURL)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	tx, err := db.DB.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return fmt.Errorf("look into the database: %w", err)
	}
	defer func() { _ = tx.Rollback() }()
	return db.requireFree(ctx, tx)
}

// missing returns which of the keys the sealer does not hold; a nil Sealer holds none.
func (s *Sealer) missing(ids []string) []string {
	return slices.DeleteFunc(slices.Clone(ids), func(id string) bool {
		return s != nil && slices.ContainsFunc(s.keys, func(key sealingKey) bool { return key.id == id })
	})
}

// loadSchema gives a new database the tables that the dump was taken of.
func (d *database) loadSchema(ctx context.Context, version int64) error {
	provider, unlock, err := d.provider(d.DB)
	if err != nil {
		return fmt.Errorf("make the tables: %w", err)
	}
	defer unlock()
	sources := provider.ListSources()
	if newest := sources[len(sources)-1].Version; version > newest {
		return fmt.Errorf("the backup is of a newer Drover (its tables have version %d, this program knows %d): restore it with that version or a later one", version, newest)
	}
	if _, err := provider.UpTo(ctx, version); err != nil {
		return fmt.Errorf("make the tables: %w", err)
	}
	there, err := provider.GetDBVersion(ctx)
	if err != nil {
		return fmt.Errorf("make the tables: %w", err)
	}
	if there != version {
		return fmt.Errorf("%w: its tables have version %d and the backup's %d: give a database that was never used", ErrNotEmpty, there, version)
	}
	return nil
}

// requireFree refuses a database that holds something, or that a process works on. Who opens it then waits until the transaction ends: it
// finds what is restored, with the mark of that, and not half of it.
func (d *database) requireFree(ctx context.Context, tx *sql.Tx) error {
	alone := true
	if lock := d.takeRecord(); lock != "" {
		if err := tx.QueryRowContext(ctx, lock).Scan(&alone); err != nil {
			return fmt.Errorf("look whether the database is in use: %w", err)
		}
	}
	if err := d.requireEmpty(ctx, tx); err != nil || alone {
		return err
	}
	return fmt.Errorf("%w: stop all servers and workers that have it for their database. Nothing was changed", ErrInUse)
}

// requireEmpty refuses a database that has a row in any table but settings, which migrations may have filled.
func (d *database) requireEmpty(ctx context.Context, tx *sql.Tx) error {
	tables, err := d.texts(ctx, tx, d.catalog().tables)
	if err != nil {
		return err
	}
	for _, table := range tables {
		if table == "settings" {
			continue
		}
		var n int64
		if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM (SELECT 1 FROM `+quoted(table)+` LIMIT 1) AS one`).Scan(&n); err != nil {
			return err
		}
		if n > 0 {
			return fmt.Errorf("%w: there are rows in %s. Nothing was changed. Restore into a new database, and move this one away first if it is at the same place", ErrNotEmpty, table)
		}
	}
	return nil
}

// loadRows is how many rows one statement inserts.
const loadRows = 50

func (d *database) loadTable(ctx context.Context, tx *sql.Tx, table DumpedTable, read func(string) (io.ReadCloser, error)) error {
	r, err := read(table.Name)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	in := json.NewDecoder(bufio.NewReader(r))
	in.UseNumber()
	var columns []string
	if err := in.Decode(&columns); err != nil {
		return fmt.Errorf("read the columns: %w", err)
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM `+quoted(table.Name)); err != nil {
		return err
	}
	names := make([]string, len(columns))
	for i, column := range columns {
		names[i] = quoted(column)
	}
	row := "(?" + strings.Repeat(", ?", len(columns)-1) + ")"
	insert := func(n int) string {
		return d.rebind(`INSERT INTO ` + quoted(table.Name) + ` (` + strings.Join(names, ", ") + `)` + d.catalog().overriding + ` VALUES ` + row + strings.Repeat(", "+row, n-1))
	}
	var args []any
	loaded, held := int64(0), 0
	flush := func() error {
		if held == 0 {
			return nil
		}
		_, err := tx.ExecContext(ctx, insert(held), args...)
		loaded, held, args = loaded+int64(held), 0, args[:0]
		return err
	}
	for {
		var values []any
		if err := in.Decode(&values); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("read row %d: %w", loaded+int64(held)+1, err)
		}
		if len(values) != len(columns) {
			return fmt.Errorf("row %d has %d values for %d columns", loaded+int64(held)+1, len(values), len(columns))
		}
		for _, value := range values {
			if number, ok := value.(json.Number); ok {
				if value, err = loadedNumber(number); err != nil {
					return fmt.Errorf("row %d: %w", loaded+int64(held)+1, err)
				}
			}
			args = append(args, value)
		}
		if held++; held == loadRows {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	if loaded != table.Rows {
		return fmt.Errorf("it has %d rows, the backup's manifest says %d", loaded, table.Rows)
	}
	return nil
}

func loadedNumber(number json.Number) (any, error) {
	if n, err := number.Int64(); err == nil {
		return n, nil
	}
	return number.Float64()
}

// jobRevisions numbers the changes of jobs: a sequence in PostgreSQL, in SQLite a table before migration 00015.
const jobRevisions = "job_revisions"

// sequences are PostgreSQL's by name, with what they number.
var sequences = map[string]struct{ table, column string }{
	changesOf[syncSessions]: {syncSessions, "change"},
	changesOf[deliveries]:   {deliveries, "change"},
	jobRevisions:            {"replication_jobs", "revision"},
}

// restoreNumbers has what the database numbers by itself go on after what was loaded.
func (d *database) restoreNumbers(ctx context.Context, tx *sql.Tx) error {
	var statements []string
	if d.isPostgres() {
		rows, err := tx.QueryContext(ctx, d.catalog().identity) //nolint:rowserrcheck // collect does
		if err != nil {
			return err
		}
		identities, err := collect(rows, func(row rowScanner) (column [2]string, err error) { return column, row.Scan(&column[0], &column[1]) })
		if err != nil {
			return err
		}
		const set = `SELECT setval(%s, (SELECT COALESCE(MAX(%s), 0) + 1 FROM %s), false)`
		for _, column := range identities {
			of := fmt.Sprintf(`pg_get_serial_sequence('%s', '%s')`, quoted(column[0]), column[1])
			statements = append(statements, fmt.Sprintf(set, of, quoted(column[1]), quoted(column[0])))
		}
		names, err := d.texts(ctx, tx, d.catalog().sequences)
		if err != nil {
			return err
		}
		for _, name := range names {
			if of, ok := sequences[name]; ok {
				statements = append(statements, fmt.Sprintf(set, "'"+name+"'", quoted(of.column), quoted(of.table)))
			}
		}
	} else {
		names, err := d.texts(ctx, tx, d.catalog().tables)
		if err != nil {
			return err
		}
		if slices.Contains(names, "job_changes") { // what comes from PostgreSQL numbers jobs by its sequence
			statements = append(statements, `INSERT INTO job_changes (account_id, slot, revision, membership) SELECT account_id, 0, MAX(revision), 0
				FROM replication_jobs WHERE true GROUP BY account_id
				ON CONFLICT (account_id, slot) DO UPDATE SET revision = MAX(job_changes.revision, excluded.revision)`)
		}
	}
	for _, statement := range statements {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}
