package replica

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/drover/drover/durable"
)

// SessionSpec says what a session synchronises.
type SessionSpec struct {
	JobID string
	// Run is the number of the job's run; a higher one starts new counts.
	Run int
	// Term sets apart runs of one number: a center that was restored from a backup makes runs anew that it had
	// made already, in a later term.
	Term   int
	Disks  []Disk
	Params Params
}

// SyncResult is the outcome of a completed session.
type SyncResult struct {
	// Progress is the final progress.
	Progress Progress
	// AlreadyComplete says that the run had completed before this session was opened.
	AlreadyComplete bool
}

// ErrSessionReplaced is what Wait returns when the session was closed or a
// newer session of the job took its place.
var ErrSessionReplaced = errors.New("the sync session was closed or replaced by a newer one")

// Session is one run's synchronisation on this host.
type Session struct {
	host *Host
	spec SessionSpec
	dir  string
	log  *zap.Logger

	// ctx ends when the session does: requests under way fail then.
	ctx    context.Context
	cancel context.CancelFunc

	// fence is held shared during a commit and exclusively by what must see no
	// commit under way: attaching, completing, closing.
	fence  sync.RWMutex
	epoch  int64 // 0: nobody attached to this session yet
	closed bool

	disks  []*stagedDisk
	ledger *ledger
	slots  chan struct{}

	heard atomic.Int64 // unix nanoseconds of the last sign of the source
	moves atomic.Int64 // how often the source got on
	reads atomic.Int64 // the most that the sender attached now said to have read

	finish   sync.Once
	done     chan struct{}
	err      error // set before done is closed
	complete atomic.Bool
	already  bool
}

// maxStreams bounds the windows of one session that are in flight at once.
const maxStreams = 8

// OpenSession lets senders attach to a job's run. It replaces and closes an
// older session of the job. A run that had completed already is complete at
// once. The staging area is made when [Host.Prepare] did not.
func (h *Host) OpenSession(ctx context.Context, spec SessionSpec) (*Session, error) {
	if err := errors.Join(checkID("job id", spec.JobID), checkDisks(spec.Disks), spec.Params.check()); err != nil {
		return nil, err
	}
	release, err := h.exclusive(ctx, "job/"+spec.JobID)
	if err != nil {
		return nil, err
	}
	defer release()
	h.endSession(spec.JobID)

	dir := h.stagingDir(spec.JobID)
	if err := makeDir(dir); err != nil {
		return nil, storageError(err, "make the staging area of %s", spec.JobID)
	}
	st, err := loadState(dir)
	if err != nil {
		return nil, storageError(err, "read the staging area of %s", spec.JobID)
	}
	spec.Disks = slices.Clone(spec.Disks)
	s := &Session{
		host:  h,
		spec:  spec,
		dir:   dir,
		log:   h.log.With(zap.String("job_id", spec.JobID), zap.Int("run", spec.Run)),
		done:  make(chan struct{}),
		slots: make(chan struct{}, maxStreams),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.touch()
	if s.ledger, err = openLedger(dir, spec.Run, spec.Term); err != nil {
		s.cancel()
		return nil, storageError(err, "open the ledger of %s", spec.JobID)
	}
	if st.Complete && st.Run == spec.Run && st.Term == spec.Term && slices.Equal(st.Disks, spec.Disks) {
		s.already = true
		s.complete.Store(true)
		s.end(nil)
	} else {
		st = stagingState{JobID: spec.JobID, Run: spec.Run, Term: spec.Term, Disks: spec.Disks, Checksum: spec.Params.Checksum}
		if err = st.save(dir); err == nil {
			s.disks, err = openStaged(ctx, dir, spec.Disks)
		}
		if err == nil {
			err = durable.SyncDir(dir)
		}
		if err != nil {
			closeStaged(s.disks) //nolint:errcheck // already failing
			s.ledger.f.Close()
			s.cancel()
			return nil, storageError(err, "open the session of %s", spec.JobID)
		}
	}
	h.mu.Lock()
	closed := h.closed
	if !closed {
		h.sessions[spec.JobID] = s
	}
	h.mu.Unlock()
	if closed {
		s.Close()
		return nil, errors.New("the transition host is closed")
	}
	s.log.Info("sync session open", zap.Int("disks", len(spec.Disks)), zap.Bool("already_complete", s.already))
	return s, nil
}

// Wait blocks until the session is complete, failed, fenced, replaced, or ctx
// is done, and then closes it. It calls onProgress, which may be nil, every
// interval (default one second) and once more at the end. Its errors are an
// [*Error] for a failure, [ErrFenced], [ErrSessionReplaced], or that of ctx. It
// waits for a silent source however long: see [Session.Heard].
func (s *Session) Wait(ctx context.Context, every time.Duration, onProgress func(Progress)) (SyncResult, error) {
	defer s.Close()
	if every <= 0 {
		every = time.Second
	}
	if onProgress == nil {
		onProgress = func(Progress) {}
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-s.done:
			p := s.Progress()
			onProgress(p)
			return SyncResult{Progress: p, AlreadyComplete: s.already}, s.err
		case <-ctx.Done():
			return SyncResult{Progress: s.Progress()}, ctx.Err()
		case <-tick.C:
			onProgress(s.Progress())
		}
	}
}

