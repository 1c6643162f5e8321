package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/drover/drover/center/store/storetest"
)

// hold keeps every turn to write until the returned function is called, so that the writes after it wait for the same turn.
func (f *fixture) hold() (release func()) {
	turns := cap(f.db.writing.turn)
	for range turns {
		f.db.writing.turn <- struct{}{}
	}
	return func() {
		for range turns {
			<-f.db.writing.turn
		}
	}
}

// waitFor waits until n writes wait for a turn; without sharing nobody counts them.
func (f *fixture) waitFor(n int) {
	if !f.db.writing.share {
		return
	}
	f.t.Helper()
	require.Eventually(f.t, func() bool {
		f.db.writing.mutex.Lock()
		defer f.db.writing.mutex.Unlock()
		return len(f.db.writing.waiting) == n
	}, 10*time.Second, time.Millisecond)
}

func (f *fixture) put(ctx context.Context, name string, also func(*transaction) error) error {
	return f.write(ctx, func(tx *transaction) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO settings (name, value) VALUES (?, '')`, name); err != nil {
			return err
		}
		return also(tx)
	})
}

func (f *fixture) has(name string) bool {
	f.t.Helper()
	var n int
	require.NoError(f.t, f.db.QueryRowContext(f.ctx, `SELECT COUNT(*) FROM settings WHERE name = ?`, name).Scan(&n))
	return n == 1
}

// Writes that share a transaction do not share their fate.
func TestWritesTogether(t *testing.T) {
	f := newFixture(t)
	f.db.writing.rehearse = false
	fine := func(*transaction) error { return nil }
	refused := errors.New("refused")
	for name, test := range map[string]struct {
		also func(cancel context.CancelFunc) func(*transaction) error
		want func(err error, panicked any) bool
	}{
		"one fails": {
			func(context.CancelFunc) func(*transaction) error { return func(*transaction) error { return refused } },
			func(err error, _ any) bool { return errors.Is(err, refused) },
		},
		"one panics": {
			func(context.CancelFunc) func(*transaction) error {
				return func(*transaction) error { panic("at the disco") }
			},
			func(_ error, panicked any) bool { return strings.Contains(fmt.Sprint(panicked), "at the disco") },
		},
		"one gives up": {
			func(cancel context.CancelFunc) func(*transaction) error {
				return func(*transaction) error { cancel(); return context.Canceled }
			},
			func(err error, _ any) bool { return errors.Is(err, context.Canceled) },
		},
		"one undoes the whole transaction": {
			func(context.CancelFunc) func(*transaction) error {
				return func(tx *transaction) error {
					_, err := tx.ExecContext(context.Background(), `ROLLBACK`) // as SQLite does when a disk is full
					return errors.Join(refused, err)
				}
			},
			func(err error, _ any) bool { return errors.Is(err, refused) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			release := f.hold()
			var others errgroup.Group
			names := func(i int) string { return fmt.Sprint(name, i) }
			for i := range 10 {
				others.Go(func() error { return f.put(t.Context(), names(i), fine) })
			}
			f.waitFor(10)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var err error
			var panicked any
			var one errgroup.Group
			one.Go(func() error {
				defer func() { panicked = recover() }()
				err = f.put(ctx, name, test.also(cancel))
				return nil
			})
			f.waitFor(11)
			release()
			require.NoError(t, others.Wait())
			require.NoError(t, one.Wait())
			require.True(t, test.want(err, panicked), "%v, %v", err, panicked)
			require.False(t, f.has(name))
			for i := range 10 {
				require.True(t, f.has(names(i)))
			}
		})
	}
}

// A write whose caller gives up while it waits is not carried out, and its turn not waited for.
func TestWriteGivenUp(t *testing.T) {
	f := newFixture(t)
	release := f.hold()
	ctx, cancel := context.WithCancel(t.Context())
	var group errgroup.Group
	group.Go(func() error { return f.put(ctx, "given up", func(*transaction) error { return nil }) })
	f.waitFor(1)
	cancel()
	require.ErrorIs(t, group.Wait(), context.Canceled)
	f.waitFor(0)
	release()
	require.NoError(t, f.put(t.Context(), "next", func(*transaction) error { return nil }))
	require.False(t, f.has("given up"))
}

// Of one nonce that many use at once, one use is the first, also when they share a transaction.
func TestNonceUsedAtOnce(t *testing.T) {
	f := newFixture(t)
	release := f.hold()
	fresh := make([]bool, 100)
	var group errgroup.Group
	for i := range fresh {
		group.Go(func() (err error) {
			fresh[i], err = f.UseNonce(t.Context(), "ak", "nonce", f.clock.read().Add(time.Hour))
			return err
		})
	}
	f.waitFor(len(fresh))
	release()
	require.NoError(t, group.Wait())
	first := 0
	for _, is := range fresh {
		if is {
			first++
		}
	}
	require.Equal(t, 1, first)
}

// Transactions with statements that are not prepared yet do not wait for each other's connections.
func TestNewStatementsAtOnce(t *testing.T) {
	f := newFixture(t)
	if storetest.Postgres() {
		t.Skip("PostgreSQL's driver prepares on the transaction's connection")
	}
	f.create(spec(f.source("web").SourceID))
	const readers = 8 // as many as there are connections
	for round := range 8 {
		var group errgroup.Group
		var inside sync.WaitGroup
		inside.Add(readers)
		for i := range readers {
			group.Go(func() error {
				return f.db.read(t.Context(), func(tx *transaction) error {
					inside.Done()
					inside.Wait()
					var n int
					return tx.QueryRowContext(t.Context(), fmt.Sprintf(`SELECT COUNT(*) FROM replication_jobs WHERE %d = %d`, round, i)).Scan(&n)
				})
			})
		}
		require.NoError(t, group.Wait())
	}
}
