package events

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// Progress is how far a running job is. It is sent about once a second while a sync runs, and kept
// nowhere: who needs the last known value asks the endpoint.
type Progress struct {
	// AccountID is the account the job belongs to.
	AccountID string `json:"AccountId"`
	// RegionID is its region.
	RegionID string `json:"RegionId"`
	// JobID is the job.
	JobID string `json:"JobId"`
	// SourceID is the source server it replicates.
	SourceID string `json:"SourceId,omitempty"`
	// Run is the number of the run, from 1.
	Run int `json:"Run"`
	// Status is that of the job.
	Status string `json:"Status,omitempty"`
	// BusinessStatus is the phase of the run.
	BusinessStatus string `json:"BusinessStatus,omitempty"`
	// Percent is 0 to 100.
	Percent float64 `json:"Progress"`
	// BytesTotal is what the run has to read: the sizes of the disks.
	BytesTotal int64 `json:"BytesTotal"`
	// BytesRead is how much of it has been read, or found to be a hole.
	BytesRead int64 `json:"BytesRead"`
	// BytesSent is what went over the wire, after compression.
	BytesSent int64 `json:"BytesSent"`
	// BytesPerSecond is the present rate of reading.
	BytesPerSecond float64 `json:"BytesPerSecond"`
	// ETASeconds is the time left, in seconds; 0 = not known.
	ETASeconds float64 `json:"EtaSeconds,omitempty"`
	// Time is when this was so.
	Time time.Time `json:"Time"`
}

// PublishProgress sends p to whoever listens just now. The error says that there is no connection;
// it may be ignored, the next progress makes up for it. So nothing is buffered meanwhile.
func PublishProgress(nc *nats.Conn, p Progress) error {
	if !nc.IsConnected() {
		return fmt.Errorf("publish progress of job %s: %w", p.JobID, nats.ErrDisconnected)
	}
	data, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode progress of job %s: %w", p.JobID, err)
	}
	if err := nc.Publish(ProgressSubject(p.AccountID, p.RegionID, p.JobID), data); err != nil {
		return fmt.Errorf("publish progress of job %s: %w", p.JobID, err)
	}
	return nil
}

// SubscribeProgress calls handler with the progress of the jobs of filter (see [ProgressFilter]), one
// at a time. What cannot be read is left out; a handler that is too slow misses some. The
// subscription survives reconnects and ends with its Unsubscribe method.
func SubscribeProgress(nc *nats.Conn, filter string, handler func(Progress)) (*nats.Subscription, error) {
	sub, err := nc.Subscribe(filter, func(msg *nats.Msg) {
		var p Progress
		if json.Unmarshal(msg.Data, &p) == nil {
			handler(p)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("subscribe to progress on %s: %w", filter, err)
	}
	return sub, nil
}
