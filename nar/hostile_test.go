package nar

import (
	"bytes"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"testing/iotest"
)

// nested returns an archive of n directories, one within the other.
func nested(n int) []byte {
	node := dir()
	for range n - 1 {
		node = dir(entry("d", node))
	}
	return build(magic, node)
}

// hostile is every archive that is refused by its form, and the error.
var hostile = []struct {
	name    string
	archive []byte
	err     string
	is      error // matched too, if not nil
}{
	{"nothing", nil, `nar: byte 0, at the root: archive ends too early`, io.ErrUnexpectedEOF},
	{"wrong magic", build("nix-archive-2", file("")), `nar: byte 0, at the root: want "nix-archive-1", not "nix-archive-2"`, nil},
	{"long magic", build("nix-archive-10", file("")), `nar: byte 0, at the root: string of 14 bytes, limit 13`, nil},
	{"huge token", build(uint64(math.MaxUint64)), `nar: byte 0, at the root: string of 18446744073709551615 bytes, limit 13`, nil},
	{"no node", build(magic), `nar: byte 24, at the root: archive ends too early`, io.ErrUnexpectedEOF},
	{"padding of a token", build(magic, raw("\x01\x00\x00\x00\x00\x00\x00\x00(\x00\x00\x00\x00\x00\x00!")), `nar: byte 24, at the root: non-zero padding after "("`, nil},
	{"no parenthesis", build(magic, "type"), `nar: byte 24, at the root: want "(", not "type"`, nil},
	{"no type", build(magic, "(", "regular"), `nar: byte 40, at the root: want "type", not "regular"`, nil},
	{"unknown type", build(magic, "(", "type", "socket", ")"), `nar: byte 56, at the root: unknown type "socket"`, nil},

	{"file without contents", build(magic, "(", "type", "regular", ")"), `nar: byte 72, at the root: want "contents", not ")"`, nil},
	{"executable without contents", build(magic, "(", "type", "regular", "executable", "", ")"), `nar: byte 104, at the root: want "contents", not ")"`, nil},
	{"executable with a value", build(magic, "(", "type", "regular", "executable", "x", "contents", "", ")"), `nar: byte 96, at the root: want "", not "x"`, nil},
	{"executable twice", build(magic, "(", "type", "regular", "executable", "", "executable", "", "contents", "", ")"), `nar: byte 104, at the root: want "contents", not "executable"`, nil},
	{"contents twice", build(magic, "(", "type", "regular", "contents", "", "contents", "", ")"), `nar: byte 96, at the root: want ")", not "contents"`, nil},
	{"contents before executable", build(magic, "(", "type", "regular", "contents", "", "executable", "", ")"), `nar: byte 96, at the root: want ")", not "executable"`, nil},
	{"short contents", build(magic, "(", "type", "regular", "contents", 100, raw("abc")), `nar: byte 99, at the root: archive ends too early`, io.ErrUnexpectedEOF},
	{"no length", build(magic, "(", "type", "regular", "contents", raw("\x01\x00")), `nar: byte 88, at the root: archive ends too early`, io.ErrUnexpectedEOF},
	{"length of 2^63", build(magic, "(", "type", "regular", "contents", uint64(1<<63)), `nar: byte 88, at the root: content of 9223372036854775808 bytes`, nil},
	{"length of 2^64-1", build(magic, "(", "type", "regular", "contents", uint64(math.MaxUint64)), `nar: byte 88, at the root: content of 18446744073709551615 bytes`, nil},
	{"length of 2^63-9", build(magic, "(", "type", "regular", "contents", uint64(math.MaxInt64-8)), `nar: byte 88, at the root: content of 9223372036854775799 bytes goes beyond the archive's bound of 9223372036854775807 bytes`, ErrTooLarge},
	{"padding of contents", build(magic, "(", "type", "regular", "contents", 1, raw("a\x00\x00\x00\x00\x00\x00\x01"), ")"), `nar: byte 97, at the root: non-zero padding`, nil},
	{"short padding", build(magic, "(", "type", "regular", "contents", 1, raw("a\x00\x00")), `nar: byte 97, at the root: archive ends too early`, io.ErrUnexpectedEOF},
	{"file not closed", build(magic, "(", "type", "regular", "contents", ""), `nar: byte 96, at the root: archive ends too early`, io.ErrUnexpectedEOF},

	{"link without a target", build(magic, "(", "type", "symlink", ")"), `nar: byte 72, at the root: want "target", not ")"`, nil},
	{"empty target", build(magic, link("")), `nar: byte 88, at the root: empty link target`, nil},
	{"long target", build(magic, link(strings.Repeat("x", MaxTarget+1))), `nar: byte 88, at the root: string of 4096 bytes, limit 4095`, nil},
	{"NUL in a target", build(magic, link("a\x00b")), `nar: byte 88, at the root: link target "a\x00b" contains NUL`, nil},
	{"executable link", build(magic, "(", "type", "symlink", "executable", "", "target", "x", ")"), `nar: byte 72, at the root: want "target", not "executable"`, nil},
	{"target twice", build(magic, "(", "type", "symlink", "target", "x", "target", "y", ")"), `nar: byte 104, at the root: want ")", not "target"`, nil},

	{"empty name", build(magic, dir(entry("", file("")))), `nar: byte 128, at the root: empty name`, nil},
	{"dot", build(magic, dir(entry(".", file("")))), `nar: byte 128, at the root: name "."`, nil},
	{"dot dot", build(magic, dir(entry("..", file("")))), `nar: byte 128, at the root: name ".."`, nil},
	{"slash", build(magic, dir(entry("a/b", file("")))), `nar: byte 128, at the root: name "a/b" contains '/'`, nil},
	{"absolute", build(magic, dir(entry("/etc", file("")))), `nar: byte 128, at the root: name "/etc" contains '/'`, nil},
	{"climbing", build(magic, dir(entry("../../x", file("")))), `nar: byte 128, at the root: name "../../x" contains '/'`, nil},
	{"NUL in a name", build(magic, dir(entry("a\x00", file("")))), `nar: byte 128, at the root: name "a\x00" contains '\x00'`, nil},
	{"long name", build(magic, dir(entry(strings.Repeat("x", MaxName+1), file("")))), `nar: byte 128, at the root: string of 256 bytes, limit 255`, nil},
	{"padding of a name", build(magic, "(", "type", "directory", "entry", "(", "name", 1, raw("ab\x00\x00\x00\x00\x00\x00")), `nar: byte 128, at the root: non-zero padding after "a"`, nil},
	{"duplicate", build(magic, dir(entry("a", file("1")), entry("a", file("2")))), `nar: byte 320, at the root: duplicate name "a"`, nil},
	{"link, then a file through it", build(magic, dir(entry("a", link("/tmp")), entry("a", dir(entry("x", file("")))))), `nar: byte 320, at the root: duplicate name "a"`, nil},
	{"unsorted", build(magic, dir(entry("b", file("")), entry("a", file("")))), `nar: byte 312, at the root: name "a" after "b"`, nil},
	{"sorted without case", build(magic, dir(entry("a", file("")), entry("B", file("")))), `nar: byte 312, at the root: name "B" after "a"`, nil},
	{"unsorted below", build(magic, dir(entry("d", dir(entry("z", dir()), entry("y", dir()))))), `nar: byte 432, in "d": name "y" after "z"`, nil},
	{"duplicate folders", build(magic, dir(entry("d", dir()), entry("d", dir()))), `nar: byte 296, at the root: duplicate name "d"`, nil},
	{"entry without a name", build(magic, "(", "type", "directory", "entry", "(", "node", file("")), `nar: byte 112, at the root: want "name", not "node"`, nil},
	{"node before name", build(magic, "(", "type", "directory", "entry", "(", "node", file(""), "name", "x"), `nar: byte 112, at the root: want "name", not "node"`, nil},
	{"entry without a node", build(magic, "(", "type", "directory", "entry", "(", "name", "x", ")"), `nar: byte 144, in "x": want "node", not ")"`, nil},
	{"entry not opened", build(magic, "(", "type", "directory", "entry", "name"), `nar: byte 96, at the root: want "(", not "name"`, nil},
	{"entry not closed", build(magic, "(", "type", "directory", "entry", "(", "name", "x", "node", dir(), "entry"), `nar: byte 232, in "x": want ")", not "entry"`, nil},
	{"file in an entry not closed", build(magic, "(", "type", "directory", "entry", "(", "name", "x", "node", file(""), "entry"), `nar: byte 248, in "x": want ")", not "entry"`, nil},
	{"executable folder", build(magic, "(", "type", "directory", "executable", "", ")"), `nar: byte 80, at the root: want "entry" or ")", not "executable"`, nil},
	{"folder not closed", build(magic, "(", "type", "directory"), `nar: byte 80, at the root: archive ends too early`, io.ErrUnexpectedEOF},
	{"nested too deep", nested(MaxDepth + 1), `nar: byte 34872, in "` + strings.Repeat("d/", MaxDepth-1) + `d": nested deeper than 256 directories`, nil},

	{"a byte after the end", build(magic, file(""), raw("\x00")), `nar: byte 112, at the root: bytes after the archive's end`, nil},
	{"a second archive", build(magic, file(""), magic, file("")), `nar: byte 112, at the root: bytes after the archive's end`, nil},
	{"a byte after a folder", build(magic, dir(entry("x", file(""))), raw("\n")), `nar: byte 280, at the root: bytes after the archive's end`, nil},
}

