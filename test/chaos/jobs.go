package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/test/disks"
	"github.com/drover/drover/test/stack"
)

const (
	// patience is how long a job may stand still, and an operation be refused or not answered, while everything is struck again and again.
	patience = 5 * time.Minute
	// pollEvery is how often a job is looked at.
	pollEvery = 250 * time.Millisecond
	// promptly is how long Stop may take while the center itself is whole (docs: Stop takes effect within 5 seconds).
	promptly = 5 * time.Second
	// streams is how many windows an agent has in flight at most.
	streams = 4
	// windowSize is the most that is in flight on one of them.
	windowSize = replica.WindowSize
)

// source is a source server that does its jobs one after another.
type source struct {
	*chaos
	plan  *sourcePlan
	agent *stack.Agent
	disks []string
	rand  *rand.Rand // of what changes on its disks
	now   []*snapshot
}

// job is a job as it really went.
type job struct {
	*source
	plan *jobPlan
	id   string

	last smc.DescribeReplicationJobDetailsResult // seen last
	runs []*run
	// story is what its events must tell: a regular expression over the letters of its statuses.
	story strings.Builder
	// status is what it rests in at the end; empty when it is gone.
	status smc.JobStatus
}

// run is a run of a job as it really went.
type run struct {
	number       int
	state        []*snapshot // what the disks held when it was done
	needed, sent int64       // bytes, uncompressed; needed is no more than what had to be sent
	exact        bool        // needed is also no less
	disturbed    int         // disturbances and stops while it was Syncing
	imageID      string
}

// letters stand for statuses in stories.
var letters = map[boundary]string{
	"Ready": "R", "Preparing": "p", "Syncing": "s", "Processing": "r", "Cleaning": "c", "Waiting": "W", "Stopped": "S", "InError": "E", "Finished": "F",
	"Deleting": "D", "Deleted": "X",
}

func (j *job) tell(statuses ...boundary) {
	for _, s := range statuses {
		j.story.WriteString(letters[s])
	}
}

// checkStory compares the statuses that the events told with what was done.
func (j *job) checkStory(told []boundary) error {
	var got strings.Builder
	for _, b := range told {
		got.WriteString(letters[b])
	}
	if matched, err := regexp.MatchString("^"+j.story.String()+"$", got.String()); err != nil || !matched {
		return fmt.Errorf("job %s: its events tell %s, what was done is %s", j.id, got.String(), j.story.String())
	}
	return nil
}

// newSource makes the disks of a source and registers its agent.
func (c *chaos) newSource(ctx context.Context, p *sourcePlan) (*source, error) {
	s := &source{chaos: c, plan: p, rand: stream(c.plan.seed, "disks of "+p.name)}
	s.disks = []string{filepath.Join(c.dir, "disks", p.name+"-system.raw")}
	err := disks.Make(s.disks[0], disks.Spec{SizeBytes: p.systemMiB * mib, FillBytes: p.fillMiB * mib, Seed: s.rand.Uint64()})
	if err == nil && p.dataMiB > 0 {
		s.disks = append(s.disks, filepath.Join(c.dir, "disks", p.name+"-data.raw"))
		err = makeData(s.disks[1], p.dataMiB*mib, p.dataFilled*mib, s.rand)
	}
	if err != nil {
		return nil, err
	}
	if s.agent, err = c.stack.StartAgent(ctx, p.name, s.disks...); err != nil {
		return nil, err
	}
	c.processes.addAgent(s.agent)
	return s, s.look()
}

// look takes a snapshot of the disks as they are.
func (s *source) look() (err error) {
	s.now, err = takeAll(s.disks)
	return err
}

// change changes n bytes of the disks.
func (s *source) change(n int64) error {
	if n == 0 {
		return nil
	}
	if err := mutate(s.disks, n, s.rand); err != nil {
		return err
	}
	return s.look()
}

// do does a job of the source from its creation to its end.
func (s *source) do(ctx context.Context, p *jobPlan) error {
	j := &job{source: s, plan: p}
	if err := j.do(ctx); err != nil {
		if j.id != "" {
			return fmt.Errorf("%s (%s of %s): %w", p.name, j.id, s.plan.name, err)
		}
		return fmt.Errorf("%s of %s: %w", p.name, s.plan.name, err)
	}
	j.log.add(p.name, "has come to its end: %s", p.ending)
	return nil
}

