package center

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/workflows"
)

// admissionSweep is how late, at most, a slot is given away of which nothing was heard: a transition host that is back, a
// quota that was raised, an entity that did not answer.
const admissionSweep = 5 * time.Second

// admission has queued jobs run when slots of their accounts are free (CONTRACT: Over the running quota). It only tells the
// entities; the store decides, in the transaction that makes the job Running. So any number of centers may do it at once, and
// what is told twice, too early or to an entity that dies is harmless.
type admission struct {
	store  *store.Store
	engine Engine
	log    *zap.Logger
	sweep  time.Duration // admissionSweep outside tests

	mutex   sync.Mutex
	telling map[string]bool // by JobID
	tells   sync.WaitGroup
}

func newAdmission(record *store.Store, engine Engine, log *zap.Logger) *admission {
	return &admission{store: record, engine: engine, log: log, sweep: admissionSweep, telling: map[string]bool{}}
}

// run admits jobs until ctx is done: as soon as a slot may have become free, and every few seconds.
func (a *admission) run(ctx context.Context) error {
	defer a.tells.Wait()
	ticker := time.NewTicker(a.sweep)
	defer ticker.Stop()
	for {
		changed := a.store.OutboxChanged() // whatever frees a slot writes an event
		a.admit(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-ticker.C:
		}
	}
}

// admit tells every job whose turn has come, and that is not being told, without waiting for the answers: an entity that hangs
// does not hold up those of other accounts.
func (a *admission) admit(ctx context.Context) {
	turns, err := a.store.Admissible(ctx)
	if err != nil {
		if ctx.Err() == nil {
			a.log.Warn("queued jobs not found", zap.Error(err))
		}
		return
	}
	for _, turn := range turns {
		if a.begin(turn.JobID) {
			a.tells.Go(func() {
				defer a.end(turn.JobID)
				a.tell(ctx, turn)
			})
		}
	}
}

func (a *admission) begin(jobID string) bool {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	if a.telling[jobID] {
		return false
	}
	a.telling[jobID] = true
	return true
}

func (a *admission) end(jobID string) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	delete(a.telling, jobID)
}

func (a *admission) tell(ctx context.Context, turn store.Admission) {
	// An id of its own for every tell: one that came too early must not stand for those that come later.
	err := a.engine.Update(ctx, turn.JobID, workflows.UpdateAdmit, newRequestID(), workflows.AdmitRequest{Ticket: turn.Ticket})
	var refusal *smc.Error
	switch {
	case err == nil || ctx.Err() != nil:
	case errors.As(err, &refusal) && refusal.HTTPStatus < 500:
		a.log.Debug("queued job not admitted", zap.String("job_id", turn.JobID), zap.Error(err)) // it moved meanwhile
	default:
		if smc.CodeOf(err) == smc.CodeServiceUnavailable { // an entity that is stuck is not to keep its slot from the others
			if err := a.store.NoteUnanswered(ctx, turn.JobID, turn.Ticket); err != nil && ctx.Err() == nil {
				a.log.Warn("a tell without an answer not recorded", zap.String("job_id", turn.JobID), zap.Error(err))
			}
		}
		a.log.Warn("queued job not told that a running slot is free, tried again", zap.String("job_id", turn.JobID), zap.Error(err))
	}
}
