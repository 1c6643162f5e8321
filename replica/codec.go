package replica

import (
	"errors"
	"fmt"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// encoder codes payloads by the session's settings. It is safe for concurrent use.
type encoder struct {
	codec codec
	zstd  *zstd.Encoder
}

// newEncoder returns the coder of those settings for that many callers at once.
func newEncoder(p Params, concurrency int) (*encoder, error) {
	level := zstd.SpeedFastest
	switch {
	case p.CompressLevel == 0:
		return &encoder{codec: codecRaw}, nil
	case p.CompressLevel == 1 && p.BandwidthLimitKbps == 0:
		return &encoder{codec: codecS2}, nil
	case p.CompressLevel >= 9:
		level = zstd.SpeedBestCompression
	case p.CompressLevel >= 2:
		level = zstd.EncoderLevelFromZstd(p.CompressLevel)
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(concurrency),
		zstd.WithWindowSize(MaxFrameRaw), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("make a zstd encoder of level %d: %w", p.CompressLevel, err)
	}
	return &encoder{codec: codecZstd, zstd: enc}, nil
}

// encode codes raw, in *tmp where it needs room. What does not shrink by a
// thirty-second goes as it is: the receiver is spared the work.
func (e *encoder) encode(tmp *[]byte, raw []byte) (codec, []byte) {
	var coded []byte
	switch e.codec {
	case codecS2:
		*tmp = grow(*tmp, s2.MaxEncodedLen(len(raw)))
		coded = s2.Encode(*tmp, raw)
	case codecZstd:
		coded = e.zstd.EncodeAll(raw, (*tmp)[:0])
		*tmp = coded
	default:
		return codecRaw, raw
	}
	if len(coded) > len(raw)-len(raw)/32 {
		return codecRaw, raw
	}
	return e.codec, coded
}

// decoder decodes payloads. It is safe for concurrent use.
type decoder struct{ zstd *zstd.Decoder }

func newDecoder() (*decoder, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(MaxFrameRaw),
		zstd.WithDecoderMaxWindow(MaxFrameRaw), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, fmt.Errorf("make a zstd decoder: %w", err)
	}
	return &decoder{zstd: dec}, nil
}

var errLength = errors.New("it does not have the length its header says")

// decode fills dst exactly from coded.
func (d *decoder) decode(dst, coded []byte, c codec) error {
	var out []byte
	var err error
	switch c {
	case codecS2:
		n, lenErr := s2.DecodedLen(coded)
		if lenErr != nil {
			return lenErr
		}
		if n != len(dst) {
			return errLength
		}
		out, err = s2.Decode(dst, coded)
	case codecZstd:
		out, err = d.zstd.DecodeAll(coded, dst[:0:len(dst)])
	default:
		return fmt.Errorf("codec %d has no decoder", c)
	}
	if err != nil {
		return err
	}
	if len(out) != len(dst) {
		return errLength
	}
	if len(out) > 0 && &out[0] != &dst[0] {
		copy(dst, out)
	}
	return nil
}
