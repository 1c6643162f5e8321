package containerimage

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/drover/drover/replica/ext4"
)

var errNotExist = fs.ErrNotExist

// mount is a line of /etc/fstab.
type mount struct {
	spec, path, kind string
	options          []string
}

func (m mount) String() string { return fmt.Sprintf("%s (%s, %s)", m.path, m.spec, m.kind) }

const maxTable = 1 << 20

// readTable reads /etc/fstab; a system without one has no mounts.
func readTable(fs *ext4.FS) ([]mount, error) {
	in, err := fs.Find("/etc/fstab", true)
	if errors.Is(err, errNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !in.IsRegular() {
		return nil, nil
	}
	f, err := fs.Open(in)
	if err != nil {
		return nil, fmt.Errorf("/etc/fstab: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxTable))
	if err != nil {
		return nil, fmt.Errorf("/etc/fstab: %w", err)
	}
	return parseTable(string(text)), nil
}

var octal = regexp.MustCompile(`\\[0-7]{3}`)

// parseTable reads what fstab(5) describes; a line that is none is passed over, as mount(8) does.
func parseTable(text string) []mount {
	var mounts []mount
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 3 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		for i, field := range fields {
			fields[i] = octal.ReplaceAllStringFunc(field, func(code string) string {
				n, err := strconv.ParseUint(code[1:], 8, 8)
				if err != nil {
					return code
				}
				return string([]byte{byte(n)})
			})
		}
		if name, value, is := strings.Cut(fields[0], "="); is { // the name may be in quotes
			fields[0] = name + "=" + strings.Trim(value, `"'`)
		}
		m := mount{spec: fields[0], path: fields[1], kind: fields[2]}
		if len(fields) > 3 {
			m.options = strings.Split(fields[3], ",")
		}
		mounts = append(mounts, m)
	}
	return mounts
}

// pseudo are the file systems that hold nothing of a server's.
var pseudo = []string{
	"proc", "sysfs", "tmpfs", "devtmpfs", "devpts", "ramfs", "cgroup", "cgroup2", "debugfs", "tracefs", "securityfs", "hugetlbfs", "mqueue",
	"configfs", "fusectl", "binfmt_misc", "efivarfs", "usbfs", "none", "ignore",
}

// local says whether a field of /etc/fstab names a disk of the server.
func (m mount) local() bool {
	for _, prefix := range []string{"/dev/", "UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=", "ID="} {
		if strings.HasPrefix(m.spec, prefix) {
			return true
		}
	}
	return false
}

// boots says whether what is mounted there serves to boot a server, which a container does not.
func (m mount) boots() bool {
	return m.path == "/efi" || m.path == "/boot" || strings.HasPrefix(m.path, "/boot/")
}

// tree is what an image is made of.
type tree struct {
	root    *volume
	mounted map[string]*volume // by their places in the tree
	without map[string]string  // files that are left out, and why
	leftOut []string
}

// has says whether the tree has a name at a path.
func (t *tree) has(at string) (bool, error) {
	on, within := t.root, at
	for place, v := range t.mounted {
		if rest, under := strings.CutPrefix(at, place+"/"); under && len(rest) < len(within) {
			on, within = v, rest
		}
	}
	return has(on.fs, within)
}

func (t *tree) leave(format string, args ...any) {
	t.leftOut = append(t.leftOut, fmt.Sprintf(format, args...))
}

// plan decides what of /etc/fstab becomes part of the image. What cannot, though it is on the disks, is refused; what is elsewhere is
// left out.
func plan(root *volume, mounts []mount, volumes []*volume) (*tree, error) {
	t := &tree{root: root, mounted: map[string]*volume{}, without: map[string]string{}}
	for _, m := range mounts {
		switch {
		case m.kind == "swap":
			if strings.HasPrefix(m.spec, "/") && !strings.HasPrefix(m.spec, "/dev/") {
				t.without[path.Clean(m.spec)] = "it is swap space"
			}
			continue
		case !strings.HasPrefix(m.path, "/") || path.Clean(m.path) == "/" || slices.Contains(pseudo, m.kind):
			continue
		case slices.Contains(m.options, "noauto"):
			t.leave("%s: it is not mounted by itself", m)
			continue
		}
		i := slices.IndexFunc(volumes, func(v *volume) bool { return v.answers(m.spec) })
		if i < 0 {
			hiding := slices.IndexFunc(volumes, func(v *volume) bool { return v.hides })
			if m.local() && hiding >= 0 {
				return nil, fmt.Errorf("%w: what is mounted at %s, in all likelihood in %s", ErrFileSystem, m, volumes[hiding])
			}
			t.leave("%s: it is not on the disks that were copied", m)
			continue
		}
		switch v := volumes[i]; {
		case v.fs != nil:
			t.mounted[path.Clean(m.path)] = v
		case m.boots():
			t.leave("%s: a container does not boot", m)
		case v.damage != nil:
			return nil, fmt.Errorf("%s, mounted at %s: %w", v, m.path, v.damage)
		default:
			return nil, fmt.Errorf("%w: %s, mounted at %s", ErrFileSystem, v, m.path)
		}
	}
	return t, nil
}
