package fleet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"gopkg.in/yaml.v3"

	"github.com/drover/drover/smc"
)

// Bounds on manifests. A fleet is the input of a workflow, which Temporal takes up to 2 MiB of, and its status is carried
// from run to run.
const (
	// MaxManifest is how long a manifest may be, in bytes.
	MaxManifest = 4 << 20
	// MaxServers is how many servers a manifest may name: twice the sources that an account may have (CONTRACT: Jobs: states).
	MaxServers = 2000
	// maxParameters is how long the parameters of all servers may be together, in bytes, the defaults written out.
	maxParameters = 1 << 20
	// maxNodes and maxDepth hold for the YAML with every alias replaced: a few lines of aliases can stand for millions.
	maxNodes = 1 << 19
	maxDepth = 16
	// maxMistakes is how many mistakes are told at once.
	maxMistakes = 50
	// minPollInterval spares the endpoint.
	minPollInterval = time.Second
)

// namePattern is what a fleet's or wave's name may be: it stands in workflow ids, subjects and job names.
var namePattern = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,62}$`)

// notInManifest are the parameters of CreateReplicationJob that the orchestrator sets itself, beside the name: the job is
// called <fleet>:<server>, so that its events find the migration.
var notInManifest = map[string]string{
	"regionId":    "the region of the endpoint is used",
	"sourceId":    "name the server instead",
	"clientToken": "the orchestrator makes one for every attempt",
}

// Mistake is something wrong with a manifest.
type Mistake struct {
	// Line counts from 1; 0 means that no line is to blame.
	Line int
	// Text says what is wrong and what is allowed.
	Text string
}

// String names the line and what is wrong with it.
func (m Mistake) String() string {
	if m.Line == 0 {
		return m.Text
	}
	return fmt.Sprintf("line %d: %s", m.Line, m.Text)
}

// ManifestError says that a manifest cannot be used.
type ManifestError struct {
	// Mistakes are in the order of their lines. There is at least one.
	Mistakes []Mistake
}

// Error implements error: a line for each mistake.
func (e *ManifestError) Error() string {
	lines := make([]string, len(e.Mistakes))
	for i, mistake := range e.Mistakes {
		lines[i] = mistake.String()
	}
	return strings.Join(lines, "\n")
}

// ReadManifest reads a manifest in YAML and checks it: its form, and the parameters of every server as the endpoint will
// hold them against the contract. When it is not right the error is a *ManifestError; any other error is of reading.
func ReadManifest(from io.Reader) (*Fleet, error) {
	data, err := io.ReadAll(io.LimitReader(from, MaxManifest+1))
	if err != nil {
		return nil, fmt.Errorf("read the manifest: %w", err)
	}
	if len(data) > MaxManifest {
		return nil, &ManifestError{[]Mistake{{Text: fmt.Sprintf("the manifest is longer than %d bytes", MaxManifest)}}}
	}
	r := &reader{patterns: map[string]int{}, named: map[string]int{}}
	var fleet *Fleet
	if document := r.document(data); document != nil && r.bounded(document) {
		fleet = r.fleet(document)
	}
	if len(r.mistakes) > 0 {
		return nil, &ManifestError{r.told()}
	}
	return fleet, nil
}

// syntaxError is how yaml says where it could not go on.
var syntaxError = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// document parses the one document there is; nil after a mistake.
func (r *reader) document(data []byte) *yaml.Node {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var first, second yaml.Node
	switch err := decoder.Decode(&first); {
	case errors.Is(err, io.EOF):
		r.add(0, "the manifest is empty")
		return nil
	case err != nil:
		r.syntax(err)
		return nil
	}
	switch err := decoder.Decode(&second); {
	case errors.Is(err, io.EOF):
	case err != nil:
		r.syntax(err)
		return nil
	default:
		r.add(second.Line, "a second document begins here; a manifest is one document, so give each fleet a file of its own")
		return nil
	}
	if len(first.Content) == 0 || isNull(first.Content[0]) {
		r.add(0, "the manifest is empty")
		return nil
	}
	return first.Content[0]
}

func (r *reader) syntax(err error) {
	line, text := 0, err.Error()
	if parts := syntaxError.FindStringSubmatch(text); parts != nil {
		text = parts[2]
		if n, err := strconv.Atoi(parts[1]); err == nil {
			line = n
		}
	}
	r.add(line, "this is not YAML: "+text)
}

// bounded reports whether the manifest ends and stays within its bounds with every alias replaced. What comes after may
// follow aliases without care.
func (r *reader) bounded(root *yaml.Node) bool {
	count := 0
	open := map[*yaml.Node]bool{}
	var walk func(node *yaml.Node, depth int) bool
	walk = func(node *yaml.Node, depth int) bool {
		at := node
		node = resolve(node)
		count++
		switch {
		case open[node]:
			r.mistake(at, "the alias *%s contains itself", at.Value)
			return false
		case count > maxNodes:
			r.mistake(at, "the manifest is too large: its values, with aliases replaced, are more than %d", maxNodes)
			return false
		case depth > maxDepth:
			r.mistake(at, "this is nested too deep: more than %d levels", maxDepth)
			return false
		}
		open[node] = true
		defer delete(open, node)
		for _, child := range node.Content {
			if !walk(child, depth+1) {
				return false
			}
		}
		return true
	}
	return walk(root, 1)
}

// reader turns YAML into a fleet and collects mistakes.
type reader struct {
	mistakes []Mistake
	// named and patterns say in which line a server or a match is.
	named, patterns map[string]int
	// servers and parameters are how many there are so far, and how long they are together.
	servers, parameters int
	full                bool
}

func (r *reader) mistake(node *yaml.Node, format string, args ...any) {
	r.add(node.Line, fmt.Sprintf(format, args...))
}

func (r *reader) add(line int, text string) { r.mistakes = append(r.mistakes, Mistake{line, text}) }

// told returns the mistakes as they are told: in order, each once, and not too many of them.
func (r *reader) told() []Mistake {
	seen := map[Mistake]bool{} // what is wrong with the defaults is found again with every server
	told := slices.DeleteFunc(r.mistakes, func(m Mistake) bool {
		twice := seen[m]
		seen[m] = true
		return twice
	})
	slices.SortStableFunc(told, func(a, b Mistake) int { return a.Line - b.Line })
	if more := len(told) - maxMistakes; more > 0 {
		told = append(told[:maxMistakes:maxMistakes], Mistake{Text: fmt.Sprintf("and %d mistakes more", more)})
	}
	return told
}

// pair is an entry of a mapping.
type pair struct{ key, value *yaml.Node }

// pairs returns the entries of a mapping: its own, then those that it merges in (<<) and does not have itself. A key that
// is given twice is a mistake.
func (r *reader) pairs(node *yaml.Node, what string) []pair {
	var own, merged []pair
	seen := map[string]bool{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := resolve(node.Content[i]), resolve(node.Content[i+1])
		switch {
		case key.Kind != yaml.ScalarNode:
			r.mistake(key, "a key of %s must be a word", what)
		case seen[key.Value]:
			r.mistake(key, "%s is given twice", key.Value)
		case key.ShortTag() == "!!merge":
			seen[key.Value] = true
			sources := []*yaml.Node{value}
			if value.Kind == yaml.SequenceNode {
				sources = value.Content
			}
			for _, source := range sources {
				if source = resolve(source); source.Kind != yaml.MappingNode {
					r.mistake(source, "<< merges mappings, and this is none")
					continue
				}
				merged = append(merged, r.pairs(source, what)...)
			}
		default:
			seen[key.Value] = true
			own = append(own, pair{key, value})
		}
	}
	for _, p := range merged {
		if !seen[p.key.Value] {
			seen[p.key.Value] = true
			own = append(own, p)
		}
	}
	return own
}

// each calls do for every key of a mapping.
func (r *reader) each(node *yaml.Node, what string, do func(key string, keyNode, value *yaml.Node)) {
	node = resolve(node)
	if node.Kind != yaml.MappingNode {
		r.mistake(node, "%s must be a mapping", what)
		return
	}
	for _, p := range r.pairs(node, what) {
		do(p.key.Value, p.key, p.value)
	}
}

func resolve(node *yaml.Node) *yaml.Node {
	if node.Kind == yaml.AliasNode {
		return node.Alias
	}
	return node
}

func isNull(node *yaml.Node) bool { return node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null" }

func (r *reader) unknown(keyNode *yaml.Node, what string, known ...string) {
	r.mistake(keyNode, "unknown key %q in %s; known are %s", keyNode.Value, what, strings.Join(known, ", "))
}

// items calls do for every item of a list.
func (r *reader) items(node *yaml.Node, what string, do func(item *yaml.Node)) {
	if node.Kind != yaml.SequenceNode {
		r.mistake(node, "%s must be a list", what)
		return
	}
	if len(node.Content) == 0 {
		r.mistake(node, "%s is empty", what)
	}
	for _, item := range node.Content {
		do(resolve(item))
	}
}

// text returns a single value as it is written; ok is false after a mistake.
func (r *reader) text(node *yaml.Node, what string) (value string, ok bool) {
	switch {
	case node.Kind != yaml.ScalarNode:
		r.mistake(node, "%s must be one value, not a list or a mapping", what)
		return "", false
	case isNull(node):
		r.mistake(node, "%s has no value", what)
		return "", false
	}
	return node.Value, true
}

// integer reads a whole number of at least that size.
func (r *reader) integer(node *yaml.Node, what string, least int, hint string) int {
	text, ok := r.text(node, what)
	if !ok {
		return 0
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least {
		r.mistake(node, "%s: %q is not a whole number of at least %d%s", what, text, least, hint)
	}
	return n
}

func (r *reader) bool(node *yaml.Node, what string) bool {
	var value bool
	if text, ok := r.text(node, what); ok && (node.ShortTag() != "!!bool" || node.Decode(&value) != nil) {
		r.mistake(node, "%s: %q is neither true nor false", what, text)
	}
	return value
}

func (r *reader) duration(node *yaml.Node, what string) time.Duration {
	text, ok := r.text(node, what)
	if !ok {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		r.mistake(node, "%s: %q is not a duration such as 30s or 5m", what, text)
	}
	return d
}

func (r *reader) time(node *yaml.Node, what string) time.Time {
	text, ok := r.text(node, what)
	if !ok {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, text)
	if year := t.UTC().Year(); err != nil || year < 1970 || year > 9999 { // beyond that JSON has no word for it
		r.mistake(node, "%s: %q is not a time such as 2026-01-31T22:00:00Z", what, text)
		return time.Time{}
	}
	return t.UTC()
}

func (r *reader) name(node *yaml.Node, what string) string {
	text, ok := r.text(node, what)
	if ok && !namePattern.MatchString(text) {
		r.mistake(node, "%s %q: want a letter, then up to 62 letters, digits, _ or -", what, text)
	}
	return text
}

func (r *reader) fleet(node *yaml.Node) *Fleet {
	fleet := &Fleet{PollInterval: DefaultPollInterval}
	defaults := entry{Server: Server{Options: Options{Retry: DefaultRetry()}}}
	var waves *yaml.Node
	named := false
	r.each(node, "the manifest", func(key string, keyNode, value *yaml.Node) {
		switch key {
		case "name":
			named = true
			fleet.Name = r.name(value, "fleet name")
		case "defaults":
			defaults = r.server(value, "defaults", defaults)
			if defaults.Name != "" || defaults.Match != "" {
				r.mistake(value, "defaults name no server: name and match belong to the servers of a wave")
				defaults.Name, defaults.Match = "", ""
			}
		case "pollInterval":
			if fleet.PollInterval = r.duration(value, key); fleet.PollInterval > 0 && fleet.PollInterval < minPollInterval {
				r.mistake(value, "pollInterval: %q is too often; at least %v", value.Value, minPollInterval)
			}
		case "waves":
			waves = value
		default:
			r.unknown(keyNode, "the manifest", "name", "defaults", "pollInterval", "waves")
		}
	})
	if node.Kind != yaml.MappingNode {
		return fleet
	}
	if !named {
		r.mistake(node, "the fleet has no name")
	}
	if waves == nil {
		r.mistake(node, "the fleet has no waves")
		return fleet
	}
	lines := map[string]int{}
	r.items(waves, "waves", func(item *yaml.Node) {
		if r.full {
			return
		}
		wave := r.wave(item, defaults)
		if line, twice := lines[wave.Name]; twice && wave.Name != "" {
			r.mistake(item, "wave %q is in line %d already", wave.Name, line)
		}
		lines[wave.Name] = item.Line
		fleet.Waves = append(fleet.Waves, wave)
	})
	return fleet
}

func (r *reader) wave(node *yaml.Node, defaults entry) Wave {
	var wave Wave
	named, peopled := false, false
	r.each(node, "a wave", func(key string, keyNode, value *yaml.Node) {
		switch key {
		case "name":
			named = true
			wave.Name = r.name(value, "wave name")
		case "maxConcurrent":
			wave.MaxConcurrent = r.integer(value, key, 1, "; leave it out for no limit")
		case "maxFailures":
			most := r.integer(value, key, 0, "; leave it out for no limit")
			wave.MaxFailures = &most
		case "servers":
			peopled = true
			r.items(value, "servers", func(item *yaml.Node) {
				if server, ok := r.member(item, defaults); ok {
					wave.Servers = append(wave.Servers, server)
				}
			})
		default:
			r.unknown(keyNode, "a wave", "name", "maxConcurrent", "maxFailures", "servers")
		}
	})
	if node.Kind != yaml.MappingNode {
		return wave
	}
	if !named {
		r.mistake(node, "the wave has no name")
	}
	if !peopled {
		r.mistake(node, "the wave has no servers")
	}
	return wave
}

// member reads a server of a wave; ok is false when there is nothing more to say about it.
func (r *reader) member(item *yaml.Node, defaults entry) (server Server, ok bool) {
	if r.full {
		return server, false
	}
	before := len(r.mistakes)
	e := r.server(item, "a server", defaults)
	if len(r.mistakes) > before {
		return e.Server, false // what follows from a mistake is no mistake of its own
	}
	r.servers++
	for name, value := range e.Parameters {
		r.parameters += len(name) + len(value)
	}
	switch {
	case r.servers > MaxServers:
		r.full = true
		r.mistake(item, "the manifest names more than %d servers; split the fleet", MaxServers)
		return e.Server, false
	case r.parameters > maxParameters:
		r.full = true
		r.mistake(item, "the parameters of all servers, with the defaults in each, are longer than %d bytes; split the fleet", maxParameters)
		return e.Server, false
	case (e.Name == "") == (e.Match == ""):
		r.mistake(item, "a server has a name or a match, one of the two")
		return e.Server, false
	case e.Match != "":
		if line, twice := r.patterns[e.Match]; twice {
			r.mistake(item, "match %q is in line %d already", e.Match, line)
			return e.Server, false
		}
		r.patterns[e.Match] = item.Line
		r.checkMatch(item, e)
	default:
		if line, twice := r.named[e.Name]; twice {
			r.mistake(item, "server %q is named in line %d already", e.Name, line)
			return e.Server, false
		}
		r.named[e.Name] = item.Line
		if n := utf8.RuneCountInString(e.Name); n > maxJobName {
			r.mistake(item, "the server's name has %d characters; at most %d are allowed", n, maxJobName)
		}
	}
	r.checkServer(item, e)
	return e.Server, true
}

func (r *reader) checkMatch(node *yaml.Node, e entry) {
	if _, err := path.Match(e.Match, ""); err != nil {
		r.mistake(node, "match %q is not a pattern: * stands for any letters, ? for one, [a-z] for one of these", e.Match)
	}
	if e.Parameters["ImageName"] != "" {
		r.add(e.line(node, "ImageName"), "imageName and match do not go together: several servers would get one name")
	}
}

// optionKeys are the keys of a server that are not parameters of its job.
var optionKeys = []string{"name", "match", "cutover", "window", "retry", "keepJob"}

// entry is a server as it stands in the manifest.
type entry struct {
	Server
	// lines says where each parameter was set.
	lines map[string]int
}

// line says where a parameter was set, or one that it is part of; else where the server is.
func (e entry) line(node *yaml.Node, name string) int {
	for {
		if line, ok := e.lines[name]; ok {
			return line
		}
		end := strings.LastIndexByte(name, '.')
		if end < 0 {
			return node.Line
		}
		name = name[:end]
	}
}

// clear forgets a parameter and its parts: a server's value replaces the default as a whole.
func (e entry) clear(name string) {
	for known := range e.Parameters {
		if known == name || strings.HasPrefix(known, name+".") {
			delete(e.Parameters, known)
			delete(e.lines, known)
		}
	}
}

// server reads a server on top of the defaults. A key without a value takes its default back.
func (r *reader) server(node *yaml.Node, what string, defaults entry) entry {
	e := defaults
	e.Parameters, e.lines = map[string]string{}, map[string]int{}
	for name, value := range defaults.Parameters {
		e.Parameters[name], e.lines[name] = value, defaults.lines[name]
	}
	r.each(node, what, func(key string, keyNode, value *yaml.Node) {
		none := isNull(value)
		switch key {
		case "name":
			e.Name, _ = r.text(value, key)
		case "match":
			e.Match, _ = r.text(value, key)
		case "cutover":
			if e.CutOver = nil; !none {
				e.CutOver = r.cutOver(value)
			}
		case "window":
			if e.Window = nil; !none {
				e.Window = r.window(value)
			}
		case "retry":
			if e.Retry = DefaultRetry(); !none {
				e.Retry = r.retry(value, defaults.Retry)
			}
		case "keepJob":
			if e.KeepJob = false; !none {
				e.KeepJob = r.bool(value, key)
			}
		default:
			r.parameter(keyNode, value, e)
		}
	})
	return e
}

// parameter reads a parameter of CreateReplicationJob in lower camel case.
func (r *reader) parameter(keyNode, value *yaml.Node, e entry) {
	key := keyNode.Value
	if why, ok := notInManifest[key]; ok {
		r.mistake(keyNode, "%s is not set in a manifest: %s", key, why)
		return
	}
	known, ok := parameters.parts[key]
	if !ok {
		r.mistake(keyNode, "unknown key %q: it is neither a parameter of CreateReplicationJob, in lower camel case, nor one of %s",
			key, strings.Join(optionKeys, ", "))
		return
	}
	e.clear(known.name)
	switch {
	case isNull(value):
	case known.name == "ReplicationParameters" && value.Kind == yaml.MappingNode:
		r.replicationParameters(value, known.name, e)
	default:
		r.flatten(known, known.name, value, e)
	}
	if len(e.Parameters) > smc.MaxParameters {
		r.mistake(keyNode, "%s: a job has at most %d parameters", key, smc.MaxParameters)
	}
}

// replicationParameters writes a mapping as the JSON text that the API takes.
func (r *reader) replicationParameters(value *yaml.Node, name string, e entry) {
	var settings map[string]any
	err := value.Decode(&settings)
	var text []byte
	if err == nil {
		text, err = json.Marshal(settings)
	}
	if err != nil {
		r.mistake(value, "replicationParameters: %v", err)
		return
	}
	e.Parameters[name], e.lines[name] = string(text), value.Line
}

// flatten writes a value under the flat names of the API: lists count from 1.
func (r *reader) flatten(known *parameter, name string, value *yaml.Node, e entry) {
	switch {
	case len(e.Parameters) > smc.MaxParameters: // the caller says so
	case known.item != nil:
		if value.Kind != yaml.SequenceNode {
			r.mistake(value, "%s must be a list", name)
			return
		}
		for i, item := range value.Content {
			r.flatten(known.item, name+"."+strconv.Itoa(i+1), resolve(item), e)
		}
	case known.parts != nil:
		r.each(value, name, func(key string, keyNode, value *yaml.Node) {
			part, ok := known.parts[key]
			if !ok {
				r.unknown(keyNode, name, known.keys...)
				return
			}
			r.flatten(part, name+"."+part.name, value, e)
		})
	default:
		text, ok := r.text(value, name)
		if ok && value.ShortTag() == "!!bool" {
			text = strings.ToLower(text) // YAML also has True and TRUE
		}
		if ok {
			e.Parameters[name], e.lines[name] = text, value.Line
		}
	}
}

// parameter is a parameter of CreateReplicationJob: a value, a list of item, or a structure of parts.
type parameter struct {
	name  string // of this part alone, as the API has it
	item  *parameter
	parts map[string]*parameter // by lower camel case
	keys  []string              // of parts, in order
}

// parameters is the structure of CreateReplicationJob's parameters.
var parameters = func() *parameter {
	root := &parameter{}
	for _, p := range smc.CreateReplicationJob.Parameters() {
		at := root
		for word := range strings.SplitSeq(p.Name, ".") {
			at = at.child(word)
		}
	}
	return root
}()

func (p *parameter) child(word string) *parameter {
	if word == "N" {
		if p.item == nil {
			p.item = &parameter{}
		}
		return p.item
	}
	key := lowerCamel(word)
	if p.parts == nil {
		p.parts = map[string]*parameter{}
	}
	if p.parts[key] == nil {
		p.parts[key] = &parameter{name: word}
		p.keys = append(p.keys, key)
	}
	return p.parts[key]
}

func lowerCamel(word string) string {
	if strings.ToUpper(word) == word { // LVM
		return strings.ToLower(word)
	}
	return strings.ToLower(word[:1]) + word[1:]
}

// checkServer holds the parameters against the contract, as the endpoint will.
func (r *reader) checkServer(node *yaml.Node, e entry) {
	request, err := e.Request("region", "source")
	if err == nil {
		now := time.Now()
		err = smc.CreateReplicationJob.Validate(request, now)
		if err == nil {
			err = request.ValidateTimes(now)
		}
	}
	if err != nil && smc.CodeOf(err) != smc.CodeUnsupportedFeature { // the vendor may well support it
		text := smc.AsError(err).Message
		name, _, _ := strings.Cut(text, ":")
		name, _, _ = strings.Cut(name, " ")
		r.add(e.line(node, name), text)
	}
	if request == nil {
		return
	}
	if e.CutOver != nil && request.RunsOnce() {
		r.mistake(node, "cutover needs an incremental job: set runOnce: false, frequency and maxNumberOfImageToKeep")
	}
	if e.Window != nil && !request.ScheduledStart().IsZero() {
		r.mistake(node, "window and scheduledStartTime do not go together: one of the two starts the job")
	}
}

// Request returns the request that creates the server's job, without name and client token.
func (s Server) Request(regionID, sourceID string) (*smc.CreateReplicationJobRequest, error) {
	values := url.Values{"RegionId": {regionID}, "SourceId": {sourceID}}
	for name, value := range s.Parameters {
		values.Set(name, value)
	}
	return smc.CreateReplicationJob.Decode(values)
}

func (r *reader) cutOver(node *yaml.Node) *CutOver {
	cutOver := &CutOver{}
	given := false
	r.each(node, "cutover", func(key string, keyNode, value *yaml.Node) {
		if key != "afterRuns" {
			r.unknown(keyNode, "cutover", "afterRuns")
			return
		}
		given = true
		cutOver.AfterRuns = r.integer(value, "cutover.afterRuns", 1, ": the runs the job makes in all")
	})
	if !given && node.Kind == yaml.MappingNode {
		r.mistake(node, "cutover has no afterRuns: the number of runs the job makes in all")
	}
	return cutOver
}

func (r *reader) window(node *yaml.Node) *Window {
	window := &Window{}
	given := false
	r.each(node, "window", func(key string, keyNode, value *yaml.Node) {
		given = true
		switch key {
		case "notBefore":
			window.NotBefore = r.time(value, "window.notBefore")
		case "notAfter":
			window.NotAfter = r.time(value, "window.notAfter")
		default:
			r.unknown(keyNode, "window", "notBefore", "notAfter")
		}
	})
	switch {
	case !given && node.Kind == yaml.MappingNode:
		r.mistake(node, "window has neither notBefore nor notAfter")
	case !window.NotAfter.IsZero() && !window.NotAfter.After(window.NotBefore):
		r.mistake(node, "window: notAfter must be after notBefore")
	}
	return window
}

func (r *reader) retry(node *yaml.Node, defaults Retry) Retry {
	retry := defaults
	var longest *yaml.Node
	r.each(node, "retry", func(key string, keyNode, value *yaml.Node) {
		switch key {
		case "limit":
			retry.Limit = r.integer(value, "retry.limit", 0, "; 0 gives up at once")
		case "interval":
			retry.Interval = r.duration(value, "retry.interval")
		case "maxInterval":
			longest = value
			retry.MaxInterval = r.duration(value, "retry.maxInterval")
		default:
			r.unknown(keyNode, "retry", "limit", "interval", "maxInterval")
		}
	})
	if retry.MaxInterval < retry.Interval {
		if longest != nil && retry.MaxInterval > 0 {
			r.mistake(longest, "retry: maxInterval must not be shorter than interval, which is %v", retry.Interval)
		}
		retry.MaxInterval = retry.Interval
	}
	return retry
}
