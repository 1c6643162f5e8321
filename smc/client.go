package smc

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	mathrand "math/rand/v2"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Config says which endpoint a client calls and as whom.
type Config struct {
	// Endpoint is the base URL, "http://127.0.0.1:7700". Without a scheme it is taken as https.
	Endpoint string
	// AccessKeyID and AccessKeySecret sign every request.
	AccessKeyID     string
	AccessKeySecret string
	// SecurityToken belongs to an access key that is temporary (STS), and is sent with it. The vendor takes such keys; a
	// self-hosted center refuses them with UnsupportedFeature.
	SecurityToken string
	// Signature is how requests are signed; empty means SignatureHMACSHA1. That signature does not cover the Host
	// header, so it passes proxies that rewrite it, which SignatureACS3 does not. It covers the same parameters.
	Signature Signature
	// RegionID fills the RegionId parameter of requests that require one and do not say.
	RegionID string
	// CAFile is a PEM file of the authorities that may have signed the endpoint's certificate, in place of those that this machine
	// knows (DROVER_CA_FILE). It is not looked at with an HTTPClient: see [Config.Transport].
	CAFile string
	// HTTPClient sends the requests; nil takes one of its own that follows no redirects.
	HTTPClient *http.Client
	// MaxAttempts is how often a request is sent at most; 0 means 5, 1 means no retries.
	MaxAttempts int
	// AttemptTimeout bounds one attempt; 0 means 30 seconds, negative means no bound.
	AttemptTimeout time.Duration
	// Backoff returns the pause before the given retry, counted from 1; nil means DefaultBackoff.
	Backoff func(retry int) time.Duration
}

// Client calls the operations of an endpoint. It is safe for concurrent use.
type Client struct {
	endpoint *url.URL
	cfg      Config
	http     *http.Client
	now      func() time.Time
}

// NewClient returns a client. The error says which setting is missing or wrong; nothing is sent.
func NewClient(cfg Config) (*Client, error) {
	endpoint := cfg.Endpoint
	if endpoint == "" {
		return nil, errors.New("smc client: no endpoint is set")
	}
	if !strings.Contains(endpoint, "://") {
		endpoint = "https://" + endpoint
	}
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, fmt.Errorf("smc client: endpoint %s: %w", quote(cfg.Endpoint), err)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("smc client: endpoint %s is not an address like https://host:port", quote(cfg.Endpoint))
	}
	u.Path = strings.TrimSuffix(u.Path, "/") + "/"
	if _, vendor := vendorEndpoint(endpoint); vendor && u.Scheme != "https" {
		return nil, fmt.Errorf("smc client: endpoint %s: the vendor is called by https only", quote(cfg.Endpoint))
	}
	if cfg.AccessKeyID == "" || cfg.AccessKeySecret == "" {
		return nil, errors.New("smc client: an access key id and its secret are needed")
	}
	switch cfg.Signature {
	case "":
		cfg.Signature = SignatureHMACSHA1
	case SignatureHMACSHA1, SignatureACS3:
	default:
		return nil, fmt.Errorf("smc client: signature %s is not known; it must be %s or %s", quote(string(cfg.Signature)), SignatureHMACSHA1, SignatureACS3)
	}
	if cfg.MaxAttempts <= 0 {
		cfg.MaxAttempts = 5
	}
	if cfg.AttemptTimeout == 0 {
		cfg.AttemptTimeout = 30 * time.Second
	}
	if cfg.Backoff == nil {
		cfg.Backoff = DefaultBackoff
	}
	hc := cfg.HTTPClient
	if hc == nil {
		transport, err := cfg.Transport()
		if err != nil {
			return nil, fmt.Errorf("smc client: %w", err)
		}
		hc = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	return &Client{endpoint: u, cfg: cfg, http: hc, now: time.Now}, nil
}

// Endpoint returns the address the client calls.
func (c *Client) Endpoint() string { return c.endpoint.String() }

// RegionID returns the region the client is configured for; it may be empty.
func (c *Client) RegionID() string { return c.cfg.RegionID }

// DefaultBackoff returns a random pause that doubles with each retry: between 100 and 200 ms before the first,
// at most 5 s.
func DefaultBackoff(retry int) time.Duration {
	const first, most = 200 * time.Millisecond, 5 * time.Second
	pause := most
	if retry < 6 {
		pause = min(first<<max(retry-1, 0), most)
	}
	return pause/2 + mathrand.N(pause/2) //nolint:gosec // jitter needs no secrecy
}

// CallError says which call failed; it wraps the *Error the endpoint answered with, or what kept the request
// from being answered.
type CallError struct {
	// Action is the operation.
	Action string
	// Endpoint is the address called.
	Endpoint string
	// Attempts is how often the request was sent.
	Attempts int
	// Err is the last attempt's error.
	Err error
}

// Error names the operation, the endpoint and the number of attempts when there was more than one.
func (e *CallError) Error() string {
	times := ""
	if e.Attempts > 1 {
		times = fmt.Sprintf(" (%d attempts)", e.Attempts)
	}
	return fmt.Sprintf("%s at %s%s: %v", e.Action, e.Endpoint, times, e.Err)
}

// Unwrap returns the last attempt's error.
func (e *CallError) Unwrap() error { return e.Err }

