package process

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// patience bounds every wait; a test that passes never waits it out.
const patience = 20 * time.Second

func shell(t *testing.T, script string) *Process {
	t.Helper()
	p := &Process{
		Name: "the shell", Program: "/bin/sh", Args: []string{"-c", script}, Log: filepath.Join(t.TempDir(), "log"), ReadyLine: "ready",
	}
	require.NoError(t, p.Start())
	t.Cleanup(p.Kill)
	return p
}

func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func TestStopsWithItsChildren(t *testing.T) {
	p := shell(t, `trap 'wait; exit 0' TERM; (echo ready; exec sleep 1000) & wait`)
	require.NoError(t, p.AwaitReady(soon(t)))
	require.NoError(t, p.Alive())
	require.Error(t, p.Start(), "it is running")
	require.NoError(t, p.Stop(patience))
	require.ErrorContains(t, p.Alive(), "exit status 0")
	assert.Equal(t, syscall.ESRCH, syscall.Kill(-p.PID(), 0), "nothing of its process group is left")
	require.NoError(t, p.Stop(patience), "it has ended well")
}

func TestSaysHowItStopped(t *testing.T) {
	p := shell(t, `trap 'echo oh no >&2; exit 4' TERM; echo ready; while :; do sleep 0.01; done`)
	require.NoError(t, p.AwaitReady(soon(t)))
	err := StopAll(patience, p)
	require.ErrorContains(t, err, "exit status 4")
	require.ErrorContains(t, err, "oh no", "the end of its log")
	code, err := p.Wait(soon(t))
	require.NoError(t, err)
	assert.Equal(t, 4, code)
}

func TestThatDoesNotStop(t *testing.T) {
	p := shell(t, `trap '' TERM; echo ready; while :; do sleep 0.01; done`)
	require.NoError(t, p.AwaitReady(soon(t)))
	require.ErrorContains(t, p.Stop(50*time.Millisecond), "still there 50ms after SIGTERM")
	assert.False(t, p.Running())
}

func TestEndsTooSoon(t *testing.T) {
	p := shell(t, "echo something; exit 5")
	require.ErrorContains(t, p.AwaitReady(soon(t)), "exit status 5")
	require.ErrorContains(t, p.Alive(), "something", "the end of its log")
}

func TestPausedAndKilledAndStartedAgain(t *testing.T) {
	counter := filepath.Join(t.TempDir(), "counter")
	p := shell(t, `echo ready; while :; do echo >> `+counter+`; done`)
	size := func() int64 {
		info, err := os.Stat(counter)
		if err != nil {
			return 0
		}
		return info.Size()
	}
	p.Ready = func(context.Context) error {
		_, err := os.Stat(counter)
		return err
	}
	require.NoError(t, p.AwaitReady(soon(t)))
	require.NoError(t, p.Pause())
	before := size()
	written, err := p.BytesWritten()
	require.NoError(t, err)
	assert.GreaterOrEqual(t, written, before)
	still, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer stop()
	require.Error(t, Until(still, "it moves", func() (bool, any) { return size() != before, size() }), "a paused process does nothing")
	p.Continue()
	require.NoError(t, Until(soon(t), "it goes on", func() (bool, any) { return size() > before, size() }))

	require.NoError(t, p.Pause())
	p.Kill()
	require.Error(t, p.Pause(), "it does not run")
	first := p.PID()
	require.NoError(t, p.Restart(soon(t)))
	assert.NotEqual(t, first, p.PID())
	said, err := p.Logged("ready")
	require.NoError(t, err)
	assert.Equal(t, 1, said, "what the present life has logged")
	assert.Equal(t, "  ready\n  ready", p.Tail(5), "all lives write to one log")
	require.NoError(t, p.Restart(soon(t)), "one that runs is killed first")
}

func TestNeverStarted(t *testing.T) {
	p := &Process{Name: "nobody", Program: "/missing/program", Log: filepath.Join(t.TempDir(), "log")}
	require.ErrorContains(t, p.AwaitReady(t.Context()), "never started")
	require.ErrorContains(t, p.Alive(), "never started")
	_, err := p.Wait(t.Context())
	require.ErrorContains(t, err, "never started")
	require.NoError(t, p.Stop(patience))
	p.Kill()
	assert.Zero(t, p.PID())
	require.ErrorContains(t, p.Start(), "/missing/program")
}

func TestRun(t *testing.T) {
	r, err := Run(soon(t), []string{"WORD=said"}, "/bin/sh", "-c", `echo $WORD; echo moaned >&2; exit 3`)
	require.NoError(t, err)
	assert.Equal(t, Result{Code: 3, Stdout: "said\n", Stderr: "moaned\n"}, r)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	begun, limit := filepath.Join(t.TempDir(), "begun"), soon(t)
	go func() {
		defer cancel()
		_ = Until(limit, "it has begun", func() (bool, any) { _, err := os.Stat(begun); return err == nil, err })
	}()
	_, err = Run(ctx, nil, "/bin/sh", "-c", "echo > "+begun+"; exec sleep 1000")
	require.ErrorContains(t, err, "does not end")
}

func TestBinaries(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "drover"), nil, 0o600))
	found, err := Binaries(dir, "drover")
	require.NoError(t, err)
	assert.Equal(t, dir, found)
	_, err = Binaries(dir, "drover", "drover-dev")
	require.ErrorContains(t, err, "drover-dev is not there: run make build first")
	t.Setenv("BIN", "elsewhere")
	found, err = Binaries("")
	require.NoError(t, err)
	root, err := filepath.Abs(filepath.Join("..", ".."))
	require.NoError(t, err)
	assert.Equal(t, filepath.Join(root, "elsewhere"), found, "relative to the root of the repository")
}
