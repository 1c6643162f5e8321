package replica

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
)

// SourceDisk is a disk of the source server.
type SourceDisk struct {
	// Index is the disk's number; 0 is the system disk.
	Index int
	// Path is a file or a block device.
	Path string
}

// SyncConfig is what [Sync] needs.
type SyncConfig struct {
	// HostURL is the transition host's base URL, without the protocol's prefix.
	HostURL string
	// Token is a [TokenSession] token for JobID.
	Token string
	// JobID names the job; letters, digits, '-' and '_'.
	JobID string
	// Instance names this process (letters, digits, '-' and '_', at most 64);
	// two running senders must differ.
	Instance string
	// Disks are what this source serves; those the session names are sent.
	Disks []SourceDisk
	// Client defaults to one made for the protocol: see [NewClient].
	Client *http.Client
	// Logger defaults to none.
	Logger *zap.Logger
	// Streams is how many windows are in flight; default 4, at most 8.
	Streams int
	// Open opens a disk for reading; default [OpenDisk].
	Open func(SourceDisk) (DiskReader, error)
	// ReadPatience is how long a place of a disk that cannot be read is tried
	// again: a path to a disk that fails over takes seconds. Default
	// [DefaultReadPatience], below 0 none.
	ReadPatience time.Duration
}

// DefaultReadPatience is how long a place of a disk that cannot be read is
// tried again.
const DefaultReadPatience = 15 * time.Second

const (
	defaultStreams = 4
	// maxPasses bounds how often what differs is sent again at the end.
	maxPasses = 5
	// maxZeroRun bounds a zero run, so that progress is seen.
	maxZeroRun = 1 << 30
	// chunkSize is what is read at once.
	chunkSize = 4 << 20
	// reportEvery is how often the host hears how far the reading is.
	reportEvery = time.Second
)

// Sync copies the disks to the host and returns nil when the host has
// confirmed that it holds them.
//
// It retries what may pass (a network or host that is away, a session that is
// not open yet) until ctx is done, and attaches anew when the host restarted.
// It gives up with [ErrFenced] when another sender attached or the session was
// stopped, with [ErrRefused] when the token is not accepted, and with an
// [*Error] when a disk cannot be read (which it also reports to the host) or
// the host cannot store. onProgress, which may be nil, is called about once a
// second; BytesWritten is not known on this side and stays 0.
//
// Memory: about 11 MiB per stream at work, and 33 bytes per 64 KiB of disk.
func Sync(ctx context.Context, cfg SyncConfig, onProgress func(Progress)) error {
	s, err := newSender(cfg, onProgress)
	if err != nil {
		return err
	}
	defer s.closeDisks()
	var wait backoff
	for {
		err := s.attachAndSync(ctx, &wait)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case final(err):
			s.tellFailure(ctx, err)
			return err
		}
		s.log.Info("sync interrupted, attaching again", zap.Error(err))
		if err := wait.pause(ctx); err != nil {
			return err
		}
	}
}

type sender struct {
	cfg    SyncConfig
	api    apiClient
	id     string
	log    *zap.Logger
	report func(Progress)

	disks   []*sourceDisk
	params  Params
	enc     *encoder
	limiter *rate.Limiter
	streams int
	window  int // raw bytes of a window
	epoch   int64

	wire, raw atomic.Int64
}

// sourceDisk is a disk being read. seen holds the entry of each grain as last
// read, or as the host has it where read says it was not read yet.
type sourceDisk struct {
	Disk
	reader DiskReader
	seen   []Hash
	read   []bool
	// covered counts the grains read in bytes; it goes back when some must be
	// read again, which high does not.
	covered, high atomic.Int64
}

