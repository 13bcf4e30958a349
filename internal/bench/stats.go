// Package bench measures ersatz beside what is in use without it (guix publish
// and guix substitute of a real Guix 1.5.0, nginx, other libraries, one request
// per block) and beside what no program can exceed on the machine. What is
// compared is run in turns, and told by medians: the ratios hold on any
// machine, the figures on none but this one.
package bench

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// series are the figures of one thing, measured again and again.
type series []float64

// median returns the middle, or NaN of none.
func (s series) median() float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(s))
	mid := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[mid]
	}
	return (sorted[mid-1] + sorted[mid]) / 2
}

// unit says how a figure is printed, and which of two is better.
type unit struct {
	name   string
	scale  float64 // of the printed figure to the measured one
	faster bool    // more is better
}

// The units of what is measured.
var (
	seconds   = unit{name: "s", scale: 1}
	mebibytes = unit{name: "MiB", scale: 1.0 / (1 << 20)}
	perSecond = unit{name: "/s", scale: 1, faster: true}
	megabytes = unit{name: "MB/s", scale: 1e-6, faster: true}
)

// number prints v with three digits that count.
func number(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v):
		return "–"
	case a >= 1e4:
		return fmt.Sprintf("%.0f", math.Round(v/10)*10)
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// cell prints the median of s, and its least and greatest figure if there are
// several.
func (u unit) cell(s series) string {
	if len(s) == 0 {
		return "–"
	}
	text := number(s.median()*u.scale) + " " + u.name
	if len(s) > 1 {
		text += fmt.Sprintf(" [%s, %s]", number(slices.Min(s)*u.scale), number(slices.Max(s)*u.scale))
	}
	return text
}

// one prints a figure that was measured once.
func (u unit) one(v float64) string { return u.cell(series{v}) }

// ahead prints how many times better ours is than other, by the medians.
func (u unit) ahead(ours, other series) string {
	ratio := other.median() / ours.median()
	if u.faster {
		ratio = 1 / ratio
	}
	if math.IsNaN(ratio) || math.IsInf(ratio, 0) {
		return "–"
	}
	return fmt.Sprintf("%.2f×", ratio)
}

// ofLimit prints how much of the limit is reached, by the medians, in per
// cent.
func (u unit) ofLimit(ours, limit series) string {
	part := 100 * ours.median() / limit.median()
	if !u.faster {
		part = 1e4 / part
	}
	if math.IsNaN(part) || math.IsInf(part, 0) {
		return "–"
	}
	return number(part) + " %"
}

// Table is a table of figures, with what is to be known of them.
type Table struct {
	Title string
	Note  string // Markdown
	// Peer and Limit name what is measured beside ersatz, for rows added by
	// versus: what others use, and what no program can exceed. Default: there
	// are no such columns.
	Peer, Limit string
	// Head is the first row. Default: as Peer and Limit say.
	Head []string
	Rows [][]string
}

// Columns of ratios.
const (
	aheadColumn = "ersatz ahead"
	limitColumn = "of the limit"
)

// head returns the first row.
func (t Table) head() []string {
	if t.Head != nil {
		return t.Head
	}
	head := []string{"what", "ersatz"}
	if t.Peer != "" {
		head = append(head, t.Peer, aheadColumn)
	}
	if t.Limit != "" {
		head = append(head, t.Limit, limitColumn)
	}
	return head
}

// versus adds a row: what, ours, the peer and how much ours is ahead, the
// limit and how much of it is reached. A peer or limit that was not measured
// is an empty series.
func (t *Table) versus(what string, u unit, ours, peer, limit series) {
	row := []string{what, u.cell(ours)}
	if t.Peer != "" {
		row = append(row, u.cell(peer), u.ahead(ours, peer))
	}
	if t.Limit != "" {
		row = append(row, u.cell(limit), u.ofLimit(ours, limit))
	}
	t.Rows = append(t.Rows, row)
}

// compare adds a row: what, ours, the other, and how much ours is ahead.
func (t *Table) compare(what string, u unit, ours, other series) {
	t.Rows = append(t.Rows, []string{what, u.cell(ours), u.cell(other), u.ahead(ours, other)})
}

// Markdown returns the table as a section.
func (t Table) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s\n\n", t.Title)
	if t.Note != "" {
		fmt.Fprintf(&b, "%s\n\n", t.Note)
	}
	line := func(cells []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	head := t.head()
	line(head)
	line(slices.Repeat([]string{"---"}, len(head)))
	for _, r := range t.Rows {
		line(r)
	}
	return b.String()
}
