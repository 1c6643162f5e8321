package center

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/center/store/storetest"
	"github.com/drover/drover/smc"
)

// fleet registers n source servers and returns their ids.
func (f *fixture) fleet(n int) []string {
	f.t.Helper()
	client, err := agentapi.NewClient(f.url, "")
	require.NoError(f.t, err)
	code := f.code()
	ids := make([]string, n)
	for i := range ids {
		name := fmt.Sprintf("web-%d", i)
		registered, err := client.Register(f.t.Context(), agentapi.RegisterRequest{Code: code, Name: name, Instance: name, Server: described})
		require.NoError(f.t, err)
		ids[i] = registered.SourceID
	}
	return ids
}

func quiet(c *Config) { c.Logger = zap.NewNop() }

func tags(from, n int) []smc.TagParameter {
	list := make([]smc.TagParameter, n)
	for i := range list {
		list[i] = smc.TagParameter{Key: pointer(fmt.Sprintf("key-%02d", from+i)), Value: pointer(fmt.Sprint(from + i))}
	}
	return list
}

func (f *fixture) tag(resourceType string, ids []string, list ...smc.TagParameter) error {
	_, err := f.client.TagResources(f.t.Context(), &smc.TagResourcesRequest{ResourceType: resourceType, ResourceID: ids, Tag: list})
	return err
}

func (f *fixture) tagsOf(id string) map[string]string {
	f.t.Helper()
	sources, err := f.client.DescribeSourceServers(f.t.Context(), &smc.DescribeSourceServersRequest{SourceID: []string{id}})
	require.NoError(f.t, err)
	require.Len(f.t, sources.SourceServers, 1)
	found := map[string]string{}
	for _, tag := range sources.SourceServers[0].Tags {
		found[tag.Key] = tag.Value
	}
	return found
}

func TestTags(t *testing.T) {
	f := newFixture(t, quiet)
	ids := f.fleet(2)
	require.NoError(t, f.tag("SourceServer", ids, smc.TagParameter{Key: pointer("team"), Value: pointer("a")}, smc.TagParameter{Key: pointer("empty")}))
	require.Equal(t, map[string]string{"team": "a", "empty": ""}, f.tagsOf(ids[0]))
	require.NoError(t, f.tag("sourceserver", ids[:1], smc.TagParameter{Key: pointer("team"), Value: pointer("b")}))
	require.Equal(t, map[string]string{"team": "b", "empty": ""}, f.tagsOf(ids[0]), "a key that is there takes the new value")
	require.Equal(t, "a", f.tagsOf(ids[1])["team"])

	// 20 tags a resource; a call that would make 21 of any changes none.
	require.NoError(t, f.tag("sourceserver", ids[:1], tags(0, 18)...))
	f.requireCode(smc.CodeNumberExceedTags, f.tag("sourceserver", []string{ids[1], ids[0]}, tags(18, 1)...))
	require.Len(t, f.tagsOf(ids[0]), 20)
	require.Len(t, f.tagsOf(ids[1]), 2)
	require.NoError(t, f.tag("sourceserver", ids[1:], tags(0, 18)...))
	require.NoError(t, f.tag("sourceserver", ids, tags(3, 5)...), "what is there already adds nothing")
	f.requireCode(smc.CodeNumberExceedTags, f.tag("sourceserver", ids, tags(0, 21)...))

	untag := func(all *bool, id string, keys ...string) error {
		_, err := f.client.UntagResources(t.Context(), &smc.UntagResourcesRequest{ResourceType: "sourceserver", ResourceID: []string{id}, All: all, TagKey: keys})
		return err
	}
	f.requireCode(smc.CodeMissingParameter, untag(nil, ids[0]))
	f.requireCode(smc.CodeMissingParameter, untag(pointer(false), ids[0]))
	require.Len(t, f.tagsOf(ids[0]), 20)
	require.NoError(t, untag(pointer(true), ids[0], "team", "not-there"), "All counts only when no TagKey is given")
	require.Len(t, f.tagsOf(ids[0]), 19)
	require.NoError(t, untag(pointer(true), ids[0]))
	require.Empty(t, f.tagsOf(ids[0]))
	require.Len(t, f.tagsOf(ids[1]), 20, "another resource keeps its own")
}

func TestTagsThatAreRefused(t *testing.T) {
	f := newFixture(t, quiet)
	id := f.fleet(1)
	job := f.create(id[0])
	one := tags(0, 1)
	many := make([]string, 51)
	for i := range many {
		many[i] = fmt.Sprintf("s-%d", i)
	}
	f.requireCode(smc.CodeMissingParameterResourceType, f.tag("", id, one...))
	f.requireCode(smc.CodeInvalidResourceTypeNotFound, f.tag("workgroup", id, one...))
	f.requireCode(smc.CodeNumberExceedResourceIDs, f.tag("sourceserver", many, one...))
	f.requireCode(smc.CodeInvalidResourceIDNotFound, f.tag("sourceserver", many[:50], one...))
	f.requireCode(smc.CodeInvalidResourceIDNotFound, f.tag("sourceserver", []string{id[0], job}, one...))
	require.Empty(t, f.tagsOf(id[0]), "all or nothing")
	f.requireCode(smc.CodeInvalidResourceIDNotFound, f.tag("replicationjob", id, one...))
	f.requireCode(smc.CodeDuplicateResourceID, f.tag("sourceserver", []string{id[0], id[0]}, one...))
	f.requireCode(smc.CodeInvalidParameterTagValue, f.tag("sourceserver", id, smc.TagParameter{Value: pointer("v")}))
	for _, key := range []string{"aliyun-x", "ACS:x", "http://x", "https://x", strings.Repeat("k", 129)} {
		f.requireCode(smc.CodeInvalidParameter, f.tag("sourceserver", id, smc.TagParameter{Key: &key}))
	}
	f.requireCode(smc.CodeInvalidParameter, f.tag("sourceserver", id, smc.TagParameter{Key: pointer("k"), Value: pointer(strings.Repeat("v", 129))}))
	longest := strings.Repeat("标", 128)
	require.NoError(t, f.tag("sourceserver", id, smc.TagParameter{Key: &longest, Value: &longest}))
	require.Equal(t, map[string]string{longest: longest}, f.tagsOf(id[0]))
}

