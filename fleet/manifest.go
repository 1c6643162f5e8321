package fleet

import (
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

	"gopkg.in/yaml.v3"

	"github.com/drover/drover/smc"
)

// MaxManifest is how long a manifest may be, in bytes.
const MaxManifest = 4 << 20

// namePattern is what a fleet's or wave's name may be: it stands in workflow ids, subjects and job names.
var namePattern = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,62}$`)

// notInManifest are the parameters of CreateReplicationJob that the orchestrator sets itself.
var notInManifest = map[string]string{
	"regionId":    "the region of the endpoint is used",
	"sourceId":    "name the server instead",
	"clientToken": "the orchestrator makes one for every attempt",
	"name":        "the job is called <fleet>:<server>, so that its events find the migration",
}

// ReadManifest reads a manifest in YAML and checks it. Every mistake is reported, each with its line.
func ReadManifest(from io.Reader) (*Fleet, error) {
	data, err := io.ReadAll(io.LimitReader(from, MaxManifest+1))
	if err != nil {
		return nil, fmt.Errorf("read the manifest: %w", err)
	}
	if len(data) > MaxManifest {
		return nil, fmt.Errorf("the manifest is longer than %d bytes", MaxManifest)
	}
	var document yaml.Node
	if err := yaml.Unmarshal(data, &document); err != nil {
		return nil, fmt.Errorf("the manifest is not YAML: %w", err)
	}
	if len(document.Content) == 0 {
		return nil, errors.New("the manifest is empty")
	}
	r := &reader{}
	fleet := r.fleet(document.Content[0])
	if err := errors.Join(r.mistakes...); err != nil {
		return nil, err
	}
	return fleet, nil
}

// reader turns YAML into a fleet and collects mistakes.
type reader struct{ mistakes []error }

func (r *reader) mistake(node *yaml.Node, format string, args ...any) {
	r.mistakes = append(r.mistakes, fmt.Errorf("line %d: %s", node.Line, fmt.Sprintf(format, args...)))
}

// each calls do for every key of a mapping; a key that is given twice is a mistake.
func (r *reader) each(node *yaml.Node, what string, do func(key string, keyNode, value *yaml.Node)) {
	node = resolve(node)
	if node.Kind != yaml.MappingNode {
		r.mistake(node, "%s must be a mapping", what)
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key := node.Content[i]
		if seen[key.Value] {
			r.mistake(key, "%s is given twice", key.Value)
			continue
		}
		seen[key.Value] = true
		do(key.Value, key, resolve(node.Content[i+1]))
	}
}

func resolve(node *yaml.Node) *yaml.Node {
	if node.Kind == yaml.AliasNode {
		return node.Alias
	}
	return node
}

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

// scalar decodes a single value.
func scalar[T any](r *reader, node *yaml.Node, what string) T {
	var value T
	if node.Kind != yaml.ScalarNode || node.Decode(&value) != nil {
		r.mistake(node, "%s: %q is not a %T", what, node.Value, value)
	}
	return value
}

func (r *reader) duration(node *yaml.Node, what string) time.Duration {
	d, err := time.ParseDuration(node.Value)
	if err != nil || d <= 0 {
		r.mistake(node, "%s: %q is not a duration such as 30s or 5m", what, node.Value)
	}
	return d
}

func (r *reader) time(node *yaml.Node, what string) time.Time {
	t, err := time.Parse(time.RFC3339, node.Value)
	if err != nil {
		r.mistake(node, "%s: %q is not a time such as 2026-01-31T22:00:00Z", what, node.Value)
	}
	return t.UTC()
}

func (r *reader) name(node *yaml.Node, what string) string {
	if node.Kind != yaml.ScalarNode || !namePattern.MatchString(node.Value) {
		r.mistake(node, "%s %q: want a letter, then up to 62 letters, digits, _ or -", what, node.Value)
	}
	return node.Value
}

func (r *reader) fleet(node *yaml.Node) *Fleet {
	fleet := &Fleet{PollInterval: DefaultPollInterval}
	defaults := Server{Options: Options{Retry: DefaultRetry()}}
	var waves *yaml.Node
	r.each(node, "the manifest", func(key string, keyNode, value *yaml.Node) {
		switch key {
		case "name":
			fleet.Name = r.name(value, "fleet name")
		case "defaults":
			defaults = r.server(value, "defaults", defaults)
			if defaults.Name != "" || defaults.Match != "" {
				r.mistake(value, "defaults name no server: name and match belong to the servers of a wave")
			}
		case "pollInterval":
			fleet.PollInterval = r.duration(value, key)
		case "waves":
			waves = value
		default:
			r.unknown(keyNode, "the manifest", "name", "defaults", "pollInterval", "waves")
		}
	})
	if fleet.Name == "" {
		r.mistake(node, "the fleet has no name")
	}
	if waves == nil {
		r.mistake(node, "the fleet has no waves")
		return fleet
	}
	named := map[string]int{}
	r.items(waves, "waves", func(item *yaml.Node) {
		wave := r.wave(item, defaults, named)
		if slices.ContainsFunc(fleet.Waves, func(w Wave) bool { return w.Name == wave.Name }) {
			r.mistake(item, "wave %q is there twice", wave.Name)
		}
		fleet.Waves = append(fleet.Waves, wave)
	})
	return fleet
}

func (r *reader) wave(node *yaml.Node, defaults Server, named map[string]int) Wave {
	var wave Wave
	r.each(node, "a wave", func(key string, keyNode, value *yaml.Node) {
		switch key {
		case "name":
			wave.Name = r.name(value, "wave name")
		case "maxConcurrent":
			wave.MaxConcurrent = scalar[int](r, value, key)
			if wave.MaxConcurrent < 1 {
				r.mistake(value, "maxConcurrent must be at least 1; leave it out for no limit")
			}
		case "maxFailures":
			most := scalar[int](r, value, key)
			if most < 0 {
				r.mistake(value, "maxFailures must be 0 or more")
			}
			wave.MaxFailures = &most
		case "servers":
			r.items(value, "servers", func(item *yaml.Node) {
				server := r.server(item, "a server", defaults)
				if (server.Name == "") == (server.Match == "") {
					r.mistake(item, "a server has a name or a match, one of the two")
					return
				}
				if server.Match != "" {
					r.checkMatch(item, server)
				}
				if line, twice := named[server.Name]; server.Name != "" && twice {
					r.mistake(item, "server %q is named in line %d already", server.Name, line)
				}
				named[server.Name] = item.Line
				r.checkServer(item, server)
				wave.Servers = append(wave.Servers, server)
			})
		default:
			r.unknown(keyNode, "a wave", "name", "maxConcurrent", "maxFailures", "servers")
		}
	})
	if wave.Name == "" {
		r.mistake(node, "the wave has no name")
	}
	if len(wave.Servers) == 0 {
		r.mistake(node, "wave %q has no servers", wave.Name)
	}
	return wave
}

func (r *reader) checkMatch(node *yaml.Node, server Server) {
	if _, err := path.Match(server.Match, ""); err != nil {
		r.mistake(node, "match %q is not a pattern: %v", server.Match, err)
	}
	if server.Parameters["ImageName"] != "" {
		r.mistake(node, "imageName and match do not go together: several servers would get one name")
	}
}

// optionKeys are the keys of a server that are not parameters of its job.
var optionKeys = []string{"name", "match", "cutover", "window", "retry", "keepJob"}

// server reads a server on top of the defaults.
func (r *reader) server(node *yaml.Node, what string, defaults Server) Server {
	server := defaults
	values := url.Values{}
	for name, value := range defaults.Parameters {
		values.Set(name, value)
	}
	r.each(node, what, func(key string, keyNode, value *yaml.Node) {
		switch key {
		case "name":
			server.Name = scalar[string](r, value, key)
		case "match":
			server.Match = scalar[string](r, value, key)
			return
		case "cutover":
			server.CutOver = r.cutOver(value)
		case "window":
			server.Window = r.window(value)
		case "retry":
			server.Retry = r.retry(value, defaults.Retry)
		case "keepJob":
			server.KeepJob = scalar[bool](r, value, key)
		default:
			r.parameter(keyNode, value, values)
		}
	})
	server.Parameters = map[string]string{}
	for name := range values {
		server.Parameters[name] = values.Get(name)
	}
	return server
}

// parameter reads a parameter of CreateReplicationJob in lower camel case.
func (r *reader) parameter(keyNode, value *yaml.Node, values url.Values) {
	key := keyNode.Value
	if why, ok := notInManifest[key]; ok {
		r.mistake(keyNode, "%s is not set in a manifest: %s", key, why)
		return
	}
	name := upperCamel(key)
	if !slices.ContainsFunc(smc.CreateReplicationJob.Parameters(), func(p smc.Parameter) bool {
		return p.Name == name || strings.HasPrefix(p.Name, name+".")
	}) || key == name {
		r.mistake(keyNode, "unknown key %q: it is neither a parameter of CreateReplicationJob, in lower camel case, nor one of %s",
			key, strings.Join(optionKeys, ", "))
		return
	}
	for known := range values { // the server's value replaces the default as a whole
		if known == name || strings.HasPrefix(known, name+".") {
			values.Del(known)
		}
	}
	if name == "ReplicationParameters" && value.Kind == yaml.MappingNode {
		var parameters map[string]any
		if err := value.Decode(&parameters); err != nil {
			r.mistake(value, "replicationParameters: %v", err)
			return
		}
		text, err := json.Marshal(parameters)
		if err != nil {
			r.mistake(value, "replicationParameters: %v", err)
			return
		}
		values.Set(name, string(text))
		return
	}
	r.flatten(name, value, values)
}

// flatten writes a value under the flat names of the API: lists count from 1.
func (r *reader) flatten(name string, value *yaml.Node, values url.Values) {
	switch value.Kind {
	case yaml.ScalarNode:
		values.Set(name, value.Value)
	case yaml.SequenceNode:
		for i, item := range value.Content {
			r.flatten(name+"."+strconv.Itoa(i+1), resolve(item), values)
		}
	case yaml.MappingNode:
		r.each(value, name, func(key string, _, value *yaml.Node) {
			r.flatten(name+"."+upperCamel(key), value, values)
		})
	default:
		r.mistake(value, "%s: this is no value", name)
	}
}

func upperCamel(key string) string {
	if key == "" {
		return key
	}
	if strings.HasPrefix(key, "vSwitch") {
		return "VSwitch" + strings.TrimPrefix(key, "vSwitch")
	}
	return strings.ToUpper(key[:1]) + key[1:]
}

// checkServer holds the parameters against the contract, as the endpoint will.
func (r *reader) checkServer(node *yaml.Node, server Server) {
	request, err := server.Request("region", "source")
	if err == nil {
		err = smc.CreateReplicationJob.Validate(request, time.Now())
	}
	if err != nil {
		if refusal := smc.AsError(err); refusal.Code != smc.CodeUnsupportedFeature { // the vendor may well support it
			r.mistake(node, "%s", refusal.Message)
		}
		return
	}
	if server.CutOver != nil && request.RunsOnce() {
		r.mistake(node, "cutover needs an incremental job: set runOnce: false, frequency and maxNumberOfImageToKeep")
	}
	if server.Window != nil && !request.ScheduledStart().IsZero() {
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
	r.each(node, "cutover", func(key string, keyNode, value *yaml.Node) {
		if key != "afterRuns" {
			r.unknown(keyNode, "cutover", "afterRuns")
			return
		}
		cutOver.AfterRuns = scalar[int](r, value, key)
	})
	if cutOver.AfterRuns < 1 {
		r.mistake(node, "cutover.afterRuns must be at least 1: the number of runs the job makes in all")
	}
	return cutOver
}

func (r *reader) window(node *yaml.Node) *Window {
	window := &Window{}
	r.each(node, "window", func(key string, keyNode, value *yaml.Node) {
		switch key {
		case "notBefore":
			window.NotBefore = r.time(value, key)
		case "notAfter":
			window.NotAfter = r.time(value, key)
		default:
			r.unknown(keyNode, "window", "notBefore", "notAfter")
		}
	})
	if !window.NotAfter.IsZero() && !window.NotAfter.After(window.NotBefore) {
		r.mistake(node, "window: notAfter must be after notBefore")
	}
	return window
}

func (r *reader) retry(node *yaml.Node, defaults Retry) Retry {
	retry := defaults
	r.each(node, "retry", func(key string, keyNode, value *yaml.Node) {
		switch key {
		case "limit":
			retry.Limit = scalar[int](r, value, key)
			if retry.Limit < 0 {
				r.mistake(value, "retry.limit must be 0 or more")
			}
		case "interval":
			retry.Interval = r.duration(value, key)
		case "maxInterval":
			retry.MaxInterval = r.duration(value, key)
		default:
			r.unknown(keyNode, "retry", "limit", "interval", "maxInterval")
		}
	})
	retry.MaxInterval = max(retry.MaxInterval, retry.Interval)
	return retry
}
