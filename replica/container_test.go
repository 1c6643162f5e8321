package replica

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/test/disks"
)

// systemDisk makes the disk of a server, and returns the SHA-256 of each of its files, by path.
func systemDisk(t *testing.T, mbr bool) (SourceDisk, map[string]string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	require.NoError(t, disks.Make(path, disks.Spec{SizeBytes: disks.MinSizeBytes, Seed: 7, FillBytes: 6 << 20}))
	files, err := disks.Contents(path)
	require.NoError(t, err)
	if !mbr {
		return SourceDisk{Path: path}, files
	}
	info, err := ProbeDisk(path)
	require.NoError(t, err)
	root := info.Partitions[len(info.Partitions)-1]
	gpt, err := os.Open(path)
	require.NoError(t, err)
	defer gpt.Close()
	const first = 2048 // sector
	table := make([]byte, mbrSize)
	table[510], table[511] = 0x55, 0xaa
	entry := table[446:]
	entry[4] = 0x83
	binary.LittleEndian.PutUint32(entry[8:], first)
	binary.LittleEndian.PutUint32(entry[12:], uint32(root.SizeBytes/mbrSize)) //nolint:gosec // a small disk
	path = filepath.Join(t.TempDir(), "disk")
	disk, err := os.Create(path)
	require.NoError(t, err)
	defer disk.Close()
	require.NoError(t, disk.Truncate(first*mbrSize+root.SizeBytes))
	_, err = disk.Write(table)
	require.NoError(t, err)
	_, err = io.Copy(io.NewOffsetWriter(disk, first*mbrSize), io.NewSectionReader(gpt, root.OffsetBytes, root.SizeBytes))
	require.NoError(t, err)
	return SourceDisk{Path: path}, files
}

var container = &ContainerSpec{Reference: "ns/repo:v7", Labels: map[string]string{"drover.job-id": "j-1"}}

// requireContainer fetches a container image and holds the files in it against those of the disk.
func (s *site) requireContainer(image string, want map[string]string) {
	s.t.Helper()
	m, err := s.host.Image(image)
	require.NoError(s.t, err)
	path := filepath.Join(s.t.TempDir(), "image.tar")
	f, err := os.Create(path)
	require.NoError(s.t, err)
	defer f.Close()
	err = DownloadContainer(s.t.Context(), nil, s.url, s.ticket(image), image, m.Container.Digest, m.Container.Reference, f, func(int64) {})
	require.NoError(s.t, err)
	_, err = f.Seek(0, io.SeekStart)
	require.NoError(s.t, err)
	small := map[string][]byte{}
	var got map[string]string
	for archive := tar.NewReader(f); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(s.t, err)
		if h.Size < 64<<10 {
			small[h.Name], err = io.ReadAll(archive)
			require.NoError(s.t, err)
			continue
		}
		layer, err := gzip.NewReader(archive)
		require.NoError(s.t, err)
		got, err = disks.ArchiveContents(layer)
		require.NoError(s.t, err)
	}
	require.Equal(s.t, want, got)
	var index v1.IndexManifest
	require.NoError(s.t, json.Unmarshal(small["index.json"], &index))
	require.Equal(s.t, "ns/repo:v7", index.Manifests[0].Annotations["org.opencontainers.image.ref.name"])
	require.Contains(s.t, string(small["manifest.json"]), `"RepoTags":["ns/repo:v7"]`)
}

