package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"golang.org/x/sync/errgroup"

	"github.com/drover/drover/fleet"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/starter/progress"
	"github.com/drover/drover/starter/table"
)

// memoManifest is the memo of a fleet's workflow that holds the digest of its manifest.
const memoManifest = "DroverManifest"

// fleetInput is what the workflow of a fleet starts from, in the form it has in workflows. The command line does not
// import that package: with it would come the store and the data plane.
type fleetInput struct{ Fleet fleet.Fleet }

// fleets are the fleets that Temporal knows.
type fleets struct {
	*cli
	temporal client.Client
}

func (c *cli) fleetCommand() *cobra.Command {
	cmd := group("fleet", "Fleets: server after server, in waves, as a manifest says",
		c.fleetApplyCommand(), c.fleetListCommand(), c.fleetStatusCommand(), c.fleetWatchCommand(),
		c.fleetCancelCommand(), c.fleetResumeCommand(), c.fleetCutOverCommand())
	cmd.Long = `A fleet migrates the servers of a manifest, wave after wave. It is run by a worker of role orchestrator, which these
commands reach through Temporal:

  TEMPORAL_ADDRESS     host:port of Temporal
  TEMPORAL_NAMESPACE   namespace in it (default: default)
  TEMPORAL_API_KEY, TEMPORAL_TLS_SERVER_CA_CERT_PATH, TEMPORAL_TLS_CLIENT_CERT_PATH, TEMPORAL_TLS_CLIENT_KEY_PATH,
  TEMPORAL_TLS_SERVER_NAME   how Temporal is reached when it is not in the clear`
	return cmd
}

// fleetRun makes the body of a command that needs Temporal.
func (c *cli) fleetRun(do func(ctx context.Context, f *fleets, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		connection, err := c.dialTemporal(cmd.Context())
		if err != nil {
			return err
		}
		defer connection.Close()
		return do(cmd.Context(), &fleets{c, connection}, args)
	}
}

func (c *cli) fleetApplyCommand() *cobra.Command {
	var file string
	var watch, dryRun bool
	cmd := &cobra.Command{
		Use:   "apply -f FILE [--watch | --dry-run]",
		Short: "Start the fleet of a manifest",
		Long: `Start the fleet of a manifest. A fleet that runs already is left alone: that is no error when its manifest is the same.
One that has ended is started anew.

  name: dc-exit
  defaults: {targetType: Image, systemDiskSize: 40, runOnce: true}
  waves:
    - name: pilot
      maxConcurrent: 1
      maxFailures: 0
      servers:
        - {name: web-1}
        - {name: web-2, runOnce: false, frequency: 12, maxNumberOfImageToKeep: 3, cutover: {afterRuns: 2}}
    - name: rest
      maxConcurrent: 8
      servers: [{match: "db-*"}]

The keys of a server are those of CreateReplicationJob in lower camel case, and name, match, cutover, window, retry and
keepJob. Those of defaults hold for every server that does not say otherwise.`,
		Example: "  drover fleet apply -f dc-exit.yaml --watch\n  generate-manifest | drover fleet apply -f - --dry-run",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" {
				return usagef("-f FILE is missing")
			}
			if watch && dryRun {
				return usagef("--watch and --dry-run exclude each other")
			}
			manifest, err := readManifest(file, cmd.InOrStdin())
			if err != nil {
				return err
			}
			if dryRun {
				return c.showManifest(manifest)
			}
			return c.fleetRun(func(ctx context.Context, f *fleets, _ []string) error { return f.apply(ctx, manifest, watch) })(cmd, args)
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "`FILE` that holds the manifest; - is standard input")
	cmd.Flags().BoolVar(&watch, "watch", false, "show the fleet until it ends, as drover fleet watch does")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only check the manifest and show it")
	return cmd
}

// readManifest reads a manifest; mistakes in it are of input, and named FILE:LINE.
func readManifest(name string, stdin io.Reader) (*fleet.Fleet, error) {
	from := stdin
	if name == "-" {
		name = "standard input"
	} else {
		file, err := os.Open(name)
		if err != nil {
			return nil, inputError{err}
		}
		defer file.Close()
		from = file
	}
	manifest, err := fleet.ReadManifest(from)
	var refused *fleet.ManifestError
	if !errors.As(err, &refused) {
		return manifest, err
	}
	var b strings.Builder
	b.WriteString("the manifest cannot be used:")
	for _, mistake := range refused.Mistakes {
		at := name
		if mistake.Line > 0 {
			at += ":" + strconv.Itoa(mistake.Line)
		}
		fmt.Fprintf(&b, "\n%s: %s", at, mistake.Text)
	}
	return nil, inputError{errors.New(b.String())}
}

