// Package ram reads access policies and decides by them (CONTRACT: Access rules). It is pure: it knows neither the
// operations of the API nor where policies are kept.
package ram

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// MaxDocument is how long a policy document may be, in bytes.
const MaxDocument = 6144

// version is the only version of the policy language.
const version = "1"

// Decision is what a policy says of one action on one resource.
type Decision int

// The decisions.
const (
	// NotGranted means that no statement allows it, which refuses it.
	NotGranted Decision = iota
	// Granted means that a statement allows it and none denies it.
	Granted
	// Denied means that a statement denies it, whatever others allow.
	Denied
)

// String returns the decision as a message puts it.
func (d Decision) String() string {
	switch d {
	case Granted:
		return "a statement allows it"
	case Denied:
		return "a statement denies it"
	case NotGranted:
	}
	return "no statement allows it"
}

// Policy is a list of statements; their order does not matter. The zero Policy grants nothing.
type Policy struct{ statements []statement }

// statement allows or denies actions on resources. Patterns are in lower case.
type statement struct {
	deny               bool
	actions, resources []pattern
}

// Decide says what the policy makes of an action ("smc:StartReplicationJob") on a resource
// ("acs:smc:<region>:<account>:replicationjob/<id>"). Letter case does not matter. Deny wins.
func (p *Policy) Decide(action, resource string) Decision {
	action, resource = strings.ToLower(action), strings.ToLower(resource)
	decision := NotGranted
	for _, s := range p.statements {
		if !matchAny(s.actions, action) || !matchAny(s.resources, resource) {
			continue
		}
		if s.deny {
			return Denied
		}
		decision = Granted
	}
	return decision
}

// ActionPatterns returns the patterns of all statements, in lower case, so that a caller that knows the operations can
// tell which of them name none.
func (p *Policy) ActionPatterns() []string {
	var patterns []string
	for _, s := range p.statements {
		for _, action := range s.actions {
			patterns = append(patterns, string(action))
		}
	}
	return patterns
}

// Match reports whether a text matches a pattern in which * stands for any run of characters, none included. Letter
// case does not matter.
func Match(of, text string) bool { return pattern(strings.ToLower(of)).match(strings.ToLower(text)) }

// pattern is in lower case.
type pattern string

func matchAny(patterns []pattern, text string) bool {
	for _, p := range patterns {
		if p.match(text) {
			return true
		}
	}
	return false
}

// match finds the pieces between the stars one after the other. The leftmost place of a piece is as good as any other, so
// nothing is tried twice.
func (p pattern) match(text string) bool {
	head, rest, starred := strings.Cut(string(p), "*")
	if !starred {
		return head == text
	}
	text, ok := strings.CutPrefix(text, head)
	if !ok {
		return false
	}
	for {
		piece, more, starred := strings.Cut(rest, "*")
		if !starred {
			return strings.HasSuffix(text, piece)
		}
		at := strings.Index(text, piece)
		if at < 0 {
			return false
		}
		text, rest = text[at+len(piece):], more
	}
}

