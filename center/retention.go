package center

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/workflows"
)

// Retention says how long what is no longer needed is kept. 0 keeps it for ever.
type Retention struct {
	// FinishedJobs is how long a job stays after it is Finished. It is then deleted as DeleteReplicationJob does: its runs go
	// with it, its images stay.
	FinishedJobs time.Duration
	// Runs is how many runs of an incremental job are kept, at least MinRuns; RunAge how long, the newest MinRuns excepted.
	Runs   int
	RunAge time.Duration
	// Audit is how long the audit log goes back.
	Audit time.Duration
	// Outbox is how long events are kept in the record, so that a lost stream can be filled again. An event that the stream
	// holds is kept as long as it does, and the last one of a job or source server as long as that is there.
	Outbox time.Duration
}

// MinRuns is the least number of runs that are kept of a job: as many as may have an image (CONTRACT:
// MaxNumberOfImageToKeep).
const MinRuns = 10

// retentionSweep is how often what may go is looked for.
const retentionSweep = time.Hour

// finishedBatch is how many Finished jobs are deleted in a row.
const finishedBatch = 100

// Retain deletes what is kept no longer, now and then every hour, until ctx is done. heldFrom returns the sequence of the
// first message that the stream holds. Any number of centers on one store may do so at once.
func Retain(ctx context.Context, record *store.Store, engine Engine, retention Retention, heldFrom func(context.Context) (uint64, error), log *zap.Logger) error {
	return every(ctx, retentionSweep, func() { retain(ctx, record, engine, retention, heldFrom, log) })
}

func retain(ctx context.Context, record *store.Store, engine Engine, retention Retention, heldFrom func(context.Context) (uint64, error), log *zap.Logger) {
	now := time.Now()
	forget := func(what string, keep bool, do func() (int64, error)) {
		if !keep || ctx.Err() != nil {
			return
		}
		n, err := do()
		if err != nil && ctx.Err() == nil {
			log.Warn("retention: "+what+" were not deleted, the next sweep tries again", zap.Error(err))
		}
		if n > 0 {
			log.Info("retention: "+what+" deleted", zap.Int64("count", n))
		}
	}
	forget("finished jobs", retention.FinishedJobs > 0, func() (n int64, err error) {
		for {
			ids, err := record.JobsFinishedBefore(ctx, now.Add(-retention.FinishedJobs), finishedBatch)
			if err != nil || len(ids) == 0 {
				return n, err
			}
			stay := 0
			var why error
			for _, id := range ids {
				switch err := engine.Update(ctx, id, workflows.UpdateDelete, "retention/"+id, struct{}{}); {
				case ctx.Err() != nil:
					return n, ctx.Err()
				case err != nil: // those behind it may go all the same
					stay++
					why = err
				default:
					n++
				}
			}
			if stay > 0 {
				return n, fmt.Errorf("%d of %d: %w", stay, len(ids), why)
			}
		}
	})
	forget("runs", retention.Runs > 0, func() (int64, error) { return record.ForgetRuns(ctx, max(retention.Runs, MinRuns)) })
	forget("old runs", retention.RunAge > 0, func() (int64, error) { return record.ForgetRunsBefore(ctx, now.Add(-retention.RunAge), MinRuns) })
	forget("records of the audit log", retention.Audit > 0, func() (int64, error) { return record.ForgetAudit(ctx, now.Add(-retention.Audit)) })
	forget("client tokens", true, func() (int64, error) { return record.ForgetClientTokens(ctx) })
	forget("events of the outbox", retention.Outbox > 0, func() (int64, error) {
		from, err := heldFrom(ctx)
		if err != nil {
			return 0, err
		}
		return record.TrimOutbox(ctx, now.Add(-retention.Outbox), from)
	})
}
