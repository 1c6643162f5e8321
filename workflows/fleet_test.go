package workflows

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"

	"github.com/drover/drover/activities"
	"github.com/drover/drover/fleet"
)

// fleetTest runs a fleet whose migrations are played. Its methods that are exported are the activities of a fleet.
type fleetTest struct {
	timeline
	input  FleetInput
	runs   int // of the workflow
	status fleet.Status
	err    error
	// scripts are what the migrations do, by the names of their servers; by default they run for an hour.
	scripts map[string]func(p *played)

	mu         sync.Mutex
	migrations map[string]*played // by workflow id: the latest life
	begun      []string           // names, in order
	held, most map[string]int     // slots of a wave: now, and at most at any instant
	resolved   error
	offline    bool // NATS is away
	events     []activities.FleetEvent
}

// played is a migration.
type played struct {
	f      *fleetTest
	in     MigrationInput
	life   string
	status fleet.MigrationStatus
	number int
	// A slot is held from its grant to its release.
	request, granted, released int
	closed                     string
	onGrant, onCancel          func()
}

// newFleetTest makes a fleet of waves; each of them is "name maxConcurrent maxFailures server server …", with - for no limit.
func newFleetTest(t *testing.T, waves ...string) *fleetTest {
	t.Helper()
	f := &fleetTest{
		timeline: timeline{t: t}, input: FleetInput{Fleet: fleet.Fleet{Name: testFleet, PollInterval: pollTime}},
		scripts: map[string]func(*played){}, migrations: map[string]*played{}, held: map[string]int{}, most: map[string]int{},
	}
	limit := func(word string) *int {
		if word == "-" {
			return nil
		}
		var n int
		_, err := fmt.Sscan(word, &n)
		require.NoError(t, err)
		return &n
	}
	for _, text := range waves {
		words := strings.Fields(text)
		wave := fleet.Wave{Name: words[0], MaxFailures: limit(words[2])}
		if slots := limit(words[1]); slots != nil {
			wave.MaxConcurrent = *slots
		}
		for _, name := range words[3:] {
			wave.Servers = append(wave.Servers, fleet.Server{Name: name})
		}
		f.input.Fleet.Waves = append(f.input.Fleet.Waves, wave)
	}
	return f
}

// run runs the fleet to its end, through all its runs.
func (f *fleetTest) run() {
	f.t.Helper()
	start := epoch
	for f.runs = 1; ; f.runs++ {
		f.begin(start, &outside{signal: f.signalled, start: f.started, cancel: f.cancelled})
		f.env.RegisterActivity(&fleetActivities{f})
		f.env.ExecuteWorkflow(Fleet, f.input)
		next, ok := again[FleetInput](&f.timeline)
		if !ok {
			break
		}
		start, f.input = f.env.Now(), next
	}
	f.err = f.env.GetWorkflowError()
	f.status = f.query()
	for _, event := range f.events {
		require.Equal(f.t, f.events[0].Began, event.Began)
	}
	for i, event := range f.events {
		require.Equal(f.t, uint64(i+1), event.Sequence, "every event once, in order")
	}
	require.Equal(f.t, f.status.Status, f.events[len(f.events)-1].Status.Status)
	for name, held := range f.held {
		require.Zero(f.t, held, "slots of wave %s that were not given back", name)
	}
}

func (f *fleetTest) query() fleet.Status {
	encoded, err := f.env.QueryWorkflow(fleet.QueryStatus)
	require.NoError(f.t, err)
	var status fleet.Status
	require.NoError(f.t, encoded.Get(&status))
	return status
}

// server returns what the fleet shows of a server.
func (f *fleetTest) server(name string) fleet.MigrationStatus {
	for _, server := range f.query().Servers {
		if server.Name == name {
			return server
		}
	}
	f.t.Errorf("the fleet shows no server %s", name)
	return fleet.MigrationStatus{}
}

// resume sends the update, and returns how it was answered once that is known.
func (f *fleetTest) resume(request fleet.ResumeRequest) *error {
	answer := new(error)
	f.env.UpdateWorkflow(fleet.UpdateResume, f.env.Now().String(), &testsuite.TestUpdateCallback{
		OnAccept:   func() {},
		OnReject:   func(err error) { *answer = err },
		OnComplete: func(_ any, err error) { *answer = err },
	}, request)
	return answer
}

