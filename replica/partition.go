package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"unicode/utf16"
)

// Kinds of partition table.
const (
	tableGPT = "gpt"
	tableMBR = "mbr"
)

const (
	mbrSize      = 512
	mbrSignature = 440 // of the disk
)

// partitionTable is what the start of a disk says about its partitions.
type partitionTable struct {
	kind       string
	partitions []Partition
	gpt        *gptTable
}

// readPartitionTable reads a GPT or MBR. None is the zero table; one that is
// there but damaged is an error.
func readPartitionTable(r io.ReaderAt, size int64) (partitionTable, error) {
	if size < mbrSize {
		return partitionTable{}, nil
	}
	mbr := make([]byte, mbrSize)
	if _, err := r.ReadAt(mbr, 0); err != nil && !errors.Is(err, io.EOF) {
		return partitionTable{}, fmt.Errorf("read the first sector: %w", err)
	}
	for _, sector := range []int64{512, 4096} {
		g, err := readGPT(r, size, sector)
		if err != nil {
			return partitionTable{}, err
		}
		if g != nil {
			return partitionTable{kind: tableGPT, partitions: g.partitions(), gpt: g}, nil
		}
	}
	parts, err := readMBR(r, mbr, size)
	if err != nil || len(parts) == 0 {
		return partitionTable{}, err
	}
	for i := range parts {
		parts[i].UUID = fmt.Sprintf("%08x-%02x", binary.LittleEndian.Uint32(mbr[mbrSignature:]), parts[i].Number)
	}
	return partitionTable{kind: tableMBR, partitions: parts}, nil
}

// gptTable is a GPT whose checksums are right (UEFI specification 2.10, 5.3).
type gptTable struct {
	sector    int64
	header    []byte // the sector of the primary header
	entries   []byte
	entrySize int64
}

const gptSignature = "EFI PART"

// Offsets in a GPT header.
const (
	gptHeaderSize  = 12
	gptHeaderCRC   = 16
	gptMyLBA       = 24
	gptAlternate   = 32
	gptLastUsable  = 48
	gptEntriesLBA  = 72
	gptEntryCount  = 80
	gptEntrySize   = 84
	gptEntriesCRC  = 88
	gptMinHeader   = 92
	maxGPTEntries  = 1 << 20 // bytes
	protectiveType = 0xee
)

// readGPT returns nil when there is no GPT of that sector size.
func readGPT(r io.ReaderAt, size, sector int64) (*gptTable, error) {
	if size < 3*sector {
		return nil, nil //nolint:nilnil // no table is no error
	}
	h := make([]byte, sector)
	if _, err := r.ReadAt(h, sector); err != nil {
		return nil, fmt.Errorf("read the GPT header: %w", err)
	}
	if string(h[:8]) != gptSignature {
		return nil, nil //nolint:nilnil // as above
	}
	headerSize := int64(binary.LittleEndian.Uint32(h[gptHeaderSize:]))
	if headerSize < gptMinHeader || headerSize > sector || headerCRC(h, headerSize) != binary.LittleEndian.Uint32(h[gptHeaderCRC:]) {
		return nil, errors.New("the GPT header is damaged")
	}
	g := &gptTable{sector: sector, header: h, entrySize: int64(binary.LittleEndian.Uint32(h[gptEntrySize:]))}
	length := int64(binary.LittleEndian.Uint32(h[gptEntryCount:])) * g.entrySize
	start := binary.LittleEndian.Uint64(h[gptEntriesLBA:])
	if g.entrySize < 128 || g.entrySize%8 != 0 || length <= 0 || length > maxGPTEntries || start > uint64((size-length)/sector) {
		return nil, errors.New("the GPT header describes no possible table")
	}
	g.entries = make([]byte, length)
	if _, err := r.ReadAt(g.entries, int64(start)*sector); err != nil {
		return nil, fmt.Errorf("read the GPT entries: %w", err)
	}
	if crc32.ChecksumIEEE(g.entries) != binary.LittleEndian.Uint32(h[gptEntriesCRC:]) {
		return nil, errors.New("the GPT entries are damaged")
	}
	return g, nil
}

// headerCRC is the checksum of a header with its own field zero.
func headerCRC(h []byte, size int64) uint32 {
	b := append([]byte(nil), h[:size]...)
	clear(b[gptHeaderCRC : gptHeaderCRC+4])
	return crc32.ChecksumIEEE(b)
}

func (g *gptTable) partitions() []Partition {
	var parts []Partition
	for i := int64(0); (i+1)*g.entrySize <= int64(len(g.entries)); i++ {
		e := g.entries[i*g.entrySize:]
		if isZero(e[:16]) {
			continue
		}
		first, last := int64(binary.LittleEndian.Uint64(e[32:])), int64(binary.LittleEndian.Uint64(e[40:]))
		if first < 0 || last < first || last > maxDiskSize/g.sector {
			continue
		}
		name := make([]uint16, 36)
		for j := range name {
			name[j] = binary.LittleEndian.Uint16(e[56+2*j:])
		}
		text, _, _ := strings.Cut(string(utf16.Decode(name)), "\x00")
		parts = append(parts, Partition{
			Number: int(i) + 1, OffsetBytes: first * g.sector, SizeBytes: (last - first + 1) * g.sector,
			Type: guid(e[:16]), UUID: guid(e[16:32]), Name: text,
		})
	}
	return parts
}

// guid formats the mixed-endian GUID of a GPT.
func guid(b []byte) string {
	return fmt.Sprintf("%08X-%04X-%04X-%X-%X", binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint16(b[4:]),
		binary.LittleEndian.Uint16(b[6:]), b[8:10], b[10:16])
}

