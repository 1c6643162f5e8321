package workflows

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"
	"pgregory.net/rapid"

	"github.com/drover/drover/activities"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/test/property"
)

// course is what CONTRACT makes of a job: its table of states, its queue, its grid and its ValidTime, written down a second time. What
// the entity has the store do is held against it, step by step.
type course struct {
	*world
	broken []string // what was not as it should be
	trace  []string

	single    bool // it runs once
	frequency time.Duration
	keep      int
	created   time.Time

	status smc.JobStatus // "" when the job is gone
	phase  smc.BusinessStatus
	run    int
	final  bool // the last run of a cutover
	place  *store.Queue
	images []int // runs whose image is there

	first, through, scheduled, validUntil, clearAt time.Time
	gridPhase                                      time.Duration
	shifted                                        bool            // points were given up since the last run
	runFailed                                      bool            // a phase of this lap ended for good
	moved                                          time.Time       // when it got its status
	able                                           time.Time       // since when nothing is in the way of a start
	transitions                                    []smc.JobStatus // as they were written

	requests []*request
	asks     []*ask // that have no answer yet
}

// request is something that is asked for under one name, once or more often.
type request struct {
	id, update string
	argument   any
	attempts   int
	effects    int  // transitions that were written for it
	done       bool // it was answered as carried out, maybe without a transition
}

// ask is one asking for a request, until it is answered.
type ask struct {
	*request
	sent     time.Time
	accepted bool
	verdicts map[string]bool // what the contract would have answered at some moment since it was sent
}

// asItIs is the verdict about a request that changes nothing.
const asItIs = "carried out, and nothing changes"

// patience is how long whatever is to happen by itself may take while attempts of activities fail.
const patience = 20 * time.Minute

func (c *course) fail(format string, args ...any) {
	c.log("VIOLATION: "+format, args...)
	c.broken = append(c.broken, fmt.Sprintf(format, args...))
}

func (c *course) log(format string, args ...any) {
	c.trace = append(c.trace, fmt.Sprintf("%13s  %s", c.now().Sub(c.created), fmt.Sprintf(format, args...)))
}

func (c *course) in(statuses ...smc.JobStatus) bool { return slices.Contains(statuses, c.status) }

func (c *course) rests() bool {
	return c.in(smc.StatusReady, smc.StatusStopped, smc.StatusInError, smc.StatusWaiting)
}

// lapse is when the job expires, or is cleared.
func (c *course) lapse() time.Time {
	switch {
	case c.rests():
		return c.validUntil
	case c.status == smc.StatusExpired:
		return c.clearAt
	}
	return time.Time{}
}

// due is when the job is to be started by itself; zero: it is not.
func (c *course) due() time.Time {
	switch {
	case c.place != nil:
	case c.status == smc.StatusReady:
		return c.scheduled
	case c.status == smc.StatusWaiting:
		return c.next()
	}
	return time.Time{}
}

// points is how many points of the grid have come that are not dealt with, and the newest.
func (c *course) points(until time.Time) (n int, newest time.Time) {
	if c.status != smc.StatusWaiting {
		return 0, time.Time{}
	}
	for at := c.next(); !at.After(until); at = at.Add(c.frequency) {
		n, newest = n+1, at
	}
	return n, newest
}

// next is the first point of the grid that is not dealt with.
func (c *course) next() time.Time {
	origin := c.first.Add(c.gridPhase)
	if c.through.Before(origin) {
		return origin
	}
	return c.through.Add(c.frequency - c.through.Sub(origin)%c.frequency)
}

func latest(times ...time.Time) time.Time { return slices.MaxFunc(times, time.Time.Compare) }

