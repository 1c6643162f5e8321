package center

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"
	"unicode"

	"go.uber.org/zap"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
)

func (e *Endpoint) registerTargets() {
	serve(e, smc.DescribeTargetInstances, e.describeTargetInstances)
	serve(e, smc.DeleteTargetInstance, func(ctx context.Context, c *call, r *smc.DeleteTargetInstanceRequest) (*smc.DeleteTargetInstanceResult, error) {
		return &smc.DeleteTargetInstanceResult{}, e.Store.DeleteTarget(ctx, c.accountID, r.InstanceID)
	})
}

func (e *Endpoint) describeTargetInstances(ctx context.Context, c *call, r *smc.DescribeTargetInstancesRequest) (*smc.DescribeTargetInstancesResult, error) {
	number, size := smc.PageOf(r.PageNumber, r.PageSize)
	targets, total, err := e.Store.Targets(ctx, c.accountID, store.TargetFilter{
		InstanceIDs: r.InstanceID, Name: value(r.Name), State: smc.InstanceState(value(r.State)),
	}, store.Page{Number: number, Size: size})
	if err != nil {
		return nil, err
	}
	ids := make([]string, 0, len(targets))
	for _, target := range targets {
		ids = append(ids, target.InstanceID)
	}
	deliveries, err := e.Store.Deliveries(ctx, ids)
	if err != nil {
		return nil, err
	}
	result := &smc.DescribeTargetInstancesResult{Page: smc.Page{TotalCount: total, PageNumber: number, PageSize: size}}
	for _, target := range targets {
		result.TargetInstances = append(result.TargetInstances, targetInstance(target, deliveries[target.InstanceID], c.now))
	}
	return result, nil
}

// targetInstance is a target instance as the API shows it, with the last delivery to it, if there was one.
func targetInstance(target *store.Target, delivery *store.Delivery, now time.Time) smc.Instance {
	shown := smc.Instance{
		InstanceID: target.InstanceID, Name: target.Name, RegionID: target.RegionID, State: target.State(now), JobID: target.JobID,
		CreationTime: smc.FormatTime(target.CreatedAt), HeartbeatTime: smc.FormatTime(target.HeartbeatAt), Hostname: target.Target.Hostname,
		Platform: target.Target.Platform, Architecture: target.Target.Architecture, AgentVersion: target.Target.AgentVersion,
		SystemInfo: string(target.Target.SystemInfo),
	}
	for _, disk := range target.Target.Disks {
		shown.Disks = append(shown.Disks, smc.InstanceDisk(disk))
	}
	if delivery != nil {
		shown.DeliveryState, shown.DeliveryInfo, shown.DeliveryTime = delivery.State, delivery.Message, smc.FormatTime(delivery.ReportedAt)
		shown.ImageID, shown.BytesTotal, shown.BytesDone, shown.BytesFetched = delivery.ImageID, delivery.BytesTotal, delivery.BytesDone, delivery.BytesFetched
	}
	return shown
}

// serveTargets registers what target instances call. A token of one of them reaches nothing else.
func (e *Endpoint) serveTargets(mux *http.ServeMux) {
	authenticated := func(do func(*http.Request, *store.Target) (any, error)) func(*http.Request) (any, error) {
		return func(r *http.Request) (any, error) { return byToken(r, "target instance", e.Store.TargetByToken, do) }
	}
	mux.HandleFunc("POST "+agentapi.PathRegisterTarget, e.agentCall("register target", e.registerTarget))
	mux.HandleFunc("POST "+agentapi.PathTargetHeartbeat, e.agentCall("target heartbeat", authenticated(e.targetHeartbeat)))
	mux.HandleFunc("GET "+agentapi.PathTargetWork, e.agentCall("target work", authenticated(e.targetWork)))
	mux.HandleFunc("POST "+agentapi.PathDelivery, e.agentCall("delivery", authenticated(e.delivery)))
}

func (e *Endpoint) registerTarget(r *http.Request) (any, error) {
	var request agentapi.RegisterTargetRequest
	if err := readJSON(r, &request); err != nil {
		return nil, err
	}
	secret, err := checkRegistration(request.Code, request.Name, request.Instance)
	if err != nil {
		return nil, err
	}
	if err := checkTarget(request.Target); err != nil {
		return nil, err
	}
	token := newSecret()
	target, err := e.Store.RegisterTarget(r.Context(), secret, token, request.Instance, request.Name, request.Target, e.SourceQuota)
	if err != nil {
		return nil, err
	}
	e.Logger.Info("target instance registered", zap.String("instance_id", target.InstanceID), zap.String("name", target.Name), zap.String("account_id", target.AccountID))
	return agentapi.RegisterTargetResponse{InstanceID: target.InstanceID, Token: token, HeartbeatRateSeconds: int(smc.HeartbeatRate / time.Second)}, nil
}

