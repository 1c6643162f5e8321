package replica

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"
)

// RemoveStaging removes the staging area of a job if orphan, asked while nothing else can touch it, says that it belongs to
// nothing; removed says whether it did. One that is in use is left alone. What is prepared for the job after that begins anew.
func (h *Host) RemoveStaging(ctx context.Context, jobID string, orphan func(context.Context) (bool, error)) (removed bool, err error) {
	return h.remove(ctx, "job", jobID, orphan, func() error { return h.removeStaging(jobID) })
}

// RemoveImage is RemoveStaging for an image.
func (h *Host) RemoveImage(ctx context.Context, imageID string, orphan func(context.Context) (bool, error)) (removed bool, err error) {
	return h.remove(ctx, "image", imageID, func(ctx context.Context) (bool, error) {
		if h.Reading(imageID) {
			return false, nil
		}
		return orphan(ctx)
	}, func() error { return h.deleteImage(imageID) })
}

func (h *Host) remove(ctx context.Context, what, id string, orphan func(context.Context) (bool, error), do func() error) (removed bool, err error) {
	if err := checkID(what+" id", id); err != nil {
		return false, err
	}
	release, _, err := h.tryExclusive(what + "/" + id)
	if err != nil || release == nil {
		return false, err
	}
	defer release()
	if is, err := orphan(ctx); err != nil || !is {
		return false, err
	}
	return true, do()
}

// InMaking reports whether an image is being made, or deleted.
func (h *Host) InMaking(imageID string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, busy := h.busy["image/"+imageID]
	return busy
}

// StagedBytes returns what the staging area of a job, and ImageBytes what an image directory, takes of the volume, as well as can be
// told. What it shares with others counts in full.
func (h *Host) StagedBytes(jobID string) int64 {
	bytes, _ := allocatedBelow(h.stagingDir(jobID))
	return bytes
}

// ImageBytes see StagedBytes.
func (h *Host) ImageBytes(imageID string) int64 {
	bytes, _ := allocatedBelow(h.imageDir(imageID))
	return bytes
}

// Volume returns how many bytes are free on the volume of the root, for whoever is not its administrator, and how many it has.
func (h *Host) Volume() (free, total int64, err error) {
	free, total, err = volume(h.cfg.Root)
	return free, total, storageError(err, "measure the store")
}

// temporary are the names of files that a write leaves which is cut off: that of durable.WriteFile, of a copy that the staging area
// makes for itself, and of the probe for shared blocks. No file that counts has such a name.
var temporary = regexp.MustCompile(`^((session\.json|manifest\.json|disk-\d+\.(map|patch)|` + regexp.QuoteMeta(HostIDFile) + `)\.\d+|disk-\d+\.raw\.tmp|reflink-\d+)$`)

// RemoveTemporary removes the files that writes left which were cut off, if nobody has written to them since a time, and returns
// how many. A write that is under way has just begun, or goes on writing.
func (h *Host) RemoveTemporary(ctx context.Context, before time.Time) (removed int, err error) {
	roots := []string{h.cfg.Root}
	for _, parent := range []string{"staging", "images"} {
		ids, err := listDirs(filepath.Join(h.cfg.Root, parent))
		if err != nil {
			return 0, err
		}
		for _, id := range ids {
			roots = append(roots, filepath.Join(h.cfg.Root, parent, id))
		}
	}
	for _, dir := range roots {
		if err := ctx.Err(); err != nil {
			return removed, err
		}
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return removed, storageError(err, "list %s", dir)
		}
		for _, entry := range entries {
			if !entry.Type().IsRegular() || !temporary.MatchString(entry.Name()) {
				continue
			}
			info, err := entry.Info()
			if err != nil || !info.ModTime().Before(before) {
				continue // gone, or young
			}
			err = os.Remove(filepath.Join(dir, entry.Name()))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return removed, storageError(err, "remove what an interrupted write left")
			}
			removed++
		}
	}
	return removed, nil
}
