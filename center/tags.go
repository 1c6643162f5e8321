package center

import (
	"context"
	"encoding/base64"
	"errors"
	"strings"

	"github.com/drover/drover/center/store"
	"github.com/drover/drover/smc"
)

func (e *Endpoint) registerTags() {
	serve(e, smc.TagResources, func(ctx context.Context, c *call, r *smc.TagResourcesRequest) (*smc.TagResourcesResult, error) {
		return &smc.TagResourcesResult{}, e.Store.TagResources(ctx, c.accountID, strings.ToLower(r.ResourceType), r.ResourceID, smc.TagsOf(r.Tag))
	})
	serve(e, smc.UntagResources, func(ctx context.Context, c *call, r *smc.UntagResourcesRequest) (*smc.UntagResourcesResult, error) {
		if len(r.TagKey) == 0 && !value(r.All) {
			return nil, smc.Errorf(smc.CodeMissingParameter, "TagKey is missing: name the keys to take away, or set All")
		}
		return &smc.UntagResourcesResult{}, e.Store.UntagResources(ctx, c.accountID, strings.ToLower(r.ResourceType), r.ResourceID, r.TagKey)
	})
	serve(e, smc.ListTagResources, e.listTagResources)
}

// tagPage is how many tags a page of ListTagResources holds.
const tagPage = 50

func (e *Endpoint) listTagResources(ctx context.Context, c *call, r *smc.ListTagResourcesRequest) (*smc.ListTagResourcesResult, error) {
	wrongToken := smc.Errorf(smc.CodeInvalidParameter, "NextToken: %q is not one this listing gave", value(r.NextToken))
	next, err := base64.RawURLEncoding.DecodeString(value(r.NextToken))
	if err != nil {
		return nil, wrongToken
	}
	tags, position, err := e.Store.ResourceTags(ctx, c.accountID, strings.ToLower(r.ResourceType), r.ResourceID, r.Tag, string(next), tagPage)
	if errors.Is(err, store.ErrBadToken) {
		return nil, wrongToken
	}
	if err != nil {
		return nil, err
	}
	result := &smc.ListTagResourcesResult{NextToken: base64.RawURLEncoding.EncodeToString([]byte(position))}
	for _, tag := range tags {
		result.TagResources = append(result.TagResources, smc.TagResource{
			ResourceID: tag.ResourceID, ResourceType: "ALIYUN::SMC::" + strings.ToUpper(tag.ResourceType), TagKey: tag.Key, TagValue: tag.Value,
		})
	}
	return result, nil
}
