package stack

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/drover/drover/smc"
	"github.com/drover/drover/test/process"
)

// Target is a target instance. Started again it is given nothing but its state.
type Target struct {
	*process.Process
	// InstanceID is set once it has registered.
	InstanceID string
	// State is the directory of its identity.
	State string
}

// StartTarget registers a target instance, with an activation code and the disks that may be overwritten, and waits until it is Available.
func (s *Stack) StartTarget(ctx context.Context, code, name string, disks ...string) (*Target, error) {
	target := &Target{State: filepath.Join(s.Dir, "target-"+name)}
	target.Process = s.process("target-"+name, "drover-agent", append([]string{"target"}, registration(s, code, name, target.State, disks)...)...)
	target.Ready = func(ctx context.Context) error {
		_, err := s.targetOf(ctx, name)
		return err
	}
	s.mu.Lock()
	s.Targets = append(s.Targets, target)
	s.mu.Unlock()
	if err := s.start(ctx, target.Process); err != nil {
		return nil, err
	}
	target.Args = append([]string{"target"}, registered(target.Process, target.State)...)
	found, err := s.targetOf(ctx, name)
	if err != nil {
		return nil, err
	}
	target.InstanceID = found.InstanceID
	return target, nil
}

// targetOf returns the target instance of a name that is there.
func (s *Stack) targetOf(ctx context.Context, name string) (smc.Instance, error) {
	found, err := s.Client.DescribeTargetInstances(ctx, &smc.DescribeTargetInstancesRequest{Name: &name})
	if err != nil {
		return smc.Instance{}, err
	}
	if len(found.TargetInstances) != 1 {
		return smc.Instance{}, fmt.Errorf("there are %d target instances %s", len(found.TargetInstances), name)
	}
	if state := found.TargetInstances[0].State; state != smc.InstanceAvailable {
		return smc.Instance{}, fmt.Errorf("target instance %s is %s", name, state)
	}
	return found.TargetInstances[0], nil
}