// verdict is what the contract answers to a request now: an SMC code, "" for what is to be carried out, or asItIs.
func (c *course) verdict(r *request) string {
	start := func(asked store.Queue, from ...smc.JobStatus) string {
		switch {
		case !c.in(from...):
			return smc.CodeReplicationJobInvalidStatus
		case c.place != nil && joined(*c.place, asked) == *c.place:
			return asItIs
		case !c.online:
			return smc.CodeSourceServerStateInvalid
		case c.place == nil && !c.full && !c.alive():
			return smc.CodeTransitionHostUnavailable
		}
		return ""
	}
	allowed := func(is bool, code string) string {
		if is {
			return ""
		}
		return code
	}
	if c.status == "" {
		return smc.CodeInvalidJobIDNotFound
	}
	switch r.update {
	case UpdateStart:
		return start(store.Queue{Trigger: smc.TriggerStart, Type: smc.RunManual}, smc.StatusReady, smc.StatusStopped, smc.StatusInError)
	case UpdateRun:
		return start(store.Queue{Trigger: smc.TriggerRun, Type: smc.RunManual}, smc.StatusWaiting)
	case UpdateCutOver:
		if r.argument.(CutOverRequest).SyncData {
			return start(store.Queue{Trigger: smc.TriggerCutOver, Type: smc.RunManual, CutOver: store.CutOverSyncData}, smc.StatusWaiting)
		}
		return allowed(c.in(smc.StatusWaiting), smc.CodeReplicationJobInvalidStatus)
	case UpdateStop:
		if c.status == smc.StatusRunning {
			return allowed(c.phase == smc.BusinessSyncing, smc.CodeReplicationJobInvalidBusinessStatus)
		}
		return allowed(c.place != nil, smc.CodeReplicationJobInvalidStatus)
	case UpdateDelete:
		return allowed(c.rests() || c.in(smc.StatusFinished, smc.StatusExpired), smc.CodeReplicationJobInvalidStatus)
	}
	change := r.argument.(smc.ModifyReplicationJobAttributeRequest)
	switch {
	case change.Frequency != nil || change.MaxNumberOfImageToKeep != nil:
		if !c.in(smc.StatusReady, smc.StatusWaiting) {
			return smc.CodeReplicationJobInvalidStatus
		}
		return allowed(!c.single, smc.CodeInvalidParameter)
	case change.ScheduledStartTime != nil:
		return allowed(c.in(smc.StatusReady), smc.CodeReplicationJobInvalidStatus)
	case change.ValidTime != nil:
		if !c.rests() && !c.in(smc.StatusRunning) {
			return smc.CodeReplicationJobInvalidStatus
		}
		until := parse(*change.ValidTime)
		return allowed(until.IsZero() || until.After(c.now()), smc.CodeInvalidParameter)
	}
	return ""
}

// joined is a place in the queue once the job was started again.
func joined(place, asked store.Queue) store.Queue {
	if asked.CutOver == store.CutOverNone && place.CutOver != store.CutOverNone {
		return place
	}
	place.Trigger, place.Type, place.CutOver = asked.Trigger, asked.Type, asked.CutOver
	return place
}

func parse(text string) time.Time {
	if text == "" {
		return time.Time{}
	}
	at, err := time.Parse("2006-01-02T15:04:05Z", text)
	if err != nil {
		panic(err)
	}
	return at
}

// look is had at every moment at which something may have changed: what is asked for may be answered as of now, and what is to happen by
// itself must have happened.
func (c *course) look() {
	for _, a := range c.asks {
		a.verdicts[c.verdict(a.request)] = true
	}
	now := c.now()
	if at := c.lapse(); !at.IsZero() && now.Sub(latest(at, c.moved)) > patience {
		c.fail("the job is %s since %s, and was to end at %s", c.status, c.moved, at)
	}
	due := c.due()
	if due.IsZero() || due.After(now) || !c.online || !c.alive() {
		c.able = time.Time{}
	} else if c.able.IsZero() {
		c.able = now
	}
	if !c.able.IsZero() && now.Sub(latest(c.able, due)) > patience {
		c.fail("the job is %s and was to start at %s; nothing was in its way since %s", c.status, due, c.able)
	}
}

// takes holds a call of the store, the only thing that moves the job, against the contract.
func (c *course) takes(name string, in any, after *store.Job, err error) {
	before := c.row
	wrote := int64(1)
	switch {
	case before == nil:
		wrote = 0
	case after != nil:
		wrote = after.Sequence - before.Sequence
	}
	if wrote != 0 || err != nil {
		text, _ := json.Marshal(in)
		c.log("%s %s: %d events, error %v", name, text, wrote, err)
	}
	c.look()
	if wrote == 0 {
		return
	}
	if wrote != 1 {
		c.fail("%s wrote %d events", name, wrote)
	}
	was := c.status
	switch in := in.(type) {
	case activities.StartRunInput:
		c.effect(in.Key)
		c.starts(store.Queue{Trigger: in.Trigger, Type: in.Type, CutOver: in.CutOver}, after)
	case activities.StartDueRunInput:
		if err == nil {
			if !in.Due.Equal(c.due()) || in.Due.After(c.now()) {
				c.fail("the start due at %s was made; due is %s", in.Due, c.due())
			}
			if lapse := c.lapse(); !lapse.IsZero() && !lapse.After(c.now()) {
				c.fail("the job started by itself after it was to expire")
			}
			c.starts(store.Queue{Trigger: smc.TriggerSchedule, Type: smc.RunSchedule, Due: in.Due}, after)
		} else if c.online && c.alive() {
			c.fail("a start that is due waits, and nothing is in its way")
		}
	case activities.AdmitInput:
		if c.place == nil || c.place.Ticket != in.Ticket || c.full || !c.online || !c.alive() {
			c.fail("a job was admitted whose turn has not come")
		} else {
			c.begins(*c.place, after)
		}
	case activities.MoveInput:
		c.moves(name, in.Key, after)
	case smc.ModifyReplicationJobAttributeRequest:
		c.modified(in)
	case activities.ExpireInput:
		if lapse := c.lapse(); !c.rests() || lapse.IsZero() || lapse.After(c.now()) {
			c.fail("the job expired before its time")
		}
		c.status, c.place, c.clearAt = smc.StatusExpired, nil, c.now().Add(7*day)
	case activities.FailInput:
		if !c.runFailed || !c.in(smc.StatusRunning) {
			c.fail("a run was made to fail that had not")
		}
		if silent := c.now().Sub(c.there); in.Code == smc.CodeTransitionHostUnavailable && (c.hostUp || silent < smc.RetryFor(in.Code)-2*hostSilence) {
			c.fail("a run has waited %s for its host, and was to wait %s", silent, smc.RetryFor(in.Code))
		}
		c.status = smc.StatusInError
	case activities.PhaseInput:
		c.phaseEnds(name, after)
	case activities.SilentHostInput:
	default:
		c.fail("%s wrote an event", name)
	}
	if !c.in(smc.StatusRunning) {
		c.runFailed = false
	}
	if was != c.status {
		c.transitions = append(c.transitions, c.status)
		c.moved = c.now()
	}
	c.agrees(after)
	c.look()
}