// showManifest prints what a fleet will do.
func (c *cli) showManifest(f *fleet.Fleet) error {
	if c.json() {
		return c.printJSON(f)
	}
	if err := c.printf("fleet %s, %s\n", f.Name, plural(len(f.Waves), "wave")); err != nil {
		return err
	}
	for _, wave := range f.Waves {
		line := "  wave " + wave.Name
		if wave.MaxConcurrent > 0 {
			line += fmt.Sprintf(", %d at a time", wave.MaxConcurrent)
		}
		if wave.MaxFailures != nil {
			line += ", pauses at " + plural(*wave.MaxFailures+1, "failure")
		}
		if err := c.printf("%s\n", line); err != nil {
			return err
		}
		columns := 0
		for _, server := range wave.Servers {
			columns = max(columns, progress.Width(server.Name+server.Match))
		}
		for _, server := range wave.Servers {
			if err := c.printf("    %s  %s\n", progress.Pad(server.Name+server.Match, columns), describeServer(server)); err != nil {
				return err
			}
		}
	}
	return nil
}

// describeServer says in a line how a server is migrated.
func describeServer(server fleet.Server) string {
	request, err := server.Request("", "")
	if err != nil {
		return err.Error()
	}
	parts := []string{"once"}
	if !request.RunsOnce() {
		parts = []string{fmt.Sprintf("every %d h, cut over by hand", *request.Frequency)}
		if server.CutOver != nil {
			parts = []string{fmt.Sprintf("every %d h, cut over after %s", *request.Frequency, plural(server.CutOver.AfterRuns, "run"))}
		}
	}
	parts = append(parts, "to "+string(request.Target()))
	if at := request.ScheduledStart(); !at.IsZero() {
		parts = append(parts, "at "+at.Local().Format(time.DateTime))
	}
	if window := server.Window; window != nil {
		if !window.NotBefore.IsZero() {
			parts = append(parts, "not before "+window.NotBefore.Local().Format(time.DateTime))
		}
		if !window.NotAfter.IsZero() {
			parts = append(parts, "not after "+window.NotAfter.Local().Format(time.DateTime))
		}
	}
	if server.KeepJob {
		parts = append(parts, "the job stays")
	}
	return strings.Join(parts, ", ")
}

// plural counts things: "1 wave", "3 waves".
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// digest tells manifests apart by what they mean: comments and order of keys do not count.
func digest(f *fleet.Fleet) (string, error) {
	text, err := json.Marshal(f)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// applied is what apply -o json prints.
type applied struct {
	Name       string `json:"name"`
	WorkflowID string `json:"workflowId"`
	RunID      string `json:"runId"`
	// Started is false when the fleet ran already.
	Started bool `json:"started"`
}

func (f *fleets) apply(ctx context.Context, manifest *fleet.Fleet, watch bool) error {
	runID, started, err := f.start(ctx, manifest)
	if err != nil {
		return err
	}
	switch {
	case f.json() && !watch:
		err = f.printJSON(applied{manifest.Name, fleet.WorkflowID(manifest.Name), runID, started})
	case f.json():
	case !started:
		err = f.printf("fleet %s is running already, with this manifest\n", manifest.Name)
	default:
		if err = f.showManifest(manifest); err == nil {
			err = f.printf("fleet %s is started\n", manifest.Name)
		}
	}
	if err != nil {
		return err
	}
	f.warnOfNoWorker(ctx)
	if watch {
		return f.watch(ctx, manifest.Name)
	}
	return nil
}

// start starts the workflow of a fleet; started is false when it runs already with this manifest.
func (f *fleets) start(ctx context.Context, manifest *fleet.Fleet) (runID string, started bool, err error) {
	sum, err := digest(manifest)
	if err != nil {
		return "", false, err
	}
	for range 3 { // it may end while we look
		run, err := f.temporal.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
			ID: fleet.WorkflowID(manifest.Name), TaskQueue: fleet.Queue,
			WorkflowIDReusePolicy:                    enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
			WorkflowIDConflictPolicy:                 enumspb.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
			WorkflowExecutionErrorWhenAlreadyStarted: true,
			Memo:                                     map[string]any{memoManifest: sum},
		}, fleet.WorkflowType, fleetInput{*manifest})
		if err == nil {
			return run.GetRunID(), true, nil
		}
		var already *serviceerror.WorkflowExecutionAlreadyStarted
		if !errors.As(err, &already) {
			return "", false, fmt.Errorf("fleet %s is not started: %w", manifest.Name, f.temporalError(err))
		}
		info, err := f.describe(ctx, manifest.Name)
		switch {
		case err != nil:
			return "", false, err
		case info.Status != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING:
			continue
		}
		var running string
		if payload := info.GetMemo().GetFields()[memoManifest]; payload != nil {
			if err := converter.GetDefaultDataConverter().FromPayload(payload, &running); err != nil {
				return "", false, fmt.Errorf("fleet %s: memo %s: %w", manifest.Name, memoManifest, err)
			}
		}
		if running == sum {
			return info.GetExecution().GetRunId(), false, nil
		}
		return "", false, fmt.Errorf("fleet %s runs already, with another manifest: let it end, cancel it with %q, or name this one otherwise",
			manifest.Name, "drover fleet cancel "+manifest.Name+" --wait")
	}
	return "", false, fmt.Errorf("fleet %s is being started by someone else, again and again", manifest.Name)
}

