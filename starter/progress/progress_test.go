package progress

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/drover/drover/smc"
)

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 96 << 20: "96.0 MiB", 1<<20 - 1: "1.0 MiB",
		1 << 40: "1.0 TiB", 1<<63 - 1: "8.0 EiB", -2048: "-2.0 KiB",
	} {
		assert.Equal(t, want, Bytes(n), "%d", n)
	}
	assert.Equal(t, "45.0 MiB/s", Rate(45<<20))
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0.0s", 420 * time.Millisecond: "0.4s", 9949 * time.Millisecond: "9.9s", 9960 * time.Millisecond: "10s",
		59600 * time.Millisecond: "1m00s", 185 * time.Second: "3m05s", 2*time.Hour + 7*time.Minute: "2h07m",
		76 * time.Hour: "3d04h", -time.Minute: "-1m00s",
	} {
		assert.Equal(t, want, Duration(d), "%v", d)
	}
}

func TestWidthCountsColumns(t *testing.T) {
	assert.Equal(t, 4, Width("服务"))
	assert.Equal(t, "服务  |", Pad("服务", 6)+"|")
	assert.Equal(t, "服", clip("服务", 3))
	assert.Equal(t, "long", Pad("long", 2))
}

func TestOfJob(t *testing.T) {
	detail := smc.DescribeReplicationJobDetailsResult{
		Status: smc.StatusRunning, BusinessStatus: smc.BusinessSyncing, Run: 2, Progress: 40,
		BytesTotal: 100, BytesRead: 40, BytesPerSecond: 7, EtaSeconds: 9,
	}
	s := OfJob("web-1", &detail)
	assert.Equal(t, State{
		Name: "web-1", Phase: "Syncing", Run: 2, Percent: 40, BytesTotal: 100, BytesRead: 40, BytesPerSecond: 7, ETA: 9 * time.Second,
	}, s)

	waiting := detail
	waiting.BytesPerSecond, waiting.EtaSeconds, waiting.StatusInfo = 0, -1, "since 2026-05-01T12:00:00Z: the source is away"
	assert.Equal(t, waiting.StatusInfo, OfJob("web-1", &waiting).Note, "what keeps it from getting on")

	detail.BytesRead = 100
	s = OfJob("web-1", &detail)
	assert.Zero(t, s.BytesPerSecond, "nothing is read any more")
	assert.Negative(t, s.ETA)

	detail.Status, detail.BusinessStatus, detail.Runs = smc.StatusFinished, "", smc.List[smc.JobRun]{{ImageID: "m-1"}}
	s = OfJob("web-1", &detail)
	assert.True(t, s.Resting)
	assert.Equal(t, "Finished", s.Phase)
	assert.Equal(t, "m-1", s.Note)

	detail.Status, detail.ErrorCode = smc.StatusInError, "SourceDisk.ReadError"
	assert.Equal(t, "SourceDisk.ReadError", OfJob("web-1", &detail).Note, "what is wrong is more than the image of before")
}

func testView(mode Mode) (*View, *bytes.Buffer, *time.Time) {
	var out bytes.Buffer
	now := time.Unix(1000, 0)
	v := NewView(&out, mode)
	v.ascii, v.now = true, func() time.Time { return now }
	return v, &out, &now
}

func TestBarsAreRedrawnInPlace(t *testing.T) {
	v, out, _ := testView(Bars)
	assert.True(t, v.Live())
	syncing := State{
		Name: "web-1", Phase: "Syncing", Run: 1, Percent: 50, BytesTotal: 192 << 20, BytesRead: 96 << 20, BytesPerSecond: 12 << 20, ETA: 8 * time.Second,
	}
	v.Update(syncing, State{Name: "db", Phase: "Ready", ETA: -1, Resting: true})
	assert.Equal(t,
		"web-1  Syncing     ###########...........  50%   96.0 MiB/192.0 MiB   12.0 MiB/s  ETA 8s      run 1\n"+
			"db     Ready       ......................   0%\n", out.String())

	out.Reset()
	v.Printf("a line\n")
	assert.Regexp(t, `^\x1b\[2A\r\x1b\[Ja line\nweb-1  Syncing`, out.String(), "the bars are taken off, and drawn again below the line")
	assert.Equal(t, 3, strings.Count(out.String(), "\n"))

	out.Reset()
	v.Clear()
	assert.Equal(t, "\x1b[2A\r\x1b[J", out.String())
	out.Reset()
	v.Update(syncing)
	assert.NotContains(t, out.String(), "\x1b", "there is nothing to erase")
	v.Close()
	out.Reset()
	v.Update(syncing)
	assert.NotContains(t, out.String(), "\x1b", "what was drawn before Close stays")
}