// effect notes that a request was carried out.
func (c *course) effect(key string) {
	id := strings.TrimPrefix(key, "update/")
	i := slices.IndexFunc(c.requests, func(r *request) bool { return r.id == id })
	if i < 0 {
		c.fail("nobody asked for %s", key)
		return
	}
	r := c.requests[i]
	if r.effects++; r.effects > 1 {
		c.fail("%s was carried out %d times", r.id, r.effects)
	}
	for _, a := range c.asks {
		if a.request != r {
			continue
		}
		if verdict := c.verdict(r); verdict != "" {
			c.fail("%s was carried out, which was to be answered with %s", r.id, verdict)
		}
		if lapse := c.lapse(); c.rests() && !lapse.IsZero() && !lapse.After(a.sent) {
			c.fail("%s was carried out after the job was to expire", r.id)
		}
		return
	}
	c.fail("%s was carried out after it was answered", r.id)
}

// starts is a start that was asked for or is due: the job runs, or is queued.
func (c *course) starts(asked store.Queue, after *store.Job) {
	switch {
	case c.place != nil:
		place := joined(*c.place, asked)
		c.place = &place
	case c.full:
		asked.Ticket = after.Sequence
		if !c.first.IsZero() {
			c.through, c.shifted = latest(c.through, c.now(), asked.Due), true
		}
		c.place = &asked
	default:
		c.begins(asked, after)
	}
}

// begins makes the job Running.
func (c *course) begins(asked store.Queue, after *store.Job) {
	now := c.now()
	if c.status == smc.StatusWaiting && c.place == nil && !c.shifted {
		// All points that have come are missed but the newest, whose run this is. It is missed too when a run was still going on at it, and
		// may be when it is long past.
		missed := after.Missed.Running + after.Missed.Queued + after.Missed.Offline + after.Missed.NoHost + after.Missed.Down
		come, newest := c.points(latest(now, asked.Due))
		least, most := max(0, come-1), max(0, come-1)
		if over := !newest.After(c.moved); over || now.Sub(newest) > 5*time.Minute {
			most = come
			if over {
				least = come
			}
		}
		if missed < least || missed > most {
			c.fail("%d points have come without a run, the newest at %s, and %d are said to be missed", come, newest, missed)
		}
	}
	switch {
	case c.in(smc.StatusReady, smc.StatusWaiting):
		c.run++
		c.phase = smc.BusinessPreparing
	case c.phase == smc.BusinessSyncing:
		c.phase = smc.BusinessPreparing
	}
	if c.first.IsZero() {
		c.first, c.gridPhase, c.through = now, after.GridPhase, now.Add(after.GridPhase)
	} else {
		c.through = latest(c.through, now, asked.Due)
	}
	c.final = c.final || asked.CutOver != store.CutOverNone
	c.status, c.place, c.runFailed, c.shifted = smc.StatusRunning, nil, false, false
	if after.RunType != asked.Type && c.phase == smc.BusinessPreparing && after.Run > c.run {
		c.fail("run %d is %s, asked for was %s", after.Run, after.RunType, asked.Type)
	}
}

func (c *course) moves(name, key string, after *store.Job) {
	switch {
	case name == "EndDelete":
		if c.status != smc.StatusDeleting || c.row.HostID != "" {
			c.fail("the job went while it was %s, its staging on %q", c.status, c.row.HostID)
		}
		c.status = ""
		return
	case key == "cleared":
		if c.status != smc.StatusExpired || c.clearAt.After(c.now()) {
			c.fail("the job was cleared before its time")
		}
	default:
		c.effect(key)
	}
	switch name {
	case "Stop":
		if c.place == nil {
			c.status = smc.StatusStopped
			return
		}
		now := latest(c.now(), c.place.Due)
		if c.through = latest(c.through, now); !c.scheduled.After(now) {
			c.scheduled = time.Time{}
		}
	case "FinishCutOver":
		c.status, c.final = smc.StatusFinished, true
	case "BeginDelete":
		c.status = smc.StatusDeleting
	}
	c.place = nil
}

