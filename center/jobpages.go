package center

import (
	"context"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/sync/singleflight"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
)

// What jobPages keeps at most: of jobs their JSON, about 1 KB each, and of pages the ids of their jobs.
const (
	maxJobBytes = 32 << 20
	maxPages    = 1024
	// maxAccounts is of how many accounts it remembers which jobs changed, and maxChanged how many of each.
	maxAccounts = 128
	maxChanged  = 2048
	// maxPageKey is how long the parameters of a page that is kept may be, in bytes.
	maxPageKey = 4 << 10
)

// jobsAnswer is a DescribeReplicationJobsResult whose jobs are encoded.
type jobsAnswer struct {
	smc.Answer
	smc.Page
	ReplicationJobs encodedJobs `json:"ReplicationJobs"`
}

type (
	encodedJob  = smc.Encoded[smc.ReplicationJob]
	encodedJobs = smc.List[encodedJob]
)

// jobPages answers DescribeReplicationJobs. It keeps jobs encoded, each with the revision at which it was read, and pages
// with the revision of their account. The store says at every call which revisions those are now, so an
// answer is never older than its call, whoever changed a job.
type jobPages struct {
	store *store.Store

	mutex sync.Mutex
	jobs  *simplelru.LRU[string, keptJob] // by JobID
	bytes int                             // of jobs
	pages *simplelru.LRU[pageKey, store.JobPage]

	accounts *simplelru.LRU[string, seenChanges]

	reading, looking singleflight.Group
}

// keptJob is a job as it was at a revision.
type keptJob struct {
	revision int64
	encoded  encodedJob
}

// pageKey is what a page was asked for with.
type pageKey struct{ accountID, parameters string }

func newJobPages(record *store.Store) *jobPages {
	p := &jobPages{store: record}
	p.jobs, _ = simplelru.NewLRU(maxJobBytes, func(_ string, job keptJob) { p.bytes -= job.encoded.Size() }) // bounded by keep
	p.pages, _ = simplelru.NewLRU[pageKey, store.JobPage](maxPages, nil)
	p.accounts, _ = simplelru.NewLRU[string, seenChanges](maxAccounts, nil)
	return p
}

// jobsRead is a page that was read. One that is kept answers every call that came before it was read.
type jobsRead struct {
	jobs  encodedJobs
	total int
	kept  bool
}

// page returns a page of the jobs of an account and how many match in all. changes are the store's JobChanges of the account, read
// after the call came.
func (p *jobPages) page(ctx context.Context, accountID string, changes int64, r *smc.DescribeReplicationJobsRequest, page store.Page) (encodedJobs, int, error) {
	key := pageKey{accountID, smc.DescribeReplicationJobs.Encode(r).Encode()}
	// Those that ask for the same at the same time have it read once. What was being read when a call came may be older than the call, what
	// is read next is not.
	for range 2 {
		jobs, total, kept := p.known(key, changes)
		if kept && jobs == nil {
			if err := p.look(ctx, accountID, changes); err != nil {
				return nil, 0, err
			}
			jobs, total, _ = p.known(key, changes)
		}
		if jobs != nil {
			return jobs, total, nil
		}
		leads := false
		read, err, _ := p.reading.Do(accountID+"\n"+key.parameters, func() (any, error) {
			leads = true
			return p.read(context.WithoutCancel(ctx), key, r, page)
		})
		if leads || err != nil {
			return read.(jobsRead).jobs, read.(jobsRead).total, err
		}
		if !read.(jobsRead).kept {
			break
		}
	}
	read, err := p.read(ctx, key, r, page)
	return read.jobs, read.total, err
}

// seenChanges is what was seen of the changes of an account's jobs.
type seenChanges struct {
	store.JobsSeen
	// since is from when on changed has all of them, in JobsRevision.Changes; it has how far they were seen when a job was
	// found to have changed.
	since   int64
	changed map[store.JobMark]int64
}

// look sees which jobs of an account changed, at least up to changes.
func (p *jobPages) look(ctx context.Context, accountID string, changes int64) error {
	for range 2 { // the first may join one that began before the call came
		if p.seen(accountID).Changes >= changes {
			return nil
		}
		if _, err, _ := p.looking.Do(accountID, func() (any, error) {
			seen := p.seen(accountID)
			now, changed, all, err := p.store.ChangedJobs(context.WithoutCancel(ctx), accountID, seen.JobsSeen)
			if err != nil {
				return nil, err
			}
			p.mutex.Lock()
			defer p.mutex.Unlock()
			seen.JobsSeen = now
			if all || len(seen.changed)+len(changed) > maxChanged {
				seen.since, seen.changed = now.Changes, nil
			} else {
				if seen.changed == nil {
					seen.changed = map[store.JobMark]int64{}
				}
				for _, job := range changed {
					seen.changed[job] = now.Changes
				}
			}
			p.accounts.Add(accountID, seen)
			return nil, nil
		}); err != nil {
			return err
		}
	}
	return nil
}

