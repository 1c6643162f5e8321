package ext4

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"time"
)

// RootInode is the inode of the root directory.
const RootInode = rootInode

const rootInode = 2

// Types of files, the part ModeType of a mode.
const (
	ModeType    = 0xf000
	ModeFIFO    = 0x1000
	ModeChar    = 0x2000
	ModeDir     = 0x4000
	ModeBlock   = 0x6000
	ModeRegular = 0x8000
	ModeSymlink = 0xa000
	ModeSocket  = 0xc000
)

// Flags of an inode.
const (
	flagCompressed = 0x4
	flagImmutable  = 0x10
	flagAppend     = 0x20
	flagEncrypted  = 0x800
	flagIndex      = 0x1000
	flagExtents    = 0x80000
	flagEAInode    = 0x200000
	flagInline     = 0x10000000
)

// Inode is a file of any type.
type Inode struct {
	// Number is the same for every name of a file.
	Number uint32
	// Mode is the type and the permissions, as stat(2) has them.
	Mode     uint16
	UID, GID uint32
	// Size is in bytes; of a symbolic link it is the length of its target.
	Size int64
	// Links is how many names the file has.
	Links   int
	ModTime time.Time
	// Major and Minor are the number of a device.
	Major, Minor uint32

	flags   uint32
	raw     []byte // as on the disk
	acl     int64  // block of attributes, or 0
	csum    uint32 // seed of the checksums of what belongs to it
	extra   int64  // where the attributes in the inode begin
	mapping []run  // nil until it is read
}

// IsDir says whether it is a directory.
func (in *Inode) IsDir() bool { return in.Mode&ModeType == ModeDir }

// IsRegular says whether it is a regular file.
func (in *Inode) IsRegular() bool { return in.Mode&ModeType == ModeRegular }

// Guarded says whether an attribute of chattr(1) keeps the file from being changed: it is immutable, or can only be appended to.
func (in *Inode) Guarded() bool { return in.flags&(flagImmutable|flagAppend) != 0 }

// Inode reads an inode that has a name.
func (fs *FS) Inode(number uint32) (*Inode, error) {
	in, err := fs.inode(number)
	if err == nil && (in.Links == 0 || in.Mode == 0) {
		err = damaged("inode %d has a name and is not in use", number)
	}
	return in, err
}

// inode reads an inode, also one without a name.
func (fs *FS) inode(number uint32) (*Inode, error) {
	if number == 0 || number > fs.inodes {
		return nil, damaged("inode %d is not one of its %d", number, fs.inodes)
	}
	table, err := fs.inodeTable((number - 1) / fs.inodesGroup)
	if err != nil {
		return nil, err
	}
	raw := make([]byte, fs.inodeSize)
	if _, err := fs.r.ReadAt(raw, table*fs.blockSize+int64((number-1)%fs.inodesGroup)*fs.inodeSize); err != nil {
		return nil, fmt.Errorf("read inode %d: %w", number, err)
	}
	in := &Inode{
		Number: number, Mode: le.Uint16(raw), Links: int(le.Uint16(raw[26:])), flags: le.Uint32(raw[32:]), raw: raw,
		UID: uint32(le.Uint16(raw[2:])) | uint32(le.Uint16(raw[120:]))<<16, GID: uint32(le.Uint16(raw[24:])) | uint32(le.Uint16(raw[122:]))<<16,
		acl: int64(le.Uint32(raw[104:])) | int64(le.Uint16(raw[118:]))<<32,
	}
	size := uint64(le.Uint32(raw[4:]))
	if in.IsRegular() || in.IsDir() && fs.incompat&incompatLargeDir != 0 {
		size |= uint64(le.Uint32(raw[108:])) << 32
	}
	if size > 1<<62 {
		return nil, damaged("inode %d has a size of %d bytes", number, size)
	}
	in.Size = int64(size)
	var extra int64
	if fs.inodeSize > goodOldInodeSize {
		extra = int64(le.Uint16(raw[128:]))
		if extra%4 != 0 || goodOldInodeSize+extra > fs.inodeSize {
			return nil, damaged("inode %d has %d extra bytes", number, extra)
		}
		in.extra = goodOldInodeSize + extra
	}
	if err := fs.checkInode(in, extra); err != nil {
		return nil, err
	}
	seconds, nanoseconds := int64(int32(le.Uint32(raw[16:]))), int64(0) //nolint:gosec // it is signed
	if extra >= 12 {
		more := le.Uint32(raw[136:])
		seconds, nanoseconds = seconds+int64(more&3)<<32, int64(more>>2)
	}
	in.ModTime = time.Unix(seconds, nanoseconds).UTC()
	if kind := in.Mode & ModeType; kind == ModeChar || kind == ModeBlock {
		if old := le.Uint32(raw[40:]); old != 0 {
			in.Major, in.Minor = old>>8&0xff, old&0xff
		} else {
			device := le.Uint32(raw[44:])
			in.Major, in.Minor = device&0xfff00>>8, device&0xff|device>>12&0xfff00
		}
	}
	return in, nil
}

