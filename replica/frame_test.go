package replica

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

const fuzzDiskSize = 3<<20 + 100

// encodeAll codes raw as frames from offset on, with those settings.
func encodeAll(tb testing.TB, p Params, offset int64, raw []byte) []byte {
	tb.Helper()
	enc, err := newEncoder(p, 1)
	require.NoError(tb, err)
	e := frameEncoder{enc: enc}
	var out []byte
	for len(raw) > 0 {
		part := raw[:min(MaxFrameRaw, len(raw))]
		var hashes []Hash
		for i := 0; i < len(part); i += GrainSize {
			hashes = append(hashes, GrainHash(part[i:min(i+GrainSize, len(part))]))
		}
		out = e.data(out, offset, part, hashes)
		offset, raw = offset+int64(len(part)), raw[len(part):]
	}
	return out
}

func decodeTestBody(tb testing.TB, body []byte, size int64) ([]frame, error) {
	tb.Helper()
	dec, err := newDecoder()
	require.NoError(tb, err)
	return decodeBody(newFrameReader(bytes.NewReader(body), size, dec), make([]byte, WindowSize))
}

func TestFramesRoundTrip(t *testing.T) {
	raw := bytes.Repeat([]byte("some text that shrinks; "), fuzzDiskSize/24+1)[:fuzzDiskSize]
	randomize(rand.New(rand.NewPCG(1, 1)), raw[:1<<20])
	for level := range 10 {
		body := encodeAll(t, Params{CompressLevel: level}, 0, raw)
		body = appendZeroRun(body, GrainSize, fuzzDiskSize-GrainSize)
		frames, err := decodeTestBody(t, body, fuzzDiskSize)
		require.NoError(t, err)
		var got []byte
		for _, f := range frames[:len(frames)-1] {
			require.Equal(t, int64(len(got)), f.offset)
			got = append(got, f.data...)
		}
		require.Equal(t, raw, got)
		require.Equal(t, codecRaw, frames[0].codec, "what does not shrink goes as it is")
		require.Equal(t, codecZero, frames[len(frames)-1].codec)
		if level > 0 {
			require.Less(t, len(body), 2<<20)
		}
	}
}

// TestEveryFlippedBitIsNoticed flips bits all over a body.
func TestEveryFlippedBitIsNoticed(t *testing.T) {
	raw := bytes.Repeat([]byte("drover "), GrainSize)[:2*GrainSize]
	for _, p := range []Params{{CompressLevel: 0}, {CompressLevel: 1}, {CompressLevel: 3}} {
		body := encodeAll(t, p, GrainSize, raw)
		for i := 0; i < len(body); i += 1 + i/64 {
			broken := bytes.Clone(body)
			broken[i] ^= 1 << (i % 8)
			frames, err := decodeTestBody(t, broken, fuzzDiskSize)
			if err == nil {
				// A payload may have bits that mean nothing, but never another content.
				require.Len(t, frames, 1)
				require.Equal(t, raw, frames[0].data)
				continue
			}
			var coded *Error
			require.ErrorAs(t, err, &coded)
			require.Contains(t, []string{CodeInvalidFrame, CodeGrainHashMismatch}, coded.Code)
		}
	}
}

func TestTruncatedBodiesAreRefused(t *testing.T) {
	raw := bytes.Repeat([]byte("drover "), GrainSize)[:GrainSize+5]
	body := encodeAll(t, Params{CompressLevel: 1}, fuzzDiskSize/GrainSize*GrainSize-GrainSize, raw[:GrainSize])
	for n := 1; n < len(body); n++ {
		_, err := decodeTestBody(t, body[:n], fuzzDiskSize)
		requireCode(t, err, CodeInvalidFrame)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	}
}

