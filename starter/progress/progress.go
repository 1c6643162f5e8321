// Package progress shows how far replication jobs are: bars that are redrawn in place on a terminal, and lines
// anywhere else.
package progress

import (
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/drover/drover/smc"
)

// State is how far one job, or another long operation, is.
type State struct {
	// Name is what a person calls it.
	Name string
	// Phase says in a word what is going on: "Syncing", "Waiting".
	Phase string
	// Run is the number of the run; 0 leaves it out.
	Run int
	// Percent is 0 to 100.
	Percent float64
	// BytesTotal and BytesRead are shown when BytesTotal is known.
	BytesTotal int64
	BytesRead  int64
	// BytesPerSecond is the present rate; 0 leaves it out.
	BytesPerSecond int64
	// ETA is the time left; negative means that it cannot be said.
	ETA time.Duration
	// Note is shown at the end of the line: an error code, what a run waits for, an image id.
	Note string
	// Resting says that nothing goes on: there is no rate and no time left to show.
	Resting bool
}

// OfJob makes the state of a job from its live detail.
func OfJob(name string, d *smc.DescribeReplicationJobDetailsResult) State {
	s := State{
		Name: name, Phase: string(d.Status), Run: d.Run, Percent: d.Progress,
		BytesTotal: d.BytesTotal, BytesRead: d.BytesRead, BytesPerSecond: d.BytesPerSecond,
		ETA: time.Duration(d.EtaSeconds) * time.Second, Resting: d.Status != smc.StatusRunning,
	}
	if d.Status == smc.StatusRunning && d.BusinessStatus != "" {
		s.Phase = string(d.BusinessStatus)
	}
	// What is read and not yet confirmed, and the phases after, have no rate that means anything.
	if d.BusinessStatus != smc.BusinessSyncing || d.BytesRead >= d.BytesTotal {
		s.BytesPerSecond, s.ETA = 0, -1
	}
	switch {
	case d.ErrorCode != "":
		s.Note = d.ErrorCode
	case d.Status == smc.StatusRunning && d.BytesPerSecond == 0:
		s.Note = d.StatusInfo // what keeps it from getting on
	case s.Resting && len(d.Runs) > 0:
		s.Note = d.Runs[len(d.Runs)-1].ImageID
	}
	return s
}

// Mode says how a View shows things.
type Mode int

const (
	// Auto is Bars on a terminal and Lines elsewhere.
	Auto Mode = iota
	// Bars are redrawn in place.
	Bars
	// Lines are printed when something changed that is worth a line.
	Lines
)

// A line is due when the phase has changed, the progress has gone this far, or this much time has passed with
// some progress.
const (
	lineStep  = 20.0
	lineEvery = 5 * time.Second
)

// View shows states. It is safe for concurrent use.
type View struct {
	mu    sync.Mutex
	w     io.Writer
	bars  bool
	ascii bool
	width func() int
	rows  func() int // of the terminal; 0 means any number
	now   func() time.Time

	drawn  int // lines of bars on the terminal
	states []State
	shown  map[string]shown // by name: what the last line said
}

type shown struct {
	state State
	at    time.Time
}

// NewView returns a view that writes to w.
func NewView(w io.Writer, mode Mode) *View {
	v := &View{
		w: w, bars: mode == Bars, ascii: !utf8Locale(os.Getenv), now: time.Now, shown: map[string]shown{},
		width: func() int { return 100 }, rows: func() int { return 0 },
	}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) { //nolint:gosec // a file descriptor fits
		if mode == Auto {
			v.bars = os.Getenv("TERM") != "dumb"
		}
		v.width = func() int {
			columns, _, err := term.GetSize(int(f.Fd())) //nolint:gosec // a file descriptor fits
			if err != nil || columns < 20 {
				return 80
			}
			return columns
		}
		v.rows = func() int {
			_, rows, err := term.GetSize(int(f.Fd())) //nolint:gosec // a file descriptor fits
			if err != nil {
				return 0
			}
			return rows
		}
	}
	return v
}

// Live reports whether bars are redrawn in place, so that it is worth to update often.
func (v *View) Live() bool { return v.bars }

// Rows returns how many rows the terminal has; 0 means any number.
func (v *View) Rows() int { return v.rows() }

// utf8Locale follows the precedence of the locale variables.
func utf8Locale(getenv func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if value := getenv(name); value != "" {
			upper := strings.ToUpper(value)
			return strings.Contains(upper, "UTF-8") || strings.Contains(upper, "UTF8")
		}
	}
	return false
}

// Update shows new states, in their order. Names tell them apart.
func (v *View) Update(states ...State) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.states = append(v.states[:0], states...)
	if v.bars {
		var b strings.Builder
		v.erase(&b)
		v.draw(&b)
		v.write(b.String())
		return
	}
	for _, s := range states {
		if v.due(s) {
			v.shown[s.Name] = shown{s, v.now()}
			v.write(v.line(s, v.nameWidth()) + "\n")
		}
	}
}

