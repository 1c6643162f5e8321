// Package process runs programs as child processes, for the tests and the demo. A process can be killed, stopped, paused and started again
// under the same name; all its lives write to one log. Nothing is left behind: a process has a group of its own, and the kernel kills it when
// the program that started it ends, however it ends.
package process

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pollInterval is how often a condition is looked at.
const pollInterval = 20 * time.Millisecond

// Process is a program that is started, once or again and again. The exported fields may be changed while it does not run. Its methods may be
// called from any goroutine.
type Process struct {
	// Name is what messages call it.
	Name string
	// Program is the path of the program, Args are its arguments.
	Program string
	Args    []string
	// Env are variables beside those of this process, NAME=value.
	Env []string
	// Log is the file to which its output is appended, of both streams.
	Log string
	// ReadyLine is what the line of standard output begins with by which the program says that it is ready; empty when it says nothing.
	ReadyLine string
	// Ready reports why the process is not ready; nil means that it is. It is asked after the ReadyLine. Optional.
	Ready func(context.Context) error

	mu   sync.Mutex
	life *life
}

// life is one start of a process.
type life struct {
	cmd   *exec.Cmd
	began int64         // where in the log
	said  chan struct{} // closed when it has printed the ReadyLine
	ended chan struct{} // closed once err is set
	err   error
}

// spawn runs functions on one thread that lives as long as this process. The kernel kills a child with Pdeathsig when the thread that started
// it ends, and no sooner than the process may that be.
var spawn = sync.OnceValue(func() chan<- func() {
	jobs := make(chan func())
	go func() {
		runtime.LockOSThread()
		for do := range jobs {
			do()
		}
	}()
	return jobs
})

// begin starts a command so that it ends with this process, and with all its children.
func begin(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	spawn() <- func() { started <- cmd.Start() }
	return <-started
}

// Start starts the process. It must not be running.
func (p *Process) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.life.running() {
		return fmt.Errorf("start %s: it is running", p.Name)
	}
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	l := &life{cmd: exec.Command(p.Program, p.Args...), said: make(chan struct{}), ended: make(chan struct{})} //nolint:gosec // our own binaries
	if l.began, err = log.Seek(0, io.SeekEnd); err != nil {
		return errors.Join(fmt.Errorf("start %s: %w", p.Name, err), log.Close())
	}
	l.cmd.Env = append(os.Environ(), p.Env...)
	l.cmd.Stderr = log
	out, err := l.cmd.StdoutPipe()
	if err == nil {
		err = begin(l.cmd)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("start %s: %w", p.Name, err), log.Close())
	}
	p.life = l
	ready := p.ReadyLine
	go func() {
		defer close(l.ended)
		said := false
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			_, _ = fmt.Fprintln(log, scanner.Text()) // a log
			if !said && ready != "" && strings.HasPrefix(scanner.Text(), ready) {
				said = true
				close(l.said)
			}
		}
		l.err = l.cmd.Wait()
		_ = log.Close() // a log
	}()
	return nil
}

func (l *life) running() bool {
	if l == nil {
		return false
	}
	select {
	case <-l.ended:
		return false
	default:
		return true
	}
}

func (p *Process) current() *life {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.life
}

// AwaitReady waits until the process has said that it is ready and Ready agrees. Its end is an error.
func (p *Process) AwaitReady(ctx context.Context) error {
	l := p.current()
	if l == nil {
		return fmt.Errorf("%s was never started", p.Name)
	}
	if p.ReadyLine != "" {
		select {
		case <-l.said:
		case <-l.ended:
			return p.Alive()
		case <-ctx.Done():
			return fmt.Errorf("%s has not printed %q: %w; the end of its log:\n%s", p.Name, p.ReadyLine, context.Cause(ctx), p.Tail(5))
		}
	}
	if p.Ready == nil {
		return p.Alive()
	}
	var died error
	err := Until(ctx, p.Name+" is ready", func() (bool, any) {
		if died = p.Alive(); died != nil {
			return true, died
		}
		err := p.Ready(ctx)
		return err == nil, err
	})
	return errors.Join(died, err)
}

// Restart kills the process if it runs, starts it and waits until it is ready.
func (p *Process) Restart(ctx context.Context) error {
	p.Kill()
	if err := p.Start(); err != nil {
		return err
	}
	return p.AwaitReady(ctx)
}

// Running reports whether the process was started and has not ended.
func (p *Process) Running() bool { return p.current().running() }

// Alive returns how the process ended, with the end of its log; nil while it runs.
func (p *Process) Alive() error {
	l := p.current()
	if l.running() {
		return nil
	}
	if l == nil {
		return fmt.Errorf("%s was never started", p.Name)
	}
	how := "exit status 0"
	if l.err != nil {
		how = l.err.Error()
	}
	return fmt.Errorf("%s ended (%s); the end of its log:\n%s", p.Name, how, p.Tail(5))
}

// PID is the process id of the present life, or of the last one; 0 when it was never started.
func (p *Process) PID() int {
	if l := p.current(); l != nil {
		return l.cmd.Process.Pid
	}
	return 0
}

