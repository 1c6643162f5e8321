package center

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/drover/drover/center/store/storetest"
	"github.com/drover/drover/smc"
)

// modification is a parameter of ModifyReplicationJobAttribute, and where CONTRACT allows it.
type modification struct {
	values      url.Values
	from        []smc.JobStatus
	incremental bool // of incremental jobs only
	// shows is where the change shows, and want what it shows then.
	shows func(*smc.ReplicationJob) any
	want  any
}

func modifications() map[string]modification {
	always := smc.JobStatuses()
	first := []smc.JobStatus{smc.StatusReady}
	rhythm := []smc.JobStatus{smc.StatusReady, smc.StatusWaiting}
	resting := []smc.JobStatus{smc.StatusReady, smc.StatusRunning, smc.StatusStopped, smc.StatusInError, smc.StatusWaiting}
	start := smc.FormatTime(time.Now().Add(72 * time.Hour))
	valid := smc.FormatTime(time.Now().Add(80 * 24 * time.Hour))
	text := func(name, value string, from []smc.JobStatus, shows func(*smc.ReplicationJob) any) modification {
		return modification{values: url.Values{name: {value}}, from: from, shows: shows, want: value}
	}
	number := func(name string, value int, from []smc.JobStatus, shows func(*smc.ReplicationJob) any) modification {
		return modification{values: url.Values{name: {fmt.Sprint(value)}}, from: from, shows: shows, want: value}
	}
	incremental := func(m modification) modification {
		m.incremental = true
		return m
	}
	return map[string]modification{
		"Name":                   text("Name", "renamed", always, func(j *smc.ReplicationJob) any { return j.Name }),
		"Description":            text("Description", "described", always, func(j *smc.ReplicationJob) any { return j.Description }),
		"Frequency":              incremental(number("Frequency", 7, rhythm, func(j *smc.ReplicationJob) any { return j.Frequency })),
		"MaxNumberOfImageToKeep": incremental(number("MaxNumberOfImageToKeep", 7, rhythm, func(j *smc.ReplicationJob) any { return j.MaxNumberOfImageToKeep })),
		"ValidTime":              text("ValidTime", valid, resting, func(j *smc.ReplicationJob) any { return j.ValidTime }),
		"TargetType": {
			values: url.Values{"TargetType": {"IMAGE"}}, from: first,
			shows: func(j *smc.ReplicationJob) any { return j.TargetType }, want: smc.TargetImage,
		},
		"ScheduledStartTime":    text("ScheduledStartTime", start, first, func(j *smc.ReplicationJob) any { return j.ScheduledStartTime }),
		"ImageName":             text("ImageName", "another-image", first, func(j *smc.ReplicationJob) any { return j.ImageName }),
		"InstanceId":            text("InstanceId", "i-7", first, func(j *smc.ReplicationJob) any { return j.InstanceID }),
		"SystemDiskSize":        number("SystemDiskSize", 77, first, func(j *smc.ReplicationJob) any { return j.SystemDiskSize }),
		"InstanceType":          text("InstanceType", "large", first, func(j *smc.ReplicationJob) any { return j.InstanceType }),
		"LaunchTemplateId":      text("LaunchTemplateId", "lt-7", first, func(j *smc.ReplicationJob) any { return j.LaunchTemplateID }),
		"LaunchTemplateVersion": text("LaunchTemplateVersion", "7", first, func(j *smc.ReplicationJob) any { return j.LaunchTemplateVersion }),
		"InstanceRamRole":       text("InstanceRamRole", "role", first, func(j *smc.ReplicationJob) any { return j.InstanceRAMRole }),
		"ContainerNamespace":    text("ContainerNamespace", "ns", first, func(j *smc.ReplicationJob) any { return j.ContainerNamespace }),
		"ContainerRepository":   text("ContainerRepository", "repo", first, func(j *smc.ReplicationJob) any { return j.ContainerRepository }),
		"ContainerTag":          text("ContainerTag", "v7", first, func(j *smc.ReplicationJob) any { return j.ContainerTag }),
		"SystemDiskPart": {
			values: url.Values{"SystemDiskPart.1.Device": {"0_0"}, "SystemDiskPart.1.SizeBytes": {"21474836480"}, "SystemDiskPart.1.Block": {"false"}}, from: first,
			shows: func(j *smc.ReplicationJob) any { return j.SystemDiskParts }, want: smc.List[smc.SystemDiskPart]{{Device: "0_0", SizeBytes: 20 << 30}},
		},
		"DataDisk": {
			values: url.Values{"DataDisk.1.Index": {"1"}, "DataDisk.1.Size": {"77"}, "DataDisk.1.Part.1.Device": {"1_0"}, "DataDisk.1.Part.1.SizeBytes": {"32212254720"}}, from: first,
			shows: func(j *smc.ReplicationJob) any { return j.DataDisks },
			want:  smc.List[smc.DataDisk]{{Index: 1, Size: 77, Parts: smc.List[smc.Part]{{Device: "1_0", SizeBytes: 30 << 30, Block: true}}}},
		},
		"NetMode": {
			values: url.Values{"NetMode": {"2"}, "VSwitchId": {"vsw-0"}}, from: first,
			shows: func(j *smc.ReplicationJob) any { return j.NetMode }, want: 2,
		},
		"VSwitchId":             text("VSwitchId", "vsw-7", first, func(j *smc.ReplicationJob) any { return j.VSwitchID }),
		"VpcId":                 text("VpcId", "vpc-7", first, func(j *smc.ReplicationJob) any { return j.VpcID }),
		"ReplicationParameters": text("ReplicationParameters", `{"checksum":false}`, first, func(j *smc.ReplicationJob) any { return j.ReplicationParameters }),
	}
}

