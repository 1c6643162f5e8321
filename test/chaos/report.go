package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// print writes what the seed decides.
func (p *plan) print(out io.Writer) {
	_, _ = fmt.Fprintf(out, "seed %d\n", p.seed)
	for _, s := range slices.Concat(p.sources, p.fleet) {
		_, _ = fmt.Fprintf(out, "%s: system disk %d MiB with %d, data disk %d MiB with %d\n", s.name, s.systemMiB, s.fillMiB, s.dataMiB, s.dataFilled)
		for _, j := range s.jobs {
			kind := "one-time"
			if j.incremental {
				kind = fmt.Sprintf("incremental, keeps %d", j.keep)
			}
			_, _ = fmt.Fprintf(out, "  %s: %s, %d kbit/s, compress %d, checksum %t, ends %q\n", j.name, kind, j.kbps, j.compress, j.checksum, j.ending)
			for n, r := range j.runs {
				_, _ = fmt.Fprintf(out, "    run %d: changes %d MiB before, loses its disk at %.2f, stops %+v\n", n+1, r.mutate/mib, r.breakAt, r.stops)
			}
			for _, m := range j.moments() {
				if s, ok := j.strikes[m]; ok {
					_, _ = fmt.Fprintf(out, "    enters %s (%d): %v\n", m.boundary, m.nth+1, s)
				}
			}
		}
	}
	for _, o := range p.outages {
		_, _ = fmt.Fprintf(out, "%s %s after %v more for %v\n", o.of, o.what(), o.after, o.lasts)
	}
}

// table prints what was done and found.
func (c *chaos) table(out io.Writer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) }
	line("")
	line("seed\t%d", c.plan.seed)
	database := "SQLite"
	if c.stack != nil && c.stack.Database != nil && c.stack.Database.Postgres() {
		database = "PostgreSQL"
	}
	line("database\t%s", database)
	if !c.began.IsZero() {
		line("duration\t%v", time.Since(c.began).Round(time.Second))
	}
	kinds, runs := map[string]map[string]int{"one-time": {}, "incremental": {}}, 0
	for _, j := range c.jobs {
		kind, end := "one-time", string(j.status)
		if j.plan.incremental {
			kind = "incremental"
		}
		if end == "" {
			end = "gone"
		}
		kinds[kind][end]++
		runs += len(j.runs)
	}
	line("jobs\t%d, with %d runs", len(c.jobs), runs)
	for _, kind := range []string{"one-time", "incremental"} {
		line("  %s\t%s", kind, counts(kinds[kind]))
	}

	killed, hung := map[string]int{}, map[string]int{}
	for _, d := range c.processes.disturbances(time.Time{}, time.Now()) {
		switch {
		case d.hang:
			hung[string(d.kind)]++
		case d.kind != "":
			killed[string(d.kind)]++
		}
	}
	line("killed\t%s", counts(killed))
	line("hung\t%s", counts(hung))
	line("starts that gave up\t%d", c.processes.gaveUp)
	line("outages\tNATS %d, database %d", c.checked.natsOutages, c.checked.databaseOutages)
	line("requests without an answer\t%d", c.unanswered)
	line("Stops\t%d, of %d with the center whole the longest took %v", c.stops.count, c.stops.prompt, c.stops.longest.Round(time.Millisecond))
	line("bytes sent\t%.1f MiB, needed %.1f, twice %.1f (allowed %.1f); most in one run %.1f (allowed %.1f)", inMiB(c.checked.sent), inMiB(c.checked.needed),
		inMiB(c.checked.twice), inMiB(c.checked.bound), inMiB(c.checked.mostTwice), inMiB(c.checked.mostTwiceAllowed))
	line("bytes written by agents\t%.1f MiB of them and all else, as the kernel counts", inMiB(c.checked.written))
	line("events\t%d of %d resources", c.checked.events, c.checked.resources)
	line("images\t%d kept and compared, %d exported", c.checked.images, c.checked.exports)
	line("progress samples\t%d", c.samples)
	line("open workflows\t%d", c.checked.workflows)
	line("drover doctor\t%s", c.checked.doctor)
	_ = w.Flush() // to the terminal

	line("")
	line("killed as a job enters\t%s", strings.Join(names(targets), "\t"))
	pairs := 0
	for _, b := range boundaries {
		row := string(b)
		for _, kind := range targets {
			n := c.covered[pair{kind, b}]
			if n > 0 {
				pairs++
			}
			row += fmt.Sprintf("\t%d", n)
		}
		line("%s", row)
	}
	line("pairs\t%d of %d", pairs, len(boundaries)*len(targets))
	line("")
	_ = w.Flush() // to the terminal
}

func names(all []target) (texts []string) {
	for _, one := range all {
		texts = append(texts, string(one))
	}
	return texts
}

// counts lists what was counted, by name.
func counts(of map[string]int) string {
	var all []string
	total := 0
	for _, name := range slices.Sorted(maps.Keys(of)) {
		all = append(all, fmt.Sprintf("%s %d", name, of[name]))
		total += of[name]
	}
	return fmt.Sprintf("%d: %s", total, strings.Join(all, ", "))
}

func inMiB(n int64) float64 { return float64(n) / mib }
