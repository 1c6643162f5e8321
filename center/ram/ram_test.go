package ram

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	start = "smc:StartReplicationJob"
	job   = "acs:smc:cn-1:123:replicationjob/j-1"
)

func mustParse(t *testing.T, document string) *Policy {
	t.Helper()
	policy, err := Parse(document)
	require.NoError(t, err)
	return policy
}

func TestDecide(t *testing.T) {
	one := func(effect, action, resource string) string {
		return `{"Effect":"` + effect + `","Action":` + action + `,"Resource":` + resource + `}`
	}
	for _, test := range []struct {
		name       string
		statements []string
		want       Decision
	}{
		{"everything", []string{one("Allow", `"*"`, `"*"`)}, Granted},
		{"exactly it", []string{one("Allow", `"smc:StartReplicationJob"`, `"acs:smc:cn-1:123:replicationjob/j-1"`)}, Granted},
		{"lists", []string{one("Allow", `["smc:Stop*","smc:Start*"]`, `["acs:smc:*:*:sourceserver/*","acs:smc:*:*:replicationjob/*"]`)}, Granted},
		{"letter case", []string{one("Allow", `"SMC:sTART*"`, `"ACS:SMC:CN-1:123:ReplicationJob/J-1"`)}, Granted},
		{"star in the middle", []string{one("Allow", `"smc:*Job"`, `"acs:*:*/j-1"`)}, Granted},
		{"another action", []string{one("Allow", `"smc:Stop*"`, `"*"`)}, NotGranted},
		{"another resource", []string{one("Allow", `"*"`, `"acs:smc:*:*:replicationjob/j-2"`)}, NotGranted},
		{"another type", []string{one("Allow", `"*"`, `"acs:smc:*:*:sourceserver/*"`)}, NotGranted},
		{"another account", []string{one("Allow", `"*"`, `"acs:smc:*:124:*"`)}, NotGranted},
		{"a prefix is not enough", []string{one("Allow", `"smc:Start"`, `"*"`)}, NotGranted},
		{"action and resource of two statements", []string{one("Allow", `"smc:Start*"`, `"acs:smc:*:*:sourceserver/*"`), one("Allow", `"smc:Stop*"`, `"*"`)}, NotGranted},
		{"deny alone", []string{one("Deny", `"*"`, `"*"`)}, Denied},
		{"deny after allow", []string{one("Allow", `"*"`, `"*"`), one("Deny", `"smc:Start*"`, `"*"`)}, Denied},
		{"deny before allow", []string{one("Deny", `"smc:Start*"`, `"*"`), one("Allow", `"*"`, `"*"`)}, Denied},
		{"deny of something else", []string{one("Deny", `"smc:Delete*"`, `"*"`), one("Allow", `"*"`, `"*"`)}, Granted},
	} {
		t.Run(test.name, func(t *testing.T) {
			policy := mustParse(t, `{"Version":"1","Statement":[`+strings.Join(test.statements, ",")+`]}`)
			require.Equal(t, test.want, policy.Decide(start, job))
			require.Equal(t, test.want, policy.Decide(strings.ToUpper(start), strings.ToUpper(job)))
			require.NotEmpty(t, policy.Decide(start, job).String())
		})
	}
	require.Equal(t, NotGranted, (&Policy{}).Decide(start, job), "no policy grants anything by being empty")
}

func TestMatch(t *testing.T) {
	for _, test := range []struct {
		pattern, text string
		want          bool
	}{
		{"", "", true},
		{"", "a", false},
		{"*", "", true},
		{"*", "anything", true},
		{"a", "a", true},
		{"a", "A", true},
		{"a", "ab", false},
		{"a*", "a", true},
		{"a*", "ba", false},
		{"*a", "ba", true},
		{"*a", "ab", false},
		{"a*b*c", "abc", true},
		{"a*b*c", "axxbxxc", true},
		{"a*b*c", "acb", false},
		{"a*a", "a", false},
		{"a*a", "aa", true},
		{"**", "", true},
		{"*ab*ab", "abab", true},
		{"*ab*ab", "ab", false},
		{"a?c", "abc", false},
		{"[ab]", "a", false},
	} {
		require.Equal(t, test.want, Match(test.pattern, test.text), "%q on %q", test.pattern, test.text)
	}
	// Nothing is tried twice: with backtracking this would not end.
	require.False(t, Match(strings.Repeat("a*", 3000)+"b", strings.Repeat("a", 6000)))
}

