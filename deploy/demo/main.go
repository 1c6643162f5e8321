// Command demo shows the main job of Drover on one machine, and proves it: a fleet of five source servers with real disks
// is migrated into images in two waves, by a center of its own. One server runs twice, the agent of another is killed
// meanwhile, and every image is compared byte for byte with what its source held.
//
// It starts the binaries that `make build` makes, as separate processes, and stops them at the end. Run it with
// `make demo`.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Exit codes.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

// demoTimeout bounds the whole demo: a small machine needs less than a tenth of it.
const demoTimeout = 10 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

type options struct {
	bin  string
	dir  string
	keep bool
}

// run is the whole program but for the end of the process; its result is the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var o options
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.bin, "bin", "bin", "`DIR` with the binaries of make build")
	flags.StringVar(&o.dir, "dir", "demo-data", "`DIR` for all data of the demo; made afresh by every run, and kept after it")
	flags.BoolVar(&o.keep, "keep", false, "leave everything running at the end, until Ctrl-C")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return exitOK
		}
		return exitUsage
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "demo: unexpected argument %q\n", flags.Arg(0))
		flags.Usage()
		return exitUsage
	}
	d, err := newDemo(o, stdout)
	if err != nil {
		fmt.Fprintln(stderr, "demo:", err)
		return exitFailed
	}
	defer d.close()
	limited, cancel := context.WithTimeoutCause(ctx, demoTimeout, fmt.Errorf("the demo is not through after %v", demoTimeout))
	defer cancel()
	err = d.run(limited)
	if err == nil && o.keep {
		d.wait(ctx)
	}
	stopErr := d.stop()
	switch {
	case err != nil && ctx.Err() != nil:
		fmt.Fprintln(stderr, "demo: interrupted")
		return exitInterrupted
	case err != nil:
		if cause := context.Cause(limited); cause != nil && errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		fmt.Fprintf(stderr, "\ndemo: %v\nLogs: %s\n", err, d.logs())
		return exitFailed
	}
	d.check("drover-dev and the agents stopped cleanly within 10 s", stopErr)
	if !d.conclude() {
		fmt.Fprintf(stderr, "demo: FAILED. Logs: %s\n", d.logs())
		return exitFailed
	}
	return exitOK
}
