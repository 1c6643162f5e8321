package activities

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"

	"github.com/drover/drover/fleet"
	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
)

// endpoint is an SMC endpoint that the real client calls. It also serves the images of its transition host.
type endpoint struct {
	*httptest.Server
	t *testing.T
	*SMC
	env *testsuite.TestActivityEnvironment

	mu      sync.Mutex
	calls   []string // the actions that were called, without the Describes
	sources []smc.SourceServer
	jobs    []*smc.ReplicationJob
	images  []smc.Image
	runs    []smc.JobRun
	// tokens lead from the client tokens that were seen to their jobs.
	tokens map[string]string
	form   url.Values // of the latest CreateReplicationJob
	// refusals are what an action is refused with, once each.
	refusals map[string][]*smc.Error
	vendor   bool // it has no extensions
	damaged  bool // the image does not hold what it should
	// moves happen before an action is carried out.
	moves map[string]func()
}

func newEndpoint(t *testing.T) *endpoint {
	t.Helper()
	e := &endpoint{t: t, tokens: map[string]string{}, refusals: map[string][]*smc.Error{}, moves: map[string]func(){}}
	e.Server = httptest.NewServer(http.HandlerFunc(e.serve))
	t.Cleanup(e.Close)
	client, err := smc.NewClient(smc.Config{
		Endpoint: e.URL, AccessKeyID: "id", AccessKeySecret: "secret", RegionID: "cn-test", MaxAttempts: 1,
	})
	require.NoError(t, err)
	e.SMC = &SMC{Client: client, HTTP: e.Server.Client()}
	e.env = new(testsuite.WorkflowTestSuite).NewTestActivityEnvironment()
	e.env.RegisterActivity(e.SMC)
	return e
}

// do carries out an activity.
func do[Result any](e *endpoint, activity, in any) (Result, error) {
	e.t.Helper()
	var result Result
	encoded, err := e.env.ExecuteActivity(activity, in)
	if err != nil {
		return result, err
	}
	if encoded.HasValue() {
		require.NoError(e.t, encoded.Get(&result))
	}
	return result, nil
}

// requireError demands a code, and whether Temporal is to try again by itself.
func requireError(t *testing.T, err error, code string, again bool) *temporal.ApplicationError {
	t.Helper()
	var application *temporal.ApplicationError
	require.ErrorAs(t, err, &application)
	require.Equal(t, code, application.Type())
	require.Equal(t, again, !application.NonRetryable())
	return application
}

func (e *endpoint) refuse(action string, refusal *smc.Error) {
	e.refusals[action] = append(e.refusals[action], refusal)
}

func (e *endpoint) serve(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if r.URL.Path == "/replica/v1/images/m-1/verify" {
		assert.Equal(e.t, "Bearer ticket", r.Header.Get("Authorization"))
		_ = json.NewEncoder(w).Encode(map[string]any{"result": replica.VerifyResult{OK: !e.damaged}})
		return
	}
	assert.NoError(e.t, r.ParseForm())
	action := r.Form.Get("Action")
	if move := e.moves[action]; move != nil {
		delete(e.moves, action)
		move()
	}
	var result smc.Result
	var err *smc.Error
	if refusals := e.refusals[action]; len(refusals) > 0 {
		e.refusals[action] = refusals[1:]
		err = refusals[0]
	} else {
		result, err = e.answer(action, r.Form)
	}
	if err != nil {
		assert.NoError(e.t, smc.WriteError(w, smc.FormatJSON, "request", "host", err))
		return
	}
	assert.NoError(e.t, smc.WriteResult(w, smc.FormatJSON, action, "request", result))
}

func (e *endpoint) job(id string) *smc.ReplicationJob {
	for _, job := range e.jobs {
		if job.JobID == id {
			return job
		}
	}
	return nil
}

