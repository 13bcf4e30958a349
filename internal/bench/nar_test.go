package bench

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ersatz/internal/realguix"
	"ersatz/nar"
)

// packageTree makes a small tree in a folder whose items are removed with it.
func packageTree(t *testing.T) (root *os.Root, dir, tree string) {
	t.Helper()
	dir = t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(nar.RemoveAll(root, "copy"), root.Close()); err != nil {
			t.Error(err)
		}
	})
	tree = filepath.Join(dir, "tree")
	if err := realguix.MakePackage(tree, 1, 120, 1_000_000); err != nil {
		t.Fatal(err)
	}
	return root, dir, tree
}

// TestWaysOfNars: what is compared must do the same.
func TestWaysOfNars(t *testing.T) {
	root, dir, tree := packageTree(t)
	var archive, other bytes.Buffer
	want, err := nar.Dump(&archive, tree)
	if err != nil {
		t.Fatal(err)
	}
	if err := goNixDump(&other, tree); err != nil || !bytes.Equal(other.Bytes(), archive.Bytes()) {
		t.Errorf("go-nix dumps otherwise: %v", err)
	}
	if hashOf(archive.Bytes()) != want {
		t.Error("another hash")
	}
	files, err := bareList(tree)
	if err != nil {
		t.Fatal(err)
	}
	dst := filepath.Join(dir, "copy")
	for name, restore := range map[string]func() error{
		"go-nix": func() error { return goNixRestore(bytes.NewReader(archive.Bytes()), dst) },
		"bare":   func() error { return bareWrite(dst, files) },
	} {
		if err := restore(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got, err := nar.Dump(io.Discard, dst); err != nil || got != want {
			t.Errorf("%s: another tree: %v", name, err)
		}
		checkMetadata(t, dst)
		if err := restore(); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s over what is there: %v", name, err)
		}
		if err := nar.RemoveAll(root, "copy"); err != nil {
			t.Fatal(err)
		}
	}
	if err := bareRead(tree); err != nil {
		t.Error(err)
	}
	if err := bareRead(dst); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing is there: %v", err)
	}
	if err := goNixRestore(strings.NewReader("no archive at all"), dst); err == nil {
		t.Error("no archive: no error")
	}
}

func checkMetadata(t *testing.T, path string) {
	t.Helper()
	err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		if fi.ModTime().Unix() != 1 || d.Type() != fs.ModeSymlink && fi.Mode().Perm()&0o222 != 0 {
			t.Errorf("%s: %v, %v", p, fi.Mode(), fi.ModTime())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestMeasureNar(t *testing.T) {
	o := Options{Runs: 1, Log: slog.New(slog.DiscardHandler)}
	var made string
	table, err := measureNar(t.Context(), o, mib, "little", func(path string) error {
		made = filepath.Dir(path)
		return realguix.MakePackage(path, 1, 120, 1_000_000)
	})
	if err != nil {
		t.Fatal(err)
	}
	if text := table.Markdown(); strings.Contains(text, "–") || len(table.Rows) != 8 {
		t.Errorf("figures are missing:\n%s", text)
	}
	broken := errors.New("broken")
	if _, err := measureNar(t.Context(), o, mib, "", func(string) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(made); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder is left: %v", err)
	}
	if !slices.Contains(Names(), "nar") {
		t.Error("there is no such group")
	}
}
