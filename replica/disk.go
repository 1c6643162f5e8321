package replica

import (
	"bytes"
	"encoding/hex"
	"fmt"

	"github.com/zeebo/blake3"
)

const (
	// GrainSize is the unit of comparison, in bytes. Changed grains are what is
	// sent; larger units send several times the bytes of an incremental run.
	GrainSize = 64 << 10
	// HashSize is the length of a grain's hash in a map, in bytes.
	HashSize = 32
	// MaxFrameRaw is the most raw bytes one data frame carries. Zero runs are
	// not bounded by it.
	MaxFrameRaw = 1 << 20
	// WindowSize is the most raw bytes one request carries: what a kill of
	// either side can make a stream send again.
	WindowSize = 4 << 20
	// maxDiskSize bounds what a peer may claim: 64 TiB, the largest volume of
	// the file systems staging lives on.
	maxDiskSize = 64 << 40
)

// Hash is the BLAKE3-256 of a grain, or [ZeroHash].
type Hash [HashSize]byte

// ZeroHash stands for a grain that is all zero. It is never the BLAKE3 of
// anything that is stored.
var ZeroHash Hash

// unknownHash marks a map entry whose grain must be sent again whatever it
// holds: what is stored there is not known to be anything in particular.
var unknownHash = func() (h Hash) {
	for i := range h {
		h[i] = 0xff
	}
	return h
}()

// String returns the hash in lower-case hexadecimal.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText writes the hash in lower-case hexadecimal.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (h *Hash) UnmarshalText(text []byte) error {
	if len(text) != 2*HashSize {
		return fmt.Errorf("a hash has %d hexadecimal digits, not %d", 2*HashSize, len(text))
	}
	_, err := hex.Decode(h[:], text)
	return err
}

// GrainHash returns the map entry of a grain: [ZeroHash] when every byte is
// zero, else its BLAKE3-256.
func GrainHash(grain []byte) Hash {
	if isZero(grain) {
		return ZeroHash
	}
	return blake3.Sum256(grain)
}

var zeroGrain [GrainSize]byte

// isZero reports whether every byte of b is zero.
func isZero(b []byte) bool {
	if len(b) > 0 && b[0] != 0 {
		return false
	}
	for len(b) > GrainSize {
		if !bytes.Equal(b[:GrainSize], zeroGrain[:]) {
			return false
		}
		b = b[GrainSize:]
	}
	return bytes.Equal(b, zeroGrain[:len(b)])
}

// Disk is one disk of a source server as the host stages it.
type Disk struct {
	// Index is the disk's number; 0 is the system disk.
	Index int `json:"index"`
	// SizeBytes is the size of the source disk.
	SizeBytes int64 `json:"sizeBytes"`
}

// grains returns how many grains a disk of that size has.
func grains(size int64) int64 { return (size + GrainSize - 1) / GrainSize }

// grainLen returns the length of grain g of a disk of that size.
func grainLen(size, g int64) int64 { return min(GrainSize, size-g*GrainSize) }

func checkDisks(disks []Disk) error {
	if len(disks) == 0 {
		return newError(CodeInvalidRequest, "there is no disk to replicate")
	}
	seen := make(map[int]bool, len(disks))
	for _, d := range disks {
		switch {
		case d.Index < 0 || d.Index > 1023:
			return newError(CodeInvalidRequest, "disk index %d is not between 0 and 1023", d.Index)
		case seen[d.Index]:
			return newError(CodeInvalidRequest, "disk %d is listed twice", d.Index)
		case d.SizeBytes <= 0 || d.SizeBytes > maxDiskSize:
			return newError(CodeInvalidRequest, "disk %d has a size of %d bytes; it must be between 1 and %d",
				d.Index, d.SizeBytes, int64(maxDiskSize))
		}
		seen[d.Index] = true
	}
	return nil
}

// Progress is how far an operation is. Within a run its fields never go
// backwards, whichever side restarts.
type Progress struct {
	// BytesTotal is the size of all disks.
	BytesTotal int64 `json:"bytesTotal"`
	// BytesRead is how much of the disks the source has covered, holes included.
	BytesRead int64 `json:"bytesRead"`
	// BytesSent is what went over the wire: frame headers, hashes and payloads
	// as coded, retries included.
	BytesSent int64 `json:"bytesSent"`
	// BytesSentRaw is what BytesSent carried before compression. Zero runs
	// count nothing.
	BytesSentRaw int64 `json:"bytesSentRaw"`
	// BytesWritten is how many bytes the host has verified and made durable.
	BytesWritten int64 `json:"bytesWritten"`
	// Disks is the same per disk, in the order of the session's disks.
	Disks []DiskProgress `json:"disks,omitempty"`
}

// DiskProgress is how far one disk is.
type DiskProgress struct {
	Index        int   `json:"index"`
	BytesTotal   int64 `json:"bytesTotal"`
	BytesRead    int64 `json:"bytesRead"`
	BytesWritten int64 `json:"bytesWritten"`
}

// Params are the settings of a session. The zero value is unlimited,
// uncompressed and unchecked; [DefaultParams] is the contract's default.
type Params struct {
	// BandwidthLimitKbps limits the bytes on the wire, in kbit/s (1000 bits)
	// over all streams of the session; 0 is unlimited (CONTRACT: bandwidth_limit).
	BandwidthLimitKbps int64 `json:"bandwidthLimitKbps"`
	// CompressLevel is 0 (none) to 9 (CONTRACT: compress_level). 1 is S2, or the
	// fastest zstd when the bandwidth is limited; 2 to 9 are zstd.
	CompressLevel int `json:"compressLevel"`
	// Checksum has the synced state read back and compared with its map before
	// it becomes an image (CONTRACT: checksum).
	Checksum bool `json:"checksum"`
}

// DefaultParams returns unlimited bandwidth, compress level 1, checksum on.
func DefaultParams() Params { return Params{CompressLevel: 1, Checksum: true} }

func (p Params) check() error {
	if p.BandwidthLimitKbps < 0 {
		return newError(CodeInvalidRequest, "bandwidth limit %d kbit/s is negative", p.BandwidthLimitKbps)
	}
	if p.CompressLevel < 0 || p.CompressLevel > 9 {
		return newError(CodeInvalidRequest, "compress level %d is not between 0 and 9", p.CompressLevel)
	}
	return nil
}
