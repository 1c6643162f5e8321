package smc

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// TestSchemaFindsMistakes: a request type that cannot work is found when the program starts, not when it is called.
func TestSchemaFindsMistakes(t *testing.T) {
	for want, request := range map[string]any{
		"has no smc tag": struct{ A string }{},
		"use a pointer": struct {
			A int `smc:"A"`
		}{},
		"has no list=N": struct {
			A []string `smc:"A"`
		}{},
		"cannot be a parameter": struct {
			A *float64 `smc:"A"`
		}{},
		`there is no rule "nam"`: struct {
			A string `smc:"A,rule=nam"`
		}{},
		`tag "requird" is unknown`: struct {
			A string `smc:"A,requird"`
		}{},
		`tag "min=x": strconv.ParseInt:`: struct {
			A *int `smc:"A,min=x"`
		}{},
	} {
		got := func() (message string) {
			defer func() { message = fmt.Sprint(recover()) }()
			schemaOf(reflect.TypeOf(request))
			return ""
		}()
		if !strings.Contains(got, want) {
			t.Errorf("got %q, want it to say %q", got, want)
		}
	}
}
