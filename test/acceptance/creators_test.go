package acceptance

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/center/store/storetest"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/test/stack"
)

// creators is how many ask for a job of one source at the same time.
const creators = 50

// Fifty ask two replicas at once for a job of one source server: one gets it. With one client token all get the same.
func TestConcurrentCreators(t *testing.T) {
	t.Parallel()
	for name, postgres := range map[string]string{"sqlite": "", "postgres": os.Getenv(storetest.Variable)} {
		t.Run(name, func(t *testing.T) {
			if name == "postgres" && postgres == "" {
				t.Skip(storetest.Variable + " names no PostgreSQL server")
			}
			t.Parallel()
			s := stack.ForTest(t, stack.Options{Postgres: postgres, Servers: 2})
			ctx := within(t, slow)
			a, err := s.StartAgent(ctx, "wanted", makeDisk(t, filepath.Join(s.Dir, "disk.raw"), 8*mib, mib, 2, 71))
			require.NoError(t, err)
			create := func(token *string) (ids []string, errs []error) {
				ids, errs = make([]string, creators), make([]error, creators)
				request := &smc.CreateReplicationJobRequest{RegionID: s.Env()[smc.EnvRegion], SourceID: a.SourceID, ClientToken: token}
				begin := make(chan struct{})
				var group sync.WaitGroup
				for i := range creators {
					group.Go(func() {
						<-begin
						created, err := s.Client.CreateReplicationJob(ctx, request) // without a token the client makes one for each call
						if errs[i] = err; err == nil {
							ids[i] = created.JobID
						}
					})
				}
				close(begin)
				group.Wait()
				return ids, errs
			}
			jobs := func() []smc.ReplicationJob {
				t.Helper()
				found, err := s.Client.DescribeReplicationJobs(ctx, &smc.DescribeReplicationJobsRequest{})
				require.NoError(t, err)
				return found.ReplicationJobs
			}

			ids, errs := create(nil)
			won := ""
			for i, err := range errs {
				if err == nil {
					assert.Empty(t, won, "a second one got a job")
					won = ids[i]
					continue
				}
				assert.Equal(t, smc.CodeSourceServerStateInvalid, smc.CodeOf(err), "%v", err)
			}
			require.NotEmpty(t, won, "nobody got a job: %v", errs)
			require.Len(t, jobs(), 1)
			for _, err := range errs {
				if err != nil {
					assert.ErrorContains(t, err, won, "it says which job holds the source")
				}
			}

			_, err = s.Client.DeleteReplicationJob(ctx, &smc.DeleteReplicationJobRequest{JobID: won})
			require.NoError(t, err)
			stack.Eventually(t, slow, "the job is gone", func() (bool, any) { return len(jobs()) == 0, jobs() })
			token := "one-token"
			ids, errs = create(&token)
			for i, err := range errs {
				require.NoError(t, err)
				assert.Equal(t, ids[0], ids[i], "one client token makes one job")
			}
			require.Len(t, jobs(), 1)
			assert.NotEqual(t, won, ids[0], "a JobId is never used again")
		})
	}
}
