package smc

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// endpoint is an SMC endpoint that verifies what it gets and answers from a script.
type endpoint struct {
	t        *testing.T
	verifier *Verifier
	mu       sync.Mutex
	requests []url.Values
	// answer is called with the number of the request, from 1, after its signature was found right.
	answer func(w http.ResponseWriter, n int, values url.Values)
}

func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	req, err := ReadRequest(w, r)
	if err == nil {
		_, err = e.verifier.Verify(r.Context(), req)
	}
	if err != nil {
		e.t.Errorf("the client's request is refused: %v", err)
		_ = WriteError(w, FormatJSON, "R", r.Host, err)
		return
	}
	for parameter, header := range map[string]string{"Action": headerAction, "Version": headerVersion, "SignatureNonce": headerNonce} {
		if value := req.Header.Get(header); value != "" { // one place to look whatever the signature
			req.Values.Set(parameter, value)
		}
	}
	e.mu.Lock()
	e.requests = append(e.requests, req.Values)
	n := len(e.requests)
	e.mu.Unlock()
	e.answer(w, n, req.Values)
}

func (e *endpoint) seen() []url.Values {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.requests
}

func startEndpoint(t *testing.T, answer func(w http.ResponseWriter, n int, values url.Values)) (*endpoint, *Client) {
	t.Helper()
	return startEndpointFor(t, SignatureHMACSHA1, answer)
}

func startEndpointFor(t *testing.T, signature Signature, answer func(w http.ResponseWriter, n int, values url.Values)) (*endpoint, *Client) {
	t.Helper()
	e := &endpoint{t: t, verifier: testVerifier(&memoryNonces{}, nil), answer: answer}
	server := httptest.NewServer(e)
	t.Cleanup(server.Close)
	c := testClient(t, server.URL)
	c.cfg.Signature = signature
	return e, c
}

