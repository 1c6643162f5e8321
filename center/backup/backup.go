// Package backup takes the record and the images of a center into a folder, while the center runs, and gives them back.
//
// A folder of backups holds one folder a backup, named by its time:
//
//	20260501T120000Z/manifest.json            what is in the backup, with the hash of every file
//	20260501T120000Z/manifest.blake3          the hash of that
//	20260501T120000Z/record/<table>.jsonl.zst the tables, all of one moment; the same for both databases
//	20260501T120000Z/images/<host>/<image>/   the files of each image, as its transition host keeps them
//
// Each stands for itself: it can be moved, and deleted like any folder. Images never change, so what an earlier backup in
// the same folder has is linked from there. The key that seals secrets is not in a backup, or whoever finds one would have
// both; its name is.
package backup

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/durable"
	"github.com/drover/drover/replica"
)

const manifestVersion = 1

// Manifest says what is in a backup. It is written last: a folder without one is no backup.
type Manifest struct {
	Version int `json:"version"`
	// Drover is the version of the program that took it.
	Drover string `json:"drover"`
	// TakenAt is the moment the record shows, or that of the backup when the record was left out.
	TakenAt time.Time `json:"takenAt"`
	// Record describes the record; nil when it was left out.
	Record *store.Dump `json:"record,omitempty"`
	// Hosts are the transition hosts whose images are in the backup.
	Hosts []Host `json:"hosts"`
	// Files are the files whose content is known by its hash, by their path in the backup. The disks of images are known by
	// the hashes in the images' own manifests.
	Files []File `json:"files"`
}

// Host is a transition host whose images are in a backup.
type Host struct {
	HostID string   `json:"hostId"`
	Images []string `json:"images"`
	// Damaged are images that are not in the backup because their files on the host are not what they were.
	Damaged []string `json:"damaged,omitempty"`
}

// File is a file of a backup.
type File struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	BLAKE3 string `json:"blake3"`
}

// Progress is told what is being done, and how many bytes of how many are; total is 0 when that is not known.
type Progress func(what string, done, total int64)

// ErrNothing is returned by Open for a folder that holds no backup.
var ErrNothing = errors.New("there is no backup")

const (
	recordDir    = "record"
	imagesDir    = "images"
	manifestFile = "manifest.json"
	hashFile     = "manifest.blake3"
	partial      = ".partial-"
	nameLayout   = "20060102T150405Z"
	tableSuffix  = ".jsonl.zst"
)

// Options say what to back up, and where to.
type Options struct {
	// To is the folder of backups; it is made when absent.
	To string
	// Record is the center's database; nil leaves it out.
	Record *store.Store
	// DataDirs are the roots of transition hosts, as far as they are on this machine.
	DataDirs []string
	// Version is that of this program.
	Version  string
	Progress Progress
}

// Result is a backup that was taken.
type Result struct {
	// Dir is its folder.
	Dir      string
	Manifest *Manifest
	// Copied and Linked count the images that are new, and those that an earlier backup has.
	Copied, Linked int
	// Elsewhere are the images of the record that hosts keep whose data was not given.
	Elsewhere []store.DumpedImage
}

// taking is a backup that is being taken.
type taking struct {
	Options
	dir, previous string
	result        *Result
	files         []File
	hosts         []*hostTaking
}

type hostTaking struct {
	id, root string
	// images are those in the backup so far; fresh those of them that were not verified yet.
	images map[string]bool
	fresh  []string
}

// snapshots is how often the record is read again because an image of it was deleted before it could be copied.
const snapshots = 10

