package activities

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
	"go.uber.org/zap"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
)

// attempt does a phase once. What fails and may pass is recorded as the job's trouble and tried again, until the time of its
// code is over (docs/errors.md).
func (a *Replication) attempt(ctx context.Context, in PhaseInput, do func(context.Context, *store.Job, *store.Source) error) error {
	ctx, stop := keepAlive(ctx)
	defer stop()
	job, source, err := a.load(ctx, in)
	if err == nil && activity.GetInfo(ctx).Attempt > 1 {
		err = a.takeUp(ctx, in, job)
	}
	if err == nil {
		err = do(ctx, job, source)
	}
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause // ended from outside: that is the reason
	}
	if superseded(err) || errors.Is(err, context.Canceled) || errors.Is(err, errWorkerStopping) {
		return applicationError(err)
	}
	if errors.Is(err, replica.ErrSessionReplaced) {
		// An attempt that hung with its host has come to itself and got in between; it is told to end.
		return temporal.NewApplicationErrorWithOptions(err.Error(), smc.CodeInternalError, temporal.ApplicationErrorOptions{Cause: err, NextRetryDelay: firstRetry})
	}
	f := failureOf(err, source)
	if f.retryFor == 0 {
		return temporal.NewNonRetryableApplicationError(f.info, f.code, err)
	}
	return a.tryAgain(ctx, in, f, err)
}

// takeUp begins an attempt after one that ended. One that could not tell why died with its host: should that happen again and
// again without progress, the run ends.
func (a *Replication) takeUp(ctx context.Context, in PhaseInput, job *store.Job) error {
	trouble, told, err := a.Store.Trouble(ctx, job)
	if err != nil {
		return err
	}
	if told && trouble.Code != smc.CodeTransitionHostUnavailable {
		return nil
	}
	trouble, err = a.Store.NoteTrouble(ctx, in.JobID, in.Run, smc.CodeTransitionHostUnavailable,
		fmt.Sprintf("transition host %s, or its worker, went down in the middle of the work; it is back and the run goes on", job.HostID))
	if err != nil {
		return err
	}
	if limit := smc.RetryFor(trouble.Code); time.Since(trouble.Since) >= limit {
		return smc.Errorf(trouble.Code, "transition host %s went down in the middle of the work again and again since %s, without progress: look at its log, then start the job",
			job.HostID, smc.FormatTime(trouble.Since))
	}
	return nil
}

// tryAgain records a failure that may pass and asks for another attempt, or gives up when that has lasted too long.
func (a *Replication) tryAgain(ctx context.Context, in PhaseInput, f failure, cause error) error {
	trouble, err := a.Store.NoteTrouble(ctx, in.JobID, in.Run, f.code, f.info)
	if superseded(err) {
		return applicationError(err)
	}
	log := a.Logger.With(zap.String("job_id", in.JobID), zap.Int("run", in.Run), zap.String("code", f.code))
	if err != nil {
		// Nobody can be told while the database is away, and nothing be decided: the run waits for it.
		log.Warn("phase failed, and that could not be recorded; trying again", zap.Error(cause), zap.NamedError("record", err))
		return temporal.NewApplicationErrorWithCause(f.info, f.code, cause)
	}
	lasted := time.Since(trouble.Since)
	if lasted >= f.retryFor {
		return temporal.NewNonRetryableApplicationError(fmt.Sprintf("%s (tried again since %s)", f.info, smc.FormatTime(trouble.Since)), f.code, cause)
	}
	log.Warn("phase failed, trying again", zap.Error(cause), zap.Time("since", trouble.Since), zap.Duration("limit", f.retryFor))
	return temporal.NewApplicationErrorWithOptions(f.info, f.code, temporal.ApplicationErrorOptions{
		Cause: cause, NextRetryDelay: min(max(lasted, firstRetry), lastRetry),
	})
}

// A phase that failed is tried again after as long as it has failed so far, within these bounds.
const (
	firstRetry = time.Second
	lastRetry  = time.Minute
)

const (
	// sourceQuiet is how long a source may be silent before a run says that it waits for it. An agent is heard every second while
	// it reads.
	sourceQuiet = 20 * time.Second
	// silenceCheck is how often a run that waits looks at its source.
	silenceCheck = 5 * time.Second
)

