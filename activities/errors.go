package activities

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/temporal"
	"golang.org/x/sys/unix"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
)

// TypeSuperseded is the type of the application error of an activity whose job was moved by another operation while it
// worked. Nothing is to be done about it: the other operation decides what happens next.
const TypeSuperseded = "Superseded"

// applicationError gives an error the form Temporal carries: its Type is the SMC code (DESIGN: Errors have types). A
// refusal is not retried; everything else is, until the database answers.
func applicationError(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	if superseded(err) {
		return temporal.NewApplicationErrorWithOptions(err.Error(), TypeSuperseded, temporal.ApplicationErrorOptions{
			NonRetryable: true, Category: temporal.ApplicationErrorCategoryBenign,
		})
	}
	var smcError *smc.Error
	if errors.As(err, &smcError) {
		return temporal.NewNonRetryableApplicationError(smcError.Message, smcError.Code, nil)
	}
	return temporal.NewApplicationErrorWithCause(err.Error(), smc.CodeInternalError, err)
}

// superseded says whether an error means that another operation moved the job.
func superseded(err error) bool {
	return errors.Is(err, store.ErrSuperseded) || errors.Is(err, store.ErrFenced) || errors.Is(err, store.ErrSessionClosed) || errors.Is(err, replica.ErrFenced)
}

// failure is why an attempt of a phase failed, in the terms of docs/errors.md.
type failure struct {
	code string
	info string
	// retryFor is for how long the phase is tried again; 0: the job is InError at once.
	retryFor time.Duration
}

// failureOf judges the failure of a phase. The source server, which may be nil, tells where on its disks a place lies.
func failureOf(err error, source *store.Source) failure {
	var refusal *smc.Error
	if errors.As(err, &refusal) {
		return failure{code: refusal.Code, info: refusal.Message}
	}
	var left *undelivered
	if errors.As(err, &left) {
		return failure{left.code, left.info, smc.RetryFor(left.code)}
	}
	var failed *replica.Error
	if !errors.As(err, &failed) {
		return failure{smc.CodeInternalError, err.Error(), smc.RetryFor(smc.CodeInternalError)}
	}
	code, known := codeOf[failed.Code]
	if !known {
		code = smc.CodeSourceServerFailing // the host knows its own: it came from an agent
	}
	f := failure{code: code, info: failed.Message, retryFor: smc.RetryFor(code)}
	switch code {
	case smc.CodeTransitionHostStorageError:
		for _, lasting := range []error{unix.EROFS, unix.EACCES, unix.EPERM, unix.ENOTDIR, unix.EFBIG} {
			if errors.Is(failed, lasting) {
				f.retryFor = 0
			}
		}
	case smc.CodeSourceServerFailing:
		f.info = fmt.Sprintf("the agent of the source server reports: %s (%s)", failed.Message, failed.Code)
	}
	if place := placeOf(source, failed); place != "" {
		f.info = place + ": " + f.info
	}
	return f
}

// codeOf maps the codes of the data plane to those a job shows.
var codeOf = map[string]string{
	replica.CodeInsufficientStorage:   smc.CodeTransitionHostNoSpace,
	replica.CodeStorageError:          smc.CodeTransitionHostStorageError,
	replica.CodeSourceReadError:       smc.CodeSourceDiskReadError,
	replica.CodeSourceSizeChanged:     smc.CodeSourceDiskChanged,
	replica.CodeSourceDiskNotFound:    smc.CodeSourceDiskChanged,
	replica.CodeSyncDiverged:          smc.CodeReplicationDiverged,
	replica.CodeSyncedStateCorrupt:    smc.CodeImageVerificationFailed,
	replica.CodeSyncIncomplete:        smc.CodeImageVerificationFailed,
	replica.CodeShrinkUnsupported:     smc.CodeUnsupportedFeature,
	replica.CodeNoRootFileSystem:      smc.CodeRootFileSystemNotFound,
	replica.CodeFileSystemUnsupported: smc.CodeFileSystemUnsupported,
	replica.CodeFileSystemDamaged:     smc.CodeFileSystemDamaged,
	replica.CodeFileUnsupported:       smc.CodeFileSystemFileUnsupported,
	replica.CodeTargetDiskFailed:      smc.CodeTargetInstanceDiskFailed,
	replica.CodeGrainHashMismatch:     smc.CodeSourceServerDamagedData,
	replica.CodeInvalidFrame:          smc.CodeSourceServerDamagedData,
	replica.CodeInvalidRequest:        smc.CodeInternalError,
	replica.CodeInternal:              smc.CodeInternalError,
	replica.CodeBusy:                  smc.CodeInternalError,
	replica.CodeSessionNotOpen:        smc.CodeInternalError,
	replica.CodeMapMismatch:           smc.CodeInternalError,
	replica.CodeUnauthorized:          smc.CodeInternalError,
	replica.CodeImageNotFound:         smc.CodeInternalError,
}

// placeOf says in the source server's terms where a failure happened: its disk, and the partition that holds the offset.
func placeOf(source *store.Source, failed *replica.Error) string {
	if source == nil || failed.Disk == replica.NoDisk {
		return ""
	}
	for _, disk := range source.Server.Disks {
		if disk.Index != failed.Disk {
			continue
		}
		place := fmt.Sprintf("source server %s, disk %d (%s)", source.Name, disk.Index, disk.Path)
		if failed.Code != replica.CodeSourceReadError && failed.Code != replica.CodeSyncedStateCorrupt || failed.Offset < 0 {
			return place
		}
		return place + ", " + partOf(disk, failed.Offset)
	}
	return ""
}

// partOf says in which partition an offset of a disk lies.
func partOf(disk agentapi.Disk, offset int64) string {
	told := false
	for _, part := range disk.Parts {
		told = told || part.OffsetBytes > 0
		if part.OffsetBytes == 0 || offset < part.OffsetBytes || offset >= part.OffsetBytes+part.SizeBytes {
			continue
		}
		name := "partition " + part.Device
		if part.Path != "" {
			name += " (" + part.Path + ")"
		}
		return fmt.Sprintf("%s, byte %d of it", name, offset-part.OffsetBytes)
	}
	if told {
		return fmt.Sprintf("byte %d, outside of its partitions", offset)
	}
	return fmt.Sprintf("byte %d", offset)
}
