package center

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/center/ca"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/workflows"
)

// register names the handler of every operation this center serves.
func (e *Endpoint) register() {
	e.registerSources()
	e.registerTags()
	e.registerAccessTokens()
	e.registerWorkgroups()
	e.registerAccessKeys()
	serve(e, smc.CreateReplicationJob, e.createReplicationJob)
	e.handlers[smc.DescribeReplicationJobs.Name()] = func(ctx context.Context, c *call, request any) (smc.Result, error) {
		return e.describeReplicationJobs(ctx, c, request.(*smc.DescribeReplicationJobsRequest))
	}
	serve(e, smc.ModifyReplicationJobAttribute, func(ctx context.Context, c *call, r *smc.ModifyReplicationJobAttributeRequest) (*smc.ModifyReplicationJobAttributeResult, error) {
		return &smc.ModifyReplicationJobAttributeResult{}, e.update(ctx, c, r.JobID, workflows.UpdateModify, r)
	})
	serve(e, smc.StartReplicationJob, func(ctx context.Context, c *call, r *smc.StartReplicationJobRequest) (*smc.StartReplicationJobResult, error) {
		return &smc.StartReplicationJobResult{}, e.update(ctx, c, r.JobID, workflows.UpdateStart, struct{}{})
	})
	serve(e, smc.StopReplicationJob, func(ctx context.Context, c *call, r *smc.StopReplicationJobRequest) (*smc.StopReplicationJobResult, error) {
		return &smc.StopReplicationJobResult{}, e.update(ctx, c, r.JobID, workflows.UpdateStop, struct{}{})
	})
	serve(e, smc.CutOverReplicationJob, func(ctx context.Context, c *call, r *smc.CutOverReplicationJobRequest) (*smc.CutOverReplicationJobResult, error) {
		return &smc.CutOverReplicationJobResult{}, e.update(ctx, c, r.JobID, workflows.UpdateCutOver, workflows.CutOverRequest{SyncData: value(r.SyncData)})
	})
	serve(e, smc.DeleteReplicationJob, func(ctx context.Context, c *call, r *smc.DeleteReplicationJobRequest) (*smc.DeleteReplicationJobResult, error) {
		return &smc.DeleteReplicationJobResult{}, e.update(ctx, c, r.JobID, workflows.UpdateDelete, struct{}{})
	})
	serve(e, smc.RunReplicationJob, func(ctx context.Context, c *call, r *smc.RunReplicationJobRequest) (*smc.RunReplicationJobResult, error) {
		return &smc.RunReplicationJobResult{}, e.run(ctx, c, r)
	})
	serve(e, smc.CreateCrossZoneMigrationJob, func(context.Context, *call, *smc.CreateCrossZoneMigrationJobRequest) (*smc.CreateCrossZoneMigrationJobResult, error) {
		return nil, smc.Errorf(smc.CodeUnsupportedFeature, "") // its validation said so
	})
	serve(e, smc.DescribeReplicationJobDetails, e.describeReplicationJobDetails)
	serve(e, smc.DescribeImages, e.describeImages)
	serve(e, smc.GetImageTicket, e.getImageTicket)
	serve(e, smc.DeleteImage, e.deleteImage)
	e.registerTargets()
}

// update moves a job of the caller's account through its entity.
func (e *Endpoint) update(ctx context.Context, c *call, jobID, update string, argument any) error {
	if _, err := e.job(ctx, c, jobID); err != nil {
		return err
	}
	return e.Engine.Update(ctx, jobID, update, c.requestID, argument)
}

// run has a job make a run. A run may be over before the request that began it is sent again, because its answer was lost; what tells that it was
// carried out is its token.
func (e *Endpoint) run(ctx context.Context, c *call, r *smc.RunReplicationJobRequest) error {
	request := c.requestID
	if token := value(r.ClientToken); token != "" {
		request = workflows.UpdateID("token/"+token, c.requestID)
	}
	if _, err := e.job(ctx, c, r.JobID); err != nil {
		return err
	}
	return e.Engine.Update(ctx, r.JobID, workflows.UpdateRun, request, struct{}{})
}

