package progress

import (
	"fmt"
	"strings"
	"time"

	"golang.org/x/text/width"
)

// Bytes renders a number of bytes in binary units with one decimal: "96.0 MiB", "512 B".
func Bytes(n int64) string {
	const units = "KMGTPE"
	if n < 0 {
		return "-" + Bytes(-n)
	}
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/1024, 0
	// 1023.95 would be printed as 1024.0 of the smaller unit.
	for value >= 1023.95 && unit < len(units)-1 {
		value /= 1024
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", value, units[unit])
}

// Rate renders bytes per second.
func Rate(bytesPerSecond int64) string { return Bytes(bytesPerSecond) + "/s" }

// Duration renders a duration as a person reads it: "0.4s", "12s", "3m05s", "2h07m", "3d04h".
func Duration(d time.Duration) string {
	if d < 0 {
		return "-" + Duration(-d)
	}
	if d < 9950*time.Millisecond {
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	s := int64(d.Round(time.Second) / time.Second)
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	case s < 24*3600:
		return fmt.Sprintf("%dh%02dm", s/3600, s/60%60)
	}
	return fmt.Sprintf("%dd%02dh", s/86400, s/3600%24)
}

// Percent renders a percentage without a fraction; it is 100% only when all is done.
func Percent(p float64) string {
	if p > 99 && p < 100 {
		p = 99
	}
	return fmt.Sprintf("%.0f%%", min(max(p, 0), 100))
}

// Width is how many columns of a terminal a text takes: names may be Chinese, and such letters take two.
func Width(s string) int {
	n := 0
	for _, r := range s {
		n += runeWidth(r)
	}
	return n
}

func runeWidth(r rune) int {
	if r < 0x1100 {
		return 1
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	}
	return 1
}

// Pad fills a text with spaces up to that many columns; a longer one is left as it is.
func Pad(s string, columns int) string {
	if missing := columns - Width(s); missing > 0 {
		return s + strings.Repeat(" ", missing)
	}
	return s
}

// PadLeft is Pad with the spaces in front.
func PadLeft(s string, columns int) string {
	if missing := columns - Width(s); missing > 0 {
		return strings.Repeat(" ", missing) + s
	}
	return s
}

// clip cuts a text to that many columns.
func clip(s string, columns int) string {
	n := 0
	for i, r := range s {
		if n += runeWidth(r); n > columns {
			return s[:i]
		}
	}
	return s
}
