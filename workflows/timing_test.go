package workflows

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/activities"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/events"
	"github.com/drover/drover/smc"
)

const day = 24 * time.Hour

// validUntil sets ValidTime, up to a second later.
func validUntil(at time.Time) func(*smc.CreateReplicationJobRequest) {
	return func(spec *smc.CreateReplicationJobRequest) { spec.ValidTime = apiTime(at) }
}

// validDays sets ValidTime a number of days after now, from 7 to 90.
func validDays(days int) func(*smc.CreateReplicationJobRequest) {
	return validUntil(time.Now().Add(time.Duration(days) * day))
}

// modify sends a modification of the job.
func (s *scenario) modify(after time.Duration, request smc.ModifyReplicationJobAttributeRequest) *answer {
	request.JobID = s.jobID
	return s.update(after, UpdateModify, request)
}

func (s *scenario) sees(after time.Duration) **store.Job {
	job := new(*store.Job)
	s.at(after, func() { *job = s.job() })
	return job
}

// changes are the events of the job.
func (r *record) changes() (changes []events.JobStatusChanged) {
	r.t.Helper()
	records, err := r.Events(context.Background(), r.jobID)
	require.NoError(r.t, err)
	for _, record := range records {
		event, err := events.Decode(record.Data)
		require.NoError(r.t, err)
		var change events.JobStatusChanged
		require.NoError(r.t, event.DataAs(&change))
		changes = append(changes, change)
	}
	return changes
}

// statuses are the statuses the job had, as its events tell them.
func (r *record) statuses() (statuses []smc.JobStatus) {
	r.t.Helper()
	for _, change := range r.changes() {
		statuses = append(statuses, smc.JobStatus(change.Status))
	}
	return slices.Compact(statuses)
}

func TestScheduledStartIsModified(t *testing.T) {
	for _, test := range []struct {
		name  string
		to    func() *string
		start time.Duration // 0: never
	}{
		{"later", func() *string { return apiTime(time.Now().Add(5 * time.Hour)) }, 5 * time.Hour},
		{"earlier", func() *string { return apiTime(time.Now().Add(45 * time.Minute)) }, 45 * time.Minute},
		{"cleared", func() *string { return new(string) }, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := scheduled(t)
			begin := s.env.Now()
			modified := s.modify(30*time.Minute, smc.ModifyReplicationJobAttributeRequest{ScheduledStartTime: test.to()})
			require.NoError(t, s.runUntil(10*time.Hour))
			modified.requireDone()
			job := s.job()
			if test.start == 0 {
				require.Equal(t, smc.StatusReady, job.Status)
				require.NotContains(t, s.attempts, "StartDueRun")
				return
			}
			require.Equal(t, smc.StatusFinished, job.Status)
			require.WithinDuration(t, begin.Add(test.start), job.StartedAt, 2*time.Second)
			require.Equal(t, 1, s.attempts["StartDueRun"])
		})
	}
}

func TestScheduledStartIsSetLater(t *testing.T) {
	s := newScenario(t, 0)
	s.modify(time.Minute, smc.ModifyReplicationJobAttributeRequest{ScheduledStartTime: apiTime(time.Now().Add(2 * time.Hour))})
	require.NoError(t, s.runUntil(5*time.Hour))
	require.Equal(t, smc.RunSchedule, s.job().Runs[0].Type)
}

// A start that is due waits for its source until the job expires, with a look at the store now and then.
func TestScheduledStartWaitsUntilTheJobExpires(t *testing.T) {
	for _, away := range []string{"source", "host"} {
		t.Run(away, func(t *testing.T) {
			s := newScenario(t, 0, validDays(7), startsAt(time.Now().Add(7*day-3*time.Minute)))
			if away == "source" {
				s.offline()
			}
			s.hostGone = away == "host"
			waiting := s.sees(7*day - time.Minute)
			require.NoError(t, s.runUntil(8*day))
			require.Equal(t, smc.StatusReady, (*waiting).Status)
			require.Contains(t, (*waiting).Info(), "waits: ")
			job := s.job()
			require.Equal(t, smc.StatusExpired, job.Status)
			require.Contains(t, job.Info(), "passed while the job was Ready")
			require.Empty(t, job.Runs)
			require.Len(t, s.ids["StartDueRun"], 1, "no history while it waits")
		})
	}
}

