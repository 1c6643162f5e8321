package replica

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"
)

var testKey = []byte("0123456789abcdef0123456789abcdef")

// memoryEpochs is an EpochStore for tests; it outlives hosts.
type memoryEpochs struct {
	mu     sync.Mutex
	epochs map[string]int64
	closed map[string]bool
	away   bool
	asked  int
}

func newEpochs() *memoryEpochs {
	return &memoryEpochs{epochs: map[string]int64{}, closed: map[string]bool{}}
}

func (m *memoryEpochs) RaiseEpoch(_ context.Context, job string, _ int) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed[job] {
		return 0, fmt.Errorf("job %s: %w", job, ErrSessionClosed)
	}
	m.epochs[job]++
	return m.epochs[job], nil
}

func (m *memoryEpochs) CheckEpoch(_ context.Context, job string, epoch int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away {
		m.asked++
		return errors.New("the database is away")
	}
	if m.epochs[job] != epoch {
		return fmt.Errorf("job %s: %w", job, ErrFenced)
	}
	return nil
}

// cut has checks fail, or no more; asked is how many have failed by then.
func (m *memoryEpochs) cut(away bool) (asked int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.away = away
	return m.asked
}

// stop does what stopping a job does: it raises the epoch in the store.
func (m *memoryEpochs) stop(job string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.epochs[job]++
}

// site is a transition host that can be killed and started again at one address.
type site struct {
	t      testing.TB
	root   string
	epochs *memoryEpochs
	url    string
	addr   string

	host   *Host
	server *httptest.Server
	// secure has the host serve https.
	secure bool
	// intercept may answer a request in the host's place.
	intercept atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]
}

func newSite(tb testing.TB) *site {
	tb.Helper()
	return startSite(tb, false)
}

func startSite(tb testing.TB, secure bool) *site {
	tb.Helper()
	s := &site{t: tb, root: tb.TempDir(), epochs: newEpochs(), addr: "127.0.0.1:0", secure: secure}
	s.start()
	tb.Cleanup(func() { s.kill() })
	return s
}

func (s *site) start() {
	s.t.Helper()
	var err error
	s.host, err = NewHost(HostConfig{Root: s.root, ID: "i-test", Key: testKey, Epochs: s.epochs, Logger: zaptest.NewLogger(s.t, zaptest.Level(zapcore.ErrorLevel))})
	require.NoError(s.t, err)
	var listener net.Listener
	require.Eventually(s.t, func() bool {
		listener, err = net.Listen("tcp", s.addr)
		return err == nil
	}, 5*time.Second, 5*time.Millisecond, "listen again")
	s.addr = listener.Addr().String()
	handler := s.host.Handler()
	s.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f := s.intercept.Load(); f != nil && (*f)(w, r) {
			return
		}
		handler.ServeHTTP(w, r)
	}))
	s.server.Listener.Close()
	s.server.Listener = listener
	if s.secure {
		s.server.StartTLS()
	} else {
		s.server.Start()
	}
	s.url = s.server.URL
}

// kill ends the host as a crash would: connections are cut, requests under way
// come to nothing, and no session settles its files.
func (s *site) kill() {
	if s.host == nil {
		return
	}
	s.server.CloseClientConnections()
	s.server.Listener.Close()
	s.host.mu.Lock()
	s.host.closed = true
	for _, session := range s.host.sessions {
		session.cancel()
		session.fence.Lock()
		if !session.closed {
			session.closed = true
			for _, d := range session.disks {
				d.closeFiles()
			}
			session.ledger.f.Close()
		}
		session.fence.Unlock()
		session.end(errors.New("killed"))
	}
	s.host.mu.Unlock()
	s.host.lock.Close()
	s.server.Close()
	s.host = nil
}

func (s *site) sync(ctx context.Context, job string, disks ...SourceDisk) error {
	return Sync(ctx, s.config(job, disks...), nil)
}

var instances atomic.Int64

func (s *site) config(job string, disks ...SourceDisk) SyncConfig {
	var client *http.Client
	if s.secure {
		roots := x509.NewCertPool()
		roots.AddCert(s.server.Certificate())
		client = NewClient(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12})
	}
	return SyncConfig{
		Client: client, HostURL: s.url, Token: SignToken(testKey, TokenSession, job, time.Now().Add(time.Hour)), JobID: job,
		Instance: fmt.Sprintf("agent-%d", instances.Add(1)), Disks: disks, Logger: zaptest.NewLogger(s.t, zaptest.Level(zapcore.ErrorLevel)),
		ReadPatience: -1,
	}
}

