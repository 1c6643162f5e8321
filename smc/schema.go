package smc

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
)

// kind is what a parameter holds.
type kind uint8

const (
	kindString kind = iota
	kindInt
	kindBool
	kindStruct
	kindList
)

// defaultMaxLen is how many characters a text may have when its tag does not say: no id or name is longer.
const defaultMaxLen = 256

// schema is the shape of a request, or of a structure within one. It is made once, when the operation is
// declared, and never changes.
type schema struct {
	fields []*field
}

// field is one parameter: its name and limits, from the tag
//
//	smc:"Name[,required][,min=N,max=N][,minlen=N][,maxlen=N][,enum=A|B[,fold]][,rule=R][,list=N[,filter]][,alias=A]
//	     [,default=D][,missing=Code][,invalid=Code][,over=Code]"
//
// list is the most entries a list may have; the other limits hold for each of its entries. filter passes over those of
// them that are sent without a value, which are no conditions. alias is another name under which clients send it. default says, for the
// reference, what absence means. missing, invalid and over replace the codes Missing<Name> and InvalidParameter. Lengths count characters.
type field struct {
	name    string
	alias   string
	index   int // of the field in its Go struct
	kind    kind
	pointer bool
	bits    int // of an integer

	required       bool
	min, max       int64
	minLen, maxLen int
	enum           []string
	fold           bool // enum in any case
	rule           *rule
	ruleName       string
	listMax        int
	filter         bool
	byDefault      string

	missing, invalid, over string // codes

	elem *field  // of a list
	sub  *schema // of a struct
}

// schemaOf reads the tags of a struct type. It panics on a type that cannot be a request.
func schemaOf(t reflect.Type) *schema {
	s := &schema{}
	for i := range t.NumField() {
		sf := t.Field(i)
		tag, ok := sf.Tag.Lookup("smc")
		if !ok {
			panic(fmt.Sprintf("smc: %s.%s has no smc tag", t, sf.Name))
		}
		f := &field{index: i, min: math.MinInt64, max: math.MaxInt64, maxLen: defaultMaxLen, invalid: CodeInvalidParameter, over: CodeInvalidParameter}
		f.readTag(t, sf.Name, tag)
		f.readType(t, sf.Name, sf.Type)
		s.fields = append(s.fields, f)
	}
	return s
}

func (f *field) readTag(t reflect.Type, goName, tag string) {
	parts := strings.Split(tag, ",")
	f.name = parts[0]
	f.missing = "Missing" + f.name
	for _, part := range parts[1:] {
		key, value, _ := strings.Cut(part, "=")
		number := func() int64 {
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				panic(fmt.Sprintf("smc: %s.%s: tag %q: %v", t, goName, part, err))
			}
			return n
		}
		switch key {
		case "required":
			f.required = true
		case "min":
			f.min = number()
		case "max":
			f.max = number()
		case "minlen":
			f.minLen = int(number())
		case "maxlen":
			f.maxLen = int(number())
		case "enum":
			f.enum = strings.Split(value, "|")
		case "fold":
			f.fold = true
		case "rule":
			r, ok := rules[value]
			if !ok {
				panic(fmt.Sprintf("smc: %s.%s: there is no rule %q", t, goName, value))
			}
			f.rule, f.ruleName = r, value
		case "list":
			f.listMax = int(number())
		case "filter":
			f.filter = true
		case "alias":
			f.alias = value
		case "default":
			f.byDefault = value
		case "missing":
			f.missing = value
		case "invalid":
			f.invalid = value
		case "over":
			f.over = value
		default:
			panic(fmt.Sprintf("smc: %s.%s: tag %q is unknown", t, goName, part))
		}
	}
}

func (f *field) readType(t reflect.Type, goName string, ft reflect.Type) {
	if ft.Kind() == reflect.Slice {
		if f.listMax <= 0 {
			panic(fmt.Sprintf("smc: %s.%s is a list and its tag has no list=N", t, goName))
		}
		elem := *f
		elem.required = false
		elem.readType(t, goName, ft.Elem())
		f.kind, f.elem = kindList, &elem
		return
	}
	if ft.Kind() == reflect.Pointer {
		f.pointer, ft = true, ft.Elem()
	}
	switch ft.Kind() { //nolint:exhaustive // the rest is refused
	case reflect.String:
		f.kind = kindString
	case reflect.Int:
		f.kind, f.bits = kindInt, 32 // the API's Integer, whatever the machine's
	case reflect.Int64:
		f.kind, f.bits = kindInt, 64
	case reflect.Bool:
		f.kind = kindBool
	case reflect.Struct:
		f.kind, f.sub = kindStruct, schemaOf(ft)
	default:
		panic(fmt.Sprintf("smc: %s.%s: a %s cannot be a parameter", t, goName, ft))
	}
	if !f.pointer && f.kind != kindString && f.kind != kindStruct {
		panic(fmt.Sprintf("smc: %s.%s: absent and zero would be one; use a pointer", t, goName))
	}
}

// describe lists the scalar parameters under a prefix.
func (s *schema) describe(prefix string, out []Parameter) []Parameter {
	for _, f := range s.fields {
		out = f.describe(prefix+f.name, f.required, out)
	}
	return out
}

func (f *field) describe(name string, required bool, out []Parameter) []Parameter {
	switch f.kind {
	case kindList:
		return f.elem.describe(name+".N", required, out)
	case kindStruct:
		return f.sub.describe(name+".", out)
	case kindString, kindInt, kindBool:
	}
	return append(out, Parameter{Name: name, Type: f.typeName(), Required: required, Limits: f.limits(), Default: f.byDefault})
}

// codes appends the codes the tags name in place of the usual ones.
func (s *schema) codes(list []string) []string {
	for _, f := range s.fields {
		if f.missing != "Missing"+f.name {
			list = append(list, f.missing)
		}
		for _, code := range []string{f.invalid, f.over} {
			if code != CodeInvalidParameter {
				list = append(list, code)
			}
		}
		if f.elem != nil {
			f = f.elem
		}
		if f.sub != nil {
			list = f.sub.codes(list)
		}
	}
	return list
}

func (f *field) typeName() string {
	switch {
	case f.ruleName == "time":
		return "Time"
	case f.kind == kindInt && f.bits == 64:
		return "Long"
	case f.kind == kindInt:
		return "Integer"
	case f.kind == kindBool:
		return "Boolean"
	}
	return "String"
}

// limits says in words which values are allowed.
func (f *field) limits() string {
	var parts []string
	switch {
	case len(f.enum) > 0:
		parts = append(parts, orList(f.enum))
		if f.fold {
			parts = append(parts, "in any case")
		}
	case f.rule != nil:
		parts = append(parts, f.rule.words)
	case f.min != math.MinInt64 && f.max < math.MaxInt32:
		parts = append(parts, fmt.Sprintf("%d to %d", f.min, f.max))
	case f.min != math.MinInt64:
		parts = append(parts, fmt.Sprintf("at least %d", f.min))
	}
	switch {
	case f.kind != kindString, len(f.enum) > 0, f.rule != nil && f.rule.sized:
	case f.minLen > 0:
		parts = append(parts, fmt.Sprintf("%d to %d characters", f.minLen, f.maxLen))
	default:
		parts = append(parts, fmt.Sprintf("at most %d characters", f.maxLen))
	}
	if f.listMax > 0 {
		parts = append(parts, fmt.Sprintf("N at most %d", f.listMax))
	}
	return strings.Join(parts, ", ")
}
