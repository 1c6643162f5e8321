package settings

import (
	"fmt"
	"strings"

	"github.com/drover/drover/durable"
)

// Variable is one environment variable.
type Variable struct{ Name, Value string }

// WriteEnvironment writes the variables to path as shell syntax, one `export NAME=value` a line, readable by the owner only. A reader
// sees the old file or the new one, never half of one.
func WriteEnvironment(path string, vars []Variable) error {
	var b strings.Builder
	for _, v := range vars {
		fmt.Fprintf(&b, "export %s=%s\n", v.Name, shellQuote(v.Value))
	}
	if err := durable.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		return fmt.Errorf("write the environment: %w", err)
	}
	return nil
}

// shellQuote quotes a value for any POSIX shell. What needs no quotes gets none, so that simpler readers understand it as well.
func shellQuote(s string) string {
	special := func(r rune) bool {
		plain := r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune("-_./:@%+,=", r)
		return !plain
	}
	if s != "" && !strings.ContainsFunc(s, special) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
