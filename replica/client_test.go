package replica

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

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
