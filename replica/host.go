package replica

import (
	"context"
	"errors"
	"net/http"
	"time"

	"go.uber.org/zap"
)

var errNotBuilt = errors.New("replica: not built yet")

// EpochStore keeps the epoch of each job's sync session where every part of
// the center sees it.
type EpochStore interface {
	// RaiseEpoch makes a new epoch current and returns it: a sender attaches.
	// It returns an error matching [ErrSessionClosed] when the job is not
	// syncing that run.
	RaiseEpoch(ctx context.Context, jobID string, run int) (int64, error)
	// CheckEpoch returns nil when epoch is current and an error matching
	// [ErrFenced] when it is not. It is asked at every commit.
	CheckEpoch(ctx context.Context, jobID string, epoch int64) error
}

// HostConfig is what a [Host] needs.
type HostConfig struct {
	// Root is the directory that holds staging/ and images/. One host uses it at a time.
	Root string
	// ID names the host in logs (the TransitionInstanceId).
	ID string
	// Key signs session tokens and image tickets; the center holds the same.
	Key []byte
	// Epochs fences writers.
	Epochs EpochStore
	// IdleTimeout is how long a session waits for a silent source before it
	// fails with SourceServer.Offline. Default 10 minutes.
	IdleTimeout time.Duration
	// Logger defaults to none.
	Logger *zap.Logger
}

// Host receives disks and keeps images. Its methods may be used concurrently.
type Host struct{}

// NewHost opens the root, and locks it against a second host.
func NewHost(cfg HostConfig) (*Host, error) { return nil, errNotBuilt }

// Close ends all sessions and releases the root.
func (h *Host) Close() error { return errNotBuilt }

// Handler serves the protocol under /replica/v1/.
func (h *Host) Handler() http.Handler { return nil }

// Prepare makes the staging area of a job; needBytes is how much the run is
// expected to store (0 = the size of all disks), checked against free space.
func (h *Host) Prepare(ctx context.Context, jobID string, disks []Disk, needBytes int64) error {
	return errNotBuilt
}

// SessionSpec says what a session synchronises.
type SessionSpec struct {
	JobID  string
	Run    int
	Disks  []Disk
	Params Params
}

// Session is one run's synchronisation on this host.
type Session struct{}

// SyncResult is the outcome of a completed session.
type SyncResult struct {
	// Progress is the final progress.
	Progress Progress
	// AlreadyComplete says that the run had completed before this session was opened.
	AlreadyComplete bool
}

// OpenSession lets senders attach to a job's run. It replaces an older session of the job.
func (h *Host) OpenSession(ctx context.Context, spec SessionSpec) (*Session, error) {
	return nil, errNotBuilt
}

// Wait blocks until the session is complete, failed, fenced, or ctx is done,
// and closes it. It calls onProgress every interval.
func (s *Session) Wait(ctx context.Context, every time.Duration, onProgress func(Progress)) (SyncResult, error) {
	return SyncResult{}, errNotBuilt
}

// Progress returns how far the session is.
func (s *Session) Progress() Progress { return Progress{} }

// Close stops taking data; requests under way fail at once.
func (s *Session) Close() {}
