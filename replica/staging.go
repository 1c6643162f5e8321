package replica

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/zeebo/blake3"

	"github.com/drover/drover/durable"
)

// stagedDisk is one disk in a job's staging directory:
//
//	disk-<i>.raw     the bytes, sparse, as large as the source disk
//	disk-<i>.map     the journal: a hash per grain of what is durable in .raw
//	disk-<i>.intent  a byte per region: writes may have been cut off there
//
// The order of a commit is: the region's intent durable, data written, data
// durable, map written, map durable. After a crash the regions with an intent
// are hashed again, so that the map never claims what the disk does not hold,
// also when a grain was being overwritten and the source has since turned
// back to what the map still said.
type stagedDisk struct {
	Disk
	raw    *os.File
	hashes *os.File
	intent *intentLog
	locks  rangeLock

	mu      sync.Mutex
	round   *commitRound
	leading chan struct{}
	// failed is why a sync failed; whoever leads has it. The kernel forgets what it could not write, so that another sync of the
	// same file succeeds and says nothing of it: after one that failed there is none.
	failed error
}

func rawPath(dir string, index int) string {
	return filepath.Join(dir, fmt.Sprintf("disk-%d.raw", index))
}

func mapPath(dir string, index int) string {
	return filepath.Join(dir, fmt.Sprintf("disk-%d.map", index))
}

func patchPath(dir string, index int) string {
	return filepath.Join(dir, fmt.Sprintf("disk-%d.patch", index))
}

func intentPath(dir string, index int) string {
	return filepath.Join(dir, fmt.Sprintf("disk-%d.intent", index))
}

