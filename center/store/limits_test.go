package store

import (
	"context"
	"fmt"
	"net/url"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/drover/drover/center/store/storetest"
	"github.com/drover/drover/test/proxy"
)

// testLimits are far below those of a server, and far above what an answer takes.
var testLimits = limits{connect: 3 * time.Second, ping: time.Second, statement: 3 * time.Second}

// behindProxy opens the fixture's database once more, through a proxy.
func behindProxy(t *testing.T, f *fixture, within limits) (*Store, *proxy.Proxy) {
	t.Helper()
	if !storetest.Postgres() {
		t.Skip("SQLite has no server that could hang")
	}
	u, err := url.Parse(f.url)
	require.NoError(t, err)
	between, err := proxy.New(u.Host)
	require.NoError(t, err)
	t.Cleanup(between.Close)
	u.Host = between.Address()
	s, err := openWithin(f.ctx, u.String(), within, WithClock(f.clock.read))
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, between.Mend())
		require.NoError(t, s.Close())
	})
	return s, between
}

// Whatever is asked of a database that hangs is given up in time, by as many as ask, and leaves nothing behind. Once it goes on everybody is
// answered at once, and what was given up is found by its client token.
func TestDatabaseThatHangs(t *testing.T) {
	f := newFixture(t)
	s, between := behindProxy(t, f, testLimits)
	wanted := spec(f.source("server").SourceID)
	wanted.ClientToken = pointer("token")
	calls := map[string]func(context.Context) error{
		"create": func(ctx context.Context) error { _, err := s.CreateJob(ctx, account, wanted, 1000); return err },
		"list": func(ctx context.Context) error {
			_, err := s.JobPage(ctx, account, JobFilter{}, Page{Number: 1, Size: 50}, nil, unknown)
			return err
		},
		"sources": func(ctx context.Context) error {
			_, _, err := s.Sources(ctx, account, SourceFilter{}, Page{Number: 1, Size: 50})
			return err
		},
		"nonce": func(ctx context.Context) error {
			_, err := s.UseNonce(ctx, "key", NewID("n"), f.clock.read().Add(time.Hour))
			return err
		},
		"pending": func(ctx context.Context) error { _, err := s.Pending(ctx, 10); return err },
		"follow":  func(ctx context.Context) error { return s.follow(ctx, new(followed)) },
		"ping":    s.Ping,
	}
	for name, call := range calls {
		if name != "create" {
			require.NoError(t, call(f.ctx), name)
		}
	}
	before := runtime.NumGoroutine()

	between.Hang()
	var all sync.WaitGroup
	for range 20 { // more than there are connections
		for name, call := range calls {
			all.Go(func() {
				// A call may ask several times, and each time wait for a connection.
				ctx, cancel := context.WithTimeout(f.ctx, testLimits.statement+time.Second)
				defer cancel()
				began := time.Now()
				err := call(ctx)
				if err == nil || !Away(err) || time.Since(began) > 15*time.Second {
					t.Errorf("%s was answered after %v with %v", name, time.Since(began), err)
				}
			})
		}
	}
	all.Wait()

	require.NoError(t, between.Mend())
	for name, call := range calls {
		// A try to connect that began during the outage may yet fail.
		require.Eventually(t, func() bool { return call(f.ctx) == nil }, 30*time.Second, 10*time.Millisecond, name)
	}
	first, err := s.CreateJob(f.ctx, account, wanted, 1000)
	require.NoError(t, err)
	again, err := s.CreateJob(f.ctx, account, wanted, 1000)
	require.NoError(t, err)
	require.Equal(t, first, again)
	// There are more connections than before, and three goroutines of the proxy for each; 140 calls were given up.
	require.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+80 }, 30*time.Second, 50*time.Millisecond)
}

// Connections that something on the way has forgotten are found out before they are used, and those that are made anew work.
func TestConnectionsThatAreForgotten(t *testing.T) {
	f := newFixture(t)
	// Only the sign of life is short: else each of them would wait for the end of a statement.
	s, between := behindProxy(t, f, limits{connect: 20 * time.Second, ping: 500 * time.Millisecond, statement: time.Minute})
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			require.NoError(t, s.db.read(f.ctx, func(tx *transaction) error { return pause(f.ctx, tx, .1) }))
		})
	}
	all.Wait()
	select {
	case <-time.After(idleBeforePing): // after which a connection is not believed
	case <-f.ctx.Done():
	}
	between.Strand()
	for i := range 16 {
		all.Go(func() {
			began := time.Now()
			require.NoError(t, s.db.read(f.ctx, func(tx *transaction) error { return pause(f.ctx, tx, 0) }), i)
			require.Less(t, time.Since(began), 30*time.Second)
		})
	}
	all.Wait()
}

func pause(ctx context.Context, tx *transaction, seconds float64) error {
	var none any
	return tx.QueryRowContext(ctx, fmt.Sprintf(`SELECT pg_sleep(%v)::TEXT`, seconds)).Scan(&none)
}

// What is asked patiently may take longer than a call; nothing else may.
func TestPatientStatements(t *testing.T) {
	f := newFixture(t)
	short := testLimits
	short.statement = 1500 * time.Millisecond
	s, _ := behindProxy(t, f, short)
	long := short.statement.Seconds() + .2
	ask := func(ctx context.Context) error {
		return s.db.read(ctx, func(tx *transaction) error { return pause(ctx, tx, long) })
	}
	require.NoError(t, ask(patiently(f.ctx)))
	err := ask(f.ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "the database did not answer within 1.5s")
	require.True(t, Away(err))
	// Rows are bounded as a whole.
	_, err = s.db.texts(f.ctx, s.db.DB, `SELECT pg_sleep(0)::TEXT`)
	require.NoError(t, err)
	found, err := s.db.QueryContext(f.ctx, fmt.Sprintf(`SELECT pg_sleep(%v)::TEXT FROM generate_series(1, 3)`, long/2))
	if err == nil {
		_, err = collect(found, scanText)
	}
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "the database did not answer within 1.5s")
}

// The server ends what a process holds that hangs or has vanished.
func TestSessionSettings(t *testing.T) {
	f := newFixture(t)
	s, _ := behindProxy(t, f, testLimits)
	for name, want := range map[string]string{
		"idle_in_transaction_session_timeout": "10s", "lock_timeout": "0", "tcp_keepalives_idle": "15", "tcp_user_timeout": "30000",
	} {
		var got string
		require.NoError(t, s.db.QueryRowContext(f.ctx, `SHOW `+name).Scan(&got))
		require.Equal(t, want, got, name)
	}
	tx, err := s.db.BeginTx(f.ctx, nil)
	require.NoError(t, err)
	var got string
	require.NoError(t, tx.QueryRowContext(f.ctx, `SHOW idle_in_transaction_session_timeout`).Scan(&got))
	require.Equal(t, "0", got, "a backup writes its files meanwhile")
	require.NoError(t, tx.Rollback())
}
