package store

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/drover/drover/events"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/test/property"
)

// model is what CONTRACT's table of job states, its queue, its grid and its ValidTime make of an account, written down a second time
// and without a database. TestStoreAgainstAModel holds the store against it.
type model struct {
	*rapid.T
	f       *fixture
	account string
	n       int // of all keys and names
	quota   int
	over    int // how many ran when the quota was lowered below it
	sources []*modelSource
	jobs    []*modelJob // that are not gone
	gone    []*modelJob
	queue   []*modelJob // in their order
	beats   map[string]time.Time
}

type modelSource struct {
	*Source
	online bool
}

type modelJob struct {
	id        string
	source    *modelSource
	once      bool
	keep      int
	frequency time.Duration
	created   time.Time

	status   smc.JobStatus
	phase    smc.BusinessStatus
	run      int
	final    bool // the last run of a cutover
	host     string
	sequence int64
	verify   bool // its error is a damaged synced state

	valid, scheduledText string // as they were given; "absent" when they were not

	place                                 *Queue
	first, through, scheduled, validUntil time.Time
	gridPhase                             time.Duration
	images                                []int        // runs whose image is there
	busy                                  map[int]bool // those of them that are being read
}

var modelHosts = []string{"i-one", "i-two"}

func (j *modelJob) String() string {
	return fmt.Sprintf("%s (%s %s, run %d, event %d)", j.id, j.status, j.phase, j.run, j.sequence)
}

func (s *modelSource) String() string { return s.SourceID }

func (m *model) now() time.Time { return m.f.clock.read() }

func (m *model) key() string {
	m.n++
	return fmt.Sprintf("key %d of %s", m.n, m.account)
}

// do does what is written under a key, and sometimes once more, as an activity whose answer was lost.
func (m *model) do(want string, fn func() error) (done bool) {
	err := fn()
	require.Equal(m, want, smc.CodeOf(err), "%v", err)
	if want == "" {
		require.NoError(m, err)
		if rapid.Bool().Draw(m.T, "answer lost") {
			require.NoError(m, fn())
		}
	}
	return want == ""
}

func (m *model) alive(host string) bool { return !m.beats[host].Before(m.now().Add(-hostAlive)) }

func (m *model) anyAlive() bool { return slices.ContainsFunc(modelHosts, m.alive) }

// able says whether a queued job could run at once.
func (m *model) able(j *modelJob) bool {
	return j.source.online && (j.host == "" && m.anyAlive() || j.host != "" && m.alive(j.host))
}

func (m *model) running() (n int) {
	for _, j := range m.jobs {
		if j.status == smc.StatusRunning {
			n++
		}
	}
	return n
}

// slotFree says whether there is a slot for a job behind those of the queue.
func (m *model) slotFree(before []*modelJob) bool {
	taken := m.running()
	for _, j := range before {
		if m.able(j) && j.place.Unanswered < mostUnanswered {
			taken++
		}
	}
	return m.running() < m.quota && taken < m.quota
}

func (m *model) leaveQueue(j *modelJob) {
	j.place = nil
	m.queue = slices.DeleteFunc(m.queue, func(q *modelJob) bool { return q == j })
}

// move is a transition to a status.
func (m *model) move(j *modelJob, status smc.JobStatus) {
	if status != j.status {
		m.leaveQueue(j)
	}
	j.status = status
	j.sequence++
}

func (j *modelJob) in(statuses ...smc.JobStatus) bool { return slices.Contains(statuses, j.status) }

// rests says whether the job is in a status in which it may expire.
func (j *modelJob) rests() bool {
	return j.in(smc.StatusReady, smc.StatusStopped, smc.StatusInError, smc.StatusWaiting)
}

func (m *model) lapsed(j *modelJob) bool { return j.rests() && !j.validUntil.After(m.now()) }