func (c *course) modified(in smc.ModifyReplicationJobAttributeRequest) {
	c.effect(*in.Description)
	if in.Frequency != nil {
		if frequency := time.Duration(*in.Frequency) * time.Hour; frequency != c.frequency {
			c.frequency, c.through, c.shifted = frequency, c.now().Truncate(time.Millisecond), true
		}
	}
	if in.MaxNumberOfImageToKeep != nil {
		c.keep = *in.MaxNumberOfImageToKeep
	}
	if in.ValidTime != nil {
		c.validUntil = parse(*in.ValidTime)
	}
	if in.ScheduledStartTime != nil {
		c.scheduled = parse(*in.ScheduledStartTime)
		if c.place != nil && c.place.Trigger == smc.TriggerSchedule {
			c.place = nil
		}
	}
}

// phaseEnds takes a run one phase on.
func (c *course) phaseEnds(name string, after *store.Job) {
	order := []smc.BusinessStatus{smc.BusinessPreparing, smc.BusinessSyncing, smc.BusinessProcessing, smc.BusinessCleaning}
	i := slices.Index(oneRun, name)
	if !c.in(smc.StatusRunning) || c.phase != order[i] {
		c.fail("%s was done while the job was %s %s", name, c.status, c.phase)
	}
	if name != "Clean" {
		c.phase = order[i+1]
		if name == "Process" {
			c.images = append(c.images, c.run)
		}
		return
	}
	c.status = smc.StatusWaiting
	if !c.single {
		c.images = c.images[max(0, len(c.images)-c.keep):]
	}
	if c.single || c.final {
		c.status = smc.StatusFinished
	} else if come, _ := c.points(c.now()); after.Missed.Running != come {
		c.fail("run %d went on over %d points, and %d are said to be missed", c.run, come, after.Missed.Running)
	}
}

// agrees holds the row against the model.
func (c *course) agrees(row *store.Job) {
	is := func(what string, want, got any) {
		if want != got {
			c.fail("%s is %v, and was to be %v", what, got, want)
		}
	}
	if row == nil {
		is("the job's status", c.status, smc.JobStatus(""))
		return
	}
	is("Status", c.status, row.Status)
	if c.status == smc.StatusRunning {
		is("BusinessStatus", c.phase, row.BusinessStatus)
	}
	is("the run", c.run, row.Run)
	is("its being the last", c.single || c.final, row.Final())
	is("queued", c.place != nil, row.Queued())
	is("ValidTime", c.validUntil.UTC(), row.ValidUntil.UTC())
	due, _ := row.Schedule().Due(row.Status)
	is("the next start by itself", c.due().UTC(), due.UTC())
	lapse, _ := row.Schedule().Lapse(row.Status)
	is("the end by itself", c.lapse().UTC().Truncate(time.Millisecond), lapse.UTC())
	is("the frequency", c.frequency, row.Schedule().Frequency)
}

// move is one step of a case: a wait, and what is done then.
type move struct {
	Wait   time.Duration
	Until  string // what else is waited for: the start that is due, or the end
	What   string
	Number int
}

// What is waited for before a move.
const (
	untilDue   = "due"
	untilLapse = "lapse"
)

func drawMove(t *rapid.T) move {
	m := move{
		Wait: rapid.SampledFrom([]time.Duration{
			0, 0, 0, time.Millisecond, 3 * time.Second, 40 * time.Second, 4 * time.Minute, 11 * time.Minute, 35 * time.Minute, 2 * time.Hour, 9 * time.Hour, 30 * time.Hour,
		}).Draw(t, "wait"),
		What: rapid.SampledFrom([]string{
			"", UpdateStart, UpdateStart, UpdateStart, UpdateStart, UpdateStop, UpdateStop, UpdateRun, UpdateRun, UpdateCutOver, UpdateCutOver,
			"frequency", "frequency", "keep", "valid", "valid", "schedule", "schedule", "again", "again", "again", "source", "source", "source",
			"host", "host", "host", "quota", "quota", "continue as new", "continue as new", "rebuild", UpdateAdmit, UpdateAdmit, UpdateDelete,
		}).Draw(t, "what"),
		Number: rapid.IntRange(0, 7).Draw(t, "number"),
	}
	switch rapid.IntRange(0, 11).Draw(t, "until") {
	case 11, 10, 9, 8:
		m.Until = untilDue
	case 7:
		m.Until = untilLapse
	}
	if m.Until != "" {
		m.Wait = time.Duration(rapid.IntRange(-1, 1).Draw(t, "by")) * time.Millisecond
	}
	return m
}