func testClient(t *testing.T, address string) *Client {
	t.Helper()
	c, err := NewClient(Config{
		Endpoint: address, AccessKeyID: "AK", AccessKeySecret: "the-secret", RegionID: "local",
		Backoff: func(int) time.Duration { return 0 },
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func fail(w http.ResponseWriter, code string) {
	_ = WriteError(w, FormatJSON, "R-ERR", "center", Errorf(code, ""))
}

func TestClientCall(t *testing.T) {
	e, c := startEndpoint(t, func(w http.ResponseWriter, _ int, values url.Values) {
		_ = WriteResult(w, FormatJSON, values.Get("Action"), "R-1", &DescribeReplicationJobsResult{
			Page:            Page{TotalCount: 1, PageNumber: 1, PageSize: 10},
			ReplicationJobs: List[ReplicationJob]{{JobID: "j-1", Status: StatusRunning, BusinessStatus: BusinessSyncing, Progress: 12.5}},
		})
	})
	got, err := c.DescribeReplicationJobs(t.Context(), &DescribeReplicationJobsRequest{JobID: []string{"j-1", "j-2"}})
	if err != nil {
		t.Fatal(err)
	}
	job := got.ReplicationJobs[0]
	if got.RequestID != "R-1" || got.TotalCount != 1 || job.JobID != "j-1" || job.Status != StatusRunning || job.Progress != 12.5 {
		t.Errorf("got %+v", got)
	}
	sent := e.seen()[0]
	if sent.Get("Action") != "DescribeReplicationJobs" || sent.Get("JobId.2") != "j-2" || sent.Get("Version") != Version || sent.Has("RegionId") {
		t.Errorf("sent %v", sent)
	}
}

func TestClientSendsRegionAndToken(t *testing.T) {
	e, c := startEndpoint(t, func(w http.ResponseWriter, n int, values url.Values) {
		if n == 1 {
			fail(w, CodeInternalError)
			return
		}
		_ = WriteResult(w, FormatJSON, values.Get("Action"), "R", &CreateReplicationJobResult{JobID: "j-1"})
	})
	req := &CreateReplicationJobRequest{SourceID: "s-1"}
	if got, err := c.CreateReplicationJob(t.Context(), req); err != nil || got.JobID != "j-1" {
		t.Fatalf("got %+v, %v", got, err)
	}
	first, second := e.seen()[0], e.seen()[1]
	if first.Get("RegionId") != "local" {
		t.Errorf("region %q", first.Get("RegionId"))
	}
	if token := first.Get("ClientToken"); token == "" || token != second.Get("ClientToken") {
		t.Errorf("client tokens %q and %q, want one", token, second.Get("ClientToken"))
	}
	if first.Get("SignatureNonce") == second.Get("SignatureNonce") {
		t.Error("a nonce was used twice")
	}
	if req.ClientToken != nil || req.RegionID != "" {
		t.Error("the caller's request was changed")
	}
	req.ClientToken, req.RegionID = new("mine"), "other"
	if _, err := c.CreateReplicationJob(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if third := e.seen()[2]; third.Get("ClientToken") != "mine" || third.Get("RegionId") != "other" {
		t.Errorf("sent %v", third)
	}
}

func TestClientRetries(t *testing.T) {
	start := func(c *Client, ctx context.Context) error {
		_, err := c.StartReplicationJob(ctx, &StartReplicationJobRequest{JobID: "j-1"})
		return err
	}
	token := func(c *Client, ctx context.Context) error {
		_, err := c.CreateAccessToken(ctx, &CreateAccessTokenRequest{})
		return err
	}
	raw := func(action string, params url.Values) func(*Client, context.Context) error {
		return func(c *Client, ctx context.Context) error { return c.Call(ctx, action, params, nil) }
	}
	gateway := func(w http.ResponseWriter) { http.Error(w, "<html>bad gateway</html>", http.StatusBadGateway) }
	hangUp := func(w http.ResponseWriter) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			_ = conn.Close()
		}
	}
	code := func(code string) func(http.ResponseWriter) { return func(w http.ResponseWriter) { fail(w, code) } }
	for _, c := range []struct {
		name  string
		call  func(*Client, context.Context) error
		first func(http.ResponseWriter) // the answer to all requests but the second
		sent  int
	}{
		{"throttled", start, code(CodeThrottlingUser), 2},
		{"internal error", start, code(CodeInternalError), 2},
		{"a gateway's error", start, gateway, 2},
		{"connection lost", start, hangUp, 2},
		{"refused", start, code(CodeReplicationJobInvalidStatus), 1},
		{"forbidden", start, code(CodeForbiddenUnauthorized), 1},
		{"not to be repeated, throttled", token, code(CodeThrottlingUser), 2},
		{"not to be repeated, internal error", token, code(CodeInternalError), 1},
		{"not to be repeated, connection lost", token, hangUp, 1},
		{"raw, create without token", raw("CreateReplicationJob", url.Values{"SourceId": {"s"}}), code(CodeInternalError), 1},
		{"raw, create with token", raw("CreateReplicationJob", url.Values{"ClientToken": {"t"}}), code(CodeInternalError), 2},
		{"raw, unknown", raw("DoSomething", nil), code(CodeInternalError), 1},
		{"raw, unknown that reads", raw("DescribeSomething", nil), code(CodeInternalError), 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, client := startEndpoint(t, func(w http.ResponseWriter, n int, values url.Values) {
				if n == 2 {
					_ = WriteResult(w, FormatJSON, values.Get("Action"), "R", &StartReplicationJobResult{})
					return
				}
				c.first(w)
			})
			err := c.call(client, t.Context())
			if sent := len(e.seen()); sent != c.sent || (err == nil) != (c.sent == 2) {
				t.Errorf("%d requests, %v; want %d", sent, err, c.sent)
			}
		})
	}
}

func TestClientGivesUp(t *testing.T) {
	e, c := startEndpoint(t, func(w http.ResponseWriter, _ int, _ url.Values) { fail(w, CodeThrottlingUser) })
	_, err := c.StopReplicationJob(t.Context(), &StopReplicationJobRequest{JobID: "j-1"})
	var call *CallError
	if !errors.As(err, &call) {
		t.Fatalf("got %v", err)
	}
	want := &CallError{
		Action: "StopReplicationJob", Endpoint: c.Endpoint(), Attempts: 5,
		Err: &Error{Code: CodeThrottlingUser, HTTPStatus: 400, Message: codes[CodeThrottlingUser].message, RequestID: "R-ERR", HostID: "center"},
	}
	if diff := cmp.Diff(want, call); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	text := "StopReplicationJob at " + c.Endpoint() + " (5 attempts): Throttling.User: "
	if !strings.HasPrefix(err.Error(), text) || len(e.seen()) != 5 {
		t.Errorf("%d requests, %q", len(e.seen()), err)
	}
}

func TestClientStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	e, c := startEndpoint(t, func(w http.ResponseWriter, _ int, _ url.Values) { fail(w, CodeInternalError) })
	c.cfg.Backoff = func(int) time.Duration {
		cancel()
		return time.Hour
	}
	_, err := c.StartReplicationJob(ctx, &StartReplicationJobRequest{JobID: "j"})
	if !errors.Is(err, context.Canceled) || CodeOf(err) != CodeInternalError || len(e.seen()) != 1 {
		t.Errorf("%d requests, %v", len(e.seen()), err)
	}
}