func (f *fleetTest) started(workflowID string, input any) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	in := input.(MigrationInput)
	if former := f.migrations[workflowID]; former != nil && former.closed == "" {
		return "", errors.New("child workflow execution already started")
	}
	p := &played{f: f, in: in, life: fmt.Sprintf("%s/%d", workflowID, len(f.begun))}
	p.status = fleet.MigrationStatus{Name: in.Server.Name, SourceID: in.SourceID, Wave: in.Wave}
	p.onCancel = func() { p.after(10*time.Second, func() { p.end(fleet.PhaseCancelled) }) }
	f.migrations[workflowID] = p
	f.begun = append(f.begun, in.Server.Name)
	script := f.scripts[in.Server.Name]
	if script == nil {
		script = runs(time.Hour, fleet.PhaseDone)
	}
	script(p)
	return p.life, nil
}

func (f *fleetTest) signalled(workflowID, name string, argument any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	assert.Equal(f.t, signalSlotGranted, name)
	p := f.migrations[workflowID]
	if p == nil || p.closed != "" {
		return errors.New("workflow not found")
	}
	request := argument.(int)
	assert.Greater(f.t, request, p.granted, "%s was granted slot %d before", workflowID, request)
	p.granted = request
	if request <= p.released {
		return nil // it was withdrawn
	}
	f.held[p.in.Wave]++
	f.most[p.in.Wave] = max(f.most[p.in.Wave], f.held[p.in.Wave])
	if p.onGrant != nil {
		p.onGrant()
	}
	return nil
}

func (f *fleetTest) cancelled(workflowID string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.migrations[workflowID]
	if p == nil || p.closed != "" {
		return errors.New("workflow not found")
	}
	p.onCancel()
	return nil
}

// after has a migration do something later, if it is still there.
func (p *played) after(wait time.Duration, do func()) {
	p.f.when(p.f.env.Now().Add(wait), func() {
		p.f.mu.Lock()
		defer p.f.mu.Unlock()
		if p.closed == "" {
			do()
		}
	})
}

// next is what the migration reports next.
func (p *played) next(phase fleet.Phase) migrationReport {
	p.number++
	p.status.Phase = phase
	return migrationReport{Life: p.life, Number: p.number, Status: p.status, Requested: p.request, Released: p.released}
}

func (p *played) report(phase fleet.Phase) {
	p.f.env.SignalWorkflow(signalMigrationChanged, p.next(phase))
}

// ask asks for a slot, and does something once it is there.
func (p *played) ask(then func()) {
	p.request++
	p.onGrant = then
	p.report(fleet.PhaseQueued)
}

// giveBack is the end of the slot, and of a request for one.
func (p *played) giveBack() {
	if p.granted > p.released {
		p.f.held[p.in.Wave]--
	}
	p.released = p.request
}

func (p *played) end(phase fleet.Phase) {
	if phase == fleet.PhaseFailed {
		p.status.Error = "it failed"
	}
	p.giveBack()
	p.report(phase)
	p.closed = string(phase)
}

// kill ends a migration from outside.
func (p *played) kill() {
	p.giveBack()
	p.closed = "Terminated"
}

// runs is a migration that runs for a time, and ends.
func runs(length time.Duration, end fleet.Phase) func(*played) {
	return func(p *played) {
		p.report(fleet.PhasePreflight)
		p.after(time.Second, func() {
			p.ask(func() {
				p.report(fleet.PhaseReplicate)
				p.after(length, func() { p.end(end) })
			})
		})
	}
}

// of returns the migration of a server.
func (f *fleetTest) of(name string) *played {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.migrations[fleet.MigrationID(testFleet, "s-"+name)]
}

// fleetActivities are the activities of a fleet.
type fleetActivities struct{ f *fleetTest }

func (a *fleetActivities) ResolveServers(ctx context.Context, in fleet.Fleet) ([]activities.ResolvedServer, error) {
	a.f.mu.Lock()
	defer a.f.mu.Unlock()
	if a.f.resolved != nil {
		return nil, a.f.resolved
	}
	var resolved []activities.ResolvedServer
	for w, wave := range in.Waves {
		for _, server := range wave.Servers {
			resolved = append(resolved, activities.ResolvedServer{Wave: w, Server: server, SourceID: "s-" + server.Name})
		}
	}
	return resolved, nil
}

