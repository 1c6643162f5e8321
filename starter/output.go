package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/drover/drover/smc"
	"github.com/drover/drover/starter/progress"
)

// outputFormat is the value of --output.
type outputFormat string

const (
	outputTable outputFormat = "table"
	outputJSON  outputFormat = "json"
)

// choice is the value of a flag that names one of a few formats.
type choice[T ~string] struct {
	chosen *T
	of     []T
}

// String implements pflag.Value.
func (c choice[T]) String() string { return string(*c.chosen) }

// Type implements pflag.Value.
func (c choice[T]) Type() string { return "FORMAT" }

// Set implements pflag.Value.
func (c choice[T]) Set(s string) error {
	if !slices.Contains(c.of, T(s)) {
		words := make([]string, len(c.of))
		for i, word := range c.of {
			words[i] = string(word)
		}
		return errors.New("must be " + strings.Join(words, " or "))
	}
	*c.chosen = T(s)
	return nil
}

// json reports whether the output is for programs.
func (c *cli) json() bool { return c.output == outputJSON }

// printJSON writes a value, indented, with the contract's field names.
func (c *cli) printJSON(v any) error {
	enc := json.NewEncoder(c.out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// printLine writes a value as one line of JSON.
func (c *cli) printLine(v any) error {
	enc := json.NewEncoder(c.out)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

func (c *cli) printf(format string, args ...any) error {
	_, err := fmt.Fprintf(c.out, format, args...)
	return err
}

// fields lists what one thing is, a line each. What is empty is left out.
type fields [][2]string

func (f *fields) add(name, value string) {
	if value != "" {
		*f = append(*f, [2]string{name, value})
	}
}

func (f *fields) write(w io.Writer) error {
	columns := 0
	for _, field := range *f {
		columns = max(columns, progress.Width(field[0]))
	}
	for _, field := range *f {
		if _, err := fmt.Fprintf(w, "%s  %s\n", progress.Pad(field[0]+":", columns+1), field[1]); err != nil {
			return err
		}
	}
	return nil
}

// localTime renders a time of the API in the time zone of the person who reads it.
func localTime(s string) string {
	t, err := smc.ParseTime(s)
	if err != nil {
		return s
	}
	return clock(t)
}

// clock renders a time in the time zone of the person who reads it; the zero time is a dash.
func clock(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format(time.DateTime)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func gib(n int) string { return fmt.Sprintf("%d GiB", n) }

// diskSize is the size of a disk of a job. One that migrates to a target instance may have asked for none.
func diskSize(n int) string {
	if n == 0 {
		return "that of the target instance"
	}
	return gib(n)
}
