package events

import (
	"bytes"
	"encoding/json"
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
	"time"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/fleet"
)

var update = flag.Bool("update", false, "write the schemas and docs/events.md instead of comparing them (go generate ./events)")

// described is a type of message as the reference has it. Everything else about it comes from the Go type.
type described struct {
	typ      string
	data     any    // the example
	subject  string // with names in angle brackets
	stream   string
	id       string // of an event, with names in angle brackets
	pattern  string // of that id
	sequence string // what the sequence attribute counts
	subjects string // what the subject attribute is
	life     bool
	// closed are the fields whose values are all known, open those that may get more, each with the Go type of its values.
	closed, open map[string]string
}

var exampleTime = time.Date(2026, 11, 22, 4, 52, 14, 737000000, time.UTC)

// reference is what is published, in the order of the document.
var reference = []described{
	{
		typ: TypeJobStatus, stream: StreamName, subject: JobSubject("<account>", "<region>", "<JobId>"),
		id: "<JobId>/<sequence>", pattern: `^[^/]+/[1-9][0-9]*$`, sequence: "job", subjects: "the JobId",
		data: JobStatusChanged{
			AccountID: "1319527791405544", RegionID: "local-1", JobID: "j-599awksblrfwp523nq", SourceID: "s-i8c3v0uwfmut2ecdx3", Name: "first",
			Sequence: 5, Change: JobPhase, Status: "Running", BusinessStatus: "Cleaning", PreviousStatus: "Running", PreviousBusinessStatus: "Processing",
			Run: 1, RunType: "Manual", ImageID: "m-zw5u3453h9m8vuq94g", Progress: 99, Time: exampleTime,
		},
		closed: map[string]string{
			"Status": "smc.JobStatus", "PreviousStatus": "smc.JobStatus", "BusinessStatus": "smc.BusinessStatus", "PreviousBusinessStatus": "smc.BusinessStatus",
		},
		open: map[string]string{"Change": "events.JobChange", "RunType": "smc.RunType"},
	},
	{
		typ: TypeSourceState, stream: StreamName, subject: SourceSubject("<account>", "<region>", "<SourceId>"),
		id: "<SourceId>/<sequence>", pattern: `^[^/]+/[1-9][0-9]*$`, sequence: "source server", subjects: "the SourceId",
		data: SourceStateChanged{
			AccountID: "1319527791405544", RegionID: "local-1", SourceID: "s-i8c3v0uwfmut2ecdx3", Name: "web-1", Sequence: 4, Change: SourceOffline,
			State: "Unavailable", PreviousState: "InUse", ErrorCode: "SourceServer.Offline",
			StatusInfo: `{"error_code":"SourceServer.Offline","error_msg":"no heartbeat since 2026-11-22T04:50:44Z: check that the agent runs and reaches the center"}`,
			Time:       exampleTime,
		},
		closed: map[string]string{"State": "smc.SourceState", "PreviousState": "smc.SourceState"},
		open:   map[string]string{"Change": "events.SourceChange"},
	},
	{
		typ: TypeMigrationPhase, stream: DroverStreamName, subject: MigrationSubject("<account>", "<fleet>", "<SourceId>"),
		id: "<account>/<fleet>/<SourceId>/<life>/<sequence>", pattern: `^[^/]*/.+/[^/]+/[1-9][0-9]*/[1-9][0-9]*$`, sequence: "life of the migration", subjects: "<fleet>/<SourceId>", life: true,
		data: MigrationChanged{
			AccountID: "1319527791405544", Fleet: "spring", Wave: "pilot", SourceID: "s-i8c3v0uwfmut2ecdx3", Name: "web-1", Began: exampleTime.Add(-time.Hour),
			Sequence: 6, Phase: fleet.PhaseReplicate, PreviousPhase: fleet.PhaseStarting, JobID: "j-599awksblrfwp523nq", JobStatus: "Running", Time: exampleTime,
		},
		open: map[string]string{"Phase": "fleet.Phase", "PreviousPhase": "fleet.Phase", "JobStatus": "smc.JobStatus"},
	},
	{
		typ: TypeFleetStatus, stream: DroverStreamName, subject: FleetSubject("<account>", "<fleet>"),
		id: "<account>/<fleet>/<life>/<sequence>", pattern: `^[^/]*/.+/[1-9][0-9]*/[1-9][0-9]*$`, sequence: "life of the fleet", subjects: "the name of the fleet", life: true,
		data: FleetChanged{
			AccountID: "1319527791405544", Fleet: "spring", Began: exampleTime.Add(-time.Hour), Sequence: 3, Status: fleet.Paused, PreviousStatus: fleet.Running,
			Wave: "pilot", Reason: "2 of 5 migrations of wave pilot failed, 1 is allowed: resume the fleet to go on", Done: 1, Failed: 2, Open: 2, Time: exampleTime,
		},
		open: map[string]string{"Status": "fleet.State", "PreviousStatus": "fleet.State"},
	},
	{
		typ: TypeProgress, subject: ProgressSubject("<account>", "<region>", "<JobId>"),
		data: Progress{
			AccountID: "1319527791405544", RegionID: "local-1", JobID: "j-599awksblrfwp523nq", SourceID: "s-i8c3v0uwfmut2ecdx3", Run: 1, Status: "Running",
			BusinessStatus: "Syncing", Percent: 38.4, BytesTotal: 42949672960, BytesRead: 18039862067, BytesSent: 6442450944, BytesPerSecond: 104857600,
			ETASeconds: 237, Time: exampleTime,
		},
		closed: map[string]string{"Status": "smc.JobStatus", "BusinessStatus": "smc.BusinessStatus"},
	},
}