func TestGridWaitsForItsSource(t *testing.T) {
	s := newScenario(t, 1)
	s.update(0, UpdateStart)
	s.at(30*time.Minute, s.offline)
	first := s.sees(time.Hour + 2*time.Minute)
	s.at(time.Hour+4*time.Minute, s.online)
	require.NoError(t, s.runUntil(2*time.Hour-time.Minute))
	require.Contains(t, (*first).Info(), "the source server is Unavailable")
	job := s.job()
	require.Len(t, job.Runs, 2)
	// Nobody wakes the start here, as the center does: it is tried by itself after 30, 60, 120 and 240 seconds.
	require.WithinDuration(t, job.StartedAt.Add(time.Hour+7*time.Minute+30*time.Second), job.Runs[1].StartedAt, 2*time.Second)
	require.Empty(t, job.Info(), "the run came before the next point: nothing was missed")
}

// What is due is known from the store: an entity that was away, or is rebuilt, makes one run at once.
func TestGridAfterEverythingWasDown(t *testing.T) {
	r := newRecord(t, 1)
	first := newScenarioOf(r, r.input())
	first.update(0, UpdateStart)
	require.NoError(t, first.runUntil(30*time.Minute))

	next := newScenarioOf(r, r.input())
	next.env.SetStartTime(first.env.Now().Add(5 * time.Hour)) // five points later
	running := next.sees(time.Minute)
	require.NoError(t, next.runUntil(75*time.Minute))
	require.Equal(t, smc.StatusRunning, (*running).Status)
	require.Contains(t, (*running).Info(), "missed 5 of the points for a run (5 while the center was down)")
	job := r.job()
	require.Len(t, job.Runs, 3, "one run at once, then the grid again")
	for i, after := range []time.Duration{0, 5*time.Hour + 30*time.Minute, 6 * time.Hour} {
		require.WithinDuration(t, job.StartedAt.Add(after), job.Runs[i].StartedAt, time.Minute)
	}
}

func TestModifiedFrequencyMovesTheGrid(t *testing.T) {
	s := newScenario(t, 24)
	s.update(0, UpdateStart)
	five := 5
	modified := s.modify(7*time.Hour, smc.ModifyReplicationJobAttributeRequest{Frequency: &five})
	require.NoError(t, s.runUntil(16*time.Hour))
	modified.requireDone()
	job := s.job()
	require.Len(t, job.Runs, 3)
	require.WithinDuration(t, job.StartedAt.Add(10*time.Hour), job.Runs[1].StartedAt, time.Second)
	require.WithinDuration(t, job.StartedAt.Add(15*time.Hour), job.Runs[2].StartedAt, time.Second)
}

func TestExpiry(t *testing.T) {
	for _, test := range unfinished(168) {
		t.Run(string(test.from), func(t *testing.T) {
			s := newScenario(t, test.frequency, validDays(8))
			test.reach(s)
			before, after := s.sees(8*day-time.Minute), s.sees(8*day+time.Minute)
			start := s.update(9*day, UpdateStart)
			rename, name := "renamed", "later"
			renamed := s.modify(9*day, smc.ModifyReplicationJobAttributeRequest{Name: &rename})
			longer := s.modify(10*day, smc.ModifyReplicationJobAttributeRequest{Name: &name, ValidTime: apiTime(time.Now().Add(30 * day))})
			late := s.sees(15*day - time.Minute)
			begin := s.env.Now()
			require.NoError(t, s.runUntil(30*day))
			require.Equal(t, test.from, (*before).Status)
			require.Equal(t, smc.StatusExpired, (*after).Status)
			require.WithinDuration(t, begin.Add(8*day), (*after).EndedAt, 2*time.Second)
			require.Empty(t, (*after).HostID)
			require.Equal(t, smc.StatusExpired, (*late).Status)
			require.Equal(t, rename, (*late).Name, "a name may change in any status")
			start.requireRejected(smc.CodeReplicationJobInvalidStatus)
			renamed.requireDone()
			longer.requireFailed(smc.CodeReplicationJobInvalidStatus)
			require.Nil(t, s.job(), "cleared 7 days later")
			statuses := s.statuses()
			require.Equal(t, []smc.JobStatus{test.from, smc.StatusExpired, smc.StatusDeleting, "Deleted"}, statuses[len(statuses)-4:])
			if test.releases {
				require.Equal(t, "Release", s.done()[len(s.done())-1])
				require.Equal(t, 1, s.attempts["Release"])
			} else {
				require.Empty(t, s.done())
			}
			source, err := s.Source(t.Context(), testAccount, s.sourceID)
			require.NoError(t, err)
			require.Equal(t, smc.SourceAvailable, source.State)
		})
	}
}

