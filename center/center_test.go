package center

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/center/store/storetest"
	"github.com/drover/drover/monitor"
	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/workflows"
)

const (
	region  = "cn-test"
	account = "123"
	keyID   = "ak-test"
	secret  = "secret of the test"
	hostID  = "i-host"
	hostURL = "http://host:1"
)

var dataPlaneKey = []byte("0123456789abcdef0123456789abcdef")

// engine moves jobs in the store itself, without workflows.
type engine struct {
	store *store.Store

	mu      sync.Mutex
	begun   []string
	updates []string // update, job id and argument
	fail    error    // what the next calls fail with
}

func (e *engine) begin(call string, list *[]string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	*list = append(*list, call)
	return e.fail
}

func (e *engine) Begin(ctx context.Context, jobID string) error {
	if err := e.begin(jobID, &e.begun); err != nil {
		return err
	}
	return e.store.MarkWorkflowStarted(ctx, jobID)
}

func (e *engine) WakeDueStart(_ context.Context, jobID string) error {
	return e.begin("WakeDueStart "+jobID, &e.updates)
}

func (e *engine) Update(ctx context.Context, jobID, update, requestID string, argument any) error {
	if err := e.begin(fmt.Sprintf("%s %s %+v", update, jobID, argument), &e.updates); err != nil {
		return err
	}
	switch update {
	case workflows.UpdateStart, workflows.UpdateRun:
		_, err := e.store.StartRun(ctx, jobID, workflows.RequestOf(requestID), smc.Trigger(update), smc.RunManual, store.CutOverNone)
		return err
	case workflows.UpdateAdmit:
		_, err := e.store.Admit(ctx, jobID, argument.(workflows.AdmitRequest).Ticket)
		return err
	case workflows.UpdateStop:
		return e.store.Stop(ctx, jobID, requestID)
	case workflows.UpdateCutOver:
		if argument.(workflows.CutOverRequest).SyncData {
			_, err := e.store.StartRun(ctx, jobID, requestID, smc.TriggerCutOver, smc.RunManual, store.CutOverSyncData)
			return err
		}
		return e.store.FinishCutOver(ctx, jobID, requestID)
	case workflows.UpdateModify:
		_, err := e.store.ModifyJob(ctx, *argument.(*smc.ModifyReplicationJobAttributeRequest))
		return err
	case workflows.UpdateDelete:
		return e.store.BeginDelete(ctx, jobID, requestID)
	}
	return fmt.Errorf("no such update: %s", update)
}

// fixture is a center that listens, with one account's key pair.
type fixture struct {
	t      *testing.T
	store  *store.Store
	engine *engine
	url    string
	client *smc.Client
	// database is the URL of the store's database.
	database string
	// arrived gets the path of every request before it is served.
	arrived chan string
	ready   error
	// observed are the calls that the endpoint told of.
	observed calls
}

// anyOperation are the codes that every operation may answer with, beside those of a parameter that is missing.
var anyOperation = []string{
	smc.OutcomeOK, CallAbandoned, smc.CodeInvalidParameter, smc.CodeInvalidVersion, smc.CodeInvalidTimeStampExpired, smc.CodeSignatureNonceUsed,
	smc.CodeSignatureDoesNotMatch, smc.CodeInvalidAccessKeyIDNotFound, smc.CodeForbiddenUnauthorized, smc.CodeThrottlingUser, smc.CodeUnsupportedFeature,
	smc.CodeInternalError, smc.CodeServiceUnavailable,
}

// requireDeclared holds the codes of the calls that were answered against those that the operations declare.
func (f *fixture) requireDeclared() {
	f.observed.mutex.Lock()
	defer f.observed.mutex.Unlock()
	for call := range f.observed.ever {
		if call.API != APISMC || call.Operation == "" {
			continue
		}
		operation, err := smc.LookupOperation(call.Operation)
		assert.NoError(f.t, err)
		if !slices.Contains(slices.Concat(anyOperation, operation.ErrorCodes()), call.Code) && !strings.HasPrefix(call.Code, "Missing") {
			f.t.Errorf("%s answered with %s, which it does not declare", call.Operation, call.Code)
		}
	}
}

// calls are those that an endpoint told of, without how long they took.
type calls struct {
	mutex sync.Mutex
	all   []Call
	ever  map[Call]bool
}

func (c *calls) add(call Call) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	call.Took = 0
	c.all = append(c.all, call)
	c.ever[call] = true
}

// take returns the calls told since the last take.
func (c *calls) take() (calls []Call) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	calls, c.all = c.all, nil
	return calls
}

func newFixture(t *testing.T, changes ...func(*Config)) *fixture {
	t.Helper()
	database := storetest.Migrated(t, store.Open)
	record, err := store.Open(t.Context(), database)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, record.Close()) })
	f := &fixture{t: t, store: record, database: database, engine: &engine{store: record}, arrived: make(chan string, 100)}
	f.observed.ever = map[Call]bool{}
	t.Cleanup(f.requireDeclared)
	require.NoError(t, record.PutAccessKey(t.Context(), store.AccessKey{AccessKeyID: keyID, Secret: secret, AccountID: account}))
	require.NoError(t, record.PutAccessKey(t.Context(), store.AccessKey{AccessKeyID: "ak-other", Secret: secret, AccountID: "456"}))
	require.NoError(t, record.HostHeartbeat(t.Context(), hostID, hostURL))
	health := monitor.New("test")
	health.Require("temporal", func(context.Context) error { return f.ready })
	config := Config{
		Store: record, Engine: f.engine, DataPlaneKey: dataPlaneKey, RegionID: region, HostID: "endpoint-1",
		Health: health.Health(), Observe: f.observed.add, Logger: zaptest.NewLogger(t),
	}
	for _, change := range changes {
		change(&config)
	}
	endpoint := NewEndpoint(config)
	t.Cleanup(endpoint.Close)
	handler := endpoint.Handler()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case f.arrived <- r.URL.Path:
		default:
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	f.url = server.URL
	f.client = f.as(keyID, secret)
	return f
}

