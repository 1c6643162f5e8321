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
	pages *simplelru.LRU[pageKey, jobPage]
}

// keptJob is a job as it was at a revision.
type keptJob struct {
	revision int64
	encoded  encodedJob
}

// pageKey is what a page was asked for with.
type pageKey struct{ accountID, parameters string }

// jobPage is a page as it was at a revision of its account.
type jobPage struct {
	revision int64
	jobs     []store.JobRevision
	total    int
}

func newJobPages(record *store.Store) *jobPages {
	p := &jobPages{store: record}
	p.jobs, _ = simplelru.NewLRU(maxJobBytes, func(_ string, job keptJob) { p.bytes -= job.encoded.Size() }) // bounded by keep
	p.pages, _ = simplelru.NewLRU[pageKey, jobPage](maxPages, nil)
	return p
}

// page returns a page of the jobs of an account and how many match in all.
func (p *jobPages) page(ctx context.Context, accountID string, r *smc.DescribeReplicationJobsRequest, page store.Page) (encodedJobs, int, error) {
	key := pageKey{accountID, smc.DescribeReplicationJobs.Encode(r).Encode()}
	revision, kept, err := p.store.JobsRevision(ctx, accountID)
	if err != nil {
		return nil, 0, err
	}
	if kept {
		if jobs, total, ok := p.known(key, revision); ok {
			return jobs, total, nil
		}
	}
	found := make(map[store.JobRevision]encodedJob, page.Size)
	read, err := p.store.JobPage(ctx, accountID, store.JobFilter{
		JobIDs: r.JobID, SourceIDs: r.SourceID, Name: value(r.Name), RegionID: value(r.RegionID),
		Status: smc.JobStatus(value(r.Status)), BusinessStatus: smc.BusinessStatus(value(r.BusinessStatus)),
		InstanceIDs: r.InstanceID, ResourceGroupID: value(r.ResourceGroupID), Tags: r.Tag,
	}, page, func(job store.JobRevision) bool {
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
	jobs := make(encodedJobs, len(read.Jobs))
	for i, job := range read.Jobs {
		if row := read.Unknown[job.JobID]; row != nil {
			shown := replicationJob(row)
			if found[job], err = smc.Encode(&shown); err != nil {
				return nil, 0, err
			}
		}
		jobs[i] = found[job]
	}
	p.keep(key, read, jobs, kept)
	return jobs, read.Total, nil
}

// job returns a job that was kept at its revision. The caller holds mutex.
func (p *jobPages) job(job store.JobRevision) (encodedJob, bool) {
	kept, ok := p.jobs.Get(job.JobID)
	return kept.encoded, ok && kept.revision == job.Revision
}

// known returns a page that was kept at a revision, if all of its jobs still are.
func (p *jobPages) known(key pageKey, revision int64) (encodedJobs, int, bool) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	page, ok := p.pages.Get(key)
	if !ok || page.revision != revision {
		return nil, 0, false
	}
	jobs := make(encodedJobs, len(page.jobs))
	for i, job := range page.jobs {
		if jobs[i], ok = p.job(job); !ok {
			return nil, 0, false
		}
	}
	return jobs, page.total, true
}

// keep keeps the jobs of a page that were not known and, if there is a revision to keep it under, the page.
func (p *jobPages) keep(key pageKey, read store.JobPage, jobs encodedJobs, page bool) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
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
	if page && len(key.parameters) <= maxPageKey {
		p.pages.Add(key, jobPage{read.Revision, read.Jobs, read.Total})
	}
}