func (a *fleetActivities) WatchMigrations(_ context.Context, in activities.WatchMigrationsInput) (map[string]string, error) {
	a.f.mu.Lock()
	defer a.f.mu.Unlock()
	closed := map[string]string{}
	for _, sourceID := range in.SourceIDs {
		if p := a.f.migrations[fleet.MigrationID(in.Fleet, sourceID)]; p == nil || p.closed != "" {
			closed[sourceID] = "Terminated"
		}
	}
	if len(closed) == 0 {
		return nil, temporal.NewApplicationError("all are open", activities.TypeUnchanged)
	}
	return closed, nil
}

func (a *fleetActivities) PublishFleet(_ context.Context, events []activities.FleetEvent) error {
	a.f.mu.Lock()
	defer a.f.mu.Unlock()
	if a.f.offline {
		return errors.New("there is no NATS")
	}
	for _, event := range events {
		if n := len(a.f.events); n > 0 && event.Sequence <= a.f.events[n-1].Sequence {
			continue // PublishOnce drops what was published before
		}
		a.f.events = append(a.f.events, event)
	}
	return nil
}

func TestFleetWavesInOrder(t *testing.T) {
	f := newFleetTest(t, "pilot 1 - a b", "rest 2 - c d e")
	f.at(90*time.Minute, func() {
		assert.Equal(t, []string{"a", "b"}, f.begun)
		assert.Equal(t, "waits for wave pilot", f.server("c").Reason)
		assert.Equal(t, "pilot", f.query().Wave)
	})
	f.run()
	require.NoError(t, f.err)
	require.Equal(t, []string{"a", "b", "c", "d", "e"}, f.begun)
	require.Equal(t, map[string]int{"pilot": 1, "rest": 2}, f.most)
	require.Equal(t, fleet.Completed, f.status.Status)
	require.Equal(t, epoch.Add(4*time.Hour), f.env.Now().UTC().Truncate(time.Minute))
	done, failed, open := f.status.Counts()
	require.Equal(t, []int{5, 0, 0}, []int{done, failed, open})
	require.Len(t, f.events, 3, "it runs, the next wave, its end")
	require.Equal(t, 5, f.events[2].Done)
}

func TestFleetOfNothing(t *testing.T) {
	f := newFleetTest(t, "pilot 1 -")
	f.run()
	require.NoError(t, f.err)
	require.Equal(t, fleet.Completed, f.status.Status)
}

func TestFleetQueuedSaysWhy(t *testing.T) {
	f := newFleetTest(t, "pilot 1 - a b c")
	f.at(10*time.Minute, func() {
		assert.Equal(t, "waits for one of the 1 slots of wave pilot, held by a; 0 ahead of it", f.server("b").Reason)
		assert.Equal(t, "waits for one of the 1 slots of wave pilot, held by a; 1 ahead of it", f.server("c").Reason)
		assert.Equal(t, fleet.PhaseQueued, f.server("b").Phase)
	})
	f.run()
}

// A migration that waits between runs lets others have its slot, and does not hold up the next wave.
func TestFleetWaitingMigration(t *testing.T) {
	f := newFleetTest(t, "pilot 1 - a b", "rest 1 - c")
	f.scripts["a"] = func(p *played) {
		p.ask(func() {
			p.after(time.Hour, func() {
				p.giveBack()
				p.report(fleet.PhaseWaiting)
			})
		})
		p.after(50*time.Hour, func() {
			p.ask(func() { p.after(time.Hour, func() { p.end(fleet.PhaseDone) }) })
		})
	}
	f.at(150*time.Minute, func() { assert.Equal(t, []string{"a", "b", "c"}, f.begun) })
	f.at(5*time.Hour, func() {
		assert.Equal(t, fleet.PhaseDone, f.server("c").Phase)
		assert.Equal(t, fleet.Running, f.query().Status)
	})
	f.run()
	require.Equal(t, fleet.Completed, f.status.Status)
	require.Equal(t, map[string]int{"pilot": 1, "rest": 1}, f.most)
	require.Equal(t, epoch.Add(51*time.Hour), f.env.Now().UTC().Truncate(time.Minute))
}

