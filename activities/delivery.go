package activities

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
)

const (
	// deliveryPoll is how often a run that delivers looks at what its target has reported.
	deliveryPoll = time.Second
	// targetQuiet is how long a target may say nothing of its delivery before the run says that it waits for it. It reports every few seconds.
	targetQuiet = 20 * time.Second
	// deliveryStall is how long a target may report of its delivery without getting on before the run says so.
	deliveryStall = 2 * time.Minute
	// madeShare is the share of Processing that making the image stands for when it is delivered too.
	madeShare = 0.3
)

// undelivered is why an image did not get to its target instance.
type undelivered struct{ code, info string }

func (u *undelivered) Error() string { return u.info }

// target returns the target instance that the image of a run is delivered to; nil when it is to none, or when the run is past it: EndProcessing
// says what is true of that.
func (a *Replication) target(ctx context.Context, in PhaseInput, job *store.Job) (*store.Target, error) {
	if job.Spec.Target() != smc.TargetInstance || job.BusinessStatus != smc.BusinessProcessing || job.Run != in.Run || job.RunLap() != in.Lap {
		return nil, nil
	}
	id := *job.Spec.InstanceID
	target, err := a.Store.Target(ctx, job.AccountID, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, smc.Errorf(smc.CodeInvalidInstanceIDNotFound, "target instance %s does not exist any more: delete the job and make one with another", id)
	}
	return target, err
}

