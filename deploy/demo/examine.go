package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.temporal.io/api/common/v1"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/drover/drover/fleet"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/starter/progress"
	"github.com/drover/drover/starter/table"
)

// check notes whether something held and says so.
func (d *demo) check(what string, err error) {
	d.checks = append(d.checks, check{what, err})
	if err != nil {
		d.say("  FAIL  %s: %v", what, err)
		return
	}
	d.say("  PASS  %s", what)
}

// examine proves what the jobs say of themselves.
func (d *demo) examine(ctx context.Context) error {
	if err := d.countHistories(ctx); err != nil {
		return err
	}
	d.say("")
	if err := d.jobTable(); err != nil {
		return err
	}
	d.say("\n● Checking")
	for _, j := range d.jobs {
		for run, state := range j.states {
			d.check(fmt.Sprintf("%s run %d: every disk of the image is byte-identical to the source at that run", j.name, run+1),
				d.sameBytes(ctx, j, run+1, state))
		}
	}
	for _, j := range d.jobs {
		if len(j.states) > 1 {
			d.check(fmt.Sprintf("%s run 2: sent only what had changed", j.name), onlyChanges(j))
		}
	}
	for _, j := range d.jobs {
		if j.killed {
			d.check(fmt.Sprintf("%s: the agent was killed and came back; at most %s were sent again", j.name, progress.Bytes(resend)), sentAgain(j))
		}
	}
	d.check("every image was verified by its migration", d.verified())
	stories, err := d.readEvents(ctx)
	if err != nil {
		return err
	}
	for _, j := range d.jobs {
		d.check(j.name+": the event stream tells its whole story, once and in order", j.checkStory(stories[j.id]))
	}
	for _, slot := range slots {
		var running [][]jobEvent
		for _, j := range d.jobs {
			if j.wave == slot.wave {
				running = append(running, stories[j.id])
			}
		}
		d.check(fmt.Sprintf("wave %s: never more than %d of its jobs were Running, by the events", slot.wave, slot.most), withinSlots(slot.most, running))
	}
	changes, err := d.readChanges(ctx)
	if err != nil {
		return err
	}
	for _, j := range d.jobs {
		d.check(j.name+": the events of its migration are complete and in order", checkPhases(j, changes[j.migration.SourceID]))
	}
	d.check("the fleet tells of its waves and of its end, once and in order", checkFleet(changes[""]))
	for _, j := range d.jobs {
		if !j.incremental {
			d.check(fmt.Sprintf("%s: %d history events in Temporal for its job, at most %d", j.name, j.history, historyBudget), withinBudget(j))
		}
	}
	return ctx.Err()
}

// resend is the most a kill may cost: a window for each of the streams of a sync.
const resend = 4 * 4 * mib

// sentAgain holds what the run of a job sent against what there was to send.
func sentAgain(j *job) error {
	if !j.back {
		return errors.New("its agent was never killed: the sync was over too soon")
	}
	run, err := j.run(1)
	if err != nil {
		return err
	}
	var needed int64
	for _, disk := range j.states[0] {
		n, err := nonZero(disk)
		if err != nil {
			return err
		}
		needed += n
	}
	if run.BytesSentRaw < needed || run.BytesSentRaw > needed+resend {
		return fmt.Errorf("it sent %s, and %s were to be sent", progress.Bytes(run.BytesSentRaw), progress.Bytes(needed))
	}
	return nil
}

// verified checks what the fleet says of its servers.
func (d *demo) verified() error {
	for _, j := range d.jobs {
		m := j.migration
		if m.Phase != fleet.PhaseDone || !m.Verified || m.ImageID == "" || m.Runs != len(j.states) {
			return fmt.Errorf("%s: %+v", j.name, m)
		}
	}
	return nil
}

