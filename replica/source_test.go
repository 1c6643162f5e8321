package replica

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A file that was cut short while it is read has no data behind its new end, and that is not a hole.
func TestFileCutShortIsNoHole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.raw")
	require.NoError(t, os.WriteFile(path, make([]byte, GrainSize), 0o600))
	require.NoError(t, os.Truncate(path, 8<<20))
	disk, err := OpenDisk(path)
	require.NoError(t, err)
	defer disk.Close()
	start, _, err := disk.NextData(1 << 20)
	require.NoError(t, err)
	require.Equal(t, disk.Size(), start, "a hole up to the end")
	require.NoError(t, os.Truncate(path, 4<<20))
	_, _, err = disk.NextData(1 << 20)
	require.ErrorIs(t, err, errDiskCut)
}
