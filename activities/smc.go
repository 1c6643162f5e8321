package activities

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"

	"github.com/drover/drover/fleet"
	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
)

// SMC holds the activities that drive an SMC endpoint, the vendor's or a center's, through its API alone.
type SMC struct {
	Client *smc.Client
	// HTTP reaches the transition hosts of a center, to verify images.
	HTTP *http.Client
}

// Types of the application errors of SMC that are not SMC codes.
const (
	// TypeUnchanged ends an attempt of a slow poll that found nothing new; the next attempt looks again.
	TypeUnchanged = "Unchanged"
	// TypeNoServer says that a manifest names a server the endpoint does not have.
	TypeNoServer = "NoServer"
)

// callError gives the error of a call the form Temporal carries. What a later attempt may mend is retried by Temporal;
// the rest is the workflow's to decide, by its class: that is in the details, since the code alone does not tell it of
// codes that are not in the table.
func callError(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	failure := smc.AsError(err)
	if smc.ClassOf(err) == smc.Retryable {
		return temporal.NewApplicationErrorWithCause(err.Error(), failure.Code, err)
	}
	return temporal.NewNonRetryableApplicationError(failure.Message, failure.Code, nil, smc.ClassOf(err))
}

// beat shows until stop is called that a worker is at it: a call whose worker was killed is taken up by another long
// before it times out. What it is given is what the next attempt finds.
func beat(ctx context.Context, details ...any) (stop func()) {
	if len(details) > 0 {
		activity.RecordHeartbeat(ctx, details...)
	}
	done := make(chan struct{})
	var beating sync.WaitGroup
	beating.Go(func() { heartbeat(ctx, done, details...) })
	return func() {
		close(done)
		beating.Wait()
	}
}

// unchanged is the error of an attempt that is to be made again; it is no reason for alarm.
func unchanged(cause error, format string, args ...any) error {
	return temporal.NewApplicationErrorWithOptions(fmt.Sprintf(format, args...), TypeUnchanged, temporal.ApplicationErrorOptions{
		Cause: cause, Category: temporal.ApplicationErrorCategoryBenign,
	})
}

// ResolvedServer is a source server that an entry of a manifest stands for.
type ResolvedServer struct {
	Wave     int // index of the wave
	Server   fleet.Server
	SourceID string
}

// ResolveServers finds the source servers that a fleet names. A name or a pattern that finds none is an error, as is a
// name that several servers have.
func (a *SMC) ResolveServers(ctx context.Context, f fleet.Fleet) ([]ResolvedServer, error) {
	defer beat(ctx)()
	sources, err := a.sources(ctx)
	if err != nil {
		return nil, callError(err)
	}
	explicit := map[string]bool{}
	for _, wave := range f.Waves {
		for _, server := range wave.Servers {
			explicit[server.Name] = server.Name != ""
		}
	}
	taken := map[string]string{} // SourceID to the entry that took it
	var resolved []ResolvedServer
	var problems []string
	for w, wave := range f.Waves {
		for _, server := range wave.Servers {
			found, before := 0, len(problems)
			for _, source := range sources {
				switch {
				case server.Name != "" && source.Name != server.Name && source.SourceID != server.Name:
					continue
				case server.Match != "":
					if ok, err := path.Match(server.Match, source.Name); err != nil || !ok || explicit[source.Name] || explicit[source.SourceID] || taken[source.SourceID] != "" {
						continue
					}
				}
				if server.Name != "" && found > 0 {
					problems = append(problems, fmt.Sprintf("wave %s: several source servers are called %s, one of them %s: name them by their SourceId", wave.Name, server.Name, source.SourceID))
					continue
				}
				if by := taken[source.SourceID]; by != "" {
					problems = append(problems, fmt.Sprintf("wave %s: source server %s is named twice, also as %s", wave.Name, source.SourceID, by))
					continue
				}
				found++
				taken[source.SourceID] = server.Name + server.Match
				one := server
				one.Name, one.Match = source.Name, ""
				resolved = append(resolved, ResolvedServer{Wave: w, Server: one, SourceID: source.SourceID})
			}
			switch {
			case found == 0 && server.Match != "":
				problems = append(problems, fmt.Sprintf("wave %s: no source server matches %q", wave.Name, server.Match))
			case found == 0 && len(problems) == before: // else that was said already
				problems = append(problems, fmt.Sprintf("wave %s: there is no source server %q", wave.Name, server.Name))
			}
		}
	}
	if len(problems) > 0 {
		return nil, temporal.NewNonRetryableApplicationError(strings.Join(problems, "; ")+": register the servers or correct the manifest", TypeNoServer, nil)
	}
	return resolved, nil
}

