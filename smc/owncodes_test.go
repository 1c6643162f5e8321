package smc

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestOwnCodesAreAllDescribed reads the block of constants in errors.go: a code of our own without its row in the table
// has no documentation.
func TestOwnCodesAreAllDescribed(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	described := map[string]OwnCode{}
	for _, c := range OwnCodes() {
		if _, twice := described[c.Code]; twice {
			t.Errorf("%s is described twice", c.Code)
		}
		described[c.Code] = c
		for field, text := range map[string]string{"Cause": c.Cause, "ByItself": c.ByItself, "ToDo": c.ToDo, "Message": c.Message} {
			if !strings.HasSuffix(text, ".") {
				t.Errorf("%s: %s is no sentence: %q", c.Code, field, text)
			}
		}
		if c.RetryFor > 0 && !c.InError {
			t.Errorf("%s is retried by a run, and no run fails with it", c.Code)
		}
		if want := (codeInfo{c.Status, c.Class, c.Message}); codes[c.Code] != want {
			t.Errorf("%s stands in both tables, and differs: %v, %v", c.Code, want, codes[c.Code])
		}
	}
	found := 0
	for _, declaration := range file.Decls {
		block, ok := declaration.(*ast.GenDecl)
		if !ok || block.Tok != token.CONST || !strings.HasPrefix(block.Doc.Text(), "Codes of ours") {
			continue
		}
		for _, spec := range block.Specs {
			constant := spec.(*ast.ValueSpec)
			code, err := strconv.Unquote(constant.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := described[code]; !ok {
				t.Errorf("%s (%s) has no row in ownCodes", constant.Names[0].Name, code)
			}
			found++
		}
	}
	if found < 20 {
		t.Errorf("only %d codes of our own were found in errors.go: is the block still called so?", found)
	}
}

func TestRetryFor(t *testing.T) {
	for code, want := range map[string]time.Duration{
		CodeSourceServerOffline: DefaultSourceWait, CodeTransitionHostNoSpace: 0, CodeInvalidParameter: 0, "Unknown": 0,
	} {
		if got := RetryFor(code); got != want {
			t.Errorf("%s: %s, want %s", code, got, want)
		}
	}
}

// TestReferenceOfErrors writes or checks docs/errors.md.
func TestReferenceOfErrors(t *testing.T) { keep(t, "errors.md", errorsReference(t)) }

func errorsReference(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("# Errors\n\n<!-- Written by go generate ./smc from smc/owncodes.go and smc/testdata/errors.md. Do not edit. -->\n\n")
	b.WriteString(readText(t, "errors.md"))
	jobs, others := OwnCodes(), OwnCodes()
	jobs = slices.DeleteFunc(jobs, func(c OwnCode) bool { return !c.InError })
	others = slices.DeleteFunc(others, func(c OwnCode) bool { return c.InError })
	b.WriteString("\n## Codes that a job can be InError with\n\n| code | class | tried again for |\n| --- | --- | --- |\n")
	for _, c := range jobs {
		retried := "-"
		if c.RetryFor > 0 {
			retried = minutes(c.RetryFor)
		}
		fmt.Fprintf(&b, "| [%s](#%s) | %s | %s |\n", c.Code, anchor(c.Code), c.Class, retried)
	}
	b.WriteByte('\n')
	for _, c := range jobs {
		describe(&b, c)
	}
	b.WriteString("## Other codes of our own\n\n")
	for _, c := range others {
		describe(&b, c)
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

func describe(b *strings.Builder, c OwnCode) {
	fmt.Fprintf(b, "### %s\n\n%s · HTTP status %d\n\n- Cause: %s\n- By itself: %s\n", c.Code, c.Class, c.Status, c.Cause, c.ByItself)
	if c.RetryFor > 0 {
		fmt.Fprintf(b, "- Tried again for: %s\n", minutes(c.RetryFor))
	}
	fmt.Fprintf(b, "- What to do: %s\n\n", c.ToDo)
}

func minutes(d time.Duration) string { return fmt.Sprintf("%.0f minutes", d.Minutes()) }

// anchor is the one that the hosts of repositories give a heading.
func anchor(heading string) string { return strings.ToLower(strings.ReplaceAll(heading, ".", "")) }
