package replica

import (
	"context"
	"io"
	"net/http"

	"go.uber.org/zap"
)

// SourceDisk is a disk of the source server.
type SourceDisk struct {
	// Index is the disk's number; 0 is the system disk.
	Index int
	// Path is a file or a block device.
	Path string
}

// SyncConfig is what [Sync] needs.
type SyncConfig struct {
	// HostURL is the transition host's base URL, without the protocol's prefix.
	HostURL string
	// Token is a [TokenSession] token for JobID.
	Token string
	JobID string
	// Instance names this process; two running senders must differ.
	Instance string
	Disks    []SourceDisk
	// Client defaults to one made for the protocol.
	Client *http.Client
	// Logger defaults to none.
	Logger *zap.Logger
	// Streams is how many windows are in flight; default 4, at most 8.
	Streams int
}

// Sync copies the disks to the host and returns nil when the host has
// confirmed that it holds them.
func Sync(ctx context.Context, cfg SyncConfig, onProgress func(Progress)) error { return errNotBuilt }

// Artifacts of an image.
const (
	// ArtifactSynced is the state of the source disk, byte for byte.
	ArtifactSynced = "synced"
	// ArtifactDelivered is the disk as it is delivered: resized, partition table moved.
	ArtifactDelivered = "delivered"
)

// ImageWriter is where [Download] puts a disk; *os.File is one.
type ImageWriter interface {
	io.WriterAt
	Truncate(size int64) error
}

// Download fetches a disk of an image into w as a sparse file.
func Download(ctx context.Context, client *http.Client, baseURL, token, imageID string, disk int, artifact string, w ImageWriter) error {
	return errNotBuilt
}

// DiskInfo describes a disk for registration.
type DiskInfo struct {
	Path string `json:"path"`
	// SizeBytes is the size of the disk.
	SizeBytes int64 `json:"sizeBytes"`
	// UsedBytes is what the disk can hold of data: the allocated part of a
	// file, the whole of a block device.
	UsedBytes int64 `json:"usedBytes"`
	// PartitionTable is "gpt", "mbr" or "".
	PartitionTable string      `json:"partitionTable"`
	Partitions     []Partition `json:"partitions"`
}

// Partition is one partition of a disk.
type Partition struct {
	// Number is the partition's number in its table, from 1.
	Number int `json:"number"`
	// Device is the name the kernel gives the partition of such a disk.
	Device string `json:"device"`
	// OffsetBytes and SizeBytes say where it lies.
	OffsetBytes int64 `json:"offsetBytes"`
	SizeBytes   int64 `json:"sizeBytes"`
	// Type is the partition type: a GUID, or two hexadecimal digits.
	Type string `json:"type"`
	// Name is the GPT name.
	Name string `json:"name,omitempty"`
}

// ProbeDisk describes a file or block device. A disk whose partition table
// cannot be read has none; only a disk that cannot be read is an error.
func ProbeDisk(path string) (DiskInfo, error) { return DiskInfo{}, errNotBuilt }