// answer carries out an action.
func (e *endpoint) answer(action string, form url.Values) (smc.Result, *smc.Error) {
	switch action {
	case "DescribeSourceServers":
		return e.describeSources(form), nil
	case "DescribeReplicationJobs":
		result := &smc.DescribeReplicationJobsResult{}
		for _, job := range e.jobs {
			if id := form.Get("JobId.1"); id != "" && id != job.JobID {
				continue
			}
			// The vendor's filter by name finds what contains it.
			if name := form.Get("Name"); name != "" && job.Name != name && job.Name != name+"-2" {
				continue
			}
			result.ReplicationJobs = append(result.ReplicationJobs, *job)
		}
		return result, nil
	}
	e.calls = append(e.calls, action)
	switch action {
	case "CreateReplicationJob":
		e.form = form
		token := form.Get("ClientToken")
		if e.tokens[token] == "" {
			id := fmt.Sprint("j-", len(e.jobs)+1)
			e.tokens[token] = id
			e.jobs = append(e.jobs, &smc.ReplicationJob{JobID: id, Name: form.Get("Name"), SourceID: form.Get("SourceId"), Status: smc.StatusReady})
		}
		return &smc.CreateReplicationJobResult{JobID: e.tokens[token]}, nil
	case "DescribeImages", "DescribeReplicationJobDetails", "GetImageTicket":
		if e.vendor {
			return nil, smc.Errorf(smc.CodeInvalidActionNotFound, "")
		}
	}
	switch action {
	case "DescribeImages":
		result := &smc.DescribeImagesResult{}
		for _, image := range e.images {
			if image.ImageID == form.Get("ImageId.1") {
				result.Images = append(result.Images, image)
			}
		}
		return result, nil
	case "DescribeReplicationJobDetails":
		return &smc.DescribeReplicationJobDetailsResult{Runs: e.runs}, nil
	case "GetImageTicket":
		return &smc.GetImageTicketResult{URL: e.URL, Token: "ticket"}, nil
	}
	job := e.job(form.Get("JobId"))
	if job == nil {
		return nil, smc.Errorf(smc.CodeInvalidJobIDNotFound, "")
	}
	trigger := map[string]smc.Trigger{
		"StartReplicationJob": smc.TriggerStart, "StopReplicationJob": smc.TriggerStop,
		"CutOverReplicationJob": smc.TriggerCutOver, "DeleteReplicationJob": smc.TriggerDelete,
	}[action]
	if err := smc.Allowed(trigger, smc.JobState{Status: job.Status, BusinessStatus: job.BusinessStatus}); err != nil {
		return nil, smc.AsError(err)
	}
	switch trigger {
	case smc.TriggerStart:
		job.Status = smc.StatusRunning
		return &smc.StartReplicationJobResult{}, nil
	case smc.TriggerStop:
		job.Status = smc.StatusStopped
		return &smc.StopReplicationJobResult{}, nil
	case smc.TriggerCutOver:
		job.Status = smc.StatusFinished
		return &smc.CutOverReplicationJobResult{}, nil
	case smc.TriggerDelete:
		job.Status = smc.StatusDeleting
		return &smc.DeleteReplicationJobResult{}, nil
	}
	assert.Fail(e.t, "there is no action "+action)
	return nil, smc.Errorf(smc.CodeInvalidActionNotFound, "")
}

func (e *endpoint) describeSources(form url.Values) *smc.DescribeSourceServersResult {
	result := &smc.DescribeSourceServersResult{}
	if id := form.Get("SourceId.1"); id != "" {
		for _, source := range e.sources {
			if source.SourceID == id {
				result.SourceServers = append(result.SourceServers, source)
			}
		}
		return result
	}
	number, err := strconv.Atoi(form.Get("PageNumber"))
	assert.NoError(e.t, err)
	size, err := strconv.Atoi(form.Get("PageSize"))
	assert.NoError(e.t, err)
	from := min((number-1)*size, len(e.sources))
	result.SourceServers = append(result.SourceServers, e.sources[from:min(from+size, len(e.sources))]...)
	return result
}

func (e *endpoint) source(id, name string) {
	e.sources = append(e.sources, smc.SourceServer{SourceID: id, Name: name, State: smc.SourceAvailable})
}