// A request that is withdrawn before it is granted, or while the grant is on its way, leaves nothing behind.
func TestFleetWithdrawnRequest(t *testing.T) {
	f := newFleetTest(t, "pilot 1 - a b c")
	f.scripts["b"] = func(p *played) {
		p.after(time.Second, func() { p.ask(nil) })
		p.after(30*time.Minute, func() {
			p.giveBack()
			p.report(fleet.PhaseReplicate) // someone started it by hand
		})
		p.after(5*time.Hour, func() { p.ask(func() { p.after(time.Hour, func() { p.end(fleet.PhaseDone) }) }) })
	}
	f.run()
	require.Equal(t, fleet.Completed, f.status.Status)
	require.Equal(t, 1, f.most["pilot"])
	require.Equal(t, epoch.Add(6*time.Hour), f.env.Now().UTC().Truncate(time.Minute))
}

func TestFleetPausesAndResumes(t *testing.T) {
	for _, retry := range []bool{false, true} {
		t.Run(fmt.Sprintf("RetryFailed=%t", retry), func(t *testing.T) {
			f := newFleetTest(t, "pilot 1 0 a b", "rest 1 - c")
			attempts := 0
			f.scripts["a"] = func(p *played) {
				if attempts++; attempts == 1 {
					runs(time.Hour, fleet.PhaseFailed)(p)
					return
				}
				runs(time.Hour, fleet.PhaseDone)(p)
			}
			f.at(30*time.Minute, func() {
				assert.NotNil(t, f.resume(fleet.ResumeRequest{}), "there is nothing to resume")
			})
			f.at(5*time.Hour, func() {
				status := f.query()
				assert.Equal(t, fleet.Paused, status.Status)
				assert.Contains(t, status.Reason, "1 migrations of wave pilot failed (a), 0 may")
				assert.Equal(t, "the fleet is paused", f.server("b").Reason)
				assert.Equal(t, []string{"a", "b"}, f.begun)
				f.resume(fleet.ResumeRequest{RetryFailed: retry})
			})
			f.run()
			require.NoError(t, f.err)
			require.Equal(t, map[string]int{"pilot": 1, "rest": 1}, f.most)
			states := []fleet.State{}
			for _, event := range f.events {
				states = append(states, event.Status.Status)
			}
			require.Contains(t, states, fleet.Paused)
			if retry {
				require.Equal(t, []string{"a", "b", "a", "c"}, f.begun)
				require.Equal(t, fleet.Completed, f.status.Status)
				return
			}
			require.Equal(t, []string{"a", "b", "c"}, f.begun)
			require.Equal(t, fleet.CompletedWithFailures, f.status.Status)
		})
	}
}

func TestFleetResumeIsRefused(t *testing.T) {
	f := newFleetTest(t, "pilot 1 - a")
	var answer *error
	f.at(time.Minute, func() { answer = f.resume(fleet.ResumeRequest{RetryFailed: true}) })
	f.run()
	require.ErrorContains(t, *answer, "nothing to resume")
}

// The migration that failed may take a while to close: it publishes its last events first.
func TestFleetRetryWaitsForTheFormerLife(t *testing.T) {
	f := newFleetTest(t, "pilot 1 0 a b")
	first := true
	f.scripts["a"] = func(p *played) {
		if !first {
			runs(time.Hour, fleet.PhaseDone)(p)
			return
		}
		first = false
		p.ask(func() {
			p.after(time.Minute, func() {
				p.giveBack()
				p.report(fleet.PhaseFailed)
			})
		})
		p.after(2*time.Hour, func() {
			p.report(fleet.PhaseFailed) // comes too late: it is of the former life
			p.closed = "Failed"
		})
	}
	f.at(time.Hour, func() { f.resume(fleet.ResumeRequest{RetryFailed: true}) })
	f.at(3*time.Hour-time.Minute, func() { assert.Equal(t, fleet.PhaseReplicate, f.server("a").Phase) })
	f.run()
	require.Equal(t, []string{"a", "b", "a"}, f.begun)
	require.Equal(t, fleet.Completed, f.status.Status)
}

