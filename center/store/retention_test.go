package store

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/drover/drover/center/store/storetest"
	"github.com/drover/drover/events"
	"github.com/drover/drover/smc"
)

func TestForgetAudit(t *testing.T) {
	f := newFixture(t)
	const old, recent = deleteBatch + 7, 3
	start := f.clock.read()
	for i := range old + recent {
		at := start
		if i >= old {
			at = start.Add(time.Hour)
		}
		require.NoError(t, f.Audit(f.ctx, AuditRecord{RequestID: fmt.Sprint(i), At: at, AccountID: account, Action: "X", Outcome: smc.OutcomeOK}))
	}
	n, err := f.ForgetAudit(f.ctx, start.Add(time.Minute))
	require.NoError(t, err)
	require.EqualValues(t, old, n)
	_, left, err := f.AuditLog(f.ctx, account, AuditFilter{}, Page{1, 10})
	require.NoError(t, err)
	require.Equal(t, recent, left)
}

func TestForgetRuns(t *testing.T) {
	f := newFixture(t)
	id := f.create(incremental(f.source("web").SourceID, 3))
	other := f.create(incremental(f.source("other").SourceID, 3))
	f.run(other, smc.TriggerStart)
	f.run(id, smc.TriggerStart)
	for range 5 {
		f.clock.advance(time.Hour)
		f.run(id, smc.TriggerRun)
	}
	numbers := func(id string) (numbers []int) {
		for _, run := range f.job(id).Runs {
			numbers = append(numbers, run.Number)
		}
		return numbers
	}
	n, err := f.ForgetRuns(f.ctx, 4)
	require.NoError(t, err)
	require.EqualValues(t, 2, n)
	require.Equal(t, []int{3, 4, 5, 6}, numbers(id))
	n, err = f.ForgetRuns(f.ctx, 4)
	require.NoError(t, err)
	require.Zero(t, n)
	n, err = f.ForgetRunsBefore(f.ctx, f.clock.read().Add(-90*time.Minute), 2)
	require.NoError(t, err)
	require.EqualValues(t, 2, n, "of three old ones, two are beyond the newest two")
	require.Equal(t, []int{5, 6}, numbers(id))
	n, err = f.ForgetRunsBefore(f.ctx, f.clock.read().Add(time.Hour), 1)
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	require.Equal(t, []int{1}, numbers(other))
	require.Equal(t, smc.StatusWaiting, f.run(id, smc.TriggerRun))
	require.Equal(t, []int{6, 7}, numbers(id))
}

func TestJobsFinishedBefore(t *testing.T) {
	f := newFixture(t)
	first := f.create(spec(f.source("first").SourceID))
	f.run(first, smc.TriggerStart)
	f.clock.advance(time.Hour)
	require.NoError(t, f.HostHeartbeat(f.ctx, hostID, hostURL))
	second := f.create(spec(f.source("second").SourceID))
	f.run(second, smc.TriggerStart)
	f.create(spec(f.source("ready").SourceID))
	ids, err := f.JobsFinishedBefore(f.ctx, f.clock.read(), 10)
	require.NoError(t, err)
	require.Equal(t, []string{first}, ids)
	ids, err = f.JobsFinishedBefore(f.ctx, f.clock.read().Add(time.Minute), 10)
	require.NoError(t, err)
	require.Equal(t, []string{first, second}, ids)
}

// What the stream holds, what it has yet to take, and what the next event follows stays in the outbox.
func TestTrimOutbox(t *testing.T) {
	f := newFixture(t)
	source := f.source("web")
	gone := f.create(spec(source.SourceID))
	f.run(gone, smc.TriggerStart)
	require.NoError(t, f.BeginDelete(f.ctx, gone, "delete"))
	require.NoError(t, f.EndDelete(f.ctx, gone, "deleted"))
	id := f.create(incremental(source.SourceID, 3))
	f.run(id, smc.TriggerStart)
	end := f.publish(1)
	kept := func(resource string) (sequences []uint64) {
		records, err := f.Events(f.ctx, resource)
		require.NoError(t, err)
		for _, record := range records {
			sequences = append(sequences, record.Sequence)
		}
		return sequences
	}
	trim := func(heldFrom uint64) int64 {
		n, err := f.TrimOutbox(f.ctx, f.clock.read(), heldFrom)
		require.NoError(t, err)
		return n
	}
	require.Zero(t, trim(end), "nothing is older than now")
	f.clock.advance(time.Hour)
	require.Zero(t, trim(1), "the stream holds all of it")
	before := len(kept(id))
	require.EqualValues(t, 4, trim(5), "the first four")
	require.Len(t, kept(id), before)

	f.run(id, smc.TriggerRun) // is not published
	trim(end)
	require.Empty(t, kept(gone), "of a job that is gone nothing is left")
	job := f.job(id)
	sequences := kept(id)
	require.Equal(t, uint64(job.Sequence), sequences[len(sequences)-1])
	pending, err := f.Pending(f.ctx, 100)
	require.NoError(t, err)
	f.publish(end)
	f.clock.advance(time.Hour)
	trim(end + uint64(len(pending)))
	require.Equal(t, []uint64{uint64(job.Sequence)}, kept(id), "the last one stays")
	require.Len(t, kept(source.SourceID), 1)

	// The next one follows it.
	f.run(id, smc.TriggerRun)
	next, err := f.Pending(f.ctx, 1)
	require.NoError(t, err)
	require.Equal(t, uint64(job.Sequence)+1, next[0].Sequence)
	require.NotZero(t, next[0].PrevStreamSeq)
}

// More than a batch of events that stay does not hide those behind them.
func TestTrimOutboxOfManyResources(t *testing.T) {
	f := newFixture(t)
	db := storetest.DB(t, f.url)
	const resources = deleteBatch + 50
	tx, err := db.BeginTx(f.ctx, nil)
	require.NoError(t, err)
	insert := func(resource string, sequence uint64) {
		record, err := events.NewRecord(events.SourceStateChanged{
			AccountID: account, RegionID: region, SourceID: resource, Name: resource, Sequence: sequence, Change: events.SourceBack, State: "Available", Time: f.clock.read(),
		})
		require.NoError(t, err)
		event := string(record.Data)
		id := fmt.Sprintf("%s/%d", resource, sequence)
		_, err = tx.ExecContext(f.ctx, `INSERT INTO outbox (event_id, resource_id, sequence, transition_key, subject, event, created_at, stream_sequence, published)
			VALUES ($1, $2, $3, $1, $2, $4, 1, 1, 1)`, id, resource, sequence, event)
		require.NoError(t, err)
	}
	for i := range resources {
		insert(fmt.Sprint("s-", i), 1)
		_, err := tx.ExecContext(f.ctx, `INSERT INTO source_servers (source_id, account_id, region_id, name, state, server, token_hash, instance, heartbeat_at, created_at, sequence)
			VALUES ($1, '1', 'r', $1, 'Available', '{}', $1, $1, 1, 1, 1)`, fmt.Sprint("s-", i))
		require.NoError(t, err)
	}
	for i := range 10 {
		insert("gone", uint64(i+1))
	}
	require.NoError(t, tx.Commit())
	n, err := f.TrimOutbox(f.ctx, f.clock.read(), 100)
	require.NoError(t, err)
	require.EqualValues(t, 10, n)
}
