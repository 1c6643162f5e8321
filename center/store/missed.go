package store

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/drover/drover/smc"
)

// Missed counts the points of a job's grid that had no run since its last run ended, by what was in their way, and says what
// a start that is due waits for. It is kept until the next run ends (CONTRACT: Grid).
type Missed struct {
	Running int `json:",omitempty"` // a run was still going on
	Queued  int `json:",omitempty"` // the job waited for a running slot
	Offline int `json:",omitempty"` // the source was Unavailable
	NoHost  int `json:",omitempty"` // no transition host lived
	Down    int `json:",omitempty"` // nobody looked: the center, its workers or its database were down
	// Last is the last of them.
	Last time.Time `json:",omitzero"`
	// DueAt is the start that is due and waits, WaitsFor the code of what it waits for; zero when none does.
	DueAt    time.Time `json:",omitzero"`
	WaitsFor string    `json:",omitempty"`
}

// late is how long after a point its run may start and still count as its run.
const late = 5 * time.Minute

func (m *Missed) add(kind *int, n int, last time.Time) {
	if n > 0 {
		*kind += n
		m.Last = last
	}
}

// points is how many points were missed.
func (m *Missed) points() int { return m.Running + m.Offline + m.NoHost + m.Down }

// kind is the count of the points that were missed for want of what the code says.
func (m *Missed) kind(code string) *int {
	switch code {
	case smc.CodeSourceServerStateInvalid:
		return &m.Offline
	case smc.CodeTransitionHostUnavailable:
		return &m.NoHost
	}
	return &m.Down
}

// reckon counts the points of the grid that are missed for good as a start is attempted: all but the newest, whose start
// this is, and that one too when it is long past.
func (j *Job) reckon(now time.Time) {
	if j.Status != smc.StatusWaiting {
		return
	}
	m := &j.Missed
	n, last := j.Schedule().points(later(j.GridThrough, m.Last), now)
	if n == 0 {
		return
	}
	before := last.Add(-j.Schedule().Frequency)
	waited := m.WaitsFor != "" && m.DueAt.After(later(j.GridThrough, m.Last)) // for one of these n
	switch {
	case waited && m.DueAt.Equal(last):
		m.add(&m.Down, n-1, before)
	case waited:
		m.add(m.kind(m.WaitsFor), 1, m.DueAt)
		m.add(&m.Down, n-2, before)
	default:
		m.add(&m.Down, n-1, before)
	}
	if now.Sub(last) > late && !(waited && m.DueAt.Equal(last)) {
		m.add(&m.Down, 1, last)
	}
}

// endOfQueue counts the points that passed while the job was queued. The run that is admitted is that of the newest.
func (j *Job) endOfQueue(now time.Time) {
	if j.Status != smc.StatusWaiting {
		return
	}
	n, last := j.Schedule().points(j.GridThrough, now)
	if n == 0 {
		return
	}
	missed := last
	if !j.Queue.Due.IsZero() { // the point it was queued for is missed in place of the newest
		missed = last.Add(-j.Schedule().Frequency)
	}
	j.Missed.add(&j.Missed.Queued, n, missed)
	j.GridThrough = later(j.GridThrough, last)
}

// endOfRun counts the points that a run went on over.
func (j *Job) endOfRun(now time.Time) {
	j.Missed = Missed{}
	if j.Status == smc.StatusWaiting {
		n, last := j.Schedule().points(j.GridThrough, now)
		j.Missed.add(&j.Missed.Running, n, last)
	}
}

// encode is the form in which Missed is stored.
func (m Missed) encode() (string, error) {
	if m == (Missed{}) {
		return "", nil
	}
	text, err := json.Marshal(m)
	return string(text), err
}

func (m *Missed) decode(text string) error {
	if text == "" {
		return nil
	}
	return json.Unmarshal([]byte(text), m)
}

// timing is what StatusInfo says of the points that were missed, and of what a due start waits for; empty when there is
// nothing to say.
func (j *Job) timing() string {
	var parts []string
	if m := j.Missed; m != (Missed{}) && smc.Unfinished(j.Status) {
		if waiting := m.waiting(); waiting != "" {
			parts = append(parts, waiting)
		}
		if missed := m.missed(); missed != "" {
			if j.Status == smc.StatusWaiting || j.Status == smc.StatusRunning {
				missed += "; the next point is at " + j.Schedule().pointAfter(later(j.GridThrough, later(m.Last, m.DueAt))).Format(time.RFC3339)
			}
			parts = append(parts, missed)
		}
	}
	return strings.Join(parts, "; ")
}

// waiting says what a due start waits for.
func (m Missed) waiting() string {
	due := "the run due at " + m.DueAt.Format(time.RFC3339) + " waits: "
	switch m.WaitsFor {
	case "":
		return ""
	case smc.CodeSourceServerStateInvalid:
		return due + "the source server is Unavailable; the run starts by itself when the agent is back"
	case smc.CodeTransitionHostUnavailable:
		return due + "no transition host that could do it has reported lately; the run starts by itself when its worker with the role transition is back"
	}
	return due + m.WaitsFor
}

// missed says how many points were missed, and why.
func (m Missed) missed() string {
	var why []string
	total := 0
	for _, kind := range []struct {
		n    int
		text string
	}{
		{m.Running, "while a run was still going on"},
		{m.Queued, "while the job waited for a running slot"},
		{m.Offline, "while the source server was Unavailable"},
		{m.NoHost, "while no transition host was there"},
		{m.Down, "while the center was down"},
	} {
		if kind.n > 0 {
			total += kind.n
			why = append(why, fmt.Sprintf("%d %s", kind.n, kind.text))
		}
	}
	if total == 0 {
		return ""
	}
	return fmt.Sprintf("missed %d of the points for a run (%s), the last at %s", total, strings.Join(why, ", "), m.Last.Format(time.RFC3339))
}