func (j *job) do(ctx context.Context) error {
	if err := j.create(ctx); err != nil {
		return err
	}
	j.tell("Ready")
	j.status = smc.StatusReady
	for n := range j.plan.runs {
		ended, err := j.run(ctx, n)
		if err != nil {
			return fmt.Errorf("run %d: %w", n+1, err)
		}
		if !ended {
			break // it stays Stopped
		}
	}
	if j.plan.ending == cutOverAtRest {
		err := j.ask(ctx, "CutOver", func(ctx context.Context) error {
			_, err := j.client.CutOverReplicationJob(ctx, &smc.CutOverReplicationJobRequest{JobID: j.id})
			return err
		}, func(d *smc.DescribeReplicationJobDetailsResult) bool { return d.Status == smc.StatusFinished })
		if err != nil {
			return err
		}
		j.tell("Finished")
		j.status = smc.StatusFinished
	}
	if !j.plan.ending.deleted() {
		return j.rests(ctx)
	}
	return j.remove(ctx)
}

// rests checks that the job rests in the status that it is to have.
func (j *job) rests(ctx context.Context) error {
	d, err := j.details(ctx)
	if err != nil {
		return err
	}
	if d.Status != j.status {
		return fmt.Errorf("it is %s and ought to be %s", d.Status, j.status)
	}
	return nil
}

func (j *job) create(ctx context.Context) error {
	once, parameters := !j.plan.incremental, fmt.Sprintf(`{"bandwidth_limit":%d,"compress_level":%d,"checksum":%t}`, j.plan.kbps, j.plan.compress, j.plan.checksum)
	token := fmt.Sprintf("%d/%s", j.chaos.plan.seed, j.plan.name)
	request := &smc.CreateReplicationJobRequest{
		RegionID: j.stack.Env()[smc.EnvRegion], SourceID: j.agent.SourceID, Name: &j.plan.name, ImageName: &j.plan.name, ClientToken: &token,
		RunOnce: &once, ReplicationParameters: &parameters,
	}
	if j.plan.incremental {
		hours := 12
		request.Frequency, request.MaxNumberOfImageToKeep = &hours, &j.plan.keep
	}
	err := j.ask(ctx, "Create", func(ctx context.Context) error {
		created, err := j.client.CreateReplicationJob(ctx, request)
		if err == nil {
			j.id = created.JobID
		}
		return err
	}, nil)
	if err != nil {
		return err
	}
	j.log.add(j.plan.name, "is %s of %s (%s), ends: %s", j.id, j.source.plan.name, j.agent.SourceID, j.plan.ending)
	j.chaos.addJob(j)
	return nil
}

// errRefused is returned, wrapped, when the status of a job does not allow what was asked.
var errRefused = errors.New("refused")

