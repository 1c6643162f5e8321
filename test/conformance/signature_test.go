package conformance

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/smc"
)

// Every operation through every client: what the client was given is what the endpoint decodes, and what the endpoint
// answers is what the client gives back, in all fields.
func TestEveryOperation(t *testing.T) {
	d, e := startDriver(t), startEndpoint(t)
	for name, c := range clients {
		t.Run(name, func(t *testing.T) {
			for _, operation := range smc.Operations() {
				want := operation.NewRequest()
				fill(reflect.ValueOf(want).Elem())
				values, err := operation.EncodeRequest(want)
				require.NoError(t, err)
				params := map[string]string{}
				for name := range values {
					params[name] = values.Get(name)
				}
				got := d.do(t, call{client: c, identity: e.identity(), Action: operation.Name(), Params: params})
				require.Equal(t, 200, got.Status, "%s: %s", operation.Name(), got.Body)
				seen := e.seen()
				require.Empty(t, cmp.Diff(want, seen.request), "%s: the request", operation.Name())
				result, err := json.Marshal(seen.result)
				require.NoError(t, err)
				require.JSONEq(t, string(result), string(got.Body), "%s: the answer", operation.Name())
			}
		})
	}
}

// A request as a person writes it, lists and structures flattened by the client.
func TestNestedParameters(t *testing.T) {
	d, e := startDriver(t), startEndpoint(t)
	e.validate = true
	schedule := smc.FormatTime(time.Now().Add(24 * time.Hour))
	params := map[string]any{
		"RegionId": "cn-hangzhou", "SourceId": "s-1", "Name": "迁移任务:1_2-3", "ClientToken": "a b*c~d", "SystemDiskSize": 80, "RunOnce": false,
		"Frequency": 12, "MaxNumberOfImageToKeep": 3, "ScheduledStartTime": schedule, "ValidTime": "",
		"ReplicationParameters": `{"bandwidth_limit":0,"compress_level":1,"checksum":true}`,
		"DataDisk": []any{
			map[string]any{"Index": 1, "Size": 100, "Part": []any{
				map[string]any{"Device": "1_0", "SizeBytes": 5334102016, "Block": true},
				map[string]any{"Device": "1_1", "SizeBytes": 21474836480, "Block": false},
			}},
			map[string]any{"Index": 2, "Size": 40},
		},
		"Tag": []any{map[string]any{"Key": "wave", "Value": ""}, map[string]any{"Key": "owner", "Value": "A & B"}},
	}
	want := &smc.CreateReplicationJobRequest{
		RegionID: "cn-hangzhou", SourceID: "s-1", Name: new("迁移任务:1_2-3"), ClientToken: new("a b*c~d"), SystemDiskSize: new(80), RunOnce: new(false),
		Frequency: new(12), MaxNumberOfImageToKeep: new(3), ScheduledStartTime: new(schedule), ValidTime: new(""),
		ReplicationParameters: new(`{"bandwidth_limit":0,"compress_level":1,"checksum":true}`),
		DataDisk: []smc.DataDiskTarget{
			{Index: new(1), Size: new(100), Part: []smc.PartTarget{
				{Device: new("1_0"), SizeBytes: new(int64(5334102016)), Block: new(true)},
				{Device: new("1_1"), SizeBytes: new(int64(21474836480)), Block: new(false)},
			}},
			{Index: new(2), Size: new(40)},
		},
		Tag: []smc.TagParameter{{Key: new("wave"), Value: new("")}, {Key: new("owner"), Value: new("A & B")}},
	}
	for name, c := range clients {
		t.Run(name, func(t *testing.T) {
			got := d.do(t, call{client: c, identity: e.identity(), Action: "CreateReplicationJob", Params: params})
			require.Equal(t, 200, got.Status, "%s", got.Body)
			require.Empty(t, cmp.Diff(want, e.seen().request))
		})
	}
}

// What is not genuine is refused, and the client understands the refusal.
func TestRefusals(t *testing.T) {
	d, e := startDriver(t), startEndpoint(t)
	e.validate = true
	start := map[string]any{"JobId": "j-1"}
	for name, c := range clients {
		t.Run(name, func(t *testing.T) {
			good := call{client: c, identity: e.identity(), Action: "StartReplicationJob", Params: start}
			require.Equal(t, 200, d.do(t, good).Status)
			e.replay(t).requireCode(t, smc.CodeSignatureNonceUsed)

			for _, off := range []time.Duration{16 * time.Minute, -16 * time.Minute} {
				e.setClock(off)
				d.do(t, good).requireCode(t, smc.CodeInvalidTimeStampExpired)
			}
			for _, off := range []time.Duration{14 * time.Minute, -14 * time.Minute} {
				e.setClock(off)
				require.Equal(t, 200, d.do(t, good).Status)
			}
			e.setClock(0)

			for code, change := range map[string]func(*call){
				smc.CodeSignatureDoesNotMatch:      func(c *call) { c.AccessKeySecret += "x" },
				smc.CodeInvalidAccessKeyIDNotFound: func(c *call) { c.AccessKeyID = "AKNONE" },
				smc.CodeUnsupportedFeature:         func(c *call) { c.SecurityToken = "sts" },
				smc.CodeInvalidVersion:             func(c *call) { c.Version = "2014-05-26" },
				smc.CodeInvalidActionNotFound:      func(c *call) { c.Action = "MakeCoffee" },
				"MissingJobId":                     func(c *call) { c.Params = map[string]any{} },
				smc.CodeInvalidParameter:           func(c *call) { c.Params = map[string]any{"JobId": strings.Repeat("j", 257)} },
			} {
				bad := good
				change(&bad)
				d.do(t, bad).requireCode(t, code)
			}
		})
	}
}

// Only openapi-client can read answers in XML.
func TestXML(t *testing.T) {
	d, e := startDriver(t), startEndpoint(t)
	for _, name := range []string{"openapi-client, POST and query", "openapi-client, POST and form"} {
		c := call{client: clients[name], identity: e.identity(), Action: "DescribeReplicationJobs", Format: "XML"}
		got := d.do(t, c)
		require.Equal(t, 200, got.Status, "%s", got.Body)
		var text string
		require.NoError(t, json.Unmarshal(got.Body, &text))
		require.Contains(t, text, "<DescribeReplicationJobsResponse>")
		require.Contains(t, text, "<ReplicationJobs><ReplicationJob><JobId>")
		c.AccessKeySecret = "wrong"
		d.do(t, c).requireCode(t, smc.CodeSignatureDoesNotMatch)
	}
}
