package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"github.com/drover/drover/smc"
	"github.com/drover/drover/starter/table"
)

func (c *cli) keyCommand() *cobra.Command {
	return group("key", "Access keys: who may do what", c.keyCreateCommand(), c.keyListCommand(), c.keyDisableCommand())
}

func (c *cli) keyCreateCommand() *cobra.Command {
	var policyFile *string
	req := &smc.CreateAccessKeyRequest{}
	cmd := &cobra.Command{
		Use:   "create [--policy FILE] [--description TEXT]",
		Short: "Make an access key, all-powerful or with a policy",
		Long: `Make an access key in the account of the key that is used.

Without a policy the key may do everything in its account. A policy is a JSON document:

  {"Version": "1", "Statement": [
    {"Effect": "Allow", "Action": ["smc:Describe*", "smc:List*"], "Resource": "*"},
    {"Effect": "Deny", "Action": "*", "Resource": "acs:smc:*:*:sourceserver/s-1"}]}

What no statement allows is refused, and Deny wins. Resources are acs:smc:REGION:ACCOUNT:sourceserver/ID and
acs:smc:REGION:ACCOUNT:replicationjob/ID. The secret is shown this once.`,
		Example: `  drover key create --description ci
  drover key create --policy read-only.json`,
		Args: exactArgs(),
		RunE: c.withClient(func(ctx context.Context, client *smc.Client, _ []string) error {
			if policyFile != nil {
				document, err := os.ReadFile(*policyFile)
				if err != nil {
					return inputf("--policy: %w", err)
				}
				// An empty policy would be none, which allows everything.
				policy := string(document)
				if policy == "" {
					return inputf("--policy: %s is empty; without --policy the key may do everything", *policyFile)
				}
				req.Policy = &policy
			}
			res, err := client.CreateAccessKey(ctx, req)
			if err != nil {
				return err
			}
			if c.json() {
				return c.printJSON(res)
			}
			return c.printf("The secret is not shown again.\n\nALIBABA_CLOUD_ACCESS_KEY_ID=%s\nALIBABA_CLOUD_ACCESS_KEY_SECRET=%s\n", res.AccessKeyID, res.AccessKeySecret)
		}),
	}
	textFlag(cmd.Flags(), &policyFile, "policy", "`FILE` with the key's policy")
	textFlag(cmd.Flags(), &req.Description, "description", "`TEXT` that says what the key is for")
	return cmd
}

func (c *cli) keyListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the access keys, newest first",
		Example: "  drover key list",
		Args:    exactArgs(),
		RunE: c.withClient(func(ctx context.Context, client *smc.Client, _ []string) error {
			keys, _, err := all(func(k smc.AccessKey) string { return k.AccessKeyID }, func(number, size *int) (page[smc.AccessKey], error) {
				res, err := client.ListAccessKeys(ctx, &smc.ListAccessKeysRequest{PageNumber: number, PageSize: size})
				if err != nil {
					return page[smc.AccessKey]{}, err
				}
				return page[smc.AccessKey]{res.AccessKeys, res.TotalCount, res.RequestID}, nil
			})
			if err != nil {
				return err
			}
			if c.json() {
				return c.printJSON(keys)
			}
			t := table.New("ACCESS KEY ID", "STATUS", "ACCESS", "CREATED", "DESCRIPTION")
			for _, k := range keys {
				access := "everything"
				if k.Policy != "" {
					access = "policy"
				}
				t.Add(k.AccessKeyID, string(k.Status), access, localTime(k.CreationTime), orDash(k.Description))
			}
			return t.Write(c.out, "")
		}),
	}
}

func (c *cli) keyDisableCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "disable KEY-ID",
		Short: "End an access key for good",
		Long: `End an access key for good: the next call signed with it is refused.

A key cannot disable itself. To change keys, make a new one, use it, and disable the old one with it.`,
		Example: "  drover key disable LTAIXwaLjKv9d7u8oAi1JnQY",
		Args:    exactArgs("KEY-ID"),
		RunE: c.withClient(func(ctx context.Context, client *smc.Client, args []string) error {
			res, err := client.DisableAccessKey(ctx, &smc.DisableAccessKeyRequest{KeyID: args[0]})
			if err != nil {
				return err
			}
			if c.json() {
				return c.printJSON(res)
			}
			return c.printf("Access key %s is disabled.\n", args[0])
		}),
	}
}