func TestListTagResources(t *testing.T) {
	f := newFixture(t, quiet)
	ids := f.fleet(3)
	job := f.create(ids[0])
	for i, id := range ids {
		require.NoError(t, f.tag("sourceserver", []string{id}, tags(0, 17+i)...))
	}
	require.NoError(t, f.tag("replicationjob", []string{job}, tags(0, 1)...))

	// 17 + 18 + 19 tags: a page of 50 and one of 4.
	list := func(r smc.ListTagResourcesRequest) (found []smc.TagResource, pages int) {
		t.Helper()
		for {
			res, err := f.client.ListTagResources(t.Context(), &r)
			require.NoError(t, err)
			require.LessOrEqual(t, len(res.TagResources), 50)
			found, pages = append(found, res.TagResources...), pages+1
			if res.NextToken == "" {
				return found, pages
			}
			r.NextToken = &res.NextToken
		}
	}
	found, pages := list(smc.ListTagResourcesRequest{ResourceType: "sourceserver"})
	require.Equal(t, 2, pages)
	require.Len(t, found, 54)
	seen := map[string]bool{}
	for _, tag := range found {
		require.Equal(t, "ALIYUN::SMC::SOURCESERVER", tag.ResourceType)
		require.False(t, seen[tag.ResourceID+tag.TagKey], "nothing comes twice")
		seen[tag.ResourceID+tag.TagKey] = true
	}
	found, _ = list(smc.ListTagResourcesRequest{ResourceType: "REPLICATIONJOB"})
	require.Equal(t, []smc.TagResource{{ResourceID: job, ResourceType: "ALIYUN::SMC::REPLICATIONJOB", TagKey: "key-00", TagValue: "0"}}, found)
	found, _ = list(smc.ListTagResourcesRequest{ResourceType: "sourceserver", ResourceID: ids[:1]})
	require.Len(t, found, 17)
	// Tags filter resources: only the last one has key-18, and all of its tags are listed.
	found, _ = list(smc.ListTagResourcesRequest{ResourceType: "sourceserver", Tag: []smc.TagFilter{{Key: pointer("key-18")}, {Key: pointer("key-00"), Value: pointer("0")}}})
	require.Len(t, found, 19)
	require.Equal(t, ids[2], found[0].ResourceID)
	found, _ = list(smc.ListTagResourcesRequest{ResourceType: "sourceserver", Tag: []smc.TagFilter{{Key: pointer("key-18"), Value: pointer("another")}}})
	require.Empty(t, found)

	found, _ = list(smc.ListTagResourcesRequest{ResourceType: "sourceserver", ResourceID: []string{""}, Tag: []smc.TagFilter{{Key: pointer("")}}})
	require.Len(t, found, 54, "what is sent without a value is no condition")

	_, err := f.client.ListTagResources(t.Context(), &smc.ListTagResourcesRequest{ResourceType: "sourceserver", ResourceID: []string{"s-none"}})
	f.requireCode(smc.CodeInvalidResourceIDNotFound, err)
	for _, token := range []string{"not base64!", "bm90aGluZw", "AAoA", "_woK"} { // the last two: a NUL, and no UTF-8
		_, err := f.client.ListTagResources(t.Context(), &smc.ListTagResourcesRequest{ResourceType: "sourceserver", NextToken: &token})
		f.requireCode(smc.CodeInvalidParameter, err)
	}
	// A job that is gone leaves no tags.
	_, err = f.client.DeleteReplicationJob(t.Context(), &smc.DeleteReplicationJobRequest{JobID: job})
	require.NoError(t, err)
	require.NoError(t, f.store.EndDelete(t.Context(), job, "gone"))
	found, _ = list(smc.ListTagResourcesRequest{ResourceType: "replicationjob"})
	require.Empty(t, found)
}

func (f *fixture) group(name string, sources ...string) string {
	f.t.Helper()
	group, err := f.client.CreateWorkgroup(f.t.Context(), &smc.CreateWorkgroupRequest{Name: &name})
	require.NoError(f.t, err)
	require.True(f.t, strings.HasPrefix(group.WorkgroupID, "w-"))
	if len(sources) > 0 {
		_, err = f.client.AssociateSourceServers(f.t.Context(), &smc.AssociateSourceServersRequest{WorkgroupID: group.WorkgroupID, SourceID: sources})
		require.NoError(f.t, err)
	}
	return group.WorkgroupID
}

func (f *fixture) groups(r smc.DescribeWorkgroupsRequest) []smc.Workgroup {
	f.t.Helper()
	groups, err := f.client.DescribeWorkgroups(f.t.Context(), &r)
	require.NoError(f.t, err)
	require.LessOrEqual(f.t, len(groups.Workgroups), groups.TotalCount)
	return groups.Workgroups
}

func TestWorkgroups(t *testing.T) {
	f := newFixture(t, quiet)
	ctx := t.Context()
	created, err := f.client.CreateWorkgroup(ctx, &smc.CreateWorkgroupRequest{
		Name: pointer("wave.1"), Description: pointer("the first"), ClientToken: pointer("token"), Tag: []smc.TagParameter{{Key: pointer("dc"), Value: pointer("1")}},
	})
	require.NoError(t, err)
	id := created.WorkgroupID
	again, err := f.client.CreateWorkgroup(ctx, &smc.CreateWorkgroupRequest{
		Name: pointer("wave.1"), Description: pointer("the first"), ClientToken: pointer("token"), Tag: []smc.TagParameter{{Key: pointer("dc"), Value: pointer("1")}},
	})
	require.NoError(t, err)
	require.Equal(t, id, again.WorkgroupID, "the same token is the same workgroup")
	for _, other := range []smc.CreateWorkgroupRequest{{Name: pointer("wave.2")}, {Name: pointer("wave.1"), Description: pointer("the first")}} { // without the tag
		other.ClientToken = pointer("token")
		_, err = f.client.CreateWorkgroup(ctx, &other)
		f.requireCode(smc.CodeIdempotentParameterMismatch, err)
	}
	_, err = f.client.CreateWorkgroup(ctx, &smc.CreateWorkgroupRequest{Name: pointer("wave.1")})
	f.requireCode(smc.CodeInvalidParameter, err)
	_, err = f.client.CreateWorkgroup(ctx, &smc.CreateWorkgroupRequest{})
	f.requireCode("MissingName", err)
	for _, name := range []string{"w", "1w", "wave 1", strings.Repeat("w", 65), "波一"} {
		_, err = f.client.CreateWorkgroup(ctx, &smc.CreateWorkgroupRequest{Name: &name})
		f.requireCode(smc.CodeInvalidParameter, err)
	}
	f.group(strings.Repeat("w", 64))
	f.group("w2")

	require.Equal(t, []smc.Workgroup{{
		WorkgroupID: id, Name: "wave.1", Description: "the first", Status: smc.WorkgroupNotStarted, Tags: smc.List[smc.Tag]{{Key: "dc", Value: "1"}}, Warnings: smc.List[smc.Warning]{},
	}}, f.groups(smc.DescribeWorkgroupsRequest{Tag: []smc.TagFilter{{Key: pointer("dc")}}}))
	require.Len(t, f.groups(smc.DescribeWorkgroupsRequest{Name: pointer("w2")}), 1)
	require.Len(t, f.groups(smc.DescribeWorkgroupsRequest{WorkgroupID: []string{id, "w-none"}}), 1)
	require.Len(t, f.groups(smc.DescribeWorkgroupsRequest{}), 3)
	require.Len(t, f.groups(smc.DescribeWorkgroupsRequest{PageSize: pointer(2), PageNumber: pointer(2)}), 1)
	require.Empty(t, f.groups(smc.DescribeWorkgroupsRequest{PageNumber: pointer(1<<31 - 1), PageSize: pointer(50)}))
	require.Empty(t, f.groups(smc.DescribeWorkgroupsRequest{Status: pointer("Completed")}))

	modify := func(name, description *string) error {
		_, err := f.client.ModifyWorkgroupAttribute(ctx, &smc.ModifyWorkgroupAttributeRequest{WorkgroupID: id, Name: name, Description: description})
		return err
	}
	f.requireCode(smc.CodeInvalidParameter, modify(pointer("w2"), nil))
	require.NoError(t, modify(pointer("wave.1"), nil), "its own name is free")
	require.NoError(t, modify(pointer("renamed"), nil))
	require.NoError(t, modify(nil, pointer("changed")))
	require.NoError(t, modify(pointer(""), nil), "an empty name is none")
	group := f.groups(smc.DescribeWorkgroupsRequest{WorkgroupID: []string{id}})[0]
	require.Equal(t, "renamed", group.Name)
	require.Equal(t, "changed", group.Description)

	_, err = f.client.DeleteWorkgroup(ctx, &smc.DeleteWorkgroupRequest{WorkgroupID: id})
	require.NoError(t, err)
	_, err = f.client.DeleteWorkgroup(ctx, &smc.DeleteWorkgroupRequest{WorkgroupID: id})
	f.requireCode(smc.CodeInvalidWorkgroupIDNotFound, err)
	f.requireCode(smc.CodeInvalidWorkgroupIDNotFound, modify(pointer("again"), nil))
}

