package main

import (
	"errors"
	"strconv"

	"github.com/spf13/pflag"
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

// textFlag declares a flag for an optional text of a request.
func textFlag(flags *pflag.FlagSet, parameter **string, name, usage string) {
	flags.Var(optionalText{parameter}, name, usage)
}

// intFlag declares a flag for an optional number of a request.
func intFlag(flags *pflag.FlagSet, parameter **int, name, usage string) {
	flags.Var(optionalInt{parameter}, name, usage)
}
