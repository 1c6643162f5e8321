package backup

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/blake3"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/center/store/storetest"
	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
)

const account, region = "1", "local"

// site is a center with a transition host.
type site struct {
	t      *testing.T
	ctx    context.Context
	record *store.Store
	sealer *store.Sealer
	url    string
	root   string
	host   *replica.Host
	hostID string
	jobID  string
	run    int
}

type epochs struct{}

func (epochs) RaiseEpoch(context.Context, string, int) (int64, error) { return 1, nil }
func (epochs) CheckEpoch(context.Context, string, int64) error        { return nil }
func must[T any](t *testing.T) func(T, error) T {
	t.Helper()
	return func(v T, err error) T {
		t.Helper()
		require.NoError(t, err)
		return v
	}
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, ctx: t.Context(), url: storetest.Migrated(t, store.Open), root: filepath.Join(t.TempDir(), "host"), hostID: "i-host"}
	s.sealer = must[*store.Sealer](t)(store.NewSealer(bytes.Repeat([]byte{7}, 32)))
	s.record = s.open(s.url)
	require.NoError(t, os.MkdirAll(s.root, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(s.root, replica.HostIDFile), []byte(s.hostID+"\n"), 0o600))
	s.host = must[*replica.Host](t)(replica.NewHost(replica.HostConfig{Root: s.root, ID: s.hostID, Key: bytes.Repeat([]byte{1}, 32), Epochs: epochs{}}))
	t.Cleanup(func() { _ = s.host.Close() })
	require.NoError(t, s.record.HostHeartbeat(s.ctx, s.hostID, "http://host"))
	require.NoError(t, s.record.CreateAccessToken(s.ctx, store.AccessToken{AccessTokenID: "at-1", AccountID: account, RegionID: region, Count: 9, TTLDays: 30}, "code"))
	require.NoError(t, s.record.PutAccessKey(s.ctx, store.AccessKey{AccessKeyID: "key", Secret: "very secret", AccountID: account}))
	server := agentapi.Server{Hostname: "web", Disks: []agentapi.Disk{{SizeBytes: 3 << 20}}}
	source := must[*store.Source](t)(s.record.RegisterSource(s.ctx, "code", "token", "instance", "web", server, 10))
	once, frequency, keep := false, 24, 9
	s.jobID = must[string](t)(s.record.CreateJob(s.ctx, account, smc.CreateReplicationJobRequest{
		RegionID: region, SourceID: source.SourceID, RunOnce: &once, Frequency: &frequency, MaxNumberOfImageToKeep: &keep,
	}, 10))
	return s
}

func (s *site) open(url string) *store.Store {
	s.t.Helper()
	record := must[*store.Store](s.t)(store.Open(s.ctx, url, store.WithSealer(s.sealer)))
	s.t.Cleanup(func() { _ = record.Close() })
	return record
}

// image makes a run and its image, with content of its own.
func (s *site) image() string {
	s.t.Helper()
	s.run++
	id, key := "m-"+string(rune('a'+s.run)), "run"+string(rune('a'+s.run))
	trigger := smc.TriggerStart
	if s.run > 1 {
		trigger = smc.TriggerRun
	}
	_, err := s.record.StartRun(s.ctx, s.jobID, key, trigger, smc.RunManual, store.CutOverNone)
	require.NoError(s.t, err)
	require.NoError(s.t, s.record.BeginSync(s.ctx, s.jobID, key+"1", s.run, "http://host", 1))
	require.NoError(s.t, s.record.EndSync(s.ctx, s.jobID, key+"2", s.run))
	s.files(id)
	require.NoError(s.t, s.record.EndProcessing(s.ctx, s.jobID, key+"3", s.run, id, []store.ImageDisk{{SizeBytes: 3 << 20}}))
	_, err = s.record.EndRun(s.ctx, s.jobID, key+"4", s.run, false)
	require.NoError(s.t, err)
	return id
}