// Take takes a backup. It is there whole or not at all, and may be taken while everything runs: it has the record of one
// moment and every image of that record. An image whose files are damaged is left out and named in the manifest.
func Take(ctx context.Context, options Options) (*Result, error) {
	if options.Progress == nil {
		options.Progress = func(string, int64, int64) {}
	}
	if options.Record == nil && len(options.DataDirs) == 0 {
		return nil, errors.New("there is nothing to back up: neither the record nor the data of a transition host")
	}
	if err := os.MkdirAll(options.To, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of backups: %w", err)
	}
	unlock, err := lock(options.To)
	if err != nil {
		return nil, err
	}
	defer unlock()
	t := &taking{Options: options, result: &Result{Manifest: &Manifest{Version: manifestVersion, Drover: options.Version}}}
	for _, root := range options.DataDirs {
		id, err := hostID(root)
		if err != nil {
			return nil, err
		}
		t.hosts = append(t.hosts, &hostTaking{id: id, root: root, images: map[string]bool{}})
	}
	names, err := list(options.To)
	if err != nil {
		return nil, err
	}
	if len(names) > 0 {
		t.previous = filepath.Join(options.To, names[len(names)-1])
	}
	if t.dir, err = os.MkdirTemp(options.To, partial); err != nil {
		return nil, fmt.Errorf("make the backup's folder: %w", err)
	}
	defer func() { _ = os.RemoveAll(t.dir) }() // it has another name when all went well
	if err := t.fill(ctx); err != nil {
		return nil, err
	}
	return t.result, t.publish()
}

// lock keeps others from backing up into the same folder, and removes what one that was killed left there.
func lock(dir string) (unlock func(), err error) {
	file, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the folder of backups: %w", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		file.Close()
		return nil, fmt.Errorf("another backup into %s is under way: wait for its end: %w", dir, err)
	}
	left, err := filepath.Glob(filepath.Join(dir, partial+"*"))
	for _, path := range left {
		err = errors.Join(err, os.RemoveAll(path))
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("clear what an interrupted backup left: %w", err)
	}
	return func() { file.Close() }, nil
}