// Every parameter of Modify in every Status and BusinessStatus, one-time and incremental: alone, and with one that is
// always allowed, which then does not change either.
func TestModifyMatrix(t *testing.T) {
	f := newFixture(t, quiet)
	ctx := t.Context()
	db := storetest.DB(t, f.database)
	matrix := modifications()
	for _, p := range smc.ModifyReplicationJobAttribute.Parameters() {
		name, _, _ := strings.Cut(p.Name, ".")
		if _, ok := matrix[name]; !ok && name != "JobId" {
			t.Errorf("%s is not in the matrix", name)
		}
	}
	for _, runOnce := range []bool{true, false} {
		source, _ := f.agent(fmt.Sprintf("web-%v", runOnce))
		request := &smc.CreateReplicationJobRequest{SourceID: source, RunOnce: &runOnce}
		if !runOnce {
			request.Frequency, request.MaxNumberOfImageToKeep = pointer(1), pointer(1)
		}
		created, err := f.client.CreateReplicationJob(ctx, request)
		require.NoError(t, err)
		fresh, err := f.store.JobByID(ctx, created.JobID)
		require.NoError(t, err)
		var spec string
		require.NoError(t, db.QueryRowContext(ctx, `SELECT spec FROM replication_jobs WHERE job_id = $1`, created.JobID).Scan(&spec))
		show := func() *smc.ReplicationJob {
			t.Helper()
			jobs, err := f.client.DescribeReplicationJobs(ctx, &smc.DescribeReplicationJobsRequest{JobID: []string{created.JobID}})
			require.NoError(t, err)
			return &jobs.ReplicationJobs[0]
		}
		for _, status := range smc.JobStatuses() {
			phases := []smc.BusinessStatus{""}
			if status == smc.StatusRunning {
				phases = smc.BusinessStatuses()
			}
			for _, phase := range phases {
				for name, m := range matrix {
					cell := fmt.Sprintf("%s in %s/%s, RunOnce %v", name, status, phase, runOnce)
					setJob(ctx, t, db, created.JobID, status, phase)
					_, err = db.ExecContext(ctx, `UPDATE replication_jobs SET spec = $1, image_name = $2, valid_until = $3, scheduled_start_at = 0 WHERE job_id = $4`,
						spec, fresh.ImageName, fresh.ValidUntil.UnixMilli(), created.JobID)
					require.NoError(t, err, cell)
					before := show()
					modify := func(extra url.Values) error {
						values := url.Values{"JobId": {created.JobID}}
						for _, set := range []url.Values{m.values, extra} {
							for parameter, value := range set {
								values[parameter] = value
							}
						}
						return f.client.Call(ctx, "ModifyReplicationJobAttribute", values, nil)
					}
					err := modify(nil)
					switch {
					case !slices.Contains(m.from, status):
						refusal := f.requireCode(smc.CodeReplicationJobInvalidStatus, err)
						for _, words := range append([]smc.JobStatus{status}, m.from...) {
							require.Contains(t, refusal.Message, string(words), cell)
						}
					case m.incremental && runOnce:
						f.requireCode(smc.CodeInvalidParameter, err)
					default:
						require.NoError(t, err, cell)
						require.Equal(t, m.want, m.shows(show()), cell)
						continue
					}
					require.Equal(t, before, show(), cell)
					if name == "Description" || name == "Name" {
						continue
					}
					require.Error(t, modify(url.Values{"Description": {"all-or-nothing"}}), cell)
					require.Equal(t, before, show(), "%s, with Description", cell)
				}
			}
		}
	}
}

