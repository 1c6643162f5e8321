package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/drover/drover/durable"
)

// Sharing says how far the copy of an image may share what is on the disk with the original.
type Sharing int

// The ways of sharing, from the least to the most. What cannot be shared is copied, holes as holes.
const (
	// ShareBlocks lets the file system share blocks (FICLONE). The copy is a file of its own.
	ShareBlocks Sharing = iota
	// ShareFiles also makes hard links, where blocks cannot be shared: images are never written to.
	ShareFiles
	// ShareLinks makes hard links first: both are copies already.
	ShareLinks
)

// ManifestFile is the name of an image's manifest in its directory, HostIDFile that of the file in a transition host's root
// that says which host's it is.
const (
	ManifestFile = "manifest.json"
	HostIDFile   = "host-id"
)

// ImagesDir is where a transition host with that root keeps its images, a directory each.
func ImagesDir(root string) string { return filepath.Join(root, "images") }

// ImageDirs lists the directories under the images of a root by name. None is no error.
func ImageDirs(root string) ([]string, error) {
	ids, err := listDirs(ImagesDir(root))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return ids, err
}

// LockRoot keeps transition hosts from the root until unlock is called. It fails while one runs.
func LockRoot(root string) (unlock func(), err error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("make the image store: %w", err)
	}
	lock, err := lockRoot(root)
	if err != nil {
		return nil, err
	}
	return func() { lock.Close() }, nil
}

// ReadManifest returns the manifest of the image in dir, which is named as the image, or an error matching
// [ErrImageNotFound].
func ReadManifest(dir string) (*Manifest, error) {
	imageID := filepath.Base(dir)
	b, err := os.ReadFile(manifestPath(dir))
	if errors.Is(err, os.ErrNotExist) {
		return nil, newError(CodeImageNotFound, "this host has no image %s", imageID)
	}
	if err != nil {
		return nil, storageError(err, "read the manifest of %s", imageID)
	}
	m := new(Manifest)
	if err := json.Unmarshal(b, m); err != nil {
		return nil, newError(CodeStorageError, "the manifest of %s is damaged: %w", imageID, err)
	}
	if m.Version != manifestVersion {
		return nil, newError(CodeStorageError, "the manifest of %s has version %d; this host knows %d", imageID, m.Version, manifestVersion)
	}
	return m, nil
}

// CopyImage copies the image in the directory from to the directory to, which must not exist; the manifest is written last.
// An image that is deleted meanwhile is an error matching [ErrImageNotFound]. covered, which may be nil, is told of the
// bytes of the disks as they are dealt with.
func CopyImage(ctx context.Context, from, to string, sharing Sharing, covered func(int64)) (*Manifest, error) {
	m, err := ReadManifest(from)
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		return nil, fmt.Errorf("copy image %s: %w", m.ImageID, err)
	}
	err = copyImageFiles(ctx, from, to, sharing, covered)
	if err == nil {
		var b []byte
		if b, err = os.ReadFile(manifestPath(from)); err == nil {
			err = durable.WriteFile(manifestPath(to), b, 0o600)
		}
	}
	if err == nil {
		return m, nil
	}
	err = errors.Join(err, os.RemoveAll(to))
	if _, gone := ReadManifest(from); errors.Is(gone, ErrImageNotFound) {
		return nil, gone
	}
	return nil, storageError(err, "copy image %s", m.ImageID)
}

func copyImageFiles(ctx context.Context, from, to string, sharing Sharing, covered func(int64)) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		source := filepath.Join(from, entry.Name())
		if entry.IsDir() {
			copied := filepath.Join(to, entry.Name())
			if err := os.Mkdir(copied, 0o700); err != nil {
				return err
			}
			if err := copyImageFiles(ctx, source, copied, sharing, covered); err != nil {
				return err
			}
			continue
		}
		if !entry.Type().IsRegular() || source == manifestPath(from) {
			continue
		}
		if err := placeFile(ctx, source, filepath.Join(to, entry.Name()), sharing, covered); err != nil {
			return err
		}
	}
	return durable.SyncDir(to)
}

// placeFile makes the file to what the file from is.
func placeFile(ctx context.Context, from, to string, sharing Sharing, covered func(int64)) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	info, err := source.Stat()
	if err != nil {
		return err
	}
	shared := func() error {
		if covered != nil {
			covered(info.Size())
		}
		return nil
	}
	if sharing == ShareLinks && os.Link(from, to) == nil {
		return shared()
	}
	out, err := os.OpenFile(to, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if clone(out, source) == nil {
		return errors.Join(shared(), out.Sync())
	}
	if sharing == ShareFiles && os.Remove(to) == nil {
		if os.Link(from, to) == nil {
			return shared()
		}
		if out, err = os.OpenFile(to, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
			return err
		}
		defer out.Close()
	}
	err = copySparse(out, source, info.Size(), func(n int64) error {
		if covered != nil {
			covered(n)
		}
		return ctx.Err()
	})
	if errors.Is(err, unix.ENOSPC) {
		err = fmt.Errorf("no space is left for %s: free some and begin again: %w", to, err)
	}
	return errors.Join(err, out.Sync())
}

// VerifyFiles reads the image in dir back and compares it with its maps and manifest. A damaged image is a result, not an
// error. covered, which may be nil, is told of the bytes of the disks as they are read.
func VerifyFiles(ctx context.Context, dir string, covered func(int64)) (*VerifyResult, error) {
	m, err := ReadManifest(dir)
	if err != nil {
		return nil, err
	}
	if covered == nil {
		covered = func(int64) {}
	}
	if m.Container != nil {
		return verifyContainer(ctx, dir, *m.Container, covered)
	}
	result := &VerifyResult{OK: true}
	for _, d := range m.Disks {
		one := VerifyDiskResult{Index: d.Index, OK: true}
		bad, err := checkDisk(ctx, dir, d, true, covered)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		switch {
		case err != nil:
			one.OK, one.Message = false, err.Error()
		case len(bad) > 0:
			one.OK, one.BadGrains = false, int64(len(bad))
			one.Message = fmt.Sprintf("damaged grains of 64 KiB: %d, the first at byte %d", len(bad), bad[0]*GrainSize)
		default:
			if _, err := loadDelivery(dir, d); err != nil {
				one.OK, one.Message = false, err.Error()
			}
		}
		result.OK = result.OK && one.OK
		result.Disks = append(result.Disks, one)
	}
	return result, nil
}
