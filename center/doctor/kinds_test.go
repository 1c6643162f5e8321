package doctor

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// docs/operations.md has the table of findings between these lines. UPDATE_DOCS=1 writes it.
const (
	tableBegin = "<!-- findings: written by UPDATE_DOCS=1 go test ./center/doctor from center/doctor/kinds.go -->\n"
	tableEnd   = "<!-- end of findings -->\n"
)

func TestDocumentedKinds(t *testing.T) {
	var want strings.Builder
	want.WriteString("\n| finding | | what it means | what to do |\n| --- | --- | --- | --- |\n")
	for _, k := range kinds {
		want.WriteString("| `" + k.Name + "` | " + string(k.Severity) + " | " + k.Means + " | " + k.Do + " |\n")
	}
	want.WriteString("\n")
	file := filepath.Join("..", "..", "docs", "operations.md")
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	before, rest, ok := strings.Cut(string(text), tableBegin)
	require.True(t, ok, "the table of findings is not in %s", file)
	table, after, ok := strings.Cut(rest, tableEnd)
	require.True(t, ok)
	if os.Getenv("UPDATE_DOCS") != "" {
		require.NoError(t, os.WriteFile(file, []byte(before+tableBegin+want.String()+tableEnd+after), 0o644))
		return
	}
	require.Equal(t, want.String(), table)
}

// Every name is in the table once, and every kind in the table is found by some code.
func TestKinds(t *testing.T) {
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	names, used := map[string]string{}, map[string]bool{}
	for _, name := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		require.NoError(t, err)
		ast.Inspect(parsed, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ValueSpec:
				if name != "kinds.go" {
					break
				}
				for i, value := range n.Values {
					if literal, ok := value.(*ast.BasicLit); ok && literal.Kind == token.STRING {
						names[n.Names[i].Name], err = strconv.Unquote(literal.Value)
						require.NoError(t, err)
					}
				}
			case *ast.Ident:
				if name != "kinds.go" && !strings.HasSuffix(name, "_test.go") {
					used[n.Name] = true
				}
			}
			return true
		})
	}
	seen := map[string]bool{}
	for _, k := range kinds {
		assert.False(t, seen[k.Name], k.Name)
		seen[k.Name] = true
		assert.NotEmpty(t, k.Means)
		assert.NotEmpty(t, k.Do)
	}
	kindsNamed := 0
	for constant, name := range names {
		if constant == "Error" || constant == "Warning" || constant == "Info" {
			continue
		}
		kindsNamed++
		assert.True(t, seen[name], "%s is not in the table", constant)
		assert.True(t, used[constant], "nothing finds %s", constant)
	}
	assert.Equal(t, len(seen), kindsNamed)
}
