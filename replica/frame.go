package replica

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
)

// The wire unit. A frame is a header of frameHeaderSize bytes, little endian:
//
//	 0  magic "DrF1"
//	 4  codec u8, flags u8 (0), reserved u16 (0)
//	 8  offset on the disk u64
//	16  raw length u64
//	24  coded length u32
//	28  CRC-32C of the 28 bytes before
//
// A data frame goes on with one hash per grain and the coded payload. A zero
// run has neither: its raw length says how much of the disk is zero. An end
// frame closes a download, so that a truncated one is not mistaken for whole.
const (
	frameHeaderSize = 32
	frameMagic      = 0x31467244 // "DrF1" read as little endian
)

type codec uint8

const (
	codecRaw codec = iota
	codecS2
	codecZstd
	codecZero
	codecEnd
)

// maxCoded bounds the payload of a frame: a coder that makes a frame larger
// is not used for it.
const maxCoded = MaxFrameRaw

// maxBody bounds the body of one request: a window of data frames of one
// grain each, and room for zero runs.
const (
	maxFrames = 4096
	maxBody   = WindowSize + maxFrames*frameHeaderSize + (WindowSize/GrainSize+1)*HashSize
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// frameHeader is the fixed part of a frame.
type frameHeader struct {
	codec  codec
	offset int64
	raw    int64
	coded  int
}

func (f frameHeader) end() int64 { return f.offset + f.raw }

func (f frameHeader) grains() int {
	if f.codec > codecZstd {
		return 0
	}
	return int(grains(f.raw))
}

// append adds the encoded header to b.
func (f frameHeader) append(b []byte) []byte {
	start := len(b)
	b = binary.LittleEndian.AppendUint32(b, frameMagic)
	b = append(b, byte(f.codec), 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, uint64(f.offset))
	b = binary.LittleEndian.AppendUint64(b, uint64(f.raw))
	b = binary.LittleEndian.AppendUint32(b, uint32(f.coded))
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

// parseFrameHeader decodes and checks a header against the size of the disk.
// After it, every length is within its bound.
func parseFrameHeader(b *[frameHeaderSize]byte, diskSize int64) (frameHeader, error) {
	var f frameHeader
	if binary.LittleEndian.Uint32(b[28:]) != crc32.Checksum(b[:28], castagnoli) {
		return f, newError(CodeInvalidFrame, "a frame header has a wrong checksum")
	}
	if binary.LittleEndian.Uint32(b[:]) != frameMagic || b[5]|b[6]|b[7] != 0 {
		return f, newError(CodeInvalidFrame, "a frame header is of a version this host does not know")
	}
	offset, raw, coded := binary.LittleEndian.Uint64(b[8:]), binary.LittleEndian.Uint64(b[16:]), binary.LittleEndian.Uint32(b[24:])
	if offset > uint64(diskSize) || raw > uint64(diskSize)-offset {
		return f, newError(CodeInvalidFrame, "a frame at %d of %d bytes leaves the disk of %d bytes", offset, raw, diskSize)
	}
	f = frameHeader{codec: codec(b[4]), offset: int64(offset), raw: int64(raw), coded: int(coded)}
	if f.codec == codecEnd {
		if f.raw != 0 || f.coded != 0 || f.offset != diskSize {
			return f, newError(CodeInvalidFrame, "an end frame at %d is not at the end of the disk", offset)
		}
		return f, nil
	}
	switch {
	case f.codec > codecEnd:
		return f, newError(CodeInvalidFrame, "a frame has the unknown codec %d", f.codec)
	case f.offset%GrainSize != 0:
		return f, newError(CodeInvalidFrame, "a frame at %d does not start on a grain of %d bytes", offset, GrainSize)
	case f.raw == 0 || f.raw%GrainSize != 0 && f.end() != diskSize:
		return f, newError(CodeInvalidFrame, "a frame at %d has %d bytes, not whole grains", offset, raw)
	case f.codec == codecZero && f.coded != 0:
		return f, newError(CodeInvalidFrame, "a zero run at %d has a payload", offset)
	case f.codec == codecZero:
	case f.raw > MaxFrameRaw:
		return f, newError(CodeInvalidFrame, "a frame at %d has %d bytes; the limit is %d", offset, raw, MaxFrameRaw)
	case f.codec == codecRaw && int64(f.coded) != f.raw, f.coded == 0, f.coded > maxCoded:
		return f, newError(CodeInvalidFrame, "a frame at %d has a payload of %d bytes for %d", offset, coded, raw)
	}
	return f, nil
}

// frame is a decoded data frame or zero run.
type frame struct {
	frameHeader
	hashes []Hash // one per grain; nil for a zero run
	data   []byte // raw bytes; nil for a zero run
}

// frameReader decodes and verifies frames. Nothing it returns has a grain
// that does not have its hash.
type frameReader struct {
	r        io.Reader
	diskSize int64
	dec      *decoder
	header   [frameHeaderSize]byte
	coded    []byte
	hashes   []byte
	read     int64
}

func newFrameReader(r io.Reader, diskSize int64, dec *decoder) *frameReader {
	return &frameReader{r: r, diskSize: diskSize, dec: dec}
}

// next reads one frame; buf lends space for its raw bytes and must hold
// MaxFrameRaw or what the caller still allows. It returns io.EOF at a clean
// end, and an error of code InvalidFrame or GrainHashMismatch for a body
// that is not what it should be. errRoom means that the raw bytes do not fit buf.
func (fr *frameReader) next(buf []byte) (frame, error) {
	n, err := io.ReadFull(fr.r, fr.header[:])
	fr.read += int64(n)
	if err != nil {
		if errors.Is(err, io.EOF) && n == 0 {
			return frame{}, io.EOF
		}
		return frame{}, truncated(err)
	}
	head, err := parseFrameHeader(&fr.header, fr.diskSize)
	if err != nil {
		return frame{}, err
	}
	f := frame{frameHeader: head}
	if head.codec >= codecZero {
		return f, nil
	}
	if head.raw > int64(len(buf)) {
		return frame{}, errRoom
	}
	f.data = buf[:head.raw:head.raw]
	count := head.grains()
	fr.hashes = grow(fr.hashes, count*HashSize)
	if err := fr.readFull(fr.hashes); err != nil {
		return frame{}, err
	}
	if head.codec == codecRaw {
		if err := fr.readFull(f.data); err != nil {
			return frame{}, err
		}
	} else {
		fr.coded = grow(fr.coded, head.coded)
		if err := fr.readFull(fr.coded); err != nil {
			return frame{}, err
		}
		if err := fr.dec.decode(f.data, fr.coded, head.codec); err != nil {
			return frame{}, newError(CodeInvalidFrame, "the payload of the frame at %d does not decode: %w", head.offset, err)
		}
	}
	f.hashes = make([]Hash, count)
	for i := range f.hashes {
		copy(f.hashes[i][:], fr.hashes[i*HashSize:])
		from := i * GrainSize
		grain := f.data[from:min(from+GrainSize, len(f.data))]
		if GrainHash(grain) != f.hashes[i] {
			return frame{}, newError(CodeGrainHashMismatch, "the grain at %d does not have the hash it was sent with; send it again",
				head.offset+int64(from))
		}
	}
	return f, nil
}

var errRoom = errors.New("frame exceeds the room left")

func (fr *frameReader) readFull(b []byte) error {
	n, err := io.ReadFull(fr.r, b)
	fr.read += int64(n)
	if err != nil {
		return truncated(err)
	}
	return nil
}

// truncated tells a body that ends early from a connection that failed.
func truncated(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return newError(CodeInvalidFrame, "the body ends inside a frame: %w", io.ErrUnexpectedEOF)
	}
	return err
}

func grow(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}

// frameEncoder appends frames to a buffer.
type frameEncoder struct {
	enc *encoder
	tmp []byte
}

// data appends the frame of raw, which starts at offset and has those hashes.
func (e *frameEncoder) data(b []byte, offset int64, raw []byte, hashes []Hash) []byte {
	c, coded := e.enc.encode(&e.tmp, raw)
	b = frameHeader{codec: c, offset: offset, raw: int64(len(raw)), coded: len(coded)}.append(b)
	for i := range hashes {
		b = append(b, hashes[i][:]...)
	}
	return append(b, coded...)
}

func appendZeroRun(b []byte, offset, length int64) []byte {
	return frameHeader{codec: codecZero, offset: offset, raw: length}.append(b)
}

func appendEnd(b []byte, diskSize int64) []byte {
	return frameHeader{codec: codecEnd, offset: diskSize}.append(b)
}

// decodeBody decodes a whole body into window; it is what the fuzzer drives
// and the host runs.
func decodeBody(fr *frameReader, window []byte) ([]frame, error) {
	var frames []frame
	for {
		f, err := fr.next(window)
		switch {
		case errors.Is(err, io.EOF):
			return frames, nil
		case errors.Is(err, errRoom):
			return nil, newError(CodeInvalidRequest, "a window carries more than %d bytes of data", WindowSize)
		case err != nil:
			return nil, err
		case f.codec == codecEnd:
			return nil, newError(CodeInvalidFrame, "an end frame has no place in a window")
		case len(frames) == maxFrames:
			return nil, newError(CodeInvalidRequest, "a window has more than %d frames", maxFrames)
		}
		window = window[len(f.data):]
		frames = append(frames, f)
	}
}
