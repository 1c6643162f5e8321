package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/test/disks"
)

// targetCenter is a center of one target instance, with a transition host that has an image of one disk.
type targetCenter struct {
	t    *testing.T
	api  *httptest.Server
	host *replica.Host
	data *httptest.Server
	key  []byte
	size int64

	mu         sync.Mutex
	changed    chan struct{}
	desired    agentapi.DesiredDelivery
	away       bool // takes no report
	polls      int
	registered []agentapi.RegisterTargetRequest
	heartbeats []agentapi.TargetHeartbeatRequest
	reports    []agentapi.DeliveryReport
	// wait, when there is one, holds answers with grains.
	wait chan struct{}
}

func newTargetCenter(t *testing.T) *targetCenter {
	t.Helper()
	dir := t.TempDir()
	c := &targetCenter{
		t: t, key: []byte("a key that host and center share"), size: 40 << 20, changed: make(chan struct{}),
		desired: agentapi.DesiredDelivery{Generation: 1},
	}
	var err error
	c.host, err = replica.NewHost(replica.HostConfig{Root: filepath.Join(dir, "host"), ID: "i-1", Key: c.key, Epochs: &testEpochs{}})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, c.host.Close()) })
	c.data = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		wait := c.wait
		c.mu.Unlock()
		if wait != nil && r.Method == http.MethodPost && filepath.Base(r.URL.Path) == "grains" {
			select {
			case <-wait:
			case <-r.Context().Done():
				return
			case <-time.After(patience):
			}
		}
		c.host.Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(c.data.Close)
	c.image("m-1", 1, filepath.Join(dir, "source.raw"))

	mux := http.NewServeMux()
	mux.HandleFunc("POST "+agentapi.PathRegisterTarget, func(w http.ResponseWriter, r *http.Request) {
		var req agentapi.RegisterTargetRequest
		if c.take(w, r, "", &req, func() { c.registered = append(c.registered, req) }) {
			reply(w, agentapi.RegisterTargetResponse{InstanceID: "i-target", Token: goodToken, HeartbeatRateSeconds: 7})
		}
	})
	mux.HandleFunc("POST "+agentapi.PathTargetHeartbeat, func(w http.ResponseWriter, r *http.Request) {
		var req agentapi.TargetHeartbeatRequest
		if c.take(w, r, goodToken, &req, func() { c.heartbeats = append(c.heartbeats, req) }) {
			reply(w, agentapi.HeartbeatResponse{HeartbeatRateSeconds: 7})
		}
	})
	mux.HandleFunc("POST "+agentapi.PathDelivery, func(w http.ResponseWriter, r *http.Request) {
		var req agentapi.DeliveryReport
		var answer agentapi.DeliveryAnswer
		away := false
		if !c.take(w, r, goodToken, &req, func() {
			if away = c.away; !away {
				c.reports = append(c.reports, req)
				answer.Superseded = req.Generation != c.desired.Generation
			}
		}) {
			return
		}
		if away {
			refuse(w, http.StatusServiceUnavailable, smc.CodeServiceUnavailable, "out of order")
			return
		}
		reply(w, answer)
	})
	mux.HandleFunc("GET "+agentapi.PathTargetWork, func(w http.ResponseWriter, r *http.Request) {
		q, err := agentapi.ParseWorkQuery(r.URL.Query())
		if !assert.NoError(t, err) || !c.take(w, r, goodToken, nil, func() { c.polls++ }) {
			return
		}
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
			case <-deadline:
				reply(w, desired)
				return
			case <-r.Context().Done():
				return
			}
		}
	})
	c.api = httptest.NewServer(mux)
	t.Cleanup(c.api.Close)
	return c
}

