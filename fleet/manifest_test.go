package fleet

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/smc"
)

func read(t *testing.T, text string) *Fleet {
	t.Helper()
	fleet, err := ReadManifest(strings.NewReader(text))
	require.NoError(t, err)
	return fleet
}

func TestReadManifest(t *testing.T) {
	file, err := os.Open(filepath.Join("testdata", "dc-exit.yaml"))
	require.NoError(t, err)
	defer file.Close()
	got, err := ReadManifest(file)
	require.NoError(t, err)
	once := map[string]string{"TargetType": "Image", "SystemDiskSize": "40", "RunOnce": "true"}
	want := &Fleet{
		Name: "dc-exit", PollInterval: DefaultPollInterval,
		Waves: []Wave{
			{Name: "pilot", MaxConcurrent: 1, Servers: []Server{
				{Name: "web-1", Parameters: once, Options: Options{Retry: DefaultRetry()}},
				{Name: "web-2", Parameters: map[string]string{
					"TargetType": "Image", "SystemDiskSize": "40", "RunOnce": "false", "Frequency": "12", "MaxNumberOfImageToKeep": "3",
				}, Options: Options{CutOver: &CutOver{AfterRuns: 2}, Retry: DefaultRetry()}},
			}},
			{Name: "rest", MaxConcurrent: 8, Servers: []Server{
				{Match: "db-*", Parameters: once, Options: Options{Retry: DefaultRetry()}},
			}},
		},
	}
	assert.Empty(t, cmp.Diff(want, got))

	text, err := json.Marshal(got)
	require.NoError(t, err)
	var back Fleet
	require.NoError(t, json.Unmarshal(text, &back))
	assert.Empty(t, cmp.Diff(want, &back), "a fleet is the input of a workflow: JSON must not change it")
}

// server wraps the settings of one server in a manifest; they begin in line 3.
func server(settings ...string) string {
	return "name: f\nwaves: [{name: w, servers: [{name: web-1}, {\n" + strings.Join(settings, ",\n") + "}]}]\n"
}

func TestEverySettingIsRead(t *testing.T) {
	fleet := read(t, `
name: all
pollInterval: 30s
defaults:
  dataDisk: [{index: 1, size: 100}, {index: 2, size: 200}]
  retry: {interval: 1m, maxInterval: 1h}
  window: {notBefore: 2030-01-31T22:00:00+02:00, notAfter: "2030-02-01T04:00:00Z"}
  keepJob: true
  description: of-the-fleet
waves:
  - name: one
    maxFailures: 0
    servers:
      - name: 数据库
        dataDisk:
          - index: 2
            part: [{device: 2_0, sizeBytes: 1073741824, block: False}]
        replicationParameters: {bandwidth_limit: 50000, compress_level: 3, checksum: true, more: {a: [1, null]}}
        vSwitchId: vsw-1
        netMode: 2
        containerTag: 1.10
        retry: {limit: 0}
        keepJob:
        description: ~
        tag: [{key: team, value: "7"}]
      - name: 12
        window: null
        retry: null
        validTime: ""
        scheduledStartTime: `+smc.FormatTime(time.Now().Add(time.Hour))+`
        replicationParameters: '{"checksum":false}'
`)
	assert.Equal(t, 30*time.Second, fleet.PollInterval)
	assert.Zero(t, *fleet.Waves[0].MaxFailures)
	assert.Zero(t, fleet.Waves[0].MaxConcurrent)

	db := fleet.Waves[0].Servers[0]
	assert.Equal(t, map[string]string{
		"DataDisk.1.Index": "2", "DataDisk.1.Part.1.Device": "2_0", "DataDisk.1.Part.1.SizeBytes": "1073741824", "DataDisk.1.Part.1.Block": "false",
		"ReplicationParameters": `{"bandwidth_limit":50000,"checksum":true,"compress_level":3,"more":{"a":[1,null]}}`,
		"VSwitchId":             "vsw-1", "NetMode": "2", "ContainerTag": "1.10", "Tag.1.Key": "team", "Tag.1.Value": "7",
	}, db.Parameters, "a list replaces the default as a whole; a key without a value takes its default back")
	assert.Equal(t, Retry{Limit: 0, Interval: time.Minute, MaxInterval: time.Hour}, db.Retry, "settings of retry are taken one by one")
	assert.False(t, db.KeepJob)
	assert.Equal(t, &Window{
		NotBefore: time.Date(2030, 1, 31, 20, 0, 0, 0, time.UTC), NotAfter: time.Date(2030, 2, 1, 4, 0, 0, 0, time.UTC),
	}, db.Window)

	twelve := fleet.Waves[0].Servers[1]
	assert.Equal(t, "12", twelve.Name)
	assert.Equal(t, "200", twelve.Parameters["DataDisk.2.Size"])
	assert.Equal(t, `{"checksum":false}`, twelve.Parameters["ReplicationParameters"])
	assert.Nil(t, twelve.Window)
	assert.Equal(t, DefaultRetry(), twelve.Retry)
	assert.True(t, twelve.KeepJob)
	validTime, ok := twelve.Parameters["ValidTime"]
	assert.True(t, ok, "an empty ValidTime is not the same as none: the job never expires")
	assert.Empty(t, validTime)
	assert.Equal(t, "of-the-fleet", twelve.Parameters["Description"])

	request, err := db.Request("region-1", "s-1")
	require.NoError(t, err)
	assert.Equal(t, "region-1", request.RegionID)
	assert.Equal(t, "s-1", request.SourceID)
	assert.Equal(t, 2, *request.DataDisk[0].Index)
	assert.False(t, *request.DataDisk[0].Part[0].Block)
}

