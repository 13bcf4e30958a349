package bench

import "strings"

// recall adds to each ratio of a table the one that the nth table of a section
// in an earlier document has in the row and column of the same names. Sizes
// and times may differ from run to run, and are left as they are.
func (t *Table) recall(section string, nth int) {
	before := ratios(section, nth)
	for c, column := range t.head() {
		if !isRatio(column) {
			continue
		}
		for _, row := range t.Rows {
			if was := before[[2]string{row[0], column}]; was != "" && was != "–" {
				row[c] += " (was " + was + ")"
			}
		}
	}
}

func isRatio(column string) bool { return column == aheadColumn || column == limitColumn }

// ratios reads the ratios in the nth table of a section, by row and column.
func ratios(section string, nth int) map[[2]string]string {
	all := map[[2]string]string{}
	tables := strings.Split("\n"+section, "\n## ")[1:]
	if nth >= len(tables) {
		return all
	}
	var head []string
	for line := range strings.Lines(tables[nth]) {
		line, ok := strings.CutPrefix(strings.TrimSuffix(line, " |\n"), "| ")
		if !ok {
			continue
		}
		cells := strings.Split(line, " | ")
		if head == nil {
			head = cells
			continue
		}
		for i, column := range head {
			if isRatio(column) && i < len(cells) {
				all[[2]string{cells[0], column}] = cells[i]
			}
		}
	}
	return all
}
