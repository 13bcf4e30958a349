package nar

import (
	"bytes"
	"encoding/hex"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"ersatz/nixbase32"
)

// smallItem is the store item ersatz-small-1.0, whose narinfo a real guix
// publish 1.5.0 has signed: NarSize 3328, NarHash as below.
var smallItem = func() node {
	file := func(s string) node { return node{content: s} }
	folder := func(entries ...entryNode) node { return node{mode: fs.ModeDir, entries: entries} }
	link := func(s string) node { return node{mode: fs.ModeSymlink, content: s} }
	return folder(
		entryNode{"abs", link("/nonexistent")},
		entryNode{"bin", folder(
			entryNode{"hello", node{exec: true, content: "#!/bin/sh\necho hello\n"}},
			entryNode{"hi", link("hello")})},
		entryNode{"dep", link("/gnu/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa1-ersatz-dep-1.0")},
		entryNode{"share", folder(
			entryNode{"UPPER", file("x")},
			entryNode{"doc", folder(
				entryNode{"README", file(strings.Repeat("doc for the small item\n", 40))},
				entryNode{"empty", file("")})},
			entryNode{"emptydir", folder()},
			entryNode{"lower-é", file("utf8 name\n")})})
}()

const (
	smallHash = "1hhr79fmi8vpq527nh2ssqzn1f7b4qp0i0z3a9x7zwrmxcsiz58l"
	smallSize = 3328
)

// The archives of Guix and Nix, through every entry point.
func TestVectors(t *testing.T) {
	for _, tt := range []struct {
		name string
		tree node
		hash string // nix-base32 or, of 64 digits, hex
		size int64
	}{
		{"guix ersatz-small-1.0", smallItem, smallHash, smallSize},
		// Made by nix-store --dump of Nix 2.8.0, hashed by sha256sum.
		{"empty file", node{}, "77ac62e2629d8e45f624589c0c8bf99e24b3a722349bf1e79bc186008534e246", 112},
		{"file", node{content: "x"}, "2ca0b8ce996f865db37619bfe91023559305aad8158042fc6ddb0ef1d43c5b67", 120},
		{"program", node{exec: true, content: "12345678"}, "01b7710edbd991774abda7f59f0d28dc58f7d4696212cf927664bd32900b6de2", 152},
		{"link", node{mode: fs.ModeSymlink, content: "to"}, "189bd17e34e0f7fdb4e0a7caf89255036a2eb839990cede6acb02ae576ace1c9", 120},
		{"empty folder", node{mode: fs.ModeDir}, "a50a5ab6d992f5598edd92105059fae9acfc192981e08bd88534c2167e92526a", 96},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := tt.hash
			check := func(entry string, info Info, err error) {
				t.Helper()
				got := nixbase32.Encode(info.Hash[:])
				if len(want) == 64 {
					got = hex.EncodeToString(info.Hash[:])
				}
				if err != nil || got != want || info.Size != tt.size {
					t.Errorf("%s: %s, %d bytes, %v, want %s, %d", entry, got, info.Size, err, want, tt.size)
				}
			}
			root, path := tempRoot(t)
			src := filepath.Join(path, "src")
			tt.tree.write(t, src)

			var archive bytes.Buffer
			info, err := Dump(&archive, src)
			check("Dump", info, err)
			info, err = Verify(bytes.NewReader(archive.Bytes()))
			check("Verify", info, err)
			info, err = Verify(iotest.OneByteReader(bytes.NewReader(archive.Bytes())))
			check("Verify, a byte at a time", info, err)
			info, err = List(bytes.NewReader(archive.Bytes()), func(Entry) error { return nil })
			check("List", info, err)
			info, err = Restore(bytes.NewReader(archive.Bytes()), root, "a", RestoreOptions{MaxSize: tt.size})
			check("Restore", info, err)
			info, err = Restore(iotest.DataErrReader(iotest.OneByteReader(bytes.NewReader(archive.Bytes()))), root, "b", RestoreOptions{})
			check("Restore, a byte at a time", info, err)
			info, err = Dump(io.Discard, filepath.Join(path, "b"))
			check("Dump of what was restored", info, err)
			h := NewHasher()
			h.Write(archive.Bytes())
			check("Hasher", h.Info(), nil)
		})
	}
}

