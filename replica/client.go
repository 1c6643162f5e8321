package replica

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/drover/drover/tcp"
)

// NewClient returns an HTTP client made for the data plane: HTTP/1.1, kept
// alive, no compression, no overall timeout. tlsConfig may be nil.
func NewClient(tlsConfig *tls.Config) *http.Client {
	dialer := tcp.Dialer(unacknowledged)
	dialer.Timeout = 10 * time.Second
	return &http.Client{Transport: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
		TLSClientConfig:       tlsConfig,
		TLSHandshakeTimeout:   10 * time.Second,
		MaxIdleConnsPerHost:   maxStreams + 2,
		IdleConnTimeout:       90 * time.Second,
		ResponseHeaderTimeout: answerTimeout,
		ExpectContinueTimeout: 10 * time.Second,
		DisableCompression:    true,
		ReadBufferSize:        256 << 10,
	}}
}

const (
	// callTimeout bounds a request that carries no data. Completing a large disk
	// has the host read its whole map.
	callTimeout = 2 * time.Minute
	// answerTimeout is how long a host may take to begin an answer, or to go on with it.
	answerTimeout = 5 * time.Minute
	// unacknowledged is how long what was sent may go without an acknowledgement, or without the host taking more: its connection is forgotten,
	// or its disk stands still. What is under way is sent again.
	unacknowledged = time.Minute
)

// errStalled is why a request ends whose host stands still. A host that is stopped keeps its connections: nothing else tells.
var errStalled = errors.New("the transition host stands still")

// apiClient speaks the protocol.
type apiClient struct {
	client *http.Client
	base   string
	token  string
}

func (c apiClient) do(req *http.Request) (*http.Response, error) {
	req.Header.Set("Authorization", "Bearer "+c.token)
	resp, err := c.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	coded := &Error{Disk: NoDisk}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxJSON))
	if json.Unmarshal(body, coded) != nil || coded.Code == "" {
		// Not from a transition host: a proxy in between, or one that is starting.
		coded = newError(CodeBusy, "%s answered %s", req.URL.Redacted(), resp.Status)
		if resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden {
			coded.Code = CodeUnauthorized
		}
	}
	return nil, coded
}

// post sends a JSON body and decodes the answer into out, which may be nil.
func (c apiClient) post(ctx context.Context, path string, epoch int64, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, bytes.NewReader(b))
	if err != nil {
		return newError(CodeInvalidRequest, "the transition host's address is not valid: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	if epoch > 0 {
		req.Header.Set(epochHeader, strconv.FormatInt(epoch, 10))
	}
	resp, err := c.do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, maxJSON))
		return err
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxJSON)).Decode(out); err != nil {
		return fmt.Errorf("read the answer of the transition host: %w", err)
	}
	return nil
}

// stream sends a request whose answer is long, with a JSON body unless in is nil. The answer may take its time, as long as it goes on.
func (c apiClient) stream(ctx context.Context, method, path string, in any) (*http.Response, error) {
	body := io.Reader(http.NoBody)
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		cancel(nil)
		return nil, newError(CodeInvalidRequest, "the transition host's address is not valid: %w", err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	stall := time.AfterFunc(answerTimeout, func() { cancel(errStalled) })
	resp, err := c.do(req)
	stall.Stop()
	if err != nil {
		cancel(nil)
		return nil, err
	}
	resp.Body = &answerBody{ReadCloser: resp.Body, ctx: ctx, cancel: cancel, stall: stall}
	return resp, nil
}

// answerBody ends the request when a read of it takes too long.
type answerBody struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	stall  *time.Timer
}

func (b *answerBody) Read(p []byte) (int, error) {
	b.stall.Reset(answerTimeout)
	defer b.stall.Stop()
	n, err := b.ReadCloser.Read(p)
	if err != nil && errors.Is(context.Cause(b.ctx), errStalled) {
		err = errStalled
	}
	return n, err
}

func (b *answerBody) Close() error {
	defer b.cancel(nil)
	return b.ReadCloser.Close()
}

// put sends a window. With ask, the host is asked first whether it takes it.
func (c apiClient) put(ctx context.Context, path string, epoch int64, sentCounts string, body io.ReadCloser, length int64, ask bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(stallTimeout, func() { cancel(errStalled) })
	defer stall.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, c.base+path, &requestBody{ReadCloser: body, stall: stall})
	if err != nil {
		return newError(CodeInvalidRequest, "the transition host's address is not valid: %w", err)
	}
	req.ContentLength = length
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set(epochHeader, strconv.FormatInt(epoch, 10))
	req.Header.Set(sentHeader, sentCounts)
	if ask {
		req.Header.Set("Expect", "100-continue")
	}
	resp, err := c.do(req)
	if err != nil {
		return err
	}
	io.Copy(io.Discard, io.LimitReader(resp.Body, maxJSON)) //nolint:errcheck // so that the connection is kept
	return resp.Body.Close()
}

// requestBody ends the request when what was read of it does not get away.
type requestBody struct {
	io.ReadCloser
	stall *time.Timer
}

func (b *requestBody) Read(p []byte) (int, error) {
	b.stall.Stop() // what this waits for is the bandwidth
	n, err := b.ReadCloser.Read(p)
	if err == nil {
		b.stall.Reset(stallTimeout)
	} else {
		b.stall.Reset(answerTimeout) // all of it is sent
	}
	return n, err
}

// backoff spaces out attempts: from a tenth of a second to five, with jitter.
type backoff struct{ next time.Duration }

const (
	firstPause = 100 * time.Millisecond
	maxPause   = 5 * time.Second
)

func (b *backoff) reset() { b.next = 0 }

// pause waits; it returns the error of ctx when that is done first.
func (b *backoff) pause(ctx context.Context) error {
	b.next = min(max(2*b.next, firstPause), maxPause)
	timer := time.NewTimer(b.next/2 + rand.N(b.next/2))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