// checkInode holds an inode against its checksum.
func (fs *FS) checkInode(in *Inode, extra int64) error {
	if !fs.checksums() {
		return nil
	}
	in.csum = crc32c(crc32c(fs.csumSeed, le.AppendUint32(nil, in.Number)), in.raw[100:104])
	b := slices.Clone(in.raw)
	want, mask := uint32(le.Uint16(b[124:])), uint32(0xffff)
	b[124], b[125] = 0, 0
	if extra >= 4 {
		want, mask = want|uint32(le.Uint16(b[130:]))<<16, 0xffffffff
		b[130], b[131] = 0, 0
	}
	if crc32c(in.csum, b)&mask != want {
		return damaged("inode %d does not have its checksum", in.Number)
	}
	return nil
}

// run is a stretch of a file that lies in one piece.
type run struct {
	logical  int64 // first block in the file
	physical int64 // first block of the file system
	count    int64 // blocks
}

const blockMapOffset = 40 // of the root of a file's extents, or of its block map, in the inode

// runs returns where a file lies, in order; what is not in it is zeros.
func (fs *FS) runs(in *Inode) ([]run, error) {
	if in.mapping != nil {
		return in.mapping, nil
	}
	root := in.raw[blockMapOffset : blockMapOffset+60]
	m := &mapping{fs: fs, runs: []run{}}
	read := func() error { return m.blockMap(in, root) }
	if in.flags&flagExtents != 0 {
		read = func() error { return m.extents(in, root, -1) }
	}
	if err := read(); err != nil {
		return nil, fmt.Errorf("inode %d: %w", in.Number, err)
	}
	in.mapping = m.runs
	return m.runs, nil
}

// mapping gathers the runs of a file. Whatever the blocks that describe them say, it ends, and what it takes is bounded: the file
// system may have been made by anybody.
type mapping struct {
	fs   *FS
	runs []run
	end  int64 // block of the file before which everything is known
	used int64 // blocks that were read or added, of a block map
}

// maxRuns is in how many pieces a file may be, names a directory may have, and blocks a journal.
const maxRuns = 16 << 20

// add adds a run behind those there are; one of preallocated blocks is but a hole.
func (m *mapping) add(r run, written bool) error {
	switch {
	case r.count <= 0 || r.logical < m.end:
		return damaged("block %d of its file is there twice", r.logical)
	case r.physical < m.fs.firstBlock || r.physical > m.fs.blocks-r.count:
		return damaged("it lies at block %d", r.physical)
	case len(m.runs) >= maxRuns:
		return unsupported("it is in more than %d pieces", maxRuns)
	}
	m.end = r.logical + r.count
	if !written {
		return nil
	}
	if n := len(m.runs); n > 0 && m.runs[n-1].logical+m.runs[n-1].count == r.logical && m.runs[n-1].physical+m.runs[n-1].count == r.physical {
		m.runs[n-1].count += r.count
		return nil
	}
	m.runs = append(m.runs, r)
	return nil
}

const (
	extentMagic     = 0xf30a
	maxExtentDepth  = 5
	maxWrittenCount = 32768 // a longer extent is preallocated, and reads as zeros
)

// extents adds the extents under a node of the tree; depth is what the node must have, or -1 for the root.
func (m *mapping) extents(in *Inode, node []byte, depth int) error {
	fs := m.fs
	entries, most, has := int(le.Uint16(node[2:])), int(le.Uint16(node[4:])), int(le.Uint16(node[6:]))
	if le.Uint16(node) != extentMagic || entries > most || 12+12*most > len(node) || has > maxExtentDepth || depth >= 0 && (has != depth || entries == 0) {
		return damaged("a node of its extents is not one")
	}
	if depth >= 0 && fs.checksums() {
		tail := 12 + 12*most
		if tail+4 > len(node) || crc32c(in.csum, node[:tail]) != le.Uint32(node[tail:]) {
			return damaged("a node of its extents does not have its checksum")
		}
	}
	for i := range entries {
		e := node[12+12*i:]
		if has > 0 {
			child, err := fs.readBlock(int64(le.Uint32(e[4:])) | int64(le.Uint16(e[8:]))<<32)
			if err != nil {
				return err
			}
			if err := m.extents(in, child, has-1); err != nil {
				return err
			}
			continue
		}
		r := run{logical: int64(le.Uint32(e)), physical: int64(le.Uint32(e[8:])) | int64(le.Uint16(e[6:]))<<32, count: int64(le.Uint16(e[4:]))}
		written := r.count <= maxWrittenCount
		if !written {
			r.count -= maxWrittenCount
		}
		if err := m.add(r, written); err != nil {
			return err
		}
	}
	return nil
}

