package main

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/drover/drover/smc"
	"github.com/drover/drover/starter/table"
)

func (c *cli) tagCommand() *cobra.Command {
	return group("tag", "Tags of source servers and jobs", c.tagAddCommand(), c.tagListCommand(), c.tagRemoveCommand())
}

// tagged names the resources of a tag command: source servers or jobs, never both, since an operation takes one type.
type tagged struct{ sources, jobs []string }

func (r *tagged) flags(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&r.sources, "source", nil, "a `SOURCE` server, by id or name; may be repeated")
	cmd.Flags().StringArrayVar(&r.jobs, "job", nil, "a `JOB`, by id or name; may be repeated")
}

// check holds the flags to their rules. Its errors are of usage.
func (r *tagged) check(needed bool) error {
	switch {
	case len(r.sources) > 0 && len(r.jobs) > 0:
		return usagef("--source and --job exclude each other")
	case needed && len(r.sources)+len(r.jobs) == 0:
		return usagef("--source SOURCE or --job JOB is missing")
	}
	return nil
}

// resources are resources of one type, as the operations on tags take them.
type resources struct {
	resourceType string
	ids          []string
	names        []string // as messages name them
}

// find looks the resources up.
func (r *tagged) find(ctx context.Context, client *smc.Client) (found resources, err error) {
	if len(r.jobs) == 0 {
		found.resourceType = smc.ResourceTypeSourceServer
		found.ids, found.names, err = findSources(ctx, client, r.sources)
		return found, err
	}
	found.resourceType = smc.ResourceTypeReplicationJob
	for _, ref := range r.jobs {
		j, err := findJob(ctx, client, ref)
		if err != nil {
			return found, err
		}
		found.ids = append(found.ids, j.JobID)
		found.names = append(found.names, "job "+nameAfterID(j.JobID, j.Name))
	}
	return found, nil
}

// findSources looks source servers up; names are as messages name them.
func findSources(ctx context.Context, client *smc.Client, refs []string) (ids, names []string, err error) {
	for _, ref := range refs {
		s, err := findSource(ctx, client, ref)
		if err != nil {
			return nil, nil, err
		}
		ids = append(ids, s.SourceID)
		names = append(names, "source server "+nameAfterID(s.SourceID, s.Name))
	}
	return ids, names, nil
}

// parseTags reads KEY or KEY=VALUE. Its errors are of usage.
func parseTags(texts []string) ([]smc.TagParameter, error) {
	tags := make([]smc.TagParameter, len(texts))
	for i, text := range texts {
		key, value, hasValue := strings.Cut(text, "=")
		if key == "" {
			return nil, usagef("tag %q is not KEY or KEY=VALUE", text)
		}
		tags[i].Key = &key
		optional(hasValue, &tags[i].Value, value)
	}
	return tags, nil
}

func (c *cli) tagAddCommand() *cobra.Command {
	var on tagged
	cmd := &cobra.Command{
		Use:   "add TAG... (--source SOURCE... | --job JOB...)",
		Short: "Attach tags to source servers or to jobs",
		Long: `Attach tags to source servers or to jobs. A TAG is KEY=VALUE, or KEY for an empty value; a key that is there already
takes the new value. A resource has 20 tags at most. -o json prints the tags that the resources have then.`,
		Example: `  drover tag add env=prod team=web --source web-1 --source web-2
  drover tag add wave=1 --job web-1`,
		Args: leastArgs("TAG"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := on.check(true); err != nil {
				return err
			}
			tags, err := parseTags(args)
			if err != nil {
				return err
			}
			return c.changeTags(cmd.Context(), on, "tagged "+strings.Join(args, ", "), func(ctx context.Context, client *smc.Client, r resources) error {
				_, err := client.TagResources(ctx, &smc.TagResourcesRequest{ResourceType: r.resourceType, ResourceID: r.ids, Tag: tags})
				return err
			})
		},
	}
	on.flags(cmd)
	return cmd
}

