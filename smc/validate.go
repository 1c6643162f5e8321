package smc

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// validate holds a struct against the limits of its tags. Texts that are empty count as absent, except where a
// parameter is required.
func (s *schema) validate(prefix string, from reflect.Value) error {
	for _, f := range s.fields {
		if err := f.validate(prefix, prefix+f.name, from.Field(f.index)); err != nil {
			return err
		}
	}
	return nil
}

func (f *field) validate(prefix, name string, from reflect.Value) error {
	if f.kind == kindList {
		if f.required && from.Len() == 0 {
			return f.missingError(prefix, name+".1")
		}
		if from.Len() > f.listMax {
			return Errorf(f.over, "%s has %d entries; at most %d are allowed", name, from.Len(), f.listMax)
		}
		for i := range from.Len() {
			entry := name + "." + strconv.Itoa(i+1)
			if f.elem.kind == kindString && from.Index(i).String() == "" {
				return Errorf(f.invalid, "%s is empty", entry)
			}
			if err := f.elem.validate(prefix, entry, from.Index(i)); err != nil {
				return err
			}
			// An entry with nothing in it cannot be sent on: its place in the list would be lost.
			if f.elem.kind == kindStruct && from.Index(i).IsZero() {
				return Errorf(f.invalid, "%s is empty", entry)
			}
		}
		return nil
	}
	if f.pointer {
		if from.IsNil() {
			if f.required {
				return f.missingError(prefix, name)
			}
			return nil
		}
		from = from.Elem()
	}
	switch f.kind {
	case kindString:
		text := from.String()
		if text == "" {
			if f.required {
				return f.missingError(prefix, name)
			}
			return nil
		}
		return f.validateText(name, text)
	case kindInt:
		return f.validateInt(name, from.Int())
	case kindStruct:
		return f.sub.validate(name+".", from)
	case kindBool, kindList:
	}
	return nil
}

// missingError names what is missing: Missing<Name> for a parameter of its own, MissingParameter within a list.
func (f *field) missingError(prefix, name string) error {
	if prefix != "" {
		return Errorf(CodeMissingParameter, "%s is missing", name)
	}
	return Errorf(f.missing, "%s is missing", name)
}

func (f *field) validateInt(name string, value int64) error {
	if len(f.enum) > 0 {
		return f.validateEnum(name, strconv.FormatInt(value, 10))
	}
	if value < f.min || value > f.max {
		return Errorf(f.invalid, "%s: %d is not allowed; allowed: %s", name, value, f.limits())
	}
	return nil
}

func (f *field) validateEnum(name, text string) error {
	for _, allowed := range f.enum {
		if text == allowed || (f.fold && strings.EqualFold(text, allowed)) {
			return nil
		}
	}
	return Errorf(f.invalid, "%s: %s is not allowed; it must be %s", name, quote(text), orList(f.enum))
}

func (f *field) validateText(name, text string) error {
	if len(f.enum) > 0 {
		return f.validateEnum(name, text)
	}
	if !utf8.ValidString(text) {
		return Errorf(f.invalid, "%s: the value is not UTF-8", name)
	}
	if n := utf8.RuneCountInString(text); n > f.maxLen || n < f.minLen {
		if f.minLen > 0 {
			return Errorf(f.invalid, "%s has %d characters; %d to %d are allowed", name, n, f.minLen, f.maxLen)
		}
		return Errorf(f.invalid, "%s has %d characters; at most %d are allowed", name, n, f.maxLen)
	}
	if i := strings.IndexFunc(text, isForbiddenControl); i >= 0 {
		return Errorf(f.invalid, "%s: control characters are not allowed", name)
	}
	if f.rule != nil && !f.rule.holds(text) {
		return Errorf(f.invalid, "%s: %s is not allowed; it must be %s", name, quote(text), f.rule.words)
	}
	return nil
}

// isForbiddenControl tells control characters other than those of ordinary text.
func isForbiddenControl(r rune) bool {
	return unicode.IsControl(r) && r != '\n' && r != '\r' && r != '\t'
}

// rule is a named rule for texts.
type rule struct {
	words string // completes "must be …"
	sized bool   // the words tell the length
	holds func(string) bool
}

// rules are the rules tags may name (CONTRACT: Jobs: parameters; Workgroups; Tags).
var rules = map[string]*rule{
	"name": {
		sized: true,
		words: "2 to 128 letters, digits, Chinese characters, ':', '_' or '-', a letter or Chinese character first",
		holds: func(s string) bool { return isName(s, 2, 128, true, "") },
	},
	"workgroupname": {
		sized: true,
		words: "2 to 64 letters, digits, ':', '_', '-' or '.', a letter first",
		holds: func(s string) bool { return isName(s, 2, 64, false, ".") },
	},
	"nourl": {
		words: "a text that does not begin with http:// or https://",
		holds: func(s string) bool { return !beginsWithURL(s) },
	},
	"ascii": {
		words: "of printable ASCII characters",
		holds: func(s string) bool {
			return strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) < 0
		},
	},
	"tagkey": {
		words: "a key that does not begin with aliyun, acs:, http:// or https://",
		holds: func(s string) bool {
			lower := strings.ToLower(s)
			return !strings.HasPrefix(lower, "aliyun") && !strings.HasPrefix(lower, "acs:") && !beginsWithURL(s)
		},
	},
	"time": {
		sized: true,
		words: "a UTC time like 2006-01-02T15:04:05Z",
		holds: func(s string) bool {
			_, err := ParseTime(s)
			return err == nil
		},
	},
}

// isName reports whether s is a name of least to most characters: a letter first, then letters, digits, ':', '_',
// '-' and the extra ones; han lets Chinese characters count as letters.
func isName(s string, least, most int, han bool, extra string) bool {
	n := 0
	for _, r := range s {
		letter := (r >= 'a' && r <= 'z') || (r >= 'A' && r <= 'Z') || (han && unicode.Is(unicode.Han, r))
		other := (r >= '0' && r <= '9') || r == ':' || r == '_' || r == '-' || strings.ContainsRune(extra, r)
		if !letter && (n == 0 || !other) {
			return false
		}
		n++
	}
	return n >= least && n <= most
}

func beginsWithURL(s string) bool {
	lower := strings.ToLower(s[:min(len(s), len("https://"))])
	return strings.HasPrefix(lower, "http://") || strings.HasPrefix(lower, "https://")
}

// timeLayout is the only form of times in the API: UTC, to the second.
const timeLayout = "2006-01-02T15:04:05Z"

// ParseTime reads a time of the API.
func ParseTime(s string) (time.Time, error) {
	t, err := time.Parse(timeLayout, s)
	if err != nil || len(s) != len(timeLayout) { // Parse lets fractions of a second pass
		return time.Time{}, fmt.Errorf("%s is not a UTC time like %s", quote(s), timeLayout)
	}
	return t, nil
}

// FormatTime writes a time in the form of the API. The zero time is written as an empty text.
func FormatTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(timeLayout)
}

// maxQuoted is how much of a value a message repeats.
const maxQuoted = 64

// clip shortens a text for a message and makes it safe to print.
func clip(s string) string {
	q := quote(s)
	return q[1 : len(q)-1]
}

// quote quotes a value for a message, shortened when it is long.
func quote(s string) string {
	if utf8.RuneCountInString(s) > maxQuoted {
		s = string([]rune(s)[:maxQuoted]) + "…"
	}
	return strconv.Quote(s)
}
