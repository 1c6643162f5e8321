package app

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/monitor"
	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
)

const (
	goodCode  = "a-good-code"
	goodToken = "a-good-token"
	patience  = time.Minute
)

// fakeCenter is a center of one source server.
type fakeCenter struct {
	*httptest.Server

	mu         sync.Mutex
	changed    chan struct{} // closed and replaced at every change of desired
	desired    agentapi.Desired
	down       bool // answers 503
	deleted    bool // knows no token
	registered []agentapi.RegisterRequest
	heartbeats []agentapi.HeartbeatRequest
	polls      []agentapi.WorkQuery
	refused    int    // requests answered with 503
	authority  string // what heartbeats are answered with
	onRegister func()
}

func newFakeCenter(t *testing.T) *fakeCenter {
	t.Helper()
	c := &fakeCenter{changed: make(chan struct{}), desired: agentapi.Desired{Generation: 1}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+agentapi.PathRegister, func(w http.ResponseWriter, r *http.Request) {
		var req agentapi.RegisterRequest
		if !c.admit(w, r, false, &req) {
			return
		}
		if req.Code != goodCode {
			refuse(w, http.StatusForbidden, agentapi.CodeInvalidActivationCode, "the code is not known")
			return
		}
		c.mu.Lock()
		c.registered = append(c.registered, req)
		c.mu.Unlock()
		if c.onRegister != nil {
			c.onRegister()
		}
		reply(w, agentapi.RegisterResponse{SourceID: "s-1", Token: goodToken, HeartbeatRateSeconds: 7})
	})
	mux.HandleFunc("POST "+agentapi.PathHeartbeat, func(w http.ResponseWriter, r *http.Request) {
		var req agentapi.HeartbeatRequest
		if !c.admit(w, r, true, &req) {
			return
		}
		c.mu.Lock()
		c.heartbeats = append(c.heartbeats, req)
		answer := agentapi.HeartbeatResponse{HeartbeatRateSeconds: 7, CACertificates: c.authority}
		c.mu.Unlock()
		reply(w, answer)
	})
	mux.HandleFunc("GET "+agentapi.PathWork, func(w http.ResponseWriter, r *http.Request) {
		if !c.admit(w, r, true, nil) {
			return
		}
		q, err := agentapi.ParseWorkQuery(r.URL.Query())
		if err != nil {
			refuse(w, http.StatusBadRequest, smc.CodeInvalidParameter, err.Error())
			return
		}
		c.mu.Lock()
		c.polls = append(c.polls, q)
		c.mu.Unlock()
		deadline := time.After(q.Wait)
		for {
			c.mu.Lock()
			desired, changed := c.desired, c.changed
			c.mu.Unlock()
			if desired.Generation != q.Have {
				reply(w, desired)
				return
			}
			select {
			case <-changed:
				if !c.admit(w, r, true, nil) {
					return
				}
			case <-deadline:
				reply(w, desired)
				return
			case <-r.Context().Done():
				return
			}
		}
	})
	c.Server = httptest.NewServer(mux)
	t.Cleanup(c.Close)
	return c
}

func (c *fakeCenter) admit(w http.ResponseWriter, r *http.Request, token bool, into any) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.down:
		c.refused++
		http.Error(w, "out of order", http.StatusServiceUnavailable)
		return false
	case token && (c.deleted || r.Header.Get("Authorization") != "Bearer "+goodToken):
		refuse(w, http.StatusUnauthorized, agentapi.CodeInvalidAgentToken, "the token is not known")
		return false
	}
	if into != nil {
		if err := json.NewDecoder(r.Body).Decode(into); err != nil {
			refuse(w, http.StatusBadRequest, smc.CodeInvalidParameter, err.Error())
			return false
		}
	}
	return true
}

func (c *fakeCenter) set(change func(*fakeCenter)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(c)
	close(c.changed)
	c.changed = make(chan struct{})
}