func (f *fixture) as(id, secret string) *smc.Client {
	f.t.Helper()
	client, err := smc.NewClient(smc.Config{Endpoint: f.url, AccessKeyID: id, AccessKeySecret: secret, RegionID: region, MaxAttempts: 1})
	require.NoError(f.t, err)
	return client
}

func (f *fixture) requireCode(code string, err error) *smc.Error {
	f.t.Helper()
	require.Error(f.t, err)
	var refusal *smc.Error
	require.ErrorAs(f.t, err, &refusal)
	require.Equal(f.t, code, refusal.Code, "%v", err)
	require.Equal(f.t, smc.Errorf(code, "").HTTPStatus, refusal.HTTPStatus)
	require.Equal(f.t, "endpoint-1", refusal.HostID)
	require.Regexp(f.t, requestID, refusal.RequestID)
	require.NotEmpty(f.t, refusal.Message)
	return refusal
}

var requestID = regexp.MustCompile(`^[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}$`)

func pointer[T any](v T) *T { return &v }

func (f *fixture) code() string {
	f.t.Helper()
	token, err := f.client.CreateAccessToken(f.t.Context(), &smc.CreateAccessTokenRequest{Name: pointer("fleet"), Count: pointer(100)})
	require.NoError(f.t, err)
	require.True(f.t, strings.HasPrefix(token.AccessTokenID, "at-"))
	return token.AccessTokenCode
}

var described = agentapi.Server{
	Hostname: "web", Platform: "Debian", Architecture: "x86_64", AgentVersion: "1", SystemInfo: json.RawMessage(`{"cores":"2"}`),
	Disks: []agentapi.Disk{
		{Index: 0, Path: "/dev/vda", SizeBytes: 20<<30 + 1, Parts: []agentapi.Part{{Device: "0_0", Path: "/", SizeBytes: 20 << 30, CanBlock: true, Need: true}}},
		{Index: 1, Path: "/dev/vdb", SizeBytes: 30 << 30, Parts: []agentapi.Part{{Device: "1_0", Path: "/srv", SizeBytes: 30 << 30}}},
	},
}

// agent registers a source server and returns its agent's client.
func (f *fixture) agent(name string) (sourceID string, client *agentapi.Client) {
	f.t.Helper()
	client, err := agentapi.NewClient(f.url, "")
	require.NoError(f.t, err)
	registered, err := client.Register(f.t.Context(), agentapi.RegisterRequest{Code: f.code(), Name: name, Instance: "instance-of-" + name, Server: described})
	require.NoError(f.t, err)
	require.Equal(f.t, int(smc.HeartbeatRate.Seconds()), registered.HeartbeatRateSeconds)
	return registered.SourceID, client.WithToken(registered.Token)
}

func (f *fixture) create(sourceID string) string {
	f.t.Helper()
	job, err := f.client.CreateReplicationJob(f.t.Context(), &smc.CreateReplicationJobRequest{SourceID: sourceID})
	require.NoError(f.t, err)
	return job.JobID
}

