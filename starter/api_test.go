package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/smc"
)

func TestAPISendsParametersAsTheyAre(t *testing.T) {
	e := newEndpoint(t)
	e.handlers["CreateReplicationJob"] = func(url.Values) (smc.Result, error) {
		return &smc.CreateReplicationJobResult{JobID: "j-0123456789"}, nil
	}
	o := e.drover(t, "api", "CreateReplicationJob", "--SourceId", "s-1", "--DataDisk.1.Size", "40", "--DataDisk.1.Index=1", "--ValidTime=",
		"--ImageName", "", "--ReplicationParameters", `{"a":"b=c"}`, "--Name=a=b", "--Frequency", "-5", "--Description", "--lower")
	require.Equal(t, exitOK, o.code, o.stderr)
	var answer map[string]any
	require.NoError(t, json.Unmarshal([]byte(o.stdout), &answer))
	assert.Equal(t, map[string]any{"JobId": "j-0123456789", "RequestId": "REQUEST-1"}, answer)
	sent := e.called("CreateReplicationJob")[0]
	want := map[string]string{
		"SourceId": "s-1", "DataDisk.1.Size": "40", "DataDisk.1.Index": "1", "ValidTime": "", "ImageName": "", "ReplicationParameters": `{"a":"b=c"}`,
		"Name": "a=b", "Frequency": "-5", "Description": "--lower",
	}
	for name, value := range want {
		assert.True(t, sent.Has(name), name)
		assert.Equal(t, value, sent.Get(name), name)
	}
	for name := range sent {
		_, given := want[name]
		common := name == "Action" || name == "Version" || name == "Format" || name == "AccessKeyId" || name == "Timestamp" || strings.HasPrefix(name, "Signature")
		assert.True(t, given || common, "%s was not asked for", name)
	}
}

func TestAPIFlagsStandAnywhere(t *testing.T) {
	e := newEndpoint(t)
	for _, args := range []string{
		"--verbose api DescribeSourceServers -o table --Name web-1", "api -o json --Name web-1 --verbose DescribeSourceServers",
		"api --Name web-1 DescribeSourceServers --verbose",
	} {
		o := e.drover(t, strings.Fields(args)...)
		require.Equal(t, exitOK, o.code, o.stderr)
		assert.Contains(t, o.stdout, `"SourceServers": {`, args)
		assert.Contains(t, o.stderr, `"action": "DescribeSourceServers"`, args)
	}
	for _, call := range e.called("DescribeSourceServers") {
		assert.Equal(t, "web-1", call.Get("Name"))
	}
	assert.Len(t, e.calls, 3)
}

func TestAPIUnknownActionsAreSent(t *testing.T) {
	const answered = `{"RequestId":"R","Big":12345678901234567890,"Zones":["<a>"],"Apex":null}`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, "ListMoons", r.FormValue("Action"))
		assert.Equal(t, "7", r.FormValue("Planet.2.Mass"))
		_, _ = w.Write([]byte(answered))
	}))
	defer server.Close()
	env := newEndpoint(t).env()
	env["DROVER_ENDPOINT"] = server.URL
	o := droverWith(t, env, "api", "ListMoons", "--Planet.2.Mass", "7")
	require.Equal(t, exitOK, o.code, o.stderr)
	assert.Equal(t, answered, strings.NewReplacer(" ", "", "\n", "").Replace(o.stdout), "the answer as it is: order, numbers, signs") //nolint:testifylint // byte for byte

	e := newEndpoint(t)
	o = e.drover(t, "api", "MoveMoon")
	assert.Equal(t, exitFailed, o.code)
	assert.Contains(t, o.stderr, "InvalidAction.NotFound")
	assert.Contains(t, o.stderr, "RequestId REQUEST-1")
	assert.Empty(t, o.stdout)
}

func TestAPIList(t *testing.T) {
	o := droverWith(t, nil, "api", "--list")
	require.Equal(t, exitOK, o.code, o.stderr)
	for _, op := range smc.Operations() {
		assert.Regexp(t, `(?m)^`+op.Name()+`( \(an extension of Drover's center\))?$`, o.stdout)
		for _, p := range op.Parameters() {
			assert.Contains(t, o.stdout, "  --"+p.Name+" ")
		}
	}
	one := droverWith(t, nil, "api", "--list", "StartReplicationJob").stdout
	assert.Regexp(t, `^StartReplicationJob\n  PARAMETER .*\n  --JobId +String +yes +- .*\n$`, one)

	operations := parse[[]map[string]any](t, droverWith(t, nil, "api", "ModifyReplicationJobAttribute", "--list", "-o", "json"))
	require.Len(t, operations, 1)
	assert.Equal(t, "ModifyReplicationJobAttribute", operations[0]["Name"])
	assert.Len(t, operations[0]["Parameters"], len(smc.ModifyReplicationJobAttribute.Parameters()))
	assert.Equal(t, "JobId", operations[0]["Parameters"].([]any)[0].(map[string]any)["Name"])
}

func TestAPIUsage(t *testing.T) {
	e := newEndpoint(t)
	for _, test := range []struct{ args, want string }{
		{"api", "ACTION is missing"},
		{"api A B", `unexpected argument "B"`},
		{"api A --Name", "--Name needs a value"},
		{"api A --Force --SourceId s-1", "--Force needs a value"},
		{"api A --Name a --Name b", "given twice"},
		{"api A --Format XML", "--Format cannot be given"},
		{"api A --name x", "unknown flag: --name"},
		{"api A -o xml", "must be table or json"},
		{"api --list Nope", `no operation "Nope"`},
		{"api --list A B", `unexpected argument "B"`},
		{"api --list StartReplicationJob --JobId x", "exclude each other"},
	} {
		o := e.drover(t, strings.Fields(test.args)...)
		assert.Equal(t, exitUsage, o.code, test.args)
		assert.Contains(t, o.stderr, test.want, test.args)
		assert.Contains(t, o.stderr, "Usage:", test.args)
		assert.Empty(t, o.stdout, test.args)
	}
	assert.Empty(t, e.calls)
}
