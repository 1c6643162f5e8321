package ext4

import (
	"fmt"
	iofs "io/fs"
	"slices"
	"strings"
)

// Entry is a name in a directory.
type Entry struct {
	Name  string
	Inode uint32

	kind byte // what the directory says that it is; 0: nothing
}

// Types of files as directories have them.
var entryModes = [...]uint16{1: ModeRegular, 2: ModeDir, 3: ModeChar, 4: ModeBlock, 5: ModeFIFO, 6: ModeSocket, 7: ModeSymlink}

const tailType = 0xde // of the entry that holds the checksum of a block

// ReadDir returns the names in a directory in ascending order of their bytes, without "." and "..".
func (fs *FS) ReadDir(in *Inode) ([]Entry, error) {
	entries, err := fs.entries(in)
	if err != nil {
		return nil, fmt.Errorf("directory %d: %w", in.Number, err)
	}
	entries = slices.DeleteFunc(entries, func(e Entry) bool { return e.Name == "." || e.Name == ".." })
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	for i, e := range entries {
		if strings.ContainsAny(e.Name, "/\x00") || e.Name == "" {
			return nil, damaged("directory %d has the impossible name %q", in.Number, e.Name)
		}
		if i > 0 && entries[i-1].Name == e.Name {
			return nil, damaged("directory %d has the name %q twice", in.Number, e.Name)
		}
	}
	return entries, nil
}

// Lookup reads the inode of an entry, which must be of the type that the directory says.
func (fs *FS) Lookup(e Entry) (*Inode, error) {
	in, err := fs.Inode(e.Inode)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", e.Name, err)
	}
	if e.kind != 0 && (int(e.kind) >= len(entryModes) || in.Mode&ModeType != entryModes[e.kind]) {
		return nil, damaged("%q, inode %d, is not of the type that its directory says", e.Name, in.Number)
	}
	return in, nil
}

func (fs *FS) lookup(dir *Inode, name string) (*Inode, error) {
	entries, err := fs.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	i, found := slices.BinarySearchFunc(entries, name, func(e Entry, name string) int { return strings.Compare(e.Name, name) })
	if !found {
		return nil, iofs.ErrNotExist
	}
	return fs.Lookup(entries[i])
}

func (fs *FS) entries(in *Inode) (entries []Entry, err error) {
	if !in.IsDir() {
		return nil, damaged("it is none")
	}
	if err := in.readable(); err != nil {
		return nil, err
	}
	if in.flags&flagInline != 0 {
		inline, err := fs.inlineData(in)
		if err != nil {
			return nil, err
		}
		if in.Size < 4 || in.Size > int64(len(inline)) {
			return nil, damaged("its size of %d bytes is not possible", in.Size)
		}
		// The parent's inode, entries in the inode, and entries among the attributes.
		first := min(in.Size, inlineInInode)
		if entries, err = fs.parseEntries(inline[4:first], entries); err == nil {
			entries, err = fs.parseEntries(inline[first:in.Size], entries)
		}
		return entries, err
	}
	runs, err := fs.runs(in)
	if err != nil {
		return nil, err
	}
	if in.Size == 0 || in.Size%fs.blockSize != 0 {
		return nil, damaged("its size of %d bytes is not possible", in.Size)
	}
	next := int64(0)
	for _, r := range runs {
		for i := range r.count {
			if next*fs.blockSize >= in.Size {
				break
			}
			if r.logical+i != next {
				return nil, damaged("its block %d is missing", next)
			}
			next++
			b, err := fs.readBlock(r.physical + i)
			if err != nil {
				return nil, err
			}
			if err := fs.checkDirectory(in, b, next == 1); err != nil {
				return nil, err
			}
			if entries, err = fs.parseEntries(b, entries); err != nil {
				return nil, err
			}
			if len(entries) > maxRuns {
				return nil, unsupported("it has more than %d names", maxRuns)
			}
		}
	}
	if next*fs.blockSize < in.Size {
		return nil, damaged("its block %d is missing", next)
	}
	return entries, nil
}

// checkDirectory holds a block of a directory against its checksum. The blocks of its index, the first among them, are not used here,
// and have another.
func (fs *FS) checkDirectory(in *Inode, b []byte, first bool) error {
	if !fs.checksums() {
		return nil
	}
	if in.flags&flagIndex != 0 && (first || le.Uint32(b) == 0 && fs.recordLength(b) == fs.blockSize) {
		return nil // of the index, with "." and ".." at most
	}
	tail := b[len(b)-12:]
	if le.Uint32(tail) != 0 || le.Uint16(tail[4:]) != 12 || tail[6] != 0 || tail[7] != tailType {
		return damaged("a block of it has no checksum")
	}
	if crc32c(in.csum, b[:len(b)-12]) != le.Uint32(tail[8:]) {
		return damaged("a block of it does not have its checksum")
	}
	return nil
}

// recordLength is the length of an entry. 64 KiB do not fit into its field.
func (fs *FS) recordLength(entry []byte) int64 {
	n := int64(le.Uint16(entry[4:]))
	if fs.blockSize == 1<<16 && (n == 0 || n == 1<<16-1) {
		return 1 << 16
	}
	return n
}

func (fs *FS) parseEntries(b []byte, entries []Entry) ([]Entry, error) {
	for len(b) > 0 {
		if len(b) < 8 {
			return nil, damaged("an entry of it is cut off")
		}
		inode, length, name, kind := le.Uint32(b), fs.recordLength(b), int64(b[6]), b[7]
		if length < 8 || length%4 != 0 || length > int64(len(b)) || inode != 0 && 8+name > length {
			return nil, damaged("an entry of it has the impossible length %d", length)
		}
		if inode != 0 {
			if fs.incompat&incompatFileType == 0 {
				kind = 0 // the upper half of the length, once
			}
			entries = append(entries, Entry{Name: string(b[8 : 8+name]), Inode: inode, kind: kind})
		}
		b = b[length:]
	}
	return entries, nil
}
