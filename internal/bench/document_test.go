package bench

import (
	"strings"
	"testing"
	"time"
)

// TestNetDocument: scenarios are replaced one by one, the others stay as they
// were, and the order is always the same.
func TestNetDocument(t *testing.T) {
	table := func(title string) Table {
		return Table{Title: title, Note: "A note.", Head: []string{"what"}, Rows: [][]string{{title}}}
	}
	day := time.Date(2026, 11, 26, 1, 0, 0, 0, time.UTC)
	d := document{docKind: netKind(), about: "- processor: old\n- memory: little\n", of: map[string]string{}}
	d.set("fast", day, "", []Table{table("Fast")})
	d.set("swarm", day, "", []Table{table("Swarm one"), table("Swarm two")})
	text := d.String()
	if again := netKind().parse(text).String(); again != text {
		t.Errorf("%s\n\nis read as\n\n%s", text, again)
	}
	if strings.Index(text, "## Swarm two") > strings.Index(text, "## Fast") || strings.Count(text, "`BENCH=swarm make bench-net`") != 2 ||
		!strings.Contains(text, "Measured on 26 November 2026") || !strings.HasSuffix(text, "|\n") {
		t.Error(text)
	}
	d = netKind().parse(text)
	d.set("swarm", day.AddDate(0, 0, 1), "", []Table{table("Other swarm")})
	if text = d.String(); strings.Contains(text, "Swarm one") || !strings.Contains(text, "27 November") || !strings.Contains(text, "## Fast") || !strings.Contains(text, "- memory: little\n\n## Other swarm") {
		t.Error(text)
	}
	for _, other := range []string{"", "# Something else\n", "## A table\n\nwithout a name\n"} {
		if d := netKind().parse(other); d.about != "" || len(d.of) != 0 {
			t.Errorf("%q: %+v", other, d)
		}
	}
	if d := netKind().parse(netHead + "- processor: p\n\n## T\n\n`BENCH=gone make bench-net`\n"); strings.Contains(d.String(), "gone") {
		t.Error("a scenario that is no more is printed")
	}
}
