package smc

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/drover/drover/test/property"
)

// TestSignRequestKnownAnswer holds a signature against the worked example the vendor publishes for ACS3.
func TestSignRequestKnownAnswer(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost,
		"https://ecs.cn-shanghai.aliyuncs.com/?RegionId=cn-shanghai&ImageId=win2019_1809_x64_dtc_zh-cn_40G_alibase_20230811.vhd", nil)
	r.Header.Set("x-acs-action", "RunInstances")
	r.Header.Set("x-acs-version", "2014-05-26")
	SignRequest(r, nil, "YourAccessKeyId", "YourAccessKeySecret", time.Date(2023, 10, 26, 10, 22, 32, 0, time.UTC), "3156853299f313e23d1673dc12e1703d")
	const want = "ACS3-HMAC-SHA256 Credential=YourAccessKeyId" +
		",SignedHeaders=host;x-acs-action;x-acs-content-sha256;x-acs-date;x-acs-signature-nonce;x-acs-version" +
		",Signature=06563a9e1b43f5dfe96b81484da74bceab24a1d853912eee15083a6f0f3283c0"
	if got := r.Header.Get("Authorization"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// acs3Request is a request signed with ACS3 and the nonce "n", as a server gets it. change is made before the
// signature.
func acs3Request(method, target, body, secret string, at time.Time, change func(*http.Request)) *http.Request {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Header.Set("x-acs-action", "StartReplicationJob")
	r.Header.Set("x-acs-version", Version)
	if body != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if change != nil {
		change(r)
	}
	SignRequest(r, []byte(body), "AK", secret, at, "n")
	return r
}

func verifyHTTP(t *testing.T, v *Verifier, r *http.Request) (*Request, string, error) {
	t.Helper()
	req, err := ReadRequest(httptest.NewRecorder(), r)
	if err != nil {
		t.Fatal(err)
	}
	key, err := v.Verify(t.Context(), req)
	return req, key, err
}

func TestVerifyACS3(t *testing.T) {
	const target, body = "http://center:7700/?JobId=j-1&Name=a%20b*~%2F%E8%BF%81&Empty=", "DataDisk.1.Index=1&Description=a+b"
	good := func() *http.Request { return acs3Request("POST", target, body, "the-secret", fixedNow, nil) }
	before := func(change func(*http.Request)) *http.Request {
		return acs3Request("POST", target, body, "the-secret", fixedNow, change)
	}
	after := func(change func(*http.Request)) *http.Request {
		r := good()
		change(r)
		return r
	}
	header := func(name string, values ...string) *http.Request {
		return after(func(r *http.Request) { r.Header[http.CanonicalHeaderKey(name)] = values })
	}
	authorization := func(old, replacement string) *http.Request {
		return after(func(r *http.Request) {
			text := r.Header.Get("Authorization")
			if !strings.Contains(text, old) {
				t.Errorf("%q is not in %q", old, text)
			}
			r.Header.Set("Authorization", strings.ReplaceAll(text, old, replacement))
		})
	}
	at := func(moment time.Time) *http.Request {
		return acs3Request("POST", target, body, "the-secret", moment, nil)
	}
	for _, c := range []struct {
		name string
		r    *http.Request
		code string
	}{
		{"query and form", good(), ""},
		{"GET", acs3Request("GET", target, "", "the-secret", fixedNow, nil), ""},
		{"POST without a body", acs3Request("POST", target, "", "the-secret", fixedNow, nil), ""},
		{"a form alone", acs3Request("POST", "http://center:7700", body, "the-secret", fixedNow, nil), ""},
		{"another path", acs3Request("POST", "http://center:7700/a%2Fb/", body, "the-secret", fixedNow, nil), ""},
		{"parameters of signature 1.0 beside it", acs3Request("POST", target+"&AccessKeyId=x&Signature=y", body, "the-secret", fixedNow, nil), ""},
		{"an unknown header of the vendor's", before(func(r *http.Request) { r.Header.Set("x-acs-credentials-provider", "static_ak") }), ""},
		{"an unknown header that is not signed", header("x-request-id", "1", "2"), ""},
		{"the scheme in small letters", authorization("ACS3-HMAC-SHA256", "acs3-hmac-sha256"), ""},
		{"blanks in Authorization", authorization(",", ", "), ""},
		{"blanks around a header", before(func(r *http.Request) { r.Header.Set("x-acs-extra", " v ") }), ""},
		{"15 minutes early", at(fixedNow.Add(ClockWindow)), ""},

		{"another secret", acs3Request("POST", target, body, "another", fixedNow, nil), CodeSignatureDoesNotMatch},
		{"another key", authorization("Credential=AK,", "Credential=AK2,"), CodeInvalidAccessKeyIDNotFound},
		{"more than 15 minutes early", at(fixedNow.Add(ClockWindow + 2*time.Second)), CodeInvalidTimeStampExpired},
		{"more than 15 minutes late", at(fixedNow.Add(-ClockWindow - time.Second)), CodeInvalidTimeStampExpired},
		{"another method", after(func(r *http.Request) { r.Method = "GET" }), CodeSignatureDoesNotMatch},
		{"another host", after(func(r *http.Request) { r.Host = "other" }), CodeSignatureDoesNotMatch},
		{"another path than signed", after(func(r *http.Request) { r.URL.Path = "/x" }), CodeSignatureDoesNotMatch},
		{"a parameter changed", after(func(r *http.Request) { r.URL.RawQuery = strings.Replace(r.URL.RawQuery, "j-1", "j-2", 1) }), CodeSignatureDoesNotMatch},
		{"a parameter added", after(func(r *http.Request) { r.URL.RawQuery += "&Force=true" }), CodeSignatureDoesNotMatch},
		{"a parameter called Signature added", after(func(r *http.Request) { r.URL.RawQuery += "&Signature=x" }), CodeSignatureDoesNotMatch},
		{"a parameter repeated", after(func(r *http.Request) { r.URL.RawQuery += "&JobId=j-1" }), CodeSignatureDoesNotMatch},
		{"the body changed", after(func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader(body + "x")) }), CodeSignatureDoesNotMatch},
		{"the body taken away", after(func(r *http.Request) { r.Body = http.NoBody }), CodeSignatureDoesNotMatch},
		{"the body changed, and its hash", after(func(r *http.Request) {
			r.Body = io.NopCloser(strings.NewReader("x=y"))
			r.Header.Set("x-acs-content-sha256", hashHex([]byte("x=y")))
		}), CodeSignatureDoesNotMatch},
		{"a hash that is none", header("x-acs-content-sha256", "UNSIGNED-PAYLOAD"), CodeSignatureDoesNotMatch},
		{"another action", header("x-acs-action", "StopReplicationJob"), CodeSignatureDoesNotMatch},
		{"another nonce", header("x-acs-signature-nonce", "m"), CodeSignatureDoesNotMatch},
		{"another content type", header("Content-Type", "application/x-www-form-urlencoded; charset=x"), CodeSignatureDoesNotMatch},
		{"a signature that is no hex", authorization("Signature=", "Signature=zz"), CodeSignatureDoesNotMatch},

		{"a header of the vendor's not signed", header("x-acs-extra", "v"), CodeInvalidParameter},
		{"no signed host", authorization("host;", ""), CodeInvalidParameter},
		{"no signed content type", authorization("content-type;", ""), CodeInvalidParameter},
		{"no signed action", authorization("x-acs-action;", ""), CodeInvalidParameter},
		{"a signed header that is not there", authorization("host;", "host;x-other;"), CodeInvalidParameter},
		{"a signed header twice", authorization("host;", "host;host;"), CodeInvalidParameter},
		{"a signed header without a name", authorization("host;", "host;;"), CodeInvalidParameter},
		{"a signed header in capitals", authorization("host;", "Host;"), CodeInvalidParameter},
		{"a nonce that is not UTF-8", header("x-acs-signature-nonce", "n\xff"), CodeInvalidParameter},
		{"a nonce too long", header("x-acs-signature-nonce", strings.Repeat("n", 129)), CodeInvalidParameter},
		{"a date in another form", header("x-acs-date", "Sun, 01 Mar 2026 12:00:00 GMT"), CodeInvalidParameter},
		{"a header twice", before(func(r *http.Request) { r.Header["X-Acs-Extra"] = []string{"v", "w"} }), CodeInvalidParameter},
		{"two dates", header("x-acs-date", "a", "b"), CodeInvalidParameter},
		{"two Authorizations", header("Authorization", "ACS3-HMAC-SHA256 a", "ACS3-HMAC-SHA256 b"), CodeInvalidParameter},
		{"Authorization too long", header("Authorization", "ACS3-HMAC-SHA256 Credential="+strings.Repeat("a", 4096)), CodeInvalidParameter},
		{"Authorization with two keys", authorization("Credential=AK,", "Credential=AK,Credential=AK,"), CodeInvalidParameter},
		{"Authorization with something else", authorization("Credential=AK,", "Credential=AK,Expires=1,"), CodeInvalidParameter},
		{"a scheme alone", header("Authorization", "ACS3-HMAC-SHA256"), CodeInvalidParameter},
		{"no key", authorization("Credential=AK,", ""), CodeMissingParameter},
		{"an empty key", authorization("Credential=AK,", "Credential=,"), CodeMissingParameter},
		{"no signature", header("Authorization", "ACS3-HMAC-SHA256 Credential=AK,SignedHeaders=host"), CodeMissingParameter},
		{"an empty date", header("x-acs-date", ""), CodeMissingParameter},
		{"an empty nonce", header("x-acs-signature-nonce", ""), CodeMissingParameter},
		{"an empty hash", header("x-acs-content-sha256", ""), CodeMissingParameter},

		{"temporary credentials", before(func(r *http.Request) { r.Header.Set("x-acs-security-token", "sts") }), CodeUnsupportedFeature},
		{"temporary credentials in a parameter", acs3Request("POST", target+"&SecurityToken=sts", body, "the-secret", fixedNow, nil), CodeUnsupportedFeature},
		{"a bearer token", before(func(r *http.Request) { r.Header.Set("x-acs-bearer-token", "t") }), CodeUnsupportedFeature},
		{"another scheme", header("Authorization", "Bearer x"), CodeUnsupportedFeature},
		{"a signature of the vendor's that is not served", authorization("ACS3-HMAC-SHA256", "ACS3-HMAC-SM3"), CodeUnsupportedFeature},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, key, err := verifyHTTP(t, testVerifier(&memoryNonces{}, func() time.Time { return fixedNow }), c.r)
			if CodeOf(err) != c.code || (err == nil && key != "AK") || (err != nil && c.code == "") {
				t.Errorf("got %q, %v; want %q", key, err, c.code)
			}
		})
	}
}

