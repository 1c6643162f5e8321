package main

import (
	"context"

	"github.com/spf13/pflag"

	"github.com/drover/drover/smc"
)

// filterTags are the values of --tag of a listing.
type filterTags []string

// flag declares --tag.
func (f *filterTags) flag(flags *pflag.FlagSet, what string) {
	flags.StringArrayVar((*[]string)(f), "tag", nil, "only "+what+" with this tag, `KEY or KEY=VALUE`; with several, those that have all")
}

// filter returns what a request takes. Its errors are of usage.
func (f filterTags) filter() ([]smc.TagFilter, error) {
	given, err := parseTags(f)
	if err != nil {
		return nil, err
	}
	var tags []smc.TagFilter
	for _, tag := range given {
		tags = append(tags, smc.TagFilter(tag))
	}
	return tags, nil
}

// jobFilter are the flags of job list.
type jobFilter struct {
	request smc.DescribeReplicationJobsRequest
	sources []string
	tags    filterTags
}

func (f *jobFilter) flags(flags *pflag.FlagSet) {
	flags.SortFlags = false
	textFlag(flags, &f.request.Status, "status", "only jobs of this `STATUS`: Ready, Running, Stopped, Waiting, InError, Finished, Expired or Deleting")
	textFlag(flags, &f.request.BusinessStatus, "phase", "only jobs that are Running in this `PHASE`: Preparing, Syncing, Processing or Cleaning")
	flags.StringArrayVar(&f.sources, "source", nil, "only jobs of this `SOURCE` server, by id or name; may be repeated")
	textFlag(flags, &f.request.Name, "name", "only jobs of this `NAME`")
	f.tags.flag(flags, "jobs")
	textFlag(flags, &f.request.RegionID, "region", "only jobs of this `REGION`")
	flags.StringArrayVar(&f.request.InstanceID, "instance-id", nil, "only jobs with this target instance `ID`; may be repeated")
	textFlag(flags, &f.request.ResourceGroupID, "resource-group-id", "only jobs of this resource group `ID`")
	intFlag(flags, &f.request.JobType, "job-type", "only jobs of this type, 0 to 3; a self-hosted center has 0 only")
}

func (f *jobFilter) list(ctx context.Context, client *smc.Client) ([]smc.ReplicationJob, error) {
	var err error
	if f.request.Tag, err = f.tags.filter(); err != nil {
		return nil, err
	}
	if f.request.SourceID, _, err = findSources(ctx, client, f.sources); err != nil {
		return nil, err
	}
	jobs, _, err := listJobs(ctx, client, f.request)
	return jobs, err
}

// sourceFilter are the flags of source list.
type sourceFilter struct {
	request        smc.DescribeSourceServersRequest
	job, workgroup string
	tags           filterTags
}

func (f *sourceFilter) flags(flags *pflag.FlagSet) {
	flags.SortFlags = false
	textFlag(flags, &f.request.State, "state", "only source servers of this `STATE`: Available, Unavailable, InUse or Deleting")
	textFlag(flags, &f.request.Name, "name", "only source servers of this `NAME`")
	flags.StringVar(&f.job, "job", "", "only the source server of this `JOB`, by id or name")
	flags.StringVar(&f.workgroup, "workgroup", "", "only source servers of this `WORKGROUP`, by id or name")
	f.tags.flag(flags, "source servers")
	textFlag(flags, &f.request.ResourceGroupID, "resource-group-id", "only source servers of this resource group `ID`")
	flags.StringArrayVar(&f.request.RelatedJobType, "related-job-type", nil, "only source servers for jobs of this `TYPE`, 0 to 3; may be repeated")
}

func (f *sourceFilter) list(ctx context.Context, client *smc.Client) ([]smc.SourceServer, error) {
	var err error
	if f.request.Tag, err = f.tags.filter(); err != nil {
		return nil, err
	}
	if f.job != "" {
		id, err := findJobID(ctx, client, f.job)
		if err != nil {
			return nil, err
		}
		f.request.JobID = &id
	}
	if f.workgroup != "" {
		w, err := findWorkgroup(ctx, client, f.workgroup)
		if err != nil {
			return nil, err
		}
		f.request.WorkgroupID = &w.WorkgroupID
	}
	sources, _, err := listSources(ctx, client, f.request)
	return sources, err
}