// A whole wave fails at one instant: the next one must not begin.
func TestFleetWaveThatEndsAtOnce(t *testing.T) {
	f := newFleetTest(t, "pilot - 1 a b c", "rest - - d")
	for _, name := range []string{"a", "b", "c"} {
		f.scripts[name] = func(p *played) { p.after(time.Hour, func() { p.closed = "Failed" }) }
	}
	f.at(time.Hour+time.Second, func() {
		for _, name := range []string{"a", "b", "c"} {
			f.env.SignalWorkflowSkippingWorkflowTask(signalMigrationChanged, f.of(name).next(fleet.PhaseFailed))
		}
		f.env.SignalWorkflow("wake", nil)
	})
	f.at(2*time.Hour, func() {
		assert.Equal(t, fleet.Paused, f.query().Status)
		assert.Equal(t, []string{"a", "b", "c"}, f.begun)
		f.resume(fleet.ResumeRequest{})
	})
	f.run()
	require.Equal(t, fleet.CompletedWithFailures, f.status.Status)
}

func TestFleetNextWaveBeginsAfterAWaveThatEndsAtOnce(t *testing.T) {
	f := newFleetTest(t, "pilot - - a b c", "rest - - d")
	for _, name := range []string{"a", "b", "c"} {
		f.scripts[name] = func(p *played) { p.after(time.Hour, func() { p.closed = "Done" }) }
	}
	f.at(time.Hour+time.Second, func() {
		for _, name := range []string{"a", "b", "c"} {
			f.env.SignalWorkflowSkippingWorkflowTask(signalMigrationChanged, f.of(name).next(fleet.PhaseDone))
		}
		f.env.SignalWorkflow("wake", nil)
	})
	f.run()
	require.Equal(t, fleet.Completed, f.status.Status)
	require.Equal(t, []string{"a", "b", "c", "d"}, f.begun)
}

func TestFleetCancelled(t *testing.T) {
	f := newFleetTest(t, "pilot 1 - a b", "rest 1 - c")
	f.at(30*time.Minute, func() { f.env.CancelWorkflow() })
	f.at(30*time.Minute+time.Second, func() {
		assert.Equal(t, fleet.PhaseCancelled, f.server("c").Phase)
		assert.Equal(t, "the fleet is being cancelled", f.query().Reason)
		answer := f.resume(fleet.ResumeRequest{RetryFailed: true})
		f.at(30*time.Minute+2*time.Second, func() { assert.Error(t, *answer) })
	})
	f.run()
	require.True(t, temporal.IsCanceledError(f.err))
	require.Equal(t, fleet.Cancelled, f.status.Status)
	require.Equal(t, []string{"a", "b"}, f.begun)
	for _, server := range f.status.Servers {
		require.Equal(t, fleet.PhaseCancelled, server.Phase)
	}
	require.Equal(t, epoch.Add(30*time.Minute), f.env.Now().UTC().Truncate(time.Minute))
}

func TestFleetCancelledWhilePaused(t *testing.T) {
	f := newFleetTest(t, "pilot 1 0 a b", "rest - - c")
	f.scripts["a"] = runs(time.Hour, fleet.PhaseFailed)
	f.at(2*time.Hour, func() { f.env.CancelWorkflow() })
	f.run()
	require.Equal(t, fleet.Cancelled, f.status.Status)
	require.Equal(t, fleet.PhaseFailed, f.status.Servers[0].Phase)
	require.Equal(t, fleet.PhaseCancelled, f.status.Servers[1].Phase)
}

func TestFleetCancelledBeforeItBegan(t *testing.T) {
	f := newFleetTest(t, "pilot 1 - a")
	f.resolved = temporal.NewApplicationError("the endpoint is away", "InternalError")
	f.at(time.Hour, func() { f.env.CancelWorkflow() })
	f.run()
	require.True(t, temporal.IsCanceledError(f.err))
	require.Equal(t, fleet.Cancelled, f.status.Status)
	require.Empty(t, f.begun)
}

func TestFleetNamesNoServer(t *testing.T) {
	f := newFleetTest(t, "pilot 1 - a")
	f.resolved = temporal.NewNonRetryableApplicationError(`wave pilot: there is no source server "a"`, activities.TypeNoServer, nil)
	f.run()
	require.Equal(t, activities.TypeNoServer, errorType(f.err))
	require.Contains(t, f.status.Reason, "there is no source server")
}

