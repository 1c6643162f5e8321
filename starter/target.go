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

func (c *cli) targetCommand() *cobra.Command {
	filter := smc.DescribeTargetInstancesRequest{}
	list := &cobra.Command{
		Use:   "list [--state STATE] [--name NAME]",
		Short: "List the target instances, newest first",
		Long: `List the target instances, newest first: the machines on which drover-agent target runs, whose disks take the images of TargetInstance
jobs. DISKS are their sizes, in the order of the source's disks that they take; one with a * holds data that nobody gave leave to overwrite.`,
		Example: "  drover target list\n  drover target list --state Unavailable -o json",
		Args:    exactArgs(),
		RunE: c.withClient(func(ctx context.Context, client *smc.Client, _ []string) error {
			targets, _, err := listTargets(ctx, client, filter)
			if err != nil {
				return err
			}
			if c.json() {
				return c.printJSON(targets)
			}
			t := table.New("INSTANCE ID", "NAME", "STATE", "PLATFORM", "DISKS", "JOB ID", "DELIVERY", "REGISTERED")
			for _, i := range targets {
				var disks []string
				for _, d := range i.Disks {
					disks = append(disks, progress.Bytes(d.SizeBytes)+map[bool]string{true: "*"}[d.HoldsData])
				}
				t.Add(i.InstanceID, i.Name, string(i.State), i.Platform, strings.Join(disks, ", "), orDash(i.JobID), orDash(delivery(i)), localTime(i.CreationTime))
			}
			return t.Write(c.out, "")
		}),
	}
	textFlag(list.Flags(), &filter.State, "state", "only target instances of this `STATE`: Available or Unavailable")
	textFlag(list.Flags(), &filter.Name, "name", "only target instances of this `NAME`")
	show := &cobra.Command{
		Use:     "show TARGET",
		Short:   "Show a target instance, by id or name",
		Example: "  drover target show rack-7",
		Args:    exactArgs("TARGET"),
		RunE: withOne(c, findTarget, func(_ context.Context, _ *smc.Client, i smc.Instance) error {
			if c.json() {
				return c.printJSON(i)
			}
			return c.showTarget(i)
		}),
	}
	remove := &cobra.Command{
		Use:   "delete TARGET",
		Short: "Delete a target instance",
		Long: `Delete a target instance that no unfinished job migrates to. What is on its disks stays there; drover-agent target on it ends. TARGET is an
id or a name.`,
		Example: "  drover target delete rack-7",
		Args:    exactArgs("TARGET"),
		RunE: withOne(c, findTarget, func(ctx context.Context, client *smc.Client, i smc.Instance) error {
			if _, err := client.DeleteTargetInstance(ctx, &smc.DeleteTargetInstanceRequest{InstanceID: i.InstanceID}); err != nil {
				return err
			}
			return c.reportGone("target instance", "InstanceId", i.InstanceID, i.Name)
		}),
	}
	return group("target", "Target instances: the machines whose disks take images", list, show, remove)
}

// delivery says how far the last delivery to a target instance is; empty when there was none.
func delivery(i smc.Instance) string {
	if i.DeliveryState == smc.DeliveryDelivering && i.BytesTotal > 0 {
		return fmt.Sprintf("%s %.0f%%", i.DeliveryState, 100*float64(i.BytesDone)/float64(i.BytesTotal))
	}
	return string(i.DeliveryState)
}

func (c *cli) showTarget(i smc.Instance) error {
	var f fields
	f.add("Instance id", i.InstanceID)
	f.add("Name", i.Name)
	f.add("State", string(i.State))
	f.add("Job", i.JobID)
	f.add("Region", i.RegionID)
	f.add("Registered", localTime(i.CreationTime))
	f.add("Heard of", localTime(i.HeartbeatTime))
	f.add("Host name", i.Hostname)
	f.add("Platform", strings.TrimSpace(i.Platform+" "+i.Architecture))
	f.add("Agent", i.AgentVersion)
	f.add("System info", i.SystemInfo)
	for _, d := range i.Disks {
		size, data := progress.Bytes(d.SizeBytes), ""
		if d.SizeBytes == 0 {
			size = "cannot be opened"
		}
		if d.HoldsData {
			data = ", holds data that nobody gave leave to overwrite"
		}
		f.add(fmt.Sprintf("Disk %d", d.Index), fmt.Sprintf("%s, %s%s", d.Path, size, data))
	}
	f.add("Delivery", strings.TrimSpace(delivery(i)+" "+localTime(i.DeliveryTime)))
	f.add("Delivery info", i.DeliveryInfo)
	f.add("Image", i.ImageID)
	if i.BytesTotal > 0 {
		f.add("Transferred", fmt.Sprintf("%s of %s", progress.Bytes(i.BytesFetched), progress.Bytes(i.BytesTotal)))
	}
	return f.write(c.out)
}

func listTargets(ctx context.Context, client *smc.Client, filter smc.DescribeTargetInstancesRequest) ([]smc.Instance, string, error) {
	return all(func(i smc.Instance) string { return i.InstanceID }, func(number, size *int) (page[smc.Instance], error) {
		filter.PageNumber, filter.PageSize = number, size
		res, err := client.DescribeTargetInstances(ctx, &filter)
		if err != nil {
			return page[smc.Instance]{}, err
		}
		return page[smc.Instance]{res.TargetInstances, res.TotalCount, res.RequestID}, nil
	})
}

func findTarget(ctx context.Context, client *smc.Client, ref string) (smc.Instance, error) {
	return lookup[smc.Instance]{
		what: "target instance", prefix: "i-", list: "drover target list", notFound: smc.CodeInvalidInstanceIDNotFound,
		byID: func(id string) ([]smc.Instance, string, error) {
			return listTargets(ctx, client, smc.DescribeTargetInstancesRequest{InstanceID: []string{id}})
		},
		byName: func(name string) ([]smc.Instance, string, error) {
			return listTargets(ctx, client, smc.DescribeTargetInstancesRequest{Name: &name})
		},
		id:   func(i smc.Instance) string { return i.InstanceID },
		name: func(i smc.Instance) string { return i.Name },
	}.find(ref)
}
