package activities

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/drover/drover/center/agentapi"
	"github.com/drover/drover/center/store"
	"github.com/drover/drover/replica"
	"github.com/drover/drover/smc"
)

// documented are the codes of docs/errors.md that a job can be InError with.
func documented() map[string]bool {
	codes := map[string]bool{}
	for _, c := range smc.OwnCodes() {
		codes[c.Code] = c.InError
	}
	return codes
}

// A code of the data plane that is in nobody's table would show as an agent's failure.
func TestEveryCodeOfTheDataPlaneIsJudged(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", "replica", "errors.go"), nil, 0)
	require.NoError(t, err)
	found := 0
	ast.Inspect(file, func(n ast.Node) bool {
		constant, ok := n.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(constant.Names[0].Name, "Code") {
			return true
		}
		code, err := strconv.Unquote(constant.Values[0].(*ast.BasicLit).Value)
		require.NoError(t, err)
		found++
		if code == replica.CodeFenced {
			return true // superseded, not failed
		}
		assert.Contains(t, codeOf, code)
		assert.True(t, documented()[codeOf[code]], "docs/errors.md does not say that a job can be InError with %s", codeOf[code])
		return true
	})
	require.Greater(t, found, 15)
	for _, code := range []string{
		smc.CodeSourceServerOffline, smc.CodeSourceServerUnreachable, smc.CodeSourceServerFailing, smc.CodeTransitionHostUnavailable, smc.CodeInvalidSourceIDNotFound,
		smc.CodeSourceDiskChanged,
	} {
		assert.True(t, documented()[code], code)
	}
}

func TestFailuresSayWhatAndWhere(t *testing.T) {
	source := &store.Source{Name: "web-1", Server: agentapi.Server{Disks: []agentapi.Disk{
		{Index: 0, Path: "/dev/sda", Parts: []agentapi.Part{
			{Device: "0_0", Path: "/boot", OffsetBytes: 1 << 20, SizeBytes: 1 << 20}, {Device: "0_1", OffsetBytes: 2 << 20, SizeBytes: 1 << 30},
		}},
		{Index: 1, Path: "/dev/sdb"},
	}}}
	for name, test := range map[string]struct {
		err      error
		code     string
		retryFor time.Duration
		info     string
	}{
		"in a partition with a name": {
			&replica.Error{Code: replica.CodeSourceReadError, Message: "EIO", Disk: 0, Offset: 1<<20 + 4096}, smc.CodeSourceDiskReadError, 0,
			"source server web-1, disk 0 (/dev/sda), partition 0_0 (/boot), byte 4096 of it: EIO",
		},
		"in one without": {
			&replica.Error{Code: replica.CodeSourceReadError, Message: "EIO", Disk: 0, Offset: 2 << 20}, smc.CodeSourceDiskReadError, 0,
			"source server web-1, disk 0 (/dev/sda), partition 0_1, byte 0 of it: EIO",
		},
		"in the partition table": {
			&replica.Error{Code: replica.CodeSourceReadError, Message: "EIO", Disk: 0}, smc.CodeSourceDiskReadError, 0,
			"source server web-1, disk 0 (/dev/sda), byte 0, outside of its partitions: EIO",
		},
		"on a disk without partitions": {
			&replica.Error{Code: replica.CodeSyncedStateCorrupt, Message: "bad", Disk: 1, Offset: 65536}, smc.CodeImageVerificationFailed, 0,
			"source server web-1, disk 1 (/dev/sdb), byte 65536: bad",
		},
		"nowhere on a disk": {
			&replica.Error{Code: replica.CodeSourceReadError, Message: "gone", Disk: 1, Offset: replica.NoOffset}, smc.CodeSourceDiskReadError, 0,
			"source server web-1, disk 1 (/dev/sdb): gone",
		},
		"of the host's disk": {
			fmt.Errorf("x: %w", &replica.Error{Code: replica.CodeStorageError, Message: "EIO", Disk: replica.NoDisk}), smc.CodeTransitionHostStorageError, 10 * time.Minute, "EIO",
		},
		"of a damaged line": {&replica.Error{Code: replica.CodeGrainHashMismatch, Message: "hash", Disk: replica.NoDisk}, smc.CodeSourceServerDamagedData, 10 * time.Minute, "hash"},
		"of an agent that is newer": {
			&replica.Error{Code: "Moonphase", Message: "full", Disk: replica.NoDisk}, smc.CodeSourceServerFailing, 10 * time.Minute,
			"the agent of the source server reports: full (Moonphase)",
		},
		"of the database": {errors.New("locked"), smc.CodeInternalError, 30 * time.Minute, "locked"},
		"with a code":     {smc.Errorf(smc.CodeTransitionHostNoSpace, "full"), smc.CodeTransitionHostNoSpace, 0, "full"},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, failure{test.code, test.info, test.retryFor}, failureOf(test.err, source))
		})
	}
	f := failureOf(&replica.Error{Code: replica.CodeSourceReadError, Message: "EIO"}, nil)
	require.Equal(t, "EIO", f.info)
}

