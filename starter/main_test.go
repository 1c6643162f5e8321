package main

import (
	"bytes"
	"context"
	"encoding/json"
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

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/smc"
)

// endpoint is an SMC endpoint that answers from a few lists. Handlers replace what it would do.
type endpoint struct {
	*httptest.Server
	sources []smc.SourceServer
	jobs    []smc.ReplicationJob
	images  []smc.Image
	targets []smc.Instance
	ticket  smc.GetImageTicketResult
	// failVerified is why the outcome of a verification cannot be kept.
	failVerified error
	// handlers by operation; they run one at a time.
	handlers map[string]func(form url.Values) (smc.Result, error)

	mu    sync.Mutex
	calls []url.Values
}

func newEndpoint(t *testing.T) *endpoint {
	t.Helper()
	e := &endpoint{handlers: map[string]func(url.Values) (smc.Result, error){}}
	e.Server = httptest.NewServer(e)
	t.Cleanup(e.Close)
	return e
}

func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := r.ParseForm(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	e.calls = append(e.calls, r.PostForm)
	id := fmt.Sprintf("REQUEST-%d", len(e.calls))
	res, err := e.answer(r.PostForm)
	if err != nil {
		_ = smc.WriteError(w, smc.FormatJSON, id, "test", err)
		return
	}
	_ = smc.WriteResult(w, smc.FormatJSON, r.PostForm.Get("Action"), id, res)
}

func (e *endpoint) answer(form url.Values) (smc.Result, error) {
	action := form.Get("Action")
	if handle, ok := e.handlers[action]; ok {
		return handle(form)
	}
	switch action {
	case "DescribeSourceServers":
		items, p := pageOf(e.sources, form, func(s smc.SourceServer) (string, string) { return s.SourceID, s.Name }, "SourceId")
		return &smc.DescribeSourceServersResult{Page: p, SourceServers: items}, nil
	case "DescribeReplicationJobs":
		items, p := pageOf(e.jobs, form, func(j smc.ReplicationJob) (string, string) { return j.JobID, j.Name }, "JobId")
		return &smc.DescribeReplicationJobsResult{Page: p, ReplicationJobs: items}, nil
	case "DescribeImages":
		items, p := pageOf(e.images, form, func(i smc.Image) (string, string) { return i.ImageID, i.ImageName }, "ImageId")
		return &smc.DescribeImagesResult{Page: p, Images: items}, nil
	case "DescribeTargetInstances":
		items, p := pageOf(e.targets, form, func(i smc.Instance) (string, string) { return i.InstanceID, i.Name }, "InstanceId")
		return &smc.DescribeTargetInstancesResult{Page: p, TargetInstances: items}, nil
	case "GetImageTicket":
		ticket := e.ticket
		return &ticket, nil
	}
	op, err := smc.LookupOperation(action)
	if err != nil {
		return nil, err
	}
	return op.NewResult(), nil
}

// pageOf filters by id, or by name as loosely as an endpoint may, and cuts out a page.
func pageOf[T any](all []T, form url.Values, idAndName func(T) (string, string), idParameter string) ([]T, smc.Page) {
	var found []T
	for _, item := range all {
		id, name := idAndName(item)
		if want := form.Get(idParameter + ".1"); want != "" && want != id {
			continue
		}
		if want := form.Get("Name"); want != "" && !strings.HasPrefix(name, want) {
			continue
		}
		found = append(found, item)
	}
	number, size := 1, 10
	_, _ = fmt.Sscan(form.Get("PageNumber"), &number)
	_, _ = fmt.Sscan(form.Get("PageSize"), &size)
	from := min((number-1)*size, len(found))
	return found[from:min(from+size, len(found))], smc.Page{TotalCount: len(found), PageNumber: number, PageSize: size}
}

// called returns the parameters of the calls of an operation.
func (e *endpoint) called(action string) []url.Values {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(e.calls), func(v url.Values) bool { return v.Get("Action") != action })
}

func (e *endpoint) env() map[string]string {
	return map[string]string{
		"DROVER_ENDPOINT": e.URL, "ALIBABA_CLOUD_ACCESS_KEY_ID": "id", "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "secret", "DROVER_REGION": "local-1",
	}
}

// outcomeOf is what a command did.
type outcomeOf struct {
	code   int
	stdout string
	stderr string
}

