package replica

import (
	"errors"
	"fmt"
	"net/http"
)

// Codes of [Error]. Those the contract shows to users are spelt as it spells them.
const (
	// CodeInvalidRequest is a request that no retry will mend.
	CodeInvalidRequest = "InvalidRequest"
	// CodeInvalidFrame is a body that is not a sequence of valid frames.
	CodeInvalidFrame = "InvalidFrame"
	// CodeGrainHashMismatch is a grain that does not have the hash it came with.
	CodeGrainHashMismatch = "GrainHashMismatch"
	// CodeMapMismatch says that sender and host disagree about a disk at completion.
	CodeMapMismatch = "MapMismatch"
	// CodeSessionNotOpen says that no session of the job takes data now.
	CodeSessionNotOpen = "SessionNotOpen"
	// CodeFenced says that another attachment, or a stop, made the epoch stale.
	CodeFenced = "Fenced"
	// CodeUnauthorized says that the bearer token is missing, wrong or expired.
	CodeUnauthorized = "Unauthorized"
	// CodeInsufficientStorage says that the host lacks space.
	CodeInsufficientStorage = "InsufficientStorage"
	// CodeStorageError says that the host could not read or write its store.
	CodeStorageError = "StorageError"
	// CodeSourceReadError says that a disk of the source could not be read.
	CodeSourceReadError = "SourceDisk.ReadError"
	// CodeSourceSizeChanged says that a disk of the source no longer has the size it was staged with.
	CodeSourceSizeChanged = "SourceDisk.SizeChanged"
	// CodeSourceDiskNotFound says that the source does not serve a disk the session wants.
	CodeSourceDiskNotFound = "SourceDisk.NotFound"
	// CodeTargetDiskFailed says that a disk that an image shall be delivered to does not do: it is gone, in use, of another size than the
	// image's, or fails to take or to keep what is written.
	CodeTargetDiskFailed = "TargetInstance.DiskFailed"
	// CodeSyncIncomplete says that an image was asked for of a run that is not synced.
	CodeSyncIncomplete = "SyncIncomplete"
	// CodeSyncedStateCorrupt says that stored bytes do not match their map.
	CodeSyncedStateCorrupt = "SyncedStateCorrupt"
	// CodeSyncDiverged says that source and host did not agree after several passes.
	CodeSyncDiverged = "SyncDiverged"
	// CodeShrinkUnsupported says that an image was asked to be smaller than its source disk.
	CodeShrinkUnsupported = "ShrinkUnsupported"
	// CodeNoRootFileSystem says that the system disk has no root file system to make a container image of.
	CodeNoRootFileSystem = "NoRootFileSystem"
	// CodeFileSystemUnsupported says that files of a container image are in a file system that cannot be read.
	CodeFileSystemUnsupported = "FileSystemUnsupported"
	// CodeFileSystemDamaged says that a file system contradicts itself: it was copied while it changed.
	CodeFileSystemDamaged = "FileSystemDamaged"
	// CodeFileUnsupported says that a file cannot be in a container image.
	CodeFileUnsupported = "FileUnsupported"
	// CodeImageNotFound says that the host has no such image.
	CodeImageNotFound = "ImageNotFound"
	// CodeBusy says that the host takes no more of this now; try again.
	CodeBusy = "Busy"
	// CodeInternal is a failure of the host that is not the caller's.
	CodeInternal = "InternalError"
)

// NoDisk is the Disk of an [Error] that concerns no disk in particular.
const NoDisk = -1

// NoOffset is the Offset of an [Error] of a disk that concerns no place on it,
// where another error of its code would.
const NoOffset = -1

// Errors of the data plane that callers branch on; use [errors.Is].
var (
	// ErrFenced says that another writer, or a stop, has superseded this one.
	ErrFenced = errors.New("fenced: another attachment or a stop has superseded this session")
	// ErrSessionClosed says that the job is not syncing that run.
	ErrSessionClosed = errors.New("the job has no open sync session")
	// ErrRefused says that the host does not accept the token.
	ErrRefused = errors.New("the transition host refused the token")
	// ErrImageNotFound says that the host has no such image.
	ErrImageNotFound = errors.New("no such image on this host")
)

// Error is a failure of the data plane with a stable code.
type Error struct {
	// Code is one of the Code constants.
	Code string `json:"Code"`
	// Message says what happened, to what, and what to do.
	Message string `json:"Message"`
	// Disk is the index of the disk concerned, or NoDisk.
	Disk int `json:"Disk"`
	// Offset is the byte offset on the disk, when Code is about a place on it.
	Offset int64 `json:"Offset,omitempty"`

	err error
}

// Error returns the code and the message.
func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.err }

// Is makes the sentinel errors match the codes they travel as.
func (e *Error) Is(target error) bool {
	switch target {
	case ErrFenced:
		return e.Code == CodeFenced
	case ErrSessionClosed:
		return e.Code == CodeSessionNotOpen
	case ErrRefused:
		return e.Code == CodeUnauthorized
	case ErrImageNotFound:
		return e.Code == CodeImageNotFound
	}
	return false
}

func newError(code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), Disk: NoDisk, err: errors.Unwrap(err)}
}

func diskError(code string, disk int, offset int64, format string, args ...any) *Error {
	e := newError(code, format, args...)
	e.Disk, e.Offset = disk, offset
	return e
}

// status is the HTTP status an error travels with.
func (e *Error) status() int {
	switch e.Code {
	case CodeInvalidRequest, CodeInvalidFrame:
		return http.StatusBadRequest
	case CodeGrainHashMismatch:
		return http.StatusUnprocessableEntity
	case CodeSessionNotOpen, CodeImageNotFound:
		return http.StatusNotFound
	case CodeFenced, CodeMapMismatch:
		return http.StatusConflict
	case CodeUnauthorized:
		return http.StatusUnauthorized
	case CodeInsufficientStorage:
		return http.StatusInsufficientStorage
	case CodeBusy:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}
