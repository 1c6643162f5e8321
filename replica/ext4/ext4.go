package ext4

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	iofs "io/fs"
	"strings"

	"github.com/google/uuid"
)

// What is wrong with a file system; use [errors.Is].
var (
	// ErrNotExt says that there is no ext2, ext3 or ext4 file system.
	ErrNotExt = errors.New("no ext2, ext3 or ext4 file system")
	// ErrDamaged says that the file system contradicts itself or its checksums.
	ErrDamaged = errors.New("the file system is damaged")
	// ErrUnsupported says that the file system, or a file in it, uses what this package cannot read.
	ErrUnsupported = errors.New("the file system uses what cannot be read here")
)

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
}

func unsupported(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUnsupported, fmt.Sprintf(format, args...))
}

// Features of a file system that matter to a reader.
const (
	compatHasJournal   = 0x4
	compatSparseSuper2 = 0x200

	incompatFileType = 0x2
	incompatRecover  = 0x4
	incompatMetaBG   = 0x10
	incompatExtents  = 0x40
	incompat64Bit    = 0x80
	incompatMMP      = 0x100
	incompatFlexBG   = 0x200
	incompatEAInode  = 0x400
	incompatCsumSeed = 0x2000
	incompatLargeDir = 0x4000
	incompatInline   = 0x8000
	incompatEncrypt  = 0x10000
	incompatCasefold = 0x20000
	incompatKnown    = incompatFileType | incompatRecover | incompatMetaBG | incompatExtents | incompat64Bit | incompatMMP | incompatFlexBG |
		incompatEAInode | incompatCsumSeed | incompatLargeDir | incompatInline | incompatEncrypt | incompatCasefold

	roCompatSparseSuper  = 0x1
	roCompatMetadataCsum = 0x400
)

const (
	superblockOffset = 1024
	superblockSize   = 1024
	magic            = 0xef53
	goodOldInodeSize = 128
)

// castagnoli is the polynomial of every checksum of ext4 that is read here.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc32c continues a checksum as the kernel does, which inverts neither at the start nor at the end.
func crc32c(seed uint32, b []byte) uint32 { return ^crc32.Update(^seed, castagnoli, b) }

var le = binary.LittleEndian

// FS is a file system that is open for reading. It may be used by one goroutine at a time.
type FS struct {
	// UUID names the file system, in lower case.
	UUID string
	// Label is its name, often empty.
	Label string
	// Replayed is how many transactions of the journal were read in place of what they supersede.
	Replayed int

	r           io.ReaderAt // the journal's blocks on top
	blockSize   int64
	blocks      int64
	firstBlock  int64
	perGroup    int64 // blocks
	inodes      uint32
	inodesGroup uint32
	inodeSize   int64
	descSize    int64
	firstMetaBG int64
	backups     [2]uint32
	compat      uint32
	incompat    uint32
	roCompat    uint32
	journal     uint32
	csumSeed    uint32

	tables map[uint32]int64 // the inode table of each group that was asked for
}

// Open reads a file system that takes the first size bytes of r, as it is once its journal has been replayed.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	fs, err := open(r, size)
	if err != nil {
		return nil, err
	}
	if fs.compat&compatHasJournal == 0 || fs.incompat&incompatRecover == 0 {
		return fs, nil
	}
	log, err := readJournal(fs)
	if err != nil {
		return nil, err
	}
	if len(log.blocks) == 0 {
		fs.Replayed = log.transactions
		return fs, nil
	}
	// The superblock and the group descriptors may be among the blocks of the journal.
	replayed, err := open(&overlay{r: r, blockSize: fs.blockSize, blocks: log.blocks}, size)
	if err != nil {
		return nil, fmt.Errorf("after %d transactions of the journal: %w", log.transactions, err)
	}
	if replayed.blockSize != fs.blockSize {
		return nil, damaged("the journal changes the size of the blocks")
	}
	replayed.Replayed = log.transactions
	return replayed, nil
}

