package store

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
)

// catalog asks a database what is in it. A dump holds every table, also those of versions to come.
type catalog struct {
	// tables are those of the schema but goose's own; columns, with the table's name as argument, those that are written.
	tables, columns string
	// identity are the columns whose numbers the database gives, with their table.
	identity string
	// sequences are what else numbers rows.
	sequences string
	// overriding lets an insert set the number of an identity column.
	overriding string
}

var sqliteCatalog = catalog{
	tables:   `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\_%' ESCAPE '\' AND name <> 'goose_db_version' ORDER BY name`,
	columns:  `SELECT name FROM pragma_table_xinfo(?) WHERE hidden = 0 ORDER BY cid`,
	identity: ``, // AUTOINCREMENT learns from what is inserted
}

var postgresCatalog = catalog{
	tables: `SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema() AND table_type = 'BASE TABLE'
		AND table_name <> 'goose_db_version' ORDER BY table_name`,
	columns: `SELECT column_name FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = ? AND is_generated = 'NEVER'
		ORDER BY ordinal_position`,
	identity:   `SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = current_schema() AND is_identity = 'YES'`,
	sequences:  `SELECT sequencename FROM pg_sequences WHERE schemaname = current_schema()`,
	overriding: ` OVERRIDING SYSTEM VALUE`,
}

func (d *database) isPostgres() bool {
	_, ok := d.dialect.(*postgres)
	return ok
}

func (d *database) catalog() catalog {
	if d.isPostgres() {
		return postgresCatalog
	}
	return sqliteCatalog
}

// queryer is *sql.DB or *sql.Tx: what runs once is not kept prepared.
type queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// texts reads one column of text.
func (d *database) texts(ctx context.Context, q queryer, query string, args ...any) ([]string, error) {
	rows, err := q.QueryContext(ctx, d.rebind(query), args...) //nolint:rowserrcheck // collect does
	if err != nil {
		return nil, err
	}
	return collect(rows, scanText)
}

// quoted is a name as it stands in a statement.
func quoted(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// withoutTriggers runs fn in the transaction while no trigger of ours fires: what they wrote is in the dump.
func (d *database) withoutTriggers(ctx context.Context, tx *sql.Tx, fn func() error) error {
	run := func(statements []string) error {
		for _, statement := range statements {
			if _, err := tx.ExecContext(ctx, statement); err != nil {
				return fmt.Errorf("%s: %w", statement, err)
			}
		}
		return nil
	}
	var off, on []string
	if d.isPostgres() {
		tables, err := d.texts(ctx, tx, d.catalog().tables)
		if err != nil {
			return err
		}
		for _, table := range tables {
			off = append(off, `ALTER TABLE `+quoted(table)+` DISABLE TRIGGER USER`)
			on = append(on, `ALTER TABLE `+quoted(table)+` ENABLE TRIGGER USER`)
		}
	} else {
		names, err := d.texts(ctx, tx, `SELECT name FROM sqlite_master WHERE type = 'trigger' ORDER BY name`)
		if err != nil {
			return err
		}
		for _, name := range names {
			off = append(off, `DROP TRIGGER `+quoted(name))
		}
		if on, err = d.texts(ctx, tx, `SELECT sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name`); err != nil {
			return err
		}
	}
	if err := run(off); err != nil {
		return err
	}
	if err := fn(); err != nil {
		return err
	}
	return run(on)
}