// Signal sends a signal to the process and its children; none when it has ended: the group might be another's by then.
func (p *Process) Signal(s syscall.Signal) {
	if l := p.current(); l.running() {
		_ = syscall.Kill(-l.cmd.Process.Pid, s) // it may end just now
	}
}

// Kill ends the process at once, and waits for its end. One that does not run is left alone.
func (p *Process) Kill() {
	if l := p.current(); l != nil {
		p.Signal(syscall.SIGKILL)
		<-l.ended
	}
}

// Pause stops the process without its knowing, and returns when it does nothing any more. Continue has it go on.
func (p *Process) Pause() error {
	l := p.current()
	if !l.running() {
		return fmt.Errorf("pause %s: it does not run", p.Name)
	}
	p.Signal(syscall.SIGSTOP)
	// Whether it ended meanwhile is left for Wait to see.
	if err := unix.Waitid(unix.P_PID, l.cmd.Process.Pid, nil, unix.WSTOPPED|unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		return fmt.Errorf("pause %s: %w", p.Name, err)
	}
	return nil
}

// Continue has a process go on that was paused.
func (p *Process) Continue() { p.Signal(syscall.SIGCONT) }

// Wait waits for the end of the process and returns its exit code, -1 after a signal.
func (p *Process) Wait(ctx context.Context) (int, error) {
	l := p.current()
	if l == nil {
		return -1, fmt.Errorf("%s was never started", p.Name)
	}
	select {
	case <-l.ended:
		return l.cmd.ProcessState.ExitCode(), nil
	case <-ctx.Done():
		return -1, fmt.Errorf("%s does not end: %w", p.Name, context.Cause(ctx))
	}
}

// Stop stops the process as an operator would, by SIGTERM. One that is still there after limit is killed, which is an error, as is an exit
// status other than 0. A process that does not run is no error when it had ended well.
func (p *Process) Stop(limit time.Duration) error {
	l := p.current()
	if l == nil {
		return nil
	}
	p.Signal(syscall.SIGTERM)
	p.Continue() // a paused one would never know
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-l.ended:
	case <-timer.C:
		p.Kill()
		return fmt.Errorf("%s was still there %v after SIGTERM", p.Name, limit)
	}
	if l.err != nil {
		return fmt.Errorf("%s stopped with %w; the end of its log:\n%s", p.Name, l.err, p.Tail(5))
	}
	return nil
}

// StopAll stops processes side by side.
func StopAll(limit time.Duration, processes ...*Process) error {
	errs := make([]error, len(processes))
	var group sync.WaitGroup
	for i, p := range processes {
		group.Go(func() { errs[i] = p.Stop(limit) })
	}
	group.Wait()
	return errors.Join(errs...)
}

// BytesWritten is what the kernel saw the present life write, to sockets and files together.
func (p *Process) BytesWritten() (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", p.PID()))
	if err != nil {
		return 0, fmt.Errorf("ask what %s wrote: %w", p.Name, err)
	}
	for line := range strings.Lines(string(data)) {
		if text, ok := strings.CutPrefix(line, "wchar: "); ok {
			return strconv.ParseInt(strings.TrimSpace(text), 10, 64)
		}
	}
	return 0, fmt.Errorf("the kernel does not count what processes write: %s", data)
}

// Logged counts how often the present life, or the last one, has logged a text.
func (p *Process) Logged(text string) (int, error) {
	l := p.current()
	if l == nil {
		return 0, nil
	}
	data, err := os.ReadFile(p.Log)
	if err != nil {
		return 0, err
	}
	return strings.Count(string(data[min(l.began, int64(len(data))):]), text), nil
}

// Tail returns the last lines of the log of all lives, indented.
func (p *Process) Tail(n int) string { return Tail(p.Log, n) }

// Tail returns the last lines of a file, indented.
func Tail(name string, n int) string {
	data, err := os.ReadFile(name) //nolint:gosec // our own log
	if err != nil {
		return "  " + err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	lines = lines[max(0, len(lines)-n):]
	return "  " + strings.Join(lines, "\n  ")
}

// Result is what became of a program that was run to its end.
type Result struct {
	// Code is the exit code, -1 after a signal.
	Code           int
	Stdout, Stderr string
}

// Run runs a program to its end, with variables beside those of this process. An error means that it could not be started or did not end in
// time; its exit code is in the result.
func Run(ctx context.Context, env []string, program string, args ...string) (Result, error) {
	var stdout, stderr strings.Builder
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if err := begin(cmd); err != nil {
		return Result{Code: -1}, fmt.Errorf("start %s: %w", program, err)
	}
	_ = cmd.Wait() // ProcessState tells
	r := Result{Code: cmd.ProcessState.ExitCode(), Stdout: stdout.String(), Stderr: stderr.String()}
	if ctx.Err() != nil {
		return r, fmt.Errorf("%s %s does not end: %w\n%s%s", program, strings.Join(args, " "), context.Cause(ctx), r.Stdout, r.Stderr)
	}
	return r, nil
}

// Until waits until ready reports true. What ready says of the state last is in the error when it never does.
func Until(ctx context.Context, what string, ready func() (done bool, state any)) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		done, state := ready()
		if done {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waited in vain until %s: %w; last seen: %+v", what, context.Cause(ctx), state)
		}
	}
}