// job returns a job of the caller's account, or InvalidJobId.NotFound.
func (e *Endpoint) job(ctx context.Context, c *call, jobID string) (*store.Job, error) {
	job, err := e.Store.Job(ctx, c.accountID, jobID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, smc.Errorf(smc.CodeInvalidJobIDNotFound, "replication job %s does not exist: DescribeReplicationJobs lists those there are", jobID)
	}
	return job, err
}

func (e *Endpoint) createAccessToken(ctx context.Context, c *call, r *smc.CreateAccessTokenRequest) (*smc.CreateAccessTokenResult, error) {
	token := store.AccessToken{
		AccessTokenID: store.NewID("at"), AccountID: c.accountID, RegionID: e.RegionID,
		Name: value(r.Name), Description: value(r.Description),
		Count: smc.DefaultAccessTokenCount, TTLDays: smc.DefaultAccessTokenTimeToLiveInDays,
	}
	if r.Count != nil {
		token.Count = *r.Count
	}
	if r.TimeToLiveInDays != nil {
		token.TTLDays = *r.TimeToLiveInDays
	}
	code := newSecret()
	if err := e.Store.CreateAccessToken(ctx, token, code); err != nil {
		return nil, err
	}
	c.touched(e.resource(c, typeToken, token.AccessTokenID))
	return &smc.CreateAccessTokenResult{AccessTokenID: token.AccessTokenID, AccessTokenCode: agentapi.FormatCode(code, e.fingerprint())}, nil
}

// fingerprint is what a new activation code says of this center's certificate.
func (e *Endpoint) fingerprint() *ca.Fingerprint {
	if e.Trust == nil {
		return nil
	}
	return e.Trust().Fingerprint()
}

// newSecret returns 256 random bits in a form that survives copying and shells.
func newSecret() string {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret)
	return base64.RawURLEncoding.EncodeToString(secret)
}

func (e *Endpoint) createReplicationJob(ctx context.Context, c *call, r *smc.CreateReplicationJobRequest) (*smc.CreateReplicationJobResult, error) {
	if r.RegionID != e.RegionID {
		return nil, smc.Errorf(smc.CodeInvalidParameter, "RegionId: %q is not the region of this center, %q", r.RegionID, e.RegionID)
	}
	jobID, err := e.Store.CreateJob(ctx, c.accountID, *r, e.JobQuota)
	if err != nil {
		return nil, err
	}
	c.touched(e.resource(c, typeJob, jobID))
	// The job is in the store: it exists, whatever becomes of this. The sweep starts what could not be started here.
	ctx, cancel := context.WithTimeout(ctx, beginLimit)
	defer cancel()
	if err := e.Engine.Begin(ctx, jobID); err != nil {
		c.log.Warn("entity not started, the sweep will start it", zap.String("job_id", jobID), zap.Error(err))
	}
	return &smc.CreateReplicationJobResult{JobID: jobID}, nil
}

func (e *Endpoint) describeReplicationJobs(ctx context.Context, c *call, r *smc.DescribeReplicationJobsRequest) (smc.Result, error) {
	number, size := smc.PageOf(r.PageNumber, r.PageSize)
	if value(r.JobType) != 0 { // the jobs of this center are all of JobType 0
		return &jobsAnswer{Page: smc.Page{PageNumber: number, PageSize: size}}, nil
	}
	if c.changes == nil {
		changes, err := e.Store.JobChanges(ctx, c.accountID)
		if err != nil {
			return nil, err
		}
		c.changes = &changes
	}
	jobs, total, err := e.jobs.page(ctx, c.accountID, *c.changes, r, store.Page{Number: number, Size: size})
	if err != nil {
		return nil, err
	}
	return &jobsAnswer{Page: smc.Page{TotalCount: total, PageNumber: number, PageSize: size}, ReplicationJobs: jobs}, nil
}