// withinSlots counts the jobs that were Running at the same time, by the times of their events.
func withinSlots(most int, stories [][]jobEvent) error {
	type step struct {
		at    time.Time
		delta int
	}
	var steps []step
	for _, story := range stories {
		for _, e := range story {
			was, is := e.Data.PreviousStatus == string(smc.StatusRunning), e.Data.Status == string(smc.StatusRunning)
			switch {
			case is && !was:
				steps = append(steps, step{e.Time, 1})
			case was && !is:
				steps = append(steps, step{e.Time, -1})
			}
		}
	}
	slices.SortStableFunc(steps, func(a, b step) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.delta, b.delta)) })
	running := 0
	for _, s := range steps {
		if running += s.delta; running > most {
			return fmt.Errorf("%d at %s", running, s.at.Format(time.RFC3339Nano))
		}
	}
	if len(steps) == 0 || running != 0 {
		return fmt.Errorf("%d jobs are Running after %d events", running, len(steps))
	}
	return nil
}

func withinBudget(j *job) error {
	if j.history > historyBudget {
		return fmt.Errorf("it took %d", j.history)
	}
	return nil
}

func (d *demo) jobTable() error {
	t := table.New("JOB", "SERVER", "STATUS", ">RUNS", ">READ", ">SENT", ">DURATION", ">IMAGES", ">HISTORY", ">MIGRATION")
	for _, j := range d.jobs {
		var read, sent int64
		var seconds float64
		images := 0
		for _, r := range j.detail.Runs {
			read, sent, seconds = read+r.BytesRead, sent+r.BytesSent, seconds+r.DurationSeconds
			if r.ImageID != "" {
				images++
			}
		}
		t.Add(j.id, j.name, string(j.detail.Status), strconv.Itoa(len(j.detail.Runs)), progress.Bytes(read), progress.Bytes(sent),
			progress.Duration(time.Duration(seconds*float64(time.Second))), strconv.Itoa(images), strconv.Itoa(j.history), strconv.Itoa(j.migrationHistory))
	}
	if err := t.Write(d.out, "  "); err != nil {
		return err
	}
	d.say("  HISTORY and MIGRATION are history events in Temporal: of the job and its runs, and of the migration.")
	return nil
}

// run returns a run of the job by its number.
func (j *job) run(number int) (smc.JobRun, error) {
	for _, r := range j.detail.Runs {
		if r.Number == number {
			return r, nil
		}
	}
	return smc.JobRun{}, fmt.Errorf("job %s has no run %d", j.id, number)
}

// sameBytes exports the synced state of the image of a run, as a user would, and compares it with the copies of the
// disks as they were then.
func (d *demo) sameBytes(ctx context.Context, j *job, number int, state []string) error {
	run, err := j.run(number)
	if err != nil {
		return err
	}
	if run.ImageID == "" {
		return fmt.Errorf("run %d of job %s has no image", number, j.id)
	}
	dir := filepath.Join(d.exportsDir(), fmt.Sprintf("%s-run-%d", j.name, number))
	if err := d.drover(ctx, "image", "export", run.ImageID, dir, "--synced"); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return err
	}
	if len(files) != len(state) {
		return fmt.Errorf("image %s has %d disks and the server %d", run.ImageID, len(files), len(state))
	}
	for i, original := range state {
		name := filepath.Join(dir, fmt.Sprintf("disk-%d.raw", i))
		diff, err := compare(name, original)
		if err != nil {
			return err
		}
		if diff.grains > 0 {
			return fmt.Errorf("%s and %s differ in %d grains of 64 KiB, first at byte %d", name, original, diff.grains, diff.first)
		}
	}
	return nil
}

// drover runs a command of the command line.
func (d *demo) drover(ctx context.Context, args ...string) error {
	r, err := d.stack.Drover(ctx, args...)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("drover %s: exit status %d: %s", strings.Join(args, " "), r.Code, strings.TrimSpace(r.Stderr))
	}
	return err
}

