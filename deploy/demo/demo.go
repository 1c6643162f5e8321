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

	"golang.org/x/sync/errgroup"

	"github.com/drover/drover/smc"
	"github.com/drover/drover/starter/progress"
)

const (
	// pace is the bandwidth limit of the jobs in kbit/s. Without one the bars would be gone before anybody sees them.
	pace = 100_000
	// historyBudget is how many history events a one-time migration may take in Temporal, entity and run together.
	historyBudget = 120
	systemDiskGiB = 20
	rhythmHours   = 12
	imagesToKeep  = 2
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

	servers   []*server
	center    *process
	processes []*process // the agents, then the center: the order of stopping
	env       map[string]string
	client    *smc.Client

	jobs   []*job
	checks []check
}

// job is the replication job of a server.
type job struct {
	*server
	id     string
	detail *smc.DescribeReplicationJobDetailsResult
	// resumed: the cutover of an incremental job has been asked for.
	cutOver bool
	// history is the number of history events of the job's workflows.
	history int
}

type check struct {
	what string
	err  error
}

// newDemo takes the data directory and empties it, so that every run starts afresh.
func newDemo(o options, out io.Writer) (*demo, error) {
	bin, err := filepath.Abs(o.bin)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"drover", "drover-agent", "drover-dev"} {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			return nil, fmt.Errorf("%s is not there; run make build first, or name the directory of the binaries with --bin", filepath.Join(bin, name))
		}
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
	return d, os.MkdirAll(d.logs(), 0o700)
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
	center, err := start("drover-dev", filepath.Join(d.logs(), "drover-dev.log"), filepath.Join(d.bin, "drover-dev"),
		"--data", d.centerDir(), "--listen", "127.0.0.1:0", "--log-format", "console")
	if err != nil {
		return err
	}
	d.center = center
	d.processes = append(d.processes, center)
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return center.waitFor(groupCtx, "drover-dev ready") })
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
	if d.env, err = readEnvironment(filepath.Join(d.centerDir(), "dev.env")); err != nil {
		return fmt.Errorf("read the environment of drover-dev: %w", err)
	}
	cfg, err := smc.ConfigFromEnv(func(name string) string { return d.env[name] })
	if err != nil {
		return err
	}
	if d.client, err = smc.NewClient(cfg); err != nil {
		return err
	}
	done("the center answers at %s", strings.TrimSuffix(d.client.Endpoint(), "/"))
	return nil
}

// startAgents starts an agent for each source server and waits until the center knows all of them.
func (d *demo) startAgents(ctx context.Context) error {
	done := d.step("Starting %d agents, each with the disks of its server", len(d.servers))
	name, count := "demo", len(d.servers)
	token, err := d.client.CreateAccessToken(ctx, &smc.CreateAccessTokenRequest{Name: &name, Count: &count})
	if err != nil {
		return err
	}
	for _, s := range d.servers {
		args := []string{
			"--endpoint", d.env[smc.EnvEndpoint], "--code", token.AccessTokenCode,
			"--name", s.name, "--state", filepath.Join(s.dir, "agent"),
		}
		for i := range s.specs {
			args = append(args, "--disk", s.disk(i))
		}
		s.agent, err = start("the agent of "+s.name, filepath.Join(d.logs(), "agent-"+s.name+".log"), filepath.Join(d.bin, "drover-agent"), args...)
		if err != nil {
			return err
		}
		d.processes = append([]*process{s.agent}, d.processes...)
	}
	sources := map[string]string{}
	err = d.poll(ctx, 100*time.Millisecond, func() (bool, error) {
		res, err := d.client.DescribeSourceServers(ctx, &smc.DescribeSourceServersRequest{})
		if err != nil {
			return false, err
		}
		for _, s := range res.SourceServers {
			if s.State == smc.SourceAvailable {
				sources[s.Name] = s.SourceID
			}
		}
		return len(sources) == len(d.servers), nil
	})
	if err != nil {
		return fmt.Errorf("wait for the source servers to be Available: %w", err)
	}
	for _, s := range d.servers {
		d.jobs = append(d.jobs, &job{server: s})
		what := "runs once"
		if s.incremental {
			what = fmt.Sprintf("incremental, every %d h, keeps %d images", rhythmHours, imagesToKeep)
		}
		d.say("  %-6s %s  %d disk(s), %s  %s", s.name, sources[s.name], len(s.specs), progress.Bytes(s.sizeBytes()), what)
	}
	done("all are Available")
	for _, j := range d.jobs {
		if err := d.create(ctx, j, sources[j.name]); err != nil {
			return err
		}
	}
	return nil
}

