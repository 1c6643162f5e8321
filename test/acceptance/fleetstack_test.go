package acceptance

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/events/eventstest"
	"github.com/drover/drover/fleet"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/test/stack"
)

// fleetLimit bounds a fleet: what a killed worker was about is taken up half a minute later.
const fleetLimit = 5 * time.Minute

// manifest writes a manifest and returns its path.
func (s *center) manifest(text string) string {
	s.t.Helper()
	file, err := os.CreateTemp(s.Dir, "*.yaml")
	require.NoError(s.t, err)
	_, err = file.WriteString(text)
	require.NoError(s.t, err)
	require.NoError(s.t, file.Close())
	return file.Name()
}

// fleetStatus is what `drover fleet status` tells.
func (s *center) fleetStatus(name string) fleet.Status {
	s.t.Helper()
	var status fleet.Status
	s.droverJSON(&status, "fleet", "status", name)
	return status
}

// awaitFleet waits until ready holds of a fleet.
func (s *center) awaitFleet(name, what string, ready func(fleet.Status) bool) fleet.Status {
	s.t.Helper()
	var status fleet.Status
	stack.Eventually(s.t, fleetLimit, "fleet "+name+" is "+what, func() (bool, any) {
		// While there is no worker nobody answers.
		r := s.try("fleet", "status", name, "-o", "json")
		status = fleet.Status{}
		if r.Code != 0 || json.Unmarshal([]byte(r.Stdout), &status) != nil {
			return false, r.Stderr
		}
		return ready(status), fmt.Sprintf("%+v", status)
	})
	return status
}

// awaitFleetEnd waits until a fleet has ended.
func (s *center) awaitFleetEnd(name string) fleet.Status {
	s.t.Helper()
	return s.awaitFleet(name, "at its end", func(status fleet.Status) bool {
		return status.Status != fleet.Running && status.Status != fleet.Paused
	})
}

// server returns what a fleet says of one of its servers.
func server(t *testing.T, status fleet.Status, name string) fleet.MigrationStatus {
	t.Helper()
	i := slices.IndexFunc(status.Servers, func(m fleet.MigrationStatus) bool { return m.Name == name })
	require.GreaterOrEqual(t, i, 0, "server %s in %+v", name, status)
	return status.Servers[i]
}

// phaseOf is the phase of a server, empty until the fleet knows it.
func phaseOf(status fleet.Status, name string) fleet.Phase {
	for _, m := range status.Servers {
		if m.Name == name {
			return m.Phase
		}
	}
	return ""
}

// requireDone checks what a fleet says of a server that has made it.
func requireDone(t *testing.T, status fleet.Status, name string, runs int) fleet.MigrationStatus {
	t.Helper()
	m := server(t, status, name)
	require.Equal(t, fleet.PhaseDone, m.Phase, "%+v", m)
	assert.True(t, m.Verified, "the image of %s is verified", name)
	assert.Equal(t, runs, m.Runs, "runs of %s", name)
	require.Len(t, m.Images, runs, "images of %s", name)
	assert.Equal(t, m.Images[runs-1], m.ImageID, "image of %s", name)
	assert.Empty(t, m.Error, "error of %s", name)
	assert.Empty(t, m.Reason, "reason of %s", name)
	assert.NotZero(t, m.BytesSent, "bytes that %s sent", name)
	return m
}

// requireClean checks that fleets that have ended left these images and nothing else.
func (s *center) requireClean(images ...string) {
	s.t.Helper()
	var jobs []smc.ReplicationJob
	s.droverJSON(&jobs, "job", "list")
	assert.Empty(s.t, jobs, "jobs that are left")
	assert.Empty(s.t, s.stagingDirs(), "staging areas that are left")
	assert.ElementsMatch(s.t, images, s.imageDirs(), "images on the transition host")
	var listed []smc.Image
	s.droverJSON(&listed, "image", "list")
	ids := []string{}
	for _, image := range listed {
		ids = append(ids, image.ImageID)
	}
	assert.ElementsMatch(s.t, images, ids, "images at the center")
}

// change of a fleet or a migration, as an event of the stream DROVER tells it.
type fleetEvent struct {
	SpecVersion string    `json:"specversion"`
	ID          string    `json:"id"`
	Type        string    `json:"type"`
	Subject     string    `json:"subject"`
	Time        time.Time `json:"time"`
	Data        struct {
		Fleet          string
		Began          time.Time
		Wave           string
		Name           string
		SourceID       string `json:"SourceId"`
		Sequence       int
		Phase          fleet.Phase
		PreviousPhase  fleet.Phase
		Status         fleet.State
		PreviousStatus fleet.State
		JobID          string `json:"JobId"`
	} `json:"data"`
}

