package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return strings.Join(list, " ")
}

func fill(s string) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.WriteString(w, s)
		return err
	}
}

func TestWriteFile(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for i, perm := range []fs.FileMode{0o644, 0o444, 0o600} {
		want := fmt.Sprint("content ", i)
		if err := WriteFile(path, perm, fill(want)); err != nil {
			t.Fatal(err)
		}
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := get(t, path); got != want || fi.Mode().Perm() != perm {
			t.Fatalf("%q, %v, want %q, %v", got, fi.Mode(), want, perm)
		}
	}
	if got := names(t, dir); got != "f" {
		t.Fatalf("folder holds %s", got)
	}
}

func TestWriteFileFillFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	put(t, path, "old")
	broken := errors.New("broken")
	err := WriteFile(path, 0o644, func(w io.Writer) error {
		return errors.Join(fill("new")(w), broken)
	})
	if !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
	if got := names(t, dir) + " " + get(t, path); got != "f old" {
		t.Fatalf("left %s", got)
	}
}

func TestFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	f, err := Create(path, 0o444)
	if err != nil {
		t.Fatal(err)
	}
	if err := fill("abcdef")(f); err != nil {
		t.Fatal(err)
	}
	if base := filepath.Base(f.TempName()); !strings.HasPrefix(base, TempPrefix) || names(t, dir) != base {
		t.Fatalf("temporary file %s, folder holds %s", base, names(t, dir))
	}
	var b [3]byte
	if _, err := f.ReadAt(b[:], 2); err != nil || string(b[:]) != "cde" {
		t.Fatalf("ReadAt: %q, %v", b, err)
	}
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := f.Abort(); err != nil {
		t.Fatalf("Abort after Commit: %v", err)
	}
	if err := f.Commit(); !errors.Is(err, fs.ErrClosed) {
		t.Fatalf("second Commit: %v", err)
	}
	if get(t, path) != "abcdef" || names(t, dir) != "f" {
		t.Fatalf("folder holds %s", names(t, dir))
	}
}

func TestAbort(t *testing.T) {
	dir := t.TempDir()
	f, err := Create(filepath.Join(dir, "f"), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := f.Abort(); err != nil {
			t.Fatal(err)
		}
	}
	if got := names(t, dir); got != "" {
		t.Fatalf("folder holds %s", got)
	}
}

func TestCreateWithoutFolder(t *testing.T) {
	if _, err := Create(filepath.Join(t.TempDir(), "no", "f"), 0o644); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v", err)
	}
}

func TestRenameRemove(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "d", "b")
	if err := MkdirAll(filepath.Dir(b), 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, a, "a")
	put(t, b, "b")
	if err := Rename(a, b); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir) + " " + get(t, b); got != "d a" {
		t.Fatalf("got %s", got)
	}
	if err := Remove(b); err != nil {
		t.Fatal(err)
	}
	if err := Remove(b); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("second Remove: %v", err)
	}
}