// raw sends signed parameters as a form and returns the status and the body.
func (f *fixture) raw(values url.Values) (int, http.Header, string) {
	f.t.Helper()
	request, err := http.NewRequestWithContext(f.t.Context(), http.MethodPost, f.url, strings.NewReader(values.Encode()))
	require.NoError(f.t, err)
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := http.DefaultClient.Do(request)
	require.NoError(f.t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(f.t, err)
	return response.StatusCode, response.Header, string(body)
}

func signed(action string, at time.Time, nonce string, extra ...string) url.Values {
	values := url.Values{"Action": {action}, "Version": {smc.Version}, "Format": {"JSON"}}
	for i := 0; i < len(extra); i += 2 {
		values.Set(extra[i], extra[i+1])
	}
	smc.SignValues(values, http.MethodPost, keyID, secret, at, nonce)
	return values
}

func TestRequestsThatAreNotGenuine(t *testing.T) {
	f := newFixture(t)
	_, err := f.as(keyID, "another secret").DescribeReplicationJobs(t.Context(), &smc.DescribeReplicationJobsRequest{})
	f.requireCode(smc.CodeSignatureDoesNotMatch, err)
	_, err = f.as("ak-none", secret).DescribeReplicationJobs(t.Context(), &smc.DescribeReplicationJobsRequest{})
	f.requireCode(smc.CodeInvalidAccessKeyIDNotFound, err)
	require.Error(t, f.client.Call(t.Context(), "MakeCoffee", nil, nil))
	f.requireCode(smc.CodeInvalidActionNotFound, f.client.Call(t.Context(), "MakeCoffee", nil, nil))

	request := signed("DescribeReplicationJobs", time.Now(), "nonce-1")
	status, _, _ := f.raw(request)
	require.Equal(t, http.StatusOK, status)
	status, _, body := f.raw(request)
	require.Equal(t, http.StatusBadRequest, status)
	require.Contains(t, body, smc.CodeSignatureNonceUsed)
	for _, off := range []time.Duration{-16 * time.Minute, 16 * time.Minute} {
		status, _, body = f.raw(signed("DescribeReplicationJobs", time.Now().Add(off), fmt.Sprint("nonce", off)))
		require.Equal(t, http.StatusBadRequest, status)
		require.Contains(t, body, smc.CodeInvalidTimeStampExpired)
	}
	tampered := signed("DeleteReplicationJob", time.Now(), "nonce-3", "JobId", "j-1")
	tampered.Set("JobId", "j-2")
	_, _, body = f.raw(tampered)
	require.Contains(t, body, smc.CodeSignatureDoesNotMatch)
	status, _, body = f.raw(url.Values{"Action": {"DescribeReplicationJobs"}, "Version": {smc.Version}})
	require.Equal(t, http.StatusBadRequest, status)
	require.Contains(t, body, "MissingAccessKeyId")
	require.Empty(t, f.engine.updates)
}

func TestFormsOfAnswers(t *testing.T) {
	f := newFixture(t)
	_, header, body := f.raw(signed("DescribeReplicationJobs", time.Now(), "n1"))
	require.Contains(t, header.Get("Content-Type"), "application/json")
	require.Contains(t, body, `"ReplicationJobs":{"ReplicationJob":[]}`)
	_, header, body = f.raw(signed("DescribeReplicationJobs", time.Now(), "n2", "Format", "xml"))
	require.Contains(t, header.Get("Content-Type"), "text/xml")
	require.Contains(t, body, "<DescribeReplicationJobsResponse>")
	_, header, body = f.raw(signed("StartReplicationJob", time.Now(), "n3", "Format", "XML", "JobId", "j-none"))
	require.Contains(t, header.Get("Content-Type"), "text/xml")
	require.Contains(t, body, "<Code>InvalidJobId.NotFound</Code>")
	_, _, body = f.raw(signed("DescribeReplicationJobs", time.Now(), "n4", "Format", "YAML"))
	require.Contains(t, body, smc.CodeInvalidParameter)

	// Also a call that cannot be read to its end says in its query how it wants its answer.
	for name, send := range map[string]struct{ query, contentType, body string }{
		"a body that is no form":        {"/?Format=XML", "application/json", "{}"},
		"a body that is too long":       {"/?Format=xml", "application/x-www-form-urlencoded", strings.Repeat("a=b&", smc.MaxBody/4) + "a=b"},
		"a query that is wrongly coded": {"/?Format=XML&Name=%zz", "", ""},
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.url+send.query, strings.NewReader(send.body))
		require.NoError(t, err, name)
		request.Header.Set("Content-Type", send.contentType)
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err, name)
		body, err := io.ReadAll(response.Body)
		require.NoError(t, errors.Join(err, response.Body.Close()), name)
		require.Equal(t, http.StatusBadRequest, response.StatusCode, name)
		require.Contains(t, response.Header.Get("Content-Type"), "text/xml", name)
		require.Contains(t, string(body), "<Code>InvalidParameter</Code>", name)
	}
}

// Whatever is asked for, the answer is one of the API: with a request id, and not a page for people.
func TestPathsThatAreNone(t *testing.T) {
	f := newFixture(t)
	for _, path := range []string{"//", "/./", "/x/../", "/agent/v1/../", "/%2e/", "//agent/v1/work", "/agent/v1", "/healthz/"} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.url+path, http.NoBody)
		require.NoError(t, err)
		response, err := http.DefaultTransport.RoundTrip(request)
		require.NoError(t, err)
		var answer struct{ RequestID, Code string }
		require.NoError(t, errors.Join(json.NewDecoder(response.Body).Decode(&answer), response.Body.Close()), path)
		require.Equal(t, http.StatusNotFound, response.StatusCode, path)
		require.Equal(t, smc.CodeInvalidActionNotFound, answer.Code, path)
		require.Regexp(t, requestID, answer.RequestID, path)
	}
}

func TestUnknownThings(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	_, err := f.client.CreateReplicationJob(ctx, &smc.CreateReplicationJobRequest{SourceID: "s-none"})
	f.requireCode(smc.CodeInvalidSourceIDNotFound, err)
	_, err = f.client.StartReplicationJob(ctx, &smc.StartReplicationJobRequest{JobID: "j-none"})
	f.requireCode(smc.CodeInvalidJobIDNotFound, err)
	_, err = f.client.DescribeReplicationJobDetails(ctx, &smc.DescribeReplicationJobDetailsRequest{JobID: "j-none"})
	f.requireCode(smc.CodeInvalidJobIDNotFound, err)
	_, err = f.client.GetImageTicket(ctx, &smc.GetImageTicketRequest{ImageID: "m-none"})
	f.requireCode(smc.CodeInvalidImageIDNotFound, err)
	_, err = f.client.DeleteWorkgroup(ctx, &smc.DeleteWorkgroupRequest{WorkgroupID: "w-none"})
	f.requireCode(smc.CodeInvalidWorkgroupIDNotFound, err)
	_, err = f.client.CreateCrossZoneMigrationJob(ctx, &smc.CreateCrossZoneMigrationJobRequest{})
	f.requireCode(smc.CodeUnsupportedFeature, err)

	source, _ := f.agent("web")
	job := f.create(source)
	other := f.as("ak-other", secret)
	_, err = other.StartReplicationJob(ctx, &smc.StartReplicationJobRequest{JobID: job})
	f.requireCode(smc.CodeInvalidJobIDNotFound, err)
	jobs, err := other.DescribeReplicationJobs(ctx, &smc.DescribeReplicationJobsRequest{JobID: []string{job}})
	require.NoError(t, err)
	require.Zero(t, jobs.TotalCount, "the jobs of an account are its own")
	require.Empty(t, f.engine.updates)
}