// onlyChanges holds what the second run sent against what had changed.
func onlyChanges(j *job) error {
	run, err := j.run(2)
	if err != nil {
		return err
	}
	var changed int64
	for i := range j.specs {
		diff, err := compare(j.states[0][i], j.states[1][i])
		if err != nil {
			return err
		}
		changed += diff.grains
	}
	switch {
	case changed == 0:
		return errors.New("nothing had changed")
	case run.BytesSentRaw > changed*grainSize:
		return fmt.Errorf("it sent %s, and %d grains of 64 KiB (%s) had changed", progress.Bytes(run.BytesSentRaw), changed, progress.Bytes(changed*grainSize))
	case run.BytesSentRaw == 0:
		return fmt.Errorf("it sent nothing, and %d grains of 64 KiB had changed", changed)
	}
	return nil
}

// jobEvent is as much of an event as the story of a job needs. It is read with nothing but nats.go and encoding/json:
// that is all a subscriber needs.
type jobEvent struct {
	SpecVersion string    `json:"specversion"`
	ID          string    `json:"id"`
	Type        string    `json:"type"`
	Source      string    `json:"source"`
	Subject     string    `json:"subject"`
	Time        time.Time `json:"time"`
	Data        struct {
		JobID                  string `json:"JobId"`
		Sequence               int64  `json:"Sequence"`
		Status                 string `json:"Status"`
		BusinessStatus         string `json:"BusinessStatus"`
		PreviousStatus         string `json:"PreviousStatus"`
		PreviousBusinessStatus string `json:"PreviousBusinessStatus"`
	} `json:"data"`
}

// at is where the job is after the event.
func (e jobEvent) at() string { return place(e.Data.Status, e.Data.BusinessStatus) }

// place is a status, with the phase where it has a meaning.
func place(status, phase string) string {
	if status == string(smc.StatusRunning) && phase != "" {
		return status + "/" + phase
	}
	return status
}