func TestHostile(t *testing.T) {
	for _, tt := range hostile {
		t.Run(tt.name, func(t *testing.T) {
			check := func(entry string, info Info, err error) {
				t.Helper()
				var se *SyntaxError
				if !errors.As(err, &se) || err.Error() != tt.err || info != (Info{}) {
					t.Errorf("%s: %v, %v\nwant %s", entry, info, err, tt.err)
				}
				if tt.is != nil && !errors.Is(err, tt.is) {
					t.Errorf("%s: %v does not match %v", entry, err, tt.is)
				}
			}
			info, err := Verify(bytes.NewReader(tt.archive))
			check("Verify", info, err)
			info, err = Verify(iotest.OneByteReader(bytes.NewReader(tt.archive)))
			check("Verify, a byte at a time", info, err)
			info, err = List(bytes.NewReader(tt.archive), func(Entry) error { return nil })
			check("List", info, err)
			root, path := tempRoot(t)
			info, err = Restore(bytes.NewReader(tt.archive), root, "x", RestoreOptions{})
			check("Restore", info, err)
			wantEmpty(t, path)
		})
	}
}

// Every beginning of an archive is refused, and leaves nothing.
func TestTruncated(t *testing.T) {
	archive := smallItem.archive()
	root, path := memoryRoot(t)
	step := 7 // has no divisor in common with the padding
	if testing.Short() {
		step = 31
	}
	for n := 0; n < len(archive); n += step {
		for entry, read := range map[string]func(io.Reader) (Info, error){
			"Verify":  Verify,
			"Restore": func(r io.Reader) (Info, error) { return Restore(r, root, "x", RestoreOptions{}) },
		} {
			if _, err := read(bytes.NewReader(archive[:n])); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("%s of %d bytes: %v", entry, n, err)
			}
		}
	}
	wantEmpty(t, path)
}