func TestSourcesOfWorkgroups(t *testing.T) {
	f := newFixture(t, quiet)
	ctx := t.Context()
	ids := f.fleet(52)
	associate := func(group string, sources ...string) error {
		_, err := f.client.AssociateSourceServers(ctx, &smc.AssociateSourceServersRequest{WorkgroupID: group, SourceID: sources})
		return err
	}
	disassociate := func(group string, sources ...string) error {
		_, err := f.client.DisassociateSourceServers(ctx, &smc.DisassociateSourceServersRequest{WorkgroupID: group, SourceID: sources})
		return err
	}
	members := func(group string) int {
		sources, err := f.client.DescribeSourceServers(ctx, &smc.DescribeSourceServersRequest{WorkgroupID: &group})
		require.NoError(t, err)
		return sources.TotalCount
	}
	first, second := f.group("first"), f.group("second")
	f.requireCode(smc.CodeInvalidParameter, associate(first, ids[:51]...))
	require.NoError(t, associate(first, ids[:50]...))
	require.Equal(t, 50, members(first))
	f.requireCode(smc.CodeInvalidParameter, associate(first, ids[50]))
	require.NoError(t, associate(first, ids[0]), "one that is in it stays")
	f.requireCode(smc.CodeInvalidParameter, associate(second, ids[51], ids[0]))
	require.Zero(t, members(second), "all or none")
	f.requireCode(smc.CodeInvalidSourceIDNotFound, associate(second, ids[51], "s-none"))
	f.requireCode(smc.CodeInvalidWorkgroupIDNotFound, associate("w-none", ids[51]))
	f.requireCode(smc.CodeInvalidSourceIDNotFound, disassociate(first, ids[0], ids[51]))
	require.Equal(t, 50, members(first), "all or none")
	require.NoError(t, disassociate(first, ids[0], ids[0]), "one that is given twice was in it")
	require.NoError(t, associate(second, ids[0], ids[0]))
	require.Equal(t, 49, members(first))
	_, err := f.client.DeleteWorkgroup(ctx, &smc.DeleteWorkgroupRequest{WorkgroupID: first})
	require.NoError(t, err)
	require.Zero(t, members(first))
	require.NoError(t, associate(second, ids[1]), "the sources of a workgroup that is gone are free")
}

func TestStatusOfWorkgroups(t *testing.T) {
	f := newFixture(t, quiet)
	ctx := t.Context()
	db := storetest.DB(t, f.database)
	ids := f.fleet(2)
	group := f.group("wave", ids...)
	show := func() smc.Workgroup {
		t.Helper()
		return f.groups(smc.DescribeWorkgroupsRequest{WorkgroupID: []string{group}})[0]
	}
	shown := show()
	require.Equal(t, smc.WorkgroupNotStarted, shown.Status)
	require.Len(t, shown.Warnings, 1)
	require.Equal(t, smc.WarningUnRelated, shown.Warnings[0].WarningType)
	require.Len(t, shown.Warnings[0].SourceIDs, 2)

	jobs := []string{f.create(ids[0]), f.create(ids[1])}
	require.Equal(t, smc.WorkgroupNotStarted, show().Status)
	require.Empty(t, show().Warnings)
	for _, test := range []struct {
		first, second smc.JobStatus
		cutOver       string
		want          smc.WorkgroupStatus
		inError       int
	}{
		{smc.StatusRunning, smc.StatusRunning, "", smc.WorkgroupInProgress, 0},
		{smc.StatusWaiting, smc.StatusWaiting, "", smc.WorkgroupInProgress, 0},
		{smc.StatusWaiting, smc.StatusFinished, "sync", smc.WorkgroupCutover, 0},
		{smc.StatusRunning, smc.StatusFinished, "sync", smc.WorkgroupInProgress, 0},
		{smc.StatusFinished, smc.StatusFinished, "sync", smc.WorkgroupCompleted, 0},
		{smc.StatusFinished, smc.StatusFinished, "", smc.WorkgroupCompleted, 0},
		{smc.StatusInError, smc.StatusFinished, "", smc.WorkgroupInProgress, 1},
		{smc.StatusInError, smc.StatusInError, "", smc.WorkgroupInProgress, 2},
	} {
		for i, status := range []smc.JobStatus{test.first, test.second} {
			_, err := db.ExecContext(ctx, `UPDATE replication_jobs SET status = $1, run = 1, cutover = $2 WHERE job_id = $3`, string(status), test.cutOver, jobs[i])
			require.NoError(t, err)
		}
		shown := show()
		require.Equal(t, test.want, shown.Status, "%+v", test)
		require.Len(t, f.groups(smc.DescribeWorkgroupsRequest{Status: pointer(string(test.want))}), 1)
		inError := 0
		for _, warning := range shown.Warnings {
			require.Equal(t, smc.WarningInError, warning.WarningType)
			inError = len(warning.SourceIDs)
		}
		require.Equal(t, test.inError, inError)
	}
}

