package acceptance

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/fleet"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/test/stack"
)

// dcExit is the manifest that the project promises to take.
const dcExit = `name: dc-exit
defaults: {targetType: Image, systemDiskSize: 40, runOnce: true}
waves:
  - name: pilot
    maxConcurrent: 1
    servers: [{name: web-1}, {name: web-2, runOnce: false, frequency: 12, maxNumberOfImageToKeep: 3, cutover: {afterRuns: 2}}]
  - name: rest
    maxConcurrent: 8
    servers: [{match: "db-*"}]
`

// checkDCExit checks what that manifest must lead to.
func (s *center) checkDCExit(heard *follower, status fleet.Status, disks map[string]string) {
	t := s.t
	t.Helper()
	require.Equal(t, fleet.Completed, status.Status, "%+v", status)
	require.Len(t, status.Servers, len(disks))
	var images []string
	for name, disk := range disks {
		runs := 1
		if name == "web-2" {
			runs = 2
		}
		m := requireDone(t, status, name, runs)
		assert.Zero(t, m.Attempts, "attempts of %s", name)
		images = append(images, m.Images...)
		s.exportSynced(m.ImageID, disk)
	}
	s.requireClean(images...)
	heard.told(t, status)
	assert.ElementsMatch(t, allJobs(status), heard.jobs(), "a job for each server and no more")
	assert.LessOrEqual(t, heard.mostAtOnce(t, jobsOf(status, "pilot")...), 1, "jobs of wave pilot that were Running at once")
	for name := range disks {
		want := chain("Ready", oneRun, "Finished", "Deleting", "Deleted")
		if name == "web-2" {
			want = chain("Ready", oneRun, "Waiting", oneRun, "Finished", "Deleting", "Deleted")
		}
		heard.requireStory(t, server(t, status, name).JobID, want)
	}

	events := s.fleetEvents()
	for name := range disks {
		want := oneTime
		if name == "web-2" {
			want = slices.Concat(oneTime[:5], []fleet.Phase{fleet.PhaseQueued, fleet.PhaseCuttingOver}, oneTime[5:])
			if !slices.Contains(phases(events, name)[4:], string(fleet.PhaseQueued)) {
				want = slices.Concat(oneTime[:5], []fleet.Phase{fleet.PhaseCuttingOver}, oneTime[5:]) // it has its slot still
			}
		}
		requirePhases(t, events, name, want...)
	}
	var pilotEnds, restBegins fleetEvent
	var waves []string
	for _, e := range events {
		switch {
		case e.Data.SourceID == "":
			waves = append(waves, string(e.Data.Status)+" "+e.Data.Wave)
		case e.Data.Wave == "pilot" && e.Time.After(pilotEnds.Time):
			pilotEnds = e
		case e.Data.Wave == "rest" && (restBegins.Time.IsZero() || e.Time.Before(restBegins.Time)):
			restBegins = e
		}
	}
	assert.False(t, restBegins.Time.Before(pilotEnds.Time), "wave rest begins with %+v, before the end of pilot with %+v", restBegins, pilotEnds)
	assert.Equal(t, []string{"Running pilot", "Running rest", "Completed rest"}, waves, "what the fleet tells of itself")
}

// The manifest of the documentation, from the command line to the last image.
func TestFleet(t *testing.T) {
	t.Parallel()
	s := newCenter(t)
	heard := s.follow()
	disks := s.smallServers(12*mib, "web-1", "web-2", "db-1", "db-2")
	s.drover("fleet", "apply", "-f", s.manifest(dcExit), "--watch") // exit code 0: it is Completed
	s.checkDCExit(heard, s.fleetStatus("dc-exit"), disks)
	assert.Contains(t, s.drover("fleet", "list"), "dc-exit")
}

