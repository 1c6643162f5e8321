package center

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/center/ram"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
)

// things are one resource of each kind, of the first account.
type things struct{ source, job, image, token, group, key, target string }

func (f *fixture) things() things {
	f.t.Helper()
	ctx := f.t.Context()
	source := f.fleet(1)[0]
	job := f.create(source)
	require.NoError(f.t, f.tag("replicationjob", []string{job}, tags(0, 1)...))
	require.NoError(f.t, f.tag("sourceserver", []string{source}, tags(0, 1)...))
	// One run, to its end: an image.
	started, err := f.store.StartRun(ctx, job, "start", smc.TriggerStart, smc.RunManual, store.CutOverNone)
	require.NoError(f.t, err)
	require.NoError(f.t, f.store.BeginSync(ctx, job, "sync", started.Run, hostURL, 1))
	require.NoError(f.t, f.store.EndSync(ctx, job, "synced", started.Run))
	image := store.NewID("m")
	require.NoError(f.t, f.store.EndProcessing(ctx, job, "processed", started.Run, image, nil))
	_, err = f.store.EndRun(ctx, job, "done", started.Run, true)
	require.NoError(f.t, err)
	token, err := f.client.CreateAccessToken(ctx, &smc.CreateAccessTokenRequest{})
	require.NoError(f.t, err)
	return things{source: source, job: job, image: image, token: token.AccessTokenID, group: f.group("wave", source), key: keyID, target: f.target("rack-7", 1<<30)}
}

// onThings are parameters for every operation that aim at somebody's things.
func onThings(its things) map[string]url.Values {
	job, source, token, group := url.Values{"JobId": {its.job}}, url.Values{"SourceId": {its.source}}, url.Values{"AccessTokenId": {its.token}}, url.Values{"WorkgroupId": {its.group}}
	tag := url.Values{"ResourceType": {"replicationjob"}, "ResourceId.1": {its.job}, "Tag.1.Key": {"stolen"}, "Tag.1.Value": {"1"}}
	members := url.Values{"WorkgroupId": {its.group}, "SourceId.1": {its.source}}
	return map[string]url.Values{
		"DescribeSourceServers": {"SourceId.1": {its.source}}, "ModifySourceServerAttribute": {"SourceId": {its.source}, "Name": {"stolen"}},
		"DeleteSourceServer":   {"SourceId": {its.source}, "Force": {"true"}},
		"CreateReplicationJob": {"RegionId": {region}, "SourceId": source["SourceId"]}, "DescribeReplicationJobs": {"JobId.1": {its.job}},
		"ModifyReplicationJobAttribute": {"JobId": {its.job}, "Name": {"stolen"}},
		"StartReplicationJob":           job, "StopReplicationJob": job, "CutOverReplicationJob": job, "DeleteReplicationJob": job, "RunReplicationJob": job,
		"DescribeReplicationJobDetails": job, "DescribeImages": {"ImageId.1": {its.image}}, "GetImageTicket": {"ImageId": {its.image}}, "DeleteImage": {"ImageId": {its.image}},
		"DescribeTargetInstances": {"InstanceId.1": {its.target}}, "DeleteTargetInstance": {"InstanceId": {its.target}},
		"TagResources": tag, "UntagResources": {"ResourceType": {"sourceserver"}, "ResourceId.1": {its.source}, "All": {"true"}},
		"ListTagResources":  {"ResourceType": {"sourceserver"}},
		"CreateAccessToken": {}, "ListAccessTokens": {"AccessTokenId.1": {its.token}}, "DisableAccessToken": token, "DeleteAccessToken": token,
		"CreateWorkgroup": {"Name": {"wave"}}, "DescribeWorkgroups": {"WorkgroupId.1": {its.group}}, "ModifyWorkgroupAttribute": {"WorkgroupId": {its.group}, "Name": {"stolen"}},
		"DeleteWorkgroup": group, "AssociateSourceServers": members, "DisassociateSourceServers": members,
		"CreateAccessKey": {}, "ListAccessKeys": {}, "DisableAccessKey": {"KeyId": {its.key}}, "DescribeAuditLog": {},
		"CreateCrossZoneMigrationJob": {"RegionId": {region}},
	}
}