// A verification of an image that failed is shown with the image, and its workgroup warns of it until the image passes.
func TestVerificationOfImages(t *testing.T) {
	f := newFixture(t, quiet)
	ctx := t.Context()
	its := f.things()
	image := func() smc.Image {
		t.Helper()
		images, err := f.client.DescribeImages(ctx, &smc.DescribeImagesRequest{ImageID: []string{its.image}})
		require.NoError(t, err)
		require.Len(t, images.Images, 1)
		return images.Images[0]
	}
	warnings := func() smc.List[smc.Warning] {
		t.Helper()
		return f.groups(smc.DescribeWorkgroupsRequest{WorkgroupID: []string{its.group}})[0].Warnings
	}
	require.Empty(t, image().Verification)
	require.Empty(t, image().VerificationTime)
	require.Empty(t, warnings())
	require.NoError(t, f.store.RecordVerification(ctx, its.image, smc.VerificationNotPassed, "disk 0: 1 bad grains of 64 KiB"))
	shown := image()
	require.Equal(t, smc.VerificationNotPassed, shown.Verification)
	require.Equal(t, "disk 0: 1 bad grains of 64 KiB", shown.VerificationInfo)
	at, err := smc.ParseTime(shown.VerificationTime)
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), at, time.Minute)
	require.Equal(t, smc.List[smc.Warning]{{WarningType: smc.WarningNotPassed, SourceIDs: smc.List[smc.SourceRef]{smc.SourceRef(its.source)}}}, warnings())
	require.NoError(t, f.store.RecordVerification(ctx, its.image, smc.VerificationPassed, ""))
	require.Equal(t, smc.VerificationPassed, image().Verification)
	require.Empty(t, warnings())
}

func TestActivationCodes(t *testing.T) {
	f := newFixture(t, quiet)
	ctx := t.Context()
	create := func(r smc.CreateAccessTokenRequest) *smc.CreateAccessTokenResult {
		t.Helper()
		token, err := f.client.CreateAccessToken(ctx, &r)
		require.NoError(t, err)
		return token
	}
	list := func(r smc.ListAccessTokensRequest) *smc.ListAccessTokensResult {
		t.Helper()
		tokens, err := f.client.ListAccessTokens(ctx, &r)
		require.NoError(t, err)
		return tokens
	}
	register := func(code, name string) error {
		client, err := agentapi.NewClient(f.url, "")
		require.NoError(t, err)
		_, err = client.Register(ctx, agentapi.RegisterRequest{Code: code, Name: name, Instance: name, Server: described})
		return err
	}
	for _, wrong := range []smc.CreateAccessTokenRequest{
		{Name: pointer("n")},
		{Name: pointer(strings.Repeat("n", 129))},
		{Count: pointer(0)},
		{Count: pointer(1001)},
		{TimeToLiveInDays: pointer(0)},
		{TimeToLiveInDays: pointer(91)},
		{Description: pointer("http://x")},
	} {
		_, err := f.client.CreateAccessToken(ctx, &wrong)
		f.requireCode(smc.CodeInvalidParameter, err)
	}
	token := create(smc.CreateAccessTokenRequest{Name: pointer("dc-1"), Description: pointer("of the first"), Count: pointer(1), TimeToLiveInDays: pointer(90)})
	require.NoError(t, register(token.AccessTokenCode, "web"))
	f.requireCode(smc.CodeInvalidActivationCode, register(token.AccessTokenCode, "db"))
	plain := create(smc.CreateAccessTokenRequest{})
	shown := list(smc.ListAccessTokensRequest{Name: pointer("dc-1")}).AccessTokens
	require.Len(t, shown, 1)
	require.NotEmpty(t, shown[0].CreationTime)
	shown[0].CreationTime = ""
	require.Equal(t, smc.AccessToken{
		AccessTokenID: token.AccessTokenID, Name: "dc-1", Description: "of the first", Count: 1, RegisteredCount: 1, TimeToLiveInDays: 90, Status: smc.AccessTokenActivated,
	}, shown[0])
	shown = list(smc.ListAccessTokensRequest{AccessTokenID: []string{plain.AccessTokenID, "at-none"}}).AccessTokens
	require.Len(t, shown, 1)
	require.Equal(t, 100, shown[0].Count)
	require.Equal(t, 30, shown[0].TimeToLiveInDays)

	_, err := f.client.DisableAccessToken(ctx, &smc.DisableAccessTokenRequest{AccessTokenID: plain.AccessTokenID})
	require.NoError(t, err)
	f.requireCode(smc.CodeInvalidActivationCode, register(plain.AccessTokenCode, "db"))
	old := create(smc.CreateAccessTokenRequest{TimeToLiveInDays: pointer(1)})
	_, err = storetest.DB(t, f.database).ExecContext(ctx, `UPDATE access_tokens SET created_at = created_at - $1 WHERE access_token_id = $2`, 25*time.Hour.Milliseconds(), old.AccessTokenID)
	require.NoError(t, err)
	f.requireCode(smc.CodeInvalidActivationCode, register(old.AccessTokenCode, "db"))
	for status, id := range map[string]string{"activated": token.AccessTokenID, "unactivated": plain.AccessTokenID, "expired": old.AccessTokenID} {
		found := list(smc.ListAccessTokensRequest{Status: &status})
		require.Equal(t, 1, found.TotalCount, status)
		require.Equal(t, id, found.AccessTokens[0].AccessTokenID)
	}
	require.Len(t, list(smc.ListAccessTokensRequest{PageSize: pointer(2), PageNumber: pointer(2)}).AccessTokens, 1)
	require.Equal(t, 3, list(smc.ListAccessTokensRequest{PageSize: pointer(2), PageNumber: pointer(5)}).TotalCount)
	for range smc.DefaultPageSize {
		create(smc.CreateAccessTokenRequest{})
	}
	everything := list(smc.ListAccessTokensRequest{})
	require.Len(t, everything.AccessTokens, 13, "the vendor's clients cannot ask for another page")
	require.Equal(t, smc.Page{TotalCount: 13, PageNumber: 1, PageSize: 13}, everything.Page)
	require.Len(t, list(smc.ListAccessTokensRequest{PageNumber: pointer(1)}).AccessTokens, smc.DefaultPageSize)

	_, err = f.client.DeleteAccessToken(ctx, &smc.DeleteAccessTokenRequest{AccessTokenID: token.AccessTokenID})
	require.NoError(t, err)
	_, err = f.client.DeleteAccessToken(ctx, &smc.DeleteAccessTokenRequest{AccessTokenID: token.AccessTokenID})
	f.requireCode(smc.CodeInvalidAccessTokenIDNotFound, err)
	_, err = f.client.DisableAccessToken(ctx, &smc.DisableAccessTokenRequest{AccessTokenID: token.AccessTokenID})
	f.requireCode(smc.CodeInvalidAccessTokenIDNotFound, err)
	sources, err := f.client.DescribeSourceServers(ctx, &smc.DescribeSourceServersRequest{})
	require.NoError(t, err)
	require.Equal(t, 1, sources.TotalCount, "what registered with a code that is deleted stays")
}

