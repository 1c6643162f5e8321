package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/drover/drover/smc"
	"github.com/drover/drover/starter/table"
)

func (c *cli) workgroupCommand() *cobra.Command {
	return group("workgroup", "Workgroups: source servers that move together",
		c.workgroupCreateCommand(), c.workgroupListCommand(), c.workgroupShowCommand(), c.workgroupModifyCommand(), c.workgroupDeleteCommand(),
		c.workgroupMembersCommand(workgroupChange{
			verb: "add", short: "Put source servers into a workgroup", done: "added to",
			long: "Put source servers into a workgroup, which holds 50 at most.",
			do: func(ctx context.Context, client *smc.Client, id string, sources []string) error {
				_, err := client.AssociateSourceServers(ctx, &smc.AssociateSourceServersRequest{WorkgroupID: id, SourceID: sources})
				return err
			},
		}),
		c.workgroupMembersCommand(workgroupChange{
			verb: "remove", short: "Take source servers out of a workgroup", done: "removed from",
			long: "Take source servers out of a workgroup. They and their jobs stay.",
			do: func(ctx context.Context, client *smc.Client, id string, sources []string) error {
				_, err := client.DisassociateSourceServers(ctx, &smc.DisassociateSourceServersRequest{WorkgroupID: id, SourceID: sources})
				return err
			},
		}))
}

func listWorkgroups(ctx context.Context, client *smc.Client, filter smc.DescribeWorkgroupsRequest) ([]smc.Workgroup, string, error) {
	return all(func(w smc.Workgroup) string { return w.WorkgroupID }, func(number, size *int) (page[smc.Workgroup], error) {
		filter.PageNumber, filter.PageSize = number, size
		res, err := client.DescribeWorkgroups(ctx, &filter)
		if err != nil {
			return page[smc.Workgroup]{}, err
		}
		return page[smc.Workgroup]{res.Workgroups, res.TotalCount, res.RequestID}, nil
	})
}

func workgroupLookup(ctx context.Context, client *smc.Client) lookup[smc.Workgroup] {
	return lookup[smc.Workgroup]{
		what: "workgroup", prefix: "w-", list: "drover workgroup list", notFound: smc.CodeInvalidWorkgroupIDNotFound,
		byID: func(id string) ([]smc.Workgroup, string, error) {
			return listWorkgroups(ctx, client, smc.DescribeWorkgroupsRequest{WorkgroupID: []string{id}})
		},
		byName: func(name string) ([]smc.Workgroup, string, error) {
			return listWorkgroups(ctx, client, smc.DescribeWorkgroupsRequest{Name: &name})
		},
		id:    func(w smc.Workgroup) string { return w.WorkgroupID },
		name:  func(w smc.Workgroup) string { return w.Name },
		state: func(w smc.Workgroup) string { return string(w.Status) },
	}
}

func findWorkgroup(ctx context.Context, client *smc.Client, ref string) (smc.Workgroup, error) {
	return workgroupLookup(ctx, client).find(ref)
}

func (c *cli) workgroupCreateCommand() *cobra.Command {
	req := &smc.CreateWorkgroupRequest{}
	var tags []string
	cmd := &cobra.Command{
		Use:     "create --name NAME [--description TEXT] [--tag KEY=VALUE]...",
		Short:   "Make a workgroup",
		Example: "  drover workgroup create --name wave-1 --description 'the shop' --tag team=web",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if req.Name == nil {
				return usagef("--name NAME is missing")
			}
			var err error
			if req.Tag, err = parseTags(tags); err != nil {
				return err
			}
			client, err := c.client()
			if err != nil {
				return err
			}
			res, err := client.CreateWorkgroup(cmd.Context(), req)
			if err != nil {
				return err
			}
			return workgroupLookup(cmd.Context(), client).report(c, res.WorkgroupID, "created")
		},
	}
	cmd.Flags().SortFlags = false
	textFlag(cmd.Flags(), &req.Name, "name", "`NAME` of the workgroup")
	textFlag(cmd.Flags(), &req.Description, "description", "`TEXT` about the workgroup")
	cmd.Flags().StringArrayVar(&tags, "tag", nil, "`KEY=VALUE` to tag it with; may be repeated")
	textFlag(cmd.Flags(), &req.ClientToken, "client-token", "`TOKEN` that makes the call safe to repeat for 7 days (default: a new one)")
	return cmd
}

func (c *cli) workgroupListCommand() *cobra.Command {
	filter := smc.DescribeWorkgroupsRequest{}
	var tags filterTags
	cmd := &cobra.Command{
		Use:     "list [--status STATUS] [--name NAME] [--tag TAG]...",
		Short:   "List the workgroups, newest first",
		Example: "  drover workgroup list --status InProgress\n  drover workgroup list --tag team=web",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if filter.Tag, err = tags.filter(); err != nil {
				return err
			}
			client, err := c.client()
			if err != nil {
				return err
			}
			groups, _, err := listWorkgroups(cmd.Context(), client, filter)
			if err != nil {
				return err
			}
			if c.json() {
				return c.printJSON(groups)
			}
			t := table.New("WORKGROUP ID", "NAME", "STATUS", "WARNINGS", "DESCRIPTION")
			for _, w := range groups {
				var warnings []string
				for _, warning := range w.Warnings {
					warnings = append(warnings, fmt.Sprintf("%s (%d)", warning.WarningType, len(warning.SourceIDs)))
				}
				t.Add(w.WorkgroupID, w.Name, string(w.Status), orDash(strings.Join(warnings, ", ")), orDash(w.Description))
			}
			return t.Write(c.out, "")
		},
	}
	textFlag(cmd.Flags(), &filter.Status, "status", "only those of this `STATUS`: NotStarted, InProgress, Cutover or Completed")
	textFlag(cmd.Flags(), &filter.Name, "name", "only those of this `NAME`")
	tags.flag(cmd.Flags(), "workgroups")
	return cmd
}

