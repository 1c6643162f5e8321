package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/drover/drover/tcp"
)

// A PostgreSQL server that hangs says nothing, and neither does one whose packets are lost on the way. So nothing here waits for one without
// an end. What it does with a statement that was given up is not known: it may yet carry it out. Callers repeat such a write under the key,
// the client token or the request id that it had.
const (
	// connectLimit is how long a connection may take to be made, for each address of the server, unless the URL has a connect_timeout.
	connectLimit = 5 * time.Second
	// pingLimit is how long an idle connection may take to show that it is still one: it is on the way of a call, and others are at hand.
	pingLimit = 3 * time.Second
	// idleBeforePing is for how long a connection is not asked after it was used.
	idleBeforePing = time.Second
	// statementLimit is how long an answer may take to what is sent together, with the wait for a connection and for locks.
	statementLimit = 15 * time.Second
	// patientLimit is the same for what goes over whole tables and is not on the way of anybody.
	patientLimit = 15 * time.Minute
	// unacknowledged is how long what was sent may go without an acknowledgement.
	unacknowledged = 10 * time.Second
)

// limits are those of a pool; tests have shorter ones.
type limits struct{ connect, ping, statement time.Duration }

var serverLimits = limits{connect: connectLimit, ping: pingLimit, statement: statementLimit}

// What the server ends by itself when a process of ours hangs, or has vanished with its machine: a transaction that goes on no more, with
// the locks that others wait for, and a connection that nobody is at the other end of. A paused process loses its transaction, not its work:
// nothing of it was committed.
const sessionSettings = `SET idle_in_transaction_session_timeout = '10s'; SET tcp_keepalives_idle = 15; SET tcp_keepalives_interval = 5;
	SET tcp_keepalives_count = 3; SET tcp_user_timeout = '30s'`

type contextKey int

const (
	keyPatient contextKey = iota // set: the statements may take patientLimit
	keyCaller                    // the context that toEnd was given
)

// patiently is ctx for statements that go over whole tables.
func patiently(ctx context.Context) context.Context { return context.WithValue(ctx, keyPatient, true) }

// toEnd is ctx for a read that is bounded, a page or what belongs to one: it is refused when ctx is done, but once begun
// read to its end. Watching ctx costs SQLite a goroutine and a channel at every row, as much as the row itself. PostgreSQL, which may hang,
// is not waited for longer than ctx.
func toEnd(ctx context.Context) context.Context {
	if ctx.Err() != nil {
		return ctx
	}
	return context.WithValue(context.WithoutCancel(ctx), keyCaller, ctx)
}

// limit implements dialect: a file answers, or fails.
func (sqlite) limit(ctx context.Context) (context.Context, context.CancelFunc) { return ctx, nothing }

func nothing() {}

// limit implements dialect.
func (p *postgres) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	if caller, ok := ctx.Value(keyCaller).(context.Context); ok {
		ctx = caller
	}
	statement := p.limits.statement
	if ctx.Value(keyPatient) != nil {
		statement = patientLimit
	}
	return context.WithTimeoutCause(ctx, statement, noAnswerError{statement})
}

// noAnswerError is why something was given up.
type noAnswerError struct{ limit time.Duration }

// Error says that it was the database, and how long it had.
func (n noAnswerError) Error() string {
	return fmt.Sprintf("the database did not answer within %s", n.limit)
}

// Unwrap has it count as what it is.
func (noAnswerError) Unwrap() error { return context.DeadlineExceeded }

// explain gives the reason of an error that only a limit of ours led to.
func explain(ctx context.Context, err error) error {
	var limit noAnswerError
	if err == nil || !errors.As(context.Cause(ctx), &limit) || errors.As(err, new(noAnswerError)) {
		return err
	}
	return fmt.Errorf("%w: %w", limit, err)
}

// rows are the answer to a query, and what bounds it.
type rows struct {
	*sql.Rows
	ctx  context.Context //nolint:containedctx // that of the query, which is over with the rows
	done context.CancelFunc
}

// Err is why the rows ended early.
func (r *rows) Err() error { return explain(r.ctx, r.Rows.Err()) }

// Close gives the connection back.
func (r *rows) Close() error {
	defer r.done()
	return r.Rows.Close()
}

// limited has a query's rows bounded by ctx, which done ends.
func limited(ctx context.Context, done context.CancelFunc, from *sql.Rows, err error) (*rows, error) {
	if err != nil {
		err = explain(ctx, err)
		done()
		return nil, err
	}
	return &rows{Rows: from, ctx: ctx, done: done}, nil
}

// bounded has the connections of a configuration be made in time, and noticed when nobody is at their other end. The options are those of its
// pool; holdRecord has each of them hold the record's lock.
func (l limits) bounded(config *pgx.ConnConfig, holdRecord bool) []stdlib.OptionOpenDB {
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = l.connect
	}
	config.DialFunc = tcp.Dialer(unacknowledged).DialContext
	options := []stdlib.OptionOpenDB{stdlib.OptionShouldPing(func(ctx context.Context, p stdlib.ShouldPingParams) bool {
		if p.IdleDuration <= idleBeforePing {
			return false
		}
		ctx, cancel := context.WithTimeout(ctx, l.ping)
		defer cancel()
		return p.Conn.Ping(ctx) != nil // which has closed it: the ping that is asked for says so
	})}
	if holdRecord {
		options = append(options, stdlib.OptionAfterConnect(func(ctx context.Context, conn *pgx.Conn) error {
			err := l.hold(ctx, conn)
			if err != nil { // the driver forgets the connection
				ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.ping)
				defer cancel()
				_ = conn.Close(ctx)
			}
			return err
		}))
	}
	return options
}

// hold has a new connection of those who use the record hold its lock. While somebody restores the record it waits, and yet for no server
// that hangs: it is told every few seconds that the lock is taken.
func (l limits) hold(ctx context.Context, conn *pgx.Conn) error {
	for {
		err := within(ctx, l.connect, func(ctx context.Context) error {
			_, err := conn.Exec(ctx, `SET lock_timeout = '2s'; SELECT pg_advisory_lock_shared(`+recordLock+`); RESET lock_timeout; `+sessionSettings)
			return err
		})
		var failure *pgconn.PgError
		if !errors.As(err, &failure) || failure.Code != lockNotAvailable {
			return err
		}
	}
}

// lockNotAvailable is PostgreSQL's code of a wait for a lock that was over before it had it.
const lockNotAvailable = "55P03"

func within(ctx context.Context, limit time.Duration, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, noAnswerError{limit})
	defer cancel()
	return explain(ctx, do(ctx))
}

// BeginTx begins a transaction that takes its time, as a backup does: neither here nor in the server is there a limit to it.
func (d *database) BeginTx(ctx context.Context, options *sql.TxOptions) (*sql.Tx, error) {
	tx, err := d.DB.BeginTx(ctx, options)
	if err != nil || !d.isPostgres() {
		return tx, err
	}
	if _, err := tx.ExecContext(ctx, `SET LOCAL idle_in_transaction_session_timeout = 0`); err != nil {
		return nil, errors.Join(err, tx.Rollback())
	}
	return tx, nil
}
