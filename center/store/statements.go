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
func (d *database) QueryContext(ctx context.Context, query string, args ...any) (*rows, error) {
	ctx, done := d.limit(ctx)
	if stmt := d.statements.of(ctx, query); stmt != nil { //nolint:sqlclosecheck // kept, and closed with the database
		found, err := stmt.QueryContext(ctx, args...)
		return limited(ctx, done, found, err)
	}
	found, err := d.DB.QueryContext(ctx, d.rebind(query), args...)
	return limited(ctx, done, found, err)
}

// QueryRowContext runs a statement written with ?.
func (d *database) QueryRowContext(ctx context.Context, query string, args ...any) rowScanner {
	if stmt := d.statements.of(ctx, query); stmt != nil { //nolint:sqlclosecheck // kept, and closed with the database
		return stmt.QueryRowContext(ctx, args...)
	}
	return rowOf(func(dest ...any) error {
		ctx, done := d.limit(ctx)
		defer done()
		return explain(ctx, d.DB.QueryRowContext(ctx, d.rebind(query), args...).Scan(dest...))
	})
}

// session is a transaction on its connection. Its statements are written with ?.
type session interface {
	reader
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	// later has a statement run before the next one of the other methods is, and each, if there is one, called with its rows. So several
	// that do not need each other's answers are one round trip. What they fail of may be said by whatever sends them: flush, another
	// statement, the commit.
	later(ctx context.Context, each func(rowScanner) error, query string, args ...any) error
	// flush runs what is to be run later now.
	flush(ctx context.Context) error
	commit(ctx context.Context) error
	// end undoes what was not committed, and gives the connection back.
	end(ctx context.Context)
}

// transaction is a transaction whose statements are written with ?.
type transaction struct {
	session
	dialect
}

// asking collects what a transaction is to be asked at once.
type asking struct {
	ctx context.Context
	tx  *transaction
	err error
}

// ask has each called with the rows of a query, by answered at the latest.
func (a *asking) ask(each func(rowScanner) error, query string, args ...any) {
	if a.err == nil {
		a.err = a.tx.later(a.ctx, each, query, args...)
	}
}

// answered returns once all that was asked is answered.
func (a *asking) answered() error {
	if a.err != nil {
		return a.err
	}
	return a.tx.flush(a.ctx)
}

// sqliteTransaction keeps its statements prepared. They take no round trips: none waits.
type sqliteTransaction struct {
	*sql.Tx
	statements *statements
	// wanted are statements to be prepared once the transaction is over: that takes a connection, and all may be held by
	// transactions that wait for one.
	wanted []string
}

func (sqlite) start(ctx context.Context, db *sql.DB, prepared *statements, options *sql.TxOptions) (session, error) {
	tx, err := db.BeginTx(ctx, options)
	return &sqliteTransaction{Tx: tx, statements: prepared}, err
}

// prepared is a statement that is to be run prepared, or nil.
func (t *sqliteTransaction) prepared(query string) *sql.Stmt {
	stmt, wanted := t.statements.look(query)
	if wanted {
		t.wanted = append(t.wanted, query)
	}
	return stmt
}

// ExecContext runs a statement.
func (t *sqliteTransaction) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if stmt := t.prepared(query); stmt != nil {
		return t.StmtContext(ctx, stmt).ExecContext(ctx, args...) //nolint:sqlclosecheck // closed with the transaction
	}
	return t.Tx.ExecContext(ctx, query, args...)
}

// QueryContext runs a statement.
func (t *sqliteTransaction) QueryContext(ctx context.Context, query string, args ...any) (*rows, error) {
	if stmt := t.prepared(query); stmt != nil {
		found, err := t.StmtContext(ctx, stmt).QueryContext(ctx, args...) //nolint:sqlclosecheck // closed with the transaction
		return limited(ctx, nothing, found, err)
	}
	found, err := t.Tx.QueryContext(ctx, query, args...)
	return limited(ctx, nothing, found, err)
}

// QueryRowContext runs a statement.
func (t *sqliteTransaction) QueryRowContext(ctx context.Context, query string, args ...any) rowScanner {
	if stmt := t.prepared(query); stmt != nil {
		return t.StmtContext(ctx, stmt).QueryRowContext(ctx, args...) //nolint:sqlclosecheck // closed with the transaction
	}
	return t.Tx.QueryRowContext(ctx, query, args...)
}

// later implements session.
func (t *sqliteTransaction) later(ctx context.Context, each func(rowScanner) error, query string, args ...any) error {
	if each == nil {
		_, err := t.ExecContext(ctx, query, args...)
		return err
	}
	rows, err := t.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	_, err = collect(rows, func(row rowScanner) (struct{}, error) { return struct{}{}, each(row) })
	return err
}

// flush implements session.
func (t *sqliteTransaction) flush(context.Context) error { return nil }

// commit implements session.
func (t *sqliteTransaction) commit(context.Context) error { return t.Commit() }

// end implements session. It prepares what the transaction would have liked to be.
func (t *sqliteTransaction) end(ctx context.Context) {
	_ = t.Rollback()
	for _, query := range t.wanted {
		t.statements.of(ctx, query)
	}
}