func (s *Session) touch() { s.heard.Store(time.Now().UnixNano()) }

// Heard returns when the last sign of the source came; at first it is when the
// session was opened.
func (s *Session) Heard() time.Time { return time.Unix(0, s.heard.Load()) }

// Moves counts the signs that the source gets on: data that was stored, and
// disk that was read, if only again to compare it. It grows while Progress may
// stand still.
func (s *Session) Moves() int64 { return s.moves.Load() }

// Progress returns how far the session is.
func (s *Session) Progress() Progress { return s.ledger.progress(s.spec.Disks) }

// end gives the session its outcome; only the first counts. It does not wait
// for requests under way, so that they may call it.
func (s *Session) end(err error) {
	s.finish.Do(func() {
		s.err = err
		if err != nil {
			s.log.Warn("sync session failed", zap.Error(err))
		}
		close(s.done)
		if err != nil {
			s.cancel()
		}
	})
}

// Close stops taking data: requests under way fail at once, and when it
// returns none of them can write any more. It may be called again.
func (s *Session) Close() {
	s.end(ErrSessionReplaced)
	s.cancel()
	s.fence.Lock()
	defer s.fence.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	err := errors.Join(s.ledger.save(), closeStaged(s.disks), s.ledger.f.Close())
	if err != nil {
		s.log.Error("sync session closed uncleanly; the next one will check what was written last", zap.Error(err))
	}
}

func (s *Session) notOpen() error {
	return newError(CodeSessionNotOpen, "job %s has no open sync session on this host", s.spec.JobID)
}

func (s *Session) disk(index int) (*stagedDisk, error) {
	for _, d := range s.disks {
		if d.Index == index {
			return d, nil
		}
	}
	return nil, diskError(CodeInvalidRequest, index, 0, "job %s has no disk %d", s.spec.JobID, index)
}

// attach makes a new epoch the only one that may write.
func (s *Session) attach(ctx context.Context, instance string) (attachAnswer, error) {
	s.fence.Lock()
	defer s.fence.Unlock()
	answer := attachAnswer{Run: s.spec.Run, Disks: s.spec.Disks, Params: s.spec.Params}
	if s.complete.Load() {
		answer.Complete = true
		return answer, nil
	}
	if s.closed || s.ctx.Err() != nil {
		return answer, s.notOpen()
	}
	epoch, err := s.host.cfg.Epochs.RaiseEpoch(ctx, s.spec.JobID, s.spec.Run)
	switch {
	case errors.Is(err, ErrSessionClosed):
		return answer, s.notOpen()
	case err != nil:
		return answer, newError(CodeBusy, "the epoch of job %s could not be raised: %w", s.spec.JobID, err)
	}
	s.epoch, answer.Epoch = epoch, epoch
	s.reads.Store(0)
	s.log.Info("sender attached", zap.String("instance", instance), zap.Int64("epoch", epoch))
	return answer, nil
}

// check says whether epoch may write; the caller holds the fence.
func (s *Session) check(ctx context.Context, epoch int64) error {
	if s.closed || s.ctx.Err() != nil {
		return s.notOpen()
	}
	if s.epoch == 0 {
		// This host has restarted since: what was in flight is lost, attach again.
		return newError(CodeSessionNotOpen, "nobody is attached to the session of job %s on this host; attach again", s.spec.JobID)
	}
	fenced := newError(CodeFenced, "epoch %d of job %s is no longer current", epoch, s.spec.JobID)
	if epoch != s.epoch {
		return fenced
	}
	err := s.host.cfg.Epochs.CheckEpoch(ctx, s.spec.JobID, epoch)
	switch {
	case errors.Is(err, ErrFenced):
		// Nobody attached here, so the epoch was raised to end this session.
		s.end(ErrFenced)
		return fenced
	case errors.Is(err, ErrSessionClosed):
		return s.notOpen()
	case err != nil:
		return newError(CodeBusy, "the epoch of job %s could not be checked: %w", s.spec.JobID, err)
	}
	return nil
}

