package agentapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// Paths of the target API: what `drover-agent target` speaks on a machine whose disks take delivered images. A token of a
// target instance opens nothing but these paths, a token of a source server none of them.
const (
	PathRegisterTarget  = Prefix + "/target/register"  // POST RegisterTargetRequest -> RegisterTargetResponse
	PathTargetHeartbeat = Prefix + "/target/heartbeat" // POST TargetHeartbeatRequest -> HeartbeatResponse
	PathTargetWork      = Prefix + "/target/work"      // GET WorkQuery -> DesiredDelivery
	PathDelivery        = Prefix + "/target/delivery"  // POST DeliveryReport -> DeliveryAnswer
)

// MaxDeliveryMessageBytes bounds DeliveryReport.Message.
const MaxDeliveryMessageBytes = 1 << 10

// RegisterTargetRequest makes the machine a target instance of the account that issued the activation code. It is repeated with
// the same Instance until its answer is on the machine's disk, as RegisterRequest is: the center answers a repeated Instance
// with the target instance it made for it and a new token.
type RegisterTargetRequest struct {
	Code     string `json:"code"`     // activation code, without the fingerprint (see ParseCode)
	Name     string `json:"name"`     // name of the target instance, 2-128 characters
	Instance string `json:"instance"` // id of the process that registered first
	Target   Target `json:"target"`
}

// RegisterTargetResponse is what the target keeps in its state directory.
type RegisterTargetResponse struct {
	InstanceID           string `json:"instanceId"`
	Token                string `json:"token"`                // bearer token of all later calls; shown this once
	HeartbeatRateSeconds int    `json:"heartbeatRateSeconds"` // 0 means DefaultHeartbeatRate
}

// TargetHeartbeatRequest says that the target lives and what its machine looks like now.
type TargetHeartbeatRequest struct {
	Instance string    `json:"instance"` // id of the process, fresh at every start
	Target   Target    `json:"target"`
	Time     time.Time `json:"time,omitzero"` // by the clock of the target's machine
}

// Target describes a target instance.
type Target struct {
	Hostname     string          `json:"hostname"`
	Platform     string          `json:"platform"`     // distribution, such as "Ubuntu"
	Architecture string          `json:"architecture"` // as the kernel names it: x86_64, aarch64
	AgentVersion string          `json:"agentVersion"`
	SystemInfo   json.RawMessage `json:"systemInfo,omitempty"` // a SystemInfo, at most MaxSystemInfoBytes
	Disks        []TargetDisk    `json:"disks"`                // by Index, the one that takes the system disk first
}

// TargetDisk describes one disk that deliveries may overwrite.
type TargetDisk struct {
	Index     int    `json:"index"`     // of the source's disk that it takes: 0 is the system disk
	Path      string `json:"path"`      // device or file on the target's machine
	SizeBytes int64  `json:"sizeBytes"` // 0 while it cannot be opened
	// HoldsData is true while a delivery would be refused: the disk holds something that no delivery to this target instance put
	// there, and the target was not started with leave to overwrite it.
	HoldsData bool `json:"holdsData"`
}

// DesiredDelivery is the state the center wants a target instance in. The target reconciles towards it: it starts a delivery,
// goes on with the one it makes, or ends it.
type DesiredDelivery struct {
	// Generation is at least 1. It changes, and never repeats for this target instance, whenever Delivery appears, changes or
	// goes, and whenever a delivery that failed shall be tried again: the target serves a generation once.
	// A query with Have 0 (a target that has just started) is answered at once.
	Generation int64     `json:"generation"`
	Delivery   *Delivery `json:"delivery"` // null: nothing to do
}

// Delivery is an image that shall be on the disks of a target instance.
type Delivery struct {
	JobID   string `json:"jobId"`
	Run     int    `json:"run"` // number of the job's run, from 1
	ImageID string `json:"imageId"`
	HostURL string `json:"hostUrl"` // base URL of the transition host that has the image
	Token   string `json:"token"`   // ticket for this image at that host
	// BandwidthLimit is in kbit/s, 0 for none.
	BandwidthLimit int64          `json:"bandwidthLimit"`
	Disks          []DeliveryDisk `json:"disks"` // every disk of the image
}

// DeliveryDisk is one disk of a delivered image.
type DeliveryDisk struct {
	Index     int   `json:"index"`
	SizeBytes int64 `json:"sizeBytes"` // of the artefact; the target's disk is as large
}

// DeliveryState says how far a delivery is.
type DeliveryState string

