// Package property is for tests of properties, which pgregory.net/rapid checks with drawn cases.
package property

import (
	"flag"
	"fmt"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

// Check is rapid.Check with the same cases every time: no change is refused for what it has not done. Others are drawn when -rapid.checks says
// how many, or -rapid.seed says which; -rapid.checks=100 draws as many others as there are by default.
func Check(t *testing.T, property func(*rapid.T)) {
	t.Helper()
	sameCases()
	rapid.Check(t, property)
}

var sameCases = sync.OnceFunc(func() {
	others := false
	flag.Visit(func(f *flag.Flag) { others = others || f.Name == "rapid.checks" })
	if seed := flag.Lookup("rapid.seed"); !others && seed.Value.String() == "0" {
		if err := seed.Value.Set("1"); err != nil {
			panic(err) // the flag takes numbers
		}
	}
})

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