// A Running job is untouched; when it rests, expiry beats the run that is due.
func TestRunningJobOutlivesItsValidTime(t *testing.T) {
	s := newScenario(t, 168, validDays(7))
	s.env.OnActivity("Process", mock.Anything, mock.Anything).After(8 * day).Return(s.host.Process)
	s.update(0, UpdateStart)
	running := s.sees(8 * day)
	require.NoError(t, s.runUntil(9*day))
	require.Equal(t, smc.StatusRunning, (*running).Status)
	job := s.job()
	require.Equal(t, smc.StatusExpired, job.Status)
	require.Len(t, job.Runs, 1, "a point of the grid had passed")
	require.NotContains(t, s.attempts, "StartDueRun")
	require.Equal(t, []smc.JobStatus{smc.StatusReady, smc.StatusRunning, smc.StatusWaiting, smc.StatusExpired}, s.statuses())
}

// Time stood still for the entity: when it goes on, the start that was due and the expiry are both past.
func TestExpiryBeatsADueStart(t *testing.T) {
	r := newRecord(t, 0, startsAt(time.Now().Add(time.Hour)), validDays(7))
	s := newScenarioOf(r, r.input())
	s.env.SetStartTime(time.Now().Add(8 * day))
	require.NoError(t, s.runUntil(day))
	require.Equal(t, smc.StatusExpired, r.job().Status)
	require.NotContains(t, s.attempts, "StartDueRun")
}

func TestValidTimeIsModified(t *testing.T) {
	for _, test := range []struct {
		name    string
		to      func() *string
		expires time.Duration // 0: never
	}{
		{"longer", func() *string { return apiTime(time.Now().Add(80 * day)) }, 80 * day},
		{"shorter", func() *string { return apiTime(time.Now().Add(7 * day)) }, 7 * day},
		{"never", func() *string { return new(string) }, 0},
	} {
		for _, running := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, running %t", test.name, running), func(t *testing.T) {
				s := newScenario(t, 0, validDays(20))
				begin := s.env.Now()
				if running {
					s.env.OnActivity("Process", mock.Anything, mock.Anything).After(2 * day).Return(s.host.Process)
					s.update(0, UpdateStart)
					s.fail("Clean", refusal(smc.CodeInternalError, "broken"))
				}
				modified := s.modify(day, smc.ModifyReplicationJobAttributeRequest{ValidTime: test.to()})
				require.NoError(t, s.runUntil(86*day))
				modified.requireDone()
				job := s.job()
				switch {
				case test.name == "shorter":
					require.Nil(t, job, "expired and cleared")
				case test.expires > 0:
					require.Equal(t, smc.StatusExpired, job.Status)
					require.WithinDuration(t, begin.Add(test.expires), job.EndedAt, 2*time.Second)
				default:
					require.NotEqual(t, smc.StatusExpired, job.Status)
				}
			})
		}
	}
}

func TestValidTimeThatHasPassedIsRefused(t *testing.T) {
	s := newScenario(t, 0)
	past := s.modify(10*day, smc.ModifyReplicationJobAttributeRequest{ValidTime: apiTime(time.Now().Add(8 * day))})
	require.NoError(t, s.runUntil(20*day))
	past.requireFailed(smc.CodeInvalidParameter)
	require.Equal(t, smc.StatusReady, s.job().Status)
}

