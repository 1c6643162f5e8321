package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.uber.org/zap"

	"github.com/drover/drover/fleet"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/starter/progress"
	"github.com/drover/drover/temporalenv"
)

func TestFleetWatch(t *testing.T) {
	paused := dcExit()
	paused.Status, paused.Reason = fleet.Paused, "2 failed"
	before := dcExit()
	before.Wave = "pilot"
	f := newFrontend(t, &life{
		name: "dc-exit", statuses: []fleet.Status{before, dcExit(), paused, dcExitEnds(fleet.Completed)}, onLast: enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED,
	})
	e := newEndpoint(t)
	e.handlers["DescribeReplicationJobDetails"] = func(form url.Values) (smc.Result, error) {
		assert.Equal(t, "j-3", form.Get("JobId"), "only what is running is asked about")
		return &smc.DescribeReplicationJobDetailsResult{
			JobID: "j-3", Status: smc.StatusRunning, BusinessStatus: smc.BusinessSyncing, Run: 1, Progress: 50, BytesTotal: 200 << 20, BytesRead: 100 << 20, BytesPerSecond: 10 << 20, EtaSeconds: 10,
		}, nil
	}
	env := e.env()
	env[temporalenv.Address] = f.address
	o := droverWith(t, env, "fleet", "watch", "dc-exit")
	assert.Equal(t, outcomeOf{0, `fleet dc-exit is Running: 5 servers, 1 done, 1 failed, 3 to go
pilot    1/2 done    100%
  web-1  Done        100%                                                run 1  m-1
  web-2  Waiting     100%                                                run 1  run 1 of 2 is done
rest     0/3 done     17%                                                1 failed
  db-1   Syncing      50%  100.0 MiB/200.0 MiB   10.0 MiB/s  ETA 10s     run 1
  db-2   Failed        0%                                                job j-4 is InError
  db-3   Queued        0%
fleet dc-exit begins wave rest
fleet dc-exit is Paused: 2 failed
fleet dc-exit is Completed
pilot    2/2 done    100%
  web-2  Done        100%                                                run 1  m-2
rest     3/3 done    100%
  db-1   Done        100%                                                run 1  m-3
  db-2   Done        100%                                                run 1  m-4
  db-3   Done        100%                                                run 1  m-5
`, ""}, o)
}

func TestFleetWatchPrintsJSONLines(t *testing.T) {
	end := dcExitEnds(fleet.CompletedWithFailures)
	end.Servers[3] = dcExit().Servers[3]
	f := newFrontend(t, &life{
		name: "dc-exit", statuses: []fleet.Status{dcExit(), dcExit(), end}, onLast: enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED,
	})
	o := f.drover(t, "fleet", "watch", "dc-exit", "-o", "json")
	assert.Equal(t, exitFailed, o.code)
	assert.Equal(t, "drover: fleet dc-exit is CompletedWithFailures\n  db-2: job j-4 is InError; remains: job j-4, InError\n", o.stderr)
	var got []fleet.Status
	for line := range strings.Lines(o.stdout) {
		var status fleet.Status
		require.NoError(t, json.Unmarshal([]byte(line), &status))
		got = append(got, status)
	}
	assert.Empty(t, cmp.Diff([]fleet.Status{dcExit(), end}, got), "a line for every change")
}

func TestFleetApplyAndWatch(t *testing.T) {
	f := newFrontend(t, &life{name: "dc-exit"})
	m, err := readManifest(example, nil)
	require.NoError(t, err)
	sum, err := digest(m)
	require.NoError(t, err)
	f.lives[0].memo = memoOf(t, sum)
	f.lives[0].statuses = []fleet.Status{{Name: "dc-exit", Status: fleet.Running}}
	f.lives[0].onLast, f.lives[0].failure = enumspb.WORKFLOW_EXECUTION_STATUS_FAILED, "no source server is called web-1"
	o := f.drover(t, "fleet", "apply", "-f", example, "--watch")
	assert.Equal(t, outcomeOf{
		1, "fleet dc-exit is running already, with this manifest\nfleet dc-exit is Running: 0 servers, 0 done, 0 failed, 0 to go\n" +
			"fleet dc-exit is CompletedWithFailures: no source server is called web-1\n",
		"drover: fleet dc-exit is CompletedWithFailures: no source server is called web-1\n",
	}, o, "a fleet whose workflow fails has ended, whatever it says of itself")
}

func TestFleetBars(t *testing.T) {
	var out bytes.Buffer
	c := &cli{getenv: func(string) string { return "" }, out: &out, errOut: &out, log: zap.NewNop()}
	w := newFleetWatch(&fleets{cli: c})
	assert.Nil(t, w.endpoint, "without an endpoint there is still a view")
	w.view = progress.NewView(&out, progress.Bars)
	status := dcExit()
	status.Servers = append(status.Servers, fleet.MigrationStatus{Name: "late", SourceID: "s-6", Wave: "last", Phase: fleet.PhasePending, Reason: "waits for wave rest"})
	names := func() (names []string) {
		for _, s := range w.states(&status) {
			names = append(names, s.Name)
		}
		return names
	}
	assert.Equal(t, []string{"pilot", "  web-1", "  web-2", "rest", "  db-1", "  db-2", "  db-3", "last", "  late"}, names())
	w.rows = func() int { return 8 }
	assert.Equal(t, []string{"pilot", "  web-2", "rest", "  db-1", "  db-2", "  db-3", "last"}, names(), "what is done or far off gives way")
	w.rows = func() int { return 3 }
	assert.Equal(t, []string{"pilot", "rest"}, names())

	w.rows = func() int { return 0 }
	require.NoError(t, w.show(t.Context(), &status))
	assert.Contains(t, out.String(), "waits for a slot", "a terminal shows why it waits")
	for _, s := range w.states(&status) {
		assert.LessOrEqual(t, len(s.Phase), 10, "the columns do not move")
	}
}

func TestEveryPhaseFitsItsColumn(t *testing.T) {
	w := &fleetWatch{view: progress.NewView(&bytes.Buffer{}, progress.Lines)}
	for _, phase := range []fleet.Phase{
		fleet.PhasePending, fleet.PhasePreflight, fleet.PhaseCreating, fleet.PhaseQueued, fleet.PhaseScheduled, fleet.PhaseStarting, fleet.PhaseReplicate,
		fleet.PhaseBackoff, fleet.PhaseWaiting, fleet.PhaseCuttingOver, fleet.PhaseVerifying, fleet.PhaseCleaningUp, fleet.PhaseCancelling, fleet.PhaseDone,
		fleet.PhaseFailed, fleet.PhaseCancelled,
	} {
		assert.LessOrEqual(t, len(w.serverState(fleet.MigrationStatus{Phase: phase}).Phase), 10, phase)
	}
}

func TestFit(t *testing.T) {
	var rows []row
	for i, rank := range []int{0, 5, 2, 0, 3, 3, 5} {
		rows = append(rows, row{progress.State{Name: fmt.Sprint(i)}, rank})
	}
	for most, want := range map[int]string{-1: "0123456", 0: "0123456", 7: "0123456", 6: "012345", 5: "02345", 4: "0234", 3: "023", 2: "03", 1: "0"} {
		got := ""
		for _, s := range fit(rows, most) {
			got += s.Name
		}
		assert.Equal(t, want, got, "%d rows", most)
	}
}
