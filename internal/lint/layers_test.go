package lint

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// layers is the table of docs/design.md, "Layers": the row of each package, or
// of all below a pattern that ends in "/...".
func layers(t *testing.T) map[string]int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs", "design.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## Layers\n")
	if !ok {
		t.Fatal(`docs/design.md has no section "Layers"`)
	}
	line := regexp.MustCompile(`(?m)^\| ([0-9]) [a-z ]+\|(.*)\|$`)
	name := regexp.MustCompile("`([^`]+)`")
	rows := map[string]int{}
	for _, m := range line.FindAllStringSubmatch(section, -1) {
		row, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range name.FindAllStringSubmatch(m[2], -1) {
			if _, twice := rows[p[1]]; twice {
				t.Errorf("docs/design.md: %s is in two rows", p[1])
			}
			rows[p[1]] = row
		}
	}
	if len(rows) < 20 {
		t.Fatalf("docs/design.md: %d packages in the table of layers", len(rows))
	}
	return rows
}

// rowOf returns the row of a package, -1 if no row has it.
func rowOf(rows map[string]int, pkg string) int {
	if row, ok := rows[pkg]; ok {
		return row
	}
	for dir := pkg; dir != "."; dir = path.Dir(dir) {
		if row, ok := rows[dir+"/..."]; ok {
			return row
		}
	}
	return -1
}

// testOnly reports whether a package is made for tests or measurements: its
// name says so.
func testOnly(pkg string) bool {
	if strings.HasPrefix(pkg, "internal/bench") {
		return true
	}
	base := path.Base(pkg)
	return strings.HasSuffix(base, "test") || base == "realguix" || base == "realnix" || base == "realsystemd" || base == "lint"
}

// TestLayers wants every package in a row, and imports that point to the own
// row or to rows above.
func TestLayers(t *testing.T) {
	rows := layers(t)
	used := map[string]bool{}
	for _, s := range sources(t) {
		row := rowOf(rows, s.pkg)
		used[s.pkg] = true
		if row < 0 {
			t.Errorf("%s: package %s is in no row of docs/design.md, \"Layers\"", s.name, s.pkg)
			continue
		}
		own, _ := s.imports()
		for _, p := range own {
			switch {
			case s.test:
			case rowOf(rows, p) > row:
				t.Errorf("%s: row %d imports %s of row %d", s.name, row, p, rowOf(rows, p))
			case testOnly(p) && !testOnly(s.pkg):
				t.Errorf("%s: imports %s, which is for tests", s.name, p)
			case transport(s.pkg) != "" && transport(p) != "" && transport(s.pkg) != transport(p):
				t.Errorf("%s: a transport imports another, %s", s.name, p)
			}
		}
	}
	for p := range rows {
		if !strings.HasSuffix(p, "/...") && !used[p] {
			t.Errorf("docs/design.md, \"Layers\", has %s, which is not there", p)
		}
	}
}

// transport returns the name of the transport that a package belongs to. What
// they share is none.
func transport(pkg string) string {
	name, ok := strings.CutPrefix(pkg, "internal/transport/")
	name, _, _ = strings.Cut(name, "/")
	if !ok || name == "httpclient" || name == "multicast" {
		return ""
	}
	return name
}

// TestSurroundings wants rows 0 and 1 to touch only what they are handed: no
// clock, no logger, no network, and the disk in two packages.
func TestSurroundings(t *testing.T) {
	rows := layers(t)
	disk := map[string]bool{"internal/durable": true, "nar": true}
	refused := map[string]bool{"log": true, "log/slog": true, "net": true, "net/http": true, "os/exec": true, "database/sql": true}
	for _, s := range sources(t) {
		if s.test || rowOf(rows, s.pkg) > 1 {
			continue
		}
		_, other := s.imports()
		for _, p := range other {
			switch {
			case refused[p], p == "os" && !disk[s.pkg], p == "time" && !disk[s.pkg]:
				t.Errorf("%s: row %d imports %s", s.name, rowOf(rows, s.pkg), p)
			}
		}
	}
}
