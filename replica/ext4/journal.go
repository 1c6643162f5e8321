package ext4

import (
	"encoding/binary"
	"fmt"
	"slices"
)

const (
	journalMagic = 0xc03b3998

	journalDescriptor = 1
	journalCommit     = 2
	journalSuperV1    = 3
	journalSuperV2    = 4
	journalRevoke     = 5

	journalCompatChecksum      = 0x1
	journalIncompatRevoke      = 0x1
	journalIncompat64Bit       = 0x2
	journalIncompatAsyncCommit = 0x4
	journalIncompatCsumV2      = 0x8
	journalIncompatCsumV3      = 0x10
	journalIncompatKnown       = journalIncompatRevoke | journalIncompat64Bit | journalIncompatAsyncCommit | journalIncompatCsumV2 | journalIncompatCsumV3

	tagEscaped  = 0x1
	tagSameUUID = 0x2
	tagLast     = 0x8
)

// be is the byte order of the journal, which is not that of the file system.
var be = binary.BigEndian

// journalLog is what a journal supersedes.
type journalLog struct {
	transactions int
	blocks       map[int64]journalled
}

// journal reads a journal. What it does, and what it takes for the end of the log, follows the recovery of the kernel's jbd2.
type journal struct {
	fs       *FS
	where    []int64 // blocks of the file system that hold it
	first    int64   // of the log; the block before is the superblock
	incompat uint32
	seed     uint32
}

// transaction is what a pass over the log found out about one transaction.
type transaction struct {
	id      uint32
	tags    []journalTag
	revokes []int64
}

type journalTag struct {
	block    int64 // of the file system
	at       int64 // block of the file system where the journal has it
	escaped  bool
	checksum uint32
}

// readJournal finds the blocks that the journal of a file system supersedes.
func readJournal(fs *FS) (*journalLog, error) {
	if fs.journal == 0 {
		return nil, unsupported("its journal, which would have to be replayed, is on another disk")
	}
	in, err := fs.inode(fs.journal)
	if err != nil {
		return nil, fmt.Errorf("the journal: %w", err)
	}
	runs, err := fs.runs(in)
	if err != nil {
		return nil, fmt.Errorf("the journal: %w", err)
	}
	j := &journal{fs: fs}
	for _, r := range runs {
		if r.logical != int64(len(j.where)) {
			return nil, damaged("the journal has a hole")
		}
		if len(j.where) > maxRuns {
			return nil, unsupported("the journal has more than %d blocks", maxRuns)
		}
		for i := range r.count {
			j.where = append(j.where, r.physical+i)
		}
	}
	if len(j.where) == 0 {
		return nil, damaged("the journal is empty")
	}
	sb, err := fs.readBlock(j.where[0])
	if err != nil {
		return nil, fmt.Errorf("the journal: %w", err)
	}
	kind := be.Uint32(sb[4:])
	if be.Uint32(sb) != journalMagic || kind != journalSuperV1 && kind != journalSuperV2 {
		return nil, damaged("the journal has no superblock")
	}
	length, start, sequence := int64(be.Uint32(sb[16:])), int64(be.Uint32(sb[28:])), be.Uint32(sb[24:])
	j.first = int64(be.Uint32(sb[20:]))
	if kind == journalSuperV2 {
		if err := j.features(sb); err != nil {
			return nil, err
		}
	}
	switch {
	case int64(be.Uint32(sb[12:])) != fs.blockSize || length > int64(len(j.where)) || j.first < 1 || j.first >= length:
		return nil, damaged("the superblock of the journal is not possible")
	case start == 0: // everything is where it belongs
		return &journalLog{}, nil
	case start < j.first || start >= length:
		return nil, damaged("the journal begins at its block %d, which is not one of the log", start)
	}
	j.where = j.where[:length]
	transactions, err := j.scan(start, sequence)
	if err != nil {
		return nil, fmt.Errorf("the journal: %w", err)
	}
	return j.replay(transactions)
}

// features refuses a journal that cannot be replayed here, and holds the superblock against its checksum.
func (j *journal) features(sb []byte) error {
	j.incompat = be.Uint32(sb[40:])
	if unknown := j.incompat &^ journalIncompatKnown; unknown != 0 {
		return unsupported("the journal has the incompatible features %#x, fast commits among them if it is 0x20", unknown)
	}
	if j.checksums() {
		sum := slices.Clone(sb[:1024])
		clear(sum[252:256])
		if crc32c(^uint32(0), sum) != be.Uint32(sb[252:]) {
			return damaged("the superblock of the journal does not have its checksum")
		}
		j.seed = crc32c(^uint32(0), sb[48:64])
	} else if j.incompat&journalIncompatAsyncCommit != 0 {
		return unsupported("the journal is committed asynchronously and has only checksums of the first kind")
	}
	return nil
}

func (j *journal) checksums() bool {
	return j.incompat&(journalIncompatCsumV2|journalIncompatCsumV3) != 0
}

// next is the block of the log after one; the log is a ring.
func (j *journal) next(block int64) int64 {
	if block++; block >= int64(len(j.where)) {
		return j.first
	}
	return block
}

