package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/drover/drover/events"
	"github.com/drover/drover/smc"
)

const (
	// watchEvery is how often the record is looked at for jobs that have entered a boundary.
	watchEvery = 20 * time.Millisecond
	// sampleEvery is how often the progress of all jobs is looked at in the record.
	sampleEvery = 200 * time.Millisecond
)

// transitionSeen is a transition of a job as the outbox has it.
type transitionSeen struct {
	events.JobStatusChanged
	at boundary
}

// watchJobs follows the outbox, past any outage of the database and of NATS, and strikes what is to be struck when a job enters a boundary.
func (c *chaos) watchJobs(ctx context.Context) error {
	const lookBack = 100 // PostgreSQL gives the numbers of rows before they are committed, SQLite as they are
	var highest int64
	known := map[string]bool{}
	for {
		err := c.each(ctx, `SELECT id, event_id, event FROM outbox WHERE id > $1 ORDER BY id`, []any{highest - lookBack}, func(scan func(...any) error) error {
			var id int64
			var eventID, text string
			if err := scan(&id, &eventID, &text); err != nil {
				return err
			}
			if known[eventID] {
				return nil
			}
			known[eventID], highest = true, max(highest, id)
			return c.seen(text)
		})
		if ctx.Err() != nil {
			return nil //nolint:nilerr // it was told to end
		}
		if err != nil {
			return fmt.Errorf("follow the outbox: %w", err)
		}
		wait(ctx, watchEvery)
	}
}

// cloudEvent is as much of an event as is looked at here.
type cloudEvent struct {
	ID      string          `json:"id"`
	Type    string          `json:"type"`
	Subject string          `json:"subject"`
	Data    json.RawMessage `json:"data"`
}

// seen takes in an event of the outbox.
func (c *chaos) seen(text string) error {
	var e cloudEvent
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		return fmt.Errorf("an event of the outbox: %w", err)
	}
	if e.Type != events.TypeJobStatus {
		return nil
	}
	t := transitionSeen{}
	if err := json.Unmarshal(e.Data, &t.JobStatusChanged); err != nil {
		return fmt.Errorf("event %s of the outbox: %w", e.ID, err)
	}
	t.at = boundaryOf(t.JobStatusChanged)
	c.mu.Lock()
	nth := 0
	for _, earlier := range c.transitions[t.JobID] {
		if earlier.at == t.at {
			nth++
		}
	}
	c.transitions[t.JobID] = append(c.transitions[t.JobID], t)
	c.mu.Unlock()
	c.log.add("outbox", "%s %s enters %s (%d, run %d)", t.JobID, t.Name, t.at, t.JobStatusChanged.Sequence, t.Run)
	if !c.options.calm {
		c.strikeAt(t, moment{t.at, nth})
	}
	return nil
}

func boundaryOf(t events.JobStatusChanged) boundary {
	if t.BusinessStatus != "" {
		return boundary(t.BusinessStatus)
	}
	return boundary(t.Status)
}

// pair is a process and a boundary at which it is struck.
type pair struct {
	target   target
	boundary boundary
}

// strikeAt strikes what the plan says, or else what could not be struck at an earlier such moment.
func (c *chaos) strikeAt(t transitionSeen, m moment) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, planned := c.strikes[t.Name][m]
	hostID := c.hostOf[t.JobID]
	if planned {
		// What this job has to do with is struck, while it is about it.
		if c.processes.strike(c.processes.concerned(s.target, s.pick, t.SourceID, hostID), s, fmt.Sprintf("%s enters %s", t.Name, m.boundary)) {
			c.covered[pair{s.target, m.boundary}]++
			return
		}
		c.log.add(string(s.target), "is down already as %s enters %s", t.Name, m.boundary)
	}
	for i, left := range c.missed[m.boundary] {
		if c.covered[pair{left.target, m.boundary}] > 0 {
			continue
		}
		if c.processes.strike(c.processes.concerned(left.target, left.pick, t.SourceID, hostID), left, fmt.Sprintf("%s enters %s, in place of an earlier job", t.Name, m.boundary)) {
			c.covered[pair{left.target, m.boundary}]++
			c.missed[m.boundary] = append(c.missed[m.boundary][:i:i], c.missed[m.boundary][i+1:]...)
			break
		}
	}
	if planned && c.covered[pair{s.target, m.boundary}] == 0 {
		c.missed[m.boundary] = append(c.missed[m.boundary], s)
	}
}

