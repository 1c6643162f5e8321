package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"go.uber.org/zap"

	"github.com/drover/drover/app"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/events"
)

// childVariable makes the test binary behave as drover-dev, with standIn in place of the center: what is tested here are the servers
// under it, and that takes real processes that can be killed.
const childVariable = "DROVER_DEV_TEST_CHILD"

// slow bounds what takes seconds on a small machine under load.
const slow = 90 * time.Second

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		os.Exit(run(os.Args[1:], os.Stdout, os.Stderr, standIn))
	}
	os.Exit(m.Run())
}

// standIn listens where the center does and answers every request with the configuration it was given.
func standIn(ctx context.Context, cfg droverConfig, _ *zap.Logger) error {
	if len(cfg.Roles) > 0 {
		transition, err := net.Listen("tcp", cfg.Settings.TransitionListen())
		if err != nil {
			return err
		}
		defer transition.Close()
	}
	if !cfg.Server {
		<-ctx.Done()
		return nil
	}
	srv := &http.Server{
		Addr: cfg.Settings.Listen,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_ = json.NewEncoder(w).Encode(cfg)
		}),
		ReadHeaderTimeout: time.Second,
	}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// process is a drover-dev under test.
type process struct {
	cmd    *exec.Cmd
	stdout *bufio.Reader
	stderr bytes.Buffer
	ready  string // the line it printed when it was
}

func command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), childVariable+"=1")
	return cmd
}

// start starts drover-dev on dir and waits for its ready line.
func start(t *testing.T, dir string, args ...string) *process {
	t.Helper()
	p := launch(t, dir, args...)
	p.awaitReady(t)
	return p
}

func launch(t *testing.T, dir string, args ...string) *process {
	t.Helper()
	p := &process{cmd: command(t.Context(), append([]string{"--data", dir}, args...)...)}
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	p.stdout = bufio.NewReader(out)
	p.cmd.Stderr = &p.stderr
	require.NoError(t, p.cmd.Start())
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			p.kill(t)
		}
	})
	return p
}

func (p *process) awaitReady(t *testing.T) {
	t.Helper()
	line, err := p.stdout.ReadString('\n')
	if err != nil {
		_ = p.cmd.Wait()
		t.Fatalf("drover-dev ended before it was ready: %v\n%s", err, p.stderr.String())
	}
	p.ready = line
}

func (p *process) kill(t *testing.T) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Kill())
	_ = p.cmd.Wait()
}

// terminate stops drover-dev as an operator would, and checks that it keeps its promises then.
func (p *process) terminate(t *testing.T, sig os.Signal) {
	t.Helper()
	begin := time.Now()
	require.NoError(t, p.cmd.Process.Signal(sig))
	require.NoError(t, p.cmd.Wait(), "a clean stop has exit code 0\n%s", p.stderr.String())
	assert.Less(t, time.Since(begin), 10*time.Second, "time to stop")
}

// environment reads DIR/dev.env with a shell, as its users do.
func environment(t *testing.T, dir string) map[string]string {
	t.Helper()
	path := filepath.Join(dir, "dev.env")
	info, err := os.Stat(path)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode(), "mode of dev.env")
	sh := exec.Command("sh", "-c", `. "$0" && env`, path)
	sh.Env = []string{"PATH=" + os.Getenv("PATH")}
	out, err := sh.Output()
	require.NoError(t, err)
	env := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		env[name] = value
	}
	for _, name := range []string{"PATH", "PWD", "OLDPWD", "SHLVL", "_"} {
		delete(env, name)
	}
	return env
}

// given is what the center was told at the last start.
func given(t *testing.T, env map[string]string) droverConfig {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, env["DROVER_ENDPOINT"], http.NoBody)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	var cfg droverConfig
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&cfg))
	return cfg
}