// needs is what each operation must be allowed, aimed at things as onThings does: the resources of CONTRACT's access rules,
// and those of our own operations.
func needs(its things) map[string][]string {
	anySource, anyJob := []string{"sourceserver/*"}, []string{"replicationjob/*"}
	source, job := []string{"sourceserver/" + its.source}, []string{"replicationjob/" + its.job}
	return map[string][]string{
		"DescribeSourceServers": source, "ModifySourceServerAttribute": source, "DeleteSourceServer": source,
		"CreateReplicationJob":    {"replicationjob/*", "sourceserver/" + its.source},
		"DescribeReplicationJobs": job, "ModifyReplicationJobAttribute": job, "StartReplicationJob": job, "StopReplicationJob": job,
		"CutOverReplicationJob": job, "DeleteReplicationJob": job, "RunReplicationJob": job, "DescribeReplicationJobDetails": job,
		"DescribeImages": anyJob, "GetImageTicket": job, "DeleteImage": job,
		"TagResources": job, "UntagResources": source, "ListTagResources": anySource,
		"CreateAccessToken": anySource, "ListAccessTokens": anySource, "DisableAccessToken": anySource, "DeleteAccessToken": anySource,
		"CreateWorkgroup": anySource, "DescribeWorkgroups": anySource, "ModifyWorkgroupAttribute": anySource, "DeleteWorkgroup": anySource,
		"AssociateSourceServers": source, "DisassociateSourceServers": source,
		"CreateAccessKey": {"accesskey/*"}, "ListAccessKeys": {"accesskey/*"}, "DisableAccessKey": {"accesskey/" + its.key}, "DescribeAuditLog": {"auditrecord/*"},
		"DescribeTargetInstances": {"targetinstance/" + its.target}, "DeleteTargetInstance": {"targetinstance/" + its.target},
	}
}

// Every operation needs the resources of its access rule: each of them, and no other.
func TestResourcesOfOperations(t *testing.T) {
	f := newFixture(t, quiet)
	its := f.things()
	ctx := t.Context()
	// The key that is disabled must not be the one the test has.
	spare, err := f.client.CreateAccessKey(ctx, &smc.CreateAccessKeyRequest{})
	require.NoError(t, err)
	its.key = spare.AccessKeyID
	aims, rules := onThings(its), needs(its)
	f.engine.fail = smc.Errorf(smc.CodeServiceUnavailable, "") // the things stay as they are
	resource := func(name string) string { return "acs:smc:" + region + ":" + account + ":" + name }
	// What deletes comes last.
	last := func(name string) int {
		return slices.Index([]string{"DisassociateSourceServers", "DeleteWorkgroup", "DisableAccessToken", "DeleteAccessToken", "DisableAccessKey", "DeleteTargetInstance", "DeleteSourceServer"}, name)
	}
	operations := smc.Operations()
	slices.SortStableFunc(operations, func(a, b smc.AnyOperation) int { return last(a.Name()) - last(b.Name()) })
	for _, operation := range operations {
		action := operation.Name()
		if action == "CreateCrossZoneMigrationJob" {
			continue // only the vendor can, whoever asks
		}
		names, ok := rules[action]
		require.True(t, ok, "%s has no rule", action)
		var allowed []string
		for _, name := range names {
			allowed = append(allowed, allow("smc:"+action, resource(name)))
			denied := f.withPolicy(allow("*", "*"), deny("smc:"+action, resource(name)))
			refusal := f.requireCode(smc.CodeForbiddenUnauthorized, denied.Call(ctx, action, aims[action], nil))
			require.Contains(t, refusal.Message, resource(name), action)
		}
		for i := range allowed {
			but := f.withPolicy(append(slices.Delete(slices.Clone(allowed), i, i+1), allow("smc:*", resource("none/*")))...)
			f.requireCode(smc.CodeForbiddenUnauthorized, but.Call(ctx, action, aims[action], nil))
		}
		err := f.withPolicy(allowed...).Call(ctx, action, aims[action], nil)
		require.NotEqual(t, smc.CodeForbiddenUnauthorized, smc.CodeOf(err), "%s: %v", action, err)
	}
}
