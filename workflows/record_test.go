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

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
)

// TestRecord runs the scenarios of TestReplay on the embedded stack and writes their histories to testdata:
//
//	make drover-dev && go test -tags record -run TestRecord -count=1 ./workflows
//
// It is to be run when a workflow was changed on purpose in a way that open workflows need not survive. The agents of
// the source servers are played by the test, so that a disk can be made to hang and to fail.
func TestRecord(t *testing.T) {
	s := newStack(t)
	written := map[string]bool{}
	for _, scenario := range []struct {
		name string
		play func(*stack, *agent) (jobID string)
	}{
		{"one-time", (*stack).oneTime},
		{"stopped-and-resumed", (*stack).stoppedAndResumed},
		{"in-error-and-resumed", (*stack).inErrorAndResumed},
		{"incremental-with-cutover", (*stack).incrementalWithCutOver},
		{"deleted", (*stack).deleted},
	} {
		t.Run(scenario.name, func(t *testing.T) {
			s := s.in(t)
			for _, file := range s.write(scenario.name, scenario.play(s, s.agent(scenario.name))) {
				written[file] = true
			}
		})
	}
	if t.Failed() {
		return
	}
	// What an older recording had and this one has not.
	for _, name := range recordedScenarios {
		old, err := filepath.Glob(filepath.Join("testdata", name+"-*.json"))
		require.NoError(t, err)
		for _, file := range old {
			if !written[file] {
				require.NoError(t, os.Remove(file))
			}
		}
	}
}

func (s *stack) oneTime(a *agent) string {
	id := s.create(a, smc.CreateReplicationJobRequest{})
	s.start(id)
	s.await(id, smc.StatusFinished)
	return id
}

func (s *stack) stoppedAndResumed(a *agent) string {
	a.hang()
	id := s.create(a, smc.CreateReplicationJobRequest{})
	s.start(id)
	<-a.hanging
	_, err := s.client.StopReplicationJob(s.t.Context(), &smc.StopReplicationJobRequest{JobID: id})
	require.NoError(s.t, err)
	a.heal()
	s.start(id)
	s.await(id, smc.StatusFinished)
	return id
}

func (s *stack) inErrorAndResumed(a *agent) string {
	a.fail()
	id := s.create(a, smc.CreateReplicationJobRequest{})
	s.start(id)
	require.Equal(s.t, smc.CodeSourceDiskReadError, s.await(id, smc.StatusInError).ErrorCode)
	a.heal()
	s.start(id)
	s.await(id, smc.StatusFinished)
	return id
}

func (s *stack) incrementalWithCutOver(a *agent) string {
	once, frequency, keep, sync := false, 24, 2, true
	id := s.create(a, smc.CreateReplicationJobRequest{RunOnce: &once, Frequency: &frequency, MaxNumberOfImageToKeep: &keep})
	s.start(id)
	s.await(id, smc.StatusWaiting)
	_, err := s.client.RunReplicationJob(s.t.Context(), &smc.RunReplicationJobRequest{JobID: id})
	require.NoError(s.t, err)
	s.await(id, smc.StatusWaiting)
	_, err = s.client.CutOverReplicationJob(s.t.Context(), &smc.CutOverReplicationJobRequest{JobID: id, SyncData: &sync})
	require.NoError(s.t, err)
	s.await(id, smc.StatusFinished)
	return id
}

func (s *stack) deleted(a *agent) string {
	id := s.create(a, smc.CreateReplicationJobRequest{})
	a.hang()
	s.start(id)
	<-a.hanging
	_, err := s.client.StopReplicationJob(s.t.Context(), &smc.StopReplicationJobRequest{JobID: id})
	require.NoError(s.t, err)
	a.heal()
	_, err = s.client.DeleteReplicationJob(s.t.Context(), &smc.DeleteReplicationJobRequest{JobID: id})
	require.NoError(s.t, err)
	require.NoError(s.t, s.temporal.GetWorkflow(s.t.Context(), JobID(id), "").Get(s.t.Context(), nil))
	return id
}

// stack is a drover-dev of its own.
type stack struct {
	t        *testing.T
	dir      string
	env      map[string]string
	client   *smc.Client
	temporal client.Client
}

func newStack(t *testing.T) *stack {
	t.Helper()
	program, err := filepath.Abs("../bin/drover-dev")
	require.NoError(t, err)
	require.FileExists(t, program, "run make drover-dev first")
	s := &stack{t: t, dir: t.TempDir(), env: map[string]string{}}
	command := exec.Command(program, "--data", s.dir, "--listen", "127.0.0.1:0")
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
	}, time.Minute, 20*time.Millisecond, "%s: want %s", id, status)
	return job
}

// agent plays the agent of a source server with one small disk.
type agent struct {
	sourceID string
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
	ctx := s.t.Context()
	a := &agent{path: filepath.Join(s.t.TempDir(), "disk.raw"), hanging: make(chan struct{}, 1)}
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
	a.sourceID = registered.SourceID
	var served sync.WaitGroup
	served.Go(func() { s.serve(ctx, a, api.WithToken(registered.Token), name) })
	s.t.Cleanup(served.Wait)
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
				Disks: []replica.SourceDisk{{Path: a.path}},
				Open: func(source replica.SourceDisk) (replica.DiskReader, error) {
					reader, err := replica.OpenDisk(source.Path)
					return disk{reader, a}, err
				},
			}, nil)
		})
	}
}

// write fetches the histories of a job's entity and of its runs and returns the files they are in now.
func (s *stack) write(scenario, jobID string) (files []string) {
	s.t.Helper()
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
		return open == 0 && (last == enumspb.EVENT_TYPE_WORKFLOW_TASK_COMPLETED || last == enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED)
	}, 10*time.Second, 20*time.Millisecond)
	files = append(files, s.save(scenario+"-entity", entity))
	runs := 0
	for _, event := range entity.Events {
		if started := event.GetChildWorkflowExecutionStartedEventAttributes(); started != nil {
			runs++
			files = append(files, s.save(fmt.Sprintf("%s-run-%d", scenario, runs), s.history(started.WorkflowExecution)))
		}
	}
	require.Positive(s.t, runs)
	return files
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
