// Package doctor looks over a center and lists what is wrong, each with what it means and what to do: over the record, the
// stream of events with its consumers, Temporal, and what servers, workers, transition hosts and agents report into the record.
//
// It reads. What it finds is looked at twice where the parts of a center are never quite at the same moment, so that a center
// that is at work is not taken for a sick one.
package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.temporal.io/sdk/client"

	"github.com/drover/drover/center"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/events"
)

// Limits say from when on something is wrong. The zero value of each is its default.
type Limits struct {
	// Skew is how far a clock may be off. Default 5 s.
	Skew time.Duration
	// FreePercent is how much of a transition host's volume is to be free. Default 5; negative: any.
	FreePercent float64
	// Queued is how long a job may wait for a running slot. Default 1 h.
	Queued time.Duration
	// Trouble is how long a run may go on trying. Default 10 min.
	Trouble time.Duration
	// Unpublished is how long an event may wait. Default 1 min.
	Unpublished time.Duration
	// Stalled is how long a consumer may stand still. Default 10 min.
	Stalled time.Duration
	// WorkflowTask is how long the next step of a workflow may wait for a worker. Default 1 min.
	WorkflowTask time.Duration
	// Attempts is how often an activity may fail. Default 10.
	Attempts int32
	// Certificate is how long before its end a certificate is to be renewed. Default 7 days; 180 for an authority.
	Certificate time.Duration
	// Backup is how old the last backup may be. Default 7 days.
	Backup time.Duration
	// Presence is how long ago a process may have reported itself. Default 90 s.
	Presence time.Duration
	// Swept is how long ago a transition host may have looked for orphans, and OrphanStuck how long one may be there that it
	// removes by itself. Default 1 h and 24 h.
	Swept, OrphanStuck time.Duration
	// Settle is how long the parts of a center may take to agree. Default 6 s.
	Settle time.Duration
	// Fresh is how young a job may be that has no entity yet. Default 1 min.
	Fresh time.Duration
}

func (l *Limits) fill() {
	l.Skew = cmp.Or(l.Skew, 5*time.Second)
	l.FreePercent = cmp.Or(l.FreePercent, 5)
	l.Queued = cmp.Or(l.Queued, time.Hour)
	l.Trouble = cmp.Or(l.Trouble, 10*time.Minute)
	l.Unpublished = cmp.Or(l.Unpublished, time.Minute)
	l.Stalled = cmp.Or(l.Stalled, 10*time.Minute)
	l.WorkflowTask = cmp.Or(l.WorkflowTask, time.Minute)
	l.Attempts = cmp.Or(l.Attempts, 10)
	l.Certificate = cmp.Or(l.Certificate, 7*24*time.Hour)
	l.Backup = cmp.Or(l.Backup, 7*24*time.Hour)
	l.Presence = cmp.Or(l.Presence, 90*time.Second)
	l.Swept = cmp.Or(l.Swept, time.Hour)
	l.OrphanStuck = cmp.Or(l.OrphanStuck, 24*time.Hour)
	l.Settle = cmp.Or(l.Settle, 6*time.Second)
	l.Fresh = cmp.Or(l.Fresh, time.Minute)
}

// Config says what to look at. What is nil is not looked at.
type Config struct {
	Record    *store.Store
	JetStream jetstream.JetStream
	Temporal  client.Client
	Namespace string // in Temporal
	// Version is that of this program.
	Version string
	Limits  Limits
	// Fix mends what can be mended without risk: entities that are missing are started, sessions and reserved room of no run
	// released.
	Fix bool
	// Certificates are further certificate files and https URLs to look at.
	Certificates []string
	// Now is time.Now outside tests.
	Now func() time.Time
}

// Finding is one thing that is wrong.
type Finding struct {
	Kind     string   `json:"kind"`
	Severity Severity `json:"severity"`
	// Thing is what it is about: a job, a host, a consumer.
	Thing string `json:"thing"`
	// Text says what was seen, Means what that means, Do what to do next.
	Text  string `json:"text"`
	Means string `json:"means"`
	Do    string `json:"do"`
	// Fixed says that it was mended just now.
	Fixed bool `json:"fixed,omitempty"`
}

// NotSeen is a part that could not be looked at.
type NotSeen struct {
	Part string `json:"part"`
	Why  string `json:"why"`
}

