// Package property is for tests of properties, which pgregory.net/rapid checks with drawn cases.
package property

import (
	"flag"
	"fmt"
	"testing"

	_ "pgregory.net/rapid" // has the flag
)

// Checks sets how many cases the properties of a test are checked with, unless -rapid.checks says otherwise: it is for properties whose
// cases take long.
func Checks(t testing.TB, n int) {
	t.Helper()
	checks := flag.Lookup("rapid.checks")
	before := checks.Value.String()
	if before != checks.DefValue {
		return
	}
	set := func(value string) {
		if err := checks.Value.Set(value); err != nil {
			t.Fatal(err)
		}
	}
	set(fmt.Sprint(n))
	t.Cleanup(func() { set(before) })
}
