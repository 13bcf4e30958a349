package nar

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRemoveAll(t *testing.T) {
	outside := t.TempDir()
	keep := filepath.Join(outside, "keep")
	if err := os.WriteFile(keep, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	mkdir := func(path string, perm fs.FileMode) error {
		return errors.Join(os.MkdirAll(path, 0o755), os.WriteFile(filepath.Join(path, "f"), nil, 0), os.Chmod(path, perm))
	}
	for name, make := range map[string]func(path string) error{
		"nothing":           func(p string) error { return nil },
		"file":              func(p string) error { return os.WriteFile(p, nil, 0o444) },
		"link to a folder":  func(p string) error { return os.Symlink(outside, p) },
		"dangling link":     func(p string) error { return os.Symlink("no", p) },
		"read-only folder":  func(p string) error { return mkdir(p, 0o555) },
		"unreadable folder": func(p string) error { return mkdir(p, 0o300) },
		"forbidden folder":  func(p string) error { return mkdir(p, 0) },
		"read-only folders": func(p string) error {
			return errors.Join(mkdir(filepath.Join(p, "a", "b"), 0o555), os.Chmod(filepath.Join(p, "a"), 0o555), os.Chmod(p, 0o555))
		},
		"links within": func(p string) error {
			return errors.Join(mkdir(p, 0o755), os.Symlink(outside, filepath.Join(p, "l")), os.Symlink("../..", filepath.Join(p, "m")), os.Chmod(p, 0o555))
		},
		"many entries": func(p string) error {
			errs := []error{os.Mkdir(p, 0o755)}
			for i := range 3000 {
				errs = append(errs, os.Symlink("x", filepath.Join(p, strings.Repeat("n", 1+i/100)+string(rune('0'+i%100)))))
			}
			return errors.Join(errs...)
		},
		"deep folders": func(p string) error {
			return mkdir(filepath.Join(p, strings.Repeat("d/", 500)), 0o555)
		},
	} {
		t.Run(name, func(t *testing.T) {
			root, path := tempRoot(t)
			if err := errors.Join(make(filepath.Join(path, "x")), os.WriteFile(filepath.Join(path, "y"), nil, 0)); err != nil {
				t.Fatal(err)
			}
			if err := RemoveAll(root, "x"); err != nil {
				t.Fatal(err)
			}
			wantEmpty(t, path, "y")
		})
	}
	if _, err := os.Stat(keep); err != nil {
		t.Errorf("a link was followed: %v", err)
	}
}

// A file that the system keeps.
func TestRemoveAllForbidden(t *testing.T) {
	proc, err := os.OpenRoot("/proc")
	if err != nil {
		t.Skip(err)
	}
	defer proc.Close()
	if err := RemoveAll(proc, "version"); !errors.Is(err, fs.ErrPermission) {
		t.Fatalf("got %v", err)
	}
}

// What cannot be removed is named; the rest goes.
func TestRemoveAllGoesOn(t *testing.T) {
	path := mountSmall(t, "size=64k")
	root := openRoot(t, path)
	for _, d := range []string{"x/a", "x/busy", "x/z"} {
		if err := os.MkdirAll(filepath.Join(path, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busy := filepath.Join(path, "x", "busy")
	unmount := bind(t, busy)
	err := RemoveAll(root, "x")
	if !errors.Is(err, errBusy) || !strings.Contains(err.Error(), "remove x/busy: ") {
		t.Errorf("got %v", err)
	}
	wantEmpty(t, filepath.Join(path, "x"), "busy")
	unmount()
	if err := RemoveAll(root, "x"); err != nil {
		t.Error(err)
	}
	wantEmpty(t, path)
}