func (s *site) open(job string, run int, params Params, disks ...SourceDisk) *Session {
	s.t.Helper()
	session, err := s.host.OpenSession(s.t.Context(), SessionSpec{JobID: job, Run: run, Disks: sizes(s.t, disks), Params: params})
	require.NoError(s.t, err)
	return session
}

func sizes(tb testing.TB, disks []SourceDisk) []Disk {
	tb.Helper()
	var out []Disk
	for _, d := range disks {
		info, err := os.Stat(d.Path)
		require.NoError(tb, err)
		out = append(out, Disk{Index: d.Index, SizeBytes: info.Size()})
	}
	return out
}

// run synchronises a run from end to end and returns its result.
func (s *site) run(job string, run int, params Params, disks ...SourceDisk) SyncResult {
	s.t.Helper()
	session := s.open(job, run, params, disks...)
	require.NoError(s.t, s.sync(s.t.Context(), job, disks...))
	result, err := session.Wait(s.t.Context(), time.Second, nil)
	require.NoError(s.t, err)
	return result
}

func (s *site) staged(job string, index int) string {
	return rawPath(filepath.Join(s.root, "staging", job), index)
}

func (s *site) requireStaged(job string, disks ...SourceDisk) {
	s.t.Helper()
	for _, d := range disks {
		requireSame(s.t, d.Path, s.staged(job, d.Index))
	}
}

func requireSame(tb testing.TB, a, b string) {
	tb.Helper()
	x, err := os.ReadFile(a)
	require.NoError(tb, err)
	y, err := os.ReadFile(b)
	require.NoError(tb, err)
	if !bytes.Equal(x, y) {
		at := 0
		for at < len(x) && at < len(y) && x[at] == y[at] {
			at++
		}
		tb.Fatalf("%s (%d bytes) and %s (%d bytes) differ from byte %d on", a, len(x), b, len(y), at)
	}
}

// makeDisk writes a source disk with random data, compressible data, zeros
// that are stored and holes. It returns how many bytes are not zero, in grains.
func makeDisk(tb testing.TB, size int64, seed uint64) SourceDisk {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "source.raw")
	f, err := os.Create(path)
	require.NoError(tb, err)
	defer f.Close()
	require.NoError(tb, f.Truncate(size))
	rng := rand.New(rand.NewPCG(seed, 1))
	buf := make([]byte, 1<<20)
	for off := int64(0); off < size; {
		n := min(int64(rng.IntN(len(buf)))+1, size-off)
		switch rng.IntN(4) {
		case 0: // a hole
		case 1:
			clear(buf[:n])
			_, err = f.WriteAt(buf[:n], off)
		case 2:
			for i := range buf[:n] {
				buf[i] = "drover"[i%6]
			}
			_, err = f.WriteAt(buf[:n], off)
		default:
			randomize(rng, buf[:n])
			_, err = f.WriteAt(buf[:n], off)
		}
		require.NoError(tb, err)
		off += n
	}
	return SourceDisk{Path: path}
}

func randomize(rng *rand.Rand, b []byte) {
	for i := 0; i < len(b); i += 8 {
		v := rng.Uint64()
		for j := i; j < min(i+8, len(b)); j++ {
			b[j] = byte(v)
			v >>= 8
		}
	}
}

// nonZeroBytes is what a first run has to send of a disk.
func nonZeroBytes(tb testing.TB, path string) (n int64) {
	tb.Helper()
	b, err := os.ReadFile(path)
	require.NoError(tb, err)
	for len(b) > 0 {
		g := b[:min(GrainSize, len(b))]
		if !isZero(g) {
			n += int64(len(g))
		}
		b = b[len(g):]
	}
	return n
}

// overwrite replaces a range of a source disk.
func overwrite(tb testing.TB, path string, off int64, data []byte) {
	tb.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	require.NoError(tb, err)
	defer f.Close()
	_, err = f.WriteAt(data, off)
	require.NoError(tb, err)
}

