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

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/durable"
	"github.com/drover/drover/replica"
)

// Backup is one backup.
type Backup struct {
	Dir      string
	Manifest *Manifest
}

// Open opens a backup: dir is its folder, or the folder of backups, whose newest is taken. Error: ErrNothing.
func Open(dir string) (*Backup, error) {
	if _, err := os.Stat(filepath.Join(dir, manifestFile)); errors.Is(err, fs.ErrNotExist) {
		names, err := list(dir)
		if err != nil {
			return nil, err
		}
		if len(names) == 0 {
			return nil, fmt.Errorf("%w in %s: give the folder that drover-server backup wrote to, or one of the backups in it", ErrNothing, dir)
		}
		dir = filepath.Join(dir, names[len(names)-1])
	}
	text, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if err != nil {
		return nil, fmt.Errorf("read the backup's manifest: %w", err)
	}
	want, err := os.ReadFile(filepath.Join(dir, hashFile))
	if err != nil {
		return nil, fmt.Errorf("read the backup's manifest: %w", err)
	}
	if sum := blake3.Sum256(text); hex.EncodeToString(sum[:]) != strings.TrimSpace(string(want)) {
		return nil, fmt.Errorf("the backup %s is damaged: %s is not what it was; use another backup", dir, manifestFile)
	}
	b := &Backup{Dir: dir, Manifest: new(Manifest)}
	if err := json.Unmarshal(text, b.Manifest); err != nil {
		return nil, fmt.Errorf("read the manifest of backup %s: %w", dir, err)
	}
	if b.Manifest.Version != manifestVersion {
		return nil, fmt.Errorf("the backup %s has the form %d, and this program knows %d: use the Drover that took it, %s, or a later one",
			dir, b.Manifest.Version, manifestVersion, b.Manifest.Drover)
	}
	return b, b.check()
}

// check holds the names in the manifest against each other: all stay in the backup, and what is restored is verified.
func (b *Backup) check() error {
	damaged := func(what string) error {
		return fmt.Errorf("the backup %s is damaged: its manifest names %s; use another backup", b.Dir, what)
	}
	isName := func(name string) bool { return name != "." && filepath.IsLocal(name) && filepath.Base(name) == name }
	verified := map[string]bool{}
	for _, file := range b.Manifest.Files {
		if !filepath.IsLocal(file.Path) {
			return damaged(fmt.Sprintf("%q, which is not in it", file.Path))
		}
		verified[file.Path] = true
	}
	if b.Manifest.Record != nil {
		for _, table := range b.Manifest.Record.Tables {
			if !isName(table.Name) || !verified[filepath.Join(recordDir, table.Name+tableSuffix)] {
				return damaged(fmt.Sprintf("the table %q, which is not in it", table.Name))
			}
		}
	}
	for _, host := range b.Manifest.Hosts {
		if !isName(host.HostID) {
			return damaged(fmt.Sprintf("the transition host %q", host.HostID))
		}
		for _, id := range host.Images {
			if !isName(id) || !verified[filepath.Join(imagesDir, host.HostID, id, replica.ManifestFile)] {
				return damaged(fmt.Sprintf("the image %q, which is not in it", id))
			}
		}
	}
	return nil
}

// Verify reads the whole backup and reports the first thing in it that is not what it was when it was taken.
func (b *Backup) Verify(ctx context.Context, progress Progress) error {
	if progress == nil {
		progress = func(string, int64, int64) {}
	}
	return b.verify(ctx, progress, func(string, string) bool { return true })
}

// verify is Verify of the images that are wanted and of all files besides.
func (b *Backup) verify(ctx context.Context, progress Progress, wanted func(hostID, imageID string) bool) error {
	damaged := func(what string) error {
		return fmt.Errorf("the backup %s is damaged: %s is not what it was. Nothing was changed; use another backup", b.Dir, what)
	}
	for _, file := range b.Manifest.Files {
		if err := ctx.Err(); err != nil {
			return err
		}
		size, sum, err := hashOf(filepath.Join(b.Dir, file.Path))
		if err != nil {
			return fmt.Errorf("read the backup: %w", err)
		}
		if size != file.Size || sum != file.BLAKE3 {
			return damaged(file.Path)
		}
	}
	for _, host := range b.Manifest.Hosts {
		for _, id := range host.Images {
			if !wanted(host.HostID, id) {
				continue
			}
			ok, err := verifyImage(ctx, b.image(host.HostID, id), progress)
			if err != nil {
				return err
			}
			if !ok {
				return damaged("image " + id)
			}
		}
	}
	return nil
}

