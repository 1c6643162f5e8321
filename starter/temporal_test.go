package main

import (
	"testing"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/sdk/converter"
)

func memoOf(t *testing.T, sum string) *commonpb.Memo {
	t.Helper()
	payload, err := converter.GetDefaultDataConverter().ToPayload(sum)
	require.NoError(t, err)
	return &commonpb.Memo{Fields: map[string]*commonpb.Payload{memoManifest: payload}}
}
