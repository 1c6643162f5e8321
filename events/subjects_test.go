package events

import (
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/drover/drover/test/property"
)

func TestSubjects(t *testing.T) {
	for _, tc := range []struct {
		built string
		want  string
		parts Subject
	}{
		{
			JobSubject("1001", "cn-hangzhou", "j-abc"), "smc.v1.1001.cn-hangzhou.job.j-abc",
			Subject{Kind: KindJob, Account: "1001", Region: "cn-hangzhou", ID: "j-abc"},
		},
		{
			SourceSubject("1001", "local", "s-abc"), "smc.v1.1001.local.source.s-abc",
			Subject{Kind: KindSource, Account: "1001", Region: "local", ID: "s-abc"},
		},
		{
			MigrationSubject("1001", "dc exit", "s-abc"), "drover.v1.1001.migration.dc%20exit.s-abc",
			Subject{Kind: KindMigration, Account: "1001", Fleet: "dc exit", ID: "s-abc"},
		},
		{
			FleetSubject("acme.example", "*>"), "drover.v1.acme%2Eexample.fleet.%2A%3E",
			Subject{Kind: KindFleet, Account: "acme.example", Fleet: "*>"},
		},
		{
			ProgressSubject("1001", "local", "j-abc"), "smc.progress.v1.1001.local.job.j-abc",
			Subject{Kind: KindJob, Account: "1001", Region: "local", ID: "j-abc", Progress: true},
		},
	} {
		require.Equal(t, tc.want, tc.built)
		parts, err := ParseSubject(tc.built)
		require.NoError(t, err)
		require.Equal(t, tc.parts, parts)
		require.Equal(t, tc.built, parts.String())
	}
}

func TestParseSubjectRefusesWhatIsNotOurs(t *testing.T) {
	for _, subject := range []string{
		"", "smc.v1", "smc.v2.a.r.job.j", "smc.v1.a.r.job", "smc.v1.a.r.job.j.x", "smc.v1.a.r.disk.j",
		"smc.v1.a.r.fleet.j", "smc.progress.v1.a.r.source.s", "drover.v1.a.job.f.s", "drover.v1.a.migration.f",
		"drover.v1.a.fleet.f.s", "smc.v1.a.r.job.*", "smc.v1.a.r.job.%41", "smc.v1.a.r.job.%2e",
		"smc.v1.a.r.job.%2", "smc.v1..r.job.j", "smc.v1.a.r.job.>",
	} {
		_, err := ParseSubject(subject)
		require.ErrorIs(t, err, ErrBadSubject, subject)
	}
}

func TestFilters(t *testing.T) {
	require.Equal(t, "smc.v1.*.*.job.*", JobFilter("", "", ""))
	require.Equal(t, "smc.v1.1001.*.source.*", SourceFilter("1001", "", ""))
	require.Equal(t, "smc.progress.v1.*.local.job.j%2E1", ProgressFilter("", "local", "j.1"))
	require.True(t, server.SubjectsCollide(AllSMC, JobSubject("a", "r", "j")))
	require.True(t, server.SubjectsCollide(AllSMC, SourceSubject("a", "r", "s")))
	require.False(t, server.SubjectsCollide(AllSMC, ProgressFilter("", "", "")), "the stream would keep progress")
	require.True(t, server.SubjectsCollide(AllDrover, FleetSubject("a", "f")))
}

// Any name makes a token NATS takes as one literal token, and comes back from it.
func TestTokensAreReversible(t *testing.T) {
	names := rapid.OneOf(rapid.String(), rapid.StringMatching(`[a-z .*>%$\t]{0,12}`),
		rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }))
	property.Check(t, func(t *rapid.T) {
		name := names.Draw(t, "name")
		token := EncodeToken(name)
		if !server.IsValidLiteralSubject(token) || strings.ContainsAny(token, ". *>\t\r\n") {
			t.Fatalf("%q encodes to %q, which is no literal token", name, token)
		}
		back, err := DecodeToken(token)
		if err != nil || back != name {
			t.Fatalf("%q encodes to %q, which decodes to %q, %v", name, token, back, err)
		}
		subject := MigrationSubject(name, names.Draw(t, "fleet"), names.Draw(t, "id"))
		parts, err := ParseSubject(subject)
		if err != nil || parts.String() != subject || parts.Account != name {
			t.Fatalf("%q parses to %+v, %v", subject, parts, err)
		}
	})
}

// What decodes was encoded so: a resource has one subject only.
func TestTokensAreCanonical(t *testing.T) {
	property.Check(t, func(t *rapid.T) {
		token := rapid.StringMatching(`([a-zA-Z0-9_.-]|%[0-9A-Fa-f]{0,2}){0,8}`).Draw(t, "token")
		if name, err := DecodeToken(token); err == nil && EncodeToken(name) != token {
			t.Fatalf("%q decodes to %q, which encodes to %q", token, name, EncodeToken(name))
		}
	})
}
