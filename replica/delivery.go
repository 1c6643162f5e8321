package replica

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"

	"github.com/klauspost/compress/s2"
	"github.com/zeebo/blake3"
)

// delivery is what the delivered disk changes of the synced state: regions
// that overlay it, later ones over earlier ones.
type delivery struct {
	Regions []deliveryRegion `json:"regions"`
}

type deliveryRegion struct {
	Offset int64  `json:"offset"`
	Data   []byte `json:"data"`
}

// planDelivery works out what a disk of that size needs: a GPT keeps its
// backup at the end of the disk. It notes in d what it finds and cannot do.
func planDelivery(raw io.ReaderAt, d *ManifestDisk) delivery {
	table, err := readPartitionTable(raw, d.SizeBytes)
	if err != nil {
		d.Notes = append(d.Notes, "the partition table is left as it is: "+err.Error())
		return delivery{}
	}
	d.PartitionTable = table.kind
	if table.gpt == nil || d.DeliveredSizeBytes == d.SizeBytes {
		return delivery{}
	}
	regions, err := table.gpt.relocate(raw, d.SizeBytes, d.DeliveredSizeBytes)
	if err != nil {
		d.Notes = append(d.Notes, "the partition table is left as it is: "+err.Error())
		return delivery{}
	}
	return delivery{Regions: regions}
}

// loadDelivery reads and checks the patch of a disk.
func loadDelivery(dir string, d ManifestDisk) (delivery, error) {
	var p delivery
	b, err := os.ReadFile(patchPath(dir, d.Index))
	if err != nil {
		return p, err
	}
	if blake3.Sum256(b) != d.PatchHash {
		return p, diskError(CodeSyncedStateCorrupt, d.Index, 0, "the patch of disk %d is damaged", d.Index)
	}
	err = json.Unmarshal(b, &p)
	return p, err
}

// artifact reads a disk of an image in either form.
type artifact struct {
	raw, hashes *os.File
	synced      int64 // size of the synced state
	size        int64 // size of the artifact
	regions     []deliveryRegion
	entries     *mapReader
}

func openArtifact(dir string, d ManifestDisk, kind string) (_ *artifact, err error) {
	a := &artifact{synced: d.SizeBytes, size: d.SizeBytes}
	switch kind {
	case ArtifactSynced:
	case ArtifactDelivered:
		patch, err := loadDelivery(dir, d)
		if err != nil {
			return nil, err
		}
		a.size, a.regions = d.DeliveredSizeBytes, patch.Regions
	default:
		return nil, newError(CodeInvalidRequest, "%q is no artifact; there are %q and %q", kind, ArtifactSynced, ArtifactDelivered)
	}
	if a.raw, err = os.Open(rawPath(dir, d.Index)); err != nil {
		return nil, err
	}
	if a.hashes, err = os.Open(mapPath(dir, d.Index)); err != nil {
		a.raw.Close()
		return nil, err
	}
	a.entries = newMapReader(a.hashes, grains(d.SizeBytes)*HashSize)
	return a, nil
}

// Close closes the files.
func (a *artifact) Close() error { return errors.Join(a.raw.Close(), a.hashes.Close()) }

// ReadAt reads the artifact: the synced bytes, zeros behind them, the patch on top.
func (a *artifact) ReadAt(p []byte, off int64) (int, error) {
	n := int(min(int64(len(p)), max(a.size-off, 0)))
	have := int(min(int64(n), max(a.synced-off, 0)))
	if _, err := a.raw.ReadAt(p[:have], off); err != nil {
		return 0, err
	}
	clear(p[have:n])
	for _, r := range a.regions {
		from, to := max(r.Offset, off), min(r.Offset+int64(len(r.Data)), off+int64(n))
		if from < to {
			copy(p[from-off:to-off], r.Data[from-r.Offset:to-r.Offset])
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// hash returns the entry of a grain: that of the map where the artifact is the
// synced state, else what it comes to.
func (a *artifact) hash(g int64, buf []byte) (Hash, error) {
	start, end := g*GrainSize, min((g+1)*GrainSize, a.size)
	same := end <= a.synced
	for _, r := range a.regions {
		same = same && (r.Offset >= end || r.Offset+int64(len(r.Data)) <= start)
	}
	if same {
		return a.entries.at(g)
	}
	if start >= a.synced && !a.patched(start, end) {
		return ZeroHash, nil
	}
	b := buf[:end-start]
	if _, err := a.ReadAt(b, start); err != nil {
		return Hash{}, err
	}
	return GrainHash(b), nil
}

func (a *artifact) patched(start, end int64) bool {
	for _, r := range a.regions {
		if r.Offset < end && r.Offset+int64(len(r.Data)) > start {
			return true
		}
	}
	return false
}

// hashesFrom reads the map of the artifact: the hashes of the grains from one up to another.
func (a *artifact) hashesFrom(ctx context.Context, from, to int64) io.Reader {
	buf := make([]byte, GrainSize)
	return &hashReader{next: func() (Hash, error) {
		if from == to {
			return Hash{}, io.EOF
		}
		if from%4096 == 0 && ctx.Err() != nil {
			return Hash{}, ctx.Err()
		}
		from++
		return a.hash(from-1, buf)
	}}
}

// artifactReader turns grains of an artifact into a stream of frames that skips what is
// zero and closes with an end frame.
type artifactReader struct {
	src    *artifact
	ctx    context.Context
	wanted []span // of grains, what is left of them
	ended  bool

	out   []byte // encoded, not read yet
	frame []byte
	data  []byte
	grain [GrainSize]byte
	enc   frameEncoder
}

func (r *artifactReader) Read(p []byte) (int, error) {
	for len(r.out) == 0 {
		if r.ended {
			return 0, io.EOF
		}
		if err := r.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.out)
	r.out = r.out[n:]
	return n, nil
}

// fill encodes the next frame.
func (r *artifactReader) fill() error {
	if r.enc.enc == nil {
		r.enc = frameEncoder{enc: &encoder{codec: codecS2}, tmp: make([]byte, s2.MaxEncodedLen(MaxFrameRaw))}
	}
	start, hashes, err := r.run()
	if err != nil {
		return err
	}
	if len(hashes) == 0 {
		r.ended = true
		r.out = appendEnd(r.frame[:0], r.src.size)
		return nil
	}
	off := start * GrainSize
	r.data = grow(r.data, int(min(int64(len(hashes))*GrainSize, r.src.size-off)))
	if _, err := r.src.ReadAt(r.data, off); err != nil {
		return err
	}
	r.frame = r.enc.data(r.frame[:0], off, r.data, hashes)
	r.out = r.frame
	return nil
}

// run takes the next run of grains that are not zero, no more than a frame holds, off what is wanted. It is empty at the end.
func (r *artifactReader) run() (start int64, hashes []Hash, err error) {
	for len(r.wanted) > 0 {
		w := &r.wanted[0]
		for ; w.from < w.to && len(hashes) < MaxFrameRaw/GrainSize; w.from++ {
			if w.from%4096 == 0 && r.ctx.Err() != nil {
				return 0, nil, r.ctx.Err()
			}
			h, err := r.src.hash(w.from, r.grain[:])
			if err != nil {
				return 0, nil, err
			}
			if h == ZeroHash {
				if len(hashes) > 0 {
					return start, hashes, nil
				}
				continue
			}
			if len(hashes) == 0 {
				start = w.from
			}
			hashes = append(hashes, h)
		}
		if w.from == w.to {
			r.wanted = r.wanted[1:]
		}
		if len(hashes) > 0 {
			break
		}
	}
	return start, hashes, nil
}