func droverWith(t *testing.T, env map[string]string, args ...string) outcomeOf {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), args, func(name string) string { return env[name] }, &stdout, &stderr)
	return outcomeOf{code, stdout.String(), stderr.String()}
}

func (e *endpoint) drover(t *testing.T, args ...string) outcomeOf {
	t.Helper()
	return droverWith(t, e.env(), args...)
}

// parse reads the JSON a command printed.
func parse[T any](t *testing.T, o outcomeOf) (v T) {
	t.Helper()
	require.Equal(t, exitOK, o.code, o.stderr)
	require.NoError(t, json.Unmarshal([]byte(o.stdout), &v), o.stdout)
	return v
}

func TestWrongUsage(t *testing.T) {
	e := newEndpoint(t)
	for _, test := range []struct{ args, want string }{
		{"", "drover: a command is missing"},
		{"nope", `drover: no command is called "nope"`},
		{"job", "drover job: a command is missing"},
		{"help nope", `drover help: no command is called "nope"`},
		{"help job wach", "did you mean watch?"},
		{"job nope", `drover job: no command is called "nope"`},
		{"job start", "drover job start: JOB is missing"},
		{"job start a b", `unexpected argument "b"`},
		{"job list -o xml", "must be table or json"},
		{"job list --bogus", "unknown flag"},
		{"job create", "--source SOURCE is missing"},
		{"job create --source a --system-disk-size x", "invalid argument"},
		{"job create --source a --data-disk 1=", "is not INDEX=GIB"},
		{"job create --source a --data-disk 1=x", "is not INDEX=GIB"},
		{"job create --source a --schedule tomorrow", "is not a time"},
		{"job create --source a --schedule +x", "is not a time"},
		{"job create --source a --schedule +1h --start", "exclude each other"},
		{"job create --source a --valid-time soon", "--valid-time"},
		{"image export x", "DIR is missing"},
		{"image export x y --format vhd", "must be raw or qcow2"},
		{"events tail --job a --source b", "exclude each other"},
		{"events tail --since yesterday", "must be all, now, how long ago"},
		{"events schema a b", `unexpected argument "b"`},
		{"jobs", "did you mean job?"},
		{"job strt web-1", "did you mean start or stop?"},
		{"token create extra", "unexpected argument"},
	} {
		o := e.drover(t, strings.Fields(test.args)...)
		assert.Equal(t, exitUsage, o.code, "drover %s", test.args)
		assert.Contains(t, o.stderr, test.want, "drover %s", test.args)
		assert.Contains(t, o.stderr, "Usage:", "drover %s", test.args)
		assert.Empty(t, o.stdout, "drover %s", test.args)
	}
	assert.Empty(t, e.calls, "nothing is asked of the endpoint before the usage is right")
	assert.Less(t, strings.Count(e.drover(t, "job", "create").stderr, "\n"), 8, "the mistake stays in sight")

	o := droverWith(t, map[string]string{"DROVER_ENDPOINT": e.URL}, "job", "list")
	assert.Equal(t, exitUsage, o.code)
	assert.Contains(t, o.stderr, "ALIBABA_CLOUD_ACCESS_KEY_ID, ALIBABA_CLOUD_ACCESS_KEY_SECRET")
	assert.Contains(t, o.stderr, "dev.env")
	assert.NotContains(t, o.stderr, "Usage:", "the command was called as it should be")
	o = e.drover(t, "events", "tail")
	assert.Equal(t, exitUsage, o.code)
	assert.Contains(t, o.stderr, "NATS_URL")
	env := e.env()
	delete(env, "DROVER_REGION")
	o = droverWith(t, env, "job", "create", "--source", "web-1")
	assert.Equal(t, exitUsage, o.code)
	assert.Contains(t, o.stderr, "DROVER_REGION")
}

func TestHelpIsOutput(t *testing.T) {
	o := droverWith(t, nil, "--help")
	assert.Equal(t, exitOK, o.code)
	assert.Contains(t, o.stdout, "drover job create --source")
	assert.Empty(t, o.stderr)
	var commands func(prefix ...string)
	commands = func(prefix ...string) {
		for _, cmd := range commandsUnder(prefix) {
			args := append(slices.Clone(prefix), cmd)
			o := droverWith(t, nil, append(slices.Clone(args), "--help")...)
			assert.Equal(t, exitOK, o.code, args)
			assert.Contains(t, o.stdout, "Usage:", args)
			commands(args...)
		}
	}
	commands()
	assert.Equal(t, exitOK, droverWith(t, nil, "--version").code)
	assert.Equal(t, droverWith(t, nil, "job", "start", "--help"), droverWith(t, nil, "help", "job", "start"))
}

