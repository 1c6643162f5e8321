package temporalserver

import (
	"context"
	"errors"
	"fmt"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	namespacepb "go.temporal.io/api/namespace/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"google.golang.org/protobuf/types/known/durationpb"
)

// readyInterval is how often a server that is coming up is asked whether it is there.
const readyInterval = 50 * time.Millisecond

// ensureNamespace waits until the frontend at address answers for the namespace, creates it when a database of an earlier start knows
// another one only, and brings its retention to what was asked for. It returns when a workflow could be started.
func ensureNamespace(ctx context.Context, address, name string, retention time.Duration) error {
	c, err := client.NewLazyClient(client.Options{
		HostPort:  address,
		Namespace: name,
		Logger:    silent{},
	})
	if err != nil {
		return fmt.Errorf("temporal: make a client of %s: %w", address, err)
	}
	defer c.Close()

	tick := time.NewTicker(readyInterval)
	defer tick.Stop()
	for {
		err := tryNamespace(ctx, c.WorkflowService(), name, retention)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("temporal: namespace %s at %s is not ready: %w", name, address, errors.Join(context.Cause(ctx), err))
		case <-tick.C:
		}
	}
}

// tryNamespace makes one attempt of ensureNamespace; any error means that it is worth another.
func tryNamespace(ctx context.Context, svc workflowservice.WorkflowServiceClient, name string, retention time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	d, err := svc.DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: name})
	var missing *serviceerror.NamespaceNotFound
	switch {
	case errors.As(err, &missing):
		_, err := svc.RegisterNamespace(ctx, &workflowservice.RegisterNamespaceRequest{
			Namespace:                        name,
			WorkflowExecutionRetentionPeriod: durationpb.New(retention),
		})
		return errors.Join(err, missing) // describe it again until it is there
	case err != nil:
		return err
	}
	if d.GetConfig().GetWorkflowExecutionRetentionTtl().AsDuration() != retention {
		_, err := svc.UpdateNamespace(ctx, &workflowservice.UpdateNamespaceRequest{
			Namespace: name,
			Config:    &namespacepb.NamespaceConfig{WorkflowExecutionRetentionTtl: durationpb.New(retention)},
		})
		if err != nil {
			return err
		}
	}
	// Describe reads the database; starting a workflow needs the namespace in the frontend's cache and the history service up.
	_, err = svc.DescribeWorkflowExecution(ctx, &workflowservice.DescribeWorkflowExecutionRequest{
		Namespace: name,
		Execution: &commonpb.WorkflowExecution{WorkflowId: "drover-dev/readiness"}, // never started
	})
	var notFound *serviceerror.NotFound
	if errors.As(err, &notFound) {
		return nil
	}
	return err
}

// silent drops the client's messages about a server that is not there yet.
type silent struct{}

var _ sdklog.Logger = silent{}

func (silent) Debug(string, ...any) {}
func (silent) Info(string, ...any)  {}
func (silent) Warn(string, ...any)  {}
func (silent) Error(string, ...any) {}
