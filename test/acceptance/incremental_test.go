package acceptance

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/smc"
	"github.com/drover/drover/test/disks"
	"github.com/drover/drover/test/stack"
)

// An incremental job makes one image a run, sends what has changed, keeps the newest images and leaves nothing else.
func TestIncrementalJob(t *testing.T) {
	t.Parallel()
	s := newCenter(t)
	heard := s.follow()
	system, data := filepath.Join(s.Dir, "system.raw"), filepath.Join(s.Dir, "data.raw")
	require.NoError(t, disks.Make(system, disks.Spec{SizeBytes: 96 * mib, Seed: 31, FillBytes: 32 * mib}))
	makeDisk(t, data, 64*mib, 32*mib, 8, 32)
	a := s.startAgent("db-1", system, data)
	job := s.createJob(a, "--run-once=false", "--frequency", "12", "--max-images", "2", "--start")

	copies := func(run int) []string {
		var names []string
		for i, disk := range []string{system, data} {
			names = append(names, copyDisk(t, filepath.Join(s.Dir, fmt.Sprintf("run-%d-disk-%d.raw", run, i)), disk))
		}
		return names
	}
	work := func(run uint64) {
		require.NoError(t, disks.Mutate(system, run, mib))
		change(t, data, 8, 100_000, run)
	}
	// checkRun checks what a run sent and made.
	checkRun := func(d *smc.DescribeReplicationJobDetailsResult, number int, before, now []string) {
		t.Helper()
		run := runOf(t, d, number)
		assert.Equal(t, smc.RunSucceeded, run.Status)
		needed := nonZero(t, now...)
		if before != nil {
			needed = differing(t, before[0], now[0]) + differing(t, before[1], now[1])
			assert.NotZero(t, needed)
		}
		t.Logf("run %d sent %d bytes of %d that differ", number, run.BytesSentRaw, needed)
		assert.LessOrEqual(t, run.BytesSentRaw, needed, "bytes sent by run %d", number)
		assert.NotZero(t, run.BytesSentRaw)
		s.exportSynced(fmt.Sprintf("db-1_CYCLE_%d", number), now...)
	}

	first := copies(1)
	checkRun(s.awaitStatus(job, smc.StatusWaiting), 1, nil, first)
	assert.Equal(t, []string{job}, s.stagingDirs(), "staging areas between runs")

	work(2)
	second := copies(2)
	s.drover("job", "run", job)
	s.drover("job", "watch", job)
	checkRun(s.awaitStatus(job, smc.StatusWaiting), 2, first, second)
	s.exportSynced("db-1_CYCLE_1", first...) // the first image did not change with the staged disks

	// Whoever was given a ticket for an image may still be reading it, and it is kept; by the next run the tickets have expired.
	db, err := s.Database.Open()
	require.NoError(t, err)
	defer db.Close()
	_, err = db.ExecContext(t.Context(), `UPDATE images SET in_use_until = 0`)
	require.NoError(t, err)

	work(3)
	third := copies(3)
	s.drover("job", "cutover", job, "--sync-data")
	d := s.awaitStatus(job, smc.StatusFinished)
	checkRun(d, 3, second, third)
	s.exportSynced("db-1_CYCLE_2", second...)

	// The first image is over the limit: its row and its files are gone.
	var names, ids []string
	for _, image := range s.images(job) {
		names, ids = append(names, image.ImageName), append(ids, image.ImageID)
		assert.Equal(t, smc.ImageAvailable, image.Status)
	}
	assert.ElementsMatch(t, []string{"db-1_CYCLE_2", "db-1_CYCLE_3"}, names)
	assert.ElementsMatch(t, ids, s.imageDirs(), "images on the transition host")
	s.refused(smc.CodeInvalidImageIDNotFound, nil, "image", "show", runOf(t, d, 1).ImageID)
	assert.Empty(t, s.stagingDirs(), "staging areas after the last run")

	s.drover("job", "delete", job)
	stack.Eventually(t, slow, "the job is gone", func() (bool, any) {
		_, err := s.details(job)
		return smc.CodeOf(err) == smc.CodeInvalidJobIDNotFound, err
	})
	s.refused(smc.CodeInvalidJobIDNotFound, []string{job}, "job", "show", job)
	assert.ElementsMatch(t, ids, s.imageDirs(), "images outlive their job")
	s.drover("image", "verify", "db-1_CYCLE_2")
	s.exportSynced("db-1_CYCLE_3", third...)
	heard.requireStory(t, job, chain("Ready", oneRun, "Waiting", oneRun, "Waiting", oneRun, "Finished", "Deleting", "Deleted"))

	// The source is free again.
	again := s.createJob(a)
	assert.NotEqual(t, job, again)
}

// A cutover without a last run ends the job with the image it has.
func TestCutOverWithoutSync(t *testing.T) {
	t.Parallel()
	s := newCenter(t)
	heard := s.follow()
	disk := makeDisk(t, filepath.Join(s.Dir, "disk.raw"), 16*mib, 8*mib, 4, 33)
	job := s.createJob(s.startAgent("app-1", disk), "--run-once=false", "--frequency", "1", "--max-images", "1", "--start")
	s.awaitStatus(job, smc.StatusWaiting)
	then := copyDisk(t, filepath.Join(s.Dir, "then.raw"), disk)
	change(t, disk, 4, 4096, 34)
	s.drover("job", "cutover", job)
	d := s.awaitStatus(job, smc.StatusFinished)
	require.Len(t, d.Runs, 1)
	stack.Eventually(t, slow, "the staging area is released", func() (bool, any) {
		dirs := s.stagingDirs()
		return len(dirs) == 0, dirs
	})
	s.exportSynced("app-1_CYCLE_1", then)
	heard.requireStory(t, job, chain("Ready", oneRun, "Waiting", "Finished"))
}
