package activities

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/mocks"

	"github.com/drover/drover/fleet"
)

// described has the client know a migration.
func described(c *mocks.Client, sourceID string, status enumspb.WorkflowExecutionStatus, err error) {
	description := &workflowservice.DescribeWorkflowExecutionResponse{WorkflowExecutionInfo: &workflowpb.WorkflowExecutionInfo{Status: status}}
	c.On("DescribeWorkflowExecution", context.Background(), fleet.MigrationID("exit", sourceID), "").Return(description, err)
}

func TestWatchMigrations(t *testing.T) {
	const running, terminated = enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING, enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED
	watch := func(prepare func(*mocks.Client), sourceIDs ...string) (map[string]string, error) {
		client := mocks.NewClient(t)
		prepare(client)
		return (&Orchestration{Temporal: client}).WatchMigrations(context.Background(), WatchMigrationsInput{Fleet: "exit", SourceIDs: sourceIDs})
	}
	t.Run("all are open", func(t *testing.T) {
		_, err := watch(func(c *mocks.Client) {
			described(c, "s-1", running, nil)
			described(c, "s-2", running, nil)
		}, "s-1", "s-2")
		requireError(t, err, TypeUnchanged, true)
	})
	t.Run("some are closed", func(t *testing.T) {
		closed, err := watch(func(c *mocks.Client) {
			described(c, "s-1", running, nil)
			described(c, "s-2", terminated, nil)
			described(c, "s-3", 0, serviceerror.NewNotFound("no such workflow"))
		}, "s-1", "s-2", "s-3")
		require.NoError(t, err)
		require.Equal(t, map[string]string{"s-2": "Terminated", "s-3": "missing"}, closed)
	})
	t.Run("Temporal is away", func(t *testing.T) {
		_, err := watch(func(c *mocks.Client) { described(c, "s-1", 0, errors.New("connection refused")) }, "s-1")
		require.ErrorContains(t, err, "describe the migration of s-1: connection refused")
	})
}
