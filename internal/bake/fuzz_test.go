package bake

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzRoots reads lists of store paths. What is read prints as a list that
// reads the same.
func FuzzRoots(f *testing.F) {
	const item = "/gnu/store/khaaib6s836bk5kbik239hlk6n6ianc4-hello-2.11"
	for _, text := range []string{
		"", item, item + "\n", "# a list\n\n " + item + "/bin/hello \n" + item, "/etc/passwd\n", item + "/../../etc\n",
		strings.Repeat("x", 70_000), "/gnu/store/\n",
	} {
		f.Add(text)
	}
	name := filepath.Join(f.TempDir(), "roots")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		roots, err := readRoots("/gnu/store", name)
		if err != nil {
			return
		}
		var again strings.Builder
		for _, p := range roots {
			if p.Dir != "/gnu/store" {
				t.Errorf("%s is not in the store", p)
			}
			again.WriteString(p.String() + "\n")
		}
		if err := os.WriteFile(name, []byte(again.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		twice, err := readRoots("/gnu/store", name)
		if err != nil || len(twice) != len(roots) {
			t.Errorf("%d roots, then %d, %v", len(roots), len(twice), err)
		}
	})
}
