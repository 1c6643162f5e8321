package activities

import (
	"context"
	"errors"

	"go.temporal.io/sdk/temporal"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
)

// TypeSuperseded is the type of the application error of an activity whose job was moved by another operation while it
// worked. Nothing is to be done about it: the other operation decides what happens next.
const TypeSuperseded = "Superseded"

// applicationError gives an error the form Temporal carries: its Type is the SMC code (DESIGN: Errors have types).
// Refusals and failures that no retry mends are not retried; everything else is.
func applicationError(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	if errors.Is(err, store.ErrSuperseded) || errors.Is(err, store.ErrFenced) || errors.Is(err, store.ErrSessionClosed) || errors.Is(err, replica.ErrFenced) {
		return temporal.NewApplicationErrorWithOptions(err.Error(), TypeSuperseded, temporal.ApplicationErrorOptions{
			NonRetryable: true, Category: temporal.ApplicationErrorCategoryBenign,
		})
	}
	var smcError *smc.Error
	if errors.As(err, &smcError) {
		return temporal.NewNonRetryableApplicationError(smcError.Message, smcError.Code, nil)
	}
	var failure *replica.Error
	if errors.As(err, &failure) {
		if code, ok := permanent[failure.Code]; ok {
			return temporal.NewNonRetryableApplicationError(failure.Message, code, nil)
		}
		return temporal.NewApplicationErrorWithCause(failure.Message, smc.CodeInternalError, err)
	}
	return temporal.NewApplicationErrorWithCause(err.Error(), smc.CodeInternalError, err)
}

// permanent maps the failures of the data plane that a person has to do something about to the code a job shows.
var permanent = map[string]string{
	replica.CodeInsufficientStorage: smc.CodeTransitionHostNoSpace,
	replica.CodeSourceOffline:       smc.CodeSourceServerOffline,
	replica.CodeSourceReadError:     smc.CodeSourceDiskReadError,
	replica.CodeSourceSizeChanged:   smc.CodeSourceDiskChanged,
	replica.CodeSourceDiskNotFound:  smc.CodeSourceDiskChanged,
	replica.CodeSyncedStateCorrupt:  smc.CodeImageVerificationFailed,
	replica.CodeSyncDiverged:        smc.CodeSourceDiskChanged,
	replica.CodeShrinkUnsupported:   smc.CodeUnsupportedFeature,
	replica.CodeInvalidRequest:      smc.CodeInternalError,
	replica.CodeSyncIncomplete:      smc.CodeInternalError,
}
