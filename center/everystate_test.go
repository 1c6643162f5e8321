package center

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/drover/drover/center/store/storetest"
	"github.com/drover/drover/smc"
)

// inState is what CONTRACT has an operation answer that is aimed at a job in a state, or at its source server: empty when it is allowed.
// Operations that do not look at the state are allowed in every one.
func inState(operation string, status smc.JobStatus, phase smc.BusinessStatus) string {
	running, finished := status == smc.StatusRunning, status == smc.StatusFinished || status == smc.StatusDeleting
	for _, call := range jobCalls() {
		if call.name+"ReplicationJob" != operation {
			continue
		}
		switch {
		case !slices.Contains(call.from, status):
			return smc.CodeReplicationJobInvalidStatus
		case running && call.phases != nil && !slices.Contains(call.phases, phase):
			return smc.CodeReplicationJobInvalidBusinessStatus
		}
		return ""
	}
	switch {
	case operation == "CreateReplicationJob" && !finished:
		return smc.CodeSourceServerStateInvalid // one unfinished job a source
	case operation == "DeleteSourceServer" && running:
		return smc.CodeSourceServerWithRunningReplicationJob // Force or not
	case operation == "CreateCrossZoneMigrationJob":
		return smc.CodeUnsupportedFeature
	}
	return ""
}

// Every operation there is, aimed at a job in every Status and BusinessStatus and at what belongs to it, one-time and incremental. No
// operation is left out; TestStateTable and TestModifyMatrix have more of what those of jobs do.
func TestEveryOperationInEveryState(t *testing.T) {
	// What takes things away comes last, in an order in which it can.
	last := []string{"DeleteImage", "DisassociateSourceServers", "DeleteWorkgroup", "DisableAccessToken", "DeleteAccessToken", "DisableAccessKey", "DeleteTargetInstance", "DeleteSourceServer"}
	operations := smc.Operations()
	slices.SortStableFunc(operations, func(a, b smc.AnyOperation) int {
		return slices.Index(last, a.Name()) - slices.Index(last, b.Name())
	})
	for _, runOnce := range []bool{true, false} {
		for _, status := range smc.JobStatuses() {
			f := newFixture(t, quiet)
			ctx := t.Context()
			its := f.things()
			spare, err := f.client.CreateAccessKey(ctx, &smc.CreateAccessKeyRequest{}) // not the test's own
			require.NoError(t, err)
			its.key = spare.AccessKeyID
			db := storetest.DB(t, f.database)
			job, err := f.store.JobByID(ctx, its.job)
			require.NoError(t, err)
			if job.Spec.RunOnce = &runOnce; !runOnce {
				job.Spec.Frequency, job.Spec.MaxNumberOfImageToKeep = pointer(12), pointer(2)
			}
			spec, err := json.Marshal(job.Spec)
			require.NoError(t, err)
			_, err = db.ExecContext(ctx, `UPDATE replication_jobs SET spec = $1 WHERE job_id = $2`, string(spec), its.job)
			require.NoError(t, err)

			phases := []smc.BusinessStatus{""}
			if status == smc.StatusRunning {
				phases = smc.BusinessStatuses()
			}
			for i, phase := range phases {
				for _, operation := range operations {
					name := operation.Name()
					if slices.Contains(last, name) && i < len(phases)-1 {
						continue // it does so once
					}
					setJob(ctx, t, db, its.job, status, phase)
					values := onThings(its)[name]
					require.NotNil(t, values, "%s has no parameters here", name)
					if name == "CreateWorkgroup" {
						values.Set("Name", "wave-"+string(phase)) // its own has the name of onThings
					}
					err := f.client.Call(ctx, name, values, nil)
					require.Equal(t, inState(name, status, phase), smc.CodeOf(err), "%s in %s/%s, RunOnce %v: %v", name, status, phase, runOnce, err)
				}
			}
		}
	}
}

// The names of jobCalls are those of operations, or of ways to call one.
func TestStateTableHasEveryOperationOnJobs(t *testing.T) {
	known := map[string]bool{}
	for _, call := range jobCalls() {
		known[call.name+"ReplicationJob"] = true
	}
	for _, operation := range smc.Operations() {
		onJob := slices.ContainsFunc(operation.Parameters(), func(p smc.Parameter) bool { return p.Name == "JobId" && p.Required })
		name := operation.Name()
		if !onJob || name == "ModifyReplicationJobAttribute" || name == "DescribeReplicationJobDetails" {
			continue // in its rows under the names of what is modified, and DescribeDetails
		}
		require.True(t, known[name], "%s is missing in the state table", name)
	}
}