// openStagedDisk opens or makes a staged disk, grows it when the source grew,
// and repairs what a crash left.
func openStagedDisk(ctx context.Context, dir string, disk Disk) (_ *stagedDisk, err error) {
	d := &stagedDisk{Disk: disk, leading: make(chan struct{}, 1)}
	d.locks.changed = make(chan struct{})
	defer func() {
		if err != nil {
			d.closeFiles()
		}
	}()
	if d.raw, err = openUnshared(ctx, rawPath(dir, disk.Index)); err != nil {
		return nil, err
	}
	if d.hashes, err = os.OpenFile(mapPath(dir, disk.Index), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	if err := d.resize(); err != nil {
		return nil, err
	}
	var dirty []int64
	if d.intent, dirty, err = openIntentLog(intentPath(dir, disk.Index), disk.SizeBytes); err != nil {
		return nil, err
	}
	if err := d.recover(ctx, dirty); err != nil {
		return nil, err
	}
	return d, nil
}

// openUnshared opens a staged file for writing. When an image holds a hard
// link to it, the staging area gets a copy of its own first.
func openUnshared(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	_, links, err := allocatedAndLinks(f)
	if err != nil || links <= 1 {
		if err != nil {
			f.Close()
			return nil, err
		}
		return f, nil
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	tmp := path + ".tmp"
	own, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	err = copyFile(ctx, own, f, info.Size(), nil)
	if err == nil {
		err = own.Sync()
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil {
		err = durable.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		own.Close()
		os.Remove(tmp)
		return nil, fmt.Errorf("give the staging area its own copy of %s: %w", path, err)
	}
	return own, nil
}

// copyFile shares the blocks of src where the file system can, and copies
// its data elsewhere.
func copyFile(ctx context.Context, dst, src *os.File, size int64, report func(int64)) error {
	if clone(dst, src) == nil {
		if report != nil {
			report(size)
		}
		return nil
	}
	return copySparse(dst, src, size, func(n int64) error {
		if report != nil {
			report(n)
		}
		return ctx.Err()
	})
}

// resize gives the files the size of the disk. A disk that shrank is refused:
// what lies behind its new end would silently be lost.
func (d *stagedDisk) resize() error {
	info, err := d.raw.Stat()
	if err != nil {
		return err
	}
	old := info.Size()
	if info, err = d.hashes.Stat(); err != nil {
		return err
	}
	if old == 0 || info.Size() < grains(old)*HashSize {
		// One of the two is lost, as when the removal of the area was cut off, and the other says nothing without it.
		if err := errors.Join(d.raw.Truncate(0), d.raw.Sync(), d.hashes.Truncate(0)); err != nil {
			return err
		}
		old = 0
	}
	if old > d.SizeBytes {
		return diskError(CodeSourceSizeChanged, d.Index, 0,
			"disk %d shrank from %d to %d bytes since the last run; delete the job and create another", d.Index, old, d.SizeBytes)
	}
	if old > 0 && old < d.SizeBytes && old%GrainSize != 0 {
		// The last grain was short and gets longer: its hash no longer stands.
		last := old / GrainSize
		h, err := d.hash(last)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if err == nil && h != ZeroHash {
			if err := d.putHashes(mapWrite{grain: last, hashes: []Hash{unknownHash}}); err != nil {
				return err
			}
			if err := fdatasync(d.hashes); err != nil {
				return err
			}
		}
	}
	if err := d.hashes.Truncate(grains(d.SizeBytes) * HashSize); err != nil {
		return err
	}
	if err := d.hashes.Sync(); err != nil {
		return err
	}
	if old < d.SizeBytes {
		if err := d.raw.Truncate(d.SizeBytes); err != nil {
			return err
		}
		return d.raw.Sync()
	}
	return nil
}

// recover hashes the regions again in which writes may have been cut off.
func (d *stagedDisk) recover(ctx context.Context, regions []int64) error {
	if len(regions) == 0 {
		return nil
	}
	if err := errors.Join(fdatasync(d.raw), fdatasync(d.hashes)); err != nil {
		return err
	}
	dropCached(d.hashes, 0, grains(d.SizeBytes)*HashSize) // hashFile does so for the data
	for _, r := range regions {
		start, end := r*regionSize, min((r+1)*regionSize, d.SizeBytes)
		err := hashFile(ctx, d.raw, start, end, d.SizeBytes, func(g int64, h Hash) error {
			was, err := d.hash(g)
			if err != nil || was == h {
				return err
			}
			return d.putHashes(mapWrite{grain: g, hashes: []Hash{h}})
		})
		if err != nil {
			return fmt.Errorf("repair disk %d after a crash: %w", d.Index, err)
		}
	}
	if err := fdatasync(d.hashes); err != nil {
		return err
	}
	return d.intent.reset()
}

// close makes everything durable and notes that nothing was cut off.
func (d *stagedDisk) close() error {
	err := errors.Join(fdatasync(d.raw), fdatasync(d.hashes))
	if err == nil {
		err = d.intent.settle()
	}
	d.closeFiles()
	return err
}

func (d *stagedDisk) closeFiles() {
	for _, f := range []*os.File{d.raw, d.hashes} {
		if f != nil {
			f.Close()
		}
	}
	if d.intent != nil {
		d.intent.f.Close()
	}
}

func (d *stagedDisk) hash(g int64) (h Hash, err error) {
	_, err = d.hashes.ReadAt(h[:], g*HashSize)
	return h, err
}

// root returns the BLAKE3 of the whole map.
func (d *stagedDisk) root() (Hash, error) {
	return mapRoot(io.NewSectionReader(d.hashes, 0, grains(d.SizeBytes)*HashSize))
}

func mapRoot(r io.Reader) (Hash, error) {
	hasher := blake3.New()
	if _, err := io.CopyBuffer(hasher, struct{ io.Reader }{r}, make([]byte, 256<<10)); err != nil {
		return Hash{}, fmt.Errorf("read a map: %w", err)
	}
	return Hash(hasher.Sum(nil)), nil
}

// mapWrite sets the entries from grain on: to hashes, or to zero for zeros grains.
type mapWrite struct {
	grain  int64
	hashes []Hash
	zeros  int64
}

func (d *stagedDisk) putHashes(w mapWrite) error {
	if w.zeros > 0 {
		return punchOrZero(d.hashes, w.grain*HashSize, w.zeros*HashSize)
	}
	b := make([]byte, 0, len(w.hashes)*HashSize)
	for i := range w.hashes {
		b = append(b, w.hashes[i][:]...)
	}
	_, err := d.hashes.WriteAt(b, w.grain*HashSize)
	return err
}

// punchOrZero zeroes a range of a map: short ones in place, so that the map
// is not torn into a hole per grain.
func punchOrZero(f *os.File, off, length int64) error {
	if length > 1<<20 {
		return punch(f, off, length)
	}
	return fill(f, zeroGrain[:], off, length)
}

// write makes verified frames durable and journals them. Several writers may
// be in it at once; frames of the same grains take turns.
func (d *stagedDisk) write(ctx context.Context, frames []frame) (written int64, err error) {
	if len(frames) == 0 {
		return 0, nil
	}
	spans := make([]span, len(frames))
	for i, f := range frames {
		spans[i] = span{f.offset, f.end()}
	}
	unlock, err := d.locks.lock(ctx, spans)
	if err != nil {
		return 0, err
	}
	defer unlock()
	if err := d.intent.begin(spans); err != nil {
		return 0, d.storeError(err)
	}
	settled := false
	defer func() { d.intent.end(spans, settled) }()

	writes := make([]mapWrite, len(frames))
	for i, f := range frames {
		writes[i] = mapWrite{grain: f.offset / GrainSize, hashes: f.hashes}
		if f.codec == codecZero {
			writes[i].zeros = grains(f.raw)
		}
	}
	if written, err = d.writeData(frames); err == nil {
		err = d.commit(writes)
	}
	if err != nil {
		// What these grains hold is now anybody's guess. Say so in the map; the
		// region keeps its intent, so that a restart looks for itself.
		unknown := bytes.Repeat(unknownHash[:], GrainSize/HashSize)
		for _, w := range writes {
			fill(d.hashes, unknown, w.grain*HashSize, max(int64(len(w.hashes)), w.zeros)*HashSize) //nolint:errcheck // best effort on a failing disk
		}
		return 0, d.storeError(err)
	}
	settled = true
	return written, nil
}

// storeError is what the failure to store part of the disk is told as.
func (d *stagedDisk) storeError(err error) error {
	if noSpace(err) {
		dir := filepath.Dir(d.raw.Name())
		free, _ := freeBytes(dir) // 0 says enough
		return diskError(CodeInsufficientStorage, d.Index, 0,
			"the transition host has no space left for disk %d: %d MiB are free at %s; free some, then start the job: %w", d.Index, free>>20, dir, err)
	}
	return diskError(CodeStorageError, d.Index, 0, "the transition host could not store disk %d: %w", d.Index, err)
}

// writeData writes in slices of a grain: large buffered writes were measured
// several times slower.
func (d *stagedDisk) writeData(frames []frame) (written int64, err error) {
	for _, f := range frames {
		if f.codec == codecZero {
			if err := punch(d.raw, f.offset, f.raw); err != nil {
				return 0, err
			}
			continue
		}
		off := f.offset
		for b := f.data; len(b) > 0; {
			n := min(GrainSize, len(b))
			if _, err := d.raw.WriteAt(b[:n], off); err != nil {
				return 0, err
			}
			off, b = off+int64(n), b[n:]
		}
		written += f.raw
	}
	return written, nil
}

// commitRound is a group of windows that share one pair of syncs.
type commitRound struct {
	writes []mapWrite
	done   chan struct{}
	err    error
}

// commit makes data that was written durable, then its map entries. Windows
// that arrive while another commit syncs go together in the next one.
func (d *stagedDisk) commit(writes []mapWrite) error {
	d.mu.Lock()
	r, leader := d.round, false
	if r == nil {
		r, leader = &commitRound{done: make(chan struct{})}, true
		d.round = r
	}
	r.writes = append(r.writes, writes...)
	d.mu.Unlock()
	if leader {
		d.leading <- struct{}{}
		d.mu.Lock()
		d.round = nil
		d.mu.Unlock()
		r.err = d.flush(r.writes)
		close(r.done)
		<-d.leading
	}
	<-r.done
	return r.err
}

// flush makes a round durable; the caller leads.
func (d *stagedDisk) flush(writes []mapWrite) error {
	if d.failed == nil {
		d.failed = d.syncData(writes)
	}
	return d.failed
}

func (d *stagedDisk) syncData(writes []mapWrite) error {
	if err := fdatasync(d.raw); err != nil {
		return err
	}
	for _, w := range writes {
		if err := d.putHashes(w); err != nil {
			return err
		}
	}
	return fdatasync(d.hashes)
}

// forget marks grains as unknown, so that the next run sends them again.
func forget(dir string, index int, bad []int64) error {
	f, err := os.OpenFile(mapPath(dir, index), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, g := range bad {
		if _, err := f.WriteAt(unknownHash[:], g*HashSize); err != nil {
			return err
		}
	}
	return fdatasync(f)
}

// hashFile calls each with the hash of every grain of [start, end) of a file
// that holds size bytes; start must be aligned. Holes are not read. What is synced is read from the disk, not from the
// memory of the host, which may have what the disk could not take.
func hashFile(ctx context.Context, f *os.File, start, end, size int64, each func(g int64, h Hash) error) error {
	dropCached(f, start, end-start)
	const step = 16 * GrainSize
	buf := make([]byte, step)
	for off := start; off < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		from, to, err := nextData(f, off, size)
		if err != nil {
			return err
		}
		from = min(from-from%GrainSize, end)
		for ; off < from; off += GrainSize {
			if err := each(off/GrainSize, ZeroHash); err != nil {
				return err
			}
		}
		to = min(to, end)
		for off < to {
			if err := ctx.Err(); err != nil {
				return err
			}
			// Whole grains, also where the data ends inside one.
			n := min(step, (to-off+GrainSize-1)/GrainSize*GrainSize, size-off)
			if _, err := f.ReadAt(buf[:n], off); err != nil {
				return fmt.Errorf("read %s at %d: %w", f.Name(), off, err)
			}
			for b := buf[:n]; len(b) > 0; {
				g := min(GrainSize, len(b))
				if err := each(off/GrainSize, GrainHash(b[:g])); err != nil {
					return err
				}
				off, b = off+int64(g), b[g:]
			}
		}
	}
	return nil
}

// span is a range of bytes [from, to).
type span struct{ from, to int64 }

// rangeLock lets writers of disjoint ranges in together.
type rangeLock struct {
	mu      sync.Mutex
	held    map[*[]span]struct{}
	changed chan struct{}
}

func (l *rangeLock) lock(ctx context.Context, spans []span) (unlock func(), err error) {
	key := &spans
	for {
		l.mu.Lock()
		if !l.overlaps(spans) {
			if l.held == nil {
				l.held = make(map[*[]span]struct{})
			}
			l.held[key] = struct{}{}
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				delete(l.held, key)
				close(l.changed)
				l.changed = make(chan struct{})
				l.mu.Unlock()
			}, nil
		}
		changed := l.changed
		l.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (l *rangeLock) overlaps(spans []span) bool {
	for other := range l.held {
		for _, a := range *other {
			for _, b := range spans {
				if a.from < b.to && b.from < a.to {
					return true
				}
			}
		}
	}
	return false
}

const (
	// regionSize is what one intent covers. One sync of the intents per 64 MiB
	// written costs nothing that can be measured.
	regionSize = 64 << 20
	// maxSettled is how many regions without writers keep their intent, and so
	// bounds what is hashed again after a crash.
	maxSettled = 8
)

// intentLog durably notes regions before they are written to.
type intentLog struct {
	f       *os.File
	regions int64

	mu    sync.Mutex
	dirty map[int64]*region
	tick  int64
	// failed is why an intent could not be made durable. Then none is taken for granted any more: see stagedDisk.failed.
	failed error
}

type region struct {
	writers int
	used    int64
	failed  bool
}

// openIntentLog returns the log and the regions that a crash left with an intent.
func openIntentLog(path string, diskSize int64) (*intentLog, []int64, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, err
	}
	l := &intentLog{f: f, regions: (diskSize + regionSize - 1) / regionSize, dirty: make(map[int64]*region)}
	b := make([]byte, l.regions)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		f.Close()
		return nil, nil, err
	}
	var left []int64
	for i, v := range b[:n] {
		if v != 0 {
			left = append(left, int64(i))
		}
	}
	if int64(n) < l.regions {
		// Allocate it now: later writes are then in place.
		if _, err = f.WriteAt(make([]byte, l.regions-int64(n)), int64(n)); err == nil {
			err = f.Sync()
		}
		if err != nil {
			f.Close()
			return nil, nil, err
		}
	}
	return l, left, nil
}

// begin notes the regions of the spans, durably, before they are written.
func (l *intentLog) begin(spans []span) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed == nil {
		l.failed = l.note(spans)
	}
	return l.failed
}

func (l *intentLog) note(spans []span) error {
	l.tick++
	fresh := false
	for _, s := range spans {
		for r := s.from / regionSize; r <= (s.to-1)/regionSize; r++ {
			reg := l.dirty[r]
			if reg == nil {
				reg = &region{}
				l.dirty[r] = reg
				fresh = true
				if _, err := l.f.WriteAt([]byte{1}, r); err != nil {
					return err
				}
			}
			reg.writers++
			reg.used = l.tick
		}
	}
	if !fresh {
		return nil
	}
	if err := l.retire(); err != nil {
		return err
	}
	return fdatasync(l.f)
}

// retire takes back the intents of regions that were not written to lately.
func (l *intentLog) retire() error {
	for {
		var oldest int64 = -1
		idle := 0
		for r, reg := range l.dirty {
			if reg.writers > 0 || reg.failed {
				continue
			}
			idle++
			if oldest < 0 || reg.used < l.dirty[oldest].used {
				oldest = r
			}
		}
		if idle <= maxSettled {
			return nil
		}
		if _, err := l.f.WriteAt([]byte{0}, oldest); err != nil {
			return err
		}
		delete(l.dirty, oldest)
	}
}

// end notes that the writers of those spans are done, and whether what they
// wrote is durable.
func (l *intentLog) end(spans []span, settled bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range spans {
		for r := s.from / regionSize; r <= (s.to-1)/regionSize; r++ {
			if reg := l.dirty[r]; reg != nil {
				reg.writers--
				reg.failed = reg.failed || !settled
			}
		}
	}
}

// settle takes back all intents but those of regions with failed writes.
func (l *intentLog) settle() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for r, reg := range l.dirty {
		if reg.failed || reg.writers > 0 {
			continue
		}
		if _, err := l.f.WriteAt([]byte{0}, r); err != nil {
			return err
		}
		delete(l.dirty, r)
	}
	return fdatasync(l.f)
}

