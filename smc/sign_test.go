package smc

import (
	"context"
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // the signature the API prescribes
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/drover/drover/test/property"
)

// TestSignKnownAnswers holds signatures against answers computed elsewhere: the first is the example the vendor
// publishes for this signature, the second was computed with Node.js.
func TestSignKnownAnswers(t *testing.T) {
	for _, c := range []struct{ method, query, secret, want string }{
		{
			"GET",
			"Timestamp=2016-02-23T12:46:24Z&Format=XML&AccessKeyId=testid&Action=DescribeRegions&SignatureMethod=HMAC-SHA1" +
				"&SignatureNonce=3ee8c1b8-83d3-44af-a94f-4e0ad82fd6cf&Version=2014-05-26&SignatureVersion=1.0&Signature=left-out",
			"testsecret", "OLeaidS1JvxuMvnyHOwuJ+uX5qY=",
		},
		{
			"POST", "Action=CreateReplicationJob&Name=%E8%BF%81%E7%A7%BB*~+a%2Fb&ValidTime=&DataDisk.1.Part.2.SizeBytes=1",
			"secret&", "XCd6+DACLDitIIjbMgnvz+BU3RI=",
		},
	} {
		values, err := url.ParseQuery(c.query)
		if err != nil {
			t.Fatal(err)
		}
		if got := Sign(values, c.method, c.secret); got != c.want {
			t.Errorf("%s %s: got %s, want %s; string to sign %s", c.method, c.query, got, c.want, StringToSign(values, c.method))
		}
	}
}

// signAnotherWay computes signature 1.0 with the standard library's encoding, corrected as the vendor's SDKs do.
func signAnotherWay(values url.Values, method, secret string) string {
	encode := func(s string) string {
		return strings.NewReplacer("+", "%20", "*", "%2A", "%7E", "~").Replace(url.QueryEscape(s))
	}
	var pairs []string
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		pairs = append(pairs, encode(name)+"="+encode(values.Get(name)))
	}
	mac := hmac.New(sha1.New, []byte(secret+"&"))
	mac.Write([]byte(method + "&" + encode("/") + "&" + encode(strings.Join(pairs, "&"))))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

func TestSignProperty(t *testing.T) {
	property.Check(t, func(t *rapid.T) {
		values := url.Values{}
		for name, value := range rapid.MapOf(rapid.StringN(1, 12, -1), rapid.String()).Draw(t, "values") {
			if name != "Signature" {
				values.Set(name, value)
			}
		}
		secret := rapid.String().Draw(t, "secret")
		if got, want := Sign(values, "POST", secret), signAnotherWay(values, "POST", secret); got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
	})
}

// memoryNonces is Nonces for one process.
type memoryNonces struct {
	mu   sync.Mutex
	used map[string]time.Time
	err  error
}

func (n *memoryNonces) Use(_ context.Context, key, nonce string, until time.Time) (bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err != nil {
		return false, n.err
	}
	id := key + "/" + nonce
	if _, ok := n.used[id]; ok {
		return false, nil
	}
	if n.used == nil {
		n.used = map[string]time.Time{}
	}
	n.used[id] = until
	return true, nil
}

var errStore = errors.New("the store is away")

func testVerifier(nonces Nonces, now func() time.Time) *Verifier {
	return &Verifier{
		Secret: func(_ context.Context, id string) (string, bool, error) {
			switch {
			case id == "AK":
				return "the-secret", true, nil
			case strings.HasPrefix(id, "broken"):
				return "", false, errStore
			}
			return "", false, nil
		},
		Nonces: nonces,
		Now:    now,
	}
}

// signedRequest is a request with the nonce "n".
func signedRequest(key, secret string, at time.Time) *Request {
	values := url.Values{"Action": {"StartReplicationJob"}, "Version": {Version}, "JobId": {"j-1"}}
	SignValues(values, http.MethodPost, key, secret, at, "n")
	return &Request{Method: http.MethodPost, Values: values, Header: http.Header{}}
}

