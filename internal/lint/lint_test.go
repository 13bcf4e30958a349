// Package lint has no code of its own. Its tests read the source of all
// packages and compare it with what docs/design.md and the project's habits
// promise: layers, package comments, sizes, no hidden state, seeds.
package lint

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// root is the module's folder, seen from this package's.
const root = "../.."

// source is a Go file. Its package is the folder, "eris" or "cmd/ersatz".
type source struct {
	name  string // relative to root
	pkg   string
	test  bool
	lines int
	file  *ast.File
}

// imports returns the packages of this module that the file imports, and the
// others as they are written.
func (s source) imports() (own, other []string) {
	for _, i := range s.file.Imports {
		p := strings.Trim(i.Path.Value, `"`)
		if rest, ok := strings.CutPrefix(p, "ersatz/"); ok {
			own = append(own, rest)
		} else {
			other = append(other, p)
		}
	}
	return own, other
}

// sources parses all Go files of the module.
func sources(t *testing.T) []source {
	t.Helper()
	var out []source
	fset := token.NewFileSet()
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := d.Name()
		if d.IsDir() && name != root && (base == "testdata" || base == "bin" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_")) {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(base, ".go") {
			return nil
		}
		f, err := parser.ParseFile(fset, name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		rel := filepath.ToSlash(strings.TrimPrefix(name, root+string(filepath.Separator)))
		out = append(out, source{
			name: rel, pkg: path.Dir(rel), test: strings.HasSuffix(base, "_test.go"),
			lines: fset.File(f.FileStart).LineCount(), file: f,
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 50 {
		t.Fatalf("%d Go files below %s: the tests do not see the module", len(out), root)
	}
	return out
}
