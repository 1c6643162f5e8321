package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/drover/drover/smc"
	"github.com/drover/drover/starter/progress"
	"github.com/drover/drover/starter/table"
)

func (c *cli) jobCommand() *cobra.Command {
	cmd := group("job", "Replication jobs: what copies a source server into an image",
		c.jobCreateCommand(), c.jobListCommand(), c.jobShowCommand(), c.jobModifyCommand(), c.jobWatchCommand(),
		c.jobActionCommand(jobAction{
			verb: "start", short: "Start a job, or resume one that was stopped or failed", done: "started",
			long: "Start a job that is Ready, or resume one that is Stopped or InError: what is copied already is not copied again.",
			do: func(ctx context.Context, client *smc.Client, id string) error {
				_, err := client.StartReplicationJob(ctx, &smc.StartReplicationJobRequest{JobID: id})
				return err
			},
		}),
		c.jobActionCommand(jobAction{
			verb: "stop", short: "Stop a job that is Syncing", done: "stopped",
			long: "Stop a job that is Running and Syncing. Start resumes it where it left off.",
			do: func(ctx context.Context, client *smc.Client, id string) error {
				_, err := client.StopReplicationJob(ctx, &smc.StopReplicationJobRequest{JobID: id})
				return err
			},
		}),
		c.jobCutOverCommand(),
		c.jobActionCommand(jobAction{
			verb: "run", short: "Run an incremental job now", done: "is running",
			long: "Make one run of an incremental job that is Waiting. Its rhythm stays as it is. An extension of Drover's center.",
			do: func(ctx context.Context, client *smc.Client, id string) error {
				_, err := client.RunReplicationJob(ctx, &smc.RunReplicationJobRequest{JobID: id})
				return err
			},
		}),
		c.jobActionCommand(jobAction{
			verb: "delete", short: "Delete a job that is not Running; its images stay", gone: true,
			long: "Delete a job that is not Running, with what the transition host keeps for it. Its images stay.",
			do: func(ctx context.Context, client *smc.Client, id string) error {
				_, err := client.DeleteReplicationJob(ctx, &smc.DeleteReplicationJobRequest{JobID: id})
				return err
			},
		}))
	return cmd
}

// jobFlags are the flags of job create.
type jobFlags struct {
	request        smc.CreateReplicationJobRequest
	parameters     jobParameters
	source         string
	tags           []string
	runOnce, start bool
}