// due is when the job is to be started by itself.
func (j *modelJob) due() (time.Time, bool) {
	switch {
	case j.place != nil:
	case j.status == smc.StatusReady && !j.scheduled.IsZero():
		return j.scheduled, true
	case j.status == smc.StatusWaiting:
		at := j.first.Add(j.gridPhase)
		for !at.After(j.through) {
			at = at.Add(j.frequency)
		}
		return at, true
	}
	return time.Time{}, false
}

// begin makes a job Running as it was asked for.
func (m *model) begin(j *modelJob, asked Queue) {
	now := m.now()
	row := m.row(j)
	if j.host == "" {
		j.host = row.HostID
		require.True(m, m.alive(j.host), "the host is one that reports")
	}
	switch {
	case j.in(smc.StatusReady, smc.StatusWaiting):
		j.run++
		j.phase = smc.BusinessPreparing
	case j.phase == smc.BusinessSyncing || j.verify:
		j.phase = smc.BusinessPreparing
	}
	if j.first.IsZero() {
		j.gridPhase = row.GridPhase
		require.Less(m, j.gridPhase, max(1, j.frequency/4))
		j.first, j.through = now, now.Add(j.gridPhase)
	} else {
		j.through = later(j.through, later(now, asked.Due))
	}
	j.final, j.verify = j.final || asked.CutOver != CutOverNone, false
	m.move(j, smc.StatusRunning)
}

// start asks for a run.
func (m *model) start(j *modelJob, asked Queue, from ...smc.JobStatus) {
	want := ""
	joined := j.place != nil && j.place.joined(asked) == *j.place
	switch {
	case !j.in(from...):
		want = smc.CodeReplicationJobInvalidStatus
	case joined:
	case !j.source.online:
		want = smc.CodeSourceServerStateInvalid
	case j.place != nil || !m.slotFree(m.queue):
	case j.host != "" && !m.alive(j.host), j.host == "" && !m.anyAlive():
		want = smc.CodeTransitionHostUnavailable
	}
	key := m.key()
	runs := want == "" && j.place == nil && m.slotFree(m.queue)
	if !m.do(want, func() error {
		start, err := m.f.startOrDue(j.id, key, asked)
		if err == nil {
			require.Equal(m, runs, start.Queued == 0 && !start.Over)
		}
		return err
	}) {
		if sequence := m.row(j).Sequence; !asked.Due.IsZero() && sequence == j.sequence+1 {
			j.sequence = sequence // what it waits for is told once
		}
		return
	}
	switch {
	case runs:
		m.begin(j, asked)
	case joined:
	case j.place != nil:
		place := j.place.joined(asked)
		j.place = &place
		j.sequence++
	default:
		j.sequence++
		asked.Ticket = j.sequence
		j.place = &asked
		if !j.first.IsZero() {
			j.through = later(j.through, later(m.now(), asked.Due))
		}
		m.queue = append(m.queue, j)
	}
}

// startOrDue is StartRun, or StartDueRun when it is due.
func (f *fixture) startOrDue(id, key string, asked Queue) (*RunStart, error) {
	if !asked.Due.IsZero() {
		return f.StartDueRun(f.ctx, id, key, asked.Due)
	}
	return f.StartRun(f.ctx, id, key, asked.Trigger, asked.Type, asked.CutOver)
}

func (m *model) row(j *modelJob) *Job {
	job, err := m.f.Job(m.f.ctx, m.account, j.id)
	require.NoError(m, err)
	return job
}

func (m *model) pick() *modelJob {
	if len(m.jobs) == 0 {
		m.Skip("no job")
	}
	return rapid.SampledFrom(m.jobs).Draw(m.T, "job")
}

// pickIn is a job in one of the statuses.
func (m *model) pickIn(statuses ...smc.JobStatus) *modelJob {
	var jobs []*modelJob
	for _, j := range m.jobs {
		if j.in(statuses...) {
			jobs = append(jobs, j)
		}
	}
	if len(jobs) == 0 {
		m.Skip("none of that status")
	}
	return rapid.SampledFrom(jobs).Draw(m.T, "job")
}