func dialTemporal(t *testing.T, env map[string]string) client.Client {
	t.Helper()
	c, err := client.Dial(client.Options{
		HostPort:  env["TEMPORAL_ADDRESS"],
		Namespace: env["TEMPORAL_NAMESPACE"],
		Logger:    quiet{},
	})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// quiet drops what the client says about servers that are killed under it.
type quiet struct{}

var _ sdklog.Logger = quiet{}

func (quiet) Debug(string, ...any) {}
func (quiet) Info(string, ...any)  {}
func (quiet) Warn(string, ...any)  {}
func (quiet) Error(string, ...any) {}

func dialStream(t *testing.T, env map[string]string) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(env["NATS_URL"])
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	return js
}

const taskQueue = "test"

// twoSignals ends with the two words it was sent.
func twoSignals(ctx workflow.Context) (string, error) {
	words := workflow.GetSignalChannel(ctx, "word")
	var first, second string
	words.Receive(ctx, &first)
	words.Receive(ctx, &second)
	return first + " " + second, nil
}

func startWorker(t *testing.T, c client.Client) {
	t.Helper()
	w := worker.New(c, taskQueue, worker.Options{})
	w.RegisterWorkflow(twoSignals)
	require.NoError(t, w.Start())
	t.Cleanup(w.Stop)
}

func TestKilledStackContinues(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), slow)
	defer cancel()
	p := start(t, dir, "--listen", "127.0.0.1:0")
	require.Contains(t, p.ready, "drover-dev ready: endpoint http://127.0.0.1:")
	env := environment(t, dir)
	for _, name := range []string{
		"DROVER_ENDPOINT", "DROVER_REGION", "DROVER_ACCOUNT", "ALIBABA_CLOUD_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_SECRET",
		"NATS_URL", "TEMPORAL_ADDRESS", "TEMPORAL_NAMESPACE", "DATABASE_URL", "DROVER_SECRET_KEY_FILE",
	} {
		assert.NotEmpty(t, env[name], name)
	}
	assert.True(t, given(t, env).RebuildEntities, "the first database is a fresh one")
	assert.Equal(t, filepath.Join(dir, "secret.key"), given(t, env).SecretKeyFile)
	info, err := os.Stat(env["DROVER_SECRET_KEY_FILE"])
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode(), "mode of the secret key")
	secretKey, err := os.ReadFile(env["DROVER_SECRET_KEY_FILE"])
	require.NoError(t, err)

	// A workflow that waits in the middle, and messages nobody has read.
	c := dialTemporal(t, env)
	startWorker(t, c)
	wf, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: "w", TaskQueue: taskQueue}, twoSignals)
	require.NoError(t, err)
	require.NoError(t, c.SignalWorkflow(ctx, "w", "", "word", "before"))
	js := dialStream(t, env)
	_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	require.NoError(t, err)
	for i := range 100 {
		_, err := js.Publish(ctx, "s.x", []byte(strconv.Itoa(i)))
		require.NoError(t, err)
	}
	p.kill(t)

	p = start(t, dir) // neither port is given: both are kept
	require.Equal(t, env, environment(t, dir), "addresses and keys are those of the first start")
	kept, err := os.ReadFile(env["DROVER_SECRET_KEY_FILE"])
	require.NoError(t, err)
	assert.Equal(t, secretKey, kept, "the secret key is that of the first start")
	assert.False(t, given(t, env).RebuildEntities, "the database is the one of the first start")
	stream, err := dialStream(t, env).Stream(ctx, "S")
	require.NoError(t, err)
	for i := range 100 {
		msg, err := stream.GetMsg(ctx, uint64(i+1))
		require.NoError(t, err)
		assert.Equal(t, strconv.Itoa(i), string(msg.Data))
	}
	// The first worker and its client are still there and find the server again.
	require.NoError(t, c.SignalWorkflow(ctx, "w", "", "word", "after"))
	var words string
	require.NoError(t, c.GetWorkflow(ctx, "w", wf.GetRunID()).Get(ctx, &words))
	assert.Equal(t, "before after", words)
	p.terminate(t, syscall.SIGTERM)
}

