// Package table prints aligned columns.
package table

import (
	"io"
	"strings"

	"github.com/drover/drover/starter/progress"
)

// Table is rows under a header. Columns stand two spaces apart.
type Table struct {
	// Header names the columns. One that begins with '>' is aligned to the right.
	Header []string
	rows   [][]string
}

// New returns an empty table.
func New(header ...string) *Table { return &Table{Header: header} }

// Add adds a row of as many cells as the header has.
func (t *Table) Add(cells ...string) { t.rows = append(t.rows, cells) }

// Write prints the table with a prefix in front of every line. The error is that of w.
func (t *Table) Write(w io.Writer, prefix string) error {
	widths := make([]int, len(t.Header))
	right := make([]bool, len(t.Header))
	header := make([]string, len(t.Header))
	for i, h := range t.Header {
		header[i], right[i] = strings.CutPrefix(h, ">")
	}
	lines := append([][]string{header}, t.rows...)
	for _, cells := range lines {
		for i, cell := range cells {
			widths[i] = max(widths[i], progress.Width(cell))
		}
	}
	var b strings.Builder
	for _, cells := range lines {
		line := prefix
		for i, cell := range cells {
			if i > 0 {
				line += "  "
			}
			pad := progress.Pad
			if right[i] {
				pad = progress.PadLeft
			}
			line += pad(cell, widths[i])
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