func (m *model) create() {
	s := rapid.SampledFrom(m.sources).Draw(m.T, "source")
	j := &modelJob{source: s, once: rapid.Bool().Draw(m.T, "once"), keep: 1, created: m.now(), status: smc.StatusReady, sequence: 1, busy: map[int]bool{}, valid: "absent", scheduledText: "absent"}
	spec := smc.CreateReplicationJobRequest{RegionID: region, SourceID: s.SourceID}
	if !j.once {
		once, hours := false, rapid.IntRange(1, 3).Draw(m.T, "hours")
		j.keep = rapid.IntRange(1, 3).Draw(m.T, "keep")
		spec.RunOnce, spec.Frequency, spec.MaxNumberOfImageToKeep = &once, &hours, &j.keep
		j.frequency = time.Duration(hours) * time.Hour
	}
	if rapid.Bool().Draw(m.T, "scheduled") {
		j.scheduled = m.now().Add(time.Hour).Truncate(time.Second)
		text := smc.FormatTime(j.scheduled)
		spec.ScheduledStartTime, j.scheduledText = &text, text
	}
	want := ""
	held := slices.ContainsFunc(m.jobs, func(j *modelJob) bool { return j.source == s && smc.Unfinished(j.status) })
	if held || !s.online {
		want = smc.CodeSourceServerStateInvalid
	}
	id, err := m.f.CreateJob(m.f.ctx, m.account, spec, 1000)
	require.Equal(m, want, smc.CodeOf(err), "%v", err)
	if want == "" {
		j.id = id
		j.validUntil = m.row(j).ValidUntil
		m.jobs = append(m.jobs, j)
	}
}

// proceed takes a Running job one step on.
func (m *model) proceed() {
	j, f, key := m.pickIn(smc.StatusRunning), m.f, m.key()
	switch j.phase {
	case smc.BusinessPreparing:
		m.do("", func() error { return f.BeginSync(f.ctx, j.id, key, j.run, hostURL, 1) })
		j.phase = smc.BusinessSyncing
	case smc.BusinessSyncing:
		m.do("", func() error { return f.EndSync(f.ctx, j.id, key, j.run) })
		j.phase = smc.BusinessProcessing
	case smc.BusinessProcessing:
		m.do("", func() error {
			return f.EndProcessing(f.ctx, j.id, key, j.run, imageName(j.id, j.run), []ImageDisk{{SizeBytes: 1}})
		})
		j.phase = smc.BusinessCleaning
		j.images = append(j.images, j.run)
	case smc.BusinessCleaning:
		m.prune(j)
		final := j.once || j.final
		m.do("", func() error { _, err := f.EndRun(f.ctx, j.id, key, j.run, final); return err })
		m.move(j, smc.StatusWaiting)
		if final {
			j.status, j.host = smc.StatusFinished, ""
		}
		return
	}
	j.sequence++
}

// prune deletes the earliest images over the limit that are not in use, as a run does.
func (m *model) prune(j *modelJob) {
	if j.once {
		return
	}
	over := len(j.images) - j.keep
	for _, run := range slices.Clone(j.images[:len(j.images)-1]) {
		if over > 0 && !j.busy[run] {
			over--
			j.images = slices.DeleteFunc(j.images, func(r int) bool { return r == run })
		}
	}
	condemned, held, err := m.f.CondemnImages(m.f.ctx, j.id, j.keep, func(imageID string) bool {
		for run, busy := range j.busy {
			if busy && imageName(j.id, run) == imageID {
				return true
			}
		}
		return false
	})
	require.NoError(m, err)
	require.Equal(m, max(0, over), held)
	for _, image := range condemned {
		require.NoError(m, m.f.DeleteImage(m.f.ctx, image.ImageID))
	}
}