func TestAnotherServerVersionStartsAfresh(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), slow)
	defer cancel()
	p := start(t, dir, "--listen", "127.0.0.1:0")
	env := environment(t, dir)
	_, err := dialTemporal(t, env).ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: "w", TaskQueue: taskQueue}, twoSignals)
	require.NoError(t, err)
	p.terminate(t, os.Interrupt)

	stamp := filepath.Join(dir, "temporal", "VERSION")
	require.NoError(t, os.WriteFile(stamp, []byte("0.9.9\n"), 0o600))
	p = start(t, dir)
	assert.Equal(t, env, environment(t, dir))
	assert.True(t, given(t, env).RebuildEntities, "the entities have to be rebuilt")
	_, err = dialTemporal(t, env).DescribeWorkflowExecution(ctx, "w", "")
	var missing *serviceerror.NotFound
	require.ErrorAs(t, err, &missing, "the workflow is in the database that was moved aside")
	aside, err := filepath.Glob(filepath.Join(dir, "temporal", "temporal.db.0.9.9.*Z"))
	require.NoError(t, err)
	assert.Len(t, aside, 1, "the old database is kept")
	p.kill(t)

	start(t, dir)
	assert.False(t, given(t, env).RebuildEntities, "they were rebuilt before the stack was ready")
}

// The parts of a stack in processes of their own: each can be killed and started again without the others.
func TestPartsInProcessesOfTheirOwn(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), slow)
	defer cancel()
	servers := start(t, dir, "--parts", "temporal,nats")
	require.Contains(t, servers.ready, "drover-dev ready: temporal and nats, data "+dir)
	alone := environment(t, dir)
	assert.FileExists(t, alone["DROVER_SECRET_KEY_FILE"], "a drover-server of the user's needs it")
	assert.Equal(t, "http://127.0.0.1:7700", alone["DROVER_ENDPOINT"], "where a drover-server listens by itself")
	_, err := dialTemporal(t, alone).ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: "w", TaskQueue: taskQueue}, twoSignals)
	require.NoError(t, err)

	worker := start(t, dir, "--parts", "worker", "--roles", "center,transition")
	require.Contains(t, worker.ready, "drover-dev ready: worker of ")
	server := start(t, dir, "--parts", "server", "--listen", "127.0.0.1:0")
	require.Contains(t, server.ready, "drover-dev ready: endpoint http://127.0.0.1:")
	env := environment(t, dir)
	assert.NotEqual(t, alone["DROVER_ENDPOINT"], env["DROVER_ENDPOINT"])
	cfg := given(t, env)
	assert.True(t, cfg.Server)
	assert.Empty(t, cfg.Roles)
	assert.True(t, cfg.RebuildEntities, "Temporal's database is a fresh one, whoever serves it")
	assert.Equal(t, env["NATS_URL"], cfg.NATSURL)
	assert.Equal(t, env["TEMPORAL_ADDRESS"], cfg.TemporalAddress)
	out, err := command(t.Context(), "--data", dir, "--parts", "nats").CombinedOutput()
	require.Error(t, err)
	assert.Contains(t, string(out), "its part nats is in use by another drover-dev (process "+strconv.Itoa(servers.cmd.Process.Pid)+")")

	// The server waits for Temporal, and the entities were rebuilt.
	servers.kill(t)
	server.kill(t)
	server = launch(t, dir, "--parts", "server")
	servers = start(t, dir, "--parts", "temporal,nats")
	server.awaitReady(t)
	assert.Equal(t, env, environment(t, dir), "addresses and keys are those of the first start")
	assert.False(t, given(t, env).RebuildEntities)
	_, err = dialTemporal(t, env).DescribeWorkflowExecution(ctx, "w", "")
	require.NoError(t, err)
	for _, p := range []*process{server, worker, servers} {
		p.terminate(t, syscall.SIGTERM)
	}
}