// plan is a case.
type plan struct {
	Hours, Keep              int // 0 hours: the job runs once
	Valid                    string
	Scheduled                time.Duration
	Preparing, Processing    time.Duration
	CenterFaults, HostFaults []fault
	Slow, Late               string // an activity that is slow to begin, and one that is slow to answer
	Lapses                   bool   // it ends by itself if it can, else by Delete
	Moves                    []move
}

func drawPlan(t *rapid.T) plan {
	times := func(name string, of ...time.Duration) time.Duration { return rapid.SampledFrom(of).Draw(t, name) }
	faults := func(name string, most int, of ...fault) []fault {
		return rapid.SliceOfN(rapid.SampledFrom(of), 0, most).Draw(t, name)
	}
	activity := rapid.SampledFrom([]string{"", "StartDueRun", "StartRun", "Stop", "Modify", "BeginDelete", "FinishCutOver", "Admit", "Expire", "State"})
	moves := rapid.SliceOfN(rapid.Custom(drawMove), 12, 40).Draw(t, "moves")
	if rapid.Bool().Draw(t, "started") { // else many a case would never get to a run
		moves = append([]move{{What: UpdateStart}, {Wait: 35 * time.Minute}}, moves...)
	}
	return plan{
		Hours: rapid.SampledFrom([]int{0, 1, 2, 5, 24, 168}).Draw(t, "hours"), Keep: rapid.IntRange(1, 3).Draw(t, "keep"),
		Valid:        rapid.SampledFrom([]string{"absent", "never", "7 days", "8 days"}).Draw(t, "valid"),
		Scheduled:    times("scheduled", 0, 0, time.Minute, 3*time.Hour),
		Preparing:    times("preparing", 0, time.Second, 2*time.Minute),
		Processing:   times("processing", 0, time.Minute, 150*time.Minute),
		CenterFaults: faults("center", 12, faultNone, faultNone, faultBefore, faultAfter, faultKilled, faultSlow, faultLate),
		HostFaults:   faults("host", 8, faultNone, faultNone, faultBefore, faultAfter, faultForGood),
		Slow:         activity.Draw(t, "slow"), Late: activity.Draw(t, "late"),
		Lapses: rapid.Bool().Draw(t, "lapses"),
		Moves:  moves,
	}
}

// play is a case that is carried out.
type play struct {
	*course
	plan
	s        *scenario
	made     int  // how many of its moves were
	rebuilt  bool // the entity's run was given up for one that is made from the store
	taken    int  // updates that a run of the entity took while the job was Running
	telling  bool
	told     int
	ending   bool
	since    time.Time // when the job moved last, at the end
	watched  time.Time // until when the job is left to itself, at the end
	sequence int64
}

// A case whose job has had this many runs comes to its end.
const enoughRuns = 14

// Whatever is asked for, in whatever order, whatever fails and comes back, and wherever the entity continues as new or is rebuilt: it does
// what the contract says, once, in time, and comes to its end. More with -rapid.checks=2000.
func TestJobAgainstAModel(t *testing.T) {
	property.Checks(t, 20)
	// Each case is a job of an account of its own, after all that were before it in its store.
	const ofStore = 300
	var shared *record
	start := time.Date(2026, 1, 1, 0, 0, 0, 123e6, time.UTC)
	n := 0
	property.Check(t, func(rt *rapid.T) {
		plan := drawPlan(rt)
		if n%ofStore == 0 {
			shared = openRecord(t)
		}
		begin := start.AddDate(0, 0, 200*(n%ofStore))
		n++
		carryOut(rt, shared, plan, fmt.Sprint("account ", n), begin)
	})
}

// carryOut carries out a case, to the end of its job.
func carryOut(t rapid.TB, shared *record, plan plan, account string, begin time.Time) {
	r := &record{Store: shared.Store, t: t, account: account, clock: shared.clock}
	clock := func() time.Time { return begin }
	r.clock.Store(&clock)
	ctx := context.Background()
	require.NoError(t, r.SetRunningQuota(ctx, store.DefaultRunningQuota))
	c := &course{
		world: &world{
			record: r, ctx: activityContext(), online: true, hostUp: true, centerFaults: plan.CenterFaults, hostFaults: plan.HostFaults, slow: plan.Slow, late: plan.Late,
			durations: map[string]time.Duration{"Prepare": plan.Preparing, "Sync": syncTime, "Process": plan.Processing, "Clean": time.Second},
		},
		single: plan.Hours == 0, frequency: time.Duration(plan.Hours) * time.Hour, keep: plan.Keep, created: begin, status: smc.StatusReady,
	}
	r.create(plan.Hours, func(spec *smc.CreateReplicationJobRequest) {
		name := "golden"
		spec.ImageName = &name
		if plan.Hours > 0 {
			spec.MaxNumberOfImageToKeep = &plan.Keep
		}
		if plan.Scheduled > 0 {
			spec.ScheduledStartTime = apiTime(begin.Add(plan.Scheduled))
			c.scheduled = parse(*spec.ScheduledStartTime)
		}
		var days int
		if _, err := fmt.Sscanf(plan.Valid, "%d days", &days); err == nil {
			spec.ValidTime = apiTime(begin.Add(time.Duration(days) * day))
		} else if plan.Valid == "never" {
			spec.ValidTime = new(string)
		}
	})
	c.row = c.read()
	c.validUntil = c.row.ValidUntil
	c.called = c.takes
	c.failing = func() { c.runFailed = true }
	c.transitions = []smc.JobStatus{smc.StatusReady}
	p := &play{course: c, plan: plan}
	defer func() {
		if len(c.broken) > 0 {
			t.Fatalf("%s\n%s", strings.Join(c.broken, "\n"), strings.Join(c.trace, "\n"))
		}
	}()
	c.agrees(c.row)
	p.toItsEnd(begin)
	if len(c.broken) == 0 {
		p.afterwards()
	}
}