// replicationJob is a job as the API shows it: a function of the job alone, so that jobPages can keep what it gives.
func replicationJob(job *store.Job) smc.ReplicationJob {
	spec := &job.Spec
	shown := smc.ReplicationJob{
		JobID: job.JobID, SourceID: job.SourceID, Name: job.Name, Description: value(spec.Description), RegionID: job.RegionID,
		Status: job.Status, TargetType: spec.Target(), Progress: percent(job.Progress), ErrorCode: job.ErrorCode, StatusInfo: statusInfo(job),
		CreationTime: smc.FormatTime(job.CreatedAt), ScheduledStartTime: smc.FormatTime(job.ScheduledStartAt),
		StartTime: smc.FormatTime(job.StartedAt), EndTime: smc.FormatTime(job.EndedAt), ValidTime: smc.FormatTime(job.ValidUntil),
		ImageName: job.ImageName, ImageID: job.ImageID, RunOnce: job.RunOnce(), SystemDiskSize: value(spec.SystemDiskSize),
		ReplicationParameters: value(spec.ReplicationParameters), NetMode: value(spec.NetMode), VpcID: value(spec.VpcID),
		VSwitchID: value(spec.VSwitchID), InstanceID: value(spec.InstanceID), InstanceType: value(spec.InstanceType),
		InstanceRAMRole: value(spec.InstanceRAMRole), LaunchTemplateID: value(spec.LaunchTemplateID),
		LaunchTemplateVersion: value(spec.LaunchTemplateVersion), TransitionInstanceID: job.HostID,
		ContainerNamespace: value(spec.ContainerNamespace), ContainerRepository: value(spec.ContainerRepository),
		ContainerTag: value(spec.ContainerTag), LicenseType: value(spec.LicenseType), JobType: value(spec.JobType),
		ResourceGroupID: value(spec.ResourceGroupID), Tags: job.Tags,
	}
	if job.Status == smc.StatusRunning {
		shown.BusinessStatus = job.BusinessStatus
	}
	if !job.RunOnce() {
		shown.Frequency, shown.MaxNumberOfImageToKeep = value(spec.Frequency), value(spec.MaxNumberOfImageToKeep)
	}
	for _, part := range spec.SystemDiskPart {
		shown.SystemDiskParts = append(shown.SystemDiskParts, smc.SystemDiskPart(jobPart(part)))
	}
	for _, disk := range spec.DataDisk {
		target := smc.DataDisk{Index: value(disk.Index), Size: value(disk.Size)}
		for _, part := range disk.Part {
			target.Parts = append(target.Parts, jobPart(part))
		}
		shown.DataDisks = append(shown.DataDisks, target)
	}
	for _, run := range job.Runs {
		shown.ReplicationJobRuns = append(shown.ReplicationJobRuns, smc.ReplicationJobRun{
			Type: run.Type, StartTime: smc.FormatTime(run.StartedAt), EndTime: smc.FormatTime(run.EndedAt), ImageID: run.ImageID,
		})
	}
	return shown
}

// statusInfo is what explains the status of a job to a person: what happened to it, and which of its replication
// parameters mean nothing here (CONTRACT: ReplicationParameters).
func statusInfo(job *store.Job) string {
	info := job.Info()
	parameters, err := smc.ParseReplicationParameters(value(job.Spec.ReplicationParameters))
	if err != nil || len(parameters.Ignored) == 0 { // they were valid when they were stored
		return info
	}
	const most = 5 // keys that are named
	ignored := strings.Join(parameters.Ignored[:min(most, len(parameters.Ignored))], ", ")
	if more := len(parameters.Ignored) - most; more > 0 {
		ignored += fmt.Sprintf(" and %d more", more)
	}
	ignored = "ReplicationParameters: ignored, for they mean nothing to this center: " + ignored
	if info == "" {
		return ignored
	}
	return info + "; " + ignored
}

// percent cuts a progress to two digits after the point: never ahead of the truth, and the vendor's client for Node.js
// gives its user a number of more than 15 digits as a text.
func percent(progress float64) float64 { return math.Floor(progress*100) / 100 }

func jobPart(part smc.PartTarget) smc.Part {
	return smc.Part{Device: value(part.Device), SizeBytes: value(part.SizeBytes), Block: part.BlockOrDefault()}
}

