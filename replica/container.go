package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/drover/drover/replica/containerimage"
	"github.com/drover/drover/replica/ext4"
)

// ContainerSpec asks for the image of a container.
type ContainerSpec struct {
	// Reference is what it is called: namespace/repository:tag.
	Reference string
	// Labels are part of it.
	Labels map[string]string
}

// ManifestContainer describes the image of a container, which is in the OCI layout.
type ManifestContainer struct {
	// Reference is what it is called: namespace/repository:tag.
	Reference string `json:"reference"`
	// Digest names the manifest of the image, as sha256:….
	Digest string `json:"digest"`
	// SizeBytes is what its files have together.
	SizeBytes int64 `json:"sizeBytes"`
	// LeftOut says what of the server is not in it, and why.
	LeftOut []string `json:"leftOut,omitempty"`
}

// layoutDir is where an image has the layout of its container image.
func layoutDir(dir string) string { return filepath.Join(dir, "oci") }

// makeContainer checks the staged disks and makes an image of a container of the file systems on them.
func (h *Host) makeContainer(ctx context.Context, staging, dir string, spec ImageSpec, st stagingState, m *Manifest, disks []ManifestDisk, meter *meter) error {
	var volumes []containerimage.Volume
	var open []*os.File
	defer func() {
		for _, raw := range open {
			raw.Close()
		}
	}()
	for i := range disks {
		if err := checkStaged(ctx, staging, st, &disks[i], meter); err != nil {
			return err
		}
		raw, err := os.Open(rawPath(staging, disks[i].Index))
		if err != nil {
			return err
		}
		open = append(open, raw)
		on, err := volumesOf(raw, disks[i], spec.deviceOf(disks[i].Index))
		if err != nil {
			return unfit(staging, st, err)
		}
		volumes = append(volumes, on...)
	}
	layout := layoutDir(dir)
	if err := makeDir(layout); err != nil {
		return err
	}
	built, err := containerimage.Build(ctx, layout, volumes, containerimage.Spec{
		Reference: spec.Container.Reference, Labels: spec.Container.Labels, Created: m.CreatedAt,
	}, meter.add)
	if err != nil {
		return unfit(staging, st, containerError(err))
	}
	files, err := containerimage.Files(containerimage.Dir(layout), built.Digest)
	if err != nil {
		return err
	}
	m.Container = &ManifestContainer{
		Reference: spec.Container.Reference, Digest: built.Digest, SizeBytes: containerimage.Size(files), LeftOut: built.LeftOut,
	}
	return nil
}

// unfit marks a staged state that no container image can be made of, for a reason that has a code, as not synced: what is wrong is
// wrong at the source, and the next sync of the run brings what is there by then.
func unfit(staging string, st stagingState, err error) error {
	var coded *Error
	if !errors.As(err, &coded) {
		return err
	}
	st.Complete, st.Roots = false, nil
	if err := st.save(staging); err != nil {
		return err
	}
	return coded
}

// containerError gives what keeps an image from being made a code, and says what to do.
func containerError(err error) error {
	for _, kind := range []struct {
		is         error
		code, todo string
	}{
		{containerimage.ErrFile, CodeFileUnsupported, "remove it at the source and start the job, or ask for an Image"},
		{containerimage.ErrNoRoot, CodeNoRootFileSystem, "ask for an Image, which is made of any disk"},
		{containerimage.ErrFileSystem, CodeFileSystemUnsupported, "ask for an Image, which is made of any disk"},
		{ext4.ErrUnsupported, CodeFileSystemUnsupported, "ask for an Image, which is made of any disk"},
		{ext4.ErrDamaged, CodeFileSystemDamaged, "start the job when the server is quiet: it sends what has changed, and the image is made of that"},
	} {
		if errors.Is(err, kind.is) {
			return newError(kind.code, "%w: %s", err, kind.todo)
		}
	}
	return err
}

// volumesOf returns what file systems can be on, on a disk that the server calls by a name.
func volumesOf(raw io.ReaderAt, disk ManifestDisk, device string) ([]containerimage.Volume, error) {
	table, err := readPartitionTable(raw, disk.SizeBytes)
	if err != nil {
		return nil, diskError(CodeNoRootFileSystem, disk.Index, NoOffset, "the partition table of disk %d cannot be read: %w; repair it at the source and start the job, or ask for an Image", disk.Index, err)
	}
	if len(table.partitions) == 0 {
		return []containerimage.Volume{{
			Device: device, Place: fmt.Sprintf("disk %d, which has no partitions", disk.Index), System: disk.Index == 0, Bytes: raw, Size: disk.SizeBytes,
		}}, nil
	}
	var volumes []containerimage.Volume
	for _, p := range table.partitions {
		size := min(p.SizeBytes, disk.SizeBytes-p.OffsetBytes)
		if size <= 0 {
			continue
		}
		v := containerimage.Volume{
			Place: fmt.Sprintf("partition %d of disk %d", p.Number, disk.Index), PartUUID: p.UUID, PartLabel: p.Name, System: disk.Index == 0,
			Bytes: io.NewSectionReader(raw, p.OffsetBytes, size), Size: size,
		}
		if device != "" {
			v.Device = partitionDevice(device, p.Number, true)
		}
		volumes = append(volumes, v)
	}
	return volumes, nil
}

