package smc

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write docs/api.md and docs/errors.md instead of comparing them (go generate ./smc)")

// TestReference writes or checks docs/api.md, which comes from the declarations and their comments.
func TestReference(t *testing.T) { keep(t, "api.md", reference(t)) }

// keep compares a file of docs with what it should be, or with -update writes it.
func keep(t *testing.T, name, want string) {
	t.Helper()
	path := filepath.Join("..", "docs", name)
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("docs/%s is not current; run go generate ./smc (-declarations +file)\n%s", name, diff)
	}
}

// TestDefaults holds the defaults the tags tell against those the code has.
func TestDefaults(t *testing.T) {
	told := map[string]string{}
	for _, op := range Operations() {
		for _, p := range op.Parameters() {
			if p.Default != "" {
				told[op.Name()+" "+p.Name] = p.Default
			}
		}
	}
	number, size := PageOf(nil, nil)
	for name, want := range map[string]string{
		"DescribeReplicationJobs PageNumber":           fmt.Sprint(number),
		"DescribeReplicationJobs PageSize":             fmt.Sprint(size),
		"CreateAccessToken Count":                      fmt.Sprint(DefaultAccessTokenCount),
		"CreateAccessToken TimeToLiveInDays":           fmt.Sprint(DefaultAccessTokenTimeToLiveInDays),
		"CreateReplicationJob RunOnce":                 fmt.Sprint((&CreateReplicationJobRequest{}).RunsOnce()),
		"CreateReplicationJob TargetType":              string((&CreateReplicationJobRequest{}).Target()),
		"CreateReplicationJob ValidTime":               fmt.Sprintf("%.0f days after the creation", DefaultValidity.Hours()/24),
		"CreateReplicationJob SystemDiskSize":          fmt.Sprintf("the size at the source and at least %d", MinDiskSizeGiB),
		"CreateReplicationJob DataDisk.N.Part.N.Block": fmt.Sprint(PartTarget{}.BlockOrDefault()),
	} {
		if told[name] != want {
			t.Errorf("%s: the tag tells %q, the code has %q", name, told[name], want)
		}
	}
}

// vendorOnly are the codes that only the vendor's cloud has a reason for.
var vendorOnly = []string{
	CodeInvalidSecurityGroupIncorrectNetwork, CodeInvalidSecurityGroupVPCMismatch, CodeEntityNotExistRole, CodeRealNameAuthenticationError,
}

// common are the codes any operation may answer with.
var common = []string{
	CodeMissingParameter, CodeInvalidParameter, CodeInvalidVersion, CodeInvalidActionNotFound, CodeInvalidTimeStampExpired,
	CodeSignatureNonceUsed, CodeSignatureDoesNotMatch, CodeInvalidAccessKeyIDNotFound, CodeForbiddenUnauthorized, CodeThrottlingUser,
	CodeUnsupportedFeature, CodeUnsupportedHTTPMethod, CodeInternalError, CodeServiceUnavailable,
}

// groups are the operations in the order of the reference, by the file that declares them.
var groups = []struct{ file, title string }{
	{"sources.go", "Source servers"},
	{"jobs.go", "Replication jobs"},
	{"tags.go", "Tags"},
	{"tokens.go", "Activation codes"},
	{"workgroups.go", "Workgroups"},
	{"", "Extensions"},
}

func reference(t *testing.T) string {
	t.Helper()
	c := readComments(t)
	var b strings.Builder
	b.WriteString("# API reference\n\n<!-- Written by go generate ./smc from the declarations in smc/. Do not edit. -->\n\n")
	fmt.Fprintf(&b, "Product `smc`, version `%s`. Operations marked *extension* are not in the vendor's API.\n\n", Version)
	for _, g := range groups {
		fmt.Fprintf(&b, "- [%s](#%s): ", g.title, strings.ToLower(strings.ReplaceAll(g.title, " ", "-")))
		for i, op := range c.operations(g.file) {
			if i > 0 {
				b.WriteString(", ")
			}
			fmt.Fprintf(&b, "[%s](#%s)", op.Name(), strings.ToLower(op.Name()))
		}
		b.WriteByte('\n')
	}
	b.WriteString("- [States of a job](#states-of-a-job), [error codes](#error-codes), [rulings](#rulings), [errata](#errata-of-the-vendors-documents)\n\n")
	b.WriteString(readText(t, "calling.md") + "\n")
	for _, g := range groups {
		fmt.Fprintf(&b, "## %s\n\n", g.title)
		for _, op := range c.operations(g.file) {
			c.operation(&b, op)
		}
	}
	states(&b)
	errorCodes(&b)
	b.WriteString(readText(t, "rulings.md"))
	return b.String()
}