func (c *cli) jobCreateCommand() *cobra.Command {
	var f jobFlags
	req := &f.request
	f.parameters = jobParameters{
		name: &req.Name, description: &req.Description, imageName: &req.ImageName, systemDiskSize: &req.SystemDiskSize,
		systemDiskPart: &req.SystemDiskPart, dataDisk: &req.DataDisk, frequency: &req.Frequency, maxImages: &req.MaxNumberOfImageToKeep,
		replicationParameters: &req.ReplicationParameters, scheduledStartTime: &req.ScheduledStartTime, validTime: &req.ValidTime,
		targetType: &req.TargetType, instanceID: &req.InstanceID, instanceType: &req.InstanceType, instanceRAMRole: &req.InstanceRAMRole,
		launchTemplateID: &req.LaunchTemplateID, launchTemplateVersion: &req.LaunchTemplateVersion,
		containerNamespace: &req.ContainerNamespace, containerRepository: &req.ContainerRepository, containerTag: &req.ContainerTag,
		vSwitchID: &req.VSwitchID, vpcID: &req.VpcID, netMode: &req.NetMode,
	}
	cmd := &cobra.Command{
		Use:   "create --source SOURCE [--name NAME] [--image-name NAME] [--system-disk-size GIB] [flags]",
		Short: "Make a job for a source server",
		Long: `Make a job for a source server. It is Ready until it is started, by --start, by "drover job start" or at --schedule.

A job runs once and is Finished, or with --run-once=false copies what has changed every --frequency hours, keeps the
last --max-images images, and is Waiting in between until it is cut over. Data disks are copied all, at their own size,
when no --data-disk is given. A job that is given no --valid-time expires in 30 days.`,
		Example: `  drover job create --source web-1 --name web-1 --image-name web-1 --system-disk-size 40 --start
  drover job create --source db-1 --name db-1 --image-name db-1 --system-disk-size 40 --data-disk 1=200 \
      --run-once=false --frequency 12 --max-images 3 --start
  drover job create --source app-1 --name app-1 --image-name app-1 --system-disk-size 40 \
      --replication-parameters '{"bandwidth_limit":50000,"compress_level":3}' --schedule +6h
  drover job create --source web-2 --tag wave=1 --tag team=web --system-disk-size 40 --part 0_0=42949672960 \
      --net-mode 2 --vswitch-id vsw-1`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.source == "" {
				return usagef("--source SOURCE is missing")
			}
			optional(cmd.Flags().Changed("run-once"), &req.RunOnce, f.runOnce)
			if err := f.parameters.read(time.Now()); err != nil {
				return err
			}
			if f.start && req.ScheduledStartTime != nil {
				return usagef("--schedule and --start exclude each other: exactly one of them starts the job")
			}
			var err error
			if req.Tag, err = parseTags(f.tags); err != nil {
				return err
			}
			client, err := c.clientWithRegion()
			if err != nil {
				return err
			}
			return c.createJob(cmd.Context(), client, f)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.source, "source", "", "the `SOURCE` server, by id or name")
	flags.BoolVar(&f.runOnce, "run-once", true, "false makes the job incremental; needs --frequency and --max-images")
	flags.BoolVar(&f.start, "start", false, "start the job at once")
	f.parameters.flags(flags)
	flags.StringArrayVar(&f.tags, "tag", nil, "`KEY=VALUE` to tag the job with; may be repeated")
	textFlag(flags, &req.LicenseType, "license-type", "`TYPE` of the license of the image")
	textFlag(flags, &req.ResourceGroupID, "resource-group-id", "`ID` of the job's resource group")
	intFlag(flags, &req.JobType, "job-type", "type of the job, 0 to 3; a self-hosted center has 0 only (default 0)")
	textFlag(flags, &req.ClientToken, "client-token", "`TOKEN` that makes the call safe to repeat for 7 days (default: a new one)")
	return cmd
}

// optional sets a parameter that was given. Absent and empty are not the same.
func optional[T any](given bool, parameter **T, value T) {
	if given {
		*parameter = &value
	}
}

// parseTime reads a time as people write it and returns it in the form of the API.
func parseTime(s string, now time.Time) (string, error) {
	if rest, ok := strings.CutPrefix(s, "+"); ok {
		d, err := time.ParseDuration(rest)
		if err != nil || d < 0 {
			return "", fmt.Errorf("%q is not a time from now like +2h30m", s)
		}
		return smc.FormatTime(now.Add(d)), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return "", fmt.Errorf("%q is not a time like 2030-01-31T02:00:00Z or +2h30m", s)
	}
	return smc.FormatTime(t), nil
}

func (c *cli) createJob(ctx context.Context, client *smc.Client, f jobFlags) error {
	source, err := findSource(ctx, client, f.source)
	if err != nil {
		return err
	}
	f.request.SourceID = source.SourceID
	created, err := client.CreateReplicationJob(ctx, &f.request)
	if err != nil {
		return err
	}
	done := "created"
	if f.start {
		if _, err := client.StartReplicationJob(ctx, &smc.StartReplicationJobRequest{JobID: created.JobID}); err != nil {
			return fmt.Errorf("job %s is created but not started: %w", created.JobID, err)
		}
		done = "created and started"
	}
	return jobLookup(ctx, client).report(c, created.JobID, done)
}

func phaseOf(status smc.JobStatus, phase smc.BusinessStatus) string {
	if status == smc.StatusRunning && phase != "" {
		return string(status) + "/" + string(phase)
	}
	return string(status)
}

