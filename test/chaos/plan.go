package main

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"time"
)

const mib = 1 << 20

// target is a kind of process that is struck.
type target string

// The targets, each a process of its own.
const (
	server       target = "server"
	center       target = "center"
	transition   target = "transition"
	agent        target = "agent"
	natsServer   target = "nats"
	temporal     target = "temporal"
	orchestrator target = "orchestrator"
)

var targets = []target{server, center, transition, agent, natsServer, temporal, orchestrator}

// boundary is what a job enters: its Status, or its BusinessStatus while it is Running.
type boundary string

var boundaries = []boundary{
	"Ready", "Preparing", "Syncing", "Processing", "Cleaning", "Waiting", "Stopped", "InError", "Finished", "Deleting", "Deleted",
}

// strike is a SIGKILL, or with hang a SIGSTOP, and how long it lasts until the process goes on.
type strike struct {
	target target
	pick   int // which of several
	hang   bool
	lasts  time.Duration
}

func (s strike) String() string {
	verb := "SIGKILL"
	if s.hang {
		verb = "SIGSTOP"
	}
	return fmt.Sprintf("%s %s for %v", verb, s.target, s.lasts)
}

// outage is a time in which something cannot be reached, or with hang says nothing.
type outage struct {
	of    string // natsOutage or databaseOutage
	hang  bool
	after time.Duration
	lasts time.Duration
}

// what says in a word what an outage is.
func (o outage) what() string {
	if o.hang {
		return "hangs"
	}
	return "is unreachable"
}

const (
	natsOutage     = "NATS"
	databaseOutage = "database"
)

// ending is how a job is to end.
type ending string

// The endings. Those that leave something are of the last job of a source: an unfinished job holds it.
const (
	finished        ending = "Finished"
	finishedDeleted ending = "Finished, deleted"
	readyDeleted    ending = "Ready, deleted"
	stoppedDeleted  ending = "Stopped, deleted"
	waitingDeleted  ending = "Waiting, deleted"
	cutOverSync     ending = "cut over with a last run"
	cutOverAtRest   ending = "cut over without"
	leftReady       ending = "left Ready"
	leftStopped     ending = "left Stopped"
	leftWaiting     ending = "left Waiting"
)

// stop is a Stop in the middle of a sync, and the Start that follows.
type stop struct {
	at     float64 // share of the disks that has been read
	mutate int64   // bytes that change on the disks while the job is Stopped
}

// runPlan is one run of a job.
type runPlan struct {
	mutate int64 // bytes that change on the disks before it
	// breakAt, when positive, is the share after which the system disk loses its end: the job is InError, gets its disk back and is started.
	breakAt float64
	stops   []stop
}

// jobPlan is a job from its creation to its end.
type jobPlan struct {
	name        string
	incremental bool
	keep        int // MaxNumberOfImageToKeep
	kbps        int // bandwidth_limit; 0 for none
	compress    int
	checksum    bool
	runs        []runPlan
	ending      ending
	// strikes are made when the job enters a boundary: by its name and how often the job has been there, from 0.
	strikes map[moment]strike
}

// moment is the nth time, from 0, that a job enters a boundary.
type moment struct {
	boundary boundary
	nth      int
}

// sourcePlan is a source server and its jobs, one after another.
type sourcePlan struct {
	name       string
	systemMiB  int64
	fillMiB    int64
	dataMiB    int64 // 0: no data disk
	dataFilled int64
	jobs       []*jobPlan
}

// plan is everything that is decided, and all of it follows from the seed, the number of jobs and the duration. What is decided for one actor
// comes from a stream of its own: no decision depends on the time at which another was carried out.
type plan struct {
	seed    uint64
	sources []*sourcePlan
	fleet   []*sourcePlan // the servers of the fleet, with no jobs here: the orchestrator makes them
	outages []outage
	// full says that the run is long enough to strike every process at every boundary.
	full bool
}

// fullJobs is from how many jobs on every pair of process and boundary is struck.
const fullJobs = 30

// stream returns the random numbers of one actor.
func stream(seed uint64, actor string) *rand.Rand {
	return rand.New(rand.NewChaCha8(sha256.Sum256(fmt.Appendf(nil, "drover chaos %d %s", seed, actor)))) //nolint:gosec // wants to be repeatable
}

