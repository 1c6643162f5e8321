package stack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"go.temporal.io/sdk/client"
	temporallog "go.temporal.io/sdk/log"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/drover/drover/app"
	"github.com/drover/drover/events"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/tcp/port"
	"github.com/drover/drover/test/process"
	"github.com/drover/drover/test/proxy"
)

// readyLine is how the line begins that drover-dev prints when it is ready.
const readyLine = "drover-dev ready"

// Options say what a stack is made of.
type Options struct {
	// Dir keeps everything; it is made when absent. A stack can be started again on the directory of one that was closed, but not its
	// PostgreSQL database, which goes with the stack.
	Dir string
	// Binaries is the directory of the programs. Default: what the variable BIN names, or bin of the repository.
	Binaries string
	// Embedded runs everything in one drover-dev. The numbers below and Postgres are not for it.
	Embedded bool
	// Postgres is the URL of a PostgreSQL server where the stack makes a database of its own, and drops it when it is closed; the user of the
	// URL must be allowed to. Empty: a SQLite file.
	Postgres string
	// Servers, CenterWorkers and TransitionHosts are how many there are of each. Default: 1.
	Servers, CenterWorkers, TransitionHosts int
	// Orchestrators are how many workers take fleets. Default: none in a spread stack; drover-dev has one unless DevArgs says otherwise.
	Orchestrators int
	// Metrics has every process serve its metrics, each at an address of its own: see MetricsURL. Without it none does.
	Metrics bool
	// Env are more variables of every process, NAME=value.
	Env []string
	// DevArgs and ServerArgs are more arguments of drover-dev in an embedded stack, and of every drover-server in another.
	DevArgs, ServerArgs []string
}

// Server is a replica of drover-server.
type Server struct {
	*process.Process
	// URL is the endpoint of this replica.
	URL string
}

// TransitionHost is a worker that receives disks.
type TransitionHost struct {
	*process.Process
	// Data is where it keeps staging/ and images/.
	Data string
}

// Stack is a running Drover. Its processes may be controlled from any goroutine, and agents be started side by side; its lists must not be looked
// at while something is added to them.
type Stack struct {
	// Dir is the directory of Options, and Data the data directory of drover-dev in it.
	Dir, Data string
	// Dev is the one process of an embedded stack; nil in another.
	Dev *process.Process
	// Temporal and NATS are those of a spread stack.
	Temporal, NATS  *process.Process
	Servers         []*Server
	CenterWorkers   []*process.Process
	TransitionHosts []*TransitionHost
	Orchestrators   []*process.Process
	// Agents are the source servers, in the order in which they were started.
	Agents []*Agent
	// Targets are the target instances, in the order in which they were started.
	Targets []*Target
	// Database is what all of them share.
	Database *Database
	// Client calls the endpoint, of a spread stack through Front.
	Client *smc.Client
	// Front is the one endpoint of all replicas of drover-server; nil where there is but one.
	Front *proxy.Proxy

	mu       sync.Mutex   // of Agents, Targets and ports
	ports    []*port.Held // of all processes, until it is closed
	options  Options
	binaries string
	env      map[string]string
}

// New starts a stack and returns when all of it is ready. It ends what it has started when ctx is done before, or anything fails.
func New(ctx context.Context, options Options) (s *Stack, err error) {
	names := []string{"drover", "drover-agent", "drover-dev", "drover-server", "drover-worker"}
	if options.Embedded {
		names = names[:3]
	}
	s = &Stack{Dir: options.Dir, Data: filepath.Join(options.Dir, "center"), options: options}
	if s.binaries, err = process.Binaries(options.Binaries, names...); err != nil {
		return nil, err
	}
	for _, dir := range []string{s.Data, s.logs()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make the directory of the stack: %w", err)
		}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
			s = nil
		}
	}()
	if err := s.choosePorts(); err != nil {
		return s, err
	}
	start := s.startSpread
	if options.Embedded {
		start = s.startEmbedded
	}
	if err := start(ctx); err != nil {
		return s, err
	}
	config, err := smc.ConfigFromEnv(func(name string) string { return s.env[name] })
	if err != nil {
		return s, err
	}
	s.Client, err = smc.NewClient(config)
	return s, err
}