func (c *cli) jobListCommand() *cobra.Command {
	var filter jobFilter
	cmd := &cobra.Command{
		Use:   "list [flags]",
		Short: "List the jobs, newest first",
		Long:  "List the jobs, newest first: all of them, or those for which everything that is given holds.",
		Example: `  drover job list
  drover job list --status Running -o json
  drover job list --tag wave=1 --status InError`,
		Args: exactArgs(),
		RunE: c.withClient(func(ctx context.Context, client *smc.Client, _ []string) error {
			jobs, err := filter.list(ctx, client)
			if err != nil {
				return err
			}
			if c.json() {
				return c.printJSON(jobs)
			}
			running, err := runningDetails(ctx, client, jobs)
			if err != nil {
				return err
			}
			t := table.New("JOB ID", "NAME", "STATUS", ">PROGRESS", ">RATE", ">LEFT", ">RUNS", "SOURCE ID", "IMAGE ID", "CREATED", "ERROR")
			for _, j := range jobs {
				rate, left := "", ""
				if d := running[j.JobID]; d != nil {
					rate, left = rateAndLeft(d.BytesPerSecond, d.EtaSeconds)
				}
				t.Add(j.JobID, orDash(j.Name), phaseOf(j.Status, j.BusinessStatus), progress.Percent(j.Progress), orDash(rate), orDash(left), strconv.Itoa(len(j.ReplicationJobRuns)),
					j.SourceID, orDash(j.ImageID), localTime(j.CreationTime), j.ErrorCode)
			}
			return t.Write(c.out, "")
		}),
	}
	filter.flags(cmd.Flags())
	return cmd
}

// runningDetails reads the live details of those of the jobs that are Syncing, by id; nothing where the endpoint offers none. A job that is
// gone meanwhile has none.
func runningDetails(ctx context.Context, client *smc.Client, jobs []smc.ReplicationJob) (map[string]*smc.DescribeReplicationJobDetailsResult, error) {
	details := make([]*smc.DescribeReplicationJobDetailsResult, len(jobs))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelCalls)
	for i, job := range jobs {
		if job.Status != smc.StatusRunning || job.BusinessStatus != smc.BusinessSyncing {
			continue
		}
		group.Go(func() error {
			d, err := client.DescribeReplicationJobDetails(ctx, &smc.DescribeReplicationJobDetailsRequest{JobID: job.JobID})
			if notOffered(err) || smc.CodeOf(err) == smc.CodeInvalidJobIDNotFound {
				return nil
			}
			details[i] = d
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	byID := make(map[string]*smc.DescribeReplicationJobDetailsResult, len(jobs))
	for i, job := range jobs {
		byID[job.JobID] = details[i]
	}
	return byID, nil
}

// rateAndLeft renders how fast a job copies and for how long it will; nothing for what cannot be said.
func rateAndLeft(bytesPerSecond, etaSeconds int64) (rate, left string) {
	if bytesPerSecond > 0 {
		rate = progress.Rate(bytesPerSecond)
	}
	if etaSeconds >= 0 {
		left = progress.Duration(time.Duration(etaSeconds) * time.Second)
	}
	return rate, left
}

// jobView is a job with its live detail, where the endpoint offers that.
type jobView struct {
	smc.ReplicationJob
	*jobDetail
}

// jobDetail is what the live detail of a job adds to it.
type jobDetail struct {
	Run            int                  `json:"Run"`
	BytesTotal     int64                `json:"BytesTotal"`
	BytesRead      int64                `json:"BytesRead"`
	BytesSent      int64                `json:"BytesSent"`
	BytesPerSecond int64                `json:"BytesPerSecond"`
	EtaSeconds     int64                `json:"EtaSeconds"`
	Runs           smc.List[smc.JobRun] `json:"Runs"`
	Sequence       int64                `json:"Sequence"`
}

// notOffered reports that the endpoint does not know an extension of ours, or that the access key may not use it.
func notOffered(err error) bool {
	code := smc.CodeOf(err)
	return code == smc.CodeInvalidActionNotFound || code == smc.CodeForbiddenUnauthorized
}

func (c *cli) jobShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "show JOB",
		Short:   "Show a job and its runs, by id or name",
		Example: "  drover job show web-1\n  drover job show web-1 -o json | jq -r .StatusInfo",
		Args:    exactArgs("JOB"),
		RunE: withOne(c, findJob, func(ctx context.Context, client *smc.Client, job smc.ReplicationJob) error {
			view := jobView{ReplicationJob: job}
			d, err := client.DescribeReplicationJobDetails(ctx, &smc.DescribeReplicationJobDetailsRequest{JobID: job.JobID})
			switch {
			case err == nil:
				view.jobDetail = &jobDetail{
					d.Run, d.BytesTotal, d.BytesRead, d.BytesSent, d.BytesPerSecond, d.EtaSeconds, d.Runs, d.Sequence,
				}
			case !notOffered(err):
				return err
			}
			if c.json() {
				return c.printJSON(view)
			}
			return c.showJob(view)
		}),
	}
}

