package center

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSecondsHaveThreeDigitsAfterThePoint(t *testing.T) {
	for ms := range int64(20_000) {
		text := strconv.FormatFloat(seconds(time.Duration(ms)*time.Millisecond), 'f', -1, 64)
		require.LessOrEqual(t, len(text), len("19.999"), "%d ms", ms)
	}
	require.Zero(t, seconds(-time.Second), "clocks of two machines may disagree")
}
