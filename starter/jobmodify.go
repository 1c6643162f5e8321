package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/drover/drover/smc"
)

// never takes a time away: a job that never expires, or that is started by hand only.
const never = "never"

func (c *cli) jobModifyCommand() *cobra.Command {
	req := &smc.ModifyReplicationJobAttributeRequest{}
	parameters := jobParameters{
		name: &req.Name, description: &req.Description, imageName: &req.ImageName, systemDiskSize: &req.SystemDiskSize,
		systemDiskPart: &req.SystemDiskPart, dataDisk: &req.DataDisk, frequency: &req.Frequency, maxImages: &req.MaxNumberOfImageToKeep,
		replicationParameters: &req.ReplicationParameters, scheduledStartTime: &req.ScheduledStartTime, validTime: &req.ValidTime,
		targetType: &req.TargetType, instanceID: &req.InstanceID, instanceType: &req.InstanceType, instanceRAMRole: &req.InstanceRAMRole,
		launchTemplateID: &req.LaunchTemplateID, launchTemplateVersion: &req.LaunchTemplateVersion,
		containerNamespace: &req.ContainerNamespace, containerRepository: &req.ContainerRepository, containerTag: &req.ContainerTag,
		vSwitchID: &req.VSwitchID, vpcID: &req.VpcID, netMode: &req.NetMode,
	}
	cmd := &cobra.Command{
		Use:   "modify JOB [flags]",
		Short: "Change a job; what may change depends on its status",
		Long: `Change a job. What is not given stays as it is. JOB is an id or a name.

--name and --description may change always, --frequency and --max-images while the job is Ready or Waiting, --valid-time
until it is Finished, Expired or Deleting, and the rest before its first start. Whether it was a one-time or an incremental
job when it was made cannot change.

--data-disk and --part replace all that was asked for of the data disks, or of the parts of the system disk.`,
		Example: `  drover job modify web-1 --name web-1-final --valid-time never
  drover job modify db-1 --frequency 6 --max-images 5
  drover job modify app-1 --system-disk-size 60 --data-disk 1=200 --part 1_0=107374182400 --schedule never`,
		Args: exactArgs("JOB"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := parameters.read(time.Now()); err != nil {
				return err
			}
			if len(smc.ModifyReplicationJobAttribute.Encode(req)) == 0 {
				return usagef("nothing to change is given")
			}
			client, err := c.client()
			if err != nil {
				return err
			}
			if req.JobID, err = findJobID(cmd.Context(), client, args[0]); err != nil {
				return err
			}
			if _, err := client.ModifyReplicationJobAttribute(cmd.Context(), req); err != nil {
				return err
			}
			return jobLookup(cmd.Context(), client).report(c, req.JobID, "modified")
		},
	}
	cmd.Flags().SortFlags = false
	parameters.flags(cmd.Flags())
	return cmd
}

// jobParameters are the parameters that a job is made with and that may be changed, and how they are given.
type jobParameters struct {
	name, description, imageName, replicationParameters, scheduledStartTime, validTime             **string
	targetType, instanceID, instanceType, instanceRAMRole, launchTemplateID, launchTemplateVersion **string
	containerNamespace, containerRepository, containerTag, vSwitchID, vpcID                        **string
	systemDiskSize, frequency, maxImages, netMode                                                  **int
	systemDiskPart                                                                                 *[]smc.PartTarget
	dataDisk                                                                                       *[]smc.DataDiskTarget

	schedule, expiry *string
	disks, parts     []string
}

func (p *jobParameters) flags(flags *pflag.FlagSet) {
	textFlag(flags, p.name, "name", "`NAME` of the job")
	textFlag(flags, p.description, "description", "`TEXT` about the job")
	textFlag(flags, p.imageName, "image-name", "`NAME` of the image")
	intFlag(flags, p.systemDiskSize, "system-disk-size", "size of the image's system disk in `GIB`, 20 to 2048")
	flags.StringArrayVar(&p.disks, "data-disk", nil, "`INDEX=GIB` of a data disk of the image, or INDEX for one of its own size; may be repeated")
	flags.StringArrayVar(&p.parts, "part", nil, "`DEVICE=BYTES` of a partition, 0_N of the system disk or INDEX_N of a data disk; with ,block=false\nit is not replicated by blocks. A center of your own keeps partitions as they are at the source. May be repeated")
	intFlag(flags, p.frequency, "frequency", "`HOURS` between the runs of an incremental job, 1 to 168")
	intFlag(flags, p.maxImages, "max-images", "how many images of an incremental job are kept, 1 to 10")
	textFlag(flags, p.replicationParameters, "replication-parameters", "`JSON` object: bandwidth_limit in kbit/s (0 = none), compress_level 0 to 9, checksum")
	textFlag(flags, &p.schedule, "schedule", "start by itself at this `TIME`: 2030-01-31T02:00:00Z, any RFC 3339 time, or +2h30m; never means by hand only")
	textFlag(flags, &p.expiry, "valid-time", "`TIME` at which the job expires, in the forms of --schedule; never means never")
	textFlag(flags, p.targetType, "target-type", "`TYPE` of the target: Image, ContainerImage or TargetInstance")
	textFlag(flags, p.instanceID, "instance-id", "`ID` of the target instance that a TargetInstance job migrates to (drover target list)")
	textFlag(flags, p.instanceType, "instance-type", "`TYPE` of the instances the image is meant for")
	textFlag(flags, p.instanceRAMRole, "instance-ram-role", "`ROLE` of those instances")
	textFlag(flags, p.launchTemplateID, "launch-template-id", "`ID` of the launch template")
	textFlag(flags, p.launchTemplateVersion, "launch-template-version", "its `VERSION`")
	textFlag(flags, p.containerNamespace, "container-namespace", "`NAMESPACE` of the container image")
	textFlag(flags, p.containerRepository, "container-repository", "`REPOSITORY` of the container image")
	textFlag(flags, p.containerTag, "container-tag", "`TAG` of the container image")
	intFlag(flags, p.netMode, "net-mode", "0 for the public network, 2 for a private one, which needs --vswitch-id")
	textFlag(flags, p.vSwitchID, "vswitch-id", "`ID` of the vSwitch")
	textFlag(flags, p.vpcID, "vpc-id", "`ID` of the VPC")
}