// of makes a fleet of waves of entries; one that has a * is a pattern.
func of(waves ...[]string) fleet.Fleet {
	f := fleet.Fleet{Name: "exit"}
	for i, entries := range waves {
		wave := fleet.Wave{Name: fmt.Sprint("w", i+1)}
		for _, entry := range entries {
			server := fleet.Server{Name: entry}
			if slices.Contains([]byte(entry), '*') {
				server = fleet.Server{Match: entry}
			}
			wave.Servers = append(wave.Servers, server)
		}
		f.Waves = append(f.Waves, wave)
	}
	return f
}

func TestResolveServers(t *testing.T) {
	for name, c := range map[string]struct {
		fleet fleet.Fleet
		want  []string // wave, source and name
		wrong []string
	}{
		"names, ids and patterns": {
			fleet: of([]string{"web-1", "s-3"}, []string{"db-*"}),
			want:  []string{"0 s-1 web-1", "0 s-3 db-1", "1 s-4 db-2"},
		},
		"a pattern leaves out who is named later": {
			fleet: of([]string{"db-*"}, []string{"db-1"}),
			want:  []string{"0 s-4 db-2", "1 s-3 db-1"},
		},
		"the first pattern takes it": {
			fleet: of([]string{"db-*"}, []string{"*"}),
			want:  []string{"0 s-3 db-1", "0 s-4 db-2", "1 s-5 twin", "1 s-6 twin", "1 s-1 web-1", "1 s-2 web-2"},
		},
		"nobody": {
			fleet: of([]string{"web-9", "mail-*"}),
			wrong: []string{`wave w1: there is no source server "web-9"`, `wave w1: no source server matches "mail-*"`},
		},
		"twice, by name and id": {
			fleet: of([]string{"web-1"}, []string{"s-1"}),
			wrong: []string{"wave w2: source server s-1 is named twice, also as web-1"},
		},
		"a name that two have": {
			fleet: of([]string{"twin"}),
			wrong: []string{"several source servers are called twin"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEndpoint(t)
			for i, name := range []string{"web-1", "web-2", "db-1", "db-2", "twin", "twin"} {
				e.source(fmt.Sprint("s-", i+1), name)
			}
			servers, err := do[[]ResolvedServer](e, e.ResolveServers, c.fleet)
			if len(c.wrong) > 0 {
				application := requireError(t, err, TypeNoServer, false)
				for _, wrong := range c.wrong {
					require.Contains(t, application.Message(), wrong)
				}
				return
			}
			require.NoError(t, err)
			var got []string
			for _, server := range servers {
				require.Empty(t, server.Server.Match)
				got = append(got, fmt.Sprint(server.Wave, " ", server.SourceID, " ", server.Server.Name))
			}
			require.Equal(t, c.want, got)
		})
	}
}

// Every page is read, and one that moved to a later page meanwhile is there once.
func TestResolveServersReadsAllPages(t *testing.T) {
	e := newEndpoint(t)
	for i := range 2*smc.MaxPageSize + 1 {
		e.source(fmt.Sprintf("s-%03d", i), fmt.Sprintf("web-%03d", i))
	}
	e.sources[smc.MaxPageSize] = e.sources[smc.MaxPageSize-1]
	servers, err := do[[]ResolvedServer](e, e.ResolveServers, of([]string{"*"}))
	require.NoError(t, err)
	require.Len(t, servers, 2*smc.MaxPageSize)
}

func TestResolveServersKeepsTrying(t *testing.T) {
	e := newEndpoint(t)
	e.refuse("DescribeSourceServers", smc.Errorf(smc.CodeThrottlingUser, ""))
	_, err := do[[]ResolvedServer](e, e.ResolveServers, of([]string{"*"}))
	requireError(t, err, smc.CodeThrottlingUser, true)
}

