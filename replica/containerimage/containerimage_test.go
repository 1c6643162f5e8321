package containerimage

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/replica/ext4"
	"github.com/drover/drover/test/disks"
)

// tool finds a program of e2fsprogs.
func tool(t *testing.T, name string) string {
	t.Helper()
	path := disks.Tool(name)
	require.NotEmpty(t, path, "%s is not installed; install the package e2fsprogs", name)
	return path
}

const mib = 1 << 20

// makeFS makes a file system of the files under a directory, and then does to it what debugfs is told.
func makeFS(t *testing.T, files string, size int64, commands []string, options ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fs")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	require.NoError(t, os.Truncate(path, size))
	arguments := append([]string{"-q", "-F", "-d", files, "-E", "root_owner=0:0"}, options...)
	out, err := exec.Command(tool(t, "mkfs.ext4"), append(arguments, path)...).CombinedOutput() //nolint:gosec // our own
	require.NoError(t, err, "%s", out)
	if len(commands) > 0 {
		cmd := exec.Command(tool(t, "debugfs"), "-w", "-f", "-", path) //nolint:gosec // our own
		cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	return path
}

func write(t *testing.T, root, name, content string) {
	t.Helper()
	path := filepath.Join(root, name)
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
}

// server makes the files of a small server.
func server(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	require.NoError(t, os.Chmod(root, 0o755))
	write(t, root, "usr/lib/os-release", "ID=test\n")
	write(t, root, "usr/lib/systemd/systemd", "init\n")
	write(t, root, "usr/sbin/init", "init\n")
	write(t, root, "etc/fstab", "# comment\nproc /proc proc defaults 0 0\n/swapfile none swap sw 0 0\n")
	write(t, root, "swapfile", strings.Repeat("swap", 5000))
	require.NoError(t, os.Symlink("usr/sbin", filepath.Join(root, "sbin")))
	require.NoError(t, os.Symlink("../usr/lib/os-release", filepath.Join(root, "etc", "os-release")))
	return root
}

func volumeOf(t *testing.T, path string) Volume {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	require.NoError(t, err)
	return Volume{Place: "partition 1 of disk 0", Device: "/dev/vda1", System: true, Bytes: f, Size: info.Size()}
}

var spec = Spec{Reference: "ns/repo:v7", Labels: map[string]string{"drover.job-id": "j-1"}, Created: time.Unix(1700000000, 0).UTC()}

// entry is a file of a layer.
type entry struct {
	tar.Header
	digest [32]byte
}

// layerOf returns the files of the image in a layout, by name.
func layerOf(t *testing.T, dir string) (map[string]entry, []string, v1.Image) {
	t.Helper()
	index, err := layout.ImageIndexFromPath(dir)
	require.NoError(t, err)
	manifest, err := index.IndexManifest()
	require.NoError(t, err)
	require.Len(t, manifest.Manifests, 1)
	require.Equal(t, map[string]string{"org.opencontainers.image.ref.name": "ns/repo:v7"}, manifest.Manifests[0].Annotations)
	image, err := index.Image(manifest.Manifests[0].Digest)
	require.NoError(t, err)
	require.NoError(t, validate.Image(image))
	layers, err := image.Layers()
	require.NoError(t, err)
	require.Len(t, layers, 1)
	r, err := layers[0].Uncompressed()
	require.NoError(t, err)
	defer r.Close()
	files, names := map[string]entry{}, []string{}
	for archive := tar.NewReader(r); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files, names, image
		}
		require.NoError(t, err)
		digest := sha256.New()
		_, err = io.Copy(digest, archive) //nolint:gosec // our own
		require.NoError(t, err)
		names = append(names, h.Name)
		files[h.Name] = entry{*h, [32]byte(digest.Sum(nil))}
	}
}

