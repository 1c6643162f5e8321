package center

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/center/store/storetest"
	"github.com/drover/drover/smc"
)

// benchClients are the numbers of clients that call at once.
var benchClients = []int{1, 16, 64}

// benchAccount is how many sources and jobs an account of the benchmarks has: its quota.
const benchAccount = 1000

// BenchmarkDescribeReplicationJobs asks for pages of 50 of the 1,000 jobs of an account.
func BenchmarkDescribeReplicationJobs(b *testing.B) {
	bench := newBench(b)
	bench.jobs(0)
	for _, clients := range benchClients {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) { bench.compare(b, smc.DescribeReplicationJobs, clients, pageOfJobs) })
	}
}

// BenchmarkDescribeReplicationJobsBusy does the same while 50 of the jobs report their progress once a second each.
func BenchmarkDescribeReplicationJobsBusy(b *testing.B) {
	bench := newBench(b)
	bench.jobs(0)
	const running = 50
	jobs, err := bench.store.JobPage(b.Context(), "account-0", store.JobFilter{}, store.Page{Number: 3, Size: running}, nil, func(string) (int64, bool) { return 0, false })
	require.NoError(b, err)
	_, err = storetest.DB(b, bench.database).ExecContext(b.Context(), `UPDATE replication_jobs SET status = 'Running', business_status = 'Syncing', run = 1`)
	require.NoError(b, err)
	ctx, cancel := context.WithCancel(b.Context())
	var reports errgroup.Group
	reports.Go(func() error {
		ticker := time.NewTicker(time.Second / running)
		defer ticker.Stop()
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				return nil
			case <-ticker.C:
			}
			err := bench.store.UpdateProgress(ctx, jobs.Jobs[i%running].JobID, 1, store.SyncProgress{BytesTotal: 1 << 30, BytesRead: int64(i)})
			if err != nil && ctx.Err() == nil {
				return err
			}
		}
	})
	b.Cleanup(func() {
		cancel()
		require.NoError(b, reports.Wait())
	})
	for _, clients := range benchClients {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) { bench.compare(b, smc.DescribeReplicationJobs, clients, pageOfJobs) })
	}
}

// pageOfJobs asks for one page after the other of the first account's jobs.
func pageOfJobs(i int) (keyID string, values url.Values) {
	page, size := 1+i%(benchAccount/smc.MaxPageSize), smc.MaxPageSize
	return benchKey(0), smc.DescribeReplicationJobs.Encode(&smc.DescribeReplicationJobsRequest{PageNumber: &page, PageSize: &size})
}

// BenchmarkCreateReplicationJob makes a job of each source server of accounts of 1,000. The engine starts no workflow:
// what is measured is the endpoint and its store.
func BenchmarkCreateReplicationJob(b *testing.B) {
	bench := newBench(b)
	for _, clients := range benchClients {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			sources := bench.sources(b, b.N+warmUps(clients))
			bench.compare(b, smc.CreateReplicationJob, clients, func(i int) (string, url.Values) {
				return sources[i].keyID, smc.CreateReplicationJob.Encode(&smc.CreateReplicationJobRequest{RegionID: region, SourceID: sources[i].id})
			})
		})
	}
}

// bench is a center and a bare handler on one store, both served over loopback.
type bench struct {
	b                *testing.B
	store            *store.Store
	database         string
	center, bare     *httptest.Server
	accounts, signed int
	// answer is what the bare handler answers.
	answer atomic.Pointer[[]byte]
}

type benchSource struct{ id, keyID string }

func benchKey(account int) string { return fmt.Sprintf("ak-%d", account) }

func newBench(b *testing.B) *bench {
	b.Helper()
	database := storetest.URL(b)
	record, err := store.Open(b.Context(), database)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, record.Close()) })
	bench := &bench{b: b, store: record, database: database}
	bench.center = httptest.NewServer(NewEndpoint(Config{
		Store: record, Engine: idle{}, DataPlaneKey: dataPlaneKey, RegionID: region, HostID: "endpoint-1", Logger: zap.NewNop(),
	}).Handler())
	b.Cleanup(bench.center.Close)
	bench.bare = httptest.NewServer(http.HandlerFunc(bench.serveBare))
	b.Cleanup(bench.bare.Close)
	return bench
}

// idle starts no workflows.
type idle struct{}

func (idle) Begin(context.Context, string) error                       { return nil }
func (idle) WakeDueStart(context.Context, string) error                { return nil }
func (idle) Update(context.Context, string, string, string, any) error { return nil }

