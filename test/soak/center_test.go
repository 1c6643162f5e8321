package soak

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"golang.org/x/sync/errgroup"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/test/stack"
	"github.com/drover/drover/workflows"
)

// slow bounds what has no limit of its own: the machine may have other work.
const slow = 5 * time.Minute

// center is an embedded stack with many jobs.
type center struct {
	*stack.Stack
	b        *testing.B
	temporal client.Client
	sources  []source
}

// source is a source server that has one job.
type source struct{ name, token, sourceID, jobID string }

func newCenter(b *testing.B) *center {
	b.Helper()
	c := &center{Stack: stack.ForTest(b, stack.Options{Embedded: true, DevArgs: []string{"--log-level", "warn"}}), b: b}
	c.connect()
	return c
}

func (c *center) connect() {
	c.b.Helper()
	var err error
	c.temporal, err = c.ConnectTemporal(c.b.Context())
	require.NoError(c.b, err)
	c.b.Cleanup(c.temporal.Close)
}

// restart stops the stack, has between do its work, takes its Temporal away and starts it again: it starts the entities of all jobs.
func (c *center) restart(between func(record *store.Store, db *sql.DB)) {
	c.b.Helper()
	require.NoError(c.b, c.Dev.Stop(20*time.Second))
	sealer, err := store.LoadSealer(c.Env()["DROVER_SECRET_KEY_FILE"])
	require.NoError(c.b, err)
	record, err := store.Open(c.b.Context(), c.Database.URL, store.WithSealer(sealer))
	require.NoError(c.b, err)
	db, err := c.Database.Open()
	require.NoError(c.b, err)
	between(record, db)
	require.NoError(c.b, db.Close())
	require.NoError(c.b, record.Close())
	require.NoError(c.b, os.RemoveAll(filepath.Join(c.Data, "temporal")))
	ctx, cancel := context.WithTimeout(c.b.Context(), slow)
	defer cancel()
	require.NoError(c.b, c.Dev.Restart(ctx))
	c.connect()
	c.awaitEntities()
}

// fill makes jobs until there are n, each Waiting after its first run. All sources are silent.
func (c *center) fill(record *store.Store, n int) {
	c.b.Helper()
	ctx, env := c.b.Context(), c.Env()
	hostID, err := os.ReadFile(filepath.Join(c.Data, "images", "host-id"))
	require.NoError(c.b, err)
	host := strings.TrimSpace(string(hostID))
	require.NoError(c.b, record.HostHeartbeat(ctx, host, "http://127.0.0.1:1"))
	var group errgroup.Group
	group.SetLimit(48) // no more may be Running; writes that wait share a commit
	made := make([]source, n-len(c.sources))
	code := ""
	for i := range made {
		if i%1000 == 0 {
			code = rand.Text()
			token := store.AccessToken{AccessTokenID: store.NewID("at"), AccountID: env["DROVER_ACCOUNT"], RegionID: env["DROVER_REGION"], Count: 1000, TTLDays: 1}
			require.NoError(c.b, record.CreateAccessToken(ctx, token, code))
		}
		code, name := code, fmt.Sprintf("source-%d", len(c.sources)+i)
		group.Go(func() (err error) {
			made[i], err = makeWaiting(ctx, record, env, code, name)
			return err
		})
	}
	require.NoError(c.b, group.Wait())
	c.sources = append(c.sources, made...)
	_, err = record.MarkOffline(ctx, time.Now().Add(time.Hour))
	require.NoError(c.b, err)
}

// diskSize is what the played agents serve: a disk of 16 grains.
const diskSize = 1 << 20

var server = agentapi.Server{
	Hostname: "web", Platform: "Debian", Architecture: "x86_64", KernelLevel: 6, AgentVersion: "soak",
	Disks: []agentapi.Disk{{Path: "/dev/vda", SizeBytes: diskSize, UsedBytes: diskSize}},
}

// makeWaiting registers a source server and takes a weekly job of it through its first run.
func makeWaiting(ctx context.Context, record *store.Store, env map[string]string, code, name string) (source, error) {
	const quota = 1 << 20
	made := source{name: name, token: rand.Text()}
	registered, err := record.RegisterSource(ctx, code, made.token, name, name, server, quota)
	if err != nil {
		return made, err
	}
	once, frequency, keep, never := false, 168, 2, ""
	made.sourceID = registered.SourceID
	made.jobID, err = record.CreateJob(ctx, env["DROVER_ACCOUNT"], smc.CreateReplicationJobRequest{
		RegionID: env["DROVER_REGION"], SourceID: made.sourceID, RunOnce: &once, Frequency: &frequency, MaxNumberOfImageToKeep: &keep, ValidTime: &never,
	}, quota)
	if err != nil {
		return made, err
	}
	if _, err := record.StartRun(ctx, made.jobID, "1", smc.TriggerStart, smc.RunManual, store.CutOverNone); err != nil {
		return made, err
	}
	if err := record.BeginSync(ctx, made.jobID, "2", 1, "http://127.0.0.1:1", diskSize); err != nil {
		return made, err
	}
	if err := record.EndSync(ctx, made.jobID, "3", 1); err != nil {
		return made, err
	}
	disks := []store.ImageDisk{{SizeBytes: diskSize, DeliveredSizeBytes: diskSize}}
	if err := record.EndProcessing(ctx, made.jobID, "4", 1, store.NewID("m"), disks); err != nil {
		return made, err
	}
	status, err := record.EndRun(ctx, made.jobID, "5", 1, false)
	if err == nil && status != smc.StatusWaiting {
		err = fmt.Errorf("job %s is %s", made.jobID, status)
	}
	return made, err
}