// want gives the agent work (nil: none) in a new generation.
func (c *fakeCenter) want(work *agentapi.Work) {
	c.set(func(c *fakeCenter) { c.desired = agentapi.Desired{Generation: c.desired.Generation + 1, Work: work} })
}

func (c *fakeCenter) count(what func(*fakeCenter) int) func() int {
	return func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return what(c)
	}
}

// registrations and beats are what has come so far. Something of an agent that was stopped may come still.
func (c *fakeCenter) registrations() []agentapi.RegisterRequest {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.registered)
}

func (c *fakeCenter) beats() []agentapi.HeartbeatRequest {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.heartbeats)
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"RequestId": "R-1", "HostId": "center", "Code": code, "Message": message})
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// fakeSync is a data plane in the hands of the test.
type fakeSync struct {
	t      *testing.T
	starts chan *syncCall
}

// syncCall is one call of Sync.
type syncCall struct {
	cfg    replica.SyncConfig
	report func(replica.Progress)
	result chan error    // what the call returns, unless it is cancelled
	ended  chan struct{} // closed when it was cancelled
}

func (f *fakeSync) sync(ctx context.Context, cfg replica.SyncConfig, report func(replica.Progress)) error {
	call := &syncCall{cfg: cfg, report: report, result: make(chan error), ended: make(chan struct{})}
	select {
	case f.starts <- call:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-call.result:
		return err
	case <-ctx.Done():
		close(call.ended)
		return ctx.Err()
	}
}

func (f *fakeSync) next() *syncCall {
	f.t.Helper()
	select {
	case call := <-f.starts:
		return call
	case <-time.After(patience):
		require.FailNow(f.t, "no sync was started")
		return nil
	}
}

func (c *syncCall) finish(t *testing.T, err error) {
	t.Helper()
	select {
	case c.result <- err:
	case <-time.After(patience):
		require.FailNow(t, "the sync is over already")
	}
}

func (c *syncCall) requireEnded(t *testing.T) {
	t.Helper()
	select {
	case <-c.ended:
	case <-time.After(patience):
		require.FailNow(t, "the sync was not cancelled")
	}
}

// runningAgent is an agent in this process, with a quick clock.
type runningAgent struct {
	t      *testing.T
	agent  *agent
	sync   *fakeSync
	logs   *observer.ObservedLogs
	cancel context.CancelFunc
	done   chan error

	mu     sync.Mutex
	pauses []time.Duration // that the agent asked for
}

func newAgent(t *testing.T, cfg AgentConfig) *runningAgent {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	r := &runningAgent{
		t:    t,
		logs: logs,
		sync: &fakeSync{t: t, starts: make(chan *syncCall)},
		done: make(chan error, 1),
	}
	r.agent = &agent{
		cfg:      cfg,
		log:      zap.New(core),
		instance: "instance",
		sync:     r.sync.sync,
		probe: func(path string) (replica.DiskInfo, error) {
			info, err := os.Stat(path)
			if err != nil {
				return replica.DiskInfo{}, err
			}
			return replica.DiskInfo{
				Path: path, SizeBytes: info.Size(), UsedBytes: info.Size() / 2,
				Partitions: []replica.Partition{{Number: 1, OffsetBytes: 0, SizeBytes: 4096}, {Number: 2, OffsetBytes: 4096, SizeBytes: 8192}},
			}, nil
		},
		after: func(d time.Duration) <-chan time.Time {
			r.mu.Lock()
			r.pauses = append(r.pauses, d)
			r.mu.Unlock()
			return time.After(time.Millisecond)
		},
		failedAgain: time.Hour, // only where a test has to do with it
		wait:        200 * time.Millisecond,
		answers:     make(chan struct{}, 1),
		resized:     make(chan struct{}, 1),
		metrics:     newAgentMetrics(monitor.New("test")),
		heard:       func(error) {},
	}
	r.agent.role = source{r.agent}
	return r
}

