package smc

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseReplicationParameters(t *testing.T) {
	for text, want := range map[string]ReplicationParameters{
		"":   {CompressLevel: 1, Checksum: true},
		"{}": {CompressLevel: 1, Checksum: true},
		`{ "bandwidth_limit" : 8000 , "compress_level" : 0, "checksum": false }`:     {BandwidthLimitKbps: 8000},
		`{"BandwidthLimit":1,"CompressLevel":9,"Checksum":true,"UseSSHTunnel":true}`: {BandwidthLimitKbps: 1, CompressLevel: 9, Checksum: true},
		`{"BANDWIDTH_LIMIT":2,"efficiencyLevel":"high","new":{"a":[1]}}`: {
			BandwidthLimitKbps: 2, CompressLevel: 1, Checksum: true, Ignored: []string{"efficiencyLevel", "new"},
		},
	} {
		got, err := ParseReplicationParameters(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got)\n%s", text, diff)
		}
	}
	for _, text := range []string{
		"BandWidthLimit:0", "[]", "1", "null", `"x"`, "{", `{"checksum":true`, `{"checksum":true}{}`, `{"checksum":true} x`,
		`{"bandwidth_limit":"8000"}`, `{"bandwidth_limit":1.5}`, `{"bandwidth_limit":1e3}`, `{"bandwidth_limit":-1}`, `{"bandwidth_limit":null}`,
		`{"bandwidth_limit":9223372036854775808}`, `{"compress_level":10}`, `{"compress_level":-1}`, `{"compress_level":true}`,
		`{"checksum":1}`, `{"checksum":"true"}`, `{"checksum":true,"CHECKSUM":false}`,
		`{"x":"` + strings.Repeat("迁", 2048) + `"}`,
	} {
		if got, err := ParseReplicationParameters(text); CodeOf(err) != CodeInvalidParameter {
			t.Errorf("%.60s: got %+v, %v", text, got, err)
		}
	}
}
