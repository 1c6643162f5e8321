package main

import (
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/drover/drover/smc"
)

func TestSourceModify(t *testing.T) {
	e := newEndpoint(t)
	e.sources = []smc.SourceServer{{SourceID: "s-1", Name: "web-1", Description: "old"}}
	e.handlers["ModifySourceServerAttribute"] = func(form url.Values) (smc.Result, error) {
		if form.Has("Name") {
			e.sources[0].Name = form.Get("Name")
		}
		if form.Has("Description") {
			e.sources[0].Description = form.Get("Description")
		}
		return &smc.ModifySourceServerAttributeResult{}, nil
	}
	o := e.drover(t, "source", "modify", "web-1", "--name", "web-2")
	require.Equal(t, exitOK, o.code, o.stderr)
	require.Equal(t, "source server s-1 (web-2) modified\n", o.stdout)
	call := e.called("ModifySourceServerAttribute")[0]
	require.Equal(t, "s-1", call.Get("SourceId"))
	require.False(t, call.Has("Description"), "what is not given is not sent")

	source := parse[map[string]any](t, e.drover(t, "source", "modify", "s-1", "--description", "", "-o", "json"))
	require.Equal(t, "web-2", source["Name"])
	require.Empty(t, source["Description"])
	call = e.called("ModifySourceServerAttribute")[1]
	require.True(t, call.Has("Description"), "empty is not absent")
	require.False(t, call.Has("Name"))

	o = e.drover(t, "source", "modify", "web-2", "-o", "json")
	require.Equal(t, exitUsage, o.code)
	require.Contains(t, o.stderr, "--name or --description")
	require.Equal(t, exitFailed, e.drover(t, "source", "modify", "nope", "--name", "web-3").code)
	require.Len(t, e.called("ModifySourceServerAttribute"), 2)
}

func TestSourceDelete(t *testing.T) {
	e := newEndpoint(t)
	e.sources = []smc.SourceServer{{SourceID: "s-2", Name: "web-2"}, {SourceID: "s-1", Name: "web-1", State: smc.SourceDeleting}}
	e.handlers["DeleteSourceServer"] = func(form url.Values) (smc.Result, error) {
		if form.Get("SourceId") == "s-1" && form.Get("Force") != "true" {
			return nil, smc.Errorf(smc.CodeReplicationJobRelated, "source server s-1 has the job j-1")
		}
		if form.Get("SourceId") == "s-2" {
			e.sources = e.sources[1:]
		}
		return &smc.DeleteSourceServerResult{}, nil
	}
	o := e.drover(t, "source", "delete", "web-2")
	require.Equal(t, exitOK, o.code, o.stderr)
	require.Equal(t, "source server s-2 (web-2) deleted\n", o.stdout)
	require.False(t, e.called("DeleteSourceServer")[0].Has("Force"))

	o = e.drover(t, "source", "delete", "web-1")
	require.Equal(t, exitFailed, o.code)
	require.Contains(t, o.stderr, "ReplicationJob.Related")
	require.Equal(t, "source server s-1 (web-1) is Deleting\n", e.drover(t, "source", "delete", "web-1", "--force").stdout)
	require.Equal(t, map[string]any{"SourceId": "s-1"}, parse[map[string]any](t, e.drover(t, "source", "delete", "s-1", "--force", "-o", "json")))
}
