package center

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode"

	"go.uber.org/zap"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/center/ca"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
)

// workPoll is how often a waiting request for work looks at the store although nothing told it to.
const workPoll = 15 * time.Second

// sessionTokenLife is how long a session token is good for. The epoch of its session is what ends it in fact.
const sessionTokenLife = 90 * 24 * time.Hour

// serveAgents registers the agent API and that of target instances. A token of one of them reaches nothing else.
func (e *Endpoint) serveAgents(mux *http.ServeMux) {
	mux.HandleFunc("POST "+agentapi.PathRegister, e.agentCall("register", e.registerAgent))
	mux.HandleFunc("POST "+agentapi.PathHeartbeat, e.agentCall("heartbeat", e.authenticated(e.heartbeat)))
	mux.HandleFunc("GET "+agentapi.PathWork, e.agentCall("work", e.authenticated(e.work)))
	e.serveTargets(mux)
}

// agentCall answers with JSON, or with the error body of the SMC API.
func (e *Endpoint) agentCall(operation string, do func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		requestID, began := newRequestID(), time.Now()
		r.Body = http.MaxBytesReader(w, r.Body, agentapi.MaxBodyBytes)
		r, done := agentLimit(r)
		defer done()
		answer, err := do(r)
		err = unanswered(err)
		e.observe(APIAgent, operation, began, err)
		if err != nil {
			logRefused(r.Context(), e.Logger.With(zap.String("request_id", requestID), zap.String("path", r.URL.Path)), "agent's call", err)
			e.refuse(w, smc.FormatJSON, requestID, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			e.Logger.Info("answer not delivered to agent", zap.String("request_id", requestID), zap.Error(err))
		}
	}
}

// authenticated finds the source server whose agent calls.
func (e *Endpoint) authenticated(do func(*http.Request, *store.Source) (any, error)) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		return byToken(r, "source server", e.Store.SourceByToken, do)
	}
}

// byToken finds by its token who calls: a source server or a target instance, by kind.
func byToken[T any](r *http.Request, kind string, find func(context.Context, string) (T, error), do func(*http.Request, T) (any, error)) (any, error) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return nil, smc.Errorf(smc.CodeInvalidAgentToken, "the call carries no agent token: register with an activation code first")
	}
	var answer any
	caller, err := find(r.Context(), token)
	if err == nil {
		answer, err = do(r, caller)
	}
	if errors.Is(err, store.ErrNotFound) { // also when it is deleted while its agent calls
		return nil, smc.Errorf(smc.CodeInvalidAgentToken, "the agent token is not known to this center: its %s was deleted, belongs to another center, or came after the backup that this center was restored from; register it again with an activation code", kind)
	}
	return answer, err
}

func readJSON(r *http.Request, into any) error {
	if err := json.NewDecoder(r.Body).Decode(into); err != nil {
		return smc.Errorf(smc.CodeInvalidParameter, "the body is not the JSON this call takes: %v", err)
	}
	_, _ = io.Copy(io.Discard, r.Body) // to its end, which stops its clock
	return nil
}

func (e *Endpoint) registerAgent(r *http.Request) (any, error) {
	var request agentapi.RegisterRequest
	if err := readJSON(r, &request); err != nil {
		return nil, err
	}
	secret, err := checkRegistration(request.Code, request.Name, request.Instance)
	if err != nil {
		return nil, err
	}
	if err := checkServer(request.Server); err != nil {
		return nil, err
	}
	token := newSecret()
	source, err := e.Store.RegisterSource(r.Context(), secret, token, request.Instance, request.Name, request.Server, e.SourceQuota)
	if err != nil {
		return nil, err
	}
	e.Logger.Info("source server registered", zap.String("source_id", source.SourceID), zap.String("name", source.Name), zap.String("account_id", source.AccountID))
	return agentapi.RegisterResponse{SourceID: source.SourceID, Token: token, HeartbeatRateSeconds: int(smc.HeartbeatRate / time.Second)}, nil
}

// checkRegistration refuses what nothing can be registered with, and returns the secret of the activation code.
func checkRegistration(code, name, instance string) (secret string, err error) {
	if err := smc.CheckName("name", name); err != nil {
		return "", err
	}
	if err := checkInstance(instance); err != nil {
		return "", err
	}
	secret, _, err = agentapi.ParseCode(code)
	if err != nil {
		return "", smc.Errorf(smc.CodeInvalidActivationCode, "%v", err)
	}
	return secret, nil
}