// draw makes the plan of a seed.
func draw(seed uint64, jobs int) *plan {
	p := &plan{seed: seed, full: jobs >= fullJobs}
	fleet := min(3, jobs/4)
	jobs -= fleet
	sources := min(max(jobs/3, 2), 8)
	for i := range sources + fleet {
		s := drawSource(seed, i)
		if i >= sources {
			s.name = fmt.Sprintf("fleet-%d", i-sources+1)
			p.fleet = append(p.fleet, s)
			continue
		}
		for k := i; k < jobs; k += sources {
			s.jobs = append(s.jobs, drawJob(seed, k, k+sources >= jobs))
		}
		p.sources = append(p.sources, s)
	}
	p.placeStrikes()
	p.drawOutages()
	return p
}

func drawSource(seed uint64, i int) *sourcePlan {
	r := stream(seed, fmt.Sprintf("source %d", i))
	s := &sourcePlan{name: fmt.Sprintf("source-%d", i+1), systemMiB: 48 + 8*r.Int64N(7)}
	s.fillMiB = s.systemMiB/4 + r.Int64N(s.systemMiB/8)
	if r.IntN(2) == 0 {
		s.dataMiB = 32 + 8*r.Int64N(5)
		s.dataFilled = s.dataMiB/4 + r.Int64N(s.dataMiB/4)
	}
	return s
}

// choice is one of several, more or less likely.
type choice[T any] struct {
	weight int
	value  T
}

func choose[T any](r *rand.Rand, choices ...choice[T]) T {
	total := 0
	for _, c := range choices {
		total += c.weight
	}
	n := r.IntN(total)
	for _, c := range choices {
		if n -= c.weight; n < 0 {
			return c.value
		}
	}
	panic("unreachable")
}

func drawJob(seed uint64, k int, last bool) *jobPlan {
	r := stream(seed, fmt.Sprintf("job %d", k))
	j := &jobPlan{
		name: fmt.Sprintf("job-%02d", k+1), incremental: r.IntN(100) < 45, compress: r.IntN(4), checksum: r.IntN(5) > 0, strikes: map[moment]strike{},
	}
	if r.IntN(10) < 8 {
		j.kbps = 20_000 + 1000*r.IntN(60)
	}
	leave := 0
	if last {
		leave = 1
	}
	runs := 1
	if j.incremental {
		j.keep, runs = 1+r.IntN(3), 2+r.IntN(3)
		j.ending = choose(r, choice[ending]{35, cutOverSync}, choice[ending]{25, cutOverAtRest}, choice[ending]{20, waitingDeleted}, choice[ending]{60 * leave, leftWaiting})
	} else {
		j.ending = choose(r, choice[ending]{35, finished}, choice[ending]{35, finishedDeleted}, choice[ending]{8, readyDeleted}, choice[ending]{14, stoppedDeleted},
			choice[ending]{10 * leave, leftReady}, choice[ending]{15 * leave, leftStopped})
	}
	if j.ending == readyDeleted || j.ending == leftReady {
		return j
	}
	for n := range runs {
		run := runPlan{mutate: int64(r.IntN(4)) * mib}
		if n == 0 && r.IntN(100) < 35 {
			run.breakAt = 0.05 + 0.2*r.Float64()
		}
		if n == 0 || r.IntN(3) == 0 {
			for range choose(r, choice[int]{60, 0}, choice[int]{30, 1}, choice[int]{10, 2}) {
				run.stops = append(run.stops, stop{at: 0.2 + 0.6*r.Float64(), mutate: int64(r.IntN(2)*r.IntN(3)) * mib})
			}
		}
		if n == 0 && len(run.stops) == 0 && (j.ending == stoppedDeleted || j.ending == leftStopped) {
			run.stops = []stop{{at: 0.2 + 0.4*r.Float64()}}
		}
		if n == 0 && (run.breakAt > 0 || len(run.stops) > 0) && j.kbps == 0 {
			j.kbps = 40_000 // a sync as fast as it can be is over before it is stopped
		}
		j.runs = append(j.runs, run)
	}
	return j
}

// closing is a job that passes every boundary; such jobs are made at the end for pairs of process and boundary that were not struck yet.
func closing(seed uint64, k int) *jobPlan {
	r := stream(seed, fmt.Sprintf("closing %d", k))
	return &jobPlan{
		name: fmt.Sprintf("closing-%02d", k+1), incremental: true, keep: 1, kbps: 40_000, compress: 1, checksum: true, ending: cutOverSync + ending(", deleted"),
		runs:    []runPlan{{breakAt: 0.05 + 0.1*r.Float64(), stops: []stop{{at: 0.3}}}, {mutate: mib}},
		strikes: map[moment]strike{},
	}
}

