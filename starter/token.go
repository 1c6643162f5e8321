package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/drover/drover/smc"
	"github.com/drover/drover/starter/table"
)

func (c *cli) tokenCommand() *cobra.Command {
	var name, description string
	var count, days int
	create := &cobra.Command{
		Use:   "create [--name NAME] [--description TEXT] [--count N] [--ttl-days N]",
		Short: "Make an activation code with which agents register",
		Long: `Make an activation code with which agents register source servers.

The code is shown this once. The output ends with the command to run on a source server.`,
		Example: `  drover token create
  drover token create --name dc-1 --description 'the racks of hall 7' --count 20 --ttl-days 7
  drover token create -o json | jq -r .AccessTokenCode`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			req := &smc.CreateAccessTokenRequest{}
			given := cmd.Flags().Changed
			optional(given("name"), &req.Name, name)
			optional(given("description"), &req.Description, description)
			optional(given("count"), &req.Count, count)
			optional(given("ttl-days"), &req.TimeToLiveInDays, days)
			res, err := client.CreateAccessToken(cmd.Context(), req)
			if err != nil {
				return err
			}
			if c.json() {
				return c.printJSON(res)
			}
			return c.printf(`Activation code: %s
Id:              %s, for %d servers, valid for %d days

The code is not shown again. Run on each source server, as root when the disks are devices:

  drover-agent --endpoint %s --code %s --name NAME --state DIR --disk FILE-OR-DEVICE
`, res.AccessTokenCode, res.AccessTokenID, count, days, strings.TrimSuffix(client.Endpoint(), "/"), res.AccessTokenCode)
		},
	}
	create.Flags().StringVar(&name, "name", "", "`NAME` of the activation code")
	create.Flags().StringVar(&description, "description", "", "`TEXT` about the activation code")
	create.Flags().IntVar(&count, "count", smc.DefaultAccessTokenCount, "how many servers may register with it, 1 to 1000")
	create.Flags().IntVar(&days, "ttl-days", smc.DefaultAccessTokenTimeToLiveInDays, "how long it is valid, 1 to 90 days")
	return group("token", "Activation codes", create, c.tokenListCommand(), c.tokenDisableCommand(), c.tokenDeleteCommand())
}

func listTokens(ctx context.Context, client *smc.Client, filter smc.ListAccessTokensRequest) ([]smc.AccessToken, string, error) {
	return all(func(t smc.AccessToken) string { return t.AccessTokenID }, func(number, size *int) (page[smc.AccessToken], error) {
		filter.PageNumber, filter.PageSize = number, size
		res, err := client.ListAccessTokens(ctx, &filter)
		if err != nil {
			return page[smc.AccessToken]{}, err
		}
		return page[smc.AccessToken]{res.AccessTokens, res.TotalCount, res.RequestID}, nil
	})
}

func tokenLookup(ctx context.Context, client *smc.Client) lookup[smc.AccessToken] {
	return lookup[smc.AccessToken]{
		what: "activation code", prefix: "at-", list: "drover token list", notFound: smc.CodeInvalidAccessTokenIDNotFound,
		byID: func(id string) ([]smc.AccessToken, string, error) {
			return listTokens(ctx, client, smc.ListAccessTokensRequest{AccessTokenID: []string{id}})
		},
		byName: func(name string) ([]smc.AccessToken, string, error) {
			return listTokens(ctx, client, smc.ListAccessTokensRequest{Name: &name})
		},
		id:   func(t smc.AccessToken) string { return t.AccessTokenID },
		name: func(t smc.AccessToken) string { return t.Name },
	}
}

func findToken(ctx context.Context, client *smc.Client, ref string) (smc.AccessToken, error) {
	return tokenLookup(ctx, client).find(ref)
}

func (c *cli) tokenListCommand() *cobra.Command {
	filter := smc.ListAccessTokensRequest{}
	cmd := &cobra.Command{
		Use:     "list [--status STATUS] [--name NAME]",
		Short:   "List the activation codes, newest first, without their secrets",
		Example: "  drover token list --status activated",
		Args:    exactArgs(),
		RunE: c.withClient(func(ctx context.Context, client *smc.Client, _ []string) error {
			tokens, _, err := listTokens(ctx, client, filter)
			if err != nil {
				return err
			}
			if c.json() {
				return c.printJSON(tokens)
			}
			t := table.New("ACCESS TOKEN ID", "NAME", "STATUS", ">REGISTERED", ">VALID DAYS", "CREATED", "DESCRIPTION")
			for _, token := range tokens {
				t.Add(token.AccessTokenID, orDash(token.Name), string(token.Status), fmt.Sprintf("%d of %d", token.RegisteredCount, token.Count),
					fmt.Sprint(token.TimeToLiveInDays), localTime(token.CreationTime), orDash(token.Description))
			}
			return t.Write(c.out, "")
		}),
	}
	textFlag(cmd.Flags(), &filter.Status, "status", "only those of this `STATUS`: activated, unactivated or expired")
	textFlag(cmd.Flags(), &filter.Name, "name", "only those of this `NAME`")
	return cmd
}

func (c *cli) tokenDisableCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "disable TOKEN",
		Short:   "End an activation code for good; what registered with it stays",
		Long:    "End an activation code for good: no source server registers with it any more, those that did stay.\n\nTOKEN is an id or a name.",
		Example: "  drover token disable dc-1",
		Args:    exactArgs("TOKEN"),
		RunE: withOne(c, findToken, func(ctx context.Context, client *smc.Client, token smc.AccessToken) error {
			if _, err := client.DisableAccessToken(ctx, &smc.DisableAccessTokenRequest{AccessTokenID: token.AccessTokenID}); err != nil {
				return err
			}
			return tokenLookup(ctx, client).report(c, token.AccessTokenID, "disabled")
		}),
	}
}

func (c *cli) tokenDeleteCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "delete TOKEN",
		Short:   "Delete an activation code; what registered with it stays",
		Long:    "Delete an activation code. Source servers that registered with it stay.\n\nTOKEN is an id or a name.",
		Example: "  drover token delete dc-1",
		Args:    exactArgs("TOKEN"),
		RunE: withOne(c, findToken, func(ctx context.Context, client *smc.Client, token smc.AccessToken) error {
			if _, err := client.DeleteAccessToken(ctx, &smc.DeleteAccessTokenRequest{AccessTokenID: token.AccessTokenID}); err != nil {
				return err
			}
			return c.reportGone("activation code", "AccessTokenId", token.AccessTokenID, token.Name)
		}),
	}
}