func (c *targetCenter) take(w http.ResponseWriter, r *http.Request, token string, into any, then func()) bool {
	if token != "" && r.Header.Get("Authorization") != "Bearer "+token {
		refuse(w, http.StatusUnauthorized, agentapi.CodeInvalidAgentToken, "the token is not known")
		return false
	}
	if into != nil && !assert.NoError(c.t, json.NewDecoder(r.Body).Decode(into)) {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	then()
	return true
}

// image makes an image of a disk of its own, which is grown to the size of the target's.
func (c *targetCenter) image(id string, run int, source string) {
	c.t.Helper()
	const size = 32 << 20
	require.NoError(c.t, disks.Make(source, disks.Spec{SizeBytes: size, Seed: uint64(run)}))
	staged := []replica.Disk{{SizeBytes: size}}
	ctx := c.t.Context()
	require.NoError(c.t, c.host.Prepare(ctx, "j-1", staged))
	session, err := c.host.OpenSession(ctx, replica.SessionSpec{JobID: "j-1", Run: run, Disks: staged, Params: replica.DefaultParams()})
	require.NoError(c.t, err)
	token := replica.SignToken(c.key, replica.TokenSession, "j-1", time.Now().Add(time.Hour))
	require.NoError(c.t, replica.Sync(ctx, replica.SyncConfig{
		HostURL: c.data.URL, Token: token, JobID: "j-1", Instance: "source", Disks: []replica.SourceDisk{{Path: source}},
	}, nil))
	_, err = session.Wait(ctx, time.Second, nil)
	require.NoError(c.t, err)
	_, err = c.host.MakeImage(ctx, replica.ImageSpec{
		ImageID: id, JobID: "j-1", Run: run, Disks: []replica.ImageDisk{{DeliveredSizeBytes: c.size}},
	}, nil)
	require.NoError(c.t, err)
}

// deliver has the center want an image on the target, by a ticket that lasts so long.
func (c *targetCenter) deliver(image string, ticket time.Duration) (generation int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.desired = agentapi.DesiredDelivery{Generation: c.desired.Generation + 1, Delivery: &agentapi.Delivery{
		JobID: "j-1", Run: 1, ImageID: image, HostURL: c.data.URL,
		Token: replica.SignToken(c.key, replica.TokenImage, image, time.Now().Add(ticket)),
		Disks: []agentapi.DeliveryDisk{{SizeBytes: c.size}},
	}}
	close(c.changed)
	c.changed = make(chan struct{})
	return c.desired.Generation
}

func (c *targetCenter) withdraw() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.desired = agentapi.DesiredDelivery{Generation: c.desired.Generation + 1}
	close(c.changed)
	c.changed = make(chan struct{})
}

// set changes what the center does.
func (c *targetCenter) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

// ended waits for the last report of a delivery.
func (c *targetCenter) ended(generation int64) (last agentapi.DeliveryReport) {
	c.t.Helper()
	eventually(c.t, "the end of the delivery", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, r := range c.reports {
			if r.Generation == generation && r.State != agentapi.DeliveryDelivering {
				last = r
				return true
			}
		}
		return false
	})
	return last
}

func (c *targetCenter) heartbeat() agentapi.TargetHeartbeatRequest {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.heartbeats) == 0 {
		return agentapi.TargetHeartbeatRequest{}
	}
	return c.heartbeats[len(c.heartbeats)-1]
}

// requireDelivered holds the disk against the image.
func (c *targetCenter) requireDelivered(image, disk string, report agentapi.DeliveryReport) {
	c.t.Helper()
	require.Equal(c.t, agentapi.DeliveryDone, report.State, report.Message)
	require.Equal(c.t, c.size, report.BytesTotal)
	require.Equal(c.t, c.size, report.BytesDone)
	root, err := c.host.ArtifactRoot(c.t.Context(), image, 0, replica.ArtifactDelivered)
	require.NoError(c.t, err)
	require.Equal(c.t, []agentapi.DeliveredDisk{{Root: root.String()}}, report.Disks)
	fetched, err := os.Create(filepath.Join(c.t.TempDir(), "fetched"))
	require.NoError(c.t, err)
	defer fetched.Close()
	token := replica.SignToken(c.key, replica.TokenImage, image, time.Now().Add(time.Hour))
	require.NoError(c.t, replica.Download(c.t.Context(), nil, c.data.URL, token, image, 0, replica.ArtifactDelivered, fetched))
	want, err := os.ReadFile(fetched.Name())
	require.NoError(c.t, err)
	have, err := os.ReadFile(disk)
	require.NoError(c.t, err)
	require.True(c.t, bytes.Equal(want, have), "the disk is not what the image is")
}