// An update that comes in the same moment as the expiry finds the job Expired.
func TestUpdateAtTheMomentOfExpiry(t *testing.T) {
	r := newRecord(t, 0, validDays(7))
	s := newScenarioOf(r, r.input())
	s.env.SetStartTime(time.Now().Add(8 * day))
	start := s.update(0, UpdateStart)
	require.NoError(t, s.runUntil(day))
	if start.rejected == nil {
		start.requireFailed(smc.CodeReplicationJobInvalidStatus)
	}
	require.Equal(t, smc.StatusExpired, r.job().Status)
	require.Empty(t, r.job().Runs)
}

// The host that holds the staging may be away for long: the job is deleted meanwhile, and goes when the host is back.
func TestReleaseWaitsForItsHostAndBlocksNothing(t *testing.T) {
	s := newScenario(t, 24, validDays(7))
	s.env.OnActivity("Release", mock.Anything, mock.Anything).After(10 * day).Return(s.host.Release)
	s.update(0, UpdateStart)
	rename := "renamed"
	renamed := s.modify(7*day+time.Hour, smc.ModifyReplicationJobAttributeRequest{Name: &rename})
	remove := s.update(8*day, UpdateDelete)
	deleting := s.sees(10 * day)
	require.NoError(t, s.runUntil(40*day))
	renamed.requireDone()
	remove.requireDone()
	require.Equal(t, smc.StatusDeleting, (*deleting).Status)
	require.Equal(t, testHost, (*deleting).HostID)
	require.Nil(t, s.job())
}

func TestClearingWaitsForTheHost(t *testing.T) {
	s := newScenario(t, 24, validDays(7))
	s.env.OnActivity("Release", mock.Anything, mock.Anything).After(20 * day).Return(s.host.Release)
	s.update(0, UpdateStart)
	deleting := s.sees(15 * day)
	require.NoError(t, s.runUntil(60*day))
	require.Equal(t, smc.StatusDeleting, (*deleting).Status, "it no longer holds its source")
	require.Nil(t, s.job())
}

// An entity that waits for a host continues as new, and goes on with the release.
func TestReleaseOutlivesContinueAsNew(t *testing.T) {
	r := newRecord(t, 24)
	first := newScenarioOf(r, r.input())
	first.env.OnActivity("Release", mock.Anything, mock.Anything).After(10 * day).Return(first.host.Release)
	first.update(0, UpdateStart)
	first.update(time.Hour, UpdateDelete)
	first.at(2*time.Hour, func() { first.env.SetContinueAsNewSuggested(true) })
	input := requireContinuesAsNew(t, first.runUntil(30*day))
	require.Equal(t, smc.StatusDeleting, input.Status)
	require.Equal(t, testHost, input.ReleaseHost)
	next := newScenarioOf(r, input)
	require.NoError(t, next.runUntil(day))
	require.Nil(t, r.job())
	require.Equal(t, []string{"Release"}, next.done())
}

func TestReleaseThatIsRefusedIsTriedAgain(t *testing.T) {
	s := newScenario(t, 24)
	s.fail("Release", refusal(smc.CodeInternalError, "the image store is damaged"))
	s.update(0, UpdateStart)
	s.update(time.Hour, UpdateDelete)
	require.NoError(t, s.runUntil(day))
	require.Nil(t, s.job())
	require.Equal(t, 2, s.attempts["Release"])
}

func TestStopDuringTheLastRunOfACutOver(t *testing.T) {
	s := newScenario(t, 24)
	s.update(0, UpdateStart)
	s.update(2*time.Hour, UpdateCutOver, CutOverRequest{SyncData: true})
	stop := s.update(2*time.Hour+5*time.Minute, UpdateStop)
	stopped := s.sees(3 * time.Hour)
	resume := s.update(30*time.Hour, UpdateStart)
	require.NoError(t, s.runUntil(100*time.Hour))
	stop.requireDone()
	resume.requireDone()
	require.Equal(t, smc.StatusStopped, (*stopped).Status)
	require.Equal(t, store.CutOverSyncData, (*stopped).CutOver)
	job := s.job()
	require.Equal(t, smc.StatusFinished, job.Status, "Start finishes the cutover, not the rhythm")
	require.Len(t, job.Runs, 2, "no point of the grid started a run while it was Stopped")
	require.Empty(t, job.HostID)
}

