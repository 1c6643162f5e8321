package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/monitor"
	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
)

// AgentConfig says which server an agent serves and to which center.
//
// StateDir is always needed. The first start needs the other fields too, to register; later ones take
// from the state directory what is not given.
type AgentConfig struct {
	// Endpoint is the URL of the center. Given with state present, it replaces the one kept there once the
	// center has taken a heartbeat at it.
	Endpoint string
	// Code is the activation code to register with. When the agent has registered it is good for one thing only: an agent that knows its
	// center by no certificate yet takes the fingerprint in it.
	Code string
	// CAFile is a PEM file with the authorities that may have signed the certificates of the center and the transition hosts. Without it
	// that is the one whose fingerprint the activation code carries, and what the center replaces it by; else those this machine knows.
	CAFile string
	// Name is the name of the source server or target instance, 2-128 characters. It cannot be changed here later.
	Name string
	// StateDir keeps the agent's identity, and admits one agent at a time. It is made when missing.
	StateDir string
	// Disks are image files or block devices, the system disk first. Given with state present, they replace
	// the ones kept there.
	Disks []string
	// Version is reported to the center as the agent's version.
	Version string
	// Process is the process that the agent is part of.
	Process Process
	// HTTPClient is used for the center and the transition host; nil means one with sane limits for each.
	HTTPClient *http.Client
}

// AgentUsageError says that an agent cannot start the way it was called: the fault is in its flags.
type AgentUsageError struct{ Message string }

// Error returns what is wrong and what to give instead.
func (e *AgentUsageError) Error() string { return e.Message }

func agentUsage(format string, args ...any) error {
	return &AgentUsageError{Message: fmt.Sprintf(format, args...)}
}

// ErrSourceDeleted ends an agent whose source server the center no longer knows.
var ErrSourceDeleted = errors.New("the center does not know this source server any more")

// RunAgent serves the disks of one source server until ctx is done, which is no error. It registers on
// the first start, reports its heartbeat, and copies the disks when the center wants them copied. It
// outlives any outage of center and transition host.
//
// It returns an *AgentUsageError when cfg does not fit, an error that matches ErrSourceDeleted when the
// source server was deleted, and an *smc.Error (wrapped) when the center refuses the registration.
func RunAgent(ctx context.Context, cfg AgentConfig, log *zap.Logger) error {
	a := &agent{
		cfg:         cfg,
		log:         log,
		instance:    uuid.NewString(),
		sync:        replica.Sync,
		probe:       replica.ProbeDisk,
		after:       time.After,
		failedAgain: failedAgain,
		wait:        agentapi.DefaultWait,
		answers:     make(chan struct{}, 1),
		resized:     make(chan struct{}, 1),
	}
	a.role = source{a}
	return a.serve(ctx)
}

// serve is run, for which the end of ctx is no failure.
func (a *agent) serve(ctx context.Context) error {
	err := a.run(ctx)
	if ctx.Err() == nil {
		return err
	}
	a.log.Info("agent stopped")
	return nil
}

// role is what an agent is to its center: the source of migrations, or a target of them.
type role interface {
	words() roleWords
	// newMetrics registers the metrics of such an agent.
	newMetrics(p *monitor.Process) *agentMetrics
	// describe looks at the machine. A disk that cannot be read leaves the description as it was.
	describe() error
	// register makes the machine known with an activation code; the identity goes to s.
	register(ctx context.Context, code, instance string, s *agentState) error
	heartbeat(ctx context.Context) (agentapi.HeartbeatResponse, error)
	ask(ctx context.Context, q agentapi.WorkQuery) (desired, error)
}

// roleWords are what the agent says of itself in one role.
type roleWords struct {
	noun  string // what the center knows the machine as
	key   string // of its id in the log
	disks string // what is done with the disks of --disk
	task  string // what its work is called
	gone  error  // ends an agent that the center does not know any more
}

// desired is what the center wants of an agent. begin starts the work and returns at once; it is nil when there is none.
type desired struct {
	generation int64
	begin      func(ctx context.Context) *task
}

// source is the role of an agent on a source server.
type source struct{ *agent }

func (source) words() roleWords {
	return roleWords{noun: "source server", key: "source_id", disks: "serve", task: "sync", gone: ErrSourceDeleted}
}

func (source) newMetrics(p *monitor.Process) *agentMetrics { return newAgentMetrics(p) }

func (a source) describe() error {
	server, err := describeServer(a.cfg.Version, a.state.Disks, a.probe)
	if err != nil {
		return err
	}
	a.server = server
	return nil
}

