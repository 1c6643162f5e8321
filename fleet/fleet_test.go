package fleet

import (
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"

	"github.com/drover/drover/smc"
	"github.com/drover/drover/test/property"
)

func TestRetryWait(t *testing.T) {
	retry := Retry{Interval: 10 * time.Second, MaxInterval: time.Minute}
	for n, want := range map[int]time.Duration{
		-1: 10 * time.Second, 0: 10 * time.Second, 1: 10 * time.Second, 2: 20 * time.Second, 3: 40 * time.Second, 4: time.Minute, 5: time.Minute,
		math.MaxInt: time.Minute,
	} {
		assert.Equal(t, want, retry.Wait(n), "retry %d", n)
	}
	assert.Equal(t, time.Minute, Retry{Interval: time.Hour, MaxInterval: time.Minute}.Wait(1))
	assert.Equal(t, time.Duration(math.MaxInt64), Retry{Interval: math.MaxInt64/2 + 1, MaxInterval: math.MaxInt64}.Wait(2), "no overflow")
	assert.Zero(t, Retry{MaxInterval: time.Minute}.Wait(math.MaxInt), "no interval, no wait, and no loop without end")

	total := time.Duration(0)
	for n := range DefaultRetry().Limit {
		total += DefaultRetry().Wait(n + 1)
	}
	assert.Equal(t, 310*time.Second, total, "the default gives up after about five minutes")
}

func TestRetryWaitGrows(t *testing.T) {
	property.Check(t, func(t *rapid.T) {
		retry := Retry{
			Interval:    time.Duration(rapid.Int64Range(1, math.MaxInt64).Draw(t, "interval")),
			MaxInterval: time.Duration(rapid.Int64Range(1, math.MaxInt64).Draw(t, "max")),
		}
		last := time.Duration(1)
		for n := range 70 {
			wait := retry.Wait(n + 1)
			if wait < last || wait > retry.MaxInterval {
				t.Fatalf("retry %d of %+v waits %v after %v", n+1, retry, wait, last)
			}
			last = wait
		}
	})
}

func TestJobName(t *testing.T) {
	long := strings.Repeat("数", 128)
	for _, test := range []struct{ fleet, server, want string }{
		{"dc-exit", "web-1", "dc-exit:web-1"},
		{"dc-exit", "数据库-1", "dc-exit:数据库-1"},
		{"dc-exit", "a:b", "dc-exit:a:b"},
		{"f", long[:3*126], "f:" + long[:3*126]}, // 128 characters are allowed, however many bytes
		{"f", long[:3*127], "f:s-1"},
		{"f", "web-1.example.com", "f:s-1"}, // not what a job may be called
		{"f", "with space", "f:s-1"},
		{"f", "", "f:"},
	} {
		got := JobName(test.fleet, test.server, "s-1")
		assert.Equal(t, test.want, got)
		fleet, ok := OfJob(got)
		assert.True(t, ok)
		assert.Equal(t, test.fleet, fleet)
	}
}

func TestJobNameRoundTrip(t *testing.T) {
	property.Check(t, func(t *rapid.T) {
		fleet := rapid.StringMatching(`[A-Za-z][A-Za-z0-9_-]{0,62}`).Draw(t, "fleet")
		server := rapid.OneOf(rapid.String(), rapid.StringMatching(`[\p{Han}A-Za-z0-9:_-]{1,128}`)).Draw(t, "server")
		name := JobName(fleet, server, "s-0123456789abcdefgh")
		if got, ok := OfJob(name); !ok || got != fleet {
			t.Fatalf("%q is of fleet %q, %v", name, got, ok)
		}
		if utf8.RuneCountInString(name) > maxJobName || smc.CheckName("Name", name) != nil {
			t.Fatalf("no job can be called %q", name)
		}
	})
}

func TestJobsOfNoFleet(t *testing.T) {
	for _, name := range []string{"", "web-1", ":web-1", "1st:web", "数据:web", "a b:c", strings.Repeat("f", 64) + ":x"} {
		_, ok := OfJob(name)
		assert.False(t, ok, "%q", name)
	}
}

func TestPhases(t *testing.T) {
	for phase, want := range map[Phase][2]bool{
		PhasePending: {false, false}, PhaseReplicate: {false, false}, PhaseWaiting: {false, true}, PhaseCuttingOver: {false, false},
		PhaseDone: {true, true}, PhaseFailed: {true, true}, PhaseCancelled: {true, true},
	} {
		assert.Equal(t, want, [2]bool{phase.Ended(), phase.Settled()}, phase)
	}
}

func TestCounts(t *testing.T) {
	done, failed, open := Status{Servers: []MigrationStatus{
		{Phase: PhaseDone}, {Phase: PhaseFailed}, {Phase: PhaseCancelled}, {Phase: PhasePending}, {Phase: PhaseWaiting}, {Phase: PhaseReplicate},
	}}.Counts()
	assert.Equal(t, [3]int{1, 2, 3}, [3]int{done, failed, open})
}

func TestWorkflowIDs(t *testing.T) {
	assert.Equal(t, "fleet/dc-exit", WorkflowID("dc-exit"))
	assert.Equal(t, "migration/dc-exit/s-1", MigrationID("dc-exit", "s-1"))
}
