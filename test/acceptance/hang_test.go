//go:build long

package acceptance

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/drover/drover/center/store/storetest"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/test/process"
	"github.com/drover/drover/test/stack"
)

const (
	// hangs is how long each of them does: longer than anything waits for an answer.
	hangs = 45 * time.Second
	// answered is by when a call is, whatever hangs, and back by when everything goes on after it.
	answered = 27 * time.Second
	back     = 30 * time.Second
)

// probe is what was seen of one kind of call while something hung.
type probe struct {
	mu      sync.Mutex
	longest time.Duration
	ok      int
	refused map[string]int
}

func (p *probe) String() string {
	return fmt.Sprintf("at most %v, %d answered, refused %v", p.longest.Round(time.Millisecond), p.ok, p.refused)
}

// call makes one call. Whatever it is refused with may pass.
func (p *probe) call(t *testing.T, name string, do func(context.Context) error) {
	t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), answered+20*time.Second)
	defer cancel()
	err := do(ctx)
	took := time.Since(began)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.longest = max(p.longest, took)
	if err == nil {
		p.ok++
		return
	}
	if p.refused == nil {
		p.refused = map[string]int{}
	}
	code := smc.CodeOf(err)
	p.refused[code]++
	if code == "" || smc.ClassOf(err) != smc.Retryable {
		t.Errorf("%s: %v after %v", name, err, took)
	}
}

// readiness asks a process whether it is ready, and what it says of it.
func readiness(ctx context.Context, p *process.Process) (ready bool, text string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, stack.MetricsURL(p)+"/readyz", http.NoBody)
	if err != nil {
		return false, "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false, "", err
	}
	defer response.Body.Close()
	var said strings.Builder
	for scanner := bufio.NewScanner(response.Body); scanner.Scan(); {
		said.WriteString(scanner.Text() + "; ")
	}
	return response.StatusCode == http.StatusOK, said.String(), nil
}

// figure reads a metric without labels.
func figure(t *testing.T, p *process.Process, name string) float64 {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, stack.MetricsURL(p)+"/metrics", http.NoBody)
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	for scanner := bufio.NewScanner(response.Body); scanner.Scan(); {
		if value, ok := strings.CutPrefix(scanner.Text(), name+" "); ok {
			n, err := strconv.ParseFloat(value, 64)
			require.NoError(t, err)
			return n
		}
	}
	return -1
}