// Every operation, aimed by one account at the resources of another: they are not there, and stay as they are.
func TestAccountsDoNotSeeEachOther(t *testing.T) {
	f := newFixture(t, quiet)
	its := f.things()
	other := f.as("ak-other", secret)
	everything := func() (shown [6]any) {
		t.Helper()
		for i, list := range []func() (any, error){
			func() (any, error) {
				r, err := f.client.DescribeSourceServers(t.Context(), nil)
				return r.SourceServers, err
			},
			func() (any, error) {
				r, err := f.client.DescribeReplicationJobs(t.Context(), nil)
				return r.ReplicationJobs, err
			},
			func() (any, error) { r, err := f.client.DescribeWorkgroups(t.Context(), nil); return r.Workgroups, err },
			func() (any, error) { r, err := f.client.ListAccessTokens(t.Context(), nil); return r.AccessTokens, err },
			func() (any, error) { r, err := f.client.ListAccessKeys(t.Context(), nil); return r.AccessKeys, err },
			func() (any, error) {
				r, err := f.client.DescribeTargetInstances(t.Context(), nil)
				return r.TargetInstances, err
			},
		} {
			var err error
			shown[i], err = list()
			require.NoError(t, err)
			require.NotEmpty(t, shown[i])
		}
		return shown
	}
	before := everything()
	codes := map[string]string{
		"ModifySourceServerAttribute": smc.CodeInvalidSourceIDNotFound, "DeleteSourceServer": smc.CodeInvalidSourceIDNotFound, "CreateReplicationJob": smc.CodeInvalidSourceIDNotFound,
		"TagResources": smc.CodeInvalidResourceIDNotFound, "UntagResources": smc.CodeInvalidResourceIDNotFound, "GetImageTicket": smc.CodeInvalidImageIDNotFound, "DeleteImage": smc.CodeInvalidImageIDNotFound,
		"DisableAccessToken": smc.CodeInvalidAccessTokenIDNotFound, "DeleteAccessToken": smc.CodeInvalidAccessTokenIDNotFound,
		"ModifyWorkgroupAttribute": smc.CodeInvalidWorkgroupIDNotFound, "DeleteWorkgroup": smc.CodeInvalidWorkgroupIDNotFound,
		"AssociateSourceServers": smc.CodeInvalidWorkgroupIDNotFound, "DisassociateSourceServers": smc.CodeInvalidWorkgroupIDNotFound,
		"DisableAccessKey": smc.CodeInvalidAccessKeyIDNotFound, "DeleteTargetInstance": smc.CodeInvalidInstanceIDNotFound, "CreateCrossZoneMigrationJob": smc.CodeUnsupportedFeature,
	}
	for _, action := range []string{
		"ModifyReplicationJobAttribute", "StartReplicationJob", "StopReplicationJob", "CutOverReplicationJob", "DeleteReplicationJob", "RunReplicationJob", "DescribeReplicationJobDetails",
	} {
		codes[action] = smc.CodeInvalidJobIDNotFound
	}
	aims := onThings(its)
	for _, operation := range smc.Operations() {
		action := operation.Name()
		values, ok := aims[action]
		require.True(t, ok, "%s is aimed at nothing here", action)
		var answer map[string]any
		err := other.Call(t.Context(), action, values, &answer)
		if code := codes[action]; code != "" {
			f.requireCode(code, err)
			continue
		}
		require.NoError(t, err, action)
		text := fmt.Sprint(answer)
		require.NotContains(t, text, ":"+account+":", action)
		if action == "DescribeAuditLog" {
			require.NotContains(t, text, its.key+" ") // the ids it tried are its own doing
			continue
		}
		for _, id := range []string{its.source, its.job, its.image, its.token, its.group, its.key + " ", its.target} {
			require.NotContains(t, text, id, action)
		}
	}
	require.Equal(t, before, everything())
	require.NotContains(t, fmt.Sprint(f.engine.updates), its.job)

	// A workgroup of its own does not take a source of another account, and a filter by its workgroup shows none.
	own, err := other.CreateWorkgroup(t.Context(), &smc.CreateWorkgroupRequest{Name: pointer("own")})
	require.NoError(t, err)
	_, err = other.AssociateSourceServers(t.Context(), &smc.AssociateSourceServersRequest{WorkgroupID: own.WorkgroupID, SourceID: []string{its.source}})
	f.requireCode(smc.CodeInvalidSourceIDNotFound, err)
	sources, err := other.DescribeSourceServers(t.Context(), &smc.DescribeSourceServersRequest{WorkgroupID: &its.group})
	require.NoError(t, err)
	require.Zero(t, sources.TotalCount)
}

