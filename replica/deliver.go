package replica

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/zeebo/blake3"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
)

// DeliverConfig is what [Deliver] needs.
type DeliverConfig struct {
	// HostURL is the transition host's base URL, without the protocol's prefix.
	HostURL string
	// Token is a [TokenImage] token for ImageID.
	Token string
	// ImageID names the image on that host.
	ImageID string
	// Disks are what the image's disks are written to.
	Disks []DeliverDisk
	// BandwidthLimitKbps limits the bytes on the wire, in kbit/s (1000 bits), over all disks; 0 is unlimited.
	BandwidthLimitKbps int64
	// Client defaults to one made for the protocol: see [NewClient].
	Client *http.Client
	// Logger defaults to none.
	Logger *zap.Logger
}

// DeliverDisk is a disk of an image and what it is written to.
type DeliverDisk struct {
	Index  int
	Target *Target
}

// DeliverProgress is how far a delivery is. Its fields never go backwards.
type DeliverProgress struct {
	// BytesTotal is the size of all disks.
	BytesTotal int64
	// BytesDone is what of them was read from the disk and is what the image has.
	BytesDone int64
	// BytesFetched is what differed and came over the network, before compression; what is zero does not come.
	BytesFetched int64
	// BytesReceived is what came over the network, as it was coded, with the hashes.
	BytesReceived int64
}

// segmentGrains is how many grains are compared, fetched, synced and read back at a time.
const segmentGrains = 64 << 20 / GrainSize

// Deliver makes disks hold the delivered artifact of an image, and returns the hash over the hashes of each, in the order of
// cfg.Disks. It asks the host for the hashes of the grains, reads the disks, fetches what differs, writes it (zeros where the image has
// zeros), syncs it and reads it back past the page cache: when it returns, every byte of the disks was read from them and has the
// image's hash. A delivery that was cut off, in whatever way, is gone on with by another one: what is there is not fetched again.
//
// It waits for a host or a network that is away until ctx is done. It gives up with [ErrRefused] when the ticket is not accepted, with
// [ErrImageNotFound], with an error of code TargetInstance.DiskFailed when a disk does not do, and with other errors of the host when
// six attempts came to nothing. onProgress, which may be nil, is called about once a second.
//
// Memory: about 6 MiB for each of up to four segments at work.
func Deliver(ctx context.Context, cfg DeliverConfig, onProgress func(DeliverProgress)) ([]Hash, error) {
	if err := checkID("image id", cfg.ImageID); err != nil {
		return nil, err
	}
	dec, err := newDecoder()
	if err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if onProgress == nil {
		onProgress = func(DeliverProgress) {}
	}
	d := &deliverer{cfg: cfg, api: newImageClient(cfg.Client, cfg.HostURL, cfg.Token), dec: dec, log: cfg.Logger}
	d.limiter, d.workers, d.window = limit(cfg.BandwidthLimitKbps, hashWorkers())
	if d.limiter == nil {
		d.window = segmentGrains * GrainSize
	}
	for _, disk := range cfg.Disks {
		d.total += disk.Target.Size()
	}

	told := make(chan struct{})
	tellCtx, stop := context.WithCancel(ctx)
	go func() {
		defer close(told)
		tick := time.NewTicker(reportEvery)
		defer tick.Stop()
		for {
			select {
			case <-tellCtx.Done():
				return
			case <-tick.C:
				onProgress(d.progress())
			}
		}
	}()
	var roots []Hash
	for _, disk := range cfg.Disks {
		root, failure := d.disk(ctx, disk)
		if err = failure; err != nil {
			break
		}
		roots = append(roots, root)
	}
	stop()
	<-told
	onProgress(d.progress())
	if err != nil {
		return nil, err
	}
	return roots, nil
}

type deliverer struct {
	cfg     DeliverConfig
	api     apiClient
	dec     *decoder
	log     *zap.Logger
	limiter *rate.Limiter
	workers int
	window  int // raw bytes of one answer
	total   int64

	done, fetched, received atomic.Int64
}

func (d *deliverer) progress() DeliverProgress {
	return DeliverProgress{BytesTotal: d.total, BytesDone: d.done.Load(), BytesFetched: d.fetched.Load(), BytesReceived: d.received.Load()}
}