// addresses returns addresses for processes to listen on, which nobody else gets while they are away.
func (s *Stack) addresses(n int) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var addresses []string
	for range n {
		held, err := port.Hold()
		if err != nil {
			return nil, err
		}
		s.ports, addresses = append(s.ports, held), append(addresses, held.Address())
	}
	return addresses, nil
}

// choosePorts writes the settings of drover-dev, unless there are any: it keeps ports to itself that nobody takes while a process is away,
// which those that it would choose do not do.
func (s *Stack) choosePorts() error {
	name := filepath.Join(s.Data, "dev.json")
	if _, err := os.Stat(name); err == nil {
		return nil
	}
	addresses, err := s.addresses(4)
	if err != nil {
		return err
	}
	var ports []int
	for _, a := range addresses[1:] {
		_, port, _ := strings.Cut(a, ":")
		number, err := strconv.Atoi(port)
		if err != nil {
			return err
		}
		ports = append(ports, number)
	}
	settings := map[string]any{"listen": addresses[0], "ports": map[string]int{"temporal": ports[0], "nats": ports[1], "transition": ports[2]}}
	text, err := json.Marshal(settings)
	if err != nil {
		return err
	}
	return os.WriteFile(name, text, 0o600)
}

func (s *Stack) startEmbedded(ctx context.Context) error {
	s.Dev = s.process("drover-dev", "drover-dev", append([]string{"--data", s.Data}, s.options.DevArgs...)...)
	s.Dev.ReadyLine = readyLine
	if err := s.start(ctx, s.Dev); err != nil {
		return err
	}
	if err := s.readEnvironment(); err != nil {
		return err
	}
	s.Database = &Database{URL: s.env["DATABASE_URL"], direct: s.env["DATABASE_URL"]}
	s.TransitionHosts = []*TransitionHost{{Process: s.Dev, Data: filepath.Join(s.Data, "images")}}
	for range s.options.Orchestrators {
		if _, err := s.AddOrchestrator(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *Stack) startSpread(ctx context.Context) error {
	s.Temporal = s.process("temporal", "drover-dev", "--data", s.Data, "--parts", "temporal")
	s.NATS = s.process("nats", "drover-dev", "--data", s.Data, "--parts", "nats")
	s.Temporal.ReadyLine, s.NATS.ReadyLine = readyLine, readyLine
	if err := s.start(ctx, s.Temporal, s.NATS); err != nil {
		return err
	}
	if err := s.readEnvironment(); err != nil {
		return err
	}
	var err error
	if s.options.Postgres == "" {
		s.Database = &Database{URL: s.env["DATABASE_URL"], direct: s.env["DATABASE_URL"]}
	} else if s.Database, err = newPostgres(ctx, s.options.Postgres); err != nil {
		return err
	}
	s.env["DATABASE_URL"] = s.Database.URL
	addresses, err := s.addresses(max(1, s.options.Servers))
	if err != nil {
		return err
	}
	var all []*process.Process
	for i, address := range addresses {
		server := s.server("server-"+strconv.Itoa(i+1), address, s.options.ServerArgs...)
		s.Servers = append(s.Servers, server)
		all = append(all, server.Process)
	}
	s.env[smc.EnvEndpoint] = s.Servers[0].URL
	if len(addresses) > 1 {
		if s.Front, err = proxy.New(addresses...); err != nil {
			return err
		}
		s.env[smc.EnvEndpoint] = "http://" + s.Front.Address()
	}
	for range max(1, s.options.CenterWorkers) {
		all = append(all, s.centerWorker())
	}
	for range max(1, s.options.TransitionHosts) {
		host, err := s.transitionHost()
		if err != nil {
			return err
		}
		all = append(all, host.Process)
	}
	for range s.options.Orchestrators {
		all = append(all, s.orchestrator())
	}
	return s.start(ctx, all...)
}

// start starts processes and waits until all are ready.
func (s *Stack) start(ctx context.Context, processes ...*process.Process) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, p := range processes {
		if err := p.Start(); err != nil {
			return err
		}
		group.Go(func() error { return p.AwaitReady(ctx) })
	}
	return group.Wait()
}

// process makes a process of one of our programs.
func (s *Stack) process(name, program string, args ...string) *process.Process {
	metrics := app.MetricsOff
	if s.options.Metrics {
		metrics = "127.0.0.1:0" // of no use, and nobody gets here without a free port
		if free, err := s.addresses(1); err == nil {
			metrics = free[0]
		}
	}
	return &process.Process{
		Name: name, Program: filepath.Join(s.binaries, program), Args: append(args, metricsFlag, metrics, "--log-format", "console"),
		Env: s.Environ(), Log: filepath.Join(s.logs(), name+".log"),
	}
}

func (s *Stack) server(name, address string, args ...string) *Server {
	server := &Server{
		Process: s.process(name, "drover-server", append([]string{"--listen", address}, args...)...),
		URL:     "http://" + address,
	}
	server.Ready = func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/readyz", http.NoBody)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %s", request.URL, response.Status)
		}
		return nil
	}
	return server
}