func TestVerifyACS3RefusesReplay(t *testing.T) {
	nonces := &memoryNonces{}
	v := testVerifier(nonces, func() time.Time { return fixedNow })
	send := func(secret string) error {
		_, _, err := verifyHTTP(t, v, acs3Request("POST", "http://center/?JobId=j-1", "", secret, fixedNow, nil))
		return err
	}
	if err := send("guessed"); CodeOf(err) != CodeSignatureDoesNotMatch {
		t.Fatal(err)
	}
	if err := send("the-secret"); err != nil {
		t.Fatalf("the wrong signature used up the nonce: %v", err)
	}
	if err := send("the-secret"); CodeOf(err) != CodeSignatureNonceUsed {
		t.Errorf("replayed: %v", err)
	}
	// One key has one set of nonces, whichever the signature.
	if _, err := v.Verify(t.Context(), signedRequest("AK", "the-secret", fixedNow)); CodeOf(err) != CodeSignatureNonceUsed {
		t.Errorf("replayed with the other signature: %v", err)
	}
	nonces.err = errStore
	if err := send("the-secret"); !errors.Is(err, errStore) {
		t.Errorf("nonces away: %v", err)
	}
}

// TestSignRequestProperty: what is signed passes, whatever its parameters, and does not once a parameter is another.
func TestSignRequestProperty(t *testing.T) {
	texts := rapid.MapOfN(rapid.String(), rapid.String(), 0, 8)
	property.Check(t, func(rt *rapid.T) {
		query, form := url.Values{}, url.Values{}
		for name, value := range texts.Draw(rt, "query") {
			query.Set(name, value)
		}
		for name, value := range texts.Draw(rt, "form") {
			form.Set(name, value)
		}
		delete(query, "SecurityToken")
		delete(form, "SecurityToken")
		verify := func(sent url.Values) error {
			r := acs3Request("POST", "http://center/?"+query.Encode(), form.Encode(), "the-secret", fixedNow, nil)
			r.URL.RawQuery = sent.Encode()
			_, _, err := verifyHTTP(t, testVerifier(&memoryNonces{}, func() time.Time { return fixedNow }), r)
			return err
		}
		if err := verify(query); err != nil {
			rt.Fatal(err)
		}
		query.Set("x", query.Get("x")+"1")
		changed := url.Values{}
		for name, values := range query {
			changed[name] = values
		}
		changed.Set("x", query.Get("x")+"2")
		if err := verify(changed); CodeOf(err) != CodeSignatureDoesNotMatch {
			rt.Fatalf("got %v", err)
		}
	})
}

