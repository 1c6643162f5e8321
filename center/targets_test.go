package center

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
)

// machine describes a target instance whose disks have these sizes.
func machine(sizes ...int64) agentapi.Target {
	target := agentapi.Target{Hostname: "rack", Platform: "Debian", Architecture: "x86_64", AgentVersion: "1"}
	for i, size := range sizes {
		target.Disks = append(target.Disks, agentapi.TargetDisk{Index: i, Path: fmt.Sprint("/dev/sd", string(rune('a'+i))), SizeBytes: size})
	}
	return target
}

// registerTarget registers a target instance and returns its client.
func (f *fixture) registerTarget(name string, sizes ...int64) (instanceID string, client *agentapi.Client) {
	f.t.Helper()
	client, err := agentapi.NewClient(f.url, "")
	require.NoError(f.t, err)
	registered, err := client.RegisterTarget(f.t.Context(), agentapi.RegisterTargetRequest{Code: f.code(), Name: name, Instance: "instance-of-" + name, Target: machine(sizes...)})
	require.NoError(f.t, err)
	require.Equal(f.t, int(smc.HeartbeatRate.Seconds()), registered.HeartbeatRateSeconds)
	return registered.InstanceID, client.WithToken(registered.Token)
}

// target registers a target instance.
func (f *fixture) target(name string, sizes ...int64) string {
	f.t.Helper()
	id, _ := f.registerTarget(name, sizes...)
	return id
}

func (f *fixture) instances(r smc.DescribeTargetInstancesRequest) []smc.Instance {
	f.t.Helper()
	result, err := f.client.DescribeTargetInstances(f.t.Context(), &r)
	require.NoError(f.t, err)
	require.Equal(f.t, len(result.TargetInstances), result.TotalCount)
	return result.TargetInstances
}

func TestTargetsRegister(t *testing.T) {
	f := newFixture(t, quiet, func(c *Config) { c.SourceQuota = 2 })
	ctx := t.Context()
	client, err := agentapi.NewClient(f.url, "")
	require.NoError(t, err)
	good := agentapi.RegisterTargetRequest{Code: f.code(), Name: "rack-7", Instance: "instance", Target: machine(1<<30, 2<<30)}
	for name, change := range map[string]func(*agentapi.RegisterTargetRequest){
		"no disks": func(r *agentapi.RegisterTargetRequest) { r.Target.Disks = nil },
		"disks twice": func(r *agentapi.RegisterTargetRequest) {
			r.Target.Disks = slices.Repeat(machine(1).Disks, 2)
		},
		"a negative disk": func(r *agentapi.RegisterTargetRequest) { r.Target.Disks = machine(-1).Disks },
		"a disk too many": func(r *agentapi.RegisterTargetRequest) { r.Target.Disks = machine(make([]int64, 18)...).Disks },
		"much information": func(r *agentapi.RegisterTargetRequest) {
			r.Target.SystemInfo = []byte(`"` + strings.Repeat("x", agentapi.MaxSystemInfoBytes) + `"`)
		},
		"no instance": func(r *agentapi.RegisterTargetRequest) { r.Instance = "" },
		"no name":     func(r *agentapi.RegisterTargetRequest) { r.Name = "x" },
	} {
		wrong := good
		change(&wrong)
		_, err := client.RegisterTarget(ctx, wrong)
		require.Equal(t, smc.CodeInvalidParameter, f.requireCode(smc.CodeOf(err), err).Code, name)
	}
	wrong := good
	wrong.Code = "none"
	_, err = client.RegisterTarget(ctx, wrong)
	f.requireCode(smc.CodeInvalidActivationCode, err)

	first, err := client.RegisterTarget(ctx, good)
	require.NoError(t, err)
	require.Regexp(t, `^i-[0-9a-z]{18}$`, first.InstanceID)
	again, err := client.RegisterTarget(ctx, good)
	require.NoError(t, err)
	require.Equal(t, first.InstanceID, again.InstanceID, "a repeated instance is the same target")
	_, err = client.WithToken(first.Token).TargetHeartbeat(ctx, agentapi.TargetHeartbeatRequest{Target: good.Target})
	f.requireCode(smc.CodeInvalidAgentToken, err)
	renamed := good
	renamed.Name = "rack-8"
	_, err = client.RegisterTarget(ctx, renamed)
	f.requireCode(smc.CodeTargetInstanceNameDuplicate, err)
	other := good
	other.Instance = "another"
	_, err = client.RegisterTarget(ctx, other)
	f.requireCode(smc.CodeTargetInstanceNameDuplicate, err)
	other.Name = "rack-9"
	second, err := client.RegisterTarget(ctx, other)
	require.NoError(t, err)
	other.Name, other.Instance = "rack-10", "a third"
	_, err = client.RegisterTarget(ctx, other)
	f.requireCode(smc.CodeQuotaExceededTargetInstance, err)
	codes, err := f.client.ListAccessTokens(ctx, nil)
	require.NoError(t, err)
	require.Equal(t, 2, codes.AccessTokens[0].RegisteredCount, "a target uses up a registration")

	known := client.WithToken(again.Token)
	changed := machine(3 << 30)
	changed.Disks[0].HoldsData = true
	beat, err := known.TargetHeartbeat(ctx, agentapi.TargetHeartbeatRequest{Instance: "process", Target: changed, Time: time.Now().Add(time.Minute)})
	require.NoError(t, err)
	require.Equal(t, int(smc.HeartbeatRate.Seconds()), beat.HeartbeatRateSeconds)
	_, err = known.TargetHeartbeat(ctx, agentapi.TargetHeartbeatRequest{Instance: "process"})
	f.requireCode(smc.CodeInvalidParameter, err)
	shown := f.instances(smc.DescribeTargetInstancesRequest{InstanceID: []string{first.InstanceID}})
	require.Len(t, shown, 1)
	require.Equal(t, smc.InstanceAvailable, shown[0].State)
	require.Equal(t, smc.List[smc.InstanceDisk]{{Path: "/dev/sda", SizeBytes: 3 << 30, HoldsData: true}}, shown[0].Disks)
	require.Len(t, f.instances(smc.DescribeTargetInstancesRequest{}), 2)
	require.Equal(t, second.InstanceID, f.instances(smc.DescribeTargetInstancesRequest{Name: pointer("rack-9"), State: pointer("Available")})[0].InstanceID)
	require.Empty(t, f.instances(smc.DescribeTargetInstancesRequest{State: pointer("Unavailable")}))
	record, err := f.store.Target(ctx, account, first.InstanceID)
	require.NoError(t, err)
	require.InDelta(t, time.Minute, record.ClockAhead, float64(10*time.Second))

	_, err = f.client.DeleteTargetInstance(ctx, &smc.DeleteTargetInstanceRequest{InstanceID: first.InstanceID})
	require.NoError(t, err)
	_, err = known.TargetHeartbeat(ctx, agentapi.TargetHeartbeatRequest{Instance: "process", Target: changed})
	f.requireCode(smc.CodeInvalidAgentToken, err)
	_, err = f.client.DeleteTargetInstance(ctx, &smc.DeleteTargetInstanceRequest{InstanceID: first.InstanceID})
	f.requireCode(smc.CodeInvalidInstanceIDNotFound, err)
}