func TestCutOverNeedsItsSource(t *testing.T) {
	s := newScenario(t, 24)
	s.update(0, UpdateStart)
	s.at(time.Hour, s.offline)
	sync := s.update(2*time.Hour, UpdateCutOver, CutOverRequest{SyncData: true})
	asIs := s.update(3*time.Hour, UpdateCutOver, CutOverRequest{})
	require.NoError(t, s.runUntil(100*time.Hour))
	sync.requireFailed(smc.CodeSourceServerStateInvalid)
	asIs.requireDone()
	require.Equal(t, smc.StatusFinished, s.job().Status, "what is there needs no source")
}

func TestDeleteOfAnExpiredJob(t *testing.T) {
	s := newScenario(t, 24, validDays(7))
	s.update(0, UpdateStart)
	remove := s.update(8*day, UpdateDelete)
	require.NoError(t, s.runUntil(9*day))
	remove.requireDone()
	require.Nil(t, s.job())
	require.Equal(t, 1, s.attempts["Release"])
}

// An update that is at work when the history is full is carried out before the entity continues as new, which remembers it;
// one that comes meanwhile is refused, and the next run's when it is sent again.
func TestContinueAsNewWaitsForUpdates(t *testing.T) {
	r := newRecord(t, 24)
	first := newScenarioOf(r, r.input())
	jobs := &activities.Jobs{Store: r.Store}
	first.env.OnActivity(jobs.Modify, mock.Anything, mock.Anything).After(time.Minute).Return(jobs.Modify)
	names := []string{"first", "second", "third"}
	var answers []*answer
	for i := range names {
		answers = append(answers, first.request(time.Hour, UpdateModify, fmt.Sprint("R", i), smc.ModifyReplicationJobAttributeRequest{JobID: r.jobID, Name: &names[i]}))
	}
	first.at(time.Hour+30*time.Second, func() { first.env.SetCurrentHistoryLength(restingHistory + 1) })
	late := first.request(time.Hour+45*time.Second, UpdateModify, "late", smc.ModifyReplicationJobAttributeRequest{JobID: r.jobID, Name: &names[0]})
	input := requireContinuesAsNew(t, first.runUntil(100*time.Hour))
	for _, answer := range answers {
		require.NoError(t, answer.rejected)
	}
	late.requireRejected(TypeContinuesAsNew)
	require.ElementsMatch(t, []string{"R0", "R1", "R2"}, input.Requests)
	require.Equal(t, 3, first.attempts["Modify"])

	next := newScenarioOf(r, input)
	again := next.request(time.Minute, UpdateModify, "R0", smc.ModifyReplicationJobAttributeRequest{JobID: r.jobID, Name: &names[0]})
	require.NoError(t, next.runUntil(time.Hour))
	again.requireDone()
	require.NotContains(t, next.attempts, "Modify")
	require.NotEqual(t, "first", r.job().Name, "it is not made once more")
}

// A job that runs for weeks cannot continue as new: it keeps room for Stop.
func TestChangesOfARunningJobAreBounded(t *testing.T) {
	e := &entity{JobInput: JobInput{Status: smc.StatusRunning}, updates: maxUpdates - 1}
	require.NoError(t, e.hasRoom(UpdateModify))
	e.updates++
	require.Equal(t, smc.CodeThrottlingUser, errorType(e.hasRoom(UpdateModify)))
	require.NoError(t, e.hasRoom(UpdateStop))
	e.Status = smc.StatusWaiting
	require.NoError(t, e.hasRoom(UpdateModify), "at rest it continues as new")
}

// An update may come with the entity's first task, before the entity rests for the first time: what it changes is seen.
func TestUpdateWithTheFirstTask(t *testing.T) {
	s := newScenario(t, 0)
	modified := s.modify(0, smc.ModifyReplicationJobAttributeRequest{ValidTime: apiTime(time.Now().Add(8 * day))})
	require.NoError(t, s.runUntil(10*day))
	modified.requireDone()
	require.Equal(t, smc.StatusExpired, s.job().Status)
}