func TestVerify(t *testing.T) {
	good := func() *Request { return signedRequest("AK", "the-secret", fixedNow) }
	with := func(name string, values ...string) *Request {
		r := good()
		r.Values[name] = values
		if len(values) == 0 {
			delete(r.Values, name)
		}
		return r
	}
	header := func(name, value string) *Request {
		r := good()
		r.Header.Set(name, value)
		return r
	}
	get := good()
	get.Method = http.MethodGet
	for _, c := range []struct {
		name string
		r    *Request
		code string
	}{
		{"good", good(), ""},
		{"15 minutes early", signedRequest("AK", "the-secret", fixedNow.Add(ClockWindow)), ""},
		{"15 minutes late", signedRequest("AK", "the-secret", fixedNow.Truncate(time.Second).Add(time.Second-ClockWindow)), ""},
		{"more than 15 minutes early", signedRequest("AK", "the-secret", fixedNow.Add(ClockWindow+2*time.Second)), CodeInvalidTimeStampExpired},
		{"more than 15 minutes late", signedRequest("AK", "the-secret", fixedNow.Add(-ClockWindow-time.Second)), CodeInvalidTimeStampExpired},
		{"another secret", signedRequest("AK", "another", fixedNow), CodeSignatureDoesNotMatch},
		{"another key", signedRequest("AK2", "the-secret", fixedNow), CodeInvalidAccessKeyIDNotFound},
		{"another method", get, CodeSignatureDoesNotMatch},
		{"a parameter changed", with("JobId", "j-2"), CodeSignatureDoesNotMatch},
		{"a parameter added", with("Force", "true"), CodeSignatureDoesNotMatch},
		{"a parameter twice", with("JobId", "j-1", "j-2"), CodeSignatureDoesNotMatch},
		{"no signature", with("Signature"), "MissingSignature"},
		{"an empty signature", with("Signature", ""), "MissingSignature"},
		{"two signatures", with("Signature", "a", "b"), CodeInvalidParameter},
		{"a signature that is no base64", with("Signature", "\x00"), CodeSignatureDoesNotMatch},
		{"no key", with("AccessKeyId"), "MissingAccessKeyId"},
		{"a key with a NUL", with("AccessKeyId", "broken\x00"), CodeInvalidAccessKeyIDNotFound}, // the store is not asked: PostgreSQL would fail
		{"a key that is not UTF-8", with("AccessKeyId", "broken\xff"), CodeInvalidAccessKeyIDNotFound},
		{"a key too long", with("AccessKeyId", "broken"+strings.Repeat("K", 128)), CodeInvalidAccessKeyIDNotFound},
		{"no nonce", with("SignatureNonce"), "MissingSignatureNonce"},
		{"a nonce with a NUL", with("SignatureNonce", "n\x00"), CodeInvalidParameter},
		{"a nonce that is not UTF-8", with("SignatureNonce", "n\xff"), CodeInvalidParameter},
		{"a nonce too long", with("SignatureNonce", strings.Repeat("n", 129)), CodeInvalidParameter},
		{"no timestamp", with("Timestamp"), "MissingTimestamp"},
		{"a timestamp in another form", with("Timestamp", "1772366400"), CodeInvalidParameter},
		{"no method", with("SignatureMethod"), "MissingSignatureMethod"},
		{"another signature method", with("SignatureMethod", "HMAC-SHA256"), CodeInvalidParameter},
		{"another signature version", with("SignatureVersion", "2.0"), CodeInvalidParameter},
		{"a session token", with("SecurityToken", "sts"), CodeUnsupportedFeature},
		{"a scheme not served", header("Authorization", "ACS3-RSA-SHA256 Credential=AK"), CodeUnsupportedFeature},
		{"no scheme but blanks", header("Authorization", "  "), ""},
		{"headers a client of 1.0 sends too", header("x-acs-action", "StartReplicationJob"), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			key, err := testVerifier(&memoryNonces{}, func() time.Time { return fixedNow }).Verify(t.Context(), c.r)
			if CodeOf(err) != c.code || (err == nil && key != "AK") || (err != nil && c.code == "") {
				t.Errorf("got %q, %v; want %q", key, err, c.code)
			}
		})
	}
}

func TestVerifyRefusesReplay(t *testing.T) {
	nonces := &memoryNonces{}
	v := testVerifier(nonces, func() time.Time { return fixedNow })
	// A wrong signature must not use up the nonce of the right one.
	if _, err := v.Verify(t.Context(), signedRequest("AK", "guessed", fixedNow)); CodeOf(err) != CodeSignatureDoesNotMatch {
		t.Fatal(err)
	}
	if _, err := v.Verify(t.Context(), signedRequest("AK", "the-secret", fixedNow)); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(t.Context(), signedRequest("AK", "the-secret", fixedNow)); CodeOf(err) != CodeSignatureNonceUsed {
		t.Errorf("replayed: %v", err)
	}
	// The nonce is kept for as long as its timestamp is accepted.
	until := nonces.used["AK/n"]
	v.Now = func() time.Time { return until.Add(time.Second) }
	if _, err := v.Verify(t.Context(), signedRequest("AK", "the-secret", fixedNow)); CodeOf(err) != CodeInvalidTimeStampExpired {
		t.Errorf("replayed after the nonce is forgotten: %v", err)
	}
}

func TestVerifyFailsClosed(t *testing.T) {
	now := func() time.Time { return fixedNow }
	if _, err := testVerifier(&memoryNonces{err: errStore}, now).Verify(t.Context(), signedRequest("AK", "the-secret", fixedNow)); !errors.Is(err, errStore) {
		t.Errorf("nonces away: %v", err)
	}
	if _, err := testVerifier(&memoryNonces{}, now).Verify(t.Context(), signedRequest("broken", "the-secret", fixedNow)); !errors.Is(err, errStore) {
		t.Errorf("keys away: %v", err)
	}
}