func (e *Endpoint) describeReplicationJobDetails(ctx context.Context, c *call, r *smc.DescribeReplicationJobDetailsRequest) (*smc.DescribeReplicationJobDetailsResult, error) {
	job, err := e.job(ctx, c, r.JobID)
	if err != nil {
		return nil, err
	}
	details := &smc.DescribeReplicationJobDetailsResult{
		JobID: job.JobID, Status: job.Status, Run: job.Run, Progress: percent(job.Progress), EtaSeconds: -1,
		ErrorCode: job.ErrorCode, StatusInfo: statusInfo(job), Sequence: job.Sequence,
	}
	if job.Status == smc.StatusRunning {
		details.BusinessStatus = job.BusinessStatus
	}
	for _, run := range job.Runs {
		shown := smc.JobRun{
			Number: run.Number, Type: run.Type, Status: run.Status, ImageID: run.ImageID,
			StartTime: smc.FormatTime(run.StartedAt), EndTime: smc.FormatTime(run.EndedAt),
			BytesRead: run.BytesRead, BytesSent: run.BytesSent, BytesSentRaw: run.BytesSentRaw,
		}
		end := run.EndedAt
		if end.IsZero() {
			end = c.now
		}
		shown.DurationSeconds = seconds(end.Sub(run.StartedAt))
		details.Runs = append(details.Runs, shown)
		if run.Number == job.Run {
			details.BytesTotal, details.BytesRead, details.BytesSent = run.BytesTotal, run.BytesRead, run.BytesSent
			if details.BusinessStatus == smc.BusinessSyncing {
				details.BytesPerSecond, details.EtaSeconds = run.Rate, store.SecondsLeft(run.BytesTotal, run.BytesRead, run.Rate)
			}
		}
	}
	return details, nil
}

// seconds are whole milliseconds at their shortest: Seconds adds the part after the point to 7 and has 7.9350000000000005 for 7.935, and
// pop-core gives its user a number of more than 15 digits as a text.
func seconds(d time.Duration) float64 {
	return float64(max(0, d.Milliseconds())) / 1000
}

func (e *Endpoint) describeSourceServers(ctx context.Context, c *call, r *smc.DescribeSourceServersRequest) (*smc.DescribeSourceServersResult, error) {
	number, size := smc.PageOf(r.PageNumber, r.PageSize)
	result := &smc.DescribeSourceServersResult{Page: smc.Page{PageNumber: number, PageSize: size}}
	if value(r.ResourceGroupID) != "" || len(r.RelatedJobType) > 0 && !slices.Contains(r.RelatedJobType, "0") {
		return result, nil // a source registers with an activation code, into no resource group; its jobs are all of JobType 0
	}
	sources, total, err := e.Store.Sources(ctx, c.accountID, store.SourceFilter{
		SourceIDs: r.SourceID, JobID: value(r.JobID), Name: value(r.Name), State: smc.SourceState(value(r.State)),
		WorkgroupID: value(r.WorkgroupID), Tags: r.Tag,
	}, store.Page{Number: number, Size: size})
	if err != nil {
		return nil, err
	}
	result.TotalCount = total
	ids := make([]string, 0, len(sources))
	for _, source := range sources {
		ids = append(ids, source.SourceID)
	}
	tags, err := e.Store.Tags(ctx, ids)
	if err != nil {
		return nil, err
	}
	for _, source := range sources {
		shown := sourceServer(source)
		shown.Tags = tags[source.SourceID]
		result.SourceServers = append(result.SourceServers, shown)
	}
	return result, nil
}

// sourceServer is a source server as the API shows it.
func sourceServer(source *store.Source) smc.SourceServer {
	shown := smc.SourceServer{
		SourceID: source.SourceID, Name: source.Name, Description: source.Description, State: source.State,
		ErrorCode: source.ErrorCode, StatusInfo: source.StatusInfo, JobID: source.JobID, CreationTime: smc.FormatTime(source.CreatedAt),
		HeartbeatRate: int(smc.HeartbeatRate / time.Second), Platform: source.Server.Platform, Architecture: source.Server.Architecture,
		KernelLevel: kernelLevel, AgentVersion: source.Server.AgentVersion, ReplicationDriver: smc.ReplicationDriver,
		SystemInfo: string(source.Server.SystemInfo), WorkgroupID: source.WorkgroupID,
	}
	for _, disk := range source.Server.Disks {
		sizeGiB := int((disk.SizeBytes + 1<<30 - 1) >> 30)
		var parts smc.List[smc.SourcePart]
		for _, part := range disk.Parts {
			parts = append(parts, smc.SourcePart{Device: part.Device, Path: part.Path, SizeBytes: part.SizeBytes, CanBlock: part.CanBlock, Need: part.Need})
		}
		if disk.Index > 0 {
			shown.DataDisks = append(shown.DataDisks, smc.SourceDataDisk{Index: disk.Index, Path: disk.Path, Size: sizeGiB, Parts: parts})
			continue
		}
		shown.SystemDiskSize = sizeGiB
		for _, part := range parts {
			shown.SystemDiskParts = append(shown.SystemDiskParts, smc.SourceSystemDiskPart(part))
		}
	}
	return shown
}

