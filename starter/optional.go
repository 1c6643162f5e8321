package main

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/pflag"

	"github.com/drover/drover/smc"
)

// optionalText is the value of a flag that sets an optional parameter of a request. Without the flag the parameter
// stays absent, which is not the same as empty.
type optionalText struct{ parameter **string }

// String implements pflag.Value.
func (v optionalText) String() string {
	if v.parameter == nil || *v.parameter == nil {
		return ""
	}
	return **v.parameter
}

// Type implements pflag.Value.
func (v optionalText) Type() string { return "TEXT" }

// Set implements pflag.Value.
func (v optionalText) Set(text string) error {
	*v.parameter = &text
	return nil
}

// optionalInt is optionalText for whole numbers.
type optionalInt struct{ parameter **int }

// String implements pflag.Value.
func (v optionalInt) String() string {
	if v.parameter == nil || *v.parameter == nil {
		return ""
	}
	return strconv.Itoa(**v.parameter)
}

// Type implements pflag.Value.
func (v optionalInt) Type() string { return "N" }

// Set implements pflag.Value.
func (v optionalInt) Set(text string) error {
	n, err := strconv.Atoi(text)
	if err != nil {
		return errors.New("must be a whole number")
	}
	*v.parameter = &n
	return nil
}

// optionalPast is optionalText for times that have passed.
type optionalPast struct{ optionalText }

// Set implements pflag.Value.
func (v optionalPast) Set(text string) error {
	at, err := parsePast(text, time.Now())
	if err != nil {
		return fmt.Errorf("must be %w", err)
	}
	return v.optionalText.Set(smc.FormatTime(at))
}

// pastForms says how people write a time that has passed.
const pastForms = "how long ago such as 90m, or a time such as 2026-05-01T12:00:00Z"

// parsePast reads a time that has passed. Its error is pastForms.
func parsePast(text string, now time.Time) (time.Time, error) {
	if ago, err := time.ParseDuration(text); err == nil && ago > 0 {
		return now.Add(-ago), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, errors.New(pastForms)
	}
	return at, nil
}

// textFlag declares a flag for an optional text of a request.
func textFlag(flags *pflag.FlagSet, parameter **string, name, usage string) {
	flags.Var(optionalText{parameter}, name, usage)
}

// intFlag declares a flag for an optional number of a request.
func intFlag(flags *pflag.FlagSet, parameter **int, name, usage string) {
	flags.Var(optionalInt{parameter}, name, usage)
}

// pastFlag declares a flag for an optional time of a request that has passed.
func pastFlag(flags *pflag.FlagSet, parameter **string, name, usage string) {
	flags.Var(optionalPast{optionalText{parameter}}, name, usage)
}