// hostID reads the id of the transition host that keeps its data in root.
func hostID(root string) (string, error) {
	data, err := os.ReadFile(filepath.Join(root, replica.HostIDFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s is not the data of a transition host: it has no file %s. Give the folder that its drover-worker has as --data", root, replica.HostIDFile)
	}
	if err != nil {
		return "", fmt.Errorf("read the transition host's id: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

// fill copies everything. Images first: what the record names is then mostly there already, and stays there when its host
// deletes it.
func (t *taking) fill(ctx context.Context) error {
	for _, host := range t.hosts {
		if err := os.MkdirAll(t.hostDir(t.dir, host.id), 0o700); err != nil {
			return fmt.Errorf("make the backup's folder: %w", err)
		}
		ids, err := replica.ImageDirs(host.root)
		if err != nil {
			return err
		}
		for _, id := range ids {
			if err := t.copyImage(ctx, host, id); err != nil && !errors.Is(err, replica.ErrImageNotFound) {
				return err
			}
		}
	}
	if t.Record == nil {
		t.result.Manifest.TakenAt = time.Now().UTC()
	} else if err := t.copyRecord(ctx); err != nil {
		return err
	}
	for _, host := range t.hosts {
		if err := t.verifyImages(ctx, host); err != nil {
			return err
		}
	}
	return nil
}

// copyRecord copies the record, and then the images that came since the hosts were looked at. One that came and went in
// between is none of a later record: that one is taken instead.
func (t *taking) copyRecord(ctx context.Context) error {
	for try := 1; ; try++ {
		dump, err := t.dump(ctx)
		if err != nil {
			return err
		}
		gone := ""
		for _, image := range dump.Images {
			host := t.host(image.HostID)
			if host == nil || host.images[image.ImageID] {
				continue
			}
			switch err := t.copyImage(ctx, host, image.ImageID); {
			case errors.Is(err, replica.ErrImageNotFound):
				gone = image.ImageID
			case err != nil:
				return err
			}
		}
		if gone != "" && try < snapshots {
			continue
		}
		t.result.Manifest.Record, t.result.Manifest.TakenAt = dump, dump.TakenAt
		return t.dropUnknown(dump, gone != "")
	}
}

func (t *taking) host(id string) *hostTaking {
	for _, host := range t.hosts {
		if host.id == id {
			return host
		}
	}
	return nil
}

// dropUnknown removes the images that the record does not know (yet, or any more), and notes those that are missing.
func (t *taking) dropUnknown(dump *store.Dump, missing bool) error {
	known := map[string]bool{}
	for _, image := range dump.Images {
		known[image.ImageID] = true
		host := t.host(image.HostID)
		if host == nil {
			t.result.Elsewhere = append(t.result.Elsewhere, image)
		} else if missing && !host.images[image.ImageID] {
			t.damaged(host.id, image.ImageID)
		}
	}
	for _, host := range t.hosts {
		for id := range host.images {
			if known[id] {
				continue
			}
			if err := t.drop(host, id); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *taking) drop(host *hostTaking, id string) error {
	delete(host.images, id)
	host.fresh = slices.DeleteFunc(host.fresh, func(fresh string) bool { return fresh == id })
	return os.RemoveAll(filepath.Join(t.hostDir(t.dir, host.id), id))
}

// damaged notes an image that cannot be in the backup.
func (t *taking) damaged(hostID, imageID string) {
	h := t.manifestHost(hostID)
	h.Damaged = append(h.Damaged, imageID)
}

func (t *taking) manifestHost(id string) *Host {
	m := t.result.Manifest
	i := slices.IndexFunc(m.Hosts, func(h Host) bool { return h.HostID == id })
	if i < 0 {
		m.Hosts = append(m.Hosts, Host{HostID: id, Images: []string{}})
		i = len(m.Hosts) - 1
	}
	return &m.Hosts[i]
}

func (*taking) hostDir(backup, host string) string { return filepath.Join(backup, imagesDir, host) }

// copyImage puts an image into the backup, from an earlier one when that has it.
func (t *taking) copyImage(ctx context.Context, host *hostTaking, id string) error {
	from, to := filepath.Join(replica.ImagesDir(host.root), id), filepath.Join(t.hostDir(t.dir, host.id), id)
	original, err := os.ReadFile(filepath.Join(from, replica.ManifestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("image %s: %w", id, replica.ErrImageNotFound)
	}
	if err != nil {
		return fmt.Errorf("image %s: %w", id, err)
	}
	if t.previous != "" {
		earlier := filepath.Join(t.hostDir(t.previous, host.id), id)
		if copied, err := os.ReadFile(filepath.Join(earlier, replica.ManifestFile)); err == nil && string(copied) == string(original) {
			if _, err := replica.CopyImage(ctx, earlier, to, replica.ShareLinks, nil); err == nil {
				host.images[id] = true
				t.result.Linked++
				return nil
			}
		}
	}
	manifest, err := replica.ReadManifest(from)
	if err != nil {
		return err
	}
	_, err = replica.CopyImage(ctx, from, to, replica.ShareFiles, t.meter("copy image "+id, manifest.Bytes()))
	if err != nil {
		return err
	}
	host.images[id], host.fresh = true, append(host.fresh, id)
	return nil
}

func (t *taking) meter(what string, total int64) func(int64) { return t.Progress.meter(what, total) }

func (p Progress) meter(what string, total int64) func(int64) {
	done := int64(0)
	p(what, 0, total)
	return func(n int64) {
		done = min(done+n, total)
		p(what, done, total)
	}
}

// verifyImages reads back what is new and records all.
func (t *taking) verifyImages(ctx context.Context, host *hostTaking) error {
	for _, id := range slices.Clone(host.fresh) {
		dir := filepath.Join(t.hostDir(t.dir, host.id), id)
		ok, err := verifyImage(ctx, dir, t.Progress)
		if err != nil {
			return err
		}
		if ok {
			t.result.Copied++
			continue
		}
		if err := t.drop(host, id); err != nil {
			return err
		}
		t.damaged(host.id, id)
	}
	h := t.manifestHost(host.id)
	for id := range host.images {
		h.Images = append(h.Images, id)
	}
	slices.Sort(h.Images)
	for _, id := range h.Images {
		file, err := t.hash(filepath.Join(imagesDir, host.id, id, replica.ManifestFile))
		if err != nil {
			return err
		}
		t.files = append(t.files, file)
	}
	return durable.SyncDir(t.hostDir(t.dir, host.id))
}

func verifyImage(ctx context.Context, dir string, progress Progress) (bool, error) {
	manifest, err := replica.ReadManifest(dir)
	if err != nil {
		return false, err
	}
	result, err := replica.VerifyFiles(ctx, dir, progress.meter("verify image "+manifest.ImageID, manifest.Bytes()))
	if err != nil {
		return false, err
	}
	return result.OK, nil
}

// dump writes the tables, over those of an earlier try.
func (t *taking) dump(ctx context.Context) (*store.Dump, error) {
	dir := filepath.Join(t.dir, recordDir)
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
		return nil, fmt.Errorf("make the backup's folder: %w", err)
	}
	t.files = nil
	dump, err := t.Record.Dump(ctx, func(table string) (io.WriteCloser, error) {
		t.Progress("copy table "+table, 0, 0)
		return createTable(filepath.Join(dir, table+tableSuffix))
	})
	if err != nil {
		return nil, err
	}
	for _, table := range dump.Tables {
		file, err := t.hash(filepath.Join(recordDir, table.Name+tableSuffix))
		if err != nil {
			return nil, err
		}
		t.files = append(t.files, file)
	}
	return dump, durable.SyncDir(dir)
}

// tableFile is a compressed file that is durable when it is closed.
type tableFile struct {
	*zstd.Encoder
	file *os.File
}

func createTable(path string) (io.WriteCloser, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	encoder, err := zstd.NewWriter(file)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return tableFile{encoder, file}, nil
}

// Close implements io.Closer.
func (t tableFile) Close() error {
	return errors.Join(t.Encoder.Close(), t.file.Sync(), t.file.Close())
}

func (t *taking) hash(path string) (File, error) {
	size, sum, err := hashOf(filepath.Join(t.dir, path))
	return File{Path: path, Size: size, BLAKE3: sum}, err
}

func hashOf(path string) (size int64, sum string, err error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, "", err
	}
	defer file.Close()
	hash := blake3.New()
	size, err = io.Copy(hash, file)
	return size, hex.EncodeToString(hash.Sum(nil)), err
}

// publish writes the manifest and gives the backup its name.
func (t *taking) publish() error {
	m := t.result.Manifest
	m.Files = t.files
	if m.Hosts == nil {
		m.Hosts = []Host{}
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	sum := blake3.Sum256(text)
	if err := durable.WriteFile(filepath.Join(t.dir, manifestFile), text, 0o600); err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(t.dir, hashFile), []byte(hex.EncodeToString(sum[:])+"\n"), 0o600); err != nil {
		return err
	}
	if images := filepath.Join(t.dir, imagesDir); len(t.hosts) > 0 {
		if err := durable.SyncDir(images); err != nil {
			return err
		}
	}
	name := m.TakenAt.Format(nameLayout)
	for n := 1; ; n++ {
		t.result.Dir = filepath.Join(t.To, name)
		if n > 1 {
			t.result.Dir = fmt.Sprintf("%s-%d", t.result.Dir, n)
		}
		if _, err := os.Lstat(t.result.Dir); errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err := os.Rename(t.dir, t.result.Dir); err != nil {
		return fmt.Errorf("name the backup: %w", err)
	}
	return durable.SyncDir(t.To)
}

// list returns the names of the backups in a folder, oldest first.
func list(dir string) ([]string, error) {
	manifests, err := filepath.Glob(filepath.Join(dir, "[0-9]*", manifestFile))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, path := range manifests {
		names = append(names, filepath.Base(filepath.Dir(path)))
	}
	slices.Sort(names)
	return names, nil
}