func (c *cli) tagRemoveCommand() *cobra.Command {
	var on tagged
	var everyTag bool
	cmd := &cobra.Command{
		Use:   "remove (KEY... | --all) (--source SOURCE... | --job JOB...)",
		Short: "Take tags away from source servers or from jobs",
		Long: `Take tags away from source servers or from jobs: those of the keys given, or with --all every one.
-o json prints the tags that the resources have then.`,
		Example: `  drover tag remove env team --source web-1
  drover tag remove --all --job web-1`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if everyTag && len(args) > 0 {
				return usagef("KEY and --all exclude each other")
			}
			if !everyTag {
				if err := leastArgs("KEY")(cmd, args); err != nil {
					return err
				}
			}
			if err := on.check(true); err != nil {
				return err
			}
			done := "untagged " + strings.Join(args, ", ")
			if everyTag {
				done = "has no tags any more"
			}
			return c.changeTags(cmd.Context(), on, done, func(ctx context.Context, client *smc.Client, r resources) error {
				req := &smc.UntagResourcesRequest{ResourceType: r.resourceType, ResourceID: r.ids, TagKey: args}
				optional(everyTag, &req.All, true)
				_, err := client.UntagResources(ctx, req)
				return err
			})
		},
	}
	on.flags(cmd)
	cmd.Flags().BoolVar(&everyTag, "all", false, "take every tag away")
	return cmd
}

// changeTags does something to the tags of resources and says what became of them.
func (c *cli) changeTags(ctx context.Context, on tagged, done string, do func(context.Context, *smc.Client, resources) error) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	r, err := on.find(ctx, client)
	if err != nil {
		return err
	}
	if err := do(ctx, client, r); err != nil {
		return err
	}
	if c.json() {
		left, err := listTags(ctx, client, smc.ListTagResourcesRequest{ResourceType: r.resourceType, ResourceID: r.ids})
		if err != nil {
			return err
		}
		return c.printJSON(left)
	}
	for _, name := range r.names {
		err = errors.Join(err, c.printf("%s %s\n", name, done))
	}
	return err
}

func (c *cli) tagListCommand() *cobra.Command {
	var on tagged
	cmd := &cobra.Command{
		Use:   "list [TAG...] [--source SOURCE... | --job JOB...]",
		Short: "List the tags of source servers and jobs",
		Long: `List the tags of source servers and jobs: of all of them, or of those given. With a TAG, KEY or KEY=VALUE, only the
resources that have it are listed; with several, those that have all of them.`,
		Example: `  drover tag list
  drover tag list --source web-1
  drover tag list env=prod -o json | jq -r '.[].ResourceId'`,
		Args: optionalArgs(leastArgs("TAG")),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := on.check(false); err != nil {
				return err
			}
			filter, err := filterTags(args).filter()
			if err != nil {
				return err
			}
			client, err := c.client()
			if err != nil {
				return err
			}
			tags, err := on.list(cmd.Context(), client, filter)
			if err != nil {
				return err
			}
			if c.json() {
				return c.printJSON(tags)
			}
			t := table.New("RESOURCE ID", "TYPE", "KEY", "VALUE")
			for _, tag := range tags {
				t.Add(tag.ResourceID, shortType(tag.ResourceType), tag.TagKey, orDash(tag.TagValue))
			}
			return t.Write(c.out, "")
		},
	}
	on.flags(cmd)
	return cmd
}

// list reads the tags of the resources given, of all source servers and jobs when none are.
func (r *tagged) list(ctx context.Context, client *smc.Client, filter []smc.TagFilter) ([]smc.TagResource, error) {
	found, err := r.find(ctx, client)
	if err != nil {
		return nil, err
	}
	types := []string{found.resourceType}
	if len(found.ids) == 0 {
		types = []string{smc.ResourceTypeSourceServer, smc.ResourceTypeReplicationJob}
	}
	tags := []smc.TagResource{}
	for _, resourceType := range types {
		more, err := listTags(ctx, client, smc.ListTagResourcesRequest{ResourceType: resourceType, ResourceID: found.ids, Tag: filter})
		if err != nil {
			return nil, err
		}
		tags = append(tags, more...)
	}
	return tags, nil
}

// listTags reads every page of a listing of tags.
func listTags(ctx context.Context, client *smc.Client, req smc.ListTagResourcesRequest) ([]smc.TagResource, error) {
	tags := []smc.TagResource{}
	for {
		res, err := client.ListTagResources(ctx, &req)
		if err != nil {
			return nil, err
		}
		tags = append(tags, res.TagResources...)
		if res.NextToken == "" {
			return tags, nil
		}
		if req.NextToken != nil && *req.NextToken == res.NextToken {
			return nil, errors.New("list tags: the endpoint answers the same page for ever")
		}
		req.NextToken = &res.NextToken
	}
}

// shortType is the type of a resource without what all types have in common.
func shortType(name string) string {
	return strings.ToLower(name[strings.LastIndexByte(name, ':')+1:])
}
