package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/drover/drover/smc"
)

// parallelCalls is how many calls a command makes at once.
const parallelCalls = 8

// loggingTransport logs each request by its operation. It never logs parameters: some are secrets.
type loggingTransport struct {
	next http.RoundTripper
	log  *zap.Logger
}

// RoundTrip implements http.RoundTripper.
func (t loggingTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	began := time.Now()
	resp, err := t.next.RoundTrip(req)
	fields := []zap.Field{zap.String("action", actionOf(req)), zap.Duration("took", time.Since(began)), zap.Error(err)}
	if resp != nil {
		fields = append(fields, zap.Int("http_status", resp.StatusCode))
	}
	t.log.Debug("called the endpoint", fields...)
	return resp, err
}

// actionOf returns the operation a request calls: ACS3 has it in a header, signature 1.0 in the form.
func actionOf(req *http.Request) string {
	if action := req.Header.Get("x-acs-action"); action != "" {
		return action
	}
	if req.GetBody == nil {
		return req.URL.Path
	}
	body, err := req.GetBody()
	if err != nil {
		return req.URL.Path
	}
	defer body.Close()
	form, err := io.ReadAll(body)
	if err != nil {
		return req.URL.Path
	}
	values, err := url.ParseQuery(string(form))
	if err != nil || !values.Has("Action") {
		return req.URL.Path
	}
	return values.Get("Action")
}

// withClient makes the body of a command that asks the endpoint.
func (c *cli) withClient(do func(ctx context.Context, client *smc.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		client, err := c.client()
		if err != nil {
			return err
		}
		return do(cmd.Context(), client, args)
	}
}

// withOne makes the body of a command about the one thing that its argument names.
func withOne[T any](
	c *cli, find func(ctx context.Context, client *smc.Client, ref string) (T, error), do func(ctx context.Context, client *smc.Client, one T) error,
) func(*cobra.Command, []string) error {
	return c.withClient(func(ctx context.Context, client *smc.Client, args []string) error {
		one, err := find(ctx, client, args[0])
		if err != nil {
			return err
		}
		return do(ctx, client, one)
	})
}

// page is one page of a listing.
type page[T any] struct {
	items     []T
	total     int
	requestID string
}

// all reads every page of a listing.
func all[T any](id func(T) string, fetch func(number, size *int) (page[T], error)) ([]T, string, error) {
	return newest(math.MaxInt, id, fetch)
}

// newest reads a listing until it has that many. Listings are newest first, so what is made meanwhile moves the rest on:
// what comes twice is dropped.
func newest[T any](limit int, id func(T) string, fetch func(number, size *int) (page[T], error)) ([]T, string, error) {
	items, seen := []T{}, map[string]bool{}
	size := smc.MaxPageSize
	for number := 1; ; number++ {
		p, err := fetch(&number, &size)
		if err != nil {
			return nil, "", err
		}
		for _, item := range p.items {
			if !seen[id(item)] && len(items) < limit {
				seen[id(item)] = true
				items = append(items, item)
			}
		}
		if len(items) == limit || len(p.items) == 0 || number*size >= p.total {
			return items, p.requestID, nil
		}
	}
}

func listSources(ctx context.Context, client *smc.Client, filter smc.DescribeSourceServersRequest) ([]smc.SourceServer, string, error) {
	return all(func(s smc.SourceServer) string { return s.SourceID }, func(number, size *int) (page[smc.SourceServer], error) {
		filter.PageNumber, filter.PageSize = number, size
		res, err := client.DescribeSourceServers(ctx, &filter)
		if err != nil {
			return page[smc.SourceServer]{}, err
		}
		return page[smc.SourceServer]{res.SourceServers, res.TotalCount, res.RequestID}, nil
	})
}

func listJobs(ctx context.Context, client *smc.Client, filter smc.DescribeReplicationJobsRequest) ([]smc.ReplicationJob, string, error) {
	return all(func(j smc.ReplicationJob) string { return j.JobID }, func(number, size *int) (page[smc.ReplicationJob], error) {
		filter.PageNumber, filter.PageSize = number, size
		res, err := client.DescribeReplicationJobs(ctx, &filter)
		if err != nil {
			return page[smc.ReplicationJob]{}, err
		}
		return page[smc.ReplicationJob]{res.ReplicationJobs, res.TotalCount, res.RequestID}, nil
	})
}

func listImages(ctx context.Context, client *smc.Client, filter smc.DescribeImagesRequest) ([]smc.Image, string, error) {
	return all(func(i smc.Image) string { return i.ImageID }, func(number, size *int) (page[smc.Image], error) {
		filter.PageNumber, filter.PageSize = number, size
		res, err := client.DescribeImages(ctx, &filter)
		if err != nil {
			return page[smc.Image]{}, err
		}
		return page[smc.Image]{res.Images, res.TotalCount, res.RequestID}, nil
	})
}

// lookup says how one kind of thing is found by its id or its name.
type lookup[T any] struct {
	what     string // "job"
	prefix   string // of ids
	list     string // command that lists them
	notFound string // code
	byID     func(id string) ([]T, string, error)
	byName   func(name string) ([]T, string, error)
	id       func(T) string
	name     func(T) string
	state    func(T) string // nil for what has none worth telling
}