// Every file of a server is in the layer with all that stat(2) and getxattr(2) say of it.
func TestEveryFile(t *testing.T) {
	for name, options := range map[string][]string{
		"ext4": {"-b", "1024"}, "ext4 inline": {"-b", "4096", "-O", "inline_data,ea_inode", "-I", "256"}, "ext3": {"-b", "1024", "-O", "^extents,^64bit,^metadata_csum"},
	} {
		t.Run(name, func(t *testing.T) {
			root := server(t)
			odd := "odd \n\"\\\xff name"
			write(t, root, odd, "odd\n")
			write(t, root, "many/"+strings.Repeat("n", 255), "")
			for i := range 700 {
				write(t, root, fmt.Sprintf("many/%d", i), fmt.Sprint(i))
			}
			write(t, root, "setuid", "suid")
			write(t, root, "empty", "")
			write(t, root, "linked", "linked\n")
			require.NoError(t, os.Link(filepath.Join(root, "linked"), filepath.Join(root, "a-link")))
			require.NoError(t, os.Symlink(strings.Repeat("t", 59), filepath.Join(root, "short")))
			require.NoError(t, os.Symlink(strings.Repeat("t", 60), filepath.Join(root, "long")))
			// A sparse file in many pieces: of the first five hundred blocks every second is a hole.
			sparse, err := os.Create(filepath.Join(root, "sparse"))
			require.NoError(t, err)
			for i := range 250 {
				_, err := sparse.WriteAt(bytes.Repeat([]byte{byte(i), 1}, 2048), int64(i)*8192)
				require.NoError(t, err)
			}
			_, err = sparse.WriteAt([]byte{1}, 9*mib+4) // mkfs.ext4 forgets a hole at the end where it has inline_data
			require.NoError(t, err)
			require.NoError(t, sparse.Close())
			stamp := time.Unix(1234567890, 123456789)
			require.NoError(t, os.Chtimes(filepath.Join(root, "setuid"), stamp, stamp))
			const capabilities = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
			capability := filepath.Join(t.TempDir(), "capability")
			require.NoError(t, os.WriteFile(capability, []byte(capabilities), 0o600))
			commands := []string{
				"set_inode_field setuid mode 0106755", "set_inode_field setuid uid 70000", "set_inode_field setuid gid 80000",
				"set_inode_field many mode 041777", "ea_set setuid user.colour blue", "mknod null c 1 3", "mknod disk b 259 65000", "mknod fifo p",
				"ea_set -f " + capability + " setuid security.capability",
			}
			path := makeFS(t, root, 24*mib, commands, options...)
			dir := t.TempDir()
			built, err := Build(t.Context(), dir, []Volume{volumeOf(t, path)}, spec, func(int64) {})
			require.NoError(t, err)
			require.Equal(t, []string{"/swapfile: it is swap space"}, built.LeftOut)
			files, names, image := layerOf(t, dir)

			// The order is that of the names in each directory, parents first.
			require.Equal(t, "./", names[0])
			require.Equal(t, "a-link", names[1])
			count := 0
			require.NoError(t, filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
				require.NoError(t, err)
				at, err := filepath.Rel(root, path)
				require.NoError(t, err)
				if at == "swapfile" {
					return nil
				}
				count++
				info, err := d.Info()
				require.NoError(t, err)
				if d.IsDir() {
					at += "/"
				}
				got, there := files[at]
				require.True(t, there, "%q", at)
				switch {
				case d.IsDir():
					require.Equal(t, byte(tar.TypeDir), got.Typeflag, at)
				case info.Mode()&os.ModeSymlink != 0:
					target, err := os.Readlink(path)
					require.NoError(t, err)
					require.Equal(t, byte(tar.TypeSymlink), got.Typeflag, at)
					require.Equal(t, target, got.Linkname, at)
				case at == "linked":
					require.Equal(t, byte(tar.TypeLink), got.Typeflag)
					require.Equal(t, "a-link", got.Linkname)
				default:
					content, err := os.ReadFile(path)
					require.NoError(t, err)
					require.Equal(t, byte(tar.TypeReg), got.Typeflag, at)
					require.Equal(t, sha256.Sum256(content), got.digest, at)
				}
				if at != "setuid" && at != "many/" && at != "./" && info.Mode()&os.ModeSymlink == 0 {
					require.EqualValues(t, info.Mode().Perm(), got.Mode, at)
				}
				return nil
			}))
			require.Len(t, files, count+4, "three devices and lost+found are not of the directory")
			setuid := files["setuid"]
			require.Equal(t, []any{int64(0o6755), 70000, 80000}, []any{setuid.Mode, setuid.Uid, setuid.Gid})
			require.Equal(t, stamp.Unix(), setuid.ModTime.Unix())
			require.Equal(t, "blue", setuid.PAXRecords["SCHILY.xattr.user.colour"])
			require.Equal(t, capabilities, setuid.PAXRecords["SCHILY.xattr.security.capability"])
			require.Equal(t, int64(0o1777), files["many/"].Mode)
			require.Equal(t, []any{byte(tar.TypeChar), int64(1), int64(3)}, []any{files["null"].Typeflag, files["null"].Devmajor, files["null"].Devminor})
			require.Equal(t, []any{byte(tar.TypeBlock), int64(259), int64(65000)}, []any{files["disk"].Typeflag, files["disk"].Devmajor, files["disk"].Devminor})
			require.Equal(t, byte(tar.TypeFifo), files["fifo"].Typeflag)

			config, err := image.ConfigFile()
			require.NoError(t, err)
			require.Equal(t, []string{"linux", "amd64"}, []string{config.OS, config.Architecture})
			require.Equal(t, []string{"/sbin/init"}, config.Config.Cmd)
			require.Equal(t, "SIGRTMIN+3", config.Config.StopSignal)
			require.Equal(t, map[string]string{"drover.job-id": "j-1", LabelLeftOut: "/swapfile: it is swap space"}, config.Config.Labels)

			// What is the same is the same image.
			again, err := Build(t.Context(), t.TempDir(), []Volume{volumeOf(t, path)}, spec, func(int64) {})
			require.NoError(t, err)
			require.Equal(t, built.Digest, again.Digest)
		})
	}
}