func (p *jobPages) seen(accountID string) seenChanges {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	seen, _ := p.accounts.Get(accountID)
	return seen
}

// unchanged reports whether nothing of a page has changed up to changes, and how far that was seen. The caller holds mutex.
func (p *jobPages) unchanged(accountID string, page *store.JobPage, changes int64) (seen int64, ok bool) {
	account, ok := p.accounts.Get(accountID)
	if !ok || account.Changes < changes || account.Membership != page.Revision.Membership || page.Revision.Changes < account.since {
		return 0, false
	}
	for _, job := range page.Jobs {
		if account.changed[store.MarkOf(job.JobID)] > page.Revision.Changes {
			return 0, false
		}
	}
	return account.Changes, true
}

// read reads a page, what is kept of it aside, and keeps it.
func (p *jobPages) read(ctx context.Context, key pageKey, r *smc.DescribeReplicationJobsRequest, page store.Page) (jobsRead, error) {
	p.mutex.Lock()
	var before *store.JobPage
	if kept, ok := p.pages.Get(key); ok {
		before = &kept
	}
	p.mutex.Unlock()
	found := make(map[string]encodedJob, page.Size)
	read, err := p.store.JobPage(ctx, key.accountID, store.JobFilter{
		JobIDs: r.JobID, SourceIDs: r.SourceID, Name: value(r.Name), RegionID: value(r.RegionID),
		Status: smc.JobStatus(value(r.Status)), BusinessStatus: smc.BusinessStatus(value(r.BusinessStatus)),
		InstanceIDs: r.InstanceID, ResourceGroupID: value(r.ResourceGroupID), Tags: r.Tag,
	}, page, before, func(jobID string) (int64, bool) {
		p.mutex.Lock()
		defer p.mutex.Unlock()
		kept, ok := p.jobs.Get(jobID)
		found[jobID] = kept.encoded
		return kept.revision, ok
	})
	if err != nil {
		return jobsRead{}, err
	}
	jobs := make(encodedJobs, len(read.Jobs))
	for i, job := range read.Jobs {
		jobs[i] = found[job.JobID]
		if row := read.Unknown[job.JobID]; row != nil {
			shown := replicationJob(row)
			if jobs[i], err = smc.Encode(&shown); err != nil {
				return jobsRead{}, err
			}
		}
	}
	return jobsRead{jobs, read.Total, p.keep(key, read, jobs)}, nil
}

// known returns a page that was kept, and how many match in all. jobs is nil when it may have changed since, or what is kept of its jobs has.
func (p *jobPages) known(key pageKey, changes int64) (jobs encodedJobs, total int, kept bool) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	page, ok := p.pages.Get(key)
	if !ok {
		return nil, 0, false
	}
	if page.Revision.Changes < changes { // changes are counted: a page with more of them is newer than the call
		if page.Revision.Changes, ok = p.unchanged(key.accountID, &page, changes); !ok {
			return nil, 0, true
		}
		p.pages.Add(key, page)
	}
	jobs = make(encodedJobs, len(page.Jobs))
	for i, job := range page.Jobs {
		kept, ok := p.jobs.Get(job.JobID)
		if !ok || kept.revision != job.Revision {
			return nil, 0, true
		}
		jobs[i] = kept.encoded
	}
	return jobs, page.Total, true
}

// keep keeps a page and the jobs of it that were not known, and reports whether the page is one that can be kept.
func (p *jobPages) keep(key pageKey, read store.JobPage, jobs encodedJobs) (page bool) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	page = len(key.parameters) <= maxPageKey
	for i, job := range read.Jobs {
		row := read.Unknown[job.JobID]
		if row == nil {
			continue
		}
		p.jobs.Remove(job.JobID) // and with it the bytes of an earlier revision
		if row.Queued() {        // its place changes with other jobs
			page = false
			continue
		}
		p.jobs.Add(job.JobID, keptJob{job.Revision, jobs[i]})
		p.bytes += jobs[i].Size()
	}
	for p.bytes > maxJobBytes {
		p.jobs.RemoveOldest()
	}
	if !page {
		p.pages.Remove(key)
		return false
	}
	read.Unknown = nil
	p.pages.Add(key, read)
	return true
}
