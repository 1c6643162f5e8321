//go:build record

package workflows

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/temporalproto"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"golang.org/x/sync/errgroup"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/center/store/storetest"
	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
)

// TestRecord runs the scenarios of TestReplay on the embedded stack and writes their histories to testdata:
//
//	make drover-dev && go test -tags record -run TestRecord -count=1 ./workflows
//
// Scenarios that take hours or months are recorded in seconds: the times in the job's row are moved, and a modification of
// the job has its entity read them. The workflow's commands are those of the long wait; only its timers are shorter.
//
// It is to be run when a workflow was changed on purpose in a way that open workflows need not survive. The agents of
// the source servers are played by the test, so that a disk can be made to hang and to fail.
func TestRecord(t *testing.T) {
	s := newStack(t)
	scenarios := []struct {
		name string
		play func(*stack, *agent) (jobID string)
	}{
		{"one-time", (*stack).oneTime},
		{"stopped-and-resumed", (*stack).stoppedAndResumed},
		{"in-error-and-resumed", (*stack).inErrorAndResumed},
		{"incremental-with-cutover", (*stack).incrementalWithCutOver},
		{"deleted", (*stack).deleted},
		{"scheduled", (*stack).scheduled},
		{"schedule-modified", (*stack).scheduleModified},
		{"schedule-cleared", (*stack).scheduleCleared},
		{"grid", (*stack).grid},
		{"grid-missed", (*stack).gridMissed},
		{"grid-modified", (*stack).gridModified},
		{"source-away", (*stack).sourceAway},
		{"expired-ready", (*stack).expiredReady},
		{"expired-stopped", (*stack).expiredStopped},
		{"expired-in-error", (*stack).expiredInError},
		{"expired-waiting", (*stack).expiredWaiting},
		{"valid-time-modified", (*stack).validTimeModified},
		{"cutover-as-is", (*stack).cutOverAsIs},
		{"cutover-failed", (*stack).cutOverFailed},
		{"cutover-stopped", (*stack).cutOverStopped},
		{"deleted-ready", (*stack).deletedReady},
		{"deleted-in-error", (*stack).deletedInError},
		{"deleted-waiting", (*stack).deletedWaiting},
		{"deleted-finished", (*stack).deletedFinished},
		{"deleted-expired", (*stack).deletedExpired},
		{"continued-as-new", (*stack).continuedAsNew},
	}
	for _, scenario := range scenarios {
		t.Run(scenario.name, func(t *testing.T) {
			s := s.in(t)
			s.write(scenario.name, scenario.play(s, s.agent(scenario.name)))
		})
	}
}

func (s *stack) oneTime(a *agent) string {
	id := s.create(a, smc.CreateReplicationJobRequest{})
	s.start(id)
	s.await(id, smc.StatusFinished)
	return id
}

func (s *stack) stoppedAndResumed(a *agent) string {
	id := s.stopped(a)
	s.start(id)
	s.await(id, smc.StatusFinished)
	return id
}

func (s *stack) inErrorAndResumed(a *agent) string {
	id := s.inError(a)
	s.start(id)
	s.await(id, smc.StatusFinished)
	return id
}

func (s *stack) incrementalWithCutOver(a *agent) string {
	once, frequency, keep := false, 24, 2
	id := s.create(a, smc.CreateReplicationJobRequest{RunOnce: &once, Frequency: &frequency, MaxNumberOfImageToKeep: &keep})
	s.start(id)
	s.await(id, smc.StatusWaiting)
	_, err := s.client.RunReplicationJob(s.t.Context(), &smc.RunReplicationJobRequest{JobID: id})
	require.NoError(s.t, err)
	s.await(id, smc.StatusWaiting)
	s.cutOver(id, true)
	s.await(id, smc.StatusFinished)
	return id
}

func (s *stack) scheduled(a *agent) string {
	id := s.create(a, smc.CreateReplicationJobRequest{ScheduledStartTime: in(3 * time.Second)})
	s.await(id, smc.StatusFinished)
	return id
}

func (s *stack) scheduleModified(a *agent) string {
	id := s.create(a, smc.CreateReplicationJobRequest{ScheduledStartTime: in(time.Hour)})
	s.modify(id, smc.ModifyReplicationJobAttributeRequest{ScheduledStartTime: in(3 * time.Second)})
	s.await(id, smc.StatusFinished)
	return id
}