func (r *runningAgent) start() *runningAgent {
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() { r.done <- r.agent.run(ctx) }()
	r.t.Cleanup(func() { r.cancel() })
	return r
}

func (r *runningAgent) wait() error {
	r.t.Helper()
	select {
	case err := <-r.done:
		return err
	case <-time.After(patience):
		require.FailNow(r.t, "the agent does not end")
		return nil
	}
}

func (r *runningAgent) stop() {
	r.t.Helper()
	r.cancel()
	require.ErrorIs(r.t, r.wait(), context.Canceled)
}

func (r *runningAgent) pausesOf(d time.Duration) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, p := range r.pauses {
		if p == d {
			n++
		}
	}
	return n
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	require.Eventually(t, cond, patience, time.Millisecond, what)
}

func firstStart(t *testing.T, center *fakeCenter) AgentConfig {
	t.Helper()
	dir := t.TempDir()
	cfg := AgentConfig{Endpoint: center.URL, Code: goodCode, Name: "web-1", StateDir: filepath.Join(dir, "state"), Version: "v1"}
	for _, name := range []string{"disk-0.raw", "disk-1.raw"} {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, make([]byte, 1<<20), 0o600))
		cfg.Disks = append(cfg.Disks, path)
	}
	return cfg
}

func someWork(job string) *agentapi.Work {
	return &agentapi.Work{JobID: job, Run: 1, HostURL: "http://host", Token: "session-" + job, Parameters: agentapi.Params{CompressLevel: 1}}
}

func TestAgentRegistersOnceAndKeepsItsIdentity(t *testing.T) {
	center := newFakeCenter(t)
	cfg := firstStart(t, center)
	first := newAgent(t, cfg).start()
	heartbeats := center.count(func(c *fakeCenter) int { return len(c.heartbeats) })
	eventually(t, "heartbeats", func() bool { return heartbeats() >= 3 })
	first.stop()

	require.Len(t, center.registrations(), 1)
	req := center.registrations()[0]
	assert.Equal(t, "web-1", req.Name)
	assert.Equal(t, "instance", req.Instance)
	assert.NotEmpty(t, req.Server.Hostname)
	assert.NotEmpty(t, req.Server.Platform)
	assert.NotEmpty(t, req.Server.Architecture)
	assert.Positive(t, req.Server.KernelLevel)
	assert.Equal(t, "v1", req.Server.AgentVersion)
	assert.LessOrEqual(t, len(req.Server.SystemInfo), agentapi.MaxSystemInfoBytes)
	assert.True(t, json.Valid(req.Server.SystemInfo))
	require.Len(t, req.Server.Disks, 2)
	assert.Equal(t, agentapi.Disk{
		Index: 1, Path: cfg.Disks[1], SizeBytes: 1 << 20, UsedBytes: 1 << 19,
		Parts: []agentapi.Part{{Device: "1_0", SizeBytes: 4096, CanBlock: true}, {Device: "1_1", SizeBytes: 8192, OffsetBytes: 4096, CanBlock: true}},
	}, req.Server.Disks[1])
	assert.True(t, req.Server.Disks[0].Parts[0].Need, "partitions of the system disk are needed")
	assert.Equal(t, "0_0", req.Server.Disks[0].Parts[0].Device)
	assert.Equal(t, req.Server.Disks, center.beats()[0].Server.Disks)
	assert.Positive(t, first.pausesOf(7*time.Second), "the center's heartbeat rate")

	info, err := os.Stat(filepath.Join(cfg.StateDir, agentStateFile))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	for _, entry := range first.logs.All() {
		for _, field := range entry.Context {
			assert.NotContains(t, field.String, goodToken)
			assert.NotContains(t, field.String, goodCode)
		}
	}

	// The second start has nothing but the state directory.
	before := heartbeats()
	second := newAgent(t, AgentConfig{StateDir: cfg.StateDir}).start()
	eventually(t, "heartbeats", func() bool { return heartbeats() > before })
	second.stop()
	assert.Len(t, center.registrations(), 1)
	assert.Equal(t, req.Server.Disks, center.beats()[before].Server.Disks)
}