// With the event stream switched off the same fleet finishes by polling.
func TestFleetPolls(t *testing.T) {
	t.Parallel()
	s := newCenterWith(t, stack.Options{Env: []string{"DROVER_BRIDGE=off"}})
	heard := s.follow()
	disks := s.smallServers(12*mib, "web-1", "web-2", "db-1", "db-2")
	s.drover("fleet", "apply", "-f", s.manifest("pollInterval: 1s\n"+dcExit))
	status := s.awaitFleetEnd("dc-exit")
	warned, err := s.Dev.Logged("the bridge is off")
	require.NoError(t, err)
	require.Equal(t, 1, warned)
	s.checkDCExit(heard, status, disks)
}

// A worker with role orchestrator killed three times, at its busiest: the fleet finishes, no job is created twice, no
// more jobs run than there are slots.
func TestOrchestratorKilled(t *testing.T) {
	t.Parallel()
	s := newCenterWith(t, stack.Options{DevArgs: []string{"--roles", "center,transition"}, Orchestrators: 1})
	heard := s.follow()
	disks := s.smallServers(24*mib, "web-1", "web-2", "web-3", "db-1", "db-2", "db-3")
	s.drover("fleet", "apply", "-f", s.manifest(`name: killed
pollInterval: 5s
defaults: {systemDiskSize: 40, replicationParameters: {bandwidth_limit: 100000}}
waves:
  - name: first
    maxConcurrent: 2
    servers: [{match: "web-*"}]
  - name: second
    maxConcurrent: 2
    servers: [{match: "db-*"}]
`))
	count := func(status string, number int) func() (bool, any) {
		return func() (bool, any) {
			n := 0
			for _, job := range heard.jobs() {
				for _, e := range heard.story(job) {
					if place(e.Data.Status, e.Data.BusinessStatus) == status {
						n++
					}
				}
			}
			return n >= number, n
		}
	}
	for _, moment := range []struct {
		status string
		number int
	}{
		{"Ready", 2},           // a third is being created
		{"Finished", 1},        // an image is to be verified, a slot is free
		{"Running/Syncing", 5}, // in the second wave
	} {
		stack.Eventually(t, fleetLimit, "events "+moment.status, count(moment.status, moment.number))
		require.NoError(t, s.Orchestrators[0].Restart(within(t, stack.StartLimit)))
	}
	status := s.awaitFleetEnd("killed")
	require.Equal(t, fleet.Completed, status.Status, "%+v", status)
	var images []string
	for name, disk := range disks {
		m := requireDone(t, status, name, 1)
		images = append(images, m.Images...)
		s.exportSynced(m.ImageID, disk)
	}
	s.requireClean(images...)
	heard.told(t, status)
	assert.ElementsMatch(t, allJobs(status), heard.jobs(), "a job for each server and no more")
	for _, wave := range []string{"first", "second"} {
		assert.LessOrEqual(t, heard.mostAtOnce(t, jobsOf(status, wave)...), 2, "jobs of wave %s that were Running at once", wave)
	}
	for _, job := range heard.jobs() {
		heard.requireStory(t, job, chain("Ready", oneRun, "Finished", "Deleting", "Deleted"))
	}
	events := s.fleetEvents()
	for name := range disks {
		requirePhases(t, events, name, oneTime...)
	}
	terminate(t, s.Orchestrators[0])
}

