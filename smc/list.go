package smc

import (
	"bytes"
	"encoding/json"
)

// item is an element of a List: it knows the name the API nests it under.
type item interface{ itemName() string }

// List is a list in an answer. In Go it is a slice; on the wire it is nested under the name of its items, as the
// API does: {"ReplicationJob": [...]}. The newest of the vendor's samples do not nest, so reading accepts a bare
// array too (CONTRACT: errata).
type List[T item] []T

// MarshalJSON writes the nested form; a nil list is an empty one.
func (l List[T]) MarshalJSON() ([]byte, error) {
	items := []T(l)
	if items == nil {
		items = []T{}
	}
	return json.Marshal(map[string][]T{l.nestedUnder(): items})
}

func (List[T]) nestedUnder() string {
	var zero T
	return zero.itemName()
}

// appendItems appends entries that are encoded already.
func (l List[T]) appendItems(out []byte) []byte {
	for i := range l {
		if i > 0 {
			out = append(out, ',')
		}
		if entry, ok := any(&l[i]).(appender); ok {
			out = entry.appendTo(out)
		}
	}
	return out
}

// UnmarshalJSON reads the nested form or a bare array.
func (l *List[T]) UnmarshalJSON(data []byte) error {
	if trimmed := bytes.TrimSpace(data); len(trimmed) > 0 && trimmed[0] == '[' {
		return json.Unmarshal(trimmed, (*[]T)(l))
	}
	var nested map[string]json.RawMessage
	if err := json.Unmarshal(data, &nested); err != nil {
		return err
	}
	raw, ok := nested[l.nestedUnder()]
	if !ok {
		*l = nil
		return nil
	}
	return json.Unmarshal(raw, (*[]T)(l))
}

// Answer is what every result carries. Results embed it.
type Answer struct {
	// RequestID is the id of the request, an upper-case UUID.
	RequestID string `json:"RequestId"`
}

func (a *Answer) setRequestID(id string) { a.RequestID = id }

// Result is a pointer to the result of an operation.
type Result interface{ setRequestID(id string) }

// Page is what every paged result carries.
type Page struct {
	// TotalCount is the number of entries over all pages.
	TotalCount int `json:"TotalCount"`
	// PageNumber counts from 1.
	PageNumber int `json:"PageNumber"`
	// PageSize is the most entries a page holds.
	PageSize int `json:"PageSize"`
}

// Paging limits (CONTRACT: Describe…).
const (
	DefaultPageSize = 10
	MaxPageSize     = 50
)

// PageOf returns the page number and size two optional parameters ask for, defaults filled in.
func PageOf(number, size *int) (n, s int) {
	n, s = 1, DefaultPageSize
	if number != nil {
		n = *number
	}
	if size != nil {
		s = *size
	}
	return n, s
}

// Tag is a key and value attached to a source server or a job.
type Tag struct {
	Key   string `json:"Key"`
	Value string `json:"Value"`
}

func (Tag) itemName() string { return "Tag" }

// TagParameter is a tag in a request.
type TagParameter struct {
	Key   *string `smc:"Key,maxlen=128,rule=tagkey"`
	Value *string `smc:"Value,maxlen=128"`
}

// TagsOf returns the tags that the parameters of a request name; one without a value has the empty one.
func TagsOf(parameters []TagParameter) []Tag {
	tags := make([]Tag, len(parameters))
	for i, p := range parameters {
		tags[i] = Tag{Key: deref(p.Key), Value: deref(p.Value)}
	}
	return tags
}

// TagFilter is a tag to filter by: an entry matches when it has the key and, if a value is given, that value.
type TagFilter struct {
	Key *string `smc:"Key,maxlen=128"`
	// Value that is sent empty with a key is a condition: that the tag has the empty value.
	Value *string `smc:"Value,maxlen=128"`
}
