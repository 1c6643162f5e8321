package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/drover/drover/events"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/test/process"
	"github.com/drover/drover/workflows"
)

// settleLimit is how long what follows a change may take: events to the stream, staging to be released, Temporal to list what runs.
const settleLimit = 2 * time.Minute

// checked is what the checks at the end have counted.
type checked struct {
	jobs, images, exports       int
	events, resources           int
	workflows                   int
	natsOutages                 int
	databaseOutages             int
	sent, needed, twice, bound  int64
	written                     int64 // by all agents, as the kernel counts
	mostTwice, mostTwiceAllowed int64 // of one run
	doctor                      string
}

// check looks at everything when all is at rest. All that is wrong is said, not only what is found first.
func (c *chaos) check(ctx context.Context) error {
	var err error
	for _, one := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"the ends of the jobs", c.checkEnds},
		{"the sources", c.checkSources},
		{"the events", c.checkEvents},
		{"the bytes sent", c.checkBytes},
		{"the images", c.checkImages},
		{"what is left on the transition hosts", c.checkLeft},
		{"the record", c.checkRecord},
		{"Temporal", c.checkTemporal},
		{"the exports", c.checkExports},
		{"drover doctor", c.checkDoctor},
	} {
		c.log.add("check", "%s", one.what)
		if wrong := one.do(ctx); wrong != nil {
			c.log.add("FAILED", "%s: %v", one.what, wrong)
			err = errors.Join(err, fmt.Errorf("%s: %w", one.what, wrong))
		}
	}
	return err
}

// settles waits until a check finds nothing wrong, and returns what it found last.
func settles(ctx context.Context, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	var wrong error
	_ = process.Until(ctx, "settled", func() (bool, any) { // what is wrong says more
		wrong = check()
		return wrong == nil, nil
	})
	return wrong
}

// awaitRelay waits until every event of the outbox was published.
func (c *chaos) awaitRelay(ctx context.Context) error {
	return settles(ctx, func() error {
		var n int
		if err := c.db.QueryRowContext(ctx, `SELECT count(*) FROM outbox WHERE published = 0`).Scan(&n); err != nil {
			return err
		}
		if n > 0 {
			return fmt.Errorf("%d events of the outbox are not in the stream", n)
		}
		return nil
	})
}

// rows reads rows of strings.
func (c *chaos) rows(ctx context.Context, columns int, query string, args ...any) (all [][]string, err error) {
	err = c.each(ctx, query, args, func(scan func(...any) error) error {
		row, into := make([]string, columns), make([]any, columns)
		for i := range row {
			into[i] = &row[i]
		}
		all = append(all, row)
		return scan(into...)
	})
	return all, err
}