// checkTarget refuses a description of a machine that nothing can be delivered to.
func checkTarget(target agentapi.Target) error {
	if len(target.Disks) == 0 || len(target.Disks) > smc.MaxDataDisks+1 {
		return smc.Errorf(smc.CodeInvalidParameter, "a target instance has a disk for the system disk and for at most %d data disks, not %d disks", smc.MaxDataDisks, len(target.Disks))
	}
	for i, disk := range target.Disks {
		if disk.Index < 0 || disk.Index > smc.MaxDataDisks || disk.SizeBytes < 0 || i > 0 && disk.Index <= target.Disks[i-1].Index {
			return smc.Errorf(smc.CodeInvalidParameter, "disk %d of the description has the index %d and %d bytes: indexes are 0 to %d and rise, and no size is negative", i, disk.Index, disk.SizeBytes, smc.MaxDataDisks)
		}
	}
	return checkSystemInfo(target.SystemInfo)
}

func (e *Endpoint) targetHeartbeat(r *http.Request, target *store.Target) (any, error) {
	var request agentapi.TargetHeartbeatRequest
	if err := readJSON(r, &request); err != nil {
		return nil, err
	}
	if err := checkTarget(request.Target); err != nil {
		return nil, err
	}
	if err := e.Store.TargetHeartbeat(r.Context(), target.InstanceID, request.Target); err != nil {
		return nil, err
	}
	if !request.Time.IsZero() {
		if err := e.Store.NoteTargetClock(r.Context(), target.InstanceID, time.Until(request.Time)); err != nil {
			return nil, err
		}
	}
	return e.heard(), nil
}

// targetWork answers as soon as the target should be doing something else than it knows of, or when its wait is over.
func (e *Endpoint) targetWork(r *http.Request, target *store.Target) (any, error) {
	query, err := agentapi.ParseWorkQuery(r.URL.Query())
	if err != nil {
		return nil, smc.Errorf(smc.CodeInvalidParameter, "%v", err)
	}
	return await(r.Context(), e.Store, target.InstanceID, query.Wait, func(ctx context.Context) (any, bool, error) {
		delivery, err := e.Store.Delivery(ctx, target.InstanceID)
		if errors.Is(err, store.ErrNotFound) {
			return agentapi.DesiredDelivery{Generation: 1}, query.Have != 1, nil
		}
		if err != nil {
			return nil, false, err
		}
		return e.desiredDelivery(delivery), delivery.Generation != query.Have, nil
	})
}

// deliveryTokenLife is how long a target may read the image of a delivery. Longer than one attempt of a run may take.
const deliveryTokenLife = 72 * time.Hour

func (e *Endpoint) desiredDelivery(delivery *store.Delivery) agentapi.DesiredDelivery {
	desired := agentapi.DesiredDelivery{Generation: delivery.Generation}
	if delivery.Open {
		desired.Delivery = &agentapi.Delivery{
			JobID: delivery.JobID, Run: delivery.Run, ImageID: delivery.ImageID, HostURL: delivery.HostURL, BandwidthLimit: delivery.BandwidthLimit, Disks: delivery.Disks,
			Token: replica.SignToken(e.DataPlaneKey, replica.TokenImage, delivery.ImageID, time.Now().Add(deliveryTokenLife)),
		}
	}
	return desired
}

// delivery takes a report of a delivery.
func (e *Endpoint) delivery(r *http.Request, target *store.Target) (any, error) {
	var report agentapi.DeliveryReport
	if err := readJSON(r, &report); err != nil {
		return nil, err
	}
	if err := checkReport(report); err != nil {
		return nil, err
	}
	report.Code, report.Message = printable(report.Code), printable(report.Message)
	superseded, err := e.Store.ReportDelivery(r.Context(), target.InstanceID, report)
	if err != nil {
		return nil, err
	}
	if !superseded && report.State != agentapi.DeliveryDelivering {
		e.Logger.Info("delivery ended", zap.String("instance_id", target.InstanceID), zap.String("job_id", report.JobID), zap.Int("run", report.Run),
			zap.String("state", string(report.State)), zap.String("code", report.Code), zap.String("reason", report.Message),
			zap.Int64("bytes_fetched", report.BytesFetched), zap.Int64("bytes_total", report.BytesTotal))
	}
	return agentapi.DeliveryAnswer{Superseded: superseded}, nil
}

// printable is a text without what no listing can show.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
}

// checkReport refuses a report that says nothing that a delivery could be.
func checkReport(report agentapi.DeliveryReport) error {
	switch report.State {
	case agentapi.DeliveryDelivering, agentapi.DeliveryDone, agentapi.DeliveryFailed:
	default:
		return smc.Errorf(smc.CodeInvalidParameter, "state %q is none of a delivery", report.State)
	}
	if report.BytesTotal < 0 || report.BytesDone < 0 || report.BytesFetched < 0 || report.BytesDone > report.BytesTotal {
		return smc.Errorf(smc.CodeInvalidParameter, "of %d bytes %d are done and %d fetched: that is no delivery", report.BytesTotal, report.BytesDone, report.BytesFetched)
	}
	if len(report.Message) > agentapi.MaxDeliveryMessageBytes || len(report.Code) > agentapi.MaxDeliveryMessageBytes || len(report.Disks) > smc.MaxDataDisks+1 {
		return smc.Errorf(smc.CodeInvalidParameter, "code or message is longer than %d bytes, or there are more than %d disks", agentapi.MaxDeliveryMessageBytes, smc.MaxDataDisks+1)
	}
	if report.State == agentapi.DeliveryFailed && strings.TrimSpace(report.Message) == "" {
		return smc.Errorf(smc.CodeInvalidParameter, "message is missing: a delivery that failed says why")
	}
	return nil
}
