package replica

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A window that is sent again costs nothing when the host does not take it, and arrives whole when it does.
func TestWindowSentAgainAsksFirst(t *testing.T) {
	take := false
	var got []byte
	host := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !take {
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"Code":"`+CodeSessionNotOpen+`","Message":"not yet"}`)
			return
		}
		got, _ = io.ReadAll(r.Body)
	}))
	defer host.Close()
	data := bytes.Repeat([]byte{7}, WindowSize)
	put := func() (left int64, err error) {
		body := &windowBody{ctx: t.Context(), rest: data}
		api := apiClient{client: NewClient(nil), base: host.URL}
		err = api.put(t.Context(), "/", 1, "a:1:1", body, int64(len(data)), true)
		return body.stop(), err
	}
	left, err := put()
	requireCode(t, err, CodeSessionNotOpen)
	assert.Equal(t, int64(len(data)), left, "bytes that were not sent")

	take = true
	left, err = put()
	require.NoError(t, err)
	assert.Zero(t, left)
	assert.Equal(t, data, got)
}

// stalledHost answers a request with a text and then neither reads nor writes, as a host does that is stopped.
func stalledHost(t *testing.T, answer string) apiClient {
	t.Helper()
	client := NewClient(nil)
	client.Transport.(*http.Transport).DialContext = func(context.Context, string, string) (net.Conn, error) {
		here, there := net.Pipe()
		t.Cleanup(func() { there.Close() })
		go func() {
			if _, err := http.ReadRequest(bufio.NewReaderSize(there, 16)); err == nil {
				_, _ = io.WriteString(there, answer)
			}
		}()
		return here, nil
	}
	return apiClient{client: client, base: "http://host"}
}

func TestHostThatStandsStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		api := stalledHost(t, "")
		data := make([]byte, WindowSize)
		body := &windowBody{ctx: t.Context(), rest: data}
		require.ErrorIs(t, api.put(t.Context(), "/", 1, "a:1:1", body, int64(len(data)), false), errStalled)
		require.Positive(t, body.stop())
		require.Equal(t, stallTimeout, time.Since(begin))
	})
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		resp, err := stalledHost(t, "HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\nhalf").stream(t.Context(), http.MethodGet, "/", nil)
		require.NoError(t, err)
		defer resp.Body.Close()
		got, err := io.ReadAll(resp.Body)
		require.ErrorIs(t, err, errStalled)
		require.Equal(t, "half", string(got))
		require.Equal(t, answerTimeout, time.Since(begin))
	})
}

// Who takes long between two reads of an answer is not the host that stands still; nor is a bandwidth that lets little through.
func TestTimeThatIsOurs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		resp, err := stalledHost(t, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhalf").stream(t.Context(), http.MethodGet, "/", nil)
		require.NoError(t, err)
		defer resp.Body.Close()
		<-time.After(2 * answerTimeout)
		got, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, "half", string(got))
	})
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		stall := time.AfterFunc(stallTimeout, func() { cancel(errStalled) })
		defer stall.Stop()
		limiter, _, _ := limit(1, 1)
		body := &requestBody{ReadCloser: &windowBody{ctx: ctx, limiter: limiter, rest: make([]byte, GrainSize)}, stall: stall}
		begin := time.Now()
		_, err := io.Copy(io.Discard, body)
		require.NoError(t, err)
		require.Greater(t, time.Since(begin), 2*stallTimeout)
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Each attachment is a new epoch in the database: a source that cannot get any further does not ask for one after the other.
func TestAttachingBacksOff(t *testing.T) {
	disk := makeDisk(t, 1<<20, 1)
	attached := 0
	client := &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		if r.Method != http.MethodPost {
			return nil, errors.New("no answer is as long as this one would be")
		}
		attached++
		answer, err := json.Marshal(attachAnswer{Epoch: int64(attached), Run: 1, Disks: sizes(t, []SourceDisk{disk})})
		return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(answer))}, err
	})}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := Sync(ctx, SyncConfig{HostURL: "http://host", JobID: "j-1", Instance: "a", Disks: []SourceDisk{disk}, Client: client}, nil)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
	require.Greater(t, attached, 5)
	require.Less(t, attached, 40)
}
