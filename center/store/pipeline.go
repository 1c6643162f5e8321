package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

// pipeline is a transaction of PostgreSQL. Statements whose answers are not needed yet wait, and are sent with the next one whose answer
// is: that is one round trip for all of them. So it begins with its first question, and what it writes in the end goes with its commit.
type pipeline struct {
	*sql.Conn
	// limit bounds a round trip.
	limit   func(context.Context) (context.Context, context.CancelFunc)
	waiting []waiting
	// failed is why statements that waited were refused: what is asked afterwards is not answered.
	failed error
}

// rollbackTimeout is how long an answer to a ROLLBACK may take.
const rollbackTimeout = 5 * time.Second

// waiting is a statement to be sent; each, if there is one, is called with its rows.
type waiting struct {
	query string
	args  []any
	each  func(rowScanner) error
}

func (p *postgres) start(ctx context.Context, db *sql.DB, _ *statements, options *sql.TxOptions) (session, error) {
	ctx, done := p.limit(ctx)
	defer done()
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, explain(ctx, err)
	}
	begin := "BEGIN"
	if options != nil {
		begin += " ISOLATION LEVEL " + strings.ToUpper(options.Isolation.String())
		if options.ReadOnly {
			begin += " READ ONLY"
		}
	}
	return &pipeline{Conn: conn, limit: p.limit, waiting: []waiting{{query: begin}}}, nil
}

// later implements session.
func (p *pipeline) later(_ context.Context, each func(rowScanner) error, query string, args ...any) error {
	p.waiting = append(p.waiting, waiting{(*postgres)(nil).rebind(query), args, each})
	return p.failed
}

// flush implements session.
func (p *pipeline) flush(ctx context.Context) error {
	_, err := p.send(ctx)
	return err
}

// send sends what waits, and returns what became of the last statement.
func (p *pipeline) send(ctx context.Context) (last pgconn.CommandTag, err error) {
	if len(p.waiting) == 0 || p.failed != nil {
		return last, p.failed
	}
	batch := &pgx.Batch{}
	for _, statement := range p.waiting {
		read := batch.Queue(statement.query, statement.args...)
		if statement.each == nil {
			read.Exec(func(tag pgconn.CommandTag) error { last = tag; return nil })
			continue
		}
		read.Query(func(rows pgx.Rows) error {
			for rows.Next() {
				if err := statement.each(rows); err != nil {
					return err
				}
			}
			return nil
		})
	}
	p.waiting = nil
	ctx, done := p.limit(ctx)
	defer done()
	err = explain(ctx, p.Raw(func(conn any) error { return conn.(*stdlib.Conn).Conn().SendBatch(ctx, batch).Close() }))
	p.failed = err
	return last, err
}

// ExecContext runs a statement written with ?, and those that wait before it.
func (p *pipeline) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	_ = p.later(ctx, nil, query, args...)
	tag, err := p.send(ctx)
	return driver.RowsAffected(tag.RowsAffected()), err
}

// QueryRowContext has a statement run that is written with ?, and those that wait before it, once its row is scanned.
func (p *pipeline) QueryRowContext(ctx context.Context, query string, args ...any) rowScanner {
	return rowOf(func(dest ...any) error {
		found := false
		_ = p.later(ctx, func(row rowScanner) error {
			if found {
				return nil
			}
			found = true
			return row.Scan(dest...)
		}, query, args...)
		if err := p.flush(ctx); err != nil {
			return err
		}
		if !found {
			return sql.ErrNoRows
		}
		return nil
	})
}

// rowOf is a row that is asked for when it is scanned.
type rowOf func(dest ...any) error

// Scan implements rowScanner.
func (r rowOf) Scan(dest ...any) error { return r(dest...) }

// QueryContext runs a statement written with ?, after those that wait.
func (p *pipeline) QueryContext(ctx context.Context, query string, args ...any) (*rows, error) {
	if err := p.flush(ctx); err != nil {
		return nil, err
	}
	ctx, done := p.limit(ctx)
	found, err := p.Conn.QueryContext(ctx, (*postgres)(nil).rebind(query), args...)
	return limited(ctx, done, found, err)
}

// commit implements session.
func (p *pipeline) commit(ctx context.Context) error {
	_ = p.later(ctx, nil, "COMMIT")
	tag, err := p.send(ctx)
	if err == nil && tag.String() == "ROLLBACK" { // a statement failed, and nobody minded
		err = pgx.ErrTxCommitRollback
	}
	return err
}

// end implements session.
func (p *pipeline) end(ctx context.Context) {
	_ = p.Raw(func(raw any) error {
		conn := raw.(*stdlib.Conn).Conn()
		if conn.IsClosed() || conn.PgConn().TxStatus() == 'I' {
			return nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
		defer cancel()
		_, err := conn.Exec(ctx, "ROLLBACK") // a connection on which that fails is not used again
		return err
	})
	_ = p.Close()
}
