package lint

import (
	"go/ast"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// maxLines bounds a file, generated ones aside.
const maxLines = 600

func TestFileSizes(t *testing.T) {
	for _, s := range sources(t) {
		if s.lines > maxLines && !ast.IsGenerated(s.file) {
			t.Errorf("%s: %d lines, limit %d", s.name, s.lines, maxLines)
		}
	}
}

// TestPackageComments wants one file of each package to say what it is.
func TestPackageComments(t *testing.T) {
	said := map[string]bool{}
	for _, s := range sources(t) {
		if s.test && s.pkg != "internal/lint" {
			continue
		}
		said[s.pkg] = said[s.pkg] || s.file.Doc != nil && strings.TrimSpace(s.file.Doc.Text()) != ""
	}
	for pkg, ok := range said {
		if !ok {
			t.Errorf("%s: no package comment", pkg)
		}
	}
}

// TestTestsExist wants tests in each package that is not itself for tests.
func TestTestsExist(t *testing.T) {
	code, tests := map[string]int{}, map[string]int{}
	for _, s := range sources(t) {
		if s.test {
			tests[s.pkg] += s.lines
		} else {
			code[s.pkg] += s.lines
		}
	}
	for pkg := range code {
		if tests[pkg] == 0 && !testOnly(pkg) {
			t.Errorf("%s: no tests", pkg)
		}
	}
}

// TestNoInit refuses what runs, or is shared, without being asked for: init
// functions, and the loggers and the HTTP client of the standard library that
// all packages share.
func TestNoInit(t *testing.T) {
	shared := map[string]bool{
		"slog.Default": true, "slog.SetDefault": true, "slog.Info": true, "slog.Warn": true, "slog.Error": true, "slog.Debug": true,
		"log.Print": true, "log.Printf": true, "log.Println": true, "log.Fatal": true, "log.Fatalf": true, "log.SetOutput": true,
		"http.DefaultClient": true, "http.Get": true, "http.Post": true, "http.Head": true,
	}
	for _, s := range sources(t) {
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				t.Errorf("%s: has an init function", s.name)
			}
		}
		if s.test {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := sel.X.(*ast.Ident); ok && shared[x.Name+"."+sel.Sel.Name] {
				t.Errorf("%s: uses the global %s.%s", s.name, x.Name, sel.Sel.Name)
			}
			return true
		})
	}
}

// TestNoSleep: time in tests is testing/synctest's. Programs of the outside
// world, which no fake clock moves, are waited for in packages for tests.
func TestNoSleep(t *testing.T) {
	for _, s := range sources(t) {
		if !s.test || testOnly(s.pkg) || uses(s.file, "synctest", "Test") {
			continue
		}
		if uses(s.file, "time", "Sleep") {
			t.Errorf("%s: sleeps in real time", s.name)
		}
	}
}

// uses reports whether a file has pkg.name.
func uses(f ast.Node, pkg, name string) (found bool) {
	ast.Inspect(f, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok && sel.Sel.Name == name {
			x, ok := sel.X.(*ast.Ident)
			found = found || ok && x.Name == pkg
		}
		return true
	})
	return found
}

// TestNoNotes refuses what was left for later.
func TestNoNotes(t *testing.T) {
	for _, s := range sources(t) {
		for _, g := range s.file.Comments {
			for _, c := range g.List {
				for _, word := range []string{"TO" + "DO", "FIX" + "ME", "X" + "XX"} {
					if strings.Contains(c.Text, word+" ") || strings.Contains(c.Text, word+":") {
						t.Errorf("%s: %q", s.name, c.Text)
					}
				}
			}
		}
	}
}

// TestSeeds wants seeds for every fuzz target: calls of its own, a function
// that is handed the *testing.F, or files. scripts/fuzz.sh counts them.
func TestSeeds(t *testing.T) {
	targets := 0
	for _, s := range sources(t) {
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || !s.test || f.Recv != nil || !strings.HasPrefix(f.Name.Name, "Fuzz") {
				continue
			}
			targets++
			if !seeded(f) && !hasFiles(filepath.Join(root, s.pkg, "testdata", "fuzz", f.Name.Name)) {
				t.Errorf("%s: %s has no seeds", s.name, f.Name.Name)
			}
		}
	}
	if targets < 20 {
		t.Errorf("%d fuzz targets", targets)
	}
}

// seeded reports whether a fuzz target adds seeds, or has a helper do so.
func seeded(f *ast.FuncDecl) (found bool) {
	if len(f.Type.Params.List) != 1 || len(f.Type.Params.List[0].Names) != 1 {
		return false
	}
	name := f.Type.Params.List[0].Names[0].Name
	is := func(e ast.Expr) bool { x, ok := e.(*ast.Ident); return ok && x.Name == name }
	ast.Inspect(f.Body, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if sel, ok := call.Fun.(*ast.SelectorExpr); ok && is(sel.X) && sel.Sel.Name == "Add" {
			found = true
		}
		for _, arg := range call.Args {
			found = found || is(arg)
		}
		return true
	})
	return found
}

func hasFiles(dir string) bool {
	entries, err := os.ReadDir(dir)
	return err == nil && len(entries) > 0
}

// TestErrorsCompared refuses == and != with an error that has a name: a
// wrapped one would not be found. Methods named Is are where errors.Is asks,
// and a Reader says io.EOF itself or does not mean it.
func TestErrorsCompared(t *testing.T) {
	name := regexp.MustCompile(`^(Err[A-Z]\w*|EOF)$`)
	named := func(e ast.Expr) bool {
		switch e := e.(type) {
		case *ast.SelectorExpr:
			return name.MatchString(e.Sel.Name)
		case *ast.Ident:
			return name.MatchString(e.Name)
		}
		return false
	}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && (f.Name.Name == "Is" || f.Name.Name == "isEOF") {
				continue
			}
			ast.Inspect(d, func(n ast.Node) bool {
				b, ok := n.(*ast.BinaryExpr)
				if ok && (b.Op == token.EQL || b.Op == token.NEQ) && (named(b.X) || named(b.Y)) {
					t.Errorf("%s: an error is compared with %s, not by errors.Is", s.name, b.Op)
				}
				return true
			})
		}
	}
}