// goSource is what the reference takes from the source beside what reflection shows: comments, and the values of types.
type goSource struct {
	docs   map[string]string            // of a type, and of a type.Field
	values map[string][]string          // of a type
	why    map[string]map[string]string // type, value: its comment
}

func readSource(t *testing.T) goSource {
	t.Helper()
	s := goSource{map[string]string{}, map[string][]string{}, map[string]map[string]string{}}
	for _, dir := range []string{".", "../smc", "../fleet"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		require.NoError(t, err)
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
			require.NoError(t, err)
			for _, decl := range file.Decls {
				if decl, ok := decl.(*ast.GenDecl); ok {
					s.read(file.Name.Name+".", decl)
				}
			}
		}
	}
	return s
}

func (s goSource) read(pkg string, decl *ast.GenDecl) {
	for _, spec := range decl.Specs {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			s.docs[pkg+spec.Name.Name] = oneLine(decl.Doc.Text())
			if fields, ok := spec.Type.(*ast.StructType); ok {
				for _, field := range fields.Fields.List {
					for _, name := range field.Names {
						s.docs[pkg+spec.Name.Name+"."+name.Name] = oneLine(field.Doc.Text())
					}
				}
			}
		case *ast.ValueSpec:
			typ, ok := spec.Type.(*ast.Ident)
			if !ok || decl.Tok != token.CONST || len(spec.Values) != 1 {
				continue
			}
			literal, ok := spec.Values[0].(*ast.BasicLit)
			if !ok {
				continue
			}
			key, value := pkg+typ.Name, strings.Trim(literal.Value, `"`)
			if value == "" {
				continue
			}
			s.values[key] = append(s.values[key], value)
			if s.why[key] == nil {
				s.why[key] = map[string]string{}
			}
			s.why[key][value] = strings.TrimPrefix(oneLine(spec.Doc.Text()), spec.Names[0].Name+" is ")
		}
	}
}

var (
	docLink = regexp.MustCompile(`\[([A-Za-z.]+)\]`)
	seeLink = regexp.MustCompile(` \(see \[[A-Za-z.]+\]\)`)
)

// plain takes back what encoding/json does for the sake of HTML.
var plain = strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&")

func oneLine(doc string) string {
	doc = strings.Join(strings.Fields(doc), " ")
	return docLink.ReplaceAllString(seeLink.ReplaceAllString(doc, ""), "$1")
}

func list(values []string, gone bool) (all []any) {
	for _, value := range values {
		all = append(all, value)
	}
	if gone {
		all = append(all, Deleted)
	}
	return all
}

func constant(value any) *any { return &value }

