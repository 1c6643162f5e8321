package replica

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/stretchr/testify/require"
)

func (s *site) ticket(image string) string {
	return SignToken(testKey, TokenImage, image, time.Now().Add(time.Hour))
}

func (s *site) download(image string, disk int, artifact string) string {
	s.t.Helper()
	path := filepath.Join(s.t.TempDir(), "download")
	f, err := os.Create(path)
	require.NoError(s.t, err)
	defer f.Close()
	require.NoError(s.t, Download(s.t.Context(), nil, s.url, s.ticket(image), image, disk, artifact, f))
	return path
}

func TestImageAndDownload(t *testing.T) {
	for _, final := range []bool{true, false} {
		t.Run(fmt.Sprintf("final %v", final), func(t *testing.T) {
			s := newSite(t)
			a, b := makeDisk(t, 9<<20+17, 1), makeDisk(t, 2<<20, 2)
			b.Index = 1
			s.run("j-1", 1, DefaultParams(), a, b)
			var last Progress
			spec := ImageSpec{ImageID: "m-1", JobID: "j-1", Run: 1, Final: final, Disks: []ImageDisk{{Index: 0, DeliveredSizeBytes: 11<<20 + 5}, {Index: 1}}}
			m, err := s.host.MakeImage(t.Context(), spec, func(p Progress) {
				require.GreaterOrEqual(t, p.BytesRead, last.BytesRead)
				last = p
			})
			require.NoError(t, err)
			require.True(t, m.Verified)
			require.Equal(t, last.BytesTotal, last.BytesRead)

			again, err := s.host.MakeImage(t.Context(), spec, nil)
			require.NoError(t, err)
			require.Equal(t, m, again, "making it again changes nothing")
			_, err = s.host.MakeImage(t.Context(), ImageSpec{ImageID: "m-1", JobID: "j-1", Run: 2}, nil)
			requireCode(t, err, CodeInvalidRequest)

			requireSame(t, a.Path, s.download("m-1", 0, ArtifactSynced))
			requireSame(t, b.Path, s.download("m-1", 1, ArtifactDelivered))
			grown := filepath.Join(t.TempDir(), "grown")
			data, err := os.ReadFile(a.Path)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(grown, append(data, make([]byte, 2<<20-12)...), 0o600))
			requireSame(t, grown, s.download("m-1", 0, ArtifactDelivered))

			// A later run changes the staging area and not the image.
			before := s.download("m-1", 0, ArtifactSynced)
			overwrite(t, a.Path, 100, []byte("after the image"))
			s.run("j-1", 2, DefaultParams(), a, b)
			s.requireStaged("j-1", a, b)
			requireSame(t, before, s.download("m-1", 0, ArtifactSynced))
			result, err := Verify(t.Context(), nil, s.url, s.ticket("m-1"), "m-1", nil)
			require.NoError(t, err)
			require.True(t, result.OK, "%+v", result)

			require.NoError(t, s.host.ReleaseStaging(t.Context(), "j-1"))
			requireSame(t, before, s.download("m-1", 0, ArtifactSynced))
			images, err := s.host.Images()
			require.NoError(t, err)
			require.Len(t, images, 1)
			require.NoError(t, s.host.DeleteImage(t.Context(), "m-1"))
			require.NoError(t, s.host.DeleteImage(t.Context(), "m-1"))
			_, err = s.host.Image("m-1")
			require.ErrorIs(t, err, ErrImageNotFound)
		})
	}
}

// requireHalfAfterKill kills the host, which was making an image: it is none then, and is cleared away.
func (s *site) requireHalfAfterKill(id string) {
	s.t.Helper()
	s.kill()
	s.start()
	images, err := s.host.Images()
	require.NoError(s.t, err)
	require.Empty(s.t, images)
	ids, err := s.host.ImageIDs()
	require.NoError(s.t, err)
	require.Equal(s.t, []string{id}, ids, "it is listed as something to clear away")
}

