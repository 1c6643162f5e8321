package replica

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/drover/drover/durable"
)

// EpochStore keeps the epoch of each job's sync session where every part of
// the center sees it.
type EpochStore interface {
	// RaiseEpoch makes a new epoch current and returns it: a sender attaches.
	// Epochs are positive and grow. It returns an error matching
	// [ErrSessionClosed] when the job is not syncing that run.
	RaiseEpoch(ctx context.Context, jobID string, run int) (int64, error)
	// CheckEpoch returns nil when epoch is current and an error matching
	// [ErrFenced] when it is not. It is asked at every commit.
	CheckEpoch(ctx context.Context, jobID string, epoch int64) error
}

// HostConfig is what a [Host] needs.
type HostConfig struct {
	// Root is the directory that holds staging/ and images/; it is made when
	// missing. One host uses it at a time.
	Root string
	// ID names the host in logs (the TransitionInstanceId).
	ID string
	// Key signs session tokens and image tickets; the center holds the same.
	Key []byte
	// Epochs fences writers.
	Epochs EpochStore
	// OnVerified is told the outcome of every verification of an image before its answer is; an error becomes the
	// answer. Optional.
	OnVerified func(ctx context.Context, imageID string, result *VerifyResult) error
	// Logger defaults to none.
	Logger *zap.Logger
}

// Host receives disks and keeps images. Its methods may be used concurrently.
type Host struct {
	cfg     HostConfig
	log     *zap.Logger
	lock    *os.File
	dec     *decoder
	handler http.Handler
	windows sync.Pool // *[]byte of WindowSize

	probe  sync.Once
	shares bool // whether files can share blocks; set by probe

	mu       sync.Mutex
	closed   bool
	sessions map[string]*Session
	busy     map[string]chan struct{}

	readers readers
	counts  counts
}