func TestAgentStateYieldsToFlags(t *testing.T) {
	center := newFakeCenter(t)
	cfg := firstStart(t, center)
	heartbeats := center.count(func(c *fakeCenter) int { return len(c.heartbeats) })
	r := newAgent(t, cfg).start()
	eventually(t, "a heartbeat", func() bool { return heartbeats() > 0 })
	r.stop()

	var wrong *AgentUsageError
	err := newAgent(t, AgentConfig{StateDir: cfg.StateDir, Name: "web-2"}).start().wait()
	require.ErrorAs(t, err, &wrong)
	assert.Contains(t, err.Error(), `"web-1" (s-1)`)

	// One disk less, a code nobody needs, and a center that has moved.
	moved := newFakeCenter(t)
	r = newAgent(t, AgentConfig{StateDir: cfg.StateDir, Endpoint: moved.URL, Code: "spent", Name: "web-1", Disks: cfg.Disks[:1]}).start()
	movedHeartbeats := moved.count(func(c *fakeCenter) int { return len(c.heartbeats) })
	eventually(t, "two heartbeats", func() bool { return movedHeartbeats() > 1 })
	r.stop()
	assert.Empty(t, moved.registrations())
	assert.Len(t, moved.beats()[0].Server.Disks, 1)
	assert.Len(t, r.logs.FilterMessageSnippet("activation code is not used").All(), 1)
	var state agentState
	data, err := os.ReadFile(filepath.Join(cfg.StateDir, agentStateFile))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &state))
	assert.Equal(t, agentState{Endpoint: moved.URL, SourceID: "s-1", Token: goodToken, Name: "web-1", Disks: cfg.Disks[:1]}, state)
}

func TestAgentRepeatsARegistrationWhoseAnswerWasLost(t *testing.T) {
	center := newFakeCenter(t)
	cfg := firstStart(t, center)
	// The state cannot be saved: to the center the agent has registered, to itself it has not.
	blocker := filepath.Join(cfg.StateDir, agentStateFile, "x")
	first := newAgent(t, cfg)
	center.onRegister = func() { assert.NoError(t, os.MkdirAll(blocker, 0o700)) }
	require.ErrorContains(t, first.start().wait(), "with the same --state")
	require.NoError(t, os.RemoveAll(filepath.Dir(blocker)))
	center.onRegister = nil

	second := newAgent(t, cfg)
	second.agent.instance = "another"
	second.start()
	heartbeats := center.count(func(c *fakeCenter) int { return len(c.heartbeats) })
	eventually(t, "a heartbeat", func() bool { return heartbeats() > 0 })
	second.stop()
	require.Len(t, center.registrations(), 2)
	assert.Equal(t, "instance", center.registrations()[1].Instance, "the center knows a repetition by it")
	assert.Equal(t, "another", center.beats()[0].Instance)
	assert.NoFileExists(t, filepath.Join(cfg.StateDir, agentPendingFile))
}