const metricsFlag = "--metrics-listen"

// MetricsURL is where a process serves /metrics, /healthz and /readyz, without the path; empty when it does not.
func MetricsURL(p *process.Process) string {
	i := slices.Index(p.Args, metricsFlag)
	if i < 0 || p.Args[i+1] == app.MetricsOff {
		return ""
	}
	return "http://" + p.Args[i+1]
}

// AddServer starts one more replica of drover-server, with arguments of its own. It is not behind Front.
func (s *Stack) AddServer(ctx context.Context, args ...string) (*Server, error) {
	addresses, err := s.addresses(1)
	if err != nil {
		return nil, err
	}
	server := s.server("server-"+strconv.Itoa(len(s.Servers)+1), addresses[0], args...)
	s.Servers = append(s.Servers, server)
	return server, s.start(ctx, server.Process)
}

// AddOrchestrator starts one more worker that takes fleets.
func (s *Stack) AddOrchestrator(ctx context.Context) (*process.Process, error) {
	worker := s.orchestrator()
	return worker, s.start(ctx, worker)
}

func (s *Stack) centerWorker() *process.Process {
	worker := s.worker("center-"+strconv.Itoa(len(s.CenterWorkers)+1), app.RoleCenter)
	s.CenterWorkers = append(s.CenterWorkers, worker)
	return worker
}

func (s *Stack) orchestrator() *process.Process {
	worker := s.worker("orchestrator-"+strconv.Itoa(len(s.Orchestrators)+1), app.RoleOrchestrator)
	s.Orchestrators = append(s.Orchestrators, worker)
	return worker
}

func (s *Stack) transitionHost() (*TransitionHost, error) {
	addresses, err := s.addresses(1)
	if err != nil {
		return nil, err
	}
	name := "transition-" + strconv.Itoa(len(s.TransitionHosts)+1)
	data := filepath.Join(s.Dir, name)
	host := &TransitionHost{Data: data, Process: s.worker(name, app.RoleTransition, "--data", data, "--transition-listen", addresses[0])}
	s.TransitionHosts = append(s.TransitionHosts, host)
	return host, nil
}

// worker makes a drover-worker. It is ready when it has said that it works at its queue: it does so when Temporal knows it.
func (s *Stack) worker(name, role string, args ...string) *process.Process {
	worker := s.process(name, "drover-worker", append([]string{"--role", role}, args...)...)
	worker.Ready = func(context.Context) error {
		if n, err := worker.Logged("\tworking\t"); n > 0 || err != nil {
			return err
		}
		return errors.New("it has not said that it works at its queue")
	}
	return worker
}

// Stop stops every process as an operator would, those first that need others: agents, workers, servers, NATS and Temporal. Then it closes the
// stack. A process that has ended badly, or that does not end cleanly within limit of being told to, is an error.
func (s *Stack) Stop(limit time.Duration) error {
	var agents, hosts, servers []*process.Process
	for _, a := range s.Agents {
		agents = append(agents, a.Process)
	}
	for _, target := range s.Targets {
		agents = append(agents, target.Process)
	}
	for _, host := range s.TransitionHosts {
		if host.Process != s.Dev {
			hosts = append(hosts, host.Process)
		}
	}
	for _, server := range s.Servers {
		servers = append(servers, server.Process)
	}
	last := []*process.Process{s.NATS, s.Temporal}
	if s.Dev != nil {
		last = []*process.Process{s.Dev}
	}
	var err error
	for _, stage := range [][]*process.Process{
		agents, s.Orchestrators, slices.Concat(hosts, s.CenterWorkers), servers, last,
	} {
		err = errors.Join(err, process.StopAll(limit, stage...))
	}
	return errors.Join(err, s.Close())
}

