package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/drover/drover/fleet"
	"github.com/drover/drover/smc"
)

const fleetName = "chaos"

// fleetRun is a fleet that the orchestrator migrates meanwhile: its jobs are made, cut over and deleted by workflows.
type fleetRun struct {
	*chaos
	servers []*source
	status  fleet.Status
}

// do applies the fleet and waits for its end.
func (f *fleetRun) do(ctx context.Context) error {
	if len(f.servers) == 0 {
		return nil
	}
	manifest := filepath.Join(f.dir, "fleet.yaml")
	if err := os.WriteFile(manifest, []byte(f.manifest()), 0o600); err != nil {
		return err
	}
	began := time.Now()
	for applied := false; !applied; {
		r, err := f.stack.Drover(ctx, "fleet", "apply", "-f", manifest)
		if err != nil {
			return err
		}
		if applied = r.Code == 0; !applied {
			f.log.add("fleet", "not applied: %s", strings.TrimSpace(r.Stderr))
			if time.Since(began) > patience {
				return fmt.Errorf("the fleet is not applied within %v: %s", patience, r.Stderr)
			}
			wait(ctx, time.Second)
		}
	}
	seen, moved := "", time.Now()
	for {
		r, err := f.stack.Drover(ctx, "fleet", "status", fleetName, "-o", "json")
		if err != nil {
			return err
		}
		if r.Code == 0 {
			if err := json.Unmarshal([]byte(r.Stdout), &f.status); err != nil {
				return fmt.Errorf("drover fleet status prints %s: %w", r.Stdout, err)
			}
			if f.status.Status != fleet.Running {
				return f.judge()
			}
			if r.Stdout != seen {
				seen, moved = r.Stdout, time.Now()
			}
		}
		if time.Since(moved) > patience {
			return fmt.Errorf("the fleet stands still for %v: %s%s", patience, r.Stdout, r.Stderr)
		}
		wait(ctx, 2*time.Second)
	}
}

// manifest is a fleet of one wave; its last server is incremental.
func (f *fleetRun) manifest() string {
	var servers []string
	for i, s := range f.servers {
		more := ""
		if i > 0 && i == len(f.servers)-1 {
			more = ", runOnce: false, frequency: 12, maxNumberOfImageToKeep: 2, cutover: {afterRuns: 2}"
		}
		servers = append(servers, fmt.Sprintf("      - {name: %s%s}", s.plan.name, more))
	}
	return fmt.Sprintf(`name: %s
pollInterval: 10s
defaults: {systemDiskSize: 40, replicationParameters: {bandwidth_limit: 40000}}
waves:
  - name: all
    maxConcurrent: 2
    servers:
%s
`, fleetName, strings.Join(servers, "\n"))
}

// judge checks what the fleet says at its end, and takes its jobs in among the others.
func (f *fleetRun) judge() error {
	if f.status.Status != fleet.Completed {
		return fmt.Errorf("the fleet is %s: %+v", f.status.Status, f.status)
	}
	for i, s := range f.servers {
		at := slices.IndexFunc(f.status.Servers, func(m fleet.MigrationStatus) bool { return m.Name == s.plan.name })
		if at < 0 {
			return fmt.Errorf("the fleet says nothing of %s", s.plan.name)
		}
		m := f.status.Servers[at]
		if m.Phase != fleet.PhaseDone || !m.Verified || m.Error != "" {
			return fmt.Errorf("%s of the fleet is %+v", s.plan.name, m)
		}
		j := &job{source: s, id: m.JobID, plan: &jobPlan{name: s.plan.name, ending: finishedDeleted}}
		runs := 1
		if i > 0 && i == len(f.servers)-1 {
			runs, j.plan.incremental, j.plan.keep = 2, true, 2
		}
		if m.Runs != runs || len(m.Images) != runs {
			return fmt.Errorf("%s of the fleet has %d runs and images %v, it ought to have %d", s.plan.name, m.Runs, m.Images, runs)
		}
		j.tell("Ready")
		for n := range runs {
			j.tell("Preparing", "Syncing", "Processing", "Cleaning")
			if n < runs-1 {
				j.tell("Waiting")
			}
			r := &run{number: n + 1, imageID: m.Images[n], state: s.now}
			j.runs = append(j.runs, r)
			if err := j.checkImage(r); err != nil {
				return err
			}
		}
		j.tell("Finished", "Deleting", "Deleted")
		if _, err := f.client.DescribeReplicationJobDetails(f.processes.ctx, &smc.DescribeReplicationJobDetailsRequest{JobID: j.id}); err == nil {
			return errors.New("the job of " + s.plan.name + " is there after the end of its fleet")
		}
		f.addJob(j)
	}
	f.log.add("fleet", "has come to its end")
	return nil
}