func (m *model) stop() {
	j, want, now := m.pick(), "", m.now()
	switch {
	case j.place != nil:
	case j.status != smc.StatusRunning:
		want = smc.CodeReplicationJobInvalidStatus
	case j.phase != smc.BusinessSyncing:
		want = smc.CodeReplicationJobInvalidBusinessStatus
	}
	key := m.key()
	if !m.do(want, func() error { return m.f.Stop(m.f.ctx, j.id, key) }) {
		return
	}
	if j.place == nil {
		m.move(j, smc.StatusStopped)
		return
	}
	now = later(now, j.place.Due)
	if j.through = later(j.through, now); !j.scheduled.IsZero() && !j.scheduled.After(now) {
		j.scheduled, j.scheduledText = time.Time{}, "absent"
	}
	m.leaveQueue(j)
	j.sequence++
}

func (m *model) remove() {
	j, want, key := m.pick(), "", m.key()
	if j.in(smc.StatusRunning, smc.StatusDeleting) {
		want = smc.CodeReplicationJobInvalidStatus
	}
	if m.do(want, func() error { return m.f.BeginDelete(m.f.ctx, j.id, key) }) {
		m.move(j, smc.StatusDeleting)
	}
}

// release is what an entity does of a job that has no more runs, and of one that is being deleted.
func (m *model) release() {
	j := m.pickIn(smc.StatusFinished, smc.StatusExpired, smc.StatusDeleting)
	require.NoError(m, m.f.MarkReleased(m.f.ctx, j.id, j.host))
	j.host = ""
	if j.status != smc.StatusDeleting {
		return
	}
	m.do("", func() error { return m.f.EndDelete(m.f.ctx, j.id, KeyDeleted) })
	j.sequence++
	m.jobs = slices.DeleteFunc(m.jobs, func(other *modelJob) bool { return other == j })
	m.gone = append(m.gone, j)
}

func (m *model) expire() {
	j := m.pick()
	key := m.key()
	lapsed := m.lapsed(j)
	schedule, err := m.f.Expire(m.f.ctx, j.id, key, m.now())
	if !lapsed {
		require.ErrorIs(m, err, ErrSuperseded)
		return
	}
	require.NoError(m, err)
	m.move(j, smc.StatusExpired)
	require.Equal(m, m.now().Add(smc.ExpiredRetention), schedule.ClearAt)
}

func (m *model) admit() {
	f := m.f
	turns, err := f.Admissible(f.ctx)
	require.NoError(m, err)
	var got []string
	for _, turn := range turns {
		if slices.ContainsFunc(m.jobs, func(j *modelJob) bool { return j.id == turn.JobID }) {
			got = append(got, turn.JobID)
		}
	}
	var want []string
	for _, silent := range []bool{false, true} {
		for _, j := range m.queue {
			if m.able(j) && (j.place.Unanswered >= mostUnanswered) == silent && len(want) < m.quota-m.running() {
				want = append(want, j.id)
			}
		}
	}
	require.Equal(m, want, got)
	if len(m.queue) == 0 {
		return
	}
	// Whoever is told, in turn or not.
	j := rapid.SampledFrom(m.queue).Draw(m.T, "told")
	asked, ticket := *j.place, j.place.Ticket
	if rapid.IntRange(0, 3).Draw(m.T, "answers") == 0 {
		require.NoError(m, f.NoteUnanswered(f.ctx, j.id, ticket))
		j.place.Unanswered = min(j.place.Unanswered+1, mostUnanswered)
		return
	}
	runs := m.able(j) && m.slotFree(m.queue[:slices.Index(m.queue, j)])
	m.do("", func() error {
		start, err := f.Admit(f.ctx, j.id, ticket)
		if err == nil {
			require.Equal(m, runs, start.Queued == 0)
		}
		return err
	})
	j.place.Unanswered = 0
	if runs {
		m.begin(j, asked)
	}
}