// poll calls ready until it says so. A child process that ends is an error.
func (d *demo) poll(ctx context.Context, every time.Duration, ready func() (bool, error)) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		for _, p := range d.processes {
			if err := p.alive(); err != nil {
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

// create makes the job of a server and starts it.
func (d *demo) create(ctx context.Context, j *job, sourceID string) error {
	size, once, frequency, keep := systemDiskGiB, !j.incremental, rhythmHours, imagesToKeep
	parameters := fmt.Sprintf(`{"bandwidth_limit":%d}`, pace)
	req := &smc.CreateReplicationJobRequest{
		SourceID: sourceID, Name: &j.name, ImageName: &j.name, SystemDiskSize: &size, RunOnce: &once,
		ReplicationParameters: &parameters,
	}
	if j.incremental {
		req.Frequency, req.MaxNumberOfImageToKeep = &frequency, &keep
	}
	created, err := d.client.CreateReplicationJob(ctx, req)
	if err != nil {
		return err
	}
	j.id = created.JobID
	_, err = d.client.StartReplicationJob(ctx, &smc.StartReplicationJobRequest{JobID: j.id})
	return err
}

// migrate shows the jobs until all of them are Finished, and changes and cuts over the incremental ones in between.
func (d *demo) migrate(ctx context.Context) error {
	done := d.step("Replicating, at most %d Mbit/s per server", pace/1000)
	view := progress.NewView(d.out, progress.Auto)
	defer view.Close()
	every := 500 * time.Millisecond
	if view.Live() {
		every = 200 * time.Millisecond
	}
	err := d.poll(ctx, every, func() (bool, error) {
		finished := 0
		states := make([]progress.State, len(d.jobs))
		for i, j := range d.jobs {
			detail, err := d.client.DescribeReplicationJobDetails(ctx, &smc.DescribeReplicationJobDetailsRequest{JobID: j.id})
			if err != nil {
				return false, err
			}
			j.detail = detail
			states[i] = progress.OfJob(j.name, detail)
		}
		view.Update(states...)
		for _, j := range d.jobs {
			switch j.detail.Status {
			case smc.StatusFinished:
				finished++
			case smc.StatusWaiting:
				if j.cutOver {
					return false, fmt.Errorf("job %s (%s) is Waiting after its cutover", j.id, j.name)
				}
				if err := d.cutOver(ctx, view, j); err != nil {
					return false, err
				}
			case smc.StatusRunning:
			default:
				return false, fmt.Errorf("job %s (%s) is %s: %s: %s", j.id, j.name, j.detail.Status, j.detail.ErrorCode, j.detail.StatusInfo)
			}
		}
		return finished == len(d.jobs), nil
	})
	if err != nil {
		return err
	}
	view.Close()
	done("all jobs are Finished")
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
	syncData := true
	if _, err := d.client.CutOverReplicationJob(ctx, &smc.CutOverReplicationJobRequest{JobID: j.id, SyncData: &syncData}); err != nil {
		return err
	}
	view.Printf("  %s is Waiting: about %s of each disk changed now, cutover with a last run", j.name, progress.Bytes(j.changeBytes))
	return nil
}

// wait leaves everything running until ctx ends.
func (d *demo) wait(ctx context.Context) {
	d.say("\nEverything is left running; Ctrl-C ends it. In another shell:\n\n  . %s\n  %s job list", d.relative(d.centerDir(), "dev.env"), d.relative(d.bin, "drover"))
	<-ctx.Done()
}

// stop stops the agents and then the center, and takes back what start began.
func (d *demo) stop() error {
	if len(d.processes) == 0 {
		return nil
	}
	agents := d.processes[:len(d.processes)-1]
	err := stopAll(agents)
	err = errors.Join(err, d.processes[len(d.processes)-1].stop())
	d.processes = nil
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
