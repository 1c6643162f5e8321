package smc

import (
	"errors"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"strings"
)

// MaxBody is how long the body of a request may be, in bytes.
const MaxBody = 1 << 20

// Request is a call as it came, before anything in it is trusted.
type Request struct {
	// Method is GET or POST.
	Method string
	// Host and Path are whom and what the request asked for, as it was sent.
	Host, Path string
	// Query are the parameters of the query alone.
	Query url.Values
	// Values are the parameters of the query and, with POST, of the form.
	Values url.Values
	Header http.Header
	// Body is the body as it was sent, for signatures that cover it.
	Body []byte
}

// ReadRequest reads the parameters of a call: of the query, and with POST of a form too. A parameter that is
// in both counts as given twice. Nothing is verified. The error is an *Error.
func ReadRequest(w http.ResponseWriter, r *http.Request) (*Request, error) {
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		return nil, Errorf(CodeUnsupportedHTTPMethod, "%s is not served; only GET and POST are", clip(r.Method))
	}
	if len(r.URL.RawQuery) > MaxBody {
		return nil, Errorf(CodeInvalidParameter, "The query is longer than %d bytes", MaxBody)
	}
	values, err := parseForm("query", r.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	req := &Request{Method: r.Method, Host: r.Host, Path: pathOf(r.URL), Query: values, Values: maps.Clone(values), Header: r.Header}
	if r.Method == http.MethodPost {
		if err := req.readBody(w, r); err != nil {
			return nil, err
		}
	}
	if n := len(req.Values); n > MaxParameters {
		return nil, Errorf(CodeInvalidParameter, "The request has %d parameters; at most %d are allowed", n, MaxParameters)
	}
	return req, nil
}

// parseForm reads the parameters of a query or a body.
func parseForm(where, text string) (url.Values, error) {
	// Before url.ParseQuery, which has a limit and words of its own.
	if n := strings.Count(text, "&") + 1; n > MaxParameters {
		return nil, Errorf(CodeInvalidParameter, "The %s has %d parameters; at most %d are allowed", where, n, MaxParameters)
	}
	values, err := url.ParseQuery(text)
	if err != nil {
		return nil, Errorf(CodeInvalidParameter, "The %s is not encoded as application/x-www-form-urlencoded: %v", where, err)
	}
	return values, nil
}

func (req *Request) readBody(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &tooLong):
		return Errorf(CodeInvalidParameter, "The body is longer than %d bytes", MaxBody)
	case err != nil:
		return Errorf(CodeInvalidParameter, "The body could not be read to its end: %v", err)
	}
	req.Body = body
	if len(body) == 0 {
		return nil
	}
	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mediaType != "application/x-www-form-urlencoded" {
		return Errorf(CodeInvalidParameter, "Content-Type: %s is not allowed; the body must be application/x-www-form-urlencoded", quote(r.Header.Get("Content-Type")))
	}
	form, err := parseForm("body", string(body))
	if err != nil {
		return err
	}
	for name, vs := range form {
		req.Values[name] = append(req.Values[name], vs...)
	}
	return nil
}

// Operation returns the operation the request names, Version checked: in the parameters Action and Version, or with
// ACS3 in the headers x-acs-action and x-acs-version, which parameters of these names must not contradict. The error
// is an *Error.
func (req *Request) Operation() (AnyOperation, error) {
	for _, name := range []string{"Action", "Version", "Format"} {
		if n := len(req.Values[name]); n > 1 {
			return nil, Errorf(CodeInvalidParameter, "%s is given %d times; once is allowed", name, n)
		}
	}
	version, err := req.named("Version", headerVersion)
	if err != nil {
		return nil, err
	}
	switch version {
	case Version:
	case "":
		return nil, Errorf("MissingVersion", "Version is missing; it must be %s", Version)
	default:
		return nil, Errorf(CodeInvalidVersion, "Version: %s is not served; it must be %s", quote(version), Version)
	}
	action, err := req.named("Action", headerAction)
	if err != nil {
		return nil, err
	}
	return LookupOperation(action)
}

// named returns the parameter, or with ACS3 the header that stands in its place.
func (req *Request) named(parameter, header string) (string, error) {
	value := req.Values.Get(parameter)
	if scheme, _ := req.authorization(); !strings.EqualFold(scheme, string(SignatureACS3)) {
		return value, nil
	}
	inHeader := req.Header.Get(header)
	switch lower := strings.ToLower(header); {
	case inHeader == "":
		return "", Errorf("Missing"+parameter, "The header %s is missing; with %s it takes the place of %s", lower, SignatureACS3, parameter)
	case value != "" && value != inHeader:
		return "", Errorf(CodeInvalidParameter, "%s: %s contradicts the header %s, %s", parameter, quote(value), lower, quote(inHeader))
	}
	return inHeader, nil
}