// One of two fleets on one center is cancelled: nothing of it is left but its images, and the other does not notice.
func TestFleetCancelled(t *testing.T) {
	t.Parallel()
	s := newCenter(t)
	heard := s.follow()
	disks := s.smallServers(16*mib, "a-1", "a-2", "a-3", "a-4", "b-1", "b-2")
	s.drover("fleet", "apply", "-f", s.manifest(`name: alpha
defaults: {systemDiskSize: 40, replicationParameters: {bandwidth_limit: 5000}}
waves:
  - name: pilot
    servers: [{name: a-1, runOnce: false, frequency: 12, maxNumberOfImageToKeep: 3, replicationParameters: {bandwidth_limit: 0}}]
  - {name: one, maxConcurrent: 1, servers: [{name: a-2}, {name: a-3}]}
  - {name: two, servers: [{name: a-4}]}
`))
	s.drover("fleet", "apply", "-f", s.manifest(`name: beta
defaults: {systemDiskSize: 40, replicationParameters: {bandwidth_limit: 30000}}
waves: [{name: only, maxConcurrent: 2, servers: [{match: "b-*"}]}]
`))
	running, queued := "a-3", "a-2"
	s.awaitFleet("alpha", "with one job between runs, one Running and one waiting for its slot", func(status fleet.Status) bool {
		// Who asks first gets the slot.
		if phaseOf(status, "a-2") == fleet.PhaseReplicate {
			running, queued = "a-2", "a-3"
		}
		return phaseOf(status, "a-1") == fleet.PhaseWaiting && phaseOf(status, running) == fleet.PhaseReplicate &&
			phaseOf(status, queued) == fleet.PhaseQueued
	})
	before := s.fleetStatus("alpha")
	assert.Contains(t, server(t, before, queued).Reason, "held by "+running)
	assert.Contains(t, server(t, before, "a-4").Reason, "one")

	s.drover("fleet", "cancel", "alpha", "--wait")
	status := s.fleetStatus("alpha")
	require.Equal(t, fleet.Cancelled, status.Status, "%+v", status)
	for _, m := range status.Servers {
		assert.Equal(t, fleet.PhaseCancelled, m.Phase, "%+v", m)
		assert.Empty(t, m.Error, "error of %s", m.Name)
		if m.Name != "a-1" {
			assert.Empty(t, m.Remains, "what remains of %s", m.Name)
		}
	}
	kept := server(t, status, "a-1").Images
	require.Len(t, kept, 1)
	assert.Contains(t, server(t, status, "a-1").Remains, kept[0])
	s.exportSynced(kept[0], disks["a-1"])
	var jobs []smc.ReplicationJob
	s.droverJSON(&jobs, "job", "list")
	var ours []string
	for _, job := range jobs {
		ours = append(ours, job.Name)
	}
	assert.Subset(t, []string{"beta:b-1", "beta:b-2"}, ours, "jobs after the cancellation")

	other := s.awaitFleetEnd("beta")
	require.Equal(t, fleet.Completed, other.Status, "%+v", other)
	images := slices.Clone(kept)
	for _, name := range []string{"b-1", "b-2"} {
		m := requireDone(t, other, name, 1)
		assert.Zero(t, m.Attempts)
		images = append(images, m.Images...)
		s.exportSynced(m.ImageID, disks[name])
	}
	s.requireClean(images...)
	heard.told(t, other)
	for _, job := range allJobs(other) {
		heard.requireStory(t, job, chain("Ready", oneRun, "Finished", "Deleting", "Deleted"))
	}
	events := s.fleetEvents()
	for _, name := range []string{"b-1", "b-2"} {
		requirePhases(t, events, name, oneTime...)
	}
	requirePhases(t, events, running, fleet.PhasePreflight, fleet.PhaseCreating, fleet.PhaseQueued, fleet.PhaseStarting,
		fleet.PhaseReplicate, fleet.PhaseCancelling, fleet.PhaseCancelled)
	requirePhases(t, events, queued, fleet.PhasePreflight, fleet.PhaseCreating, fleet.PhaseQueued, fleet.PhaseCancelling, fleet.PhaseCancelled)
	assert.Empty(t, phases(events, "a-4"), "a server whose wave never came")

	// What was cancelled can be migrated again, by a fleet of the same name.
	s.drover("fleet", "apply", "-f", s.manifest("name: alpha\ndefaults: {systemDiskSize: 40}\nwaves: [{name: one, servers: [{name: a-2}, {name: a-4}]}]\n"), "--watch")
	again := s.fleetStatus("alpha")
	for _, name := range []string{"a-2", "a-4"} {
		images = append(images, requireDone(t, again, name, 1).ImageID)
	}
	s.requireClean(images...)
}