func TestRoundTrip(t *testing.T) {
	for _, size := range []int64{1, 511, 512, GrainSize - 1, GrainSize, GrainSize + 1, 5<<20 + 12345, 16 << 20, 33<<20 + 512} {
		for _, level := range []int{0, 1, 3, 9} {
			t.Run(fmt.Sprintf("%d bytes level %d", size, level), func(t *testing.T) {
				s := newSite(t)
				disk := makeDisk(t, size, uint64(size)+uint64(level))
				result := s.run("j-1", 1, Params{CompressLevel: level, Checksum: true}, disk)
				s.requireStaged("j-1", disk)
				require.Equal(t, size, result.Progress.BytesTotal)
				require.Equal(t, size, result.Progress.BytesRead)
				require.Equal(t, nonZeroBytes(t, disk.Path), result.Progress.BytesSentRaw)
				require.Equal(t, nonZeroBytes(t, disk.Path), result.Progress.BytesWritten)
				require.False(t, result.AlreadyComplete)
			})
		}
	}
}

func TestSeveralDisks(t *testing.T) {
	s := newSite(t)
	a, b, c := makeDisk(t, 9<<20, 1), makeDisk(t, 3<<20+77, 2), makeDisk(t, 100, 3)
	b.Index, c.Index = 1, 5
	result := s.run("j-1", 1, DefaultParams(), a, b, c)
	s.requireStaged("j-1", a, b, c)
	require.Len(t, result.Progress.Disks, 3)
	require.Equal(t, int64(3<<20+77), result.Progress.Disks[1].BytesRead)
}

func TestHolesAreNeitherReadNorSent(t *testing.T) {
	s := newSite(t)
	disk := makeDisk(t, 100, 1)
	require.NoError(t, os.Truncate(disk.Path, 1<<30))
	s.open("j-1", 1, DefaultParams(), disk)
	cfg := s.config("j-1", disk)
	var read atomic.Int64
	cfg.Open = func(d SourceDisk) (DiskReader, error) {
		r, err := OpenDisk(d.Path)
		return &countingDisk{DiskReader: r, n: &read}, err
	}
	require.NoError(t, Sync(t.Context(), cfg, nil))
	require.LessOrEqual(t, read.Load(), int64(chunkSize))
	info, err := ProbeDisk(s.staged("j-1", 0))
	require.NoError(t, err)
	require.Equal(t, int64(1<<30), info.SizeBytes)
	require.Less(t, info.UsedBytes, int64(1<<20))
}

type countingDisk struct {
	DiskReader
	n *atomic.Int64
}

func (d *countingDisk) ReadAt(p []byte, off int64) (int, error) {
	d.n.Add(int64(len(p)))
	return d.DiskReader.ReadAt(p, off)
}

func TestIncrementalRunSendsChangedGrainsOnly(t *testing.T) {
	s := newSite(t)
	disk := makeDisk(t, 24<<20+100, 7)
	s.run("j-1", 1, DefaultParams(), disk)

	unchanged := s.run("j-1", 2, DefaultParams(), disk)
	require.Zero(t, unchanged.Progress.BytesSent, "an unchanged disk sends nothing")
	require.Equal(t, unchanged.Progress.BytesTotal, unchanged.Progress.BytesRead)

	overwrite(t, disk.Path, 3*GrainSize+17, []byte("changed"))
	overwrite(t, disk.Path, 24<<20+90, []byte("the end"))
	overwrite(t, disk.Path, 100*GrainSize-1, []byte("two"))
	result := s.run("j-1", 3, DefaultParams(), disk)
	require.Equal(t, int64(GrainSize+100+2*GrainSize), result.Progress.BytesSentRaw)
	s.requireStaged("j-1", disk)
}

