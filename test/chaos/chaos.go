package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.temporal.io/sdk/client"
	"golang.org/x/sync/errgroup"

	"github.com/drover/drover/smc"
	"github.com/drover/drover/test/stack"
)

const (
	// startLimit bounds the start of the stack and of all agents.
	startLimit = 3 * time.Minute
	// stopLimit is how long a process may take to end after SIGTERM.
	stopLimit = 20 * time.Second
	// closingRounds bounds the jobs that are made at the end for pairs of process and boundary that were not struck: one for each source and round.
	closingRounds = 6
)

// chaos is one run.
type chaos struct {
	options   options
	plan      *plan
	dir       string
	log       *timeline
	stack     *stack.Stack
	client    *smc.Client
	db        *sql.DB
	temporal  client.Client
	processes *processes
	sources   []*source
	fleet     *fleetRun
	began     time.Time
	cancel    context.CancelCauseFunc

	mu          sync.Mutex
	jobs        []*job
	strikes     map[string]map[moment]strike // by the name of the job
	transitions map[string][]transitionSeen  // by JobId
	hostOf      map[string]string            // HostId by JobId
	covered     map[pair]int
	missed      map[boundary][]strike
	figures     map[runKey]figures
	samples     int
	unanswered  int
	stops       stops
	checked     checked
}

// fail ends the run with an error; the first one counts.
func (c *chaos) fail(err error) {
	c.log.add("FAILED", "%v", err)
	c.cancel(err)
}

func (c *chaos) count(n *int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*n++
}

func (c *chaos) addJob(j *job) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.jobs = append(c.jobs, j)
}

// run does everything: it starts the stack, does the jobs while it strikes, and checks what has come of it.
func (c *chaos) run(ctx context.Context) (err error) {
	ctx, c.cancel = context.WithCancelCause(ctx)
	defer c.cancel(nil)
	defer func() {
		if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(cause, context.Canceled) {
			err = cause // what failed first
		}
	}()
	if err := c.start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	if err := c.disturb(ctx); err != nil {
		return err
	}
	c.say("all jobs have come to their ends after %v; now all is looked at", time.Since(c.began).Round(time.Second))
	if err := c.check(ctx); err != nil {
		return err
	}
	c.cancel(nil) // who watches the processes looks away
	if err := c.stack.Stop(stopLimit); err != nil {
		return fmt.Errorf("not everything stops as it should: %w", err)
	}
	return nil
}

// start starts the stack and the agents.
func (c *chaos) start(ctx context.Context) (err error) {
	starting, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("the stack is not up within %v", startLimit))
	defer cancel()
	for _, dir := range []string{"disks", "exports"} {
		if err := os.MkdirAll(filepath.Join(c.dir, dir), 0o700); err != nil {
			return err
		}
	}
	c.stack, err = stack.New(starting, stack.Options{
		Dir: c.dir, Binaries: c.options.bin, Postgres: c.options.postgres, Servers: 2, CenterWorkers: 2, TransitionHosts: 2, Orchestrators: 1,
		ServerArgs: []string{"--rate-limit", "0"},
	})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	c.client = c.stack.Client
	if c.db, err = c.stack.Database.Open(); err != nil {
		return err
	}
	if c.temporal, err = c.stack.ConnectTemporal(starting); err != nil {
		return err
	}
	if c.processes, err = newProcesses(ctx, c.stack, c.log, c.fail); err != nil {
		return err
	}
	for _, p := range c.plan.sources {
		s, err := c.newSource(starting, p)
		if err != nil {
			return err
		}
		c.sources = append(c.sources, s)
		for _, j := range p.jobs {
			c.strikes[j.name] = j.strikes
		}
	}
	c.fleet = &fleetRun{chaos: c}
	for _, p := range c.plan.fleet {
		s, err := c.newSource(starting, p)
		if err != nil {
			return err
		}
		c.fleet.servers = append(c.fleet.servers, s)
	}
	c.began = time.Now()
	c.log.add("chaos", "%d processes are up", len(c.stack.Processes()))
	return nil
}

func (c *chaos) close() error {
	c.cancel(nil)
	if c.processes != nil {
		c.processes.calm()
	}
	var err error
	if c.db != nil {
		err = c.db.Close()
	}
	if c.temporal != nil {
		c.temporal.Close()
	}
	return errors.Join(err, c.stack.Close())
}

