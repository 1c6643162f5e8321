package smc

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

func TestReadRequest(t *testing.T) {
	form := func(method, target, body string) *http.Request {
		r := httptest.NewRequest(method, target, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
		return r
	}
	got, err := ReadRequest(httptest.NewRecorder(), form("POST", "/?Action=A&Format=XML", "JobId=j-1&Name=%E8%BF%81"))
	if err != nil || got.Values.Get("Action") != "A" || got.Values.Get("JobId") != "j-1" || got.Values.Get("Name") != "迁" {
		t.Errorf("query and form: %+v, %v", got, err)
	}
	got, err = ReadRequest(httptest.NewRecorder(), form("POST", "/?A=1", "A=2"))
	if err != nil || len(got.Values["A"]) != 2 {
		t.Errorf("in both: %+v, %v; want it to count as given twice", got, err)
	}

	json := form("POST", "/", "{}")
	json.Header.Set("Content-Type", "application/json")
	for name, c := range map[string]struct {
		r    *http.Request
		code string
	}{
		"another method":    {form("PUT", "/", ""), CodeUnsupportedHTTPMethod},
		"bad escapes":       {&http.Request{Method: http.MethodGet, URL: &url.URL{RawQuery: "a=%zz"}}, CodeInvalidParameter},
		"bad form":          {form("POST", "/", "a=%zz"), CodeInvalidParameter},
		"a JSON body":       {json, CodeInvalidParameter},
		"a body too long":   {form("POST", "/", "a="+strings.Repeat("x", MaxBody)), CodeInvalidParameter},
		"a query too long":  {&http.Request{Method: http.MethodGet, URL: &url.URL{RawQuery: strings.Repeat("x", MaxBody+1)}}, CodeInvalidParameter},
		"10,000 parameters": {form("POST", "/", manyParameters(10_000)), CodeInvalidParameter},
	} {
		if _, err := ReadRequest(httptest.NewRecorder(), c.r); CodeOf(err) != c.code {
			t.Errorf("%s: got %v, want %s", name, err, c.code)
		}
	}
}

// TestTooManyParameters: however many there are and wherever they are, what is said is what is allowed.
func TestTooManyParameters(t *testing.T) {
	for _, n := range []int{MaxParameters + 1, 9_999, 10_001, 20_000} { // url.ParseQuery has a limit of its own, 10,000
		many := manyParameters(n)
		body := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(many))
		body.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		for where, r := range map[string]*http.Request{"query": httptest.NewRequest(http.MethodGet, "/?"+many, nil), "body": body} {
			want := fmt.Sprintf("The %s has %d parameters; at most %d are allowed", where, n, MaxParameters)
			if _, err := ReadRequest(httptest.NewRecorder(), r); CodeOf(err) != CodeInvalidParameter || !strings.Contains(err.Error(), want) {
				t.Errorf("%d in the %s: got %v, want %q", n, where, err, want)
			}
		}
	}
	both := httptest.NewRequest(http.MethodPost, "/?x"+strings.ReplaceAll(manyParameters(MaxParameters/2), "&", "&x"), strings.NewReader(manyParameters(MaxParameters/2+1)))
	both.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if _, err := ReadRequest(httptest.NewRecorder(), both); CodeOf(err) != CodeInvalidParameter {
		t.Errorf("too many together: got %v", err)
	}
}

func manyParameters(n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString("p")
		b.WriteString(strings.Repeat("i", i%50))
		b.WriteString(string(rune('a' + i/50%26)))
		b.WriteString(string(rune('a' + i/50/26)))
		b.WriteString("=1")
	}
	return b.String()
}

func TestRequestOperation(t *testing.T) {
	op, err := (&Request{Values: url.Values{"Action": {"StopReplicationJob"}, "Version": {Version}}}).Operation()
	if err != nil || op.Name() != "StopReplicationJob" {
		t.Errorf("got %v, %v", op, err)
	}
	for code, values := range map[string]url.Values{
		"MissingVersion":          {"Action": {"StopReplicationJob"}},
		CodeInvalidVersion:        {"Action": {"StopReplicationJob"}, "Version": {"2014-05-26"}},
		"MissingAction":           {"Version": {Version}},
		CodeInvalidActionNotFound: {"Action": {"x"}, "Version": {Version}},
		CodeInvalidParameter:      {"Action": {"x", "y"}, "Version": {Version}},
	} {
		if _, err := (&Request{Values: values}).Operation(); CodeOf(err) != code {
			t.Errorf("%v: got %v, want %s", values, err, code)
		}
	}
}
