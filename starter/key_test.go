package main

import (
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/drover/drover/smc"
)

func TestKeyCreate(t *testing.T) {
	e := newEndpoint(t)
	e.handlers["CreateAccessKey"] = func(url.Values) (smc.Result, error) {
		return &smc.CreateAccessKeyResult{AccessKeyID: "AK1", AccessKeySecret: "the secret"}, nil
	}
	o := e.drover(t, "key", "create")
	require.Equal(t, exitOK, o.code, o.stderr)
	require.Contains(t, o.stdout, "ALIBABA_CLOUD_ACCESS_KEY_ID=AK1\nALIBABA_CLOUD_ACCESS_KEY_SECRET=the secret\n")
	require.False(t, e.called("CreateAccessKey")[0].Has("Policy"))
	require.False(t, e.called("CreateAccessKey")[0].Has("Description"))

	policy := filepath.Join(t.TempDir(), "policy.json")
	require.NoError(t, os.WriteFile(policy, []byte(`{"Version":"1"}`), 0o600))
	res := parse[smc.CreateAccessKeyResult](t, e.drover(t, "key", "create", "--policy", policy, "--description", "ci", "-o", "json"))
	require.Equal(t, "the secret", res.AccessKeySecret)
	require.JSONEq(t, `{"Version":"1"}`, e.called("CreateAccessKey")[1].Get("Policy"))
	require.Equal(t, "ci", e.called("CreateAccessKey")[1].Get("Description"))

	// A key that was to be restricted is never made all-powerful.
	require.NoError(t, os.WriteFile(policy, nil, 0o600))
	for _, file := range []string{policy, policy + "-none"} {
		o = e.drover(t, "key", "create", "--policy", file)
		require.Equal(t, exitUsage, o.code)
		require.Contains(t, o.stderr, "--policy")
	}
	require.Len(t, e.called("CreateAccessKey"), 2)
}

func TestKeyListAndDisable(t *testing.T) {
	e := newEndpoint(t)
	e.handlers["ListAccessKeys"] = func(form url.Values) (smc.Result, error) {
		keys := []smc.AccessKey{
			{AccessKeyID: "AK2", Status: smc.AccessKeyActive, Policy: "{}", Description: "ci"},
			{AccessKeyID: "AK1", Status: smc.AccessKeyDisabled},
		}
		return &smc.ListAccessKeysResult{Page: smc.Page{TotalCount: len(keys), PageNumber: 1, PageSize: 50}, AccessKeys: keys}, nil
	}
	o := e.drover(t, "key", "list")
	require.Equal(t, exitOK, o.code, o.stderr)
	require.Regexp(t, `(?m)^AK2 +Active +policy .*ci *$`, o.stdout)
	require.Regexp(t, `(?m)^AK1 +Disabled +everything `, o.stdout)
	require.Len(t, parse[[]smc.AccessKey](t, e.drover(t, "key", "list", "-o", "json")), 2)

	o = e.drover(t, "key", "disable", "AK1")
	require.Equal(t, exitOK, o.code, o.stderr)
	require.Equal(t, "AK1", e.called("DisableAccessKey")[0].Get("KeyId"))
	require.Contains(t, o.stdout, "AK1 is disabled")
	require.Contains(t, e.drover(t, "key", "disable").stderr, "KEY-ID is missing")
}

func TestAuditList(t *testing.T) {
	e := newEndpoint(t)
	e.handlers["DescribeAuditLog"] = func(form url.Values) (smc.Result, error) {
		number, _ := strconv.Atoi(form.Get("PageNumber"))
		res := &smc.DescribeAuditLogResult{Page: smc.Page{TotalCount: 120, PageNumber: number, PageSize: 50}}
		for i := range min(50, 120-(number-1)*50) {
			res.AuditRecords = append(res.AuditRecords, smc.AuditRecord{
				CallID: "R" + strconv.Itoa((number-1)*50+i), KeyID: "AK1", Operation: "StartReplicationJob", Outcome: smc.OutcomeOK,
				RemoteAddress: "10.0.0.1", Resources: smc.List[smc.ResourceName]{"acs:smc:r:1:replicationjob/j-1"},
			})
		}
		return res, nil
	}
	require.Len(t, parse[[]smc.AuditRecord](t, e.drover(t, "audit", "list", "-o", "json")), 100)
	require.Len(t, e.called("DescribeAuditLog"), 2, "no more pages are read than are needed")
	require.Len(t, parse[[]smc.AuditRecord](t, e.drover(t, "audit", "list", "-o", "json", "--limit", "1000")), 120)
	o := e.drover(t, "audit", "list", "--operation", "StartReplicationJob", "--since", "2026-01-31T00:00:00Z", "--limit", "1")
	require.Equal(t, exitOK, o.code, o.stderr)
	require.Regexp(t, `AK1 +StartReplicationJob +OK +10\.0\.0\.1 +replicationjob/j-1 +R0`, o.stdout)
	calls := e.called("DescribeAuditLog")
	last := calls[len(calls)-1]
	require.Equal(t, "StartReplicationJob", last.Get("Operation"))
	require.Equal(t, "2026-01-31T00:00:00Z", last.Get("StartTime"))
	require.False(t, last.Has("KeyId"))
	require.Equal(t, exitUsage, e.drover(t, "audit", "list", "--limit", "0").code)
}
