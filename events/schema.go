package events

import (
	"embed"
	"errors"
	"fmt"
)

//go:generate go test . -run ^TestReference$ -update

// schemas holds a JSON Schema of 2020-12 for every type, made of the Go types by go generate.
//
//go:embed schemas/*.json
var schemas embed.FS

// TypeProgress is the name under which the schema of [Progress] is kept. Progress is no event and its messages carry no type.
const TypeProgress = "smc.progress.v1"

// Types are the types that have a schema.
func Types() []string {
	return []string{TypeJobStatus, TypeSourceState, TypeMigrationPhase, TypeFleetStatus, TypeProgress}
}

// ErrUnknownType is returned, wrapped, by [Schema].
var ErrUnknownType = errors.New("no such type of event")

// Schema returns the JSON Schema of a type: of the whole event as it is on the stream, with that of its data under the anchor
// "data". It lets members pass that it does not know: see the promise of compatibility in docs/events.md.
// The error wraps [ErrUnknownType].
func Schema(typ string) ([]byte, error) {
	data, err := schemas.ReadFile("schemas/" + typ + ".json")
	if err != nil {
		return nil, fmt.Errorf("%q: %w", typ, ErrUnknownType)
	}
	return data, nil
}

// SchemaURI is the $id of the schema of a type. With "#data" it is the dataschema attribute of its events.
func SchemaURI(typ string) string {
	return "https://raw.githubusercontent.com/drover/drover/main/events/schemas/" + typ + ".json"
}
