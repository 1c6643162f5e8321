package store

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/drover/drover/smc"
)

// The quota of jobs holds against many that create at once, in several processes, and nobody below it is refused.
func TestJobQuotaHoldsAgainstManyAtOnce(t *testing.T) {
	f := newFixture(t)
	other := f.open()
	const sources, quota = 12, 5
	var made, refused atomic.Int64
	var group errgroup.Group
	requests := make([]smc.CreateReplicationJobRequest, sources)
	for i := range requests {
		requests[i] = spec(f.source(fmt.Sprint("web", i)).SourceID)
	}
	for i, r := range requests {
		s := []*Store{f.Store, other}[i%2]
		group.Go(func() error {
			_, err := s.CreateJob(f.ctx, account, r, quota)
			switch {
			case err == nil:
				made.Add(1)
			case smc.CodeOf(err) == smc.CodeQuotaExceededReplicationJob:
				refused.Add(1)
			default:
				return err
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
	require.Equal(t, []int64{quota, sources - quota}, []int64{made.Load(), refused.Load()})
}