// A token of a target instance opens its paths alone, one of an agent none of them.
func TestTokensOfTargetsAndAgents(t *testing.T) {
	f := newFixture(t, quiet)
	ctx := t.Context()
	_, agent := f.agent("web")
	_, target := f.registerTarget("rack-7", 1<<30)
	_, err := target.Heartbeat(ctx, agentapi.HeartbeatRequest{Server: described})
	f.requireCode(smc.CodeInvalidAgentToken, err)
	_, err = target.Work(ctx, agentapi.WorkQuery{Instance: "i"})
	f.requireCode(smc.CodeInvalidAgentToken, err)
	_, err = agent.TargetHeartbeat(ctx, agentapi.TargetHeartbeatRequest{Target: machine(1)})
	f.requireCode(smc.CodeInvalidAgentToken, err)
	_, err = agent.TargetWork(ctx, agentapi.WorkQuery{Instance: "i"})
	f.requireCode(smc.CodeInvalidAgentToken, err)
	_, err = agent.Deliver(ctx, agentapi.DeliveryReport{State: agentapi.DeliveryDelivering})
	f.requireCode(smc.CodeInvalidAgentToken, err)
}

// A target that waits for work is told of a delivery at once, and of its end; what it reports is shown, until it is superseded.
func TestDeliveriesAreServed(t *testing.T) {
	f := newFixture(t, quiet)
	ctx := t.Context()
	source, _ := f.agent("web")
	id, target := f.registerTarget("rack-7", 40<<30, 40<<30)
	created, err := f.client.CreateReplicationJob(ctx, &smc.CreateReplicationJobRequest{SourceID: source, TargetType: pointer("TargetInstance"), InstanceID: &id})
	require.NoError(t, err)
	job := created.JobID
	require.Equal(t, job, f.instances(smc.DescribeTargetInstancesRequest{})[0].JobID)
	_, err = f.client.DeleteTargetInstance(ctx, &smc.DeleteTargetInstanceRequest{InstanceID: id})
	f.requireCode(smc.CodeInvalidInstanceIDInUse, err)
	started, err := f.store.StartRun(ctx, job, "start", smc.TriggerStart, smc.RunManual, store.CutOverNone)
	require.NoError(t, err)
	require.NoError(t, f.store.BeginSync(ctx, job, "sync", started.Run, hostURL, 1))
	require.NoError(t, f.store.EndSync(ctx, job, "process", started.Run))

	none, err := target.TargetWork(ctx, agentapi.WorkQuery{Instance: "i"})
	require.NoError(t, err)
	require.Equal(t, agentapi.DesiredDelivery{Generation: 1}, none)
	asked := make(chan error, 1)
	var desired agentapi.DesiredDelivery
	go func() {
		var err error
		desired, err = target.TargetWork(ctx, agentapi.WorkQuery{Instance: "i", Have: 1, Wait: 30 * time.Second})
		asked <- err
	}()
	for path := range f.arrived {
		if path == agentapi.PathTargetWork {
			break
		}
	}
	image := store.NewID("m")
	spec := store.DeliverySpec{JobID: job, Run: 1, ImageID: image, HostURL: hostURL, BandwidthLimit: 8, Disks: []agentapi.DeliveryDisk{{SizeBytes: 40 << 30}}}
	_, err = f.store.OpenDelivery(ctx, id, spec)
	require.NoError(t, err)
	require.NoError(t, <-asked)
	require.Greater(t, desired.Generation, int64(1))
	require.NotNil(t, desired.Delivery)
	require.NoError(t, replica.VerifyToken(dataPlaneKey, desired.Delivery.Token, replica.TokenImage, image, time.Now()))
	desired.Delivery.Token = ""
	require.Equal(t, agentapi.Delivery{JobID: job, Run: 1, ImageID: image, HostURL: hostURL, BandwidthLimit: 8, Disks: spec.Disks}, *desired.Delivery)

	report := agentapi.DeliveryReport{Instance: "i", Generation: desired.Generation, JobID: job, Run: 1, State: agentapi.DeliveryDelivering, BytesTotal: 8, BytesDone: 4, BytesFetched: 2}
	answer, err := target.Deliver(ctx, report)
	require.NoError(t, err)
	require.False(t, answer.Superseded)
	shown := f.instances(smc.DescribeTargetInstancesRequest{})[0]
	require.Equal(t, smc.DeliveryDelivering, shown.DeliveryState)
	require.Equal(t, []int64{8, 4, 2}, []int64{shown.BytesTotal, shown.BytesDone, shown.BytesFetched})
	for name, change := range map[string]func(*agentapi.DeliveryReport){
		"no state":             func(r *agentapi.DeliveryReport) { r.State = "" },
		"more than there is":   func(r *agentapi.DeliveryReport) { r.BytesDone = 9 },
		"a failure of nothing": func(r *agentapi.DeliveryReport) { r.State = agentapi.DeliveryFailed },
		"a long message":       func(r *agentapi.DeliveryReport) { r.Message = strings.Repeat("x", agentapi.MaxDeliveryMessageBytes+1) },
	} {
		wrong := report
		change(&wrong)
		_, err := target.Deliver(ctx, wrong)
		require.Equal(t, smc.CodeInvalidParameter, f.requireCode(smc.CodeOf(err), err).Code, name)
	}
	failed := report
	failed.State, failed.Code, failed.Message = agentapi.DeliveryFailed, agentapi.DeliveryCodeDisk, "disk 0:\x00\n gone"
	_, err = target.Deliver(ctx, failed)
	require.NoError(t, err)
	shown = f.instances(smc.DescribeTargetInstancesRequest{})[0]
	require.Equal(t, smc.DeliveryFailed, shown.DeliveryState)
	require.Equal(t, "disk 0:   gone", shown.DeliveryInfo)

	// Another generation: what is reported of the one before is refused.
	_, err = f.store.OpenDelivery(ctx, id, spec)
	require.NoError(t, err)
	answer, err = target.Deliver(ctx, report)
	require.NoError(t, err)
	require.True(t, answer.Superseded)
	desired, err = target.TargetWork(ctx, agentapi.WorkQuery{Instance: "i", Have: desired.Generation, Wait: time.Minute})
	require.NoError(t, err)
	report.Generation, report.State, report.BytesDone = desired.Generation, agentapi.DeliveryDone, 8
	answer, err = target.Deliver(ctx, report)
	require.NoError(t, err)
	require.False(t, answer.Superseded)
	require.NoError(t, f.store.EndProcessing(ctx, job, "clean", 1, image, nil))
	desired, err = target.TargetWork(ctx, agentapi.WorkQuery{Instance: "i", Have: desired.Generation, Wait: time.Minute})
	require.NoError(t, err)
	require.Nil(t, desired.Delivery)
	require.Equal(t, smc.DeliveryDone, f.instances(smc.DescribeTargetInstancesRequest{})[0].DeliveryState)
}