func TestPreflight(t *testing.T) {
	in := PreflightInput{SourceID: "s-1", JobName: "exit:web-1"}
	available := func(e *endpoint) { e.source("s-1", "web-1") }
	job := func(status smc.JobStatus, sourceID string) func(*endpoint) {
		return func(e *endpoint) {
			available(e)
			e.jobs = []*smc.ReplicationJob{
				{JobID: "j-0", Name: "exit:web-1-2", SourceID: "s-2", Status: smc.StatusRunning}, // the filter found it, too
				{JobID: "j-1", Name: in.JobName, SourceID: sourceID, Status: status},
			}
		}
	}
	for name, c := range map[string]struct {
		prepare func(*endpoint)
		job     string
		code    string
	}{
		"all is well":              {prepare: available},
		"no such source":           {prepare: func(*endpoint) {}, code: smc.CodeInvalidSourceIDNotFound},
		"not Available":            {prepare: func(e *endpoint) { available(e); e.sources[0].State = smc.SourceUnavailable }, code: smc.CodeSourceServerStateInvalid},
		"a job to go on with":      {prepare: job(smc.StatusInError, "s-1"), job: "j-1"},
		"also when it runs":        {prepare: func(e *endpoint) { job(smc.StatusRunning, "s-1")(e); e.sources[0].State = smc.SourceInUse }, job: "j-1"},
		"a finished job":           {prepare: job(smc.StatusFinished, "s-1"), code: smc.CodeReplicationJobNameDuplicate},
		"an expired job":           {prepare: job(smc.StatusExpired, "s-1"), code: smc.CodeReplicationJobNameDuplicate},
		"a job of another source":  {prepare: job(smc.StatusReady, "s-2"), code: smc.CodeReplicationJobNameDuplicate},
		"a key without permission": {prepare: func(e *endpoint) { e.refuse("DescribeSourceServers", smc.Errorf(smc.CodeForbiddenUnauthorized, "")) }, code: smc.CodeForbiddenUnauthorized},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEndpoint(t)
			c.prepare(e)
			result, err := do[PreflightResult](e, e.Preflight, in)
			if c.code != "" {
				requireError(t, err, c.code, false)
				return
			}
			require.NoError(t, err)
			if c.job == "" {
				require.Nil(t, result.Job)
				return
			}
			require.Equal(t, c.job, result.Job.JobID)
		})
	}
}

// A code that is in no table has the class that its HTTP status says.
func TestCallErrorClass(t *testing.T) {
	e := newEndpoint(t)
	e.refuse("DescribeSourceServers", &smc.Error{Code: "Forbidden.RAM", HTTPStatus: http.StatusForbidden, Message: "no"})
	_, err := do[PreflightResult](e, e.Preflight, PreflightInput{SourceID: "s-1"})
	var class smc.Class
	require.NoError(t, requireError(t, err, "Forbidden.RAM", false).Details(&class))
	require.Equal(t, smc.Operator, class)
}

func TestCreateJob(t *testing.T) {
	valid := time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC)
	in := CreateJobInput{
		Server:   fleet.Server{Name: "web-1", Parameters: map[string]string{"SystemDiskSize": "40", "DataDisk.1.Index": "1", "DataDisk.1.Size": "80"}},
		SourceID: "s-1", JobName: "exit:web-1", ClientToken: "token", ValidTime: valid,
	}
	t.Run("is idempotent", func(t *testing.T) {
		e := newEndpoint(t)
		first, err := do[string](e, e.CreateJob, in)
		require.NoError(t, err)
		second, err := do[string](e, e.CreateJob, in)
		require.NoError(t, err)
		require.Equal(t, first, second)
		require.Len(t, e.jobs, 1)
		in.ClientToken = "another"
		third, err := do[string](e, e.CreateJob, in)
		require.NoError(t, err)
		require.NotEqual(t, first, third)
		in.ClientToken = "token"
	})
	t.Run("says all", func(t *testing.T) {
		e := newEndpoint(t)
		_, err := do[string](e, e.CreateJob, in)
		require.NoError(t, err)
		for name, want := range map[string]string{
			"RegionId": "cn-test", "SourceId": "s-1", "Name": "exit:web-1", "ClientToken": "token", "SystemDiskSize": "40",
			"DataDisk.1.Size": "80", "ValidTime": smc.FormatTime(valid),
		} {
			require.Equal(t, want, e.form.Get(name), name)
		}
	})
	t.Run("takes the manifest's ValidTime", func(t *testing.T) {
		e := newEndpoint(t)
		in := in
		in.Server.Parameters = map[string]string{"ValidTime": "2026-05-01T00:00:00Z"}
		_, err := do[string](e, e.CreateJob, in)
		require.NoError(t, err)
		require.Equal(t, "2026-05-01T00:00:00Z", e.form.Get("ValidTime"))
	})
	t.Run("is refused", func(t *testing.T) {
		e := newEndpoint(t)
		e.refuse("CreateReplicationJob", smc.Errorf(smc.CodeSourceServerStateInvalid, "it is away"))
		_, err := do[string](e, e.CreateJob, in)
		require.Equal(t, "it is away", requireError(t, err, smc.CodeSourceServerStateInvalid, false).Message())
		e.refuse("CreateReplicationJob", smc.Errorf(smc.CodeInternalError, ""))
		_, err = do[string](e, e.CreateJob, in)
		requireError(t, err, smc.CodeInternalError, true)
	})
	t.Run("nobody answers", func(t *testing.T) {
		e := newEndpoint(t)
		e.Close()
		_, err := do[string](e, e.CreateJob, in)
		requireError(t, err, smc.CodeInternalError, true)
	})
}

