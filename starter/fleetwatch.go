package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/drover/drover/fleet"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/starter/progress"
)

func (c *cli) fleetWatchCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "watch NAME",
		Short: "Show the progress of a fleet until it ends",
		Long: `Show the progress of a fleet until it ends: a bar for each wave and server on a terminal, lines elsewhere, and with
-o json the fleet as fleet status has it, a line for every change. How far a running job is, the endpoint is asked, when
the environment names it.

The exit code is 0 when the fleet is Completed, and 1 when it ends otherwise. Ctrl-C leaves the fleet alone.`,
		Example: "  drover fleet watch dc-exit\n  drover fleet watch dc-exit -o json | jq -c '[.status, .wave]'",
		Args:    exactArgs("NAME"),
		RunE:    c.fleetRun(func(ctx context.Context, f *fleets, args []string) error { return f.watch(ctx, args[0]) }),
	}
}

func (f *fleets) watch(ctx context.Context, name string) error {
	if _, err := f.describe(ctx, name); err != nil {
		return err
	}
	w := newFleetWatch(f)
	defer w.view.Close()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan struct{})
	go func() { // the end is shown at once, not at the next look
		defer close(ended)
		_ = f.temporal.GetWorkflow(ctx, fleet.WorkflowID(name), "").Get(ctx, nil)
	}()
	patience := newPatience()
	for {
		status, err := f.status(ctx, name)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			patience.answered()
			if err := w.show(ctx, status); err != nil {
				return err
			}
			if over(status.Status) {
				return fleetOutcome(status)
			}
		default:
			if err := patience.bear(f.errOut, w.view, err); err != nil {
				return err
			}
		}
		timer := time.NewTimer(watchEvery)
		select {
		case <-timer.C:
		case <-ended:
			ended = nil
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

func over(state fleet.State) bool {
	return state == fleet.Completed || state == fleet.CompletedWithFailures || state == fleet.Cancelled
}

// fleetOutcome is nil for a fleet that is Completed, and says what is wrong with another.
func fleetOutcome(status *fleet.Status) error {
	if status.Status == fleet.Completed {
		return nil
	}
	text := fmt.Sprintf("fleet %s is %s", status.Name, status.Status)
	if status.Reason != "" {
		text += ": " + status.Reason
	}
	for _, s := range status.Servers {
		if s.Phase == fleet.PhaseFailed || s.Phase == fleet.PhaseCancelled && s.Error != "" {
			text += fmt.Sprintf("\n  %s: %s", s.Name, noteOf(s))
		}
	}
	return errors.New(text)
}

// fleetWatch shows a fleet again and again.
type fleetWatch struct {
	*fleets
	view     *progress.View
	rows     func() int  // of the terminal; 0 means any number
	endpoint *smc.Client // nil when the environment names none

	mu     sync.Mutex
	detail map[string]*smc.DescribeReplicationJobDetailsResult // by job, the last of those Running

	last   []byte             // what was printed last as JSON
	status *fleet.Status      // what was shown last
	far    map[string]float64 // percent by SourceId, for those whose job rests
	asked  time.Time          // when the endpoint was asked last
	every  time.Duration      // how often it is asked
}

func newFleetWatch(f *fleets) *fleetWatch {
	view := progress.NewView(f.out, progress.Auto)
	w := &fleetWatch{
		fleets: f, view: view, rows: view.Rows, every: watchEvery,
		detail: map[string]*smc.DescribeReplicationJobDetailsResult{}, far: map[string]float64{},
	}
	endpoint, err := f.client()
	if err != nil {
		f.log.Sugar().Debugf("no live progress: %v", err)
		return w
	}
	w.endpoint = endpoint
	return w
}

func (w *fleetWatch) show(ctx context.Context, status *fleet.Status) error {
	if w.json() {
		line, err := json.Marshal(status)
		if err != nil || bytes.Equal(line, w.last) {
			return err
		}
		w.last = line
		return w.printLine(status)
	}
	w.lookAtJobs(ctx, status)
	switch last := w.status; {
	case last == nil:
		done, failed, open := status.Counts()
		w.view.Printf("fleet %s is %s: %s, %d done, %d failed, %d to go", status.Name, status.Status, plural(len(status.Servers), "server"), done, failed, open)
	case last.Status != status.Status:
		w.view.Printf("fleet %s is %s%s", status.Name, status.Status, colon(status.Reason))
	case last.Wave != status.Wave:
		w.view.Printf("fleet %s begins wave %s", status.Name, status.Wave)
	}
	w.status = status
	w.view.Update(w.states(status)...)
	return nil
}

func colon(text string) string {
	if text == "" {
		return ""
	}
	return ": " + text
}

// lookAtJobs asks the endpoint how far the running jobs are. That it does not answer is no reason to stop watching.
func (w *fleetWatch) lookAtJobs(ctx context.Context, status *fleet.Status) {
	if w.endpoint == nil || time.Since(w.asked) < w.every {
		return
	}
	w.asked = time.Now()
	ctx, cancel := context.WithTimeout(ctx, temporalQueryTimeout)
	defer cancel()
	clear(w.detail)
	var calls errgroup.Group
	calls.SetLimit(parallelCalls)
	for _, s := range status.Servers {
		if s.JobID == "" || s.Status != string(smc.StatusRunning) || s.Phase.Ended() {
			continue
		}
		calls.Go(func() error {
			d, coarse, err := liveDetail(ctx, w.endpoint, s.JobID)
			w.mu.Lock()
			defer w.mu.Unlock()
			if err != nil {
				w.log.Sugar().Debugf("job %s: %v", s.JobID, err)
				return nil
			}
			if coarse {
				w.every = watchEveryCoarse
			}
			w.detail[s.JobID] = d
			return nil
		})
	}
	_ = calls.Wait() // none returns one
}

// row is a line of the view and how much it matters when not all fit.
type row struct {
	progress.State
	rank int
}

// states makes a line for each wave, and below it one for each of its servers.
func (w *fleetWatch) states(status *fleet.Status) []progress.State {
	var rows []row
	for from := 0; from < len(status.Servers); {
		to := from + 1
		for to < len(status.Servers) && status.Servers[to].Wave == status.Servers[from].Wave {
			to++
		}
		rows = append(rows, w.waveRows(status.Servers[from:to])...)
		from = to
	}
	return fit(rows, w.rows()-1)
}

func (w *fleetWatch) waveRows(servers []fleet.MigrationStatus) []row {
	wave := progress.State{Name: servers[0].Wave, ETA: -1, Resting: true}
	rows := []row{{}}
	begun := false
	for _, s := range servers {
		begun = begun || s.Phase != fleet.PhasePending
		state := w.serverState(s)
		wave.Percent += state.Percent / float64(len(servers))
		// Without a terminal a line is for what has happened; that all others wait is none.
		if s.Phase != fleet.PhasePending || w.view.Live() {
			rows = append(rows, row{state, rankOf(s.Phase)})
		}
	}
	done, failed, _ := fleet.Status{Servers: servers}.Counts()
	wave.Phase = fmt.Sprintf("%d/%d done", done, len(servers))
	if failed > 0 {
		wave.Note = fmt.Sprintf("%d failed", failed)
	}
	if !begun && !w.view.Live() {
		return nil
	}
	rows[0] = row{wave, 0}
	return rows
}

// rankOf says what is dropped first when a fleet is larger than the terminal: the largest rank.
func rankOf(phase fleet.Phase) int {
	switch phase {
	case fleet.PhaseFailed, fleet.PhaseBackoff, fleet.PhaseCancelling:
		return 1
	case fleet.PhaseWaiting, fleet.PhaseQueued, fleet.PhaseScheduled:
		return 3
	case fleet.PhasePending:
		return 4
	case fleet.PhaseDone, fleet.PhaseCancelled:
		return 5
	}
	return 2
}

// fit drops rows until at most that many are left, in their order; with most <= 0 all stay.
func fit(rows []row, most int) []progress.State {
	kept := make([]int, len(rows))
	for i := range kept {
		kept[i] = i
	}
	if most > 0 && most < len(rows) {
		slices.SortStableFunc(kept, func(a, b int) int { return rows[a].rank - rows[b].rank })
		kept = kept[:most]
		slices.Sort(kept)
	}
	states := make([]progress.State, len(kept))
	for i, n := range kept {
		states[i] = rows[n].State
	}
	return states
}

// shortPhases are those whose name is too long for the view.
var shortPhases = map[fleet.Phase]string{fleet.PhaseReplicate: "Running", fleet.PhaseCuttingOver: "CutOver"}

func (w *fleetWatch) serverState(s fleet.MigrationStatus) progress.State {
	name := "  " + s.Name
	if d := w.detail[s.JobID]; d != nil && d.Status == smc.StatusRunning && s.Status == string(smc.StatusRunning) {
		state := progress.OfJob(name, d)
		w.far[s.SourceID] = state.Percent
		return state
	}
	state := progress.State{Name: name, Phase: string(s.Phase), Run: s.Runs, Percent: w.far[s.SourceID], ETA: -1, Resting: true}
	if short, ok := shortPhases[s.Phase]; ok {
		state.Phase = short
	}
	switch s.Phase {
	case fleet.PhaseWaiting, fleet.PhaseVerifying, fleet.PhaseCleaningUp, fleet.PhaseDone:
		state.Percent = 100
	}
	switch {
	case s.Phase == fleet.PhaseDone:
		state.Note = s.ImageID
	case s.Error != "":
		state.Note = firstLine(s.Error)
	case w.view.Live() || s.Phase != fleet.PhaseQueued: // how many are ahead changes too often for a line each
		state.Note = firstLine(s.Reason)
	}
	return state
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}
