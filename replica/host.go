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
	"time"

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

// DefaultIdleTimeout is how long a session waits for a silent source.
const DefaultIdleTimeout = 10 * time.Minute

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
	// IdleTimeout is how long a session waits for a silent source before it
	// fails with SourceServer.Offline. Default [DefaultIdleTimeout].
	IdleTimeout time.Duration
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

	mu       sync.Mutex
	closed   bool
	sessions map[string]*Session
	busy     map[string]chan struct{}
}

// NewHost opens the root and locks it against a second host.
func NewHost(cfg HostConfig) (*Host, error) {
	if cfg.Root == "" || cfg.Epochs == nil || len(cfg.Key) < 16 {
		return nil, errors.New("a transition host needs a root directory, an epoch store and a key of at least 16 bytes")
	}
	if cfg.IdleTimeout <= 0 {
		cfg.IdleTimeout = DefaultIdleTimeout
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
		h.mu.Lock()
		if h.closed {
			h.mu.Unlock()
			return nil, errors.New("the transition host is closed")
		}
		wait, taken := h.busy[name]
		if !taken {
			done := make(chan struct{})
			h.busy[name] = done
			h.mu.Unlock()
			return func() {
				h.mu.Lock()
				delete(h.busy, name)
				h.mu.Unlock()
				close(done)
			}, nil
		}
		h.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
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

// reserve is what is left free on the host's volume for its own needs.
const reserve = 64 << 20

// Prepare makes the staging area of a job and keeps what is already there. A
// source disk that grew is grown; one that shrank is refused. needBytes is how
// much the run is expected to store (0: the size of all disks), checked
// against free space: an error of code InsufficientStorage. A session of the
// job that is still open is closed.
func (h *Host) Prepare(ctx context.Context, jobID string, disks []Disk, needBytes int64) error {
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
	if err := checkSpace(dir, disks, needBytes); err != nil {
		return err
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

// checkSpace compares what the run still has to store with what is free.
func checkSpace(dir string, disks []Disk, need int64) error {
	var have int64
	total := int64(0)
	for _, d := range disks {
		total += d.SizeBytes
		f, err := os.Open(rawPath(dir, d.Index))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return storageError(err, "look at disk %d", d.Index)
		}
		allocated, _, err := allocatedAndLinks(f)
		f.Close()
		if err != nil {
			return storageError(err, "look at disk %d", d.Index)
		}
		have += allocated
	}
	if need <= 0 {
		need = total
	}
	free, err := freeBytes(dir)
	if err != nil {
		return storageError(err, "prepare the staging area")
	}
	// The maps take a two-thousandth of the disks.
	want := max(need-have, 0) + total/(GrainSize/HashSize) + reserve
	if want > free {
		return newError(CodeInsufficientStorage,
			"the transition host has %d MiB free and needs %d MiB; free some space and start the job again", free>>20, want>>20)
	}
	return nil
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
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		code = CodeInsufficientStorage
	}
	return newError(code, "%s: %w", fmt.Sprintf(format, args...), err)
}

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
	h.endSession(jobID)
	return storageError(os.RemoveAll(h.stagingDir(jobID)), "remove the staging area of %s", jobID)
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