// withPolicy returns a client whose key has a policy of statements.
func (f *fixture) withPolicy(statements ...string) *smc.Client {
	f.t.Helper()
	policy := `{"Version":"1","Statement":[` + strings.Join(statements, ",") + `]}`
	key, err := f.client.CreateAccessKey(f.t.Context(), &smc.CreateAccessKeyRequest{Policy: &policy})
	require.NoError(f.t, err)
	return f.as(key.AccessKeyID, key.AccessKeySecret)
}

func allow(action, resource string) string {
	return `{"Effect":"Allow","Action":"` + action + `","Resource":"` + resource + `"}`
}

func deny(action, resource string) string {
	return `{"Effect":"Deny","Action":"` + action + `","Resource":"` + resource + `"}`
}

// Every operation has its access rule: who is denied it is refused, with the action and the resource named.
func TestEveryOperationIsAuthorized(t *testing.T) {
	f := newFixture(t, quiet)
	its := f.things()
	aims := onThings(its)
	nothing := f.withPolicy(deny("*", "*"))
	for _, operation := range smc.Operations() {
		action := operation.Name()
		if action == "CreateCrossZoneMigrationJob" {
			continue // only the vendor can, whoever asks
		}
		refusal := f.requireCode(smc.CodeForbiddenUnauthorized, nothing.Call(t.Context(), action, aims[action], nil))
		require.Contains(t, refusal.Message, "smc:"+action+" on acs:smc:"+region+":"+account+":")
		// An Allow of another operation is none of this one, and a Deny of it beats an Allow of all.
		denied := f.withPolicy(allow("*", "*"), deny("smc:"+action, "*"))
		f.requireCode(smc.CodeForbiddenUnauthorized, denied.Call(t.Context(), action, aims[action], nil))
	}
	require.Empty(t, f.engine.updates)
}

