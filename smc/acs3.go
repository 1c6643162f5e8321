package smc

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The headers of signature ACS3-HMAC-SHA256, which carry what signature 1.0 has in parameters.
const (
	headerPrefix        = "X-Acs-"
	headerAction        = headerPrefix + "Action"
	headerVersion       = headerPrefix + "Version"
	headerDate          = headerPrefix + "Date"
	headerNonce         = headerPrefix + "Signature-Nonce"
	headerContentSHA256 = headerPrefix + "Content-Sha256"
	headerSecurityToken = headerPrefix + "Security-Token"
	headerBearerToken   = headerPrefix + "Bearer-Token"
	headerAuthorization = "Authorization"
	headerContentType   = "Content-Type"
)

// maxAuthorizationLen bounds the Authorization header, in bytes. The vendor's clients send some 300.
const maxAuthorizationLen = 4096

// SignRequest signs an HTTP request with ACS3-HMAC-SHA256: it sets the headers x-acs-date, x-acs-signature-nonce,
// x-acs-content-sha256 and Authorization. The headers x-acs-action and x-acs-version and, with a body,
// Content-Type are the caller's and must be set before. body is what the request will send. A nonce is never used
// twice.
func SignRequest(r *http.Request, body []byte, accessKeyID, secret string, now time.Time, nonce string) {
	r.Header.Set(headerDate, FormatTime(now))
	r.Header.Set(headerNonce, nonce)
	r.Header.Set(headerContentSHA256, hashHex(body))
	host := r.Host
	if host == "" {
		host = r.URL.Host
	}
	req := &Request{Method: r.Method, Host: host, Path: pathOf(r.URL), Query: r.URL.Query(), Header: r.Header, Body: body}
	signed := []string{"host"}
	for name := range r.Header {
		if name == headerContentType || strings.HasPrefix(name, headerPrefix) {
			signed = append(signed, strings.ToLower(name))
		}
	}
	slices.Sort(signed)
	r.Header.Set(headerAuthorization, string(SignatureACS3)+" Credential="+accessKeyID+",SignedHeaders="+strings.Join(signed, ";")+
		",Signature="+signACS3(req.canonical(signed), secret))
}

// canonical returns the request in the form ACS3 signs: method, path, query, the signed headers with their names,
// and the hash of the body, a line each.
func (req *Request) canonical(signedHeaders []string) string {
	var b strings.Builder
	for _, line := range []string{req.Method, req.Path, canonicalize(req.Query, "")} {
		b.WriteString(line)
		b.WriteByte('\n')
	}
	for _, name := range signedHeaders {
		b.WriteString(name)
		b.WriteByte(':')
		b.WriteString(req.canonicalHeader(name))
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
	b.WriteString(strings.Join(signedHeaders, ";"))
	b.WriteByte('\n')
	b.WriteString(req.Header.Get(headerContentSHA256))
	return b.String()
}

func (req *Request) canonicalHeader(name string) string {
	if name == "host" {
		return req.Host
	}
	values := slices.Clone(req.Header.Values(name))
	for i := range values {
		values[i] = strings.TrimSpace(values[i])
	}
	slices.Sort(values)
	return strings.Join(values, ",")
}

// signACS3 returns the signature of a canonical request.
func signACS3(canonical, secret string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(string(SignatureACS3) + "\n" + hashHex([]byte(canonical))))
	return hex.EncodeToString(mac.Sum(nil))
}