func TestZeroedAndPunchedGrainsBecomeZeroRuns(t *testing.T) {
	s := newSite(t)
	path := filepath.Join(t.TempDir(), "d")
	data := make([]byte, 12<<20)
	randomize(rand.New(rand.NewPCG(1, 2)), data)
	require.NoError(t, os.WriteFile(path, data, 0o600))
	disk := SourceDisk{Path: path}
	s.run("j-1", 1, DefaultParams(), disk)

	overwrite(t, path, 1<<20, make([]byte, 2<<20)) // stored zeros
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	require.NoError(t, punch(f, 6<<20, 4<<20))
	require.NoError(t, f.Close())
	result := s.run("j-1", 2, DefaultParams(), disk)
	require.Zero(t, result.Progress.BytesSentRaw)
	require.Positive(t, result.Progress.BytesSent)
	require.Less(t, result.Progress.BytesSent, int64(4096))
	s.requireStaged("j-1", disk)
	info, err := ProbeDisk(s.staged("j-1", 0))
	require.NoError(t, err)
	require.LessOrEqual(t, info.UsedBytes, int64(6<<20), "the target gave the blocks back")
}

func TestSourceThatGrew(t *testing.T) {
	s := newSite(t)
	disk := makeDisk(t, 5<<20+4242, 3)
	s.run("j-1", 1, DefaultParams(), disk)
	require.NoError(t, os.Truncate(disk.Path, 9<<20+1))
	overwrite(t, disk.Path, 9<<20-5, []byte("abcdef"))
	require.NoError(t, s.host.Prepare(t.Context(), "j-1", sizes(t, []SourceDisk{disk})))
	s.run("j-1", 2, DefaultParams(), disk)
	s.requireStaged("j-1", disk)
}

func TestSourceThatShrankIsRefused(t *testing.T) {
	s := newSite(t)
	disk := makeDisk(t, 5<<20, 3)
	s.run("j-1", 1, DefaultParams(), disk)
	err := s.host.Prepare(t.Context(), "j-1", []Disk{{SizeBytes: 4 << 20}})
	requireCode(t, err, CodeSourceSizeChanged)
	s.requireStaged("j-1", disk)
}

func TestSizeDiffersFromPreparedOne(t *testing.T) {
	s := newSite(t)
	disk := makeDisk(t, 5<<20, 3)
	session, err := s.host.OpenSession(t.Context(), SessionSpec{JobID: "j-1", Run: 1, Disks: []Disk{{SizeBytes: 4 << 20}}})
	require.NoError(t, err)
	requireCode(t, s.sync(t.Context(), "j-1", disk), CodeSourceSizeChanged)
	_, err = session.Wait(t.Context(), time.Second, nil)
	requireCode(t, err, CodeSourceSizeChanged)
}

func requireCode(tb testing.TB, err error, code string) *Error {
	tb.Helper()
	var coded *Error
	require.ErrorAs(tb, err, &coded)
	require.Equal(tb, code, coded.Code, coded.Message)
	return coded
}

func TestSpace(t *testing.T) {
	s := newSite(t)
	empty, err := s.host.Space("j-1")
	require.NoError(t, err)
	require.Positive(t, empty.FreeBytes)
	require.Zero(t, empty.StagedBytes)
	require.Equal(t, s.root, empty.Path)
	disk := makeDisk(t, 8<<20, 5)
	s.run("j-1", 1, DefaultParams(), disk)
	used, err := s.host.Space("j-1")
	require.NoError(t, err)
	info, err := ProbeDisk(disk.Path)
	require.NoError(t, err)
	require.Greater(t, used.StagedBytes, int64(1<<20))
	require.LessOrEqual(t, used.StagedBytes, info.UsedBytes+MapBytes(8<<20)+1<<20)
	left, err := os.ReadDir(s.root)
	require.NoError(t, err)
	for _, entry := range left {
		require.NotContains(t, entry.Name(), "reflink")
	}
}

func TestPrepareOfASparseDisk(t *testing.T) {
	s := newSite(t)
	require.NoError(t, s.host.Prepare(t.Context(), "j-1", []Disk{{SizeBytes: 8 << 40}}), "sparse and small")
	require.NoError(t, s.host.ReleaseStaging(t.Context(), "j-1"))
	ids, err := s.host.StagingIDs()
	require.NoError(t, err)
	require.Empty(t, ids)
}

func TestIDsCannotEscapeTheRoot(t *testing.T) {
	s := newSite(t)
	for _, id := range []string{"", "..", "../x", "a/b", ".hidden", "a\x00b"} {
		requireCode(t, s.host.Prepare(t.Context(), id, []Disk{{SizeBytes: 1}}), CodeInvalidRequest)
		requireCode(t, s.host.DeleteImage(t.Context(), id), CodeInvalidRequest)
		requireCode(t, s.host.ReleaseStaging(t.Context(), id), CodeInvalidRequest)
	}
}

