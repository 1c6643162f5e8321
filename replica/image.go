package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/zeebo/blake3"
	"go.uber.org/zap"

	"github.com/drover/drover/durable"
)

// Artifacts of an image.
const (
	// ArtifactSynced is the state of the source disk, byte for byte.
	ArtifactSynced = "synced"
	// ArtifactDelivered is the disk as it is delivered: grown, with its
	// partition table moved to the new size. Growing the last partition and its
	// file system, and repairing the boot loader, are not done yet.
	ArtifactDelivered = "delivered"
)

// ImageSpec says which image to make of a job's staging area.
type ImageSpec struct {
	// ImageID names the image; making the same one again changes nothing.
	ImageID string
	JobID   string
	// Run is the run that must have been synced.
	Run int
	// Final says that no later run is expected: the staged disks become the
	// image without a copy. Should one follow all the same, the staging area
	// gets its own copy then.
	Final bool
	// Disks are the disks of the image; every disk of the session when empty.
	Disks []ImageDisk
	// Container asks for an image of a container, of the files on the disks, instead of the disks.
	Container *ContainerSpec
}

// ImageDisk is one disk of an image to make.
type ImageDisk struct {
	Index int
	// DeliveredSizeBytes is the size of the delivered disk; 0 is the size of
	// the source disk. Smaller than the source disk is not supported.
	DeliveredSizeBytes int64
	// Device is what the source server calls the disk, as /dev/vda; it may be empty. Only an image of a container needs it.
	Device string
}

const manifestVersion = 1

// Manifest describes a complete image; its presence is what makes an image.
type Manifest struct {
	Version   int       `json:"version"`
	ImageID   string    `json:"imageId"`
	JobID     string    `json:"jobId"`
	Run       int       `json:"run"`
	CreatedAt time.Time `json:"createdAt"`
	// Verified says that every grain was read back before the image was made.
	Verified bool           `json:"verified"`
	Disks    []ManifestDisk `json:"disks"`
	// Container is the image of a container; such an image has no disks.
	Container *ManifestContainer `json:"container,omitempty"`
}

// Bytes returns how many bytes a verification reads.
func (m *Manifest) Bytes() (n int64) {
	if m.Container != nil {
		return m.Container.SizeBytes
	}
	for _, d := range m.Disks {
		n += d.SizeBytes
	}
	return n
}

// ManifestDisk describes one disk of an image.
type ManifestDisk struct {
	Index int `json:"index"`
	// SizeBytes is the size of the synced state, DeliveredSizeBytes that of the
	// delivered disk.
	SizeBytes          int64 `json:"sizeBytes"`
	DeliveredSizeBytes int64 `json:"deliveredSizeBytes"`
	// AllocatedBytes is what the synced state took on the host when it was made.
	AllocatedBytes int64 `json:"allocatedBytes"`
	// Root is the BLAKE3 of the disk's map.
	Root Hash `json:"root"`
	// PatchHash is the BLAKE3 of the file that says what delivery changes.
	PatchHash Hash `json:"patchHash"`
	// PartitionTable is "gpt", "mbr" or "".
	PartitionTable string `json:"partitionTable"`
	// Notes say what could not be done for the delivered disk.
	Notes []string `json:"notes,omitempty"`
}

func manifestPath(dir string) string { return filepath.Join(dir, "manifest.json") }

// Image returns the manifest of one image, or an error matching [ErrImageNotFound].
func (h *Host) Image(imageID string) (*Manifest, error) {
	if err := checkID("image id", imageID); err != nil {
		return nil, err
	}
	return ReadManifest(h.imageDir(imageID))
}