func (m *model) modify() {
	j, want := m.pick(), ""
	request := smc.ModifyReplicationJobAttributeRequest{JobID: j.id}
	var apply func() (changed bool)
	switch rapid.SampledFrom([]string{"frequency", "keep", "valid", "schedule"}).Draw(m.T, "what") {
	case "frequency":
		hours := rapid.IntRange(1, 3).Draw(m.T, "hours")
		request.Frequency = &hours
		if !j.in(smc.StatusReady, smc.StatusWaiting) {
			want = smc.CodeReplicationJobInvalidStatus
		} else if j.once {
			want = smc.CodeInvalidParameter
		}
		apply = func() bool {
			frequency := time.Duration(hours) * time.Hour
			if frequency == j.frequency {
				return false
			}
			j.frequency, j.through = frequency, m.now()
			return true
		}
	case "keep":
		keep := rapid.IntRange(1, 3).Draw(m.T, "keep")
		request.MaxNumberOfImageToKeep = &keep
		if !j.in(smc.StatusReady, smc.StatusWaiting) {
			want = smc.CodeReplicationJobInvalidStatus
		} else if j.once {
			want = smc.CodeInvalidParameter
		}
		apply = func() bool {
			changed := keep != j.keep
			j.keep = keep
			return changed
		}
	case "valid":
		until := j.created.Add(time.Duration(rapid.IntRange(7, 10).Draw(m.T, "days")) * 24 * time.Hour).Truncate(time.Second).Add(time.Second)
		text := smc.FormatTime(until)
		request.ValidTime = &text
		if !j.rests() && !j.in(smc.StatusRunning) {
			want = smc.CodeReplicationJobInvalidStatus
		} else if !until.After(m.now()) {
			want = smc.CodeInvalidParameter
		}
		apply = func() bool {
			changed := text != j.valid
			j.valid, j.validUntil = text, until
			return changed
		}
	case "schedule":
		at := m.now().Add(time.Hour).Truncate(time.Second)
		text := smc.FormatTime(at)
		if rapid.Bool().Draw(m.T, "cleared") {
			at, text = time.Time{}, ""
		}
		request.ScheduledStartTime = &text
		if !j.in(smc.StatusReady) {
			want = smc.CodeReplicationJobInvalidStatus
		}
		apply = func() bool {
			changed := text != j.scheduledText
			j.scheduledText, j.scheduled = text, at
			if j.place == nil || j.place.Trigger != smc.TriggerSchedule {
				return changed
			}
			m.leaveQueue(j)
			return true
		}
	}
	if m.do(want, func() error { _, err := m.f.ModifyJob(m.f.ctx, request); return err }) && apply() {
		j.sequence++
	}
}

// check holds the store against the model.
func (m *model) check() {
	ctx := m.f.ctx
	running := m.running()
	if running <= m.quota {
		m.over = 0
	}
	require.LessOrEqual(m, running, max(m.quota, m.over), "running jobs")
	for _, j := range m.jobs {
		row := m.row(j)
		require.Equal(m, j.status, row.Status)
		if j.status == smc.StatusRunning {
			require.Equal(m, j.phase, row.BusinessStatus)
		}
		require.Equal(m, j.run, row.Run)
		require.Equal(m, j.host, row.HostID, "staging is held as long as it may be needed, and no longer")
		require.Equal(m, j.sequence, row.Sequence, "one event a transition")
		require.Equal(m, j.once || j.final, row.Final(), "the intent of a cutover is kept")
		require.Equal(m, j.place != nil, row.Queued())
		place := ""
		if i := slices.Index(m.queue, j); i >= 0 {
			place = fmt.Sprintf("%d/%d", i+1, len(m.queue))
			require.Equal(m, j.place.Ticket, row.Queue.Ticket)
		}
		require.Equal(m, place, placeIn(row.Info()))
		at, ok := row.Schedule().Due(row.Status)
		wantAt, wantOK := j.due()
		require.Equal(m, wantOK, ok)
		require.Equal(m, wantAt.UTC(), at.UTC(), "the next run by itself")
		require.Equal(m, m.lapsed(j), row.lapsed(m.now()))
		images, _, err := m.f.Images(ctx, m.account, ImageFilter{JobID: j.id}, Page{1, 50})
		require.NoError(m, err)
		var runs []int
		for _, image := range images {
			runs = append(runs, image.Run)
		}
		slices.Sort(runs)
		require.Equal(m, j.images, runs)
	}
	for _, s := range m.sources {
		want := smc.SourceAvailable
		switch {
		case !s.online:
			want = smc.SourceUnavailable
		case slices.ContainsFunc(m.jobs, func(j *modelJob) bool { return j.source == s && j.status == smc.StatusRunning }):
			want = smc.SourceInUse
		}
		source, err := m.f.Source(ctx, m.account, s.SourceID)
		require.NoError(m, err)
		require.Equal(m, want, source.State)
	}
	sessions, reservations, err := m.f.StraySessions(ctx)
	require.NoError(m, err)
	require.Empty(m, sessions)
	require.Empty(m, reservations)
}