// toItsEnd runs the entity through all its runs, until its job is gone.
func (p *play) toItsEnd(start time.Time) {
	p.change = start.Add(p.wait())
	for input := p.input(); ; {
		p.rebuilt, p.taken, p.telling = false, 0, false
		s, count := p.record.once(start, input, p.begin, p.world)
		start = s.env.Now()
		if events := count.events() - p.taken*(eventsOfUpdate+2*eventsOfActivity); events > 200 {
			p.fail("a run of the entity had %d events, without those of the %d updates that it took while the job was Running", events, p.taken)
		}
		err := s.env.GetWorkflowError()
		switch {
		case len(p.broken) > 0:
			return
		case err == nil:
			if p.unanswered(); p.status != "" {
				p.fail("the entity ended, and the job is %s", p.status)
			}
			return
		case p.rebuilt && temporal.IsCanceledError(err):
			p.log("rebuilt")
			p.requests, p.asks = nil, nil // who asked gets no answer, and the new entity knows nothing of it
			if p.job() == nil {
				return // its entity had not heard yet that it is gone, and of nothing none is made
			}
			input = p.input()
		default:
			p.unanswered()
			var continues *workflow.ContinueAsNewError
			if !errors.As(err, &continues) {
				p.fail("the entity ended: %v", err)
				return
			}
			input = requireContinuesAsNew(p.t, err)
			p.log("continued as new with %+v", input)
			if input.Status != p.status {
				p.fail("the entity continued as new %s, and the job is %s", input.Status, p.status)
			}
		}
	}
}

// unanswered demands that a run of the entity that ends has answered what it accepted.
func (p *play) unanswered() {
	for _, a := range p.asks {
		if a.accepted {
			p.fail("%s was accepted, and a run of the entity ended without an answer to it", a.id)
		}
	}
}

// begin has a run of the entity go on with the case.
func (p *play) begin(s *scenario) {
	p.s, p.world.host = s, s.host
	for _, a := range p.asks {
		s.at(0, func() { p.send(a) })
	}
	s.at(max(0, p.change.Sub(s.env.Now())), p.step)
}

// wait is how long the next move waits.
func (p *play) wait() time.Duration {
	if p.made == len(p.Moves) {
		return 0
	}
	m := p.Moves[p.made]
	wait := m.Wait
	var at time.Time
	switch m.Until {
	case untilDue:
		at = p.due()
	case untilLapse:
		at = p.lapse()
	}
	if !at.IsZero() {
		wait += max(0, at.Sub(p.now()))
	}
	if p.rhythmic() {
		wait = min(wait, 5*p.frequency) // else it is the same over and over again
	}
	return max(0, wait)
}

// rhythmic says whether the job has, or may get, one run after the other without being asked.
func (p *play) rhythmic() bool {
	return p.frequency > 0 && (p.in(smc.StatusWaiting, smc.StatusRunning) || p.place != nil || len(p.asks) > 0 || !p.due().IsZero())
}

// step does the next moves, and has itself called again.
func (p *play) step() {
	p.look()
	for {
		switch {
		case len(p.broken) > 0:
			p.s.env.CancelWorkflow()
			return
		case p.made < len(p.Moves) && p.run < enoughRuns:
			m := p.Moves[p.made]
			p.log("%s %d (%s)", m.What, m.Number, p.world)
			p.made++
			p.do(m)
			p.change = p.now().Add(p.wait())
		default:
			p.change = p.now().Add(p.end())
		}
		p.look()
		p.tell()
		if wait := p.change.Sub(p.now()); wait > 0 || p.rebuilt {
			p.s.at(wait, p.step)
			return
		}
	}
}

