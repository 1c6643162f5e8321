package store

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/drover/drover/smc"
)

// together calls do n times at once, over two handles on the database, and returns how often it was refused with each code.
func (f *fixture) together(n int, do func(s *Store, i int) error) map[string]int {
	f.t.Helper()
	stores := []*Store{f.Store, f.open()}
	codes := make([]string, n)
	var group errgroup.Group
	for i := range n {
		group.Go(func() error {
			err := do(stores[i%2], i)
			codes[i] = smc.CodeOf(err)
			if codes[i] == "" {
				return err
			}
			return nil
		})
	}
	require.NoError(f.t, group.Wait())
	count := map[string]int{}
	for _, code := range codes {
		count[code]++
	}
	return count
}

// The database holds the limit, not the luck of who comes when.
func TestConcurrentTags(t *testing.T) {
	f := newFixture(t)
	id := f.source("web").SourceID
	count := f.together(30, func(s *Store, i int) error {
		return s.TagResources(f.ctx, account, smc.ResourceTypeSourceServer, []string{id}, []smc.Tag{{Key: fmt.Sprint("key", i)}})
	})
	require.Equal(t, map[string]int{"": MaxTags, smc.CodeNumberExceedTags: 30 - MaxTags}, count)
	tags, err := f.Tags(f.ctx, []string{id})
	require.NoError(t, err)
	require.Len(t, tags[id], MaxTags)
}

func TestConcurrentWorkgroups(t *testing.T) {
	f := newFixture(t)
	group := Workgroup{AccountID: account, Name: "wave"}
	count := f.together(20, func(s *Store, _ int) error {
		_, err := s.CreateWorkgroup(f.ctx, group, "", "", nil)
		return err
	})
	require.Equal(t, map[string]int{"": 1, smc.CodeInvalidParameter: 19}, count, "a name is one workgroup's")

	ids := make([]string, 20)
	group.Name = "another"
	count = f.together(20, func(s *Store, i int) (err error) {
		ids[i], err = s.CreateWorkgroup(f.ctx, group, "token", "digest", nil)
		return err
	})
	require.Equal(t, map[string]int{"": 20}, count)
	for _, id := range ids {
		require.Equal(t, ids[0], id, "a client token is one workgroup's")
	}
	// The same token and name of another account are its own.
	group.AccountID = "456"
	other, err := f.CreateWorkgroup(f.ctx, group, "token", "digest", nil)
	require.NoError(t, err)
	require.NotEqual(t, ids[0], other)

	// A source is in one workgroup, whoever asks first.
	source := f.source("web").SourceID
	first, err := f.CreateWorkgroup(f.ctx, Workgroup{AccountID: account, Name: "first"}, "", "", nil)
	require.NoError(t, err)
	groups := []string{ids[0], first}
	count = f.together(20, func(s *Store, i int) error { return s.Associate(f.ctx, account, groups[i/10], []string{source}) })
	require.Equal(t, map[string]int{"": 10, smc.CodeInvalidParameter: 10}, count)
}

func TestConcurrentNamesOfSources(t *testing.T) {
	f := newFixture(t)
	ids := make([]string, 10)
	for i := range ids {
		ids[i] = f.source(fmt.Sprint("web-", i)).SourceID
	}
	name := "the one"
	count := f.together(len(ids), func(s *Store, i int) error { return s.ModifySource(f.ctx, account, ids[i], &name, nil) })
	require.Equal(t, map[string]int{"": 1, smc.CodeSourceServerNameDuplicate: 9}, count)
}

func TestAccessKeys(t *testing.T) {
	f := newFixture(t)
	for i, id := range []string{"ak-1", "ak-2", "ak-3"} {
		f.clock.advance(time.Second)
		require.NoError(t, f.CreateAccessKey(f.ctx, AccessKey{AccessKeyID: id, Secret: "s", AccountID: []string{account, account, "456"}[i], Policy: "{}", Description: "d"}))
	}
	require.Error(t, f.CreateAccessKey(f.ctx, AccessKey{AccessKeyID: "ak-1", Secret: "stolen", AccountID: "456"}), "a new key never takes the place of another")
	keys, total, err := f.AccessKeys(f.ctx, account, Page{Number: 1, Size: 1})
	require.NoError(t, err)
	require.Equal(t, 2, total)
	require.Equal(t, []AccessKey{{AccessKeyID: "ak-2", AccountID: account, Policy: "{}", Description: "d", CreatedAt: f.clock.read().Add(-time.Second)}}, keys, "and no secrets")
	require.Equal(t, smc.CodeInvalidAccessKeyIDNotFound, smc.CodeOf(f.DisableAccessKey(f.ctx, account, "ak-3")))
	require.NoError(t, f.DisableAccessKey(f.ctx, account, "ak-2"))
	for id, disabled := range map[string]bool{"ak-1": false, "ak-2": true, "ak-3": false} {
		key, err := f.AccessKey(f.ctx, id)
		require.NoError(t, err)
		require.Equal(t, disabled, key.Disabled, id)
	}
}

func TestAudit(t *testing.T) {
	f := newFixture(t)
	at := f.clock.read()
	record := func(i int) AuditRecord {
		return AuditRecord{
			RequestID: fmt.Sprint("R", i), At: at.Add(time.Duration(i) * time.Second), AccountID: account, AccessKeyID: "ak", Action: "StartReplicationJob",
			Resources: []string{"a", "b"}, Remote: "::1", Outcome: smc.OutcomeOK,
		}
	}
	for i := range 5 {
		require.NoError(t, f.Audit(f.ctx, record(i)))
	}
	require.Error(t, f.Audit(f.ctx, record(0)), "a record is written once and never changed")
	bare := AuditRecord{RequestID: "bare", At: at, Outcome: smc.CodeSignatureDoesNotMatch}
	require.NoError(t, f.Audit(f.ctx, bare))
	log, total, err := f.AuditLog(f.ctx, account, AuditFilter{Since: at.Add(time.Second), Until: at.Add(4 * time.Second)}, Page{Number: 1, Size: 2})
	require.NoError(t, err)
	require.Equal(t, 3, total)
	require.Equal(t, []AuditRecord{record(3), record(2)}, log)
	log, _, err = f.AuditLog(f.ctx, "", AuditFilter{Outcome: smc.CodeSignatureDoesNotMatch}, Page{Number: 1, Size: 2})
	require.NoError(t, err)
	require.Len(t, log, 1)
	require.Empty(t, log[0].Resources)
	ended, cancel := context.WithCancel(f.ctx)
	cancel()
	require.Error(t, f.Audit(ended, record(9)))
}
