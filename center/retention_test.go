package center

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/center/store/storetest"
	"github.com/drover/drover/smc"
)

// stubborn is an engine whose entity of one job does not answer.
type stubborn struct {
	Engine
	jobID string
	asked int
}

func (s *stubborn) Update(ctx context.Context, jobID, update, requestID string, argument any) error {
	if jobID == s.jobID {
		s.asked++
		return context.DeadlineExceeded
	}
	return s.Engine.Update(ctx, jobID, update, requestID, argument)
}

// A job that cannot be deleted does not keep those that ended after it.
func TestRetainGoesOnBehindAJobThatStays(t *testing.T) {
	f := newFixture(t)
	db := storetest.DB(t, f.database)
	var ids []string
	for i, name := range []string{"first", "second"} {
		source, _ := f.agent(name)
		ids = append(ids, f.create(source))
		_, err := db.ExecContext(t.Context(), `UPDATE replication_jobs SET status = 'Finished', ended_at = $1 WHERE job_id = $2`, 1000+i, ids[i])
		require.NoError(t, err)
	}
	engine := &stubborn{Engine: f.engine, jobID: ids[0]}
	retain(t.Context(), f.store, engine, Retention{FinishedJobs: time.Hour}, nil, zap.NewNop())
	require.Equal(t, 1, engine.asked, "the next sweep tries again")
	for i, want := range []smc.JobStatus{smc.StatusFinished, smc.StatusDeleting} {
		job, err := f.store.JobByID(t.Context(), ids[i])
		require.NoError(t, err)
		require.Equal(t, want, job.Status)
	}
}

// What is old goes, by the same way as if it had been deleted by hand; what may not go stays.
func TestRetain(t *testing.T) {
	f := newFixture(t)
	source, _ := f.agent("web")
	id := f.create(source)
	db := storetest.DB(t, f.database)
	old := time.Now().Add(-100 * 24 * time.Hour).UnixMilli()
	_, err := db.ExecContext(t.Context(), `UPDATE replication_jobs SET status = 'Finished', ended_at = $1 WHERE job_id = $2`, old, id)
	require.NoError(t, err)
	require.NoError(t, f.store.Audit(t.Context(), store.AuditRecord{RequestID: "old", At: time.UnixMilli(old), AccountID: account, Action: "X", Outcome: smc.OutcomeOK}))
	_, err = db.ExecContext(t.Context(), `UPDATE outbox SET created_at = $1, published = 1, stream_sequence = id`, old)
	require.NoError(t, err)
	events := func() (n int) {
		require.NoError(t, db.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM outbox WHERE created_at = $1`, old).Scan(&n))
		return n
	}
	audit := func() (n int) {
		require.NoError(t, db.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM audit WHERE request_id = 'old'`).Scan(&n))
		return n
	}
	before := events()
	held := uint64(1)
	sweep := func(r Retention) {
		retain(t.Context(), f.store, f.engine, r, func(context.Context) (uint64, error) { return held, nil }, zap.NewNop())
	}

	sweep(Retention{})
	sweep(Retention{FinishedJobs: 101 * 24 * time.Hour, Audit: 101 * 24 * time.Hour, Outbox: 101 * 24 * time.Hour})
	_, err = f.store.JobByID(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, 1, audit())
	require.Equal(t, before, events())

	const ninety = 90 * 24 * time.Hour
	sweep(Retention{Audit: ninety, Outbox: ninety})
	require.Zero(t, audit())
	require.Equal(t, before, events(), "the stream holds all of them")
	sweep(Retention{FinishedJobs: ninety})
	job, err := f.store.JobByID(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, smc.StatusDeleting, job.Status, "its entity does the rest")
	held = 1 << 40
	sweep(Retention{Outbox: ninety})
	require.Less(t, events(), before)
}