func TestModifySource(t *testing.T) {
	f := newFixture(t, quiet)
	ids := f.fleet(2)
	modify := func(name, description *string) error {
		_, err := f.client.ModifySourceServerAttribute(t.Context(), &smc.ModifySourceServerAttributeRequest{SourceID: ids[0], Name: name, Description: description})
		return err
	}
	show := func() smc.SourceServer {
		t.Helper()
		sources, err := f.client.DescribeSourceServers(t.Context(), &smc.DescribeSourceServersRequest{SourceID: ids[:1]})
		require.NoError(t, err)
		return sources.SourceServers[0]
	}
	f.requireCode(smc.CodeSourceServerNameDuplicate, modify(pointer("web-1"), nil))
	require.NoError(t, modify(pointer("网站-1"), pointer("the site")))
	require.NoError(t, modify(pointer("网站-1"), nil), "its own name is free")
	require.NoError(t, modify(pointer(""), nil), "an empty name is none")
	require.Equal(t, "网站-1", show().Name)
	require.Equal(t, "the site", show().Description)
	require.NoError(t, modify(nil, pointer("")))
	require.Empty(t, show().Description, "an empty description clears it")
	for _, wrong := range []string{"1x", "x", "http://x", strings.Repeat("x", 129)} {
		f.requireCode(smc.CodeInvalidParameter, modify(&wrong, nil))
	}
	f.requireCode(smc.CodeInvalidParameter, modify(nil, pointer(strings.Repeat("x", 257))))
	f.requireCode(smc.CodeInvalidParameter, modify(nil, pointer("https://x")))
	require.NoError(t, modify(nil, pointer(strings.Repeat("x", 256))))
	db := storetest.DB(t, f.database)
	for _, state := range []smc.SourceState{smc.SourceAvailable, smc.SourceUnavailable, smc.SourceInUse, smc.SourceDeleting} {
		_, err := db.ExecContext(t.Context(), `UPDATE source_servers SET state = $1`, string(state))
		require.NoError(t, err)
		require.NoError(t, modify(pointer("in-"+strings.ToLower(string(state))), nil), "in any state")
	}
	_, err := f.client.ModifySourceServerAttribute(t.Context(), &smc.ModifySourceServerAttributeRequest{SourceID: "s-none"})
	f.requireCode(smc.CodeInvalidSourceIDNotFound, err)
}

func TestDeleteSource(t *testing.T) {
	f := newFixture(t, quiet)
	ctx := t.Context()
	ids := f.fleet(2)
	db := storetest.DB(t, f.database)
	remove := func(id string, force *bool) error {
		_, err := f.client.DeleteSourceServer(ctx, &smc.DeleteSourceServerRequest{SourceID: id, Force: force})
		return err
	}
	count := func() int {
		sources, err := f.client.DescribeSourceServers(ctx, &smc.DescribeSourceServersRequest{})
		require.NoError(t, err)
		return sources.TotalCount
	}
	require.NoError(t, f.tag("sourceserver", ids, tags(0, 1)...))
	require.NoError(t, remove(ids[1], nil))
	require.Equal(t, 1, count(), "a source without a job is gone at once")
	f.requireCode(smc.CodeInvalidSourceIDNotFound, remove(ids[1], nil))

	job := f.create(ids[0])
	for _, status := range smc.JobStatuses() {
		setJob(ctx, t, db, job, status, smc.BusinessSyncing)
		if status == smc.StatusRunning {
			f.requireCode(smc.CodeSourceServerWithRunningReplicationJob, remove(ids[0], nil))
			refusal := f.requireCode(smc.CodeSourceServerWithRunningReplicationJob, remove(ids[0], pointer(true)))
			require.Contains(t, refusal.Message, job)
			continue
		}
		f.requireCode(smc.CodeReplicationJobRelated, remove(ids[0], nil))
		f.requireCode(smc.CodeReplicationJobRelated, remove(ids[0], pointer(false)))
	}
	setJob(ctx, t, db, job, smc.StatusStopped, smc.BusinessSyncing)
	require.NoError(t, remove(ids[0], pointer(true)))
	sources, err := f.client.DescribeSourceServers(ctx, &smc.DescribeSourceServersRequest{State: pointer("Deleting")})
	require.NoError(t, err)
	require.Equal(t, 1, sources.TotalCount, "its job goes first")
	require.NoError(t, remove(ids[0], pointer(true)), "asked again, it goes on")
	record, err := f.store.JobByID(ctx, job)
	require.NoError(t, err)
	require.Equal(t, smc.StatusDeleting, record.Status)
	_, err = f.client.CreateReplicationJob(ctx, &smc.CreateReplicationJobRequest{SourceID: ids[0]})
	f.requireCode(smc.CodeSourceServerStateInvalid, err)

	// A job that is not Deleting yet, because Temporal was away, is not started meanwhile.
	setJob(ctx, t, db, job, smc.StatusStopped, smc.BusinessSyncing)
	_, err = f.client.StartReplicationJob(ctx, &smc.StartReplicationJobRequest{JobID: job})
	f.requireCode(smc.CodeSourceServerStateInvalid, err)

	removeDeleting(ctx, f.store, f.engine, zap.NewNop())
	require.NoError(t, f.store.EndDelete(ctx, job, "gone"))
	removeDeleting(ctx, f.store, f.engine, zap.NewNop())
	require.Zero(t, count())
}