// do makes a move.
func (p *play) do(m move) {
	ctx := context.Background()
	modify := func(change smc.ModifyReplicationJobAttributeRequest) {
		r := &request{update: UpdateModify}
		r.id = p.name(r)
		change.JobID, change.Description = p.jobID, &r.id // which tells whose change it is
		r.argument = change
		p.ask(r)
	}
	switch m.What {
	case UpdateStart, UpdateStop, UpdateRun, UpdateDelete, UpdateCutOver:
		r := &request{update: m.What, argument: struct{}{}}
		if m.What == UpdateCutOver {
			r.argument = CutOverRequest{SyncData: m.Number%2 == 0}
		}
		r.id = p.name(r)
		p.ask(r)
	case "frequency":
		hours := []int{1, 2, 3, 5, 7, 24, 100, 168}[m.Number]
		modify(smc.ModifyReplicationJobAttributeRequest{Frequency: &hours})
	case "keep":
		keep := 1 + m.Number/2
		modify(smc.ModifyReplicationJobAttributeRequest{MaxNumberOfImageToKeep: &keep})
	case "valid":
		valid := ""
		if m.Number > 0 {
			valid = *apiTime(p.created.Add(7*day + time.Duration(m.Number-1)*time.Hour))
		}
		modify(smc.ModifyReplicationJobAttributeRequest{ValidTime: &valid})
	case "schedule":
		scheduled := ""
		if m.Number > 0 {
			scheduled = *apiTime(p.now().Add(time.Duration(m.Number*m.Number) * time.Minute))
		}
		modify(smc.ModifyReplicationJobAttributeRequest{ScheduledStartTime: &scheduled})
	case "again":
		if len(p.requests) > 0 {
			p.ask(p.requests[len(p.requests)-1-m.Number%len(p.requests)])
		}
	case UpdateAdmit: // of another process, early, late, or wrong
		p.s.env.UpdateWorkflow(UpdateAdmit, fmt.Sprint("stray tell ", p.made), &testsuite.TestUpdateCallback{
			OnAccept: func() {}, OnReject: func(error) {}, OnComplete: func(any, error) {},
		}, AdmitRequest{Ticket: int64(m.Number)})
	case "source":
		if p.online = !p.online; p.online {
			require.NoError(p.t, p.Heartbeat(ctx, p.sourceID, server))
		} else {
			p.s.offline()
		}
	case "host":
		p.heartbeat()
		p.hostUp = !p.hostUp
		p.heartbeat()
		switch now := p.now(); {
		case p.hostUp:
			p.up = now
		case now.After(p.up):
			p.there = now
		}
	case "quota":
		p.full = !p.full
		quota := store.DefaultRunningQuota
		if p.full {
			quota = 0
		}
		require.NoError(p.t, p.SetRunningQuota(ctx, quota))
	case "continue as new":
		p.s.env.SetContinueAsNewSuggested(true)
	case "rebuild":
		p.rebuilt = true
		p.s.env.CancelWorkflow()
	}
}

// end ends a case, and returns when it is to be called again: failures stop, and what is not at rest comes to rest, and to its end.
func (p *play) end() time.Duration {
	for _, away := range []struct {
		is   bool
		move string
	}{{!p.online, "source"}, {!p.hostUp, "host"}, {p.full, "quota"}} {
		if away.is {
			p.do(move{What: away.move})
		}
	}
	if !p.ending {
		p.log("the end begins (%s)", p.world)
		p.ending, p.since = true, p.now()
	}
	p.centerFaults, p.hostFaults, p.slow, p.late = nil, nil, "", ""
	if p.row == nil {
		return time.Hour
	}
	if p.row.Sequence != p.sequence {
		p.sequence, p.since = p.row.Sequence, p.now()
	}
	const often = 4 * time.Minute
	stuck := p.now().Sub(p.since) > 6*time.Hour
	switch lapse := p.lapse(); {
	case len(p.asks) > 0 && p.now().Sub(p.asks[0].sent) > time.Hour:
		p.fail("%s is not answered", p.asks[0].id)
	case p.place != nil, p.status == smc.StatusDeleting:
		if stuck {
			p.fail("the job is %s, queued %t, and gets no further", p.status, p.place != nil)
		}
	case p.status == smc.StatusRunning:
		if stuck {
			p.fail("the job is Running and %s, and gets no further", p.phase)
		}
		if p.phase == smc.BusinessSyncing && p.now().Sub(p.row.StartedAt) > 0 && len(p.asks) == 0 {
			p.do(move{What: UpdateStop}) // else a run may follow another without a pause
		}
	case p.watched.IsZero() && !p.due().IsZero():
		p.watched = latest(p.now(), p.due()).Add(2 * patience) // it is to go on by itself
		return p.watched.Sub(p.now())
	case !p.Lapses || lapse.IsZero() || p.rhythmic() && lapse.Sub(p.now()) > 5*p.frequency:
		if len(p.asks) == 0 {
			p.do(move{What: UpdateDelete})
		}
	default:
		return max(often, lapse.Sub(p.now()))
	}
	return often
}

