package nar

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"ersatz/nixbase32"
)

// openDedup opens the .links of a store in path.
func openDedup(t *testing.T, path string) *Dedup {
	t.Helper()
	d, err := OpenDedup(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// linkName computes a file's name in .links by way of its whole archive.
func linkName(n node) string {
	h := NewHasher()
	h.Write(n.archive())
	sum := h.Sum()
	return nixbase32.Encode(sum[:])
}

// dedupFiles are files just below, at and above the limits of size that
// matter: where sharing begins, and where a file no longer comes in one piece.
func dedupFiles() map[string]node {
	files := map[string]node{}
	for _, size := range []int{0, DedupMinSize - 1, DedupMinSize, DedupMinSize + 3, bufSize / 2, bufSize/2 + 1, 2*bufSize + 5} {
		for _, exec := range []bool{false, true} {
			files[fmt.Sprintf("%d-%v", size, exec)] = node{exec: exec, content: strings.Repeat("x", size)}
		}
	}
	return files
}

// Each large file is in .links once, under the hash of its own archive, and
// all items share it.
func TestDedup(t *testing.T) {
	root, path := tempRoot(t)
	dedup := openDedup(t, path)
	tree := node{mode: fs.ModeDir}
	sub := node{mode: fs.ModeDir}
	for name, n := range dedupFiles() {
		tree.entries = append(tree.entries, entryNode{name, n})
		sub.entries = append(sub.entries, entryNode{name, n})
	}
	tree.entries = append(tree.entries, entryNode{"sub", sub})
	archive := tree.archive()
	for _, item := range []string{"one", "two"} {
		if _, err := Restore(bytes.NewReader(archive), root, item, RestoreOptions{Dedup: dedup}); err != nil {
			t.Fatal(err)
		}
		if got := readTree(t, filepath.Join(path, item)).archive(); !bytes.Equal(got, archive) {
			t.Fatalf("%s: another tree", item)
		}
	}
	// Items that are single files, in the store folder itself.
	for name, n := range dedupFiles() {
		if _, err := Restore(bytes.NewReader(n.archive()), root, name, RestoreOptions{Dedup: dedup}); err != nil {
			t.Fatal(err)
		}
	}
	// A name that is taken stays, though a link to the same file would do.
	for name, n := range dedupFiles() {
		if _, err := Restore(bytes.NewReader(n.archive()), root, name, RestoreOptions{Dedup: dedup}); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s again: %v", name, err)
		}
	}
	var want []string
	for name, n := range dedupFiles() {
		shared := len(n.content) >= DedupMinSize
		links := uint64(1)
		if shared {
			want = append(want, linkName(n))
			links = 6 // two items, twice in each, one item of its own, and .links
		}
		first, _ := inode(t, filepath.Join(path, name))
		for _, p := range []string{name, "one/" + name, "one/sub/" + name, "two/" + name, "two/sub/" + name} {
			ino, n := inode(t, filepath.Join(path, p))
			if (ino == first) != (shared || p == name) || n != links {
				t.Errorf("%s: inode %d, %d links, want %d, shared %v", p, ino, n, links, shared)
			}
		}
		if shared {
			if ino, _ := inode(t, filepath.Join(path, ".links", linkName(n))); ino != first {
				t.Errorf("%s: .links has another file", name)
			}
		}
	}
	list, err := os.ReadDir(filepath.Join(path, ".links"))
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != len(want) {
		t.Errorf("%d files in .links, want %d", len(list), len(want))
	}
}

// A large file that is all of an archive is shared by the hash of that, and so
// not before it has ended.
func TestDedupAlone(t *testing.T) {
	root, path := tempRoot(t)
	dedup := openDedup(t, path)
	n := node{content: strings.Repeat("y", 2*bufSize)}
	archive := n.archive()
	if _, err := Restore(bytes.NewReader(archive[:len(archive)-1]), root, "x", RestoreOptions{Dedup: dedup}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut off: %v", err)
	}
	wantEmpty(t, filepath.Join(path, ".links"))
	wantEmpty(t, path, ".links")
	if _, err := Restore(bytes.NewReader(archive), root, "x", RestoreOptions{Dedup: dedup}); err != nil {
		t.Fatal(err)
	}
	wantEmpty(t, filepath.Join(path, ".links"), linkName(n))
}

// A large file of which a part came before the caller's reader panicked is not
// shared.
func TestDedupPanic(t *testing.T) {
	root, path := tempRoot(t)
	n := node{mode: os.ModeDir, entries: []entryNode{{"f", node{content: strings.Repeat("z", 4*bufSize)}}}}
	r := io.MultiReader(bytes.NewReader(n.archive()[:2*bufSize]), readerFunc(func([]byte) (int, error) { panic("mine") }))
	func() {
		defer func() {
			if v := recover(); v != "mine" {
				t.Errorf("recovered %v", v)
			}
		}()
		_, err := Restore(r, root, "x", RestoreOptions{Dedup: openDedup(t, path)})
		t.Errorf("returned %v", err)
	}()
	wantEmpty(t, filepath.Join(path, ".links"))
}

// A name in .links with a file that cannot be the right one is not used, and
// not touched.
func TestDedupMistrust(t *testing.T) {
	for size, n := range map[string]node{
		"in one piece": {content: strings.Repeat("x", DedupMinSize)},
		"in many":      {content: strings.Repeat("x", bufSize)},
	} {
		right := []byte(n.content)
		for name, make := range map[string]func(p string) error{
			"shorter":    func(p string) error { return os.WriteFile(p, right[1:], 0o444) },
			"writable":   func(p string) error { return os.WriteFile(p, right, 0o644) },
			"executable": func(p string) error { return os.WriteFile(p, right, 0o555) },
			"folder":     func(p string) error { return os.Mkdir(p, 0o555) },
			"link":       func(p string) error { return os.Symlink("other", p) },
			"new time":   nil,
		} {
			t.Run(size+"/"+name, func(t *testing.T) {
				root, path := tempRoot(t)
				dedup := openDedup(t, path)
				p := filepath.Join(path, ".links", linkName(n))
				when := storeTime()
				if make == nil {
					when[1].Sec++
					make = func(p string) error { return os.WriteFile(p, right, 0o444) }
				}
				if err := errors.Join(make(p), unix.UtimesNanoAt(unix.AT_FDCWD, p, when[:], unix.AT_SYMLINK_NOFOLLOW)); err != nil {
					t.Fatal(err)
				}
				before, links := inode(t, p)
				if _, err := Restore(bytes.NewReader(n.archive()), root, "x", RestoreOptions{Dedup: dedup}); err != nil {
					t.Fatal(err)
				}
				if got := readTree(t, filepath.Join(path, "x")); got.content != n.content || got.exec {
					t.Error("another file")
				}
				if after, n := inode(t, p); after != before || n != links {
					t.Error(".links was touched")
				}
				wantEmpty(t, filepath.Join(path, ".links"), linkName(n))
				wantEmpty(t, path, ".links", "x")
			})
		}
	}
}

// A file system that has no room for one more link: the item is whole all the
// same.
func TestDedupNoSpace(t *testing.T) {
	// A tmpfs counts each hard link against its inodes: its own, .links, the
	// folder, the file.
	path := mountSmall(t, "nr_inodes=4")
	root := openRoot(t, path)
	dedup := openDedup(t, path)
	archive := build(magic, dir(entry("a", file(strings.Repeat("x", DedupMinSize)))))
	if _, err := Restore(bytes.NewReader(archive), root, "x", RestoreOptions{Dedup: dedup}); err != nil {
		t.Fatal(err)
	}
	if got := readTree(t, filepath.Join(path, "x")).archive(); !bytes.Equal(got, archive) {
		t.Fatal("another tree")
	}
	wantEmpty(t, filepath.Join(path, ".links"))
}

// A file in .links that can have no more links: the next item has its own.
func TestDedupTooManyLinks(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 65,000 links")
	}
	for name, content := range map[string]string{
		"in one piece": strings.Repeat("x", DedupMinSize),
		"in many":      strings.Repeat("x", bufSize),
	} {
		t.Run(name, func(t *testing.T) {
			root, path := tempRoot(t)
			dedup := openDedup(t, path)
			archive := build(magic, file(content))
			if _, err := Restore(bytes.NewReader(archive), root, "x", RestoreOptions{Dedup: dedup}); err != nil {
				t.Fatal(err)
			}
			if err := root.Mkdir("links", 0o755); err != nil {
				t.Fatal(err)
			}
			for i := 0; ; i++ {
				err := os.Link(filepath.Join(path, "x"), filepath.Join(path, "links", fmt.Sprint(i)))
				if errors.Is(err, unix.EMLINK) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if i > 65_000 {
					t.Skip("this file system allows more links than ext4")
				}
			}
			if _, err := Restore(bytes.NewReader(archive), root, "y", RestoreOptions{Dedup: dedup}); err != nil {
				t.Fatal(err)
			}
			if got := readTree(t, filepath.Join(path, "y")); got.content != content {
				t.Error("another file")
			}
			if _, n := inode(t, filepath.Join(path, "y")); n != 1 {
				t.Errorf("%d links", n)
			}
		})
	}
}

