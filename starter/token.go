package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/drover/drover/smc"
	"github.com/drover/drover/starter/table"
)

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

func findToken(ctx context.Context, client *smc.Client, ref string) (smc.AccessToken, error) {
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
	}.find(ref)
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
			id := token.AccessTokenID
			if _, err := client.DisableAccessToken(ctx, &smc.DisableAccessTokenRequest{AccessTokenID: id}); err != nil {
				return err
			}
			token, err := findToken(ctx, client, id)
			if err != nil {
				return fmt.Errorf("activation code %s is disabled, but cannot be read: %w", id, err)
			}
			if c.json() {
				return c.printJSON(token)
			}
			return c.printf("activation code %s disabled\n", nameAfterID(id, token.Name))
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
			if c.json() {
				return c.printJSON(map[string]string{"AccessTokenId": token.AccessTokenID})
			}
			return c.printf("activation code %s deleted\n", nameAfterID(token.AccessTokenID, token.Name))
		}),
	}
}

// nameAfterID names a thing in a message by its id and, where it has one, its name.
func nameAfterID(id, name string) string {
	if name == "" {
		return id
	}
	return id + " (" + name + ")"
}
