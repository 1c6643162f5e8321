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
	db    *sql.DB
	mutex sync.RWMutex
	known map[string]*sql.Stmt
}

// of returns a statement prepared, or nil when it is to be run as a text: there are too many, or it cannot be prepared,
// which running it will say better. They are closed with the database.
func (s *statements) of(ctx context.Context, query string) *sql.Stmt {
	stmt, wanted := s.look(query) //nolint:sqlclosecheck // kept, and closed with the database
	if !wanted {
		return stmt
	}
	stmt, err := s.db.PrepareContext(ctx, query)
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

// look returns a statement if it is prepared, and whether it is to be.
func (s *statements) look(query string) (stmt *sql.Stmt, wanted bool) {
	if s == nil {
		return nil, false // PostgreSQL's driver keeps them itself
	}
	s.mutex.RLock()
	defer s.mutex.RUnlock()
	stmt = s.known[query]
	return stmt, stmt == nil && len(s.known) < maxStatements
}

// QueryContext runs a statement written with ?.
func (d *database) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if stmt := d.statements.of(ctx, query); stmt != nil { //nolint:sqlclosecheck // kept, and closed with the database
		return stmt.QueryContext(ctx, args...)
	}
	return d.DB.QueryContext(ctx, d.rebind(query), args...)
}

// QueryRowContext runs a statement written with ?.
func (d *database) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	if stmt := d.statements.of(ctx, query); stmt != nil { //nolint:sqlclosecheck // kept, and closed with the database
		return stmt.QueryRowContext(ctx, args...)
	}
	return d.DB.QueryRowContext(ctx, d.rebind(query), args...)
}

// transaction is a transaction whose statements are written with ?.
type transaction struct {
	*sql.Tx
	dialect
	statements *statements
	// wanted are statements to be prepared once the transaction is over: that takes a connection, and all may be held by
	// transactions that wait for one.
	wanted []string
}

// prepared is a statement that is to be run prepared, or nil.
func (t *transaction) prepared(query string) *sql.Stmt {
	stmt, wanted := t.statements.look(query)
	if wanted {
		t.wanted = append(t.wanted, query)
	}
	return stmt
}

// prepare prepares what the transaction, which is over, would have liked to be.
func (t *transaction) prepare(ctx context.Context) {
	for _, query := range t.wanted {
		t.statements.of(ctx, query)
	}
}

// ExecContext runs a statement written with ?.
func (t *transaction) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if stmt := t.prepared(query); stmt != nil {
		return t.StmtContext(ctx, stmt).ExecContext(ctx, args...) //nolint:sqlclosecheck // closed with the transaction
	}
	return t.Tx.ExecContext(ctx, t.rebind(query), args...)
}

// QueryContext runs a statement written with ?.
func (t *transaction) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if stmt := t.prepared(query); stmt != nil {
		return t.StmtContext(ctx, stmt).QueryContext(ctx, args...) //nolint:sqlclosecheck // closed with the transaction
	}
	return t.Tx.QueryContext(ctx, t.rebind(query), args...)
}

// QueryRowContext runs a statement written with ?.
func (t *transaction) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	if stmt := t.prepared(query); stmt != nil {
		return t.StmtContext(ctx, stmt).QueryRowContext(ctx, args...) //nolint:sqlclosecheck // closed with the transaction
	}
	return t.Tx.QueryRowContext(ctx, t.rebind(query), args...)
}