// NewHost opens the root and locks it against a second host.
func NewHost(cfg HostConfig) (*Host, error) {
	if cfg.Root == "" || cfg.Epochs == nil || len(cfg.Key) < 16 {
		return nil, errors.New("a transition host needs a root directory, an epoch store and a key of at least 16 bytes")
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	for _, dir := range []string{"staging", "images"} {
		if err := os.MkdirAll(filepath.Join(cfg.Root, dir), 0o700); err != nil {
			return nil, fmt.Errorf("make the image store: %w", err)
		}
	}
	lock, err := lockRoot(cfg.Root)
	if err != nil {
		return nil, err
	}
	dec, err := newDecoder()
	if err != nil {
		lock.Close()
		return nil, err
	}
	h := &Host{
		cfg:      cfg,
		log:      cfg.Logger.With(zap.String("host_id", cfg.ID)),
		lock:     lock,
		dec:      dec,
		sessions: make(map[string]*Session),
		busy:     make(map[string]chan struct{}),
	}
	h.windows.New = func() any {
		b := make([]byte, WindowSize)
		return &b
	}
	h.handler = h.routes()
	return h, nil
}

func lockRoot(root string) (*os.File, error) {
	path := filepath.Join(root, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock of the image store: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("the image store %s is in use by another process; stop that one or choose another root: %w", root, err)
	}
	return f, nil
}

// Close ends all sessions and releases the root.
func (h *Host) Close() error {
	h.mu.Lock()
	h.closed = true
	sessions := make([]*Session, 0, len(h.sessions))
	for _, s := range h.sessions {
		sessions = append(sessions, s)
	}
	h.mu.Unlock()
	for _, s := range sessions {
		s.Close()
	}
	return h.lock.Close()
}

// ID returns the host's id (the TransitionInstanceId).
func (h *Host) ID() string { return h.cfg.ID }

// Handler serves the protocol under /replica/v1/.
func (h *Host) Handler() http.Handler { return h.handler }

// idPattern is what may become a directory name.
var idPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,79}$`)

func checkID(what, id string) error {
	if !idPattern.MatchString(id) {
		return newError(CodeInvalidRequest, "%q is not a valid %s", id, what)
	}
	return nil
}

func (h *Host) stagingDir(jobID string) string { return filepath.Join(h.cfg.Root, "staging", jobID) }

func (h *Host) imageDir(imageID string) string { return filepath.Join(h.cfg.Root, "images", imageID) }

// exclusive waits until no other operation holds the name.
func (h *Host) exclusive(ctx context.Context, name string) (release func(), err error) {
	for {
		release, wait, err := h.tryExclusive(name)
		if err != nil || release != nil {
			return release, err
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// tryExclusive returns no release when another operation holds the name; wait is closed when that ends.
func (h *Host) tryExclusive(name string) (release func(), wait <-chan struct{}, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, nil, errors.New("the transition host is closed")
	}
	if wait, taken := h.busy[name]; taken {
		return nil, wait, nil
	}
	done := make(chan struct{})
	h.busy[name] = done
	return func() {
		h.mu.Lock()
		delete(h.busy, name)
		h.mu.Unlock()
		close(done)
	}, nil, nil
}

func (h *Host) session(jobID string) *Session {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sessions[jobID]
}

// endSession closes and forgets the session of a job.
func (h *Host) endSession(jobID string) {
	if s := h.session(jobID); s != nil {
		s.Close()
		h.mu.Lock()
		if h.sessions[jobID] == s {
			delete(h.sessions, jobID)
		}
		h.mu.Unlock()
	}
}

// Prepare makes the staging area of a job and keeps what is already there. A
// source disk that grew is grown; one that shrank is refused. Whether there is
// room for what the disks hold is for the caller to ask [Host.Space]. A session
// of the job that is still open is closed.
func (h *Host) Prepare(ctx context.Context, jobID string, disks []Disk) error {
	if err := errors.Join(checkID("job id", jobID), checkDisks(disks)); err != nil {
		return err
	}
	release, err := h.exclusive(ctx, "job/"+jobID)
	if err != nil {
		return err
	}
	defer release()
	h.endSession(jobID)
	dir := h.stagingDir(jobID)
	if err := makeDir(dir); err != nil {
		return storageError(err, "make the staging area of %s", jobID)
	}
	st, err := loadState(dir)
	if err != nil {
		return storageError(err, "read the staging area of %s", jobID)
	}
	staged, err := openStaged(ctx, dir, disks)
	if err != nil {
		return storageError(err, "prepare the staging area of %s", jobID)
	}
	if err := closeStaged(staged); err != nil {
		return storageError(err, "prepare the staging area of %s", jobID)
	}
	if err := durable.SyncDir(dir); err != nil {
		return storageError(err, "prepare the staging area of %s", jobID)
	}
	st.JobID = jobID
	if !slices.Equal(st.Disks, disks) {
		st.Disks, st.Complete, st.Roots = slices.Clone(disks), false, nil
	}
	return storageError(st.save(dir), "record the staging area of %s", jobID)
}

// storageError gives an error without a code one; nil stays nil.
func storageError(err error, format string, args ...any) error {
	var coded *Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &coded), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	code := CodeStorageError
	if noSpace(err) {
		code = CodeInsufficientStorage
	}
	return newError(code, "%s: %w", fmt.Sprintf(format, args...), err)
}

// noSpace says whether a write failed because the file system, or a quota, is full.
func noSpace(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

func openStaged(ctx context.Context, dir string, disks []Disk) ([]*stagedDisk, error) {
	var staged []*stagedDisk
	for _, disk := range disks {
		d, err := openStagedDisk(ctx, dir, disk)
		if err != nil {
			for _, d := range staged {
				d.closeFiles()
			}
			return nil, err
		}
		staged = append(staged, d)
	}
	return staged, nil
}

func closeStaged(staged []*stagedDisk) error {
	var err error
	for _, d := range staged {
		err = errors.Join(err, d.close())
	}
	return err
}

// ReleaseStaging removes the staging area of a job, ending its session; one
// that is not there is no error.
func (h *Host) ReleaseStaging(ctx context.Context, jobID string) error {
	if err := checkID("job id", jobID); err != nil {
		return err
	}
	release, err := h.exclusive(ctx, "job/"+jobID)
	if err != nil {
		return err
	}
	defer release()
	return h.removeStaging(jobID)
}

// removeStaging removes a staging area; the caller has it for itself.
func (h *Host) removeStaging(jobID string) error {
	h.endSession(jobID)
	dir := h.stagingDir(jobID)
	return storageError(removeDir(dir, statePath(dir)), "remove the staging area of %s", jobID)
}

// removeDir removes a directory, first the file that says what it is: what a crash leaves of it is nothing.
func removeDir(dir, first string) error {
	err := os.Remove(first)
	if err == nil {
		err = durable.SyncDir(dir)
	}
	if err == nil || errors.Is(err, os.ErrNotExist) {
		err = os.RemoveAll(dir)
	}
	return err
}

// StagingIDs returns the jobs that have a staging area, sorted.
func (h *Host) StagingIDs() ([]string, error) { return listDirs(filepath.Join(h.cfg.Root, "staging")) }

// ImageIDs returns every image directory, sorted, those included that hold
// only part of an image after a crash.
func (h *Host) ImageIDs() ([]string, error) { return listDirs(filepath.Join(h.cfg.Root, "images")) }

func listDirs(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, storageError(err, "list %s", dir)
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}
