package activities

import (
	"context"
	"fmt"
	"time"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
)

// spaceNeeded is what a run has yet to store on a transition host, as well as can be known before: written is what it has
// stored already. It may be too much, and what it cannot know, ENOSPC tells.
//
// A first run stores what the source's disks hold: all of a block device, the allocated part of a file. A later run overwrites,
// which takes room only while images share blocks with the staging area; how much changes is not known, so it is taken to be the
// most that an earlier later run brought, or, for the first of them, a tenth of what is staged. The image takes nothing when it is
// the last (a link) or shares its blocks; else it is a copy of all that is staged then. A container image is files of its own, which are
// packed: they take less than what is staged.
func spaceNeeded(job *store.Job, source *store.Source, space replica.Space, written int64) int64 {
	used := map[int]int64{}
	for _, disk := range source.Server.Disks {
		used[disk.Index] = disk.UsedBytes
	}
	var holds, maps int64
	known := true // what the disks hold, other than at most their size
	for _, disk := range job.Disks(source) {
		maps += replica.MapBytes(disk.SizeBytes)
		if u := used[disk.Index]; u > 0 && u < disk.SizeBytes {
			holds += u
		} else {
			holds += disk.SizeBytes
			known = false
		}
	}
	sync := max(0, holds+maps-space.StagedBytes)
	if job.Run > 1 {
		changes := max(0, changesOf(job, space.StagedBytes)-written)
		switch {
		case !known:
			sync = changes // a device that was copied once: what is not staged of it was zero, and mostly stays so
		case space.SharesBlocks:
			sync = max(sync, changes)
		}
	}
	image := maps
	if job.Spec.Target() == smc.TargetContainerImage || !job.Final() && !space.SharesBlocks {
		image += space.StagedBytes + sync
	}
	return sync + image
}

// changesOf estimates what a later run of a job brings.
func changesOf(job *store.Job, staged int64) int64 {
	var most int64
	for _, run := range job.Runs {
		if run.Number > 1 && run.Status == smc.RunSucceeded {
			most = max(most, run.BytesSentRaw)
		}
	}
	if most == 0 {
		most = staged / 10
	}
	return most
}

// needs returns what a run has yet to store on this host, and the room there.
func (a *Replication) needs(ctx context.Context, job *store.Job, source *store.Source, written int64) (int64, replica.Space, error) {
	space, err := a.Host.Space(job.JobID)
	if err != nil {
		return 0, space, err
	}
	job, err = a.Store.Job(ctx, job.AccountID, job.JobID) // with its runs
	if err != nil {
		return 0, space, err
	}
	return spaceNeeded(job, source, space, written), space, nil
}

// reserveSpace takes the room that a run needs, or says how much is missing.
func (a *Replication) reserveSpace(ctx context.Context, job *store.Job, source *store.Source) error {
	needed, space, err := a.needs(ctx, job, source, 0)
	if err != nil {
		return err
	}
	others, fits, err := a.Store.ReserveSpace(ctx, job.JobID, job.HostID, needed, space.FreeBytes)
	if err != nil || fits {
		return err
	}
	return smc.Errorf(smc.CodeTransitionHostNoSpace,
		"the run needs %s at %s of transition host %s, and %s are free there, of which other runs still need %s: free %s or more, then start the job",
		amount(needed), space.Path, job.HostID, amount(space.FreeBytes), amount(others), amount(needed-space.FreeBytes+others))
}

// reservationEvery is how often a run that is Syncing says how much it has yet to store.
const reservationEvery = 10 * time.Second

// updateReservation records how much a run has yet to store, so that another run on this host can count on the rest.
func (a *Replication) updateReservation(ctx context.Context, job *store.Job, source *store.Source, written int64) error {
	needed, _, err := a.needs(ctx, job, source, written)
	if err != nil {
		return err
	}
	return a.Store.UpdateReservation(ctx, job.JobID, job.HostID, needed)
}

// amount is a number of bytes for a person, never less than it is.
func amount(n int64) string {
	for _, unit := range []struct {
		size int64
		name string
	}{{1 << 40, "TiB"}, {1 << 30, "GiB"}} {
		if n >= unit.size {
			return fmt.Sprintf("%.1f %s", float64((n*10+unit.size-1)/unit.size)/10, unit.name)
		}
	}
	return fmt.Sprintf("%d MiB", (n+1<<20-1)>>20)
}