func TestContainerImage(t *testing.T) {
	for name, mbr := range map[string]bool{"GPT": false, "MBR": true} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			disk, files := systemDisk(t, mbr)
			s.run("j-1", 1, DefaultParams(), disk)
			spec := ImageSpec{ImageID: "m-1", JobID: "j-1", Run: 1, Container: container}
			var last Progress
			m, err := s.host.MakeImage(t.Context(), spec, func(p Progress) {
				require.GreaterOrEqual(t, p.BytesRead, last.BytesRead)
				last = p
			})
			require.NoError(t, err)
			require.Equal(t, last.BytesTotal, last.BytesRead)
			require.Empty(t, m.Disks)
			require.Equal(t, m.Container.SizeBytes, m.Bytes())
			again, err := s.host.MakeImage(t.Context(), spec, nil)
			require.NoError(t, err)
			require.Equal(t, m, again, "making it again changes nothing")
			s.requireContainer("m-1", files)
			require.GreaterOrEqual(t, s.host.ImageBytes("m-1"), m.Container.SizeBytes)

			// A connection that breaks off again and again costs nothing but time.
			breaks := 0
			cut := func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(r.URL.Path, "/container/blobs/") || breaks > 20 {
					return false
				}
				breaks++
				s.host.Handler().ServeHTTP(&cutWriter{ResponseWriter: w, left: 300 << 10}, r)
				return true
			}
			s.intercept.Store(&cut)
			s.requireContainer("m-1", files)
			require.Greater(t, breaks, 2)
			s.intercept.Store(nil)

			// A copy, as a backup makes it, is whole; damage is found.
			copied := filepath.Join(t.TempDir(), "m-1")
			_, err = CopyImage(t.Context(), s.host.imageDir("m-1"), copied, ShareFiles, nil)
			require.NoError(t, err)
			result, err := VerifyFiles(t.Context(), copied, nil)
			require.NoError(t, err)
			require.True(t, result.OK)
			result, err = Verify(t.Context(), nil, s.url, s.ticket("m-1"), "m-1", nil)
			require.NoError(t, err)
			require.True(t, result.OK)
			require.Empty(t, result.Problems())
			blob := filepath.Join(layoutDir(s.host.imageDir("m-1")), "blobs", "sha256", strings.TrimPrefix(m.Container.Digest, "sha256:"))
			overwrite(t, blob, 5, []byte("rot"))
			result, err = Verify(t.Context(), nil, s.url, s.ticket("m-1"), "m-1", nil)
			require.NoError(t, err)
			require.False(t, result.OK)
			require.Contains(t, result.Problems(), "damaged")

			requireCode(t, Download(t.Context(), nil, s.url, s.ticket("m-1"), "m-1", 0, ArtifactSynced, nil), CodeInvalidRequest)
			for _, path := range []string{"../manifest.json", "blobs/../../manifest.json", "manifest.json", "blobs/sha256/none", ""} {
				api := newImageClient(nil, s.url, s.ticket("m-1"))
				_, err := api.stream(t.Context(), http.MethodGet, "/images/m-1/container/"+path, nil)
				require.Error(t, err, path)
			}
			require.NoError(t, s.host.DeleteImage(t.Context(), "m-1"))
			require.NoDirExists(t, s.host.imageDir("m-1"))
		})
	}
}

// Whatever is left of a container image that was not finished is none, and is in nobody's way.
func TestHalfContainerImages(t *testing.T) {
	s := newSite(t)
	disk, files := systemDisk(t, false)
	s.run("j-1", 1, DefaultParams(), disk)
	spec := ImageSpec{ImageID: "m-1", JobID: "j-1", Run: 1, Container: container}
	ctx, cancel := context.WithCancel(t.Context())
	_, err := s.host.MakeImage(ctx, spec, func(p Progress) { cancel() })
	require.ErrorIs(t, err, context.Canceled)
	ids, err := s.host.ImageIDs()
	require.NoError(t, err)
	require.Empty(t, ids, "one that was given up is cleared away")

	for _, left := range []string{"oci/layer.part", "oci/blobs/sha256/0123", "oci/index.json"} {
		path := filepath.Join(s.host.imageDir("m-1"), left)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte("half"), 0o600))
		s.requireHalfAfterKill("m-1")
		_, err = s.host.MakeImage(t.Context(), spec, nil)
		require.NoError(t, err)
		s.requireContainer("m-1", files)
		require.NoFileExists(t, filepath.Join(layoutDir(s.host.imageDir("m-1")), "layer.part"))
		require.NoFileExists(t, filepath.Join(layoutDir(s.host.imageDir("m-1")), "blobs", "sha256", "0123"))
		require.NoError(t, s.host.DeleteImage(t.Context(), "m-1"))
	}
}

// What cannot be made of a disk is refused with a code, and the next sync brings what the source has by then.
func TestContainerImageOfAnotherDisk(t *testing.T) {
	s := newSite(t)
	disk, _ := systemDisk(t, false)
	whole, err := os.ReadFile(disk.Path)
	require.NoError(t, err)
	info, err := ProbeDisk(disk.Path)
	require.NoError(t, err)
	root := info.Partitions[len(info.Partitions)-1].OffsetBytes
	spec := ImageSpec{ImageID: "m-1", JobID: "j-1", Run: 1, Container: container}
	for code, change := range map[string]func([]byte){
		CodeNoRootFileSystem:      func(b []byte) { clear(b[root+1024 : root+2048]) },
		CodeFileSystemUnsupported: func(b []byte) { copy(b[root:], "XFSB"); clear(b[root+1024 : root+2048]) },
		CodeFileSystemDamaged:     func(b []byte) { clear(b[root+4096 : root+8192]) },
	} {
		changed := append([]byte(nil), whole...)
		change(changed)
		require.NoError(t, os.WriteFile(disk.Path, changed, 0o600))
		s.run("j-1", 1, DefaultParams(), disk)
		_, err := s.host.MakeImage(t.Context(), spec, nil)
		requireCode(t, err, code)
		ids, err := s.host.ImageIDs()
		require.NoError(t, err)
		require.Empty(t, ids)
	}
	require.NoError(t, os.WriteFile(disk.Path, whole, 0o600))
	result := s.run("j-1", 1, DefaultParams(), disk)
	require.Positive(t, result.Progress.BytesSent)
	_, err = s.host.MakeImage(t.Context(), spec, nil)
	require.NoError(t, err)
}
