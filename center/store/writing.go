package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

// writing is how the write transactions of this process take turns.
type writing struct {
	*sql.DB
	statements *statements // as those of database
	// turn admits as many transactions at a time as help.
	turn chan struct{}
	// rehearse has every write run once before, and undone: it may run several times, and has to stand that. Tests set it.
	rehearse bool
	// share has writes that wait for a turn use one transaction, committed once: a commit waits for the disk.
	share bool

	mutex   sync.Mutex
	waiting []*write // for someone's turn, when they share
}

// write is one function to be run in a write transaction.
type write struct {
	ctx context.Context
	fn  func(*transaction) error
	// options are those that it begins with when it does not share.
	options *sql.TxOptions
	done    chan struct{} // closed when it was carried out, alone or with others
	err     error
	// panicked tells of a panic of fn, which is to go on in the goroutine that wanted the write.
	panicked error
}

// mostShared is how many writes share a transaction at most: the first one waits for the last.
const mostShared = 64

// conflictRetries is how often a transaction is run again that failed because of others. Each failure means that
// another one succeeded, so many creators at once get through in as many tries.
const conflictRetries = 100

var errRehearsed = errors.New("rehearsed")

// write runs fn in a write transaction; it may run several times, and in a transaction that others use too: what fails is
// undone alone.
func (d *database) write(ctx context.Context, fn func(*transaction) error) error {
	return d.run(&write{ctx: ctx, fn: fn, options: d.begin(), done: make(chan struct{})})
}

// writeInTurn is write for transactions that many would begin at once and that would fail because of each other: those of one turn come
// one after the other. On PostgreSQL it is not serializable, and each statement sees what was committed before it: of others, which
// have no turn or another one, the rules are to be held by rows that are read for update, or by unique indexes.
func (d *database) writeInTurn(ctx context.Context, turn string, fn func(*transaction) error) error {
	w := &write{ctx: ctx, fn: fn, done: make(chan struct{})}
	if lock := d.takeTurn(); lock != "" {
		w.fn = func(tx *transaction) error {
			if err := tx.later(ctx, nil, lock, turn); err != nil {
				return err
			}
			return fn(tx)
		}
	}
	return d.run(w)
}

func (d *database) run(w *write) error {
	if d.writing.rehearse {
		_ = d.try(w.ctx, w.options, func(tx *transaction) error { return errors.Join(w.call(tx), errRehearsed) })
	}
	d.carryOut(w)
	if w.panicked != nil {
		panic(w.panicked)
	}
	return w.err
}

// writeRow runs one statement that writes, committed by itself, and scans the row that it returns; found is false when it returns
// none. The statement is to be right without a serializable transaction around it. On PostgreSQL it waits for no turn: it is over at once.
func (d *database) writeRow(ctx context.Context, into []any, query string, args ...any) (found bool, err error) {
	scan := func(row rowScanner) error {
		err := row.Scan(into...)
		found = err == nil
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		return err
	}
	if d.writing.share {
		err = d.write(ctx, func(tx *transaction) error { return scan(tx.QueryRowContext(toEnd(ctx), query, args...)) })
		return found && err == nil, err
	}
	err = scan(d.QueryRowContext(ctx, query, args...))
	return found, err
}

func (d *database) carryOut(w *write) {
	if d.writing.share {
		d.writing.add(w)
	}
	select {
	case d.writing.turn <- struct{}{}:
		defer func() { <-d.writing.turn }()
	case <-w.done: // in someone else's turn
		return
	case <-w.ctx.Done():
		if d.writing.share && !d.writing.remove(w) {
			<-w.done
			return
		}
		w.err = w.ctx.Err()
		return
	}
	if !d.writing.share {
		d.alone(w)
		return
	}
	for !w.isDone() {
		batch := d.writing.next()
		if len(batch) == 1 || !d.together(batch) {
			for _, each := range batch {
				d.alone(each)
			}
		}
		for _, each := range batch {
			close(each.done)
		}
	}
}

// conflictPause is the longest pause before a transaction is run again for that time: at once, they fail because of each other again, and all
// of them because of one that takes long.
func conflictPause(try int) time.Duration {
	return min(time.Duration(try)*2*time.Millisecond, 100*time.Millisecond)
}

// alone runs a write in a transaction of its own.
func (d *database) alone(w *write) {
	for try := 1; ; try++ {
		w.err = d.try(w.ctx, w.options, w.call)
		if w.err == nil || try == conflictRetries || !d.conflict(w.err) {
			return
		}
		select {
		case <-time.After(rand.N(conflictPause(try))):
		case <-w.ctx.Done():
			return
		}
	}
}

func (d *database) try(ctx context.Context, options *sql.TxOptions, fn func(*transaction) error) error {
	return d.within(ctx, d.writing.DB, d.writing.statements, options, func(tx *transaction) error {
		if err := fn(tx); err != nil {
			return err
		}
		if err := tx.commit(ctx); err != nil {
			return fmt.Errorf("commit: %w", err)
		}
		return nil
	})
}

// together runs writes one after the other in one transaction, each in a savepoint. It reports false when nothing of it is
// written, and it has to be done one by one; all of them have failed when the transaction could not begin.
func (d *database) together(batch []*write) bool {
	ctx := context.Background() // that one of them gives up must not undo the others
	err := d.try(ctx, d.begin(), func(tx *transaction) error {
		for _, w := range batch {
			if w.err = w.ctx.Err(); w.err != nil {
				continue
			}
			if _, err := tx.ExecContext(ctx, `SAVEPOINT one`); err != nil {
				return err
			}
			if w.err = w.call(tx); w.err != nil {
				// This fails when what failed has undone the whole transaction: a statement that was interrupted, a full disk.
				if _, err := tx.ExecContext(ctx, `ROLLBACK TO one`); err != nil {
					return err
				}
			}
			if _, err := tx.ExecContext(ctx, `RELEASE one`); err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, errNotBegun) { // the file is locked: each of them alone would wait for it as long again
		for _, w := range batch {
			w.err = err
		}
		return true
	}
	return err == nil
}

// call runs the write's function.
func (w *write) call(tx *transaction) (err error) {
	defer func() {
		if v := recover(); v != nil {
			w.panicked = fmt.Errorf("panic in a write transaction: %v\n%s", v, debug.Stack())
			err = errors.New("panic")
		}
	}()
	w.panicked = nil
	return w.fn(tx)
}

func (w *write) isDone() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

func (w *writing) add(one *write) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.waiting = append(w.waiting, one)
}

// remove takes a write back; it reports false when someone has taken it on.
func (w *writing) remove(one *write) bool {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	i := slices.Index(w.waiting, one)
	if i >= 0 {
		w.waiting = slices.Delete(w.waiting, i, i+1)
	}
	return i >= 0
}

// next takes on those that have waited longest.
func (w *writing) next() []*write {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	n := min(len(w.waiting), mostShared)
	batch := slices.Clone(w.waiting[:n])
	w.waiting = slices.Delete(w.waiting, 0, n)
	return batch
}
