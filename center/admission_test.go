package center

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
)

// server is one of several servers of a center: an endpoint, and the admission, on a handle of its own on the store.
type server struct {
	*smc.Client
	engine *engine
}

// serve starts another server on the fixture's store.
func (f *fixture) serve() *server {
	f.t.Helper()
	record, err := store.Open(f.t.Context(), f.database)
	require.NoError(f.t, err)
	s := &server{engine: &engine{store: record}}
	listener := httptest.NewServer(NewEndpoint(Config{
		Store: record, Engine: s.engine, DataPlaneKey: dataPlaneKey, RegionID: region, Logger: zap.NewNop(),
	}).Handler())
	s.Client, err = smc.NewClient(smc.Config{Endpoint: listener.URL, AccessKeyID: keyID, AccessKeySecret: secret, RegionID: region, MaxAttempts: 1})
	require.NoError(f.t, err)
	ctx, stop := context.WithCancel(f.t.Context())
	done := make(chan error, 2)
	a := newAdmission(record, s.engine, zap.NewNop())
	a.sweep = time.Hour // what is admitted has been heard of
	go func() { done <- a.run(ctx) }()
	go func() { done <- record.Follow(ctx, 20*time.Millisecond, func(error) {}) }()
	f.t.Cleanup(func() {
		stop()
		assert.NoError(f.t, <-done)
		assert.NoError(f.t, <-done)
		listener.Close()
		assert.NoError(f.t, record.Close())
	})
	return s
}

func (s *server) fail(err error) {
	s.engine.mu.Lock()
	defer s.engine.mu.Unlock()
	s.engine.fail = err
}

// shown is what a server says of jobs: "Running", or the status and the place in the queue.
func (s *server) shown(ctx context.Context, ids ...string) (shown []string, err error) {
	answer, err := s.DescribeReplicationJobs(ctx, &smc.DescribeReplicationJobsRequest{JobID: ids})
	if err != nil {
		return nil, err
	}
	byID := map[string]string{}
	for _, job := range answer.ReplicationJobs {
		place, _, _ := strings.Cut(strings.TrimPrefix(job.StatusInfo, smc.QueuedInfo+": "), ",")
		byID[job.JobID] = strings.TrimSpace(string(job.Status) + " " + place)
	}
	for _, id := range ids {
		shown = append(shown, byID[id])
	}
	return shown, nil
}