// disturb has all jobs done while it strikes, and returns when all have come to their ends and all processes are up.
func (c *chaos) disturb(ctx context.Context) error {
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	watchers, watching := errgroup.WithContext(watching)
	for _, watch := range []func(context.Context) error{c.watchJobs, c.sample} {
		watchers.Go(func() error {
			err := watch(watching)
			if err != nil {
				c.fail(err)
			}
			return err
		})
	}
	go c.processes.watch()

	striking, stopStriking := context.WithCancel(ctx)
	defer stopStriking()
	var strikers sync.WaitGroup
	if !c.options.calm {
		strikers.Go(func() { c.strikeAtRandom(striking) })
		strikers.Go(func() { c.takeAway(ctx) }) // all outages are made, also when the jobs are done sooner
	}
	jobs, working := errgroup.WithContext(ctx)
	for _, s := range c.sources {
		jobs.Go(func() error {
			for _, p := range s.plan.jobs {
				if err := s.do(working, p); err != nil {
					c.fail(err)
					return err
				}
			}
			return nil
		})
	}
	jobs.Go(func() error {
		err := c.fleet.do(working)
		if err != nil {
			c.fail(err)
		}
		return err
	})
	err := jobs.Wait()
	if err == nil {
		err = c.goOn(ctx)
	}
	stopStriking()
	strikers.Wait()
	c.processes.calm()
	if err == nil {
		err = c.awaitRelay(ctx)
	}
	stopWatching()
	return errors.Join(err, watchers.Wait())
}

// goOn makes more jobs until the run has lasted as long as it is to, and in a full run until every process was struck at every boundary.
func (c *chaos) goOn(ctx context.Context) error {
	for round := 0; ; round++ {
		short := time.Since(c.began) < c.options.duration
		open := 0
		if c.plan.full && !c.options.calm {
			open = c.toCover()
		}
		if !short && open == 0 {
			return nil
		}
		if !short && round >= closingRounds {
			return fmt.Errorf("%d pairs of process and boundary could not be struck in %d rounds of more jobs", open, round)
		}
		c.log.add("chaos", "one more job for each source: %d pairs of process and boundary are left", open)
		jobs, working := errgroup.WithContext(ctx)
		for i, s := range c.sources {
			if last := s.plan.jobs[len(s.plan.jobs)-1].ending; last == leftReady || last == leftStopped || last == leftWaiting {
				continue // its job holds it
			}
			p := closing(c.plan.seed, round*len(c.sources)+i)
			jobs.Go(func() error {
				err := s.do(working, p)
				if err != nil {
					c.fail(err)
				}
				return err
			})
		}
		if err := jobs.Wait(); err != nil {
			return err
		}
	}
}

func (c *chaos) strikeAtRandom(ctx context.Context) {
	next := c.plan.randomStrikes()
	for n := 1; ; n++ {
		pause, s := next()
		wait(ctx, pause)
		if ctx.Err() != nil {
			return
		}
		v := c.processes.any(s.target, s.pick)
		if !c.processes.strike(v, s, fmt.Sprintf("random strike %d", n)) {
			c.log.add(v.Name, "is down already, random strike %d", n)
		}
	}
}

// takeAway makes the outages of the plan.
func (c *chaos) takeAway(ctx context.Context) {
	for _, o := range c.plan.outages {
		wait(ctx, o.after)
		if ctx.Err() != nil {
			return
		}
		if o.of == databaseOutage {
			if err := c.processes.takeDatabase(o); err != nil && ctx.Err() == nil {
				c.fail(err)
			}
			c.count(&c.checked.databaseOutages)
			continue
		}
		// One that is away for another reason just now is waited for.
		for v := c.processes.any(natsServer, 0); ctx.Err() == nil; wait(ctx, 100*time.Millisecond) {
			if c.processes.strike(v, strike{target: natsServer, hang: o.hang, lasts: o.lasts}, "it "+o.what()+" for a while") {
				c.count(&c.checked.natsOutages)
				break
			}
		}
		wait(ctx, o.lasts)
	}
}

func (c *chaos) say(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	_, _ = fmt.Fprintln(c.options.out, text) // the user's terminal
	c.log.add("chaos", "%s", text)
}
