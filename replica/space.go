package replica

import (
	"errors"
	"os"
	"path/filepath"
)

// spareBytes is what is left free on the host's volume for its own needs: journals, the manifest of an image, a log.
const spareBytes = 64 << 20

// Space is the room on a host's volume, as one job sees it.
type Space struct {
	// Path is the root of the host's store.
	Path string
	// FreeBytes is what may be stored there. A reserve for the host's own needs is taken off; it is never below 0.
	FreeBytes int64
	// StagedBytes is what the staging area of the job takes of the volume.
	StagedBytes int64
	// SharesBlocks says that an image can share its blocks with the staging area (reflinks).
	SharesBlocks bool
}

// MapBytes is what the map of a disk of that size takes, in the staging area and once more in an image.
func MapBytes(diskSize int64) int64 { return grains(diskSize) * HashSize }

// Space measures the room there is for a job.
func (h *Host) Space(jobID string) (Space, error) {
	if err := checkID("job id", jobID); err != nil {
		return Space{}, err
	}
	free, err := freeBytes(h.cfg.Root)
	if err != nil {
		return Space{}, storageError(err, "measure the store")
	}
	space := Space{Path: h.cfg.Root, FreeBytes: max(0, free-spareBytes), SharesBlocks: h.sharesBlocks()}
	files, err := filepath.Glob(filepath.Join(h.stagingDir(jobID), "disk-*.[rm]a[wp]")) // disks and their maps
	if err != nil {
		return Space{}, err
	}
	for _, path := range files {
		f, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return Space{}, storageError(err, "measure the staging area of %s", jobID)
		}
		allocated, _, err := allocatedAndLinks(f)
		f.Close()
		if err != nil {
			return Space{}, storageError(err, "measure the staging area of %s", jobID)
		}
		space.StagedBytes += allocated
	}
	return space, nil
}

// sharesBlocks tries once whether the file system of the store has reflinks.
func (h *Host) sharesBlocks() bool {
	h.probe.Do(func() {
		src, err := os.CreateTemp(h.cfg.Root, "reflink-*")
		if err != nil {
			return
		}
		defer os.Remove(src.Name())
		defer src.Close()
		dst, err := os.CreateTemp(h.cfg.Root, "reflink-*")
		if err != nil {
			return
		}
		defer os.Remove(dst.Name())
		defer dst.Close()
		if _, err := src.Write(zeroGrain[:]); err == nil {
			h.shares = clone(dst, src) == nil
		}
	})
	return h.shares
}
