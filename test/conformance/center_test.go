package conformance

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/drover/drover/test/disks"
)

const (
	mib = 1 << 20

	// startLimit bounds the start of a process; a small machine under load needs a few seconds.
	startLimit = 90 * time.Second
)

// center is a real center, its processes and their files.
type center struct {
	dir string
	// env is what reaches it, as drover-dev writes it.
	env map[string]string
	// narrow is the endpoint of a second server of the same center: one job an account, one call a key.
	narrow string
}

// startCenter starts a center on SQLite.
func startCenter(t *testing.T) *center {
	t.Helper()
	c := &center{dir: t.TempDir(), env: map[string]string{}}
	data := filepath.Join(c.dir, "data")
	dev := c.start(t, "drover-dev", "drover-dev", "--data", data, "--listen", "127.0.0.1:0")
	dev.awaitLine(t, "drover-dev ready")
	file, err := os.ReadFile(filepath.Join(data, "dev.env"))
	require.NoError(t, err)
	for line := range strings.Lines(string(file)) {
		assignment, _ := strings.CutPrefix(strings.TrimSpace(line), "export ")
		if name, value, ok := strings.Cut(assignment, "="); ok {
			c.env[name] = strings.Trim(value, `'"`)
		}
	}
	c.env["DATABASE_URL"] = "sqlite://" + filepath.Join(data, "center", "center.db")
	c.startNarrow(t)
	return c
}

// startNarrow starts the server with narrow limits.
func (c *center) startNarrow(t *testing.T) {
	t.Helper()
	listen := freeAddress(t)
	c.start(t, "narrow", "drover-server", "--listen", listen, "--job-quota", "1", "--rate-limit", "0.0001", "--rate-burst", "1")
	c.narrow = "http://" + listen
	awaitEndpoint(t, c.narrow)
}

// freeAddress returns an address of the loopback that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	return listener.Addr().String()
}

// awaitEndpoint waits until an endpoint answers anything at all.
func awaitEndpoint(t *testing.T, url string) {
	t.Helper()
	eventually(t, startLimit, url+" answers", func() (bool, any) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		require.NoError(t, err)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return false, err
		}
		return true, response.Body.Close()
	})
}

// identity is the center's first access key.
func (c *center) identity() identity {
	return identity{
		Endpoint: c.env["DROVER_ENDPOINT"], AccessKeyID: c.env["ALIBABA_CLOUD_ACCESS_KEY_ID"], AccessKeySecret: c.env["ALIBABA_CLOUD_ACCESS_KEY_SECRET"],
	}
}

// startAgent starts the agent of a source server with a system disk and dataDisks data disks.
func (c *center) startAgent(t *testing.T, name, code string, dataDisks int) {
	t.Helper()
	system := disks.Spec{SizeBytes: 64 * mib, FillBytes: 24 * mib, CompressiblePercent: -1, Seed: 1}
	args := []string{"--endpoint", c.env["DROVER_ENDPOINT"], "--code", code, "--name", name, "--state", filepath.Join(c.dir, "agent-"+name)}
	for i := range 1 + dataDisks {
		spec := system
		if i > 0 {
			spec = disks.Spec{SizeBytes: 32 * mib, Layout: disks.Data, Seed: uint64(1 + i)}
		}
		file := filepath.Join(c.dir, fmt.Sprintf("%s-%d.raw", name, i))
		require.NoError(t, disks.Make(file, spec))
		args = append(args, "--disk", file)
	}
	c.start(t, "agent-"+name, "drover-agent", args...)
}

// process is a child process; it is killed when its test ends.
type process struct {
	name  string
	lines chan string // of its standard output, as far as anybody takes them
}

// spawn runs functions on one thread that lives as long as this process: the kernel kills a child with Pdeathsig when
// the thread that started it ends.
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

// start starts one of our programs with what reaches the center in its environment. When the test fails, the end of its
// log is shown.
func (c *center) start(t *testing.T, name, program string, args ...string) *process {
	t.Helper()
	cmd := exec.Command(binary(t, program), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Env = os.Environ()
	for name, value := range c.env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	path := filepath.Join(c.dir, name+".log")
	log, err := os.Create(path)
	require.NoError(t, err)
	cmd.Stderr = log
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	started := make(chan error)
	spawn <- func() { started <- cmd.Start() }
	require.NoError(t, <-started, "start %s", name)
	p := &process{name: name, lines: make(chan string, 16)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			select {
			case p.lines <- scanner.Text():
			default:
			}
		}
		_ = cmd.Wait() // killed
		close(p.lines)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-ended
		_ = log.Close()
		if text, err := os.ReadFile(path); t.Failed() && err == nil {
			t.Logf("the end of %s.log:\n%s", name, text[max(0, len(text)-4000):])
		}
	})
	return p
}

// awaitLine waits for a line of standard output that begins with prefix.
func (p *process) awaitLine(t *testing.T, prefix string) {
	t.Helper()
	timer := time.NewTimer(startLimit)
	defer timer.Stop()
	for {
		select {
		case line, ok := <-p.lines:
			require.True(t, ok, "%s ended before it was ready", p.name)
			if strings.HasPrefix(line, prefix) {
				return
			}
		case <-timer.C:
			require.FailNow(t, p.name+" is not ready", "no line %q after %v", prefix, startLimit)
		}
	}
}

// binary is the path of one of our programs: in BIN, relative to the root of the repository, or in bin.
func binary(t *testing.T, program string) string {
	t.Helper()
	dir := os.Getenv("BIN")
	if dir == "" {
		dir = "bin"
	}
	if !filepath.IsAbs(dir) {
		dir = filepath.Join("..", "..", dir)
	}
	path, err := filepath.Abs(filepath.Join(dir, program))
	require.NoError(t, err)
	require.FileExists(t, path, "run `make build` first, or name the directory of the binaries in BIN")
	return path
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