// checkEvents demands of every resource that its events are numbered without gaps, and that each begins where the one before ended.
func (m *model) checkEvents() {
	for _, j := range append(slices.Clone(m.jobs), m.gone...) {
		records, err := m.f.Events(m.f.ctx, j.id)
		require.NoError(m, err)
		require.Len(m, records, int(j.sequence))
		previous := ""
		for i, record := range records {
			require.Equal(m, uint64(i+1), record.Sequence)
			event, err := events.Decode(record.Data)
			require.NoError(m, err)
			var data events.JobStatusChanged
			require.NoError(m, event.DataAs(&data))
			require.Equal(m, previous, data.PreviousStatus)
			require.True(m, previous == "" || previous == data.Status || legal(previous, data.Status), "%s to %s", previous, data.Status)
			previous = data.Status
		}
	}
}

// legal says whether the table of job states leads from one status to another.
func legal(from, to string) bool {
	if from == string(smc.StatusDeleting) {
		return to == string(statusDeleted)
	}
	return slices.ContainsFunc(smc.Transitions(), func(row smc.Transition) bool {
		return slices.Contains(row.From, smc.JobStatus(from)) && (slices.Contains(row.To, smc.JobStatus(to)) || row.By == smc.TriggerDelete && to == string(smc.StatusDeleting))
	})
}