// awaitEntities waits until every job has its entity, until entities wait by timers, and until all events are out.
func (c *center) awaitEntities() {
	c.b.Helper()
	request := &workflowservice.CountWorkflowExecutionsRequest{Query: `WorkflowType = 'ReplicationJob' AND ExecutionStatus = 'Running'`}
	stack.Eventually(c.b, slow, "every job has its entity", func() (bool, any) {
		open, err := c.temporal.CountWorkflow(c.b.Context(), request)
		if err != nil {
			return false, err
		}
		return open.Count == int64(len(c.sources)), open.Count
	})
	for i := 0; i < len(c.sources); i += max(1, len(c.sources)/8) { // some of them
		stack.Eventually(c.b, slow, "the entity has its timer", func() (bool, any) {
			armed, err := c.armed(c.sources[i].jobID)
			return armed == 1 && err == nil, err
		})
	}
	db, err := c.Database.Open()
	require.NoError(c.b, err)
	defer db.Close()
	stack.Eventually(c.b, slow, "all events are out", func() (bool, any) {
		var pending int
		err := db.QueryRowContext(c.b.Context(), `SELECT COUNT(*) FROM outbox WHERE published = 0`).Scan(&pending)
		return pending == 0 && err == nil, pending
	})
}

// armed counts the timers of a job's entity that are running.
func (c *center) armed(jobID string) (timers int, err error) {
	history := c.temporal.GetWorkflowHistory(c.b.Context(), workflows.JobID(jobID), "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for history.HasNext() {
		event, err := history.Next()
		if err != nil {
			return 0, err
		}
		switch event.EventType {
		case enumspb.EVENT_TYPE_TIMER_STARTED:
			timers++
		case enumspb.EVENT_TYPE_TIMER_FIRED, enumspb.EVENT_TYPE_TIMER_CANCELED:
			timers--
		}
	}
	return timers, nil
}

// usage is what the process of the stack has used and holds.
type usage struct {
	at  time.Time
	cpu time.Duration // since its start
	rss float64       // MiB
}

// usage reads /proc, whose clock has 100 ticks a second on every architecture there is.
func (c *center) usage() usage {
	c.b.Helper()
	dir := fmt.Sprintf("/proc/%d", c.Dev.PID())
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	require.NoError(c.b, err)
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // from the third on
	u := usage{at: time.Now()}
	for _, field := range fields[11:13] { // utime and stime
		ticks, err := strconv.ParseInt(field, 10, 64)
		require.NoError(c.b, err)
		u.cpu += time.Duration(ticks) * 10 * time.Millisecond
	}
	statm, err := os.ReadFile(filepath.Join(dir, "statm"))
	require.NoError(c.b, err)
	pages, err := strconv.ParseInt(strings.Fields(string(statm))[1], 10, 64)
	require.NoError(c.b, err)
	u.rss = float64(pages) * float64(os.Getpagesize()) / (1 << 20)
	return u
}

// percent is the processor time from one moment to the next, in percent of one core.
func (u usage) percent(next usage) float64 {
	return 100 * float64(next.cpu-u.cpu) / float64(next.at.Sub(u.at))
}

// idle measures the stack for a while, once it has come to rest.
func (c *center) idle(window time.Duration) (percent, rss float64) {
	c.b.Helper()
	const glance = 3 * time.Second
	last := c.over(glance)
	for range 20 {
		next := c.over(glance)
		if next > last*0.85-1 { // it no longer falls
			break
		}
		last = next
	}
	from := c.usage()
	c.wait(window)
	to := c.usage()
	return from.percent(to), to.rss
}

func (c *center) over(d time.Duration) float64 {
	from := c.usage()
	c.wait(d)
	return from.percent(c.usage())
}

// wait lets time pass: what is measured is what happens in it.
func (c *center) wait(d time.Duration) {
	select {
	case <-time.After(d):
	case <-c.b.Context().Done():
	}
}