func TestClientBoundsAnAttempt(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // so that the server sees the client go
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	defer server.Close()
	defer close(release)
	c := testClient(t, server.URL)
	c.cfg.AttemptTimeout, c.cfg.MaxAttempts = 20*time.Millisecond, 2
	_, err := c.StartReplicationJob(t.Context(), &StartReplicationJobRequest{JobID: "j"})
	var call *CallError
	if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &call) || call.Attempts != 2 {
		t.Errorf("got %v", err)
	}
}

func TestClientWithoutEndpoint(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := "http://" + listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = testClient(t, address).DescribeSourceServers(t.Context(), &DescribeSourceServersRequest{})
	if err == nil || CodeOf(err) != "" || ClassOf(err) != Retryable || !strings.Contains(err.Error(), "DescribeSourceServers at "+address) {
		t.Errorf("got %v", err)
	}
	if strings.Contains(err.Error(), "the-secret") {
		t.Errorf("the error shows the secret: %v", err)
	}
}

func TestClientAtAnotherServer(t *testing.T) {
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		code    string
	}{
		"a page":     {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>hello</html>") }, CodeInvalidAnswer},
		"not found":  {http.NotFound, CodeInvalidAnswer},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/login", http.StatusFound) }, CodeInvalidAnswer},
		"a long answer": {func(w http.ResponseWriter, _ *http.Request) {
			chunk := strings.Repeat(" ", 1<<20)
			for range maxAnswer>>20 + 1 {
				if _, err := io.WriteString(w, chunk); err != nil {
					return
				}
			}
		}, CodeInvalidAnswer},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(c.handler)
			defer server.Close()
			_, err := testClient(t, server.URL).StartReplicationJob(t.Context(), &StartReplicationJobRequest{JobID: "j"})
			if CodeOf(err) != c.code {
				t.Errorf("got %v, want %s", err, c.code)
			}
		})
	}
}

func TestNewClient(t *testing.T) {
	for address, want := range map[string]string{
		"http://127.0.0.1:7700":   "http://127.0.0.1:7700/",
		"https://smc.example/a/":  "https://smc.example/a/",
		"smc.aliyuncs.com":        "https://smc.aliyuncs.com/",
		"localhost:7700":          "https://localhost:7700/",
		"":                        "",
		"http://smc.aliyuncs.com": "",
		"ftp://x":                 "",
		"http://":                 "",
		"http://user:pw@host":     "",
		"http://host/?Action=x":   "",
		"http://bad host":         "",
	} {
		c, err := NewClient(Config{Endpoint: address, AccessKeyID: "a", AccessKeySecret: "b"})
		switch {
		case want == "" && err == nil:
			t.Errorf("%q: accepted", address)
		case want != "" && (err != nil || c.Endpoint() != want):
			t.Errorf("%q: %v, want %s", address, err, want)
		}
	}
	if _, err := NewClient(Config{Endpoint: "http://x", AccessKeyID: "a"}); err == nil {
		t.Error("accepted without a secret")
	}
	if _, err := NewClient(Config{Endpoint: "http://x", AccessKeyID: "a", AccessKeySecret: "b", Signature: "md5"}); err == nil {
		t.Error("accepted with an unknown signature")
	}
}

// TestSecurityToken: the client sends the token of a temporary key, signed; a self-hosted center says that it takes none.
func TestSecurityToken(t *testing.T) {
	for _, signature := range []Signature{SignatureHMACSHA1, SignatureACS3} {
		t.Run(string(signature), func(t *testing.T) {
			var sent *Request
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				req, err := ReadRequest(w, r)
				if err == nil {
					sent = req
					_, err = testVerifier(&memoryNonces{}, nil).Verify(r.Context(), req)
				}
				_ = WriteError(w, FormatJSON, "R", "h", err)
			}))
			t.Cleanup(server.Close)
			c := testClient(t, server.URL)
			c.cfg.Signature, c.cfg.SecurityToken = signature, "token"
			_, err := c.DescribeReplicationJobs(t.Context(), nil)
			if CodeOf(err) != CodeUnsupportedFeature || !strings.Contains(err.Error(), "temporary (STS) credentials are not served") {
				t.Errorf("got %v", err)
			}
			if signature == SignatureHMACSHA1 {
				if sent.Values.Get("SecurityToken") != "token" || Sign(sent.Values, http.MethodPost, "the-secret") != sent.Values.Get("Signature") {
					t.Errorf("sent %v", sent.Values)
				}
				return
			}
			if sent.Header.Get("x-acs-security-token") != "token" || !strings.Contains(sent.Header.Get("Authorization"), ";x-acs-security-token;") {
				t.Errorf("sent %v", sent.Header)
			}
		})
	}
}

