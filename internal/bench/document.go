package bench

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// document is docs/benchmarks.md or docs/benchmarks-net.md: what it was
// measured on, and a text for each section by its name. Sections may have been
// measured at different times.
type document struct {
	docKind
	about string
	of    map[string]string
}

// docKind is what is always the same in a document.
type docKind struct {
	head    string   // Markdown
	command string   // that makes it
	names   []string // of the sections, in their order
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

const benchHead = "# Benchmarks\n\n" +
	"Made by `make bench`; `BENCH=NAME,NAME BENCH_WRITE=1 make bench` measures some sections anew, and each says when it was\n" +
	"measured. Trust the ratios: what is compared was run in turns on the same machine. Figures are medians, of five unless a\n" +
	"section says otherwise, with the least and the greatest. \"Ahead\" says how many times better ersatz' median is than that of\n" +
	"what is beside it: above 1, ersatz is. \"Of the limit\" says how much it reaches of what the machine can do at all, as measured\n" +
	"by a program that does nothing but the work which cannot be left out. [performance.md](performance.md) says what is measured\n" +
	"how, and what was learned.\n\n"

// netKind and benchKind return what is the same in each of the two documents.
func netKind() docKind {
	return docKind{head: netHead, command: "make bench-net", names: NetNames()}
}

func benchKind() docKind {
	return docKind{head: benchHead, command: "make bench", names: Names()}
}

// String prints the document, sections in their order.
func (d document) String() string {
	var b strings.Builder
	b.WriteString(d.head + d.about)
	for _, name := range d.names {
		if d.of[name] != "" {
			b.WriteString("\n" + d.of[name])
		}
	}
	return b.String()
}

// set puts the tables of a section, measured on a day, in place of what was
// there. more is said of how they were measured, if it is not empty. Without
// tables the section is as it was.
func (d document) set(name string, day time.Time, more string, tables []Table) {
	if len(tables) == 0 {
		return
	}
	var texts []string
	for _, t := range tables {
		measured := fmt.Sprintf("Measured on %s by `BENCH=%s %s`.", day.UTC().Format("2 January 2006"), name, d.command)
		if more != "" {
			measured += " " + more
		}
		t.Note = strings.TrimPrefix(t.Note+"\n\n"+measured, "\n\n")
		texts = append(texts, t.Markdown())
	}
	d.of[name] = strings.Join(texts, "\n")
}

// moveTo says that what is measured from now on is measured on another
// machine, if its processor is another one.
func (d *document) moveTo(about string) {
	const mark = " On another machine: "
	before := processor(d.about)
	if before != processor(about) {
		measured := d.measuredBy()
		for name, text := range d.of {
			lines := strings.SplitAfter(text, "\n")
			for i, line := range lines {
				if measured.MatchString(line) && !strings.Contains(line, mark) {
					lines[i] = strings.TrimSuffix(line, "\n") + mark + before + ".\n"
				}
			}
			d.of[name] = strings.Join(lines, "")
		}
	}
	d.about = about
}

// processor returns the processor in a list of what was measured on.
func processor(about string) string {
	_, line, _ := strings.Cut(about, "- processor: ")
	line, _, _ = strings.Cut(line, "\n")
	return line
}

func (k docKind) measuredBy() *regexp.Regexp {
	return regexp.MustCompile("`BENCH=([a-z]+) " + regexp.QuoteMeta(k.command) + "`")
}

// parse reads what String prints, of any text that is before the list of what
// it was measured on. What it does not know is left out.
func (k docKind) parse(text string) document {
	d := document{docKind: k, of: map[string]string{}}
	head, sections, _ := strings.Cut(text, "\n## ")
	if at := strings.Index(head, "\n- "); at >= 0 {
		d.about = strings.TrimRight(head[at+1:], "\n") + "\n"
	}
	if sections == "" {
		return d
	}
	measured := k.measuredBy()
	for _, s := range strings.Split(sections, "\n## ") {
		name := measured.FindStringSubmatch(s)
		if name == nil || !slices.Contains(k.names, name[1]) {
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
