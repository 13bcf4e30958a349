package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// nobody returns an account without privileges, which only root can become.
func nobody(t *testing.T) account {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can change to another user")
	}
	who, err := lookupAccount("nobody")
	if err != nil {
		t.Skip("no user nobody:", err)
	}
	return who
}

func owner(t *testing.T, dir string) int {
	t.Helper()
	fi, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	return int(fi.Sys().(*syscall.Stat_t).Uid)
}

// TestOwn wants new and empty folders to be given away, and no others.
func TestOwn(t *testing.T) {
	who := nobody(t)
	top := t.TempDir()
	made, empty, full, other := filepath.Join(top, "a", "b"), filepath.Join(top, "empty"), filepath.Join(top, "full"), filepath.Join(top, "other")
	for _, dir := range []string{empty, filepath.Join(full, "something"), other} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(other, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	behind, link := filepath.Join(top, "behind"), filepath.Join(top, "link")
	if err := errors.Join(os.Mkdir(behind, 0o755), os.Symlink(behind, link)); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]int{link: 0, made: who.uid, empty: who.uid, full: 0, other: 12345} {
		if err := who.own(dir); err != nil || owner(t, dir) != want {
			t.Errorf("%s: belongs to %d, want %d; %v", dir, owner(t, dir), want, err)
		}
	}
	if err := who.own("/dev/null"); err == nil {
		t.Error("a file is taken for a folder")
	}
}

func TestNoUser(t *testing.T) {
	who, err := lookupAccount("")
	if err != nil || who.become() != nil || who.uid != os.Geteuid() {
		t.Errorf("%+v, %v", who, err)
	}
	dir := filepath.Join(t.TempDir(), "new")
	if err := who.own(dir); err != nil || owner(t, dir) != os.Geteuid() || who.canWrite(dir) != nil {
		t.Errorf("own folder: %v", err)
	}
	if err := who.canWrite(dir + "/none"); err == nil {
		t.Error("a folder that is not there can be written")
	}
}

func TestIsEmpty(t *testing.T) {
	dir := t.TempDir()
	if empty, err := isEmpty(dir); !empty || err != nil {
		t.Errorf("%v, %v", empty, err)
	}
	for i := range 3 {
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if empty, err := isEmpty(dir); empty || err != nil {
			t.Errorf("with %d files: %v, %v", i+1, empty, err)
		}
	}
	if _, err := isEmpty(filepath.Join(dir, "no")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