// workgroupView is a workgroup with its source servers.
type workgroupView struct {
	smc.Workgroup
	SourceServers smc.List[smc.SourceServer] `json:"SourceServers"`
}

func (c *cli) workgroupShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "show WORKGROUP",
		Short:   "Show a workgroup and its source servers, by id or name",
		Example: "  drover workgroup show wave-1",
		Args:    exactArgs("WORKGROUP"),
		RunE: withOne(c, findWorkgroup, func(ctx context.Context, client *smc.Client, w smc.Workgroup) error {
			sources, _, err := listSources(ctx, client, smc.DescribeSourceServersRequest{WorkgroupID: &w.WorkgroupID})
			if err != nil {
				return err
			}
			if c.json() {
				return c.printJSON(workgroupView{w, sources})
			}
			return c.showWorkgroup(w, sources)
		}),
	}
}

func (c *cli) showWorkgroup(w smc.Workgroup, sources []smc.SourceServer) error {
	var f fields
	f.add("Workgroup id", w.WorkgroupID)
	f.add("Name", w.Name)
	f.add("Description", w.Description)
	f.add("Status", string(w.Status))
	for _, tag := range w.Tags {
		f.add("Tag", tag.Key+"="+tag.Value)
	}
	warned := map[string][]string{}
	for _, warning := range w.Warnings {
		for _, id := range warning.SourceIDs {
			warned[string(id)] = append(warned[string(id)], string(warning.WarningType))
		}
	}
	if err := f.write(c.out); err != nil || len(sources) == 0 {
		return err
	}
	t := table.New("SOURCE ID", "NAME", "STATE", "JOB ID", "WARNING")
	for _, s := range sources {
		t.Add(s.SourceID, s.Name, string(s.State), orDash(s.JobID), strings.Join(warned[s.SourceID], ", "))
	}
	if err := c.printf("\n"); err != nil {
		return err
	}
	return t.Write(c.out, "")
}

func (c *cli) workgroupModifyCommand() *cobra.Command {
	req := &smc.ModifyWorkgroupAttributeRequest{}
	cmd := &cobra.Command{
		Use:     "modify WORKGROUP [--name NAME] [--description TEXT]",
		Short:   "Rename or describe a workgroup",
		Long:    "Rename or describe a workgroup. What is not given stays as it is. WORKGROUP is an id or a name.",
		Example: "  drover workgroup modify wave-1 --name wave-one",
		Args:    exactArgs("WORKGROUP"),
		PreRunE: needsChange(&req.Name, &req.Description),
		RunE: withOne(c, findWorkgroup, func(ctx context.Context, client *smc.Client, w smc.Workgroup) error {
			req.WorkgroupID = w.WorkgroupID
			if _, err := client.ModifyWorkgroupAttribute(ctx, req); err != nil {
				return err
			}
			return workgroupLookup(ctx, client).report(c, w.WorkgroupID, "modified")
		}),
	}
	textFlag(cmd.Flags(), &req.Name, "name", "new `NAME`")
	textFlag(cmd.Flags(), &req.Description, "description", "`TEXT` about the workgroup")
	return cmd
}

func (c *cli) workgroupDeleteCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "delete WORKGROUP",
		Short:   "Delete a workgroup; its source servers stay",
		Long:    "Delete a workgroup. Its source servers and their jobs stay. WORKGROUP is an id or a name.",
		Example: "  drover workgroup delete wave-1",
		Args:    exactArgs("WORKGROUP"),
		RunE: withOne(c, findWorkgroup, func(ctx context.Context, client *smc.Client, w smc.Workgroup) error {
			if _, err := client.DeleteWorkgroup(ctx, &smc.DeleteWorkgroupRequest{WorkgroupID: w.WorkgroupID}); err != nil {
				return err
			}
			return c.reportGone("workgroup", "WorkgroupId", w.WorkgroupID, w.Name)
		}),
	}
}

// workgroupChange is a command that changes who is in a workgroup.
type workgroupChange struct {
	verb, short, long, done string

	do func(ctx context.Context, client *smc.Client, id string, sources []string) error
}

func (c *cli) workgroupMembersCommand(change workgroupChange) *cobra.Command {
	return &cobra.Command{
		Use:     change.verb + " WORKGROUP SOURCE...",
		Short:   change.short,
		Long:    change.long + "\n\nWORKGROUP and SOURCE are ids or names. -o json prints the workgroup.",
		Example: "  drover workgroup " + change.verb + " wave-1 web-1 web-2",
		Args:    leastArgs("WORKGROUP", "SOURCE"),
		RunE: c.withClient(func(ctx context.Context, client *smc.Client, args []string) error {
			w, err := findWorkgroup(ctx, client, args[0])
			if err != nil {
				return err
			}
			ids, names, err := findSources(ctx, client, args[1:])
			if err != nil {
				return err
			}
			if err := change.do(ctx, client, w.WorkgroupID, ids); err != nil {
				return err
			}
			if c.json() {
				return workgroupLookup(ctx, client).report(c, w.WorkgroupID, "changed")
			}
			for _, name := range names {
				err = errors.Join(err, c.printf("%s %s workgroup %s\n", name, change.done, nameAfterID(w.WorkgroupID, w.Name)))
			}
			return err
		}),
	}
}