// checkInstance refuses what is no id of an agent process.
func checkInstance(instance string) error {
	switch {
	case instance == "":
		return smc.Errorf(smc.CodeInvalidParameter, "instance is missing: every agent process has one")
	case len(instance) > agentapi.MaxInstanceBytes || strings.ContainsFunc(instance, unicode.IsControl):
		return smc.Errorf(smc.CodeInvalidParameter, "instance is longer than %d bytes, or has control characters: it is the id of an agent process", agentapi.MaxInstanceBytes)
	}
	return nil
}

// checkServer refuses a description that no job could be made of.
func checkServer(server agentapi.Server) error {
	if len(server.Disks) == 0 || len(server.Disks) > smc.MaxDataDisks+1 {
		return smc.Errorf(smc.CodeInvalidParameter, "a source server has a system disk and at most %d data disks, not %d disks", smc.MaxDataDisks, len(server.Disks))
	}
	for i, disk := range server.Disks {
		if disk.Index != i || disk.SizeBytes <= 0 {
			return smc.Errorf(smc.CodeInvalidParameter, "disk %d of the description has the index %d and %d bytes: indexes count from 0 and no disk is empty", i, disk.Index, disk.SizeBytes)
		}
	}
	return checkSystemInfo(server.SystemInfo)
}

func checkSystemInfo(info json.RawMessage) error {
	if len(info) > agentapi.MaxSystemInfoBytes {
		return smc.Errorf(smc.CodeInvalidParameter, "systemInfo is longer than %d bytes", agentapi.MaxSystemInfoBytes)
	}
	return nil
}

func (e *Endpoint) heartbeat(r *http.Request, source *store.Source) (any, error) {
	var request agentapi.HeartbeatRequest
	if err := readJSON(r, &request); err != nil {
		return nil, err
	}
	if err := checkServer(request.Server); err != nil {
		return nil, err
	}
	if err := e.Store.Heartbeat(r.Context(), source.SourceID, request.Server); err != nil {
		return nil, err
	}
	if !request.Time.IsZero() {
		if err := e.Store.NoteAgentClock(r.Context(), source.SourceID, time.Until(request.Time)); err != nil {
			return nil, err
		}
	}
	return e.heard(), nil
}

// heard answers a heartbeat.
func (e *Endpoint) heard() agentapi.HeartbeatResponse {
	response := agentapi.HeartbeatResponse{HeartbeatRateSeconds: int(smc.HeartbeatRate / time.Second)}
	if e.Trust != nil {
		response.CACertificates = ca.EncodeCertificates(e.Trust().Authorities...)
	}
	return response
}

// work answers as soon as the agent should be doing something else than it knows of, or when its wait is over.
func (e *Endpoint) work(r *http.Request, source *store.Source) (any, error) {
	query, err := agentapi.ParseWorkQuery(r.URL.Query())
	if err != nil {
		return nil, smc.Errorf(smc.CodeInvalidParameter, "%v", err)
	}
	return await(r.Context(), e.Store, source.SourceID, query.Wait, func(ctx context.Context) (any, bool, error) {
		work, err := e.Store.Work(ctx, source.SourceID)
		return e.desired(work), work.Generation != query.Have, err
	})
}

// await looks at what an agent should be doing whenever that changes, until there is news or its wait is over.
func await(ctx context.Context, record *store.Store, id string, wait time.Duration, look func(context.Context) (answer any, news bool, err error)) (any, error) {
	over := time.NewTimer(wait)
	defer over.Stop()
	poll := time.NewTicker(workPoll)
	defer poll.Stop()
	for {
		changed, done := record.WorkChanged(id)
		answer, news, err := look(ctx)
		if err != nil || news {
			done()
			return answer, err
		}
		select {
		case <-changed:
			done()
		case <-poll.C:
			done()
		case <-over.C:
			done()
			return answer, nil
		case <-ctx.Done():
			done()
			return nil, ctx.Err()
		}
	}
}

func (e *Endpoint) desired(work store.Work) agentapi.Desired {
	desired := agentapi.Desired{Generation: work.Generation}
	if work.JobID != "" {
		desired.Work = &agentapi.Work{
			JobID: work.JobID, Run: work.Run, HostURL: work.HostURL, Parameters: work.Parameters,
			Token: replica.SignToken(e.DataPlaneKey, replica.TokenSession, work.JobID, time.Now().Add(sessionTokenLife)),
		}
	}
	return desired
}
