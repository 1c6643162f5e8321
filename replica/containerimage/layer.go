package containerimage

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/drover/drover/replica/ext4"
)

const (
	xattrRecord = "SCHILY.xattr." // before the name of an extended attribute, in what follows a header
	whiteout    = ".wh."          // what begins so in a layer means that a file is gone (OCI image spec: layers)
	selinux     = "security.selinux"
	copySize    = 1 << 20
	maxPath     = 4096 // of Linux: nobody could unpack a longer one
)

// layer writes the files of a tree as an archive, in the order of their names.
type layer struct {
	ctx     context.Context
	tree    *tree
	archive *tar.Writer
	covered func(int64)
	buffer  []byte
	names   map[file]string // the first name of each file that has several
	seen    map[place]bool  // directories
	visited map[string]bool // mount points
	sockets int
	guarded int
	labels  int // of SELinux
	empty   int // attributes without a value
}

// file is one file, whatever it is called.
type file struct {
	on    *volume
	inode uint32
}

// place is a directory, as part of what is mounted somewhere. It has one name there.
type place struct {
	file
	mount string
}

// write writes the archive, but for its end, and adds to the tree what is left out.
func (l *layer) write() error {
	in, err := l.tree.root.fs.Inode(ext4.RootInode)
	if err != nil {
		return err
	}
	if err := l.directory("/", "/", l.tree.root, in); err != nil {
		return err
	}
	for _, at := range slices.Sorted(maps.Keys(l.tree.mounted)) {
		if !l.visited[at] {
			l.tree.leave("%s, which belongs to %s: there is no such directory", l.tree.mounted[at], at)
		}
	}
	for _, n := range []struct {
		count int
		what  string
	}{
		{l.sockets, "sockets: the programs that use them make them anew"},
		{l.guarded, "chattr attributes +i and +a of files, which are there themselves"},
		{l.labels, "SELinux labels: the host of a container gives its own"},
		{l.empty, "extended attributes without a value"},
	} {
		if n.count > 0 {
			l.tree.leave("%d %s", n.count, n.what)
		}
	}
	return nil
}

// directory writes a directory and everything in it; mount is where its file system is.
func (l *layer) directory(at, mount string, v *volume, in *ext4.Inode) error {
	self := place{file{v, in.Number}, mount}
	if l.seen[self] {
		return fmt.Errorf("%s: %w: the directory has another name", at, ext4.ErrDamaged)
	}
	l.seen[self] = true
	entries, err := v.fs.ReadDir(in)
	if err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	if err := l.header(at, v, in, &tar.Header{Typeflag: tar.TypeDir}); err != nil {
		return err
	}
	for _, entry := range entries {
		if err := l.ctx.Err(); err != nil {
			return err
		}
		name := path.Join(at, entry.Name)
		if len(name) >= maxPath {
			return fmt.Errorf("%w: %s…: its path has %d bytes, and nobody could unpack more than %d", ErrFile, name[:100], len(name), maxPath-1)
		}
		if strings.HasPrefix(entry.Name, whiteout) {
			return fmt.Errorf("%w: %s: a layer cannot hold a name that begins with %s", ErrFile, name, whiteout)
		}
		if why, left := l.tree.without[name]; left {
			l.tree.leave("%s: %s", name, why)
			continue
		}
		child, err := v.fs.Lookup(entry)
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		on, base := v, mount
		if mounted := l.tree.mounted[name]; mounted != nil && child.IsDir() && !l.visited[name] {
			l.visited[name] = true
			on, base = mounted, name
			if child, err = on.fs.Inode(ext4.RootInode); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		if child.IsDir() {
			err = l.directory(name, base, on, child)
		} else {
			err = l.file(name, on, child)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// file writes what is no directory.
func (l *layer) file(at string, v *volume, in *ext4.Inode) error {
	if in.Mode&ext4.ModeType == ext4.ModeSocket {
		l.sockets++
		return nil
	}
	if in.Links > 1 {
		self := file{v, in.Number}
		if first, written := l.names[self]; written {
			return l.header(at, v, in, &tar.Header{Typeflag: tar.TypeLink, Linkname: inArchive(first)})
		}
		l.names[self] = at
	}
	header := &tar.Header{Devmajor: int64(in.Major), Devminor: int64(in.Minor)}
	switch in.Mode & ext4.ModeType {
	case ext4.ModeRegular:
		return l.contents(at, v, in)
	case ext4.ModeSymlink:
		target, err := v.fs.Readlink(in)
		if err != nil {
			return unreadable(at, err)
		}
		header.Typeflag, header.Linkname = tar.TypeSymlink, target
	case ext4.ModeChar:
		header.Typeflag = tar.TypeChar
	case ext4.ModeBlock:
		header.Typeflag = tar.TypeBlock
	case ext4.ModeFIFO:
		header.Typeflag = tar.TypeFifo
	default:
		return fmt.Errorf("%s: %w: it is of no type", at, ext4.ErrDamaged)
	}
	return l.header(at, v, in, header)
}

func (l *layer) contents(at string, v *volume, in *ext4.Inode) error {
	if in.Size > v.Size {
		return fmt.Errorf("%w: %s: it is sparse, and with %d bytes larger than its file system; it would have its full size where the image is unpacked", ErrFile, at, in.Size)
	}
	f, err := v.fs.Open(in)
	if err != nil {
		return unreadable(at, err)
	}
	if err := l.header(at, v, in, &tar.Header{Typeflag: tar.TypeReg, Size: in.Size}); err != nil {
		return err
	}
	for {
		n, err := f.Read(l.buffer)
		if n > 0 {
			if _, err := l.archive.Write(l.buffer[:n]); err != nil {
				return err
			}
			l.covered(int64(n))
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = l.ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
	}
}

// unreadable makes it a matter of the file, and not of its file system, that only its key opens it.
func unreadable(at string, err error) error {
	if errors.Is(err, ext4.ErrUnsupported) {
		return fmt.Errorf("%w: %s: %w", ErrFile, at, err)
	}
	return fmt.Errorf("%s: %w", at, err)
}

// header writes the header of a file; what is the same for files of all types is filled in.
func (l *layer) header(at string, v *volume, in *ext4.Inode, h *tar.Header) error {
	h.Name, h.Mode, h.Uid, h.Gid, h.ModTime, h.Format = inArchive(at), int64(in.Mode&^ext4.ModeType), int(in.UID), int(in.GID), in.ModTime, tar.FormatPAX
	if h.Typeflag == tar.TypeDir {
		h.Name += "/"
	}
	if h.Typeflag != tar.TypeLink {
		attributes, err := v.fs.Xattrs(in)
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		for name, value := range attributes {
			switch {
			case name == selinux:
				l.labels++
			case len(value) == 0: // which would mean that it has none
				l.empty++
			case strings.ContainsAny(name, "=\x00"):
				return fmt.Errorf("%w: %s: an archive cannot hold an extended attribute called %q", ErrFile, at, name)
			default:
				if h.PAXRecords == nil {
					h.PAXRecords = map[string]string{}
				}
				h.PAXRecords[xattrRecord+name] = string(value)
			}
		}
		if in.Guarded() {
			l.guarded++
		}
	}
	if err := l.archive.WriteHeader(h); err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	return nil
}

// inArchive is the name in the archive of what has a path.
func inArchive(at string) string {
	if at == "/" {
		return "."
	}
	return at[1:]
}