// scan finds the committed transactions from the start of the log to its end. The end is where the next block is not of the
// transaction that should follow, or a transaction is not whole; a torn transaction with later ones behind it is damage.
func (j *journal) scan(start int64, id uint32) ([]transaction, error) {
	var whole []transaction
	var lastCommit uint64
	current, torn := transaction{id: id}, false
	steps := 0
	for at := start; steps <= len(j.where); steps++ {
		b, err := j.fs.readBlock(j.where[at])
		if err != nil {
			return nil, err
		}
		if be.Uint32(b) != journalMagic || be.Uint32(b[8:]) != current.id {
			return whole, nil
		}
		at = j.next(at)
		switch be.Uint32(b[4:]) {
		case journalDescriptor:
			torn = torn || !j.tailMatches(b)
			for _, tag := range j.tags(b) {
				tag.at = j.where[at]
				current.tags = append(current.tags, tag)
				at = j.next(at)
				steps++
			}
		case journalRevoke:
			torn = torn || !j.tailMatches(b)
			revokes, err := j.revokes(b)
			if err != nil && !torn {
				return nil, err
			}
			current.revokes = append(current.revokes, revokes...)
		case journalCommit:
			committed := be.Uint64(b[48:])
			if torn || !j.commitMatches(b) {
				if committed < lastCommit {
					return whole, nil // what an earlier use of the journal left
				}
				if torn || j.incompat&journalIncompatAsyncCommit == 0 {
					return nil, damaged("transaction %d does not have its checksum", current.id)
				}
				return whole, nil
			}
			lastCommit = committed
			whole = append(whole, current)
			current = transaction{id: current.id + 1}
		default:
			return whole, nil
		}
	}
	return whole, nil // all the way round
}

// tailMatches holds a descriptor or a block of revocations against the checksum at its end.
func (j *journal) tailMatches(b []byte) bool {
	if !j.checksums() {
		return true
	}
	sum := slices.Clone(b)
	clear(sum[len(sum)-4:])
	return crc32c(j.seed, sum) == be.Uint32(b[len(b)-4:])
}

func (j *journal) commitMatches(b []byte) bool {
	if !j.checksums() {
		return true
	}
	sum := slices.Clone(b)
	clear(sum[16:20])
	return crc32c(j.seed, sum) == be.Uint32(b[16:])
}

// tags returns what a descriptor says of the blocks that follow it.
func (j *journal) tags(b []byte) []journalTag {
	size, end := 8, len(b)
	switch {
	case j.incompat&journalIncompatCsumV3 != 0:
		size = 16
	default:
		if j.incompat&journalIncompatCsumV2 != 0 {
			size += 2
		}
		if j.incompat&journalIncompat64Bit != 0 {
			size += 4
		}
	}
	if j.checksums() {
		end -= 4
	}
	var tags []journalTag
	for at := 12; at+size <= end; {
		raw := b[at:]
		tag := journalTag{block: int64(be.Uint32(raw))}
		var flags uint32
		if j.incompat&journalIncompatCsumV3 != 0 {
			flags, tag.checksum = be.Uint32(raw[4:]), be.Uint32(raw[12:])
		} else {
			flags, tag.checksum = uint32(be.Uint16(raw[6:])), uint32(be.Uint16(raw[4:]))
		}
		if j.incompat&journalIncompat64Bit != 0 {
			tag.block |= int64(be.Uint32(raw[8:])) << 32
		}
		tag.escaped = flags&tagEscaped != 0
		tags = append(tags, tag)
		if at += size; flags&tagSameUUID == 0 {
			at += 16
		}
		if flags&tagLast != 0 {
			break
		}
	}
	return tags
}

// revokes returns the blocks that transactions up to this one do not supersede: they hold something else since.
func (j *journal) revokes(b []byte) ([]int64, error) {
	count, size := int(be.Uint32(b[12:])), 4
	if j.incompat&journalIncompat64Bit != 0 {
		size = 8
	}
	most := len(b)
	if j.checksums() {
		most -= 4
	}
	if count < 16 || count > most {
		return nil, damaged("a block of revocations has %d bytes", count)
	}
	var blocks []int64
	for at := 16; at+size <= count; at += size {
		if size == 8 {
			blocks = append(blocks, int64(be.Uint64(b[at:]))) //nolint:gosec // one that is none matches none
		} else {
			blocks = append(blocks, int64(be.Uint32(b[at:])))
		}
	}
	return blocks, nil
}

// replay works out which blocks the transactions supersede.
func (j *journal) replay(transactions []transaction) (*journalLog, error) {
	revoked := map[int64]uint32{} // by the last transaction that says so
	for _, t := range transactions {
		for _, block := range t.revokes {
			revoked[block] = t.id
		}
	}
	log := &journalLog{transactions: len(transactions), blocks: map[int64]journalled{}}
	for _, t := range transactions {
		for _, tag := range t.tags {
			// Sequence numbers wrap around.
			if last, is := revoked[tag.block]; is && int32(t.id-last) <= 0 { //nolint:gosec // as the kernel compares them
				continue
			}
			if tag.block < 0 || tag.block >= j.fs.blocks {
				return nil, damaged("the journal supersedes block %d, which is not one of its %d", tag.block, j.fs.blocks)
			}
			if err := j.checkTag(t.id, tag); err != nil {
				return nil, err
			}
			log.blocks[tag.block] = journalled{at: tag.at, escaped: tag.escaped}
		}
	}
	return log, nil
}

// checkTag holds a block in the journal against its checksum.
func (j *journal) checkTag(id uint32, tag journalTag) error {
	if !j.checksums() {
		return nil
	}
	b, err := j.fs.readBlock(tag.at)
	if err != nil {
		return err
	}
	sum := crc32c(crc32c(j.seed, be.AppendUint32(nil, id)), b)
	if j.incompat&journalIncompatCsumV3 == 0 {
		sum &= 0xffff
	}
	if sum != tag.checksum {
		return damaged("block %d does not have its checksum in transaction %d of the journal", tag.block, id)
	}
	return nil
}