func (s *stack) scheduleCleared(a *agent) string {
	id := s.create(a, smc.CreateReplicationJobRequest{ScheduledStartTime: in(time.Hour)})
	s.modify(id, smc.ModifyReplicationJobAttributeRequest{ScheduledStartTime: new(string)})
	require.Empty(s.t, s.await(id, smc.StatusReady).ScheduledStartTime)
	return id
}

// hourly makes an incremental job and has it make its first run.
func (s *stack) hourly(a *agent) string {
	s.t.Helper()
	once, frequency, keep := false, 1, 2
	id := s.create(a, smc.CreateReplicationJobRequest{RunOnce: &once, Frequency: &frequency, MaxNumberOfImageToKeep: &keep})
	s.start(id)
	s.await(id, smc.StatusWaiting)
	return id
}

func (s *stack) grid(a *agent) string {
	id := s.hourly(a)
	s.past(id, time.Hour-3*time.Second, "started_at", "grid_through")
	s.awaitRuns(id, 2)
	return id
}

func (s *stack) gridMissed(a *agent) string {
	id := s.hourly(a)
	s.past(id, 5*time.Hour+30*time.Minute, "started_at", "grid_through")
	s.awaitRuns(id, 2)
	return id
}

func (s *stack) gridModified(a *agent) string {
	id := s.hourly(a)
	frequency := 168
	s.modify(id, smc.ModifyReplicationJobAttributeRequest{Frequency: &frequency})
	s.past(id, 168*time.Hour-3*time.Second, "started_at", "grid_through")
	s.awaitRuns(id, 2)
	return id
}

// sourceAway takes as long as a start that is due waits between two attempts.
func (s *stack) sourceAway(a *agent) string {
	id := s.hourly(a)
	s.exec(`UPDATE source_servers SET state = 'Unavailable' WHERE source_id = $1`, a.sourceID)
	s.past(id, 2*time.Hour, "started_at", "grid_through")
	require.Eventually(s.t, func() bool { return strings.Contains(s.job(id).StatusInfo, "waits: the source server is Unavailable") }, 10*time.Second, 20*time.Millisecond)
	s.exec(`UPDATE source_servers SET state = 'Available' WHERE source_id = $1`, a.sourceID)
	s.awaitRuns(id, 2)
	return id
}

// expire has a job expire, and clears it.
func (s *stack) expire(id string) string {
	s.t.Helper()
	s.expired(id)
	require.Eventually(s.t, func() bool { return s.job(id).TransitionInstanceID == "" }, 10*time.Second, 20*time.Millisecond, "released")
	s.past(id, 7*24*time.Hour-3*time.Second, "ended_at")
	s.gone(id)
	return id
}

func (s *stack) expired(id string) {
	s.t.Helper()
	changed := "changed"
	s.exec(`UPDATE replication_jobs SET valid_until = $1 WHERE job_id = $2`, time.Now().Add(3*time.Second).UnixMilli(), id)
	s.modify(id, smc.ModifyReplicationJobAttributeRequest{Description: &changed})
	s.await(id, smc.StatusExpired)
}

func (s *stack) expiredReady(a *agent) string {
	return s.expire(s.create(a, smc.CreateReplicationJobRequest{}))
}

func (s *stack) expiredStopped(a *agent) string { return s.expire(s.stopped(a)) }
func (s *stack) expiredInError(a *agent) string { return s.expire(s.inError(a)) }
func (s *stack) expiredWaiting(a *agent) string { return s.expire(s.hourly(a)) }

func (s *stack) validTimeModified(a *agent) string {
	id := s.create(a, smc.CreateReplicationJobRequest{})
	for _, validTime := range []*string{in(80 * 24 * time.Hour), in(8 * 24 * time.Hour), new(string)} {
		s.modify(id, smc.ModifyReplicationJobAttributeRequest{ValidTime: validTime})
	}
	s.start(id)
	s.await(id, smc.StatusFinished)
	return id
}

func (s *stack) stopped(a *agent) string {
	s.t.Helper()
	a.hang()
	id := s.create(a, smc.CreateReplicationJobRequest{})
	s.start(id)
	s.stopHanging(a, id)
	return id
}

// stopHanging stops a job whose agent hangs.
func (s *stack) stopHanging(a *agent, id string) {
	s.t.Helper()
	<-a.hanging
	s.stop(id)
	a.heal()
}

func (s *stack) stop(id string) {
	s.t.Helper()
	_, err := s.client.StopReplicationJob(s.t.Context(), &smc.StopReplicationJobRequest{JobID: id})
	require.NoError(s.t, err)
}