// readEvents reads the events of the jobs from the stream with an ordered consumer, until the last transition of each
// has come: events follow the transitions, they do not hold them up.
func (d *demo) readEvents(ctx context.Context) (map[string][]jobEvent, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	nc, err := d.stack.ConnectNATS()
	if err != nil {
		return nil, fmt.Errorf("connect to the event stream: %w", err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	consumer, err := js.OrderedConsumer(ctx, "SMC", jetstream.OrderedConsumerConfig{FilterSubjects: []string{"smc.v1.*.*.job.*"}})
	if err != nil {
		return nil, fmt.Errorf("read the event stream: %w", err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		return nil, fmt.Errorf("read the event stream: %w", err)
	}
	defer messages.Stop()
	stories := map[string][]jobEvent{}
	for !d.told(stories) {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if errors.Is(err, context.DeadlineExceeded) {
			return stories, nil // the checks say what is missing
		}
		if err != nil {
			return nil, fmt.Errorf("read the event stream: %w", err)
		}
		var e jobEvent
		if err := json.Unmarshal(msg.Data(), &e); err != nil {
			return nil, fmt.Errorf("an event on %s is not JSON: %w", msg.Subject(), err)
		}
		stories[e.Data.JobID] = append(stories[e.Data.JobID], e)
	}
	return stories, nil
}

// told reports whether the last transition of every job has come.
func (d *demo) told(stories map[string][]jobEvent) bool {
	for _, j := range d.jobs {
		story := stories[j.id]
		if len(story) == 0 || story[len(story)-1].Data.Sequence < j.detail.Sequence {
			return false
		}
	}
	return true
}

// checkStory holds the events of a job against what must have happened to it.
func (j *job) checkStory(story []jobEvent) error {
	want := []string{string(smc.StatusReady)}
	for number := range j.states {
		for _, phase := range smc.BusinessStatuses() {
			want = append(want, place(string(smc.StatusRunning), string(phase)))
		}
		if number < len(j.states)-1 {
			want = append(want, string(smc.StatusWaiting))
		}
	}
	want = append(want, string(smc.StatusFinished))
	var got []string
	ids := map[string]bool{}
	for i, e := range story {
		got = append(got, e.at())
		switch {
		case e.SpecVersion != "1.0" || e.ID == "" || e.Type == "" || e.Source == "":
			return fmt.Errorf("event %d is no CloudEvent: %+v", i+1, e)
		case ids[e.ID]:
			return fmt.Errorf("event %s came twice", e.ID)
		case e.Data.Sequence != int64(i+1):
			return fmt.Errorf("event %d has the number %d", i+1, e.Data.Sequence)
		case i > 0 && place(e.Data.PreviousStatus, e.Data.PreviousBusinessStatus) != got[i-1]:
			return fmt.Errorf("event %s says that the job was %s before, and it was %s", e.ID, place(e.Data.PreviousStatus, e.Data.PreviousBusinessStatus), got[i-1])
		}
		ids[e.ID] = true
	}
	if g, w := strings.Join(got, " "), strings.Join(want, " "); g != w {
		return fmt.Errorf("it tells: %s; it should tell: %s", g, w)
	}
	return nil
}

// change is as much of an event of a migration or of the fleet as its story needs.
type change struct {
	ID   string `json:"id"`
	Data struct {
		SourceID       string `json:"SourceId"` // empty in an event of the fleet
		Wave           string
		Sequence       int
		Phase          fleet.Phase
		PreviousPhase  fleet.Phase
		Status         fleet.State
		PreviousStatus fleet.State
	} `json:"data"`
}

// readChanges reads the events of the fleet and its migrations, by SourceId; those of the fleet have none. All of them
// are told before the fleet ends.
func (d *demo) readChanges(ctx context.Context) (map[string][]change, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	nc, err := d.stack.ConnectNATS()
	if err != nil {
		return nil, fmt.Errorf("connect to the event stream: %w", err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	stream, err := js.Stream(ctx, "DROVER")
	if err != nil {
		return nil, fmt.Errorf("find the stream of migrations: %w", err)
	}
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{FilterSubjects: []string{"drover.v1.>"}})
	if err != nil {
		return nil, fmt.Errorf("read the stream of migrations: %w", err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		return nil, fmt.Errorf("read the stream of migrations: %w", err)
	}
	defer messages.Stop()
	changes := map[string][]change{}
	for range stream.CachedInfo().State.Msgs {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return nil, fmt.Errorf("read the stream of migrations: %w", err)
		}
		var c change
		if err := json.Unmarshal(msg.Data(), &c); err != nil {
			return nil, fmt.Errorf("an event on %s is not JSON: %w", msg.Subject(), err)
		}
		changes[c.Data.SourceID] = append(changes[c.Data.SourceID], c)
	}
	return changes, nil
}

// checkPhases holds the events of a migration against what must have happened to it.
func checkPhases(j *job, changes []change) error {
	want := []fleet.Phase{fleet.PhasePreflight, fleet.PhaseCreating, fleet.PhaseQueued, fleet.PhaseStarting, fleet.PhaseReplicate}
	if j.incremental {
		want = append(want, fleet.PhaseWaiting, fleet.PhaseQueued, fleet.PhaseCuttingOver)
	}
	want = append(want, fleet.PhaseVerifying, fleet.PhaseDone)
	var got []fleet.Phase
	var last fleet.Phase
	for i, c := range changes {
		if c.Data.Sequence != i+1 || c.Data.PreviousPhase != last {
			return fmt.Errorf("event %s has the number %d and follows %q, and it is number %d after %q", c.ID, c.Data.Sequence, c.Data.PreviousPhase, i+1, last)
		}
		if c.Data.Phase != last { // what it waits for may change within a phase
			got = append(got, c.Data.Phase)
		}
		last = c.Data.Phase
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("it tells: %v; it should tell: %v", got, want)
	}
	return nil
}

// checkFleet holds what the fleet tells of itself against what must have happened to it.
func checkFleet(changes []change) error {
	var got []string
	for i, c := range changes {
		if c.Data.Sequence != i+1 {
			return fmt.Errorf("event %s has the number %d, and it is number %d", c.ID, c.Data.Sequence, i+1)
		}
		got = append(got, string(c.Data.Status)+" "+c.Data.Wave)
	}
	if want := []string{"Running pilot", "Running rest", "Completed rest"}; !slices.Equal(got, want) {
		return fmt.Errorf("it tells: %v; it should tell: %v", got, want)
	}
	return nil
}

// countHistories counts the history events of the workflows of every job, the entity and its runs, and of its migration.
func (d *demo) countHistories(ctx context.Context) error {
	namespace := d.stack.Env()["TEMPORAL_NAMESPACE"]
	count := func(into *int, ids ...string) error {
		for _, id := range ids {
			n, err := historyLength(ctx, d.temporal, namespace, id)
			if err != nil {
				return fmt.Errorf("count the history events of workflow %s: %w", id, err)
			}
			*into += n
		}
		return nil
	}
	for _, j := range d.jobs {
		ids := []string{"job/" + j.id}
		for _, r := range j.detail.Runs {
			ids = append(ids, fmt.Sprintf("job/%s/run/%d", j.id, r.Number))
		}
		if err := errors.Join(count(&j.history, ids...), count(&j.migrationHistory, fleet.MigrationID(fleetName, j.migration.SourceID))); err != nil {
			return err
		}
	}
	return nil
}

// historyLength counts the history events of a workflow over its chain of runs: it may have continued as new.
func historyLength(ctx context.Context, c client.Client, namespace, id string) (int, error) {
	described, err := c.WorkflowService().DescribeWorkflowExecution(ctx, &workflowservice.DescribeWorkflowExecutionRequest{
		Namespace: namespace, Execution: &common.WorkflowExecution{WorkflowId: id},
	})
	if err != nil {
		return 0, err
	}
	n := 0
	run := described.GetWorkflowExecutionInfo().GetFirstRunId()
	for run != "" {
		next := ""
		iter := c.GetWorkflowHistory(ctx, id, run, false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
		for iter.HasNext() {
			event, err := iter.Next()
			if err != nil {
				return 0, err
			}
			n++
			if a := event.GetWorkflowExecutionContinuedAsNewEventAttributes(); a != nil {
				next = a.GetNewExecutionRunId()
			}
		}
		run = next
	}
	if n == 0 {
		return 0, errors.New("it has none")
	}
	return n, nil
}

// conclude says what came of it and where everything lies; its result is whether all of it held.
func (d *demo) conclude() bool {
	failed := 0
	for _, c := range d.checks {
		if c.err != nil {
			failed++
		}
	}
	if failed > 0 {
		d.say("\n%d of %d checks FAILED", failed, len(d.checks))
	} else {
		d.say("\nAll %d checks passed, in %s", len(d.checks), progress.Duration(time.Since(d.began)))
	}
	last := d.jobs[len(d.jobs)-1]
	center, drover := d.relative(d.centerDir()), d.relative(d.bin, "drover")
	d.say(`
Where it lies
  manifest  %s
  images    %s (one directory an image: the disks, their hashes, a manifest)
  events    %s (the JetStream streams SMC and DROVER)
  Temporal  %s (a SQLite file)
  logs      %s
How to look at it: start the center again; it says when it is ready, and has everything it had
  %s --data %s 2>>%s &
  . %s
  %s fleet status %s
  %s job show %s
  %s image list
  %s image export %s %s
  %s events tail --job %s --follow=false
With Temporal's own command line tool, where it is installed
  temporal workflow show --workflow-id job/%s --address $TEMPORAL_ADDRESS --namespace $TEMPORAL_NAMESPACE`,
		d.relative(d.manifest()), d.relative(d.centerDir(), "images", "images"), d.relative(d.centerDir(), "nats"), d.relative(d.centerDir(), "temporal"), d.relative(d.logs()),
		d.relative(d.bin, "drover-dev"), center, d.relative(d.logs(), "drover-dev.log"), d.relative(d.centerDir(), "dev.env"),
		drover, fleetName, drover, last.id, drover, drover, last.detail.Runs[len(last.detail.Runs)-1].ImageID, d.relative(d.dir, "out"),
		drover, last.id, last.id)
	return failed == 0
}