// breakable makes a disk that loses its end, and gets it back.
func (s *center) breakable(name string) (disk, whole string) {
	s.t.Helper()
	disk = makeDisk(s.t, filepath.Join(s.Dir, name+".raw"), 64*mib, 16*mib, 8, 62)
	return disk, copyDisk(s.t, filepath.Join(s.Dir, name+"-whole.raw"), disk)
}

// breakDisk cuts a disk of breakable short, in a hole, while it is being read. One that had changed before would be
// another disk and no error.
func (s *center) breakDisk(fleetName, name, disk string) {
	s.t.Helper()
	status := s.awaitFleet(fleetName, "syncing "+name, func(status fleet.Status) bool {
		return phaseOf(status, name) == fleet.PhaseReplicate
	})
	s.awaitSyncing(server(s.t, status, name).JobID, 0.1)
	require.NoError(s.t, os.Truncate(disk, 60*mib))
}

// An agent that is killed and comes back costs nothing but time; a disk that cannot be read is tried as often as the
// manifest says.
func TestFleetWithTrouble(t *testing.T) {
	t.Parallel()
	s := newCenter(t)
	heard := s.follow()
	good := makeDisk(t, filepath.Join(s.Dir, "good.raw"), 64*mib, 32*mib, 8, 61)
	a := s.startAgent("good", good)
	bad, _ := s.breakable("bad")
	s.startAgent("bad", bad)
	s.drover("fleet", "apply", "-f", s.manifest(`name: trouble
defaults: {systemDiskSize: 40, retry: {limit: 2, interval: 200ms, maxInterval: 1s}, replicationParameters: {bandwidth_limit: 20000}}
waves: [{name: all, servers: [{name: good}, {name: bad, replicationParameters: {bandwidth_limit: 6000}}]}]
`))
	s.breakDisk("trouble", "bad", bad)
	syncing := s.awaitFleet("trouble", "syncing good", func(status fleet.Status) bool { return phaseOf(status, "good") == fleet.PhaseReplicate })
	s.awaitSyncing(server(t, syncing, "good").JobID, 0.1)
	a.killAgain()

	r := s.try("fleet", "watch", "trouble")
	assert.Equal(t, 1, r.Code, "exit code of fleet watch for a fleet with failures\n%s%s", r.Stdout, r.Stderr)
	status := s.fleetStatus("trouble")
	require.Equal(t, fleet.CompletedWithFailures, status.Status, "%+v", status)
	done := requireDone(t, status, "good", 1)
	assert.Zero(t, done.Attempts, "attempts of the server whose agent was killed")
	s.exportSynced(done.ImageID, good)

	failed := server(t, status, "bad")
	assert.Equal(t, fleet.PhaseFailed, failed.Phase)
	assert.Equal(t, 2, failed.Attempts)
	assert.Equal(t, string(smc.StatusInError), failed.Status)
	assert.Contains(t, failed.Error, smc.CodeSourceDiskChanged)
	assert.Contains(t, failed.Remains, failed.JobID)
	// Once the source has told its disk's new size, a run that begins finds out before it syncs.
	heard.requireStory(t, failed.JobID,
		chain("Ready", begun, "InError", begun, "InError", begun, "InError"),
		chain("Ready", begun, "InError", begun, "InError", begun[:1], "InError"),
		chain("Ready", begun, "InError", begun[:1], "InError", begun[:1], "InError"))
	events := s.fleetEvents()
	retry := []fleet.Phase{fleet.PhaseBackoff, fleet.PhaseQueued, fleet.PhaseStarting}
	requirePhases(t, events, "bad", slices.Concat(oneTime[:4], retry, retry, []fleet.Phase{fleet.PhaseFailed})...)
	var last fleetEvent
	for _, e := range events {
		if e.Data.SourceID == "" {
			last = e
		}
	}
	assert.Equal(t, fleet.CompletedWithFailures, last.Data.Status, "the last the fleet tells of itself")
}