// Printf prints a line above the bars.
func (v *View) Printf(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var b strings.Builder
	v.erase(&b)
	b.WriteString(strings.TrimRight(fmt.Sprintf(format, args...), "\n") + "\n")
	if v.bars {
		v.draw(&b)
	}
	v.write(b.String())
}

// Close leaves what was drawn last on the terminal and forgets it: a later Update draws below.
func (v *View) Close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.drawn, v.states = 0, nil
}

// Clear takes the bars off the terminal.
func (v *View) Clear() {
	v.mu.Lock()
	defer v.mu.Unlock()
	var b strings.Builder
	v.erase(&b)
	v.states = nil
	v.write(b.String())
}

// write is best effort: a terminal that went away is no reason to fail the operation it shows.
func (v *View) write(s string) { _, _ = io.WriteString(v.w, s) }

// erase moves to the first line of the bars and clears from there.
func (v *View) erase(b *strings.Builder) {
	if v.drawn > 0 {
		fmt.Fprintf(b, "\x1b[%dA\r\x1b[J", v.drawn)
	}
	v.drawn = 0
}

// draw draws the bars, as many as the terminal has rows for: what has scrolled away cannot be erased.
func (v *View) draw(b *strings.Builder) {
	columns, name := v.width(), v.nameWidth()
	states, more := v.states, ""
	if rows := v.rows(); rows > 0 && len(states) >= rows {
		states = states[:max(rows-2, 0)]
		more = clip(fmt.Sprintf("and %d more", len(v.states)-len(states)), columns-1) + "\n"
	}
	cells := maxCells
	for _, s := range states {
		cells = min(cells, columns-1-Width(head(s, name))-Width(figures(s)))
	}
	cells = max(cells, minCells)
	for _, s := range states {
		// A line that wraps would spoil the count of lines to erase.
		b.WriteString(clip(v.bar(s, name, cells), columns-1) + "\n")
	}
	b.WriteString(more)
	v.drawn = len(states)
	if more != "" {
		v.drawn++
	}
}

func (v *View) nameWidth() int {
	n := 0
	for _, s := range v.states {
		n = max(n, Width(s.Name))
	}
	return min(n, 32)
}

func (v *View) due(s State) bool {
	last, ok := v.shown[s.Name]
	switch {
	case !ok, last.state.Phase != s.Phase, last.state.Run != s.Run, last.state.Note != s.Note:
		return true
	case last.state.Percent == s.Percent && last.state.BytesRead == s.BytesRead:
		return false
	}
	return s.Percent-last.state.Percent >= lineStep || v.now().Sub(last.at) >= lineEvery
}

const (
	phaseWidth = 10 // of "Processing" and "Preparing"
	// A bar takes what the rest of the line leaves of the terminal, within these bounds.
	minCells = 8
	maxCells = 30
)

func head(s State, nameWidth int) string {
	return Pad(clip(s.Name, nameWidth), nameWidth) + "  " + Pad(s.Phase, phaseWidth) + "  "
}

// bar renders a state with a bar of that many cells.
func (v *View) bar(s State, nameWidth, cells int) string {
	full, empty := "█", "░"
	if v.ascii {
		full, empty = "#", "."
	}
	done := min(max(int(s.Percent/100*float64(cells)), 0), cells)
	return head(s, nameWidth) + strings.Repeat(full, done) + strings.Repeat(empty, cells-done) + figures(s)
}

func (v *View) line(s State, nameWidth int) string {
	return head(s, max(nameWidth, Width(s.Name))) + strings.TrimPrefix(figures(s), " ")
}

// wholeSeconds is Duration without tenths: a guess is not that exact.
func wholeSeconds(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%ds", int64(math.Ceil(d.Seconds())))
	}
	return Duration(d)
}

// figures renders percent, bytes, rate, time left, run and note in columns that do not move. With a bar of eight cells
// and a short name all up to the time left fits into 80 columns.
func figures(s State) string {
	var b strings.Builder
	b.WriteString(" " + PadLeft(Percent(s.Percent), 4))
	amount, rate, eta := "", "", ""
	if s.BytesTotal > 0 {
		amount = PadLeft(Bytes(s.BytesRead), 9) + "/" + PadLeft(Bytes(s.BytesTotal), 9)
	}
	if !s.Resting && s.BytesPerSecond > 0 {
		rate = Rate(s.BytesPerSecond)
	}
	if !s.Resting && s.ETA >= 0 {
		eta = "ETA " + wholeSeconds(s.ETA)
	}
	b.WriteString("  " + Pad(amount, 19) + "  " + PadLeft(rate, 11) + "  " + Pad(eta, 10))
	if s.Run > 0 {
		fmt.Fprintf(&b, "  run %d", s.Run)
	}
	if s.Note != "" {
		b.WriteString("  " + s.Note)
	}
	return strings.TrimRight(b.String(), " ")
}
