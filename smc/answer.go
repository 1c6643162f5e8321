package smc

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// Format is the form of an answer.
type Format string

// The forms of answers.
const (
	FormatJSON Format = "JSON"
	FormatXML  Format = "XML"
)

// ParseFormat reads the Format parameter in any case; empty means JSON. With the error, which is an *Error, it
// returns the format to answer it in.
func ParseFormat(s string) (Format, error) {
	switch strings.ToUpper(s) {
	case "", "JSON":
		return FormatJSON, nil
	case "XML":
		return FormatXML, nil
	}
	return FormatJSON, Errorf(CodeInvalidParameter, "Format: %s is not allowed; it must be JSON or XML", quote(s))
}

// errorBody is an error on the wire.
type errorBody struct {
	RequestID string `json:"RequestId"`
	HostID    string `json:"HostId"`
	Code      string `json:"Code"`
	Message   string `json:"Message"`
}

// WriteResult answers a call with its result, the request id filled in. The error is that of the connection or of
// the encoding; the latter has been answered as an InternalError.
func WriteResult(w http.ResponseWriter, format Format, action, requestID string, result Result) error {
	result.setRequestID(requestID)
	return write(w, format, http.StatusOK, action+"Response", requestID, result)
}

// WriteError answers a call with an error, the request id and the host id filled in. An err that is no *Error is
// answered as an InternalError that tells nothing of the inside.
func WriteError(w http.ResponseWriter, format Format, requestID, hostID string, err error) error {
	e := AsError(err)
	if e == nil {
		e = Errorf(CodeInternalError, "")
	}
	status := e.HTTPStatus
	if status < http.StatusBadRequest {
		status = lookupCode(e.Code).status
	}
	return write(w, format, status, "Error", requestID, errorBody{RequestID: requestID, HostID: hostID, Code: e.Code, Message: e.Message})
}

// buffers are for answers while they are written, each a *[]byte of maxBuffer bytes at most.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

const maxBuffer = 1 << 20

// write is the one place that knows the forms of answers.
func write(w http.ResponseWriter, format Format, status int, root, requestID string, body any) error {
	buffer := buffers.Get().(*[]byte)
	data, err := appendJSON((*buffer)[:0], body)
	if cap(data) <= maxBuffer {
		*buffer = data
	}
	defer buffers.Put(buffer)
	contentType := "application/json;charset=utf-8" // without a blank: some clients of the vendor compare the whole
	if err == nil && format == FormatXML {
		contentType = "text/xml;charset=utf-8"
		data, err = toXML(root, data)
	}
	if err != nil {
		http.Error(w, fmt.Sprintf(`{"RequestId":%q,"HostId":"","Code":%q,"Message":"The answer could not be encoded."}`, requestID, CodeInternalError), http.StatusInternalServerError)
		return fmt.Errorf("encoding %s: %w", root, err)
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, err = w.Write(data) //nolint:gosec // encoded above as JSON or XML, and served as such
	return err
}

// toXML renders a JSON answer as the API's XML. As lists are nested under the name of their items already, each
// name is an element and each entry of an array repeats the element of the array's name.
func toXML(root string, data []byte) ([]byte, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var out bytes.Buffer
	out.WriteString(xml.Header)
	if err := writeElement(&out, dec, root); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// writeElement writes the next JSON value as elements of the name.
func writeElement(out *bytes.Buffer, dec *json.Decoder, name string) error {
	token, err := dec.Token()
	if err != nil {
		return err
	}
	if token == json.Delim('[') {
		for dec.More() {
			if err := writeElement(out, dec, name); err != nil {
				return err
			}
		}
		_, err := dec.Token()
		return err
	}
	fmt.Fprintf(out, "<%s>", name)
	switch value := token.(type) {
	case json.Delim:
		for dec.More() {
			key, err := dec.Token()
			if err != nil {
				return err
			}
			if err := writeElement(out, dec, fmt.Sprint(key)); err != nil {
				return err
			}
		}
		if _, err := dec.Token(); err != nil {
			return err
		}
	case nil:
	default:
		if err := xml.EscapeText(out, []byte(fmt.Sprint(value))); err != nil {
			return err
		}
	}
	fmt.Fprintf(out, "</%s>", name)
	return nil
}
