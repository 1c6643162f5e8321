package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/drover/drover/smc"
	"github.com/drover/drover/starter/progress"
	"github.com/drover/drover/starter/table"
)

func (c *cli) imageCommand() *cobra.Command {
	var job string
	filter := smc.DescribeImagesRequest{}
	list := &cobra.Command{
		Use:     "list [--job JOB] [--name NAME]",
		Short:   "List the images, newest first",
		Example: "  drover image list --job web-1",
		Args:    exactArgs(),
		RunE: c.withClient(func(ctx context.Context, client *smc.Client, _ []string) error {
			if job != "" {
				id, err := findJobID(ctx, client, job) // images outlive their job, so its id will do
				if err != nil {
					return err
				}
				filter.JobID = &id
			}
			images, _, err := listImages(ctx, client, filter)
			if err != nil {
				return err
			}
			if c.json() {
				return c.printJSON(images)
			}
			t := table.New("IMAGE ID", "NAME", "STATUS", ">DISKS", ">SIZE", ">RUN", "JOB ID", "CREATED", "VERIFICATION")
			for _, i := range images {
				disks := strconv.Itoa(len(i.Disks))
				if i.TargetType == smc.TargetContainerImage {
					disks = "container"
				}
				t.Add(i.ImageID, i.ImageName, string(i.Status), disks, progress.Bytes(i.SizeBytes),
					strconv.Itoa(i.Run), i.JobID, localTime(i.CreationTime), orDash(string(i.Verification)))
			}
			return t.Write(c.out, "")
		}),
	}
	list.Flags().StringVar(&job, "job", "", "only images of this `JOB`, by id or name")
	textFlag(list.Flags(), &filter.Name, "name", "only images of this `NAME`")
	show := &cobra.Command{
		Use:     "show IMAGE",
		Short:   "Show an image, by id or name",
		Example: "  drover image show web-1",
		Args:    exactArgs("IMAGE"),
		RunE: withOne(c, findImage, func(ctx context.Context, client *smc.Client, i smc.Image) error {
			if c.json() {
				return c.printJSON(i)
			}
			return c.showImage(i)
		}),
	}
	remove := &cobra.Command{
		Use:   "delete IMAGE",
		Short: "Delete an image, by id or name",
		Long: `Delete an image, also one that its job would keep. Its transition host removes it within 10 minutes, or once it is read no longer;
until then its status is Deleting. There is no way back but a backup.`,
		Example: "  drover image delete m-okw25fm6k8nh1j1e6p",
		Args:    exactArgs("IMAGE"),
		RunE: withOne(c, findImage, func(ctx context.Context, client *smc.Client, i smc.Image) error {
			if _, err := client.DeleteImage(ctx, &smc.DeleteImageRequest{ImageID: i.ImageID}); err != nil {
				return err
			}
			if c.json() {
				return c.printJSON(map[string]string{"ImageId": i.ImageID})
			}
			return c.printf("image %s is being deleted\n", nameAfterID(i.ImageID, i.ImageName))
		}),
	}
	return group("image", "Images: what jobs deliver", list, show, c.imageVerifyCommand(), c.imageExportCommand(), remove)
}

func (c *cli) showImage(i smc.Image) error {
	var f fields
	f.add("Image id", i.ImageID)
	f.add("Name", i.ImageName)
	f.add("Status", string(i.Status))
	f.add("Target", string(i.TargetType))
	f.add("Container image", i.ContainerReference)
	f.add("Digest", i.ContainerDigest)
	f.add("Left out", strings.ReplaceAll(i.ContainerInfo, "\n", "; "))
	f.add("Job", fmt.Sprintf("%s, run %d", i.JobID, i.Run))
	f.add("Source", i.SourceID)
	f.add("Region", i.RegionID)
	f.add("Transition host", i.HostID)
	f.add("Created", localTime(i.CreationTime))
	f.add("Verification", strings.TrimSpace(string(i.Verification)+" "+localTime(i.VerificationTime)))
	f.add("Verification info", i.VerificationInfo)
	if err := f.write(c.out); err != nil || len(i.Disks) == 0 {
		return err
	}
	t := table.New(">DISK", ">SYNCED", ">DELIVERED", "ROOT HASH")
	for _, d := range i.Disks {
		t.Add(strconv.Itoa(d.Index), progress.Bytes(d.SizeBytes), progress.Bytes(d.DeliveredSizeBytes), orDash(d.Root))
	}
	if err := c.printf("\n"); err != nil {
		return err
	}
	return t.Write(c.out, "")
}