func TestParseRefuses(t *testing.T) {
	statement := func(s string) string { return `{"Version":"1","Statement":[` + s + `]}` }
	for _, test := range []struct{ document, message string }{
		{``, "not JSON"},
		{`[]`, "not a JSON object"},
		{`null`, "not a JSON object"},
		{`{} {}`, "follows"},
		{"{\"Version\":\"\xff\"}", "UTF-8"},
		{strings.Repeat(" ", MaxDocument) + `{}`, "6146 bytes"},
		{`{"Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`, "no Version"},
		{`{"Version":"2","Statement":[]}`, `"2"; it must be "1"`},
		{`{"Version":1,"Statement":[]}`, `it must be "1"`},
		{`{"Version":"1"}`, "no Statement"},
		{`{"Version":"1","Statement":[]}`, "at least one"},
		{`{"Version":"1","Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}`, "Statement must be a list"},
		{`{"version":"1","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`, `key "version"`},
		{`{"Version":"1","Id":"x","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`, `key "Id"`},
		{statement(`"Allow"`), "Statement 1 is not a JSON object"},
		{statement(`{"Action":"*","Resource":"*"}`), "Statement 1 has no Effect"},
		{statement(`{"Effect":"Allow","Resource":"*"}`), "Statement 1 has no Action"},
		{statement(`{"Effect":"Allow","Action":"*"}`), "Statement 1 has no Resource"},
		{statement(`{"Effect":"allow","Action":"*","Resource":"*"}`), `must be "Allow" or "Deny"`},
		{statement(`{"Effect":"Deny","Effect":"Allow","Action":"*","Resource":"*"}`), `"Effect" twice`},
		{statement(`{"Effect":"Allow","Action":"*","Resource":"*"},{"Effect":"Allow","Action":[],"Resource":"*"}`), "Statement 2: Action must be"},
		{statement(`{"Effect":"Allow","Action":[null],"Resource":"*"}`), "null"},
		{statement(`{"Effect":"Allow","Action":[1],"Resource":"*"}`), "must be a text or a list"},
		{statement(`{"Effect":"Allow","Action":null,"Resource":"*"}`), "must be a text or a list"},
		{statement(`{"Effect":"Allow","Action":"","Resource":"*"}`), "matches nothing"},
		{statement(`{"Effect":"Allow","Action":"smc:","Resource":"*"}`), "matches nothing"},
		{statement(`{"Effect":"Allow","Action":"ecs:*","Resource":"*"}`), `"ecs:*" matches nothing`},
		{statement(`{"Effect":"Allow","Action":"*","Resource":"replicationjob/*"}`), "must begin with acs:smc:"},
		{statement(`{"Effect":"Allow","Action":"*","Resource":"*","Condition":{}}`), "Condition"},
		{statement(`{"Effect":"Allow","NotAction":"*","Resource":"*"}`), "NotAction"},
		{statement(`{"Effect":"Allow","Action":"*","Resource":"*","Sid":"1"}`), `key "Sid"`},
	} {
		_, err := Parse(test.document)
		if assert.Error(t, err, test.document) {
			require.Contains(t, err.Error(), test.message, test.document)
		}
	}
}

func TestActionPatterns(t *testing.T) {
	policy := mustParse(t, `{"Version":"1","Statement":[{"Effect":"Allow","Action":["smc:A*","*"],"Resource":"*"},{"Effect":"Deny","Action":"smc:B","Resource":"*"}]}`)
	require.Equal(t, []string{"smc:a*", "*", "smc:b"}, policy.ActionPatterns())
}

func FuzzParsePolicy(f *testing.F) {
	for _, seed := range []string{
		`{"Version":"1","Statement":[{"Effect":"Allow","Action":["smc:Describe*"],"Resource":"*"}]}`,
		`{"Version":"1","Statement":[{"Effect":"Deny","Action":"*","Resource":["acs:smc:*:*:sourceserver/s-1","*"]}]}`,
		`{"Version":"1","Statement":[{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"a":{"b":["c"]}}}]}`,
		`{"Version":"1","Version":"1"}`, `[[[[`, `{"Statement":null}`, "{\"Version\":\"1\"}\x00",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, document string) {
		policy, err := Parse(document)
		if err != nil {
			if policy != nil || err.Error() == "" || len(err.Error()) > 4*MaxDocument+1000 {
				t.Fatalf("policy %v, error %v", policy, err)
			}
			return
		}
		if len(document) > MaxDocument || len(policy.statements) == 0 {
			t.Fatalf("taken: %q", document)
		}
		for _, s := range policy.statements {
			if len(s.actions) == 0 || len(s.resources) == 0 {
				t.Fatalf("a statement of %q matches nothing", document)
			}
		}
		policy.Decide(start, job)
	})
}

func FuzzEvaluate(f *testing.F) {
	f.Add("smc:*", "acs:smc:*:*:replicationjob/*", start, job)
	f.Add("*", "*", "smc:", "")
	f.Add("a*b*c*", "**x", "abc", "xx")
	f.Fuzz(func(t *testing.T, actionPattern, resourcePattern, action, resource string) {
		if len(actionPattern)+len(resourcePattern) > 1000 || len(action)+len(resource) > 4000 {
			t.Skip()
		}
		// The reference: regular expressions, made from the same patterns.
		matches := func(p, text string) bool {
			quoted := regexp.QuoteMeta(strings.ToLower(p))
			return regexp.MustCompile(`^(?s:` + strings.ReplaceAll(quoted, `\*`, `.*`) + `)$`).MatchString(strings.ToLower(text))
		}
		allow := statement{actions: []pattern{pattern(strings.ToLower(actionPattern))}, resources: []pattern{pattern(strings.ToLower(resourcePattern))}}
		deny := allow
		deny.deny = true
		want, wantDenied := NotGranted, NotGranted
		if validUTF8(actionPattern, resourcePattern, action, resource) && matches(actionPattern, action) && matches(resourcePattern, resource) {
			want, wantDenied = Granted, Denied
		} else if !validUTF8(actionPattern, resourcePattern, action, resource) {
			t.Skip() // regexp matches characters, patterns match bytes
		}
		if got := (&Policy{[]statement{allow}}).Decide(action, resource); got != want {
			t.Fatalf("Allow %q on %q: got %v, want %v for %q on %q", actionPattern, resourcePattern, got, want, action, resource)
		}
		for _, statements := range [][]statement{{allow, deny}, {deny, allow}} {
			if got := (&Policy{statements}).Decide(action, resource); got != wantDenied {
				t.Fatalf("Deny %q on %q: got %v, want %v for %q on %q", actionPattern, resourcePattern, got, wantDenied, action, resource)
			}
		}
	})
}

func validUTF8(texts ...string) bool {
	for _, text := range texts {
		if strings.ToValidUTF8(text, "") != text {
			return false
		}
	}
	return true
}