func TestBarsOfManyFitTheTerminal(t *testing.T) {
	v, out, _ := testView(Bars)
	v.rows = func() int { return 4 }
	states := []State{{Name: "web-1", ETA: -1}, {Name: "web-2", ETA: -1}, {Name: "web-3", ETA: -1}, {Name: "web-4", ETA: -1}}
	v.Update(states[:3]...)
	assert.Equal(t, 3, strings.Count(out.String(), "\n"), "the cursor takes the fourth row")
	out.Reset()
	v.Update(states...)
	assert.Regexp(t, `^\x1b\[3A\r\x1b\[Jweb-1 .*\nweb-2 .*\nand 2 more\n$`, out.String())
	out.Reset()
	v.Clear()
	assert.Equal(t, "\x1b[3A\r\x1b[J", out.String())
}

func TestBarsFitTheTerminal(t *testing.T) {
	v, out, _ := testView(Bars)
	for _, columns := range []int{20, 40, 80, 200} {
		out.Reset()
		v.width = func() int { return columns }
		v.Update(State{Name: strings.Repeat("n", 60), Phase: "Syncing", Percent: 99.9, BytesTotal: 1 << 40, BytesRead: 1, ETA: time.Hour, Note: strings.Repeat("x", 90)})
		for line := range strings.Lines(out.String()) {
			line = line[strings.LastIndex(line, "J")+1:]
			assert.Less(t, Width(strings.TrimRight(line, "\n")), columns)
		}
	}
	assert.Contains(t, out.String(), " 99%", "it is 100 when it is done")

	out.Reset()
	v.width = func() int { return 80 }
	v.Update(State{Name: "web-01", Phase: "Processing", Percent: 100, BytesTotal: 999 << 20, BytesRead: 999 << 20, BytesPerSecond: 999 << 20, ETA: 59*time.Minute + 59*time.Second})
	assert.Contains(t, out.String(), "999.0 MiB/999.0 MiB  999.0 MiB/s  ETA 59m59s\n", "the usual terminal shows all that matters")
}

func TestLinesAreFew(t *testing.T) {
	v, out, now := testView(Auto)
	assert.False(t, v.Live(), "a buffer is no terminal")
	s := State{Name: "web-1", Phase: "Syncing", Run: 1, BytesTotal: 100 << 20, ETA: -1}
	lines := func() (n int) {
		v.Update(s)
		n = strings.Count(out.String(), "\n")
		assert.NotContains(t, out.String(), "\x1b")
		out.Reset()
		return n
	}
	assert.Equal(t, 1, lines(), "the first")
	assert.Equal(t, 0, lines(), "nothing new")
	s.Percent = 5
	assert.Equal(t, 0, lines(), "too little, too soon")
	*now = now.Add(6 * time.Second)
	assert.Equal(t, 1, lines(), "a little, after some time")
	*now = now.Add(time.Hour)
	assert.Equal(t, 0, lines(), "no progress, however long")
	s.Percent = 25
	assert.Equal(t, 1, lines(), "a step")
	s.Phase = "Processing"
	assert.Equal(t, 1, lines(), "a phase")
	s.Note = "m-1"
	assert.Equal(t, 1, lines(), "a note")
}

func TestUTF8Locale(t *testing.T) {
	env := func(pairs ...string) func(string) string {
		return func(name string) string {
			for i := 0; i < len(pairs); i += 2 {
				if pairs[i] == name {
					return pairs[i+1]
				}
			}
			return ""
		}
	}
	assert.True(t, utf8Locale(env("LANG", "en_US.UTF-8")))
	assert.True(t, utf8Locale(env("LC_ALL", "C.utf8", "LANG", "C")))
	assert.False(t, utf8Locale(env("LC_ALL", "C", "LANG", "en_US.UTF-8")))
	assert.False(t, utf8Locale(env()))
}