// open reads the superblock.
func open(r io.ReaderAt, size int64) (*FS, error) {
	sb := make([]byte, superblockSize)
	if size < superblockOffset+superblockSize {
		return nil, ErrNotExt
	}
	if _, err := r.ReadAt(sb, superblockOffset); err != nil {
		return nil, fmt.Errorf("read the superblock: %w", err)
	}
	if le.Uint16(sb[56:]) != magic {
		return nil, ErrNotExt
	}
	fs := &FS{
		r: r, tables: map[uint32]int64{}, firstBlock: int64(le.Uint32(sb[20:])), perGroup: int64(le.Uint32(sb[32:])),
		inodes: le.Uint32(sb), inodesGroup: le.Uint32(sb[40:]), inodeSize: goodOldInodeSize, descSize: 32,
		compat: le.Uint32(sb[92:]), incompat: le.Uint32(sb[96:]), roCompat: le.Uint32(sb[100:]), journal: le.Uint32(sb[224:]),
		firstMetaBG: int64(le.Uint32(sb[260:])), backups: [2]uint32{le.Uint32(sb[588:]), le.Uint32(sb[592:])},
	}
	id, err := uuid.FromBytes(sb[104:120])
	if err != nil {
		return nil, err
	}
	label, _, _ := bytes.Cut(sb[120:136], []byte{0})
	fs.UUID, fs.Label = id.String(), string(label)
	if le.Uint32(sb[76:]) > 0 { // the revision that has features
		fs.inodeSize = int64(le.Uint16(sb[88:]))
	} else {
		fs.compat, fs.incompat, fs.roCompat = 0, 0, 0
	}
	if unknown := fs.incompat &^ incompatKnown; unknown != 0 {
		return nil, unsupported("incompatible features %#x, which this version does not know", unknown)
	}
	if fs.roCompat&roCompatMetadataCsum != 0 {
		if kind := sb[373]; kind != 1 {
			return nil, unsupported("checksums of type %d", kind)
		}
		if crc32c(^uint32(0), sb[:1020]) != le.Uint32(sb[1020:]) {
			return nil, damaged("the superblock does not have its checksum")
		}
		fs.csumSeed = crc32c(^uint32(0), sb[104:120])
	}
	if fs.incompat&incompatCsumSeed != 0 {
		fs.csumSeed = le.Uint32(sb[624:])
	}
	shift := le.Uint32(sb[24:])
	if shift > 6 {
		return nil, damaged("the superblock gives no possible size of blocks")
	}
	fs.blockSize = 1024 << shift
	fs.blocks = int64(le.Uint32(sb[4:]))
	if fs.incompat&incompat64Bit != 0 {
		fs.blocks |= int64(le.Uint32(sb[336:])) << 32
		fs.descSize = int64(le.Uint16(sb[254:]))
	}
	switch {
	case fs.blocks <= fs.firstBlock || fs.blocks > size/fs.blockSize:
		return nil, damaged("the superblock says %d blocks of %d bytes, and there are %d bytes", fs.blocks, fs.blockSize, size)
	case fs.perGroup == 0 || fs.inodesGroup == 0 || fs.inodes < rootInode:
		return nil, damaged("the superblock describes no possible groups")
	case fs.inodeSize < goodOldInodeSize || fs.inodeSize > fs.blockSize || fs.inodeSize&(fs.inodeSize-1) != 0:
		return nil, damaged("the superblock says that inodes have %d bytes", fs.inodeSize)
	case fs.descSize < 32 || fs.descSize > fs.blockSize || fs.descSize&(fs.descSize-1) != 0:
		return nil, damaged("the superblock says that group descriptors have %d bytes", fs.descSize)
	}
	return fs, nil
}

func (fs *FS) checksums() bool { return fs.roCompat&roCompatMetadataCsum != 0 }

// readBlock reads a block of the file system.
func (fs *FS) readBlock(block int64) ([]byte, error) {
	if block < fs.firstBlock || block >= fs.blocks {
		return nil, damaged("block %d is not one of its %d", block, fs.blocks)
	}
	b := make([]byte, fs.blockSize)
	if _, err := fs.r.ReadAt(b, block*fs.blockSize); err != nil {
		return nil, fmt.Errorf("read block %d: %w", block, err)
	}
	return b, nil
}

// hasSuperblock says whether a group begins with a copy of the superblock.
func (fs *FS) hasSuperblock(group int64) bool {
	switch {
	case group == 0:
		return true
	case fs.compat&compatSparseSuper2 != 0:
		return group == int64(fs.backups[0]) || group == int64(fs.backups[1])
	case group == 1 || fs.roCompat&roCompatSparseSuper == 0:
		return true
	}
	for _, base := range []int64{3, 5, 7} {
		power := base
		for power < group {
			power *= base
		}
		if power == group {
			return true
		}
	}
	return false
}

