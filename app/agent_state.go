package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/drover/drover/durable"
)

const (
	agentStateFile = "agent.json"
	agentLockFile  = "lock"
	// agentPendingFile holds the instance that is registering, until it is known that it has.
	agentPendingFile = "registering"
)

// agentState is what an agent remembers between starts.
type agentState struct {
	Endpoint   string   `json:"endpoint"`
	SourceID   string   `json:"sourceId,omitempty"`
	InstanceID string   `json:"instanceId,omitempty"` // of a target instance
	Token      string   `json:"token"`
	Name       string   `json:"name"`
	Disks      []string `json:"disks"` // absolute paths, the system disk first
	// CACertificates are the authorities, as PEM, by which the agent knows its center; empty: those that its machine knows.
	CACertificates string `json:"caCertificates,omitempty"`
}

// id is what the center knows the machine by; empty before the registration.
func (s *agentState) id() string { return s.SourceID + s.InstanceID }

// noun is what the machine has registered as.
func (s *agentState) noun() string {
	if s.InstanceID != "" {
		return (&target{}).words().noun
	}
	return source{}.words().noun
}

// agentDir is the state directory of one agent, locked against a second one.
type agentDir struct {
	path string
	lock *os.File
}

// openAgentDir makes the directory when it is missing and locks it. The lock goes with the process,
// however that ends.
func openAgentDir(path string) (*agentDir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make the state directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(path, agentLockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the state directory: %w", err)
	}
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		_ = lock.Close()
		return nil, fmt.Errorf("another agent runs with the state directory %s: stop it, or give this one a --state of its own", path)
	case err != nil:
		_ = lock.Close()
		return nil, fmt.Errorf("lock the state directory %s: %w", path, err)
	}
	return &agentDir{path: path, lock: lock}, nil
}

func (d *agentDir) close() error { return d.lock.Close() }

// load returns nil when the agent has not registered yet.
func (d *agentDir) load() (*agentState, error) {
	name := filepath.Join(d.path, agentStateFile)
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the agent's state: %w", err)
	}
	var s agentState
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("the agent's state %s is damaged (%w): remove it and register again with a new code", name, err)
	}
	if s.Endpoint == "" || (s.SourceID == "") == (s.InstanceID == "") || s.Token == "" {
		return nil, fmt.Errorf("the agent's state %s lacks endpoint, sourceId (or instanceId) or token: remove it and register again with a new code", name)
	}
	return &s, nil
}

// registering returns the instance to register with: the same one over restarts until the registration
// has succeeded, so that the center can tell a registration repeated after a crash from a second server.
func (d *agentDir) registering(fresh string) (string, error) {
	data, err := os.ReadFile(filepath.Join(d.path, agentPendingFile))
	if err == nil && len(data) > 0 {
		return string(data), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the agent's registration: %w", err)
	}
	if err := d.replace(agentPendingFile, []byte(fresh)); err != nil {
		return "", fmt.Errorf("save the agent's registration: %w", err)
	}
	return fresh, nil
}

// registered saves the state of an agent that has just registered.
func (d *agentDir) registered(s *agentState) error {
	if err := d.save(s); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(d.path, agentPendingFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("end the agent's registration: %w", err)
	}
	return nil
}

// save replaces the state so that a crash leaves the old one or the new one.
func (d *agentDir) save(s *agentState) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err == nil {
		err = d.replace(agentStateFile, append(data, '\n'))
	}
	if err != nil {
		return fmt.Errorf("save the agent's state: %w", err)
	}
	return nil
}

// replace writes a file of the directory, durably and whole or not at all.
func (d *agentDir) replace(name string, data []byte) error {
	return durable.WriteFile(filepath.Join(d.path, name), data, 0o600)
}
