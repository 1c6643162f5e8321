package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/drover/drover/smc"
	"github.com/drover/drover/starter/table"
)

func (c *cli) auditCommand() *cobra.Command {
	var limit int
	var changes bool
	filter := map[string]*string{}
	list := &cobra.Command{
		Use:   "list [--key KEY-ID] [--operation NAME] [--outcome CODE] [--changes] [--since TIME] [--until TIME] [--limit N]",
		Short: "List who called what, newest first",
		Long: `List who called what, newest first: every call that named an access key of the account, whatever came of it. With
--changes those of operations that only read are left out.`,
		Example: `  drover audit list --changes
  drover audit list --operation DeleteReplicationJob --since 2026-01-31T00:00:00Z
  drover audit list --outcome Forbidden.Unauthorized`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 {
				return usagef("--limit must be 1 or more")
			}
			given := func(name string) *string {
				if cmd.Flags().Changed(name) {
					return filter[name]
				}
				return nil
			}
			client, err := c.client()
			if err != nil {
				return err
			}
			req := smc.DescribeAuditLogRequest{
				KeyID: given("key"), Operation: given("operation"), Outcome: given("outcome"), StartTime: given("since"), EndTime: given("until"),
			}
			optional(changes, &req.Changes, true)
			records, err := listAudit(cmd, client, req, limit)
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
		},
	}
	for name, usage := range map[string]string{
		"key": "`KEY-ID` that signed", "operation": "`NAME` of the operation", "outcome": "OK or an error `CODE`",
		"since": "`TIME` of the first call, such as 2026-01-31T00:00:00Z", "until": "`TIME` before which the last call was",
	} {
		filter[name] = list.Flags().String(name, "", usage)
	}
	list.Flags().BoolVar(&changes, "changes", false, "leave out the calls of operations that only read")
	list.Flags().IntVar(&limit, "limit", 100, "list `N` calls at most")
	return group("audit", "The audit log: who changed what", list)
}

// listAudit reads pages until it has enough. New records move the older ones on, so what comes twice is dropped.
func listAudit(cmd *cobra.Command, client *smc.Client, filter smc.DescribeAuditLogRequest, limit int) ([]smc.AuditRecord, error) {
	records, seen := []smc.AuditRecord{}, map[string]bool{}
	size := smc.MaxPageSize
	for number := 1; ; number++ {
		filter.PageNumber, filter.PageSize = &number, &size
		res, err := client.DescribeAuditLog(cmd.Context(), &filter)
		if err != nil {
			return nil, err
		}
		for _, r := range res.AuditRecords {
			if !seen[r.CallID] && len(records) < limit {
				seen[r.CallID] = true
				records = append(records, r)
			}
		}
		if len(records) == limit || len(res.AuditRecords) == 0 || number*size >= res.TotalCount {
			return records, nil
		}
	}
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