// inodeTable returns the first block of a group's inode table.
func (fs *FS) inodeTable(group uint32) (int64, error) {
	if table, known := fs.tables[group]; known {
		return table, nil
	}
	perBlock := fs.blockSize / fs.descSize
	index := int64(group) / perBlock
	block := superblockOffset/fs.blockSize + 1 + index
	if fs.incompat&incompatMetaBG != 0 && index >= fs.firstMetaBG {
		first := index * perBlock // the group whose block of descriptors it is
		block = fs.firstBlock + first*fs.perGroup
		if fs.hasSuperblock(first) {
			block++
		}
		if fs.blockSize == 1024 && index == 0 && fs.firstBlock == 0 {
			block++
		}
	}
	b, err := fs.readBlock(block)
	if err != nil {
		return 0, fmt.Errorf("the descriptor of group %d: %w", group, err)
	}
	desc := b[int64(group)%perBlock*fs.descSize:][:fs.descSize]
	if fs.checksums() {
		want := uint32(le.Uint16(desc[30:]))
		desc[30], desc[31] = 0, 0
		sum := crc32c(crc32c(fs.csumSeed, le.AppendUint32(nil, group)), desc)
		if sum&0xffff != want { // its lower half is what is stored
			return 0, damaged("the descriptor of group %d does not have its checksum", group)
		}
	}
	table := int64(le.Uint32(desc[8:]))
	if fs.descSize >= 64 {
		table |= int64(le.Uint32(desc[40:])) << 32
	}
	if table <= fs.firstBlock || table >= fs.blocks {
		return 0, damaged("group %d has its inodes at block %d", group, table)
	}
	fs.tables[group] = table
	return table, nil
}

// overlay reads the blocks that a journal supersedes from where the journal has them.
type overlay struct {
	r         io.ReaderAt
	blockSize int64
	blocks    map[int64]journalled
}

// journalled says where the journal has a block.
type journalled struct {
	at int64 // block of the file system
	// escaped says that the block begins with the magic number of the journal, which it has as zeros.
	escaped bool
}

// ReadAt implements [io.ReaderAt].
func (o *overlay) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		pos := off + int64(n)
		block, within := pos/o.blockSize, pos%o.blockSize
		piece := p[n:]
		in, superseded := o.blocks[block]
		if superseded {
			piece = piece[:min(int64(len(piece)), o.blockSize-within)]
			got, err := o.r.ReadAt(piece, in.at*o.blockSize+within)
			if in.escaped && within < 4 {
				var start [4]byte
				binary.BigEndian.PutUint32(start[:], journalMagic)
				copy(piece[:got], start[within:])
			}
			if n += got; got < len(piece) {
				return n, err
			}
			continue
		}
		// As far as the journal does not reach.
		length := o.blockSize - within
		for next := block + 1; length < int64(len(piece)); next++ {
			if _, superseded := o.blocks[next]; superseded {
				break
			}
			length += o.blockSize
		}
		piece = piece[:min(int64(len(piece)), length)]
		got, err := o.r.ReadAt(piece, pos)
		if n += got; got < len(piece) {
			return n, err
		}
	}
	return n, nil
}

// Find returns the inode at a path, following symbolic links in it as they are from the root on; the last one too, if follow says
// so. One that does not exist is an error matching [io/fs.ErrNotExist].
func (fs *FS) Find(path string, follow bool) (*Inode, error) {
	in, err := fs.Inode(rootInode)
	if err != nil {
		return nil, err
	}
	var above []*Inode
	followed := 0
	for names := strings.Split(path, "/"); len(names) > 0; {
		name := names[0]
		names = names[1:]
		switch {
		case name == "" || name == ".":
			continue
		case !in.IsDir():
			return nil, fmt.Errorf("%s: %w", path, iofs.ErrNotExist)
		case name == "..":
			if len(above) > 0 {
				in, above = above[len(above)-1], above[:len(above)-1]
			}
			continue
		}
		next, err := fs.lookup(in, name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if next.Mode&ModeType != ModeSymlink || !follow && len(names) == 0 {
			above, in = append(above, in), next
			continue
		}
		if followed++; followed > maxSymlinks {
			return nil, fmt.Errorf("%s: %w", path, iofs.ErrNotExist)
		}
		target, err := fs.Readlink(next)
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(target, "/") && len(above) > 0 {
			in, above = above[0], nil
		}
		names = append(strings.Split(target, "/"), names...)
	}
	return in, nil
}

const maxSymlinks = 40 // in a path, as in Linux