// Report is what the doctor has to say.
type Report struct {
	Time    time.Time `json:"time"`
	Version string    `json:"version"`
	// Seen are the parts that were looked at, NotSeen those that could not be.
	Seen     []string  `json:"seen"`
	NotSeen  []NotSeen `json:"notSeen"`
	Findings []Finding `json:"findings"`
}

// Sound reports whether nothing was found that needs anybody.
func (r *Report) Sound() bool {
	return !slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Severity != Info && !f.Fixed })
}

// examination is one look over a center.
type examination struct {
	Config
	mu     sync.Mutex
	report *Report
	// jobs are those of the record, as they were at the beginning.
	jobs map[string]*store.Job
}

func (x *examination) now() time.Time {
	if x.Now != nil {
		return x.Now()
	}
	return time.Now()
}

// find adds a finding.
func (x *examination) find(kind, thing, format string, args ...any) {
	x.add(kind, thing, false, format, args...)
}

func (x *examination) add(kind, thing string, fixed bool, format string, args ...any) {
	k := kindOf(kind)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.report.Findings = append(x.report.Findings, Finding{
		Kind: k.Name, Severity: k.Severity, Thing: thing, Text: fmt.Sprintf(format, args...), Means: k.Means,
		Do: strings.ReplaceAll(k.Do, "THING", thing), Fixed: fixed,
	})
}

// look does a check; what fails is a part that could not be seen.
func (x *examination) look(ctx context.Context, part string, check func(context.Context) error) bool {
	err := check(ctx)
	if err == nil {
		x.report.Seen = append(x.report.Seen, part)
		return true
	}
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, ctx.Err()) {
		err = fmt.Errorf("it took too long: %w", err)
	}
	x.unseen(part, err)
	return false
}

// unseen says that a part could not be looked at.
func (x *examination) unseen(part string, err error) {
	x.report.NotSeen = append(x.report.NotSeen, NotSeen{part, err.Error()})
}

// Examine looks over a center.
func Examine(ctx context.Context, config Config) *Report {
	config.Limits.fill()
	x := &examination{Config: config, jobs: map[string]*store.Job{}}
	x.report = &Report{Time: x.now().UTC(), Version: config.Version, Seen: []string{}, NotSeen: []NotSeen{}, Findings: []Finding{}}
	known := config.Record != nil && x.look(ctx, "database", x.schema) && !x.found(schemaBehind, schemaAhead)
	if known {
		x.look(ctx, "secrets", x.secrets)
		x.look(ctx, "backups", x.backups)
		x.look(ctx, "processes", x.processes)
		x.look(ctx, "source servers", x.sources)
		x.look(ctx, "transition hosts", x.hosts)
		x.look(ctx, "jobs", x.examineJobs)
		x.look(ctx, "sessions", x.sessions)
		x.look(ctx, "events", x.events)
	}
	x.look(ctx, "certificates", func(ctx context.Context) error { return x.certificates(ctx, known) })
	if config.JetStream != nil {
		if known {
			x.look(ctx, "stream", x.stream)
		}
		for _, name := range []string{events.StreamName, events.DroverStreamName} {
			x.look(ctx, "consumers of "+name, func(ctx context.Context) error { return x.consumers(ctx, name) })
		}
	}
	if config.Temporal != nil {
		x.temporal(ctx, known)
	}
	order := func(f Finding) int {
		return slices.IndexFunc(kinds, func(k Kind) bool { return k.Name == f.Kind })
	}
	rank := map[Severity]int{Error: 0, Warning: 1, Info: 2}
	slices.SortStableFunc(x.report.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(rank[a.Severity], rank[b.Severity]), cmp.Compare(order(a), order(b)), cmp.Compare(a.Thing, b.Thing))
	})
	return x.report
}

// found reports whether something of these kinds was found.
func (x *examination) found(kinds ...string) bool {
	return slices.ContainsFunc(x.report.Findings, func(f Finding) bool { return slices.Contains(kinds, f.Kind) })
}

// engine reaches the entities of jobs.
func (x *examination) engine() *center.TemporalEngine {
	return &center.TemporalEngine{Client: x.Temporal, Namespace: x.Namespace, Store: x.Record}
}

// wait returns after a time, or with the error of ctx.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// short is a duration for people.
func short(d time.Duration) string {
	switch {
	case d.Abs() >= 48*time.Hour:
		return fmt.Sprintf("%d days", int(d.Hours()/24))
	case d.Abs() >= time.Minute:
		return d.Round(time.Minute).String()
	}
	return d.Round(100 * time.Millisecond).String()
}
