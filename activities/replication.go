package activities

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
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

// Progress is how far a run is.
type Progress struct {
	store.SyncProgress
	// Percent is how far the job is as a whole.
	Percent float64
	// SecondsLeft is when the sync will be done at the present rate; -1 when that cannot be said.
	SecondsLeft int64
}

// ProgressFunc is told how far a run of a job is, about once a second while it is Syncing or Processing.
type ProgressFunc func(job *store.Job, p Progress)

// Replication holds the activities of a run's phases, on the transition host that does the work.
type Replication struct {
	Store      *store.Store
	Host       *replica.Host
	HostURL    string // where agents reach the host
	PrivateURL string // where those of jobs with NetMode 2 do; empty: at HostURL
	OnProgress ProgressFunc
	Logger     *zap.Logger
	// SourceWait is how long a run that is Syncing waits for a silent source. Default smc.DefaultSourceWait.
	SourceWait time.Duration
	// SourceQuiet is how long a source may be silent before the run says that it waits. Default 20 seconds.
	SourceQuiet time.Duration
	// SizeWait is how long a run that is Preparing waits for the agent to tell that a disk has not shrunk after all. Default 10 seconds.
	SizeWait time.Duration
	// TargetWait is how long a run that has an image to deliver waits for a silent target instance. Default smc.DefaultTargetWait.
	TargetWait time.Duration
	// TargetQuiet is how long a target instance may be silent before the run says that it waits. Default 20 seconds.
	TargetQuiet time.Duration
}

// urlFor returns where the agent of a job, and its target instance, reach the host.
func (a *Replication) urlFor(job *store.Job) string {
	if job.PrivateNet() && a.PrivateURL != "" {
		return a.PrivateURL
	}
	return a.HostURL
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

// Prepare takes the room the run needs, makes the staging of the job ready on this host, and opens the sync session.
func (a *Replication) Prepare(ctx context.Context, in PhaseInput) error {
	return a.attempt(ctx, in, func(ctx context.Context, job *store.Job, source *store.Source) (err error) {
		for until := time.Now().Add(a.sizeWait()); ; {
			err = a.prepare(ctx, in, job, source)
			var shrank *replica.Error
			if !errors.As(err, &shrank) || shrank.Code != replica.CodeSourceSizeChanged || time.Now().After(until) {
				return err
			}
			// Its size may be from before the disk was repaired: whoever did that starts the job at once.
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(sizeCheck):
			}
			if job, source, err = a.load(ctx, in); err != nil {
				return err
			}
		}
	})
}

const (
	// sizeWait is how long a run waits for the agent to tell of another size of a disk that seems to have shrunk. Agents look every 3 seconds.
	sizeWait = 10 * time.Second
	// sizeCheck is how often it looks what the agent told.
	sizeCheck = 200 * time.Millisecond
)

func (a *Replication) sizeWait() time.Duration {
	if a.SizeWait > 0 {
		return a.SizeWait
	}
	return sizeWait
}

// prepare is Prepare by the sizes that the source's disks have in the record.
func (a *Replication) prepare(ctx context.Context, in PhaseInput, job *store.Job, source *store.Source) error {
	disks, total := replicaDisks(job.Disks(source))
	if job.BusinessStatus == smc.BusinessPreparing { // else an earlier attempt has ended the phase
		if err := a.reserveSpace(ctx, job, source); err != nil {
			return err
		}
		if err := a.Host.Prepare(ctx, job.JobID, disks); err != nil {
			return err
		}
	}
	return a.Store.BeginSync(ctx, in.JobID, in.key("sync"), in.Run, a.urlFor(job), total, store.InLap(in.Lap))
}

// Sync serves the source's agent until the synced state is complete. An attempt after a crash continues: what was
// committed is not sent again.
func (a *Replication) Sync(ctx context.Context, in PhaseInput) error {
	return a.attempt(ctx, in, func(ctx context.Context, job *store.Job, source *store.Source) error {
		open, err := a.Store.SessionOpen(ctx, in.JobID, in.Run)
		if err != nil {
			return err
		}
		if open {
			if err := a.serveAgent(ctx, in, job, source); err != nil {
				return err
			}
		}
		// When it was not open, an earlier attempt ended the sync, or Stop did: the transition tells which.
		return a.Store.EndSync(ctx, in.JobID, in.key("process"), in.Run, store.InLap(in.Lap))
	})
}

