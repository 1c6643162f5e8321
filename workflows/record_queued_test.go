//go:build record

package workflows

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/drover/drover/smc"
)

// TestRecordQueued writes the history of a job that is queued, withdrawn, queued again and admitted.
func TestRecordQueued(t *testing.T) {
	s := newStack(t)
	// Two agents: the first one's job has the only running slot.
	s.exec(`INSERT INTO settings (name, value) VALUES ('running_quota', '1') ON CONFLICT (name) DO UPDATE SET value = '1'`)
	first := s.agent("first")
	first.hang()
	crowd := s.create(first, smc.CreateReplicationJobRequest{})
	s.start(crowd)
	<-first.hanging
	id := s.create(s.agent("queued"), smc.CreateReplicationJobRequest{})
	s.start(id)
	require.Contains(t, s.await(id, smc.StatusReady).StatusInfo, smc.QueuedInfo+": place 1 of 1")
	s.stop(id)
	require.Empty(t, s.await(id, smc.StatusReady).StatusInfo)
	s.start(id)
	s.start(id) // it keeps its place
	s.stop(crowd)
	first.heal()
	s.await(id, smc.StatusFinished)
	s.write("queued", id)
}
