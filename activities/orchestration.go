package activities

import (
	"context"
	"errors"
	"fmt"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"github.com/drover/drover/events"
	"github.com/drover/drover/fleet"
)

// Orchestration holds the activities that look at workflows from outside.
type Orchestration struct{ Temporal client.Client }

// WatchMigrationsInput names the migrations that a fleet believes are open.
type WatchMigrationsInput struct {
	Fleet     string
	SourceIDs []string
}

// WatchMigrations finds migrations that are over: a fleet learns of that from the migration itself, unless its workflow
// was terminated or timed out. It fails with TypeUnchanged, to be tried again, while all are open.
func (a *Orchestration) WatchMigrations(ctx context.Context, in WatchMigrationsInput) (closed map[string]string, err error) {
	defer beat(ctx)()
	closed = map[string]string{}
	for _, sourceID := range in.SourceIDs {
		description, err := a.Temporal.DescribeWorkflowExecution(ctx, fleet.MigrationID(in.Fleet, sourceID), "")
		var missing *serviceerror.NotFound
		switch {
		case errors.As(err, &missing):
			closed[sourceID] = "missing"
		case err != nil:
			return nil, fmt.Errorf("describe the migration of %s: %w", sourceID, err)
		case description.GetWorkflowExecutionInfo().GetStatus() != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING:
			closed[sourceID] = description.GetWorkflowExecutionInfo().GetStatus().String()
		}
	}
	if len(closed) == 0 {
		return nil, unchanged(nil, "all migrations of fleet %s are open", in.Fleet)
	}
	return closed, nil
}

// Notification holds the activities that tell the world of migrations and fleets.
type Notification struct {
	Publisher *events.Publisher
	AccountID string
}

// MigrationEvent is one change of a migration, as its workflow numbers it.
type MigrationEvent struct {
	Fleet string
	// Began tells the migrations apart that one server has in fleets of one name, one after the other.
	Began    time.Time
	Sequence uint64
	Previous fleet.Phase
	Status   fleet.MigrationStatus
	Time     time.Time
}

// PublishMigration publishes changes of one migration, in order, each once.
func (a *Notification) PublishMigration(ctx context.Context, changes []MigrationEvent) error {
	defer beat(ctx)()
	for _, change := range changes {
		s := change.Status
		if err := events.PublishOnce(ctx, a.Publisher, events.MigrationChanged{
			AccountID: a.AccountID, Fleet: change.Fleet, Began: change.Began, Wave: s.Wave, SourceID: s.SourceID, Name: s.Name,
			Sequence: change.Sequence, Phase: s.Phase, PreviousPhase: change.Previous, JobID: s.JobID, JobStatus: s.Status,
			ImageID: s.ImageID, Runs: s.Runs, Attempts: s.Attempts, Reason: s.Reason, Error: s.Error, Time: change.Time,
		}); err != nil {
			return err
		}
	}
	return nil
}

// FleetEvent is one change of a fleet, as its workflow numbers it.
type FleetEvent struct {
	Began    time.Time
	Sequence uint64
	Previous fleet.State
	// Status is that of the fleet; its Servers are counted, not listed.
	Status             fleet.Status
	Done, Failed, Open int
	Time               time.Time
}

// PublishFleet publishes changes of one fleet, in order, each once.
func (a *Notification) PublishFleet(ctx context.Context, changes []FleetEvent) error {
	defer beat(ctx)()
	for _, change := range changes {
		s := change.Status
		if err := events.PublishOnce(ctx, a.Publisher, events.FleetChanged{
			AccountID: a.AccountID, Fleet: s.Name, Began: change.Began, Sequence: change.Sequence, Status: s.Status,
			PreviousStatus: change.Previous, Wave: s.Wave, Reason: s.Reason, Done: change.Done, Failed: change.Failed, Open: change.Open,
			Time: change.Time,
		}); err != nil {
			return err
		}
	}
	return nil
}