func hashHex(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func pathOf(u *url.URL) string {
	if path := u.EscapedPath(); path != "" {
		return path
	}
	return "/"
}

// acs3Authorization is what an Authorization header of ACS3 says.
type acs3Authorization struct {
	credential    string // the access key id
	signedHeaders []string
	signature     string
}

// parseACS3 reads what follows the scheme: Credential=…,SignedHeaders=a;b,Signature=….
func parseACS3(parameters string) (acs3Authorization, error) {
	fields := map[string]string{"Credential": "", "SignedHeaders": "", "Signature": ""}
	for part := range strings.SplitSeq(parameters, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		before, known := fields[name]
		if !known {
			return acs3Authorization{}, Errorf(CodeInvalidParameter, "Authorization: %s is none of Credential, SignedHeaders and Signature", quote(name))
		}
		if before != "" {
			return acs3Authorization{}, Errorf(CodeInvalidParameter, "Authorization: %s is given twice", name)
		}
		if value == "" {
			return acs3Authorization{}, Errorf(CodeMissingParameter, "Authorization: %s is empty", name)
		}
		fields[name] = value
	}
	for _, name := range []string{"Credential", "SignedHeaders", "Signature"} {
		if fields[name] == "" {
			return acs3Authorization{}, Errorf(CodeMissingParameter, "Authorization: %s is missing", name)
		}
	}
	return acs3Authorization{fields["Credential"], strings.Split(fields["SignedHeaders"], ";"), fields["Signature"]}, nil
}

func (v *Verifier) verifyACS3(ctx context.Context, r *Request, parameters string) (string, error) {
	auth, err := parseACS3(parameters)
	if err != nil {
		return "", err
	}
	if r.Header.Get(headerSecurityToken) != "" || r.Values.Get("SecurityToken") != "" {
		return "", errTemporaryCredentials("x-acs-security-token")
	}
	if r.Header.Get(headerBearerToken) != "" {
		return "", Errorf(CodeUnsupportedFeature, "x-acs-bearer-token: bearer tokens are not served; use an access key")
	}
	if err := r.checkSignedHeaders(auth.signedHeaders); err != nil {
		return "", err
	}
	for _, name := range []string{headerDate, headerNonce, headerContentSHA256} {
		if r.Header.Get(name) == "" {
			return "", Errorf(CodeMissingParameter, "The header %s is missing: every request must be signed", strings.ToLower(name))
		}
	}
	nonce := r.Header.Get(headerNonce)
	if err := checkNonce("x-acs-signature-nonce", nonce); err != nil {
		return "", err
	}
	at, err := v.checkTime("x-acs-date", r.Header.Get(headerDate))
	if err != nil {
		return "", err
	}
	secret, err := v.secret(ctx, auth.credential)
	if err != nil {
		return "", err
	}
	canonical := r.canonical(auth.signedHeaders)
	if !hmac.Equal([]byte(signACS3(canonical, secret)), []byte(strings.ToLower(auth.signature))) {
		return "", Errorf(CodeSignatureDoesNotMatch, "The signature of access key %s is wrong. Check its secret. The endpoint's canonical request: %s",
			quote(auth.credential), clipTo(strconv.Quote(canonical), maxStringToSign))
	}
	if sent := r.Header.Get(headerContentSHA256); !strings.EqualFold(sent, hashHex(r.Body)) {
		return "", Errorf(CodeSignatureDoesNotMatch, "x-acs-content-sha256: %s is not the SHA-256 of the body, which has %d bytes", quote(sent), len(r.Body))
	}
	// Last, so that nobody without the secret can use up the nonces of someone else.
	return auth.credential, v.useNonce(ctx, auth.credential, nonce, at)
}

// checkSignedHeaders holds the list of signed headers against those the request has: each named once and there;
// host, every x-acs- header and the type of a body among them, and none of these given twice. What is not signed
// could be anybody's.
func (req *Request) checkSignedHeaders(signed []string) error {
	seen := make(map[string]bool, len(signed))
	for _, name := range signed {
		switch {
		case name == "" || name != strings.ToLower(name):
			return Errorf(CodeInvalidParameter, "Authorization: SignedHeaders: %s is not the name of a header in small letters", quote(name))
		case seen[name]:
			return Errorf(CodeInvalidParameter, "Authorization: SignedHeaders names %s twice", quote(name))
		case name != "host" && len(req.Header.Values(name)) == 0:
			return Errorf(CodeInvalidParameter, "Authorization: SignedHeaders names %s, which the request does not have", quote(name))
		}
		seen[name] = true
	}
	must := []string{"host"}
	// The type says how to read a body. Without one it says nothing, and some HTTP libraries add it unasked.
	if len(req.Body) > 0 && req.Header.Get(headerContentType) != "" {
		must = append(must, "content-type")
	}
	for name := range req.Header {
		if strings.HasPrefix(name, headerPrefix) {
			must = append(must, strings.ToLower(name))
		}
	}
	slices.Sort(must)
	for _, name := range must {
		if n := len(req.Header.Values(name)); n > 1 {
			return Errorf(CodeInvalidParameter, "The header %s is given %d times; once is allowed", clip(name), n)
		}
		if !seen[name] {
			return Errorf(CodeInvalidParameter, "Authorization: SignedHeaders does not name %s; host, content-type and every x-acs- header must be signed", quote(name))
		}
	}
	return nil
}
