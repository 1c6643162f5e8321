package main

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/drover/drover/smc"
	"github.com/drover/drover/starter/table"
)

// setByClient are the parameters of every request, which the client fills in as it signs.
var setByClient = []string{
	"Action", "Version", "Format", "AccessKeyId", "Signature", "SignatureMethod", "SignatureVersion", "SignatureNonce", "Timestamp",
}

func (c *cli) apiCommand() *cobra.Command {
	var list bool
	cmd := &cobra.Command{
		Use:   "api (ACTION [--Parameter VALUE]... | --list [ACTION])",
		Short: "Call any operation of the API with parameters as they are",
		Long: `Call any operation of the API and print its JSON answer.

Whatever begins with -- and a capital letter is a parameter, by its flat name, such as --DataDisk.1.Size; its value
follows it, or stands after =. An empty value is sent as such. Nothing is added but the signature: not RegionId, not
ClientToken. ACTION may be one that drover does not know. --list shows the operations and their parameters, or those
of ACTION, and asks no endpoint.`,
		Example: `  drover api DescribeReplicationJobs --PageSize 50 --Status Running
  drover api CreateReplicationJob --RegionId local-1 --SourceId s-1 --DataDisk.1.Index 1 --DataDisk.1.Size 40
  drover api ModifyReplicationJobAttribute --JobId j-1 --ValidTime=
  drover api --list CreateReplicationJob`,
		Args:               cobra.ArbitraryArgs,
		DisableFlagParsing: true, // the names of parameters are not known
		RunE: func(cmd *cobra.Command, args []string) error {
			params, rest, err := parseParameters(args)
			if err != nil {
				return err
			}
			flags := cmd.Flags()
			flags.AddFlagSet(cmd.InheritedFlags())
			if err := flags.Parse(rest); err != nil {
				return usageError{err}
			}
			if help, err := flags.GetBool("help"); err == nil && help {
				return cmd.Help()
			}
			c.log = newLogger(c.errOut, c.verbose) // made before --verbose was read
			if list {
				return c.listOperations(cmd, flags.Args(), params)
			}
			if err := exactArgs("ACTION")(cmd, flags.Args()); err != nil {
				return err
			}
			client, err := c.client()
			if err != nil {
				return err
			}
			var answer json.RawMessage
			if err := client.Call(cmd.Context(), flags.Arg(0), params, &answer); err != nil {
				return err
			}
			return c.printJSON(answer)
		},
	}
	cmd.Flags().BoolVar(&list, "list", false, "show the operations and their parameters")
	return cmd
}

// parseParameters takes the parameters of an operation out of the arguments. Its errors are of usage.
func parseParameters(args []string) (params url.Values, rest []string, err error) {
	params = url.Values{}
	for i := 0; i < len(args); i++ {
		if !isParameter(args[i]) {
			rest = append(rest, args[i])
			continue
		}
		name, value, given := strings.Cut(strings.TrimPrefix(args[i], "--"), "=")
		if !given {
			i++
			if i == len(args) || isParameter(args[i]) {
				return nil, nil, usagef("--%s needs a value; --%s= sends it empty", name, name)
			}
			value = args[i]
		}
		switch {
		case slices.Contains(setByClient, name):
			return nil, nil, usagef("--%s cannot be given: it is set as the request is signed", name)
		case params.Has(name):
			return nil, nil, usagef("--%s is given twice; entries of a list are --%s.1, --%s.2 and so on", name, name, name)
		}
		params.Set(name, value)
	}
	return params, rest, nil
}

// isParameter tells parameters of the API, which all begin with a capital letter, from flags, none of which does.
func isParameter(arg string) bool {
	name, ok := strings.CutPrefix(arg, "--")
	return ok && name != "" && name[0] >= 'A' && name[0] <= 'Z'
}

// operation is what api --list tells of one.
type operation struct {
	Name       string          `json:"Name"`
	Extension  bool            `json:"Extension"`
	ReadOnly   bool            `json:"ReadOnly"`
	Parameters []smc.Parameter `json:"Parameters"`
	ErrorCodes []string        `json:"ErrorCodes"`
}

func (c *cli) listOperations(cmd *cobra.Command, args []string, params url.Values) error {
	if len(params) > 0 {
		return usagef("--list and parameters exclude each other")
	}
	declared := smc.Operations()
	if len(args) > 0 {
		if err := exactArgs("ACTION")(cmd, args); err != nil {
			return err
		}
		declared = slices.DeleteFunc(declared, func(op smc.AnyOperation) bool { return op.Name() != args[0] })
		if len(declared) == 0 {
			return usagef("no operation %q is known; --list without it shows those there are", args[0])
		}
	}
	operations := make([]operation, len(declared))
	for i, op := range declared {
		operations[i] = operation{op.Name(), op.Extension(), op.ReadOnly(), append([]smc.Parameter{}, op.Parameters()...), append([]string{}, op.ErrorCodes()...)}
	}
	if c.json() {
		return c.printJSON(operations)
	}
	for i, op := range operations {
		if i > 0 {
			if err := c.printf("\n"); err != nil {
				return err
			}
		}
		if err := c.showOperation(op); err != nil {
			return err
		}
	}
	return nil
}

func (c *cli) showOperation(op operation) error {
	title := op.Name
	if op.Extension {
		title += " (an extension of Drover's center)"
	}
	if err := c.printf("%s\n", title); err != nil || len(op.Parameters) == 0 {
		return err
	}
	t := table.New("PARAMETER", "TYPE", "REQUIRED", "DEFAULT", "ALLOWED")
	for _, p := range op.Parameters {
		required := "-"
		if p.Required {
			required = "yes"
		}
		t.Add("--"+p.Name, p.Type, required, orDash(p.Default), orDash(p.Limits))
	}
	return t.Write(c.out, "  ")
}