func TestPolicies(t *testing.T) {
	f := newFixture(t, quiet)
	ctx := t.Context()
	ids := f.fleet(2)
	job := f.create(ids[0])
	resource := func(kind, id string) string { return "acs:smc:" + region + ":" + account + ":" + kind + "/" + id }
	refused := func(err error, resource string) {
		t.Helper()
		require.Contains(t, f.requireCode(smc.CodeForbiddenUnauthorized, err).Message, resource)
	}
	start := func(c *smc.Client) error {
		_, err := c.StartReplicationJob(ctx, &smc.StartReplicationJobRequest{JobID: job})
		return err
	}
	describe := func(c *smc.Client, jobs ...string) error {
		_, err := c.DescribeReplicationJobs(ctx, &smc.DescribeReplicationJobsRequest{JobID: jobs})
		return err
	}
	create := func(c *smc.Client) error {
		_, err := c.CreateReplicationJob(ctx, &smc.CreateReplicationJobRequest{SourceID: ids[1]})
		return err
	}

	reader := f.withPolicy(allow("smc:Describe*", "*"))
	require.NoError(t, describe(reader))
	require.NoError(t, describe(reader, job))
	refused(start(reader), "smc:StartReplicationJob on "+resource("replicationjob", job))

	one := f.withPolicy(allow("smc:*", resource("replicationjob", job)))
	require.NoError(t, describe(one, job))
	refused(describe(one), resource("replicationjob", "*"))
	refused(describe(one, job, "j-other"), resource("replicationjob", "j-other"))
	require.NoError(t, start(one))
	refused(one.Call(ctx, "ListAccessKeys", nil, nil), resource("accesskey", "*"))

	// Letter case of actions and resources does not matter; region and account may be wild.
	loud := f.withPolicy(allow("SMC:DESCRIBE*", "ACS:SMC:*:*:REPLICATIONJOB/*"))
	require.NoError(t, describe(loud, job))
	elsewhere := f.withPolicy(allow("*", "acs:smc:cn-other:*:*"), allow("*", "acs:smc:*:456:*"))
	refused(describe(elsewhere, job), resource("replicationjob", job))

	// CreateReplicationJob needs both.
	refused(create(f.withPolicy(allow("*", "acs:smc:*:*:replicationjob/*"))), resource("sourceserver", ids[1]))
	refused(create(f.withPolicy(allow("*", "acs:smc:*:*:sourceserver/*"))), resource("replicationjob", "*"))
	refused(create(f.withPolicy(allow("*", "*"), deny("*", "acs:smc:*:*:sourceserver/"+ids[1]))), "a statement denies it")
	require.NoError(t, create(f.withPolicy(allow("smc:CreateReplicationJob", "acs:smc:*:*:replicationjob/*"), allow("smc:CreateReplicationJob", resource("sourceserver", ids[1])))))

	// Activation codes and workgroups are of all source servers.
	sources := f.withPolicy(allow("*", "acs:smc:*:*:sourceserver/*"))
	for _, action := range []string{"ListAccessTokens", "DescribeWorkgroups", "CreateAccessToken"} {
		require.NoError(t, sources.Call(ctx, action, nil, nil), action)
		refused(one.Call(ctx, action, nil, nil), resource("sourceserver", "*"))
	}
	// What is of another account stays so, whatever a policy says.
	generous := f.withPolicy(allow("*", "*"))
	_, err := generous.StartReplicationJob(ctx, &smc.StartReplicationJobRequest{JobID: "j-other"})
	f.requireCode(smc.CodeInvalidJobIDNotFound, err)
}

// An image is its job's.
func TestPolicyOfImages(t *testing.T) {
	f := newFixture(t, quiet)
	its := f.things()
	ticket := func(c *smc.Client) error {
		_, err := c.GetImageTicket(t.Context(), &smc.GetImageTicketRequest{ImageID: its.image})
		return err
	}
	require.NoError(t, ticket(f.withPolicy(allow("smc:GetImageTicket", "acs:smc:*:*:replicationjob/"+its.job))))
	f.requireCode(smc.CodeForbiddenUnauthorized, ticket(f.withPolicy(allow("smc:GetImageTicket", "acs:smc:*:*:replicationjob/j-other"))))
	require.NoError(t, f.withPolicy(allow("*", "acs:smc:*:*:replicationjob/"+its.job)).Call(t.Context(), "DescribeImages", url.Values{"JobId": {its.job}}, nil))
}