// warnOfNoWorker tells a person who would wait in vain.
func (f *fleets) warnOfNoWorker(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, temporalQueryTimeout)
	defer cancel()
	queue, err := f.temporal.DescribeTaskQueue(ctx, fleet.Queue, enumspb.TASK_QUEUE_TYPE_WORKFLOW)
	if err == nil && len(queue.GetPollers()) == 0 {
		fmt.Fprintln(f.errOut, "drover: no worker of role orchestrator is there now; the fleet goes on when one is started")
	}
}

// describe finds the newest life of a fleet.
func (f *fleets) describe(ctx context.Context, name string) (*workflowpb.WorkflowExecutionInfo, error) {
	description, err := f.temporal.DescribeWorkflowExecution(ctx, fleet.WorkflowID(name), "")
	switch {
	case isNotFound(err):
		return nil, fmt.Errorf("no fleet is called %q: %q lists them, and %q starts one", name, "drover fleet list", "drover fleet apply -f FILE")
	case err != nil:
		return nil, fmt.Errorf("fleet %s: %w", name, f.temporalError(err))
	}
	return description.GetWorkflowExecutionInfo(), nil
}

// running is describe for what can only be done to a fleet that has not ended.
func (f *fleets) running(ctx context.Context, name string) error {
	info, err := f.describe(ctx, name)
	if err != nil || info.Status == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
		return err
	}
	text := fmt.Sprintf("fleet %s has ended", name)
	if status, err := f.statusOf(ctx, name, info); err == nil {
		text += " (" + string(status.Status) + ")"
	}
	return fmt.Errorf("%s: to migrate anew what is not migrated, apply its manifest again", text)
}

func (f *fleets) status(ctx context.Context, name string) (*fleet.Status, error) {
	info, err := f.describe(ctx, name)
	if err != nil {
		return nil, err
	}
	return f.statusOf(ctx, name, info)
}

// statusOf reads the status of one life of a fleet. One that has ended in order left it as its result, and needs no
// worker to tell.
func (f *fleets) statusOf(ctx context.Context, name string, info *workflowpb.WorkflowExecutionInfo) (*fleet.Status, error) {
	runID := info.GetExecution().GetRunId()
	if info.Status == enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED {
		status := &fleet.Status{}
		if err := f.temporal.GetWorkflow(ctx, fleet.WorkflowID(name), runID).Get(ctx, status); err != nil {
			return nil, fmt.Errorf("fleet %s: %w", name, f.temporalError(err))
		}
		return status, nil
	}
	status, err := f.query(ctx, name, runID)
	if info.Status == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING || info.Status == enumspb.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW {
		return status, err
	}
	if err != nil {
		status = &fleet.Status{Name: name, Servers: []fleet.MigrationStatus{}, Reason: err.Error()}
	}
	switch info.Status {
	case enumspb.WORKFLOW_EXECUTION_STATUS_CANCELED:
		status.Status = fleet.Cancelled
	case enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED:
		status.Status = fleet.Cancelled
		status.Reason = "its workflow was terminated from outside: what its migrations left is still there"
	default:
		status.Status = fleet.CompletedWithFailures
		status.Reason = f.cause(ctx, name, runID)
	}
	return status, nil
}

