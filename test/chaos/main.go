// Command chaos puts a Drover of many processes to the test: jobs of every kind are done on real disks while each process is killed again and
// again, at random and whenever a job enters a phase, and while NATS and the database are away for a time. Then everything is looked at: every
// job has come to its right end, every image is byte for byte what its source held, nothing is left over, and every change was told once and
// in order.
//
// All decisions follow from a seed, which is printed first: what the jobs are, what is asked of them and how far on, which process is struck
// at which moment and for how long. Run it with `make chaos`; a run that failed is repeated with its seed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// timelineFile is the log of a run; it is also what says that a directory is one of a run.
const timelineFile = "timeline.log"

type options struct {
	seed     uint64
	jobs     int
	duration time.Duration
	postgres string
	bin, dir string
	keep     bool
	calm     bool
	dryRun   bool
	out      io.Writer
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code := command(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// command is the whole program but for the end of the process; its result is the exit code.
func command(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o := options{out: stdout}
	flags := flag.NewFlagSet("chaos", flag.ContinueOnError)
	flags.SetOutput(stderr)
	seed := flags.String("seed", "", "`NUMBER` that decides everything; empty: a random one")
	flags.IntVar(&o.jobs, "jobs", fullJobs, fmt.Sprintf("`NUMBER` of jobs, at least 4; from %d on every process is killed at every boundary", fullJobs))
	flags.DurationVar(&o.duration, "duration", 0, "go on with more jobs until so much `TIME` has passed")
	flags.StringVar(&o.postgres, "postgres", "", "`URL` of a PostgreSQL server for the center's database; empty: SQLite")
	flags.StringVar(&o.bin, "bin", "", "`DIR` with the binaries of make build")
	flags.StringVar(&o.dir, "dir", "", "`DIR` for all data, made afresh; default chaos-data/seed-<seed>")
	flags.BoolVar(&o.keep, "keep", false, "keep all data also when nothing has failed")
	flags.BoolVar(&o.calm, "calm", false, "strike nothing: the same jobs in peace")
	flags.BoolVar(&o.dryRun, "plan", false, "print what the seed decides, and do nothing")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return exitOK
		}
		return exitUsage
	}
	if err := o.complete(*seed, flags.Args()); err != nil {
		fmt.Fprintln(stderr, "chaos:", err)
		return exitUsage
	}
	fmt.Fprintf(stdout, "seed %d\n", o.seed)
	p := draw(o.seed, o.jobs)
	if o.dryRun {
		p.print(stdout)
		return exitOK
	}
	if err := execute(ctx, o, p); err != nil {
		fmt.Fprintf(stderr, "\nchaos: seed %d FAILED: %v\n\nThe same again: %s\nIts timeline: %s\nLogs of all processes: %s\n", o.seed, err, o.again(),
			filepath.Join(o.dir, timelineFile), filepath.Join(o.dir, "logs"))
		return exitFailed
	}
	return exitOK
}

// complete checks what was asked for and fills in the rest.
func (o *options) complete(seed string, more []string) error {
	if len(more) > 0 {
		return fmt.Errorf("unexpected argument %q", more[0])
	}
	if o.jobs < 4 {
		return fmt.Errorf("-jobs %d: want at least 4", o.jobs)
	}
	o.seed = rand.Uint64N(1 << 32) //nolint:gosec // any seed will do
	if seed != "" {
		if _, err := fmt.Sscan(seed, &o.seed); err != nil {
			return fmt.Errorf("-seed %q: want a number", seed)
		}
	}
	if o.dir == "" {
		o.dir = filepath.Join("chaos-data", fmt.Sprintf("seed-%d", o.seed))
	}
	var err error
	o.dir, err = filepath.Abs(o.dir)
	return err
}

// again is the command that does the same run again.
func (o *options) again() string {
	command := fmt.Sprintf("make chaos SEED=%d JOBS=%d", o.seed, o.jobs)
	if o.duration > 0 {
		command += " DURATION=" + o.duration.String()
	}
	if o.postgres != "" {
		command += " POSTGRES=" + o.postgres
	}
	return command
}

// execute makes the directory, does the run and prints its table. What a run without failure leaves is its timeline and the logs.
func execute(ctx context.Context, o options, p *plan) error {
	if err := claim(o.dir); err != nil {
		return err
	}
	file, err := os.Create(filepath.Join(o.dir, timelineFile))
	if err != nil {
		return err
	}
	defer file.Close()
	c := &chaos{
		options: o, plan: p, dir: o.dir, log: &timeline{out: file, began: time.Now()}, strikes: map[string]map[moment]strike{},
		transitions: map[string][]transitionSeen{}, hostOf: map[string]string{}, covered: map[pair]int{}, missed: map[boundary][]strike{},
		figures: map[runKey]figures{},
	}
	p.print(file)
	err = c.run(ctx)
	if c.processes != nil {
		c.table(io.MultiWriter(o.out, file))
	}
	if err != nil {
		_, _ = fmt.Fprintf(file, "FAILED: %v\n", err) // a log
		return err
	}
	c.say("all is as it ought to be; the timeline is %s", filepath.Join(o.dir, timelineFile))
	if o.keep {
		return nil
	}
	return empty(o.dir, timelineFile, "logs")
}

// claim makes a directory, or empties that of an earlier run.
func claim(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if len(entries) > 0 {
		if _, err := os.Stat(filepath.Join(dir, timelineFile)); err != nil {
			return fmt.Errorf("%s holds something that no run has made; it would be deleted, so name another directory with -dir", dir)
		}
	}
	if err := empty(dir); err != nil {
		return err
	}
	return os.MkdirAll(dir, 0o700)
}

// empty removes what is in a directory but for the names to keep.
func empty(dir string, keep ...string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !slices.Contains(keep, e.Name()) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return err
}
