package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stopTimeout is how long a process may take to end after SIGTERM.
const stopTimeout = 10 * time.Second

// process is a child process in a process group of its own.
type process struct {
	name  string
	log   string
	cmd   *exec.Cmd
	lines chan string   // of its standard output; closed at its end
	ended chan struct{} // closed once err is set
	err   error
}

// start starts a program. Its standard error, and its standard output too, goes to the file log. It must be called on
// the main thread: the kernel ends the child when the thread that started it is gone, and so when the demo is killed.
func start(name, log, program string, args ...string) (*process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{name: name, log: log, lines: make(chan string, 64), ended: make(chan struct{})}
	p.cmd = exec.Command(program, args...) //nolint:gosec // our own binaries
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	p.cmd.Stderr = f
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), f.Close())
	}
	go func() {
		p.read(out, f)
		p.err = p.cmd.Wait()
		close(p.ended)
		_ = f.Close() // a log
	}()
	return p, nil
}

// read copies standard output to the log and hands out its lines as long as somebody takes them.
func (p *process) read(out io.Reader, log io.Writer) {
	defer close(p.lines)
	for scanner := bufio.NewScanner(out); scanner.Scan(); {
		_, _ = fmt.Fprintln(log, scanner.Text()) // a log
		select {
		case p.lines <- scanner.Text():
		default:
		}
	}
}

// waitFor waits for a line of standard output that begins with the prefix.
func (p *process) waitFor(ctx context.Context, prefix string) error {
	for {
		select {
		case line, ok := <-p.lines:
			if !ok {
				<-p.ended
				return p.died()
			}
			if strings.HasPrefix(line, prefix) {
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w", p.name, ctx.Err())
		}
	}
}

// alive returns an error when the process has ended.
func (p *process) alive() error {
	select {
	case <-p.ended:
		return p.died()
	default:
		return nil
	}
}

func (p *process) died() error {
	how := "exit status 0"
	if p.err != nil {
		how = p.err.Error()
	}
	return fmt.Errorf("%s ended (%s); the end of its log:\n%s", p.name, how, tail(p.log, 5))
}

// stop ends the process, and its process group with it: by SIGTERM, or when that takes too long by SIGKILL, which is
// an error, as is an exit status other than 0.
func (p *process) stop() error {
	var late error
	p.signal(syscall.SIGTERM)
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-p.ended:
	case <-timer.C:
		late = fmt.Errorf("%s was still there %v after SIGTERM", p.name, stopTimeout)
		p.signal(syscall.SIGKILL)
		<-p.ended
	}
	if late != nil {
		return late
	}
	if p.err != nil {
		return fmt.Errorf("%s stopped with %w; the end of its log:\n%s", p.name, p.err, tail(p.log, 5))
	}
	return nil
}

// kill ends the process at once, and waits for its end.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.ended
}

// signal sends a signal to the process group while the process is there; a group that is gone might be another's.
func (p *process) signal(s syscall.Signal) {
	select {
	case <-p.ended:
	default:
		_ = syscall.Kill(-p.cmd.Process.Pid, s) // it may end just now
	}
}

// stopAll stops processes side by side.
func stopAll(processes []*process) error {
	errs := make([]error, len(processes))
	var group sync.WaitGroup
	for i, p := range processes {
		group.Go(func() { errs[i] = p.stop() })
	}
	group.Wait()
	return errors.Join(errs...)
}

// tail returns the last lines of a file, indented.
func tail(name string, n int) string {
	data, err := os.ReadFile(name) //nolint:gosec // our own log
	if err != nil {
		return "  " + err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	lines = lines[max(0, len(lines)-n):]
	return "  " + strings.Join(lines, "\n  ")
}

// readEnvironment reads a dev.env: lines of `export NAME=value`, the value plain or in single quotes.
func readEnvironment(name string) (map[string]string, error) {
	data, err := os.ReadFile(name) //nolint:gosec // of our own stack
	if err != nil {
		return nil, err
	}
	env := map[string]string{}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "export ")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return nil, fmt.Errorf("%s: %q is not NAME=value", name, line)
		}
		if strings.HasPrefix(value, "'") {
			value = strings.ReplaceAll(strings.TrimSuffix(value[1:], "'"), `'\''`, "'")
		}
		env[key] = value
	}
	return env, nil
}