// serveAgent serves the source's agent until the synced state is complete.
func (a *Replication) serveAgent(ctx context.Context, in PhaseInput, job *store.Job, source *store.Source) error {
	disks, total := replicaDisks(job.Disks(source))
	parameters := job.Parameters()
	term, err := a.Store.Term(ctx)
	if err != nil {
		return err
	}
	session, err := a.Host.OpenSession(ctx, replica.SessionSpec{
		JobID: in.JobID, Run: in.Run, Term: term, Disks: disks,
		Params: replica.Params{
			BandwidthLimitKbps: parameters.BandwidthLimit, CompressLevel: parameters.CompressLevel, Checksum: parameters.Checksum,
		},
	})
	if err != nil {
		return err
	}
	defer session.Close()
	if err := a.Store.MoveSession(ctx, in.JobID, in.Run, a.urlFor(job)); err != nil {
		return err
	}

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	log := a.Logger.With(zap.String("job_id", in.JobID), zap.Int("run", in.Run))
	meter := rateMeter{}
	watch := &syncWatch{a: a, in: in, job: job, source: source, session: session, fail: cancel, troubled: true}
	reserved := time.Now()
	report := func(p replica.Progress) {
		now := time.Now()
		progress := store.SyncProgress{
			BytesTotal: total, BytesRead: p.BytesRead, BytesSent: p.BytesSent, BytesSentRaw: p.BytesSentRaw, Rate: meter.rate(now, p.BytesRead),
		}
		if err := a.Store.UpdateProgress(ctx, in.JobID, in.Run, progress); err != nil {
			log.Warn("progress not recorded", zap.Error(err))
			return
		}
		a.tell(job, progress, progress.Percent())
		if open, err := a.Store.SessionOpen(ctx, in.JobID, in.Run); err == nil && !open {
			cancel(store.ErrSessionClosed) // Stop does not wait for a heartbeat
			return
		}
		watch.look(ctx, now)
		if now.Sub(reserved) >= reservationEvery {
			reserved = now
			if err := a.updateReservation(ctx, job, source, p.BytesWritten); err != nil {
				log.Warn("the room that the run has yet to take is not recorded", zap.Error(err))
			}
		}
	}
	result, err := session.Wait(ctx, time.Second, report)
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if err != nil {
		return err
	}
	report(result.Progress)
	log.Info("synced", zap.String("source_id", job.SourceID), zap.Int64("bytes_sent", result.Progress.BytesSent), zap.Int64("bytes_total", total))
	return nil
}

// tell publishes how far a run is.
func (a *Replication) tell(job *store.Job, p store.SyncProgress, percent float64) {
	if a.OnProgress != nil {
		a.OnProgress(job, Progress{SyncProgress: p, Percent: percent, SecondsLeft: store.SecondsLeft(p.BytesTotal, p.BytesRead, p.Rate)})
	}
}

