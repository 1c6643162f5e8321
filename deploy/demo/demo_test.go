package main

import (
	"bytes"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/fleet"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/test/process"
	"github.com/drover/drover/test/stack"
)

func TestClaimTakesOnlyADemosDirectory(t *testing.T) {
	foreign := t.TempDir()
	precious := filepath.Join(foreign, "precious")
	require.NoError(t, os.WriteFile(precious, nil, 0o600))
	_, err := claim(foreign)
	require.ErrorContains(t, err, "no demo has made")
	assert.FileExists(t, precious)

	dir := filepath.Join(t.TempDir(), "demo-data")
	lock, err := claim(dir)
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "center", "images"), 0o700))
	_, err = claim(dir)
	require.ErrorContains(t, err, "another demo is running")
	assert.DirExists(t, filepath.Join(dir, "center"), "the data of a demo that runs is left alone")
	require.NoError(t, lock.Close())

	lock, err = claim(dir)
	require.NoError(t, err)
	defer lock.Close()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1, "a second run starts afresh")
	assert.Equal(t, marker, entries[0].Name())
}

func TestRunSaysWhatIsWrong(t *testing.T) {
	for _, test := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--bogus"}, exitUsage, "bogus"},
		{[]string{"extra"}, exitUsage, `unexpected argument "extra"`},
		{[]string{"--help"}, exitOK, "--bin"},
		{[]string{"--bin", t.TempDir(), "--dir", t.TempDir()}, exitFailed, "run make build first"},
	} {
		var stdout, stderr bytes.Buffer
		assert.Equal(t, test.code, run(t.Context(), test.args, &stdout, &stderr), test.args)
		assert.Contains(t, strings.ReplaceAll(stderr.String(), " -bin", " --bin"), test.want)
		assert.Empty(t, stdout.String())
	}
}

func TestAStackThatDoesNotComeUp(t *testing.T) {
	bin, dir := t.TempDir(), t.TempDir()
	for _, name := range []string{"drover", "drover-agent", "drover-dev"} {
		script := "#!/bin/sh\necho broken to pieces >&2\nexit 3\n"
		require.NoError(t, os.WriteFile(filepath.Join(bin, name), []byte(script), 0o700)) //nolint:gosec // to be run
	}
	var stdout, stderr bytes.Buffer
	assert.Equal(t, exitFailed, run(t.Context(), []string{"--bin", bin, "--dir", dir}, &stdout, &stderr))
	assert.Contains(t, stderr.String(), "drover-dev ended (exit status 3)")
	assert.Contains(t, stderr.String(), "broken to pieces")
	assert.Contains(t, stderr.String(), "Logs: "+filepath.Join(dir, "logs"))
}

func TestCopySparseAndCompare(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	const size = 8*mib + 1000 // the last grain is short
	f, err := os.Create(from)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(size))
	for _, at := range []int64{0, 3*mib + 5, size - 1} {
		_, err := f.WriteAt([]byte{1}, at)
		require.NoError(t, err)
	}
	require.NoError(t, f.Close())
	require.NoError(t, copySparse(to, from))
	diff, err := compare(from, to)
	require.NoError(t, err)
	assert.Zero(t, diff)
	var stat syscall.Stat_t
	require.NoError(t, syscall.Stat(to, &stat))
	assert.Less(t, stat.Blocks*512, int64(mib), "holes stay holes")

	f, err = os.OpenFile(to, os.O_RDWR, 0)
	require.NoError(t, err)
	for _, at := range []int64{2*mib + grainSize + 7, 2*mib + grainSize + 9, size - 2} {
		_, err := f.WriteAt([]byte{9}, at)
		require.NoError(t, err)
	}
	diff, err = compare(from, to)
	require.NoError(t, err)
	assert.Equal(t, difference{grains: 2, first: 2*mib + grainSize + 7}, diff)
	require.NoError(t, f.Truncate(size-1))
	require.NoError(t, f.Close())
	_, err = compare(from, to)
	assert.Error(t, err, "files of different sizes")

	empty := filepath.Join(dir, "empty")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	require.NoError(t, copySparse(filepath.Join(dir, "empty-copy"), empty))
}

