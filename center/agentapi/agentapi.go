// Package agentapi is the API between an agent on a source server and the center: its paths, its
// messages and the client the agent uses. The center serves the same types.
//
// All bodies are JSON. Register authenticates by an activation code in its body; every later call by
// the agent token the registration returned, sent as `Authorization: Bearer <token>`. An agent token
// opens nothing but these paths. Refusals carry the error body of the SMC endpoint
// ({"RequestId","HostId","Code","Message"}).
//
// Nothing in this API names Temporal, NATS or the store: a source server sees the center and the
// transition host it is told of, and it only dials out (decision 11 of the design).
package agentapi

import (
	"encoding/json"
	"time"

	"github.com/drover/drover/smc"
)

// Paths of the agent API, relative to the center's endpoint. Prefix is the part all of them share.
const (
	Prefix        = "/agent/v1"
	PathRegister  = Prefix + "/register"  // POST RegisterRequest -> RegisterResponse
	PathHeartbeat = Prefix + "/heartbeat" // POST HeartbeatRequest -> HeartbeatResponse
	PathWork      = Prefix + "/work"      // GET WorkQuery -> Desired
)

// Query parameters of PathWork.
const (
	QueryInstance = "instance"
	QueryHave     = "have"
	QueryWait     = "wait"
)

// Error codes of the agent API, besides the common ones of the SMC endpoint.
const (
	// CodeInvalidActivationCode (403) refuses a registration: the code is unknown, expired, disabled or used up.
	CodeInvalidActivationCode = smc.CodeInvalidActivationCode
	// CodeInvalidAgentToken (401) refuses a later call: the center does not know the token. The source
	// server was deleted, or the agent speaks to another center than the one it registered with.
	CodeInvalidAgentToken = smc.CodeInvalidAgentToken
	// CodeUnexpectedAnswer is never sent: the client gives it to a refusal that is not in the form of this API.
	CodeUnexpectedAnswer = "UnexpectedAnswer"
)

const (
	// DefaultHeartbeatRate is how often an agent reports when the center names no rate (CONTRACT: Source servers).
	DefaultHeartbeatRate = smc.HeartbeatRate
	// DefaultWait is how long the agent lets the center hold a request for work.
	DefaultWait = 25 * time.Second
	// MaxWait is the longest a request for work is held; the center caps what the agent asks for.
	MaxWait = 60 * time.Second
	// MaxBodyBytes bounds every body of this API, in either direction.
	MaxBodyBytes = 1 << 20
	// MaxInstanceBytes bounds RegisterRequest.Instance.
	MaxInstanceBytes = 128
	// MaxSystemInfoBytes bounds Server.SystemInfo (CONTRACT: SystemInfo <= 1 KB of JSON).
	MaxSystemInfoBytes = 1 << 10
)

// RegisterRequest makes the server a source server of the account that issued the activation code.
//
// The agent repeats it with the same Instance, over its own restarts too, until it has an answer on its
// disk. The center answers a repeated Instance with the source server it made for it and a new token, so
// an answer lost on the way leaves no second, dead source behind.
type RegisterRequest struct {
	Code     string `json:"code"`     // activation code, without the fingerprint (see ParseCode)
	Name     string `json:"name"`     // name of the source server, 2-128 characters (CONTRACT: Source servers)
	Instance string `json:"instance"` // id of the agent process that registered first
	Server   Server `json:"server"`
}

// RegisterResponse is what the agent keeps in its state directory.
type RegisterResponse struct {
	SourceID             string `json:"sourceId"`
	Token                string `json:"token"`                // bearer token of all later calls; shown this once
	HeartbeatRateSeconds int    `json:"heartbeatRateSeconds"` // 0 means DefaultHeartbeatRate
}

// HeartbeatRequest says that the agent lives and what its server looks like now.
type HeartbeatRequest struct {
	Instance string    `json:"instance"` // id of the agent process, fresh at every start
	Server   Server    `json:"server"`
	Time     time.Time `json:"time,omitzero"` // by the clock of the agent's machine; zero from an agent that does not tell
}

