package smc

import (
	"context"
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // the signature the API prescribes
	"encoding/base64"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Signature is a way to sign requests.
type Signature string

// The signatures an endpoint verifies and the client can make (CONTRACT: Requests).
const (
	// SignatureHMACSHA1 is signature 1.0: in the parameters, over the parameters.
	SignatureHMACSHA1 Signature = "HMAC-SHA1"
	// SignatureACS3 is what today's SDKs of the vendor make: in headers, over query, headers, host and body.
	SignatureACS3 Signature = "ACS3-HMAC-SHA256"
)

// Signature 1.0: the only method and version there are (CONTRACT: Signature 1.0).
const (
	signatureMethod  = string(SignatureHMACSHA1)
	signatureVersion = "1.0"
)

// ClockWindow is how far a request's timestamp may be from the endpoint's clock, before or after.
const ClockWindow = 15 * time.Minute

// maxNonceLen bounds what an endpoint remembers for a request.
const maxNonceLen = 128

// CanonicalQuery returns the parameters in the form signature 1.0 signs: sorted, encoded as RFC 3986 says,
// Signature left out.
func CanonicalQuery(values url.Values) string { return canonicalize(values, "Signature") }

// canonicalize renders parameters sorted and encoded as RFC 3986 says, the one named without left out.
func canonicalize(values url.Values, without string) string {
	names := make([]string, 0, len(values))
	for name := range values {
		if without == "" || name != without {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names {
		for _, value := range values[name] {
			if b.Len() > 0 {
				b.WriteByte('&')
			}
			percentEncode(&b, name)
			b.WriteByte('=')
			percentEncode(&b, value)
		}
	}
	return b.String()
}

// StringToSign returns what signature 1.0 signs for a request of the HTTP method.
func StringToSign(values url.Values, method string) string {
	var b strings.Builder
	b.WriteString(method)
	b.WriteString("&%2F&")
	percentEncode(&b, CanonicalQuery(values))
	return b.String()
}

// Sign returns the signature 1.0 of the parameters, sent by the HTTP method, under a secret.
func Sign(values url.Values, method, secret string) string {
	mac := hmac.New(sha1.New, []byte(secret+"&"))
	mac.Write([]byte(StringToSign(values, method)))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// SignValues sets the common parameters of signature 1.0 and the signature itself. Action, Version and Format are
// the caller's. A nonce is never used twice.
func SignValues(values url.Values, method, accessKeyID, secret string, now time.Time, nonce string) {
	values.Set("AccessKeyId", accessKeyID)
	values.Set("SignatureMethod", signatureMethod)
	values.Set("SignatureVersion", signatureVersion)
	values.Set("SignatureNonce", nonce)
	values.Set("Timestamp", FormatTime(now))
	values.Set("Signature", Sign(values, method, secret))
}

// percentEncode encodes as RFC 3986 says: all but letters, digits, '-', '_', '.' and '~'.
func percentEncode(b *strings.Builder, s string) {
	const hexDigits = "0123456789ABCDEF"
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.', c == '~':
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(hexDigits[c>>4])
			b.WriteByte(hexDigits[c&15])
		}
	}
}

// Nonces remembers which signature nonces were used.
type Nonces interface {
	// Use records a nonce of an access key until the given time, after which its timestamp is refused anyway. It
	// reports whether the nonce is new. An error means that it cannot be said, and refuses the request.
	Use(ctx context.Context, accessKeyID, nonce string, until time.Time) (fresh bool, err error)
}

// Verifier checks who sent a request.
type Verifier struct {
	// Secret returns the secret of an access key; found is false for one that is unknown or disabled.
	Secret func(ctx context.Context, accessKeyID string) (secret string, found bool, err error)
	// Nonces refuses replays.
	Nonces Nonces
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Verify checks the signature of a request and returns the access key id it was made with. The error is an *Error
// that says what is wrong, or what Secret or Nonces failed with.
func (v *Verifier) Verify(ctx context.Context, r *Request) (accessKeyID string, err error) {
	authorizations := r.Header.Values(headerAuthorization)
	switch {
	case len(authorizations) > 1:
		return "", Errorf(CodeInvalidParameter, "The header Authorization is given %d times; once is allowed", len(authorizations))
	case len(authorizations) == 1 && len(authorizations[0]) > maxAuthorizationLen:
		return "", Errorf(CodeInvalidParameter, "The header Authorization has %d bytes; at most %d are allowed", len(authorizations[0]), maxAuthorizationLen)
	}
	switch scheme, parameters := r.authorization(); {
	case scheme == "":
		return v.verifyHMACSHA1(ctx, r)
	case strings.EqualFold(scheme, string(SignatureACS3)):
		return v.verifyACS3(ctx, r, parameters)
	default:
		return "", Errorf(CodeUnsupportedFeature, "Authorization: the scheme %s is not served; sign with %s, or with signature 1.0, %s, in the parameters",
			quote(scheme), SignatureACS3, SignatureHMACSHA1)
	}
}

// authorization returns the scheme of the Authorization header and what follows it. The scheme alone tells the
// signatures apart: clients of signature 1.0 send x-acs-action and x-acs-version too.
func (req *Request) authorization() (scheme, parameters string) {
	scheme, parameters, _ = strings.Cut(strings.TrimSpace(req.Header.Get(headerAuthorization)), " ")
	return scheme, parameters
}

// maxAccessKeyIDLen is how long the id of an access key is at most.
const maxAccessKeyIDLen = 128

// AccessKeyID returns the access key id the request names, which is a claim until the signature is verified; empty when it
// names none that could be one.
func (req *Request) AccessKeyID() string {
	id := req.Values.Get("AccessKeyId")
	if scheme, parameters := req.authorization(); scheme != "" {
		auth, err := parseACS3(parameters)
		if err != nil || !strings.EqualFold(scheme, string(SignatureACS3)) {
			return ""
		}
		id = auth.credential
	}
	if !isAccessKeyID(id) {
		return ""
	}
	return id
}

// isAccessKeyID reports whether a text can be the id of an access key.
func isAccessKeyID(id string) bool { return len(id) <= maxAccessKeyIDLen && isPlain(id) }

// isPlain reports whether a text can be kept and compared: not every database takes what is not UTF-8, or a NUL.
func isPlain(text string) bool {
	return utf8.ValidString(text) && strings.IndexFunc(text, unicode.IsControl) < 0
}

// checkNonce refuses a nonce, given as that name, that cannot be remembered.
func checkNonce(name, nonce string) error {
	switch {
	case len(nonce) > maxNonceLen:
		return Errorf(CodeInvalidParameter, "%s has %d bytes; at most %d are allowed", name, len(nonce), maxNonceLen)
	case !isPlain(nonce):
		return Errorf(CodeInvalidParameter, "%s: %s is not a text without control characters", name, quote(nonce))
	}
	return nil
}

// errTemporaryCredentials refuses what comes with temporary credentials, which nobody here could check.
func errTemporaryCredentials(where string) error {
	return Errorf(CodeUnsupportedFeature, "%s: temporary (STS) credentials are not served; use an access key", where)
}

func (v *Verifier) verifyHMACSHA1(ctx context.Context, r *Request) (string, error) {
	required := func(name string) (string, error) {
		switch vs := r.Values[name]; {
		case len(vs) == 0 || (len(vs) == 1 && vs[0] == ""):
			return "", Errorf("Missing"+name, "%s is missing: every request must be signed", name)
		case len(vs) > 1:
			return "", Errorf(CodeInvalidParameter, "%s is given %d times; once is allowed", name, len(vs))
		default:
			return vs[0], nil
		}
	}
	var key, signature, method, version, nonce, timestamp string
	for _, p := range []struct {
		name string
		into *string
	}{
		{"AccessKeyId", &key},
		{"Signature", &signature},
		{"SignatureMethod", &method},
		{"SignatureVersion", &version},
		{"SignatureNonce", &nonce},
		{"Timestamp", &timestamp},
	} {
		value, err := required(p.name)
		if err != nil {
			return "", err
		}
		*p.into = value
	}
	if !strings.EqualFold(method, signatureMethod) {
		return "", Errorf(CodeInvalidParameter, "SignatureMethod: %s is not allowed; it must be %s", quote(method), signatureMethod)
	}
	if version != signatureVersion {
		return "", Errorf(CodeInvalidParameter, "SignatureVersion: %s is not allowed; it must be %s", quote(version), signatureVersion)
	}
	if r.Values.Get("SecurityToken") != "" {
		return "", errTemporaryCredentials("SecurityToken")
	}
	if err := checkNonce("SignatureNonce", nonce); err != nil {
		return "", err
	}
	at, err := v.checkTime("Timestamp", timestamp)
	if err != nil {
		return "", err
	}
	secret, err := v.secret(ctx, key)
	if err != nil {
		return "", err
	}
	if !hmac.Equal([]byte(Sign(r.Values, r.Method, secret)), []byte(signature)) {
		return "", Errorf(CodeSignatureDoesNotMatch, "The signature of access key %s is wrong. Check its secret. The endpoint signs: %s",
			quote(key), clipTo(StringToSign(r.Values, r.Method), maxStringToSign))
	}
	// Last, so that nobody without the secret can use up the nonces of someone else.
	return key, v.useNonce(ctx, key, nonce, at)
}

// maxStringToSign is how much of its string to sign an endpoint shows to someone whose signature is wrong.
const maxStringToSign = 2048

func clipTo(s string, most int) string {
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// checkTime reads the timestamp of that name and holds it against the clock.
func (v *Verifier) checkTime(name, timestamp string) (time.Time, error) {
	at, err := ParseTime(timestamp)
	if err != nil {
		return time.Time{}, Errorf(CodeInvalidParameter, "%s: %v", name, err)
	}
	now := time.Now()
	if v.Now != nil {
		now = v.Now()
	}
	if off := now.Sub(at); off > ClockWindow || off < -ClockWindow {
		return time.Time{}, Errorf(CodeInvalidTimeStampExpired, "%s: %s is more than %d minutes from the endpoint's clock, %s; set the clocks", name, timestamp, int(ClockWindow.Minutes()), FormatTime(now))
	}
	return at, nil
}

func (v *Verifier) secret(ctx context.Context, key string) (string, error) {
	var secret string
	found := isAccessKeyID(key)
	if found {
		var err error
		if secret, found, err = v.Secret(ctx, key); err != nil {
			return "", err
		}
	}
	if !found {
		return "", Errorf(CodeInvalidAccessKeyIDNotFound, "There is no access key %s, or it is disabled", quote(key))
	}
	return secret, nil
}

func (v *Verifier) useNonce(ctx context.Context, key, nonce string, at time.Time) error {
	fresh, err := v.Nonces.Use(ctx, key, nonce, at.Add(ClockWindow))
	if err != nil {
		return err
	}
	if !fresh {
		return Errorf(CodeSignatureNonceUsed, "The signature nonce %s was used before; every request needs a new one", quote(nonce))
	}
	return nil
}