// Close kills every process and drops the database. The directory stays. A stack may be closed twice.
func (s *Stack) Close() error {
	for _, p := range slices.Backward(s.Processes()) {
		p.Kill()
	}
	if s.Front != nil {
		s.Front.Close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, held := range s.ports {
		held.Close()
	}
	if s.Database != nil {
		return s.Database.close()
	}
	return nil
}

// Processes are all processes, in the order in which they were first started.
func (s *Stack) Processes() (all []*process.Process) {
	for _, p := range []*process.Process{s.Dev, s.Temporal, s.NATS} {
		if p != nil {
			all = append(all, p)
		}
	}
	for _, server := range s.Servers {
		all = append(all, server.Process)
	}
	all = append(all, s.CenterWorkers...)
	for _, host := range s.TransitionHosts {
		if host.Process != s.Dev {
			all = append(all, host.Process)
		}
	}
	all = append(all, s.Orchestrators...)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.Agents {
		all = append(all, a.Process)
	}
	for _, target := range s.Targets {
		all = append(all, target.Process)
	}
	return all
}

// ReadEnvironment reads a dev.env of drover-dev the way its users do: with a shell.
func ReadEnvironment(name string) (map[string]string, error) {
	cmd := exec.Command("sh", "-c", `. "$0" && env -0`, name) //nolint:gosec // a file of our own
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("read the environment of drover-dev, %s: %w", name, err)
	}
	env := map[string]string{}
	for variable := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		name, value, _ := strings.Cut(variable, "=")
		if !slices.Contains([]string{"PATH", "PWD", "OLDPWD", "SHLVL", "_"}, name) {
			env[name] = value
		}
	}
	return env, nil
}

func (s *Stack) readEnvironment() (err error) {
	s.env, err = ReadEnvironment(filepath.Join(s.Data, "dev.env"))
	return err
}

// Env are the variables that reach the stack, as drover-dev writes them to its dev.env, by name.
func (s *Stack) Env() map[string]string { return maps.Clone(s.env) }

// Environ is Env as NAME=value, with those of Options.
func (s *Stack) Environ() []string {
	var environ []string
	for _, name := range slices.Sorted(maps.Keys(s.env)) {
		environ = append(environ, name+"="+s.env[name])
	}
	return append(environ, s.options.Env...)
}

// ConnectNATS connects to NATS. The connection outlives its outages; the caller closes it.
func (s *Stack) ConnectNATS() (*nats.Conn, error) {
	return events.Connect(s.env["NATS_URL"], "stack", zap.NewNop())
}

// ConnectTemporal connects to Temporal. The caller closes the client.
func (s *Stack) ConnectTemporal(ctx context.Context) (client.Client, error) {
	c, err := client.DialContext(ctx, client.Options{HostPort: s.env["TEMPORAL_ADDRESS"], Namespace: s.env["TEMPORAL_NAMESPACE"], Logger: silent{}})
	if err != nil {
		return nil, fmt.Errorf("connect to Temporal: %w", err)
	}
	return c, nil
}

// Run runs one of our programs to its end with the stack's environment.
func (s *Stack) Run(ctx context.Context, program string, args ...string) (process.Result, error) {
	return process.Run(ctx, s.Environ(), filepath.Join(s.binaries, program), args...)
}

// Drover runs a drover command to its end.
func (s *Stack) Drover(ctx context.Context, args ...string) (process.Result, error) {
	return s.Run(ctx, "drover", args...)
}

// Spawn starts one of our programs with the stack's environment and returns at once. The process does not belong to the stack: the caller
// ends it.
func (s *Stack) Spawn(name, program string, args ...string) (*process.Process, error) {
	p := &process.Process{
		Name: name, Program: filepath.Join(s.binaries, program), Args: args, Env: s.Environ(), Log: filepath.Join(s.logs(), name+".log"),
	}
	return p, p.Start()
}

// silent keeps Temporal's client from writing about servers that are killed under it.
type silent struct{}

var _ temporallog.Logger = silent{}

func (silent) Debug(string, ...any) {}
func (silent) Info(string, ...any)  {}
func (silent) Warn(string, ...any)  {}
func (silent) Error(string, ...any) {}