func TestAccessKeyID(t *testing.T) {
	acs3 := func(parameters string) http.Header {
		return http.Header{"Authorization": {"ACS3-HMAC-SHA256 " + parameters}}
	}
	for name, c := range map[string]struct {
		values url.Values
		header http.Header
		want   string
	}{
		"none":                       {},
		"signature 1.0":              {values: url.Values{"AccessKeyId": {"AK"}}, want: "AK"},
		"ACS3":                       {header: acs3("Credential=AK,SignedHeaders=host,Signature=0"), want: "AK"},
		"ACS3 is what counts":        {values: url.Values{"AccessKeyId": {"other"}}, header: acs3("Credential=AK,SignedHeaders=host,Signature=0"), want: "AK"},
		"ACS3 that is not":           {values: url.Values{"AccessKeyId": {"other"}}, header: acs3("Credential=AK")},
		"another scheme":             {values: url.Values{"AccessKeyId": {"other"}}, header: http.Header{"Authorization": {"Bearer x"}}},
		"longer than any":            {values: url.Values{"AccessKeyId": {strings.Repeat("A", 129)}}},
		"with control characters":    {values: url.Values{"AccessKeyId": {"A\x00K"}}},
		"that is not UTF-8":          {values: url.Values{"AccessKeyId": {"A\xffK"}}},
		"as long as one can be":      {values: url.Values{"AccessKeyId": {strings.Repeat("A", 128)}}, want: strings.Repeat("A", 128)},
		"with characters of Chinese": {values: url.Values{"AccessKeyId": {"钥"}}, want: "钥"},
	} {
		if c.header == nil {
			c.header = http.Header{}
		}
		if got := (&Request{Values: c.values, Header: c.header}).AccessKeyID(); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

func TestDefaultBackoff(t *testing.T) {
	for retry, most := range map[int]time.Duration{
		1: 200 * time.Millisecond, 2: 400 * time.Millisecond, 5: 3200 * time.Millisecond, 6: 5 * time.Second, 1000: 5 * time.Second,
	} {
		if got := DefaultBackoff(retry); got < most/2 || got > most {
			t.Errorf("retry %d: %v, want %v to %v", retry, got, most/2, most)
		}
	}
}

// TestClientHasEveryOperation calls each operation through its method and reads an answer of its result type.
func TestClientHasEveryOperation(t *testing.T) {
	for _, signature := range []Signature{SignatureHMACSHA1, SignatureACS3} {
		t.Run(string(signature), func(t *testing.T) { testEveryOperation(t, signature) })
	}
}

func testEveryOperation(t *testing.T, signature Signature) {
	t.Helper()
	e, c := startEndpointFor(t, signature, func(w http.ResponseWriter, _ int, values url.Values) {
		op, err := LookupOperation(values.Get("Action"))
		if err != nil {
			_ = WriteError(w, FormatJSON, "R", "h", err)
			return
		}
		_ = WriteResult(w, FormatJSON, op.Name(), "R-1", op.NewResult())
	})
	for i, op := range Operations() {
		method := reflect.ValueOf(c).MethodByName(op.Name())
		if !method.IsValid() {
			t.Errorf("the client has no method %s", op.Name())
			continue
		}
		out := method.Call([]reflect.Value{reflect.ValueOf(t.Context()), reflect.ValueOf(op.NewRequest())})
		if err, ok := out[1].Interface().(error); ok {
			t.Fatalf("%s: %v", op.Name(), err)
		}
		if got := out[0].Elem().FieldByName("RequestID").String(); got != "R-1" {
			t.Errorf("%s: request id %q", op.Name(), got)
		}
		if got := e.seen()[i].Get("Action"); got != op.Name() {
			t.Errorf("the method %s calls %s", op.Name(), got)
		}
	}
}