func TestFleetFindsTerminatedMigrations(t *testing.T) {
	f := newFleetTest(t, "pilot 1 - long a b")
	f.scripts["long"] = func(p *played) { p.after(20*time.Hour, func() { p.end(fleet.PhaseDone) }) }
	f.at(30*time.Minute, func() { f.of("a").kill() })
	f.at(32*time.Minute, func() {
		assert.Equal(t, fleet.PhaseFailed, f.server("a").Phase)
		assert.Contains(t, f.server("a").Error, "ended from outside (Terminated)")
		assert.Equal(t, fleet.PhaseReplicate, f.server("b").Phase, "its slot is given to the next")
	})
	f.run()
	require.Equal(t, fleet.CompletedWithFailures, f.status.Status)
	require.Equal(t, 1, f.most["pilot"])
}

// One that was started after the watch began is watched, too, also while an earlier one stays open for long.
func TestFleetWatchesLaterWaves(t *testing.T) {
	f := newFleetTest(t, "pilot 1 - a", "rest 1 - b")
	f.scripts["a"] = func(p *played) {
		p.after(10*time.Minute, func() { p.report(fleet.PhaseWaiting) })
		p.after(100*time.Hour, func() { p.end(fleet.PhaseDone) })
	}
	f.at(30*time.Minute, func() { f.of("b").kill() })
	f.at(33*time.Minute, func() { assert.Equal(t, fleet.PhaseFailed, f.server("b").Phase) })
	f.run()
	require.Equal(t, fleet.CompletedWithFailures, f.status.Status)
}

// Whoever asks for a slot and is gone when it is granted keeps nobody waiting.
func TestFleetGrantToOneThatIsGone(t *testing.T) {
	f := newFleetTest(t, "pilot 1 - a b c")
	f.at(30*time.Minute, func() { f.of("b").kill() })
	f.run()
	require.Equal(t, 1, f.most["pilot"])
	require.Equal(t, epoch.Add(2*time.Hour), f.env.Now().UTC().Truncate(time.Minute))
}

func TestFleetReportsOutOfOrder(t *testing.T) {
	f := newFleetTest(t, "pilot 1 - a b")
	f.scripts["a"] = func(p *played) {
		p.after(time.Second, func() {
			p.request = 1
			early, late := p.next(fleet.PhaseQueued), p.next(fleet.PhaseQueued)
			p.onGrant = func() {
				p.after(time.Hour, func() {
					running := p.next(fleet.PhaseReplicate)
					p.end(fleet.PhaseDone)
					f.env.SignalWorkflow(signalMigrationChanged, running) // overtaken
					f.env.SignalWorkflow(signalMigrationChanged, running)
				})
			}
			for _, report := range []migrationReport{late, early, late} {
				f.env.SignalWorkflow(signalMigrationChanged, report)
			}
		})
	}
	f.at(90*time.Minute, func() { assert.Equal(t, fleet.PhaseDone, f.server("a").Phase) })
	f.run()
	require.Equal(t, fleet.Completed, f.status.Status)
	require.Equal(t, 1, f.most["pilot"])
}

// Another workflow has the migration's id: it is of an earlier fleet of this name, and nothing of it counts.
func TestFleetMigrationCannotBeStarted(t *testing.T) {
	f := newFleetTest(t, "pilot 1 0 a b")
	foreign := &played{f: f, in: MigrationInput{Wave: "pilot"}, life: "foreign", onCancel: func() {}}
	foreign.status = fleet.MigrationStatus{Name: "a", SourceID: "s-a"}
	f.migrations[fleet.MigrationID(testFleet, "s-a")] = foreign
	f.at(30*time.Minute, func() {
		foreign.request++
		foreign.report(fleet.PhaseQueued)
	})
	f.at(time.Hour, func() {
		assert.Equal(t, fleet.Paused, f.query().Status)
		assert.Equal(t, fleet.PhaseFailed, f.server("a").Phase)
		assert.Contains(t, f.server("a").Error, "could not be started")
		f.resume(fleet.ResumeRequest{RetryFailed: true})
	})
	f.at(2*time.Hour, func() { foreign.closed = "Completed" })
	f.run()
	require.Equal(t, fleet.Completed, f.status.Status, "it is started as soon as the id is free")
	require.Equal(t, []string{"b", "a"}, f.begun)
	require.Equal(t, 1, f.most["pilot"])
}