// tell makes the events of a job that goes through these places.
func tell(places ...string) (story []jobEvent) {
	var status, phase string
	for i, p := range places {
		e := jobEvent{SpecVersion: "1.0", ID: "j-1/" + p + string(rune('a'+i)), Type: "t", Source: "s"}
		e.Data.PreviousStatus, e.Data.PreviousBusinessStatus = status, phase
		status, phase, _ = strings.Cut(p, "/")
		e.Data.JobID, e.Data.Sequence, e.Data.Status, e.Data.BusinessStatus = "j-1", int64(i+1), status, phase
		story = append(story, e)
	}
	return story
}

func TestCheckStory(t *testing.T) {
	run := []string{"Running/Preparing", "Running/Syncing", "Running/Processing", "Running/Cleaning"}
	once := append(append([]string{"Ready"}, run...), "Finished")
	twice := append(append(append(append([]string{"Ready"}, run...), "Waiting"), run...), "Finished")
	jobOnce, jobTwice := &job{server: &server{states: make([][]string, 1)}}, &job{server: &server{states: make([][]string, 2)}}
	require.NoError(t, jobOnce.checkStory(tell(once...)))
	require.NoError(t, jobTwice.checkStory(tell(twice...)))
	require.Error(t, jobTwice.checkStory(tell(once...)))
	require.Error(t, jobOnce.checkStory(nil))
	require.Error(t, jobOnce.checkStory(tell(once[:5]...)), "the end is missing")

	for name, spoil := range map[string]func([]jobEvent) []jobEvent{
		"twice":          func(s []jobEvent) []jobEvent { return append(s[:2:2], s[1:]...) },
		"a gap":          func(s []jobEvent) []jobEvent { return append(s[:2:2], s[3:]...) },
		"out of order":   func(s []jobEvent) []jobEvent { s[1], s[2] = s[2], s[1]; return s },
		"wrong previous": func(s []jobEvent) []jobEvent { s[3].Data.PreviousBusinessStatus = "Preparing"; return s },
		"same id":        func(s []jobEvent) []jobEvent { s[3].ID = s[2].ID; return s },
		"no CloudEvent":  func(s []jobEvent) []jobEvent { s[0].SpecVersion = ""; return s },
	} {
		assert.Error(t, jobOnce.checkStory(spoil(tell(once...))), name)
	}
}

func TestOnlyChanges(t *testing.T) {
	dir := t.TempDir()
	s := &server{name: "db-1", dir: dir, incremental: true, changeBytes: mib, specs: servers()[0].specs}
	s.specs[0].SizeBytes, s.specs[0].FillBytes = 32*mib, 8*mib
	require.NoError(t, s.makeDisks())
	require.NoError(t, s.remember())
	require.NoError(t, s.change())
	require.NoError(t, s.remember())
	j := &job{server: s, detail: &smc.DescribeReplicationJobDetailsResult{Runs: smc.List[smc.JobRun]{{Number: 1}, {Number: 2}}}}
	require.ErrorContains(t, onlyChanges(j), "sent nothing")
	diff, err := compare(s.states[0][0], s.states[1][0])
	require.NoError(t, err)
	j.detail.Runs[1].BytesSentRaw = diff.grains * grainSize
	require.NoError(t, onlyChanges(j))
	j.detail.Runs[1].BytesSentRaw++
	require.ErrorContains(t, onlyChanges(j), "had changed")
}

func TestSentAgain(t *testing.T) {
	s := &server{name: "app-2", dir: t.TempDir(), specs: servers()[0].specs}
	s.specs[0].SizeBytes, s.specs[0].FillBytes = 32*mib, 8*mib
	require.NoError(t, s.makeDisks())
	require.NoError(t, s.remember())
	needed, err := nonZero(s.disk(0))
	require.NoError(t, err)
	assert.Greater(t, needed, int64(8*mib))
	assert.Less(t, needed, int64(16*mib), "holes and zeroes do not count")
	j := &job{server: s, back: true, detail: &smc.DescribeReplicationJobDetailsResult{Runs: smc.List[smc.JobRun]{{Number: 1}}}}
	for sent, ok := range map[int64]bool{needed - 1: false, needed: true, needed + resend: true, needed + resend + 1: false} {
		j.detail.Runs[0].BytesSentRaw = sent
		assert.Equal(t, ok, sentAgain(j) == nil, "%d of %d", sent, needed)
	}
	j.back = false
	require.ErrorContains(t, sentAgain(j), "never killed")
}

