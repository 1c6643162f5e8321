package center

import (
	"context"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
)

func (e *Endpoint) registerWorkgroups() {
	serve(e, smc.CreateWorkgroup, func(ctx context.Context, c *call, r *smc.CreateWorkgroupRequest) (*smc.CreateWorkgroupResult, error) {
		if value(r.Name) == "" {
			return nil, smc.Errorf("MissingName", "Name is missing: a workgroup has one")
		}
		id, err := e.Store.CreateWorkgroup(ctx, store.Workgroup{AccountID: c.accountID, Name: *r.Name, Description: value(r.Description)}, value(r.ClientToken), smc.CreateWorkgroup.Fingerprint(r), smc.TagsOf(r.Tag))
		if err == nil {
			c.touched(e.resource(c, typeWorkgroup, id))
		}
		return &smc.CreateWorkgroupResult{WorkgroupID: id}, err
	})
	serve(e, smc.DescribeWorkgroups, e.describeWorkgroups)
	serve(e, smc.ModifyWorkgroupAttribute, func(ctx context.Context, c *call, r *smc.ModifyWorkgroupAttributeRequest) (*smc.ModifyWorkgroupAttributeResult, error) {
		return &smc.ModifyWorkgroupAttributeResult{}, e.Store.ModifyWorkgroup(ctx, c.accountID, r.WorkgroupID, r.Name, r.Description)
	})
	serve(e, smc.DeleteWorkgroup, func(ctx context.Context, c *call, r *smc.DeleteWorkgroupRequest) (*smc.DeleteWorkgroupResult, error) {
		return &smc.DeleteWorkgroupResult{}, e.Store.DeleteWorkgroup(ctx, c.accountID, r.WorkgroupID)
	})
	serve(e, smc.AssociateSourceServers, func(ctx context.Context, c *call, r *smc.AssociateSourceServersRequest) (*smc.AssociateSourceServersResult, error) {
		return &smc.AssociateSourceServersResult{}, e.Store.Associate(ctx, c.accountID, r.WorkgroupID, r.SourceID)
	})
	serve(e, smc.DisassociateSourceServers, func(ctx context.Context, c *call, r *smc.DisassociateSourceServersRequest) (*smc.DisassociateSourceServersResult, error) {
		return &smc.DisassociateSourceServersResult{}, e.Store.Disassociate(ctx, c.accountID, r.WorkgroupID, r.SourceID)
	})
}

func (e *Endpoint) describeWorkgroups(ctx context.Context, c *call, r *smc.DescribeWorkgroupsRequest) (*smc.DescribeWorkgroupsResult, error) {
	groups, err := e.Store.Workgroups(ctx, c.accountID, r.WorkgroupID, value(r.Name), r.Tag)
	if err != nil {
		return nil, err
	}
	all, err := e.Store.WorkgroupMembers(ctx, c.accountID)
	if err != nil {
		return nil, err
	}
	members := map[string][]store.WorkgroupMember{}
	for _, member := range all {
		members[member.WorkgroupID] = append(members[member.WorkgroupID], member)
	}
	ids := make([]string, 0, len(groups))
	for _, group := range groups {
		ids = append(ids, group.WorkgroupID)
	}
	tags, err := e.Store.Tags(ctx, ids)
	if err != nil {
		return nil, err
	}
	var found smc.List[smc.Workgroup]
	for _, group := range groups {
		shown := smc.Workgroup{
			WorkgroupID: group.WorkgroupID, Name: group.Name, Description: group.Description, Tags: tags[group.WorkgroupID],
			Status: workgroupStatus(members[group.WorkgroupID]), Warnings: workgroupWarnings(members[group.WorkgroupID]),
		}
		if want := value(r.Status); want == "" || smc.WorkgroupStatus(want) == shown.Status {
			found = append(found, shown)
		}
	}
	number, size := smc.PageOf(r.PageNumber, r.PageSize)
	return &smc.DescribeWorkgroupsResult{
		Page: smc.Page{TotalCount: len(found), PageNumber: number, PageSize: size}, Workgroups: pageOf(found, number, size),
	}, nil
}

// workgroupStatus computes the status of a workgroup from the newest jobs of its sources (CONTRACT: Workgroups).
func workgroupStatus(members []store.WorkgroupMember) smc.WorkgroupStatus {
	started, finished, resting, cutOver := 0, 0, 0, false
	for _, member := range members {
		if member.Run > 0 {
			started++
		}
		switch member.JobStatus {
		case smc.StatusFinished:
			finished++
			resting++
		case smc.StatusWaiting:
			resting++
		}
		cutOver = cutOver || member.CutOver != store.CutOverNone
	}
	switch {
	case started == 0:
		return smc.WorkgroupNotStarted
	case finished == len(members):
		return smc.WorkgroupCompleted
	case resting == len(members) && cutOver:
		return smc.WorkgroupCutover
	}
	return smc.WorkgroupInProgress
}

func workgroupWarnings(members []store.WorkgroupMember) smc.List[smc.Warning] {
	sources := map[smc.WarningType]smc.List[smc.SourceRef]{}
	warn := func(kind smc.WarningType, member store.WorkgroupMember) {
		sources[kind] = append(sources[kind], smc.SourceRef(member.SourceID))
	}
	for _, member := range members {
		switch member.JobStatus {
		case smc.StatusInError:
			warn(smc.WarningInError, member)
		case "":
			warn(smc.WarningUnRelated, member)
		}
		if member.NotPassed {
			warn(smc.WarningNotPassed, member)
		}
	}
	var warnings smc.List[smc.Warning]
	for _, kind := range []smc.WarningType{smc.WarningInError, smc.WarningUnRelated, smc.WarningNotPassed} {
		if sources[kind] != nil {
			warnings = append(warnings, smc.Warning{WarningType: kind, SourceIDs: sources[kind]})
		}
	}
	return warnings
}