// Parse reads a policy document:
//
//	{"Version": "1", "Statement": [{"Effect": "Allow", "Action": ["smc:Describe*"], "Resource": "*"}]}
//
// Action and Resource are a text or a list of texts. What is not understood is refused, so that no policy grants more, or
// denies less, than its author meant: unknown and repeated keys, conditions, and patterns that can match nothing. The
// error says what is wrong where.
func Parse(document string) (*Policy, error) {
	if len(document) > MaxDocument {
		return nil, fmt.Errorf("the policy has %d bytes; at most %d are allowed", len(document), MaxDocument)
	}
	if !utf8.ValidString(document) {
		return nil, errors.New("the policy is not UTF-8")
	}
	decoder := json.NewDecoder(strings.NewReader(document))
	var raw json.RawMessage
	if err := decoder.Decode(&raw); err != nil {
		return nil, fmt.Errorf("the policy is not JSON: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the policy's JSON object")
	}
	policy, seenVersion, seenStatement := &Policy{}, false, false
	err := object("the policy", raw, func(key string, value json.RawMessage) (err error) {
		switch key {
		case "Version":
			seenVersion = true
			var text string
			if json.Unmarshal(value, &text) != nil || text != version {
				return fmt.Errorf(`the policy's Version is %s; it must be "1"`, value)
			}
		case "Statement":
			seenStatement = true
			policy.statements, err = parseStatements(value)
		default:
			return fmt.Errorf("the policy has the key %q; it may have Version and Statement", key)
		}
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case !seenVersion:
		return nil, errors.New(`the policy has no Version; it must be "1"`)
	case !seenStatement:
		return nil, errors.New("the policy has no Statement")
	}
	return policy, nil
}

func parseStatements(raw json.RawMessage) ([]statement, error) {
	var entries []json.RawMessage
	if json.Unmarshal(raw, &entries) != nil || len(entries) == 0 {
		return nil, errors.New("the policy's Statement must be a list of at least one statement")
	}
	statements := make([]statement, len(entries))
	for i, entry := range entries {
		if err := statements[i].parse(fmt.Sprintf("Statement %d", i+1), entry); err != nil {
			return nil, err
		}
	}
	return statements, nil
}

func (s *statement) parse(name string, raw json.RawMessage) error {
	effect := false
	err := object(name, raw, func(key string, value json.RawMessage) (err error) {
		switch key {
		case "Effect":
			effect = true
			var text string
			if json.Unmarshal(value, &text) != nil || text != "Allow" && text != "Deny" {
				return fmt.Errorf("%s: Effect is %s; it must be \"Allow\" or \"Deny\"", name, value)
			}
			s.deny = text == "Deny"
		case "Action":
			s.actions, err = parsePatterns(name+": Action", value, "smc:")
		case "Resource":
			s.resources, err = parsePatterns(name+": Resource", value, "acs:smc:")
		case "Condition":
			return fmt.Errorf("%s has a Condition; this center does not judge conditions, so it does not take policies that have any", name)
		case "NotAction", "NotResource", "Principal", "NotPrincipal":
			return fmt.Errorf("%s has the key %s, which this center does not judge; name what is meant with Effect, Action and Resource", name, key)
		default:
			return fmt.Errorf("%s has the key %q; it may have Effect, Action and Resource", name, key)
		}
		return err
	})
	switch {
	case err != nil:
		return err
	case !effect:
		return fmt.Errorf("%s has no Effect", name)
	case s.actions == nil:
		return fmt.Errorf("%s has no Action", name)
	case s.resources == nil:
		return fmt.Errorf("%s has no Resource", name)
	}
	return nil
}

// parsePatterns reads a text or a list of texts, each of which must be able to match something that begins with prefix.
func parsePatterns(name string, raw json.RawMessage, prefix string) ([]pattern, error) {
	var texts []string
	if raw[0] == '"' {
		var text string
		if err := json.Unmarshal(raw, &text); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		texts = append(texts, text)
	} else {
		var elements []*string // tells null from ""
		if json.Unmarshal(raw, &elements) != nil || len(elements) == 0 {
			return nil, fmt.Errorf("%s must be a text or a list of at least one text", name)
		}
		for _, element := range elements {
			if element == nil {
				return nil, fmt.Errorf("%s has a null in its list", name)
			}
			texts = append(texts, *element)
		}
	}
	patterns := make([]pattern, len(texts))
	for i, text := range texts {
		patterns[i] = pattern(strings.ToLower(text))
		literal, _, starred := strings.Cut(string(patterns[i]), "*")
		if !starred && (!strings.HasPrefix(literal, prefix) || literal == prefix) || starred && !strings.HasPrefix(literal, prefix) && !strings.HasPrefix(prefix, literal) {
			return nil, fmt.Errorf("%s: %q matches nothing of this center; it must begin with %s or be *", name, text, prefix)
		}
	}
	return patterns, nil
}

// object reads a JSON object key by key. Keys are exact, and none may come twice: the decoder of encoding/json would let
// the last one win without a word.
func object(name string, raw json.RawMessage, each func(key string, value json.RawMessage) error) error {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return fmt.Errorf("%s is not a JSON object", name)
	}
	seen := map[string]bool{}
	for decoder.More() {
		token, err := decoder.Token()
		key, ok := token.(string)
		if err != nil || !ok {
			return fmt.Errorf("%s is not a JSON object", name)
		}
		if seen[key] {
			return fmt.Errorf("%s has the key %q twice", name, key)
		}
		seen[key] = true
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := each(key, value); err != nil {
			return err
		}
	}
	return nil
}