func (a source) register(ctx context.Context, code, instance string, s *agentState) error {
	resp, err := a.client.Register(ctx, agentapi.RegisterRequest{Code: code, Name: s.Name, Instance: instance, Server: a.server})
	s.SourceID, s.Token = resp.SourceID, resp.Token
	return err
}

func (a source) heartbeat(ctx context.Context) (agentapi.HeartbeatResponse, error) {
	return a.client.Heartbeat(ctx, agentapi.HeartbeatRequest{Instance: a.instance, Server: a.server, Time: time.Now().UTC()})
}

func (a source) ask(ctx context.Context, q agentapi.WorkQuery) (desired, error) {
	answer, err := a.client.Work(ctx, q)
	d := desired{generation: answer.Generation}
	if answer.Work != nil {
		d.begin = func(ctx context.Context) *task { return a.start(ctx, answer.Generation, *answer.Work) }
	}
	return d, err
}

// agent is one process of an agent. The fields from sync on are replaced by tests.
type agent struct {
	role     role
	cfg      AgentConfig
	log      *zap.Logger
	instance string
	dir      *agentDir
	state    agentState
	server   agentapi.Server // as last seen
	client   *agentapi.Client
	metrics  *agentMetrics
	trust    *agentTrust // nil with cfg.HTTPClient
	saved    agentState  // as it is in the state directory

	sync  func(context.Context, replica.SyncConfig, func(replica.Progress)) error
	probe func(string) (replica.DiskInfo, error)
	after func(time.Duration) <-chan time.Time
	// failedAgain is the constant of that name outside tests.
	failedAgain time.Duration
	wait        time.Duration // of one request for work

	answers chan struct{} // gets something when the center answers heartbeats again
	resized chan struct{} // gets something when a disk has another size
	heard   func(error)   // is told what became of the last heartbeat
}

func (a *agent) run(ctx context.Context) (err error) {
	words := a.role.words()
	a.cfg.Process = a.cfg.Process.orDefault()
	a.metrics = a.role.newMetrics(a.cfg.Process.Monitor)
	if a.cfg.StateDir == "" {
		return agentUsage("--state is missing: name the directory where the agent keeps its identity")
	}
	if a.dir, err = openAgentDir(a.cfg.StateDir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.dir.close()) }()
	known, err := a.dir.load()
	if err != nil {
		return err
	}
	if known != nil {
		err = a.resume(ctx, known)
	} else {
		err = a.register(ctx)
	}
	if err != nil {
		return err
	}
	a.log = a.log.With(zap.String(words.key, a.state.id()))
	a.log.Info("agent ready", zap.String("name", a.state.Name), zap.String("endpoint", a.endpoint()),
		zap.Strings("disks", a.state.Disks), zap.String("instance", a.instance), zap.String("version", a.cfg.Version))

	var trouble atomic.Pointer[error]
	a.heard = func(err error) { trouble.Store(&err) }
	a.heard(errors.New("it has not taken a heartbeat yet"))
	defer a.cfg.Process.Monitor.Require("center", func(context.Context) error { return *trouble.Load() })()

	sizes := diskSizes(a.state.Disks)
	group, ctx := a.cfg.Process.group(ctx)
	group.run("heartbeats", func() error { return a.heartbeats(ctx) })
	group.run("sizes of disks", func() error { return a.watchSizes(ctx, sizes) })
	group.run(words.task, func() error { return a.work(ctx) })
	return group.Wait()
}

// endpoint is where this process looks for the center.
func (a *agent) endpoint() string {
	if a.cfg.Endpoint != "" {
		return a.cfg.Endpoint
	}
	return a.state.Endpoint
}

func (a *agent) newClient(token string) (err error) {
	httpClient := a.cfg.HTTPClient
	if httpClient == nil {
		httpClient = &http.Client{Transport: &a.trust.center}
	}
	if a.client, err = agentapi.NewClient(a.endpoint(), token, agentapi.WithHTTPClient(httpClient)); err != nil {
		return agentUsage("--endpoint: %v", err)
	}
	return nil
}

