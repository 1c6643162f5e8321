package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
)

// The protocol between senders, exporters and the host.
const (
	apiPrefix = "/replica/v1"
	// epochHeader carries the epoch that attach returned.
	epochHeader = "Drover-Epoch"
	// sentHeader carries "<sender>:<wire bytes>:<raw bytes>" sent since the
	// sender began, this body included.
	sentHeader = "Drover-Sent"
	// maxJSON bounds what a request may say in JSON.
	maxJSON = 1 << 20
	// stallTimeout is how long a body may stand still.
	stallTimeout = 2 * time.Minute
)

type attachRequest struct {
	Instance string `json:"instance"`
}

type attachAnswer struct {
	Epoch    int64  `json:"epoch"`
	Run      int    `json:"run"`
	Complete bool   `json:"complete,omitempty"`
	Disks    []Disk `json:"disks"`
	Params   Params `json:"params"`
}

type diskReport struct {
	Index     int   `json:"index"`
	BytesRead int64 `json:"bytesRead"`
	Root      Hash  `json:"root"`
}

type reportRequest struct {
	Disks []diskReport `json:"disks"`
}

func (h *Host) routes() http.Handler {
	mux := http.NewServeMux()
	session := func(pattern string, serve func(*Session, http.ResponseWriter, *http.Request) error) {
		method, path, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(method+" "+apiPrefix+"/sessions/{job}"+path, func(w http.ResponseWriter, r *http.Request) {
			h.answer(w, r, h.serveSession(w, r, serve))
		})
	}
	session("POST /attach", (*Session).serveAttach)
	session("GET /disks/{disk}/map", (*Session).serveMap)
	session("PUT /disks/{disk}/frames", (*Session).serveFrames)
	session("POST /progress", (*Session).serveProgress)
	session("POST /complete", (*Session).serveComplete)
	session("POST /fail", (*Session).serveFail)
	image := func(pattern string, serve func(*Host, http.ResponseWriter, *http.Request) error) {
		method, path, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(method+" "+apiPrefix+"/images/{image}"+path, func(w http.ResponseWriter, r *http.Request) {
			err := h.authorize(r, TokenImage, r.PathValue("image"))
			if err == nil {
				defer h.readers.begin(r.PathValue("image"))()
				err = serve(h, w, r)
			}
			h.answer(w, r, err)
		})
	}
	image("GET /disks/{disk}", (*Host).serveImageDisk)
	image("GET /disks/{disk}/hashes", (*Host).serveImageHashes)
	image("POST /disks/{disk}/grains", (*Host).serveImageGrains)
	image("GET /container/{path...}", (*Host).serveContainerFile)
	image("POST /verify", (*Host).serveVerify)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		h.answer(w, r, &Error{Code: CodeInvalidRequest, Message: "no such resource on a transition host", Disk: NoDisk})
	})
	return mux
}

func (h *Host) authorize(r *http.Request, kind, id string) error {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return newError(CodeUnauthorized, "%w: it is missing", ErrRefused)
	}
	if err := VerifyToken(h.cfg.Key, token, kind, id, time.Now()); err != nil {
		return newError(CodeUnauthorized, "%w", err)
	}
	return nil
}

func (h *Host) serveSession(w http.ResponseWriter, r *http.Request, serve func(*Session, http.ResponseWriter, *http.Request) error) error {
	job := r.PathValue("job")
	if err := h.authorize(r, TokenSession, job); err != nil {
		return err
	}
	s := h.session(job)
	if s == nil {
		return newError(CodeSessionNotOpen, "job %s has no open sync session on this host", job)
	}
	s.touch()
	// A request lives no longer than its session, and a window that is being
	// read is cut off with it. Other bodies are short.
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	control, window := http.NewResponseController(w), r.Method == http.MethodPut
	stop := context.AfterFunc(s.ctx, func() {
		cancel()
		if window {
			control.SetReadDeadline(time.Now()) //nolint:errcheck // a server that cannot is cut off by the stall timeout
		}
	})
	err := serve(s, w, r.WithContext(ctx))
	if !stop() && window && err == nil {
		// The server takes the deadline for the end of its peer: every later
		// request of this connection would be born canceled. An error closes
		// the connection of a window anyway.
		panic(http.ErrAbortHandler)
	}
	return err
}

