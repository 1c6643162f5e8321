package acceptance

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/smc"
	"github.com/drover/drover/test/disks"
	"github.com/drover/drover/test/stack"
)

// requireContainer exports a container image and holds its files against those of the disk it was made of.
func (s *center) requireContainer(image, disk string) {
	s.t.Helper()
	want, err := disks.Contents(disk)
	require.NoError(s.t, err)
	dir := filepath.Join(s.Dir, "out", image)
	assert.Contains(s.t, s.drover("image", "export", image, dir), "image.oci.tar")
	exported, err := tarball.ImageFromPath(filepath.Join(dir, "image.oci.tar"), nil)
	require.NoError(s.t, err)
	require.NoError(s.t, validate.Image(exported))
	layers, err := exported.Layers()
	require.NoError(s.t, err)
	require.Len(s.t, layers, 1)
	layer, err := layers[0].Uncompressed()
	require.NoError(s.t, err)
	defer layer.Close()
	got, err := disks.ArchiveContents(layer)
	require.NoError(s.t, err)
	assert.Equal(s.t, want, got, "files of %s", image)
}

// A job with TargetType ContainerImage makes a container image a run, also when everything is killed while it packs one, and keeps
// as many as it is to.
func TestContainerImages(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("container images are made of x86-64 servers only")
	}
	t.Parallel()
	s := newCenter(t)
	disk := filepath.Join(s.Dir, "system.raw")
	require.NoError(t, disks.Make(disk, disks.Spec{SizeBytes: 96 * mib, Seed: 41, FillBytes: 48 * mib}))
	a := s.startAgent("box", disk)
	target := []string{"--target-type", "ContainerImage", "--container-namespace", "Team", "--container-repository", "app"}
	s.refused(smc.CodeInvalidParameter, []string{"ContainerTag"}, append([]string{"job", "create", "--source", "box", "--container-tag", "v 7"}, target...)...)
	job := s.createJob(a, append(target, "--container-tag", "v7", "--run-once=false", "--frequency", "12", "--max-images", "1", "--start")...)
	stack.Eventually(t, slow, "an image is being made", func() (bool, any) { return len(s.imageDirs()) > 0, nil })
	s.again()
	s.awaitStatus(job, smc.StatusWaiting)

	images := s.images(job)
	require.Len(t, images, 1)
	first := images[0]
	assert.Equal(t, smc.TargetContainerImage, first.TargetType)
	assert.Equal(t, "team/app:v7", first.ContainerReference)
	assert.Regexp(t, "^sha256:[0-9a-f]{64}$", first.ContainerDigest)
	assert.Empty(t, first.Disks)
	assert.Positive(t, first.SizeBytes)
	assert.Equal(t, []string{first.ImageID}, s.imageDirs(), "images on the transition host")
	s.requireContainer("box_CYCLE_1", disk)
	assert.Regexp(t, "box_CYCLE_1 +Available +container ", s.drover("image", "list"))
	assert.Contains(t, s.drover("image", "show", "box_CYCLE_1"), "team/app:v7")
	assert.Contains(t, s.drover("image", "verify", first.ImageID), "container image: verified")
	r := s.try("image", "export", first.ImageID, filepath.Join(s.Dir, "none"), "--synced")
	assert.NotZero(t, r.Code)
	assert.Contains(t, r.Stderr, "is a container image")

	// The ticket of the export keeps the first image; the second run makes another all the same.
	require.NoError(t, disks.Mutate(disk, 2, mib))
	s.drover("job", "run", job)
	s.awaitStatus(job, smc.StatusWaiting)
	require.Len(t, s.images(job), 2)
	s.requireContainer("box_CYCLE_2", disk)

	// A disk that is not a server's is told of. When it is one again, the next start sends what has changed and goes on.
	whole, err := os.ReadFile(disk)
	require.NoError(t, err)
	broken := bytes.Clone(whole)
	clear(broken[mib : 8*mib])
	require.NoError(t, os.WriteFile(disk, broken, 0o600))
	s.drover("job", "run", job)
	assert.Equal(t, smc.CodeRootFileSystemNotFound, s.awaitStatus(job, smc.StatusInError).ErrorCode)
	require.Len(t, s.imageDirs(), 2)
	require.NoError(t, os.WriteFile(disk, whole, 0o600))
	s.drover("job", "start", job)
	s.awaitStatus(job, smc.StatusWaiting)
	s.requireContainer("box_CYCLE_3", disk)
}