// moments are the boundaries that the job is expected to pass, in their order.
func (j *jobPlan) moments() []moment {
	seen := map[boundary]int{}
	var all []moment
	pass := func(boundaries ...boundary) {
		for _, b := range boundaries {
			all = append(all, moment{b, seen[b]})
			seen[b]++
		}
	}
	pass("Ready")
	for n, run := range j.runs {
		pass("Preparing", "Syncing")
		if run.breakAt > 0 {
			pass("InError", "Preparing", "Syncing")
		}
		for s := range run.stops {
			pass("Stopped")
			if last := s == len(run.stops)-1; last && (j.ending == stoppedDeleted || j.ending == leftStopped) {
				break
			}
			pass("Preparing", "Syncing")
		}
		if j.ending == stoppedDeleted || j.ending == leftStopped {
			break
		}
		pass("Processing", "Cleaning")
		switch last := n == len(j.runs)-1; {
		case !j.incremental || last && j.ending.cutOver() && j.ending != cutOverAtRest:
			pass("Finished")
		case last && j.ending == cutOverAtRest:
			pass("Waiting", "Finished")
		default:
			pass("Waiting")
		}
	}
	if j.ending.deleted() {
		pass("Deleting", "Deleted")
	}
	return all
}

// cutOver reports whether the job ends by a cutover.
func (e ending) cutOver() bool {
	return e == cutOverAtRest || e == cutOverSync || e == cutOverSync+", deleted"
}

// deleted reports whether the job is deleted in the end.
func (e ending) deleted() bool {
	switch e {
	case finishedDeleted, readyDeleted, stoppedDeleted, waitingDeleted, cutOverSync + ", deleted":
		return true
	}
	return false
}

// placeStrikes spreads over the jobs a strike for every pair of process and boundary, as far as there are moments for them, and some more.
func (p *plan) placeStrikes() {
	type place struct {
		job *jobPlan
		moment
	}
	for _, b := range boundaries {
		r := stream(p.seed, "strikes at "+string(b))
		var places []place
		for _, s := range p.sources {
			for _, j := range s.jobs {
				for _, m := range j.moments() {
					if m.boundary == b {
						places = append(places, place{j, m})
					}
				}
			}
		}
		r.Shuffle(len(places), func(i, k int) { places[i], places[k] = places[k], places[i] })
		order := r.Perm(len(targets))
		for i, at := range places {
			kind := targets[r.IntN(len(targets))]
			extra := r.IntN(100) < 8
			s := drawStrike(r, kind)
			if i < len(targets) {
				s.target = targets[order[i]]
			} else if !extra {
				continue
			}
			s.hang = false
			at.job.strikes[at.moment] = s
		}
	}
}

// drawStrike draws how long a process of a kind is struck.
func drawStrike(r *rand.Rand, kind target) strike {
	s := strike{target: kind, pick: r.IntN(1 << 16), hang: r.IntN(5) == 0}
	s.lasts = choose(r, choice[time.Duration]{50, 0}, choice[time.Duration]{35, time.Second}, choice[time.Duration]{15, 5 * time.Second})
	s.lasts += time.Duration(r.IntN(1000)) * time.Millisecond
	if s.hang {
		s.lasts += time.Second
	}
	return s
}

// randomStrikes returns the strikes that come by themselves: the pause before each, and what it is. There is no end to them.
func (p *plan) randomStrikes() func() (time.Duration, strike) {
	r := stream(p.seed, "random strikes")
	return func() (time.Duration, strike) {
		pause := time.Second + time.Duration(min(r.ExpFloat64(), 4)*4*float64(time.Second))
		kind := choose(r, choice[target]{4, server}, choice[target]{4, center}, choice[target]{5, transition}, choice[target]{6, agent}, choice[target]{2, natsServer},
			choice[target]{2, temporal}, choice[target]{1, orchestrator})
		return pause.Truncate(time.Millisecond), drawStrike(r, kind)
	}
}

func (p *plan) drawOutages() {
	r := stream(p.seed, "outages")
	either := func() bool { return r.IntN(2) == 0 }
	kinds := []string{natsOutage, databaseOutage}
	if r.IntN(2) == 0 {
		kinds[0], kinds[1] = kinds[1], kinds[0]
	}
	add := func(hang func() bool, shortest, spread int) {
		for _, kind := range kinds {
			p.outages = append(p.outages, outage{
				of: kind, hang: hang(), after: time.Duration(8+r.IntN(12)) * time.Second, lasts: time.Duration(shortest+r.IntN(spread)) * time.Second,
			})
		}
	}
	if !p.full {
		add(either, 4, 5)
		return
	}
	add(either, 4, 8)
	add(func() bool { return false }, 20, 20) // longer than anything waits for an answer
	add(func() bool { return true }, 20, 20)
	add(either, 8, 8)
}