// cause says why a fleet's workflow failed.
func (f *fleets) cause(ctx context.Context, name, runID string) string {
	err := f.temporal.GetWorkflow(ctx, fleet.WorkflowID(name), runID).Get(ctx, nil)
	var application *temporal.ApplicationError
	switch {
	case errors.As(err, &application):
		return application.Message()
	case err != nil:
		return err.Error()
	}
	return ""
}

func (f *fleets) query(ctx context.Context, name, runID string) (*fleet.Status, error) {
	asking, cancel := context.WithTimeout(ctx, temporalQueryTimeout)
	defer cancel()
	value, err := f.temporal.QueryWorkflow(asking, fleet.WorkflowID(name), runID, fleet.QueryStatus)
	if err != nil {
		return nil, f.unanswered(ctx, name, err)
	}
	status := &fleet.Status{}
	if err := value.Get(status); err != nil {
		return nil, fmt.Errorf("fleet %s: %w", name, err)
	}
	return status, nil
}

// unanswered explains an error of what a worker has to answer.
func (f *fleets) unanswered(ctx context.Context, name string, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case isTimeout(err):
		return fmt.Errorf("fleet %s: no worker answers: is one of role orchestrator running? (%w)", name, err)
	}
	return fmt.Errorf("fleet %s: %w", name, f.temporalError(err))
}

func (c *cli) fleetListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the fleets, newest first",
		Long:    "List the fleets, newest first, also those that ended, for as long as Temporal keeps them. A fleet that was applied\nmore than once is there once, as it is now.",
		Example: "  drover fleet list\n  drover fleet list -o json | jq -r '.[] | select(.status == \"Running\") | .name'",
		Args:    exactArgs(),
		RunE:    c.fleetRun(func(ctx context.Context, f *fleets, _ []string) error { return f.list(ctx) }),
	}
}

// listed is a fleet in fleet list -o json.
type listed struct {
	Name   string      `json:"name"`
	Status fleet.State `json:"status"`
	Wave   string      `json:"wave"`
	// Servers counts the migrations: Done, Failed (or cancelled) and Open together.
	Servers   int       `json:"servers"`
	Done      int       `json:"done"`
	Failed    int       `json:"failed"`
	Open      int       `json:"open"`
	StartedAt time.Time `json:"startedAt"`
	EndedAt   time.Time `json:"endedAt,omitzero"`
	// Error says why the status could not be read; the counts are then 0.
	Error string `json:"error,omitempty"`
}

func (f *fleets) list(ctx context.Context) error {
	lives, err := f.lives(ctx)
	if err != nil {
		return err
	}
	list := make([]listed, len(lives))
	calls, ctx := errgroup.WithContext(ctx)
	calls.SetLimit(parallelCalls)
	for i, info := range lives {
		calls.Go(func() error {
			list[i] = f.listed(ctx, info)
			return ctx.Err()
		})
	}
	if err := calls.Wait(); err != nil {
		return err
	}
	if f.json() {
		return f.printJSON(list)
	}
	t := table.New("NAME", "STATUS", "WAVE", ">SERVERS", ">DONE", ">FAILED", ">OPEN", "STARTED", "ENDED")
	for _, l := range list {
		counts := []string{"-", "-", "-", "-"}
		if l.Error == "" {
			counts = []string{strconv.Itoa(l.Servers), strconv.Itoa(l.Done), strconv.Itoa(l.Failed), strconv.Itoa(l.Open)}
		} else {
			fmt.Fprintln(f.errOut, "drover:", l.Error)
		}
		t.Add(l.Name, string(l.Status), orDash(l.Wave), counts[0], counts[1], counts[2], counts[3], clock(l.StartedAt), clock(l.EndedAt))
	}
	return t.Write(f.out, "")
}