func readText(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// comments are the comments of the package's declarations, and where its operations are declared.
type comments struct {
	text  map[string]string // by "Type.Field", and by the name of an operation
	files map[string]string // by the name of an operation
	names map[string]string // Go's names of fields to those of the API
}

func readComments(t *testing.T) *comments {
	t.Helper()
	c := &comments{text: map[string]string{}, files: map[string]string{}, names: map[string]string{}}
	paths, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ValueSpec:
				c.text[n.Names[0].Name], c.files[n.Names[0].Name] = flow(n.Doc), path
			case *ast.TypeSpec:
				if s, ok := n.Type.(*ast.StructType); ok {
					for _, f := range s.Fields.List {
						if len(f.Names) == 1 && f.Tag != nil {
							c.text[n.Name.Name+"."+f.Names[0].Name] = flow(f.Doc)
							if api := apiName(reflect.StructTag(strings.Trim(f.Tag.Value, "`"))); ast.IsExported(api) {
								c.names[f.Names[0].Name] = api
							}
						}
					}
				}
			}
			return true
		})
	}
	return c
}

var word = regexp.MustCompile(`\w+`)

// of returns the comment of a declaration, its fields named as in the API.
func (c *comments) of(declaration string) string {
	return word.ReplaceAllStringFunc(c.text[declaration], func(w string) string {
		if api, ok := c.names[w]; ok {
			return api
		}
		return w
	})
}

// apiName is the name a field has in the API.
func apiName(tag reflect.StructTag) string {
	for _, key := range []string{"smc", "json"} {
		if name, _, _ := strings.Cut(tag.Get(key), ","); name != "" {
			return name
		}
	}
	return ""
}

// source is a remark that says where a rule comes from.
var source = regexp.MustCompile(` \(CONTRACT: [^)]*\)`)

// flow returns a comment as running text.
func flow(doc *ast.CommentGroup) string {
	return source.ReplaceAllString(strings.Join(strings.Fields(doc.Text()), " "), "")
}

// operations returns the operations a file declares; no file means the extensions.
func (c *comments) operations(file string) []AnyOperation {
	return slices.DeleteFunc(Operations(), func(op AnyOperation) bool {
		if op.Extension() {
			return file != ""
		}
		return c.files[op.Name()] != file
	})
}

func (c *comments) operation(b *strings.Builder, op AnyOperation) {
	fmt.Fprintf(b, "### %s\n\n%s", op.Name(), c.of(op.Name()))
	if op.Extension() {
		b.WriteString(" *Extension.*")
	}
	if op.ReadOnly() {
		b.WriteString(" Changes nothing.")
	}
	b.WriteString("\n\n")
	where := map[string]string{}
	lists := map[string]string{} // of structures, to the most entries they may have
	parameterFields(reflect.TypeOf(op.NewRequest()).Elem(), "", where, lists)
	if parameters := op.Parameters(); len(parameters) > 0 {
		b.WriteString("| parameter | type | required | allowed | default | |\n| --- | --- | --- | --- | --- | --- |\n")
		for _, p := range parameters {
			for i := range p.Name {
				if list := p.Name[:i]; lists[list] != "" { // comes before its first parameter
					row(b, "`"+list+"`", "List", "", "N at most "+lists[list], "", c.of(where[list]))
					delete(lists, list)
				}
			}
			required := ""
			if p.Required {
				required = "yes"
			}
			row(b, "`"+p.Name+"`", p.Type, required, p.Limits, p.Default, c.of(where[p.Name]))
		}
		b.WriteByte('\n')
	}
	b.WriteString("| result | type | |\n| --- | --- | --- |\n")
	c.resultRows(b, reflect.TypeOf(op.NewResult()).Elem(), "")
	b.WriteString("\nError codes: ")
	own := op.ErrorCodes()
	for _, code := range own {
		fmt.Fprintf(b, "`%s`, ", code)
	}
	if len(own) > 0 {
		b.WriteString("and ")
	}
	b.WriteString("[those of any operation](#error-codes).\n\n")
}

// row writes a row of a table.
func row(b *strings.Builder, cells ...string) {
	for _, cell := range cells {
		b.WriteString("| ")
		if cell = strings.NewReplacer("|", `\|`, "<", "&lt;").Replace(cell); cell != "" {
			b.WriteString(cell + " ")
		}
	}
	b.WriteString("|\n")
}

var listMost = regexp.MustCompile(`,list=(\d+)`)