// relocate returns the regions that make the table that of a disk grown to
// delivered bytes: backup entries and header at its end, primary header and
// protective MBR that say so, the old backup header gone.
func (g *gptTable) relocate(r io.ReaderAt, size, delivered int64) ([]deliveryRegion, error) {
	last := delivered/g.sector - 1
	sectors := (int64(len(g.entries)) + g.sector - 1) / g.sector
	usable := last - sectors - 1
	oldLast := int64(binary.LittleEndian.Uint64(g.header[gptAlternate:]))
	if oldLast == last {
		return nil, nil
	}
	for _, p := range g.partitions() {
		if p.OffsetBytes+p.SizeBytes > (usable+1)*g.sector {
			return nil, fmt.Errorf("partition %d would lie under the backup table", p.Number)
		}
	}
	var regions []deliveryRegion
	if off := oldLast * g.sector; oldLast > 1 && oldLast <= size/g.sector-1 {
		old := make([]byte, len(gptSignature))
		if _, err := r.ReadAt(old, off); err == nil && string(old) == gptSignature {
			regions = append(regions, deliveryRegion{Offset: off, Data: make([]byte, g.sector)})
		}
	}
	mbr := make([]byte, mbrSize)
	if _, err := r.ReadAt(mbr, 0); err != nil {
		return nil, fmt.Errorf("read the protective MBR: %w", err)
	}
	if protect(mbr, last) {
		regions = append(regions, deliveryRegion{Offset: 0, Data: mbr})
	}
	primary := append([]byte(nil), g.header...)
	binary.LittleEndian.PutUint64(primary[gptAlternate:], uint64(last))
	binary.LittleEndian.PutUint64(primary[gptLastUsable:], uint64(usable))
	backup := append([]byte(nil), primary...)
	binary.LittleEndian.PutUint64(backup[gptMyLBA:], uint64(last))
	binary.LittleEndian.PutUint64(backup[gptAlternate:], 1)
	binary.LittleEndian.PutUint64(backup[gptEntriesLBA:], uint64(last-sectors))
	for _, h := range [][]byte{primary, backup} {
		binary.LittleEndian.PutUint32(h[gptHeaderCRC:], headerCRC(h, int64(binary.LittleEndian.Uint32(h[gptHeaderSize:]))))
	}
	entries := make([]byte, sectors*g.sector)
	copy(entries, g.entries)
	return append(regions,
		deliveryRegion{Offset: g.sector, Data: primary},
		deliveryRegion{Offset: (last - sectors) * g.sector, Data: entries},
		deliveryRegion{Offset: last * g.sector, Data: backup},
	), nil
}

// protect has the protective entry of an MBR cover the disk. A hybrid MBR is
// left alone: its other entries mean something to somebody.
func protect(mbr []byte, last int64) bool {
	if mbr[510] != 0x55 || mbr[511] != 0xaa {
		return false
	}
	var protective []byte
	for i := range 4 {
		e := mbr[446+16*i : 446+16*(i+1)]
		switch {
		case e[4] == protectiveType && protective == nil:
			protective = e
		case e[4] != 0:
			return false
		}
	}
	if protective == nil {
		return false
	}
	first := int64(binary.LittleEndian.Uint32(protective[8:]))
	copy(protective[5:8], []byte{0xff, 0xff, 0xff})
	binary.LittleEndian.PutUint32(protective[12:], uint32(min(last-first+1, 0xffffffff)))
	return true
}

// readMBR reads primary and logical partitions. What looks like no table (the
// boot sector of a file system ends alike) has none.
func readMBR(r io.ReaderAt, mbr []byte, size int64) ([]Partition, error) {
	const sector = 512
	if mbr[510] != 0x55 || mbr[511] != 0xaa {
		return nil, nil
	}
	var parts []Partition
	var extended int64
	for i := range 4 {
		e := mbrEntry(mbr, i)
		if e.kind == 0 {
			continue
		}
		if e.status&0x7f != 0 || e.first == 0 || e.sectors == 0 || (e.first+e.sectors)*sector > size {
			return nil, nil
		}
		parts = append(parts, e.partition(i+1, 0))
		if e.isExtended() {
			extended = e.first
		}
	}
	// Each logical partition has a table of its own: its entry, and the next table.
	for at, number := extended, 5; at != 0 && number < 5+128; number++ {
		table := make([]byte, mbrSize)
		if _, err := r.ReadAt(table, at*sector); err != nil {
			return nil, fmt.Errorf("read the partition table at sector %d: %w", at, err)
		}
		logical, next := mbrEntry(table, 0), mbrEntry(table, 1)
		if table[510] != 0x55 || table[511] != 0xaa || logical.kind == 0 || (at+logical.first+logical.sectors)*sector > size {
			break
		}
		parts = append(parts, logical.partition(number, at))
		if !next.isExtended() || extended+next.first <= at || (extended+next.first)*sector >= size {
			break
		}
		at = extended + next.first
	}
	return parts, nil
}

type mbrPartition struct {
	status, kind   byte
	first, sectors int64
}

func mbrEntry(table []byte, i int) mbrPartition {
	e := table[446+16*i:]
	return mbrPartition{
		status: e[0], kind: e[4],
		first: int64(binary.LittleEndian.Uint32(e[8:])), sectors: int64(binary.LittleEndian.Uint32(e[12:])),
	}
}

func (e mbrPartition) isExtended() bool { return e.kind == 0x05 || e.kind == 0x0f || e.kind == 0x85 }

func (e mbrPartition) partition(number int, base int64) Partition {
	return Partition{
		Number: number, OffsetBytes: (base + e.first) * mbrSize, SizeBytes: e.sectors * mbrSize, Type: fmt.Sprintf("%02x", e.kind),
	}
}
