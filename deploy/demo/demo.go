package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"go.temporal.io/sdk/client"
	"golang.org/x/sync/errgroup"

	"github.com/drover/drover/fleet"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/starter/progress"
	"github.com/drover/drover/test/process"
	"github.com/drover/drover/test/stack"
)

const (
	fleetName = "demo"
	// pace is the bandwidth limit of the jobs in kbit/s.
	pace = 100_000
	// historyBudget is how many history events a one-time migration may take in Temporal, entity and run together.
	historyBudget = 120
	systemDiskGiB = 20
	// killAt is how far a sync is when the agent is killed, and killedFor is how long the agent is away then.
	killAt    = 0.3
	killedFor = time.Second
	// stopTimeout is how long a process may take to end after SIGTERM.
	stopTimeout = 10 * time.Second
	// marker is a file in the data directory: it says that the directory is a demo's, and a lock on it that the demo runs.
	marker = ".drover-demo"
)

// demo is one run of the demo.
type demo struct {
	out   io.Writer
	began time.Time
	bin   string
	dir   string
	lock  *os.File

	servers  []*server
	stack    *stack.Stack     // nil until it is up
	away     *process.Process // that is meant not to run
	temporal client.Client

	status fleet.Status
	jobs   []*job
	checks []check
}

// job is the replication job of a server.
type job struct {
	*server
	id        string // empty until the fleet has made it
	migration fleet.MigrationStatus
	detail    *smc.DescribeReplicationJobDetailsResult
	// cutOver: the cutover of an incremental job has been asked for.
	cutOver bool
	// killedAt is when the agent was killed, and back says that it was started again.
	killedAt time.Time
	back     bool
	// history is the number of history events of the job's workflows, migrationHistory that of the migration's.
	history, migrationHistory int
}

type check struct {
	what string
	err  error
}

// newDemo takes the data directory and empties it, so that every run starts afresh.
func newDemo(o options, out io.Writer) (*demo, error) {
	bin, err := process.Binaries(o.bin, "drover", "drover-agent", "drover-dev")
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return nil, err
	}
	lock, err := claim(dir)
	if err != nil {
		return nil, err
	}
	d := &demo{out: out, began: time.Now(), bin: bin, dir: dir, lock: lock, servers: servers()}
	for _, s := range d.servers {
		s.dir = filepath.Join(dir, "servers", s.name)
	}
	if err := os.MkdirAll(d.logs(), 0o700); err != nil {
		return nil, err
	}
	return d, os.WriteFile(d.manifest(), []byte(manifest), 0o600)
}

// claim makes the data directory, or empties one that an earlier demo has made, and locks it.
func claim(dir string) (*os.File, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	ours := len(entries) == 0
	for _, e := range entries {
		ours = ours || e.Name() == marker
	}
	if !ours {
		return nil, fmt.Errorf("%s holds something that no demo has made; it would be deleted, so name another directory with --dir", dir)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, marker), os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // the user's directory
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil { //nolint:gosec // a file descriptor fits
		return nil, errors.Join(fmt.Errorf("another demo is running in %s: %w", dir, err), lock.Close())
	}
	for _, e := range entries {
		if e.Name() != marker {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return nil, errors.Join(err, lock.Close())
			}
		}
	}
	return lock, nil
}

func (d *demo) logs() string       { return filepath.Join(d.dir, "logs") }
func (d *demo) centerDir() string  { return filepath.Join(d.dir, "center") }
func (d *demo) manifest() string   { return filepath.Join(d.dir, "fleet.yaml") }
func (d *demo) exportsDir() string { return filepath.Join(d.dir, "exports") }

func (d *demo) say(format string, args ...any) { _, _ = fmt.Fprintf(d.out, format+"\n", args...) }

// step says what begins, and returns what says how long it took.
func (d *demo) step(format string, args ...any) (done func(format string, args ...any)) {
	began := time.Now()
	d.say("● "+format, args...)
	return func(format string, args ...any) {
		d.say("  %s (%s)", fmt.Sprintf(format, args...), progress.Duration(time.Since(began)))
	}
}

// run does all of it. An error means that it could not be finished; what does not hold is in d.checks.
func (d *demo) run(ctx context.Context) error {
	d.say("Drover demo in %s\n", d.dir)
	if err := d.startStack(ctx); err != nil {
		return err
	}
	if err := d.startAgents(ctx); err != nil {
		return err
	}
	if err := d.migrate(ctx); err != nil {
		return err
	}
	return d.examine(ctx)
}