// find returns the one thing of that id or name. An id may also be somebody's name, so an id that is not found is
// looked for as a name.
func (l lookup[T]) find(ref string) (T, error) {
	var none T
	if strings.HasPrefix(ref, l.prefix) {
		items, _, err := l.byID(ref)
		if err != nil && smc.CodeOf(err) != l.notFound {
			return none, err
		}
		for _, item := range items {
			if l.id(item) == ref {
				return item, nil
			}
		}
	}
	items, requestID, err := l.byName(ref)
	if err != nil {
		return none, err
	}
	var found []T
	for _, item := range items { // an endpoint may match names loosely
		if l.name(item) == ref {
			found = append(found, item)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		e := smc.Errorf(l.notFound, "no %s has the id or name %q; %q lists them", l.what, ref, l.list)
		e.RequestID = requestID
		return none, e
	}
	ids := make([]string, len(found))
	for i, item := range found {
		ids[i] = l.id(item)
	}
	return none, inputf("%d %ss have the name %q; name one by its id: %s", len(found), l.what, ref, strings.Join(ids, ", "))
}

// report says what became of the thing of an id: a line, or the thing as JSON.
func (l lookup[T]) report(c *cli, id, done string) error {
	thing, err := l.find(id)
	switch {
	case err != nil:
		return fmt.Errorf("%s %s is %s, but cannot be read: %w", l.what, id, done, err)
	case c.json():
		return c.printJSON(thing)
	}
	line := l.what + " " + nameAfterID(id, l.name(thing)) + " " + done
	if l.state != nil {
		line += ": " + l.state(thing)
	}
	return c.printf("%s\n", line)
}

// reportGone is report for what cannot be read any more: a line, or its id as JSON.
func (c *cli) reportGone(what, idName, id, name string) error {
	if c.json() {
		return c.printJSON(map[string]string{idName: id})
	}
	return c.printf("%s %s deleted\n", what, nameAfterID(id, name))
}

// nameAfterID names a thing in a message by its id and, where it has one, its name.
func nameAfterID(id, name string) string {
	if name == "" {
		return id
	}
	return id + " (" + name + ")"
}

func sourceLookup(ctx context.Context, client *smc.Client) lookup[smc.SourceServer] {
	return lookup[smc.SourceServer]{
		what: "source server", prefix: "s-", list: "drover source list", notFound: smc.CodeInvalidSourceIDNotFound,
		byID: func(id string) ([]smc.SourceServer, string, error) {
			return listSources(ctx, client, smc.DescribeSourceServersRequest{SourceID: []string{id}})
		},
		byName: func(name string) ([]smc.SourceServer, string, error) {
			return listSources(ctx, client, smc.DescribeSourceServersRequest{Name: &name})
		},
		id:   func(s smc.SourceServer) string { return s.SourceID },
		name: func(s smc.SourceServer) string { return s.Name },
	}
}

func findSource(ctx context.Context, client *smc.Client, ref string) (smc.SourceServer, error) {
	return sourceLookup(ctx, client).find(ref)
}

func jobLookup(ctx context.Context, client *smc.Client) lookup[smc.ReplicationJob] {
	return lookup[smc.ReplicationJob]{
		what: "job", prefix: "j-", list: "drover job list", notFound: smc.CodeInvalidJobIDNotFound,
		byID: func(id string) ([]smc.ReplicationJob, string, error) {
			return listJobs(ctx, client, smc.DescribeReplicationJobsRequest{JobID: []string{id}})
		},
		byName: func(name string) ([]smc.ReplicationJob, string, error) {
			return listJobs(ctx, client, smc.DescribeReplicationJobsRequest{Name: &name})
		},
		id:    func(j smc.ReplicationJob) string { return j.JobID },
		name:  func(j smc.ReplicationJob) string { return j.Name },
		state: func(j smc.ReplicationJob) string { return phaseOf(j.Status, j.BusinessStatus) },
	}
}

func findJob(ctx context.Context, client *smc.Client, ref string) (smc.ReplicationJob, error) {
	return jobLookup(ctx, client).find(ref)
}

func findImage(ctx context.Context, client *smc.Client, ref string) (smc.Image, error) {
	return lookup[smc.Image]{
		what: "image", prefix: "m-", list: "drover image list", notFound: smc.CodeInvalidImageIDNotFound,
		byID: func(id string) ([]smc.Image, string, error) {
			return listImages(ctx, client, smc.DescribeImagesRequest{ImageID: []string{id}})
		},
		byName: func(name string) ([]smc.Image, string, error) {
			return listImages(ctx, client, smc.DescribeImagesRequest{Name: &name})
		},
		id:   func(i smc.Image) string { return i.ImageID },
		name: func(i smc.Image) string { return i.ImageName },
	}.find(ref)
}

// jobIDForm is what ids of jobs look like; a name may look the same.
var jobIDForm = regexp.MustCompile(`^j-[0-9a-z]{10,}$`)

// findJobID is findJob for what needs no more than the id: an id that the listing does not have is left for the
// endpoint to refuse.
func findJobID(ctx context.Context, client *smc.Client, ref string) (string, error) {
	job, err := findJob(ctx, client, ref)
	if smc.CodeOf(err) == smc.CodeInvalidJobIDNotFound && jobIDForm.MatchString(ref) {
		return ref, nil
	}
	return job.JobID, err
}