// Do calls an operation. It retries, with a pause, what passes by itself: throttling, 5xx answers and requests
// that got no answer; an operation that would do its work twice is retried only when it surely did not begin. A
// request with a ClientToken parameter gets one when it has none, so that it can be retried. The error is a *CallError.
func Do[Req, Res any](ctx context.Context, c *Client, op *Operation[Req, Res], req *Req) (*Res, error) {
	values := op.Encode(req)
	if c.cfg.RegionID != "" && op.schema.requires(regionID) && values.Get(regionID) == "" {
		values.Set(regionID, c.cfg.RegionID)
	}
	if op.schema.has(clientToken) && values.Get(clientToken) == "" {
		values.Set(clientToken, rand.Text())
	}
	res := new(Res)
	if err := c.call(ctx, op.name, values, op.repeatable(values), res); err != nil {
		return nil, err
	}
	return res, nil
}

// Call calls any operation by its name with flat parameters and decodes the JSON answer into out (a pointer, or
// nil). An operation this package does not know is retried only when it surely did not begin, unless it has a
// ClientToken or its name says that it only reads. The error is a *CallError.
func (c *Client) Call(ctx context.Context, action string, params url.Values, out any) error {
	repeatable := params.Get(clientToken) != "" || strings.HasPrefix(action, "Describe") || strings.HasPrefix(action, "List")
	if op, ok := registry[action]; ok {
		repeatable = op.repeatable(params)
	}
	return c.call(ctx, action, params, repeatable, out)
}

func (c *Client) call(ctx context.Context, action string, params url.Values, repeatable bool, out any) error {
	for attempt := 1; ; attempt++ {
		err := c.attempt(ctx, action, params, out)
		if err == nil {
			return nil
		}
		failed := &CallError{Action: action, Endpoint: c.endpoint.String(), Attempts: attempt, Err: err}
		if attempt >= c.cfg.MaxAttempts || ctx.Err() != nil || !mayRetry(err, repeatable) {
			return failed
		}
		timer := time.NewTimer(c.cfg.Backoff(attempt))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			failed.Err = fmt.Errorf("%w while waiting to retry: %w", ctx.Err(), err)
			return failed
		}
	}
}

// mayRetry decides whether a failed attempt is repeated. repeatable is whether the operation may do its work twice.
func mayRetry(err error, repeatable bool) bool {
	var e *Error
	if !errors.As(err, &e) {
		return repeatable && !isTLSMistake(err) // no answer: whether it was done is not known
	}
	if strings.HasPrefix(e.Code, "Throttling") || e.Code == CodeSignatureNonceUsed {
		return true // refused before anything was done
	}
	return e.HTTPStatus >= http.StatusInternalServerError && e.Code != CodeInvalidAnswer && repeatable
}

// maxAnswer bounds the memory an answer may take.
const maxAnswer = 32 << 20

// attempt sends one request, signed anew: nonce and timestamp belong to an attempt.
func (c *Client) attempt(ctx context.Context, action string, params url.Values, out any) error {
	if c.cfg.AttemptTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.cfg.AttemptTimeout)
		defer cancel()
	}
	req, err := c.newRequest(ctx, action, params)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err // the call's error names the endpoint already
		}
		return fmt.Errorf("no answer: %w", explainTLS(err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	if len(body) > maxAnswer {
		return &Error{Code: CodeInvalidAnswer, HTTPStatus: resp.StatusCode, Message: fmt.Sprintf("the answer is longer than %d bytes", maxAnswer)}
	}
	if resp.StatusCode != http.StatusOK {
		return readError(resp, body)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return &Error{
			Code: CodeInvalidAnswer, HTTPStatus: resp.StatusCode,
			Message: fmt.Sprintf("the answer is not the JSON of this operation: %v; is this the address of an SMC endpoint?", err),
		}
	}
	return nil
}

// newRequest returns a signed request.
func (c *Client) newRequest(ctx context.Context, action string, params url.Values) (*http.Request, error) {
	form := maps.Clone(params)
	if form == nil {
		form = url.Values{}
	}
	now, nonce := c.now(), rand.Text()
	if c.cfg.Signature == SignatureHMACSHA1 {
		form.Set("Action", action)
		form.Set("Version", Version)
		form.Set("Format", string(FormatJSON))
		if c.cfg.SecurityToken != "" {
			form.Set("SecurityToken", c.cfg.SecurityToken)
		}
		SignValues(form, http.MethodPost, c.cfg.AccessKeyID, c.cfg.AccessKeySecret, now, nonce)
	}
	body := form.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.endpoint.String(), strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	if c.cfg.Signature == SignatureACS3 {
		req.Header.Set(headerAction, action)
		req.Header.Set(headerVersion, Version)
		if c.cfg.SecurityToken != "" {
			req.Header.Set(headerSecurityToken, c.cfg.SecurityToken)
		}
		SignRequest(req, []byte(body), c.cfg.AccessKeyID, c.cfg.AccessKeySecret, now, nonce)
	}
	return req, nil
}

// readError makes an *Error of an answer that is not 200.
func readError(resp *http.Response, body []byte) *Error {
	var answer errorBody
	mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err := json.Unmarshal(body, &answer); err == nil && answer.Code != "" {
		return &Error{Code: answer.Code, HTTPStatus: resp.StatusCode, Message: answer.Message, RequestID: answer.RequestID, HostID: answer.HostID}
	}
	if resp.StatusCode == http.StatusBadRequest && strings.Contains(string(body), "HTTP request to an HTTPS server") {
		return &Error{Code: CodeInvalidAnswer, HTTPStatus: resp.StatusCode, Message: "the endpoint serves https: begin its address with https://"}
	}
	code := CodeInvalidAnswer
	if resp.StatusCode >= http.StatusInternalServerError {
		code = CodeServiceUnavailable
	}
	return &Error{
		Code: code, HTTPStatus: resp.StatusCode,
		Message: fmt.Sprintf("the answer is %s with a body of type %s that is no SMC error", resp.Status, quote(mediaType)),
	}
}