// Images returns the manifests of all complete images, by id.
func (h *Host) Images() ([]*Manifest, error) {
	ids, err := h.ImageIDs()
	if err != nil {
		return nil, err
	}
	var all []*Manifest
	for _, id := range ids {
		m, err := h.Image(id)
		if errors.Is(err, ErrImageNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}

// MakeImage turns a synced run into an image and returns its manifest. It is
// idempotent, and an image is there whole or not at all: the manifest is
// written last. When the session asked for checksums, every staged grain is
// read back first; one that does not match is an error of code
// SyncedStateCorrupt, and the next sync of the run sends it again. An image
// of a container is made of the files that are on the disks; what keeps it
// from that has a code of its own.
//
// The disks are linked when Final, else share their blocks with the staging
// area where the file system can (FICLONE), else are copied. onProgress, which
// may be nil, counts in BytesRead what of BytesTotal has been checked and copied.
func (h *Host) MakeImage(ctx context.Context, spec ImageSpec, onProgress func(Progress)) (*Manifest, error) {
	if err := errors.Join(checkID("image id", spec.ImageID), checkID("job id", spec.JobID)); err != nil {
		return nil, err
	}
	releaseJob, err := h.exclusive(ctx, "job/"+spec.JobID)
	if err != nil {
		return nil, err
	}
	defer releaseJob()
	releaseImage, err := h.exclusive(ctx, "image/"+spec.ImageID)
	if err != nil {
		return nil, err
	}
	defer releaseImage()

	switch m, err := h.Image(spec.ImageID); {
	case err == nil && m.JobID == spec.JobID && m.Run == spec.Run:
		return m, nil
	case err == nil:
		return nil, newError(CodeInvalidRequest, "image %s exists already, of run %d of job %s", spec.ImageID, m.Run, m.JobID)
	case !errors.Is(err, ErrImageNotFound):
		return nil, err
	}
	staging := h.stagingDir(spec.JobID)
	st, err := loadState(staging)
	if err != nil {
		return nil, storageError(err, "read the staging area of %s", spec.JobID)
	}
	if !st.Complete || st.Run != spec.Run {
		return nil, newError(CodeSyncIncomplete, "run %d of job %s is not synced on this host; sync it first", spec.Run, spec.JobID)
	}
	h.endSession(spec.JobID)
	m := &Manifest{
		Version: manifestVersion, ImageID: spec.ImageID, JobID: spec.JobID, Run: spec.Run,
		CreatedAt: time.Now().UTC(), Verified: st.Checksum,
	}
	disks, err := imageDisks(spec, st)
	if err != nil {
		return nil, err
	}
	meter := newMeter(onProgress)
	for _, d := range disks {
		meter.total(d.SizeBytes)
		if st.Checksum {
			meter.total(d.SizeBytes)
		}
	}

	dir := h.imageDir(spec.ImageID)
	if err := os.RemoveAll(dir); err != nil { // what a crash left
		return nil, storageError(err, "clear what is left of image %s", spec.ImageID)
	}
	if err := makeDir(dir); err != nil {
		return nil, storageError(err, "make image %s", spec.ImageID)
	}
	keep := false
	defer func() {
		if !keep {
			os.RemoveAll(dir)
		}
	}()
	if spec.Container != nil {
		if err := h.makeContainer(ctx, staging, dir, spec, st, m, disks, meter); err != nil {
			return nil, storageError(err, "make image %s", spec.ImageID)
		}
	} else {
		m.Disks = disks
		for i := range disks {
			if err := h.makeDisk(ctx, staging, dir, st, spec.Final, &disks[i], meter); err != nil {
				return nil, storageError(err, "make disk %d of image %s", disks[i].Index, spec.ImageID)
			}
		}
	}
	if err := durable.SyncDir(dir); err != nil {
		return nil, storageError(err, "make image %s", spec.ImageID)
	}
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := durable.WriteFile(manifestPath(dir), append(b, '\n'), 0o600); err != nil {
		return nil, storageError(err, "publish image %s", spec.ImageID)
	}
	keep = true
	meter.done()
	h.log.Info("image made", zap.String("job_id", spec.JobID), zap.Int("run", spec.Run), zap.String("image_id", spec.ImageID))
	return m, nil
}

func imageDisks(spec ImageSpec, st stagingState) ([]ManifestDisk, error) {
	wanted := spec.Disks
	if len(wanted) == 0 {
		for _, d := range st.Disks {
			wanted = append(wanted, ImageDisk{Index: d.Index})
		}
	}
	var disks []ManifestDisk
	for _, want := range wanted {
		i := slices.IndexFunc(st.Disks, func(d Disk) bool { return d.Index == want.Index })
		if i < 0 {
			return nil, diskError(CodeInvalidRequest, want.Index, 0, "run %d of job %s has no disk %d", spec.Run, spec.JobID, want.Index)
		}
		size, delivered := st.Disks[i].SizeBytes, want.DeliveredSizeBytes
		if delivered == 0 {
			delivered = size
		}
		if delivered < size {
			return nil, diskError(CodeShrinkUnsupported, want.Index, 0,
				"disk %d cannot be delivered with %d bytes: the source disk has %d and shrinking is not supported; ask for a larger disk",
				want.Index, delivered, size)
		}
		if delivered > maxDiskSize {
			return nil, diskError(CodeInvalidRequest, want.Index, 0, "disk %d cannot be delivered with %d bytes; the limit is %d",
				want.Index, delivered, int64(maxDiskSize))
		}
		disks = append(disks, ManifestDisk{
			Index: want.Index, SizeBytes: size, DeliveredSizeBytes: delivered, Root: st.Roots[want.Index],
		})
	}
	return disks, nil
}

// checkStaged holds a staged disk against its map, and marks what is damaged to be sent anew.
func checkStaged(ctx context.Context, staging string, st stagingState, d *ManifestDisk, meter *meter) error {
	bad, err := checkDisk(ctx, staging, *d, st.Checksum, meter.add)
	if err != nil || len(bad) == 0 {
		return err
	}
	st.Complete, st.Roots = false, nil
	if err := errors.Join(forget(staging, d.Index, bad), st.save(staging)); err != nil {
		return err
	}
	return diskError(CodeSyncedStateCorrupt, d.Index, bad[0]*GrainSize,
		"%d grains of disk %d on the transition host are not what was received, the first at byte %d; start the job again to send them anew",
		len(bad), d.Index, bad[0]*GrainSize)
}

// makeDisk checks one staged disk and puts it into the image.
func (h *Host) makeDisk(ctx context.Context, staging, dir string, st stagingState, final bool, d *ManifestDisk, meter *meter) error {
	if err := checkStaged(ctx, staging, st, d, meter); err != nil {
		return err
	}
	raw, err := os.Open(rawPath(staging, d.Index))
	if err != nil {
		return err
	}
	defer raw.Close()
	if d.AllocatedBytes, _, err = allocatedAndLinks(raw); err != nil {
		return err
	}
	if err := h.placeDisk(ctx, dir, raw, final, d, meter); err != nil {
		return err
	}
	hashes, err := os.ReadFile(mapPath(staging, d.Index))
	if err != nil {
		return err
	}
	if err := durable.WriteFile(mapPath(dir, d.Index), hashes, 0o600); err != nil {
		return err
	}
	patch := planDelivery(raw, d)
	b, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	d.PatchHash = blake3.Sum256(b)
	return durable.WriteFile(patchPath(dir, d.Index), b, 0o600)
}

// placeDisk links, clones or copies the staged bytes.
func (h *Host) placeDisk(ctx context.Context, dir string, raw *os.File, final bool, d *ManifestDisk, meter *meter) error {
	if final {
		if err := os.Link(raw.Name(), rawPath(dir, d.Index)); err == nil {
			meter.add(d.SizeBytes)
			return nil
		}
	}
	out, err := os.OpenFile(rawPath(dir, d.Index), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if clone(out, raw) == nil {
		meter.add(d.SizeBytes)
		return out.Sync()
	}
	free, err := freeBytes(dir)
	if err != nil {
		return err
	}
	if free < d.AllocatedBytes+spareBytes {
		return diskError(CodeInsufficientStorage, d.Index, 0,
			"the transition host has %d MiB free and needs %d MiB to copy disk %d into an image; free some space and start the job again",
			free>>20, (d.AllocatedBytes+spareBytes)>>20, d.Index)
	}
	if err := copySparse(out, raw, d.SizeBytes, func(n int64) error {
		meter.add(n)
		return ctx.Err()
	}); err != nil {
		return err
	}
	return out.Sync()
}

// checkDisk compares a disk's map with its root and, when deep, its bytes with
// the map. It returns the grains that are not what they should be.
func checkDisk(ctx context.Context, dir string, d ManifestDisk, deep bool, covered func(int64)) (bad []int64, err error) {
	hashes, err := os.Open(mapPath(dir, d.Index))
	if err != nil {
		return nil, err
	}
	defer hashes.Close()
	want := grains(d.SizeBytes) * HashSize
	if info, err := hashes.Stat(); err != nil {
		return nil, err
	} else if info.Size() != want {
		return nil, diskError(CodeSyncedStateCorrupt, d.Index, 0, "the map of disk %d has %d bytes instead of %d", d.Index, info.Size(), want)
	}
	root, err := mapRoot(io.NewSectionReader(hashes, 0, want))
	if err != nil {
		return nil, err
	}
	if root != d.Root {
		return nil, diskError(CodeSyncedStateCorrupt, d.Index, 0, "the map of disk %d is not the one that was agreed on", d.Index)
	}
	if !deep {
		return nil, nil
	}
	raw, err := os.Open(rawPath(dir, d.Index))
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	if info, err := raw.Stat(); err != nil {
		return nil, err
	} else if info.Size() != d.SizeBytes {
		return nil, diskError(CodeSyncedStateCorrupt, d.Index, 0, "disk %d has %d bytes on the host instead of %d", d.Index, info.Size(), d.SizeBytes)
	}
	entries := newMapReader(hashes, want)
	err = hashFile(ctx, raw, 0, d.SizeBytes, d.SizeBytes, func(g int64, h Hash) error {
		entry, err := entries.at(g)
		if err != nil {
			return err
		}
		if entry != h {
			bad = append(bad, g)
		}
		covered(grainLen(d.SizeBytes, g))
		return nil
	})
	return bad, err
}

// mapReader reads entries of a map file in ascending order.
type mapReader struct {
	f     io.ReaderAt
	size  int64
	start int64
	buf   []byte
}

func newMapReader(f io.ReaderAt, size int64) *mapReader { return &mapReader{f: f, size: size} }

func (m *mapReader) at(g int64) (h Hash, err error) {
	off := g * HashSize
	if off < m.start || off+HashSize > m.start+int64(len(m.buf)) {
		n := min(int64(64<<10), m.size-off)
		m.buf = grow(m.buf, int(n))
		if _, err := m.f.ReadAt(m.buf, off); err != nil {
			return h, fmt.Errorf("read a map: %w", err)
		}
		m.start = off
	}
	copy(h[:], m.buf[off-m.start:])
	return h, nil
}

// VerifyResult is the outcome of [Host.VerifyImage].
type VerifyResult struct {
	// OK says that every disk is what its manifest says.
	OK    bool               `json:"ok"`
	Disks []VerifyDiskResult `json:"disks"`
	// Message says what is wrong with the image of a container, which has no disks.
	Message string `json:"message,omitempty"`
}

// VerifyDiskResult is the outcome for one disk.
type VerifyDiskResult struct {
	Index int  `json:"index"`
	OK    bool `json:"ok"`
	// BadGrains is how many grains do not have the hash of the map.
	BadGrains int64 `json:"badGrains"`
	// Message says what is wrong.
	Message string `json:"message,omitempty"`
}

// Problems says what is wrong, in one line; it is empty when nothing is.
func (r *VerifyResult) Problems() string {
	var bad []string
	if r.Message != "" {
		bad = append(bad, r.Message)
	}
	for _, d := range r.Disks {
		if !d.OK {
			bad = append(bad, fmt.Sprintf("disk %d: %s", d.Index, d.Message))
		}
	}
	return strings.Join(bad, "; ")
}

// VerifyImage reads an image back and compares it with its maps and manifest.
// A damaged image is a result, not an error.
func (h *Host) VerifyImage(ctx context.Context, imageID string, onProgress func(Progress)) (*VerifyResult, error) {
	m, err := h.Image(imageID)
	if err != nil {
		return nil, err
	}
	meter := newMeter(onProgress)
	meter.total(m.Bytes())
	result, err := VerifyFiles(ctx, h.imageDir(imageID), meter.add)
	if err != nil {
		return nil, err
	}
	meter.done()
	return result, nil
}

// DeleteImage removes an image; one that is not there is no error. Downloads
// under way finish.
func (h *Host) DeleteImage(ctx context.Context, imageID string) error {
	if err := checkID("image id", imageID); err != nil {
		return err
	}
	release, err := h.exclusive(ctx, "image/"+imageID)
	if err != nil {
		return err
	}
	defer release()
	return h.deleteImage(imageID)
}

// deleteImage removes an image; the caller has it for itself.
func (h *Host) deleteImage(imageID string) error {
	dir := h.imageDir(imageID)
	// The manifest first: what is left after a crash is no image.
	err := os.Remove(manifestPath(dir))
	if err == nil {
		err = durable.SyncDir(dir)
	}
	if err == nil || errors.Is(err, os.ErrNotExist) {
		err = os.RemoveAll(dir)
	}
	return storageError(err, "remove image %s", imageID)
}

// meter counts an operation's progress and tells it a few times a second.
type meter struct {
	p    Progress
	tell func(Progress)
	last time.Time
}

func newMeter(tell func(Progress)) *meter {
	if tell == nil {
		tell = func(Progress) {}
	}
	return &meter{tell: tell}
}

func (m *meter) total(n int64) { m.p.BytesTotal += n }

// add counts what is done; it is never more than what there is to do, which may be an estimate.
func (m *meter) add(n int64) {
	m.p.BytesRead = min(m.p.BytesRead+n, m.p.BytesTotal)
	if now := time.Now(); now.Sub(m.last) >= 250*time.Millisecond {
		m.last = now
		m.tell(m.p)
	}
}

func (m *meter) done() {
	m.p.BytesRead = m.p.BytesTotal
	m.tell(m.p)
}

// sizeHeader carries the size of the artifact that a download gives.
const sizeHeader = "Drover-Size"

// requestedArtifact opens the disk of an image that a request names; the caller closes it.
func (h *Host) requestedArtifact(w http.ResponseWriter, r *http.Request) (*artifact, error) {
	kind := r.URL.Query().Get("artifact")
	if kind == "" {
		kind = ArtifactDelivered
	}
	index, err := strconv.Atoi(r.PathValue("disk"))
	if err != nil {
		index = NoDisk
	}
	src, err := h.artifact(r.PathValue("image"), index, kind)
	if err != nil {
		return nil, err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set(sizeHeader, strconv.FormatInt(src.size, 10))
	return src, nil
}

// artifact opens a disk of an image.
func (h *Host) artifact(imageID string, index int, kind string) (*artifact, error) {
	d, err := h.imageDisk(imageID, index)
	if err != nil {
		return nil, err
	}
	src, err := openArtifact(h.imageDir(imageID), d, kind)
	return src, storageError(err, "open disk %d of image %s", index, imageID)
}

func (h *Host) imageDisk(imageID string, index int) (ManifestDisk, error) {
	m, err := h.Image(imageID)
	if err != nil {
		return ManifestDisk{}, err
	}
	i := slices.IndexFunc(m.Disks, func(d ManifestDisk) bool { return d.Index == index })
	if i < 0 {
		return ManifestDisk{}, newError(CodeInvalidRequest, "image %s has no disk %d", imageID, index)
	}
	return m.Disks[i], nil
}

// ArtifactRoot returns the hash over the hashes of a disk of an image in either form: what [Deliver] returns of a disk that holds it.
// The map must be the one that was agreed on.
func (h *Host) ArtifactRoot(ctx context.Context, imageID string, disk int, artifact string) (Hash, error) {
	d, err := h.imageDisk(imageID, disk)
	if err != nil {
		return Hash{}, err
	}
	if _, err := checkDisk(ctx, h.imageDir(imageID), d, false, nil); err != nil {
		return Hash{}, storageError(err, "check the map of disk %d of image %s", disk, imageID)
	}
	src, err := h.artifact(imageID, disk, artifact)
	if err != nil {
		return Hash{}, err
	}
	defer src.Close()
	root, err := mapRoot(src.hashesFrom(ctx, 0, grains(src.size)))
	return root, storageError(err, "read the map of disk %d of image %s", disk, imageID)
}

// serveImageDisk streams a disk of an image as frames, from a grain on.
func (h *Host) serveImageDisk(w http.ResponseWriter, r *http.Request) error {
	src, err := h.requestedArtifact(w, r)
	if err != nil {
		return err
	}
	defer src.Close()
	from, err := fromParameter(r, src.size)
	if err != nil {
		return err
	}
	if from%GrainSize != 0 && from != src.size {
		return newError(CodeInvalidRequest, "%d is not the offset of a grain", from)
	}
	return streamBody(w, &artifactReader{src: src, ctx: r.Context(), wanted: []span{{grains(from), grains(src.size)}}})
}

// serveImageHashes streams the hashes of the grains of a disk of an image from one on, up to another. There are none behind its end.
func (h *Host) serveImageHashes(w http.ResponseWriter, r *http.Request) error {
	src, err := h.requestedArtifact(w, r)
	if err != nil {
		return err
	}
	defer src.Close()
	wanted := span{0, grains(src.size)}
	for name, at := range map[string]*int64{"from": &wanted.from, "to": &wanted.to} {
		if text := r.URL.Query().Get(name); text != "" {
			if *at, err = strconv.ParseInt(text, 10, 64); err != nil {
				return newError(CodeInvalidRequest, "%s=%q is not the number of a grain", name, text)
			}
		}
	}
	if wanted.from < 0 || wanted.to < wanted.from {
		return newError(CodeInvalidRequest, "there are no grains from %d up to %d", wanted.from, wanted.to)
	}
	wanted.to = min(wanted.to, grains(src.size))
	wanted.from = min(wanted.from, wanted.to)
	w.Header().Set("Content-Length", strconv.FormatInt((wanted.to-wanted.from)*HashSize, 10))
	return streamBody(w, src.hashesFrom(r.Context(), wanted.from, wanted.to))
}

// grainsRequest asks for grains of a disk: runs of them, each [from, to), in ascending order.
type grainsRequest struct {
	Grains [][2]int64 `json:"grains"`
}

// serveImageGrains streams those grains of a disk of an image that are asked for, as frames.
func (h *Host) serveImageGrains(w http.ResponseWriter, r *http.Request) error {
	var req grainsRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	src, err := h.requestedArtifact(w, r)
	if err != nil {
		return err
	}
	defer src.Close()
	wanted := make([]span, len(req.Grains))
	for i, run := range req.Grains {
		wanted[i] = span{run[0], run[1]}
	}
	if err := checkWanted(wanted, src.size); err != nil {
		return err
	}
	return streamBody(w, &artifactReader{src: src, ctx: r.Context(), wanted: wanted})
}

// checkWanted refuses runs of grains that a disk does not have, or that do not ascend.
func checkWanted(wanted []span, size int64) error {
	var end int64
	for _, w := range wanted {
		if w.from < end || w.to <= w.from || w.to > grains(size) {
			return newError(CodeInvalidRequest, "grains %d to %d are not on the disk of %d grains, or are asked for out of order", w.from, w.to, grains(size))
		}
		end = w.to
	}
	return nil
}

// serveVerify runs a verification and streams its progress, one JSON object a line.
func (h *Host) serveVerify(w http.ResponseWriter, r *http.Request) error {
	if _, err := h.Image(r.PathValue("image")); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	control, out := http.NewResponseController(w), json.NewEncoder(w)
	send := func(line verifyLine) {
		if out.Encode(line) == nil {
			control.Flush() // a peer that is gone cancels the request
		}
	}
	result, err := h.VerifyImage(r.Context(), r.PathValue("image"), func(p Progress) { send(verifyLine{Progress: &p}) })
	if err == nil && h.cfg.OnVerified != nil {
		if err = h.cfg.OnVerified(r.Context(), r.PathValue("image"), result); err != nil {
			err = newError(CodeInternal, "image %s is verified, but the outcome could not be recorded: %w", r.PathValue("image"), err)
		}
	}
	if err != nil {
		var coded *Error
		if !errors.As(err, &coded) {
			coded = newError(CodeInternal, "%w", err)
		}
		send(verifyLine{Error: coded})
		return nil
	}
	send(verifyLine{Result: result})
	return nil
}

type verifyLine struct {
	Progress *Progress     `json:"progress,omitempty"`
	Result   *VerifyResult `json:"result,omitempty"`
	Error    *Error        `json:"error,omitempty"`
}