func TestAgentUsage(t *testing.T) {
	center := newFakeCenter(t)
	for name, test := range map[string]struct {
		spoil func(*AgentConfig)
		want  string
	}{
		"no state":       {func(c *AgentConfig) { c.StateDir = "" }, "--state"},
		"no endpoint":    {func(c *AgentConfig) { c.Endpoint = "" }, "DROVER_ENDPOINT"},
		"bad endpoint":   {func(c *AgentConfig) { c.Endpoint = "center:7700" }, "--endpoint"},
		"no code":        {func(c *AgentConfig) { c.Code = "" }, "drover token create"},
		"no name":        {func(c *AgentConfig) { c.Name = "" }, "--name"},
		"no disk":        {func(c *AgentConfig) { c.Disks = nil }, "--disk"},
		"one disk twice": {func(c *AgentConfig) { c.Disks[1] = c.Disks[0] }, "twice"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := firstStart(t, center)
			test.spoil(&cfg)
			err := newAgent(t, cfg).start().wait()
			var wrong *AgentUsageError
			require.ErrorAs(t, err, &wrong)
			assert.Contains(t, err.Error(), test.want)
		})
	}
	t.Run("a disk that is not there", func(t *testing.T) {
		cfg := firstStart(t, center)
		cfg.Disks[1] += "x"
		err := newAgent(t, cfg).start().wait()
		require.ErrorIs(t, err, os.ErrNotExist)
		assert.Contains(t, err.Error(), "disk 1")
	})
	t.Run("damaged state", func(t *testing.T) {
		cfg := firstStart(t, center)
		require.NoError(t, os.MkdirAll(cfg.StateDir, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(cfg.StateDir, agentStateFile), []byte("{"), 0o600))
		assert.ErrorContains(t, newAgent(t, cfg).start().wait(), "damaged")
	})
	assert.Empty(t, center.registrations())
}

func TestAgentWithAWrongCodeFailsAtOnce(t *testing.T) {
	center := newFakeCenter(t)
	cfg := firstStart(t, center)
	cfg.Code = "wrong"
	r := newAgent(t, cfg).start()
	err := r.wait()
	var refusal *smc.Error
	require.ErrorAs(t, err, &refusal)
	assert.Equal(t, agentapi.CodeInvalidActivationCode, refusal.Code)
	assert.Equal(t, http.StatusForbidden, refusal.HTTPStatus)
	assert.Equal(t, "R-1", refusal.RequestID)
	assert.Empty(t, r.pauses)
	assert.NoFileExists(t, filepath.Join(cfg.StateDir, agentStateFile))
}

func TestAgentRegistersWhenTheCenterComesBack(t *testing.T) {
	center := newFakeCenter(t)
	center.set(func(c *fakeCenter) { c.down = true })
	r := newAgent(t, firstStart(t, center)).start()
	refused := center.count(func(c *fakeCenter) int { return c.refused })
	eventually(t, "several attempts", func() bool { return refused() >= 8 })
	center.set(func(c *fakeCenter) { c.down = false })
	heartbeats := center.count(func(c *fakeCenter) int { return len(c.heartbeats) })
	eventually(t, "a heartbeat", func() bool { return heartbeats() > 0 })
	r.stop()
	assert.Len(t, r.logs.FilterLevelExact(zap.WarnLevel).All(), 1, "one warning for one outage")
	assert.Equal(t, []time.Duration{1e9, 2e9, 4e9, 8e9, 16e9, 30e9, 30e9}, r.pauses[:7])
}

// The loop that asks for work does not wait for the end of its pause once a heartbeat has got through.
func TestHeartbeatEndsThePauseOfAnOutage(t *testing.T) {
	center := newFakeCenter(t)
	center.set(func(c *fakeCenter) { c.down = true })
	r := newAgent(t, firstStart(t, center))
	a := r.agent
	a.state = agentState{Endpoint: center.URL, Disks: a.cfg.Disks}
	a.saved = a.state
	a.cfg.HTTPClient = http.DefaultClient
	require.NoError(t, a.newClient(goodToken))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = a.heartbeats(ctx)
	}()
	defer func() { cancel(); <-ended }()
	refused := center.count(func(c *fakeCenter) int { return c.refused })
	eventually(t, "an outage", func() bool { return refused() >= 3 })
	work := outage{log: zap.NewNop(), what: "request for work", after: func(time.Duration) <-chan time.Time { return nil }, answers: a.answers}
	require.Empty(t, a.answers)
	center.set(func(c *fakeCenter) { c.down = false })
	require.NoError(t, work.failed(t.Context(), errors.New("down")), "a pause that never ends by itself")
}

