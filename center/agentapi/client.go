package agentapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/drover/drover/smc"
)

// answerMargin is how much longer than the wait it asked for the client listens for an answer.
const answerMargin = 15 * time.Second

// Client calls the agent API of one center. It does not retry: the agent's loops do, each at its own
// pace. It is safe for concurrent use.
type Client struct {
	base  *url.URL
	token string
	http  *http.Client
}

// ClientOption changes a default of NewClient.
type ClientOption func(*Client)

// WithHTTPClient sends requests through c. c should have no Timeout of its own: a request for work is
// held by the center, and the Client bounds every call by its context.
func WithHTTPClient(c *http.Client) ClientOption {
	return func(client *Client) { client.http = c }
}

// NewClient returns a client of the center at endpoint, an http or https URL. token is the agent token;
// it is empty before the registration.
func NewClient(endpoint, token string, opts ...ClientOption) (*Client, error) {
	base, err := url.Parse(endpoint)
	if err != nil {
		return nil, fmt.Errorf("endpoint %q is not a URL: %w", endpoint, err)
	}
	if (base.Scheme != "http" && base.Scheme != "https") || base.Host == "" {
		return nil, fmt.Errorf("endpoint %q is not an http or https URL such as https://center.example:7700", endpoint)
	}
	c := &Client{base: base, token: token}
	for _, opt := range opts {
		opt(c)
	}
	if c.http == nil {
		c.http = &http.Client{Transport: NewTransport(nil)}
	}
	return c, nil
}

// NewTransport returns a transport fit for a Client. config may be nil.
func NewTransport(config *tls.Config) *http.Transport {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext
	transport.TLSClientConfig = config
	smc.NoticeSilence(transport)
	return transport
}

// WithToken returns a client that shares c's connections and presents token.
func (c *Client) WithToken(token string) *Client {
	other := *c
	other.token = token
	return &other
}

// Register registers the server with an activation code. A code the center does not take gives an
// *smc.Error with Code CodeInvalidActivationCode.
func (c *Client) Register(ctx context.Context, req RegisterRequest) (RegisterResponse, error) {
	var resp RegisterResponse
	if err := c.call(ctx, http.MethodPost, PathRegister, nil, req, &resp, answerMargin); err != nil {
		return RegisterResponse{}, err
	}
	if resp.SourceID == "" || resp.Token == "" {
		return RegisterResponse{}, fmt.Errorf("register at %s: the answer names no source server or no token; is this a Drover center?", c.base)
	}
	return resp, nil
}

// Heartbeat reports that the agent lives.
func (c *Client) Heartbeat(ctx context.Context, req HeartbeatRequest) (HeartbeatResponse, error) {
	var resp HeartbeatResponse
	err := c.call(ctx, http.MethodPost, PathHeartbeat, nil, req, &resp, answerMargin)
	return resp, err
}

// Work returns the state the center wants the agent in: at once when its generation is not q.Have, else
// when it changes or after q.Wait, whichever comes first.
func (c *Client) Work(ctx context.Context, q WorkQuery) (Desired, error) {
	var desired Desired
	if err := c.call(ctx, http.MethodGet, PathWork, q.values(), nil, &desired, q.Wait+answerMargin); err != nil {
		return Desired{}, err
	}
	return desired, c.checkGeneration(desired.Generation)
}

func (q WorkQuery) values() url.Values {
	return url.Values{
		QueryInstance: {q.Instance},
		QueryHave:     {strconv.FormatInt(q.Have, 10)},
		QueryWait:     {q.Wait.String()},
	}
}

func (c *Client) checkGeneration(generation int64) error {
	if generation < 1 {
		return fmt.Errorf("ask %s for work: the answer has generation %d, want at least 1", c.base, generation)
	}
	return nil
}

// ParseWorkQuery reads the query of a request for work. Wait defaults to DefaultWait and is cut to MaxWait.
func ParseWorkQuery(values url.Values) (WorkQuery, error) {
	q := WorkQuery{Instance: values.Get(QueryInstance), Wait: DefaultWait}
	if q.Instance == "" {
		return WorkQuery{}, fmt.Errorf("parameter %q is missing", QueryInstance)
	}
	if s := values.Get(QueryHave); s != "" {
		have, err := strconv.ParseInt(s, 10, 64)
		if err != nil || have < 0 {
			return WorkQuery{}, fmt.Errorf("parameter %q is %q, want the generation last received", QueryHave, s)
		}
		q.Have = have
	}
	if s := values.Get(QueryWait); s != "" {
		wait, err := time.ParseDuration(s)
		if err != nil || wait < 0 {
			return WorkQuery{}, fmt.Errorf("parameter %q is %q, want a duration such as 25s", QueryWait, s)
		}
		q.Wait = min(wait, MaxWait)
	}
	return q, nil
}

func (c *Client) call(ctx context.Context, method, path string, query url.Values, in, out any, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	target := c.base.JoinPath(path)
	target.RawQuery = query.Encode()
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode the body of %s: %w", path, err)
		}
		if len(data) > MaxBodyBytes {
			return fmt.Errorf("the body of %s has %d bytes, more than the %d the center takes", path, len(data), MaxBodyBytes)
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, target.String(), body)
	if err != nil {
		return fmt.Errorf("make the request %s %s: %w", method, path, err)
	}
	req.Header.Set("Accept", "application/json")
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}

	resp, err := c.http.Do(req)
	if err != nil {
		return err // *url.Error: names method and URL
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, MaxBodyBytes+1))
	if err != nil {
		return fmt.Errorf("read the answer of %s %s: %w", method, target, err)
	}
	if len(data) > MaxBodyBytes {
		return fmt.Errorf("the answer of %s %s is longer than %d bytes; is this a Drover center?", method, target, MaxBodyBytes)
	}
	if resp.StatusCode != http.StatusOK {
		return decodeError(resp, data)
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("the answer of %s %s is not the JSON it should be: %w; is this a Drover center?", method, target, err)
	}
	return nil
}

// decodeError turns a refusal into an *smc.Error. A body that is not the contract's (a proxy's page, say)
// gets the code UnexpectedAnswer and shows its beginning.
func decodeError(resp *http.Response, body []byte) error {
	var wire struct {
		RequestID string `json:"RequestId"`
		HostID    string `json:"HostId"`
		Code      string `json:"Code"`
		Message   string `json:"Message"`
	}
	if err := json.Unmarshal(body, &wire); err != nil || wire.Code == "" {
		text := strings.TrimSpace(string(body[:min(len(body), 200)]))
		return &smc.Error{
			Code:       CodeUnexpectedAnswer,
			HTTPStatus: resp.StatusCode,
			Message:    fmt.Sprintf("%s answered %s %q; is it a Drover center?", resp.Request.URL.Host, resp.Status, text),
		}
	}
	return &smc.Error{HTTPStatus: resp.StatusCode, Code: wire.Code, Message: wire.Message, RequestID: wire.RequestID, HostID: wire.HostID}
}
