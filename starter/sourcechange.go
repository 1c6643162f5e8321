package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/drover/drover/smc"
)

func (c *cli) sourceModifyCommand() *cobra.Command {
	req := &smc.ModifySourceServerAttributeRequest{}
	cmd := &cobra.Command{
		Use:   "modify SOURCE [--name NAME] [--description TEXT]",
		Short: "Rename or describe a source server",
		Long: `Rename or describe a source server, in any state. What is not given stays as it is; an empty description clears it.
SOURCE is an id or a name.`,
		Example: `  drover source modify web-1 --name web-1-old
  drover source modify web-1 --description 'rack 7'`,
		Args:    exactArgs("SOURCE"),
		PreRunE: needsChange(&req.Name, &req.Description),
		RunE: withOne(c, findSource, func(ctx context.Context, client *smc.Client, source smc.SourceServer) error {
			req.SourceID = source.SourceID
			if _, err := client.ModifySourceServerAttribute(ctx, req); err != nil {
				return err
			}
			return sourceLookup(ctx, client).report(c, source.SourceID, "modified")
		}),
	}
	textFlag(cmd.Flags(), &req.Name, "name", "new `NAME`")
	textFlag(cmd.Flags(), &req.Description, "description", "`TEXT` about the source server")
	return cmd
}

// needsChange refuses a command that renames or describes a thing and is told neither.
func needsChange(name, description **string) func(*cobra.Command, []string) error {
	return func(*cobra.Command, []string) error {
		if *name == nil && *description == nil {
			return usagef("nothing to change is given: --name or --description")
		}
		return nil
	}
}

func (c *cli) sourceDeleteCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "delete SOURCE [--force]",
		Short: "Delete a source server, with --force its job too",
		Long: `Delete a source server. A source server with a job is refused; with --force the job is deleted too, with what the
transition host keeps for it. A job that is Running is never deleted: stop it first. Images stay. SOURCE is an id or a name.`,
		Example: "  drover source delete web-1\n  drover source delete web-1 --force",
		Args:    exactArgs("SOURCE"),
		RunE: withOne(c, findSource, func(ctx context.Context, client *smc.Client, source smc.SourceServer) error {
			req := &smc.DeleteSourceServerRequest{SourceID: source.SourceID}
			optional(force, &req.Force, true)
			if _, err := client.DeleteSourceServer(ctx, req); err != nil {
				return err
			}
			if c.json() {
				return c.printJSON(map[string]string{"SourceId": source.SourceID})
			}
			// A job takes its time to go, and its source server goes after it.
			done := "deleted"
			left, _, err := listSources(ctx, client, smc.DescribeSourceServersRequest{SourceID: []string{source.SourceID}})
			if err != nil {
				return fmt.Errorf("source server %s is being deleted, but whether it is gone cannot be read: %w", source.SourceID, err)
			}
			if len(left) > 0 {
				done = "is " + string(left[0].State)
			}
			return c.printf("source server %s %s\n", nameAfterID(source.SourceID, source.Name), done)
		}),
	}
	cmd.Flags().BoolVar(&force, "force", false, "delete its job too, unless that is Running")
	return cmd
}