// Describe shows what Modify changed, and refuses what does not fit the source and the other jobs.
func TestModifyJob(t *testing.T) {
	f := newFixture(t, quiet)
	ctx := t.Context()
	ids := f.fleet(2)
	id := f.create(ids[0])
	_, err := f.client.CreateReplicationJob(ctx, &smc.CreateReplicationJobRequest{SourceID: ids[1], Name: pointer("taken"), ImageName: pointer("taken-image")})
	require.NoError(t, err)
	modify := func(r smc.ModifyReplicationJobAttributeRequest) error {
		r.JobID = id
		_, err := f.client.ModifyReplicationJobAttribute(ctx, &r)
		return err
	}
	show := func() smc.ReplicationJob {
		t.Helper()
		jobs, err := f.client.DescribeReplicationJobs(ctx, &smc.DescribeReplicationJobsRequest{JobID: []string{id}})
		require.NoError(t, err)
		return jobs.ReplicationJobs[0]
	}
	start := smc.FormatTime(time.Now().Add(24 * time.Hour))
	valid := smc.FormatTime(time.Now().Add(20 * 24 * time.Hour))
	require.NoError(t, modify(smc.ModifyReplicationJobAttributeRequest{
		Name: pointer("new"), Description: pointer("changed"), ImageName: pointer("new-image"), SystemDiskSize: pointer(50),
		DataDisk: []smc.DataDiskTarget{{Index: pointer(1), Size: pointer(60)}}, ScheduledStartTime: &start, ValidTime: &valid,
		NetMode: pointer(2), VSwitchID: pointer("vsw-1"), InstanceType: pointer("large"), ReplicationParameters: pointer(`{"bandwidth_limit":1000}`),
	}))
	job := show()
	require.Equal(t, "new", job.Name)
	require.Equal(t, "changed", job.Description)
	require.Equal(t, "new-image", job.ImageName)
	require.Equal(t, 50, job.SystemDiskSize)
	require.Equal(t, smc.List[smc.DataDisk]{{Index: 1, Size: 60, Parts: smc.List[smc.Part]{}}}, job.DataDisks)
	require.Equal(t, start, job.ScheduledStartTime)
	require.Equal(t, valid, job.ValidTime)
	require.Equal(t, 2, job.NetMode)
	require.Equal(t, "vsw-1", job.VSwitchID)
	require.Equal(t, "large", job.InstanceType)

	for code, wrong := range map[string][]smc.ModifyReplicationJobAttributeRequest{
		smc.CodeReplicationJobNameDuplicate:        {{Name: pointer("taken")}},
		smc.CodeImageNameUsedByReplicationJob:      {{ImageName: pointer("taken-image")}},
		smc.CodeReplicationJobDataDiskIndexInvalid: {{DataDisk: []smc.DataDiskTarget{{Index: pointer(2)}}}},
		smc.CodeDataDiskDuplicateIndex:             {{DataDisk: []smc.DataDiskTarget{{Index: pointer(1)}, {Index: pointer(1)}}}},
		smc.CodeUnsupportedFeature:                 {{SystemDiskSize: pointer(20)}},
		smc.CodeInvalidInstanceIDNotFound:          {{TargetType: pointer("TargetInstance"), InstanceID: pointer("i-1")}},
		smc.CodeInvalidParameter: {
			{Name: pointer("x")},
			{Frequency: pointer(2)},
			{Frequency: pointer(169)},
			{MaxNumberOfImageToKeep: pointer(11)},
			{SystemDiskSize: pointer(2049)},
			{ValidTime: pointer(smc.FormatTime(time.Now().Add(6 * 24 * time.Hour)))},
			{ValidTime: pointer(smc.FormatTime(time.Now().Add(91 * 24 * time.Hour)))},
			{ScheduledStartTime: pointer(smc.FormatTime(time.Now().Add(-time.Hour)))},
			{ReplicationParameters: pointer("bandwidth_limit:1")},
		},
		"MissingVSwitchId": {{VSwitchID: pointer("")}},
	} {
		for _, r := range wrong {
			f.requireCode(code, modify(r))
		}
	}
	require.Equal(t, job, show(), "what is refused changes nothing")
	f.requireCode(smc.CodeReplicationJobNameDuplicate, modify(smc.ModifyReplicationJobAttributeRequest{Description: pointer("lost"), Name: pointer("taken")}))
	require.Equal(t, "changed", show().Description, "all or nothing")

	require.NoError(t, modify(smc.ModifyReplicationJobAttributeRequest{Name: pointer(""), ImageName: pointer(""), ScheduledStartTime: pointer(""), ValidTime: pointer("")}))
	job = show()
	require.Equal(t, "new", job.Name, "an empty name is none")
	require.Equal(t, "new-image", job.ImageName)
	require.Empty(t, job.ScheduledStartTime, "sent empty: by hand only")
	require.Empty(t, job.ValidTime, "sent empty: never")
	require.NoError(t, modify(smc.ModifyReplicationJobAttributeRequest{}), "nothing given, nothing changed")
	require.Equal(t, job, show())
}

// A TargetType that is sent empty is one that is not given: to modify another parameter makes no image of a container image.
func TestModifyWithoutATargetType(t *testing.T) {
	f := newFixture(t, quiet)
	ctx := t.Context()
	job, err := f.client.CreateReplicationJob(ctx, &smc.CreateReplicationJobRequest{SourceID: f.fleet(1)[0], TargetType: pointer("ContainerImage")})
	require.NoError(t, err)
	_, err = f.client.ModifyReplicationJobAttribute(ctx, &smc.ModifyReplicationJobAttributeRequest{JobID: job.JobID, TargetType: pointer(""), Description: pointer("changed")})
	require.NoError(t, err)
	jobs, err := f.client.DescribeReplicationJobs(ctx, &smc.DescribeReplicationJobsRequest{JobID: []string{job.JobID}})
	require.NoError(t, err)
	require.Equal(t, smc.TargetContainerImage, jobs.ReplicationJobs[0].TargetType)
	require.Equal(t, "changed", jobs.ReplicationJobs[0].Description)
}

// What a source cannot be migrated to is refused of Modify as it is of Create.
func TestModifyToWhatTheSourceCannotBe(t *testing.T) {
	f := newFixture(t, quiet)
	client, err := agentapi.NewClient(f.url, "")
	require.NoError(t, err)
	windows := described
	windows.Platform = "Windows Server 2019"
	registered, err := client.Register(t.Context(), agentapi.RegisterRequest{Code: f.code(), Name: "web", Instance: "web", Server: windows})
	require.NoError(t, err)
	job := f.create(registered.SourceID)
	for _, target := range []string{"ContainerImage", "TargetInstance"} {
		_, err = f.client.ModifyReplicationJobAttribute(t.Context(), &smc.ModifyReplicationJobAttributeRequest{JobID: job, TargetType: &target, InstanceID: pointer("i-1")})
		f.requireCode(smc.CodeInvalidOsMigrationTypeNotMatched, err)
	}
}