func TestHalfImagesAreNotImages(t *testing.T) {
	s := newSite(t)
	disk := makeDisk(t, 4<<20, 1)
	s.run("j-1", 1, DefaultParams(), disk)
	// What each step of MakeImage leaves when the host dies after it.
	for _, left := range [][]string{{}, {"disk-0.raw"}, {"disk-0.raw", "disk-0.map", "disk-0.patch"}, {"disk-0.raw", "disk-0.map", "disk-0.patch", "manifest.json.tmp"}} {
		dir := s.host.imageDir("m-1")
		require.NoError(t, os.MkdirAll(dir, 0o700))
		for _, name := range left {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("half"), 0o600))
		}
		s.requireHalfAfterKill("m-1")
		require.ErrorIs(t, Download(t.Context(), nil, s.url, s.ticket("m-1"), "m-1", 0, ArtifactSynced, nil), ErrImageNotFound)
		_, err := s.host.MakeImage(t.Context(), ImageSpec{ImageID: "m-1", JobID: "j-1", Run: 1, Final: true}, nil)
		require.NoError(t, err)
		requireSame(t, disk.Path, s.download("m-1", 0, ArtifactSynced))
		require.NoError(t, s.host.DeleteImage(t.Context(), "m-1"))
	}
}

func TestImageNeedsASyncedRun(t *testing.T) {
	s := newSite(t)
	disk := makeDisk(t, 4<<20, 1)
	_, err := s.host.MakeImage(t.Context(), ImageSpec{ImageID: "m-1", JobID: "j-1", Run: 1}, nil)
	requireCode(t, err, CodeSyncIncomplete)
	s.run("j-1", 1, DefaultParams(), disk)
	_, err = s.host.MakeImage(t.Context(), ImageSpec{ImageID: "m-1", JobID: "j-1", Run: 2}, nil)
	requireCode(t, err, CodeSyncIncomplete)
	_, err = s.host.MakeImage(t.Context(), ImageSpec{ImageID: "m-1", JobID: "j-1", Run: 1, Disks: []ImageDisk{{DeliveredSizeBytes: 1 << 20}}}, nil)
	requireCode(t, err, CodeShrinkUnsupported)
	ids, err := s.host.ImageIDs()
	require.NoError(t, err)
	require.Empty(t, ids)
}

func TestDamagedStagingIsFoundAndMended(t *testing.T) {
	s := newSite(t)
	disk := makeDisk(t, 4<<20, 1)
	s.run("j-1", 1, DefaultParams(), disk)
	overwrite(t, s.staged("j-1", 0), 3<<20, []byte("rot"))
	spec := ImageSpec{ImageID: "m-1", JobID: "j-1", Run: 1}
	_, err := s.host.MakeImage(t.Context(), spec, nil)
	coded := requireCode(t, err, CodeSyncedStateCorrupt)
	require.Equal(t, int64(3<<20), coded.Offset)
	_, err = s.host.Image("m-1")
	require.ErrorIs(t, err, ErrImageNotFound)

	s.run("j-1", 1, DefaultParams(), disk)
	_, err = s.host.MakeImage(t.Context(), spec, nil)
	require.NoError(t, err)
	requireSame(t, disk.Path, s.download("m-1", 0, ArtifactSynced))
}

func TestDamagedImageIsNoticed(t *testing.T) {
	s := newSite(t)
	disk := makeDisk(t, 4<<20, 1)
	s.run("j-1", 1, DefaultParams(), disk)
	_, err := s.host.MakeImage(t.Context(), ImageSpec{ImageID: "m-1", JobID: "j-1", Run: 1}, nil)
	require.NoError(t, err)
	overwrite(t, rawPath(s.host.imageDir("m-1"), 0), 2<<20+5, []byte("rot"))
	result, err := Verify(t.Context(), nil, s.url, s.ticket("m-1"), "m-1", nil)
	require.NoError(t, err)
	require.False(t, result.OK)
	require.Equal(t, int64(1), result.Disks[0].BadGrains)
	require.ErrorIs(t, Download(t.Context(), nil, s.url, s.ticket("m-2"), "m-1", 0, ArtifactSynced, nil), ErrRefused)
}