func TestRootHasOneHost(t *testing.T) {
	s := newSite(t)
	_, err := NewHost(HostConfig{Root: s.root, Key: testKey, Epochs: s.epochs})
	require.ErrorContains(t, err, "in use by another process")
}

func TestCompletionSurvivesTheHost(t *testing.T) {
	s := newSite(t)
	disk := makeDisk(t, 4<<20, 9)
	first := s.run("j-1", 1, DefaultParams(), disk)
	s.kill()
	s.start()
	session := s.open("j-1", 1, DefaultParams(), disk)
	result, err := session.Wait(t.Context(), time.Second, nil)
	require.NoError(t, err)
	require.True(t, result.AlreadyComplete)
	require.Equal(t, first.Progress, result.Progress)
	require.NoError(t, s.sync(t.Context(), "j-1", disk), "a sender that missed the answer learns that it is done")
}

// TestResumeAfterKills kills the host and the sender at random points and
// checks what the run sent in all, and that progress never went back.
func TestResumeAfterKills(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 99))
			s := newSite(t)
			path := filepath.Join(t.TempDir(), "d")
			data := make([]byte, 96<<20+333)
			randomize(rng, data)
			require.NoError(t, os.WriteFile(path, data, 0o600))
			disk := SourceDisk{Path: path}
			params := Params{CompressLevel: 0, Checksum: true}

			var high Progress
			watch := func(p Progress) {
				require.GreaterOrEqual(t, p.BytesRead, high.BytesRead)
				require.GreaterOrEqual(t, p.BytesSentRaw, high.BytesSentRaw)
				require.GreaterOrEqual(t, p.BytesWritten, high.BytesWritten)
				high = p
			}
			var hostKills, agentKills int64
			session := s.open("j-1", 1, params, disk)
			var agent *running
			start := func() { agent = startSync(s.config("j-1", disk)) }
			start()
			for kill := range 4 {
				target := int64(kill+1) * int64(len(data)) / 6
				require.Eventually(t, func() bool { return session.Progress().BytesWritten >= target }, 30*time.Second, time.Millisecond)
				if rng.IntN(2) == 0 {
					s.kill()
					watch(session.Progress())
					s.start()
					session = s.open("j-1", 1, params, disk)
					hostKills++
				} else {
					agent.stop()
					start()
					agentKills++
				}
				watch(session.Progress())
			}
			result, err := session.Wait(t.Context(), 10*time.Millisecond, watch)
			require.NoError(t, err)
			require.NoError(t, <-agent.done)
			s.requireStaged("j-1", disk)
			again := result.Progress.BytesSentRaw - int64(len(data))
			require.GreaterOrEqual(t, again, int64(0))
			require.LessOrEqual(t, again, (hostKills+agentKills)*defaultStreams*WindowSize, "one window per stream and kill")
			t.Logf("%d host and %d agent kills: %d KiB sent again", hostKills, agentKills, again>>10)
		})
	}
}

// running is a Sync that can be abandoned.
type running struct {
	cancel context.CancelFunc
	done   chan error
}

func startSync(cfg SyncConfig) *running {
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{cancel: cancel, done: make(chan error, 1)}
	go func() { r.done <- Sync(ctx, cfg, nil) }()
	return r
}

func (r *running) stop() error {
	r.cancel()
	return <-r.done
}

// TestCrashDuringOverwrite checks the one case that a map alone does not
// cover: a grain was being overwritten when the host died, and the source then
// turned back to what the map still says.
func TestCrashDuringOverwrite(t *testing.T) {
	s := newSite(t)
	disk := makeDisk(t, 80<<20, 4)
	s.run("j-1", 1, DefaultParams(), disk)
	session := s.open("j-1", 2, DefaultParams(), disk)
	d := session.disks[0]
	spans := []span{{70 << 20, 70<<20 + GrainSize}}
	require.NoError(t, d.intent.begin(spans))
	_, err := d.raw.WriteAt(bytes.Repeat([]byte("torn"), GrainSize/4), 70<<20)
	require.NoError(t, err)
	s.kill()
	s.start()
	s.run("j-1", 2, DefaultParams(), disk)
	s.requireStaged("j-1", disk)
}