// Process makes the run's image of the synced state, and has it delivered to the target instance of a job that has one.
func (a *Replication) Process(ctx context.Context, in PhaseInput) error {
	return a.attempt(ctx, in, func(ctx context.Context, job *store.Job, source *store.Source) error {
		term, err := a.Store.Term(ctx)
		if err != nil {
			return err
		}
		target, err := a.target(ctx, in, job)
		if err != nil {
			return err
		}
		spec := replica.ImageSpec{ImageID: imageID(ofTerm(in.JobID, term), in.Run), JobID: in.JobID, Run: in.Run, Final: job.Final()}
		var total int64
		for _, disk := range job.Disks(source) {
			if target != nil {
				// As large as the target's disk, at whose end the backup partition table is to be. One that does not do is told of when the image is there.
				own, _ := target.Disk(disk.Index)
				disk.DeliveredSizeBytes = max(own.SizeBytes, disk.SizeBytes)
			}
			spec.Disks = append(spec.Disks, replica.ImageDisk{Index: disk.Index, DeliveredSizeBytes: disk.DeliveredSizeBytes, Device: deviceOf(source, disk.Index)})
			total += disk.SizeBytes
		}
		makes := 1.0
		if target != nil {
			makes = madeShare
			if err := a.madeFor(ctx, spec); err != nil {
				return err
			}
		}
		if job.Spec.Target() == smc.TargetContainerImage {
			if spec.Container, err = containerSpec(job, source, spec); err != nil {
				return err
			}
		}
		report := func(share float64) {
			if err := a.Store.UpdateProcessing(ctx, in.JobID, in.Run, share); err != nil {
				a.Logger.Warn("progress not recorded", zap.String("job_id", in.JobID), zap.Int("run", in.Run), zap.Error(err))
			}
			a.tell(job, store.SyncProgress{BytesTotal: total, BytesRead: total}, store.ProcessingPercent(share))
		}
		troubled, last := true, time.Now()
		manifest, err := a.Host.MakeImage(ctx, spec, func(p replica.Progress) {
			now := time.Now()
			if p.BytesTotal == 0 || now.Sub(last) < time.Second {
				return
			}
			last = now
			if troubled {
				err := a.Store.ClearTroubles(ctx, in.JobID, in.Run)
				if troubled = err != nil; troubled {
					a.Logger.Warn("progress not recorded", zap.String("job_id", in.JobID), zap.Int("run", in.Run), zap.Error(err))
				}
			}
			report(makes * float64(p.BytesRead) / float64(p.BytesTotal))
		})
		if err != nil {
			return err
		}
		if container := manifest.Container; container != nil {
			return a.Store.EndContainer(ctx, in.JobID, in.key("clean"), in.Run, manifest.ImageID, store.ImageContainer(*container), store.InLap(in.Lap))
		}
		if target != nil {
			if err := a.deliver(ctx, in, job, manifest, func(share float64) { report(makes + (1-makes)*share) }); err != nil {
				return err
			}
		}
		return a.Store.EndProcessing(ctx, in.JobID, in.key("clean"), in.Run, manifest.ImageID, imageDisksOf(manifest), store.InLap(in.Lap))
	})
}

// imageDisksOf are the disks of an image as the record has them.
func imageDisksOf(manifest *replica.Manifest) []store.ImageDisk {
	disks := make([]store.ImageDisk, 0, len(manifest.Disks))
	for _, disk := range manifest.Disks {
		disks = append(disks, store.ImageDisk{
			Index: disk.Index, SizeBytes: disk.SizeBytes, DeliveredSizeBytes: disk.DeliveredSizeBytes, Root: disk.Root.String(),
		})
	}
	return disks
}

// containerSpec says what container image a run makes, and whose it is.
func containerSpec(job *store.Job, source *store.Source, spec replica.ImageSpec) (*replica.ContainerSpec, error) {
	reference, err := job.Spec.ContainerReference(source.Name)
	if err != nil {
		return nil, err
	}
	return &replica.ContainerSpec{Reference: reference, Labels: map[string]string{
		"drover.account": job.AccountID, "drover.image-id": spec.ImageID, "drover.job-id": job.JobID, "drover.run": strconv.Itoa(spec.Run),
		"drover.source-id": source.SourceID, "drover.source-name": source.Name,
	}}, nil
}

// deviceOf returns what a source server calls one of its disks; empty when it has none of that number.
func deviceOf(source *store.Source, index int) string {
	for _, disk := range source.Server.Disks {
		if disk.Index == index {
			return disk.Path
		}
	}
	return ""
}

// CleanResult is the status a job rests in after a run.
type CleanResult struct{ Status smc.JobStatus }