// lives lists the newest life of every fleet, newest first.
func (f *fleets) lives(ctx context.Context) (lives []*workflowpb.WorkflowExecutionInfo, err error) {
	seen := map[string]bool{}
	request := &workflowservice.ListWorkflowExecutionsRequest{
		Query: fmt.Sprintf("WorkflowType = '%s' AND ExecutionStatus != 'ContinuedAsNew'", fleet.WorkflowType),
	}
	for {
		page, err := f.temporal.ListWorkflow(ctx, request)
		if err != nil {
			return nil, fmt.Errorf("list the fleets: %w", f.temporalError(err))
		}
		for _, info := range page.GetExecutions() {
			if id := info.GetExecution().GetWorkflowId(); !seen[id] {
				seen[id] = true
				lives = append(lives, info)
			}
		}
		if request.NextPageToken = page.GetNextPageToken(); len(request.NextPageToken) == 0 {
			break
		}
	}
	slices.SortStableFunc(lives, func(a, b *workflowpb.WorkflowExecutionInfo) int {
		return b.GetStartTime().AsTime().Compare(a.GetStartTime().AsTime())
	})
	return lives, nil
}

func (f *fleets) listed(ctx context.Context, info *workflowpb.WorkflowExecutionInfo) listed {
	name := strings.TrimPrefix(info.GetExecution().GetWorkflowId(), fleet.WorkflowID(""))
	l := listed{Name: name, Status: fleet.Running, StartedAt: info.GetStartTime().AsTime()}
	if info.CloseTime != nil {
		l.EndedAt = info.GetCloseTime().AsTime()
	}
	status, err := f.statusOf(ctx, name, info)
	if err != nil {
		l.Error = err.Error()
		return l
	}
	l.Status, l.Wave, l.Servers = status.Status, status.Wave, len(status.Servers)
	l.Done, l.Failed, l.Open = status.Counts()
	return l
}

func (c *cli) fleetStatusCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "status NAME",
		Short:   "Show a fleet and the migration of each of its servers",
		Example: "  drover fleet status dc-exit\n  drover fleet status dc-exit -o json | jq -r '.servers[] | select(.phase == \"Failed\") | .name'",
		Args:    exactArgs("NAME"),
		RunE: c.fleetRun(func(ctx context.Context, f *fleets, args []string) error {
			status, err := f.status(ctx, args[0])
			if err != nil {
				return err
			}
			return f.showStatus(status)
		}),
	}
}

func (c *cli) showStatus(status *fleet.Status) error {
	if c.json() {
		return c.printJSON(status)
	}
	done, failed, open := status.Counts()
	var head fields
	head.add("Fleet", status.Name)
	head.add("Status", string(status.Status))
	head.add("Reason", status.Reason)
	head.add("Wave", status.Wave)
	head.add("Servers", fmt.Sprintf("%d: %d done, %d failed, %d to go", len(status.Servers), done, failed, open))
	if err := head.write(c.out); err != nil || len(status.Servers) == 0 {
		return err
	}
	t := table.New("WAVE", "SERVER", "PHASE", "JOB STATUS", ">RUNS", ">ATTEMPTS", "JOB ID", "IMAGE ID", "NOTE")
	for _, s := range status.Servers {
		t.Add(s.Wave, s.Name, string(s.Phase), orDash(s.Status), strconv.Itoa(s.Runs), strconv.Itoa(s.Attempts), orDash(s.JobID), orDash(s.ImageID), noteOf(s))
	}
	if err := c.printf("\n"); err != nil {
		return err
	}
	return t.Write(c.out, "")
}

// noteOf says what a migration waits for, or what went wrong and what it left.
func noteOf(s fleet.MigrationStatus) string {
	var parts []string
	for _, part := range []string{s.Error, s.Reason} {
		if part != "" && !slices.Contains(parts, part) {
			parts = append(parts, part)
		}
	}
	if s.Remains != "" {
		parts = append(parts, "remains: "+s.Remains)
	}
	return strings.Join(parts, "; ")
}

func (c *cli) fleetCancelCommand() *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:   "cancel NAME [--wait]",
		Short: "Stop a fleet and delete the jobs it made",
		Long: `Stop a fleet: nothing new is started, and each migration that is not done stops and deletes its job. Images stay. With
--wait the command ends when all that is done, and shows what remains.`,
		Example: "  drover fleet cancel dc-exit --wait",
		Args:    exactArgs("NAME"),
		RunE:    c.fleetRun(func(ctx context.Context, f *fleets, args []string) error { return f.cancel(ctx, args[0], wait) }),
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until it has ended, and show what remains")
	return cmd
}

