package center

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/drover/drover/center/store/storetest"
	"github.com/drover/drover/smc"
)

// jobCall is a call on a job and what CONTRACT says of it: where it is allowed and where it leads. It is written down here
// a second time on purpose: the test holds the table of smc against it.
type jobCall struct {
	name string
	do   func(ctx context.Context, c *smc.Client, jobID string) error
	// from are the statuses in which it is allowed; phases narrows Running.
	from   []smc.JobStatus
	phases []smc.BusinessStatus
	// to is the status it leads to; empty means that it stays.
	to smc.JobStatus
	// incremental says that it is allowed on incremental jobs only, and code how else it is refused.
	incremental bool
	code        string
}

func jobCalls() []jobCall {
	modify := func(change func(*smc.ModifyReplicationJobAttributeRequest)) func(context.Context, *smc.Client, string) error {
		return func(ctx context.Context, c *smc.Client, jobID string) error {
			r := &smc.ModifyReplicationJobAttributeRequest{JobID: jobID}
			change(r)
			_, err := c.ModifyReplicationJobAttribute(ctx, r)
			return err
		}
	}
	always := smc.JobStatuses()
	return []jobCall{
		{
			name: "Start", from: []smc.JobStatus{smc.StatusReady, smc.StatusStopped, smc.StatusInError}, to: smc.StatusRunning,
			do: func(ctx context.Context, c *smc.Client, jobID string) error {
				_, err := c.StartReplicationJob(ctx, &smc.StartReplicationJobRequest{JobID: jobID})
				return err
			},
		},
		{
			name: "Stop", from: []smc.JobStatus{smc.StatusRunning}, phases: []smc.BusinessStatus{smc.BusinessSyncing}, to: smc.StatusStopped,
			do: func(ctx context.Context, c *smc.Client, jobID string) error {
				_, err := c.StopReplicationJob(ctx, &smc.StopReplicationJobRequest{JobID: jobID})
				return err
			},
		},
		{
			name: "CutOver", from: []smc.JobStatus{smc.StatusWaiting}, to: smc.StatusFinished,
			do: func(ctx context.Context, c *smc.Client, jobID string) error {
				_, err := c.CutOverReplicationJob(ctx, &smc.CutOverReplicationJobRequest{JobID: jobID})
				return err
			},
		},
		{
			name: "CutOver SyncData", from: []smc.JobStatus{smc.StatusWaiting}, to: smc.StatusRunning,
			do: func(ctx context.Context, c *smc.Client, jobID string) error {
				_, err := c.CutOverReplicationJob(ctx, &smc.CutOverReplicationJobRequest{JobID: jobID, SyncData: pointer(true)})
				return err
			},
		},
		{
			name: "Run", from: []smc.JobStatus{smc.StatusWaiting}, to: smc.StatusRunning,
			do: func(ctx context.Context, c *smc.Client, jobID string) error {
				_, err := c.RunReplicationJob(ctx, &smc.RunReplicationJobRequest{JobID: jobID})
				return err
			},
		},
		{
			name: "Delete", to: smc.StatusDeleting,
			from: []smc.JobStatus{smc.StatusReady, smc.StatusStopped, smc.StatusWaiting, smc.StatusInError, smc.StatusFinished, smc.StatusExpired},
			do: func(ctx context.Context, c *smc.Client, jobID string) error {
				_, err := c.DeleteReplicationJob(ctx, &smc.DeleteReplicationJobRequest{JobID: jobID})
				return err
			},
		},
		{name: "Modify Name", from: always, do: modify(func(r *smc.ModifyReplicationJobAttributeRequest) { r.Name = pointer("renamed") })},
		{name: "Modify Description", from: always, do: modify(func(r *smc.ModifyReplicationJobAttributeRequest) { r.Description = pointer("described") })},
		{
			name: "Modify Frequency", from: []smc.JobStatus{smc.StatusReady, smc.StatusWaiting}, incremental: true, code: smc.CodeInvalidParameter,
			do: modify(func(r *smc.ModifyReplicationJobAttributeRequest) { r.Frequency = pointer(5) }),
		},
		{
			name: "Modify MaxNumberOfImageToKeep", from: []smc.JobStatus{smc.StatusReady, smc.StatusWaiting}, incremental: true, code: smc.CodeInvalidParameter,
			do: modify(func(r *smc.ModifyReplicationJobAttributeRequest) { r.MaxNumberOfImageToKeep = pointer(5) }),
		},
		{
			name: "Modify ValidTime",
			from: []smc.JobStatus{smc.StatusReady, smc.StatusRunning, smc.StatusStopped, smc.StatusInError, smc.StatusWaiting},
			do:   modify(func(r *smc.ModifyReplicationJobAttributeRequest) { r.ValidTime = pointer("") }),
		},
		{name: "Modify ImageName", from: []smc.JobStatus{smc.StatusReady}, do: modify(func(r *smc.ModifyReplicationJobAttributeRequest) { r.ImageName = pointer("another") })},
		{name: "Modify SystemDiskSize", from: []smc.JobStatus{smc.StatusReady}, do: modify(func(r *smc.ModifyReplicationJobAttributeRequest) { r.SystemDiskSize = pointer(100) })},
		{name: "Modify ReplicationParameters", from: []smc.JobStatus{smc.StatusReady}, do: modify(func(r *smc.ModifyReplicationJobAttributeRequest) { r.ReplicationParameters = pointer("{}") })},
		{
			name: "Describe", from: always,
			do: func(ctx context.Context, c *smc.Client, jobID string) error {
				res, err := c.DescribeReplicationJobs(ctx, &smc.DescribeReplicationJobsRequest{JobID: []string{jobID}})
				if err == nil && res.TotalCount != 1 {
					err = fmt.Errorf("%d jobs", res.TotalCount)
				}
				return err
			},
		},
		{
			name: "DescribeDetails", from: always,
			do: func(ctx context.Context, c *smc.Client, jobID string) error {
				_, err := c.DescribeReplicationJobDetails(ctx, &smc.DescribeReplicationJobDetailsRequest{JobID: jobID})
				return err
			},
		},
	}
}