func TestCreateIsRefused(t *testing.T) {
	f := newFixture(t)
	source, _ := f.agent("web")
	create := func(change func(*smc.CreateReplicationJobRequest)) error {
		request := smc.CreateReplicationJobRequest{SourceID: source}
		change(&request)
		_, err := f.client.CreateReplicationJob(t.Context(), &request)
		return err
	}
	f.requireCode(smc.CodeInvalidParameter, create(func(r *smc.CreateReplicationJobRequest) { r.RegionID = "cn-other" }))
	f.requireCode(smc.CodeInvalidInstanceIDNotFound, create(func(r *smc.CreateReplicationJobRequest) {
		r.TargetType, r.InstanceID = pointer("TargetInstance"), pointer("i-1")
	}))
	f.requireCode(smc.CodeInvalidParameter, create(func(r *smc.CreateReplicationJobRequest) {
		r.TargetType, r.ContainerTag = pointer("ContainerImage"), pointer("v 7")
	}))
	f.requireCode(smc.CodeUnsupportedFeature, create(func(r *smc.CreateReplicationJobRequest) { r.JobType = pointer(2) }))
	f.requireCode(smc.CodeInvalidParameter, create(func(r *smc.CreateReplicationJobRequest) { r.Name = pointer("1") }))
	f.requireCode(smc.CodeInvalidParameter, create(func(r *smc.CreateReplicationJobRequest) { r.SystemDiskSize = pointer(5) }))
	f.requireCode("MissingFrequency", create(func(r *smc.CreateReplicationJobRequest) { r.RunOnce = pointer(false) }))
	require.Empty(t, f.engine.begun)

	first := f.create(source)
	refusal := f.requireCode(smc.CodeSourceServerStateInvalid, create(func(*smc.CreateReplicationJobRequest) {}))
	require.Contains(t, refusal.Message, first, "it names the job that holds the source")
	require.Equal(t, []string{first}, f.engine.begun)
}

// A job that is in the store exists, whatever becomes of its entity: the sweep starts it.
func TestCreateWithoutAnEngine(t *testing.T) {
	f := newFixture(t)
	source, _ := f.agent("web")
	f.engine.fail = errors.New("Temporal is away")
	job := f.create(source)
	beginMissing(t.Context(), newRounds(longestBeginPause), f.store, f.engine, zaptest.NewLogger(t))
	missing, err := f.store.JobsWithoutWorkflow(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{job}, missing)
	f.engine.fail = nil
	beginMissing(t.Context(), newRounds(longestBeginPause), f.store, f.engine, zaptest.NewLogger(t))
	missing, err = f.store.JobsWithoutWorkflow(t.Context())
	require.NoError(t, err)
	require.Empty(t, missing)
	require.Equal(t, []string{job, job, job}, f.engine.begun)
}

func TestSweep(t *testing.T) {
	f := newFixture(t)
	source, _ := f.agent("web")
	f.engine.fail = errors.New("Temporal is away")
	f.create(source)
	f.engine.fail = nil
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Sweep(ctx, f.store, f.engine, zaptest.NewLogger(t)) }()
	require.Eventually(t, func() bool {
		missing, err := f.store.JobsWithoutWorkflow(t.Context())
		return err == nil && len(missing) == 0
	}, 30*time.Second, 5*time.Millisecond)
	stop()
	require.NoError(t, <-done)
}