// kernelLevel is the value the documents show for every source; nothing says what another would mean.
const kernelLevel = 1

func (e *Endpoint) describeImages(ctx context.Context, c *call, r *smc.DescribeImagesRequest) (*smc.DescribeImagesResult, error) {
	number, size := smc.PageOf(r.PageNumber, r.PageSize)
	images, total, err := e.Store.Images(ctx, c.accountID, store.ImageFilter{ImageIDs: r.ImageID, JobID: value(r.JobID), Name: value(r.Name)},
		store.Page{Number: number, Size: size})
	if err != nil {
		return nil, err
	}
	result := &smc.DescribeImagesResult{Page: smc.Page{TotalCount: total, PageNumber: number, PageSize: size}}
	for _, image := range images {
		shown := smc.Image{
			ImageID: image.ImageID, ImageName: image.ImageName, JobID: image.JobID, SourceID: image.SourceID, Run: image.Run, Status: image.Status,
			CreationTime: smc.FormatTime(image.CreatedAt), RegionID: image.RegionID, HostID: image.HostID, TargetType: smc.TargetImage, Disks: imageDisks(image),
			Verification: image.Verification, VerificationTime: smc.FormatTime(image.VerifiedAt), VerificationInfo: image.VerificationInfo,
		}
		for _, disk := range shown.Disks {
			shown.SizeBytes += disk.DeliveredSizeBytes
		}
		if container := image.Container; container != nil {
			shown.TargetType, shown.SizeBytes = smc.TargetContainerImage, container.SizeBytes
			shown.ContainerReference, shown.ContainerDigest, shown.ContainerInfo = container.Reference, container.Digest, strings.Join(container.LeftOut, "\n")
		}
		result.Images = append(result.Images, shown)
	}
	return result, nil
}

func imageDisks(image *store.Image) smc.List[smc.ImageDisk] {
	var disks smc.List[smc.ImageDisk]
	for _, disk := range image.Disks {
		disks = append(disks, smc.ImageDisk(disk))
	}
	return disks
}

// imageTicketLife is how long a ticket to read an image is good for: long enough for a large image over a slow line.
const imageTicketLife = 24 * time.Hour

func (e *Endpoint) getImageTicket(ctx context.Context, c *call, r *smc.GetImageTicketRequest) (*smc.GetImageTicketResult, error) {
	expires := c.now.Add(imageTicketLife)
	image, err := e.Store.HoldImage(ctx, c.accountID, r.ImageID, expires)
	if errors.Is(err, store.ErrNotFound) {
		return nil, imageNotFound(r.ImageID)
	}
	if err != nil {
		return nil, err
	}
	url, err := e.Store.HostURL(ctx, image.HostID)
	if err != nil {
		return nil, err
	}
	return &smc.GetImageTicketResult{
		ImageID: image.ImageID, URL: url, Token: replica.SignToken(e.DataPlaneKey, replica.TokenImage, image.ImageID, expires),
		ExpirationTime: smc.FormatTime(expires), Disks: imageDisks(image),
	}, nil
}

func (e *Endpoint) deleteImage(ctx context.Context, c *call, r *smc.DeleteImageRequest) (*smc.DeleteImageResult, error) {
	err := e.Store.CondemnImage(ctx, c.accountID, r.ImageID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, imageNotFound(r.ImageID)
	}
	if err != nil {
		return nil, err
	}
	return &smc.DeleteImageResult{}, nil
}

func imageNotFound(id string) error {
	return smc.Errorf(smc.CodeInvalidImageIDNotFound, "image %s does not exist: DescribeImages lists those there are", id)
}

func value[T any](p *T) T {
	var zero T
	if p == nil {
		return zero
	}
	return *p
}