// startStack starts drover-dev and makes the disks meanwhile.
func (d *demo) startStack(ctx context.Context) error {
	done := d.step("Starting drover-dev: Temporal, NATS with JetStream, SQLite and the center in one process;\n"+
		"  making the disks of %d source servers meanwhile", len(d.servers))
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		d.stack, err = stack.New(groupCtx, stack.Options{Dir: d.dir, Binaries: d.bin, Embedded: true})
		return err
	})
	for _, s := range d.servers {
		group.Go(func() error {
			if err := s.makeDisks(); err != nil {
				return err
			}
			return s.remember()
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	var err error
	if d.temporal, err = d.stack.ConnectTemporal(ctx); err != nil {
		return err
	}
	done("the center answers at %s", strings.TrimSuffix(d.stack.Client.Endpoint(), "/"))
	return nil
}

// startAgents starts an agent for each source server and waits until the center knows all of them.
func (d *demo) startAgents(ctx context.Context) error {
	done := d.step("Starting %d agents, each with the disks of its server", len(d.servers))
	name, count := "demo", len(d.servers)
	token, err := d.stack.Client.CreateAccessToken(ctx, &smc.CreateAccessTokenRequest{Name: &name, Count: &count})
	if err != nil {
		return err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	for _, s := range d.servers {
		group.Go(func() (err error) {
			var files []string
			for i := range s.specs {
				files = append(files, s.disk(i))
			}
			s.agent, err = d.stack.StartAgentWithCode(groupCtx, token.AccessTokenCode, s.name, files...)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, s := range d.servers {
		d.jobs = append(d.jobs, &job{server: s})
		what := "runs once"
		switch {
		case s.incremental:
			what = "incremental, two runs"
		case s.killed:
			what = "runs once, its agent is killed meanwhile"
		}
		d.say("  %-6s %s  %d disk(s), %s  %s", s.name, s.agent.SourceID, len(s.specs), progress.Bytes(s.sizeBytes()), what)
	}
	done("all are Available")
	return nil
}

// poll calls ready until it says so. A child process that ends is an error.
func (d *demo) poll(ctx context.Context, every time.Duration, ready func() (bool, error)) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		for _, p := range d.stack.Processes() {
			if err := p.Alive(); err != nil && p != d.away {
				return err
			}
		}
		if ok, err := ready(); ok || err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// migrate applies the manifest and shows the fleet until it has ended. Meanwhile it kills an agent, and changes and cuts
// over the incremental server.
func (d *demo) migrate(ctx context.Context) error {
	done := d.step("Migrating the fleet, at most %d Mbit/s per server\n  %s fleet apply -f %s", pace/1000, d.relative(d.bin, "drover"), d.relative(d.manifest()))
	if err := d.drover(ctx, "fleet", "apply", "-f", d.manifest()); err != nil {
		return err
	}
	view := progress.NewView(d.out, progress.Auto)
	defer view.Close()
	every := 500 * time.Millisecond
	if view.Live() {
		every = 200 * time.Millisecond
	}
	err := d.poll(ctx, every, func() (bool, error) {
		if err := d.look(ctx); err != nil {
			return false, err
		}
		view.Update(d.states(view.Live())...)
		for _, j := range d.jobs {
			if err := d.disturb(ctx, view, j); err != nil {
				return false, err
			}
		}
		return d.status.Status != fleet.Running, nil
	})
	if err != nil {
		return err
	}
	view.Close()
	if d.status.Status != fleet.Completed {
		return fmt.Errorf("fleet %s is %s: %s%s", fleetName, d.status.Status, d.status.Reason, d.failures())
	}
	done("the fleet is %s", d.status.Status)
	return nil
}

// failures says what became of the servers that failed.
func (d *demo) failures() string {
	var b strings.Builder
	for _, m := range d.status.Servers {
		if m.Error != "" {
			fmt.Fprintf(&b, "\n  %s: %s", m.Name, m.Error)
		}
	}
	return b.String()
}

// look asks the fleet how it is, and the endpoint how far the jobs are.
func (d *demo) look(ctx context.Context) error {
	answer, err := d.temporal.QueryWorkflow(ctx, fleet.WorkflowID(fleetName), "", fleet.QueryStatus)
	if err != nil {
		return fmt.Errorf("ask the fleet for its status: %w", err)
	}
	d.status = fleet.Status{}
	if err := answer.Get(&d.status); err != nil {
		return fmt.Errorf("the fleet's status: %w", err)
	}
	for _, m := range d.status.Servers {
		for _, j := range d.jobs {
			if j.name != m.Name {
				continue
			}
			j.migration, j.id = m, m.JobID
			if j.id == "" {
				continue
			}
			if j.detail, err = d.stack.Client.DescribeReplicationJobDetails(ctx, &smc.DescribeReplicationJobDetailsRequest{JobID: j.id}); err != nil {
				return err
			}
		}
	}
	return nil
}

// states makes a line for each wave, and below it one for each of its servers. Without a terminal a line is for what has
// happened, so that what has not begun has none.
func (d *demo) states(live bool) (states []progress.State) {
	for _, slot := range slots {
		wave := progress.State{Name: slot.wave, ETA: -1, Resting: true}
		var lines []progress.State
		begun, done, all := false, 0, 0
		for _, j := range d.jobs {
			if j.wave != slot.wave {
				continue
			}
			all++
			state := progress.State{Name: "  " + j.name, Phase: string(j.migration.Phase), ETA: -1, Resting: true}
			if j.detail != nil {
				state = progress.OfJob(state.Name, j.detail)
				if j.detail.Status != smc.StatusRunning {
					state.Phase = string(j.migration.Phase)
				}
			}
			if j.migration.Phase == fleet.PhaseDone {
				done++
			}
			wave.Percent += state.Percent
			if moved := j.migration.Phase != "" && j.migration.Phase != fleet.PhasePending; moved || live {
				begun = begun || moved
				lines = append(lines, state)
			}
		}
		wave.Percent /= float64(all)
		wave.Phase = fmt.Sprintf("%d/%d done", done, all)
		if begun || live {
			states = append(append(states, wave), lines...)
		}
	}
	return states
}

// disturb does to a server what the demo has in store for it.
func (d *demo) disturb(ctx context.Context, view *progress.View, j *job) error {
	switch {
	case j.incremental && !j.cutOver && j.migration.Phase == fleet.PhaseWaiting:
		return d.cutOver(ctx, view, j)
	case j.killed && j.killedAt.IsZero() && j.detail != nil && j.detail.BusinessStatus == smc.BusinessSyncing &&
		j.detail.BytesRead > int64(killAt*float64(j.detail.BytesTotal)):
		d.away = j.agent.Process
		d.away.Kill()
		j.killedAt = time.Now()
		view.Printf("  the agent of %s is killed (SIGKILL) when %s of %s are read", j.name, progress.Bytes(j.detail.BytesRead), progress.Bytes(j.detail.BytesTotal))
	case !j.killedAt.IsZero() && !j.back && time.Since(j.killedAt) > killedFor:
		j.back = true
		view.Printf("  the agent of %s is started again", j.name)
		d.away = nil
		return j.agent.Start()
	}
	return nil
}

// cutOver changes the disks of a server whose first run is done and asks for the last run.
func (d *demo) cutOver(ctx context.Context, view *progress.View, j *job) error {
	if err := j.change(); err != nil {
		return err
	}
	if err := j.remember(); err != nil {
		return err
	}
	j.cutOver = true
	view.Printf("  %s waits between its runs: about %s of each disk changed now, and drover fleet cutover %s %s", j.name, progress.Bytes(j.changeBytes), fleetName, j.name)
	return d.drover(ctx, "fleet", "cutover", fleetName, j.name)
}

// wait leaves everything running until ctx ends.
func (d *demo) wait(ctx context.Context) {
	d.say("\nEverything is left running; Ctrl-C ends it. In another shell:\n\n  . %s\n  %s fleet status %s",
		d.relative(d.centerDir(), "dev.env"), d.relative(d.bin, "drover"), fleetName)
	<-ctx.Done()
}

// stop stops the agents and then the center.
func (d *demo) stop() error {
	if d.temporal != nil {
		d.temporal.Close()
		d.temporal = nil
	}
	if d.stack == nil {
		return nil
	}
	err := d.stack.Stop(stopTimeout)
	d.stack = nil
	return err
}

// close releases what the demo holds, also when something panics.
func (d *demo) close() {
	_ = d.stop() // it was reported, or the program is failing for another reason
	_ = d.lock.Close()
}

// relative shortens a path for a command to be typed where the demo was started.
func (d *demo) relative(elements ...string) string {
	path := filepath.Join(elements...)
	wd, err := os.Getwd()
	if err != nil {
		return path
	}
	short, err := filepath.Rel(wd, path)
	if err != nil || strings.HasPrefix(short, "..") {
		return path
	}
	if !strings.Contains(short, "/") {
		return "./" + short
	}
	return short
}