// While epochs cannot be checked nothing is committed, and what was refused once is not sent again until it can be.
func TestEpochsAreAwayForAWhile(t *testing.T) {
	s := newSite(t)
	disk := makeDisk(t, 24<<20, 12)
	session := s.open("j-1", 1, DefaultParams(), disk)
	s.epochs.cut(true)
	done := make(chan error, 1)
	go func() { done <- s.sync(t.Context(), "j-1", disk) }()
	require.Eventually(t, func() bool { return s.epochs.cut(true) >= 6*defaultStreams }, 30*time.Second, 10*time.Millisecond, "each stream has tried again and again")
	require.Zero(t, session.Progress().BytesWritten)
	s.epochs.cut(false)
	require.NoError(t, <-done)
	result, err := session.Wait(t.Context(), time.Second, nil)
	require.NoError(t, err)
	require.LessOrEqual(t, result.Progress.BytesSentRaw, nonZeroBytes(t, disk.Path)+defaultStreams*WindowSize, "one window per stream")
	s.requireStaged("j-1", disk)
}

func TestSecondSenderFencesTheFirst(t *testing.T) {
	s := newSite(t)
	disk := makeDisk(t, 32<<20, 5)
	session := s.open("j-1", 1, Params{BandwidthLimitKbps: 8000}, disk)
	first := startSync(s.config("j-1", disk))
	require.Eventually(t, func() bool { return session.Progress().BytesWritten > 0 }, 20*time.Second, time.Millisecond)
	second := startSync(s.config("j-1", disk))
	select {
	case err := <-first.done:
		require.ErrorIs(t, err, ErrFenced)
	case <-time.After(20 * time.Second):
		t.Fatal("the first sender was not fenced")
	}
	select {
	case err := <-second.done:
		t.Fatalf("the second sender ended: %v", err)
	default:
	}
	require.ErrorIs(t, second.stop(), context.Canceled)
}

func TestStopElsewhereFencesTheSession(t *testing.T) {
	s := newSite(t)
	disk := makeDisk(t, 32<<20, 5)
	session := s.open("j-1", 1, Params{BandwidthLimitKbps: 8000}, disk)
	sender := startSync(s.config("j-1", disk))
	require.Eventually(t, func() bool { return session.Progress().BytesWritten > 0 }, 20*time.Second, time.Millisecond)
	s.epochs.stop("j-1")
	_, err := session.Wait(t.Context(), time.Second, nil)
	require.ErrorIs(t, err, ErrFenced)
	written := session.Progress().BytesWritten
	require.Error(t, sender.stop())
	require.Equal(t, written, session.Progress().BytesWritten)
}

func TestClosingASessionFailsRequestsAtOnce(t *testing.T) {
	s := newSite(t)
	disk := makeDisk(t, 32<<20, 5)
	// So slow that a window is in flight for minutes.
	session := s.open("j-1", 1, Params{BandwidthLimitKbps: 100}, disk)
	sender := startSync(s.config("j-1", disk))
	require.Eventually(t, func() bool { return session.Progress().BytesSent > 0 }, 20*time.Second, time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	const atOnce = 20 * time.Second // on the busiest machine, and far from minutes
	began := time.Now()
	_, err := session.Wait(ctx, time.Second, nil)
	require.ErrorIs(t, err, context.Canceled)
	require.Less(t, time.Since(began), atOnce)
	began = time.Now()
	require.ErrorIs(t, sender.stop(), context.Canceled)
	require.Less(t, time.Since(began), atOnce)
}

func TestSessionTellsWhenTheSourceWasHeard(t *testing.T) {
	s := newSite(t)
	before := time.Now()
	session, err := s.host.OpenSession(t.Context(), SessionSpec{JobID: "j-1", Run: 1, Disks: []Disk{{SizeBytes: 1 << 20}}})
	require.NoError(t, err)
	defer session.Close()
	opened := session.Heard()
	require.False(t, opened.Before(before.Truncate(time.Microsecond)), "at first: when it was opened")
	disk := makeDisk(t, 1<<20, 5)
	require.NoError(t, s.sync(t.Context(), "j-1", disk))
	require.True(t, session.Heard().After(opened))
}

// A host that cannot read or write its own files ends the session: the sender would try the same again for ever.
func TestBrokenStagingEndsTheSession(t *testing.T) {
	s := newSite(t)
	disk := makeDisk(t, 4<<20, 5)
	session, err := s.host.OpenSession(t.Context(), SessionSpec{JobID: "j-1", Run: 1, Disks: sizes(t, []SourceDisk{disk})})
	require.NoError(t, err)
	require.NoError(t, os.Remove(mapPath(s.host.stagingDir("j-1"), 0)))
	sender, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.sync(sender, "j-1", disk) }()
	_, err = session.Wait(t.Context(), time.Second, nil)
	requireCode(t, err, CodeStorageError)
	require.ErrorContains(t, err, "map of disk 0")
	cancel()
	require.Error(t, <-done)
}