// TestDownloadGoesOnWhereItWas cuts the connection several times.
func TestDownloadGoesOnWhereItWas(t *testing.T) {
	s := newSite(t)
	path := filepath.Join(t.TempDir(), "d")
	data := make([]byte, 12<<20+9)
	randomize(rand.New(rand.NewPCG(1, 2)), data)
	require.NoError(t, os.WriteFile(path, data, 0o600))
	s.run("j-1", 1, DefaultParams(), SourceDisk{Path: path})
	_, err := s.host.MakeImage(t.Context(), ImageSpec{ImageID: "m-1", JobID: "j-1", Run: 1}, nil)
	require.NoError(t, err)
	var cuts atomic.Int64
	f := func(w http.ResponseWriter, r *http.Request) bool {
		if cuts.Add(1) > 3 {
			return false
		}
		s.host.Handler().ServeHTTP(&cutWriter{ResponseWriter: w, left: 3 << 20}, r)
		return true
	}
	s.intercept.Store(&f)
	requireSame(t, path, s.download("m-1", 0, ArtifactSynced))
	require.Greater(t, cuts.Load(), int64(3))
}

type cutWriter struct {
	http.ResponseWriter
	left int
}

func (w *cutWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, errors.New("cut")
	}
	return w.ResponseWriter.Write(p)
}

func makeGPT(t *testing.T, size int64, sector int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "gpt.raw")
	f, err := os.Create(path)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(size))
	table := &gpt.Table{
		LogicalSectorSize: sector, PhysicalSectorSize: sector, ProtectiveMBR: true,
		Partitions: []*gpt.Partition{
			{Index: 1, Start: uint64(1<<20) / uint64(sector), Size: 2 << 20, Type: gpt.BIOSBoot, Name: "boot"},
			{Index: 2, Start: uint64(4<<20) / uint64(sector), Size: 8 << 20, Type: gpt.LinuxFilesystem, Name: "rööt"},
		},
	}
	w, err := file.New(f, false).Writable()
	require.NoError(t, err)
	require.NoError(t, table.Write(w, size))
	require.NoError(t, f.Close())
	overwrite(t, path, 5<<20, bytes.Repeat([]byte("file system"), 100_000))
	return path
}

func TestBackupGPTMovesToTheEnd(t *testing.T) {
	for _, sector := range []int{512, 4096} {
		for _, by := range []int64{0, int64(sector), 16 << 10, 7 << 20, 1<<20 + 77} {
			t.Run(fmt.Sprintf("sector %d grown by %d", sector, by), func(t *testing.T) {
				const size = 16 << 20
				s := newSite(t)
				path := makeGPT(t, size, sector)
				s.run("j-1", 1, DefaultParams(), SourceDisk{Path: path})
				m, err := s.host.MakeImage(t.Context(), ImageSpec{ImageID: "m-1", JobID: "j-1", Run: 1, Disks: []ImageDisk{{DeliveredSizeBytes: size + by}}}, nil)
				require.NoError(t, err)
				require.Equal(t, tableGPT, m.Disks[0].PartitionTable)
				require.Empty(t, m.Disks[0].Notes)
				requireSame(t, path, s.download("m-1", 0, ArtifactSynced))
				delivered := s.download("m-1", 0, ArtifactDelivered)

				info, err := os.Stat(delivered)
				require.NoError(t, err)
				require.Equal(t, size+by, info.Size())
				whole := info.Size() / int64(sector) * int64(sector)
				f, err := os.OpenFile(delivered, os.O_RDWR, 0)
				require.NoError(t, err)
				defer f.Close()
				require.NoError(t, f.Truncate(whole)) // the reader wants whole sectors
				table, err := gpt.Read(file.New(f, true), sector, sector)
				require.NoError(t, err)
				require.False(t, table.RecoveredFromBackup)
				require.NoError(t, table.Verify(file.New(f, true), uint64(whole)))
				require.Equal(t, "rööt", table.Partitions[1].Name)
				// With the primary gone the backup has to stand in for it.
				_, err = f.WriteAt(make([]byte, sector), int64(sector))
				require.NoError(t, err)
				backup, err := gpt.Read(file.New(f, true), sector, sector)
				require.NoError(t, err)
				require.True(t, backup.RecoveredFromBackup)
				require.Len(t, backup.Partitions, len(table.Partitions))
				require.Equal(t, table.Partitions[1].Start, backup.Partitions[1].Start)

				if sfdisk, err := exec.LookPath("sfdisk"); err == nil && sector == 512 {
					out, err := exec.Command(sfdisk, "-V", s.download("m-1", 0, ArtifactDelivered)).CombinedOutput()
					require.NoError(t, err, string(out))
					require.Contains(t, string(out), "No errors detected")
				}
			})
		}
	}
}

