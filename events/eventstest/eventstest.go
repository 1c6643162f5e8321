// Package eventstest holds events against their schemas in tests.
package eventstest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/drover/drover/events"
)

// compiled are the schemas of a type: as published, and without what is left open for later versions.
type compiled struct{ published, strict *jsonschema.Schema }

var compile = sync.OnceValues(func() (map[string]compiled, error) {
	all := map[string]compiled{}
	for _, typ := range events.Types() {
		var c compiled
		var err error
		if c.published, err = compileOne(typ, func(map[string]any) {}); err != nil {
			return nil, err
		}
		if c.strict, err = compileOne(typ, closeSchema); err != nil {
			return nil, err
		}
		all[typ] = c
	}
	return all, nil
})

func compileOne(typ string, change func(map[string]any)) (*jsonschema.Schema, error) {
	text, err := events.Schema(typ)
	if err != nil {
		return nil, err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("schema of %s: %w", typ, err)
	}
	schema, ok := doc.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("schema of %s: it is no object", typ)
	}
	change(schema)
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource(events.SchemaURI(typ), schema); err != nil {
		return nil, fmt.Errorf("schema of %s: %w", typ, err)
	}
	return c.Compile(events.SchemaURI(typ))
}

// closeSchema takes back what is left open for later versions: members and values that are not known.
func closeSchema(schema map[string]any) {
	if definitions, ok := schema["$defs"].(map[string]any); ok {
		for _, definition := range definitions {
			if definition, ok := definition.(map[string]any); ok {
				closeSchema(definition)
			}
		}
	}
	schema["additionalProperties"] = false
	properties, _ := schema["properties"].(map[string]any)
	for _, property := range properties {
		if property, ok := property.(map[string]any); ok && property["examples"] != nil {
			property["enum"] = property["examples"]
		}
	}
}

// Validate holds a message against the published schema of its type, as a consumer would.
func Validate(typ string, message []byte) error {
	return validate(typ, message, func(c compiled) *jsonschema.Schema { return c.published })
}

// Check holds an event that this version wrote against the schema of its type: it has no member and no value that the schema does
// not name.
func Check(event []byte) error {
	var envelope struct{ Type string }
	if err := json.Unmarshal(event, &envelope); err != nil {
		return fmt.Errorf("no event: %w", err)
	}
	return CheckAs(envelope.Type, event)
}

// CheckAs is Check for a message of a type that it does not name.
func CheckAs(typ string, message []byte) error {
	return validate(typ, message, func(c compiled) *jsonschema.Schema { return c.strict })
}

func validate(typ string, message []byte, by func(compiled) *jsonschema.Schema) error {
	all, err := compile()
	if err != nil {
		return err
	}
	schemas, ok := all[typ]
	if !ok {
		return fmt.Errorf("type %q: %w", typ, events.ErrUnknownType)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(message))
	if err != nil {
		return fmt.Errorf("no JSON: %w", err)
	}
	if err := by(schemas).Validate(value); err != nil {
		return fmt.Errorf("%s: %w", message, err)
	}
	return nil
}
