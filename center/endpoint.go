// Package center is the self-hosted Server Migration Center: the signed endpoint that speaks the SMC contract, the API
// its agents speak, and the sweeps that keep its record and its workflows together.
package center

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path"
	"strings"
	"time"

	"github.com/google/uuid"
	lru "github.com/hashicorp/golang-lru/v2"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/center/ca"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
)

// Config is what an Endpoint needs.
type Config struct {
	Store  *store.Store
	Engine Engine
	// DataPlaneKey signs session tokens and image tickets; the transition hosts hold the same.
	DataPlaneKey []byte
	// Trust is whom agents have to trust to know this center by its certificate: the activation codes and the answers to heartbeats
	// tell them. Nil: they find out by the authorities that every machine knows, or there is no TLS.
	Trust func() ca.Trust
	// RegionID is the one region of this center.
	RegionID string
	// HostID names this endpoint in error answers. Default: the machine's host name.
	HostID string
	// Quotas of an account (CONTRACT: Jobs: states). Default 1,000 each.
	SourceQuota, JobQuota int
	// RateLimit is how many calls a second each access key may make, RateBurst how many at once (CONTRACT:
	// Throttling.User). A RateLimit of 0 is none.
	RateLimit float64
	RateBurst int
	// BodyTimeout is how long the body of a call may take to come. Default DefaultBodyTimeout.
	BodyTimeout time.Duration
	// Health serves /healthz and /readyz. Without it there is neither.
	Health http.Handler
	// Observe is told of every call once it is answered. It must not block. Optional.
	Observe func(Call)
	Logger  *zap.Logger
}

// API is one of those that an endpoint serves.
type API string

// The APIs of an endpoint.
const (
	APISMC   API = "smc"   // that of the contract
	APIAgent API = "agent" // that of the agents
)

// Call is a call that was answered.
type Call struct {
	API API
	// Operation is what was called; empty when that cannot be told, or when the call was refused before it mattered.
	Operation string
	// Code is smc.OutcomeOK, the code of the error, or CallAbandoned.
	Code string
	Took time.Duration
}

// CallAbandoned is the Code of a call whose caller went away before it was answered, or that the end of the process cut off.
const CallAbandoned = "Abandoned"

// observe tells of a call. operation is one of those that are served: whatever else is asked for has no name here.
func (e *Endpoint) observe(api API, operation string, began time.Time, err error) {
	if e.Observe == nil {
		return
	}
	code := smc.OutcomeOK
	switch {
	case errors.Is(err, context.Canceled):
		code = CallAbandoned
	case err != nil:
		code = smc.AsError(err).Code
	}
	e.Observe(Call{API: api, Operation: operation, Code: code, Took: time.Since(began)})
}

// Engine moves jobs: it is the API's way to the entity workflows.
type Engine interface {
	// Begin starts the entity of a job that is in the store. One that runs already is no error.
	Begin(ctx context.Context, jobID string) error
	// Update asks the entity of a job to move it, and returns once the change is in the store. requestID makes
	// it idempotent. Refusals are *smc.Error.
	Update(ctx context.Context, jobID, update, requestID string, argument any) error
	// WakeDueStart has the start of a job that is due and waits tried now. A job without one is no error.
	WakeDueStart(ctx context.Context, jobID string) error
}

// Endpoint serves the SMC API at / and the agent API below /agent/v1/.
type Endpoint struct {
	Config
	handlers map[string]handler
	throttle *throttle
	forged   *rate.Limiter
	keys     *lru.Cache[string, store.AccessKey]
	jobs     *jobPages
	records  *auditRecords
}

// handler carries out one operation.
type handler func(ctx context.Context, c *call, request any) (smc.Result, error)

// call is one request.
type call struct {
	// key is the access key it names; once verified it is who calls.
	key       store.AccessKey
	verified  bool
	accountID string // of the key
	requestID string
	remote    string // address it came from
	now       time.Time
	// changes are the store's JobChanges of the account, read after the call came; nil: they are not known yet.
	changes *int64
	log     *zap.Logger
	// resources are what it is about, as policies name them; for the audit log.
	resources []string
}

// touched notes for the audit log what the call made.
func (c *call) touched(name string) { c.resources = append([]string{name}, c.resources...) }