// startTarget runs a target with a quick clock.
func startTarget(t *testing.T, cfg AgentConfig, overwrite bool) *runningAgent {
	t.Helper()
	r := newAgent(t, cfg)
	r.agent.probe = replica.ProbeDisk
	role := newTarget(r.agent, overwrite)
	role.reportEvery = time.Millisecond
	r.agent.role = role
	return r.start()
}

func targetDisk(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "target.raw")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	require.NoError(t, os.Truncate(path, size))
	return path
}

func (c *targetCenter) config(disk string) AgentConfig {
	return AgentConfig{
		Endpoint: c.api.URL, Code: goodCode, Name: "spare-1", StateDir: filepath.Join(c.t.TempDir(), "state"), Disks: []string{disk}, Version: "v1",
	}
}

// A target registers, says what its disks are, takes an image, takes the next one with what changed alone, and is the same one after it
// was started again with nothing but its state.
func TestTargetTakesImages(t *testing.T) {
	c := newTargetCenter(t)
	disk := targetDisk(t, c.size)
	cfg := c.config(disk)
	r := startTarget(t, cfg, false)
	eventually(t, "a heartbeat", func() bool { return c.heartbeat().Instance != "" })
	require.Equal(t, "spare-1", c.registered[0].Name)
	require.Equal(t, goodCode, c.registered[0].Code)
	require.Equal(t, []agentapi.TargetDisk{{Path: disk, SizeBytes: c.size}}, c.registered[0].Target.Disks)
	require.Equal(t, "v1", c.heartbeat().Target.AgentVersion)
	require.NotEmpty(t, c.heartbeat().Target.Architecture)

	report := c.ended(c.deliver("m-1", time.Hour))
	c.requireDelivered("m-1", disk, report)
	require.Positive(t, report.BytesFetched)
	require.Equal(t, "j-1", report.JobID)
	r.stop()

	c.image("m-2", 2, filepath.Join(t.TempDir(), "source.raw"))
	r = startTarget(t, AgentConfig{StateDir: cfg.StateDir}, false)
	c.requireDelivered("m-2", disk, c.ended(c.deliver("m-2", time.Hour)))
	require.False(t, c.heartbeat().Target.Disks[0].HoldsData, "what it holds was delivered by this target")
	require.Len(t, c.registered, 1)
	again := c.ended(c.deliver("m-2", time.Hour))
	require.Zero(t, again.BytesFetched)
	c.requireDelivered("m-2", disk, again)
	r.stop()

	// The identity is of one kind.
	err := newAgent(t, AgentConfig{StateDir: cfg.StateDir}).start().wait()
	var wrong *AgentUsageError
	require.ErrorAs(t, err, &wrong)
	require.ErrorContains(t, err, `belongs to the target instance "spare-1"`)
}

