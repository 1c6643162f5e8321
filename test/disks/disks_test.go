package disks_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/test/disks"
)

const mib = 1 << 20

func TestMakeAndMutate(t *testing.T) {
	t.Parallel()
	for _, spec := range []disks.Spec{
		{SizeBytes: disks.MinSizeBytes, Seed: 1},
		{SizeBytes: 64 * mib, Seed: 2, Layout: disks.Data, FillBytes: 48 * mib},
		{SizeBytes: 160 * mib, Seed: 3, FillBytes: 80 * mib, CompressiblePercent: -1}, // more than one block group
	} {
		t.Run(fmt.Sprintf("%d MiB layout %d", spec.SizeBytes/mib, spec.Layout), func(t *testing.T) {
			t.Parallel()
			name := filepath.Join(t.TempDir(), "disk.raw")
			require.NoError(t, disks.Make(name, spec))

			info, err := os.Stat(name)
			require.NoError(t, err)
			assert.Equal(t, spec.SizeBytes, info.Size())
			checkTable(t, name, spec.Layout)
			fsck(t, name)

			before, err := disks.Contents(name)
			require.NoError(t, err)
			assert.Greater(t, len(before), 30)
			original, err := os.ReadFile(name)
			require.NoError(t, err)

			const change = 2 * mib
			require.NoError(t, disks.Mutate(name, 77, change))
			fsck(t, name)
			after, err := disks.Contents(name)
			require.NoError(t, err)
			changed, added := 0, 0
			for p, sum := range after {
				switch old, ok := before[p]; {
				case !ok:
					added++
				case old != sum:
					changed++
				}
			}
			assert.Positive(t, changed, "files changed in place")
			assert.Positive(t, added, "files added")
			for p := range before {
				assert.Contains(t, after, p)
			}

			// The change is scattered, and of the size that was asked for.
			now, err := os.ReadFile(name)
			require.NoError(t, err)
			require.Len(t, now, len(original))
			blocks := 0
			for off := 0; off < len(now); off += 4096 {
				if !bytes.Equal(now[off:off+4096], original[off:off+4096]) {
					blocks++
				}
			}
			assert.InDelta(t, change, blocks*4096, change/2)

			assert.ErrorContains(t, disks.Mutate(name, 77, change), "use another")
		})
	}
}

// A disk may be changed as often as a long run likes: it does not fill up, and what is written at the edge of an extent is written, too.
func TestMutateAgainAndAgain(t *testing.T) {
	name := filepath.Join(t.TempDir(), "disk.raw")
	require.NoError(t, disks.Make(name, disks.Spec{SizeBytes: 64 * mib, Seed: 3, FillBytes: 20 * mib}))
	for seed := range uint64(50) {
		require.NoError(t, disks.Mutate(name, 300+seed, 3*mib))
	}
	fsck(t, name)
}

func TestMakeIsSparseAndHoldsAllocatedZeroes(t *testing.T) {
	name := filepath.Join(t.TempDir(), "disk.raw")
	require.NoError(t, disks.Make(name, disks.Spec{SizeBytes: 256 * mib, Seed: 9, FillBytes: 32 * mib}))
	out, err := exec.CommandContext(t.Context(), "du", "--block-size=1M", name).Output()
	require.NoError(t, err)
	var allocated int
	_, err = fmt.Sscan(string(out), &allocated)
	require.NoError(t, err)
	assert.Greater(t, allocated, 32)
	assert.Less(t, allocated, 128, "a disk filled to an eighth has holes")
}

func TestMakeFollowsItsSeed(t *testing.T) {
	contents := func(seed uint64) map[string]string {
		name := filepath.Join(t.TempDir(), "disk.raw")
		require.NoError(t, disks.Make(name, disks.Spec{SizeBytes: disks.MinSizeBytes, Seed: seed}))
		sums, err := disks.Contents(name)
		require.NoError(t, err)
		return sums
	}
	one := contents(1)
	assert.Equal(t, one, contents(1))
	assert.NotEqual(t, one, contents(2))
}

func TestMakeRefuses(t *testing.T) {
	dir := t.TempDir()
	there := filepath.Join(dir, "there.raw")
	require.NoError(t, os.WriteFile(there, []byte("precious"), 0o600))
	require.ErrorIs(t, disks.Make(there, disks.Spec{SizeBytes: disks.MinSizeBytes}), os.ErrExist)
	data, err := os.ReadFile(there)
	require.NoError(t, err)
	assert.Equal(t, "precious", string(data))

	for _, spec := range []disks.Spec{
		{},
		{SizeBytes: disks.MinSizeBytes + 1},
		{SizeBytes: 64 * mib, FillBytes: 60 * mib},
		{SizeBytes: 64 * mib, CompressiblePercent: 101},
		{SizeBytes: 64 * mib, Label: strings.Repeat("x", 17)},
		{SizeBytes: 64 * mib, Layout: 7},
	} {
		name := filepath.Join(dir, "refused.raw")
		require.Error(t, disks.Make(name, spec), "%+v", spec)
		assert.NoFileExists(t, name)
	}
}

func checkTable(t *testing.T, name string, layout disks.Layout) {
	t.Helper()
	f, err := os.Open(name)
	require.NoError(t, err)
	defer f.Close()
	info, err := f.Stat()
	require.NoError(t, err)
	table, err := gpt.Read(f, 512, 512)
	require.NoError(t, err)
	require.NoError(t, table.Verify(f, uint64(info.Size())))
	want := []gpt.Type{gpt.BIOSBoot, gpt.LinuxFilesystem}
	if layout == disks.Data {
		want = want[1:]
	}
	require.Len(t, table.Partitions, len(want))
	for i, p := range table.Partitions {
		assert.Equal(t, want[i], p.Type)
	}
}

// fsck lets e2fsck check the file system, on machines that have it.
func fsck(t *testing.T, name string) {
	t.Helper()
	tool, err := exec.LookPath("e2fsck")
	if err != nil {
		t.Log("e2fsck is not installed: the file system is checked by reading it only")
		return
	}
	f, err := os.Open(name)
	require.NoError(t, err)
	defer f.Close()
	table, err := gpt.Read(f, 512, 512)
	require.NoError(t, err)
	p := table.Partitions[len(table.Partitions)-1]
	extracted, err := os.Create(filepath.Join(t.TempDir(), "fs"))
	require.NoError(t, err)
	defer extracted.Close()
	_, err = io.Copy(extracted, io.NewSectionReader(f, int64(p.Start)*512, int64(p.End-p.Start+1)*512))
	require.NoError(t, err)
	out, err := exec.CommandContext(t.Context(), tool, "-fn", extracted.Name()).CombinedOutput()
	require.NoError(t, err, "%s", out)
}
