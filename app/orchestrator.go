package app

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.uber.org/zap"

	"github.com/drover/drover/activities"
	"github.com/drover/drover/events"
	"github.com/drover/drover/fleet"
	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/workflows"
)

// OrchestratorConfig is what the role orchestrator needs beside the servers every worker needs.
type OrchestratorConfig struct {
	// SMC is the endpoint that is driven and the key it is driven with.
	SMC smc.Config
	// AccountID stands in the subjects of the events of migrations and fleets.
	AccountID string
	// Bridge has migrations woken by the events of their jobs. Without it they poll.
	Bridge bool
}

// searchAttributes are those of migrations and fleets.
func searchAttributes() map[string]enumspb.IndexedValueType {
	attributes := map[string]enumspb.IndexedValueType{}
	for _, key := range []temporal.SearchAttributeKey{
		workflows.AttributeFleet, workflows.AttributePhase, workflows.AttributeReason, workflows.AttributeJobID,
		workflows.AttributeRuns, workflows.AttributeAttempts,
	} {
		attributes[key.GetName()] = key.GetValueType()
	}
	return attributes
}

// registerSearchAttributes adds the search attributes to the namespace, and tries until it is done and Temporal knows
// them: a workflow that sets one that is not there gets on only after Temporal's own retries, which take 10 s and more.
func registerSearchAttributes(ctx context.Context, temporal client.Client, namespace string, log *zap.Logger) error {
	err := until(ctx, log, "the search attributes of migrations cannot be registered: the orchestrator waits for Temporal", func(error) bool { return true },
		func() error { return addSearchAttributes(ctx, temporal, namespace) })
	if err != nil {
		return err
	}
	return awaitSearchAttributes(ctx, temporal, namespace)
}

// awaitSearchAttributes waits until Temporal takes the search attributes it was given: its services read them anew every
// two seconds. When that takes long it is left to the retries.
func awaitSearchAttributes(ctx context.Context, temporal client.Client, namespace string) error {
	const (
		every    = 100 * time.Millisecond
		reread   = 2 * time.Second
		patience = 15 * time.Second
	)
	pause := func(d time.Duration) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(d):
			return nil
		}
	}
	var clauses []string
	for name, kind := range searchAttributes() {
		value := "''"
		if kind == enumspb.INDEXED_VALUE_TYPE_INT {
			value = "0"
		}
		clauses = append(clauses, name+" = "+value)
	}
	query := &workflowservice.CountWorkflowExecutionsRequest{Namespace: namespace, Query: strings.Join(clauses, " AND ")}
	for began := time.Now(); time.Since(began) < patience; {
		_, err := temporal.CountWorkflow(ctx, query)
		if err == nil {
			if time.Since(began) < every {
				return nil // they were known before
			}
			return pause(reread) // the service that takes them from workflows reads them on its own
		}
		if err := pause(every); err != nil {
			return err
		}
	}
	return nil
}

func addSearchAttributes(ctx context.Context, temporal client.Client, namespace string) error {
	operator := temporal.OperatorService()
	known, err := operator.ListSearchAttributes(ctx, &operatorservice.ListSearchAttributesRequest{Namespace: namespace})
	if err != nil {
		return err
	}
	missing := searchAttributes()
	for name := range known.GetCustomAttributes() {
		delete(missing, name)
	}
	if len(missing) == 0 {
		return nil
	}
	_, err = operator.AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{Namespace: namespace, SearchAttributes: missing})
	var exists *serviceerror.AlreadyExists
	if errors.As(err, &exists) {
		return nil // another worker was faster
	}
	return err
}

// runOrchestrator hosts fleets and migrations, and the bridge that wakes them.
func runOrchestrator(ctx context.Context, config WorkerConfig, temporal client.Client, log *zap.Logger) error {
	endpoint, err := smc.NewClient(config.Orchestrator.SMC)
	if err != nil {
		return err
	}
	hosts, err := config.Orchestrator.SMC.TLS()
	if err != nil {
		return err
	}
	probe, err := newEndpointProbe(endpoint, config.Orchestrator.SMC, log)
	if err != nil {
		return err
	}
	nc, err := config.nats("drover-orchestrator", log)
	if err != nil {
		return err
	}
	metrics := config.Process.Monitor
	defer config.Process.drain(nc, log)
	defer requireNATS(metrics, nc)()
	defer probe.require(metrics)()
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("JetStream: %w", err)
	}
	if err := registerSearchAttributes(ctx, temporal, config.TemporalNamespace, log); err != nil {
		return err
	}
	registerFleets(metrics, temporal, config.TemporalNamespace, log.Named("metrics"))
	newWorker := func(options worker.Options) worker.Worker {
		w := worker.New(temporal, fleet.Queue, options)
		w.RegisterWorkflow(workflows.Fleet)
		w.RegisterWorkflow(workflows.Migration)
		w.RegisterActivity(&activities.SMC{Client: endpoint, HTTP: replica.NewClient(hosts)})
		w.RegisterActivity(&activities.Orchestration{Temporal: temporal})
		w.RegisterActivity(&activities.Notification{Publisher: events.NewStreamPublisher(js, events.DroverStream()), AccountID: config.Orchestrator.AccountID})
		return w
	}

	group, ctx := config.Process.group(ctx)
	group.run("endpoint probe", func() error { return probe.run(ctx) })
	group.Go(func() error { return hostQueue(ctx, config.Process, RoleOrchestrator, newWorker, log) })
	if config.Orchestrator.Bridge {
		bridge := events.NewBridge(js, events.SignalerFunc(signalMigration(temporal)), events.BridgeConfig{
			// Orchestrators of one namespace share a position in the stream; those of another have their own.
			Durable: events.DefaultBridgeDurable + "-" + events.EncodeToken(config.TemporalNamespace),
		}, log.Named("bridge"))
		registerBridge(metrics, bridge)
		group.run("bridge", func() error { return bridge.Run(ctx) })
	} else {
		log.Warn("the bridge is off: migrations poll")
	}
	return group.Wait()
}

// signalMigration wakes the migration that a change of a job concerns.
func signalMigration(temporal client.Client) func(context.Context, string, string, fleet.JobChanged) error {
	return func(ctx context.Context, name, sourceID string, change fleet.JobChanged) error {
		err := temporal.SignalWorkflow(ctx, fleet.MigrationID(name, sourceID), "", fleet.SignalJobChanged, change)
		var missing *serviceerror.NotFound
		var refused *serviceerror.InvalidArgument // such as the most signals that a workflow takes
		switch {
		case errors.As(err, &missing):
			return events.ErrNoSuchMigration
		case errors.As(err, &refused):
			return fmt.Errorf("%w: %w", events.ErrDiscard, err)
		}
		return err
	}
}