// troubledFor records that a run has had a trouble for so long.
func (f *fixture) troubledFor(lasted time.Duration, in PhaseInput, code string) {
	f.t.Helper()
	earlier, err := store.Open(f.t.Context(), f.database, store.WithClock(func() time.Time { return time.Now().Add(-lasted) }))
	require.NoError(f.t, err)
	defer earlier.Close()
	_, err = earlier.NoteTrouble(f.t.Context(), in.JobID, in.Run, code, "it fails")
	require.NoError(f.t, err)
}

// What no retry mends is not retried.
func TestLastingStorageErrors(t *testing.T) {
	f := newFixture(t)
	in := f.start(0)
	f.sync(in)
	images := filepath.Join(f.root, "images")
	require.NoError(t, os.RemoveAll(images))
	require.NoError(t, os.WriteFile(images, nil, 0o600))
	failed := applicationFailure(t, f.do(f.a.Process, in))
	require.Equal(t, smc.CodeTransitionHostStorageError, failed.Type())
	require.True(t, failed.NonRetryable(), unix.ENOTDIR.Error())
	require.Empty(t, f.job(in.JobID).Trouble)
}

// A failure that may pass is told while it lasts, cleared by progress, and given up when its time is over.
func TestTroubleIsToldAndGivenUp(t *testing.T) {
	f := newFixture(t)
	in := f.start(0)
	f.sync(in)
	maps := filepath.Join(f.root, "staging", in.JobID, "disk-0.map")
	require.NoError(t, os.Rename(maps, maps+".away"))
	failed := applicationFailure(t, f.do(f.a.Process, in))
	require.Equal(t, smc.CodeTransitionHostStorageError, failed.Type())
	require.False(t, failed.NonRetryable())
	require.Equal(t, firstRetry, failed.NextRetryDelay())
	job := f.job(in.JobID)
	require.Equal(t, smc.StatusRunning, job.Status)
	require.Equal(t, smc.CodeTransitionHostStorageError, job.Trouble.Code)
	require.Contains(t, job.Info(), "since "+smc.FormatTime(job.Trouble.Since))
	require.Contains(t, job.Info(), "no such file")

	// It has failed for eleven minutes.
	require.NoError(t, f.record.ClearTroubles(t.Context(), in.JobID, 1))
	require.Empty(t, f.job(in.JobID).Info())
	f.troubledFor(11*time.Minute, in, smc.CodeTransitionHostStorageError)
	failed = applicationFailure(t, f.do(f.a.Process, in))
	require.True(t, failed.NonRetryable())
	require.Contains(t, failed.Message(), "tried again since")

	// The job fails and is started again: its time begins anew.
	require.NoError(t, f.record.Fail(t.Context(), in.JobID, "fail", 1, failed.Type(), failed.Message()))
	in = f.run(in.JobID, smc.TriggerStart)
	failed = applicationFailure(t, f.do(f.a.Process, in))
	require.False(t, failed.NonRetryable())
	require.NoError(t, os.Rename(maps+".away", maps))
	require.NoError(t, f.do(f.a.Process, in))
	require.Empty(t, f.job(in.JobID).Info(), "a transition ends every trouble")
	require.NoError(t, f.do(f.a.Clean, in))
}