// What a disk holds is not overwritten without leave, and what another target delivered is not this one's.
func TestTargetDoesNotOverwriteData(t *testing.T) {
	c := newTargetCenter(t)
	disk := filepath.Join(t.TempDir(), "target.raw")
	require.NoError(t, disks.Make(disk, disks.Spec{SizeBytes: c.size, Seed: 9}))
	before, err := os.ReadFile(disk)
	require.NoError(t, err)
	cfg := c.config(disk)
	r := startTarget(t, cfg, false)
	eventually(t, "a heartbeat", func() bool { return c.heartbeat().Instance != "" })
	require.True(t, c.heartbeat().Target.Disks[0].HoldsData)
	require.Positive(t, r.logs.FilterMessage("a disk does not do for a delivery as it is").Len())
	report := c.ended(c.deliver("m-1", time.Hour))
	require.Equal(t, agentapi.DeliveryFailed, report.State)
	require.Equal(t, agentapi.DeliveryCodeDisk, report.Code)
	require.Contains(t, report.Message, "a partition table (gpt")
	require.Contains(t, report.Message, "--overwrite")
	after, err := os.ReadFile(disk)
	require.NoError(t, err)
	require.True(t, bytes.Equal(before, after))
	r.stop()

	r = startTarget(t, AgentConfig{StateDir: cfg.StateDir}, true)
	c.requireDelivered("m-1", disk, c.ended(c.deliver("m-1", time.Hour)))
	require.False(t, c.heartbeat().Target.Disks[0].HoldsData)
	r.stop()

	other := cfg
	other.StateDir = filepath.Join(t.TempDir(), "state")
	startTarget(t, other, false)
	report = c.ended(c.deliver("m-1", time.Hour))
	require.Equal(t, agentapi.DeliveryCodeDisk, report.Code, "another registration")
}

// A delivery that failed is not begun again before the center wants that, and says which disk is to blame.
func TestTargetDiskThatDoesNotDo(t *testing.T) {
	c := newTargetCenter(t)
	disk := targetDisk(t, c.size)
	held, err := replica.OpenTarget(disk)
	require.NoError(t, err)
	cfg := c.config(disk)
	require.ErrorIs(t, startTarget(t, cfg, false).wait(), replica.ErrDiskInUse, "nothing is registered then")
	require.Empty(t, c.registered)
	require.NoError(t, held.Close())

	r := startTarget(t, cfg, false)
	eventually(t, "a heartbeat", func() bool { return c.heartbeat().Instance != "" })
	held, err = replica.OpenTarget(disk)
	require.NoError(t, err)
	report := c.ended(c.deliver("m-1", time.Hour))
	require.Equal(t, agentapi.DeliveryCodeDisk, report.Code)
	require.Contains(t, report.Message, "in use")
	require.NoError(t, held.Close())

	require.NoError(t, os.Truncate(disk, c.size-4096))
	report = c.ended(c.deliver("m-1", time.Hour))
	require.Equal(t, agentapi.DeliveryCodeDisk, report.Code)
	require.Contains(t, report.Message, "the image was made for one of")
	require.NoError(t, os.Rename(disk, disk+".away"))
	report = c.ended(c.deliver("m-1", time.Hour))
	require.Contains(t, report.Message, "no such file")
	require.NoError(t, os.Rename(disk+".away", disk))
	require.NoError(t, os.Truncate(disk, c.size))

	c.set(func() {
		c.desired.Delivery.Disks = append(c.desired.Delivery.Disks, agentapi.DeliveryDisk{Index: 1, SizeBytes: 5})
	})
	c.set(func() { c.desired.Generation++; close(c.changed); c.changed = make(chan struct{}) })
	report = c.ended(c.desired.Generation)
	require.Contains(t, report.Message, "there is no disk 1")
	report = c.ended(c.deliver("m-none", time.Hour))
	require.Equal(t, agentapi.DeliveryCodeImage, report.Code)
	require.Contains(t, report.Message, "m-none")
	c.requireDelivered("m-1", disk, c.ended(c.deliver("m-1", time.Hour)))

	c.set(func() { c.reports, c.polls = nil, 0 })
	eventually(t, "more requests for work", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return c.polls > 2 })
	r.stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	require.Empty(t, c.reports, "a generation is served once")
}

// A ticket that has expired is no end: the center has a new one.
func TestTargetAsksForANewTicket(t *testing.T) {
	c := newTargetCenter(t)
	disk := targetDisk(t, c.size)
	startTarget(t, c.config(disk), false)
	generation := c.deliver("m-1", -time.Minute)
	eventually(t, "a report", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return len(c.reports) > 0 })
	c.set(func() {
		c.desired.Delivery.Token = replica.SignToken(c.key, replica.TokenImage, "m-1", time.Now().Add(time.Hour))
	})
	c.requireDelivered("m-1", disk, c.ended(generation))
}