// each reads the rows of a query, past any outage of the database.
func (c *chaos) each(ctx context.Context, query string, args []any, do func(scan func(...any) error) error) error {
	rows, err := c.db.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := do(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// checkEnds compares the status of every job with the one it is to have: as the API tells it, and as the record has it. Nobody made more jobs.
func (c *chaos) checkEnds(ctx context.Context) error {
	var err error
	want := map[string]smc.JobStatus{}
	for _, j := range c.jobs {
		c.checked.jobs++
		if j.status != "" {
			want[j.id] = j.status
		}
		d, askErr := j.details(ctx)
		switch {
		case errors.Is(askErr, errGone) && j.status == "":
		case askErr != nil:
			err = errors.Join(err, fmt.Errorf("job %s: %w", j.id, askErr))
		case d.Status != j.status || d.ErrorCode != "":
			err = errors.Join(err, fmt.Errorf("job %s is %s %s and ought to be %s", j.id, d.Status, d.ErrorCode, j.status))
		case d.Status == smc.StatusFinished && d.Progress != 100:
			err = errors.Join(err, fmt.Errorf("job %s is Finished at %g %%", j.id, d.Progress))
		}
		if storyErr := j.checkStory(c.told(j.id)); storyErr != nil {
			err = errors.Join(err, storyErr)
		}
	}
	rows, queryErr := c.rows(ctx, 2, `SELECT job_id, status FROM replication_jobs`)
	if queryErr != nil {
		return errors.Join(err, queryErr)
	}
	got := map[string]smc.JobStatus{}
	for _, row := range rows {
		got[row[0]] = smc.JobStatus(row[1])
	}
	if !maps.Equal(got, want) {
		err = errors.Join(err, fmt.Errorf("the record has the jobs %v and ought to have %v", got, want))
	}
	known := map[string]bool{}
	for _, j := range c.jobs {
		known[j.id] = true
	}
	for id := range c.transitions {
		if !known[id] {
			err = errors.Join(err, fmt.Errorf("there was a job %s that nobody asked for", id))
		}
	}
	return err
}

// told are the statuses of a job as the outbox has them.
func (c *chaos) told(jobID string) (all []boundary) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.transitions[jobID] {
		all = append(all, t.at)
	}
	return all
}

// checkSources wants every source Available: its agent is up and none of its jobs is Running.
func (c *chaos) checkSources(ctx context.Context) error {
	return settles(ctx, func() error {
		rows, err := c.rows(ctx, 3, `SELECT name, state, error_code FROM source_servers WHERE state <> 'Available'`)
		if err != nil || len(rows) == 0 {
			return err
		}
		return fmt.Errorf("not Available: %v", rows)
	})
}

// checkEvents reads the stream from its beginning: of every resource 1 to n without a gap, each once, and equal to the outbox.
func (c *chaos) checkEvents(ctx context.Context) error {
	outbox, err := c.rows(ctx, 3, `SELECT event_id, subject, event FROM outbox ORDER BY resource_id, sequence`)
	if err != nil {
		return err
	}
	recorded := map[string][]string{}
	for _, row := range outbox {
		recorded[row[0]] = row
	}
	nc, err := c.stack.ConnectNATS()
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	streamed, err := js.Stream(ctx, events.StreamName)
	if err != nil {
		return err
	}
	info, err := streamed.Info(ctx)
	if err != nil {
		return err
	}
	var wrong error
	lastOf, previous := map[string]uint64{}, map[string]string{}
	for n := info.State.FirstSeq; n <= info.State.LastSeq; n++ {
		msg, err := streamed.GetMsg(ctx, n)
		if err != nil {
			return fmt.Errorf("message %d of the stream: %w", n, err)
		}
		var e cloudEvent
		var data events.JobStatusChanged // an event of a source has a Sequence too
		err = json.Unmarshal(msg.Data, &e)
		if err == nil {
			err = json.Unmarshal(e.Data, &data)
		}
		if err != nil {
			return fmt.Errorf("message %d of the stream: %w", n, err)
		}
		if data.Sequence != lastOf[e.Subject]+1 {
			wrong = errors.Join(wrong, fmt.Errorf("message %d of the stream is event %d of %s, after event %d", n, data.Sequence, e.Subject, lastOf[e.Subject]))
		}
		lastOf[e.Subject] = data.Sequence
		if e.Type == events.TypeJobStatus {
			if before := data.PreviousStatus + "/" + data.PreviousBusinessStatus; data.Sequence > 1 && before != previous[e.Subject] {
				wrong = errors.Join(wrong, fmt.Errorf("event %s tells of %s before, the event before of %s", e.ID, before, previous[e.Subject]))
			}
			previous[e.Subject] = data.Status + "/" + data.BusinessStatus
		}
		row, known := recorded[e.ID]
		switch {
		case !known:
			wrong = errors.Join(wrong, fmt.Errorf("message %d of the stream, event %s, is not in the outbox, or twice in the stream", n, e.ID))
		case row[1] != msg.Subject || row[2] != string(msg.Data):
			wrong = errors.Join(wrong, fmt.Errorf("event %s is another in the stream than in the outbox: %s %s and %s %s", e.ID, msg.Subject, msg.Data, row[1], row[2]))
		}
		delete(recorded, e.ID)
		c.checked.events++
	}
	c.checked.resources = len(lastOf)
	for id := range recorded {
		wrong = errors.Join(wrong, fmt.Errorf("event %s is not in the stream", id))
	}
	return wrong
}

// checkBytes adds up what all runs sent, against what the kernel saw the agents write.
func (c *chaos) checkBytes(context.Context) error {
	for _, j := range c.jobs {
		for _, r := range j.runs {
			if r.sent == 0 {
				continue // not done, or of the fleet: its jobs are gone when it tells
			}
			twice, allowed := r.sent-r.needed, int64(r.disturbed)*streams*windowSize
			c.checked.sent += r.sent
			c.checked.needed += r.needed
			c.checked.twice += max(0, twice)
			c.checked.bound += allowed
			if twice > c.checked.mostTwice {
				c.checked.mostTwice, c.checked.mostTwiceAllowed = twice, allowed
			}
		}
	}
	strikes := int64(len(c.processes.disturbances(time.Time{}, time.Now())))
	if limit := strikes * streams * windowSize; c.checked.twice > limit {
		return fmt.Errorf("%d bytes were sent twice, more than the %d of all strikes", c.checked.twice, limit)
	}
	return c.checkWritten()
}

// checkWritten holds what the center says was sent against what the kernel saw the agents write: nothing was sent that is not counted. A window
// that was cut off, by a strike at the agent or at a transition host, counts whole.
func (c *chaos) checkWritten() (wrong error) {
	told := map[string]int64{}
	for k, f := range c.figures {
		if all := c.transitions[k.job]; len(all) > 0 {
			told[all[0].SourceID] += f.wire
		}
	}
	var atHosts int64
	for _, d := range c.processes.disturbances(time.Time{}, time.Now()) {
		if d.kind == transition {
			atHosts++
		}
	}
	for _, s := range slices.Concat(c.sources, c.fleet.servers) {
		written, strikes, err := c.processes.writtenBy(s.agent.SourceID)
		if err != nil {
			return err
		}
		c.checked.written += written
		const other = 8 * mib // requests, answers and logs; of frames less than 1 % is not what they carry
		sent := told[s.agent.SourceID]
		if written > sent+sent/100+other || sent > written+(strikes+atHosts)*streams*windowSize {
			wrong = errors.Join(wrong, fmt.Errorf("%s wrote %d bytes, and the center counts %d with %d strikes at it", s.plan.name, written, sent, strikes))
		}
	}
	return wrong
}

// imageDir finds the directory of an image on the transition hosts.
func (c *chaos) imageDir(imageID string) (string, error) {
	for _, host := range c.stack.TransitionHosts {
		dir := filepath.Join(host.Data, "images", imageID)
		if _, err := os.Stat(filepath.Join(dir, "manifest.json")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no transition host has image %s", imageID)
}

// checkImages wants of every job the images of its last runs, as many as it is to keep, and under their names, and compares each again with
// what the disks held when it was made.
func (c *chaos) checkImages(ctx context.Context) error {
	rows, err := c.rows(ctx, 4, `SELECT image_id, image_name, job_id, status FROM images`)
	if err != nil {
		return err
	}
	got := map[string][]string{}
	for _, row := range rows {
		got[row[0]] = row
	}
	var wrong error
	for _, j := range c.jobs {
		for _, r := range j.kept() {
			row, there := got[r.imageID]
			delete(got, r.imageID)
			name := j.plan.name
			if j.plan.incremental {
				name = fmt.Sprintf("%s_CYCLE_%d", name, r.number)
			}
			switch {
			case !there:
				wrong = errors.Join(wrong, fmt.Errorf("image %s of run %d of %s is not in the record", r.imageID, r.number, j.id))
				continue
			case row[3] != string(smc.ImageAvailable) || row[2] != j.id:
				wrong = errors.Join(wrong, fmt.Errorf("image %s of run %d of %s is %s, of job %s", r.imageID, r.number, j.id, row[3], row[2]))
			case row[1] != name && !strings.HasPrefix(j.plan.name, "fleet-"):
				wrong = errors.Join(wrong, fmt.Errorf("image %s of run %d of %s is called %s and ought to be called %s", r.imageID, r.number, j.id, row[1], name))
			}
			if err := j.checkImage(r); err != nil {
				wrong = errors.Join(wrong, fmt.Errorf("job %s: %w", j.id, err))
			}
			c.checked.images++
		}
	}
	if len(got) > 0 {
		wrong = errors.Join(wrong, fmt.Errorf("images of the record that ought not to be: %v", slices.Collect(maps.Values(got))))
	}
	return wrong
}

// kept are the runs of a job whose images are to be there.
func (j *job) kept() (all []*run) {
	for _, r := range j.runs {
		if r.imageID != "" {
			all = append(all, r)
		}
	}
	if j.plan.incremental {
		all = all[max(0, len(all)-j.plan.keep):]
	}
	return all
}

// checkLeft wants on the transition hosts the directories of the images that the record has, and the staging of jobs that go on from it.
func (c *chaos) checkLeft(ctx context.Context) error {
	return settles(ctx, func() error {
		rows, err := c.rows(ctx, 3, `SELECT 'images', image_id, host_id FROM images UNION
			SELECT 'staging', job_id, host_id FROM replication_jobs WHERE status IN ('Stopped', 'InError', 'Waiting') AND host_id <> ''`)
		if err != nil {
			return err
		}
		var want, got []string
		for _, row := range rows {
			want = append(want, row[2]+"/"+row[0]+"/"+row[1])
		}
		for _, host := range c.stack.TransitionHosts {
			id, err := os.ReadFile(filepath.Join(host.Data, "host-id"))
			if err != nil {
				return err
			}
			for _, dir := range []string{"images", "staging"} {
				entries, err := os.ReadDir(filepath.Join(host.Data, dir))
				if err != nil {
					return err
				}
				for _, e := range entries {
					got = append(got, strings.TrimSpace(string(id))+"/"+dir+"/"+e.Name())
				}
			}
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(want, got) {
			return fmt.Errorf("there are %v, and there ought to be %v", without(got, want), without(want, got))
		}
		return nil
	})
}

// without returns what is in a and not in b.
func without(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(one string) bool { return slices.Contains(b, one) })
}

// checkRecord wants nothing in the record of what only Running jobs have.
func (c *chaos) checkRecord(ctx context.Context) error {
	return settles(ctx, func() error {
		for what, query := range map[string]string{
			"open sync sessions":                  `SELECT job_id FROM sync_sessions WHERE open = 1`,
			"runs that are Running":               `SELECT job_id FROM replication_runs WHERE status = 'Running'`,
			"runs of jobs that are gone":          `SELECT job_id FROM replication_runs WHERE job_id NOT IN (SELECT job_id FROM replication_jobs)`,
			"reserved space":                      `SELECT job_id FROM space_reservations WHERE job_id NOT IN (SELECT job_id FROM replication_jobs WHERE status <> 'Finished')`,
			"queued jobs":                         `SELECT job_id FROM replication_jobs WHERE queue_number > 0`,
			"jobs whose workflow was not started": `SELECT job_id FROM replication_jobs WHERE workflow_started = 0`,
		} {
			rows, err := c.rows(ctx, 1, query)
			if err != nil {
				return err
			}
			if len(rows) > 0 {
				return fmt.Errorf("%s: %v", what, rows)
			}
		}
		return nil
	})
}

// checkTemporal wants an open workflow for every job there is and no other, with nothing pending and no workflow task that fails again and again.
func (c *chaos) checkTemporal(ctx context.Context) error {
	return settles(ctx, func() error {
		rows, err := c.rows(ctx, 1, `SELECT job_id FROM replication_jobs`)
		if err != nil {
			return err
		}
		var want, got []string
		for _, row := range rows {
			want = append(want, workflows.JobID(row[0]))
		}
		var page []byte
		for {
			listed, err := c.temporal.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{Query: `ExecutionStatus = "Running"`, NextPageToken: page})
			if err != nil {
				return err
			}
			for _, e := range listed.Executions {
				got = append(got, e.Execution.WorkflowId)
			}
			if page = listed.NextPageToken; len(page) == 0 {
				break
			}
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(want, got) {
			return fmt.Errorf("workflows that are open and ought not to be: %v; that ought to be open: %v", without(got, want), without(want, got))
		}
		for _, id := range want {
			d, err := c.temporal.DescribeWorkflowExecution(ctx, id, "")
			if err != nil {
				return err
			}
			if d.WorkflowExecutionInfo.Status != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING || len(d.PendingActivities) > 0 || len(d.PendingChildren) > 0 ||
				d.PendingWorkflowTask != nil {
				return fmt.Errorf("workflow %s of a job at rest: %v", id, d)
			}
		}
		c.checked.workflows = len(want)
		return nil
	})
}

// checkExports exports the newest image of every job as a user does, and compares the files with what the disks held; and with the disks
// themselves where they have not changed since.
func (c *chaos) checkExports(ctx context.Context) error {
	var wrong error
	for _, j := range c.jobs {
		kept := j.kept()
		if len(kept) == 0 {
			continue
		}
		r := kept[len(kept)-1]
		if err := c.checkExport(ctx, j, r); err != nil {
			wrong = errors.Join(wrong, fmt.Errorf("image %s of %s: %w", r.imageID, j.id, err))
		}
		c.checked.exports++
	}
	return wrong
}

func (c *chaos) checkExport(ctx context.Context, j *job, r *run) error {
	dir := filepath.Join(c.dir, "exports", r.imageID)
	result, err := c.stack.Drover(ctx, "image", "export", r.imageID, dir, "--synced")
	if err != nil {
		return err
	}
	if result.Code != 0 {
		return errors.New(result.Stderr)
	}
	defer os.RemoveAll(dir)
	for i, disk := range j.disks {
		name := filepath.Join(dir, fmt.Sprintf("disk-%d.raw", i))
		got, err := take(name)
		if err != nil {
			return err
		}
		if err := r.state[i].compare(got); err != nil {
			return fmt.Errorf("disk %d: %w", i, err)
		}
		if r.state[i].compare(j.now[i]) == nil {
			if err := sameBytes(name, disk); err != nil {
				return err
			}
		}
	}
	return nil
}

// sameBytes compares two files byte for byte.
func sameBytes(a, b string) error {
	f, err := os.Open(a) //nolint:gosec // a file of the run
	if err != nil {
		return err
	}
	defer f.Close()
	g, err := os.Open(b) //nolint:gosec // a file of the run
	if err != nil {
		return err
	}
	defer g.Close()
	one, other := make([]byte, mib), make([]byte, mib)
	for at := int64(0); ; at += mib {
		n, err := io.ReadFull(f, one)
		m, otherErr := io.ReadFull(g, other)
		if n != m || string(one[:n]) != string(other[:m]) {
			return fmt.Errorf("%s and %s differ in the MiB at %d", a, b, at)
		}
		ended := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if ended {
			return nil
		}
		if err := errors.Join(err, otherErr); err != nil {
			return err
		}
	}
}

// checkDoctor wants a clean bill of health: the doctor sees every part, and finds nothing that needs anybody.
func (c *chaos) checkDoctor(ctx context.Context) error {
	return settles(ctx, func() error {
		r, err := c.stack.Run(ctx, "drover-server", "doctor", "--min-free", "0") // how full this machine is, is none of the run's doing
		if err != nil {
			return err
		}
		if r.Code != 0 {
			return fmt.Errorf("exit code %d:\n%s%s", r.Code, r.Stdout, r.Stderr)
		}
		lines := strings.Split(strings.TrimSpace(r.Stdout), "\n")
		c.checked.doctor = lines[len(lines)-1]
		return nil
	})
}