func (f *fleets) cancel(ctx context.Context, name string, wait bool) error {
	info, err := f.describe(ctx, name)
	if err != nil {
		return err
	}
	if info.Status == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
		// It may have ended a moment ago: then it is not there to cancel.
		if err := f.temporal.CancelWorkflow(ctx, fleet.WorkflowID(name), ""); err != nil && !isNotFound(err) {
			return fmt.Errorf("fleet %s is not cancelled: %w", name, f.temporalError(err))
		}
		if !wait {
			if f.json() {
				return f.printJSON(map[string]string{"name": name})
			}
			return f.printf("fleet %s is being cancelled; %q shows how far it is\n", name, "drover fleet watch "+name)
		}
		f.warnOfNoWorker(ctx)
		// Whatever it ends with is in its status.
		if err := f.temporal.GetWorkflow(ctx, fleet.WorkflowID(name), "").Get(ctx, nil); err != nil && ctx.Err() != nil {
			return ctx.Err()
		}
	}
	status, err := f.status(ctx, name)
	if err != nil {
		return err
	}
	return f.showRemains(status)
}

// showRemains says what a fleet that has ended left of each server. It fails when that is not what cancel is for.
func (f *fleets) showRemains(status *fleet.Status) error {
	var left []string
	for _, s := range status.Servers {
		if s.Phase == fleet.PhaseCancelled && s.Error != "" {
			left = append(left, s.Name)
		}
	}
	if f.json() {
		if err := f.printJSON(status); err != nil {
			return err
		}
	} else {
		if err := f.printf("fleet %s: %s\n", status.Name, status.Status); err != nil {
			return err
		}
		if len(status.Servers) > 0 {
			t := table.New("SERVER", "PHASE", "JOB ID", "IMAGE ID", "REMAINS")
			for _, s := range status.Servers {
				remains := s.Remains
				if remains == "" && s.Phase == fleet.PhaseDone {
					remains = "its image"
				}
				t.Add(s.Name, string(s.Phase), orDash(s.JobID), orDash(s.ImageID), orDash(remains))
			}
			if err := t.Write(f.out, ""); err != nil {
				return err
			}
		}
	}
	switch {
	case status.Status != fleet.Cancelled:
		return fmt.Errorf("fleet %s had ended before it was cancelled: it is %s", status.Name, status.Status)
	case len(left) > 0:
		return fmt.Errorf("fleet %s is cancelled, but not all could be removed: %s", status.Name, strings.Join(left, ", "))
	}
	return nil
}

func (c *cli) fleetResumeCommand() *cobra.Command {
	var retryFailed bool
	cmd := &cobra.Command{
		Use:   "resume NAME [--retry-failed]",
		Short: "Have a paused fleet go on",
		Long: `Have a fleet go on that paused because more migrations of a wave failed than its maxFailures. They stay failed, and no
longer count. With --retry-failed they are migrated again.`,
		Example: "  drover fleet resume dc-exit --retry-failed && drover fleet watch dc-exit",
		Args:    exactArgs("NAME"),
		RunE:    c.fleetRun(func(ctx context.Context, f *fleets, args []string) error { return f.resume(ctx, args[0], retryFailed) }),
	}
	cmd.Flags().BoolVar(&retryFailed, "retry-failed", false, "migrate the failed servers again")
	return cmd
}

func (f *fleets) resume(ctx context.Context, name string, retryFailed bool) error {
	if err := f.running(ctx, name); err != nil {
		return err
	}
	trying, stop := context.WithTimeout(ctx, temporalTryTimeout)
	defer stop()
	handle, err := f.temporal.UpdateWorkflow(trying, client.UpdateWorkflowOptions{
		WorkflowID: fleet.WorkflowID(name), UpdateName: fleet.UpdateResume,
		Args: []any{fleet.ResumeRequest{RetryFailed: retryFailed}}, WaitForStage: client.WorkflowUpdateStageCompleted,
	})
	if err == nil {
		err = handle.Get(trying, nil)
	}
	var refused *temporal.ApplicationError
	switch {
	case errors.As(err, &refused):
		return errors.New(refused.Message())
	case err != nil:
		return f.unanswered(ctx, name, err)
	}
	status, err := f.status(ctx, name)
	if err != nil {
		return fmt.Errorf("fleet %s goes on, but cannot be read: %w", name, err)
	}
	if f.json() {
		return f.printJSON(status)
	}
	_, failed, open := status.Counts()
	return f.printf("fleet %s goes on: %s to go, %d stay failed\n", name, plural(open, "server"), failed)
}

