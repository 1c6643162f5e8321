package center

import (
	"context"

	"github.com/drover/drover/workflows"
)

// Revive starts the entity of a job that has none, also when the one it had failed or was ended from outside, and reports
// whether it did.
func (t *TemporalEngine) Revive(ctx context.Context, jobID string) (started bool, err error) {
	return t.rebuildOne(ctx, jobID, false, false)
}

// EntityState asks the entity of a job what it takes its job to be. A worker must run.
func (t *TemporalEngine) EntityState(ctx context.Context, jobID string) (*workflows.JobInput, error) {
	value, err := t.Client.QueryWorkflow(ctx, workflows.JobID(jobID), "", workflows.QueryState)
	if err != nil {
		return nil, err
	}
	state := new(workflows.JobInput)
	return state, value.Get(state)
}