// Every operation on a job in every Status and BusinessStatus, one-time and incremental: through the endpoint, to the store.
func TestStateTable(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.Logger = zap.NewNop() })
	ctx := t.Context()
	db := storetest.DB(t, f.database)
	phases := append(smc.BusinessStatuses(), "")
	cells := 0
	for _, runOnce := range []bool{true, false} {
		source, _ := f.agent(fmt.Sprintf("web-%v", runOnce))
		request := &smc.CreateReplicationJobRequest{SourceID: source, RunOnce: &runOnce}
		if !runOnce {
			request.Frequency, request.MaxNumberOfImageToKeep = pointer(1), pointer(1)
		}
		created, err := f.client.CreateReplicationJob(ctx, request)
		require.NoError(t, err)
		_, err = f.client.StartReplicationJob(ctx, &smc.StartReplicationJobRequest{JobID: created.JobID})
		require.NoError(t, err)
		for _, status := range smc.JobStatuses() {
			for _, phase := range phases {
				require.NoError(t, f.store.HostHeartbeat(ctx, hostID, hostURL)) // on a busy machine all of this takes longer than it is believed
				for _, call := range jobCalls() {
					cells++
					cell := fmt.Sprintf("%s in %s/%s, RunOnce %v", call.name, status, phase, runOnce)
					setJob(ctx, t, db, created.JobID, status, phase)
					before, err := f.store.JobByID(ctx, created.JobID)
					require.NoError(t, err, cell)
					err = call.do(ctx, f.client, created.JobID)
					after, lookErr := f.store.JobByID(ctx, created.JobID)
					require.NoError(t, lookErr, cell)

					want := status
					switch {
					case !slices.Contains(call.from, status):
						require.Equal(t, smc.CodeReplicationJobInvalidStatus, smc.CodeOf(err), "%s: %v", cell, err)
						require.ErrorContains(t, err, string(status), "it says which status the job has")
						for _, allowed := range call.from {
							require.ErrorContains(t, err, string(allowed), "it says which statuses are allowed")
						}
					case status == smc.StatusRunning && call.phases != nil && !slices.Contains(call.phases, phase):
						require.Equal(t, smc.CodeReplicationJobInvalidBusinessStatus, smc.CodeOf(err), "%s: %v", cell, err)
					case call.incremental && runOnce:
						require.Equal(t, call.code, smc.CodeOf(err), "%s: %v", cell, err)
					default:
						require.NoError(t, err, cell)
						if call.to != "" {
							want = call.to
						}
					}
					require.Equal(t, want, after.Status, cell)
					if err != nil {
						require.Equal(t, before, after, "%s: refused, and yet something changed", cell)
					}
				}
			}
		}
	}
	require.Equal(t, 2*8*5*len(jobCalls()), cells)
}

// setJob puts a job into a state, whatever it is in; it is in its first run.
func setJob(ctx context.Context, t *testing.T, db *sql.DB, jobID string, status smc.JobStatus, phase smc.BusinessStatus) {
	t.Helper()
	_, err := db.ExecContext(ctx, `DELETE FROM replication_runs WHERE number > 1`)
	require.NoError(t, err)
	// The other job is out of the way of names and of the source.
	_, err = db.ExecContext(ctx, `UPDATE replication_jobs SET name = '', status = 'Finished' WHERE job_id <> $1`, jobID)
	require.NoError(t, err)
	_, err = db.ExecContext(ctx, `UPDATE replication_jobs SET name = '', status = $1, business_status = $2, run = 1, cutover = '', ended_at = 0 WHERE job_id = $3`,
		string(status), string(phase), jobID)
	require.NoError(t, err)
}
