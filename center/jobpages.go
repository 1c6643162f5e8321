package center

import (
	"context"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
)

// What jobPages keeps at most: of jobs their JSON, about 1 KB each, and of pages the ids of their jobs.
const (
	maxJobBytes = 32 << 20
	maxPages    = 1024
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
	return p
}

// page returns a page of the jobs of an account and how many match in all. changes are the store's JobChanges of the account, read
// after the call came.
func (p *jobPages) page(ctx context.Context, accountID string, changes int64, r *smc.DescribeReplicationJobsRequest, page store.Page) (encodedJobs, int, error) {
	key := pageKey{accountID, smc.DescribeReplicationJobs.Encode(r).Encode()}
	jobs, before, ok := p.known(key, changes)
	if ok {
		return jobs, before.Total, nil
	}
	found := make(map[store.JobRevision]encodedJob, page.Size)
	read, err := p.store.JobPage(ctx, accountID, store.JobFilter{
		JobIDs: r.JobID, SourceIDs: r.SourceID, Name: value(r.Name), RegionID: value(r.RegionID),
		Status: smc.JobStatus(value(r.Status)), BusinessStatus: smc.BusinessStatus(value(r.BusinessStatus)),
		InstanceIDs: r.InstanceID, ResourceGroupID: value(r.ResourceGroupID), Tags: r.Tag,
	}, page, before, func(job store.JobRevision) bool {
		if _, ok := found[job]; !ok {
			p.mutex.Lock()
			encoded, ok := p.job(job)
			p.mutex.Unlock()
			if !ok {
				return false
			}
			found[job] = encoded
		}
		return true
	})
	if err != nil {
		return nil, 0, err
	}
	jobs = make(encodedJobs, len(read.Jobs))
	for i, job := range read.Jobs {
		if row := read.Unknown[job.JobID]; row != nil {
			shown := replicationJob(row)
			if found[job], err = smc.Encode(&shown); err != nil {
				return nil, 0, err
			}
		}
		jobs[i] = found[job]
	}
	p.keep(key, read, jobs)
	return jobs, read.Total, nil
}

// job returns a job that was kept at its revision. The caller holds mutex.
func (p *jobPages) job(job store.JobRevision) (encodedJob, bool) {
	kept, ok := p.jobs.Get(job.JobID)
	return kept.encoded, ok && kept.revision == job.Revision
}

// known returns a page that was kept. ok is false when its account, or what is kept of its jobs, has changed since.
func (p *jobPages) known(key pageKey, changes int64) (_ encodedJobs, before *store.JobPage, ok bool) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	page, ok := p.pages.Get(key)
	if !ok {
		return nil, nil, false
	}
	if page.Revision.Changes != changes {
		return nil, &page, false
	}
	jobs := make(encodedJobs, len(page.Jobs))
	for i, job := range page.Jobs {
		if jobs[i], ok = p.job(job); !ok {
			return nil, &page, false
		}
	}
	return jobs, &page, true
}

// keep keeps a page and the jobs of it that were not known.
func (p *jobPages) keep(key pageKey, read store.JobPage, jobs encodedJobs) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	page := len(key.parameters) <= maxPageKey
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
		return
	}
	read.Unknown = nil
	p.pages.Add(key, read)
}