// resume takes up the identity in the state directory.
func (a *agent) resume(ctx context.Context, known *agentState) error {
	words := a.role.words()
	if known.noun() != words.noun {
		return agentUsage("the state in %s belongs to the %s %q (%s): this one is a %s and needs another --state",
			a.cfg.StateDir, known.noun(), known.Name, known.id(), words.noun)
	}
	if a.cfg.Name != "" && a.cfg.Name != known.Name {
		return agentUsage("--name is %q, but the state in %s belongs to %s %q (%s): leave --name out, "+
			"or give another --state and a --code to register another %s",
			a.cfg.Name, a.cfg.StateDir, words.noun, known.Name, known.id(), words.noun)
	}
	if a.cfg.Code != "" {
		a.log.Info("the agent has registered before: the activation code is not used", zap.String(words.key, known.id()))
	}
	a.state = *known
	if len(a.cfg.Disks) > 0 {
		disks, err := absoluteDisks(a.cfg.Disks)
		if err != nil {
			return err
		}
		a.state.Disks = disks
	}
	if err := a.role.describe(); err != nil {
		return err
	}
	if !slices.Equal(a.state.Disks, known.Disks) {
		if err := a.dir.save(&a.state); err != nil {
			return err
		}
	}
	a.saved = a.state
	if err := a.settleTrust(ctx); err != nil {
		return err
	}
	return a.newClient(a.state.Token)
}

// register makes this machine known to the center. It goes on trying while the center is out of reach; what
// the center refuses is final.
func (a *agent) register(ctx context.Context) error {
	words := a.role.words()
	switch {
	case a.cfg.Endpoint == "":
		return agentUsage("--endpoint is missing: give the URL of the center, or set DROVER_ENDPOINT")
	case a.cfg.Code == "":
		return agentUsage("--code is missing: this agent has not registered yet (there is no state in %s); "+
			"get an activation code with `drover token create`", a.cfg.StateDir)
	case a.cfg.Name == "":
		return agentUsage("--name is missing: give the %s a name of 2 to 128 characters", words.noun)
	case len(a.cfg.Disks) == 0:
		return agentUsage("--disk is missing: give the files or devices to %s, the system disk first", words.disks)
	}
	disks, err := absoluteDisks(a.cfg.Disks)
	if err != nil {
		return err
	}
	a.state = agentState{Endpoint: a.cfg.Endpoint, Name: a.cfg.Name, Disks: disks}
	if err := a.role.describe(); err != nil {
		return err
	}
	if err := a.settleTrust(ctx); err != nil {
		return err
	}
	if err := a.newClient(""); err != nil {
		return err
	}
	secret, _, err := agentapi.ParseCode(a.cfg.Code)
	if err != nil {
		return agentUsage("--code: %v", err)
	}

	instance, err := a.dir.registering(a.instance)
	if err != nil {
		return err
	}
	outage := outage{log: a.log, what: "registration", after: a.after}
	for {
		err = a.role.register(ctx, secret, instance, &a.state)
		if err == nil {
			break
		}
		var refusal *smc.Error
		if errors.As(err, &refusal) && smc.ClassOf(refusal) != smc.Retryable {
			if refusal.Code == agentapi.CodeInvalidActivationCode {
				return fmt.Errorf("register %s %q at %s: %w; get another code with `drover token create`", words.noun, a.cfg.Name, a.cfg.Endpoint, err)
			}
			return fmt.Errorf("register %s %q at %s: %w", words.noun, a.cfg.Name, a.cfg.Endpoint, err)
		}
		final, err := a.explain(err)
		if final {
			return fmt.Errorf("register %s %q: %w", words.noun, a.cfg.Name, err)
		}
		if err := outage.failed(ctx, err); err != nil {
			return err
		}
	}
	if err := a.dir.registered(&a.state); err != nil {
		return fmt.Errorf("%w; the center knows this machine as %s now: start the agent again as before, with the same --state", err, a.state.id())
	}
	a.saved = a.state
	a.client = a.client.WithToken(a.state.Token)
	a.log.Info("registered", zap.String(words.key, a.state.id()), zap.String("name", a.state.Name))
	return nil
}

// absoluteDisks makes the paths independent of the working directory of the next start.
func absoluteDisks(paths []string) ([]string, error) {
	disks := make([]string, 0, len(paths))
	for _, p := range paths {
		abs, err := filepath.Abs(p)
		if err != nil {
			return nil, fmt.Errorf("find disk %s: %w", p, err)
		}
		if slices.Contains(disks, abs) {
			return nil, agentUsage("--disk %s is given twice", p)
		}
		disks = append(disks, abs)
	}
	return disks, nil
}