func (c *cli) showJob(j jobView) error {
	var f fields
	f.add("Job id", j.JobID)
	f.add("Name", j.Name)
	f.add("Description", j.Description)
	f.add("Status", phaseOf(j.Status, j.BusinessStatus))
	f.add("Progress", progress.Percent(j.Progress))
	if d := j.jobDetail; d != nil && d.BytesTotal > 0 {
		f.add("Read", progress.Bytes(d.BytesRead)+" of "+progress.Bytes(d.BytesTotal))
		f.add("Sent", progress.Bytes(d.BytesSent))
		if j.Status == smc.StatusRunning {
			rate, left := rateAndLeft(d.BytesPerSecond, d.EtaSeconds)
			f.add("Rate", rate)
			f.add("Time left", left)
		}
	}
	f.add("Error", j.ErrorCode)
	f.add("Status info", j.StatusInfo)
	f.add("Source", j.SourceID)
	f.add("Target", string(j.TargetType))
	f.add("Image", strings.TrimSpace(j.ImageID+" "+j.ImageName))
	f.add("System disk", diskSize(j.SystemDiskSize))
	for _, p := range j.SystemDiskParts {
		f.add("  "+p.Device, partText(smc.Part(p)))
	}
	for _, d := range j.DataDisks {
		f.add(fmt.Sprintf("Data disk %d", d.Index), diskSize(d.Size))
		for _, p := range d.Parts {
			f.add("  "+p.Device, partText(p))
		}
	}
	f.add("Network", strings.TrimSpace(j.VSwitchID+" "+j.VpcID))
	f.add("Instance", strings.TrimSpace(j.InstanceID+" "+j.InstanceType))
	f.add("Resource group", j.ResourceGroupID)
	for _, tag := range j.Tags {
		f.add("Tag", tag.Key+"="+tag.Value)
	}
	if !j.RunOnce {
		f.add("Rhythm", fmt.Sprintf("every %d h, the last %d images are kept", j.Frequency, j.MaxNumberOfImageToKeep))
	}
	f.add("Parameters", j.ReplicationParameters)
	f.add("Transition host", j.TransitionInstanceID)
	f.add("Created", localTime(j.CreationTime))
	f.add("Scheduled", localTime(j.ScheduledStartTime))
	f.add("Started", localTime(j.StartTime))
	f.add("Ended", localTime(j.EndTime))
	f.add("Valid until", localTime(j.ValidTime))
	if err := f.write(c.out); err != nil || j.jobDetail == nil || len(j.Runs) == 0 {
		return err
	}
	t := table.New(">RUN", "TYPE", "STATUS", "STARTED", ">DURATION", ">READ", ">SENT", "IMAGE ID")
	for _, r := range j.Runs {
		t.Add(strconv.Itoa(r.Number), string(r.Type), string(r.Status), localTime(r.StartTime),
			progress.Duration(time.Duration(r.DurationSeconds*float64(time.Second))),
			progress.Bytes(r.BytesRead), progress.Bytes(r.BytesSent), orDash(r.ImageID))
	}
	if err := c.printf("\n"); err != nil {
		return err
	}
	return t.Write(c.out, "")
}