func TestJobsLife(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	source, _ := f.agent("web")
	request := &smc.CreateReplicationJobRequest{
		SourceID: source, Name: pointer("move-web"), RunOnce: pointer(false), Frequency: pointer(24), MaxNumberOfImageToKeep: pointer(2),
		Tag: []smc.TagParameter{{Key: pointer("team"), Value: pointer("a")}},
	}
	created, err := f.client.CreateReplicationJob(ctx, request)
	require.NoError(t, err)
	id := created.JobID
	_, err = f.client.StopReplicationJob(ctx, &smc.StopReplicationJobRequest{JobID: id})
	refusal := f.requireCode(smc.CodeReplicationJobInvalidStatus, err)
	require.Contains(t, refusal.Message, "Ready")
	_, err = f.client.StartReplicationJob(ctx, &smc.StartReplicationJobRequest{JobID: id})
	require.NoError(t, err)

	jobs, err := f.client.DescribeReplicationJobs(ctx, &smc.DescribeReplicationJobsRequest{JobID: []string{id}})
	require.NoError(t, err)
	require.Len(t, jobs.ReplicationJobs, 1)
	job := jobs.ReplicationJobs[0]
	require.Equal(t, smc.StatusRunning, job.Status)
	require.Equal(t, smc.BusinessPreparing, job.BusinessStatus)
	require.Equal(t, "move-web", job.Name)
	require.Equal(t, 24, job.Frequency)
	require.Equal(t, hostID, job.TransitionInstanceID)
	require.Equal(t, 21, job.SystemDiskSize)
	require.Equal(t, smc.List[smc.DataDisk]{{Index: 1, Size: 30, Parts: smc.List[smc.Part]{}}}, job.DataDisks)
	require.Equal(t, smc.List[smc.Tag]{{Key: "team", Value: "a"}}, job.Tags)
	require.Len(t, job.ReplicationJobRuns, 1)

	require.NoError(t, f.store.BeginSync(ctx, id, "sync", 1, hostURL, 1000))
	require.NoError(t, f.store.UpdateProgress(ctx, id, 1, store.SyncProgress{BytesTotal: 1000, BytesRead: 400, BytesSent: 100, Rate: 20}))
	details, err := f.client.DescribeReplicationJobDetails(ctx, &smc.DescribeReplicationJobDetailsRequest{JobID: id})
	require.NoError(t, err)
	require.Equal(t, smc.BusinessSyncing, details.BusinessStatus)
	require.Equal(t, int64(30), details.EtaSeconds, "600 bytes at 20 a second")
	require.Equal(t, int64(20), details.BytesPerSecond)
	require.Equal(t, int64(400), details.BytesRead)
	require.Equal(t, int64(3), details.Sequence)
	require.Equal(t, smc.RunRunning, details.Runs[0].Status)

	require.NoError(t, f.store.EndSync(ctx, id, "process", 1))
	details, err = f.client.DescribeReplicationJobDetails(ctx, &smc.DescribeReplicationJobDetailsRequest{JobID: id})
	require.NoError(t, err)
	require.Equal(t, int64(-1), details.EtaSeconds, "nothing can be said")
	require.Zero(t, details.BytesPerSecond)
	_, err = f.client.StopReplicationJob(ctx, &smc.StopReplicationJobRequest{JobID: id})
	f.requireCode(smc.CodeReplicationJobInvalidBusinessStatus, err)

	require.NoError(t, f.store.EndProcessing(ctx, id, "clean", 1, "m-1", []store.ImageDisk{{SizeBytes: 5, DeliveredSizeBytes: 8, Root: "ab"}, {Index: 1, DeliveredSizeBytes: 2}}))
	_, err = f.store.EndRun(ctx, id, "end", 1, false)
	require.NoError(t, err)
	_, err = f.client.RunReplicationJob(ctx, &smc.RunReplicationJobRequest{JobID: id})
	require.NoError(t, err)
	_, err = f.client.CutOverReplicationJob(ctx, &smc.CutOverReplicationJobRequest{JobID: id, SyncData: pointer(true)})
	f.requireCode(smc.CodeReplicationJobInvalidStatus, err)
	require.NoError(t, f.store.Fail(ctx, id, "fail", 2, smc.CodeSourceDiskReadError, "why"))
	details, err = f.client.DescribeReplicationJobDetails(ctx, &smc.DescribeReplicationJobDetailsRequest{JobID: id})
	require.NoError(t, err)
	require.Equal(t, smc.CodeSourceDiskReadError, details.ErrorCode)
	require.Empty(t, details.BusinessStatus, "a phase means something while Running")
	_, err = f.client.DeleteReplicationJob(ctx, &smc.DeleteReplicationJobRequest{JobID: id})
	require.NoError(t, err)
	require.Equal(t, []string{
		"Stop " + id + " {}", "Start " + id + " {}", "Stop " + id + " {}", "Run " + id + " {}", "CutOver " + id + " {SyncData:true}", "Delete " + id + " {}",
	}, f.engine.updates)

	images, err := f.client.DescribeImages(ctx, &smc.DescribeImagesRequest{JobID: &id})
	require.NoError(t, err)
	require.Len(t, images.Images, 1)
	require.Equal(t, "web_"+id+"_CYCLE_1", images.Images[0].ImageName)
	require.Equal(t, int64(10), images.Images[0].SizeBytes)
	ticket, err := f.client.GetImageTicket(ctx, &smc.GetImageTicketRequest{ImageID: "m-1"})
	require.NoError(t, err)
	require.Equal(t, hostURL, ticket.URL)
	require.Len(t, ticket.Disks, 2)
	require.NoError(t, replica.VerifyToken(dataPlaneKey, ticket.Token, replica.TokenImage, "m-1", time.Now()))
	require.ErrorIs(t, replica.VerifyToken(dataPlaneKey, ticket.Token, replica.TokenImage, "m-2", time.Now()), replica.ErrRefused)
	require.ErrorIs(t, replica.VerifyToken(dataPlaneKey, ticket.Token, replica.TokenImage, "m-1", time.Now().Add(imageTicketLife)), replica.ErrRefused)

	for range 2 {
		_, err = f.client.DeleteImage(ctx, &smc.DeleteImageRequest{ImageID: "m-1"})
		require.NoError(t, err)
	}
	images, err = f.client.DescribeImages(ctx, &smc.DescribeImagesRequest{JobID: &id})
	require.NoError(t, err)
	require.Equal(t, smc.ImageDeleting, images.Images[0].Status)
	_, err = f.client.GetImageTicket(ctx, &smc.GetImageTicketRequest{ImageID: "m-1"})
	f.requireCode(smc.CodeInvalidImageIDNotFound, err)
}

