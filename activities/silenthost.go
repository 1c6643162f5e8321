package activities

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
)

// SilentHostInput names a run whose transition host does not take its work.
type SilentHostInput struct {
	JobID  string
	Run    int
	HostID string
	Wait   time.Duration // how long the run waits for it in all
}

// NoteSilentHost records that a run waits for its transition host.
func (a *Jobs) NoteSilentHost(ctx context.Context, in SilentHostInput) error {
	seen := "is not known to the center"
	host, err := a.Store.Host(ctx, in.HostID)
	switch {
	case err == nil:
		seen = "has reported last at " + smc.FormatTime(host.HeartbeatAt)
	case !errors.Is(err, store.ErrNotFound):
		return applicationError(err)
	}
	_, err = a.Store.NoteTrouble(ctx, in.JobID, in.Run, smc.CodeTransitionHostUnavailable, fmt.Sprintf(
		"transition host %s does not take the work, and %s; the run waits for it for %s: start its worker, with the same --data", in.HostID, seen, in.Wait))
	return applicationError(err)
}