// A synced state that was damaged on the host is synced again when the job is started, not stuck for ever.
func TestDamagedStagingIsSyncedAgain(t *testing.T) {
	f := newFixture(t)
	in := f.start(0)
	f.sync(in)
	raw, err := os.OpenFile(filepath.Join(f.root, "staging", in.JobID, "disk-0.raw"), os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = raw.WriteAt([]byte("damaged"), 1<<20)
	require.NoError(t, errors.Join(err, raw.Close()))
	failed := applicationFailure(t, f.do(f.a.Process, in))
	require.Equal(t, smc.CodeImageVerificationFailed, failed.Type())
	require.True(t, failed.NonRetryable())
	require.Contains(t, failed.Message(), "byte 1048576")
	require.NoError(t, f.record.Fail(t.Context(), in.JobID, "fail", 1, failed.Type(), failed.Message()))
	before := f.job(in.JobID).Runs[0].BytesSentRaw
	in = f.run(in.JobID, smc.TriggerStart)
	f.sync(in)
	require.Equal(t, before+replica.GrainSize, f.job(in.JobID).Runs[0].BytesSentRaw, "what was damaged, and no more")
	require.NoError(t, f.do(f.a.Process, in))
	f.requireImage(imageID(in.JobID, 1), true)
}

// A host that dies in the middle of the work again and again does not do so for ever.
func TestWorkThatKillsItsHost(t *testing.T) {
	f := newFixture(t)
	in := f.start(0)
	job := f.job(in.JobID)
	require.NoError(t, f.a.takeUp(t.Context(), in, job))
	require.Equal(t, smc.CodeTransitionHostUnavailable, f.job(in.JobID).Trouble.Code)
	require.NoError(t, f.a.takeUp(t.Context(), in, job), "within its time")
	require.NoError(t, f.record.ClearTroubles(t.Context(), in.JobID, 1))
	f.troubledFor(time.Hour, in, smc.CodeTransitionHostUnavailable)
	require.Equal(t, smc.CodeTransitionHostUnavailable, smc.CodeOf(f.a.takeUp(t.Context(), in, job)))
}

// awaitInfo waits until a job's StatusInfo has all of the words.
func (f *fixture) awaitInfo(id string, words ...string) *store.Job {
	f.t.Helper()
	var job *store.Job
	require.Eventually(f.t, func() bool {
		job = f.job(id)
		for _, word := range words {
			if !strings.Contains(job.Info(), word) {
				return false
			}
		}
		return true
	}, 20*time.Second, 10*time.Millisecond, "%v", words)
	return job
}

func TestSourceThatStaysAway(t *testing.T) {
	f := newFixture(t)
	f.a.SourceQuiet, f.a.SourceWait = 10*time.Millisecond, 10*time.Millisecond
	in := f.start(0)
	require.NoError(t, f.do(f.a.Prepare, in))
	failed := applicationFailure(t, f.do(f.a.Sync, in))
	require.Equal(t, smc.CodeSourceServerOffline, failed.Type())
	require.True(t, failed.NonRetryable())
	require.Contains(t, failed.Message(), "source server web has not been heard of since")
	require.Contains(t, failed.Message(), "start its agent")
	require.Equal(t, smc.StatusRunning, f.job(in.JobID).Status, "the workflow writes that")

	// The wait of the attempt before the host was restarted counts.
	require.NoError(t, f.record.ClearTroubles(t.Context(), in.JobID, 1))
	f.a.SourceWait = time.Hour
	f.troubledFor(time.Hour, in, smc.CodeSourceServerOffline)
	require.Equal(t, smc.CodeSourceServerOffline, applicationFailure(t, f.do(f.a.Sync, in)).Type())
}

func TestSourceThatReturns(t *testing.T) {
	f := newFixture(t)
	f.a.SourceQuiet = 10 * time.Millisecond
	in := f.start(0)
	require.NoError(t, f.do(f.a.Prepare, in))
	synced := make(chan error, 1)
	go func() { synced <- f.do(f.a.Sync, in) }()
	job := f.awaitInfo(in.JobID, "since ", "not been heard of", "waits for it for 30m", smc.CodeSourceServerOffline)
	require.Equal(t, smc.BusinessSyncing, job.BusinessStatus)
	require.Empty(t, job.ErrorCode, "it is not InError")
	require.NoError(t, <-f.agent(t.Context(), in.JobID, nil))
	require.NoError(t, <-synced)
	require.Empty(t, f.job(in.JobID).Info())
}

func TestSourceThatReachesTheCenterOnly(t *testing.T) {
	f := newFixture(t)
	f.a.SourceQuiet = 10 * time.Millisecond
	in := f.start(0)
	require.NoError(t, f.do(f.a.Prepare, in))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		ticker := time.NewTicker(20 * time.Millisecond)
		defer ticker.Stop()
		for {
			_ = f.record.Heartbeat(ctx, f.sourceID, agentapi.Server{Disks: []agentapi.Disk{{Path: f.disk, SizeBytes: diskSize}}})
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	synced := make(chan error, 1)
	go func() { synced <- f.do(f.a.Sync, in) }()
	f.awaitInfo(in.JobID, "reports to the center", f.url, smc.CodeSourceServerUnreachable)
	require.NoError(t, f.record.Stop(t.Context(), in.JobID, "stop"))
	require.Equal(t, TypeSuperseded, applicationFailure(t, <-synced).Type(), "Stop ends the wait")
	require.Empty(t, f.job(in.JobID).Info())
}

func TestRoomIsTakenBeforeARun(t *testing.T) {
	f := newFixture(t)
	in := f.start(0)
	big := agentapi.Server{Disks: []agentapi.Disk{{Path: f.disk, SizeBytes: 1 << 45, UsedBytes: 1 << 45}}}
	require.NoError(t, f.record.Heartbeat(t.Context(), f.sourceID, big))
	failed := applicationFailure(t, f.do(f.a.Prepare, in))
	require.Equal(t, smc.CodeTransitionHostNoSpace, failed.Type())
	require.True(t, failed.NonRetryable())
	require.Contains(t, failed.Message(), "needs 32.1 TiB at "+f.root)
	require.Contains(t, failed.Message(), "other runs still need 0 MiB")
	require.Equal(t, smc.BusinessPreparing, f.job(in.JobID).BusinessStatus)
	require.Empty(t, f.staging(), "nothing was made")
	require.NoError(t, f.record.Fail(t.Context(), in.JobID, "fail", 1, failed.Type(), failed.Message()))

	// A sparse disk takes what it holds, and its map.
	big.Disks[0].SizeBytes, big.Disks[0].UsedBytes = 1<<40, 4<<20
	require.NoError(t, f.record.Heartbeat(t.Context(), f.sourceID, big))
	require.NoError(t, f.do(f.a.Prepare, f.run(in.JobID, smc.TriggerStart)))
}

func TestSpaceNeeded(t *testing.T) {
	const size, used, maps = 1 << 30, 600 << 20, 512 << 10
	once, keep := false, 2
	job := func(run int, incremental bool, increments ...int64) *store.Job {
		job := &store.Job{Run: run}
		if incremental {
			job.Spec.RunOnce, job.Spec.MaxNumberOfImageToKeep = &once, &keep
		}
		for i, sent := range increments {
			job.Runs = append(job.Runs, store.Run{Number: i + 1, Status: smc.RunSucceeded, BytesSentRaw: sent})
		}
		return job
	}
	file := &store.Source{Server: agentapi.Server{Disks: []agentapi.Disk{{SizeBytes: size, UsedBytes: used}}}}
	device := &store.Source{Server: agentapi.Server{Disks: []agentapi.Disk{{SizeBytes: size, UsedBytes: size}}}}
	staged := int64(used + maps)
	container := func(job *store.Job) *store.Job {
		target := string(smc.TargetContainerImage)
		job.Spec.TargetType = &target
		return job
	}
	for name, test := range map[string]struct {
		job     *store.Job
		source  *store.Source
		space   replica.Space
		written int64
		want    int64
	}{
		"one run: the image is a link":        {job(1, false), file, replica.Space{}, 0, used + 2*maps},
		"a device may be full":                {job(1, false), device, replica.Space{}, 0, size + 2*maps},
		"resumed: what is there is there":     {job(1, false), file, replica.Space{StagedBytes: 100 << 20}, 100 << 20, used - 100<<20 + 2*maps},
		"the first of several, with reflinks": {job(1, true), file, replica.Space{SharesBlocks: true}, 0, used + 2*maps},
		"the first of several, with a copy":   {job(1, true), file, replica.Space{}, 0, 2*(used+maps) + maps},
		"the second: a tenth changes":         {job(2, true, 9), file, replica.Space{StagedBytes: staged, SharesBlocks: true}, 0, staged/10 + maps},
		"the fourth: as much as ever":         {job(4, true, 9, 50<<20, 40<<20), file, replica.Space{StagedBytes: staged, SharesBlocks: true}, 0, 50<<20 + maps},
		"the fourth, half done":               {job(4, true, 9, 50<<20, 40<<20), file, replica.Space{StagedBytes: staged, SharesBlocks: true}, 30 << 20, 20<<20 + maps},
		"overwriting takes no room":           {job(2, true, 9), file, replica.Space{StagedBytes: staged}, 0, staged + maps},
		"a container image is never a link":   {container(job(1, false)), file, replica.Space{SharesBlocks: true}, 0, 2*(used+maps) + maps},
		"the fourth of a device":              {job(4, true, 9, 50<<20, 40<<20), device, replica.Space{StagedBytes: staged, SharesBlocks: true}, 0, 50<<20 + maps},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, test.want, spaceNeeded(test.job, test.source, test.space, test.written))
		})
	}
}

func TestAmounts(t *testing.T) {
	for n, want := range map[int64]string{0: "0 MiB", 1: "1 MiB", 5 << 20: "5 MiB", 1 << 30: "1.0 GiB", 1<<30 + 1: "1.1 GiB", 3 << 39: "1.5 TiB"} {
		require.Equal(t, want, amount(n))
	}
}