func TestAccessKeys(t *testing.T) {
	f := newFixture(t, quiet)
	ctx := t.Context()
	for policy, message := range map[string]string{
		"": "not JSON", "{}": "Version", `{"Version":"1","Statement":[` + allow("smc:StartJob", "*") + `]}`: `"smc:startjob" is that of no operation`,
		`{"Version":"1","Statement":[` + allow("*", "*") + `],"Condition":{}}`: "Condition",
	} {
		_, err := f.client.CreateAccessKey(ctx, &smc.CreateAccessKeyRequest{Policy: &policy})
		require.Contains(t, f.requireCode(smc.CodeInvalidPolicy, err).Message, message)
	}
	long := strings.Repeat(" ", ram.MaxDocument+1)
	_, err := f.client.CreateAccessKey(ctx, &smc.CreateAccessKeyRequest{Policy: &long})
	f.requireCode(smc.CodeInvalidPolicy, err)

	created, err := f.client.CreateAccessKey(ctx, &smc.CreateAccessKeyRequest{Description: pointer("ci")})
	require.NoError(t, err)
	ci := f.as(created.AccessKeyID, created.AccessKeySecret)
	listed, err := ci.ListAccessKeys(ctx, nil)
	require.NoError(t, err)
	require.Equal(t, 2, listed.TotalCount)
	require.NotContains(t, fmt.Sprint(listed), created.AccessKeySecret)
	i := slices.IndexFunc(listed.AccessKeys, func(k smc.AccessKey) bool { return k.AccessKeyID == created.AccessKeyID })
	require.NotEmpty(t, listed.AccessKeys[i].CreationTime)
	listed.AccessKeys[i].CreationTime = ""
	require.Equal(t, smc.AccessKey{AccessKeyID: created.AccessKeyID, Description: "ci", Status: smc.AccessKeyActive}, listed.AccessKeys[i])

	_, err = ci.DisableAccessKey(ctx, &smc.DisableAccessKeyRequest{KeyID: created.AccessKeyID})
	f.requireCode(smc.CodeInvalidParameter, err) // one key is always left
	_, err = f.client.DisableAccessKey(ctx, &smc.DisableAccessKeyRequest{KeyID: "AK-none"})
	f.requireCode(smc.CodeInvalidAccessKeyIDNotFound, err)
	_, err = ci.DisableAccessKey(ctx, &smc.DisableAccessKeyRequest{KeyID: keyID})
	require.NoError(t, err)
	_, err = f.client.ListAccessKeys(ctx, nil)
	f.requireCode(smc.CodeInvalidAccessKeyIDNotFound, err)
	// The first key, put again at the next start of the center, stays disabled.
	require.NoError(t, f.store.PutAccessKey(ctx, store.AccessKey{AccessKeyID: keyID, Secret: secret, AccountID: account}))
	_, err = f.client.ListAccessKeys(ctx, nil)
	f.requireCode(smc.CodeInvalidAccessKeyIDNotFound, err)
}

func (f *fixture) audited(filter smc.DescribeAuditLogRequest) []smc.AuditRecord {
	f.t.Helper()
	filter.PageSize = pointer(50)
	log, err := f.client.DescribeAuditLog(f.t.Context(), &filter)
	require.NoError(f.t, err)
	require.Len(f.t, log.AuditRecords, min(50, log.TotalCount))
	return log.AuditRecords
}