func TestSecondInstanceIsRefused(t *testing.T) {
	dir := t.TempDir()
	p := start(t, dir, "--listen", "127.0.0.1:0")
	out, err := command(t.Context(), "--data", dir).CombinedOutput()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	assert.Equal(t, app.ExitFailed, exit.ExitCode())
	assert.Contains(t, string(out), "its part temporal is in use by another drover-dev (process "+strconv.Itoa(p.cmd.Process.Pid)+")")
}

func TestBusyPortIsNamed(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	var stderr bytes.Buffer
	code := run([]string{"--data", t.TempDir(), "--listen", taken.Addr().String()}, &stderr, &stderr, standIn)
	assert.Equal(t, app.ExitFailed, code)
	_, port, err := net.SplitHostPort(taken.Addr().String())
	require.NoError(t, err)
	assert.Contains(t, stderr.String(), "port "+port+" of the endpoint")
	assert.Contains(t, stderr.String(), "--listen")
}

func TestFailingCenterEndsTheStack(t *testing.T) {
	var out bytes.Buffer
	failing := func(context.Context, droverConfig, *zap.Logger) error { return errors.New("no such luck") }
	code := run([]string{"--data", t.TempDir(), "--listen", "127.0.0.1:0"}, &out, &out, failing)
	assert.Equal(t, app.ExitFailed, code)
	assert.Contains(t, out.String(), "no such luck")
	assert.NotContains(t, out.String(), "ready")
}

// What drover-server takes for limits and retention, drover-dev takes too; its access key has no rate limit unless one is given.
func TestLimits(t *testing.T) {
	limits := func(args ...string) (given app.ServerConfig) {
		var out bytes.Buffer
		run(append([]string{"--data", t.TempDir(), "--listen", "127.0.0.1:0", "--metrics-listen", "off"}, args...), &out, &out,
			func(_ context.Context, cfg droverConfig, _ *zap.Logger) error {
				given = cfg.Limits
				return errors.New("seen")
			})
		require.Contains(t, out.String(), "seen")
		return given
	}
	given := limits("--running-quota", "3", "--source-quota", "4", "--job-quota", "5", "--rate-limit", "6", "--rate-burst", "7", "--vswitches", "list.json",
		"--keep-runs", "11", "--stream-max-age", "12")
	want := app.ServerConfig{
		RunningQuota: 3, SourceQuota: 4, JobQuota: 5, RateLimit: 6, RateBurst: 7, VSwitchesFile: "list.json",
		Retention: app.DefaultRetention(), Stream: events.StreamConfig{MaxAge: 12 * 24 * time.Hour},
	}
	want.Retention.Runs = 11
	assert.Equal(t, want, given)
	given = limits()
	assert.Zero(t, given.RateLimit)
	assert.Equal(t, store.DefaultRunningQuota, given.RunningQuota)
	assert.Equal(t, app.DefaultRetention(), given.Retention)
	assert.Equal(t, app.DefaultStream(), given.Stream)
}

func TestWrongUsage(t *testing.T) {
	for name, args := range map[string][]string{
		"no data":                          {},
		"unknown flag":                     {"--data", "x", "--colour"},
		"an argument":                      {"--data", "x", "y"},
		"unknown level":                    {"--data", "x", "--log-level", "loud"},
		"unknown part":                     {"--data", "x", "--parts", "temporal,redis"},
		"no part":                          {"--data", "x", "--parts", ""},
		"an address of what is not served": {"--data", "x", "--parts", "nats", "--listen", "127.0.0.1:0"},
		"a quota of what is not served":    {"--data", "x", "--parts", "nats", "--running-quota", "3"},
		"a quota that is none":             {"--data", "x", "--running-quota", "-3"},
		"roles of what is not served":      {"--data", "x", "--parts", "nats", "--roles", "center,transition"},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			assert.Equal(t, app.ExitUsage, run(args, &stdout, &stderr, standIn))
			assert.Contains(t, stderr.String(), "Usage:")
			assert.Empty(t, stdout.String())
		})
	}
}
