package stack

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/drover/drover/smc"
	"github.com/drover/drover/test/process"
)

// Agent is a source server. Started again it is given nothing but its state.
type Agent struct {
	*process.Process
	// SourceID is set once it has registered.
	SourceID string
	// State is the directory of its identity, Disks are what it serves, the system disk first.
	State string
	Disks []string
}

// ActivationCode makes a code with which up to 100 agents register.
func (s *Stack) ActivationCode(ctx context.Context) (string, error) {
	token, err := s.Client.CreateAccessToken(ctx, &smc.CreateAccessTokenRequest{})
	if err != nil {
		return "", err
	}
	return token.AccessTokenCode, nil
}

// StartAgent registers a source server with its disks and waits until it is Available.
func (s *Stack) StartAgent(ctx context.Context, name string, disks ...string) (*Agent, error) {
	code, err := s.ActivationCode(ctx)
	if err != nil {
		return nil, err
	}
	return s.StartAgentWithCode(ctx, code, name, disks...)
}

// StartAgentWithCode is StartAgent with an activation code of the caller's.
func (s *Stack) StartAgentWithCode(ctx context.Context, code, name string, disks ...string) (a *Agent, err error) {
	a = &Agent{State: filepath.Join(s.Dir, "agent-"+name), Disks: disks}
	a.Process = s.process("agent-"+name, "drover-agent", registration(s, code, name, a.State, disks)...)
	a.Ready = func(ctx context.Context) error {
		_, err := s.sourceOf(ctx, name)
		return err
	}
	s.mu.Lock()
	s.Agents = append(s.Agents, a)
	s.mu.Unlock()
	if err := s.start(ctx, a.Process); err != nil {
		return nil, err
	}
	a.Args = registered(a.Process, a.State)
	a.SourceID, err = s.sourceOf(ctx, name)
	return a, err
}

// registration is what a machine is started with that has no identity yet.
func registration(s *Stack, code, name, state string, disks []string) []string {
	args := []string{"--endpoint", s.env[smc.EnvEndpoint], "--code", code, "--name", name, "--state", state}
	for _, disk := range disks {
		args = append(args, "--disk", disk)
	}
	return args
}

// registered is what a machine is started with that has one.
func registered(p *process.Process, state string) []string {
	return append([]string{"--state", state}, p.Args[slices.Index(p.Args, metricsFlag):]...)
}

// sourceOf returns the id of the source server of an agent that is there.
func (s *Stack) sourceOf(ctx context.Context, name string) (string, error) {
	found, err := s.Client.DescribeSourceServers(ctx, &smc.DescribeSourceServersRequest{Name: &name})
	if err != nil {
		return "", err
	}
	if len(found.SourceServers) != 1 {
		return "", fmt.Errorf("there are %d source servers %s", len(found.SourceServers), name)
	}
	if state := found.SourceServers[0].State; state == smc.SourceUnavailable {
		return "", fmt.Errorf("source server %s is %s", name, state)
	}
	return found.SourceServers[0].SourceID, nil
}