// files makes the files of an image.
func (s *site) files(id string) {
	s.t.Helper()
	content := make([]byte, 3<<20)
	copy(content[1<<20:], bytes.Repeat([]byte(id), 30000))
	var hashes []byte
	for grain := range slices.Chunk(content, replica.GrainSize) {
		hash := replica.ZeroHash
		if !bytes.Equal(grain, make([]byte, len(grain))) {
			hash = replica.GrainHash(grain)
		}
		hashes = append(hashes, hash[:]...)
	}
	patch := []byte("{}")
	manifest := must[[]byte](s.t)(json.Marshal(replica.Manifest{
		Version: 1, ImageID: id, JobID: s.jobID, Run: s.run, Verified: true,
		Disks: []replica.ManifestDisk{{SizeBytes: int64(len(content)), DeliveredSizeBytes: int64(len(content)), Root: blake3.Sum256(hashes), PatchHash: blake3.Sum256(patch)}},
	}))
	dir := filepath.Join(replica.ImagesDir(s.root), id)
	require.NoError(s.t, os.Mkdir(dir, 0o700))
	for name, data := range map[string][]byte{"disk-0.raw": content, "disk-0.map": hashes, "disk-0.patch": patch, replica.ManifestFile: manifest} {
		require.NoError(s.t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
}

func (s *site) take(options Options) *Result {
	s.t.Helper()
	return must[*Result](s.t)(Take(s.ctx, options))
}

func (s *site) requireImages(root string, ids ...string) {
	s.t.Helper()
	got := must[[]string](s.t)(replica.ImageDirs(root))
	require.ElementsMatch(s.t, ids, got)
	for _, id := range ids {
		result := must[*replica.VerifyResult](s.t)(replica.VerifyFiles(s.ctx, filepath.Join(replica.ImagesDir(root), id), nil))
		require.True(s.t, result.OK, "%+v", result)
		want := must[[]byte](s.t)(os.ReadFile(filepath.Join(replica.ImagesDir(s.root), id, "disk-0.raw")))
		require.Equal(s.t, want, must[[]byte](s.t)(os.ReadFile(filepath.Join(replica.ImagesDir(root), id, "disk-0.raw"))))
	}
}

// What was backed up comes back, into a place of its own; the second backup copies only what is new.
func TestBackupAndRestore(t *testing.T) {
	s := newSite(t)
	one, two := s.image(), s.image()
	to := filepath.Join(t.TempDir(), "backups")
	_, err := Open(to)
	require.ErrorIs(t, err, ErrNothing)
	var told []string
	options := Options{To: to, Record: s.record, DataDirs: []string{s.root}, Version: "test", Progress: func(what string, done, total int64) {
		require.LessOrEqual(t, done, total)
		told = append(told, what)
	}}
	first := s.take(options)
	require.Equal(t, 2, first.Copied)
	require.Zero(t, first.Linked)
	require.Empty(t, first.Elsewhere)
	require.Contains(t, told, "copy image "+one)
	require.Contains(t, told, "verify image "+two)
	require.Len(t, first.Manifest.Record.KeyIDs, 1)

	three := s.image()
	require.NoError(t, s.host.DeleteImage(s.ctx, one))
	require.NoError(t, s.record.DeleteImage(s.ctx, one))
	second := s.take(options)
	require.NotEqual(t, first.Dir, second.Dir)
	require.Equal(t, 1, second.Copied)
	require.Equal(t, 1, second.Linked)
	require.Equal(t, []Host{{HostID: s.hostID, Images: []string{two, three}}}, second.Manifest.Hosts)

	// A backup stands for itself.
	moved := filepath.Join(t.TempDir(), "moved")
	require.NoError(t, os.Rename(second.Dir, moved))
	require.NoError(t, os.RemoveAll(first.Dir))
	b := must[*Backup](t)(Open(moved))
	require.NoError(t, b.Verify(s.ctx, nil))

	target := Target{DatabaseURL: storetest.URL(t), Sealer: s.sealer, DataDirs: map[string]string{s.hostID: filepath.Join(t.TempDir(), "host")}}
	require.NoError(t, b.Restore(s.ctx, target))
	s.requireImages(target.DataDirs[s.hostID], two, three)
	require.Equal(t, s.hostID, must[string](t)(hostID(target.DataDirs[s.hostID])))
	again := s.open(target.DatabaseURL)
	key := must[store.AccessKey](t)(again.AccessKey(s.ctx, "key"))
	require.Equal(t, "very secret", key.Secret)
	images, total, err := again.Images(s.ctx, account, store.ImageFilter{}, store.Page{Number: 1, Size: 10})
	require.NoError(t, err)
	require.Equal(t, 2, total)
	require.ElementsMatch(t, []string{two, three}, []string{images[0].ImageID, images[1].ImageID})

	// And nothing in it tells a secret.
	require.NoError(t, filepath.WalkDir(moved, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || strings.HasSuffix(path, ".raw") {
			return err
		}
		info := must[os.FileInfo](t)(entry.Info())
		require.Zero(t, info.Mode().Perm()&0o077, path)
		text := must[[]byte](t)(os.ReadFile(path))
		if strings.HasSuffix(path, tableSuffix) {
			table := must[interface {
				Read([]byte) (int, error)
				Close() error
			}](t)(openTable(path))
			defer table.Close()
			var plain bytes.Buffer
			_, err := plain.ReadFrom(table)
			require.NoError(t, err)
			text = plain.Bytes()
		}
		require.NotContains(t, string(text), "very secret", path)
		return nil
	}))
}

// What is in the way, or not what it was, is told before anything is touched.
func TestRestoreRefuses(t *testing.T) {
	s := newSite(t)
	id := s.image()
	to := t.TempDir()
	result := s.take(Options{To: to, Record: s.record, DataDirs: []string{s.root}})
	fresh := func() Target {
		return Target{DatabaseURL: storetest.URL(t), Sealer: s.sealer, DataDirs: map[string]string{s.hostID: filepath.Join(t.TempDir(), "host")}}
	}
	requireUntouched := func(target Target) {
		t.Helper()
		require.NoError(t, store.RequireEmpty(s.ctx, target.DatabaseURL))
		require.NoDirExists(t, replica.ImagesDir(target.DataDirs[s.hostID]))
	}
	b := must[*Backup](t)(Open(to))

	target := fresh()
	target.DatabaseURL = s.url
	require.ErrorIs(t, b.Restore(s.ctx, target), store.ErrNotEmpty)
	require.NoDirExists(t, replica.ImagesDir(target.DataDirs[s.hostID]))

	target = fresh()
	target.DataDirs[s.hostID] = s.root
	require.ErrorContains(t, b.Restore(s.ctx, target), "in use", "its host runs")
	require.NoError(t, s.host.Close())
	require.ErrorContains(t, b.Restore(s.ctx, target), "not empty")
	require.NoError(t, store.RequireEmpty(s.ctx, target.DatabaseURL))
	s.requireImages(s.root, id)

	target = fresh()
	require.NoError(t, os.MkdirAll(target.DataDirs[s.hostID], 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(target.DataDirs[s.hostID], replica.HostIDFile), []byte("i-other"), 0o600))
	require.ErrorContains(t, b.Restore(s.ctx, target), "i-other")

	target = fresh()
	var err error
	target.Sealer, err = store.NewSealer(bytes.Repeat([]byte{8}, 32))
	require.NoError(t, err)
	require.ErrorIs(t, b.Restore(s.ctx, target), store.ErrNotOpened)
	requireUntouched(target)

	disk := filepath.Join(result.Dir, imagesDir, s.hostID, id, "disk-0.raw")
	for _, path := range []string{
		disk, filepath.Join(result.Dir, recordDir, "images"+tableSuffix), filepath.Join(filepath.Dir(disk), replica.ManifestFile),
		filepath.Join(result.Dir, manifestFile),
	} {
		whole := must[[]byte](t)(os.ReadFile(path))
		rotten := slices.Clone(whole)
		rotten[len(rotten)/2] ^= 1
		require.NoError(t, os.Remove(path)) // it may be a link to the host's own
		require.NoError(t, os.WriteFile(path, rotten, 0o600))
		target = fresh()
		b, err := Open(to)
		if err == nil {
			err = b.Restore(s.ctx, target)
		}
		require.ErrorContains(t, err, "damaged", path)
		requireUntouched(target)
		require.NoError(t, os.WriteFile(path, whole, 0o600))
	}
	require.NoError(t, b.Restore(s.ctx, fresh()))
}

// A manifest names files in its backup, and only such that are verified.
func TestOpenRefusesForeignPaths(t *testing.T) {
	s := newSite(t)
	id := s.image()
	result := s.take(Options{To: t.TempDir(), Record: s.record, DataDirs: []string{s.root}})
	path := filepath.Join(result.Dir, manifestFile)
	text := must[[]byte](t)(os.ReadFile(path))
	for name, change := range map[string]func(*Manifest){
		"image":               func(m *Manifest) { m.Hosts[0].Images[0] = "../../../" + id },
		"no image":            func(m *Manifest) { m.Hosts[0].Images[0] = "." },
		"host":                func(m *Manifest) { m.Hosts[0].HostID = "../" + imagesDir + "/" + s.hostID },
		"table":               func(m *Manifest) { m.Record.Tables[0].Name = "../" + recordDir + "/" + m.Record.Tables[0].Name },
		"file":                func(m *Manifest) { m.Files[0].Path = "../elsewhere" },
		"unverified table":    func(m *Manifest) { m.Record.Tables = append(m.Record.Tables, store.DumpedTable{Name: "another"}) },
		"unverified manifest": func(m *Manifest) { m.Hosts[0].Images = append(m.Hosts[0].Images, "i-another") },
	} {
		m := new(Manifest)
		require.NoError(t, json.Unmarshal(text, m))
		change(m)
		changed := must[[]byte](t)(json.Marshal(m))
		sum := blake3.Sum256(changed)
		require.NoError(t, os.WriteFile(path, changed, 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(result.Dir, hashFile), []byte(hex.EncodeToString(sum[:])), 0o600))
		_, err := Open(result.Dir)
		require.ErrorContains(t, err, "damaged", name)
	}
}

// A record that is restored, and cannot be opened afterwards, keeps its images.
func TestRestoredRecordThatDoesNotOpen(t *testing.T) {
	s := newSite(t)
	id := s.image()
	_, err := storetest.DB(t, s.url).ExecContext(s.ctx, `UPDATE access_keys SET secret = secret || 'AAAA'`)
	require.NoError(t, err)
	to := t.TempDir()
	s.take(Options{To: to, Record: s.record, DataDirs: []string{s.root}})
	target := Target{DatabaseURL: storetest.URL(t), Sealer: s.sealer, DataDirs: map[string]string{s.hostID: filepath.Join(t.TempDir(), "host")}}
	err = must[*Backup](t)(Open(to)).Restore(s.ctx, target)
	require.ErrorIs(t, err, store.ErrLoaded)
	require.ErrorIs(t, err, store.ErrNotOpened)
	s.requireImages(target.DataDirs[s.hostID], id)
	require.ErrorIs(t, store.RequireEmpty(s.ctx, target.DatabaseURL), store.ErrNotEmpty)
}

// Images that are made and deleted while a backup is taken neither fail it nor are missing from it.
func TestBackupWhileImagesComeAndGo(t *testing.T) {
	s := newSite(t)
	one, two := s.image(), s.image()
	s.files("m-unknown") // made, and not in the record yet
	changed := false
	options := Options{To: t.TempDir(), Record: s.record, DataDirs: []string{s.root}}
	options.Progress = func(what string, _, _ int64) {
		if what != "copy table audit" || changed {
			return // the record is being read: it has one and two
		}
		changed = true
		require.NoError(t, s.host.DeleteImage(s.ctx, one))
	}
	result := s.take(options)
	require.True(t, changed)
	require.Equal(t, []string{one, two}, result.Manifest.Hosts[0].Images, "it was copied before it went")
	require.Empty(t, result.Manifest.Hosts[0].Damaged)

	// One that came after the host was looked at, and went after the record was read: the record is read again.
	three, reads := "", 0
	options.To = t.TempDir()
	options.Progress = func(what string, done, total int64) {
		switch {
		case three == "" && what == "copy image "+two && done == total:
			three = s.image()
		case what == "copy table audit":
			if reads++; reads == 1 {
				require.NoError(t, s.host.DeleteImage(s.ctx, three))
				require.NoError(t, s.record.DeleteImage(s.ctx, three))
				require.NoError(t, s.record.DeleteImage(s.ctx, one))
			}
		}
	}
	result = s.take(options)
	require.Equal(t, 2, reads)
	require.NotEmpty(t, three)
	require.Equal(t, []Host{{HostID: s.hostID, Images: []string{two}}}, result.Manifest.Hosts)
	require.Equal(t, []store.DumpedImage{{ImageID: two, HostID: s.hostID}}, result.Manifest.Record.Images)
}

// A host that has lost images gets those back, and keeps what it has.
func TestGiveBack(t *testing.T) {
	s := newSite(t)
	one, two, three := s.image(), s.image(), s.image()
	to := t.TempDir()
	b := must[*Backup](t)(Open(s.take(Options{To: to, DataDirs: []string{s.root}}).Dir))
	four := s.image()
	root := filepath.Join(t.TempDir(), "host")
	dirs := map[string]string{s.hostID: root}
	require.NoError(t, os.CopyFS(root, os.DirFS(s.root)))
	staged := filepath.Join(root, "staging", "j-1", "disk-0.raw")
	require.NoError(t, os.MkdirAll(filepath.Dir(staged), 0o700))
	require.NoError(t, os.WriteFile(staged, []byte("staged"), 0o600))
	lose := func() {
		require.NoError(t, os.RemoveAll(filepath.Join(replica.ImagesDir(root), one)))
		require.NoError(t, os.Remove(filepath.Join(replica.ImagesDir(root), two, replica.ManifestFile)))
	}

	lose()
	_, err := b.GiveBack(s.ctx, map[string]string{s.hostID: s.root}, nil, nil)
	require.ErrorContains(t, err, "in use", "its host runs")
	_, err = b.GiveBack(s.ctx, dirs, []string{one, four}, nil)
	require.ErrorContains(t, err, "has no image "+four)
	require.NoDirExists(t, filepath.Join(replica.ImagesDir(root), one))
	require.Equal(t, []Given{{HostID: s.hostID, Images: []string{two}}}, must[[]Given](t)(b.GiveBack(s.ctx, dirs, []string{two}, nil)))
	s.requireImages(root, two, three, four)
	lose()
	require.Equal(t, []Given{{HostID: s.hostID, Images: []string{one, two}, There: []string{three}}}, must[[]Given](t)(b.GiveBack(s.ctx, dirs, nil, nil)))
	s.requireImages(root, one, two, three, four)
	require.FileExists(t, staged)
	left := must[[]string](t)(filepath.Glob(filepath.Join(root, "*"+partial+"*")))
	require.Empty(t, left)

	// What is not given back need not be whole.
	lose()
	disk := filepath.Join(b.Dir, imagesDir, s.hostID, one, "disk-0.raw")
	require.NoError(t, os.Remove(disk)) // it may be a link to the host's own
	require.NoError(t, os.WriteFile(disk, bytes.Repeat([]byte{1}, 3<<20), 0o600))
	_, err = b.GiveBack(s.ctx, dirs, nil, nil)
	require.ErrorContains(t, err, "damaged")
	must[[]Given](t)(b.GiveBack(s.ctx, dirs, []string{two}, nil))
	s.requireImages(root, two, three, four)
}

// A damaged image does not keep the others from being backed up.
func TestBackupOfADamagedImage(t *testing.T) {
	s := newSite(t)
	one, two := s.image(), s.image()
	path := filepath.Join(replica.ImagesDir(s.root), one, "disk-0.raw")
	content := must[[]byte](t)(os.ReadFile(path))
	content[1<<20] ^= 1
	require.NoError(t, os.WriteFile(path, content, 0o600))
	result := s.take(Options{To: t.TempDir(), Record: s.record, DataDirs: []string{s.root}})
	require.Equal(t, []Host{{HostID: s.hostID, Images: []string{two}, Damaged: []string{one}}}, result.Manifest.Hosts)
	require.NoError(t, must[*Backup](t)(Open(result.Dir)).Verify(s.ctx, nil))
}

func TestBackupOfParts(t *testing.T) {
	s := newSite(t)
	id := s.image()
	to := t.TempDir()
	record := s.take(Options{To: to, Record: s.record})
	require.Equal(t, []store.DumpedImage{{ImageID: id, HostID: s.hostID}}, record.Elsewhere)
	images := s.take(Options{To: to, DataDirs: []string{s.root}})
	require.Nil(t, images.Manifest.Record)
	require.Equal(t, 1, images.Copied)
	b := must[*Backup](t)(Open(images.Dir))
	require.ErrorContains(t, b.Restore(s.ctx, Target{DatabaseURL: storetest.URL(t)}), "images only")
	root := filepath.Join(t.TempDir(), "host")
	require.Equal(t, []Given{{HostID: s.hostID, Images: []string{id}}}, must[[]Given](t)(b.GiveBack(s.ctx, map[string]string{s.hostID: root}, nil, nil)))
	s.requireImages(root, id)
	_, err := Take(s.ctx, Options{To: to})
	require.ErrorContains(t, err, "nothing to back up")
	_, err = Take(s.ctx, Options{To: to, DataDirs: []string{t.TempDir()}})
	require.ErrorContains(t, err, "not the data of a transition host")

	// A backup that was cut off is no backup, and the next one clears it.
	left := filepath.Join(to, partial+"left")
	require.NoError(t, os.MkdirAll(filepath.Join(left, recordDir), 0o700))
	unlock, err := lock(to)
	require.NoError(t, err)
	require.NoDirExists(t, left)
	_, err = Take(s.ctx, Options{To: to, Record: s.record})
	require.ErrorContains(t, err, "under way")
	unlock()
}
