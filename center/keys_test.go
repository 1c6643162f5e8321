package center

import (
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"pgregory.net/rapid"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/center/store/storetest"
	"github.com/drover/drover/smc"
	"github.com/drover/drover/test/property"
)

// What becomes of a call does not depend on whether the endpoint has seen its key before, nor on who changed the key since.
func TestKnownKeysAreNeverStale(t *testing.T) {
	f := newFixture(t)
	db := storetest.DB(t, f.database)
	other, err := store.Open(t.Context(), f.database)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, other.Close()) })
	const denied = `{"Version":"1","Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}]}`
	const id = "ak-changing"
	require.NoError(t, f.store.CreateAccessKey(t.Context(), store.AccessKey{AccessKeyID: id, Secret: "one", AccountID: account}))
	exec := func(t *rapid.T, statement string, args ...any) {
		_, err := db.ExecContext(f.t.Context(), statement, args...)
		require.NoError(t, err)
	}
	calls := 0
	property.Check(t, func(t *rapid.T) {
		for range rapid.IntRange(1, 10).Draw(t, "changes") {
			switch rapid.IntRange(0, 6).Draw(t, "change") {
			case 0:
				exec(t, `UPDATE access_keys SET secret = CASE secret WHEN 'one' THEN 'two' ELSE 'one' END WHERE access_key_id = $1`, id)
			case 1:
				exec(t, `UPDATE access_keys SET policy = CASE policy WHEN '' THEN $2 ELSE '' END WHERE access_key_id = $1`, id, denied)
			case 2:
				exec(t, `UPDATE access_keys SET disabled = 1 - disabled WHERE access_key_id = $1`, id)
			case 3:
				exec(t, `DELETE FROM access_keys WHERE access_key_id = $1`, id)
			case 4:
				exec(t, `INSERT INTO access_keys (access_key_id, secret, account_id, created_at) VALUES ($1, 'one', $2, 0) ON CONFLICT DO NOTHING`, id, account)
			case 5:
				exec(t, `UPDATE access_keys SET account_id = CASE account_id WHEN $2 THEN '456' ELSE $2 END WHERE access_key_id = $1`, id, account)
			}
			key, err := other.AccessKey(f.t.Context(), id)
			secret := rapid.SampledFrom([]string{"one", "two"}).Draw(t, "secret")
			want := http.StatusOK
			switch {
			case err != nil || key.Disabled:
				want = http.StatusNotFound
			case key.Secret != secret:
				want = http.StatusBadRequest
			case key.Policy != "":
				want = http.StatusForbidden
			}
			calls++
			values := url.Values{"Action": {smc.DescribeReplicationJobs.Name()}, "Version": {smc.Version}, "Format": {"JSON"}}
			smc.SignValues(values, http.MethodPost, id, secret, time.Now(), fmt.Sprint("nonce-", calls))
			status, _, body := f.raw(values)
			require.Equal(t, want, status, body)
			if status == http.StatusOK || status == http.StatusForbidden {
				_, _, body := f.raw(values)
				require.Contains(t, body, smc.CodeSignatureNonceUsed)
			}
		}
	})
}

// Who knows the id of a key and not its secret does not make the endpoint forget the key.
func TestForgedCallsDoNotForgetAKey(t *testing.T) {
	f := newFixture(t, quiet)
	e := NewEndpoint(Config{Store: f.store, Engine: f.engine, RegionID: region, Logger: zap.NewNop()})
	t.Cleanup(e.Close)
	verify := func(secret string) error {
		values := url.Values{"Action": {smc.DescribeReplicationJobs.Name()}, "Version": {smc.Version}}
		smc.SignValues(values, http.MethodGet, keyID, secret, time.Now(), newRequestID())
		return e.verify(t.Context(), &call{}, &smc.Request{Method: http.MethodGet, Query: values, Values: values, Header: http.Header{}})
	}
	require.NoError(t, verify(secret))
	require.Equal(t, smc.CodeSignatureDoesNotMatch, smc.CodeOf(verify("another secret")))
	require.True(t, e.keys.Contains(keyID))
}