// madeFor takes back the image that an earlier attempt of the run made for disks of other sizes: those of its target have changed since.
func (a *Replication) madeFor(ctx context.Context, spec replica.ImageSpec) error {
	made, err := a.Host.Image(spec.ImageID)
	if errors.Is(err, replica.ErrImageNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if slices.EqualFunc(made.Disks, spec.Disks, func(is replica.ManifestDisk, wanted replica.ImageDisk) bool {
		return is.Index == wanted.Index && is.DeliveredSizeBytes == wanted.DeliveredSizeBytes
	}) {
		return nil
	}
	if a.Host.Reading(spec.ImageID) {
		return fmt.Errorf("the disks of the target instance have other sizes than image %s was made for, and somebody reads it: it is made anew when it is read no more", spec.ImageID)
	}
	a.Logger.Info("the disks of the target instance have other sizes than the image was made for; it is made anew",
		zap.String("job_id", spec.JobID), zap.Int("run", spec.Run), zap.String("image_id", spec.ImageID))
	return a.Host.DeleteImage(ctx, spec.ImageID)
}

// deliver has the target instance of a job put an image on its disks, and returns when it has, read back and compared. onProgress is told
// how far it is, as a share of 1.
func (a *Replication) deliver(ctx context.Context, in PhaseInput, job *store.Job, image *replica.Manifest, onProgress func(share float64)) error {
	if err := a.Store.RecordImage(ctx, in.JobID, in.Run, image.ImageID, imageDisksOf(image), store.InLap(in.Lap)); err != nil {
		return err
	}
	var disks []store.JobDisk
	spec := store.DeliverySpec{
		JobID: in.JobID, Run: in.Run, ImageID: image.ImageID, HostURL: a.urlFor(job), BandwidthLimit: job.Parameters().BandwidthLimit,
	}
	for _, disk := range image.Disks {
		disks = append(disks, store.JobDisk{Index: disk.Index, SizeBytes: disk.SizeBytes, DeliveredSizeBytes: disk.DeliveredSizeBytes})
		spec.Disks = append(spec.Disks, agentapi.DeliveryDisk{Index: disk.Index, SizeBytes: disk.DeliveredSizeBytes})
	}
	target, err := a.target(ctx, in, job) // as it is now: making the image took its time
	if err != nil {
		return err
	}
	if err := target.Fits(disks); err != nil {
		return &undelivered{smc.CodeTargetInstanceDiskFailed, smc.AsError(err).Message}
	}
	delivery, err := a.Store.OpenDelivery(ctx, target.InstanceID, spec, store.InLap(in.Lap))
	if err != nil {
		return err
	}
	log := a.Logger.With(zap.String("job_id", in.JobID), zap.Int("run", in.Run), zap.String("instance_id", target.InstanceID), zap.String("image_id", image.ImageID))
	if delivery.ReportedAt.IsZero() {
		log.Info("delivering", zap.Int64("generation", delivery.Generation))
	}
	generation, now := delivery.Generation, time.Now()
	watch := &deliveryWatch{a: a, in: in, target: target, spec: spec, log: log, heard: now, moved: now, troubled: true}
	ticker := time.NewTicker(deliveryPoll)
	defer ticker.Stop()
	for {
		switch {
		case !delivery.Open || delivery.Generation != generation:
			return fmt.Errorf("the delivery to target instance %s was ended by another operation", target.InstanceID)
		case delivery.State == smc.DeliveryDone:
			if err := a.compare(ctx, image, delivery); err != nil {
				return err
			}
			log.Info("delivered", zap.Int64("bytes_total", delivery.BytesTotal), zap.Int64("bytes_fetched", delivery.BytesFetched))
			return nil
		case delivery.State == smc.DeliveryFailed:
			return failedDelivery(target, delivery)
		}
		if err := watch.look(ctx, time.Now(), delivery); err != nil {
			return err
		}
		if delivery.BytesTotal > 0 {
			onProgress(float64(delivery.BytesDone) / float64(delivery.BytesTotal))
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
		if delivery, err = a.Store.Delivery(ctx, target.InstanceID); err != nil {
			return err
		}
	}
}

// compare holds what a target has read back of its disks against the image.
func (a *Replication) compare(ctx context.Context, image *replica.Manifest, delivery *store.Delivery) error {
	for _, disk := range image.Disks {
		want, err := a.Host.ArtifactRoot(ctx, image.ImageID, disk.Index, replica.ArtifactDelivered)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(delivery.Read, func(read agentapi.DeliveredDisk) bool { return read.Index == disk.Index && read.Root == want.String() }) {
			return &undelivered{smc.CodeTargetInstanceDiskFailed, fmt.Sprintf("target instance %s says that disk %d is delivered, and what it has read back is not image %s: test its disk and memory",
				delivery.InstanceID, disk.Index, image.ImageID)}
		}
	}
	return nil
}

// failedDelivery judges what a target has reported.
func failedDelivery(target *store.Target, delivery *store.Delivery) error {
	code := smc.CodeTargetInstanceImageUnavailable // it is tried again
	if delivery.Code == agentapi.DeliveryCodeDisk {
		code = smc.CodeTargetInstanceDiskFailed
	}
	return &undelivered{code, fmt.Sprintf("target instance %s (%s): %s", target.Name, target.InstanceID, delivery.Message)}
}

// deliveryWatch follows a delivery: whether its target is heard of, and whether it gets on.
type deliveryWatch struct {
	a      *Replication
	in     PhaseInput
	target *store.Target
	spec   store.DeliverySpec
	log    *zap.Logger

	reported time.Time // when its target reported last, by the clock of the center
	bytes    int64     // done and fetched
	heard    time.Time // when there was another report, by the clock of this host
	moved    time.Time // when there were other figures
	troubled bool      // a trouble may be recorded
	noted    string    // code of what was recorded last
	since    time.Time // when that began
}

// look is called about once a second. It returns why the run ends.
func (w *deliveryWatch) look(ctx context.Context, now time.Time, delivery *store.Delivery) error {
	if !delivery.ReportedAt.Equal(w.reported) {
		w.reported, w.heard = delivery.ReportedAt, now
	}
	if bytes := delivery.BytesDone + delivery.BytesFetched; bytes != w.bytes {
		w.bytes, w.moved = bytes, now
		if w.troubled {
			if err := w.a.Store.ClearTroubles(ctx, w.in.JobID, w.in.Run); err != nil {
				w.log.Warn("progress not recorded", zap.Error(err))
				return nil // the next second
			}
		}
		if w.noted != "" {
			w.log.Info("the target instance gets on")
		}
		w.troubled, w.noted, w.since = false, "", time.Time{}
	}
	switch {
	case now.Sub(w.heard) >= w.a.targetQuiet():
		return w.wait(ctx, now, smc.CodeTargetInstanceOffline)
	case now.Sub(w.moved) >= deliveryStall:
		return w.wait(ctx, now, smc.CodeTargetInstanceImageUnavailable)
	}
	return nil
}

// wait says that the run waits for its target instance, and ends it when that has lasted too long.
func (w *deliveryWatch) wait(ctx context.Context, now time.Time, code string) error {
	limit := w.a.TargetWait
	if limit <= 0 {
		limit = smc.DefaultTargetWait
	}
	if code != w.noted {
		trouble, err := w.a.Store.NoteTrouble(ctx, w.in.JobID, w.in.Run, code, fmt.Sprintf("%s; the run waits for it for %s: %s", w.what(ctx, code), limit, todo[code]))
		if err != nil {
			if errors.Is(err, store.ErrSuperseded) {
				return err
			}
			if ctx.Err() == nil {
				w.log.Warn("a silent target instance not recorded", zap.Error(err))
			}
			return nil
		}
		// An earlier attempt, before this host was restarted, may have begun to wait.
		w.troubled, w.noted, w.since = true, code, trouble.Since
		w.log.Warn("waiting for the target instance", zap.String("code", code), zap.Time("since", trouble.Since), zap.Duration("limit", limit))
	}
	if now.Sub(w.since) >= limit {
		return smc.Errorf(code, "%s, and the run has waited %s for it: %s, then start the job", w.what(ctx, code), limit, todo[code])
	}
	return nil
}

// todo is what helps with a target that does not take its image.
var todo = map[string]string{
	smc.CodeTargetInstanceOffline:          "start drover-agent target on it with the same --state, or mend its way to the center",
	smc.CodeTargetInstanceImageUnavailable: "its log says what fails; open its way there",
}

func (w *deliveryWatch) what(ctx context.Context, code string) string {
	name := fmt.Sprintf("target instance %s (%s)", w.target.Name, w.target.InstanceID)
	if code == smc.CodeTargetInstanceImageUnavailable {
		return fmt.Sprintf("%s reports to the center but gets nothing more from the transition host at %s", name, w.spec.HostURL)
	}
	heard := w.target.HeartbeatAt
	if target, err := w.a.Store.Target(ctx, w.target.AccountID, w.target.InstanceID); err == nil {
		heard = target.HeartbeatAt
	}
	return fmt.Sprintf("the image is made, and %s does not report of its delivery; it has been heard of last at %s", name, smc.FormatTime(heard))
}

func (a *Replication) targetQuiet() time.Duration {
	if a.TargetQuiet > 0 {
		return a.TargetQuiet
	}
	return targetQuiet
}