// sources lists every source server of the account, each once, ordered by name.
func (a *SMC) sources(ctx context.Context) ([]smc.SourceServer, error) {
	var sources []smc.SourceServer
	size := smc.MaxPageSize
	for number := 1; ; number++ {
		page, err := a.Client.DescribeSourceServers(ctx, &smc.DescribeSourceServersRequest{PageNumber: &number, PageSize: &size})
		if err != nil {
			return nil, err
		}
		sources = append(sources, page.SourceServers...)
		if len(page.SourceServers) < size {
			break
		}
	}
	slices.SortFunc(sources, func(a, b smc.SourceServer) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.SourceID, b.SourceID))
	})
	// One that registers meanwhile moves others to a page that comes later.
	return slices.CompactFunc(sources, func(a, b smc.SourceServer) bool { return a.SourceID == b.SourceID }), nil
}

// PreflightInput names what a migration is about to create.
type PreflightInput struct {
	SourceID string
	JobName  string
}

// PreflightResult is what a migration starts from.
type PreflightResult struct {
	// Job is an unfinished job of this name and source: an earlier life of the migration made it, and it is gone on with.
	Job *JobView
}

// Preflight checks that the source is there and Available, and that the job's name is free or the migration's own.
func (a *SMC) Preflight(ctx context.Context, in PreflightInput) (*PreflightResult, error) {
	defer beat(ctx)()
	sources, err := a.Client.DescribeSourceServers(ctx, &smc.DescribeSourceServersRequest{SourceID: []string{in.SourceID}})
	if err != nil {
		return nil, callError(err)
	}
	if len(sources.SourceServers) == 0 {
		return nil, callError(smc.Errorf(smc.CodeInvalidSourceIDNotFound, "source server %s does not exist any more", in.SourceID))
	}
	source := sources.SourceServers[0]
	jobs, err := a.Client.DescribeReplicationJobs(ctx, &smc.DescribeReplicationJobsRequest{Name: &in.JobName})
	if err != nil {
		return nil, callError(err)
	}
	for _, job := range jobs.ReplicationJobs {
		if job.Name != in.JobName {
			continue
		}
		if job.SourceID == in.SourceID && smc.Unfinished(job.Status) && job.Status != smc.StatusExpired {
			return &PreflightResult{Job: viewJob(job)}, nil
		}
		return nil, callError(smc.Errorf(smc.CodeReplicationJobNameDuplicate, "the job name %s belongs to job %s, which is %s: delete that job or name the fleet otherwise", in.JobName, job.JobID, job.Status))
	}
	if source.State != smc.SourceAvailable {
		return nil, callError(smc.Errorf(smc.CodeSourceServerStateInvalid, "source server %s (%s) is %s, not Available: %s", source.SourceID, source.Name, source.State, source.StatusInfo))
	}
	return &PreflightResult{}, nil
}

// CreateJobInput describes the job of a migration.
type CreateJobInput struct {
	Server      fleet.Server
	SourceID    string
	JobName     string
	ClientToken string
	// ValidTime is used when the manifest gives none: it is always explicit, since the documents contradict each other
	// about what its absence means.
	ValidTime time.Time
}

// CreateJob creates the job of a migration and returns its id. A second attempt finds the first one's job by the token.
// A cancellation does not interrupt it: whether there is a job now would not be known.
func (a *SMC) CreateJob(ctx context.Context, in CreateJobInput) (string, error) {
	defer beat(ctx)()
	ctx = context.WithoutCancel(ctx)
	request, err := in.Server.Request(a.Client.RegionID(), in.SourceID)
	if err != nil {
		return "", callError(err)
	}
	request.Name, request.ClientToken = &in.JobName, &in.ClientToken
	if request.ValidTime == nil {
		valid := smc.FormatTime(in.ValidTime)
		request.ValidTime = &valid
	}
	result, err := a.Client.CreateReplicationJob(ctx, request)
	if err != nil {
		return "", callError(err)
	}
	return result.JobID, nil
}

