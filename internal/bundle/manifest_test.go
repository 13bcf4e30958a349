package bundle

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
	"testing"

	"ersatz/eris"
)

// parse reads all of a manifest.
func parse(b []byte) (list []entry, err error) {
	m, err := readManifest(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	for {
		e, err := m.next()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return list, err
		}
		list = append(list, e)
	}
}

// The text of a manifest, as docs/bundles.md has it.
func TestManifest(t *testing.T) {
	x := newThing(t, 1, 3000, "zstd")
	text := string(x.signed(t))
	want := "ersatz-bundle-1\n\nURN: " + x.rc.URN() + "\nFormat: application/x-nix-archive+zstd\nNarinfo: " + strconv.Itoa(len(text)) + "\n\n" + text
	if got := string(manifestOf(t, x)); got != want {
		t.Errorf("manifest is\n%s, not\n%s", got, want)
	}
	list, err := parse([]byte(want + want[len(magic):]))
	if err != nil || len(list) != 2 || string(list[1].text) != text || list[1].content.URN() != x.rc.URN() || list[1].method.Name != "zstd" {
		t.Errorf("%+v, %v", list, err)
	}
	if list, err := parse([]byte(magic)); err != nil || len(list) != 0 {
		t.Errorf("without entries: %v, %v", list, err)
	}
}

func TestManifestMalformed(t *testing.T) {
	x := newThing(t, 1, 3000, "zstd")
	good := string(manifestOf(t, x))
	for name, c := range map[string]struct{ old, new string }{
		"order":              {"URN: ", "Format: "},
		"lower case":         {"URN: urn:eris:B", "URN: urn:eris:b"},
		"unknown format":     {"x-nix-archive+zstd", "x-nix-archive+rar"},
		"a level":            {"x-nix-archive+zstd", "x-nix-archive+zstd-19"},
		"no number":          {"Narinfo: ", "Narinfo: x"},
		"another spelling":   {"Narinfo: ", "Narinfo: 0"},
		"negative":           {"Narinfo: ", "Narinfo: -"},
		"too long":           {"Narinfo: ", "Narinfo: 99999"},
		"no empty line":      {"\n\nStorePath", "\nStorePath"},
		"more than it has":   {"References", "Referenc"},
		"carriage return":    {"zstd\n", "zstd\r\n"},
		"another field":      {"Format: ", "Extra: 1\nFormat: "},
		"a line without end": {"URN: ", "URN: " + strings.Repeat("x", 1<<16)},
	} {
		text := strings.Replace(good, c.old, c.new, 1)
		if text == good {
			t.Fatalf("%s: nothing was changed", name)
		}
		if _, err := parse([]byte(text)); !errors.Is(err, eris.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var many bytes.Buffer
	many.WriteString(magic)
	for range MaxItems + 1 {
		many.WriteString("URN: " + x.rc.URN() + "\nFormat: application/x-nix-archive\nNarinfo: 0\n\n")
	}
	if list, err := parse(many.Bytes()); len(list) != MaxItems || !errors.Is(err, eris.ErrCorrupt) {
		t.Errorf("%d entries, %v", len(list), err)
	}
}

// FuzzManifest: what is read is printed again byte for byte.
func FuzzManifest(f *testing.F) {
	x := newThing(f, 1, 3000, "zstd")
	good := manifestOf(f, x)
	for _, seed := range [][]byte{
		[]byte(magic), good, append(bytes.Clone(good), good[len(magic):]...), manifestOf(f, newThing(f, 2, 10, "none").unsigned()), good[:100],
		[]byte(magic + "URN: " + x.rc.URN() + "\nFormat: application/x-nix-archive\nNarinfo: 0\n\n"),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := parse(b)
		if err != nil {
			if !errors.Is(err, eris.ErrCorrupt) && !errors.Is(err, ErrNoManifest) {
				t.Fatal(err)
			}
			return
		}
		printed := []byte(magic)
		for _, e := range list {
			printed = e.append(printed)
		}
		if !bytes.Equal(printed, b) {
			t.Fatalf("%q is read, and printed as %q", b, printed)
		}
	})
}