// read makes the parameters of what has a form of its own on the command line. Its errors are of usage.
func (p *jobParameters) read(now time.Time) (err error) {
	if *p.scheduledStartTime, err = timeOrNever(p.schedule, now); err != nil {
		return usagef("--schedule %w", err)
	}
	if *p.validTime, err = timeOrNever(p.expiry, now); err != nil {
		return usagef("--valid-time %w", err)
	}
	disks, err := parseDataDisks(p.disks)
	if err != nil {
		return err
	}
	*p.systemDiskPart, *p.dataDisk, err = parseParts(p.parts, disks)
	return err
}

// timeOrNever reads a time as people write it; never is the empty text of the API, and absence stays absence.
func timeOrNever(text *string, now time.Time) (*string, error) {
	if text == nil {
		return nil, nil //nolint:nilnil // absent
	}
	if *text == never {
		return new(string), nil
	}
	at, err := parseTime(*text, now)
	return &at, err
}

// parseDataDisks reads the values of --data-disk. Its errors are of usage.
func parseDataDisks(texts []string) (disks []smc.DataDiskTarget, err error) {
	for _, text := range texts {
		index, size, sized := strings.Cut(text, "=")
		i, err := strconv.Atoi(index)
		disk := smc.DataDiskTarget{Index: &i}
		if sized && err == nil {
			var n int
			n, err = strconv.Atoi(size)
			disk.Size = &n
		}
		if err != nil {
			return nil, usagef("--data-disk %q is not INDEX=GIB, for example 1=200, nor INDEX", text)
		}
		disks = append(disks, disk)
	}
	return disks, nil
}

// partForm is the value of --part. Devices are <disk>_<n>, and disk 0 is the system disk (CONTRACT: Source servers).
var partForm = regexp.MustCompile(`^(([0-9]{1,4})_[0-9]+)=([0-9]+)(?:,block=(true|false))?$`)

// parseParts reads the values of --part: those of the system disk, and those of data disks, which join the disks given
// or ask for their disk at its own size. Its errors are of usage.
func parseParts(texts []string, disks []smc.DataDiskTarget) (system []smc.PartTarget, all []smc.DataDiskTarget, err error) {
	for _, text := range texts {
		m := partForm.FindStringSubmatch(text)
		if m == nil {
			return nil, nil, usagef("--part %q is not DEVICE=BYTES[,block=false], for example 1_0=107374182400", text)
		}
		size, err := strconv.ParseInt(m[3], 10, 64)
		if err != nil {
			return nil, nil, usagef("--part %q: %s bytes are more than any disk has", text, m[3])
		}
		part := smc.PartTarget{Device: &m[1], SizeBytes: &size}
		if m[4] != "" {
			block := m[4] == "true"
			part.Block = &block
		}
		index, err := strconv.Atoi(m[2])
		if err != nil {
			return nil, nil, fmt.Errorf("--part %q: %w", text, err)
		}
		if index == 0 {
			system = append(system, part)
			continue
		}
		disk := diskOf(&disks, index)
		disk.Part = append(disk.Part, part)
	}
	return system, disks, nil
}

// diskOf returns the disk of that index, which it adds when there is none.
func diskOf(disks *[]smc.DataDiskTarget, index int) *smc.DataDiskTarget {
	for i := range *disks {
		if *(*disks)[i].Index == index {
			return &(*disks)[i]
		}
	}
	*disks = append(*disks, smc.DataDiskTarget{Index: &index})
	return &(*disks)[len(*disks)-1]
}