// JobView is what a migration needs to know of its job.
type JobView struct {
	JobID          string
	Status         smc.JobStatus // empty: the job is gone
	BusinessStatus smc.BusinessStatus
	// Queued: the job was started, and waits in this status for a running slot of its account.
	Queued     bool `json:",omitempty"`
	ErrorCode  string
	StatusInfo string
	ImageID    string
	// Images are those of the runs that made one, in order.
	Images []string
}

// Gone reports whether the job does not exist any more.
func (v *JobView) Gone() bool { return v.Status == "" }

func viewJob(job smc.ReplicationJob) *JobView {
	view := &JobView{
		JobID: job.JobID, Status: job.Status, BusinessStatus: job.BusinessStatus, ErrorCode: job.ErrorCode, StatusInfo: job.StatusInfo, ImageID: job.ImageID,
		Queued: strings.HasPrefix(job.StatusInfo, smc.QueuedInfo),
	}
	for _, run := range job.ReplicationJobRuns {
		if run.ImageID != "" && run.EndTime != "" {
			view.Images = append(view.Images, run.ImageID)
		}
	}
	if len(view.Images) == 0 && job.RunOnce && job.Status == smc.StatusFinished && job.ImageID != "" {
		view.Images = []string{job.ImageID} // an endpoint that lists no runs of one-time jobs
	}
	return view
}

// DescribeJob returns a job as it is now.
func (a *SMC) DescribeJob(ctx context.Context, jobID string) (*JobView, error) {
	defer beat(ctx)()
	return a.view(ctx, jobID)
}

// view reads a job; the caller beats.
func (a *SMC) view(ctx context.Context, jobID string) (*JobView, error) {
	jobs, err := a.Client.DescribeReplicationJobs(ctx, &smc.DescribeReplicationJobsRequest{JobID: []string{jobID}})
	if err != nil {
		return nil, callError(err)
	}
	if len(jobs.ReplicationJobs) == 0 {
		return &JobView{JobID: jobID}, nil
	}
	return viewJob(jobs.ReplicationJobs[0]), nil
}

// AwaitJobInput says which statuses are no news.
type AwaitJobInput struct {
	JobID string
	While []smc.JobStatus
	// Images are those that are known. Another one is news: a run may begin and end between two polls.
	Images []string
	// Queued says that the job is queued: that it no longer is, is news too.
	Queued bool `json:",omitempty"`
}

// AwaitJob is the safety net for lost events: each attempt looks at the job once, and fails with TypeUnchanged while
// its status is one of While and every image of it is known. Temporal's retries are the poll; they leave no history.
func (a *SMC) AwaitJob(ctx context.Context, in AwaitJobInput) (*JobView, error) {
	defer beat(ctx)()
	view, err := a.view(ctx, in.JobID)
	if err != nil {
		// A key that was withdrawn, an endpoint that answers nonsense: whoever mends it, the migration is still there.
		return nil, unchanged(err, "job %s could not be looked at", in.JobID)
	}
	known := func(image string) bool { return slices.Contains(in.Images, image) }
	if slices.Contains(in.While, view.Status) && (view.Queued || !in.Queued) && !slices.ContainsFunc(view.Images, func(image string) bool { return !known(image) }) {
		return nil, unchanged(nil, "job %s is still %s", in.JobID, view.Status)
	}
	return view, nil
}

// StartJob starts a job. One that was started already, because the answer to an earlier attempt was lost or someone else
// was faster, is no error.
func (a *SMC) StartJob(ctx context.Context, jobID string) error {
	defer beat(ctx)()
	_, err := a.Client.StartReplicationJob(ctx, &smc.StartReplicationJobRequest{JobID: jobID})
	if smc.CodeOf(err) != smc.CodeReplicationJobInvalidStatus {
		return callError(err)
	}
	view, describeErr := a.view(ctx, jobID)
	if describeErr != nil {
		return describeErr
	}
	switch view.Status {
	case smc.StatusRunning, smc.StatusWaiting, smc.StatusFinished:
		return nil
	}
	return callError(err)
}

// CutOverInput names a job to cut over.
type CutOverInput struct {
	JobID    string
	SyncData bool
}

// CutOver cuts a Waiting job over. ReplicationJob.InvalidStatus is left to the workflow: a run that has begun meanwhile
// and a cutover whose answer was lost look alike until that run has ended.
func (a *SMC) CutOver(ctx context.Context, in CutOverInput) error {
	defer beat(ctx)()
	_, err := a.Client.CutOverReplicationJob(ctx, &smc.CutOverReplicationJobRequest{JobID: in.JobID, SyncData: &in.SyncData})
	return callError(err)
}

