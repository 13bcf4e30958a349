package bench

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// netDocument is docs/benchmarks-net.md: what it was measured on, and a text
// for each scenario by its name. Scenarios may have been measured at different
// times.
type netDocument struct {
	about string
	of    map[string]string
}

const netHead = "# Benchmarks over bad links\n\n" +
	"Made by `make bench-net`; BENCH=NAME,NAME measures some scenarios anew. Hosts are network namespaces on one machine, each\n" +
	"with a machine of its own that runs a real guix-daemon; rate is by tc's token bucket, loss by nftables in both directions,\n" +
	"delay is of each packet, those that open a connection too (internal/bench/netlab). TCP is Linux's CUBIC. Bytes are those of\n" +
	"Ethernet frames, counted where the origin's line begins: what the line then loses is in them. Times are those of `guix build`,\n" +
	"from its start to its end. Where there are several runs, figures are medians, with the least and the greatest. The origin is\n" +
	"ersatz publish with zstd:3 nars, also for stock Guix. Nodes run as a user without privileges beside the daemon, and memory is\n" +
	"the greatest that was resident, as Linux says at the end. A run that leaves an item missing, or other than it should be,\n" +
	"fails; so do a liar that is not named, and kills after which 5 % or more is fetched twice.\n\n"

// String prints the document, scenarios in their order.
func (d netDocument) String() string {
	var b strings.Builder
	b.WriteString(netHead + d.about)
	for _, name := range NetNames() {
		if d.of[name] != "" {
			b.WriteString("\n" + d.of[name])
		}
	}
	return b.String()
}

var measuredBy = regexp.MustCompile("`BENCH=([a-z]+) make bench-net`")

// set puts the tables of a scenario, measured on a day, in place of what was
// there.
func (d netDocument) set(name string, day time.Time, tables []Table) {
	var texts []string
	for _, t := range tables {
		t.Note += fmt.Sprintf("\n\nMeasured on %s by `BENCH=%s make bench-net`.", day.UTC().Format("2 January 2006"), name)
		texts = append(texts, t.Markdown())
	}
	d.of[name] = strings.Join(texts, "\n")
}

// parseNet reads what String prints, of any text that is before the list of
// what it was measured on. What it does not know is left out.
func parseNet(text string) netDocument {
	d := netDocument{of: map[string]string{}}
	head, sections, _ := strings.Cut(text, "\n## ")
	if at := strings.Index(head, "\n- "); at >= 0 {
		d.about = head[at+1:]
	}
	if sections == "" {
		return d
	}
	for _, s := range strings.Split(sections, "\n## ") {
		name := measuredBy.FindStringSubmatch(s)
		if name == nil {
			continue
		}
		s = "## " + strings.TrimRight(s, "\n") + "\n"
		if before := d.of[name[1]]; before != "" {
			s = before + "\n" + s
		}
		d.of[name[1]] = s
	}
	return d
}