// NewEndpoint returns the endpoint of a center.
func NewEndpoint(config Config) *Endpoint {
	if config.HostID == "" {
		config.HostID, _ = os.Hostname()
	}
	if config.SourceQuota == 0 {
		config.SourceQuota = 1000
	}
	if config.JobQuota == 0 {
		config.JobQuota = 1000
	}
	if config.BodyTimeout == 0 {
		config.BodyTimeout = DefaultBodyTimeout
	}
	e := &Endpoint{
		Config: config, handlers: map[string]handler{}, throttle: newThrottle(config.RateLimit, config.RateBurst),
		forged: rate.NewLimiter(forgedPerSecond, forgedBurst), jobs: newJobPages(config.Store),
		records: &auditRecords{store: config.Store, log: config.Logger},
	}
	e.keys, _ = lru.New[string, store.AccessKey](maxKeys) // it fails for sizes below 1
	e.register()
	return e
}

// Close writes what of the audit log is not written yet. It is called when no more calls come, and before the store is
// closed.
func (e *Endpoint) Close() { e.records.flush(context.Background()) }

// maxKeys is how many access keys an endpoint remembers.
const maxKeys = 1024

// nonces keeps signature nonces in the store, so that a replay is refused after a restart and by every replica.
type nonces struct{ store *store.Store }

func (n nonces) Use(ctx context.Context, accessKeyID, nonce string, until time.Time) (bool, error) {
	return n.store.UseNonce(ctx, accessKeyID, nonce, until)
}

// serve registers the handler of a declared operation. What the declaration knows is done before it is called: the
// request is decoded and valid.
func serve[Req, Res any](e *Endpoint, operation *smc.Operation[Req, Res], do func(context.Context, *call, *Req) (*Res, error)) {
	e.handlers[operation.Name()] = func(ctx context.Context, c *call, request any) (smc.Result, error) {
		result, err := do(ctx, c, request.(*Req))
		if err != nil {
			return nil, err
		}
		return any(result).(smc.Result), nil
	}
}

// Handler serves everything of the center's HTTP listener.
func (e *Endpoint) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", e.serveSMC)
	if e.Health != nil {
		mux.Handle("GET /healthz", e.Health)
		mux.Handle("GET /readyz", e.Health)
	}
	e.serveAgents(mux)
	nothing := func(w http.ResponseWriter, r *http.Request) {
		e.refuse(w, smc.FormatJSON, newRequestID(), smc.Errorf(smc.CodeInvalidActionNotFound, "there is nothing at %s: the API is served at /, the agents' at %s", r.URL.Path, agentapi.Prefix))
	}
	mux.HandleFunc("/", nothing)
	return inTime(e.BodyTimeout, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked := r.URL.EscapedPath(); path.Clean(asked) != asked { // the mux would answer with a redirection, a page for people
			nothing(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	}))
}

// serveSMC answers one call of the SMC API.
func (e *Endpoint) serveSMC(w http.ResponseWriter, r *http.Request) {
	c := &call{requestID: newRequestID(), now: time.Now().UTC(), remote: r.RemoteAddr}
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		c.remote = host
	}
	c.log = e.Logger.With(zap.String("request_id", c.requestID))
	request, err := smc.ReadRequest(w, r)
	if err != nil {
		format, _ := smc.ParseFormat(r.URL.Query().Get("Format")) // as far as that could be read
		e.refuse(w, format, c.requestID, err)
		e.observe(APISMC, "", c.now, err)
		return
	}
	format, err := smc.ParseFormat(request.Values.Get("Format"))
	if err != nil {
		e.refuse(w, format, c.requestID, err)
		e.observe(APISMC, "", c.now, err)
		return
	}
	operation, operationErr := request.Operation()
	ctx, cancel := context.WithTimeout(r.Context(), callLimit)
	defer cancel()
	result, err := e.do(ctx, c, request, operation, operationErr)
	err = unanswered(err)
	e.audit(r.Context(), c, operation, err)
	name := ""
	if operation != nil {
		name = operation.Name()
	}
	defer e.observe(APISMC, name, c.now, err)
	c.log = c.log.With(zap.String("action", name), zap.String("account_id", c.accountID), zap.Duration("took", time.Since(c.now)))
	if err != nil {
		logRefused(r.Context(), c.log, "call", err)
		e.refuse(w, format, c.requestID, err)
		return
	}
	c.log.Debug("call answered")
	if err := smc.WriteResult(w, format, name, c.requestID, result); err != nil {
		c.log.Info("answer not delivered", zap.Error(err))
	}
}