func TestAuditLog(t *testing.T) {
	f := newFixture(t, quiet)
	ctx := t.Context()
	its := f.things()
	name := func(kind, id string) smc.ResourceName {
		return smc.ResourceName("acs:smc:" + region + ":" + account + ":" + kind + "/" + id)
	}
	changes := smc.DescribeAuditLogRequest{Changes: pointer(true)}
	before := len(f.audited(changes))

	// A call that changed something.
	answer, err := f.client.DeleteReplicationJob(ctx, &smc.DeleteReplicationJobRequest{JobID: its.job})
	require.NoError(t, err)
	record := f.audited(smc.DescribeAuditLogRequest{Operation: pointer("DeleteReplicationJob")})[0]
	at, err := smc.ParseTime(record.Time)
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), at, time.Minute)
	record.Time = ""
	require.Equal(t, smc.AuditRecord{
		CallID: answer.RequestID, KeyID: keyID, Operation: "DeleteReplicationJob", Resources: smc.List[smc.ResourceName]{name("replicationjob", its.job)},
		RemoteAddress: "127.0.0.1", Outcome: smc.OutcomeOK,
	}, record)
	// One that was to, and failed.
	_, err = f.client.StartReplicationJob(ctx, &smc.StartReplicationJobRequest{JobID: its.job})
	refusal := f.requireCode(smc.CodeReplicationJobInvalidStatus, err)
	record = f.audited(smc.DescribeAuditLogRequest{Outcome: pointer(smc.CodeReplicationJobInvalidStatus)})[0]
	require.Equal(t, refusal.RequestID, record.CallID)
	f.requireCode("MissingJobId", f.client.Call(ctx, "StopReplicationJob", nil, nil))
	require.Len(t, f.audited(smc.DescribeAuditLogRequest{Operation: pointer("StopReplicationJob"), Outcome: pointer("MissingJobId")}), 1)
	// What a call made is named.
	key, err := f.client.CreateAccessKey(ctx, &smc.CreateAccessKeyRequest{Policy: pointer(`{"Version":"1","Statement":[` + allow("smc:Describe*", "*") + `]}`)})
	require.NoError(t, err)
	record = f.audited(smc.DescribeAuditLogRequest{Operation: pointer("CreateAccessKey")})[0]
	require.Equal(t, smc.List[smc.ResourceName]{name("accesskey", key.AccessKeyID), name("accesskey", "*")}, record.Resources)
	_, err = f.client.DeleteWorkgroup(ctx, &smc.DeleteWorkgroupRequest{WorkgroupID: its.group})
	require.NoError(t, err)
	record = f.audited(smc.DescribeAuditLogRequest{Operation: pointer("DeleteWorkgroup")})[0]
	require.Equal(t, name("workgroup", its.group), record.Resources[0])
	require.Len(t, f.audited(changes), before+5)

	// A ticket opens a whole disk to who has it, and holds the image: it is recorded before it is given out.
	_, err = f.client.GetImageTicket(ctx, &smc.GetImageTicketRequest{ImageID: its.image})
	require.NoError(t, err)
	tickets, _, err := f.store.AuditLog(ctx, account, store.AuditFilter{Action: "GetImageTicket"}, store.Page{Number: 1, Size: 10})
	require.NoError(t, err)
	require.Len(t, tickets, 1)
	require.Len(t, f.audited(changes), before+6)

	// One that only read.
	_, err = f.client.DescribeReplicationJobs(ctx, &smc.DescribeReplicationJobsRequest{JobID: []string{its.job}})
	require.NoError(t, err)
	read := f.audited(smc.DescribeAuditLogRequest{Operation: pointer("DescribeReplicationJobs")})
	require.Len(t, read, 1)
	require.Equal(t, smc.OutcomeOK, read[0].Outcome)
	require.Equal(t, smc.List[smc.ResourceName]{name("replicationjob", its.job)}, read[0].Resources)
	_, err = f.client.DescribeReplicationJobDetails(ctx, &smc.DescribeReplicationJobDetailsRequest{JobID: "j-none"})
	f.requireCode(smc.CodeInvalidJobIDNotFound, err)
	require.Len(t, f.audited(smc.DescribeAuditLogRequest{Outcome: pointer(smc.CodeInvalidJobIDNotFound)}), 1)
	f.raw(signed("Nonsense", time.Now(), "nonsense"))
	require.Empty(t, f.audited(smc.DescribeAuditLogRequest{Outcome: pointer(smc.CodeInvalidActionNotFound)})[0].Operation, "what is called is no operation")
	require.Len(t, f.audited(changes), before+7, "it might have been one that changes something")

	// Refusals of who calls, also of reading.
	reader := f.as(key.AccessKeyID, key.AccessKeySecret)
	_, err = reader.ListAccessKeys(ctx, nil)
	f.requireCode(smc.CodeForbiddenUnauthorized, err)
	_, err = f.as(keyID, "wrong").DescribeReplicationJobs(ctx, nil)
	f.requireCode(smc.CodeSignatureDoesNotMatch, err)
	replayed := signed("DescribeReplicationJobs", time.Now(), "replayed")
	f.raw(replayed)
	f.raw(replayed)
	old := signed("DescribeReplicationJobs", time.Now().Add(-time.Hour), "old")
	f.raw(old)
	require.Equal(t, "ListAccessKeys", f.audited(smc.DescribeAuditLogRequest{KeyID: &key.AccessKeyID})[0].Operation)
	for _, code := range []string{smc.CodeForbiddenUnauthorized, smc.CodeSignatureDoesNotMatch, smc.CodeSignatureNonceUsed} {
		require.Len(t, f.audited(smc.DescribeAuditLogRequest{Outcome: &code}), 1, code)
	}
	_, err = f.as("AK-none", secret).DescribeReplicationJobs(ctx, nil)
	f.requireCode(smc.CodeInvalidAccessKeyIDNotFound, err)
	f.raw(url.Values{"Action": {"DescribeReplicationJobs"}, "Version": {smc.Version}}) // names no key at all
	all := len(f.audited(smc.DescribeAuditLogRequest{}))
	unknown, _, err := f.store.AuditLog(ctx, "", store.AuditFilter{}, store.Page{Number: 1, Size: 10})
	require.NoError(t, err)
	claims := map[string]string{}
	for _, record := range unknown {
		claims[record.AccessKeyID] = record.Outcome
	}
	require.Equal(t, map[string]string{"AK-none": smc.CodeInvalidAccessKeyIDNotFound, keyID: smc.CodeInvalidTimeStampExpired, "": "MissingAccessKeyId"}, claims, "of nobody's account")

	// Pages and times.
	now := time.Now()
	past, future := smc.FormatTime(now.Add(-time.Hour)), smc.FormatTime(now.Add(time.Hour))
	require.Len(t, f.audited(smc.DescribeAuditLogRequest{StartTime: &past, EndTime: &future}), all+1)
	require.Empty(t, f.audited(smc.DescribeAuditLogRequest{StartTime: &future}))
	require.Empty(t, f.audited(smc.DescribeAuditLogRequest{EndTime: &past}))
	page, err := f.client.DescribeAuditLog(ctx, &smc.DescribeAuditLogRequest{PageSize: pointer(3), PageNumber: pointer(2)})
	require.NoError(t, err)
	require.Len(t, page.AuditRecords, 3)
	// Who may read it is a matter of policy, and of the account.
	f.requireCode(smc.CodeForbiddenUnauthorized, f.withPolicy(allow("*", "acs:smc:*:*:sourceserver/*")).Call(ctx, "DescribeAuditLog", nil, nil))
	others, err := f.as("ak-other", secret).DescribeAuditLog(ctx, nil)
	require.NoError(t, err)
	require.Zero(t, others.TotalCount)
	others, err = f.as("ak-other", secret).DescribeAuditLog(ctx, nil)
	require.NoError(t, err)
	require.Equal(t, 1, others.TotalCount, "its own call before")
}