func TestFleetContinuesAsNewWithPendingSignals(t *testing.T) {
	f := newFleetTest(t, "pilot 1 - a b", "rest 1 - c")
	f.at(30*time.Minute, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		// It is in the history, and nobody has seen it, when the workflow continues as new.
		a := f.migrations[fleet.MigrationID(testFleet, "s-a")]
		a.giveBack()
		a.closed = "Done"
		f.env.SignalWorkflowSkippingWorkflowTask(signalMigrationChanged, a.next(fleet.PhaseDone))
		f.env.RegisterDelayedCallback(func() { f.env.SetContinueAsNewSuggested(true) }, 0)
		f.env.SignalWorkflow("wake", nil)
	})
	f.run()
	require.Equal(t, 2, f.runs)
	require.Equal(t, fleet.Completed, f.status.Status)
	require.Equal(t, []string{"a", "b", "c"}, f.begun)
	require.Equal(t, epoch.Add(150*time.Minute), f.env.Now().UTC().Truncate(time.Minute))
}

func TestFleetCancelledAtContinueAsNew(t *testing.T) {
	f := newFleetTest(t, "pilot 1 - a")
	f.at(30*time.Minute, func() {
		f.env.RegisterDelayedCallback(func() { f.env.SetContinueAsNewSuggested(true) }, 0)
		f.env.CancelWorkflow()
	})
	f.run()
	require.Equal(t, 1, f.runs)
	require.Equal(t, fleet.Cancelled, f.status.Status)
}

// NATS is away for long: the fleet does its work, and continues as new, and tells it later.
func TestFleetWithoutNATS(t *testing.T) {
	f := newFleetTest(t, "pilot 1 - a", "rest 1 - b")
	f.offline = true
	f.at(30*time.Minute, func() {
		f.env.SetContinueAsNewSuggested(true)
		f.env.SignalWorkflow("wake", nil)
	})
	f.at(5*time.Hour, func() {
		assert.Equal(t, fleet.Completed, f.query().Status)
		f.mu.Lock()
		defer f.mu.Unlock()
		f.offline = false
	})
	f.run()
	require.Equal(t, 2, f.runs)
	require.Len(t, f.events, 3)
}

// Many servers, slots taken more than once, some that fail, some that are killed, and a fleet that continues as new
// again and again: at no instant are there more slots than there may be, and none gets lost.
func TestFleetOf200Servers(t *testing.T) {
	wave := func(name, slots string, n int) string {
		text := name + " " + slots + " -"
		for i := range n {
			text += fmt.Sprintf(" %s-%d", name, i)
		}
		return text
	}
	f := newFleetTest(t, wave("pilot", "1", 5), wave("main", "8", 150), wave("rest", "-", 45))
	killed, failed := 0, 0
	for w, wave := range f.input.Fleet.Waves {
		for i, server := range wave.Servers {
			length := time.Duration(1+i*7919%97) * time.Minute
			switch {
			case w == 1 && i%31 == 5:
				failed++
				f.scripts[server.Name] = runs(length, fleet.PhaseFailed)
			case w == 1 && i%37 == 7:
				killed++
				f.scripts[server.Name] = func(p *played) {
					p.after(time.Second, func() { p.ask(func() { p.after(length, p.kill) }) })
				}
			case i%3 == 0:
				f.scripts[server.Name] = func(p *played) { // three runs, with a rest between them
					var again func()
					left := 3
					again = func() {
						p.ask(func() {
							p.after(length, func() {
								if left--; left == 0 {
									p.end(fleet.PhaseDone)
									return
								}
								p.giveBack()
								p.report(fleet.PhaseBackoff)
								p.after(5*time.Minute, again)
							})
						})
					}
					p.after(time.Second, again)
				}
			default:
				f.scripts[server.Name] = runs(length, fleet.PhaseDone)
			}
		}
	}
	for hour := range 100 {
		f.at(time.Duration(hour)*time.Hour, func() { f.env.SetContinueAsNewSuggested(true) })
	}
	f.run()
	require.Equal(t, fleet.CompletedWithFailures, f.status.Status)
	require.Greater(t, f.runs, 10)
	require.Equal(t, 1, f.most["pilot"])
	require.Equal(t, 8, f.most["main"], "as many as may, and not more")
	require.Equal(t, 45, f.most["rest"])
	require.Len(t, f.begun, 200)
	require.Len(t, slices.Compact(slices.Sorted(slices.Values(f.begun))), 200, "each once")
	done, ended, open := f.status.Counts()
	require.Equal(t, []int{200 - killed - failed, killed + failed, 0}, []int{done, ended, open})
}
