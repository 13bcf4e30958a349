package nar

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const errBusy = unix.EBUSY

// bind mounts a folder onto itself, which keeps it from being removed.
func bind(t *testing.T, path string) (unmount func()) {
	t.Helper()
	if err := unix.Mount(path, path, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("cannot mount: %v", err)
	}
	return func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}
}

func TestDumpRefuses(t *testing.T) {
	for name, make := range map[string]func(t *testing.T, path string) error{
		"fifo": func(_ *testing.T, p string) error { return unix.Mkfifo(p, 0o644) },
		"socket": func(t *testing.T, p string) error {
			t.Chdir(filepath.Dir(p)) // a socket's path may not be long
			l, err := net.Listen("unix", filepath.Base(p))
			if err == nil {
				t.Cleanup(func() { l.Close() })
			}
			return err
		},
		"device": func(t *testing.T, p string) error {
			err := unix.Mknod(p, unix.S_IFCHR|0o644, int(unix.Mkdev(1, 3)))
			if errors.Is(err, unix.EPERM) {
				t.Skip("needs root")
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, path := tempRoot(t)
			sub := filepath.Join(path, "src", "sub")
			if err := os.MkdirAll(sub, 0o755); err != nil {
				t.Fatal(err)
			}
			odd := filepath.Join(sub, "odd")
			if err := make(t, odd); err != nil {
				t.Fatal(err)
			}
			for _, p := range []string{odd, filepath.Join(path, "src")} {
				_, err := Dump(io.Discard, p)
				want := odd + ": not a file, directory or link"
				if err == nil || !strings.HasSuffix(err.Error(), want) {
					t.Errorf("got %v, want … %s", err, want)
				}
			}
		})
	}
}

func TestDumpMissing(t *testing.T) {
	if _, err := Dump(io.Discard, filepath.Join(t.TempDir(), "no")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v", err)
	}
}

func TestDumpUnreadable(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root can read everything")
	}
	_, path := tempRoot(t)
	if err := os.WriteFile(filepath.Join(path, "f"), nil, 0); err != nil {
		t.Fatal(err)
	}
	_, err := Dump(io.Discard, path)
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), path+"/f") {
		t.Fatalf("got %v", err)
	}
}

// trigger calls do when the first bytes arrive.
type trigger struct{ do func() }

func (w *trigger) Write(p []byte) (int, error) {
	if w.do != nil {
		w.do()
		w.do = nil
	}
	return len(p), nil
}