// admits says whether a commit of epoch would be let through now.
func (s *Session) admits(ctx context.Context, epoch int64) error {
	s.fence.RLock()
	defer s.fence.RUnlock()
	return s.check(ctx, epoch)
}

// commit makes verified frames durable if the epoch is current.
func (s *Session) commit(ctx context.Context, d *stagedDisk, epoch int64, frames []frame) error {
	s.fence.RLock()
	defer s.fence.RUnlock()
	if err := s.check(ctx, epoch); err != nil {
		return err
	}
	written, err := d.write(ctx, frames)
	if err != nil {
		if ctx.Err() == nil {
			s.end(err)
		}
		return err
	}
	s.moves.Add(1)
	s.host.counts.written.Add(written)
	s.ledger.wrote(d.Index, written)
	return s.count()
}

// count keeps the counts. A host that cannot write them ends the session.
func (s *Session) count() error {
	if err := s.ledger.save(); err != nil {
		return s.broken(storageError(err, "count what was sent for %s", s.spec.JobID))
	}
	return nil
}

// broken ends the session because of a failure of this host, and returns it:
// the sender would only try the same again, and nobody would hear of it.
func (s *Session) broken(err error) error {
	s.end(err)
	return err
}

// report notes how far a sender has read.
func (s *Session) report(ctx context.Context, epoch int64, disks []diskReport) error {
	s.fence.RLock()
	defer s.fence.RUnlock()
	if err := s.check(ctx, epoch); err != nil {
		return err
	}
	reads := int64(0)
	for _, r := range disks {
		d, err := s.disk(r.Index)
		if err != nil {
			return err
		}
		s.ledger.read(d.Disk, r.BytesRead)
		reads += r.BytesRead
	}
	if s.reads.Swap(reads) < reads {
		s.moves.Add(1)
	}
	return s.count()
}

// fail ends the session for a reason at the source.
func (s *Session) fail(ctx context.Context, epoch int64, failure *Error) error {
	s.fence.RLock()
	defer s.fence.RUnlock()
	if err := s.check(ctx, epoch); err != nil {
		return err
	}
	s.end(failure)
	return nil
}

// completeWith compares the maps of both sides and records the run as synced.
func (s *Session) completeWith(ctx context.Context, epoch int64, disks []diskReport) error {
	s.fence.Lock()
	defer s.fence.Unlock()
	if s.complete.Load() {
		return nil // the answer to the first request was lost
	}
	if err := s.check(ctx, epoch); err != nil {
		return err
	}
	roots := make(map[int]Hash, len(disks))
	for _, r := range disks {
		roots[r.Index] = r.Root
	}
	mine := make(map[int]Hash, len(s.disks))
	for _, d := range s.disks {
		root, err := d.root()
		if err != nil {
			return s.broken(storageError(err, "read the map of disk %d", d.Index))
		}
		theirs, sent := roots[d.Index]
		if !sent {
			return diskError(CodeInvalidRequest, d.Index, 0, "the completion of job %s does not cover disk %d", s.spec.JobID, d.Index)
		}
		if theirs != root {
			return diskError(CodeMapMismatch, d.Index, 0, "disk %d is not the same on both sides; compare the maps and send what differs", d.Index)
		}
		mine[d.Index] = root
	}
	for _, d := range s.disks {
		s.ledger.read(d.Disk, d.SizeBytes)
	}
	if err := s.count(); err != nil {
		return err
	}
	st := stagingState{
		JobID: s.spec.JobID, Run: s.spec.Run, Term: s.spec.Term, Disks: s.spec.Disks, Complete: true, Roots: mine,
		Checksum: s.spec.Params.Checksum,
	}
	if err := st.save(s.dir); err != nil {
		return s.broken(storageError(err, "record the completion of %s", s.spec.JobID))
	}
	s.complete.Store(true)
	s.log.Info("sync complete")
	s.end(nil)
	return nil
}
