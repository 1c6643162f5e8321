package smc

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// The corpora of these targets are in testdata/fuzz. What they look for: no panic, no more memory than the input
// is worth, and no refusal but an *Error with a code of the contract and a message of bounded length.

// maxMessage is the longest message an error may have, in bytes: maxStringToSign, escaped at most fourfold in a clip
// before, and some words.
const maxMessage = 4096

// knownCode reports whether the contract has the code: in the table of codes, or of the family Missing<Name>.
func knownCode(code string) bool {
	_, ok := codes[code]
	return ok || strings.HasPrefix(code, "Missing")
}

// checkRefusal fails the test when an error is not one an endpoint may answer with.
func checkRefusal(t *testing.T, err error) {
	t.Helper()
	var e *Error
	switch {
	case !errors.As(err, &e):
		t.Fatalf("refused without a code: %v", err)
	case !knownCode(e.Code):
		t.Fatalf("refused with a code that is none: %v", err)
	case e.Message == "" || len(e.Message) > maxMessage:
		t.Fatalf("refused with %d bytes of message: %v", len(e.Message), err)
	case e.HTTPStatus < 400 || e.HTTPStatus >= 500:
		t.Fatalf("refused with status %d: %v", e.HTTPStatus, err)
	}
}

func FuzzReadRequest(f *testing.F) {
	f.Fuzz(func(t *testing.T, method, query, contentType, body string) {
		r := &http.Request{
			Method: method, Host: "center", URL: &url.URL{Path: "/", RawQuery: query}, Header: http.Header{},
			Body: io.NopCloser(strings.NewReader(body)),
		}
		if contentType != "" {
			r.Header.Set("Content-Type", contentType)
		}
		req, err := ReadRequest(httptest.NewRecorder(), r)
		if err != nil {
			checkRefusal(t, err)
			return
		}
		if len(req.Values) > MaxParameters || len(req.Body) > MaxBody {
			t.Fatalf("read %d parameters, %d bytes", len(req.Values), len(req.Body))
		}
		if op, err := req.Operation(); err != nil {
			checkRefusal(t, err)
		} else if op.Name() != req.Values.Get("Action") {
			t.Fatalf("%s became %s", req.Values.Get("Action"), op.Name())
		}
	})
}

// FuzzDecode: a request that is accepted is the same after it was sent on, and has no more parameters than were given.
func FuzzDecode(f *testing.F) {
	f.Fuzz(func(t *testing.T, action, query string) {
		op, err := LookupOperation(action)
		if err != nil {
			checkRefusal(t, err)
			return
		}
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Skip()
		}
		req, err := op.DecodeRequest(values)
		if err != nil {
			checkRefusal(t, err)
			return
		}
		encoded, err := op.EncodeRequest(req)
		if err != nil {
			t.Fatal(err)
		}
		if len(encoded) > len(values) {
			t.Fatalf("%d parameters became %d: %v", len(values), len(encoded), encoded)
		}
		if err := op.ValidateRequest(req, fixedNow); err != nil {
			checkRefusal(t, err)
			return
		}
		again, err := op.DecodeRequest(encoded)
		if err != nil {
			t.Fatalf("accepted once, refused when sent on: %v", err)
		}
		if diff := cmp.Diff(req, again); diff != "" {
			t.Fatalf("(-first +second)\n%s", diff)
		}
	})
}

// FuzzVerifyHMACSHA1: nothing but a right signature passes.
func FuzzVerifyHMACSHA1(f *testing.F) {
	f.Add(http.MethodPost, signedRequest("AK", "the-secret", fixedNow).Values.Encode())
	f.Fuzz(func(t *testing.T, method, query string) {
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Skip()
		}
		req := &Request{Method: method, Values: values, Header: http.Header{}}
		if _, err = testVerifier(&memoryNonces{}, func() time.Time { return fixedNow }).Verify(t.Context(), req); err != nil {
			if !errors.Is(err, errStore) {
				checkRefusal(t, err)
			}
			return
		}
		sent := values.Get("Signature")
		values.Del("Signature")
		// The other implementation takes one value per name, as the vendor's clients do.
		for name, vs := range values {
			if len(vs) > 1 {
				t.Skip(name)
			}
		}
		if want := signAnotherWay(values, method, "the-secret"); sent != want {
			t.Fatalf("passed with the signature %s, want %s", sent, want)
		}
	})
}

// FuzzVerifyACS3: nothing but a right signature over query, body and headers passes. headers are lines "name: value".
func FuzzVerifyACS3(f *testing.F) {
	good := acs3Request(http.MethodPost, "http://center/?JobId=j-1&Name=a%20b", "Force=true", "the-secret", fixedNow, nil)
	var lines []string
	for name, values := range good.Header {
		lines = append(lines, name+": "+values[0])
	}
	slices.Sort(lines)
	f.Add(http.MethodPost, "JobId=j-1&Name=a%20b", strings.Join(lines, "\n"), "Force=true")
	f.Fuzz(func(t *testing.T, method, query, headers, body string) {
		r := &http.Request{
			Method: method, Host: "center", URL: &url.URL{Path: "/", RawQuery: query}, Header: http.Header{},
			Body: io.NopCloser(strings.NewReader(body)),
		}
		for line := range strings.Lines(headers) {
			name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
			r.Header.Add(name, strings.TrimSpace(value))
		}
		req, err := ReadRequest(httptest.NewRecorder(), r)
		if err != nil {
			checkRefusal(t, err)
			return
		}
		if scheme, _ := req.authorization(); scheme == "" {
			t.Skip() // the other signature
		}
		if _, err := testVerifier(&memoryNonces{}, func() time.Time { return fixedNow }).Verify(t.Context(), req); err != nil {
			if !errors.Is(err, errStore) {
				checkRefusal(t, err)
			}
			return
		}
		if req.Header.Get("x-acs-date") == "" || req.Header.Get("x-acs-content-sha256") == "" || req.Header.Get("x-acs-signature-nonce") == "" {
			t.Fatalf("passed without what must be signed: %v", req.Header)
		}
		if got := hashHex(req.Body); !strings.EqualFold(req.Header.Get("x-acs-content-sha256"), got) {
			t.Fatalf("passed with a body of another hash, %s", got)
		}
		// Any change makes the signature wrong.
		req.Query = url.Values{"changed": {query}}
		if _, err := testVerifier(&memoryNonces{}, func() time.Time { return fixedNow }).Verify(t.Context(), req); CodeOf(err) != CodeSignatureDoesNotMatch {
			t.Fatalf("with another query: %v", err)
		}
	})
}

// FuzzParseReplicationParameters: what is accepted is a JSON object, its values within their limits.
func FuzzParseReplicationParameters(f *testing.F) {
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParseReplicationParameters(text)
		if err != nil {
			checkRefusal(t, err)
			return
		}
		if p.BandwidthLimitKbps < 0 || p.BandwidthLimitKbps > maxBandwidthKbps || p.CompressLevel < 0 || p.CompressLevel > 9 {
			t.Fatalf("accepted %+v", p)
		}
		if len(p.Ignored) > utf8.RuneCountInString(text) {
			t.Fatalf("%d characters became %d keys", len(text), len(p.Ignored))
		}
		if text != "" && !json.Valid([]byte(text)) {
			t.Fatal("accepted what is not JSON")
		}
	})
}