// answer writes what an operation that has not answered itself came to.
func (h *Host) answer(w http.ResponseWriter, r *http.Request, err error) {
	if err == nil {
		return
	}
	var coded *Error
	if !errors.As(err, &coded) {
		if r.Context().Err() != nil {
			return // nobody is listening
		}
		coded = newError(CodeInternal, "%w", err)
	}
	if coded.Code == CodeFenced {
		h.counts.fenced.Add(1)
	}
	status := coded.status()
	if status == http.StatusInternalServerError {
		h.log.Error("request failed", zap.String("path", r.URL.Path), zap.Error(err))
	}
	// What is left of a body is not worth reading.
	if r.Method == http.MethodPut {
		w.Header().Set("Connection", "close")
	}
	writeJSON(w, status, coded)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) //nolint:errcheck // the peer may be gone
}

func readJSON(w http.ResponseWriter, r *http.Request, v any) error {
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxJSON)).Decode(v); err != nil {
		return newError(CodeInvalidRequest, "the request is not valid JSON: %w", err)
	}
	return nil
}

func epochOf(r *http.Request) (int64, error) {
	epoch, err := strconv.ParseInt(r.Header.Get(epochHeader), 10, 64)
	if err != nil || epoch <= 0 {
		return 0, newError(CodeInvalidRequest, "the header %s is missing or not a number", epochHeader)
	}
	return epoch, nil
}

func (s *Session) diskOf(r *http.Request) (*stagedDisk, error) {
	index, err := strconv.Atoi(r.PathValue("disk"))
	if err != nil {
		return nil, newError(CodeInvalidRequest, "%q is not a disk number", r.PathValue("disk"))
	}
	s.fence.RLock()
	defer s.fence.RUnlock()
	if s.closed || s.complete.Load() {
		return nil, s.notOpen()
	}
	return s.disk(index)
}

func (s *Session) serveAttach(w http.ResponseWriter, r *http.Request) error {
	var req attachRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	if err := checkID("instance", req.Instance); err != nil {
		return err
	}
	answer, err := s.attach(r.Context(), req.Instance)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, answer)
	return nil
}

func (s *Session) serveMap(w http.ResponseWriter, r *http.Request) error {
	d, err := s.diskOf(r)
	if err != nil {
		return err
	}
	// A handle of its own: a slow reader must not hold up a stop.
	f, err := os.Open(mapPath(s.dir, d.Index))
	if err != nil {
		return s.broken(storageError(err, "open the map of disk %d", d.Index))
	}
	defer f.Close()
	size := grains(d.SizeBytes) * HashSize
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	return streamBody(w, &mapBody{r: io.NewSectionReader(f, 0, size), s: s, disk: d.Index})
}

// mapBody reads a map for a sender, whose taking it is a sign of life. A map
// that cannot be read ends the session.
type mapBody struct {
	r    io.Reader
	s    *Session
	disk int
}

func (r *mapBody) Read(p []byte) (int, error) {
	r.s.touch()
	n, err := r.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = r.s.broken(storageError(err, "read the map of disk %d", r.disk))
	}
	return n, err
}

// streamBody copies r to w in pieces, each of which must get through in time.
func streamBody(w http.ResponseWriter, r io.Reader) error {
	control := http.NewResponseController(w)
	defer control.SetWriteDeadline(time.Time{}) //nolint:errcheck // best effort
	buf := make([]byte, 256<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			control.SetWriteDeadline(time.Now().Add(stallTimeout)) //nolint:errcheck // best effort
			if _, err := w.Write(buf[:n]); err != nil {
				panic(http.ErrAbortHandler)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			panic(http.ErrAbortHandler)
		}
	}
}

// livelyBody notes signs of life and cuts off a body that stands still or
// whose session has ended.
type livelyBody struct {
	io.Reader
	s       *Session
	control *http.ResponseController
	until   time.Time
}

func (b *livelyBody) Read(p []byte) (int, error) {
	if now := time.Now(); b.until.Sub(now) < stallTimeout/2 {
		b.until = now.Add(stallTimeout)
		b.control.SetReadDeadline(b.until) //nolint:errcheck // not every server has deadlines
		if b.s.ctx.Err() != nil {
			return 0, b.s.notOpen()
		}
	}
	n, err := b.Reader.Read(p)
	b.s.touch()
	b.s.host.counts.received.Add(int64(n))
	return n, err
}