// A record that cannot be written changes nothing for the caller.
func TestAuditLogThatFails(t *testing.T) {
	f := newFixture(t, quiet)
	source := f.fleet(1)[0]
	e := NewEndpoint(Config{Store: f.store, Engine: f.engine, RegionID: region, Logger: zap.NewNop()})
	c := &call{requestID: newRequestID(), now: time.Now(), verified: true, key: store.AccessKey{AccessKeyID: keyID}, accountID: account, log: zap.NewNop()}
	e.audit(t.Context(), c, smc.StartReplicationJob, nil)
	e.audit(t.Context(), c, smc.StartReplicationJob, nil) // the same request id: refused by the database
	require.Len(t, f.audited(smc.DescribeAuditLogRequest{Operation: pointer("StartReplicationJob")}), 1)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	c.requestID = newRequestID()
	e.audit(gone, c, smc.StartReplicationJob, nil)
	require.Len(t, f.audited(smc.DescribeAuditLogRequest{Operation: pointer("StartReplicationJob")}), 2, "a caller that went away is recorded")
	f.create(source)
	// What could not be written together is in the log, record by record.
	core, logged := observer.New(zap.ErrorLevel)
	e = NewEndpoint(Config{Store: f.store, Engine: f.engine, RegionID: region, Logger: zap.New(core)})
	for range 2 { // with one request id
		e.audit(t.Context(), c, smc.DescribeReplicationJobs, nil)
	}
	e.Close()
	require.Equal(t, 2, logged.FilterMessage("call not in the audit log").FilterField(zap.String("request_id", c.requestID)).Len())
}