func (b *Backup) image(host, id string) string { return filepath.Join(b.Dir, imagesDir, host, id) }

// Target says where a backup is restored to.
type Target struct {
	// DatabaseURL is an empty database.
	DatabaseURL string
	// Sealer holds the key that the secrets of the record are sealed with.
	Sealer *store.Sealer
	// DataDirs are the roots of transition hosts, by the host's id. They must hold no image and no staging.
	DataDirs map[string]string
	Progress Progress
}

// Restore gives back what is in the backup, after it has verified all of it and found every target empty. Images are in place
// before the record is: the record appears last, at once.
func (b *Backup) Restore(ctx context.Context, target Target) (err error) {
	if target.Progress == nil {
		target.Progress = func(string, int64, int64) {}
	}
	if b.Manifest.Record == nil {
		return fmt.Errorf("the backup %s has images only: restore the record from another one", b.Dir)
	}
	if err := store.RequireEmpty(ctx, target.DatabaseURL); err != nil {
		return err
	}
	var locks []func()
	defer func() {
		for _, unlock := range locks {
			unlock()
		}
	}()
	var undo []func() error
	defer func() {
		for i := len(undo) - 1; i >= 0 && err != nil; i-- {
			err = errors.Join(err, undo[i]())
		}
	}()
	for _, host := range b.Manifest.Hosts {
		root, wanted := target.DataDirs[host.HostID]
		if !wanted {
			continue
		}
		unlock, err := requireEmptyHost(root, host.HostID)
		if err != nil {
			return err
		}
		locks = append(locks, unlock)
	}
	if err := b.Verify(ctx, target.Progress); err != nil {
		return err
	}
	for _, host := range b.Manifest.Hosts {
		root, wanted := target.DataDirs[host.HostID]
		if !wanted {
			continue
		}
		if err := b.restoreHost(ctx, host, root, target.Progress); err != nil {
			return err
		}
		undo = append(undo, func() error { return os.RemoveAll(replica.ImagesDir(root)) })
	}
	err = store.Load(ctx, target.DatabaseURL, b.Manifest.Record, target.Sealer, func(table string) (io.ReadCloser, error) {
		target.Progress("restore table "+table, 0, 0)
		return openTable(filepath.Join(b.Dir, recordDir, table+tableSuffix))
	})
	if errors.Is(err, store.ErrLoaded) {
		undo = nil // its images are those
	}
	return err
}

