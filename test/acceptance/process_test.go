package acceptance

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/drover/drover/test/process"
)

// binDir is where the binaries are.
var binDir string

func TestMain(m *testing.M) {
	dir, err := process.Binaries("", "drover", "drover-agent", "drover-dev", "drover-worker")
	if err != nil {
		fmt.Fprintln(os.Stderr, "acceptance tests:", err)
		os.Exit(1)
	}
	binDir = dir
	os.Exit(m.Run())
}

// run runs a program of binDir to its end.
func run(t *testing.T, env []string, program string, args ...string) process.Result {
	t.Helper()
	r, err := process.Run(within(t, slow), env, filepath.Join(binDir, program), args...)
	require.NoError(t, err)
	return r
}

// within is a context of the test that ends after d.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// terminate stops a process as an operator would. It must end cleanly.
func terminate(t *testing.T, p *process.Process) {
	t.Helper()
	require.NoError(t, p.Stop(slow))
}