// reset takes back every intent, after a repair.
func (l *intentLog) reset() error {
	if _, err := l.f.WriteAt(make([]byte, l.regions), 0); err != nil {
		return err
	}
	return fdatasync(l.f)
}

// stagingState is session.json: what changes seldom, replaced whole.
type stagingState struct {
	Version int    `json:"version"`
	JobID   string `json:"jobId"`
	// Run is the run last opened, in Term.
	Run   int    `json:"run"`
	Term  int    `json:"term,omitempty"`
	Disks []Disk `json:"disks"`
	// Complete says that source and host agreed on every disk of Run.
	Complete bool         `json:"complete"`
	Roots    map[int]Hash `json:"roots,omitempty"`
	// Checksum is the setting of the run's session.
	Checksum bool `json:"checksum"`
}

const stateVersion = 1

func statePath(dir string) string { return filepath.Join(dir, "session.json") }

// loadState reads session.json; none is the zero state.
func loadState(dir string) (stagingState, error) {
	var st stagingState
	b, err := os.ReadFile(statePath(dir))
	if errors.Is(err, os.ErrNotExist) {
		return st, nil
	}
	if err != nil {
		return st, err
	}
	if err := json.Unmarshal(b, &st); err != nil {
		return st, fmt.Errorf("read %s: %w", statePath(dir), err)
	}
	if st.Version != stateVersion {
		return st, fmt.Errorf("%s has version %d; this host knows %d", statePath(dir), st.Version, stateVersion)
	}
	return st, nil
}

func (st stagingState) save(dir string) error {
	st.Version = stateVersion
	b, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(statePath(dir), append(b, '\n'), 0o600)
}
