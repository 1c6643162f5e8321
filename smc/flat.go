package smc

import (
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Bounds on what a request may make the decoder do, whoever sent it.
const (
	// MaxParameters is how many parameters a request may have. The largest sensible request, every disk and
	// partition of CreateReplicationJob laid out, has some 1,700.
	MaxParameters = 4000
	// maxDepth is how many parts a parameter's name may have; the deepest declared, Disks.Data.N.Part.N.Path, has 6.
	maxDepth = 8
)

// node is a parameter with those nested under it.
type node struct {
	name     string // in full
	value    *string
	children map[string]*node
}

// tree arranges flat parameters by the parts of their names. Only parameters the schema has are kept.
func (s *schema) tree(values url.Values) (*node, error) {
	if len(values) > MaxParameters {
		return nil, Errorf(CodeInvalidParameter, "The request has %d parameters; at most %d are allowed", len(values), MaxParameters)
	}
	root := &node{}
	for name, vs := range values {
		first, _, _ := strings.Cut(name, ".")
		if !s.has(first) {
			continue
		}
		if len(vs) != 1 {
			return nil, Errorf(CodeInvalidParameter, "%s is given %d times; once is allowed", clip(name), len(vs))
		}
		if !utf8.ValidString(vs[0]) {
			return nil, Errorf(CodeInvalidParameter, "%s: the value is not UTF-8", clip(name))
		}
		parts := strings.SplitN(name, ".", maxDepth+1)
		if len(parts) > maxDepth {
			return nil, Errorf(CodeInvalidParameter, "%s is nested too deep", clip(name))
		}
		at := root
		end := 0
		for _, part := range parts {
			end += len(part)
			child := at.children[part]
			if child == nil {
				child = &node{name: name[:end]}
				if at.children == nil {
					at.children = map[string]*node{}
				}
				at.children[part] = child
			}
			at = child
			end++ // the dot
		}
		at.value = &vs[0]
	}
	return root, nil
}

// has reports whether the schema has a parameter of this name at its top.
func (s *schema) has(name string) bool { return s.field(name) != nil }

// requires reports whether the schema has a required parameter of this name at its top.
func (s *schema) requires(name string) bool {
	f := s.field(name)
	return f != nil && f.required
}

func (s *schema) field(name string) *field {
	for _, f := range s.fields {
		if f.name == name || (f.alias != "" && f.alias == name) {
			return f
		}
	}
	return nil
}

// decode reads a struct from flat parameters.
func (s *schema) decode(values url.Values, into reflect.Value) error {
	root, err := s.tree(values)
	if err != nil {
		return err
	}
	return s.decodeNode(root, into)
}

func (s *schema) decodeNode(n *node, into reflect.Value) error {
	for _, f := range s.fields {
		child := n.children[f.name]
		if f.alias != "" {
			if other := n.children[f.alias]; other != nil {
				if child != nil {
					return Errorf(CodeInvalidParameter, "%s and %s are the same parameter; give one", f.name, f.alias)
				}
				child = other
			}
		}
		if child == nil {
			continue
		}
		if err := f.decode(child, into.Field(f.index)); err != nil {
			return err
		}
	}
	return nil
}

func (f *field) decode(n *node, into reflect.Value) error {
	switch f.kind {
	case kindList:
		return f.decodeList(n, into)
	case kindStruct:
		if n.value != nil && *n.value != "" {
			return Errorf(f.invalid, "%s has parts; give them as %s.%s", n.name, n.name, f.sub.fields[0].name)
		}
		if len(n.children) == 0 {
			return nil
		}
		return f.sub.decodeNode(n, f.allocate(into))
	case kindString, kindInt, kindBool:
	}
	if len(n.children) > 0 {
		return Errorf(f.invalid, "%s is one value and has no parts", n.name)
	}
	return f.decodeScalar(n.name, *n.value, into)
}

// decodeList reads Name.1, Name.2, … . The indexes must follow each other: a gap is a mistake that would change
// what the entries mean.
func (f *field) decodeList(n *node, into reflect.Value) error {
	if n.value != nil && *n.value != "" {
		return Errorf(f.invalid, "%s is a list; give its entries as %s.1, %s.2 and so on", n.name, n.name, n.name)
	}
	count := len(n.children)
	if count == 0 {
		return nil
	}
	for part, child := range n.children {
		index, err := strconv.ParseUint(part, 10, 31)
		if err != nil || index < 1 || part != strconv.FormatUint(index, 10) {
			return Errorf(f.invalid, "%s: %s is not an index; entries are numbered from 1", clip(child.name), quote(part))
		}
		if int(index) > f.listMax {
			return Errorf(f.over, "%s: at most %d entries are allowed", clip(child.name), f.listMax)
		}
	}
	list := reflect.MakeSlice(into.Type(), count, count)
	given := 0
	for i := range count {
		child := n.children[strconv.Itoa(i+1)]
		if child == nil {
			return Errorf(f.invalid, "%s.%d is missing: entries are numbered from 1 without gaps", n.name, i+1)
		}
		if f.filter && f.elem.blank(child) {
			continue
		}
		if err := f.elem.decode(child, list.Index(given)); err != nil {
			return err
		}
		given++
	}
	if given > 0 {
		into.Set(list.Slice3(0, given, given))
	}
	return nil
}

// blank reports whether a parameter, and each one nested under it, is sent without a value. What is no parameter does not count.
func (f *field) blank(n *node) bool {
	if n.value != nil && *n.value != "" {
		return false
	}
	for name, child := range n.children {
		part := f
		if f.kind == kindStruct {
			part = f.sub.field(name)
		}
		if part != nil && !part.blank(child) {
			return false
		}
	}
	return true
}

func (f *field) decodeScalar(name, text string, into reflect.Value) error {
	switch f.kind {
	case kindString:
		f.allocate(into).SetString(text)
	case kindInt:
		if text == "" {
			return nil // sent without a value: as if not sent
		}
		value, err := strconv.ParseInt(text, 10, f.bits)
		if err != nil {
			return Errorf(f.invalid, "%s: %s is not a whole number%s", name, quote(text), f.allowed())
		}
		f.allocate(into).SetInt(value)
	case kindBool:
		switch strings.ToLower(text) {
		case "":
		case "true":
			f.allocate(into).SetBool(true)
		case "false":
			f.allocate(into).SetBool(false)
		default:
			return Errorf(f.invalid, "%s: %s is not allowed; it must be true or false", name, quote(text))
		}
	case kindStruct, kindList:
	}
	return nil
}

// allowed says what the limits are, after a colon, or nothing.
func (f *field) allowed() string {
	if words := f.limits(); words != "" {
		return "; allowed: " + words
	}
	return ""
}

// allocate returns the value to fill: what a pointer field is made to point to, or the field itself.
func (f *field) allocate(into reflect.Value) reflect.Value {
	if !f.pointer {
		return into
	}
	into.Set(reflect.New(into.Type().Elem()))
	return into.Elem()
}

// encode writes a struct as flat parameters under a prefix. What is absent is left out.
func (s *schema) encode(prefix string, from reflect.Value, values url.Values) {
	for _, f := range s.fields {
		f.encode(prefix+f.name, from.Field(f.index), values)
	}
}

func (f *field) encode(name string, from reflect.Value, values url.Values) {
	switch {
	case f.kind == kindList:
		for i := range from.Len() {
			f.elem.encode(name+"."+strconv.Itoa(i+1), from.Index(i), values)
		}
		return
	case f.pointer && from.IsNil():
		return
	case f.pointer:
		from = from.Elem()
	}
	switch f.kind {
	case kindString:
		// A required text is held by value: empty is how it is absent. Entries of lists keep their place.
		if f.pointer || from.String() != "" || f.listMax > 0 {
			values.Set(name, from.String())
		}
	case kindInt:
		values.Set(name, strconv.FormatInt(from.Int(), 10))
	case kindBool:
		values.Set(name, strconv.FormatBool(from.Bool()))
	case kindStruct:
		f.sub.encode(name+".", from, values)
	case kindList:
	}
}