// verify finds out who sent a request. Of a key that was used before it is only held to be as it was, which takes no look-up: the
// store confirms it where it records the nonce. What is not right by what is remembered is judged by what the store has.
func (e *Endpoint) verify(ctx context.Context, c *call, request *smc.Request) error {
	c.key.AccessKeyID = request.AccessKeyID()
	if key, ok := e.keys.Get(c.key.AccessKeyID); ok {
		known := knownKey{store: e.Store, key: key}
		verifier := smc.Verifier{Secret: known.secret, Nonces: &known}
		_, err := verifier.Verify(ctx, request)
		if err == nil {
			c.key, c.accountID, c.verified, c.changes = key, key.AccountID, true, &known.changes
			return nil
		}
		if known.err != nil {
			return known.err // the nonce may be recorded: it must not seem to be used by somebody
		}
	}
	verifier := smc.Verifier{
		Secret: func(ctx context.Context, id string) (string, bool, error) {
			key, err := e.Store.AccessKey(ctx, id)
			if errors.Is(err, store.ErrNotFound) {
				return "", false, nil
			}
			if err != nil {
				return "", false, err
			}
			c.key, c.accountID = key, key.AccountID // the record of a call with a wrong signature is the account's to see
			return key.Secret, !key.Disabled, nil
		},
		Nonces: nonces{e.Store},
	}
	if _, err := verifier.Verify(ctx, request); err != nil {
		return err
	}
	c.verified = true
	e.keys.Add(c.key.AccessKeyID, c.key)
	return nil
}

// knownKey is an access key as it was when it was used before.
type knownKey struct {
	store   *store.Store
	key     store.AccessKey
	changes int64
	err     error // of the store
}

func (k *knownKey) secret(context.Context, string) (string, bool, error) {
	return k.key.Secret, true, nil
}

// Use implements smc.Nonces. A nonce that is not fresh may be one of a key that has changed.
func (k *knownKey) Use(ctx context.Context, _, nonce string, until time.Time) (fresh bool, err error) {
	k.changes, fresh, k.err = k.store.UseNonceOf(ctx, k.key, nonce, until)
	return fresh, k.err
}

// do verifies, decodes, validates, authorizes and carries out a call. operation and operationErr are what the request
// names; that is of interest only once it is known to be genuine.
func (e *Endpoint) do(ctx context.Context, c *call, request *smc.Request, operation smc.AnyOperation, operationErr error) (smc.Result, error) {
	if err := e.verify(ctx, c, request); err != nil {
		return nil, err
	}
	if err := e.throttle.admit(c.key.AccessKeyID); err != nil {
		return nil, err
	}
	if operationErr != nil {
		return nil, operationErr
	}
	handle, ok := e.handlers[operation.Name()]
	if !ok {
		return nil, smc.Errorf(smc.CodeUnsupportedFeature, "%s is not served by this center", operation.Name())
	}
	decoded, err := operation.DecodeRequest(request.Values)
	if err != nil {
		return nil, err
	}
	if err := operation.ValidateRequest(decoded, c.now); err != nil {
		return nil, err
	}
	if err := e.authorize(ctx, c, operation.Name(), decoded); err != nil {
		return nil, err
	}
	return handle(ctx, c, decoded)
}

// logRefused logs a call that is answered with an error: as a failure of the center where it is one, and not of a caller who went away.
func logRefused(ctx context.Context, log *zap.Logger, call string, err error) {
	if refusal := smc.AsError(err); refusal.HTTPStatus < http.StatusInternalServerError || ctx.Err() != nil {
		log.Info(call+" refused", zap.String("code", refusal.Code), zap.NamedError("reason", err))
		return
	}
	log.Error(call+" failed", zap.Error(err))
}

func (e *Endpoint) refuse(w http.ResponseWriter, format smc.Format, requestID string, err error) {
	if err := smc.WriteError(w, format, requestID, e.HostID, err); err != nil {
		e.Logger.Info("answer not delivered", zap.String("request_id", requestID), zap.Error(err))
	}
}

func newRequestID() string { return strings.ToUpper(uuid.NewString()) }
