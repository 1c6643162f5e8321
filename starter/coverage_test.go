package main

import (
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/smc"
)

// onlyRaw are parameters that no command has a flag for, with the reason; "drover api" sends them.
var onlyRaw = map[string]string{
	"CreateReplicationJob Disks.": "a self-hosted center refuses it, and DataDisk and SystemDiskPart say the same",
	"CreateCrossZoneMigrationJob": "of the vendor's cloud only",
	"DescribeImages ImageId":      "images are found one at a time",
}

// Every operation has its command, and every parameter a flag: commands with all their flags send all there is.
func TestCommandsSendEveryParameter(t *testing.T) {
	policy := filepath.Join(t.TempDir(), "policy.json")
	require.NoError(t, os.WriteFile(policy, []byte(`{"Version":"1","Statement":[]}`), 0o600))
	e := newEndpoint(t)
	e.sources = []smc.SourceServer{{SourceID: "s-1", Name: "web-1"}}
	e.jobs = []smc.ReplicationJob{{JobID: "j-1", Name: "web-1", Status: smc.StatusFinished}}
	e.images = []smc.Image{{ImageID: "m-1", ImageName: "web-1"}}
	e.targets = []smc.Instance{{InstanceID: "i-1", Name: "rack-7"}}
	result := func(r smc.Result) {
		e.handlers[strings.TrimSuffix(reflect.TypeOf(r).Elem().Name(), "Result")] = func(url.Values) (smc.Result, error) { return r, nil }
	}
	result(&smc.CreateReplicationJobResult{JobID: "j-1"})
	result(&smc.DescribeReplicationJobDetailsResult{JobID: "j-1", Status: smc.StatusFinished})
	result(&smc.DescribeWorkgroupsResult{Page: smc.Page{TotalCount: 1}, Workgroups: smc.List[smc.Workgroup]{{WorkgroupID: "w-1", Name: "wave"}}})
	result(&smc.CreateWorkgroupResult{WorkgroupID: "w-1"})
	result(&smc.ListAccessTokensResult{Page: smc.Page{TotalCount: 1}, AccessTokens: smc.List[smc.AccessToken]{{AccessTokenID: "at-1", Name: "dc"}}})
	next := "more"
	e.handlers["ListTagResources"] = func(url.Values) (smc.Result, error) { // two pages
		token := next
		next = ""
		return &smc.ListTagResourcesResult{NextToken: token}, nil
	}

	target := []string{
		"--target-type", "Image", "--instance-id", "i-1", "--instance-type", "large", "--instance-ram-role", "role", "--launch-template-id", "lt", "--launch-template-version", "1",
		"--container-namespace", "ns", "--container-repository", "repo", "--container-tag", "tag", "--net-mode", "2", "--vswitch-id", "vsw", "--vpc-id", "vpc",
	}
	job := []string{
		"--name", "name", "--description", "text", "--image-name", "image", "--system-disk-size", "40", "--data-disk", "1=40", "--part", "0_0=1,block=false",
		"--part", "1_0=1,block=false", "--frequency", "1", "--max-images", "1", "--replication-parameters", "{}", "--schedule", "+1h", "--valid-time", "never",
	}
	for _, command := range [][]string{
		{"source", "list", "--state", "Available", "--name", "n", "--job", "j-1", "--workgroup", "wave", "--tag", "a=b", "--resource-group-id", "rg", "--related-job-type", "0"},
		{"source", "show", "s-1"},
		{"source", "modify", "web-1", "--name", "web-2", "--description", "text"},
		{"source", "delete", "web-1", "--force"},
		append(append([]string{
			"job", "create", "--source", "web-1", "--run-once=false", "--tag", "a=b", "--license-type", "BYOL", "--resource-group-id", "rg", "--job-type", "0", "--client-token", "token",
		}, job...), target...),
		append(append([]string{"job", "modify", "web-1"}, job...), target...),
		{"job", "list", "--status", "Running", "--phase", "Syncing", "--source", "s-1", "--name", "n", "--tag", "a=b", "--region", "r", "--instance-id", "i-1", "--resource-group-id", "rg", "--job-type", "0"},
		{"job", "show", "j-1"},
		{"job", "watch", "j-1"},
		{"job", "start", "web-1"},
		{"job", "stop", "web-1"},
		{"job", "run", "web-1"},
		{"job", "cutover", "web-1", "--sync-data"},
		{"job", "delete", "web-1"},
		{"tag", "add", "a=b", "--source", "s-1"},
		{"tag", "list", "a=b", "--job", "j-1"},
		{"tag", "remove", "a", "--source", "s-1"},
		{"tag", "remove", "--all", "--source", "s-1"},
		{"token", "create", "--name", "dc", "--description", "text", "--count", "1", "--ttl-days", "1"},
		{"token", "list", "--status", "activated", "--name", "dc"},
		{"token", "disable", "at-1"},
		{"token", "delete", "dc"},
		{"workgroup", "create", "--name", "wave", "--description", "text", "--tag", "a=b", "--client-token", "token"},
		{"workgroup", "list", "--status", "Completed", "--name", "wave", "--tag", "a=b"},
		{"workgroup", "show", "w-1"},
		{"workgroup", "modify", "w-1", "--name", "wave-2", "--description", "text"},
		{"workgroup", "add", "wave", "web-1"},
		{"workgroup", "remove", "wave", "web-1"},
		{"workgroup", "delete", "wave"},
		{"target", "list", "--state", "Available", "--name", "rack-7"},
		{"target", "show", "i-1"},
		{"target", "delete", "i-1"},
		{"image", "list", "--job", "j-1", "--name", "web-1"},
		{"image", "delete", "m-1"},
		{"image", "verify", "m-1"}, // there is no host: it gets as far as its ticket
		{"key", "create", "--policy", policy, "--description", "text"},
		{"key", "list"},
		{"key", "disable", "ak-1"},
		{"audit", "list", "--key", "ak-1", "--operation", "DeleteSourceServer", "--outcome", "OK", "--changes", "--since", "2026-01-01T00:00:00Z", "--until", "2026-01-02T00:00:00Z"},
	} {
		o := e.drover(t, command...)
		if command[1] != "verify" {
			require.Equal(t, exitOK, o.code, "%v: %s", command, o.stderr)
		}
	}

	sent := map[string]bool{}
	index := regexp.MustCompile(`\.[0-9]+`)
	for _, call := range e.calls {
		sent[call.Get("Action")] = true
		for name := range call {
			sent[call.Get("Action")+" "+index.ReplaceAllString(name, ".N")] = true
		}
	}
	for _, op := range smc.Operations() {
		if _, raw := onlyRaw[op.Name()]; raw {
			continue
		}
		assert.True(t, sent[op.Name()], "%s has no command", op.Name())
		for _, p := range op.Parameters() {
			if !sent[op.Name()+" "+p.Name] && !isOnlyRaw(op.Name()+" "+p.Name) {
				t.Errorf("no flag for %s of %s", p.Name, op.Name())
			}
		}
	}
}

func isOnlyRaw(parameter string) bool {
	for prefix := range onlyRaw {
		if strings.HasPrefix(parameter, prefix) {
			return true
		}
	}
	return false
}
