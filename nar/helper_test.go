package nar

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ersatz/internal/wire"
)

// raw is a part of an archive that build takes as it is.
type raw string

// build returns the bytes of an archive: strings become padded strings,
// integers lengths.
func build(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			b = wire.AppendString(b, p)
		case int:
			b = wire.AppendUint64(b, uint64(p))
		case uint64:
			b = wire.AppendUint64(b, p)
		case raw:
			b = append(b, p...)
		case []any:
			b = append(b, build(p...)...)
		default:
			panic(fmt.Sprintf("part of type %T", p))
		}
	}
	return b
}

// Parts of archives.
func file(content string) []any {
	return []any{"(", "type", "regular", "contents", content, ")"}
}

func link(target string) []any {
	return []any{"(", "type", "symlink", "target", target, ")"}
}

func entry(name string, node []any) []any {
	return []any{"entry", "(", "name", name, "node", node, ")"}
}

func dir(entries ...[]any) []any {
	parts := []any{"(", "type", "directory"}
	for _, e := range entries {
		parts = append(parts, e)
	}
	return append(parts, ")")
}

// node is a file tree in memory, for tests: its archive is written by other
// code than Dump's, its files by other code than Restore's.
type node struct {
	mode    fs.FileMode // 0, fs.ModeDir or fs.ModeSymlink
	exec    bool
	content string // or the link's target
	entries []entryNode
}

type entryNode struct {
	name string
	node
}

// randomTree returns a tree of about n entries.
func randomTree(r *rand.Rand, n int) node {
	switch {
	case n > 1 || r.IntN(4) == 0:
		d := node{mode: fs.ModeDir}
		used := map[string]bool{}
		for n--; n > 0; {
			size := 1
			if r.IntN(3) == 0 {
				size += r.IntN(n)
			}
			n -= size
			name := randomName(r)
			if used[name] {
				continue
			}
			used[name] = true
			d.entries = append(d.entries, entryNode{name, randomTree(r, size)})
		}
		return d
	case r.IntN(5) == 0:
		return node{mode: fs.ModeSymlink, content: strings.Repeat("../x", 1+r.IntN(20))}
	}
	sizes := []int{0, 1, 7, 8, 9, 100, DedupMinSize - 1, DedupMinSize, DedupMinSize + 1, 3 * DedupMinSize, bufSize / 2, bufSize, bufSize + 1}
	size := sizes[r.IntN(6)]
	if r.IntN(10) == 0 {
		size = sizes[r.IntN(len(sizes))]
	}
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return node{exec: r.IntN(3) == 0, content: string(b)}
}

// randomName returns a name, often one that sorts differently by bytes than by
// other rules.
func randomName(r *rand.Rand) string {
	chars := []string{"a", "b", "A", "B", "-", ".", "_", "é", "\xff", "\n", "0", "10", "~"}
	for {
		name := ""
		for range 1 + r.IntN(6) {
			name += chars[r.IntN(len(chars))]
		}
		if validName(name) == nil {
			return name
		}
	}
}

// parts returns the archive of n.
func (n node) parts() []any {
	switch {
	case n.mode == fs.ModeSymlink:
		return link(n.content)
	case n.mode == fs.ModeDir:
		sorted := append([]entryNode(nil), n.entries...)
		// As Guix does it, but written otherwise than in Dump.
		for i := range sorted {
			for j := i; j > 0 && bytes.Compare([]byte(sorted[j].name), []byte(sorted[j-1].name)) < 0; j-- {
				sorted[j], sorted[j-1] = sorted[j-1], sorted[j]
			}
		}
		var entries [][]any
		for _, e := range sorted {
			entries = append(entries, entry(e.name, e.parts()))
		}
		return dir(entries...)
	case n.exec:
		return []any{"(", "type", "regular", "executable", "", "contents", n.content, ")"}
	}
	return file(n.content)
}

func (n node) archive() []byte { return build(magic, n.parts()) }

// write makes the tree at path, with some permissions or other.
func (n node) write(t testing.TB, path string) {
	t.Helper()
	var err error
	switch {
	case n.mode == fs.ModeSymlink:
		err = os.Symlink(n.content, path)
	case n.mode == fs.ModeDir:
		err = os.Mkdir(path, 0o750)
		for _, e := range n.entries {
			e.write(t, filepath.Join(path, e.name))
		}
	case n.exec:
		err = os.WriteFile(path, []byte(n.content), 0o700)
	default:
		err = os.WriteFile(path, []byte(n.content), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// readTree reads what is at path, and checks that its metadata is a store
// item's.
func readTree(t testing.TB, path string) node {
	t.Helper()
	fi, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := fi.ModTime(); got.Unix() != 1 || got.Nanosecond() != 0 {
		t.Errorf("%s: modification time %v", path, got)
	}
	want := fs.FileMode(0o444)
	n := node{mode: fi.Mode().Type()}
	switch n.mode {
	case fs.ModeSymlink:
		want = 0o777
		n.content, err = os.Readlink(path)
	case fs.ModeDir:
		want = 0o555
		var list []os.DirEntry
		list, err = os.ReadDir(path)
		for _, e := range list {
			n.entries = append(n.entries, entryNode{e.Name(), readTree(t, filepath.Join(path, e.Name()))})
		}
	default:
		if n.exec = fi.Mode()&0o100 != 0; n.exec {
			want = 0o555
		}
		var b []byte
		b, err = os.ReadFile(path)
		n.content = string(b)
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := fi.Mode() &^ fs.ModeType; got != want {
		t.Errorf("%s: permissions %v, want %v", path, got, want)
	}
	return n
}

// tempRoot returns a folder, open, and its path. Trees of store items in it
// are removed with it.
func tempRoot(t testing.TB) (*os.Root, string) {
	t.Helper()
	path := t.TempDir()
	return openRoot(t, path), path
}

func openRoot(t testing.TB, path string) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		list, err := os.ReadDir(path)
		if err != nil {
			t.Error(err)
		}
		for _, e := range list {
			if err := RemoveAll(root, e.Name()); err != nil {
				t.Error(err)
			}
		}
		root.Close()
	})
	return root
}

// wantEmpty checks that a folder holds nothing but keep.
func wantEmpty(t testing.TB, path string, keep ...string) {
	t.Helper()
	list, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range list {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(keep, " ") {
		t.Errorf("the folder holds %q, want %q", got, keep)
	}
}

func inode(t testing.TB, path string) (ino, links uint64) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino, uint64(st.Nlink)
}