func (p *play) name(r *request) string {
	return fmt.Sprintf("%s of move %d at %s", r.update, p.made, p.now().Sub(p.created))
}

func (p *play) ask(r *request) {
	if r.attempts == 0 {
		p.requests = append(p.requests, r)
	}
	a := &ask{request: r, sent: p.now(), verdicts: map[string]bool{}}
	p.asks = append(p.asks, a)
	p.send(a)
}

// send asks once, as the center does: under an id of its own.
func (p *play) send(a *ask) {
	if !slices.Contains(p.asks, a) {
		return
	}
	a.attempts++
	a.accepted = false
	a.verdicts[p.verdict(a.request)] = true
	p.s.env.UpdateWorkflow(a.update, UpdateID(a.id, fmt.Sprint(a.attempts)), &testsuite.TestUpdateCallback{
		OnAccept: func() {
			a.accepted = true
			if p.in(smc.StatusRunning) {
				p.taken++
			}
		},
		OnReject:   func(err error) { p.answered(a, err) },
		OnComplete: func(_ any, err error) { p.answered(a, err) },
	}, a.argument)
}

// answered takes the answer to a request, or asks again as the center does.
func (p *play) answered(a *ask, err error) {
	p.look()
	a.accepted = false
	code := errorType(err)
	again := code == TypeContinuesAsNew
	if code == smc.CodeReplicationJobInvalidStatus { // the entity may be behind the store
		if p.status == "" {
			code = smc.CodeInvalidJobIDNotFound
		} else {
			refusal := smc.Allowed(smc.Trigger(a.update), smc.JobState{Status: p.status, BusinessStatus: p.phase, Queued: p.place != nil})
			code, again = smc.CodeOf(refusal), refusal == nil
		}
	}
	switch {
	case p.rebuilt:
		return
	case err != nil && errorType(err) == "":
		p.fail("%s was answered with %v", a.id, err)
	case again && p.now().Sub(a.sent) < 20*time.Second:
		p.s.at(500*time.Millisecond, func() { p.send(a) })
		return
	case again:
		code = smc.CodeServiceUnavailable
		a.verdicts[code] = true
	}
	p.log("%s: answered with %q", a.id, code)
	p.asks = slices.DeleteFunc(p.asks, func(other *ask) bool { return other == a })
	switch {
	case code == "" && a.effects == 0 && !a.done && !a.verdicts[asItIs]:
		p.fail("%s was answered as if it had been carried out, and was not", a.id)
	case code != "" && a.effects > 0:
		p.fail("%s was carried out, and answered with %s", a.id, code)
	case code != "" && a.done:
		p.fail("%s was carried out as it is, and then answered with %s", a.id, code)
	case code != "" && !a.verdicts[code]:
		p.fail("%s was answered with %s; the contract answers one of %v", a.id, code, slices.Sorted(maps.Keys(a.verdicts)))
	}
	a.done = a.done || code == ""
}

// tell tells a queued job that its turn has come, again and again, as the center does.
func (p *play) tell() {
	if p.telling || p.place == nil || p.full || !p.online || !p.alive() {
		return
	}
	p.telling = true
	p.told++
	s := p.s
	s.env.UpdateWorkflow(UpdateAdmit, fmt.Sprint("tell ", p.told), &testsuite.TestUpdateCallback{
		OnAccept: func() {}, OnReject: func(error) {}, OnComplete: func(any, error) {},
	}, AdmitRequest{Ticket: p.place.Ticket})
	s.at(time.Minute, func() {
		p.telling = false
		p.tell()
	})
}

// afterwards looks at what a job leaves: its events and its images.
func (p *play) afterwards() {
	previous := ""
	var statuses []smc.JobStatus
	for i, change := range p.changes() {
		if change.Sequence != uint64(i+1) || change.PreviousStatus != previous {
			p.fail("event %d has the number %d, and goes from %q; the one before went to %q", i+1, change.Sequence, change.PreviousStatus, previous)
		}
		previous = change.Status
		statuses = append(statuses, smc.JobStatus(change.Status))
	}
	want := slices.Compact(append(slices.Clone(p.transitions[:len(p.transitions)-1]), "Deleted"))
	if statuses = slices.Compact(statuses); !slices.Equal(want, statuses) {
		p.fail("the events tell of %v, and the job was %v", statuses, want)
	}
	images, _, err := p.Images(context.Background(), p.account, store.ImageFilter{JobID: p.jobID}, store.Page{Number: 1, Size: 50})
	require.NoError(p.t, err)
	var got, names []string
	for _, image := range slices.Backward(images) {
		got = append(got, image.ImageName)
	}
	for _, run := range p.images {
		name := "golden"
		if !p.single {
			name = fmt.Sprintf("golden_CYCLE_%d", run)
		}
		names = append(names, name)
	}
	if !slices.Equal(names, got) {
		p.fail("the images are %v, and were to be %v", got, names)
	}
}