// syncWatch follows a session from second to second: whether it gets on, and whether its source is there.
type syncWatch struct {
	a       *Replication
	in      PhaseInput
	job     *store.Job
	source  *store.Source
	session *replica.Session
	fail    context.CancelCauseFunc

	moves    int64
	troubled bool // a trouble may be recorded
	silent   bool
	since    time.Time // when the silence began; for as long as it lasts
	noted    string    // code of the silence recorded last
	looked   time.Time // when the silence was looked at last
}

// look is called about once a second.
func (w *syncWatch) look(ctx context.Context, now time.Time) {
	quiet := now.Sub(w.session.Heard())
	switch moves := w.session.Moves(); {
	case quiet >= w.a.sourceQuiet():
		if !w.silent || now.Sub(w.looked) >= silenceCheck {
			w.looked = now
			w.wait(ctx, now)
		}
		return
	case moves != w.moves || w.silent:
		w.moves = moves
		if w.troubled {
			if err := w.a.Store.ClearTroubles(ctx, w.in.JobID, w.in.Run); err != nil {
				w.a.Logger.Warn("progress not recorded", zap.String("job_id", w.in.JobID), zap.Error(err))
				return // the next second
			}
		}
		if w.silent {
			w.a.Logger.Info("the source server is back", zap.String("job_id", w.in.JobID), zap.String("source_id", w.job.SourceID), zap.Duration("silent", now.Sub(w.since)))
		}
		w.troubled, w.silent, w.noted, w.since = false, false, "", time.Time{}
	}
}

// wait says that the run waits for its source, and ends the session when that has lasted too long.
func (w *syncWatch) wait(ctx context.Context, now time.Time) {
	heard := w.session.Heard()
	source, err := w.a.Store.Source(ctx, w.job.AccountID, w.job.SourceID)
	if err == nil {
		w.source = source
	}
	// Who reports to the center and not to this host is there, but does not get here.
	code, what := smc.CodeSourceServerOffline, fmt.Sprintf("source server %s has not been heard of since %s", w.source.Name, smc.FormatTime(heard))
	todo := "start its agent, or mend its way to the center and the transition host"
	if w.source.State != smc.SourceUnavailable && w.source.HeartbeatAt.After(heard.Add(w.a.sourceQuiet())) {
		code, what = smc.CodeSourceServerUnreachable, fmt.Sprintf("the agent of source server %s reports to the center but has not reached the transition host at %s since %s",
			w.source.Name, w.a.urlFor(w.job), smc.FormatTime(heard))
		todo = "open its way there; its log says what fails"
	}
	limit := w.a.SourceWait
	if limit <= 0 {
		limit = smc.DefaultSourceWait
	}
	w.silent, w.troubled = true, true
	if code != w.noted {
		trouble, err := w.a.Store.NoteTrouble(ctx, w.in.JobID, w.in.Run, code, fmt.Sprintf("%s; the run waits for it for %s: %s", what, limit, todo))
		if err != nil {
			if ctx.Err() == nil {
				w.a.Logger.Warn("a silent source not recorded", zap.String("job_id", w.in.JobID), zap.String("source_id", w.job.SourceID), zap.Error(err))
			}
			return
		}
		w.noted = code
		// An earlier attempt, before this host was restarted, may have begun to wait.
		if w.since.IsZero() || trouble.Since.Before(w.since) {
			w.since = trouble.Since
		}
		w.a.Logger.Warn("waiting for the source server", zap.String("job_id", w.in.JobID), zap.Int("run", w.in.Run), zap.String("source_id", w.job.SourceID),
			zap.String("code", code), zap.Time("heard", heard), zap.Duration("limit", limit))
	}
	if now.Sub(w.since) >= limit {
		w.fail(smc.Errorf(code, "%s, and the run has waited %s for it: %s, then start the job", what, limit, todo))
	}
}

func (a *Replication) sourceQuiet() time.Duration {
	if a.SourceQuiet > 0 {
		return a.SourceQuiet
	}
	return sourceQuiet
}
