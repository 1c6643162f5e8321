package app

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/monitor"
	"github.com/drover/drover/replica"
)

// TargetConfig says which machine takes delivered images, and on which disks. Of AgentConfig, Disks are those that may be
// overwritten, by the index of the source's disk that each takes.
type TargetConfig struct {
	AgentConfig
	// Overwrite is leave to overwrite what the disks hold. Without it a delivery to a disk that holds anything is refused, unless this
	// target instance has delivered to that disk before.
	Overwrite bool
}

// ErrTargetDeleted ends a target whose instance the center no longer knows.
var ErrTargetDeleted = errors.New("the center does not know this target instance any more")

// RunTarget makes the disks of one machine take the images that the center delivers to it, until ctx is done, which is no error. It
// registers, reports and waits for work as RunAgent does, and returns the same errors, of a target instance: ErrTargetDeleted.
func RunTarget(ctx context.Context, cfg TargetConfig, log *zap.Logger) error {
	a := &agent{
		cfg:      cfg.AgentConfig,
		log:      log,
		instance: uuid.NewString(),
		probe:    replica.ProbeDisk,
		after:    time.After,
		wait:     agentapi.DefaultWait,
		answers:  make(chan struct{}, 1),
		resized:  make(chan struct{}, 1),
	}
	a.role = newTarget(a, cfg.Overwrite)
	return a.serve(ctx)
}

// reportEvery is how often the center hears how far a delivery is.
const reportEvery = 3 * time.Second

// target is the role of an agent on a machine that takes images.
type target struct {
	*agent
	overwrite   bool
	reportEvery time.Duration

	described agentapi.Target // as last seen; it belongs to who calls describe, as does what is wrong with the disks
	wrong     map[string]string

	// open is held by who has disks open for itself: a delivery, or a look whether they are free.
	open sync.Mutex

	// The most that was reported done of the newest generation. One delivery at a time has it.
	generation, done int64
}

func newTarget(a *agent, overwrite bool) *target {
	return &target{agent: a, overwrite: overwrite, reportEvery: reportEvery, wrong: map[string]string{}}
}

func (*target) words() roleWords {
	return roleWords{noun: "target instance", key: "instance_id", disks: "overwrite", task: "delivery", gone: ErrTargetDeleted}
}

func (*target) newMetrics(p *monitor.Process) *agentMetrics { return newTargetMetrics(p) }

// describe looks at the machine and its disks. Before the registration a disk that does not do is an error; later it is said, and tried
// again at the next delivery.
func (t *target) describe() error {
	registered := t.state.id() != ""
	machine, err := describeServer(t.cfg.Version, nil, nil)
	if err != nil {
		return err
	}
	described := agentapi.Target{
		Hostname: machine.Hostname, Platform: machine.Platform, Architecture: machine.Architecture, AgentVersion: machine.AgentVersion,
		SystemInfo: machine.SystemInfo,
	}
	for i, path := range t.state.Disks {
		disk := agentapi.TargetDisk{Index: i, Path: path}
		said, err := t.look(&disk)
		if err != nil && !registered {
			return fmt.Errorf("look at disk %d: %w", i, err)
		}
		if err != nil {
			said = err.Error()
		}
		if was := t.wrong[path]; said != was && said != "" {
			t.log.Warn("a disk does not do for a delivery as it is", zap.Int("disk", i), zap.String("path", path), zap.String("reason", said))
		} else if said != was {
			t.log.Info("a disk does for a delivery", zap.Int("disk", i), zap.String("path", path))
		}
		t.wrong[path] = said
		described.Disks = append(described.Disks, disk)
	}
	t.described = described
	return nil
}

// look describes a disk, and says what it holds that must not be overwritten.
func (t *target) look(disk *agentapi.TargetDisk) (said string, err error) {
	// Whether it is free is found out at the start, and again when it was not: every such look tells the system that the disk changed.
	was, seen := t.wrong[disk.Path]
	if (!seen || was != "") && t.open.TryLock() {
		defer t.open.Unlock()
		free, err := replica.OpenTarget(disk.Path)
		if err != nil {
			return "", err
		}
		defer free.Close()
	}
	info, err := t.probe(disk.Path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", disk.Path, err)
	}
	disk.SizeBytes = info.SizeBytes
	if t.overwrite {
		return "", nil
	}
	claims, err := t.dir.claims()
	if err != nil {
		return "", err
	}
	if claims.cover(disk.Path, disk.SizeBytes) {
		return "", nil
	}
	content, err := replica.DiskContent(disk.Path)
	if err != nil {
		return "", fmt.Errorf("look at what %s holds: %w", disk.Path, err)
	}
	if disk.HoldsData = content != ""; disk.HoldsData {
		return holdsData(content), nil
	}
	return "", nil
}