func TestDedupOtherDevice(t *testing.T) {
	other := mountSmall(t, "size=1m")
	_, path := tempRoot(t)
	dedup := openDedup(t, path)
	n := node{content: strings.Repeat("x", bufSize)}
	if _, err := Restore(bytes.NewReader(n.archive()), openRoot(t, other), "x", RestoreOptions{Dedup: dedup}); err != nil {
		t.Fatal(err)
	}
	wantEmpty(t, filepath.Join(path, ".links"))
	wantEmpty(t, other, "x")
}

// A refused archive takes its tree with it; what it has put into .links has
// the content that its name says, and stays.
func TestDedupRefused(t *testing.T) {
	root, path := tempRoot(t)
	dedup := openDedup(t, path)
	big := node{content: strings.Repeat("x", DedupMinSize)}
	archive := build(magic, dir(entry("a", big.parts()), entry("..", file(""))))
	if _, err := Restore(bytes.NewReader(archive), root, "x", RestoreOptions{Dedup: dedup}); err == nil {
		t.Fatal("no error")
	}
	wantEmpty(t, path, ".links")
	wantEmpty(t, filepath.Join(path, ".links"), linkName(big))
	if got := readTree(t, filepath.Join(path, ".links", linkName(big))); got.content != big.content {
		t.Error("another file")
	}
	// Cut in the middle of a large file, before its hash is known.
	half := node{content: strings.Repeat("y", 3*bufSize)}.archive()[:2*bufSize]
	if _, err := Restore(bytes.NewReader(half), root, "x", RestoreOptions{Dedup: dedup}); err == nil {
		t.Fatal("no error")
	}
	wantEmpty(t, path, ".links")
	wantEmpty(t, filepath.Join(path, ".links"), linkName(big))
}