func TestDescribeJob(t *testing.T) {
	e := newEndpoint(t)
	view, err := do[JobView](e, e.DescribeJob, "j-1")
	require.NoError(t, err)
	require.True(t, view.Gone())
	e.jobs = []*smc.ReplicationJob{{
		JobID: "j-1", Status: smc.StatusWaiting, ImageID: "m-2", ReplicationJobRuns: []smc.ReplicationJobRun{
			{ImageID: "m-1", EndTime: "2026-01-01T00:00:00Z"}, {EndTime: "2026-01-02T00:00:00Z"}, {ImageID: "m-2", EndTime: "2026-01-03T00:00:00Z"}, {ImageID: "m-3"},
		},
	}}
	view, err = do[JobView](e, e.DescribeJob, "j-1")
	require.NoError(t, err)
	require.Equal(t, []string{"m-1", "m-2"}, view.Images, "runs that failed made none, and one that goes on has none yet")
	e.jobs = []*smc.ReplicationJob{{JobID: "j-1", Status: smc.StatusFinished, RunOnce: true, ImageID: "m-1"}}
	view, err = do[JobView](e, e.DescribeJob, "j-1")
	require.NoError(t, err)
	require.Equal(t, []string{"m-1"}, view.Images, "also of an endpoint that lists no runs")
}

func TestAwaitJob(t *testing.T) {
	e := newEndpoint(t)
	e.jobs = []*smc.ReplicationJob{{JobID: "j-1", Status: smc.StatusWaiting, ReplicationJobRuns: []smc.ReplicationJobRun{{ImageID: "m-1", EndTime: "then"}}}}
	in := AwaitJobInput{JobID: "j-1", While: []smc.JobStatus{smc.StatusWaiting}, Images: []string{"m-1"}}
	_, err := do[JobView](e, e.AwaitJob, in)
	require.Equal(t, temporal.ApplicationErrorCategoryBenign, requireError(t, err, TypeUnchanged, true).Category())
	e.refuse("DescribeReplicationJobs", smc.Errorf(smc.CodeForbiddenUnauthorized, ""))
	_, err = do[JobView](e, e.AwaitJob, in)
	requireError(t, err, TypeUnchanged, true) // whoever withdrew the key may give it back

	in.Images = nil
	view, err := do[JobView](e, e.AwaitJob, in)
	require.NoError(t, err)
	require.Equal(t, smc.StatusWaiting, view.Status, "an image that is not known is news")
	in.Images = []string{"m-1"}
	in.Queued, e.jobs[0].StatusInfo = true, smc.QueuedInfo+": place 1 of 2"
	_, err = do[JobView](e, e.AwaitJob, in)
	requireError(t, err, TypeUnchanged, true)
	e.jobs[0].StatusInfo = ""
	view, err = do[JobView](e, e.AwaitJob, in)
	require.NoError(t, err)
	require.False(t, view.Queued, "that it is no longer queued is news")
	e.jobs[0].Status = smc.StatusRunning
	view, err = do[JobView](e, e.AwaitJob, in)
	require.NoError(t, err)
	require.Equal(t, smc.StatusRunning, view.Status)
	e.jobs = nil
	view, err = do[JobView](e, e.AwaitJob, in)
	require.NoError(t, err)
	require.True(t, view.Gone())
}

