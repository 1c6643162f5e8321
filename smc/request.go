package smc

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
)

// MaxBody is how long the body of a request may be, in bytes.
const MaxBody = 1 << 20

// ReadRequest reads the parameters of a call: of the query, and with POST of a form too. A parameter that is
// in both counts as given twice. Nothing is verified. The error is an *Error.
func ReadRequest(w http.ResponseWriter, r *http.Request) (*Request, error) {
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		return nil, Errorf(CodeUnsupportedHTTPMethod, "%s is not served; only GET and POST are", clip(r.Method))
	}
	if len(r.URL.RawQuery) > MaxBody {
		return nil, Errorf(CodeInvalidParameter, "The query is longer than %d bytes", MaxBody)
	}
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, Errorf(CodeInvalidParameter, "The query is not encoded as application/x-www-form-urlencoded: %v", err)
	}
	req := &Request{Method: r.Method, Values: values, Header: r.Header}
	if r.Method == http.MethodPost {
		if err := req.readBody(w, r); err != nil {
			return nil, err
		}
	}
	if len(values) > MaxParameters {
		return nil, Errorf(CodeInvalidParameter, "The request has %d parameters; at most %d are allowed", len(values), MaxParameters)
	}
	return req, nil
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
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return Errorf(CodeInvalidParameter, "The body is not encoded as application/x-www-form-urlencoded: %v", err)
	}
	for name, vs := range form {
		req.Values[name] = append(req.Values[name], vs...)
	}
	return nil
}

// Operation returns the operation the request names, Version checked. The error is an *Error.
func (req *Request) Operation() (AnyOperation, error) {
	for _, name := range []string{"Action", "Version", "Format"} {
		if n := len(req.Values[name]); n > 1 {
			return nil, Errorf(CodeInvalidParameter, "%s is given %d times; once is allowed", name, n)
		}
	}
	switch version := req.Values.Get("Version"); version {
	case Version:
	case "":
		return nil, Errorf("MissingVersion", "Version is missing; it must be %s", Version)
	default:
		return nil, Errorf(CodeInvalidVersion, "Version: %s is not served; it must be %s", quote(version), Version)
	}
	return LookupOperation(req.Values.Get("Action"))
}