// A file that grows or shrinks between the look at its size and its end, which
// cannot have been read ahead.
func TestDumpChangedSize(t *testing.T) {
	const size = (ringSize + 2) * bufSize
	for _, to := range []int64{0, size - 1, size + 1, 2 * size} {
		_, path := tempRoot(t)
		p := filepath.Join(path, "f")
		if err := os.WriteFile(p, make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := Dump(&trigger{func() {
			if err := os.Truncate(p, to); err != nil {
				t.Error(err)
			}
		}}, path)
		if !errors.Is(err, errChanged) || !strings.Contains(err.Error(), p) {
			t.Errorf("from %d to %d bytes: %v", size, to, err)
		}
	}
}

// An entry that becomes another one after it was listed is an error, and does
// not lead elsewhere.
func TestDumpSwapped(t *testing.T) {
	const secret = "not part of the tree"
	folder := func(p string) error { return os.Mkdir(p, 0o755) }
	file := func(p string) error { return os.WriteFile(p, nil, 0o644) }
	link := func(p string) error { return os.Symlink("../outside", p) }
	fifo := func(p string) error { return unix.Mkfifo(p, 0o644) }
	for name, tt := range map[string]struct{ before, after func(string) error }{
		"folder to link": {folder, link}, "file to link": {file, link}, "link to file": {link, file}, "link to folder": {link, folder},
		"folder to file": {folder, file}, "file to folder": {file, folder}, "file to FIFO": {file, fifo}, "folder to FIFO": {folder, fifo},
	} {
		t.Run(name, func(t *testing.T) {
			_, path := tempRoot(t)
			src, z := filepath.Join(path, "src"), filepath.Join(path, "src", "z")
			if err := errors.Join(os.Mkdir(src, 0o755), tt.before(z),
				os.Mkdir(filepath.Join(path, "outside"), 0o755),
				os.WriteFile(filepath.Join(path, "outside", "f"), []byte(secret), 0o600),
				os.WriteFile(filepath.Join(src, "a"), make([]byte, (ringSize+2)*bufSize), 0o644)); err != nil {
				t.Fatal(err)
			}
			var b bytes.Buffer
			_, err := Dump(io.MultiWriter(&b, &trigger{func() {
				if err := errors.Join(os.Remove(z), tt.after(z)); err != nil {
					t.Error(err)
				}
			}}), src)
			if !errors.Is(err, errChanged) || !strings.Contains(err.Error(), z+": ") {
				t.Errorf("got %v", err)
			}
			if bytes.Contains(b.Bytes(), []byte(secret)) {
				t.Error("the link was followed")
			}
		})
	}
}

func TestDumpWriteError(t *testing.T) {
	_, path := tempRoot(t)
	smallItem.write(t, filepath.Join(path, "x"))
	big := filepath.Join(path, "big")
	if err := os.WriteFile(big, make([]byte, 3*bufSize), 0o644); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	pr, pw := io.Pipe()
	pr.CloseWithError(broken)
	for _, p := range []string{filepath.Join(path, "x"), big, path} {
		if _, err := Dump(pw, p); !errors.Is(err, broken) {
			t.Errorf("%s: %v", p, err)
		}
	}
	// An error of the writer that names a file is not an error of the tree.
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	if _, err := Dump(full, path); err == nil || err.Error() != "nar: dump: write: write /dev/full: no space left on device" {
		t.Errorf("got %v", err)
	}
}

// DumpAlone does what Dump does, by one goroutine.
func TestDumpAlone(t *testing.T) {
	_, path := tempRoot(t)
	smallItem.write(t, filepath.Join(path, "x"))
	if err := os.WriteFile(filepath.Join(path, "big"), bytes.Repeat([]byte("0123456"), bufSize), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"x", "big", ""} {
		var want, got bytes.Buffer
		info, err := Dump(&want, filepath.Join(path, name))
		if err != nil {
			t.Fatal(err)
		}
		before := runtime.NumGoroutine()
		alone, err := DumpAlone(writerFunc(func(p []byte) (int, error) {
			if n := runtime.NumGoroutine(); n > before {
				t.Errorf("%q: %d goroutines more", name, n-before)
			}
			return got.Write(p)
		}), filepath.Join(path, name))
		if err != nil || alone != info || !bytes.Equal(got.Bytes(), want.Bytes()) {
			t.Errorf("%q: %+v, %v, want %+v", name, alone, err, info)
		}
	}
	broken := errors.New("broken")
	fails := writerFunc(func([]byte) (int, error) { return 0, broken })
	if _, err := DumpAlone(fails, path); !errors.Is(err, broken) {
		t.Errorf("of the writer: %v", err)
	}
	if _, err := DumpAlone(io.Discard, filepath.Join(path, "no")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of the tree: %v", err)
	}
}

func TestDumpTooDeep(t *testing.T) {
	_, path := tempRoot(t)
	if err := os.MkdirAll(filepath.Join(path, "src"+strings.Repeat("/d", MaxDepth)), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := Dump(io.Discard, filepath.Join(path, "src"))
	if err == nil || !strings.HasSuffix(err.Error(), strings.Repeat("/d", MaxDepth)+": nested deeper than 256 directories") {
		t.Fatalf("got %v", err)
	}
	if _, err := Dump(io.Discard, filepath.Join(path, "src", "d")); err != nil {
		t.Fatal(err)
	}
}

// Of the permissions only the owner's right to execute a file counts.
func TestDumpExecutable(t *testing.T) {
	_, path := tempRoot(t)
	p := filepath.Join(path, "f")
	if err := os.WriteFile(p, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	for perm, want := range map[fs.FileMode]bool{0o644: false, 0o455: false, 0o611: false, 0o744: true, 0o500: true, 0o555: true} {
		if err := os.Chmod(p, perm); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if _, err := Dump(&b, p); err != nil || !bytes.Equal(b.Bytes(), node{content: "x", exec: want}.archive()) {
			t.Errorf("%v: %q, %v", perm, b.Bytes(), err)
		}
	}
}