// A run may be over before the request that began it is sent again because its answer was lost: there is one run.
func TestRunIsAskedForTwice(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	source, _ := f.agent("web")
	created, err := f.client.CreateReplicationJob(ctx, &smc.CreateReplicationJobRequest{
		SourceID: source, RunOnce: pointer(false), Frequency: pointer(24), MaxNumberOfImageToKeep: pointer(2),
	})
	require.NoError(t, err)
	id := created.JobID
	_, err = f.client.StartReplicationJob(ctx, &smc.StartReplicationJobRequest{JobID: id})
	require.NoError(t, err)
	end := func(run int) {
		t.Helper()
		key := func(phase string) string { return fmt.Sprint(phase, run) }
		require.NoError(t, f.store.BeginSync(ctx, id, key("sync"), run, hostURL, 1000))
		require.NoError(t, f.store.EndSync(ctx, id, key("process"), run))
		require.NoError(t, f.store.EndProcessing(ctx, id, key("clean"), run, key("m-"), []store.ImageDisk{{SizeBytes: 5, DeliveredSizeBytes: 8, Root: "ab"}}))
		_, err := f.store.EndRun(ctx, id, key("end"), run, false)
		require.NoError(t, err)
	}
	end(1)
	request := &smc.RunReplicationJobRequest{JobID: id, ClientToken: pointer("once")}
	_, err = f.client.RunReplicationJob(ctx, request)
	require.NoError(t, err)
	end(2)
	_, err = f.client.RunReplicationJob(ctx, request)
	require.NoError(t, err)
	job, err := f.store.JobByID(ctx, id)
	require.NoError(t, err)
	require.Equal(t, smc.StatusWaiting, job.Status)
	require.Equal(t, 2, job.Run)
	for n := range 2 { // the client gives each request a token of its own
		_, err = f.client.RunReplicationJob(ctx, &smc.RunReplicationJobRequest{JobID: id})
		require.NoError(t, err)
		end(3 + n)
	}
}

func TestPagesAndFilters(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	var sources, ids []string
	for i := range 3 {
		source, _ := f.agent(fmt.Sprint("web-", i))
		sources, ids = append(sources, source), append(ids, f.create(source))
	}
	_, err := f.client.StartReplicationJob(ctx, &smc.StartReplicationJobRequest{JobID: ids[1]})
	require.NoError(t, err)
	seen := map[string]bool{}
	for number := 1; number <= 2; number++ {
		page, err := f.client.DescribeReplicationJobs(ctx, &smc.DescribeReplicationJobsRequest{PageNumber: &number, PageSize: pointer(2)})
		require.NoError(t, err)
		require.Equal(t, smc.Page{TotalCount: 3, PageNumber: number, PageSize: 2}, page.Page)
		require.Len(t, page.ReplicationJobs, 3-number)
		for _, job := range page.ReplicationJobs {
			seen[job.JobID] = true
		}
	}
	require.Len(t, seen, 3, "every job is on one page")
	for _, test := range []struct {
		filter smc.DescribeReplicationJobsRequest
		want   int
	}{
		{smc.DescribeReplicationJobsRequest{}, 3},
		{smc.DescribeReplicationJobsRequest{Status: pointer("Running")}, 1},
		{smc.DescribeReplicationJobsRequest{BusinessStatus: pointer("Syncing")}, 0},
		{smc.DescribeReplicationJobsRequest{SourceID: sources[:2], JobID: ids[1:]}, 1},
		{smc.DescribeReplicationJobsRequest{RegionID: pointer("cn-other")}, 0},
	} {
		jobs, err := f.client.DescribeReplicationJobs(ctx, &test.filter)
		require.NoError(t, err)
		require.Equal(t, test.want, jobs.TotalCount, "%+v", test.filter)
	}
	_, err = f.client.DescribeReplicationJobs(ctx, &smc.DescribeReplicationJobsRequest{PageSize: pointer(51)})
	f.requireCode(smc.CodeInvalidParameter, err)

	inUse, err := f.client.DescribeSourceServers(ctx, &smc.DescribeSourceServersRequest{State: pointer("InUse")})
	require.NoError(t, err)
	require.Len(t, inUse.SourceServers, 1)
	source := inUse.SourceServers[0]
	require.Equal(t, sources[1], source.SourceID)
	require.Equal(t, ids[1], source.JobID)
	require.Equal(t, 21, source.SystemDiskSize, "20 GiB and a byte, rounded up")
	require.Equal(t, "0_0", source.SystemDiskParts[0].Device)
	require.Equal(t, 30, source.DataDisks[0].Size)
	require.Equal(t, 30, source.HeartbeatRate)
	require.Equal(t, smc.ReplicationDriver, source.ReplicationDriver)
	require.JSONEq(t, `{"cores":"2"}`, source.SystemInfo)
}

func TestFailuresOfTheInsideSayNothing(t *testing.T) {
	f := newFixture(t)
	source, _ := f.agent("web")
	job := f.create(source)
	f.engine.fail = errors.New("dial tcp 10.0.0.7: connection refused")
	_, err := f.client.StartReplicationJob(t.Context(), &smc.StartReplicationJobRequest{JobID: job})
	refusal := f.requireCode(smc.CodeInternalError, err)
	require.NotContains(t, refusal.Message, "10.0.0.7")
}

