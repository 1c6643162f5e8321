package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/drover/drover/replica"
	"github.com/drover/drover/test/process"
	"github.com/drover/drover/test/stack"
)

const (
	// comeBack bounds the start of a process, its tries while something that it needs is away included.
	comeBack = 3 * time.Minute
	// startAgain is the pause after a start that came to nothing, as a supervisor makes.
	startAgain = time.Second
)

// victim is a process that is struck.
type victim struct {
	*process.Process
	kind target
	// mu is held while it is down, from the strike until it is ready again.
	mu sync.Mutex
	// written is what lives that were killed have written, in bytes. Guarded by mu.
	written int64
}

// disturbance is a time in which something was struck, away, or on its way back.
type disturbance struct {
	of          string
	kind        target // empty for an outage of the database
	hang        bool
	began, over time.Time // over is zero while it lasts
}

// processes are all of a stack, and what was done to them.
type processes struct {
	ctx   context.Context // of the whole run
	stack *stack.Stack
	log   *timeline
	fail  func(error)

	mu       sync.Mutex
	byKind   map[target][]*victim
	agents   map[string]*victim // by SourceId
	hosts    map[string]*victim // by HostId
	history  []*disturbance
	gaveUp   int // starts that came to nothing while something was away
	returned sync.WaitGroup
}

func newProcesses(ctx context.Context, s *stack.Stack, log *timeline, fail func(error)) (*processes, error) {
	p := &processes{ctx: ctx, stack: s, log: log, fail: fail, byKind: map[target][]*victim{}, agents: map[string]*victim{}, hosts: map[string]*victim{}}
	add := func(kind target, of *process.Process) *victim {
		v := &victim{Process: of, kind: kind}
		p.byKind[kind] = append(p.byKind[kind], v)
		return v
	}
	add(temporal, s.Temporal)
	add(natsServer, s.NATS)
	for _, one := range s.Servers {
		add(server, one.Process)
	}
	for _, one := range s.CenterWorkers {
		add(center, one)
	}
	for _, one := range s.Orchestrators {
		add(orchestrator, one)
	}
	for _, one := range s.TransitionHosts {
		id, err := os.ReadFile(filepath.Join(one.Data, replica.HostIDFile))
		if err != nil {
			return nil, fmt.Errorf("the id of %s: %w", one.Name, err)
		}
		p.hosts[strings.TrimSpace(string(id))] = add(transition, one.Process)
	}
	return p, nil
}

func (p *processes) addAgent(a *stack.Agent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := &victim{Process: a.Process, kind: agent}
	p.byKind[agent] = append(p.byKind[agent], v)
	p.agents[a.SourceID] = v
}

// any returns one of the processes of a kind.
func (p *processes) any(kind target, pick int) *victim {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.byKind[kind]
	return all[pick%len(all)]
}

// concerned returns the process of a kind that has to do with a job, or one of the kind.
func (p *processes) concerned(kind target, pick int, sourceID, hostID string) *victim {
	p.mu.Lock()
	var v *victim
	switch kind {
	case agent:
		v = p.agents[sourceID]
	case transition:
		v = p.hosts[hostID]
	case server, center, natsServer, temporal, orchestrator:
	}
	p.mu.Unlock()
	if v == nil {
		return p.any(kind, pick)
	}
	return v
}

// begin notes a disturbance; what it returns notes its end.
func (p *processes) begin(d disturbance) (over func()) {
	d.began = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.history = append(p.history, &d)
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		d.over = time.Now()
	}
}

// disturbances returns those that overlap a stretch of time.
func (p *processes) disturbances(from, to time.Time) (all []disturbance) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range p.history {
		if d.began.Before(to) && (d.over.IsZero() || d.over.After(from)) {
			all = append(all, *d)
		}
	}
	return all
}

// strike strikes a process, and has it back later, in the background. It reports whether it did: one that is down already, or not up again yet,
// is left alone.
func (p *processes) strike(v *victim, s strike, why string) bool {
	if !v.mu.TryLock() {
		return false
	}
	if !v.Running() {
		v.mu.Unlock()
		return false // whoever looks after the processes says so
	}
	// What an agent has written is known only of one that does not write on.
	if err := v.Pause(); err != nil {
		v.mu.Unlock()
		return false
	}
	over := p.begin(disturbance{of: v.Name, kind: v.kind, hang: s.hang})
	p.log.add(v.Name, "%v: %s", s, why)
	if !s.hang {
		if n, err := v.BytesWritten(); err == nil {
			v.written += n
		}
		v.Kill()
	}
	p.returned.Go(func() {
		defer v.mu.Unlock()
		defer over()
		wait(p.ctx, s.lasts)
		if s.hang {
			v.Continue()
			return
		}
		if err := p.bringBack(v); err != nil && p.ctx.Err() == nil {
			p.fail(err)
		}
	})
	return true
}

// bringBack starts a process as a supervisor would: again and again, when it gives up because something that it needs is away.
func (p *processes) bringBack(v *victim) error {
	ctx, cancel := context.WithTimeoutCause(p.ctx, comeBack, fmt.Errorf("%s does not come back within %v", v.Name, comeBack))
	defer cancel()
	began := time.Now()
	for {
		if err := v.Start(); err != nil {
			return err
		}
		err := v.AwaitReady(ctx)
		switch {
		case err == nil:
			p.log.add(v.Name, "ready again after %v", time.Since(began).Round(time.Millisecond))
			return nil
		case v.Running() || ctx.Err() != nil:
			return fmt.Errorf("%s does not come back: %w", v.Name, err)
		}
		p.log.add(v.Name, "gave up at its start: %v", err)
		p.mu.Lock()
		p.gaveUp++
		p.mu.Unlock()
		wait(ctx, startAgain)
	}
}

// watch fails the run when a process ends that nobody struck.
func (p *processes) watch() {
	for ticker := time.Tick(500 * time.Millisecond); ; {
		select {
		case <-p.ctx.Done():
			return
		case <-ticker:
		}
		p.mu.Lock()
		var all []*victim
		for _, some := range p.byKind {
			all = append(all, some...)
		}
		p.mu.Unlock()
		for _, v := range all {
			if !v.mu.TryLock() {
				continue
			}
			if err := v.Alive(); err != nil && p.ctx.Err() == nil {
				p.fail(fmt.Errorf("nobody struck it: %w", err))
			}
			v.mu.Unlock()
		}
	}
}

// takeDatabase takes the database away from every process for a while, or has it say nothing.
func (p *processes) takeDatabase(o outage) error {
	over := p.begin(disturbance{of: databaseOutage})
	defer over()
	take := p.stack.Database.Cut
	if o.hang {
		take = p.stack.Database.Hang
	}
	if err := take(p.ctx); err != nil {
		return err
	}
	p.log.add("database", "%s for %v", o.what(), o.lasts)
	wait(p.ctx, o.lasts)
	err := p.stack.Database.Mend()
	p.log.add("database", "answers again")
	return err
}

// calm waits until every process is up again.
func (p *processes) calm() { p.returned.Wait() }

// writtenBy is what all lives of the agent of a source have written, in bytes, and how often it was struck.
func (p *processes) writtenBy(sourceID string) (written, strikes int64, err error) {
	p.mu.Lock()
	v := p.agents[sourceID]
	for _, d := range p.history {
		if d.of == v.Name {
			strikes++
		}
	}
	p.mu.Unlock()
	v.mu.Lock()
	defer v.mu.Unlock()
	n, err := v.BytesWritten()
	return v.written + n, strikes, err
}

// wait waits, no longer than ctx lasts.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
