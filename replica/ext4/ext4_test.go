package ext4

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	iofs "io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/drover/drover/test/disks"
)

// dirty returns a file system that was copied while the kernel had it mounted: what was done to it last is in its journal only, with
// directories that were deleted, whose blocks are used for something else since. testdata/dirty.txt is what the kernel made of it:
// of each file its mode, owner, group, links, size, and the start of the SHA-256 of its contents or target.
func dirty(tb testing.TB) []byte {
	tb.Helper()
	f, err := os.Open("testdata/dirty.img.gz")
	require.NoError(tb, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(tb, err)
	b, err := io.ReadAll(z)
	require.NoError(tb, err)
	return b
}

// list describes every file as testdata/dirty.txt does.
func list(fs *FS) ([]string, error) {
	var lines []string
	var walk func(path string, in *Inode, depth int) error
	walk = func(path string, in *Inode, depth int) error {
		var content []byte
		size := in.Size
		if _, err := fs.Xattrs(in); err != nil {
			return err
		}
		switch in.Mode & ModeType {
		case ModeRegular:
			f, err := fs.Open(in)
			if err != nil {
				return err
			}
			if content, err = io.ReadAll(io.LimitReader(f, 16<<20)); err != nil {
				return err
			}
		case ModeSymlink:
			target, err := fs.Readlink(in)
			if err != nil {
				return err
			}
			content = []byte(target)
		default:
			size = 0
		}
		digest := ""
		if !in.IsDir() {
			digest = fmt.Sprintf("%x", sha256.Sum256(content))[:16]
		}
		lines = append(lines, fmt.Sprintf("%s %o %d %d %d %d %s", path, in.Mode, in.UID, in.GID, in.Links, size, digest))
		if !in.IsDir() || depth > 20 {
			return nil
		}
		entries, err := fs.ReadDir(in)
		if err != nil {
			return err
		}
		for _, e := range entries {
			child, err := fs.Lookup(e)
			if err != nil {
				return err
			}
			if err := walk(strings.TrimSuffix(path, "/")+"/"+e.Name, child, depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	root, err := fs.Inode(RootInode)
	if err == nil {
		err = walk("/", root, 0)
	}
	slices.Sort(lines)
	return lines, err
}

func TestReplaysTheJournal(t *testing.T) {
	b := dirty(t)
	text, err := os.ReadFile("testdata/dirty.txt")
	require.NoError(t, err)
	fs, err := Open(bytes.NewReader(b), int64(len(b)))
	require.NoError(t, err)
	require.Positive(t, fs.Replayed)
	require.Equal(t, "6d1f0b9e-3a55-4d0c-9f3e-0a1b2c3d4e5f", fs.UUID)
	require.Equal(t, "dirty", fs.Label)
	got, err := list(fs)
	require.NoError(t, err)
	require.Equal(t, strings.TrimSpace(string(text)), strings.TrimSpace(strings.Join(got, "\n")))

	in, err := fs.Find("/link/../new6", true)
	require.ErrorIs(t, err, iofs.ErrNotExist, "new3 is no directory: %v", in)
	in, err = fs.Find("d3/../new6", true)
	require.NoError(t, err)
	attributes, err := fs.Xattrs(in)
	require.NoError(t, err)
	require.Equal(t, map[string][]byte{"user.colour": []byte("blue")}, attributes)

	// Without its journal the copy is another.
	stale, err := open(bytes.NewReader(b), int64(len(b)))
	require.NoError(t, err)
	got, err = list(stale)
	require.False(t, err == nil && strings.TrimSpace(string(text)) == strings.TrimSpace(strings.Join(got, "\n")))
}

// e2fsck, which is what the journal is replayed with where there is no kernel, has the same blocks.
func TestReplaysAsE2fsck(t *testing.T) {
	b := dirty(t)
	fs, err := Open(bytes.NewReader(b), int64(len(b)))
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "fs")
	require.NoError(t, os.WriteFile(file, b, 0o600))
	out, err := exec.Command(tool(t, "e2fsck"), "-p", "-E", "journal_only", file).CombinedOutput() //nolint:gosec // our own
	require.NoError(t, err, "%s", out)
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	journal, err := fs.inode(fs.journal)
	require.NoError(t, err)
	runs, err := fs.runs(journal)
	require.NoError(t, err)
	changed := 0
	for block := fs.firstBlock; block < fs.blocks; block++ {
		if block <= fs.firstBlock || slices.ContainsFunc(runs, func(r run) bool { return block >= r.physical && block < r.physical+r.count }) {
			continue // the superblock says that the journal was replayed, the journal that it is empty
		}
		got, err := fs.readBlock(block)
		require.NoError(t, err)
		at := block * fs.blockSize
		require.Equal(t, want[at:at+fs.blockSize], got, "block %d", block)
		if !bytes.Equal(got, b[at:at+fs.blockSize]) {
			changed++
		}
	}
	require.Greater(t, changed, 10)
}

// tool finds a program of e2fsprogs.
func tool(tb testing.TB, name string) string {
	tb.Helper()
	path := disks.Tool(name)
	require.NotEmpty(tb, path, "%s is not installed; install the package e2fsprogs", name)
	return path
}

// What is damaged is told of, or reads as it did: it never reads as something else.
func TestDamage(t *testing.T) {
	whole := dirty(t)
	fs, err := Open(bytes.NewReader(whole), int64(len(whole)))
	require.NoError(t, err)
	want, err := list(fs)
	require.NoError(t, err)
	// The first bytes hold what the others are found by; these are hit more often.
	rng := rand.New(rand.NewPCG(1, 2))
	told := 0
	for i := range 120 {
		b := slices.Clone(whole)
		reach := len(b)
		if i%2 == 0 {
			reach = 256 << 10
		}
		at := rng.IntN(reach)
		b[at] ^= byte(1 + rng.IntN(255))
		got, err := func() ([]string, error) {
			fs, err := Open(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				return nil, err
			}
			return list(fs)
		}()
		if err != nil {
			told++
			continue
		}
		// Contents of files have no checksums: of these one line, and of nothing else, may differ.
		require.Len(t, got, len(want), "byte %d", at)
		for j := range got {
			a, b := strings.Fields(got[j]), strings.Fields(want[j])
			require.Equal(t, b[:6], a[:6], "byte %d", at)
		}
	}
	require.Greater(t, told, 5)
}

func TestNoFileSystem(t *testing.T) {
	for name, b := range map[string][]byte{"nothing": nil, "zeros": make([]byte, 1<<20), "short": dirty(t)[:1500]} {
		_, err := Open(bytes.NewReader(b), int64(len(b)))
		require.ErrorIs(t, err, ErrNotExt, name)
	}
	cut := dirty(t)[:4<<20]
	_, err := Open(bytes.NewReader(cut), int64(len(cut)))
	require.ErrorIs(t, err, ErrDamaged)
	later := dirty(t)
	later[1024+96+3] |= 0x80
	_, err = Open(bytes.NewReader(later), int64(len(later)))
	require.ErrorIs(t, err, ErrUnsupported)
}
