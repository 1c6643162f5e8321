package center

import (
	"io"
	"net/http"
	"time"
)

// DefaultBodyTimeout is how long the body of a call may take to come.
const DefaultBodyTimeout = 30 * time.Second

// inTime has the bodies of calls come within a time: who sends one slowly would else hold a connection for as long as he likes,
// and need no key for it.
func inTime(limit time.Duration, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 { // -1: it is not known how long
			body := &timedBody{ReadCloser: r.Body, control: http.NewResponseController(w)}
			r.Body = body
			if r.Method == http.MethodPost { // other calls have none, and may wait for their answer
				body.within(limit)
			}
			defer body.within(limit) // the server reads what is left of it
		}
		next.ServeHTTP(w, r)
	})
}

// timedBody is a body that has to come in time. What follows once it is there may take longer.
type timedBody struct {
	io.ReadCloser
	control *http.ResponseController
	ended   bool
}

// within has the rest of the body come within a time.
func (b *timedBody) within(limit time.Duration) {
	if !b.ended {
		_ = b.control.SetReadDeadline(time.Now().Add(limit)) // not every server has deadlines
	}
}

// Read implements io.Reader.
func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF && !b.ended {
		b.ended = true
		_ = b.control.SetReadDeadline(time.Time{})
	}
	return n, err
}