func holdsData(content string) string {
	return fmt.Sprintf("it holds %s, which no delivery to this target instance put there: start the target with --overwrite to have it overwritten", content)
}

func (t *target) register(ctx context.Context, code, instance string, s *agentState) error {
	resp, err := t.client.RegisterTarget(ctx, agentapi.RegisterTargetRequest{Code: code, Name: s.Name, Instance: instance, Target: t.described})
	s.InstanceID, s.Token = resp.InstanceID, resp.Token
	return err
}

func (t *target) heartbeat(ctx context.Context) (agentapi.HeartbeatResponse, error) {
	return t.client.TargetHeartbeat(ctx, agentapi.TargetHeartbeatRequest{Instance: t.instance, Target: t.described, Time: time.Now().UTC()})
}

func (t *target) ask(ctx context.Context, q agentapi.WorkQuery) (desired, error) {
	answer, err := t.client.TargetWork(ctx, q)
	d := desired{generation: answer.Generation}
	if answer.Delivery != nil {
		d.begin = func(ctx context.Context) *task { return t.start(ctx, answer.Generation, *answer.Delivery) }
	}
	return d, err
}

// start begins a delivery and returns at once.
func (t *target) start(ctx context.Context, generation int64, d agentapi.Delivery) *task {
	ctx, cancel := context.WithCancel(ctx)
	work := &task{generation: generation, cancel: cancel, done: make(chan struct{})}
	if generation != t.generation {
		t.generation, t.done = generation, 0
	}
	current := &delivery{
		target: t, Delivery: d, generation: generation, cancel: cancel,
		log: t.log.With(zap.String("job_id", d.JobID), zap.Int("run", d.Run), zap.String("image_id", d.ImageID)),
	}
	current.log.Info("delivery started", zap.String("host", d.HostURL), zap.Int64("generation", generation), zap.Int64("bandwidth_limit_kbps", d.BandwidthLimit))
	go func() {
		defer close(work.done)
		defer cancel()
		begin := time.Now()
		t.metrics.delivering.Set(1)
		defer t.metrics.delivering.Set(0)
		var outcome string
		work.result, outcome = current.serve(ctx)
		work.lasted = time.Since(begin)
		t.metrics.deliveries.WithLabelValues(outcome).Inc()
	}()
	return work
}

// delivery is one delivery under way.
type delivery struct {
	*target
	agentapi.Delivery
	generation int64
	cancel     context.CancelFunc
	log        *zap.Logger

	progress   atomic.Pointer[replica.DeliverProgress]
	superseded atomic.Bool
}

// serve delivers, and tells the center what came of it.
func (d *delivery) serve(ctx context.Context) (outcome, string) {
	begin := time.Now()
	d.progress.Store(&replica.DeliverProgress{})
	var telling sync.WaitGroup
	tellCtx, stop := context.WithCancel(ctx)
	telling.Go(func() { d.tell(tellCtx) })
	disks, err := d.deliver(ctx)
	stop()
	telling.Wait()

	last := d.progress.Load()
	fields := []zap.Field{
		zap.Int64("bytes_total", last.BytesTotal), zap.Int64("bytes_fetched", last.BytesFetched), zap.Int64("bytes_received", last.BytesReceived),
		zap.Duration("duration", time.Since(begin)),
	}
	report := agentapi.DeliveryReport{State: agentapi.DeliveryDone, Disks: disks}
	result := outcomeComplete
	var failure *replica.Error
	switch {
	case d.superseded.Load():
		d.log.Info("the delivery is not wanted any more", fields...)
		return taskServed, outcomeEnded
	case ctx.Err() != nil:
		d.log.Info("delivery ended", fields...)
		return taskLost, outcomeEnded
	case errors.Is(err, replica.ErrRefused):
		d.log.Warn("the transition host does not take the ticket any more; asking the center again", append(fields, zap.Error(err))...)
		return taskLost, outcomeLost
	case err != nil:
		result = outcomeFailed
		report = agentapi.DeliveryReport{State: agentapi.DeliveryFailed, Code: agentapi.DeliveryCodeImage, Message: err.Error()}
		if errors.As(err, &failure) {
			report.Message = failure.Message
			if failure.Code == replica.CodeTargetDiskFailed {
				report.Code = agentapi.DeliveryCodeDisk
			}
		}
		report.Message = strings.ToValidUTF8(report.Message[:min(len(report.Message), agentapi.MaxDeliveryMessageBytes)], "")
		d.log.Error("delivery failed; waiting for the center", append(fields, zap.Error(err))...)
	default:
		d.log.Info("delivery complete", fields...)
	}
	outage := outage{log: d.log, what: "report of a delivery's end", after: d.after}
	for {
		answer, err := d.report(ctx, report)
		switch {
		case err == nil && answer.Superseded:
			d.log.Info("the center does not want the delivery any more")
			fallthrough
		case err == nil:
			return taskServed, result
		}
		if outage.failed(ctx, err) != nil {
			return taskLost, outcomeEnded // the next process of this target delivers again, which finds all there
		}
	}
}

