package containerimage

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/drover/drover/durable"
)

// File is a file of an image's layout.
type File struct {
	// Path is relative to the layout, with slashes.
	Path string
	Size int64
	// Digest is what the contents must have, as sha256:…; empty for what is no blob.
	Digest string
}

// Names of files that every layout has.
const (
	MarkerFile = "oci-layout"
	IndexFile  = "index.json"
	// maxDocument bounds what is read into memory: an index, a manifest.
	maxDocument = 4 << 20
)

// DigestOf returns the digest of the one image that an index names, and its file.
func DigestOf(index []byte) (File, error) {
	var m v1.IndexManifest
	if err := json.Unmarshal(index, &m); err != nil {
		return File{}, fmt.Errorf("the index is damaged: %w", err)
	}
	if len(m.Manifests) != 1 {
		return File{}, fmt.Errorf("the index names %d images instead of one", len(m.Manifests))
	}
	return blobFile(m.Manifests[0]), nil
}

// BlobsOf returns the blobs that a manifest names: the configuration, and the layers.
func BlobsOf(manifest []byte) ([]File, error) {
	var m v1.Manifest
	if err := json.Unmarshal(manifest, &m); err != nil {
		return nil, fmt.Errorf("the manifest is damaged: %w", err)
	}
	blobs := []File{blobFile(m.Config)}
	for _, layer := range m.Layers {
		blobs = append(blobs, blobFile(layer))
	}
	return blobs, nil
}

func blobFile(d v1.Descriptor) File {
	return File{Path: "blobs/" + d.Digest.Algorithm + "/" + d.Digest.Hex, Size: d.Size, Digest: d.Digest.String()}
}

// Source gives the contents of a file of a layout.
type Source func(f File) (io.ReadCloser, error)

// Dir is a layout in a directory.
func Dir(dir string) Source {
	return func(f File) (io.ReadCloser, error) {
		if !filepath.IsLocal(f.Path) {
			return nil, fmt.Errorf("%q is no file of a layout", f.Path)
		}
		return os.Open(filepath.Join(dir, filepath.FromSlash(f.Path)))
	}
}

// Files returns the files of the layout of the image with a digest, in the order in which they are read: each is named by one before it.
func Files(source Source, digest string) ([]File, error) {
	files := []File{{Path: MarkerFile}, {Path: IndexFile}}
	for i := range files {
		b, err := document(source, files[i])
		if err != nil {
			return nil, err
		}
		files[i].Size = int64(len(b))
		if files[i].Path != IndexFile {
			continue
		}
		manifest, err := DigestOf(b)
		if err != nil {
			return nil, err
		}
		if manifest.Digest != digest {
			return nil, fmt.Errorf("the index names %s and not %s", manifest.Digest, digest)
		}
		files = append(files, manifest)
	}
	manifest, err := document(source, files[2])
	if err != nil {
		return nil, err
	}
	blobs, err := BlobsOf(manifest)
	return append(files, blobs...), err
}

// document reads a small file, and holds it against its digest.
func document(source Source, f File) ([]byte, error) {
	r, err := source(f)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", f.Path, err)
	case len(b) > maxDocument:
		return nil, fmt.Errorf("%s has more than %d bytes", f.Path, maxDocument)
	case f.Digest != "" && f.Digest != fmt.Sprintf("sha256:%x", sha256.Sum256(b)):
		return nil, damagedFile(f)
	}
	return b, nil
}

func damagedFile(f File) error {
	return fmt.Errorf("%s does not hold what its name says: it is damaged", f.Path)
}

// copyFile copies a file and holds it against its size and digest.
func copyFile(ctx context.Context, w io.Writer, source Source, f File, covered func(int64)) error {
	r, err := source(f)
	if err != nil {
		return err
	}
	defer r.Close()
	digest, buffer, size := sha256.New(), make([]byte, copySize), int64(0)
	for {
		n, err := r.Read(buffer)
		if size += int64(n); size > f.Size {
			return damagedFile(f)
		}
		digest.Write(buffer[:n])
		if _, err := w.Write(buffer[:n]); err != nil {
			return err
		}
		covered(int64(n))
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", f.Path, err)
		}
	}
	if size != f.Size || f.Digest != "" && f.Digest != fmt.Sprintf("sha256:%x", digest.Sum(nil)) {
		return damagedFile(f)
	}
	return nil
}

// Verify reads the image with a digest back and holds every file against its digest. What is wrong is an error.
func Verify(ctx context.Context, dir, digest string, covered func(int64)) error {
	files, err := Files(Dir(dir), digest)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := copyFile(ctx, io.Discard, Dir(dir), f, covered); err != nil {
			return err
		}
	}
	return nil
}

// Size returns how many bytes the files of a layout have together.
func Size(files []File) (n int64) {
	for _, f := range files {
		n += f.Size
	}
	return n
}

// dockerManifest is what docker load reads where it does not know the layout of OCI.
type dockerManifest struct {
	Config   string   `json:"Config"`
	RepoTags []string `json:"RepoTags"`
	Layers   []string `json:"Layers"`
}

// Archive writes the image with a digest as an archive that podman load, docker load and skopeo (oci-archive:) read. Every file is
// held against its digest on the way.
func Archive(ctx context.Context, w io.Writer, source Source, digest, reference string, covered func(int64)) error {
	files, err := Files(source, digest)
	if err != nil {
		return err
	}
	docker := dockerManifest{RepoTags: []string{reference}, Layers: []string{}}
	for i, f := range files[3:] {
		if i == 0 {
			docker.Config = f.Path
		} else {
			docker.Layers = append(docker.Layers, f.Path)
		}
	}
	archive := tar.NewWriter(w)
	for _, f := range files {
		if err := archive.WriteHeader(&tar.Header{Name: f.Path, Mode: 0o644, Size: f.Size, Typeflag: tar.TypeReg}); err != nil {
			return err
		}
		if err := copyFile(ctx, archive, source, f, covered); err != nil {
			return err
		}
	}
	b, err := json.Marshal([]dockerManifest{docker})
	if err != nil {
		return err
	}
	if err := archive.WriteHeader(&tar.Header{Name: "manifest.json", Mode: 0o644, Size: int64(len(b)), Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	if _, err := archive.Write(b); err != nil {
		return err
	}
	return archive.Close()
}

// syncAll makes a directory, and all that is in it, durable.
func syncAll(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir():
			return durable.SyncDir(path)
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return f.Sync()
	})
}

// IsFile says whether a path can be that of a file of a layout.
func IsFile(path string) bool {
	return path == MarkerFile || path == IndexFile || strings.HasPrefix(path, "blobs/") && filepath.IsLocal(path)
}