// partText is a partition as it was asked for.
func partText(p smc.Part) string {
	text := progress.Bytes(p.SizeBytes)
	if p.SizeBytes == 0 {
		text = "as it is"
	}
	if !p.Block {
		text += ", not by blocks"
	}
	return text
}

// jobAction is a command that does one thing to a job.
type jobAction struct {
	verb, short, long, done string
	// gone: the job cannot be described any more, for it is deleted.
	gone bool
	do   func(ctx context.Context, client *smc.Client, id string) error
}

func (c *cli) jobActionCommand(a jobAction) *cobra.Command {
	return &cobra.Command{
		Use:     a.verb + " JOB",
		Short:   a.short,
		Long:    a.long + "\n\nJOB is an id or a name.",
		Example: "  drover job " + a.verb + " web-1",
		Args:    exactArgs("JOB"),
		RunE: c.withClient(func(ctx context.Context, client *smc.Client, args []string) error {
			return c.actOnJob(ctx, client, args[0], a)
		}),
	}
}

func (c *cli) actOnJob(ctx context.Context, client *smc.Client, ref string, a jobAction) error {
	id, err := findJobID(ctx, client, ref)
	if err != nil {
		return err
	}
	if err := a.do(ctx, client, id); err != nil {
		return err
	}
	if a.gone {
		return c.reportGone("job", "JobId", id, "")
	}
	return jobLookup(ctx, client).report(c, id, a.done)
}

func (c *cli) jobCutOverCommand() *cobra.Command {
	var syncData bool
	cmd := &cobra.Command{
		Use:   "cutover JOB [--sync-data]",
		Short: "End an incremental job that is Waiting, with or without a last run",
		Long: `End an incremental job that is Waiting. With --sync-data one last run copies what has changed since; without it
the newest image is the result. JOB is an id or a name.`,
		Example: "  drover job cutover db-1 --sync-data && drover job watch db-1",
		Args:    exactArgs("JOB"),
		RunE: c.withClient(func(ctx context.Context, client *smc.Client, args []string) error {
			return c.actOnJob(ctx, client, args[0], jobAction{
				done: "cut over",
				do: func(ctx context.Context, client *smc.Client, id string) error {
					_, err := client.CutOverReplicationJob(ctx, &smc.CutOverReplicationJobRequest{JobID: id, SyncData: &syncData})
					return err
				},
			})
		}),
	}
	cmd.Flags().BoolVar(&syncData, "sync-data", false, "make one last run first")
	return cmd
}

// How often a job that is watched is asked about, and how long the endpoint may be silent meanwhile.
const (
	watchEvery       = time.Second
	watchEveryCoarse = 5 * time.Second // an endpoint without live detail
	watchPatience    = 2 * time.Minute
)

// silence is how long nobody may answer before a person who watches is told.
const silence = 10 * time.Second

// patience is how a command that watches bears that nobody answers.
type patience struct {
	heard time.Time // when somebody did last
	told  bool
}

func newPatience() patience { return patience{heard: time.Now()} }

func (p *patience) answered() { *p = newPatience() }

// bear returns the error when it has lasted for too long, and tells it once before that.
func (p *patience) bear(w io.Writer, view *progress.View, err error) error {
	silent := time.Since(p.heard)
	if silent > watchPatience {
		return err
	}
	if silent > silence && !p.told {
		p.told = true
		view.Clear() // it is drawn again with the next answer
		fmt.Fprintf(w, "drover: %v; still trying\n", err)
	}
	return nil
}

func (c *cli) jobWatchCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "watch JOB",
		Short: "Show the progress of a job until it rests",
		Long: `Show the progress of a job until it rests: a bar on a terminal, lines elsewhere, one JSON object a line with -o json.

A job that is Ready is waited for. The exit code is 0 when the job is Finished or Waiting, and 1 when it is InError,
Stopped, Expired or deleted.`,
		Example: "  drover job watch web-1\n  drover job watch web-1 -o json | jq -r .Progress",
		Args:    exactArgs("JOB"),
		RunE:    withOne(c, findJob, c.watchJob),
	}
}