func TestHeadersOutOfBoundsAreRefused(t *testing.T) {
	for name, h := range map[string]frameHeader{
		"not on a grain":      {codec: codecRaw, offset: 512, raw: GrainSize, coded: GrainSize},
		"behind the end":      {codec: codecZero, offset: 64 << 20, raw: GrainSize},
		"over the end":        {codec: codecZero, offset: 3 << 20, raw: 101},
		"negative offset":     {codec: codecZero, offset: -GrainSize, raw: GrainSize},
		"negative length":     {codec: codecZero, offset: 0, raw: -1},
		"empty":               {codec: codecRaw},
		"not whole grains":    {codec: codecRaw, raw: 100, coded: 100},
		"too large":           {codec: codecRaw, raw: 2 << 20, coded: 2 << 20},
		"payload too large":   {codec: codecS2, raw: GrainSize, coded: 1 << 30},
		"payload missing":     {codec: codecS2, raw: GrainSize},
		"raw of other size":   {codec: codecRaw, raw: GrainSize, coded: 5},
		"zero with payload":   {codec: codecZero, raw: GrainSize, coded: 5},
		"unknown codec":       {codec: 9, raw: GrainSize, coded: 5},
		"end in the middle":   {codec: codecEnd, offset: GrainSize},
		"end inside a window": {codec: codecEnd, offset: fuzzDiskSize},
	} {
		_, err := decodeTestBody(t, h.append(nil), fuzzDiskSize)
		requireCode(t, err, CodeInvalidFrame)
		require.Error(t, err, name)
	}
}

func TestWindowsAreBounded(t *testing.T) {
	raw := make([]byte, WindowSize+GrainSize)
	raw[0], raw[len(raw)-1] = 1, 1
	_, err := decodeTestBody(t, encodeAll(t, Params{CompressLevel: 1}, 0, raw), int64(len(raw)))
	requireCode(t, err, CodeInvalidRequest)
	var body []byte
	for range maxFrames + 1 {
		body = appendZeroRun(body, 0, GrainSize)
	}
	_, err = decodeTestBody(t, body, GrainSize)
	requireCode(t, err, CodeInvalidRequest)
}

func FuzzDecodeBody(f *testing.F) {
	raw := bytes.Repeat([]byte("seed "), GrainSize)[:2*GrainSize]
	for level := range 3 {
		f.Add(encodeAll(f, Params{CompressLevel: level}, 0, raw))
	}
	f.Add(encodeAll(f, Params{}, 3<<20, raw[:100]))
	f.Add(appendZeroRun(nil, 0, fuzzDiskSize))
	f.Add(appendEnd(nil, fuzzDiskSize))
	f.Add(frameHeader{codec: codecZstd, raw: GrainSize, coded: 4}.append(nil))
	dec, err := newDecoder()
	require.NoError(f, err)
	window := make([]byte, WindowSize)
	f.Fuzz(func(t *testing.T, body []byte) {
		// Give mutated headers a right checksum: the fuzzer cannot guess it.
		if len(body) >= frameHeaderSize {
			body = bytes.Clone(body)
			binary.LittleEndian.PutUint32(body, frameMagic)
			binary.LittleEndian.PutUint32(body[28:], crc32.Checksum(body[:28], castagnoli))
		}
		frames, err := decodeBody(newFrameReader(bytes.NewReader(body), fuzzDiskSize, dec), window)
		if err != nil {
			if frames != nil {
				t.Fatal("frames and an error")
			}
			return
		}
		for _, fr := range frames {
			if fr.offset%GrainSize != 0 || fr.offset < 0 || fr.raw <= 0 || fr.end() > fuzzDiskSize {
				t.Fatalf("frame out of bounds: %+v", fr.frameHeader)
			}
			if fr.codec == codecZero {
				continue
			}
			if int64(len(fr.data)) != fr.raw || len(fr.hashes) != fr.grains() {
				t.Fatalf("frame of wrong shape: %+v", fr.frameHeader)
			}
			for i, h := range fr.hashes {
				if GrainHash(fr.data[i*GrainSize:min((i+1)*GrainSize, len(fr.data))]) != h {
					t.Fatal("a grain that was not verified")
				}
			}
		}
	})
}