// Whatever is asked for, in whatever order, however often, and whatever comes and goes: the store does what the contract says. More
// and longer with -rapid.checks=5000 -rapid.steps=300.
func TestStoreAgainstAModel(t *testing.T) {
	f := newFixture(t)
	n := 0
	property.Check(t, func(rt *rapid.T) {
		n++
		m := &model{T: rt, f: f, account: fmt.Sprintf("model-%d", n), beats: map[string]time.Time{}}
		f.clock.advance(time.Hour) // those of before are silent
		m.quota = rapid.IntRange(1, 2).Draw(rt, "quota")
		require.NoError(rt, f.SetRunningQuota(f.ctx, m.quota))
		const sources = 3
		require.NoError(rt, f.CreateAccessToken(f.ctx, AccessToken{AccessTokenID: NewID("at"), AccountID: m.account, RegionID: region, Count: sources, TTLDays: 1}, m.account))
		for i := range sources {
			name := fmt.Sprintf("%s-%d", m.account, i)
			source, err := f.RegisterSource(f.ctx, m.account, "token of "+name, "instance of "+name, name, diskServer(1<<30), 1000)
			require.NoError(rt, err)
			m.sources = append(m.sources, &modelSource{source, true})
		}
		beat := func(host string) {
			require.NoError(rt, f.HostHeartbeat(f.ctx, host, hostURL))
			m.beats[host] = m.now()
		}
		for _, host := range modelHosts {
			beat(host)
		}
		advance := func(d time.Duration, hosts bool) {
			f.clock.advance(d)
			for _, host := range modelHosts {
				if hosts {
					beat(host)
				}
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"":       func(t *rapid.T) { m.T = t; m.check() },
			"create": func(t *rapid.T) { m.T = t; m.create() },
			"start": func(t *rapid.T) {
				m.T = t
				m.start(m.pick(), Queue{Trigger: smc.TriggerStart, Type: smc.RunManual}, smc.StatusReady, smc.StatusStopped, smc.StatusInError)
			},
			"run": func(t *rapid.T) {
				m.T = t
				m.start(m.pick(), Queue{Trigger: smc.TriggerRun, Type: smc.RunManual}, smc.StatusWaiting)
			},
			"cut over": func(t *rapid.T) {
				m.T = t
				m.start(m.pick(), Queue{Trigger: smc.TriggerCutOver, Type: smc.RunManual, CutOver: CutOverSyncData}, smc.StatusWaiting)
			},
			"cut over as it is": func(t *rapid.T) {
				m.T = t
				j, want, key := m.pick(), "", m.key()
				if j.status != smc.StatusWaiting {
					want = smc.CodeReplicationJobInvalidStatus
				}
				if m.do(want, func() error { return f.FinishCutOver(f.ctx, j.id, key) }) {
					m.move(j, smc.StatusFinished)
					j.final = true
				}
			},
			"due": func(t *rapid.T) {
				m.T = t
				var due []*modelJob
				for _, j := range m.jobs {
					if at, ok := j.due(); ok && !at.After(m.now()) && !m.lapsed(j) {
						due = append(due, j)
					}
				}
				if len(due) == 0 {
					t.Skip("nothing is due")
				}
				j := rapid.SampledFrom(due).Draw(t, "job")
				at, _ := j.due()
				m.start(j, Queue{Trigger: smc.TriggerSchedule, Type: smc.RunSchedule, Due: at}, smc.StatusReady, smc.StatusWaiting)
			},
			"proceed":      func(t *rapid.T) { m.T = t; m.proceed() },
			"proceed more": func(t *rapid.T) { m.T = t; m.proceed() },
			"proceed on":   func(t *rapid.T) { m.T = t; m.proceed() },
			"fail": func(t *rapid.T) {
				m.T = t
				j, key := m.pickIn(smc.StatusRunning), m.key()
				code := smc.CodeInternalError
				if j.phase == smc.BusinessProcessing && rapid.Bool().Draw(t, "damaged") {
					code = smc.CodeImageVerificationFailed
				}
				m.do("", func() error { return f.Fail(f.ctx, j.id, key, j.run, code, "why") })
				m.move(j, smc.StatusInError)
				j.verify = code == smc.CodeImageVerificationFailed
			},
			"stop":    func(t *rapid.T) { m.T = t; m.stop() },
			"delete":  func(t *rapid.T) { m.T = t; m.remove() },
			"release": func(t *rapid.T) { m.T = t; m.release() },
			"expire":  func(t *rapid.T) { m.T = t; m.expire() },
			"admit":   func(t *rapid.T) { m.T = t; m.admit() },
			"modify":  func(t *rapid.T) { m.T = t; m.modify() },
			"read an image": func(t *rapid.T) {
				m.T = t
				j := m.pick()
				run := rapid.IntRange(1, 4).Draw(t, "run")
				j.busy[run] = !j.busy[run]
			},
			"quota": func(t *rapid.T) {
				m.T = t
				m.quota = rapid.IntRange(1, 3).Draw(t, "quota")
				m.over = m.running()
				require.NoError(t, f.SetRunningQuota(f.ctx, m.quota))
			},
			"source": func(t *rapid.T) {
				m.T = t
				s := rapid.SampledFrom(m.sources).Draw(t, "source")
				advance(time.Second, false)
				s.online = !s.online
				for _, each := range m.sources {
					if each.online {
						require.NoError(t, f.Heartbeat(f.ctx, each.SourceID, diskServer(1<<30)))
					}
				}
				_, err := f.MarkOffline(f.ctx, m.now())
				require.NoError(t, err)
			},
			"host": func(t *rapid.T) { m.T = t; beat(rapid.SampledFrom(modelHosts).Draw(t, "host")) },
			"time": func(t *rapid.T) {
				m.T = t
				advance(rapid.SampledFrom([]time.Duration{time.Second, time.Minute, 45 * time.Minute, 2 * time.Hour, 5 * 24 * time.Hour}).Draw(t, "time"),
					rapid.IntRange(0, 3).Draw(t, "hosts") > 0)
			},
		})
		m.checkEvents()
	})
}