func TestStartJob(t *testing.T) {
	for status, code := range map[smc.JobStatus]string{
		smc.StatusReady: "", smc.StatusStopped: "", smc.StatusInError: "",
		// It was started already.
		smc.StatusRunning: "", smc.StatusWaiting: "", smc.StatusFinished: "",
		smc.StatusExpired: smc.CodeReplicationJobInvalidStatus, smc.StatusDeleting: smc.CodeReplicationJobInvalidStatus,
		"": smc.CodeInvalidJobIDNotFound,
	} {
		t.Run(string(status), func(t *testing.T) {
			e := newEndpoint(t)
			if status != "" {
				e.jobs = []*smc.ReplicationJob{{JobID: "j-1", Status: status}}
			}
			_, err := do[any](e, e.StartJob, "j-1")
			if code != "" {
				requireError(t, err, code, false)
				return
			}
			require.NoError(t, err)
			require.Equal(t, []string{"StartReplicationJob"}, e.calls)
		})
	}
}

func TestCutOver(t *testing.T) {
	e := newEndpoint(t)
	e.jobs = []*smc.ReplicationJob{{JobID: "j-1", Status: smc.StatusWaiting}}
	_, err := do[any](e, e.CutOver, CutOverInput{JobID: "j-1"})
	require.NoError(t, err)
	_, err = do[any](e, e.CutOver, CutOverInput{JobID: "j-1"})
	requireError(t, err, smc.CodeReplicationJobInvalidStatus, false)
}