// What /etc/fstab mounts from the disks is in its place; what it mounts from elsewhere is named.
func TestMounts(t *testing.T) {
	const home = "6d1f0b9e-3a55-4d0c-9f3e-0a1b2c3d4e5f"
	build := func(t *testing.T, table string, more ...Volume) (*Built, map[string]entry, error) {
		t.Helper()
		root := server(t)
		write(t, root, "etc/fstab", table)
		write(t, root, "home/under", "what the mount hides\n")
		write(t, root, "srv/data/under", "as it is\n")
		dir := t.TempDir()
		built, err := Build(t.Context(), dir, append([]Volume{volumeOf(t, makeFS(t, root, 8*mib, nil, "-L", "rootfs"))}, more...), spec, func(int64) {})
		if err != nil {
			return nil, nil, err
		}
		files, _, _ := layerOf(t, dir)
		return built, files, nil
	}
	files := t.TempDir()
	write(t, files, "alice/file", "hers\n")
	homes := volumeOf(t, makeFS(t, files, 4*mib, nil, "-U", home, "-L", "homes"))
	homes.Place, homes.Device, homes.System, homes.PartUUID = "partition 1 of disk 1", "/dev/vdb1", false, "ABCD-01"
	xfs := Volume{Place: "partition 2 of disk 1", Device: "/dev/vdb2", Size: mib, Bytes: bytes.NewReader(append([]byte("XFSB"), make([]byte, mib)...))}
	lvm := Volume{Place: "partition 3 of disk 1", Size: mib, Bytes: bytes.NewReader(append(append(make([]byte, 512), "LABELONE"...), make([]byte, mib)...))}
	fat := make([]byte, mib)
	copy(fat[82:], "FAT32   ")
	binary.LittleEndian.PutUint32(fat[67:], 0x12345678)
	efi := Volume{Place: "partition 2 of disk 0", Size: mib, Bytes: bytes.NewReader(fat), System: true}

	for _, named := range []string{"UUID=" + home, "UUID=\"" + strings.ToUpper(home) + "\"", "LABEL=homes", "PARTUUID=abcd-01", "/dev/vdb1", "/dev/disk/by-uuid/" + home} {
		built, got, err := build(t, "LABEL=rootfs / ext4 defaults 0 1\n"+named+" /home ext4 defaults 0 2\n", homes)
		require.NoError(t, err, named)
		require.Empty(t, built.LeftOut, named)
		require.Contains(t, got, "home/alice/file", named)
		require.NotContains(t, got, "home/under", named)
	}
	built, got, err := build(t, "UUID=1234-5678 /boot/efi vfat defaults 0 1\nnas:/data /srv/data nfs defaults 0 0\nUUID="+home+" /mnt/none ext4 defaults\n/dev/vdb2 /home xfs noauto 0 0\n", homes, efi, xfs)
	require.NoError(t, err)
	require.Equal(t, []string{
		"/boot/efi (UUID=1234-5678, vfat): a container does not boot", "/srv/data (nas:/data, nfs): it is not on the disks that were copied",
		"/home (/dev/vdb2, xfs): it is not mounted by itself", "partition 1 of disk 1 (ext4), which belongs to /mnt/none: there is no such directory",
	}, built.LeftOut)
	require.Contains(t, got, "srv/data/under")

	_, _, err = build(t, "/dev/vdb2 /home xfs defaults 0 0\n", xfs)
	require.ErrorIs(t, err, ErrFileSystem)
	require.ErrorContains(t, err, "partition 2 of disk 1 (XFS), mounted at /home")
	_, _, err = build(t, "/dev/mapper/vg-home /home ext4 defaults 0 0\n", lvm)
	require.ErrorIs(t, err, ErrFileSystem)
	require.ErrorContains(t, err, "partition 3 of disk 1 (LVM)")
}

