package containerimage

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
)

// Spec says what an image is called and says of itself.
type Spec struct {
	// Reference is its name: namespace/repository:tag.
	Reference string
	// Labels are in its configuration; [LabelLeftOut] is added.
	Labels map[string]string
	// Created is when the image was made.
	Created time.Time
}

// LabelLeftOut is the label that says what is not in the image, a line each.
const LabelLeftOut = "drover.left-out"

// Built is an image that was made.
type Built struct {
	// Digest names the image's manifest, as sha256:….
	Digest string
	// Root says where the root file system was, and Replayed how many transactions of journals were read in place of what they
	// supersede.
	Root     string
	Replayed int
	// LeftOut says what of the server is not in the image, and why.
	LeftOut []string
}

// envPath is where commands are looked for in a container, as in a shell of root.
const envPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// layerPart is the layer while its digest is not known.
const layerPart = "layer.part"

// Build makes an image in the directory dir, which must be empty, of the file systems on the volumes of a server's disks. The files
// are durable when it returns. covered is told of the bytes of files as they are dealt with.
func Build(ctx context.Context, dir string, volumes []Volume, spec Spec, covered func(int64)) (*Built, error) {
	probed := make([]*volume, 0, len(volumes))
	for _, v := range volumes {
		p, err := probe(v)
		if err != nil {
			return nil, err
		}
		probed = append(probed, p)
	}
	root, mounts, err := findRoot(probed)
	if err != nil {
		return nil, err
	}
	t, err := plan(root, mounts, probed)
	if err != nil {
		return nil, err
	}
	content, err := writeLayer(ctx, dir, t, covered)
	if err != nil {
		return nil, err
	}
	built := &Built{Root: root.Place, Replayed: root.fs.Replayed, LeftOut: t.leftOut}
	for _, v := range t.mounted {
		built.Replayed += v.fs.Replayed
	}
	image, err := describe(t, content, spec)
	if err != nil {
		return nil, err
	}
	digest, err := image.Digest()
	if err != nil {
		return nil, err
	}
	built.Digest = digest.String()
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return nil, err
	}
	if err := path.AppendImage(image, layout.WithAnnotations(map[string]string{refName: spec.Reference}), layout.WithPlatform(platform)); err != nil {
		return nil, err
	}
	return built, syncAll(dir)
}

const refName = "org.opencontainers.image.ref.name"

var platform = v1.Platform{OS: "linux", Architecture: "amd64"}

// describe adds to a layer what makes an image of it.
func describe(t *tree, content *blob, spec Spec) (v1.Image, error) {
	packed, err := partial.CompressedToLayer(content)
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	created := v1.Time{Time: spec.Created}
	if image, err = mutate.Append(image, mutate.Addendum{Layer: packed, History: v1.History{Created: created, CreatedBy: "drover"}}); err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = platform.OS, platform.Architecture, created
	config.Config = v1.Config{Env: []string{envPath}, Cmd: []string{"/bin/sh"}, Labels: map[string]string{}}
	for _, init := range []struct{ path, signal string }{{"/usr/lib/systemd/systemd", "SIGRTMIN+3"}, {"/lib/systemd/systemd", "SIGRTMIN+3"}, {"/sbin/init", ""}} {
		there, err := t.has(init.path)
		if err != nil {
			return nil, err
		}
		if there {
			config.Config.Cmd, config.Config.StopSignal = []string{"/sbin/init"}, init.signal
			break
		}
	}
	for name, value := range spec.Labels {
		config.Config.Labels[name] = value
	}
	if len(t.leftOut) > 0 {
		config.Config.Labels[LabelLeftOut] = strings.Join(t.leftOut, "\n")
	}
	return mutate.ConfigFile(image, config)
}

// blob is the layer, in its place in the layout.
type blob struct {
	path         string
	digest, diff v1.Hash
	size         int64
}

func (b *blob) Digest() (v1.Hash, error)            { return b.digest, nil }
func (b *blob) DiffID() (v1.Hash, error)            { return b.diff, nil }
func (b *blob) Size() (int64, error)                { return b.size, nil }
func (b *blob) MediaType() (types.MediaType, error) { return types.OCILayer, nil }
func (b *blob) Compressed() (io.ReadCloser, error)  { return os.Open(b.path) }

func sum(h hash.Hash) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}
}

// writeLayer packs the files of a tree and puts them where the layout has its blobs.
func writeLayer(ctx context.Context, dir string, t *tree, covered func(int64)) (_ *blob, err error) {
	part := filepath.Join(dir, layerPart)
	out, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	digest, diff := sha256.New(), sha256.New()
	packed := bufio.NewWriterSize(out, copySize)
	// The fastest level: it is a matter of some per cent in size and of a multiple in time.
	packer, err := gzip.NewWriterLevel(io.MultiWriter(packed, digest), gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	plain := bufio.NewWriterSize(io.MultiWriter(packer, diff), copySize)
	archive := tar.NewWriter(plain)
	l := &layer{
		ctx: ctx, tree: t, archive: archive, covered: covered, buffer: make([]byte, copySize), names: map[file]string{},
		seen: map[place]bool{}, visited: map[string]bool{},
	}
	if err := l.write(); err != nil {
		return nil, err
	}
	for _, finish := range []func() error{archive.Close, plain.Flush, packer.Close, packed.Flush, out.Sync} {
		if err := finish(); err != nil {
			return nil, err
		}
	}
	info, err := out.Stat()
	if err != nil {
		return nil, err
	}
	b := &blob{digest: sum(digest), diff: sum(diff), size: info.Size()}
	b.path = blobPath(dir, b.digest)
	if err := os.MkdirAll(filepath.Dir(b.path), 0o700); err != nil {
		return nil, err
	}
	return b, os.Rename(part, b.path)
}

func blobPath(dir string, digest v1.Hash) string {
	return filepath.Join(dir, "blobs", digest.Algorithm, digest.Hex)
}