func TestNewerSessionReplacesTheOlder(t *testing.T) {
	s := newSite(t)
	disk := makeDisk(t, 4<<20, 5)
	old := s.open("j-1", 1, DefaultParams(), disk)
	s.run("j-1", 1, DefaultParams(), disk)
	_, err := old.Wait(t.Context(), time.Second, nil)
	require.ErrorIs(t, err, ErrSessionReplaced)
}

func TestSenderWaitsForTheSession(t *testing.T) {
	s := newSite(t)
	disk := makeDisk(t, 4<<20, 5)
	var refused atomic.Int64
	f := func(_ http.ResponseWriter, r *http.Request) bool {
		if s.host.session("j-1") == nil {
			refused.Add(1)
		}
		return false
	}
	s.intercept.Store(&f)
	sender := startSync(s.config("j-1", disk))
	require.Eventually(t, func() bool { return refused.Load() >= 2 }, 10*time.Second, time.Millisecond)
	session := s.open("j-1", 1, DefaultParams(), disk)
	_, err := session.Wait(t.Context(), time.Second, nil)
	require.NoError(t, err)
	require.NoError(t, <-sender.done)
}

func TestWrongTokenIsRefused(t *testing.T) {
	s := newSite(t)
	disk := makeDisk(t, 1<<20, 5)
	s.open("j-1", 1, DefaultParams(), disk)
	for name, token := range map[string]string{
		"another job": SignToken(testKey, TokenSession, "j-2", time.Now().Add(time.Hour)),
		"another key": SignToken([]byte("fedcba9876543210"), TokenSession, "j-1", time.Now().Add(time.Hour)),
		"expired":     SignToken(testKey, TokenSession, "j-1", time.Now().Add(-time.Second)),
		"kind":        SignToken(testKey, TokenImage, "j-1", time.Now().Add(time.Hour)),
		"none":        "",
	} {
		cfg := s.config("j-1", disk)
		cfg.Token = token
		require.ErrorIs(t, Sync(t.Context(), cfg, nil), ErrRefused, name)
	}
}

// brokenDisk fails to read one grain.
type brokenDisk struct {
	DiskReader
	at int64
}

func (d *brokenDisk) ReadAt(p []byte, off int64) (int, error) {
	if off < d.at+GrainSize && off+int64(len(p)) > d.at {
		return 0, errors.New("input/output error")
	}
	return d.DiskReader.ReadAt(p, off)
}

func TestReadErrorNamesDiskAndOffset(t *testing.T) {
	s := newSite(t)
	path := filepath.Join(t.TempDir(), "d")
	data := make([]byte, 20<<20)
	randomize(rand.New(rand.NewPCG(1, 2)), data)
	require.NoError(t, os.WriteFile(path, data, 0o600))
	disk := SourceDisk{Path: path, Index: 2}
	session := s.open("j-1", 1, DefaultParams(), disk)
	cfg := s.config("j-1", disk)
	cfg.Open = func(d SourceDisk) (DiskReader, error) {
		r, err := OpenDisk(d.Path)
		return &brokenDisk{DiskReader: r, at: 100 * GrainSize}, err
	}
	err := Sync(t.Context(), cfg, nil)
	coded := requireCode(t, err, CodeSourceReadError)
	require.Equal(t, 2, coded.Disk)
	require.Equal(t, int64(100*GrainSize), coded.Offset)
	_, err = session.Wait(t.Context(), time.Second, nil)
	coded = requireCode(t, err, CodeSourceReadError)
	require.Equal(t, 2, coded.Disk)
	require.Equal(t, int64(100*GrainSize), coded.Offset)

	s.run("j-1", 1, DefaultParams(), disk) // the disk was repaired
	s.requireStaged("j-1", disk)
}

