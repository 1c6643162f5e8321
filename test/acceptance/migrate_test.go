package acceptance

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/smc"
	"github.com/drover/drover/test/disks"
)

// foreignFilesystem makes a disk with an ext4 file system in it, by the machine's own tool.
func foreignFilesystem(t *testing.T, dir, path string) string {
	t.Helper()
	mke2fs := disks.Tool("mke2fs")
	if mke2fs == "" {
		t.Log("mke2fs is not installed: pseudo-random bytes take its place")
		return makeDisk(t, path, 64*mib, 24*mib, 7, 11)
	}
	files := filepath.Join(dir, "files")
	require.NoError(t, os.MkdirAll(filepath.Join(files, "srv"), 0o755))
	makeDisk(t, filepath.Join(files, "srv", "data"), 20*mib, 12*mib, 5, 12)
	require.NoError(t, os.WriteFile(filepath.Join(files, "hostname"), []byte("foreign\n"), 0o600))
	out, err := exec.Command(mke2fs, "-q", "-t", "ext4", "-d", files, path, "64M").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return path
}

// gptDisk makes a disk with a GPT: by the machine's own tool where there is one, else as the demo does.
func gptDisk(t *testing.T, path string) string {
	t.Helper()
	sfdisk := disks.Tool("sfdisk")
	if sfdisk == "" {
		t.Log("sfdisk is not installed: the demo's disks take its place")
		require.NoError(t, disks.Make(path, disks.Spec{SizeBytes: 96 * mib, Seed: 13, FillBytes: 24 * mib}))
		return path
	}
	makeDisk(t, path, 96*mib, 24*mib, 6, 13)
	cmd := exec.Command(sfdisk, "-q", path)
	cmd.Stdin = strings.NewReader("label: gpt\nsize=1MiB, type=21686148-6449-6E6F-744E-656564454649\ntype=L\n")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return path
}

// Disks this project did not make arrive as they were, and are delivered as asked.
func TestForeignDisksMigrate(t *testing.T) {
	t.Parallel()
	s := newCenter(t)
	heard := s.follow()
	all := []string{
		gptDisk(t, filepath.Join(s.Dir, "system.raw")),
		foreignFilesystem(t, s.Dir, filepath.Join(s.Dir, "ext4.raw")),
		// An odd size, and stretches that begin and end anywhere.
		makeDisk(t, filepath.Join(s.Dir, "odd.raw"), 50*mib+12345, 21*mib+77, 13, 14),
	}
	a := s.startAgent("foreign", all...)
	job := s.createJob(a, "--data-disk", "1=20", "--data-disk", "2=21", "--start")
	s.drover("job", "watch", job)
	d := s.awaitStatus(job, smc.StatusFinished)
	require.Len(t, d.Runs, 1)
	assert.InDelta(t, 100, d.Progress, 0)
	assert.LessOrEqual(t, d.Runs[0].BytesSentRaw, nonZero(t, all...), "no grain is sent twice, and none that is zero")

	images := s.images(job)
	require.Len(t, images, 1)
	assert.Equal(t, d.Runs[0].ImageID, images[0].ImageID)
	assert.Equal(t, "foreign", images[0].ImageName)
	s.exportSynced("foreign", all...)
	assert.Equal(t, 3, strings.Count(s.drover("image", "verify", "foreign"), ": verified\n"), "disks that were verified")

	dir := filepath.Join(s.Dir, "delivered")
	s.drover("image", "export", images[0].ImageID, dir)
	for i, size := range []int64{20 * gib, 20 * gib, 21 * gib} {
		info, err := os.Stat(filepath.Join(dir, fmt.Sprintf("disk-%d.raw", i)))
		require.NoError(t, err)
		assert.Equal(t, size, info.Size(), "size of delivered disk %d", i)
	}
	requireBackupGPT(t, filepath.Join(dir, "disk-0.raw"))
	requireBegins(t, all[1], filepath.Join(dir, "disk-1.raw"))
	requireBegins(t, all[2], filepath.Join(dir, "disk-2.raw"))
	assert.Empty(t, s.stagingDirs(), "staging areas after the last run")
	heard.requireStory(t, job, chain("Ready", oneRun, "Finished"))
}

// A damaged image is found out.
func TestDamagedImageIsFoundOut(t *testing.T) {
	t.Parallel()
	s := newCenter(t)
	disk := makeDisk(t, filepath.Join(s.Dir, "disk.raw"), 16*mib, 4*mib, 4, 15)
	job := s.createJob(s.startAgent("damaged", disk), "--start")
	image := s.awaitStatus(job, smc.StatusFinished).Runs[0].ImageID
	s.drover("image", "verify", image)
	file, err := os.OpenFile(filepath.Join(s.Data, "images", "images", image, "disk-0.raw"), os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = file.WriteAt([]byte("a bad sector"), 12345) // where there is data
	require.NoError(t, err)
	require.NoError(t, file.Close())
	s.refused(smc.CodeImageVerificationFailed, []string{image, "disk 0"}, "image", "verify", image)
	r := s.try("image", "export", image, filepath.Join(s.Dir, "out"), "--synced")
	assert.Equal(t, 1, r.Code, "export of a damaged image")
	assert.NoFileExists(t, filepath.Join(s.Dir, "out", "disk-0.raw"), "a damaged export")
}