// A delivery ends when the center wants another, in the middle and at its end, and is done when the center was away meanwhile.
func TestTargetDeliveryThatIsSuperseded(t *testing.T) {
	c := newTargetCenter(t)
	disk := targetDisk(t, c.size)
	r := startTarget(t, c.config(disk), false)
	hold := make(chan struct{})
	c.set(func() { c.wait = hold })
	first := c.deliver("m-1", time.Hour)
	eventually(t, "a report", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return len(c.reports) > 0 })
	c.withdraw()
	eventually(t, "the end of the delivery", func() bool {
		return r.logs.FilterMessage("the delivery is not wanted any more").Len()+r.logs.FilterMessage("delivery ended").Len() > 0
	})
	c.set(func() { c.wait = nil; c.away = true })
	second := c.deliver("m-1", time.Hour)
	eventually(t, "the delivery", func() bool { return r.logs.FilterMessage("delivery complete").Len() == 1 })
	c.set(func() {
		for _, report := range c.reports {
			assert.False(t, report.Generation == first && report.State == agentapi.DeliveryDone, "it was cut off")
		}
		c.away = false
	})
	c.requireDelivered("m-1", disk, c.ended(second))
	r.stop()
}

func TestTargetThatWasDeletedEnds(t *testing.T) {
	c := newTargetCenter(t)
	cfg := c.config(targetDisk(t, c.size))
	r := startTarget(t, cfg, false)
	eventually(t, "a heartbeat", func() bool { return c.heartbeat().Instance != "" })
	r.stop()
	state, err := os.ReadFile(filepath.Join(cfg.StateDir, agentStateFile))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(cfg.StateDir, agentStateFile), []byte(string(state[:len(state)-2])+`,"token":"another"}`), 0o600))
	require.ErrorIs(t, startTarget(t, AgentConfig{StateDir: cfg.StateDir}, false).wait(), ErrTargetDeleted)
}

// RunTarget is the whole of it, with the clock that it has outside tests.
func TestRunTarget(t *testing.T) {
	c := newTargetCenter(t)
	disk := targetDisk(t, c.size)
	ctx, cancel := context.WithCancel(t.Context())
	core, _ := observer.New(zap.InfoLevel)
	done := make(chan error, 1)
	go func() { done <- RunTarget(ctx, TargetConfig{AgentConfig: c.config(disk)}, zap.New(core)) }()
	c.requireDelivered("m-1", disk, c.ended(c.deliver("m-1", time.Hour)))
	cancel()
	require.NoError(t, <-done)
	var wrong *AgentUsageError
	require.ErrorAs(t, RunTarget(t.Context(), TargetConfig{}, zap.New(core)), &wrong)
}

// A claim is of one disk, not of whatever has its name.
func TestDiskClaims(t *testing.T) {
	dir, err := openAgentDir(t.TempDir())
	require.NoError(t, err)
	defer func() { assert.NoError(t, dir.close()) }()
	claims, err := dir.claims()
	require.NoError(t, err)
	disk := targetDisk(t, 1<<20)
	require.False(t, claims.cover(disk, 1<<20))
	claims.add(disk, 1<<20)
	claims.add(disk, 1<<20)
	require.Len(t, claims, 1)
	require.NoError(t, dir.saveClaims(claims))
	claims, err = dir.claims()
	require.NoError(t, err)
	require.True(t, claims.cover(disk, 1<<20))
	require.False(t, claims.cover(disk, 2<<20))
	claims[0].Identity = "serial 1"
	require.False(t, claims.cover(disk, 1<<20))

	require.NoError(t, os.WriteFile(filepath.Join(dir.path, targetClaimsFile), []byte("{"), 0o600))
	_, err = dir.claims()
	require.ErrorContains(t, err, "remove "+filepath.Join(dir.path, targetClaimsFile))
	_, err = os.Stat("/dev/loop0")
	if !errors.Is(err, os.ErrNotExist) {
		require.Contains(t, diskIdentity("/dev/loop0"), "until restart ")
	}
}
