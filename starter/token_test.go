package main

import (
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/drover/drover/smc"
)

func TestTokens(t *testing.T) {
	e := newEndpoint(t)
	tokens := []smc.AccessToken{
		{AccessTokenID: "at-2", Status: smc.AccessTokenExpired, Count: 5, TimeToLiveInDays: 1},
		{AccessTokenID: "at-1", Name: "dc-1", Status: smc.AccessTokenActivated, Count: 20, RegisteredCount: 3, TimeToLiveInDays: 7},
	}
	e.handlers["ListAccessTokens"] = func(form url.Values) (smc.Result, error) {
		items, p := pageOf(tokens, form, func(t smc.AccessToken) (string, string) { return t.AccessTokenID, t.Name }, "AccessTokenId")
		return &smc.ListAccessTokensResult{Page: p, AccessTokens: items}, nil
	}
	e.handlers["DisableAccessToken"] = func(form url.Values) (smc.Result, error) {
		tokens[1].Status = smc.AccessTokenUnactivated
		return &smc.DisableAccessTokenResult{}, nil
	}
	o := e.drover(t, "token", "list", "--status", "activated")
	require.Equal(t, exitOK, o.code, o.stderr)
	require.Regexp(t, `(?m)^at-1 +dc-1 +activated +3 of 20 +7`, o.stdout)
	require.Regexp(t, `(?m)^at-2 +- +expired +0 of 5 `, o.stdout)
	require.Equal(t, "activated", e.called("ListAccessTokens")[0].Get("Status"))
	list := parse[[]map[string]any](t, e.drover(t, "token", "list", "-o", "json"))
	require.Len(t, list, 2)
	require.Equal(t, "at-1", list[1]["AccessTokenId"])
	require.False(t, e.called("ListAccessTokens")[1].Has("Status"))

	o = e.drover(t, "token", "disable", "dc-1")
	require.Equal(t, "activation code at-1 (dc-1) disabled\n", o.stdout, o.stderr)
	require.Equal(t, "at-1", e.called("DisableAccessToken")[0].Get("AccessTokenId"))
	require.Equal(t, "unactivated", parse[map[string]any](t, e.drover(t, "token", "disable", "at-1", "-o", "json"))["Status"])

	require.Equal(t, "activation code at-2 deleted\n", e.drover(t, "token", "delete", "at-2").stdout)
	require.Equal(t, "at-2", e.called("DeleteAccessToken")[0].Get("AccessTokenId"))
	require.Equal(t, map[string]any{"AccessTokenId": "at-1"}, parse[map[string]any](t, e.drover(t, "token", "delete", "dc-1", "-o", "json")))
	o = e.drover(t, "token", "delete", "at-9")
	require.Equal(t, exitFailed, o.code)
	require.Contains(t, o.stderr, "InvalidAccessTokenId.NotFound")
	require.Contains(t, o.stderr, "drover token list")
	require.Contains(t, e.drover(t, "token", "disable").stderr, "TOKEN is missing")
}