func TestHealth(t *testing.T) {
	f := newFixture(t)
	get := func(path string) (int, string) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.url+path, nil)
		require.NoError(t, err)
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		return response.StatusCode, string(body)
	}
	status, _ := get("/healthz")
	require.Equal(t, http.StatusOK, status)
	f.ready = errors.New("Temporal does not answer")
	status, body := get("/readyz")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Contains(t, body, "temporal: Temporal does not answer")
	status, _ = get("/readyz?exclude=temporal")
	require.Equal(t, http.StatusOK, status)
	status, body = get("/nowhere")
	require.Equal(t, http.StatusNotFound, status)
	require.Contains(t, body, smc.CodeInvalidActionNotFound)
}

// Every call is told of, by the API it came by, the operation and its outcome.
func TestObserved(t *testing.T) {
	f := newFixture(t)
	_, agent := f.agent("web-1")
	f.observed.take()
	_, err := f.client.DescribeSourceServers(t.Context(), &smc.DescribeSourceServersRequest{})
	require.NoError(t, err)
	_, err = f.as(keyID, "wrong").DescribeSourceServers(t.Context(), &smc.DescribeSourceServersRequest{})
	f.requireCode(smc.CodeSignatureDoesNotMatch, err)
	f.requireCode(smc.CodeInvalidActionNotFound, f.client.Call(t.Context(), "MakeCoffee", nil, nil))
	_, err = agent.Heartbeat(t.Context(), agentapi.HeartbeatRequest{Instance: "web-1"})
	f.requireCode(smc.CodeInvalidParameter, err)
	waiting, cancel := context.WithCancel(t.Context())
	group := sync.WaitGroup{}
	group.Go(func() {
		_, err := agent.Work(waiting, agentapi.WorkQuery{Instance: "web-1", Have: 1, Wait: time.Minute})
		assert.ErrorIs(t, err, context.Canceled)
	})
	require.Eventually(t, func() bool {
		for {
			select {
			case path := <-f.arrived:
				if path == agentapi.PathWork {
					return true
				}
			default:
				return false
			}
		}
	}, 10*time.Second, time.Millisecond)
	cancel()
	group.Wait()

	var got []Call
	require.Eventually(t, func() bool { got = append(got, f.observed.take()...); return len(got) == 5 }, 10*time.Second, time.Millisecond)
	require.Equal(t, []Call{
		{API: APISMC, Operation: "DescribeSourceServers", Code: smc.OutcomeOK},
		{API: APISMC, Operation: "DescribeSourceServers", Code: smc.CodeSignatureDoesNotMatch},
		{API: APISMC, Code: smc.CodeInvalidActionNotFound},
		{API: APIAgent, Operation: "heartbeat", Code: smc.CodeInvalidParameter},
		{API: APIAgent, Operation: "work", Code: CallAbandoned},
	}, got)
}

func TestAgentRegisters(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	client, err := agentapi.NewClient(f.url, "")
	require.NoError(t, err)
	good := agentapi.RegisterRequest{Code: f.code(), Name: "web", Instance: "instance", Server: described}
	for code, change := range map[string]func(*agentapi.RegisterRequest){
		smc.CodeInvalidActivationCode: func(r *agentapi.RegisterRequest) { r.Code = "wrong" },
		smc.CodeInvalidParameter:      func(r *agentapi.RegisterRequest) { r.Instance = "" },
	} {
		request := good
		change(&request)
		_, err := client.Register(ctx, request)
		f.requireCode(code, err)
	}
	for name, server := range map[string]agentapi.Server{
		"no disk":          {},
		"an index skipped": {Disks: []agentapi.Disk{{Index: 1, SizeBytes: 1}}},
		"an empty disk":    {Disks: []agentapi.Disk{{}}},
		"much information": {Disks: described.Disks, SystemInfo: json.RawMessage(`"` + strings.Repeat("x", agentapi.MaxSystemInfoBytes) + `"`)},
	} {
		request := good
		request.Server = server
		_, err := client.Register(ctx, request)
		require.Equal(t, smc.CodeInvalidParameter, smc.CodeOf(err), name)
	}
	bad := good
	bad.Name = "?"
	_, err = client.Register(ctx, bad)
	f.requireCode(smc.CodeInvalidParameter, err)

	first, err := client.Register(ctx, good)
	require.NoError(t, err)
	again, err := client.Register(ctx, good)
	require.NoError(t, err)
	require.Equal(t, first.SourceID, again.SourceID)
	require.NotEqual(t, first.Token, again.Token)
	_, err = client.WithToken(first.Token).Heartbeat(ctx, agentapi.HeartbeatRequest{Server: described})
	f.requireCode(smc.CodeInvalidAgentToken, err)
}

func TestAgentWithoutAToken(t *testing.T) {
	f := newFixture(t)
	for _, token := range []string{"", "wrong"} {
		client, err := agentapi.NewClient(f.url, token)
		require.NoError(t, err)
		_, err = client.Heartbeat(t.Context(), agentapi.HeartbeatRequest{Server: described})
		refusal := f.requireCode(smc.CodeInvalidAgentToken, err)
		require.Equal(t, http.StatusUnauthorized, refusal.HTTPStatus)
		_, err = client.Work(t.Context(), agentapi.WorkQuery{})
		f.requireCode(smc.CodeInvalidAgentToken, err)
	}
}

