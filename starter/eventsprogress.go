package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/drover/drover/events"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/starter/progress"
)

// progressSilence is how long a job may be silent before it is shown no more. While a run goes on it tells about once a second.
const progressSilence = 10 * time.Second

// progressCommand shows how far all jobs are.
func (c *cli) progressCommand() *cobra.Command {
	account, job := "", ""
	cmd := &cobra.Command{
		Use:   "progress [--account ACCOUNT] [--job JOB]",
		Short: "Show how far all running jobs are, as it is published",
		Long: `Show how far the jobs are whose runs are Syncing or Processing, until Ctrl-C: on a terminal a bar for each, redrawn in place. -o json
prints each message, one a line. Nothing of it is kept anywhere: a job is shown from its next message on, within about a second,
and no more after 10 seconds without one.

It listens to NATS_URL; the center is asked only to find a job by name. A user who may see one account only gives it with --account.`,
		Example: "  drover events progress\n  drover events progress --job web-1\n  drover events progress --account 1 -o json",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			id, err := c.jobID(ctx, job)
			if err != nil {
				return err
			}
			err = c.showProgress(ctx, events.ProgressFilter(account, "", id))
			if ctx.Err() != nil && errors.Is(err, context.Canceled) {
				return nil // Ctrl-C is how it ends
			}
			return err
		},
	}
	cmd.Flags().StringVar(&account, "account", "", "only jobs of this `ACCOUNT` of the center")
	cmd.Flags().StringVar(&job, "job", "", "only this `JOB`, by id or name")
	return cmd
}

// showProgress shows what is published on the subjects of a filter until ctx ends.
func (c *cli) showProgress(ctx context.Context, filter string) error {
	nc, _, err := c.eventStream("drover events progress")
	if err != nil {
		return err
	}
	defer nc.Close()
	messages := make(chan events.Progress)
	sub, err := events.SubscribeProgress(nc, filter, func(p events.Progress) {
		select {
		case messages <- p:
		case <-ctx.Done():
		}
	})
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }() // the connection is closed anyway

	view := progress.NewView(c.out, progress.Auto)
	defer view.Close()
	board := progressBoard{}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case p := <-messages:
			if c.json() {
				if err := c.printLine(p); err != nil {
					return err
				}
				continue
			}
			board.tell(time.Now(), p)
		case now := <-tick.C:
			if !board.forget(now) {
				continue
			}
		case <-ctx.Done():
			return ctx.Err()
		}
		view.Update(board.states()...)
	}
}

// progressBoard is what jobs told last, in the order in which they began to.
type progressBoard []progressNote

type progressNote struct {
	progress events.Progress
	at       time.Time
}

func (b *progressBoard) tell(now time.Time, p events.Progress) {
	i := slices.IndexFunc(*b, func(n progressNote) bool { return n.progress.JobID == p.JobID })
	if i < 0 {
		*b = append(*b, progressNote{p, now})
		return
	}
	(*b)[i] = progressNote{p, now}
}

// forget takes away those that have become silent, and says whether there were any.
func (b *progressBoard) forget(now time.Time) bool {
	before := len(*b)
	*b = slices.DeleteFunc(*b, func(n progressNote) bool { return now.Sub(n.at) > progressSilence })
	return len(*b) < before
}

func (b *progressBoard) states() []progress.State {
	states := make([]progress.State, 0, len(*b))
	for _, n := range *b {
		p := n.progress
		state := progress.State{
			Name: p.JobID, Phase: p.BusinessStatus, Run: p.Run, Percent: p.Percent, BytesTotal: p.BytesTotal, BytesRead: p.BytesRead,
			BytesPerSecond: int64(p.BytesPerSecond), ETA: time.Duration(p.ETASeconds * float64(time.Second)), Note: p.SourceID,
		}
		if p.ETASeconds == 0 || smc.BusinessStatus(p.BusinessStatus) != smc.BusinessSyncing {
			state.ETA = -1
		}
		states = append(states, state)
	}
	return states
}
