package acceptance

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// binDir is where the binaries are.
var binDir string

func TestMain(m *testing.M) {
	dir, err := findBinaries("drover", "drover-agent", "drover-dev")
	if err != nil {
		fmt.Fprintln(os.Stderr, "acceptance tests:", err)
		os.Exit(1)
	}
	binDir = dir
	os.Exit(m.Run())
}

// findBinaries returns the directory of the binaries: BIN, relative to the root of the repository, or bin.
func findBinaries(names ...string) (string, error) {
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		return "", err
	}
	dir := os.Getenv("BIN")
	switch {
	case dir == "":
		dir = filepath.Join(root, "bin")
	case !filepath.IsAbs(dir):
		dir = filepath.Join(root, dir)
	}
	for _, name := range names {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return "", fmt.Errorf("%s is not there: run `make build` first, or name the directory of the binaries in BIN", filepath.Join(dir, name))
		}
	}
	return dir, nil
}

// spawn runs functions on one thread that lives as long as this process. The kernel kills a child with Pdeathsig when
// the thread that started it ends, and no sooner than the process may that be.
var spawn = func() chan<- func() {
	jobs := make(chan func())
	go func() {
		runtime.LockOSThread()
		for do := range jobs {
			do()
		}
	}()
	return jobs
}()

// process is a child process.
type process struct {
	name  string
	log   string // its standard output and error
	cmd   *exec.Cmd
	lines chan string   // of its standard output, as far as anybody takes them
	ended chan struct{} // closed once the process was waited for
}

// start starts a program, of binDir when it is ours. Its output is appended to logs/<name>.log.
func start(t *testing.T, logs, name, program string, args ...string) *process {
	t.Helper()
	if strings.HasPrefix(program, "drover") {
		program = filepath.Join(binDir, program)
	}
	p := &process{name: name, log: filepath.Join(logs, name+".log"), lines: make(chan string, 64), ended: make(chan struct{})}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	require.NoError(t, err)
	p.cmd = exec.Command(program, args...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.cmd.Stderr = log
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	started := make(chan error)
	spawn <- func() { started <- p.cmd.Start() }
	require.NoError(t, <-started, "start %s", name)
	go func() {
		p.read(out, log)
		_ = p.cmd.Wait() // ProcessState tells
		_ = log.Close()
		close(p.ended)
	}()
	t.Cleanup(p.kill)
	return p
}

func (p *process) read(out io.Reader, log io.Writer) {
	defer close(p.lines)
	for scanner := bufio.NewScanner(out); scanner.Scan(); {
		_, _ = fmt.Fprintln(log, scanner.Text())
		select {
		case p.lines <- scanner.Text():
		default:
		}
	}
}

// awaitLine waits for a line of standard output that begins with prefix.
func (p *process) awaitLine(t *testing.T, prefix string, limit time.Duration) {
	t.Helper()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		select {
		case line, ok := <-p.lines:
			if !ok {
				<-p.ended
				require.FailNow(t, p.name+" ended before it was ready", "%v", p.cmd.ProcessState)
			}
			if strings.HasPrefix(line, prefix) {
				return
			}
		case <-timer.C:
			require.FailNow(t, p.name+" is not ready", "no line %q after %v", prefix, limit)
		}
	}
}

// running reports whether the process is still there.
func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// signal sends a signal unless the process is gone.
func (p *process) signal(sig syscall.Signal) {
	if p.running() {
		_ = p.cmd.Process.Signal(sig) // it may end just now
	}
}

// kill kills the process and waits for its end.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.ended
}

// exitCode waits for the end of the process and returns its exit code, -1 after a signal.
func (p *process) exitCode(t *testing.T, limit time.Duration) int {
	t.Helper()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.ended:
		return p.cmd.ProcessState.ExitCode()
	case <-timer.C:
		require.FailNow(t, p.name+" does not end", "still there after %v", limit)
		return -1
	}
}

// terminate stops the process as an operator would. It must end cleanly, and within 10 seconds.
func (p *process) terminate(t *testing.T) {
	t.Helper()
	p.signal(syscall.SIGTERM)
	require.Equal(t, 0, p.exitCode(t, 10*time.Second), "exit code of %s after SIGTERM: %v", p.name, p.cmd.ProcessState)
}

// bytesWritten is what the kernel saw the process write, to sockets and files together.
func (p *process) bytesWritten(t *testing.T) int64 {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", p.cmd.Process.Pid))
	require.NoError(t, err)
	for line := range strings.Lines(string(data)) {
		if text, ok := strings.CutPrefix(line, "wchar: "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
			require.NoError(t, err)
			return n
		}
	}
	require.FailNow(t, "the kernel does not count what processes write", "%s", data)
	return 0
}

// result is what became of a command.
type result struct {
	code           int
	stdout, stderr string
}

// run runs a program of binDir to its end.
func run(t *testing.T, env []string, program string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var stdout, stderr strings.Builder
	cmd := exec.CommandContext(ctx, filepath.Join(binDir, program), args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	spawn <- func() { started <- cmd.Start() }
	require.NoError(t, <-started, "start %s", program)
	_ = cmd.Wait() // ProcessState tells
	require.NoError(t, ctx.Err(), "%s %s does not end\n%s%s", program, strings.Join(args, " "), stdout.String(), stderr.String())
	return result{code: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}
}

// eventually waits until ready reports true. What ready says of the state last is shown when it never does.
func eventually(t *testing.T, limit time.Duration, what string, ready func() (done bool, state any)) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		done, state := ready()
		if done {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			require.FailNow(t, "waited in vain: "+what, "after %v: %+v", limit, state)
		}
	}
}

// showLogs shows the end of every log when the test has failed, and keeps all of them.
func showLogs(t *testing.T, logs string) {
	t.Helper()
	if !t.Failed() {
		return
	}
	names, err := filepath.Glob(filepath.Join(logs, "*.log"))
	if err != nil {
		t.Log(err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Log(err)
			continue
		}
		lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
		t.Logf("the end of %s:\n%s", filepath.Base(name), strings.Join(lines[max(0, len(lines)-25):], "\n"))
	}
	kept, err := os.MkdirTemp("", "drover-acceptance-")
	if err == nil {
		kept = filepath.Join(kept, strings.ReplaceAll(t.Name(), "/", "-"))
		err = os.CopyFS(kept, os.DirFS(logs))
	}
	if err != nil {
		t.Log("the logs are not kept:", err)
		return
	}
	t.Log("all logs:", kept)
}