// parameterFields finds the Go field, as "Type.Field", that declares each flat parameter, and the lists of structures.
func parameterFields(typ reflect.Type, prefix string, where, lists map[string]string) {
	for i := range typ.NumField() {
		sf := typ.Field(i)
		name, at := prefix+apiName(sf.Tag), sf.Type
		if at.Kind() == reflect.Slice {
			name, at = name+".N", at.Elem()
		}
		if at.Kind() == reflect.Pointer {
			at = at.Elem()
		}
		if at.Kind() == reflect.Struct {
			parameterFields(at, name+".", where, lists)
			if most := listMost.FindStringSubmatch(sf.Tag.Get("smc")); most != nil {
				lists[name] = most[1]
			}
		}
		where[name] = typ.Name() + "." + sf.Name
	}
}

func (c *comments) resultRows(b *strings.Builder, typ reflect.Type, prefix string) {
	for i := range typ.NumField() {
		sf := typ.Field(i)
		if sf.Anonymous {
			c.resultRows(b, sf.Type, prefix)
			continue
		}
		name, at := prefix+apiName(sf.Tag), sf.Type
		comment := c.of(typ.Name() + "." + sf.Name)
		if at.Kind() == reflect.Slice {
			at = at.Elem()
			entry, _ := reflect.Zero(at).Interface().(item)
			name += "." + entry.itemName() + "[]"
		}
		if at.Kind() == reflect.Struct {
			if at.Name() != "SystemDiskPart" && at.Name() != "SourceSystemDiskPart" { // other names of Part and SourcePart
				c.resultRows(b, at, name+".")
				continue
			}
			row(b, "`"+name+"`", "Structure", "as `Part` of a data disk")
			continue
		}
		row(b, "`"+name+"`", resultType(at), comment)
	}
}

func resultType(typ reflect.Type) string {
	switch typ.Kind() { //nolint:exhaustive // results have no others
	case reflect.Int:
		return "Integer"
	case reflect.Int64:
		return "Long"
	case reflect.Float64:
		return "Float"
	case reflect.Bool:
		return "Boolean"
	}
	return "String"
}

func states(b *strings.Builder) {
	b.WriteString("## States of a job\n\n| what | allowed in | leads to |\n| --- | --- | --- |\n")
	for _, row := range Transitions() {
		from, to := orList(row.From), orList(row.To)
		if len(row.From) == len(JobStatuses()) {
			from = "any status"
		}
		if len(row.Phases) > 0 {
			from += ", BusinessStatus " + orList(row.Phases)
		}
		if to == "" {
			to = "the same status"
		}
		fmt.Fprintf(b, "| %s | %s | %s |\n", row.By, from, to)
	}
	b.WriteString("\nSchedule, Fail, Done and Expire come from the job and from time, the others from clients.\n\n")
}

func errorCodes(b *strings.Builder) {
	users := map[string][]string{}
	for _, op := range Operations() {
		for _, code := range op.ErrorCodes() {
			users[code] = append(users[code], op.Name())
		}
	}
	b.WriteString("## Error codes\n\nRetryable: the same request may be sent again. Operator: it waits for a person. Fatal: it will always fail.\n" +
		"A parameter that is missing is `MissingParameter` or `Missing` with its name, as `MissingJobId`.\n\n" +
		"| code | status | class | meaning | from |\n| --- | --- | --- | --- | --- |\n")
	var list []string
	for code := range codes {
		if code != CodeInternalServerError { // never sent
			list = append(list, code)
		}
	}
	slices.Sort(list)
	for _, code := range list {
		info, from := codes[code], strings.Join(users[code], ", ")
		switch {
		case slices.Contains(vendorOnly, code):
			from += " (the vendor only)"
		case slices.Contains(common, code):
			from = "any operation"
		case from == "":
			from = "the status of a job or source, the agents' API, or the client"
		case slices.ContainsFunc(OwnCodes(), func(own OwnCode) bool { return own.Code == code && own.InError }):
			from += ", the status of a job"
		}
		fmt.Fprintf(b, "| `%s` | %d | %s | %s | %s |\n", code, info.status, info.class, info.message, from)
	}
	b.WriteByte('\n')
}

// TestReferenceIsPlain: what stands in the reference is written for people who do not read Go.
func TestReferenceIsPlain(t *testing.T) {
	text := reference(t)
	for _, pattern := range []string{`\bsee [A-Z]`, `\bfmt\.`, `\b(Default|Max|Min)[A-Z]\w+[a-z]\b`, `\bIDs?\b`, `\bCONTRACT\b`, `\b(Format|Parse)[A-Z]`} {
		for _, found := range regexp.MustCompile(".{0,60}"+pattern+".{0,20}").FindAllString(text, -1) {
			if !strings.Contains(found, "MaxNumberOfImageToKeep") {
				t.Errorf("%s: %s", pattern, found)
			}
		}
	}
}