// blockMap adds the blocks of a file of ext2 or ext3: 12 blocks, then trees of one, two and three levels.
func (m *mapping) blockMap(in *Inode, root []byte) error {
	fs := m.fs
	next, blocks := int64(0), (in.Size+fs.blockSize-1)/fs.blockSize
	perBlock := fs.blockSize / 4
	var add func(block int64, level int) error
	add = func(block int64, level int) error {
		covers := int64(1)
		for range level {
			covers *= perBlock
		}
		switch {
		case next >= blocks:
		case block == 0:
			next += covers
		case m.used >= fs.blocks:
			return damaged("it has more blocks than there are")
		case level == 0:
			if err := m.add(run{next, block, 1}, true); err != nil {
				return err
			}
			m.used++
			next++
		default:
			m.used++
			b, err := fs.readBlock(block)
			if err != nil {
				return err
			}
			for i := range perBlock {
				if err := add(int64(le.Uint32(b[4*i:])), level-1); err != nil {
					return err
				}
			}
		}
		return nil
	}
	for i := range 15 {
		if err := add(int64(le.Uint32(root[4*i:])), max(0, i-11)); err != nil {
			return err
		}
	}
	if next < blocks {
		return damaged("a size of %d bytes is more than its blocks can hold", in.Size)
	}
	return nil
}

// readable refuses what has contents that only the kernel with the right key, or of another time, could read.
func (in *Inode) readable() error {
	switch {
	case in.flags&flagEncrypted != 0:
		return unsupported("inode %d is encrypted", in.Number)
	case in.flags&flagCompressed != 0 && !in.IsDir():
		return unsupported("inode %d is compressed", in.Number)
	}
	return nil
}

// File reads the contents of a file.
type File struct {
	fs     *FS
	size   int64
	runs   []run
	inline []byte // instead of runs
	next   int64
}

// Open returns the contents of a regular file. Holes read as zeros.
func (fs *FS) Open(in *Inode) (*File, error) {
	if err := in.readable(); err != nil {
		return nil, err
	}
	f := &File{fs: fs, size: in.Size}
	if in.flags&flagInline != 0 {
		inline, err := fs.inlineData(in)
		if err != nil {
			return nil, err
		}
		if int64(len(inline)) < in.Size {
			return nil, damaged("inode %d has %d bytes and holds %d", in.Number, in.Size, len(inline))
		}
		f.inline = inline[:in.Size]
		return f, nil
	}
	var err error
	f.runs, err = fs.runs(in)
	return f, err
}

// Read implements [io.Reader].
func (f *File) Read(p []byte) (int, error) {
	if f.next >= f.size {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), f.size-f.next)]
	if f.inline != nil {
		n := copy(p, f.inline[f.next:])
		f.next += int64(n)
		return n, nil
	}
	block, within := f.next/f.fs.blockSize, f.next%f.fs.blockSize
	i := sort.Search(len(f.runs), func(i int) bool { return f.runs[i].logical+f.runs[i].count > block })
	switch {
	case i == len(f.runs):
		clear(p)
	case f.runs[i].logical > block:
		p = p[:min(int64(len(p)), f.runs[i].logical*f.fs.blockSize-f.next)]
		clear(p)
	default:
		r := f.runs[i]
		p = p[:min(int64(len(p)), (r.logical+r.count)*f.fs.blockSize-f.next)]
		if n, err := f.fs.r.ReadAt(p, (r.physical+block-r.logical)*f.fs.blockSize+within); n < len(p) {
			return 0, fmt.Errorf("read a file: %w", errors.Join(err, io.ErrUnexpectedEOF))
		}
	}
	f.next += int64(len(p))
	return len(p), nil
}

// readAll reads what is small: a target, the value of an attribute, a directory's inline entries.
func (fs *FS) readAll(in *Inode, most int64) ([]byte, error) {
	if in.Size > most {
		return nil, damaged("inode %d has %d bytes; %d are possible", in.Number, in.Size, most)
	}
	f, err := fs.Open(in)
	if err != nil {
		return nil, err
	}
	b := make([]byte, in.Size)
	_, err = io.ReadFull(f, b)
	return b, err
}

// Readlink returns the target of a symbolic link.
func (fs *FS) Readlink(in *Inode) (string, error) {
	if in.Mode&ModeType != ModeSymlink {
		return "", fmt.Errorf("inode %d is no symbolic link", in.Number)
	}
	if err := in.readable(); err != nil {
		return "", err
	}
	var target []byte
	if in.flags&(flagExtents|flagInline) == 0 && in.Size < 60 {
		target = in.raw[blockMapOffset : blockMapOffset+in.Size]
	} else {
		var err error
		if target, err = fs.readAll(in, max(4096, fs.blockSize)); err != nil {
			return "", err
		}
	}
	if len(target) == 0 || slices.Contains(target, 0) {
		return "", damaged("symbolic link %d has no possible target", in.Number)
	}
	return string(target), nil
}