func diskFailed(disk DeliverDisk, offset int64, format string, args ...any) *Error {
	return diskError(CodeTargetDiskFailed, disk.Index, offset, "disk %d (%s) %w", disk.Index, disk.Target.Path(), fmt.Errorf(format, args...))
}

// disk delivers one disk, several segments at a time.
func (d *deliverer) disk(ctx context.Context, disk DeliverDisk) (root Hash, err error) {
	group, ctx := errgroup.WithContext(ctx)
	segments := make(chan *segment)
	// Roots are made of hashes in order. What this holds bounds how far the others run ahead of the slowest.
	order := make(chan *segment, 4*d.workers)
	group.Go(func() error {
		defer close(segments)
		defer close(order)
		total := grains(disk.Target.Size())
		for from := int64(0); from < total; from += segmentGrains {
			s := &segment{DeliverDisk: disk, span: span{from, min(from+segmentGrains, total)}, ready: make(chan struct{})}
			for _, to := range []chan *segment{order, segments} {
				select {
				case to <- s:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}
		return nil
	})
	for range d.workers {
		group.Go(func() error {
			w := &deliverWorker{deliverer: d, buf: alignedBuffer(chunkSize), frame: alignedBuffer(MaxFrameRaw)}
			for s := range segments {
				if err := w.segment(ctx, s); err != nil {
					return err
				}
				close(s.ready)
			}
			return nil
		})
	}
	group.Go(func() error {
		hasher := blake3.New()
		for s := range order {
			select {
			case <-s.ready:
			case <-ctx.Done():
				return ctx.Err()
			}
			if _, err := io.Copy(hasher, hashesOf(s.hashes)); err != nil {
				return err
			}
		}
		root = Hash(hasher.Sum(nil))
		return ctx.Err()
	})
	if err := group.Wait(); err != nil {
		return Hash{}, err
	}
	if err := disk.Target.buffered.Sync(); err != nil {
		return Hash{}, diskFailed(disk, NoOffset, "cannot be synced: %w", err)
	}
	disk.Target.reread()
	return root, nil
}

// segment is a stretch of a disk on its way.
type segment struct {
	DeliverDisk
	span                  // of grains
	ready   chan struct{} // closed when the disk has it
	hashes  []Hash        // that the image has; nil: not known yet
	missing []bool        // grains that are not written yet; nil: not compared yet
	written []bool        // grains to be read back
}

// deliverWorker has the memory for one segment at a time.
type deliverWorker struct {
	*deliverer
	buf, frame []byte
}

// segment brings a segment to the disk. It goes on where an attempt ended that a host or a network failed.
func (w *deliverWorker) segment(ctx context.Context, s *segment) error {
	tries := tries{patient: true}
	for interrupted := false; ; interrupted = true {
		progress, err := w.fetch(ctx, s)
		if err == nil {
			return w.settle(ctx, s)
		}
		var coded *Error
		if ctx.Err() != nil || errors.As(err, &coded) && coded.Code == CodeTargetDiskFailed {
			return errors.Join(ctx.Err(), err)
		}
		if progress {
			tries.progress()
		}
		if !interrupted || progress {
			w.log.Info("the transition host does not give what it should, asking it again",
				zap.Int("disk", s.Index), zap.Int64("offset", s.from*GrainSize), zap.Error(err))
		}
		if err := tries.again(ctx, err); err != nil {
			return fmt.Errorf("deliver disk %d of image %s: %w", s.Index, w.cfg.ImageID, err)
		}
	}
}

// path is that of the disk at the host, or of something below it.
func (w *deliverWorker) path(s *segment, below, query string) string {
	return fmt.Sprintf("/images/%s/disks/%d/%s?artifact=%s%s", w.cfg.ImageID, s.Index, below, url.QueryEscape(ArtifactDelivered), query)
}

// fetch finds out what of a segment differs, and writes that. progress says that it got further, also when it failed then.
func (w *deliverWorker) fetch(ctx context.Context, s *segment) (progress bool, err error) {
	if s.hashes == nil {
		if err := w.fetchHashes(ctx, s); err != nil {
			return false, err
		}
		progress = true
	}
	if s.missing == nil {
		if err := w.compare(ctx, s); err != nil {
			return progress, err
		}
	}
	for {
		wanted := s.wanted(w.window)
		if len(wanted) == 0 {
			return progress, nil
		}
		before := w.fetched.Load()
		err := w.fetchGrains(ctx, s, wanted)
		progress = progress || w.fetched.Load() > before
		if err != nil {
			return progress, err
		}
	}
}

func (w *deliverWorker) fetchHashes(ctx context.Context, s *segment) error {
	resp, err := w.api.stream(ctx, http.MethodGet, w.path(s, "hashes", fmt.Sprintf("&from=%d&to=%d", s.from, s.to)), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	size, err := artifactSize(resp)
	if err != nil {
		return err
	}
	if have := s.Target.Size(); size != have {
		return diskFailed(s.DeliverDisk, NoOffset,
			"has %d bytes, and the image has %d: it must be as large as it was when the image was made", have, size)
	}
	b := make([]byte, (s.to-s.from)*HashSize)
	if _, err := io.ReadFull(w.limited(ctx, resp.Body), b); err != nil {
		return cutOff(err)
	}
	hashes := make([]Hash, s.to-s.from)
	for i := range hashes {
		hashes[i] = Hash(b[i*HashSize:])
	}
	s.hashes = hashes
	return nil
}

// compare reads the segment from the disk. What cannot be read is written: that may mend it.
func (w *deliverWorker) compare(ctx context.Context, s *segment) error {
	size := s.Target.Size()
	missing := make([]bool, len(s.hashes))
	var same int64
	note := func(g int64, h Hash) {
		if missing[g-s.from] = h != s.hashes[g-s.from]; !missing[g-s.from] {
			same += grainLen(size, g)
		}
	}
	for g := s.from; g < s.to; {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		start, end, err := s.Target.NextData(g * GrainSize)
		if err != nil {
			return diskFailed(s.DeliverDisk, g*GrainSize, "cannot be read: %w", err)
		}
		for data := min(start/GrainSize, s.to); g < data || start >= size && g < s.to; g++ {
			note(g, ZeroHash)
		}
		to := min(grains(end), s.to, g+chunkSize/GrainSize)
		if g >= to {
			continue
		}
		b := w.buf[:min(to*GrainSize, size)-g*GrainSize]
		if err := s.Target.readBack(b, g*GrainSize); err != nil {
			w.log.Warn("a place of a disk cannot be read and is written anew", zap.Int("disk", s.Index), zap.String("path", s.Target.Path()),
				zap.Int64("offset", g*GrainSize), zap.Error(err))
			for ; g < to; g++ {
				note(g, unknownHash)
			}
			continue
		}
		for ; g < to; g++ {
			n := grainLen(size, g)
			note(g, GrainHash(b[:n]))
			b = b[n:]
		}
	}
	s.missing, s.written = missing, make([]bool, len(missing))
	w.done.Add(same)
	return w.zero(s)
}

// zero writes zeros where the image has them and the disk does not.
func (w *deliverWorker) zero(s *segment) error {
	for i := 0; i < len(s.missing); i++ {
		from := i
		for i < len(s.missing) && s.missing[i] && s.hashes[i] == ZeroHash {
			s.missing[i], s.written[i] = false, true
			i++
		}
		if from == i {
			continue
		}
		off := (s.from + int64(from)) * GrainSize
		end := min((s.from+int64(i))*GrainSize, s.Target.Size())
		if err := punch(s.Target.buffered, off, end-off); err != nil {
			return diskFailed(s.DeliverDisk, off, "cannot be written at byte %d: %w", off, err)
		}
	}
	return nil
}

// wanted returns the first runs of grains that are missing, of at most so many bytes.
func (s *segment) wanted(window int) (runs [][2]int64) {
	left := window / GrainSize
	for i := 0; i < len(s.missing) && left > 0; i++ {
		from := i
		for i < len(s.missing) && s.missing[i] && left > 0 {
			i, left = i+1, left-1
		}
		if from < i {
			runs = append(runs, [2]int64{s.from + int64(from), s.from + int64(i)})
		}
	}
	return runs
}

// fetchGrains writes grains that the host is asked for as they come.
func (w *deliverWorker) fetchGrains(ctx context.Context, s *segment, wanted [][2]int64) error {
	resp, err := w.api.stream(ctx, http.MethodPost, w.path(s, "grains", ""), grainsRequest{Grains: wanted})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	size := s.Target.Size()
	frames := newFrameReader(bufio.NewReaderSize(w.limited(ctx, resp.Body), 256<<10), size, w.dec)
	err = takeFrames(frames, w.frame, wanted[0][0]*GrainSize, func(f frame) error {
		first := f.offset/GrainSize - s.from
		for i, h := range f.hashes {
			if at := first + int64(i); at >= int64(len(s.hashes)) || !s.missing[at] || h != s.hashes[at] {
				return newError(CodeGrainHashMismatch, "the grain at %d is not the one that was asked for", f.offset+int64(i)*GrainSize)
			}
		}
		if f.codec == codecZero {
			return newError(CodeInvalidFrame, "a run of zeros at %d was not asked for", f.offset)
		}
		if _, err := s.Target.WriteAt(f.data, f.offset); err != nil {
			return diskFailed(s.DeliverDisk, f.offset, "cannot be written at byte %d: %w", f.offset, err)
		}
		for i := range f.hashes {
			s.missing[first+int64(i)], s.written[first+int64(i)] = false, true
		}
		w.fetched.Add(f.raw)
		return nil
	})
	if err != nil {
		return cutOff(err)
	}
	_, _ = resp.Body.Read(make([]byte, 1)) // the end of the answer, so that its connection is used again
	for _, run := range wanted {
		for g := run[0]; g < run[1]; g++ {
			if s.missing[g-s.from] {
				return newError(CodeInvalidFrame, "the grain at %d was asked for and did not come", g*GrainSize)
			}
		}
	}
	return nil
}

// cutOff is an answer that began and did not end. A host that cannot read the image cuts off every one, so that this is counted.
func cutOff(err error) error {
	if isCoded(err) {
		return err
	}
	return newError(CodeInvalidFrame, "the answer is cut off: %w", err)
}

// settle makes what was written durable, and reads it back.
func (w *deliverWorker) settle(ctx context.Context, s *segment) error {
	size := s.Target.Size()
	synced := false
	for i := 0; i < len(s.written); i++ {
		from := i
		for i < len(s.written) && s.written[i] && i-from < chunkSize/GrainSize {
			i++
		}
		if from == i {
			continue
		}
		if !synced {
			if err := fdatasync(s.Target.buffered); err != nil {
				return diskFailed(s.DeliverDisk, NoOffset, "cannot be synced: %w", err)
			}
			synced = true
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		off := (s.from + int64(from)) * GrainSize
		b := w.buf[:min((s.from+int64(i))*GrainSize, size)-off]
		if err := s.Target.readBack(b, off); err != nil {
			return diskFailed(s.DeliverDisk, off, "cannot be read back at byte %d: %w", off, err)
		}
		for at := from; at < i; at++ {
			n := grainLen(size, s.from+int64(at))
			if GrainHash(b[:n]) != s.hashes[at] {
				off := (s.from + int64(at)) * GrainSize
				return diskFailed(s.DeliverDisk, off, "does not keep what is written: at byte %d it reads back something else; replace the disk", off)
			}
			b = b[n:]
			w.done.Add(n)
		}
		i-- // a run that was cut goes on there
	}
	return nil
}

// limited counts what is read of an answer, and reads no faster than the limit.
func (w *deliverWorker) limited(ctx context.Context, body io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		if w.limiter != nil {
			p = p[:min(len(p), w.limiter.Burst())]
		}
		n, err := body.Read(p)
		w.received.Add(int64(n))
		if w.limiter != nil && n > 0 {
			if waitErr := w.limiter.WaitN(ctx, n); waitErr != nil {
				return n, waitErr
			}
		}
		return n, err
	})
}

// readerFunc is an io.Reader.
type readerFunc func([]byte) (int, error)

// Read implements io.Reader.
func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