// Client tokens that are no longer remembered leave the record, whatever else is kept for ever.
func TestClientTokensLeaveTheRecord(t *testing.T) {
	f := newFixture(t, quiet)
	ctx := t.Context()
	ids := f.fleet(2)
	f.create(ids[0])
	db := storetest.DB(t, f.database)
	_, err := db.ExecContext(ctx, `UPDATE client_tokens SET created_at = 0`)
	require.NoError(t, err)
	f.create(ids[1])
	retain(ctx, f.store, f.engine, Retention{}, nil, zap.NewNop())
	var left int
	require.NoError(t, db.QueryRowContext(ctx, `SELECT COUNT(*) FROM client_tokens`).Scan(&left))
	require.Equal(t, 1, left)
}

// Replication parameters that mean nothing here are kept, echoed and named.
func TestIgnoredReplicationParameters(t *testing.T) {
	f := newFixture(t, quiet)
	ctx := t.Context()
	parameters := `{"bandwidth_limit":1000,"EfficiencyLevel":2,"UseSSHTunnel":true,"my_key":{"a":[1]}}`
	created, err := f.client.CreateReplicationJob(ctx, &smc.CreateReplicationJobRequest{SourceID: f.fleet(1)[0], ReplicationParameters: &parameters})
	require.NoError(t, err)
	show := func() smc.ReplicationJob {
		t.Helper()
		jobs, err := f.client.DescribeReplicationJobs(ctx, &smc.DescribeReplicationJobsRequest{JobID: []string{created.JobID}})
		require.NoError(t, err)
		return jobs.ReplicationJobs[0]
	}
	require.Equal(t, parameters, show().ReplicationParameters)
	require.Equal(t, "ReplicationParameters: ignored, for they mean nothing to this center: EfficiencyLevel, my_key", show().StatusInfo)
	details, err := f.client.DescribeReplicationJobDetails(ctx, &smc.DescribeReplicationJobDetailsRequest{JobID: created.JobID})
	require.NoError(t, err)
	require.Equal(t, show().StatusInfo, details.StatusInfo)
	_, err = storetest.DB(t, f.database).ExecContext(ctx, `UPDATE replication_jobs SET status_info = 'a disk failed'`)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(show().StatusInfo, "a disk failed; ReplicationParameters: ignored"), "what happened comes first")

	many := `{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1}`
	_, err = f.client.ModifyReplicationJobAttribute(ctx, &smc.ModifyReplicationJobAttributeRequest{JobID: created.JobID, ReplicationParameters: &many})
	require.NoError(t, err)
	require.Contains(t, show().StatusInfo, "a, b, c, d, e and 2 more")
	_, err = f.client.ModifyReplicationJobAttribute(ctx, &smc.ModifyReplicationJobAttributeRequest{JobID: created.JobID, ReplicationParameters: pointer("{}")})
	require.NoError(t, err)
	require.Equal(t, "a disk failed", show().StatusInfo)
}

func TestFilters(t *testing.T) {
	f := newFixture(t, quiet)
	ctx := t.Context()
	ids := f.fleet(3)
	group := f.group("wave", ids[0])
	require.NoError(t, f.tag("sourceserver", ids[:2], smc.TagParameter{Key: pointer("dc"), Value: pointer("1")}))
	require.NoError(t, f.tag("sourceserver", ids[1:], smc.TagParameter{Key: pointer("team"), Value: pointer("a")}))
	var jobs []string
	for i, id := range ids {
		created, err := f.client.CreateReplicationJob(ctx, &smc.CreateReplicationJobRequest{
			SourceID: id, Name: pointer(fmt.Sprintf("job-%d", i)), InstanceID: pointer(fmt.Sprintf("i-%d", i)), ResourceGroupID: pointer([]string{"rg-1", "rg-1", "rg-2"}[i]),
			Tag: []smc.TagParameter{{Key: pointer("n"), Value: pointer(fmt.Sprint(i))}},
		})
		require.NoError(t, err)
		jobs = append(jobs, created.JobID)
	}
	_, err := f.client.StartReplicationJob(ctx, &smc.StartReplicationJobRequest{JobID: jobs[0]})
	require.NoError(t, err)

	for name, test := range map[string]struct {
		filter smc.DescribeSourceServersRequest
		want   []int
	}{
		"all":                {smc.DescribeSourceServersRequest{}, []int{0, 1, 2}},
		"workgroup":          {smc.DescribeSourceServersRequest{WorkgroupID: &group}, []int{0}},
		"tag key":            {smc.DescribeSourceServersRequest{Tag: []smc.TagFilter{{Key: pointer("dc")}}}, []int{0, 1}},
		"all tags":           {smc.DescribeSourceServersRequest{Tag: []smc.TagFilter{{Key: pointer("dc")}, {Key: pointer("team"), Value: pointer("a")}}}, []int{1}},
		"another value":      {smc.DescribeSourceServersRequest{Tag: []smc.TagFilter{{Key: pointer("dc"), Value: pointer("2")}}}, nil},
		"job":                {smc.DescribeSourceServersRequest{JobID: &jobs[2]}, []int{2}},
		"state":              {smc.DescribeSourceServersRequest{State: pointer("InUse")}, []int{0}},
		"name and state":     {smc.DescribeSourceServersRequest{Name: pointer("web-1"), State: pointer("Available")}, []int{1}},
		"filters are and-ed": {smc.DescribeSourceServersRequest{Name: pointer("web-1"), State: pointer("InUse")}, nil},
		"resource group":     {smc.DescribeSourceServersRequest{ResourceGroupID: pointer("rg-1")}, nil},
		"job type 0":         {smc.DescribeSourceServersRequest{RelatedJobType: []string{"0", "1"}}, []int{0, 1, 2}},
		"job type 1":         {smc.DescribeSourceServersRequest{RelatedJobType: []string{"1"}}, nil},
	} {
		sources, err := f.client.DescribeSourceServers(ctx, &test.filter)
		require.NoError(t, err, name)
		var got, want []string
		for _, source := range sources.SourceServers {
			got = append(got, source.SourceID)
		}
		for _, i := range test.want {
			want = append(want, ids[i])
		}
		require.ElementsMatch(t, want, got, name)
		require.Equal(t, len(want), sources.TotalCount, name)
	}
	for name, test := range map[string]struct {
		filter smc.DescribeReplicationJobsRequest
		want   []int
	}{
		"resource group":         {smc.DescribeReplicationJobsRequest{ResourceGroupID: pointer("rg-1")}, []int{0, 1}},
		"instances":              {smc.DescribeReplicationJobsRequest{InstanceID: []string{"i-0", "i-2", "i-9"}}, []int{0, 2}},
		"tag":                    {smc.DescribeReplicationJobsRequest{Tag: []smc.TagFilter{{Key: pointer("n"), Value: pointer("1")}}}, []int{1}},
		"tag key":                {smc.DescribeReplicationJobsRequest{Tag: []smc.TagFilter{{Key: pointer("n")}}}, []int{0, 1, 2}},
		"sources":                {smc.DescribeReplicationJobsRequest{SourceID: ids[1:]}, []int{1, 2}},
		"phase":                  {smc.DescribeReplicationJobsRequest{BusinessStatus: pointer("Preparing")}, []int{0}},
		"status":                 {smc.DescribeReplicationJobsRequest{Status: pointer("Ready")}, []int{1, 2}},
		"status and group":       {smc.DescribeReplicationJobsRequest{Status: pointer("Ready"), ResourceGroupID: pointer("rg-1")}, []int{1}},
		"job type of the vendor": {smc.DescribeReplicationJobsRequest{JobType: pointer(1)}, nil},
		"another region":         {smc.DescribeReplicationJobsRequest{RegionID: pointer("cn-other")}, nil},
	} {
		found, err := f.client.DescribeReplicationJobs(ctx, &test.filter)
		require.NoError(t, err, name)
		var got, want []string
		for _, job := range found.ReplicationJobs {
			got = append(got, job.JobID)
		}
		for _, i := range test.want {
			want = append(want, jobs[i])
		}
		require.ElementsMatch(t, want, got, name)
		require.Equal(t, len(want), found.TotalCount, name)
	}
	_, err = f.client.ModifyReplicationJobAttribute(ctx, &smc.ModifyReplicationJobAttributeRequest{JobID: jobs[1], InstanceID: pointer("i-changed")})
	require.NoError(t, err)
	found, err := f.client.DescribeReplicationJobs(ctx, &smc.DescribeReplicationJobsRequest{InstanceID: []string{"i-1", "i-changed"}})
	require.NoError(t, err)
	require.Equal(t, 1, found.TotalCount, "a changed target is found by its new id")

	// Limits of lists and pages.
	over := slices.Repeat([]string{"x"}, 51)
	_, err = f.client.DescribeReplicationJobs(ctx, &smc.DescribeReplicationJobsRequest{JobID: over})
	f.requireCode(smc.CodeInvalidParameter, err)
	_, err = f.client.DescribeReplicationJobs(ctx, &smc.DescribeReplicationJobsRequest{SourceID: over})
	f.requireCode(smc.CodeInvalidParameter, err)
	for _, values := range []url.Values{{"PageSize": {"51"}}, {"PageSize": {"0"}}, {"PageNumber": {"0"}}, {"PageNumber": {"x"}}} {
		f.requireCode(smc.CodeInvalidParameter, f.client.Call(ctx, "DescribeReplicationJobs", values, nil))
	}
	var pages []string
	for number := range 3 {
		page, err := f.client.DescribeReplicationJobs(ctx, &smc.DescribeReplicationJobsRequest{PageNumber: pointer(number + 1), PageSize: pointer(2)})
		require.NoError(t, err)
		require.Equal(t, 3, page.TotalCount)
		for _, job := range page.ReplicationJobs {
			pages = append(pages, job.JobID)
		}
	}
	require.ElementsMatch(t, jobs, pages, "the pages are the listing, nothing twice")
}

