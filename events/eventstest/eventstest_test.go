package eventstest

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/drover/drover/events"
)

// examples are those of docs/events.md, by type.
func examples(t *testing.T) map[string]string {
	t.Helper()
	page, err := os.ReadFile("../../docs/events.md")
	require.NoError(t, err)
	_, reference, _ := strings.Cut(string(page), "## Reference")
	all := map[string]string{}
	for _, m := range regexp.MustCompile("(?s)\n### ([a-z0-9.]+)\n.*?```json\n(.*?)```").FindAllStringSubmatch(reference, -1) {
		all[m[1]] = m[2]
	}
	return all
}

func TestSchemasTakeTheExamplesAndNothingElse(t *testing.T) {
	documented := examples(t)
	for _, typ := range events.Types() {
		t.Run(typ, func(t *testing.T) {
			example := documented[typ]
			require.NotEmpty(t, example)
			require.NoError(t, CheckAs(typ, []byte(example)))
			require.NoError(t, Validate(typ, []byte(example)))
			spoilt := func(change func(event, data map[string]any)) []byte {
				var event map[string]any
				require.NoError(t, json.Unmarshal([]byte(example), &event))
				data, ok := event["data"].(map[string]any)
				if !ok {
					data = event
				}
				change(event, data)
				text, err := json.Marshal(event)
				require.NoError(t, err)
				return text
			}
			for what, change := range map[string]func(event, data map[string]any){
				"no account":      func(_, data map[string]any) { delete(data, "AccountId") },
				"no time":         func(_, data map[string]any) { delete(data, "Time") },
				"no such time":    func(_, data map[string]any) { data["Time"] = "yesterday" },
				"an empty id":     func(_, data map[string]any) { data["AccountId"] = "" },
				"another type":    func(_, data map[string]any) { data["AccountId"] = 1 },
				"no event at all": func(event, _ map[string]any) { clear(event) },
			} {
				require.Error(t, Validate(typ, spoilt(change)), what)
			}
			if typ != events.TypeProgress {
				for what, change := range map[string]func(event, data map[string]any){
					"no sequence":              func(_, data map[string]any) { delete(data, "Sequence") },
					"sequence 0":               func(_, data map[string]any) { data["Sequence"] = 0 },
					"a sequence without zeros": func(event, _ map[string]any) { event["sequence"] = "5" },
					"the type of another":      func(event, _ map[string]any) { event["type"] = "smc.other.v1" },
					"no id":                    func(event, _ map[string]any) { delete(event, "id") },
				} {
					require.Error(t, Validate(typ, spoilt(change)), what)
				}
			}
			// What a later version may add passes a consumer's check, and not ours.
			more := spoilt(func(_, data map[string]any) { data["More"] = true })
			require.NoError(t, Validate(typ, more))
			require.Error(t, CheckAs(typ, more))
		})
	}
	unknown := []byte(strings.ReplaceAll(documented[events.TypeJobStatus], `"Phase"`, `"Improved"`))
	require.NoError(t, Validate(events.TypeJobStatus, unknown), "a change that a later version knows")
	require.Error(t, Check(unknown))
	require.Error(t, Validate(events.TypeJobStatus, []byte(strings.ReplaceAll(documented[events.TypeJobStatus], `"Cleaning"`, `"Resting"`))), "phases are the contract's")
	require.ErrorIs(t, Check([]byte(`{}`)), events.ErrUnknownType)
}