func (s *stack) inError(a *agent) string {
	s.t.Helper()
	a.fail()
	id := s.create(a, smc.CreateReplicationJobRequest{})
	s.start(id)
	require.Equal(s.t, smc.CodeSourceDiskReadError, s.await(id, smc.StatusInError).ErrorCode)
	a.heal()
	return id
}

func (s *stack) cutOver(id string, syncData bool) {
	s.t.Helper()
	_, err := s.client.CutOverReplicationJob(s.t.Context(), &smc.CutOverReplicationJobRequest{JobID: id, SyncData: &syncData})
	require.NoError(s.t, err)
}

func (s *stack) cutOverAsIs(a *agent) string {
	id := s.hourly(a)
	s.cutOver(id, false)
	s.await(id, smc.StatusFinished)
	require.Eventually(s.t, func() bool { return s.job(id).TransitionInstanceID == "" }, 10*time.Second, 20*time.Millisecond, "released")
	return id
}

func (s *stack) cutOverFailed(a *agent) string {
	id := s.hourly(a)
	a.fail()
	s.cutOver(id, true)
	s.await(id, smc.StatusInError)
	a.heal()
	s.start(id)
	s.await(id, smc.StatusFinished)
	return id
}

func (s *stack) cutOverStopped(a *agent) string {
	id := s.hourly(a)
	a.hang()
	s.cutOver(id, true)
	s.stopHanging(a, id)
	s.start(id)
	s.await(id, smc.StatusFinished)
	return id
}

func (s *stack) remove(id string) string {
	s.t.Helper()
	_, err := s.client.DeleteReplicationJob(s.t.Context(), &smc.DeleteReplicationJobRequest{JobID: id})
	require.NoError(s.t, err)
	s.gone(id)
	return id
}

func (s *stack) deletedReady(a *agent) string {
	return s.remove(s.create(a, smc.CreateReplicationJobRequest{}))
}

func (s *stack) deleted(a *agent) string         { return s.remove(s.stopped(a)) }
func (s *stack) deletedInError(a *agent) string  { return s.remove(s.inError(a)) }
func (s *stack) deletedWaiting(a *agent) string  { return s.remove(s.hourly(a)) }
func (s *stack) deletedFinished(a *agent) string { return s.remove(s.oneTime(a)) }

func (s *stack) deletedExpired(a *agent) string {
	id := s.create(a, smc.CreateReplicationJobRequest{})
	s.expired(id)
	return s.remove(id)
}