// A source whose newest job is deleted shows the one before.
func TestNewestJobOfASource(t *testing.T) {
	f := newFixture(t, quiet)
	ctx := t.Context()
	id := f.fleet(1)[0]
	db := storetest.DB(t, f.database)
	first := f.create(id)
	setJob(ctx, t, db, first, smc.StatusFinished, "")
	second := f.create(id)
	jobOf := func() string {
		source, err := f.store.Source(ctx, account, id)
		require.NoError(t, err)
		return source.JobID
	}
	require.Equal(t, second, jobOf())
	for _, job := range []string{first, second} {
		sources, err := f.client.DescribeSourceServers(ctx, &smc.DescribeSourceServersRequest{JobID: &job})
		require.NoError(t, err)
		require.Len(t, sources.SourceServers, 1, "each of its jobs finds it")
		require.Equal(t, second, sources.SourceServers[0].JobID)
		others, err := f.as("ak-other", secret).DescribeSourceServers(ctx, &smc.DescribeSourceServersRequest{JobID: &job})
		require.NoError(t, err)
		require.Empty(t, others.SourceServers)
	}
	for _, job := range []string{second, first} {
		require.Equal(t, job, jobOf())
		_, err := f.client.DeleteReplicationJob(ctx, &smc.DeleteReplicationJobRequest{JobID: job})
		require.NoError(t, err)
		require.NoError(t, f.store.EndDelete(ctx, job, "gone"))
	}
	require.Empty(t, jobOf())
}

// A job whose staging no host can take, or whose host is away, is not started; the answer says which host it is.
func TestStartWithoutATransitionHost(t *testing.T) {
	f := newFixture(t, quiet)
	ctx := t.Context()
	db := storetest.DB(t, f.database)
	ids := f.fleet(2)
	created, err := f.client.CreateReplicationJob(ctx, &smc.CreateReplicationJobRequest{
		SourceID: ids[0], RunOnce: pointer(false), Frequency: pointer(24), MaxNumberOfImageToKeep: pointer(2),
	})
	require.NoError(t, err)
	begun := created.JobID
	_, err = f.client.StartReplicationJob(ctx, &smc.StartReplicationJobRequest{JobID: begun})
	require.NoError(t, err)
	setJob(ctx, t, db, begun, smc.StatusWaiting, "")
	fresh := f.create(ids[1])
	_, err = db.ExecContext(ctx, `UPDATE hosts SET heartbeat_at = 0`)
	require.NoError(t, err)
	_, err = f.client.StartReplicationJob(ctx, &smc.StartReplicationJobRequest{JobID: fresh})
	f.requireCode(smc.CodeTransitionHostUnavailable, err)
	_, err = f.client.RunReplicationJob(ctx, &smc.RunReplicationJobRequest{JobID: begun})
	require.Contains(t, f.requireCode(smc.CodeTransitionHostUnavailable, err).Message, hostID)
	_, err = f.client.CutOverReplicationJob(ctx, &smc.CutOverReplicationJobRequest{JobID: begun, SyncData: pointer(true)})
	require.Contains(t, f.requireCode(smc.CodeTransitionHostUnavailable, err).Message, hostID)
	require.NoError(t, f.store.HostHeartbeat(ctx, hostID, hostURL))
	_, err = f.client.CutOverReplicationJob(ctx, &smc.CutOverReplicationJobRequest{JobID: begun, SyncData: pointer(true)})
	require.NoError(t, err, "what was refused left no trace")
}
