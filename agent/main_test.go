package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestExitCodes(t *testing.T) {
	center := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(`{"RequestId":"R-1","Code":"InvalidActivationCode","Message":"it is used up"}`))
	}))
	t.Cleanup(center.Close)
	t.Setenv("DROVER_ENDPOINT", center.URL)
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk.raw")
	require.NoError(t, os.WriteFile(disk, make([]byte, 1<<20), 0o600))
	state := filepath.Join(dir, "state")

	for name, test := range map[string]struct {
		args []string
		code int
		says string
	}{
		"version":      {[]string{"--version"}, 0, "drover-agent"},
		"help":         {[]string{"--help"}, 0, "--disk FILE-OR-DEVICE"},
		"unknown flag": {[]string{"--bogus"}, 2, "--bogus"},
		"argument":     {[]string{"extra"}, 2, `"extra"`},
		"log level":    {[]string{"--state", state, "--log-level", "loud"}, 2, "loud"},
		"no state":     {nil, 2, "--state"},
		"no code":      {[]string{"--state", state}, 2, "drover token create"},
		"wrong code": {
			[]string{"--state", state, "--code", "c", "--name", "web-1", "--disk", disk, "--log-format", "json"},
			1, "InvalidActivationCode: it is used up",
		},
		"help of a target": {[]string{"target", "--help"}, 0, "--overwrite"},
		"target, no state": {[]string{"target"}, 2, "--state"},
		"target, no disk":  {[]string{"target", "--state", state, "--code", "c", "--name", "spare-1"}, 2, "devices to overwrite"},
		"target, wrong code": {
			[]string{"target", "--state", state, "--code", "c", "--name", "spare-1", "--disk", disk, "--log-format", "json"},
			1, `target instance "spare-1"`,
		},
		"overwrite of a source": {[]string{"--state", state, "--overwrite"}, 2, "--overwrite"},
		"no such disk":          {[]string{"--state", state, "--code", "c", "--name", "web-1", "--disk", disk + "x"}, 1, disk + "x"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			assert.Equal(t, test.code, program(os.Getenv).Main(test.args, &out, &out))
			assert.Contains(t, out.String(), test.says)
		})
	}
}