func (s *Session) serveFrames(w http.ResponseWriter, r *http.Request) error {
	d, err := s.diskOf(r)
	if err != nil {
		return err
	}
	epoch, err := epochOf(r)
	if err != nil {
		return err
	}
	sender, counts, err := parseSent(r.Header.Get(sentHeader))
	if err != nil {
		return err
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		return newError(CodeBusy, "job %s has %d windows in flight already; try again", s.spec.JobID, maxStreams)
	}
	if r.Header.Get("Expect") != "" {
		// Who sends a window again asks first: one that could not be committed now need not be sent. Else it would be sent again and again
		// while the epochs cannot be asked.
		if err := s.admits(r.Context(), epoch); err != nil {
			return err
		}
	}
	// A stale sender is told before it has sent its window.
	s.fence.RLock()
	stale, open := s.epoch != 0 && epoch != s.epoch, !s.closed
	var ledgerErr error
	if open {
		// Now and not at the commit: what was seen once must not be forgotten.
		s.ledger.sentBy(sender, counts)
		ledgerErr = s.count()
	}
	s.fence.RUnlock()
	if ledgerErr != nil {
		return ledgerErr
	}
	if stale {
		return newError(CodeFenced, "epoch %d of job %s is no longer current", epoch, s.spec.JobID)
	}

	window := s.host.windows.Get().(*[]byte)
	defer s.host.windows.Put(window)
	body := &livelyBody{Reader: http.MaxBytesReader(w, r.Body, maxBody), s: s, control: http.NewResponseController(w)}
	frames, err := decodeBody(newFrameReader(body, d.SizeBytes, s.host.dec), *window)
	if err != nil {
		if s.ctx.Err() != nil {
			return s.notOpen()
		}
		var coded *Error
		if !errors.As(err, &coded) {
			return newError(CodeInvalidFrame, "the body could not be read: %w", err)
		}
		coded.Disk = d.Index
		return coded
	}
	body.control.SetReadDeadline(time.Time{}) //nolint:errcheck // as above
	if err := s.commit(r.Context(), d, epoch, frames); err != nil {
		if s.ctx.Err() != nil && r.Context().Err() != nil && !isCoded(err) {
			return s.notOpen()
		}
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func isCoded(err error) bool {
	var coded *Error
	return errors.As(err, &coded)
}

func parseSent(header string) (sender string, counts sent, err error) {
	parts := strings.Split(header, ":")
	if len(parts) == 3 && idPattern.MatchString(parts[0]) {
		wire, wireErr := strconv.ParseInt(parts[1], 10, 64)
		raw, rawErr := strconv.ParseInt(parts[2], 10, 64)
		if wireErr == nil && rawErr == nil && wire >= 0 && raw >= 0 {
			return parts[0], sent{Wire: wire, Raw: raw}, nil
		}
	}
	return "", sent{}, newError(CodeInvalidRequest, "the header %s is not <sender>:<wire bytes>:<raw bytes>", sentHeader)
}

func formatSent(sender string, counts sent) string {
	return fmt.Sprintf("%s:%d:%d", sender, counts.Wire, counts.Raw)
}

func (s *Session) serveProgress(w http.ResponseWriter, r *http.Request) error {
	return s.serveReport(w, r, s.report)
}

func (s *Session) serveComplete(w http.ResponseWriter, r *http.Request) error {
	return s.serveReport(w, r, s.completeWith)
}

func (s *Session) serveReport(w http.ResponseWriter, r *http.Request, take func(context.Context, int64, []diskReport) error) error {
	var req reportRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	epoch, err := epochOf(r)
	if err != nil {
		return err
	}
	if err := take(r.Context(), epoch, req.Disks); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Session) serveFail(w http.ResponseWriter, r *http.Request) error {
	failure := Error{Disk: NoDisk}
	if err := readJSON(w, r, &failure); err != nil {
		return err
	}
	if failure.Code == "" || len(failure.Code) > 128 || len(failure.Message) > 4096 {
		return newError(CodeInvalidRequest, "a failure needs a code of at most 128 and a message of at most 4096 bytes")
	}
	epoch, err := epochOf(r)
	if err != nil {
		return err
	}
	if err := s.fail(r.Context(), epoch, &failure); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