// fleetEvents reads all there is in the stream DROVER, and checks that each subject tells its story once and in order.
// It is called when the fleets have ended: by then they have told everything.
func (s *center) fleetEvents() (events []fleetEvent) {
	t := s.t
	t.Helper()
	nc, err := s.ConnectNATS()
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), slow)
	defer cancel()
	stream, err := js.Stream(ctx, "DROVER")
	require.NoError(t, err)
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{FilterSubjects: []string{"drover.v1.>"}})
	require.NoError(t, err)
	messages, err := consumer.Messages()
	require.NoError(t, err)
	defer messages.Stop()
	lastOf := map[string]fleetEvent{}
	ids := map[string]bool{}
	for range stream.CachedInfo().State.Msgs {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		require.NoError(t, err)
		var e fleetEvent
		require.NoError(t, json.Unmarshal(msg.Data(), &e), "%s", msg.Data())
		assert.NoError(t, eventstest.Check(msg.Data()))
		last, again := lastOf[msg.Subject()]
		if !last.Data.Began.Equal(e.Data.Began) { // a retry is a life of its own
			assert.True(t, e.Data.Began.After(last.Data.Began), "%s: an earlier life after a later one", e.ID)
			last, again = fleetEvent{}, false
		}
		assert.Equal(t, "1.0", e.SpecVersion)
		assert.False(t, ids[e.ID], "event %s came twice", e.ID)
		ids[e.ID] = true
		assert.Equal(t, last.Data.Sequence+1, e.Data.Sequence, "number of event %s", e.ID)
		assert.Equal(t, last.Data.Phase, e.Data.PreviousPhase, "previous phase in event %s", e.ID)
		if again {
			assert.Equal(t, last.Data.Status, e.Data.PreviousStatus, "previous status in event %s", e.ID)
		}
		suffix := ".fleet." + e.Data.Fleet
		if e.Data.SourceID != "" {
			suffix = ".migration." + e.Data.Fleet + "." + e.Data.SourceID
		}
		assert.True(t, strings.HasSuffix(msg.Subject(), suffix), "subject %s of %+v", msg.Subject(), e)
		lastOf[msg.Subject()] = e
		events = append(events, e)
	}
	return events
}

// phases are those a server went through, as the events tell them.
func phases(events []fleetEvent, name string) (story []string) {
	for _, e := range events {
		if e.Data.Name == name && (len(story) == 0 || story[len(story)-1] != string(e.Data.Phase)) {
			story = append(story, string(e.Data.Phase))
		}
	}
	return story
}

// requirePhases checks the phases of a server. Replicating is seen only when the run takes longer than a look at it.
func requirePhases(t *testing.T, events []fleetEvent, name string, want ...fleet.Phase) {
	t.Helper()
	var texts []string
	for _, phase := range want {
		texts = append(texts, string(phase))
	}
	replicating := func(phase string) bool { return phase == string(fleet.PhaseReplicate) }
	assert.Equal(t, slices.DeleteFunc(texts, replicating), slices.DeleteFunc(phases(events, name), replicating), "phases of %s", name)
}

// oneTime are the phases of a server that is migrated once and meets no trouble.
var oneTime = []fleet.Phase{
	fleet.PhasePreflight, fleet.PhaseCreating, fleet.PhaseQueued, fleet.PhaseStarting, fleet.PhaseReplicate,
	fleet.PhaseVerifying, fleet.PhaseCleaningUp, fleet.PhaseDone,
}

// mostAtOnce is how many of the jobs were Running at the same time at most, by the time stamps of their events.
func (f *follower) mostAtOnce(t *testing.T, jobs ...string) (most int) {
	t.Helper()
	type step struct {
		at    time.Time
		delta int
	}
	var steps []step
	for _, job := range jobs {
		for _, e := range f.story(job) {
			at, err := time.Parse(time.RFC3339Nano, e.Time)
			require.NoError(t, err)
			was, is := e.Data.PreviousStatus == string(smc.StatusRunning), e.Data.Status == string(smc.StatusRunning)
			switch {
			case is && !was:
				steps = append(steps, step{at, 1})
			case was && !is:
				steps = append(steps, step{at, -1})
			}
		}
	}
	slices.SortStableFunc(steps, func(a, b step) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.delta, b.delta)) })
	running := 0
	for _, s := range steps {
		running += s.delta
		most = max(most, running)
	}
	assert.Zero(t, running, "jobs that are Running in the end")
	return most
}

// jobs are all jobs there ever were.
func (f *follower) jobs() (jobs []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.events {
		if !slices.Contains(jobs, e.Data.JobID) {
			jobs = append(jobs, e.Data.JobID)
		}
	}
	return jobs
}

// allJobs are the jobs that a fleet names, one for each server.
func allJobs(status fleet.Status) (jobs []string) {
	for _, m := range status.Servers {
		jobs = append(jobs, m.JobID)
	}
	return jobs
}

// told waits until the stream has told of the end of every job of a fleet.
func (f *follower) told(t *testing.T, status fleet.Status) {
	t.Helper()
	for _, m := range status.Servers {
		if m.JobID == "" {
			continue
		}
		stack.Eventually(t, slow, "the last event of "+m.JobID+" has come", func() (bool, any) {
			story := f.story(m.JobID)
			return len(story) > 0 && story[len(story)-1].Data.Status == "Deleted", story
		})
	}
}

// jobsOf are the jobs of one wave.
func jobsOf(status fleet.Status, wave string) (jobs []string) {
	for _, m := range status.Servers {
		if m.Wave == wave {
			jobs = append(jobs, m.JobID)
		}
	}
	return jobs
}

// smallServers registers servers with a disk each, and returns their disks by name.
func (s *center) smallServers(data int64, names ...string) map[string]string {
	s.t.Helper()
	made := map[string]string{}
	for i, name := range names {
		made[name] = makeDisk(s.t, filepath.Join(s.Dir, name+".raw"), 2*data, data, 4, uint64(50+i))
		s.startAgent(name, made[name])
	}
	return made
}
