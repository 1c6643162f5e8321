package smc

// Operations on activation codes, which the API calls access tokens.
var (
	// CreateAccessToken makes an activation code, which is shown this once.
	CreateAccessToken = declare[CreateAccessTokenRequest, CreateAccessTokenResult]("CreateAccessToken", once)
	// ListAccessTokens lists activation codes without their secrets.
	ListAccessTokens = declare[ListAccessTokensRequest, ListAccessTokensResult]("ListAccessTokens", reads)
	// DisableAccessToken ends an activation code for good; sources registered with it stay.
	DisableAccessToken = declare[DisableAccessTokenRequest, DisableAccessTokenResult]("DisableAccessToken",
		answers(CodeInvalidAccessTokenIDNotFound))
	// DeleteAccessToken deletes an activation code; sources registered with it stay.
	DeleteAccessToken = declare[DeleteAccessTokenRequest, DeleteAccessTokenResult]("DeleteAccessToken",
		answers(CodeInvalidAccessTokenIDNotFound))
)

// Defaults of activation codes (CONTRACT: Activation codes).
const (
	DefaultAccessTokenCount            = 100
	DefaultAccessTokenTimeToLiveInDays = 30
)

// AccessTokenStatus is the status of an activation code.
type AccessTokenStatus string

// The statuses of activation codes.
const (
	AccessTokenActivated   AccessTokenStatus = "activated"
	AccessTokenUnactivated AccessTokenStatus = "unactivated"
	AccessTokenExpired     AccessTokenStatus = "expired"
)

// CreateAccessTokenRequest describes an activation code.
type CreateAccessTokenRequest struct {
	Name        *string `smc:"Name,rule=name"`
	Description *string `smc:"Description,maxlen=256,rule=nourl"`
	// Count is how many sources may register with the code.
	Count *int `smc:"Count,min=1,max=1000,default=100"`
	// TimeToLiveInDays is how long they may.
	TimeToLiveInDays *int `smc:"TimeToLiveInDays,min=1,max=90,default=30"`
}

// CreateAccessTokenResult is the only answer that ever holds the code.
type CreateAccessTokenResult struct {
	Answer
	AccessTokenID   string `json:"AccessTokenId"`
	AccessTokenCode string `json:"AccessTokenCode"`
}

// ListAccessTokensRequest filters activation codes; filters that are given must all match.
type ListAccessTokensRequest struct {
	AccessTokenID []string `smc:"AccessTokenId,list=100,filter"`
	Name          *string  `smc:"Name,maxlen=128"`
	Status        *string  `smc:"Status,enum=activated|unactivated|expired"`
	// PageNumber and PageSize are not the vendor's, whose clients cannot ask for another page: without both of them all are on the first.
	PageNumber *int `smc:"PageNumber,min=1,max=2147483647"`
	// PageSize (default 10, if PageNumber is given) is the most codes a page holds.
	PageSize *int `smc:"PageSize,min=1,max=50"`
}

// ListAccessTokensResult is a page of activation codes.
type ListAccessTokensResult struct {
	Answer
	Page
	AccessTokens List[AccessToken] `json:"AccessTokens"`
}

// AccessToken is an activation code without its secret.
type AccessToken struct {
	AccessTokenID    string            `json:"AccessTokenId"`
	Name             string            `json:"Name"`
	Description      string            `json:"Description"`
	Count            int               `json:"Count"`
	RegisteredCount  int               `json:"RegisteredCount"`
	TimeToLiveInDays int               `json:"TimeToLiveInDays"`
	CreationTime     string            `json:"CreationTime"`
	Status           AccessTokenStatus `json:"Status"`
}

func (AccessToken) itemName() string { return "AccessToken" }

// DisableAccessTokenRequest names the activation code.
type DisableAccessTokenRequest struct {
	AccessTokenID string `smc:"AccessTokenId,required"`
}

// DisableAccessTokenResult says nothing but that it is done.
type DisableAccessTokenResult struct{ Answer }

// DeleteAccessTokenRequest names the activation code.
type DeleteAccessTokenRequest struct {
	AccessTokenID string `smc:"AccessTokenId,required"`
}

// DeleteAccessTokenResult says nothing but that it is done.
type DeleteAccessTokenResult struct{ Answer }