// tell reports to the center how far the delivery is. A center that is away is told later; one that wants something else ends the delivery.
func (d *delivery) tell(ctx context.Context) {
	outage := outage{log: d.log, what: "report of a delivery", after: d.after}
	tick := time.NewTicker(d.reportEvery)
	defer tick.Stop()
	for {
		answer, err := d.report(ctx, agentapi.DeliveryReport{State: agentapi.DeliveryDelivering})
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			outage.note(err)
		case answer.Superseded:
			d.superseded.Store(true)
			d.cancel()
			return
		default:
			outage.over()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// report sends a report, with what identifies the delivery and how far it is.
func (d *delivery) report(ctx context.Context, r agentapi.DeliveryReport) (agentapi.DeliveryAnswer, error) {
	p := d.progress.Load()
	d.done = max(d.done, p.BytesDone)
	r.Instance, r.Generation, r.JobID, r.Run = d.instance, d.generation, d.JobID, d.Run
	r.BytesTotal, r.BytesDone, r.BytesFetched = p.BytesTotal, d.done, p.BytesFetched
	return d.client.Deliver(ctx, r)
}

// deliver opens the disks, finds out whether all of them may be overwritten, and only then writes to any.
func (d *delivery) deliver(ctx context.Context) (delivered []agentapi.DeliveredDisk, err error) {
	cfg := replica.DeliverConfig{
		HostURL: d.HostURL, Token: d.Token, ImageID: d.ImageID, BandwidthLimitKbps: d.BandwidthLimit, Client: d.dataClient(), Logger: d.log,
	}
	claims, err := d.dir.claims()
	if err != nil {
		return nil, diskFailed("the state of the target cannot be read: %w", err)
	}
	d.open.Lock()
	defer d.open.Unlock()
	defer func() {
		for _, disk := range cfg.Disks {
			disk.Target.Close() // what was written is synced
		}
	}()
	for _, want := range d.Disks {
		if want.Index < 0 || want.Index >= len(d.state.Disks) {
			return nil, diskFailed("there is no disk %d here: the target was started with %d; start it with a --disk for each", want.Index, len(d.state.Disks))
		}
		path := d.state.Disks[want.Index]
		disk, err := replica.OpenTarget(path)
		if err != nil {
			return nil, diskFailed("disk %d: %w", want.Index, err)
		}
		cfg.Disks = append(cfg.Disks, replica.DeliverDisk{Index: want.Index, Target: disk})
		if disk.Size() != want.SizeBytes {
			return nil, diskFailed("disk %d (%s) has %d bytes, and the image was made for one of %d", want.Index, path, disk.Size(), want.SizeBytes)
		}
		if !d.overwrite && !claims.cover(path, disk.Size()) {
			content, err := disk.Content()
			if err != nil {
				return nil, diskFailed("disk %d (%s) cannot be read: %w", want.Index, path, err)
			}
			if content != "" {
				return nil, diskFailed("disk %d (%s): %s", want.Index, path, holdsData(content))
			}
		}
		claims.add(path, disk.Size())
	}
	// Before the first byte: what is half written after a kill is this target's to go on with.
	if err := d.dir.saveClaims(claims); err != nil {
		return nil, diskFailed("what is overwritten cannot be noted, so that nothing is: %w", err)
	}
	count := d.metrics.delivered()
	roots, err := replica.Deliver(ctx, cfg, func(p replica.DeliverProgress) {
		d.progress.Store(&p)
		count(p)
	})
	if err != nil {
		return nil, err
	}
	for i, root := range roots {
		delivered = append(delivered, agentapi.DeliveredDisk{Index: cfg.Disks[i].Index, Root: root.String()})
	}
	return delivered, nil
}

// diskFailed is an error of a disk that does not do.
func diskFailed(format string, args ...any) error {
	return &replica.Error{Code: replica.CodeTargetDiskFailed, Message: fmt.Errorf(format, args...).Error(), Disk: replica.NoDisk}
}