// schema makes the schema of a type.
func (d described) schema(t *testing.T, source goSource) *jsonschema.Schema {
	t.Helper()
	goType := reflect.TypeOf(d.data)
	data, err := jsonschema.ForType(goType, &jsonschema.ForOptions{TypeSchemas: map[reflect.Type]*jsonschema.Schema{
		reflect.TypeFor[time.Time](): {Type: "string", Format: "date-time"},
	}})
	require.NoError(t, err)
	data.AdditionalProperties = nil
	data.Description = source.docs["events."+goType.Name()]
	require.NotEmpty(t, data.Description, goType)
	for _, field := range reflect.VisibleFields(goType) {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		property := data.Properties[name]
		doc := source.docs["events."+goType.Name()+"."+field.Name]
		require.NotEmpty(t, doc, "%s.%s has no comment", goType, field.Name)
		property.Description = strings.NewReplacer("JobID", "JobId", "SourceID", "SourceId", "AccountID", "AccountId", "RegionID", "RegionId", "ImageID", "ImageId",
			"Percent is", "Progress is", "ETASeconds", "EtaSeconds").Replace(doc)
		if typ := d.closed[name]; typ != "" {
			require.NotEmpty(t, source.values[typ], typ)
			property.Enum = list(source.values[typ], typ != "smc.BusinessStatus" && d.typ != TypeProgress)
		}
		if typ := d.open[name]; typ != "" {
			require.NotEmpty(t, source.values[typ], typ)
			property.Examples = list(source.values[typ], false)
		}
		one, zero, hundred := 1.0, 0.0, 100.0
		switch {
		case name == "Sequence":
			property.Minimum = &one
		case name == "Progress":
			property.Minimum, property.Maximum = &zero, &hundred
		case property.Type == "integer" || property.Type == "number":
			property.Minimum = &zero
		case property.Type == "string" && property.Enum == nil && property.Format == "" && isRequired(data, name):
			property.MinLength = new(int)
			*property.MinLength = 1
		}
	}
	const draft = "https://json-schema.org/draft/2020-12/schema"
	if d.id == "" {
		data.Schema, data.ID, data.Title = draft, SchemaURI(d.typ), d.typ
		return data
	}
	data.Anchor = "data"
	text := func(s string) *jsonschema.Schema { return &jsonschema.Schema{Type: "string", Description: s} }
	number := func(s string) *jsonschema.Schema {
		property := text(s)
		property.Pattern = `^[0-9]{20}$`
		return property
	}
	is := func(value string) *jsonschema.Schema { return &jsonschema.Schema{Const: constant(value)} }
	event := &jsonschema.Schema{
		Schema: draft, ID: SchemaURI(d.typ), Title: d.typ,
		Description: "A CloudEvent in structured JSON. " + data.Description,
		Type:        "object",
		Defs:        map[string]*jsonschema.Schema{"data": data},
		Required:    []string{"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema", "sequence", "data"},
		Properties: map[string]*jsonschema.Schema{
			"specversion":     is("1.0"),
			"id":              {Type: "string", Pattern: d.pattern, Description: d.id + ": the same transition always has the same one."},
			"source":          {Type: "string", MinLength: jsonschema.Ptr(1), Format: "uri-reference", Description: "The account, and the region of a job or source server."},
			"type":            is(d.typ),
			"subject":         {Type: "string", MinLength: jsonschema.Ptr(1), Description: "The resource: " + d.subjects + "."},
			"time":            {Type: "string", Format: "date-time", Description: "When the transition happened: as Time in the data."},
			"datacontenttype": is("application/json"),
			"dataschema":      is(SchemaURI(d.typ) + "#data"),
			"sequence":        number("Sequence of the data with leading zeros, so that it also sorts as text: it counts within the " + d.sequence + "."),
			"data":            {Ref: "#data"},
		},
		PropertyOrder: []string{"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema", "sequence", "life", "data"},
	}
	if d.life {
		event.Required = append(event.Required, "life")
		event.Properties["life"] = number("When the life of the resource began, in nanoseconds since 1970 with leading zeros: a later life is newer whatever its sequence.")
	}
	return event
}

func isRequired(s *jsonschema.Schema, name string) bool {
	for _, required := range s.Required {
		if required == name {
			return true
		}
	}
	return false
}

// example is the message in full, indented.
func (d described) example(t *testing.T) []byte {
	t.Helper()
	raw, err := json.Marshal(d.data)
	require.NoError(t, err)
	if payload, ok := d.data.(Payload); ok {
		record, err := NewRecord(payload)
		require.NoError(t, err)
		raw = record.Data
	}
	var out bytes.Buffer
	require.NoError(t, json.Indent(&out, raw, "", "  "))
	return out.Bytes()
}

