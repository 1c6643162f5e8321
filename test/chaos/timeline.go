package main

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// timeline is the log of a run: what was done and seen, and when.
type timeline struct {
	began time.Time

	mu  sync.Mutex
	out io.Writer
}

// add writes a line.
func (t *timeline) add(actor, format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, _ = fmt.Fprintf(t.out, "%9.3f %-14s %s\n", time.Since(t.began).Seconds(), actor, fmt.Sprintf(format, args...)) // a log
}
