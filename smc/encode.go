package smc

import (
	"encoding"
	"encoding/json"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// appendJSON appends what json.Marshal writes for a value, byte for byte. Answers are structs of texts, numbers and
// lists of such: those are written directly, because encoding/json would write each List apart and copy it once more for
// every list around it. All else is left to json.Marshal.
func appendJSON(out []byte, value any) ([]byte, error) {
	v := reflect.ValueOf(value)
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	if !v.IsValid() {
		return append(out, "null"...), nil
	}
	return encoderOf(v.Type())(out, v)
}

// encoder appends the JSON of values of one type.
type encoder func(out []byte, v reflect.Value) ([]byte, error)

var encoders sync.Map // of reflect.Type

func encoderOf(t reflect.Type) encoder {
	if known, ok := encoders.Load(t); ok {
		return known.(encoder)
	}
	made := newEncoder(t)
	encoders.Store(t, made)
	return made
}

// Encoded is a T as answers carry it, encoded once to be sent many times. A List[Encoded[T]] is on the wire what a List[T] is.
type Encoded[T item] struct{ data []byte }

// Encode encodes an entry of a list in an answer.
func Encode[T item](entry *T) (Encoded[T], error) {
	data, err := appendJSON(nil, entry)
	return Encoded[T]{slices.Clip(data)}, err
}

// Size is how many bytes it is.
func (e Encoded[T]) Size() int { return len(e.data) }

func (Encoded[T]) itemName() string {
	var zero T
	return zero.itemName()
}

// MarshalJSON is for those who do not write answers.
func (e Encoded[T]) MarshalJSON() ([]byte, error) { return e.data, nil }

func (e Encoded[T]) appendTo(out []byte) []byte { return append(out, e.data...) }

// appender is an Encoded.
type appender interface{ appendTo(out []byte) []byte }

var appends = reflect.TypeFor[appender]()

// nested is a List.
type nested interface {
	nestedUnder() string
	appendItems(out []byte) []byte
}

func newEncoder(t reflect.Type) encoder {
	if list, ok := reflect.Zero(t).Interface().(nested); ok && t.Kind() == reflect.Slice {
		return listEncoder(list.nestedUnder(), t.Elem())
	}
	if t.Implements(appends) {
		return func(out []byte, v reflect.Value) ([]byte, error) { return v.Interface().(appender).appendTo(out), nil }
	}
	if marshalsItself(t) || marshalsItself(reflect.PointerTo(t)) {
		return appendMarshalled
	}
	switch t.Kind() {
	case reflect.String:
		return func(out []byte, v reflect.Value) ([]byte, error) { return appendText(out, v.String()) }
	case reflect.Bool:
		return func(out []byte, v reflect.Value) ([]byte, error) { return strconv.AppendBool(out, v.Bool()), nil }
	case reflect.Int, reflect.Int32, reflect.Int64:
		return func(out []byte, v reflect.Value) ([]byte, error) { return strconv.AppendInt(out, v.Int(), 10), nil }
	case reflect.Float64:
		return appendFloat
	case reflect.Struct:
		if fields, ok := fieldsOf(t, nil, nil); ok {
			return structEncoder(fields)
		}
	default:
	}
	return appendMarshalled
}

func marshalsItself(t reflect.Type) bool {
	return t.Implements(reflect.TypeFor[json.Marshaler]()) || t.Implements(reflect.TypeFor[encoding.TextMarshaler]())
}

func appendMarshalled(out []byte, v reflect.Value) ([]byte, error) {
	data, err := json.Marshal(v.Interface())
	return append(out, data...), err
}

func appendFloat(out []byte, v reflect.Value) ([]byte, error) {
	const exact = 1 << 53
	if f := v.Float(); f == math.Trunc(f) && f < exact && !math.Signbit(f) {
		return strconv.AppendInt(out, int64(f), 10), nil
	}
	return appendMarshalled(out, v)
}

// appendText quotes a text; only one with characters that need it is worth encoding/json.
func appendText(out []byte, s string) ([]byte, error) {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			data, err := json.Marshal(s)
			return append(out, data...), err
		}
	}
	out = append(out, '"')
	out = append(out, s...)
	return append(out, '"'), nil
}

func listEncoder(name string, item reflect.Type) encoder {
	open := `{"` + name + `":[`
	encoded := item.Implements(appends)
	return func(out []byte, v reflect.Value) (_ []byte, err error) {
		out = append(out, open...)
		if encoded {
			return append(v.Interface().(nested).appendItems(out), "]}"...), nil
		}
		encode := encoderOf(item)
		for i := range v.Len() {
			if i > 0 {
				out = append(out, ',')
			}
			if out, err = encode(out, v.Index(i)); err != nil {
				return out, err
			}
		}
		return append(out, "]}"...), nil
	}
}

// encodedField is a field of a struct, embedded ones included.
type encodedField struct {
	index     []int
	label     string // the name quoted, and the colon
	omitEmpty bool
	encode    encoder
}

// fieldsOf adds the fields of a struct; ok is false when it has some that only encoding/json knows how to write.
func fieldsOf(t reflect.Type, at []int, fields []encodedField) (_ []encodedField, ok bool) {
	for i := range t.NumField() {
		f := t.Field(i)
		index := append(append([]int{}, at...), i)
		tag, tagged := f.Tag.Lookup("json")
		if f.Anonymous && !tagged && f.Type.Kind() == reflect.Struct && f.IsExported() {
			if fields, ok = fieldsOf(f.Type, index, fields); !ok {
				return nil, false
			}
			continue
		}
		if f.Anonymous || !f.IsExported() || tag == "-" {
			return nil, false
		}
		name, option, _ := strings.Cut(tag, ",")
		if name == "" {
			name = f.Name
		}
		switch kind := f.Type.Kind(); {
		case option != "" && option != "omitempty":
			return nil, false
		case option == "omitempty" && (kind == reflect.Struct || kind == reflect.Array): // never empty to encoding/json
			return nil, false
		}
		fields = append(fields, encodedField{index: index, label: strconv.Quote(name) + ":", omitEmpty: option != "", encode: encoderOf(f.Type)})
	}
	return fields, true
}

func structEncoder(fields []encodedField) encoder {
	return func(out []byte, v reflect.Value) (_ []byte, err error) {
		out = append(out, '{')
		first := true
		for i := range fields {
			field := &fields[i]
			value := v.FieldByIndex(field.index)
			if field.omitEmpty && (value.IsZero() || value.Kind() == reflect.Slice && value.Len() == 0) {
				continue
			}
			if !first {
				out = append(out, ',')
			}
			first = false
			out = append(out, field.label...)
			if out, err = field.encode(out, value); err != nil {
				return out, err
			}
		}
		return append(out, '}'), nil
	}
}
