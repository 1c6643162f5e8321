package smc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
)

func TestCodesHaveTheContractsStatus(t *testing.T) {
	other := map[string]int{
		CodeInvalidActionNotFound: 404, CodeInvalidAccessKeyIDNotFound: 404, CodeForbiddenUnauthorized: 403,
		CodeInternalError: 500, CodeInternalServerError: 500, CodeEntityNotExistRole: 403, CodeRealNameAuthenticationError: 403,
		CodeInvalidJobIDNotFound: 404, CodeInvalidSourceIDNotFound: 404, CodeInvalidWorkgroupIDNotFound: 404,
		CodeInvalidAccessTokenIDNotFound: 404, CodeInvalidImageIDNotFound: 404, CodeInvalidInstanceIDNotFound: 404,
		CodeUnsupportedHTTPMethod: 405, CodeInvalidActivationCode: 403, CodeInvalidAgentToken: 401,
		CodeSourceDiskReadError: 500, CodeTransitionHostNoSpace: 500, CodeTransitionHostUnavailable: 500,
		CodeSourceServerFailing: 500, CodeSourceServerDamagedData: 500, CodeReplicationDiverged: 500, CodeTransitionHostStorageError: 500,
		CodeTargetInstanceDiskFailed: 500, CodeTargetInstanceImageUnavailable: 500,
		CodeImageVerificationFailed: 500, CodeFileSystemDamaged: 500, CodeServiceUnavailable: 503, CodeInvalidAnswer: 502,
	}
	for code, info := range codes {
		want := other[code]
		if want == 0 {
			want = http.StatusBadRequest
		}
		if info.status != want {
			t.Errorf("%s: status %d, want %d", code, info.status, want)
		}
		if info.message == "" || info.class == "" {
			t.Errorf("%s has no message or no class", code)
		}
	}
	if got := Errorf("MissingJobId", "x").HTTPStatus; got != http.StatusBadRequest {
		t.Errorf("Missing<Name>: status %d", got)
	}
}

func TestErrorIdentity(t *testing.T) {
	err := fmt.Errorf("starting: %w", Errorf(CodeReplicationJobInvalidStatus, "the job is %s", StatusWaiting))
	if !errors.Is(err, &Error{Code: CodeReplicationJobInvalidStatus}) || errors.Is(err, &Error{Code: CodeInternalError}) {
		t.Error("errors.Is does not go by the code")
	}
	if got := CodeOf(err); got != CodeReplicationJobInvalidStatus {
		t.Errorf("CodeOf: %q", got)
	}
	if got := CodeOf(errors.New("x")); got != "" {
		t.Errorf("CodeOf of another error: %q", got)
	}
	if got, want := AsError(err).Error(), "ReplicationJob.InvalidStatus: the job is Waiting"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	inside := AsError(errors.New("open /secret: permission denied"))
	if inside.Code != CodeInternalError || inside.Message != codes[CodeInternalError].message {
		t.Errorf("an inner error shows: %v", inside)
	}
	if AsError(nil) != nil {
		t.Error("no error became one")
	}
}

func TestClasses(t *testing.T) {
	for _, c := range []struct {
		err  error
		want Class
	}{
		{Errorf(CodeThrottlingUser, ""), Retryable},
		{&Error{Code: "Throttling.Api", HTTPStatus: 400}, Retryable},
		{Errorf(CodeInternalError, ""), Retryable},
		{&Error{Code: "SomethingNew", HTTPStatus: 503}, Retryable},
		{errors.New("connection refused"), Retryable},
		{context.DeadlineExceeded, Retryable},
		{fmt.Errorf("x: %w", context.Canceled), Fatal},
		{Errorf(CodeForbiddenUnauthorized, ""), Operator},
		{&Error{Code: "Forbidden.SubUser", HTTPStatus: 403}, Operator},
		{&Error{Code: "QuotaExceeded.Snapshot", HTTPStatus: 400}, Operator},
		{Errorf(CodeSourceServerStateInvalid, ""), Operator},
		{Errorf(CodeSourceDiskReadError, ""), Operator},
		{Errorf(CodeInvalidParameter, ""), Fatal},
		{Errorf("MissingJobId", ""), Fatal},
		{Errorf(CodeInvalidJobIDNotFound, ""), Fatal},
		{&Error{Code: "InvalidSomething.New", HTTPStatus: 400}, Fatal},
	} {
		if got := ClassOf(c.err); got != c.want {
			t.Errorf("%v: %s, want %s", c.err, got, c.want)
		}
	}
	if got := ClassOfCode(CodeSourceServerOffline); got != Operator {
		t.Errorf("ClassOfCode: %s", got)
	}
}
