package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/smc"
)

const (
	accessKeyID     = "AKEXAMPLE"
	accessKeySecret = "secret/with+signs=&迁"
)

// endpoint reads, verifies, decodes and answers calls with package smc as a center does. Its answers are canned.
type endpoint struct {
	url string

	mu sync.Mutex
	// clock is how far its clock is from the real one.
	clock time.Duration
	// validate holds requests against the contract too.
	validate bool
	nonces   map[string]bool
	last     exchange
}

// exchange is what the endpoint last saw and said.
type exchange struct {
	raw     *http.Request // with its body in full
	body    []byte
	request any // decoded; nil when refused before
	result  smc.Result
}

func startEndpoint(t *testing.T) *endpoint {
	t.Helper()
	e := &endpoint{nonces: map[string]bool{}}
	server := httptest.NewServer(e)
	t.Cleanup(server.Close)
	e.url = server.URL
	return e
}

// identity is one the endpoint knows.
func (e *endpoint) identity() identity {
	return identity{Endpoint: e.url, AccessKeyID: accessKeyID, AccessKeySecret: accessKeySecret}
}

// seen returns what the endpoint last saw and said.
func (e *endpoint) seen() exchange {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.last
}

// setClock sets how far the endpoint's clock is from the real one.
func (e *endpoint) setClock(off time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.clock = off
}

func (e *endpoint) Secret(_ context.Context, id string) (secret string, found bool, err error) {
	return accessKeySecret, id == accessKeyID, nil
}

// Use makes the endpoint the memory of its nonces. The lock is the call's.
func (e *endpoint) Use(_ context.Context, key, nonce string, _ time.Time) (fresh bool, err error) {
	fresh = !e.nonces[key+" "+nonce]
	e.nonces[key+" "+nonce] = true
	return fresh, nil
}

func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	e.last = exchange{raw: r.Clone(context.Background()), body: body}
	requestID := strings.ToUpper(uuid.NewString())
	format := smc.FormatJSON
	operation, err := e.answer(w, r, &format)
	if err != nil {
		_ = smc.WriteError(w, format, requestID, "conformance", err)
		return
	}
	_ = smc.WriteResult(w, format, operation.Name(), requestID, e.last.result)
}

func (e *endpoint) answer(w http.ResponseWriter, r *http.Request, format *smc.Format) (smc.AnyOperation, error) {
	now := time.Now().Add(e.clock)
	request, err := smc.ReadRequest(w, r)
	if err != nil {
		return nil, err
	}
	if *format, err = smc.ParseFormat(request.Values.Get("Format")); err != nil {
		return nil, err
	}
	verifier := smc.Verifier{Secret: e.Secret, Nonces: e, Now: func() time.Time { return now }}
	if _, err := verifier.Verify(r.Context(), request); err != nil {
		return nil, err
	}
	operation, err := request.Operation()
	if err != nil {
		return nil, err
	}
	decoded, err := operation.DecodeRequest(request.Values)
	if err != nil {
		return nil, err
	}
	if e.validate {
		if err := operation.ValidateRequest(decoded, now); err != nil {
			return nil, err
		}
	}
	e.last.request, e.last.result = decoded, operation.NewResult()
	fill(reflect.ValueOf(e.last.result).Elem())
	return operation, nil
}

// replay sends the last request once more, as it was.
func (e *endpoint) replay(t *testing.T) answer {
	t.Helper()
	last := e.seen()
	r, err := http.NewRequestWithContext(t.Context(), last.raw.Method, e.url+last.raw.RequestURI, bytes.NewReader(last.body))
	require.NoError(t, err)
	r.Header = last.raw.Header.Clone()
	r.Host = last.raw.Host
	response, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return answer{Status: response.StatusCode, Body: json.RawMessage(body)}
}

// fill gives every field of a request or a result a value: texts that are hard to encode, lists of two.
func fill(v reflect.Value) {
	switch v.Kind() { //nolint:exhaustive // the types of the contract have no others
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0))
		fill(v.Index(1))
	case reflect.String:
		v.SetString(`迁移 a+b*c~d&e=f/%20!'()"<>?#` + "\n")
	case reflect.Int, reflect.Int64:
		v.SetInt(1<<31 - 1)
	case reflect.Float64:
		v.SetFloat(12.5)
	case reflect.Bool:
		v.SetBool(true)
	}
}
