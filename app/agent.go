package app

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/drover/drover/center/agentapi"
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
	// Name is the name of the source server, 2-128 characters. It cannot be changed here later.
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
	}
	err := a.run(ctx)
	if ctx.Err() == nil {
		return err
	}
	log.Info("agent stopped")
	return nil
}

// agent is one process of an agent. The fields from sync on are replaced by tests.
type agent struct {
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
	heard   func(error)   // is told what became of the last heartbeat
}

func (a *agent) run(ctx context.Context) (err error) {
	a.cfg.Process = a.cfg.Process.orDefault()
	a.metrics = newAgentMetrics(a.cfg.Process.Monitor)
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
	a.log = a.log.With(zap.String("source_id", a.state.SourceID))
	a.log.Info("agent ready", zap.String("name", a.state.Name), zap.String("endpoint", a.endpoint()),
		zap.Strings("disks", a.state.Disks), zap.String("instance", a.instance), zap.String("version", a.cfg.Version))

	var trouble atomic.Pointer[error]
	a.heard = func(err error) { trouble.Store(&err) }
	a.heard(errors.New("it has not taken a heartbeat yet"))
	defer a.cfg.Process.Monitor.Require("center", func(context.Context) error { return *trouble.Load() })()

	group, ctx := a.cfg.Process.group(ctx)
	group.run("heartbeats", func() error { return a.heartbeats(ctx) })
	group.run("sync", func() error { return a.work(ctx) })
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
	if a.cfg.Name != "" && a.cfg.Name != known.Name {
		return agentUsage("--name is %q, but the state in %s belongs to source server %q (%s): leave --name out, "+
			"or give another --state and a --code to register another source server",
			a.cfg.Name, a.cfg.StateDir, known.Name, known.SourceID)
	}
	if a.cfg.Code != "" {
		a.log.Info("the agent has registered before: the activation code is not used", zap.String("source_id", known.SourceID))
	}
	a.state = *known
	if len(a.cfg.Disks) > 0 {
		disks, err := absoluteDisks(a.cfg.Disks)
		if err != nil {
			return err
		}
		a.state.Disks = disks
	}
	if err := a.describe(); err != nil {
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

// register makes this server a source server. It goes on trying while the center is out of reach; what
// the center refuses is final.
func (a *agent) register(ctx context.Context) error {
	switch {
	case a.cfg.Endpoint == "":
		return agentUsage("--endpoint is missing: give the URL of the center, or set DROVER_ENDPOINT")
	case a.cfg.Code == "":
		return agentUsage("--code is missing: this agent has not registered yet (there is no state in %s); "+
			"get an activation code with `drover token create`", a.cfg.StateDir)
	case a.cfg.Name == "":
		return agentUsage("--name is missing: give the source server a name of 2 to 128 characters")
	case len(a.cfg.Disks) == 0:
		return agentUsage("--disk is missing: give the files or devices to serve, the system disk first")
	}
	disks, err := absoluteDisks(a.cfg.Disks)
	if err != nil {
		return err
	}
	a.state = agentState{Endpoint: a.cfg.Endpoint, Name: a.cfg.Name, Disks: disks}
	if err := a.describe(); err != nil {
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
	req := agentapi.RegisterRequest{Code: secret, Name: a.cfg.Name, Instance: instance, Server: a.server}
	var resp agentapi.RegisterResponse
	outage := outage{log: a.log, what: "registration", after: a.after}
	for {
		resp, err = a.client.Register(ctx, req)
		if err == nil {
			break
		}
		var refusal *smc.Error
		if errors.As(err, &refusal) && smc.ClassOf(refusal) != smc.Retryable {
			if refusal.Code == agentapi.CodeInvalidActivationCode {
				return fmt.Errorf("register source server %q at %s: %w; get another code with `drover token create`", a.cfg.Name, a.cfg.Endpoint, err)
			}
			return fmt.Errorf("register source server %q at %s: %w", a.cfg.Name, a.cfg.Endpoint, err)
		}
		final, err := a.explain(err)
		if final {
			return fmt.Errorf("register source server %q: %w", a.cfg.Name, err)
		}
		if err := outage.failed(ctx, err); err != nil {
			return err
		}
	}
	a.state.SourceID, a.state.Token = resp.SourceID, resp.Token
	if err := a.dir.registered(&a.state); err != nil {
		return fmt.Errorf("%w; the center knows this server as %s now: start the agent again as before, with the same --state", err, resp.SourceID)
	}
	a.saved = a.state
	a.client = a.client.WithToken(resp.Token)
	a.log.Info("registered", zap.String("source_id", resp.SourceID), zap.String("name", a.state.Name))
	return nil
}

// describe looks at the server. A disk that cannot be read leaves the description as it was.
func (a *agent) describe() error {
	server, err := describeServer(a.cfg.Version, a.state.Disks, a.probe)
	if err != nil {
		return err
	}
	a.server = server
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

// heartbeats reports that the agent lives, at the rate the center asks for. While it runs, server and
// state belong to it, but for what of the state never changes: disks, name and identity.
func (a *agent) heartbeats(ctx context.Context) error {
	rate := agentapi.DefaultHeartbeatRate
	outage := outage{log: a.log, what: "heartbeat"}
	diskTrouble := false
	for {
		err := a.describe()
		if err != nil && !diskTrouble {
			a.log.Warn("cannot look at the disks; heartbeats describe them as they were last seen", zap.Error(err))
		}
		diskTrouble = err != nil
		var due time.Duration
		resp, err := a.client.Heartbeat(ctx, agentapi.HeartbeatRequest{Instance: a.instance, Server: a.server, Time: time.Now().UTC()})
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
		case <-a.after(due):
		}
	}
}

// deleted returns the error that ends the agent when err says that the center does not know its token.
func (a *agent) deleted(err error) error {
	if smc.CodeOf(err) != agentapi.CodeInvalidAgentToken {
		return nil
	}
	return fmt.Errorf("%w (%s, %q): it was deleted, or %s is another center; to register this server anew, remove %s "+
		"and start the agent with a code from `drover token create`: %w",
		ErrSourceDeleted, a.state.SourceID, a.state.Name, a.endpoint(), filepath.Join(a.cfg.StateDir, agentStateFile), err)
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
