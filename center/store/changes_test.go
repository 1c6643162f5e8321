package store

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/drover/drover/events"
	"github.com/drover/drover/smc"
)

// changes are what the events of a resource say that happened, in order.
func (f *fixture) changes(resource string) (changes []string) {
	f.t.Helper()
	records, err := f.Events(f.ctx, resource)
	require.NoError(f.t, err)
	for _, record := range records {
		event, err := events.Decode(record.Data)
		require.NoError(f.t, err)
		var data struct{ Change string }
		require.NoError(f.t, event.DataAs(&data))
		changes = append(changes, data.Change)
	}
	return changes
}

// known are the changes that the schema of a type names.
func known(t *testing.T, typ string) (all []string) {
	t.Helper()
	text, err := events.Schema(typ)
	require.NoError(t, err)
	var schema struct {
		Defs struct {
			Data struct {
				Properties struct{ Change struct{ Examples []string } }
			}
		} `json:"$defs"`
	}
	require.NoError(t, json.Unmarshal(text, &schema))
	require.NotEmpty(t, schema.Defs.Data.Properties.Change.Examples)
	return schema.Defs.Data.Properties.Change.Examples
}

// TestEveryTransitionIsAnEvent walks every transition of a job and of a source server: each step is one event, and there is no
// change that no step makes.
func TestEveryTransitionIsAnEvent(t *testing.T) {
	f := newFixture(t)
	require.NoError(t, f.SetRunningQuota(f.ctx, 1))
	blocker := f.create(spec(f.source("blocker").SourceID))
	source := f.source("web")
	var id string
	f.clock.advance(time.Second)

	walk := []struct {
		what        string
		do          func() error
		job, source string // what the step adds to their events
	}{
		{"create", func() error { id = f.create(incremental(source.SourceID, 2)); return nil }, "Created", ""},
		{"rename the job", func() error {
			_, err := f.ModifyJob(f.ctx, smc.ModifyReplicationJobAttributeRequest{JobID: id, Name: pointer("renamed")})
			return err
		}, "Modified", ""},
		{"rename it so again", func() error {
			_, err := f.ModifyJob(f.ctx, smc.ModifyReplicationJobAttributeRequest{JobID: id, Name: pointer("renamed")})
			return err
		}, "", ""},
		{"rename the source", func() error { return f.ModifySource(f.ctx, account, source.SourceID, pointer("web-2"), nil) }, "", "Modified"},
		{"rename it so again", func() error { return f.ModifySource(f.ctx, account, source.SourceID, pointer("web-2"), nil) }, "", ""},
		{"start without a slot", func() error {
			f.start(blocker, "start", smc.TriggerStart)
			f.start(id, "queue", smc.TriggerStart)
			return nil
		}, "Queued", ""},
		{"start again", func() error { f.start(id, "queue again", smc.TriggerStart); return nil }, "", ""},
		{"stop while queued", func() error { return f.Stop(f.ctx, id, "withdraw") }, "Withdrawn", ""},
		{"free the slot and start", func() error {
			require.NoError(t, f.BeginSync(f.ctx, blocker, "sync", 1, hostURL, 1))
			require.NoError(t, f.Stop(f.ctx, blocker, "stop"))
			f.start(id, "start", smc.TriggerStart)
			return nil
		}, "Started", "Taken"},
		{"sync", func() error { return f.BeginSync(f.ctx, id, "sync", 1, hostURL, 1) }, "Phase", ""},
		{"sync, told again", func() error { return f.BeginSync(f.ctx, id, "sync", 1, hostURL, 1) }, "", ""},
		{"rename the running job", func() error {
			_, err := f.ModifyJob(f.ctx, smc.ModifyReplicationJobAttributeRequest{JobID: id, Name: pointer("third")})
			return err
		}, "Modified", ""},
		{"lose the source", func() error { f.offline(); return nil }, "", "Offline"},
		{"hear of it", func() error { return f.Heartbeat(f.ctx, source.SourceID, source.Server) }, "", "Back"},
		{"stop", func() error { return f.Stop(f.ctx, id, "stop") }, "Stopped", "Freed"},
		{"resume", func() error { f.start(id, "resume", smc.TriggerStart); return nil }, "Resumed", "Taken"},
		{"fail", func() error { return f.Fail(f.ctx, id, "fail", 1, "Disk.ReadFailed", "look at the disk") }, "Failed", "Freed"},
		{"resume", func() error { f.start(id, "resume again", smc.TriggerStart); return nil }, "Resumed", "Taken"},
		{"run to its end", func() error { f.finish(id, "run", 1); return nil }, "Phase Phase Phase Rested", "Freed"},
		{"a start is due without the source", func() error {
			f.offline()
			f.step(24 * time.Hour)
			require.Error(t, f.dueRun(id, at(24)))
			return nil
		}, "", "Offline"},
		{"its point passes", func() error {
			f.step(24 * time.Hour)
			require.Error(t, f.dueRun(id, at(24)))
			require.Error(t, f.dueRun(id, at(24)))
			return nil
		}, "Missed", ""},
		{"cut over", func() error { return f.FinishCutOver(f.ctx, id, "cutover") }, "Finished", ""},
		{"delete the job", func() error {
			require.NoError(t, f.BeginDelete(f.ctx, id, "deleting"))
			return f.EndDelete(f.ctx, id, "deleted")
		}, "Deleting Deleted", ""},
		{"delete the source", func() error {
			require.NoError(t, f.BeginDeleteSource(f.ctx, account, source.SourceID, false))
			return f.EndDeleteSource(f.ctx, source.SourceID)
		}, "", "Deleting Deleted"},
	}
	var ofJob []string
	ofSource := []string{"Registered"}
	for _, step := range walk {
		require.NoError(t, step.do(), step.what)
		ofJob, ofSource = append(ofJob, strings.Fields(step.job)...), append(ofSource, strings.Fields(step.source)...)
		require.Equal(t, ofJob, f.changes(id), step.what)
		require.Equal(t, ofSource, f.changes(source.SourceID), step.what)
	}

	// What no healthy life has: expiry, and a record that is older than the stream.
	other := f.source("other")
	expiring := f.create(spec(other.SourceID))
	f.clock.advance(31 * 24 * time.Hour)
	_, err := f.Expire(f.ctx, expiring, "expire", f.clock.read())
	require.NoError(t, err)
	restored := &Restoration{BackupAt: f.clock.read()}
	_, err = f.CatchUp(f.ctx, events.Head{Job: &events.JobStatusChanged{
		AccountID: account, RegionID: region, JobID: expiring, SourceID: other.SourceID, Sequence: 9, Status: "Finished",
	}}, restored)
	require.NoError(t, err)
	_, err = f.CatchUp(f.ctx, events.Head{Source: &events.SourceStateChanged{
		AccountID: account, RegionID: region, SourceID: other.SourceID, Sequence: 9, State: "InUse",
	}}, restored)
	require.NoError(t, err)
	require.Equal(t, []string{"Created", "Expired", "Restored"}, f.changes(expiring))
	require.Equal(t, []string{"Registered", "Restored"}, f.changes(other.SourceID))

	require.Subset(t, append(ofJob, f.changes(expiring)...), known(t, events.TypeJobStatus), "a change that nothing makes")
	require.Subset(t, append(ofSource, f.changes(other.SourceID)...), known(t, events.TypeSourceState), "a change that nothing makes")
}

// Those who wait for events are woken by the heartbeats that write one, and by no other.
func TestHeartbeatsWakeWhenTheyTellSomething(t *testing.T) {
	f := newFixture(t)
	source := f.source("web")
	woken := func(do func() error) bool {
		t.Helper()
		changed := f.OutboxChanged()
		require.NoError(t, do())
		select {
		case <-changed:
			return true
		default:
			return false
		}
	}
	heartbeat := func() error { return f.Heartbeat(f.ctx, source.SourceID, source.Server) }
	require.False(t, woken(heartbeat))
	_, err := f.MarkOffline(f.ctx, f.clock.read().Add(time.Second))
	require.NoError(t, err)
	require.True(t, woken(heartbeat), "the source is back")
	require.False(t, woken(heartbeat))
}
