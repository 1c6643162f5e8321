package main

import (
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/smc"
)

func TestWorkgroups(t *testing.T) {
	e := newEndpoint(t)
	e.sources = []smc.SourceServer{{SourceID: "s-1", Name: "web-1", State: smc.SourceAvailable}, {SourceID: "s-2", Name: "web-2"}}
	groups := []smc.Workgroup{{
		WorkgroupID: "w-1", Name: "wave-1", Description: "the shop", Status: smc.WorkgroupInProgress, Tags: smc.List[smc.Tag]{{Key: "team", Value: "web"}},
		Warnings: smc.List[smc.Warning]{{WarningType: smc.WarningUnRelated, SourceIDs: smc.List[smc.SourceRef]{"s-1"}}},
	}}
	e.handlers["DescribeWorkgroups"] = func(form url.Values) (smc.Result, error) {
		items, p := pageOf(groups, form, func(w smc.Workgroup) (string, string) { return w.WorkgroupID, w.Name }, "WorkgroupId")
		return &smc.DescribeWorkgroupsResult{Page: p, Workgroups: items}, nil
	}
	e.handlers["CreateWorkgroup"] = func(form url.Values) (smc.Result, error) {
		groups = append(groups, smc.Workgroup{WorkgroupID: "w-2", Name: form.Get("Name"), Status: smc.WorkgroupNotStarted})
		return &smc.CreateWorkgroupResult{WorkgroupID: "w-2"}, nil
	}

	o := e.drover(t, "workgroup", "create", "--name", "wave-2", "--description", "rest", "--tag", "a=b", "--tag", "c")
	require.Equal(t, exitOK, o.code, o.stderr)
	assert.Equal(t, "workgroup w-2 (wave-2) created: NotStarted\n", o.stdout)
	sent := e.called("CreateWorkgroup")[0]
	assert.Equal(t, "wave-2 rest a b c", strings.Join([]string{sent.Get("Name"), sent.Get("Description"), sent.Get("Tag.1.Key"), sent.Get("Tag.1.Value"), sent.Get("Tag.2.Key")}, " "))
	assert.NotEmpty(t, sent.Get("ClientToken"), "made once however often it is sent")

	o = e.drover(t, "workgroup", "list", "--status", "InProgress")
	assert.Regexp(t, `(?m)^w-1 +wave-1 +InProgress +UnRelated \(1\) +the shop$`, o.stdout)
	assert.Equal(t, "InProgress", e.called("DescribeWorkgroups")[1].Get("Status"))
	list := parse[[]map[string]any](t, e.drover(t, "workgroup", "list", "-o", "json"))
	assert.Equal(t, "w-1", list[0]["WorkgroupId"])

	o = e.drover(t, "workgroup", "show", "wave-1")
	for _, want := range []string{`Workgroup id: +w-1\n`, `Status: +InProgress\n`, `Tag: +team=web\n`, `(?m)^s-1 +web-1 +Available +- +UnRelated$`} {
		assert.Regexp(t, want, o.stdout)
	}
	assert.Equal(t, "w-1", e.called("DescribeSourceServers")[0].Get("WorkgroupId"))
	shown := parse[map[string]any](t, e.drover(t, "workgroup", "show", "w-1", "-o", "json"))
	assert.Equal(t, []string{"Description", "Name", "SourceServers", "Status", "Tags", "Warnings", "WorkgroupId"}, slices.Sorted(maps.Keys(shown)))

	assert.Equal(t, "workgroup w-1 (wave-1) modified: InProgress\n", e.drover(t, "workgroup", "modify", "wave-1", "--name", "wave-one").stdout)
	sent = e.called("ModifyWorkgroupAttribute")[0]
	assert.Equal(t, "w-1 wave-one", sent.Get("WorkgroupId")+" "+sent.Get("Name"))
	assert.False(t, sent.Has("Description"))

	for verb, action := range map[string]string{"add": "AssociateSourceServers", "remove": "DisassociateSourceServers"} {
		o = e.drover(t, "workgroup", verb, "wave-1", "web-1", "s-2")
		require.Equal(t, exitOK, o.code, o.stderr)
		assert.Regexp(t, `^source server s-1 \(web-1\) (added to|removed from) workgroup w-1 \(wave-1\)\nsource server s-2 `, o.stdout)
		sent = e.called(action)[0]
		assert.Equal(t, "w-1 s-1 s-2", sent.Get("WorkgroupId")+" "+sent.Get("SourceId.1")+" "+sent.Get("SourceId.2"))
		assert.Equal(t, "w-1", parse[map[string]any](t, e.drover(t, "workgroup", verb, "w-1", "web-1", "-o", "json"))["WorkgroupId"])
	}

	assert.Equal(t, "workgroup w-1 (wave-1) deleted\n", e.drover(t, "workgroup", "delete", "wave-1").stdout)
	assert.Equal(t, map[string]any{"WorkgroupId": "w-2"}, parse[map[string]any](t, e.drover(t, "workgroup", "delete", "w-2", "-o", "json")))
	for args, want := range map[string]string{
		"workgroup create":        "--name NAME is missing",
		"workgroup modify wave-1": "nothing to change",
		"workgroup add wave-1":    "SOURCE is missing",
		"workgroup remove":        "WORKGROUP is missing",
	} {
		o = e.drover(t, strings.Fields(args)...)
		assert.Equal(t, exitUsage, o.code, args)
		assert.Contains(t, o.stderr, want, args)
	}
	o = e.drover(t, "workgroup", "show", "nope")
	assert.Equal(t, exitFailed, o.code)
	assert.Contains(t, o.stderr, "InvalidWorkgroupId.NotFound")
}