// States of a delivery.
const (
	DeliveryDelivering DeliveryState = "Delivering"
	// DeliveryDone is sent once every disk is written, synced, and read back equal to the image.
	DeliveryDone DeliveryState = "Done"
	// DeliveryFailed is sent when the target cannot go on by itself; DeliveryReport.Code says why. It goes on with a new generation.
	DeliveryFailed DeliveryState = "Failed"
)

// Values of DeliveryReport.Code.
const (
	// DeliveryCodeDisk is a disk of the target that does not do: gone, in use, smaller than before, holding data that nobody
	// gave leave to overwrite, or failing to take or to keep what is written.
	DeliveryCodeDisk = "TargetInstance.DiskFailed"
	// DeliveryCodeImage is an image that the transition host does not have, does not give or cannot read.
	DeliveryCodeImage = "TargetInstance.ImageUnavailable"
)

// DeliveryReport tells how far a delivery is. A target sends one at its start, every few seconds while it lasts, and one at its end,
// which it repeats until it has an answer.
type DeliveryReport struct {
	Instance   string        `json:"instance"` // id of the process
	Generation int64         `json:"generation"`
	JobID      string        `json:"jobId"`
	Run        int           `json:"run"`
	State      DeliveryState `json:"state"`
	// BytesTotal is the size of the delivery's disks.
	BytesTotal int64 `json:"bytesTotal"`
	// BytesDone is what of them was read back and is what the image has. It never goes back within one generation of one process, and
	// is BytesTotal when State is DeliveryDone.
	BytesDone int64 `json:"bytesDone"`
	// BytesFetched is what differed and came over the network, as it lies on the disk (before compression).
	BytesFetched int64  `json:"bytesFetched"`
	Code         string `json:"code,omitempty"`    // of a failure: DeliveryCodeDisk or DeliveryCodeImage
	Message      string `json:"message,omitempty"` // of a failure: what happened, to which disk; at most MaxDeliveryMessageBytes
	// Disks are what the target read back, when State is DeliveryDone.
	Disks []DeliveredDisk `json:"disks,omitempty"`
}

// DeliveredDisk is a disk that holds an artefact of an image.
type DeliveredDisk struct {
	Index int    `json:"index"`
	Root  string `json:"root"` // hash over the hashes of its grains, in hexadecimal: replica.Host.ArtifactRoot of the image
}

// DeliveryAnswer answers a DeliveryReport.
type DeliveryAnswer struct {
	// Superseded tells the target to end the delivery: its generation is no longer the one the center wants.
	Superseded bool `json:"superseded"`
}

// RegisterTarget registers the machine with an activation code. A code the center does not take gives an *smc.Error with Code
// CodeInvalidActivationCode.
func (c *Client) RegisterTarget(ctx context.Context, req RegisterTargetRequest) (RegisterTargetResponse, error) {
	var resp RegisterTargetResponse
	if err := c.call(ctx, http.MethodPost, PathRegisterTarget, nil, req, &resp, answerMargin); err != nil {
		return RegisterTargetResponse{}, err
	}
	if resp.InstanceID == "" || resp.Token == "" {
		return RegisterTargetResponse{}, fmt.Errorf("register at %s: the answer names no target instance or no token; is this a Drover center?", c.base)
	}
	return resp, nil
}

// TargetHeartbeat reports that the target lives.
func (c *Client) TargetHeartbeat(ctx context.Context, req TargetHeartbeatRequest) (HeartbeatResponse, error) {
	var resp HeartbeatResponse
	err := c.call(ctx, http.MethodPost, PathTargetHeartbeat, nil, req, &resp, answerMargin)
	return resp, err
}

// TargetWork returns the state the center wants the target instance in: at once when its generation is not q.Have, else when it
// changes or after q.Wait, whichever comes first.
func (c *Client) TargetWork(ctx context.Context, q WorkQuery) (DesiredDelivery, error) {
	var desired DesiredDelivery
	if err := c.call(ctx, http.MethodGet, PathTargetWork, q.values(), nil, &desired, q.Wait+answerMargin); err != nil {
		return DesiredDelivery{}, err
	}
	return desired, c.checkGeneration(desired.Generation)
}

// Deliver reports how far a delivery is.
func (c *Client) Deliver(ctx context.Context, report DeliveryReport) (DeliveryAnswer, error) {
	var answer DeliveryAnswer
	err := c.call(ctx, http.MethodPost, PathDelivery, nil, report, &answer, answerMargin)
	return answer, err
}
