package stack

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/smc"
	"github.com/drover/drover/test/disks"
)

func withTimeout(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*StartLimit)
	t.Cleanup(cancel)
	return ctx
}

// A spread stack does a job to its end although each of its processes is killed, and the database and NATS are away for a while.
func TestSpread(t *testing.T) {
	for name, postgres := range map[string]string{"sqlite": "", "postgres": os.Getenv("DROVER_TEST_POSTGRES")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name == "postgres" && postgres == "" {
				t.Skip("DROVER_TEST_POSTGRES names no PostgreSQL server")
			}
			ctx := withTimeout(t)
			s := ForTest(t, Options{Postgres: postgres, Servers: 2, Orchestrators: 1})
			assert.Equal(t, postgres != "", s.Database.Postgres())
			assert.Len(t, s.Processes(), 7)
			disk := filepath.Join(s.Dir, "disk.raw")
			require.NoError(t, disks.Make(disk, disks.Spec{SizeBytes: 64 << 20, Seed: 1}))
			a, err := s.StartAgent(ctx, "web-1", disk)
			require.NoError(t, err)
			parameters := `{"bandwidth_limit":40000}`
			job, err := s.Client.CreateReplicationJob(ctx, &smc.CreateReplicationJobRequest{
				RegionID: s.Env()[smc.EnvRegion], SourceID: a.SourceID, ReplicationParameters: &parameters,
			})
			require.NoError(t, err)
			_, err = s.Client.StartReplicationJob(ctx, &smc.StartReplicationJobRequest{JobID: job.JobID})
			require.NoError(t, err)

			nc, err := s.ConnectNATS()
			require.NoError(t, err)
			defer nc.Close()
			s.NATS.Kill()
			require.NoError(t, s.Database.Cut(ctx))
			for _, p := range s.Processes() {
				if p != s.Temporal && p != s.NATS {
					p.Kill()
				}
			}
			db, err := s.Database.Open()
			require.NoError(t, err)
			defer db.Close()
			var jobs int
			require.NoError(t, db.QueryRowContext(ctx, `SELECT count(*) FROM replication_jobs WHERE job_id = $1`, job.JobID).Scan(&jobs))
			assert.Equal(t, 1, jobs, "who asks directly gets an answer")
			require.NoError(t, s.Database.Mend())
			for _, p := range s.Processes() {
				require.NoError(t, p.Restart(ctx))
			}
			require.NoError(t, s.TransitionHosts[0].Pause())
			s.TransitionHosts[0].Continue()
			Eventually(t, StartLimit, "the job is finished", func() (bool, any) {
				d, err := s.Client.DescribeReplicationJobDetails(ctx, &smc.DescribeReplicationJobDetailsRequest{JobID: job.JobID})
				if err != nil {
					return false, err
				}
				return d.Status == smc.StatusFinished, d
			})
			Eventually(t, StartLimit, "NATS is there again", func() (bool, any) { return nc.IsConnected(), nc.Status() })
			images, err := os.ReadDir(filepath.Join(s.TransitionHosts[0].Data, "images"))
			require.NoError(t, err)
			assert.Len(t, images, 1)
			r, err := s.Drover(ctx, "job", "list")
			require.NoError(t, err)
			assert.Contains(t, r.Stdout, job.JobID)
			require.NoError(t, s.Stop(StartLimit))
		})
	}
}

// What writes to a database that is cut off fails, in either kind; afterwards it works again.
func TestCutOff(t *testing.T) {
	ctx := withTimeout(t)
	sqlite := "sqlite://" + filepath.Join(t.TempDir(), "cut.db")
	databases := map[string]*Database{"sqlite": {URL: sqlite, direct: sqlite}}
	if server := os.Getenv("DROVER_TEST_POSTGRES"); server != "" {
		d, err := newPostgres(ctx, server)
		require.NoError(t, err)
		databases["postgres"] = d
	}
	for name, d := range databases {
		t.Run(name, func(t *testing.T) {
			client, err := (&Database{direct: d.URL}).Open()
			require.NoError(t, err)
			client.SetMaxOpenConns(1)
			exec := func(statement string) error {
				_, err := client.ExecContext(ctx, statement)
				return err
			}
			require.NoError(t, exec("CREATE TABLE things (n INTEGER)"))
			if name == "sqlite" {
				require.NoError(t, exec("PRAGMA busy_timeout = 0"))
			}
			for range 2 {
				require.NoError(t, d.Cut(ctx))
				require.NoError(t, d.Cut(ctx), "it is cut")
				require.Error(t, exec("INSERT INTO things VALUES (1)"))
				require.NoError(t, d.Mend())
				require.NoError(t, d.Mend(), "it is whole")
				require.NoError(t, exec("INSERT INTO things VALUES (2)"))
			}
			require.NoError(t, client.Close())
			require.NoError(t, d.close())
		})
	}
}

// A front with a replica that is away leads to the other one.
func TestFront(t *testing.T) {
	ctx := withTimeout(t)
	s := ForTest(t, Options{Servers: 2})
	for _, server := range s.Servers {
		server.Kill()
		for range 3 {
			_, err := s.Client.DescribeReplicationJobs(ctx, &smc.DescribeReplicationJobsRequest{})
			require.NoError(t, err)
		}
		require.NoError(t, server.Restart(ctx))
	}
	for _, server := range s.Servers {
		require.NoError(t, server.Stop(StartLimit))
	}
	_, err := s.Client.DescribeReplicationJobs(ctx, &smc.DescribeReplicationJobsRequest{})
	require.Error(t, err)
}

// What does not come up is said, and nothing is left running.
func TestDoesNotComeUp(t *testing.T) {
	_, err := New(withTimeout(t), Options{Dir: t.TempDir(), Servers: 1, ServerArgs: []string{"--rate-limit", "-1"}})
	require.ErrorContains(t, err, "server-1 ended (exit status 2)")
	require.ErrorContains(t, err, "--rate-limit must be 0 or more")
	_, err = New(withTimeout(t), Options{Dir: t.TempDir(), Postgres: "mysql://localhost"})
	require.ErrorContains(t, err, "postgres://user:password@host:port/database")
	_, err = New(withTimeout(t), Options{Dir: t.TempDir(), Binaries: t.TempDir()})
	require.ErrorContains(t, err, "run make build first")
}