// Who repairs or grows a disk need not wait for the next heartbeat.
func TestAgentTellsOfADiskWithAnotherSize(t *testing.T) {
	center := newFakeCenter(t)
	cfg := firstStart(t, center)
	r := newAgent(t, cfg)
	r.agent.after = func(d time.Duration) <-chan time.Time {
		if d == sizeLook {
			return time.After(time.Millisecond)
		}
		return nil // the next heartbeat is never due
	}
	r.start()
	heartbeats := center.count(func(c *fakeCenter) int { return len(c.heartbeats) })
	eventually(t, "the first heartbeat", func() bool { return heartbeats() == 1 })
	for i, size := range []int64{3 << 20, 1 << 19} {
		require.NoError(t, os.Truncate(cfg.Disks[1], size))
		eventually(t, "a heartbeat of the size", func() bool { return heartbeats() > i+1 })
		require.Equal(t, size, center.beats()[i+1].Server.Disks[1].SizeBytes)
	}
	r.stop()
	require.Equal(t, 3, heartbeats(), "one for each change")
}

func TestAgentRefusesASecondOneOnItsState(t *testing.T) {
	center := newFakeCenter(t)
	cfg := firstStart(t, center)
	first := newAgent(t, cfg).start()
	registered := center.count(func(c *fakeCenter) int { return len(c.registered) })
	polls := center.count(func(c *fakeCenter) int { return len(c.polls) })
	eventually(t, "a request for work", func() bool { return polls() > 0 })
	err := newAgent(t, cfg).start().wait()
	require.ErrorContains(t, err, "another agent runs with the state directory "+cfg.StateDir)
	first.stop()

	before := polls()
	third := newAgent(t, cfg).start()
	eventually(t, "a request for work", func() bool { return polls() > before })
	third.stop()
	assert.Equal(t, 1, registered())
}

func TestAgentEndsWhenItsSourceIsDeleted(t *testing.T) {
	center := newFakeCenter(t)
	cfg := firstStart(t, center)
	r := newAgent(t, cfg).start()
	center.want(someWork("j-1"))
	call := r.sync.next()
	center.set(func(c *fakeCenter) { c.deleted = true })
	err := r.wait()
	require.ErrorIs(t, err, ErrSourceDeleted)
	assert.Contains(t, err.Error(), filepath.Join(cfg.StateDir, agentStateFile))
	assert.Contains(t, err.Error(), "drover token create")
	call.requireEnded(t)
}

func TestAgentStartsKeepsReplacesAndWithdraws(t *testing.T) {
	center := newFakeCenter(t)
	cfg := firstStart(t, center)
	r := newAgent(t, cfg).start()
	center.want(someWork("j-1"))
	first := r.sync.next()
	assert.Equal(t, "http://host", first.cfg.HostURL)
	assert.Equal(t, "session-j-1", first.cfg.Token)
	assert.Equal(t, "j-1", first.cfg.JobID)
	assert.Equal(t, []replica.SourceDisk{{Index: 0, Path: cfg.Disks[0]}, {Index: 1, Path: cfg.Disks[1]}}, first.cfg.Disks)

	// Requests that time out and an outage change nothing.
	polls := center.count(func(c *fakeCenter) int { return len(c.polls) })
	before := polls()
	eventually(t, "two requests held to their end", func() bool { return polls() >= before+2 })
	refused := center.count(func(c *fakeCenter) int { return c.refused })
	center.set(func(c *fakeCenter) { c.down = true })
	eventually(t, "an outage", func() bool { return refused() >= 10 })
	center.set(func(c *fakeCenter) { c.down = false })
	before = polls()
	eventually(t, "another request", func() bool { return polls() > before })
	select {
	case <-first.ended:
		require.Fail(t, "the sync was ended by an outage of the center")
	case <-r.sync.starts:
		require.Fail(t, "the sync was started twice")
	default:
	}

	center.want(someWork("j-2"))
	first.requireEnded(t)
	second := r.sync.next()
	assert.Equal(t, "j-2", second.cfg.JobID)
	center.want(nil)
	second.requireEnded(t)

	center.want(someWork("j-3"))
	third := r.sync.next()
	third.report(replica.Progress{BytesRead: 11, BytesSent: 7})
	third.finish(t, nil)
	center.want(someWork("j-4"))
	assert.Equal(t, "j-4", r.sync.next().cfg.JobID)
	r.stop()

	complete := r.logs.FilterMessage("sync complete").All()
	require.Len(t, complete, 1)
	fields := complete[0].ContextMap()
	assert.Equal(t, "s-1", fields["source_id"])
	assert.Equal(t, "j-3", fields["job_id"])
	assert.Equal(t, int64(1), fields["run"])
	assert.Equal(t, int64(11), fields["bytes_read"])
	assert.Equal(t, int64(7), fields["bytes_sent"])
	assert.Contains(t, fields, "duration")
}

