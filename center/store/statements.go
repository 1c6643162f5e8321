package store

import (
	"context"
	"database/sql"
	"sync"
)

// maxStatements bounds how many statements are kept prepared; filters make any number of them.
const maxStatements = 256

// statements are kept prepared, on every connection that ran them: SQLite would parse and plan them at each use.
type statements struct {
	mutex sync.RWMutex
	known map[string]*sql.Stmt
}

// of returns a statement prepared, or nil when it is to be run as a text: there are too many, or it cannot be prepared,
// which running it will say better. They are closed with the database.
func (s *statements) of(ctx context.Context, db *sql.DB, query string) *sql.Stmt {
	s.mutex.RLock()
	stmt, full := s.known[query], len(s.known) >= maxStatements
	s.mutex.RUnlock()
	if stmt != nil || full {
		return stmt
	}
	stmt, err := db.PrepareContext(ctx, query)
	if err != nil {
		return nil
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if other := s.known[query]; other != nil {
		_ = stmt.Close() //nolint:sqlclosecheck // the one that is not kept
		return other
	}
	if s.known == nil {
		s.known = map[string]*sql.Stmt{}
	}
	s.known[query] = stmt
	return stmt
}

// prepared is a statement that is to be run prepared, or nil: PostgreSQL's driver keeps them itself.
func (d *database) prepared(ctx context.Context, query string) *sql.Stmt {
	if d.statements == nil {
		return nil
	}
	return d.statements.of(ctx, d.DB, query)
}

// QueryContext runs a statement written with ?.
func (d *database) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if stmt := d.prepared(ctx, query); stmt != nil { //nolint:sqlclosecheck // kept, and closed with the database
		return stmt.QueryContext(ctx, args...)
	}
	return d.DB.QueryContext(ctx, d.rebind(query), args...)
}

// QueryRowContext runs a statement written with ?.
func (d *database) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	if stmt := d.prepared(ctx, query); stmt != nil { //nolint:sqlclosecheck // kept, and closed with the database
		return stmt.QueryRowContext(ctx, args...)
	}
	return d.DB.QueryRowContext(ctx, d.rebind(query), args...)
}

// transaction is a transaction whose statements are written with ?.
type transaction struct {
	*sql.Tx
	dialect
	db *database
}

// ExecContext runs a statement written with ?.
func (t *transaction) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if stmt := t.db.prepared(ctx, query); stmt != nil {
		return t.StmtContext(ctx, stmt).ExecContext(ctx, args...) //nolint:sqlclosecheck // closed with the transaction
	}
	return t.Tx.ExecContext(ctx, t.rebind(query), args...)
}

// QueryContext runs a statement written with ?.
func (t *transaction) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if stmt := t.db.prepared(ctx, query); stmt != nil {
		return t.StmtContext(ctx, stmt).QueryContext(ctx, args...) //nolint:sqlclosecheck // closed with the transaction
	}
	return t.Tx.QueryContext(ctx, t.rebind(query), args...)
}

// QueryRowContext runs a statement written with ?.
func (t *transaction) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	if stmt := t.db.prepared(ctx, query); stmt != nil {
		return t.StmtContext(ctx, stmt).QueryRowContext(ctx, args...) //nolint:sqlclosecheck // closed with the transaction
	}
	return t.Tx.QueryRowContext(ctx, t.rebind(query), args...)
}
