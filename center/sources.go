package center

import (
	"context"

	"go.uber.org/zap"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/workflows"
)

func (e *Endpoint) registerSources() {
	serve(e, smc.DescribeSourceServers, e.describeSourceServers)
	serve(e, smc.ModifySourceServerAttribute, func(ctx context.Context, c *call, r *smc.ModifySourceServerAttributeRequest) (*smc.ModifySourceServerAttributeResult, error) {
		return &smc.ModifySourceServerAttributeResult{}, e.Store.ModifySource(ctx, c.accountID, r.SourceID, r.Name, r.Description)
	})
	serve(e, smc.DeleteSourceServer, e.deleteSourceServer)
}

// deleteSourceServer makes the source Deleting, deletes its jobs, and removes it when they are gone: at once when there
// is none, else by the sweep.
func (e *Endpoint) deleteSourceServer(ctx context.Context, c *call, r *smc.DeleteSourceServerRequest) (*smc.DeleteSourceServerResult, error) {
	if err := e.Store.BeginDeleteSource(ctx, c.accountID, r.SourceID, value(r.Force)); err != nil {
		return nil, err
	}
	if err := removeSource(ctx, e.Store, e.Engine, r.SourceID, c.requestID); err != nil {
		c.log.Warn("source server not removed yet, the sweep goes on", zap.String("source_id", r.SourceID), zap.Error(err))
	}
	return &smc.DeleteSourceServerResult{}, nil
}

// removeSource deletes the jobs of a source that is Deleting, and the source when they are gone.
func removeSource(ctx context.Context, record *store.Store, engine Engine, sourceID, requestID string) error {
	jobs, err := record.JobIDsOfSource(ctx, sourceID)
	if err != nil {
		return err
	}
	for _, jobID := range jobs {
		err := engine.Update(ctx, jobID, workflows.UpdateDelete, requestID, struct{}{})
		switch smc.CodeOf(err) {
		case "", smc.CodeReplicationJobInvalidStatus, smc.CodeInvalidJobIDNotFound: // deleted, being deleted, or gone
		default:
			return err
		}
	}
	return record.EndDeleteSource(ctx, sourceID)
}
