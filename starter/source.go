package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/drover/drover/smc"
	"github.com/drover/drover/starter/progress"
	"github.com/drover/drover/starter/table"
)

func (c *cli) sourceCommand() *cobra.Command {
	var filter sourceFilter
	list := &cobra.Command{
		Use:   "list [flags]",
		Short: "List the source servers, newest first",
		Long:  "List the source servers, newest first: all of them, or those for which everything that is given holds.",
		Example: `  drover source list
  drover source list --state Unavailable
  drover source list --workgroup wave-1 --tag env=prod -o json`,
		Args: exactArgs(),
		RunE: c.withClient(func(ctx context.Context, client *smc.Client, _ []string) error {
			sources, err := filter.list(ctx, client)
			if err != nil {
				return err
			}
			if c.json() {
				return c.printJSON(sources)
			}
			t := table.New("SOURCE ID", "NAME", "STATE", "PLATFORM", ">SYSTEM DISK", ">DATA DISKS", "JOB ID", "REGISTERED")
			for _, s := range sources {
				t.Add(s.SourceID, s.Name, string(s.State), s.Platform, gib(s.SystemDiskSize), fmt.Sprint(len(s.DataDisks)),
					orDash(s.JobID), localTime(s.CreationTime))
			}
			return t.Write(c.out, "")
		}),
	}
	filter.flags(list.Flags())
	show := &cobra.Command{
		Use:     "show SOURCE",
		Short:   "Show a source server, by id or name",
		Example: "  drover source show web-1",
		Args:    exactArgs("SOURCE"),
		RunE: withOne(c, findSource, func(ctx context.Context, client *smc.Client, s smc.SourceServer) error {
			if c.json() {
				return c.printJSON(s)
			}
			return c.showSource(s)
		}),
	}
	return group("source", "Source servers: the servers that agents run on", list, show, c.sourceModifyCommand(), c.sourceDeleteCommand())
}

func (c *cli) showSource(s smc.SourceServer) error {
	var f fields
	f.add("Source id", s.SourceID)
	f.add("Name", s.Name)
	f.add("Description", s.Description)
	f.add("State", string(s.State))
	f.add("Error", s.ErrorCode)
	f.add("Status info", s.StatusInfo)
	f.add("Job", s.JobID)
	f.add("Workgroup", s.WorkgroupID)
	for _, tag := range s.Tags {
		f.add("Tag", tag.Key+"="+tag.Value)
	}
	f.add("Registered", localTime(s.CreationTime))
	f.add("Platform", strings.TrimSpace(s.Platform+" "+s.Architecture))
	f.add("Agent", s.AgentVersion)
	f.add("System info", s.SystemInfo)
	f.add("System disk", gib(s.SystemDiskSize))
	for _, p := range s.SystemDiskParts {
		f.add("  "+p.Device, strings.TrimSpace(progress.Bytes(p.SizeBytes)+" "+p.Path))
	}
	for _, d := range s.DataDisks {
		f.add(fmt.Sprintf("Data disk %d", d.Index), strings.TrimSpace(gib(d.Size)+" "+d.Path))
		for _, p := range d.Parts {
			f.add("  "+p.Device, strings.TrimSpace(progress.Bytes(p.SizeBytes)+" "+p.Path))
		}
	}
	return f.write(c.out)
}
