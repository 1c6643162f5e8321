package store

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/drover/drover/center/store/storetest"
	"github.com/drover/drover/smc"
)

// tripCounter passes on connections to a PostgreSQL server and counts the round trips on them.
type tripCounter struct {
	net.Listener
	server string
	trips  atomic.Int64
}

func (c *tripCounter) serve() {
	for {
		client, err := c.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", c.server)
		if err != nil {
			_ = client.Close()
			continue
		}
		var answered atomic.Bool
		answered.Store(true)
		go pass(server, client, func() {
			if answered.CompareAndSwap(true, false) {
				c.trips.Add(1)
			}
		})
		go pass(client, server, func() { answered.Store(true) })
	}
}

func pass(to, from net.Conn, each func()) {
	defer func() { _, _ = to.Close(), from.Close() }()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			each()
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// What a call waits for is the network and the server's turn, for each round trip. docs/performance.md tells these numbers.
func TestRoundTrips(t *testing.T) {
	if !storetest.Postgres() {
		t.Skip("SQLite has none")
	}
	f := newFixture(t)
	u, err := url.Parse(f.url)
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	counter := &tripCounter{Listener: listener, server: u.Host}
	t.Cleanup(func() { _ = listener.Close() })
	go counter.serve()
	u.Host = listener.Addr().String()
	s, err := Open(f.ctx, u.String(), WithClock(f.clock.read))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })

	const rounds = 8 // in the first ones connections are made and statements prepared
	var sources []string
	for i := range 2 * rounds {
		sources = append(sources, f.source(fmt.Sprint("server", i)).SourceID)
	}
	var job string
	create := func(tags ...smc.TagParameter) func(context.Context) error {
		return func(ctx context.Context) (err error) {
			wanted := spec(sources[0])
			wanted.Tag, sources = tags, sources[1:]
			job, err = s.CreateJob(ctx, account, wanted, 1000)
			return err
		}
	}
	var page *JobPage
	list := func(before **JobPage) func(context.Context) error {
		return func(ctx context.Context) error {
			read, err := s.JobPage(ctx, account, JobFilter{}, Page{Number: 1, Size: 50}, *before, unknown)
			page = &read
			return err
		}
	}
	var seen JobsSeen
	for _, test := range []struct {
		name string
		want int64
		call func(context.Context) error
	}{
		{"create a job", 2, create()},
		{"create a job with tags", 3, create(smc.TagParameter{Key: pointer("wave"), Value: pointer("1")})},
		{"report progress", 1, func(ctx context.Context) error {
			return s.UpdateProgress(ctx, job, 1, SyncProgress{BytesTotal: 2, BytesRead: 1})
		}},
		{"write to the audit log", 1, func(ctx context.Context) error {
			return s.Audit(ctx, AuditRecord{RequestID: NewID("r"), At: f.clock.read()})
		}},
		{"use a nonce", 1, func(ctx context.Context) error {
			_, err := s.UseNonce(ctx, "key", NewID("n"), f.clock.read().Add(time.Hour))
			return err
		}},
		{"list jobs", 3, list(new(*JobPage))},
		{"read the jobs of a page", 1, list(&page)},
		{"see what changed", 1, func(ctx context.Context) (err error) {
			seen, _, _, err = s.ChangedJobs(ctx, account, seen)
			return err
		}},
		{"read a job", 1, func(ctx context.Context) error {
			_, err := s.Job(ctx, account, job)
			return err
		}},
	} {
		least := int64(1 << 30)
		for range rounds {
			before := counter.trips.Load()
			require.NoError(t, test.call(f.ctx), test.name)
			least = min(least, counter.trips.Load()-before)
		}
		require.Equal(t, test.want, least, test.name)
	}
}

// A transaction whose statements wait is none until they are sent: what they fail of is told by whoever sends them, and undoes all of it.
func TestStatementsThatWait(t *testing.T) {
	f := newFixture(t)
	f.db.writing.rehearse = false
	insert := func(tx *transaction, name string) error {
		return tx.later(f.ctx, nil, `INSERT INTO settings (name, value) VALUES (?, '')`, name)
	}
	for name, last := range map[string]func(*transaction) error{
		"commit": func(*transaction) error { return nil },
		"flush":  func(tx *transaction) error { return tx.flush(f.ctx) },
		"statement": func(tx *transaction) error {
			_, err := tx.ExecContext(f.ctx, `DELETE FROM settings WHERE name = 'none'`)
			return err
		},
		"row": func(tx *transaction) error {
			var n int
			return tx.QueryRowContext(f.ctx, `SELECT COUNT(*) FROM settings`).Scan(&n)
		},
		"rows": func(tx *transaction) error {
			rows, err := tx.QueryContext(f.ctx, `SELECT name FROM settings`)
			if err != nil {
				return err
			}
			_, err = collect(rows, scanText)
			return err
		},
	} {
		require.NoError(t, f.put(f.ctx, name, func(*transaction) error { return nil }))
		err := f.write(f.ctx, func(tx *transaction) error {
			if err := insert(tx, name+" first"); err != nil {
				return err
			}
			if err := tx.later(f.ctx, nil, `INSERT INTO settings (name, value) VALUES (?, NULL)`, name+" second"); err != nil {
				return err
			}
			return last(tx)
		})
		require.Error(t, err, name)
		require.False(t, f.has(name+" first"), name)
		require.True(t, f.has(name), name)
	}
	ctx, cancel := context.WithCancel(f.ctx)
	require.ErrorIs(t, f.write(ctx, func(tx *transaction) error {
		err := insert(tx, "given up")
		cancel()
		return err
	}), context.Canceled)
	require.False(t, f.has("given up"))
	ctx, cancel = context.WithCancel(f.ctx)
	require.ErrorIs(t, f.write(ctx, func(tx *transaction) error {
		cancel()
		for !f.db.isPostgres() { // until database/sql has undone it
			if _, err := tx.ExecContext(f.ctx, `DELETE FROM settings WHERE name = 'none'`); err != nil {
				require.ErrorIs(t, err, sql.ErrTxDone)
				return err
			}
		}
		return insert(tx, "given up")
	}), context.Canceled, "whoever gave up is told so, and not that the transaction is over")
	require.False(t, f.has("given up"))
	require.NoError(t, f.write(f.ctx, func(tx *transaction) error { return insert(tx, "given up") }))
	require.True(t, f.has("given up"))
}