func TestDamagedGPTIsLeftAlone(t *testing.T) {
	s := newSite(t)
	path := makeGPT(t, 16<<20, 512)
	overwrite(t, path, 512+40, []byte{0xff})
	s.run("j-1", 1, DefaultParams(), SourceDisk{Path: path})
	m, err := s.host.MakeImage(t.Context(), ImageSpec{ImageID: "m-1", JobID: "j-1", Run: 1, Disks: []ImageDisk{{DeliveredSizeBytes: 17 << 20}}}, nil)
	require.NoError(t, err)
	require.Len(t, m.Disks[0].Notes, 1)
	require.Contains(t, m.Disks[0].Notes[0], "damaged")
	info, err := ProbeDisk(path)
	require.NoError(t, err)
	require.Empty(t, info.PartitionTable)
}

func TestProbe(t *testing.T) {
	path := makeGPT(t, 16<<20, 512)
	info, err := ProbeDisk(path)
	require.NoError(t, err)
	require.Equal(t, int64(16<<20), info.SizeBytes)
	require.Less(t, info.UsedBytes, int64(4<<20))
	require.Equal(t, tableGPT, info.PartitionTable)
	require.Len(t, info.Partitions, 2)
	require.Equal(t, Partition{
		Number: 2, Device: path + "p2", OffsetBytes: 4 << 20, SizeBytes: 8 << 20,
		Type: string(gpt.LinuxFilesystem), UUID: info.Partitions[1].UUID, Name: "rööt",
	}, info.Partitions[1])
	require.Regexp(t, `^[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}$`, info.Partitions[1].UUID)

	mbr := make([]byte, 4<<20)
	mbr[510], mbr[511] = 0x55, 0xaa
	entry := func(at, i int, kind byte, first, sectors uint32) {
		e := mbr[at+446+16*i:]
		e[4] = kind
		for j := range 4 {
			e[8+j], e[12+j] = byte(first>>(8*j)), byte(sectors>>(8*j))
		}
	}
	entry(0, 0, 0x83, 64, 1000)
	entry(0, 1, 0x05, 2048, 4096)
	for i, at := range []int{2048, 3000} {
		mbr[at*512+510], mbr[at*512+511] = 0x55, 0xaa
		entry(at*512, 0, 0x83, 63, 500)
		if i == 0 {
			entry(at*512, 1, 0x05, 3000-2048, 600)
		}
	}
	path = filepath.Join(t.TempDir(), "mbr")
	require.NoError(t, os.WriteFile(path, mbr, 0o600))
	info, err = ProbeDisk(path)
	require.NoError(t, err)
	require.Equal(t, tableMBR, info.PartitionTable)
	var numbers []int
	for _, p := range info.Partitions {
		numbers = append(numbers, p.Number)
	}
	require.Equal(t, []int{1, 2, 5, 6}, numbers)
	require.Equal(t, int64((3000+63)*512), info.Partitions[3].OffsetBytes)

	_, err = ProbeDisk(filepath.Join(t.TempDir(), "absent"))
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = ProbeDisk(t.TempDir())
	require.ErrorContains(t, err, "neither a file nor a block device")
}

func TestPartitionDeviceNames(t *testing.T) {
	require.Equal(t, "/dev/sda1", partitionDevice("/dev/sda", 1, true))
	require.Equal(t, "/dev/nvme0n1p3", partitionDevice("/dev/nvme0n1", 3, true))
	require.Equal(t, "disk.rawp2", partitionDevice("disk.raw", 2, false))
}