// lockHost takes the root of a transition host, or a folder that is to become one.
func lockHost(root, id string) (unlock func(), err error) {
	unlock, err = replica.LockRoot(root)
	if err != nil {
		return nil, err
	}
	there, err := hostID(root)
	if err == nil && there != id {
		err = fmt.Errorf("%s is the data of the transition host %s, and the backup has that of %s: give an empty folder. Nothing was changed", root, there, id)
	} else if _, missing := os.Stat(filepath.Join(root, replica.HostIDFile)); errors.Is(missing, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// requireEmptyHost takes the root of a transition host that has no data of its own.
func requireEmptyHost(root, id string) (unlock func(), err error) {
	unlock, err = lockHost(root, id)
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{imagesDir, "staging"} {
		entries, listErr := os.ReadDir(filepath.Join(root, dir))
		if listErr != nil && !errors.Is(listErr, fs.ErrNotExist) {
			err = errors.Join(err, listErr)
		}
		if len(entries) > 0 {
			err = errors.Join(err, fmt.Errorf("%s is not empty: there is something in %s. Nothing was changed. Move it away; or, if the host's disks are whole, restore the record alone: leave --data away", root, dir))
		}
	}
	if err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// Given is what GiveBack did for a transition host.
type Given struct {
	HostID string
	// Images were given back; There had been there, and were left as they are.
	Images, There []string
}

// GiveBack gives transition hosts the images back that they lack, of those that the backup has of them: all, or those of only. dataDirs are
// the roots of the hosts, by their ids. A root that is empty becomes that of its host; one that is not keeps what it has. The hosts must not
// run. What is given back is verified before anything is written.
func (b *Backup) GiveBack(ctx context.Context, dataDirs map[string]string, only []string, progress Progress) ([]Given, error) {
	if progress == nil {
		progress = func(string, int64, int64) {}
	}
	var locks []func()
	defer func() {
		for _, unlock := range locks {
			unlock()
		}
	}()
	var given []Given
	lacks := map[[2]string]bool{}
	found := map[string]bool{}
	for _, host := range b.Manifest.Hosts {
		root, wanted := dataDirs[host.HostID]
		if !wanted {
			continue
		}
		unlock, err := lockHost(root, host.HostID)
		if err != nil {
			return nil, err
		}
		locks = append(locks, unlock)
		g := Given{HostID: host.HostID}
		for _, id := range host.Images {
			if len(only) > 0 && !slices.Contains(only, id) {
				continue
			}
			found[id] = true
			if _, err := replica.ReadManifest(filepath.Join(replica.ImagesDir(root), id)); err == nil {
				g.There = append(g.There, id)
				continue
			}
			g.Images = append(g.Images, id)
			lacks[[2]string{host.HostID, id}] = true
		}
		given = append(given, g)
	}
	for _, id := range only {
		if !found[id] {
			return nil, fmt.Errorf("the backup %s has no image %s of the transition hosts whose data is given: look for it in an earlier backup. Nothing was changed", b.Dir, id)
		}
	}
	if err := b.verify(ctx, progress, func(host, id string) bool { return lacks[[2]string{host, id}] }); err != nil {
		return nil, err
	}
	for _, g := range given {
		if err := b.giveBack(ctx, g, dataDirs[g.HostID], progress); err != nil {
			return nil, err
		}
	}
	return given, nil
}

// giveBack puts images among those that a host has. One of which the host has a part only is replaced.
func (b *Backup) giveBack(ctx context.Context, g Given, root string, progress Progress) error {
	tmp, err := b.copyImages(ctx, g.HostID, g.Images, root, progress)
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	images := replica.ImagesDir(root)
	err = os.MkdirAll(images, 0o700)
	for _, id := range g.Images {
		if err == nil {
			err = errors.Join(os.RemoveAll(filepath.Join(images, id)), os.Rename(filepath.Join(tmp, id), filepath.Join(images, id)))
		}
	}
	if err = errors.Join(err, durable.SyncDir(images), durable.SyncDir(root)); err != nil {
		return fmt.Errorf("give the transition host %s its images back: %w", g.HostID, err)
	}
	return nil
}

// copyImages copies images of the backup into a folder of its own in the root of their host, which has its id afterwards. The caller removes it.
func (b *Backup) copyImages(ctx context.Context, hostID string, ids []string, root string, progress Progress) (tmp string, err error) {
	tmp = filepath.Join(root, "restore"+partial+"images")
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	if err := errors.Join(os.RemoveAll(tmp), os.Mkdir(tmp, 0o700)); err != nil {
		return tmp, fmt.Errorf("restore the images of %s: %w", hostID, err)
	}
	for _, id := range ids {
		from := b.image(hostID, id)
		manifest, err := replica.ReadManifest(from)
		if err != nil {
			return tmp, err
		}
		if _, err := replica.CopyImage(ctx, from, filepath.Join(tmp, id), replica.ShareBlocks, progress.meter("restore image "+id, manifest.Bytes())); err != nil {
			return tmp, err
		}
	}
	if err := durable.WriteFile(filepath.Join(root, replica.HostIDFile), []byte(hostID+"\n"), 0o600); err != nil {
		return tmp, fmt.Errorf("restore the id of transition host %s: %w", hostID, err)
	}
	return tmp, durable.SyncDir(tmp)
}

func (b *Backup) restoreHost(ctx context.Context, host Host, root string, progress Progress) error {
	tmp, err := b.copyImages(ctx, host.HostID, host.Images, root, progress)
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }() // it has another name when all went well
	images := replica.ImagesDir(root)
	if err := os.Remove(images); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("restore the images of %s: %w", host.HostID, err)
	}
	if err := errors.Join(os.Rename(tmp, images), durable.SyncDir(root)); err != nil {
		return fmt.Errorf("restore the images of %s: %w", host.HostID, err)
	}
	return nil
}

// readTable is a compressed file that is being read.
type readTable struct {
	*zstd.Decoder
	file *os.File
}

func openTable(path string) (io.ReadCloser, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	decoder, err := zstd.NewReader(file)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return readTable{decoder, file}, nil
}

// Close implements io.Closer.
func (t readTable) Close() error {
	t.Decoder.Close()
	return t.file.Close()
}