func (c *cli) fleetCutOverCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "cutover NAME [SERVER...]",
		Short: "Cut over incremental jobs of a fleet",
		Long: `Cut over incremental jobs of a fleet: each makes one last run, and its image is the result. Without a SERVER that is
every job that rests between its runs, or has made a run already; one that is running is cut over when it rests. A
SERVER that has made no run yet is cut over after its first.`,
		Example: "  drover fleet cutover dc-exit db-1 db-2\n  drover fleet cutover dc-exit",
		Args:    leastArgs("NAME"),
		RunE:    c.fleetRun(func(ctx context.Context, f *fleets, args []string) error { return f.cutOver(ctx, args[0], args[1:]) }),
	}
}

// cutOverAsked is what was done about one server.
type cutOverAsked struct {
	Name     string      `json:"name"`
	SourceID string      `json:"sourceId"`
	JobID    string      `json:"jobId"`
	Phase    fleet.Phase `json:"phase"`
}

func (f *fleets) cutOver(ctx context.Context, name string, servers []string) error {
	if err := f.running(ctx, name); err != nil {
		return err
	}
	status, err := f.status(ctx, name)
	if err != nil {
		return err
	}
	chosen, err := chooseForCutOver(status, servers)
	if err != nil {
		return err
	}
	asked := []cutOverAsked{}
	for _, s := range chosen {
		if err := f.temporal.SignalWorkflow(ctx, fleet.MigrationID(name, s.SourceID), "", fleet.SignalCutOver, nil); err != nil {
			if isNotFound(err) {
				err = errors.New("its migration has ended")
			}
			return fmt.Errorf("server %s is not cut over: %w", s.Name, f.temporalError(err))
		}
		if !f.json() {
			when := "now"
			if s.Phase != fleet.PhaseWaiting {
				when = "when its job is Waiting; it is " + string(s.Phase)
			}
			if err := f.printf("server %s is cut over %s\n", s.Name, when); err != nil {
				return err
			}
		}
		asked = append(asked, cutOverAsked{s.Name, s.SourceID, s.JobID, s.Phase})
	}
	if f.json() {
		return f.printJSON(asked)
	}
	return nil
}

// chooseForCutOver finds the migrations of the servers named, or all that are known to be incremental and have a run to
// cut over to. All or none: a mistake in one name cuts nothing over.
func chooseForCutOver(status *fleet.Status, servers []string) ([]fleet.MigrationStatus, error) {
	var chosen []fleet.MigrationStatus
	if len(servers) == 0 {
		for _, s := range status.Servers {
			// A one-time job has its first image when it is Finished; one with an image that is not was incremental.
			betweenRuns := s.Phase == fleet.PhaseWaiting && s.Status == string(smc.StatusWaiting)
			if betweenRuns || s.Runs > 0 && slices.Contains([]fleet.Phase{
				fleet.PhaseQueued, fleet.PhaseStarting, fleet.PhaseReplicate, fleet.PhaseBackoff, fleet.PhaseWaiting,
			}, s.Phase) {
				chosen = append(chosen, s)
			}
		}
		if len(chosen) == 0 {
			return nil, fmt.Errorf("no incremental job of fleet %s has made a run: there is nothing to cut over", status.Name)
		}
		return chosen, nil
	}
	for _, server := range servers {
		i := slices.IndexFunc(status.Servers, func(s fleet.MigrationStatus) bool { return s.Name == server || s.SourceID == server })
		switch {
		case i < 0:
			return nil, inputf("fleet %s has no server %q; %q lists them", status.Name, server, "drover fleet status "+status.Name)
		case status.Servers[i].Phase.Ended(), status.Servers[i].Phase == fleet.PhaseCancelling:
			return nil, fmt.Errorf("server %s cannot be cut over: its migration is %s", server, status.Servers[i].Phase)
		}
		chosen = append(chosen, status.Servers[i])
	}
	return chosen, nil
}