// Whose disks are overwritten has to be allowed by name: who may create jobs may not yet overwrite machines.
func TestPolicyOfTargets(t *testing.T) {
	f := newFixture(t, quiet)
	ctx := t.Context()
	ids := f.fleet(2)
	id := f.target("rack-7", 1<<40, 1<<40)
	create := func(c *smc.Client, source string) (string, error) {
		made, err := c.CreateReplicationJob(ctx, &smc.CreateReplicationJobRequest{SourceID: source, TargetType: pointer("TargetInstance"), InstanceID: &id})
		if err != nil {
			return "", err
		}
		return made.JobID, nil
	}
	migrator := f.withPolicy(allow("*", "acs:smc:*:*:replicationjob/*"), allow("*", "acs:smc:*:*:sourceserver/*"))
	_, err := create(migrator, ids[0])
	require.Contains(t, f.requireCode(smc.CodeForbiddenUnauthorized, err).Message, "targetinstance/"+id)
	plain, err := migrator.CreateReplicationJob(ctx, &smc.CreateReplicationJobRequest{SourceID: ids[0], InstanceID: &id})
	require.NoError(t, err, "an InstanceId that is echoed overwrites nothing")
	_, err = migrator.ModifyReplicationJobAttribute(ctx, &smc.ModifyReplicationJobAttributeRequest{JobID: plain.JobID, TargetType: pointer("TargetInstance")})
	f.requireCode(smc.CodeForbiddenUnauthorized, err)
	_, err = migrator.ModifyReplicationJobAttribute(ctx, &smc.ModifyReplicationJobAttributeRequest{JobID: plain.JobID, InstanceID: pointer("i-label")})
	require.NoError(t, err)
	_, err = migrator.ModifyReplicationJobAttribute(ctx, &smc.ModifyReplicationJobAttributeRequest{JobID: "j-none", InstanceID: pointer("i-label")})
	f.requireCode(smc.CodeInvalidJobIDNotFound, err)
	trusted := f.withPolicy(allow("*", "acs:smc:*:*:replicationjob/*"), allow("*", "acs:smc:*:*:sourceserver/*"), allow("*", "acs:smc:*:*:targetinstance/"+id))
	job, err := create(trusted, ids[1])
	require.NoError(t, err)
	_, err = migrator.ModifyReplicationJobAttribute(ctx, &smc.ModifyReplicationJobAttributeRequest{JobID: job, InstanceID: pointer("i-other")})
	f.requireCode(smc.CodeForbiddenUnauthorized, err)
	_, err = migrator.ModifyReplicationJobAttribute(ctx, &smc.ModifyReplicationJobAttributeRequest{JobID: job, TargetType: pointer(""), InstanceID: pointer("i-other")})
	f.requireCode(smc.CodeForbiddenUnauthorized, err)
}