// Everything that the center needs hangs in turn, while jobs sync, rest and wait in the queue and the API is called: it says nothing for a while
// and then goes on. Every call is answered in time, readiness says what hangs, nothing grows, and all goes on by itself.
func TestWhatHangs(t *testing.T) {
	if !storetest.Postgres() {
		t.Skipf("%s names no PostgreSQL server: a file does not hang", storetest.Variable)
	}
	s := newStack(t, stack.Options{
		Postgres: os.Getenv(storetest.Variable), Servers: 2, CenterWorkers: 2, Metrics: true, ServerArgs: []string{"--running-quota", "2", "--rate-limit", "0"},
	})
	server, host := s.Servers[0].Process, s.TransitionHosts[0].Process
	jobs := map[string]string{}
	for i, name := range []string{"goes", "stops"} {
		a := s.startAgent(name, makeDisk(t, filepath.Join(s.Dir, name+".raw"), 512*mib, 400*mib, 16, uint64(i)))
		jobs[name] = s.createJob(a, "--replication-parameters", `{"bandwidth_limit":5000}`, "--start")
	}
	for _, job := range jobs {
		s.awaitSyncing(job, 0.01)
	}
	var spare string
	for i, name := range []string{"queued", "rests", "spare"} {
		a := s.startAgent(name, makeDisk(t, filepath.Join(s.Dir, name+".raw"), 8*mib, mib, 4, uint64(10+i)))
		if name == "spare" {
			spare = a.SourceID
			continue
		}
		jobs[name] = s.createJob(a)
	}
	s.drover("job", "start", jobs["queued"])
	size := 20

	config, err := smc.ConfigFromEnv(func(name string) string { return s.env[name] })
	require.NoError(t, err)
	config.MaxAttempts, config.AttemptTimeout = 1, -1
	client, err := smc.NewClient(config)
	require.NoError(t, err)

	paused := func(all ...*process.Process) (func(), func()) {
		return func() {
				for _, p := range all {
					require.NoError(t, p.Pause())
				}
			}, func() {
				for _, p := range all {
					p.Continue()
				}
			}
	}
	type dependency struct {
		name       string
		says       string // what readiness calls it
		hang, mend func()
	}
	list := []dependency{{name: "PostgreSQL", says: "database", hang: func() { require.NoError(t, s.Database.Hang(t.Context())) }, mend: func() { require.NoError(t, s.Database.Mend()) }}}
	for _, p := range []*process.Process{s.NATS, s.Temporal} {
		d := dependency{name: p.Name, says: p.Name}
		d.hang, d.mend = paused(p)
		list = append(list, d)
	}
	d := dependency{name: "transition-host"}
	d.hang, d.mend = paused(host)
	list = append(list, d)
	d = dependency{name: "endpoint"}
	d.hang, d.mend = paused(s.Servers[0].Process, s.Servers[1].Process)
	list = append(list, d)
	watched := []*process.Process{server, s.CenterWorkers[0], host}
	for _, d := range list {
		t.Run(d.name, func(t *testing.T) {
			before := map[string]float64{}
			for _, p := range watched {
				before[p.Name] = figure(t, p, "go_goroutines")
			}
			started, err := s.details(jobs["goes"])
			require.NoError(t, err)
			d.hang()
			began := time.Now()
			over, cancel := context.WithTimeout(t.Context(), hangs)
			defer cancel()
			token := "hang-" + d.name
			probes := map[string]*probe{}
			var calls sync.WaitGroup
			keep := func(name string, many int, do func(context.Context) error) {
				p := &probe{}
				probes[name] = p
				for range many {
					calls.Go(func() {
						for over.Err() == nil {
							p.call(t, d.name+": "+name, do)
							select {
							case <-over.Done():
							case <-time.After(500 * time.Millisecond):
							}
						}
					})
				}
			}
			if d.name != "endpoint" {
				keep("describe", 20, func(ctx context.Context) error {
					_, err := client.DescribeReplicationJobs(ctx, &smc.DescribeReplicationJobsRequest{})
					return err
				})
				keep("create", 1, func(ctx context.Context) error {
					_, err := client.CreateReplicationJob(ctx, &smc.CreateReplicationJobRequest{
						SourceID: spare, ClientToken: &token, Name: &token, ImageName: &token, RegionID: s.env[smc.EnvRegion],
						SystemDiskSize: &size,
					})
					return err
				})
			}
			var stopped time.Duration
			if d.says != "database" && d.name != "endpoint" {
				calls.Go(func() {
					at := time.Now()
					_, err := client.StopReplicationJob(t.Context(), &smc.StopReplicationJobRequest{JobID: jobs["stops"]})
					stopped = time.Since(at)
					t.Logf("Stop: %v after %v", err, stopped)
					if d.name != "temporal" {
						require.NoError(t, err)
					}
				})
			}
			if d.says != "" {
				calls.Go(func() {
					for over.Err() == nil {
						if ready, said, err := readiness(over, server); err == nil && !ready && strings.Contains(said, d.says+": no answer") || strings.Contains(said, "did not answer") {
							t.Logf("not ready after %v: %s", time.Since(began).Round(time.Millisecond), said)
							return
						}
					}
					t.Errorf("the server was ready all the time")
				})
			}
			<-over.Done()
			for _, p := range watched {
				if d.name == "endpoint" && p == server || d.name == "transition-host" && p == host {
					continue
				}
				t.Logf("%s: %.0f goroutines before, %.0f now, %.0f MiB", p.Name, before[p.Name], figure(t, p, "go_goroutines"), figure(t, p, "process_resident_memory_bytes")/mib)
			}
			d.mend()
			mended := time.Now()
			since := func() time.Duration { return time.Since(mended).Round(10 * time.Millisecond) }
			calls.Wait()
			for name, p := range probes {
				t.Logf("%s: %v", name, p)
				if p.longest > answered {
					t.Errorf("%s took %v", name, p.longest)
				}
			}
			stack.Eventually(t, back, "the API answers", func() (bool, any) {
				_, err := client.DescribeReplicationJobs(t.Context(), &smc.DescribeReplicationJobsRequest{})
				return err == nil, err
			})
			t.Logf("the API answers after %v", since())
			for _, p := range watched {
				stack.Eventually(t, back, p.Name+" is ready", func() (bool, any) {
					ready, said, err := readiness(t.Context(), p)
					return err == nil && ready, fmt.Sprint(said, err)
				})
			}
			t.Logf("all are ready after %v", since())
			stack.Eventually(t, back, "the sync goes on", func() (bool, any) {
				now, err := s.details(jobs["goes"])
				return err == nil && now.BytesRead > started.BytesRead && now.Status == smc.StatusRunning, now
			})
			t.Logf("the sync goes on after %v", since())
			if stopped > 0 {
				if d.name == "temporal" { // it has nobody to tell it to
					s.drover("job", "stop", jobs["stops"])
				} else if stopped > 5*time.Second {
					t.Errorf("Stop took %v", stopped)
				}
				s.awaitStatus(jobs["stops"], smc.StatusStopped)
				t.Logf("Stopped after %v", since())
				s.drover("job", "start", jobs["stops"])
			}
			if d.name != "endpoint" {
				var made string
				for range 2 {
					r, err := client.CreateReplicationJob(t.Context(), &smc.CreateReplicationJobRequest{
						SourceID: spare, ClientToken: &token, Name: &token, ImageName: &token, RegionID: s.env[smc.EnvRegion], SystemDiskSize: &size,
					})
					require.NoError(t, err)
					require.True(t, made == "" || made == r.JobID)
					made = r.JobID
				}
				s.drover("job", "delete", made)
				t.Logf("created once and deleted after %v", since())
			}
			stack.Eventually(t, back, "nothing is left of the outage", func() (bool, any) {
				for _, p := range watched {
					if now := figure(t, p, "go_goroutines"); now > before[p.Name]+60 {
						return false, fmt.Sprintf("%s has %.0f goroutines and had %.0f", p.Name, now, before[p.Name])
					}
				}
				return true, nil
			})
		})
	}
}
