package smc

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseVSwitches(t *testing.T) {
	list, err := ParseVSwitches([]byte(`{"vsw-1": "vpc-1", "vsw-2": "vpc-1", "vsw-3": "vpc-2"}` + "\n"))
	require.NoError(t, err)
	require.Equal(t, VSwitches{"vsw-1": "vpc-1", "vsw-2": "vpc-1", "vsw-3": "vpc-2"}, list)
	for text, words := range map[string]string{
		"":                                       "not a JSON object",
		"[]":                                     "begins with [",
		"{}":                                     "names no VSwitch",
		`{"vsw-1": 1}`:                           "the VPC of vsw-1",
		`{"vsw-1": ""}`:                          "empty",
		`{"": "vpc-1"}`:                          "empty",
		`{"vsw-1": "vpc-1"`:                      "not a JSON object",
		`{"vsw-1": "vpc-1"} {}`:                  "follows",
		`{"vsw-1": "vpc-1", "vsw-1": "vpc-2"}`:   "both vpc-1 and vpc-2",
		`{"vsw-1": {"VpcId": "vpc-1"}}`:          "the VPC of vsw-1",
		"vsw-1: vpc-1":                           "not a JSON object",
		`{"vsw-1": "vpc-1", "vsw-2": "vpc-1", }`: "not a JSON object",
	} {
		_, err := ParseVSwitches([]byte(text))
		require.ErrorContains(t, err, words, text)
	}
}

func TestVSwitchesCheck(t *testing.T) {
	list := VSwitches{"vsw-1": "vpc-1", "vsw-2": "vpc-2"}
	for _, test := range []struct {
		vSwitchID, vpcID, mismatch string
	}{
		{"", "", ""},
		{"vsw-1", "", ""},
		{"vsw-1", "vpc-1", ""},
		{"", "vpc-2", ""},
		{"vsw-1", "vpc-2", "is in vpc-1"},
		{"vsw-3", "", "not in the network list"},
		{"vsw-3", "vpc-1", "not in the network list"},
		{"", "vpc-3", "no VSwitch in"},
	} {
		err := list.Check(test.vSwitchID, test.vpcID)
		if test.mismatch == "" {
			require.NoError(t, err, "%+v", test)
		} else {
			require.Equal(t, CodeVSwitchIDVpcIDMismatch, CodeOf(err), "%+v", test)
			require.ErrorContains(t, err, test.mismatch)
		}
		require.NoError(t, VSwitches(nil).Check(test.vSwitchID, test.vpcID), "without a list everything is echoed")
	}
}