// A wave that fails too often pauses the fleet; after the repair it goes on with the same job.
func TestFleetPaused(t *testing.T) {
	t.Parallel()
	s := newCenter(t)
	heard := s.follow()
	disks := s.smallServers(8*mib, "good", "later")
	bad, whole := s.breakable("bad")
	disks["bad"] = bad
	s.startAgent("bad", bad)
	s.drover("fleet", "apply", "-f", s.manifest(`name: paused
defaults: {systemDiskSize: 40, retry: {limit: 1, interval: 100ms}}
waves:
  - name: first
    maxConcurrent: 1
    maxFailures: 0
    servers: [{name: bad, replicationParameters: {bandwidth_limit: 6000}}, {name: good}]
  - {name: second, servers: [{name: later}]}
`))
	s.breakDisk("paused", "bad", bad)
	status := s.awaitFleet("paused", "Paused, with nothing going on", func(status fleet.Status) bool {
		phase := phaseOf(status, "good")
		return status.Status == fleet.Paused && (phase == fleet.PhaseDone || phase == fleet.PhaseQueued)
	})
	assert.Contains(t, status.Reason, "bad")
	assert.Contains(t, status.Reason, "drover fleet resume paused")
	failed := server(t, status, "bad")
	assert.Equal(t, fleet.PhaseFailed, failed.Phase)
	assert.Contains(t, failed.Error, smc.CodeSourceDiskChanged)
	assert.Equal(t, fleet.PhasePending, server(t, status, "later").Phase)

	copyDisk(t, bad, whole)
	s.drover("fleet", "resume", "paused", "--retry-failed")
	status = s.awaitFleetEnd("paused")
	require.Equal(t, fleet.Completed, status.Status, "%+v", status)
	var images []string
	for name, disk := range disks {
		m := requireDone(t, status, name, 1)
		images = append(images, m.ImageID)
		s.exportSynced(m.ImageID, disk)
	}
	s.requireClean(images...)
	heard.told(t, status)
	assert.ElementsMatch(t, allJobs(status), heard.jobs(), "a job for each server and no more")
	assert.Equal(t, failed.JobID, server(t, status, "bad").JobID, "the job that failed is gone on with")
	assert.LessOrEqual(t, heard.mostAtOnce(t, jobsOf(status, "first")...), 1, "jobs of wave first that were Running at once")
	var states []string
	for _, e := range s.fleetEvents() {
		if e.Data.SourceID == "" && (len(states) == 0 || states[len(states)-1] != string(e.Data.Status)) {
			states = append(states, string(e.Data.Status))
		}
	}
	assert.Equal(t, []string{"Running", "Paused", "Running", "Completed"}, states, "what the fleet tells of itself")
	r := s.try("fleet", "resume", "paused")
	assert.Equal(t, 1, r.Code, "exit code of fleet resume for a fleet that has ended")
}

// Roles that are wrong are told before anything is started.
func TestWrongRoles(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	for _, args := range [][]string{
		{"drover-dev", "--data", dir, "--roles", "orchestrator"},
		{"drover-dev", "--data", dir, "--roles", "center,transition,pilot"},
		{"drover-worker"},
		{"drover-worker", "--role", "pilot"},
		{"drover-worker", "--role", "orchestrator"}, // of no endpoint
	} {
		r := run(t, []string{smc.EnvEndpoint + "=", smc.EnvAccessKeyID + "="}, args[0], args[1:]...)
		assert.Equal(t, 2, r.Code, "exit code of %q\n%s", args, r.Stderr)
		assert.Contains(t, r.Stderr, "role", "%q", args)
	}
	assert.NoDirExists(t, dir)
}