func TestRemoveJob(t *testing.T) {
	syncing, processing := smc.BusinessSyncing, smc.BusinessProcessing
	for name, c := range map[string]struct {
		status   smc.JobStatus
		business smc.BusinessStatus
		calls    []string // until it is gone
	}{
		"Ready":    {status: smc.StatusReady, calls: []string{"DeleteReplicationJob"}},
		"Stopped":  {status: smc.StatusStopped, calls: []string{"DeleteReplicationJob"}},
		"Waiting":  {status: smc.StatusWaiting, calls: []string{"DeleteReplicationJob"}},
		"InError":  {status: smc.StatusInError, calls: []string{"DeleteReplicationJob"}},
		"Finished": {status: smc.StatusFinished, calls: []string{"DeleteReplicationJob"}},
		"Expired":  {status: smc.StatusExpired, calls: []string{"DeleteReplicationJob"}},
		"Syncing":  {status: smc.StatusRunning, business: syncing, calls: []string{"StopReplicationJob", "DeleteReplicationJob"}},
		// A phase that cannot be stopped is waited for.
		"Processing": {status: smc.StatusRunning, business: processing, calls: []string{"StopReplicationJob", "DeleteReplicationJob"}},
		"Deleting":   {status: smc.StatusDeleting},
		"gone":       {},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEndpoint(t)
			if c.status != "" {
				e.jobs = []*smc.ReplicationJob{{
					JobID: "j-1", Status: c.status, BusinessStatus: c.business,
					ReplicationJobRuns: []smc.ReplicationJobRun{{ImageID: "m-1", EndTime: "then"}},
				}}
			}
			for attempt := 1; ; attempt++ {
				require.Less(t, attempt, 6)
				gone := len(e.jobs) == 0
				_, err := do[[]string](e, e.RemoveJob, "j-1")
				if gone {
					require.NoError(t, err)
					break
				}
				requireError(t, err, TypeUnchanged, true)
				switch job := e.jobs[0]; job.Status {
				case smc.StatusDeleting:
					e.jobs = nil
				case smc.StatusRunning:
					require.Contains(t, err.Error(), "Processing, which cannot be stopped")
					job.Status = smc.StatusFinished
				}
			}
			require.Equal(t, c.calls, e.calls)
		})
	}
	t.Run("says which images it leaves", func(t *testing.T) {
		e := newEndpoint(t)
		details, err := converter.GetDefaultDataConverter().ToPayloads([]string{"m-1"})
		require.NoError(t, err)
		var seen []string
		require.NoError(t, converter.GetDefaultDataConverter().FromPayloads(details, &seen))
		e.env.SetHeartbeatDetails(seen)
		images, err := do[[]string](e, e.RemoveJob, "j-1")
		require.NoError(t, err)
		require.Equal(t, []string{"m-1"}, images)
	})
	t.Run("it moves meanwhile", func(t *testing.T) {
		e := newEndpoint(t)
		e.jobs = []*smc.ReplicationJob{{JobID: "j-1", Status: smc.StatusReady}}
		e.moves["DeleteReplicationJob"] = func() { e.jobs[0].Status = smc.StatusRunning }
		_, err := do[[]string](e, e.RemoveJob, "j-1")
		requireError(t, err, TypeUnchanged, true)
	})
	t.Run("someone else is faster", func(t *testing.T) {
		e := newEndpoint(t)
		e.jobs = []*smc.ReplicationJob{{JobID: "j-1", Status: smc.StatusReady}}
		e.moves["DeleteReplicationJob"] = func() { e.jobs = nil }
		_, err := do[[]string](e, e.RemoveJob, "j-1")
		require.NoError(t, err)
	})
	t.Run("it may not be", func(t *testing.T) {
		e := newEndpoint(t)
		e.jobs = []*smc.ReplicationJob{{JobID: "j-1", Status: smc.StatusReady}}
		e.refuse("DeleteReplicationJob", smc.Errorf(smc.CodeForbiddenUnauthorized, ""))
		_, err := do[[]string](e, e.RemoveJob, "j-1")
		requireError(t, err, smc.CodeForbiddenUnauthorized, false)
	})
}

func TestVerifyImage(t *testing.T) {
	in := VerifyImageInput{JobID: "j-1", ImageID: "m-1"}
	center := func(t *testing.T) *endpoint {
		t.Helper()
		e := newEndpoint(t)
		e.images = []smc.Image{{ImageID: "m-1"}}
		e.runs = []smc.JobRun{{BytesRead: 100, BytesSent: 60}, {BytesRead: 100, BytesSent: 3}}
		return e
	}
	t.Run("on a center", func(t *testing.T) {
		e := center(t)
		result, err := do[VerifyImageResult](e, e.VerifyImage, in)
		require.NoError(t, err)
		require.Equal(t, VerifyImageResult{Verified: true, BytesRead: 200, BytesSent: 63}, result)
	})
	t.Run("on the vendor's endpoint", func(t *testing.T) {
		e := newEndpoint(t)
		e.vendor = true
		result, err := do[VerifyImageResult](e, e.VerifyImage, in)
		require.NoError(t, err)
		require.Equal(t, VerifyImageResult{}, result)
	})
	t.Run("that is damaged", func(t *testing.T) {
		e := center(t)
		e.damaged = true
		_, err := do[VerifyImageResult](e, e.VerifyImage, in)
		requireError(t, err, smc.CodeImageVerificationFailed, false)
	})
	t.Run("that is not there", func(t *testing.T) {
		e := center(t)
		e.images = nil
		_, err := do[VerifyImageResult](e, e.VerifyImage, in)
		requireError(t, err, smc.CodeInvalidImageIDNotFound, false)
	})
	t.Run("whose host is away", func(t *testing.T) {
		e := center(t)
		away := errors.New("connection refused")
		e.SMC.HTTP = &http.Client{Transport: transport(func(*http.Request) (*http.Response, error) { return nil, away })}
		_, err := do[VerifyImageResult](e, e.VerifyImage, in)
		requireError(t, err, smc.CodeInternalError, true)
	})
}

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