func TestAgentDoesNotRepeatWhatIsOver(t *testing.T) {
	for name, outcome := range map[string]error{
		"complete":   nil,
		"read error": &replica.Error{Code: replica.CodeSourceReadError, Message: "input/output error"},
	} {
		t.Run(name, func(t *testing.T) {
			center := newFakeCenter(t)
			r := newAgent(t, firstStart(t, center)).start()
			center.want(someWork("j-1"))
			r.sync.next().finish(t, outcome)
			polls := center.count(func(c *fakeCenter) int { return len(c.polls) })
			before := polls()
			eventually(t, "requests held to their end", func() bool { return polls() >= before+3 })
			select {
			case <-r.sync.starts:
				require.Fail(t, "the generation was served twice")
			default:
			}
			center.want(someWork("j-1")) // the job was started again
			assert.Equal(t, "j-1", r.sync.next().cfg.JobID)
			r.stop()
		})
	}
}

// A host that died before it could record a failure is told again, until the run has failed and its work is withdrawn.
func TestAgentTellsAFailureAgainThatWasNotHeard(t *testing.T) {
	center := newFakeCenter(t)
	r := newAgent(t, firstStart(t, center))
	r.agent.failedAgain = 50 * time.Millisecond
	r.start()
	center.want(someWork("j-1"))
	failure := &replica.Error{Code: replica.CodeSourceReadError, Message: "input/output error"}
	for range 2 {
		call := r.sync.next()
		assert.Equal(t, "j-1", call.cfg.JobID)
		call.finish(t, failure)
	}
	third := r.sync.next()
	center.want(nil) // the run has failed
	third.requireEnded(t)
	polls := center.count(func(c *fakeCenter) int { return len(c.polls) })
	before := polls()
	eventually(t, "requests held to their end", func() bool { return polls() >= before+3 })
	select {
	case <-r.sync.starts:
		require.Fail(t, "what was withdrawn is served")
	default:
	}
	center.want(someWork("j-1")) // the job was started again
	r.sync.next().finish(t, nil)
	r.stop()
	assert.Equal(t, 2, r.logs.FilterMessageSnippet("has not failed at the center").Len())
}

func TestAgentFencedAsksAgainAfterAPause(t *testing.T) {
	center := newFakeCenter(t)
	r := newAgent(t, firstStart(t, center)).start()
	center.want(someWork("j-1"))
	lost := &replica.Error{Code: replica.CodeFenced, Message: "another attachment"}
	require.ErrorIs(t, lost, replica.ErrFenced)
	r.sync.next().finish(t, lost)
	r.sync.next().finish(t, lost) // still wanted, so served again
	r.sync.next().finish(t, errors.New("something else"))
	fourth := r.sync.next()
	for i, want := range []time.Duration{firstPause, 2 * firstPause, 4 * firstPause} {
		assert.Equal(t, 1, r.pausesOf(want), "pause %d", i+1)
	}
	assert.Len(t, r.logs.FilterMessageSnippet("lost its session").All(), 3)
	center.mu.Lock()
	fromZero := 0
	for _, q := range center.polls {
		if q.Have == 0 {
			fromZero++
		}
	}
	center.mu.Unlock()
	assert.Equal(t, 4, fromZero, "one at the start and one after each loss")

	// Withdrawn while it was fenced: it is not served again.
	center.want(nil)
	fourth.requireEnded(t)
	center.want(someWork("j-2"))
	fifth := r.sync.next()
	center.set(func(c *fakeCenter) { c.desired = agentapi.Desired{Generation: c.desired.Generation} })
	fifth.finish(t, lost)
	polls := center.count(func(c *fakeCenter) int { return len(c.polls) })
	before := polls()
	eventually(t, "more requests", func() bool { return polls() >= before+2 })
	select {
	case <-r.sync.starts:
		require.Fail(t, "withdrawn work was served")
	default:
	}
	r.stop()
}