func TestMaxSize(t *testing.T) {
	for name, archive := range map[string][]byte{
		"small":    smallItem.archive(),
		"big file": build(magic, file(strings.Repeat("x", 3*bufSize))),
		"nothing":  build(magic, file("")),
	} {
		t.Run(name, func(t *testing.T) {
			root, path := tempRoot(t)
			size := int64(len(archive))
			for _, max := range []int64{1, 8, 64, size / 2, size - 9, size - 8, size - 1} {
				r := &countReader{r: bytes.NewReader(archive)}
				_, err := Restore(r, root, "x", RestoreOptions{MaxSize: max})
				var se *SyntaxError
				if !errors.Is(err, ErrTooLarge) || !errors.As(err, &se) {
					t.Errorf("bound %d of %d: %v", max, size, err)
				}
				if r.n > max {
					t.Errorf("bound %d: read %d bytes", max, r.n)
				}
			}
			wantEmpty(t, path)
			for _, max := range []int64{size, size + 1} {
				if _, err := Restore(bytes.NewReader(archive), root, "x", RestoreOptions{MaxSize: max}); err != nil {
					t.Errorf("bound %d of %d: %v", max, size, err)
				}
				if err := RemoveAll(root, "x"); err != nil {
					t.Error(err)
				}
			}
			// At the bound there may be more: that is not read either, but for
			// the byte that tells.
			r := &countReader{r: io.MultiReader(bytes.NewReader(archive), strings.NewReader("more"))}
			if _, err := Restore(r, root, "x", RestoreOptions{MaxSize: size}); err == nil || r.n > size+1 {
				t.Errorf("trailing bytes: read %d, %v", r.n, err)
			}
			wantEmpty(t, path)
		})
	}
}

// A file whose length goes beyond the bound is refused before any of it is
// written, and even made.
func TestMaxSizeBeforeWriting(t *testing.T) {
	head := build(magic, "(", "type", "directory", "entry", "(", "name", "big", "node", "(", "type", "regular", "contents", uint64(1<<40))
	zeros := iotest.ErrReader(errors.New("the content is read"))
	root, path := tempRoot(t)
	_, err := Restore(io.MultiReader(bytes.NewReader(head), zeros), root, "x", RestoreOptions{MaxSize: 1 << 20})
	want := `nar: byte 224, in "big": content of 1099511627776 bytes goes beyond the archive's bound of 1048576 bytes`
	if err == nil || err.Error() != want {
		t.Fatalf("got %v\nwant %s", err, want)
	}
	wantEmpty(t, path)
}

func TestMaxDepth(t *testing.T) {
	root, path := memoryRoot(t)
	for _, tt := range []struct{ depth, limit int }{{MaxDepth, 0}, {MaxDepth, MaxDepth + 1}, {3, 3}} {
		if _, err := Restore(bytes.NewReader(nested(tt.depth)), root, "x", RestoreOptions{MaxDepth: tt.limit}); err != nil {
			t.Errorf("%d directories, limit %d: %v", tt.depth, tt.limit, err)
		}
		if _, err := Dump(io.Discard, path+"/x"); err != nil {
			t.Errorf("%d directories: %v", tt.depth, err)
		}
		if err := RemoveAll(root, "x"); err != nil {
			t.Error(err)
		}
		if _, err := Restore(bytes.NewReader(nested(tt.depth+1)), root, "x", RestoreOptions{MaxDepth: tt.limit}); err == nil {
			t.Errorf("%d directories, limit %d: no error", tt.depth+1, tt.limit)
		}
		wantEmpty(t, path)
	}
}

// countReader counts what is read.
type countReader struct {
	r io.Reader
	n int64
}

func (c *countReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
