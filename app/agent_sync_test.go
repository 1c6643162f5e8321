package app

import (
	"context"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/replica"
	"github.com/drover/drover/test/disks"
)

// testEpochs is an EpochStore of one open session.
type testEpochs struct {
	mu      sync.Mutex
	current int64
}

func (e *testEpochs) RaiseEpoch(context.Context, string, int) (int64, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.current++
	return e.current, nil
}

func (e *testEpochs) CheckEpoch(_ context.Context, _ string, epoch int64) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if epoch != e.current {
		return replica.ErrFenced
	}
	return nil
}

// TestAgentCopiesRealDisks runs the agent with the real data plane: two disks made by package disks, two
// runs with a change between them, and both synced states compared with the source.
func TestAgentCopiesRealDisks(t *testing.T) {
	dir := t.TempDir()
	system, data := filepath.Join(dir, "system.raw"), filepath.Join(dir, "data.raw")
	require.NoError(t, disks.Make(system, disks.Spec{SizeBytes: 64 << 20, Seed: 1}))
	require.NoError(t, disks.Make(data, disks.Spec{SizeBytes: 32 << 20, Seed: 2, Layout: disks.Data}))

	key := []byte("a key that host and center share")
	host, err := replica.NewHost(replica.HostConfig{Root: filepath.Join(dir, "host"), ID: "i-1", Key: key, Epochs: &testEpochs{}})
	require.NoError(t, err)
	defer func() { assert.NoError(t, host.Close()) }()
	server := httptest.NewServer(host.Handler())
	defer server.Close()

	center := newFakeCenter(t)
	r := newAgent(t, AgentConfig{
		Endpoint: center.URL, Code: goodCode, Name: "web-1", StateDir: filepath.Join(dir, "state"), Disks: []string{system, data},
	})
	r.agent.sync, r.agent.probe = replica.Sync, replica.ProbeDisk
	r.start()
	registered := center.count(func(c *fakeCenter) int { return len(c.registered) })
	eventually(t, "the registration", func() bool { return registered() == 1 })
	described := center.registrations()[0].Server.Disks
	require.Len(t, described, 2)
	require.Len(t, described[0].Parts, 2)
	assert.Equal(t, "0_1", described[0].Parts[1].Device)
	assert.Equal(t, "root", described[0].Parts[1].Path)
	assert.Equal(t, "data", described[1].Parts[0].Path)
	assert.Less(t, described[0].UsedBytes, described[0].SizeBytes)

	var staged []replica.Disk
	for _, d := range described {
		staged = append(staged, replica.Disk{Index: d.Index, SizeBytes: d.SizeBytes})
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, host.Prepare(ctx, "j-1", staged))
	var sent []int64
	for run := 1; run <= 2; run++ {
		session, err := host.OpenSession(ctx, replica.SessionSpec{JobID: "j-1", Run: run, Disks: staged, Params: replica.DefaultParams()})
		require.NoError(t, err)
		center.want(&agentapi.Work{
			JobID: "j-1", Run: run, HostURL: server.URL,
			Token: replica.SignToken(key, replica.TokenSession, "j-1", time.Now().Add(time.Hour)),
		})
		result, err := session.Wait(ctx, time.Second, func(replica.Progress) {})
		require.NoError(t, err)
		sent = append(sent, result.Progress.BytesSent)
		eventually(t, "the agent's word that it is done", func() bool { return r.logs.FilterMessage("sync complete").Len() == run })
		center.want(nil)
		for i, source := range []string{system, data} {
			same(t, source, filepath.Join(dir, "host", "staging", "j-1", "disk-"+string(rune('0'+i))+".raw"))
		}
		require.NoError(t, disks.Mutate(system, uint64(run), 1<<20))
	}
	r.stop()
	assert.Positive(t, sent[1])
	assert.Less(t, sent[1], sent[0]/2, "the second run sends what changed")
}

func same(t *testing.T, a, b string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "cmp", a, b).CombinedOutput(); err != nil {
		require.FailNow(t, "the copy differs", "%s", out)
	}
	info, err := os.Stat(b)
	require.NoError(t, err)
	assert.Positive(t, info.Size())
}
