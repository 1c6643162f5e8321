package conformance

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/test/disks"
	"github.com/drover/drover/test/stack"
)

const mib = 1 << 20

// center is a real center and the disks of its source servers.
type center struct {
	*stack.Stack
	// narrow is the endpoint of a second server of the same center: one job an account, one call a key.
	narrow string
}

// startCenter starts a center: drover-dev on SQLite, or processes of their own on a PostgreSQL server.
func startCenter(t *testing.T, postgres string) *center {
	t.Helper()
	// The vendor's clients do not wait and try again when they are throttled, and a fast machine makes hundreds of calls a second with them. The
	// narrow endpoint shows the throttling.
	unmetered := []string{"--rate-limit", "0"}
	c := &center{Stack: stack.ForTest(t, stack.Options{Embedded: postgres == "", Postgres: postgres, DevArgs: unmetered, ServerArgs: unmetered})}
	networks := filepath.Join(c.Dir, "networks.json")
	require.NoError(t, os.WriteFile(networks, []byte(`{"vsw-1": "vpc-1"}`), 0o600))
	narrow, err := c.AddServer(withTimeout(t), "--job-quota", "1", "--rate-limit", "0.0001", "--rate-burst", "1", "--vswitches", networks)
	require.NoError(t, err)
	c.narrow = narrow.URL
	return c
}

func withTimeout(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), stack.StartLimit)
	t.Cleanup(cancel)
	return ctx
}

// identity is the center's first access key.
func (c *center) identity() identity {
	env := c.Env()
	return identity{
		Endpoint: env["DROVER_ENDPOINT"], AccessKeyID: env["ALIBABA_CLOUD_ACCESS_KEY_ID"], AccessKeySecret: env["ALIBABA_CLOUD_ACCESS_KEY_SECRET"],
	}
}

// startAgent starts the agent of a source server with a system disk and dataDisks data disks.
func (c *center) startAgent(t *testing.T, name, code string, dataDisks int) *stack.Agent {
	t.Helper()
	var files []string
	for i := range 1 + dataDisks {
		spec := disks.Spec{SizeBytes: 64 * mib, FillBytes: 24 * mib, CompressiblePercent: -1, Seed: 1}
		if i > 0 {
			spec = disks.Spec{SizeBytes: 32 * mib, Layout: disks.Data, Seed: uint64(1 + i)}
		}
		file := filepath.Join(c.Dir, fmt.Sprintf("%s-%d.raw", name, i))
		require.NoError(t, disks.Make(file, spec))
		files = append(files, file)
	}
	a, err := c.StartAgentWithCode(withTimeout(t), code, name, files...)
	require.NoError(t, err)
	return a
}

// startTarget registers a target instance whose disks have these sizes, and returns its id.
func (c *center) startTarget(t *testing.T, name, code string, sizes ...int64) string {
	t.Helper()
	var files []string
	for i, size := range sizes {
		file := filepath.Join(c.Dir, fmt.Sprintf("target-%s-%d.raw", name, i))
		require.NoError(t, os.WriteFile(file, nil, 0o600))
		require.NoError(t, os.Truncate(file, size))
		files = append(files, file)
	}
	target, err := c.StartTarget(withTimeout(t), code, name, files...)
	require.NoError(t, err)
	return target.InstanceID
}

// takeOffline ends an agent and has the center notice it at once: as if three heartbeats had gone by, and a replica's sweep.
func (c *center) takeOffline(t *testing.T, a *stack.Agent) {
	t.Helper()
	a.Kill()
	db, err := c.Database.Open()
	require.NoError(t, err)
	defer db.Close()
	sealer, err := store.LoadSealer(c.Env()["DROVER_SECRET_KEY_FILE"])
	require.NoError(t, err)
	record, err := store.Open(t.Context(), c.Database.URL, store.WithSealer(sealer))
	require.NoError(t, err)
	defer func() { require.NoError(t, record.Close()) }()
	stack.Eventually(t, stepLimit, "the source server is Unavailable", func() (bool, any) { // a heartbeat may be under way, and a replica be first
		_, err := db.ExecContext(t.Context(), `UPDATE source_servers SET heartbeat_at = 0 WHERE source_id = $1`, a.SourceID)
		require.NoError(t, err)
		_, err = record.MarkOffline(t.Context(), time.UnixMilli(1))
		require.NoError(t, err)
		source, err := record.Source(t.Context(), c.Env()["DROVER_ACCOUNT"], a.SourceID)
		require.NoError(t, err)
		return source.State == smc.SourceUnavailable, source.State
	})
}
