package activities

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
	"time"

	"go.temporal.io/sdk/activity"
	"go.uber.org/zap"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
)

// QueueTransition returns the task queue of a transition host: what is on its disks only it can work on.
func QueueTransition(hostID string) string { return "transition-" + hostID }

// heartbeatInterval is well below the heartbeat time-out that the workflows set.
const heartbeatInterval = 2 * time.Second

// errWorkerStopping ends an attempt when its worker shuts down; another attempt goes on where it was.
var errWorkerStopping = errors.New("the worker is shutting down; the next attempt goes on from here")

// ProgressFunc is told how far the sync of a job is, about once a second.
type ProgressFunc func(job *store.Job, p store.SyncProgress)

// Replication holds the activities of a run's phases, on the transition host that does the work.
type Replication struct {
	Store      *store.Store
	Host       *replica.Host
	HostURL    string // where agents reach the host
	OnProgress ProgressFunc
	Logger     *zap.Logger
}

// PhaseInput names the run whose phase is to be done.
type PhaseInput struct {
	JobID string
	Run   int
	// Lap is the number of the transition that started or resumed the run; the phases of a resumed run are
	// transitions of their own.
	Lap int64
}

func (in PhaseInput) key(phase string) string {
	return fmt.Sprintf("run/%d/%d/%s", in.Run, in.Lap, phase)
}

// Prepare makes the staging of a job ready on this host and opens the sync session.
func (a *Replication) Prepare(ctx context.Context, in PhaseInput) error {
	ctx, stop := keepAlive(ctx)
	defer stop()
	job, source, err := a.load(ctx, in)
	if err != nil {
		return applicationError(err)
	}
	disks, total := replicaDisks(job.Disks(source))
	if err := a.Host.Prepare(ctx, job.JobID, disks, 0); err != nil {
		return a.explain(ctx, err)
	}
	return applicationError(a.Store.BeginSync(ctx, in.JobID, in.key("sync"), in.Run, a.HostURL, total))
}

// Sync serves the source's agent until the synced state is complete. An attempt after a crash continues: what was
// committed is not sent again.
func (a *Replication) Sync(ctx context.Context, in PhaseInput) error {
	ctx, stop := keepAlive(ctx)
	defer stop()
	job, source, err := a.load(ctx, in)
	if err != nil {
		return applicationError(err)
	}
	open, err := a.Store.SessionOpen(ctx, in.JobID, in.Run)
	if err != nil {
		return applicationError(err)
	}
	if !open {
		// An earlier attempt ended the sync, or Stop did: the transition tells which.
		return applicationError(a.Store.EndSync(ctx, in.JobID, in.key("process"), in.Run))
	}
	disks, total := replicaDisks(job.Disks(source))
	parameters := job.Parameters()
	term, err := a.Store.Term(ctx)
	if err != nil {
		return applicationError(err)
	}
	session, err := a.Host.OpenSession(ctx, replica.SessionSpec{
		JobID: in.JobID, Run: in.Run, Term: term, Disks: disks,
		Params: replica.Params{
			BandwidthLimitKbps: parameters.BandwidthLimit, CompressLevel: parameters.CompressLevel, Checksum: parameters.Checksum,
		},
	})
	if err != nil {
		return a.explain(ctx, err)
	}
	defer session.Close()

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	meter := rateMeter{}
	report := func(p replica.Progress) {
		progress := store.SyncProgress{
			BytesTotal: total, BytesRead: p.BytesRead, BytesSent: p.BytesSent, BytesSentRaw: p.BytesSentRaw,
			Rate: meter.rate(time.Now(), p.BytesRead),
		}
		if err := a.Store.UpdateProgress(ctx, in.JobID, in.Run, progress); err != nil {
			a.Logger.Warn("progress not recorded", zap.String("job_id", in.JobID), zap.Int("run", in.Run), zap.Error(err))
			return
		}
		if a.OnProgress != nil {
			a.OnProgress(job, progress)
		}
		if open, err := a.Store.SessionOpen(ctx, in.JobID, in.Run); err == nil && !open {
			cancel(store.ErrSessionClosed) // Stop does not wait for a heartbeat
		}
	}
	result, err := session.Wait(ctx, time.Second, report)
	if err != nil {
		return a.explain(ctx, err)
	}
	report(result.Progress)
	a.Logger.Info("synced", zap.String("job_id", in.JobID), zap.Int("run", in.Run), zap.String("source_id", job.SourceID),
		zap.Int64("bytes_sent", result.Progress.BytesSent), zap.Int64("bytes_total", total))
	return applicationError(a.Store.EndSync(ctx, in.JobID, in.key("process"), in.Run))
}

// Process makes the run's image of the synced state.
func (a *Replication) Process(ctx context.Context, in PhaseInput) error {
	ctx, stop := keepAlive(ctx)
	defer stop()
	job, source, err := a.load(ctx, in)
	if err != nil {
		return applicationError(err)
	}
	term, err := a.Store.Term(ctx)
	if err != nil {
		return applicationError(err)
	}
	spec := replica.ImageSpec{ImageID: imageID(ofTerm(in.JobID, term), in.Run), JobID: in.JobID, Run: in.Run, Final: job.Final()}
	for _, disk := range job.Disks(source) {
		spec.Disks = append(spec.Disks, replica.ImageDisk{Index: disk.Index, DeliveredSizeBytes: disk.DeliveredSizeBytes})
	}
	manifest, err := a.Host.MakeImage(ctx, spec, nil)
	if err != nil {
		return a.explain(ctx, err)
	}
	disks := make([]store.ImageDisk, 0, len(manifest.Disks))
	for _, disk := range manifest.Disks {
		disks = append(disks, store.ImageDisk{
			Index: disk.Index, SizeBytes: disk.SizeBytes, DeliveredSizeBytes: disk.DeliveredSizeBytes, Root: disk.Root.String(),
		})
	}
	return applicationError(a.Store.EndProcessing(ctx, in.JobID, in.key("clean"), in.Run, manifest.ImageID, disks))
}