// heartbeats reports that the agent lives, at the rate the center asks for. While it runs, the description of the machine and
// the state belong to it, but for what of the state never changes: disks, name and identity.
func (a *agent) heartbeats(ctx context.Context) error {
	rate := agentapi.DefaultHeartbeatRate
	outage := outage{log: a.log, what: "heartbeat"}
	diskTrouble := false
	for {
		err := a.role.describe()
		if err != nil && !diskTrouble {
			a.log.Warn("cannot look at the disks; heartbeats describe them as they were last seen", zap.Error(err))
		}
		diskTrouble = err != nil
		var due time.Duration
		resp, err := a.role.heartbeat(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			if err := a.deleted(err); err != nil {
				return err
			}
			_, err = a.explain(err)
			outage.note(err)
			a.heard(err)
			a.metrics.heartbeats.WithLabelValues(outcomeFailed).Inc()
			due = min(rate, pause(outage.attempts)) // the center may take this server for lost: be back soon
		default:
			a.heard(nil)
			a.metrics.heartbeats.WithLabelValues(outcomeOK).Inc()
			a.metrics.heard.SetToCurrentTime()
			if outage.over() {
				select {
				case a.answers <- struct{}{}: // there may be work: it need not wait for the end of a pause
				default:
				}
			}
			rate = agentapi.DefaultHeartbeatRate
			if resp.HeartbeatRateSeconds > 0 {
				rate = time.Duration(resp.HeartbeatRateSeconds) * time.Second
			}
			due = rate
			a.followTrust(resp.CACertificates)
			a.state.Endpoint = a.endpoint()
			if a.state.Endpoint != a.saved.Endpoint || a.state.CACertificates != a.saved.CACertificates {
				if err := a.dir.save(&a.state); err != nil {
					return err
				}
				a.saved = a.state
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.resized:
		case <-a.after(due):
		}
	}
}

// sizeLook is how often an agent looks whether its disks have another size.
const sizeLook = 3 * time.Second

// watchSizes has a heartbeat sent at once when a disk no longer has the size that is known: a run that begins goes by what the center knows, and
// whoever repaired or grew a disk starts the job then. Disks that cannot be looked at are left to the heartbeats.
func (a *agent) watchSizes(ctx context.Context, known map[string]int64) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.after(sizeLook):
		}
		now := diskSizes(a.state.Disks)
		if maps.Equal(now, known) {
			continue
		}
		known = now
		select {
		case a.resized <- struct{}{}:
		default: // it is told already
		}
	}
}

// diskSizes are the sizes of those of the disks that can be looked at.
func diskSizes(paths []string) map[string]int64 {
	sizes := map[string]int64{}
	for _, path := range paths {
		if size, err := replica.DiskSize(path); err == nil {
			sizes[path] = size
		}
	}
	return sizes
}

// deleted returns the error that ends the agent when err says that the center does not know its token.
func (a *agent) deleted(err error) error {
	if smc.CodeOf(err) != agentapi.CodeInvalidAgentToken {
		return nil
	}
	return fmt.Errorf("%w (%s, %q): it was deleted, or %s is another center; to register this machine anew, remove %s "+
		"and start the agent with a code from `drover token create`: %w",
		a.role.words().gone, a.state.id(), a.state.Name, a.endpoint(), filepath.Join(a.cfg.StateDir, agentStateFile), err)
}

// Pauses between attempts to reach a center or a host.
const (
	firstPause = time.Second
	lastPause  = 30 * time.Second
)

// outage paces the attempts of one loop while the other side is out of reach, and logs the beginning and
// the end of an outage instead of every attempt.
type outage struct {
	log   *zap.Logger
	what  string
	after func(time.Duration) <-chan time.Time
	// answers, when there is one, ends a pause: somebody else has had an answer.
	answers <-chan struct{}

	attempts int
}

// note counts a failed attempt.
func (o *outage) note(err error) {
	o.attempts++
	if o.attempts == 1 {
		o.log.Warn("the center does not answer a "+o.what+" as it should; trying again until it does", zap.Error(err))
	} else {
		o.log.Debug(o.what+" failed again", zap.Error(err), zap.Int("attempts", o.attempts))
	}
}

// failed counts a failed attempt and waits until the next one is due.
func (o *outage) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	o.note(err)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-o.answers:
		return nil
	case <-o.after(pause(o.attempts)):
		return nil
	}
}

// over ends the outage and reports whether there was one.
func (o *outage) over() bool {
	was := o.attempts > 0
	if was {
		o.log.Info("the center answers again", zap.String("request", o.what), zap.Int("failed_attempts", o.attempts))
	}
	o.attempts = 0
	return was
}

// pause is how long to wait after so many failures in a row.
func pause(failures int) time.Duration {
	return min(firstPause<<min(failures-1, 10), lastPause)
}