// HeartbeatResponse tells when the next heartbeat is due.
type HeartbeatResponse struct {
	HeartbeatRateSeconds int `json:"heartbeatRateSeconds"` // 0 means DefaultHeartbeatRate
	// CACertificates are the certificate authorities of the center, as PEM: what an agent that knows the center by one of them
	// trusts from now on. Empty: it goes on with those it has.
	CACertificates string `json:"caCertificates,omitempty"`
}

// Server describes a source server.
type Server struct {
	Hostname     string          `json:"hostname"`
	Platform     string          `json:"platform"`     // distribution, such as "Ubuntu"
	Architecture string          `json:"architecture"` // as the kernel names it: x86_64, aarch64, i386
	KernelLevel  int             `json:"kernelLevel"`  // major version of the kernel (our reading of a field the vendor does not explain)
	AgentVersion string          `json:"agentVersion"`
	SystemInfo   json.RawMessage `json:"systemInfo,omitempty"` // a SystemInfo, at most MaxSystemInfoBytes
	Disks        []Disk          `json:"disks"`                // by Index, the system disk first
}

// SystemInfo is the object in Server.SystemInfo. Its values are strings, as the vendor's are
// (CONTRACT: SystemInfo).
type SystemInfo struct {
	AgentMode   string `json:"agent_mode"` // "daemon"
	AgentType   string `json:"agent_type"` // "drover"
	Cores       string `json:"cores"`
	Hostname    string `json:"hostname"`
	IPv4        string `json:"ipv4,omitempty"`
	IPv6        string `json:"ipv6,omitempty"`
	Memory      string `json:"memory"`       // GiB
	MemoryUsage string `json:"memory_usage"` // GiB
	OS          string `json:"os,omitempty"`
	Kernel      string `json:"kernel,omitempty"` // release of the kernel
}

// Disk describes one disk of a source server. Disk 0 is the system disk; data disks count from 1
// (CONTRACT: Source servers).
type Disk struct {
	Index     int    `json:"index"`
	Path      string `json:"path"` // device or image file on the source server
	SizeBytes int64  `json:"sizeBytes"`
	UsedBytes int64  `json:"usedBytes"` // best knowledge of what the disk holds: allocated bytes, or SizeBytes
	Parts     []Part `json:"parts"`
}

// Part describes one partition.
type Part struct {
	Device    string `json:"device"` // "<disk>_<n>", n from 0 (CONTRACT: Source servers)
	Path      string `json:"path"`   // mount point, else the label of its file system, else empty
	SizeBytes int64  `json:"sizeBytes"`
	// OffsetBytes is where on its disk it begins; 0 from an agent that does not tell.
	OffsetBytes int64 `json:"offsetBytes,omitempty"`
	CanBlock    bool  `json:"canBlock"` // can be replicated block by block
	Need        bool  `json:"need"`     // has to be migrated for the server to start
}

// WorkQuery asks what the agent should be doing.
type WorkQuery struct {
	Instance string
	Have     int64         // generation of the last Desired received; 0 at the start of the process
	Wait     time.Duration // how long the center may hold the request while nothing changed; 0 = answer at once
}

// Desired is the state the center wants the agent in. The agent reconciles towards it: it starts a
// sync, keeps the one it runs, or ends it.
type Desired struct {
	// Generation is at least 1. It changes, and never repeats for this source, whenever Work appears, changes or
	// goes, and whenever a sync that failed for good shall be tried again: the agent serves a generation once.
	// A query with Have 0 (an agent that has just started, or that lost its session) is answered at once.
	Generation int64 `json:"generation"`
	Work       *Work `json:"work"` // null: nothing to do
}

// Work is one sync session to serve.
type Work struct {
	JobID   string `json:"jobId"`
	Run     int    `json:"run"`     // number of the job's run, from 1
	HostURL string `json:"hostUrl"` // base URL of the transition host
	Token   string `json:"token"`   // session token, good at that host for this job only
	// Parameters are for the agent's log: the transition host gives the ones in force at the attachment.
	Parameters Params `json:"parameters"`
}

// Params are the replication parameters of a job, defaults applied (CONTRACT: ReplicationParameters).
type Params struct {
	BandwidthLimit int64 `json:"bandwidthLimit"` // kbit/s, 0 = unlimited
	CompressLevel  int   `json:"compressLevel"`  // 0-9, 0 = none
	Checksum       bool  `json:"checksum"`
}