// TestReference holds the schemas and the generated part of docs/events.md against the Go types; with -update it writes them.
func TestReference(t *testing.T) {
	source := readSource(t)
	var doc strings.Builder
	typed := map[string]bool{}
	for _, d := range reference {
		typed[d.typ] = true
		s := d.schema(t, source)
		text, err := json.MarshalIndent(s, "", "  ")
		require.NoError(t, err)
		keep(t, filepath.Join("schemas", d.typ+".json"), []byte(plain.Replace(string(text))+"\n"))
		d.document(t, &doc, s)
	}
	for _, typ := range Types() {
		require.True(t, typed[typ], typ)
	}
	fmt.Fprintf(&doc, "### Changes of a job\n\n")
	changes(&doc, source, "events.JobChange")
	fmt.Fprintf(&doc, "### Changes of a source server\n\n")
	changes(&doc, source, "events.SourceChange")

	const begin, end = "<!-- generated from the Go types by go generate ./events: -->\n", "<!-- end of what is generated -->\n"
	const file = "../docs/events.md"
	page, err := os.ReadFile(file)
	require.NoError(t, err)
	before, rest, ok := strings.Cut(string(page), begin)
	require.True(t, ok, "%s has lost its mark %q", file, begin)
	_, after, ok := strings.Cut(rest, end)
	require.True(t, ok, "%s has lost its mark %q", file, end)
	keep(t, file, []byte(before+begin+"\n"+doc.String()+end+after))
}

// keep compares a file with what it should be, or writes it.
func keep(t *testing.T, name string, want []byte) {
	t.Helper()
	if *update {
		require.NoError(t, os.WriteFile(name, want, 0o644)) //nolint:gosec // it is public
		return
	}
	got, err := os.ReadFile(name)
	require.NoError(t, err, "run go generate ./events")
	require.Equal(t, string(want), string(got), "%s is not what the Go types say: run go generate ./events", name)
}

func changes(doc *strings.Builder, source goSource, typ string) {
	fmt.Fprintf(doc, "| Change | what happened |\n| --- | --- |\n")
	for _, value := range source.values[typ] {
		why := source.why[typ][value]
		fmt.Fprintf(doc, "| `%s` | %s |\n", value, strings.ToUpper(why[:1])+why[1:])
	}
	doc.WriteString("\n")
}

// document writes the section of a type.
func (d described) document(t *testing.T, doc *strings.Builder, s *jsonschema.Schema) {
	t.Helper()
	data := s
	if s.Defs != nil {
		data = s.Defs["data"]
	}
	place := "on no stream: core NATS"
	if d.stream != "" {
		place = "on the stream `" + d.stream + "`"
	}
	fmt.Fprintf(doc, "### %s\n\n%s\n\nSubject `%s`, %s. Schema: [%s.json](../events/schemas/%s.json).\n\n", d.typ, data.Description,
		unescape(d.subject), place, d.typ, d.typ)
	if d.id != "" {
		fmt.Fprintf(doc, "The `id` is `%s`, the attribute `subject` is %s.\n\n", d.id, strings.ReplaceAll(strings.ReplaceAll(d.subjects, "<", "`<"), ">", ">`"))
	}
	fmt.Fprintf(doc, "| field | type | | |\n| --- | --- | --- | --- |\n")
	for _, name := range data.PropertyOrder {
		property := data.Properties[name]
		typ, required, values := property.Type, "", ""
		if property.Format != "" {
			typ = property.Format
		}
		if isRequired(data, name) {
			required = "always"
		}
		if _, ok := d.open[name]; ok && name == "Change" {
			values = " See below."
		} else if all := slices.Concat(property.Enum, property.Examples); len(all) > 0 {
			values = " One of"
			for i, value := range all {
				if i > 0 {
					values += ","
				}
				values += fmt.Sprint(" `", value, "`")
			}
			if property.Enum == nil {
				values += "; there may be more"
			}
			values += "."
		}
		what := strings.TrimPrefix(property.Description, name+" is ")
		fmt.Fprintf(doc, "| `%s` | %s | %s | %s%s |\n", name, typ, required, strings.ToUpper(what[:1])+what[1:], values)
	}
	fmt.Fprintf(doc, "\n```json\n%s\n```\n\n", d.example(t))
}

// unescape gives back the angle brackets that are no names.
func unescape(subject string) string {
	return strings.NewReplacer("%3C", "<", "%3E", ">").Replace(subject)
}
