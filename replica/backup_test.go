package replica

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCopyImage(t *testing.T) {
	s := newSite(t)
	a, b := makeDisk(t, 9<<20+17, 1), makeDisk(t, 2<<20, 2)
	b.Index = 1
	s.run("j-1", 1, DefaultParams(), a, b)
	want, err := s.host.MakeImage(t.Context(), ImageSpec{ImageID: "m-1", JobID: "j-1", Run: 1, Final: true, Disks: []ImageDisk{{Index: 0, DeliveredSizeBytes: 12 << 20}, {Index: 1}}}, nil)
	require.NoError(t, err)
	from := s.host.imageDir("m-1")
	for name, sharing := range map[string]Sharing{"blocks": ShareBlocks, "files": ShareFiles, "links": ShareLinks} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			require.NoError(t, os.Mkdir(ImagesDir(root), 0o700))
			to := filepath.Join(ImagesDir(root), "m-1")
			var covered int64
			m, err := CopyImage(t.Context(), from, to, sharing, func(n int64) { covered += n })
			require.NoError(t, err)
			require.Equal(t, want, m)
			require.GreaterOrEqual(t, covered, int64(11<<20+17))
			requireSame(t, a.Path, rawPath(to, 0))
			ids, err := ImageDirs(root)
			require.NoError(t, err)
			require.Equal(t, []string{"m-1"}, ids)
			original, err := os.Stat(rawPath(from, 1))
			require.NoError(t, err)
			copied, err := os.Stat(rawPath(to, 1))
			require.NoError(t, err)
			if sharing == ShareBlocks {
				require.False(t, os.SameFile(original, copied), "a file of its own")
			}
			if sharing == ShareLinks {
				require.True(t, os.SameFile(original, copied))
			}

			// The copy is an image for a host, whatever became of the original.
			result, err := VerifyFiles(t.Context(), to, nil)
			require.NoError(t, err)
			require.True(t, result.OK, "%+v", result)
			_, err = CopyImage(t.Context(), from, to, sharing, nil)
			require.Error(t, err, "nothing is written over")
			if sharing == ShareBlocks {
				overwrite(t, rawPath(to, 1), 70000, []byte("rot"))
				result, err = VerifyFiles(t.Context(), to, nil)
				require.NoError(t, err)
				require.False(t, result.OK)
			}
		})
	}
	root := t.TempDir()
	_, err = CopyImage(t.Context(), s.host.imageDir("m-gone"), filepath.Join(root, "m-gone"), ShareFiles, nil)
	require.ErrorIs(t, err, ErrImageNotFound)
	require.NoDirExists(t, filepath.Join(root, "m-gone"))
	ids, err := ImageDirs(root)
	require.NoError(t, err)
	require.Empty(t, ids)

	_, err = LockRoot(s.host.cfg.Root)
	require.ErrorContains(t, err, "in use")
	unlock, err := LockRoot(root)
	require.NoError(t, err)
	unlock()
}

// What was staged before a restore is not the result of the run that has the same number after it.
func TestRunOfALaterTerm(t *testing.T) {
	s := newSite(t)
	a := makeDisk(t, 4<<20, 1)
	s.run("j-1", 3, DefaultParams(), a)
	spec := SessionSpec{JobID: "j-1", Run: 3, Disks: sizes(t, []SourceDisk{a}), Params: DefaultParams()}
	session, err := s.host.OpenSession(t.Context(), spec)
	require.NoError(t, err)
	require.True(t, session.already)
	spec.Term = 1
	session, err = s.host.OpenSession(t.Context(), spec)
	require.NoError(t, err)
	require.False(t, session.already)
	require.Zero(t, session.Progress().BytesSent, "nor are its counts those of the run")
	overwrite(t, a.Path, 1000, []byte("changed since"))
	require.NoError(t, s.sync(t.Context(), "j-1", a))
	_, err = session.Wait(t.Context(), 0, nil)
	require.NoError(t, err)
	s.requireStaged("j-1", a)
}