// toCover gives every pair that was not struck to the next moments of its boundary, and reports how many there are.
func (c *chaos) toCover() (open int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := stream(c.plan.seed, "missed strikes")
	for _, b := range boundaries {
		c.missed[b] = nil
		for _, kind := range targets {
			if c.covered[pair{kind, b}] == 0 {
				s := drawStrike(r, kind)
				s.hang = false
				c.missed[b] = append(c.missed[b], s)
				open++
			}
		}
	}
	return open
}

// figures are how far a run is, as the record has it.
type figures struct {
	progress            float64
	read, wire, uncoded int64 // bytes
	sequence            int64
}

// runKey names a run.
type runKey struct {
	job string
	run int
}

// sample looks at the progress of every job, past any outage: it never goes backwards.
func (c *chaos) sample(ctx context.Context) error {
	for {
		err := c.each(ctx, `SELECT j.job_id, j.host_id, j.run, j.sequence, j.progress, r.number, r.bytes_read, r.bytes_sent, r.bytes_sent_raw
			FROM replication_jobs j JOIN replication_runs r ON r.job_id = j.job_id`, nil, func(scan func(...any) error) error {
			var f figures
			var k runKey
			var hostID string
			var current int
			if err := scan(&k.job, &hostID, &current, &f.sequence, &f.progress, &k.run, &f.read, &f.wire, &f.uncoded); err != nil {
				return err
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			before := c.figures[k]
			if k.run != current {
				f.progress = before.progress // it is of another run
			}
			if f.progress < before.progress || f.read < before.read || f.wire < before.wire || f.uncoded < before.uncoded || f.sequence < before.sequence {
				return fmt.Errorf("run %d of %s goes backwards in the record: from %+v to %+v", k.run, k.job, before, f)
			}
			c.figures[k] = f
			c.samples++
			if hostID != "" {
				c.hostOf[k.job] = hostID
			}
			return nil
		})
		if ctx.Err() != nil {
			return nil //nolint:nilerr // it was told to end
		}
		if err != nil {
			return err
		}
		wait(ctx, sampleEvery)
	}
}

// disturbedWhileSyncing counts what a run may have sent something twice for, while it was Syncing: strikes at its agent, at its transition host
// and at Temporal, which may take its work from it, outages of the database, and Stops and failures of the run itself.
func (c *chaos) disturbedWhileSyncing(jobID string, number int) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var since time.Time
	for _, t := range c.transitions[jobID] {
		if t.Run != number {
			continue
		}
		switch {
		case t.at == boundary(smc.BusinessSyncing):
			since = t.Time
		case !since.IsZero():
			own := []string{
				c.processes.concerned(agent, 0, t.SourceID, "").Name, c.processes.concerned(transition, 0, "", c.hostOf[jobID]).Name,
				c.processes.concerned(temporal, 0, "", "").Name, databaseOutage,
			}
			for _, d := range c.processes.disturbances(since, t.Time) {
				if slices.Contains(own, d.of) {
					n++
				}
			}
			if t.at == "Stopped" || t.at == "InError" {
				n++
			}
			since = time.Time{}
		}
	}
	return n
}

// stopTook notes how long a Stop took. While nothing but agents, transition hosts, orchestrators and NATS were struck it has to be prompt.
func (c *chaos) stopTook(jobID string, began time.Time, took time.Duration) {
	whole := true
	for _, d := range c.processes.disturbances(began, began.Add(took)) {
		switch d.kind {
		case agent, transition, orchestrator, natsServer:
		default:
			whole = false
		}
	}
	c.mu.Lock()
	c.stops.count++
	if whole {
		c.stops.prompt++
		c.stops.longest = max(c.stops.longest, took)
	}
	c.mu.Unlock()
	if whole && took > promptly {
		c.fail(fmt.Errorf("%s: Stop took %v with the center whole", jobID, took.Round(time.Millisecond)))
	}
}