// TestExamples: every command shows how it is called, and none of its examples is wrong usage.
func TestExamples(t *testing.T) {
	t.Setenv("PATH", t.TempDir()) // no drover-server
	var look func(cmd *cobra.Command)
	look = func(cmd *cobra.Command) {
		for _, c := range cmd.Commands() {
			look(c)
		}
		calls := droverCalls(cmd.Example)
		assert.True(t, len(calls) > 0 || cmd.HasSubCommands(), "%s has no example", cmd.CommandPath())
		for _, args := range calls {
			var stderr bytes.Buffer
			run(t.Context(), args, func(string) string { return "" }, io.Discard, &stderr)
			assert.NotContains(t, stderr.String(), "Usage:", "%s: drover %q", cmd.CommandPath(), args)
		}
	}
	look(newRootCommand(&cli{}))
}

// droverCalls are the calls of drover in lines of shell, as their arguments.
func droverCalls(script string) (calls [][]string) {
	var words []string
	call := func() {
		if len(words) > 1 && words[0] == "drover" {
			calls = append(calls, words[1:])
		}
		words = nil
	}
	for _, word := range regexp.MustCompile(`'[^']*'|"[^"]*"|\\\n|\n|[^\s'"]+`).FindAllString(script, -1) {
		switch word {
		case "\\\n":
		case "\n", "|", "&&":
			call()
		default:
			words = append(words, strings.Trim(word, `'"`))
		}
	}
	call()
	return calls
}

func commandsUnder(path []string) (names []string) {
	cmd, _, err := newRootCommand(&cli{}).Find(path)
	if err != nil {
		return nil
	}
	for _, c := range cmd.Commands() {
		names = append(names, c.Name())
	}
	return names
}

func TestFailuresShowTheErrorOfTheEndpoint(t *testing.T) {
	e := newEndpoint(t)
	e.jobs = []smc.ReplicationJob{{JobID: "j-0123456789", Name: "web-1"}}
	e.handlers["StartReplicationJob"] = func(url.Values) (smc.Result, error) {
		return nil, smc.Errorf(smc.CodeReplicationJobInvalidStatus, "Start is refused: the job is Finished")
	}
	o := e.drover(t, "job", "start", "web-1")
	assert.Equal(t, exitFailed, o.code)
	assert.Empty(t, o.stdout)
	assert.Contains(t, o.stderr, "ReplicationJob.InvalidStatus: Start is refused: the job is Finished (RequestId REQUEST-2)")
	assert.Equal(t, 1, strings.Count(o.stderr, "\n"), "one line, no usage")

	o = e.drover(t, "job", "show", "nope")
	assert.Equal(t, exitFailed, o.code)
	assert.Contains(t, o.stderr, `InvalidJobId.NotFound: no job has the id or name "nope"`)
	assert.Contains(t, o.stderr, "RequestId REQUEST-3")

	o = e.drover(t, "source", "show", "s-nope")
	assert.Equal(t, exitFailed, o.code)
	assert.Contains(t, o.stderr, "InvalidSourceId.NotFound")

	e.handlers["StopReplicationJob"] = func(url.Values) (smc.Result, error) {
		return nil, smc.Errorf(smc.CodeInvalidJobIDNotFound, "there is no such job")
	}
	o = e.drover(t, "job", "stop", "j-9999999999")
	assert.Equal(t, exitFailed, o.code)
	assert.Contains(t, o.stderr, "StopReplicationJob", "an id is the endpoint's to refuse")
}