func TestList(t *testing.T) {
	var got []Entry
	info, err := List(bytes.NewReader(smallItem.archive()), func(e Entry) error {
		got = append(got, e)
		return nil
	})
	if err != nil || info.Size != smallSize {
		t.Fatal(info, err)
	}
	want := []Entry{
		{Path: "", Type: Directory},
		{Path: "abs", Type: Symlink, Target: "/nonexistent"},
		{Path: "bin", Type: Directory},
		{Path: "bin/hello", Type: Regular, Executable: true, Size: 21},
		{Path: "bin/hi", Type: Symlink, Target: "hello"},
		{Path: "dep", Type: Symlink, Target: "/gnu/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa1-ersatz-dep-1.0"},
		{Path: "share", Type: Directory},
		{Path: "share/UPPER", Type: Regular, Size: 1},
		{Path: "share/doc", Type: Directory},
		{Path: "share/doc/README", Type: Regular, Size: 920},
		{Path: "share/doc/empty", Type: Regular},
		{Path: "share/emptydir", Type: Directory},
		{Path: "share/lower-é", Type: Regular, Size: 10},
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v\nwant %+v", got, want)
	}
	for typ, want := range map[Type]string{Regular: "regular", Symlink: "symlink", Directory: "directory"} {
		if typ.String() != want {
			t.Errorf("got %s, want %s", typ, want)
		}
	}
}

func TestListStops(t *testing.T) {
	n := 0
	_, err := List(bytes.NewReader(smallItem.archive()), func(e Entry) error {
		if n++; n == 3 {
			return fs.ErrInvalid
		}
		return nil
	})
	if err != fs.ErrInvalid || n != 3 {
		t.Fatalf("%d calls, %v", n, err)
	}
}

// Random trees: the archive is the one that other code builds, and restoring
// gives the tree back.
func TestRoundTrip(t *testing.T) {
	rounds := 60
	if testing.Short() {
		rounds = 15
	}
	for seed := range uint64(rounds) {
		r := rand.New(rand.NewPCG(seed, 0))
		tree := randomTree(r, 1+r.IntN(120))
		want := tree.archive()
		root, path := memoryRoot(t)
		src := filepath.Join(path, "src")
		tree.write(t, src)
		var got bytes.Buffer
		info, err := Dump(&got, src)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if !bytes.Equal(got.Bytes(), want) {
			t.Fatalf("seed %d: archives differ", seed)
		}
		h := NewHasher()
		h.Write(want)
		if info != h.Info() {
			t.Fatalf("seed %d: Dump says %v, want %v", seed, info, h.Info())
		}
		read, err := Restore(iotest.HalfReader(&got), root, "dst", RestoreOptions{MaxSize: info.Size})
		if err != nil || read != info {
			t.Fatalf("seed %d: %v, %v", seed, read, err)
		}
		if again := readTree(t, filepath.Join(path, "dst")).archive(); !bytes.Equal(again, want) {
			t.Fatalf("seed %d: restored tree differs", seed)
		}
	}
}

// Nix's own tools write and read the same bytes.
func TestAgainstNix(t *testing.T) {
	nix, err := exec.LookPath("nix-store")
	if err != nil {
		t.Skip("nix-store is not installed")
	}
	r := rand.New(rand.NewPCG(7, 7))
	for name, tree := range map[string]node{
		"small": smallItem, "random": randomTree(r, 200), "file": {content: "x"}, "exec": {exec: true, content: "12345678"},
		"empty": {}, "link": {mode: fs.ModeSymlink, content: "to"}, "folder": {mode: fs.ModeDir},
	} {
		t.Run(name, func(t *testing.T) {
			_, path := tempRoot(t)
			src, dst := filepath.Join(path, "src"), filepath.Join(path, "dst")
			tree.write(t, src)
			var got bytes.Buffer
			if _, err := Dump(&got, src); err != nil {
				t.Fatal(err)
			}
			want, err := exec.Command(nix, "--dump", src).Output()
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Fatal("nix-store --dump writes another archive")
			}
			cmd := exec.Command(nix, "--restore", dst)
			cmd.Stdin = &got
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("nix-store --restore: %v: %s", err, out)
			}
			info, err := Dump(io.Discard, dst)
			if err != nil {
				t.Fatal(err)
			}
			h := NewHasher()
			h.Write(want)
			if info != h.Info() {
				t.Fatal("nix-store --restore makes another tree")
			}
		})
	}
}

func TestDumpEntryPoints(t *testing.T) {
	_, path := tempRoot(t)
	smallItem.write(t, filepath.Join(path, "d"))
	if err := os.Symlink("d", filepath.Join(path, "l")); err != nil {
		t.Fatal(err)
	}
	want, err := Dump(io.Discard, filepath.Join(path, "d"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Dump(io.Discard, filepath.Join(path, "d")+"/"); err != nil || got != want {
		t.Errorf("with a slash: %v, %v", got, err)
	}
	var b bytes.Buffer
	if _, err := Dump(&b, filepath.Join(path, "l")); err != nil || !bytes.Equal(b.Bytes(), build(magic, link("d"))) {
		t.Errorf("a link is not archived as one: %q, %v", b.Bytes(), err)
	}
	t.Chdir(path)
	if got, err := Dump(io.Discard, "d"); err != nil || got != want {
		t.Errorf("relative: %v, %v", got, err)
	}
	t.Chdir(filepath.Join(path, "d"))
	if got, err := Dump(io.Discard, "."); err != nil || got != want {
		t.Errorf("dot: %v, %v", got, err)
	}
}