// verifyContainer reads the image of a container back.
func verifyContainer(ctx context.Context, dir string, c ManifestContainer, covered func(int64)) (*VerifyResult, error) {
	err := containerimage.Verify(ctx, layoutDir(dir), c.Digest, covered)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return &VerifyResult{Message: err.Error()}, nil //nolint:nilerr // what is wrong with an image is a result
	}
	return &VerifyResult{OK: true}, nil
}

// serveContainerFile streams a file of the layout of a container image, from a byte on.
func (h *Host) serveContainerFile(w http.ResponseWriter, r *http.Request) error {
	m, err := h.Image(r.PathValue("image"))
	if err != nil {
		return err
	}
	path := r.PathValue("path")
	if m.Container == nil || !containerimage.IsFile(path) {
		return newError(CodeInvalidRequest, "image %s has no file %q of a container image", m.ImageID, path)
	}
	f, err := os.Open(filepath.Join(layoutDir(h.imageDir(m.ImageID)), filepath.FromSlash(path)))
	if errors.Is(err, os.ErrNotExist) {
		return newError(CodeInvalidRequest, "image %s has no file %q of a container image", m.ImageID, path)
	}
	if err != nil {
		return storageError(err, "open %s of image %s", path, m.ImageID)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return storageError(err, "open %s of image %s", path, m.ImageID)
	}
	from, err := fromParameter(r, info.Size())
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set(sizeHeader, strconv.FormatInt(info.Size(), 10))
	return streamBody(w, io.NewSectionReader(f, from, info.Size()-from))
}

// fromParameter returns from which byte on an answer of that size is wanted.
func fromParameter(r *http.Request, size int64) (int64, error) {
	q := r.URL.Query().Get("from")
	if q == "" {
		return 0, nil
	}
	from, err := strconv.ParseInt(q, 10, 64)
	if err != nil || from < 0 || from > size {
		return 0, newError(CodeInvalidRequest, "%q is no offset to go on from", q)
	}
	return from, nil
}

// DownloadContainer fetches the image of a container with a digest, and writes it to w as an archive that podman, docker and skopeo
// read, called by a reference. Every file is held against its digest. When the connection breaks it goes on where it was, as
// [Download] does. covered is told of the bytes that have come; client may be nil.
func DownloadContainer(
	ctx context.Context, client *http.Client, baseURL, token, imageID, digest, reference string, w io.Writer, covered func(int64),
) error {
	if err := checkID("image id", imageID); err != nil {
		return err
	}
	api := newImageClient(client, baseURL, token)
	source := func(f containerimage.File) (io.ReadCloser, error) {
		return &containerFile{ctx: ctx, api: api, path: "/images/" + imageID + "/container/" + f.Path}, nil
	}
	if err := containerimage.Archive(ctx, w, source, digest, reference, covered); err != nil {
		return fmt.Errorf("download container image %s: %w", imageID, err)
	}
	return nil
}

// containerFile reads a file of a container image, and goes on with it where a connection broke.
type containerFile struct {
	ctx  context.Context
	api  apiClient
	path string
	body io.ReadCloser // nil: none is open
	size int64
	next int64
	tries
}

// Read implements [io.Reader].
func (f *containerFile) Read(p []byte) (int, error) {
	for {
		n, err := f.read(p)
		if n > 0 {
			f.next += int64(n)
			f.progress()
			return n, nil
		}
		if errors.Is(err, io.EOF) && f.next >= f.size {
			return 0, io.EOF
		}
		f.Close()
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err := f.again(f.ctx, err); err != nil {
			return 0, err
		}
	}
}

func (f *containerFile) read(p []byte) (int, error) {
	if f.body == nil {
		resp, err := f.api.stream(f.ctx, http.MethodGet, f.path+"?from="+strconv.FormatInt(f.next, 10), nil) //nolint:bodyclose // Close does
		if err != nil {
			return 0, err
		}
		f.body = resp.Body
		if f.size, err = strconv.ParseInt(resp.Header.Get(sizeHeader), 10, 64); err != nil {
			return 0, newError(CodeInvalidRequest, "the answer is not that of a transition host: it lacks a valid %s", sizeHeader)
		}
	}
	return f.body.Read(p)
}

// Close implements [io.Closer].
func (f *containerFile) Close() error {
	if f.body == nil {
		return nil
	}
	body := f.body
	f.body = nil
	return body.Close()
}

// deviceOf returns what the server calls a disk, or nothing.
func (s ImageSpec) deviceOf(index int) string {
	for _, d := range s.Disks {
		if d.Index == index {
			return strings.TrimRight(d.Device, "/")
		}
	}
	return ""
}