func TestRequestOperationOfACS3(t *testing.T) {
	const acs3 = "ACS3-HMAC-SHA256 Credential=AK"
	for _, c := range []struct {
		name          string
		authorization string
		action        string // of the headers; version is right when there is an action
		values        url.Values
		want, code    string
	}{
		{"headers", acs3, "StopReplicationJob", nil, "StopReplicationJob", ""},
		{"headers and the same parameters", acs3, "StopReplicationJob", url.Values{"Action": {"StopReplicationJob"}, "Version": {Version}}, "StopReplicationJob", ""},
		{"another action in the parameters", acs3, "StopReplicationJob", url.Values{"Action": {"DeleteReplicationJob"}}, "", CodeInvalidParameter},
		{"another version in the parameters", acs3, "StopReplicationJob", url.Values{"Version": {"2014-05-26"}}, "", CodeInvalidParameter},
		{"parameters alone", acs3, "", url.Values{"Action": {"StopReplicationJob"}, "Version": {Version}}, "", "MissingVersion"},
		{"an action there is not", acs3, "MakeCoffee", nil, "", CodeInvalidActionNotFound},
		{"headers of a client of 1.0", "", "stopReplicationJob", url.Values{"Action": {"StopReplicationJob"}, "Version": {Version}}, "StopReplicationJob", ""},
		{"headers of a client of 1.0 alone", "", "StopReplicationJob", nil, "", "MissingVersion"},
	} {
		req := &Request{Values: c.values, Header: http.Header{}}
		if c.authorization != "" {
			req.Header.Set("Authorization", c.authorization)
		}
		if c.action != "" {
			req.Header.Set("x-acs-action", c.action)
			req.Header.Set("x-acs-version", Version)
		}
		op, err := req.Operation()
		if CodeOf(err) != c.code || (err == nil && op.Name() != c.want) {
			t.Errorf("%s: got %v, %v; want %s %s", c.name, op, err, c.want, c.code)
		}
	}
	missing := &Request{Header: http.Header{"Authorization": {acs3}, "X-Acs-Version": {Version}}}
	if _, err := missing.Operation(); CodeOf(err) != "MissingAction" || !strings.Contains(err.Error(), "x-acs-action") {
		t.Errorf("no action: %v", err)
	}
}