func TestWithinSlots(t *testing.T) {
	at := func(second int, previous, status string) (e jobEvent) {
		e.Time = time.Unix(int64(second), 0)
		e.Data.PreviousStatus, e.Data.Status = previous, status
		return e
	}
	one := []jobEvent{at(0, "", "Ready"), at(1, "Ready", "Running"), at(2, "Running", "Running"), at(4, "Running", "Finished")}
	after := []jobEvent{at(0, "", "Ready"), at(4, "Ready", "Running"), at(5, "Running", "InError"), at(6, "InError", "Running"), at(7, "Running", "Finished")}
	beside := []jobEvent{at(3, "Ready", "Running"), at(8, "Running", "Finished")}
	require.NoError(t, withinSlots(1, [][]jobEvent{one, after}))
	require.ErrorContains(t, withinSlots(1, [][]jobEvent{one, after, beside}), "2 at")
	require.NoError(t, withinSlots(2, [][]jobEvent{one, after, beside}))
	require.Error(t, withinSlots(1, nil), "no event proves nothing")
	require.Error(t, withinSlots(1, [][]jobEvent{one[:2]}), "a job that is Running in the end")
}

func TestCheckPhases(t *testing.T) {
	migrated := func(phases ...fleet.Phase) (changes []change) {
		var last fleet.Phase
		for i, phase := range phases {
			var c change
			c.Data.Sequence, c.Data.PreviousPhase, c.Data.Phase = i+1, last, phase
			last = phase
			changes = append(changes, c)
		}
		return changes
	}
	once := []fleet.Phase{
		fleet.PhasePreflight, fleet.PhaseCreating, fleet.PhaseQueued, fleet.PhaseQueued, fleet.PhaseStarting,
		fleet.PhaseReplicate, fleet.PhaseVerifying, fleet.PhaseDone,
	}
	j := &job{server: &server{}}
	require.NoError(t, checkPhases(j, migrated(once...)))
	require.Error(t, checkPhases(j, migrated(once[:7]...)), "the end is missing")
	require.Error(t, checkPhases(j, migrated(once...)[1:]), "the beginning is missing")
	require.Error(t, checkPhases(j, nil))
	swapped := migrated(once...)
	swapped[1], swapped[2] = swapped[2], swapped[1]
	require.Error(t, checkPhases(j, swapped))
	require.Error(t, checkPhases(&job{server: &server{incremental: true}}, migrated(once...)))
}

func TestManifestNamesTheServers(t *testing.T) {
	f, err := fleet.ReadManifest(strings.NewReader(manifest))
	require.NoError(t, err)
	require.Len(t, f.Waves, len(slots))
	for i, wave := range f.Waves {
		assert.Equal(t, slots[i].wave, wave.Name)
		assert.Equal(t, slots[i].most, wave.MaxConcurrent)
	}
	for _, s := range servers() {
		found := 0
		for _, wave := range f.Waves {
			for _, entry := range wave.Servers {
				matches, err := path.Match(entry.Match, s.name)
				require.NoError(t, err)
				if entry.Name == s.name || entry.Match != "" && matches {
					found++
					assert.Equal(t, s.wave, wave.Name, s.name)
				}
			}
		}
		assert.Equal(t, 1, found, "entries for %s", s.name)
	}
}

func TestBudget(t *testing.T) {
	assert.NoError(t, withinBudget(&job{history: historyBudget}))
	assert.Error(t, withinBudget(&job{history: historyBudget + 1}))
}

func TestPollWatchesTheProcesses(t *testing.T) {
	p := &process.Process{Name: "the shell", Program: "/bin/sh", Args: []string{"-c", "exit 6"}, Log: filepath.Join(t.TempDir(), "log")}
	require.NoError(t, p.Start())
	t.Cleanup(p.Kill)
	d := &demo{stack: &stack.Stack{Dev: p}}
	err := d.poll(t.Context(), time.Millisecond, func() (bool, error) { return false, nil })
	require.ErrorContains(t, err, "exit status 6")
	d.away = p
	require.NoError(t, d.poll(t.Context(), time.Millisecond, func() (bool, error) { return true, nil }), "it is meant to be away")
}
