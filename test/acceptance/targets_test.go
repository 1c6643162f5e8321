package acceptance

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/smc"
	"github.com/drover/drover/test/disks"
	"github.com/drover/drover/test/stack"
)

// empty makes a disk of a target instance, all zeros.
func (s *center) empty(name string, size int64) string {
	s.t.Helper()
	path := filepath.Join(s.Dir, name+".raw")
	require.NoError(s.t, os.WriteFile(path, nil, 0o600))
	require.NoError(s.t, os.Truncate(path, size))
	return path
}

func (s *center) startTarget(name string, disks ...string) *stack.Target {
	s.t.Helper()
	target, err := s.StartTarget(within(s.t, slow), s.code(), name, disks...)
	require.NoError(s.t, err)
	return target
}

func (s *center) instance(id string) (found smc.Instance) {
	s.t.Helper()
	s.droverJSON(&found, "target", "show", id)
	return found
}

// requireDelivered exports the delivered artifact of an image and holds the disks of a target instance against it, byte for byte.
func (s *center) requireDelivered(image string, disks ...string) {
	s.t.Helper()
	dir := filepath.Join(s.Dir, "delivered-"+image)
	s.drover("image", "export", image, dir)
	for i, disk := range disks {
		requireSameBytes(s.t, filepath.Join(dir, fmt.Sprintf("disk-%d.raw", i)), disk)
	}
	require.NoError(s.t, os.RemoveAll(dir))
}

// A job migrates to a target instance: each run's image is on its disks, of their size, whatever was killed while it was written; a run
// transfers what has changed; a target that is away is waited for.
func TestTargetInstances(t *testing.T) {
	t.Parallel()
	s := newCenter(t)
	heard := s.follow()
	system, data := filepath.Join(s.Dir, "system.raw"), filepath.Join(s.Dir, "data.raw")
	require.NoError(t, disks.Make(system, disks.Spec{SizeBytes: 128 * mib, Seed: 51, FillBytes: 80 * mib}))
	makeDisk(t, data, 32*mib, 16*mib, 8, 52)
	a := s.startAgent("web", system, data)
	own := []string{s.empty("target-system", 160*mib), s.empty("target-data", 48*mib+512)}
	target := s.startTarget("rack-7", own...)

	// What does not fit is refused before anything is copied.
	create := func(instance string, args ...string) []string {
		return append([]string{"job", "create", "--source", a.name, "--name", a.name, "--image-name", a.name, "--target-type", "TargetInstance", "--instance-id", instance}, args...)
	}
	s.refused(smc.CodeInvalidInstanceIDNotFound, []string{"i-none"}, create("i-none")...)
	small := s.startTarget("small", s.empty("small", 64*mib))
	s.refused(smc.CodeInvalidInstanceIDDiskMismatch, []string{"disk 0", "134217728"}, create(small.InstanceID)...)
	s.refused(smc.CodeInvalidInstanceIDDiskMismatch, []string{"disk 0", "21474836480"}, create(target.InstanceID, "--system-disk-size", "20")...)
	full := s.startTarget("full", copyDisk(t, filepath.Join(s.Dir, "full.raw"), system), s.empty("full-data", 48*mib))
	s.refused(smc.CodeInvalidInstanceIDDiskMismatch, []string{"disk 0", "--overwrite"}, create(full.InstanceID)...)

	// About 6 MB a second: the delivery takes long enough to be killed in the middle, by a busy machine too.
	var job smc.ReplicationJob
	s.droverJSON(&job, create(target.InstanceID, "--run-once=false", "--frequency", "12", "--max-images", "1", "--replication-parameters", `{"bandwidth_limit":50000}`, "--start")...)
	id := job.JobID
	s.refused(smc.CodeInvalidInstanceIDInUse, []string{id}, "target", "delete", "rack-7")
	var before smc.Instance
	stack.Eventually(t, slow, "the image is being written", func() (bool, any) {
		before = s.instance(target.InstanceID)
		return before.DeliveryState == smc.DeliveryDelivering && before.BytesFetched > 16*mib, before
	})
	require.Less(t, before.BytesDone, before.BytesTotal, "it is killed in the middle")
	target.Kill()
	require.NoError(t, target.Start())
	s.awaitStatus(id, smc.StatusWaiting)
	first := s.instance(target.InstanceID)
	assert.Equal(t, smc.DeliveryDone, first.DeliveryState)
	needed := nonZero(t, system, data)
	t.Logf("%d bytes of %d were fetched after the kill, %d before", first.BytesFetched, needed, before.BytesFetched)
	assert.Less(t, first.BytesFetched, needed-8*mib, "what was there is not fetched again")
	images := s.images(id)
	require.Len(t, images, 1)
	assert.Equal(t, smc.TargetImage, images[0].TargetType)
	assert.Equal(t, first.ImageID, images[0].ImageID)
	assert.Equal(t, []int64{160 * mib, 48*mib + 512}, []int64{images[0].Disks[0].DeliveredSizeBytes, images[0].Disks[1].DeliveredSizeBytes})
	s.requireDelivered("web_CYCLE_1", own...)

	// The next run writes what has changed, with everything killed meanwhile.
	require.NoError(t, disks.Mutate(system, 2, mib))
	change(t, data, 8, 100_000, 2)
	s.drover("job", "run", id)
	stack.Eventually(t, slow, "the run has got to its image", func() (bool, any) {
		d, err := s.details(id)
		return err == nil && d.Run == 2 && d.BusinessStatus != smc.BusinessPreparing && d.BusinessStatus != smc.BusinessSyncing, d
	})
	s.again()
	s.awaitStatus(id, smc.StatusWaiting)
	second := s.instance(target.InstanceID)
	t.Logf("the second run transferred %d bytes", second.BytesFetched)
	assert.NotEqual(t, first.ImageID, second.ImageID)
	assert.Less(t, second.BytesFetched, int64(16*mib))
	s.requireDelivered("web_CYCLE_2", own...)

	// A cutover moves the last changes. Its target is away when the image is made, and is waited for.
	change(t, data, 8, 100_000, 3)
	target.Kill()
	s.drover("job", "cutover", id, "--sync-data")
	stack.Eventually(t, slow, "the run waits for its target", func() (bool, any) {
		var shown smc.ReplicationJob
		s.droverJSON(&shown, "job", "show", id)
		return shown.Status == smc.StatusRunning && shown.BusinessStatus == smc.BusinessProcessing &&
			strings.Contains(shown.StatusInfo, smc.CodeTargetInstanceOffline) && strings.Contains(shown.StatusInfo, "rack-7"), shown
	})
	require.NoError(t, target.Start())
	s.awaitStatus(id, smc.StatusFinished)
	s.requireDelivered("web_CYCLE_3", own...)
	heard.requireStory(t, id, chain("Ready", oneRun, "Waiting", oneRun, "Waiting", oneRun, "Finished"))

	s.drover("target", "delete", "rack-7")
	code, err := target.Wait(within(t, slow))
	require.NoError(t, err)
	assert.NotZero(t, code, "the target ends when the center does not know it any more")
}