func TestRunAgentStopsWithoutAnError(t *testing.T) {
	center := newFakeCenter(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	cfg := firstStart(t, center)
	go func() { done <- RunAgent(ctx, cfg, zap.NewNop()) }()
	heartbeats := center.count(func(c *fakeCenter) int { return len(c.heartbeats) })
	eventually(t, "a heartbeat", func() bool { return heartbeats() > 0 })
	cancel()
	select {
	case err := <-done:
		require.NoError(t, err)
	case <-time.After(patience):
		require.FailNow(t, "the agent does not end")
	}
}

func TestAgentStateIsSavedWhole(t *testing.T) {
	dir, err := openAgentDir(t.TempDir())
	require.NoError(t, err)
	defer func() { require.NoError(t, dir.close()) }()
	state, err := dir.load()
	require.NoError(t, err)
	require.Nil(t, state)
	want := agentState{Endpoint: "http://c", SourceID: "s", Token: "t", Name: "n", Disks: []string{"/d"}}
	require.NoError(t, dir.save(&want))
	leftovers, err := filepath.Glob(filepath.Join(dir.path, agentStateFile+".*"))
	require.NoError(t, err)
	assert.Empty(t, leftovers)
	state, err = dir.load()
	require.NoError(t, err)
	assert.Equal(t, want, *state)
}

func TestParseOSRelease(t *testing.T) {
	values := parseOSRelease("# comment\nNAME=\"Debian GNU/Linux\"\nID=debian\nPRETTY_NAME='Debian 12'\n")
	assert.Equal(t, map[string]string{"NAME": "Debian GNU/Linux", "ID": "debian", "PRETTY_NAME": "Debian 12"}, values)
	assert.Equal(t, "Debian", platform(values["NAME"]))
	assert.Equal(t, "Ubuntu", platform("Ubuntu"))
	assert.Equal(t, "Linux", platform(""))
	assert.Equal(t, 6, kernelLevel("6.1.0-18-amd64"))
	assert.Zero(t, kernelLevel("unknown"))
}

func TestFileSystemLabel(t *testing.T) {
	image := make([]byte, 16<<10)
	ext := image[4096+1024:]
	ext[0x38], ext[0x39] = 0x53, 0xEF
	copy(ext[0x78:], "root")
	copy(image[8192:], "XFSB")
	copy(image[8192+108:], "srv")
	name := filepath.Join(t.TempDir(), "disk.raw")
	require.NoError(t, os.WriteFile(name, image, 0o600))
	assert.Equal(t, "root", fileSystemLabel(name, 4096))
	assert.Equal(t, "srv", fileSystemLabel(name, 8192))
	assert.Empty(t, fileSystemLabel(name, 0))
	assert.Empty(t, fileSystemLabel(name, 1<<30))
}

func TestNewLoggerRefuses(t *testing.T) {
	_, err := NewLogger("loud", "json")
	require.ErrorContains(t, err, "loud")
	_, err = NewLogger("info", "xml")
	require.ErrorContains(t, err, "xml")
	log, err := NewLogger("warn", "auto")
	require.NoError(t, err)
	assert.False(t, log.Core().Enabled(zap.InfoLevel))
}
