package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Each operation of each function fails in turn, and once more together with
// all after it, as when a process dies there. What a reader then finds is the
// old content or the new, whole, and nothing else but what SweepTemp removes.
func TestFaults(t *testing.T) {
	const before, after = "old content", "new content"
	noLinks := func(op string) error {
		if op == "link" {
			return syscall.EXDEV
		}
		return nil
	}
	for _, tt := range []struct {
		name    string
		do      func(dir string) error
		ops     int // the operations of a run without faults
		always  func(op string) error
		missing bool // dst does not exist before
		gone    bool // dst does not exist after
		src     bool // src may go
	}{
		{name: "WriteFile", ops: 7, do: func(dir string) error {
			return WriteFile(filepath.Join(dir, "dst"), 0o644, fill(after))
		}},
		{name: "WriteFile new", ops: 7, missing: true, do: func(dir string) error {
			return WriteFile(filepath.Join(dir, "dst"), 0o644, fill(after))
		}},
		{name: "Rename", ops: 2, src: true, do: func(dir string) error {
			return Rename(filepath.Join(dir, "src"), filepath.Join(dir, "dst"))
		}},
		{name: "Remove", ops: 2, gone: true, do: func(dir string) error {
			return Remove(filepath.Join(dir, "dst"))
		}},
		{name: "Link", ops: 3, missing: true, do: func(dir string) error {
			return Link(filepath.Join(dir, "src"), filepath.Join(dir, "dst"))
		}},
		{name: "Link by copy", ops: 10, missing: true, always: noLinks, do: func(dir string) error {
			return Link(filepath.Join(dir, "src"), filepath.Join(dir, "dst"))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			run := func(t *testing.T, broken func(n int) bool) (int, error) {
				dir := t.TempDir()
				src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
				put(t, src, after)
				if !tt.missing {
					put(t, dst, before)
				}
				n := 0
				restore := SetFaultForTest(func(op, path string) error {
					n++
					if broken(n) {
						return fmt.Errorf("operation %d, %s: %w", n, op, syscall.EIO)
					}
					if tt.always != nil {
						return tt.always(op)
					}
					return nil
				})
				err := tt.do(dir)
				restore()
				if sweepErr := SweepTemp(dir, time.Now().Add(time.Hour)); sweepErr != nil {
					t.Fatal(sweepErr)
				}
				got, readErr := os.ReadFile(dst)
				switch {
				case errors.Is(readErr, fs.ErrNotExist):
					if !tt.missing && !tt.gone {
						t.Errorf("%v: the file is gone", err)
					}
				case readErr != nil:
					t.Fatal(readErr)
				case string(got) != after && (tt.missing || string(got) != before):
					t.Errorf("%v: a reader finds %q", err, got)
				case err == nil && string(got) != after:
					t.Errorf("no error, but a reader finds %q", got)
				}
				for _, name := range strings.Fields(names(t, dir)) {
					if name != "src" && name != "dst" {
						t.Errorf("%v: left %s", err, name)
					}
				}
				if _, err := os.Stat(src); err != nil && !tt.src {
					t.Error(err)
				}
				return n, err
			}
			ops, err := run(t, func(int) bool { return false })
			if err != nil || ops != tt.ops {
				t.Fatalf("without a fault: %d operations, want %d; %v", ops, tt.ops, err)
			}
			for i := 1; i <= ops; i++ {
				if _, err := run(t, func(n int) bool { return n == i }); !errors.Is(err, syscall.EIO) {
					t.Errorf("operation %d broken: %v", i, err)
				}
				if _, err := run(t, func(n int) bool { return n >= i }); !errors.Is(err, syscall.EIO) {
					t.Errorf("operations from %d broken: %v", i, err)
				}
			}
		})
	}
}

// An error that this process sees and survives leaves no temporary file.
func TestFaultsLeaveNothing(t *testing.T) {
	for _, broken := range []string{"create", "write", "chmod", "sync", "close", "rename", "syncdir"} {
		t.Run(broken, func(t *testing.T) {
			dir := t.TempDir()
			defer SetFaultForTest(func(op, path string) error {
				if op == broken {
					return syscall.ENOSPC
				}
				return nil
			})()
			if err := WriteFile(filepath.Join(dir, "f"), 0o644, fill("x")); !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("got %v", err)
			}
			want := ""
			if broken == "syncdir" {
				want = "f"
			}
			if got := names(t, dir); got != want {
				t.Fatalf("left %q", got)
			}
		})
	}
}

func TestMkdirAllFaults(t *testing.T) {
	for _, broken := range []string{"mkdir", "syncdir"} {
		restore := SetFaultForTest(func(op, path string) error {
			if op == broken {
				return syscall.EIO
			}
			return nil
		})
		err := MkdirAll(filepath.Join(t.TempDir(), "a", "b"), 0o755)
		restore()
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: %v", broken, err)
		}
	}
}

func TestSweepTempGoesOn(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{".tmp-1", ".tmp-2", ".tmp-3"} {
		put(t, filepath.Join(dir, name), "")
	}
	defer SetFaultForTest(func(op, path string) error {
		if filepath.Base(path) == ".tmp-1" {
			return syscall.EIO
		}
		return nil
	})()
	if err := SweepTemp(dir, time.Now().Add(time.Hour)); !errors.Is(err, syscall.EIO) {
		t.Errorf("got %v", err)
	}
	if got := names(t, dir); got != ".tmp-1" {
		t.Errorf("left %s", got)
	}
}

func TestSetFaultForTestRestores(t *testing.T) {
	restore := SetFaultForTest(func(op, path string) error { return syscall.EIO })
	restore()
	if err := WriteFile(filepath.Join(t.TempDir(), "f"), 0o644, fill("x")); err != nil {
		t.Fatal(err)
	}
}
