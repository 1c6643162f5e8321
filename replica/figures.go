package replica

import (
	"errors"
	"io/fs"
	"path/filepath"
	"sync/atomic"
	"syscall"
)

// counts are what a host has done since it was opened.
type counts struct{ received, written, fenced atomic.Int64 }

// Figures are what a host has done since it was opened, and what it does.
type Figures struct {
	// BytesReceived is what came in windows, as it was coded; BytesWritten what of it was verified and made durable.
	BytesReceived, BytesWritten int64
	// Fenced counts the requests that were refused because their epoch was no longer current.
	Fenced int64
	// Sessions is how many sync sessions are open.
	Sessions int
}

// Figures returns what the host counts.
func (h *Host) Figures() Figures {
	f := Figures{BytesReceived: h.counts.received.Load(), BytesWritten: h.counts.written.Load(), Fenced: h.counts.fenced.Load()}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.sessions {
		if s.ctx.Err() == nil && !s.complete.Load() {
			f.Sessions++
		}
	}
	return f
}

// Usage is what a host's store takes of its volume.
type Usage struct {
	// StagingBytes and ImageBytes are what the files have allocated. Blocks that files share (reflinks) count in each of them, so
	// that the sum may exceed what the volume holds.
	StagingBytes, ImageBytes int64
	// Images is how many directories of images there are.
	Images int
	// FreeBytes and SizeBytes are the volume's, whatever else is on it.
	FreeBytes, SizeBytes int64
}

// Usage measures the store. It looks at every file.
func (h *Host) Usage() (Usage, error) {
	var usage Usage
	var err error
	if usage.FreeBytes, usage.SizeBytes, err = h.Volume(); err != nil {
		return usage, err
	}
	images, err := h.ImageIDs()
	if err != nil {
		return usage, err
	}
	usage.Images = len(images)
	if usage.StagingBytes, err = allocatedBelow(filepath.Join(h.cfg.Root, "staging")); err != nil {
		return usage, err
	}
	usage.ImageBytes, err = allocatedBelow(filepath.Join(h.cfg.Root, "images"))
	return usage, err
}

// allocatedBelow is what the files below a directory have allocated. What goes away meanwhile is not counted.
func allocatedBelow(dir string) (sum int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			sum += st.Blocks * 512
		}
		return nil
	})
	return sum, storageError(err, "measure %s", dir)
}
