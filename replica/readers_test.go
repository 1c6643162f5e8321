package replica

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReading(t *testing.T) {
	h := new(Host)
	require.False(t, h.Reading("m-1"))
	first, second := h.readers.begin("m-1"), h.readers.begin("m-1")
	first()
	require.True(t, h.Reading("m-1"), "one reader is left")
	require.False(t, h.Reading("m-2"))
	second()
	require.False(t, h.Reading("m-1"))
	require.Empty(t, h.readers.of)
}