// CleanResult is the status a job rests in after a run.
type CleanResult struct{ Status smc.JobStatus }

// Clean deletes the images over the job's limit, releases the staging after the last run, and ends the run.
func (a *Replication) Clean(ctx context.Context, in PhaseInput) (*CleanResult, error) {
	ctx, stop := keepAlive(ctx)
	defer stop()
	job, err := a.Store.JobByID(ctx, in.JobID)
	if err != nil {
		return nil, applicationError(err)
	}
	if keep := job.Spec.MaxNumberOfImageToKeep; !job.RunOnce() && keep != nil {
		images, err := a.Store.ImagesOverLimit(ctx, in.JobID, *keep)
		if err != nil {
			return nil, applicationError(err)
		}
		for _, image := range images {
			if err := a.Host.DeleteImage(ctx, image.ImageID); err != nil {
				return nil, a.explain(ctx, err)
			}
			if err := a.Store.DeleteImage(ctx, image.ImageID); err != nil {
				return nil, applicationError(err)
			}
			a.Logger.Info("image over the limit deleted", zap.String("job_id", in.JobID), zap.String("image_id", image.ImageID), zap.Int("keep", *keep))
		}
	}
	if job.Final() {
		if err := a.Host.ReleaseStaging(ctx, in.JobID); err != nil {
			return nil, a.explain(ctx, err)
		}
	}
	status, err := a.Store.EndRun(ctx, in.JobID, in.key("end"), in.Run, job.Final())
	if err != nil {
		return nil, applicationError(err)
	}
	return &CleanResult{Status: status}, nil
}

// Release removes the staging of a job from this host.
func (a *Replication) Release(ctx context.Context, jobID string) error {
	ctx, stop := keepAlive(ctx)
	defer stop()
	if err := a.Host.ReleaseStaging(ctx, jobID); err != nil {
		return a.explain(ctx, err)
	}
	return applicationError(a.Store.MarkReleased(ctx, jobID))
}

// load reads what a phase needs. A source that no longer exists cannot be replicated.
func (a *Replication) load(ctx context.Context, in PhaseInput) (*store.Job, *store.Source, error) {
	job, err := a.Store.JobByID(ctx, in.JobID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil, fmt.Errorf("job %s is gone: %w", in.JobID, store.ErrSuperseded)
	}
	if err != nil {
		return nil, nil, err
	}
	source, err := a.Store.Source(ctx, job.AccountID, job.SourceID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil, smc.Errorf(smc.CodeInvalidSourceIDNotFound, "source server %s does not exist any more: delete the job", job.SourceID)
	}
	if err != nil {
		return nil, nil, err
	}
	for _, disk := range job.Disks(source) {
		if disk.SizeBytes == 0 {
			return nil, nil, smc.Errorf(smc.CodeSourceDiskChanged, "source server %s no longer has disk %d: start its agent with that disk again, or delete the job", job.SourceID, disk.Index)
		}
	}
	return job, source, nil
}

// explain turns a failure of the data plane into the error of the activity. When the attempt was ended from outside,
// that is the error.
func (a *Replication) explain(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return applicationError(err)
}

func replicaDisks(jobDisks []store.JobDisk) (disks []replica.Disk, total int64) {
	for _, disk := range jobDisks {
		disks = append(disks, replica.Disk{Index: disk.Index, SizeBytes: disk.SizeBytes})
		total += disk.SizeBytes
	}
	return disks, total
}

// imageID is the same for every attempt of a run, so that a second attempt finds the first one's image.
func imageID(jobID string, run int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%d", jobID, run))
	text := new(big.Int).SetBytes(sum[:]).Text(36)
	return "m-" + text[len(text)-18:]
}

// ofTerm is a job in a term of its center's record (store.Term). A run that is made anew after a restore gets another image
// than the one of the same number that its host may still have.
func ofTerm(jobID string, term int) string {
	if term == 0 {
		return jobID
	}
	return fmt.Sprintf("%s/term/%d", jobID, term)
}

// keepAlive heartbeats for an activity until stop is called, and cancels its context when its worker shuts down.
func keepAlive(ctx context.Context) (context.Context, func()) {
	alive, cancel := context.WithCancelCause(ctx)
	go func() {
		ticker := time.NewTicker(heartbeatInterval)
		defer ticker.Stop()
		for {
			select {
			case <-alive.Done():
				return
			case <-activity.GetWorkerStopChannel(ctx):
				cancel(errWorkerStopping)
				return
			case <-ticker.C:
				activity.RecordHeartbeat(ctx)
			}
		}
	}()
	return alive, func() { cancel(nil) }
}

// rateMeter averages a growing figure over the last seconds.
type rateMeter struct {
	at    time.Time
	value int64
	per   float64
}

// rate returns the units per second lately; the first call returns 0.
func (m *rateMeter) rate(now time.Time, value int64) int64 {
	if m.at.IsZero() {
		m.at, m.value = now, value
		return 0
	}
	seconds := now.Sub(m.at).Seconds()
	if seconds < 0.2 {
		return int64(m.per)
	}
	const weight = 0.3 // of the newest second against the average so far
	current := float64(value-m.value) / seconds
	if m.per == 0 {
		m.per = current
	} else {
		m.per += weight * (current - m.per)
	}
	m.at, m.value = now, value
	return int64(max(0, m.per))
}