// Records of calls that read are written together: when enough wait, when the first has waited long enough, and at the end.
func TestAuditRecordsAreWrittenTogether(t *testing.T) {
	f := newFixture(t, quiet)
	e := NewEndpoint(Config{Store: f.store, Engine: f.engine, RegionID: region, Logger: zap.NewNop()})
	read := func(n int) {
		for range n {
			e.audit(t.Context(), &call{requestID: newRequestID(), now: time.Now(), verified: true, key: store.AccessKey{AccessKeyID: keyID}, accountID: account, log: zap.NewNop()},
				smc.DescribeReplicationJobs, nil)
		}
	}
	written := func() int {
		_, total, err := f.store.AuditLog(t.Context(), account, store.AuditFilter{}, store.Page{Number: 1, Size: 1})
		require.NoError(t, err)
		return total
	}
	e.records.timer = time.NewTimer(time.Hour) // the first of them waits that long
	read(auditBatch)
	require.Equal(t, auditBatch, written())
	read(1)
	require.Eventually(t, func() bool { return written() == auditBatch+1 }, 10*time.Second, 10*time.Millisecond)
	read(3)
	e.Close()
	require.Equal(t, auditBatch+4, written())
	// Who reads the log writes what waits, also that of others: it is not lost when he goes away meanwhile.
	read(3)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	e.records.flush(gone)
	require.Equal(t, auditBatch+7, written())
}

// Forged calls are recorded only so often: nobody fills the database from outside.
func TestForgedCallsAreBounded(t *testing.T) {
	f := newFixture(t, quiet)
	e := NewEndpoint(Config{Store: f.store, Engine: f.engine, RegionID: region, Logger: zap.NewNop()})
	began := time.Now()
	for range 3 * forgedBurst {
		e.audit(t.Context(), &call{requestID: newRequestID(), now: time.Now(), key: store.AccessKey{AccessKeyID: "AK-none"}, log: zap.NewNop()},
			nil, smc.Errorf(smc.CodeSignatureDoesNotMatch, ""))
	}
	e.Close()
	most := forgedBurst + int(time.Since(began).Seconds()*float64(forgedPerSecond)) + 1
	_, total, err := f.store.AuditLog(t.Context(), "", store.AuditFilter{}, store.Page{Number: 1, Size: 1})
	require.NoError(t, err)
	require.GreaterOrEqual(t, total, forgedBurst)
	require.LessOrEqual(t, total, most)
}

func TestThrottling(t *testing.T) {
	// So slow that the test ends before another call is admitted.
	f := newFixture(t, quiet, func(c *Config) { c.RateLimit, c.RateBurst = 1e-6, 3 })
	describe := func(c *smc.Client) error {
		_, err := c.DescribeReplicationJobs(t.Context(), nil)
		return err
	}
	for range 3 {
		require.NoError(t, describe(f.client))
	}
	refusal := f.requireCode(smc.CodeThrottlingUser, describe(f.client))
	require.Contains(t, refusal.Message, keyID)
	require.Equal(t, smc.Retryable, smc.ClassOf(refusal))
	require.NoError(t, describe(f.as("ak-other", secret)), "each key has its own")
	// A wrong signature uses up nothing of the key's.
	for range 5 {
		f.requireCode(smc.CodeSignatureDoesNotMatch, describe(f.as("ak-other", "wrong")))
	}
	require.NoError(t, describe(f.as("ak-other", secret)))
	require.Eventually(t, func() bool {
		throttled, _, err := f.store.AuditLog(t.Context(), account, store.AuditFilter{Outcome: smc.CodeThrottlingUser}, store.Page{Number: 1, Size: 10})
		require.NoError(t, err)
		return len(throttled) == 1 && throttled[0].AccessKeyID == keyID && throttled[0].Action == "DescribeReplicationJobs" && throttled[0].RequestID == refusal.RequestID
	}, 10*time.Second, 10*time.Millisecond)
}

func TestQuotas(t *testing.T) {
	f := newFixture(t, quiet, func(c *Config) { c.SourceQuota, c.JobQuota = 2, 1 })
	ids := f.fleet(2)
	client, err := agentapi.NewClient(f.url, "")
	require.NoError(t, err)
	_, err = client.Register(t.Context(), agentapi.RegisterRequest{Code: f.code(), Name: "third", Instance: "third", Server: described})
	f.requireCode(smc.CodeQuotaExceededSourceServer, err)
	f.create(ids[0])
	_, err = f.client.CreateReplicationJob(t.Context(), &smc.CreateReplicationJobRequest{SourceID: ids[1]})
	f.requireCode(smc.CodeQuotaExceededReplicationJob, err)
}