// serveBare is the least that an endpoint has to do: it verifies the signature, records the nonce, and answers with as
// many bytes as the center. It knows the secret without looking it up.
func (s *bench) serveBare(w http.ResponseWriter, r *http.Request) {
	request, err := smc.ReadRequest(w, r)
	if err == nil {
		verifier := smc.Verifier{
			Secret: func(context.Context, string) (string, bool, error) { return secret, true, nil },
			Nonces: nonces{s.store},
		}
		_, err = verifier.Verify(r.Context(), request)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	w.Header().Set("Content-Type", "application/json;charset=utf-8")
	_, _ = w.Write(*s.answer.Load())
}

// sources adds source servers in accounts of their own. All but the first of them are copied by the database.
func (s *bench) sources(b *testing.B, n int) []benchSource {
	b.Helper()
	ctx := b.Context()
	db := storetest.DB(b, s.database)
	var sources []benchSource
	for len(sources) < n {
		account := fmt.Sprintf("account-%d", s.accounts)
		keyID := benchKey(s.accounts)
		s.accounts++
		require.NoError(b, s.store.PutAccessKey(ctx, store.AccessKey{AccessKeyID: keyID, Secret: secret, AccountID: account}))
		token := store.AccessToken{AccessTokenID: store.NewID("at"), AccountID: account, RegionID: region, Count: 1, TTLDays: 1}
		require.NoError(b, s.store.CreateAccessToken(ctx, token, account))
		first, err := s.store.RegisterSource(ctx, account, "token of "+account, "instance", "source", described, benchAccount)
		require.NoError(b, err)
		sources = append(sources, benchSource{first.SourceID, keyID})
		count := min(n-len(sources), benchAccount-1)
		_, err = db.ExecContext(ctx, `WITH RECURSIVE copies(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM copies WHERE i < $1)
			INSERT INTO source_servers (source_id, account_id, region_id, name, state, server, token_hash, instance, heartbeat_at, created_at)
			SELECT source_id || i, account_id, region_id, name || i, state, server, token_hash || i, instance || i, heartbeat_at, created_at
			FROM source_servers, copies WHERE source_id = $2`, count, first.SourceID)
		require.NoError(b, err)
		for i := range count {
			sources = append(sources, benchSource{fmt.Sprintf("%s%d", first.SourceID, i+1), keyID})
		}
	}
	return sources
}

// jobs fills an account with jobs that have had a run each, carry tags, and replicate a data disk.
func (s *bench) jobs(account int) {
	ctx := s.b.Context()
	name, value := "wave", "first"
	for _, source := range s.sources(s.b, benchAccount) {
		description := "web server of the first wave"
		_, err := s.store.CreateJob(ctx, fmt.Sprintf("account-%d", account), smc.CreateReplicationJobRequest{
			RegionID: region, SourceID: source.id, Description: &description, Tag: []smc.TagParameter{{Key: &name, Value: &value}, {Key: &value, Value: &name}},
		}, benchAccount)
		require.NoError(s.b, err)
	}
	_, err := storetest.DB(s.b, s.database).ExecContext(ctx, `INSERT INTO replication_runs (job_id, number, type, status, started_at, ended_at, image_id)
		SELECT job_id, 1, 'Manual', 'Finished', created_at, created_at + 1000, 'm-000000000000000000' FROM replication_jobs`)
	require.NoError(s.b, err)
}

// compare sends b.N calls to the center and as many to the bare handler, in turns, and reports calls a second, latencies
// and the ratio of the two.
func (s *bench) compare(b *testing.B, operation smc.AnyOperation, clients int, request func(i int) (keyID string, values url.Values)) {
	b.Helper()
	// The bare handler answers with what the center answered before: the first calls also open the connections, and ask for every page once.
	warmCenter := s.connect(b, s.center, clients)
	warmBare := s.connect(b, s.bare, clients)
	s.answer.Store(new([]byte))
	warmUp := s.sign(operation, request, b.N, warmUps(clients))
	_, body := warmCenter.call(b, warmUp)
	s.answer.Store(&body)
	warmBare.call(b, s.sign(operation, request, b.N, warmUps(clients)))

	const turns = 16
	ofCenter, ofBare := s.sign(operation, request, 0, b.N), s.sign(operation, request, 0, b.N)
	var center, bare timings
	b.ResetTimer()
	for turn := range turns {
		from, to := b.N*turn/turns, b.N*(turn+1)/turns
		t, _ := warmCenter.call(b, ofCenter[from:to])
		center.add(t)
		b.StopTimer() // ns/op are the center's
		t, _ = warmBare.call(b, ofBare[from:to])
		bare.add(t)
		b.StartTimer()
	}
	b.StopTimer()
	center.report(b, "")
	bare.report(b, "bare-")
	b.ReportMetric(center.rate()/bare.rate(), "of-bare")
	b.ReportMetric(float64(len(body)), "answer-B")
}

// warmUps is how many calls come before those that are measured.
func warmUps(clients int) int { return max(clients, benchAccount/smc.MaxPageSize) }

// sign makes requests as they are sent, so that the clients do nothing but send them.
func (s *bench) sign(operation smc.AnyOperation, request func(int) (string, url.Values), from, n int) [][]byte {
	requests := make([][]byte, n)
	for i := range requests {
		keyID, values := request(from + i)
		values.Set("Action", operation.Name())
		values.Set("Version", smc.Version)
		values.Set("Format", "JSON")
		s.signed++
		smc.SignValues(values, http.MethodGet, keyID, secret, time.Now(), fmt.Sprintf("nonce-%d", s.signed))
		requests[i] = fmt.Appendf(nil, "GET /?%s HTTP/1.1\r\nHost: center.example\r\n\r\n", values.Encode())
	}
	return requests
}

// timings are those of calls that clients made side by side.
type timings struct {
	took  time.Duration
	calls []time.Duration
}

func (t *timings) add(other timings) {
	t.took += other.took
	t.calls = append(t.calls, other.calls...)
}

func (t *timings) rate() float64 { return float64(len(t.calls)) / t.took.Seconds() }

func (t *timings) report(b *testing.B, prefix string) {
	b.Helper()
	slices.Sort(t.calls)
	ms := func(percent int) float64 {
		return float64(t.calls[(len(t.calls)-1)*percent/100]) / float64(time.Millisecond)
	}
	b.ReportMetric(t.rate(), prefix+"calls/s")
	b.ReportMetric(ms(50), prefix+"p50-ms")
	b.ReportMetric(ms(99), prefix+"p99-ms")
}

// connections are the kept-alive connections of clients.
type connections []*connection

type connection struct {
	net.Conn
	answers *bufio.Reader
}

func (s *bench) connect(b *testing.B, server *httptest.Server, clients int) connections {
	b.Helper()
	made := make(connections, clients)
	for i := range made {
		conn, err := (&net.Dialer{}).DialContext(b.Context(), "tcp", strings.TrimPrefix(server.URL, "http://"))
		require.NoError(b, err)
		b.Cleanup(func() { _ = conn.Close() })
		made[i] = &connection{Conn: conn, answers: bufio.NewReaderSize(conn, 64<<10)}
	}
	return made
}

// call sends requests, each connection the next one as soon as it has its answer, and returns the longest answer too.
func (c connections) call(b *testing.B, requests [][]byte) (timings, []byte) {
	b.Helper()
	result := timings{calls: make([]time.Duration, len(requests))}
	var next atomic.Int64
	var failure error
	var longest []byte
	var mutex sync.Mutex
	var group sync.WaitGroup
	start := time.Now()
	for _, conn := range c {
		group.Go(func() {
			var best []byte
			for {
				i := int(next.Add(1)) - 1
				if i >= len(requests) {
					break
				}
				sent := time.Now()
				body, err := conn.do(requests[i], i < len(c))
				result.calls[i] = time.Since(sent)
				if err != nil {
					mutex.Lock()
					failure = err
					mutex.Unlock()
					return
				}
				if len(body) > len(best) {
					best = body
				}
			}
			mutex.Lock()
			defer mutex.Unlock()
			if len(best) > len(longest) {
				longest = best
			}
		})
	}
	group.Wait()
	result.took = time.Since(start)
	require.NoError(b, failure)
	return result, longest
}

// do sends a request and waits for its answer, whose body it returns if it is to be kept.
func (c *connection) do(request []byte, keep bool) ([]byte, error) {
	if _, err := c.Write(request); err != nil {
		return nil, err
	}
	response, err := http.ReadResponse(c.answers, nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	if keep || response.StatusCode != http.StatusOK {
		body, err := io.ReadAll(response.Body)
		if err == nil && response.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s", response.Status, body)
		}
		return body, err
	}
	_, err = io.Copy(io.Discard, response.Body)
	return nil, err
}