func TestAliasesAndMergeKeys(t *testing.T) {
	fleet := read(t, `
name: f
defaults: &all {systemDiskSize: 40}
waves:
  - name: w
    servers:
      - &first {name: a, <<: *all, description: first}
      - {<<: *first, name: b}
      - {<<: [{imageName: img}, *first], name: c, description: third}
`)
	var got []string
	for _, s := range fleet.Waves[0].Servers {
		got = append(got, fmt.Sprint(s.Name, s.Parameters))
	}
	assert.Equal(t, []string{
		"amap[Description:first SystemDiskSize:40]",
		"bmap[Description:first SystemDiskSize:40]",
		"cmap[Description:third ImageName:img SystemDiskSize:40]",
	}, got)
}

// nested is aliases that stand for far more than they are: 10 to the power of n.
func nested(n int) string {
	var b strings.Builder
	b.WriteString("a0: &a0 x\n")
	for i := range n {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i), 10), ","))
	}
	return b.String()
}

func TestMistakes(t *testing.T) {
	tests := map[string]struct {
		manifest string
		want     []string // each part of one mistake, in order; there are no others
	}{
		"empty":              {"", []string{"the manifest is empty"}},
		"only a comment":     {"# nothing\n", []string{"the manifest is empty"}},
		"null":               {"---\n~\n", []string{"the manifest is empty"}},
		"too large":          {"# " + strings.Repeat("x", MaxManifest), []string{"longer than 4194304 bytes"}},
		"not a mapping":      {"- name: f\n", []string{"line 1: the manifest must be a mapping"}},
		"a tab":              {"name: f\nwaves:\n\t- name: w\n", []string{"line 3: this is not YAML: found character that cannot start any token"}},
		"not closed":         {"name: f\nwaves: [\n", []string{"this is not YAML: did not find expected node content"}},
		"a binary":           {"name: \x00\n", []string{"this is not YAML: control characters are not allowed"}},
		"unknown alias":      {"name: *nobody\n", []string{"this is not YAML: unknown anchor 'nobody' referenced"}},
		"two documents":      {server("name: a") + "---\nname: g\n", []string{"line 4: a second document begins here"}},
		"broken second":      {server("name: a") + "---\n\t-", []string{"this is not YAML"}},
		"endless alias":      {"name: f\nwaves: &w\n  - *w\n", []string{"line 3: the alias *w contains itself"}},
		"endless mapping":    {"name: f\ndefaults: &d {dataDisk: [*d]}\nwaves: []\n", []string{"line 2: the alias *d contains itself"}},
		"endless merge":      {"name: f\ndefaults: &d\n  <<: *d\n", []string{"line 3: the alias *d contains itself"}},
		"a bomb of aliases":  {"name: f\n" + nested(30), []string{"the manifest is too large: its values, with aliases replaced, are more than"}},
		"deep":               {"name: f\nwaves: " + strings.Repeat("[", 50) + strings.Repeat("]", 50), []string{"line 2: this is nested too deep"}},
		"deeper than a yaml": {strings.Repeat("[", 20000), []string{"this is not YAML"}},

		"unknown keys": {
			"name: f\nwave: 1\ndefaults:\n  frequncy: 1\nwaves:\n- name: w\n  servrs: []\n  servers:\n  - {name: a, RunOnce: true}\n  - name: b\n    x: 1\n",
			[]string{
				`line 2: unknown key "wave" in the manifest; known are name, defaults, pollInterval, waves`,
				`line 4: unknown key "frequncy": it is neither a parameter of CreateReplicationJob, in lower camel case, nor one of name, match,`,
				`line 7: unknown key "servrs" in a wave; known are name, maxConcurrent, maxFailures, servers`,
				`line 9: unknown key "RunOnce"`, `line 11: unknown key "x"`,
			},
		},
		"unknown keys below": {
			server("name: a", "cutover: {after: 1}", "window: {from: 1}", "retry: {times: 1}", "dataDisk: [{index: 1, siz: 20}]",
				"systemDiskPart: [{sizebytes: 1}]", "disks: {system: {lvm: true, lwm: true}}"),
			[]string{
				`line 4: unknown key "after" in cutover; known are afterRuns`, "line 4: cutover has no afterRuns",
				`line 5: unknown key "from" in window; known are notBefore, notAfter`, `line 6: unknown key "times" in retry`,
				`line 7: unknown key "siz" in DataDisk.1; known are index, size, part`,
				`line 8: unknown key "sizebytes" in SystemDiskPart.1; known are device, sizeBytes, block`, `line 9: unknown key "lwm" in Disks.System`,
			},
		},
		"keys of the orchestrator": {
			server("name: a", "regionId: r", "sourceId: s-1", "clientToken: t"),
			[]string{"line 4: regionId is not set in a manifest: the region", "line 5: sourceId is", "line 6: clientToken is"},
		},
		"keys twice": {"name: f\nname: g\nwaves:\n- {name: w,\n servers: [{name: a, frequency: 1,\n frequency: 2}]}\n", []string{"line 2: name is given twice", "line 6: frequency is given twice"}},
		"keys that are no words": {
			"name: f\n? [a]\n: 1\nwaves: [{name: w, servers: [{name: a}]}]\n", []string{"line 2: a key of the manifest must be a word"},
		},
		"merges what cannot be": {server("name: a", "<<: 1"), []string{"line 4: << merges mappings"}},

		"wrong types": {
			"name: [f]\npollInterval: often\ndefaults: 1\nwaves:\n- {name: {}, maxConcurrent: two,\nmaxFailures: 1.5, servers: a}\n- w\n",
			[]string{
				"line 1: fleet name must be one value", `line 2: pollInterval: "often" is not a duration such as 30s or 5m`, "line 3: defaults must be a mapping",
				"line 5: wave name must be one value", `line 5: maxConcurrent: "two" is not a whole number of at least 1; leave it out for no limit`,
				`line 6: maxFailures: "1.5" is not a whole number of at least 0`, "line 6: servers must be a list", "line 7: a wave must be a mapping",
			},
		},
		"wrong types below": {
			server("name: [a]", "cutover: 2", "window: []", "retry: {limit: many, interval: 5}", "keepJob: maybe", "dataDisk: {index: 1}", "systemDiskSize: [40]",
				"replicationParameters: [1]", "tag: [a]", "systemDiskPart: [{device: ~}]"),
			[]string{
				"line 3: name must be one value", "line 4: cutover must be a mapping", "line 5: window must be a mapping",
				`line 6: retry.limit: "many" is not a whole number`, `line 6: retry.interval: "5" is not a duration`,
				`line 7: keepJob: "maybe" is neither true nor false`, "line 8: DataDisk must be a list", "line 9: SystemDiskSize must be one value",
				"line 10: ReplicationParameters must be one value", "line 11: Tag.1 must be a mapping", "line 12: SystemDiskPart.1.Device has no value",
			},
		},
		"no values": {
			"name:\npollInterval:\nwaves:\n- name: w\n  maxConcurrent:\n  maxFailures:\n  servers:\n",
			[]string{
				"line 1: fleet name has no value", "line 2: pollInterval has no value", "line 5: maxConcurrent has no value", "line 6: maxFailures has no value",
				"line 7: servers must be a list",
			},
		},
		"nothing there":        {"waves:\n", []string{"line 1: the fleet has no name", "line 1: waves must be a list"}},
		"no waves":             {"name: f\n", []string{"line 1: the fleet has no waves"}},
		"empty lists":          {"name: f\nwaves: []\n", []string{"line 2: waves is empty"}},
		"an empty wave":        {"name: f\nwaves:\n- {}\n- name: w\n  servers: []\n", []string{"line 3: the wave has no name", "line 3: the wave has no servers", "line 5: servers is empty"}},
		"bad names":            {"name: 1st\nwaves: [{name: a b, servers: [{name: x}]}]\n", []string{`line 1: fleet name "1st": want a letter`, `line 2: wave name "a b"`}},
		"too long a name":      {"name: " + strings.Repeat("f", 64) + "\nwaves: [{name: w, servers: [{name: x}]}]\n", []string{"line 1: fleet name"}},
		"too long a server":    {server("name: " + strings.Repeat("数", 129)), []string{"the server's name has 129 characters; at most 128"}},
		"a wave twice":         {"name: f\nwaves:\n- {name: w, servers: [{name: a}]}\n- {name: w, servers: [{name: b}]}\n", []string{`line 4: wave "w" is in line 3 already`}},
		"a server twice":       {"name: f\nwaves:\n- {name: w, servers: [{name: a}]}\n- {name: v, servers: [{name: b},\n{name: a}]}\n", []string{`line 5: server "a" is named in line 3 already`}},
		"a match twice":        {"name: f\nwaves:\n- name: w\n  servers:\n  - match: a*\n  - match: a*\n", []string{`line 6: match "a*" is in line 5 already`}},
		"name and match":       {server("name: a", "match: a*"), []string{"a server has a name or a match, one of the two"}},
		"neither":              {server("keepJob: true"), []string{"a server has a name or a match, one of the two"}},
		"defaults with a name": {"name: f\ndefaults: {name: a}\nwaves: [{name: w, servers: [{name: x}]}]\n", []string{"line 2: defaults name no server"}},
		"bad patterns": {
			"name: f\nwaves:\n- name: w\n  servers:\n  - match: '[a-'\n  - match: 'a\\'\n  - match: 'x[]'\n",
			[]string{`line 5: match "[a-" is not a pattern: * stands for`, `line 6: match`, `line 7: match`},
		},
		"one image name for many": {server("match: a*", "imageName: img"), []string{"line 4: imageName and match do not go together"}},

		"out of range": {
			"name: f\nwaves:\n- name: w\n  servers:\n  - {name: a, runOnce: false, maxNumberOfImageToKeep: 1,\n     frequency: 200}\n  - name: b\n    dataDisk:\n    - index: 1\n      size: 7\n" +
				"  - {name: c, runOnce: false}\n  - {name: d, targetType: Cloud}\n  - {name: e, replicationParameters: {compress_level: 10}}\n  - {name: g, runOnce: yes}\n",
			[]string{
				"line 6: Frequency: 200 is not allowed; allowed: 1 to 168", "line 10: DataDisk.1.Size: 7 is not allowed; allowed: 20 to 32768",
				"line 11: Frequency is missing: RunOnce false needs it", "line 12: TargetType: ", "line 13: ReplicationParameters", "line 14: RunOnce: ",
			},
		},
		"bad defaults are one mistake": {"name: f\ndefaults: {systemDiskSize: 5}\nwaves: [{name: w, servers: [{name: a}, {name: b}]}]\n", []string{"line 2: SystemDiskSize: 5 is not allowed; allowed: 20 to 2048"}},
		"two disks with one index":     {server("name: a", "dataDisk: [{index: 1}, {index: 1}]"), []string{"DataDisk.2.Index"}},
		"a date that was":              {server("name: a", "scheduledStartTime: 2001-01-01T00:00:00Z"), []string{"line 4: ScheduledStartTime"}},
		"cutover of a one-time job":    {server("name: a", "cutover: {afterRuns: 1}"), []string{"line 2: cutover needs an incremental job"}},
		"cutover after no runs":        {server("name: a", "cutover: {afterRuns: 0}"), []string{`line 4: cutover.afterRuns: "0" is not a whole number of at least 1: the runs`}},
		"window and schedule": {
			server("name: a", "window: {notBefore: 2030-01-01T00:00:00Z}", "scheduledStartTime: "+smc.FormatTime(time.Now().Add(time.Hour))),
			[]string{"window and scheduledStartTime do not go together"},
		},
		"windows": {
			server("name: a", "window: {notBefore: 2030-01-01T00:00:00Z, notAfter: 2029-01-01T00:00:00Z}") +
				"pollInterval: 1ms\n", []string{"line 4: window: notAfter must be after notBefore", `line 5: pollInterval: "1ms" is too often; at least 1s`},
		},
		"an empty window":       {server("name: a", "window: {}"), []string{"line 4: window has neither notBefore nor notAfter"}},
		"no time":               {server("name: a", "window: {notBefore: tonight}"), []string{`line 4: window.notBefore: "tonight" is not a time such as 2026-01-31T22:00:00Z`}},
		"a time without end":    {server("name: a", "window: {notBefore: 9999-12-31T23:59:59-23:00}"), []string{"line 4: window.notBefore"}},
		"retries in disorder":   {server("name: a", "retry: {interval: 2m, maxInterval: 1m}"), []string{"line 4: retry: maxInterval must not be shorter than interval, which is 2m0s"}},
		"no negative retries":   {server("name: a", "retry: {limit: -1}"), []string{"line 4: retry.limit"}},
		"not JSON":              {server("name: a", "replicationParameters: {checksum: .inf}"), []string{"line 4: replicationParameters: json: unsupported value"}},
		"too many servers":      {"name: f\nwaves: [{name: w, servers: [" + strings.Join(names(MaxServers+2), ",") + "]}]\n", []string{"names more than 2000 servers"}},
		"too long in all":       {"name: f\ndefaults: {replicationParameters: '" + strings.Repeat(" ", 1500) + "{}'}\nwaves: [{name: w, servers: [" + strings.Join(names(900), ",") + "]}]\n", []string{"the parameters of all servers, with the defaults in each, are longer than"}},
		"more than can be told": {"name: f\nwaves: [{name: w, servers: [{name: x}]}]\n" + numbered(60), append(repeat("unknown key", maxMistakes), "and 10 mistakes more")},
		"parameters without end": {
			"name: f\nwaves: [{name: w, servers: [{name: x, tag: [" + strings.Repeat("{key: a},", smc.MaxParameters+5) + "]}]}]\n",
			[]string{"line 2: tag: a job has at most 4000 parameters"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			fleet, err := ReadManifest(strings.NewReader(test.manifest))
			assert.Nil(t, fleet)
			var refused *ManifestError
			require.ErrorAs(t, err, &refused)
			for i, mistake := range refused.Mistakes {
				if i < len(test.want) {
					assert.Contains(t, mistake.String(), test.want[i])
				}
			}
			assert.Len(t, refused.Mistakes, len(test.want), "%v", err)
		})
	}
}