// watched is one line of job watch -o json.
type watched struct {
	smc.DescribeReplicationJobDetailsResult
	Name     string `json:"Name"`
	SourceID string `json:"SourceId"`
}

func (c *cli) watchJob(ctx context.Context, client *smc.Client, job smc.ReplicationJob) error {
	view := progress.NewView(c.out, progress.Auto)
	defer view.Close()
	every, patience := watchEvery, newPatience()
	var last *smc.DescribeReplicationJobDetailsResult
	for {
		// One that hangs is as good as one that is away: the retries of one call would outlast all patience.
		asking, cancel := context.WithTimeout(ctx, silence)
		d, coarse, err := liveDetail(asking, client, job.JobID)
		cancel()
		switch {
		case err == nil:
			patience.answered()
			if coarse {
				every = watchEveryCoarse
			}
			if err := c.showWatched(view, job, d, last); err != nil {
				return err
			}
			last = d
			if rests, err := outcome(job, d); rests {
				if err == nil && view.Live() && !c.json() && len(d.Runs) > 0 {
					// On a narrow terminal the line of the bar may be cut off.
					err = c.printf("job %s is %s, image %s\n", nameAfterID(job.JobID, job.Name), d.Status, orDash(d.Runs[len(d.Runs)-1].ImageID))
				}
				return err
			}
		case ctx.Err() != nil:
			return ctx.Err()
		case smc.ClassOf(err) != smc.Retryable:
			return err
		default:
			if err := patience.bear(c.errOut, view, err); err != nil {
				return err
			}
		}
		timer := time.NewTimer(every)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

func (c *cli) showWatched(view *progress.View, job smc.ReplicationJob, d, last *smc.DescribeReplicationJobDetailsResult) error {
	if !c.json() {
		view.Update(progress.OfJob(cmp.Or(job.Name, job.JobID), d))
		return nil
	}
	same := last != nil && d.Status == last.Status && d.BusinessStatus == last.BusinessStatus && d.Run == last.Run &&
		d.Progress == last.Progress && d.BytesRead == last.BytesRead && d.BytesSent == last.BytesSent && d.StatusInfo == last.StatusInfo
	if same {
		return nil
	}
	return c.printLine(watched{*d, job.Name, job.SourceID})
}

// liveDetail reads the live detail of a job. For an endpoint that has none it is made of what Describe says.
func liveDetail(ctx context.Context, client *smc.Client, id string) (d *smc.DescribeReplicationJobDetailsResult, coarse bool, err error) {
	d, err = client.DescribeReplicationJobDetails(ctx, &smc.DescribeReplicationJobDetailsRequest{JobID: id})
	if !notOffered(err) {
		return d, false, err
	}
	job, err := findJob(ctx, client, id)
	if err != nil {
		return nil, true, err
	}
	d = &smc.DescribeReplicationJobDetailsResult{
		JobID: job.JobID, Status: job.Status, BusinessStatus: job.BusinessStatus, Run: len(job.ReplicationJobRuns),
		Progress: job.Progress, EtaSeconds: -1, ErrorCode: job.ErrorCode, StatusInfo: job.StatusInfo,
	}
	if job.Status == smc.StatusRunning {
		d.Run++
	}
	return d, true, nil
}

// outcome says whether a job rests and, when it does not rest well, why.
func outcome(job smc.ReplicationJob, d *smc.DescribeReplicationJobDetailsResult) (rests bool, err error) {
	switch d.Status {
	case smc.StatusReady, smc.StatusRunning:
		return false, nil
	case smc.StatusFinished, smc.StatusWaiting:
		return true, nil
	case smc.StatusInError:
		return true, fmt.Errorf("job %s is InError: %s: %s", nameAfterID(job.JobID, job.Name), d.ErrorCode, d.StatusInfo)
	case smc.StatusStopped, smc.StatusExpired, smc.StatusDeleting:
	}
	text := fmt.Sprintf("job %s is %s", nameAfterID(job.JobID, job.Name), d.Status)
	if d.StatusInfo != "" {
		text += ": " + d.StatusInfo
	}
	return true, errors.New(text)
}
