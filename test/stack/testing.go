package stack

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drover/drover/test/process"
)

// StartLimit bounds the start of a stack, or of a process, and its stop, in a test: a small machine under load needs a few seconds.
const StartLimit = 3 * time.Minute

// ForTest starts a stack for a test, in a directory of its own unless options name one, and closes it at the test's end. When the test has
// failed, the end of every log is shown, and all logs are kept.
func ForTest(t testing.TB, options Options) *Stack {
	t.Helper()
	if options.Dir == "" {
		options.Dir = t.TempDir()
	}
	ctx, cancel := context.WithTimeout(t.Context(), StartLimit)
	defer cancel()
	s, err := New(ctx, options)
	t.Cleanup(func() {
		if err == nil {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
		if logs := (&Stack{Dir: options.Dir}); t.Failed() {
			t.Log(logs.Logs(25))
			t.Log(keepLogs(t, logs.logs()))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Eventually waits until ready reports true, and ends the test with what ready says of the state last when it does not within limit.
func Eventually(t testing.TB, limit time.Duration, what string, ready func() (done bool, state any)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := process.Until(ctx, what, ready); err != nil {
		t.Fatal(err)
	}
}

func (s *Stack) logs() string { return filepath.Join(s.Dir, "logs") }

// Logs returns the last lines of the log of every process there was.
func (s *Stack) Logs(lines int) string {
	names, err := filepath.Glob(filepath.Join(s.logs(), "*.log"))
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	for _, name := range names {
		fmt.Fprintf(&b, "the end of %s:\n%s\n", filepath.Base(name), process.Tail(name, lines))
	}
	return b.String()
}

// keepLogs copies the logs to where they outlive the test, and says where.
func keepLogs(t testing.TB, logs string) string {
	t.Helper()
	kept, err := os.MkdirTemp("", "drover-logs-")
	if err == nil {
		kept = filepath.Join(kept, strings.ReplaceAll(t.Name(), "/", "-"))
		err = os.CopyFS(kept, os.DirFS(logs))
	}
	if err != nil {
		return "the logs are not kept: " + err.Error()
	}
	return "all logs: " + kept
}