func names(n int) (entries []string) {
	for i := range n {
		entries = append(entries, fmt.Sprintf("{name: s%d}", i))
	}
	return entries
}

func numbered(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "x%d: 1\n", i)
	}
	return b.String()
}

func repeat(s string, n int) (list []string) {
	for range n {
		list = append(list, s)
	}
	return list
}

func TestReadingFails(t *testing.T) {
	_, err := ReadManifest(iotest.ErrReader(errors.New("gone")))
	var refused *ManifestError
	assert.ErrorContains(t, err, "read the manifest: gone")
	assert.NotErrorAs(t, err, &refused, "that is not the manifest's fault")
}

// What the vendor may support and a center does not is no mistake, but does not hide others.
func TestUnsupportedIsLeftToTheEndpoint(t *testing.T) {
	fleet := read(t, server("name: a", "jobType: 1"))
	assert.Equal(t, "1", fleet.Waves[0].Servers[1].Parameters["JobType"])
	_, err := ReadManifest(strings.NewReader(server("name: a", "jobType: 1", "cutover: {afterRuns: 1}")))
	assert.ErrorContains(t, err, "cutover needs an incremental job")
}

// FuzzReadManifest looks for manifests that make the reader panic or run away, and for fleets that a workflow could not take.
func FuzzReadManifest(f *testing.F) {
	examples, err := filepath.Glob(filepath.Join("testdata", "*.yaml"))
	require.NoError(f, err)
	require.NotEmpty(f, examples)
	for _, name := range examples {
		text, err := os.ReadFile(name)
		require.NoError(f, err)
		f.Add(string(text))
	}
	for _, text := range []string{
		"", "name: f\nwaves: &w\n  - *w\n", "name: f\n" + nested(8), "{<<: [&a {name: f}, *a], waves: []}", "? {a: b}\n: [c]\n", "--- |\n x\n...\n---\n",
		server("name: a", "dataDisk: [{index: 1, part: [{device: 1_0, sizeBytes: 5}]}]", "replicationParameters: {1: 2, ~: x}"), "!!binary aGk=: !x &y [*y]",
		server("match: '[a-'", "window: {notBefore: 0001-01-01T00:00:00Z}", "retry: {limit: 9223372036854775807, interval: 2562047h}"),
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		// One that never returns must fail as well, with its input.
		late := time.AfterFunc(10*time.Second, func() { panic(fmt.Sprintf("takes too long: %q", text)) })
		fleet, err := ReadManifest(strings.NewReader(text))
		late.Stop()
		if err != nil {
			var refused *ManifestError
			if !errors.As(err, &refused) || len(refused.Mistakes) == 0 {
				t.Fatalf("not a mistake: %v", err)
			}
			return
		}
		encoded, err := json.Marshal(fleet)
		if err != nil {
			t.Fatal(err)
		}
		var back Fleet
		if err := json.Unmarshal(encoded, &back); err != nil {
			t.Fatal(err)
		}
		for _, wave := range back.Waves {
			for _, server := range wave.Servers {
				if _, err := server.Request("r", "s"); err != nil {
					t.Fatalf("%s: %v", server.Name, err)
				}
				if server.Retry.Wait(100) <= 0 {
					t.Fatalf("%+v does not wait", server.Retry)
				}
			}
		}
	})
}