// Entries whose names are those that a replacing link passes through.
func TestDedupTemporaryNames(t *testing.T) {
	root, path := tempRoot(t)
	dedup := openDedup(t, path)
	content := strings.Repeat("x", bufSize)
	archive := build(magic, dir(
		entry("a", file(content)), entry("a.link-0", file("0")), entry("a.link-1", dir()),
		entry("b", dir(entry("a.link-0", file("0")), entry("z", file(content)))),
		entry("z.link-0", file(content)), entry("z.link-1", file(content))))
	for _, item := range []string{"x", "x.link-0", "y", strings.Repeat("n", MaxName)} {
		if _, err := Restore(bytes.NewReader(archive), root, item, RestoreOptions{Dedup: dedup}); err != nil {
			t.Fatal(err)
		}
		if got := readTree(t, filepath.Join(path, item)).archive(); !bytes.Equal(got, archive) {
			t.Fatalf("%s: another tree", item)
		}
	}
	for _, item := range []string{"f.link-0", "f", strings.Repeat("m", MaxName)} {
		if _, err := Restore(bytes.NewReader(build(magic, file(content))), root, item, RestoreOptions{Dedup: dedup}); err != nil {
			t.Fatal(err)
		}
	}
	if _, n := inode(t, filepath.Join(path, "f")); n != 1+4*4+3 {
		t.Errorf("%d links", n)
	}
}

// Several restores at once share one Dedup, and one .links through two.
func TestDedupConcurrent(t *testing.T) {
	root, path := tempRoot(t)
	dedups := []*Dedup{openDedup(t, path), openDedup(t, path)}
	var entries [][]any
	for i := range 20 {
		entries = append(entries, entry(fmt.Sprintf("f%02d", i), file(strings.Repeat(string(rune('a'+i)), DedupMinSize*(1+3*(i%2)*10)))))
	}
	archive := build(magic, dir(entries...))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if _, err := Restore(bytes.NewReader(archive), root, fmt.Sprint("x", i), RestoreOptions{Dedup: dedups[i%2]}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i := range 8 {
		if got := readTree(t, filepath.Join(path, fmt.Sprint("x", i))).archive(); !bytes.Equal(got, archive) {
			t.Errorf("x%d: another tree", i)
		}
	}
	for i := range 20 {
		if _, n := inode(t, filepath.Join(path, "x0", fmt.Sprintf("f%02d", i))); n != 9 {
			t.Errorf("f%02d has %d links", i, n)
		}
	}
}

func TestOpenDedup(t *testing.T) {
	path := t.TempDir()
	for range 2 {
		d, err := OpenDedup(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := OpenDedup(filepath.Join(path, "no")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no store: %v", err)
	}
	bad := t.TempDir()
	if err := os.WriteFile(filepath.Join(bad, ".links"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenDedup(bad); err == nil {
		t.Error(".links is a file: no error")
	}
}