// RemoveJob stops a job if it runs, and deletes it. It fails with TypeUnchanged, to be tried again, until the job is gone
// with its transition resources. The images of its runs stay; it returns those that the job had when it was last seen.
func (a *SMC) RemoveJob(ctx context.Context, jobID string) (images []string, err error) {
	if activity.HasHeartbeatDetails(ctx) {
		if err := activity.GetHeartbeatDetails(ctx, &images); err != nil {
			return nil, fmt.Errorf("what an earlier attempt saw of job %s: %w", jobID, err)
		}
	}
	stop := beat(ctx, images)
	view, err := a.view(ctx, jobID)
	stop()
	if err != nil {
		return nil, err
	}
	if view.Gone() {
		return images, nil
	}
	// The attempt that finds the job gone must know what the ones before it saw.
	defer beat(ctx, view.Images)()
	var did string
	switch view.Status {
	case smc.StatusRunning:
		_, err = a.Client.StopReplicationJob(ctx, &smc.StopReplicationJobRequest{JobID: jobID})
		did = "is being stopped"
		if code := smc.CodeOf(err); code == smc.CodeReplicationJobInvalidBusinessStatus || code == smc.CodeReplicationJobInvalidStatus {
			err, did = nil, "is "+string(view.BusinessStatus)+", which cannot be stopped, only waited for"
		}
	case smc.StatusDeleting:
		did = "is being deleted"
	default:
		_, err = a.Client.DeleteReplicationJob(ctx, &smc.DeleteReplicationJobRequest{JobID: jobID})
		did = "is being deleted"
		if code := smc.CodeOf(err); code == smc.CodeReplicationJobInvalidStatus {
			err = nil // it moved meanwhile: look again
		}
	}
	if smc.CodeOf(err) == smc.CodeInvalidJobIDNotFound {
		return view.Images, nil
	}
	if err != nil {
		return nil, callError(err)
	}
	return nil, unchanged(nil, "job %s %s", jobID, did)
}

// VerifyImageInput names the image a migration delivered.
type VerifyImageInput struct{ JobID, ImageID string }

// VerifyImageResult is what is known of a delivered image.
type VerifyImageResult struct {
	// Verified says that a center has read the image back and found every byte right. The vendor's endpoint does not
	// offer that; there the image's id is all there is.
	Verified bool
	// BytesRead and BytesSent are those of all runs of the job, where the endpoint tells them.
	BytesRead, BytesSent int64
}

// VerifyImage checks that an image is there, and on a center that it holds the bytes it should.
func (a *SMC) VerifyImage(ctx context.Context, in VerifyImageInput) (*VerifyImageResult, error) {
	ctx, stop := keepAlive(ctx)
	defer stop()
	images, err := a.Client.DescribeImages(ctx, &smc.DescribeImagesRequest{ImageID: []string{in.ImageID}})
	if smc.CodeOf(err) == smc.CodeInvalidActionNotFound {
		return &VerifyImageResult{}, nil
	}
	if err != nil {
		return nil, callError(err)
	}
	if len(images.Images) == 0 {
		return nil, callError(smc.Errorf(smc.CodeInvalidImageIDNotFound, "job %s delivered image %s, and there is no such image", in.JobID, in.ImageID))
	}
	result := &VerifyImageResult{}
	details, err := a.Client.DescribeReplicationJobDetails(ctx, &smc.DescribeReplicationJobDetailsRequest{JobID: in.JobID})
	if err != nil {
		return nil, callError(err)
	}
	for _, run := range details.Runs {
		result.BytesRead += run.BytesRead
		result.BytesSent += run.BytesSent
	}
	ticket, err := a.Client.GetImageTicket(ctx, &smc.GetImageTicketRequest{ImageID: in.ImageID})
	if err != nil {
		return nil, callError(err)
	}
	verified, err := replica.Verify(ctx, a.HTTP, ticket.URL, ticket.Token, in.ImageID, nil)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		return nil, applicationError(err)
	}
	if !verified.OK {
		return nil, callError(smc.Errorf(smc.CodeImageVerificationFailed, "image %s does not hold the bytes its manifest names: %s", in.ImageID, verified.Problems()))
	}
	result.Verified = true
	return result, nil
}
