//go:build record

package workflows

import (
	"database/sql"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite" // registers the database/sql driver "sqlite"

	"github.com/drover/drover/smc"
)

// TestRecordQueued writes the history of a job that is queued, withdrawn, queued again and admitted. It comes after TestRecord, which
// clears testdata.
func TestRecordQueued(t *testing.T) {
	s := newStack(t)
	// Two agents: the first one's job has the only running slot.
	db, err := sql.Open("sqlite", "file:"+filepath.Join(s.dir, "center", "center.db")+"?_txlock=immediate&_pragma=busy_timeout(15000)")
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	_, err = db.ExecContext(t.Context(), `INSERT INTO settings (name, value) VALUES ('running_quota', '1') ON CONFLICT (name) DO UPDATE SET value = '1'`)
	require.NoError(t, err)
	first := s.agent("first")
	first.hang()
	crowd := s.create(first, smc.CreateReplicationJobRequest{})
	s.start(crowd)
	<-first.hanging
	id := s.create(s.agent("queued"), smc.CreateReplicationJobRequest{})
	stop := func(id string) {
		_, err := s.client.StopReplicationJob(t.Context(), &smc.StopReplicationJobRequest{JobID: id})
		require.NoError(t, err)
	}
	s.start(id)
	require.Contains(t, s.await(id, smc.StatusReady).StatusInfo, smc.QueuedInfo+": place 1 of 1")
	stop(id)
	require.Empty(t, s.await(id, smc.StatusReady).StatusInfo)
	s.start(id)
	s.start(id) // it keeps its place
	stop(crowd)
	first.heal()
	s.await(id, smc.StatusFinished)
	s.write("queued", 1, id)
}
