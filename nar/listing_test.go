package nar

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// appendDirent appends what getdents64 gives for an entry.
func appendDirent(b []byte, name string, typ uint8) []byte {
	size := (19 + len(name) + 1 + 7) &^ 7
	b = append(b, make([]byte, 16)...)
	b = binary.NativeEndian.AppendUint16(b, uint16(size))
	b = append(append(b, typ), name...)
	return append(b, make([]byte, size-19-len(name))...)
}

func TestParseDirents(t *testing.T) {
	good := appendDirent(appendDirent(appendDirent(appendDirent(nil, ".", unix.DT_DIR), "b", unix.DT_REG), "..", unix.DT_DIR), "...", unix.DT_UNKNOWN)
	var l lister
	if err := l.parse(good); err != nil {
		t.Fatal(err)
	}
	if want := []dirent{{typ: unix.DT_REG, size: 1}, {typ: unix.DT_UNKNOWN, size: 3}}; string(l.names) != "b..." || !reflect.DeepEqual(l.entries, want) {
		t.Errorf("got %q, %v", l.names, l.entries)
	}
	withSize := func(n uint16) []byte {
		b := bytes.Clone(good)
		binary.NativeEndian.PutUint16(b[16:], n)
		return b
	}
	for name, b := range map[string][]byte{
		"short":       good[:18],
		"no size":     withSize(0),
		"header only": withSize(19),
		"beyond":      withSize(uint16(len(good) + 1)),
		"no name":     appendDirent(nil, "", unix.DT_REG),
		"no NUL":      bytes.ReplaceAll(appendDirent(nil, "abcd", unix.DT_REG), []byte("abcd\x00"), []byte("abcde")),
	} {
		if err := new(lister).parse(b); !errors.Is(err, errDirents) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseDirents(f *testing.F) {
	f.Add([]byte{})
	f.Add(appendDirent(nil, "a", unix.DT_REG))
	f.Add(appendDirent(appendDirent(nil, "..", unix.DT_DIR), "longer-name", unix.DT_LNK))
	f.Add(appendDirent(nil, "", 0))
	f.Add(appendDirent(nil, "cut", 0)[:20])
	f.Fuzz(func(t *testing.T, b []byte) {
		var l lister
		if l.parse(b) != nil {
			return
		}
		sum := 0
		for _, e := range l.entries {
			sum += e.size
			if e.size == 0 {
				t.Fatal("an entry without a name")
			}
		}
		if sum != len(l.names) || bytes.IndexByte(l.names, 0) >= 0 {
			t.Fatalf("names %q of %d bytes", l.names, sum)
		}
	})
}

// A directory that the kernel lists in several parts, in an order of its own.
func TestDumpWideDirectory(t *testing.T) {
	tree := node{mode: os.ModeDir}
	for i := range 3 * direntSize / 256 {
		name := fmt.Sprintf("%03d", i*37%1000) + strings.Repeat("n", MaxName-3)
		tree.entries = append(tree.entries, entryNode{name, node{content: name[:i%9]}})
	}
	_, path := tempRoot(t)
	src := filepath.Join(path, "src")
	tree.write(t, src)
	var got bytes.Buffer
	if _, err := Dump(&got, src); err != nil || !bytes.Equal(got.Bytes(), tree.archive()) {
		t.Fatalf("another archive: %v", err)
	}
}

// Only the directories around an entry are remembered.
func TestListerForgets(t *testing.T) {
	path := t.TempDir()
	for i := range 3 {
		if err := os.WriteFile(filepath.Join(path, fmt.Sprint(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	var l lister
	for depth := range 4 {
		if err := l.push(int(dir.Fd())); err != nil {
			t.Fatal(err)
		}
		if len(l.entries) != 3*(depth+1) || l.entries[3*depth].name != "0" || l.entries[3*depth].typ != unix.DT_REG {
			t.Errorf("%d: %v", depth, l.entries)
		}
		if _, err := dir.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
	}
	l.pop(3)
	if len(l.entries) != 3 || l.entries[:4][3].name != "" {
		t.Errorf("left: %v", l.entries[:4])
	}
}