func TestInterrupted(t *testing.T) {
	e := newEndpoint(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout, stderr bytes.Buffer
	code := run(ctx, []string{"job", "list"}, func(name string) string { return e.env()[name] }, &stdout, &stderr)
	assert.Equal(t, exitInterrupted, code)
	assert.Equal(t, "drover: interrupted\n", stderr.String())
}

func TestVerboseLogsCallsAndNoSecrets(t *testing.T) {
	e := newEndpoint(t)
	o := e.drover(t, "source", "list", "--verbose", "-o", "json")
	assert.Equal(t, "[]\n", o.stdout, "diagnostics are not output")
	assert.Contains(t, o.stderr, `"action": "DescribeSourceServers"`)
	assert.NotContains(t, o.stderr, "secret")
	assert.NotContains(t, o.stderr, "Signature")

	env := e.env()
	env[smc.EnvSignature] = string(smc.SignatureACS3)
	o = droverWith(t, env, "source", "list", "--verbose")
	assert.Contains(t, o.stderr, `"action": "DescribeSourceServers"`, "whatever the signature")
}

func TestTokenCreate(t *testing.T) {
	e := newEndpoint(t)
	e.handlers["CreateAccessToken"] = func(url.Values) (smc.Result, error) {
		return &smc.CreateAccessTokenResult{AccessTokenID: "at-1", AccessTokenCode: "CODE"}, nil
	}
	o := e.drover(t, "token", "create", "--name", "dc-1", "--count", "3", "--ttl-days", "7")
	require.Equal(t, exitOK, o.code, o.stderr)
	assert.Contains(t, o.stdout, "Activation code: CODE\n")
	assert.Contains(t, o.stdout, "drover-agent --endpoint "+e.URL+" --code CODE --name NAME --state DIR --disk FILE-OR-DEVICE\n")
	assert.Contains(t, o.stdout, "for 3 servers, valid for 7 days")
	call := e.called("CreateAccessToken")[0]
	assert.Equal(t, "dc-1 3 7", call.Get("Name")+" "+call.Get("Count")+" "+call.Get("TimeToLiveInDays"))

	token := parse[map[string]any](t, e.drover(t, "token", "create", "-o", "json"))
	assert.Equal(t, "CODE", token["AccessTokenCode"])
	assert.Equal(t, "at-1", token["AccessTokenId"])
	call = e.called("CreateAccessToken")[1]
	assert.False(t, call.Has("Name") || call.Has("Count") || call.Has("TimeToLiveInDays"), "defaults are the endpoint's")
}

func TestSources(t *testing.T) {
	e := newEndpoint(t)
	o := e.drover(t, "source", "list", "-o", "json")
	assert.Equal(t, "[]\n", o.stdout)
	for i := range 120 {
		e.sources = append(e.sources, smc.SourceServer{
			SourceID: fmt.Sprintf("s-%03d", i), Name: fmt.Sprintf("web-%d", i), State: smc.SourceAvailable, SystemDiskSize: 40,
			DataDisks: smc.List[smc.SourceDataDisk]{{Index: 1, Size: 200, Path: "/dev/vdb"}}, CreationTime: "2026-01-02T03:04:05Z",
		})
	}
	list := parse[[]map[string]any](t, e.drover(t, "source", "list", "-o", "json"))
	require.Len(t, list, 120, "all pages")
	assert.Equal(t, "s-119", list[119]["SourceId"])
	assert.Equal(t, "Available", list[119]["State"])
	o = e.drover(t, "source", "list")
	assert.Equal(t, 121, strings.Count(o.stdout, "\n"))
	assert.Regexp(t, `^SOURCE ID +NAME +STATE `, o.stdout)
	assert.NotContains(t, o.stdout, "03:04:05Z", "times are for people")

	one := parse[map[string]any](t, e.drover(t, "source", "show", "web-7", "-o", "json"))
	assert.Equal(t, "s-007", one["SourceId"], "web-7, not web-70, which the endpoint offers too")
	one = parse[map[string]any](t, e.drover(t, "source", "show", "s-008", "-o", "json"))
	assert.Equal(t, "web-8", one["Name"])
	o = e.drover(t, "source", "show", "web-9")
	assert.Contains(t, o.stdout, "Source id:    s-009\n")
	assert.Contains(t, o.stdout, "Data disk 1:  200 GiB /dev/vdb\n")

	e.sources = append(e.sources, smc.SourceServer{SourceID: "s-200", Name: "web-7"})
	o = e.drover(t, "source", "show", "web-7")
	assert.Equal(t, exitUsage, o.code)
	assert.Contains(t, o.stderr, "s-007, s-200")
	e.sources = append(e.sources, smc.SourceServer{SourceID: "s-201", Name: "s-like-an-id"})
	assert.Contains(t, e.drover(t, "source", "show", "s-like-an-id").stdout, "s-201")
}