// ask asks for something until it is done. A request that got no answer may have been carried out: done tells whether it was, by what the job
// is then. A refusal that the status of the job explains is errRefused.
func (j *job) ask(ctx context.Context, what string, call func(context.Context) error, done func(*smc.DescribeReplicationJobDetailsResult) bool) error {
	deadline := time.Now().Add(patience)
	unanswered := false
	for {
		err := call(ctx)
		code := smc.CodeOf(err)
		var failed *smc.CallError
		unanswered = unanswered || errors.As(err, &failed) && failed.Attempts > 1 // by the client itself
		switch {
		case err == nil:
			j.log.add(j.plan.name, "%s: done", what)
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case code == "" || code == smc.CodeInternalError || code == smc.CodeServiceUnavailable:
			j.log.add(j.plan.name, "%s: no answer: %v", what, err)
			unanswered = true
			j.chaos.count(&j.chaos.unanswered)
		case code == smc.CodeSourceServerStateInvalid || code == smc.CodeTransitionHostUnavailable || strings.HasPrefix(code, "Throttling"):
			j.log.add(j.plan.name, "%s: not now: %v", what, err) // an agent or a host that was away passes
		case code == smc.CodeReplicationJobInvalidStatus || code == smc.CodeReplicationJobInvalidBusinessStatus || code == smc.CodeInvalidJobIDNotFound:
			if !unanswered || done == nil {
				return fmt.Errorf("%s: %w: %w", what, errRefused, err)
			}
		default:
			return fmt.Errorf("%s: %w", what, err)
		}
		if unanswered && done != nil {
			d, lookErr := j.details(ctx)
			if errors.Is(lookErr, errGone) {
				d, lookErr = &smc.DescribeReplicationJobDetailsResult{}, nil
			}
			if lookErr != nil {
				return lookErr
			}
			if done(d) {
				j.log.add(j.plan.name, "%s: done, though nobody said so", what)
				return nil
			}
			if code == smc.CodeReplicationJobInvalidStatus || code == smc.CodeReplicationJobInvalidBusinessStatus {
				return fmt.Errorf("%s: %w: %w", what, errRefused, err)
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: not done within %v: %w", what, patience, err)
		}
		wait(ctx, time.Second)
	}
}

// errGone is returned, wrapped, by details of a job that is gone; to ask such a job has no Status.
var errGone = errors.New("the job is gone")

// details asks what the job is until somebody answers. No figure of a run may go backwards.
func (j *job) details(ctx context.Context) (*smc.DescribeReplicationJobDetailsResult, error) {
	deadline := time.Now().Add(patience)
	for {
		d, err := j.client.DescribeReplicationJobDetails(ctx, &smc.DescribeReplicationJobDetailsRequest{JobID: j.id})
		switch {
		case err == nil:
			if d.Sequence < j.last.Sequence {
				return nil, fmt.Errorf("its sequence goes back from %d to %d", j.last.Sequence, d.Sequence)
			}
			if d.Run == j.last.Run && (d.Progress < j.last.Progress || d.BytesRead < j.last.BytesRead || d.BytesSent < j.last.BytesSent) {
				return nil, fmt.Errorf("progress goes backwards, from %g %%, %d read, %d sent to %g %%, %d, %d", j.last.Progress, j.last.BytesRead, j.last.BytesSent,
					d.Progress, d.BytesRead, d.BytesSent)
			}
			j.last = *d
			return d, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case smc.CodeOf(err) == smc.CodeInvalidJobIDNotFound:
			return nil, fmt.Errorf("%w: %w", errGone, err)
		case time.Now().After(deadline):
			return nil, fmt.Errorf("nobody says what it is for %v: %w", patience, err)
		}
		wait(ctx, time.Second)
	}
}

// await waits until ready reports true of the job. A job that stands still for too long is an error.
func (j *job) await(ctx context.Context, what string, ready func(*smc.DescribeReplicationJobDetailsResult) (bool, error)) (*smc.DescribeReplicationJobDetailsResult, error) {
	moved := time.Now()
	for {
		before := j.last
		d, err := j.details(ctx)
		if err != nil {
			return nil, fmt.Errorf("wait until it is %s: %w", what, err)
		}
		if done, err := ready(d); done || err != nil {
			return d, err
		}
		if d.Sequence != before.Sequence || d.BytesRead != before.BytesRead || d.BytesSent != before.BytesSent || d.Progress != before.Progress {
			moved = time.Now()
		}
		if time.Since(moved) > patience {
			return nil, fmt.Errorf("it stands still for %v, and is to be %s: %s %s run %d, %g %%, %d of %d bytes read, %q", patience, what, d.Status, d.BusinessStatus, d.Run,
				d.Progress, d.BytesRead, d.BytesTotal, d.StatusInfo)
		}
		wait(ctx, pollEvery)
	}
}

func inError(d *smc.DescribeReplicationJobDetailsResult) error {
	return fmt.Errorf("it is %s: %s: %s", d.Status, d.ErrorCode, d.StatusInfo)
}

// run does the nth run of the job, from 0. It reports whether it ended; else the job is Stopped.
func (j *job) run(ctx context.Context, n int) (ended bool, err error) {
	p := &j.plan.runs[n]
	if err := j.change(p.mutate); err != nil {
		return false, err
	}
	var before []*snapshot
	if n > 0 {
		before = j.runs[n-1].state
	}
	r := &run{number: n + 1, state: j.now, needed: neededOf(j.now, before), exact: true}
	j.runs = append(j.runs, r)
	if err := j.begin(ctx, n); err != nil {
		return false, err
	}
	j.tell("Preparing", "Syncing")
	if p.breakAt > 0 {
		if err := j.breakDown(ctx, p.breakAt); err != nil {
			return false, err
		}
	}
	for i, s := range p.stops {
		stays := i == len(p.stops)-1 && (j.plan.ending == stoppedDeleted || j.plan.ending == leftStopped)
		stopped, err := j.stop(ctx, s)
		if err != nil {
			return false, err
		}
		if !stopped {
			continue // it was done sooner
		}
		if stays {
			j.status = smc.StatusStopped
			return false, nil
		}
		if s.mutate > 0 {
			was := j.now
			if err := j.change(s.mutate); err != nil {
				return false, err
			}
			r.needed += neededOf(j.now, was)
			r.state, r.exact = j.now, false
		}
		if err := j.start(ctx, "Start"); err != nil {
			return false, err
		}
		j.tell("Preparing", "Syncing")
	}
	d, err := j.await(ctx, "at rest", func(d *smc.DescribeReplicationJobDetailsResult) (bool, error) {
		switch d.Status {
		case smc.StatusInError, smc.StatusStopped:
			return false, inError(d)
		}
		return d.Status != smc.StatusRunning, nil
	})
	if err != nil {
		return false, err
	}
	want := smc.StatusFinished
	if last := n == len(j.plan.runs)-1; j.plan.incremental && (!last || !j.plan.ending.cutOver() || j.plan.ending == cutOverAtRest) {
		want = smc.StatusWaiting
	}
	if d.Status != want {
		return false, fmt.Errorf("it is %s after the run and ought to be %s", d.Status, want)
	}
	j.tell("Processing", "Cleaning", boundary(want))
	j.status = want
	// A run that was to stay Stopped and was too fast ends as any.
	return true, j.checkRun(r, d)
}

// begin has the nth run begin, from 0.
func (j *job) begin(ctx context.Context, n int) error {
	if n == 0 {
		return j.start(ctx, "Start")
	}
	begun := func(d *smc.DescribeReplicationJobDetailsResult) bool { return d.Run == n+1 }
	if n == len(j.plan.runs)-1 && j.plan.ending.cutOver() && j.plan.ending != cutOverAtRest {
		syncData := true
		return j.ask(ctx, "CutOver with a last run", func(ctx context.Context) error {
			_, err := j.client.CutOverReplicationJob(ctx, &smc.CutOverReplicationJobRequest{JobID: j.id, SyncData: &syncData})
			return err
		}, begun)
	}
	tries := 0
	return j.ask(ctx, "Run", func(ctx context.Context) error {
		token := fmt.Sprintf("run %d/%d", n+1, tries)
		_, err := j.client.RunReplicationJob(ctx, &smc.RunReplicationJobRequest{JobID: j.id, ClientToken: &token})
		if refusal := smc.AsError(err); err != nil && refusal.HTTPStatus < http.StatusInternalServerError {
			tries++ // a refusal is final for its token; what had no answer is asked again with the same
		}
		return err
	}, begun)
}

func (j *job) start(ctx context.Context, what string) error {
	since := j.last.Sequence
	return j.ask(ctx, what, func(ctx context.Context) error {
		_, err := j.client.StartReplicationJob(ctx, &smc.StartReplicationJobRequest{JobID: j.id})
		return err
	}, func(d *smc.DescribeReplicationJobDetailsResult) bool {
		return d.Sequence > since && (d.Status == smc.StatusRunning || d.Status == smc.StatusFinished || d.Status == smc.StatusWaiting || d.Status == smc.StatusInError)
	})
}

// reaches waits until a share of the disks is read while the job is Syncing. It reports false when the run has gone past that.
func (j *job) reaches(ctx context.Context, share float64) (reached bool, err error) {
	_, err = j.await(ctx, fmt.Sprintf("Syncing at %.0f %%", 100*share), func(d *smc.DescribeReplicationJobDetailsResult) (bool, error) {
		switch {
		case d.Status == smc.StatusInError || d.Status == smc.StatusStopped:
			return false, inError(d)
		case d.Status != smc.StatusRunning || d.BusinessStatus == smc.BusinessProcessing || d.BusinessStatus == smc.BusinessCleaning:
			return true, nil
		}
		reached = d.BusinessStatus == smc.BusinessSyncing && d.BytesTotal > 0 && float64(d.BytesRead) >= share*float64(d.BytesTotal)
		return reached, nil
	})
	return reached, err
}

// stop stops the job in the middle of a sync. It reports false when the sync was over before.
func (j *job) stop(ctx context.Context, s stop) (stopped bool, err error) {
	reached, err := j.reaches(ctx, s.at)
	if err != nil || !reached {
		return false, err
	}
	began := time.Now()
	err = j.ask(ctx, "Stop", func(ctx context.Context) error {
		_, err := j.client.StopReplicationJob(ctx, &smc.StopReplicationJobRequest{JobID: j.id})
		return err
	}, func(d *smc.DescribeReplicationJobDetailsResult) bool { return d.Status == smc.StatusStopped })
	took := time.Since(began)
	d, lookErr := j.details(ctx)
	if lookErr != nil {
		return false, errors.Join(err, lookErr)
	}
	past := d.Status == smc.StatusFinished || d.Status == smc.StatusWaiting || d.BusinessStatus == smc.BusinessProcessing || d.BusinessStatus == smc.BusinessCleaning
	switch {
	case errors.Is(err, errRefused) && past:
		j.log.add(j.plan.name, "Stop came too late")
		return false, nil
	case err != nil:
		return false, err
	case d.Status != smc.StatusStopped:
		return false, fmt.Errorf("it was stopped, and is %s %s", d.Status, d.BusinessStatus)
	}
	j.tell("Stopped")
	j.stopTook(j.id, began, took)
	return true, nil
}

// breakDown takes the end of the system disk away in the middle of a sync. The job must be InError; with the disk whole again it goes on.
func (j *job) breakDown(ctx context.Context, share float64) error {
	reached, err := j.reaches(ctx, share)
	if err != nil || !reached {
		return err
	}
	mend, err := breakDisk(j.disks[0])
	if err != nil {
		return err
	}
	j.log.add(j.plan.name, "the end of %s is gone", j.disks[0])
	d, err := j.await(ctx, "InError", func(d *smc.DescribeReplicationJobDetailsResult) (bool, error) {
		if d.Status == smc.StatusStopped || d.Status == smc.StatusInError && d.ErrorCode != smc.CodeSourceDiskChanged {
			return false, inError(d)
		}
		// What was read to its end before, and what the run had agreed on, is no concern of it any more.
		return d.Status != smc.StatusRunning || d.BusinessStatus == smc.BusinessProcessing || d.BusinessStatus == smc.BusinessCleaning, nil
	})
	if err := errors.Join(err, mend()); err != nil {
		return err
	}
	j.log.add(j.plan.name, "the end of %s is back", j.disks[0])
	if d.Status != smc.StatusInError {
		return j.awaitWhole(ctx) // or the next run finds the disk too small
	}
	j.tell("InError")
	// A heartbeat may have reported the smaller disk: the job is startable again once one has reported the whole one.
	for again := time.Now().Add(patience); ; wait(ctx, 2*time.Second) {
		if err := j.start(ctx, "Start again"); err != nil {
			return err
		}
		d, err := j.await(ctx, "Syncing", func(d *smc.DescribeReplicationJobDetailsResult) (bool, error) {
			if d.Status == smc.StatusInError && d.ErrorCode != smc.CodeSourceDiskChanged {
				return false, inError(d)
			}
			return d.Status != smc.StatusRunning || d.BusinessStatus != smc.BusinessPreparing, nil
		})
		if err != nil {
			return err
		}
		if d.Status != smc.StatusInError {
			j.story.WriteString("(ps?E)*")
			j.tell("Preparing", "Syncing")
			break
		}
		if time.Now().After(again) {
			return fmt.Errorf("its disk is whole again for %v: %w", patience, inError(d))
		}
	}
	return nil
}

// awaitWhole waits until the center knows the disks of the source as they are.
func (j *job) awaitWhole(ctx context.Context) error {
	return settles(ctx, func() error {
		rows, err := j.rows(ctx, 1, `SELECT server FROM source_servers WHERE source_id = $1`, j.agent.SourceID)
		if err != nil {
			return err
		}
		var known agentapi.Server
		if err := json.Unmarshal([]byte(rows[0][0]), &known); err != nil {
			return err
		}
		for i, disk := range known.Disks {
			if disk.SizeBytes != j.now[i].size {
				return fmt.Errorf("the center takes disk %d of %s to have %d bytes, it has %d", i, j.source.plan.name, disk.SizeBytes, j.now[i].size)
			}
		}
		return nil
	})
}

// checkRun checks what a run made and sent.
func (j *job) checkRun(r *run, d *smc.DescribeReplicationJobDetailsResult) error {
	if d.Run != r.number {
		return fmt.Errorf("its run is number %d and ought to be %d", d.Run, r.number)
	}
	for _, told := range d.Runs {
		if told.Number != r.number {
			continue
		}
		if told.Status != smc.RunSucceeded || told.ImageID == "" {
			return fmt.Errorf("run %d is %s and has image %q", r.number, told.Status, told.ImageID)
		}
		r.imageID, r.sent = told.ImageID, told.BytesSentRaw
	}
	if r.imageID == "" {
		return fmt.Errorf("there is no run %d in its details", r.number)
	}
	if err := j.checkImage(r); err != nil {
		return err
	}
	r.disturbed = j.disturbedWhileSyncing(j.id, r.number)
	if r.exact && r.sent < r.needed {
		return fmt.Errorf("run %d sent %d bytes, and %d had to be sent", r.number, r.sent, r.needed)
	}
	if twice := r.sent - r.needed; twice > int64(r.disturbed)*streams*windowSize {
		return fmt.Errorf("run %d sent %d bytes where %d had to be sent: %d twice, with %d disturbances while it was Syncing", r.number, r.sent, r.needed, twice, r.disturbed)
	}
	j.log.add(j.plan.name, "run %d is done: sent %d bytes of %d, %d disturbances; image %s is what the disks hold", r.number, r.sent, r.needed, r.disturbed, r.imageID)
	return nil
}

// checkImage compares the synced state of a run's image with what the disks held.
func (j *job) checkImage(r *run) error {
	dir, err := j.imageDir(r.imageID)
	if err != nil {
		return fmt.Errorf("run %d: %w", r.number, err)
	}
	for i, want := range r.state {
		got, err := take(filepath.Join(dir, fmt.Sprintf("disk-%d.raw", i)))
		if err != nil {
			return fmt.Errorf("image %s of run %d: %w", r.imageID, r.number, err)
		}
		if err := want.compare(got); err != nil {
			return fmt.Errorf("image %s of run %d is not what disk %d of %s held: %w", r.imageID, r.number, i, j.source.plan.name, err)
		}
	}
	return nil
}

func (j *job) remove(ctx context.Context) error {
	err := j.ask(ctx, "Delete", func(ctx context.Context) error {
		_, err := j.client.DeleteReplicationJob(ctx, &smc.DeleteReplicationJobRequest{JobID: j.id})
		return err
	}, func(d *smc.DescribeReplicationJobDetailsResult) bool {
		return d.Status == "" || d.Status == smc.StatusDeleting
	})
	if err != nil {
		return err
	}
	j.tell("Deleting", "Deleted")
	_, err = j.await(ctx, "gone", func(d *smc.DescribeReplicationJobDetailsResult) (bool, error) {
		if d.Status != smc.StatusDeleting {
			return false, fmt.Errorf("it was deleted, and is %s", d.Status)
		}
		return false, nil
	})
	if !errors.Is(err, errGone) {
		return err
	}
	j.status = ""
	return nil
}

// stops are how long the Stops of a run took.
type stops struct {
	count   int
	prompt  int           // with the center whole
	longest time.Duration // of those
}
