package center

import (
	"context"

	"github.com/drover/drover/smc"
)

func (e *Endpoint) registerAccessTokens() {
	serve(e, smc.CreateAccessToken, e.createAccessToken)
	serve(e, smc.ListAccessTokens, e.listAccessTokens)
	serve(e, smc.DisableAccessToken, func(ctx context.Context, c *call, r *smc.DisableAccessTokenRequest) (*smc.DisableAccessTokenResult, error) {
		return &smc.DisableAccessTokenResult{}, e.Store.DisableAccessToken(ctx, c.accountID, r.AccessTokenID)
	})
	serve(e, smc.DeleteAccessToken, func(ctx context.Context, c *call, r *smc.DeleteAccessTokenRequest) (*smc.DeleteAccessTokenResult, error) {
		return &smc.DeleteAccessTokenResult{}, e.Store.DeleteAccessToken(ctx, c.accountID, r.AccessTokenID)
	})
}

func (e *Endpoint) listAccessTokens(ctx context.Context, c *call, r *smc.ListAccessTokensRequest) (*smc.ListAccessTokensResult, error) {
	tokens, err := e.Store.AccessTokens(ctx, c.accountID, r.AccessTokenID, value(r.Name))
	if err != nil {
		return nil, err
	}
	var found smc.List[smc.AccessToken]
	for _, token := range tokens {
		status := token.Status(c.now)
		if want := value(r.Status); want != "" && smc.AccessTokenStatus(want) != status {
			continue
		}
		found = append(found, smc.AccessToken{
			AccessTokenID: token.AccessTokenID, Name: token.Name, Description: token.Description, Count: token.Count, RegisteredCount: token.RegisteredCount,
			TimeToLiveInDays: token.TTLDays, CreationTime: smc.FormatTime(token.CreatedAt), Status: status,
		})
	}
	number, size := smc.PageOf(r.PageNumber, r.PageSize)
	if r.PageNumber == nil && r.PageSize == nil {
		size = max(size, len(found))
	}
	return &smc.ListAccessTokensResult{
		Page: smc.Page{TotalCount: len(found), PageNumber: number, PageSize: size}, AccessTokens: pageOf(found, number, size),
	}, nil
}

// pageOf returns one page of a listing; pages count from 1.
func pageOf[T any](items []T, number, size int) []T {
	if number > len(items)/size+1 {
		return nil
	}
	from := min((number-1)*size, len(items))
	return items[from:min(from+size, len(items))]
}