func TestMkdirAll(t *testing.T) {
	dir := t.TempDir()
	var synced []string
	defer SetFaultForTest(func(op, path string) error {
		if op == "syncdir" {
			rel, _ := filepath.Rel(dir, path)
			synced = append(synced, rel)
		}
		return nil
	})()
	for range 2 {
		if err := MkdirAll(filepath.Join(dir, "a", "b", "c"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Join(synced, " "); got != ". a a/b" {
		t.Fatalf("synced %s", got)
	}
	put(t, filepath.Join(dir, "file"), "")
	for _, p := range []string{"file", "file/x"} {
		if err := MkdirAll(filepath.Join(dir, p), 0o755); !errors.Is(err, syscall.ENOTDIR) {
			t.Errorf("MkdirAll(%s): %v", p, err)
		}
	}
}

func TestSweepTemp(t *testing.T) {
	dir := t.TempDir()
	cut := time.Now().Add(-time.Hour)
	for _, name := range []string{".tmp-old", ".tmp-new", "old", ".tmpold"} {
		path := filepath.Join(dir, name)
		put(t, path, name)
		if strings.HasSuffix(name, "old") {
			if err := os.Chtimes(path, time.Time{}, cut.Add(-time.Second)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Mkdir(filepath.Join(dir, ".tmp-folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := SweepTemp(dir, cut); err != nil {
		t.Fatal(err)
	}
	if got, want := names(t, dir), ".tmp-folder .tmp-new .tmpold old"; got != want {
		t.Fatalf("left %s, want %s", got, want)
	}
	if err := SweepTemp(filepath.Join(dir, "no"), cut); err != nil {
		t.Fatal(err)
	}
}

// A large folder is read in parts, between which the sweep can be ended.
func TestSweepTempIf(t *testing.T) {
	dir := t.TempDir()
	for i := range 3000 {
		put(t, filepath.Join(dir, fmt.Sprint(TempPrefix, i)), "")
	}
	enough := errors.New("enough")
	pauses := 0
	always := func(time.Time) bool { return true }
	err := SweepTempIf(dir, always, func() error { pauses++; return enough })
	if rest := len(strings.Fields(names(t, dir))); !errors.Is(err, enough) || pauses != 1 || rest == 0 || rest > 2000 {
		t.Errorf("%v after %d pauses, %d files left", err, pauses, rest)
	}
	if err := SweepTempIf(dir, always, func() error { pauses++; return nil }); err != nil || names(t, dir) != "" || pauses < 2 {
		t.Errorf("%v after %d pauses, left %s", err, pauses, names(t, dir))
	}
}

func TestLink(t *testing.T) {
	for _, cannot := range []error{nil, syscall.EXDEV, syscall.EPERM, syscall.EMLINK, syscall.ENOTSUP} {
		t.Run(fmt.Sprint(cannot), func(t *testing.T) {
			dir := t.TempDir()
			src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
			put(t, src, "content")
			if err := os.Chmod(src, 0o440); err != nil {
				t.Fatal(err)
			}
			defer SetFaultForTest(func(op, path string) error {
				if op == "link" {
					return cannot
				}
				return nil
			})()
			if err := Link(src, dst); err != nil {
				t.Fatal(err)
			}
			a, err := os.Stat(src)
			if err != nil {
				t.Fatal(err)
			}
			b, err := os.Stat(dst)
			if err != nil {
				t.Fatal(err)
			}
			if os.SameFile(a, b) != (cannot == nil) || b.Mode() != a.Mode() || get(t, dst) != "content" {
				t.Fatalf("same file %v, mode %v, content %q", os.SameFile(a, b), b.Mode(), get(t, dst))
			}
			put(t, filepath.Join(dir, "other"), "other")
			if err := Link(filepath.Join(dir, "other"), dst); !errors.Is(err, fs.ErrExist) {
				t.Fatalf("onto an existing file: %v", err)
			}
			if get(t, dst) != "content" || names(t, dir) != "dst other src" {
				t.Fatalf("folder holds %s", names(t, dir))
			}
		})
	}
}

func TestLinkMissing(t *testing.T) {
	dir := t.TempDir()
	if err := Link(filepath.Join(dir, "no"), filepath.Join(dir, "dst")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v", err)
	}
}

// Another device, for true: /dev/shm is a tmpfs.
func TestLinkAcrossDevices(t *testing.T) {
	shm, err := os.MkdirTemp("/dev/shm", "durable-test-")
	if err != nil {
		t.Skipf("no second file system: %v", err)
	}
	defer os.RemoveAll(shm)
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "src"), filepath.Join(shm, "dst")
	put(t, src, "content")
	if err := Link(src, dst); err != nil {
		t.Fatal(err)
	}
	if get(t, dst) != "content" || names(t, shm) != "dst" {
		t.Fatalf("folder holds %s", names(t, shm))
	}
}