// Three servers on one store, two running slots: whoever is asked, and whoever frees a slot, the jobs run in the order in which
// they were started, and never three at once.
func TestQueueOfSeveralServers(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	require.NoError(t, f.store.SetRunningQuota(ctx, 2))
	servers := []*server{f.serve(), f.serve(), f.serve()}
	var ids []string
	for i := range 7 {
		source, _ := f.agent(fmt.Sprint("web-", i))
		ids = append(ids, f.create(source))
		_, err := servers[i%3].StartReplicationJob(ctx, &smc.StartReplicationJobRequest{JobID: ids[i]})
		require.NoError(t, err)
	}
	agree := func(want ...string) {
		t.Helper()
		begun := time.Now()
		for _, s := range servers {
			require.Eventually(t, func() bool {
				shown, err := s.shown(ctx, ids...)
				return err == nil && slices.Equal(want, shown)
			}, 30*time.Second, 5*time.Millisecond, "want %v", want)
		}
		t.Log("after", time.Since(begun))
	}
	stop := func(s *server, id string) {
		t.Helper()
		_, err := s.StopReplicationJob(ctx, &smc.StopReplicationJobRequest{JobID: id})
		require.NoError(t, err)
	}
	agree("Running", "Running", "Ready place 1 of 5", "Ready place 2 of 5", "Ready place 3 of 5", "Ready place 4 of 5", "Ready place 5 of 5")
	details, err := servers[0].DescribeReplicationJobDetails(ctx, &smc.DescribeReplicationJobDetailsRequest{JobID: ids[3]})
	require.NoError(t, err)
	require.Equal(t, "queued to run: place 2 of 5, the account runs 2 jobs of 2 allowed", details.StatusInfo)
	_, err = servers[1].StartReplicationJob(ctx, &smc.StartReplicationJobRequest{JobID: ids[2]})
	require.NoError(t, err, "a second start keeps the place")
	stop(servers[0], ids[4])
	_, err = servers[2].DeleteReplicationJob(ctx, &smc.DeleteReplicationJobRequest{JobID: ids[5]})
	require.NoError(t, err)
	agree("Running", "Running", "Ready place 1 of 3", "Ready place 2 of 3", "Ready", "Deleting", "Ready place 3 of 3")
	_, err = servers[1].StopReplicationJob(ctx, &smc.StopReplicationJobRequest{JobID: ids[4]})
	require.Equal(t, smc.CodeReplicationJobInvalidStatus, smc.CodeOf(err), "there is nothing left to withdraw")

	// Two of the servers cannot reach the entities: the third does.
	servers[0].fail(errors.New("no Temporal"))
	servers[1].fail(errors.New("no Temporal"))
	require.NoError(t, f.store.BeginSync(ctx, ids[0], "sync", 1, hostURL, 1))
	stop(servers[2], ids[0])
	agree("Stopped", "Running", "Running", "Ready place 1 of 2", "Ready", "Deleting", "Ready place 2 of 2")

	// None can; then one is back, and hears of a slot that was freed long before.
	servers[2].fail(errors.New("no Temporal"))
	require.NoError(t, f.store.Fail(ctx, ids[1], "fail", 1, smc.CodeInternalError, "why"))
	agree("Stopped", "InError why", "Running", "Ready place 1 of 2", "Ready", "Deleting", "Ready place 2 of 2")
	servers[0].fail(nil)
	require.NoError(t, f.store.Fail(ctx, ids[2], "fail", 1, smc.CodeInternalError, "why"))
	agree("Stopped", "InError why", "InError why", "Running", "Ready", "Deleting", "Running")

	for _, id := range ids {
		job, err := f.store.JobByID(ctx, id)
		require.NoError(t, err)
		records, err := f.store.Events(ctx, id)
		require.NoError(t, err)
		require.Equal(t, int64(len(records)), job.Sequence, "told by three servers, moved once")
	}
}

// An entity that hangs holds up no other.
func TestAdmissionDoesNotWaitForAnEntity(t *testing.T) {
	f := newFixture(t)
	ctx, cancel := context.WithCancel(t.Context())
	require.NoError(t, f.store.SetRunningQuota(ctx, 1))
	var ids []string
	for i := range 3 {
		source, _ := f.agent(fmt.Sprint("web-", i))
		ids = append(ids, f.create(source))
		_, err := f.client.StartReplicationJob(ctx, &smc.StartReplicationJobRequest{JobID: ids[i]})
		require.NoError(t, err)
	}
	require.NoError(t, f.store.SetRunningQuota(ctx, 3))
	hung := &hangingEngine{engine: f.engine, jobID: ids[1]}
	a := newAdmission(f.store, hung, zap.NewNop())
	for range 3 {
		a.admit(ctx)
	}
	require.Eventually(t, func() bool {
		job, err := f.store.JobByID(ctx, ids[2])
		return err == nil && job.Status == smc.StatusRunning
	}, 30*time.Second, time.Millisecond)
	job, err := f.store.JobByID(ctx, ids[1])
	require.NoError(t, err)
	require.True(t, job.Queued(), "its slot is kept for it")
	cancel()
	a.tells.Wait()
	require.Equal(t, 1, hung.asked, "one tell at a time")
}

// hangingEngine does not answer for one job.
type hangingEngine struct {
	*engine
	jobID string
	asked int
}

func (h *hangingEngine) Update(ctx context.Context, jobID, update, requestID string, argument any) error {
	if jobID != h.jobID {
		return h.engine.Update(ctx, jobID, update, requestID, argument)
	}
	h.asked++
	<-ctx.Done()
	return ctx.Err()
}