func newSender(cfg SyncConfig, onProgress func(Progress)) (*sender, error) {
	if err := errors.Join(checkID("job id", cfg.JobID), checkID("instance", cfg.Instance)); err != nil {
		return nil, err
	}
	if len(cfg.Instance) > 64 {
		return nil, newError(CodeInvalidRequest, "the instance %q is longer than 64 characters", cfg.Instance)
	}
	if cfg.Streams <= 0 {
		cfg.Streams = defaultStreams
	}
	cfg.Streams = min(cfg.Streams, maxStreams)
	if cfg.Client == nil {
		cfg.Client = NewClient(nil)
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if cfg.ReadPatience == 0 {
		cfg.ReadPatience = DefaultReadPatience
	}
	if cfg.Open == nil {
		cfg.Open = func(d SourceDisk) (DiskReader, error) { return OpenDisk(d.Path) }
	}
	if onProgress == nil {
		onProgress = func(Progress) {}
	}
	// The counts of what was sent begin with this call: so does the sender.
	var nonce [4]byte
	rand.Read(nonce[:]) // it never fails
	return &sender{
		cfg:    cfg,
		api:    apiClient{client: cfg.Client, base: strings.TrimRight(cfg.HostURL, "/") + apiPrefix, token: cfg.Token},
		id:     cfg.Instance + "-" + hex.EncodeToString(nonce[:]),
		log:    cfg.Logger.With(zap.String("job_id", cfg.JobID)),
		report: onProgress,
	}, nil
}

func (s *sender) closeDisks() {
	for _, d := range s.disks {
		d.reader.Close()
	}
}

func (s *sender) path(rest string) string { return "/sessions/" + s.cfg.JobID + rest }

// final says whether attaching again cannot help.
func final(err error) bool {
	var coded *Error
	if !errors.As(err, &coded) {
		return false
	}
	switch coded.Code {
	case CodeSessionNotOpen, CodeBusy, CodeInternal:
		return false
	}
	return true
}

// attachAndSync runs from one attachment to the end or to the next obstacle.
func (s *sender) attachAndSync(ctx context.Context, wait *backoff) error {
	var answer attachAnswer
	if err := s.api.post(ctx, s.path("/attach"), 0, attachRequest{Instance: s.id}, &answer); err != nil {
		return err
	}
	if answer.Complete {
		return nil
	}
	s.epoch = answer.Epoch
	if err := s.configure(answer); err != nil {
		return err
	}
	s.log.Info("attached", zap.Int("run", answer.Run), zap.Int64("epoch", answer.Epoch))
	for range maxPasses {
		for _, d := range s.disks {
			if err := s.compare(ctx, d); err != nil {
				return err
			}
		}
		wait.reset() // not before: who gets no further than this attaches again and again, and ever less often
		if err := s.pass(ctx); err != nil {
			return err
		}
		err := s.complete(ctx)
		var coded *Error
		if !errors.As(err, &coded) || coded.Code != CodeMapMismatch {
			return err
		}
		s.log.Warn("the host has another map; comparing again", zap.Error(err))
	}
	return newError(CodeSyncDiverged,
		"source and transition host still differ after %d passes; look at the disks of both, then start the job again", maxPasses)
}

// tellFailure tells the host why this source cannot go on, unless the host
// said so itself.
func (s *sender) tellFailure(ctx context.Context, cause error) {
	var coded *Error
	if s.epoch == 0 || !errors.As(cause, &coded) {
		return
	}
	switch coded.Code {
	case CodeFenced, CodeUnauthorized, CodeInsufficientStorage, CodeStorageError:
		return
	}
	if err := s.retry(ctx, func() error {
		return s.api.post(ctx, s.path("/fail"), s.epoch, coded, nil)
	}); err != nil {
		s.log.Warn("the failure could not be reported to the host", zap.Error(err))
	}
}

// configure opens the disks of the session and applies its settings.
func (s *sender) configure(answer attachAnswer) error {
	if s.enc == nil || s.params != answer.Params {
		enc, err := newEncoder(answer.Params, hashWorkers())
		if err != nil {
			return err
		}
		s.params, s.enc = answer.Params, enc
		s.limiter, s.streams, s.window = limit(answer.Params.BandwidthLimitKbps, s.cfg.Streams)
	}
	known := make(map[int]*sourceDisk, len(s.disks))
	for _, d := range s.disks {
		known[d.Index] = d
	}
	for _, want := range answer.Disks {
		d := known[want.Index]
		if d == nil {
			var err error
			if d, err = s.open(want); err != nil {
				return err
			}
			s.disks = append(s.disks, d)
		}
		if d.SizeBytes != want.SizeBytes {
			return diskError(CodeSourceSizeChanged, want.Index, 0,
				"disk %d has %d bytes, but the job was prepared for %d; start the job again once the source has reported its new size",
				want.Index, d.SizeBytes, want.SizeBytes)
		}
	}
	return nil
}

func (s *sender) open(want Disk) (*sourceDisk, error) {
	for _, disk := range s.cfg.Disks {
		if disk.Index != want.Index {
			continue
		}
		r, err := s.cfg.Open(disk)
		if err != nil {
			return nil, diskError(CodeSourceReadError, want.Index, NoOffset, "disk %d (%s) cannot be opened: %w", want.Index, disk.Path, err)
		}
		n := grains(r.Size())
		return &sourceDisk{
			Disk:   Disk{Index: want.Index, SizeBytes: r.Size()},
			reader: r,
			seen:   make([]Hash, n),
			read:   make([]bool, n),
		}, nil
	}
	return nil, diskError(CodeSourceDiskNotFound, want.Index, 0, "this source server does not serve disk %d", want.Index)
}

// limit returns the limiter of a bandwidth, and the streams and the window
// that go with it: a window is about two seconds' worth, so that a slow link
// loses as little time to a kill as a fast one.
func limit(kbps int64, streams int) (limiter *rate.Limiter, n, window int) {
	if kbps <= 0 {
		return nil, streams, WindowSize
	}
	perSecond := max(kbps*1000/8, 1)
	burst := min(max(perSecond/50, 512), 32<<10)
	worth := 2 * perSecond / GrainSize
	n = int(min(max(worth, 1), int64(streams)))
	window = int(min(max(worth/int64(n), 1), WindowSize/GrainSize)) * GrainSize
	return rate.NewLimiter(rate.Limit(perSecond), int(burst)), n, window
}

// compare takes in the host's map: what was read and is there stays read, the
// rest is to be read.
func (s *sender) compare(ctx context.Context, d *sourceDisk) error {
	answer, err := s.api.stream(ctx, http.MethodGet, s.path(fmt.Sprintf("/disks/%d/map", d.Index)), nil)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	var covered int64
	buf := make([]byte, 8192*HashSize)
	for g := 0; g < len(d.seen); {
		b := buf[:min(len(buf), (len(d.seen)-g)*HashSize)]
		if _, err := io.ReadFull(answer.Body, b); err != nil {
			return fmt.Errorf("read the host's map of disk %d: %w", d.Index, err)
		}
		for ; len(b) > 0; b, g = b[HashSize:], g+1 {
			h := Hash(b[:HashSize])
			if d.read[g] && d.seen[g] == h {
				covered += grainLen(d.SizeBytes, int64(g))
				continue
			}
			d.seen[g], d.read[g] = h, false
		}
	}
	d.cover(covered - d.covered.Load())
	return nil
}

// cover moves the count of bytes covered.
func (d *sourceDisk) cover(n int64) {
	now := d.covered.Add(n)
	for {
		high := d.high.Load()
		if now <= high || d.high.CompareAndSwap(high, now) {
			return
		}
	}
}

// hashWorkers is how many chunks are read, hashed and coded at once: one more than
// there are processors, so that reading goes on meanwhile.
func hashWorkers() int { return min(max(runtime.GOMAXPROCS(0)+1, 2), 4) }

// pass reads what was not read yet and sends what the host lacks.
func (s *sender) pass(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	p := &pass{sender: s, chunks: make(chan chunk), windows: make(chan *window)}
	group.Go(func() error {
		defer close(p.chunks)
		for _, d := range s.disks {
			if err := p.scan(ctx, d); err != nil {
				return err
			}
		}
		return nil
	})
	var workers sync.WaitGroup
	for range hashWorkers() {
		workers.Add(1)
		group.Go(func() error {
			defer workers.Done()
			return p.work(ctx)
		})
	}
	group.Go(func() error {
		defer close(p.windows)
		workers.Wait()
		return p.flush(ctx)
	})
	var streams sync.WaitGroup
	for range s.streams {
		streams.Add(1)
		group.Go(func() error {
			defer streams.Done()
			for w := range p.windows {
				again := false
				if err := s.retry(ctx, func() error {
					err := s.put(ctx, w, again)
					again = true
					return err
				}); err != nil {
					return err
				}
				w.body = w.body[:0]
				windowPool.Put(w)
			}
			return nil
		})
	}
	sent := make(chan struct{})
	go func() {
		streams.Wait()
		close(sent)
	}()
	group.Go(func() error { return s.tell(ctx, sent) })
	err := group.Wait()
	s.report(s.progress())
	return err
}

// tell reports to the host and the caller until done.
func (s *sender) tell(ctx context.Context, done <-chan struct{}) error {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		err := s.api.post(ctx, s.path("/progress"), s.epoch, reportRequest{Disks: s.reports()}, nil)
		if isCoded(err) && !transient(err) {
			return err
		}
		s.report(s.progress())
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (s *sender) reports() []diskReport {
	out := make([]diskReport, len(s.disks))
	for i, d := range s.disks {
		out[i] = diskReport{Index: d.Index, BytesRead: d.high.Load()}
	}
	return out
}

func (s *sender) progress() Progress {
	p := Progress{BytesSent: s.wire.Load(), BytesSentRaw: s.raw.Load()}
	for _, d := range s.disks {
		p.add(DiskProgress{Index: d.Index, BytesTotal: d.SizeBytes, BytesRead: d.high.Load()})
	}
	return p
}

// complete asks the host to confirm that both sides hold the same.
func (s *sender) complete(ctx context.Context) error {
	reports := s.reports()
	for i, d := range s.disks {
		root, err := mapRoot(hashesOf(d.seen))
		if err != nil {
			return err
		}
		reports[i].Root = root
	}
	return s.retry(ctx, func() error {
		return s.api.post(ctx, s.path("/complete"), s.epoch, reportRequest{Disks: reports}, nil)
	})
}

// hashReader reads the hashes that next returns, until that returns io.EOF, as the bytes of a map.
type hashReader struct {
	next func() (Hash, error)
	hash Hash
	rest []byte
}

// Read implements io.Reader.
func (r *hashReader) Read(p []byte) (n int, err error) {
	for n < len(p) {
		if len(r.rest) == 0 {
			if r.hash, err = r.next(); err != nil {
				return n, err
			}
			r.rest = r.hash[:]
		}
		c := copy(p[n:], r.rest)
		n, r.rest = n+c, r.rest[c:]
	}
	return n, nil
}

// hashesOf reads a map that is in memory.
func hashesOf(hashes []Hash) io.Reader {
	return &hashReader{next: func() (h Hash, err error) {
		if len(hashes) == 0 {
			return h, io.EOF
		}
		h, hashes = hashes[0], hashes[1:]
		return h, nil
	}}
}

// pass is one reading of the disks.
type pass struct {
	*sender
	chunks  chan chunk
	windows chan *window

	mu      sync.Mutex
	pending *window
}

// chunk is a stretch of grains to read at once.
type chunk struct {
	disk     *sourceDisk
	from, to int64
}

// window is the body of one request.
type window struct {
	disk   *sourceDisk
	body   []byte
	raw    int
	frames int
}

var windowPool = sync.Pool{New: func() any { return &window{} }}

// scan cuts what was not read of a disk into chunks and covers its holes.
func (p *pass) scan(ctx context.Context, d *sourceDisk) error {
	total := grains(d.SizeBytes)
	var dataFrom, dataTo int64 // the stretch of data at or after g, in grains
	for g := int64(0); g < total; {
		if d.read[g] {
			g++
			continue
		}
		if g >= dataTo {
			start, end, err := d.reader.NextData(g * GrainSize)
			if errors.Is(err, errDiskCut) {
				return diskError(CodeSourceSizeChanged, d.Index, g*GrainSize, "disk %d: %w; start the job again", d.Index, err)
			}
			if err != nil {
				return diskError(CodeSourceReadError, d.Index, g*GrainSize, "disk %d cannot be read: %w", d.Index, err)
			}
			dataFrom, dataTo = max(start/GrainSize, g), grains(end)
			if start >= d.SizeBytes {
				dataFrom, dataTo = total, total
			}
		}
		if g < dataFrom {
			if err := p.hole(ctx, d, g, dataFrom); err != nil {
				return err
			}
			g = dataFrom
			continue
		}
		from, limit := g, min(dataTo, g+chunkSize/GrainSize)
		for g < limit && !d.read[g] {
			g++
		}
		select {
		case p.chunks <- chunk{disk: d, from: from, to: g}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// hole covers grains that are zero without reading them.
func (p *pass) hole(ctx context.Context, d *sourceDisk, from, to int64) error {
	run := from // start of a run of grains that the host has otherwise
	for g := from; g <= to; g++ {
		differs := g < to && !d.read[g] && d.seen[g] != ZeroHash
		if (!differs || (g-run)*GrainSize >= maxZeroRun) && run < g {
			if err := p.zeroRun(ctx, d, run, g); err != nil {
				return err
			}
			run = g
		}
		if g == to {
			break
		}
		if !differs {
			run = g + 1
		}
		if !d.read[g] {
			d.seen[g], d.read[g] = ZeroHash, true
			d.cover(grainLen(d.SizeBytes, g))
		}
	}
	return nil
}

func (p *pass) zeroRun(ctx context.Context, d *sourceDisk, from, to int64) error {
	off := from * GrainSize
	var b [frameHeaderSize]byte
	return p.add(ctx, d, appendZeroRun(b[:0], off, min(to*GrainSize, d.SizeBytes)-off), 0)
}

// work reads, hashes, compares and codes chunks.
func (p *pass) work(ctx context.Context) error {
	w := &worker{pass: p, buf: alignedBuffer(chunkSize), frames: frameEncoder{enc: p.enc}}
	for c := range p.chunks {
		if err := w.chunk(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

type worker struct {
	*pass
	buf    []byte
	out    []byte
	frames frameEncoder
	hashes [chunkSize / GrainSize]Hash
}

func (w *worker) chunk(ctx context.Context, c chunk) error {
	d, off := c.disk, c.from*GrainSize
	data := w.buf[:min(c.to*GrainSize, d.SizeBytes)-off]
	if err := w.readDisk(ctx, d, data, off); err != nil {
		return err
	}
	count := int(c.to - c.from)
	for i := range count {
		w.hashes[i] = GrainHash(data[i*GrainSize : min((i+1)*GrainSize, len(data))])
	}
	// Runs of grains that differ: zero ones apart, others at most a frame long.
	perFrame := min(MaxFrameRaw, w.window) / GrainSize
	for i := 0; i < count; {
		if w.hashes[i] == d.seen[c.from+int64(i)] {
			i++
			continue
		}
		start, zero := i, w.hashes[i] == ZeroHash
		for i < count && w.hashes[i] != d.seen[c.from+int64(i)] && (w.hashes[i] == ZeroHash) == zero && (zero || i-start < perFrame) {
			i++
		}
		if zero {
			if err := w.zeroRun(ctx, d, c.from+int64(start), c.from+int64(i)); err != nil {
				return err
			}
			continue
		}
		raw := data[start*GrainSize : min(i*GrainSize, len(data))]
		w.out = w.frames.data(w.out[:0], off+int64(start)*GrainSize, raw, w.hashes[start:i])
		if err := w.add(ctx, d, w.out, len(raw)); err != nil {
			return err
		}
	}
	for i := range count {
		d.seen[c.from+int64(i)], d.read[c.from+int64(i)] = w.hashes[i], true
	}
	d.cover(int64(len(data)))
	return nil
}

// readDisk reads all of buf; when it cannot, it finds the grain that fails, and
// tries that one again for a while.
func (s *sender) readDisk(ctx context.Context, d *sourceDisk, buf []byte, off int64) error {
	if n, err := d.reader.ReadAt(buf, off); n == len(buf) {
		return nil
	} else if err == nil || errors.Is(err, io.EOF) {
		return diskError(CodeSourceSizeChanged, d.Index, off+int64(n),
			"disk %d ends at %d instead of %d bytes; start the job again", d.Index, off+int64(n), d.SizeBytes)
	}
	for b := buf; len(b) > 0; {
		n := min(GrainSize, len(b))
		if bad, err := s.readGrain(ctx, d, b[:n], off); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return diskError(CodeSourceReadError, d.Index, bad,
				"disk %d cannot be read at byte %d: %w; repair or replace the disk, then start the job", d.Index, bad, err)
		}
		off, b = off+int64(n), b[n:]
	}
	return nil
}

// readGrain reads a grain, and again while it cannot and the patience lasts. It
// returns the offset of the block that fails.
func (s *sender) readGrain(ctx context.Context, d *sourceDisk, b []byte, off int64) (bad int64, err error) {
	const block = 4 << 10 // what a read of a device is aligned to
	begin := time.Now()
	var wait backoff
	for {
		if _, err = d.reader.ReadAt(b, off); err == nil || errors.Is(err, io.EOF) {
			return 0, nil
		}
		if time.Since(begin) >= s.cfg.ReadPatience {
			break
		}
		s.log.Warn("a disk cannot be read, trying again", zap.Int("disk", d.Index), zap.Int64("offset", off), zap.Error(err))
		if err := wait.pause(ctx); err != nil {
			return 0, err
		}
	}
	for at := 0; at < len(b); at += block {
		if _, blockErr := d.reader.ReadAt(b[at:min(at+block, len(b))], off+int64(at)); blockErr != nil && !errors.Is(blockErr, io.EOF) {
			return off + int64(at), blockErr
		}
	}
	return off, err
}

// add puts a frame into the pending window and hands on the one that is full.
// It blocks while all streams are busy, which is what bounds the memory.
func (p *pass) add(ctx context.Context, d *sourceDisk, frame []byte, raw int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w := p.pending; w != nil && (w.disk != d || w.raw+raw > p.window || w.frames == maxFrames) {
		if err := p.hand(ctx); err != nil {
			return err
		}
	}
	if p.pending == nil {
		p.pending = windowPool.Get().(*window)
		*p.pending = window{disk: d, body: p.pending.body[:0]}
	}
	w := p.pending
	w.body = append(w.body, frame...)
	w.raw += raw
	w.frames++
	if w.raw >= p.window {
		return p.hand(ctx)
	}
	return nil
}

func (p *pass) flush(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pending == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	return p.hand(ctx)
}

func (p *pass) hand(ctx context.Context) error {
	select {
	case p.windows <- p.pending:
		p.pending = nil
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// put sends a window once. When it is sent again, the host is asked first: one that was restarted has no session yet and
// would have some of the window sent for nothing.
func (s *sender) put(ctx context.Context, w *window, again bool) error {
	counts := sent{Wire: s.wire.Add(int64(len(w.body))), Raw: s.raw.Add(int64(w.raw))}
	body := &windowBody{ctx: ctx, limiter: s.limiter, rest: w.body}
	err := s.api.put(ctx, s.path(fmt.Sprintf("/disks/%d/frames", w.disk.Index)), s.epoch, formatSent(s.id, counts), body, int64(len(w.body)), again)
	if left := body.stop(); left > 0 {
		// What never left is not sent: a host that is away costs nothing.
		s.wire.Add(-left)
		s.raw.Add(-int64(w.raw) * left / int64(len(w.body)))
	}
	return err
}

// windowBody hands a window to the transport, no faster than the limit.
type windowBody struct {
	ctx     context.Context
	limiter *rate.Limiter

	mu   sync.Mutex
	rest []byte
	over bool
}

func (b *windowBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return 0, context.Canceled
	}
	if len(b.rest) == 0 {
		return 0, io.EOF
	}
	n := min(len(p), len(b.rest))
	if b.limiter != nil {
		n = min(n, b.limiter.Burst())
		if err := b.limiter.WaitN(b.ctx, n); err != nil {
			return 0, err
		}
	}
	n = copy(p[:n], b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

func (b *windowBody) Close() error { return nil }

// stop returns how much was not taken, and lets no more be taken.
func (b *windowBody) stop() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
	return int64(len(b.rest))
}

// retry repeats a request while its failure may pass.
func (s *sender) retry(ctx context.Context, do func() error) error {
	var wait backoff
	corrupt := 0
	for {
		err := do()
		if err == nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		var coded *Error
		if errors.As(err, &coded) && (coded.Code == CodeGrainHashMismatch || coded.Code == CodeInvalidFrame) {
			// Damaged on the way; but what is damaged every time is damaged here.
			if corrupt++; corrupt >= maxPasses {
				return err
			}
		} else if !transient(err) {
			return err
		}
		s.log.Debug("request failed, trying again", zap.Error(err))
		if err := wait.pause(ctx); err != nil {
			return err
		}
	}
}

// transient says whether the same request may succeed later.
func transient(err error) bool {
	var coded *Error
	return !errors.As(err, &coded) || coded.Code == CodeBusy || coded.Code == CodeInternal
}
