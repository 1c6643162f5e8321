package settings

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
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
	if err := writeFile(path, []byte(b.String())); err != nil {
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

// writeFile replaces the file at path, mode 0600, so that a crash at any moment leaves the old content or the new.
func writeFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // made with mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