// healingDisk fails a number of reads of one grain.
type healingDisk struct {
	brokenDisk
	failures atomic.Int64
}

func (d *healingDisk) ReadAt(p []byte, off int64) (int, error) {
	if n, err := d.brokenDisk.ReadAt(p, off); err == nil || d.failures.Add(-1) >= 0 {
		return n, err
	}
	return d.DiskReader.ReadAt(p, off)
}

// A path to a disk that fails over: what cannot be read for a moment is no failure.
func TestReadErrorThatPasses(t *testing.T) {
	s := newSite(t)
	disk := makeDisk(t, 20<<20, 5)
	s.open("j-1", 1, DefaultParams(), disk)
	cfg := s.config("j-1", disk)
	cfg.ReadPatience = time.Minute
	healing := &healingDisk{brokenDisk: brokenDisk{at: 0}}
	healing.failures.Store(3)
	cfg.Open = func(d SourceDisk) (DiskReader, error) {
		r, err := OpenDisk(d.Path)
		healing.DiskReader = r
		return healing, err
	}
	require.NoError(t, Sync(t.Context(), cfg, nil))
	require.Negative(t, healing.failures.Load(), "it did fail")
	s.requireStaged("j-1", disk)
}

func TestBandwidthLimitHolds(t *testing.T) {
	s := newSite(t)
	path := filepath.Join(t.TempDir(), "d")
	data := make([]byte, 3<<20)
	randomize(rand.New(rand.NewPCG(1, 2)), data)
	require.NoError(t, os.WriteFile(path, data, 0o600))
	disk := SourceDisk{Path: path}
	const kbps = 16000 // 2 MB/s
	var want, took time.Duration
	for run := range 10 {
		job := fmt.Sprint("j-", run)
		began := time.Now()
		result := s.run(job, 1, Params{BandwidthLimitKbps: kbps, CompressLevel: 0}, disk)
		took = time.Since(began)
		want = time.Duration(float64(result.Progress.BytesSent) * 8 / (kbps * 1000) * float64(time.Second))
		require.Greater(t, took, want*95/100)
		if took < want*120/100+300*time.Millisecond {
			return
		}
	}
	// A busy machine may be slower than the limit, for a while.
	require.Fail(t, "the limit is not used", "%v, of the %v that it allows", took, want)
}

func TestLimitScalesStreamsAndWindows(t *testing.T) {
	for _, c := range []struct {
		kbps            int64
		streams, window int
	}{
		{0, 4, WindowSize},
		{1, 1, GrainSize},
		{512, 1, GrainSize},
		{8_000, 4, 7 * GrainSize},
		{100_000, 4, WindowSize},
		{10_000_000, 4, WindowSize},
	} {
		limiter, streams, window := limit(c.kbps, 4)
		require.Equal(t, c.streams, streams, "%d kbit/s", c.kbps)
		require.Equal(t, c.window, window, "%d kbit/s", c.kbps)
		if c.kbps > 0 {
			require.InDelta(t, float64(c.kbps)*125, float64(limiter.Limit()), 1)
		}
	}
}

// TestBlockDevices runs against a loop device where the test may make one.
func TestBlockDevices(t *testing.T) {
	path := makeGPT(t, 16<<20, 512)
	device := loopDevice(t, path)
	info, err := ProbeDisk(device)
	require.NoError(t, err)
	require.Equal(t, int64(16<<20), info.SizeBytes)
	require.Equal(t, info.SizeBytes, info.UsedBytes)
	require.Equal(t, device+"p1", info.Partitions[0].Device)

	s := newSite(t)
	session, err := s.host.OpenSession(t.Context(), SessionSpec{JobID: "j-1", Run: 1, Disks: []Disk{{SizeBytes: info.SizeBytes}}, Params: DefaultParams()})
	require.NoError(t, err)
	require.NoError(t, s.sync(t.Context(), "j-1", SourceDisk{Path: device}))
	_, err = session.Wait(t.Context(), time.Second, nil)
	require.NoError(t, err)
	s.requireStaged("j-1", SourceDisk{Path: path})
}
