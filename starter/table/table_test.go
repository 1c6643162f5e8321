package table_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/drover/drover/starter/table"
)

func TestColumnsAreAligned(t *testing.T) {
	tab := table.New("ID", "NAME", ">SIZE")
	tab.Add("j-1", "服务", "9 B")
	tab.Add("j-22", "web", "100 B")
	tab.Add("", "", "")
	var out strings.Builder
	require.NoError(t, tab.Write(&out, "  "))
	assert.Equal(t, ""+
		"  ID    NAME   SIZE\n"+
		"  j-1   服务    9 B\n"+
		"  j-22  web   100 B\n"+
		"\n", out.String())
}