func TestRefusals(t *testing.T) {
	build := func(volumes ...Volume) error {
		dir := t.TempDir()
		_, err := Build(t.Context(), dir, volumes, spec, func(int64) {})
		return err
	}
	zeros := Volume{Place: "disk 0, which has no partitions", System: true, Size: mib, Bytes: bytes.NewReader(make([]byte, mib))}
	require.ErrorIs(t, build(), ErrNoRoot)
	require.ErrorIs(t, build(zeros), ErrNoRoot)
	xfs := zeros
	xfs.Bytes = bytes.NewReader(append([]byte("XFSB"), make([]byte, mib)...))
	err := build(xfs)
	require.ErrorIs(t, err, ErrFileSystem)
	require.ErrorContains(t, err, "disk 0, which has no partitions (XFS)")

	data := t.TempDir()
	write(t, data, "some", "file")
	plain := volumeOf(t, makeFS(t, data, 4*mib, nil))
	require.ErrorIs(t, build(plain), ErrNoRoot, "a file system with data is none")
	root := makeFS(t, server(t), 8*mib, nil)
	elsewhere := volumeOf(t, root)
	elsewhere.System = false
	require.ErrorIs(t, build(plain, elsewhere), ErrNoRoot, "it is not on the system disk")
	require.ErrorIs(t, build(volumeOf(t, root), volumeOf(t, root)), ErrNoRoot, "none of the two calls itself the root")

	// Of two the one that is the root by its own account.
	own := server(t)
	write(t, own, "etc/fstab", "UUID=6d1f0b9e-3a55-4d0c-9f3e-0a1b2c3d4e5f / ext4 defaults\n")
	require.NoError(t, build(volumeOf(t, root), volumeOf(t, makeFS(t, own, 8*mib, nil, "-U", "6d1f0b9e-3a55-4d0c-9f3e-0a1b2c3d4e5f"))))

	whiteout := server(t)
	write(t, whiteout, "var/.wh.file", "")
	err = build(volumeOf(t, makeFS(t, whiteout, 8*mib, nil)))
	require.ErrorIs(t, err, ErrFile)
	require.ErrorContains(t, err, "/var/.wh.file")
	encrypted := makeFS(t, server(t), 8*mib, []string{"set_inode_field /etc/fstab flags 0x80800"}, "-O", "encrypt")
	require.ErrorIs(t, build(volumeOf(t, encrypted)), ext4.ErrUnsupported)
	for _, damage := range [][]string{
		{"clri /etc/fstab"}, {"link /usr /etc/usr"}, {"link / /etc/root"}, {"set_inode_field /swapfile links_count 0", "link /swapfile /etc/swap", "set_inode_field /swapfile links_count 0"},
	} {
		require.ErrorIs(t, build(volumeOf(t, makeFS(t, server(t), 8*mib, damage))), ext4.ErrDamaged, "%s", damage)
	}
	err = build(volumeOf(t, makeFS(t, server(t), 8*mib, []string{"set_inode_field /etc/fstab size 9000000"})))
	require.ErrorIs(t, err, ErrFile)
	require.ErrorContains(t, err, "/etc/fstab: it is sparse")

	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Build(canceled, t.TempDir(), []Volume{volumeOf(t, root)}, spec, func(int64) {})
	require.ErrorIs(t, err, context.Canceled)
}

// An archive is read by what reads archives of OCI and of docker; damage is found on the way, and by Verify.
func TestArchiveAndVerify(t *testing.T) {
	dir := t.TempDir()
	built, err := Build(t.Context(), dir, []Volume{volumeOf(t, makeFS(t, server(t), 8*mib, nil))}, spec, func(int64) {})
	require.NoError(t, err)
	files, err := Files(Dir(dir), built.Digest)
	require.NoError(t, err)
	archive := filepath.Join(t.TempDir(), "image.tar")
	pack := func() error {
		f, err := os.Create(archive)
		require.NoError(t, err)
		defer f.Close()
		covered := int64(0)
		err = Archive(t.Context(), f, Dir(dir), built.Digest, spec.Reference, func(n int64) { covered += n })
		if err == nil {
			require.Equal(t, Size(files), covered)
		}
		return err
	}
	require.NoError(t, pack())
	docker, err := tarball.ImageFromPath(archive, nil)
	require.NoError(t, err)
	require.NoError(t, validate.Image(docker))
	require.NoError(t, Verify(t.Context(), dir, built.Digest, func(int64) {}))
	require.Error(t, Verify(t.Context(), dir, "sha256:00", func(int64) {}))

	for _, f := range files {
		path := filepath.Join(dir, f.Path)
		whole, err := os.ReadFile(path)
		require.NoError(t, err)
		if f.Path == MarkerFile {
			continue // it says which version it is, and nothing else
		}
		bad := bytes.Clone(whole)
		bad[len(bad)/2] ^= 1
		require.NoError(t, os.WriteFile(path, bad, 0o600))
		require.Error(t, Verify(t.Context(), dir, built.Digest, func(int64) {}), f.Path)
		require.Error(t, pack(), f.Path)
		require.NoError(t, os.Remove(path))
		require.Error(t, Verify(t.Context(), dir, built.Digest, func(int64) {}), f.Path)
		require.NoError(t, os.WriteFile(path, whole, 0o600))
	}
}