// continuedAsNew sends updates from several clients at once while the entity continues as new again and again: none is
// lost and none is made twice, which the histories of all its runs tell.
func (s *stack) continuedAsNew(a *agent) string {
	id := s.create(a, smc.CreateReplicationJobRequest{})
	const clients, each = 4, 20
	var group errgroup.Group
	for client := range clients {
		group.Go(func() error {
			for i := range each {
				description := fmt.Sprintf("change-%d-%d", client, i)
				if _, err := s.client.ModifyReplicationJobAttribute(s.t.Context(), &smc.ModifyReplicationJobAttributeRequest{JobID: id, Description: &description}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(s.t, group.Wait())
	made, runs := map[string]int{}, 0
	for _, run := range s.chain(id) {
		runs++
		require.LessOrEqual(s.t, len(run.Events), 200)
		for _, event := range run.Events {
			if scheduled := event.GetActivityTaskScheduledEventAttributes(); scheduled.GetActivityType().GetName() == "Modify" {
				var request smc.ModifyReplicationJobAttributeRequest
				require.NoError(s.t, converter.GetDefaultDataConverter().FromPayloads(scheduled.Input, &request))
				made[*request.Description]++
			}
		}
	}
	require.Greater(s.t, runs, 2)
	require.Len(s.t, made, clients*each)
	for description, times := range made {
		require.Equal(s.t, 1, times, description)
	}
	return id
}

// in is a time of the API, some time from now.
func in(d time.Duration) *string {
	text := smc.FormatTime(time.Now().Add(d))
	return &text
}

func (s *stack) modify(id string, request smc.ModifyReplicationJobAttributeRequest) {
	s.t.Helper()
	request.JobID = id
	_, err := s.client.ModifyReplicationJobAttribute(s.t.Context(), &request)
	require.NoError(s.t, err)
}

func (s *stack) exec(statement string, args ...any) {
	s.t.Helper()
	_, err := storetest.DB(s.t, s.env["DATABASE_URL"]).ExecContext(s.t.Context(), statement, args...)
	require.NoError(s.t, err)
}

// past moves times of a job's row into the past, and has its entity read them.
func (s *stack) past(id string, by time.Duration, columns ...string) {
	s.t.Helper()
	for _, column := range columns {
		s.exec(`UPDATE replication_jobs SET `+column+` = `+column+` - $1 WHERE job_id = $2`, by.Milliseconds(), id)
	}
	description := "moved-" + columns[0]
	s.modify(id, smc.ModifyReplicationJobAttributeRequest{Description: &description})
}

// gone waits until the entity of a job has ended with its job.
func (s *stack) gone(id string) {
	s.t.Helper()
	require.NoError(s.t, s.temporal.GetWorkflow(s.t.Context(), JobID(id), "").Get(s.t.Context(), nil))
}

func (s *stack) job(id string) (job smc.ReplicationJob) {
	s.t.Helper()
	jobs, err := s.client.DescribeReplicationJobs(s.t.Context(), &smc.DescribeReplicationJobsRequest{JobID: []string{id}})
	require.NoError(s.t, err)
	if len(jobs.ReplicationJobs) == 1 {
		job = jobs.ReplicationJobs[0]
	}
	return job
}

// awaitRuns waits until a job is Waiting after that many runs.
func (s *stack) awaitRuns(id string, runs int) {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		job := s.job(id)
		return job.Status == smc.StatusWaiting && len(job.ReplicationJobRuns) == runs
	}, time.Minute, 20*time.Millisecond, "%d runs", runs)
}

// stack is a drover-dev of its own.
type stack struct {
	t        *testing.T
	dir      string
	env      map[string]string
	client   *smc.Client
	temporal client.Client
}

func newStack(t *testing.T, args ...string) *stack {
	t.Helper()
	program, err := filepath.Abs("../bin/drover-dev")
	require.NoError(t, err)
	require.FileExists(t, program, "run make drover-dev first")
	s := &stack{t: t, dir: t.TempDir(), env: map[string]string{}}
	command := exec.Command(program, append([]string{"--data", s.dir, "--listen", "127.0.0.1:0"}, args...)...)
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := command.StdoutPipe()
	require.NoError(t, err)
	var log bytes.Buffer
	command.Stderr = &log
	require.NoError(t, command.Start())
	t.Cleanup(func() {
		assert.NoError(t, command.Process.Signal(syscall.SIGTERM))
		assert.NoError(t, command.Wait())
		if t.Failed() {
			t.Log(log.String())
		}
	})
	lines := bufio.NewScanner(out)
	require.True(t, lines.Scan(), "drover-dev prints a line when it is ready")

	text, err := os.ReadFile(filepath.Join(s.dir, "dev.env"))
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "=")
		s.env[name] = strings.Trim(value, `'"`)
	}
	config, err := smc.ConfigFromEnv(func(name string) string { return s.env[name] })
	require.NoError(t, err)
	s.client, err = smc.NewClient(config)
	require.NoError(t, err)
	s.temporal, err = client.Dial(client.Options{HostPort: s.env["TEMPORAL_ADDRESS"], Namespace: s.env["TEMPORAL_NAMESPACE"], Logger: testLogger{t}})
	require.NoError(t, err)
	t.Cleanup(s.temporal.Close)
	return s
}

// in returns the stack as a subtest uses it.
func (s *stack) in(t *testing.T) *stack {
	t.Helper()
	other := *s
	other.t = t
	return &other
}

func (s *stack) create(a *agent, request smc.CreateReplicationJobRequest) string {
	s.t.Helper()
	request.SourceID = a.sourceID
	job, err := s.client.CreateReplicationJob(s.t.Context(), &request)
	require.NoError(s.t, err)
	return job.JobID
}

func (s *stack) start(id string) {
	s.t.Helper()
	_, err := s.client.StartReplicationJob(s.t.Context(), &smc.StartReplicationJobRequest{JobID: id})
	require.NoError(s.t, err)
}

func (s *stack) await(id string, status smc.JobStatus) smc.ReplicationJob {
	s.t.Helper()
	var job smc.ReplicationJob
	require.Eventually(s.t, func() bool {
		jobs, err := s.client.DescribeReplicationJobs(s.t.Context(), &smc.DescribeReplicationJobsRequest{JobID: []string{id}})
		if err != nil || len(jobs.ReplicationJobs) != 1 {
			return false
		}
		job = jobs.ReplicationJobs[0]
		return job.Status == status
	}, time.Minute, 20*time.Millisecond, "%s: want %s, got %+v", id, status, &job)
	return job
}

// agent plays the agent of a source server with one small disk.
type agent struct {
	sourceID string
	name     string
	api      *agentapi.Client
	path     string
	hanging  chan struct{} // gets something when a read hangs

	mu      sync.Mutex
	failure error         // of every read
	gate    chan struct{} // every read waits until it is closed, when there is one
}

func (a *agent) hang() { a.set(nil, make(chan struct{})) }
func (a *agent) fail() { a.set(errors.New("input/output error"), nil) }
func (a *agent) heal() { a.set(nil, nil) }

func (a *agent) set(failure error, gate chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.gate != nil {
		close(a.gate)
	}
	a.failure, a.gate = failure, gate
}

// disk reads the disk of an agent as the agent lets it.
type disk struct {
	replica.DiskReader
	a *agent
}

func (d disk) ReadAt(p []byte, off int64) (int, error) {
	d.a.mu.Lock()
	failure, gate := d.a.failure, d.a.gate
	d.a.mu.Unlock()
	if failure != nil {
		return 0, failure
	}
	if gate != nil {
		select {
		case d.a.hanging <- struct{}{}:
		default:
		}
		<-gate
	}
	return d.DiskReader.ReadAt(p, off)
}

// agent registers a source server and serves its disk until the test ends.
func (s *stack) agent(name string) *agent {
	s.t.Helper()
	a := s.register(name)
	s.present(a)
	return a
}

// present has an agent serve its disk until the test ends.
func (s *stack) present(a *agent) {
	ctx := s.t.Context()
	var served sync.WaitGroup
	served.Go(func() { s.serve(ctx, a, a.api, a.name) })
	s.t.Cleanup(served.Wait)
}

// register registers a source server, whose agent is away.
func (s *stack) register(name string) *agent {
	s.t.Helper()
	ctx := s.t.Context()
	a := &agent{name: name, path: filepath.Join(s.t.TempDir(), "disk.raw"), hanging: make(chan struct{}, 1)}
	require.NoError(s.t, os.WriteFile(a.path, bytes.Repeat([]byte("drover "), 1<<17), 0o600))
	size := int64(7 << 17)
	token, err := s.client.CreateAccessToken(ctx, &smc.CreateAccessTokenRequest{Name: &name})
	require.NoError(s.t, err)
	api, err := agentapi.NewClient(s.env[smc.EnvEndpoint], "")
	require.NoError(s.t, err)
	registered, err := api.Register(ctx, agentapi.RegisterRequest{
		Code: token.AccessTokenCode, Name: name, Instance: name, Server: agentapi.Server{Disks: []agentapi.Disk{{Path: a.path, SizeBytes: size}}},
	})
	require.NoError(s.t, err)
	a.sourceID, a.api = registered.SourceID, api.WithToken(registered.Token)
	return a
}

func (s *stack) serve(ctx context.Context, a *agent, api *agentapi.Client, name string) {
	var have int64
	var syncs sync.WaitGroup
	end := func() {}
	defer func() { end(); syncs.Wait() }()
	for ctx.Err() == nil {
		desired, err := api.Work(ctx, agentapi.WorkQuery{Instance: name, Have: have, Wait: agentapi.DefaultWait})
		if err != nil {
			continue // the test ends
		}
		have = desired.Generation
		end()
		syncs.Wait()
		if desired.Work == nil {
			continue
		}
		work, cancel := context.WithCancel(ctx)
		end = cancel
		syncs.Go(func() {
			_ = replica.Sync(work, replica.SyncConfig{ // the center hears how it ended
				HostURL: desired.Work.HostURL, Token: desired.Work.Token, JobID: desired.Work.JobID, Instance: name,
				Disks: []replica.SourceDisk{{Path: a.path}}, ReadPatience: -1,
				Open: func(source replica.SourceDisk) (replica.DiskReader, error) {
					reader, err := replica.OpenDisk(source.Path)
					return disk{reader, a}, err
				},
			}, nil)
		})
	}
}

// write writes the histories of a job's entity and of its runs. What an older recording of the scenario had beyond them goes.
func (s *stack) write(scenario, jobID string) {
	s.t.Helper()
	runs, ok := recordedScenarios[scenario]
	require.True(s.t, ok, "TestReplay does not know the scenario")
	var files []string
	var entity *historypb.History
	// The store knows of the end of a run before the entity does: the history is to tell the whole story.
	require.Eventually(s.t, func() bool {
		entity = s.history(&commonpb.WorkflowExecution{WorkflowId: JobID(jobID)})
		open, last := 0, entity.Events[len(entity.Events)-1].EventType
		for _, event := range entity.Events {
			switch event.EventType {
			case enumspb.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED:
				open++
			case enumspb.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED, enumspb.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED:
				open--
			}
		}
		return open == 0 && slices.Contains([]enumspb.EventType{
			enumspb.EVENT_TYPE_WORKFLOW_TASK_COMPLETED, enumspb.EVENT_TYPE_TIMER_STARTED, enumspb.EVENT_TYPE_TIMER_CANCELED,
			enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED, enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED,
		}, last)
	}, 10*time.Second, 20*time.Millisecond)
	made := 0
	for i, entity := range s.chain(jobID) {
		name := scenario + "-entity"
		if i > 0 {
			name += fmt.Sprintf("-%d", i+1)
		}
		files = append(files, s.save(name, entity))
		for _, event := range entity.Events {
			if started := event.GetChildWorkflowExecutionStartedEventAttributes(); started != nil {
				made++
				files = append(files, s.save(fmt.Sprintf("%s-run-%d", scenario, made), s.history(started.WorkflowExecution)))
			}
		}
	}
	require.Equal(s.t, runs, made)
	for _, part := range []string{"entity*", "run-*"} {
		old, err := filepath.Glob(filepath.Join("testdata", scenario+"-"+part+".json"))
		require.NoError(s.t, err)
		for _, file := range old {
			if !slices.Contains(files, file) {
				require.NoError(s.t, os.Remove(file))
			}
		}
	}
}

// chain are the histories of a job's entity, from its first run on: each continued as the next.
func (s *stack) chain(jobID string) (chain []*historypb.History) {
	s.t.Helper()
	for run := ""; ; {
		history := s.history(&commonpb.WorkflowExecution{WorkflowId: JobID(jobID), RunId: run})
		chain = slices.Insert(chain, 0, history)
		if run = history.Events[0].GetWorkflowExecutionStartedEventAttributes().GetContinuedExecutionRunId(); run == "" {
			return chain
		}
	}
}

func (s *stack) history(execution *commonpb.WorkflowExecution) *historypb.History {
	s.t.Helper()
	history := &historypb.History{}
	events := s.temporal.GetWorkflowHistory(s.t.Context(), execution.WorkflowId, execution.RunId, false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		event, err := events.Next()
		require.NoError(s.t, err)
		history.Events = append(history.Events, event)
	}
	return history
}

// machine matches what is of the machine that recorded, not of the workflow; sticky the queues of its worker's cache.
var (
	machine = regexp.MustCompile(`"(identity|stackTrace)":"(?:[^"\\]|\\.)*"`)
	sticky  = regexp.MustCompile(`"name":"[^"]*","kind":"TASK_QUEUE_KIND_STICKY"`)
	scratch = regexp.MustCompile(regexp.QuoteMeta(os.TempDir()) + `(/[A-Za-z0-9._-]+)*/`) // where the test keeps its disks
)

// save writes a history, one event a line.
func (s *stack) save(name string, history *historypb.History) string {
	s.t.Helper()
	text, err := temporalproto.CustomJSONMarshalOptions{}.Marshal(history)
	require.NoError(s.t, err)
	var compact bytes.Buffer
	require.NoError(s.t, json.Compact(&compact, text))
	var events struct{ Events []json.RawMessage }
	own := sticky.ReplaceAll(machine.ReplaceAll(compact.Bytes(), []byte(`"$1":""`)), []byte(`"name":"sticky","kind":"TASK_QUEUE_KIND_STICKY"`))
	own = bytes.ReplaceAll(own, []byte(s.dir), []byte("/drover")) // what an error names
	own = scratch.ReplaceAll(own, []byte("/var/lib/"))
	require.NoError(s.t, json.Unmarshal(own, &events))
	out := []byte(`{"events":[` + "\n")
	for i, event := range events.Events {
		if i > 0 {
			out = append(out, ",\n"...)
		}
		out = append(out, event...)
	}
	out = append(out, "\n]}\n"...)
	host, err := os.Hostname()
	require.NoError(s.t, err)
	for _, trace := range []string{s.dir, os.TempDir() + "/", `"` + host} {
		require.False(s.t, bytes.Contains(out, []byte(trace)), "%s names %s", name, trace)
	}
	file := filepath.Join("testdata", name+".json")
	require.NoError(s.t, os.MkdirAll("testdata", 0o755))
	require.NoError(s.t, os.WriteFile(file, out, 0o644))
	return file
}