// What a key may do to a job is found out before it is done: another call in between makes no more of it.
func TestPolicyOfTargetsHoldsBetweenCalls(t *testing.T) {
	f := newFixture(t, quiet)
	ctx := t.Context()
	source := f.fleet(1)[0]
	mine, other := f.target("rack-7", 1<<40, 1<<40), f.target("rack-8", 1<<40, 1<<40)
	made, err := f.client.CreateReplicationJob(ctx, &smc.CreateReplicationJobRequest{SourceID: source, InstanceID: &mine})
	require.NoError(t, err)
	endpoint := NewEndpoint(Config{Store: f.store, Engine: f.engine, DataPlaneKey: dataPlaneKey, RegionID: region, Logger: zap.NewNop()})
	t.Cleanup(endpoint.Close)
	needs := func(r *smc.ModifyReplicationJobAttributeRequest) []string {
		names, err := endpoint.concernOf(ctx, &call{accountID: account}, r)
		require.NoError(t, err)
		return names.needs
	}
	label := &smc.ModifyReplicationJobAttributeRequest{JobID: made.JobID, InstanceID: &other}
	require.Len(t, needs(label), 1, "a label of an image needs no target")
	overwrite := &smc.ModifyReplicationJobAttributeRequest{JobID: made.JobID, TargetType: pointer("TargetInstance")}
	require.Contains(t, needs(overwrite)[1], "targetinstance/"+mine)
	for _, r := range []*smc.ModifyReplicationJobAttributeRequest{label, overwrite} {
		_, err := f.store.ModifyJob(ctx, *r)
		require.NoError(t, err)
		job, err := f.store.JobByID(ctx, made.JobID)
		require.NoError(t, err)
		require.False(t, job.Spec.Target() == smc.TargetInstance && *job.Spec.InstanceID == other, "nobody was allowed to overwrite it")
	}
	for _, r := range []*smc.ModifyReplicationJobAttributeRequest{overwrite, label} {
		_, err := f.store.ModifyJob(ctx, *r)
		require.NoError(t, err)
	}
	job, err := f.store.JobByID(ctx, made.JobID)
	require.NoError(t, err)
	require.Equal(t, smc.TargetImage, job.Spec.Target())
}
