package main

import (
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/smc"
)

// tagEndpoint has two source servers and a job of one name, and tags in pages of one.
func tagEndpoint(t *testing.T) *endpoint {
	t.Helper()
	e := newEndpoint(t)
	e.sources = []smc.SourceServer{{SourceID: "s-1", Name: "web-1"}, {SourceID: "s-2", Name: "web-2"}}
	e.jobs = []smc.ReplicationJob{{JobID: "j-0123456789", Name: "web-1"}}
	kept := map[string][]smc.TagResource{
		"sourceserver": {
			{ResourceID: "s-1", ResourceType: "ALIYUN::SMC::SOURCESERVER", TagKey: "env", TagValue: "prod"},
			{ResourceID: "s-2", ResourceType: "ALIYUN::SMC::SOURCESERVER", TagKey: "spare"},
		},
		"replicationjob": {{ResourceID: "j-0123456789", ResourceType: "ALIYUN::SMC::REPLICATIONJOB", TagKey: "wave", TagValue: "1"}},
	}
	e.handlers["ListTagResources"] = func(form url.Values) (smc.Result, error) {
		tags := kept[form.Get("ResourceType")]
		if next := form.Get("NextToken"); next != "" {
			tags = tags[1:]
		}
		res := &smc.ListTagResourcesResult{TagResources: tags[:1]}
		if len(tags) > 1 {
			res.NextToken = "more"
		}
		return res, nil
	}
	return e
}

func TestTagAddAndRemove(t *testing.T) {
	e := tagEndpoint(t)
	o := e.drover(t, "tag", "add", "env=prod", "spare", "empty=", "--source", "web-1", "--source", "s-2")
	require.Equal(t, exitOK, o.code, o.stderr)
	assert.Equal(t, "source server s-1 (web-1) tagged env=prod, spare, empty=\nsource server s-2 (web-2) tagged env=prod, spare, empty=\n", o.stdout)
	sent := e.called("TagResources")[0]
	for name, want := range map[string]string{
		"ResourceType": "sourceserver", "ResourceId.1": "s-1", "ResourceId.2": "s-2",
		"Tag.1.Key": "env", "Tag.1.Value": "prod", "Tag.2.Key": "spare", "Tag.3.Key": "empty",
	} {
		assert.Equal(t, want, sent.Get(name), name)
	}
	assert.False(t, sent.Has("Tag.2.Value"))
	assert.True(t, sent.Has("Tag.3.Value"))

	tags := parse[[]smc.TagResource](t, e.drover(t, "tag", "add", "wave=1", "--job", "web-1", "-o", "json"))
	require.Len(t, tags, 1)
	assert.Equal(t, "wave", tags[0].TagKey)
	sent = e.called("TagResources")[1]
	assert.Equal(t, "replicationjob j-0123456789", sent.Get("ResourceType")+" "+sent.Get("ResourceId.1"))

	assert.Equal(t, "job j-0123456789 (web-1) untagged wave, env\n", e.drover(t, "tag", "remove", "wave", "env", "--job", "j-0123456789").stdout)
	sent = e.called("UntagResources")[0]
	assert.Equal(t, "wave env", sent.Get("TagKey.1")+" "+sent.Get("TagKey.2"))
	assert.False(t, sent.Has("All"), "never all by mistake")
	assert.Equal(t, "source server s-1 (web-1) has no tags any more\n", e.drover(t, "tag", "remove", "--all", "--source", "s-1").stdout)
	sent = e.called("UntagResources")[1]
	assert.Equal(t, "true", sent.Get("All"))
	assert.False(t, sent.Has("TagKey.1"))
}

func TestTagList(t *testing.T) {
	e := tagEndpoint(t)
	o := e.drover(t, "tag", "list")
	require.Equal(t, exitOK, o.code, o.stderr)
	assert.Regexp(t, `(?m)^s-1 +sourceserver +env +prod$`, o.stdout)
	assert.Regexp(t, `(?m)^s-2 +sourceserver +spare +-$`, o.stdout)
	assert.Regexp(t, `(?m)^j-0123456789 +replicationjob +wave +1$`, o.stdout)
	calls := e.called("ListTagResources")
	require.Len(t, calls, 3, "both types, every page")
	assert.False(t, calls[0].Has("ResourceId.1") || calls[0].Has("NextToken"))
	assert.Equal(t, "more", calls[1].Get("NextToken"))

	assert.Len(t, parse[[]smc.TagResource](t, e.drover(t, "tag", "list", "env=prod", "wave", "--job", "web-1", "-o", "json")), 1)
	calls = e.called("ListTagResources")
	require.Len(t, calls, 4, "one type only")
	last := calls[3]
	assert.Equal(t, "env prod wave", last.Get("Tag.1.Key")+" "+last.Get("Tag.1.Value")+" "+last.Get("Tag.2.Key"))
	assert.False(t, last.Has("Tag.2.Value"))

	e.handlers["ListTagResources"] = func(url.Values) (smc.Result, error) { return &smc.ListTagResourcesResult{NextToken: "same"}, nil }
	o = e.drover(t, "tag", "list")
	assert.Equal(t, exitFailed, o.code)
	assert.Contains(t, o.stderr, "the same page for ever")
}

func TestTagUsage(t *testing.T) {
	e := tagEndpoint(t)
	for args, want := range map[string]string{
		"tag":                               "a command is missing",
		"tag add":                           "TAG is missing",
		"tag add a=b":                       "--source SOURCE or --job JOB is missing",
		"tag add a=b --source a --job b":    "exclude each other",
		"tag add =b --source web-1":         `tag "=b" is not KEY`,
		"tag remove --source web-1":         "KEY is missing",
		"tag remove a --all --source web-1": "exclude each other",
		"tag remove a":                      "--source SOURCE or --job JOB is missing",
		"tag list --source a --job b":       "exclude each other",
		"tag list =b":                       `tag "=b" is not KEY`,
	} {
		o := e.drover(t, strings.Fields(args)...)
		assert.Equal(t, exitUsage, o.code, args)
		assert.Contains(t, o.stderr, want, args)
	}
	assert.Empty(t, e.calls)
	o := e.drover(t, "tag", "add", "a=b", "--source", "nope")
	assert.Equal(t, exitFailed, o.code)
	assert.Empty(t, e.called("TagResources"))
}