// Clean deletes the images over the job's limit, releases the staging after the last run, and ends the run.
func (a *Replication) Clean(ctx context.Context, in PhaseInput) (*CleanResult, error) {
	var end CleanResult
	err := a.attempt(ctx, in, func(ctx context.Context, job *store.Job, _ *store.Source) error {
		if err := a.prune(ctx, job); err != nil {
			return err
		}
		if job.Final() {
			if err := a.Host.ReleaseStaging(ctx, in.JobID); err != nil {
				return err
			}
		}
		var err error
		end.Status, err = a.Store.EndRun(ctx, in.JobID, in.key("end"), in.Run, job.Final(), store.InLap(in.Lap))
		return err
	})
	if err != nil {
		return nil, err
	}
	return &end, nil
}

// prune deletes the images over the job's limit that are not in use.
func (a *Replication) prune(ctx context.Context, job *store.Job) error {
	keep := job.Spec.MaxNumberOfImageToKeep
	if job.RunOnce() || keep == nil {
		return nil
	}
	images, held, err := a.Store.CondemnImages(ctx, job.JobID, *keep, a.Host.Reading)
	if err != nil {
		return err
	}
	if held > 0 {
		a.Logger.Info("images over the limit are in use; a later run deletes them", zap.String("job_id", job.JobID), zap.Int("held", held), zap.Int("keep", *keep))
	}
	for _, image := range images {
		if err := a.Host.DeleteImage(ctx, image.ImageID); err != nil {
			return err
		}
		if err := a.Store.DeleteImage(ctx, image.ImageID); err != nil {
			return err
		}
		a.Logger.Info("image over the limit deleted", zap.String("job_id", job.JobID), zap.String("image_id", image.ImageID), zap.Int("keep", *keep))
	}
	return nil
}

// Release removes the staging of a job that has no more runs from this host. It is tried again for as long as it takes.
func (a *Replication) Release(ctx context.Context, jobID string) error {
	ctx, stop := keepAlive(ctx)
	defer stop()
	kind, _, err := a.Store.StagingOrphan(ctx, jobID, a.Host.ID())
	if err == nil && kind == "" {
		err = fmt.Errorf("job %s has runs to come, and its staging stays: %w", jobID, store.ErrSuperseded)
	}
	if err == nil {
		err = a.Host.ReleaseStaging(ctx, jobID)
	}
	if err == nil {
		err = a.Store.MarkReleased(ctx, jobID, a.Host.ID())
	}
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	return applicationError(err)
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
	go heartbeat(ctx, alive.Done())
	go func() {
		select {
		case <-alive.Done():
		case <-activity.GetWorkerStopChannel(ctx):
			cancel(errWorkerStopping)
		}
	}()
	return alive, func() { cancel(nil) }
}

// heartbeat beats for an activity until the end of it.
func heartbeat(ctx context.Context, end <-chan struct{}, details ...any) {
	ticker := time.NewTicker(heartbeatInterval)
	defer ticker.Stop()
	for {
		select {
		case <-end:
			return
		case <-ticker.C:
			activity.RecordHeartbeat(ctx, details...)
		}
	}
}

// rateMeter averages a growing figure over the last seconds.
type rateMeter struct {
	at    time.Time
	value int64
	grown time.Time // when it grew last
	per   float64
}

const (
	// rateWindow is over how long the rate is averaged: long enough for a time left that does not jump about.
	rateWindow = 10 * time.Second
	// rateStall is after how long without growth there is no rate any more.
	rateStall = 10 * time.Second
)

// rate returns the units per second lately; 0 when that is not known yet, or when nothing grows.
func (m *rateMeter) rate(now time.Time, value int64) int64 {
	if m.at.IsZero() {
		m.at, m.value, m.grown = now, value, now
		return 0
	}
	elapsed := now.Sub(m.at)
	if elapsed < 200*time.Millisecond {
		return int64(m.per)
	}
	current := max(0, float64(value-m.value)/elapsed.Seconds())
	if value > m.value {
		m.grown = now
	}
	m.at, m.value = now, value
	switch {
	case now.Sub(m.grown) >= rateStall:
		m.per = 0
	case m.per == 0:
		m.per = current
	default:
		m.per += (1 - math.Exp(-elapsed.Seconds()/rateWindow.Seconds())) * (current - m.per)
	}
	return int64(m.per)
}
