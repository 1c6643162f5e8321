package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/drover/drover/smc"
	"github.com/drover/drover/starter/table"
)

func (c *cli) auditCommand() *cobra.Command {
	var limit int
	var changes bool
	req := smc.DescribeAuditLogRequest{}
	list := &cobra.Command{
		Use:   "list [--key KEY-ID] [--operation NAME] [--outcome CODE] [--changes] [--since TIME] [--until TIME] [--limit N]",
		Short: "List who called what, newest first",
		Long: `List who called what, newest first: every call that named an access key of the account, whatever came of it. With
--changes those of operations that only read are left out.`,
		Example: `  drover audit list --changes --since 2h
  drover audit list --operation DeleteReplicationJob --since 2026-01-31T00:00:00Z
  drover audit list --outcome Forbidden.Unauthorized`,
		Args: exactArgs(),
		PreRunE: func(*cobra.Command, []string) error {
			if limit < 1 {
				return usagef("--limit must be 1 or more")
			}
			return nil
		},
		RunE: c.withClient(func(ctx context.Context, client *smc.Client, _ []string) error {
			optional(changes, &req.Changes, true)
			records, _, err := newest(limit, func(r smc.AuditRecord) string { return r.CallID }, func(number, size *int) (page[smc.AuditRecord], error) {
				req.PageNumber, req.PageSize = number, size
				res, err := client.DescribeAuditLog(ctx, &req)
				if err != nil {
					return page[smc.AuditRecord]{}, err
				}
				return page[smc.AuditRecord]{res.AuditRecords, res.TotalCount, res.RequestID}, nil
			})
			if err != nil {
				return err
			}
			if c.json() {
				return c.printJSON(records)
			}
			t := table.New("TIME", "ACCESS KEY ID", "OPERATION", "OUTCOME", "FROM", "RESOURCES", "REQUEST ID")
			for _, r := range records {
				t.Add(localTime(r.Time), orDash(r.KeyID), orDash(r.Operation), r.Outcome, r.RemoteAddress, orDash(shortResources(r.Resources)), r.CallID)
			}
			return t.Write(c.out, "")
		}),
	}
	flags := list.Flags()
	flags.SortFlags = false
	textFlag(flags, &req.KeyID, "key", "only calls signed with this `KEY-ID`")
	textFlag(flags, &req.Operation, "operation", "only calls of the operation of this `NAME`")
	textFlag(flags, &req.Outcome, "outcome", "only calls with this outcome, OK or an error `CODE`")
	flags.BoolVar(&changes, "changes", false, "leave out the calls of operations that only read")
	pastFlag(flags, &req.StartTime, "since", "`TIME` of the first call: "+pastForms)
	pastFlag(flags, &req.EndTime, "until", "`TIME` before which the last call was, in the forms of --since")
	flags.IntVar(&limit, "limit", 100, "list `N` calls at most")
	return group("audit", "The audit log: who changed what", list)
}

// shortResources leaves out what is the same of all resources of an account.
func shortResources(names []smc.ResourceName) string {
	short := make([]string, len(names))
	for i, name := range names {
		parts := strings.SplitN(string(name), ":", 5)
		short[i] = parts[len(parts)-1]
	}
	return strings.Join(short, ", ")
}
