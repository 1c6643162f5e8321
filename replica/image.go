package replica

import (
	"context"
	"time"
)

// ImageSpec says which image to make of a job's staging area.
type ImageSpec struct {
	ImageID string
	JobID   string
	Run     int
	// Final says that no later run follows: the staged disks become the image
	// without a copy.
	Final bool
	Disks []ImageDisk
}

// ImageDisk is one disk of an image to make.
type ImageDisk struct {
	Index int
	// DeliveredSizeBytes is the size of the delivered disk; 0 is the size of
	// the source disk. Smaller than the source disk is not supported.
	DeliveredSizeBytes int64
}

// Manifest describes a complete image; its presence is what makes an image.
type Manifest struct {
	Version   int            `json:"version"`
	ImageID   string         `json:"imageId"`
	JobID     string         `json:"jobId"`
	Run       int            `json:"run"`
	CreatedAt time.Time      `json:"createdAt"`
	Verified  bool           `json:"verified"`
	Disks     []ManifestDisk `json:"disks"`
}

// ManifestDisk describes one disk of an image.
type ManifestDisk struct {
	Index              int    `json:"index"`
	SizeBytes          int64  `json:"sizeBytes"`
	DeliveredSizeBytes int64  `json:"deliveredSizeBytes"`
	AllocatedBytes     int64  `json:"allocatedBytes"`
	Root               Hash   `json:"root"`
	PatchHash          Hash   `json:"patchHash"`
	PartitionTable     string `json:"partitionTable"`
}

// MakeImage turns a synced run into an image. It is idempotent.
func (h *Host) MakeImage(ctx context.Context, spec ImageSpec, onProgress func(Progress)) (*Manifest, error) {
	return nil, errNotBuilt
}

// VerifyResult is the outcome of [Host.VerifyImage].
type VerifyResult struct {
	OK    bool               `json:"ok"`
	Disks []VerifyDiskResult `json:"disks"`
}

// VerifyDiskResult is the outcome for one disk.
type VerifyDiskResult struct {
	Index     int    `json:"index"`
	OK        bool   `json:"ok"`
	BadGrains int64  `json:"badGrains"`
	Message   string `json:"message,omitempty"`
}

// VerifyImage reads an image back and compares it with its map and manifest.
func (h *Host) VerifyImage(ctx context.Context, imageID string, onProgress func(Progress)) (*VerifyResult, error) {
	return nil, errNotBuilt
}

// DeleteImage removes an image; one that is not there is no error.
func (h *Host) DeleteImage(ctx context.Context, imageID string) error { return errNotBuilt }

// ReleaseStaging removes the staging area of a job; one that is not there is no error.
func (h *Host) ReleaseStaging(ctx context.Context, jobID string) error { return errNotBuilt }

// Images returns the manifests of all complete images.
func (h *Host) Images() ([]*Manifest, error) { return nil, errNotBuilt }

// Image returns the manifest of one image, or an error matching [ErrImageNotFound].
func (h *Host) Image(imageID string) (*Manifest, error) { return nil, errNotBuilt }

// StagingIDs returns the jobs that have a staging area.
func (h *Host) StagingIDs() ([]string, error) { return nil, errNotBuilt }

// ImageIDs returns every image directory, incomplete ones included.
func (h *Host) ImageIDs() ([]string, error) { return nil, errNotBuilt }