// An agent token opens the agent API and nothing else.
func TestAgentTokenDoesNotReachTheAPI(t *testing.T) {
	f := newFixture(t)
	_, err := f.client.DescribeReplicationJobs(t.Context(), &smc.DescribeReplicationJobsRequest{})
	require.NoError(t, err)
	code := f.code()
	client, err := agentapi.NewClient(f.url, "")
	require.NoError(t, err)
	registered, err := client.Register(t.Context(), agentapi.RegisterRequest{Code: code, Name: "web", Instance: "i", Server: described})
	require.NoError(t, err)
	for _, values := range []url.Values{
		{"Action": {"DescribeReplicationJobs"}, "Version": {smc.Version}},
		signed("DescribeReplicationJobs", time.Now(), "n1"), // whoever sends an Authorization header means it
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.url+"/", strings.NewReader(values.Encode()))
		require.NoError(t, err)
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		request.Header.Set("Authorization", "Bearer "+registered.Token)
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		response.Body.Close()
		require.Equal(t, http.StatusBadRequest, response.StatusCode)
	}
	// As a key pair of the API it is unknown.
	_, err = f.as(registered.SourceID, registered.Token).DescribeReplicationJobs(t.Context(), &smc.DescribeReplicationJobsRequest{})
	f.requireCode(smc.CodeInvalidAccessKeyIDNotFound, err)
}

func TestHeartbeat(t *testing.T) {
	f := newFixture(t)
	id, agent := f.agent("web")
	_, err := f.store.MarkOffline(t.Context(), time.Now().Add(time.Minute))
	require.NoError(t, err)
	answer, err := agent.Heartbeat(t.Context(), agentapi.HeartbeatRequest{Instance: "i", Server: described})
	require.NoError(t, err)
	require.Equal(t, 30, answer.HeartbeatRateSeconds)
	source, err := f.store.Source(t.Context(), account, id)
	require.NoError(t, err)
	require.Equal(t, smc.SourceAvailable, source.State)
	_, err = agent.Heartbeat(t.Context(), agentapi.HeartbeatRequest{})
	f.requireCode(smc.CodeInvalidParameter, err)
}

func TestWork(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	source, agent := f.agent("web")
	job := f.create(source)
	_, err := f.client.StartReplicationJob(ctx, &smc.StartReplicationJobRequest{JobID: job})
	require.NoError(t, err)

	// An agent that knows nothing is answered at once.
	idle, err := agent.Work(ctx, agentapi.WorkQuery{Instance: "i", Wait: time.Hour})
	require.NoError(t, err)
	require.Nil(t, idle.Work)
	// Nothing changes: the answer comes when the wait is over.
	same, err := agent.Work(ctx, agentapi.WorkQuery{Instance: "i", Have: idle.Generation, Wait: 20 * time.Millisecond})
	require.NoError(t, err)
	require.Equal(t, idle, same)

	// Something changes: the answer comes with it.
	for len(f.arrived) > 0 {
		<-f.arrived
	}
	answers := make(chan agentapi.Desired, 1)
	go func() {
		desired, err := agent.Work(ctx, agentapi.WorkQuery{Instance: "i", Have: idle.Generation, Wait: time.Minute})
		assert.NoError(t, err)
		answers <- desired
	}()
	require.Equal(t, agentapi.PathWork, <-f.arrived)
	changed := time.Now()
	require.NoError(t, f.store.BeginSync(ctx, job, "sync", 1, hostURL, 1))
	desired := <-answers
	require.Less(t, time.Since(changed), workPoll, "it did not wait for the next look at the store")
	require.Greater(t, desired.Generation, idle.Generation)
	require.NotNil(t, desired.Work)
	require.Equal(t, job, desired.Work.JobID)
	require.Equal(t, hostURL, desired.Work.HostURL)
	require.Equal(t, agentapi.Params{CompressLevel: 1, Checksum: true}, desired.Work.Parameters)
	require.NoError(t, replica.VerifyToken(dataPlaneKey, desired.Work.Token, replica.TokenSession, job, time.Now()))

	_, err = f.client.StopReplicationJob(ctx, &smc.StopReplicationJobRequest{JobID: job})
	require.NoError(t, err)
	stopped, err := agent.Work(ctx, agentapi.WorkQuery{Instance: "i", Have: desired.Generation, Wait: time.Minute})
	require.NoError(t, err)
	require.Nil(t, stopped.Work)
	require.Greater(t, stopped.Generation, desired.Generation)
}

func TestWorkQueriesThatAreWrong(t *testing.T) {
	f := newFixture(t)
	client, err := agentapi.NewClient(f.url, "")
	require.NoError(t, err)
	registered, err := client.Register(t.Context(), agentapi.RegisterRequest{Code: f.code(), Name: "web", Instance: "i", Server: described})
	require.NoError(t, err)
	for _, query := range []string{"have=x&wait=1s", "have=1&wait=soon", "have=1&wait=-1s", ""} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.url+agentapi.PathWork+"?"+query, nil)
		require.NoError(t, err)
		request.Header.Set("Authorization", "Bearer "+registered.Token)
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		var answer struct{ RequestId, HostId, Code, Message string }
		require.NoError(t, json.NewDecoder(response.Body).Decode(&answer))
		response.Body.Close()
		require.Equal(t, smc.CodeInvalidParameter, answer.Code, query)
		require.Regexp(t, requestID, answer.RequestId)
		require.Equal(t, "endpoint-1", answer.HostId)
	}
}
